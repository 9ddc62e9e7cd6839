//! How long quarantine takes and what leaks when others damage the rules, measured on a site in network namespaces.
//! Needs root. Prints; asserts only what must hold on any machine.
//!
//! ```text
//! EDGE_WARDEN_BINARY=target/x86_64-unknown-linux-gnu/release/edge-warden cargo test --bench quarantine_latency
//! ```
//! measures that binary; without the variable, the one cargo builds. Names of parts as arguments run only these; the
//! largest, `most`, runs only when it is named. `EDGE_WARDEN_RUNS=5` repeats everything five times at the most: to see
//! that it works, not to measure.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a measurement may stop at the first surprise"
)]

mod cost;
mod links;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::time::Duration;

use edge_warden::control::Request;
use serde_json::{Value, json};

use support::site::until;
use support::warden::{Arrivals, Flood, Guarded, ON_DISK, SOON, devices, now, percentile};

fn main() {
    ON_DISK.store(true, std::sync::atomic::Ordering::Relaxed);
    let parts: [(&str, fn()); 11] = [
        ("latency", latency),
        ("kill", || ["auto", "off"].map(kill).into_iter().collect()),
        ("flush", || ["auto", "off"].map(flush).into_iter().collect()),
        ("delete", || ["auto", "off"].map(delete).into_iter().collect()),
        ("upgrade", || ["auto", "off"].map(upgrade).into_iter().collect()),
        ("links", links::links),
        ("cost", cost::cost),
        ("frames", cost::frames),
        ("transactions", cost::transactions),
        ("many", || many(250)),
        ("most", || many(10_000)),
    ];
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    for (name, part) in parts {
        // the largest takes long: only when asked for
        if wanted.iter().any(|word| word == name)
            || (wanted.is_empty() && !["most", "frames", "transactions"].contains(&name))
        {
            let start = now();
            part();
            println!("part {name} took {:.0?}\n", start.elapsed());
        }
    }
}

/// How often something is repeated: so often, or less when it is only to be seen working.
fn runs(often: usize) -> usize {
    let least = |most: String| most.parse::<usize>().expect("EDGE_WARDEN_RUNS is a number").min(often);
    std::env::var("EDGE_WARDEN_RUNS").map_or(often, least)
}

fn line(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |percent| percentile(&times, percent);
    println!(
        "{what}: n={} p50 {:.1?} p99 {:.1?} max {:.1?}",
        times.len(),
        at(50),
        at(99),
        at(100)
    );
}

/// From the write of the shadow to the last packet of a device that sends 2,000 a second to each of two places.
fn latency() {
    let guarded = Guarded::start(&json!({}));
    let site = &guarded.site;
    let _flood = Flood::start(site, 0, 2000);
    let (lan, internet) = (
        Arrivals::on_lan(site.device(1), site.device(0)),
        Arrivals::on_internet(site),
    );
    let (mut from_request, mut from_answer, mut told, mut after) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for _ in 0..runs(200) {
        lan.await_more(50);
        internet.await_more(50);
        let asked = now();
        guarded.desire("cam-0", None, &json!({"quarantine": true}));
        let answered = now();
        guarded.await_enforced("cam-0", None, &json!(true));
        let said = now();
        let last = [lan.await_silence(), internet.await_silence()];
        let (_, last) = last.into_iter().flatten().max_by_key(|(_, read)| *read).unwrap();
        from_request.push(last.saturating_duration_since(asked));
        from_answer.push(last.saturating_duration_since(answered));
        told.push(said.duration_since(asked));
        after += lan.since(said).len() + internet.since(said).len();
        guarded.desire("cam-0", None, &json!({"quarantine": false}));
        guarded.await_enforced("cam-0", None, &json!(false));
    }
    line("shadow write asked for -> last packet", from_request);
    line("shadow write answered -> last packet", from_answer);
    line("shadow write asked for -> shadow says enforced", told);
    println!("packets sent after the shadow said enforced that got through: {after}");
    assert_eq!(after, 0);
}

fn cut(quarantine: &Value) -> (Guarded, Flood, Arrivals, Arrivals) {
    let guarded = Guarded::start(quarantine);
    let site = &guarded.site;
    let flood = Flood::start(site, 0, 2000);
    let (lan, internet) = (
        Arrivals::on_lan(site.device(1), site.device(0)),
        Arrivals::on_internet(site),
    );
    lan.await_more(50);
    internet.await_more(50);
    guarded.desire("cam-0", None, &json!({"quarantine": true}));
    guarded.await_enforced("cam-0", None, &json!(true));
    lan.await_silence();
    internet.await_silence();
    (guarded, flood, lan, internet)
}

/// `kill -9` and restart, 100 times.
fn kill(ownership: &str) {
    let (mut guarded, flood, lan, internet) = cut(&json!({"tableOwnership": ownership}));
    let (start, sent) = (now(), flood.sent());
    let mut back = Vec::new();
    for _ in 0..runs(100) {
        guarded.kill();
        flood.await_sent(20);
        let launched = now();
        guarded.run();
        back.push(launched.elapsed());
    }
    let passed = lan.since(start).len() + internet.since(start).len();
    println!(
        "kill -9, tableOwnership {ownership}: {passed} packets passed of 2 x {}",
        flood.sent() - sent
    );
    line("start -> control socket answers", back);
    assert_eq!(passed, 0);
}

/// A new version under another path, the old one stopped or killed and removed.
fn upgrade(ownership: &str) {
    let (mut guarded, flood, lan, internet) = cut(&json!({"tableOwnership": ownership}));
    let folder = guarded.dir.with_file_name("versions");
    std::fs::create_dir(&folder).unwrap();
    let shipped = guarded.binary.clone();
    let (start, sent) = (now(), flood.sent());
    let mut between = Vec::new();
    let rounds = runs(100);
    for version in 0..rounds {
        let binary = folder.join(version.to_string());
        std::fs::copy(&shipped, &binary).unwrap();
        let old = std::mem::replace(&mut guarded.binary, binary);
        let ended = now();
        if version % 2 == 0 {
            guarded.stop();
        } else {
            guarded.kill();
        }
        if old != shipped {
            std::fs::remove_file(old).unwrap();
        }
        flood.await_sent(20);
        guarded.run();
        between.push(ended.elapsed());
    }
    let passed = lan.since(start).len() + internet.since(start).len();
    let sent = flood.sent() - sent;
    println!("upgrade, tableOwnership {ownership}: {passed} packets passed of 2 x {sent} in {rounds} upgrades");
    line("old version told to end or killed -> new one answers", between);
    assert_eq!(passed, 0);
}

fn flush(ownership: &str) {
    damage("nft flush ruleset", ownership);
}

fn delete(ownership: &str) {
    damage("nft delete table bridge edge_warden", ownership);
}

/// The same damage 100 times; the gap is from the first packet that passed to the last.
fn damage(command: &str, ownership: &str) {
    let (guarded, flood, lan, internet) = cut(&json!({"tableOwnership": ownership}));
    let (mut passed, mut gaps) = (0, Vec::new());
    for _ in 0..runs(100) {
        let start = now();
        // who does not own the table is refused
        guarded.site.gateway().run(&["sh", "-c", command]);
        flood.await_sent(100);
        lan.await_silence();
        internet.await_silence();
        let mut times = [lan.since(start), internet.since(start)].concat();
        times.sort();
        passed += times.len();
        let gap = times
            .last()
            .zip(times.first())
            .map(|(last, first)| last.duration_since(*first));
        gaps.push(gap.unwrap_or_default());
    }
    println!("{command}, tableOwnership {ownership}: {passed} packets passed");
    line("gap", gaps);
}

/// So many things quarantined by their shadows, read at the start; then one more.
fn many(number: usize) {
    let mut guarded = Guarded::prepare();
    let mut all = devices(&guarded.site);
    let thing = |n: usize| format!("thing-{n}");
    for n in 0..number {
        let (high, low) = (n / 256, n % 256);
        all.as_array_mut().unwrap().push(json!({
            "thingName": thing(n),
            "macs": [format!("02:cc:00:00:{high:02x}:{low:02x}")],
            "addresses": [format!("172.20.{high}.{low}")],
        }));
    }
    // the core's and one device's entries; the lists of 10,000 are full
    all.as_array_mut().unwrap().truncate(10_000);
    guarded.configure(&json!({"devices": all, "report": {"core": false}}));
    let names: Vec<String> = (0..number.min(10_000 - 4)).map(thing).collect();
    guarded.desire_offline(&names, r#"{"quarantine":true}"#);
    let start = now();
    guarded.run();
    let held = |guarded: &Guarded| {
        let list = guarded.ask(&Request::QuarantineList).unwrap_or_default();
        let things = list.as_array().cloned().unwrap_or_default();
        things.iter().filter(|thing| thing["enforced"] == true).count()
    };
    let all_held = until(SOON * 90, || held(&guarded) == names.len());
    println!(
        "{} shadows found at the start -> all enforced: {:.1?} ({all_held})",
        names.len(),
        start.elapsed()
    );
    println!("memory of the agent: {}", guarded.memory());
    // what a comparison with the kernel and an answer to the operator cost with so many
    let asked = now();
    guarded.answer(&Request::QuarantineList);
    println!("quarantine list of {}: {:.1?}", names.len(), asked.elapsed());
    guarded.stop();
    let start = now();
    guarded.run();
    println!(
        "restart with {} stored decisions -> answers: {:.1?}",
        names.len(),
        start.elapsed()
    );
    let flood = Flood::start(&guarded.site, 0, 2000);
    let lan = Arrivals::on_lan(guarded.site.device(1), guarded.site.device(0));
    let mut one_more = Vec::new();
    for _ in 0..runs(20) {
        lan.await_more(50);
        let asked = now();
        guarded.answer(&Request::QuarantineAdd {
            thing: "cam-0".parse().unwrap(),
            posture: None,
            until: None,
            reason: None,
        });
        let (_, last) = lan.await_silence().unwrap();
        one_more.push(last.saturating_duration_since(asked));
        guarded.answer(&Request::QuarantineRelease {
            thing: "cam-0".parse().unwrap(),
        });
    }
    drop(flood);
    line(
        &format!("one more beside {}: asked for -> last packet", names.len()),
        one_more,
    );
}
