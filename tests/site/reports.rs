//! Each thing's reports on its own topic.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::agent::{Agent, DEADLINE, config, site};
use crate::support::site::until;

#[test]
fn each_thing_reports_to_its_own_topic() {
    let site = site();
    let mut config = config(&site, 2);
    config["devices"][3]["report"] = json!(false);
    let agent = Agent::start(&site, &config);
    let metrics = |thing: &str| format!("$aws/things/{thing}/defender/metrics/json");
    let wanted: BTreeSet<String> = ["edge-warden-core", "cam-0", "cam-1", "cam-2"].map(metrics).into();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let came = until(DEADLINE, || {
        counts.clear();
        let reports = agent
            .published()
            .into_iter()
            .filter(|(topic, _)| topic.contains("/defender/"));
        for (topic, _) in reports {
            *counts.entry(topic).or_default() += 1;
        }
        wanted
            .iter()
            .all(|topic| counts.get(topic).is_some_and(|count| *count >= 3))
    });
    assert!(came, "{counts:?}");
    assert_eq!(
        counts.keys().cloned().collect::<BTreeSet<_>>(),
        wanted,
        "nobody else reports"
    );
    for topic in &wanted {
        let ids: Vec<u64> = agent
            .published()
            .iter()
            .filter(|(of, _)| of == topic)
            .map(|(_, report)| report["header"]["report_id"].as_u64().unwrap())
            .collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "{topic}: {ids:?}");
    }
    // A thing that is silent reports zero, from its first report on, because its traffic was counted.
    let (_, report) = agent
        .published()
        .into_iter()
        .find(|(topic, _)| *topic == metrics("cam-1"))
        .unwrap();
    assert!(report["metrics"]["network_stats"].is_object(), "{report:#}");
    agent.await_thing("cam-1", "its reports are accepted", |row| {
        row["reporting"]["lastReport"]["fate"] == "accepted"
    });
    assert!(agent.thing("cam-3")["reporting"].is_null());
}
