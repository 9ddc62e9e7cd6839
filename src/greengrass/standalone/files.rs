//! The files of a standalone directory: its lock, what was published, the shadows.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::Value;

use crate::greengrass::Destination;
use crate::greengrass::shadow_document::{DocumentError, Rejection, ShadowDocument};
use crate::greengrass::topic::ShadowName;
use crate::model::{ThingName, UnixTime};

/// What is wrong with a standalone directory.
#[derive(Debug, thiserror::Error)]
pub enum StandaloneError {
    /// Another process has it.
    #[error("{dir} is in use by another edge-warden (it holds the lock file there)")]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// The file system refuses.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// A stored shadow is none.
    #[error("{path} is not a shadow document")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: DocumentError,
    },
    /// AWS IoT would refuse the update.
    #[error("the update of {shadow} is refused")]
    Refused {
        /// The shadow's file.
        shadow: PathBuf,
        /// Why.
        #[source]
        source: Rejection,
    },
}

impl StandaloneError {
    /// The error and its cause in one line, for places that keep only text.
    #[must_use]
    pub fn chain(&self) -> String {
        match std::error::Error::source(self) {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StandaloneError + 'a {
    move |source| StandaloneError::File {
        action,
        path: path.to_owned(),
        source,
    }
}

fn make_dir(path: &Path) -> Result<(), StandaloneError> {
    // Only for the owner: shadows decide over quarantines.
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed("create", path))
}

/// Keeps other processes out of a directory; released when dropped, also by the death of the process.
pub(super) struct DirLock {
    _file: File,
}

impl DirLock {
    pub(super) fn take(dir: &Path) -> Result<Self, StandaloneError> {
        make_dir(dir)?;
        let path = dir.join("lock");
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        let file = options.open(&path).map_err(failed("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(StandaloneError::InUse { dir: dir.to_owned() }),
            Err(TryLockError::Error(source)) => Err(failed("lock", &path)(source)),
        }
    }
}

/// `published.jsonl`: one line per published message, in the order of publishing.
pub(super) struct PublishedLog {
    path: PathBuf,
    file: File,
    /// The file does not end with a whole line: a crash, or a full disk, cut the last one.
    torn: bool,
}

/// One line; the order of the fields is the order in the file.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    topic: &'a str,
    qos: u8,
    destination: &'static str,
    payload: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
}

impl PublishedLog {
    pub(super) fn open(dir: &Path) -> Result<Self, StandaloneError> {
        let path = dir.join("published.jsonl");
        let mut options = OpenOptions::new();
        let mut file = options
            .create(true)
            .read(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open", &path))?;
        let torn = ends_torn(&mut file).map_err(failed("read", &path))?;
        Ok(Self { path, file, torn })
    }

    pub(super) fn append(
        &mut self,
        now: UnixTime,
        to: Destination,
        topic: &str,
        payload: &[u8],
    ) -> Result<(), StandaloneError> {
        // A payload that is JSON stays readable; anything else is base64.
        let (payload, encoding) = match serde_json::from_slice(payload) {
            Ok(value) => (value, None),
            Err(_) => (Value::String(STANDARD.encode(payload)), Some("base64")),
        };
        let (qos, destination) = match to {
            Destination::IotCore => (1, "iotcore"),
            // Local publish/subscribe knows no quality of service.
            Destination::Local => (0, "local"),
        };
        let line = Line {
            time: rfc3339(now),
            topic,
            qos,
            destination,
            payload,
            encoding,
        };
        let mut bytes = if self.torn { b"\n".to_vec() } else { Vec::new() };
        let write = |bytes: &mut Vec<u8>, file: &mut File| {
            serde_json::to_writer(&mut *bytes, &line)?;
            bytes.push(b'\n');
            file.write_all(bytes)
        };
        // Until the whole line is there the file may end anywhere.
        self.torn = true;
        write(&mut bytes, &mut self.file).map_err(failed("append to", &self.path))?;
        self.torn = false;
        Ok(())
    }
}

fn ends_torn(file: &mut File) -> io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

/// RFC 3339 in UTC with milliseconds; times no calendar has (a clock gone mad) become its last instant.
fn rfc3339(time: UnixTime) -> String {
    let milliseconds = i64::try_from(time.0).unwrap_or(i64::MAX);
    let timestamp = jiff::Timestamp::from_millisecond(milliseconds).unwrap_or(jiff::Timestamp::MAX);
    format!("{timestamp:.3}")
}

/// `shadows/THING[.NAME].json`: one file per shadow. Neither part can hold a `.` or a `/`.
pub(super) struct ShadowFiles {
    dir: PathBuf,
}

impl ShadowFiles {
    pub(super) fn open(dir: &Path) -> Result<Self, StandaloneError> {
        let dir = dir.join("shadows");
        make_dir(&dir)?;
        Ok(Self { dir })
    }

    pub(super) fn path(&self, thing: &ThingName, shadow: Option<&ShadowName>) -> PathBuf {
        self.dir.join(match shadow {
            None => format!("{thing}.json"),
            Some(name) => format!("{thing}.{name}.json"),
        })
    }

    /// The shadow; one without a file never existed.
    pub(super) fn load(
        &self,
        thing: &ThingName,
        shadow: Option<&ShadowName>,
    ) -> Result<ShadowDocument, StandaloneError> {
        let path = self.path(thing, shadow);
        match std::fs::read(&path) {
            Ok(bytes) => ShadowDocument::parse(&bytes).map_err(|source| StandaloneError::Malformed { path, source }),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(ShadowDocument::default()),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// Replace the shadow's file in one step, so that a crash leaves the old one or the new one.
    pub(super) fn store(
        &self,
        thing: &ThingName,
        shadow: Option<&ShadowName>,
        document: &ShadowDocument,
    ) -> Result<(), StandaloneError> {
        let path = self.path(thing, shadow);
        let temporary = path.with_extension("json.tmp");
        let text = format!("{:#}\n", document.stored());
        let mut options = OpenOptions::new();
        options.create(true).write(true).truncate(true).mode(0o600);
        let mut file = options.open(&temporary).map_err(failed("write", &temporary))?;
        file.write_all(text.as_bytes()).map_err(failed("write", &temporary))?;
        file.sync_all().map_err(failed("sync", &temporary))?;
        std::fs::rename(&temporary, &path).map_err(failed("replace", &path))?;
        let dir = File::open(&self.dir).map_err(failed("open", &self.dir))?;
        dir.sync_all().map_err(failed("sync", &self.dir))
    }
}
