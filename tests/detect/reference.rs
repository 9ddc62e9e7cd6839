//! Detection written a second time, to be obvious rather than fast: every round looks at the whole history again.
//!
//! It shares nothing with the engine but the words of docs/detect.md: behaviors are plain text, addresses are compared
//! bit by bit, percentiles by counting.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;

use serde_json::{Value as Json, json};

/// A behavior as the generator made it.
#[derive(Debug, Clone)]
pub(super) struct Behavior {
    pub(super) profile: String,
    pub(super) name: String,
    pub(super) metric: &'static str,
    pub(super) operator: &'static str,
    pub(super) limit: Limit,
    pub(super) duration: Option<u64>,
    pub(super) to_alarm: usize,
    pub(super) to_clear: usize,
    /// Which things the profile is for.
    pub(super) target: &'static str,
}

#[derive(Debug, Clone)]
pub(super) enum Limit {
    Number(f64),
    Percentile(&'static str),
    Ports(Vec<u16>),
    Cidrs(Vec<&'static str>),
    Numbers(Vec<f64>),
    Strings(Vec<&'static str>),
}

/// What one thing gave for one metric.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Datum {
    Delta(f64, u64),
    Gauge(f64),
    Ports(Vec<u16>),
    Addresses(Vec<IpAddr>),
    Numbers(Vec<f64>),
    Strings(Vec<String>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Event {
    pub(super) round: usize,
    pub(super) thing: &'static str,
    pub(super) profile: String,
    pub(super) behavior: String,
    pub(super) kind: &'static str,
    pub(super) value: Json,
    /// Alarms are numbered in the order they began.
    pub(super) alarm: usize,
}

/// Everything that was ever told and decided about one behavior of one thing.
#[derive(Debug, Clone, Default)]
struct Line {
    /// Deltas since the last hole, cut or restart: (start, end, amount), milliseconds.
    deltas: Vec<(u64, u64, f64)>,
    /// Every verdict that counted, oldest first; true is a violation.
    verdicts: Vec<bool>,
    /// The last verdict of a window, and when.
    last_window: Option<(u64, bool)>,
    /// The alarm and the value of its latest violation.
    alarm: Option<(usize, Datum)>,
    heard: u64,
    /// The latest number that waits for a percentile: when, how much, whether a sum, whether new.
    waiting: Option<(u64, f64, bool, bool)>,
}

pub(super) struct Reference {
    behaviors: Vec<Rc<Behavior>>,
    lines: BTreeMap<(&'static str, usize), Line>,
    cut: BTreeMap<&'static str, bool>,
    alarms: usize,
    pub(super) events: Vec<Event>,
}

const DAY: u64 = 86_400_000;
const TRAFFIC: [&str; 4] = [
    "aws:all-bytes-in",
    "aws:all-bytes-out",
    "aws:all-packets-in",
    "aws:all-packets-out",
];
const COUNTS: [&str; 3] = [
    "aws:num-listening-tcp-ports",
    "aws:num-listening-udp-ports",
    "aws:num-established-tcp-connections",
];

impl Reference {
    pub(super) fn new(behaviors: Vec<Behavior>) -> Self {
        Self {
            behaviors: behaviors.into_iter().map(Rc::new).collect(),
            lines: BTreeMap::new(),
            cut: BTreeMap::new(),
            alarms: 0,
            events: Vec::new(),
        }
    }

    pub(super) fn restart(&mut self, now: u64) {
        self.cut.clear();
        let mut kept = BTreeMap::new();
        for (key, line) in &self.lines {
            if line.alarm.is_some() || line.verdicts.last() == Some(&true) {
                let line = Line {
                    deltas: Vec::new(),
                    verdicts: line.verdicts.clone(),
                    last_window: Some((now, true)),
                    alarm: line.alarm.clone(),
                    heard: line.heard,
                    waiting: None,
                };
                kept.insert(*key, line);
            }
        }
        self.lines = kept;
    }

    pub(super) fn observe(
        &mut self,
        round: usize,
        now: u64,
        thing: &'static str,
        cut: bool,
        data: &BTreeMap<&'static str, Datum>,
    ) {
        self.cut.insert(thing, cut);
        for index in 0..self.behaviors.len() {
            let behavior = Rc::clone(&self.behaviors[index]);
            if !is_for(behavior.target, thing) {
                continue;
            }
            let mut line = self.lines.remove(&(thing, index)).unwrap_or_else(|| Line {
                heard: now,
                ..Line::default()
            });
            if cut && !survives_cut(&behavior) {
                line = Line {
                    alarm: line.alarm,
                    heard: now,
                    ..Line::default()
                };
            } else if let Some(datum) = data
                .get(behavior.metric)
                .filter(|datum| is_right(datum, behavior.metric))
            {
                line.heard = now;
                if let Some((violates, value)) = verdict(&behavior, &mut line, datum, now) {
                    self.count(round, thing, &behavior, &mut line, violates, value);
                }
            }
            self.lines.insert((thing, index), line);
        }
    }

    pub(super) fn tick(&mut self, round: usize, now: u64) {
        let limits: Vec<Option<f64>> = (0..self.behaviors.len())
            .map(|index| self.percentile(index, now))
            .collect();
        let keys: Vec<(&'static str, usize)> = self.lines.keys().copied().collect();
        for (thing, index) in keys {
            let behavior = Rc::clone(&self.behaviors[index]);
            let mut line = self.lines.remove(&(thing, index)).unwrap();
            if let Some((at, value, is_sum, true)) = line.waiting {
                line.waiting = Some((at, value, is_sum, false));
                if let Some(limit) = limits[index] {
                    let violates = !compare(value, behavior.operator, limit);
                    let counts = !is_sum || takes_window(&mut line, now, window_of(&behavior), violates);
                    if counts {
                        self.count(round, thing, &behavior, &mut line, violates, Datum::Gauge(value));
                    }
                }
            }
            let is_cut = self.cut.get(thing).copied().unwrap_or(false);
            if !is_cut && now - line.heard > 2 * DAY {
                if let Some((alarm, value)) = line.alarm.take() {
                    self.event(round, thing, &behavior, "alarm-invalidated", &value, alarm);
                }
                line = Line {
                    heard: line.heard,
                    ..Line::default()
                };
            }
            self.lines.insert((thing, index), line);
        }
    }

    /// The value that at least the given part of all values does not exceed, found by trying each.
    fn percentile(&self, index: usize, now: u64) -> Option<f64> {
        let Limit::Percentile(name) = &self.behaviors[index].limit else {
            return None;
        };
        let window = window_of(&self.behaviors[index]);
        let values: Vec<f64> = self
            .lines
            .iter()
            .filter(|((_, of), _)| *of == index)
            .filter_map(|(_, line)| line.waiting)
            .filter(|(at, ..)| at + window > now)
            .map(|(_, value, ..)| value)
            .collect();
        if values.len() < 3 || values.iter().any(|value| *value < 0.0) {
            return None;
        }
        let part: f64 = name[1..].parse().unwrap();
        let enough = |candidate: &f64| {
            let below = values.iter().filter(|value| *value <= candidate).count();
            // in ten-thousandths, so that no rounding decides
            below as u64 * 10_000 >= (part * 100.0).round() as u64 * values.len() as u64
        };
        values.iter().copied().filter(enough).reduce(f64::min)
    }

    fn count(
        &mut self,
        round: usize,
        thing: &'static str,
        behavior: &Behavior,
        line: &mut Line,
        violates: bool,
        value: Datum,
    ) {
        line.verdicts.push(violates);
        let last_are = |count: usize, what: bool| {
            line.verdicts.len() >= count && line.verdicts.iter().rev().take(count).all(|verdict| *verdict == what)
        };
        if line.alarm.is_none() && last_are(behavior.to_alarm, true) {
            let number = self.alarms;
            self.alarms += 1;
            line.alarm = Some((number, value.clone()));
            self.event(round, thing, behavior, "in-alarm", &value, number);
        } else if line.alarm.is_some() && last_are(behavior.to_clear, false) {
            let (number, _) = line.alarm.take().unwrap();
            self.event(round, thing, behavior, "alarm-cleared", &value, number);
        } else if let (Some((_, latest)), true) = (&mut line.alarm, violates) {
            *latest = value;
        }
    }

    fn event(
        &mut self,
        round: usize,
        thing: &'static str,
        behavior: &Behavior,
        kind: &'static str,
        value: &Datum,
        alarm: usize,
    ) {
        self.events.push(Event {
            round,
            thing,
            profile: behavior.profile.clone(),
            behavior: behavior.name.clone(),
            kind,
            value: shown(behavior, value),
            alarm,
        });
    }

    /// Alarms that last: thing, profile, behavior, latest violating value.
    pub(super) fn active(&self) -> Vec<(String, String, String, Json)> {
        let open = self.lines.iter().filter_map(|((thing, index), line)| {
            let (_, value) = line.alarm.as_ref()?;
            let behavior = &self.behaviors[*index];
            Some((
                (*thing).to_owned(),
                behavior.profile.clone(),
                behavior.name.clone(),
                shown(behavior, value),
            ))
        });
        open.collect()
    }
}

/// Things are `core`, which is the core device, and others.
pub(super) fn is_for(target: &str, thing: &str) -> bool {
    match target {
        "all" => true,
        "core" => thing == "core",
        "cam-*" => thing.starts_with("cam-"),
        other => panic!("{other}"),
    }
}

fn survives_cut(behavior: &Behavior) -> bool {
    ["aws:all-bytes-out", "aws:all-packets-out"].contains(&behavior.metric)
        && behavior.operator.starts_with("less-than")
        && matches!(behavior.limit, Limit::Number(_))
}

fn is_right(datum: &Datum, metric: &str) -> bool {
    match datum {
        Datum::Delta(amount, _) => {
            amount.is_finite() && *amount >= 0.0 && (TRAFFIC.contains(&metric) || metric == "custom-number")
        }
        Datum::Gauge(number) => {
            number.is_finite() && (metric == "custom-number" || (COUNTS.contains(&metric) && *number >= 0.0))
        }
        Datum::Ports(_) => metric.starts_with("aws:listening-"),
        Datum::Addresses(_) => ["aws:destination-ip-addresses", "custom-addresses"].contains(&metric),
        Datum::Numbers(list) => metric == "custom-numbers" && list.iter().all(|number| number.is_finite()),
        Datum::Strings(_) => metric == "custom-strings",
    }
}

fn window_of(behavior: &Behavior) -> u64 {
    behavior.duration.unwrap_or(300) * 1000
}

/// The verdict of one sample, or none.
fn verdict(behavior: &Behavior, line: &mut Line, datum: &Datum, now: u64) -> Option<(bool, Datum)> {
    match datum {
        Datum::Gauge(number) => {
            if let Limit::Number(limit) = behavior.limit {
                let violates = !compare(*number, behavior.operator, limit);
                return Some((violates, Datum::Gauge(*number)));
            }
            line.waiting = Some((now, *number, false, true));
            None
        }
        Datum::Delta(amount, over) => {
            let window = window_of(behavior);
            if !add_delta(line, now.saturating_sub(*over), now, *amount, window) {
                line.waiting = None;
                return None;
            }
            let sum = sum(&line.deltas, now, window);
            let is_whole = line.deltas[0].0 + window <= now;
            let Limit::Number(limit) = behavior.limit else {
                line.waiting = is_whole.then_some((now, sum, true, true));
                return None;
            };
            let violates = !compare(sum, behavior.operator, limit);
            let broke_early = violates && behavior.operator.starts_with("less-than");
            if !is_whole && !broke_early {
                return None;
            }
            if !takes_window(line, now, window, violates) {
                return None;
            }
            Some((violates, Datum::Gauge(sum)))
        }
        list => Some((elements(behavior, list).iter().any(|(_, foul)| *foul), list.clone())),
    }
}

/// False when the delta tells nothing about the window that ends with it.
fn add_delta(line: &mut Line, start: u64, end: u64, amount: f64, window: u64) -> bool {
    if start >= end {
        return false;
    }
    if let Some((_, last, _)) = line.deltas.last() {
        if end <= *last {
            return false;
        }
        if start.abs_diff(*last) > 1000 {
            line.deltas.clear();
        }
    }
    if end - start > window + window / 10 {
        line.deltas.clear();
        return false;
    }
    line.deltas.push((start, end, amount));
    true
}

/// Adds up the parts of the history whose middle lies in the window.
fn sum(deltas: &[(u64, u64, f64)], now: u64, window: u64) -> f64 {
    // deltas short against the window are joined first
    let mut parts: Vec<(u64, u64, f64)> = Vec::new();
    for (start, end, amount) in deltas {
        match parts.last_mut() {
            Some(part) if *end - part.0 <= window / 30 => *part = (part.0, *end, part.2 + amount),
            Some(part) => {
                let seam = part.1;
                parts.push((seam, *end, *amount));
            }
            None => parts.push((*start, *end, *amount)),
        }
    }
    let inside = |(start, end, _): &&(u64, u64, f64)| (start + end) as f64 / 2.0 > now as f64 - window as f64;
    let total: f64 = parts.iter().filter(inside).map(|(_, _, amount)| amount).sum();
    if total.is_infinite() { f64::MAX } else { total }
}

/// Whether a window's verdict counts: the first does, a violation after a good window does at once, any other only
/// when a whole window has passed since the last.
fn takes_window(line: &mut Line, now: u64, window: u64, violates: bool) -> bool {
    let counts = match line.last_window {
        None => true,
        Some((at, was_violation)) => (violates && !was_violation) || now >= at + window,
    };
    if counts {
        line.last_window = Some((now, violates));
    }
    counts
}

fn compare(value: f64, operator: &str, limit: f64) -> bool {
    match operator {
        "less-than" => value < limit,
        "less-than-equals" => value <= limit,
        "greater-than" => value > limit,
        "greater-than-equals" => value >= limit,
        other => panic!("{other}"),
    }
}

fn number_json(number: f64, metric: &str) -> Json {
    let plain = if number.fract() == 0.0 && number.abs() < 9e15 {
        json!(number as i64)
    } else {
        json!(number)
    };
    if metric.starts_with("aws:") {
        json!({ "count": number as u64 })
    } else {
        json!({ "number": plain })
    }
}

/// Each element of a list, and whether it breaks the behavior.
fn elements<'a>(behavior: &Behavior, list: &'a Datum) -> Vec<(Element<'a>, bool)> {
    let is_deny = behavior.operator.starts_with("not-in");
    match (list, &behavior.limit) {
        (Datum::Ports(ports), Limit::Ports(set)) => ports
            .iter()
            .map(|port| (Element::Port(*port), set.contains(port) == is_deny))
            .collect(),
        (Datum::Numbers(numbers), Limit::Numbers(set)) => numbers
            .iter()
            .map(|n| (Element::Number(*n), set.iter().any(|m| m == n) == is_deny))
            .collect(),
        (Datum::Strings(strings), Limit::Strings(set)) => strings
            .iter()
            .map(|s| (Element::Text(s), set.contains(&s.as_str()) == is_deny))
            .collect(),
        (Datum::Addresses(addresses), Limit::Cidrs(set)) => {
            let foul = |ip: &IpAddr| set.iter().any(|cidr| holds(cidr, *ip)) == is_deny;
            addresses
                .iter()
                .map(|ip| (Element::Address(unmapped(*ip)), foul(ip)))
                .collect()
        }
        other => panic!("{other:?}"),
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Element<'a> {
    Port(u16),
    Number(f64),
    Text(&'a str),
    Address(IpAddr),
}

/// A value as events have it: numbers plain, lists without repetition and what is foul first.
fn shown(behavior: &Behavior, value: &Datum) -> Json {
    let key = match value {
        Datum::Gauge(number) | Datum::Delta(number, _) => return number_json(*number, behavior.metric),
        Datum::Ports(_) => "ports",
        Datum::Addresses(_) => "cidrs",
        Datum::Numbers(_) => "numbers",
        Datum::Strings(_) => "strings",
    };
    let elements = elements(behavior, value);
    let mut listed: Vec<Element<'_>> = Vec::new();
    for wanted in [true, false] {
        for (element, foul) in &elements {
            if *foul == wanted && !listed.contains(element) {
                listed.push(element.clone());
            }
        }
    }
    let json = listed.iter().take(50).map(|element| match element {
        Element::Port(port) => json!(port),
        Element::Number(number) if number.fract() == 0.0 => json!(*number as i64),
        Element::Number(number) => json!(number),
        Element::Text(text) => json!(text),
        Element::Address(ip) => json!(ip),
    });
    json!({ key: json.collect::<Vec<Json>>() })
}

fn unmapped(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    }
}

/// Compares the first bits, one after the other.
fn holds(cidr: &str, ip: IpAddr) -> bool {
    let (network, length) = cidr.split_once('/').unwrap_or((cidr, "999"));
    let bits = |ip: IpAddr| -> Vec<bool> {
        let bytes = match ip {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        bytes
            .iter()
            .flat_map(|byte| (0..8).map(move |bit| byte >> (7 - bit) & 1 == 1))
            .collect()
    };
    let (network, ip) = (bits(network.parse().unwrap()), bits(unmapped(ip)));
    if network.len() != ip.len() {
        return false;
    }
    let length: usize = length.parse().unwrap();
    network.iter().zip(&ip).take(length).all(|(a, b)| a == b)
}
