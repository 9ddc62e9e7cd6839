//! The site for people: `devices`, and its part of `status`.

use serde_json::{Map, Value, json};

use super::Site;
use crate::collect::conntrack::FamilyTracking;
use crate::config::UnknownDevices;
use crate::devices::DevicesView;
use crate::model::{MacAddress, Missing, ThingName};

impl Site {
    /// Everything `edge-warden devices --json` prints. `of_report`: the fate of a thing's reports; `of_stranger`: how
    /// a device no source names stands with the quarantine.
    pub(in crate::agent) fn devices(
        &self,
        of_report: impl Fn(&ThingName) -> Option<Value>,
        of_stranger: impl Fn(MacAddress) -> Option<String>,
    ) -> Value {
        let table = self.registry.table();
        let mut view = DevicesView::of(table);
        if self.settings.unknown_devices == UnknownDevices::Ignore {
            let hidden = u64::try_from(view.unknown.len()).unwrap_or(u64::MAX);
            view.more_unknown = view.more_unknown.saturating_add(hidden);
            view.unknown.clear();
        }
        let names: Vec<ThingName> = view.things.iter().map(|row| row.thing.clone()).collect();
        let strangers: Vec<MacAddress> = view.unknown.iter().map(|row| row.mac).collect();
        let mut value = serde_json::to_value(view).unwrap_or(Value::Null);
        let rows = value.get_mut("unknown").and_then(Value::as_array_mut);
        for (row, mac) in rows.into_iter().flatten().zip(strangers) {
            if let (Some(row), Some(words)) = (row.as_object_mut(), of_stranger(mac)) {
                row.insert("quarantine".to_owned(), json!(words));
            }
        }
        let rows = value.get_mut("things").and_then(Value::as_array_mut);
        for (row, thing) in rows.into_iter().flatten().zip(names) {
            let Some(row) = row.as_object_mut() else { continue };
            row.insert("traffic".to_owned(), measured(self.meters.of(&thing)));
            row.insert("rates".to_owned(), json!(self.meters.rates(&thing)));
            let (events, lower_bound) = self.tallies.of(&thing);
            let reading = self.reading(&thing);
            let count =
                |list: Result<usize, Missing>| list.map_or_else(|missing| json!(missing.to_string()), |n| json!(n));
            let events = events.unwrap_or_default();
            row.insert(
                "connections".to_owned(),
                json!({
                    "established": reading.established_total().map_or_else(|missing| json!(missing.to_string()), |n| json!(n)),
                    "listeningTcp": count(reading.listening_tcp.map(|list| list.len())),
                    "listeningUdp": count(reading.listening_udp.map(|list| list.len())),
                    "sinceLastReport": {
                        "begun": events.begun,
                        "unanswered": events.unanswered,
                        "destinations": events.destinations.count(),
                        "lowerBound": lower_bound,
                    },
                }),
            );
            if let Some(report) = of_report(&thing) {
                row.insert("reporting".to_owned(), report);
            }
        }
        value
    }

    /// For `status`.
    pub(in crate::agent) fn status(&self) -> Value {
        let table = self.registry.table();
        let sources: Map<String, Value> = self
            .sources
            .iter()
            .map(|(name, state)| {
                let words = state
                    .as_ref()
                    .map_or_else(|| json!("ok"), |missing| json!(missing.to_string()));
                ((*name).to_owned(), words)
            })
            .collect();
        let tracking = self
            .flows
            .tracking
            .map(|(v4, v6)| json!({"ipv4": family(v4), "ipv6": family(v6)}));
        json!({
            "lan": {
                "bridges": self.firewall_lan.bridges,
                "interfaces": self.firewall_lan.interfaces,
                "ports": self.lan.ports,
            },
            "things": table.things().count(),
            "knownDevices": self.known_devices(),
            "unknownDevices": table.unknown().len(),
            "moreUnknownDevices": table.more_unknown(),
            "registrations": {"taken": self.registered, "refused": self.refused, "lastRefused": self.refusals},
            "accounting": {"generation": self.meters.generation()},
            "tracking": tracking,
            "trackedFlows": self.usage.map(|usage| json!({"count": usage.count, "max": usage.max, "full": usage.is_full()})),
            "lostFlowEvents": self.tallies.lost(),
            "sources": sources,
            "notes": self.lan.notes,
        })
    }
}

fn family(tracking: FamilyTracking) -> &'static str {
    match tracking {
        FamilyTracking::Tracked => "tracked",
        FamilyTracking::Untracked => "untracked",
        FamilyTracking::Quiet => "no flows seen",
    }
}

fn measured<T: serde::Serialize>(value: Result<T, Missing>) -> Value {
    match value {
        Ok(value) => json!(value),
        Err(_) => Value::Null,
    }
}
