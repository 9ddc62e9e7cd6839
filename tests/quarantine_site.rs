//! Quarantine by the agent as it ships: the binary on the gateway of a site, shadows and verbs in, real packets out.
//! Needs root. Each test begins with its positive control.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::items_after_test_module,
    reason = "a test may stop at the first surprise"
)]

mod support;

/// One file per subject.
#[cfg(test)] // always so here; it tells clippy that the functions beside the tests are test code too
mod quarantine_site {
    mod boot;
    mod cutting;
    mod disk;
    mod floods;
    mod memory;
    mod operator;
    mod rails;
    mod staying;
    mod upgrades;
}

use edge_warden::control::Request;
use serde_json::Value;
use support::warden::Guarded;

/// Floods send this many packets a second each to two places.
const RATE: u32 = 1000;

fn release(thing: &str) -> Request {
    Request::QuarantineRelease {
        thing: thing.parse().unwrap(),
    }
}

fn add(thing: &str) -> Request {
    Request::QuarantineAdd {
        thing: thing.parse().unwrap(),
        posture: None,
        until: None,
        reason: None,
    }
}

fn why(thing: &str) -> Request {
    Request::QuarantineWhy {
        thing: thing.parse().unwrap(),
    }
}

/// `desired` and `reported` agree about quarantine: AWS would send no delta for it.
fn no_delta(document: &Value) -> bool {
    document.pointer("/state/desired/quarantine") == document.pointer("/state/reported/quarantine")
}

/// The names of a thing's causes.
fn causes(guarded: &Guarded, thing: &str) -> Vec<String> {
    let answer = guarded.answer(&why(thing));
    let causes = answer["causes"].as_array().unwrap();
    let name = |cause: &Value| cause["cause"].as_str().unwrap().to_owned();
    let mut names: Vec<String> = causes.iter().map(name).collect();
    names.sort();
    names
}

/// What the gateway's rules are, without the NAT of the site.
fn our_tables(guarded: &Guarded) -> String {
    guarded
        .site
        .gateway()
        .shell("nft list tables | grep 'edge_warden$' || true")
}
