//! What the registry is told.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::Deserialize;

use super::leases::Lease;
use crate::collect::neighbours::{BridgeEntry, Neighbour, NeighbourEvent};
use crate::model::{MacAddress, ThingName, ThingNameError};

/// The most MAC addresses one thing may register.
pub const MAX_REGISTERED_MACS: usize = 8;
/// The longest registration message, in bytes.
const MAX_REGISTRATION: usize = 4_096;

/// A local thing as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfiguredDevice {
    /// Its name.
    pub thing: ThingName,
    /// Its MAC addresses; when there are none, whoever holds its addresses is taken for it.
    pub macs: Vec<MacAddress>,
    /// Its fixed addresses.
    pub addresses: Vec<IpAddr>,
    /// False for a thing that sends its own reports.
    pub report: bool,
}

/// The other end of an established connection to the broker on this core.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BrokerPeer {
    /// Where it comes from.
    pub address: IpAddr,
    /// The thing on it, for brokers that say so.
    pub thing: Option<ThingName>,
}

/// One thing told to the registry.
#[derive(Debug, Clone)]
pub enum Observation {
    /// The configured things: all of them, replacing what was configured before.
    Configured(Vec<ConfiguredDevice>),
    /// A thing registered its MAC addresses: all of them, replacing what it registered before.
    Registered(Registration),
    /// A lease file was read: all its leases. An absent file has none.
    Leases {
        /// Its path, or any other name that tells files apart.
        file: String,
        /// What [`super::leases::parse`] found.
        leases: Vec<Lease>,
    },
    /// The whole neighbour table (IPv4 and IPv6).
    Neighbours(Vec<Neighbour>),
    /// A change in the neighbour tables or bridges.
    Neighbour(NeighbourEvent),
    /// One entry of a bridge's forwarding table.
    Port(BridgeEntry),
    /// The gateway's own MAC and IP addresses, on all its interfaces: never a device's.
    GatewayOwn {
        /// MAC addresses.
        macs: BTreeSet<MacAddress>,
        /// IP addresses.
        addresses: BTreeSet<IpAddr>,
    },
    /// The LAN interfaces by name, bridges and their ports alike. Neighbours on any other are no devices.
    LanInterfaces(BTreeSet<String>),
    /// All established connections to the broker at this time.
    BrokerPeers(BTreeSet<BrokerPeer>),
}

/// A thing's word on its own MAC addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The thing, as the topic proved it.
    pub thing: ThingName,
    /// Its MAC addresses, each once, at most [`MAX_REGISTERED_MACS`].
    pub macs: BTreeSet<MacAddress>,
}

/// A registration that is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// The topic names no possible thing.
    #[error("registration refused")]
    Thing(#[source] ThingNameError),
    /// The message is not `{"macs": [..]}`.
    #[error("registration of {thing}: the message is malformed")]
    Message {
        /// The thing.
        thing: ThingName,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The message is longer than any list of MAC addresses.
    #[error("registration of {thing}: {bytes} bytes are too many")]
    TooLong {
        /// The thing.
        thing: ThingName,
        /// Its length.
        bytes: usize,
    },
    /// There are more MAC addresses than a device has.
    #[error("registration of {thing}: {count} MAC addresses, at most {MAX_REGISTERED_MACS} are allowed")]
    TooMany {
        /// The thing.
        thing: ThingName,
        /// How many were given.
        count: usize,
    },
    /// Zero and group addresses belong to no device.
    #[error("registration of {thing}: {mac} is no device's MAC address")]
    NoDevice {
        /// The thing.
        thing: ThingName,
        /// The address.
        mac: MacAddress,
    },
}

impl Registration {
    /// Reads the message `{"macs": ["02:aa:00:00:00:01"]}` that came on the topic of `thing`. Other keys are ignored.
    ///
    /// # Errors
    /// See [`RegistrationError`]: a registration is taken whole or not at all.
    pub fn parse(thing: &str, message: &[u8]) -> Result<Self, RegistrationError> {
        #[derive(Deserialize)]
        struct Message {
            macs: Vec<MacAddress>,
        }
        let thing: ThingName = thing.parse().map_err(RegistrationError::Thing)?;
        let bytes = message.len();
        if bytes > MAX_REGISTRATION {
            return Err(RegistrationError::TooLong { thing, bytes });
        }
        let macs: BTreeSet<MacAddress> = match serde_json::from_slice::<Message>(message) {
            Ok(message) => message.macs.into_iter().collect(),
            Err(source) => return Err(RegistrationError::Message { thing, source }),
        };
        if macs.len() > MAX_REGISTERED_MACS {
            let count = macs.len();
            return Err(RegistrationError::TooMany { thing, count });
        }
        if let Some(mac) = macs.iter().copied().find(|mac| mac.is_group() || mac.is_zero()) {
            return Err(RegistrationError::NoDevice { thing, mac });
        }
        Ok(Self { thing, macs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_a_registration_whole_or_not_at_all() {
        let good = Registration::parse("cam-1", br#"{"macs":["02:AA:00:00:00:01"],"model":"x"}"#).unwrap();
        assert_eq!(good.macs.len(), 1);
        let many: Vec<String> = (0..9).map(|n| format!("\"02:aa:00:00:00:0{n}\"")).collect();
        let many = format!("{{\"macs\":[{}]}}", many.join(","));
        let long = format!("{{\"macs\":[],\"x\":\"{}\"}}", "y".repeat(5000));
        for (thing, message) in [
            ("cam/1", r#"{"macs":[]}"#),
            ("\"}; flush ruleset", r#"{"macs":[]}"#),
            ("cam-1", "{}"),
            ("cam-1", "not json"),
            ("cam-1", r#"{"macs":["x"]}"#),
            ("cam-1", r#"{"macs":["33:33:00:00:00:01"]}"#),
            ("cam-1", &many),
            ("cam-1", &long),
        ] {
            assert!(
                Registration::parse(thing, message.as_bytes()).is_err(),
                "{thing} {message}"
            );
        }
    }
}
