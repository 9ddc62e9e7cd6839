//! Custom metrics: what the configuration names besides the metrics of every report.
//!
//! ```text
//!  Sensors (in a process of their own) ──▶ CustomSample ──────┐
//!  local pub/sub ──▶ topics ──────────────────────────────────┼─▶ CustomMetrics ──▶ values of the core, of each thing
//!  site, reports: what they know and what they lack ──────────┘         │                (reports, detection)
//!                                                                        └─▶ status, log: what is missing, and why
//! ```

mod command;
mod helper;
mod poked;
mod sensors;
#[cfg(test)]
mod tests;
mod topics;
mod watched;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::site::Site;
use crate::collect::HostSample;
use crate::collect::custom::Login;
use crate::config::{Config, CustomMetric, MetricSource};
use crate::greengrass::Destination;
use crate::model::{CustomType, CustomValue, Measured, Missing, Monotonic, Reason, ThingName};

pub(super) use helper::Source;
pub use helper::{Helper, HelperError, serve};
pub(super) use sensors::{CustomAsk, CustomSample};
use sensors::{count, ip_value, text_value};
use topics::Topics;

/// The custom metrics as of the last sample.
#[derive(Debug)]
pub(super) struct CustomMetrics {
    metrics: Arc<[CustomMetric]>,
    topics: Topics,
    /// The core's, by name.
    values: BTreeMap<String, Measured<CustomValue>>,
    /// Per thing and name, for those each thing has.
    of_things: BTreeMap<ThingName, BTreeMap<String, CustomValue>>,
    /// Why a metric that each thing has is missing for all of them.
    things_lack: BTreeMap<String, Missing>,
    logins: Option<BTreeSet<Login>>,
    new_logins: BTreeSet<Login>,
    /// By metric and file: how often it had changed at the last report, and now.
    changes_reported: BTreeMap<String, BTreeMap<PathBuf, u64>>,
    changes: BTreeMap<String, BTreeMap<PathBuf, u64>>,
    /// What was said in the log to be missing.
    said: BTreeMap<String, Reason>,
}

impl CustomMetrics {
    pub(super) fn new(config: &Config) -> Self {
        let mut metrics = Self {
            metrics: Arc::new([]),
            topics: Topics::default(),
            values: BTreeMap::new(),
            of_things: BTreeMap::new(),
            things_lack: BTreeMap::new(),
            logins: None,
            new_logins: BTreeSet::new(),
            changes_reported: BTreeMap::new(),
            changes: BTreeMap::new(),
            said: BTreeMap::new(),
        };
        metrics.reconfigure(config);
        metrics
    }

    /// Takes a changed configuration over. Values under names that stay count until the next sample.
    pub(super) fn reconfigure(&mut self, config: &Config) {
        if *self.metrics == *config.custom_metrics {
            return;
        }
        let stays = |name: &str| {
            let of = |metrics: &[CustomMetric]| metrics.iter().find(|metric| metric.name.as_str() == name).cloned();
            of(&config.custom_metrics).is_some_and(|new| of(&self.metrics) == Some(new))
        };
        self.values.retain(|name, _| stays(name));
        self.said.retain(|name, _| stays(name));
        self.things_lack.retain(|name, _| stays(name));
        self.changes.retain(|name, _| stays(name));
        self.changes_reported.retain(|name, _| stays(name));
        for values in self.of_things.values_mut() {
            values.retain(|name, _| stays(name));
        }
        self.topics.configure(&config.custom_metrics);
        self.metrics = config.custom_metrics.clone().into();
    }

    /// What the next sample is to bring. `second`: how long a second of the agent's clock really takes.
    pub(super) fn ask(&self, second: Duration) -> CustomAsk {
        CustomAsk {
            metrics: Arc::clone(&self.metrics),
            second,
        }
    }

    /// The topics on which values are pushed.
    pub(super) fn filters(&mut self, now: Monotonic) -> BTreeSet<(Destination, String)> {
        self.topics.filters(now)
    }

    /// A message arrived; true when it was for a metric.
    pub(super) fn message(&mut self, from: Destination, topic: &str, payload: &[u8], now: Monotonic) -> bool {
        from == Destination::Local && self.topics.message(topic, payload, now)
    }

    /// Takes a sample in. `failing`: by name, what the reports and the site could not measure.
    pub(super) fn observe(
        &mut self,
        sample: CustomSample,
        host: &HostSample,
        site: &Site,
        mut failing: BTreeSet<String>,
        now: Monotonic,
    ) {
        if let Some(Ok(logins)) = &sample.logins {
            if let Some(before) = &self.logins {
                self.new_logins.extend(logins.difference(before).cloned());
            }
            self.logins = Some(logins.clone());
        }
        let metrics = Arc::clone(&self.metrics);
        let mut values = sample.values;
        for (name, changes) in sample.changes {
            if let Ok(changes) = &changes {
                self.changes.insert(name.clone(), changes.clone());
            } else if let Err(missing) = changes {
                values.insert(name, Err(missing));
            }
        }
        self.of_things.clear();
        self.things_lack.clear();
        let mut health = Vec::new();
        for metric in metrics.iter() {
            let name = metric.name.as_str();
            let value = match &metric.source {
                MetricSource::Topic { topic, max_age_seconds } => {
                    let max_age = Duration::from_secs((*max_age_seconds).into());
                    self.topics.value(topic, metric.kind, max_age, now)
                }
                MetricSource::RemoteLogins => match &sample.logins {
                    Some(logins) => logins.clone().and_then(|logins| logins_value(&logins, metric.kind)),
                    None => continue,
                },
                MetricSource::NewRemoteLogins => match &sample.logins {
                    Some(Ok(_)) => logins_value(&self.new_logins, metric.kind),
                    Some(Err(missing)) => Err(missing.clone()),
                    None => continue,
                },
                MetricSource::FileChanges { .. } if !values.contains_key(name) => self.changes_value(name, metric.kind),
                MetricSource::ConnectedDevices => match &host.sockets.tcp {
                    Ok(_) => text_value(site.connected(), metric.kind),
                    Err(missing) => Err(missing.clone()),
                },
                MetricSource::UnknownDevices => unknown_value(site, metric.kind),
                MetricSource::ConntrackUsage => site.conntrack_usage().map(CustomValue::Number),
                MetricSource::UnansweredConnections | MetricSource::DistinctDestinations => {
                    self.observe_things(metric, site);
                    continue;
                }
                MetricSource::AgentHealth => {
                    health.push(metric);
                    continue;
                }
                _ => continue,
            };
            values.insert(name.to_owned(), value);
        }
        let lacking = values
            .iter()
            .filter_map(|(name, value)| Some((name, value.as_ref().err()?)));
        let lacking = lacking.chain(&self.things_lack);
        let news = lacking.filter(|(_, missing)| missing.reason != Reason::NotCollected);
        failing.extend(news.map(|(name, _)| name.clone()));
        for metric in health {
            let value = text_value(failing.clone(), metric.kind);
            values.insert(metric.name.as_str().to_owned(), value);
        }
        self.values = values;
        self.say();
    }

    fn observe_things(&mut self, metric: &CustomMetric, site: &Site) {
        let name = metric.name.as_str();
        for thing in site.reporting_things() {
            match site.flow_counts(&thing) {
                Ok(counts) => {
                    let number = match metric.source {
                        MetricSource::UnansweredConnections => counts.unanswered,
                        _ => counts.destinations,
                    };
                    let number = usize::try_from(number).unwrap_or(usize::MAX);
                    let values = self.of_things.entry(thing).or_default();
                    values.insert(name.to_owned(), count(number));
                }
                Err(missing) => {
                    self.things_lack.insert(name.to_owned(), missing);
                }
            }
        }
    }

    /// How often watched files changed since the last report, or which did.
    fn changes_value(&self, name: &str, kind: CustomType) -> Measured<CustomValue> {
        let Some(changes) = self.changes.get(name) else {
            return Err(Missing::new(name, Reason::NotCollected, "not looked at yet"));
        };
        let reported = self.changes_reported.get(name);
        let since = changes.iter().filter_map(|(path, changes)| {
            let before = reported.and_then(|reported| reported.get(path)).copied().unwrap_or(0);
            // Counted anew after a change of the configuration.
            let new = changes.checked_sub(before).unwrap_or(*changes);
            (new > 0).then_some((path, new))
        });
        if kind == CustomType::StringList {
            return text_value(since.map(|(path, _)| path.to_string_lossy()).collect(), kind);
        }
        let sum = since.fold(0_u64, |sum, (_, new)| sum.saturating_add(new));
        Ok(count(usize::try_from(sum).unwrap_or(usize::MAX)))
    }

    /// Says once per change what is missing.
    fn say(&mut self) {
        let mut now: BTreeMap<String, Reason> = BTreeMap::new();
        let missing = self
            .values
            .iter()
            .filter_map(|(name, value)| Some((name, value.as_ref().err()?)));
        for (name, missing) in missing.chain(&self.things_lack) {
            if missing.reason == Reason::NotCollected {
                continue;
            }
            now.insert(name.clone(), missing.reason);
            if self.said.get(name) != Some(&missing.reason) {
                tracing::warn!(metric = name, "left out of the reports: {missing}");
            }
        }
        for name in self.said.keys().filter(|name| !now.contains_key(*name)) {
            tracing::info!(metric = name, "measured again");
        }
        self.said = now;
    }

    /// The values of one thing, the core's for `None`.
    pub(super) fn of(&self, thing: Option<&ThingName>) -> BTreeMap<String, CustomValue> {
        match thing {
            Some(thing) => self.of_things.get(thing).cloned().unwrap_or_default(),
            None => {
                let measured = self
                    .values
                    .iter()
                    .filter_map(|(name, value)| Some((name, value.as_ref().ok()?)));
                measured.map(|(name, value)| (name.clone(), value.clone())).collect()
            }
        }
    }

    /// Why metrics of one thing are missing, by name; the core's for `None`.
    pub(super) fn missing(&self, thing: Option<&ThingName>) -> BTreeMap<String, String> {
        let words = |(name, missing): (&String, &Missing)| (name.clone(), missing.to_string());
        match thing {
            Some(_) => self.things_lack.iter().map(words).collect(),
            None => {
                let missing = self
                    .values
                    .iter()
                    .filter_map(|(name, value)| Some((name, value.as_ref().err()?)));
                missing.map(words).collect()
            }
        }
    }

    /// A report of the core was made: what counts since then starts over.
    pub(super) fn reported(&mut self) {
        self.new_logins.clear();
        self.changes_reported = self.changes.clone();
        let metrics = Arc::clone(&self.metrics);
        for metric in metrics.iter() {
            let name = metric.name.as_str();
            let measured = matches!(self.values.get(name), Some(Ok(_)));
            let value = match metric.source {
                MetricSource::NewRemoteLogins => logins_value(&self.new_logins, metric.kind),
                MetricSource::FileChanges { .. } => self.changes_value(name, metric.kind),
                _ => continue,
            };
            if measured {
                self.values.insert(name.to_owned(), value);
            }
        }
    }

    /// For `status`.
    pub(super) fn status(&self) -> Value {
        let mut rows = serde_json::Map::new();
        for metric in self.metrics.iter() {
            let name = metric.name.as_str();
            let mut row = match (self.values.get(name), self.things_lack.get(name)) {
                (Some(Ok(value)), _) => json!(value),
                (Some(Err(missing)), _) | (None, Some(missing)) => json!({"missing": missing.to_string()}),
                (None, None) if metric.source.is_per_thing() => {
                    let has = self.of_things.values().filter(|values| values.contains_key(name));
                    json!({"things": has.count()})
                }
                (None, None) => json!({"missing": "not measured yet"}),
            };
            if let MetricSource::Topic { topic, .. } = &metric.source
                && let (Some((received, flooded)), Some(row)) = (self.topics.counts(topic), row.as_object_mut())
            {
                row.insert("messages".to_owned(), json!({"taken": received, "refused": flooded}));
            }
            rows.insert(name.to_owned(), row);
        }
        Value::Object(rows)
    }
}

/// Logins as a number, or the addresses they are from. One from a host that gave only its name is in no list.
fn logins_value(logins: &BTreeSet<Login>, kind: CustomType) -> Measured<CustomValue> {
    match kind {
        CustomType::IpAddressList => ip_value(logins.iter().filter_map(|login| login.from).collect(), kind),
        _ => Ok(count(logins.len())),
    }
}

fn unknown_value(site: &Site, kind: CustomType) -> Measured<CustomValue> {
    let (listed, more) = site.unknown_devices();
    if kind == CustomType::StringList {
        if more > 0 {
            let detail = format!("{more} more devices than are listed");
            return Err(Missing::new("unknown devices", Reason::Malformed, detail));
        }
        return text_value(listed.iter().map(ToString::to_string).collect(), kind);
    }
    let more = usize::try_from(more).unwrap_or(usize::MAX);
    Ok(count(listed.len().saturating_add(more)))
}
