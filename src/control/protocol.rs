//! What can be asked and answered.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::{ThingName, UnixTime};
use crate::quarantine::Posture;

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
    /// Quarantine a thing on the operator's word.
    QuarantineAdd {
        /// Whom.
        thing: ThingName,
        /// How hard; as configured when absent.
        #[serde(default)]
        posture: Option<Posture>,
        /// Until when, milliseconds since 1970; until released when absent.
        #[serde(default)]
        until: Option<UnixTime>,
        /// Why.
        #[serde(default)]
        reason: Option<String>,
    },
    /// End every cause of a thing's quarantine.
    QuarantineRelease {
        /// Whom.
        thing: ThingName,
    },
    /// Who is quarantined, why and how it stands.
    QuarantineList,
    /// The decisions and the rules they make.
    QuarantinePlan,
    /// One thing's causes, decision and enforcement.
    QuarantineWhy {
        /// Whom.
        thing: ThingName,
    },
    /// The local things and the unknown devices.
    Devices,
    /// Active alarms of the security profiles, and recent ones.
    Alarms,
    /// A thing's report as it would be sent now; nothing is sent.
    Report {
        /// The core's or a local thing's.
        thing: ThingName,
        /// Its encoding.
        #[serde(default)]
        format: ReportEncoding,
        /// Its tag names.
        #[serde(default)]
        names: ReportTags,
    },
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

/// The encoding of an asked report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ReportEncoding {
    /// JSON.
    #[default]
    Json,
    /// CBOR.
    Cbor,
}

/// The tag names of an asked report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ReportTags {
    /// `bytes_in`
    #[default]
    Long,
    /// `bi`
    Short,
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
