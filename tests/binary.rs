//! The shipped binary, as the process it is in the field, against the test nucleus and with the recipe's own
//! configuration and accessControl. `make test` runs these against the packaged, static binary (`EDGE_WARDEN_BINARY`); a
//! plain `cargo test` against the debug build.
//!
//! Agents run with `--accelerate`, so that 300 s pass in a moment, and with a `--state-dir` of their own. Report ids are
//! the agent's epoch seconds, so their differences are the time between reports on its clock.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests: the first surprise ends them, in helpers too"
)]

mod support;

/// One file per subject.
mod binary {
    mod command_line;
    mod configuration;
    mod packaged;
    mod reports;
    mod restart;
    mod things;
    mod trouble;
}

use std::sync::Arc;

use serde_json::{Value, json};
use support::binary::{access_control, agent_seconds, configuration};
use support::nucleus::{Kind, Seen, Settings};

/// 300 s take 0.3 s.
const FAST: u32 = 1000;
const KINDS: [Kind; 2] = [Kind::Classic, Kind::Lite];

/// A nucleus that has deployed the shipped recipe with `changes` to its configuration, and a Device Defender that
/// enforces the 300 s on the clock of agents that run [`FAST`].
fn deployed(kind: Kind, changes: Value) -> Settings {
    Settings {
        configuration: configuration(changes),
        access_control: Some(access_control()),
        enforce_rate: Some(Arc::new(|| agent_seconds(FAST))),
        ..match kind {
            Kind::Classic => Settings::classic(),
            Kind::Lite => Settings::lite(),
        }
    }
}

/// The recipe as it is.
fn as_shipped(kind: Kind) -> Settings {
    deployed(kind, json!({}))
}

/// Nothing, until there were `count` reports.
fn reports(count: usize) -> impl FnMut(&Seen) -> Option<()> {
    move |seen| (seen.reports.len() >= count).then_some(())
}

/// How many requests for `operation` there were.
fn requests(seen: &Seen, operation: &str) -> usize {
    seen.requests
        .iter()
        .filter(|request| request.operation == operation)
        .count()
}

/// The core's line of `status`.
fn core(status: &Value) -> &Value {
    &status["reports"]["things"][0]
}
