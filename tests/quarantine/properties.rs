//! No sequence of events breaks a promise.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use edge_warden::model::{MacAddress, Monotonic, Now, ThingName, UnixTime};
use edge_warden::quarantine::{
    Alarm, Bound, CauseKey, EdgeCap, Effect, Event, Identity, Posture, Protected, Quarantine, Rails, Refusal,
    ShadowRef, Verdict, decide,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::document::Document;
use super::reference::{self, Clocks, Key, Reference, Snapshot, Wish};

const START: u64 = 1_795_000_000;
const THINGS: u8 = 3;
/// How long causes of alarms that clear last at the most, seconds.
const LASTS: u64 = 5000;
const TEN_YEARS: i64 = 10 * 365 * 86_400;

#[derive(Debug, Clone)]
enum Step {
    Write {
        thing: u8,
        shadow: Key,
        desired: Desired,
    },
    Echo {
        thing: u8,
        shadow: Key,
    },
    Delete {
        thing: u8,
        shadow: Key,
        begin_anew: bool,
    },
    /// The document as it is, or as it was some changes ago.
    Read {
        thing: u8,
        shadow: Key,
        ago: usize,
    },
    Alarm {
        thing: u8,
        key: Key,
        violation: u32,
        clears: bool,
        trusted: bool,
    },
    Cleared {
        thing: u8,
        key: Key,
        silenced: bool,
    },
    Operator {
        thing: u8,
        seconds: Option<i64>,
    },
    Release {
        thing: u8,
    },
    Recovered {
        thing: u8,
    },
    Tick,
    Wait {
        seconds: u64,
    },
    Jump {
        years: i64,
    },
    /// The agent is killed and starts again, in the same boot or (with the clock right) another.
    Restart {
        reboot: bool,
    },
    Identify {
        thing: u8,
        identity: u8,
    },
}

#[derive(Debug, Clone)]
enum Desired {
    Yes,
    For(i64),
    No,
    Removed,
    Wrong(&'static str),
}

fn step() -> impl Strategy<Value = Step> {
    let thing = || 0..THINGS;
    let shadow = || prop_oneof![Just(Key::Classic), Just(Key::Named)];
    let edge = || (0..2_u8).prop_map(Key::Edge);
    let desired = prop_oneof![
        3 => Just(Desired::Yes),
        2 => (-5000..5000_i64).prop_map(Desired::For),
        3 => Just(Desired::No),
        2 => Just(Desired::Removed),
        1 => prop_oneof![Just("{}"), Just("\"yes\""), Just("{\"mode\":\"x\"}"), Just("[true]")].prop_map(Desired::Wrong),
    ];
    prop_oneof![
        6 => (thing(), shadow(), desired).prop_map(|(thing, shadow, desired)| Step::Write { thing, shadow, desired }),
        2 => (thing(), shadow()).prop_map(|(thing, shadow)| Step::Echo { thing, shadow }),
        1 => (thing(), shadow(), any::<bool>())
            .prop_map(|(thing, shadow, begin_anew)| Step::Delete { thing, shadow, begin_anew }),
        9 => (thing(), shadow(), prop_oneof![3 => Just(0), 1 => 1..8_usize])
            .prop_map(|(thing, shadow, ago)| Step::Read { thing, shadow, ago }),
        3 => (thing(), edge(), 0..3_u32, any::<bool>(), prop::bool::weighted(0.8))
            .prop_map(|(thing, key, violation, clears, trusted)| Step::Alarm { thing, key, violation, clears, trusted }),
        2 => (thing(), edge(), any::<bool>()).prop_map(|(thing, key, silenced)| Step::Cleared { thing, key, silenced }),
        1 => (thing(), prop::option::of(-5000..5000_i64)).prop_map(|(thing, seconds)| Step::Operator { thing, seconds }),
        2 => thing().prop_map(|thing| Step::Release { thing }),
        1 => thing().prop_map(|thing| Step::Recovered { thing }),
        3 => Just(Step::Tick),
        2 => (1..3000_u64).prop_map(|seconds| Step::Wait { seconds }),
        1 => (-1..=1_i64).prop_map(|years| Step::Jump { years }),
        1 => any::<bool>().prop_map(|reboot| Step::Restart { reboot }),
        2 => (thing(), 0..6_u8).prop_map(|(thing, identity)| Step::Identify { thing, identity }),
    ]
}

fn name(thing: u8) -> ThingName {
    format!("cam-{thing}").parse().unwrap()
}

fn mac(group: u8, thing: u8) -> MacAddress {
    MacAddress([2, 0, 0, 0, group, thing])
}

fn cause_key(key: Key) -> CauseKey {
    match key {
        Key::Classic => CauseKey::Shadow(ShadowRef::Classic),
        Key::Named => CauseKey::Shadow(ShadowRef::Named("quarantine".to_owned())),
        Key::Edge(behavior) => CauseKey::Edge {
            profile: "p".to_owned(),
            behavior: behavior.to_string(),
        },
        Key::Operator => CauseKey::Operator,
        Key::Recovered => CauseKey::Recovered,
    }
}

fn rails() -> Rails {
    Rails {
        own_macs: [mac(9, 1)].into(),
        gateway_macs: [mac(9, 2)].into(),
        own_addresses: ["10.0.0.1".parse().unwrap()].into(),
        gateway_addresses: ["192.168.1.1".parse().unwrap()].into(),
        dns_servers: ["10.0.0.53".parse().unwrap()].into(),
        protected: vec![Protected::Mac(mac(9, 3))],
        core: Some("core".parse().unwrap()),
    }
}

/// The ways a thing may look: well known, unknown, in conflict, moved, at a rail's address, with a rail's MAC.
fn identity(thing: u8, kind: u8) -> Identity {
    let (macs, addresses): (&[MacAddress], &[&str]) = match kind {
        0 | 2 => (&[mac(0, thing)], &["10.0.0.7"]),
        1 => (&[], &[]),
        3 => (&[mac(1, thing)], &["10.0.0.8"]),
        4 => (&[mac(0, thing)], &["10.0.0.7", "::ffff:10.0.0.53"]),
        _ => (&[mac(0, thing), mac(9, 1 + thing)], &[]),
    };
    Identity {
        macs: macs.iter().copied().collect(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        in_conflict: kind == 2,
        ..Identity::default()
    }
}

struct World {
    quarantine: Quarantine,
    /// What the last `Persist` wrote.
    disk: String,
    reference: Reference,
    history: BTreeMap<(u8, Key), Vec<Snapshot>>,
    identities: BTreeMap<u8, u8>,
    /// What the kernel holds.
    kernel: BTreeSet<ThingName>,
    seconds: u64,
    wall_offset: i64,
    boots: u32,
    counter: u64,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            quarantine: Quarantine::new(None, Posture::Isolate, EdgeCap::Exactly(2), "0", now(0, 0)),
            disk: String::new(),
            reference: Reference::default(),
            history: BTreeMap::new(),
            identities: BTreeMap::new(),
            kernel: BTreeSet::new(),
            seconds: 0,
            wall_offset: 0,
            boots: 0,
            counter: 0,
        };
        world.persist();
        world
    }

    fn persist(&mut self) {
        self.disk = serde_json::to_string(&self.quarantine.stored()).unwrap();
    }

    fn clocks(&self) -> Clocks {
        Clocks {
            truth: START + self.seconds,
            wall: (START + self.seconds).checked_add_signed(self.wall_offset).unwrap(),
        }
    }

    fn change(&mut self, thing: u8, shadow: Key, change: impl FnOnce(&mut Document, u64), wish: Option<Option<Wish>>) {
        self.seconds += 1; // no two writings within one second: their timestamps could not be told apart
        self.counter += 1;
        let time = START + self.seconds;
        let history = self.history.entry((thing, shadow)).or_default();
        let last = history.last().cloned();
        let mut document = last.as_ref().map(|last| last.document.clone()).unwrap_or_default();
        change(&mut document, time);
        let wish = match wish {
            Some(wish) => wish.map(|wish| (wish, self.counter)),
            None => last.and_then(|last| last.wish).filter(|_| document.exists),
        };
        history.push(Snapshot {
            document,
            wish,
            number: self.counter,
        });
    }

    fn run(&mut self, step: &Step) {
        self.seconds += 1;
        let clocks = self.clocks();
        let after = |seconds: i64| clocks.truth.checked_add_signed(seconds).unwrap();
        let event = match step.clone() {
            Step::Write { thing, shadow, desired } => {
                let (value, wish): (Option<Value>, _) = match desired {
                    Desired::Yes => (Some(json!(true)), Some(Wish::Quarantine { until: None })),
                    Desired::For(seconds) => {
                        let until = Some(after(seconds));
                        (Some(json!({ "until": until })), Some(Wish::Quarantine { until }))
                    }
                    Desired::No => (Some(json!(false)), Some(Wish::Release)),
                    Desired::Removed => (None, None),
                    Desired::Wrong(text) => (Some(serde_json::from_str(text).unwrap()), Some(Wish::Nonsense)),
                };
                return self.change(thing, shadow, |document, time| document.write(value, time), Some(wish));
            }
            Step::Echo { thing, shadow } => return self.change(thing, shadow, Document::touch, None),
            Step::Delete {
                thing,
                shadow,
                begin_anew,
            } => {
                return self.change(thing, shadow, |document, _| document.delete(begin_anew), Some(None));
            }
            Step::Read { thing, shadow, ago } => {
                let history = self.history.get(&(thing, shadow)).cloned().unwrap_or_default();
                let Some(snapshot) = history.iter().rev().nth(ago) else {
                    return;
                };
                if ago > 0 && !snapshot.document.exists {
                    return; // "not found" is an answer about now
                }
                self.reference.show(thing, shadow, snapshot, clocks);
                let CauseKey::Shadow(shadow) = cause_key(shadow) else {
                    unreachable!("reads are of shadows")
                };
                let (thing, reading) = (name(thing), snapshot.document.reading());
                Event::Shadow { thing, shadow, reading }
            }
            Step::Alarm {
                thing,
                key,
                violation,
                clears,
                trusted,
            } => {
                let lasts = clears.then_some(LASTS);
                let alarm = reference::Alarm {
                    key,
                    violation,
                    clears,
                    lasts,
                };
                self.reference.alarm(thing, alarm, trusted, clocks);
                let CauseKey::Edge { profile, behavior } = cause_key(key) else {
                    unreachable!("alarms are of behaviors")
                };
                Event::Alarm(Alarm {
                    thing: name(thing),
                    profile,
                    behavior,
                    violation_id: violation.to_string(),
                    release_when_cleared: clears,
                    lasts: clears.then(|| Duration::from_secs(LASTS)),
                    trusted,
                    known: 10,
                })
            }
            Step::Cleared { thing, key, silenced } => {
                self.reference.cleared(thing, key, silenced);
                let CauseKey::Edge { profile, behavior } = cause_key(key) else {
                    unreachable!("alarms are of behaviors")
                };
                let thing = name(thing);
                Event::AlarmCleared {
                    thing,
                    profile,
                    behavior,
                    silenced,
                }
            }
            Step::Operator { thing, seconds } => {
                let until = seconds.map(after);
                self.reference.operator(thing, until, clocks);
                let (thing, until) = (name(thing), until.map(UnixTime::from_seconds));
                let (posture, reason, who) = (None, None, "root".to_owned());
                Event::OperatorAdd {
                    thing,
                    posture,
                    until,
                    reason,
                    who,
                }
            }
            Step::Release { thing } => {
                self.reference.release(thing);
                let (thing, who) = (name(thing), "root".to_owned());
                Event::OperatorRelease { thing, who }
            }
            Step::Recovered { thing } => {
                self.reference.recovered(thing, clocks);
                let (posture, macs) = (Posture::Isolate, [mac(0, thing)].into());
                Event::Recovered {
                    thing: name(thing),
                    posture,
                    macs,
                }
            }
            Step::Tick => {
                self.reference.tick(clocks);
                Event::Tick
            }
            Step::Wait { seconds } => {
                self.seconds += seconds;
                return;
            }
            Step::Jump { years } => {
                self.wall_offset = years * TEN_YEARS;
                return;
            }
            Step::Restart { reboot } => {
                if reboot {
                    (self.wall_offset, self.boots) = (0, self.boots + 1);
                }
                let stored = serde_json::from_str(&self.disk).unwrap();
                let (boot, now) = (self.boots.to_string(), now(self.seconds, self.wall_offset));
                self.quarantine = Quarantine::new(Some(stored), Posture::Isolate, EdgeCap::Exactly(2), &boot, now);
                self.persist(); // as the agent does after every start
                if reboot {
                    self.kernel.clear();
                }
                return self.enforce();
            }
            Step::Identify { thing, identity } => {
                self.identities.insert(thing, identity);
                return self.enforce();
            }
        };
        let before = self.quarantine.causes();
        let effects = self.quarantine.step(event, now(self.seconds, self.wall_offset));
        let after = self.quarantine.causes();
        self.check_order(&effects, &before, &after);
        for effect in &effects {
            match effect {
                Effect::Enforce => self.enforce(),
                Effect::Persist => self.persist(),
                Effect::ReportShadow(_) | Effect::Audit(_) => {}
            }
        }
    }

    /// Begin: the kernel before the disk. End: the disk before the kernel. Nothing changes without both.
    fn check_order<T: PartialEq>(
        &self,
        effects: &[Effect],
        before: &BTreeMap<ThingName, BTreeMap<CauseKey, T>>,
        after: &BTreeMap<ThingName, BTreeMap<CauseKey, T>>,
    ) {
        let enforce = effects.iter().position(|effect| *effect == Effect::Enforce);
        let persist = effects.iter().position(|effect| *effect == Effect::Persist);
        if before == after {
            assert_eq!(enforce, None, "the kernel is bothered for nothing");
            return;
        }
        let (enforce, persist) = (enforce.expect("enforced"), persist.expect("persisted"));
        let count =
            |causes: &BTreeMap<ThingName, BTreeMap<CauseKey, T>>| -> usize { causes.values().map(BTreeMap::len).sum() };
        if count(after) < count(before) {
            assert!(persist < enforce, "a release is on disk first: {effects:?}");
        } else {
            assert!(enforce < persist, "a quarantine is in the kernel first: {effects:?}");
        }
    }

    /// What the agent does for `Effect::Enforce`, and what must be true of every policy.
    fn enforce(&mut self) {
        let causes = self.quarantine.causes();
        let identities = self
            .identities
            .iter()
            .map(|(thing, kind)| (name(*thing), identity(*thing, *kind)))
            .collect();
        let (rails, bound): (Rails, Bound) = (rails(), self.quarantine.bound());
        let decision = decide(&causes, &identities, &rails, &bound);
        assert!(
            decision.keys().eq(causes.keys()),
            "every thing with a cause is decided about, and no other"
        );
        for (thing, verdict) in &decision {
            match verdict {
                Verdict::Cut(subject) => {
                    assert!(!subject.macs.is_empty());
                    let forbidden = subject.macs.iter().find(|mac| rails.forbid_mac(**mac).is_some());
                    assert_eq!(forbidden, None, "{thing}");
                    let forbidden = subject.addresses.iter().find(|a| rails.forbid_address(**a).is_some());
                    assert_eq!(forbidden, None, "{thing}");
                }
                Verdict::Refused(refusal) => {
                    assert!(!bound.contains_key(thing), "{thing} was held and got out: {refusal}");
                    let kind = (0..THINGS).find(|number| name(*number) == *thing);
                    let kind = kind.and_then(|number| self.identities.get(&number)).unwrap_or(&1);
                    let excused = match refusal {
                        Refusal::UnknownDevice => *kind == 1,
                        Refusal::IdentityConflict => *kind == 2,
                        Refusal::Rail(_) => *kind >= 4,
                        Refusal::Core => false,
                    };
                    assert!(excused, "{thing}: {refusal} of a thing of kind {kind}");
                }
            }
        }
        let cut = |(thing, verdict): (&ThingName, &Verdict)| matches!(verdict, Verdict::Cut(_)).then(|| thing.clone());
        let cut: BTreeSet<ThingName> = decision.iter().filter_map(cut).collect();
        for thing in &self.kernel {
            assert!(
                cut.contains(thing) || !causes.contains_key(thing),
                "{thing} left the kernel with a cause"
            );
        }
        self.kernel = cut;
        if self.quarantine.bind(&decision) {
            self.persist();
        }
    }

    /// The agent and the reference agree on which causes hold, and until when.
    fn compare(&self) {
        let got = self.quarantine.causes();
        let bound = self.quarantine.bound();
        assert!(
            bound.keys().all(|thing| got.contains_key(thing)),
            "what is free is bound to no address"
        );
        let mut expected = BTreeMap::new();
        for (thing, causes) in &self.reference.causes {
            let causes: BTreeMap<_, _> = causes
                .iter()
                .map(|(key, held)| (cause_key(*key), (held.since, held.until)))
                .collect();
            if !causes.is_empty() {
                expected.insert(name(*thing), causes);
            }
        }
        let got: BTreeMap<_, BTreeMap<_, _>> = got
            .into_iter()
            .map(|(thing, causes)| {
                let times = |(key, cause): (CauseKey, edge_warden::quarantine::Cause)| {
                    (key, (cause.since.seconds(), cause.until.map(UnixTime::seconds)))
                };
                (thing, causes.into_iter().map(times).collect())
            })
            .collect();
        assert_eq!(got, expected, "left: what the agent holds, right: the reference");
    }
}

fn now(seconds: u64, wall_offset: i64) -> Now {
    Now {
        monotonic: Monotonic(Duration::from_secs(seconds)),
        wall: UnixTime::from_seconds((START + seconds).checked_add_signed(wall_offset).unwrap()),
    }
}

/// 600 sequences take some ten seconds; `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() {
        default.cases
    } else {
        600
    };
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..default
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_sequence_of_events_breaks_a_promise(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::new();
        for step in &steps {
            world.run(step);
            world.compare();
        }
    }

    #[test]
    fn no_document_makes_the_reader_panic(text in ".{0,200}", value in ".{0,60}") {
        let _ = edge_warden::quarantine::ShadowReading::parse(text.as_bytes());
        for value in [value.clone(), json!(value).to_string(), format!("{{\"until\":{}}}", json!(value))] {
            let document = format!(r#"{{"state":{{"desired":{{"quarantine":{value}}}}},"version":3}}"#);
            let _ = edge_warden::quarantine::ShadowReading::parse(document.as_bytes());
        }
    }
}

#[test]
fn a_flood_of_documents_needs_bounded_memory() {
    let mut quarantine = Quarantine::new(None, Posture::Isolate, EdgeCap::Auto, "0", now(0, 0));
    let mut document = Document::default();
    let mut hear = |quarantine: &mut Quarantine, thing: u32, desired: Value, seconds: u64| {
        document.write(Some(desired), START + seconds);
        let event = Event::Shadow {
            thing: format!("thing-{thing}").parse().unwrap(),
            shadow: ShadowRef::Classic,
            reading: document.reading(),
        };
        quarantine.step(event, now(seconds, 0))
    };
    // a release for ever more things needs no memory
    for thing in 0..50_000 {
        hear(&mut quarantine, thing, json!(false), u64::from(thing));
    }
    assert!(serde_json::to_string(&quarantine.stored()).unwrap().len() < 6_000_000);
    // demands are bounded, and refused in words
    for thing in 100_000..120_000 {
        hear(&mut quarantine, thing, json!(true), 60_000);
    }
    assert_eq!(quarantine.causes().len(), 20_000);
    let refused = hear(&mut quarantine, 200_000, json!(true), 60_001);
    assert!(
        matches!(&refused[..], [Effect::Audit(entry)] if entry.what.contains("too many things")),
        "{refused:?}"
    );
    // one more fits when one ends
    hear(&mut quarantine, 100_000, json!(false), 60_002);
    assert!(quarantine.retain(|_| false));
    assert!(hear(&mut quarantine, 200_000, json!(true), 60_003).contains(&Effect::Enforce));
}
