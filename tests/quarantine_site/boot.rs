//! Before the agent runs, and after it is gone for good.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use edge_warden::agent::boot_unit::{self, UNIT};
use serde_json::json;

use crate::support::site::until;
use crate::support::warden::{Guarded, SOON, THINGS};
use crate::{causes, our_tables};

#[test]
fn boot_restores_the_rules_and_only_purge_removes_them() {
    for ownership in ["auto", "off"] {
        let mut guarded = Guarded::start(&json!({"tableOwnership": ownership}));
        guarded.assert_open(0);
        for n in [0, 3] {
            guarded.desire(THINGS[n], None, &json!({"quarantine": true}));
            guarded.await_enforced(THINGS[n], None, &json!(true));
        }
        assert!(!guarded.command(&["purge"]).status.success(), "not without --yes");
        let refused = guarded.command(&["purge", "--yes"]);
        let words = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            !refused.status.success() && words.contains("an agent is running"),
            "{words}"
        );
        guarded.assert_cut(0);

        // A reboot: the kernel has forgotten everything and the bridge is not there yet.
        guarded.stop();
        guarded.assert_cut(0);
        let gateway = guarded.site.gateway();
        gateway.shell(
            "nft delete table bridge edge_warden; nft delete table netdev edge_warden; \
             nft delete table inet edge_warden_acct; \
             for port in lan0 lan1 lan2; do ip link set $port nomaster down; done; ip link del br0; \
             ip link set lan3 down; ip link set wan0 down",
        );
        assert_eq!(our_tables(&guarded), "");
        let said = guarded.cli(&["boot"]);
        assert!(said.contains("2 quarantined"), "{said}");
        let restored = our_tables(&guarded);
        assert_eq!(restored.lines().count(), 2, "{restored}\n{said}");
        gateway.shell(&format!(
            "ip link add br0 address {} type bridge forward_delay 0 mcast_snooping 0 && \
             for port in lan0 lan1 lan2; do ip link set $port master br0 up; done; \
             ip link set br0 up && ip addr add {}/24 dev br0 && ip addr add {}/64 dev br0; \
             ip link set lan3 up; ip addr add {}/64 dev lan3; \
             ip link set wan0 up; ip addr add 2001:db8::2/64 dev wan0; \
             ip route add default via 203.0.113.1; ip -6 route add default via 2001:db8::1 dev wan0",
            gateway.mac,
            gateway.v4,
            gateway.v6,
            guarded.site.routed_port().v6
        ));
        assert!(
            until(SOON, || guarded.site.device(1).ping(gateway.v4.into())),
            "the bridge is back"
        );
        guarded.assert_cut(0);
        guarded.assert_cut(3);

        // The agent takes over, whoever owned what, and can still end it.
        guarded.run();
        guarded.assert_cut(0);
        assert_eq!(causes(&guarded, "cam-0"), ["shadow"]);
        guarded.desire("cam-3", None, &json!({"quarantine": false}));
        guarded.assert_open_but(3, &[0]);

        // Purge takes what is ours and nothing else.
        guarded.stop();
        guarded
            .site
            .gateway()
            .shell("nft 'add table inet foreign; add table bridge foreign'");
        guarded.cli(&["purge", "--yes"]);
        guarded.assert_open(0);
        let left = guarded.site.gateway().shell("nft list tables");
        let left: BTreeSet<&str> = left.lines().collect();
        assert_eq!(
            left,
            ["table ip site_nat", "table inet foreign", "table bridge foreign"].into()
        );
        assert!(!guarded.dir.join("state").exists());
        assert!(
            guarded.dir.join("shadows").exists(),
            "the stand-in's shadows are not ours to remove"
        );
    }
}

/// The unit and its copy of the binary as the component installs them, in folders of the test.
struct Installed {
    folder: tempfile::TempDir,
    units: PathBuf,
    state: PathBuf,
}

impl Installed {
    fn new(binary: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (units, state) = (folder.path().join("units"), folder.path().join("state"));
        std::fs::create_dir(&units).unwrap();
        std::fs::create_dir(&state).unwrap();
        boot_unit::install(&units, &state, binary).unwrap();
        Self { folder, units, state }
    }
}

fn binary() -> PathBuf {
    crate::support::binary::path()
}

fn said(output: &Output) -> String {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// What systemd itself thinks of the unit. The second number is ten times the exposure that is too much.
#[test]
fn systemd_takes_the_boot_unit_and_finds_it_hardened() {
    let installed = Installed::new(&binary());
    let unit = installed.units.join(UNIT);
    let analyze = |arguments: &[&str]| {
        let output = Command::new("systemd-analyze").args(arguments).arg(&unit).output();
        output.expect("systemd-analyze of the package systemd (scripts/setup.sh test)")
    };
    // it speaks of other units of this host, too
    let complaints = |output: &Output| -> Vec<String> {
        let said = said(output);
        said.lines()
            .filter(|line| line.contains(UNIT))
            .map(str::to_owned)
            .collect()
    };
    let output = analyze(&["verify", "--man=no"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(complaints(&output), [""; 0]);
    let security = |threshold| analyze(&["security", "--offline=true", "--no-pager", threshold]);
    let output = security("--threshold=20");
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        !security("--threshold=5").status.success(),
        "the threshold means something"
    );
    // and so does the first
    let text = std::fs::read_to_string(&unit).unwrap();
    std::fs::write(&unit, text.replace("ProtectHome=yes", "ProtectHouse=yes")).unwrap();
    let complaints = complaints(&analyze(&["verify", "--man=no"]));
    assert!(
        complaints.iter().any(|line| line.contains("ProtectHouse")),
        "{complaints:?}"
    );
}

/// The unit's command with what the unit leaves it: one capability, nothing to gain, and a file system of which only the
/// state folder can be written. (Its filter of system calls needs systemd: docs/quarantine.md.)
#[test]
fn the_boot_units_command_needs_no_more_than_the_unit_leaves_it() {
    let mut guarded = Guarded::start(&json!({}));
    guarded.assert_open(0);
    guarded.desire("cam-0", None, &json!({"quarantine": true}));
    guarded.await_enforced("cam-0", None, &json!(true));
    guarded.stop();
    let state = guarded.dir.join("state");
    let units = guarded.dir.join("units");
    std::fs::create_dir(&units).unwrap();
    boot_unit::install(&units, &state, &guarded.binary).unwrap();
    let unit = std::fs::read_to_string(units.join(UNIT)).unwrap();
    let line = |key: &str| {
        let mut values = unit
            .lines()
            .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        values.next().unwrap_or_else(|| panic!("{key} in {unit}")).to_owned()
    };
    assert_eq!(line("CapabilityBoundingSet"), "CAP_NET_ADMIN");
    assert_eq!(line("NoNewPrivileges"), "yes");
    assert_eq!(line("ProtectSystem"), "strict");
    assert_eq!(line("ReadWritePaths"), state.display().to_string());

    let gateway = guarded.site.gateway();
    gateway.shell("nft delete table bridge edge_warden; nft delete table netdev edge_warden");
    guarded.assert_open(0);
    let confined = |command: &str| {
        // stacked mounts: what is mounted below / keeps its own flags, so each is made read-only
        let script = "mount --make-rprivate / && mount --bind \"$1\" \"$1\" && \
             for point in $(awk -v rw=\"$1\" '$2 != rw && $2 !~ \"^/(proc|sys|dev)\" {print $2}' /proc/self/mounts) \
                 $(df --output=target \"$(dirname \"$1\")\" | tail -n 1); do \
                 mount -o remount,bind,ro \"$point\" || exit 9; done; \
             exec setpriv --bounding-set=-all,+net_admin --inh-caps=-all --no-new-privs sh -c \"$2\"";
        Command::new("ip")
            .args([
                "netns",
                "exec",
                &gateway.ns,
                "unshare",
                "--mount",
                "sh",
                "-c",
                script,
                "sh",
            ])
            .arg(&state)
            .arg(command)
            .output()
            .unwrap()
    };
    let elsewhere = guarded.dir.join("elsewhere");
    let control = confined(&format!("touch {} && echo writable", elsewhere.display()));
    assert!(
        said(&control).contains("Read-only"),
        "the confinement is one: {}",
        said(&control)
    );
    let output = confined(&line("ExecStart"));
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("1 quarantined"), "{}", said(&output));
    guarded.assert_cut(0);
}

/// Names the folder to the process that installs.
const INSTALLS: &str = "EDGE_WARDEN_TEST_INSTALLS";

/// Artifact paths change with every version and old ones are removed. A boot at any moment finds a binary that runs.
#[test]
fn no_upgrade_leaves_the_boot_unit_without_its_binary() {
    if let Some(folder) = std::env::var_os(INSTALLS) {
        return install_many_versions(Path::new(&folder));
    }
    let installed = Installed::new(&binary());
    // by another process: one that forks hands on what it writes, and what is being written cannot be started
    let mut installs = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "quarantine_site::boot::no_upgrade_leaves_the_boot_unit_without_its_binary",
        ])
        .env(INSTALLS, installed.folder.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let copy = installed.state.join("bin/edge-warden");
    let mut starts = 0;
    let ended = loop {
        let ended = installs.try_wait().unwrap();
        let output = Command::new(&copy).arg("--version").output();
        let output = output.unwrap_or_else(|error| panic!("start {starts}: {error}"));
        assert!(said(&output).starts_with("edge-warden "), "{}", said(&output));
        starts += 1;
        if let Some(ended) = ended {
            break ended;
        }
    };
    assert!(ended.success());
    assert_eq!(
        std::fs::read(&copy).unwrap().last(),
        Some(&(VERSIONS - 1)),
        "{starts} starts"
    );
}

const VERSIONS: u8 = 10;

fn install_many_versions(folder: &Path) {
    let content = std::fs::read(binary()).unwrap();
    for version in 0..VERSIONS {
        let artifacts = folder.join(format!("artifacts-{version}"));
        std::fs::create_dir(&artifacts).unwrap();
        let artifact = artifacts.join("edge-warden");
        // another version is another file; what is behind its last section is nothing to the kernel
        std::fs::write(&artifact, [content.as_slice(), &[version]].concat()).unwrap();
        boot_unit::install(&folder.join("units"), &folder.join("state"), &artifact).unwrap();
        std::fs::remove_dir_all(&artifacts).unwrap();
    }
}
