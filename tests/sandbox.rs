//! What the agent can no longer do once it runs. Privileges belong to threads, so each test gives up its own thread's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may stop at the first surprise"
)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;

use edge_warden::config::Config;
use edge_warden::control::{Request, ask};
use edge_warden::sandbox::{self, Access, Files, Needs, Privilege, Surroundings, syscalls};
use serde_json::json;
use support::binary::{Agent, command};
use support::nucleus::{Settings, TestNucleus};

/// Lines of `/proc/PID/status` (proc_pid_status(5)).
fn status_of(path: &str) -> BTreeMap<String, String> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
        .collect()
}

/// `CAP_NET_ADMIN` is bit 12 (linux/capability.h).
const NET_ADMIN: u64 = 1 << 12;

fn set(status: &BTreeMap<String, String>, name: &str) -> u64 {
    u64::from_str_radix(&status[name], 16).unwrap()
}

#[test]
fn the_running_agent_holds_what_the_documentation_promises() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::spawn(
        command(&["run", "--standalone", dir.path().to_str().unwrap()]),
        &dir.path().join("control.sock"),
    );
    let told = agent.wait_status("what it gave up", |status| {
        status["privileges"].is_object().then(|| status["privileges"].clone())
    });
    assert_eq!(
        told["capabilities"].as_object().unwrap().keys().collect::<Vec<_>>(),
        ["CAP_NET_ADMIN"],
        "{told:#}"
    );
    assert_eq!(told["files"], json!({"state": "restricted"}));
    assert_eq!(
        told["systemCalls"],
        json!({"state": "restricted", "allowed": syscalls::ALLOWED.len()})
    );
    // every thread, not only the first
    let threads = fs::read_dir(format!("/proc/{}/task", agent.pid())).unwrap();
    let threads: Vec<PathBuf> = threads.map(|entry| entry.unwrap().path()).collect();
    assert!(threads.len() > 1, "{threads:?}");
    for thread in threads {
        let status = status_of(thread.join("status").to_str().unwrap());
        for name in ["CapPrm", "CapEff", "CapBnd"] {
            assert_eq!(set(&status, name), NET_ADMIN, "{name} of {}", thread.display());
        }
        for name in ["CapInh", "CapAmb"] {
            assert_eq!(set(&status, name), 0, "{name} of {}", thread.display());
        }
        assert_eq!(status["NoNewPrivs"], "1");
        assert_eq!(status["Seccomp"], "2", "a filter holds for {}", thread.display());
    }
}

/// Permissions of `path` itself.
fn mode(path: &std::path::Path) -> u32 {
    std::os::unix::fs::PermissionsExt::mode(&path.symlink_metadata().unwrap().permissions()) & 0o777
}

#[test]
fn state_is_for_its_owner_alone_and_links_in_it_are_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let standalone = dir.path().join("standalone");
    let state = standalone.join("state");
    let config = dir.path().join("config.json");
    let settings = json!({"sampleSeconds": 1, "report": {"intervalSeconds": 5}, "detect": {"record": true},
        "quarantine": {"enforcement": "observe"}, "devices": [{"thingName": "cam-1", "macs": ["02:aa:00:00:00:01"]}]});
    fs::write(&config, settings.to_string()).unwrap();
    let arguments = [
        "run",
        "--standalone",
        standalone.to_str().unwrap(),
        "--config",
        config.to_str().unwrap(),
    ];
    let a_day = || {
        let socket = standalone.join("control.sock");
        let mut agent = Agent::spawn(command(&arguments), &socket);
        agent.wait_status("a sample", |status| (status["samples"].as_u64()? > 1).then_some(()));
        let thing = "cam-1".parse().unwrap();
        let add = Request::QuarantineAdd {
            thing,
            posture: None,
            until: None,
            reason: None,
        };
        ask(&socket, &add).unwrap();
        agent.wait_log(&["report accepted"]);
        assert_eq!(mode(&socket), 0o600);
        assert_eq!(agent.terminate().0, 0, "{}", agent.log());
    };
    a_day();
    for folder in [&standalone, &state] {
        assert_eq!(mode(folder), 0o700, "{}", folder.display());
    }
    let names: Vec<_> = fs::read_dir(&state)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(names.len() > 5, "{names:?}");
    let precious = dir.path().join("precious");
    fs::create_dir(&precious).unwrap();
    for name in &names {
        let file = state.join(name);
        assert_eq!(mode(&file), 0o600, "{}", file.display());
        // what a link of somebody who may write there would lead to
        fs::write(precious.join(name), "precious").unwrap();
    }
    let spared = |name: &std::ffi::OsStr| {
        let content = fs::read(precious.join(name)).unwrap();
        assert_eq!(content, b"precious", "{} was written through its link", name.display());
    };
    let lock = state.join("agent.lock");
    for name in &names {
        // the slots of decisions: src/quarantine/store/tests.rs
        if !name.to_string_lossy().starts_with("quarantine.") {
            fs::remove_file(state.join(name)).unwrap();
            std::os::unix::fs::symlink(precious.join(name), state.join(name)).unwrap();
        }
    }
    // the lock is not replaced like the others: who finds a link there says so and does not start
    let output = command(&arguments).output().unwrap();
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("agent.lock"));
    fs::remove_file(&lock).unwrap();
    a_day();
    names.iter().for_each(|name| spared(name));
}

/// The process whose parent that is.
fn child_of(parent: u32) -> Option<u32> {
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| {
        // one that ends meanwhile is no child
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.contains(&format!("\nPPid:\t{parent}\n"))
    })
}

/// `CAP_KILL`, `CAP_SETGID`, `CAP_SETUID`, `CAP_DAC_READ_SEARCH`, `CAP_SYS_PTRACE` (linux/capability.h).
const MEASURING: u64 = 1 << 5 | 1 << 6 | 1 << 7 | 1 << 2 | 1 << 19;

#[test]
fn the_process_that_measures_keeps_what_measuring_takes() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.json");
    // what the privileges are for: a file of others, a command as nobody
    let theirs = dir.path().join("theirs");
    fs::write(&theirs, "7").unwrap();
    std::os::unix::fs::chown(&theirs, Some(65_534), Some(65_534)).unwrap();
    fs::set_permissions(&theirs, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let metrics = json!({"sampleSeconds": 1, "customMetrics": [
        {"name": "theirs", "type": "number", "source": "file", "path": theirs},
        {"name": "who", "type": "string-list", "source": "command", "command": ["/usr/bin/id", "-un"]},
    ]});
    fs::write(&config, metrics.to_string()).unwrap();
    let state = dir.path().join("standalone");
    let arguments = [
        "run",
        "--standalone",
        state.to_str().unwrap(),
        "--config",
        config.to_str().unwrap(),
    ];
    let agent = Agent::spawn(command(&arguments), &state.join("control.sock"));
    agent.wait_status("the values of both", |status| {
        let told = status["customMetrics"].to_string();
        (told.contains('7') && told.contains("nobody")).then_some(())
    });
    let helper = child_of(agent.pid()).expect("a process that measures");
    let status = status_of(&format!("/proc/{helper}/status"));
    for name in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(set(&status, name), MEASURING, "{name}");
    }
    for name in ["CapInh", "CapAmb"] {
        assert_eq!(set(&status, name), 0, "{name}");
    }
    assert_eq!(status["NoNewPrivs"], "1");
}

/// The first start on a nucleus does not know yet which files it will need; the next does.
#[test]
fn on_a_nucleus_files_are_restricted_from_the_second_start_on() {
    let nucleus = TestNucleus::start(Settings {
        configuration: support::binary::configuration(json!({})),
        ..Settings::classic()
    });
    let dir = tempfile::tempdir().unwrap();
    for (start, files) in [(1, "nextStart"), (2, "restricted")] {
        let mut agent = Agent::start(&nucleus, dir.path(), 1);
        let told = agent.wait_status("what it gave up", |status| {
            status["privileges"].is_object().then(|| status["privileges"].clone())
        });
        assert_eq!(told["files"]["state"], files, "start {start}: {told:#}");
        assert_eq!(agent.terminate().0, 0);
    }
}

fn surroundings(state: &std::path::Path) -> Surroundings {
    Surroundings {
        written: vec![state.to_owned()],
        ..Surroundings::default()
    }
}

#[test]
fn only_what_is_needed_stays_open() {
    let state = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let other = elsewhere.path().join("file");
    fs::write(&other, "secret").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap();
    // all of it works before, as root
    assert!(fs::read("/etc/shadow").is_ok() && fs::read(&other).is_ok() && TcpStream::connect(port).is_ok());
    let state_dir = state.path().to_owned();
    thread::spawn(move || {
        let mut needs = Needs::of(&Config::default(), &surroundings(&state_dir));
        // what is refused here would end the process there (tests/syscalls.rs)
        needs.every_call = true;
        let entered = sandbox::enter(&needs).unwrap();
        assert_eq!(entered.files, Files::Restricted);
        let denied = |result: std::io::Result<()>, what: &str| {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::PermissionDenied, "{what}");
        };
        denied(fs::read("/etc/shadow").map(drop), "read /etc/shadow");
        denied(fs::read(&other).map(drop), "read a file that is not ours");
        denied(fs::write(&other, "x"), "write it");
        denied(fs::remove_file(&other), "remove it");
        denied(
            fs::write("/proc/sys/net/ipv4/ip_forward", "1"),
            "change the kernel's settings",
        );
        denied(
            std::process::Command::new("/bin/true").spawn().map(drop),
            "start a program",
        );
        denied(TcpListener::bind("127.0.0.1:0").map(drop), "listen");
        denied(TcpStream::connect(port).map(drop), "connect");
        // and the work goes on
        fs::write(state_dir.join("a"), "b").unwrap();
        fs::rename(state_dir.join("a"), state_dir.join("c")).unwrap();
        assert!(fs::read_to_string("/proc/net/dev").unwrap().contains("lo:"));
        let status = status_of("/proc/thread-self/status");
        assert_eq!(set(&status, "CapEff"), NET_ADMIN);
    })
    .join()
    .unwrap();
}

#[test]
fn a_configuration_that_needs_more_says_so() {
    let needs = |value| {
        let config = edge_warden::config::load_component(value, "/".as_ref(), edge_warden::config::Mode::Standalone);
        Needs::of(&config.unwrap(), &surroundings("/var/lib/edge-warden".as_ref()))
    };
    let plain = needs(json!({}));
    let leases = needs(json!({"discovery": {"leases": [
        {"path": "/var/lib/misc/dnsmasq.leases", "format": "dnsmasq", "thingName": "{hostname}"},
        {"path": "/etc/leases", "format": "dnsmasq", "thingName": "{hostname}"},
    ]}}));
    assert!(plain.beyond(&leases).is_empty());
    let lacking = leases.beyond(&plain);
    assert_eq!(lacking.len(), 3, "{lacking:?}");
    assert!(lacking.contains(&"/var/lib/misc".to_owned()) && lacking.contains(&"/etc/leases".to_owned()));
    assert!(leases.privileges.contains_key(&Privilege::ReadOtherUsersFiles));
    assert_eq!(
        leases.paths.as_ref().unwrap()[&PathBuf::from("/var/lib/misc")],
        Access::Read
    );
    // a folder or socket of another user costs a privilege, and only then
    let theirs = Surroundings {
        others_files: true,
        ..surroundings("/var/lib/edge-warden".as_ref())
    };
    assert!(
        Needs::of(&Config::default(), &theirs)
            .privileges
            .contains_key(&Privilege::OtherUsersFiles)
    );
    assert_eq!(
        plain.privileges.keys().collect::<Vec<_>>(),
        [&Privilege::NetworkAdministration]
    );
    // the first start on a nucleus may do whatever a configuration could need
    let first = Needs::of_any_configuration();
    assert!(leases.beyond(&first).is_empty());
}
