//! Values pushed over local pub/sub: the last message of each topic, for as long as it counts. Messages are only kept here;
//! reading one waits for the next sample, so that a flood costs no more than taking the messages in. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::collect::custom::{MAX_CONTENT, parse};
use crate::config::{CustomMetric, MetricSource};
use crate::greengrass::Destination;
use crate::model::{CustomType, CustomValue, Measured, Missing, Monotonic, Reason};

/// Messages per second that a topic may bring over any length of time.
const RATE: u64 = 100;
/// And at once.
const BURST: u64 = 1_000;
/// A topic that brings more is not listened to for so long: its messages would displace those of others, shadows among
/// them, on the way here.
const PAUSE: Duration = Duration::from_secs(60);

/// The topics of all metrics.
#[derive(Debug, Default)]
pub(super) struct Topics(BTreeMap<String, Topic>);

#[derive(Debug)]
struct Topic {
    latest: Option<(Vec<u8>, Monotonic)>,
    /// Messages that may still come, and since when that is so.
    allowance: (u64, Option<Monotonic>),
    paused_until: Option<Monotonic>,
    received: u64,
    /// Refused because too many came.
    flooded: u64,
}

impl Default for Topic {
    fn default() -> Self {
        Self {
            latest: None,
            allowance: (BURST, None),
            paused_until: None,
            received: 0,
            flooded: 0,
        }
    }
}

impl Topics {
    /// Listen to the topics of these metrics. What is known of one that stays is kept.
    pub(super) fn configure(&mut self, metrics: &[CustomMetric]) {
        let mut before = std::mem::take(&mut self.0);
        for metric in metrics {
            if let MetricSource::Topic { topic, .. } = &metric.source {
                let known = before.remove(topic).unwrap_or_default();
                self.0.entry(topic.clone()).or_insert(known);
            }
        }
    }

    /// The topics to be subscribed to.
    pub(super) fn filters(&mut self, now: Monotonic) -> BTreeSet<(Destination, String)> {
        let open = self.0.iter_mut().filter_map(|(name, topic)| {
            if topic.paused_until.is_some_and(|until| until <= now) {
                topic.paused_until = None;
                topic.allowance = (BURST, Some(now));
            }
            topic.paused_until.is_none().then(|| (Destination::Local, name.clone()))
        });
        open.collect()
    }

    /// A message arrived; true when it was for a metric.
    pub(super) fn message(&mut self, name: &str, payload: &[u8], now: Monotonic) -> bool {
        let Some(topic) = self.0.get_mut(name) else {
            return false;
        };
        if topic.paused_until.is_some() || !topic.admit(now) {
            topic.flooded += 1;
            return true;
        }
        topic.received += 1;
        // One byte too many is enough to know.
        let kept = payload.get(..=MAX_CONTENT).unwrap_or(payload);
        topic.latest = Some((kept.to_vec(), now));
        true
    }

    /// The value last pushed on a topic.
    ///
    /// # Errors
    /// There was none, it is too old or not of this type, or too many came.
    pub(super) fn value(
        &self,
        name: &str,
        kind: CustomType,
        max_age: Duration,
        now: Monotonic,
    ) -> Measured<CustomValue> {
        let missing = |reason, detail: String| Err(Missing::new(name, reason, detail));
        let Some(topic) = self.0.get(name) else {
            return missing(Reason::NotCollected, "not listened to".to_owned());
        };
        if topic.paused_until.is_some() {
            let pause = PAUSE.as_secs();
            return missing(
                Reason::Denied,
                format!("more than {RATE} messages a second came; not listened to for {pause} s"),
            );
        }
        match &topic.latest {
            None => missing(Reason::NotCollected, "no message yet".to_owned()),
            Some((_, at)) if now.since(*at) > max_age => missing(
                Reason::Absent,
                format!("no message for more than {} s", max_age.as_secs()),
            ),
            Some((payload, _)) => parse(payload, kind).or_else(|wrong| missing(Reason::Malformed, wrong)),
        }
    }

    /// Messages taken and refused on a topic, for `status`.
    pub(super) fn counts(&self, name: &str) -> Option<(u64, u64)> {
        self.0.get(name).map(|topic| (topic.received, topic.flooded))
    }
}

impl Topic {
    fn admit(&mut self, now: Monotonic) -> bool {
        let (left, since) = self.allowance;
        let passed = since.map_or(Duration::ZERO, |since| now.since(since));
        let millis = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        let more = millis.saturating_mul(RATE) / 1000;
        // Time too short for one more goes on running.
        let since = if more > 0 || since.is_none() { Some(now) } else { since };
        let left = left.saturating_add(more).min(BURST);
        self.allowance = (left.saturating_sub(1), since);
        if left == 0 {
            self.paused_until = Some(now.after(PAUSE));
        }
        left > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: Duration = Duration::from_secs(600);
    const TOPIC: &str = "edge-warden/metrics/depth";

    fn at(millis: u64) -> Monotonic {
        Monotonic(Duration::from_millis(millis))
    }

    fn topics() -> Topics {
        let metric = serde_json::json!({"customMetrics": [
            {"name": "depth", "source": "topic"},
            {"name": "as_list", "source": "topic", "topic": TOPIC, "type": "number-list"},
        ]});
        let config = crate::config::RawConfig::from_value(metric)
            .check(crate::config::Mode::Greengrass)
            .unwrap();
        let mut topics = Topics::default();
        topics.configure(&config.custom_metrics);
        topics
    }

    fn value(topics: &Topics, now: Monotonic) -> Measured<CustomValue> {
        topics.value(TOPIC, CustomType::Number, AGE, now)
    }

    #[test]
    fn the_last_message_counts_until_it_is_too_old() {
        let mut topics = topics();
        assert_eq!(topics.filters(at(0)), [(Destination::Local, TOPIC.to_owned())].into());
        assert_eq!(value(&topics, at(0)).unwrap_err().reason, Reason::NotCollected);
        assert!(topics.message(TOPIC, b"1", at(1_000)));
        assert!(topics.message(TOPIC, b"2", at(2_000)));
        assert!(!topics.message("edge-warden/metrics/other", b"2", at(2_000)));
        assert_eq!(value(&topics, at(602_000)), Ok(CustomValue::Number(2.0)));
        let list = topics.value(TOPIC, CustomType::NumberList, AGE, at(2_000));
        assert_eq!(
            list,
            Ok(CustomValue::NumberList(vec![2.0])),
            "two metrics may share a topic"
        );
        let old = value(&topics, at(602_001)).unwrap_err();
        assert_eq!(old.detail, "no message for more than 600 s");
        assert!(topics.message(TOPIC, b"NaN", at(603_000)));
        assert_eq!(value(&topics, at(603_000)).unwrap_err().reason, Reason::Malformed);
        assert!(topics.message(TOPIC, &vec![b'1'; 1 << 20], at(604_000)));
        assert!(value(&topics, at(604_000)).unwrap_err().detail.contains("65536"));
    }

    #[test]
    fn a_flood_is_bounded_counted_and_left_alone_for_a_minute() {
        let mut topics = topics();
        for number in 0..1_000_000_u64 {
            assert!(topics.message(TOPIC, b"1", at(number / 1_000)));
        }
        // 1,000 at once and 100 a second over the first moments.
        let (received, flooded) = topics.counts(TOPIC).unwrap();
        assert!((1_000..=1_001).contains(&received), "{received}");
        assert_eq!(received + flooded, 1_000_000);
        assert!(
            value(&topics, at(1_000))
                .unwrap_err()
                .detail
                .contains("100 messages a second")
        );
        assert!(topics.filters(at(60_000)).is_empty());
        assert_eq!(topics.filters(at(61_002)).len(), 1);
        assert!(topics.message(TOPIC, b"5", at(61_003)));
        assert_eq!(value(&topics, at(61_003)), Ok(CustomValue::Number(5.0)));
    }

    #[test]
    fn what_stays_under_the_rate_is_never_refused() {
        let mut topics = topics();
        for number in 0..100_000_u64 {
            topics.message(TOPIC, b"1", at(number * 10));
        }
        assert_eq!(topics.counts(TOPIC), Some((100_000, 0)));
    }

    #[test]
    fn a_changed_configuration_keeps_what_stays() {
        let mut topics = topics();
        topics.message(TOPIC, b"1", at(0));
        let config = crate::config::RawConfig::from_value(serde_json::json!({"customMetrics": [
            {"name": "depth", "source": "topic", "maxAgeSeconds": 10}, {"name": "new", "source": "topic"}]}));
        topics.configure(&config.check(crate::config::Mode::Greengrass).unwrap().custom_metrics);
        assert!(value(&topics, at(1)).is_ok());
        assert_eq!(topics.filters(at(1)).len(), 2);
        topics.configure(&[]);
        assert!(topics.filters(at(1)).is_empty());
        assert!(!topics.message(TOPIC, b"1", at(2)));
    }
}
