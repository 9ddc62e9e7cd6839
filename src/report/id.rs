//! Report ids.

use crate::model::UnixTime;

/// The id of a thing's next report: the wall clock in epoch seconds, but always more than the `previous` one.
///
/// AWS asks for a unique, positive, monotonically increasing integer and recommends the epoch (developer guide, "Device
/// metrics document specification"). A clock that stood still or jumped back therefore gives `previous + 1`; one without
/// any time (1970) starts at 1.
#[must_use]
pub fn next_report_id(previous: Option<u64>, now: UnixTime) -> u64 {
    let clock = now.seconds().max(1);
    // A previous id with no successor can only come from a damaged state file; the clock is then the better start.
    previous
        .and_then(|id| id.checked_add(1))
        .map_or(clock, |next| next.max(clock))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_epoch_second_when_the_clock_moves_on() {
        assert_eq!(next_report_id(None, UnixTime(1_700_000_000_999)), 1_700_000_000);
        assert_eq!(
            next_report_id(Some(1_699_999_700), UnixTime::from_seconds(1_700_000_000)),
            1_700_000_000
        );
    }

    #[test]
    fn grows_by_one_when_the_clock_stands_still_or_jumps_back() {
        assert_eq!(
            next_report_id(Some(1_700_000_000), UnixTime::from_seconds(1_700_000_000)),
            1_700_000_001
        );
        assert_eq!(
            next_report_id(Some(1_700_000_000), UnixTime::from_seconds(5)),
            1_700_000_001
        );
    }

    #[test]
    fn is_positive_without_a_clock_and_survives_a_damaged_previous_id() {
        assert_eq!(next_report_id(None, UnixTime(0)), 1);
        assert_eq!(next_report_id(Some(u64::MAX), UnixTime::from_seconds(7)), 7);
    }

    #[test]
    fn d2_15_report_ids_do_not_go_back_at_a_reboot() {
        let before_reboot = next_report_id(None, UnixTime::from_seconds(1_700_000_000));
        let after_reboot_without_battery_clock = next_report_id(Some(before_reboot), UnixTime::from_seconds(3));
        assert!(after_reboot_without_battery_clock > before_reboot);
    }
}
