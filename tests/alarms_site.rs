//! Detection with real packets and real processes: the binary on the gateway of a site, a device that floods, and what
//! follows. Needs root. Each test begins with its positive control.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a test may stop at the first surprise"
)]

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use edge_warden::control::{Request, ask};
use serde_json::{Value, json};

use support::binary::{Agent, access_control, configuration, run_command};
use support::nucleus::{Destination, Misbehave, Seen, Settings, TestNucleus};
use support::site::until;
use support::warden::{Flood, Guarded, devices, epoch};

/// 300 s of the agent in 10 s: a window passes while a test waits.
const FACTOR: u32 = 30;
/// What a busy machine may need for anything here.
const SOON: Duration = Duration::from_secs(60);
/// Packets in 300 s that a device may send: the few pings of a test do not come near, and a flood that has to wait for the
/// processor is far above.
const LIMIT: u64 = 200;
/// Packets a second of a flood, to each of two places.
const RATE: u32 = 1_000;

/// Things called cam-0 send at most [`LIMIT`] packets in 5 minutes, or are cut off.
fn profiles(release: bool) -> Value {
    let criteria = json!({"comparisonOperator": "less-than-equals", "value": {"count": LIMIT}, "durationSeconds": 300});
    let behavior = json!({"name": "Packets", "metric": "aws:all-packets-out", "criteria": criteria});
    let profile = json!({"securityProfileName": "Flood", "behaviors": [behavior]});
    json!([{"profile": profile, "targets": ["cam-0"], "onAlarm": "quarantine", "releaseWhenCleared": release}])
}

/// Whether the first device reaches its gateway and the internet.
fn ways(guarded: &Guarded) -> [bool; 2] {
    let site = &guarded.site;
    [site.gateway(), site.internet()].map(|host| site.device(0).ping(host.v4.into()))
}

fn active(alarms: &Value) -> Option<&Value> {
    alarms["active"].as_array()?.first()
}

/// The events a standalone agent published to `destination`.
fn published(dir: &Path, destination: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(dir.join("published.jsonl")).unwrap_or_default();
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    lines
        .filter(|line| line["destination"] == destination)
        .filter(|line| {
            line["topic"]
                .as_str()
                .is_some_and(|topic| topic.ends_with("/violations"))
        })
        .map(|line| line["payload"].clone())
        .collect()
}

fn types(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .map(|event| event["violationEventType"].as_str().unwrap())
        .collect()
}

#[test]
fn a_flood_is_an_alarm_within_two_samples_and_cuts_off_until_it_ends() {
    let mut guarded = Guarded::prepare();
    guarded.factor = FACTOR;
    guarded.configure(&json!({
        "devices": devices(&guarded.site),
        "quarantine": {"shadow": {"classic": false, "named": ""}},
        "detect": {"record": true, "profiles": profiles(true)},
    }));
    guarded.run();
    assert_eq!(ways(&guarded), [true; 2]);
    // an answer that comes too late is asked for again
    let alarms = || guarded.ask(&Request::Alarms).unwrap_or(Value::Null);
    assert!(until(SOON, || alarms()["active"] == json!([])), "{}", guarded.log());

    let flood = Flood::start(&guarded.site, 0, RATE);
    let began = until(SOON, || active(&alarms()).is_some());
    assert!(began, "{:#}\n{}", alarms(), guarded.log());
    // cut off, and the flood goes on all the while
    let cut = until(SOON, || ways(&guarded) == [false; 2]);
    assert!(cut, "{:#}\n{}", alarms(), guarded.log());
    let mut row = Value::Null;
    let lasts = until(SOON, || {
        row = active(&alarms()).cloned().unwrap_or_default();
        row.is_object()
    });
    assert!(lasts, "{}", guarded.log());
    assert_eq!(
        (row["thingName"].as_str(), row["done"].as_str()),
        (Some("cam-0"), Some("quarantined"))
    );
    assert!(row["lastValue"]["count"].as_u64().unwrap() > LIMIT, "{row}");
    let why = guarded.answer(&Request::QuarantineWhy {
        thing: "cam-0".parse().unwrap(),
    });
    assert_eq!(why["causes"][0]["cause"], "edge:Flood/Packets");
    assert_eq!(why["causes"][0]["detail"]["violationId"], row["violationId"]);
    assert_eq!(why["enforced"], true);
    guarded.assert_open_but(1, &[0]);

    // When it had sent too much, and when the alarm began, by the agent's own record of what it saw.
    let text = std::fs::read_to_string(guarded.dir.join("state/samples.jsonl")).expect("a recording");
    let samples: Vec<Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|sample| sample["thing"] == "cam-0")
        .collect();
    let sent = |sample: &Value| {
        let amount = sample.pointer("/datapoints/aws:all-packets-out/delta/amount");
        amount.and_then(Value::as_f64).unwrap_or_default()
    };
    let mut sum = 0.0;
    let crossed = samples.iter().position(|sample| {
        sum += sent(sample);
        sum > LIMIT as f64
    });
    let alarmed = samples.iter().position(|sample| sample["time"] == row["since"]);
    let (crossed, alarmed) = (
        crossed.expect("it sent too much"),
        alarmed.expect("a sample of that time"),
    );
    assert!(
        alarmed <= crossed + 1,
        "too much in sample {crossed}, alarm in {alarmed}"
    );

    // The flood ends: what the device tries to send is counted before it is dropped, so this can be seen.
    drop(flood);
    let cleared = until(SOON, || alarms()["active"] == json!([]));
    assert!(cleared, "{:#}\n{}", alarms(), guarded.log());
    assert!(until(SOON, || ways(&guarded) == [true; 2]), "{}", guarded.log());
    for destination in ["iotcore", "local"] {
        let mut events = Vec::new();
        let arrived = until(SOON, || {
            events = published(&guarded.dir, destination);
            events.len() >= 2
        });
        assert!(arrived, "{events:#?}");
        assert_eq!(types(&events), ["in-alarm", "alarm-cleared"], "{destination}");
        assert!(events.iter().all(|event| event["violationId"] == row["violationId"]));
    }
}

/// The bodies that arrived in the cloud.
fn arrived(seen: &Seen) -> Vec<Value> {
    let events = seen.published.iter().filter(|published| {
        published.to == Destination::IotCore && published.topic == "edge-warden/gateway-1/violations"
    });
    events.filter_map(|published| published.json()).collect()
}

#[test]
fn without_the_cloud_the_same_happens_and_is_told_afterwards_in_order() {
    // The site of the other test, with a nucleus in place of the stand-in.
    let guarded = Guarded::prepare();
    let site = &guarded.site;
    let mut config = configuration(json!({
        "devices": devices(site),
        "quarantine": {"enforcement": "enforce"},
        "detect": {"profiles": profiles(true)},
    }));
    config["report"]["core"] = json!(false);
    let nucleus = TestNucleus::start(Settings {
        configuration: config,
        access_control: Some(access_control()),
        ..Settings::lite()
    });
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control.sock");
    let start = || {
        let command = run_command(&nucleus, dir.path(), FACTOR);
        site.gateway().enter(|| Agent::spawn(command, &socket))
    };
    let mut agent = start();
    let alarms = || ask(&socket, &Request::Alarms).unwrap_or(Value::Null);
    assert!(until(SOON, || alarms()["active"].is_array()), "{}", agent.log());
    assert_eq!(ways(&guarded), [true; 2]);
    nucleus.misbehave(Misbehave::Refuse {
        operation: "PublishToIoTCore".to_owned(),
        code: "ServiceError".to_owned(),
    });
    let flood = Flood::start(site, 0, RATE);
    assert!(until(SOON, || active(&alarms()).is_some()), "{:#}", alarms());
    assert!(until(SOON, || ways(&guarded) == [false; 2]), "{:#}", alarms());
    let mut row = Value::Null;
    let lasts = until(SOON, || {
        row = active(&alarms()).cloned().unwrap_or_default();
        row.is_object()
    });
    assert!(lasts, "{}", agent.log());
    // kill -9: neither the alarm nor its event is lost, and the device stays cut off
    agent.kill();
    let mut agent = start();
    assert!(until(SOON, || active(&alarms()).is_some()), "{}", agent.log());
    let same = until(SOON, || {
        active(&alarms()).is_some_and(|alarm| alarm["violationId"] == row["violationId"])
    });
    assert!(same, "{}", agent.log());
    assert_eq!(ways(&guarded), [false; 2]);
    drop(flood);
    assert!(until(SOON, || alarms()["active"] == json!([])), "{:#}", alarms());
    assert!(until(SOON, || ways(&guarded) == [true; 2]), "{}", agent.log());
    let waiting = agent.wait_status("two events wait", |status| {
        (status["detect"]["events"]["waiting"] == 2).then(|| status["detect"]["events"].clone())
    });
    assert!(waiting["error"].is_string(), "{waiting}");
    assert_eq!(arrived(&nucleus.seen()), [Value::Null; 0]);

    nucleus.behave();
    let events = nucleus.wait_for("both events", SOON, |seen| {
        let events = arrived(seen);
        (events.len() >= 2).then_some(events)
    });
    assert_eq!(types(&events), ["in-alarm", "alarm-cleared"]);
    assert!(events.iter().all(|event| event["violationId"] == row["violationId"]));
    agent.wait_status("nothing waits", |status| {
        (status["detect"]["events"]["waiting"] == 0).then_some(())
    });
    assert_eq!(nucleus.seen().violations, [""; 0]);
    assert_eq!(agent.terminate().0, 0);
    assert_eq!(arrived(&nucleus.seen()).len(), 2, "once each");
}

/// With `quarantine.edgeSeconds` the kernel itself lets go, and the next agent does not begin anew what is over.
#[test]
fn an_alarms_quarantine_ends_by_itself_without_the_agent() {
    let mut guarded = Guarded::prepare();
    let lasts = Duration::from_secs(12);
    guarded.configure(&json!({
        "sampleSeconds": 1,
        "devices": devices(&guarded.site),
        "quarantine": {"shadow": {"classic": false, "named": ""}, "edgeSeconds": lasts.as_secs()},
        "detect": {"profiles": profiles(false)},
    }));
    guarded.run();
    assert!(until(SOON, || ways(&guarded) == [true; 2]));
    let why = |guarded: &Guarded| {
        guarded.answer(&Request::QuarantineWhy {
            thing: "cam-0".parse().unwrap(),
        })
    };
    let flood = Flood::start(&guarded.site, 0, RATE);
    let mut told = Value::Null;
    let cut = until(SOON, || {
        told = why(&guarded);
        told["causes"][0]["cause"] == "edge:Flood/Packets" && told["enforced"] == true
    });
    assert!(cut, "{told:#}\n{}", guarded.log());
    drop(flood);
    let detail = &told["causes"][0]["detail"];
    let span = detail["until"].as_u64().unwrap() - detail["since"].as_u64().unwrap();
    // two clocks: that of the begin may be a moment ahead
    assert!(span.abs_diff(lasts.as_secs() * 1000) < 1000, "{detail}");
    guarded.kill();
    let open = ways(&guarded);
    let over = epoch() >= detail["until"].as_u64().unwrap() / 1000;
    assert!(open == [false; 2] || over, "the rules alone hold it");
    assert!(until(SOON, || ways(&guarded) == [true; 2]), "the kernel lets go");
    assert!(
        epoch() * 1000 + 1000 >= detail["until"].as_u64().unwrap(),
        "but not early"
    );
    guarded.run();
    assert!(
        until(SOON, || why(&guarded)["causes"] == json!([])),
        "{:#}",
        why(&guarded)
    );
    // the same violation may last, and is acted on once
    (0..3).for_each(|_| guarded.await_sample());
    assert_eq!(why(&guarded)["causes"], json!([]));
    assert!(until(SOON, || ways(&guarded) == [true; 2]), "{}", guarded.log());
}

/// A program called myapp, whose children a line written to it starts and ends.
struct Myapp(std::process::Child);

impl Myapp {
    /// Waits in a read of its own, so that it has no child.
    fn start(dir: &Path) -> Self {
        let program = dir.join("myapp");
        std::fs::copy("/bin/sh", &program).expect("a shell");
        let child = Command::new(&program)
            .args(["-c", "read line; /bin/sh -c 'read line' <&0 ; read line; :"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("myapp");
        Self(child)
    }

    fn line(&mut self) {
        use std::io::Write as _;
        self.0.stdin.as_mut().expect("stdin").write_all(b"\n").expect("a line");
    }
}

impl Drop for Myapp {
    fn drop(&mut self) {
        self.0.stdin.take();
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The blog's: `shared/examples/profile-child-processes.json`.
fn no_children() -> Value {
    json!({
        "securityProfileName": "ChildProcessesOfMyapp",
        "securityProfileDescription": "Blog: myapp never starts a child process",
        "behaviors": [{
            "name": "NoChildren",
            "metric": "num_child_procs_myap",
            "criteria": {
                "comparisonOperator": "less-than-equals",
                "value": {"number": 0},
                "consecutiveDatapointsToAlarm": 1,
                "consecutiveDatapointsToClear": 1
            }
        }],
        "additionalMetricsToRetainV2": [{"metric": "num_child_procs_myap"}]
    })
}

#[test]
fn myapp_starting_a_shell_raises_the_blogs_alarm() {
    let dir = tempfile::tempdir().unwrap();
    let mut myapp = Myapp::start(dir.path());
    let config = dir.path().join("config.json");
    let configuration = json!({
        "sampleSeconds": 1,
        "quarantine": {"enforcement": "observe", "shadow": {"classic": false, "named": ""}},
        "discovery": {"registration": false, "unknownDevices": "ignore"},
        "customMetrics": [{"name": "num_child_procs_myap", "source": "childProcesses", "process": "myapp"}],
        "detect": {"profiles": [no_children()]},
    });
    std::fs::write(&config, configuration.to_string()).unwrap();
    let standalone = dir.path().join("agent");
    let mut command = support::binary::command(&["run", "--standalone", standalone.to_str().unwrap()]);
    command.args(["--config", config.to_str().unwrap()]);
    let socket = standalone.join("control.sock");
    let agent = Agent::spawn(command, &socket);
    let alarms = || ask(&socket, &Request::Alarms).unwrap_or(Value::Null);
    // the positive control: it is seen, and has no child
    agent.wait_status("myapp is seen without children", |status| {
        (status["customMetrics"]["num_child_procs_myap"]["number"] == 0.0).then_some(())
    });
    assert!(until(SOON, || alarms()["active"] == json!([])), "{}", agent.log());
    myapp.line();
    assert!(until(SOON, || active(&alarms()).is_some()), "{}", agent.log());
    let mut row = Value::Null;
    let lasts = until(SOON, || {
        row = active(&alarms()).cloned().unwrap_or_default();
        row.is_object()
    });
    assert!(lasts, "{}", agent.log());
    assert_eq!(row["lastValue"], json!({"number": 1}));
    assert_eq!(row["normal"], "less-than-equals 0");
    myapp.line();
    assert!(until(SOON, || alarms()["active"] == json!([])), "{}", agent.log());
    let events = || published(&standalone, "iotcore");
    assert!(until(SOON, || events().len() >= 2), "{:#?}", events());
    let events = events();
    assert_eq!(types(&events), ["in-alarm", "alarm-cleared"]);
    assert_eq!(events[0]["behavior"]["metric"], "num_child_procs_myap");
}
