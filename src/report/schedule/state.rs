//! What a schedule keeps across restarts, and what it shows of itself.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::entry::{Entry, Fate, Last, ReportCounts};
use super::{THROTTLE_CAP, THROTTLE_WAIT};
use crate::model::{Counters, Monotonic, ThingName, UnixTime};

/// The part of a [`Schedule`](super::Schedule) that survives a restart of the agent and a reboot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleState {
    /// The boot in which it was saved.
    pub boot_id: String,
    /// By thing, those not there at the moment included.
    pub things: BTreeMap<ThingName, ThingState>,
}

/// The saved part of one thing's schedule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ThingState {
    /// Id of the last report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_report_id: Option<u64>,
    /// When it was made, by the wall clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_report_time: Option<UnixTime>,
    /// When it was made, in milliseconds since this boot; negative if it was made before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_report_boot_millis: Option<i64>,
    /// The present wait after `Throttled` rejections, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttle_seconds: Option<u64>,
    /// Until when it lasts, in milliseconds of this boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttled_until_boot_millis: Option<u64>,
    /// Traffic totals at the end of the last report that arrived.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Counters>,
}

/// How one thing's reports are doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ThingReportStatus {
    /// The thing.
    pub thing: ThingName,
    /// Id of its last report, also from before a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_report_id: Option<u64>,
    /// When that was made, by the wall clock, in milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_report_time: Option<UnixTime>,
    /// What became of it; none since the agent started if there was no report since.
    pub last_report: Fate,
    /// Seconds until the next one; 0 when it is due or under way.
    pub next_in_seconds: u64,
    /// Seconds the service's throttling still lasts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttled_for_seconds: Option<u64>,
    /// True when the last reports were sent but none was answered; they are then counted as arrived.
    pub replies_silent: bool,
    /// Counts since the agent started.
    pub counts: ReportCounts,
}

impl Entry {
    pub(super) fn save(&self) -> ThingState {
        let boot_millis = |at: Monotonic| millis(at.0);
        ThingState {
            last_report_id: self.last_report_id,
            last_report_time: self.last.map(|last| last.wall),
            last_report_boot_millis: self.last.map(|last| {
                let at = i64::try_from(millis(last.at.0)).unwrap_or(i64::MAX);
                at.saturating_sub(i64::try_from(last.before.as_millis()).unwrap_or(i64::MAX))
            }),
            throttle_seconds: self.throttle_wait.map(|wait| wait.as_secs()),
            throttled_until_boot_millis: self.throttled_until.map(boot_millis),
            baseline: self.baseline,
        }
    }

    /// A thing that is not there yet, as it was left. `interval` is the present one.
    pub(super) fn restore(
        saved: &ThingState,
        same_boot: bool,
        interval: Duration,
        now: Monotonic,
        wall: UnixTime,
    ) -> Self {
        let boot_time = |millis: u64| Monotonic(Duration::from_millis(millis));
        let last = saved.last_report_time.map(|made| {
            let by_boot_clock = saved.last_report_boot_millis.filter(|_| same_boot).map(|at| {
                let now = i64::try_from(now.0.as_millis()).unwrap_or(i64::MAX);
                u64::try_from(now.saturating_sub(at)).unwrap_or(0)
            });
            // A report from the future: the clock was set back, so nobody knows; wait as if just made.
            let by_wall_clock = || wall.0.saturating_sub(made.0);
            Last {
                at: now,
                before: Duration::from_millis(by_boot_clock.unwrap_or_else(by_wall_clock)),
                wall: made,
            }
        });
        let cap = THROTTLE_CAP.max(interval);
        let throttle_wait = saved
            .throttle_seconds
            .map(|wait| Duration::from_secs(wait).clamp(THROTTLE_WAIT, cap));
        let throttled_until = throttle_wait.map(|wait| {
            let by_boot_clock = saved.throttled_until_boot_millis.filter(|_| same_boot).map(boot_time);
            let by_last_report = || last.map_or_else(|| now.after(wait), |last| last.after(wait));
            by_boot_clock.unwrap_or_else(by_last_report).min(now.after(cap))
        });
        Self {
            last,
            last_report_id: saved.last_report_id,
            throttle_wait,
            throttled_until,
            baseline: saved.baseline.filter(|_| same_boot),
            ..Self::default()
        }
    }

    pub(super) fn status(&self, thing: &ThingName, now: Monotonic) -> ThingReportStatus {
        let whole = |at: Monotonic| millis(at.since(now)).div_ceil(1000);
        let publishing = self.fate == Fate::Publishing;
        ThingReportStatus {
            thing: thing.clone(),
            last_report_id: self.last_report_id,
            last_report_time: self.last.map(|last| last.wall),
            last_report: self.fate.clone(),
            next_in_seconds: self.earliest().filter(|_| !publishing).map_or(0, whole),
            throttled_for_seconds: self.throttled_until.map(whole).filter(|seconds| *seconds > 0),
            replies_silent: self.is_silent(),
            counts: self.counts,
        }
    }
}

/// Whole milliseconds, rounded up: a restart must not shorten a wait.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
