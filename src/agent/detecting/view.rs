//! Detection for people: `alarms`, and its part of `status`.

use serde_json::{Value, json};

use super::Detecting;
use crate::agent::warden::Warden;
use crate::detect::{Alarm, AlarmState};

impl Detecting {
    /// Everything `edge-warden alarms --json` prints: active alarms, and those that ended lately, newest first.
    pub(in crate::agent) fn alarms(&self, warden: &Warden) -> Value {
        let (active, recent): (Vec<Alarm>, Vec<Alarm>) = self
            .engine
            .alarms()
            .into_iter()
            .partition(|alarm| alarm.state == AlarmState::Active);
        let rows = |alarms: Vec<Alarm>| -> Vec<Value> {
            alarms
                .into_iter()
                .map(|alarm| {
                    let done = self.done(&alarm, warden);
                    let mut row = json!(alarm);
                    if let Some(row) = row.as_object_mut() {
                        row.insert("done".to_owned(), json!(done));
                    }
                    row
                })
                .collect()
        };
        json!({"active": rows(active), "recent": rows(recent), "events": self.outbox.status()})
    }

    /// What was done about an alarm, as it stands now; `None` when that was before a restart and is over.
    fn done(&self, alarm: &Alarm, warden: &Warden) -> Option<String> {
        let standing = warden.edge_standing(&alarm.thing_name, &alarm.security_profile_name, &alarm.behavior);
        let remembered = || self.done.get(&alarm.violation_id).cloned();
        match alarm.state {
            AlarmState::Active => standing.or_else(remembered),
            AlarmState::Cleared | AlarmState::Invalidated => remembered(),
        }
    }

    /// For `status`.
    pub(in crate::agent) fn status(&self) -> Value {
        let active = self
            .engine
            .alarms()
            .iter()
            .filter(|alarm| alarm.state == AlarmState::Active)
            .count();
        let profiles: Vec<Value> = self
            .settings
            .profiles
            .iter()
            .map(|entry| {
                let behaviors = entry.profile.get("behaviors").and_then(Value::as_array);
                json!({
                    "name": entry.profile.get("securityProfileName"),
                    "behaviors": behaviors.map_or(0, Vec::len),
                    "targets": entry.targets,
                    "onAlarm": entry.on_alarm,
                })
            })
            .collect();
        json!({
            "profiles": profiles,
            "lastSample": self.judged,
            "activeAlarms": active,
            "events": self.outbox.status(),
            "localEventsLost": self.local_lost,
            "recording": self.recorder.status(),
            "thingsNotJudged": self.unwatched,
            "warnings": self.warnings,
            "trouble": self.trouble,
        })
    }
}
