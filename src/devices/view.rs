//! The table for people and scripts: `edge-warden devices`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::Serialize;

use super::identity::{Identity, IdentityTable, Move, Skipped, Source, UnknownDevice};
use crate::model::{MacAddress, ThingName, UnixTime};

/// All of `devices --json`. Times are milliseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DevicesView {
    /// The local things by name.
    pub things: Vec<ThingRow>,
    /// Devices no source names.
    pub unknown: Vec<UnknownRow>,
    /// How many more of them went by (an estimate past 256).
    pub more_unknown: u64,
    /// What was told and not taken.
    pub skipped: Vec<Skipped>,
}

/// One local thing.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ThingRow {
    /// Its name.
    pub thing: ThingName,
    /// The strongest source of the name.
    pub source: Source,
    /// Whether it gets a report.
    pub report: bool,
    /// Its MAC addresses.
    pub macs: Vec<MacAddress>,
    /// Its IP addresses that no one else has a claim on, and configured ones.
    pub addresses: Vec<IpAddr>,
    /// IP addresses somebody else has a claim on too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub contested_addresses: Vec<IpAddr>,
    /// The LAN interface it was last seen on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The bridge port it was last seen on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// First seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_seen: Option<UnixTime>,
    /// Last seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<UnixTime>,
    /// Its last move.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_move: Option<Move>,
    /// `conflict`, `randomised-mac`, `moved`, `never-seen`.
    pub marks: BTreeSet<&'static str>,
    /// The conflicts in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<String>,
    /// Whether an alarm may quarantine it.
    pub backs_edge_action: bool,
}

/// One device no source names.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UnknownRow {
    /// Its MAC address.
    pub mac: MacAddress,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// The LAN interface it was last seen on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The bridge port it was last seen on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// First seen.
    pub first_seen: UnixTime,
    /// Last seen.
    pub last_seen: UnixTime,
    /// `randomised-mac`, `moved`, `claims-gateway`.
    pub marks: BTreeSet<&'static str>,
}

impl DevicesView {
    /// The view of a table.
    #[must_use]
    pub fn of(table: &IdentityTable) -> Self {
        Self {
            things: table.things().map(ThingRow::of).collect(),
            unknown: table
                .unknown()
                .iter()
                .map(|device| UnknownRow::of(device, table))
                .collect(),
            more_unknown: table.more_unknown(),
            skipped: table.skipped().iter().cloned().collect(),
        }
    }
}

impl ThingRow {
    /// Headings for [`ThingRow::cells`].
    pub const HEADINGS: [&'static str; 6] = ["THING", "SOURCE", "MAC", "ADDRESSES", "INTERFACE", "MARKS"];

    fn of(identity: &Identity) -> Self {
        let mut marks = BTreeSet::new();
        if !identity.conflicts.is_empty() {
            marks.insert("conflict");
        }
        if identity.has_randomised_mac() {
            marks.insert("randomised-mac");
        }
        if identity.last_move.is_some() {
            marks.insert("moved");
        }
        if identity.first_seen.is_none() {
            marks.insert("never-seen");
        }
        let contested = identity.addresses.iter().filter(|bound| bound.contested);
        Self {
            thing: identity.thing.clone(),
            source: identity.source,
            report: identity.report,
            macs: identity.macs.iter().map(|bound| bound.mac).collect(),
            addresses: identity.usable_addresses().collect(),
            contested_addresses: contested.map(|bound| bound.address).collect(),
            interface: identity.interface.clone(),
            port: identity.port.clone(),
            first_seen: identity.first_seen,
            last_seen: identity.last_seen,
            last_move: identity.last_move.clone(),
            marks,
            conflicts: identity.conflicts.iter().map(ToString::to_string).collect(),
            backs_edge_action: identity.backs_edge_action,
        }
    }

    /// The row of a table; times are left to who prints them.
    #[must_use]
    pub fn cells(&self) -> [String; 6] {
        [
            self.thing.to_string(),
            self.source.to_string(),
            join(&self.macs),
            join(&self.addresses),
            place(self.interface.as_deref(), self.port.as_deref()),
            join(&self.marks),
        ]
    }
}

impl UnknownRow {
    /// Headings for [`UnknownRow::cells`].
    pub const HEADINGS: [&'static str; 4] = ["MAC", "ADDRESSES", "INTERFACE", "MARKS"];

    /// The row of a table; times are left to who prints them.
    #[must_use]
    pub fn cells(&self) -> [String; 4] {
        [
            self.mac.to_string(),
            join(&self.addresses),
            place(self.interface.as_deref(), self.port.as_deref()),
            join(&self.marks),
        ]
    }

    fn of(device: &UnknownDevice, table: &IdentityTable) -> Self {
        let mut marks = BTreeSet::new();
        if device.mac.is_locally_administered() {
            marks.insert("randomised-mac");
        }
        if device.last_move.is_some() {
            marks.insert("moved");
        }
        if table.gateway_claims().iter().any(|(_, mac)| *mac == device.mac) {
            marks.insert("claims-gateway");
        }
        Self {
            mac: device.mac,
            addresses: device.addresses.clone(),
            interface: device.interface.clone(),
            port: device.port.clone(),
            first_seen: device.first_seen,
            last_seen: device.last_seen,
            marks,
        }
    }
}

fn join(items: impl IntoIterator<Item = impl ToString>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    items.join(" ")
}

fn place(interface: Option<&str>, port: Option<&str>) -> String {
    let parts: Vec<&str> = interface.into_iter().chain(port).collect();
    parts.join("/")
}
