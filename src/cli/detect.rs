//! `edge-warden detect`: security profiles tried out, without an agent.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use edge_warden::agent::detecting::assignment;
use edge_warden::config::{ConfigError, Profile, load_profile};
use edge_warden::detect::{
    Assignment, CustomTypes, EventType, MetricType, MetricValue, Replayed, Sample, Violation, explain, replay,
};
use edge_warden::model::UnixTime;
use serde_json::{Value, json};

use super::args::DetectVerb;
use super::{Exit, InvalidConfiguration, args, grouped, plain_table, printable};

/// Do it.
pub fn run(arguments: &args::Detect) -> anyhow::Result<Exit> {
    match &arguments.verb {
        DetectVerb::Explain { profile } => explain_profile(profile),
        DetectVerb::Replay {
            profiles,
            samples,
            json,
        } => replay_samples(profiles, samples, *json),
    }
}

fn explain_profile(path: &Path) -> anyhow::Result<Exit> {
    let (assignment, warnings) = read_profile(path)?;
    let mut out = std::io::stdout().lock();
    let profile = assignment.profile();
    writeln!(out, "{}", printable(profile.name()))?;
    if let Some(words) = profile.description() {
        writeln!(out, "  {}", printable(words))?;
    }
    for sentence in explain(profile) {
        writeln!(out, "- {}", printable(&sentence))?;
    }
    for words in warnings {
        writeln!(out, "warning: {}", printable(&words))?;
    }
    Ok(Exit::Done)
}

/// The profile of a file, and what is odd about it.
fn read_profile(path: &Path) -> anyhow::Result<(Assignment, Vec<String>)> {
    let shown = printable(&path.to_string_lossy());
    let entry = load_profile(path).map_err(|error| match error {
        ConfigError::Read { .. } => anyhow::Error::new(error),
        error => InvalidConfiguration(format!("{:#}", anyhow::Error::new(error))).into(),
    })?;
    assignment(&entry, &custom_types(&entry)).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(|words| format!("{shown}: {words}")).collect();
        InvalidConfiguration(lines.join("\n")).into()
    })
}

/// The types of the custom metrics a profile uses, as its own limits tell them: no configuration is asked here.
fn custom_types(entry: &Profile) -> CustomTypes {
    let behaviors = entry.profile.get("behaviors").and_then(Value::as_array);
    let mut types = CustomTypes::new();
    for behavior in behaviors.into_iter().flatten() {
        let Some(metric) = behavior.get("metric").and_then(Value::as_str) else {
            continue;
        };
        let limit = behavior.pointer("/criteria/value").and_then(Value::as_object);
        let has = |key: &str| limit.is_some_and(|limit| limit.contains_key(key));
        let kind = if has("numbers") {
            MetricType::NumberList
        } else if has("strings") {
            MetricType::StringList
        } else if has("cidrs") {
            MetricType::IpAddressList
        } else {
            MetricType::Number
        };
        if !metric.starts_with("aws:") {
            types.entry(metric.to_owned()).or_insert(kind);
        }
    }
    types
}

/// What was seen of the recording on the way through.
#[derive(Default)]
struct Seen {
    samples: Cell<u64>,
    unreadable: Cell<u64>,
    from: Cell<Option<UnixTime>>,
    until: Cell<Option<UnixTime>>,
    things: RefCell<BTreeSet<String>>,
    failed: RefCell<Option<anyhow::Error>>,
}

impl Seen {
    fn sample(&self, line: std::io::Result<Vec<u8>>, path: &Path) -> Option<Sample> {
        let line = match line {
            Ok(line) => line,
            Err(error) => {
                let named = || format!("cannot read {}", path.display());
                *self.failed.borrow_mut() = Some(anyhow::Error::new(error).context(named()));
                return None;
            }
        };
        if line.is_empty() {
            return None;
        }
        let Ok(sample) = serde_json::from_slice::<Sample>(&line) else {
            self.unreadable.set(self.unreadable.get().saturating_add(1));
            return None;
        };
        self.samples.set(self.samples.get().saturating_add(1));
        self.from.set(self.from.get().or(Some(sample.time)));
        self.until.set(Some(sample.time));
        let mut things = self.things.borrow_mut();
        if !things.contains(sample.thing.as_str()) {
            things.insert(sample.thing.to_string());
        }
        Some(sample)
    }
}

fn replay_samples(profiles: &[PathBuf], samples: &[PathBuf], as_json: bool) -> anyhow::Result<Exit> {
    let mut assignments: Vec<Assignment> = Vec::new();
    let mut warnings = Vec::new();
    for path in profiles {
        let (assignment, said) = read_profile(path)?;
        let name = assignment.profile().name();
        if assignments.iter().any(|other| other.profile().name() == name) {
            return Err(InvalidConfiguration(format!("{name}: two profiles have this name")).into());
        }
        warnings.extend(said);
        assignments.push(assignment);
    }
    let mut files = Vec::new();
    for path in samples {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        files.push((path, BufReader::new(file)));
    }
    let seen = Seen::default();
    let lines = files.into_iter().flat_map(|(path, file)| {
        let ended = Cell::new(false);
        file.split(b'\n')
            .map(move |line| (path, line))
            .take_while(move |(_, line)| !ended.replace(line.is_err()))
    });
    let replayed = replay(&assignments, lines.filter_map(|(path, line)| seen.sample(line, path)));
    if let Some(error) = seen.failed.take() {
        return Err(error);
    }
    if seen.samples.get() == 0 {
        return Err(anyhow!(
            "no sample could be read; the agent records them with detect.record: true"
        ));
    }
    let mut out = std::io::stdout().lock();
    if as_json {
        serde_json::to_writer_pretty(&mut out, &document(&replayed, &seen))?;
        writeln!(out)?;
    } else {
        print(&mut out, &replayed, &seen, &warnings)?;
    }
    Ok(Exit::Done)
}

fn document(replayed: &Replayed, seen: &Seen) -> Value {
    let bodies = replayed.events.iter().map(Violation::to_json);
    let events: Vec<Value> = bodies
        .map(|body| serde_json::from_str(&body).unwrap_or(Value::String(body)))
        .collect();
    json!({
        "samples": seen.samples.get(),
        "unreadableLines": seen.unreadable.get(),
        "things": seen.things.borrow().len(),
        "from": seen.from.get(),
        "until": seen.until.get(),
        "events": events,
        "alarms": replayed.alarms,
    })
}

fn print(out: &mut impl Write, replayed: &Replayed, seen: &Seen, warnings: &[String]) -> anyhow::Result<()> {
    let at = |time: Option<UnixTime>| time.map_or_else(|| "-".to_owned(), when);
    writeln!(
        out,
        "{} samples of {} things, {} to {}",
        grouped(seen.samples.get()),
        seen.things.borrow().len(),
        at(seen.from.get()),
        at(seen.until.get()),
    )?;
    if seen.unreadable.get() > 0 {
        writeln!(out, "{} lines could not be read", grouped(seen.unreadable.get()))?;
    }
    for words in warnings {
        writeln!(out, "warning: {}", printable(words))?;
    }
    writeln!(out)?;
    let mut rows = plain_table();
    rows.set_header(vec!["TIME", "EVENT", "THING", "PROFILE", "BEHAVIOR", "VALUE", "THEN"]);
    for event in &replayed.events {
        rows.add_row(vec![
            when(event.time),
            event.event.as_str().to_owned(),
            event.thing.to_string(),
            printable(&event.profile),
            printable(&event.behavior),
            value(&event.value),
            then(event).to_owned(),
        ]);
    }
    if replayed.events.is_empty() {
        writeln!(out, "nothing would have happened")?;
    } else {
        writeln!(out, "{rows}")?;
    }
    Ok(())
}

/// What the agent would have done about it.
fn then(event: &Violation) -> &'static str {
    match event.event {
        _ if event.suppressed => "nothing (suppressed)",
        EventType::InAlarm if event.quarantine => "event, quarantine",
        EventType::AlarmCleared if event.release_when_cleared => "event, release",
        EventType::InAlarm | EventType::AlarmCleared | EventType::AlarmInvalidated => "event",
    }
}

fn when(time: UnixTime) -> String {
    let millis = i64::try_from(time.0).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis).map_or_else(
        |_| time.0.to_string(),
        |time| time.strftime("%Y-%m-%d %H:%M:%S").to_string(),
    )
}

fn value(value: &MetricValue) -> String {
    fn list<T: ToString>(items: &[T]) -> String {
        let shown: Vec<String> = items.iter().take(5).map(|item| printable(&item.to_string())).collect();
        let more = if items.len() > shown.len() { " ..." } else { "" };
        format!("{}{more}", shown.join(" "))
    }
    match value {
        MetricValue::Count(count) => grouped(*count),
        MetricValue::Number(number) => number.to_string(),
        MetricValue::Ports(ports) => list(ports),
        MetricValue::Cidrs(addresses) => list(addresses),
        MetricValue::Numbers(numbers) => list(numbers),
        MetricValue::Strings(strings) => list(strings),
    }
}
