//! Samples: when the site wants one, what it is to bring, and what follows from it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Site;
use super::lan::{self, LanView};
use super::readings::{self, Flows};
use super::source::{SiteAsk, SiteSample};
use crate::collect::HostSample;
use crate::config::AutoOr;
use crate::devices::Observation;
use crate::firewall;
use crate::model::{Monotonic, Now, Reason};

/// The neighbour tables are read this often even when no change was lost.
const NEIGHBOURS_EVERY: Duration = Duration::from_secs(300);
/// Between two samples made for the site alone.
const SAMPLE_PACE: Duration = Duration::from_secs(1);

impl Site {
    /// When a sample is wanted for the site's sake.
    pub(in crate::agent) fn sample_due(&self) -> Option<Monotonic> {
        let paced = |at: Monotonic| self.sampled_at.map_or(at, |last| at.max(last.after(SAMPLE_PACE)));
        let leases = self.leases_due.filter(|_| !self.settings.leases.is_empty());
        let wanted = self.sample_wanted.then_some(Monotonic(Duration::ZERO));
        [leases, wanted].into_iter().flatten().min().map(paced)
    }

    /// What the next sample is to bring. `flows`: also the table of flows.
    pub(in crate::agent) fn ask(&mut self, flows: bool, now: Now) -> SiteAsk {
        self.turn(now);
        let due = |at: Option<Monotonic>| at.is_some_and(|at| at <= now.monotonic);
        let possible = self.settings.possible();
        let identities = self.registry.shared_table();
        let macs = if possible {
            self.meters.count(&identities)
        } else {
            BTreeSet::new()
        };
        self.sample_wanted = false;
        self.flows_asked = flows;
        self.sampled_at = Some(now.monotonic);
        let neighbours = possible && due(self.neighbours_due);
        if neighbours {
            self.neighbours_due = Some(now.monotonic.after(NEIGHBOURS_EVERY));
        }
        let leases = if due(self.leases_due) {
            self.leases_due = None;
            self.settings.leases.clone()
        } else {
            Vec::new()
        };
        SiteAsk {
            lan: if possible {
                self.settings.lan.clone()
            } else {
                AutoOr::Is(Vec::new())
            },
            macs,
            ownership: self.settings.ownership,
            distrust: std::mem::take(&mut self.tables_touched),
            neighbours,
            flows: flows.then_some(identities),
            leases,
        }
    }

    /// Takes a sample in.
    pub(in crate::agent) fn observe(&mut self, host: &HostSample, sample: SiteSample, now: Now) {
        let lan = self.told("LAN interfaces", sample.lan);
        if let Some(lan) = lan {
            self.set_lan(lan, now);
        }
        for (path, read) in sample.leases {
            let file = path.display().to_string();
            let leases = match read {
                Ok(found) => {
                    self.say("lease files", None);
                    if found.skipped > 0 || found.refused_names > 0 {
                        tracing::debug!(
                            file,
                            skipped = found.skipped,
                            refused = found.refused_names,
                            "lease file read in part"
                        );
                    }
                    found.leases
                }
                Err(missing) => {
                    let absent = missing.reason == Reason::Absent;
                    self.say("lease files", Some(missing));
                    if !absent {
                        continue;
                    }
                    Vec::new()
                }
            };
            self.registry.observe(Observation::Leases { file, leases }, now);
        }
        if let Some(tables) = sample.neighbours {
            self.say("neighbours", tables.missing.into_iter().next());
            for entry in tables.ports {
                self.registry.observe(Observation::Port(entry), now);
            }
            if let Some(neighbours) = tables.neighbours {
                self.registry.observe(Observation::Neighbours(neighbours), now);
            }
        }
        if let Ok(sockets) = &host.sockets.tcp {
            let peers = lan::broker_peers(sockets, &self.settings.broker_ports, &self.lan.own_addresses);
            self.registry.observe(Observation::BrokerPeers(peers), now);
        }
        self.meters.observe(&sample.traffic, now.monotonic);
        self.told("traffic accounting", sample.traffic);
        let held_on = self.told("connection tracking", sample.tracking).is_some();
        self.told("flow events", sample.events);
        self.usage = sample.usage.ok();
        if self.flows_asked && sample.flows.is_none() {
            self.flows = Flows::none();
        }
        if let Some(table) = sample.flows {
            let sockets = host.sockets.tcp.as_deref().unwrap_or_default();
            self.flows = Flows::judge(table, sockets, held_on);
            let state = self.flows.fallback().cloned().map_or_else(|| self.flows.state(), Err);
            self.told("flow table", state);
        }
        if std::mem::take(&mut self.flows_asked) {
            // Also when there was nothing to read: asking again at once would bring no more.
            self.flows_at = Some(now.monotonic);
        }
        self.resolve(now);
        self.core_connections = readings::core_connections(host, self.registry.table());
    }

    fn set_lan(&mut self, lan: LanView, now: Now) {
        let first = !std::mem::replace(&mut self.looked, true);
        if lan == self.lan {
            return;
        }
        for note in lan.notes.difference(&self.lan.notes) {
            tracing::warn!("{note}");
        }
        if lan.keys != self.lan.keys || lan.ports != self.lan.ports {
            tracing::info!(bridges = ?lan.bridges, interfaces = ?lan.interfaces, "LAN");
            if !lan.is_empty() {
                self.neighbours_due = Some(now.monotonic);
                // The first sample brings its neighbours along.
                self.sample_wanted = self.sample_wanted || !first;
            }
        }
        let own = Observation::GatewayOwn {
            macs: lan.own_macs.clone(),
            addresses: lan.own_addresses.clone(),
        };
        self.registry.observe(own, now);
        self.registry.observe(Observation::LanInterfaces(lan.names()), now);
        let firewall_lan = firewall::Lan {
            bridges: lan.bridges.clone(),
            interfaces: lan.interfaces.clone(),
            gateway_macs: lan.own_macs.clone(),
            gateway_addresses: lan.lan_addresses.clone(),
            broker_ports: self.settings.broker_ports.clone(),
        };
        self.lan = lan;
        if firewall_lan != self.firewall_lan {
            self.firewall_lan = firewall_lan;
            self.changed = true;
        }
    }
}
