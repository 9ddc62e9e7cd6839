//! The state of every behavior of every thing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::assignment::{Assignment, OnAlarm};
use super::course::{Course, Latest, Open, Turn};
use super::datapoint::{Datapoints, Now, Role, Subject, Value};
use super::event::{Alarm, AlarmState, EventType, MetricValue, Violation};
use super::judge;
use super::metric::Metric;
use super::profile::{Behavior, Limit, Statistic};
use super::stored::{Saved, SavedBehavior};
use super::window::Window;
use crate::model::{Monotonic, ThingName};

/// The most pairs of thing and behavior that are judged. Further things are not, and are counted: names may come from
/// the network, memory must not follow.
pub(super) const MOST_COURSES: usize = 20_000;

/// How many alarms that ended are remembered.
pub(super) const MOST_RECENT: usize = 100;

/// Silence after which an alarm is invalid: two days (developer guide, "Detect concepts").
const SILENCE: Duration = Duration::from_hours(48);

/// Over what deltas are summed where a behavior has no `durationSeconds`.
const DEFAULT_WINDOW_SECONDS: u32 = 300;

/// How many things a percentile needs. With two, one of them is always above the other.
const FEWEST_FOR_PERCENTILE: usize = 3;

/// One behavior of one assignment.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) assignment: usize,
    pub(super) profile: String,
    pub(super) behavior: Arc<Behavior>,
    pub(super) fingerprint: u64,
    on_alarm: OnAlarm,
    release_when_cleared: bool,
    /// Which of a thing's windows its sums come from.
    window: usize,
    /// True when a cut by our own quarantine changes what is measured.
    is_silenced_by_cut: bool,
}

/// What the windows of a thing are for: behaviors with the same key share one.
#[derive(Debug, PartialEq)]
struct WindowKey {
    metric: Metric,
    duration: u64,
    is_silenced_by_cut: bool,
}

/// One thing.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) role: Role,
    pub(super) cut_off: bool,
    pub(super) courses: Vec<Course>,
    windows: BTreeMap<usize, Window>,
}

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

/// Violation ids: an odd multiplier makes a permutation of all 128-bit numbers, so no two are alike.
#[derive(Debug)]
struct Ids {
    seed: u128,
    next: u128,
}

impl Ids {
    fn next(&mut self) -> String {
        self.next = self.next.wrapping_add(1);
        let mixed = self.next.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        format!("{:032x}", self.seed ^ mixed)
    }
}

impl Rule {
    fn window_seconds(&self) -> u32 {
        self.behavior
            .criteria
            .duration_seconds
            .unwrap_or(DEFAULT_WINDOW_SECONDS)
    }

    fn window_millis(&self) -> u64 {
        u64::from(self.window_seconds()).saturating_mul(1000)
    }

    fn statistic(&self) -> Option<Statistic> {
        match self.behavior.criteria.limit {
            Limit::Percentile(statistic) => Some(statistic),
            _ => None,
        }
    }
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
            let is_silenced_by_cut = !counts_before_the_cut(behavior);
            let mut rule = Rule {
                assignment: self.assignments.len(),
                profile: assignment.profile().name().to_owned(),
                fingerprint: behavior.fingerprint(),
                behavior: Arc::clone(behavior),
                on_alarm: assignment.on_alarm(),
                release_when_cleared: assignment.release_when_cleared(),
                window: 0,
                is_silenced_by_cut,
            };
            let key = WindowKey {
                metric: behavior.metric.clone(),
                duration: rule.window_millis(),
                is_silenced_by_cut,
            };
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
        let watched = Watched {
            role,
            cut_off: false,
            courses,
            windows: BTreeMap::new(),
        };
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
        self.things.retain(|_, watched| {
            watched
                .courses
                .iter()
                .any(|course| course.alarm.is_some() || !is_silent(course, at))
        });
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
        let window = |window: &Window| size_of::<(usize, Window)>().saturating_add(window.heap_bytes());
        let open = |course: &Course| course.alarm.as_ref().map_or(0, |_| size_of::<Open>());
        let thing = |(name, watched): (&ThingName, &Watched)| {
            let courses = watched.courses.capacity().saturating_mul(size_of::<Course>());
            let alarms: usize = watched.courses.iter().map(open).sum();
            let windows: usize = watched.windows.values().map(window).sum();
            size_of::<(ThingName, Watched)>() + name.as_str().len() + courses + alarms + windows
        };
        self.things.iter().map(thing).sum()
    }

    pub(super) fn invalidated(&mut self, saved: &SavedBehavior, thing: &ThingName, now: Now) -> Option<Violation> {
        let (open, document) = (saved.alarm.as_ref()?, saved.document.as_ref()?);
        let name = |key: &str| {
            document
                .get(key)
                .and_then(|text| text.as_str())
                .unwrap_or_default()
                .to_owned()
        };
        self.remember(Alarm {
            thing_name: thing.clone(),
            security_profile_name: saved.profile.clone(),
            behavior: saved.behavior.clone(),
            metric: name("metric"),
            violation_id: open.violation_id.clone(),
            state: AlarmState::Invalidated,
            since: open.since,
            until: Some(now.wall),
            last_value: open.last_value.clone(),
            last_violation: open.last_violation,
            normal: "the behavior was changed or removed".to_owned(),
            window_seconds: None,
            suppressed: saved.suppressed,
            held: false,
        });
        Some(Violation {
            event: EventType::AlarmInvalidated,
            time: now.wall,
            thing: thing.clone(),
            profile: saved.profile.clone(),
            behavior: saved.behavior.clone(),
            violation_id: open.violation_id.clone(),
            value: open.last_value.clone(),
            suppressed: saved.suppressed,
            quarantine: false,
            release_when_cleared: false,
            document: document.clone().into(),
        })
    }

    fn remember(&mut self, alarm: Alarm) {
        remember(&mut self.recent, alarm);
    }
}

fn remember(recent: &mut VecDeque<Alarm>, alarm: Alarm) {
    if recent.len() >= MOST_RECENT {
        recent.pop_front();
    }
    recent.push_back(alarm);
}

impl Watched {
    /// Adds this sample's deltas to the windows; which of them moved.
    fn move_windows(
        &mut self,
        rules: &[Rule],
        keys: &[WindowKey],
        datapoints: &Datapoints,
        at: u64,
    ) -> BTreeSet<usize> {
        let mut moved = BTreeSet::new();
        let used: BTreeSet<usize> = self
            .courses
            .iter()
            .filter_map(|course| rules.get(course.rule))
            .map(|rule| rule.window)
            .collect();
        for index in used {
            let Some(key) = keys.get(index) else { continue };
            if self.cut_off && key.is_silenced_by_cut {
                self.windows.remove(&index);
                continue;
            }
            let value = datapoints.get(key.metric.name());
            let Some(Value::Delta { amount, over }) = value.filter(|value| judge::fits(value, &key.metric)) else {
                continue;
            };
            let start = at.saturating_sub(duration_millis(*over));
            let window = self.windows.entry(index).or_default();
            if window.push(start, at, *amount, key.duration) {
                moved.insert(index);
            }
        }
        moved
    }
}

/// A value that was judged, to be shown only when somebody wants to see it.
enum Judged<'a> {
    Number(f64),
    List(&'a Value),
}

impl Judged<'_> {
    fn shown(&self, behavior: &Behavior) -> MetricValue {
        match self {
            Self::Number(number) => judge::shown_number(*number, &behavior.metric),
            Self::List(value) => judge::shown_list(value, behavior),
        }
    }
}

/// The verdict of this sample on one behavior, where it gives one by itself. A value to be compared with a percentile is
/// kept for the tick. `window` is there when this sample moved it.
fn judge_now<'a>(
    course: &mut Course,
    rule: &Rule,
    value: &'a Value,
    window: Option<&Window>,
    at: u64,
) -> Option<(bool, Judged<'a>)> {
    let criteria = &rule.behavior.criteria;
    let (number, is_full, is_sum) = match value {
        Value::Delta { .. } => {
            let Some(window) = window else {
                course.latest = None;
                return None;
            };
            (window.sum(), window.is_full(at, rule.window_millis()), true)
        }
        Value::Gauge(number) => (*number, true, false),
        list => return Some((judge::breaks(list, &rule.behavior), Judged::List(list))),
    };
    let Limit::Number(limit) = criteria.limit else {
        let latest = Latest {
            at,
            value: number,
            is_sum,
            is_new: true,
        };
        course.latest = is_full.then_some(latest);
        return None;
    };
    let violates = !criteria.operator.holds(number, limit);
    // a sum can only grow: an upper limit once broken stays so, everything else waits for the whole window
    let is_certain = is_full || (violates && criteria.operator.is_upper());
    if !is_certain || is_sum && !course.is_due(at, rule.window_millis(), violates) {
        return None;
    }
    if is_sum {
        course.last = Some((at, violates));
    }
    Some((violates, Judged::Number(number)))
}

/// The verdict on a value that waited for the percentile.
fn judge_latest(course: &mut Course, rule: &Rule, threshold: Option<f64>, at: u64) -> Option<(bool, f64)> {
    let latest = course.latest.as_mut().filter(|latest| latest.is_new)?;
    latest.is_new = false;
    let (value, is_sum) = (latest.value, latest.is_sum);
    let violates = !rule.behavior.criteria.operator.holds(value, threshold?);
    if is_sum {
        if !course.is_due(at, rule.window_millis(), violates) {
            return None;
        }
        course.last = Some((at, violates));
    }
    Some((violates, value))
}

/// What one turn of one behavior needs to become an event.
struct Context<'a> {
    thing: &'a ThingName,
    role: Role,
    rule: &'a Rule,
    now: Now,
    threshold: Option<f64>,
}

impl Context<'_> {
    fn act(
        &self,
        course: &mut Course,
        turn: Turn,
        value: impl FnOnce() -> MetricValue,
        ids: &mut Ids,
        recent: &mut VecDeque<Alarm>,
    ) -> Option<Violation> {
        match turn {
            Turn::Nothing => None,
            Turn::Lasts => {
                let open = course.alarm.as_mut()?;
                open.last_value = value();
                open.last_violation = self.now.wall;
                open.threshold = self.threshold;
                None
            }
            Turn::Alarm => {
                let value = value();
                let open = Open {
                    violation_id: ids.next(),
                    since: self.now.wall,
                    last_value: value.clone(),
                    last_violation: self.now.wall,
                    threshold: self.threshold,
                };
                let event = self.event(EventType::InAlarm, &open.violation_id, value);
                course.alarm = Some(Box::new(open));
                Some(event)
            }
            Turn::Cleared => {
                let open = course.alarm.take()?;
                remember(recent, self.ended(&open, AlarmState::Cleared));
                Some(self.event(EventType::AlarmCleared, &open.violation_id, value()))
            }
        }
    }

    /// Ends whatever goes on for want of datapoints.
    fn invalidate(&self, course: &mut Course, recent: &mut VecDeque<Alarm>) -> Option<Violation> {
        let open = course.alarm.take();
        course.reset();
        let open = open?;
        remember(recent, self.ended(&open, AlarmState::Invalidated));
        Some(self.event(EventType::AlarmInvalidated, &open.violation_id, open.last_value.clone()))
    }

    fn ended(&self, open: &Open, state: AlarmState) -> Alarm {
        let mut alarm = alarm(self.thing, self.rule, open);
        alarm.state = state;
        alarm.until = Some(self.now.wall);
        alarm
    }

    fn event(&self, event: EventType, violation_id: &str, value: MetricValue) -> Violation {
        let rule = self.rule;
        let suppressed = rule.behavior.suppress_alerts;
        Violation {
            event,
            time: self.now.wall,
            thing: self.thing.clone(),
            profile: rule.profile.clone(),
            behavior: rule.behavior.name.clone(),
            violation_id: violation_id.to_owned(),
            value,
            suppressed,
            quarantine: rule.on_alarm == OnAlarm::Quarantine && self.role == Role::Local && !suppressed,
            release_when_cleared: rule.release_when_cleared,
            document: rule.behavior.document.clone(),
        }
    }
}

fn alarm(thing: &ThingName, rule: &Rule, open: &Open) -> Alarm {
    let behavior = &rule.behavior;
    let is_windowed = behavior.criteria.duration_seconds.is_some();
    Alarm {
        thing_name: thing.clone(),
        security_profile_name: rule.profile.clone(),
        behavior: behavior.name.clone(),
        metric: behavior.metric.name().to_owned(),
        violation_id: open.violation_id.clone(),
        state: AlarmState::Active,
        since: open.since,
        until: None,
        last_value: open.last_value.clone(),
        last_violation: open.last_violation,
        normal: behavior.normal(open.threshold),
        window_seconds: is_windowed.then(|| rule.window_seconds()),
        suppressed: behavior.suppress_alerts,
        held: false,
    }
}

/// True for what says something about a thing even while it is cut off: frames it sends are counted before they are
/// dropped, and a flood is a flood. That too little is sent is our own doing then.
fn counts_before_the_cut(behavior: &Behavior) -> bool {
    let is_static = matches!(behavior.criteria.limit, Limit::Number(_));
    let is_sent = matches!(behavior.metric, Metric::BytesOut | Metric::PacketsOut);
    is_static && is_sent && behavior.criteria.operator.is_upper()
}

fn is_silent(course: &Course, at: u64) -> bool {
    let at = i64::try_from(at).unwrap_or(i64::MAX);
    u128::from(at.saturating_sub(course.heard).unsigned_abs()) > SILENCE.as_millis()
}

pub(super) fn millis(at: Monotonic) -> u64 {
    duration_millis(at.0)
}

fn duration_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
