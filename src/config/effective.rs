//! The configuration in use. Field names are the documented keys in camelCase.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use super::choice::{
    Enforcement, LeaseFormat, LogFormat, LogLevel, Posture, ReportFormat, ReportNames, Seccomp, ShadowSource,
    TableOwnership, UnknownDevices,
};
use super::metrics::CustomMetric;
use super::profiles::Profile;
use super::values::{AutoOr, Changes, InterfaceName, Protected, ShadowName, ThingNameTemplate};
use crate::model::{CustomType, MacAddress, ThingName};

/// Default of `sampleSeconds`.
pub const SAMPLE_SECONDS_DEFAULT: u32 = 10;
/// Default of `report.intervalSeconds`: as often as Device Defender takes reports.
pub const INTERVAL_SECONDS_DEFAULT: u32 = 300;
/// Default of `quarantine.shadow.named`.
pub const SHADOW_NAME_DEFAULT: &str = "quarantine";
/// Default of `quarantine.brokerPorts`: MQTT over TLS, what the Moquette and EMQX components listen on.
pub const BROKER_PORTS_DEFAULT: u16 = 8883;
/// Default of `stateDir`.
pub const STATE_DIR_DEFAULT: &str = "/var/lib/edge-warden";
/// The most entries of `devices`.
pub const MAX_DEVICES: usize = 10_000;
/// The most entries of `quarantine.brokerPorts`.
pub const MAX_BROKER_PORTS: usize = 16;
/// Keys that need a new process: the state in the old directory is open and locked, and a filter is never lifted.
pub const RESTART_KEYS: &[&str] = &["stateDir", "sandbox.seccomp"];

/// A valid configuration: made by [`super::RawConfig::check`] or [`Config::default`]. Each key is explained in
/// docs/configuration.md.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// Seconds between two samples.
    pub sample_seconds: u32,
    /// What is reported to Device Defender, and how.
    pub report: Report,
    /// Where the local things are.
    pub lan: Lan,
    /// Local things named here. Thing names are unique, and no MAC or IP address stands under two of them.
    pub devices: Vec<Device>,
    /// How other local things are found.
    pub discovery: Discovery,
    /// Custom metrics; every name once.
    pub custom_metrics: Vec<CustomMetric>,
    /// Edge detection.
    pub detect: Detect,
    /// Quarantine.
    pub quarantine: Quarantine,
    /// Where decisions and counters are kept over restarts; absolute.
    pub state_dir: PathBuf,
    /// The included files, as written.
    pub include: Vec<String>,
    /// Logging.
    pub log: Log,
    /// What the agent denies itself.
    pub sandbox: Sandbox,
}

/// `report`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Seconds between two reports of a thing.
    pub interval_seconds: u32,
    /// Encoding.
    pub format: ReportFormat,
    /// Tag set.
    pub names: ReportNames,
    /// Whether the core itself is reported.
    pub core: bool,
    /// The most bytes of one report; auto: what the nucleus carries.
    pub max_bytes: AutoOr<u32>,
    /// The interfaces the core's own `network_stats` counts; never an empty list.
    pub interfaces: AutoOr<Vec<InterfaceName>>,
}

/// `lan`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lan {
    /// The interfaces local things are behind; an empty list: there are none.
    pub interfaces: AutoOr<Vec<InterfaceName>>,
}

/// An entry of `devices`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// The thing.
    pub thing_name: ThingName,
    /// Its MAC addresses, each once, none a group address or zero.
    pub macs: Vec<MacAddress>,
    /// Its fixed IP addresses, each once, unicast, IPv4-mapped ones folded to IPv4.
    pub addresses: Vec<IpAddr>,
    /// False for a thing that has a Device Defender agent of its own.
    pub report: bool,
}

/// `discovery`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Discovery {
    /// DHCP lease files to read.
    pub leases: Vec<LeaseFile>,
    /// Whether client devices may register their MAC addresses over MQTT.
    pub registration: bool,
    /// What to do about devices no source names.
    pub unknown_devices: UnknownDevices,
}

/// An entry of `discovery.leases`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaseFile {
    /// The file; absolute.
    pub path: PathBuf,
    /// Its layout.
    pub format: LeaseFormat,
    /// How a lease becomes a thing name.
    pub thing_name: ThingNameTemplate,
}

/// `detect`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Detect {
    /// Security profiles, those of files read in.
    pub profiles: Vec<Profile>,
    /// Whether datapoints are recorded for replay.
    pub record: bool,
}

/// `quarantine`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Quarantine {
    /// Whether decisions reach the kernel.
    pub enforcement: Enforcement,
    /// What a quarantined thing may still do.
    pub posture: Posture,
    /// The shadows that ask for quarantine.
    pub shadow: QuarantineShadow,
    /// What no quarantine may touch.
    pub protected: Vec<Protected>,
    /// How many things detection may cut off at once and per hour.
    pub max_edge_quarantines: AutoOr<NonZeroU16>,
    /// How long an alarm's quarantine lasts at the most, seconds; 0: as long as nobody ends it.
    pub edge_seconds: u32,
    /// Whether the kernel guards our tables.
    pub table_ownership: TableOwnership,
    /// The core's broker ports a thing in `remediate` may reach; not empty, each once.
    pub broker_ports: Vec<NonZeroU16>,
    /// Whether a boot unit restores the rules before the network is up.
    pub boot_unit: bool,
}

/// `quarantine.shadow`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QuarantineShadow {
    /// Whether the classic (unnamed) shadow counts.
    pub classic: bool,
    /// The named shadow that counts; `None`: no named one does.
    pub named: Option<ShadowName>,
    /// Where shadows are read and written.
    pub source: ShadowSource,
}

/// `log`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Log {
    /// The least important line that is logged.
    pub level: LogLevel,
    /// The layout of a line.
    pub format: LogFormat,
}

/// `sandbox`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sandbox {
    /// Whether system calls the agent never makes end it.
    pub seccomp: Seccomp,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sample_seconds: SAMPLE_SECONDS_DEFAULT,
            report: Report::default(),
            lan: Lan::default(),
            devices: Vec::new(),
            discovery: Discovery::default(),
            custom_metrics: Vec::new(),
            detect: Detect::default(),
            quarantine: Quarantine::default(),
            state_dir: PathBuf::from(STATE_DIR_DEFAULT),
            include: Vec::new(),
            log: Log::default(),
            sandbox: Sandbox::default(),
        }
    }
}

impl Default for Report {
    fn default() -> Self {
        Self {
            interval_seconds: INTERVAL_SECONDS_DEFAULT,
            format: ReportFormat::default(),
            names: ReportNames::default(),
            core: true,
            max_bytes: AutoOr::Auto,
            interfaces: AutoOr::Auto,
        }
    }
}

impl Default for Lan {
    fn default() -> Self {
        Self {
            interfaces: AutoOr::Auto,
        }
    }
}

impl Default for Discovery {
    fn default() -> Self {
        Self {
            leases: Vec::new(),
            registration: true,
            unknown_devices: UnknownDevices::default(),
        }
    }
}

impl Default for Quarantine {
    fn default() -> Self {
        Self {
            enforcement: Enforcement::default(),
            posture: Posture::default(),
            shadow: QuarantineShadow::default(),
            protected: Vec::new(),
            max_edge_quarantines: AutoOr::Auto,
            edge_seconds: 0,
            table_ownership: TableOwnership::default(),
            broker_ports: NonZeroU16::new(BROKER_PORTS_DEFAULT).into_iter().collect(),
            boot_unit: false,
        }
    }
}

impl Default for QuarantineShadow {
    fn default() -> Self {
        Self {
            classic: true,
            named: Some(ShadowName(SHADOW_NAME_DEFAULT.to_owned())),
            source: ShadowSource::default(),
        }
    }
}

impl Config {
    /// Every key with the value in use, defaults included; what `status` shows. Reading it back as a configuration
    /// (without `include`, whose lists are already in it) gives this configuration again.
    #[must_use]
    pub fn effective(&self) -> Value {
        // Only strings, numbers, lists and maps with text keys: this cannot fail, and a panic would be worse than null.
        serde_json::to_value(self).unwrap_or(Value::Null)
    }

    /// The declared type of each custom metric, by name: what a profile may compare it with.
    #[must_use]
    pub fn custom_types(&self) -> BTreeMap<&str, CustomType> {
        let metrics = self.custom_metrics.iter();
        metrics.map(|metric| (metric.name.as_str(), metric.kind)).collect()
    }

    /// The keys in which `new` differs, a list being one key, sorted by what it takes to use them.
    #[must_use]
    pub fn changes(&self, new: &Self) -> Changes {
        let mut changes = Changes::default();
        differences(&self.effective(), &new.effective(), "", &mut changes);
        changes
    }
}

fn differences(old: &Value, new: &Value, key: &str, changes: &mut Changes) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            // Both come from the same struct, so they have the same keys.
            for (name, old) in old {
                let key = if key.is_empty() {
                    name.clone()
                } else {
                    format!("{key}.{name}")
                };
                differences(old, new.get(name).unwrap_or(&Value::Null), &key, changes);
            }
        }
        _ if old == new => {}
        _ if RESTART_KEYS.contains(&key) => changes.restart.push(key.to_owned()),
        _ => changes.hot.push(key.to_owned()),
    }
}
