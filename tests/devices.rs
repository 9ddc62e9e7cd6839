//! Devices against the real thing: golden lease files, and the kernel's tables in private network namespaces (needs root).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use edge_warden::collect::conntrack::{
    Connections, FamilyTracking, Flow, FlowEvent, FlowEvents, RowCounts, TcpState, families, parse_table, proc_table,
    table, usage,
};
use edge_warden::collect::neighbours::{self, Neighbour, NeighbourEvent, NeighbourState, NeighbourWatch};
use edge_warden::devices::leases::{LeaseFormat, LeaseRule, parse};
use edge_warden::devices::{Observation, Registry};
use edge_warden::model::{MacAddress, Monotonic, Now, ThingName, UnixTime};
use nix::sched::{CloneFlags, setns, unshare};

#[test]
fn golden_leases() {
    let root = Path::new("tests/golden/leases");
    let mut cases = 0;
    for case in fs::read_dir(root).unwrap() {
        let case = case.unwrap().path();
        let rule = match fs::read_to_string(case.join("rule")) {
            Ok(template) => template.trim().parse().unwrap(),
            Err(_) => LeaseRule::default(),
        };
        let input = fs::read(case.join("input.leases")).unwrap();
        let file = parse(LeaseFormat::Dnsmasq, &input, &rule);
        let found = format!("{}\n", serde_json::to_string_pretty(&file).unwrap());
        let expected = case.join("expected.json");
        if std::env::var_os("BLESS").is_some() {
            fs::write(&expected, &found).unwrap();
        }
        assert_eq!(found, fs::read_to_string(&expected).unwrap(), "{}", case.display());
        cases += 1;
    }
    assert_eq!(cases, 5);
}

/// Runs `body` on a thread of its own in a fresh network namespace with the loopback interface up.
fn in_namespace<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of our own (these tests need root)");
        run("ip link set lo up");
        body()
    });
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Runs a command in the calling thread's namespace.
fn run(command: &str) -> String {
    let output = Command::new("sh").arg("-c").arg(command).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn neighbours_of_both_families_are_seen_to_come_and_go() {
    in_namespace(|| {
        run("ip link add lan type veth peer name far && ip link set lan up && ip link set far up");
        let mut watch = NeighbourWatch::open().unwrap();
        assert_eq!(neighbours::dump().unwrap(), []);
        run("ip neigh add 10.0.0.5 lladdr 02:aa:00:00:00:01 dev lan nud reachable");
        run("ip neigh add fd00::5 lladdr 02:aa:00:00:00:01 dev lan nud stale");
        run("ip neigh add 10.0.0.6 lladdr 02:aa:00:00:00:02 dev lan nud permanent");

        let mut found = neighbours::dump().unwrap();
        found.sort_by_key(|neighbour| neighbour.ip);
        let found: Vec<_> = found
            .iter()
            .map(|n| (n.ip.to_string(), n.mac.to_string(), n.interface.as_str(), n.state))
            .collect();
        let first = "02:aa:00:00:00:01".to_owned();
        assert_eq!(
            found,
            [
                ("10.0.0.5".to_owned(), first.clone(), "lan", NeighbourState::Reachable),
                (
                    "10.0.0.6".to_owned(),
                    "02:aa:00:00:00:02".to_owned(),
                    "lan",
                    NeighbourState::Permanent
                ),
                ("fd00::5".to_owned(), first, "lan", NeighbourState::Stale),
            ]
        );
        let arp = neighbours::read_arp(Path::new("/proc")).unwrap();
        let arp: BTreeSet<_> = arp.neighbours.iter().map(|n| (n.ip.to_string(), n.mac)).collect();
        let by_netlink = neighbours::dump().unwrap();
        let v4 = by_netlink.iter().filter(|n| n.ip.is_ipv4());
        assert_eq!(arp, v4.map(|n| (n.ip.to_string(), n.mac)).collect());

        run("ip neigh del 10.0.0.5 dev lan");
        let mut events = Vec::new();
        let drained = watch.drain(100, |event| events.push(event)).unwrap();
        assert!(!drained.lost && !drained.more);
        let came: BTreeSet<String> = events
            .iter()
            .filter_map(|event| match event {
                NeighbourEvent::Present(neighbour) => Some(neighbour.ip.to_string()),
                _ => None,
            })
            .collect();
        assert_eq!(
            came,
            BTreeSet::from(["10.0.0.5".into(), "10.0.0.6".into(), "fd00::5".into()])
        );
        let gone = NeighbourEvent::Gone {
            ip: "10.0.0.5".parse().unwrap(),
            interface: "lan".into(),
        };
        assert!(events.contains(&gone), "{events:?}");
        assert_eq!(neighbours::dump().unwrap().len(), 2);
    });
}

#[test]
fn a_watch_that_overflows_says_so() {
    in_namespace(|| {
        run("ip link add lan type veth peer name far && ip link set lan up && ip link set far up");
        let mut watch = NeighbourWatch::open().unwrap();
        let batch: String = (0..40_000)
            .map(|n| {
                format!(
                    "neigh replace 10.1.0.1 lladdr 02:bb:00:00:{:02x}:{:02x} dev lan nud permanent\n",
                    n / 250 % 250,
                    n % 250
                )
            })
            .collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), batch).unwrap();
        run(&format!("ip -batch {}", file.path().display()));
        let mut messages = 0;
        let mut lost = false;
        loop {
            let drained = watch.drain(1000, |_| messages += 1).unwrap();
            lost |= drained.lost;
            if !drained.more {
                break;
            }
        }
        assert!(
            lost && messages > 0 && messages < 40_000,
            "{messages} messages, lost: {lost}"
        );
    });
}

#[test]
fn bridge_entries_lead_from_mac_to_port() {
    in_namespace(|| {
        run("ip link add br0 type bridge && ip link add lan1 type veth peer name far && ip link set lan1 master br0");
        run("ip link set far up && ip link set lan1 up && ip link set br0 up");
        run("bridge fdb add 02:aa:00:00:00:01 dev lan1 master dynamic");
        let mut entries = Vec::new();
        neighbours::visit_bridge_entries(|entry| entries.push(entry)).unwrap();
        let learnt = entries
            .iter()
            .find(|entry| entry.mac.to_string() == "02:aa:00:00:00:01")
            .unwrap();
        assert_eq!(
            (learnt.port.as_str(), learnt.bridge.as_str(), learnt.own),
            ("lan1", "br0", false)
        );
        assert!(learnt.idle.is_some());
        assert!(entries.iter().any(|entry| entry.own), "the port's own address");
    });
}

/// What both sources say of the same table, in order.
fn both_tables() -> (Vec<Flow>, Vec<Flow>) {
    let (mut by_netlink, mut by_proc) = (Vec::new(), Vec::new());
    table(|flow| by_netlink.push(*flow)).unwrap();
    let rows = proc_table(Path::new("/proc"), |flow| by_proc.push(*flow)).unwrap();
    assert_eq!(rows.skipped, 0);
    let key = |flow: &Flow| (flow.original, flow.reply);
    by_netlink.sort_by_key(key);
    by_proc.sort_by_key(key);
    (by_netlink, by_proc)
}

/// A gateway with a device behind it, in two namespaces. The body runs in the gateway's; it is given a function that runs
/// something in the device's namespace.
fn with_device(body: impl FnOnce(&dyn Fn(Box<dyn FnOnce() + Send>)) + Send + 'static) {
    in_namespace(|| {
        let gateway = fs::File::open("/proc/thread-self/ns/net").unwrap();
        let device = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            run("ip link set lo up");
            fs::File::open("/proc/thread-self/ns/net").unwrap()
        });
        let device = device.join().unwrap();
        let inside = |work: Box<dyn FnOnce() + Send>| {
            let device = device.try_clone().unwrap();
            let thread = thread::spawn(move || {
                setns(&device, CloneFlags::CLONE_NEWNET).unwrap();
                work();
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        };
        // The peer is made in the device's namespace and its other end handed to the gateway's, by open descriptors.
        let handle = gateway.try_clone().unwrap();
        inside(Box::new(move || {
            use std::os::fd::AsRawFd;
            let path = format!("/proc/{}/fd/{}", std::process::id(), handle.as_raw_fd());
            run(&format!(
                "ip link add eth0 address 02:aa:00:00:00:01 type veth peer name lan && ip link set lan netns {path}"
            ));
            run(
                "ip address add 10.0.0.5/24 dev eth0 && ip address add fd00::5/64 dev eth0 nodad && ip link set eth0 up",
            );
        }));
        run("ip address add 10.0.0.1/24 dev lan && ip address add fd00::1/64 dev lan nodad && ip link set lan up");
        body(&inside);
    });
}

#[test]
fn a_real_connection_is_seen_by_both_sources_and_by_events() {
    with_device(|inside| {
        // Positive control: without a rule that needs it the kernel tracks nothing, and that is told from "nobody talks".
        let listener = TcpListener::bind("10.0.0.1:8883").unwrap();
        let control: Connection = connect(inside, &listener, "10.0.0.1:8883");
        let (by_netlink, by_proc) = both_tables();
        assert_eq!((by_netlink.len(), by_proc.len()), (0, 0));
        let own = RowCounts { v4: 1, v6: 0 };
        assert_eq!(families(RowCounts::default(), own).0, FamilyTracking::Untracked);
        drop(control);

        run(
            "nft add table ip t && nft add chain ip t c '{ type filter hook input priority 0; }' && \
             nft add rule ip t c ct state new counter",
        );
        let mut events = FlowEvents::open(8 << 20).unwrap();
        let connection = connect(inside, &listener, "10.0.0.1:8883");
        let (by_netlink, by_proc) = both_tables();
        let pick = |flows: &[Flow]| -> Vec<Flow> {
            flows
                .iter()
                .filter(|flow| flow.tcp_state == Some(TcpState::Established))
                .copied()
                .collect()
        };
        assert_eq!(pick(&by_netlink), pick(&by_proc));
        let flow = pick(&by_netlink)
            .into_iter()
            .find(|flow| flow.original.source == connection.peer)
            .expect("the flow");
        assert_eq!(flow.original.destination.to_string(), "10.0.0.1:8883");
        assert!(flow.answered && flow.assured);
        assert!(usage(Path::new("/proc")).unwrap().count >= 1);

        let cam: ThingName = "cam".parse().unwrap();
        let lookup = |address: IpAddr| (address.to_string() == "10.0.0.5").then_some(&cam);
        let mut connections = Connections::default();
        table(|flow| connections.add(flow, lookup)).unwrap();
        assert_eq!(
            families(connections.rows(), own),
            (FamilyTracking::Tracked, FamilyTracking::Quiet)
        );
        let seen = connections.of(&cam).unwrap();
        let ours = |c: &&edge_warden::model::Connection| c.local_port == connection.peer.port();
        assert_eq!(
            seen.established.iter().find(ours).unwrap().remote.to_string(),
            "10.0.0.1:8883"
        );

        // A service on the device, and an attempt nobody answers.
        let port = 8080;
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (done, is_done) = std::sync::mpsc::channel::<()>();
        inside(Box::new(move || {
            let service = TcpListener::bind(("10.0.0.5", port)).unwrap();
            thread::spawn(move || {
                let _ = ready.send(());
                let _accepted = service.accept();
                let _ = is_done.recv();
            });
        }));
        is_ready.recv().unwrap();
        let out = TcpStream::connect(("10.0.0.5", port)).unwrap();
        inside(Box::new(|| {
            let socket = std::net::UdpSocket::bind("10.0.0.5:0").unwrap();
            socket.send_to(b"x", "10.0.0.1:7").unwrap();
        }));
        let mut connections = Connections::default();
        table(|flow| connections.add(flow, lookup)).unwrap();
        assert_eq!(connections.of(&cam).unwrap().answered_tcp, [port].into_iter().collect());
        drop((out, done));

        run("conntrack -F 2>/dev/null");
        let mut short = Connections::default();
        let (mut new, mut destroyed) = (0, 0);
        let drained = events
            .drain(10_000, |event| {
                match event {
                    FlowEvent::New(_) => new += 1,
                    FlowEvent::Destroyed(_) => destroyed += 1,
                }
                short.add_event(event, lookup);
            })
            .unwrap();
        assert!(
            !drained.lost && new >= 3 && destroyed >= 3,
            "{new} new, {destroyed} destroyed"
        );
        let seen = short.of(&cam).unwrap();
        assert!(seen.begun >= 2 && seen.destinations.count() == 1, "{seen:?}");
        assert!(seen.answered_tcp.contains(port));
        drop(connection);
    });
}

#[test]
fn a_datagram_nobody_answers_is_counted_when_its_flow_ends() {
    with_device(|inside| {
        run(
            "nft add table inet t && nft add chain inet t c '{ type filter hook input priority 0; }' && \
             nft add rule inet t c ct state new counter",
        );
        let mut events = FlowEvents::open(8 << 20).unwrap();
        // Forwarded to where nobody is: a flow is only kept in the table once its packet has left.
        run(
            "echo 1 > /proc/sys/net/ipv4/ip_forward && ip link add hole type veth peer name far && \
             ip link set far up && ip link set hole up && ip route add 198.51.100.0/24 dev hole && \
             ip neigh add 198.51.100.9 lladdr 02:cc:00:00:00:09 dev hole nud permanent",
        );
        inside(Box::new(|| {
            run("ip route add default via 10.0.0.1");
            let socket = std::net::UdpSocket::bind("10.0.0.5:0").unwrap();
            socket.send_to(b"x", "198.51.100.9:9").unwrap();
        }));
        let cam: ThingName = "cam".parse().unwrap();
        let lookup = |address: IpAddr| (address.to_string() == "10.0.0.5").then_some(&cam);
        let mut now = Connections::default();
        table(|flow| now.add(flow, lookup)).unwrap();
        assert_eq!(now.of(&cam).unwrap().unanswered, 1, "so far");
        run("conntrack -F 2>/dev/null");
        let mut ended = Connections::default();
        events.drain(10_000, |event| ended.add_event(event, lookup)).unwrap();
        let seen = ended.of(&cam).unwrap();
        assert_eq!((seen.begun, seen.unanswered, seen.destinations.count()), (1, 1, 1));
    });
}

#[test]
fn a_refused_connection_is_an_unanswered_attempt() {
    with_device(|inside| {
        run(
            "nft add table ip t && nft add chain ip t c '{ type filter hook input priority 0; }' && \
             nft add rule ip t c ct state new counter",
        );
        let mut events = FlowEvents::open(8 << 20).unwrap();
        inside(Box::new(|| {
            let refused = TcpStream::connect("10.0.0.1:23").unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        }));
        let cam: ThingName = "cam".parse().unwrap();
        let lookup = |address: IpAddr| (address.to_string() == "10.0.0.5").then_some(&cam);
        let mut seen = Connections::default();
        events.drain(10_000, |event| seen.add_event(event, lookup)).unwrap();
        let seen = seen.of(&cam).unwrap();
        assert_eq!((seen.begun, seen.unanswered, seen.destinations.count()), (1, 1, 1));
    });
}

#[test]
#[allow(clippy::disallowed_methods, reason = "the deadline of a test")]
fn events_lost_are_told() {
    with_device(|inside| {
        run(
            "nft add table ip t && nft add chain ip t c '{ type filter hook input priority 0; }' && \
             nft add rule ip t c ct state new counter",
        );
        // The smallest buffer there is: a handful of events.
        let mut events = FlowEvents::open(1).unwrap();
        inside(Box::new(|| {
            for _ in 0..500 {
                let socket = std::net::UdpSocket::bind("10.0.0.5:0").unwrap();
                socket.send_to(b"x", "10.0.0.1:9").unwrap();
            }
        }));
        // On a busy machine frames wait for the receiving side, and their events with them. Some ports come up twice.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        let tracked = || std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count").unwrap();
        while tracked().trim().parse::<u32>().unwrap() < 300 {
            assert!(std::time::Instant::now() < deadline, "only {} flows arrived", tracked());
            std::thread::yield_now();
        }
        let mut messages = 0;
        let drained = events.drain(10_000, |_| messages += 1).unwrap();
        assert!(drained.lost && messages < 500, "{messages} messages, {drained:?}");
    });
}

/// One connection from the device to the gateway, both ends open.
struct Connection {
    peer: SocketAddr,
    _here: TcpStream,
    _there: TcpStream,
}

fn connect(inside: &dyn Fn(Box<dyn FnOnce() + Send>), listener: &TcpListener, to: &'static str) -> Connection {
    let (send, receive) = std::sync::mpsc::channel();
    inside(Box::new(move || {
        let mut stream = TcpStream::connect(to).unwrap();
        stream.write_all(b"hello").unwrap();
        send.send(stream).unwrap();
    }));
    let (mut here, peer) = listener.accept().unwrap();
    let mut greeting = [0; 5];
    here.read_exact(&mut greeting).unwrap();
    Connection {
        peer,
        _here: here,
        _there: receive.recv().unwrap(),
    }
}

/// Makes rows when asked, so that the test itself holds none of them.
struct Rows {
    next: u32,
    count: u32,
    rest: Vec<u8>,
}

impl Read for Rows {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() && self.next < self.count {
            let (high, low) = (self.next / 60_000, 1024 + self.next % 60_000);
            self.rest = format!(
                "ipv4     2 tcp      6 431999 ESTABLISHED src=10.0.{high}.5 dst=192.0.2.9 sport={low} dport=443 \
                 src=192.0.2.9 dst=10.0.{high}.5 sport=443 dport={low} [ASSURED] mark=0 zone=0 use=2\n"
            )
            .into_bytes();
            self.next += 1;
        }
        let count = self.rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.rest[..count]);
        self.rest.drain(..count);
        Ok(count)
    }
}

/// Peak resident memory of this process, in KiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Runs the named test again in a process of its own, so that the memory measured is its own. False in that process.
fn in_process_of_its_own(test: &str) -> bool {
    const MARK: &str = "EDGE_WARDEN_TEST_CHILD";
    if std::env::var_os(MARK).is_some() {
        return false;
    }
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--test-threads=1"])
        .env(MARK, "1")
        .status()
        .unwrap();
    assert!(status.success());
    true
}

#[test]
fn random_macs_cost_a_fixed_amount_of_memory() {
    if in_process_of_its_own("random_macs_cost_a_fixed_amount_of_memory") {
        return;
    }
    let now = |seconds: u64| Now {
        wall: UnixTime::from_seconds(seconds),
        monotonic: Monotonic(Duration::from_secs(seconds)),
    };
    let mut registry = Registry::new();
    registry.observe(Observation::LanInterfaces(BTreeSet::from(["br0".into()])), now(0));
    let mut flood = |macs: std::ops::Range<u32>| {
        for number in macs {
            let [a, b, c, d] = number.to_be_bytes();
            let neighbour = Neighbour {
                mac: MacAddress([0x06, 0, a, b, c, d]),
                ip: std::net::Ipv4Addr::from(0x0a00_0000 + number).into(),
                interface: "br0".into(),
                state: NeighbourState::Reachable,
            };
            // 1,000 of them a second.
            let at = now(1 + u64::from(number / 1000));
            registry.observe(Observation::Neighbour(NeighbourEvent::Present(neighbour)), at);
            if number % 1000 == 0 {
                registry.resolve(at);
            }
        }
        registry.resolve(now(1_000));
        (
            peak(),
            registry.table().unknown().len(),
            registry.table().more_unknown(),
        )
    };
    let (first_peak, listed, more) = flood(0..10_000);
    assert_eq!(listed, 1024);
    assert!((8_700..=9_250).contains(&more), "{more}");
    let (second_peak, listed, more) = flood(10_000..200_000);
    assert_eq!(listed, 1024);
    assert!((190_000..=208_000).contains(&more), "{more}");
    assert!(
        second_peak - first_peak < 512,
        "{first_peak} KiB, then {second_peak} KiB"
    );
}

#[test]
fn half_a_million_rows_pass_through_in_little_memory() {
    if in_process_of_its_own("half_a_million_rows_pass_through_in_little_memory") {
        return;
    }
    let things: Vec<ThingName> = (0..9).map(|n| format!("thing-{n}").parse().unwrap()).collect();
    let lookup = |address: IpAddr| match address {
        IpAddr::V4(v4) if v4.octets()[0] == 10 => things.get(usize::from(v4.octets()[2])),
        _ => None,
    };
    let before = peak();
    let mut connections = Connections::default();
    let source = Rows {
        next: 0,
        count: 500_000,
        rest: Vec::new(),
    };
    let rows = parse_table(BufReader::new(source), |flow| connections.add(flow, lookup)).unwrap();
    assert_eq!((rows.flows, rows.skipped), (500_000, 0));
    let total: u64 = connections.iter().map(|(_, thing)| thing.established_total).sum();
    assert_eq!(total, 500_000);
    // The text is 75 MB; what is kept is 9 x 4,096 connections of 64 bytes and less than 1 MiB beside them.
    let grown = peak() - before;
    assert!(grown < 8 * 1024, "{grown} KiB");
}
