//! What the fuzz targets in `fuzz/` run, one function for each: it takes bytes somebody else controls and lets them
//! through everything that reads them, no further. What must hold of the result is asserted. The tests here run every
//! stored input through the same functions.
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a fuzz target stops at a finding"
)]

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use serde_json::{Value, json};

use crate::agent::detecting;
use crate::config::{Mode, RawConfig, load_component};
use crate::detect::{Assignment, CustomTypes, Engine, MetricType, OnAlarm, Profile, Sample, Saved, Target, replay};
use crate::devices::leases::{LeaseFormat, LeaseRule};
use crate::greengrass::shadow_document::ShadowDocument;
use crate::greengrass::topic;
use crate::model::{CustomType, Monotonic, Now, ThingName, UnixTime};
use crate::quarantine::{EdgeCap, Event, Posture, Quarantine, ShadowReading, ShadowRef, Stored};
use crate::report::{Format, Ledger, LedgerState, Reply, Schedule, ScheduleSettings, ScheduleState};

/// What is done with one input.
pub type Run = fn(&[u8]);

/// Every target by name; `fuzz/targets` has a program for each.
pub const TARGETS: &[(&str, Run)] = &[
    ("configuration", configuration),
    ("control", control),
    ("custom_value", custom_value),
    ("ipc", ipc),
    ("leases", leases),
    ("netlink_conntrack", netlink_conntrack),
    ("netlink_nftables", netlink_nftables),
    ("netlink_route", netlink_route),
    ("proc_conntrack", proc_conntrack),
    ("proc_host", proc_host),
    ("proc_neighbours", proc_neighbours),
    ("proc_sockets", proc_sockets),
    ("profile", profile),
    ("registration", registration),
    ("reply", reply),
    ("saved", saved),
    ("shadow", shadow),
    ("shadow_request", shadow_request),
    ("store", store),
];

/// Rows of `/proc/net/{tcp,udp,dev,ipv6_route}`.
pub fn proc_sockets(data: &[u8]) {
    crate::collect::fuzz_proc_net(data);
}

/// Rows of `/proc/net/nf_conntrack`.
pub fn proc_conntrack(data: &[u8]) {
    let _ = crate::collect::conntrack::parse_table(data, |_| {});
}

/// `/proc/net/arp`, routes, name servers.
pub fn proc_neighbours(data: &[u8]) {
    let _ = crate::collect::neighbours::parse_arp(data);
    crate::collect::uplink::fuzz(&String::from_utf8_lossy(data));
}

/// Processes, processor, memory, logins.
pub fn proc_host(data: &[u8]) {
    crate::collect::custom::fuzz(data);
}

/// rtnetlink: links, addresses, routes, neighbours, bridges; as dumps and as notifications.
pub fn netlink_route(data: &[u8]) {
    crate::netlink::fuzz(data, |message| {
        crate::collect::fuzz_rtnetlink(message.kind, message.body);
        crate::collect::neighbours::fuzz(message.kind, message.body);
    });
}

/// Connection tracking and `sock_diag`.
pub fn netlink_conntrack(data: &[u8]) {
    crate::netlink::fuzz(data, |message| {
        crate::collect::fuzz_sock_diag(message.body);
        crate::collect::conntrack::fuzz_ctnetlink(message.body);
        crate::firewall::fuzz_sever(message.body);
    });
}

/// nf_tables: the rules read back and compared with those wanted, and notifications.
pub fn netlink_nftables(data: &[u8]) {
    crate::firewall::fuzz_nftables(data);
}

/// A lease file.
pub fn leases(data: &[u8]) {
    let rule: LeaseRule = "site-{hostname}".parse().unwrap();
    let _ = crate::devices::leases::parse(LeaseFormat::Dnsmasq, data, &rule);
}

/// What a client device registers: the first line is the topic's thing, the rest the message.
pub fn registration(data: &[u8]) {
    let (thing, message) = split(data);
    let _ = crate::devices::Registration::parse(&String::from_utf8_lossy(thing), message);
}

/// A shadow document, as the quarantine hears it: what is decided then can be stored, and read again.
pub fn shadow(data: &[u8]) {
    let Ok(reading) = ShadowReading::parse(data) else {
        return;
    };
    let now = Now {
        monotonic: Monotonic(Duration::from_secs(1_000)),
        wall: UnixTime::from_seconds(1_795_370_400),
    };
    let mut quarantine = Quarantine::new(None, Posture::Isolate, EdgeCap::Auto, "boot", now);
    let event = |shadow| Event::Shadow {
        thing: thing(),
        shadow,
        reading: reading.clone(),
    };
    for shadow in [ShadowRef::Classic, ShadowRef::Named("quarantine".to_owned())] {
        let _ = quarantine.step(event(shadow), now);
    }
    let _ = (quarantine.next_expiry(), quarantine.causes());
    let stored = quarantine.stored();
    let text = serde_json::to_vec(&stored).unwrap();
    assert_eq!(serde_json::from_slice::<Stored>(&text).unwrap(), stored);
}

/// The stand-in's: a stored document in the first line, a request to it in the rest. An update that is taken gives a
/// document that can be read again.
pub fn shadow_request(data: &[u8]) {
    let (document, request) = split(data);
    let document = ShadowDocument::parse(document).unwrap_or_default();
    let _ = document.get(request);
    let _ = document.delete(request, 1);
    if let Ok(update) = document.update(request, 1) {
        let _ = update.document.delta();
        let text = serde_json::to_vec(&update.document.document()).unwrap();
        let _ = ShadowReading::parse(&text);
    }
}

/// A configuration as YAML, as JSON and as a nucleus gives it. What is taken is taken again, and means the same.
pub fn configuration(data: &[u8]) {
    let absent = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
    for name in ["c.yaml", "c.json"] {
        let Ok(raw) = RawConfig::from_bytes(Path::new(name), data) else {
            continue;
        };
        if let Ok(config) = raw.resolve_includes(Path::new("/"), &absent).check(Mode::Standalone) {
            if config.include.is_empty() {
                let again = load_component(config.effective(), Path::new("/"), Mode::Standalone).unwrap();
                assert_eq!(again.effective(), config.effective());
            }
            let _ = detecting::load(&config);
        }
    }
    if let Ok(value) = serde_json::from_slice::<Value>(data) {
        let _ = RawConfig::from_value(value)
            .resolve_includes(Path::new("/"), &absent)
            .check(Mode::Greengrass);
    }
}

/// A security profile, and what it then does with values at the edge of their range.
pub fn profile(data: &[u8]) {
    let Ok(json) = serde_json::from_slice::<Value>(data) else {
        return;
    };
    let Ok(parsed) = Profile::parse(&json, &TYPES) else {
        return;
    };
    let assignment = Assignment::new(parsed.profile, vec![Target::All], OnAlarm::Report, false, false);
    let Ok(assignment) = assignment else { return };
    let _ = replay(&[assignment], SAMPLES.iter().cloned());
}

/// A value of a custom metric: a file, a command's output, a message.
pub fn custom_value(data: &[u8]) {
    for kind in [
        CustomType::Number,
        CustomType::NumberList,
        CustomType::StringList,
        CustomType::IpAddressList,
    ] {
        let _ = crate::collect::custom::parse(data, kind);
    }
}

/// Device Defender's answer, in both encodings, and a topic.
pub fn reply(data: &[u8]) {
    for format in [Format::Json, Format::Cbor] {
        let _ = Reply::parse(data, format);
    }
    let _ = topic::parse(&String::from_utf8_lossy(data));
}

/// Messages of the nucleus, behind the SDK's own reader.
pub fn ipc(data: &[u8]) {
    if let Ok(value) = serde_json::from_slice(data) {
        crate::greengrass::sdk::fuzz(&value);
    }
}

/// A question on the control socket, and an answer. A question that is understood is understood again when it is sent on.
pub fn control(data: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<crate::control::Request>(data) {
        let text = serde_json::to_vec(&request).unwrap();
        let again = serde_json::from_slice::<crate::control::Request>(&text).unwrap();
        // the numbers in what is desired are the asker's: serde_json reads those of 50 digits to the last but one bit
        if !matches!(request, crate::control::Request::WriteDesired { .. }) {
            assert_eq!(again, request);
        }
    }
    let _ = serde_json::from_slice::<crate::control::Answer>(data);
}

/// A slot of stored decisions, with the frame around it as the file has it, and as if the checksum were right.
pub fn store(data: &[u8]) {
    crate::quarantine::fuzz_store(data);
}

/// The other files of the state folder: alarms, the schedule of reports, totals, recorded samples. What was there when
/// the agent ended is taken up again.
pub fn saved(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let now = Now {
        monotonic: Monotonic(Duration::from_secs(1_000)),
        wall: UnixTime::from_seconds(1_795_370_400),
    };
    if let Ok(saved) = Saved::from_json(&text) {
        let (mut engine, _) = Engine::new(vec![ASSIGNMENT.clone()], Some(saved), 0, now);
        let _ = engine.tick(now);
    }
    if let Ok(state) = serde_json::from_slice::<ScheduleState>(data) {
        let settings = ScheduleSettings {
            interval: Duration::from_secs(300),
            floor: Duration::from_secs(300),
            replies_known: true,
        };
        for boot in ["boot", "another"] {
            let schedule = Schedule::new(settings, Some(&state), boot, now.monotonic, now.wall);
            let _ = schedule.status(now.monotonic);
        }
    }
    if let Ok(state) = serde_json::from_slice::<LedgerState>(data) {
        let _ = Ledger::resume(state, "boot");
    }
    let lines = data.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let samples: Vec<Sample> = lines.filter_map(|line| serde_json::from_slice(line).ok()).collect();
    let _ = replay(std::slice::from_ref(&*ASSIGNMENT), samples);
}

/// The first line and the rest.
fn split(data: &[u8]) -> (&[u8], &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

fn thing() -> ThingName {
    "cam-1".parse().unwrap()
}

/// A profile in force while state is read and samples are replayed.
static ASSIGNMENT: LazyLock<Assignment> = LazyLock::new(|| {
    let json = json!({"securityProfileName": "site", "behaviors": [
        {"name": "out", "metric": "aws:all-bytes-out", "criteria": {"comparisonOperator": "less-than",
            "value": {"count": 1000}, "durationSeconds": 300, "consecutiveDatapointsToAlarm": 1,
            "consecutiveDatapointsToClear": 1}},
        {"name": "ports", "metric": "aws:listening-tcp-ports", "criteria": {"comparisonOperator": "in-port-set",
            "value": {"ports": [443]}}},
    ]});
    let parsed = Profile::parse(&json, &CustomTypes::default()).unwrap();
    Assignment::new(parsed.profile, vec![Target::All], OnAlarm::Report, false, false).unwrap()
});

/// Two samples whose values are at the edges of what they can be.
static SAMPLES: LazyLock<Vec<Sample>> = LazyLock::new(|| {
    let sample = |monotonic: u64, amount: f64| {
        let delta = json!({"delta": {"amount": amount, "overMillis": 300_000}});
        let (gauge, ports) = (json!({"gauge": amount}), json!({"ports": [0, 443, 65535]}));
        serde_json::from_value(
            json!({"time": monotonic, "monotonic": monotonic, "thing": "cam-1", "role": "local",
            "datapoints": {
                "aws:all-bytes-in": delta, "aws:all-bytes-out": delta, "aws:all-packets-in": delta,
                "aws:all-packets-out": delta, "aws:num-listening-tcp-ports": gauge,
                "aws:num-listening-udp-ports": gauge, "aws:num-established-tcp-connections": gauge,
                "aws:listening-tcp-ports": ports, "aws:listening-udp-ports": ports,
                "aws:destination-ip-addresses": {"addresses": ["0.0.0.0", "255.255.255.255", "::ffff:10.0.0.1"]},
                "number": gauge, "numbers": {"numbers": [-1e300, 0.0, 1e300]},
                "strings": {"strings": ["", "\u{0}", "a"]}, "addresses": {"addresses": ["::"]},
            }}),
        )
        .unwrap()
    };
    vec![sample(1_000, 0.0), sample(301_000, f64::MAX), sample(601_000, 1.0)]
});

/// A custom metric of each type, for [`profile`].
static TYPES: LazyLock<CustomTypes> = LazyLock::new(|| {
    [
        ("number", MetricType::Number),
        ("numbers", MetricType::NumberList),
        ("strings", MetricType::StringList),
        ("addresses", MetricType::IpAddressList),
    ]
    .map(|(name, kind)| (name.to_owned(), kind))
    .into()
});

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn folder(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
    }

    fn listed(path: &Path) -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Every input that is kept, a former finding too, through its target's function.
    #[test]
    fn every_stored_input_is_read_without_harm() {
        for (name, target) in TARGETS {
            let inputs = listed(&folder("corpus").join(name));
            assert!(!inputs.is_empty(), "{name} has no inputs");
            for input in inputs {
                let bytes = std::fs::read(&input).unwrap();
                let outcome = std::panic::catch_unwind(|| target(&bytes));
                assert!(outcome.is_ok(), "{} makes it panic", input.display());
            }
        }
    }

    #[test]
    fn targets_programs_and_inputs_are_the_same_list() {
        let names: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        let stems = |name: &str| -> BTreeSet<String> {
            let stem = |path: &std::path::PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
            listed(&folder(name)).iter().map(stem).collect()
        };
        assert_eq!(stems("targets"), names);
        assert_eq!(stems("corpus"), names);
        let manifest = std::fs::read_to_string(folder("Cargo.toml")).unwrap();
        for name in &names {
            assert!(manifest.contains(&format!("path = \"targets/{name}.rs\"")), "{name}");
            let program = std::fs::read_to_string(folder("targets").join(format!("{name}.rs"))).unwrap();
            assert!(program.contains(&format!("fuzzing::{name}(data)")), "{name}");
        }
    }

    /// A target whose inputs never get past the first check finds nothing: some of each are taken whole.
    #[test]
    fn the_inputs_reach_what_lies_behind_the_first_check() {
        let some = |name: &str, taken: &dyn Fn(&[u8]) -> bool| {
            let inputs = listed(&folder("corpus").join(name));
            assert!(
                inputs.iter().any(|input| taken(&std::fs::read(input).unwrap())),
                "{name}"
            );
        };
        let json = |data: &[u8]| serde_json::from_slice::<Value>(data).unwrap_or_default();
        some("profile", &|data| Profile::parse(&json(data), &TYPES).is_ok());
        some("shadow", &|data| ShadowReading::parse(data).is_ok());
        some("control", &|data| {
            serde_json::from_slice::<crate::control::Request>(data).is_ok()
        });
        some("saved", &|data| {
            Saved::from_json(&String::from_utf8_lossy(data)).is_ok()
        });
        some("saved", &|data| serde_json::from_slice::<ScheduleState>(data).is_ok());
        some("saved", &|data| serde_json::from_slice::<Sample>(data).is_ok());
        some("reply", &|data| Reply::parse(data, Format::Json).is_ok());
        some("reply", &|data| Reply::parse(data, Format::Cbor).is_ok());
        some("registration", &|data| {
            let (thing, message) = split(data);
            crate::devices::Registration::parse(&String::from_utf8_lossy(thing), message).is_ok()
        });
        some("proc_conntrack", &|data| {
            crate::collect::conntrack::parse_table(data, |_| {}).is_ok_and(|rows| rows.flows > 0)
        });
        for name in ["netlink_route", "netlink_conntrack", "netlink_nftables"] {
            some(name, &|data| {
                let mut messages = 0;
                crate::netlink::fuzz(data, |_| messages += 1);
                messages > 1
            });
        }
    }
}
