//! Documents that wait for their turn. Every device can write its own shadow as often as it likes and make it as large
//! as it likes; neither may keep the others waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use super::{FIRST_WAIT, LONGEST_WAIT, Place};
use crate::model::Monotonic;

/// How long one document is left alone after a failure of its own.
#[derive(Debug)]
struct Pause {
    wait: Duration,
    until: Monotonic,
}

/// Nobody is being served.
pub(super) const NOBODY: BTreeMap<Place, ()> = BTreeMap::new();

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
        self.next_but(now, &NOBODY)
    }

    /// Whose turn it is, those aside that are being served.
    pub(super) fn next_but<U>(&mut self, now: Monotonic, served: &BTreeMap<Place, U>) -> Option<(Place, T)> {
        let ready = |place: &&Place| {
            self.pauses.get(*place).is_none_or(|pause| pause.until <= now) && !served.contains_key(*place)
        };
        let behind = match &self.last {
            Some(last) => (Bound::Excluded(last), Bound::Unbounded),
            None => (Bound::Unbounded, Bound::Unbounded),
        };
        let first_behind = self
            .waiting
            .range::<Place, _>(behind)
            .map(|(place, _)| place)
            .find(ready);
        let place = first_behind.or_else(|| self.waiting.keys().find(ready))?.clone();
        let what = self.waiting.remove(&place)?;
        self.last = Some(place.clone());
        Some((place, what))
    }

    /// The earliest moment at which it can be the turn of one that is not being served.
    pub(super) fn next_due_but<U>(&self, served: &BTreeMap<Place, U>) -> Option<Monotonic> {
        let waits = |place: &Place| self.waiting.contains_key(place);
        let busy = served.keys().filter(|place| waits(place)).count();
        let pauses = self.pauses.iter();
        let pausing: Vec<Monotonic> = pauses
            .filter(|(place, _)| waits(place) && !served.contains_key(*place))
            .map(|(_, pause)| pause.until)
            .collect();
        if self.waiting.len() > busy + pausing.len() {
            return Some(Monotonic(Duration::ZERO));
        }
        pausing.into_iter().min()
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
