//! The agent's loop with a nucleus, a host and a clock of the test's own: what it does, in which order, and what it keeps.
//! Time passes only when a scenario says so.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests: the first surprise ends them, in helpers too, and their deadlines are real time"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use edge_warden::agent::clock::Clock;
use edge_warden::agent::host::HostSource;
use edge_warden::agent::site::source::KernelSite;
use edge_warden::agent::warden::Warden;
use edge_warden::agent::{self, Ended, Parts};
use edge_warden::collect::{HostSample, Interface, SocketTable};
use edge_warden::config::{LogLevel, Mode, load_component};
use edge_warden::control::{Answer, Asked, Request};
use edge_warden::greengrass::link::{NucleusEvent, NucleusLink};
use edge_warden::greengrass::{
    ComponentState, Destination, Incoming, IncomingSender, Nucleus, NucleusError, NucleusKind, SubscriptionId,
};
use edge_warden::model::{Counters, Missing, Monotonic, Now, Reason, ThingName, UnixTime};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

const SOON: Duration = Duration::from_secs(30);
const METRICS: &str = "$aws/things/gateway-1/defender/metrics/json";

/// What the agent did to the world, in order.
#[derive(Debug, Clone, PartialEq)]
enum Effect {
    State(ComponentState),
    WatchConfiguration,
    ReadConfiguration,
    Subscribe(String),
    Unsubscribe(String),
    /// The topic, the document, and the `lastReportId` that was on disk at that moment.
    Publish(String, Value, Option<u64>),
    LogLevel(LogLevel),
}

/// How the nucleus takes a publish.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Cloud {
    Accepts,
    Rejects,
    Silent,
    /// The nucleus cannot send.
    Offline,
}

/// Everything outside the agent.
struct Outside {
    effects: Vec<Effect>,
    cloud: Cloud,
    configuration: Value,
    now: Duration,
    wall: u64,
    host: HostSample,
    incoming: Option<IncomingSender>,
    subscriptions: BTreeMap<SubscriptionId, String>,
    next_subscription: u64,
}

/// The outside, shared with the agent's thread.
#[derive(Clone)]
struct World(Arc<(Mutex<Outside>, Condvar)>);

impl World {
    fn new() -> Self {
        let outside = Outside {
            effects: Vec::new(),
            cloud: Cloud::Accepts,
            configuration: reports_only(json!({})),
            now: Duration::from_secs(5_000),
            wall: 1_700_000_000_000,
            host: host(&[("eth0", 2, 1_000)]),
            incoming: None,
            subscriptions: BTreeMap::new(),
            next_subscription: 0,
        };
        Self(Arc::new((Mutex::new(outside), Condvar::new())))
    }

    fn lock(&self) -> MutexGuard<'_, Outside> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Outside) -> T) -> T {
        let changed = change(&mut self.lock());
        self.0.1.notify_all();
        changed
    }

    /// Waits until `wanted` gives something.
    fn wait_for<T>(&self, what: &str, mut wanted: impl FnMut(&Outside) -> Option<T>) -> T {
        let deadline = Instant::now() + SOON;
        let mut outside = self.lock();
        loop {
            if let Some(found) = wanted(&outside) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "never: {what}; so far: {:#?}", outside.effects);
            outside = self
                .0
                .1
                .wait_timeout(outside, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Time passes.
    fn pass(&self, seconds: u64) {
        self.change(|outside| {
            outside.now += Duration::from_secs(seconds);
            outside.wall += seconds * 1000;
        });
    }

    /// Waits for the `count`th report and returns all.
    fn reports(&self, count: usize) -> Vec<Value> {
        self.wait_for(&format!("{count} reports"), |outside| {
            let reports = reports_in(&outside.effects);
            (reports.len() >= count).then_some(reports)
        })
    }

    fn set_configuration(&self, configuration: Value) {
        let incoming = self.change(|outside| {
            outside.configuration = reports_only(configuration);
            outside.incoming.clone().unwrap()
        });
        incoming(Incoming::ConfigurationChanged);
    }
}

/// A configuration without quarantine and local things, which have scenarios of their own.
fn reports_only(mut configuration: Value) -> Value {
    configuration["quarantine"] = json!({"enforcement": "observe", "shadow": {"classic": false, "named": ""}});
    configuration["discovery"] = json!({"registration": false, "unknownDevices": "ignore"});
    configuration
}

fn reports_in(effects: &[Effect]) -> Vec<Value> {
    let report = |effect: &Effect| match effect {
        Effect::Publish(_, document, _) => Some(document.clone()),
        _ => None,
    };
    effects.iter().filter_map(report).collect()
}

fn id(report: &Value) -> u64 {
    report["header"]["report_id"].as_u64().unwrap()
}

/// Interfaces by name and index that have carried so many bytes and a tenth as many packets, each way.
fn host(interfaces: &[(&str, u32, u64)]) -> HostSample {
    let interface = |(name, index, bytes): &(&str, u32, u64)| Interface {
        index: *index,
        name: (*name).to_owned(),
        loopback: false,
        up: Some(true),
        master: None,
        parent: None,
        kind: None,
        mac: None,
        addresses: Some(Vec::new()),
        default_route: Some(false),
        counters: Counters {
            bytes_in: *bytes,
            bytes_out: *bytes,
            packets_in: bytes / 10,
            packets_out: bytes / 10,
        },
    };
    HostSample {
        interfaces: Ok(interfaces.iter().map(interface).collect()),
        sockets: SocketTable {
            tcp: Ok(Vec::new()),
            udp: Ok(Vec::new()),
        },
        boot_id: Ok("boot".to_owned()),
        notes: Vec::new(),
    }
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

    /// The agent looks at the clock all the time, so it notices at once when the scenario moves it.
    fn real(&self, _: Duration) -> Duration {
        Duration::ZERO
    }
}

struct TestHost(World);

impl HostSource for TestHost {
    fn collect(&mut self) -> HostSample {
        self.0.change(|outside| outside.host.clone())
    }
}

struct TestNucleus {
    world: World,
    incoming: IncomingSender,
    saved: std::path::PathBuf,
}

impl TestNucleus {
    /// `lastReportId` in the file the agent keeps.
    fn id_on_disk(&self) -> Option<u64> {
        let content = std::fs::read(&self.saved).ok()?;
        let saved: Value = serde_json::from_slice(&content).unwrap();
        saved["schedule"]["things"]["gateway-1"]["lastReportId"].as_u64()
    }

    fn effect(&self, effect: Effect) {
        self.world.change(|outside| outside.effects.push(effect));
    }
}

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
        self.effect(Effect::ReadConfiguration);
        Ok(self.world.lock().configuration.clone())
    }

    fn watch_configuration(&mut self) -> Result<(), NucleusError> {
        self.effect(Effect::WatchConfiguration);
        Ok(())
    }

    fn publish(&mut self, to: Destination, topic: &str, payload: &[u8]) -> Result<(), NucleusError> {
        assert_eq!(to, Destination::IotCore);
        let document: Value = match topic.ends_with("json") {
            true => serde_json::from_slice(payload).unwrap(),
            false => ciborium::from_reader(payload).unwrap(),
        };
        let report_id = document["header"]["report_id"].clone();
        self.effect(Effect::Publish(topic.to_owned(), document, self.id_on_disk()));
        let cloud = self.world.lock().cloud;
        let (step, status, details) = match cloud {
            Cloud::Accepts => ("accepted", "ACCEPTED", Value::Null),
            Cloud::Rejects => (
                "rejected",
                "REJECTED",
                json!({"ErrorCode": "InvalidPayload", "ErrorMessage": "no"}),
            ),
            Cloud::Silent => return Ok(()),
            Cloud::Offline => {
                return Err(NucleusError::Failed {
                    what: format!("publish {topic}"),
                    detail: "offline".to_owned(),
                });
            }
        };
        let reply =
            json!({"thingName": "gateway-1", "reportId": report_id, "status": status, "statusDetails": details});
        let payload = match topic.ends_with("json") {
            true => serde_json::to_vec(&reply).unwrap(),
            false => {
                let mut bytes = Vec::new();
                ciborium::into_writer(&reply, &mut bytes).unwrap();
                bytes
            }
        };
        (self.incoming)(Incoming::Message {
            from: Destination::IotCore,
            topic: format!("{topic}/{step}"),
            payload,
        });
        Ok(())
    }

    fn subscribe(&mut self, _: Destination, filter: &str) -> Result<SubscriptionId, NucleusError> {
        self.effect(Effect::Subscribe(filter.to_owned()));
        Ok(self.world.change(|outside| {
            outside.next_subscription += 1;
            let id = SubscriptionId(outside.next_subscription);
            outside.subscriptions.insert(id, filter.to_owned());
            id
        }))
    }

    fn unsubscribe(&mut self, id: SubscriptionId) {
        let filter = self.world.change(|outside| outside.subscriptions.remove(&id));
        self.effect(Effect::Unsubscribe(filter.unwrap()));
    }

    fn update_state(&mut self, state: ComponentState) -> Result<(), NucleusError> {
        self.effect(Effect::State(state));
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
    thread: Option<JoinHandle<Ended>>,
    stop: Option<oneshot::Sender<()>>,
    questions: mpsc::Sender<Asked>,
}

impl Running {
    /// Start the agent in `world`, with its state in `dir`.
    fn start(world: &World, dir: &Path, boot_id: &str) -> Self {
        let (questions, asked) = mpsc::channel(4);
        let (stop, stopped) = oneshot::channel();
        let (world, dir, boot_id) = (world.clone(), dir.to_owned(), boot_id.to_owned());
        let thread = std::thread::spawn(move || {
            let (nucleus_world, saved) = (world.clone(), dir.join("reports.json"));
            let (link, mut events) = NucleusLink::spawn(move |incoming| {
                nucleus_world.change(|outside| outside.incoming = Some(incoming.clone()));
                Ok(Box::new(TestNucleus {
                    world: nucleus_world,
                    incoming,
                    saved,
                }) as Box<dyn Nucleus>)
            })
            .unwrap();
            let Some(NucleusEvent::Ready { kind, core }) = events.blocking_recv() else {
                panic!("not ready")
            };
            let configuration = world.lock().configuration.clone();
            let log_world = world.clone();
            let (_reload, reloads) = mpsc::channel(1);
            let config = load_component(configuration, &dir, Mode::Greengrass).unwrap();
            let clock = TestClock(world.clone());
            let sample = world.change(|outside| outside.host.clone());
            let now = Now {
                monotonic: clock.monotonic(),
                wall: clock.wall(),
            };
            let warden = Warden::begin(&config, &core, &dir, &boot_id, &sample, now).unwrap();
            let parts = Parts {
                clock,
                warden,
                sample,
                link,
                events,
                host: Box::new(TestHost(world)),
                // the hosts of these scenarios have no LAN, so it looks at nothing
                site: Box::new(KernelSite::new("/proc")),
                questions: asked,
                reloads,
                core,
                kind,
                mode: Mode::Greengrass,
                config,
                config_error: None,
                privileges: None,
                helper: None,
                boot_id,
                state_dir: dir.clone(),
                include_dir: dir.clone(),
                last_good_config: Some(dir.join("last-good.json")),
                stop_after_reports: None,
                set_log_level: Box::new(move |level| {
                    log_world.change(|outside| outside.effects.push(Effect::LogLevel(level)));
                }),
            };
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(agent::run(parts, async { drop(stopped.await) }))
        });
        Self {
            thread: Some(thread),
            stop: Some(stop),
            questions,
        }
    }

    /// Lets time pass in which no report falls due, until the agent has looked at a sample taken after it.
    fn pass_without_report(&self, world: &World, seconds: u64) {
        let before = self.status();
        let of = |status: &Value| status["reports"]["things"][0]["lastReportId"].clone();
        world.pass(seconds);
        let deadline = Instant::now() + SOON;
        let after = loop {
            let status = self.status();
            if status["samples"].as_u64() > before["samples"].as_u64() {
                break status;
            }
            assert!(Instant::now() < deadline, "no sample: {status}");
        };
        assert_eq!(of(&after), of(&before), "a report in between");
    }

    fn status(&self) -> Value {
        let (reply, answer) = oneshot::channel();
        let request = Request::Status;
        self.questions
            .blocking_send(Asked {
                request,
                who: "uid 0".to_owned(),
                reply,
            })
            .unwrap();
        match answer.blocking_recv().unwrap() {
            Answer::Ok(status) => status,
            Answer::Error(error) => panic!("{error}"),
        }
    }

    /// Asks until the status of the core's reports is as wanted.
    fn wait_for<T>(&self, what: &str, wanted: impl Fn(&Value) -> Option<T>) -> T {
        let deadline = Instant::now() + SOON;
        loop {
            let status = self.status();
            let core = &status["reports"]["things"][0];
            if let Some(found) = wanted(core) {
                return found;
            }
            assert!(Instant::now() < deadline, "never: {what}; instead {core}");
        }
    }

    /// Asks until the first sample was looked at, and returns the status of the core's reports.
    fn wait_sample(&self) -> Value {
        let deadline = Instant::now() + SOON;
        loop {
            let status = self.status();
            if status["samples"] != 0 {
                return status["reports"]["things"][0].clone();
            }
            assert!(Instant::now() < deadline, "no sample");
        }
    }

    /// Asks until the core's last report has met this fate.
    fn wait_fate(&self, fate: &str) -> Value {
        self.wait_for(fate, |core| (core["lastReport"]["fate"] == fate).then(|| core.clone()))
    }

    fn stop(mut self) -> Ended {
        self.stop.take().unwrap().send(()).unwrap();
        self.thread.take().unwrap().join().unwrap()
    }
}

fn start() -> (World, tempfile::TempDir, Running) {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let running = Running::start(&world, dir.path(), "boot");
    (world, dir, running)
}

fn traffic(report: &Value) -> Option<u64> {
    let stats = report["metrics"].get("network_stats")?;
    assert_eq!(stats["bytes_in"], stats["bytes_out"]);
    stats["bytes_in"].as_u64()
}

#[test]
fn effects_come_in_an_order_that_loses_nothing() {
    let (world, _dir, agent) = start();
    world.reports(1);
    agent.wait_fate("accepted");
    // It is read again once it is watched, at any time: it may have changed in between.
    world.wait_for("the configuration read again", |outside| {
        outside.effects.contains(&Effect::ReadConfiguration).then_some(())
    });
    assert_eq!(agent.stop(), Ended::Stopped);
    let mut effects = world.lock().effects.clone();
    effects.retain(|effect| *effect != Effect::ReadConfiguration);
    let first = reports_in(&effects).swap_remove(0);
    let both = ["accepted", "rejected"].map(|step| format!("{METRICS}/{step}"));
    assert_eq!(
        effects,
        [
            Effect::State(ComponentState::Running),
            Effect::WatchConfiguration,
            // The replies are heard before there is anything to reply to.
            Effect::Subscribe(both[0].clone()),
            Effect::Subscribe(both[1].clone()),
            // Its time and id are on disk before it is sent: a crash right after cannot make the next one too early.
            Effect::Publish(METRICS.to_owned(), first.clone(), Some(id(&first))),
            Effect::Unsubscribe(both[0].clone()),
            Effect::Unsubscribe(both[1].clone()),
        ]
    );
    assert_eq!(id(&first), 1_700_000_000);
    assert_eq!(traffic(&first), None, "there is nothing yet to count from");
}

#[test]
fn hours_offline_become_one_delta() {
    let (world, _dir, agent) = start();
    world.reports(1);
    agent.wait_fate("accepted");
    world.change(|outside| outside.cloud = Cloud::Offline);
    for hour in 1..=5 {
        world.change(|outside| outside.host = host(&[("eth0", 2, 1_000 + hour * 100)]));
        world.pass(3_600);
        // One try an interval, however late; nothing is queued.
        let tried = world.reports(1 + usize::try_from(hour).unwrap());
        assert_eq!(traffic(tried.last().unwrap()), Some(hour * 100));
        agent.wait_fate("notSent");
    }
    world.change(|outside| outside.cloud = Cloud::Accepts);
    world.change(|outside| outside.host = host(&[("eth0", 2, 1_550)]));
    world.pass(300);
    assert_eq!(
        traffic(&world.reports(7)[6]),
        Some(550),
        "everything since the last report that arrived"
    );
    let core = agent.wait_fate("accepted");
    assert_eq!(
        (&core["counts"]["notSent"], &core["counts"]["accepted"]),
        (&5.into(), &2.into())
    );
    world.change(|outside| outside.host = host(&[("eth0", 2, 1_553)]));
    world.pass(300);
    assert_eq!(traffic(&world.reports(8)[7]), Some(3));
    assert_eq!(
        world
            .lock()
            .effects
            .iter()
            .filter(|e| matches!(e, Effect::Publish(..)))
            .count(),
        8
    );
}

#[test]
fn a_rejected_or_unanswered_report_is_folded_into_the_next() {
    let (world, _dir, agent) = start();
    world.reports(1);
    agent.wait_fate("accepted");
    for (cloud, fate, bytes, expected, count) in [
        (Cloud::Rejects, "rejected", 1_010, 10, 2),
        (Cloud::Silent, "sent", 1_030, 30, 3),
        (Cloud::Accepts, "accepted", 1_070, 70, 4),
        (Cloud::Accepts, "accepted", 1_071, 1, 5),
    ] {
        world.change(|outside| {
            outside.cloud = cloud;
            outside.host = host(&[("eth0", 2, bytes)]);
        });
        world.pass(300);
        assert_eq!(traffic(&world.reports(count)[count - 1]), Some(expected), "{cloud:?}");
        agent.wait_fate(fate);
    }
    // The silence made it subscribe anew, before the next report went out.
    let effects = world.lock().effects.clone();
    let subscribed = |effect: &&Effect| matches!(effect, Effect::Subscribe(_));
    assert_eq!(effects.iter().filter(subscribed).count(), 4);
}

#[test]
fn a_new_configuration_takes_effect_without_an_extra_report() {
    let (world, dir, agent) = start();
    world.reports(1);
    agent.wait_fate("accepted");
    let new = json!({"report": {"intervalSeconds": 900, "format": "cbor"}, "log": {"level": "debug"}});
    world.set_configuration(new.clone());
    let cbor = ["accepted", "rejected"].map(|step| format!("$aws/things/gateway-1/defender/metrics/cbor/{step}"));
    world.wait_for("the subscriptions of the new format alone", |outside| {
        let held: Vec<&String> = outside.subscriptions.values().collect();
        (held == cbor.iter().collect::<Vec<_>>()).then_some(())
    });
    world.wait_for("the log level", |outside| {
        outside
            .effects
            .contains(&Effect::LogLevel(LogLevel::Debug))
            .then_some(())
    });
    let kept: Value = serde_json::from_slice(&std::fs::read(dir.path().join("last-good.json")).unwrap()).unwrap();
    assert_eq!(kept, reports_only(new));
    agent.pass_without_report(&world, 300);
    agent.pass_without_report(&world, 599);
    world.pass(1);
    world.wait_for("the second report", |outside| {
        let publishes = outside
            .effects
            .iter()
            .filter(|effect| matches!(effect, Effect::Publish(..)))
            .count();
        (publishes == 2).then_some(())
    });
    let last = world
        .lock()
        .effects
        .iter()
        .rfind(|e| matches!(e, Effect::Publish(..)))
        .cloned()
        .unwrap();
    assert!(matches!(last, Effect::Publish(topic, _, _) if topic.ends_with("/cbor")));

    world.set_configuration(json!({"report": {"intervalSeconds": 10}}));
    world.wait_for("read", |outside| {
        let read = outside
            .effects
            .iter()
            .filter(|effect| **effect == Effect::ReadConfiguration)
            .count();
        (read == 3).then_some(())
    });
    let deadline = Instant::now() + SOON;
    let reload = loop {
        let status = agent.status();
        if status["configuration"]["reload"]["error"].is_string() {
            assert_eq!(status["configuration"]["effective"]["report"]["intervalSeconds"], 900);
            break status["configuration"]["reload"].clone();
        }
        assert!(Instant::now() < deadline, "never refused: {status}");
    };
    assert!(
        reload["error"].as_str().unwrap().contains("report.intervalSeconds"),
        "{reload}"
    );
    assert_eq!((&reload["taken"], &reload["refused"]), (&1.into(), &1.into()));
}

#[test]
fn a_denied_source_leaves_its_blocks_out_and_is_named() {
    let (world, _dir, agent) = start();
    world.reports(1);
    agent.wait_fate("accepted");
    let denied = || Missing::new("sock_diag tcp", Reason::Denied, "EPERM");
    world.change(|outside| {
        outside.host = host(&[("eth0", 2, 1_007)]);
        outside.host.sockets.tcp = Err(denied());
    });
    world.pass(300);
    let report = world.reports(2).swap_remove(1);
    let blocks: Vec<&String> = report["metrics"].as_object().unwrap().keys().collect();
    assert_eq!(
        blocks,
        ["listening_udp_ports", "network_stats"],
        "the rest is intact, and nothing is a zero"
    );
    assert_eq!(traffic(&report), Some(7));
    agent.wait_fate("accepted");
    let sources = agent.status()["reports"]["sources"].clone();
    assert_eq!(sources["established connections"], "sock_diag tcp denied: EPERM");
    assert_eq!(sources["listening TCP ports"], "sock_diag tcp denied: EPERM");
    assert_eq!(
        (&sources["interfaces"], &sources["listening UDP ports"]),
        (&"ok".into(), &"ok".into())
    );

    // Without counters there is no delta; the next one covers both intervals.
    world.change(|outside| {
        outside.host = host(&[]);
        outside.host.interfaces = Err(Missing::new("rtnetlink links", Reason::Malformed, "cut off"));
    });
    world.pass(300);
    let report = world.reports(3).swap_remove(2);
    assert!(report["metrics"].get("network_stats").is_none(), "{report}");
    assert!(report["metrics"].get("tcp_connections").is_some(), "{report}");
    agent.wait_fate("accepted");
    world.change(|outside| outside.host = host(&[("eth0", 2, 1_020)]));
    world.pass(300);
    assert_eq!(traffic(&world.reports(4)[3]), Some(13));
}

#[test]
fn when_nothing_can_be_measured_nothing_is_sent() {
    let (world, _dir, agent) = start();
    world.reports(1);
    agent.wait_fate("accepted");
    world.change(|outside| {
        let nothing = || Missing::new("proc", Reason::Absent, "not mounted");
        outside.host.interfaces = Err(nothing());
        outside.host.sockets.tcp = Err(nothing());
        outside.host.sockets.udp = Err(nothing());
    });
    world.pass(300);
    let core = agent.wait_fate("notSent");
    assert_eq!(core["lastReport"]["reason"], "nothing could be measured");
    world.change(|outside| outside.host = host(&[("eth0", 2, 1_042)]));
    world.pass(300);
    let reports = world.reports(2);
    assert_eq!((reports.len(), traffic(&reports[1])), (2, Some(42)));
}

#[test]
fn counters_that_start_over_and_interfaces_that_come_and_go_give_no_nonsense() {
    let (world, _dir, agent) = start();
    let mut count = 1;
    world.reports(count);
    let mut step = |interfaces: &[(&str, u32, u64)]| {
        agent.wait_fate("accepted");
        world.change(|outside| outside.host = host(interfaces));
        world.pass(300);
        count += 1;
        traffic(&world.reports(count)[count - 1]).unwrap()
    };
    assert_eq!(step(&[("eth0", 2, 1_500)]), 500);
    assert_eq!(
        step(&[("eth0", 2, 30)]),
        30,
        "the driver was reset: what came since counts"
    );
    assert_eq!(
        step(&[("eth0", 2, 40), ("wwan0", 7, 4_000)]),
        4_010,
        "a new one counts from zero"
    );
    assert_eq!(step(&[("eth0", 2, 50)]), 10, "a gone one takes nothing back");
    assert_eq!(
        step(&[("eth0", 2, 50), ("wwan0", 9, 100)]),
        100,
        "the same name, another interface"
    );
    assert_eq!(step(&[]), 0);
    assert_eq!(
        step(&[("eth0", 2, 60), ("wwan0", 9, 100)]),
        10,
        "back again, not counted twice"
    );
    assert_eq!(step(&[("eth0", 2, 1 << 40), ("wwan0", 9, 100)]), (1 << 40) - 60);
}

#[test]
fn a_restart_keeps_id_floor_and_delta_within_a_boot_and_the_floor_beyond() {
    let (world, dir, agent) = start();
    world.reports(1);
    agent.wait_fate("accepted");
    assert_eq!(agent.stop(), Ended::Stopped);
    // Down for 100 s, with traffic.
    world.pass(100);
    world.change(|outside| outside.host = host(&[("eth0", 2, 1_900)]));
    let agent = Running::start(&world, dir.path(), "boot");
    assert_eq!(agent.wait_sample()["nextInSeconds"], 200);
    agent.pass_without_report(&world, 199);
    world.pass(1);
    let second = world.reports(2).swap_remove(1);
    assert_eq!(traffic(&second), Some(900), "what passed while it was down is in");
    agent.wait_fate("accepted");
    assert_eq!(agent.stop(), Ended::Stopped);
    // Reboot: counters and the boot clock start over, the wall clock goes on.
    world.change(|outside| {
        outside.now = Duration::from_secs(20);
        outside.wall += 100_000;
        outside.host = host(&[("eth0", 2, 5)]);
    });
    let agent = Running::start(&world, dir.path(), "another boot");
    assert_eq!(agent.wait_sample()["nextInSeconds"], 200);
    world.pass(200);
    let third = world.reports(3).swap_remove(2);
    assert_eq!(traffic(&third), None, "counters of another boot are not comparable");
    assert!(id(&third) >= id(&second) + 300 && id(&second) >= 1_700_000_000 + 300);
    agent.wait_fate("accepted");
}

/// Whether a publish arrived that was under way when the process died nobody knows; if it did, it was at most just now.
#[test]
fn dying_in_the_middle_of_a_publish_costs_a_whole_interval() {
    let (world, dir, agent) = start();
    world.reports(1);
    agent.wait_fate("accepted");
    assert_eq!(agent.stop(), Ended::Stopped);
    let path = dir.path().join("reports.json");
    let mut saved: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert!(saved["publishing"].is_null());
    saved["publishing"] = "gateway-1".into();
    std::fs::write(&path, saved.to_string()).unwrap();
    world.pass(100);
    let agent = Running::start(&world, dir.path(), "boot");
    assert_eq!(agent.wait_sample()["nextInSeconds"], 300);
    world.change(|outside| outside.host = host(&[("eth0", 2, 1_004)]));
    world.pass(300);
    assert_eq!(traffic(&world.reports(2)[1]), Some(4), "the delta goes on all the same");
}

#[test]
fn a_wall_clock_that_jumps_by_years_changes_neither_rhythm_nor_order() {
    let (world, _dir, agent) = start();
    const YEAR: u64 = 365 * 86_400 * 1000;
    let mut last = id(&world.reports(1)[0]);
    for (count, jump) in [(2, 10 * YEAR), (3, 0), (4, 20 * YEAR), (5, 1)] {
        agent.wait_fate("accepted");
        world.change(|outside| outside.wall = if jump > 1 { outside.wall + jump } else { jump * 1_000 });
        agent.pass_without_report(&world, 299);
        world.pass(1);
        let next = id(&world.reports(count)[count - 1]);
        assert!(next > last, "{next} after {last}");
        last = next;
    }
}
