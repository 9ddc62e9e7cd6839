//! Device Defender reports: what one thing says about itself per interval, when, and what came back.
//!
//! ```text
//! raw counters ─▶ ledger ─▶ ThingReading ─▶ document ─▶ encode ─▶ bytes to publish
//!                               schedule ── whose turn, which id and baseline ─┘   │
//!                                   ▲───────────── reply ◀─────────────────────────┘
//! ```
//!
//! Everything here is pure: clocks, files and the network belong to the agent. `docs/reports.md` is the reader's page.

mod document;
mod encode;
mod id;
mod keys;
mod ledger;
mod reply;
mod schedule;

pub use document::Report;
pub use encode::{Cut, EncodeError, Encoded, Format, Names, encode};
pub use id::next_report_id;
pub use ledger::{Ledger, LedgerState};
pub use reply::{Outcome, Rejection, Reply, ReplyError};
pub use schedule::{
    Due, Fate, ReplyMatch, ReportCounts, Schedule, ScheduleSettings, ScheduleState, THROTTLE_CAP, THROTTLE_WAIT,
    ThingReportStatus, ThingState,
};
