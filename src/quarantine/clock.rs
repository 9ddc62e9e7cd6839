//! What time it surely is, when the wall clock may jump by years.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{Monotonic, Now, UnixTime};

/// No gateway running this program lives before 2026: a clock that says so is not set yet.
const FIRST_PLAUSIBLE: UnixTime = UnixTime(1_767_225_600_000);
/// How soon to look again when the two clocks disagree about an end: a wrong clock may be set right any time.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The clock as it stood when the state was written, so that a restart within one boot can tell a jump from time passed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SavedClock {
    /// The estimate of [`Clock`].
    time: UnixTime,
    /// The monotonic clock then, milliseconds.
    monotonic: u64,
    /// The boot both were read in (`/proc/sys/kernel/random/boot_id`).
    boot: String,
}

/// An estimate of the time that advances with the monotonic clock from the first plausible wall time on. What ends at a
/// time ends when both this and the wall clock have reached it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Clock {
    boot: String,
    anchor: Now,
    /// A wall time surely passed already. While the anchor is not one that reached it, the wall clock may set it once.
    floor: UnixTime,
    plausible: bool,
    last: Now,
}

impl Clock {
    pub(super) fn start(boot: &str, saved: Option<&SavedClock>, now: Now) -> Self {
        let monotonic = |saved: &SavedClock| Monotonic(Duration::from_millis(saved.monotonic));
        let floor = saved.map_or(FIRST_PLAUSIBLE, |saved| saved.time.max(FIRST_PLAUSIBLE));
        let same_boot = saved.filter(|saved| saved.boot == boot && monotonic(saved) <= now.monotonic);
        let (anchor, plausible) = match (same_boot, saved) {
            // the clock ran on while we were gone
            (Some(saved), _) => {
                let anchor = Now {
                    monotonic: monotonic(saved),
                    wall: saved.time,
                };
                (anchor, saved.time >= FIRST_PLAUSIBLE)
            }
            // a new boot: time cannot have gone back since
            (None, saved) => {
                let wall = saved.map_or(now.wall, |saved| saved.time.max(now.wall));
                (Now { wall, ..now }, now.wall >= floor)
            }
        };
        Self {
            boot: boot.to_owned(),
            anchor,
            floor,
            plausible,
            last: now,
        }
    }

    /// Look at the clocks. A clock that was surely wrong (no battery, before the network gave the time) may be set
    /// right once; every other jump ahead is not believed.
    pub(super) fn look(&mut self, now: Now) {
        self.last = now;
        if !self.plausible && now.wall >= self.floor {
            self.anchor = now;
            self.plausible = true;
        }
    }

    /// What time it surely is at least, were the first wall time right.
    pub(super) fn time(&self) -> UnixTime {
        let passed = self.last.monotonic.since(self.anchor.monotonic);
        let passed = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        UnixTime(self.anchor.wall.0.saturating_add(passed))
    }

    /// The later of the two clocks: for the beginning of what only something later may end.
    pub(super) fn latest(&self) -> UnixTime {
        self.time().max(self.last.wall)
    }

    /// Both clocks have reached `until`.
    pub(super) fn is_past(&self, until: UnixTime) -> bool {
        until <= self.time() && until <= self.last.wall
    }

    /// How long until both clocks can have reached `until`.
    pub(super) fn left(&self, until: UnixTime) -> Duration {
        let earliest = self.time().min(self.last.wall);
        Duration::from_millis(until.0.saturating_sub(earliest.0))
    }

    /// When to look whether `until` is reached.
    pub(super) fn look_at(&self, until: UnixTime) -> Monotonic {
        let agreed = Duration::from_millis(until.0.saturating_sub(self.latest().0));
        self.last.monotonic.after(agreed.max(self.left(until).min(LOOK_AGAIN)))
    }

    /// When the estimate will be `time`.
    pub(super) fn reaches(&self, time: UnixTime) -> Monotonic {
        let left = Duration::from_millis(time.0.saturating_sub(self.time().0));
        self.last.monotonic.after(left)
    }

    /// When the clocks were last looked at.
    pub(super) fn seen(&self) -> Monotonic {
        self.last.monotonic
    }

    pub(super) fn saved(&self) -> SavedClock {
        SavedClock {
            time: self.time(),
            monotonic: u64::try_from(self.last.monotonic.0.as_millis()).unwrap_or(u64::MAX),
            boot: self.boot.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEARS: u64 = 10 * 365 * 86_400;

    fn now(monotonic: u64, wall: u64) -> Now {
        Now {
            monotonic: Monotonic(Duration::from_secs(monotonic)),
            wall: UnixTime::from_seconds(wall),
        }
    }

    const T: u64 = 1_795_000_000;

    #[test]
    fn a_jump_ahead_is_not_believed_and_a_jump_back_waits() {
        let mut clock = Clock::start("b", None, now(100, T));
        let until = UnixTime::from_seconds(T + 3600);
        clock.look(now(101, T + YEARS));
        assert!(!clock.is_past(until));
        assert_eq!(clock.left(until), Duration::from_secs(3599));
        clock.look(now(102, T - YEARS));
        assert!(!clock.is_past(until));
        clock.look(now(3700, T - YEARS + 3600));
        assert!(!clock.is_past(until), "the wall clock has to get there too");
        assert_eq!(clock.look_at(until), Monotonic(Duration::from_secs(3760)));
        clock.look(now(3701, T + 3601));
        assert!(clock.is_past(until));
    }

    #[test]
    fn a_clock_that_was_not_set_may_be_set_once() {
        let mut clock = Clock::start("b", None, now(10, 60));
        clock.look(now(20, T));
        assert_eq!(clock.time(), UnixTime::from_seconds(T));
        clock.look(now(30, T + YEARS));
        assert_eq!(clock.time(), UnixTime::from_seconds(T + 10));
    }

    #[test]
    fn a_restart_within_one_boot_is_not_fooled_by_a_jump() {
        let saved = Clock::start("b", None, now(100, T)).saved();
        let clock = Clock::start("b", Some(&saved), now(200, T + YEARS));
        assert_eq!(clock.time(), UnixTime::from_seconds(T + 100));
        let rebooted = Clock::start("c", Some(&saved), now(5, T + 5000));
        assert_eq!(rebooted.time(), UnixTime::from_seconds(T + 5000));
        let mut unset = Clock::start("c", Some(&saved), now(5, 0));
        assert_eq!(unset.time(), UnixTime::from_seconds(T));
        unset.look(now(6, T + 500));
        assert_eq!(unset.time(), UnixTime::from_seconds(T + 500));
    }
}
