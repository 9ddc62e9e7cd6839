//! The control socket: how a person (through the command line) asks a running agent.
//!
//! One request per connection: a line of JSON in, a line of JSON out. Only root and the user the agent runs as are
//! answered, by the peer credentials the kernel gives (`SO_PEERCRED`, unix(7)).

mod client;
mod protocol;
mod server;

pub use client::{AskError, ask};
pub use protocol::{Answer, ReportEncoding, ReportTags, Request};
pub use server::{Asked, ListenError, listen, serve};

use std::path::{Path, PathBuf};

/// The socket of an agent started by a nucleus; only root can make files there.
pub const SYSTEM_SOCKET: &str = "/run/edge-warden/control.sock";

/// Where the agent's socket is: in the standalone folder, or the system's.
#[must_use]
pub fn socket_path(standalone: Option<&Path>) -> PathBuf {
    standalone.map_or_else(|| PathBuf::from(SYSTEM_SOCKET), |dir| dir.join("control.sock"))
}
