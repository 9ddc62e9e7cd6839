//! Where the LAN was when the agent last ran: before the network is up there is nothing to see, and rules are needed.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::agent::files::{self, FileError};
use crate::firewall::Lan;
use crate::model::MacAddress;

const FILE: &str = "lan.json";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Remembered {
    bridges: BTreeSet<String>,
    interfaces: BTreeSet<String>,
    gateway_macs: BTreeSet<MacAddress>,
    gateway_addresses: BTreeSet<IpAddr>,
    broker_ports: BTreeSet<u16>,
}

/// Keep where the LAN is, for [`recall`].
pub(super) fn remember(state_dir: &Path, lan: &Lan) -> Result<(), FileError> {
    let remembered = Remembered {
        bridges: lan.bridges.clone(),
        interfaces: lan.interfaces.clone(),
        gateway_macs: lan.gateway_macs.clone(),
        gateway_addresses: lan.gateway_addresses.clone(),
        broker_ports: lan.broker_ports.clone(),
    };
    // sets of plain values: always JSON
    let content = serde_json::to_vec(&remembered).unwrap_or_default();
    files::replace(&state_dir.join(FILE), &content)
}

/// The LAN as it was, if it was kept. What cannot be read is as good as never kept: the present LAN is looked at anyway.
pub(super) fn recall(state_dir: &Path) -> Option<Lan> {
    let content = files::read(&state_dir.join(FILE)).ok().flatten()?;
    let remembered: Remembered = serde_json::from_slice(&content).ok()?;
    Some(Lan {
        bridges: remembered.bridges,
        interfaces: remembered.interfaces,
        gateway_macs: remembered.gateway_macs,
        gateway_addresses: remembered.gateway_addresses,
        broker_ports: remembered.broker_ports,
    })
}

/// The LAN to enforce on at a start: as it is now, and where it was for what is not up yet.
pub(super) fn joined(mut now: Lan, before: Option<Lan>) -> Lan {
    let Some(before) = before else { return now };
    now.bridges.extend(before.bridges);
    now.interfaces
        .extend(before.interfaces.into_iter().filter(|name| !now.bridges.contains(name)));
    now.gateway_macs.extend(before.gateway_macs);
    now.gateway_addresses.extend(before.gateway_addresses);
    if now.broker_ports.is_empty() {
        now.broker_ports = before.broker_ports;
    }
    now
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_comes_back_and_garbage_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(recall(dir.path()).is_none());
        let lan = Lan {
            bridges: BTreeSet::from(["br0".to_owned()]),
            interfaces: BTreeSet::from(["eth1".to_owned()]),
            gateway_macs: BTreeSet::from(["02:00:00:00:00:01".parse().unwrap()]),
            gateway_addresses: BTreeSet::from(["10.0.0.1".parse().unwrap()]),
            broker_ports: BTreeSet::from([8883]),
        };
        remember(dir.path(), &lan).unwrap();
        assert_eq!(recall(dir.path()).unwrap(), lan);
        assert_eq!(joined(Lan::default(), Some(lan.clone())), lan);
        std::fs::write(dir.path().join(FILE), "{\"bridges\":7}").unwrap();
        assert!(recall(dir.path()).is_none());
    }
}
