//! Links that come and go.

use edge_warden::firewall::{
    Change, Feature, Firewall, Lack, LinkWatch, NftablesFirewall, Posture, TableOwnership, probe,
};

use crate::support::site::{GRACE, Options, Site};
use crate::{NOW, SOON, open, policy, reaches, wait};

#[test]
fn a_plain_interface_that_is_made_anew_is_covered_again() {
    let site = Site::build(Options::default());
    let (device, port) = (site.device(3), site.routed_port());
    let mut firewall = open(&site, TableOwnership::Auto);
    let cut = policy(&site, &[device], Posture::Isolate);
    firewall.enforce(&cut, NOW).unwrap();
    let mut links = port.enter(|| LinkWatch::open().unwrap());
    site.connect_port(3);
    let (gone, present) = (Change::LinkGone("lan3".into()), Change::LinkPresent("lan3".into()));
    let mut seen = Vec::new();
    let is_back = |seen: &[Change]| {
        seen.contains(&gone) && seen.iter().rfind(|change| [&gone, &present].contains(change)) == Some(&present)
    };
    while !is_back(&seen) {
        seen.extend(wait(&mut links, LinkWatch::read));
    }
    firewall.distrust();
    firewall.enforce(&cut, NOW).unwrap();
    assert!(!device.ping(port.v4.into()));
    assert_eq!(firewall.enforced().unwrap().unwrap().differences, Vec::<String>::new());
    firewall.enforce(&policy(&site, &[], Posture::Isolate), NOW).unwrap();
    assert!(device.ping(port.v4.into()), "and it was the firewall that stopped it");
}

#[test]
fn a_bridge_port_that_is_new_is_covered_by_itself() {
    let site = Site::build(Options::default());
    let (device, gateway) = (site.device(0), site.gateway());
    let mut firewall = open(&site, TableOwnership::Auto);
    firewall
        .enforce(&policy(&site, &[device], Posture::Isolate), NOW)
        .unwrap();
    gateway.shell("ip link del lan0");
    gateway.shell(&format!(
        "ip link add lan9 type veth peer name eth0 address {} netns {} && ip link set lan9 master br0 up",
        device.mac, device.ns
    ));
    device.shell(&format!("ip link set eth0 up; ip addr add {}/24 dev eth0", device.v4));
    assert!(device.arp(gateway.v4, SOON), "the new port works for what is allowed");
    assert!(!device.ping(gateway.v4.into()) && !device.arp(site.device(1).v4, GRACE));
    firewall.enforce(&policy(&site, &[], Posture::Isolate), NOW).unwrap();
    assert!(device.ping(gateway.v4.into()) && device.arp(site.device(1).v4, SOON));
}

/// Kernels before 6.16 know no hook for an interface that is not there, and forget one whose interface goes.
#[test]
fn an_interface_that_is_not_there_keeps_no_other_uncovered() {
    let site = Site::build(Options::default());
    let (device, gateway) = (site.device(0), site.gateway());
    assert!(reaches(device, gateway.v4));
    let unnamed = Lack {
        feature: Feature::HooksByName,
        consequence: Feature::HooksByName.consequence(),
        answer: "No such file or directory".to_owned(),
    };
    let mut firewall = gateway.enter(|| NftablesFirewall::open_on(TableOwnership::Auto, vec![unnamed]).unwrap());
    let mut cut = policy(&site, &[device, site.device(3)], Posture::Isolate);
    cut.lan.interfaces.insert("later0".to_owned());
    firewall.enforce(&cut, NOW).unwrap();
    let differences = |firewall: &mut NftablesFirewall| firewall.enforced().unwrap().unwrap().differences;
    assert_eq!(differences(&mut firewall), Vec::<String>::new());
    assert!(!device.ping(gateway.v4.into()) && !site.device(3).ping(site.routed_port().v4.into()));
    gateway.shell("ip link add later0 type veth peer name later1");
    assert_eq!(
        differences(&mut firewall),
        ["table netdev: later0 is there and not covered"]
    );
    firewall.distrust();
    firewall.enforce(&cut, NOW).unwrap();
    assert_eq!(differences(&mut firewall), Vec::<String>::new());
    assert!(gateway.shell("nft list table netdev edge_warden").contains("later0"));
}

/// Where the kernel keeps hooks by name, an interface made anew is covered before anybody has noticed.
#[test]
fn an_interface_that_comes_back_is_covered_at_once_where_the_kernel_can() {
    let site = Site::build(Options::default());
    let (device, port) = (site.device(3), site.routed_port());
    let lacks = port.enter(|| probe().unwrap());
    let can = !lacks.iter().any(|lack| lack.feature == Feature::HooksByName);
    let mut firewall = open(&site, TableOwnership::Auto);
    let cut = policy(&site, &[device], Posture::Isolate);
    firewall.enforce(&cut, NOW).unwrap();
    port.shell("ip link del lan3");
    // Written again while it is away.
    firewall.distrust();
    firewall.enforce(&cut, NOW).unwrap();
    site.connect_port(3);
    let differences = firewall.enforced().unwrap().unwrap().differences;
    if can {
        assert_eq!(differences, Vec::<String>::new());
        assert!(!device.ping(port.v4.into()));
    } else {
        assert_eq!(differences, ["table netdev: lan3 is there and not covered"]);
    }
    firewall.enforce(&policy(&site, &[], Posture::Isolate), NOW).unwrap();
    assert!(reaches(device, port.v4), "and it was the firewall that stopped it");
}
