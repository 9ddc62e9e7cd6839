//! The agent's system calls: one that is not on the list ends it, and none is on the list for nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may stop at the first surprise"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use edge_warden::control::{Request, ask};
use edge_warden::sandbox::Calls;
use edge_warden::sandbox::syscalls::{ALLOWED, Seen, restrict};
use rustix::process::Signal;
use serde_json::json;
use support::binary::{Agent, path, wait_until_gone};

/// Names the call [`child`] makes, and whether behind the filter.
const PROBE: &str = "EDGE_WARDEN_TEST_CALL";

/// Calls somebody who broke in would like to make. Each succeeds without the filter, so that it is the filter that ends
/// the process, and not an error.
fn make(call: &str) {
    match call {
        "getppid" => assert!(rustix::process::getppid().is_some()),
        "kill" => rustix::process::test_kill_process(rustix::process::getpid()).unwrap(),
        "unshare" => nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap(),
        "execve" => assert!(Command::new("/bin/true").status().unwrap().success()),
        "setns" => {
            let own = fs::File::open("/proc/self/ns/net").unwrap();
            nix::sched::setns(own, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        }
        "chroot" => rustix::process::chroot("/").unwrap(),
        other => panic!("no such call: {other}"),
    }
}

/// Runs in a process of its own, started by the test below.
#[test]
#[ignore = "the other half of a_call_that_is_not_on_the_list_ends_the_process"]
fn child() {
    let order = std::env::var(PROBE).unwrap();
    let (filter, call) = order.split_once(' ').unwrap();
    if filter == "filtered" {
        assert!(matches!(restrict().unwrap(), Calls::Restricted { .. }));
    }
    // what is on the list goes on as before
    assert!(fs::read_to_string("/proc/net/dev").unwrap().contains("lo:"));
    std::thread::spawn(|| ()).join().unwrap();
    println!("before");
    make(call);
    println!("after");
}

#[test]
fn a_call_that_is_not_on_the_list_ends_the_process() {
    let run = |filter: &str, call: &str| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .env(PROBE, format!("{filter} {call}"))
            .output()
            .unwrap();
        (output.status, String::from_utf8_lossy(&output.stdout).into_owned())
    };
    for call in ["getppid", "kill", "unshare", "setns", "chroot"] {
        let (status, said) = run("free", call);
        assert!(
            status.success() && said.contains("after"),
            "{call} without the filter: {said}"
        );
        let (status, said) = run("filtered", call);
        assert!(said.contains("before") && !said.contains("after"), "{call}: {said}");
        assert_eq!(status.signal(), Some(libc::SIGSYS), "{call}: {status}: {said}");
    }
    // a program: the process that was to become it ends, and what started it learns so
    let (status, said) = run("free", "execve");
    assert!(status.success() && said.contains("after"), "{said}");
    let (status, said) = run("filtered", "execve");
    assert!(
        !status.success() && said.contains("before") && !said.contains("after"),
        "{said}"
    );
}

/// The calls of each process after it put its filter in force, by name. Lines are `PID name(...` and
/// `PID <... name resumed>`; the filter is of the process and all threads it starts from then on.
fn calls_behind_the_filter(trace: &str) -> BTreeMap<&str, u32> {
    let mut calls = BTreeMap::new();
    let mut entered = false;
    for line in trace.lines() {
        let Some((_, rest)) = line.split_once(' ') else {
            continue;
        };
        let name = rest.trim_start().split('(').next().unwrap();
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') || name.is_empty() {
            continue;
        }
        if name == "seccomp" {
            entered = true;
        } else if entered {
            *calls.entry(name).or_default() += 1;
        }
    }
    calls
}

/// One plain day under strace(1): start, samples, a report, questions, a quarantine and its end, a new configuration, stop.
fn a_day(dir: &Path) -> String {
    let trace = dir.join("trace");
    let config = dir.join("config.json");
    let leases = dir.join("leases/dnsmasq.leases");
    fs::create_dir(leases.parent().unwrap()).unwrap();
    fs::write(&leases, "").unwrap();
    let settings = |seconds: u32| {
        json!({
            "sampleSeconds": seconds, "report": {"intervalSeconds": 5}, "lan": {"interfaces": ["lan0"]},
            "devices": [{"thingName": "cam-1", "macs": ["02:aa:00:00:00:01"], "addresses": ["10.9.0.5"]}],
            "discovery": {"leases": [{"path": leases, "format": "dnsmasq", "thingName": "{hostname}"}]},
        })
        .to_string()
    };
    fs::write(&config, settings(1)).unwrap();
    let state = dir.join("standalone");
    // -D: strace is the child of what it traces, so that the process started here is the agent
    let script = "ip link set lo up && ip link add lan0 type bridge && ip address add 10.9.0.1/24 dev lan0 && \
                  ip link set lan0 up && exec strace -D -f -qq -s 0 -o \"$0\" \"$@\"";
    let mut command = Command::new("unshare");
    command
        .args(["--net", "sh", "-c", script])
        .args([&trace, &path()])
        .args(["run", "--standalone", state.to_str().unwrap()])
        .args(["--config", config.to_str().unwrap()])
        .stdin(Stdio::null());
    let socket = state.join("control.sock");
    let mut agent = Agent::spawn(command, &socket);
    agent.wait_status("the filter", |status| {
        (status["privileges"]["systemCalls"]["state"] == "restricted").then_some(())
    });
    let cam = || "cam-1".parse().unwrap();
    let add = Request::QuarantineAdd {
        thing: cam(),
        posture: None,
        until: None,
        reason: None,
    };
    ask(&socket, &add).unwrap();
    agent.wait_log(&["report accepted"]);
    ask(&socket, &Request::QuarantineRelease { thing: cam() }).unwrap();
    fs::write(&config, settings(2)).unwrap();
    agent.signal(Signal::HUP);
    agent.wait_status("the new configuration", |status| {
        (status["configuration"]["effective"]["sampleSeconds"] == 2).then_some(())
    });
    let tracer = tracer_of(agent.pid());
    assert_eq!(agent.terminate().0, 0, "{}", agent.log());
    // it writes the last lines when the agent is gone already
    wait_until_gone(tracer);
    fs::read_to_string(trace).unwrap()
}

fn tracer_of(pid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
    line.unwrap().trim().parse().unwrap()
}

#[test]
fn no_call_is_on_the_list_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let trace = a_day(dir.path());
    let made = calls_behind_the_filter(&trace);
    assert!(made.len() > 20, "the trace is of something else: {made:?}");
    let never_made: Vec<&str> = ALLOWED
        .iter()
        .filter(|call| call.seen == Seen::Always && !made.contains_key(call.name))
        .map(|call| call.name)
        .collect();
    assert!(
        never_made.is_empty(),
        "on the list and not made: {never_made:?}; made: {made:?}"
    );
    let listed: BTreeSet<&str> = ALLOWED.iter().map(|call| call.name).collect();
    let others: Vec<&&str> = made.keys().filter(|name| !listed.contains(**name)).collect();
    assert!(others.is_empty(), "made and not on the list: {others:?}");
}

#[test]
fn traces_are_read_from_the_filter_on() {
    let trace = "1 execve(\"/x\", ...) = 0\n1 seccomp(SECCOMP_SET_MODE_FILTER, 0, {len=1}) = 0\n\
                 2 clone3({flags=0} <unfinished ...>\n1 read(3, \"\"..., 4) = 4\n2 <... clone3 resumed>) = 3\n\
                 1 --- SIGTERM {si_signo=SIGTERM} ---\n1 +++ exited with 0 +++\n";
    let made = calls_behind_the_filter(trace);
    assert_eq!(made.into_iter().collect::<Vec<_>>(), [("clone3", 1), ("read", 1)]);
}

#[test]
fn the_configuration_turns_it_off() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.json");
    fs::write(&config, json!({"sandbox": {"seccomp": "off"}}).to_string()).unwrap();
    let state = dir.path().join("standalone");
    let arguments = [
        "run",
        "--standalone",
        state.to_str().unwrap(),
        "--config",
        config.to_str().unwrap(),
    ];
    let agent = Agent::spawn(support::binary::command(&arguments), &state.join("control.sock"));
    let state = agent.wait_status("privileges", |status| {
        let calls = &status["privileges"]["systemCalls"]["state"];
        calls.is_string().then(|| calls.clone())
    });
    assert_eq!(state, "off");
}
