//! Who is who as the site changes: leases, renewals by a real DHCP server and client, conflicts, strangers.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};

use super::agent::{Agent, Both, DEADLINE, NEVER, Others, connections, exchange, has, seen_by, site, site_with};
use super::counting::assert_all_is_reported;
use crate::support::services::DhcpClient;
use crate::support::site::{Host, Options, PATIENCE, Site, until};

fn lease(host: &Host, address: &str, name: &str) -> String {
    format!("4000000000 {} {address} {name} *\n", host.mac)
}

/// A renewal with a new address: dnsmasq refuses the old one, udhcpc begins anew; the thing stays the same, and so do its
/// numbers.
#[test]
fn a_dhcp_renewal_with_another_address_is_the_same_thing_with_the_same_meter() {
    let site = site_with(Options {
        dhcp: true,
        ..Options::default()
    });
    let (device, internet) = (site.device(0), site.internet());
    let [first, second] = [101, 177].map(|last| Ipv4Addr::new(10, 20, 0, last));
    site.assign(device, first);
    let client = DhcpClient::start(device, "cam-0");
    assert_eq!(client.address(), Some(first));
    let config = json!({
        "sampleSeconds": 1,
        "report": {"intervalSeconds": 2},
        "discovery": {"leases": [{"path": site.leases()}]},
        "quarantine": {"enforcement": "observe"},
    });
    let agent = Agent::start(&site, &config);
    let _echo = internet.echo(7000);
    let holds = |row: &Value, address: Ipv4Addr| has(row, "addresses", &address.to_string());
    let row = agent.await_thing("cam-0", "is named by its lease", |row| {
        !row["traffic"].is_null() && holds(row, first)
    });
    assert_eq!(
        (&row["source"], &row["interface"]),
        (&json!("lease"), &json!("br0")),
        "{row:#}"
    );
    let others = Others::watch(device);
    let before = Both::read(&agent, device, "cam-0", &others);
    exchange(device, internet.v4.into(), 7000, 50_000);

    site.assign(device, second);
    client.renew(second);
    let row = agent.await_thing("cam-0", "has the new address and not the old one", |row| {
        holds(row, second) && !holds(row, first)
    });
    assert_eq!(row["macs"], json!([device.mac.to_string()]), "{row:#}");
    assert_eq!(row["source"], "lease", "{row:#}");
    assert!(!has(&row, "marks", "conflict"), "a renewal is none: {row:#}");
    exchange(device, internet.v4.into(), 7000, 50_000);
    let open = device.connect(internet.v4.into(), 7000, PATIENCE).unwrap();
    assert_eq!(open.local_addr().unwrap().ip(), IpAddr::from(second));
    let report = agent.report("cam-0");
    assert_eq!(connections(&report), [seen_by(&open)].into(), "{report:#}");
    drop(open);

    let grown = Both::read(&agent, device, "cam-0", &others).since(before);
    assert_eq!(grown.metered, grown.link, "across the renewal");
    assert!(grown.link[2] > 100_000, "{grown:?}");
    assert_all_is_reported(&agent, "cam-0");
    let topics: BTreeSet<String> = agent.published().into_iter().map(|(topic, _)| topic).collect();
    let wanted = ["edge-warden-core", "cam-0"].map(|thing| format!("$aws/things/{thing}/defender/metrics/json"));
    let reports: BTreeSet<String> = topics
        .into_iter()
        .filter(|topic| topic.contains("/defender/"))
        .collect();
    assert_eq!(reports, wanted.into(), "nobody else reports: an address is no thing");
}

fn strangers(agent: &Agent) -> BTreeSet<String> {
    let devices = agent.devices();
    let rows = devices["unknown"].as_array().unwrap();
    rows.iter().map(|row| row["mac"].as_str().unwrap().to_owned()).collect()
}

fn macs(site: &Site, devices: &[usize]) -> BTreeSet<String> {
    devices.iter().map(|n| site.device(*n).mac.to_string()).collect()
}

#[test]
fn leases_conflicts_and_strangers_are_shown_and_reported_as_what_they_are() {
    let site = site();
    let leases = site.leases();
    let (d0, d1, d2, internet) = (site.device(0), site.device(1), site.device(2), site.internet());
    let first = lease(d0, &d0.v4.to_string(), "cam-0");
    std::fs::write(&leases, &first).unwrap();
    let config = json!({
        "sampleSeconds": 1,
        "report": {"intervalSeconds": 2},
        "devices": [{"thingName": "plug", "macs": [d1.mac.to_string()]}],
        "discovery": {"leases": [{"path": leases}]},
        "quarantine": {"enforcement": "observe"},
    });
    let agent = Agent::start(&site, &config);
    let _echo = internet.echo(7000);
    let row = agent.await_thing("cam-0", "is named by its lease", |row| {
        !row["traffic"].is_null() && has(row, "addresses", &d0.v4.to_string())
    });
    assert_eq!(
        (&row["source"], &row["interface"]),
        (&json!("lease"), &json!("br0")),
        "{row:#}"
    );

    // Unknown: device 2 and the one behind lan3. Listed with what can be known of them, and in nobody's report.
    let came = until(DEADLINE, || strangers(&agent) == macs(&site, &[2, 3]));
    assert!(came, "{:#}", agent.devices());
    assert!(d2.ping(site.gateway().v4.into()));
    let came = until(DEADLINE, || {
        let row = agent.unknown(d2);
        row["port"] == "lan2" && has(&row, "addresses", &d2.v4.to_string())
    });
    let row = agent.unknown(d2);
    assert!(came && row["interface"] == "br0", "{row:#}");
    assert!(
        row["firstSeen"].as_u64().unwrap() <= row["lastSeen"].as_u64().unwrap(),
        "{row:#}"
    );
    assert_eq!(row["marks"], json!(["randomised-mac"]), "{row:#}");
    assert!(agent.print(&["devices"]).contains(&d2.mac.to_string()));
    exchange(d2, internet.v4.into(), 7000, 300_000);

    // A configured thing's name taken in a DHCP request: not believed, and said; the impostor's traffic is not the thing's.
    std::fs::write(&leases, first.clone() + &lease(d2, &d2.v4.to_string(), "plug")).unwrap();
    let row = agent.await_thing("plug", "is in conflict", |row| has(row, "marks", "conflict"));
    assert_eq!(row["macs"], json!([d1.mac.to_string()]), "{row:#}");
    let words = row["conflicts"].to_string();
    assert!(words.contains(&d2.mac.to_string()), "who with: {words}");
    exchange(d2, internet.v4.into(), 7000, 300_000);
    exchange(d1, internet.v4.into(), 7000, 50_000);
    let came = until(DEADLINE, || agent.reported("plug", "bytes_out") >= 50_000);
    assert!(came && agent.reported("plug", "bytes_out") < 200_000);

    // A second device with the hostname of a thing only leases name: the thing has both, in conflict, and reports both.
    let both = first.clone() + &lease(d2, &d2.v4.to_string(), "cam-0");
    std::fs::write(&leases, both).unwrap();
    let row = agent.await_thing("cam-0", "has two MAC addresses", |row| {
        has(row, "macs", &d2.mac.to_string())
    });
    assert!(
        has(&row, "macs", &d0.mac.to_string()) && has(&row, "marks", "conflict"),
        "{row:#}"
    );
    assert_eq!(row["backsEdgeAction"], false, "no alarm may act on it: {row:#}");
    agent.await_thing("plug", "is in no conflict any more", |row| {
        !has(row, "marks", "conflict")
    });
    assert_all_is_reported(&agent, "cam-0");
    let reported = agent.reported("cam-0", "bytes_out");
    exchange(d2, internet.v4.into(), 7000, 300_000);
    let came = until(DEADLINE, || agent.reported("cam-0", "bytes_out") >= reported + 300_000);
    assert!(came, "{reported}, then {}", agent.reported("cam-0", "bytes_out"));

    // Settled again: what it reported stays reported, what the other does is nobody's.
    std::fs::write(&leases, &first).unwrap();
    let row = agent.await_thing("cam-0", "is in no conflict any more", |row| {
        !has(row, "marks", "conflict")
    });
    assert_eq!(row["macs"], json!([d0.mac.to_string()]), "{row:#}");
    assert!(
        until(DEADLINE, || strangers(&agent) == macs(&site, &[2, 3])),
        "{:#}",
        agent.devices()
    );
    assert_all_is_reported(&agent, "cam-0");
    let reported = agent.reported("cam-0", "bytes_out");
    exchange(d2, internet.v4.into(), 7000, 300_000);
    exchange(d0, internet.v4.into(), 7000, 50_000);
    let came = until(DEADLINE, || agent.reported("cam-0", "bytes_out") >= reported + 50_000);
    assert!(came && agent.reported("cam-0", "bytes_out") < reported + 200_000);
    let reporting: BTreeSet<String> = agent
        .published()
        .into_iter()
        .filter_map(|(topic, _)| Some(topic.strip_suffix("/defender/metrics/json")?.to_owned()))
        .collect();
    let wanted = ["edge-warden-core", "cam-0", "plug"].map(|thing| format!("$aws/things/{thing}"));
    assert_eq!(reporting, wanted.into(), "a stranger has no report");
}

/// Lease files nobody wrote well: half lines, control characters, names no thing can have, two leases for one address, and
/// size. What can be used is used, the rest is said, and nothing of it reaches a table of the kernel.
#[test]
fn hostile_lease_files_name_nobody_wrongly() {
    let site = site();
    let leases = site.leases();
    let (d0, d2) = (site.device(0), site.device(2));
    let good = lease(d0, &d0.v4.to_string(), "cam-0");
    let hostile = [
        "4000000000 02:00:00:00:00:02 10.20.0.11 \"};flush;ruleset *\n",
        "4000000000 02:00:00:00:00:02 10.20.0.11 ../../etc/passwd *\n",
        "4000000000 02:00:00:00:00:02 10.20.0.11 \u{1b}[2Jclear *\n",
        "not a lease\n",
        "4000000000 02:00:00:00:00:03 10.20.0",
    ];
    std::fs::write(&leases, good.clone() + &hostile.concat()).unwrap();
    let config = json!({
        "sampleSeconds": 1,
        "report": {"intervalSeconds": NEVER},
        "discovery": {"leases": [{"path": leases}]},
        "quarantine": {"enforcement": "observe"},
    });
    let agent = Agent::start(&site, &config);
    agent.await_thing("cam-0", "is named in spite of its neighbours", |row| {
        !row["traffic"].is_null() && has(row, "addresses", &d0.v4.to_string())
    });
    let things = |agent: &Agent| agent.devices()["things"].as_array().unwrap().len();
    assert_eq!(things(&agent), 1, "{:#}", agent.devices());
    assert!(
        until(DEADLINE, || strangers(&agent) == macs(&site, &[1, 2, 3])),
        "{:#}",
        agent.devices()
    );
    assert!(
        !agent.print(&["devices"]).contains('\u{1b}'),
        "no terminal is written to"
    );
    assert!(!site.gateway().shell("nft list ruleset").contains("flush"));

    // Two leases for one address: the address is nobody's, each MAC address is its thing's.
    let two = good.clone() + &lease(d2, &d0.v4.to_string(), "cam-2");
    std::fs::write(&leases, two).unwrap();
    for (name, host) in [("cam-0", d0), ("cam-2", d2)] {
        let row = agent.await_thing(name, "has its address disputed", |row| has(row, "marks", "conflict"));
        assert_eq!(row["macs"], json!([host.mac.to_string()]), "{row:#}");
        assert!(!has(&row, "addresses", &d0.v4.to_string()), "{row:#}");
        assert!(has(&row, "contestedAddresses", &d0.v4.to_string()), "{row:#}");
    }

    // Larger than any lease file: not read past the bound, and said; who is known stays known as long as the file says so.
    let huge = good + &"4000000000 02:00:00:00:00:03 10.20.0.12 cam-2 *\n".repeat(120_000);
    std::fs::write(&leases, huge).unwrap();
    let said = until(DEADLINE, || {
        let words = agent.status()["site"]["sources"]["lease files"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        words != "ok" || things(&agent) == 2
    });
    assert!(said, "{:#}", agent.status());
    assert_eq!(agent.thing("cam-0")["macs"], json!([d0.mac.to_string()]));
}
