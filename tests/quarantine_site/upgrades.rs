//! New versions of the agent take over from old ones under traffic, and old ones refuse what they cannot read.

use std::path::{Path, PathBuf};

use edge_warden::quarantine::{SCHEMA, Store, Stored};
use serde_json::{Value, json};

use crate::support::site::until;
use crate::support::warden::{Arrivals, Flood, Guarded, SOON, devices, leaked, now};
use crate::{RATE, add, causes, release, why};

/// What is stored, as the JSON of one slot.
fn stored(state: &Path) -> Value {
    let loaded = Store::read(state).unwrap();
    assert_eq!(loaded.damage, None);
    serde_json::to_value(loaded.stored.unwrap()).unwrap()
}

/// Write a state as another version would.
fn store(state: &Path, stored: &Value) {
    let stored: Stored = serde_json::from_value(stored.clone()).unwrap();
    Store::open(state).unwrap().0.save(&stored).unwrap();
}

fn slots(state: &Path) -> [Vec<u8>; 2] {
    ["quarantine.a", "quarantine.b"].map(|slot| std::fs::read(state.join(slot)).unwrap())
}

/// The binary under another path, as the artifacts of every version have one of their own.
fn installed(guarded: &Guarded, version: usize) -> PathBuf {
    let folder = guarded.dir.with_file_name(format!("version-{version}"));
    std::fs::create_dir_all(&folder).unwrap();
    let binary = folder.join("edge-warden");
    std::fs::copy(&guarded.binary, &binary).unwrap();
    binary
}

fn upgraded(ownership: &str) {
    let mut guarded = Guarded::prepare();
    let state = guarded.dir.join("state");
    guarded.binary = installed(&guarded, 0);
    // cam-3's addresses are learnt, which is what the newest layout is for
    let mut known = devices(&guarded.site);
    known[3].as_object_mut().unwrap().shift_remove("addresses");
    guarded.configure(&json!({"devices": known, "quarantine": {"tableOwnership": ownership}}));
    guarded.run();
    guarded.assert_open(0);
    let floods = [
        Flood::start(&guarded.site, 0, RATE),
        Flood::start(&guarded.site, 3, RATE),
    ];
    let arrivals = [
        Arrivals::on_lan(guarded.site.device(1), guarded.site.device(0)),
        Arrivals::on_internet(&guarded.site),
    ];
    arrivals.iter().for_each(|place| place.await_more(20));
    guarded.desire("cam-0", None, &json!({"quarantine": true}));
    guarded.await_enforced("cam-0", None, &json!(true));
    guarded.answer(&add("cam-3"));
    for place in &arrivals {
        let _ = place.await_silence();
    }
    let cut = now();
    let still_cut = |guarded: &Guarded, what: &str| {
        floods.iter().for_each(|flood| flood.await_sent(100));
        let passed = leaked(&[&arrivals[0], &arrivals[1]], cut);
        assert_eq!(passed, 0, "tableOwnership {ownership}, {what}\n{}", guarded.log());
    };
    let holds = |guarded: &Guarded, what: &str| {
        for (thing, cause) in [("cam-0", "shadow"), ("cam-3", "operator")] {
            assert_eq!(guarded.answer(&why(thing))["enforced"], true, "{what}");
            assert_eq!(causes(guarded, thing), [cause], "{what}");
        }
    };

    // A new version: another path, and the old artifacts are removed. Stopped by Greengrass, or killed.
    for version in 1..=4 {
        let old = guarded.binary.clone();
        guarded.binary = installed(&guarded, version);
        if version % 2 == 0 {
            guarded.kill();
        } else {
            guarded.stop();
        }
        std::fs::remove_file(&old).unwrap();
        still_cut(&guarded, "between the versions");
        guarded.run();
        holds(&guarded, "a new version");
        still_cut(&guarded, "a new version");
    }

    // From versions that knew older layouts only.
    for layout in [2, 1] {
        let what = format!("a state of layout {layout}");
        let newest = until(SOON, || stored(&state)["schemaVersion"] == SCHEMA);
        assert!(newest, "learnt addresses need the newest layout: {:#}", stored(&state));
        guarded.stop();
        let mut old = stored(&state);
        for (_, thing) in old["things"].as_object_mut().unwrap() {
            thing.as_object_mut().unwrap().shift_remove("addresses");
            for cause in thing["causes"]
                .as_array_mut()
                .unwrap()
                .iter_mut()
                .filter(|_| layout < 2)
            {
                cause[1].as_object_mut().unwrap().shift_remove("who");
            }
        }
        old["schemaVersion"] = json!(layout);
        store(&state, &old);
        guarded.run();
        holds(&guarded, &what);
        still_cut(&guarded, &what);
    }

    // Back from a version with a newer layout: this one neither forgets nor starts over, and the rules stay.
    guarded.stop();
    let good = stored(&state);
    let mut newer = good.clone();
    newer["schemaVersion"] = json!(SCHEMA + 1);
    store(&state, &newer);
    let before = slots(&state);
    assert_eq!(guarded.launch_in_vain(), Some(4), "{}", guarded.log());
    let log = guarded.log();
    let words = format!("has schema version {}, this version knows {SCHEMA}", SCHEMA + 1);
    assert!(
        log.contains(&words) && log.contains("install the newer version again"),
        "{log}"
    );
    assert_eq!(slots(&state), before, "left as it was");
    still_cut(&guarded, "a state of a newer layout");
    // The newer version comes back.
    for slot in ["quarantine.a", "quarantine.b"] {
        std::fs::remove_file(state.join(slot)).unwrap();
    }
    store(&state, &good);
    guarded.run();
    holds(&guarded, "the newer version again");
    still_cut(&guarded, "the newer version again");

    // It was the rules that kept them in.
    guarded.answer(&release("cam-0"));
    arrivals.iter().for_each(|place| place.await_more(20));
}

#[test]
fn an_upgrade_leaks_nothing_with_owned_tables() {
    upgraded("auto");
}

#[test]
fn an_upgrade_leaks_nothing_with_plain_tables() {
    upgraded("off");
}
