//! What is measured on the host: interfaces and sockets, from netlink, or from `/proc` where netlink does not open.
//!
//! Network facts never come from `/sys`, which goes on showing another namespace's links after setns(2).
//! What exactly is counted and listed is told in `docs/collecting.md`.

pub mod conntrack;
pub mod custom;
mod distinct;
mod error;
mod interfaces;
pub mod neighbours;
mod netlink;
mod proc_net;
mod rtnetlink;
mod sock_diag;
mod sockets;
#[cfg(test)]
mod tests;
pub mod uplink;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use crate::netlink::Drained;
pub use distinct::Distinct;
pub use error::{CollectError, Note};
pub use interfaces::{Interface, InterfaceAddress, InterfaceSelection};
#[cfg(any(test, fuzzing))]
pub(crate) use proc_net::fuzz as fuzz_proc_net;
#[cfg(any(test, fuzzing))]
pub(crate) use rtnetlink::fuzz as fuzz_rtnetlink;
#[cfg(any(test, fuzzing))]
pub(crate) use sock_diag::fuzz as fuzz_sock_diag;
pub use sockets::{Socket, SocketState, SocketTable};

use crate::model::{Connection, Counters, ListeningPort, Measured, Missing, Reason};
use sockets::{Names, Transport};

/// Where the host is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPaths {
    /// The root of procfs.
    pub proc_root: PathBuf,
    /// Whether to ask the kernel by netlink first. Off for a tree of fixtures, which is not the running kernel.
    pub netlink: bool,
}

impl Default for HostPaths {
    /// The running host: `/proc`, netlink first.
    fn default() -> Self {
        Self {
            proc_root: PathBuf::from("/proc"),
            netlink: true,
        }
    }
}

impl HostPaths {
    /// Reads a procfs tree alone, without netlink.
    pub fn proc_only(proc_root: impl Into<PathBuf>) -> Self {
        Self {
            proc_root: proc_root.into(),
            netlink: false,
        }
    }
}

/// Reads the host, in the network namespace of the thread that calls it.
#[derive(Debug)]
pub struct HostCollector {
    paths: HostPaths,
}

/// The host at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSample {
    /// Network interfaces, by index, or in the order of `/proc/net/dev`.
    pub interfaces: Measured<Vec<Interface>>,
    /// TCP and UDP sockets.
    pub sockets: SocketTable,
    /// The kernel's identifier of this boot: counters of another boot are not comparable.
    pub boot_id: Measured<String>,
    /// Fallbacks in use, rows skipped, parts unknown.
    pub notes: Vec<Note>,
}

impl HostCollector {
    /// A collector that reads from `paths`.
    #[must_use]
    pub fn new(paths: HostPaths) -> Self {
        Self { paths }
    }

    /// Measures everything once. What cannot be read is missing in the sample and says why; nothing here fails.
    pub fn collect(&mut self) -> HostSample {
        let mut notes = Vec::new();
        let net = proc_net::directory(&self.paths.proc_root);
        let interfaces = self.first_of(
            "rtnetlink links",
            &net.join("dev"),
            &mut notes,
            rtnetlink::read,
            |notes| proc_net::interfaces(&net, notes),
        );
        let mut sockets = |transport, diag: &str, file: &str| {
            self.first_of(
                diag,
                &net.join(file),
                &mut notes,
                |notes| sock_diag::read(transport, notes),
                |notes| proc_net::sockets(&net, transport, notes),
            )
        };
        let sockets = SocketTable {
            tcp: sockets(Transport::Tcp, "sock_diag tcp", "tcp"),
            udp: sockets(Transport::Udp, "sock_diag udp", "udp"),
        };
        HostSample {
            interfaces,
            sockets,
            boot_id: self.boot_id().map_err(Missing::from),
            notes,
        }
    }

    /// The answer of `by_netlink`, or with a note that of `by_proc`; when both fail, why each did.
    fn first_of<T>(
        &self,
        table: &str,
        file: &Path,
        notes: &mut Vec<Note>,
        by_netlink: impl FnOnce(&mut Vec<Note>) -> Result<T, CollectError>,
        by_proc: impl FnOnce(&mut Vec<Note>) -> Result<T, CollectError>,
    ) -> Measured<T> {
        // What was said about a table that is not used after all says nothing about the sample.
        let before = notes.len();
        let instead_of = if self.paths.netlink {
            match by_netlink(notes) {
                Ok(found) => return Ok(found),
                Err(error) => {
                    notes.truncate(before);
                    Missing::from(error)
                }
            }
        } else {
            Missing::new(table, Reason::NotCollected, "netlink is switched off")
        };
        match by_proc(notes) {
            Ok(found) => {
                notes.push(Note::Fallback {
                    used: file.display().to_string(),
                    instead_of,
                });
                Ok(found)
            }
            Err(error) => {
                notes.truncate(before);
                let mut missing = Missing::from(error);
                missing.detail = format!("{}; {instead_of}", missing.detail);
                Err(missing)
            }
        }
    }

    /// random(4), `boot_id`: a UUID drawn at boot.
    fn boot_id(&self) -> Result<String, CollectError> {
        let path = self.paths.proc_root.join("sys/kernel/random/boot_id");
        let origin = path.display().to_string();
        let text = std::fs::read_to_string(&path).map_err(|e| CollectError::from_io(&origin, e))?;
        let id = text.trim_end();
        let is_uuid = id.len() == 36 && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        if is_uuid {
            Ok(id.to_owned())
        } else {
            Err(CollectError::malformed(origin, "not a UUID"))
        }
    }
}

impl HostSample {
    /// The counters that make up the host's traffic, by [`Interface::key`].
    ///
    /// # Errors
    /// The interfaces could not be read.
    pub fn counters(&self, selection: &InterfaceSelection) -> Measured<BTreeMap<String, Counters>> {
        let interfaces = self.interfaces.as_deref().map_err(Missing::clone)?;
        let counted = interfaces::counters(interfaces, selection);
        match selection {
            // a name nobody has is not an interface without traffic
            InterfaceSelection::Listed(names) if counted.is_empty() && !names.is_empty() => {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                let detail = "none of these interfaces exists; see report.interfaces";
                Err(Missing::new(names.join(", "), Reason::Absent, detail))
            }
            _ => Ok(counted),
        }
    }

    /// Established TCP connections, each once, sorted; those to the host itself stand here with both ends.
    ///
    /// # Errors
    /// The TCP sockets could not be read. Without interfaces the connections only lack theirs.
    pub fn established(&self) -> Measured<Vec<Connection>> {
        let sockets = self.sockets.tcp.as_deref().map_err(Missing::clone)?;
        Ok(sockets::established(sockets, &self.names()))
    }

    /// TCP ports listened on, each (port, interface) once, sorted.
    ///
    /// # Errors
    /// The TCP sockets could not be read.
    pub fn listening_tcp(&self) -> Measured<Vec<ListeningPort>> {
        let sockets = self.sockets.tcp.as_deref().map_err(Missing::clone)?;
        Ok(sockets::listening(sockets, &self.names()))
    }

    /// UDP ports bound and unconnected, each (port, interface) once, sorted.
    ///
    /// # Errors
    /// The UDP sockets could not be read.
    pub fn listening_udp(&self) -> Measured<Vec<ListeningPort>> {
        let sockets = self.sockets.udp.as_deref().map_err(Missing::clone)?;
        Ok(sockets::listening(sockets, &self.names()))
    }

    fn names(&self) -> Names<'_> {
        Names::new(self.interfaces.as_deref().unwrap_or_default())
    }
}
