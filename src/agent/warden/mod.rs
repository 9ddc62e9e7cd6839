//! Quarantine carried out: causes from `quarantine`, rules through `firewall`, the truth back to the shadows.
//!
//! ```text
//!  begin ──▶ events (what is asked for) ──▶ pending ──▶ carry_out ──▶ rules (the kernel) ──▶ told (the shadows)
//!                                                          └──▶ kept (the disk, the audit log)
//! ```
//!
//! Order matters everywhere here: enforcing waits for neither disk nor network; releasing is on disk before it is in the
//! kernel. What the shadows are told is read back from the kernel.

mod alarms;
mod backend;
mod events;
mod kept;
mod policy;
mod rails;
mod remembered;
mod rules;
mod severing;
mod status;
mod strangers;
mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::collect::HostSample;
use crate::config::Config;
use crate::firewall::{Lan, Policy};
use crate::model::{MacAddress, Monotonic, Now, ThingName};
use crate::quarantine::{
    AuditLog, Decision, Enforced, Enforcement, Event, Identity, Quarantine, ShadowReading, StatusReporter, Store,
    StoreError,
};

use super::boot_unit::{self, BootUnitError};
use super::files::chain;
use super::shadows::Place;

use backend::Backend;
use events::Pending;
use rails::RailsWatch;
use severing::Severing;
use strangers::Strangers;

pub use policy::{configured_identities, lan};

/// How often the kernel is compared with what should be there, besides at every notification.
const COMPARE_EVERY: Duration = Duration::from_secs(10);
/// How often the answer to shadows is made anew for its counters.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// The trouble with [`remembered`].
const LAN_MEMORY: &str = "memory of the LAN";

/// Why enforcement could not begin.
#[derive(Debug, thiserror::Error)]
pub enum WardenError {
    /// The stored decisions are of a newer version, or cannot be read at all.
    #[error("the stored quarantine decisions cannot be used")]
    Store(#[from] StoreError),
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
    rails: RailsWatch,
    identities: BTreeMap<ThingName, Identity>,
    /// What the configuration says: it may name what no other source would, and a rail has to see it.
    configured: BTreeMap<ThingName, Identity>,
    /// Known devices behind each LAN port.
    ports: BTreeMap<String, BTreeSet<MacAddress>>,
    pending: Pending,
    strangers: Strangers,
    severing: Severing,
    decision: Decision,
    policy: Policy,
    enforced: BTreeMap<ThingName, Enforced>,
    /// When the counters of dropped packets were read within a burst of decisions.
    counted_at: Option<Monotonic>,
    reporter: StatusReporter,
    readings: BTreeMap<Place, ShadowReading>,
    /// Things whose documents are to be answered once they are read.
    to_tell: BTreeSet<ThingName>,
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
        let (store, stored, trouble) = kept::open_store(state_dir)?;
        let posture = policy::posture(config);
        let quarantine = Quarantine::new(stored, posture, policy::edge_cap(config), boot_id, now);
        let (backend, enforcement) = backend::open(config);
        let mut warden = Self {
            core: core.clone(),
            state_dir: state_dir.to_owned(),
            quarantine,
            store,
            audit: AuditLog::open(state_dir),
            backend,
            enforcement,
            lan: Lan::default(),
            rails: RailsWatch::of_this_host(core),
            identities: policy::configured_identities(config),
            configured: policy::configured_identities(config),
            ports: BTreeMap::new(),
            pending: Pending::default(),
            strangers: Strangers::default(),
            severing: Severing::default(),
            decision: Decision::new(),
            policy: Policy::default(),
            enforced: BTreeMap::new(),
            counted_at: None,
            reporter: StatusReporter::default(),
            readings: BTreeMap::new(),
            to_tell: BTreeSet::new(),
            trouble,
            unsaved: false,
            next_compare: monotonic,
            next_tell: monotonic.after(TELL_EVERY),
            mended: 0,
        };
        warden.rails.configure(config);
        warden.rails.own(sample);
        warden.read_rails(now);
        let lan = policy::lan(sample, config).unwrap_or_default();
        let before = remembered::recall(state_dir);
        warden.lan = remembered::joined(lan, before.clone());
        // a LAN that is the same all the time is never news afterwards
        if before.as_ref() != Some(&warden.lan) && warden.lan != Lan::default() {
            warden.keep_lan();
        }
        warden.recover(now);
        warden.carry_out(now);
        warden.enforce(now);
        // what a restart means for clocks and what was recovered is kept at once
        warden.persist();
        Ok(warden)
    }

    /// The nucleus said who the core is.
    pub fn set_core(&mut self, core: &ThingName) {
        self.core.clone_from(core);
        self.rails.set_core(core);
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

    /// The host was looked at once more. What must be spared is read anew only while somebody is cut off.
    pub(super) fn look_around(&mut self, sample: &HostSample, now: Now) {
        self.rails.own(sample);
        if !self.quarantine.is_idle() && self.read_rails(now) {
            self.enforce(now);
        }
    }

    /// Who is who and where the LAN is changed, or may have.
    pub(super) fn set_site(
        &mut self,
        mut lan: Lan,
        mut identities: BTreeMap<ThingName, Identity>,
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
        identities.extend(self.strangers.identities.clone());
        if self.lan == lan && self.identities == identities && self.ports == ports {
            return;
        }
        if self.lan != lan {
            self.lan = lan;
            self.keep_lan();
        }
        self.identities = identities;
        self.ports = ports;
        // nobody answers for things that are not behind this gateway any more, unless they are still quarantined
        let (identities, decision, core) = (&self.identities, &self.decision, &self.core);
        let local = |thing: &ThingName| identities.contains_key(thing) || decision.contains_key(thing) || thing == core;
        self.readings.retain(|(thing, _), _| local(thing));
        self.reporter.retain(local);
        if self.quarantine.is_idle() && self.policy.isolated.is_empty() {
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
        self.use_backend(config);
        self.rails.configure(config);
        if let Some(sample) = sample {
            self.rails.own(sample);
        }
        self.read_rails(now);
        self.enforce(now);
        self.tell_all();
    }

    /// Time passes: expiries, comparisons, counters.
    pub(super) fn tick(&mut self, now: Now) {
        if self
            .quarantine
            .next_expiry()
            .is_some_and(|expiry| expiry <= now.monotonic)
        {
            self.event(Event::Tick, now);
            self.carry_out(now);
        }
        if self.next_compare <= now.monotonic {
            self.next_compare = now.monotonic.after(COMPARE_EVERY);
            self.compare(now);
            let flushed = self.audit.flush(now.monotonic);
            self.say("audit log", flushed.err().map(|error| chain(&error)));
            // there was no room for it: a LAN that stays the same is never written otherwise
            if self.trouble.contains_key(LAN_MEMORY) {
                self.keep_lan();
            }
        }
        if self.next_tell <= now.monotonic {
            self.next_tell = now.monotonic.after(TELL_EVERY);
            self.tell_all();
        }
    }

    /// The latest instant for the next [`Warden::tick`].
    pub(super) fn next_wake(&self) -> Monotonic {
        let next = self.next_compare.min(self.next_tell);
        let next = self.strangers.next_wake().map_or(next, |strangers| next.min(strangers));
        self.quarantine.next_expiry().map_or(next, |expiry| next.min(expiry))
    }

    /// Keep where the LAN is, for a start before the network is up.
    fn keep_lan(&mut self) {
        let kept = remembered::remember(&self.state_dir, &self.lan);
        self.say(LAN_MEMORY, kept.err().map(|error| chain(&error)));
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
