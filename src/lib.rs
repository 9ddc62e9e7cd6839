//! Edge Warden: Device Defender reports, detection and quarantine at the edge.
//!
//! ```text
//!  /proc, netlink ──▶ collect ─┐
//!  leases, neighbours ▶ devices ├─▶ report ──▶ greengrass ──▶ AWS IoT Core
//!                               ├─▶ detect ─▶ quarantine ─▶ firewall (nftables)
//!  agent (one loop, the only reader of clocks) drives all of it; control and the CLI look in
//! ```
//!
//! Folders are the data flow; a module uses only what stands above it in this list.

pub mod model;

mod netlink;

pub mod config;

pub mod sandbox;

pub mod collect;

pub mod devices;

pub mod report;

pub mod detect;

pub mod quarantine;

pub mod firewall;

pub mod greengrass;

pub mod control;

pub mod agent;

#[cfg(any(test, fuzzing))]
pub mod fuzzing;
