//! Many at once, and devices that write their own shadow.

use std::os::unix::fs::DirBuilderExt as _;
use std::time::Duration;

use edge_warden::control::Request;
use edge_warden::model::{Monotonic, Now, UnixTime};
use edge_warden::quarantine::{Alarm, EdgeCap, Effect, Event, Posture, Quarantine, Store};
use serde_json::json;

use crate::support::site::until;
use crate::support::warden::{Arrivals, Flood, Guarded, SOON, THINGS, devices, epoch, leaked, now, status};
use crate::{RATE, add, causes, release};

#[test]
fn two_hundred_and_fifty_at_once_while_stopped_and_while_running() {
    let mut guarded = Guarded::prepare();
    let thing = |n: usize| format!("thing-{n}");
    let mut all = devices(&guarded.site);
    for n in 0..246 {
        let last = format!("{:02x}", n % 256);
        all.as_array_mut().unwrap().push(json!({
            "thingName": thing(n), "macs": [format!("02:cc:00:00:00:{last}")],
            "addresses": [format!("10.20.1.{n}"), format!("fd20::1:{last}")],
        }));
    }
    let names: Vec<String> = THINGS
        .iter()
        .map(|name| (*name).to_owned())
        .chain((0..246).map(thing))
        .collect();
    guarded.configure(&json!({"devices": all}));
    // Written while no agent runs: it reads every document at its start.
    guarded.desire_offline(&names, r#"{"quarantine":true}"#);
    (0..4).for_each(|n| guarded.assert_open(n));
    guarded.run();
    let cut = |guarded: &Guarded| {
        let list = guarded.answer(&Request::QuarantineList);
        list.as_array()
            .unwrap()
            .iter()
            .filter(|thing| thing["enforced"] == true)
            .count()
    };
    let start = now();
    for name in &names {
        guarded.await_enforced(name, None, &json!(true));
    }
    println!("250 shadows read, enforced and answered after {:?}", start.elapsed());
    assert_eq!(cut(&guarded), 250);
    (0..4).for_each(|n| guarded.assert_cut(n));
    // Some are let go one by one while it runs, the others all together.
    let (some, others) = names.split_at(30);
    for name in some {
        guarded.desire(name, None, &json!({"quarantine": false}));
    }
    for name in some {
        guarded.await_enforced(name, None, &json!(false));
    }
    guarded.stop();
    guarded.desire_offline(others, r#"{"quarantine":false}"#);
    guarded.run();
    for name in others {
        guarded.await_enforced(name, None, &json!(false));
    }
    assert_eq!(cut(&guarded), 0);
    (0..4).for_each(|n| guarded.assert_open(n));
}

#[test]
fn a_device_that_writes_its_own_shadow_gains_nothing() {
    let mut guarded = Guarded::prepare();
    guarded.configure(&json!({"devices": devices(&guarded.site)}));
    guarded.assert_open(0);
    store_alarm(&guarded, "cam-0");
    guarded.run();
    guarded.desire("cam-0", Some("quarantine"), &json!({"quarantine": true}));
    guarded.await_enforced("cam-0", Some("quarantine"), &json!(true));
    guarded.answer(&add("cam-0"));
    let all = ["edge:p/b", "operator", "shadow:quarantine"];
    assert_eq!(causes(&guarded, "cam-0"), all);
    guarded.assert_cut(0);
    let flood = Flood::start(&guarded.site, 0, RATE);
    let lan = Arrivals::on_lan(guarded.site.device(1), guarded.site.device(0));
    lan.await_silence();
    let cut = now();
    // a thousand releases, after demands of its own and on top of each other
    for n in 0..1000 {
        if n % 4 == 0 {
            guarded.desire("cam-0", None, &json!({"quarantine": true}));
        }
        guarded.desire("cam-0", None, &json!({"quarantine": false}));
    }
    guarded.await_document("cam-0", None, |document| {
        let said = &status(document)["causes"];
        *said == json!(["shadow:quarantine", "edge:p/b", "operator"]) && status(document)["enforced"] == true
    });
    assert_eq!(causes(&guarded, "cam-0"), all, "what others began stays");
    flood.await_sent(50);
    assert_eq!(leaked(&[&lan], cut), 0);
    // so many in a minute of one demander
    let minutes = usize::try_from(cut.elapsed().as_secs() / 60).unwrap() + 1;
    let lines = guarded.audit().len();
    assert!((2..=40 * minutes).contains(&lines), "{lines} lines for 1,000 releases");
    let logged = guarded.log().lines().count();
    assert!(logged < 8000, "{logged} lines of log");

    // Who is entitled ends them one by one: the closed shadow its own and the alarm's, the operator all.
    guarded.desire("cam-0", Some("quarantine"), &json!({"quarantine": false}));
    assert!(until(SOON, || causes(&guarded, "cam-0") == ["operator"]));
    flood.await_sent(50);
    assert_eq!(leaked(&[&lan], cut), 0);

    // Ten thousand more, by several writers: whoever asks is answered all the while, and the last word counts.
    let writers: u64 = 4;
    let slowest = std::thread::scope(|scope| {
        let guarded = &guarded;
        let done: Vec<_> = (1..=writers)
            .map(|writer| {
                scope.spawn(move || {
                    for n in 0..2500_u64 {
                        guarded.desire("cam-2", Some("quarantine"), &json!({ "other": writer * 10_000 + n }));
                    }
                })
            })
            .collect();
        let mut slowest = Duration::ZERO;
        while done.iter().any(|writer| !writer.is_finished()) {
            let asked = now();
            guarded.answer(&Request::Status);
            slowest = slowest.max(asked.elapsed());
        }
        slowest
    });
    println!("status answered within {slowest:?} under 10,000 shadow writes");
    // How fast is for a quiet machine to say (tests/shadow.rs judges it in turns of the loop); nobody waits for ever.
    assert!(slowest < SOON, "{slowest:?}");
    guarded.desire("cam-2", Some("quarantine"), &json!({"quarantine": true}));
    guarded.await_enforced("cam-2", Some("quarantine"), &json!(true));
    assert_eq!(leaked(&[&lan], cut), 0);
    guarded.answer(&release("cam-0"));
    lan.await_more(20);
}

/// What a profile with `onAlarm: quarantine` leaves on disk when it raised an alarm about `thing`.
fn store_alarm(guarded: &Guarded, thing: &str) {
    let state = guarded.dir.join("state");
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&state)
        .unwrap();
    let time = Now {
        monotonic: Monotonic(Duration::from_secs(1)),
        wall: UnixTime::from_seconds(epoch() - 60),
    };
    let mut quarantine = Quarantine::new(None, Posture::Isolate, EdgeCap::Auto, "another boot", time);
    let alarm = Alarm {
        thing: thing.parse().unwrap(),
        profile: "p".to_owned(),
        behavior: "b".to_owned(),
        violation_id: "v".to_owned(),
        release_when_cleared: false,
        lasts: None,
        trusted: true,
        known: 4,
    };
    assert!(quarantine.step(Event::Alarm(alarm), time).contains(&Effect::Enforce));
    Store::open(&state).unwrap().0.save(&quarantine.stored()).unwrap();
}
