//! Who is to be cut off, why, and what follows from it. Pure: events and the time in, effects out.
//!
//! A thing is quarantined while any [`Cause`] holds. Shadows, edge alarms and the operator raise causes; each ends by
//! its own rule, so nobody can end somebody else's. `docs/quarantine.md` has the transition table, which is a test.
//!
//! The agent's side of it: [`Store::open`], [`Quarantine::new`], [`Store::save`] once, then for each event
//! [`Quarantine::step`] and its effects in order. [`Effect::Enforce`] is [`decide`] with [`Quarantine::bound`], the
//! firewall, and [`Quarantine::bind`] (save when it says so); kernel timeouts come from [`Quarantine::left`].
//! [`Effect::ReportShadow`] is [`StatusReporter::answer`] for each document of the thing. [`Event::Tick`] at
//! [`Quarantine::next_expiry`]; [`Quarantine::retain`] when things come and go. Effects of many events may be carried
//! out together as long as no `Persist` of a release comes after its `Enforce`.

mod alarm;
mod audit;
mod cause;
mod clock;
mod decision;
mod event;
mod hear;
mod rails;
mod shadow;
mod state;
mod status;
mod store;
mod stored;

pub use audit::{AuditError, AuditLog};
pub use cause::{Cause, CauseKey, Posture, ShadowRef};
pub use decision::{Bound, Decision, Enforcement, Hold, Refusal, Subject, Verdict, decide, held_until_kept};
pub use event::{Alarm, AuditEntry, Effect, Event};
pub use rails::{EdgeCap, Identity, Protected, Rails};
pub use shadow::{DesiredQuarantine, ShadowDocument, ShadowDocumentError, ShadowReading, rfc3339};
pub use state::Quarantine;
pub use status::{Enforced, Held, Standing, StatusReporter};
#[cfg(any(test, fuzzing))]
pub(crate) use store::fuzz as fuzz_store;
pub use store::{Loaded, Saved, Store, StoreError};
pub use stored::{SCHEMA, Stored};
