//! Which causes hold, said slowly and obviously. It sees the true order of everything that happened to a document, which
//! the agent has to guess from versions and timestamps.

use std::collections::{BTreeMap, BTreeSet};

use super::document::Document;

const HOUR: u64 = 3600;

/// Names a cause: the two shadows, two behaviors, the operator, the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Classic,
    Named,
    Edge(u8),
    Operator,
    Recovered,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Held {
    pub(crate) since: u64,
    pub(crate) until: Option<u64>,
    clears: bool,
    violation: u32,
}

/// What `desired.quarantine` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    Quarantine { until: Option<u64> },
    Release,
    Nonsense,
}

/// A document at one moment of its history.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) document: Document,
    /// What the key asks for, and the number of its writing: no two writings have the same.
    pub(crate) wish: Option<(Wish, u64)>,
    /// The place in the history.
    pub(crate) number: u64,
}

/// What the reference remembers of a document it was shown.
#[derive(Debug, Clone)]
struct Shown {
    number: u64,
    version: u64,
    writing: Option<u64>,
    at: u64,
    deleted: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Reference {
    pub(crate) causes: BTreeMap<u8, BTreeMap<Key, Held>>,
    shown: BTreeMap<(u8, Key), Shown>,
    cuts: Vec<(u8, u64)>,
    /// Alarms that found no room, and since when.
    waiting: Vec<(u8, Alarm, u64)>,
}

/// An alarm of a behavior.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Alarm {
    pub(crate) key: Key,
    pub(crate) violation: u32,
    pub(crate) clears: bool,
    pub(crate) lasts: Option<u64>,
}

fn by_alarm(causes: &BTreeMap<Key, Held>) -> bool {
    causes.keys().any(|key| matches!(key, Key::Edge(_)))
}

/// The true time and the wall clock, seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clocks {
    pub(crate) truth: u64,
    pub(crate) wall: u64,
}

impl Clocks {
    fn past(self, until: u64) -> bool {
        self.truth >= until && self.wall >= until
    }

    fn latest(self) -> u64 {
        self.truth.max(self.wall)
    }
}

impl Reference {
    fn of(&mut self, thing: u8) -> &mut BTreeMap<Key, Held> {
        self.causes.entry(thing).or_default()
    }

    pub(crate) fn show(&mut self, thing: u8, shadow: Key, snapshot: &Snapshot, clocks: Clocks) {
        let place = (thing, shadow);
        let before = self.shown.get(&place).cloned();
        if !snapshot.document.exists {
            if let Some(shown) = self.shown.get_mut(&place) {
                shown.deleted = true;
            }
            return;
        }
        let writing = snapshot.wish.map(|(_, writing)| writing);
        let now_shown = Shown {
            number: snapshot.number,
            version: snapshot.document.version,
            writing,
            at: clocks.latest(),
            deleted: false,
        };
        let Some(before) = before else {
            if let Some((wish, _)) = snapshot.wish {
                self.shown.insert(place, now_shown);
                self.act(
                    thing,
                    shadow,
                    wish,
                    snapshot.document.desired.as_ref().map(|(_, at)| *at),
                    clocks,
                );
            }
            return;
        };
        if snapshot.number <= before.number {
            return; // seen already, or before what was seen
        }
        self.shown.insert(place, now_shown);
        if writing == before.writing {
            return;
        }
        match snapshot.wish {
            Some((wish, _)) => {
                let written = snapshot.document.desired.as_ref().map(|(_, at)| *at);
                self.act(thing, shadow, wish, written, clocks);
            }
            // another document in the place of one that was deleted, as far as anybody can tell
            None if before.deleted || snapshot.document.version <= before.version => {}
            None => self.act(thing, shadow, Wish::Release, Some(before.at), clocks),
        }
    }

    fn act(&mut self, thing: u8, shadow: Key, wish: Wish, written: Option<u64>, clocks: Clocks) {
        let causes = self.of(thing);
        let since = written.unwrap_or(0);
        match wish {
            Wish::Quarantine { until } if until.is_some_and(|until| clocks.past(until)) => drop(causes.remove(&shadow)),
            Wish::Quarantine { until } => {
                let (clears, violation) = (false, 0);
                causes.insert(
                    shadow,
                    Held {
                        since,
                        until,
                        clears,
                        violation,
                    },
                );
            }
            Wish::Release => {
                causes.remove(&shadow);
                if shadow == Key::Named {
                    causes.retain(|key, held| !matches!(key, Key::Edge(_)) || held.since > since);
                    self.waiting
                        .retain(|(other, _, began)| *other != thing || *began > since);
                }
            }
            Wish::Nonsense => {}
        }
    }

    pub(crate) fn alarm(&mut self, thing: u8, alarm: Alarm, trusted: bool, clocks: Clocks) {
        if let Some(old) = self.of(thing).get(&alarm.key) {
            if old.violation != alarm.violation {
                self.cut(thing, alarm, clocks);
            }
        } else if trusted {
            let same = |(other, waiting, _): &&mut (u8, Alarm, u64)| *other == thing && waiting.key == alarm.key;
            if self.has_room(thing, clocks) {
                self.waiting
                    .retain(|(other, waiting, _)| *other != thing || waiting.key != alarm.key);
                self.cut(thing, alarm, clocks);
            } else if let Some(waiting) = self.waiting.iter_mut().find(same) {
                waiting.1 = alarm;
            } else {
                self.waiting.push((thing, alarm, clocks.latest()));
            }
        }
    }

    fn cut(&mut self, thing: u8, alarm: Alarm, clocks: Clocks) {
        if !by_alarm(self.of(thing)) {
            self.cuts.push((thing, clocks.truth));
        }
        let held = Held {
            since: clocks.latest(),
            until: alarm.lasts.map(|lasts| clocks.truth + lasts),
            clears: alarm.clears,
            violation: alarm.violation,
        };
        self.of(thing).insert(alarm.key, held);
    }

    /// Two things at once, and newly within an hour; one that is held or was cut off within it counts already.
    fn has_room(&mut self, thing: u8, clocks: Clocks) -> bool {
        const CAP: usize = 2;
        if by_alarm(self.of(thing)) {
            return true;
        }
        let at_once = self.causes.values().filter(|causes| by_alarm(causes)).count();
        let recent = self.cuts.iter().filter(|(_, cut)| clocks.truth - cut < HOUR);
        let recent: BTreeSet<u8> = recent.map(|(thing, _)| *thing).collect();
        at_once < CAP && (recent.contains(&thing) || recent.len() < CAP)
    }

    pub(crate) fn cleared(&mut self, thing: u8, key: Key, silenced: bool) {
        self.waiting
            .retain(|(other, waiting, _)| *other != thing || waiting.key != key);
        self.of(thing)
            .retain(|other, held| *other != key || !held.clears || silenced);
    }

    pub(crate) fn operator(&mut self, thing: u8, until: Option<u64>, clocks: Clocks) {
        if until.is_some_and(|until| clocks.past(until)) {
            return;
        }
        let held = Held {
            since: clocks.latest(),
            until,
            clears: false,
            violation: 0,
        };
        self.of(thing).insert(Key::Operator, held);
    }

    pub(crate) fn release(&mut self, thing: u8) {
        self.waiting.retain(|(other, ..)| *other != thing);
        self.of(thing).clear();
    }

    pub(crate) fn recovered(&mut self, thing: u8, clocks: Clocks) {
        if self.of(thing).is_empty() {
            self.operator(thing, None, clocks);
            let held = self.of(thing).remove(&Key::Operator).expect("just put there");
            self.of(thing).insert(Key::Recovered, held);
        }
    }

    /// What is over ends; when nothing is, alarms that wait are acted on.
    pub(crate) fn tick(&mut self, clocks: Clocks) {
        let mut ended = false;
        for causes in self.causes.values_mut() {
            let before = causes.len();
            causes.retain(|_, held| !held.until.is_some_and(|until| clocks.past(until)));
            ended |= causes.len() != before;
        }
        if ended {
            return;
        }
        for (thing, alarm, since) in std::mem::take(&mut self.waiting) {
            if self.has_room(thing, clocks) {
                self.cut(thing, alarm, clocks);
            } else {
                self.waiting.push((thing, alarm, since));
            }
        }
    }
}
