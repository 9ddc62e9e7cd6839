//! Detection in the agent's loop, with a nucleus, a gateway, devices and a clock of the test's own: which events go
//! where, in which order, what is kept, and what is done. Time passes only when a scenario says so.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::needless_pass_by_value,
    clippy::disallowed_methods,
    reason = "tests: the first surprise ends them, in helpers too, and their deadlines are real time"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use edge_warden::agent::clock::Clock;
use edge_warden::agent::host::HostSource;
use edge_warden::agent::site::source::{FlowTable, SiteAsk, SiteSample, SiteSource};
use edge_warden::agent::site::{FlowTallies, lan};
use edge_warden::agent::warden::Warden;
use edge_warden::agent::{self, Ended, Parts, detecting};
use edge_warden::collect::conntrack::{Endpoints, Flow, TcpState, Transport, Usage};
use edge_warden::collect::{HostSample, Interface, InterfaceAddress, Socket, SocketState, SocketTable};
use edge_warden::config::{Mode, load_component};
use edge_warden::control::{Answer, Asked, Request};
use edge_warden::detect::{Sample, replay};
use edge_warden::firewall::Traffic;
use edge_warden::greengrass::link::{NucleusEvent, NucleusLink};
use edge_warden::greengrass::{
    ComponentState, Destination, Incoming, IncomingSender, Nucleus, NucleusError, NucleusKind, SubscriptionId,
};
use edge_warden::model::{Counters, MacAddress, Missing, Monotonic, Now, Reason, ThingName, UnixTime};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

const SOON: Duration = Duration::from_secs(60);
const TOPIC: &str = "edge-warden/gateway-1/violations";
const CAM: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
const PLUG: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);

/// Everything outside the agent.
struct Outside {
    /// Events, in the order the nucleus took them.
    events: Vec<(Destination, Value)>,
    online: bool,
    configuration: Value,
    now: Duration,
    wall: u64,
    /// Bytes sent by each device; a packet for each hundred. `None`: counting fails.
    sent: Option<BTreeMap<MacAddress, u64>>,
    /// Remote addresses of connections of the camera.
    remotes: Vec<&'static str>,
    /// TCP ports the gateway listens on.
    ports: Vec<u16>,
    /// Whether the last sample was to bring the table of flows.
    flows_asked: bool,
    incoming: Option<IncomingSender>,
}

/// The outside, shared with the agent's threads.
#[derive(Clone)]
struct World(Arc<Mutex<Outside>>);

impl World {
    fn new(profiles: Value) -> Self {
        Self(Arc::new(Mutex::new(Outside {
            events: Vec::new(),
            online: true,
            configuration: configuration(profiles),
            now: Duration::from_secs(5_000),
            wall: 1_700_000_000_000,
            sent: Some(BTreeMap::new()),
            remotes: Vec::new(),
            ports: Vec::new(),
            flows_asked: false,
            incoming: None,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Outside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A device sends.
    fn send(&self, mac: MacAddress, bytes: u64) {
        if let Some(sent) = &mut self.lock().sent {
            *sent.entry(mac).or_default() += bytes;
        }
    }

    fn configure(&self, configuration: Value) {
        let mut outside = self.lock();
        outside.configuration = configuration;
        let incoming = outside.incoming.clone().unwrap();
        drop(outside);
        incoming(Incoming::ConfigurationChanged);
    }

    /// The bodies that arrived in the cloud.
    fn cloud(&self) -> Vec<Value> {
        let outside = self.lock();
        let events = outside.events.iter();
        events
            .filter(|(to, _)| *to == Destination::IotCore)
            .map(|(_, body)| body.clone())
            .collect()
    }
}

/// Two devices, no reports of theirs, no shadows, nothing enforced: the kernel is not asked.
fn configuration(profiles: Value) -> Value {
    json!({
        "devices": [
            {"thingName": "cam-1", "macs": [CAM.to_string()], "addresses": ["10.0.0.5"], "report": false},
            {"thingName": "plug-1", "macs": [PLUG.to_string()], "addresses": ["10.0.0.6"], "report": false},
        ],
        "lan": {"interfaces": ["br0"]},
        "report": {"core": false},
        "discovery": {"registration": false, "unknownDevices": "ignore"},
        "quarantine": {"enforcement": "observe", "shadow": {"classic": false, "named": ""}},
        "detect": {"profiles": profiles},
    })
}

/// A profile with one behavior.
fn profile(name: &str, metric: &str, criteria: Value) -> Value {
    json!({
        "securityProfileName": name,
        "behaviors": [{"name": format!("{name}Normal"), "metric": metric, "criteria": criteria}],
    })
}

/// At most 1,000 bytes out in 5 minutes; one whole quiet window clears.
fn bytes_out() -> Value {
    let criteria = json!({"comparisonOperator": "less-than-equals", "value": {"count": 1000}, "durationSeconds": 300,
        "consecutiveDatapointsToAlarm": 1, "consecutiveDatapointsToClear": 1});
    profile("Exfiltration", "aws:all-bytes-out", criteria)
}

/// No telnet on the gateway.
fn no_telnet() -> Value {
    let criteria = json!({"comparisonOperator": "not-in-port-set", "value": {"ports": [23]}});
    profile("NoTelnet", "aws:listening-tcp-ports", criteria)
}

#[derive(Clone)]
struct TestClock(World);

impl Clock for TestClock {
    fn monotonic(&self) -> Monotonic {
        Monotonic(self.0.lock().now)
    }

    fn wall(&self) -> UnixTime {
        UnixTime(self.0.lock().wall)
    }

    fn real(&self, _: Duration) -> Duration {
        Duration::ZERO
    }
}

struct TestHost(World);

impl HostSource for TestHost {
    fn collect(&mut self) -> HostSample {
        let ports = self.0.lock().ports.clone();
        let unspecified = "0.0.0.0".parse().unwrap();
        let listening = |port: &u16| Socket {
            state: SocketState::Listening,
            remote: unspecified,
            remote_port: 0,
            local_port: *port,
            local: unspecified,
            bound_to: 0,
        };
        HostSample {
            interfaces: Ok(vec![Interface {
                index: 1,
                name: "br0".to_owned(),
                loopback: false,
                up: Some(true),
                master: None,
                parent: None,
                kind: Some("bridge".to_owned()),
                mac: Some(MacAddress([2, 0, 0, 0, 0, 0xfe])),
                addresses: Some(vec![InterfaceAddress {
                    address: "10.0.0.1".parse().unwrap(),
                    prefix_length: 24,
                }]),
                default_route: Some(false),
                counters: Counters::default(),
            }]),
            sockets: SocketTable {
                tcp: Ok(ports.iter().map(listening).collect()),
                udp: Ok(Vec::new()),
            },
            boot_id: Ok("boot".to_owned()),
            notes: Vec::new(),
        }
    }
}

struct TestSite(World, Arc<FlowTallies>);

impl SiteSource for TestSite {
    fn collect(&mut self, host: &HostSample, ask: &SiteAsk) -> SiteSample {
        let mut outside = self.0.lock();
        outside.flows_asked = ask.flows.is_some();
        let counters = |sent: &BTreeMap<MacAddress, u64>, mac: &MacAddress| {
            let bytes_out = sent.get(mac).copied().unwrap_or_default();
            Counters {
                bytes_out,
                packets_out: bytes_out / 100,
                ..Counters::default()
            }
        };
        let traffic = outside.sent.as_ref().map(|sent| Traffic {
            devices: ask.macs.iter().map(|mac| (*mac, counters(sent, mac))).collect(),
            generation: 1,
            ..Traffic::default()
        });
        let table = |identities: &edge_warden::devices::IdentityTable| {
            let mut table = FlowTable::default();
            for (index, remote) in outside.remotes.iter().enumerate() {
                let source = format!("10.0.0.5:{}", 40_000 + index).parse().unwrap();
                let destination = format!("{remote}:443").parse().unwrap();
                let flow = Flow {
                    transport: Transport::Tcp,
                    original: Endpoints { source, destination },
                    reply: Endpoints {
                        source: destination,
                        destination: source,
                    },
                    tcp_state: Some(TcpState::Established),
                    answered: true,
                    assured: true,
                };
                table.connections.add(&flow, |ip| identities.thing_of_ip(ip));
            }
            table
        };
        SiteSample {
            lan: lan::find(host, &ask.lan),
            neighbours: None,
            leases: Vec::new(),
            traffic: traffic.ok_or_else(|| Missing::new("test", Reason::Denied, "not now")),
            tracking: Ok(()),
            flows: ask.flows.as_deref().map(|identities| Ok(table(identities))),
            usage: Ok(Usage { count: 1, max: 10 }),
            events: Ok(()),
        }
    }

    fn own_port(&self) -> Option<u32> {
        None
    }

    fn tallies(&self) -> Arc<FlowTallies> {
        Arc::clone(&self.1)
    }
}

struct TestNucleus(World);

fn unsupported<T>(what: &str) -> Result<T, NucleusError> {
    Err(NucleusError::Unsupported { what: what.to_owned() })
}

impl Nucleus for TestNucleus {
    fn kind(&self) -> NucleusKind {
        NucleusKind::Classic
    }

    fn thing_name(&self) -> Result<ThingName, NucleusError> {
        Ok("gateway-1".parse().unwrap())
    }

    fn configuration(&mut self) -> Result<Value, NucleusError> {
        Ok(self.0.lock().configuration.clone())
    }

    fn watch_configuration(&mut self) -> Result<(), NucleusError> {
        Ok(())
    }

    fn publish(&mut self, to: Destination, topic: &str, payload: &[u8]) -> Result<(), NucleusError> {
        assert_eq!(topic, TOPIC, "nothing else is to be published here");
        let mut outside = self.0.lock();
        if to == Destination::IotCore && !outside.online {
            return Err(NucleusError::Failed {
                what: format!("publish {topic}"),
                detail: "offline".to_owned(),
            });
        }
        outside.events.push((to, serde_json::from_slice(payload).unwrap()));
        Ok(())
    }

    fn subscribe(&mut self, _: Destination, filter: &str) -> Result<SubscriptionId, NucleusError> {
        panic!("{filter}: nothing is to be subscribed here");
    }

    fn unsubscribe(&mut self, _: SubscriptionId) {}

    fn update_state(&mut self, _: ComponentState) -> Result<(), NucleusError> {
        Ok(())
    }

    fn thing_shadow(&mut self, _: &ThingName, _: Option<&str>) -> Result<Vec<u8>, NucleusError> {
        unsupported("GetThingShadow")
    }

    fn update_thing_shadow(&mut self, _: &ThingName, _: Option<&str>, _: &[u8]) -> Result<(), NucleusError> {
        unsupported("UpdateThingShadow")
    }
}

/// A running agent.
struct Running {
    world: World,
    thread: Option<JoinHandle<Ended>>,
    stop: Option<oneshot::Sender<()>>,
    questions: mpsc::Sender<Asked>,
}

impl Running {
    /// Starts the agent with its state in `dir`, and waits for its first sample.
    fn start(world: &World, dir: &Path) -> Self {
        let (questions, asked) = mpsc::channel(4);
        let (stop, stopped) = oneshot::channel();
        let (own, dir) = (world.clone(), dir.to_owned());
        let thread = std::thread::spawn(move || {
            let world = own;
            let nucleus_world = world.clone();
            let (link, mut events) = NucleusLink::spawn(move |incoming| {
                nucleus_world.lock().incoming = Some(incoming);
                Ok(Box::new(TestNucleus(nucleus_world)) as Box<dyn Nucleus>)
            })
            .unwrap();
            let Some(NucleusEvent::Ready { kind, core }) = events.blocking_recv() else {
                panic!("not ready")
            };
            let configuration = world.lock().configuration.clone();
            let config = load_component(configuration, &dir, Mode::Greengrass).unwrap();
            let (_reload, reloads) = mpsc::channel(1);
            let clock = TestClock(world.clone());
            let sample = TestHost(world.clone()).collect();
            let now = Now {
                monotonic: clock.monotonic(),
                wall: clock.wall(),
            };
            let parts = Parts {
                warden: Warden::begin(&config, &core, &dir, "boot", &sample, now).unwrap(),
                clock,
                sample,
                link,
                events,
                host: Box::new(TestHost(world.clone())),
                site: Box::new(TestSite(world, Arc::default())),
                questions: asked,
                reloads,
                core,
                kind,
                mode: Mode::Greengrass,
                config,
                config_error: None,
                boot_id: "boot".to_owned(),
                state_dir: dir.clone(),
                include_dir: dir.clone(),
                last_good_config: None,
                privileges: None,
                helper: None,
                stop_after_reports: None,
                set_log_level: Box::new(|_| {}),
            };
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(agent::run(parts, async { drop(stopped.await) }))
        });
        let running = Self {
            world: world.clone(),
            thread: Some(thread),
            stop: Some(stop),
            questions,
        };
        running.settle();
        running
    }

    fn ask(&self, request: Request) -> Value {
        let (reply, answer) = oneshot::channel();
        let who = "uid 0".to_owned();
        self.questions.blocking_send(Asked { request, who, reply }).unwrap();
        match answer.blocking_recv().unwrap() {
            Answer::Ok(value) => value,
            Answer::Error(error) => panic!("{error}"),
        }
    }

    fn status(&self) -> Value {
        self.ask(Request::Status)
    }

    fn alarms(&self) -> Value {
        self.ask(Request::Alarms)
    }

    /// Asks for the status until it is as wanted.
    fn wait_status(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + SOON;
        loop {
            let status = self.status();
            if wanted(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "never: {what}; instead {status:#}");
        }
    }

    /// Waits until a sample of now was judged, and its events are on their way.
    fn settle(&self) {
        let wall = self.world.lock().wall;
        self.wait_status("a sample of now", |status| {
            let detect = &status["detect"];
            detect["profiles"].as_array().unwrap().is_empty() || detect["lastSample"] == wall
        });
    }

    /// One sample later.
    fn step(&self) {
        {
            let mut outside = self.world.lock();
            outside.now += Duration::from_secs(10);
            outside.wall += 10_000;
        }
        self.settle();
    }

    /// So many samples later.
    fn steps(&self, samples: usize) {
        (0..samples).for_each(|_| self.step());
    }

    /// Waits for the `count`th event in the cloud and returns all.
    fn events(&self, count: usize) -> Vec<Value> {
        let deadline = Instant::now() + SOON;
        loop {
            let events = self.world.cloud();
            // what the agent knows to be sent is not sent again
            if events.len() >= count && self.status()["detect"]["events"]["waiting"] == 0 {
                return events;
            }
            assert!(
                Instant::now() < deadline,
                "only {events:#?}; {:#}",
                self.status()["detect"]
            );
            std::thread::yield_now();
        }
    }

    fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        assert_eq!(self.thread.take().unwrap().join().unwrap(), Ended::Stopped);
    }
}

fn start(profiles: Value) -> (World, tempfile::TempDir, Running) {
    let (world, dir) = (World::new(profiles), tempfile::tempdir().unwrap());
    let running = Running::start(&world, dir.path());
    (world, dir, running)
}

/// Thing, profile and type of events, in order.
fn told(events: &[Value]) -> Vec<String> {
    let text = |event: &Value, key: &str| event[key].as_str().unwrap().to_owned();
    let words = |event: &Value| {
        let keys = ["thingName", "securityProfileName", "violationEventType"];
        keys.map(|key| text(event, key)).join(" ")
    };
    events.iter().map(words).collect()
}

#[test]
fn an_alarm_begins_and_ends_in_awss_words_for_the_cloud_and_for_other_components() {
    let (world, _dir, agent) = start(json!([bytes_out()]));
    agent.step(); // the first sample has nothing to compare with
    world.send(PLUG, 900);
    world.send(CAM, 5_000);
    agent.step();
    let begun = agent.events(1).remove(0);
    let keys: Vec<&str> = begun.as_object().unwrap().keys().map(String::as_str).collect();
    // in the order of AWS's own sample
    assert_eq!(
        keys,
        [
            "violationEventTime",
            "thingName",
            "behavior",
            "violationEventType",
            "metricValue",
            "violationId",
            "securityProfileName"
        ]
    );
    assert_eq!(begun["violationEventTime"], world.lock().wall);
    assert_eq!(begun["metricValue"], json!({"count": 5_000}));
    assert_eq!(begun["behavior"]["criteria"]["value"], json!({"count": 1000}));
    assert_eq!(told(std::slice::from_ref(&begun)), ["cam-1 Exfiltration in-alarm"]);

    let alarms = agent.alarms();
    let active = &alarms["active"][0];
    assert_eq!(active["thingName"], "cam-1");
    assert_eq!(active["violationId"], begun["violationId"]);
    assert_eq!(active["since"], begun["violationEventTime"]);
    assert_eq!(active["lastValue"], json!({"count": 5_000}));
    assert_eq!(active["windowSeconds"], 300);
    assert_eq!(active["done"], "event sent");
    assert_eq!(alarms["active"].as_array().unwrap().len(), 1);

    agent.steps(70); // more than two windows of quiet
    let ended = agent.events(2).remove(1);
    assert_eq!(told(std::slice::from_ref(&ended)), ["cam-1 Exfiltration alarm-cleared"]);
    assert_eq!(ended["violationId"], begun["violationId"], "one violation, one id");
    assert_eq!(ended["metricValue"], json!({"count": 0}));
    let alarms = agent.alarms();
    assert_eq!(alarms["active"], json!([]));
    assert_eq!(alarms["recent"][0]["state"], "cleared");
    assert_eq!(alarms["recent"][0]["until"], ended["violationEventTime"]);
    assert_eq!(alarms["recent"][0]["done"], "event sent");
    agent.stop();
    let events = world.lock().events.clone();
    let local: Vec<Value> = events
        .iter()
        .filter(|(to, _)| *to == Destination::Local)
        .map(|(_, body)| body.clone())
        .collect();
    assert_eq!(local, [begun, ended], "the same on local publish/subscribe");
}

#[test]
fn events_wait_for_the_cloud_over_a_restart_and_arrive_in_order() {
    let (world, dir, agent) = start(json!([bytes_out(), no_telnet()]));
    agent.step();
    world.lock().online = false;
    world.send(CAM, 5_000);
    agent.step();
    world.lock().ports = vec![22, 23];
    agent.step();
    let status = agent.wait_status("two events wait", |status| status["detect"]["events"]["waiting"] == 2);
    assert!(
        status["detect"]["events"]["error"]
            .as_str()
            .unwrap()
            .contains("offline")
    );
    agent.stop();
    let agent = Running::start(&world, dir.path());
    world.lock().ports = vec![22];
    agent.step();
    agent.wait_status("three events wait", |status| status["detect"]["events"]["waiting"] == 3);
    assert_eq!(world.cloud(), [Value::Null; 0]);
    let outage = world.lock().wall;
    world.lock().online = true;
    agent.steps(6); // the longest wait between tries is a minute
    let events = agent.events(3);
    assert_eq!(
        told(&events),
        [
            "cam-1 Exfiltration in-alarm",
            "gateway-1 NoTelnet in-alarm",
            "gateway-1 NoTelnet alarm-cleared"
        ]
    );
    assert!(
        events
            .iter()
            .all(|event| event["violationEventTime"].as_u64().unwrap() <= outage),
        "the times are those of what happened"
    );
    // What was sent is not sent again.
    agent.stop();
    let agent = Running::start(&world, dir.path());
    agent.steps(2);
    assert_eq!(world.cloud().len(), 3);
    agent.stop();
}

#[test]
fn alarms_outlast_a_restart_and_damage_is_said() {
    let (world, dir, agent) = start(json!([no_telnet()]));
    world.lock().ports = vec![23];
    agent.step();
    let begun = agent.events(1).remove(0);
    agent.stop();

    let agent = Running::start(&world, dir.path());
    let alarms = agent.alarms();
    assert_eq!(alarms["active"][0]["violationId"], begun["violationId"]);
    assert_eq!(alarms["active"][0]["since"], begun["violationEventTime"]);
    agent.step();
    assert_eq!(world.cloud().len(), 1, "it is the same alarm, not a new one");
    world.lock().ports = vec![];
    agent.step();
    let ended = agent.events(2).remove(1);
    assert_eq!(ended["violationEventType"], "alarm-cleared");
    assert_eq!(ended["violationId"], begun["violationId"]);
    agent.stop();

    std::fs::write(dir.path().join("alarms.json"), "{\"schema\": 1, ").unwrap();
    let agent = Running::start(&world, dir.path());
    let status = agent.status();
    let said = status["detect"]["trouble"]["alarms kept"].as_str().unwrap();
    assert!(said.contains("alarms.json"), "{said}");
    world.lock().ports = vec![23];
    agent.step();
    assert_eq!(
        agent.events(3)[2]["violationEventType"],
        "in-alarm",
        "and detection goes on"
    );
    agent.stop();
}

#[test]
fn a_crash_between_the_alarm_and_its_event_loses_neither() {
    let (world, dir, agent) = start(json!([no_telnet()]));
    let alarms = dir.path().join("alarms.json");
    agent.step(); // the first sample saves once more than its events do
    world.lock().ports = vec![23];
    agent.step();
    let begun = agent.events(1).remove(0);
    let crashed = std::fs::read(&alarms).unwrap();
    agent.stop();

    // What the disk holds when the process dies after the first of the two files.
    std::fs::write(&alarms, &crashed).unwrap();
    std::fs::remove_file(dir.path().join("violations-outbox.jsonl")).unwrap();
    let agent = Running::start(&world, dir.path());
    assert_eq!(agent.events(2).remove(1), begun, "it is told now");
    assert_eq!(agent.alarms()["active"][0]["violationId"], begun["violationId"]);
    agent.stop();

    // And when it dies after the second.
    std::fs::write(&alarms, &crashed).unwrap();
    let agent = Running::start(&world, dir.path());
    world.lock().ports = vec![];
    agent.step();
    let ended = agent.events(3).remove(2);
    assert_eq!(ended["violationEventType"], "alarm-cleared");
    assert_eq!(ended["violationId"], begun["violationId"]);
    agent.stop();
}

#[test]
fn an_invalid_update_leaves_the_profiles_in_force_and_says_why() {
    let (world, _dir, agent) = start(json!([no_telnet()]));
    let mut broken = no_telnet();
    broken["behaviors"][0]["metric"] = json!("aws:num-messages-sent");
    broken["behaviors"][0]["name"] = json!("Broker");
    world.configure(configuration(json!([bytes_out(), broken])));
    // more than once where the watch was confirmed after the change: it is read again then
    let status = agent.wait_status("refused", |status| {
        status["configuration"]["reload"]["refused"].as_u64() >= Some(1)
    });
    let said = status["configuration"]["reload"]["error"].as_str().unwrap();
    assert!(
        said.contains("detect.profiles[1] (NoTelnet)") && said.contains("Broker"),
        "{said}"
    );
    assert_eq!(status["detect"]["profiles"].as_array().unwrap().len(), 1);
    world.lock().ports = vec![23];
    agent.step();
    assert_eq!(told(&agent.events(1)), ["gateway-1 NoTelnet in-alarm"]);

    // A profile that is gone takes its alarm with it, and the new one is in force.
    world.configure(configuration(json!([bytes_out()])));
    assert_eq!(told(&agent.events(2))[1], "gateway-1 NoTelnet alarm-invalidated");
    assert_eq!(agent.alarms()["active"], json!([]));
    agent.steps(2);
    world.send(CAM, 5_000);
    agent.step();
    assert_eq!(told(&agent.events(3))[2], "cam-1 Exfiltration in-alarm");
    agent.stop();
}

#[test]
fn suppressed_alerts_are_listed_and_nothing_else() {
    let mut quiet = no_telnet();
    quiet["behaviors"][0]["suppressAlerts"] = json!(true);
    let mut other = no_telnet();
    other["securityProfileName"] = json!("Loud");
    let (world, _dir, agent) = start(json!([{"profile": quiet, "onAlarm": "quarantine"}, other]));
    world.lock().ports = vec![23];
    agent.step();
    assert_eq!(told(&agent.events(1)), ["gateway-1 Loud in-alarm"]);
    let alarms = agent.alarms();
    let rows = alarms["active"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    let quiet = rows
        .iter()
        .find(|row| row["securityProfileName"] == "NoTelnet")
        .unwrap();
    assert_eq!(quiet["suppressed"], true);
    assert_eq!(quiet["done"], "nothing: alerts are suppressed");
    agent.stop();
    assert_eq!(world.cloud().len(), 1);
}

fn causes(agent: &Running, thing: &str) -> Value {
    let thing = thing.parse().unwrap();
    agent.ask(Request::QuarantineWhy { thing })["causes"].clone()
}

#[test]
fn an_alarm_quarantines_whom_it_may_and_its_end_releases_where_the_profile_says_so() {
    let telnet = |name: &str| {
        let mut profile = bytes_out();
        profile["securityProfileName"] = json!(name);
        profile
    };
    let entry = |profile: Value, release: bool| json!({"profile": profile, "targets": ["cam-*", "core"], "onAlarm": "quarantine", "releaseWhenCleared": release});
    let profiles = json!([
        entry(telnet("Releases"), true),
        entry(telnet("Keeps"), false),
        entry(no_telnet(), false)
    ]);
    let (world, _dir, agent) = start(profiles);
    agent.step();
    world.send(CAM, 5_000);
    world.send(PLUG, 5_000);
    world.lock().ports = vec![23];
    agent.step();
    let events = told(&agent.events(3));
    assert!(
        events.iter().all(|event| !event.starts_with("plug-1")),
        "not a target: {events:?}"
    );
    let keys = |causes: &Value| -> Vec<String> {
        let list = causes.as_array().unwrap().iter();
        list.map(|cause| cause["cause"].as_str().unwrap().to_owned()).collect()
    };
    let held = causes(&agent, "cam-1");
    assert_eq!(
        keys(&held),
        ["edge:Keeps/ExfiltrationNormal", "edge:Releases/ExfiltrationNormal"]
    );
    let ids: Vec<&Value> = held
        .as_array()
        .unwrap()
        .iter()
        .map(|cause| &cause["detail"]["violationId"])
        .collect();
    let alarms = agent.alarms();
    for row in alarms["active"].as_array().unwrap() {
        if row["thingName"] == "cam-1" {
            assert!(ids.contains(&&row["violationId"]), "{row}");
            assert_eq!(row["done"], "quarantined, but enforcement is observe");
        }
    }
    assert_eq!(causes(&agent, "gateway-1"), json!([]), "the core is never cut off");
    agent.steps(70);
    agent.events(5);
    assert_eq!(keys(&causes(&agent, "cam-1")), ["edge:Keeps/ExfiltrationNormal"]);
    agent.stop();
}

#[test]
fn what_was_not_measured_neither_clears_nor_alarms() {
    let (world, _dir, agent) = start(json!([bytes_out()]));
    agent.step();
    world.send(CAM, 5_000);
    agent.step();
    agent.events(1);
    let sent = world.lock().sent.take();
    agent.steps(70);
    assert_eq!(world.cloud().len(), 1, "no news is no good news");
    world.lock().sent = sent;
    agent.steps(70);
    assert_eq!(told(&agent.events(2))[1], "cam-1 Exfiltration alarm-cleared");
    agent.stop();
}

#[test]
fn flows_are_read_in_every_sample_only_where_a_profile_needs_them() {
    let (world, _dir, agent) = start(json!([bytes_out(), {"profile": no_telnet(), "targets": ["core"]}]));
    agent.steps(2);
    assert!(
        !world.lock().flows_asked,
        "the gateway's own ports are not in that table"
    );
    let criteria = json!({"comparisonOperator": "in-cidr-set", "value": {"cidrs": ["192.0.2.0/24"]}});
    let peers = profile("Peers", "aws:destination-ip-addresses", criteria);
    world.configure(configuration(json!([{"profile": peers, "targets": ["cam-1"]}])));
    agent.wait_status("the new profile", |status| {
        status["detect"]["profiles"][0]["name"] == "Peers"
    });
    world.lock().remotes = vec!["192.0.2.7"];
    agent.steps(2);
    assert!(world.lock().flows_asked);
    assert_eq!(world.cloud(), [Value::Null; 0]);
    world.lock().remotes = vec!["192.0.2.7", "198.51.100.9"];
    agent.step();
    let event = agent.events(1).remove(0);
    assert_eq!(event["metricValue"]["cidrs"][0], "198.51.100.9");
    world.lock().remotes = vec![];
    agent.step();
    assert_eq!(told(&agent.events(2))[1], "cam-1 Peers alarm-cleared");
    agent.stop();
}

#[test]
fn a_recording_replays_to_what_happened() {
    let (world, dir) = (World::new(json!([])), tempfile::tempdir().unwrap());
    let mut configuration = configuration(json!([bytes_out(), no_telnet()]));
    configuration["detect"]["record"] = json!(true);
    world.lock().configuration = configuration.clone();
    let agent = Running::start(&world, dir.path());
    agent.step();
    world.send(CAM, 5_000);
    agent.steps(3);
    world.lock().ports = vec![23];
    agent.steps(70);
    let live = agent.events(3);
    agent.stop();
    let config = load_component(configuration, dir.path(), Mode::Greengrass).unwrap();
    let profiles = detecting::load(&config).unwrap();
    let text = std::fs::read_to_string(dir.path().join(detecting::SAMPLES)).unwrap();
    let samples = text.lines().map(|line| serde_json::from_str::<Sample>(line).unwrap());
    let replayed = replay(&profiles.assignments, samples);
    let bodies = replayed
        .events
        .iter()
        .map(|event| serde_json::from_str(&event.to_json()).unwrap());
    let mut again: Vec<Value> = bodies.collect();
    let mut live = live;
    for event in live.iter_mut().chain(&mut again) {
        event.as_object_mut().unwrap().remove("violationId"); // random
    }
    assert_eq!(live, again);
}

/// The binary with these arguments: exit code, what it printed, what it complained of.
fn command(arguments: &[&str]) -> (i32, String, String) {
    let ended = std::process::Command::new(env!("CARGO_BIN_EXE_edge-warden"))
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (ended.status.code().unwrap(), text(ended.stdout), text(ended.stderr))
}

#[test]
fn profiles_can_be_tried_out_at_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, content: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let plain = file("plain.json", bytes_out().to_string());
    let entry = json!({"profile": "plain.json", "targets": ["cam-*"], "onAlarm": "quarantine"});
    let entry = file("entry.json", entry.to_string());
    let sample = |thing: &str, monotonic: u64, bytes: u64| {
        let datapoints = json!({"aws:all-bytes-out": {"delta": {"amount": bytes, "overMillis": 10_000}}});
        let time = 1_700_000_000_000 + monotonic;
        json!({"time": time, "monotonic": monotonic, "thing": thing, "role": "local", "datapoints": datapoints})
    };
    let lines = [
        sample("cam-1", 10_000, 900).to_string(),
        sample("plug-1", 10_000, 5_000).to_string(),
        "half a li".to_owned(),
        sample("cam-1", 20_000, 900).to_string(),
    ];
    let samples = file("samples.jsonl", lines.join("\n"));

    let (code, out, _) = command(&["detect", "replay", "--profile", &plain, "--samples", &samples, "--json"]);
    assert_eq!(code, 0);
    let replayed: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&replayed["samples"], &replayed["unreadableLines"]),
        (&json!(3), &json!(1))
    );
    let events = replayed["events"].as_array().unwrap();
    assert_eq!(
        told(events),
        ["plug-1 Exfiltration in-alarm", "cam-1 Exfiltration in-alarm"]
    );
    assert_eq!(replayed["alarms"].as_array().unwrap().len(), 2);
    // As the agent has it: only its targets, and it says what would be done.
    let (code, out, _) = command(&["detect", "replay", "--profile", &entry, "--samples", &samples]);
    assert_eq!(code, 0);
    assert!(out.contains("cam-1") && !out.contains("plug-1"), "{out}");
    assert!(
        out.contains("in-alarm") && out.contains("event, quarantine") && out.contains("1 lines"),
        "{out}"
    );
    let (code, out, _) = command(&["detect", "explain", &plain]);
    assert_eq!(code, 0);
    assert!(out.starts_with("Exfiltration\n") && out.contains("1000"), "{out}");

    // A profile that cannot be used, a file that is not there, one without a sample.
    let mut broken = bytes_out();
    broken["behaviors"][0]["metric"] = json!("aws:num-messages-sent");
    let broken = file("broken.json", broken.to_string());
    for arguments in [
        &["detect", "explain", broken.as_str()][..],
        &["detect", "replay", "--profile", &broken, "--samples", &samples],
    ] {
        let (code, _, said) = command(arguments);
        assert_eq!(code, 3, "{said}");
        assert!(
            said.contains("ExfiltrationNormal") && said.contains("cloud-side"),
            "{said}"
        );
    }
    let (code, _, said) = command(&["detect", "explain", "missing.json"]);
    assert_eq!((code, said.contains("missing.json")), (4, true), "{said}");
    let empty = file("empty.jsonl", String::new());
    let (code, _, said) = command(&["detect", "replay", "--profile", &plain, "--samples", &empty]);
    assert_eq!((code, said.contains("no sample")), (4, true), "{said}");
}
