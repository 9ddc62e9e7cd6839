//! The local things as the agent knows them: who is who, where the LAN is, and what each thing does.
//!
//! ```text
//!  watches ──▶ registry ──▶ who is who ──▶ identities(), lan()        (for the quarantine)
//!                  ▲             │
//!  SiteSource ──▶ sample ──▶ meters, flows ──▶ reading(thing)         (for the reports)
//! ```
//!
//! `Site` itself opens and reads nothing: it says with `SiteAsk` what the next sample is to bring.

pub mod lan;
mod meters;
mod readings;
pub mod source;
mod tallies;
#[cfg(test)]
mod tests;
mod view;
pub(super) mod watches;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::collect::HostSample;
use crate::collect::conntrack::Usage;
use crate::config::{AutoOr, Config, InterfaceName, LeaseFile, UnknownDevices};
use crate::devices::{ConfiguredDevice, Now, Observation, Registration, Registry, Source, What};
use crate::firewall::{self, Change};
use crate::greengrass::Destination;
use crate::greengrass::topic;
use crate::model::{Connection, Counters, MacAddress, Measured, Missing, Monotonic, Reason, ThingName, ThingReading};
use crate::quarantine;

use lan::LanView;
use meters::Meters;
use readings::Flows;
use source::{SiteAsk, SiteSample};
use watches::{SiteNews, SiteWatches};

pub use tallies::FlowTallies;

/// The neighbour tables are read this often even when no change was lost.
const NEIGHBOURS_EVERY: Duration = Duration::from_secs(300);
/// A lease file is read when it was quiet for this long: a server takes several writes.
const LEASES_SETTLE: Duration = Duration::from_millis(200);
/// Lease files that cannot be watched are tried again this often.
const LEASES_AGAIN: Duration = Duration::from_secs(60);
/// Between two tables of who is who: a flood of neighbours must not keep the loop.
const RESOLVE_PACE: Duration = Duration::from_millis(250);
/// Between two samples made for the site alone.
const SAMPLE_PACE: Duration = Duration::from_secs(1);
/// Refused registrations kept for `status`.
const KEPT_REFUSALS: usize = 16;

/// The keys of the configuration that concern the site.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Settings {
    lan: AutoOr<Vec<InterfaceName>>,
    devices: Vec<ConfiguredDevice>,
    leases: Vec<LeaseFile>,
    registration: bool,
    unknown_devices: UnknownDevices,
    broker_ports: BTreeSet<u16>,
}

impl Settings {
    fn of(config: &Config) -> Self {
        let device = |device: &crate::config::Device| ConfiguredDevice {
            thing: device.thing_name.clone(),
            macs: device.macs.clone(),
            addresses: device.addresses.clone(),
            report: device.report,
        };
        Self {
            lan: config.lan.interfaces.clone(),
            devices: config.devices.iter().map(device).collect(),
            leases: config.discovery.leases.clone(),
            registration: config.discovery.registration,
            unknown_devices: config.discovery.unknown_devices,
            broker_ports: config.quarantine.broker_ports.iter().map(|port| port.get()).collect(),
        }
    }

    /// Whether there can be anything to see on a LAN.
    fn possible(&self) -> bool {
        let anyone = !self.devices.is_empty()
            || !self.leases.is_empty()
            || self.registration
            || self.unknown_devices != UnknownDevices::Ignore;
        anyone && self.lan != AutoOr::Is(Vec::new())
    }
}

/// What a thing began since its last report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FlowCounts {
    /// TCP and UDP flows nobody answered.
    pub(super) unanswered: u64,
    /// Different addresses it began flows to.
    pub(super) destinations: u64,
}

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

    // What custom metrics ask.

    /// Local things that are connected to the core's broker.
    pub(super) fn connected(&self) -> BTreeSet<&str> {
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
    pub(super) fn unknown_devices(&self) -> (BTreeSet<MacAddress>, u64) {
        let table = self.registry.table();
        let listed = table.unknown().iter().map(|device| device.mac).collect();
        (listed, table.more_unknown())
    }

    /// How full the table of tracked flows is, in percent.
    pub(super) fn conntrack_usage(&self) -> Measured<f64> {
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
    pub(super) fn flow_counts(&self, thing: &ThingName) -> Measured<FlowCounts> {
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
    pub(super) fn failing(&self) -> impl Iterator<Item = &'static str> {
        let failing =
            |missing: &Option<Missing>| missing.as_ref().is_some_and(|why| why.reason != Reason::NotCollected);
        let sources = self.sources.iter().filter(move |(_, missing)| failing(missing));
        sources.map(|(name, _)| *name)
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

    /// When a sample is wanted for the site's sake.
    pub(super) fn sample_due(&self) -> Option<Monotonic> {
        let paced = |at: Monotonic| self.sampled_at.map_or(at, |last| at.max(last.after(SAMPLE_PACE)));
        let leases = self.leases_due.filter(|_| !self.settings.leases.is_empty());
        let wanted = self.sample_wanted.then_some(Monotonic(Duration::ZERO));
        [leases, wanted].into_iter().flatten().min().map(paced)
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

    /// Opens and closes watches as the LAN and the configuration want it.
    pub(super) fn keep_watches(&mut self, watches: &mut SiteWatches, now: Monotonic) {
        let wanted = self.settings.possible() && (!self.looked || !self.lan.is_empty());
        match watches.keep_neighbours(wanted) {
            Ok(true) => {
                self.neighbours_due = Some(now);
                self.sample_wanted = true;
                self.say("neighbour changes", None);
            }
            Ok(false) => {}
            Err(missing) => self.say("neighbour changes", Some(missing)),
        }
        let files: Vec<PathBuf> = self.settings.leases.iter().map(|file| file.path.clone()).collect();
        let again = self.watch_leases_again.is_some_and(|at| at <= now);
        let unwatched = watches.keep_leases(&files, again);
        if again {
            self.watch_leases_again = None;
            self.leases_due = Some(now);
        }
        if let Some(missing) = unwatched.into_iter().next() {
            self.say("lease file changes", Some(missing));
            self.watch_leases_again = Some(now.after(LEASES_AGAIN));
        }
    }

    /// Takes news of the watches in.
    pub(super) fn news(&mut self, news: SiteNews, now: Now) {
        match news {
            SiteNews::Neighbours { events, lost } => {
                for event in events {
                    self.registry.observe(Observation::Neighbour(event), now);
                    self.dirty = true;
                }
                if lost {
                    self.neighbours_due = Some(now.monotonic);
                    self.sample_wanted = true;
                }
            }
            SiteNews::Leases(files) => {
                if !files.is_empty() {
                    self.leases_due = Some(now.monotonic.after(LEASES_SETTLE));
                    // A directory that went away is watched no longer.
                    self.watch_leases_again
                        .get_or_insert_with(|| now.monotonic.after(LEASES_AGAIN));
                }
            }
            SiteNews::Failed(what, missing) => self.say(what, Some(missing)),
        }
    }

    /// Somebody else changed tables of ours.
    pub(super) fn tables_changed(&mut self, changes: &[Change]) {
        let ours = |change: &Change| match change {
            Change::Table { table, .. } => table == "edge_warden_acct",
            Change::CompareAll => true,
            Change::LinkPresent(_) | Change::LinkGone(_) => false,
        };
        if changes.iter().any(ours) && self.meters.state().is_ok() {
            tracing::warn!("another program changed the accounting table; it is made anew");
            self.tables_touched = true;
            self.sample_wanted = true;
        }
    }

    /// The filter on which things register, if they may.
    pub(super) fn filters(&self) -> BTreeSet<(Destination, String)> {
        let possible = self.settings.registration && self.settings.possible();
        possible
            .then(|| (Destination::Local, topic::register(None)))
            .into_iter()
            .collect()
    }

    /// A message arrived; true when it was for the site.
    pub(super) fn message(&mut self, from: Destination, topic: &str, payload: &[u8], now: Now) -> bool {
        let name = topic
            .strip_prefix("edge-warden/things/")
            .and_then(|rest| rest.strip_suffix("/register"));
        let Some(name) = name.filter(|_| from == Destination::Local) else {
            return false;
        };
        if !self.settings.registration {
            return true;
        }
        match Registration::parse(name, payload) {
            Ok(registration) => {
                self.registered += 1;
                self.registry.observe(Observation::Registered(registration), now);
                self.dirty = true;
            }
            Err(error) => {
                let mut words = error.to_string();
                if let Some(cause) = std::error::Error::source(&error) {
                    words = format!("{words}: {cause}");
                }
                self.refused += 1;
                tracing::debug!(error = words, "registration refused");
                self.refusals.push_back(words);
                while self.refusals.len() > KEPT_REFUSALS {
                    self.refusals.pop_front();
                }
            }
        }
        true
    }

    /// What the next sample is to bring. `flows`: also the table of flows.
    pub(super) fn ask(&mut self, flows: bool, now: Now) -> SiteAsk {
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
            distrust: std::mem::take(&mut self.tables_touched),
            neighbours,
            flows: flows.then_some(identities),
            leases,
        }
    }

    /// Takes a sample in.
    pub(super) fn observe(&mut self, host: &HostSample, sample: SiteSample, now: Now) {
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
        quarantine::Identity {
            macs: macs.map(|mac| mac.mac).collect(),
            addresses: identity.usable_addresses().collect(),
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
