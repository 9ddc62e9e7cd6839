//! Rules stay, whoever else changes the ruleset.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use edge_warden::firewall::{
    Change, Enforced, Firewall, Holding, NftablesFirewall, Ownership, Posture, TableOwnership, Watch,
};
use edge_warden::model::UnixTime;

use crate::support::site::{Host, Options, Site, until};
use crate::{NOW, SOON, isolated, open, policy, reaches, wait_tables};

#[test]
fn enforcing_twice_is_enforcing_once_and_counters_stay() {
    let site = Site::build(Options::default());
    let (device, other) = (site.device(0), site.device(2));
    let mut firewall = open(&site, TableOwnership::Auto);
    let cut = policy(&site, &[device], Posture::Isolate);
    assert!(reaches(device, site.gateway().v4));
    firewall.enforce(&cut, NOW).unwrap();
    assert!(!device.ping(site.gateway().v4.into()));
    let before = firewall.dropped().unwrap()[&device.ns];
    assert!(before.packets_from > 0);
    let list = || site.gateway().shell("nft -s list ruleset");
    let text = list();
    firewall.enforce(&cut, NOW).unwrap();
    assert_eq!(list(), text);
    // Another one joins, the agent restarts, the LAN changes: the counters go on.
    let mut both = policy(&site, &[device, other], Posture::Isolate);
    firewall.enforce(&both, NOW).unwrap();
    drop(firewall);
    let mut restarted = open(&site, TableOwnership::Auto);
    assert!(
        restarted.enforced().unwrap().unwrap().macs.contains_key(&device.mac),
        "rules outlive the process"
    );
    restarted.enforce(&both, NOW).unwrap();
    both.lan.interfaces.insert("wan0".to_owned());
    restarted.enforce(&both, NOW).unwrap();
    assert!(!device.ping(site.gateway().v4.into()));
    let after = restarted.dropped().unwrap()[&device.ns];
    assert!(after.packets_from > before.packets_from, "{before:?} {after:?}");
    assert_eq!(restarted.enforced().unwrap().unwrap().differences, Vec::<String>::new());
}

#[test]
fn foreign_tables_are_untouched_and_purge_removes_only_ours() {
    let site = Site::build(Options::default());
    let gateway = site.gateway();
    gateway.shell("nft 'add table bridge foreign; add chain bridge foreign c; add rule bridge foreign c counter'");
    let foreign = || gateway.shell("nft -s list ruleset");
    let before = foreign();
    let mut firewall = open(&site, TableOwnership::Auto);
    firewall
        .enforce(&policy(&site, &[site.device(0)], Posture::Isolate), NOW)
        .unwrap();
    assert_ne!(foreign(), before);
    firewall.purge().unwrap();
    assert_eq!(foreign(), before);
    assert_eq!(firewall.enforced().unwrap(), None);
}

#[test]
fn the_kernel_ends_it_by_itself_at_the_given_time() {
    let site = Site::build(Options::default());
    let (device, target) = (site.device(0), site.gateway().v4.into());
    let mut firewall = open(&site, TableOwnership::Auto);
    let mut cut = policy(&site, &[device], Posture::Isolate);
    cut.isolated[0].until = Some(UnixTime(NOW.0 + 2500));
    firewall.enforce(&cut, NOW).unwrap();
    assert!(!device.ping(target));
    drop(firewall);
    assert!(reaches(device, target), "the kernel let it go");
    // A later end replaces an earlier one without a gap, and an end in the past isolates nobody.
    let mut firewall = open(&site, TableOwnership::Auto);
    firewall.enforce(&cut, NOW).unwrap();
    cut.isolated[0].until = None;
    firewall.enforce(&cut, NOW).unwrap();
    let text = site.gateway().shell("nft list set bridge edge_warden mac");
    assert!(
        text.contains("02:00:00:00:00:01") && !text.contains("expires"),
        "{text}"
    );
    cut.isolated[0].until = Some(UnixTime(NOW.0 - 1));
    firewall.enforce(&cut, NOW).unwrap();
    assert!(device.ping(target));
}

#[test]
fn owned_tables_survive_a_flush_of_everything() {
    let site = Site::build(Options::default());
    let device = site.device(0);
    let mut firewall = open(&site, TableOwnership::Auto);
    firewall
        .enforce(&policy(&site, &[device], Posture::Isolate), NOW)
        .unwrap();
    assert_eq!(firewall.enforced().unwrap().unwrap().ownership, Some(Ownership::Owned));
    let escaped = site.gateway().capture("br0", {
        let mac = device.mac.0;
        move |frame| frame.get(6..12) == Some(mac.as_slice()) && frame.get(12..14) == Some(&[8, 0])
    });
    site.gateway().shell("nft flush ruleset");
    assert!(
        !site
            .gateway()
            .run(&["nft", "delete", "table", "bridge", "edge_warden"])
            .status
            .success()
    );
    assert!(!device.ping(site.gateway().v4.into()));
    assert_eq!(escaped.finish(), (0, vec![]));
    let enforced = firewall.enforced().unwrap().unwrap();
    assert_eq!(enforced.differences, Vec::<String>::new());
    assert_eq!(enforced.holds(&isolated(device, Posture::Isolate)), Holding::Whole);
    drop(firewall);
    let mut other = open(&site, TableOwnership::Auto);
    assert_eq!(other.enforced().unwrap().unwrap().ownership, Some(Ownership::Orphaned));
    // From either kind to either kind, without anybody getting out.
    let cut = policy(&site, &[device], Posture::Isolate);
    let mut plain = open(&site, TableOwnership::Off);
    for (firewall, ownership) in [(&mut other, Ownership::Owned), (&mut plain, Ownership::Plain)] {
        if ownership == Ownership::Plain {
            // While another process owns them there is no way, and that is an error, not silence.
            assert!(firewall.enforce(&cut, NOW).is_err());
            continue;
        }
        firewall.enforce(&cut, NOW).unwrap();
        assert_eq!(firewall.enforced().unwrap().unwrap().ownership, Some(ownership));
    }
    drop(other);
    plain.enforce(&cut, NOW).unwrap();
    assert_eq!(plain.enforced().unwrap().unwrap().ownership, Some(Ownership::Plain));
    let mut again = open(&site, TableOwnership::Auto);
    again.enforce(&cut, NOW).unwrap();
    assert_eq!(again.enforced().unwrap().unwrap().ownership, Some(Ownership::Owned));
}

#[test]
fn foreign_damage_is_noticed_and_mended() {
    let site = Site::build(Options::default());
    let (gateway, device) = (site.gateway(), site.device(0));
    let mut firewall = open(&site, TableOwnership::Off);
    let mut watch = gateway.enter(|| Watch::open([firewall.port()]).unwrap());
    let cut = policy(&site, &[device, site.device(3)], Posture::Isolate);
    let whole = |firewall: &mut NftablesFirewall| {
        let enforced = firewall.enforced().unwrap();
        enforced.map_or(Holding::Absent, |enforced| enforced.holds(&cut.isolated[0]))
    };
    firewall.enforce(&cut, NOW).unwrap();
    assert_eq!(firewall.enforced().unwrap().unwrap().ownership, Some(Ownership::Plain));
    assert_eq!(whole(&mut firewall), Holding::Whole);
    let damages = [
        ("nft flush ruleset", Holding::Absent),
        ("nft delete table bridge edge_warden", Holding::Partial),
        ("nft flush chain bridge edge_warden drop_from", Holding::Partial),
        (
            "nft insert rule netdev edge_warden from_device accept",
            Holding::Partial,
        ),
        (
            "nft delete element bridge edge_warden mac { 02:00:00:00:00:01 }",
            Holding::Partial,
        ),
        ("nft flush set netdev edge_warden drop_from_mac", Holding::Partial),
        ("nft delete chain bridge edge_warden between_ports", Holding::Partial),
    ];
    for (damage, left) in damages {
        gateway.shell(damage);
        let changes = wait_tables(&mut watch);
        assert!(
            changes
                .iter()
                .all(|change| matches!(change, Change::Table { table, .. } if table == "edge_warden"))
        );
        assert_eq!(whole(&mut firewall), left, "{damage}");
        firewall.distrust();
        firewall.enforce(&cut, NOW).unwrap();
        assert_eq!(whole(&mut firewall), Holding::Whole, "{damage}");
        assert!(!device.ping(gateway.v4.into()), "{damage}");
        // What the damage and the mending have left in the queue, up to a mark of our own making.
        gateway.shell("nft 'add table netdev edge_warden_acct; delete table netdev edge_warden_acct'");
        let marked = |c: &Change| matches!(c, Change::Table { table, .. } if table == "edge_warden_acct");
        while !wait_tables(&mut watch).iter().any(marked) {}
    }
}

/// More changes than the socket of the watch can hold (`ENOBUFS`): nothing is known any more, so everything is compared.
#[test]
fn notifications_that_were_lost_lead_to_a_comparison() {
    let site = Site::build(Options::default());
    let (gateway, device) = (site.gateway(), site.device(0));
    let mut firewall = open(&site, TableOwnership::Off);
    let mut watch = gateway.enter(|| Watch::open([firewall.port()]).unwrap());
    let cut = policy(&site, &[device], Posture::Isolate);
    firewall.enforce(&cut, NOW).unwrap();
    // Somebody else's busy tables; nobody reads the watch meanwhile.
    let addresses: Vec<String> = (0..40_000_u32)
        .map(|n| format!("10.1.{}.{}", n / 256, n % 256))
        .collect();
    let fill = format!("add element ip foreign many {{ {} }}\n", addresses.join(","));
    let mut script = "add table ip foreign\nadd set ip foreign many { type ipv4_addr; }\n".to_owned();
    script += &(fill + "flush set ip foreign many\n").repeat(3);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), script).unwrap();
    gateway.shell(&format!("nft -f {}", file.path().display()));
    gateway.shell("nft delete table bridge edge_warden");
    let mut changes = Vec::new();
    while !changes.contains(&Change::CompareAll) {
        changes = wait_tables(&mut watch);
    }
    let held = firewall.enforced().unwrap();
    let holding =
        |held: Option<Enforced>| held.map_or(Holding::Absent, |held| held.holds(&isolated(device, Posture::Isolate)));
    assert_ne!(holding(held), Holding::Whole);
    firewall.distrust();
    firewall.enforce(&cut, NOW).unwrap();
    assert_eq!(holding(firewall.enforced().unwrap()), Holding::Whole);
    assert!(!device.ping(gateway.v4.into()));
}

#[test]
fn a_lost_table_is_rebuilt_even_when_nobody_told() {
    let site = Site::build(Options::default());
    let device = site.device(0);
    let mut firewall = open(&site, TableOwnership::Off);
    firewall
        .enforce(&policy(&site, &[device], Posture::Isolate), NOW)
        .unwrap();
    site.gateway().shell("nft flush ruleset");
    assert!(reaches(device, site.gateway().v4));
    firewall
        .enforce(&policy(&site, &[device, site.device(1)], Posture::Isolate), NOW)
        .unwrap();
    assert!(!device.ping(site.gateway().v4.into()));
}

/// Sends frames of `device` as fast as it can until told to stop; gives their number.
fn flood(device: &Host, frame: Vec<u8>, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<u64> {
    device.spawn({
        let wire = device.wire();
        move || {
            let mut sent = 0;
            while !stop.load(Ordering::SeqCst) {
                wire.send(&frame);
                sent += 1;
            }
            sent
        }
    })
}

#[test]
fn nothing_leaks_while_the_tables_are_changed_replaced_and_handed_over() {
    let site = Site::build(Options::default());
    let (device, neighbour) = (site.device(0), site.device(1));
    let mut frame = neighbour.mac.0.to_vec();
    frame.extend(device.mac.0);
    frame.extend([0x88, 0xb5]);
    frame.resize(60, 0);
    let mac = device.mac.0;
    let from_device = move |frame: &[u8]| frame.get(6..12) == Some(mac.as_slice());
    let stop = Arc::new(AtomicBool::new(false));
    let flooding = flood(device, frame, Arc::clone(&stop));
    let control = neighbour.capture("eth0", from_device);
    assert!(
        until(SOON, || control.count() > 1000),
        "the flood arrives before the cut"
    );
    let _ = control.finish();

    let mut firewall = open(&site, TableOwnership::Auto);
    let mut cut = policy(&site, &[device], Posture::Isolate);
    firewall.enforce(&cut, NOW).unwrap();
    let leaks = neighbour.capture("eth0", from_device);
    let before = firewall.dropped().unwrap()[&device.ns].packets_from;
    for n in 0..60_u8 {
        match n % 4 {
            0 => cut.isolated.push(isolated(site.device(2), Posture::Remediate)),
            1 => cut.isolated[0].until = Some(UnixTime(NOW.0 + 600_000 + u64::from(n))),
            2 => {
                cut.isolated.truncate(1);
                firewall.distrust();
            }
            _ => {
                drop(firewall);
                site.gateway().shell("nft list tables >/dev/null");
                firewall = open(&site, TableOwnership::Auto);
            }
        }
        firewall.enforce(&cut, NOW).unwrap();
    }
    let after = firewall.dropped().unwrap()[&device.ns].packets_from;
    stop.store(true, Ordering::SeqCst);
    let sent = flooding.join().unwrap();
    assert_eq!(leaks.finish(), (0, vec![]), "of {sent} frames");
    assert!(after > before + 1000, "the flood went on: {before} {after} of {sent}");
}
