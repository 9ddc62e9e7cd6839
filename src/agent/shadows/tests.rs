use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Heard, MOST_EXACT, Place, Shadows};
use crate::agent::Tokens;
use crate::config::{QuarantineShadow, ShadowSource};
use crate::greengrass::link::{Command, Token};
use crate::greengrass::{Destination, NucleusError};
use crate::model::{Monotonic, ThingName};
use crate::quarantine::{ShadowReading, ShadowRef};

fn at(seconds: u64) -> Monotonic {
    Monotonic(Duration::from_secs(seconds))
}

fn settings(classic: bool, named: Option<&str>) -> QuarantineShadow {
    QuarantineShadow {
        classic,
        named: named.map(|name| name.parse().unwrap()),
        source: ShadowSource::Cloud,
    }
}

fn classic() -> QuarantineShadow {
    settings(true, None)
}

fn by_manager() -> QuarantineShadow {
    QuarantineShadow {
        source: ShadowSource::ShadowManager,
        ..classic()
    }
}

fn things(names: &[&str]) -> BTreeSet<ThingName> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn many(count: usize) -> BTreeSet<ThingName> {
    (0..count).map(|n| format!("t{n:03}").parse().unwrap()).collect()
}

fn place(name: &str) -> Place {
    (name.parse().unwrap(), ShadowRef::Classic)
}

/// What was asked of the nucleus, in a form to compare: `get TOPIC`, `update TOPIC`, with its tokens.
#[derive(Debug, Clone)]
struct Asked {
    what: String,
    token: Token,
    client_token: Option<String>,
}

/// The protocol with a nucleus that answers when told to.
struct Bench {
    shadows: Shadows,
    tokens: Tokens,
    now: u64,
}

impl Bench {
    fn new(settings: &QuarantineShadow, things: &BTreeSet<ThingName>) -> Self {
        Self::reading(settings, things, 1)
    }

    /// As [`Bench::new`], on a nucleus that takes several reads at a time.
    fn reading(settings: &QuarantineShadow, things: &BTreeSet<ThingName>, at_once: usize) -> Self {
        let mut shadows = Shadows::new(settings, at_once, at(0));
        shadows.set_things(things);
        Self {
            shadows,
            tokens: Tokens::default(),
            now: 0,
        }
    }

    fn step(&mut self) -> (Vec<Asked>, Vec<Heard>) {
        let (commands, heard) = self.shadows.commands(true, at(self.now), &mut self.tokens);
        let asked = commands.into_iter().map(|command| match command {
            Command::Publish {
                token,
                to,
                topic,
                payload,
            } => {
                assert_eq!(to, Destination::IotCore);
                let payload: Value = serde_json::from_slice(&payload).unwrap();
                Asked {
                    what: topic.strip_prefix("$aws/things/").unwrap().to_owned(),
                    token,
                    client_token: payload["clientToken"].as_str().map(str::to_owned),
                }
            }
            Command::ThingShadow { token, thing, .. } => Asked {
                what: format!("GetThingShadow {thing}"),
                token,
                client_token: None,
            },
            Command::UpdateThingShadow { token, thing, .. } => Asked {
                what: format!("UpdateThingShadow {thing}"),
                token,
                client_token: None,
            },
            other => panic!("{other:?}"),
        });
        (asked.collect(), heard)
    }

    fn asked(&mut self) -> Vec<Asked> {
        let (asked, heard) = self.step();
        assert_eq!(heard, []);
        asked
    }

    /// Exactly one request.
    fn one(&mut self) -> Asked {
        let mut asked = self.asked();
        assert_eq!(asked.len(), 1, "{asked:?}");
        asked.remove(0)
    }

    fn what(&mut self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.what).collect()
    }

    fn message(&mut self, topic: &str, payload: &Value) -> Option<Heard> {
        let topic = format!("$aws/things/{topic}");
        let payload = payload.to_string();
        self.shadows
            .message(Destination::IotCore, &topic, payload.as_bytes(), at(self.now))
    }

    /// AWS answers a read with a document of this version.
    fn accept(&mut self, thing: &str) -> Option<Heard> {
        self.message(&format!("{thing}/shadow/get/accepted"), &document(1))
    }

    /// Reads everything that waits; the things in the order they were read.
    fn read_everything(&mut self) -> Vec<String> {
        let mut read = Vec::new();
        loop {
            let asked = self.asked();
            let Some(asked) = asked.first() else { return read };
            let thing = asked
                .what
                .strip_suffix("/shadow/get")
                .unwrap_or_else(|| panic!("{asked:?}"));
            assert!(self.accept(thing).is_some());
            read.push(thing.to_owned());
        }
    }

    fn next_wake(&self) -> u64 {
        self.shadows.next_wake(true).unwrap().0.as_secs()
    }
}

fn document(version: u64) -> Value {
    json!({"state": {"desired": {"quarantine": true}}, "version": version, "timestamp": 5})
}

fn update() -> Value {
    json!({"state": {"reported": {"quarantine": true}}})
}

fn offline() -> NucleusError {
    NucleusError::Failed {
        what: "publish".to_owned(),
        detail: "offline".to_owned(),
    }
}

#[test]
fn every_document_is_read_once_one_at_a_time_and_only_while_subscribed() {
    let mut bench = Bench::new(&settings(true, Some("quarantine")), &things(&["a", "b"]));
    let (commands, heard) = bench.shadows.commands(false, at(0), &mut bench.tokens);
    assert!(commands.is_empty() && heard.is_empty());
    let mut read = Vec::new();
    for _ in 0..4 {
        let asked = bench.one();
        assert!(bench.asked().is_empty(), "one at a time");
        assert!(
            bench
                .message(&format!("{}/accepted", asked.what), &document(1))
                .is_some()
        );
        read.push(asked.what);
    }
    let all = [
        "a/shadow/get",
        "a/shadow/name/quarantine/get",
        "b/shadow/get",
        "b/shadow/name/quarantine/get",
    ];
    assert_eq!(read, all);
    assert!(bench.asked().is_empty());
}

#[test]
fn several_documents_are_asked_for_at_once_where_the_nucleus_takes_it_each_once() {
    let mut bench = Bench::reading(&classic(), &many(10), 4);
    let first: Vec<String> = bench.what();
    assert_eq!(first.len(), 4);
    assert!(bench.asked().is_empty(), "no more before one has come");
    assert_eq!(bench.next_wake(), 10, "and no busy loop meanwhile");
    // one that changes while it is read is read again afterwards, not beside itself
    bench.message("t001/shadow/update/accepted", &json!({}));
    assert!(bench.accept("t001").is_some());
    assert_eq!(bench.what(), ["t004/shadow/get"]);
    assert!(bench.accept("t000").is_some());
    assert_eq!(bench.what(), ["t005/shadow/get"]);
    let mut read = vec!["t002", "t003", "t004", "t005"];
    while let Some(thing) = read.pop() {
        assert!(bench.accept(thing).is_some());
        bench.what();
    }
    for thing in ["t006", "t007", "t008", "t009", "t001"] {
        assert!(bench.accept(thing).is_some(), "{thing}");
        bench.what();
    }
    assert_eq!(bench.shadows.status()["underWay"], 0);
    assert_eq!(bench.shadows.status()["toRead"], 0);
}

#[test]
fn several_reads_that_are_not_answered_are_one_silence() {
    let mut bench = Bench::reading(&classic(), &many(4), 4);
    assert_eq!(bench.what().len(), 4);
    bench.now = 10;
    let (asked, heard) = bench.step();
    assert!(asked.is_empty(), "{asked:?}");
    assert_eq!(heard, [Heard::Silent]);
    assert_eq!(bench.next_wake(), 12, "the first wait, not the fourth");
}

#[test]
fn nothing_waits_in_a_busy_loop_for_subscriptions() {
    let mut bench = Bench::new(&classic(), &things(&["a"]));
    assert_eq!(bench.shadows.next_wake(false), Some(at(300)), "the first heartbeat");
    assert_eq!(bench.next_wake(), 0, "subscribed: there is something to read");
    bench.one();
    assert_eq!(bench.next_wake(), 10, "until it is answered, or not");
    assert_eq!(Shadows::new(&classic(), 1, at(0)).next_wake(true), None);
}

#[test]
fn ten_thousand_messages_are_one_read() {
    let mut bench = Bench::new(&classic(), &things(&["a", "b"]));
    bench.read_everything();
    for version in 0..2_500 {
        for step in ["update/accepted", "update/delta", "update/documents", "delete/accepted"] {
            let heard = bench.message(&format!("a/shadow/{step}"), &document(version));
            assert_eq!(heard, None, "a hint decides nothing");
        }
    }
    assert_eq!(bench.shadows.status()["toRead"], 1);
    assert_eq!(bench.read_everything(), ["a"]);
}

/// A device that never stops writing its own shadow must not keep anybody's quarantine waiting, not even its own in the
/// named shadow.
#[test]
fn who_writes_all_the_time_waits_its_turn() {
    let mut bench = Bench::new(&settings(true, Some("q")), &things(&["a", "b"]));
    let mut read = Vec::new();
    for _ in 0..8 {
        let asked = bench.one().what;
        bench.message("a/shadow/update/accepted", &json!({}));
        assert!(bench.message(&format!("{asked}/accepted"), &document(1)).is_some());
        bench.message("a/shadow/update/accepted", &json!({}));
        read.push(asked);
    }
    let turns = [
        "a/shadow/get",
        "a/shadow/name/q/get",
        "b/shadow/get",
        "b/shadow/name/q/get",
    ];
    assert_eq!(read[..4], turns);
    assert_eq!(read[4..], ["a/shadow/get"; 4], "alone it may come again and again");
}

#[test]
fn others_things_and_other_topics_are_ignored() {
    let mut bench = Bench::new(&classic(), &many(MOST_EXACT + 1));
    bench.read_everything();
    for topic in [
        "elsewhere/shadow/update/accepted",
        "elsewhere/shadow/get/accepted",
        "elsewhere/shadow/get/rejected",
        "t001/shadow/name/other/update/accepted",
        "t001/shadow/name/other/get/accepted",
        "t001/defender/metrics/json/accepted",
        "t001/shadow/get",
        "t001/shadow/update",
        "t001/shadow/delete/rejected",
        "t001/shadow/",
        "",
    ] {
        assert_eq!(bench.message(topic, &document(9)), None, "{topic}");
    }
    assert!(bench.asked().is_empty());
}

#[test]
fn more_documents_than_streams_share_wildcards_and_are_read_again_after_the_change() {
    let mut bench = Bench::new(&settings(true, Some("q")), &many(MOST_EXACT / 2));
    let exact = bench.shadows.filters();
    assert_eq!(exact.len(), MOST_EXACT * 2);
    assert!(exact.contains(&(
        Destination::IotCore,
        "$aws/things/t000/shadow/name/q/+/accepted".to_owned()
    )));
    bench.read_everything_named();
    bench.shadows.set_things(&many(MOST_EXACT / 2 + 1));
    let wild: Vec<String> = bench
        .shadows
        .filters()
        .iter()
        .cloned()
        .map(|(_, filter)| filter)
        .collect();
    assert_eq!(
        wild,
        [
            "$aws/things/+/shadow/+/accepted",
            "$aws/things/+/shadow/+/rejected",
            "$aws/things/+/shadow/name/q/+/accepted",
            "$aws/things/+/shadow/name/q/+/rejected",
        ]
    );
    assert_eq!(
        bench.shadows.status()["toRead"],
        MOST_EXACT + 2,
        "what was said in between was not heard"
    );
}

impl Bench {
    fn read_everything_named(&mut self) {
        while let Some(asked) = self.asked().pop() {
            assert!(
                self.message(&format!("{}/accepted", asked.what), &document(1))
                    .is_some()
            );
        }
    }
}

#[test]
fn no_document_is_not_found() {
    let mut bench = Bench::new(&classic(), &things(&["a"]));
    bench.one();
    let heard = bench.message(
        "a/shadow/get/rejected",
        &json!({"code": 404, "message": "No shadow exists"}),
    );
    assert_eq!(
        heard,
        Some(Heard::Document(place("a"), Box::new(ShadowReading::NotFound)))
    );
    assert!(bench.asked().is_empty());
}

#[test]
fn a_refused_read_is_tried_again_and_delays_nobody_else() {
    let mut bench = Bench::new(&classic(), &things(&["a", "b"]));
    let mut waits = Vec::new();
    for _ in 0..9 {
        let asked = bench.one();
        assert_eq!(asked.what, "a/shadow/get");
        let refused = json!({"code": 500, "message": "Internal\u{7} failure", "clientToken": asked.client_token});
        assert_eq!(bench.message("a/shadow/get/rejected", &refused), None);
        if waits.is_empty() {
            assert_eq!(bench.one().what, "b/shadow/get", "at once");
            assert!(bench.accept("b").is_some());
        }
        bench.shadows.next_heartbeat = at(bench.now + 1000);
        let next = bench.next_wake();
        waits.push(next - bench.now);
        bench.now = next;
    }
    assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 300]);
    assert_eq!(
        bench.shadows.status()["trouble"][0]["error"],
        "it cannot be read: 500 Internal failure"
    );
    bench.one();
    assert!(bench.accept("a").is_some());
    assert_eq!(bench.shadows.status()["inTrouble"], 0);
}

#[test]
fn a_read_of_somebody_else_that_is_refused_is_not_ours() {
    let mut bench = Bench::new(&classic(), &things(&["a"]));
    bench.one();
    for refused in [
        json!({"code": 400}),
        json!({"code": 400, "clientToken": "device-1"}),
        json!(7),
    ] {
        assert_eq!(bench.message("a/shadow/get/rejected", &refused), None);
    }
    assert!(bench.asked().is_empty(), "ours is still under way");
    assert!(bench.accept("a").is_some());
}

#[test]
fn a_publish_that_fails_is_tried_again_with_growing_waits() {
    let mut bench = Bench::new(&classic(), &things(&["a"]));
    let mut waits = Vec::new();
    for _ in 0..10 {
        let asked = bench.one();
        assert_eq!(
            bench.shadows.published(asked.token, &Err(offline()), at(bench.now)),
            Some(vec![])
        );
        bench.shadows.next_heartbeat = at(bench.now + 1000);
        let next = bench.next_wake();
        waits.push(next - bench.now);
        bench.now = next;
    }
    assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    assert!(bench.shadows.status()["error"].as_str().unwrap().contains("offline"));
    bench.one();
    assert!(bench.accept("a").is_some());
    assert_eq!(bench.shadows.status()["error"], Value::Null);
    assert_eq!(
        bench.shadows.published(Token(4711), &Ok(()), at(0)),
        None,
        "somebody else's publish"
    );
}

#[test]
fn silence_is_noticed_by_the_heartbeat_and_said_once() {
    let mut bench = Bench::new(&classic(), &things(&["a", "b"]));
    bench.read_everything();
    bench.now = 299;
    assert!(bench.asked().is_empty());
    bench.now = 300;
    assert_eq!(bench.one().what, "a/shadow/get");
    bench.now = 309;
    assert!(bench.asked().is_empty());
    bench.now = 310;
    let (asked, heard) = bench.step();
    assert_eq!((asked.len(), heard), (0, vec![Heard::Silent]));
    bench.shadows.read_all(); // what the agent does then
    bench.now = 312;
    assert_eq!(bench.read_everything(), ["b", "a"]);
    bench.now = 612;
    assert_eq!(bench.one().what, "b/shadow/get", "another document each time");
}

/// Nucleus lite does not deliver documents above about 4,900 bytes, and a device can make its own as large as that.
#[test]
fn a_document_that_never_arrives_does_not_end_the_subscriptions_again_and_again() {
    let mut bench = Bench::new(&classic(), &things(&["a", "b"]));
    let mut silences = 0;
    let mut reads_of_b = 0;
    while bench.now < 3_000 {
        let (asked, heard) = bench.step();
        if heard.contains(&Heard::Silent) {
            silences += 1;
            bench.shadows.read_all();
        }
        for asked in asked {
            if asked.what == "b/shadow/get" {
                reads_of_b += 1;
                assert!(bench.accept("b").is_some());
            }
        }
        bench.now += 1;
        if bench.now.is_multiple_of(10) {
            bench.message("b/shadow/update/accepted", &json!({}));
            bench.message("a/shadow/update/accepted", &json!({}));
        }
    }
    assert_eq!(silences, 1, "the first time nobody knows what it is");
    assert!(reads_of_b >= 280, "{reads_of_b}");
    let words = bench.shadows.status()["trouble"][0].to_string();
    assert!(
        words.contains("\"thing\":\"a\"") && words.contains("4,900 bytes"),
        "{words}"
    );
}

#[test]
fn an_update_is_known_by_its_token() {
    let mut bench = Bench::new(&classic(), &things(&["a"]));
    bench.read_everything();
    bench
        .shadows
        .send(place("a"), json!({"state": {"reported": {"quarantine": false}}}));
    bench.shadows.send(place("a"), update());
    let asked = bench.one();
    assert_eq!(asked.what, "a/shadow/update");
    let token = asked.client_token.unwrap();
    bench.message("a/shadow/update/accepted", &json!({"clientToken": "device-1"}));
    assert_eq!(bench.what(), ["a/shadow/get"]);
    bench.shadows.send(place("a"), update());
    assert!(bench.asked().is_empty(), "the first is still under way");
    bench.message("a/shadow/update/accepted", &json!({"clientToken": token}));
    assert_eq!(bench.what(), ["a/shadow/update"]);
    assert!(bench.accept("a").is_some());
    assert_eq!(bench.what(), ["a/shadow/get"], "and is read again for what it says now");
}

#[test]
fn a_refused_update_is_made_anew_from_the_document_and_delays_nobody_else() {
    let mut bench = Bench::new(&classic(), &things(&["a", "b"]));
    bench.read_everything();
    for wait in [2, 4, 8] {
        bench.shadows.send(place("a"), update());
        let asked = bench.one();
        let refused = json!({"code": 409, "message": "Version conflict"});
        assert_eq!(
            bench.message("a/shadow/update/rejected", &refused),
            None,
            "no token: another's"
        );
        let refused = json!({"code": 409, "message": "Version conflict", "clientToken": asked.client_token});
        assert_eq!(
            bench.message("a/shadow/update/rejected", &refused),
            Some(Heard::NotSent(place("a")))
        );
        assert_eq!(bench.read_everything(), ["a"]);
        bench.shadows.send(place("a"), update());
        bench.shadows.send(place("b"), update());
        let other = bench.one();
        assert_eq!(other.what, "b/shadow/update");
        bench.message("b/shadow/update/accepted", &json!({"clientToken": other.client_token}));
        assert_eq!(bench.read_everything(), ["b"]);
        assert_eq!(bench.next_wake(), bench.now + wait);
        bench.now += wait;
    }
    assert_eq!(bench.what(), ["a/shadow/update"]);
    let words = &bench.shadows.status()["trouble"][0]["error"];
    assert_eq!(*words, "an update was refused: 409 Version conflict");
}

#[test]
fn an_update_that_is_lost_is_made_anew() {
    let mut bench = Bench::new(&classic(), &things(&["a"]));
    bench.read_everything();
    bench.shadows.send(place("a"), update());
    bench.one();
    bench.now = 10;
    let (asked, heard) = bench.step();
    assert_eq!(heard, [Heard::NotSent(place("a"))]);
    assert_eq!(asked[0].what, "a/shadow/get");
    assert!(bench.accept("a").is_some());

    bench.shadows.send(place("a"), update());
    bench.now = 12;
    let asked = bench.one();
    let heard = bench.shadows.published(asked.token, &Err(offline()), at(12));
    assert_eq!(heard, Some(vec![Heard::NotSent(place("a"))]));
    assert!(bench.asked().is_empty());
    bench.now = 14;
    assert_eq!(bench.read_everything(), ["a"]);
}

#[test]
fn what_is_no_document_is_counted_and_changes_nothing() {
    let mut bench = Bench::new(&classic(), &things(&["a"]));
    for (nth, garbage) in [
        json!(7),
        json!({}),
        json!({"version": 1}),
        json!({"version": 1, "state": []}),
    ]
    .iter()
    .enumerate()
    {
        bench.shadows.read_all();
        bench.one();
        assert_eq!(bench.message("a/shadow/get/accepted", garbage), None);
        assert_eq!(bench.shadows.status()["malformed"], nth + 1);
        assert!(bench.asked().is_empty(), "not in a loop");
    }
    let topic = "$aws/things/a/shadow/get/accepted";
    let heard = bench
        .shadows
        .message(Destination::IotCore, topic, &vec![b'['; 100_000], at(0));
    assert_eq!(heard, None);
    assert_eq!(bench.shadows.status()["malformed"], 5);
}

#[test]
fn with_shadow_manager_messages_are_hints_and_nothing_more() {
    let mut bench = Bench::new(&by_manager(), &things(&["a"]));
    let filters: Vec<_> = bench.shadows.filters().iter().cloned().collect();
    assert_eq!(
        filters,
        [(Destination::Local, "$aws/things/a/shadow/+/accepted".to_owned())]
    );
    let asked = bench.one();
    assert_eq!(asked.what, "GetThingShadow a");
    for from in [Destination::Local, Destination::IotCore] {
        for step in ["get/accepted", "get/rejected", "update/rejected"] {
            let topic = format!("$aws/things/a/shadow/{step}");
            let forged = json!({"code": 404, "state": {}, "version": 99, "clientToken": "edge-warden-1"}).to_string();
            assert_eq!(
                bench.shadows.message(from, &topic, forged.as_bytes(), at(0)),
                None,
                "{topic}"
            );
        }
    }
    let document = document(3).to_string().into_bytes();
    let heard = bench.shadows.shadow(asked.token, Ok(document), at(0));
    assert!(matches!(heard, Some(Heard::Document(..))));
    assert!(bench.asked().is_empty());

    bench.shadows.send(place("a"), update());
    let sent = bench.one();
    assert_eq!(sent.what, "UpdateThingShadow a");
    let forged = json!({"clientToken": "edge-warden-2"}).to_string();
    let topic = "$aws/things/a/shadow/update/accepted";
    assert_eq!(
        bench
            .shadows
            .message(Destination::Local, topic, forged.as_bytes(), at(0)),
        None
    );
    let read = bench.one();
    assert_eq!(read.what, "GetThingShadow a");
    let conflict = Err(NucleusError::Conflict { what: String::new() });
    assert_eq!(
        bench.shadows.shadow_updated(sent.token, conflict, at(0)),
        Some(Heard::NotSent(place("a"))),
        "the forged answer did not end it"
    );
    let missing = Err(NucleusError::NotFound { what: String::new() });
    let heard = bench.shadows.shadow(read.token, missing, at(0));
    assert_eq!(
        heard,
        Some(Heard::Document(place("a"), Box::new(ShadowReading::NotFound)))
    );
}

#[test]
fn without_a_shadow_manager_it_is_said_and_tried_again() {
    let mut bench = Bench::new(&by_manager(), &things(&["a"]));
    for wait in [2, 4, 8] {
        let asked = bench.one();
        let absent = NucleusError::Unsupported {
            what: "GetThingShadow a".to_owned(),
        };
        assert_eq!(bench.shadows.shadow(asked.token, Err(absent), at(bench.now)), None);
        assert!(
            bench.shadows.status()["error"]
                .as_str()
                .unwrap()
                .contains("does not offer it")
        );
        assert_eq!(bench.next_wake(), bench.now + wait);
        bench.now += wait;
    }
}

#[test]
fn what_is_no_longer_watched_is_forgotten_also_while_it_is_read() {
    let mut bench = Bench::new(&classic(), &things(&["a"]));
    bench.read_everything();
    bench.shadows.send(place("a"), update());
    bench.shadows.read_all();
    assert_eq!(bench.asked().len(), 2);
    bench.shadows.set_things(&things(&["b"]));
    assert_eq!(bench.read_everything(), ["b"]);
    bench.now = 20;
    assert!(bench.asked().is_empty(), "its time-out concerns nobody");
    assert_eq!(bench.accept("a"), None);
}

#[test]
fn reconfiguring_reads_what_is_new() {
    let mut bench = Bench::new(&classic(), &things(&["a", "b"]));
    bench.read_everything();
    bench.shadows.reconfigure(&classic());
    assert!(bench.asked().is_empty());

    bench.shadows.reconfigure(&settings(true, Some("q")));
    let asked = bench.one();
    assert_eq!(asked.what, "b/shadow/name/q/get");
    bench.shadows.reconfigure(&settings(false, Some("r")));
    assert_eq!(bench.what(), ["b/shadow/name/r/get"]);
    let filters = bench.shadows.filters();
    assert!(
        filters.iter().all(|(_, filter)| filter.contains("/name/r/")),
        "{filters:?}"
    );

    bench.shadows.reconfigure(&by_manager());
    assert_eq!(bench.what(), ["GetThingShadow a"]);
    bench.shadows.reconfigure(&settings(false, None));
    assert!(bench.shadows.filters().is_empty());
    bench.now = 20;
    assert!(bench.asked().is_empty());
    assert_eq!(bench.shadows.next_wake(true), None);
}
