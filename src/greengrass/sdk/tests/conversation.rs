//! The SDK against a nucleus played by a thread: requests, refusals, events good and bad.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use aws_smithy_eventstream::frame::{read_message_from, write_message_to};
use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
use serde_json::{Value, json};

use super::*;

const MESSAGE: i32 = 0;
const ERROR: i32 = 1;
const CONNECT_ACK: i32 = 5;
const ACCEPTED: i32 = 1;
const WAIT: Duration = Duration::from_secs(20);

fn read_packet(stream: &mut UnixStream) -> Option<Message> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let total = u32::from_be_bytes(length) as usize;
    let mut packet = length.to_vec();
    packet.resize(total, 0);
    stream.read_exact(&mut packet[4..]).unwrap();
    Some(read_message_from(packet.as_slice()).unwrap())
}

fn send(stream: &mut UnixStream, kind: i32, flags: i32, id: i32, model: &str, payload: &str) {
    let number = |name: &'static str, value| Header::new(name, HeaderValue::Int32(value));
    let text = |name: &'static str, value: &str| Header::new(name, HeaderValue::String(value.to_owned().into()));
    let message = Message::new(payload.to_owned().into_bytes())
        .add_header(number(":message-type", kind))
        .add_header(number(":message-flags", flags))
        .add_header(number(":stream-id", id))
        .add_header(text(":content-type", "application/json"))
        .add_header(text("service-model-type", model));
    let mut bytes = Vec::new();
    write_message_to(&message, &mut bytes).unwrap();
    stream.write_all(&bytes).unwrap();
}

fn header<'a>(message: &'a Message, name: &str) -> Option<&'a HeaderValue> {
    message
        .headers()
        .iter()
        .find(|header| header.name().as_str() == name)
        .map(Header::value)
}

fn iot_event(topic: &str, payload: &str) -> String {
    json!({"message": {"topicName": topic, "payload": payload}}).to_string()
}

fn local_event(topic: &str, body: &Value) -> String {
    json!({"jsonMessage": {"message": body, "context": {"topic": topic}}}).to_string()
}

/// Answer requests until the peer is gone. Every subscription at once gets what a hostile device could send, then a good
/// message.
fn play(mut stream: UnixStream, asked: &std::sync::mpsc::Sender<(String, Value)>) {
    let connect = read_packet(&mut stream).unwrap();
    assert_eq!(
        serde_json::from_slice::<Value>(connect.payload()).unwrap(),
        json!({"authToken": "token"})
    );
    send(&mut stream, CONNECT_ACK, ACCEPTED, 0, "", "");
    while let Some(request) = read_packet(&mut stream) {
        let id = header(&request, ":stream-id").unwrap().as_int32().unwrap();
        // Closing a stream carries no operation.
        let Some(operation) = header(&request, "operation") else {
            asked.send((format!("close {id}"), Value::Null)).unwrap();
            continue;
        };
        let operation = operation.as_string().unwrap().as_str().replace("aws.greengrass#", "");
        let params: Value = serde_json::from_slice(request.payload()).unwrap();
        let refuse = |stream: &mut UnixStream, code: &str| {
            let answer = json!({"_errorCode": code, "_message": "because"}).to_string();
            send(stream, ERROR, 2, id, "", &answer);
        };
        let topic = params["topicName"].as_str().unwrap_or_default();
        match operation.as_str() {
            _ if topic == "denied" => refuse(&mut stream, "UnauthorizedError"),
            "GetThingShadow" if params["thingName"] == json!("none") => refuse(&mut stream, "ResourceNotFoundError"),
            "GetThingShadow" => send(&mut stream, MESSAGE, 2, id, "", r#"{"payload":"e30="}"#),
            // As a nucleus without ShadowManager may answer.
            "UpdateThingShadow" => send(&mut stream, MESSAGE, 2, id, "", "{}"),
            "GetConfiguration" => {
                let answer =
                    r#"{"componentName":"c","value":{"sampleSeconds":10.0,"lan":{},"list":[1,"a",null,true]}}"#;
                send(&mut stream, MESSAGE, 2, id, "", answer);
            }
            "SubscribeToConfigurationUpdate" => {
                send(&mut stream, MESSAGE, 0, id, "", "{}");
                let event = r#"{"configurationUpdateEvent":{"componentName":"c","keyPath":[]}}"#;
                send(
                    &mut stream,
                    MESSAGE,
                    0,
                    id,
                    "aws.greengrass#ConfigurationUpdateEvents",
                    event,
                );
            }
            "SubscribeToIoTCore" => {
                send(&mut stream, MESSAGE, 0, id, "", "{}");
                let model = "aws.greengrass#IoTCoreMessage";
                send(&mut stream, MESSAGE, 0, id, model, &iot_event("a", "no base64!"));
                send(&mut stream, MESSAGE, 0, id, model, r#"{"message":{"topicName":1}}"#);
                send(&mut stream, MESSAGE, 0, id, model, "{}");
                if option_env!("CFLAGS").is_some_and(|flags| flags.contains("-DNDEBUG")) {
                    // 60 KB of payload: more than the SDK's strings hold.
                    send(
                        &mut stream,
                        MESSAGE,
                        0,
                        id,
                        model,
                        &iot_event("a", &"AAAA".repeat(20_000)),
                    );
                }
                send(&mut stream, MESSAGE, 0, id, model, &iot_event("a", "aGk="));
            }
            "SubscribeToTopic" => {
                send(&mut stream, MESSAGE, 0, id, "", "{}");
                let model = "aws.greengrass#SubscriptionResponseMessage";
                send(
                    &mut stream,
                    MESSAGE,
                    0,
                    id,
                    model,
                    r#"{"binaryMessage":{"message":"%"}}"#,
                );
                send(&mut stream, MESSAGE, 0, id, model, &local_event("b", &json!({})));
                send(
                    &mut stream,
                    MESSAGE,
                    0,
                    id,
                    model,
                    &local_event("b", &json!({"n": [1.0]})),
                );
            }
            _ => send(&mut stream, MESSAGE, 2, id, "", "{}"),
        }
        asked.send((operation, params)).unwrap();
    }
}

pub(super) fn a_nucleus_is_talked_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ipc.socket");
    let listener = UnixListener::bind(&path).unwrap();
    let (asking, asked) = channel();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        play(stream, &asking);
    });
    let (into, incoming) = channel();
    let environment = Environment {
        token: "token".to_owned(),
        socket: path.to_str().unwrap().to_owned(),
        thing_name: "gw".to_owned(),
    };
    let sender: IncomingSender = Arc::new(move |message| into.send(message).unwrap());
    let mut nucleus = SdkNucleus::connect_to(&environment, sender.clone()).unwrap();
    assert_eq!(
        (nucleus.kind(), nucleus.thing_name().unwrap()),
        (NucleusKind::Classic, "gw".parse().unwrap())
    );
    assert!(matches!(
        SdkNucleus::connect_to(&environment, sender),
        Err(NucleusError::Failed { .. })
    ));
    let next_asked = || asked.recv_timeout(WAIT).unwrap();
    let next_incoming = || incoming.recv_timeout(WAIT).unwrap();

    // Publishing, up to what the SDK can carry and not a byte more.
    nucleus.publish(Destination::IotCore, "a/b", b"hi").unwrap();
    let params = json!({"topicName": "a/b", "payload": "aGk=", "qos": "1"});
    assert_eq!(next_asked(), ("PublishToIoTCore".to_owned(), params));
    nucleus.publish(Destination::Local, "a/b", b"hi").unwrap();
    let params = json!({"topic": "a/b", "publishMessage": {"binaryMessage": {"message": "aGk="}}});
    assert_eq!(next_asked(), ("PublishToTopic".to_owned(), params));
    let most = vec![0; max_payload_bytes(NucleusKind::Classic).unwrap()];
    nucleus.publish(Destination::IotCore, "a/b", &most).unwrap();
    assert_eq!(next_asked().1["payload"].as_str().unwrap().len(), 65_532);
    let more = nucleus.publish(Destination::IotCore, "a/b", &[0; 49_150]);
    assert!(
        matches!(more, Err(NucleusError::TooLarge { bytes: 49_150, .. })),
        "{more:?}"
    );
    let denied = nucleus.publish(Destination::IotCore, "denied", b"");
    assert_eq!(
        denied,
        Err(NucleusError::Denied {
            what: "PublishToIoTCore denied".to_owned()
        })
    );
    assert_eq!(next_asked().0, "PublishToIoTCore");
    nucleus.update_state(ComponentState::Running).unwrap();
    assert_eq!(next_asked(), ("UpdateState".to_owned(), json!({"state": "RUNNING"})));

    // Configuration and shadows.
    let configuration = nucleus.configuration().unwrap();
    assert_eq!(
        configuration,
        json!({"sampleSeconds": 10, "lan": {}, "list": [1, "a", null, true]})
    );
    assert_eq!(next_asked(), ("GetConfiguration".to_owned(), json!({"keyPath": []})));
    nucleus.watch_configuration().unwrap();
    assert_eq!(next_asked().0, "SubscribeToConfigurationUpdate");
    assert_eq!(next_incoming(), Incoming::ConfigurationChanged);
    assert_eq!(
        nucleus
            .thing_shadow(&"cam".parse().unwrap(), Some("quarantine"))
            .unwrap(),
        b"{}"
    );
    assert_eq!(next_asked().1, json!({"thingName": "cam", "shadowName": "quarantine"}));
    let none = nucleus.thing_shadow(&"none".parse().unwrap(), None);
    assert!(matches!(none, Err(NucleusError::NotFound { .. })), "{none:?}");
    let _ = next_asked();
    let update = nucleus.update_thing_shadow(&"cam".parse().unwrap(), None, b"{}");
    assert!(matches!(update, Err(NucleusError::Failed { .. })), "{update:?}");
    assert_eq!(next_asked().1, json!({"thingName": "cam", "payload": "e30="}));

    // Messages: unreadable ones are counted, and the subscription lives on.
    let before = unreadable_messages();
    let first = nucleus.subscribe(Destination::IotCore, "a").unwrap();
    assert_eq!(
        next_asked(),
        ("SubscribeToIoTCore".to_owned(), json!({"topicName": "a", "qos": "1"}))
    );
    let message = |from, topic: &str, payload: &[u8]| Incoming::Message {
        from,
        topic: topic.to_owned(),
        payload: payload.to_vec(),
    };
    assert_eq!(next_incoming(), message(Destination::IotCore, "a", b"hi"));
    assert!(unreadable_messages() - before >= 3);
    nucleus.subscribe(Destination::Local, "b").unwrap();
    assert_eq!(next_asked(), ("SubscribeToTopic".to_owned(), json!({"topic": "b"})));
    assert_eq!(next_incoming(), message(Destination::Local, "b", b"{}"));
    assert_eq!(next_incoming(), message(Destination::Local, "b", br#"{"n":[1]}"#));
    nucleus.unsubscribe(first);
    assert!(next_asked().0.starts_with("close "));

    // More than the SDK's default of 16 streams, one of them always left for calls.
    let mut open = 2;
    let full = loop {
        match nucleus.subscribe(Destination::Local, "b") {
            Ok(_) => open += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(open, ipc_limits().max_streams - 1);
    assert!(matches!(full, NucleusError::Failed { .. }), "{full:?}");
    nucleus.publish(Destination::IotCore, "a/b", b"still").unwrap();
    drop(nucleus);
    let closed = asked
        .iter()
        .filter(|(operation, _)| operation.starts_with("close "))
        .take(open)
        .count();
    assert_eq!(closed, open);
}
