//! Quarantine carried out: causes from `quarantine`, rules through `firewall`, the truth back to the shadows.
//!
//! Order matters everywhere here: enforcing waits for neither disk nor network; releasing is on disk before it is in the
//! kernel. What the shadows are told is read back from the kernel.

mod policy;
mod rails;
mod remembered;
mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::collect::HostSample;
use crate::config::{Config, Enforcement as ConfiguredEnforcement, TableOwnership as ConfiguredOwnership};
use crate::firewall::{Change, Dropped, Firewall, Lan, NftablesFirewall, ObserveOnly, Policy, TableOwnership};
use crate::model::{MacAddress, Monotonic, ThingName, UnixTime};
use crate::quarantine::{
    AuditLog, Decision, Effect, Enforced, Enforcement, Event, Held, Identity, Now, Posture, Quarantine, Rails, Refusal,
    ShadowReading, Standing, StatusReporter, Store, StoreError, Stored, Verdict, decide,
};

use super::boot_unit::{self, BootUnitError};
use super::files::chain;
use super::shadows::{Place, Shadows};

pub use policy::{configured_identities, lan};

/// How often the kernel is compared with what should be there, besides at every notification.
const COMPARE_EVERY: Duration = Duration::from_secs(10);
/// How often the answer to shadows is made anew for its counters.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Why enforcement could not begin.
#[derive(Debug, thiserror::Error)]
pub enum WardenError {
    /// The stored decisions are of a newer version, or cannot be read at all.
    #[error("the stored quarantine decisions cannot be used")]
    Store(#[from] StoreError),
}

enum Backend {
    Nftables(Box<NftablesFirewall>),
    Observe(ObserveOnly),
    /// The kernel would not even open a socket; why.
    None(String),
}

/// Holds everything about quarantine for the life of the process.
pub struct Warden {
    core: ThingName,
    state_dir: PathBuf,
    quarantine: Quarantine,
    store: Option<Store>,
    audit: AuditLog,
    backend: Backend,
    enforcement: Enforcement,
    lan: Lan,
    rails: Result<Rails, String>,
    identities: BTreeMap<ThingName, Identity>,
    /// What the configuration says: it may name what no other source would, and a rail has to see it.
    configured: BTreeMap<ThingName, Identity>,
    /// Known devices behind each LAN port.
    ports: BTreeMap<String, BTreeSet<MacAddress>>,
    decision: Decision,
    policy: Policy,
    enforced: BTreeMap<ThingName, Enforced>,
    reporter: StatusReporter,
    readings: BTreeMap<Place, ShadowReading>,
    /// Things whose documents are to be answered once they are read.
    pub(super) to_tell: BTreeSet<ThingName>,
    trouble: BTreeMap<&'static str, String>,
    /// Something worth keeping is not on disk yet.
    unsaved: bool,
    next_compare: Monotonic,
    next_tell: Monotonic,
    mended: u64,
}

impl Warden {
    /// Load what was decided before and enforce it. To be called before anything is connected to.
    ///
    /// # Errors
    /// [`WardenError::Store`] when decisions were stored by a newer version: going on would forget them.
    pub fn begin(
        config: &Config,
        core: &ThingName,
        state_dir: &Path,
        boot_id: &str,
        sample: &HostSample,
        now: Now,
    ) -> Result<Self, WardenError> {
        let monotonic = now.monotonic;
        let (store, stored, trouble) = open_store(state_dir)?;
        let posture = policy::posture(config);
        let quarantine = Quarantine::new(stored, posture, policy::edge_cap(config), boot_id, now);
        let (backend, enforcement) = open_backend(config);
        let mut warden = Self {
            core: core.clone(),
            state_dir: state_dir.to_owned(),
            quarantine,
            store,
            audit: AuditLog::open(state_dir),
            backend,
            enforcement,
            lan: Lan::default(),
            rails: Err("not read yet".to_owned()),
            identities: policy::configured_identities(config),
            configured: policy::configured_identities(config),
            ports: BTreeMap::new(),
            decision: Decision::new(),
            policy: Policy::default(),
            enforced: BTreeMap::new(),
            reporter: StatusReporter::default(),
            readings: BTreeMap::new(),
            to_tell: BTreeSet::new(),
            trouble,
            unsaved: false,
            next_compare: monotonic,
            next_tell: monotonic.after(TELL_EVERY),
            mended: 0,
        };
        warden.look_around(sample, config);
        let lan = policy::lan(sample, config).unwrap_or_default();
        let before = remembered::recall(state_dir);
        warden.lan = remembered::joined(lan, before.clone());
        // a LAN that is the same all the time is never news afterwards
        if before.as_ref() != Some(&warden.lan) && warden.lan != Lan::default() {
            let kept = remembered::remember(state_dir, &warden.lan);
            warden.say("memory of the LAN", kept.err().map(|error| chain(&error)));
        }
        warden.recover(now);
        warden.enforce(now);
        // what a restart means for clocks and what was recovered is kept at once
        warden.persist();
        Ok(warden)
    }

    /// The nucleus said who the core is.
    pub fn set_core(&mut self, core: &ThingName) {
        self.core.clone_from(core);
        if let Ok(rails) = &mut self.rails {
            rails.core = Some(core.clone());
        }
    }

    /// Install, renew or remove the boot unit, as configured.
    pub fn keep_boot_unit(&mut self, config: &Config) {
        let units = Path::new(boot_unit::UNIT_DIR);
        let done = if config.quarantine.boot_unit {
            std::env::current_exe()
                .map_err(|source| BootUnitError::Io {
                    path: PathBuf::from("/proc/self/exe"),
                    source,
                })
                .and_then(|binary| boot_unit::install(units, &self.state_dir, &binary))
        } else {
            boot_unit::remove(units, &self.state_dir)
        };
        self.say("boot unit", done.err().map(|error| chain(&error)));
    }

    /// What the host says about the rails. Cheap; to be called with every sample.
    pub(super) fn look_around(&mut self, sample: &HostSample, config: &Config) {
        let rails = rails::read(sample, config, &self.core);
        self.say("rails", rails.as_ref().err().cloned());
        // what was read before is better than nothing
        if rails.is_ok() || self.rails.is_err() {
            self.rails = rails;
        }
    }

    /// Who is who and where the LAN is changed, or may have.
    pub(super) fn set_site(
        &mut self,
        mut lan: Lan,
        identities: BTreeMap<ThingName, Identity>,
        ports: BTreeMap<String, BTreeSet<MacAddress>>,
        now: Now,
    ) {
        if !self.policy.isolated.is_empty() {
            // A bridge that is gone for a moment must not take its rules with it: they name no port. Nor must an
            // interface that is switched off for a moment: it would be open until somebody notices that it is back.
            lan.bridges.extend(self.lan.bridges.iter().cloned());
            let kept = self.lan.interfaces.iter().filter(|name| !lan.bridges.contains(*name));
            lan.interfaces.extend(kept.cloned());
        }
        if self.lan == lan && self.identities == identities && self.ports == ports {
            return;
        }
        if self.lan != lan {
            let kept = remembered::remember(&self.state_dir, &lan);
            self.say("memory of the LAN", kept.err().map(|error| chain(&error)));
        }
        self.lan = lan;
        self.identities = identities;
        self.ports = ports;
        // nobody answers for things that are not behind this gateway any more, unless they are still quarantined
        let (identities, decision, core) = (&self.identities, &self.decision, &self.core);
        let local = |thing: &ThingName| identities.contains_key(thing) || decision.contains_key(thing) || thing == core;
        self.readings.retain(|(thing, _), _| local(thing));
        self.reporter.retain(local);
        if self.quarantine.causes().is_empty() && self.policy.isolated.is_empty() {
            return;
        }
        self.enforce(now);
        self.tell_all();
    }

    /// The configuration changed.
    pub fn reconfigure(&mut self, config: &Config, sample: Option<&HostSample>, now: Now) {
        self.quarantine
            .reconfigure(policy::posture(config), policy::edge_cap(config));
        self.configured = policy::configured_identities(config);
        let wanted = policy::enforcement(config);
        if wanted != self.enforcement || matches!(self.backend, Backend::None(_)) {
            if let Backend::Nftables(firewall) = &mut self.backend
                && let Err(error) = firewall.purge()
            {
                tracing::error!(error = chain(&error), "the rules cannot be removed");
            }
            (self.backend, self.enforcement) = open_backend(config);
        }
        if let Some(sample) = sample {
            self.look_around(sample, config);
        }
        self.enforce(now);
        self.tell_all();
    }

    /// Let an event change who is quarantined.
    pub(super) fn event(&mut self, event: Event, now: Now) {
        let effects = self.quarantine.step(event, now);
        self.carry_out(effects, now);
    }

    /// Let an alarm quarantine a thing; the words when it may not.
    pub(super) fn alarm(&mut self, alarm: Event, now: Now) -> Option<String> {
        let effects = self.quarantine.step(alarm, now);
        let refused = effects.iter().find_map(|effect| match effect {
            Effect::Audit(entry) if entry.what.starts_with("alarm not acted on") => Some(entry.what.clone()),
            _ => None,
        });
        self.carry_out(effects, now);
        refused
    }

    fn carry_out(&mut self, effects: Vec<Effect>, now: Now) {
        for effect in effects {
            match effect {
                Effect::Enforce => self.write_rules(now),
                Effect::Persist => self.persist(),
                Effect::ReportShadow(thing) => {
                    self.to_tell.insert(thing);
                }
                Effect::Audit(mut entry) => {
                    // a demand is one thing, what became of it another
                    if entry.before != entry.after && !entry.after.is_empty() {
                        match self.decision.get(&entry.thing) {
                            Some(Verdict::Refused(refusal)) => {
                                entry.what.push_str(&format!("; not cut off: {refusal}"));
                            }
                            Some(Verdict::Cut(_)) if self.enforcement == Enforcement::Observe => {
                                entry.what.push_str("; not cut off: enforcement is observe");
                            }
                            _ => {}
                        }
                    }
                    tracing::info!(thing = %entry.thing, who = entry.who, before = ?entry.before, after = ?entry.after, "quarantine: {}", entry.what);
                    let written = self.audit.append(&entry, now.monotonic);
                    self.say("audit log", written.err().map(|error| chain(&error)));
                }
            }
        }
        if self.unsaved {
            self.persist();
        }
    }

    /// A document was read: it may change decisions, and it may have to be answered.
    pub(super) fn document(&mut self, place: Place, reading: ShadowReading, now: Now) {
        let (thing, shadow) = place.clone();
        self.event(
            Event::Shadow {
                thing: thing.clone(),
                shadow,
                reading: reading.clone(),
            },
            now,
        );
        self.readings.insert(place, reading);
        self.to_tell.insert(thing);
    }

    /// Time passes: expiries, comparisons, counters.
    pub(super) fn tick(&mut self, now: Now) {
        if self
            .quarantine
            .next_expiry()
            .is_some_and(|expiry| expiry <= now.monotonic)
        {
            self.event(Event::Tick, now);
        }
        if self.next_compare <= now.monotonic {
            self.next_compare = now.monotonic.after(COMPARE_EVERY);
            self.compare(now);
            let flushed = self.audit.flush(now.monotonic);
            self.say("audit log", flushed.err().map(|error| chain(&error)));
        }
        if self.next_tell <= now.monotonic {
            self.next_tell = now.monotonic.after(TELL_EVERY);
            self.tell_all();
        }
    }

    /// The latest instant for the next [`Warden::tick`].
    pub(super) fn next_wake(&self) -> Monotonic {
        let next = self.next_compare.min(self.next_tell);
        self.quarantine.next_expiry().map_or(next, |expiry| next.min(expiry))
    }

    /// Somebody changed tables or links: compare at once.
    pub(super) fn changed(&mut self, changes: &[Change], now: Now) {
        let ours = changes.iter().any(|change| match change {
            Change::Table { table, .. } => table == "edge_warden",
            Change::CompareAll => true,
            Change::LinkPresent(name) | Change::LinkGone(name) => self.policy.lan.interfaces.contains(name),
        });
        if ours {
            self.compare(now);
        }
    }

    /// The netlink port of our own changes, for the watch.
    pub(super) fn port(&self) -> Option<u32> {
        match &self.backend {
            Backend::Nftables(firewall) => Some(firewall.port()),
            Backend::Observe(_) | Backend::None(_) => None,
        }
    }

    /// Answers to the shadows whose documents are known: to be sent by `shadows`.
    pub(super) fn tell(&mut self, shadows: &mut Shadows, now: Now) {
        let causes = self.quarantine.causes();
        let none = BTreeMap::new();
        for thing in std::mem::take(&mut self.to_tell) {
            for place in shadows.places_of(&thing) {
                let Some(reading) = self.readings.get(&place) else {
                    continue;
                };
                let standing = Standing {
                    causes: causes.get(&thing).unwrap_or(&none),
                    verdict: self.decision.get(&thing),
                    enforced: self.enforced.get(&thing),
                    enforcement: self.enforcement,
                    is_core: thing == self.core,
                    has_spoken: self.quarantine.has_spoken(&thing, &place.1),
                    shadow_failure: self.quarantine.shadow_failure(&thing, &place.1),
                };
                if let Some(update) = self
                    .reporter
                    .answer(&thing, &place.1, reading, &standing, now.monotonic)
                {
                    shadows.send(place, update);
                }
            }
        }
    }

    /// An answer did not get out; the document is read again, and answered then.
    pub(super) fn not_told(&mut self, (thing, shadow): &Place) {
        self.reporter.not_sent(thing, shadow);
    }

    fn tell_all(&mut self) {
        self.to_tell
            .extend(self.readings.keys().map(|(thing, _)| thing.clone()));
        self.to_tell.extend(self.decision.keys().cloned());
    }

    /// What the kernel holds although no stored cause explains it stays, as a cause of its own.
    fn recover(&mut self, now: Now) {
        let Backend::Nftables(firewall) = &mut self.backend else {
            return;
        };
        let held = match firewall.enforced() {
            Ok(Some(held)) => held,
            Ok(None) => return,
            Err(error) => {
                let words = chain(&error);
                return self.say("firewall", Some(words));
            }
        };
        let causes = self.quarantine.causes();
        let bound = self.quarantine.bound();
        let explained = |mac: &MacAddress| {
            causes.keys().any(|thing| {
                bound.get(thing).is_some_and(|macs| macs.contains(mac))
                    || self
                        .identities
                        .get(thing)
                        .is_some_and(|identity| identity.macs.contains(mac))
            })
        };
        let mut lost: BTreeMap<ThingName, (Posture, BTreeSet<MacAddress>)> = BTreeMap::new();
        for (mac, posture) in &held.macs {
            if explained(mac) {
                continue;
            }
            let owner = self
                .identities
                .iter()
                .find(|(_, identity)| identity.macs.contains(mac))
                .map(|(thing, _)| thing.clone());
            let Some(thing) = owner.or_else(|| format!("mac:{mac}").parse().ok()) else {
                continue;
            };
            let entry = lost.entry(thing).or_insert((Posture::Remediate, BTreeSet::new()));
            entry.0 = entry.0.max(policy::posture_from_kernel(*posture));
            entry.1.insert(*mac);
        }
        for (thing, (posture, macs)) in lost {
            tracing::warn!(%thing, "the kernel cuts it off and no stored cause says why; it stays cut off until the operator releases it");
            self.event(Event::Recovered { thing, posture, macs }, now);
        }
    }

    /// Make the kernel follow the causes as they are now.
    fn enforce(&mut self, now: Now) {
        self.write_rules(now);
        if self.unsaved {
            self.persist();
        }
    }

    /// As [`Warden::enforce`], and leaves what is news for the disk to the caller.
    fn write_rules(&mut self, now: Now) {
        let causes = self.quarantine.causes();
        if causes.is_empty() && self.policy.isolated.is_empty() && !self.holds_rules() {
            self.decision.clear();
            self.enforced.clear();
            return;
        }
        let before: BTreeSet<IpAddr> = policy::addresses(&self.policy);
        let bound = self.quarantine.bound();
        self.decision = match &self.rails {
            Ok(rails) => {
                let identities = rails::with_forbidden(&self.identities, &self.configured, rails);
                decide(&causes, &identities, rails, &bound)
            }
            // whoever was cut off before stays so; nobody new is cut without knowing what to spare
            Err(why) => {
                let unread = Rails {
                    core: Some(self.core.clone()),
                    ..Rails::default()
                };
                let decision = decide(&causes, &self.identities, &unread, &bound).into_iter();
                let refused = || Verdict::Refused(Refusal::Rail(format!("what must be spared cannot be read: {why}")));
                decision
                    .map(|(thing, verdict)| {
                        let verdict = if bound.contains_key(&thing) { verdict } else { refused() };
                        (thing, verdict)
                    })
                    .collect()
            }
        };
        let policy = policy::build(&self.decision, &self.lan, &self.ports, |until| {
            UnixTime(now.wall.0.saturating_add(millis(self.quarantine.left(until))))
        });
        let result = match &mut self.backend {
            Backend::Nftables(firewall) => firewall.enforce(&policy, now.wall),
            Backend::Observe(observe) => observe.enforce(&policy, now.wall),
            Backend::None(_) => Ok(()),
        };
        let failed = result.err().map(|error| chain(&error));
        if failed.is_none() {
            self.policy = policy;
            let newly: BTreeSet<IpAddr> = policy::addresses(&self.policy).difference(&before).copied().collect();
            self.sever(newly);
        }
        let broken = match &self.backend {
            Backend::None(why) => Some(why.clone()),
            _ => failed,
        };
        self.say("firewall", broken);
        self.unsaved |= self.quarantine.bind(&self.decision);
        self.read_back();
    }

    fn holds_rules(&mut self) -> bool {
        match &mut self.backend {
            Backend::Nftables(firewall) => matches!(firewall.enforced(), Ok(Some(_))),
            Backend::Observe(_) | Backend::None(_) => false,
        }
    }

    /// Close the gateway's own sockets with devices just cut off, off the loop: it walks kernel tables.
    fn sever(&self, addresses: BTreeSet<IpAddr>) {
        if addresses.is_empty() || !matches!(self.backend, Backend::Nftables(_)) {
            return;
        }
        std::thread::spawn(move || match crate::firewall::sever(&addresses) {
            Ok(severed) => tracing::info!(
                sockets = severed.sockets,
                flows = severed.flows,
                unsupported = ?severed.unsupported,
                "the gateway's own connections with the device are closed"
            ),
            Err(error) => {
                tracing::warn!(%error, "the gateway's own connections with the device stay open until they time out")
            }
        });
    }

    /// Ask the kernel what it holds, for the shadows and for people.
    fn read_back(&mut self) {
        let (held, dropped) = match &mut self.backend {
            Backend::Nftables(firewall) => (firewall.enforced(), firewall.dropped()),
            Backend::Observe(_) | Backend::None(_) => (Ok(None), Ok(BTreeMap::new())),
        };
        let counted: BTreeMap<String, Dropped> = dropped.unwrap_or_default();
        let before = std::mem::take(&mut self.enforced);
        let failure = self.backend_failure();
        self.enforced = self
            .policy
            .isolated
            .iter()
            .filter_map(|isolated| {
                let thing: ThingName = isolated.label.parse().ok()?;
                let held = policy::held(&held, isolated, failure.as_deref());
                let dropped_packets = counted
                    .get(&isolated.label)
                    .map(|d| d.packets_from.saturating_add(d.packets_to));
                Some((
                    thing,
                    Enforced {
                        held,
                        dropped_packets,
                        group_traffic_passes: Some(!self.is_quiet(&isolated.macs)),
                    },
                ))
            })
            .collect();
        let without_counters = |map: &BTreeMap<ThingName, Enforced>| -> BTreeMap<ThingName, Held> {
            map.iter()
                .map(|(thing, enforced)| (thing.clone(), enforced.held.clone()))
                .collect()
        };
        if without_counters(&before) != without_counters(&self.enforced) {
            self.to_tell.extend(before.into_keys());
            self.to_tell.extend(self.enforced.keys().cloned());
        }
    }

    /// Whether group frames are dropped towards every port these devices are behind.
    fn is_quiet(&self, macs: &BTreeSet<MacAddress>) -> bool {
        let Some(quiet) = &self.policy.quiet_ports else {
            return false;
        };
        let mut behind = self
            .ports
            .iter()
            .filter(|(_, devices)| !devices.is_disjoint(macs))
            .peekable();
        behind.peek().is_some() && behind.all(|(port, _)| quiet.contains(port))
    }

    fn backend_failure(&self) -> Option<String> {
        match &self.backend {
            Backend::None(why) => Some(why.clone()),
            _ => self.trouble.get("firewall").cloned(),
        }
    }

    /// Compare the kernel with what should be there, and mend it.
    fn compare(&mut self, now: Now) {
        if self.policy.isolated.is_empty() && self.quarantine.causes().is_empty() {
            return;
        }
        let Backend::Nftables(firewall) = &mut self.backend else {
            return self.read_back();
        };
        let intact = match firewall.enforced() {
            Ok(Some(held)) => {
                held.differences.is_empty()
                    && self
                        .policy
                        .isolated
                        .iter()
                        .all(|isolated| held.holds(isolated) == crate::firewall::Holding::Whole)
            }
            Ok(None) => self.policy.isolated.is_empty(),
            Err(_) => false,
        };
        if intact && !self.trouble.contains_key("firewall") {
            return self.read_back();
        }
        self.mended += 1;
        tracing::warn!(
            times = self.mended,
            "the rules are not as they were written; writing them again"
        );
        firewall.distrust();
        self.enforce(now);
    }

    fn persist(&mut self) {
        self.unsaved = false;
        let Some(store) = &mut self.store else { return };
        let stored = self.quarantine.stored();
        let trouble = match store.save(&stored) {
            Ok(crate::quarantine::Saved::Both) => None,
            Ok(crate::quarantine::Saved::One(error)) => Some(format!("one of two copies: {}", chain(&error))),
            Err(error) => Some(chain(&error)),
        };
        self.say("quarantine store", trouble);
    }

    /// Remember what is wrong, and log it when it changes.
    fn say(&mut self, what: &'static str, trouble: Option<String>) {
        match trouble {
            Some(words) => {
                if self.trouble.get(what) != Some(&words) {
                    tracing::error!(error = words, "{what}");
                }
                self.trouble.insert(what, words);
            }
            None => {
                if self.trouble.remove(what).is_some() {
                    tracing::info!("{what} works again");
                }
            }
        }
    }
}

/// What opening the store gave, and what is wrong with it.
type OpenedStore = (Option<Store>, Option<Stored>, BTreeMap<&'static str, String>);

fn open_store(state_dir: &Path) -> Result<OpenedStore, WardenError> {
    let mut trouble = BTreeMap::new();
    match Store::open(state_dir) {
        Ok((store, loaded)) => {
            if let Some(damage) = loaded.damage {
                tracing::warn!(
                    damage,
                    "one copy of the quarantine decisions is damaged; the other is used"
                );
            }
            Ok((Some(store), loaded.stored, trouble))
        }
        Err(error @ StoreError::NewerSchema { .. }) => Err(error.into()),
        Err(error @ StoreError::Lost { .. }) => {
            tracing::error!(
                error = chain(&error),
                "the stored quarantine decisions are lost; what the kernel holds stays"
            );
            let store = Store::start_over(state_dir);
            if let Err(error) = &store {
                trouble.insert("quarantine store", chain(error));
            }
            Ok((store.ok(), None, trouble))
        }
        Err(error) => {
            tracing::error!(
                error = chain(&error),
                "quarantine decisions cannot be stored; they hold until a reboot"
            );
            trouble.insert("quarantine store", chain(&error));
            Ok((None, None, trouble))
        }
    }
}

fn open_backend(config: &Config) -> (Backend, Enforcement) {
    if config.quarantine.enforcement == ConfiguredEnforcement::Observe {
        return (Backend::Observe(ObserveOnly::default()), Enforcement::Observe);
    }
    let ownership = match config.quarantine.table_ownership {
        ConfiguredOwnership::Auto => TableOwnership::Auto,
        ConfiguredOwnership::Off => TableOwnership::Off,
    };
    let backend = match NftablesFirewall::open(ownership) {
        Ok(firewall) => Backend::Nftables(Box::new(firewall)),
        Err(error) => Backend::None(chain(&error)),
    };
    (backend, Enforcement::Enforce)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
