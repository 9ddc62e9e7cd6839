use std::sync::{Arc, Mutex};

use super::*;

const NOW: UnixTime = UnixTime(1_700_000_000_123);

struct Rig {
    dir: tempfile::TempDir,
    nucleus: StandaloneNucleus,
    received: Arc<Mutex<Vec<Incoming>>>,
}

fn open(dir: &Path, received: &Arc<Mutex<Vec<Incoming>>>) -> Result<StandaloneNucleus, StandaloneError> {
    let into = received.clone();
    StandaloneNucleus::open(
        dir,
        "gw".parse().unwrap(),
        Box::new(|| Ok(json!({"sampleSeconds": 1}))),
        Arc::new(move |message| into.lock().unwrap().push(message)),
        Box::new(|| NOW),
    )
}

fn rig() -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let received = Arc::default();
    let nucleus = open(dir.path(), &received).unwrap();
    Rig { dir, nucleus, received }
}

impl Rig {
    /// Topics and payloads received since the last call.
    fn received(&self) -> Vec<(Destination, String, Value)> {
        let messages = std::mem::take(&mut *self.received.lock().unwrap());
        let read = |message| match message {
            Incoming::Message { from, topic, payload } => (from, topic, serde_json::from_slice(&payload).unwrap()),
            other @ Incoming::ConfigurationChanged => panic!("{other:?}"),
        };
        messages.into_iter().map(read).collect()
    }

    fn topics(&self) -> Vec<String> {
        self.received().into_iter().map(|(_, topic, _)| topic).collect()
    }

    fn published(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("published.jsonl")).unwrap()
    }
}

fn thing(name: &str) -> ThingName {
    name.parse().unwrap()
}

#[test]
fn publishes_are_lines_in_a_fixed_order() {
    let mut rig = rig();
    rig.nucleus
        .publish(Destination::IotCore, "a/b", br#"{"z": 1, "a": [1.5]}"#)
        .unwrap();
    rig.nucleus.publish(Destination::Local, "c", b"\xff\x00").unwrap();
    assert_eq!(
        rig.published(),
        concat!(
            r#"{"time":"2023-11-14T22:13:20.123Z","topic":"a/b","qos":1,"destination":"iotcore","payload":{"z":1,"a":[1.5]}}"#,
            "\n",
            r#"{"time":"2023-11-14T22:13:20.123Z","topic":"c","qos":0,"destination":"local","payload":"/wA=","encoding":"base64"}"#,
            "\n",
        )
    );
}

#[test]
fn a_torn_last_line_is_left_behind() {
    let rig = rig();
    let Rig { dir, nucleus, received } = rig;
    drop(nucleus);
    std::fs::write(dir.path().join("published.jsonl"), "{\"whole\":1}\n{\"to").unwrap();
    let mut nucleus = open(dir.path(), &received).unwrap();
    nucleus.publish(Destination::Local, "t", b"1").unwrap();
    nucleus.publish(Destination::Local, "t", b"2").unwrap();
    let text = std::fs::read_to_string(dir.path().join("published.jsonl")).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 4);
    assert_eq!(lines[..2], ["{\"whole\":1}", "{\"to"]);
    assert!(
        lines[2].ends_with("\"payload\":1}") && lines[3].ends_with("\"payload\":2}"),
        "{text}"
    );
}

#[test]
fn one_instance_per_directory() {
    let rig = rig();
    let second = open(rig.dir.path(), &rig.received);
    assert!(matches!(second, Err(StandaloneError::InUse { .. })));
    let edit = edit_shadow(rig.dir.path(), &thing("cam"), None, &json!({"a": 1}), NOW);
    assert!(matches!(edit, Err(StandaloneError::InUse { .. })));
    let Rig { dir, nucleus, received } = rig;
    drop(nucleus);
    assert!(open(dir.path(), &received).is_ok());
}

#[test]
fn messages_come_back_to_matching_subscriptions_once() {
    let mut rig = rig();
    rig.nucleus.subscribe(Destination::Local, "a/+").unwrap();
    let second = rig.nucleus.subscribe(Destination::Local, "a/#").unwrap();
    rig.nucleus.publish(Destination::Local, "a/b", b"1").unwrap();
    rig.nucleus.publish(Destination::Local, "a/b/c", b"2").unwrap();
    rig.nucleus.publish(Destination::IotCore, "a/b", b"3").unwrap();
    let expected = [("a/b", json!(1)), ("a/b/c", json!(2))];
    assert_eq!(
        rig.received(),
        expected.map(|(topic, value)| (Destination::Local, topic.to_owned(), value))
    );
    rig.nucleus.unsubscribe(second);
    rig.nucleus.publish(Destination::Local, "a/b/c", b"2").unwrap();
    assert_eq!(rig.received(), []);
}

#[test]
fn the_shadow_service_answers_over_iot_core() {
    let mut rig = rig();
    rig.nucleus
        .subscribe(Destination::IotCore, "$aws/things/+/shadow/#")
        .unwrap();
    let publish = |rig: &mut Rig, step: &str, payload: &str| {
        rig.nucleus
            .publish(
                Destination::IotCore,
                &format!("$aws/things/cam:1/shadow/{step}"),
                payload.as_bytes(),
            )
            .unwrap();
        let mut received = rig.received();
        // The request itself comes back too: we subscribed to everything.
        assert_eq!(received.remove(0).1, format!("$aws/things/cam:1/shadow/{step}"));
        received
            .into_iter()
            .map(|(_, topic, value)| (topic.replace("$aws/things/cam:1/shadow/", ""), value))
            .collect()
    };

    let got: Vec<(String, Value)> = publish(&mut rig, "get", r#"{"clientToken":"g"}"#);
    assert_eq!(got[0].0, "get/rejected");
    assert_eq!(
        (&got[0].1["code"], &got[0].1["clientToken"]),
        (&json!(404), &json!("g"))
    );

    let got = publish(
        &mut rig,
        "update",
        r#"{"state":{"desired":{"quarantine":true}},"clientToken":"u"}"#,
    );
    let steps: Vec<_> = got.iter().map(|(step, _)| step.as_str()).collect();
    assert_eq!(steps, ["update/accepted", "update/delta", "update/documents"]);
    assert!(got.iter().all(|(_, value)| value["clientToken"] == json!("u")));

    let got = publish(&mut rig, "update", r#"{"state":{"reported":{"quarantine":true}}}"#);
    let steps: Vec<_> = got.iter().map(|(step, _)| step.as_str()).collect();
    assert_eq!(steps, ["update/accepted", "update/documents"]);

    let got = publish(&mut rig, "update", r#"{"state":{"reported":{}},"version":1}"#);
    assert_eq!((got[0].0.as_str(), &got[0].1["code"]), ("update/rejected", &json!(409)));
    let got = publish(&mut rig, "update", "[1]");
    assert_eq!((got[0].0.as_str(), &got[0].1["code"]), ("update/rejected", &json!(400)));

    let got = publish(&mut rig, "get", " {}");
    assert_eq!(got[0].0, "get/accepted");
    assert_eq!(got[0].1["version"], json!(2));
    let path = rig.dir.path().join("shadows/cam:1.json");
    let stored: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(stored, got[0].1);

    let got = publish(&mut rig, "delete", "{}");
    assert_eq!(got[0].0, "delete/accepted");
    let got = publish(&mut rig, "get", "{}");
    assert_eq!(got[0].0, "get/rejected");
}

#[test]
fn shadows_work_by_request_and_survive_a_restart() {
    let mut rig = rig();
    let cam = thing("cam");
    assert!(matches!(
        rig.nucleus.thing_shadow(&cam, None),
        Err(NucleusError::NotFound { .. })
    ));
    rig.nucleus
        .subscribe(Destination::Local, "$aws/things/+/shadow/name/+/update/documents")
        .unwrap();
    let document = rig
        .nucleus
        .write_desired(&cam, Some("quarantine"), &json!({"quarantine": true}))
        .unwrap();
    assert_eq!(document["state"]["delta"], json!({"quarantine": true}));
    assert_eq!(
        rig.topics(),
        ["$aws/things/cam/shadow/name/quarantine/update/documents"]
    );
    rig.nucleus
        .update_thing_shadow(
            &cam,
            Some("quarantine"),
            br#"{"state":{"reported":{"quarantine":true}}}"#,
        )
        .unwrap();
    let conflict = rig
        .nucleus
        .update_thing_shadow(&cam, Some("quarantine"), br#"{"state":{},"version":9}"#);
    assert!(matches!(conflict, Err(NucleusError::Conflict { .. })));
    let wrong = rig.nucleus.thing_shadow(&cam, Some("../x"));
    assert!(matches!(wrong, Err(NucleusError::Failed { .. })));
    let Rig { dir, nucleus, received } = rig;
    drop(nucleus);
    let mut nucleus = open(dir.path(), &received).unwrap();
    let document: Value = serde_json::from_slice(&nucleus.thing_shadow(&cam, Some("quarantine")).unwrap()).unwrap();
    assert_eq!(
        (&document["version"], &document["timestamp"]),
        (&json!(2), &json!(1_700_000_000))
    );
    assert_eq!(
        document["state"],
        json!({"desired": {"quarantine": true}, "reported": {"quarantine": true}})
    );
}

#[test]
fn a_shadow_is_edited_without_an_agent() {
    let dir = tempfile::tempdir().unwrap();
    let name = "quarantine".parse().unwrap();
    let document = edit_shadow(
        dir.path(),
        &thing("cam"),
        Some(&name),
        &json!({"quarantine": true}),
        NOW,
    )
    .unwrap();
    assert_eq!(document["version"], json!(1));
    let document = edit_shadow(
        dir.path(),
        &thing("cam"),
        Some(&name),
        &json!({"quarantine": null}),
        NOW,
    )
    .unwrap();
    assert_eq!((&document["version"], &document["state"]), (&json!(2), &json!({})));
    let refused = edit_shadow(dir.path(), &thing("cam"), Some(&name), &json!([1]), NOW);
    assert!(matches!(
        refused,
        Err(StandaloneError::Refused {
            source: Rejection { code: 400, .. },
            ..
        })
    ));
}

#[test]
fn a_broken_shadow_file_is_named_and_left_alone() {
    let mut rig = rig();
    let path = rig.dir.path().join("shadows/cam.json");
    std::fs::write(&path, "{\"version\":").unwrap();
    let Err(NucleusError::Failed { detail, .. }) = rig.nucleus.thing_shadow(&thing("cam"), None) else {
        panic!("read")
    };
    assert!(detail.contains("cam.json") && detail.contains("not JSON"), "{detail}");
    rig.nucleus
        .subscribe(Destination::IotCore, "$aws/things/cam/shadow/update/rejected")
        .unwrap();
    rig.nucleus
        .publish(
            Destination::IotCore,
            "$aws/things/cam/shadow/update",
            br#"{"state":{}}"#,
        )
        .unwrap();
    assert_eq!(rig.received()[0].2["code"], json!(500));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"version\":");
}

#[test]
fn reports_are_answered_in_their_own_format() {
    let mut rig = rig();
    rig.nucleus
        .subscribe(Destination::IotCore, "$aws/things/+/defender/metrics/+/+")
        .unwrap();
    let long = json!({"header": {"report_id": 7, "version": "1.0"}, "metrics": {}});
    let topic = "$aws/things/cam/defender/metrics/json";
    rig.nucleus
        .publish(Destination::IotCore, topic, long.to_string().as_bytes())
        .unwrap();
    rig.nucleus.publish(Destination::IotCore, topic, b"{}").unwrap();
    let accepted = json!({"thingName": "cam", "reportId": 7, "status": "ACCEPTED", "timestamp": NOW.0});
    let received = rig.received();
    assert_eq!(
        received[0],
        (Destination::IotCore, format!("{topic}/accepted"), accepted)
    );
    assert_eq!(received[1].1, format!("{topic}/rejected"));
    assert_eq!(received[1].2["statusDetails"]["ErrorCode"], json!("InvalidPayload"));

    let short = json!({"hed": {"rid": 8, "v": "1.0"}, "met": {}});
    let mut cbor = Vec::new();
    ciborium::into_writer(&short, &mut cbor).unwrap();
    rig.nucleus
        .publish(Destination::IotCore, "$aws/things/cam/defender/metrics/cbor", &cbor)
        .unwrap();
    let Some(Incoming::Message { topic, payload, .. }) = rig.received.lock().unwrap().pop() else {
        panic!("no answer")
    };
    assert_eq!(topic, "$aws/things/cam/defender/metrics/cbor/accepted");
    let answer: Value = ciborium::from_reader(payload.as_slice()).unwrap();
    assert_eq!(
        (&answer["reportId"], &answer["status"]),
        (&json!(8), &json!("ACCEPTED"))
    );
}

#[test]
fn a_file_that_is_no_shadow_is_told_to_who_asked() {
    let mut rig = rig();
    rig.nucleus
        .subscribe(Destination::IotCore, "$aws/things/+/shadow/get/rejected")
        .unwrap();
    std::fs::write(rig.dir.path().join("shadows/cam-1.json"), "{broken").unwrap();
    rig.nucleus
        .publish(
            Destination::IotCore,
            "$aws/things/cam-1/shadow/get",
            br#"{"clientToken":"t-1"}"#,
        )
        .unwrap();
    let received = rig.received();
    let [(_, _, refused)] = received.as_slice() else {
        panic!("{received:?}");
    };
    assert_eq!(
        (&refused["code"], &refused["clientToken"]),
        (&json!(500), &json!("t-1"))
    );
    let words = refused["message"].as_str().unwrap();
    assert!(
        words.contains("cam-1.json is not a shadow document: not JSON"),
        "{words}"
    );
}
