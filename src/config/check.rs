//! From as written to as used: every rule of docs/configuration.md.

use std::collections::HashSet;
use std::num::NonZeroU16;

use serde_json::Value;

use super::choice::Choice;
use super::devices;
use super::effective::{
    Config, Detect, Discovery, Lan, LeaseFile, Log, MAX_BROKER_PORTS, Quarantine, QuarantineShadow, Report, Sandbox,
};
use super::metric_checks;
use super::problem::{ConfigError, Place, Problems};
use super::profiles::{self, ProfileFiles};
use super::raw::{
    Included, RawConfig, RawDetect, RawDiscovery, RawLan, RawLeaseFile, RawLists, RawLog, RawQuarantine, RawReport,
    RawSandbox, RawShadow,
};
use super::sections::read_item;
use super::values::{AutoOr, InterfaceName, Mode, Protected, ShadowName, ThingNameTemplate};

/// Allowed `sampleSeconds`.
const SAMPLE_SECONDS: std::ops::RangeInclusive<u32> = 1..=300;
/// The largest `report.intervalSeconds`: a day.
const INTERVAL_SECONDS_MAX: u32 = 86_400;
/// Allowed `report.maxBytes`: enough for the totals of a report; the classic nucleus carries 128 KB.
const MAX_BYTES: std::ops::RangeInclusive<u32> = 1000..=131_072;
/// Allowed `quarantine.maxEdgeQuarantines`.
const MAX_EDGE_QUARANTINES: std::ops::RangeInclusive<u16> = 1..=10_000;
/// Allowed `quarantine.edgeSeconds`: up to a year.
const EDGE_SECONDS: std::ops::RangeInclusive<u32> = 0..=31_536_000;
/// The most entries of `discovery.leases`.
const MAX_LEASES: usize = 64;
/// The most entries of `quarantine.protected`.
const MAX_PROTECTED: usize = 10_000;

impl RawConfig {
    /// The configuration in use, or all that is wrong with this one.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`].
    pub fn check(self, mode: Mode) -> Result<Config, ConfigError> {
        let Self {
            sample_seconds,
            report,
            lan,
            devices,
            discovery,
            custom_metrics,
            detect,
            quarantine,
            state_dir,
            include,
            log,
            sandbox,
            included,
            profile_files,
            main_file,
            mut problems,
        } = self;
        let found = &mut problems;
        let top = Place::document(None);
        let default = Config::default();
        let all_devices = gather(devices, &included, "devices", |lists| lists.devices.as_ref(), found);
        let all_metrics = gather(
            custom_metrics,
            &included,
            "customMetrics",
            |lists| lists.custom_metrics.as_ref(),
            found,
        );
        let config = Config {
            sample_seconds: sample_seconds
                .and_then(|value| found.integer(&top.child("sampleSeconds"), &value, SAMPLE_SECONDS))
                .unwrap_or(default.sample_seconds),
            report: check_report(report.unwrap_or_default(), mode, found),
            lan: check_lan(lan.unwrap_or_default(), found),
            devices: devices::check(all_devices, found),
            discovery: check_discovery(discovery.unwrap_or_default(), &included, found),
            custom_metrics: metric_checks::check(all_metrics, found),
            detect: check_detect(detect.unwrap_or_default(), &included, &profile_files, found),
            quarantine: check_quarantine(quarantine.unwrap_or_default(), &included, found),
            state_dir: state_dir
                .and_then(|value| found.absolute_path(&top.child("stateDir"), &value))
                .unwrap_or(default.state_dir),
            // Wrong entries were noted when the files were read.
            include: match include {
                Some(Value::Array(items)) => items
                    .iter()
                    .filter_map(|item| item.as_str().map(str::to_owned))
                    .collect(),
                _ => Vec::new(),
            },
            log: check_log(log.unwrap_or_default(), found),
            sandbox: check_sandbox(sandbox.unwrap_or_default(), found),
        };
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError::Invalid {
                file: main_file,
                problems,
            })
        }
    }
}

/// The switch `name` of the mapping at `place`.
fn switch(problems: &mut Problems, place: &Place, name: &str, value: Option<Value>, default: bool) -> bool {
    value
        .and_then(|value| problems.switch(&place.child(name), &value))
        .unwrap_or(default)
}

/// The word under `name` of the mapping at `place`; the default is the type's own.
fn choice<C: Choice + Default>(problems: &mut Problems, place: &Place, name: &str, value: Option<Value>) -> C {
    value
        .and_then(|value| problems.choice(&place.child(name), &value))
        .unwrap_or_default()
}

/// The items of the list `key`, those of the main configuration first, then of each included file.
fn gather(
    main: Option<Value>,
    included: &[Included],
    key: &str,
    list: impl Fn(&RawLists) -> Option<&Value>,
    problems: &mut Problems,
) -> Vec<(Place, Value)> {
    let mut items = problems.items(&Place::document(None).child(key), main);
    for file in included {
        let place = Place::document(Some(&file.file)).child(key);
        items.extend(problems.items(&place, list(&file.lists).cloned()));
    }
    items
}

fn check_report(raw: RawReport, mode: Mode, problems: &mut Problems) -> Report {
    let place = Place::document(None).child("report");
    let default = Report::default();
    let floor = mode.fastest_report_seconds();
    let below = match mode {
        Mode::Greengrass => ", the fastest AWS IoT Device Defender takes",
        Mode::Standalone => "",
    };
    let interfaces_place = place.child("interfaces");
    let names_none = raw
        .interfaces
        .as_ref()
        .and_then(Value::as_array)
        .is_some_and(Vec::is_empty);
    let interfaces = raw
        .interfaces
        .and_then(|value| interfaces(&interfaces_place, value, problems));
    if names_none {
        // Counting nothing would report zeros, which look like a measurement.
        problems.push(interfaces_place.key_problem("names no interface", "use auto or name at least one"));
    }
    Report {
        interval_seconds: raw
            .interval_seconds
            .and_then(|value| {
                let range = floor..=INTERVAL_SECONDS_MAX;
                problems.integer_below(&place.child("intervalSeconds"), &value, range, below, "use")
            })
            .unwrap_or(default.interval_seconds),
        format: choice(problems, &place, "format", raw.format),
        names: choice(problems, &place, "names", raw.names),
        core: switch(problems, &place, "core", raw.core, default.core),
        max_bytes: raw
            .max_bytes
            .and_then(|value| problems.auto_or_integer(&place.child("maxBytes"), &value, MAX_BYTES))
            .unwrap_or(default.max_bytes),
        interfaces: interfaces.unwrap_or(default.interfaces),
    }
}

fn interfaces(place: &Place, value: Value, problems: &mut Problems) -> Option<AutoOr<Vec<InterfaceName>>> {
    problems.auto_or_list(place, value, InterfaceName::EXPECTED, str::parse)
}

fn check_lan(raw: RawLan, problems: &mut Problems) -> Lan {
    let place = Place::document(None).child("lan.interfaces");
    Lan {
        interfaces: raw
            .interfaces
            .and_then(|value| interfaces(&place, value, problems))
            .unwrap_or(AutoOr::Auto),
    }
}

fn check_discovery(raw: RawDiscovery, included: &[Included], problems: &mut Problems) -> Discovery {
    let place = Place::document(None).child("discovery");
    let default = Discovery::default();
    let items = gather(
        raw.leases,
        included,
        "discovery.leases",
        |lists| lists.discovery.as_ref()?.leases.as_ref(),
        problems,
    );
    let mut leases: Vec<LeaseFile> = Vec::new();
    for (place, item) in within(MAX_LEASES, items, "discovery.leases", problems) {
        let Some(raw) = read_item::<RawLeaseFile>(item, &place, problems) else {
            continue;
        };
        let path_place = place.child("path");
        let path = match &raw.path {
            Some(value) => problems.absolute_path(&path_place, value),
            None => {
                problems.push(path_place.key_problem("is missing", "write the absolute path of the lease file"));
                None
            }
        };
        let format = choice(problems, &place, "format", raw.format);
        let thing_name = raw
            .thing_name
            .and_then(|value| {
                problems.text(
                    &place.child("thingName"),
                    &value,
                    ThingNameTemplate::EXPECTED,
                    str::parse,
                )
            })
            .unwrap_or_default();
        let Some(path) = path else { continue };
        if leases.iter().any(|lease| lease.path == path) {
            problems.push(path_place.problem(
                &Value::String(path.display().to_string()),
                "is already listed",
                "list a lease file once",
            ));
            continue;
        }
        leases.push(LeaseFile {
            path,
            format,
            thing_name,
        });
    }
    Discovery {
        leases,
        registration: switch(problems, &place, "registration", raw.registration, default.registration),
        unknown_devices: choice(problems, &place, "unknownDevices", raw.unknown_devices),
    }
}

/// The items, or none and a problem when there are more than `most`.
fn within(most: usize, items: Vec<(Place, Value)>, key: &str, problems: &mut Problems) -> Vec<(Place, Value)> {
    if items.len() <= most {
        return items;
    }
    problems.push(Place::document(None).child(key).key_problem(
        format!("has {} entries, more than {most}", items.len()),
        "shorten the list",
    ));
    Vec::new()
}

fn check_detect(raw: RawDetect, included: &[Included], files: &ProfileFiles, problems: &mut Problems) -> Detect {
    let place = Place::document(None).child("detect");
    let profiles = gather(
        raw.profiles,
        included,
        "detect.profiles",
        |lists| lists.detect.as_ref()?.profiles.as_ref(),
        problems,
    );
    Detect {
        profiles: profiles::check(profiles, files, problems),
        record: switch(problems, &place, "record", raw.record, false),
    }
}

fn check_quarantine(raw: RawQuarantine, included: &[Included], problems: &mut Problems) -> Quarantine {
    let place = Place::document(None).child("quarantine");
    let default = Quarantine::default();
    let items = gather(
        raw.protected,
        included,
        "quarantine.protected",
        |lists| lists.quarantine.as_ref()?.protected.as_ref(),
        problems,
    );
    let mut seen = HashSet::new();
    let mut protected = Vec::new();
    for (place, item) in within(MAX_PROTECTED, items, "quarantine.protected", problems) {
        if let Some(entry) = problems.text::<Protected>(&place, &item, Protected::EXPECTED, str::parse)
            && seen.insert(entry.clone())
        {
            protected.push(entry);
        }
    }
    Quarantine {
        enforcement: choice(problems, &place, "enforcement", raw.enforcement),
        posture: choice(problems, &place, "posture", raw.posture),
        shadow: check_shadow(raw.shadow.unwrap_or_default(), problems),
        protected,
        max_edge_quarantines: raw
            .max_edge_quarantines
            .and_then(|value| {
                let place = place.child("maxEdgeQuarantines");
                match problems.auto_or_integer(&place, &value, MAX_EDGE_QUARANTINES)? {
                    AutoOr::Auto => Some(AutoOr::Auto),
                    AutoOr::Is(count) => NonZeroU16::new(count).map(AutoOr::Is),
                }
            })
            .unwrap_or(default.max_edge_quarantines),
        edge_seconds: raw
            .edge_seconds
            .and_then(|value| problems.integer(&place.child("edgeSeconds"), &value, EDGE_SECONDS))
            .unwrap_or(default.edge_seconds),
        table_ownership: choice(problems, &place, "tableOwnership", raw.table_ownership),
        broker_ports: raw
            .broker_ports
            .map(|value| broker_ports(&place.child("brokerPorts"), value, problems))
            .unwrap_or(default.broker_ports),
        boot_unit: switch(problems, &place, "bootUnit", raw.boot_unit, default.boot_unit),
    }
}

fn broker_ports(place: &Place, value: Value, problems: &mut Problems) -> Vec<NonZeroU16> {
    let written = match &value {
        Value::Array(items) => items.len(),
        // Noted by `items`.
        _ => 1,
    };
    if written == 0 || written > MAX_BROKER_PORTS {
        problems.push(place.problem(
            &value,
            format!("has {written} entries"),
            format!("name 1 to {MAX_BROKER_PORTS} ports"),
        ));
        return Vec::new();
    }
    let mut ports = Vec::new();
    for (place, item) in problems.items(place, Some(value)) {
        if let Some(port) = problems.integer(&place, &item, 1..=u16::MAX).and_then(NonZeroU16::new)
            && !ports.contains(&port)
        {
            ports.push(port);
        }
    }
    ports
}

fn check_shadow(raw: RawShadow, problems: &mut Problems) -> QuarantineShadow {
    let place = Place::document(None).child("quarantine.shadow");
    let default = QuarantineShadow::default();
    QuarantineShadow {
        classic: switch(problems, &place, "classic", raw.classic, default.classic),
        named: match raw.named {
            None => default.named,
            Some(Value::Null) => None,
            Some(value) if value.as_str() == Some("") => None,
            Some(value) => problems.text(&place.child("named"), &value, ShadowName::EXPECTED, str::parse),
        },
        source: choice(problems, &place, "source", raw.source),
    }
}

fn check_log(raw: RawLog, problems: &mut Problems) -> Log {
    let place = Place::document(None).child("log");
    Log {
        level: choice(problems, &place, "level", raw.level),
        format: choice(problems, &place, "format", raw.format),
    }
}

fn check_sandbox(raw: RawSandbox, problems: &mut Problems) -> Sandbox {
    let place = Place::document(None).child("sandbox");
    Sandbox {
        seccomp: choice(problems, &place, "seccomp", raw.seccomp),
    }
}
