//! The list `customMetrics`: every rule of docs/custom-metrics.md about what may be written.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::choice::Choice;
use super::metrics::{
    CustomMetric, MAX_CUSTOM_METRICS, MetricName, MetricSource, ProcessMatch, ProcessPattern, TOPIC_PREFIX, Word,
};
use super::problem::{Place, Problems};
use super::raw::RawCustomMetric;
use super::sections::read_item;
use super::values::InterfaceName;
use crate::model::CustomType;

/// The most entries of `paths`.
const MAX_PATHS: usize = 64;
/// The most words of a command.
const MAX_WORDS: usize = 64;
/// Default of `user`.
const USER_DEFAULT: &str = "nobody";
/// Allowed `everySeconds`, and its default.
const EVERY_SECONDS: (std::ops::RangeInclusive<u32>, u32) = (1..=86_400, 60);
/// Allowed `timeoutSeconds`, and its default.
const TIMEOUT_SECONDS: (std::ops::RangeInclusive<u32>, u32) = (1..=300, 10);
/// Allowed `maxAgeSeconds`, and its default for topics: two reports.
const MAX_AGE_SECONDS: (std::ops::RangeInclusive<u32>, u32) = (1..=604_800, 600);
/// Where programs are expected unless `paths` says otherwise: where packages, Greengrass and snaps put them.
const EXPECTED_PATHS: &[&str] = &["/usr", "/bin", "/sbin", "/lib", "/opt", "/snap", "/greengrass"];

/// The metrics of all lists, main configuration first.
pub(super) fn check(items: Vec<(Place, Value)>, problems: &mut Problems) -> Vec<CustomMetric> {
    if items.len() > MAX_CUSTOM_METRICS {
        let (count, place) = (items.len(), Place::document(None).child("customMetrics"));
        problems.push(place.key_problem(
            format!("has {count} entries, more than {MAX_CUSTOM_METRICS}"),
            "shorten the list",
        ));
        return Vec::new();
    }
    let mut names: HashMap<MetricName, Place> = HashMap::new();
    let mut metrics = Vec::new();
    for (place, item) in items {
        let Some(raw) = read_item::<RawCustomMetric>(item, &place, problems) else {
            continue;
        };
        let name = metric_name(&place.child("name"), raw.name.as_ref(), &mut names, problems);
        let source_place = place.child("source");
        let word: Option<Word> = match &raw.source {
            Some(value) => problems.choice(&source_place, value),
            None => {
                let words: Vec<&str> = Word::ALL.iter().map(|(word, _)| *word).collect();
                problems.push(source_place.key_problem("is missing", format!("use {}", words.join(" or "))));
                None
            }
        };
        let Some(word) = word else { continue };
        let kind = metric_type(&place.child("type"), word, raw.kind.as_ref(), problems);
        let source = source(word, raw, name.as_ref(), &place, problems);
        if let (Some(name), Some(kind), Some(source)) = (name, kind, source) {
            metrics.push(CustomMetric { name, kind, source });
        }
    }
    metrics
}

fn metric_name(
    place: &Place,
    value: Option<&Value>,
    names: &mut HashMap<MetricName, Place>,
    problems: &mut Problems,
) -> Option<MetricName> {
    let Some(value) = value else {
        problems.push(place.key_problem("is missing", MetricName::EXPECTED));
        return None;
    };
    let name: MetricName = problems.text(place, value, MetricName::EXPECTED, str::parse)?;
    if let Some(first) = names.get(&name) {
        problems.push(place.problem(
            value,
            format!("is already used at {}", first.seen_from(place)),
            "give each metric a name of its own",
        ));
    } else {
        names.insert(name.clone(), place.clone());
    }
    Some(name)
}

fn metric_type(place: &Place, word: Word, value: Option<&Value>, problems: &mut Problems) -> Option<CustomType> {
    let possible = word.types();
    let Some(value) = value else {
        return possible.first().copied();
    };
    let kind: CustomType = problems.choice(place, value)?;
    if possible.contains(&kind) {
        return Some(kind);
    }
    let words: Vec<&str> = possible.iter().map(|kind| kind.as_str()).collect();
    problems.push(place.problem(
        value,
        format!("is not a type of source {}", word.as_str()),
        format!("use {}", words.join(" or ")),
    ));
    None
}

/// The source with its own keys; `None` and a problem when they are wrong.
fn source(
    word: Word,
    mut raw: RawCustomMetric,
    name: Option<&MetricName>,
    place: &Place,
    problems: &mut Problems,
) -> Option<MetricSource> {
    let written = [
        ("process", &raw.process),
        ("match", &raw.matching),
        ("paths", &raw.paths),
        ("path", &raw.path),
        ("interface", &raw.interface),
        ("command", &raw.command),
        ("user", &raw.user),
        ("everySeconds", &raw.every_seconds),
        ("timeoutSeconds", &raw.timeout_seconds),
        ("topic", &raw.topic),
        ("maxAgeSeconds", &raw.max_age_seconds),
    ];
    let mut stray = false;
    for (key, value) in written {
        if value.is_some() && !word.keys().contains(&key) {
            stray = true;
            let keys = ["name", "type", "source"].iter().chain(word.keys());
            let keys: Vec<&str> = keys.copied().collect();
            problems.push(place.child(key).key_problem(
                format!("is not a key of source {}", word.as_str()),
                format!("its keys are {}", keys.join(", ")),
            ));
        }
    }
    let source = match word {
        Word::ChildProcesses => MetricSource::ChildProcesses(pattern(&mut raw, place, problems)?),
        Word::ProcessCount if raw.process.is_none() && raw.matching.is_none() => {
            MetricSource::ProcessCount { of: None }
        }
        Word::ProcessCount => MetricSource::ProcessCount {
            of: Some(pattern(&mut raw, place, problems)?),
        },
        Word::RunningPrograms => MetricSource::RunningPrograms,
        Word::UnexpectedPrograms => MetricSource::UnexpectedPrograms {
            paths: match raw.paths {
                None => EXPECTED_PATHS.iter().map(PathBuf::from).collect(),
                written => paths(&place.child("paths"), written, problems)?,
            },
        },
        Word::Cpu => MetricSource::Cpu,
        Word::Memory => MetricSource::Memory,
        Word::Disk => MetricSource::Disk {
            path: match raw.path {
                None => PathBuf::from("/"),
                Some(value) if value.as_str() == Some("/") => PathBuf::from("/"),
                Some(value) => problems.absolute_path(&place.child("path"), &value)?,
            },
        },
        Word::Load => MetricSource::Load,
        Word::Temperature => MetricSource::Temperature,
        Word::Battery => MetricSource::Battery,
        Word::RemoteLogins => MetricSource::RemoteLogins,
        Word::NewRemoteLogins => MetricSource::NewRemoteLogins,
        Word::FileChanges => MetricSource::FileChanges {
            paths: paths(&place.child("paths"), raw.paths, problems)?,
        },
        Word::ConnectedDevices => MetricSource::ConnectedDevices,
        Word::UnknownDevices => MetricSource::UnknownDevices,
        Word::Neighbours => MetricSource::Neighbours {
            interface: match raw.interface {
                None => None,
                Some(value) => {
                    let place = place.child("interface");
                    Some(problems.text(&place, &value, InterfaceName::EXPECTED, str::parse)?)
                }
            },
        },
        Word::UnansweredConnections => MetricSource::UnansweredConnections,
        Word::DistinctDestinations => MetricSource::DistinctDestinations,
        Word::ConntrackUsage => MetricSource::ConntrackUsage,
        Word::AgentHealth => MetricSource::AgentHealth,
        Word::File => MetricSource::File {
            path: match raw.path {
                Some(value) => problems.absolute_path(&place.child("path"), &value)?,
                None => {
                    let place = place.child("path");
                    problems.push(place.key_problem("is missing", "write the absolute path of the file"));
                    return None;
                }
            },
            max_age_seconds: match raw.max_age_seconds {
                None => None,
                value => Some(seconds(MAX_AGE_SECONDS, "maxAgeSeconds", value, place, problems)?),
            },
        },
        Word::Command => {
            // Every key is looked at before any ends the matter.
            let command = command(&place.child("command"), raw.command.as_ref(), problems);
            let user = match raw.user {
                None => Some(USER_DEFAULT.to_owned()),
                Some(value) => user(&place.child("user"), &value, problems),
            };
            let every = seconds(EVERY_SECONDS, "everySeconds", raw.every_seconds, place, problems);
            let timeout = seconds(TIMEOUT_SECONDS, "timeoutSeconds", raw.timeout_seconds, place, problems);
            MetricSource::Command {
                command: command?,
                user: user?,
                every_seconds: every?,
                timeout_seconds: timeout?,
            }
        }
        Word::Topic => MetricSource::Topic {
            topic: match raw.topic {
                // A name that is wrong was noted.
                None => format!("{TOPIC_PREFIX}{}", name?.as_str()),
                Some(value) => {
                    let place = place.child("topic");
                    let expected = "write a topic below edge-warden/metrics/ without + and #, of at most 256 bytes";
                    problems.text(&place, &value, expected, topic)?
                }
            },
            max_age_seconds: seconds(MAX_AGE_SECONDS, "maxAgeSeconds", raw.max_age_seconds, place, problems)?,
        },
    };
    (!stray).then_some(source)
}

fn seconds(
    (range, default): (std::ops::RangeInclusive<u32>, u32),
    key: &str,
    value: Option<Value>,
    place: &Place,
    problems: &mut Problems,
) -> Option<u32> {
    match value {
        None => Some(default),
        Some(value) => problems.integer(&place.child(key), &value, range),
    }
}

fn pattern(raw: &mut RawCustomMetric, place: &Place, problems: &mut Problems) -> Option<ProcessPattern> {
    let process_place = place.child("process");
    let by = match raw.matching.take() {
        None => ProcessMatch::default(),
        Some(value) => problems.choice(&place.child("match"), &value)?,
    };
    let Some(value) = raw.process.take() else {
        problems.push(process_place.key_problem("is missing", "write the name of the process"));
        return None;
    };
    let process = problems.text(
        &process_place,
        &value,
        "write the name of the process, or with match: exe the absolute path of its executable",
        |text| match by {
            _ if text.is_empty() || text.len() > 4095 || text.contains('\0') => {
                Err("is no name of a process".to_owned())
            }
            ProcessMatch::Exe if !text.starts_with('/') => Err("is not an absolute path".to_owned()),
            ProcessMatch::Exact | ProcessMatch::Name if text.contains('/') => {
                Err("holds a '/', which no name of a process does".to_owned())
            }
            _ => Ok(text.to_owned()),
        },
    )?;
    Some(ProcessPattern { process, by })
}

/// One or more absolute paths, each once.
fn paths(place: &Place, value: Option<Value>, problems: &mut Problems) -> Option<Vec<PathBuf>> {
    let items = problems.items(place, value);
    if items.is_empty() || items.len() > MAX_PATHS {
        problems.push(place.key_problem(
            format!("names {} paths", items.len()),
            format!("write a list of 1 to {MAX_PATHS} absolute paths"),
        ));
        return None;
    }
    let count = items.len();
    let mut list = Vec::new();
    let mut good = 0;
    for (place, item) in items {
        if let Some(path) = problems.absolute_path(&place, &item) {
            good += 1;
            if !list.contains(&path) {
                list.push(path);
            }
        }
    }
    (good == count).then_some(list)
}

fn command(place: &Place, value: Option<&Value>, problems: &mut Problems) -> Option<Vec<String>> {
    let expected = "write a list: the absolute path of a program, then its arguments";
    let words = match value {
        Some(Value::Array(words)) if (1..=MAX_WORDS).contains(&words.len()) => words,
        Some(Value::Array(words)) => {
            problems.push(place.key_problem(format!("has {} words", words.len()), expected));
            return None;
        }
        Some(other) => {
            problems.push(place.problem(other, "is not a list (there is no shell to split it)", expected));
            return None;
        }
        None => {
            problems.push(place.key_problem("is missing", expected));
            return None;
        }
    };
    let mut command = Vec::new();
    for (index, word) in words.iter().enumerate() {
        let text = problems.text(&place.item(index), word, expected, |text| {
            if index == 0 && !Path::new(text).is_absolute() {
                return Err("is not an absolute path".to_owned());
            }
            if text.contains('\0') || text.len() > 4095 {
                return Err("cannot be handed to a program".to_owned());
            }
            Ok(text.to_owned())
        })?;
        command.push(text);
    }
    Some(command)
}

fn user(place: &Place, value: &Value, problems: &mut Problems) -> Option<String> {
    // 1000 is as good as "1000".
    let value = match value {
        Value::Number(number) => Value::String(number.to_string()),
        other => other.clone(),
    };
    problems.text(
        place,
        &value,
        "write the name or number of a user of this host",
        |text| {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
            let number = text.bytes().all(|b| b.is_ascii_digit());
            // The largest number means "no change" to the kernel (setresuid(2)).
            let is_id = || text.parse::<u32>().is_ok_and(|id| id != u32::MAX);
            if text.is_empty() || text.len() > 32 || !text.bytes().all(allowed) || text.starts_with('-') {
                return Err("is no name of a user".to_owned());
            }
            if number && !is_id() {
                return Err("is no number of a user".to_owned());
            }
            Ok(text.to_owned())
        },
    )
}

fn topic(text: &str) -> Result<String, String> {
    let below = text
        .strip_prefix(TOPIC_PREFIX)
        .ok_or_else(|| format!("is not below {TOPIC_PREFIX}"))?;
    let wild = below.contains(['+', '#', '*']) || below.chars().any(char::is_control);
    if below.is_empty() || wild || text.len() > 256 || below.split('/').any(str::is_empty) {
        return Err("is not a topic".to_owned());
    }
    Ok(text.to_owned())
}
