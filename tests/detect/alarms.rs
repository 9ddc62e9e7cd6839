//! One rule of docs/detect.md at a time, as a story with times.

use std::net::IpAddr;
use std::time::Duration;

use edge_warden::detect::{
    Alarm, AlarmState, Assignment, Datapoints, Engine, EventType, LoadError, MetricValue, Now, OnAlarm, Profile, Role,
    Sample, Saved, Subject, Target, Value, Violation, replay,
};
use edge_warden::model::{Monotonic, ThingName, UnixTime};
use serde_json::{Value as Json, json};

use super::agreement::custom;

const START: u64 = 1_795_000_000;

fn profile(behaviors: &Json) -> Profile {
    let json = json!({ "securityProfileName": "Site", "behaviors": behaviors });
    Profile::parse(&json, &custom())
        .unwrap_or_else(|error| panic!("{error}"))
        .profile
}

fn report(behaviors: &Json) -> Vec<Assignment> {
    vec![Assignment::new(profile(behaviors), vec![Target::All], OnAlarm::Report, false, false).unwrap()]
}

fn behavior(metric: &str, operator: &str, value: &Json) -> Json {
    json!({ "name": "Case", "metric": metric, "criteria": { "comparisonOperator": operator, "value": value } })
}

fn bytes_out(operator: &str, count: u64) -> Json {
    let mut behavior = behavior("aws:all-bytes-out", operator, &json!({ "count": count }));
    behavior["criteria"]["durationSeconds"] = json!(300);
    behavior
}

fn sent(bytes: f64, seconds: u64) -> Datapoints {
    let over = Duration::from_secs(seconds);
    Datapoints::from([("aws:all-bytes-out".to_owned(), Value::Delta { amount: bytes, over })])
}

fn one(metric: &str, value: Value) -> Datapoints {
    Datapoints::from([(metric.to_owned(), value)])
}

/// A site whose clock the test moves.
struct Site {
    engine: Engine,
    seconds: u64,
}

impl Site {
    fn new(assignments: Vec<Assignment>) -> Self {
        let (engine, events) = Engine::new(assignments, None, 7, at(0));
        assert!(events.is_empty());
        Self { engine, seconds: 0 }
    }

    fn observe(&mut self, thing: &str, cut_off: bool, datapoints: &Datapoints) -> Vec<Violation> {
        let thing: ThingName = thing.parse().unwrap();
        let subject = Subject {
            thing: &thing,
            role: if thing.as_str() == "core" {
                Role::Core
            } else {
                Role::Local
            },
            cut_off,
        };
        self.engine.observe(subject, datapoints, at(self.seconds))
    }

    /// A sample of one thing, `seconds` after the last.
    fn sample(&mut self, seconds: u64, datapoints: &Datapoints) -> Vec<Violation> {
        self.sample_cut(seconds, false, datapoints)
    }

    fn sample_cut(&mut self, seconds: u64, cut_off: bool, datapoints: &Datapoints) -> Vec<Violation> {
        self.seconds += seconds;
        let mut events = self.observe("cam-1", cut_off, datapoints);
        events.extend(self.engine.tick(at(self.seconds)));
        events
    }

    /// The next samples, one each 10 s of so many bytes, until something happens; when it did.
    fn until_event(&mut self, bytes: f64, most: u64) -> (u64, Vec<Violation>) {
        for _ in 0..most / 10 {
            let events = self.sample(10, &sent(bytes, 10));
            if !events.is_empty() {
                return (self.seconds, events);
            }
        }
        (self.seconds, Vec::new())
    }
}

fn at(seconds: u64) -> Now {
    Now {
        monotonic: Monotonic(Duration::from_secs(seconds)),
        wall: UnixTime::from_seconds(START + seconds),
    }
}

fn kinds(events: &[Violation]) -> Vec<EventType> {
    events.iter().map(|event| event.event).collect()
}

#[test]
fn a_flood_is_in_alarm_with_the_sample_that_breaks_the_limit_and_clears_a_quiet_window_later() {
    let mut site = Site::new(report(&json!([bytes_out("less-than-equals", 1000)])));
    let (_, none) = site.until_event(10.0, 600);
    assert!(none.is_empty());
    let (began, events) = site.until_event(600.0, 600);
    assert_eq!(
        (began, kinds(&events)),
        (620, vec![EventType::InAlarm]),
        "the second sample of the flood"
    );
    assert_eq!(events[0].value, MetricValue::Count(2 * 600 + 28 * 10));
    let (still, events) = site.until_event(600.0, 1000);
    assert_eq!(
        (still, events.len()),
        (1620, 0),
        "one event per alarm, however long it lasts"
    );
    let (cleared, events) = site.until_event(10.0, 2000);
    assert_eq!(kinds(&events), [EventType::AlarmCleared]);
    assert_eq!(events[0].value, MetricValue::Count(300));
    assert!(cleared > 1620 + 290 && cleared <= 1620 + 600, "{cleared}");
}

#[test]
fn a_burst_over_the_seam_of_two_windows_is_seen() {
    let mut site = Site::new(report(&json!([bytes_out("less-than-equals", 1000)])));
    site.until_event(0.0, 290);
    assert!(site.sample(10, &sent(700.0, 10)).is_empty());
    assert_eq!(kinds(&site.sample(10, &sent(700.0, 10))), [EventType::InAlarm]);
}

#[test]
fn consecutive_windows_do_not_overlap() {
    let mut behavior = bytes_out("less-than-equals", 1000);
    behavior["criteria"]["consecutiveDatapointsToAlarm"] = json!(3);
    let mut site = Site::new(report(&json!([behavior])));
    let (began, events) = site.until_event(5000.0, 3000);
    assert_eq!(kinds(&events), [EventType::InAlarm]);
    assert_eq!(began, 10 + 300 + 300, "a burst of half a minute is not three windows");
}

#[test]
fn a_lower_limit_waits_for_a_whole_window() {
    let mut site = Site::new(report(&json!([bytes_out("greater-than", 1000)])));
    let (when, events) = site.until_event(0.0, 600);
    assert_eq!((when, kinds(&events)), (300, vec![EventType::InAlarm]));
    assert_eq!(events[0].value, MetricValue::Count(0));
}

#[test]
fn a_long_gap_alarms_nobody() {
    let mut site = Site::new(report(&json!([bytes_out("less-than", 1000)])));
    site.until_event(10.0, 400);
    // the host slept: eight hours of traffic are not five minutes of traffic
    assert!(site.sample(28_800, &sent(1e9, 28_800)).is_empty());
    assert!(site.sample(10, &sent(10.0, 10)).is_empty());
}

#[test]
fn gauges_count_samples() {
    let mut limit = behavior(
        "aws:num-established-tcp-connections",
        "less-than-equals",
        &json!({ "count": 3 }),
    );
    limit["criteria"]["consecutiveDatapointsToAlarm"] = json!(3);
    limit["criteria"]["consecutiveDatapointsToClear"] = json!(2);
    let mut site = Site::new(report(&json!([limit])));
    let metric = "aws:num-established-tcp-connections";
    let mut kinds_after = |value: Option<f64>| {
        let datapoints = value.map_or_else(Datapoints::new, |value| one(metric, Value::Gauge(value)));
        kinds(&site.sample(10, &datapoints))
    };
    assert!(kinds_after(Some(4.0)).is_empty());
    assert!(kinds_after(Some(4.0)).is_empty());
    assert!(kinds_after(Some(3.0)).is_empty(), "the run is broken");
    assert!(kinds_after(Some(4.0)).is_empty());
    assert!(kinds_after(Some(4.0)).is_empty());
    assert!(kinds_after(None).is_empty(), "a sample without it breaks no run");
    assert_eq!(kinds_after(Some(4.0)), [EventType::InAlarm]);
    assert!(kinds_after(Some(0.0)).is_empty());
    assert_eq!(kinds_after(Some(0.0)), [EventType::AlarmCleared]);
}

#[test]
fn an_empty_list_conforms_and_clears() {
    for operator in ["in-port-set", "not-in-port-set"] {
        let metric = "aws:listening-tcp-ports";
        let mut site = Site::new(report(&json!([behavior(metric, operator, &json!({ "ports": [22] }))])));
        let foul = if operator == "in-port-set" { 23 } else { 22 };
        assert_eq!(
            kinds(&site.sample(10, &one(metric, Value::Ports(vec![foul])))),
            [EventType::InAlarm]
        );
        assert_eq!(
            kinds(&site.sample(10, &one(metric, Value::Ports(Vec::new())))),
            [EventType::AlarmCleared]
        );
    }
}

#[test]
fn the_event_is_awss_body_byte_for_byte() {
    // the body of the device-side workshop, whose criteria name no consecutive datapoints
    let behavior = json!({
        "name": "PacketsOut", "metric": "aws:all-packets-out",
        "criteria": { "comparisonOperator": "less-than", "value": { "count": 100 }, "durationSeconds": 300 }
    });
    let json = json!({ "securityProfileName": "NormalHTTPTraffic", "behaviors": [behavior] });
    let profile = Profile::parse(&json, &custom()).unwrap().profile;
    let assignment = Assignment::new(profile, vec![Target::All], OnAlarm::Report, false, false).unwrap();
    let now = |seconds: u64| Now {
        monotonic: Monotonic(Duration::from_secs(seconds)),
        wall: UnixTime(1_542_682_416_515),
    };
    let (mut engine, _) = Engine::new(vec![assignment], None, 0, now(0));
    let thing: ThingName = "DefenderWorkshopThing".parse().unwrap();
    let subject = Subject {
        thing: &thing,
        role: Role::Local,
        cut_off: false,
    };
    let mut observe = |seconds: u64, amount: f64| {
        let over = Duration::from_secs(300);
        let datapoints = one("aws:all-packets-out", Value::Delta { amount, over });
        engine.observe(subject, &datapoints, now(seconds)).remove(0)
    };
    let (alarm, cleared) = (observe(300, 500.0), observe(600, 29.0));
    assert_eq!(alarm.violation_id, cleared.violation_id, "one violation, one id");
    assert!(alarm.violation_id.len() == 32 && alarm.violation_id.bytes().all(|b| b.is_ascii_hexdigit()));
    let expected = r#"{"violationEventTime":1542682416515,"thingName":"DefenderWorkshopThing","behavior":{"criteria":{"value":{"count":100},"durationSeconds":300,"comparisonOperator":"less-than"},"name":"PacketsOut","metric":"aws:all-packets-out"},"violationEventType":"alarm-cleared","metricValue":{"count":29},"violationId":"ID","securityProfileName":"NormalHTTPTraffic"}"#;
    assert_eq!(cleared.to_json(), expected.replace("ID", &cleared.violation_id));
}

#[test]
fn the_event_has_the_order_of_keys_of_the_other_workshop_too() {
    let behavior = json!({
        "name": "MessagesPub", "metric": "custom-number",
        "criteria": {
            "comparisonOperator": "less-than", "value": { "count": 10 }, "durationSeconds": 300,
            "consecutiveDatapointsToAlarm": 1, "consecutiveDatapointsToClear": 1
        }
    });
    let mut site = Site::new(report(&json!([behavior])));
    let event = site.sample(10, &one("custom-number", Value::Gauge(54.0))).remove(0);
    let expected = r#"{"violationEventTime":1795000010000,"thingName":"cam-1","behavior":{"criteria":{"consecutiveDatapointsToClear":1,"value":{"count":10},"durationSeconds":300,"consecutiveDatapointsToAlarm":1,"comparisonOperator":"less-than"},"name":"MessagesPub","metric":"custom-number"},"violationEventType":"in-alarm","metricValue":{"number":54},"violationId":"ID","securityProfileName":"Site"}"#;
    assert_eq!(event.to_json(), expected.replace("ID", &event.violation_id));
}

#[test]
fn values_of_lists_name_the_offenders_first_and_no_more_than_fifty() {
    let metric = "aws:destination-ip-addresses";
    let mut site = Site::new(report(&json!([behavior(
        metric,
        "in-cidr-set",
        &json!({ "cidrs": ["10.0.0.0/8"] })
    )])));
    let mut addresses: Vec<IpAddr> = (0..10_000_u32)
        .map(|number| IpAddr::from((0x0a00_0000 + number).to_be_bytes()))
        .collect();
    addresses.extend(["192.0.2.7", "::ffff:192.0.2.7", "2001:db8::1"].map(|text| text.parse::<IpAddr>().unwrap()));
    let event = site.sample(10, &one(metric, Value::Addresses(addresses))).remove(0);
    let MetricValue::Cidrs(shown) = event.value else {
        panic!("{event:?}")
    };
    assert_eq!(shown.len(), 50);
    assert_eq!(json!(shown[..3]), json!(["192.0.2.7", "2001:db8::1", "10.0.0.0"]));
}

#[test]
fn two_days_without_the_metric_invalidate() {
    let metric = "aws:listening-tcp-ports";
    let mut site = Site::new(report(&json!([behavior(
        metric,
        "in-port-set",
        &json!({ "ports": [] })
    )])));
    let alarm = site.sample(10, &one(metric, Value::Ports(vec![23]))).remove(0);
    assert!(
        site.sample(172_800, &Datapoints::new()).is_empty(),
        "two days are not more than two days"
    );
    let events = site.sample(1, &Datapoints::new());
    assert_eq!(kinds(&events), [EventType::AlarmInvalidated]);
    assert_eq!(
        (&events[0].violation_id, &events[0].value),
        (&alarm.violation_id, &alarm.value)
    );
    assert_eq!(site.engine.alarms()[0].state, AlarmState::Invalidated);
}

#[test]
fn silence_goes_on_over_a_restart_and_only_what_was_watched_counts() {
    let metric = "aws:listening-tcp-ports";
    let behaviors = json!([behavior(metric, "in-port-set", &json!({ "ports": [] }))]);
    let mut site = Site::new(report(&behaviors));
    site.sample(10, &one(metric, Value::Ports(vec![23])));
    site.sample(100_000, &Datapoints::new());
    let saved = site.engine.save(at(site.seconds));
    // another boot: the monotonic clock begins anew; who knows how long the host was off
    let (engine, events) = Engine::new(report(&behaviors), Some(saved), 8, at(5));
    assert!(events.is_empty());
    let mut site = Site { engine, seconds: 5 };
    assert!(site.sample(72_790, &Datapoints::new()).is_empty());
    assert_eq!(
        kinds(&site.sample(11, &Datapoints::new())),
        [EventType::AlarmInvalidated]
    );
}

#[test]
fn our_own_cut_clears_and_raises_nothing() {
    let ports = behavior("aws:listening-tcp-ports", "in-port-set", &json!({ "ports": [] }));
    let mut talks = bytes_out("greater-than", 10);
    talks["name"] = json!("Talks");
    let mut site = Site::new(report(&json!([ports, talks])));
    let foul = one("aws:listening-tcp-ports", Value::Ports(vec![23]));
    assert_eq!(kinds(&site.sample(10, &foul)), [EventType::InAlarm]);
    let mut silenced = sent(0.0, 10);
    silenced.insert("aws:listening-tcp-ports".to_owned(), Value::Ports(Vec::new()));
    for _ in 0..1000 {
        assert!(site.sample_cut(10, true, &silenced).is_empty());
    }
    // nor after two days of it
    assert!(site.sample_cut(200_000, true, &Datapoints::new()).is_empty());
    let alarms = site.engine.alarms();
    assert!(alarms.len() == 1 && alarms[0].held, "{alarms:?}");
    // released: judged again
    assert_eq!(kinds(&site.sample(10, &silenced)), [EventType::AlarmCleared]);
    let (when, events) = site.until_event(0.0, 1000);
    assert_eq!(kinds(&events), [EventType::InAlarm], "now it is silent by itself");
    assert!(when >= 300, "after a whole window since the release");
}

#[test]
fn a_flood_of_a_cut_off_thing_is_still_a_flood_and_clears_when_it_stops() {
    let mut site = Site::new(report(&json!([bytes_out("less-than-equals", 1000)])));
    assert_eq!(kinds(&site.sample(10, &sent(5000.0, 10))), [EventType::InAlarm]);
    for _ in 0..100 {
        assert!(site.sample_cut(10, true, &sent(5000.0, 10)).is_empty());
    }
    assert!(!site.engine.alarms()[0].held);
    let events: Vec<Violation> = (0..60)
        .flat_map(|_| site.sample_cut(10, true, &sent(0.0, 10)))
        .collect();
    assert_eq!(kinds(&events), [EventType::AlarmCleared]);
}

fn connections(site: &mut Site, counts: &[f64]) -> Vec<(String, EventType)> {
    site.seconds += 10;
    let mut events = Vec::new();
    for (number, count) in counts.iter().enumerate() {
        let datapoints = one("aws:num-established-tcp-connections", Value::Gauge(*count));
        events.extend(site.observe(&format!("thing-{number}"), false, &datapoints));
    }
    assert!(events.is_empty(), "percentiles wait for all things");
    events.extend(site.engine.tick(at(site.seconds)));
    events
        .iter()
        .map(|event| (event.thing.to_string(), event.event))
        .collect()
}

#[test]
fn a_percentile_is_of_all_things_of_the_profile_by_nearest_rank() {
    let percentile = json!([{
        "name": "Case", "metric": "aws:num-established-tcp-connections",
        "criteria": { "comparisonOperator": "less-than-equals", "statisticalThreshold": { "statistic": "p50" } }
    }]);
    let mut site = Site::new(report(&percentile));
    assert_eq!(connections(&mut site, &[1.0, 100.0]), [], "two things are no crowd");
    let odd_one = [("thing-4".to_owned(), EventType::InAlarm)];
    assert_eq!(connections(&mut site, &[5.0, 5.0, 5.0, 5.0, 6.0]), odd_one);
    let alarm = site.engine.alarms().remove(0);
    assert_eq!(alarm.normal, "less-than-equals p50 (5)");
    assert_eq!(
        connections(&mut site, &[5.0, 5.0, 5.0, 5.0, 5.0]),
        [("thing-4".to_owned(), EventType::AlarmCleared)]
    );
    // one that is not measured any more does not count for ever
    site.seconds += 300;
    assert_eq!(connections(&mut site, &[1.0, 100.0]), []);
}

#[test]
fn suppressed_alarms_are_listed_and_act_on_nothing() {
    let mut ports = behavior("aws:listening-tcp-ports", "in-port-set", &json!({ "ports": [] }));
    ports["suppressAlerts"] = json!(true);
    let assignment = |behaviors: Json| {
        vec![Assignment::new(profile(&behaviors), vec![Target::All], OnAlarm::Quarantine, true, false).unwrap()]
    };
    let foul = one("aws:listening-tcp-ports", Value::Ports(vec![23]));
    let mut site = Site::new(assignment(json!([ports])));
    let event = site.sample(10, &foul).remove(0);
    assert!(event.suppressed && !event.quarantine);
    assert_eq!(site.engine.alarms().len(), 1);

    ports["suppressAlerts"] = json!(false);
    let mut site = Site::new(assignment(json!([ports])));
    let event = site.sample(10, &foul).remove(0);
    assert!(!event.suppressed && event.quarantine && event.release_when_cleared);
    // the core itself is never quarantined
    let event = site.observe("core", false, &foul).remove(0);
    assert!(!event.quarantine);
}

#[test]
fn alarms_go_on_after_a_restart_with_the_same_id() {
    let behaviors = json!([bytes_out("less-than-equals", 1000)]);
    let mut site = Site::new(report(&behaviors));
    let alarm = site.sample(10, &sent(5000.0, 10)).remove(0);
    let text = site.engine.save(at(10)).to_json().unwrap();
    let (engine, events) = Engine::new(report(&behaviors), Some(Saved::from_json(&text).unwrap()), 9, at(20));
    assert!(events.is_empty());
    let mut site = Site { engine, seconds: 20 };
    let (when, events) = site.until_event(5.0, 1000);
    assert_eq!(
        (when, kinds(&events)),
        (320, vec![EventType::AlarmCleared]),
        "a whole window after the restart"
    );
    assert_eq!(events[0].violation_id, alarm.violation_id);
}

#[test]
fn an_alarm_of_a_behavior_that_was_changed_or_removed_is_invalidated() {
    let behaviors = json!([bytes_out("less-than-equals", 1000)]);
    let saved = || {
        let mut site = Site::new(report(&behaviors));
        let alarm = site.sample(10, &sent(5000.0, 10)).remove(0);
        (site.engine.save(at(10)), alarm)
    };
    let changed = report(&json!([bytes_out("less-than-equals", 1001)]));
    let core_only =
        vec![Assignment::new(profile(&behaviors), vec![Target::Core], OnAlarm::Report, false, false).unwrap()];
    for assignments in [changed, core_only, Vec::new()] {
        let (saved, alarm) = saved();
        let (engine, events) = Engine::new(assignments, Some(saved), 9, at(20));
        assert_eq!(kinds(&events), [EventType::AlarmInvalidated]);
        assert_eq!(events[0].violation_id, alarm.violation_id);
        assert!(
            events[0].to_json().contains(r#""value":{"count":1000}"#),
            "the behavior as it was"
        );
        let states: Vec<AlarmState> = engine.alarms().iter().map(|alarm| alarm.state).collect();
        assert_eq!(states, [AlarmState::Invalidated]);
    }
    // the same criteria written in another order are the same
    let mut reordered = json!([{ "criteria": {}, "metric": "aws:all-bytes-out", "name": "Case" }]);
    for key in ["durationSeconds", "value", "comparisonOperator"] {
        reordered[0]["criteria"][key] = behaviors[0]["criteria"][key].clone();
    }
    let (_, events) = Engine::new(report(&reordered), Some(saved().0), 9, at(20));
    assert!(events.is_empty());
}

#[test]
fn saved_state_of_another_schema_or_none_is_refused() {
    let text = Site::new(Vec::new()).engine.save(at(0)).to_json().unwrap();
    assert!(Saved::from_json(&text).is_ok());
    let newer = text.replace("\"schema\":1", "\"schema\":2");
    assert!(matches!(Saved::from_json(&newer), Err(LoadError::Schema { found: 2 })));
    for malformed in [
        "",
        "{}",
        "[]",
        "null",
        &text[..text.len() - 1],
        &text.replace("things", "thing"),
    ] {
        assert!(
            matches!(Saved::from_json(malformed), Err(LoadError::Malformed(_))),
            "{malformed}"
        );
    }
}

#[test]
fn alarms_are_listed_with_value_limit_and_window() {
    let mut site = Site::new(report(&json!([bytes_out("less-than", 1000)])));
    site.sample(10, &sent(1000.0, 10));
    let alarm: Alarm = site.engine.alarms().remove(0);
    let mut json = json!(alarm);
    assert_eq!(json["violationId"].take(), json!(alarm.violation_id));
    let expected = json!({
        "thingName": "cam-1", "securityProfileName": "Site", "behavior": "Case", "metric": "aws:all-bytes-out",
        "violationId": null, "state": "active", "since": 1_795_000_010_000_u64, "lastValue": { "count": 1000 },
        "lastViolation": 1_795_000_010_000_u64, "normal": "less-than 1000", "windowSeconds": 300,
        "suppressed": false, "held": false
    });
    assert_eq!(json, expected);
}

#[test]
fn a_hundred_alarms_that_ended_are_remembered() {
    let metric = "aws:listening-tcp-ports";
    let mut site = Site::new(report(&json!([behavior(
        metric,
        "in-port-set",
        &json!({ "ports": [] })
    )])));
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..150 {
        ids.insert(
            site.sample(10, &one(metric, Value::Ports(vec![23])))
                .remove(0)
                .violation_id,
        );
        site.sample(10, &one(metric, Value::Ports(Vec::new())));
    }
    assert_eq!(ids.len(), 150, "every violation has its own id");
    let alarms = site.engine.alarms();
    assert_eq!(alarms.len(), 100);
    assert!(alarms[0].since > alarms[1].since, "newest first");
}

#[test]
fn names_made_up_by_the_network_do_not_fill_the_memory() {
    let behaviors: Json = (0..20)
        .map(|number| {
            let mut behavior = bytes_out("less-than", 1000);
            behavior["name"] = json!(format!("B{number}"));
            behavior
        })
        .collect();
    let mut site = Site::new(report(&behaviors));
    site.seconds = 10;
    for number in 0..1500 {
        site.observe(&format!("thing-{number}"), false, &sent(1.0, 10));
    }
    assert_eq!(site.engine.unwatched(), 500, "1,000 things x 20 behaviors are judged");
    let full = site.engine.state_bytes();
    for number in 1500..5000 {
        site.observe(&format!("thing-{number}"), false, &sent(1.0, 10));
    }
    assert_eq!(site.engine.state_bytes(), full);
    // and who is gone for two days makes room
    site.seconds += 172_801;
    site.engine.tick(at(site.seconds));
    assert_eq!(site.engine.state_bytes(), 0);
    assert!(site.observe("thing-4999", false, &sent(5000.0, 10)).len() == 20);
}

#[test]
fn a_window_of_an_hour_fed_each_second_stays_small() {
    let mut behavior = bytes_out("less-than", 1000);
    behavior["criteria"]["durationSeconds"] = json!(3600);
    let mut site = Site::new(report(&json!([behavior])));
    for _ in 0..8000 {
        site.sample(1, &sent(0.0, 1));
    }
    assert!(site.engine.state_bytes() < 4096, "{}", site.engine.state_bytes());
}

#[test]
fn a_recording_gives_the_events_it_gave_live() {
    let behaviors = json!([bytes_out("less-than-equals", 1000)]);
    let line = |seconds: u64, boot: u64, bytes: f64| Sample {
        time: at(seconds).wall,
        monotonic: (seconds - boot) * 1000,
        thing: "cam-1".parse().unwrap(),
        role: Role::Local,
        cut_off: false,
        datapoints: sent(bytes, 10),
    };
    let mut samples: Vec<Sample> = (1..100)
        .map(|n| line(n * 10, 0, if n == 50 { 5000.0 } else { 1.0 }))
        .collect();
    // as lines of text, as recorded
    let lines: Vec<String> = samples
        .iter()
        .map(|sample| serde_json::to_string(sample).unwrap())
        .collect();
    assert_eq!(
        lines[0],
        r#"{"time":1795000010000,"monotonic":10000,"thing":"cam-1","role":"local","datapoints":{"aws:all-bytes-out":{"delta":{"amount":1.0,"overMillis":10000}}}}"#
    );
    let read: Vec<Sample> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(read, samples);
    let replayed = replay(&report(&behaviors), read);
    assert_eq!(kinds(&replayed.events), [EventType::InAlarm, EventType::AlarmCleared]);
    assert_eq!(replayed.events[0].time, at(500).wall);
    assert_eq!(
        replayed,
        replay(&report(&behaviors), samples.clone()),
        "the same recording, the same ids"
    );

    // a reboot in the middle of an alarm
    samples.truncate(50);
    samples.extend((1..60).map(|n| line(2000 + n * 10, 2000, 1.0)));
    let replayed = replay(&report(&behaviors), samples);
    assert_eq!(kinds(&replayed.events), [EventType::InAlarm, EventType::AlarmCleared]);
    assert_eq!(replayed.events[0].violation_id, replayed.events[1].violation_id);
    assert_eq!(replay(&report(&behaviors), []).events, []);
}

#[test]
fn only_what_is_judged_need_be_measured() {
    let behaviors = json!([
        bytes_out("less-than", 1),
        { "name": "Ports", "metric": "aws:listening-tcp-ports",
          "criteria": { "comparisonOperator": "in-port-set", "value": { "ports": [] } } },
    ]);
    let assignment = Assignment::new(
        profile(&behaviors),
        vec!["cam-*".parse().unwrap()],
        OnAlarm::Report,
        false,
        false,
    )
    .unwrap();
    let (engine, _) = Engine::new(vec![assignment], None, 0, at(0));
    let names = |thing: &str| -> Vec<String> {
        let metrics = engine.metrics(&thing.parse().unwrap(), Role::Local);
        metrics.iter().map(ToString::to_string).collect()
    };
    assert_eq!(names("cam-1"), ["aws:all-bytes-out", "aws:listening-tcp-ports"]);
    assert!(names("plc-1").is_empty());
}
