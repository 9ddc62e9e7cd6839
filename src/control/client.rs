//! The asking side, used by the command line: blocking and short-lived.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::{Answer, Request};

/// How long an answer may take; the agent answers from memory, so this is generous.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest answer read: a device list of 10,000 entries fits.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;

/// Why the agent could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No agent listens there.
    #[error("no agent is running ({path} does not answer); start it, or name its folder with --standalone DIR")]
    NoAgent {
        /// The socket.
        path: PathBuf,
        /// What connecting said.
        #[source]
        source: std::io::Error,
    },
    /// The socket exists but this user may not use it.
    #[error("{path}: only root and the agent's own user may ask; try with sudo")]
    Denied {
        /// The socket.
        path: PathBuf,
        /// What connecting said.
        #[source]
        source: std::io::Error,
    },
    /// No answer came in time.
    #[error("{path}: the agent did not answer within {} s; is the machine overloaded?", PATIENCE.as_secs())]
    Silent {
        /// The socket.
        path: PathBuf,
        /// What reading or writing said.
        #[source]
        source: std::io::Error,
    },
    /// The conversation broke off.
    #[error("{path}: the agent broke off the conversation")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What reading or writing said.
        #[source]
        source: std::io::Error,
    },
    /// The answer made no sense; the agent is of another version.
    #[error("{path}: the agent's answer was not understood (is it another version?)")]
    Garbled {
        /// The socket.
        path: PathBuf,
        /// Where the JSON broke.
        #[source]
        source: serde_json::Error,
    },
    /// The agent understood and refused; its own words.
    #[error("{0}")]
    Refused(String),
}

/// Ask the agent behind `path` one thing.
///
/// # Errors
/// [`AskError`], which says what to do.
pub fn ask(path: &Path, request: &Request) -> Result<Value, AskError> {
    let broken = |source: std::io::Error| {
        let path = path.to_owned();
        match source.kind() {
            // how a timeout of the socket shows (socket(7), SO_RCVTIMEO)
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => AskError::Silent { path, source },
            _ => AskError::Broken { path, source },
        }
    };
    let mut stream = UnixStream::connect(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::PermissionDenied => AskError::Denied {
            path: path.to_owned(),
            source,
        },
        _ => AskError::NoAgent {
            path: path.to_owned(),
            source,
        },
    })?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(broken)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(broken)?;
    let mut line = serde_json::to_vec(request).map_err(|source| AskError::Garbled {
        path: path.to_owned(),
        source,
    })?;
    line.push(b'\n');
    stream.write_all(&line).map_err(broken)?;
    let mut answer = String::new();
    BufReader::new(stream.take(MAX_ANSWER))
        .read_line(&mut answer)
        .map_err(broken)?;
    match serde_json::from_str(&answer) {
        Ok(Answer::Ok(value)) => Ok(value),
        Ok(Answer::Error(words)) => Err(AskError::Refused(words)),
        Err(source) => Err(AskError::Garbled {
            path: path.to_owned(),
            source,
        }),
    }
}
