//! `discovery.unknownDevices: quarantine`, with real packets.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::agent::{Agent, DEADLINE, NEVER, has, site};
use crate::support::site::{Host, Site, until};

const CAUSE: &str = "edge:discovery.unknownDevices/quarantine";

fn config(site: &Site, quarantine: &Value) -> Value {
    let named = |n: usize| json!({"thingName": format!("cam-{n}"), "macs": [site.device(n).mac.to_string()]});
    json!({
        "sampleSeconds": 1,
        "report": {"intervalSeconds": NEVER},
        "devices": [named(0), named(1)],
        "discovery": {"unknownDevices": "quarantine", "leases": [{"path": site.leases()}]},
        "quarantine": quarantine,
    })
}

/// How a device no source names stands, in the words of `devices`.
fn stands(agent: &Agent, device: &Host) -> String {
    agent.unknown(device)["quarantine"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn name(device: &Host) -> String {
    format!("mac:{}", device.mac)
}

/// The names in `quarantine list`, and the causes of one.
fn listed(agent: &Agent) -> BTreeSet<String> {
    let list = agent.ask(&["quarantine", "list", "--json"]);
    let rows = list.as_array().unwrap().iter();
    rows.map(|row| row["thing"].as_str().unwrap().to_owned()).collect()
}

/// What the audit log has about a device under this cause, oldest first.
fn audited(agent: &Agent, device: &Host) -> Vec<String> {
    let text = std::fs::read_to_string(agent.path().join("state/audit.jsonl")).unwrap_or_default();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let ours = lines.filter(|line| line["thing"] == name(device) && line["who"] == CAUSE);
    ours.map(|line| line["what"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_stranger_is_cut_off_until_a_source_names_it_and_rails_hold() {
    let site = site();
    let (d0, d2, d3, internet) = (site.device(0), site.device(2), site.device(3), site.internet());
    let protected = json!({"maxEdgeQuarantines": 10, "protected": [d3.v4.to_string()]});
    let mut agent = Agent::start(&site, &config(&site, &protected));
    let cut = until(DEADLINE, || stands(&agent, d2) == "cut off");
    assert!(cut, "{:#}\n{}", agent.devices(), agent.log());
    assert!(!d2.ping(internet.v4.into()) && !d2.ping(internet.v6.into()) && !d2.ping(d0.v4.into()));
    assert!(d0.ping(internet.v4.into()), "who is named is not disturbed");
    // The rail holds for a device nobody names, too, and is said.
    assert!(
        until(DEADLINE, || stands(&agent, d3).contains("is in quarantine.protected")),
        "{:#}",
        agent.devices()
    );
    assert!(d3.ping(internet.v4.into()));
    // Everywhere a quarantine is shown.
    assert_eq!(listed(&agent), [name(d2)].into());
    assert!(
        agent.print(&["devices"]).contains("cut off"),
        "{}",
        agent.print(&["devices"])
    );
    assert!(agent.print(&["quarantine", "why", &name(d2)]).contains(CAUSE));
    assert_eq!(audited(&agent, d2), ["quarantined (isolate)"]);
    assert!(audited(&agent, d3).is_empty());

    // A restart forgets nobody, and cuts nobody anew.
    agent.restart();
    assert!(!d2.ping(internet.v4.into()));
    assert!(
        until(DEADLINE, || stands(&agent, d2) == "cut off"),
        "{:#}",
        agent.devices()
    );
    assert_eq!(audited(&agent, d2).len(), 1);

    // A lease gives it a name.
    std::fs::write(site.leases(), format!("4000000000 {} {} cam-2 *\n", d2.mac, d2.v4)).unwrap();
    agent.await_thing("cam-2", "is named", |row| has(row, "macs", &d2.mac.to_string()));
    assert!(
        until(DEADLINE, || listed(&agent).is_empty()),
        "{}",
        agent.print(&["quarantine", "list"])
    );
    assert!(until(DEADLINE, || d2.ping(internet.v4.into())));
    assert_eq!(audited(&agent, d2), ["quarantined (isolate)", "alarm cleared"]);
}

#[test]
fn strangers_wait_for_room_under_the_cap_and_the_operators_release_holds() {
    let site = site();
    let (d2, d3, internet) = (site.device(2), site.device(3), site.internet());
    let agent = Agent::start(&site, &config(&site, &json!({"maxEdgeQuarantines": 1})));
    let strangers = [d2, d3];
    let stand = || strangers.map(|device| stands(&agent, device));
    let one = until(DEADLINE, || {
        let stand = stand();
        stand.iter().any(|words| words == "cut off") && stand.iter().any(|words| words.starts_with("not cut off yet: "))
    });
    assert!(one, "{:?}\n{}", stand(), agent.log());
    let (cut, open) = if stands(&agent, d2) == "cut off" {
        (d2, d3)
    } else {
        (d3, d2)
    };
    assert!(
        stands(&agent, open).contains("the most is 1"),
        "{}",
        stands(&agent, open)
    );
    assert!(!cut.ping(internet.v4.into()) && open.ping(internet.v4.into()));
    assert_eq!(
        listed(&agent),
        [name(cut), name(open)].into(),
        "who waits is listed, too"
    );

    // What the operator lets go stays so. (The other waits on: one was cut off within the hour.)
    agent.print(&["quarantine", "release", &name(cut)]);
    assert!(until(DEADLINE, || cut.ping(internet.v4.into())));
    assert!(
        until(DEADLINE, || stands(&agent, cut)
            == "not cut off: released by the operator"),
        "{:?}",
        stand()
    );
    let samples = || agent.status()["samples"].as_u64().unwrap();
    let seen = samples();
    assert!(until(DEADLINE, || samples() > seen + 3));
    assert!(cut.ping(internet.v4.into()) && open.ping(internet.v4.into()));
    assert_eq!(listed(&agent), [name(open)].into());
}
