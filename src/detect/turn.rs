//! From a turn of one behavior to its event and its entry in the list of alarms.

use std::collections::VecDeque;

use super::assignment::OnAlarm;
use super::course::{Course, Open, Turn};
use super::datapoint::{Now, Role};
use super::event::{Alarm, AlarmState, EventType, MetricValue, Violation};
use super::rule::Rule;
use super::stored::SavedBehavior;
use crate::model::ThingName;

/// How many alarms that ended are remembered.
pub(super) const MOST_RECENT: usize = 100;

/// Violation ids: an odd multiplier makes a permutation of all 128-bit numbers, so no two are alike.
#[derive(Debug)]
pub(super) struct Ids {
    pub(super) seed: u128,
    pub(super) next: u128,
}

impl Ids {
    fn next(&mut self) -> String {
        self.next = self.next.wrapping_add(1);
        let mixed = self.next.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        format!("{:032x}", self.seed ^ mixed)
    }
}

/// What one turn of one behavior needs to become an event.
pub(super) struct Context<'a> {
    pub(super) thing: &'a ThingName,
    pub(super) role: Role,
    pub(super) rule: &'a Rule,
    pub(super) now: Now,
    pub(super) threshold: Option<f64>,
}

impl Context<'_> {
    pub(super) fn act(
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
    pub(super) fn invalidate(&self, course: &mut Course, recent: &mut VecDeque<Alarm>) -> Option<Violation> {
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

pub(super) fn alarm(thing: &ThingName, rule: &Rule, open: &Open) -> Alarm {
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

fn remember(recent: &mut VecDeque<Alarm>, alarm: Alarm) {
    if recent.len() >= MOST_RECENT {
        recent.pop_front();
    }
    recent.push_back(alarm);
}

/// Ends an alarm whose behavior is gone.
pub(super) fn invalidated(
    saved: &SavedBehavior,
    thing: &ThingName,
    now: Now,
    recent: &mut VecDeque<Alarm>,
) -> Option<Violation> {
    let (open, document) = (saved.alarm.as_ref()?, saved.document.as_ref()?);
    let name = |key: &str| {
        document
            .get(key)
            .and_then(|text| text.as_str())
            .unwrap_or_default()
            .to_owned()
    };
    remember(
        recent,
        Alarm {
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
        },
    );
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
