//! The local things as the agent knows them: who is who, where the LAN is, and what each thing does.
//!
//! ```text
//!  watches ──▶ hear ──▶ registry ──▶ who is who ──▶ identities(), lan()        (for the quarantine)
//!                           ▲             │
//!  SiteSource ──▶ sampling ─┴──▶ meters, flows ──▶ reading(thing)              (for the reports)
//! ```
//!
//! `Site` itself opens and reads nothing: it says with `SiteAsk` what the next sample is to bring.

mod custom;
mod hear;
pub mod lan;
mod meters;
mod readings;
mod sampling;
mod settings;
pub mod source;
mod tallies;
#[cfg(test)]
mod tests;
mod view;
pub(super) mod watches;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::collect::conntrack::Usage;
use crate::config::{Config, UnknownDevices};
use crate::devices::{IdentityTable, Observation, Registry, Source, What};
use crate::firewall;
use crate::model::{
    Connection, Counters, MacAddress, Measured, Missing, Monotonic, Now, Reason, ThingName, ThingReading,
};
use crate::quarantine;

use lan::LanView;
use meters::Meters;
use readings::Flows;
use settings::Settings;

pub use tallies::FlowTallies;

/// Between two tables of who is who: a flood of neighbours must not keep the loop.
const RESOLVE_PACE: Duration = Duration::from_millis(250);

/// The local things and the LAN.
pub(super) struct Site {
    settings: Settings,
    core: ThingName,
    registry: Registry,
    lan: LanView,
    /// False until the LAN was looked for.
    looked: bool,
    firewall_lan: firewall::Lan,
    identities: BTreeMap<ThingName, quarantine::Identity>,
    changed: bool,
    meters: Meters,
    flows: Flows,
    flows_at: Option<Monotonic>,
    flows_asked: bool,
    core_connections: BTreeMap<ThingName, BTreeSet<Connection>>,
    tallies: Arc<FlowTallies>,
    usage: Option<Usage>,
    sources: BTreeMap<&'static str, Option<Missing>>,
    registered: u64,
    refused: u64,
    refusals: VecDeque<String>,
    /// Observed since the last table.
    dirty: bool,
    resolved_at: Option<Monotonic>,
    neighbours_due: Option<Monotonic>,
    leases_due: Option<Monotonic>,
    watch_leases_again: Option<Monotonic>,
    tables_touched: bool,
    /// A sample is wanted before the regular one.
    sample_wanted: bool,
    sampled_at: Option<Monotonic>,
}

impl Site {
    pub(super) fn new(config: &Config, core: ThingName, tallies: Arc<FlowTallies>, now: Now) -> Self {
        let mut site = Self {
            settings: Settings::of(config),
            core,
            registry: Registry::new(),
            lan: LanView::default(),
            looked: false,
            firewall_lan: firewall::Lan::default(),
            identities: BTreeMap::new(),
            changed: false,
            meters: Meters::new(),
            flows: Flows::none(),
            flows_at: None,
            flows_asked: false,
            core_connections: BTreeMap::new(),
            tallies,
            usage: None,
            sources: BTreeMap::new(),
            registered: 0,
            refused: 0,
            refusals: VecDeque::new(),
            dirty: false,
            resolved_at: None,
            neighbours_due: Some(now.monotonic),
            leases_due: Some(now.monotonic),
            watch_leases_again: None,
            tables_touched: false,
            sample_wanted: false,
            sampled_at: None,
        };
        site.configure(now);
        site
    }

    /// Takes a changed configuration over at once.
    pub(super) fn reconfigure(&mut self, config: &Config, now: Now) {
        let settings = Settings::of(config);
        if settings == self.settings {
            return;
        }
        let old = std::mem::replace(&mut self.settings, settings);
        for gone in old.leases.iter().filter(|old| !self.settings.leases.contains(old)) {
            let file = gone.path.display().to_string();
            self.registry.observe(
                Observation::Leases {
                    file,
                    leases: Vec::new(),
                },
                now,
            );
        }
        self.leases_due = Some(now.monotonic);
        if self.firewall_lan.broker_ports != self.settings.broker_ports {
            self.firewall_lan.broker_ports.clone_from(&self.settings.broker_ports);
            self.changed = true;
        }
        self.configure(now);
    }

    fn configure(&mut self, now: Now) {
        let devices = self.settings.devices.clone();
        self.registry.observe(Observation::Configured(devices), now);
        self.neighbours_due = Some(now.monotonic);
        self.resolve(now);
    }

    // What the quarantine asks.

    /// The identities of all local things, as a quarantine may use them.
    pub(super) fn identities(&self) -> &BTreeMap<ThingName, quarantine::Identity> {
        &self.identities
    }

    /// The LAN, for the firewall.
    pub(super) fn lan(&self) -> &firewall::Lan {
        &self.firewall_lan
    }

    /// Whether the LAN was looked for: before that, no LAN means nothing.
    pub(super) fn looked(&self) -> bool {
        self.looked
    }

    /// The devices, known ones and unknown ones, behind each LAN port (a bridge's, or a plain interface).
    pub(super) fn ports(&self) -> BTreeMap<String, BTreeSet<MacAddress>> {
        let mut ports: BTreeMap<String, BTreeSet<MacAddress>> = BTreeMap::new();
        let table = self.registry.table();
        let things = table.things().flat_map(|identity| {
            let place = identity.port.as_ref().or(identity.interface.as_ref());
            identity.macs.iter().filter_map(move |bound| Some((place?, bound.mac)))
        });
        let unknown = table.unknown().iter().filter_map(|device| {
            let place = device.port.as_ref().or(device.interface.as_ref());
            Some((place?, device.mac))
        });
        for (place, mac) in things.chain(unknown) {
            // a bridge is no port: a device only known to be behind it may be on any
            if !self.lan.bridges.contains(place) {
                ports.entry(place.clone()).or_default().insert(mac);
            }
        }
        ports
    }

    /// Who is who, as of the last look at it.
    pub(super) fn who_is_who(&self) -> &IdentityTable {
        self.registry.table()
    }

    /// Whether devices no source names are to be cut off.
    pub(super) fn cuts_strangers(&self) -> bool {
        self.settings.unknown_devices == UnknownDevices::Quarantine
    }

    /// Whether identities or LAN changed since the last call.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// How many devices are known: things with a MAC address.
    pub(super) fn known_devices(&self) -> usize {
        self.identities
            .values()
            .filter(|identity| !identity.macs.is_empty())
            .count()
    }

    // What the reports ask.

    /// Local things that get a report, by name.
    pub(super) fn reporting_things(&self) -> Vec<ThingName> {
        let table = self.registry.table();
        let own = table.things().filter(|identity| identity.report);
        own.map(|identity| identity.thing.clone())
            .filter(|thing| *thing != self.core)
            .collect()
    }

    /// Whether this is a local thing.
    pub(super) fn knows(&self, thing: &ThingName) -> bool {
        self.registry.table().get(thing).is_some()
    }

    /// One thing's traffic totals as of the last sample.
    pub(super) fn traffic(&self, thing: &ThingName) -> Measured<Counters> {
        self.meters.of(thing)
    }

    /// One thing as of the last sample.
    pub(super) fn reading(&self, thing: &ThingName) -> ThingReading {
        let (events, _) = self.tallies.of(thing);
        let core = self.core_connections.get(thing);
        readings::reading(thing, self.meters.of(thing), &self.flows, core, events.as_ref())
    }

    /// A report of the thing was made.
    pub(super) fn reported(&self, thing: &ThingName) {
        self.tallies.reported(thing);
    }

    /// Things whose traffic is counted from zero since the last call.
    pub(super) fn take_begun(&mut self) -> BTreeSet<ThingName> {
        self.meters.take_begun()
    }

    /// Whether the table of flows was read within `age`, or need not be.
    pub(super) fn flows_fresh(&self, age: Duration, now: Monotonic) -> bool {
        self.reporting_things().is_empty() || self.flows_at.is_some_and(|at| now.since(at) < age)
    }

    // What the loop does.

    /// When [`Site::turn`] has something to do.
    pub(super) fn resolve_due(&self) -> Option<Monotonic> {
        let paced = || {
            self.resolved_at
                .map_or(Monotonic(Duration::ZERO), |at| at.after(RESOLVE_PACE))
        };
        self.dirty.then(paced)
    }

    /// Makes the table anew when something was observed and it is time.
    pub(super) fn turn(&mut self, now: Now) {
        let paced = self
            .resolved_at
            .is_some_and(|at| now.monotonic.since(at) < RESOLVE_PACE);
        if self.dirty && !paced {
            self.resolve(now);
        }
    }

    fn resolve(&mut self, now: Now) {
        self.dirty = false;
        self.resolved_at = Some(now.monotonic);
        for change in self.registry.resolve(now) {
            match &change.what {
                What::ConflictBegan(_) => tracing::warn!("{change}"),
                What::MacAdded(_) | What::MacRemoved(_) => {
                    // Whom to count is part of a sample.
                    self.sample_wanted = true;
                    tracing::info!("{change}");
                }
                _ => tracing::info!("{change}"),
            }
        }
        self.tallies.set_identities(self.registry.shared_table());
        let identities = identities(&self.registry, &self.core);
        if identities != self.identities {
            self.identities = identities;
            self.changed = true;
        }
    }

    /// Notes whether a source gave something.
    fn told<T>(&mut self, source: &'static str, measured: Result<T, Missing>) -> Option<T> {
        match measured {
            Ok(value) => {
                self.say(source, None);
                Some(value)
            }
            Err(missing) => {
                self.say(source, Some(missing));
                None
            }
        }
    }

    fn say(&mut self, source: &'static str, missing: Option<Missing>) {
        let before = self.sources.get(source).and_then(Option::as_ref);
        match (before.map(|before| before.reason), &missing) {
            // Having nothing to do is no news.
            (_, Some(now)) if now.reason == Reason::NotCollected => {}
            (before, Some(now)) if before != Some(now.reason) => tracing::warn!(source, "{now}"),
            (Some(before), None) if before != Reason::NotCollected => tracing::info!(source, "works again"),
            _ => {}
        }
        self.sources.insert(source, missing);
    }
}

fn identities(registry: &Registry, core: &ThingName) -> BTreeMap<ThingName, quarantine::Identity> {
    let of = |identity: &crate::devices::Identity| {
        let configured_mac = |mac: &crate::devices::BoundMac| mac.source == Source::Configuration;
        let macs = identity.macs.iter().filter(|mac| !mac.contested || configured_mac(mac));
        let addresses = |which: fn(&crate::devices::BoundAddress) -> bool| {
            let bound = identity.addresses.iter().filter(|bound| which(bound));
            bound.map(|bound| bound.address).collect()
        };
        quarantine::Identity {
            macs: macs.map(|mac| mac.mac).collect(),
            addresses: identity.usable_addresses().collect(),
            fixed: addresses(|bound| bound.usable && bound.source == Source::Configuration),
            contested: addresses(|bound| bound.contested && !bound.usable),
            in_conflict: identity.source != Source::Configuration
                && identity
                    .conflicts
                    .iter()
                    .any(crate::devices::Conflict::is_about_identity),
            backs_edge_action: identity.backs_edge_action,
            configured: identity.macs.iter().any(configured_mac),
        }
    };
    let things = registry.table().things().filter(|identity| identity.thing != *core);
    things.map(|identity| (identity.thing.clone(), of(identity))).collect()
}
