//! Who reports when, and what became of it. A state machine without a clock of its own.
//!
//! The agent asks [`Schedule::due`], builds and publishes the report, says [`Schedule::sent`], and hands in what comes
//! back with [`Schedule::replied`]. Between a due and its sent no other report is due: nucleus lite fails at the 11th
//! publish it has not seen acknowledged.
//!
//! Traffic in a report counts from its **baseline**, the totals at the end of the last report known to have arrived.
//! Whatever was not sent, was rejected or was never answered folds into the next one that way.

mod entry;
mod phases;
mod state;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use self::entry::{Entry, InFlight};
use super::{Reply, next_report_id};
use crate::model::{Counters, Monotonic, ThingName, UnixTime};

pub use self::entry::{Fate, ReplyMatch, ReportCounts};
pub use self::state::{ScheduleState, ThingReportStatus, ThingState};

/// The shortest wait after a `Throttled` rejection: the service's own report period.
pub const THROTTLE_WAIT: Duration = Duration::from_secs(300);
/// The longest wait after repeated `Throttled` rejections (a longer report interval is kept).
pub const THROTTLE_CAP: Duration = Duration::from_secs(3600);

/// The least time between two publishes of different things, so that many overdue ones (after a suspend) do not burst.
const PACE: Duration = Duration::from_secs(1);
/// How many things that are no longer there are remembered, for their ids and their last report's time.
const REMEMBERED: usize = 1024;

/// How often reports are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScheduleSettings {
    /// Time from one report of a thing to its next.
    pub interval: Duration,
    /// Two reports of one thing are never closer than this (300 s through Greengrass); an interval below it is raised.
    pub floor: Duration,
    /// False when there is no subscription to replies: a report that was sent then counts as arrived.
    pub replies_known: bool,
}

impl ScheduleSettings {
    fn interval(self) -> Duration {
        self.interval.max(self.floor)
    }
}

/// A report to build and publish now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Whose report.
    pub thing: ThingName,
    /// Its id.
    pub report_id: u64,
    /// What its traffic counts from; `None` means no `network_stats`.
    pub baseline: Option<Counters>,
}

/// The state of all things' reports. See the module's page for the calls and their order.
#[derive(Debug, Clone)]
pub struct Schedule {
    settings: ScheduleSettings,
    boot_id: String,
    /// Things there now and, without a due time, those that are gone or not there yet again.
    entries: BTreeMap<ThingName, Entry>,
    in_flight: Option<InFlight>,
    /// No publish before this.
    paced_until: Option<Monotonic>,
    /// When the subscriptions were last known to be new.
    subscribed_at: Monotonic,
    needs_resubscribe: bool,
}

impl Schedule {
    /// A schedule without things that goes on from `saved`, if any.
    ///
    /// Within the boot it was saved in (`boot_id`, from `/proc/sys/kernel/random/boot_id`) times go on exactly, whatever
    /// the wall clock did, and baselines are kept: resume the things' ledgers too, or call
    /// [`Schedule::forget_baseline`]. In another boot only the wall clock can say how long ago a report was: one that
    /// seems to lie in the future counts as just sent, so the wait is never longer than one interval.
    #[must_use]
    pub fn new(
        settings: ScheduleSettings,
        saved: Option<&ScheduleState>,
        boot_id: &str,
        now: Monotonic,
        wall: UnixTime,
    ) -> Self {
        let restored = saved.into_iter().flat_map(|state| {
            let same_boot = state.boot_id == boot_id;
            state.things.iter().map(move |(thing, saved)| {
                (
                    thing.clone(),
                    Entry::restore(saved, same_boot, settings.interval(), now, wall),
                )
            })
        });
        Self {
            settings,
            boot_id: boot_id.to_owned(),
            entries: restored.collect(),
            in_flight: None,
            paced_until: None,
            subscribed_at: now,
            needs_resubscribe: false,
        }
    }

    /// Sets which things report: the core first (its turn comes first), the others in any order.
    ///
    /// New ones get a phase of their own, spread evenly over the interval by name, or in the middle of the widest gaps
    /// between the phases already taken; a first report thus comes within one interval. One whose last report is less
    /// than an interval ago keeps its rhythm instead. Things left out keep their id and the time of their last report,
    /// should they come back, but not their baseline.
    pub fn set_things(&mut self, things: &[ThingName], now: Monotonic) {
        let wanted: BTreeSet<&ThingName> = things.iter().collect();
        for (thing, entry) in &mut self.entries {
            if !wanted.contains(thing) && entry.due.is_some() {
                entry.leave();
                stale(self.in_flight.as_mut(), thing);
            }
        }
        let interval = self.settings.interval();
        let mut to_place = Vec::new();
        for &thing in &wanted {
            let entry = self.entries.entry(thing.clone()).or_default();
            if entry.due.is_some() {
                continue;
            }
            match entry.next_in_rhythm(interval, now) {
                Some(due) => entry.due = Some(due),
                None => to_place.push(thing.clone()),
            }
        }
        if let Some(core) = things.first()
            && let Some(at) = to_place.iter().position(|thing| thing == core)
        {
            let core = to_place.remove(at);
            self.place(&[core], Some(Duration::ZERO), now);
        }
        self.place(&to_place, None, now);
        self.forget_oldest();
    }

    /// Takes new settings. No report is made because of it: a thing's next report comes one new interval after its last,
    /// or at a phase within the new interval if that is over already.
    pub fn set_settings(&mut self, settings: ScheduleSettings, now: Monotonic) {
        let changed = settings.interval() != self.settings.interval();
        self.settings = settings;
        if !changed {
            return;
        }
        let interval = settings.interval();
        let mut to_place = Vec::new();
        for (thing, entry) in &mut self.entries {
            let Some(due) = entry.due else { continue };
            let next = entry.next_in_rhythm(interval, now);
            let soon_enough = entry.last.is_none() && due.since(now) <= interval;
            match next {
                Some(next) => entry.due = Some(next),
                None if soon_enough => {}
                None => {
                    entry.due = None;
                    to_place.push(thing.clone());
                }
            }
        }
        self.place(&to_place, None, now);
    }

    /// The report to make now, if any; the longest overdue thing's. Its publish counts as under way until
    /// [`Schedule::sent`] is called, which must follow in every case.
    pub fn due(&mut self, now: Monotonic, wall: UnixTime) -> Option<Due> {
        if self.in_flight.is_some() || self.paced_until.is_some_and(|until| now < until) {
            return None;
        }
        let (thing, entry) = self
            .entries
            .iter_mut()
            .filter_map(|(thing, entry)| Some((entry.earliest()?, thing, entry)))
            .filter(|(earliest, ..)| *earliest <= now)
            .min_by_key(|(earliest, ..)| *earliest)
            .map(|(_, thing, entry)| (thing, entry))?;
        if self.settings.replies_known && entry.give_up_waiting(self.subscribed_at) {
            self.needs_resubscribe = true;
        }
        let report_id = next_report_id(entry.last_report_id, wall);
        entry.begin(report_id, now, wall, self.settings.interval());
        let thing = thing.clone();
        self.in_flight = Some(InFlight::new(thing.clone(), report_id, now, wall));
        Some(Due {
            thing,
            report_id,
            baseline: entry.baseline,
        })
    }

    /// The publish of a due report returned. `totals` are the traffic totals the report was built from, `Err` the reason
    /// why it was not sent (nothing is sent again: the next report carries what this one would have).
    ///
    /// Returns false, and changes nothing, when no such publish was under way.
    pub fn sent(
        &mut self,
        thing: &ThingName,
        report_id: u64,
        totals: Option<Counters>,
        result: Result<(), String>,
        now: Monotonic,
    ) -> bool {
        let Some(flight) = self.in_flight.take_if(|flight| flight.is(thing, report_id)) else {
            return false;
        };
        let here = self.entries.values().filter(|entry| entry.due.is_some()).count();
        let share = self.settings.interval() / u32::try_from(here.max(1)).unwrap_or(u32::MAX) / 2;
        self.paced_until = Some(now.after(PACE.min(share)));
        let settings = self.settings;
        if let Some(entry) = self.entries.get_mut(thing) {
            entry.published(&flight, totals, result, now, settings);
            if let Some(reply) = flight.early_reply {
                entry.replied(&reply, None, now, settings.interval());
            }
        }
        true
    }

    /// A reply arrived on the topics of `thing`.
    pub fn replied(&mut self, thing: &ThingName, reply: &Reply, now: Monotonic) -> ReplyMatch {
        let interval = self.settings.interval();
        let Some(entry) = self.entries.get_mut(thing).filter(|entry| entry.due.is_some()) else {
            return ReplyMatch::UnknownThing;
        };
        if reply.thing.as_deref().is_some_and(|named| named != thing.as_str()) {
            entry.counts.unsolicited += 1;
            return ReplyMatch::OtherThing;
        }
        // The reply can overtake the return of the publish it answers.
        let flight = self.in_flight.as_mut().filter(|flight| flight.thing == *thing);
        entry.replied(reply, flight, now, interval)
    }

    /// Sets what the first report's traffic counts from, for a thing whose traffic since its first sample is to be in
    /// its first report (local things). Does nothing when there is a baseline already.
    pub fn begin_traffic(&mut self, thing: &ThingName, totals: Counters) {
        if let Some(entry) = self.entries.get_mut(thing).filter(|entry| entry.due.is_some()) {
            entry.baseline.get_or_insert(totals);
        }
    }

    /// Forgets what the thing's traffic counts from, because its ledger began anew: totals of two ledgers have nothing
    /// to do with each other.
    pub fn forget_baseline(&mut self, thing: &ThingName) {
        if let Some(entry) = self.entries.get_mut(thing) {
            entry.forget_baseline();
            stale(self.in_flight.as_mut(), thing);
        }
    }

    /// When [`Schedule::due`] is worth asking again; `None` while a publish is under way or without things.
    #[must_use]
    pub fn next_wake(&self) -> Option<Monotonic> {
        if self.in_flight.is_some() {
            return None;
        }
        let earliest = self.entries.values().filter_map(Entry::earliest).min()?;
        Some(self.paced_until.map_or(earliest, |until| earliest.max(until)))
    }

    /// True when a report sent over the present subscriptions was not answered by the time its thing's next one was due:
    /// subscriptions die silently (a restart of nucleus lite's MQTT daemon loses all of them), so renew them, best before
    /// the publish, and say [`Schedule::resubscribed`].
    #[must_use]
    pub fn needs_resubscribe(&self) -> bool {
        self.needs_resubscribe
    }

    /// The subscriptions to replies are new as of now.
    pub fn resubscribed(&mut self, now: Monotonic) {
        self.needs_resubscribe = false;
        self.subscribed_at = now;
    }

    /// What to keep on disk. Save it when a report falls due (before its publish), so that not even a crash right after
    /// makes the next one come too early, and after each reply, for the baseline.
    #[must_use]
    pub fn state(&self) -> ScheduleState {
        ScheduleState {
            boot_id: self.boot_id.clone(),
            things: self
                .entries
                .iter()
                .map(|(thing, entry)| (thing.clone(), entry.save()))
                .collect(),
        }
    }

    /// One line per thing for `status` and `devices`, by name.
    #[must_use]
    pub fn status(&self, now: Monotonic) -> Vec<ThingReportStatus> {
        let here = self.entries.iter().filter(|(_, entry)| entry.due.is_some());
        here.map(|(thing, entry)| entry.status(thing, now)).collect()
    }

    fn place(&mut self, things: &[ThingName], first: Option<Duration>, now: Monotonic) {
        let interval = self.settings.interval();
        let taken: Vec<Duration> = self
            .entries
            .values()
            .filter_map(|entry| entry.due)
            .map(|due| due.since(now))
            .collect();
        let offsets = match first {
            Some(offset) => vec![offset; things.len()],
            None => phases::spread(&taken, things.len(), interval),
        };
        for (thing, offset) in things.iter().zip(offsets) {
            if let Some(entry) = self.entries.get_mut(thing) {
                entry.due = Some(now.after(offset));
            }
        }
    }

    fn forget_oldest(&mut self) {
        let gone = self.entries.iter().filter(|(_, entry)| entry.due.is_none());
        let too_many = gone.clone().count().saturating_sub(REMEMBERED);
        if too_many == 0 {
            return;
        }
        let mut oldest: Vec<_> = gone
            .map(|(thing, entry)| (entry.last.map(|last| last.wall), thing.clone()))
            .collect();
        oldest.sort_unstable();
        for (_, thing) in oldest.into_iter().take(too_many) {
            self.entries.remove(&thing);
        }
    }
}

/// Marks the publish under way as one whose totals no longer count, if it is this thing's.
fn stale(flight: Option<&mut InFlight>, thing: &ThingName) {
    if let Some(flight) = flight.filter(|flight| flight.thing == *thing) {
        flight.stale = true;
    }
}
