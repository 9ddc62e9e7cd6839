//! What can be asked and answered.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::ThingName;

/// A question to the running agent, as one line of JSON: `{"verb":"status"}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "verb",
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub enum Request {
    /// Everything the agent knows about its own work.
    Status,
    /// Write `desired` into a thing's shadow; only the embedded stand-in can (with AWS, use AWS).
    WriteDesired {
        /// Whose shadow.
        thing: ThingName,
        /// The named shadow, or the classic one.
        #[serde(default)]
        name: Option<String>,
        /// Merged into `state.desired`; null deletes a key.
        desired: Value,
    },
}

/// The agent's answer, as one line of JSON: `{"ok": ...}` or `{"error": "..."}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// What was asked for.
    Ok(Value),
    /// Why it could not be done, in words for a person.
    Error(String),
}
