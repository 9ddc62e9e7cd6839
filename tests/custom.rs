//! Custom metrics with the shipped binary, on the real /proc and against the test nucleus with the recipe's own
//! accessControl: what is named in the configuration is in the published reports, and what fails is named in `status`.
//!
//! Processes of these tests have names of their own, so that another run on the same host is not counted.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests: the first surprise ends them, in helpers too, and tests may look at the clock"
)]

mod support;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use support::binary::{Agent, SOON, access_control, agent_seconds, configuration};
use support::nucleus::{Kind, Seen, Settings, TestNucleus};

/// 300 s take 0.3 s.
const FAST: u32 = 1000;

/// Often enough, and not so often that a loaded machine does nothing else.
fn sample_seconds(factor: u32) -> u32 {
    if factor == 1 { 1 } else { 50 }
}

/// A nucleus that has deployed the shipped recipe with these custom metrics.
fn nucleus(kind: Kind, metrics: &Value, factor: u32) -> TestNucleus {
    nucleus_with(kind, json!({"customMetrics": metrics}), factor)
}

fn nucleus_with(kind: Kind, mut changes: Value, factor: u32) -> TestNucleus {
    changes["sampleSeconds"] = json!(sample_seconds(factor));
    TestNucleus::start(Settings {
        configuration: configuration(changes),
        access_control: Some(access_control()),
        enforce_rate: Some(Arc::new(move || agent_seconds(factor))),
        ..match kind {
            Kind::Classic => Settings::classic(),
            Kind::Lite => Settings::lite(),
        }
    })
}

/// Finds the first report from the `from`th on in which the metric has this value, and says which it is.
fn value_in_report(name: &str, value: Value, from: usize) -> impl FnMut(&Seen) -> Option<usize> {
    let pointer = format!("/custom_metrics/{name}/0");
    move |seen| {
        let reports = seen.reports.iter().enumerate().skip(from);
        let mut with_it = reports.filter(|(_, report)| report.document.pointer(&pointer) == Some(&value));
        let (place, report) = with_it.next()?;
        assert_eq!(report.verdict, Ok(()), "{}", report.document);
        Some(place)
    }
}

/// A copy of the shell under another name, which does what it is told on its standard input.
struct Program {
    child: Child,
    stdin: ChildStdin,
}

impl Program {
    fn start(path: &Path) -> Self {
        std::fs::copy("/bin/sh", path).unwrap();
        let mut child = Command::new(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        Self { child, stdin }
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

fn unique(name: &str) -> String {
    format!("{name}{}", std::process::id())
}

/// The example of the AWS blog: one line of configuration, and a shell that `myapp` starts is in the next report.
#[test]
fn children_of_myapp_recursively() {
    for kind in [Kind::Classic, Kind::Lite] {
        let myapp = unique("myapp");
        let metric = json!({"name": "num_child_procs_myapp", "source": "childProcesses", "process": myapp});
        let nucleus = nucleus(kind, &json!([metric]), FAST);
        let dir = tempfile::tempdir().unwrap();
        let _agent = Agent::start(&nucleus, dir.path(), FAST);
        let mut reached = 0;
        let mut next = |what: &str, number: u32| {
            let wanted = value_in_report("num_child_procs_myapp", json!({"number": number}), reached);
            reached = nucleus.wait_for(what, SOON, wanted);
        };
        next("nobody of that name", 0);
        let mut first = Program::start(&dir.path().join(&myapp));
        first.tell("sleep 1000 &");
        next("a child", 1);
        first.tell("/bin/sh -c 'sleep 1000; true' &");
        next("a shell and what it started", 3);
        // A second one of the same name.
        std::fs::create_dir(dir.path().join("second")).unwrap();
        let mut second = Program::start(&dir.path().join("second").join(&myapp));
        second.tell("sleep 1000 &");
        next("all matches", 4);
        drop(first);
        next("the second alone", 1);
    }
}

fn script(folder: &Path, name: &str, content: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{content}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A folder that commands, who are nobody, can read.
fn open_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    folder
}

#[test]
fn every_type_from_every_outside_source_in_both_formats_and_spellings() {
    let folder = open_folder();
    let file = folder.path().join("peers");
    std::fs::write(&file, "192.0.2.1\nfd00::1\n").unwrap();
    let command = script(folder.path(), "levels", "echo 1.5; echo -2");
    let metrics = json!([
        // A minute of the agent's is no time here: a message counts for as long as it may.
        {"name": "depth", "source": "topic", "maxAgeSeconds": 604_800},
        {"name": "modes", "source": "topic", "type": "string-list", "topic": "edge-warden/metrics/plant/modes",
         "maxAgeSeconds": 604_800},
        {"name": "peers", "source": "file", "path": file, "type": "ip-address-list"},
        {"name": "levels", "source": "command", "command": [command], "type": "number-list"},
        {"name": "gone", "source": "file", "path": folder.path().join("gone")},
    ]);
    for kind in [Kind::Classic, Kind::Lite] {
        let nucleus = nucleus(kind, &metrics, FAST);
        let dir = tempfile::tempdir().unwrap();
        let agent = Agent::start(&nucleus, dir.path(), FAST);
        let deadline = Instant::now() + SOON;
        while nucleus.deliver_local("edge-warden/metrics/depth", b"42") == 0
            || nucleus.deliver_local("edge-warden/metrics/plant/modes", br#"["auto", "high"]"#) == 0
        {
            assert!(Instant::now() < deadline, "not subscribed");
            std::thread::sleep(Duration::from_millis(5));
        }
        let expected = json!({
            "depth": [{"number": 42}],
            "levels": [{"number_list": [1.5, -2]}],
            "modes": [{"string_list": ["auto", "high"]}],
            "peers": [{"ip_list": ["192.0.2.1", "fd00::1"]}],
        });
        // By name, as a report has them; 42 and 42.0 are the same.
        let numbers = |value: &Value| value.to_string().replace(".0", "");
        for (format, names, block) in [
            ("json", "long", "custom_metrics"),
            ("cbor", "short", "cmet"),
            ("cbor", "long", "custom_metrics"),
        ] {
            nucleus.set_configuration(configuration(json!({
                "sampleSeconds": sample_seconds(FAST), "customMetrics": metrics, "report": {"format": format, "names": names},
            })));
            nucleus.wait_for(format, SOON, |seen| {
                let report = seen.reports.iter().rev().find(|report| {
                    let asked = format!("{:?}", report.format).to_lowercase();
                    asked == format && report.document.get(block).map(numbers) == Some(numbers(&expected))
                })?;
                assert_eq!(report.verdict, Ok(()));
                Some(())
            });
        }
        let missing = agent.status()["customMetrics"]["gone"]["missing"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(missing.contains("gone absent"), "{missing}");
        agent.wait_log(&["WARN", "gone", "left out of the reports"]);
        let unused = nucleus.unused_grants();
        assert!(
            unused.iter().all(|grant| !grant.policy.ends_with("pubsub:3")),
            "{unused:?}"
        );
        assert_eq!(nucleus.seen().violations, [""; 0]);
    }
}

#[test]
fn whatever_fails_is_named_and_no_report_waits_for_it() {
    let folder = open_folder();
    let path = |name: &str| folder.path().join(name);
    let command = |name: &str, content: &str| {
        let script = script(folder.path(), name, content);
        json!({"name": name, "source": "command", "command": [script], "everySeconds": 1, "timeoutSeconds": 1})
    };
    rustix::fs::mkfifoat(rustix::fs::CWD, path("fifo"), rustix::fs::Mode::from_raw_mode(0o644)).unwrap();
    std::fs::File::create(path("huge")).unwrap().set_len(1 << 40).unwrap();
    std::fs::write(path("nan"), "NaN\n").unwrap();
    std::fs::write(path("vanishing"), "7\n").unwrap();
    let file = |name: &str| json!({"name": name, "source": "file", "path": path(name)});
    let metrics = json!([
        command("hangs", "sleep 1000"),
        command("floods", "yes"),
        command("fails", "echo 1; exit 3"),
        command("prints_nan", "echo NaN"),
        command("silent", "true"),
        {"name": "nowhere", "source": "command", "command": ["/nowhere/at/all"], "everySeconds": 1},
        file("fifo"), file("huge"), file("nan"), file("vanishing"), file("never"),
        {"name": "watched", "source": "fileChanges", "paths": [path("fifo")]},
        {"name": "agent_health", "source": "agentHealth"},
    ]);
    // more values than one answer of the nucleus may hold, so they stand in a file
    let list = path("metrics.json");
    std::fs::write(&list, json!({"customMetrics": metrics}).to_string()).unwrap();
    let nucleus = nucleus_with(Kind::Classic, json!({"include": [list]}), FAST);
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(&nucleus, dir.path(), FAST);
    nucleus.wait_for("the file", SOON, value_in_report("vanishing", json!({"number": 7}), 0));
    std::fs::remove_file(path("vanishing")).unwrap();
    for (name, words) in [
        ("hangs", "longer than 1 s"),
        ("floods", "more than 65536 bytes"),
        ("fails", "exit status 3"),
        ("prints_nan", "\"NaN\" is no number"),
        ("silent", "is empty"),
        ("nowhere", "/nowhere/at/all absent"),
        ("fifo", "not a regular file"),
        ("huge", "more than 65536 bytes"),
        ("nan", "\"NaN\" is no number"),
        ("vanishing", "vanishing absent"),
        ("never", "never absent"),
        ("watched", "not a regular file"),
    ] {
        agent.wait_status(name, |status| {
            let missing = status["customMetrics"][name]["missing"].as_str()?;
            missing.contains(words).then_some(())
        });
    }
    // From here on no report has any of them, and every report names them all.
    let before = nucleus.reports().len();
    nucleus.wait_for("five more reports", SOON, |seen| {
        (seen.reports.len() >= before + 6).then_some(())
    });
    let reports = nucleus.reports().split_off(before + 1);
    for report in &reports {
        assert_eq!(report.verdict, Ok(()));
        let custom = report.document["custom_metrics"].as_object().unwrap();
        assert_eq!(custom.keys().collect::<Vec<_>>(), ["agent_health"], "{custom:?}");
        let health = custom["agent_health"][0]["string_list"].as_array().unwrap();
        for name in ["hangs", "floods", "fails", "fifo", "vanishing", "watched"] {
            assert!(health.contains(&json!(name)), "{name} is not in {health:?}");
        }
    }
    // A mended source is back.
    std::fs::write(path("never"), "8").unwrap();
    nucleus.wait_for("it", SOON, value_in_report("never", json!({"number": 8}), before));
    agent.wait_log(&["INFO", "never", "measured again"]);
}

/// The pids of the processes with this name, zombies left out.
fn pids(name: &str) -> Vec<i32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let named = processes.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        (stat.contains(&format!("({name})")) && !stat.contains(") Z ")).then_some(pid)
    });
    named.collect()
}

#[test]
fn commands_are_nobodys_with_nothing_of_ours_in_hand_and_end_with_the_agent() {
    let folder = open_folder();
    // The kernel's name of a process has 15 bytes.
    let sleeper = unique("slp");
    std::fs::copy("/bin/sleep", folder.path().join(&sleeper)).unwrap();
    let sleep = folder.path().join(&sleeper);
    let metrics = json!([
        {"name": "files", "type": "number-list", "source": "command", "command": ["/bin/ls", "/proc/self/fd"]},
        {"name": "who", "source": "command", "command": ["/usr/bin/id", "-u"]},
        {"name": "groups", "type": "number-list", "source": "command", "command": ["/usr/bin/id", "-G"]},
        {"name": "root", "source": "command", "command": ["/usr/bin/id", "-u"], "user": "root"},
        {"name": "hangs", "source": "command", "command": [sleep, "1000"], "timeoutSeconds": 300},
    ]);
    let nucleus = nucleus(Kind::Classic, &metrics, 1);
    let dir = tempfile::tempdir().unwrap();
    // What is open in this process without FD_CLOEXEC, the agent got from it and not from us: O_CLOEXEC of linux/fcntl.h.
    let inherited = |pid: &str| -> Vec<u64> {
        let entries = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap().flatten();
        let open = entries.filter_map(|entry| {
            let info = std::fs::read_to_string(entry.path()).ok()?;
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
            let flags = u64::from_str_radix(flags.trim(), 8).ok()?;
            (flags & 0o2_000_000 == 0).then(|| entry.file_name().to_str().unwrap().parse().unwrap())
        });
        open.collect()
    };
    let mut agent = Agent::start(&nucleus, dir.path(), 1);
    let value = |name: &str, kind: &str| {
        agent.wait_status(name, |status| {
            let value = status["customMetrics"][name].get(kind)?;
            Some(value.clone())
        })
    };
    let mut ours = inherited("self");
    // stdin, stdout, stderr, and the folder that ls reads.
    ours.extend(0..=3);
    let open: Vec<u64> = value("files", "number_list")
        .as_array()
        .unwrap()
        .iter()
        .map(|fd| fd.to_string().trim_end_matches(".0").parse().unwrap())
        .collect();
    assert!(
        open.iter().all(|fd| ours.contains(fd)),
        "{open:?}, of which known: {ours:?}"
    );
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let nobody: Vec<&str> = passwd
        .lines()
        .find(|line| line.starts_with("nobody:"))
        .unwrap()
        .split(':')
        .collect();
    assert_eq!(value("who", "number").as_f64(), nobody[2].parse().ok());
    let groups = value("groups", "number_list");
    assert_eq!(
        (groups.as_array().unwrap().len(), groups[0].as_f64()),
        (1, nobody[3].parse().ok())
    );
    assert_eq!(value("root", "number").as_f64(), Some(0.0));
    agent.wait_status("it runs", |_| (pids(&sleeper).len() == 1).then_some(()));
    assert_eq!(agent.terminate().0, 0);
    let deadline = Instant::now() + SOON;
    while !pids(&sleeper).is_empty() {
        assert!(Instant::now() < deadline, "it outlived the agent");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A topic that floods costs its own metric, and nothing else.
#[test]
fn a_flooding_topic_is_counted_and_left_alone() {
    let metrics = json!([
        {"name": "loud", "source": "topic"},
        {"name": "quiet", "source": "topic"},
    ]);
    let nucleus = nucleus(Kind::Classic, &metrics, 1);
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(&nucleus, dir.path(), 1);
    let deadline = Instant::now() + SOON;
    while nucleus.deliver_local("edge-warden/metrics/quiet", b"1") == 0 {
        assert!(Instant::now() < deadline, "not subscribed");
        std::thread::sleep(Duration::from_millis(5));
    }
    // As long as somebody listens.
    let mut sent = 0_u64;
    while nucleus.deliver_local("edge-warden/metrics/loud", &[b'1'; 1000]) > 0 {
        sent += 1;
        assert!(Instant::now() < deadline, "still listened to after {sent} messages");
    }
    let messages = agent.wait_status("named", |status| {
        let loud = &status["customMetrics"]["loud"];
        let missing = loud["missing"].as_str()?;
        missing
            .contains("more than 100 messages a second")
            .then(|| loud["messages"].clone())
    });
    assert!(messages["taken"].as_u64().unwrap() >= 1_000, "{messages}");
    assert!(messages["refused"].as_u64().unwrap() >= 1, "{messages}");
    // The other one is heard all the while.
    assert_eq!(nucleus.deliver_local("edge-warden/metrics/quiet", b"2"), 1);
    agent.wait_status("the quiet one", |status| {
        (status["customMetrics"]["quiet"]["number"] == 2.0).then_some(())
    });
}

#[test]
fn changed_files_count_once_also_when_the_agent_was_away() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sshd_config");
    std::fs::write(&file, "PermitRootLogin no\n").unwrap();
    let metrics = json!([{"name": "changes", "source": "fileChanges", "paths": [file]}]);
    let nucleus = nucleus(Kind::Classic, &metrics, FAST);
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(&nucleus, dir.path(), FAST);
    let reached = nucleus.wait_for("none yet", SOON, value_in_report("changes", json!({"number": 0}), 0));
    std::fs::write(&file, "PermitRootLogin yes\n").unwrap();
    let reached = nucleus.wait_for("one", SOON, value_in_report("changes", json!({"number": 1}), reached));
    let reached = nucleus.wait_for(
        "none since",
        SOON,
        value_in_report("changes", json!({"number": 0}), reached),
    );
    assert_eq!(agent.terminate().0, 0);
    std::fs::write(&file, "PermitEmptyPasswords yes\n").unwrap();
    let _agent = Agent::start(&nucleus, dir.path(), FAST);
    nucleus.wait_for(
        "one more",
        SOON,
        value_in_report("changes", json!({"number": 1}), reached),
    );
}

/// What every Linux host has; the others are measured or say why not.
#[test]
fn this_host_is_measured_or_says_why_not() {
    let sources = [
        ("processes", "processCount"),
        ("programs", "runningPrograms"),
        ("unexpected", "unexpectedPrograms"),
        ("cpu", "cpu"),
        ("memory", "memory"),
        ("disk", "disk"),
        ("load", "load"),
        ("temperature", "temperature"),
        ("battery", "battery"),
        ("logins", "remoteLogins"),
        ("new_logins", "newRemoteLogins"),
        ("clients", "connectedDevices"),
        ("strangers", "unknownDevices"),
        ("neighbours", "neighbours"),
        ("flows", "conntrackUsage"),
        ("agent_health", "agentHealth"),
    ];
    let metrics: Vec<Value> = sources
        .iter()
        .map(|(name, source)| json!({"name": name, "source": source}))
        .collect();
    let nucleus = nucleus(Kind::Classic, &json!(metrics), FAST);
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(&nucleus, dir.path(), FAST);
    let everywhere = [
        "processes",
        "cpu",
        "memory",
        "disk",
        "load",
        "clients",
        "strangers",
        "neighbours",
        "agent_health",
    ];
    nucleus.wait_for("what every host has", SOON, |seen| {
        let custom = seen.reports.last()?.document["custom_metrics"].as_object()?;
        assert_eq!(seen.reports.last()?.verdict, Ok(()));
        everywhere.iter().all(|name| custom.contains_key(*name)).then_some(())
    });
    let status = agent.status()["customMetrics"].clone();
    for (name, _) in sources {
        let row = status[name].as_object().unwrap();
        let measured = row.contains_key("number") || row.contains_key("string_list");
        assert!(measured || row["missing"].is_string(), "{name}: {row:?}");
    }
    let shown = std::process::Command::new(support::binary::path())
        .args(["status", "--state-dir", dir.path().to_str().unwrap()])
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(
        shown.contains("CUSTOM METRICS") && shown.contains("processes"),
        "{shown}"
    );
}
