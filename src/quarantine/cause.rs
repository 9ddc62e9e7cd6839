//! Causes: who wants a thing quarantined.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::UnixTime;

/// What a quarantined thing may still do. Ordered: the stricter posture is the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Posture {
    /// As `Isolate`, and TLS/MQTT to the core's own broker ports.
    Remediate,
    /// Nothing but ARP/ND with the gateway and DHCP, to keep the lease.
    Isolate,
}

impl fmt::Display for Posture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Remediate => "remediate",
            Self::Isolate => "isolate",
        })
    }
}

/// Which shadow document of a thing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShadowRef {
    /// The unnamed shadow; devices themselves can usually write it.
    Classic,
    /// A named shadow; closed to devices by policy (docs/security.md).
    Named(String),
}

impl fmt::Display for ShadowRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Classic => f.write_str("shadow"),
            Self::Named(name) => write!(f, "shadow:{name}"),
        }
    }
}

/// What tells two causes of one thing apart; a second demand under the same key replaces the first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CauseKey {
    /// A shadow's `desired.quarantine`.
    Shadow(ShadowRef),
    /// An alarm of a security profile evaluated here.
    Edge {
        /// The security profile.
        profile: String,
        /// Its behavior.
        behavior: String,
    },
    /// The operator at the command line.
    Operator,
    /// The kernel held entries for this thing and no stored cause explains them; only the operator ends it.
    Recovered,
}

impl fmt::Display for CauseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shadow(shadow) => shadow.fmt(f),
            Self::Edge { profile, behavior } => write!(f, "edge:{profile}/{behavior}"),
            Self::Operator => f.write_str("operator"),
            Self::Recovered => f.write_str("recovered"),
        }
    }
}

/// One cause in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cause {
    /// How hard to cut.
    pub posture: Posture,
    /// When it began (for a shadow: the desired key's metadata timestamp).
    pub since: UnixTime,
    /// When it ends by itself; `None` never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<UnixTime>,
    /// In the demander's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who asked for it, when that is a person: the operator, as the kernel names the asking process' user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// The alarm behind an edge cause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub violation_id: Option<String>,
    /// An edge cause that ends when its alarm clears.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub release_when_cleared: bool,
}
