//! The configuration as written: which keys exist where. Values are kept as written and judged in `check`, so that
//! every problem is found in one go.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::file;
use super::problem::{ConfigError, Problems};
use super::profiles::ProfileFiles;
use super::sections;

/// Top-level keys of a component configuration that belong to Greengrass itself and are passed over.
pub(super) const GREENGRASS_KEYS: &[&str] = &["accessControl"];

/// A configuration as written; absent and null both mean the default, except where said.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RawConfig {
    /// See [`super::Config::sample_seconds`].
    pub sample_seconds: Option<Value>,
    /// See [`super::Report`].
    pub report: Option<RawReport>,
    /// See [`super::Lan`].
    pub lan: Option<RawLan>,
    /// A list of [`RawDevice`].
    pub devices: Option<Value>,
    /// See [`super::Discovery`].
    pub discovery: Option<RawDiscovery>,
    /// A list of [`RawCustomMetric`].
    pub custom_metrics: Option<Value>,
    /// See [`super::Detect`].
    pub detect: Option<RawDetect>,
    /// See [`super::Quarantine`].
    pub quarantine: Option<RawQuarantine>,
    /// See [`super::Config::state_dir`].
    pub state_dir: Option<Value>,
    /// A list of paths, relative to the folder of the configuration.
    pub include: Option<Value>,
    /// See [`super::Log`].
    pub log: Option<RawLog>,
    /// See [`super::Sandbox`].
    pub sandbox: Option<RawSandbox>,
    /// What the included files add, once resolved.
    #[serde(skip)]
    pub(super) included: Vec<Included>,
    /// The files that profiles are named by.
    #[serde(skip)]
    pub(super) profile_files: ProfileFiles,
    /// The file this is from, if any.
    #[serde(skip)]
    pub(super) main_file: Option<PathBuf>,
    /// What was wrong on the way here.
    #[serde(skip)]
    pub(super) problems: Problems,
}

/// The lists of one included file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Included {
    /// The file as named under `include`.
    pub(super) file: String,
    pub(super) lists: RawLists,
}

/// `report`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "each key is documented at super::Report")]
pub struct RawReport {
    pub interval_seconds: Option<Value>,
    pub format: Option<Value>,
    pub names: Option<Value>,
    pub core: Option<Value>,
    pub max_bytes: Option<Value>,
    pub interfaces: Option<Value>,
}

/// `lan`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "each key is documented at super::Lan")]
pub struct RawLan {
    pub interfaces: Option<Value>,
}

/// An entry of `devices`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "each key is documented at super::Device")]
pub struct RawDevice {
    pub thing_name: Option<Value>,
    pub macs: Option<Value>,
    pub addresses: Option<Value>,
    pub report: Option<Value>,
}

/// `discovery`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "each key is documented at super::Discovery")]
pub struct RawDiscovery {
    pub leases: Option<Value>,
    pub registration: Option<Value>,
    pub unknown_devices: Option<Value>,
}

/// An entry of `discovery.leases`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "each key is documented at super::LeaseFile")]
pub struct RawLeaseFile {
    pub path: Option<Value>,
    pub format: Option<Value>,
    pub thing_name: Option<Value>,
}

/// An entry of `customMetrics`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "each key is documented at super::CustomMetric")]
pub struct RawCustomMetric {
    pub name: Option<Value>,
    #[serde(rename = "type")]
    pub kind: Option<Value>,
    pub source: Option<Value>,
    pub process: Option<Value>,
    #[serde(rename = "match")]
    pub matching: Option<Value>,
    pub paths: Option<Value>,
    pub path: Option<Value>,
    pub interface: Option<Value>,
    pub command: Option<Value>,
    pub user: Option<Value>,
    pub every_seconds: Option<Value>,
    pub timeout_seconds: Option<Value>,
    pub topic: Option<Value>,
    pub max_age_seconds: Option<Value>,
}

/// `detect`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "each key is documented at super::Detect")]
pub struct RawDetect {
    pub profiles: Option<Value>,
    pub record: Option<Value>,
}

/// An entry of `detect.profiles`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "each key is documented at super::Profile")]
pub struct RawProfile {
    pub profile: Option<Value>,
    pub targets: Option<Value>,
    pub on_alarm: Option<Value>,
    pub release_when_cleared: Option<Value>,
    pub force: Option<Value>,
}

/// `quarantine`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "each key is documented at super::Quarantine")]
pub struct RawQuarantine {
    pub enforcement: Option<Value>,
    pub posture: Option<Value>,
    pub shadow: Option<RawShadow>,
    pub protected: Option<Value>,
    pub max_edge_quarantines: Option<Value>,
    pub edge_seconds: Option<Value>,
    pub table_ownership: Option<Value>,
    pub broker_ports: Option<Value>,
    pub boot_unit: Option<Value>,
}

/// `quarantine.shadow`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "each key is documented at super::QuarantineShadow")]
pub struct RawShadow {
    pub classic: Option<Value>,
    /// Here a written null is not the default: it switches the named shadow off.
    #[serde(default, deserialize_with = "as_written")]
    pub named: Option<Value>,
    pub source: Option<Value>,
}

/// `log`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "each key is documented at super::Log")]
pub struct RawLog {
    pub level: Option<Value>,
    pub format: Option<Value>,
}

/// `sandbox`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "each key is documented at super::Sandbox")]
pub struct RawSandbox {
    pub seccomp: Option<Value>,
}

/// What an included file may hold: lists, which are appended to those of the main configuration.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawLists {
    pub(super) devices: Option<Value>,
    pub(super) custom_metrics: Option<Value>,
    pub(super) discovery: Option<RawDiscoveryLists>,
    pub(super) detect: Option<RawDetectLists>,
    pub(super) quarantine: Option<RawQuarantineLists>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDiscoveryLists {
    pub(super) leases: Option<Value>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDetectLists {
    pub(super) profiles: Option<Value>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawQuarantineLists {
    pub(super) protected: Option<Value>,
}

fn as_written<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl RawConfig {
    /// The configuration in `value`, as `GetConfiguration` answers it or a file holds it. Misplaced and unknown keys
    /// are remembered and reported by [`RawConfig::check`] together with everything else.
    #[must_use]
    pub fn from_value(mut value: Value) -> Self {
        if let Value::Object(map) = &mut value {
            for key in GREENGRASS_KEYS {
                map.shift_remove(*key);
            }
        }
        let mut problems = Problems::default();
        let raw = sections::read_main(value, &mut problems);
        Self { problems, ..raw }
    }

    /// The configuration in the bytes of a file; `path` names it in errors, and one ending in `.json` is read as JSON,
    /// anything else as YAML.
    ///
    /// # Errors
    /// [`ConfigError::TooLarge`], [`ConfigError::NotUtf8`], [`ConfigError::Syntax`].
    pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self, ConfigError> {
        let value = file::parse(path, bytes)?;
        Ok(Self {
            main_file: Some(path.to_owned()),
            ..Self::from_value(value)
        })
    }
}
