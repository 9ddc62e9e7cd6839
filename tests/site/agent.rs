//! The agent at work in a site, and how to look at it and at the truth at the same time.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::binary;
use crate::support::site::{Host, LinkCounters, Options, PATIENCE, Site, until};

/// How long a state that must come about may take on a busy machine.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);
/// Reports so far apart that none is made but the core's first.
pub(super) const NEVER: u32 = 86_400;

/// The program, running in a site's gateway on the embedded stand-in.
pub(super) struct Agent {
    child: Child,
    dir: tempfile::TempDir,
    ns: String,
}

impl Agent {
    pub(super) fn start(site: &Site, config: &Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        std::fs::write(&file, config.to_string()).unwrap();
        let ns = site.gateway().ns.clone();
        let child = launch(&ns, dir.path());
        let agent = Self { child, dir, ns };
        agent.await_answer();
        agent
    }

    /// `kill -9`, and another process in its place.
    pub(super) fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = launch(&self.ns, self.dir.path());
        self.await_answer();
    }

    fn await_answer(&self) {
        let answers = || self.try_ask(&["status", "--json"]).is_some();
        assert!(until(DEADLINE, answers), "{}", self.log());
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.path().join("log")).unwrap_or_default()
    }

    /// What the command line prints, if it succeeds.
    pub(super) fn try_print(&self, arguments: &[&str]) -> Option<String> {
        let output = Command::new(binary::path())
            .args(arguments)
            .arg("--standalone")
            .arg(self.path())
            .output()
            .unwrap();
        output
            .status
            .success()
            .then(|| String::from_utf8(output.stdout).unwrap())
    }

    pub(super) fn print(&self, arguments: &[&str]) -> String {
        self.try_print(arguments)
            .unwrap_or_else(|| panic!("{arguments:?} failed\n{}", self.log()))
    }

    fn try_ask(&self, arguments: &[&str]) -> Option<Value> {
        self.try_print(arguments)
            .map(|text| serde_json::from_str(&text).unwrap())
    }

    pub(super) fn ask(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.print(arguments)).unwrap()
    }

    pub(super) fn status(&self) -> Value {
        self.ask(&["status", "--json"])
    }

    pub(super) fn devices(&self) -> Value {
        self.ask(&["devices", "--json"])
    }

    pub(super) fn thing(&self, name: &str) -> Value {
        row(&self.devices(), "things", "thing", name)
    }

    /// A device no source names.
    pub(super) fn unknown(&self, host: &Host) -> Value {
        row(&self.devices(), "unknown", "mac", &host.mac.to_string())
    }

    /// The thing's report as it would be now, which takes a sample.
    pub(super) fn report(&self, thing: &str) -> Value {
        self.ask(&["report", thing, "--format", "json"])
    }

    /// Waits for a state of one thing.
    pub(super) fn await_thing(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let came = until(DEADLINE, || {
            last = self.thing(name);
            holds(&last)
        });
        assert!(came, "{name}: {what}: {last:#}\n{:#}\n{}", self.devices(), self.log());
        last
    }

    /// Waits until each of these things is counted and its IPv4 address, if it is given, known.
    pub(super) fn await_known(&self, things: &[(&str, &Host)]) {
        for (name, host) in things {
            self.await_thing(name, "is counted and its address known", |row| {
                !row["traffic"].is_null() && has(row, "addresses", &host.v4.to_string())
            });
        }
    }

    /// (topic, payload) of everything published so far.
    pub(super) fn published(&self) -> Vec<(String, Value)> {
        let text = std::fs::read_to_string(self.path().join("published.jsonl")).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .map(|line| (line["topic"].as_str().unwrap().to_owned(), line["payload"].clone()))
            .collect()
    }

    /// The reports of one thing published so far.
    pub(super) fn reports(&self, thing: &str) -> Vec<Value> {
        let topic = format!("$aws/things/{thing}/defender/metrics/json");
        let published = self.published().into_iter();
        published
            .filter(|(to, _)| *to == topic)
            .map(|(_, report)| report)
            .collect()
    }

    /// The sum of a field of `network_stats` over all reports of one thing. A report whose acceptance was not heard is
    /// contained in the one after it too.
    pub(super) fn reported(&self, thing: &str, field: &str) -> u64 {
        sum(&self.reports(thing), field)
    }

    /// As [`Agent::reported`], of the reports alone that the agent knows to be accepted.
    pub(super) fn accepted(&self, thing: &str, field: &str) -> u64 {
        let log = self.log();
        let mut reports = self.reports(thing);
        reports.retain(|report| {
            let heard = format!("report accepted thing={thing} report={}", report["header"]["report_id"]);
            log.lines().any(|line| line.ends_with(&heard))
        });
        sum(&reports, field)
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

/// `edge-warden run` on the stand-in in `dir`, with the configuration there.
fn launch(ns: &str, dir: &Path) -> Child {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.join("log"));
    let log = log.unwrap();
    Command::new("ip")
        .args(["netns", "exec", ns])
        .arg(binary::path())
        .arg("run")
        .arg("--standalone")
        .arg(dir)
        .arg("--config")
        .arg(dir.join("config.json"))
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

fn sum(reports: &[Value], field: &str) -> u64 {
    let of = |report: &Value| report["metrics"]["network_stats"][field].as_u64();
    reports.iter().filter_map(of).sum()
}

fn row(devices: &Value, list: &str, key: &str, value: &str) -> Value {
    let rows = devices[list].as_array().unwrap();
    rows.iter()
        .find(|row| row[key] == value)
        .cloned()
        .unwrap_or(Value::Null)
}

/// Whether a list in a row has this text.
pub(super) fn has(row: &Value, key: &str, value: &str) -> bool {
    row[key]
        .as_array()
        .is_some_and(|all| all.iter().any(|one| one == value))
}

/// A site whose gateway has an uplink by route, so that the LAN is found by itself.
pub(super) fn site() -> Site {
    site_with(Options::default())
}

pub(super) fn site_with(options: Options) -> Site {
    let site = Site::build(options);
    site.gateway()
        .shell("ip route add default via 203.0.113.1; ip -6 route add default via 2001:db8::1");
    site
}

pub(super) fn names() -> Vec<String> {
    (0..4).map(|n| format!("cam-{n}")).collect()
}

/// Every device of the site configured as a thing of its own, observed only.
pub(super) fn config(site: &Site, interval: u32) -> Value {
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

/// Frames that reach a device's link and are not addressed to it (group frames, floods): its link counts them, its meter
/// does not. Counted by the device's own kernel.
pub(super) struct Others<'h>(&'h Host);

impl<'h> Others<'h> {
    pub(super) fn watch(host: &'h Host) -> Self {
        host.shell(
            "nft 'add table netdev others; add chain netdev others in { type filter hook ingress device eth0 priority 0; }; \
             add rule netdev others in meta pkttype != host counter'",
        );
        Self(host)
    }

    /// Frames and bytes.
    fn count(&self) -> (u64, u64) {
        let text = self.0.shell("nft list chain netdev others in");
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let after = |word: &str| -> u64 {
            let place = words.iter().position(|other| *other == word).unwrap();
            words[place + 1].parse().unwrap()
        };
        // The hook sees a frame without its Ethernet header.
        (after("packets"), after("bytes") + 14 * after("packets"))
    }
}

/// Bytes in, packets in, bytes out, packets out.
pub(super) type Volumes = [u64; 4];

/// Both truths of one device at one instant: what its own link counted, what was for others apart, and what the agent did.
#[derive(Debug, Clone, Copy)]
pub(super) struct Both {
    pub(super) link: Volumes,
    pub(super) metered: Volumes,
}

impl Both {
    /// Reads both, when nothing passed the link while the agent sampled.
    pub(super) fn read(agent: &Agent, device: &Host, thing: &str, others: &Others<'_>) -> Self {
        let mut found = None;
        let came = until(DEADLINE, || {
            let before = (device.link_counters("eth0"), others.count());
            agent.report(thing);
            let metered = volumes(&agent.thing(thing)["traffic"]);
            let after = (device.link_counters("eth0"), others.count());
            found = metered.map(|metered| Self {
                link: on_the_link(after.0, after.1),
                metered,
            });
            before == after && found.is_some()
        });
        assert!(came, "{thing}'s link never fell quiet");
        found.unwrap()
    }

    /// What was added since.
    pub(super) fn since(self, earlier: Self) -> Self {
        let grown = |now: Volumes, then: Volumes| [0, 1, 2, 3].map(|n| now[n] - then[n]);
        Self {
            link: grown(self.link, earlier.link),
            metered: grown(self.metered, earlier.metered),
        }
    }
}

fn on_the_link(link: LinkCounters, others: (u64, u64)) -> Volumes {
    [
        link.bytes_in - others.1,
        link.packets_in - others.0,
        link.bytes_out,
        link.packets_out,
    ]
}

/// `traffic` of a row of `devices`, if it was counted.
pub(super) fn volumes(traffic: &Value) -> Option<Volumes> {
    let of = |key: &str| traffic[key].as_u64();
    Some([of("bytesIn")?, of("packetsIn")?, of("bytesOut")?, of("packetsOut")?])
}

/// Sends so many bytes to an echo service over TCP, has them sent back, and closes.
pub(super) fn exchange(from: &Host, to: IpAddr, port: u16, bytes: usize) {
    let mut stream = from
        .connect(to, port, PATIENCE)
        .unwrap_or_else(|| panic!("{} -> {to}:{port}", from.ns));
    let mut writing = stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || writing.write_all(&vec![7; bytes]).unwrap());
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.read_exact(&mut vec![0; bytes]).unwrap();
    sender.join().unwrap();
}

/// What a report says of TCP connections: the other end and the thing's port.
pub(super) fn connections(report: &Value) -> BTreeSet<(SocketAddr, u16)> {
    let list = &report["metrics"]["tcp_connections"]["established_connections"]["connections"];
    let list = list
        .as_array()
        .unwrap_or_else(|| panic!("no connections in {report:#}"));
    list.iter()
        .map(|c| {
            let port = u16::try_from(c["local_port"].as_u64().unwrap()).unwrap();
            (c["remote_addr"].as_str().unwrap().parse().unwrap(), port)
        })
        .collect()
}

/// A connection from the point of view of who opened it.
pub(super) fn seen_by(stream: &TcpStream) -> (SocketAddr, u16) {
    (stream.peer_addr().unwrap(), stream.local_addr().unwrap().port())
}

/// The ports a report lists for `tcp` or `udp`.
pub(super) fn ports(report: &Value, transport: &str) -> BTreeSet<u16> {
    let list = report["metrics"][format!("listening_{transport}_ports")]["ports"].as_array();
    list.unwrap_or_else(|| panic!("no {transport} ports in {report:#}"))
        .iter()
        .map(|p| u16::try_from(p["port"].as_u64().unwrap()).unwrap())
        .collect()
}
