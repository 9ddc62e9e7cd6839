//! `edge-warden boot`: enforce the stored decisions before the network is up, then exit. The rules stay.

use std::path::{Path, PathBuf};

use edge_warden::agent::clock::SystemClock;
use edge_warden::config::{Config, Mode, STATE_DIR_DEFAULT};
use tracing_subscriber::filter::LevelFilter;

use super::{Exit, args, logging, run};

/// Enforce and exit.
pub fn run(arguments: &args::Place) -> anyhow::Result<Exit> {
    logging::start(LevelFilter::INFO, false);
    let state_dir = state_dir(arguments);
    if !state_dir.exists() {
        anyhow::bail!("{} does not exist: no decisions are stored there", state_dir.display());
    }
    // the looser rules: a standalone agent's configuration is as good here
    let config = run::last_good_config(&state_dir.join(run::LAST_GOOD), Mode::Standalone).unwrap_or_else(|| {
        tracing::warn!(
            "no valid configuration is kept in {}; enforcing by the defaults",
            state_dir.display()
        );
        Config::default()
    });
    let clock = SystemClock::accelerated(1);
    let (warden, _, _alone) = run::enforce_stored(&config, &"core".parse()?, &state_dir, &clock)?;
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
pub fn state_dir(place: &args::Place) -> PathBuf {
    match (&place.standalone, &place.state_dir) {
        (Some(dir), _) => dir.join("state"),
        (None, Some(dir)) => dir.clone(),
        (None, None) => {
            let usual = Path::new(STATE_DIR_DEFAULT);
            // the configuration may have put it elsewhere
            run::last_good_config(&usual.join(run::LAST_GOOD), Mode::Greengrass)
                .map_or_else(|| usual.to_owned(), |config| config.state_dir)
        }
    }
}
