//! The way out: what the agent asks of a Greengrass nucleus, and who can answer.
//!
//! [`Nucleus`] is blocking, because the official SDK is; a link runs it on a thread of its own
//! and turns its calls into commands and events, so the agent's loop never waits for it.

pub mod link;
mod nucleus;
pub mod sdk;
pub mod shadow_document;
pub mod standalone;
pub mod topic;

pub use nucleus::{
    ComponentState, Destination, Incoming, IncomingSender, Nucleus, NucleusError, NucleusKind, SubscriptionId,
};
