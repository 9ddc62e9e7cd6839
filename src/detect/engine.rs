//! All things and all behaviors.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::assignment::Assignment;
use super::course::Course;
use super::datapoint::{Datapoints, Now, Role, Subject};
use super::event::{Alarm, Violation};
use super::judge;
use super::metric::Metric;
use super::rule::{Rule, WindowKey};
use super::stored::Saved;
use super::turn::{Context, Ids, alarm};
use super::verdict::{judge_latest, judge_now};
use super::watched::{Watched, is_silent, millis};
use crate::model::ThingName;

/// The most pairs of thing and behavior that are judged. Further things are not, and are counted: names may come from
/// the network, memory must not follow.
pub(super) const MOST_COURSES: usize = 20_000;

/// How many things a percentile needs. With two, one of them is always above the other.
const FEWEST_FOR_PERCENTILE: usize = 3;

/// Evaluates profiles over the datapoints of things. Feed it with [`Engine::observe`] for every known thing in every
/// sample, then [`Engine::tick`] once, all with the same `now`. "Every known thing" means also those that gave no
/// datapoint, and those that are quarantined and gone.
#[derive(Debug)]
pub struct Engine {
    assignments: Vec<Assignment>,
    pub(super) rules: Vec<Rule>,
    windows: Vec<WindowKey>,
    pub(super) things: BTreeMap<ThingName, Watched>,
    pub(super) recent: VecDeque<Alarm>,
    courses: usize,
    unwatched: BTreeSet<ThingName>,
    ids: Ids,
}

impl Engine {
    /// An engine for `assignments`, going on from what [`Engine::save`] gave. Windows begin anew, alarms go on. Alarms of
    /// behaviors that were changed or removed since are invalidated, which gives events.
    ///
    /// `seed` makes violation ids unique among engines: a random number, new for each engine. Of two assignments with
    /// the same profile name only the first counts.
    #[must_use]
    pub fn new(assignments: Vec<Assignment>, saved: Option<Saved>, seed: u128, now: Now) -> (Self, Vec<Violation>) {
        let mut engine = Self {
            assignments: Vec::new(),
            rules: Vec::new(),
            windows: Vec::new(),
            things: BTreeMap::new(),
            recent: VecDeque::new(),
            courses: 0,
            unwatched: BTreeSet::new(),
            ids: Ids { seed, next: 0 },
        };
        let mut names = BTreeSet::new();
        for assignment in assignments {
            if names.insert(assignment.profile().name().to_owned()) {
                engine.add_rules(&assignment);
                engine.assignments.push(assignment);
            }
        }
        let events = saved.map_or_else(Vec::new, |saved| engine.restore(saved, now));
        (engine, events)
    }

    fn add_rules(&mut self, assignment: &Assignment) {
        for behavior in assignment.profile().behaviors() {
            let mut rule = Rule::new(self.assignments.len(), assignment, behavior);
            let key = WindowKey::of(&rule);
            let known = self.windows.iter().position(|window| *window == key);
            rule.window = known.unwrap_or(self.windows.len());
            if known.is_none() {
                self.windows.push(key);
            }
            self.rules.push(rule);
        }
    }

    /// The metrics that are judged for this thing, so that only these need be measured.
    #[must_use]
    pub fn metrics(&self, thing: &ThingName, role: Role) -> BTreeSet<&Metric> {
        let rules = self.rules.iter().filter(|rule| self.includes(rule, thing, role));
        rules.map(|rule| &rule.behavior.metric).collect()
    }

    /// How many things were not judged since the last [`Engine::tick`] because too many pairs of thing and behavior
    /// (20,000) are judged already.
    #[must_use]
    pub fn unwatched(&self) -> usize {
        self.unwatched.len()
    }

    fn includes(&self, rule: &Rule, thing: &ThingName, role: Role) -> bool {
        let assignment = self.assignments.get(rule.assignment);
        assignment.is_some_and(|assignment| assignment.includes(thing, role))
    }

    /// The thing's state, made when there is room; `force` makes it anyway.
    pub(super) fn watch(&mut self, thing: &ThingName, role: Role, now: u64, force: bool) -> bool {
        if self.things.get(thing).is_some_and(|watched| watched.role == role) {
            return true;
        }
        let included = |(_, rule): &(usize, &Rule)| self.includes(rule, thing, role);
        let included = self.rules.iter().enumerate().filter(included);
        let courses: Vec<Course> = included.map(|(index, _)| Course::new(index, now)).collect();
        let total = self.courses.saturating_add(courses.len());
        if total > MOST_COURSES && !force {
            if self.unwatched.len() < MOST_COURSES {
                self.unwatched.insert(thing.clone());
            }
            return false;
        }
        self.courses = total;
        let watched = Watched::new(role, courses);
        if let Some(other_role) = self.things.insert(thing.clone(), watched) {
            self.courses = self.courses.saturating_sub(other_role.courses.len());
        }
        true
    }

    /// Judges one sample of one thing.
    pub fn observe(&mut self, subject: Subject<'_>, datapoints: &Datapoints, now: Now) -> Vec<Violation> {
        let at = millis(now.monotonic);
        let mut events = Vec::new();
        if !self.watch(subject.thing, subject.role, at, false) {
            return events;
        }
        let Some(watched) = self.things.get_mut(subject.thing) else {
            return events;
        };
        watched.cut_off = subject.cut_off;
        let moved = watched.move_windows(&self.rules, &self.windows, datapoints, at);
        for course in &mut watched.courses {
            let Some(rule) = self.rules.get(course.rule) else {
                continue;
            };
            if subject.cut_off && rule.is_silenced_by_cut {
                course.hold(at);
                continue;
            }
            let behavior = &rule.behavior;
            let value = datapoints.get(behavior.metric.name());
            let Some(value) = value.filter(|value| judge::fits(value, &behavior.metric)) else {
                continue;
            };
            course.heard = i64::try_from(at).unwrap_or(i64::MAX);
            let window = watched.windows.get(&rule.window);
            let window = window.filter(|_| moved.contains(&rule.window));
            let Some((violates, value)) = judge_now(course, rule, value, window, at) else {
                continue;
            };
            let turn = course.take(violates, behavior.criteria.to_alarm, behavior.criteria.to_clear);
            let context = Context {
                thing: subject.thing,
                role: subject.role,
                rule,
                now,
                threshold: None,
            };
            events.extend(context.act(course, turn, || value.shown(behavior), &mut self.ids, &mut self.recent));
        }
        events
    }

    /// Judges what needs all things of a sample: percentiles and silence. Once per sample, after the last
    /// [`Engine::observe`] of it.
    pub fn tick(&mut self, now: Now) -> Vec<Violation> {
        let at = millis(now.monotonic);
        self.unwatched.clear();
        let thresholds = self.thresholds(at);
        let mut events = Vec::new();
        for (thing, watched) in &mut self.things {
            for course in &mut watched.courses {
                let Some(rule) = self.rules.get(course.rule) else {
                    continue;
                };
                let mut context = Context {
                    thing,
                    role: watched.role,
                    rule,
                    now,
                    threshold: thresholds.get(&course.rule).copied(),
                };
                if let Some((violates, value)) = judge_latest(course, rule, context.threshold, at) {
                    let criteria = &rule.behavior.criteria;
                    let turn = course.take(violates, criteria.to_alarm, criteria.to_clear);
                    let shown = || judge::shown_number(value, &rule.behavior.metric);
                    events.extend(context.act(course, turn, shown, &mut self.ids, &mut self.recent));
                }
                context.threshold = None;
                if !watched.cut_off && is_silent(course, at) {
                    events.extend(context.invalidate(course, &mut self.recent));
                }
            }
        }
        self.forget(at);
        events
    }

    /// Drops things of which nothing is known any more.
    fn forget(&mut self, at: u64) {
        self.things.retain(|_, watched| !watched.is_gone(at));
        self.courses = self.things.values().map(|watched| watched.courses.len()).sum();
    }

    /// What each percentile is at `at`, by rule. Things that are cut off, or were not measured for a while, do not count.
    fn thresholds(&self, at: u64) -> BTreeMap<usize, f64> {
        let mut values: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        let courses = self.things.values().flat_map(|watched| &watched.courses);
        for course in courses {
            let (Some(latest), Some(rule)) = (course.latest, self.rules.get(course.rule)) else {
                continue;
            };
            if latest.at.saturating_add(rule.window_millis()) > at {
                values.entry(course.rule).or_default().push(latest.value);
            }
        }
        let threshold = |(index, mut values): (usize, Vec<f64>)| {
            let statistic = self.rules.get(index)?.statistic()?;
            // as AWS: no percentile while any value is negative
            if values.len() < FEWEST_FOR_PERCENTILE || values.iter().any(|value| *value < 0.0) {
                return None;
            }
            values.sort_unstable_by(f64::total_cmp);
            Some((index, statistic.of(&values)?))
        };
        values.into_iter().filter_map(threshold).collect()
    }

    /// Active alarms by thing, then those that ended lately, newest first.
    #[must_use]
    pub fn alarms(&self) -> Vec<Alarm> {
        let mut alarms = Vec::new();
        for (thing, watched) in &self.things {
            for course in &watched.courses {
                let (Some(rule), Some(open)) = (self.rules.get(course.rule), &course.alarm) else {
                    continue;
                };
                let mut alarm = alarm(thing, rule, open);
                alarm.held = watched.cut_off && rule.is_silenced_by_cut;
                alarms.push(alarm);
            }
        }
        alarms.extend(self.recent.iter().rev().cloned());
        alarms
    }

    /// How many bytes the state of all things takes, without the assignments.
    #[must_use]
    pub fn state_bytes(&self) -> usize {
        self.things.iter().map(|(name, watched)| watched.bytes(name)).sum()
    }
}
