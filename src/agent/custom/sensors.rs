//! Measuring custom metrics: blocking, so it runs off the loop, beside the host and the site. Whatever may hang is on a
//! thread of its own ([`Poked`], [`Repeated`]), so this takes no longer than reading procfs and sysfs does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::command::{Order, Repeated};
use super::poked::Poked;
use super::watched::WatchedFiles;
use crate::agent::clock::{Clock, SystemClock};
use crate::collect::custom::{
    CpuTimes, Login, Processes, battery, cpu_times, disk_usage, listed, load, logins, memory_usage, parse, read_file,
    temperature,
};
use crate::collect::neighbours::{self, Neighbour};
use crate::config::{CustomMetric, MetricSource};
use crate::model::{CustomType, CustomValue, Measured, Missing, Reason, UnixTime};

/// How long a sample waits for all sources together that may hang.
const PATIENCE: Duration = Duration::from_millis(200);

/// Where the host is read.
#[derive(Debug, Clone)]
struct Roots {
    proc: PathBuf,
    sys: PathBuf,
    run: PathBuf,
}

/// What one sample is to bring.
#[derive(Debug, Clone)]
pub(in crate::agent) struct CustomAsk {
    /// The metrics that are named.
    pub(super) metrics: Arc<[CustomMetric]>,
    /// How long a second of the configuration takes.
    pub(super) second: Duration,
}

/// What it brought.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(in crate::agent) struct CustomSample {
    /// Values by name of metric.
    pub(super) values: BTreeMap<String, Measured<CustomValue>>,
    /// Remote logins now, when a metric is about them.
    pub(super) logins: Option<Measured<BTreeSet<Login>>>,
    /// How often each watched file changed since this process began, by name of metric.
    pub(super) changes: BTreeMap<String, Measured<BTreeMap<PathBuf, u64>>>,
}

impl CustomSample {
    /// Nothing of what is asked for, and why.
    pub(super) fn missing(ask: &CustomAsk, missing: &Missing) -> Self {
        let mut sample = Self::default();
        for metric in ask.metrics.iter().filter(|metric| metric.source.is_of_host()) {
            let name = metric.name.as_str().to_owned();
            match metric.source {
                MetricSource::RemoteLogins | MetricSource::NewRemoteLogins => {
                    sample.logins = Some(Err(missing.clone()))
                }
                MetricSource::FileChanges { .. } => {
                    sample.changes.insert(name, Err(missing.clone()));
                }
                _ => {
                    sample.values.insert(name, Err(missing.clone()));
                }
            }
        }
        sample
    }
}

/// Sources that may hang, by name of metric.
type Asked<T> = BTreeMap<String, Measured<Poked<T>>>;
/// What a file says, and when it was written.
type Content = (Vec<u8>, UnixTime);

/// Measures what custom metrics are named, and keeps what it takes from one sample to the next.
#[derive(Debug)]
pub(in crate::agent) struct Sensors {
    roots: Roots,
    state_dir: PathBuf,
    metrics: Arc<[CustomMetric]>,
    second: Duration,
    cpu: Option<CpuTimes>,
    cpu_usage: Option<f64>,
    files: Asked<Content>,
    disks: Asked<f64>,
    watched: Asked<BTreeMap<PathBuf, u64>>,
    commands: BTreeMap<String, Measured<Repeated>>,
}

/// Read once per sample, and only when a metric is about it.
#[derive(Default)]
struct Once {
    processes: Option<Measured<Processes>>,
    neighbours: Option<Measured<Vec<Neighbour>>>,
}

impl Sensors {
    /// Measures this host, nothing yet. What must survive a restart is kept in `state_dir`.
    pub(in crate::agent) fn new(state_dir: &Path) -> Self {
        Self {
            roots: Roots {
                proc: PathBuf::from("/proc"),
                sys: PathBuf::from("/sys"),
                run: PathBuf::from("/run"),
            },
            state_dir: state_dir.to_owned(),
            metrics: Arc::new([]),
            second: Duration::from_secs(1),
            cpu: None,
            cpu_usage: None,
            files: BTreeMap::new(),
            disks: BTreeMap::new(),
            watched: BTreeMap::new(),
            commands: BTreeMap::new(),
        }
    }

    /// Measures once.
    pub(in crate::agent) fn collect(&mut self, ask: &CustomAsk) -> CustomSample {
        if self.metrics != ask.metrics || self.second != ask.second {
            self.configure(ask);
        }
        let metrics = Arc::clone(&self.metrics);
        // Those that may hang are asked first, and answer while the others are read.
        let started = now();
        self.files.values().flatten().for_each(Poked::ask);
        self.disks.values().flatten().for_each(Poked::ask);
        self.watched.values().flatten().for_each(Poked::ask);
        if metrics.iter().any(|metric| metric.source == MetricSource::Cpu) {
            self.cpu_usage = self.read_cpu();
        }
        let mut once = Once::default();
        let mut sample = CustomSample::default();
        for metric in metrics.iter() {
            let name = metric.name.as_str();
            let left = || PATIENCE.saturating_sub(now().since(started));
            let value = match &metric.source {
                MetricSource::RemoteLogins | MetricSource::NewRemoteLogins => {
                    let logins = || logins(&self.roots.run);
                    sample.logins.get_or_insert_with(logins);
                    continue;
                }
                MetricSource::FileChanges { .. } => {
                    let changes = answer(&self.watched, name, left());
                    sample.changes.insert(name.to_owned(), changes);
                    continue;
                }
                MetricSource::File { path, max_age_seconds } => {
                    let content = answer(&self.files, name, left());
                    content.and_then(|content| file_value(path, &content, *max_age_seconds, metric.kind))
                }
                MetricSource::Disk { .. } => answer(&self.disks, name, left()).map(CustomValue::Number),
                MetricSource::Command { .. } => match self.commands.get(name) {
                    Some(Ok(command)) => command.answer(),
                    Some(Err(missing)) => Err(missing.clone()),
                    None => Err(not_begun(name)),
                },
                // Known to the site, the agent or the topics.
                source if !source.is_of_host() => continue,
                _ => self.read(metric, &mut once),
            };
            sample.values.insert(name.to_owned(), value);
        }
        sample
    }

    fn configure(&mut self, ask: &CustomAsk) {
        // What stays as it is goes on: its thread, its result, and what it knows of files.
        let speed = self.second == ask.second;
        let stays = |name: &str| {
            let of = |metrics: &[CustomMetric]| metrics.iter().find(|metric| metric.name.as_str() == name).cloned();
            speed && of(&self.metrics) == of(&ask.metrics)
        };
        self.files.retain(|name, _| stays(name));
        self.disks.retain(|name, _| stays(name));
        self.watched.retain(|name, _| stays(name));
        self.commands.retain(|name, _| stays(name));
        for metric in ask.metrics.iter() {
            let name = metric.name.as_str();
            match &metric.source {
                MetricSource::File { path, .. } => {
                    let path = path.clone();
                    start(&mut self.files, name, &path.display().to_string(), move || {
                        read_file(&path)
                    });
                }
                MetricSource::Disk { path } => {
                    let path = path.clone();
                    start(&mut self.disks, name, &path.display().to_string(), move || {
                        disk_usage(&path)
                    });
                }
                MetricSource::FileChanges { paths } => {
                    let mut files =
                        WatchedFiles::new(paths, self.state_dir.join("watched").join(format!("{name}.json")));
                    start(&mut self.watched, name, "watched files", move || files.look(wall()));
                }
                MetricSource::Command {
                    command,
                    user,
                    every_seconds,
                    timeout_seconds,
                } if !self.commands.contains_key(name) => {
                    let order = Order {
                        command: command.clone(),
                        user: user.clone(),
                        timeout: Duration::from_secs((*timeout_seconds).into()),
                        kind: metric.kind,
                    };
                    let started = Repeated::start(order, ask.second.saturating_mul(*every_seconds));
                    self.commands.insert(name.to_owned(), started);
                }
                _ => {}
            }
        }
        self.metrics = Arc::clone(&ask.metrics);
        self.second = ask.second;
    }

    /// Processor use since the last sample. The first has none, and one right after another keeps the value.
    fn read_cpu(&mut self) -> Option<f64> {
        let times = cpu_times(&self.roots.proc).ok();
        let earlier = std::mem::replace(&mut self.cpu, times);
        match (earlier, times) {
            (Some(earlier), Some(times)) => times.busy_since(earlier).or(self.cpu_usage),
            _ => None,
        }
    }

    fn read(&self, metric: &CustomMetric, once: &mut Once) -> Measured<CustomValue> {
        let Roots { proc, sys, .. } = &self.roots;
        let processes = || Processes::read(proc);
        let number = |value: Measured<f64>| value.map(CustomValue::Number);
        match &metric.source {
            MetricSource::Cpu => match self.cpu_usage {
                Some(usage) => Ok(CustomValue::Number(usage)),
                None => cpu_times(proc).and_then(|_| {
                    let detail = "needs two samples";
                    Err(Missing::new(
                        proc.join("stat").display().to_string(),
                        Reason::NotCollected,
                        detail,
                    ))
                }),
            },
            MetricSource::Memory => number(memory_usage(proc)),
            MetricSource::Load => number(load(proc)),
            MetricSource::Temperature => number(temperature(sys)),
            MetricSource::Battery => number(battery(sys)),
            MetricSource::Neighbours { interface } => {
                let found = once.neighbours.get_or_insert_with(neighbours::dump);
                let found = found.as_ref().map_err(Clone::clone)?;
                let wanted = interface.as_ref().map(crate::config::InterfaceName::as_str);
                let here = found
                    .iter()
                    .filter(|one| wanted.is_none_or(|wanted| one.interface == wanted));
                let addresses: BTreeSet<_> = here.map(|neighbour| neighbour.ip).collect();
                ip_value(addresses, metric.kind)
            }
            source => {
                let found = once
                    .processes
                    .get_or_insert_with(processes)
                    .as_ref()
                    .map_err(Clone::clone)?;
                match source {
                    MetricSource::ChildProcesses(pattern) => {
                        let children = found.descendants(pattern);
                        match metric.kind {
                            CustomType::StringList => {
                                let names: BTreeSet<&str> = children.iter().map(|child| child.comm.as_str()).collect();
                                text_value(names, metric.kind)
                            }
                            _ => Ok(count(children.len())),
                        }
                    }
                    MetricSource::ProcessCount { of: Some(pattern) } => Ok(count(found.matching(pattern).count())),
                    MetricSource::RunningPrograms => text_value(found.programs()?, metric.kind),
                    MetricSource::UnexpectedPrograms { paths } => text_value(found.unexpected(paths)?, metric.kind),
                    // `ProcessCount` of all; the others were taken out before.
                    _ => Ok(count(found.count())),
                }
            }
        }
    }
}

fn start<T: Clone + Send + 'static>(
    sources: &mut Asked<T>,
    name: &str,
    source: &str,
    look: impl FnMut() -> Measured<T> + Send + 'static,
) {
    if !sources.contains_key(name) {
        // Not asked yet: the sample that follows does, and a second question would make the first answer late.
        sources.insert(name.to_owned(), Poked::start(source, look));
    }
}

fn answer<T: Clone + Send + 'static>(sources: &Asked<T>, name: &str, patience: Duration) -> Measured<T> {
    match sources.get(name) {
        Some(Ok(source)) => source.answer(patience),
        Some(Err(missing)) => Err(missing.clone()),
        None => Err(not_begun(name)),
    }
}

fn not_begun(name: &str) -> Missing {
    Missing::new(name, Reason::NotCollected, "not begun")
}

fn file_value(
    path: &Path,
    (content, written): &Content,
    max_age_seconds: Option<u32>,
    kind: CustomType,
) -> Measured<CustomValue> {
    let missing = |reason, detail: String| Missing::new(path.display().to_string(), reason, detail);
    if let Some(seconds) = max_age_seconds {
        let age = wall().seconds().saturating_sub(written.seconds());
        if age > u64::from(seconds) {
            return Err(missing(
                Reason::Absent,
                format!("not written for more than {seconds} s"),
            ));
        }
    }
    parse(content, kind).map_err(|wrong| missing(Reason::Malformed, wrong))
}

/// How many.
pub(super) fn count(number: usize) -> CustomValue {
    // Exact for every number of things that fits into memory.
    #[allow(clippy::cast_precision_loss, reason = "no count here comes near 2^53")]
    CustomValue::Number(number as f64)
}

/// Texts as a list, or how many there are.
pub(super) fn text_value<T: AsRef<str>>(texts: BTreeSet<T>, kind: CustomType) -> Measured<CustomValue> {
    if kind != CustomType::StringList {
        return Ok(count(texts.len()));
    }
    listed(texts).map_err(|wrong| Missing::new("custom metric", Reason::Malformed, wrong))
}

/// Addresses as a list, or how many there are.
pub(super) fn ip_value(addresses: BTreeSet<std::net::IpAddr>, kind: CustomType) -> Measured<CustomValue> {
    if kind != CustomType::IpAddressList {
        return Ok(count(addresses.len()));
    }
    if addresses.len() > crate::collect::custom::MAX_ITEMS {
        let detail = format!(
            "{} addresses, more than {}",
            addresses.len(),
            crate::collect::custom::MAX_ITEMS
        );
        return Err(Missing::new("custom metric", Reason::Malformed, detail));
    }
    Ok(CustomValue::IpList(addresses.into_iter().collect()))
}

/// Real time, for waits and for comparison with the times of files.
fn now() -> crate::model::Monotonic {
    SystemClock::accelerated(1).monotonic()
}

fn wall() -> UnixTime {
    SystemClock::accelerated(1).wall()
}
