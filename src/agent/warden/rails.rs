//! What this host must never cut off, read from the host.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use crate::collect::HostSample;
use crate::collect::uplink::{self, Uplink};
use crate::config::{Config, Protected as Configured};
use crate::model::{MacAddress, Measured, Monotonic, ThingName};
use crate::quarantine::{Identity, Protected, Rails};

const PROC: &str = "/proc";
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// What was read of the uplink serves this long: many may be cut off one after the other.
const FRESH: Duration = Duration::from_secs(1);

/// What must never be cut off: read when somebody is to be, and with every sample while somebody is.
pub(super) struct RailsWatch {
    /// Gateways and DNS servers: the one place where they are read.
    uplink: Box<dyn FnMut() -> Measured<Uplink> + Send>,
    core: ThingName,
    protected: Vec<Protected>,
    /// MAC and IP addresses of the gateway itself, by the last sample.
    own: Result<(BTreeSet<MacAddress>, BTreeSet<IpAddr>), String>,
    read_at: Option<Monotonic>,
    rails: Result<Rails, String>,
    /// Why the last reading failed, also when an older one still serves.
    trouble: Option<String>,
}

impl RailsWatch {
    pub(super) fn of_this_host(core: &ThingName) -> Self {
        Self::reading(core, || uplink::read(Path::new(PROC), Path::new(RESOLV_CONF)))
    }

    fn reading(core: &ThingName, uplink: impl FnMut() -> Measured<Uplink> + Send + 'static) -> Self {
        Self {
            uplink: Box::new(uplink),
            core: core.clone(),
            protected: Vec::new(),
            own: Err("this host's addresses were not read yet".to_owned()),
            read_at: None,
            rails: Err("not read yet".to_owned()),
            trouble: None,
        }
    }

    pub(super) fn set_core(&mut self, core: &ThingName) {
        self.core.clone_from(core);
        self.read_at = None;
    }

    pub(super) fn configure(&mut self, config: &Config) {
        self.protected = config.quarantine.protected.iter().map(protected).collect();
        self.read_at = None;
    }

    /// What a sample says about the gateway's own addresses.
    pub(super) fn own(&mut self, sample: &HostSample) {
        let own = own_addresses(sample);
        if self.own != own {
            self.own = own;
            self.read_at = None;
        }
    }

    /// The rails, or why they are not known: without all of them nobody new may be cut off.
    pub(super) fn known(&self) -> Result<&Rails, &str> {
        self.rails.as_ref().map_err(String::as_str)
    }

    /// Why the last reading failed, if it did.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.clone()
    }

    /// Read anew, unless that was just done; true when something changed.
    pub(super) fn read(&mut self, now: Monotonic) -> bool {
        if self.read_at.is_some_and(|at| now.since(at) < FRESH) {
            return false;
        }
        self.read_at = Some(now);
        let rails = self.read_all();
        self.trouble = rails.as_ref().err().cloned();
        // what was read before is better than nothing
        if rails == self.rails || (rails.is_err() && self.rails.is_ok()) {
            return false;
        }
        self.rails = rails;
        true
    }

    fn read_all(&mut self) -> Result<Rails, String> {
        let (own_macs, own_addresses) = self.own.clone()?;
        let uplink = (self.uplink)().map_err(|missing| missing.to_string())?;
        Ok(Rails {
            own_macs,
            own_addresses,
            gateway_macs: uplink.gateway_macs,
            gateway_addresses: uplink.gateways,
            dns_servers: uplink.dns_servers,
            protected: self.protected.clone(),
            core: Some(self.core.clone()),
        })
    }
}

fn own_addresses(sample: &HostSample) -> Result<(BTreeSet<MacAddress>, BTreeSet<IpAddr>), String> {
    let interfaces = sample.interfaces.as_deref().map_err(ToString::to_string)?;
    let (mut macs, mut all) = (BTreeSet::new(), BTreeSet::new());
    for interface in interfaces {
        macs.extend(interface.mac);
        let addresses = interface
            .addresses
            .as_ref()
            .ok_or_else(|| format!("the addresses of {} cannot be read", interface.name))?;
        all.extend(addresses.iter().map(|own| own.address));
    }
    Ok((macs, all))
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::model::{Missing, Reason};

    fn at(millis: u64) -> Monotonic {
        Monotonic(Duration::from_millis(millis))
    }

    #[test]
    fn a_burst_of_decisions_reads_once_and_a_failure_keeps_what_was_known() {
        let (say, answers) = mpsc::channel::<Measured<Uplink>>();
        let dns = |last: u8| Uplink {
            dns_servers: [IpAddr::from([10, 0, 0, last])].into(),
            ..Uplink::default()
        };
        let mut rails = RailsWatch::reading(&"core".parse().unwrap(), move || answers.try_recv().unwrap());
        assert!(rails.known().is_err(), "nothing is known before it was read");
        rails.own = Ok((BTreeSet::new(), BTreeSet::new()));

        say.send(Ok(dns(1))).unwrap();
        assert!(rails.read(at(0)));
        // asking the empty channel would end the test
        assert!(!rails.read(at(999)));
        assert_eq!(rails.known().unwrap().dns_servers, dns(1).dns_servers);

        say.send(Ok(dns(1))).unwrap();
        assert!(!rails.read(at(1000)), "the same again is no change");
        say.send(Ok(dns(2))).unwrap();
        assert!(rails.read(at(2000)));

        say.send(Err(Missing::new("route", Reason::Denied, "no"))).unwrap();
        assert!(!rails.read(at(3000)));
        assert!(rails.trouble().unwrap().contains("route"));
        assert_eq!(rails.known().unwrap().dns_servers, dns(2).dns_servers);
        // a configuration counts at once
        say.send(Ok(dns(2))).unwrap();
        rails.configure(&Config::default());
        rails.read(at(3001));
        assert_eq!(rails.trouble(), None);
    }
}
