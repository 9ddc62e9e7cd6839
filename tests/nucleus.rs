//! The test nucleus itself is tested here, with a small client of our own and with AWS's (PyPI `awsiotsdk`).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests: the first surprise ends them, in helpers too"
)]

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use support::nucleus::client::Client;
use support::nucleus::frame::{self, Frame, FrameError};
use support::nucleus::{Destination, Kind, Malformed, Misbehave, Settings, TestNucleus};

const SOON: Duration = Duration::from_secs(30);

fn publish(topic: &str, payload: &[u8]) -> Value {
    json!({"topicName": topic, "qos": "1", "payload": BASE64_STANDARD.encode(payload)})
}

fn report(id: u64) -> Vec<u8> {
    let report = json!({"header": {"report_id": id, "version": "1.0"}, "metrics": {"network_stats": {"bytes_in": 1}}});
    report.to_string().into_bytes()
}

/// The payload of an `IoTCoreMessage`.
fn payload(event: &Value) -> Value {
    let bytes = BASE64_STANDARD
        .decode(event["message"]["payload"].as_str().unwrap())
        .unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

const METRICS: &str = "$aws/things/gateway-1/defender/metrics/json";

/// A client that listens to Defender's answers.
fn reporting(nucleus: &TestNucleus) -> Client {
    let mut client = Client::connect(nucleus);
    client
        .call(
            "SubscribeToIoTCore",
            &json!({"topicName": format!("{METRICS}/+"), "qos": "1"}),
        )
        .unwrap();
    client
}

/// AWS's client, as a child process.
struct AwsClient {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl AwsClient {
    fn start(nucleus: &TestNucleus, part: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = root.join(".venv/bin/python");
        assert!(python.exists(), "no {}: run `make venv`", python.display());
        let mut child = Command::new(python)
            .arg(root.join("tests/cross/awsiotsdk_client.py"))
            .arg(part)
            .env_clear()
            .envs(nucleus.env())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    fn step(&mut self, name: &str) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        let step: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("instead of step {name}: {line:?}"));
        assert_eq!(step["step"], name, "{step}");
        step
    }

    fn end(mut self) {
        self.step("end");
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for AwsClient {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn grants() -> Value {
    json!({
        "aws.greengrass.ipc.mqttproxy": {
            "p:mqttproxy:1": {
                "operations": ["aws.greengrass#PublishToIoTCore"],
                "resources": ["$aws/things/+/defender/metrics/json", "$aws/things/+/defender/metrics/cbor"]
            },
            "p:mqttproxy:2": {
                "operations": ["aws.greengrass#SubscribeToIoTCore"],
                "resources": ["$aws/things/*/defender/metrics/*"]
            }
        },
        "aws.greengrass.ipc.pubsub": {
            "p:pubsub:1": {
                "operations": ["aws.greengrass#PublishToTopic", "aws.greengrass#SubscribeToTopic"],
                "resources": ["edge-warden/*"]
            }
        }
    })
}

/// The proof that it speaks the protocol and not our idea of it; on both nuclei, since their answers differ in framing.
#[test]
fn awss_client_works_against_it() {
    for settings in [Settings::classic(), Settings::lite()] {
        let kind = settings.kind;
        let nucleus = TestNucleus::start(Settings {
            configuration: json!({"report": {"intervalSeconds": 300, "format": "json"}}),
            access_control: Some(grants()),
            ..settings
        });
        let mut aws = AwsClient::start(&nucleus, "all");
        let step = aws.step("configuration");
        assert_eq!(step["value"], json!({"intervalSeconds": 300, "format": "json"}));
        assert_eq!(step["leaf"], json!({"intervalSeconds": 300}));
        assert_eq!(nucleus.states(), ["RUNNING"]);

        aws.step("watching");
        assert_eq!(nucleus.seen().configuration_watchers, 1);
        nucleus.set_configuration(json!({"report": {"intervalSeconds": 600}}));
        let step = aws.step("changed");
        assert_eq!(step["component"], "dev.edgewarden.EdgeWarden");
        assert_eq!(step["key_path"], json!(["report"]));
        assert_eq!(step["value"], json!({"intervalSeconds": 600}));
        nucleus.wait_for("the configuration is no longer watched", SOON, |seen| {
            (seen.configuration_watchers == 0).then_some(())
        });

        let step = aws.step("accepted");
        assert_eq!(step["topic"], format!("{METRICS}/accepted"));
        assert_eq!(step["body"]["reportId"], 1);
        assert_eq!(step["body"]["status"], "ACCEPTED");
        let step = aws.step("accepted-cbor");
        assert_eq!(step["topic"], "$aws/things/gateway-1/defender/metrics/cbor/accepted");
        assert_eq!(step["body"]["reportId"], 2);
        let step = aws.step("rejected");
        assert_eq!(
            step["body"]["statusDetails"],
            json!({"ErrorCode": "InvalidPayload", "ErrorMessage": "Malformed metrics report"})
        );
        let verdicts: Vec<bool> = nucleus.reports().iter().map(|report| report.verdict.is_ok()).collect();
        assert_eq!(verdicts, [true, true, false]);
        assert_eq!(nucleus.published()[0].qos, Some(1));

        // That it was an UnauthorizedError the script has checked; lite sends no text AWS's client looks at.
        let step = aws.step("unauthorized");
        assert_eq!(step["message"].is_string(), kind == Kind::Classic, "{step}");
        let step = aws.step("local");
        assert_eq!(step["binary"], json!([0, 255]));
        assert_eq!(step["json"], json!({"a": 1}));
        aws.end();
        assert_eq!(nucleus.unused_grants(), []);
        assert_eq!(nucleus.seen().violations, Vec::<String>::new(), "{kind:?}");
        nucleus.wait_for("the client is gone", SOON, |seen| (seen.connected == 0).then_some(()));
        assert_eq!(nucleus.seen().iot_core_filters, Vec::<String>::new());
    }
}

/// The other client of AWS, the one the agent is built with: one connection per process, so in a child of this test.
#[test]
fn the_rust_sdk_works_against_it() {
    for settings in [Settings::classic(), Settings::lite()] {
        let nucleus = TestNucleus::start(Settings {
            configuration: json!({"report": {"format": "cbor"}}),
            access_control: Some(grants()),
            ..settings
        });
        let child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "child_of_the_rust_sdk_works_against_it",
                "--ignored",
                "--nocapture",
            ])
            .envs(nucleus.env())
            .status()
            .unwrap();
        assert!(child.success());
        assert_eq!(nucleus.states(), ["RUNNING"]);
        assert_eq!(nucleus.reports().len(), 1);
        assert_eq!(nucleus.seen().violations, Vec::<String>::new());
        nucleus.wait_for("the child is gone", SOON, |seen| (seen.connected == 0).then_some(()));
    }
}

#[test]
#[ignore = "run by the_rust_sdk_works_against_it, in the environment of a component"]
fn child_of_the_rust_sdk_works_against_it() {
    let sdk = gg_sdk::Sdk::init();
    sdk.connect().unwrap();
    let mut memory = [const { std::mem::MaybeUninit::uninit() }; 1000];
    assert_eq!(
        sdk.get_config_str(&["report", "format"], None, &mut memory).unwrap(),
        "cbor"
    );
    assert_eq!(
        sdk.get_config_str(&["nothing"], None, &mut memory).err(),
        Some(gg_sdk::Error::Noentry)
    );
    let (heard, answers) = std::sync::mpsc::channel();
    let forward = move |topic: &str, payload: &[u8]| heard.send((topic.to_owned(), payload.to_vec())).unwrap();
    let filter = format!("{METRICS}/accepted");
    let subscription = sdk
        .subscribe_to_iot_core(&filter, gg_sdk::Qos::AtLeastOnce, &forward)
        .unwrap();
    sdk.publish_to_iot_core(METRICS, &report(1), gg_sdk::Qos::AtLeastOnce)
        .unwrap();
    let (topic, payload) = answers.recv_timeout(SOON).unwrap();
    assert_eq!(topic, filter);
    assert_eq!(serde_json::from_slice::<Value>(&payload).unwrap()["status"], "ACCEPTED");
    let refused = sdk.publish_to_iot_core("other/topic", b"{}", gg_sdk::Qos::AtLeastOnce);
    assert_eq!(refused.err(), Some(gg_sdk::Error::Unsupported));
    let mut memory = [const { std::mem::MaybeUninit::uninit() }; 1000];
    assert_eq!(
        sdk.get_thing_shadow("cam-1", None, &mut memory).err(),
        Some(gg_sdk::Error::Retry)
    );
    sdk.update_state(gg_sdk::ComponentState::Running).unwrap();
    drop(subscription);
}

#[test]
fn awss_client_uses_shadows() {
    let nucleus = TestNucleus::start(Settings {
        access_control: Some(json!({
            "aws.greengrass.ShadowManager": {"p": {
                "operations": ["aws.greengrass#GetThingShadow", "aws.greengrass#UpdateThingShadow",
                               "aws.greengrass#DeleteThingShadow"],
                "resources": ["$aws/things/*/shadow/name/*"]},
                "q": {"operations": ["aws.greengrass#ListNamedShadowsForThing"], "resources": ["*"]}},
            "aws.greengrass.ipc.pubsub": {"r": {
                "operations": ["aws.greengrass#SubscribeToTopic"], "resources": ["$aws/things/*/shadow/*"]}}
        })),
        shadow_manager: true,
        ..Settings::classic()
    });
    let mut aws = AwsClient::start(&nucleus, "shadows");
    let step = aws.step("shadows");
    assert_eq!(step["accepted"]["version"], 1);
    assert_eq!(step["delta"]["state"], json!({"quarantine": true}));
    assert_eq!(
        step["document"]["state"],
        json!({"desired": {"quarantine": true}, "delta": {"quarantine": true}})
    );
    assert_eq!(step["conflict"], "Version conflict");
    assert_eq!(step["names"], json!(["quarantine"]));
    assert_eq!(step["deleted"]["version"], 1);
    aws.end();
    assert_eq!(nucleus.shadow("cam-1", Some("quarantine")), None);
    assert_eq!(nucleus.unused_grants(), []);
}

#[test]
fn without_a_shadow_manager_shadow_operations_are_service_errors() {
    for settings in [Settings::classic(), Settings::lite()] {
        let nucleus = TestNucleus::start(settings);
        let mut aws = AwsClient::start(&nucleus, "no-shadows");
        aws.step("no-shadows");
        aws.end();
    }
}

#[test]
fn a_wrong_token_is_refused_as_each_nucleus_does() {
    let classic = TestNucleus::start(Settings::classic());
    assert_eq!(Client::connect_with(&classic, "wrong").err(), Some(Some(0)));
    let lite = TestNucleus::start(Settings::lite());
    assert_eq!(Client::connect_with(&lite, "wrong").err(), Some(None));
    for nucleus in [classic, lite] {
        assert_eq!(nucleus.seen().violations, ["connect with a wrong token"]);
        assert_eq!(nucleus.seen().connections, 0);
    }
}

#[test]
fn the_environment_is_a_components() {
    for (settings, name) in [(Settings::classic(), "ipc.socket"), (Settings::lite(), "gg-ipc.socket")] {
        let nucleus = TestNucleus::start(settings);
        let env: std::collections::BTreeMap<_, _> = nucleus.env().into_iter().collect();
        assert_eq!(env["SVCUID"].len(), 16);
        assert_eq!(env["AWS_IOT_THING_NAME"], "gateway-1");
        let socket = Path::new(&env["AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"]);
        assert_eq!(socket.file_name().unwrap(), name);
        assert!(socket.exists());
        nucleus.stop();
        assert!(!socket.exists());
    }
}

#[test]
fn reports_too_close_together_are_throttled() {
    let time = Arc::new(AtomicU64::new(1_000_000));
    let clock = Arc::clone(&time);
    let nucleus = TestNucleus::start(Settings {
        enforce_rate: Some(Arc::new(move || clock.load(Ordering::SeqCst))),
        ..Settings::classic()
    });
    let mut client = reporting(&nucleus);
    let mut answer = |id: u64, after: u64| {
        time.store(1_000_000 + after, Ordering::SeqCst);
        client.call("PublishToIoTCore", &publish(METRICS, &report(id))).unwrap();
        payload(&client.event())
    };
    assert_eq!(
        answer(1, 0),
        json!({"thingName": "gateway-1", "reportId": 1, "status": "ACCEPTED", "timestamp": 1_000_000_000_u64})
    );
    assert_eq!(
        answer(2, 299),
        json!({"thingName": "gateway-1", "status": "REJECTED", "timestamp": 1_000_299_000_u64,
               "statusDetails": {"ErrorCode": "Throttled", "ErrorMessage": "Too many reports"}})
    );
    assert_eq!(answer(3, 300)["status"], "ACCEPTED");
}

#[test]
fn it_misbehaves_on_demand() {
    let nucleus = TestNucleus::start(Settings::classic());
    let mut client = reporting(&nucleus);
    let send = publish(METRICS, &report(1));

    nucleus.misbehave_times(
        1,
        Misbehave::Refuse {
            operation: "PublishToIoTCore".into(),
            code: "ServiceError".into(),
        },
    );
    assert_eq!(client.call("PublishToIoTCore", &send), Err("ServiceError".to_owned()));
    assert_eq!(nucleus.reports().len(), 0);

    nucleus.misbehave_times(
        1,
        Misbehave::RejectReports {
            code: "Throttled".into(),
        },
    );
    client.call("PublishToIoTCore", &send).unwrap();
    assert_eq!(payload(&client.event())["statusDetails"]["ErrorCode"], "Throttled");

    nucleus.misbehave_times(1, Misbehave::GarbageReplies);
    client.call("PublishToIoTCore", &send).unwrap();
    let event = client.event();
    let bytes = BASE64_STANDARD
        .decode(event["message"]["payload"].as_str().unwrap())
        .unwrap();
    assert!(serde_json::from_slice::<Value>(&bytes).is_err());

    // Swallowed and lost: the next thing heard is the answer to the third report.
    nucleus.misbehave_times(1, Misbehave::SwallowReplies);
    client.call("PublishToIoTCore", &publish(METRICS, &report(2))).unwrap();
    nucleus.misbehave_times(1, Misbehave::LosePublish);
    client.call("PublishToIoTCore", &publish(METRICS, &report(3))).unwrap();
    client.call("PublishToIoTCore", &publish(METRICS, &report(4))).unwrap();
    assert_eq!(payload(&client.event())["reportId"], 4);
    assert_eq!(
        nucleus
            .reports()
            .iter()
            .filter_map(|report| report.report_id)
            .collect::<Vec<_>>(),
        [1, 1, 2, 4]
    );

    // Answers may overtake a delayed one.
    nucleus.misbehave_times(
        1,
        Misbehave::Delay {
            operation: "GetConfiguration".into(),
            by: Duration::from_secs(1),
        },
    );
    let late = client.request("GetConfiguration", &json!({}));
    client.call("UpdateState", &json!({"state": "RUNNING"})).unwrap();
    assert_eq!(client.receive().unwrap().stream, late);

    nucleus.misbehave(Misbehave::NeverAnswer { operation: "*".into() });
    client.request("UpdateState", &json!({"state": "ERRORED"}));
    nucleus.wait_for("the unanswered request", SOON, |seen| {
        (seen.requests.last()?.outcome == support::nucleus::Outcome::Unanswered).then_some(())
    });
    nucleus.behave();
    client.call("UpdateState", &json!({"state": "RUNNING"})).unwrap();
    assert_eq!(nucleus.states(), ["RUNNING", "RUNNING"]);

    assert_eq!(nucleus.kill_subscriptions(), 1);
    assert_eq!(nucleus.deliver(&format!("{METRICS}/accepted"), b"{}"), 0);

    nucleus.misbehave(Misbehave::Disconnect {
        operation: "UpdateState".into(),
    });
    client.request("UpdateState", &json!({"state": "RUNNING"}));
    assert!(matches!(client.receive(), Err(FrameError::Closed)));
}

#[test]
fn it_sends_what_no_client_should_get() {
    let nucleus = TestNucleus::start(Settings::classic());
    let mut client = reporting(&nucleus);
    nucleus.send_malformed(Malformed::Oversized);
    assert!(client.receive().unwrap().payload.len() > 300_000);
    nucleus.send_malformed(Malformed::UnknownStream);
    assert_eq!(client.receive().unwrap().stream, i32::MAX);
    for broken in [Malformed::NotJson, Malformed::WrongShape, Malformed::NotBase64] {
        nucleus.send_malformed(broken);
        assert_eq!(client.receive().unwrap().stream, 1, "{broken:?}");
    }
    nucleus.send_malformed(Malformed::WrongCrc);
    assert!(matches!(client.receive(), Err(FrameError::Malformed(_))));
    nucleus.send_malformed(Malformed::Truncated);
    assert!(matches!(client.receive(), Err(FrameError::Closed)));
    let mut client = reporting(&nucleus);
    nucleus.send_malformed(Malformed::Garbage);
    assert!(matches!(
        client.receive(),
        Err(FrameError::TooLarge(_) | FrameError::Malformed(_))
    ));
}

#[test]
fn lite_carries_little() {
    let nucleus = TestNucleus::start(Settings::lite());
    let mut client = Client::connect(&nucleus);
    client
        .call("SubscribeToIoTCore", &json!({"topicName": "a/#", "qos": "1"}))
        .unwrap();
    assert_eq!(nucleus.deliver("a/b", &[0; 4_900]), 1);
    assert_eq!(client.event()["message"]["topicName"], "a/b");
    assert_eq!(nucleus.deliver("a/b", &[0; 5_000]), 0);
    client.call("PublishToIoTCore", &publish("x", &[0; 7_200])).unwrap();
    client.request("PublishToIoTCore", &publish("x", &[0; 7_500]));
    assert!(matches!(client.receive(), Err(FrameError::Closed)));
    assert_eq!(nucleus.published().len(), 1);

    let classic = TestNucleus::start(Settings::classic());
    let mut client = Client::connect(&classic);
    client
        .call("PublishToIoTCore", &publish("x", &[0; 128 * 1024]))
        .unwrap();
    let too_large = client.call("PublishToIoTCore", &publish("x", &[0; 128 * 1024 + 1]));
    assert_eq!(too_large, Err("ServiceError".to_owned()));
}

#[test]
fn streams_end_as_each_nucleus_ends_them() {
    for (settings, flags) in [(Settings::classic(), frame::TERMINATE_STREAM), (Settings::lite(), 0)] {
        let kind = settings.kind;
        let nucleus = TestNucleus::start(settings);
        let mut client = Client::connect(&nucleus);
        client.request("GetConfiguration", &json!({}));
        assert_eq!(client.receive().unwrap().flags, flags, "{kind:?}");
        let stream = client.request("SubscribeToTopic", &json!({"topic": "t"}));
        assert_eq!(client.receive().unwrap().flags, 0);
        assert_eq!(nucleus.deliver_local("t", b"1"), 1);
        assert_eq!(
            client.event()["binaryMessage"],
            json!({"message": "MQ==", "context": {"topic": "t"}})
        );
        client.send(&Frame {
            message_type: frame::APPLICATION_MESSAGE,
            flags: frame::TERMINATE_STREAM,
            stream,
            ..Frame::default()
        });
        nucleus.wait_for("no subscription", SOON, |seen| {
            seen.local_filters.is_empty().then_some(())
        });
        assert_eq!(nucleus.deliver_local("t", b"2"), 0);
        client.send(&Frame {
            message_type: frame::PING,
            payload: b"p".to_vec(),
            ..Frame::default()
        });
        let pong = client.receive().unwrap();
        assert_eq!(
            (pong.message_type, pong.payload.as_slice()),
            (frame::PING_RESPONSE, &b"p"[..])
        );
    }
}

/// Classic: a filter with a wildcard does not hear the component's own messages; lite: it does.
#[test]
fn local_messages_of_its_own() {
    for settings in [Settings::classic(), Settings::lite()] {
        let kind = settings.kind;
        let nucleus = TestNucleus::start(settings);
        let mut client = Client::connect(&nucleus);
        client.call("SubscribeToTopic", &json!({"topic": "t/+"})).unwrap();
        let message = json!({"topic": "t/own", "publishMessage": {"jsonMessage": {"message": {"a": 1}}}});
        client.call("PublishToTopic", &message).unwrap();
        assert_eq!(nucleus.deliver_local("t/other", b"x"), 1);
        let first = client.event();
        let heard = if kind == Kind::Lite {
            &first["jsonMessage"]
        } else {
            &first["binaryMessage"]
        };
        assert_eq!(
            heard["context"]["topic"],
            if kind == Kind::Lite { "t/own" } else { "t/other" }
        );
        let published = &nucleus.published()[0];
        assert_eq!(
            (published.to, published.json()),
            (Destination::Local, Some(json!({"a": 1})))
        );
    }
}

#[test]
fn shadows_over_mqtt() {
    let nucleus = TestNucleus::start(Settings::lite());
    let mut client = Client::connect(&nucleus);
    for filter in ["$aws/things/+/shadow/update/delta", "$aws/things/+/shadow/get/+"] {
        client
            .call("SubscribeToIoTCore", &json!({"topicName": filter, "qos": "1"}))
            .unwrap();
    }
    client
        .call("PublishToIoTCore", &publish("$aws/things/cam-1/shadow/get", b""))
        .unwrap();
    let event = client.event();
    assert_eq!(event["message"]["topicName"], "$aws/things/cam-1/shadow/get/rejected");
    assert_eq!(payload(&event)["code"], 404);
    nucleus
        .shadow_update("cam-1", None, &json!({"state": {"desired": {"quarantine": true}}}))
        .unwrap();
    let event = client.event();
    assert_eq!(event["message"]["topicName"], "$aws/things/cam-1/shadow/update/delta");
    assert_eq!(payload(&event)["state"], json!({"quarantine": true}));
    let reported = json!({"state": {"reported": {"quarantine": true}}}).to_string();
    client
        .call(
            "PublishToIoTCore",
            &publish("$aws/things/cam-1/shadow/update", reported.as_bytes()),
        )
        .unwrap();
    assert_eq!(
        nucleus.shadow("cam-1", None).unwrap()["state"]["reported"],
        json!({"quarantine": true})
    );
    client
        .call("PublishToIoTCore", &publish("$aws/things/cam-1/shadow/get", b""))
        .unwrap();
    assert_eq!(payload(&client.event())["version"], 2);
    nucleus.shadow_delete("cam-1", None).unwrap();
    assert_eq!(nucleus.shadow("cam-1", None), None);
}

#[test]
#[should_panic(expected = "not within 1ms: a state")]
fn waiting_ends_with_what_was_seen() {
    TestNucleus::start(Settings::classic())
        .wait_for("a state", Duration::from_millis(1), |seen| seen.states.first().cloned());
}
