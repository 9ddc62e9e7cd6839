//! `edge-warden purge`: the only thing that removes rules and decisions.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context;
use edge_warden::agent::boot_unit;
use edge_warden::control::{AskError, Request, ask};
use edge_warden::firewall::{AccountingLan, Firewall, NftablesAccounting, NftablesFirewall, TableOwnership};

use super::{Exit, args, boot, run};

/// Everything an agent keeps in its state folder.
const OURS: [&str; 19] = [
    "agent.lock",
    "alarms.json",
    "audit.jsonl",
    "audit.jsonl.1",
    "audit.jsonl.2",
    "audit.jsonl.3",
    "bin",
    "lan.json",
    run::LAST_GOOD,
    run::NEWEST,
    "quarantine.a",
    "quarantine.a.damaged",
    "quarantine.b",
    "quarantine.b.damaged",
    "reports.json",
    "samples.jsonl",
    "samples.jsonl.1",
    "violations-outbox.jsonl",
    "watched",
];

/// Remove everything, if no agent runs.
pub fn purge(arguments: &args::Purge) -> anyhow::Result<Exit> {
    let place = &arguments.place;
    let socket = place.socket();
    match ask(&socket, &Request::Status) {
        Err(AskError::NoAgent { .. }) => {}
        Ok(_) => anyhow::bail!(
            "an agent is running ({}); stop it first, it would write the rules again",
            socket.display()
        ),
        Err(error) => return Err(error.into()),
    }
    let state_dir = boot::state_dir(place);
    let ours: Vec<PathBuf> = OURS
        .iter()
        .map(|name| state_dir.join(name))
        .filter(|path| path.exists())
        .collect();
    if state_dir.exists() && ours.is_empty() {
        anyhow::bail!(
            "{} holds no state of edge-warden; nothing was removed",
            state_dir.display()
        );
    }
    // nobody writes the rules again while they are removed
    let _alone = state_dir.exists().then(|| run::lock(&state_dir)).transpose()?;
    NftablesFirewall::open(TableOwnership::Auto)?
        .purge()
        .context("the quarantine rules cannot be removed")?;
    NftablesAccounting::open(AccountingLan::default())?
        .purge()
        .context("the accounting rules cannot be removed")?;
    if place.standalone.is_none() && place.state_dir.is_none() {
        boot_unit::remove(Path::new(boot_unit::UNIT_DIR), &state_dir)?;
    }
    for path in &ours {
        let removed = if path.is_dir() {
            std::fs::remove_dir_all(path)
        } else {
            std::fs::remove_file(path)
        };
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("{} cannot be removed", path.display()));
            }
            _ => {}
        }
    }
    // stays when somebody else keeps something there
    let _ = std::fs::remove_dir(&state_dir);
    println!("removed: rules, and the state in {}", state_dir.display());
    Ok(Exit::Done)
}
