//! Many things, one nucleus: each reports by itself, spread over the interval.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::support::binary::{Agent, SOON, access_control, agent_seconds, configuration, run_command};
use crate::support::netns::{Namespace, ip};
use crate::support::nucleus::{Settings, TestNucleus};

/// 300 s of the agent in 10 s.
const FACTOR: u32 = 30;
const THINGS: usize = 10;

fn report_ids(nucleus: &TestNucleus) -> BTreeMap<String, Vec<u64>> {
    let mut ids: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for report in nucleus.reports() {
        assert_eq!(report.verdict, Ok(()), "{}", report.thing);
        ids.entry(report.thing.clone())
            .or_default()
            .push(report.report_id.unwrap());
    }
    ids
}

#[test]
fn as_many_things_as_reports_spread_evenly_and_a_rejection_is_one_things_own() {
    let devices: Vec<Value> = (0..THINGS)
        .map(|number| json!({"thingName": format!("cam-{number}"), "macs": [format!("02:00:00:00:01:{number:02x}")]}))
        .collect();
    let nucleus = TestNucleus::start(Settings {
        configuration: configuration(json!({"devices": devices})),
        access_control: Some(access_control()),
        enforce_rate: Some(Arc::new(|| agent_seconds(FACTOR))),
        ..Settings::classic()
    });
    let lan = Namespace::new();
    lan.run(|| {
        ip("link add br0 type bridge");
        ip("link add port0 master br0 type veth peer name device0");
        ip("address add 10.20.0.1/24 dev br0");
        ip("link set port0 up");
        ip("link set br0 up");
    });
    let dir = tempfile::tempdir().unwrap();
    let command = run_command(&nucleus, dir.path(), FACTOR);
    let socket = dir.path().join("control.sock");
    let _agent = lan.run(move || Agent::spawn(command, &socket));

    nucleus.wait_for("a report of each", SOON, |seen| {
        let mut things: Vec<&str> = seen.reports.iter().map(|report| report.thing.as_str()).collect();
        things.sort_unstable();
        things.dedup();
        (things.len() == THINGS + 1).then_some(())
    });
    // One thing is told that it reports too often: it alone waits longer.
    let throttled = report_ids(&nucleus).remove("cam-3").unwrap();
    let reply = json!({
        "thingName": "cam-3",
        "status": "REJECTED",
        "reportId": throttled[0],
        "statusDetails": {"ErrorCode": "Throttled", "ErrorMessage": "Too many reports"},
        "timestamp": 1,
    });
    nucleus.deliver(
        "$aws/things/cam-3/defender/metrics/json/rejected",
        reply.to_string().as_bytes(),
    );
    nucleus.wait_for("three reports of each other thing", SOON, |seen| {
        let count = |thing: &str| seen.reports.iter().filter(|report| report.thing == thing).count();
        (0..THINGS)
            .filter(|number| *number != 3)
            .all(|number| count(&format!("cam-{number}")) >= 3)
            .then_some(())
    });

    let ids = report_ids(&nucleus);
    assert_eq!(ids.len(), THINGS + 1, "nobody else reports");
    for (thing, ids) in &ids {
        assert!(ids.windows(2).all(|pair| pair[1] >= pair[0] + 300), "{thing}: {ids:?}");
    }
    // From the second report on every thing is in its rhythm: one every 300 / 11 s. Thrice that allows for a slow machine.
    let mut steady: Vec<u64> = ids
        .iter()
        .filter(|(thing, _)| *thing != "cam-3")
        .map(|(_, ids)| ids[1])
        .collect();
    steady.sort_unstable();
    let widest = steady.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(widest <= 82, "{steady:?}");
    assert!(steady.last().unwrap() - steady[0] <= 330, "{steady:?}");
}
