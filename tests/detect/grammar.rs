//! What loads: every operator x value x metric against a table, limits of size, and JSON nobody would write.

use std::time::Duration;

use edge_warden::detect::{
    Assignment, CustomTypes, Datapoints, Engine, EventType, MetricType, Now, OnAlarm, Profile, Role, Subject, Target,
    Value,
};
use edge_warden::model::{Monotonic, ThingName, UnixTime};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::agreement::custom;
use super::generate::{METRICS, STATISTICS};

const OPERATORS: [&str; 10] = [
    "less-than",
    "less-than-equals",
    "greater-than",
    "greater-than-equals",
    "in-cidr-set",
    "not-in-cidr-set",
    "in-port-set",
    "not-in-port-set",
    "in-set",
    "not-in-set",
];

/// One value of each kind, and the percentile.
fn limits() -> Vec<(&'static str, &'static str, Json)> {
    vec![
        ("count", "value", json!({ "count": 7 })),
        ("number", "value", json!({ "number": 7.5 })),
        ("cidrs", "value", json!({ "cidrs": ["10.0.0.0/8"] })),
        ("ports", "value", json!({ "ports": [7] })),
        ("numbers", "value", json!({ "numbers": [7, 8.5] })),
        ("strings", "value", json!({ "strings": ["seven"] })),
        ("statistic", "statisticalThreshold", json!({ "statistic": "p90" })),
    ]
}

/// AWS's table of device-side and custom metrics (developer guide): which operators and values each takes.
fn takes(metric: &str) -> (&'static [&'static str], &'static [&'static str]) {
    match metric {
        "aws:listening-tcp-ports" | "aws:listening-udp-ports" => (&["in-port-set", "not-in-port-set"], &["ports"]),
        "aws:destination-ip-addresses" | "custom-addresses" => (&["in-cidr-set", "not-in-cidr-set"], &["cidrs"]),
        "custom-numbers" => (&["in-set", "not-in-set"], &["numbers"]),
        "custom-strings" => (&["in-set", "not-in-set"], &["strings"]),
        "custom-number" => (
            &["less-than", "less-than-equals", "greater-than", "greater-than-equals"],
            &["number", "count", "statistic"],
        ),
        _ => (
            &["less-than", "less-than-equals", "greater-than", "greater-than-equals"],
            &["count", "statistic"],
        ),
    }
}

fn profile(behaviors: &Json) -> Json {
    json!({ "securityProfileName": "Test", "behaviors": behaviors })
}

fn behavior(name: &str, metric: &str, criteria: &Json) -> Json {
    json!({ "name": name, "metric": metric, "criteria": criteria })
}

fn problems(json: &Json) -> Vec<String> {
    match Profile::parse(json, &custom()) {
        Ok(_) => Vec::new(),
        Err(error) => {
            assert!(!error.problems.is_empty());
            error.problems.iter().map(ToString::to_string).collect()
        }
    }
}

/// A value of each metric that breaks every limit above for one operator or its opposite.
fn values(metric: &str) -> Vec<Value> {
    let delta = |amount| Value::Delta {
        amount,
        over: Duration::from_secs(300),
    };
    match metric {
        "aws:listening-tcp-ports" | "aws:listening-udp-ports" => vec![Value::Ports(vec![7]), Value::Ports(vec![9])],
        "aws:destination-ip-addresses" | "custom-addresses" => vec![
            Value::Addresses(vec!["10.1.1.1".parse().unwrap()]),
            Value::Addresses(vec!["11.1.1.1".parse().unwrap()]),
        ],
        "custom-numbers" => vec![Value::Numbers(vec![7.0]), Value::Numbers(vec![9.0])],
        "custom-strings" => vec![
            Value::Strings(vec!["seven".to_owned()]),
            Value::Strings(vec!["nine".to_owned()]),
        ],
        "custom-number"
        | "aws:num-listening-tcp-ports"
        | "aws:num-listening-udp-ports"
        | "aws:num-established-tcp-connections" => vec![Value::Gauge(0.0), Value::Gauge(100.0)],
        _ => vec![delta(0.0), delta(100.0)],
    }
}

/// True when one of the values raises an alarm and another does not.
fn evaluates(json: &Json, metric: &str) -> bool {
    let profile = Profile::parse(json, &custom()).unwrap().profile;
    let assignment = Assignment::new(profile, vec![Target::All], OnAlarm::Report, false, false).unwrap();
    let now = |seconds: u64| Now {
        monotonic: Monotonic(Duration::from_secs(seconds)),
        wall: UnixTime::from_seconds(1_795_000_000 + seconds),
    };
    let (mut alarms, mut quiet) = (0, 0);
    let values = values(metric);
    // as many things with the one value as with the other, for the percentile
    let (mut engine, _) = Engine::new(vec![assignment], None, 0, now(0));
    for round in 1..=2 {
        for number in 0..8_usize {
            let thing: ThingName = format!("thing-{number}").parse().unwrap();
            let datapoints = Datapoints::from([(metric.to_owned(), values[number % 2].clone())]);
            let subject = Subject {
                thing: &thing,
                role: Role::Local,
                cut_off: false,
            };
            engine.observe(subject, &datapoints, now(round * 300));
        }
        engine.tick(now(round * 300));
        alarms = engine.alarms().len();
        quiet = 8 - alarms;
    }
    alarms > 0 && quiet > 0
}

#[test]
fn every_operator_value_and_metric_evaluates_or_is_refused_by_name() {
    let mut loaded = 0;
    for metric in METRICS {
        let (operators, values) = takes(metric);
        for operator in OPERATORS {
            for (kind, key, value) in limits() {
                let criteria = json!({ "comparisonOperator": operator, key: value });
                let json = profile(&json!([behavior("Case", metric, &criteria)]));
                let found = problems(&json);
                let fits = operators.contains(&operator) && values.contains(&kind);
                assert_eq!(found.is_empty(), fits, "{metric} {operator} {kind}: {found:?}");
                if fits {
                    loaded += 1;
                    // nothing is above the 90th percentile of half and half, everything else tells the halves apart
                    let nothing_is_above = kind == "statistic" && operator == "less-than-equals";
                    let nothing_is_below = kind == "statistic" && operator == "greater-than";
                    if !nothing_is_above && !nothing_is_below {
                        assert!(evaluates(&json, metric), "{metric} {operator} {kind} decides nothing");
                    }
                } else {
                    assert!(
                        found.iter().all(|text| text.starts_with("behavior \"Case\": criteria")),
                        "{found:?}"
                    );
                }
            }
        }
    }
    // 7 counts x 4 x 2, one number x 4 x 3, three sets x 2 ports/cidrs, two sets of custom
    assert_eq!(loaded, 7 * 4 * 2 + 4 * 3 + 2 * 2 + 2 * 2 + 2 + 2);
}

#[test]
fn durations_are_those_of_aws_and_not_for_lists() {
    for metric in METRICS {
        let (operators, values) = takes(metric);
        let limit = limits().into_iter().find(|(kind, ..)| values.contains(kind)).unwrap();
        let is_list = !operators.contains(&"less-than");
        for duration in [json!(300), json!(600), json!(900), json!(1800), json!(3600)] {
            let criteria = json!({ "comparisonOperator": operators[0], limit.1: limit.2, "durationSeconds": duration });
            let found = problems(&profile(&json!([behavior("Case", metric, &criteria)])));
            assert_eq!(found.is_empty(), !is_list, "{metric} {duration}: {found:?}");
        }
        for duration in [
            json!(0),
            json!(-300),
            json!(299),
            json!(301),
            json!(86400),
            json!(300.5),
            json!("300"),
            json!(1e300),
        ] {
            let criteria = json!({ "comparisonOperator": operators[0], limit.1: limit.2, "durationSeconds": duration });
            let found = problems(&profile(&json!([behavior("Case", metric, &criteria)])));
            assert_eq!(found.len(), 1, "{metric} {duration}: {found:?}");
            assert!(found[0].contains("criteria.durationSeconds"), "{found:?}");
        }
    }
}

#[test]
fn every_percentile_of_aws_loads_and_no_other() {
    let criteria =
        |name: &str| json!({ "comparisonOperator": "less-than", "statisticalThreshold": { "statistic": name } });
    let json = |name: &str| profile(&json!([behavior("Case", "custom-number", &criteria(name))]));
    for name in STATISTICS {
        assert_eq!(problems(&json(name)), Vec::<String>::new());
    }
    for name in ["", "p", "50", "P50", "p95", "p99.90", "p101", "p-1", "p0.10"] {
        assert_eq!(problems(&json(name)).len(), 1, "{name}");
    }
}

#[test]
fn a_hundred_behaviors_and_a_thousand_blocks_load_and_one_more_does_not() {
    let criteria = json!({ "comparisonOperator": "less-than", "value": { "count": 5 }, "durationSeconds": 300 });
    let behaviors = |count: usize| -> Json {
        (0..count)
            .map(|number| behavior(&format!("B{number}"), "aws:all-bytes-out", &criteria))
            .collect()
    };
    assert!(problems(&profile(&behaviors(100))).is_empty());
    assert_eq!(
        problems(&profile(&behaviors(101))),
        ["behaviors: 101 of them, AWS takes at most 100"]
    );
    let blocks = |count: usize| {
        let cidrs: Vec<String> = (0..count)
            .map(|number| format!("10.{}.{}.0/24", number / 256, number % 256))
            .collect();
        let criteria = json!({ "comparisonOperator": "not-in-cidr-set", "value": { "cidrs": cidrs } });
        profile(&json!([behavior("Blocks", "aws:destination-ip-addresses", &criteria)]))
    };
    assert!(problems(&blocks(1000)).is_empty());
    let found = problems(&blocks(1001));
    assert_eq!(found.len(), 1);
    assert!(found[0].contains("1001 elements"), "{found:?}");
}

#[test]
fn a_flood_of_problems_is_counted_past_the_fiftieth() {
    let mut behavior = behavior("Case", "aws:all-bytes-out", &json!({}));
    for number in 0..10_000 {
        behavior[format!("field-{number}")] = json!(1);
    }
    let error = Profile::parse(&profile(&json!([behavior])), &custom()).unwrap_err();
    assert_eq!(error.problems.len(), 50);
    assert!(error.further > 9_900);
    assert!(error.to_string().contains("further problems"));
}

#[test]
fn a_custom_metric_cannot_stand_in_for_one_of_awss() {
    let types = CustomTypes::from([("aws:num-messages-sent".to_owned(), MetricType::Number)]);
    let criteria = json!({ "comparisonOperator": "less-than", "value": { "number": 5 } });
    let json = profile(&json!([behavior("Case", "aws:num-messages-sent", &criteria)]));
    let error = Profile::parse(&json, &types).unwrap_err();
    assert!(error.to_string().contains("cloud-side metric"), "{error}");
}

fn quarantine(behaviors: &Json, force: bool) -> Result<Assignment, String> {
    let profile = Profile::parse(&profile(behaviors), &custom()).unwrap().profile;
    Assignment::new(profile, vec![Target::All], OnAlarm::Quarantine, false, force).map_err(|error| error.to_string())
}

#[test]
fn what_silence_violates_may_not_quarantine_without_force() {
    let count = |operator: &str, count: u64| {
        let criteria = json!({ "comparisonOperator": operator, "value": { "count": count }, "durationSeconds": 300 });
        json!([behavior("Case", "aws:all-bytes-out", &criteria)])
    };
    let percentile = |operator: &str, name: &str| {
        let criteria = json!({ "comparisonOperator": operator, "statisticalThreshold": { "statistic": name } });
        json!([behavior("Case", "aws:num-established-tcp-connections", &criteria)])
    };
    for refused in [
        count("greater-than", 35_000),
        count("greater-than", 0),
        count("greater-than-equals", 1),
        count("less-than", 0),
        percentile("greater-than", "p99.99"),
        percentile("greater-than", "p0"),
        percentile("greater-than-equals", "p50"),
        percentile("less-than", "p99"),
    ] {
        let error = quarantine(&refused, false).unwrap_err();
        assert!(error.contains("Case") && error.contains("force"), "{refused}: {error}");
        assert!(quarantine(&refused, true).is_ok());
    }
    for allowed in [
        count("greater-than-equals", 0),
        count("less-than", 1),
        count("less-than-equals", 0),
        percentile("less-than-equals", "p99"),
        percentile("greater-than-equals", "p0"),
    ] {
        assert!(quarantine(&allowed, false).is_ok(), "{allowed}");
    }
    // a silent thing has no custom metrics rather than zeros, and empty lists conform
    let custom = json!({ "comparisonOperator": "greater-than", "value": { "number": 5 } });
    assert!(quarantine(&json!([behavior("Case", "custom-number", &custom)]), false).is_ok());
    let ports = json!({ "comparisonOperator": "in-port-set", "value": { "ports": [] } });
    assert!(quarantine(&json!([behavior("Case", "aws:listening-tcp-ports", &ports)]), false).is_ok());
}

#[test]
fn targets_are_all_core_or_patterns() {
    let (cam, core): (ThingName, ThingName) = ("cam-12".parse().unwrap(), "gateway".parse().unwrap());
    let includes = |text: &str, thing: &ThingName, role| text.parse::<Target>().unwrap().includes(thing, role);
    for yes in ["all", "cam-*", "*", "cam-12", "*12", "c*m*2", "cam-12*", "**"] {
        assert!(includes(yes, &cam, Role::Local), "{yes}");
    }
    for no in ["core", "cam", "cam-1", "Cam-*", "*3", "c*m*x*2", "cam-*-*"] {
        assert!(!includes(no, &cam, Role::Local), "{no}");
    }
    assert!(includes("core", &core, Role::Core) && includes("all", &core, Role::Core));
    for bad in ["", "a b", "cam?", "[a]", "$aws", &"a".repeat(129)] {
        assert!(bad.parse::<Target>().is_err(), "{bad}");
    }
}

#[test]
fn a_pattern_full_of_stars_costs_no_time() {
    let thing: ThingName = "a".repeat(128).parse().unwrap();
    let target: Target = format!("{}b", "a*".repeat(60)).parse().unwrap();
    assert!(!target.includes(&thing, Role::Local));
}

/// JSON that is nearly a profile.
fn nearly() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<f64>().prop_map(|number| json!(number)),
        prop::sample::select(
            &[
                "less-than",
                "in-cidr-set",
                "p50",
                "aws:all-bytes-out",
                "custom-strings",
                "::/0",
                "",
                "\u{0}"
            ][..]
        )
        .prop_map(Json::from),
        ".{0,8}".prop_map(Json::from),
    ];
    let keys = [
        "securityProfileName",
        "behaviors",
        "name",
        "metric",
        "criteria",
        "comparisonOperator",
        "value",
        "count",
        "cidrs",
        "ports",
        "numbers",
        "strings",
        "number",
        "durationSeconds",
        "statisticalThreshold",
        "statistic",
        "mlDetectionConfig",
        "consecutiveDatapointsToAlarm",
        "additionalMetricsToRetain",
        "alertTargets",
        "x",
    ];
    leaf.prop_recursive(5, 60, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Json::from),
            prop::collection::vec(
                (prop::sample::select(keys.to_vec()).prop_map(str::to_owned), inner),
                0..6
            )
            .prop_map(|pairs| Json::Object(pairs.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_json_breaks_the_parser(json in nearly(), behavior in nearly()) {
        for json in [json, profile(&json!([behavior]))] {
            if let Err(error) = Profile::parse(&json, &custom()) {
                prop_assert!(!error.problems.is_empty());
            }
        }
    }
}

#[test]
fn events_are_named_as_in_the_api() {
    for (event, name) in [
        (EventType::InAlarm, "in-alarm"),
        (EventType::AlarmCleared, "alarm-cleared"),
        (EventType::AlarmInvalidated, "alarm-invalidated"),
    ] {
        assert_eq!(json!(event), json!(name));
        assert_eq!(event.as_str(), name);
    }
}
