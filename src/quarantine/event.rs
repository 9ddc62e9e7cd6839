//! What may change who is quarantined, and what the agent must do about it.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cause::{CauseKey, Posture, ShadowRef};
use super::shadow::ShadowReading;
use crate::model::{MacAddress, ThingName, UnixTime};

/// An alarm of a security profile about one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    /// About whom.
    pub thing: ThingName,
    /// The profile (`securityProfileName`).
    pub profile: String,
    /// The behavior (`behavior.name`).
    pub behavior: String,
    /// The violation (`violationId`). Another one of the same behavior renews the cause.
    pub violation_id: String,
    /// Whether the alarm's end releases ([`Event::AlarmCleared`]).
    pub release_when_cleared: bool,
    /// How long after its begin the cause ends by itself; `None`: not by itself.
    pub lasts: Option<Duration>,
    /// Whether the thing's identity is good enough to act on ([`super::Identity::backs_edge_action`] and no conflict).
    pub trusted: bool,
    /// How many devices are known, for the cap ([`super::EdgeCap`]).
    pub known: usize,
}

impl Alarm {
    /// The cause it is.
    #[must_use]
    pub fn key(&self) -> CauseKey {
        CauseKey::Edge {
            profile: self.profile.clone(),
            behavior: self.behavior.clone(),
        }
    }
}

/// Something that may change who is quarantined.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A shadow document was read.
    Shadow {
        /// Whose.
        thing: ThingName,
        /// Which.
        shadow: ShadowRef,
        /// What it says.
        reading: ShadowReading,
    },
    /// A security profile with `onAlarm: quarantine` went into alarm. To be said once per violation; saying it again
    /// changes nothing while its cause holds.
    Alarm(Alarm),
    /// That alarm cleared, or became invalid (its profile is gone): it waits for room no longer, and its cause ends if
    /// the alarm said `release_when_cleared`.
    AlarmCleared {
        /// About whom.
        thing: ThingName,
        /// The profile.
        profile: String,
        /// The behavior.
        behavior: String,
        /// The datapoints that cleared it were taken while the thing was cut off, of a metric that the cut itself
        /// changes: it says nothing about the thing, so it releases nothing. A metric is spared by the cut only when it
        /// counts attempts before the verdict (bytes, packets and connection attempts the thing sends).
        silenced: bool,
    },
    /// The operator asks for it.
    OperatorAdd {
        /// Whom.
        thing: ThingName,
        /// How hard; `None` as configured.
        posture: Option<Posture>,
        /// Until when; `None` until released.
        until: Option<UnixTime>,
        /// Why, in the operator's words.
        reason: Option<String>,
        /// Who (user name or uid of the asking process).
        who: String,
    },
    /// The operator ends every cause.
    OperatorRelease {
        /// Of whom.
        thing: ThingName,
        /// Who (user name or uid of the asking process).
        who: String,
    },
    /// The kernel holds entries for a thing that no stored cause explains.
    Recovered {
        /// For whom; a device nobody can name is `mac:02:aa:00:00:00:01`, which is a thing name too.
        thing: ThingName,
        /// How hard the kernel cuts it.
        posture: Posture,
        /// The MAC addresses the kernel holds.
        macs: BTreeSet<MacAddress>,
    },
    /// Time passed.
    Tick,
}

/// What the agent must do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Make the kernel follow the causes as they are now.
    Enforce,
    /// Write [`super::Quarantine::stored`] to disk.
    Persist,
    /// Tell the shadows of this thing how things stand.
    ReportShadow(ThingName),
    /// Append to the audit log.
    Audit(AuditEntry),
}

/// One line of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditEntry {
    /// When, by the wall clock (milliseconds since 1970).
    pub time: UnixTime,
    /// About whom.
    pub thing: ThingName,
    /// Who or what caused it: a cause, or the operator's name.
    pub who: String,
    /// What happened, in words.
    pub what: String,
    /// The causes in force before.
    pub before: Vec<String>,
    /// The causes in force after.
    pub after: Vec<String>,
}
