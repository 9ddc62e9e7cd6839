//! The site put together from samples as a source would give them, without a kernel.

use std::collections::BTreeMap;

use super::source::{FlowTable, NeighbourTables, SiteAsk, SiteSample};
use super::*;
use crate::collect::conntrack::{Endpoints, Flow, FlowEvent, TcpState, Transport};
use crate::collect::neighbours::{Neighbour, NeighbourState};
use crate::collect::{HostSample, Interface, InterfaceAddress, Socket, SocketState, SocketTable};
use crate::firewall::{Change, Traffic};
use crate::greengrass::Destination;
use crate::model::{MacAddress, Now, UnixTime};

const GATEWAY: MacAddress = MacAddress([2, 0, 0, 0, 0, 0xfe]);
const CAM: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
const PLUG: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);

fn now(seconds: u64) -> Now {
    Now {
        wall: UnixTime::from_seconds(1_800_000_000 + seconds),
        monotonic: Monotonic(Duration::from_secs(seconds)),
    }
}

fn name(text: &str) -> ThingName {
    text.parse().unwrap()
}

fn config(yaml: &str) -> Config {
    let value: serde_json::Value = serde_saphyr::from_str(yaml).unwrap();
    crate::config::load_component(value, std::path::Path::new("/"), crate::config::Mode::Standalone).unwrap()
}

fn not_collected<T>() -> Result<T, Missing> {
    Err(Missing::new("test", Reason::NotCollected, "not asked for"))
}

fn host() -> HostSample {
    let bridge = Interface {
        index: 1,
        name: "br0".to_owned(),
        loopback: false,
        up: Some(true),
        master: None,
        parent: None,
        kind: Some("bridge".to_owned()),
        mac: Some(GATEWAY),
        addresses: Some(vec![InterfaceAddress {
            address: "10.0.0.1".parse().unwrap(),
            prefix_length: 24,
        }]),
        default_route: Some(false),
        counters: Counters::default(),
    };
    let broker = Socket {
        state: SocketState::Established,
        remote: "10.0.0.5".parse().unwrap(),
        remote_port: 40_000,
        local_port: 8883,
        local: "10.0.0.1".parse().unwrap(),
        bound_to: 0,
    };
    HostSample {
        interfaces: Ok(vec![bridge]),
        sockets: SocketTable {
            tcp: Ok(vec![broker]),
            udp: Ok(Vec::new()),
        },
        boot_id: not_collected(),
        notes: Vec::new(),
    }
}

fn neighbour(mac: MacAddress, ip: &str) -> Neighbour {
    Neighbour {
        mac,
        ip: ip.parse().unwrap(),
        interface: "br0".to_owned(),
        state: NeighbourState::Reachable,
    }
}

/// What a source answers to `ask` when each counted device has sent that many packets.
fn sample(ask: &SiteAsk, packets: u64) -> SiteSample {
    let counters = Counters {
        bytes_out: packets * 60,
        packets_out: packets,
        ..Counters::default()
    };
    let counted: BTreeMap<_, _> = ask.macs.iter().map(|mac| (*mac, counters)).collect();
    SiteSample {
        lan: lan::find(&host(), &ask.lan),
        neighbours: ask.neighbours.then(|| NeighbourTables {
            neighbours: Some(vec![neighbour(CAM, "10.0.0.5"), neighbour(PLUG, "10.0.0.6")]),
            ..NeighbourTables::default()
        }),
        leases: Vec::new(),
        traffic: if counted.is_empty() {
            not_collected()
        } else {
            Ok(Traffic {
                devices: counted,
                generation: 1,
                ..Traffic::default()
            })
        },
        tracking: Ok(()),
        flows: (ask.flows.is_some() && !ask.macs.is_empty()).then(|| Ok(FlowTable::default())),
        usage: Ok(Usage { count: 1, max: 10 }),
        events: Ok(()),
    }
}

struct Run {
    site: Site,
    tallies: Arc<FlowTallies>,
}

impl Run {
    fn new(yaml: &str) -> Self {
        let tallies = Arc::<FlowTallies>::default();
        let site = Site::new(&config(yaml), name("core"), Arc::clone(&tallies), now(0));
        Self { site, tallies }
    }

    fn sample(&mut self, seconds: u64, packets: u64, flows: bool) -> SiteAsk {
        let ask = self.site.ask(flows, now(seconds));
        self.site.observe(&host(), sample(&ask, packets), now(seconds));
        ask
    }
}

const CAM_CONFIGURED: &str = r#"{devices: [{thingName: cam, macs: ["02:00:00:00:00:01"]}]}"#;

#[test]
fn a_configured_device_is_counted_identified_and_read() {
    let mut run = Run::new(CAM_CONFIGURED);
    assert!(run.site.take_changed(), "the configured identity is news");
    let ask = run.sample(1, 5, true);
    assert_eq!(ask.macs, [CAM].into());
    assert!(ask.neighbours);
    assert!(run.site.take_changed() && !run.site.take_changed());
    let identity = &run.site.identities()[&name("cam")];
    assert_eq!(identity.macs, [CAM].into());
    assert_eq!(identity.addresses, ["10.0.0.5".parse().unwrap()].into());
    assert!(identity.configured && !identity.in_conflict && identity.backs_edge_action);
    let lan = run.site.lan();
    assert_eq!(lan.bridges, ["br0".to_owned()].into());
    assert_eq!(lan.gateway_macs, [GATEWAY].into());
    assert_eq!(lan.gateway_addresses, ["10.0.0.1".parse().unwrap()].into());
    assert_eq!(lan.broker_ports, [8883].into());
    assert_eq!(run.site.known_devices(), 1);
    assert_eq!(run.site.take_begun(), [name("cam")].into());
    let reading = run.site.reading(&name("cam"));
    assert_eq!(reading.traffic.as_ref().unwrap().packets_out, 5);
    let established = reading.established.as_ref().unwrap();
    assert_eq!(established.len(), 1, "its connection to the broker");
    assert_eq!(
        (established[0].remote.to_string(), established[0].local_port),
        ("10.0.0.1:8883".into(), 40_000)
    );
    assert_eq!(run.site.registry.table().unknown().len(), 1, "the plug is nobody's");
}

#[test]
fn a_sample_is_reused_until_it_is_old() {
    let mut run = Run::new(CAM_CONFIGURED);
    let age = Duration::from_secs(10);
    assert!(!run.site.flows_fresh(age, now(0).monotonic));
    run.sample(1, 0, false);
    assert!(
        !run.site.flows_fresh(age, now(1).monotonic),
        "without flows it is not enough"
    );
    run.sample(2, 0, true);
    assert!(run.site.flows_fresh(age, now(11).monotonic));
    assert!(!run.site.flows_fresh(age, now(12).monotonic));
    // Nothing local reports: nothing to wait for.
    let run = Run::new(r#"{devices: [{thingName: cam, macs: ["02:00:00:00:00:01"], report: false}]}"#);
    assert!(run.site.flows_fresh(age, now(99).monotonic));
}

#[test]
fn without_a_lan_nothing_is_asked_and_nothing_is_waited_for() {
    let mut run = Run::new(r#"{lan: {interfaces: []}, devices: [{thingName: cam, macs: ["02:00:00:00:00:01"]}]}"#);
    let ask = run.sample(1, 0, true);
    assert!(ask.macs.is_empty() && !ask.neighbours);
    assert!(run.site.filters().is_empty());
    let reading = run.site.reading(&name("cam"));
    assert!(
        reading.traffic.is_err() && reading.established.is_err(),
        "missing, not zero"
    );
    assert!(
        run.site.flows_fresh(Duration::from_secs(10), now(2).monotonic),
        "no second sample at once"
    );
}

#[test]
fn registrations_come_from_the_local_broker_and_bad_ones_are_listed() {
    let mut run = Run::new("{}");
    run.sample(1, 0, false);
    let good = br#"{"macs": ["02:00:00:00:00:02"]}"#;
    let topic = "edge-warden/things/plug/register";
    assert!(
        !run.site.message(Destination::IotCore, topic, good, now(2)),
        "the cloud registers nobody"
    );
    assert!(run.site.message(Destination::Local, topic, good, now(2)));
    assert!(
        run.site
            .message(Destination::Local, "edge-warden/things/a b/register", good, now(2))
    );
    assert!(run.site.message(Destination::Local, topic, b"{", now(2)));
    assert!(
        !run.site
            .message(Destination::Local, "edge-warden/core/violations", b"{}", now(2))
    );
    run.site.turn(now(3));
    let table = run.site.registry.table();
    assert_eq!(table.thing_of_mac(PLUG), Some(&name("plug")));
    let status = run.site.status();
    assert_eq!(status["registrations"]["taken"], 1);
    assert_eq!(status["registrations"]["refused"], 2);
    assert_eq!(status["registrations"]["lastRefused"].as_array().unwrap().len(), 2);
    // Counted from the next sample on, which is wanted soon.
    assert!(run.site.sample_due().is_some());
    assert_eq!(run.sample(4, 0, false).macs, [PLUG].into());
}

#[test]
fn attempts_count_from_one_report_to_the_next() {
    let mut run = Run::new(CAM_CONFIGURED);
    run.sample(1, 0, true);
    let ends = |source: &str, destination: &str| Endpoints {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
    };
    let attempt = Flow {
        transport: Transport::Tcp,
        original: ends("10.0.0.5:40000", "192.0.2.1:23"),
        reply: ends("192.0.2.1:23", "10.0.0.5:40000"),
        tcp_state: Some(TcpState::Opening),
        answered: false,
        assured: false,
    };
    let since = |run: &Run| {
        let devices = run.site.devices(|_| None, |_| None);
        let since = &devices["things"][0]["connections"]["sinceLastReport"];
        (since["begun"].as_u64().unwrap(), since["unanswered"].as_u64().unwrap())
    };
    run.tallies.note(&FlowEvent::New(attempt));
    run.tallies.note(&FlowEvent::Destroyed(attempt));
    assert_eq!(since(&run), (1, 1));
    run.site.reported(&name("cam"));
    assert_eq!(since(&run), (0, 0));
}

#[test]
fn a_new_configuration_takes_hold_at_once() {
    let mut run = Run::new(CAM_CONFIGURED);
    run.sample(1, 5, true);
    run.site.take_changed();
    let two = r#"{devices: [{thingName: plug, macs: ["02:00:00:00:00:02"]}], quarantine: {brokerPorts: [1883]}}"#;
    run.site.reconfigure(&config(two), now(2));
    assert!(run.site.take_changed());
    assert_eq!(run.site.reporting_things(), [name("plug")]);
    assert_eq!(run.site.lan().broker_ports, [1883].into());
    assert_eq!(run.sample(3, 0, true).macs, [PLUG].into());
}

#[test]
fn unknown_devices_are_listed_or_only_counted() {
    for (policy, listed) in [("report", 2), ("ignore", 0)] {
        let mut run = Run::new(&format!("{{discovery: {{unknownDevices: {policy}}}}}"));
        run.sample(1, 0, false);
        let devices = run.site.devices(|_| None, |_| None);
        assert_eq!(devices["unknown"].as_array().unwrap().len(), listed, "{policy}");
        assert_eq!(devices["moreUnknown"].as_u64().unwrap(), 2 - listed as u64, "{policy}");
    }
}

#[test]
fn only_changes_of_the_accounting_table_make_it_anew() {
    let mut run = Run::new(CAM_CONFIGURED);
    run.sample(1, 5, true);
    let change = |table: &str| Change::Table {
        family: firewall::Family::Bridge,
        table: table.to_owned(),
    };
    run.site.tables_changed(&[change("edge_warden")]);
    assert!(!run.sample(2, 5, false).distrust);
    run.site.tables_changed(&[change("edge_warden_acct")]);
    assert!(run.sample(3, 5, false).distrust);
    assert!(!run.sample(4, 5, false).distrust);
}
