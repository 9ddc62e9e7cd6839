//! Storms: the shipped binary on the gateway of a site, with a nucleus that misbehaves, killed, stalled and starved in
//! every way we can think of, and what must hold all the same. docs/storms.md says what is covered and what is not. Root.
//!
//! `EDGE_WARDEN_STORM_SECONDS` (10), `EDGE_WARDEN_STORM_SEED` (1) and `EDGE_WARDEN_STORM_RUNS` (1, with rising seeds) make
//! it longer; `make storm` sets them. `EDGE_WARDEN_STORM_TABLES` (`auto off`) chooses the table ownership.
#![allow(unreachable_pub, reason = "a test binary has no outside")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test may stop at the first surprise"
)]

mod support;

/// What a storm is made of.
#[cfg(test)] // always so here; it tells clippy that the functions in it are test code
mod storm {
    pub mod clock;
    pub mod course;
    pub mod decisions;
    pub mod faults;
    pub mod room;
    pub mod schedule;
    pub mod traffic;
}

use std::time::Duration;

use storm::course::{Figures, Storm};
use support::warden::now;

/// How many times faster than time the agent's clocks run: 300 s take 15 s, and its patience with an answer is half a
/// second.
const FACTOR: u32 = 20;
/// What a healthy agent needs a fraction of.
const SOON: Duration = Duration::from_secs(60);

fn setting(name: &str, otherwise: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(otherwise, |value| {
        value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number"))
    })
}

/// Storms with owned and with plain tables, one after the other.
#[test]
#[ignore = "a search for faults, with its own luck each time: `make storm`"]
fn nothing_leaks_and_nothing_is_lost_in_a_storm() {
    let seed = setting("EDGE_WARDEN_STORM_SEED", 1);
    let length = Duration::from_secs(setting("EDGE_WARDEN_STORM_SECONDS", 10));
    let tables = std::env::var("EDGE_WARDEN_STORM_TABLES").unwrap_or_else(|_| "auto off".to_owned());
    let mut all = Vec::new();
    for seed in (seed..).take(setting("EDGE_WARDEN_STORM_RUNS", 1) as usize) {
        for ownership in ["auto", "off"]
            .into_iter()
            .filter(|ownership| tables.contains(ownership))
        {
            println!("storm: seed {seed}, tableOwnership {ownership}, {} s", length.as_secs());
            let start = now();
            let figures = Storm::prepare(seed, ownership).run(length);
            let mut figures = figures.unwrap_or_else(|wrong| panic!("{wrong}"));
            figures.seconds = start.elapsed().as_secs();
            println!("{figures:?}");
            all.push(figures);
        }
    }
    table(&all);
}

/// What a report leaves behind on a full disk is enough to keep the distance to the next, whoever sends it.
#[test]
fn a_report_on_a_full_disk_is_remembered_after_kill_9() {
    let mut storm = Storm::prepare(0, "auto");
    storm.await_reports(2);
    storm.fill_disk();
    for _ in 0..2 {
        storm.await_reports(1);
        storm.kill();
        storm.launch();
    }
    storm.await_reports(6);
    storm.finish().unwrap_or_else(|wrong| panic!("{wrong}"));
}

/// As docs/storms.md shows them.
fn table(all: &[Figures]) {
    println!(
        "| seed | nucleus | tables | seconds | faults | starts | packets of cut devices | leaks | in gaps | gap p50, longest \
         | decisions | reports, closest | status | RSS before, most, after | files |"
    );
    println!("|{}", "---|".repeat(15));
    for storm in all {
        let faults: u64 = storm.faults.values().sum();
        let gap = |percent| support::warden::percentile(&storm.gaps, percent);
        let [before, most, after] = storm.resident.map(|kib| kib as f64 / 1024.0);
        let [files, _, open] = storm.files;
        println!(
            "| {} | {} | {} | {} | {faults} | {} | {} | {} | {} | {:.0?}, {:.0?} | {} | {}, {} s | {:.0?} \
             | {before:.1}, {most:.1}, {after:.1} MiB | {files}, {open} |",
            storm.seed,
            storm.nucleus,
            if storm.ownership == "auto" { "owned" } else { "plain" },
            storm.seconds,
            storm.starts,
            storm.sent,
            storm.leaks,
            storm.in_gaps,
            gap(50),
            gap(100),
            storm.acknowledged,
            storm.reports,
            storm.closest.unwrap_or_default(),
            storm.slowest,
        );
    }
}
