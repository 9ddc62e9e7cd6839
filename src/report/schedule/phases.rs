//! Spreading the things' reports over the interval.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Offsets in `[0, interval)` for `count` new things, given the offsets already `taken`.
///
/// With at most the core's place taken they lie evenly on the circle of the interval; otherwise each one halves the
/// widest gap left (the first of equal ones). The same input gives the same offsets.
pub(super) fn spread(taken: &[Duration], count: usize, interval: Duration) -> Vec<Duration> {
    let whole = interval.as_nanos().max(1);
    let mut places: Vec<u128> = taken.iter().map(|offset| offset.as_nanos() % whole).collect();
    places.sort_unstable();
    if let [] | [_] = places[..] {
        let start = places.first().copied().unwrap_or(0);
        let slots = (count + places.len()).max(1) as u128;
        let skip = places.len();
        return (skip..skip + count)
            .map(|n| nanos((start + whole * n as u128 / slots) % whole))
            .collect();
    }
    let mut gaps: BinaryHeap<(u128, Reverse<u128>)> = BinaryHeap::new();
    let after = places
        .iter()
        .skip(1)
        .copied()
        .chain(places.first().map(|first| first + whole));
    for (start, end) in places.iter().zip(after) {
        gaps.push((end - start, Reverse(*start)));
    }
    let mut offsets = Vec::with_capacity(count);
    while offsets.len() < count {
        let Some((gap, Reverse(start))) = gaps.pop() else { break };
        let middle = start + gap / 2;
        gaps.push((middle - start, Reverse(start)));
        gaps.push((start + gap - middle, Reverse(middle)));
        offsets.push(nanos(middle % whole));
    }
    offsets
}

fn nanos(nanos: u128) -> Duration {
    // Offsets are below one interval; u64 nanoseconds reach 584 years.
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(offsets: &[u64]) -> Vec<Duration> {
        offsets.iter().copied().map(Duration::from_secs).collect()
    }

    const INTERVAL: Duration = Duration::from_secs(300);

    #[test]
    fn things_that_start_together_are_spread_evenly() {
        assert_eq!(spread(&[], 3, INTERVAL), seconds(&[0, 100, 200]));
        assert_eq!(spread(&seconds(&[0]), 2, INTERVAL), seconds(&[100, 200]));
        assert_eq!(spread(&seconds(&[60]), 1, INTERVAL), seconds(&[210]));
        assert!(spread(&[], 0, INTERVAL).is_empty());
    }

    #[test]
    fn a_later_thing_halves_the_widest_gap() {
        assert_eq!(spread(&seconds(&[0, 100, 150]), 1, INTERVAL), seconds(&[225]));
        assert_eq!(spread(&seconds(&[0, 100, 200]), 2, INTERVAL), seconds(&[50, 150]));
        assert_eq!(spread(&seconds(&[10, 20]), 1, INTERVAL), seconds(&[165]));
    }

    #[test]
    fn many_things_get_an_offset_each_within_the_interval() {
        let offsets = spread(&seconds(&[0, 1, 2]), 1000, INTERVAL);
        assert_eq!(offsets.len(), 1000);
        assert!(offsets.iter().all(|offset| *offset < INTERVAL));
        let distinct: std::collections::BTreeSet<_> = offsets.iter().collect();
        assert_eq!(distinct.len(), 1000);
    }
}
