//! Issue 4's matrix: {TCP new, TCP established, UDP, ICMP, ARP, multicast, 802.1Q tag, IPv6 incl. link-local, fragments}
//! x {internet, gateway, neighbour on the bridge, neighbour on another port} x both directions.

use std::net::{IpAddr, Ipv4Addr};

use edge_warden::firewall::{Firewall, Posture, TableOwnership, sever};

use crate::probes::{Probe, assert_all_pass, assert_none_passes, group, over_ip, raw};
use crate::support::site::{BROKER, GRACE, Host, Options, Site};
use crate::{NOW, SOON, alive, open, policy, settle};

/// Everything the matrix of issue 4 names that is a request with an answer, between `victim` and the others.
fn matrix<'a>(
    victim: &'a Host,
    gateway: &'a Host,
    neighbours: &[(&'a Host, bool)],
    internet: &'a Host,
) -> Vec<Probe<'a>> {
    let mut probes = Vec::new();
    let p = &mut probes;
    for to in [IpAddr::from(internet.v4), internet.v6.into()] {
        over_ip(p, "victim -> internet", victim, to);
    }
    // Behind the NAT nothing finds the way in over IPv4.
    over_ip(p, "internet -> victim", internet, victim.v6.into());
    for to in [IpAddr::from(gateway.v4), gateway.v6.into(), gateway.link_local.into()] {
        over_ip(p, "victim -> gateway", victim, to);
    }
    for to in [IpAddr::from(victim.v4), victim.v6.into(), victim.link_local.into()] {
        over_ip(p, "gateway -> victim", gateway, to);
    }
    for (kind, tagged) in [("802.1Q", true), ("unknown ethertype", false)] {
        frames(p, kind, tagged, victim, "gateway", gateway);
        p.push(raw(
            &format!("victim -> multicast at the gateway {kind}"),
            victim,
            gateway,
            None,
            tagged,
        ));
    }
    p.extend(groups("victim", victim, "gateway", gateway));
    for (neighbour, same_link) in neighbours {
        let neighbour = *neighbour;
        for to in [IpAddr::from(neighbour.v4), neighbour.v6.into()] {
            over_ip(p, "victim -> neighbour", victim, to);
        }
        for to in [IpAddr::from(victim.v4), victim.v6.into()] {
            over_ip(p, "neighbour -> victim", neighbour, to);
        }
        if *same_link {
            over_ip(p, "victim -> neighbour", victim, neighbour.link_local.into());
            over_ip(p, "neighbour -> victim", neighbour, victim.link_local.into());
            let run = move |limit| victim.arp(neighbour.v4, limit);
            p.push(Probe {
                name: "victim -> neighbour ARP".to_owned(),
                run: Box::new(run),
            });
            let run = move |limit| neighbour.arp(victim.v4, limit);
            p.push(Probe {
                name: "neighbour -> victim ARP".to_owned(),
                run: Box::new(run),
            });
            for (kind, tagged) in [("802.1Q", true), ("unknown ethertype", false)] {
                frames(p, kind, tagged, victim, "neighbour", neighbour);
                p.push(raw(
                    &format!("victim -> multicast {kind}"),
                    victim,
                    neighbour,
                    None,
                    tagged,
                ));
            }
            p.extend(groups("victim", victim, "neighbour", neighbour));
        }
    }
    probes
}

/// Unicast frames that are not IP, both ways.
fn frames<'a>(p: &mut Vec<Probe<'a>>, kind: &str, tagged: bool, victim: &'a Host, name: &str, other: &'a Host) {
    let (to, from) = (Some(other.mac.0), Some(victim.mac.0));
    p.push(raw(&format!("victim -> {name} {kind}"), victim, other, to, tagged));
    p.push(raw(&format!("{name} -> victim {kind}"), other, victim, from, tagged));
}

/// IP multicast of both versions, and broadcast.
fn groups<'a>(from_name: &str, from: &'a Host, to_name: &str, to: &'a Host) -> Vec<Probe<'a>> {
    let [a, b, c, _] = from.v4.octets();
    let groups = [
        IpAddr::from(Ipv4Addr::new(239, 1, 2, 3)),
        "ff05::4242".parse().unwrap(),
        "ff02::4242".parse().unwrap(),
        Ipv4Addr::new(a, b, c, 255).into(),
    ];
    let name = format!("{from_name} -> {to_name} group");
    groups.map(|address| group(&name, from, to, address)).into()
}

/// Whether the frame speaks for the victim: its hardware address, or one of its addresses as sender.
fn speaks_for(victim: &Host) -> impl Fn(&[u8]) -> bool + Send + 'static {
    let (mac, v4, own6) = (
        victim.mac.0,
        victim.v4.octets(),
        [victim.v6.octets(), victim.link_local.octets()],
    );
    move |frame| {
        let at = |from: usize, bytes: &[u8]| frame.get(from..from + bytes.len()) == Some(bytes);
        at(6, &mac)
            || (at(12, &[8, 0]) && at(26, &v4))
            || (at(12, &[8, 6]) && at(22, &mac))
            || (at(12, &[0x86, 0xdd]) && own6.iter().any(|own| at(22, own)))
    }
}

/// Frames to the victim beyond the allowances: the gateway's ARP and neighbour discovery.
fn beyond_allowances(victim: &Host, gateway: &Host) -> impl Fn(&[u8]) -> bool + Send + 'static {
    let (mac, gateway) = (victim.mac.0, gateway.mac.0);
    move |frame| {
        let at = |from: usize, bytes: &[u8]| frame.get(from..from + bytes.len()) == Some(bytes);
        let discovery = at(12, &[0x86, 0xdd]) && at(20, &[58]) && matches!(frame.get(54), Some(133..=136));
        at(0, &mac) && !(at(6, &gateway) && (at(12, &[8, 6]) || discovery))
    }
}

/// The whole of issue 4's matrix for one victim: works, cut, others untouched, released, works again.
fn cut_and_release(victim: usize, ownership: TableOwnership) {
    let site = Site::build(Options::default());
    let bridged = victim < 3;
    let device = site.device(victim);
    let gateway = if bridged { site.gateway() } else { site.routed_port() };
    let neighbours: Vec<(&Host, bool)> = if bridged {
        vec![(site.device(1), true), (site.device(3), false)]
    } else {
        vec![(site.device(1), false)]
    };
    let others = [site.device(1), site.device(2), site.internet()];
    let elsewhere = if bridged { site.device(3) } else { site.device(2) };
    let echoing = [site.gateway(), device, site.device(1), elsewhere, site.internet()];
    let _echoes: Vec<_> = echoing.iter().map(|host| host.echo(7000)).collect();
    let probes = matrix(device, gateway, &neighbours, site.internet());
    let mut untouched = Vec::new();
    let other = site.device(2);
    for (name, to) in [
        ("other -> internet", site.internet()),
        ("other -> gateway", site.gateway()),
        ("other -> neighbour", site.device(1)),
    ] {
        over_ip(&mut untouched, name, other, to.v4.into());
        over_ip(&mut untouched, name, other, to.v6.into());
    }

    // Positive control: everything gets through.
    assert_all_pass(&probes);
    assert_all_pass(&untouched);
    let connect = |host: &Host, to: IpAddr| host.connect(to, 7000, SOON).unwrap();
    let mut streams = [
        ("victim -> internet v4", connect(device, site.internet().v4.into())),
        ("victim -> internet v6", connect(device, site.internet().v6.into())),
        ("internet -> victim v6", connect(site.internet(), device.v6.into())),
        ("victim -> gateway v4", connect(device, gateway.v4.into())),
        ("victim -> gateway v6", connect(device, gateway.v6.into())),
        (
            "victim -> gateway link-local",
            connect(device, gateway.link_local.into()),
        ),
        ("gateway -> victim v4", connect(gateway, device.v4.into())),
        ("gateway -> victim v6", connect(gateway, device.v6.into())),
        (
            "gateway -> victim link-local",
            connect(gateway, device.link_local.into()),
        ),
        ("victim -> neighbour v4", connect(device, site.device(1).v4.into())),
        ("neighbour -> victim v6", connect(site.device(1), device.v6.into())),
        ("victim -> neighbour elsewhere v6", connect(device, elsewhere.v6.into())),
        ("neighbour elsewhere -> victim v4", connect(elsewhere, device.v4.into())),
    ];
    for (name, stream) in &mut streams {
        assert!(alive(stream, SOON), "{name}");
    }

    let mut firewall = open(&site, ownership);
    let cut = policy(&site, &[device], Posture::Isolate);
    firewall.enforce(&cut, NOW).unwrap();
    settle(&site);

    // What others receive from the victim, and the victim from anybody but the gateway's ARP and neighbour discovery.
    // On the uplink IPv4 is the gateway's: of the echo port's packets there is only the victim's.
    let captures = others.map(|host| host.capture(&host.interface, speaks_for(device)));
    let nat = site.internet().capture("eth0", |frame| {
        frame.get(12..14) == Some(&[8, 0]) && frame.get(36..38) == Some(&7000_u16.to_be_bytes())
    });
    let to_victim = device.capture("eth0", beyond_allowances(device, gateway));
    assert_none_passes(&probes, GRACE);
    let living: Vec<&str> = std::thread::scope(|scope| {
        let trying: Vec<_> = streams
            .iter_mut()
            .map(|(name, stream)| (*name, scope.spawn(|| alive(stream, GRACE))))
            .collect();
        let alive = trying
            .into_iter()
            .filter_map(|(name, alive)| alive.join().unwrap().then_some(name));
        alive.collect()
    });
    assert_eq!(living, Vec::<&str>::new(), "established streams that live on");
    assert_eq!(nat.finish(), (0, vec![]), "packets of the victim behind the NAT");
    assert_all_pass(&untouched);
    for capture in captures {
        assert_eq!(capture.finish(), (0, vec![]), "frames of the victim on another link");
    }
    assert_eq!(
        to_victim.finish(),
        (0, vec![]),
        "frames to the victim beyond the allowances"
    );
    // The stated allowance works: the address is kept.
    assert!(device.arp(gateway.v4, SOON), "ARP with the gateway");
    let dropped = firewall.dropped().unwrap()[&device.ns];
    assert!(dropped.packets_from > 50 && dropped.packets_to > 10, "{dropped:?}");

    firewall.enforce(&policy(&site, &[], Posture::Isolate), NOW).unwrap();
    assert_all_pass(&probes);
}

#[test]
fn a_bridged_device_is_cut_from_everything_and_released() {
    cut_and_release(0, TableOwnership::Auto);
}

#[test]
fn a_bridged_device_is_cut_from_everything_and_released_by_plain_tables() {
    cut_and_release(0, TableOwnership::Off);
}

#[test]
fn a_device_on_a_plain_interface_is_cut_from_everything_and_released() {
    cut_and_release(3, TableOwnership::Auto);
}

#[test]
fn a_device_on_a_plain_interface_is_cut_from_everything_and_released_by_plain_tables() {
    cut_and_release(3, TableOwnership::Off);
}

/// Towards the victim group traffic is dropped where its port is quiet; elsewhere it passes, and the status says so.
#[test]
fn ip_multicast_to_a_device_stops_at_a_quiet_port() {
    let site = Site::build(Options::default());
    let (bridged, plain) = (site.device(0), site.device(3));
    let mut to_victims = groups("neighbour", site.device(1), "victim", bridged);
    to_victims.extend(groups("gateway", site.gateway(), "victim", bridged));
    to_victims.extend(groups("gateway", site.routed_port(), "victim", plain));
    for (from, victim) in [
        (site.device(1), bridged),
        (site.gateway(), bridged),
        (site.routed_port(), plain),
    ] {
        for (kind, tagged) in [("unknown ethertype", false), ("802.1Q", true)] {
            let name = format!("{} {} -> {} {kind}", from.ns, from.interface, victim.ns);
            to_victims.push(raw(&name, from, victim, None, tagged));
        }
    }
    let mut elsewhere = groups("neighbour", site.device(1), "another port", site.device(2));
    elsewhere.extend(groups("gateway", site.gateway(), "another port", site.device(2)));
    assert_all_pass(&to_victims);
    let mut firewall = open(&site, TableOwnership::Auto);
    let mut cut = policy(&site, &[bridged, plain], Posture::Isolate);
    firewall.enforce(&cut, NOW).unwrap();
    // Nobody knows who is behind which port: what others send to groups passes.
    assert_all_pass(&to_victims);
    cut.quiet_ports = Some(["lan0".to_owned(), "lan3".to_owned()].into());
    firewall.enforce(&cut, NOW).unwrap();
    settle(&site);
    let gateways = [(bridged, site.gateway()), (plain, site.routed_port())];
    let captures = gateways.map(|(victim, gateway)| {
        let allowed = gateway.mac.0;
        victim.capture("eth0", move |frame| {
            let arp = frame.get(12..14) == Some(&[8, 6]);
            let discovery = frame.get(20) == Some(&58) && matches!(frame.get(54), Some(133..=136));
            !(frame.get(6..12) == Some(&allowed) && (arp || discovery))
        })
    });
    assert_none_passes(&to_victims, GRACE);
    assert_all_pass(&elsewhere);
    for capture in captures {
        assert_eq!(capture.finish(), (0, vec![]), "frames on the link of a quiet port");
    }
    assert_eq!(
        firewall.enforced().unwrap().unwrap().quiet_ports,
        ["lan0".to_owned(), "lan3".to_owned()].into()
    );
}

#[test]
fn remediate_reaches_the_broker_on_the_gateway_and_nothing_else() {
    let site = Site::build(Options::default());
    let _broker = (
        site.gateway().echo(BROKER),
        site.internet().echo(BROKER),
        site.device(1).echo(BROKER),
    );
    let _other = site.gateway().echo(7000);
    for n in [0, 3] {
        let device = site.device(n);
        let gateway = if n == 3 { site.routed_port() } else { site.gateway() };
        let mut allowed = Vec::new();
        let mut forbidden = Vec::new();
        for to in [IpAddr::from(gateway.v4), gateway.v6.into()] {
            let run = move |limit| {
                device
                    .connect(to, BROKER, limit)
                    .is_some_and(|mut s| alive(&mut s, limit))
            };
            allowed.push(Probe {
                name: format!("broker {to}"),
                run: Box::new(run),
            });
            over_ip(&mut forbidden, "gateway", device, to);
        }
        for to in [
            IpAddr::from(site.internet().v4),
            site.internet().v6.into(),
            site.device(1).v4.into(),
        ] {
            let run = move |limit| device.connect(to, BROKER, limit).is_some();
            forbidden.push(Probe {
                name: format!("broker port of {to}"),
                run: Box::new(run),
            });
        }
        assert_all_pass(&forbidden);
        let mut firewall = open(&site, TableOwnership::Auto);
        firewall
            .enforce(&policy(&site, &[device], Posture::Remediate), NOW)
            .unwrap();
        assert_all_pass(&allowed);
        assert_none_passes(&forbidden, GRACE);
        firewall
            .enforce(&policy(&site, &[device], Posture::Isolate), NOW)
            .unwrap();
        assert_none_passes(&allowed, GRACE);
        firewall.purge().unwrap();
    }
}

#[test]
fn a_new_hardware_address_does_not_help_while_the_ip_stays() {
    let site = Site::build(Options::default());
    let _echo = (site.internet().echo(7000), site.device(1).echo(7000));
    let device = site.device(0);
    let mut probes = Vec::new();
    for to in [
        IpAddr::from(site.internet().v4),
        site.internet().v6.into(),
        site.device(1).v4.into(),
    ] {
        over_ip(&mut probes, "victim", device, to);
    }
    device.shell("ip link set eth0 address 02:00:00:00:00:77");
    assert_all_pass(&probes);
    let mut firewall = open(&site, TableOwnership::Auto);
    firewall
        .enforce(&policy(&site, &[device], Posture::Isolate), NOW)
        .unwrap();
    assert_none_passes(&probes, GRACE);
    let dropped = firewall.dropped().unwrap()[&device.ns];
    assert!(dropped.packets_from > 0, "{dropped:?}");
}

#[test]
fn the_gateways_own_sockets_and_flows_are_severed() {
    let site = Site::build(Options::default());
    let (device, gateway) = (site.device(0), site.gateway());
    let _echo = (gateway.echo(7000), site.internet().echo(7000));
    let mut streams = [
        device.connect(gateway.v4.into(), 7000, SOON).unwrap(),
        device.connect(gateway.v6.into(), 7000, SOON).unwrap(),
        device.connect(site.internet().v4.into(), 7000, SOON).unwrap(),
    ];
    let mut other = site.device(1).connect(gateway.v4.into(), 7000, SOON).unwrap();
    assert!(streams.iter_mut().all(|stream| alive(stream, SOON)) && alive(&mut other, SOON));
    let mut firewall = open(&site, TableOwnership::Auto);
    firewall
        .enforce(&policy(&site, &[device], Posture::Isolate), NOW)
        .unwrap();
    let severed = gateway.enter(|| sever(&[device.v4.into(), device.v6.into()].into()).unwrap());
    assert_eq!(severed.unsupported, Vec::<String>::new());
    assert_eq!(severed.sockets, 2, "{severed:?}");
    assert!(severed.flows >= 1, "{severed:?}");
    assert!(alive(&mut other, SOON), "the other device's socket stays");
    let again = gateway.enter(|| sever(&[device.v4.into(), device.v6.into()].into()).unwrap());
    assert_eq!((again.sockets, again.flows), (0, 0));
}
