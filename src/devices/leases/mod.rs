//! DHCP lease files: which name a device gave itself, and which address it was given.

mod dnsmasq;
mod rule;
mod watch;

use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::str::FromStr;

use serde::Serialize;

use crate::model::{MacAddress, Measured, Missing, Reason, ThingName, UnixTime};

pub use rule::{LeaseRule, LeaseRuleError};
pub use watch::LeaseWatch;

/// The most that is read of one file, in bytes.
const MAX_BYTES: usize = 4 << 20;
/// The most lines read of one file.
const MAX_LINES: usize = 100_000;
/// Skipped lines kept with their reason; the rest are only counted.
const KEPT_SKIPS: usize = 16;

/// How a lease file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseFormat {
    /// dnsmasq's lease database (`src/lease.c` of dnsmasq): DHCPv4 lines, then a `duid` line, then DHCPv6 lines.
    Dnsmasq,
}

/// A format this program does not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no lease file format (known: dnsmasq)")]
pub struct LeaseFormatError(pub String);

impl FromStr for LeaseFormat {
    type Err = LeaseFormatError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "dnsmasq" => Ok(Self::Dnsmasq),
            other => Err(LeaseFormatError(other.chars().take(64).collect())),
        }
    }
}

/// One lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    /// When it ends; `None` for never.
    pub expires: Option<UnixTime>,
    /// The hardware address; `None` for DHCPv6, whose leases name a DUID and no interface: there the neighbour table
    /// leads from the address to the device.
    pub mac: Option<MacAddress>,
    /// The leased address.
    pub address: IpAddr,
    /// The thing the hostname stands for by the rule; `None` without a hostname, or when no thing can be called so.
    pub thing: Option<ThingName>,
}

/// What a lease file says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaseFile {
    /// The leases, in the file's order.
    pub leases: Vec<Lease>,
    /// Lines that are no lease.
    pub skipped: u64,
    /// Leases whose hostname makes no thing name (they are in `leases`, without a thing).
    pub refused_names: u64,
    /// The first few lines of both kinds.
    pub reasons: Vec<LineReason>,
    /// The file is longer than 4 MiB or 100,000 lines, and its end was not read.
    pub truncated: bool,
}

/// Why a line, or the name in it, was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LineReason {
    /// Line number, from 1.
    pub line: usize,
    /// The reason; text from the file is quoted with its control characters escaped.
    pub reason: String,
}

impl LeaseFile {
    fn reason(&mut self, line: usize, reason: impl FnOnce() -> String) {
        if self.reasons.len() < KEPT_SKIPS {
            self.reasons.push(LineReason { line, reason: reason() });
        }
    }
}

/// Parses a lease file. Never fails: what cannot be read is counted and skipped, with the reason.
#[must_use]
pub fn parse(format: LeaseFormat, bytes: &[u8], rule: &LeaseRule) -> LeaseFile {
    let mut file = LeaseFile::default();
    let kept = bytes.get(..MAX_BYTES).unwrap_or(bytes);
    file.truncated = kept.len() < bytes.len();
    match format {
        LeaseFormat::Dnsmasq => dnsmasq::parse(kept, rule, &mut file),
    }
    file
}

/// Reads a lease file, at most one byte more than [`parse`] looks at. Opened without waiting: a FIFO in its place would
/// keep the reader, and every sample with it, until somebody writes.
///
/// # Errors
/// It is absent, denied, no regular file, or cannot be read.
pub fn read(path: &Path) -> Measured<Vec<u8>> {
    let missing = |error: io::Error| Missing::from_io(path.display().to_string(), &error);
    let mut bytes = Vec::new();
    let limit = MAX_BYTES as u64 + 1;
    let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = File::options().read(true).custom_flags(nonblock).open(path);
    let file = file.map_err(missing)?;
    if !file.metadata().map_err(missing)?.is_file() {
        let origin = path.display().to_string();
        return Err(Missing::new(origin, Reason::Malformed, "not a regular file"));
    }
    file.take(limit).read_to_end(&mut bytes).map_err(missing)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_regular_file_is_said_and_keeps_nobody_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status();
        assert!(made.unwrap().success());
        for path in [fifo, dir.path().to_owned(), "/dev/zero".into()] {
            let missing = read(&path).unwrap_err();
            let said = (missing.reason, missing.detail.as_str());
            assert_eq!(said, (Reason::Malformed, "not a regular file"), "{}", path.display());
        }
        assert_eq!(read(&dir.path().join("none")).unwrap_err().reason, Reason::Absent);
        let file = dir.path().join("leases");
        std::fs::write(&file, "x").unwrap();
        assert_eq!(read(&file).unwrap(), b"x");
    }
}
