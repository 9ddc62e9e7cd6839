//! From decisions to what the firewall is asked for, and back from what it holds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::agent::site;
use crate::collect::HostSample;
use crate::config::{AutoOr, Config, Enforcement as ConfiguredEnforcement, Posture as ConfiguredPosture};
use crate::firewall::{self, FirewallError, Holding, Isolated, Lan, Policy};
use crate::model::{MacAddress, ThingName, UnixTime};
use crate::quarantine::{Decision, EdgeCap, Enforcement, Held, Identity, Posture, Verdict};

pub(super) fn posture(config: &Config) -> Posture {
    match config.quarantine.posture {
        ConfiguredPosture::Isolate => Posture::Isolate,
        ConfiguredPosture::Remediate => Posture::Remediate,
    }
}

pub(super) fn enforcement(config: &Config) -> Enforcement {
    match config.quarantine.enforcement {
        ConfiguredEnforcement::Enforce => Enforcement::Enforce,
        ConfiguredEnforcement::Observe => Enforcement::Observe,
    }
}

pub(super) fn edge_cap(config: &Config) -> EdgeCap {
    match &config.quarantine.max_edge_quarantines {
        AutoOr::Auto => EdgeCap::Auto,
        AutoOr::Is(number) => EdgeCap::Exactly(usize::from(number.get())),
    }
}

/// The firewall's view of the LAN; `None` when the interfaces cannot be read: that is not "no LAN".
#[must_use]
pub fn lan(sample: &HostSample, config: &Config) -> Option<Lan> {
    let view = site::lan::find(sample, &config.lan.interfaces).ok()?;
    Some(Lan {
        bridges: view.bridges,
        interfaces: view.interfaces,
        gateway_macs: view.own_macs,
        gateway_addresses: view.lan_addresses,
        broker_ports: config.quarantine.broker_ports.iter().map(|port| port.get()).collect(),
    })
}

/// The identities the configuration alone gives: enough to enforce before anything was seen on the LAN.
#[must_use]
pub fn configured_identities(config: &Config) -> BTreeMap<ThingName, Identity> {
    config
        .devices
        .iter()
        .map(|device| {
            let identity = Identity {
                macs: device.macs.iter().copied().collect(),
                addresses: device.addresses.iter().map(IpAddr::to_canonical).collect(),
                fixed: device.addresses.iter().map(IpAddr::to_canonical).collect(),
                contested: BTreeSet::new(),
                in_conflict: false,
                backs_edge_action: true,
                configured: !device.macs.is_empty(),
            };
            (device.thing_name.clone(), identity)
        })
        .collect()
}

/// What the firewall is asked to hold. `ends` says when the kernel itself may let go of what ends at a time.
pub(super) fn build(
    decision: &Decision,
    lan: &Lan,
    ports: &BTreeMap<String, BTreeSet<MacAddress>>,
    ends: impl Fn(UnixTime) -> UnixTime,
) -> Policy {
    let isolated: Vec<Isolated> = decision
        .iter()
        .filter_map(|(thing, verdict)| {
            let Verdict::Cut(subject) = verdict else { return None };
            let (mut v4, mut v6) = (BTreeSet::new(), BTreeSet::new());
            // an address held by memory may be the gateway's by now, and the rails unreadable
            let gateway = &lan.gateway_addresses;
            for address in subject.addresses.iter().filter(|address| !gateway.contains(address)) {
                match address {
                    IpAddr::V4(address) => v4.insert(*address),
                    IpAddr::V6(address) => v6.insert(*address),
                };
            }
            Some(Isolated {
                label: thing.as_str().to_owned(),
                macs: subject.macs.clone(),
                v4,
                v6,
                posture: match subject.posture {
                    Posture::Isolate => firewall::Posture::Isolate,
                    Posture::Remediate => firewall::Posture::Remediate,
                },
                until: subject.until.map(&ends),
            })
        })
        .collect();
    let cut: BTreeSet<MacAddress> = isolated
        .iter()
        .flat_map(|isolated| isolated.macs.iter().copied())
        .collect();
    let quiet: BTreeSet<String> = ports
        .iter()
        .filter(|(_, devices)| !devices.is_empty() && devices.is_subset(&cut))
        .map(|(port, _)| port.clone())
        .collect();
    Policy {
        lan: lan.clone(),
        isolated,
        quiet_ports: (!quiet.is_empty()).then_some(quiet),
    }
}

/// The things that are to be cut off.
pub(super) fn cut(decision: &Decision) -> impl Iterator<Item = &ThingName> {
    let cut = |verdict: &Verdict| matches!(verdict, Verdict::Cut(_));
    decision
        .iter()
        .filter(move |(_, verdict)| cut(verdict))
        .map(|(thing, _)| thing)
}

/// Every IP address a policy cuts off.
pub(super) fn addresses(policy: &Policy) -> BTreeSet<IpAddr> {
    policy
        .isolated
        .iter()
        .flat_map(|isolated| {
            let v4 = isolated.v4.iter().map(|address| IpAddr::V4(*address));
            v4.chain(isolated.v6.iter().map(|address| IpAddr::V6(*address)))
        })
        .collect()
}

/// How the kernel holds one device. `failure` is why the last attempt to write the rules failed, if it did.
pub(super) fn held(
    read: &Result<Option<firewall::Enforced>, FirewallError>,
    isolated: &Isolated,
    failure: Option<&str>,
) -> Held {
    let held = match read {
        Err(error) => return Held::No(super::chain(error)),
        Ok(None) => Holding::Absent,
        Ok(Some(held)) => held.holds(isolated),
    };
    let because = |otherwise: &str| Held::No(failure.unwrap_or(otherwise).to_owned());
    match held {
        Holding::Whole => Held::Full,
        Holding::Partial => because("some of its rules are not in the kernel; being written again"),
        Holding::Absent => because("the kernel does not hold it"),
    }
}

pub(super) fn posture_from_kernel(posture: firewall::Posture) -> Posture {
    match posture {
        firewall::Posture::Isolate => Posture::Isolate,
        firewall::Posture::Remediate => Posture::Remediate,
    }
}
