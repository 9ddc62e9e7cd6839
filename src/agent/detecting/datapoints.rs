//! From readings to datapoints. Pure. What was not measured is not there; it is never zero.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::detect::{Datapoints, Value};
use crate::model::{Connection, Counters, CustomValue, ListeningPort, Measured, Monotonic, ThingName, ThingReading};

/// What totals were at each thing's last good sample.
#[derive(Debug, Default)]
pub(super) struct Baselines(BTreeMap<ThingName, (Counters, Monotonic)>);

impl Baselines {
    /// What was added to the totals since the last sample that had them, and the time it took. Nothing the first time,
    /// and when the totals began anew.
    pub(super) fn added(
        &mut self,
        thing: &ThingName,
        totals: &Measured<Counters>,
        at: Monotonic,
    ) -> Option<(Counters, Duration)> {
        let totals = *totals.as_ref().ok()?;
        let Some((before, since)) = self.0.get_mut(thing) else {
            self.0.insert(thing.clone(), (totals, at));
            return None;
        };
        let over = at.since(*since);
        if over.is_zero() {
            return None; // goes into the next one
        }
        let added = totals.since(*before);
        (*before, *since) = (totals, at);
        Some((added?, over))
    }

    /// Forgets things that are gone.
    pub(super) fn retain(&mut self, keep: impl Fn(&ThingName) -> bool) {
        self.0.retain(|thing, _| keep(thing));
    }
}

/// The datapoints of one thing. `added`: what [`Baselines::added`] gave for its traffic.
pub(super) fn datapoints(reading: &ThingReading, added: Option<(Counters, Duration)>) -> Datapoints {
    let mut found = custom(&reading.custom);
    let mut put = |name: &str, value: Value| {
        found.insert(name.to_owned(), value);
    };
    if let Some((added, over)) = added {
        #[allow(clippy::cast_precision_loss, reason = "traffic of a sample is far below 2^53")]
        let delta = |amount: u64| Value::Delta {
            amount: amount as f64,
            over,
        };
        put("aws:all-bytes-in", delta(added.bytes_in));
        put("aws:all-bytes-out", delta(added.bytes_out));
        put("aws:all-packets-in", delta(added.packets_in));
        put("aws:all-packets-out", delta(added.packets_out));
    }
    if let (Ok(connections), Ok(total)) = (&reading.established, reading.established_total()) {
        put("aws:num-established-tcp-connections", Value::Gauge(count(total)));
        put("aws:destination-ip-addresses", destinations(connections));
    }
    if let Ok(ports) = &reading.listening_tcp {
        put("aws:num-listening-tcp-ports", listening(ports));
        put("aws:listening-tcp-ports", numbers(ports));
    }
    if let Ok(ports) = &reading.listening_udp {
        put("aws:num-listening-udp-ports", listening(ports));
        put("aws:listening-udp-ports", numbers(ports));
    }
    found
}

/// Custom metrics by name.
fn custom(custom: &BTreeMap<String, CustomValue>) -> Datapoints {
    let value = |value: &CustomValue| match value {
        CustomValue::Number(number) => Value::Gauge(*number),
        CustomValue::NumberList(list) => Value::Numbers(list.clone()),
        CustomValue::StringList(list) => Value::Strings(list.clone()),
        CustomValue::IpList(list) => Value::Addresses(list.clone()),
    };
    custom.iter().map(|(name, of)| (name.clone(), value(of))).collect()
}

fn count(total: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "no host has 2^53 sockets")]
    let number = total as f64;
    number
}

/// As a report counts them: each (port, interface) once.
fn listening(ports: &[ListeningPort]) -> Value {
    let each: BTreeSet<&ListeningPort> = ports.iter().collect();
    Value::Gauge(count(u64::try_from(each.len()).unwrap_or(u64::MAX)))
}

fn numbers(ports: &[ListeningPort]) -> Value {
    let each: BTreeSet<u16> = ports.iter().map(|port| port.port).collect();
    Value::Ports(each.into_iter().collect())
}

fn destinations(connections: &[Connection]) -> Value {
    let each: BTreeSet<_> = connections
        .iter()
        .map(|connection| connection.remote.ip().to_canonical())
        .collect();
    Value::Addresses(each.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Missing, Reason};

    fn at(seconds: u64) -> Monotonic {
        Monotonic(Duration::from_secs(seconds))
    }

    fn totals(bytes_out: u64) -> Measured<Counters> {
        Ok(Counters {
            bytes_out,
            ..Counters::default()
        })
    }

    fn missing<T>() -> Measured<T> {
        Err(Missing::new("x", Reason::Denied, "no"))
    }

    #[test]
    fn a_delta_covers_the_time_since_the_last_good_sample() {
        let cam: ThingName = "cam".parse().unwrap();
        let mut baselines = Baselines::default();
        let mut added = |totals, at| {
            let added = baselines.added(&cam, &totals, at);
            added.map(|(added, over)| (added.bytes_out, over.as_secs()))
        };
        assert_eq!(added(totals(100), at(10)), None, "there is nothing to compare with");
        assert_eq!(added(totals(130), at(20)), Some((30, 10)));
        assert_eq!(
            added(totals(130), at(30)),
            Some((0, 10)),
            "measured, and nothing was sent"
        );
        assert_eq!(added(missing(), at(40)), None);
        assert_eq!(added(totals(150), at(50)), Some((20, 20)), "nothing is lost");
        assert_eq!(added(totals(10), at(60)), None, "counting began anew");
        assert_eq!(added(totals(11), at(60)), None, "no time passed");
        assert_eq!(added(totals(15), at(70)), Some((5, 10)));
    }

    #[test]
    fn what_was_not_measured_is_not_there() {
        let port = |port, interface: Option<&str>| ListeningPort {
            port,
            interface: interface.map(str::to_owned),
        };
        let to = |remote: &str| Connection {
            remote: remote.parse().unwrap(),
            local_port: 40_000,
            local_interface: None,
        };
        let reading = ThingReading {
            traffic: missing(),
            established: Ok(vec![
                to("192.0.2.1:443"),
                to("[::ffff:192.0.2.1]:80"),
                to("[2001:db8::1]:443"),
            ]),
            established_unlisted: 4,
            listening_tcp: Ok(vec![port(80, None), port(22, Some("eth0")), port(22, Some("lo"))]),
            listening_udp: missing(),
            custom: [
                ("n".to_owned(), CustomValue::Number(-1.5)),
                ("s".to_owned(), CustomValue::StringList(vec!["sh".to_owned()])),
            ]
            .into(),
        };
        let got = datapoints(&reading, None);
        let wanted: Datapoints = [
            ("aws:num-established-tcp-connections", Value::Gauge(7.0)),
            (
                "aws:destination-ip-addresses",
                Value::Addresses(vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]),
            ),
            ("aws:num-listening-tcp-ports", Value::Gauge(3.0)),
            ("aws:listening-tcp-ports", Value::Ports(vec![22, 80])),
            ("n", Value::Gauge(-1.5)),
            ("s", Value::Strings(vec!["sh".to_owned()])),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        assert_eq!(got, wanted);
        let nothing = ThingReading {
            established: missing(),
            listening_tcp: missing(),
            custom: BTreeMap::new(),
            ..reading
        };
        assert!(datapoints(&nothing, None).is_empty());
    }
}
