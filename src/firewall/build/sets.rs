//! From a policy to the sets its rules look into.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::names::{
    ARP_LIMIT, BROKER_LIMIT, BROKER_PORTS, DHCP_LIMIT, DROPS, GATEWAY4, GATEWAY6, IP4, IP6, MAC, ND_LIMIT, QUIET_PORTS,
    REMEDIATE_IP4, REMEDIATE_IP6, REMEDIATE_MAC,
};
use crate::firewall::policy::{Isolated, Policy, Posture};
use crate::firewall::table::{Each, Element, Elements, Key, Set, interface_key};
use crate::model::UnixTime;

/// Keys of a set, with what is told with each.
pub(super) type Keys = BTreeMap<Vec<u8>, Element>;

/// Every set, in the order they are created.
pub(super) fn sets(policy: &Policy, now: UnixTime) -> Vec<Set> {
    let live: Vec<&Isolated> = policy
        .isolated
        .iter()
        .filter(|i| i.until.is_none_or(|until| until > now))
        .collect();
    let macs = keys(&live, |i| i.macs.iter().map(|mac| mac.0.to_vec()).collect());
    let ip4 = keys(&live, |i| i.v4.iter().map(|a| a.octets().to_vec()).collect());
    let ip6 = keys(&live, |i| i.v6.iter().map(|a| a.octets().to_vec()).collect());
    let gateway4 = policy.lan.gateway_addresses.iter().filter_map(|a| match a {
        IpAddr::V4(v4) => Some(v4.octets().to_vec()),
        IpAddr::V6(_) => None,
    });
    let gateway6 = policy.lan.gateway_addresses.iter().filter_map(|a| match a {
        IpAddr::V6(v6) => Some(v6.octets().to_vec()),
        IpAddr::V4(_) => None,
    });
    let ports = policy.lan.broker_ports.iter().map(|port| port.to_be_bytes().to_vec());
    let quiet = policy.quiet_ports.iter().flatten().map(|name| interface_key(name));
    let limit = |per_second, burst| Each::Limit { per_second, burst };
    let listed = |name, key, each, elements| Set {
        name,
        key,
        each,
        elements: Elements::Listed(elements),
    };

    let mut sets = vec![
        listed(GATEWAY4, Key::Ip4, Each::Nothing, fixed(gateway4)),
        listed(GATEWAY6, Key::Ip6, Each::Nothing, fixed(gateway6)),
        listed(BROKER_PORTS, Key::Service, Each::Nothing, fixed(ports)),
        listed(QUIET_PORTS, Key::Interface, Each::Nothing, fixed(quiet)),
        listed(ARP_LIMIT, Key::Ether, limit(20, 20), forever(&macs.all)),
        listed(ND_LIMIT, Key::Ether, limit(20, 20), forever(&macs.all)),
        listed(DHCP_LIMIT, Key::Ether, limit(5, 10), forever(&macs.all)),
        listed(BROKER_LIMIT, Key::Ether, limit(1000, 1000), forever(&macs.remediate)),
        listed(REMEDIATE_MAC, Key::Ether, Each::Nothing, forever(&macs.remediate)),
        listed(REMEDIATE_IP4, Key::Ip4, Each::Nothing, forever(&ip4.remediate)),
        listed(REMEDIATE_IP6, Key::Ip6, Each::Nothing, forever(&ip6.remediate)),
    ];
    for (name, key) in DROPS {
        let elements = match key {
            Key::Ip4 => forever(&ip4.all),
            Key::Ip6 => forever(&ip6.all),
            _ => forever(&macs.all),
        };
        sets.push(listed(name, key, Each::Counter, elements));
    }
    sets.push(listed(MAC, Key::Ether, Each::Timeout, macs.all));
    sets.push(listed(IP4, Key::Ip4, Each::Timeout, ip4.all));
    sets.push(listed(IP6, Key::Ip6, Each::Timeout, ip6.all));
    sets
}

/// Keys of one kind: all of them, and those that may remediate.
struct Identities {
    all: Keys,
    remediate: BTreeSet<Vec<u8>>,
}

/// Two things that share an identity: the stricter posture and the later end hold for it.
fn keys(isolated: &[&Isolated], of: impl Fn(&Isolated) -> Vec<Vec<u8>>) -> Identities {
    let mut all = Keys::new();
    let mut strict = BTreeSet::new();
    for isolated in isolated {
        for key in of(isolated) {
            if isolated.posture == Posture::Isolate {
                strict.insert(key.clone());
            }
            let until = match (all.get(&key), isolated.until) {
                (None, until) => until,
                (
                    Some(Element {
                        until: Some(earlier), ..
                    }),
                    Some(until),
                ) => Some(until.max(*earlier)),
                (Some(_), _) => None,
            };
            all.insert(key, Element { until, counted: None });
        }
    }
    let remediate = all.keys().filter(|key| !strict.contains(*key)).cloned().collect();
    Identities { all, remediate }
}

fn fixed(keys: impl Iterator<Item = Vec<u8>>) -> Keys {
    keys.map(|key| (key, Element::default())).collect()
}

fn forever<'a>(keys: impl IntoIterator<Item = impl KeyOf<'a>>) -> Keys {
    keys.into_iter()
        .map(|key| (key.key().to_vec(), Element::default()))
        .collect()
}

/// Items of a map or of a set of keys.
trait KeyOf<'a> {
    fn key(&self) -> &'a [u8];
}
impl<'a> KeyOf<'a> for &'a Vec<u8> {
    fn key(&self) -> &'a [u8] {
        self
    }
}
impl<'a, T> KeyOf<'a> for (&'a Vec<u8>, T) {
    fn key(&self) -> &'a [u8] {
        self.0
    }
}
