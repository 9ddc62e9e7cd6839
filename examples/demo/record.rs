//! What was measured. Times are seconds since the story began.

use serde::{Serialize, Serializer};
use serde_json::Value;

/// JSON as it is to be read: the template engine would sort its keys.
#[derive(Debug, Clone)]
pub(crate) struct Pretty(pub(crate) Value);

impl Serialize for Pretty {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = serde_json::to_string_pretty(&self.0);
        serializer.serialize_str(&text.map_err(serde::ser::Error::custom)?)
    }
}

/// The whole story.
#[derive(Debug, Serialize)]
pub(crate) struct Record {
    /// When it was made, UTC.
    pub(crate) date: String,
    /// The agent: what `--version` says, and the size of its binary in bytes.
    pub(crate) version: String,
    pub(crate) binary_bytes: u64,
    pub(crate) kernel: String,
    /// From the first namespace to a site in which everything reaches everything.
    pub(crate) site_seconds: f64,
    /// From starting the agent's process to its first answer.
    pub(crate) start_seconds: f64,
    pub(crate) seconds: f64,
    pub(crate) devices: Vec<Device>,
    pub(crate) events: Vec<Event>,
    pub(crate) samples: Vec<Sample>,
    pub(crate) cuts: Vec<Cut>,
    pub(crate) documents: Vec<Document>,
    pub(crate) neighbours: Neighbours,
    pub(crate) reports: Reports,
    pub(crate) configuration: Pretty,
}

/// One device of the site.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Device {
    pub(crate) thing: &'static str,
    pub(crate) role: &'static str,
    pub(crate) place: &'static str,
    pub(crate) mac: String,
    pub(crate) address: String,
    pub(crate) rogue: bool,
}

/// Who did what at a point of the timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Who {
    Site,
    Device,
    Rogue,
    Alarm,
    Cloud,
    Warden,
    Operator,
}

/// One line of the timeline.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Event {
    pub(crate) at: f64,
    pub(crate) who: Who,
    pub(crate) text: String,
    /// What was typed, if it was a command.
    pub(crate) command: Option<String>,
}

/// Totals per device at one moment.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sample {
    pub(crate) at: f64,
    /// Frames each device's own interface has sent.
    pub(crate) sent: Vec<u64>,
    /// Packets of each device seen at the internet or at another device.
    pub(crate) arrived: Vec<u64>,
}

/// One quarantine from its demand to its end.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Cut {
    pub(crate) title: &'static str,
    pub(crate) device: usize,
    /// What the clock of the cut starts with.
    pub(crate) demand: &'static str,
    /// When the device began to misbehave.
    pub(crate) rogue_at: f64,
    /// When the demand was made: the shadow written, or the contact made.
    pub(crate) demanded_at: f64,
    /// When the last packet that still got through was sent.
    pub(crate) last_passed_at: f64,
    /// When the agent was first seen to say that the kernel holds the cut.
    pub(crate) enforced_at: f64,
    pub(crate) release_at: f64,
    /// When the first packet that got through again was sent.
    pub(crate) first_passed_at: f64,
    /// Stamped packets the device sent while it was reported as cut off.
    pub(crate) attempts: u64,
    /// Of those, how many arrived anywhere.
    pub(crate) leaked: u64,
    /// Packets the kernel counted as dropped, as the agent reports them.
    pub(crate) dropped: Option<u64>,
    /// The message about the alarm, in AWS's form.
    pub(crate) violation: Pretty,
}

/// A shadow at a moment.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Document {
    pub(crate) at: f64,
    pub(crate) title: String,
    pub(crate) document: Pretty,
}

/// What the devices that did nothing wrong noticed of it all.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Neighbours {
    /// Telemetry packets they sent, and how many arrived.
    pub(crate) sent: u64,
    pub(crate) arrived: u64,
    /// Requests on their TCP connections, how many were answered, and the slowest answer in milliseconds.
    pub(crate) requests: u64,
    pub(crate) answered: u64,
    pub(crate) slowest_ms: f64,
    /// The same for the whole time before anything went wrong.
    pub(crate) slowest_before_ms: f64,
}

/// The Device Defender reports the agent published.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Reports {
    pub(crate) count: usize,
    /// The rogue's own, with its flood in it.
    pub(crate) example: Option<Pretty>,
}
