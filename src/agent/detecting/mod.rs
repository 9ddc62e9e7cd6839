//! Detection in the agent: samples into the engine, its events out to the cloud, to other components and to the
//! quarantine.
//!
//! ```text
//!  readings ─▶ datapoints ─▶ detect::Engine ─▶ events ─┬▶ quarantine (warden)
//!                  └▶ record                           ├▶ outbox ─▶ AWS IoT Core, in order, kept while offline
//!                                                      └▶ local publish/subscribe
//! ```

mod datapoints;
mod kept;
mod outbox;
mod profiles;
mod record;
mod turns;
mod view;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::config::{self, Config};
use crate::detect::{CustomTypes, Engine, EventType, Metric, Now, Role, Sample, Saved, Subject, Violation};
use crate::greengrass::link::Token;
use crate::greengrass::{NucleusKind, sdk, topic};
use crate::model::{Monotonic, ThingName, ThingReading, UnixTime};

use super::custom::CustomMetrics;
use super::files::chain;
use super::site::Site;
use datapoints::{Baselines, datapoints};
use kept::Told;
use outbox::Outbox;
use record::Recorder;

pub use profiles::{Profiles, ProfilesError, assignment, custom_types, load};
pub use record::SAMPLES;

/// Alarms are saved at every event, and the last values of those that last this often.
const SAVE_EVERY: Duration = Duration::from_secs(60);
/// The most AWS IoT Core takes in one message.
const MQTT_BYTES: usize = 128 * 1024;
/// Events that may wait for local publish/subscribe, where nothing is kept for later.
const MOST_LOCAL: usize = 1_024;
/// Alarms of which it is remembered what was done about them.
const MOST_DONE: usize = 10_000;

/// What the configuration says about detection.
#[derive(Debug, Clone, PartialEq)]
struct Settings {
    profiles: Vec<config::Profile>,
    types: CustomTypes,
}

impl Settings {
    fn of(config: &Config) -> Self {
        Self {
            profiles: config.detect.profiles.clone(),
            types: custom_types(config),
        }
    }
}

/// Everything about detection for the life of the process.
pub(super) struct Detecting {
    core: ThingName,
    state_dir: PathBuf,
    settings: Settings,
    engine: Engine,
    warnings: Vec<String>,
    baselines: Baselines,
    recorder: Recorder,
    outbox: Outbox,
    /// Events for local publish/subscribe, and the one on its way.
    local: VecDeque<String>,
    local_in_flight: Option<Token>,
    local_lost: u64,
    topic: String,
    max_bytes: usize,
    /// Things our own quarantine cut off at some time since their last sample.
    cut: BTreeSet<ThingName>,
    /// What was done about alarms, by violation.
    done: BTreeMap<String, String>,
    /// When the newest sample judged was taken.
    judged: Option<UnixTime>,
    /// Things of that sample that were not judged, because there are too many.
    unwatched: usize,
    /// The alarms of before, while the profiles cannot be used: they go on when that is mended.
    aside: Option<Saved>,
    /// What is on disk.
    saved: String,
    next_save: Monotonic,
    trouble: BTreeMap<&'static str, String>,
}

impl Detecting {
    /// Goes on from what was kept; the events are those of alarms whose behavior is gone.
    pub(super) fn begin(
        config: &Config,
        core: &ThingName,
        kind: NucleusKind,
        state_dir: &Path,
        now: Now,
    ) -> (Self, Vec<Violation>) {
        let mut trouble = BTreeMap::new();
        let loaded = load(config).unwrap_or_else(|error| {
            tracing::error!(%error, "the security profiles cannot be used; nothing is detected");
            trouble.insert("profiles", error.to_string());
            Profiles::default()
        });
        warn(&loaded.warnings, &[]);
        let (kept, damage) = kept::recall(state_dir);
        if let Some(words) = damage {
            tracing::error!(error = words, "the alarms of before are lost; detection starts over");
            trouble.insert("alarms kept", words);
        }
        let (saved, told) = kept.map_or((None, Told::default()), |(saved, told)| (Some(saved), told));
        let (mut outbox, damage) = Outbox::open(state_dir, now.monotonic);
        if let Some(words) = damage {
            tracing::error!(error = words, "events that waited for the cloud are lost");
            trouble.insert("events kept", words);
        }
        outbox.recover(told);
        let (saved, aside) = match trouble.contains_key("profiles") {
            true => (None, saved),
            false => (saved, None),
        };
        let (engine, gone) = Engine::new(loaded.assignments, saved, seed(now), now);
        let max_bytes = sdk::max_payload_bytes(kind).unwrap_or(MQTT_BYTES).min(MQTT_BYTES);
        let detecting = Self {
            core: core.clone(),
            state_dir: state_dir.to_owned(),
            settings: Settings::of(config),
            engine,
            warnings: loaded.warnings,
            baselines: Baselines::default(),
            recorder: Recorder::new(state_dir, config.detect.record),
            outbox,
            local: VecDeque::new(),
            local_in_flight: None,
            local_lost: 0,
            topic: topic::violations(core),
            max_bytes,
            cut: BTreeSet::new(),
            done: BTreeMap::new(),
            judged: None,
            unwatched: 0,
            aside,
            saved: String::new(),
            next_save: now.monotonic,
            trouble,
        };
        (detecting, gone)
    }

    /// Takes a changed configuration over. It was loaded before, so its profiles are good. The events are those of alarms
    /// whose behavior is gone.
    pub(super) fn reconfigure(&mut self, config: &Config, now: Now) -> Vec<Violation> {
        self.recorder.switch(config.detect.record);
        let settings = Settings::of(config);
        if settings == self.settings {
            return Vec::new();
        }
        let loaded = match load(config) {
            Ok(loaded) => loaded,
            Err(error) => {
                tracing::error!(%error, "the new security profiles cannot be used; the ones in force stay");
                self.trouble.insert("profiles", error.to_string());
                return Vec::new();
            }
        };
        self.trouble.remove("profiles");
        warn(&loaded.warnings, &self.warnings);
        tracing::info!(profiles = loaded.assignments.len(), "security profiles changed");
        self.settings = settings;
        self.warnings = loaded.warnings;
        let saved = self.aside.take().unwrap_or_else(|| self.engine.save(now));
        let (engine, gone) = Engine::new(loaded.assignments, Some(saved), seed(now), now);
        self.engine = engine;
        gone
    }

    /// Whether samples are of any use here.
    pub(super) fn is_idle(&self) -> bool {
        self.settings.profiles.is_empty() && !self.recorder.is_on()
    }

    /// Whether the table of flows has to be read in every sample, because a profile judges connections or ports of local
    /// things.
    pub(super) fn needs_flows(&self, site: &Site) -> bool {
        if self.is_idle() {
            return false;
        }
        let from_flows = |metric: &Metric| {
            !matches!(
                metric,
                Metric::BytesIn | Metric::BytesOut | Metric::PacketsIn | Metric::PacketsOut | Metric::Custom(..)
            )
        };
        let judged = |thing: &ThingName| self.engine.metrics(thing, Role::Local).into_iter().any(from_flows);
        self.recorder.is_on() || site.identities().keys().any(judged)
    }

    /// Judges one sample of everyone. `flows`: the sample has the table of flows, so that connections and ports of local
    /// things are of now.
    pub(super) fn sample(
        &mut self,
        core: Option<&ThingReading>,
        site: &Site,
        custom: &CustomMetrics,
        flows: bool,
        now: Now,
    ) -> Vec<Violation> {
        if self.is_idle() {
            return Vec::new();
        }
        self.judged = Some(now.wall);
        let recording = self.recorder.is_on();
        let (mut events, mut samples) = (Vec::new(), Vec::new());
        // who is cut off may be gone from the LAN, and its alarm lasts all the same
        let cut: Vec<ThingName> = self.cut.iter().cloned().collect();
        let gone = cut.iter().filter(|thing| !site.identities().contains_key(*thing));
        // configured ones first: names a LAN makes up must not take the room of those somebody chose
        let named = |configured: bool| {
            let those = site.identities().iter();
            those.filter(move |(_, identity)| identity.configured == configured)
        };
        let local = named(true).chain(named(false)).map(|(thing, _)| thing).chain(gone);
        let things = std::iter::once((&self.core, Role::Core)).chain(local.map(|thing| (thing, Role::Local)));
        for (thing, role) in things {
            let reading = match role {
                Role::Core => core.cloned(),
                Role::Local if flows => Some(site.reading(thing)),
                Role::Local => Some(without_flows(site.reading(thing))),
            };
            let datapoints = reading.map_or_else(Default::default, |mut reading| {
                reading.custom = custom.of((role == Role::Local).then_some(thing));
                let added = self.baselines.added(thing, &reading.traffic, now.monotonic);
                datapoints(&reading, added)
            });
            let subject = Subject {
                thing,
                role,
                cut_off: self.cut.contains(thing),
            };
            events.extend(self.engine.observe(subject, &datapoints, now));
            if recording {
                samples.push(Sample {
                    time: now.wall,
                    monotonic: u64::try_from(now.monotonic.0.as_millis()).unwrap_or(u64::MAX),
                    thing: thing.clone(),
                    role,
                    cut_off: subject.cut_off,
                    datapoints,
                });
            }
        }
        let core = &self.core;
        self.baselines
            .retain(|thing| thing == core || site.identities().contains_key(thing));
        self.unwatched = self.engine.unwatched();
        events.extend(self.engine.tick(now));
        if recording {
            self.recorder.record(&samples);
        }
        self.cut.clear();
        events
    }

    /// Things the quarantine holds cut off now.
    pub(super) fn note_cut<'a>(&mut self, cut: impl Iterator<Item = &'a ThingName>) {
        for thing in cut {
            if !self.cut.contains(thing) {
                self.cut.insert(thing.clone());
            }
        }
    }

    /// What was done about an alarm, for `alarms`.
    pub(super) fn note_done(&mut self, violation: &Violation, words: String) {
        if self.done.len() >= MOST_DONE {
            self.done.clear(); // only words for people
        }
        self.done.insert(violation.violation_id.clone(), words);
    }

    /// Keeps the alarms these events changed, and sends the events on their way, those that are not suppressed, oldest
    /// first.
    pub(super) fn tell(&mut self, events: &[Violation], now: Now) {
        let payloads: Vec<String> = events
            .iter()
            .filter(|event| !event.suppressed)
            .map(|event| fitting(event.to_json(), self.max_bytes))
            .collect();
        self.local.extend(payloads.iter().cloned());
        while self.local.len() > MOST_LOCAL {
            self.local.pop_front();
            self.local_lost = self.local_lost.saturating_add(1);
        }
        let told = Told {
            first: self.outbox.next_number(),
            payloads,
        };
        self.write(&told, now);
        self.outbox.push(told.payloads);
    }

    /// Keeps alarms over a restart.
    pub(super) fn save(&mut self, now: Now) {
        self.write(&Told::default(), now);
    }

    fn write(&mut self, told: &Told, now: Now) {
        let Some(document) = kept::document(&self.engine.save(now), told) else {
            return;
        };
        if document == self.saved || self.aside.is_some() {
            return;
        }
        match kept::write(&self.state_dir, &document) {
            Ok(()) => {
                self.saved = document;
                if self.trouble.remove("alarms are not saved").is_some() {
                    tracing::info!("alarms are saved again");
                }
            }
            Err(error) => {
                let words = chain(&error);
                if self.trouble.get("alarms are not saved") != Some(&words) {
                    tracing::error!(error = words, "alarms are not saved; a restart would forget them");
                }
                self.trouble.insert("alarms are not saved", words);
            }
        }
    }
}

/// A reading whose connections and ports are of an earlier sample.
fn without_flows(mut reading: ThingReading) -> ThingReading {
    let missing = || {
        crate::model::Missing::new(
            "connection tracking",
            crate::model::Reason::NotCollected,
            "not read in this sample",
        )
    };
    reading.established = Err(missing());
    reading.listening_tcp = Err(missing());
    reading.listening_udp = Err(missing());
    reading
}

fn warn(warnings: &[String], said: &[String]) {
    for words in warnings.iter().filter(|words| !said.contains(words)) {
        tracing::warn!("{words}");
    }
}

/// A random number for violation ids; without a source of them the time will do.
fn seed(now: Now) -> u128 {
    let mut bytes = [0; 16];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK) {
        Ok(16) => u128::from_ne_bytes(bytes),
        Ok(_) | Err(_) => u128::from(now.wall.0) << 64 | now.monotonic.0.as_nanos(),
    }
}

/// The event in at most so many bytes: its longest list is halved until it fits. Only lists of limits with hundreds of
/// entries need that, and only nucleus lite.
fn fitting(body: String, most: usize) -> String {
    if body.len() <= most {
        return body;
    }
    let Ok(mut event) = serde_json::from_str::<Value>(&body) else {
        return body;
    };
    loop {
        let text = event.to_string();
        if text.len() <= most {
            return text;
        }
        match longest_list(&mut event).filter(|list| list.len() > 1) {
            Some(list) => list.truncate(list.len() / 2),
            None => return text,
        }
    }
}

fn longest_list(value: &mut Value) -> Option<&mut Vec<Value>> {
    match value {
        Value::Array(items) => Some(items),
        Value::Object(map) => map.values_mut().filter_map(longest_list).max_by_key(|list| list.len()),
        _ => None,
    }
}

/// Whether an event is the beginning of an alarm.
fn begins(event: &Violation) -> bool {
    event.event == EventType::InAlarm
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_that_does_not_fit_loses_the_end_of_its_longest_list() {
        let cidrs: Vec<String> = (0..1000).map(|n| format!("10.0.{}.{}/32", n / 256, n % 256)).collect();
        let event = json!({"thingName": "cam", "behavior": {"criteria": {"value": {"cidrs": cidrs}}}, "metricValue": {"cidrs": ["192.0.2.1"]}});
        let body = event.to_string();
        assert_eq!(fitting(body.clone(), body.len()), body);
        let cut: Value = serde_json::from_str(&fitting(body, 7000)).unwrap();
        let left = cut["behavior"]["criteria"]["value"]["cidrs"].as_array().unwrap();
        assert_eq!(left.len(), 250);
        assert_eq!(left[0], "10.0.0.0/32");
        assert_eq!(cut["metricValue"], event["metricValue"]);
        // what cannot fit ends all the same
        assert_eq!(
            fitting(r#"{"a":["xxxxxxxxxxxx"]}"#.to_owned(), 5),
            r#"{"a":["xxxxxxxxxxxx"]}"#
        );
    }
}
