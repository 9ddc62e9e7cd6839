//! The shadow protocol end to end: the shipped binary with the recipe's own accessControl, the test nucleus' shadow
//! service, and real rules in a network namespace with a bridge as the LAN.
//!
//! A thing called `marker` is not quarantined by anybody: what was said before its shadow changed has been heard when
//! its shadow is read, so "nothing happened" can be told from "nothing happened yet".
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::needless_pass_by_value,
    reason = "tests: the first surprise ends them, in helpers too, and json!(..) is written where it is used"
)]

mod support;

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use edge_warden::control::{Request, ask};
use serde_json::{Value, json};
use support::binary::{Agent, SOON, access_control, agent_seconds, run_command, with_shadows};
use support::netns::{Namespace, ip};
use support::nucleus::{Kind, Misbehave, Seen, Settings, TestNucleus};

const KINDS: [Kind; 2] = [Kind::Classic, Kind::Lite];
const CAM_1: &str = "02:00:00:00:00:01";
const NAMED: Option<&str> = Some("quarantine");

/// A gateway with a nucleus, a LAN and the devices cam-1, cam-2 and marker.
struct Gateway {
    agent: Agent,
    nucleus: TestNucleus,
    lan: Namespace,
    directory: tempfile::TempDir,
    /// Epoch seconds of the shadow service.
    clock: Arc<AtomicU64>,
    marks: u64,
}

fn settings(kind: Kind, changes: Value) -> Settings {
    let devices = json!({
        // reports have tests of their own; here they would be in the way of counting publishes
        "report": {"core": false},
        "devices": [
            {"thingName": "cam-1", "macs": [CAM_1], "addresses": ["10.20.0.11"], "report": false},
            {"thingName": "cam-2", "macs": ["02:00:00:00:00:02"], "report": false},
            {"thingName": "marker", "macs": ["02:00:00:00:00:03"], "report": false},
        ],
        "discovery": {"registration": false},
        // the agent has a network namespace of its own here
        "quarantine": {"enforcement": "enforce"},
    });
    let mut configuration = with_shadows(devices);
    for (key, value) in changes.as_object().unwrap() {
        configuration[key] = value.clone();
    }
    Settings {
        configuration,
        access_control: Some(access_control()),
        ..match kind {
            Kind::Classic => Settings::classic(),
            Kind::Lite => Settings::lite(),
        }
    }
}

fn desired(value: Value) -> Value {
    json!({"state": {"desired": {"quarantine": value}}})
}

impl Gateway {
    fn start(kind: Kind) -> Self {
        Self::start_with(settings(kind, json!({})), 1, |_| ())
    }

    /// The agent's clocks run `factor` times as fast as time; `before` prepares the cloud.
    fn start_with(mut settings: Settings, factor: u32, before: impl FnOnce(&TestNucleus)) -> Self {
        let clock = Arc::new(AtomicU64::new(agent_seconds(1)));
        let reading = Arc::clone(&clock);
        settings.enforce_rate = Some(Arc::new(move || reading.load(Ordering::SeqCst)));
        let nucleus = TestNucleus::start(settings);
        before(&nucleus);
        let lan = Namespace::new();
        lan.run(|| {
            ip("link add br0 type bridge");
            ip("link add port0 master br0 type veth peer name device0");
            ip("link set device0 up");
            ip("address add 10.20.0.1/24 dev br0");
            ip("link set port0 up");
            ip("link set br0 up");
        });
        let directory = tempfile::tempdir().unwrap();
        let command = run_command(&nucleus, directory.path(), factor);
        let socket = directory.path().join("control.sock");
        let agent = lan.run(move || Agent::spawn(command, &socket));
        Self {
            agent,
            nucleus,
            lan,
            directory,
            clock,
            marks: 0,
        }
    }

    /// A second passes for the shadow service: its timestamps are no finer.
    fn a_second_passes(&self) {
        self.clock.fetch_add(1, Ordering::SeqCst);
    }

    fn write(&self, thing: &str, name: Option<&str>, document: &Value) {
        self.nucleus.shadow_update(thing, name, document).unwrap();
    }

    fn demand(&self, thing: &str, name: Option<&str>, value: Value) {
        self.write(thing, name, &desired(value));
    }

    fn ask(&self, request: &Request) -> Value {
        ask(&self.directory.path().join("control.sock"), request).unwrap()
    }

    /// The causes of a thing's quarantine.
    fn causes(&self, thing: &str) -> Vec<String> {
        let request = Request::QuarantineWhy {
            thing: thing.parse().unwrap(),
        };
        let causes = self.ask(&request)["causes"].clone();
        let name = |cause: &Value| cause["cause"].as_str().unwrap().to_owned();
        causes.as_array().unwrap().iter().map(name).collect()
    }

    fn release(&self, thing: &str) {
        self.ask(&Request::QuarantineRelease {
            thing: thing.parse().unwrap(),
        });
    }

    /// Whether the kernel drops what this MAC address sends.
    fn kernel_cuts(&self, mac: &'static str) -> bool {
        self.lan.run(move || {
            let output = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
            assert!(output.status.success());
            let ruleset = String::from_utf8(output.stdout).unwrap();
            // the tables of the quarantine; those that count know every device
            ruleset
                .split("table ")
                .filter(|table| table.split_whitespace().nth(1) == Some("edge_warden"))
                .any(|table| table.contains(mac))
        })
    }

    /// Waits until a shadow's reported quarantine is `value` and no delta is left.
    fn agrees(&self, thing: &str, name: Option<&str>, value: &Value) -> Value {
        self.nucleus.wait_shadow(thing, name, SOON, |document| {
            document["state"]["reported"]["quarantine"] == *value && document["state"].get("delta").is_none()
        })
    }

    /// Waits until all that happened so far has been heard, read and answered.
    fn settle(&mut self) {
        self.marks += 1;
        let mark = json!({"state": {"reported": {"mark": self.marks}}});
        let reads = |seen: &Seen| {
            let ours = |request: &&support::nucleus::Request| {
                request.body["topicName"] == "$aws/things/marker/shadow/get"
                    || request.operation == "GetThingShadow" && request.body["thingName"] == "marker"
            };
            seen.requests.iter().filter(ours).count()
        };
        self.idle();
        let before = reads(&self.nucleus.seen());
        self.write("marker", None, &mark);
        self.nucleus
            .wait_for("the marker is read", SOON, |seen| (reads(seen) > before).then_some(()));
        self.idle();
    }

    fn idle(&self) {
        self.agent.wait_status("nothing left to do", |status| {
            let shadows = &status["shadows"];
            let idle = ["toRead", "toSend", "underWay"].iter().all(|what| shadows[what] == 0);
            (idle && shadows["documents"] == 8 && status["subscriptions"]["held"] == status["subscriptions"]["wanted"])
                .then_some(())
        });
    }

    /// How often a topic was published to.
    fn published(&self, topic: &str) -> usize {
        self.nucleus
            .published()
            .iter()
            .filter(|message| message.topic == topic)
            .count()
    }
}

#[test]
fn every_known_shadow_is_read_once_at_the_start() {
    for kind in KINDS {
        let gateway = Gateway::start_with(settings(kind, json!({})), 1, |nucleus| {
            nucleus.shadow_update("cam-2", NAMED, &desired(json!(true))).unwrap();
        });
        gateway.agrees("cam-2", NAMED, &json!(true));
        gateway.idle();
        let topics = gateway.nucleus.published().into_iter().map(|message| message.topic);
        let mut topics: Vec<String> = topics.filter(|topic| topic.ends_with("/get")).collect();
        topics.sort();
        let mut expected = Vec::new();
        for thing in ["cam-1", "cam-2", "gateway-1", "marker"] {
            expected.push(format!("$aws/things/{thing}/shadow/get"));
            expected.push(format!("$aws/things/{thing}/shadow/name/quarantine/get"));
        }
        // the one that was answered is read once more, for what it says then
        expected.push("$aws/things/cam-2/shadow/name/quarantine/get".to_owned());
        expected.sort();
        assert_eq!(topics, expected, "{kind:?}");
        assert_eq!(gateway.nucleus.seen().violations, [""; 0]);
    }
}

#[test]
fn the_workshops_update_cuts_the_device_and_leaves_no_delta() {
    for kind in KINDS {
        let mut gateway = Gateway::start(kind);
        gateway.settle();
        assert!(!gateway.kernel_cuts(CAM_1));
        gateway.demand("cam-1", None, json!(true));
        let document = gateway.agrees("cam-1", None, &json!(true));
        let status = &document["state"]["reported"]["quarantineStatus"];
        assert_eq!(
            (&status["enforced"], &status["causes"]),
            (&json!(true), &json!(["shadow"]))
        );
        assert!(gateway.kernel_cuts(CAM_1));

        gateway.a_second_passes();
        gateway.demand("cam-1", None, json!(false));
        let document = gateway.agrees("cam-1", None, &json!(false));
        assert_eq!(
            document["state"]["reported"]["quarantineStatus"],
            json!({"enforced": false, "causes": []})
        );
        assert!(!gateway.kernel_cuts(CAM_1));
        assert_eq!(
            gateway.published("$aws/things/cam-1/shadow/update"),
            2,
            "each told once"
        );
        assert_eq!(gateway.nucleus.seen().violations, [""; 0]);
    }
}

#[test]
fn our_own_report_neither_releases_nor_quarantines_again() {
    let mut gateway = Gateway::start(Kind::Classic);
    gateway.demand("cam-1", None, json!(true));
    gateway.agrees("cam-1", None, &json!(true));
    gateway.settle();
    assert_eq!(
        gateway.causes("cam-1"),
        ["shadow"],
        "the echo of the report did not release"
    );

    gateway.release("cam-1");
    let document = gateway.nucleus.wait_shadow("cam-1", None, SOON, |document| {
        document["state"]["reported"]["quarantine"] == false
    });
    let failure = &document["state"]["reported"]["quarantineStatus"]["failure"];
    assert!(failure.as_str().unwrap().contains("ended by the operator"), "{failure}");
    gateway.settle();
    assert_eq!(
        gateway.causes("cam-1"),
        [""; 0],
        "the echo of that report did not quarantine again"
    );
    gateway.a_second_passes();
    gateway.write(
        "cam-1",
        None,
        &json!({"state": {"desired": {"debug": "on"}, "reported": {"debug": "on"}}}),
    );
    gateway.settle();
    assert_eq!(gateway.causes("cam-1"), [""; 0], "nor did somebody's other keys");
    assert!(!gateway.kernel_cuts(CAM_1));

    gateway.demand("cam-1", None, json!(true));
    gateway.agrees("cam-1", None, &json!(true));
    assert_eq!(
        gateway.causes("cam-1"),
        ["shadow"],
        "written once more it counts once more"
    );
}

#[test]
fn the_cleared_key_releases_and_leaves_nothing_behind() {
    let mut gateway = Gateway::start(Kind::Lite);
    gateway.demand("cam-1", None, json!(true));
    gateway.agrees("cam-1", None, &json!(true));
    gateway.demand("cam-1", None, Value::Null);
    gateway
        .nucleus
        .wait_shadow("cam-1", None, SOON, |document| document["state"] == json!({}));
    gateway.settle();
    assert_eq!(gateway.causes("cam-1"), [""; 0]);
    assert!(!gateway.kernel_cuts(CAM_1));
}

#[test]
fn a_deleted_shadow_changes_nothing_and_is_not_brought_back() {
    let mut gateway = Gateway::start(Kind::Classic);
    gateway.demand("cam-1", None, json!(true));
    gateway.agrees("cam-1", None, &json!(true));
    gateway.settle();
    gateway.nucleus.shadow_delete("cam-1", None).unwrap();
    gateway.settle();
    assert_eq!(gateway.nucleus.shadow("cam-1", None), None);
    assert_eq!(gateway.causes("cam-1"), ["shadow"]);
    assert!(gateway.kernel_cuts(CAM_1));

    gateway.a_second_passes();
    gateway.write("cam-1", None, &json!({"state": {"reported": {"firmware": 2}}}));
    gateway.settle();
    assert_eq!(
        gateway.causes("cam-1"),
        ["shadow"],
        "one that never had the key says nothing"
    );
    gateway.a_second_passes();
    gateway.demand("cam-1", None, json!(false));
    gateway.agrees("cam-1", None, &json!(false));
    assert_eq!(gateway.causes("cam-1"), [""; 0]);
}

#[test]
fn a_document_older_than_the_last_decision_is_ignored() {
    let mut gateway = Gateway::start(Kind::Classic);
    gateway.demand("cam-1", None, json!(false));
    gateway.agrees("cam-1", None, &json!(false));
    let old = gateway.nucleus.shadow("cam-1", None).unwrap();
    gateway.a_second_passes();
    gateway.demand("cam-1", None, json!(true));
    gateway.agrees("cam-1", None, &json!(true));
    gateway.settle();
    let topic = "$aws/things/cam-1/shadow/get/accepted";
    assert_eq!(gateway.nucleus.deliver(topic, old.to_string().as_bytes()), 1);
    gateway.settle();
    assert_eq!(gateway.causes("cam-1"), ["shadow"]);
    // the same as the newest document does release: it is its age that made it harmless
    let mut new = old;
    let current = gateway.nucleus.shadow("cam-1", None).unwrap();
    new["version"] = json!(current["version"].as_u64().unwrap() + 1);
    new["timestamp"] = json!(current["timestamp"].as_u64().unwrap() + 1);
    new["metadata"]["desired"]["quarantine"]["timestamp"] = new["timestamp"].clone();
    assert_eq!(gateway.nucleus.deliver(topic, new.to_string().as_bytes()), 1);
    gateway.settle();
    assert_eq!(gateway.causes("cam-1"), [""; 0]);
}

/// As on nucleus lite when its MQTT daemon restarts. The heartbeat of 300 s comes every 10 s here.
#[test]
fn subscriptions_that_died_silently_are_noticed_and_renewed() {
    for kind in KINDS {
        let gateway = Gateway::start_with(settings(kind, json!({})), 30, |_| ());
        gateway.idle();
        assert!(gateway.nucleus.kill_subscriptions() > 0);
        gateway.demand("cam-1", NAMED, json!(true));
        gateway.agent.wait_log(&["a shadow was not answered; subscribing anew"]);
        gateway.agrees("cam-1", NAMED, &json!(true));
        gateway.demand("cam-2", None, json!(true));
        gateway.agrees("cam-2", None, &json!(true));
    }
}

#[test]
fn a_decision_made_offline_stands_and_is_reported_later() {
    let gateway = Gateway::start_with(settings(Kind::Lite, json!({})), 10, |nucleus| {
        nucleus.shadow_update("cam-1", None, &desired(json!(false))).unwrap();
    });
    gateway.agrees("cam-1", None, &json!(false));
    gateway.idle();
    gateway.nucleus.misbehave(Misbehave::Refuse {
        operation: "PublishToIoTCore".to_owned(),
        code: "ServiceError".to_owned(),
    });
    let why = gateway.ask(&Request::QuarantineAdd {
        thing: "cam-1".parse().unwrap(),
        posture: None,
        until: None,
        reason: None,
    });
    assert_eq!(why["enforced"], true, "{why}");
    assert!(gateway.kernel_cuts(CAM_1));
    let words = gateway
        .agent
        .wait_status("why", |status| status["shadows"]["error"].as_str().map(str::to_owned));
    assert!(words.contains("cam-1/shadow/update"), "{words}");
    assert_eq!(
        gateway.nucleus.shadow("cam-1", None).unwrap()["state"]["reported"]["quarantine"],
        false
    );
    gateway.nucleus.behave();
    let document = gateway.nucleus.wait_shadow("cam-1", None, SOON, |document| {
        document["state"]["reported"]["quarantine"] == true
    });
    let causes = &document["state"]["reported"]["quarantineStatus"]["causes"];
    assert_eq!(*causes, json!(["operator"]));
    gateway.idle();
    assert_eq!(gateway.agent.status()["shadows"]["error"], Value::Null);
}

#[test]
fn a_refused_update_is_made_anew_from_the_document_as_it_stands() {
    let gateway = Gateway::start_with(settings(Kind::Classic, json!({})), 10, |nucleus| {
        nucleus.shadow_update("cam-1", None, &desired(json!(false))).unwrap();
    });
    gateway.agrees("cam-1", None, &json!(false));
    gateway.idle();
    let update = "$aws/things/cam-1/shadow/update";
    let before = gateway.published(update);
    gateway.nucleus.misbehave_times(1, Misbehave::LosePublish);
    gateway.ask(&Request::QuarantineAdd {
        thing: "cam-1".parse().unwrap(),
        posture: None,
        until: None,
        reason: None,
    });
    let lost = gateway.nucleus.wait_for("the update", SOON, |seen| {
        let updates = seen.published.iter().filter(|message| message.topic == update);
        updates.skip(before).last().and_then(|message| message.json())
    });
    let refused = json!({"code": 409, "message": "Version conflict", "clientToken": lost["clientToken"]});
    gateway
        .nucleus
        .deliver(&format!("{update}/rejected"), refused.to_string().as_bytes());
    gateway.nucleus.wait_shadow("cam-1", None, SOON, |document| {
        document["state"]["reported"]["quarantine"] == true
    });
    let topics: Vec<String> = gateway
        .nucleus
        .published()
        .into_iter()
        .map(|message| message.topic)
        .collect();
    let tries: Vec<usize> = (0..topics.len())
        .filter(|n| topics[*n] == update)
        .skip(before)
        .collect();
    assert_eq!(tries.len(), 2, "{topics:?}");
    let between = &topics[tries[0]..tries[1]];
    assert!(
        between.contains(&"$aws/things/cam-1/shadow/get".to_owned()),
        "{between:?}"
    );
}

/// Lite delivers no message above 5,000 bytes, and a device can make its own shadow as large as that.
#[test]
fn on_lite_a_document_too_large_to_arrive_is_named_and_harms_no_other() {
    let filler = json!({"state": {"desired": {"quarantine": true}, "reported": {"filler": "x".repeat(6000)}}});
    // no faster: a read that a busy machine answers after 2 s is not one that never arrives
    let gateway = Gateway::start_with(settings(Kind::Lite, json!({})), 5, |nucleus| {
        nucleus.shadow_update("cam-1", None, &filler).unwrap();
    });
    gateway.demand("cam-2", None, json!(true));
    gateway.agrees("cam-2", None, &json!(true));
    gateway.demand("cam-1", NAMED, json!(true));
    gateway.agrees("cam-1", NAMED, &json!(true));
    let trouble = gateway.agent.wait_status("the trouble", |status| {
        let trouble = status["shadows"]["trouble"].as_array()?;
        trouble.iter().find(|entry| entry["thing"] == "cam-1").cloned()
    });
    assert_eq!(trouble["shadow"], "shadow");
    assert!(trouble["error"].as_str().unwrap().contains("4,900 bytes"), "{trouble}");
    assert_eq!(gateway.causes("cam-1"), ["shadow:quarantine"]);
    // tried again and again, without another loss of subscriptions for everybody
    let get = "$aws/things/cam-1/shadow/get";
    let tries = gateway.published(get);
    gateway.nucleus.wait_for("it is tried again", SOON, |seen| {
        (seen.published.iter().filter(|message| message.topic == get).count() >= tries + 2).then_some(())
    });
    let renewed = gateway.agent.log().matches("subscribing anew").count();
    assert_eq!(renewed, 1, "only the first time");
}

#[test]
fn without_the_shadow_manager_it_is_configured_for_it_says_so_and_tries_again() {
    for kind in KINDS {
        let by_manager = json!({"quarantine": {"shadow": {"source": "shadowManager"}}});
        let gateway = Gateway::start_with(settings(kind, by_manager), 30, |_| ());
        gateway.nucleus.wait_for("three tries", SOON, |seen| {
            let tries = seen
                .requests
                .iter()
                .filter(|request| request.operation == "GetThingShadow");
            (tries.count() >= 3).then_some(())
        });
        let error = gateway.agent.status()["shadows"]["error"].as_str().unwrap().to_owned();
        assert!(error.contains("GetThingShadow"), "{error}");
        gateway.ask(&Request::QuarantineAdd {
            thing: "cam-1".parse().unwrap(),
            posture: None,
            until: None,
            reason: None,
        });
        assert!(gateway.kernel_cuts(CAM_1), "the operator's word counts all the same");
    }
}

#[test]
fn shadow_manager_is_used_where_it_is_configured() {
    let by_manager = json!({"quarantine": {"shadow": {"source": "shadowManager"}}});
    let settings = Settings {
        shadow_manager: true,
        ..settings(Kind::Classic, by_manager)
    };
    let mut gateway = Gateway::start_with(settings, 1, |_| ());
    gateway.idle();
    for name in [None, NAMED] {
        gateway.demand("cam-1", name, json!(true));
        gateway.agrees("cam-1", name, &json!(true));
    }
    assert!(gateway.kernel_cuts(CAM_1));
    // what anybody may say on the local bus is a hint and no more
    let forged = json!({"state": {"desired": {"quarantine": false}}, "version": 99, "timestamp": u32::MAX});
    for step in ["get", "update", "delete"] {
        let topic = format!("$aws/things/cam-1/shadow/{step}/accepted");
        assert_eq!(gateway.nucleus.deliver_local(&topic, forged.to_string().as_bytes()), 1);
    }
    gateway.settle();
    assert_eq!(gateway.causes("cam-1"), ["shadow", "shadow:quarantine"]);
    gateway.a_second_passes();
    for name in [None, NAMED] {
        gateway.demand("cam-1", name, json!(false));
    }
    for name in [None, NAMED] {
        gateway.agrees("cam-1", name, &json!(false));
    }
    assert!(!gateway.kernel_cuts(CAM_1));
    assert_eq!(gateway.nucleus.published(), [], "nothing past ShadowManager");
    let unused = gateway.nucleus.unused_grants();
    let unused: Vec<_> = unused
        .iter()
        .filter(|grant| !grant.service.ends_with("mqttproxy"))
        .filter(|grant| {
            // registration, pushed metrics and events: other tests'
            !["pubsub:1", "pubsub:3", "pubsub:4"]
                .iter()
                .any(|policy| grant.policy.ends_with(policy))
        })
        .collect();
    assert!(unused.is_empty(), "{unused:?}");
    assert_eq!(gateway.nucleus.seen().violations, [""; 0]);
}

#[test]
fn the_cores_own_shadow_is_answered_and_nothing_is_cut() {
    let mut gateway = Gateway::start(Kind::Classic);
    gateway.demand("gateway-1", None, json!(true));
    let document = gateway.nucleus.wait_shadow("gateway-1", None, SOON, |document| {
        document["state"]["reported"]["quarantineStatus"].is_object()
    });
    let reported = &document["state"]["reported"];
    assert_eq!(reported["quarantine"], false);
    assert_eq!(reported["quarantineStatus"]["enforced"], false);
    assert_eq!(reported["quarantineStatus"]["failure"], "not supported");
    gateway.settle();
    let why = gateway.ask(&Request::QuarantineWhy {
        thing: "gateway-1".parse().unwrap(),
    });
    assert_eq!(why["decision"]["refused"], "not supported", "{why}");
    assert_eq!(why["enforced"], Value::Null, "{why}");
}

#[test]
fn the_object_form_and_the_two_shadows_of_a_thing() {
    let mut gateway = Gateway::start(Kind::Classic);
    let object = json!({"mode": "remediate", "until": "2099-01-01T00:00:00Z", "reason": "ticket 4711"});
    gateway.demand("cam-1", NAMED, object.clone());
    let document = gateway.agrees("cam-1", NAMED, &object);
    let status = &document["state"]["reported"]["quarantineStatus"];
    assert_eq!(status["mode"], "remediate");
    assert_eq!(status["until"], "2099-01-01T00:00:00Z");
    assert_eq!(status["causes"], json!(["shadow:quarantine"]));

    gateway.demand("cam-1", None, json!(true));
    let document = gateway.agrees("cam-1", None, &json!(true));
    let status = &document["state"]["reported"]["quarantineStatus"];
    assert_eq!(status["mode"], "isolate", "the strictest");
    assert_eq!(status.get("until"), None, "one of the two has no end");
    gateway.a_second_passes();
    gateway.demand("cam-1", NAMED, json!(false));
    gateway.nucleus.wait_shadow("cam-1", NAMED, SOON, |document| {
        document["state"]["reported"]["quarantineStatus"]["causes"] == json!(["shadow"])
    });
    gateway.settle();
    assert_eq!(gateway.causes("cam-1"), ["shadow"]);
    assert!(gateway.kernel_cuts(CAM_1));
    let named = gateway.nucleus.shadow("cam-1", NAMED).unwrap();
    assert_eq!(
        named["state"]["reported"]["quarantine"], true,
        "it says how things are, not what it wishes"
    );
}

#[test]
fn garbage_and_huge_messages_change_nothing() {
    let mut gateway = Gateway::start(Kind::Classic);
    gateway.demand("cam-1", None, json!(true));
    gateway.agrees("cam-1", None, &json!(true));
    gateway.settle();
    let huge = json!({"state": {"desired": {"quarantine": false, "x": "y".repeat(120_000)}}, "version": 1_000_000});
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let payloads: [&[u8]; 8] = [
        b"",
        b"\xff\xfe\x00",
        b"{\"state\":",
        b"[]",
        br#"{"version":"1","state":{"desired":{"quarantine":false}}}"#,
        br#"{"version":1000000,"state":7}"#,
        deep.as_bytes(),
        &huge.to_string().into_bytes(),
    ];
    for payload in payloads {
        for step in [
            "get/accepted",
            "get/rejected",
            "update/accepted",
            "update/rejected",
            "delete/accepted",
        ] {
            let topic = format!("$aws/things/cam-1/shadow/{step}");
            assert_eq!(gateway.nucleus.deliver(&topic, payload), 1, "{step}");
        }
    }
    gateway.settle();
    assert_eq!(gateway.causes("cam-1"), ["shadow"]);
    assert!(gateway.kernel_cuts(CAM_1));
    // the last is more than the SDK hands on (65,535 bytes in base64)
    let malformed = &gateway.agent.status()["shadows"]["malformed"];
    assert_eq!(*malformed, payloads.len() - 1);
    let wrong = json!("yes");
    gateway.a_second_passes();
    gateway.demand("cam-1", None, wrong);
    let document = gateway.nucleus.wait_shadow("cam-1", None, SOON, |document| {
        document["state"]["reported"]["quarantineStatus"]["failure"].is_string()
    });
    assert_eq!(document["state"]["reported"]["quarantine"], true);
    assert_eq!(gateway.causes("cam-1"), ["shadow"]);
}

/// 10,000 changes of one device's shadow within a second or so: whoever else is to be cut off is, in the middle of it,
/// memory stays bounded, and nothing is left to do afterwards.
#[test]
fn ten_thousand_deltas_starve_nobody_and_cost_no_memory() {
    const DELTAS: u32 = 10_000;
    let mut gateway = Gateway::start(Kind::Classic);
    gateway.settle();
    let before = gateway.agent.resident_kib();
    std::thread::scope(|scope| {
        let nucleus = &gateway.nucleus;
        let flood = scope.spawn(move || {
            for n in 0..DELTAS {
                // desired and not reported: each is announced as accepted, delta and documents
                let document = json!({"state": {"desired": {"noise": n}}});
                nucleus.shadow_update("cam-1", None, &document).unwrap();
            }
        });
        gateway.demand("cam-2", None, json!(true));
        gateway.agrees("cam-2", None, &json!(true));
        assert_eq!(gateway.agent.status()["quarantine"]["quarantined"], 1);
        flood.join().unwrap();
    });
    // what it says at last counts, too
    gateway.a_second_passes();
    gateway.demand("cam-1", None, json!(true));
    gateway.nucleus.wait_shadow("cam-1", None, SOON, |document| {
        document["state"]["reported"]["quarantine"] == true
    });
    gateway.settle();
    let grown = gateway.agent.resident_kib().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB more than before the flood");
    let status = gateway.agent.status();
    println!(
        "{grown} KiB more than before; {} messages dropped",
        status["droppedMessages"]
    );
    assert_eq!(gateway.causes("cam-1"), ["shadow"]);
    assert!(gateway.kernel_cuts(CAM_1));
}
