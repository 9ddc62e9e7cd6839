//! Devices by MAC address: where and when each was seen, and the addresses it answers for. Bounded, whatever the LAN does.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use super::identity::Move;
use crate::collect::Distinct;
use crate::collect::neighbours::{BridgeEntry, Neighbour, NeighbourState};
use crate::model::{MacAddress, Monotonic, Now, UnixTime};

/// Devices without a name that are listed.
pub(super) const UNNAMED: usize = 1_024;
/// Room beyond that for devices that take an address of a named one: that must be seen even in a flood.
const UNNAMED_IN_ALL: usize = 2 * UNNAMED;
/// Addresses kept per device.
const ADDRESSES: usize = 16;
/// New unnamed devices are listed at this many a second, after a first burst of [`UNNAMED`].
const ADMITTED_PER_SECOND: u64 = 16;
/// An unnamed device not seen for this long makes room for a new one.
const REPLACEABLE: Duration = Duration::from_secs(600);
/// After this long without being in the neighbour table an address is no longer its device's.
const ADDRESS_EXPIRY: Duration = Duration::from_secs(600);
/// An unnamed device not seen for this long is forgotten.
const HOST_EXPIRY: Duration = Duration::from_secs(24 * 3600);
/// An address that changes hands within this time is contested.
pub(super) const CHALLENGE: Duration = Duration::from_secs(300);

/// So many moves within this time are not one device moving, but two that use one MAC address.
const FLAPPING_MOVES: u32 = 3;
const FLAPPING_WITHIN: Duration = Duration::from_secs(60);

/// An address a device answers for.
#[derive(Debug, Clone)]
pub(super) struct Binding {
    pub(super) address: IpAddr,
    interface: String,
    /// It is in the neighbour table now.
    pub(super) present: bool,
    /// Written by an administrator of the gateway.
    pub(super) permanent: bool,
    /// Last time the kernel had a fresh answer.
    pub(super) confirmed: Option<Monotonic>,
    /// Last time it was in the table.
    last_present: Monotonic,
    /// Another device held the address just before, or took it since.
    challenged: Option<(MacAddress, Monotonic)>,
}

impl Binding {
    /// The device that disputes the address.
    pub(super) fn challenger(&self, now: Monotonic) -> Option<MacAddress> {
        let (mac, at) = self.challenged?;
        (now.since(at) < CHALLENGE).then_some(mac)
    }

    fn was_sure(&self, now: Monotonic) -> bool {
        self.permanent || self.confirmed.is_some_and(|at| now.since(at) < CHALLENGE)
    }
}

/// A device.
#[derive(Debug, Clone)]
pub(super) struct Host {
    pub(super) first_seen: UnixTime,
    pub(super) last_seen: UnixTime,
    last_seen_monotonic: Monotonic,
    pub(super) interface: Option<String>,
    pub(super) port: Option<String>,
    pub(super) last_move: Option<Move>,
    pub(super) bindings: Vec<Binding>,
    /// Moves since the given time.
    moves: (Monotonic, u32),
    flapped: Option<Monotonic>,
    named: bool,
}

impl Host {
    fn see(&mut self, now: Now) {
        self.last_seen = self.last_seen.max(now.wall);
        self.last_seen_monotonic = self.last_seen_monotonic.max(now.monotonic);
    }

    /// Keeps `interface` while it still holds, else moves on.
    fn settle(&mut self, now: Now) {
        let still = |name: &String| self.bindings.iter().any(|b| b.present && b.interface == *name);
        if self.interface.as_ref().is_some_and(still) {
            return;
        }
        let Some(to) = self.bindings.iter().find(|b| b.present).map(|b| b.interface.clone()) else {
            return;
        };
        if let Some(from) = self.interface.replace(to.clone()) {
            self.moved(from, to, now);
        }
    }

    fn moved(&mut self, from: String, to: String, now: Now) {
        let (since, count) = self.moves;
        self.moves = if now.monotonic.since(since) < FLAPPING_WITHIN {
            (since, count.saturating_add(1))
        } else {
            (now.monotonic, 1)
        };
        if self.moves.1 >= FLAPPING_MOVES {
            self.flapped = Some(now.monotonic);
        }
        let at = now.wall;
        self.last_move = Some(Move { from, to, at });
    }

    /// It goes to and fro between ports, or did within the last minutes.
    pub(super) fn is_flapping(&self, now: Monotonic) -> bool {
        self.flapped.is_some_and(|at| now.since(at) < CHALLENGE)
    }
}

/// The MAC and IP addresses that some source gives to a thing.
#[derive(Debug, Default)]
pub(super) struct Named {
    pub(super) macs: HashSet<MacAddress>,
    pub(super) addresses: HashSet<IpAddr>,
}

/// All devices seen.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    hosts: HashMap<MacAddress, Host>,
    holders: HashMap<IpAddr, MacAddress>,
    named: Named,
    unnamed: usize,
    unlisted: Distinct,
    spent: u64,
    refilled: Option<Monotonic>,
}

impl Hosts {
    /// Replaces what is known to be named.
    pub(super) fn set_named(&mut self, named: Named) {
        self.named = named;
        for (mac, host) in &mut self.hosts {
            host.named = self.named.macs.contains(mac);
        }
        self.recount();
    }

    fn recount(&mut self) {
        self.unnamed = self.hosts.values().filter(|host| !host.named).count();
    }

    pub(super) fn get(&self, mac: MacAddress) -> Option<&Host> {
        self.hosts.get(&mac)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (MacAddress, &Host)> {
        self.hosts.iter().map(|(mac, host)| (*mac, host))
    }

    /// The device that answers for the address now.
    pub(super) fn holder(&self, address: IpAddr) -> Option<MacAddress> {
        self.holders.get(&address).copied()
    }

    /// How many devices went by without room in the list.
    pub(super) fn unlisted(&self) -> u64 {
        self.unlisted.count()
    }

    /// Replaces the neighbour table.
    pub(super) fn replace(&mut self, neighbours: impl IntoIterator<Item = Neighbour>, now: Now) {
        for binding in self.hosts.values_mut().flat_map(|host| &mut host.bindings) {
            binding.present = false;
        }
        let previous = std::mem::take(&mut self.holders);
        for neighbour in neighbours {
            let before = previous.get(&neighbour.ip).copied();
            self.hold(neighbour, before, now);
        }
        for host in self.hosts.values_mut() {
            host.settle(now);
        }
    }

    /// One neighbour is there.
    pub(super) fn present(&mut self, neighbour: Neighbour, now: Now) {
        let before = self.holders.get(&neighbour.ip).copied();
        let mac = neighbour.mac;
        self.hold(neighbour, before, now);
        if let Some(host) = self.hosts.get_mut(&mac) {
            host.settle(now);
        }
    }

    /// Nobody answers for the address any more.
    pub(super) fn gone(&mut self, address: IpAddr) {
        if let Some(mac) = self.holders.remove(&address) {
            self.unset(mac, address, None);
        }
    }

    fn unset(&mut self, mac: MacAddress, address: IpAddr, challenger: Option<(MacAddress, Monotonic)>) -> bool {
        let Some(host) = self.hosts.get_mut(&mac) else {
            return false;
        };
        let Some(binding) = host.bindings.iter_mut().find(|b| b.address == address) else {
            return false;
        };
        binding.present = false;
        let sure = challenger.is_some_and(|(_, at)| binding.was_sure(at));
        if sure {
            binding.challenged = challenger;
        }
        sure
    }

    fn hold(&mut self, neighbour: Neighbour, before: Option<MacAddress>, now: Now) {
        let Neighbour {
            mac,
            ip,
            interface,
            state,
        } = neighbour;
        let other = before.filter(|before| *before != mac);
        let disputed = other.filter(|other| self.unset(*other, ip, Some((mac, now.monotonic))));
        if !self.admit(mac, Some(ip), now) {
            self.holders.remove(&ip);
            return;
        }
        self.holders.insert(ip, mac);
        let Some(host) = self.hosts.get_mut(&mac) else {
            return;
        };
        let fresh = matches!(state, NeighbourState::Reachable);
        if fresh {
            host.see(now);
        }
        let position = host.bindings.iter().position(|b| b.address == ip);
        if position.is_none() {
            if host.bindings.len() >= ADDRESSES {
                // A device with more addresses than this keeps the latest ones.
                let oldest = host
                    .bindings
                    .iter()
                    .enumerate()
                    .min_by_key(|(_, b)| (b.present, b.last_present));
                if let Some(oldest) = oldest.map(|(index, _)| index) {
                    let dropped = host.bindings.swap_remove(oldest).address;
                    if self.holders.get(&dropped) == Some(&mac) {
                        self.holders.remove(&dropped);
                    }
                }
            }
            host.bindings.push(Binding {
                address: ip,
                interface: interface.clone(),
                present: true,
                permanent: false,
                confirmed: None,
                last_present: now.monotonic,
                challenged: None,
            });
        }
        let Some(binding) = host.bindings.iter_mut().find(|b| b.address == ip) else {
            return;
        };
        binding.present = true;
        binding.interface = interface;
        binding.permanent = matches!(state, NeighbourState::Permanent);
        binding.last_present = now.monotonic;
        if fresh {
            binding.confirmed = Some(now.monotonic);
        }
        if let Some(other) = disputed {
            binding.challenged = Some((other, now.monotonic));
        }
    }

    /// A bridge saw the device on a port.
    pub(super) fn at_port(&mut self, entry: BridgeEntry, now: Now) {
        if !self.admit(entry.mac, None, now) {
            return;
        }
        let Some(host) = self.hosts.get_mut(&entry.mac) else {
            return;
        };
        let idle = entry.idle.unwrap_or_default();
        let millis = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
        host.see(Now {
            wall: UnixTime(now.wall.0.saturating_sub(millis)),
            monotonic: Monotonic(now.monotonic.0.saturating_sub(idle)),
        });
        if host.interface.is_none() {
            host.interface = Some(entry.bridge);
        }
        let before = host.port.replace(entry.port.clone());
        if let Some(from) = before.filter(|from| *from != entry.port) {
            host.moved(from, entry.port, now);
        }
    }

    /// Makes sure the device is listed, or counts it among the unlisted.
    fn admit(&mut self, mac: MacAddress, address: Option<IpAddr>, now: Now) -> bool {
        if self.hosts.contains_key(&mac) {
            return true;
        }
        let named = self.named.macs.contains(&mac);
        let takes_named = address.is_some_and(|address| self.named.addresses.contains(&address));
        if !named && !self.make_room(takes_named, now.monotonic) {
            self.unlisted.note(&mac);
            return false;
        }
        self.unnamed += usize::from(!named);
        self.hosts.insert(
            mac,
            Host {
                first_seen: now.wall,
                last_seen: now.wall,
                last_seen_monotonic: now.monotonic,
                interface: None,
                port: None,
                last_move: None,
                bindings: Vec::new(),
                moves: (now.monotonic, 0),
                flapped: None,
                named,
            },
        );
        true
    }

    fn make_room(&mut self, takes_named: bool, now: Monotonic) -> bool {
        if takes_named && self.unnamed < UNNAMED_IN_ALL {
            return true;
        }
        if !self.may_admit(now) {
            return false;
        }
        // A try costs as much as a success: in a flood nobody searches the list for every frame.
        self.spent += 1;
        if self.unnamed >= UNNAMED {
            let unnamed = self.hosts.iter().filter(|(_, host)| !host.named);
            let oldest = unnamed.min_by_key(|(_, host)| host.last_seen_monotonic);
            let Some(mac) = oldest
                .filter(|(_, host)| now.since(host.last_seen_monotonic) >= REPLACEABLE)
                .map(|(mac, _)| *mac)
            else {
                return false;
            };
            self.remove(mac);
        }
        true
    }

    /// The rate limit: a bucket of [`UNNAMED`] that fills at [`ADMITTED_PER_SECOND`].
    fn may_admit(&mut self, now: Monotonic) -> bool {
        let since = now.since(*self.refilled.get_or_insert(now)).as_secs();
        if since > 0 {
            self.refilled = Some(now);
            self.spent = self.spent.saturating_sub(since.saturating_mul(ADMITTED_PER_SECOND));
        }
        self.spent < UNNAMED as u64
    }

    fn remove(&mut self, mac: MacAddress) {
        if let Some(host) = self.hosts.remove(&mac) {
            self.unnamed = self.unnamed.saturating_sub(usize::from(!host.named));
            for binding in host.bindings {
                if self.holders.get(&binding.address) == Some(&mac) {
                    self.holders.remove(&binding.address);
                }
            }
        }
    }

    /// Forgets what is too old, and addresses on interfaces that `keep` refuses.
    pub(super) fn expire(&mut self, now: Monotonic, keep: impl Fn(&str) -> bool) {
        for host in self.hosts.values_mut() {
            host.bindings
                .retain(|b| keep(&b.interface) && (b.present || now.since(b.last_present) < ADDRESS_EXPIRY));
        }
        let hosts = &self.hosts;
        self.holders.retain(|address, mac| {
            let host = hosts.get(mac);
            host.is_some_and(|host| host.bindings.iter().any(|b| b.address == *address))
        });
        let aged = |host: &Host| host.bindings.is_empty() && now.since(host.last_seen_monotonic) >= HOST_EXPIRY;
        let off_lan = |host: &Host| host.bindings.is_empty() && !host.interface.as_deref().is_some_and(&keep);
        self.hosts
            .retain(|_, host| host.named || !(aged(host) || off_lan(host)));
        self.recount();
    }
}
