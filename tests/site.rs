//! The shipped program in the gateway of a site in network namespaces, with real devices and traffic. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may stop at the first surprise"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use support::site::{BROKER, Capture, Host, LinkCounters, Options, PATIENCE, Site, until};

/// How long a state that must come about may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);
/// Reports so far apart that none is made but the core's first.
const NEVER: u32 = 86_400;

/// The program, running in a site's gateway.
struct Agent {
    child: Child,
    dir: tempfile::TempDir,
}

impl Agent {
    fn start(site: &Site, config: &Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        std::fs::write(&file, config.to_string()).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", &site.gateway().ns, env!("CARGO_BIN_EXE_edge-warden")])
            .arg("run")
            .arg("--standalone")
            .arg(dir.path())
            .arg("--config")
            .arg(&file)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let agent = Self { child, dir };
        assert!(
            until(DEADLINE, || agent.try_ask(&["status", "--json"]).is_some()),
            "{}",
            agent.log()
        );
        agent
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path().join("log")).unwrap_or_default()
    }

    fn try_ask(&self, arguments: &[&str]) -> Option<Value> {
        let output = Command::new(env!("CARGO_BIN_EXE_edge-warden"))
            .args(arguments)
            .arg("--standalone")
            .arg(self.path())
            .output()
            .unwrap();
        output
            .status
            .success()
            .then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    fn ask(&self, arguments: &[&str]) -> Value {
        self.try_ask(arguments)
            .unwrap_or_else(|| panic!("{arguments:?} failed\n{}", self.log()))
    }

    fn status(&self) -> Value {
        self.ask(&["status", "--json"])
    }

    fn devices(&self) -> Value {
        self.ask(&["devices", "--json"])
    }

    fn thing(&self, name: &str) -> Value {
        let devices = self.devices();
        let things = devices["things"].as_array().unwrap();
        things
            .iter()
            .find(|row| row["thing"] == name)
            .cloned()
            .unwrap_or(Value::Null)
    }

    fn report(&self, thing: &str) -> Value {
        self.ask(&["report", thing, "--format", "json"])
    }

    /// Waits for a state of one thing.
    fn await_thing(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let came = until(DEADLINE, || {
            last = self.thing(name);
            holds(&last)
        });
        assert!(came, "{name}: {what}: {last:#}\n{}\n{}", self.devices(), self.log());
        last
    }

    /// (topic, payload) of everything published so far.
    fn published(&self) -> Vec<(String, Value)> {
        let text = std::fs::read_to_string(self.path().join("published.jsonl")).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .map(|line| (line["topic"].as_str().unwrap().to_owned(), line["payload"].clone()))
            .collect()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// A site whose gateway has an uplink by route, so that the LAN is found by itself.
fn site() -> Site {
    let site = Site::build(Options::default());
    site.gateway()
        .shell("ip route add default via 203.0.113.1; ip -6 route add default via 2001:db8::1");
    site
}

fn names() -> Vec<String> {
    (0..4).map(|n| format!("cam-{n}")).collect()
}

fn config(site: &Site, interval: u32) -> Value {
    let devices: Vec<Value> = names()
        .iter()
        .enumerate()
        .map(|(n, name)| json!({"thingName": name, "macs": [site.device(n).mac.to_string()]}))
        .collect();
    json!({
        "sampleSeconds": 1,
        "report": {"intervalSeconds": interval},
        "devices": devices,
        "quarantine": {"enforcement": "observe"},
    })
}

/// Group frames that reach a device: its link counts them, its meter does not.
struct Group {
    capture: Capture,
    bytes: Arc<AtomicU64>,
}

impl Group {
    fn watch(host: &Host) -> Self {
        let bytes = Arc::new(AtomicU64::new(0));
        let adding = Arc::clone(&bytes);
        let capture = host.capture("eth0", move |frame| {
            let group = frame[0] & 1 == 1;
            if group {
                adding.fetch_add(frame.len() as u64, Ordering::SeqCst);
            }
            group
        });
        Self { capture, bytes }
    }

    /// Frames and bytes.
    fn count(&self) -> (u64, u64) {
        (self.capture.count(), self.bytes.load(Ordering::SeqCst))
    }
}

/// Both truths at one instant: nothing passed the device's link while the agent sampled twice.
fn quiet(agent: &Agent, device: &Host, name: &str, group: &Group) -> (LinkCounters, (u64, u64), Value) {
    let mut found = None;
    let came = until(DEADLINE, || {
        let before = (device.link_counters("eth0"), group.count());
        let samples = agent.status()["samples"].as_u64().unwrap();
        assert!(until(DEADLINE, || agent.status()["samples"].as_u64().unwrap() >= samples + 2));
        let thing = agent.thing(name);
        let after = (device.link_counters("eth0"), group.count());
        found = Some((after.0, after.1, thing["traffic"].clone()));
        before == after
    });
    assert!(came, "{name}'s link never fell quiet");
    found.unwrap()
}

fn exchange(from: &Host, to: IpAddr, port: u16, bytes: usize) {
    let mut stream = from
        .connect(to, port, PATIENCE)
        .unwrap_or_else(|| panic!("{} -> {to}:{port}", from.ns));
    let mut writing = stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || writing.write_all(&vec![7; bytes]).unwrap());
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.read_exact(&mut vec![0; bytes]).unwrap();
    sender.join().unwrap();
}

/// What a report says of TCP connections: remote address to local port.
fn connections(report: &Value) -> BTreeSet<(String, u16)> {
    let list = &report["metrics"]["tcp_connections"]["established_connections"]["connections"];
    let list = list
        .as_array()
        .unwrap_or_else(|| panic!("no connections in {report:#}"));
    list.iter()
        .map(|c| {
            let port = u16::try_from(c["local_port"].as_u64().unwrap()).unwrap();
            (c["remote_addr"].as_str().unwrap().to_owned(), port)
        })
        .collect()
}

fn seen_by(stream: &TcpStream) -> (String, u16) {
    (
        stream.peer_addr().unwrap().to_string(),
        stream.local_addr().unwrap().port(),
    )
}

fn ports(report: &Value, kind: &str) -> BTreeSet<u64> {
    let list = report["metrics"][format!("listening_{kind}_ports")]["ports"].as_array();
    list.into_iter()
        .flatten()
        .map(|p| p["port"].as_u64().unwrap())
        .collect()
}

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
    let watched: Vec<(usize, Group)> = [0, 1, 3].map(|n| (n, Group::watch(site.device(n)))).into();
    let snapshot = |(n, group): &(usize, Group)| quiet(&agent, site.device(*n), &format!("cam-{n}"), group);
    let before: Vec<_> = watched.iter().map(snapshot).collect();

    for to in [IpAddr::from(internet.v4), internet.v6.into()] {
        exchange(d0, to, 7000, 200_000);
        assert!(d0.udp(to, 7000, 4000, PATIENCE), "fragments too");
        assert!(d0.ping(to));
        exchange(d3, to, 7000, 50_000);
    }
    exchange(d0, d1.v4.into(), 7000, 30_000);
    exchange(d0, site.gateway().v4.into(), BROKER, 20_000);

    for (watch, (link, group, metered)) in watched.iter().zip(before) {
        let (link_after, group_after, metered_after) = snapshot(watch);
        let grown = |key: &str| metered_after[key].as_u64().unwrap() - metered[key].as_u64().unwrap();
        let metered = [
            grown("bytesIn"),
            grown("packetsIn"),
            grown("bytesOut"),
            grown("packetsOut"),
        ];
        let truth = [
            link_after.bytes_in - link.bytes_in - (group_after.1 - group.1),
            link_after.packets_in - link.packets_in - (group_after.0 - group.0),
            link_after.bytes_out - link.bytes_out,
            link_after.packets_out - link.packets_out,
        ];
        assert_eq!(metered, truth, "cam-{}", watch.0);
        assert!(truth[0] > 20_000 && truth[2] > 20_000, "there was traffic: {truth:?}");
    }
}

#[test]
fn connections_answered_ports_and_short_attempts_are_seen() {
    let site = site();
    let agent = Agent::start(&site, &config(&site, NEVER));
    let (d0, d3, internet) = (site.device(0), site.device(3), site.internet());
    agent.await_thing("cam-3", "is counted and its address known", |row| {
        !row["traffic"].is_null()
            && row["addresses"]
                .as_array()
                .unwrap()
                .iter()
                .any(|a| *a == d3.v4.to_string())
    });
    agent.await_thing("cam-0", "has its addresses", |row| {
        row["addresses"]
            .as_array()
            .unwrap()
            .iter()
            .any(|a| *a == d0.v4.to_string())
    });
    let _services = [internet.echo(7000), d3.echo(9000), site.gateway().echo(BROKER)];
    let broker = d0.connect(site.gateway().v4.into(), BROKER, PATIENCE).unwrap();
    let routed = d0.connect(internet.v4.into(), 7000, PATIENCE).unwrap();
    let routed6 = d0.connect(internet.v6.into(), 7000, PATIENCE).unwrap();
    let inbound = internet.connect(d3.v6.into(), 9000, PATIENCE).unwrap();
    let report = agent.report("cam-0");
    let wanted: BTreeSet<_> = [&broker, &routed, &routed6].map(seen_by).into();
    assert_eq!(connections(&report), wanted, "{report:#}");
    let report = agent.report("cam-3");
    let from = inbound.local_addr().unwrap().to_string();
    assert_eq!(connections(&report), [(from, 9000)].into(), "{report:#}");
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
    drop((broker, routed, routed6, inbound));
}

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

#[test]
fn leases_moves_conflicts_and_strangers_are_shown() {
    let site = site();
    let leases: PathBuf = site.leases();
    let (d0, d1, d2) = (site.device(0), site.device(1), site.device(2));
    let lease = |host: &Host, address: &str, name: &str| format!("4000000000 {} {address} {name} *\n", host.mac);
    std::fs::write(&leases, lease(d0, &d0.v4.to_string(), "cam-0")).unwrap();
    let config = json!({
        "sampleSeconds": 1,
        "report": {"intervalSeconds": NEVER},
        "devices": [{"thingName": "plug", "macs": [d1.mac.to_string()]}],
        "discovery": {"leases": [{"path": leases}]},
        "quarantine": {"enforcement": "observe"},
    });
    let agent = Agent::start(&site, &config);
    let has = |row: &Value, key: &str, value: &str| {
        row[key]
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one == value))
    };
    let row = agent.await_thing("cam-0", "is named by its lease", |row| {
        has(row, "addresses", &d0.v4.to_string())
    });
    assert_eq!(row["source"], "lease");
    assert_eq!(row["interface"], "br0");

    // Unknown: device 2 and the one behind lan3.
    let unknown = |agent: &Agent| -> BTreeSet<String> {
        let devices = agent.devices();
        let rows = devices["unknown"].as_array().unwrap().clone();
        rows.iter().map(|row| row["mac"].as_str().unwrap().to_owned()).collect()
    };
    let strangers: BTreeSet<String> = [2, 3].map(|n| site.device(n).mac.to_string()).into();
    assert!(
        until(DEADLINE, || unknown(&agent) == strangers),
        "{:#}",
        agent.devices()
    );

    // Renewal with a new address.
    d0.shell("ip addr del 10.20.0.10/24 dev eth0; ip addr add 10.20.0.77/24 dev eth0; ip route replace default via 10.20.0.1");
    std::fs::write(&leases, lease(d0, "10.20.0.77", "cam-0")).unwrap();
    assert!(d0.ping(site.gateway().v4.into()));
    agent.await_thing("cam-0", "has the renewed address", |row| {
        has(row, "addresses", "10.20.0.77")
    });

    // A second device with the hostname of a thing only leases name: the thing has both, in conflict.
    let both = lease(d0, "10.20.0.77", "cam-0") + &lease(d2, &d2.v4.to_string(), "cam-0");
    std::fs::write(&leases, both).unwrap();
    let row = agent.await_thing("cam-0", "has two MAC addresses", |row| {
        has(row, "macs", &d2.mac.to_string())
    });
    assert!(
        has(&row, "macs", &d0.mac.to_string()) && has(&row, "marks", "conflict"),
        "{row:#}"
    );

    // A configured thing's name taken in a DHCP request: not believed, and said.
    let taken = lease(d0, "10.20.0.77", "cam-0") + &lease(d2, &d2.v4.to_string(), "plug");
    std::fs::write(&leases, taken).unwrap();
    let row = agent.await_thing("plug", "is in conflict", |row| has(row, "marks", "conflict"));
    assert_eq!(row["macs"], json!([d1.mac.to_string()]), "{row:#}");
    let row = agent.await_thing("cam-0", "is in no conflict any more", |row| {
        !has(row, "marks", "conflict")
    });
    assert_eq!(row["macs"], json!([d0.mac.to_string()]), "{row:#}");
    // Its reports go on, with what is counted for it.
    assert!(agent.report("cam-0")["metrics"]["network_stats"].is_object());
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
