//! What one thing looked like at one instant.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{Counters, Measured, Missing};

/// An established TCP connection, seen from the thing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connection {
    /// The other end. Addresses of the form `::ffff:a.b.c.d` are folded to IPv4 before they get here.
    pub remote: SocketAddr,
    /// The thing's own port.
    pub local_port: u16,
    /// The thing's interface that carries the local address; `None` when it cannot be told.
    pub local_interface: Option<String>,
}

/// A port on which the thing takes connections or datagrams.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListeningPort {
    /// The port number, never 0.
    pub port: u16,
    /// The interface it is bound to; `None` for a wildcard bind (any interface) or when it cannot be told.
    pub interface: Option<String>,
}

/// The value of a custom metric, one of the four AWS types (API CreateCustomMetric, `metricType`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum CustomValue {
    /// `number`
    #[serde(rename = "number")]
    Number(f64),
    /// `number-list`
    #[serde(rename = "number_list")]
    NumberList(Vec<f64>),
    /// `string-list`
    #[serde(rename = "string_list")]
    StringList(Vec<String>),
    /// `ip-address-list`
    #[serde(rename = "ip_list")]
    IpList(Vec<IpAddr>),
}

impl CustomValue {
    /// The type of this value.
    #[must_use]
    pub fn kind(&self) -> CustomType {
        match self {
            Self::Number(_) => CustomType::Number,
            Self::NumberList(_) => CustomType::NumberList,
            Self::StringList(_) => CustomType::StringList,
            Self::IpList(_) => CustomType::IpAddressList,
        }
    }
}

/// The declared type of a custom metric, which AWS never lets change (API CreateCustomMetric, `metricType`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CustomType {
    /// `number`
    #[default]
    Number,
    /// `number-list`
    NumberList,
    /// `string-list`
    StringList,
    /// `ip-address-list`
    IpAddressList,
}

impl CustomType {
    /// The word of the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Number => "number",
            Self::NumberList => "number-list",
            Self::StringList => "string-list",
            Self::IpAddressList => "ip-address-list",
        }
    }
}

/// Everything measured about one thing at one instant, in the thing's own point of view; a block that could not be
/// measured says why.
#[derive(Debug, Clone, PartialEq)]
pub struct ThingReading {
    /// Traffic totals that only grow: what `report::Ledger` makes of raw kernel counters.
    pub traffic: Measured<Counters>,
    /// Established TCP connections, each once.
    pub established: Measured<Vec<Connection>>,
    /// Established TCP connections beyond those listed, where a source lists only so many.
    pub established_unlisted: u64,
    /// TCP ports listened on, each (port, interface) once.
    pub listening_tcp: Measured<Vec<ListeningPort>>,
    /// UDP ports bound and unconnected, each (port, interface) once.
    pub listening_udp: Measured<Vec<ListeningPort>>,
    /// Custom metrics by name; one that could not be measured is not in the map.
    pub custom: BTreeMap<String, CustomValue>,
}

impl ThingReading {
    /// How many TCP connections are established, listed or not.
    ///
    /// # Errors
    /// They could not be measured.
    pub fn established_total(&self) -> Measured<u64> {
        let listed = self.established.as_ref().map_err(Missing::clone)?.len();
        let listed = u64::try_from(listed).unwrap_or(u64::MAX);
        Ok(listed.saturating_add(self.established_unlisted))
    }
}
