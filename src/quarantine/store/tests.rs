use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use super::*;
use crate::model::{Monotonic, Now, UnixTime};
use crate::quarantine::{EdgeCap, Event, Posture, Quarantine};

/// A state in which the operator holds these things.
fn state(things: &[&str]) -> Stored {
    let now = Now {
        monotonic: Monotonic(Duration::from_secs(1)),
        wall: UnixTime::from_seconds(1_795_000_000),
    };
    let mut quarantine = Quarantine::new(None, Posture::Isolate, EdgeCap::Auto, "boot", now);
    for thing in things {
        let event = Event::OperatorAdd {
            thing: thing.parse().unwrap(),
            posture: None,
            until: None,
            reason: None,
            who: "root".to_owned(),
        };
        quarantine.step(event, now);
    }
    quarantine.stored()
}

fn held(loaded: &Loaded) -> Vec<String> {
    loaded
        .stored
        .as_ref()
        .unwrap()
        .things
        .keys()
        .map(ToString::to_string)
        .collect()
}

fn store_with(things: &[&str]) -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, loaded) = Store::open(directory.path()).unwrap();
    assert!(loaded.stored.is_none() && loaded.damage.is_none());
    assert!(matches!(store.save(&state(things)).unwrap(), Saved::Both));
    (directory, store)
}

#[test]
fn what_was_saved_is_read_by_the_next_start() {
    let (directory, mut store) = store_with(&["cam-1"]);
    for slot in SLOTS {
        let mode = directory.path().join(slot).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600, "{slot}");
    }
    for round in 0..5 {
        let name = format!("cam-{round}");
        store.save(&state(&[&name])).unwrap();
        let (again, loaded) = Store::open(directory.path()).unwrap();
        assert_eq!((held(&loaded), loaded.damage), (vec![name], None));
        store = again;
    }
}

#[test]
fn a_state_larger_than_its_slot_makes_room() {
    let (directory, mut store) = store_with(&[]);
    let names: Vec<String> = (0..5000).map(|number| format!("thing-{number:0100}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert!(matches!(store.save(&state(&names)).unwrap(), Saved::Both));
    assert!(directory.path().join("quarantine.a").metadata().unwrap().len() > 2 * STEP);
    assert_eq!(held(&Store::read(directory.path()).unwrap()).len(), 5000);
    store.save(&state(&["cam-1"])).unwrap();
    assert_eq!(held(&Store::read(directory.path()).unwrap()), ["cam-1"]);
}

#[test]
fn no_flipped_bit_makes_a_state_empty() {
    let (directory, _) = store_with(&["cam-1"]);
    let [a, b] = [0, 1].map(|slot| slot_path(directory.path(), slot));
    let whole = std::fs::read(&a).unwrap();
    let used = encode(1, &state(&["cam-1"])).unwrap().len();
    for bit in 0..used * 8 {
        let mut rotten = whole.clone();
        rotten[bit / 8] ^= 1 << (bit % 8);
        assert!(decode_payload(&rotten).is_err(), "bit {bit} passed unseen");
        if bit % 7 == 0 {
            // through the files: the other copy serves, and it is said
            std::fs::write(&a, &rotten).unwrap();
            let loaded = Store::read(directory.path()).unwrap();
            assert_eq!(held(&loaded), ["cam-1"]);
            assert!(loaded.damage.unwrap().contains("quarantine.a"));
        }
    }
    std::fs::write(&a, vec![0; whole.len()]).unwrap();
    std::fs::write(&b, "").unwrap();
    let error = Store::open(directory.path()).unwrap_err();
    assert!(matches!(&error, StoreError::Lost(why) if why.len() == 2), "{error}");
    std::fs::remove_file(&b).unwrap();
    assert!(
        matches!(Store::read(directory.path()), Err(StoreError::Lost(_))),
        "one damaged, one missing"
    );
    Store::start_over(directory.path())
        .unwrap()
        .save(&state(&["cam-2"]))
        .unwrap();
    assert_eq!(held(&Store::read(directory.path()).unwrap()), ["cam-2"]);
    assert!(directory.path().join("quarantine.a.damaged").exists());
}

#[test]
fn a_write_torn_anywhere_leaves_the_old_or_the_new_state() {
    let (directory, _) = store_with(&["old"]);
    let [a, b] = [0, 1].map(|slot| slot_path(directory.path(), slot));
    let old = std::fs::read(&a).unwrap();
    let new = encode(2, &state(&["new", "more"])).unwrap();
    let torn = |cut: usize| [&new[..cut], &old[cut..]].concat();
    for cut in 0..=new.len() {
        std::fs::write(&a, torn(cut)).unwrap();
        std::fs::write(&b, &old).unwrap();
        let got = held(&Store::read(directory.path()).unwrap());
        let whole = cut == new.len();
        assert_eq!(
            got,
            if whole { vec!["more", "new"] } else { vec!["old"] },
            "first slot, byte {cut}"
        );
        std::fs::write(&a, torn(new.len())).unwrap();
        std::fs::write(&b, torn(cut)).unwrap();
        assert_eq!(
            held(&Store::read(directory.path()).unwrap()),
            ["more", "new"],
            "second slot, byte {cut}"
        );
    }
}

#[test]
fn a_first_start_cut_anywhere_is_a_first_start_or_a_state() {
    let whole = encode(0, &Stored::nobody()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    };
    // the first slot is being made under another name
    for cut in 0..=whole.len() {
        put("quarantine.a.new", &whole[..cut]);
        let loaded = Store::read(directory.path()).unwrap();
        assert!(loaded.stored.is_none() && loaded.damage.is_none(), "byte {cut}");
    }
    // it has its name, and the second is being made
    std::fs::remove_file(directory.path().join("quarantine.a.new")).unwrap();
    put("quarantine.a", &whole);
    for cut in 0..=whole.len() {
        put("quarantine.b.new", &whole[..cut]);
        assert_eq!(held(&Store::read(directory.path()).unwrap()), [""; 0], "byte {cut}");
    }
    let (mut store, _) = Store::open(directory.path()).unwrap();
    assert!(matches!(store.save(&state(&["cam-1"])).unwrap(), Saved::Both));
    assert_eq!(held(&Store::read(directory.path()).unwrap()), ["cam-1"]);
}

#[test]
fn the_write_after_a_torn_one_repairs_it_and_spares_the_good_slot() {
    let (directory, _) = store_with(&["cam-1"]);
    std::fs::write(slot_path(directory.path(), 1), "torn").unwrap();
    let (mut store, loaded) = Store::open(directory.path()).unwrap();
    assert!(loaded.damage.unwrap().contains("quarantine.b: it is too short"));
    assert_eq!(store.next, 1);
    store.save(&state(&["cam-2"])).unwrap();
    let loaded = Store::read(directory.path()).unwrap();
    assert_eq!((held(&loaded), loaded.damage), (vec!["cam-2".to_owned()], None));
}

/// A file as version 0.1.0 writes it. It must be read by every later version: upgrades lose nobody.
const SCHEMA_1: &str = r#"{"schemaVersion":1,"clock":{"time":1795000000000,"monotonic":1000,"boot":"b"},"things":{"cam-1":
{"causes":[[{"shadow":{"named":"quarantine"}},{"posture":"isolate","since":1795000000000,"until":1795000900000,
"reason":"x"}],[{"edge":{"profile":"p","behavior":"b"}},{"posture":"isolate","since":6,"violationId":"v",
"releaseWhenCleared":true}],["operator",{"posture":"remediate","since":5}],["recovered",{"posture":"isolate","since":5}]],
"heard":[["classic",{"version":9,"written":8,"asked":"release","read":8,"deleted":true,"failure":"f"}],
[{"named":"quarantine"},{"version":3,"written":1795000000000,"asked":{"quarantine":{"posture":"isolate",
"until":1795000900000,"reason":"x"}},"read":7}]],"bound":["02:00:00:00:00:01"]}},"edgeCuts":{"cam-1":6}}"#;

fn slot_of(payload: &str) -> Vec<u8> {
    let length = payload.len() as u64;
    let crc = checksum(7, length, payload.as_bytes());
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&7_u64.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(payload.as_bytes());
    bytes
}

fn put(directory: &Path, slot: usize, bytes: &[u8]) {
    let path = slot_path(directory, slot);
    std::fs::write(&path, bytes).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
}

/// What layout 2 added: alarms that wait, and who the operator was.
const SCHEMA_2: &str = r#"{"schemaVersion":2,"clock":{"time":1795000000000,"monotonic":1000,"boot":"b"},"things":{"cam-1":
{"causes":[["operator",{"posture":"remediate","since":5,"who":"root"}]],"heard":[],"bound":["02:00:00:00:00:01"]}},
"edgeCuts":{},"waiting":[{"thing":"cam-2","key":{"edge":{"profile":"p","behavior":"b"}},"since":6,"violationId":"v",
"known":4,"why":"w"}]}"#;

/// What layout 3 added: learnt IP addresses.
const SCHEMA_3: &str = r#"{"schemaVersion":3,"clock":{"time":1795000000000,"monotonic":1000,"boot":"b"},"things":{"cam-1":
{"causes":[["operator",{"posture":"remediate","since":5,"who":"root"}]],"heard":[],"bound":["02:00:00:00:00:01"],
"addresses":["10.0.0.7","fe80::7"]}},"edgeCuts":{}}"#;

#[test]
fn a_file_of_every_earlier_version_is_read_whole() {
    for text in [SCHEMA_1, SCHEMA_2, SCHEMA_3] {
        let directory = tempfile::tempdir().unwrap();
        put(directory.path(), 0, &slot_of(text));
        let stored = Store::read(directory.path()).unwrap().stored.unwrap();
        let written: serde_json::Value = serde_json::to_value(&stored).unwrap();
        assert_eq!(written, serde_json::from_str::<serde_json::Value>(text).unwrap());
        // what is written in its place asks no more of its reader than it did
        let now = Now {
            monotonic: Monotonic(Duration::from_secs(1)),
            wall: UnixTime::from_seconds(1_795_000_000),
        };
        let quarantine = Quarantine::new(Some(stored.clone()), Posture::Isolate, EdgeCap::Auto, "b", now);
        let again = quarantine.stored();
        assert_eq!(again.schema_version, stored.schema_version);
        assert_eq!(again.things, stored.things);
    }
}

#[test]
fn a_file_of_a_later_version_is_refused_and_left_alone() {
    let (directory, _) = store_with(&["cam-1"]);
    let later = slot_of(&format!(
        r#"{{"schemaVersion":{},"everything":"is different"}}"#,
        SCHEMA + 1
    ));
    put(directory.path(), 1, &later);
    let error = Store::open(directory.path()).unwrap_err();
    assert!(
        matches!(error, StoreError::NewerSchema { found, .. } if found == u64::from(SCHEMA) + 1),
        "{error}"
    );
    assert!(error.to_string().contains("install the newer version again"));
    assert_eq!(std::fs::read(slot_path(directory.path(), 1)).unwrap(), later);
}

#[test]
fn links_and_files_others_can_write_are_refused() {
    let (directory, _) = store_with(&["cam-1"]);
    let slot = slot_path(directory.path(), 0);
    std::fs::set_permissions(&slot, Permissions::from_mode(0o662)).unwrap();
    assert!(matches!(Store::read(directory.path()), Err(StoreError::NotOurs { .. })));
    std::fs::remove_file(&slot).unwrap();
    std::os::unix::fs::symlink(slot_path(directory.path(), 1), &slot).unwrap();
    assert!(matches!(Store::open(directory.path()), Err(StoreError::NotOurs { .. })));
    std::fs::remove_file(&slot).unwrap();
    std::fs::create_dir(&slot).unwrap();
    assert!(Store::read(directory.path()).is_err());
}
