//! Connections and answered ports, as a checker inside the device's own namespace sees them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::agent::{Agent, DEADLINE, NEVER, config, connections, ports, seen_by, site};
use crate::support::services::Broker;
use crate::support::site::{BROKER, PATIENCE, until};

#[test]
fn connections_answered_ports_and_short_attempts_are_seen() {
    let site = site();
    let mut config = config(&site, NEVER);
    config["customMetrics"] = json!([
        {"name": "clients", "type": "string-list", "source": "connectedDevices"},
        {"name": "destinations", "source": "distinctDestinations"},
        {"name": "unanswered", "source": "unansweredConnections"},
    ]);
    let agent = Agent::start(&site, &config);
    let (d0, d3, internet) = (site.device(0), site.device(3), site.internet());
    agent.await_known(&[("cam-0", d0), ("cam-3", d3)]);
    let _services = [internet.echo(7000), d3.echo(9000), site.gateway().echo(BROKER)];
    let broker = d0.connect(site.gateway().v4.into(), BROKER, PATIENCE).unwrap();
    let routed = d0.connect(internet.v4.into(), 7000, PATIENCE).unwrap();
    let routed6 = d0.connect(internet.v6.into(), 7000, PATIENCE).unwrap();
    let inbound = internet.connect(d3.v6.into(), 9000, PATIENCE).unwrap();
    let report = agent.report("cam-0");
    let wanted: BTreeSet<_> = [&broker, &routed, &routed6].map(seen_by).into();
    assert_eq!(d0.established(), wanted, "the checker sees what the test opened");
    assert_eq!(connections(&report), wanted, "{report:#}");
    let report = agent.report("cam-3");
    assert_eq!(d3.established(), [(inbound.local_addr().unwrap(), 9000)].into());
    assert_eq!(connections(&report), d3.established(), "{report:#}");
    assert_eq!(ports(&report, "tcp"), [9000].into(), "{report:#}");
    assert_eq!(ports(&agent.report("cam-0"), "tcp"), BTreeSet::new());

    let before = agent.thing("cam-3")["connections"]["sinceLastReport"]["begun"]
        .as_u64()
        .unwrap();
    assert!(
        d3.connect(internet.v4.into(), 7999, PATIENCE).is_none(),
        "nobody listens there"
    );
    agent.await_thing("cam-3", "its attempt is counted", |row| {
        row["connections"]["sinceLastReport"]["begun"].as_u64().unwrap() == before + 1
    });
    // The same in the thing's own custom metrics; who is at the broker is the core's.
    let counted = |row: &Value, name: &str| row["connections"]["sinceLastReport"][name].as_f64();
    let report = agent.report("cam-3");
    let row = agent.thing("cam-3");
    for name in ["destinations", "unanswered"] {
        let sent = report["custom_metrics"][name][0]["number"].as_f64();
        assert!(
            sent.is_some() && sent <= counted(&row, name),
            "{name}: {report:#} {row:#}"
        );
    }
    assert!(
        report["custom_metrics"]["destinations"][0]["number"].as_f64() >= Some(1.0),
        "{report:#}"
    );
    assert_eq!(
        agent.status()["customMetrics"]["clients"],
        json!({"string_list": ["cam-0"]})
    );
    drop((broker, routed, routed6, inbound));
}

#[test]
fn ports_a_device_answered_from_are_those_its_services_are_bound_to() {
    let site = site();
    let agent = Agent::start(&site, &config(&site, NEVER));
    let (d0, d3, internet) = (site.device(0), site.device(3), site.internet());
    agent.await_known(&[("cam-0", d0), ("cam-3", d3)]);
    let services = [5683, 5353, 47808];
    let _services: Vec<_> = services.iter().map(|port| d3.echo(*port)).collect();
    // Asked from the internet, by another device and by the gateway; of each family one.
    let asked: [(_, IpAddr, u16); 3] = [
        (internet, d3.v6.into(), 5683),
        (d0, d3.v4.into(), 5353),
        (site.gateway(), d3.v4.into(), 47808),
    ];
    for (from, to, port) in asked {
        assert!(from.udp(to, port, 100, PATIENCE), "{} asks {to} on {port}", from.ns);
        assert!(from.connect(to, port, PATIENCE).is_some(), "{} -> {to}:{port}", from.ns);
    }
    // Asked where nobody answers: no port.
    assert!(!d0.udp(d3.v4.into(), 9999, 100, std::time::Duration::from_millis(200)));
    for transport in ["udp", "tcp"] {
        let bound = d3.bound_ports(transport);
        assert_eq!(bound, services.into(), "the checker");
        let mut report = agent.report("cam-3");
        let seen = until(DEADLINE, || {
            report = agent.report("cam-3");
            ports(&report, transport) == bound
        });
        assert!(seen, "{transport}: {report:#}");
        assert_eq!(report["metrics"][format!("listening_{transport}_ports")]["total"], 3);
        assert_eq!(
            ports(&agent.report("cam-0"), transport),
            BTreeSet::new(),
            "who asks has no service"
        );
    }
}

#[test]
fn a_devices_mqtt_connection_to_the_cores_broker_is_in_both_reports() {
    let site = site();
    let agent = Agent::start(&site, &config(&site, NEVER));
    let (device, gateway) = (site.device(0), site.gateway());
    agent.await_known(&[("cam-0", device)]);
    let broker = Broker::start(gateway);
    let session = broker.connect(device, "cam-0");
    let open = device.established();
    assert_eq!(open.len(), 1, "one TLS connection: {open:?}");
    let (remote, port) = *open.first().unwrap();
    assert_eq!(remote.to_string(), format!("{}:{BROKER}", gateway.v4));
    let report = agent.report("cam-0");
    assert_eq!(
        connections(&report),
        open,
        "once, though two sources see it: {report:#}"
    );
    // The core's own report has its other end, and the broker's port.
    let core = agent.report("edge-warden-core");
    let peer = (std::net::SocketAddr::new(device.v4.into(), port), BROKER);
    assert!(connections(&core).contains(&peer), "{core:#}");
    assert!(ports(&core, "tcp").contains(&BROKER), "{core:#}");
    drop(session);
    let mut report = agent.report("cam-0");
    let over = until(DEADLINE, || {
        report = agent.report("cam-0");
        connections(&report).is_empty()
    });
    assert!(over, "{report:#}");
}
