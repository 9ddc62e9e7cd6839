use proptest::prelude::*;

use super::*;
use crate::report::{Outcome, Rejection};

const BOOT: &str = "boot-a";

fn name(text: &str) -> ThingName {
    text.parse().unwrap()
}

fn at(seconds: u64) -> Monotonic {
    Monotonic(Duration::from_secs(seconds))
}

/// The wall clock of a host that booted at 1,000,000,000 and whose clock runs true.
fn wall(seconds: u64) -> UnixTime {
    UnixTime::from_seconds(1_000_000_000 + seconds)
}

fn totals(bytes_in: u64) -> Counters {
    Counters {
        bytes_in,
        ..Counters::default()
    }
}

fn settings(interval: u64) -> ScheduleSettings {
    ScheduleSettings {
        interval: Duration::from_secs(interval),
        floor: Duration::from_secs(300),
        replies_known: true,
    }
}

fn accepted(report_id: u64) -> Reply {
    Reply {
        thing: None,
        report_id: Some(report_id),
        outcome: Outcome::Accepted,
        timestamp: None,
    }
}

fn rejected(report_id: Option<u64>, code: &str) -> Reply {
    Reply {
        thing: None,
        report_id,
        outcome: Outcome::Rejected(Rejection {
            code: Some(code.into()),
            message: None,
        }),
        timestamp: None,
    }
}

/// A schedule of one thing, `core`, 300 s, started at 1,000 s.
fn one() -> (Schedule, ThingName) {
    let core = name("core");
    let mut schedule = Schedule::new(settings(300), None, BOOT, at(1_000), wall(1_000));
    schedule.set_things(std::slice::from_ref(&core), at(1_000));
    (schedule, core)
}

impl Schedule {
    /// The due report, published at once with `result` and the given totals.
    fn report(&mut self, seconds: u64, bytes: u64, result: Result<(), String>) -> Due {
        let due = self.due(at(seconds), wall(seconds)).expect("a report is due");
        assert!(self.sent(&due.thing, due.report_id, Some(totals(bytes)), result, at(seconds)));
        due
    }

    fn only_status(&self, seconds: u64) -> ThingReportStatus {
        let [status] = &self.status(at(seconds))[..] else {
            panic!("one thing");
        };
        status.clone()
    }

    fn restarted(&self, boot_id: &str, seconds: u64, wall: UnixTime) -> Self {
        let text = serde_json::to_string(&self.state()).unwrap();
        let state: ScheduleState = serde_json::from_str(&text).unwrap();
        Self::new(self.settings, Some(&state), boot_id, at(seconds), wall)
    }
}

#[test]
fn the_core_reports_at_once_and_then_every_interval() {
    let (mut schedule, core) = one();
    let first = schedule.report(1_000, 10, Ok(()));
    assert_eq!(
        (first.thing, first.report_id, first.baseline),
        (core.clone(), 1_000_001_000, None)
    );
    assert_eq!(schedule.next_wake(), Some(at(1_300)));
    assert_eq!(schedule.due(at(1_299), wall(1_299)), None);
    assert_eq!(
        schedule.replied(&core, &accepted(first.report_id), at(1_001)),
        ReplyMatch::Matched
    );
    let second = schedule.report(1_300, 25, Ok(()));
    assert_eq!((second.report_id, second.baseline), (1_000_001_300, Some(totals(10))));
    let status = schedule.only_status(1_301);
    assert_eq!(
        (status.counts.sent, status.counts.accepted, status.next_in_seconds),
        (2, 1, 299)
    );
    assert_eq!(status.last_report, Fate::Sent);
}

#[test]
fn one_publish_at_a_time_over_all_things() {
    let mut schedule = Schedule::new(settings(300), None, BOOT, at(0), wall(0));
    let (a, b) = (name("a"), name("b"));
    schedule.set_things(&[a.clone(), b.clone()], at(0));
    let first = schedule.due(at(500), wall(500)).unwrap();
    assert_eq!(first.thing, a);
    assert_eq!(schedule.due(at(500), wall(500)), None);
    assert_eq!(schedule.next_wake(), None);
    assert!(
        !schedule.sent(&b, first.report_id, None, Ok(()), at(500)),
        "not the one under way"
    );
    assert!(schedule.sent(&a, first.report_id, None, Ok(()), at(500)));
    assert_eq!(schedule.due(at(500), wall(500)), None, "paced");
    assert_eq!(schedule.next_wake(), Some(at(501)));
    assert_eq!(schedule.due(at(501), wall(501)).unwrap().thing, b);
}

#[test]
fn phases_are_even_by_name_and_the_same_each_time() {
    let things: Vec<_> = ["core", "cam-3", "cam-1", "cam-2"].map(name).into();
    let times = |things: &[ThingName]| {
        let mut schedule = Schedule::new(settings(400), None, BOOT, at(0), wall(0));
        schedule.set_things(things, at(0));
        let mut times = Vec::new();
        for second in 0..400 {
            if let Some(due) = schedule.due(at(second), wall(second)) {
                times.push((due.thing.to_string(), second));
                schedule.sent(&due.thing, due.report_id, None, Ok(()), at(second));
            }
        }
        times
    };
    let expected = [("core", 0), ("cam-1", 100), ("cam-2", 200), ("cam-3", 300)];
    let expected: Vec<_> = expected.map(|(thing, second)| (thing.to_owned(), second)).into();
    assert_eq!(times(&things), expected);
    let reordered: Vec<_> = ["core", "cam-1", "cam-2", "cam-3"].map(name).into();
    assert_eq!(times(&reordered), expected);
}

#[test]
fn a_thing_added_later_reports_within_one_interval_and_moves_nobody() {
    let (mut schedule, core) = one();
    schedule.report(1_000, 0, Ok(()));
    let cam = name("cam");
    schedule.set_things(&[core.clone(), cam.clone()], at(1_060));
    assert_eq!(
        schedule.next_wake(),
        Some(at(1_150)),
        "halfway between two reports of the core"
    );
    assert_eq!(schedule.report(1_150, 0, Ok(())).thing, cam);
    assert_eq!(schedule.report(1_300, 0, Ok(())).thing, core);
}

#[test]
fn only_an_accepted_report_moves_the_baseline() {
    let (mut schedule, core) = one();
    let first = schedule.report(1_000, 10, Ok(()));
    schedule.replied(&core, &accepted(first.report_id), at(1_001));
    assert_eq!(
        schedule.report(1_300, 20, Err("offline".into())).baseline,
        Some(totals(10))
    );
    let third = schedule.report(1_600, 30, Ok(()));
    assert_eq!(third.baseline, Some(totals(10)), "not sent folds into the next");
    schedule.replied(&core, &rejected(Some(third.report_id), "InvalidPayload"), at(1_601));
    assert_eq!(
        schedule.report(1_900, 40, Ok(())).baseline,
        Some(totals(10)),
        "rejected too"
    );
    let fifth = schedule.report(2_200, 50, Ok(()));
    assert_eq!(fifth.baseline, Some(totals(10)), "never answered too");
    schedule.replied(&core, &accepted(fifth.report_id), at(2_201));
    assert_eq!(schedule.report(2_500, 60, Ok(())).baseline, Some(totals(50)));
    let counts = schedule.only_status(2_501).counts;
    assert_eq!(
        (counts.sent, counts.not_sent, counts.accepted, counts.rejected),
        (5, 1, 2, 1)
    );
    assert_eq!(counts.unacknowledged, 1);
}

#[test]
fn a_late_acceptance_moves_the_baseline_up_to_that_report_and_never_back() {
    let (mut schedule, core) = one();
    let first = schedule.report(1_000, 10, Ok(()));
    schedule.replied(&core, &accepted(first.report_id), at(1_001));
    let second = schedule.report(1_300, 20, Ok(()));
    let third = schedule.report(1_600, 30, Ok(()));
    assert_eq!(
        schedule.replied(&core, &accepted(second.report_id), at(1_601)),
        ReplyMatch::Late
    );
    assert_eq!(
        schedule.replied(&core, &accepted(second.report_id), at(1_601)),
        ReplyMatch::Unsolicited
    );
    let fourth = schedule.report(1_900, 40, Ok(()));
    assert_eq!(fourth.baseline, Some(totals(20)));
    schedule.replied(&core, &accepted(fourth.report_id), at(1_901));
    assert_eq!(
        schedule.replied(&core, &accepted(third.report_id), at(1_902)),
        ReplyMatch::Late
    );
    assert_eq!(schedule.report(2_200, 50, Ok(())).baseline, Some(totals(40)));
}

#[test]
fn a_report_said_not_to_be_sent_can_still_turn_out_accepted() {
    let (mut schedule, core) = one();
    schedule.report(1_000, 10, Ok(()));
    let second = schedule.report(1_300, 20, Err("timed out".into()));
    assert_eq!(
        schedule.replied(&core, &accepted(second.report_id), at(1_302)),
        ReplyMatch::Matched
    );
    assert_eq!(schedule.report(1_600, 30, Ok(())).baseline, Some(totals(20)));
}

#[test]
fn a_reply_may_overtake_the_return_of_its_publish() {
    let (mut schedule, core) = one();
    let due = schedule.due(at(1_000), wall(1_000)).unwrap();
    assert_eq!(
        schedule.replied(&core, &accepted(due.report_id), at(1_000)),
        ReplyMatch::Matched
    );
    schedule.sent(&core, due.report_id, Some(totals(10)), Ok(()), at(1_001));
    assert_eq!(schedule.only_status(1_001).last_report, Fate::Accepted);
    assert_eq!(schedule.report(1_301, 20, Ok(())).baseline, Some(totals(10)));
    assert_eq!(schedule.only_status(1_302).counts.unacknowledged, 0);
}

#[test]
fn without_replies_a_sent_report_counts_as_arrived() {
    let (mut schedule, _) = one();
    schedule.set_settings(
        ScheduleSettings {
            replies_known: false,
            ..settings(300)
        },
        at(1_000),
    );
    schedule.report(1_000, 10, Ok(()));
    assert_eq!(schedule.report(1_300, 20, Ok(())).baseline, Some(totals(10)));
    assert_eq!(
        schedule.report(1_600, 30, Err("offline".into())).baseline,
        Some(totals(20))
    );
    assert_eq!(schedule.report(1_900, 40, Ok(())).baseline, Some(totals(20)));
    assert!(!schedule.needs_resubscribe());
    assert_eq!(schedule.only_status(1_901).counts.unacknowledged, 0);
}

#[test]
fn deltas_stop_growing_when_replies_stay_away_for_good() {
    let (mut schedule, core) = one();
    let baselines: Vec<_> = (0..6)
        .map(|n| {
            schedule
                .report(1_000 + 300 * n, 10 * (n + 1), Ok(()))
                .baseline
                .map(|totals| totals.bytes_in)
        })
        .collect();
    // Reports 1 to 3 stay unanswered; from the fourth on each begins where the one before ended.
    assert_eq!(baselines, [None, Some(10), Some(10), Some(30), Some(40), Some(50)]);
    assert!(schedule.only_status(2_501).replies_silent);
    let due = schedule.report(2_800, 70, Ok(()));
    schedule.replied(&core, &accepted(due.report_id), at(2_801));
    assert!(!schedule.only_status(2_802).replies_silent);
}

#[test]
fn an_unanswered_report_asks_for_new_subscriptions_once() {
    let (mut schedule, core) = one();
    schedule.report(1_000, 10, Ok(()));
    assert!(!schedule.needs_resubscribe());
    let due = schedule.due(at(1_300), wall(1_300)).unwrap();
    assert!(schedule.needs_resubscribe());
    schedule.resubscribed(at(1_300));
    assert!(!schedule.needs_resubscribe());
    schedule.sent(&core, due.report_id, None, Ok(()), at(1_300));
    schedule.replied(&core, &accepted(due.report_id), at(1_301));
    schedule.report(1_600, 0, Err("offline".into()));
    schedule.report(1_900, 0, Ok(()));
    assert!(!schedule.needs_resubscribe(), "what was not sent is not waited for");
}

#[test]
fn replies_sent_before_the_renewal_do_not_ask_for_another_one() {
    let mut schedule = Schedule::new(settings(300), None, BOOT, at(0), wall(0));
    schedule.set_things(&[name("a"), name("b")], at(0));
    schedule.report(0, 0, Ok(()));
    schedule.report(150, 0, Ok(()));
    schedule.report(300, 0, Ok(()));
    assert!(schedule.needs_resubscribe());
    schedule.resubscribed(at(300));
    schedule.report(450, 0, Ok(()));
    assert!(
        !schedule.needs_resubscribe(),
        "b's first report went out over the old subscriptions"
    );
    schedule.report(600, 0, Ok(()));
    assert!(schedule.needs_resubscribe());
}

#[test]
fn throttling_waits_doubles_and_ends_with_an_acceptance() {
    let (mut schedule, core) = one();
    let mut now = 1_000;
    let mut waits = Vec::new();
    for _ in 0..6 {
        let due = schedule.report(now, 0, Ok(()));
        schedule.replied(&core, &rejected(Some(due.report_id), "Throttled"), at(now + 10));
        let next = schedule.next_wake().unwrap().0.as_secs();
        waits.push(next - (now + 10));
        now = next;
    }
    assert_eq!(waits, [300, 600, 1_200, 2_400, 3_600, 3_600]);
    let due = schedule.report(now, 0, Ok(()));
    schedule.replied(&core, &accepted(due.report_id), at(now + 1));
    assert_eq!(schedule.next_wake(), Some(at(now + 300)));
    let counts = schedule.only_status(now + 1).counts;
    assert_eq!((counts.throttled, counts.rejected), (6, 6));
}

#[test]
fn throttling_survives_a_restart_and_a_reboot() {
    let (mut schedule, core) = one();
    let due = schedule.report(1_000, 0, Ok(()));
    schedule.replied(&core, &rejected(Some(due.report_id), "Throttled"), at(1_200));
    for (boot, seconds, expected) in [(BOOT, 1_250, 1_500), ("boot-b", 5, 55)] {
        let mut again = schedule.restarted(boot, seconds, wall(1_250));
        again.set_things(std::slice::from_ref(&core), at(seconds));
        assert_eq!(again.next_wake(), Some(at(expected)), "{boot}");
    }
}

#[test]
fn a_rejection_without_id_belongs_to_the_only_report_waiting() {
    let (mut schedule, core) = one();
    schedule.report(1_000, 0, Ok(()));
    assert_eq!(
        schedule.replied(&core, &rejected(None, "InvalidPayload"), at(1_001)),
        ReplyMatch::Matched
    );
    assert!(matches!(schedule.only_status(1_001).last_report, Fate::Rejected { .. }));
    assert_eq!(
        schedule.replied(&core, &rejected(None, "InvalidPayload"), at(1_002)),
        ReplyMatch::Unsolicited
    );
    schedule.report(1_300, 0, Ok(()));
    schedule.report(1_600, 0, Ok(()));
    assert_eq!(
        schedule.replied(&core, &rejected(None, "Throttled"), at(1_601)),
        ReplyMatch::Ambiguous
    );
    assert_eq!(
        schedule.next_wake(),
        Some(at(1_901)),
        "throttling is heeded all the same"
    );
}

#[test]
fn replies_to_nobody_change_nothing() {
    let (mut schedule, core) = one();
    let due = schedule.report(1_000, 10, Ok(()));
    let before = schedule.state();
    assert_eq!(
        schedule.replied(&core, &accepted(42), at(1_001)),
        ReplyMatch::Unsolicited
    );
    assert_eq!(
        schedule.replied(&core, &rejected(Some(42), "Throttled"), at(1_001)),
        ReplyMatch::Unsolicited
    );
    let other = Reply {
        thing: Some("other".into()),
        ..accepted(due.report_id)
    };
    assert_eq!(schedule.replied(&core, &other, at(1_001)), ReplyMatch::OtherThing);
    assert_eq!(
        schedule.replied(&name("nobody"), &accepted(due.report_id), at(1_001)),
        ReplyMatch::UnknownThing
    );
    assert_eq!(schedule.state(), before);
    assert_eq!(schedule.only_status(1_001).counts.unsolicited, 3);
}

#[test]
fn d2_18_and_21_a_changed_interval_makes_no_extra_report() {
    let (mut schedule, _) = one();
    schedule.set_settings(settings(3_600), at(1_000));
    schedule.report(1_000, 0, Ok(()));
    schedule.set_settings(settings(300), at(1_100));
    assert_eq!(
        schedule.next_wake(),
        Some(at(1_300)),
        "one new interval after the last report"
    );
    schedule.set_settings(settings(600), at(1_200));
    assert_eq!(schedule.next_wake(), Some(at(1_600)));
    schedule.set_settings(settings(1), at(1_200));
    assert_eq!(schedule.next_wake(), Some(at(1_300)), "never below the floor");
}

#[test]
fn d2_19_reports_go_on_after_any_number_of_failures() {
    let (mut schedule, core) = one();
    for n in 0..1_000 {
        schedule.report(1_000 + 300 * n, 10 + n, Err("offline".into()));
    }
    let due = schedule.report(301_000, 5_000, Ok(()));
    assert_eq!(
        due.baseline,
        Some(totals(10)),
        "one delta for the whole outage, no backlog"
    );
    assert_eq!(
        schedule.replied(&core, &accepted(due.report_id), at(301_001)),
        ReplyMatch::Matched
    );
}

#[test]
fn d2_20_a_restart_in_the_same_boot_keeps_the_baseline_and_a_reboot_does_not() {
    let (mut schedule, core) = one();
    let due = schedule.report(1_000, 10, Ok(()));
    schedule.replied(&core, &accepted(due.report_id), at(1_001));
    let mut restarted = schedule.restarted(BOOT, 1_100, wall(1_100));
    restarted.set_things(std::slice::from_ref(&core), at(1_100));
    assert_eq!(restarted.report(1_300, 30, Ok(())).baseline, Some(totals(10)));
    let mut rebooted = schedule.restarted("boot-b", 20, wall(1_400));
    rebooted.set_things(std::slice::from_ref(&core), at(20));
    assert_eq!(rebooted.report(20, 30, Ok(())).baseline, None);
    let mut new_ledger = schedule.restarted(BOOT, 1_100, wall(1_100));
    new_ledger.set_things(std::slice::from_ref(&core), at(1_100));
    new_ledger.forget_baseline(&core);
    assert_eq!(new_ledger.report(1_300, 5, Ok(())).baseline, None);
}

#[test]
fn after_a_reboot_the_wall_clock_decides_within_one_interval() {
    let (mut schedule, core) = one();
    let due = schedule.report(1_000, 10, Ok(()));
    let wake = |wall: UnixTime| {
        let mut rebooted = schedule.restarted("boot-b", 7, wall);
        rebooted.set_things(std::slice::from_ref(&core), at(7));
        let wake = rebooted.next_wake().unwrap();
        let next = rebooted.due(wake, wall).unwrap();
        assert!(next.report_id > due.report_id);
        wake
    };
    assert_eq!(wake(wall(1_100)), at(207), "100 s ago");
    assert_eq!(wake(UnixTime(0)), at(307), "clock lost: a whole interval, no more");
    assert_eq!(wake(wall(100_000_000)), at(7), "years forward: now");
}

#[test]
fn a_clock_jump_while_running_changes_no_time() {
    let (mut schedule, _) = one();
    let first = schedule.report(1_000, 0, Ok(()));
    assert_eq!(schedule.due(at(1_299), UnixTime(u64::MAX)), None);
    let second = schedule.due(at(1_300), UnixTime(0)).unwrap();
    assert_eq!(second.report_id, first.report_id + 1);
}

#[test]
fn a_thing_that_leaves_and_comes_back_keeps_its_floor_and_ids_but_no_baseline() {
    let (mut schedule, core) = one();
    let first = schedule.report(1_000, 10, Ok(()));
    schedule.set_things(&[], at(1_010));
    assert_eq!(schedule.next_wake(), None);
    assert!(schedule.status(at(1_010)).is_empty());
    schedule.set_things(std::slice::from_ref(&core), at(1_020));
    assert_eq!(schedule.next_wake(), Some(at(1_300)));
    let again = schedule.due(at(1_300), UnixTime(0)).unwrap();
    assert_eq!((again.report_id, again.baseline), (first.report_id + 1, None));
}

#[test]
fn a_thing_that_leaves_during_its_publish_blocks_nobody() {
    let (mut schedule, core) = one();
    let due = schedule.due(at(1_000), wall(1_000)).unwrap();
    schedule.set_things(&[name("other")], at(1_001));
    assert!(schedule.sent(&core, due.report_id, Some(totals(99)), Ok(()), at(1_002)));
    assert_eq!(schedule.report(1_003, 0, Ok(())).thing, name("other"));
    schedule.set_things(std::slice::from_ref(&core), at(1_010));
    assert_eq!(schedule.report(1_302, 0, Ok(())).baseline, None);
}

#[test]
fn a_local_thing_reports_its_traffic_since_its_first_sample() {
    let (mut schedule, core) = one();
    schedule.begin_traffic(&core, totals(3));
    schedule.begin_traffic(&core, totals(4));
    assert_eq!(schedule.report(1_000, 10, Ok(())).baseline, Some(totals(3)));
}

#[test]
fn memory_of_things_gone_is_bounded() {
    let mut schedule = Schedule::new(settings(300), None, BOOT, at(0), wall(0));
    for n in 0..1_200 {
        schedule.set_things(&[name(&format!("thing-{n}"))], at(n));
    }
    assert!(schedule.state().things.len() <= REMEMBERED + 1);
}

#[test]
fn damaged_state_does_no_harm() {
    let text = r#"{"bootId": "boot-a", "things": {"core": {"lastReportId": 18446744073709551615,
        "lastReportTime": 18446744073709551615, "lastReportBootMillis": -9223372036854775808,
        "throttleSeconds": 18446744073709551615, "throttledUntilBootMillis": 18446744073709551615}}}"#;
    let state: ScheduleState = serde_json::from_str(text).unwrap();
    for boot in [BOOT, "boot-b"] {
        let mut schedule = Schedule::new(settings(300), Some(&state), boot, at(50), wall(50));
        schedule.set_things(&[name("core")], at(50));
        assert!(schedule.next_wake().unwrap() <= at(50 + 3_600));
        assert!(schedule.due(at(4_000), wall(50)).is_some());
    }
}

#[derive(Debug, Clone)]
enum Step {
    Advance(u64),
    WallJump(i64),
    Due,
    Sent(bool),
    Reply {
        back: usize,
        code: Option<&'static str>,
        with_id: bool,
    },
    Things(Vec<bool>),
    Interval(u64),
    Replies(bool),
    Restart,
    Reboot,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..400_000_u64).prop_map(Step::Advance),
        1 => prop_oneof![-4_000_000_000_000..4_000_000_000_000_i64, -400_000..400_000_i64].prop_map(Step::WallJump),
        8 => Just(Step::Due),
        6 => any::<bool>().prop_map(Step::Sent),
        4 => (0..4_usize, prop_oneof![Just(None), Just(Some("Throttled")), Just(Some("InvalidPayload"))], any::<bool>())
            .prop_map(|(back, code, with_id)| Step::Reply { back, code, with_id }),
        1 => prop::collection::vec(any::<bool>(), 3).prop_map(Step::Things),
        1 => (1..2_000_u64).prop_map(Step::Interval),
        1 => any::<bool>().prop_map(Step::Replies),
        1 => Just(Step::Restart),
        1 => Just(Step::Reboot),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_the_service_accepted_adds_up_to_all_traffic(outcomes in prop::collection::vec((0..4_u8, 0..1_000_u64), 1..40)) {
        let (mut schedule, core) = one();
        let (mut now, mut total, mut accepted_bytes, mut first, mut last) = (1_000, 7, 0, None, 0);
        let mut unanswered_in_a_row = 0;
        for (outcome, bytes) in outcomes {
            total += bytes;
            // Three unanswered ones in a row count as arrived: a rule of its own, with a test of its own.
            let outcome = if outcome == 3 && unanswered_in_a_row == 2 { 0 } else { outcome };
            unanswered_in_a_row = match outcome {
                3 => unanswered_in_a_row + 1,
                1 => unanswered_in_a_row,
                _ => 0,
            };
            let due = schedule.report(now, total, if outcome == 1 { Err("offline".into()) } else { Ok(()) });
            first.get_or_insert(total);
            match outcome {
                0 => {
                    accepted_bytes += total - due.baseline.map_or(total, |baseline| baseline.bytes_in);
                    last = total;
                    schedule.replied(&core, &accepted(due.report_id), at(now + 1));
                }
                2 => {
                    schedule.replied(&core, &rejected(Some(due.report_id), "InvalidPayload"), at(now + 1));
                }
                _ => {}
            }
            now += 300;
        }
        prop_assert_eq!(accepted_bytes, last.saturating_sub(first.unwrap_or(0)));
    }

    /// The world: true time never jumps; the wall clock does; the boot clock starts over at a reboot.
    #[test]
    fn reports_keep_their_distance_their_ids_grow_and_one_is_under_way(steps in prop::collection::vec(any_step(), 1..120)) {
        let things: Vec<ThingName> = ["core", "cam-1", "cam-2"].map(name).into();
        let (mut truth, mut boot_began, mut wall_offset) = (0_u64, 0_u64, 1_700_000_000_000_i64);
        let mut boots = 0;
        let mut config = settings(300);
        let mut schedule = Schedule::new(config, None, "boot-0", Monotonic(Duration::ZERO), UnixTime(1_700_000_000_000));
        schedule.set_things(&things, Monotonic(Duration::ZERO));
        let mut present = things.clone();
        let mut under_way: Option<Due> = None;
        let mut issued: Vec<Due> = Vec::new();
        let mut total = 0;
        // Per thing: true time and wall time of its last report, and whether a reboot met a clock set forward.
        let mut last: BTreeMap<ThingName, (u64, u64, bool)> = BTreeMap::new();
        for step in steps {
            let now = Monotonic(Duration::from_millis(truth - boot_began));
            let wall = UnixTime(truth.saturating_add_signed(wall_offset));
            match step {
                Step::Advance(millis) => { truth += millis; total += millis; }
                Step::WallJump(millis) => wall_offset = wall_offset.saturating_add(millis),
                Step::Due => {
                    let promised = schedule.next_wake();
                    let due = schedule.due(now, wall);
                    prop_assert_eq!(due.is_some(), promised.is_some_and(|wake| wake <= now));
                    if let Some(due) = due {
                        prop_assert!(under_way.is_none());
                        prop_assert!(present.contains(&due.thing));
                        if let Some((made, _, excused)) = last.get(&due.thing) {
                            prop_assert!(*excused || truth - made >= 300_000, "{} ms apart", truth - made);
                        }
                        let previous = issued.iter().rev().find(|earlier| earlier.thing == due.thing);
                        prop_assert!(previous.is_none_or(|earlier| earlier.report_id < due.report_id));
                        last.insert(due.thing.clone(), (truth, wall.0, false));
                        issued.push(due.clone());
                        under_way = Some(due);
                    }
                }
                Step::Sent(taken) => if let Some(due) = under_way.take() {
                    let result = if taken { Ok(()) } else { Err("offline".to_owned()) };
                    prop_assert!(schedule.sent(&due.thing, due.report_id, Some(totals(total)), result, now));
                    // The schedule carries the wall clock read at the beginning on by the monotonic one.
                    let (made, wall, _) = last[&due.thing];
                    last.insert(due.thing, (truth, wall + (truth - made), false));
                },
                Step::Reply { back, code, with_id } => if let Some(due) = issued.iter().rev().nth(back) {
                    let id = with_id.then_some(due.report_id);
                    let reply = code.map_or_else(|| accepted(due.report_id), |code| rejected(id, code));
                    schedule.replied(&due.thing, &reply, now);
                },
                Step::Things(mask) => {
                    present = things.iter().zip(mask).filter(|(_, here)| *here).map(|(thing, _)| thing.clone()).collect();
                    schedule.set_things(&present, now);
                }
                Step::Interval(seconds) => {
                    config.interval = Duration::from_secs(seconds);
                    schedule.set_settings(config, now);
                }
                Step::Replies(known) => {
                    config.replies_known = known;
                    schedule.set_settings(config, now);
                }
                Step::Restart | Step::Reboot => {
                    let text = serde_json::to_string(&schedule.state()).unwrap();
                    let state: ScheduleState = serde_json::from_str(&text).unwrap();
                    if matches!(step, Step::Reboot) {
                        boots += 1;
                        boot_began = truth;
                        for (made, by_wall, excused) in last.values_mut() {
                            *excused |= wall.0.saturating_sub(*by_wall) > truth - *made;
                        }
                    }
                    let now = Monotonic(Duration::from_millis(truth - boot_began));
                    schedule = Schedule::new(config, Some(&state), &format!("boot-{boots}"), now, wall);
                    schedule.set_things(&present, now);
                    under_way = None;
                }
            }
            if let Some(wake) = schedule.next_wake() {
                let now = Monotonic(Duration::from_millis(truth - boot_began));
                prop_assert!(wake.since(now) <= THROTTLE_CAP.max(config.interval.max(config.floor)));
            }
            if let Some(due) = &under_way {
                // Traffic is never counted from a point after now.
                prop_assert!(due.baseline.is_none_or(|baseline| baseline.bytes_in <= total));
            }
        }
    }
}
