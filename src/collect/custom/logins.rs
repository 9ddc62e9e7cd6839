//! Remote logins: sessions of systemd-logind (`/run/systemd/sessions`, a file of `KEY=value` lines per session), else the
//! records of login programs (`/run/utmp`, utmp(5)).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::collect::CollectError;
use crate::model::{Measured, Missing};

/// `ut_type` of a logged-in user.
const USER_PROCESS: i16 = 7;
/// The two sizes of a record: with 32-bit times (x86-64 and all 32-bit ones of glibc and musl), and with 64-bit ones.
const RECORD_SIZES: [usize; 2] = [384, 400];
/// Offsets in a record: `ut_type`, `ut_pid`, `ut_line`, `ut_host`. The same in both sizes.
const PID: std::ops::Range<usize> = 4..8;
const LINE: std::ops::Range<usize> = 8..40;
const HOST: std::ops::Range<usize> = 76..332;
/// The most bytes of `utmp` that are read.
const MAX_UTMP: usize = 1 << 20;

/// A session begun from another host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Login {
    /// Tells it from every other session of this boot.
    pub session: String,
    /// Where it is from, when that is an address.
    pub from: Option<IpAddr>,
}

/// The remote logins at this instant; `run` is `/run`.
///
/// # Errors
/// There are neither sessions nor records, or they cannot be read.
pub fn logins(run: &Path) -> Measured<BTreeSet<Login>> {
    let sessions = run.join("systemd/sessions");
    match fs::read_dir(&sessions) {
        Ok(entries) => Ok(entries
            .flatten()
            // A session that ended meanwhile is none.
            .filter_map(|entry| {
                let name = entry
                    .file_name()
                    .into_string()
                    .ok()
                    .filter(|name| !name.ends_with(".ref"))?;
                session(&name, &fs::read_to_string(entry.path()).ok()?)
            })
            .collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => records(&run.join("utmp")),
        Err(error) => Err(CollectError::from_io(sessions.display().to_string(), error).into()),
    }
}

fn session(name: &str, text: &str) -> Option<Login> {
    let field = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.map(str::trim)
    };
    let alive = field("STATE") != Some("closing");
    let user = matches!(
        field("CLASS"),
        None | Some("user" | "user-early" | "user-incomplete" | "greeter")
    );
    (field("REMOTE") == Some("1") && alive && user).then(|| Login {
        session: name.to_owned(),
        from: field("REMOTE_HOST").and_then(address),
    })
}

fn address(host: &str) -> Option<IpAddr> {
    let plain = host.split('%').next().unwrap_or(host);
    plain.parse().ok().map(|address: IpAddr| address.to_canonical())
}

fn records(path: &Path) -> Measured<BTreeSet<Login>> {
    use std::io::Read;
    let failed = |error| Missing::from(CollectError::from_io(path.display().to_string(), error));
    let limit = u64::try_from(MAX_UTMP).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(failed)?;
    file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    parse_records(&bytes).ok_or_else(|| {
        let words = format!("{} bytes are no whole number of records", bytes.len());
        CollectError::malformed(path.display().to_string(), words).into()
    })
}

fn parse_records(bytes: &[u8]) -> Option<BTreeSet<Login>> {
    if bytes.is_empty() {
        return Some(BTreeSet::new());
    }
    // A length that fits both (48 records of 400 or 50 of 384) is told by the types: a wrong grid hits text or times.
    let sound = |size: &usize| {
        let known = |record: &[u8]| record_type(record).is_some_and(|kind| (0..=9).contains(&kind));
        bytes.len().is_multiple_of(*size) && bytes.chunks_exact(*size).all(known)
    };
    let size = RECORD_SIZES.into_iter().find(sound)?;
    Some(bytes.chunks_exact(size).filter_map(record).collect())
}

fn record_type(record: &[u8]) -> Option<i16> {
    Some(i16::from_ne_bytes([*record.first()?, *record.get(1)?]))
}

fn record(record: &[u8]) -> Option<Login> {
    let text = |range| {
        let field: &[u8] = record.get(range)?;
        let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
        Some(String::from_utf8_lossy(field.get(..end)?).into_owned())
    };
    let host = text(HOST)?;
    // A session of this host has no host, or an X display such as ":0".
    if record_type(record)? != USER_PROCESS || host.is_empty() || host.starts_with(':') {
        return None;
    }
    let pid = i32::from_ne_bytes(record.get(PID)?.try_into().ok()?);
    Some(Login {
        session: format!("{}-{pid}", text(LINE)?),
        from: address(&host),
    })
}

/// For `fuzz/`.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(data: &[u8]) {
    let _ = (parse_records(data), session("1", &String::from_utf8_lossy(data)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Reason;

    fn entry(size: usize, kind: i16, pid: i32, line: &str, host: &str) -> Vec<u8> {
        let mut record = vec![0_u8; size];
        record[..2].copy_from_slice(&kind.to_ne_bytes());
        record[PID].copy_from_slice(&pid.to_ne_bytes());
        record[LINE.start..LINE.start + line.len()].copy_from_slice(line.as_bytes());
        record[HOST.start..HOST.start + host.len()].copy_from_slice(host.as_bytes());
        record
    }

    fn shown(logins: &BTreeSet<Login>) -> Vec<(String, Option<String>)> {
        let shown = |login: &Login| (login.session.clone(), login.from.map(|from| from.to_string()));
        logins.iter().map(shown).collect()
    }

    #[test]
    fn sessions_of_logind_from_other_hosts_count() {
        let run = tempfile::tempdir().unwrap();
        let sessions = run.path().join("systemd/sessions");
        fs::create_dir_all(&sessions).unwrap();
        for (name, text) in [
            ("1", "UID=0\nREMOTE=0\nSTATE=active\nCLASS=user\n"),
            (
                "7",
                "UID=0\nREMOTE=1\nREMOTE_HOST=192.0.2.7\nSTATE=active\nCLASS=user\n",
            ),
            ("8", "REMOTE=1\nREMOTE_HOST=fe80::1%eth0\nSTATE=online\nCLASS=user\n"),
            ("9", "REMOTE=1\nREMOTE_HOST=host.example\n"),
            ("c1", "REMOTE=1\nSTATE=closing\nCLASS=user\n"),
            ("c2", "REMOTE=1\nSTATE=active\nCLASS=manager\n"),
            ("7.ref", ""),
        ] {
            fs::write(sessions.join(name), text).unwrap();
        }
        let found = logins(run.path()).unwrap();
        assert_eq!(
            shown(&found),
            [
                ("7".to_owned(), Some("192.0.2.7".to_owned())),
                ("8".to_owned(), Some("fe80::1".to_owned())),
                ("9".to_owned(), None),
            ]
        );
    }

    #[test]
    fn records_of_either_size_are_read_and_others_refused() {
        for size in RECORD_SIZES {
            let bytes = [
                entry(size, 2, 0, "~", "6.1.0-kernel"),
                entry(size, 7, 100, "tty1", ""),
                entry(size, 7, 101, "tty7", ":0"),
                entry(size, 7, 102, "pts/0", "192.0.2.7"),
                entry(size, 8, 103, "pts/1", "192.0.2.8"),
                entry(size, 7, 104, "pts/2", &"h".repeat(256)),
            ]
            .concat();
            let found = shown(&parse_records(&bytes).unwrap());
            let expected = [
                ("pts/0-102".to_owned(), Some("192.0.2.7".to_owned())),
                ("pts/2-104".to_owned(), None),
            ];
            assert_eq!(found, expected, "{size}");
            assert_eq!(parse_records(&bytes[1..]), None);
        }
        assert_eq!(parse_records(&[0xff; 384]), None);
        assert_eq!(parse_records(&[]), Some(BTreeSet::new()));
    }

    #[test]
    fn a_host_that_keeps_neither_is_missing_and_not_zero() {
        let run = tempfile::tempdir().unwrap();
        assert_eq!(logins(run.path()).unwrap_err().reason, Reason::Absent);
        fs::write(run.path().join("utmp"), "x").unwrap();
        assert_eq!(logins(run.path()).unwrap_err().reason, Reason::Malformed);
        fs::write(run.path().join("utmp"), entry(384, 7, 1, "pts/0", "192.0.2.7")).unwrap();
        assert_eq!(logins(run.path()).unwrap().len(), 1);
    }
}
