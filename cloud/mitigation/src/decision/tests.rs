#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]

use super::*;

const NOW: u64 = 1_800_000_000;

fn settings(more: &[(&str, &str)]) -> Settings {
    let given = |name: &str| more.iter().find(|(key, _)| *key == name);
    let defaults = [("THINGS", "*"), ("ALARMS", "*"), ("SHADOW_NAME", "quarantine")];
    let default = |name: &str| defaults.into_iter().find(|(key, _)| *key == name);
    Settings::read(|name| {
        given(name)
            .copied()
            .or_else(|| default(name))
            .map(|(_, value)| value.to_owned())
    })
    .unwrap()
}

fn releasing() -> Settings {
    settings(&[("RELEASE_WHEN_CLEARED", "true")])
}

fn event(kind: Kind, violation: &str, time: u64) -> Alarm {
    Alarm {
        thing: "cam-1".to_owned(),
        kind,
        violation: violation.to_owned(),
        time,
        profile: "P".to_owned(),
        behavior: "B".to_owned(),
    }
}

/// The shadow service: merges, null deletes, each update is a version, and one for another version is refused.
#[derive(Default)]
struct Service {
    version: u64,
    state: Value,
}

impl Service {
    fn shadow(&self) -> Shadow {
        if self.version == 0 {
            return Shadow::default();
        }
        Shadow::parse(
            json!({"version": self.version, "state": self.state})
                .to_string()
                .as_bytes(),
        )
        .unwrap()
    }

    fn update(&mut self, update: &Value) {
        if let Some(version) = update.get("version") {
            assert_eq!(*version, json!(self.version));
        }
        merge(&mut self.state, &update["state"]);
        self.version += 1;
    }

    fn write(&mut self, desired: &Value) {
        self.update(&json!({"state": {"desired": {"quarantine": desired}}}));
    }

    fn receive(&mut self, alarm: &Alarm, settings: &Settings) -> Decision {
        let decision = decide(alarm, &self.shadow(), settings, NOW);
        if let Some(update) = &decision.update {
            self.update(update);
        }
        assert_eq!(
            self.shadow().demands(NOW),
            decision.quarantined,
            "{decision:?} {}",
            self.state
        );
        decision
    }

    fn desired(&self) -> &Value {
        &self.state["desired"]["quarantine"]
    }
}

fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    let into = into.as_object_mut().unwrap();
    for (key, value) in patch {
        match value {
            Value::Null => {
                into.remove(key);
            }
            value => merge(into.entry(key.clone()).or_insert(Value::Null), value),
        }
    }
}

#[test]
fn an_alarm_quarantines_and_says_why() {
    let mut service = Service::default();
    let decision = service.receive(&event(Kind::InAlarm, "a", 1), &settings(&[]));
    assert_eq!((decision.outcome, decision.group), ("quarantined", Membership::Add));
    assert_eq!(*service.desired(), json!({"reason": "P/B in alarm, violation a"}));
}

#[test]
fn the_classic_shadow_gets_the_workshops_word() {
    let classic = settings(&[("SHADOW_NAME", ""), ("RELEASE_WHEN_CLEARED", "true")]);
    let mut service = Service::default();
    service.receive(&event(Kind::InAlarm, "a", 1), &classic);
    assert_eq!(service.state["desired"], json!({"quarantine": true}));
    service.receive(&event(Kind::AlarmCleared, "a", 2), &classic);
    assert_eq!(service.state["desired"], json!({"quarantine": false}));
}

#[test]
fn an_event_that_comes_again_changes_nothing_even_after_a_person_released() {
    let mut service = Service::default();
    let alarm = event(Kind::InAlarm, "a", 1);
    service.receive(&alarm, &settings(&[]));
    let again = service.receive(&alarm, &settings(&[]));
    assert_eq!(
        (again.update, again.group),
        (None, Membership::Add),
        "the group may be what failed"
    );
    service.write(&json!(false));
    let again = service.receive(&alarm, &settings(&[]));
    assert_eq!(
        (again.update, again.group, again.quarantined),
        (None, Membership::Leave, false)
    );
    // another violation is another matter
    assert!(
        service
            .receive(&event(Kind::InAlarm, "b", 5), &settings(&[]))
            .quarantined
    );
    assert_eq!(
        service.receive(&alarm, &settings(&[])).update,
        None,
        "and the first stays known"
    );
}

#[test]
fn clearing_releases_only_where_that_is_wanted() {
    for (settings, released) in [(settings(&[]), false), (releasing(), true)] {
        let mut service = Service::default();
        service.receive(&event(Kind::InAlarm, "a", 1), &settings);
        let cleared = service.receive(&event(Kind::AlarmCleared, "a", 2), &settings);
        assert_eq!(cleared.quarantined, !released);
        assert_eq!(
            cleared.group,
            if released {
                Membership::Remove
            } else {
                Membership::Leave
            }
        );
        let again = service.receive(&event(Kind::AlarmCleared, "a", 2), &settings);
        assert_eq!(
            (again.update, again.group),
            (None, cleared.group),
            "a retry finds the group undone"
        );
    }
}

#[test]
fn the_last_alarm_to_clear_releases() {
    let (mut service, settings) = (Service::default(), releasing());
    for (violation, time) in [("a", 1), ("b", 2)] {
        service.receive(&event(Kind::InAlarm, violation, time), &settings);
    }
    assert!(
        service
            .receive(&event(Kind::AlarmCleared, "a", 3), &settings)
            .quarantined
    );
    assert!(
        !service
            .receive(&event(Kind::AlarmCleared, "b", 4), &settings)
            .quarantined
    );
}

#[test]
fn silence_releases_nothing() {
    let (mut service, settings) = (Service::default(), releasing());
    service.receive(&event(Kind::InAlarm, "a", 1), &settings);
    service.receive(&event(Kind::InAlarm, "b", 1), &settings);
    let invalidated = service.receive(&event(Kind::AlarmInvalidated, "a", 2), &settings);
    assert_eq!((invalidated.quarantined, invalidated.group), (true, Membership::Leave));
    assert!(
        service
            .receive(&event(Kind::AlarmCleared, "b", 3), &settings)
            .quarantined,
        "a is not known to be over"
    );
    service.write(&json!(false));
    service.receive(&event(Kind::InAlarm, "c", 4), &settings);
    assert!(
        !service
            .receive(&event(Kind::AlarmCleared, "c", 5), &settings)
            .quarantined,
        "a person ended it all"
    );
}

#[test]
fn what_others_asked_for_is_not_ours_to_end() {
    for theirs in [json!(true), json!({"mode": "remediate", "reason": "ticket 4711"})] {
        let (mut service, settings) = (Service::default(), releasing());
        service.write(&theirs);
        service.receive(&event(Kind::InAlarm, "a", 1), &settings);
        if theirs.is_object() {
            assert_eq!(*service.desired(), theirs, "in their words");
        }
        assert!(
            service
                .receive(&event(Kind::AlarmCleared, "a", 2), &settings)
                .quarantined
        );
    }
}

#[test]
fn an_end_in_time_is_never_made_earlier() {
    let settings = settings(&[("QUARANTINE_SECONDS", "600"), ("MODE", "remediate")]);
    let ours = NOW + 600;
    let written = "2027-01-15T10:00:00+01:00"; // 3,600 s after NOW
    for (standing, until) in [
        (Value::Null, json!(ours)),
        (json!(true), Value::Null),
        (json!({"reason": "x"}), Value::Null),
        (json!({"until": NOW + 60}), json!(ours)),
        (json!({"until": NOW + 6000}), json!(NOW + 6000)),
        (json!({"until": written}), json!(NOW + 3600)),
        (json!({"until": NOW - 1}), json!(ours)),
        (json!({"mode": "off"}), json!(ours)),
        (json!(false), json!(ours)),
    ] {
        let mut service = Service::default();
        service.write(&standing);
        service.receive(&event(Kind::InAlarm, "a", 1), &settings);
        assert_eq!(service.desired()["until"], until, "{standing}");
    }
}

#[test]
fn a_demand_that_ran_out_begins_anew() {
    let settings = settings(&[("QUARANTINE_SECONDS", "600"), ("RELEASE_WHEN_CLEARED", "true")]);
    let mut service = Service::default();
    service.receive(&event(Kind::InAlarm, "a", 1), &settings);
    service.write(&json!({"until": NOW - 1}));
    let late = service.receive(&event(Kind::AlarmCleared, "a", 2), &settings);
    assert_eq!((late.quarantined, late.group), (false, Membership::Remove));
    assert!(service.receive(&event(Kind::InAlarm, "b", 3), &settings).quarantined);
}

#[test]
fn more_violations_than_can_be_remembered_are_left_to_a_person() {
    let (mut service, settings) = (Service::default(), releasing());
    let ids: Vec<String> = (0..40).map(|n| format!("{n:032}")).collect();
    for (time, id) in (1..).zip(&ids) {
        service.receive(&event(Kind::InAlarm, id, time), &settings);
    }
    for (time, id) in (100..).zip(&ids) {
        assert!(
            service
                .receive(&event(Kind::AlarmCleared, id, time), &settings)
                .quarantined
        );
    }
    // with the metadata AWS adds to each leaf the document still fits nucleus lite
    let metadata = ids.len().min(2 * MAX_VIOLATIONS) * 70;
    assert!(service.state.to_string().len() + metadata < 4900);
}

#[test]
fn a_memory_written_by_others_is_not_trusted() {
    for memory in [
        json!(7),
        json!({"active": []}),
        json!({"active": {"a": "x"}}),
        json!({"hold": 1}),
    ] {
        let (mut service, settings) = (Service::default(), releasing());
        service.receive(&event(Kind::InAlarm, "a", 1), &settings);
        service.state["reported"][MEMORY] = memory.clone();
        assert!(
            service
                .receive(&event(Kind::AlarmCleared, "a", 2), &settings)
                .quarantined,
            "{memory}"
        );
    }
}

#[test]
fn documents_that_are_none_are_errors() {
    for document in [
        "",
        "{",
        "[]",
        r#"{"state":{}}"#,
        r#"{"version":1}"#,
        r#"{"version":"1","state":{}}"#,
    ] {
        assert!(Shadow::parse(document.as_bytes()).is_err(), "{document}");
    }
    assert_eq!(Shadow::parse(br#"{"version":3,"state":{}}"#).unwrap().version, Some(3));
}

/// Every order of two violations' events, each event once and twice: whatever the order, who is still in alarm is
/// quarantined, and who is not was released.
#[test]
fn order_and_repetition_do_not_matter() {
    let all = [
        event(Kind::InAlarm, "a", 10),
        event(Kind::AlarmCleared, "a", 20),
        event(Kind::InAlarm, "b", 12),
        event(Kind::AlarmCleared, "b", 30),
        event(Kind::InAlarm, "c", 15),
    ];
    let mut orders = 0;
    for without in [None, Some(4)] {
        let events: Vec<usize> = (0..5).filter(|n| Some(*n) != without).collect();
        for order in permutations(&events) {
            for twice in &order {
                for doubled in [order.clone(), [&order[..], &[*twice][..]].concat()] {
                    let (mut service, settings) = (Service::default(), releasing());
                    for n in &doubled {
                        service.receive(&all[*n], &settings);
                    }
                    let quarantined = service.shadow().demands(NOW);
                    assert_eq!(quarantined, without.is_none(), "{doubled:?}: {}", service.state);
                    orders += 1;
                }
            }
        }
    }
    assert_eq!(orders, 2 * (120 * 5 + 24 * 4));
}

fn permutations(of: &[usize]) -> Vec<Vec<usize>> {
    if of.is_empty() {
        return vec![Vec::new()];
    }
    let with_first = |first: usize| {
        let rest: Vec<usize> = of.iter().filter(|n| **n != first).copied().collect();
        let behind = permutations(&rest).into_iter();
        behind.map(move |rest| [&[first][..], &rest[..]].concat())
    };
    of.iter().copied().flat_map(with_first).collect()
}
