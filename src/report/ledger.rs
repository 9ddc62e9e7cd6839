//! Raw counters that start over, wrap, come and go, turned into totals that only grow.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::Counters;

/// How many sources that went away are remembered, so that one which comes back is not counted twice. A host that
/// starts containers all day leaves a new interface name behind each time; memory must not follow.
const REMEMBERED_GONE: usize = 1024;

const TWO_POW_31: u64 = 1 << 31;
const TWO_POW_32: u64 = 1 << 32;

/// Adds up the counters of one thing's sources (interfaces, MAC addresses) since the ledger began.
///
/// The rules, per source and counter:
/// - **first sample**: a starting point, adds nothing. What was counted before we looked is nobody's interval.
/// - **source new in a later sample**: adds its whole counter, because a counter starts at zero when its source is
///   created, and it was created after the last sample. (Its key must change with its identity: `eth0#2` with the
///   interface index.) [`Ledger::rebase`] is for sources that are new to us only.
/// - **source gone**: what it added stays. If it comes back, it goes on from the value it left with.
/// - **smaller than before**: a reset; the new value is what was counted since. The one exception is a 32-bit counter
///   that wrapped (`rtnl_link_stats` and some drivers' hardware counters): taken as such only if the old value lies in
///   the upper half of 32 bits *and* the other counter of the same direction did not go down. A reset takes bytes and
///   packets down together; a wrap hits one of them. What stays ambiguous is taken as a reset: it may count too little,
///   never an interval of traffic that was not there. No step ever adds 2^32 or more for a falling counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    total: Counters,
    present: Option<BTreeMap<String, Counters>>,
    gone: BTreeMap<String, Counters>,
    rebase: bool,
}

/// A ledger at rest, for resuming within the same boot. Kernel counters start over at boot, so it is worth nothing in
/// another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LedgerState {
    /// `/proc/sys/kernel/random/boot_id` of the boot it was kept in.
    pub boot_id: String,
    /// Totals since the ledger began.
    pub total: Counters,
    /// The last raw counters by source.
    pub sources: BTreeMap<String, Counters>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new()
    }
}

impl Ledger {
    /// A ledger that begins with the next sample.
    #[must_use]
    pub fn new() -> Self {
        Self {
            total: Counters::default(),
            present: None,
            gone: BTreeMap::new(),
            rebase: false,
        }
    }

    /// Goes on with a saved ledger, or `None` when it was kept in another boot than `boot_id`.
    ///
    /// Traffic that passed while nobody looked is added by the next sample, also that of interfaces created meanwhile.
    #[must_use]
    pub fn resume(state: LedgerState, boot_id: &str) -> Option<Self> {
        (state.boot_id == boot_id).then_some(Self {
            total: state.total,
            present: Some(state.sources),
            gone: BTreeMap::new(),
            rebase: false,
        })
    }

    /// What to save for [`Ledger::resume`]; `None` before the first sample.
    #[must_use]
    pub fn state(&self, boot_id: &str) -> Option<LedgerState> {
        self.present.as_ref().map(|sources| LedgerState {
            boot_id: boot_id.to_owned(),
            total: self.total,
            sources: sources.clone(),
        })
    }

    /// The set of counted sources was changed on purpose (other interfaces configured): sources that the next sample
    /// brings for the first time are a starting point there and add nothing.
    pub fn rebase(&mut self) {
        self.rebase = true;
    }

    /// Takes in one sample of raw counters by source and returns the totals since the ledger began.
    ///
    /// A sample that failed must not be passed as an empty one: leave it out.
    pub fn observe(&mut self, raw: &BTreeMap<String, Counters>) -> Counters {
        let starting = std::mem::take(&mut self.rebase) || self.present.is_none();
        let mut earlier = self.present.take().unwrap_or_default();
        for (source, now) in raw {
            match earlier.remove(source).or_else(|| self.gone.remove(source)) {
                Some(then) => self.total += step(then, *now),
                None if starting => {}
                None => self.total += *now,
            }
        }
        self.gone.append(&mut earlier);
        while self.gone.len() > REMEMBERED_GONE {
            self.gone.pop_first();
        }
        self.present = Some(raw.clone());
        self.total
    }
}

/// What one source added between two samples.
fn step(then: Counters, now: Counters) -> Counters {
    let (bytes_in, packets_in) = direction((then.bytes_in, now.bytes_in), (then.packets_in, now.packets_in));
    let (bytes_out, packets_out) = direction((then.bytes_out, now.bytes_out), (then.packets_out, now.packets_out));
    Counters {
        bytes_in,
        bytes_out,
        packets_in,
        packets_out,
    }
}

/// Bytes and packets of one direction judge each other, each as (then, now).
fn direction(bytes: (u64, u64), packets: (u64, u64)) -> (u64, u64) {
    (added(bytes, packets), added(packets, bytes))
}

fn added((then, now): (u64, u64), (sibling_then, sibling_now): (u64, u64)) -> u64 {
    if let Some(difference) = now.checked_sub(then) {
        return difference;
    }
    let upper_half_of_32_bits = then > TWO_POW_31 && then < TWO_POW_32;
    // A sibling that never counted says nothing.
    let sibling_goes_on = sibling_then > 0 && sibling_now >= sibling_then;
    if upper_half_of_32_bits && sibling_goes_on {
        // `now < then < 2^32`, so neither step can leave 32 bits.
        return (TWO_POW_32 - then) + now;
    }
    now
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counters(bytes_in: u64, bytes_out: u64, packets_in: u64, packets_out: u64) -> Counters {
        Counters {
            bytes_in,
            bytes_out,
            packets_in,
            packets_out,
        }
    }

    fn raw<const N: usize>(sources: [(&str, Counters); N]) -> BTreeMap<String, Counters> {
        sources.map(|(name, counters)| (name.to_owned(), counters)).into()
    }

    #[test]
    fn d2_07_and_20_the_first_sample_is_a_starting_point_not_traffic_since_boot() {
        let mut ledger = Ledger::new();
        let since_boot = counters(464_000_000, 1_000, 400_000, 10);
        assert_eq!(ledger.observe(&raw([("eth0#2", since_boot)])), Counters::default());
        let later = counters(464_000_500, 1_100, 400_005, 11);
        assert_eq!(ledger.observe(&raw([("eth0#2", later)])), counters(500, 100, 5, 1));
    }

    #[test]
    fn adds_up_over_sources() {
        let mut ledger = Ledger::new();
        ledger.observe(&raw([
            ("eth0#2", counters(10, 10, 1, 1)),
            ("wlan0#3", counters(5, 5, 1, 1)),
        ]));
        let total = ledger.observe(&raw([
            ("eth0#2", counters(30, 11, 2, 2)),
            ("wlan0#3", counters(6, 5, 2, 1)),
        ]));
        assert_eq!(total, counters(21, 1, 2, 1));
    }

    #[test]
    fn a_source_created_later_counts_in_full_and_one_that_is_gone_keeps_its_share() {
        let mut ledger = Ledger::new();
        ledger.observe(&raw([("eth0#2", counters(10, 0, 1, 0))]));
        assert_eq!(
            ledger.observe(&raw([
                ("eth0#2", counters(10, 0, 1, 0)),
                ("tun0#9", counters(700, 50, 7, 1))
            ])),
            counters(700, 50, 7, 1)
        );
        assert_eq!(
            ledger.observe(&raw([("eth0#2", counters(10, 0, 1, 0))])),
            counters(700, 50, 7, 1)
        );
        assert_eq!(ledger.observe(&raw([])), counters(700, 50, 7, 1));
    }

    #[test]
    fn a_source_that_comes_back_goes_on_where_it_left() {
        let mut ledger = Ledger::new();
        ledger.observe(&raw([("usb0#4", counters(1_000, 0, 10, 0))]));
        ledger.observe(&raw([]));
        assert_eq!(
            ledger.observe(&raw([("usb0#4", counters(1_200, 0, 12, 0))])),
            counters(200, 0, 2, 0)
        );
        ledger.observe(&raw([]));
        // Replugged under the same index: its counters began anew.
        assert_eq!(
            ledger.observe(&raw([("usb0#4", counters(50, 0, 1, 0))])),
            counters(250, 0, 3, 0)
        );
    }

    #[test]
    fn sources_configured_later_are_a_starting_point_after_rebase_only() {
        let mut ledger = Ledger::new();
        ledger.observe(&raw([("eth0#2", counters(10, 0, 1, 0))]));
        ledger.rebase();
        let both = raw([
            ("eth0#2", counters(15, 0, 2, 0)),
            ("eth1#3", counters(9_000_000, 0, 9_000, 0)),
        ]);
        assert_eq!(ledger.observe(&both), counters(5, 0, 1, 0));
        let more = raw([
            ("eth0#2", counters(15, 0, 2, 0)),
            ("eth1#3", counters(9_000_001, 0, 9_001, 0)),
        ]);
        assert_eq!(ledger.observe(&more), counters(6, 0, 2, 0));
    }

    #[test]
    fn a_reset_counts_from_zero_again() {
        let mut ledger = Ledger::new();
        ledger.observe(&raw([("eth0#2", counters(3_000_000_000, 900, 2_000_000, 9))]));
        let total = ledger.observe(&raw([("eth0#2", counters(5_000, 10, 50, 1))]));
        assert_eq!(total, counters(5_000, 10, 50, 1));
    }

    #[test]
    fn d2_17_a_32_bit_wrap_is_no_2_pow_64_delta() {
        let near_the_end = u64::from(u32::MAX) - 99;
        let mut ledger = Ledger::new();
        ledger.observe(&raw([("eth0#2", counters(near_the_end, 0, 3_000_000, 0))]));
        let total = ledger.observe(&raw([("eth0#2", counters(900, 0, 3_000_010, 0))]));
        assert_eq!(total, counters(1_000, 0, 10, 0));
    }

    #[test]
    fn counters_beyond_32_bits_do_not_wrap_there() {
        let mut ledger = Ledger::new();
        ledger.observe(&raw([("eth0#2", counters(TWO_POW_32 + 5, 0, 100, 0))]));
        // Packets went on, but a 64-bit value cannot be a wrapped 32-bit one: a driver that lost its byte counter.
        assert_eq!(
            ledger.observe(&raw([("eth0#2", counters(7, 0, 101, 0))])),
            counters(7, 0, 1, 0)
        );
    }

    #[test]
    fn resumes_in_the_same_boot_only() {
        let mut ledger = Ledger::new();
        assert_eq!(ledger.state("boot-a"), None);
        ledger.observe(&raw([("eth0#2", counters(100, 0, 1, 0))]));
        ledger.observe(&raw([("eth0#2", counters(150, 0, 2, 0))]));
        let text = serde_json::to_string(&ledger.state("boot-a").unwrap()).unwrap();
        let state: LedgerState = serde_json::from_str(&text).unwrap();
        assert_eq!(Ledger::resume(state.clone(), "boot-b"), None);
        let mut resumed = Ledger::resume(state, "boot-a").unwrap();
        assert_eq!(
            resumed.observe(&raw([("eth0#2", counters(400, 0, 5, 0))])),
            counters(300, 0, 4, 0)
        );
    }

    #[test]
    fn memory_of_gone_sources_is_bounded() {
        let mut ledger = Ledger::new();
        for n in 0..1_200 {
            ledger.observe(&BTreeMap::from([(format!("veth{n}#{n}"), counters(1, 1, 1, 1))]));
        }
        assert!(ledger.gone.len() <= REMEMBERED_GONE);
    }

    proptest! {
        #[test]
        fn totals_never_go_back_and_no_fall_adds_2_pow_32(samples in prop::collection::vec(
            prop::collection::btree_map("[ab]", prop::array::uniform4(prop_oneof![
                0..1000_u64, (TWO_POW_31 - 2)..(TWO_POW_32 + 2), any::<u64>(),
            ]), 0..3), 1..12))
        {
            let mut ledger = Ledger::new();
            let mut before = Counters::default();
            for sample in samples {
                let sample: BTreeMap<_, _> =
                    sample.into_iter().map(|(name, [a, b, c, d])| (name, counters(a, b, c, d))).collect();
                let total = ledger.observe(&sample);
                prop_assert!(total.since(before).is_some());
                before = total;
            }
        }

        #[test]
        fn a_falling_counter_adds_less_than_2_pow_32_or_its_own_new_value(then: u64, now: u64, other: (u64, u64)) {
            let sum = added((then, now), other);
            prop_assert!(sum < TWO_POW_32 || sum == now || now.checked_sub(then) == Some(sum));
        }
    }
}
