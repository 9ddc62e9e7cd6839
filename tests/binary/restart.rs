//! Killed, restarted, with a full disk and with broken files.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::binary::{Agent, SOON, agent_seconds, path, run_arguments};
use crate::support::nucleus::{Kind, TestNucleus};
use crate::{FAST, KINDS, as_shipped, core, reports};

#[test]
fn after_kill_9_the_next_report_keeps_the_300_seconds_and_carries_a_delta() {
    for kind in KINDS {
        let nucleus = TestNucleus::start(as_shipped(kind));
        let dir = tempfile::tempdir().unwrap();
        // Killed right after a report was seen, three times in a row.
        for wanted in [2, 3, 4] {
            let mut agent = Agent::start(&nucleus, dir.path(), FAST);
            nucleus.wait_for("a report", SOON, reports(wanted));
            agent.kill();
        }
        let agent = Agent::start(&nucleus, dir.path(), FAST);
        nucleus.wait_for("another one", SOON, reports(5));
        agent.wait_status("the socket of the dead one replaced", |status| {
            status.is_object().then_some(())
        });
        let all = nucleus.reports();
        for pair in all.windows(2) {
            let [earlier, later] = [&pair[0], &pair[1]].map(|report| report.report_id.unwrap());
            assert!(later >= earlier + 300, "{earlier} then {later}");
        }
        for report in &all {
            assert_eq!(report.verdict, Ok(()), "{kind:?}");
        }
        for report in &all[1..] {
            assert!(
                report.document["metrics"].get("network_stats").is_some(),
                "{}",
                report.document
            );
        }
    }
}

/// Whatever cannot be read might hide a report of a moment ago.
#[test]
fn after_a_broken_state_file_the_first_report_waits_a_whole_interval() {
    for content in [
        "",
        "{",
        "null",
        "[1,2]",
        "\u{0}\u{0}\u{0}",
        r#"{"schedule": {"bootId": "x", "things": {"a b": {}}}}"#,
    ] {
        let nucleus = TestNucleus::start(as_shipped(Kind::Classic));
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("reports.json"), content).unwrap();
        let started = agent_seconds(FAST);
        let agent = Agent::start(&nucleus, dir.path(), FAST);
        agent.wait_log(&["WARN", "reports.json", "waits a whole interval"]);
        nucleus.wait_for("a report", SOON, reports(1));
        let first = nucleus.reports().swap_remove(0);
        assert!(
            first.report_id.unwrap() >= started + 300,
            "{content:?}: {first:?}, started at {started}"
        );
        assert_eq!(first.verdict, Ok(()));
    }
}

#[test]
fn a_clean_first_start_reports_at_once() {
    let nucleus = TestNucleus::start(as_shipped(Kind::Classic));
    let dir = tempfile::tempdir().unwrap();
    // Without acceleration: a wait of an interval would take 300 s.
    let agent = Agent::start(&nucleus, dir.path(), 1);
    nucleus.wait_for("a report", SOON, reports(1));
    agent.wait_status("accepted", |status| {
        (core(status)["lastReport"]["fate"] == "accepted").then_some(())
    });
}

#[test]
fn a_state_folder_that_cannot_be_made_ends_the_start_with_code_4() {
    let nucleus = TestNucleus::start(as_shipped(Kind::Classic));
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let mut agent = Agent::start(&nucleus, &dir.path().join("file/below"), FAST);
    assert_eq!(agent.exit_code(), 4);
    assert!(agent.log().contains("file/below"), "{}", agent.log());
}

/// An agent whose state folder is a small file system of its own, in a mount namespace of its own.
struct SmallDisk {
    agent: Agent,
    /// The file system, seen from here.
    inside: PathBuf,
}

impl SmallDisk {
    fn start(nucleus: &TestNucleus, dir: &Path) -> Self {
        let script = r#"mount -t tmpfs -o size=64k,mode=700 tmpfs "$1" && shift && exec "$@""#;
        let mut command = Command::new("/usr/bin/unshare");
        command
            .args(["--mount", "--propagation", "private", "/bin/sh", "-c", script, "sh"])
            .arg(dir)
            .arg(path())
            .args(run_arguments(dir, &FAST.to_string()))
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(nucleus.env())
            .stdin(Stdio::null());
        let mut agent = Agent::spawn(command, Path::new("/nowhere"));
        let inside = PathBuf::from(format!("/proc/{}/root{}", agent.pid(), dir.display()));
        agent.set_socket(inside.join("control.sock"));
        Self { agent, inside }
    }
}

#[test]
fn a_full_disk_is_said_once_and_the_reports_go_on() {
    assert!(
        rustix::process::geteuid().is_root(),
        "mounting needs root: run `make test`"
    );
    let nucleus = TestNucleus::start(as_shipped(Kind::Classic));
    let dir = tempfile::tempdir().unwrap();
    let SmallDisk { agent, inside } = SmallDisk::start(&nucleus, dir.path());
    agent.wait_status("accepted", |status| {
        (core(status)["lastReport"]["fate"] == "accepted").then_some(())
    });
    assert!(agent.status()["reports"]["saveError"].is_null());
    let filler = inside.join("filler");
    let full = std::fs::write(&filler, vec![0; 128 * 1024]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    agent.wait_log(&["WARN", "report times are not saved", "No space left on device"]);
    agent.wait_status("not saved", |status| {
        status["reports"]["saveError"]
            .as_str()?
            .contains("reports.json")
            .then_some(())
    });
    let before = nucleus.reports().len();
    nucleus.wait_for("reports go on", SOON, reports(before + 3));
    assert!(nucleus.reports().iter().all(|report| report.verdict.is_ok()));
    assert_eq!(
        agent.log().matches("report times are not saved").count(),
        1,
        "{}",
        agent.log()
    );
    std::fs::remove_file(filler).unwrap();
    agent.wait_log(&["INFO", "saved again"]);
    agent.wait_status("saved", |status| status["reports"]["saveError"].is_null().then_some(()));
}
