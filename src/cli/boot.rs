//! `edge-warden boot`: enforce the stored decisions before the network is up, then exit. The rules stay.

use std::path::{Path, PathBuf};

use edge_warden::agent::clock::SystemClock;
use edge_warden::config::STATE_DIR_DEFAULT;
use tracing_subscriber::filter::LevelFilter;

use super::{Exit, args, logging, run};

/// Enforce and exit.
pub(crate) fn run(arguments: &args::Place) -> anyhow::Result<Exit> {
    logging::start(LevelFilter::INFO, false);
    let state_dir = state_dir(arguments);
    let config = run::last_good_config(&state_dir.join(run::LAST_GOOD)).unwrap_or_default();
    let clock = SystemClock::accelerated(1);
    let (warden, _) = run::enforce_stored(&config, &"core".parse()?, &state_dir, &clock)?;
    let trouble = warden.trouble();
    if trouble.is_empty() {
        println!(
            "{} quarantined, as stored in {}",
            warden.quarantined(),
            state_dir.display()
        );
        Ok(Exit::Done)
    } else {
        anyhow::bail!("stored decisions are not fully enforced: {}", trouble.join("; "))
    }
}

/// Where the agent meant keeps its state.
pub(crate) fn state_dir(place: &args::Place) -> PathBuf {
    match (&place.standalone, &place.state_dir) {
        (Some(dir), _) => dir.join("state"),
        (None, Some(dir)) => dir.clone(),
        (None, None) => Path::new(STATE_DIR_DEFAULT).to_owned(),
    }
}
