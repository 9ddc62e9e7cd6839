//! `edge-warden measure-custom`: the process beside the agent that measures custom metrics. People do not type this.

use std::path::Path;

use anyhow::Context;
use edge_warden::agent::{Helper, serve_custom_metrics};
use edge_warden::config::Config;
use edge_warden::sandbox::{self, Needs};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::LevelFilter;

use super::{Exit, logging, privileges};

/// The word that leads here.
pub const WORD: &str = "measure-custom";

/// Start it, if `config` needs it or is not known yet. Before privileges are given up, of which it keeps others.
pub fn start(config: Option<&Config>, state_dir: &Path) -> Option<Helper> {
    let needed = |config: &Config| config.custom_metrics.iter().any(|metric| metric.source.is_of_host());
    if !config.is_none_or(needed) {
        return None;
    }
    match Helper::start(&[WORD.as_ref(), "--state-dir".as_ref(), state_dir.as_os_str()]) {
        Ok(helper) => Some(helper),
        Err(error) => {
            let error = anyhow::Error::from(error);
            tracing::warn!(
                error = format!("{error:#}"),
                "custom metrics are measured as far as the agent itself may"
            );
            None
        }
    }
}

/// Answer the agent until it ends.
pub fn run(state_dir: &Path) -> anyhow::Result<Exit> {
    sandbox::keep(&Needs::of_measuring(privileges::of_another_user(state_dir)))?;
    logging::start(LevelFilter::WARN, false);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime for signals")?;
    let _within = runtime.enter();
    // Whoever stops the agent and all beside it: this ends with the agent, when it has killed the commands it runs.
    let _kept = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
    serve_custom_metrics(state_dir, std::io::stdin().lock(), std::io::stdout().lock())?;
    Ok(Exit::Done)
}
