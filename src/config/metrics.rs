//! An entry of `customMetrics`: what is measured besides the metrics of the report, under which name and type.

use std::path::PathBuf;
use std::str::FromStr;

use serde::Serialize;

use super::choice::Choice;
use super::values::InterfaceName;
use crate::model::CustomType;

/// The most entries of `customMetrics`.
pub const MAX_CUSTOM_METRICS: usize = 100;
/// What every topic of a pushed metric begins with: the recipe's access control names it.
pub const TOPIC_PREFIX: &str = "edge-warden/metrics/";
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
    /// True when the host is measured for it; the others are known to the agent anyhow, or come on their own.
    #[must_use]
    pub fn is_of_host(&self) -> bool {
        !self.is_per_thing()
            && !matches!(
                self,
                Self::ConnectedDevices
                    | Self::UnknownDevices
                    | Self::ConntrackUsage
                    | Self::AgentHealth
                    | Self::Topic { .. }
            )
    }

    /// True when it reads files or runs programs of the configuration's choice.
    #[must_use]
    pub fn is_free(&self) -> bool {
        matches!(
            self,
            Self::File { .. } | Self::FileChanges { .. } | Self::Command { .. }
        )
    }

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
    pub(super) const EXPECTED: &'static str =
        "write a metric name of 1 to 128 of a-z A-Z 0-9 : _ - that does not begin with aws:";

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
pub(super) enum Word {
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
    pub(super) fn as_str(self) -> &'static str {
        let word = Self::ALL.iter().find(|(_, choice)| *choice == self);
        word.map_or("", |(word, _)| word)
    }

    /// The types it can give, the default first.
    pub(super) fn types(self) -> &'static [CustomType] {
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
    pub(super) fn keys(self) -> &'static [&'static str] {
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

/// A word under `source`, the types it can give (the default first), and the keys it takes beside `name`, `type` and
/// `source`.
pub type SourceWord = (&'static str, &'static [CustomType], &'static [&'static str]);

/// Every word under `source`.
#[must_use]
pub fn metric_sources() -> Vec<SourceWord> {
    let all = Word::ALL.iter();
    all.map(|(name, word)| (*name, word.types(), word.keys())).collect()
}
