//! The sum of a counter's deltas over the latest while.

use std::collections::VecDeque;

/// How far, in milliseconds, a delta may begin from where the one before ended and still follow it.
const SEAM: u64 = 1000;

/// Into how many parts a window is divided at least before deltas are joined.
const PARTS: u64 = 30;

/// The trailing window of one delta metric of one thing. Holds at most 2 x [`PARTS`] + 4 buckets of 24 bytes, however
/// often it is fed.
#[derive(Debug, Clone, Default)]
pub(super) struct Window {
    buckets: VecDeque<Bucket>,
    /// Deltas without a hole reach back past the oldest bucket.
    reached: bool,
}

/// One delta, or several short ones. Times in milliseconds of the monotonic clock.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    start: u64,
    end: u64,
    amount: f64,
}

impl Window {
    /// Adds what was counted from `start` to `end`; false when that says nothing about the window that ends at `end`.
    ///
    /// A delta belongs to the window in which its middle lies. One that does not begin where the last ended makes the
    /// window begin anew, as there is a hole; so does one longer than the window and a tenth, because nobody knows
    /// which part of it fell into the window.
    pub(super) fn push(&mut self, start: u64, end: u64, amount: f64, duration: u64) -> bool {
        let last = self.buckets.back().map(|bucket| bucket.end);
        if end <= start || last.is_some_and(|last| end <= last) {
            return false;
        }
        if last.is_some_and(|last| start.abs_diff(last) > SEAM) {
            self.clear();
        }
        if end.saturating_sub(start) > duration.saturating_add(duration / 10) {
            self.clear();
            return false;
        }
        match self.buckets.back_mut() {
            Some(bucket) if end.saturating_sub(bucket.start) <= duration / PARTS => {
                bucket.end = end;
                bucket.amount += amount;
            }
            Some(bucket) => {
                let start = bucket.end;
                self.buckets.push_back(Bucket { start, end, amount });
            }
            None => self.buckets.push_back(Bucket { start, end, amount }),
        }
        let outside = |bucket: &Bucket| {
            let middle_twice = bucket.start.saturating_add(bucket.end);
            middle_twice.saturating_add(duration.saturating_mul(2)) <= end.saturating_mul(2)
        };
        while self.buckets.front().is_some_and(outside) {
            self.buckets.pop_front();
            self.reached = true;
        }
        true
    }

    /// True when the deltas cover the whole `duration` before `end`.
    pub(super) fn is_full(&self, end: u64, duration: u64) -> bool {
        let first = self.buckets.front();
        self.reached || first.is_some_and(|bucket| bucket.start.saturating_add(duration) <= end)
    }

    /// What was counted in it; stays at the largest number rather than becoming infinite.
    pub(super) fn sum(&self) -> f64 {
        self.buckets
            .iter()
            .map(|bucket| bucket.amount)
            .sum::<f64>()
            .min(f64::MAX)
    }

    pub(super) fn clear(&mut self) {
        self.buckets.clear();
        self.reached = false;
    }

    /// How many bytes it holds beyond its own size.
    pub(super) fn heap_bytes(&self) -> usize {
        self.buckets.capacity().saturating_mul(size_of::<Bucket>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIVE_MINUTES: u64 = 300_000;

    /// A window fed with ones, a sample every `step` milliseconds, until `end`.
    fn fed(step: u64, end: u64) -> Window {
        let mut window = Window::default();
        for sample in 0..end / step {
            assert!(window.push(sample * step, (sample + 1) * step, 1.0, FIVE_MINUTES));
        }
        window
    }

    #[test]
    fn sums_the_samples_of_the_last_five_minutes() {
        let window = fed(10_000, 290_000);
        assert!(!window.is_full(290_000, FIVE_MINUTES));
        assert_eq!(window.sum(), 29.0);
        let window = fed(10_000, 300_000);
        assert!(window.is_full(300_000, FIVE_MINUTES));
        assert_eq!(window.sum(), 30.0);
        let window = fed(10_000, 3_000_000);
        assert!(window.is_full(3_000_000, FIVE_MINUTES));
        assert_eq!(window.sum(), 30.0);
    }

    #[test]
    fn a_sample_belongs_where_its_middle_is() {
        // 40 s do not divide 300 s: 7 samples cover 280 s, 8 cover 320 s
        let window = fed(40_000, 1_200_000);
        assert!(window.is_full(1_200_000, FIVE_MINUTES));
        assert_eq!(window.sum(), 7.0);
        let window = fed(70_000, 1_400_000); // the fifth one back reaches from 280 to 350 s ago: outside
        assert_eq!(window.sum(), 4.0);
    }

    #[test]
    fn one_sample_per_window_is_enough() {
        let mut window = Window::default();
        assert!(window.push(0, 300_004, 5.0, FIVE_MINUTES));
        assert!(window.is_full(300_004, FIVE_MINUTES));
        assert!(window.push(300_004, 600_001, 7.0, FIVE_MINUTES));
        assert!(window.is_full(600_001, FIVE_MINUTES));
        assert_eq!(window.sum(), 7.0);
    }

    #[test]
    fn a_hole_begins_it_anew_and_a_seam_does_not() {
        let mut window = fed(10_000, 600_000);
        assert!(window.push(600_900, 610_000, 1.0, FIVE_MINUTES));
        assert!(window.is_full(610_000, FIVE_MINUTES));
        assert!(window.push(640_000, 650_000, 1.0, FIVE_MINUTES));
        assert!(!window.is_full(650_000, FIVE_MINUTES));
        assert_eq!(window.sum(), 1.0);
    }

    #[test]
    fn a_delta_longer_than_the_window_says_nothing() {
        let mut window = fed(10_000, 600_000);
        assert!(!window.push(600_000, 600_000 + 330_001, 1e9, FIVE_MINUTES));
        assert_eq!(window.sum(), 0.0);
        assert!(window.push(930_001, 940_000, 1.0, FIVE_MINUTES));
        assert_eq!(window.sum(), 1.0);
    }

    #[test]
    fn the_same_moment_twice_counts_once() {
        let mut window = fed(10_000, 300_000);
        assert!(!window.push(290_000, 300_000, 100.0, FIVE_MINUTES));
        assert!(!window.push(300_000, 300_000, 100.0, FIVE_MINUTES));
        assert_eq!(window.sum(), 30.0);
    }

    #[test]
    fn memory_does_not_follow_the_sample_rate() {
        for step in [1, 10, 1000, 5001, 9999, 10_000, 10_001, 300_000] {
            let window = fed(step, 400_000);
            assert!(
                window.buckets.len() <= 64,
                "{step} ms: {} buckets",
                window.buckets.len()
            );
        }
    }
}
