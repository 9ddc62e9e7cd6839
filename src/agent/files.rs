//! Files the agent keeps: written whole or not at all, never through a link.

use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A file that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The folder cannot be made or opened.
    #[error("cannot make the folder {path}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The folder is somebody else's: who controls it decides over quarantines.
    #[error("{path} is {what}; it must be a folder of this user that nobody else can write")]
    NotOurs {
        /// The folder.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// Reading failed (an absent file is no error).
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Writing failed; the former content is still there, unless it was to be written over in place.
    #[error("cannot write {path}; its former content stays")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// More than any file of ours can be.
const MAX_FILE: u64 = 64 * 1024 * 1024;

/// Make `folder` (and those above it), readable by its owner only.
///
/// # Errors
/// [`FileError::Folder`].
pub fn make_folder(folder: &Path) -> Result<(), FileError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|source| FileError::Folder {
            path: folder.to_owned(),
            source,
        })
}

/// Make `folder` as [`make_folder`] does, and see that it is ours alone.
///
/// # Errors
/// [`FileError::Folder`], [`FileError::NotOurs`].
pub fn make_own_folder(folder: &Path) -> Result<(), FileError> {
    make_folder(folder)?;
    let metadata = std::fs::metadata(folder).map_err(|source| FileError::Folder {
        path: folder.to_owned(),
        source,
    })?;
    let what = if metadata.uid() != rustix::process::geteuid().as_raw() {
        "another user's"
    } else if metadata.mode() & 0o022 != 0 {
        "writable for others"
    } else {
        return Ok(());
    };
    let path = folder.to_owned();
    Err(FileError::NotOurs { path, what })
}

/// The content of `path`; `None` when there is no such file.
///
/// # Errors
/// [`FileError::Read`].
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    let failed = |source| FileError::Read {
        path: path.to_owned(),
        source,
    };
    let nofollow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let file = match std::fs::OpenOptions::new().read(true).custom_flags(nofollow).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut content = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut content).map_err(failed)?;
    Ok(Some(content))
}

/// Replace the content of `path`: a reader, or a crash at any moment, sees the old content or the new, never a mixture.
///
/// # Errors
/// [`FileError::Write`].
pub fn replace(path: &Path, content: &[u8]) -> Result<(), FileError> {
    replace_with_mode(path, content, 0o600)
}

/// As [`replace`], with these permissions from the first moment on.
///
/// # Errors
/// [`FileError::Write`].
pub fn replace_with_mode(path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    let failed = |source| FileError::Write {
        path: path.to_owned(),
        source,
    };
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let written = (|| {
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(content)?;
        // whatever the umask of this process takes away
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        // what is open for writing cannot be started (ETXTBSY of execve(2))
        drop(file);
        std::fs::rename(&beside, path)?;
        if let Some(folder) = path.parent() {
            std::fs::File::open(folder)?.sync_all()?;
        }
        Ok(())
    })();
    written.map_err(failed)
}

/// Write over the content of `path` where it is, for a file system without room for a second one: what is no longer than
/// the former content needs no more space. A crash in the middle leaves a mixture, and so does a failure.
///
/// # Errors
/// [`FileError::Write`], also when there is no such file.
pub fn overwrite(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let nofollow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let written = (|| {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .custom_flags(nofollow)
            .open(path)?;
        file.write_all(content)?;
        file.set_len(u64::try_from(content.len()).unwrap_or(u64::MAX))?;
        file.sync_all()
    })();
    written.map_err(|source| FileError::Write {
        path: path.to_owned(),
        source,
    })
}

/// An error with everything below it, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_and_tells_absent_from_unreadable() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        assert_eq!(read(&path).unwrap(), None);
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), b"two");
        assert!(read(&path.join("below")).is_err());
        assert!(replace(&dir.path().join("nowhere/state.json"), b"x").is_err());
    }

    #[test]
    fn writes_over_what_is_there_and_makes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        assert!(overwrite(&path, b"x").is_err());
        replace(&path, b"as long as this").unwrap();
        overwrite(&path, b"shorter").unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), b"shorter");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(overwrite(&link, b"x").is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"shorter");
    }

    #[test]
    fn never_follows_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        std::fs::write(&target, "precious").unwrap();
        let link = dir.path().join("state.json");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(matches!(read(&link), Err(FileError::Read { .. })));
        replace(&link, b"new").unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"precious");
    }
}
