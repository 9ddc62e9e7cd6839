//! Samples on disk, for `edge-warden detect replay`: one JSON object a line per thing, bounded.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::detect::Sample;

/// The newest part; the one before it has `.1` added.
pub const SAMPLES: &str = "samples.jsonl";
/// A part is closed before it would grow past this; with the part before it that is the bound.
const MOST_BYTES: u64 = 16 * 1024 * 1024;

/// Writes samples down while it is told to.
#[derive(Debug)]
pub(super) struct Recorder {
    path: PathBuf,
    on: bool,
    file: Option<(File, u64)>,
    most: u64,
    written: u64,
    trouble: Option<String>,
}

impl Recorder {
    pub(super) fn new(state_dir: &Path, on: bool) -> Self {
        Self {
            path: state_dir.join(SAMPLES),
            on,
            file: None,
            most: MOST_BYTES,
            written: 0,
            trouble: None,
        }
    }

    pub(super) fn is_on(&self) -> bool {
        self.on
    }

    /// Begins or ends recording; what is recorded stays.
    pub(super) fn switch(&mut self, on: bool) {
        self.on = on;
        if !on {
            self.file = None;
        }
    }

    /// Appends the lines of one sample.
    pub(super) fn record(&mut self, samples: &[Sample]) {
        let mut lines = Vec::new();
        for sample in samples {
            if serde_json::to_writer(&mut lines, sample).is_ok() {
                lines.push(b'\n');
            }
        }
        let written = self.append(&lines);
        if written.is_err() {
            self.file = None;
        } else {
            self.written = self.written.saturating_add(1);
        }
        let trouble = written.err().map(|error| format!("{}: {error}", self.path.display()));
        if let Some(words) = trouble.as_ref().filter(|words| self.trouble.as_ref() != Some(words)) {
            tracing::warn!(error = words, "samples are not recorded");
        }
        self.trouble = trouble;
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let more = u64::try_from(lines.len()).unwrap_or(u64::MAX);
        let open = match self.file.take() {
            Some(open) => open,
            None => self.open()?,
        };
        let (mut file, mut size) = open;
        if size > 0 && size.saturating_add(more) > self.most {
            let mut before = self.path.clone().into_os_string();
            before.push(".1");
            std::fs::rename(&self.path, before)?;
            (file, size) = self.open()?;
        }
        file.write_all(lines)?;
        self.file = Some((file, size.saturating_add(more)));
        Ok(())
    }

    /// The part to go on with; a line that a crash cut is ended, so that the next one does not continue it.
    fn open(&self) -> io::Result<(File, u64)> {
        let nofollow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
        let mut file = File::options()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(nofollow)
            .open(&self.path)?;
        let mut size = file.metadata()?.len();
        if size > 0 {
            file.seek(SeekFrom::End(-1))?;
            let mut last = [0];
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
                size = size.saturating_add(1);
            }
        }
        Ok((file, size))
    }

    /// For `status`; null while nothing is recorded.
    pub(super) fn status(&self) -> serde_json::Value {
        if !self.on {
            return serde_json::Value::Null;
        }
        serde_json::json!({"file": self.path, "samples": self.written, "trouble": self.trouble})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::{Datapoints, Role};
    use crate::model::UnixTime;

    fn sample(monotonic: u64) -> Sample {
        Sample {
            time: UnixTime(1_700_000_000_000 + monotonic),
            monotonic,
            thing: "cam".parse().unwrap(),
            role: Role::Local,
            cut_off: false,
            datapoints: Datapoints::new(),
        }
    }

    fn read(path: &Path) -> Vec<u64> {
        let text = std::fs::read_to_string(path).unwrap();
        let samples = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Sample>(line).ok());
        samples.map(|sample| sample.monotonic).collect()
    }

    #[test]
    fn what_is_recorded_reads_back_and_a_cut_line_spoils_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SAMPLES);
        let mut recorder = Recorder::new(dir.path(), true);
        recorder.record(&[sample(1), sample(1)]);
        recorder.record(&[sample(2)]);
        assert_eq!(read(&path), [1, 1, 2]);
        drop(recorder);
        let content = std::fs::read(&path).unwrap();
        std::fs::write(&path, &content[..content.len() - 9]).unwrap();
        let mut recorder = Recorder::new(dir.path(), true);
        recorder.record(&[sample(3)]);
        assert_eq!(read(&path), [1, 1, 3]);
    }

    #[test]
    fn two_parts_are_the_bound() {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::new(dir.path(), true);
        let line = serde_json::to_vec(&sample(1_000)).unwrap().len() as u64 + 1;
        recorder.most = 10 * line;
        (1_000..1_035).for_each(|n| recorder.record(&[sample(n)]));
        let path = dir.path().join(SAMPLES);
        assert_eq!(read(&path), (1_030..1_035).collect::<Vec<_>>());
        assert_eq!(
            read(&dir.path().join("samples.jsonl.1")),
            (1_020..1_030).collect::<Vec<_>>()
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        assert_eq!(recorder.status()["samples"], 35);
        recorder.switch(false);
        assert!(recorder.status().is_null());
    }

    #[test]
    fn trouble_is_said_and_passes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SAMPLES);
        std::fs::create_dir(&path).unwrap();
        let mut recorder = Recorder::new(dir.path(), true);
        recorder.record(&[sample(1)]);
        assert!(recorder.status()["trouble"].is_string());
        std::fs::remove_dir(&path).unwrap();
        recorder.record(&[sample(2)]);
        assert!(recorder.status()["trouble"].is_null());
        assert_eq!(read(&path), [2]);
    }
}
