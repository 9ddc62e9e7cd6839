//! The collector against a real kernel, in private network namespaces (root needed).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use edge_warden::collect::{HostCollector, HostPaths, HostSample, Interface, InterfaceSelection, Note};
use edge_warden::model::{Connection, Counters, ListeningPort, Reason};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use support::netns::{LEFT, Namespace, RIGHT, await_carrier, await_own_address, cable, ip, sysctl};

/// The host by netlink, and nothing may be said against it.
fn by_netlink() -> HostSample {
    let sample = HostCollector::new(HostPaths::default()).collect();
    assert_eq!(sample.notes, [], "netlink needs no fallback here");
    sample
}

/// The host by `/proc` alone.
fn by_proc() -> HostSample {
    let sample = HostCollector::new(HostPaths::proc_only("/proc")).collect();
    assert_eq!(sample.notes.len(), 3, "{:?}", sample.notes);
    assert!(
        sample.notes.iter().all(|note| matches!(note, Note::Fallback { .. })),
        "{:?}",
        sample.notes
    );
    sample
}

/// Sockets by `/proc`, interfaces by netlink: what `/proc` does not know of interfaces does not hide a difference.
fn sockets_by_proc() -> HostSample {
    HostSample {
        interfaces: by_netlink().interfaces,
        ..by_proc()
    }
}

fn interface(sample: &HostSample, name: &str) -> Interface {
    let interfaces = sample.interfaces.as_ref().expect("interfaces");
    interfaces
        .iter()
        .find(|i| i.name == name)
        .unwrap_or_else(|| panic!("no interface {name}"))
        .clone()
}

fn scope_of(name: &str) -> u32 {
    interface(&by_netlink(), name).index
}

fn on(port: u16, interface: Option<&str>) -> ListeningPort {
    ListeningPort {
        port,
        interface: interface.map(str::to_owned),
    }
}

/// A pair of cables' ends in one namespace: `va` with addresses of every kind, `vb` with none.
fn site() -> Namespace {
    let namespace = Namespace::new();
    namespace.run(|| {
        ip("link add va type veth peer name vb");
        ip("link set va addrgenmode none");
        ip("link set vb addrgenmode none");
        ip("link set va up");
        ip("link set vb up");
        await_carrier("va");
        ip("address add 192.0.2.1/24 dev va");
        // Without duplicate address detection an address can be bound at once.
        ip("address add 2001:db8::1/64 dev va nodad");
        ip("address add fe80::1/64 dev va nodad");
        await_own_address("2001:db8::1", "va");
        await_own_address("fe80::1", "va");
    });
    namespace
}

/// What to make of a socket before it is bound.
#[derive(Default)]
struct Wish<'a> {
    v6_only: bool,
    reuse_port: bool,
    device: Option<&'a str>,
}

fn bound(kind: Type, address: SocketAddr, wish: &Wish<'_>) -> Socket {
    let protocol = if kind == Type::STREAM {
        Protocol::TCP
    } else {
        Protocol::UDP
    };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol)).unwrap();
    if address.is_ipv6() {
        socket.set_only_v6(wish.v6_only).unwrap();
    }
    socket.set_reuse_port(wish.reuse_port).unwrap();
    socket.bind_device(wish.device.map(str::as_bytes)).unwrap();
    socket
        .bind(&address.into())
        .unwrap_or_else(|e| panic!("bind {address}: {e}"));
    socket
}

fn listen(address: &str, wish: &Wish<'_>) -> TcpListener {
    listen_at(address.parse().unwrap(), wish)
}

fn listen_at(address: SocketAddr, wish: &Wish<'_>) -> TcpListener {
    let socket = bound(Type::STREAM, address, wish);
    socket.listen(128).unwrap();
    socket.into()
}

/// Binds `from` and connects it to `listener` at `to`; returns both ends once both are established.
fn connect(listener: &TcpListener, from: SocketAddr, to: SocketAddr) -> (TcpStream, TcpStream) {
    let socket = bound(Type::STREAM, from, &Wish::default());
    socket
        .connect(&to.into())
        .unwrap_or_else(|e| panic!("connect {from} to {to}: {e}"));
    let (accepted, _) = listener.accept().unwrap();
    (socket.into(), accepted)
}

/// Waits until the other side's end of stream is here.
fn read_end(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(stream.read(&mut [0; 8]).expect("the end of the stream"), 0);
}

#[test]
fn listening_sockets_of_every_kind_are_listed_once_and_no_others() {
    let site = site();
    site.run(|| {
        let any = Wish::default;
        let shared = || Wish {
            reuse_port: true,
            ..Wish::default()
        };
        let link_local =
            |port| SocketAddr::from(SocketAddrV6::new("fe80::1".parse().unwrap(), port, 0, scope_of("va")));
        assert_eq!(
            by_netlink().listening_tcp().unwrap(),
            [],
            "positive control: an empty table is read as empty"
        );
        assert_eq!(by_proc().listening_tcp().unwrap(), []);

        let _tcp = [
            listen("0.0.0.0:1001", &any()),
            listen("192.0.2.1:1002", &any()),
            listen("[::]:1003", &any()),
            listen("[::]:1004", &Wish { v6_only: true, ..any() }),
            listen("0.0.0.0:1004", &any()),
            listen_at(link_local(1005), &any()),
            listen("[::ffff:192.0.2.1]:1006", &any()),
            listen("0.0.0.0:1007", &shared()),
            listen("0.0.0.0:1007", &shared()),
            listen("0.0.0.0:1007", &shared()),
            listen(
                "0.0.0.0:1008",
                &Wish {
                    device: Some("va"),
                    ..any()
                },
            ),
            listen("127.0.0.1:1009", &any()),
            listen("[::1]:1009", &any()),
            listen("127.8.8.8:1010", &any()),
            listen("[::ffff:127.0.0.1]:1011", &any()),
            listen("0.0.0.0:1012", &shared()),
            listen("192.0.2.1:1012", &shared()),
            listen("[2001:db8::1]:1013", &Wish { v6_only: true, ..any() }),
        ];
        let udp = |address: &str, wish: &Wish<'_>| bound(Type::DGRAM, address.parse().unwrap(), wish);
        let connected = udp("192.0.2.1:2005", &any());
        connected
            .connect(&"192.0.2.9:53".parse::<SocketAddr>().unwrap().into())
            .unwrap();
        let client = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        client
            .connect(&"192.0.2.9:123".parse::<SocketAddr>().unwrap().into())
            .unwrap();
        let connected_v6 = udp("[::]:2008", &any());
        connected_v6
            .connect(&"[2001:db8::9]:53".parse::<SocketAddr>().unwrap().into())
            .unwrap();
        let _unbound = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        let _udp = [
            udp("0.0.0.0:2001", &any()),
            udp("192.0.2.1:2002", &any()),
            udp("[::]:2003", &any()),
            bound(Type::DGRAM, link_local(2004), &any()),
            udp("0.0.0.0:2006", &shared()),
            udp("0.0.0.0:2006", &shared()),
            udp(
                "0.0.0.0:2007",
                &Wish {
                    device: Some("va"),
                    ..any()
                },
            ),
            udp("[::ffff:127.0.0.1]:2009", &any()),
        ];

        let va = Some("va");
        let lo = Some("lo");
        let tcp_expected = |bound_port| {
            vec![
                on(1001, None),
                on(1002, va),
                on(1003, None),
                on(1004, None),
                on(1005, va),
                on(1006, va),
                on(1007, None),
                on(1008, bound_port),
                on(1009, lo),
                on(1010, lo),
                on(1011, lo),
                on(1012, None),
                on(1012, va),
                on(1013, va),
            ]
        };
        let udp_expected = |bound_port| {
            vec![
                on(2001, None),
                on(2002, va),
                on(2003, None),
                on(2004, va),
                on(2006, None),
                on(2007, bound_port),
                on(2009, lo),
            ]
        };
        let sample = by_netlink();
        assert_eq!(sample.listening_tcp().unwrap(), tcp_expected(va));
        assert_eq!(sample.listening_udp().unwrap(), udp_expected(va));
        assert_eq!(sample.established().unwrap(), []);
        // The one thing /proc cannot show is SO_BINDTODEVICE.
        let sample = sockets_by_proc();
        assert_eq!(sample.listening_tcp().unwrap(), tcp_expected(None));
        assert_eq!(sample.listening_udp().unwrap(), udp_expected(None));
        assert_eq!(sample.established().unwrap(), []);
    });
}

#[test]
fn established_connections_are_listed_and_opening_and_closing_ones_are_not() {
    let site = site();
    site.run(|| {
        let any = Wish::default();
        let scope = scope_of("va");
        let fe80: Ipv6Addr = "fe80::1".parse().unwrap();
        let link_local = |port| SocketAddr::from(SocketAddrV6::new(fe80, port, 0, scope));
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let v4 = listen("192.0.2.1:1001", &any);
        let both = listen("[::]:1002", &any);
        let local = listen_at(link_local(1003), &any);

        let kept = [
            connect(&v4, at("192.0.2.1:3001"), at("192.0.2.1:1001")),
            connect(&both, at("[2001:db8::1]:3002"), at("[2001:db8::1]:1002")),
            // An IPv4 client of a socket that serves both families, and an IPv6 socket that is an IPv4 client.
            connect(&both, at("127.0.0.1:3003"), at("127.0.0.1:1002")),
            connect(&v4, at("[::ffff:192.0.2.1]:3004"), at("[::ffff:192.0.2.1]:1001")),
            connect(&local, link_local(3005), link_local(1003)),
        ];
        for (mut client, mut server) in kept.iter().map(|(c, s)| (c, s)) {
            client.write_all(b"x").unwrap();
            server
                .read_exact(&mut [0; 1])
                .expect("positive control: the connection carries data");
        }

        // FIN_WAIT2 here, CLOSE_WAIT there.
        let (half_open, mut half_closed) = connect(&v4, at("192.0.2.1:3010"), at("192.0.2.1:1001"));
        half_open.shutdown(std::net::Shutdown::Write).unwrap();
        read_end(&mut half_closed);
        // TIME_WAIT: it closed first, and the other end has closed too.
        let (mut first, mut second) = connect(&v4, at("192.0.2.1:3011"), at("192.0.2.1:1001"));
        first.shutdown(std::net::Shutdown::Write).unwrap();
        read_end(&mut second);
        drop(second);
        read_end(&mut first);
        drop(first);
        // SYN_SENT: nobody answers at this address.
        let opening = bound(Type::STREAM, at("192.0.2.1:3012"), &any);
        opening.set_nonblocking(true).unwrap();
        let _ = opening.connect(&SockAddr::from(at("192.0.2.99:80")));
        let table = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
        for (name, state) in [("SYN_SENT", " 02 "), ("TIME_WAIT", " 06 "), ("CLOSE_WAIT", " 08 ")] {
            assert!(
                table.contains(state),
                "positive control: a socket is in {name}\n{table}"
            );
        }

        let connection = |remote: SocketAddr, local_port, interface: &str| Connection {
            remote,
            local_port,
            local_interface: Some(interface.to_owned()),
        };
        let mut expected = vec![
            connection(at("127.0.0.1:1002"), 3003, "lo"),
            connection(at("127.0.0.1:3003"), 1002, "lo"),
            connection(at("192.0.2.1:1001"), 3001, "va"),
            connection(at("192.0.2.1:3001"), 1001, "va"),
            connection(at("192.0.2.1:1001"), 3004, "va"),
            connection(at("192.0.2.1:3004"), 1001, "va"),
            connection(at("[2001:db8::1]:1002"), 3002, "va"),
            connection(at("[2001:db8::1]:3002"), 1002, "va"),
            connection(link_local(1003), 3005, "va"),
            connection(link_local(3005), 1003, "va"),
        ];
        expected.sort();
        for sample in [by_netlink(), sockets_by_proc()] {
            assert_eq!(sample.established().unwrap(), expected, "in this order");
            let ports: Vec<u16> = sample.listening_tcp().unwrap().iter().map(|l| l.port).collect();
            assert_eq!(ports, [1001, 1002, 1003], "clients' ports are not listened on");
        }
        drop((half_open, half_closed, opening));
    });
}

#[test]
fn ten_thousand_sockets_are_the_same_from_both_sources() {
    // Two ends of 5,000 connections and 200 shared listeners, all in this process.
    let hard = getrlimit(Resource::Nofile).maximum.map(|files| files.max(12_000));
    let limit = Rlimit {
        current: Some(12_000),
        maximum: hard,
    };
    setrlimit(Resource::Nofile, limit).expect("root may open 12,000 files");
    let site = site();
    site.run(|| {
        let shared = Wish {
            reuse_port: true,
            ..Wish::default()
        };
        let _listeners: Vec<TcpListener> = (0..100)
            .flat_map(|_| [listen("0.0.0.0:80", &shared), listen("[::1]:80", &shared)])
            .collect();
        let server = listen("192.0.2.1:8883", &Wish::default());
        let mut streams = Vec::new();
        let mut expected = BTreeSet::new();
        for port in 10_000..15_000_u16 {
            let (from, to) = (
                SocketAddr::from((LEFT.address, port)),
                SocketAddr::from((LEFT.address, 8883)),
            );
            streams.push(connect(&server, from, to));
            expected.extend([(to, port), (from, 8883)]);
        }
        assert_eq!(expected.len(), 10_000);
        for sample in [by_netlink(), sockets_by_proc()] {
            let found = sample.established().unwrap();
            assert_eq!(found.len(), 10_000, "each once");
            assert_eq!(
                found.iter().map(|c| (c.remote, c.local_port)).collect::<BTreeSet<_>>(),
                expected
            );
            assert!(found.iter().all(|c| c.local_interface.as_deref() == Some("va")));
            let ports = sample.listening_tcp().unwrap();
            assert_eq!(ports, [on(80, None), on(80, Some("lo")), on(8883, Some("va"))]);
        }
    });
}

#[test]
fn traffic_of_a_known_size_is_counted_to_the_byte() {
    const DATAGRAMS: u64 = 1_000;
    const PAYLOAD: u64 = 700;
    // Ethernet, IPv4 and UDP headers; a veth counts frames without their check sequence.
    const FRAME: u64 = 14 + 20 + 8 + PAYLOAD;
    let (left, right) = (Namespace::new(), Namespace::new());
    cable(&left, &right);
    let bind = |end: std::net::Ipv4Addr| UdpSocket::bind((end, 9_000)).unwrap();
    let (sender, receiver) = (
        left.run(move || bind(LEFT.address)),
        right.run(move || bind(RIGHT.address)),
    );
    receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let read = |namespace: &Namespace| {
        namespace.run(|| {
            let (netlink, proc) = (by_netlink(), by_proc());
            let index = interface(&netlink, "port").index;
            let counted = netlink.counters(&InterfaceSelection::Auto).unwrap();
            assert_eq!(
                counted.keys().cloned().collect::<Vec<_>>(),
                [format!("port#{index}")],
                "loopback is left out"
            );
            let same = proc.counters(&InterfaceSelection::Auto).unwrap();
            assert_eq!(counted.values().collect::<Vec<_>>(), same.values().collect::<Vec<_>>());
            counted[&format!("port#{index}")]
        })
    };
    let send = |times: u64| {
        for _ in 0..times {
            sender.send_to(&[7; 700], (RIGHT.address, 9_000)).unwrap();
            let length = receiver.recv(&mut [0; 2_000]).expect("the datagram arrives");
            assert_eq!(u64::try_from(length).unwrap(), PAYLOAD);
        }
    };
    send(1);
    let before = (read(&left), read(&right));
    assert!(before.1.packets_in >= 1, "positive control: the counters move");
    // Loopback traffic, as of a broker and its local clients, is no traffic of the host.
    left.run(|| {
        let socket = UdpSocket::bind("127.0.0.1:9001").unwrap();
        socket.send_to(&[0; 100], "127.0.0.1:9001").unwrap();
        socket.recv(&mut [0; 200]).unwrap();
    });
    assert_eq!((read(&left), read(&right)), before, "nothing but the test sends");
    send(DATAGRAMS);
    let after = (read(&left), read(&right));
    assert_eq!(
        after.0.since(before.0),
        Some(Counters {
            bytes_out: DATAGRAMS * FRAME,
            packets_out: DATAGRAMS,
            ..Counters::default()
        })
    );
    assert_eq!(
        after.1.since(before.1),
        Some(Counters {
            bytes_in: DATAGRAMS * FRAME,
            packets_in: DATAGRAMS,
            ..Counters::default()
        })
    );
}

#[test]
fn interfaces_that_come_go_and_come_again_are_told_apart() {
    let namespace = Namespace::new();
    namespace.run(|| {
        let keys = || {
            let counted = by_netlink().counters(&InterfaceSelection::Auto).unwrap();
            counted.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(keys(), [""; 0], "positive control: nothing but loopback at first");
        ip("link add come type veth peer name other");
        let first = interface(&by_netlink(), "come");
        assert_eq!(keys(), [first.key(), interface(&by_netlink(), "other").key()]);
        assert_eq!(
            (first.up, first.loopback, first.kind.as_deref()),
            (Some(false), false, Some("veth"))
        );
        ip("link delete come");
        assert_eq!(keys(), [""; 0]);
        ip("link add come type veth peer name other");
        let second = interface(&by_netlink(), "come");
        assert_ne!(first.key(), second.key(), "made anew, it is another interface");
        assert_eq!(second.counters, Counters::default());
        assert_eq!(by_proc().counters(&InterfaceSelection::Auto).unwrap().len(), 2);
    });
}

#[test]
fn layers_are_seen_and_counted_once() {
    let namespace = Namespace::new();
    namespace.run(|| {
        ip("link add port1 address 02:00:00:00:00:11 type veth peer name far1");
        ip("link add port2 type veth peer name far2");
        ip("link add br0 type bridge");
        ip("link set port1 master br0");
        ip("link set port2 master br0");
        ip("link add link far1 name child type macvlan");
        let sample = by_netlink();
        let (br0, port1) = (interface(&sample, "br0"), interface(&sample, "port1"));
        assert_eq!(br0.kind.as_deref(), Some("bridge"));
        assert_eq!((port1.master, port1.kind.as_deref()), (Some(br0.index), Some("veth")));
        assert_eq!(port1.mac.unwrap().to_string(), "02:00:00:00:00:11");
        let child = interface(&sample, "child");
        assert_eq!(
            (child.kind.as_deref(), child.parent),
            (Some("macvlan"), Some(interface(&sample, "far1").index))
        );
        let names = |selection: &InterfaceSelection| {
            let counted = sample.counters(selection).unwrap();
            counted
                .keys()
                .map(|key| key.split('#').next().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&InterfaceSelection::Auto), ["br0", "far1", "far2"]);
        let listed = InterfaceSelection::Listed(["port1".to_owned(), "lo".to_owned()].into());
        assert_eq!(names(&listed), ["lo", "port1"]);
        // A parent in another namespace is no index of this one.
        let other = Namespace::new();
        ip(&format!("link set far2 netns {}", other.id()));
        assert_eq!(interface(&by_netlink(), "port2").parent, None);
    });
}

#[test]
fn default_routes_and_addresses_are_those_of_the_kernel() {
    let site = site();
    site.run(|| {
        let has_route = |sample: HostSample, name| interface(&sample, name).default_route;
        ip("link add vc type veth peer name vd");
        for name in ["vc", "vd"] {
            ip(&format!("link set {name} addrgenmode none"));
            ip(&format!("link set {name} up"));
        }
        await_carrier("vc");
        ip("address add 198.51.100.1/24 dev vc");
        ip("-6 route add unreachable default metric 4000000000");
        for name in ["lo", "va", "vc"] {
            assert_eq!(
                has_route(by_netlink(), name),
                Some(false),
                "{name}: positive control, and refusing is no route"
            );
            assert_eq!(has_route(by_proc(), name), Some(false), "{name}");
        }
        ip("route add default nexthop via 192.0.2.254 dev va nexthop via 198.51.100.254 dev vc");
        let routes = |sample: &HostSample| ["lo", "va", "vb", "vc"].map(|name| interface(sample, name).default_route);
        let wanted = [Some(false), Some(true), Some(false), Some(true)];
        assert_eq!(routes(&by_netlink()), wanted, "both next hops");
        ip("route delete default");
        ip("-6 route add default via fe80::254 dev va");
        let wanted = [Some(false), Some(true), Some(false), Some(false)];
        assert_eq!(routes(&by_netlink()), wanted, "IPv6");
        assert_eq!(routes(&by_proc()), wanted, "IPv6, from /proc");

        let addresses: Vec<String> = interface(&by_netlink(), "va")
            .addresses
            .unwrap()
            .iter()
            .map(|own| format!("{}/{}", own.address, own.prefix_length))
            .collect();
        assert_eq!(addresses, ["192.0.2.1/24", "2001:db8::1/64", "fe80::1/64"]);
        assert_eq!(interface(&by_netlink(), "vb").addresses, Some(Vec::new()));
        ip("address add 203.0.113.1 peer 203.0.113.2 dev vb");
        let own = interface(&by_netlink(), "vb").addresses.unwrap();
        assert_eq!(
            own[0].address.to_string(),
            "203.0.113.1",
            "the host's end of a point-to-point link"
        );
    });
}

#[test]
fn without_ipv6_the_other_family_stands() {
    let namespace = Namespace::new();
    namespace.run(|| {
        sysctl("net/ipv6/conf/all/disable_ipv6", "1");
        let _listener = TcpListener::bind("127.0.0.1:80").unwrap();
        for sample in [by_netlink(), by_proc()] {
            assert_eq!(sample.listening_tcp().unwrap(), [on(80, Some("lo"))]);
        }
    });
}

#[test]
fn a_denied_table_is_missing_and_not_empty() {
    let root = tempfile::tempdir().unwrap();
    let net = root.path().join("net");
    std::fs::create_dir(&net).unwrap();
    for (name, text) in [
        ("tcp", "local_address\n"),
        ("tcp6", "local_address\n"),
        ("udp", "local_address\n"),
        ("udp6", "local_address\n"),
        ("dev", "Receive\nbytes\n"),
    ] {
        std::fs::write(net.join(name), text).unwrap();
    }
    let paths = HostPaths::proc_only(root.path());
    let sample = HostCollector::new(paths.clone()).collect();
    assert_eq!(
        sample.listening_tcp(),
        Ok(Vec::new()),
        "positive control: readable, it is empty"
    );
    for name in ["tcp6", "udp", "dev"] {
        std::fs::set_permissions(net.join(name), std::fs::Permissions::from_mode(0o000)).unwrap();
    }
    // A thread of root that may no longer read every file.
    let namespace = Namespace::new();
    let sample = namespace.run(move || {
        use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
        let mut sets = capabilities(None).unwrap();
        sets.effective -= CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
        set_capabilities(None, sets).unwrap();
        HostCollector::new(paths).collect()
    });
    for (file, missing) in [
        ("net/tcp6", sample.listening_tcp().unwrap_err()),
        ("net/tcp6", sample.established().unwrap_err()),
        ("net/udp", sample.listening_udp().unwrap_err()),
        ("net/dev", sample.counters(&InterfaceSelection::Auto).unwrap_err()),
    ] {
        assert_eq!(missing.reason, Reason::Denied, "{missing}");
        assert!(missing.source.ends_with(file), "{missing}");
    }
}

#[test]
fn the_running_boot_is_named() {
    let id = HostCollector::new(HostPaths::default()).collect().boot_id.unwrap();
    assert_eq!(
        id,
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .unwrap()
            .trim()
    );
}
