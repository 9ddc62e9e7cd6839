//! What the agent is made of, and how it ends.

use std::path::PathBuf;

use tokio::sync::mpsc;

use super::custom::Helper;
use super::host::HostSource;
use super::site::source::SiteSource;
use super::warden::Warden;
use crate::collect::HostSample;
use crate::config::{Config, LogLevel, Mode};
use crate::control::Asked;
use crate::greengrass::NucleusKind;
use crate::greengrass::link::{NucleusEvents, NucleusLink};
use crate::model::ThingName;
use crate::sandbox::Held;

/// Everything the agent is made of.
pub struct Parts<C> {
    /// The time.
    pub clock: C,
    /// The nucleus.
    pub link: NucleusLink,
    /// What the nucleus sends.
    pub events: NucleusEvents,
    /// The host.
    pub host: Box<dyn HostSource>,
    /// The LAN and what is on it.
    pub site: Box<dyn SiteSource>,
    /// Questions from the control socket.
    pub questions: mpsc::Receiver<Asked>,
    /// Asks to read the configuration anew (SIGHUP).
    pub reloads: mpsc::Receiver<()>,
    /// The core device's thing.
    pub core: ThingName,
    /// Which nucleus it is.
    pub kind: NucleusKind,
    /// Which rules the configuration is held to.
    pub mode: Mode,
    /// The configuration to begin with.
    pub config: Config,
    /// What was wrong with the configuration the nucleus gave at the start, when an older one is in use instead.
    pub config_error: Option<String>,
    /// This boot, as `/proc/sys/kernel/random/boot_id` names it.
    pub boot_id: String,
    /// Where state is kept.
    pub state_dir: PathBuf,
    /// Quarantine, already enforcing what was decided before.
    pub warden: Warden,
    /// The sample that was made for.
    pub sample: HostSample,
    /// Where relative `include` paths of the component configuration start.
    pub include_dir: PathBuf,
    /// Where the last valid configuration is kept; `None` when a file is the configuration.
    pub last_good_config: Option<PathBuf>,
    /// What this process gave up when it started; `None`: nothing was given up (tests).
    pub privileges: Option<Held>,
    /// The process that measures custom metrics; `None`: they are measured here, as far as that may.
    pub helper: Option<Helper>,
    /// Stop after this many accepted reports of the core.
    pub stop_after_reports: Option<u64>,
    /// Told when the log level changes.
    pub set_log_level: Box<dyn Fn(LogLevel)>,
}

/// Why the agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to, or has done what it was to do.
    Stopped,
    /// The nucleus's thread is gone.
    NucleusGone,
}
