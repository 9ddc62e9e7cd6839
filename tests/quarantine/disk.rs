//! A full disk, for real: a tiny tmpfs in a mount namespace of its own. Needs root.

use std::path::Path;
use std::process::Command;
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
    let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["who"], "who-1000");
    println!("the disk was full");
}
