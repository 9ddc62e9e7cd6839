//! Traffic per thing against what the things' own links counted.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::agent::{Agent, Both, DEADLINE, NEVER, Others, Volumes, config, exchange, names, site, site_with, volumes};
use crate::support::site::{BROKER, Options, PATIENCE, until};

#[test]
fn traffic_of_each_thing_is_what_its_link_counted() {
    let site = site();
    let agent = Agent::start(&site, &config(&site, NEVER));
    for name in names() {
        agent.await_thing(&name, "is counted", |row| !row["traffic"].is_null());
    }
    let status = agent.status();
    assert_eq!(status["site"]["lan"]["bridges"], json!(["br0"]), "{status:#}");
    assert_eq!(status["site"]["lan"]["interfaces"], json!(["lan3"]), "{status:#}");
    let (d0, d1, d3, internet) = (site.device(0), site.device(1), site.device(3), site.internet());
    let _services = [internet.echo(7000), d1.echo(7000), site.gateway().echo(BROKER)];
    let watched: Vec<(usize, Others<'_>)> = [0, 1, 3].map(|n| (n, Others::watch(site.device(n)))).into();
    let snapshot = |(n, others): &(usize, Others<'_>)| Both::read(&agent, site.device(*n), &format!("cam-{n}"), others);
    let before: Vec<Both> = watched.iter().map(snapshot).collect();

    for to in [IpAddr::from(internet.v4), internet.v6.into()] {
        exchange(d0, to, 7000, 200_000);
        assert!(d0.udp(to, 7000, 4000, PATIENCE), "fragments too");
        assert!(d0.ping(to));
        exchange(d3, to, 7000, 50_000);
    }
    exchange(d0, d1.v4.into(), 7000, 30_000);
    exchange(d0, site.gateway().v4.into(), BROKER, 20_000);

    for (watch, before) in watched.iter().zip(before) {
        let grown = snapshot(watch).since(before);
        assert_eq!(grown.metered, grown.link, "cam-{}", watch.0);
        assert!(
            grown.link[0] > 20_000 && grown.link[2] > 20_000,
            "there was traffic: {grown:?}"
        );
    }
}

/// The bound docs/devices.md states: frames the gateway's kernel merged (GRO), or had not cut yet (GSO), count once, so
/// that packets are too few by their number and bytes by their headers. The device's link has the frames of the wire.
#[test]
fn with_offloads_on_what_is_missing_are_the_headers_of_merged_frames() {
    let site = site_with(Options {
        offloads_off: false,
        ..Options::default()
    });
    let (device, internet) = (site.device(0), site.internet());
    // A wire has no frame above the MTU, a veth has: so whoever sends to it cuts, and the gateway merges what comes in.
    device.shell("ethtool -K eth0 tso off gso off");
    site.gateway().shell("ethtool -K lan0 tso off gro on");
    let agent = Agent::start(&site, &config(&site, NEVER));
    agent.await_known(&[("cam-0", device)]);
    let _echo = internet.echo(7000);
    let others = Others::watch(device);
    // A veth whose other end has GRO on counts what it sends without the Ethernet header: the other end has taken it off by
    // then (`veth_xdp_rcv`, `veth_get_stats64` in drivers/net/veth.c).
    let read = || {
        let mut both = Both::read(&agent, device, "cam-0", &others);
        both.link[2] += 14 * both.link[3];
        both
    };

    // Headers of a data segment: Ethernet, IP, TCP with the timestamps option.
    for (to, headers) in [
        (IpAddr::from(internet.v4), 14 + 20 + 32),
        (internet.v6.into(), 14 + 40 + 32),
    ] {
        let before = read();
        exchange(device, to, 7000, 4_000_000);
        let grown = read().since(before);
        let [bytes_in, packets_in, bytes_out, packets_out] = grown.link;
        let metered = grown.metered;
        let (merged_in, merged_out) = (packets_in - metered[1], packets_out - metered[3]);
        assert!(
            merged_in > 0 && merged_out > 0,
            "frames were merged both ways: {grown:?}"
        );
        assert_eq!(metered[0] + headers * merged_in, bytes_in, "{to}: {grown:?}");
        assert_eq!(metered[2] + headers * merged_out, bytes_out, "{to}: {grown:?}");
    }
    // What is never merged is exact all the same.
    let before = read();
    assert!(device.ping(internet.v4.into()) && device.udp(internet.v4.into(), 7000, 1000, PATIENCE));
    let grown = read().since(before);
    assert_eq!(grown.metered, grown.link);
}

/// A flow that begins and ends between two samples, a sample being taken only when a report is asked for.
#[test]
fn a_flow_between_two_samples_is_counted_to_the_byte_and_its_attempt_too() {
    let site = site();
    let mut config = config(&site, NEVER);
    config["sampleSeconds"] = json!(300);
    let agent = Agent::start(&site, &config);
    let (device, internet) = (site.device(3), site.internet());
    assert!(device.ping(internet.v4.into()));
    agent.await_known(&[("cam-3", device)]);
    let _echo = internet.echo(7000);
    let others = Others::watch(device);
    let samples = || agent.status()["samples"].as_u64().unwrap();
    let begun = || {
        let row = agent.thing("cam-3");
        row["connections"]["sinceLastReport"]["begun"].as_u64().unwrap()
    };
    // A sample may come at any time for other reasons, once or twice; what counts is a flow that had none within.
    let fitted = until(DEADLINE, || {
        let before = Both::read(&agent, device, "cam-3", &others);
        let (sampled, attempts) = (samples(), begun());
        exchange(device, internet.v4.into(), 7000, 100_000);
        let within = samples() != sampled;
        let grown = Both::read(&agent, device, "cam-3", &others).since(before);
        assert_eq!(grown.metered, grown.link);
        assert!(grown.link[0] > 100_000 && grown.link[2] > 100_000, "{grown:?}");
        assert!(until(DEADLINE, || begun() > attempts), "{:#}", agent.thing("cam-3"));
        assert_eq!(begun(), attempts + 1, "one connection, one attempt");
        !within
    });
    assert!(fitted, "no flow fitted between two samples");
}

#[test]
fn a_second_mac_counts_into_its_things_one_report() {
    let site = site();
    let (first, second) = (site.device(0), site.device(1));
    let config = json!({
        "sampleSeconds": 1,
        "report": {"intervalSeconds": 2},
        "devices": [{"thingName": "pair", "macs": [first.mac.to_string(), second.mac.to_string()]}],
        "quarantine": {"enforcement": "observe"},
    });
    let agent = Agent::start(&site, &config);
    agent.await_known(&[("pair", first), ("pair", second)]);
    let row = agent.thing("pair");
    assert_eq!(
        row["macs"],
        json!([first.mac.to_string(), second.mac.to_string()]),
        "{row:#}"
    );
    assert_eq!(
        row["marks"],
        json!(["randomised-mac"]),
        "neither a conflict nor a move: {row:#}"
    );
    let _echo = site.internet().echo(7000);
    let internet = IpAddr::from(site.internet().v4);
    // Half of it through each, and each alone is less than what is reported.
    let before = [first, second].map(|device| device.link_counters("eth0"));
    exchange(first, internet, 7000, 100_000);
    exchange(second, internet, 7000, 100_000);
    let after = [first, second].map(|device| device.link_counters("eth0"));
    let sent = |n: usize| after[n].bytes_out - before[n].bytes_out;
    let came = until(DEADLINE, || agent.reported("pair", "bytes_out") >= sent(0) + sent(1));
    assert!(
        came,
        "{} of {} and {}",
        agent.reported("pair", "bytes_out"),
        sent(0),
        sent(1)
    );
    assert_all_is_reported(&agent, "pair");
}

/// What the published reports add up to is what was counted, to the byte; only a report whose acceptance was not heard may
/// be in it twice.
pub(super) fn assert_all_is_reported(agent: &Agent, thing: &str) {
    let fields = ["bytes_in", "packets_in", "bytes_out", "packets_out"];
    let mut last = ([0; 4], None, [0; 4]);
    let came = until(DEADLINE, || {
        let counted: Option<Volumes> = volumes(&agent.thing(thing)["traffic"]);
        let published = fields.map(|field| agent.reported(thing, field));
        last = (fields.map(|field| agent.accepted(thing, field)), counted, published);
        let within = |counted: Volumes| (0..4).all(|n| (last.0[n]..=last.2[n]).contains(&counted[n]));
        counted.is_some_and(within)
    });
    assert!(came, "{thing}: accepted, counted, published: {last:?}");
}

/// The accounting table in the hands of others, who may do what they like with it where the kernel guards nothing.
#[test]
fn a_damaged_accounting_table_comes_back_and_no_report_is_wrong_for_it() {
    let site = site();
    let mut config = config(&site, 2);
    config["quarantine"]["tableOwnership"] = json!("off");
    let agent = Agent::start(&site, &config);
    let (device, internet, gateway) = (site.device(0), site.internet(), site.gateway());
    agent.await_known(&[("cam-0", device)]);
    let _echo = internet.echo(7000);
    let tables = || gateway.shell("nft list tables");
    let whole = || {
        let tables = tables();
        ["bridge", "netdev", "inet"]
            .iter()
            .all(|family| tables.contains(&format!("{family} edge_warden_acct")))
    };
    let generation = || agent.status()["site"]["accounting"]["generation"].as_u64().unwrap();
    for damage in [
        "delete table bridge edge_warden_acct",
        "flush ruleset",
        "flush set bridge edge_warden_acct sent",
        "delete table inet edge_warden_acct",
        "flush ruleset",
    ] {
        assert!(until(DEADLINE, whole), "before {damage}: {}", tables());
        let life = generation();
        exchange(device, internet.v6.into(), 7000, 50_000);
        gateway.shell(&format!("nft '{damage}'"));
        let mended = until(DEADLINE, || generation() > life && whole());
        assert!(mended, "{damage}: {}\n{}", tables(), agent.log());
        // It counts, and a report says so.
        let reported = agent.reported("cam-0", "bytes_out");
        exchange(device, internet.v6.into(), 7000, 50_000);
        let goes_on = until(DEADLINE, || agent.reported("cam-0", "bytes_out") >= reported + 50_000);
        assert!(
            goes_on,
            "after {damage}: {reported}, then {}",
            agent.reported("cam-0", "bytes_out")
        );
    }
    // Traffic before an interference may be lost; none is invented, in no report and not in their sum.
    let after = device.link_counters("eth0");
    let (published, accepted) = (
        agent.reported("cam-0", "bytes_out"),
        agent.accepted("cam-0", "bytes_out"),
    );
    assert!(published >= 250_000, "{published}");
    assert!(accepted <= after.bytes_out, "{accepted} of {}", after.bytes_out);
    let most = |report: &Value| report["metrics"]["network_stats"]["bytes_out"].as_u64();
    let most = agent.reports("cam-0").iter().filter_map(most).max().unwrap();
    assert!(most <= after.bytes_out, "{most} in one report");
    let silent = agent.reports("cam-1");
    let idle: BTreeSet<Option<u64>> = silent
        .iter()
        .map(|report| report["metrics"]["network_stats"]["bytes_out"].as_u64())
        .collect();
    assert!(idle.iter().flatten().all(|bytes| *bytes < 10_000), "{idle:?}");
}

#[test]
fn a_deleted_accounting_table_comes_back() {
    let site = site();
    let agent = Agent::start(&site, &config(&site, NEVER));
    agent.await_thing("cam-0", "is counted", |row| !row["traffic"].is_null());
    let gateway = site.gateway();
    let tables = || gateway.shell("nft list tables");
    assert!(tables().contains("bridge edge_warden_acct"), "{}", tables());
    assert!(tables().contains("inet edge_warden_acct"), "{}", tables());
    let deleted = gateway
        .run(&["nft", "delete", "table", "bridge", "edge_warden_acct"])
        .status
        .success();
    // Where the kernel lets us own the table, nobody can take it from us.
    assert!(!deleted || until(DEADLINE, || tables().contains("bridge edge_warden_acct")));
    // A new process takes the orphaned table over and counts on.
    drop(agent);
    assert!(tables().contains("bridge edge_warden_acct"));
    let agent = Agent::start(&site, &config(&site, NEVER));
    agent.await_thing("cam-0", "is counted again", |row| !row["traffic"].is_null());
    assert!(site.device(0).ping(gateway.v4.into()));
    agent.await_thing("cam-0", "its ping is counted", |row| {
        row["traffic"]["packetsOut"].as_u64().unwrap() > 0
    });
}
