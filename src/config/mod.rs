//! Configuration: as written ([`RawConfig`]) and as used ([`Config`], which cannot be invalid).
//!
//! ```text
//!  file (YAML, JSON) ─ file::parse ─┐
//!                                   ├─▶ RawConfig ── resolve_includes ──▶ check(mode) ──▶ Config
//!  component configuration ─────────┘       every problem found on the way is kept and shown together
//! ```
//!
//! Reading files is the only I/O here, in [`load_file`] and [`load_component`]; the rest is pure.

mod check;
mod choice;
mod devices;
mod effective;
mod file;
mod leaf;
mod metric_checks;
mod metrics;
mod problem;
mod profiles;
mod raw;
mod sections;
mod values;

pub use choice::{
    Enforcement, LeaseFormat, LogFormat, LogLevel, OnAlarm, Posture, ReportFormat, ReportNames, Seccomp, ShadowSource,
    TableOwnership, UnknownDevices,
};
pub use effective::{
    BROKER_PORTS_DEFAULT, Config, Detect, Device, Discovery, INTERVAL_SECONDS_DEFAULT, Lan, LeaseFile, Log,
    MAX_BROKER_PORTS, MAX_DEVICES, Quarantine, QuarantineShadow, RESTART_KEYS, Report, SAMPLE_SECONDS_DEFAULT,
    SHADOW_NAME_DEFAULT, STATE_DIR_DEFAULT, Sandbox,
};
pub use file::{MAX_FILE_BYTES, MAX_INCLUDES, load_component, load_file, named_files, read_limited};
pub use metrics::{
    CustomMetric, MAX_CUSTOM_METRICS, MetricName, MetricSource, ProcessMatch, ProcessPattern, SourceWord, TOPIC_PREFIX,
    metric_sources,
};
pub use problem::{ConfigError, MAX_PROBLEMS, Problem, Problems};
pub use profiles::{MAX_PROFILES, Profile, load_profile};
pub use raw::{
    RawConfig, RawCustomMetric, RawDetect, RawDevice, RawDiscovery, RawLan, RawLeaseFile, RawLog, RawProfile,
    RawQuarantine, RawReport, RawSandbox, RawShadow,
};
pub use sections::keys;
pub use values::{
    AutoOr, Changes, HOSTNAME_PLACEHOLDER, InterfaceName, Mode, Network, Protected, ShadowName, ThingNameTemplate,
};
