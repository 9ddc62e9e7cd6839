//! What an isolated device may still do, and that it is no way to do more.

use std::net::IpAddr;
use std::time::Duration;

use edge_warden::firewall::{Firewall, Posture, TableOwnership};

use crate::probes::{assert_all_pass, assert_none_passes, over_ip};
use crate::support::site::{BROKER, GRACE, Host, Options, Site, until};
use crate::{NOW, SOON, alive, open, policy, reaches};

#[test]
fn dnsmasq_leases_an_address_also_in_isolation() {
    let site = Site::build(Options {
        dhcp: true,
        ..Options::default()
    });
    let device = site.device(0);
    let leased = || dhcp_discover(device, SOON);
    assert!(until(Duration::from_secs(10), leased), "an offer before the cut");
    let mut firewall = open(&site, TableOwnership::Auto);
    firewall
        .enforce(&policy(&site, &[device], Posture::Isolate), NOW)
        .unwrap();
    assert!(leased(), "an offer in isolation");
    // Asking in somebody else's name is not an allowance.
    assert!(!dhcp_discover_as(device, [2, 0, 0, 0, 0, 0x66], GRACE));
}

fn dhcp_discover(device: &Host, limit: Duration) -> bool {
    dhcp_discover_as(device, device.mac.0, limit)
}

/// A DHCPDISCOVER from `device` in the name of `chaddr`; whether an offer is seen.
fn dhcp_discover_as(device: &Host, chaddr: [u8; 6], limit: Duration) -> bool {
    let mut bootp = vec![1, 1, 6, 0, 0x11, 0x22, 0x33, 0x44, 0, 0, 0x80, 0];
    bootp.resize(28, 0);
    bootp.extend(chaddr);
    bootp.resize(236, 0);
    bootp.extend([99, 130, 83, 99, 53, 1, 1, 255]);
    bootp.resize(300, 0);
    let udp_length = u16::try_from(bootp.len() + 8).unwrap();
    let mut ip = vec![0x45, 0];
    ip.extend((udp_length + 20).to_be_bytes());
    ip.extend([0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255]);
    let sum: u32 = ip
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    ip[10..12].copy_from_slice(&(!u16::try_from(folded).unwrap()).to_be_bytes());
    let mut frame = vec![0xff; 6];
    frame.extend(device.mac.0);
    frame.extend([8, 0]);
    frame.extend(ip);
    frame.extend([0, 68, 0, 67]);
    frame.extend(udp_length.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(bootp);
    let wire = device.wire();
    wire.send(&frame);
    wire.receive(limit, |frame| {
        frame.get(34..38) == Some(&[0, 67, 0, 68]) && frame.get(70..76) == Some(&chaddr)
    })
}

#[test]
fn an_allowance_is_no_way_to_speak_for_somebody_else() {
    let site = Site::build(Options::default());
    let (device, gateway, other) = (site.device(0), site.gateway(), site.device(1));
    assert!(reaches(other, gateway.v4));
    let claim = |sender: [u8; 4]| {
        let mut frame = gateway.mac.0.to_vec();
        frame.extend(device.mac.0);
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
        frame.extend(device.mac.0);
        frame.extend(sender);
        frame.extend(gateway.mac.0);
        frame.extend(gateway.v4.octets());
        frame
    };
    let entry = || gateway.shell(&format!("ip neigh show {} dev br0", other.v4));
    let poisoned = || entry().contains(&device.mac.to_string());
    let send = || device.wire().send(&claim(other.v4.octets()));
    assert!(until(SOON, || {
        send();
        poisoned()
    }));
    gateway.shell("ip neigh flush dev br0");
    assert!(other.ping(gateway.v4.into()) && !poisoned());
    let mut firewall = open(&site, TableOwnership::Auto);
    firewall
        .enforce(&policy(&site, &[device], Posture::Isolate), NOW)
        .unwrap();
    assert!(!until(GRACE, || {
        send();
        poisoned()
    }));
    assert!(device.arp(gateway.v4, SOON), "its own address it may still tell");
}

#[test]
fn allowances_are_limited_for_each_device_by_itself() {
    let site = Site::build(Options::default());
    let (noisy, quiet, gateway) = (site.device(0), site.device(2), site.gateway());
    let mut request = vec![0xff; 6];
    request.extend(noisy.mac.0);
    request.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    request.extend(noisy.mac.0);
    request.extend(noisy.v4.octets());
    request.extend([0; 6]);
    request.extend(gateway.v4.octets());
    let mac = noisy.mac.0;
    let arp = move |frame: &[u8]| frame.get(6..12) == Some(mac.as_slice()) && frame.get(12..14) == Some(&[8, 6]);
    let mut firewall = open(&site, TableOwnership::Auto);
    firewall
        .enforce(&policy(&site, &[noisy, quiet], Posture::Isolate), NOW)
        .unwrap();
    let arrived = gateway.capture("br0", arp);
    let wire = noisy.wire();
    for _ in 0..5000 {
        wire.send(&request);
    }
    assert!(quiet.arp(gateway.v4, SOON), "the quiet one is heard");
    let (arrived, _) = arrived.finish();
    assert!((1..=100).contains(&arrived), "{arrived} of 5000");
}

#[test]
fn a_thing_known_by_address_only_is_cut_and_may_remediate() {
    let site = Site::build(Options::default());
    let _echo = (
        site.gateway().echo(BROKER),
        site.gateway().echo(7000),
        site.internet().echo(7000),
    );
    let (device, gateway) = (site.device(0), site.gateway());
    let mut probes = Vec::new();
    for to in [
        IpAddr::from(site.internet().v4),
        site.internet().v6.into(),
        gateway.v4.into(),
    ] {
        over_ip(&mut probes, "victim", device, to);
    }
    assert_all_pass(&probes);
    let mut firewall = open(&site, TableOwnership::Auto);
    let mut cut = policy(&site, &[device], Posture::Remediate);
    cut.isolated[0].macs.clear();
    // Neighbour discovery of an address without its hardware address is not an allowance: keep what is known.
    gateway.shell(&format!(
        "ip neigh replace {} lladdr {} dev br0 nud permanent",
        device.v4, device.mac
    ));
    device.shell(&format!(
        "ip neigh replace {} lladdr {} dev eth0 nud permanent",
        gateway.v4, gateway.mac
    ));
    firewall.enforce(&cut, NOW).unwrap();
    assert_none_passes(&probes, GRACE);
    assert!(
        device
            .connect(gateway.v4.into(), BROKER, SOON)
            .is_some_and(|mut stream| alive(&mut stream, SOON))
    );
    cut.isolated[0].posture = Posture::Isolate;
    firewall.enforce(&cut, NOW).unwrap();
    assert!(device.connect(gateway.v4.into(), BROKER, GRACE).is_none());
}
