//! Why a source gave nothing, and what is said about a source that gave something but not everything.

use std::error::Error;
use std::fmt;
use std::io;

use crate::model::{Missing, Reason};

/// A source that could not be read. Each variant names the source: a path below `/proc` or a netlink table.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The kernel does not have it: no such file, protocol or table.
    #[error("{origin} is absent")]
    Absent {
        /// What was to be read.
        origin: String,
        /// What the kernel answered.
        #[source]
        cause: io::Error,
    },
    /// It exists, and this process may not read it.
    #[error("{origin} is denied")]
    Denied {
        /// What was to be read.
        origin: String,
        /// What the kernel answered.
        #[source]
        cause: io::Error,
    },
    /// It was read in part or in whole, and makes no sense.
    #[error("{origin} is malformed")]
    Malformed {
        /// What was to be read.
        origin: String,
        /// What is wrong with it.
        #[source]
        cause: Box<dyn Error + Send + Sync>,
    },
}

impl CollectError {
    /// Sorts an I/O error into absent, denied or malformed.
    ///
    /// A protocol the kernel was built without is absent, though `std` has no [`io::ErrorKind`] for it: sock_diag
    /// answers `ENOENT` (net/core/sock_diag.c), socket(2) `EAFNOSUPPORT` or `EPROTONOSUPPORT`.
    pub fn from_io(origin: impl Into<String>, cause: io::Error) -> Self {
        let origin = origin.into();
        let unsupported = matches!(
            cause.raw_os_error(),
            Some(libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT | libc::EOPNOTSUPP | libc::ENOSYS)
        );
        match cause.kind() {
            _ if unsupported => Self::Absent { origin, cause },
            io::ErrorKind::NotFound | io::ErrorKind::Unsupported => Self::Absent { origin, cause },
            io::ErrorKind::PermissionDenied => Self::Denied { origin, cause },
            _ => Self::malformed(origin, cause),
        }
    }

    /// A source whose content makes no sense, and why.
    pub fn malformed(origin: impl Into<String>, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Malformed {
            origin: origin.into(),
            cause: cause.into(),
        }
    }

    /// True when the kernel does not have the source.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent { .. })
    }
}

impl From<CollectError> for Missing {
    fn from(error: CollectError) -> Self {
        let mut detail = String::new();
        let mut cause = error.source();
        while let Some(step) = cause {
            if !detail.is_empty() {
                detail.push_str(": ");
            }
            detail.push_str(&step.to_string());
            cause = step.source();
        }
        let (origin, reason) = match error {
            CollectError::Absent { origin, .. } => (origin, Reason::Absent),
            CollectError::Denied { origin, .. } => (origin, Reason::Denied),
            CollectError::Malformed { origin, .. } => (origin, Reason::Malformed),
        };
        Self::new(origin, reason, detail)
    }
}

/// Something worth knowing about a sample that is otherwise good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A second-best source was used.
    Fallback {
        /// The source that was read.
        used: String,
        /// The better one and why it was not.
        instead_of: Missing,
    },
    /// One address family is not there (IPv6 switched off); the other one was read.
    FamilyAbsent(Missing),
    /// Part of a block is unknown; the rest of it stands.
    Unknown(Missing),
    /// Rows that were not understood, and so are not in the sample.
    RowsSkipped {
        /// The table they stand in.
        origin: String,
        /// How many.
        rows: u64,
        /// What is wrong with the first of them.
        first: String,
    },
    /// The kernel said of every attempt that the table changed while it was read (`NLM_F_DUMP_INTR`), so an entry may
    /// be missing.
    Unsteady(String),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fallback { used, instead_of } => write!(f, "{used} is read as the fallback: {instead_of}"),
            Self::FamilyAbsent(missing) => write!(f, "one address family only: {missing}"),
            Self::Unknown(missing) => write!(f, "{missing}"),
            Self::RowsSkipped { origin, rows, first } => write!(f, "{origin}: {rows} rows skipped, the first: {first}"),
            Self::Unsteady(origin) => write!(f, "{origin} kept changing while it was read"),
        }
    }
}

/// Counts rows that are not understood and keeps the first reason.
#[derive(Debug, Default)]
pub(super) struct Skipped {
    rows: u64,
    first: String,
}

impl Skipped {
    /// One more row, and why.
    pub(super) fn add(&mut self, why: impl fmt::Display) {
        if self.rows == 0 {
            // A row is outside data: its text is cut, so that no log line grows without end.
            self.first = why.to_string().chars().take(200).collect();
        }
        self.rows = self.rows.saturating_add(1);
    }

    /// How many there were, and the reason for the first.
    pub(super) fn so_far(&self) -> (u64, &str) {
        (self.rows, &self.first)
    }

    /// Leaves a note when there were any.
    pub(super) fn note(self, origin: &str, notes: &mut Vec<Note>) {
        if self.rows > 0 {
            notes.push(Note::RowsSkipped {
                origin: origin.to_owned(),
                rows: self.rows,
                first: self.first,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_denied_and_malformed_stay_apart_and_keep_the_cause() {
        for (errno, reason) in [
            (libc::ENOENT, Reason::Absent),
            (libc::EAFNOSUPPORT, Reason::Absent),
            (libc::EPROTONOSUPPORT, Reason::Absent),
            (libc::EACCES, Reason::Denied),
            (libc::EPERM, Reason::Denied),
            (libc::EIO, Reason::Malformed),
        ] {
            let error = CollectError::from_io("/proc/net/tcp", io::Error::from_raw_os_error(errno));
            assert!(error.source().is_some());
            let missing = Missing::from(error);
            assert_eq!(
                (missing.source.as_str(), missing.reason),
                ("/proc/net/tcp", reason),
                "errno {errno}"
            );
            assert!(missing.detail.contains(&format!("os error {errno}")), "{missing}");
        }
    }
}
