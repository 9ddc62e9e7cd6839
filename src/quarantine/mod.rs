//! Who is to be cut off, why, and what follows from it. Pure: events and the time in, effects out.
//!
//! A thing is quarantined while any [`Cause`] holds. Shadows, edge alarms and the operator raise causes; each ends by
//! its own rule, so nobody can end somebody else's. `docs/quarantine.md` has the transition table, which is a test.

mod cause;
mod decision;
mod rails;
mod shadow;
mod state;

pub use cause::{Cause, CauseKey, Posture, ShadowRef};
pub use decision::{Decision, Enforcement, Refusal, Subject, Verdict, decide};
pub use rails::{EdgeCap, Identity, Protected, Rails};
pub use shadow::{DesiredQuarantine, ShadowDocumentError, ShadowReading, reported_document};
pub use state::{AuditEntry, Effect, Event, Now, Quarantine, Stored};
