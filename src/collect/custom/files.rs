//! Files of other programs: their content as a value, and whether it changed.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::content::MAX_CONTENT;
use crate::collect::CollectError;
use crate::model::{Measured, Missing, Reason, UnixTime};

/// The largest file that is watched for changes.
pub const MAX_WATCHED: u64 = 64 << 20;
/// A file that changed less than so long before it was hashed may change again within the same time stamp.
const SETTLED_MILLIS: u64 = 2_000;

/// A regular file, opened without waiting: a fifo would keep the reader until somebody writes.
fn open(path: &Path) -> Measured<(File, Metadata)> {
    let origin = || path.display().to_string();
    let failed = |error: io::Error| Missing::from(CollectError::from_io(origin(), error));
    let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nonblock)
        .open(path)
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(Missing::new(origin(), Reason::Malformed, "not a regular file"));
    }
    Ok((file, metadata))
}

/// At most [`MAX_CONTENT`] and one bytes of a file, and when it was last written.
///
/// # Errors
/// It is absent, denied, or no regular file. May block for as long as the file system does.
pub fn read_file(path: &Path) -> Measured<(Vec<u8>, UnixTime)> {
    let (file, metadata) = open(path)?;
    let limit = u64::try_from(MAX_CONTENT).unwrap_or(u64::MAX).saturating_add(1);
    let mut content = Vec::new();
    file.take(limit)
        .read_to_end(&mut content)
        .map_err(|error| CollectError::from_io(path.display().to_string(), error))?;
    Ok((content, unix(metadata.mtime(), metadata.mtime_nsec())))
}

fn unix(seconds: i64, nanos: i64) -> UnixTime {
    let millis = seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000);
    UnixTime(u64::try_from(millis).unwrap_or(0))
}

/// What a watched file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FileState {
    /// There is no such file.
    Absent,
    /// SHA-256 of its content, in hexadecimal.
    Sha256(String),
}

/// When a file must be read again: what changes with every write (inode(7); no program can set the change time).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Print {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
    /// The change was long enough ago for the next one to have another time.
    settled: bool,
}

impl Print {
    fn of(metadata: &Metadata, now: UnixTime) -> Self {
        let changed = unix(metadata.ctime(), metadata.ctime_nsec());
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            settled: now.0 >= changed.0.saturating_add(SETTLED_MILLIS),
        }
    }
}

/// What the file holds now; `None` when it was not written since `known` was made. `now` is compared with file times.
///
/// # Errors
/// It is denied, larger than [`MAX_WATCHED`], or no regular file. May block for as long as the file system does.
pub fn watched(path: &Path, known: Option<&Print>, now: UnixTime) -> Measured<Option<(FileState, Option<Print>)>> {
    let (mut file, metadata) = match open(path) {
        Ok(opened) => opened,
        Err(missing) if missing.reason == Reason::Absent => return Ok(Some((FileState::Absent, None))),
        Err(missing) => return Err(missing),
    };
    let origin = || path.display().to_string();
    if metadata.size() > MAX_WATCHED {
        let detail = format!("larger than {MAX_WATCHED} bytes");
        return Err(Missing::new(origin(), Reason::Malformed, detail));
    }
    let print = Print::of(&metadata, now);
    if known.is_some_and(|known| known.settled && *known == print) {
        return Ok(None);
    }
    let mut hash = Sha256::new();
    let mut buffer = vec![0_u8; 64 * 1024];
    // A file that grows while it is read must come to an end too.
    let mut left = MAX_WATCHED;
    loop {
        let read = match file.read(&mut buffer) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(CollectError::from_io(origin(), error).into()),
        };
        hash.update(buffer.get(..read).unwrap_or_default());
        left = left.saturating_sub(u64::try_from(read).unwrap_or(u64::MAX));
        if read == 0 || left == 0 {
            break;
        }
    }
    let mut hexadecimal = String::with_capacity(64);
    for byte in hash.finalize() {
        hexadecimal.push_str(&format!("{byte:02x}"));
    }
    Ok(Some((FileState::Sha256(hexadecimal), Some(print))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Long after every file here was written.
    const LATER: UnixTime = UnixTime(u64::MAX / 2);

    fn state(path: &Path) -> FileState {
        watched(path, None, LATER).unwrap().unwrap().0
    }

    #[test]
    fn a_change_of_one_byte_and_a_disappearance_are_other_states() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sshd_config");
        assert_eq!(state(&path), FileState::Absent);
        fs::write(&path, "abc").unwrap();
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(state(&path), FileState::Sha256(abc.to_owned()));
        fs::write(&path, "abd").unwrap();
        assert_ne!(state(&path), FileState::Sha256(abc.to_owned()));
    }

    #[test]
    fn what_was_not_written_is_not_read_again_and_what_is_fresh_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "one").unwrap();
        let (_, print) = watched(&path, None, LATER).unwrap().unwrap();
        assert_eq!(watched(&path, print.as_ref(), LATER), Ok(None));
        // Just written as far as the clock tells: the next write may have the same time.
        let (_, fresh) = watched(&path, None, UnixTime(0)).unwrap().unwrap();
        assert!(watched(&path, fresh.as_ref(), UnixTime(0)).unwrap().is_some());
        fs::write(&path, "two, longer").unwrap();
        assert!(watched(&path, print.as_ref(), LATER).unwrap().is_some());
    }

    #[test]
    fn what_is_no_file_or_too_large_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR).unwrap();
        let huge = folder.path().join("huge");
        File::create(&huge).unwrap().set_len(MAX_WATCHED + 1).unwrap();
        for path in [folder.path(), fifo.as_path(), huge.as_path(), Path::new("/dev/zero")] {
            assert_eq!(
                watched(path, None, LATER).unwrap_err().reason,
                Reason::Malformed,
                "{path:?}"
            );
        }
        for path in [folder.path(), fifo.as_path(), Path::new("/dev/zero")] {
            assert_eq!(read_file(path).unwrap_err().reason, Reason::Malformed, "{path:?}");
        }
        assert_eq!(
            read_file(&huge).unwrap().0.len(),
            MAX_CONTENT + 1,
            "and no more is read of it"
        );
        assert_eq!(
            read_file(&folder.path().join("gone")).unwrap_err().reason,
            Reason::Absent
        );
    }
}
