//! The audit log: who changed what about whom, one JSON object per line, only ever appended to.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use serde_json::{Value, json};

use super::event::AuditEntry;
use super::shadow::rfc3339;
use crate::model::{Monotonic, ThingName};

/// The log's name in the state directory; older parts are `audit.jsonl.1` (newest) to `.3`.
const NAME: &str = "audit.jsonl";
/// A part is closed before it would grow past this.
const MOST_BYTES: u64 = 1024 * 1024;
/// Closed parts kept.
const KEPT: u32 = 3;
/// The window in which repetitions are counted instead of written.
const WINDOW: Duration = Duration::from_secs(60);
/// Different refusals of one demander about one thing written per window.
const REFUSALS: usize = 4;
/// Changes by one demander about one thing written per window: a device may switch its own shadow 1,000 times.
const CHANGES: usize = 10;
/// Pairs of thing and demander watched at a time.
const MOST_WATCHED: usize = 1024;

/// Why an entry was not written. It is counted in [`AuditLog::lost`]; nothing else depends on the log.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}")]
pub struct AuditError {
    /// What was tried.
    pub action: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

/// The log of one state directory, open for appending.
#[derive(Debug)]
pub struct AuditLog {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    /// The last line has no end (a crash or a full disk cut it): the next one must not continue it.
    torn: bool,
    recent: BTreeMap<(ThingName, String), Recent>,
    lost: u64,
    /// The last of the entries that could not be written since one could, how many times it is meant, and how many
    /// before it are lost.
    missed: Option<(AuditEntry, u64, u64)>,
}

/// What one demander did about one thing in the present window.
#[derive(Debug)]
struct Recent {
    since: Monotonic,
    refusals: Vec<String>,
    changes: usize,
    /// How many entries were held back, and the last of them.
    held_back: Option<(u64, AuditEntry)>,
}

impl AuditLog {
    /// Open the log in `directory`, creating it if need be. It always opens: what is wrong shows with each entry.
    #[must_use]
    pub fn open(directory: &Path) -> Self {
        Self {
            path: directory.join(NAME),
            file: None,
            size: 0,
            torn: false,
            recent: BTreeMap::new(),
            lost: 0,
            missed: None,
        }
    }

    /// Entries that could not be written, since the start. The last of them is kept for when there is space again.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Append an entry. One that repeats what the same demander did to the same thing within a minute is counted, and
    /// told by [`AuditLog::flush`].
    ///
    /// # Errors
    /// When the line could not be written; it is lost, unless it is the last before there is space again.
    pub fn append(&mut self, entry: &AuditEntry, now: Monotonic) -> Result<(), AuditError> {
        let flushed = self.flush(now);
        self.append_one(entry, now).and(flushed)
    }

    fn append_one(&mut self, entry: &AuditEntry, now: Monotonic) -> Result<(), AuditError> {
        let key = (entry.thing.clone(), entry.who.clone());
        if !self.recent.contains_key(&key) && self.recent.len() >= MOST_WATCHED {
            return self.write(entry, 1); // more demanders than any site has: written, and bounded by the rotation
        }
        let recent = self.recent.entry(key).or_insert_with(|| Recent {
            since: now,
            refusals: Vec::new(),
            changes: 0,
            held_back: None,
        });
        let worth_a_line = if entry.before != entry.after {
            recent.changes = recent.changes.saturating_add(1);
            recent.changes <= CHANGES
        } else if recent.refusals.contains(&entry.what) || recent.refusals.len() >= REFUSALS {
            false
        } else {
            recent.refusals.push(entry.what.clone());
            true
        };
        if worth_a_line {
            return self.write(entry, 1);
        }
        let count = recent.held_back.take().map_or(0, |(count, _)| count);
        recent.held_back = Some((count.saturating_add(1), entry.clone()));
        Ok(())
    }

    /// Write what was held back in windows that are over: one line each, with `count`. And what could not be written
    /// before: the last such line, with how many others are `lost`. To be called now and then.
    ///
    /// # Errors
    /// As [`AuditLog::append`].
    pub fn flush(&mut self, now: Monotonic) -> Result<(), AuditError> {
        if let Some((entry, count, lost)) = &self.missed {
            let line = line(entry, *count, *lost);
            let written = self.try_write(line);
            if written.is_err() {
                self.file = None;
                return written;
            }
            let count = self.missed.take().map_or(0, |(_, count, _)| count);
            self.lost = self.lost.saturating_sub(count);
        }
        let over = |recent: &Recent| now.since(recent.since) >= WINDOW;
        if !self.recent.values().any(over) {
            return Ok(());
        }
        let (done, open) = std::mem::take(&mut self.recent)
            .into_iter()
            .partition(|(_, recent)| over(recent));
        self.recent = open;
        let done: BTreeMap<_, Recent> = done;
        let mut result = Ok(());
        for (count, entry) in done.into_values().filter_map(|recent| recent.held_back) {
            let written = self.write(&entry, count); // each is tried, also after one that failed
            result = result.and(written);
        }
        result
    }

    fn write(&mut self, entry: &AuditEntry, count: u64) -> Result<(), AuditError> {
        let written = self.try_write(line(entry, count, 0));
        if written.is_err() {
            self.lost = self.lost.saturating_add(count);
            let before = self
                .missed
                .take()
                .map_or(0, |(_, count, lost)| lost.saturating_add(count));
            self.missed = Some((entry.clone(), count, before));
            self.file = None; // look again next time: it may have been moved away, or there may be space
        }
        written
    }

    fn try_write(&mut self, line: String) -> Result<(), AuditError> {
        let mut line = line;
        if self.file.is_none() {
            self.reopen()?;
        }
        let length = |line: &str| u64::try_from(line.len()).unwrap_or(u64::MAX);
        if self.size > 0 && self.size.saturating_add(length(&line)) > MOST_BYTES {
            self.rotate()?;
            self.reopen()?;
        }
        if self.torn {
            line.insert(0, '\n');
        }
        let Some(file) = &mut self.file else {
            return Ok(()); // reopen() leaves a file or an error
        };
        // one write per line: lines of a reader that follows the file are whole
        let wrote = file.write(line.as_bytes());
        let got = wrote.as_ref().map_or(0, |wrote| *wrote);
        // the disk is full: what fitted is no line, and taken back for whoever reads the log
        let taken_back = (1..line.len()).contains(&got) && file.set_len(self.size).is_ok();
        if got > 0 && !taken_back {
            self.size = self.size.saturating_add(u64::try_from(got).unwrap_or(u64::MAX));
            self.torn = got < line.len();
        }
        match wrote {
            Ok(got) if got == line.len() => Ok(()),
            Ok(_) => Err(self.error("write all of a line to", io::Error::from(io::ErrorKind::StorageFull))),
            Err(source) => Err(self.error("write to", source)),
        }
    }

    fn reopen(&mut self) -> Result<(), AuditError> {
        // not NONBLOCK on a file, but a FIFO put in its place must not stop the agent
        let flags =
            OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let opened = rustix::fs::open(&self.path, flags, Mode::RUSR | Mode::WUSR);
        let mut file = File::from(opened.map_err(|errno| self.error("open", errno.into()))?);
        let inspect = |file: &mut File| {
            if !file.metadata()?.is_file() {
                return Err(io::Error::from(io::ErrorKind::InvalidInput));
            }
            file.set_permissions(Permissions::from_mode(0o600))?;
            let size = file.seek(SeekFrom::End(0))?;
            let mut last = [b'\n'];
            if size > 0 {
                file.seek(SeekFrom::End(-1))?;
                file.read_exact(&mut last)?;
            }
            Ok((size, last != [b'\n']))
        };
        let (size, torn) = inspect(&mut file).map_err(|source| self.error("inspect", source))?;
        (self.size, self.torn, self.file) = (size, torn, Some(file));
        Ok(())
    }

    fn rotate(&mut self) -> Result<(), AuditError> {
        self.file = None;
        let part = |number: u32| match number {
            0 => self.path.clone(),
            number => self.path.with_extension(format!("jsonl.{number}")),
        };
        for number in (0..KEPT).rev() {
            match std::fs::rename(part(number), part(number + 1)) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(self.error("rotate", source)),
                _ => {}
            }
        }
        Ok(())
    }

    fn error(&self, action: &'static str, source: io::Error) -> AuditError {
        AuditError {
            action,
            path: self.path.clone(),
            source,
        }
    }
}

fn line(entry: &AuditEntry, count: u64, lost: u64) -> String {
    let mut object = json!({
        "time": rfc3339(entry.time),
        "thing": entry.thing,
        "who": entry.who,
        "what": entry.what,
        "before": entry.before,
        "after": entry.after,
    });
    if let Value::Object(object) = &mut object {
        if count > 1 {
            object.insert("count".to_owned(), count.into());
        }
        if lost > 0 {
            object.insert("lost".to_owned(), lost.into());
        }
    }
    format!("{object}\n")
}

#[cfg(test)]
mod tests;
