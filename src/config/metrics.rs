//! The list `customMetrics`: what is measured besides the metrics of the report, under which name and type.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Serialize;
use serde_json::Value;

use super::choice::Choice;
use super::problem::{Place, Problems};
use super::raw::RawCustomMetric;
use super::sections::read_item;
use super::values::InterfaceName;
use crate::model::CustomType;

/// The most entries of `customMetrics`.
pub const MAX_CUSTOM_METRICS: usize = 100;
/// What every topic of a pushed metric begins with: the recipe's access control names it.
pub const TOPIC_PREFIX: &str = "edge-warden/metrics/";
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

/// An entry of `customMetrics`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CustomMetric {
    /// The name in reports and profiles.
    pub name: MetricName,
    /// The declared type; one its source can give.
    #[serde(rename = "type")]
    pub kind: CustomType,
    /// Where the value comes from.
    #[serde(flatten)]
    pub source: MetricSource,
}

/// Where the value of a custom metric comes from. Each is explained in docs/custom-metrics.md.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "source", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum MetricSource {
    /// Children, and their children, of the processes that match.
    ChildProcesses(ProcessPattern),
    /// The processes that match, or all.
    ProcessCount {
        /// Which ones; `None`: all.
        #[serde(flatten)]
        of: Option<ProcessPattern>,
    },
    /// The programs that run.
    RunningPrograms,
    /// The programs that run from elsewhere.
    UnexpectedPrograms {
        /// The folders programs are expected in; absolute, not empty.
        paths: Vec<PathBuf>,
    },
    /// Processor use in percent of all processors, since the last sample.
    Cpu,
    /// Memory in use, in percent.
    Memory,
    /// Disk space in use, in percent.
    Disk {
        /// A path on the file system.
        path: PathBuf,
    },
    /// Load average over one minute.
    Load,
    /// The highest temperature, in degrees Celsius.
    Temperature,
    /// The lowest charge of a battery, in percent.
    Battery,
    /// Remote logins now.
    RemoteLogins,
    /// Remote logins begun since the last report.
    NewRemoteLogins,
    /// Changes of files since the last report.
    FileChanges {
        /// The files; absolute, not empty.
        paths: Vec<PathBuf>,
    },
    /// Local things connected to the core's broker.
    ConnectedDevices,
    /// Devices no source names.
    UnknownDevices,
    /// Neighbours, of one interface or all.
    Neighbours {
        /// The interface; `None`: all.
        #[serde(skip_serializing_if = "Option::is_none")]
        interface: Option<InterfaceName>,
    },
    /// Per local thing: attempts to connect that nobody answered, since the thing's last report.
    UnansweredConnections,
    /// Per local thing: different addresses it began flows to, since the thing's last report.
    DistinctDestinations,
    /// How full the table of tracked flows is, in percent.
    ConntrackUsage,
    /// What the agent cannot measure or do.
    AgentHealth,
    /// The content of a file.
    File {
        /// The file; absolute.
        path: PathBuf,
        /// A file last changed longer ago, in seconds, counts as failed; `None`: however old.
        #[serde(skip_serializing_if = "Option::is_none")]
        max_age_seconds: Option<u32>,
    },
    /// What a command prints.
    Command {
        /// The program (an absolute path) and its arguments.
        command: Vec<String>,
        /// The user it runs as: a name of /etc/passwd, or a number.
        user: String,
        /// Seconds between two runs.
        every_seconds: u32,
        /// Seconds after which it is killed.
        timeout_seconds: u32,
    },
    /// What another component publishes on local pub/sub.
    Topic {
        /// The topic, below [`TOPIC_PREFIX`].
        topic: String,
        /// A message counts for so many seconds.
        max_age_seconds: u32,
    },
}

impl MetricSource {
    /// True when each local thing has a value of its own; else the value is the core's.
    #[must_use]
    pub fn is_per_thing(&self) -> bool {
        matches!(self, Self::UnansweredConnections | Self::DistinctDestinations)
    }
}

/// Which processes are meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProcessPattern {
    /// What is looked for.
    pub process: String,
    /// Where, and how.
    #[serde(rename = "match")]
    pub by: ProcessMatch,
}

/// How a process is told from others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ProcessMatch {
    /// A name of the process is the text. Its names are its `comm`, the file name of its executable, and the file name in
    /// its first argument.
    #[default]
    Exact,
    /// The text is part of a name.
    Name,
    /// The kernel's name of the process is the text, cut to 15 bytes as the kernel does (proc_pid_comm(5)).
    Comm,
    /// The path of its executable is the text.
    Exe,
}

impl Choice for ProcessMatch {
    const ALL: &'static [(&'static str, Self)] = &[
        ("exact", Self::Exact),
        ("name", Self::Name),
        ("comm", Self::Comm),
        ("exe", Self::Exe),
    ];
}

impl Serialize for ProcessMatch {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let word = Self::ALL.iter().find(|(_, choice)| choice == self);
        serializer.serialize_str(word.map_or("exact", |(word, _)| word))
    }
}

impl Choice for CustomType {
    const ALL: &'static [(&'static str, Self)] = &[
        ("number", Self::Number),
        ("number-list", Self::NumberList),
        ("string-list", Self::StringList),
        ("ip-address-list", Self::IpAddressList),
    ];
}

/// The name of a custom metric: `[a-zA-Z0-9:_-]{1,128}`, not beginning with `aws:` (API CreateCustomMetric, `metricName`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct MetricName(String);

impl MetricName {
    const EXPECTED: &'static str = "write a metric name of 1 to 128 of a-z A-Z 0-9 : _ - that does not begin with aws:";

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MetricName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b':' | b'_' | b'-');
        if text.is_empty() || text.len() > 128 || !text.bytes().all(allowed) {
            return Err("is not a metric name".to_owned());
        }
        if text.starts_with("aws:") {
            return Err("is a name of AWS".to_owned());
        }
        Ok(Self(text.to_owned()))
    }
}

/// The words under `source`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    ChildProcesses,
    ProcessCount,
    RunningPrograms,
    UnexpectedPrograms,
    Cpu,
    Memory,
    Disk,
    Load,
    Temperature,
    Battery,
    RemoteLogins,
    NewRemoteLogins,
    FileChanges,
    ConnectedDevices,
    UnknownDevices,
    Neighbours,
    UnansweredConnections,
    DistinctDestinations,
    ConntrackUsage,
    AgentHealth,
    File,
    Command,
    Topic,
}

impl Choice for Word {
    const ALL: &'static [(&'static str, Self)] = &[
        ("childProcesses", Self::ChildProcesses),
        ("processCount", Self::ProcessCount),
        ("runningPrograms", Self::RunningPrograms),
        ("unexpectedPrograms", Self::UnexpectedPrograms),
        ("cpu", Self::Cpu),
        ("memory", Self::Memory),
        ("disk", Self::Disk),
        ("load", Self::Load),
        ("temperature", Self::Temperature),
        ("battery", Self::Battery),
        ("remoteLogins", Self::RemoteLogins),
        ("newRemoteLogins", Self::NewRemoteLogins),
        ("fileChanges", Self::FileChanges),
        ("connectedDevices", Self::ConnectedDevices),
        ("unknownDevices", Self::UnknownDevices),
        ("neighbours", Self::Neighbours),
        ("unansweredConnections", Self::UnansweredConnections),
        ("distinctDestinations", Self::DistinctDestinations),
        ("conntrackUsage", Self::ConntrackUsage),
        ("agentHealth", Self::AgentHealth),
        ("file", Self::File),
        ("command", Self::Command),
        ("topic", Self::Topic),
    ];
}

impl Word {
    fn as_str(self) -> &'static str {
        let word = Self::ALL.iter().find(|(_, choice)| *choice == self);
        word.map_or("", |(word, _)| word)
    }

    /// The types it can give, the default first.
    fn types(self) -> &'static [CustomType] {
        use CustomType::{IpAddressList, Number, NumberList, StringList};
        match self {
            Self::RunningPrograms | Self::UnexpectedPrograms | Self::AgentHealth => &[StringList, Number],
            Self::ChildProcesses | Self::FileChanges | Self::ConnectedDevices | Self::UnknownDevices => {
                &[Number, StringList]
            }
            Self::RemoteLogins | Self::NewRemoteLogins | Self::Neighbours => &[Number, IpAddressList],
            Self::File | Self::Command | Self::Topic => &[Number, NumberList, StringList, IpAddressList],
            Self::ProcessCount
            | Self::Cpu
            | Self::Memory
            | Self::Disk
            | Self::Load
            | Self::Temperature
            | Self::Battery
            | Self::UnansweredConnections
            | Self::DistinctDestinations
            | Self::ConntrackUsage => &[Number],
        }
    }

    /// The keys it takes beside `name`, `type` and `source`.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::ChildProcesses | Self::ProcessCount => &["process", "match"],
            Self::UnexpectedPrograms | Self::FileChanges => &["paths"],
            Self::Disk => &["path"],
            Self::Neighbours => &["interface"],
            Self::File => &["path", "maxAgeSeconds"],
            Self::Command => &["command", "user", "everySeconds", "timeoutSeconds"],
            Self::Topic => &["topic", "maxAgeSeconds"],
            _ => &[],
        }
    }
}

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
            let command = command(&place.child("command"), raw.command, problems);
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

fn command(place: &Place, value: Option<Value>, problems: &mut Problems) -> Option<Vec<String>> {
    let expected = "write a list: the absolute path of a program, then its arguments";
    let words = match &value {
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
