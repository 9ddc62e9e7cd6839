//! One thing's reports: its last one, those still unanswered, and what its traffic counts from.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;

use super::{ScheduleSettings, THROTTLE_CAP, THROTTLE_WAIT};
use crate::model::{Counters, Monotonic, ThingName, UnixTime};
use crate::report::reply::shortened;
use crate::report::{Outcome, Rejection, Reply};

/// How many reports may wait for their reply; older ones can no longer be matched.
const PENDING: usize = 8;

/// After so many reports in a row without any reply, replies are taken not to reach us (a policy without Receive, a
/// spooler that holds everything back): reports then count as arrived when sent, until a reply is seen again. Otherwise
/// each report would carry all traffic since the first unanswered one, and arrive as an ever growing false alarm.
pub(super) const SILENT_AFTER: u32 = 3;

/// What became of a thing's last report.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase", tag = "fate")]
pub enum Fate {
    /// There was none yet.
    #[default]
    None,
    /// Its publish has not returned.
    Publishing,
    /// Handed to the nucleus; no reply yet.
    Sent,
    /// Accepted by the service.
    Accepted,
    /// Rejected by the service.
    Rejected {
        /// The service's error code.
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<String>,
        /// The service's error message.
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
    /// The nucleus did not take it.
    NotSent {
        /// Why.
        reason: String,
    },
}

/// Counts since the agent started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReportCounts {
    /// Taken by the nucleus.
    pub sent: u64,
    /// Not taken by the nucleus.
    pub not_sent: u64,
    /// Accepted by the service, late ones included.
    pub accepted: u64,
    /// Rejected by the service, throttled and late ones included.
    pub rejected: u64,
    /// Rejected with `Throttled`.
    pub throttled: u64,
    /// Sent and not answered by the time the next one was due.
    pub unacknowledged: u64,
    /// Replies to a report that was no longer the newest.
    pub late: u64,
    /// Replies that belong to no report we know.
    pub unsolicited: u64,
}

/// What a reply turned out to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyMatch {
    /// The thing's newest report.
    Matched,
    /// An older one among the last few.
    Late,
    /// It names no report id and several reports wait; counted, and `Throttled` heeded, but ascribed to none.
    Ambiguous,
    /// No report we know: an answer to somebody else's, a duplicate, or far too late.
    Unsolicited,
    /// It names another thing than its topic does.
    OtherThing,
    /// The thing does not report (any more).
    UnknownThing,
}

/// The publish under way.
#[derive(Debug, Clone)]
pub(super) struct InFlight {
    pub(super) thing: ThingName,
    report_id: u64,
    since: Monotonic,
    wall: UnixTime,
    pub(super) early_reply: Option<Reply>,
    /// The thing's ledger ended meanwhile: the totals of this report are of no use for a baseline.
    pub(super) stale: bool,
}

impl InFlight {
    pub(super) fn new(thing: ThingName, report_id: u64, since: Monotonic, wall: UnixTime) -> Self {
        Self {
            thing,
            report_id,
            since,
            wall,
            early_reply: None,
            stale: false,
        }
    }

    pub(super) fn is(&self, thing: &ThingName, report_id: u64) -> bool {
        self.thing == *thing && self.report_id == report_id
    }
}

/// When the last report was made: `before` earlier than `at`, which may lie before this boot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Last {
    pub(super) at: Monotonic,
    pub(super) before: Duration,
    pub(super) wall: UnixTime,
}

impl Last {
    pub(super) fn elapsed(self, now: Monotonic) -> Duration {
        now.since(self.at).saturating_add(self.before)
    }

    /// `wait` after the report, or `at` itself if that was over by then.
    pub(super) fn after(self, wait: Duration) -> Monotonic {
        self.at.after(wait.saturating_sub(self.before))
    }
}

/// A report whose reply may still come.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    report_id: u64,
    totals: Option<Counters>,
    /// When the nucleus took it; `None` when it says that it did not (which a time-out does not prove).
    sent_at: Option<Monotonic>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Entry {
    /// When the next report is due, floor and throttling aside; `None` for a thing that is not there.
    pub(super) due: Option<Monotonic>,
    pub(super) last: Option<Last>,
    pub(super) last_report_id: Option<u64>,
    pub(super) throttled_until: Option<Monotonic>,
    pub(super) throttle_wait: Option<Duration>,
    pub(super) baseline: Option<Counters>,
    /// The report whose end the baseline is.
    pub(super) baseline_id: u64,
    pub(super) pending: VecDeque<Pending>,
    /// The newest report answered.
    pub(super) answered_id: u64,
    pub(super) unanswered: u32,
    pub(super) fate: Fate,
    pub(super) counts: ReportCounts,
}

impl Entry {
    /// One interval after the last report, if that is still to come.
    pub(super) fn next_in_rhythm(&self, interval: Duration, now: Monotonic) -> Option<Monotonic> {
        let last = self.last?;
        (last.elapsed(now) < interval).then(|| last.after(interval))
    }

    /// When the next report may be made. `due` is one interval after the last report or later, wherever it is set, and
    /// an interval is never below the floor: that keeps reports apart.
    pub(super) fn earliest(&self) -> Option<Monotonic> {
        let due = self.due?;
        Some(due.max(self.throttled_until.unwrap_or(due)))
    }

    pub(super) fn leave(&mut self) {
        self.due = None;
        self.pending.clear();
        self.unanswered = 0;
        self.fate = Fate::None;
        self.forget_baseline();
    }

    pub(super) fn forget_baseline(&mut self) {
        self.baseline = None;
        // Totals of reports under way belong to the old ledger too.
        for pending in &mut self.pending {
            pending.totals = None;
        }
    }

    /// Called when the next report is due: true when the last one's reply is missing on subscriptions made before it.
    pub(super) fn give_up_waiting(&mut self, subscribed_at: Monotonic) -> bool {
        if self.fate != Fate::Sent {
            return false;
        }
        self.counts.unacknowledged += 1;
        self.unanswered = self.unanswered.saturating_add(1);
        let newest = self.pending.back().cloned();
        if self.is_silent()
            && let Some(newest) = &newest
        {
            self.move_baseline(newest.report_id, newest.totals);
        }
        newest
            .and_then(|pending| pending.sent_at)
            .is_some_and(|sent_at| sent_at >= subscribed_at)
    }

    pub(super) fn is_silent(&self) -> bool {
        self.unanswered >= SILENT_AFTER
    }

    pub(super) fn begin(&mut self, report_id: u64, now: Monotonic, wall: UnixTime, interval: Duration) {
        self.last_report_id = Some(report_id);
        self.fate = Fate::Publishing;
        self.made(now, wall, interval);
    }

    fn made(&mut self, now: Monotonic, wall: UnixTime, interval: Duration) {
        self.last = Some(Last {
            at: now,
            before: Duration::ZERO,
            wall,
        });
        if self.due.is_some() {
            self.due = Some(now.after(interval));
        }
    }

    pub(super) fn published(
        &mut self,
        flight: &InFlight,
        totals: Option<Counters>,
        result: Result<(), String>,
        now: Monotonic,
        settings: ScheduleSettings,
    ) {
        let totals = totals.filter(|_| !flight.stale);
        // A publish can take seconds; the service sees its end, so that is what the floor counts from.
        let took = u64::try_from(now.since(flight.since).as_millis()).unwrap_or(u64::MAX);
        self.made(now, UnixTime(flight.wall.0.saturating_add(took)), settings.interval());
        if self.due.is_none() {
            return;
        }
        let arrived = match result {
            Ok(()) => {
                self.counts.sent += 1;
                self.fate = Fate::Sent;
                !settings.replies_known || self.is_silent()
            }
            Err(reason) => {
                self.counts.not_sent += 1;
                self.fate = Fate::NotSent {
                    reason: shortened(&reason),
                };
                false
            }
        };
        // A report without a baseline carried no traffic, so there is none to fold into the next.
        if arrived || self.baseline.is_none() {
            self.move_baseline(flight.report_id, totals);
        }
        self.pending.push_back(Pending {
            report_id: flight.report_id,
            totals,
            sent_at: (self.fate == Fate::Sent).then_some(now),
        });
        while self.pending.len() > PENDING {
            self.pending.pop_front();
        }
    }

    fn move_baseline(&mut self, report_id: u64, totals: Option<Counters>) {
        // A report without measured traffic leaves the baseline: its traffic is in the next one that has some.
        if let Some(totals) = totals
            && (report_id > self.baseline_id || self.baseline.is_none())
        {
            self.baseline = Some(totals);
            self.baseline_id = report_id;
        }
    }

    pub(super) fn replied(
        &mut self,
        reply: &Reply,
        flight: Option<&mut InFlight>,
        now: Monotonic,
        interval: Duration,
    ) -> ReplyMatch {
        if let Some(flight) = flight {
            let waiting = self.waiting().count();
            let is_it = reply.report_id.map_or(waiting == 0, |id| id == flight.report_id);
            if is_it && flight.early_reply.is_none() {
                flight.early_reply = Some(reply.clone());
                return ReplyMatch::Matched;
            }
        }
        let waiting: Vec<u64> = self.waiting().map(|pending| pending.report_id).collect();
        let report_id = match (reply.report_id, &waiting[..]) {
            (Some(id), _) => Some(id),
            (None, [only]) => Some(*only),
            (None, []) => {
                self.counts.unsolicited += 1;
                return ReplyMatch::Unsolicited;
            }
            (None, _) => None,
        };
        let Some(report_id) = report_id else {
            self.unanswered = 0;
            match &reply.outcome {
                Outcome::Accepted => self.counts.accepted += 1,
                Outcome::Rejected(rejection) => self.rejected(rejection, now, interval),
            }
            return ReplyMatch::Ambiguous;
        };
        let at = self.pending.iter().position(|pending| pending.report_id == report_id);
        let Some(pending) = at.and_then(|at| self.pending.remove(at)) else {
            self.counts.unsolicited += 1;
            return ReplyMatch::Unsolicited;
        };
        let newest = self.last_report_id == Some(report_id);
        self.unanswered = 0;
        self.answered_id = self.answered_id.max(report_id);
        if !newest {
            self.counts.late += 1;
        }
        match &reply.outcome {
            Outcome::Accepted => {
                self.counts.accepted += 1;
                self.move_baseline(report_id, pending.totals);
                if newest {
                    self.fate = Fate::Accepted;
                    self.throttled_until = None;
                    self.throttle_wait = None;
                }
            }
            Outcome::Rejected(rejection) => {
                self.rejected(rejection, now, interval);
                if newest {
                    self.fate = Fate::Rejected {
                        code: rejection.code.clone(),
                        message: rejection.message.clone(),
                    };
                }
            }
        }
        if newest { ReplyMatch::Matched } else { ReplyMatch::Late }
    }

    /// Reports that were sent and could still be answered: one older than an answered report no longer counts.
    fn waiting(&self) -> impl Iterator<Item = &Pending> {
        let answered = self.answered_id;
        self.pending
            .iter()
            .filter(move |pending| pending.sent_at.is_some() && pending.report_id > answered)
    }

    fn rejected(&mut self, rejection: &Rejection, now: Monotonic, interval: Duration) {
        self.counts.rejected += 1;
        if !rejection.is_throttled() {
            return;
        }
        self.counts.throttled += 1;
        let least = THROTTLE_WAIT.max(interval);
        let wait = self
            .throttle_wait
            .map_or(least, |wait| wait.saturating_mul(2).max(least));
        let wait = wait.min(THROTTLE_CAP.max(interval));
        self.throttle_wait = Some(wait);
        self.throttled_until = Some(now.after(wait));
    }
}
