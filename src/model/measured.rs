//! A value that may not have been measured. Missing is never zero.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A measured value, or the reason there is none.
pub type Measured<T> = Result<T, Missing>;

/// Why a source gave nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reason {
    /// The kernel or host does not have it.
    Absent,
    /// It exists, but this process may not read it.
    Denied,
    /// It was read and could not be understood.
    Malformed,
    /// It was not asked for in this sample (switched off, or not due).
    NotCollected,
}

/// A source that gave no value, with enough detail to act on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// What was to be read: a path, a netlink table.
    pub source: String,
    /// The kind of failure.
    pub reason: Reason,
    /// What exactly went wrong, in words (the error chain).
    pub detail: String,
}

impl Missing {
    /// A missing value of `source` because of `reason`.
    pub fn new(source: impl Into<String>, reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            source: source.into(),
            reason,
            detail: detail.into(),
        }
    }

    /// Sorts an I/O error into absent, denied or malformed.
    #[must_use]
    pub fn from_io(source: impl Into<String>, error: &std::io::Error) -> Self {
        let reason = match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::Unsupported => Reason::Absent,
            std::io::ErrorKind::PermissionDenied => Reason::Denied,
            _ => Reason::Malformed,
        };
        Self::new(source, reason, error.to_string())
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = match self.reason {
            Reason::Absent => "absent",
            Reason::Denied => "denied",
            Reason::Malformed => "malformed",
            Reason::NotCollected => "not collected",
        };
        write!(f, "{} {reason}: {}", self.source, self.detail)
    }
}

impl std::error::Error for Missing {}
