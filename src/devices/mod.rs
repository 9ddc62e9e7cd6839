//! Who is who: which local thing is behind which MAC and IP address, by which source, in conflict with whom.
//!
//! [`Registry`] takes [`Observation`]s and makes an [`IdentityTable`] of them; it is pure. [`leases`] reads and watches DHCP
//! lease files. The rules are told in `docs/devices.md`.

mod changes;
mod hosts;
mod identity;
pub mod leases;
mod observation;
mod registry;
mod resolve;
#[cfg(test)]
mod tests;
mod view;

pub use changes::{Change, What};
pub use identity::{BoundAddress, BoundMac, Conflict, Identity, IdentityTable, Move, Skipped, Source, UnknownDevice};
pub use observation::{
    BrokerPeer, ConfiguredDevice, MAX_REGISTERED_MACS, Observation, Registration, RegistrationError,
};
pub use registry::Registry;
pub use view::{DevicesView, ThingRow, UnknownRow};
