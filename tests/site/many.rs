//! A thousand things that do not exist.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::agent::{Agent, DEADLINE, connections, ports, site};
use crate::support::site::until;

const THINGS: usize = 1_000;

#[test]
fn a_thousand_things_that_were_never_seen_report_nothing_or_zero() {
    let site = site();
    let device = |n: usize| {
        let thing = format!("ghost-{n:03}");
        // one in ten is known by its address only
        if n.is_multiple_of(10) {
            let address = Ipv4Addr::from(0x0a14_0100 + u32::try_from(n).unwrap());
            json!({"thingName": thing, "addresses": [address]})
        } else {
            json!({"thingName": thing, "macs": [format!("02:99:00:00:{:02x}:{:02x}", n / 256, n % 256)]})
        }
    };
    let config = json!({
        "sampleSeconds": 5,
        // one report about every third of a second
        "report": {"intervalSeconds": 300},
        "devices": (0..THINGS).map(device).collect::<Vec<_>>(),
        "quarantine": {"enforcement": "observe", "shadow": {"classic": false, "named": ""}},
    });
    let agent = Agent::start(&site, &config);
    let counted = until(DEADLINE, || !agent.thing("ghost-001")["traffic"].is_null());
    assert!(counted, "{:#}", agent.status());
    let status = agent.status();
    assert_eq!(status["site"]["things"], THINGS, "{:#}", status["site"]);
    assert_eq!(
        status["site"]["knownDevices"],
        THINGS * 9 / 10,
        "those with a MAC address"
    );
    assert_eq!(status["site"]["unknownDevices"], 4, "the ones that do exist");
    let devices = agent.devices();
    let rows = devices["things"].as_array().unwrap();
    assert_eq!(rows.len(), THINGS);
    for row in rows {
        let marks = row["marks"].as_array().unwrap();
        assert!(
            marks.contains(&json!("never-seen")) && row["lastSeen"].is_null(),
            "{row:#}"
        );
        assert_eq!(
            row["connections"]["established"].as_u64().unwrap_or_default(),
            0,
            "{row:#}"
        );
    }
    assert!(agent.print(&["devices"]).contains("ghost-999"));

    // Known by a MAC address: it was counted, and was silent. By an address alone: nobody could count it.
    let zero = json!({"bytes_in": 0, "bytes_out": 0, "packets_in": 0, "packets_out": 0});
    let report = agent.report("ghost-001");
    assert_eq!(
        by_name(&report["metrics"]["network_stats"]),
        by_name(&zero),
        "{report:#}"
    );
    assert!(connections(&report).is_empty() && ports(&report, "tcp").is_empty() && ports(&report, "udp").is_empty());
    let report = agent.report("ghost-010");
    assert!(report["metrics"]["network_stats"].is_null(), "{report:#}");
    assert!(connections(&report).is_empty() && ports(&report, "tcp").is_empty());

    // And so do the reports that go out.
    let published = || {
        let all = agent.published().into_iter();
        all.filter(|(topic, _)| topic.contains("/things/ghost-"))
            .collect::<Vec<_>>()
    };
    assert!(until(DEADLINE, || published().len() >= 12), "{}", agent.log());
    for (topic, report) in published() {
        let stats = &report["metrics"]["network_stats"];
        let by_address = topic.contains("0/defender/");
        assert_eq!(stats.is_null(), by_address, "{topic}: {report:#}");
        assert!(by_address || by_name(stats) == by_name(&zero), "{topic}: {report:#}");
    }
}

/// Its members in order of their names.
fn by_name(object: &Value) -> Vec<(String, Value)> {
    let mut members: Vec<_> = object.as_object().unwrap().clone().into_iter().collect();
    members.sort_by(|a, b| a.0.cmp(&b.0));
    members
}
