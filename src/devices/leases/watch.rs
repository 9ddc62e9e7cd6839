//! Being told that a lease file changed.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use crate::model::{Measured, Missing};

/// A watch over lease files. The directories are watched, not the files: a server may replace its file by renaming
/// another over it. dnsmasq writes into the file it holds open, so that each write counts, not only closing.
#[derive(Debug)]
pub struct LeaseWatch {
    inotify: OwnedFd,
    /// Watch number -> (directory, files in it).
    directories: BTreeMap<i32, (PathBuf, BTreeSet<PathBuf>)>,
}

impl LeaseWatch {
    /// Watches `files`; those whose directory cannot be watched are given back with the reason.
    ///
    /// # Errors
    /// The kernel gives no inotify instance.
    pub fn open(files: &[PathBuf]) -> Measured<(Self, Vec<Missing>)> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
            .map_err(|error| Missing::from_io("inotify", &error.into()))?;
        let mut directories: BTreeMap<i32, (PathBuf, BTreeSet<PathBuf>)> = BTreeMap::new();
        let mut unwatched = Vec::new();
        let wanted = WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        for file in files {
            let directory = match file.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            match inotify::add_watch(&inotify, directory, wanted) {
                Ok(watch) => {
                    let entry = directories.entry(watch);
                    let (_, files) = entry.or_insert_with(|| (directory.to_owned(), BTreeSet::new()));
                    files.insert(file.clone());
                }
                Err(error) => unwatched.push(Missing::from_io(directory.display().to_string(), &error.into())),
            }
        }
        Ok((Self { inotify, directories }, unwatched))
    }

    /// The files that changed, appeared or went since the last call, without waiting. Those of a directory that went away
    /// are among them, and are watched no longer (open a new watch once it is back). A server may take several writes to
    /// renew its file: read it when no more events came for a moment.
    ///
    /// # Errors
    /// The inotify instance failed.
    pub fn changed(&mut self) -> io::Result<BTreeSet<PathBuf>> {
        let mut changed = BTreeSet::new();
        let mut gone = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                // Events were lost: any file may have changed.
                changed.extend(self.directories.values().flat_map(|(_, files)| files).cloned());
                continue;
            }
            let Some((_, files)) = self.directories.get(&event.wd()) else {
                continue;
            };
            let ends = ReadFlags::IGNORED | ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF;
            if event.events().intersects(ends) {
                changed.extend(files.iter().cloned());
                gone.push(event.wd());
            } else if let Some(name) = event.file_name() {
                let name = OsStr::from_bytes(name.to_bytes());
                changed.extend(files.iter().filter(|file| file.file_name() == Some(name)).cloned());
            }
        }
        for watch in gone {
            self.directories.remove(&watch);
            // A directory that was only moved would go on telling; one that is deleted has no watch any more.
            let _ = inotify::remove_watch(&self.inotify, watch);
        }
        Ok(changed)
    }

    /// The directories watched at present.
    pub fn directories(&self) -> impl Iterator<Item = &Path> {
        self.directories.values().map(|(directory, _)| directory.as_path())
    }
}

impl AsFd for LeaseWatch {
    /// Readable when [`LeaseWatch::changed`] has something to say.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;

    #[test]
    fn tells_of_writes_in_place_and_of_files_renamed_over() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("dnsmasq.leases");
        let missing = directory.path().join("none/kea.leases");
        fs::write(&file, "").unwrap();
        let (mut watch, unwatched) = LeaseWatch::open(&[file.clone(), missing]).unwrap();
        assert_eq!(unwatched.len(), 1);
        assert!(watch.changed().unwrap().is_empty());

        let mut open = fs::OpenOptions::new().append(true).open(&file).unwrap();
        open.write_all(b"1 02:aa:00:00:00:01 10.0.0.5 cam-1 *\n").unwrap();
        assert_eq!(watch.changed().unwrap(), BTreeSet::from([file.clone()]));
        // An open file would keep its directory's inode, and with it the watch.
        drop(open);
        assert_eq!(watch.changed().unwrap(), BTreeSet::from([file.clone()]));

        let other = directory.path().join("other");
        fs::write(&other, "").unwrap();
        assert!(watch.changed().unwrap().is_empty());
        fs::rename(&other, &file).unwrap();
        assert_eq!(watch.changed().unwrap(), BTreeSet::from([file.clone()]));

        fs::remove_dir_all(directory.path()).unwrap();
        assert_eq!(watch.changed().unwrap(), BTreeSet::from([file]));
        assert_eq!(watch.directories().count(), 0);
    }
}
