//! Device Defender's Detect at the edge: security profiles in AWS's own JSON, evaluated on every sample.
//!
//! ```text
//!  profile JSON ─▶ Profile::parse ─▶ Assignment::new ─┐
//!                                                     ▼
//!  sample ─▶ Datapoints ─▶ Engine::observe (per thing) ─▶ Violation ─▶ event JSON
//!                          Engine::tick (per sample)    ─▶ Violation
//! ```
//!
//! All of it is pure: time, identifiers and datapoints are arguments, events are return values. docs/detect.md has every
//! rule that AWS leaves undocumented.

mod assignment;
mod course;
mod datapoint;
mod engine;
mod event;
mod explain;
mod fields;
mod judge;
mod limit;
mod metric;
mod odd;
mod parse;
mod profile;
mod replay;
mod rule;
mod sets;
mod stored;
mod turn;
mod verdict;
mod watched;
mod window;

pub use assignment::{Assignment, OnAlarm, SilenceError, Target, TargetError};
pub use datapoint::{Datapoints, Now, Role, Subject, Value};
pub use engine::Engine;
pub use event::{Alarm, AlarmState, EventType, MetricValue, Violation};
pub use explain::explain;
pub use metric::{CustomTypes, Metric, MetricType};
pub use profile::{Behavior, Criteria, Limit, Operator, Parsed, Problem, Profile, ProfileError, Statistic};
pub use replay::{Replayed, Sample, replay};
pub use sets::{CidrSet, NumberSet};
pub use stored::{LoadError, Saved};
