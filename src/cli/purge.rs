//! `edge-warden purge`: the only thing that removes rules and decisions.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context;
use edge_warden::agent::boot_unit;
use edge_warden::control::{AskError, Request, SYSTEM_SOCKET, ask};
use edge_warden::firewall::{AccountingLan, Firewall, NftablesAccounting, NftablesFirewall, TableOwnership};

use super::{Exit, args, boot};

/// Remove everything, if no agent runs.
pub(crate) fn run(arguments: &args::Purge) -> anyhow::Result<Exit> {
    let place = &arguments.place;
    let socket = match (&place.standalone, &place.state_dir) {
        (Some(dir), _) | (None, Some(dir)) => dir.join("control.sock"),
        (None, None) => SYSTEM_SOCKET.into(),
    };
    match ask(&socket, &Request::Status) {
        Err(AskError::NoAgent { .. }) => {}
        Ok(_) => anyhow::bail!(
            "an agent is running ({}); stop it first, it would write the rules again",
            socket.display()
        ),
        Err(error) => return Err(error.into()),
    }
    NftablesFirewall::open(TableOwnership::Auto)?
        .purge()
        .context("the quarantine rules cannot be removed")?;
    NftablesAccounting::open(AccountingLan::default())?
        .purge()
        .context("the accounting rules cannot be removed")?;
    let state_dir = boot::state_dir(place);
    if place.standalone.is_none() && place.state_dir.is_none() {
        boot_unit::remove(Path::new(boot_unit::UNIT_DIR), &state_dir)?;
    }
    match std::fs::remove_dir_all(&state_dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("{} cannot be removed", state_dir.display()));
        }
        _ => {}
    }
    println!("removed: rules, and {}", state_dir.display());
    Ok(Exit::Done)
}
