//! What only the packaged binary can show, and the limits it was built with.

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

use crate::support::binary::{Agent, SOON, is_packaged, path};
use crate::support::nucleus::{Kind, TestNucleus};
use crate::{FAST, KINDS, as_shipped, core, reports};

#[test]
fn it_is_static_hardened_stripped_and_small() {
    if !is_packaged() {
        // Straight to stderr: the test harness would keep a println! to itself.
        let loud = "packaged.rs: NOT the packaged binary, so nothing is shown about it; run `make test`\n";
        std::io::stderr().write_all(loud.as_bytes()).unwrap();
        return;
    }
    let said = Command::new("file").arg("--dereference").arg(path()).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(
        said.contains("static-pie linked") || said.contains("statically linked"),
        "{said}"
    );
    assert!(said.contains(", stripped"), "{said}");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/hardening.sh");
    let checked = Command::new(script).arg(path()).output().unwrap();
    let said = String::from_utf8(checked.stdout).unwrap();
    assert!(
        checked.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&checked.stderr)
    );
    assert!(said.lines().count() > 8, "{said}");
    let bytes = path().metadata().unwrap().size();
    assert!(bytes <= 6 * 1024 * 1024, "{bytes} bytes");
}

/// With the SDK's own limit of 10,000 bytes each of these would end the process.
#[test]
fn messages_as_large_as_aws_iot_delivers_are_survived() {
    let nucleus = TestNucleus::start(as_shipped(Kind::Classic));
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(&nucleus, dir.path(), FAST);
    nucleus.wait_for("a report", SOON, reports(1));
    for bytes in [8_000, 20_000, 40_000, 49_149, 49_150, 65_536, 128 * 1024] {
        let topic = "$aws/things/gateway-1/defender/metrics/json/accepted";
        assert_eq!(nucleus.deliver(topic, &vec![b'x'; bytes]), 1);
    }
    // Those that fit into a string of the SDK arrive as replies nobody understands, the others are dropped there.
    agent.wait_status("the messages", |status| {
        (status["reports"]["unreadableReplies"] == 4 && status["unreadableMessages"] == 3).then_some(())
    });
    let before = nucleus.reports().len();
    nucleus.wait_for("reports go on", SOON, reports(before + 2));
    agent.wait_status("accepted", |status| {
        (core(status)["lastReport"]["fate"] == "accepted").then_some(())
    });
    assert_eq!(nucleus.seen().connections, 1);
}

/// On a host with many listeners, here a network namespace, the report is whole on the classic nucleus and cut to what
/// nucleus lite carries, with totals that stay true.
#[test]
fn a_long_report_is_cut_only_where_it_must_be() {
    const LISTENERS: usize = 700;
    let made = |kind: Kind| -> (usize, Value, Value) {
        // A thread of its own: unshare(2) changes the namespace of the thread, and of what it starts.
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace needs root: run `make test`");
            let listeners: Vec<TcpListener> = (0..LISTENERS)
                .map(|_| TcpListener::bind("0.0.0.0:0").unwrap())
                .collect();
            let nucleus = TestNucleus::start(as_shipped(kind));
            let dir = tempfile::tempdir().unwrap();
            let agent = Agent::start(&nucleus, dir.path(), FAST);
            nucleus.wait_for("a report", SOON, reports(1));
            let report = nucleus.reports().swap_remove(0);
            assert_eq!(report.verdict, Ok(()), "{kind:?}");
            let status = agent.wait_status("accepted", |status| {
                (core(status)["lastReport"]["fate"] == "accepted").then(|| status.clone())
            });
            assert_eq!(nucleus.seen().violations, [""; 0]);
            drop(listeners);
            (
                report.bytes,
                report.document["metrics"]["listening_tcp_ports"].clone(),
                status,
            )
        })
        .join()
        .unwrap()
    };
    for kind in KINDS {
        let (bytes, ports, status) = made(kind);
        let listed = ports["ports"].as_array().unwrap().len();
        assert_eq!(ports["total"], LISTENERS, "{kind:?}");
        match kind {
            Kind::Classic => {
                assert!(bytes > 7_008, "{bytes}");
                assert_eq!(listed, LISTENERS);
                assert!(status["reports"]["lastCut"].is_null(), "{}", status["reports"]);
            }
            Kind::Lite => {
                assert!(bytes <= 7_008 && bytes > 6_500, "{bytes}");
                assert!(listed < LISTENERS, "{listed}");
                assert!(status["reports"]["lastCut"]["cut"].is_string(), "{}", status["reports"]);
            }
        }
    }
}
