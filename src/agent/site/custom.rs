//! What custom metrics ask of the site.

use std::collections::BTreeSet;

use super::Site;
use crate::collect::conntrack::Usage;
use crate::model::{Connection, MacAddress, Measured, Missing, Reason, ThingName};

/// What a thing began since its last report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::agent) struct FlowCounts {
    /// TCP and UDP flows nobody answered.
    pub(in crate::agent) unanswered: u64,
    /// Different addresses it began flows to.
    pub(in crate::agent) destinations: u64,
}

impl Site {
    /// Local things that are connected to the core's broker.
    pub(in crate::agent) fn connected(&self) -> BTreeSet<&str> {
        let ports = &self.settings.broker_ports;
        let to_broker =
            |connections: &BTreeSet<Connection>| connections.iter().any(|to| ports.contains(&to.remote.port()));
        let connected = self
            .core_connections
            .iter()
            .filter(|(_, connections)| to_broker(connections));
        connected.map(|(thing, _)| thing.as_str()).collect()
    }

    /// The devices no source names: those listed, and how many more there are.
    pub(in crate::agent) fn unknown_devices(&self) -> (BTreeSet<MacAddress>, u64) {
        let table = self.registry.table();
        let listed = table.unknown().iter().map(|device| device.mac).collect();
        (listed, table.more_unknown())
    }

    /// How full the table of tracked flows is, in percent.
    pub(in crate::agent) fn conntrack_usage(&self) -> Measured<f64> {
        let full = |usage: &Usage| usage.max > 0;
        let Some(usage) = self.usage.filter(full) else {
            return Err(Missing::new(
                "nf_conntrack_count",
                Reason::Absent,
                "connections are not tracked",
            ));
        };
        Ok(usage.percent())
    }

    /// What a thing began since its last report.
    pub(in crate::agent) fn flow_counts(&self, thing: &ThingName) -> Measured<FlowCounts> {
        match self.sources.get("flow events") {
            Some(None) => {
                let events = self.tallies.of(thing).0.unwrap_or_default();
                Ok(FlowCounts {
                    unanswered: events.unanswered,
                    destinations: events.destinations.count(),
                })
            }
            Some(Some(missing)) => Err(missing.clone()),
            None => Err(Missing::new("flow events", Reason::NotCollected, "not counted yet")),
        }
    }

    /// What could not be measured, by name.
    pub(in crate::agent) fn failing(&self) -> impl Iterator<Item = &'static str> {
        let failing = |missing: &Option<Missing>| {
            missing
                .as_ref()
                .is_some_and(|missing| missing.reason != Reason::NotCollected)
        };
        let sources = self.sources.iter().filter(move |(_, missing)| failing(missing));
        sources.map(|(name, _)| *name)
    }
}
