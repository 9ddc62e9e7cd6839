//! Documents that wait for their turn. Every device can write its own shadow as often as it likes and make it as large
//! as it likes; neither may keep the others waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{FIRST_WAIT, LONGEST_WAIT, Place};
use crate::model::Monotonic;

/// How long one document is left alone after a failure of its own.
#[derive(Debug)]
struct Pause {
    wait: Duration,
    until: Monotonic,
}

#[derive(Debug)]
pub(super) struct Turns<T> {
    waiting: BTreeMap<Place, T>,
    /// Whose turn it was last: the next is the first behind it, so one that comes again at once comes last.
    last: Option<Place>,
    pauses: BTreeMap<Place, Pause>,
}

impl<T> Turns<T> {
    pub(super) fn new() -> Self {
        Self {
            waiting: BTreeMap::new(),
            last: None,
            pauses: BTreeMap::new(),
        }
    }

    /// Let it wait for its turn; it waits once however often it is added.
    pub(super) fn add(&mut self, place: Place, what: T) {
        self.waiting.insert(place, what);
    }

    /// Forget all but these.
    pub(super) fn retain(&mut self, places: &BTreeSet<Place>) {
        self.waiting.retain(|place, _| places.contains(place));
        self.pauses.retain(|place, _| places.contains(place));
    }

    /// Whose turn it is.
    pub(super) fn next(&mut self, now: Monotonic) -> Option<(Place, T)> {
        let ready = |place: &&Place| self.pauses.get(*place).is_none_or(|pause| pause.until <= now);
        let behind = |place: &&Place| self.last.as_ref().is_some_and(|last| *place > last);
        let first_behind = self.waiting.keys().filter(behind).find(ready);
        let place = first_behind.or_else(|| self.waiting.keys().find(ready))?.clone();
        let what = self.waiting.remove(&place)?;
        self.last = Some(place.clone());
        Some((place, what))
    }

    /// The earliest moment at which it can be somebody's turn.
    pub(super) fn next_due(&self) -> Option<Monotonic> {
        let due = |place| {
            self.pauses
                .get(place)
                .map_or(Monotonic(Duration::ZERO), |pause| pause.until)
        };
        self.waiting.keys().map(due).min()
    }

    /// It failed by itself: leave it alone for a while, longer each time.
    pub(super) fn pause(&mut self, place: &Place, now: Monotonic) {
        let pause = self.pauses.entry(place.clone()).or_insert(Pause {
            wait: FIRST_WAIT,
            until: now,
        });
        pause.until = now.after(pause.wait);
        pause.wait = (pause.wait * 2).min(LONGEST_WAIT);
    }

    /// It works.
    pub(super) fn works(&mut self, place: &Place) {
        self.pauses.remove(place);
    }

    /// It failed when last tried.
    pub(super) fn is_failing(&self, place: &Place) -> bool {
        self.pauses.contains_key(place)
    }

    /// What failed while nothing worked may be tried again now.
    pub(super) fn end_pauses(&mut self, now: Monotonic) {
        for pause in self.pauses.values_mut() {
            pause.until = pause.until.min(now);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}
