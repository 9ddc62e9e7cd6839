//! A full disk, for real: a tiny tmpfs in a mount namespace of its own. Needs root.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use edge_warden::model::{Monotonic, Now, UnixTime};
use edge_warden::quarantine::{AuditEntry, AuditLog, EdgeCap, Event, Posture, Quarantine, Saved, Store, StoreError};

/// Names the tmpfs to the process that runs inside.
const DISK: &str = "EDGE_WARDEN_TEST_DISK";

fn now() -> Now {
    Now {
        monotonic: Monotonic(Duration::from_secs(1)),
        wall: UnixTime::from_seconds(1_795_000_000),
    }
}

fn add(quarantine: &mut Quarantine, thing: &str) {
    let event = Event::OperatorAdd {
        thing: thing.parse().unwrap(),
        posture: None,
        until: None,
        reason: None,
        who: "root".to_owned(),
    };
    quarantine.step(event, now());
}

fn held(directory: &Path) -> usize {
    let stored = Store::read(directory).unwrap().stored;
    Quarantine::new(stored, Posture::Isolate, EdgeCap::Auto, "b", now())
        .causes()
        .len()
}

#[test]
fn a_full_disk_loses_no_decision_and_stops_nothing() {
    if let Some(disk) = std::env::var_os(DISK) {
        return fill(Path::new(&disk));
    }
    let mount_point = tempfile::tempdir().unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-ec"])
        .arg("mount -t tmpfs -o size=1m none \"$1\"; exec \"$2\" --exact \"$3\" --nocapture")
        .arg("sh")
        .arg(mount_point.path())
        .arg(std::env::current_exe().unwrap())
        .arg("quarantine::disk::a_full_disk_loses_no_decision_and_stops_nothing")
        .env(DISK, mount_point.path())
        .output()
        .expect("unshare of util-linux");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("the disk was full"),
        "needs root: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn fill(disk: &Path) {
    let (mut store, _) = Store::open(disk).unwrap();
    let mut log = AuditLog::open(disk);
    let mut quarantine = Quarantine::new(None, Posture::Isolate, EdgeCap::Auto, "b", now());
    let blob = vec![1_u8; 4 * 1024 * 1024];
    let full = std::fs::write(disk.join("blob"), &blob).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    // decisions are written into the space set aside
    for number in 0..100 {
        add(&mut quarantine, &format!("cam-{number}"));
        assert!(matches!(store.save(&quarantine.stored()).unwrap(), Saved::Both));
        assert_eq!(held(disk), number + 1);
    }
    // one that needs more space than there is fails, and the state before stays
    for number in 0..10_000 {
        add(&mut quarantine, &format!("thing-{number:0100}"));
    }
    assert!(matches!(store.save(&quarantine.stored()), Err(StoreError::Io { .. })));
    assert_eq!(held(disk), 100);
    // the audit log loses lines, and counts them
    let entry = |who: usize| AuditEntry {
        time: now().wall,
        thing: "cam-1".parse().unwrap(),
        who: format!("who-{who}"),
        what: "quarantined".repeat(20),
        before: vec![],
        after: vec!["operator".to_owned()],
    };
    assert!((0..200).any(|who| log.append(&entry(who), now().monotonic).is_err()));
    assert!(log.lost() > 0);
    // there is space again: both go on
    std::fs::remove_file(disk.join("blob")).unwrap();
    let mut small = Quarantine::new(None, Posture::Isolate, EdgeCap::Auto, "b", now());
    add(&mut small, "cam-1");
    assert!(matches!(store.save(&small.stored()).unwrap(), Saved::Both));
    assert_eq!(held(disk), 1);
    log.append(&entry(1000), now().monotonic).unwrap();
    let text = std::fs::read_to_string(disk.join("audit.jsonl")).unwrap();
    // what fitted of the first line that did not fit whole is gone
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.last().unwrap()["who"], "who-1000");
    println!("the disk was full");
}

/// Names the state folder to the process that is killed.
const KILLED: &str = "EDGE_WARDEN_TEST_KILLED";

/// Whenever the writer is killed, what it had said to be on disk is, or the write after it.
#[test]
fn kill_9_anywhere_in_the_store_leaves_the_last_state_or_the_next() {
    if let Some(directory) = std::env::var_os(KILLED) {
        return write_for_ever(Path::new(&directory));
    }
    let directory = tempfile::tempdir().unwrap();
    let mut least = 0;
    for round in 0..40_usize {
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "quarantine::disk::kill_9_anywhere_in_the_store_leaves_the_last_state_or_the_next",
            ])
            .arg("--nocapture")
            .env(KILLED, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(writer.stdout.take().unwrap());
        // it is killed while it writes the state after the last it spoke of, in the first rounds before any
        let number = |line: &str| line.strip_prefix("kept ")?.trim().parse::<usize>().ok();
        let mut kept = 0;
        let mut line = String::new();
        while kept < round.saturating_sub(5) % 7 {
            line.clear();
            assert_ne!(said.read_line(&mut line).unwrap(), 0, "it ended by itself");
            kept += usize::from(number(&line).is_some());
        }
        // how far it gets in that is left to chance: every round another number of turns
        (0..round * 997 % 20_000).for_each(|_| std::hint::spin_loop());
        writer.kill().unwrap();
        writer.wait().unwrap();
        let mut rest = line.clone();
        said.read_to_string(&mut rest).unwrap();
        least = rest.lines().filter_map(number).max().unwrap_or(0).max(least);
        let (_, loaded) = Store::open(directory.path()).expect("never lost");
        let held = loaded.stored.map_or(0, |stored| {
            Quarantine::new(Some(stored), Posture::Isolate, EdgeCap::Auto, "b", now())
                .causes()
                .len()
        });
        assert!(
            held == least || held == least + 1,
            "round {round}: {held} instead of {least} or one more"
        );
        least = held;
    }
    assert!(least > 20, "{least} states were written");
}

/// One thing more in every state; says which one is kept.
fn write_for_ever(directory: &Path) {
    let (mut store, loaded) = Store::open(directory).unwrap();
    let mut quarantine = Quarantine::new(loaded.stored, Posture::Isolate, EdgeCap::Auto, "b", now());
    for number in quarantine.causes().len().. {
        // large enough for writes that take a while and make the files grow
        add(&mut quarantine, &format!("thing-{number:0100}"));
        store.save(&quarantine.stored()).unwrap();
        println!("kept {}", number + 1);
    }
}
