#![allow(unsafe_code, reason = "one text that is no UTF-8, as the SDK may hand it over")]

use std::io::Read;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex};

use gg_sdk::Object;
use serde_json::json;

mod conversation;

use super::raw::*;
use super::read::*;
use super::*;
use crate::greengrass::Incoming;

fn environment(pairs: &[(&str, &str)]) -> Result<Environment, NucleusError> {
    let find = |name: &str| {
        pairs
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| (*value).to_owned())
    };
    Environment::read(find)
}

const SOCKET: &str = "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT";

#[test]
fn names_the_missing_variable() {
    let all = [
        ("SVCUID", "token"),
        (SOCKET, "/g/ipc.socket"),
        ("AWS_IOT_THING_NAME", "core-1"),
    ];
    assert!(environment(&all).is_ok());
    for skip in 0..all.len() {
        let mut some = all.to_vec();
        let (name, _) = some.remove(skip);
        let Err(NucleusError::NotAComponent { what }) = environment(&some) else {
            panic!("{name}")
        };
        assert!(what.contains(name), "{what}");
    }
    let odd = environment(&[("SVCUID", "t"), (SOCKET, "s"), ("AWS_IOT_THING_NAME", "a/b")]).unwrap();
    assert!(matches!(odd.thing(), Err(NucleusError::NotAComponent { .. })));
}

#[test]
fn the_sockets_name_tells_lite() {
    let kind = |socket| {
        environment(&[("SVCUID", "t"), (SOCKET, socket), ("AWS_IOT_THING_NAME", "c")])
            .unwrap()
            .kind()
    };
    assert_eq!(kind("/var/lib/greengrass/gg-ipc.socket"), NucleusKind::Lite);
    assert_eq!(kind("/greengrass/v2/ipc.socket"), NucleusKind::Classic);
}

#[test]
fn whole_doubles_become_whole_numbers() {
    assert_eq!(number_value(300.0), Some(json!(300)));
    assert_eq!(number_value(-0.5), Some(json!(-0.5)));
    assert_eq!(number_value(1e300), Some(json!(1e300)));
    assert_eq!(number_value(f64::NAN), None);
}

#[test]
fn objects_become_json_and_too_deep_ones_nothing() {
    let list = [Object::i64(1), Object::buf("two"), Object::NULL, Object::f64(3.0)];
    let pairs = [
        Kv::new("a", Object::list(&list)),
        Kv::new("b", Object::bool(true)),
        Kv::new("c", Object::map(&[])),
    ];
    assert_eq!(
        to_value(&Object::map(&pairs), 0),
        Some(json!({"a": [1, "two", null, 3], "b": true, "c": {}}))
    );

    fn nested(inner: Object<'_>, levels: usize, check: &mut dyn FnMut(&Object<'_>)) {
        match levels {
            0 => check(&inner),
            _ => nested(Object::list(&[inner]), levels - 1, check),
        }
    }
    nested(Object::NULL, MAX_DEPTH, &mut |object| {
        assert!(to_value(object, 0).is_some())
    });
    nested(Object::NULL, MAX_DEPTH + 1, &mut |object| {
        assert!(to_value(object, 0).is_none())
    });
}

#[test]
fn text_that_is_not_utf8_is_refused() {
    // A lone surrogate, as the SDK's JSON reader would hand it over.
    let bytes = vec![0xed, 0xa0, 0x80];
    // SAFETY: the text is only handed to the function under test, which checks it before anything relies on it.
    let broken = unsafe { std::str::from_utf8_unchecked(&bytes) };
    assert_eq!(text(&Object::buf(broken)), None);
    assert_eq!(to_value(&Object::buf(broken), 0), None);
    assert_eq!(text(&Object::buf("ü")), Some("ü"));
}

#[test]
fn reads_events_of_every_shape() {
    let iot = [
        Kv::new("topicName", Object::buf("a/b")),
        Kv::new("payload", Object::buf("aGk=")),
    ];
    let event = [Kv::new("message", Object::map(&iot))];
    let expected = |from, payload: &[u8]| {
        Some(Incoming::Message {
            from,
            topic: "a/b".to_owned(),
            payload: payload.to_vec(),
        })
    };
    assert_eq!(
        read_event(Source::IotCore, &event),
        expected(Destination::IotCore, b"hi")
    );

    let empty = [Kv::new("topicName", Object::buf("a/b"))];
    let event = [Kv::new("message", Object::map(&empty))];
    assert_eq!(read_event(Source::IotCore, &event), expected(Destination::IotCore, b""));

    let context = [Kv::new("topic", Object::buf("a/b"))];
    let binary = [
        Kv::new("message", Object::buf("aGk=")),
        Kv::new("context", Object::map(&context)),
    ];
    let event = [Kv::new("binaryMessage", Object::map(&binary))];
    assert_eq!(read_event(Source::Local, &event), expected(Destination::Local, b"hi"));

    let body = [Kv::new("n", Object::f64(2.0))];
    let json = [
        Kv::new("message", Object::map(&body)),
        Kv::new("context", Object::map(&context)),
    ];
    let event = [Kv::new("jsonMessage", Object::map(&json))];
    assert_eq!(
        read_event(Source::Local, &event),
        expected(Destination::Local, br#"{"n":2}"#)
    );
}

#[test]
fn an_unreadable_event_is_counted_and_forwards_nothing() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let into = seen.clone();
    let sink = Sink {
        source: Source::IotCore,
        incoming: Arc::new(move |message| into.lock().unwrap().push(message)),
    };
    let before = unreadable_messages();
    // A payload cut at the SDK's longest string is no base64 any more.
    let cut = "A".repeat(MAX_STRING_BYTES);
    let message = [
        Kv::new("topicName", Object::buf("t")),
        Kv::new("payload", Object::buf(&cut)),
    ];
    sink.take(&[Kv::new("message", Object::map(&message))]);
    sink.take(&[]);
    assert_eq!(unreadable_messages() - before, 2);
    assert!(seen.lock().unwrap().is_empty());
}

#[test]
fn errors_keep_the_nucleus_words() {
    let remote = |code: &str| {
        failure(
            "Op x".to_owned(),
            gg_sdk::Error::Remote as Code,
            Some((code.to_owned(), "why".to_owned())),
            0,
        )
    };
    assert_eq!(
        remote("UnauthorizedError"),
        NucleusError::Denied {
            what: "Op x".to_owned()
        }
    );
    assert_eq!(
        remote("ResourceNotFoundError"),
        NucleusError::NotFound {
            what: "Op x".to_owned()
        }
    );
    assert_eq!(
        remote("ConflictError"),
        NucleusError::Conflict {
            what: "Op x".to_owned()
        }
    );
    assert!(matches!(remote("ServiceError"), NucleusError::Failed { detail, .. } if detail == "ServiceError: why"));
    let own = |error: gg_sdk::Error| failure("Op x".to_owned(), error as Code, None, 9);
    assert!(matches!(own(gg_sdk::Error::Noconn), NucleusError::NoConnection { .. }));
    assert!(matches!(own(gg_sdk::Error::Timeout), NucleusError::TimedOut { .. }));
    assert_eq!(
        own(gg_sdk::Error::Nomem),
        NucleusError::TooLarge {
            what: "Op x".to_owned(),
            bytes: 9
        }
    );
    assert!(matches!(own(gg_sdk::Error::Failure), NucleusError::Failed { .. }));
}

/// Without it a string above 65,535 bytes, which any device can send, is a failed assertion: the process aborts. With it
/// the conversation below also sends such a message.
#[test]
fn the_c_code_is_built_without_assertions() {
    assert!(option_env!("CFLAGS").is_some_and(|flags| flags.contains("-DNDEBUG")));
}

/// A process has one connection, so what needs none, a refused one and an open one is tried in this order.
#[test]
fn the_connection_before_while_and_after_it_is_refused_and_open() {
    without_a_connection_every_request_says_so();
    the_ipc_limits_are_the_raised_ones();
    conversation::a_nucleus_is_talked_to();
}

fn without_a_connection_every_request_says_so() {
    let answer = raw_call(
        "UpdateState",
        "RUNNING",
        &[Kv::new("state", Object::buf("RUNNING"))],
        0,
        None,
    );
    assert!(matches!(answer, Err(NucleusError::NoConnection { .. })), "{answer:?}");
}

/// Bytes the SDK sends to open a connection with this token; nothing when it refuses to encode the packet.
fn bytes_sent_to_connect(token: &str) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ipc.socket");
    let listener = UnixListener::bind(&path).unwrap();
    let nucleus = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut length = [0_u8; 4];
        if stream.read_exact(&mut length).is_err() {
            return 0;
        }
        // An event-stream packet begins with its own length.
        let total = u32::from_be_bytes(length) as usize;
        let mut rest = vec![0; total - 4];
        stream.read_exact(&mut rest).unwrap();
        total
    });
    // The answer never comes: the connection is refused either way, and another may be tried.
    assert!(raw_connect(path.to_str().unwrap(), token).is_err());
    nucleus.join().unwrap()
}

/// The limits in `CFLAGS` are those the C code really has: a packet just below is sent, one just above is not. A control
/// character takes six bytes in JSON, so a token of the SDK's longest string can exceed the limit.
fn the_ipc_limits_are_the_raised_ones() {
    assert_eq!(
        ipc_limits(),
        IpcLimits {
            max_message_bytes: 262_144,
            max_streams: 64
        }
    );
    let below = bytes_sent_to_connect(&"\u{1}".repeat((262_144 - 150) / 6));
    assert!((262_000..=262_144).contains(&below), "{below}");
    assert_eq!(bytes_sent_to_connect(&"\u{1}".repeat(262_144 / 6)), 0);
}
