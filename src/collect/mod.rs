//! (being written)

pub mod conntrack;
mod distinct;
mod multicast;
pub mod neighbours;

pub use distinct::Distinct;
pub use multicast::Drained;
