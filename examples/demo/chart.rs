//! The picture of the traffic: rates from totals, and their places on the page. Pure.

use std::fmt::Write as _;

use serde::Serialize;

use crate::record::{Event, Record, Sample};

/// Sizes in the picture's own units.
const LEFT: f64 = 150.0;
const WIDTH: f64 = 1000.0;
const TOP: f64 = 34.0;
const ROW: f64 = 96.0;
const GAP: f64 = 26.0;
const BOTTOM: f64 = 30.0;

/// Everything the template draws.
#[derive(Debug, Serialize)]
pub(crate) struct Chart {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    width: f64,
    height: f64,
    rows: Vec<Row>,
    marks: Vec<Mark>,
    seconds: Vec<Tick>,
    /// For the pointer: times, their places, and per device the two rates.
    times: Vec<f64>,
    places: Vec<f64>,
}

/// One device.
#[derive(Debug, Serialize)]
struct Row {
    thing: &'static str,
    role: &'static str,
    address: String,
    rogue: bool,
    top: f64,
    middle: f64,
    bottom: f64,
    /// The two lines as SVG paths.
    sent: String,
    arrived: String,
    most: String,
    cuts: Vec<Span>,
    sent_rates: Vec<u64>,
    arrived_rates: Vec<u64>,
}

/// A time in which the device was cut off.
#[derive(Debug, Serialize)]
struct Span {
    from: f64,
    width: f64,
    middle: f64,
}

/// A numbered event of the timeline.
#[derive(Debug, Serialize)]
struct Mark {
    number: usize,
    at: f64,
    /// Two events may be close together: the number's own place.
    label: f64,
    who: crate::record::Who,
    text: String,
}

#[derive(Debug, Serialize)]
struct Tick {
    at: f64,
    text: String,
}

/// A device's packets per second, between each sample and the one before.
fn rates(samples: &[Sample], total: impl Fn(&Sample) -> u64) -> Vec<f64> {
    let pairs = samples.iter().zip(samples.iter().skip(1));
    pairs
        .map(|(before, after)| {
            let packets = u32::try_from(total(after).saturating_sub(total(before))).unwrap_or(u32::MAX);
            f64::from(packets) / (after.at - before.at).max(0.001)
        })
        .collect()
}

/// The next round number above: 1, 2 or 5 times a power of ten.
fn round_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.max(1.0).log10().floor());
    let times = [1.0, 2.0, 5.0, 10.0];
    times
        .into_iter()
        .map(|times| times * power)
        .find(|round| *round >= value)
        .unwrap_or(value)
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rates are neither negative nor large"
)]
fn whole(rate: &f64) -> u64 {
    rate.round() as u64
}

impl Chart {
    pub(crate) fn of(record: &Record) -> Self {
        let begin = record.samples.first().map_or(0.0, |sample| sample.at);
        let end = record.samples.last().map_or(1.0, |sample| sample.at).max(begin + 1.0);
        let place = |at: f64| LEFT + (at - begin).clamp(0.0, end - begin) / (end - begin) * WIDTH;
        let times: Vec<f64> = record.samples.iter().skip(1).map(|sample| sample.at).collect();
        let mut rows = Vec::new();
        for (n, device) in record.devices.iter().enumerate() {
            let sent = rates(&record.samples, |sample| {
                sample.sent.get(n).copied().unwrap_or_default()
            });
            let arrived = rates(&record.samples, |sample| {
                sample.arrived.get(n).copied().unwrap_or_default()
            });
            let most = sent.iter().chain(&arrived).copied().fold(1.0, f64::max);
            let most = round_up(most);
            let top = rows.len();
            let top = TOP + f64::from(u32::try_from(top).unwrap_or_default()) * (ROW + GAP);
            let bottom = top + ROW;
            let height = |rate: f64| bottom - rate / most * ROW;
            let line = |rates: &[f64]| {
                let mut path = String::new();
                for (at, rate) in times.iter().zip(rates) {
                    let step = if path.is_empty() { 'M' } else { 'L' };
                    let _ = write!(path, "{step}{:.1} {:.1}", place(*at), height(*rate));
                }
                path
            };
            let mut area = line(&arrived);
            if let (Some(first), Some(last)) = (times.first(), times.last()) {
                let _ = write!(
                    area,
                    "L{:.1} {bottom:.1}L{:.1} {bottom:.1}Z",
                    place(*last),
                    place(*first)
                );
            }
            let cuts = record.cuts.iter().filter(|cut| cut.device == n).map(|cut| {
                let (from, to) = (place(cut.enforced_at), place(cut.release_at));
                Span {
                    from,
                    width: to - from,
                    middle: (from + to) / 2.0,
                }
            });
            rows.push(Row {
                thing: device.thing,
                role: device.role,
                address: device.address.clone(),
                rogue: device.rogue,
                top,
                middle: (top + bottom) / 2.0,
                bottom,
                sent: line(&sent),
                arrived: area,
                most: format!("{most:.0}/s"),
                cuts: cuts.collect(),
                sent_rates: sent.iter().map(whole).collect(),
                arrived_rates: arrived.iter().map(whole).collect(),
            });
        }
        let bottom = rows.last().map_or(TOP, |row| row.bottom);
        Self {
            left: LEFT,
            right: LEFT + WIDTH,
            top: TOP,
            bottom,
            width: LEFT + WIDTH + 20.0,
            height: bottom + BOTTOM,
            rows,
            marks: marks(&record.events, begin, place),
            seconds: seconds(begin, end, place),
            places: times.iter().map(|at| place(*at)).collect(),
            times,
        }
    }
}

/// The events since the first sample, numbered as in the list beside the picture.
fn marks(events: &[Event], begin: f64, place: impl Fn(f64) -> f64) -> Vec<Mark> {
    let mut marks: Vec<Mark> = Vec::new();
    for (number, event) in events.iter().enumerate().filter(|(_, event)| event.at >= begin) {
        let at = place(event.at);
        // room for the number itself
        let label = marks.last().map_or(at, |last| at.max(last.label + 17.0));
        marks.push(Mark {
            number: number + 1,
            at,
            label,
            who: event.who,
            text: event.text.clone(),
        });
    }
    marks
}

fn seconds(begin: f64, end: f64, place: impl Fn(f64) -> f64) -> Vec<Tick> {
    let step = if end - begin > 25.0 { 5.0 } else { 2.0 };
    let mut ticks = Vec::new();
    let mut at = (begin / step).ceil() * step;
    while at <= end {
        ticks.push(Tick {
            at: place(at),
            text: format!("{at:.0} s"),
        });
        at += step;
    }
    ticks
}
