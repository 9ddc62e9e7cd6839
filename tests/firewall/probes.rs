//! Ways of getting a packet from somewhere to somewhere, tried all at once.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::SOON;
use crate::support::site::{Host, until};

/// One way of getting a packet from somewhere to somewhere, with an answer.
pub(crate) struct Probe<'a> {
    pub(crate) name: String,
    pub(crate) run: Box<dyn Fn(Duration) -> bool + Send + Sync + 'a>,
}

/// All probes at once; the names of those that got through.
pub(crate) fn passing<'p, 'a: 'p>(
    probes: impl IntoIterator<Item = &'p Probe<'a>>,
    limit: Duration,
) -> BTreeSet<String> {
    std::thread::scope(|scope| {
        let running: Vec<_> = probes
            .into_iter()
            .map(|probe| (probe, scope.spawn(move || (probe.run)(limit))))
            .collect();
        running
            .into_iter()
            .filter_map(|(probe, thread)| thread.join().unwrap().then(|| probe.name.clone()))
            .collect()
    })
}

/// TCP, UDP whole and in fragments, ping: over one address of the target.
pub(crate) fn over_ip<'a>(probes: &mut Vec<Probe<'a>>, what: &str, from: &'a Host, to: IpAddr) {
    let mut add = |kind: &str, run: Box<dyn Fn(Duration) -> bool + Send + Sync + 'a>| {
        probes.push(Probe {
            name: format!("{what} {to} {kind}"),
            run,
        });
    };
    add("TCP", Box::new(move |limit| from.connect(to, 7000, limit).is_some()));
    add("UDP", Box::new(move |limit| from.udp(to, 7000, 100, limit)));
    add("fragments", Box::new(move |limit| from.udp(to, 7000, 4000, limit)));
    add("ping", Box::new(move |_| from.ping(to)));
}

/// Waits until every probe has got through once. A busy machine may lose one; one that is cut off stays so.
pub(crate) fn assert_all_pass(probes: &[Probe<'_>]) {
    let mut missing: Vec<&Probe<'_>> = probes.iter().collect();
    let all = until(SOON, || {
        let through = passing(missing.iter().copied(), Duration::from_secs(10));
        missing.retain(|probe| !through.contains(&probe.name));
        missing.is_empty()
    });
    let missing: Vec<_> = missing.iter().map(|probe| &probe.name).collect();
    assert!(all, "these do not get through: {missing:#?}");
}

/// None of the probes gets through within `limit`.
pub(crate) fn assert_none_passes(probes: &[Probe<'_>], limit: Duration) {
    assert_eq!(passing(probes, limit), BTreeSet::new());
}

/// A number nobody else's packets carry.
fn nonce() -> [u8; 8] {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    let mut nonce = *b"nonce\0\0\0";
    nonce[4..].copy_from_slice(&COUNT.fetch_add(1, Ordering::SeqCst).to_be_bytes());
    nonce
}

/// A frame for local experiments (IEEE 802 ethertype 0x88b5), tagged or not, that must reach the other host's stack.
pub(crate) fn raw<'a>(
    name: &str,
    from: &'a Host,
    to: &'a Host,
    destination: Option<[u8; 6]>,
    tagged: bool,
) -> Probe<'a> {
    let run = move |limit| {
        let nonce = nonce();
        // Behind netdev ingress, where a capture of everything would not be.
        let listening = to.wire_for(0x88b5);
        let mut frame = destination.unwrap_or([0x01, 0, 0x5e, 1, 2, 3]).to_vec();
        frame.extend(from.mac.0);
        if tagged {
            frame.extend([0x81, 0, 0, 5]);
        }
        frame.extend([0x88, 0xb5]);
        frame.extend(nonce);
        frame.resize(80, 0);
        // A frame dropped on its way out is told to the sender (net/packet/af_packet.c).
        let _ = from.wire().try_send(&frame);
        listening.receive(limit, |seen| seen.windows(nonce.len()).any(|window| window == nonce))
    };
    Probe {
        name: name.to_owned(),
        run: Box::new(run),
    }
}

/// A datagram to a group (or to everybody on the LAN) that must reach a socket of the other host that joined it.
pub(crate) fn group<'a>(name: &str, from: &'a Host, to: &'a Host, group: IpAddr) -> Probe<'a> {
    let run = move |limit| {
        let nonce = nonce();
        let listening = to.enter(|| joined(to, group));
        let port = listening.local_addr().unwrap().as_socket().unwrap().port();
        from.enter(|| {
            let sending = datagrams(group);
            let target: SocketAddr = match group {
                IpAddr::V4(v4) => {
                    sending.set_broadcast(true).unwrap();
                    sending.set_multicast_if_v4(&from.v4).unwrap();
                    (v4, port).into()
                }
                IpAddr::V6(v6) => {
                    sending.set_multicast_if_v6(from.index()).unwrap();
                    SocketAddrV6::new(v6, port, 0, from.index()).into()
                }
            };
            let _ = sending.send_to(&nonce, &target.into());
        });
        listening.set_read_timeout(Some(limit)).unwrap();
        let mut seen = [std::mem::MaybeUninit::uninit(); 64];
        // The port is this probe's alone: what arrives is what was sent.
        listening.recv(&mut seen).is_ok_and(|length| length == nonce.len())
    };
    Probe {
        name: format!("{name} {group}"),
        run: Box::new(run),
    }
}

fn datagrams(group: IpAddr) -> Socket {
    let domain = if group.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).unwrap()
}

fn joined(host: &Host, group: IpAddr) -> Socket {
    let socket = datagrams(group);
    let any: SocketAddr = match group {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    socket.bind(&SockAddr::from(any)).unwrap();
    match group {
        IpAddr::V4(v4) if v4.is_multicast() => socket.join_multicast_v4(&v4, &host.v4).unwrap(),
        IpAddr::V4(_) => {}
        IpAddr::V6(v6) => socket.join_multicast_v6(&v6, host.index()).unwrap(),
    }
    socket
}
