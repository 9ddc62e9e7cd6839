//! What the loop does for detection: a sample judged, alarms acted on, events sent on.

use std::time::Duration;

use super::{Detecting, SAVE_EVERY, begins};
use crate::agent::Agent;
use crate::agent::clock::Clock;
use crate::detect::Violation;
use crate::greengrass::link::{Command, NucleusEvent, Token};
use crate::greengrass::{Destination, NucleusError};
use crate::model::{Monotonic, UnixTime};
use crate::quarantine::{Alarm, Event};

impl<C: Clock> Agent<C> {
    /// Judges the sample that was just taken in. `flows`: it has the table of flows.
    pub(in crate::agent) fn judge_sample(&mut self, flows: bool) {
        // both clocks as they were when the sample was begun
        let mut now = self.now();
        let passed = now.monotonic.since(self.sampled_at.unwrap_or(now.monotonic));
        now.monotonic = Monotonic(now.monotonic.0.saturating_sub(passed));
        let passed = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        now.wall = UnixTime(now.wall.0.saturating_sub(passed));
        self.detecting.note_cut(self.warden.cut_off());
        let core = self.reporting.core_reading();
        let events = self.detecting.sample(core, &self.site, &self.custom, flows, now);
        self.violations(&events);
        if self.detecting.next_save <= now.monotonic {
            self.detecting.next_save = now.monotonic.after(SAVE_EVERY);
            self.detecting.save(now);
        }
    }

    /// Keeps alarms over a restart.
    pub(in crate::agent) fn save_alarms(&mut self) {
        let now = self.now();
        self.detecting.save(now);
    }

    /// The configuration changed.
    pub(in crate::agent) fn reconfigure_detection(&mut self) {
        let events = self.detecting.reconfigure(&self.config, self.now());
        self.violations(&events);
        self.save_alarms();
    }

    /// Acts on alarms: cutting off comes first, then what changed is saved and the events go out.
    pub(in crate::agent) fn violations(&mut self, events: &[Violation]) {
        if events.is_empty() {
            return;
        }
        for event in events {
            let said = |words: &str| {
                tracing::warn!(
                    thing = %event.thing, profile = event.profile, behavior = event.behavior,
                    violation = event.violation_id, value = %event.value, "{words}"
                );
            };
            said(event.event.as_str());
            self.act(event);
        }
        self.warden.carry_out(self.now());
        self.detecting.tell(events, self.now());
    }

    fn act(&mut self, event: &Violation) {
        let now = self.now();
        if begins(event) {
            let words = match (event.suppressed, event.quarantine) {
                (true, _) => "nothing: alerts are suppressed".to_owned(),
                (false, false) => "event sent".to_owned(),
                (false, true) => self.quarantine(event),
            };
            self.detecting.note_done(event, words);
        } else {
            // releases only where the profile says so; an alarm that waits for room waits no longer
            let cleared = Event::AlarmCleared {
                thing: event.thing.clone(),
                profile: event.profile.clone(),
                behavior: event.behavior.clone(),
                // the engine judges nothing that our own cut changes
                silenced: false,
            };
            self.warden.event(cleared, now);
        }
    }

    fn quarantine(&mut self, event: &Violation) -> String {
        let identity = self.site.identities().get(&event.thing);
        let trusted = identity.is_some_and(|identity| identity.backs_edge_action && !identity.in_conflict);
        let alarm = Alarm {
            thing: event.thing.clone(),
            profile: event.profile.clone(),
            behavior: event.behavior.clone(),
            violation_id: event.violation_id.clone(),
            release_when_cleared: event.release_when_cleared,
            lasts: match self.config.quarantine.edge_seconds {
                0 => None,
                seconds => Some(Duration::from_secs(seconds.into())),
            },
            trusted,
            known: self.site.known_devices(),
        };
        let refused = self.warden.alarm(alarm, self.now());
        refused.unwrap_or_else(|| "quarantined".to_owned())
    }

    /// Hands events to the nucleus, one at a time so that they stay in order.
    pub(in crate::agent) fn keep_events(&mut self) {
        self.detecting.note_cut(self.warden.cut_off());
        let now = self.clock.monotonic();
        if let Some(payload) = self.detecting.outbox.next_to_send(now) {
            let payload = payload.to_owned();
            let token = self.tokens.next();
            self.detecting.outbox.sending(token);
            self.send_event(token, Destination::IotCore, payload, now);
        }
        if self.detecting.local_in_flight.is_none()
            && let Some(payload) = self.detecting.local.pop_front()
        {
            let token = self.tokens.next();
            self.detecting.local_in_flight = Some(token);
            self.send_event(token, Destination::Local, payload, now);
        }
    }

    fn send_event(&mut self, token: Token, to: Destination, payload: String, now: Monotonic) {
        let command = Command::Publish {
            token,
            to,
            topic: self.detecting.topic.clone(),
            payload: payload.into_bytes(),
        };
        if let Err(error) = self.link.send(command) {
            let error = NucleusError::Failed {
                what: "publish".to_owned(),
                detail: error.to_string(),
            };
            self.detecting.published(token, &Err(error), now);
        }
    }

    /// Takes the answer to an event's publish; gives back what was not for an event.
    pub(in crate::agent) fn event_published(&mut self, event: NucleusEvent) -> Option<NucleusEvent> {
        let now = self.clock.monotonic();
        match &event {
            NucleusEvent::Published { token, result } if self.detecting.published(*token, result, now) => None,
            _ => Some(event),
        }
    }
}

impl Detecting {
    /// When [`Agent::keep_events`] has something to do.
    pub(in crate::agent) fn next_wake(&self) -> Option<Monotonic> {
        self.outbox.next_wake()
    }

    fn published(&mut self, token: Token, result: &Result<(), NucleusError>, now: Monotonic) -> bool {
        if self.local_in_flight.take_if(|sent| *sent == token).is_some() {
            let trouble = result.as_ref().err().map(ToString::to_string);
            match trouble {
                Some(words) => {
                    self.local_lost = self.local_lost.saturating_add(1);
                    if self.trouble.get("local events") != Some(&words) {
                        tracing::warn!(error = words, "an event was not published locally");
                    }
                    self.trouble.insert("local events", words);
                }
                None => {
                    self.trouble.remove("local events");
                }
            }
            return true;
        }
        self.outbox.published(token, result, now)
    }
}
