//! Alarms at rest: `alarms.json` in the state folder.
//!
//! With the alarms stand the events that were told as they were written, under their numbers in the outbox's journal. Two
//! files cannot change at once: the alarms are written first, and after a crash before the journal had the events, the
//! outbox takes them from here. So no alarm stays without its event, and none is told twice.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::agent::files::{self, chain};
use crate::detect::Saved;

/// Where alarms are kept, in the state folder.
const FILE: &str = "alarms.json";
/// The key of the events in the file, which is otherwise what [`Saved`] says.
const EVENTS: &str = "told";

/// Events told with a change of alarms.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Told {
    /// The first one's number in the outbox; the others follow it.
    pub(super) first: u64,
    pub(super) payloads: Vec<String>,
}

/// The document for these alarms and events; `None` for what no engine gives.
pub(super) fn document(alarms: &Saved, told: &Told) -> Option<String> {
    let text = alarms.to_json().ok()?;
    if told.payloads.is_empty() {
        return Some(text);
    }
    let mut document: Value = serde_json::from_str(&text).ok()?;
    let told = serde_json::to_value(told).ok()?;
    document.as_object_mut()?.insert(EVENTS.to_owned(), told);
    Some(document.to_string())
}

/// Writes a document where [`recall`] finds it.
pub(super) fn write(state_dir: &Path, document: &str) -> Result<(), files::FileError> {
    files::replace(&state_dir.join(FILE), document.as_bytes())
}

/// What is kept in the state folder; what is wrong with it, if it cannot be used.
pub(super) fn recall(state_dir: &Path) -> (Option<(Saved, Told)>, Option<String>) {
    let path = state_dir.join(FILE);
    let content = match files::read(&path) {
        Ok(None) => return (None, None),
        Ok(Some(content)) => content,
        Err(error) => return (None, Some(chain(&error))),
    };
    match parse(&String::from_utf8_lossy(&content)) {
        Ok(kept) => (Some(kept), None),
        Err(words) => (None, Some(format!("{}: {words}", path.display()))),
    }
}

fn parse(text: &str) -> Result<(Saved, Told), String> {
    let malformed = |error: serde_json::Error| format!("saved alarms: malformed: {error}");
    let mut document: Value = serde_json::from_str(text).map_err(malformed)?;
    let told = document.as_object_mut().and_then(|document| document.remove(EVENTS));
    let told = told.map(serde_json::from_value).transpose().map_err(malformed)?;
    let alarms = Saved::from_json(&document.to_string()).map_err(|error| chain(&error))?;
    Ok((alarms, told.unwrap_or_default()))
}
