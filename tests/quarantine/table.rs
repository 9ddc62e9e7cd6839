//! Every row of the transition table in docs/quarantine.md.

use std::time::Duration;

use edge_warden::model::{Monotonic, Now, ThingName, UnixTime};
use edge_warden::quarantine::{Alarm, CauseKey, EdgeCap, Effect, Event, Posture, Quarantine, ShadowRef};
use serde_json::{Value, json};

use super::document::Document;

const START: u64 = 1_795_000_000;
const TEN_YEARS: i64 = 10 * 365 * 86_400;

struct Site {
    quarantine: Quarantine,
    classic: Document,
    named: Document,
    /// A document before its last write, for a replay.
    before: Document,
    seconds: u64,
    wall_offset: i64,
    violations: u32,
    lasts: Option<Duration>,
}

/// Things alarms hold when there is no room for another.
const OTHERS: [&str; 2] = ["cam-2", "cam-3"];

fn thing() -> ThingName {
    "cam-1".parse().unwrap()
}

fn named() -> ShadowRef {
    ShadowRef::Named("quarantine".to_owned())
}

impl Site {
    fn new() -> Self {
        let mut site = Self {
            quarantine: Quarantine::new(None, Posture::Isolate, EdgeCap::Exactly(2), "boot", now(0, 0)),
            classic: Document::default(),
            named: Document::default(),
            before: Document::default(),
            seconds: 1000,
            wall_offset: 0,
            violations: 0,
            lasts: None,
        };
        // both shadows are old and were counted up by others
        (site.classic.version, site.named.version) = (7, 7);
        site
    }

    fn step(&mut self, event: Event) -> Vec<Effect> {
        self.quarantine.step(event, now(self.seconds, self.wall_offset))
    }

    fn write(&mut self, shadow: &ShadowRef, desired: Option<Value>) -> Vec<Effect> {
        self.seconds += 10;
        let time = START + self.seconds;
        self.document(shadow).write(desired, time);
        self.read(shadow)
    }

    fn document(&mut self, shadow: &ShadowRef) -> &mut Document {
        match shadow {
            ShadowRef::Classic => &mut self.classic,
            ShadowRef::Named(_) => &mut self.named,
        }
    }

    fn read(&mut self, shadow: &ShadowRef) -> Vec<Effect> {
        let document = self.document(shadow).clone();
        self.read_document(shadow, &document)
    }

    fn read_document(&mut self, shadow: &ShadowRef, document: &Document) -> Vec<Effect> {
        self.step(Event::Shadow {
            thing: thing(),
            shadow: shadow.clone(),
            reading: document.reading(),
        })
    }

    fn alarm(&mut self, release_when_cleared: bool, trusted: bool, thing: ThingName) -> Vec<Effect> {
        self.step(Event::Alarm(Alarm {
            thing,
            profile: "p".to_owned(),
            behavior: "b".to_owned(),
            violation_id: format!("violation-{}", self.violations),
            release_when_cleared,
            lasts: self.lasts,
            trusted,
            known: 10,
        }))
    }

    /// An alarm that finds other things in quarantine up to the cap.
    fn alarm_without_room(&mut self) -> Vec<Effect> {
        for other in OTHERS {
            let effects = self.alarm(true, true, other.parse().unwrap());
            assert!(effects.contains(&Effect::Enforce));
        }
        self.alarm(true, true, thing())
    }

    /// One of those others is let go, more than an hour later.
    fn room(&mut self) -> Vec<Effect> {
        self.seconds += 3600;
        self.step(Event::OperatorRelease {
            thing: OTHERS[0].parse().unwrap(),
            who: "root".to_owned(),
        });
        let due = self.quarantine.next_expiry();
        let effects = self.step(Event::Tick);
        let acted = effects.contains(&Effect::Enforce);
        assert!(
            !acted || due.is_some_and(|due| due <= now(self.seconds, 0).monotonic),
            "{due:?}"
        );
        effects
    }

    fn operator(&mut self, until: Option<UnixTime>) -> Vec<Effect> {
        self.step(Event::OperatorAdd {
            thing: thing(),
            posture: None,
            until,
            reason: None,
            who: "root".to_owned(),
        })
    }

    fn release(&mut self) -> Vec<Effect> {
        self.step(Event::OperatorRelease {
            thing: thing(),
            who: "root".to_owned(),
        })
    }

    fn prepare(&mut self, state: &str) {
        for cause in state.split(", ") {
            self.seconds += 100;
            match cause {
                "nobody" => drop(self.quarantine.step(Event::Tick, now(self.seconds, 0))),
                "classic" => drop(self.write(&ShadowRef::Classic, Some(json!(true)))),
                "classic until" => {
                    let until = START + self.seconds + 3600;
                    self.write(&ShadowRef::Classic, Some(json!({ "until": until })));
                }
                "named" => drop(self.write(&named(), Some(json!(true)))),
                "edge" => drop(self.alarm(false, true, thing())),
                "edge (lasts)" => {
                    self.lasts = Some(Duration::from_secs(3600));
                    self.alarm(false, true, thing());
                }
                "edge (clears)" => drop(self.alarm(true, true, thing())),
                "operator" => drop(self.operator(None)),
                "recovered" => drop(self.recovered()),
                "after a release" => drop(self.release()),
                other => panic!("no such state: {other}"),
            }
        }
        self.seconds += 100;
    }

    fn recovered(&mut self) -> Vec<Effect> {
        self.step(Event::Recovered {
            thing: thing(),
            posture: Posture::Isolate,
            macs: ["02:00:00:00:00:01".parse().unwrap()].into(),
        })
    }

    fn run(&mut self, event: &str) -> Vec<Effect> {
        if let Some(what) = event.strip_prefix("classic: ") {
            return self.run_shadow(&ShadowRef::Classic, what);
        }
        if let Some(what) = event.strip_prefix("named: ") {
            return self.run_shadow(&named(), what);
        }
        match event {
            "alarm" => self.alarm(false, true, thing()),
            "alarm: identity not certain" => self.alarm(false, false, thing()),
            "alarm: another violation" => {
                self.violations += 1;
                self.alarm(false, true, thing())
            }
            "alarm: no room" => self.alarm_without_room(),
            "alarm: no room, then room" => {
                self.alarm_without_room();
                self.room()
            }
            "alarm: no room, restart, then room" => {
                self.alarm_without_room();
                self.restart();
                self.room()
            }
            "alarm: no room, alarm cleared, then room" => {
                self.alarm_without_room();
                assert_eq!(self.cleared(false), [Effect::Persist]);
                self.room()
            }
            "alarm: no room, operator: release, then room" => {
                self.alarm_without_room();
                self.release();
                self.room()
            }
            "alarm: no room, named: false, then room" => {
                self.alarm_without_room();
                self.write(&named(), Some(json!(false)));
                self.room()
            }
            "alarm cleared" => self.cleared(false),
            "alarm cleared: by the cut itself" => self.cleared(true),
            "operator: add" => self.operator(None),
            "operator: add until past" => self.operator(Some(UnixTime::from_seconds(START))),
            "operator: release" => self.release(),
            "recovered" => self.recovered(),
            "tick" => self.step(Event::Tick),
            "tick after its end" => self.tick(3600, 0),
            "tick, wall clock 10 years ahead" => self.tick(0, TEN_YEARS),
            "tick after its end, wall clock 10 years back" => self.tick(3600, -TEN_YEARS),
            "restart" => self.restart(),
            "restart, wall clock 10 years ahead" => {
                self.wall_offset = TEN_YEARS;
                self.restart()
            }
            other => panic!("no such event: {other}"),
        }
    }

    fn tick(&mut self, later: u64, wall_offset: i64) -> Vec<Effect> {
        self.seconds += later;
        self.wall_offset = wall_offset;
        self.step(Event::Tick)
    }

    fn restart(&mut self) -> Vec<Effect> {
        let stored = serde_json::to_string(&self.quarantine.stored()).unwrap();
        let stored = serde_json::from_str(&stored).unwrap();
        let now = now(self.seconds, self.wall_offset);
        self.quarantine = Quarantine::new(Some(stored), Posture::Isolate, EdgeCap::Exactly(2), "boot", now);
        self.step(Event::Tick)
    }

    fn cleared(&mut self, silenced: bool) -> Vec<Effect> {
        self.step(Event::AlarmCleared {
            thing: thing(),
            profile: "p".to_owned(),
            behavior: "b".to_owned(),
            silenced,
        })
    }

    fn run_shadow(&mut self, shadow: &ShadowRef, what: &str) -> Vec<Effect> {
        if let Some((first, last)) = what.split_once(", then ") {
            self.run_shadow(shadow, first);
            return self.run_shadow(shadow, last);
        }
        let time = START + self.seconds;
        match what {
            "echo" => {
                self.document(shadow).touch(time);
                self.read(shadow)
            }
            "no key" | "key removed" => self.write(shadow, None),
            "deleted" => {
                self.document(shadow).delete(false);
                self.read(shadow)
            }
            "begun anew without key" => {
                self.document(shadow).delete(true);
                self.write(shadow, None)
            }
            "begun anew with false" | "begun anew with true" => {
                self.document(shadow).delete(true);
                self.write(shadow, Some(json!(what.ends_with("true"))))
            }
            "one of before with a higher version" => {
                let mut before = Document::default();
                (before.exists, before.version, before.time) = (true, 9, START + 50);
                self.read_document(shadow, &before)
            }
            "its newest leaf deleted" => {
                self.before = self.document(shadow).clone();
                self.document(shadow).touch(time);
                let written = self.before.desired.as_ref().unwrap().1;
                self.document(shadow).desired = Some((json!({"mode": "isolate"}), written - 50));
                self.read(shadow)
            }
            "the version before" => self.read_document(shadow, &self.before.clone()),
            "older false" => {
                let mut older = self.document(shadow).clone();
                (older.version, older.time) = (older.version - 1, older.time - 50);
                older.desired = Some((json!(false), older.time));
                self.read_document(shadow, &older)
            }
            "false written before" => {
                self.document(shadow).write(Some(json!(false)), START + 1000);
                self.read(shadow)
            }
            value => {
                let value = serde_json::from_str(value).unwrap_or_else(|_| panic!("no such event: {value}"));
                self.write(shadow, Some(value))
            }
        }
    }

    fn causes(&self) -> Vec<&'static str> {
        let causes = self.quarantine.causes().remove(&thing()).unwrap_or_default();
        let mut names: Vec<_> = causes
            .into_keys()
            .map(|key| match key {
                CauseKey::Shadow(ShadowRef::Classic) => "classic",
                CauseKey::Shadow(ShadowRef::Named(_)) => "named",
                CauseKey::Edge { .. } => "edge",
                CauseKey::Operator => "operator",
                CauseKey::Recovered => "recovered",
            })
            .collect();
        names.sort_unstable();
        names
    }
}

fn now(seconds: u64, wall_offset: i64) -> Now {
    Now {
        monotonic: Monotonic(Duration::from_secs(seconds)),
        wall: UnixTime::from_seconds((START + seconds).checked_add_signed(wall_offset).unwrap()),
    }
}

fn names(effects: &[Effect]) -> String {
    let names: Vec<_> = effects
        .iter()
        .map(|effect| match effect {
            Effect::Enforce => "enforce",
            Effect::Persist => "persist",
            Effect::ReportShadow(_) => "report",
            Effect::Audit(_) => "audit",
        })
        .collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

/// The cells of each row of the table that begins with `| Before |`.
fn rows() -> Vec<Vec<String>> {
    let page = include_str!("../../docs/quarantine.md");
    let table = page.lines().skip_while(|line| !line.starts_with("| Before |"));
    table
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| {
            line.trim_matches('|')
                .split('|')
                .map(|cell| cell.trim().to_owned())
                .collect()
        })
        .collect()
}

/// What the state's words say about causes: `(clears)`, `until` and the past are not part of it.
fn expected(after: &str) -> Vec<&str> {
    let mut names: Vec<_> = after
        .split(", ")
        .filter(|name| *name != "nobody")
        .map(|name| name.split(' ').next().unwrap())
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn every_row_of_the_transition_table_holds() {
    let rows = rows();
    assert!(rows.len() >= 60, "the table was not found whole: {} rows", rows.len());
    let mut wrong = Vec::new();
    for row in &rows {
        let [before, event, after, effects] = row.as_slice() else {
            panic!("a row of four cells: {row:?}");
        };
        let mut site = Site::new();
        site.prepare(before);
        let prepared = site.causes();
        if !before.contains("after a release") {
            assert_eq!(prepared, expected(before), "the state before: {row:?}");
        }
        let got = names(&site.run(event));
        if got != *effects || site.causes() != expected(after) {
            wrong.push(format!("{row:?}: {} with {got}", site.causes().join(", ")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
