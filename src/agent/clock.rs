//! The only place that reads clocks.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::model::{Monotonic, UnixTime};

/// Where the agent gets the time from.
pub trait Clock {
    /// `CLOCK_BOOTTIME`: never goes back, counts suspend (clock_gettime(2)).
    fn monotonic(&self) -> Monotonic;
    /// Wall-clock time; may jump.
    fn wall(&self) -> UnixTime;
    /// How long to sleep for `wait` to pass on this clock.
    fn real(&self, wait: Duration) -> Duration;
}

/// The kernel's clocks, optionally sped up for tests.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    factor: u32,
}

impl SystemClock {
    /// Clocks that have run `factor` times as fast as time does since the boot; 1 in earnest. Counted from the boot, so
    /// that an agent started again, and a test beside it, see the same time.
    #[must_use]
    pub fn accelerated(factor: u32) -> Self {
        Self { factor: factor.max(1) }
    }
}

impl Clock for SystemClock {
    fn monotonic(&self) -> Monotonic {
        Monotonic(boottime().saturating_mul(self.factor))
    }

    fn wall(&self) -> UnixTime {
        let ahead = boottime().saturating_mul(self.factor - 1);
        let now = realtime().saturating_add(ahead);
        UnixTime(u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
    }

    fn real(&self, wait: Duration) -> Duration {
        wait / self.factor
    }
}

fn boottime() -> Duration {
    read(ClockId::Boottime)
}

/// Zero before 1970: such a clock is not set yet.
fn realtime() -> Duration {
    read(ClockId::Realtime)
}

fn read(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanos)
}
