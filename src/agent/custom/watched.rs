//! Changes of watched files, counted over restarts: what a file held is kept, so a change made while the agent was away
//! counts when it comes back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::agent::files;
use crate::collect::custom::{FileState, Print, watched};
use crate::model::{Measured, UnixTime};

/// The files of one metric.
#[derive(Debug)]
pub(super) struct WatchedFiles {
    files: BTreeMap<PathBuf, Watched>,
    saved: PathBuf,
    loaded: bool,
    save_failed: bool,
}

#[derive(Debug, Default)]
struct Watched {
    state: Option<FileState>,
    print: Option<Print>,
    changes: u64,
}

impl WatchedFiles {
    /// Nothing is read yet. `saved` is where the states are kept.
    pub(super) fn new(paths: &[PathBuf], saved: PathBuf) -> Self {
        Self {
            files: paths.iter().map(|path| (path.clone(), Watched::default())).collect(),
            saved,
            loaded: false,
            save_failed: false,
        }
    }

    /// Looks at all files: how often each was seen changed since this was made. A file seen for the first time ever has
    /// not changed.
    ///
    /// # Errors
    /// A file cannot be read; the changes of the others stay known.
    pub(super) fn look(&mut self, now: UnixTime) -> Measured<BTreeMap<PathBuf, u64>> {
        if !std::mem::replace(&mut self.loaded, true) {
            self.load();
        }
        let mut failed = None;
        let mut changed = false;
        for (path, file) in &mut self.files {
            match watched(path, file.print.as_ref(), now) {
                Ok(None) => {}
                Ok(Some((state, print))) => {
                    file.print = print;
                    if file.state.as_ref() != Some(&state) {
                        file.changes += u64::from(file.state.is_some());
                        file.state = Some(state);
                        changed = true;
                    }
                }
                Err(missing) => {
                    failed.get_or_insert(missing);
                }
            }
        }
        if changed || self.save_failed {
            self.save();
        }
        match failed {
            Some(missing) => Err(missing),
            None => Ok(self
                .files
                .iter()
                .map(|(path, file)| (path.clone(), file.changes))
                .collect()),
        }
    }

    fn load(&mut self) {
        let saved: BTreeMap<PathBuf, FileState> = match files::read(&self.saved) {
            Ok(Some(content)) => serde_json::from_slice(&content).unwrap_or_else(|error| {
                warn(&self.saved, &error.to_string());
                BTreeMap::new()
            }),
            Ok(None) => BTreeMap::new(),
            Err(error) => {
                warn(&self.saved, &files::chain(&error));
                BTreeMap::new()
            }
        };
        for (path, state) in saved {
            if let Some(file) = self.files.get_mut(&path) {
                file.state = Some(state);
            }
        }
    }

    fn save(&mut self) {
        let states: BTreeMap<&PathBuf, &FileState> = self
            .files
            .iter()
            .filter_map(|(path, file)| Some((path, file.state.as_ref()?)))
            .collect();
        let written = serde_json::to_vec(&states)
            .map_err(|error| error.to_string())
            .and_then(|content| {
                let folder = self.saved.parent().map_or(Ok(()), files::make_folder);
                let written = folder.and_then(|()| files::replace(&self.saved, &content));
                written.map_err(|error| files::chain(&error))
            });
        match written {
            Ok(()) => self.save_failed = false,
            Err(error) => {
                if !std::mem::replace(&mut self.save_failed, true) {
                    tracing::warn!(error, "what watched files hold is not saved; a restart forgets it");
                }
            }
        }
    }
}

fn warn(path: &Path, error: &str) {
    let path = path.display();
    tracing::warn!(%path, error, "what watched files held is not known; changes count from now on");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Before every file here was written: nothing is settled, everything is read each time.
    const NOW: UnixTime = UnixTime(0);

    struct Site {
        folder: tempfile::TempDir,
        paths: Vec<PathBuf>,
    }

    impl Site {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let paths = ["a", "b"].map(|name| folder.path().join(name)).to_vec();
            fs::write(&paths[0], "one").unwrap();
            Self { folder, paths }
        }

        fn watch(&self) -> WatchedFiles {
            WatchedFiles::new(&self.paths, self.folder.path().join("watched/x.json"))
        }

        fn counts(&self, files: &mut WatchedFiles) -> Vec<u64> {
            files.look(NOW).unwrap().into_values().collect()
        }
    }

    #[test]
    fn changes_appearances_and_disappearances_count_and_touching_does_not() {
        let site = Site::new();
        let mut files = site.watch();
        assert_eq!(site.counts(&mut files), [0, 0]);
        fs::write(&site.paths[0], "one").unwrap();
        assert_eq!(site.counts(&mut files), [0, 0], "the same content");
        fs::write(&site.paths[0], "two").unwrap();
        assert_eq!(site.counts(&mut files), [1, 0]);
        fs::write(&site.paths[1], "").unwrap();
        assert_eq!(site.counts(&mut files), [1, 1], "it appeared");
        fs::remove_file(&site.paths[0]).unwrap();
        assert_eq!(site.counts(&mut files), [2, 1], "it vanished");
    }

    #[test]
    fn what_changed_while_nobody_looked_counts_after_a_restart() {
        let site = Site::new();
        site.counts(&mut site.watch());
        assert_eq!(site.counts(&mut site.watch()), [0, 0]);
        fs::write(&site.paths[0], "other").unwrap();
        fs::write(&site.paths[1], "new").unwrap();
        let mut files = site.watch();
        assert_eq!(site.counts(&mut files), [1, 1]);
        assert_eq!(site.counts(&mut files), [1, 1]);
        assert_eq!(site.counts(&mut site.watch()), [0, 0], "and once only");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named_and_the_others_stay_known() {
        let site = Site::new();
        let mut files = site.watch();
        fs::create_dir(&site.paths[1]).unwrap();
        let missing = files.look(NOW).unwrap_err();
        assert_eq!(missing.source, site.paths[1].display().to_string());
        fs::write(&site.paths[0], "two").unwrap();
        assert!(files.look(NOW).is_err());
        fs::remove_dir(&site.paths[1]).unwrap();
        assert_eq!(site.counts(&mut files), [1, 0]);
    }

    #[test]
    fn a_broken_or_unwritable_record_is_no_obstacle() {
        let site = Site::new();
        fs::create_dir(site.folder.path().join("watched")).unwrap();
        fs::write(site.folder.path().join("watched/x.json"), "{").unwrap();
        let mut files = site.watch();
        assert_eq!(site.counts(&mut files), [0, 0]);
        let mut nowhere = WatchedFiles::new(&site.paths, PathBuf::from("/proc/none/watched.json"));
        assert_eq!(site.counts(&mut nowhere), [0, 0]);
    }
}
