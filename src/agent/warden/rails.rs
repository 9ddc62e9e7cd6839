//! What this host must never cut off, read from the host.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use crate::collect::{HostSample, uplink};
use crate::config::{Config, Protected as Configured};
use crate::model::ThingName;
use crate::quarantine::{Identity, Protected, Rails};

const PROC: &str = "/proc";
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The rails as they are now.
///
/// # Errors
/// In words, what could not be read: without all of it nobody new may be cut off.
pub(super) fn read(sample: &HostSample, config: &Config, core: &ThingName) -> Result<Rails, String> {
    let interfaces = sample.interfaces.as_deref().map_err(ToString::to_string)?;
    let uplink = uplink::read(Path::new(PROC), Path::new(RESOLV_CONF)).map_err(|missing| missing.to_string())?;
    let mut rails = Rails {
        gateway_macs: uplink.gateway_macs,
        gateway_addresses: uplink.gateways,
        dns_servers: uplink.dns_servers,
        protected: config.quarantine.protected.iter().map(protected).collect(),
        core: Some(core.clone()),
        ..Rails::default()
    };
    for interface in interfaces {
        rails.own_macs.extend(interface.mac);
        let addresses = interface
            .addresses
            .as_ref()
            .ok_or_else(|| format!("the addresses of {} cannot be read", interface.name))?;
        rails.own_addresses.extend(addresses.iter().map(|own| own.address));
    }
    Ok(rails)
}

/// A configured protection in the decision's words.
pub(crate) fn protected(entry: &Configured) -> Protected {
    match entry {
        Configured::Mac(mac) => Protected::Mac(*mac),
        Configured::Address(address) => Protected::Network {
            address: *address,
            prefix: if address.is_ipv4() { 32 } else { 128 },
        },
        Configured::Network(network) => Protected::Network {
            address: network.address(),
            prefix: network.prefix(),
        },
        Configured::Thing(thing) => Protected::Thing(thing.clone()),
    }
}

/// The identities with what the configuration gives things and a rail forbids. Who resolves identities leaves out what
/// is the gateway's own; without it the thing would seem to be cut off, or not to be known, when it must be refused.
pub(super) fn with_forbidden<'a>(
    identities: &'a BTreeMap<ThingName, Identity>,
    configured: &BTreeMap<ThingName, Identity>,
    rails: &Rails,
) -> Cow<'a, BTreeMap<ThingName, Identity>> {
    let mut result = Cow::Borrowed(identities);
    for (thing, identity) in configured {
        let macs = identity.macs.iter().filter(|mac| rails.forbid_mac(**mac).is_some());
        let macs: Vec<_> = macs.copied().collect();
        let addresses = identity.addresses.iter().copied();
        let addresses: Vec<_> = addresses.filter(|ip| rails.forbid_address(*ip).is_some()).collect();
        if !macs.is_empty() || !addresses.is_empty() {
            let known = result.to_mut().entry(thing.clone()).or_default();
            known.macs.extend(macs);
            known.addresses.extend(addresses);
        }
    }
    result
}
