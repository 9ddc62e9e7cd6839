//! What survives a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::alarm::Waiting;
use super::cause::{Cause, CauseKey, ShadowRef};
use super::clock::SavedClock;
use super::shadow::DesiredQuarantine;
use crate::model::{MacAddress, ThingName, UnixTime};

/// The newest layout of [`Stored`]; a file of a newer one still is refused rather than half understood.
///
/// 1: causes, what was heard, the clock. 2: and alarms that wait for room, and who the operator was. 3: and learnt IP
/// addresses. What a state does not need is not asked of its reader: without learnt addresses layout 2 or 1 is written,
/// so that going back to the version before works.
pub const SCHEMA: u32 = 3;

/// What a shadow document last said, to tell news from echoes and replays.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Heard {
    pub(super) version: u64,
    /// The newest time at which `desired.quarantine` was written, as far as heard.
    pub(super) written: UnixTime,
    pub(super) asked: DesiredQuarantine,
    /// When the document was last read (the later of our clocks): what began before was there before what follows.
    pub(super) read: UnixTime,
    /// The document was deleted since. One without the key that stands in its place is no key removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) deleted: bool,
    /// What was wrong with it, for `quarantineStatus.failure`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) failure: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ThingState {
    #[serde(default, with = "pairs")]
    pub(super) causes: BTreeMap<CauseKey, Cause>,
    #[serde(default, with = "pairs")]
    pub(super) heard: BTreeMap<ShadowRef, Heard>,
    /// The MAC addresses it is cut off under, so that it is cut off after a reboot before anybody names it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) bound: BTreeSet<MacAddress>,
    /// The learnt IP addresses it is cut off under, so that a new MAC address alone frees nobody after a reboot.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) addresses: BTreeSet<IpAddr>,
}

/// What is written to disk, with everything a restart needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Stored {
    /// The oldest layout that holds this state; at most [`SCHEMA`].
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) clock: Option<SavedClock>,
    pub(super) things: BTreeMap<ThingName, ThingState>,
    /// When an alarm last cut each thing off, within the last hour (by the estimate of `clock`).
    #[serde(default)]
    pub(super) edge_cuts: BTreeMap<ThingName, UnixTime>,
    /// Alarms that wait for room under the cap, the first first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) waiting: Vec<Waiting>,
}

impl Stored {
    /// Nobody: what a new installation begins with.
    #[must_use]
    pub fn nobody() -> Self {
        Self {
            schema_version: 1,
            clock: None,
            things: BTreeMap::new(),
            edge_cuts: BTreeMap::new(),
            waiting: Vec::new(),
        }
    }
}

/// JSON objects have text keys only; these maps are stored as lists of pairs.
mod pairs {
    use std::collections::BTreeMap;

    use serde::de::DeserializeOwned;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<K: Serialize, V: Serialize, S: Serializer>(
        map: &BTreeMap<K, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map)
    }

    pub(super) fn deserialize<'de, K: DeserializeOwned + Ord, V: DeserializeOwned, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<K, V>, D::Error> {
        Ok(Vec::<(K, V)>::deserialize(deserializer)?.into_iter().collect())
    }
}
