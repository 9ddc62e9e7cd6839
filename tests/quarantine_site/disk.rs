//! The disk fills up while the agent runs.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use edge_warden::control::Request;
use edge_warden::quarantine::Store;
use serde_json::{Value, json};

use crate::support::site::until;
use crate::support::warden::{Guarded, SOON, devices};
use crate::{add, causes, release, why};

/// A tmpfs of one MiB that everybody sees, as long as this lives.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(folder: &Path) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m,mode=0700", "none"])
            .arg(folder)
            .status();
        assert!(done.expect("mount").success(), "needs root");
        Self(folder.to_owned())
    }

    fn blob(&self) -> PathBuf {
        self.0.join("blob")
    }

    /// Not a byte is left.
    fn fill(&self) {
        let mut blob = std::fs::File::create(self.blob()).unwrap();
        let full = std::iter::repeat_with(|| blob.write_all(&[1; 512]))
            .find_map(Result::err)
            .unwrap();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Whom the disk says is cut off.
fn stored(disk: &SmallDisk) -> Vec<String> {
    let loaded = Store::read(&disk.0).unwrap();
    assert_eq!(loaded.damage, None);
    let stored = serde_json::to_value(loaded.stored.unwrap()).unwrap();
    let things = stored["things"].as_object().unwrap();
    let held = things.iter().filter(|(_, state)| state["causes"] != json!([]));
    held.map(|(thing, _)| thing.clone()).collect()
}

#[test]
fn a_disk_that_fills_up_stops_neither_cut_nor_release_and_is_said() {
    let mut guarded = Guarded::prepare();
    let disk = SmallDisk::mount(&guarded.dir.join("state"));
    std::fs::set_permissions(&guarded.dir, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    guarded.configure(&json!({"devices": devices(&guarded.site)}));
    guarded.run();
    guarded.assert_open(0);
    let quarantine = |guarded: &Guarded| guarded.answer(&Request::Status)["quarantine"].clone();
    assert_eq!(quarantine(&guarded)["trouble"], json!({}));
    disk.fill();

    // A cut and a release, by operator and shadow: in the kernel, on the disk and in the shadow.
    guarded.answer(&add("cam-0"));
    guarded.desire("cam-1", None, &json!({"quarantine": true}));
    guarded.await_enforced("cam-1", None, &json!(true));
    guarded.assert_cut(0);
    guarded.assert_cut(1);
    assert_eq!(stored(&disk), ["cam-0", "cam-1"]);
    guarded.desire("cam-1", None, &json!({"quarantine": false}));
    guarded.await_enforced("cam-1", None, &json!(false));
    guarded.assert_open_but(1, &[0]);
    assert_eq!(stored(&disk), ["cam-0"]);

    // The audit log has no space set aside: what it loses is counted, and said in status and log.
    let lost = |guarded: &Guarded| quarantine(guarded)["auditLinesLost"].as_u64().unwrap();
    for round in 0..60 {
        guarded.answer(&add(["cam-1", "cam-2", "cam-3"][round % 3]));
        guarded.answer(&release(["cam-1", "cam-2", "cam-3"][round % 3]));
        if lost(&guarded) > 1 {
            break;
        }
    }
    assert!(lost(&guarded) > 1, "{:#}", quarantine(&guarded));
    let trouble = &quarantine(&guarded)["trouble"]["audit log"];
    assert!(
        trouble.as_str().is_some_and(|why| why.contains("audit.jsonl")),
        "{trouble}"
    );
    assert!(guarded.log().contains("audit.jsonl"), "{}", guarded.log());
    assert_eq!(stored(&disk), ["cam-0"]);

    // Killed and started on a full disk: the decisions are there.
    guarded.kill();
    guarded.run();
    assert_eq!(causes(&guarded, "cam-0"), ["operator"]);
    assert_eq!(guarded.answer(&why("cam-0"))["enforced"], true);
    guarded.assert_cut(0);
    guarded.answer(&add("cam-2"));
    assert_eq!(stored(&disk), ["cam-0", "cam-2"]);

    // There is space again: all is well, without a restart.
    std::fs::remove_file(disk.blob()).unwrap();
    guarded.answer(&release("cam-0"));
    let well = until(SOON, || quarantine(&guarded)["trouble"] == json!({}));
    assert!(well, "{:#}", quarantine(&guarded));
    assert_eq!(stored(&disk), ["cam-2"]);
    guarded.assert_open_but(0, &[2]);
    let last = guarded.audit();
    let released = |line: &Value| line["thing"] == "cam-0" && line["what"] == "released by the operator";
    assert!(last.iter().any(released), "{last:#?}");
    guarded.stop();
}
