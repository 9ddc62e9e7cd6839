//! Random profiles and histories. Small numbers, so that limits are met exactly; few things, so that every rule meets
//! every other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::Rng;
use serde_json::{Value as Json, json};

use super::reference::{Behavior, Datum, Limit};

pub(super) const THINGS: [&str; 3] = ["cam-1", "cam-2", "core"];

/// Every metric there is, with the four types of custom metrics.
pub(super) const METRICS: [&str; 14] = [
    "aws:all-bytes-in",
    "aws:all-bytes-out",
    "aws:all-packets-in",
    "aws:all-packets-out",
    "aws:num-listening-tcp-ports",
    "aws:num-listening-udp-ports",
    "aws:num-established-tcp-connections",
    "aws:listening-tcp-ports",
    "aws:listening-udp-ports",
    "aws:destination-ip-addresses",
    "custom-number",
    "custom-numbers",
    "custom-strings",
    "custom-addresses",
];

pub(super) const STATISTICS: [&str; 11] = [
    "p0", "p0.1", "p0.01", "p1", "p10", "p50", "p90", "p99", "p99.9", "p99.99", "p100",
];

const COMPARISONS: [&str; 4] = ["less-than", "less-than-equals", "greater-than", "greater-than-equals"];

#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) behaviors: Vec<Behavior>,
    pub(super) rounds: Vec<Round>,
}

#[derive(Debug, Clone)]
pub(super) struct Round {
    /// Milliseconds since the round before.
    pub(super) wait: u64,
    pub(super) restart: Restart,
    pub(super) things: Vec<(&'static str, bool, BTreeMap<&'static str, Datum>)>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Restart {
    No,
    Agent,
    /// The monotonic clock begins anew.
    Host,
}

pub(super) struct Dice<'a, R>(pub(super) &'a mut R);

impl<R: Rng> Dice<'_, R> {
    fn below(&mut self, limit: u32) -> u32 {
        self.0.next_u32() % limit
    }

    fn chance(&mut self, one_in: u32) -> bool {
        self.below(one_in) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(u32::try_from(from.len()).unwrap()) as usize].clone()
    }

    fn list<T>(&mut self, most: u32, mut element: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| element(self)).collect()
    }

    pub(super) fn behaviors(&mut self) -> Vec<Behavior> {
        // few metrics per case, so that behaviors share them
        let metrics: Vec<&'static str> = (0..=self.below(2)).map(|_| self.pick(&METRICS)).collect();
        let mut behaviors = Vec::new();
        for profile in 0..=self.below(4) / 3 {
            let target = self.pick(&["all", "all", "cam-*", "core"]);
            for number in 0..=self.below(2) {
                let mut behavior = self.behavior(&metrics);
                behavior.profile = format!("profile-{profile}");
                behavior.name = format!("behavior-{number}");
                behavior.target = target;
                behaviors.push(behavior);
            }
        }
        behaviors
    }

    /// What happens to the things under these behaviors.
    pub(super) fn history(&mut self, behaviors: &[Behavior]) -> Vec<Round> {
        let metrics: BTreeSet<&'static str> = behaviors.iter().map(|behavior| behavior.metric).collect();
        let steps = self.pick(&[
            &[10_000_u64][..],
            &[60_000],
            &[100_000, 100_003],
            &[300_000, 299_990, 300_040],
            &[2_000, 5_000, 9_999],
            &[150_000, 40_000, 700_000],
        ]);
        let calm = self.chance(2);
        let mut clocks: BTreeMap<(&'static str, &'static str), u64> = BTreeMap::new();
        let (mut now, mut boot) = (0_u64, 0_u64);
        let count = 1 + if self.chance(20) {
            self.below(40)
        } else {
            self.below(11)
        };
        let mut rounds = Vec::new();
        for _ in 0..count {
            let mut wait = self.pick(steps);
            if self.chance(40) {
                wait = self.pick(&[86_400_000, 172_800_000, 180_000_000, 180_000_000, 3_600_000]);
            }
            now += wait;
            let restart = match self.below(100) {
                0 => Restart::Host,
                1 | 2 => Restart::Agent,
                _ => Restart::No,
            };
            if restart == Restart::Host {
                boot = now - 1000;
            }
            let mut things = Vec::new();
            for thing in THINGS {
                if self.chance(40) {
                    continue;
                }
                let cut = !calm && thing != "core" && self.chance(12);
                let mut data = BTreeMap::new();
                for metric in &metrics {
                    if self.chance(if calm { 40 } else { 8 }) {
                        continue;
                    }
                    let since = clocks.get(&(thing, *metric)).copied().unwrap_or(now - wait);
                    clocks.insert((thing, *metric), now);
                    let datum = self.datum(metric, (now - since).min(now - boot), calm);
                    data.insert(*metric, datum);
                }
                things.push((thing, cut, data));
            }
            rounds.push(Round { wait, restart, things });
        }
        rounds
    }

    fn behavior(&mut self, metrics: &[&'static str]) -> Behavior {
        let metric = self.pick(metrics);
        let (operator, limit) = match metric {
            "aws:listening-tcp-ports" | "aws:listening-udp-ports" => (
                self.pick(&["in-port-set", "not-in-port-set"]),
                Limit::Ports(self.list(3, Self::port)),
            ),
            "aws:destination-ip-addresses" | "custom-addresses" => (
                self.pick(&["in-cidr-set", "not-in-cidr-set"]),
                Limit::Cidrs(self.list(3, Self::cidr)),
            ),
            "custom-numbers" => (
                self.pick(&["in-set", "not-in-set"]),
                Limit::Numbers(self.list(3, Self::element)),
            ),
            "custom-strings" => (
                self.pick(&["in-set", "not-in-set"]),
                Limit::Strings(self.list(3, |dice| dice.pick(&["ssh", "Sh", "", "a b", "\u{fc}"]))),
            ),
            _ => {
                let limit = if self.chance(3) {
                    Limit::Percentile(self.pick(&STATISTICS))
                } else if metric == "custom-number" {
                    Limit::Number(self.pick(&[-3.0, 0.0, 0.5, 2.0, 6.0, 1e15]))
                } else {
                    Limit::Number(self.pick(&[0.0, 1.0, 2.0, 5.0, 8.0, 20.0, 1e15]))
                };
                (self.pick(&COMPARISONS), limit)
            }
        };
        let is_number = matches!(limit, Limit::Number(_) | Limit::Percentile(_));
        let duration = is_number && !self.chance(3);
        Behavior {
            profile: String::new(),
            name: String::new(),
            metric,
            operator,
            limit,
            duration: duration.then(|| self.pick(&[300, 300, 300, 600, 900, 1800, 3600])),
            to_alarm: self.pick(&[1, 1, 1, 2, 2, 3, 10]),
            to_clear: self.pick(&[1, 1, 1, 2, 3, 10]),
            target: "all",
        }
    }

    fn datum(&mut self, metric: &str, since: u64, calm: bool) -> Datum {
        if !calm && self.chance(25) {
            return self.wrong();
        }
        match metric {
            "aws:listening-tcp-ports" | "aws:listening-udp-ports" => Datum::Ports(self.list(3, Self::port)),
            "aws:destination-ip-addresses" | "custom-addresses" => Datum::Addresses(self.list(3, Self::address)),
            "custom-numbers" => Datum::Numbers(self.list(3, Self::element)),
            "custom-strings" => {
                Datum::Strings(self.list(3, |dice| dice.pick(&["ssh", "Sh", "", "a b", "\u{fc}", "x"]).to_owned()))
            }
            "custom-number" if self.chance(2) => Datum::Gauge(self.pick(&[-4.0, -3.0, 0.0, 0.5, 2.0, 6.0, 7.0, 1e15])),
            "aws:num-listening-tcp-ports" | "aws:num-listening-udp-ports" | "aws:num-established-tcp-connections" => {
                Datum::Gauge(self.pick(&[0.0, 0.0, 1.0, 2.0, 5.0, 6.0, 8.0, 20.0, 21.0]))
            }
            _ => {
                let amount = self.pick(&[0.0, 0.0, 0.0, 1.0, 1.0, 2.0, 3.0, 5.0, 9.0, 1e15]);
                let over = match self.below(if calm { 400 } else { 40 }) {
                    0 => since / 2,
                    1 => since.saturating_sub(999),
                    2 => 0,
                    _ => since,
                };
                Datum::Delta(amount, over)
            }
        }
    }

    /// What some source might give and no metric takes, or not this one.
    fn wrong(&mut self) -> Datum {
        let number = self.pick(&[f64::NAN, f64::INFINITY, -1.0, f64::NEG_INFINITY]);
        match self.below(6) {
            0 => Datum::Gauge(number),
            1 => Datum::Delta(number, 1000),
            2 => Datum::Numbers(vec![1.0, number]),
            3 => Datum::Ports(Vec::new()),
            4 => Datum::Strings(vec!["odd".to_owned()]),
            _ => Datum::Addresses(Vec::new()),
        }
    }

    fn port(&mut self) -> u16 {
        self.pick(&[0, 22, 80, 443, 8883, 65535])
    }

    fn element(&mut self) -> f64 {
        self.pick(&[-1.0, 0.0, 0.5, 1.0, 2.0])
    }

    fn cidr(&mut self) -> &'static str {
        self.pick(&[
            "10.0.0.0/8",
            "10.0.0.0/9",
            "10.128.0.0/9",
            "10.1.2.3/31",
            "192.0.2.7",
            "0.0.0.0/0",
            "2001:db8::/33",
            "2001:db8::1",
            "::/0",
        ])
    }

    fn address(&mut self) -> IpAddr {
        let texts = [
            "10.0.0.1",
            "10.200.0.1",
            "10.1.2.2",
            "10.1.2.4",
            "192.0.2.7",
            "192.0.2.8",
            "::ffff:10.1.2.3",
            "2001:db8::1",
            "2001:db8:8000::1",
            "::",
        ];
        self.pick(&texts).parse().unwrap()
    }
}

/// A behavior as AWS's JSON has it.
pub(super) fn json(behavior: &Behavior) -> Json {
    let mut criteria = json!({
        "comparisonOperator": behavior.operator,
        "consecutiveDatapointsToAlarm": behavior.to_alarm,
        "consecutiveDatapointsToClear": behavior.to_clear,
    });
    if let Some(duration) = behavior.duration {
        criteria["durationSeconds"] = json!(duration);
    }
    match &behavior.limit {
        Limit::Number(number) if behavior.metric.starts_with("aws:") => {
            criteria["value"] = json!({ "count": *number as u64 });
        }
        Limit::Number(number) => criteria["value"] = json!({ "number": number }),
        Limit::Percentile(name) => criteria["statisticalThreshold"] = json!({ "statistic": name }),
        Limit::Ports(ports) => criteria["value"] = json!({ "ports": ports }),
        Limit::Cidrs(cidrs) => criteria["value"] = json!({ "cidrs": cidrs }),
        Limit::Numbers(numbers) => criteria["value"] = json!({ "numbers": numbers }),
        Limit::Strings(strings) => criteria["value"] = json!({ "strings": strings }),
    }
    json!({ "name": behavior.name, "metric": behavior.metric, "criteria": criteria })
}
