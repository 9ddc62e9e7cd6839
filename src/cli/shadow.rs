//! `edge-warden shadow`: desired state in the embedded stand-in.

use std::io::Write;

use edge_warden::agent::clock::{Clock, SystemClock};
use edge_warden::control::{AskError, Request, ask, socket_path};
use edge_warden::greengrass::standalone::edit_shadow;

use super::{Exit, args};

/// Through the running agent when there is one, else in the file.
pub fn run(arguments: &args::Shadow) -> anyhow::Result<Exit> {
    let desired = &arguments.desired;
    let name = arguments.name.as_ref().map(|name| name.parse()).transpose()?;
    let request = Request::WriteDesired {
        thing: arguments.thing.clone(),
        name: arguments.name.clone(),
        desired: desired.clone(),
    };
    let document = match ask(&socket_path(Some(&arguments.standalone)), &request) {
        Ok(document) => document,
        Err(AskError::NoAgent { .. }) => {
            let now = SystemClock::accelerated(1).wall();
            edit_shadow(&arguments.standalone, &arguments.thing, name.as_ref(), desired, now)?
        }
        Err(error) => return Err(error.into()),
    };
    writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&document)?)?;
    Ok(Exit::Done)
}
