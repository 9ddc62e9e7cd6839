//! A site on one machine, in network namespaces of its own:
//!
//! ```text
//!  device 0 ─┐
//!  device 1 ─┼─ br0 ┐
//!  device 2 ─┘      ├─ gateway ── NAT (IPv4) / routed (IPv6) ── internet
//!  device 3 ─ lan3 ─┘
//! ```
//!
//! Names carry the process id and a counter, so sites do not meet; dropping a [`Site`] (also while panicking) ends its
//! processes and removes its namespaces. Needs root and fails loudly without it.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use edge_warden::firewall::Lan;
use edge_warden::model::MacAddress;

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// How long a probe that should succeed may take. Generous: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// How long a probe that should fail is watched. Long enough for an ARP resolution on a busy machine.
pub const GRACE: Duration = Duration::from_millis(600);
/// The broker's port.
pub const BROKER: u16 = 8883;

/// What the site should be like.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Switch GRO, TSO and GSO off everywhere, so that one packet in the kernel is one frame.
    pub offloads_off: bool,
    /// Serve addresses on the bridge by dnsmasq (leases in [`Site::leases`]); devices keep their static addresses.
    pub dhcp: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            offloads_off: true,
            dhcp: false,
        }
    }
}

/// One machine of the site.
#[derive(Debug, Clone)]
pub struct Host {
    /// Name of its network namespace.
    pub ns: String,
    /// Its (LAN) interface, inside the namespace.
    pub interface: String,
    /// Hardware address of that interface.
    pub mac: MacAddress,
    /// IPv4 address.
    pub v4: Ipv4Addr,
    /// Global (or unique local) IPv6 address.
    pub v6: Ipv6Addr,
    /// Link-local address.
    pub link_local: Ipv6Addr,
}

/// The whole site.
#[derive(Debug)]
pub struct Site {
    gateway: Host,
    routed_port: Host,
    devices: Vec<Host>,
    internet: Host,
    children: Vec<Child>,
    directory: PathBuf,
}

impl Site {
    /// Builds the site.
    ///
    /// # Panics
    /// Without root, or when a tool fails.
    pub fn build(options: Options) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "the site needs root: run the tests by `make test` as root"
        );
        let id = format!("{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::SeqCst));
        let directory = std::env::temp_dir().join(format!("ew-site-{id}"));
        std::fs::create_dir_all(&directory).expect("a directory for the site");
        let host = |name: &str, interface: &str, mac: [u8; 6], v4: [u8; 4], v6: &str| Host {
            ns: format!("ew{id}-{name}"),
            interface: interface.to_owned(),
            mac: MacAddress(mac),
            v4: v4.into(),
            v6: v6.parse().expect("an address"),
            link_local: link_local(MacAddress(mac)),
        };
        let gateway = host("gw", "br0", [2, 0, 0, 0, 0, 0xfe], [10, 20, 0, 1], "fd20::1");
        let routed_port = Host {
            ns: gateway.ns.clone(),
            ..host("gw", "lan3", [2, 0, 0, 0, 1, 0xfe], [10, 30, 0, 1], "fd30::1")
        };
        let internet = host("inet", "eth0", [2, 0, 0, 0, 9, 1], [203, 0, 113, 1], "2001:db8::1");
        let devices: Vec<Host> = (0..4_u8)
            .map(|n| {
                let (v4, v6) = match n {
                    3 => ([10, 30, 0, 10], "fd30::10".to_owned()),
                    _ => ([10, 20, 0, 10 + n], format!("fd20::1{n}")),
                };
                host(&format!("d{n}"), "eth0", [2, 0, 0, 0, 0, n + 1], v4, &v6)
            })
            .collect();
        // From here on Drop cleans up whatever exists.
        let mut site = Self {
            gateway,
            routed_port,
            devices,
            internet,
            children: Vec::new(),
            directory,
        };
        site.wire(options);
        if options.dhcp {
            site.serve_dhcp();
        }
        site.wait_until_up();
        site
    }

    /// The gateway, by its bridge.
    pub fn gateway(&self) -> &Host {
        &self.gateway
    }

    /// The gateway, by its plain LAN interface (the one device 3 is behind).
    pub fn routed_port(&self) -> &Host {
        &self.routed_port
    }

    /// Devices 0 to 2 are on the bridge, device 3 on the plain interface.
    pub fn device(&self, n: usize) -> &Host {
        &self.devices[n]
    }

    /// The gateway's peer on the uplink.
    pub fn internet(&self) -> &Host {
        &self.internet
    }

    /// dnsmasq's lease file.
    pub fn leases(&self) -> PathBuf {
        self.directory.join("dnsmasq.leases")
    }

    /// The LAN as the firewall is told.
    pub fn lan(&self) -> Lan {
        let (gateway, port) = (&self.gateway, &self.routed_port);
        Lan {
            bridges: ["br0".to_owned()].into(),
            interfaces: ["lan3".to_owned()].into(),
            gateway_macs: [gateway.mac, port.mac].into(),
            gateway_addresses: [gateway, port]
                .into_iter()
                .flat_map(|host| [IpAddr::from(host.v4), host.v6.into(), host.link_local.into()])
                .collect(),
            broker_ports: [BROKER].into(),
        }
    }

    fn wire(&mut self, options: Options) {
        let gateway = self.gateway.clone();
        let all: Vec<Host> = self.devices.iter().chain([&gateway, &self.internet]).cloned().collect();
        let mut batch = String::new();
        for host in &all {
            batch += &format!("netns add {}\n", host.ns);
        }
        for (n, device) in self.devices.iter().enumerate() {
            let mac = device.mac;
            batch += &format!(
                "link add lan{n} netns {} type veth peer name eth0 address {mac} netns {}\n",
                gateway.ns, device.ns
            );
        }
        batch += &format!(
            "link add wan0 netns {} type veth peer name eth0 address {} netns {}\n",
            gateway.ns, self.internet.mac, self.internet.ns
        );
        ip(&[], &batch);
        // No address conflicts exist here, so no waiting for duplicate address detection.
        for host in &all {
            let quiet = "for f in all default; do echo 0 > /proc/sys/net/ipv6/conf/$f/accept_dad; \
                         echo 0 > /proc/sys/net/ipv6/conf/$f/accept_ra; done; ip link set lo up";
            host.shell(quiet);
        }
        let mut batch = format!(
            "link add br0 address {} type bridge forward_delay 0 mcast_snooping 0\n",
            gateway.mac
        );
        for n in 0..3 {
            // As network daemons do: a bridge port has no IPv6 of its own, else its multicast reports leave beside the bridge.
            batch += &format!("link set lan{n} addrgenmode none\nlink set lan{n} master br0 up\n");
        }
        let port = &self.routed_port;
        batch += &format!(
            "link set lan3 address {}\nlink set lan3 up\nlink set br0 up\nlink set wan0 up\n",
            port.mac
        );
        batch += &format!(
            "addr add {}/24 dev br0\naddr add {}/64 dev br0\n",
            gateway.v4, gateway.v6
        );
        batch += &format!("addr add {}/24 dev lan3\naddr add {}/64 dev lan3\n", port.v4, port.v6);
        batch += "addr add 203.0.113.2/24 dev wan0\naddr add 2001:db8::2/64 dev wan0\n";
        ip(&["-n", &gateway.ns], &batch);
        gateway.shell(
            "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding; \
             nft 'add table ip site_nat; add chain ip site_nat post { type nat hook postrouting priority 100; }; \
             add rule ip site_nat post oifname wan0 masquerade'",
        );
        for (n, device) in self.devices.iter().enumerate() {
            let via = if n == 3 { port } else { &gateway };
            let batch = format!(
                "link set eth0 up\naddr add {}/24 dev eth0\naddr add {}/64 dev eth0\n\
                 route add default via {}\nroute add default via {} dev eth0\n",
                device.v4, device.v6, via.v4, via.v6
            );
            ip(&["-n", &device.ns], &batch);
        }
        let internet = &self.internet;
        let batch = format!(
            "link set eth0 up\naddr add {}/24 dev eth0\naddr add {}/64 dev eth0\n\
             route add fd20::/64 via 2001:db8::2\nroute add fd30::/64 via 2001:db8::2\n",
            internet.v4, internet.v6
        );
        ip(&["-n", &internet.ns], &batch);
        if options.offloads_off {
            let off = |link: &str| format!("ethtool -K {link} gro off gso off tso off tx off rx off >/dev/null 2>&1; ");
            let links = ["lan0", "lan1", "lan2", "lan3", "wan0", "br0"];
            gateway.shell(&(links.iter().map(|link| off(link)).collect::<String>() + "true"));
            for host in self.devices.iter().chain([&self.internet]) {
                host.shell(&(off("eth0") + "true"));
            }
        }
    }

    /// Makes the link of a device anew, deleting it when it is there.
    pub fn connect_port(&self, n: usize) {
        let (device, plain) = (&self.devices[n], n == 3);
        let via = if plain { &self.routed_port } else { &self.gateway };
        let port = if plain {
            let (mac, v4, v6) = (via.mac, via.v4, via.v6);
            format!("ip link set lan3 address {mac} up && ip addr add {v4}/24 dev lan3 && ip addr add {v6}/64 dev lan3")
        } else {
            format!("ip link set lan{n} addrgenmode none && ip link set lan{n} master br0 up")
        };
        self.gateway.shell(&format!(
            "ip link del lan{n} 2>/dev/null; \
             ip link add lan{n} type veth peer name eth0 address {} netns {} && \
             ip -n {} link set eth0 up && {port}",
            device.mac, device.ns, device.ns
        ));
        device.shell(&format!(
            "ip addr add {}/24 dev eth0 && ip addr add {}/64 dev eth0 && \
             ip route add default via {} && ip route add default via {} dev eth0",
            device.v4, device.v6, via.v4, via.v6
        ));
    }

    /// Which address dnsmasq is to give a device, from now on and instead of any other ([`Options::dhcp`]). A device that
    /// renews another one is refused it (RFC 2131, 4.3.2: DHCPNAK) and begins anew.
    pub fn assign(&self, device: &Host, address: Ipv4Addr) {
        let line = format!("{},{address}\n", device.mac);
        std::fs::write(self.dhcp_hosts(), line).expect("the file of assignments");
        // dnsmasq reads it anew on SIGHUP; it writes its process id before it answers anybody
        let pid = self.directory.join("dnsmasq.pid");
        let signalled = format!("kill -HUP $(cat {})", pid.display());
        assert!(
            until(Duration::from_secs(30), || self
                .gateway
                .run(&["sh", "-c", &signalled])
                .status
                .success()),
            "dnsmasq runs"
        );
    }

    fn dhcp_hosts(&self) -> PathBuf {
        self.directory.join("dhcp-hosts")
    }

    fn serve_dhcp(&mut self) {
        let leases = self.leases();
        std::fs::write(self.dhcp_hosts(), "").expect("a file of assignments");
        let child = Command::new("ip")
            .args([
                "netns",
                "exec",
                &self.gateway.ns,
                "dnsmasq",
                "--keep-in-foreground",
                "--conf-file=/dev/null",
            ])
            .args([
                "--port=0",
                "--interface=br0",
                "--bind-interfaces",
                "--no-ping",
                "--user=root",
            ])
            .args(["--dhcp-range=10.20.0.100,10.20.0.200,255.255.255.0,2m"])
            .arg(format!("--dhcp-leasefile={}", leases.display()))
            .arg(format!("--dhcp-hostsfile={}", self.dhcp_hosts().display()))
            .arg(format!("--pid-file={}", self.directory.join("dnsmasq.pid").display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("dnsmasq (package dnsmasq-base)");
        self.children.push(child);
    }

    /// Every device reaches its gateway: the positive control of everything that follows.
    fn wait_until_up(&self) {
        for (n, device) in self.devices.iter().enumerate() {
            let gateway = if n == 3 { &self.routed_port } else { &self.gateway };
            for target in [
                IpAddr::from(gateway.v4),
                gateway.v6.into(),
                self.internet.v4.into(),
                self.internet.v6.into(),
            ] {
                assert!(
                    until(Duration::from_secs(10), || device.ping(target)),
                    "{} does not reach {target}",
                    device.ns
                );
            }
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for host in self.devices.iter().chain([&self.gateway, &self.internet]) {
            let _ = Command::new("ip")
                .args(["netns", "del", &host.ns])
                .stderr(Stdio::null())
                .status();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Polls a condition until it holds or the time is over. The condition does the waiting.
pub fn until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    #[allow(clippy::disallowed_methods, reason = "a test's own deadline")]
    let start = std::time::Instant::now();
    loop {
        if condition() {
            return true;
        }
        if start.elapsed() > limit {
            return false;
        }
        // leaves the processor to what is waited for
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn ip(arguments: &[&str], batch: &str) {
    let mut child = Command::new("ip")
        .args(arguments)
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ip (package iproute2)");
    child
        .stdin
        .take()
        .expect("stdin")
        .write_all(batch.as_bytes())
        .expect("a batch for ip");
    let output = child.wait_with_output().expect("ip ends");
    assert!(
        output.status.success(),
        "ip: {}\n{batch}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The address a link makes from its MAC (RFC 4291, appendix A).
fn link_local(mac: MacAddress) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    let mut octets = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    octets[1] = 0x80;
    octets.into()
}

/// What the network does with a probe.
impl Host {
    /// Runs a program in the host's namespace.
    pub fn run(&self, command: &[&str]) -> Output {
        Command::new("ip")
            .args(["netns", "exec", &self.ns])
            .args(command)
            .output()
            .expect("ip netns exec")
    }

    /// Runs a shell command that must succeed.
    pub fn shell(&self, command: &str) -> String {
        let output = self.run(&["sh", "-c", command]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {command}: {error}", self.ns);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a closure on a thread inside the host's namespace and gives its result.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.move_here();
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A thread of its own inside the host's namespace.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let host = self.clone();
        std::thread::spawn(move || {
            host.move_here();
            work()
        })
    }

    fn move_here(&self) {
        let file = std::fs::File::open(format!("/run/netns/{}", self.ns)).expect("the namespace exists");
        let kind = rustix::thread::LinkNameSpaceType::Network;
        rustix::thread::move_into_link_name_space(file.as_fd(), Some(kind)).expect("setns");
    }

    /// One echo request with an answer in time (an IPv6 link-local target goes out of the LAN interface).
    pub fn ping(&self, target: IpAddr) -> bool {
        let target = match target {
            IpAddr::V6(v6) if v6.is_unicast_link_local() => format!("{v6}%{}", self.interface),
            other => other.to_string(),
        };
        self.run(&["ping", "-n", "-q", "-c", "1", "-W", "1", &target])
            .status
            .success()
    }

    /// The target as a socket address on this host.
    pub fn socket(&self, target: IpAddr, port: u16) -> SocketAddr {
        match target {
            IpAddr::V6(v6) if v6.is_unicast_link_local() => SocketAddrV6::new(v6, port, 0, self.index()).into(),
            other => SocketAddr::new(other, port),
        }
    }

    /// The number of the host's LAN interface.
    pub fn index(&self) -> u32 {
        let name = std::ffi::CString::new(self.interface.clone()).expect("a name");
        self.enter(|| {
            #[allow(unsafe_code, reason = "no safe if_nametoindex in the crates we have")]
            // SAFETY: the pointer is to a zero-terminated string that outlives the call.
            unsafe {
                libc::if_nametoindex(name.as_ptr())
            }
        })
    }

    /// A TCP connection, if one comes about within `limit`.
    pub fn connect(&self, target: IpAddr, port: u16, limit: Duration) -> Option<TcpStream> {
        let address = self.socket(target, port);
        self.enter(|| TcpStream::connect_timeout(&address, limit).ok())
    }

    /// Echoes TCP and UDP on `port` (v4 and v6) until the returned value is dropped.
    pub fn echo(&self, port: u16) -> Echo {
        Echo::start(self, port)
    }

    /// Whether a datagram to an [`Echo`] comes back within `limit`.
    pub fn udp(&self, target: IpAddr, port: u16, size: usize, limit: Duration) -> bool {
        let address = self.socket(target, port);
        self.enter(|| {
            let unspecified: SocketAddr = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }
                .parse()
                .expect("address");
            let socket = UdpSocket::bind(unspecified).expect("a UDP socket");
            socket.set_read_timeout(Some(limit)).expect("a timeout");
            let sent = vec![7; size];
            let mut buffer = vec![0; 65536];
            socket.send_to(&sent, address).is_ok() && socket.recv(&mut buffer).is_ok_and(|length| length == size)
        })
    }

    /// A raw socket on the host's LAN interface.
    pub fn wire(&self) -> Wire {
        self.wire_on(&self.interface)
    }

    /// A raw socket on any interface of the host.
    pub fn wire_on(&self, interface: &str) -> Wire {
        let interface = interface.to_owned();
        self.enter(move || Wire::open(&interface, libc::ETH_P_ALL as u16))
    }

    /// A raw socket on the host's LAN interface for one ethertype (behind a VLAN tag, if there is one). Unlike one for
    /// all, it hears only what netdev ingress let through.
    pub fn wire_for(&self, ethertype: u16) -> Wire {
        let interface = self.interface.clone();
        self.enter(move || Wire::open(&interface, ethertype))
    }

    /// Counts frames seen on an interface until stopped.
    pub fn capture(&self, interface: &str, matching: impl Fn(&[u8]) -> bool + Send + 'static) -> Capture {
        Capture::start(self.wire_on(interface), matching)
    }

    /// Whether an ARP request for `target` is answered within `limit`.
    pub fn arp(&self, target: Ipv4Addr, limit: Duration) -> bool {
        let wire = self.wire();
        let mut request = vec![0xff; 6];
        request.extend(self.mac.0);
        request.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        request.extend(self.mac.0);
        request.extend(self.v4.octets());
        request.extend([0; 6]);
        request.extend(target.octets());
        wire.send(&request);
        wire.receive(limit, |frame| {
            frame.get(12..14) == Some(&[8, 6])
                && frame.get(20..22) == Some(&[0, 2])
                && frame.get(28..32) == Some(target.octets().as_slice())
        })
    }

    /// Received and sent (packets, bytes) of an interface as the kernel counts them for the link itself.
    pub fn link_counters(&self, interface: &str) -> LinkCounters {
        let text = self.shell("cat /proc/net/dev");
        let line = text
            .lines()
            .find_map(|line| line.trim().strip_prefix(&format!("{interface}:")).map(str::to_owned));
        let line = line.unwrap_or_else(|| panic!("{interface} in /proc/net/dev of {}", self.ns));
        let numbers: Vec<u64> = line.split_whitespace().map(|n| n.parse().expect("a number")).collect();
        LinkCounters {
            bytes_in: numbers[0],
            packets_in: numbers[1],
            bytes_out: numbers[8],
            packets_out: numbers[9],
        }
    }
}

/// Counters of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkCounters {
    pub bytes_in: u64,
    pub packets_in: u64,
    pub bytes_out: u64,
    pub packets_out: u64,
}

/// A TCP and UDP echo service in a host. Its sockets live until it is dropped.
#[derive(Debug)]
pub struct Echo {
    addresses: (SocketAddr, SocketAddr),
    host: Host,
    stop: Arc<std::sync::atomic::AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Echo {
    fn start(host: &Host, port: u16) -> Self {
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (tcp, udp) = host.enter(|| {
            (
                TcpListener::bind(("::", port)).expect("a listener"),
                UdpSocket::bind(("::", port)).expect("a UDP socket"),
            )
        });
        let addresses = (tcp.local_addr().expect("bound"), udp.local_addr().expect("bound"));
        let stopped = Arc::clone(&stop);
        let accepting = std::thread::spawn(move || {
            for stream in tcp.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(mut stream) = stream else { continue };
                // Ends with its peer or with its namespace.
                std::thread::spawn(move || {
                    let mut buffer = [0; 65536];
                    while let Ok(length @ 1..) = stream.read(&mut buffer) {
                        if stream.write_all(&buffer[..length]).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        let stopped = Arc::clone(&stop);
        let answering = std::thread::spawn(move || {
            let mut buffer = vec![0; 65536];
            while let Ok((length, peer)) = udp.recv_from(&mut buffer) {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let _ = udp.send_to(&buffer[..length], peer);
            }
        });
        Self {
            addresses,
            host: host.clone(),
            stop,
            threads: vec![accepting, answering],
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let (tcp, udp) = (self.addresses.0.port(), self.addresses.1.port());
        // Over loopback, which no quarantine touches: wakes both threads so that they see the flag.
        self.host.enter(|| {
            let _ = TcpStream::connect_timeout(&SocketAddr::from((Ipv6Addr::LOCALHOST, tcp)), PATIENCE);
            if let Ok(socket) = UdpSocket::bind("[::]:0") {
                let _ = socket.send_to(&[0], (Ipv6Addr::LOCALHOST, udp));
            }
        });
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A raw packet socket on one link.
#[derive(Debug)]
pub struct Wire {
    fd: OwnedFd,
}

#[allow(
    unsafe_code,
    reason = "AF_PACKET has no safe binding in the crates we have; test code only"
)]
impl Wire {
    fn open(interface: &str, protocol: u16) -> Self {
        let name = std::ffi::CString::new(interface).expect("a name");
        // SAFETY: the pointer is to a zero-terminated string that outlives the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        assert!(index > 0, "{interface} exists");
        let wire = Self::bound(index, protocol);
        wire.unwrap_or_else(|| panic!("bind to {interface}: {}", std::io::Error::last_os_error()))
    }

    fn bound(index: u32, protocol: u16) -> Option<Self> {
        // SAFETY: plain system calls; the address structure is fully initialised and its size is passed with it.
        unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
            assert!(fd >= 0, "a packet socket: {}", std::io::Error::last_os_error());
            let fd = OwnedFd::from_raw_fd(fd);
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = protocol.to_be();
            address.sll_ifindex = index as i32;
            let size = std::mem::size_of_val(&address) as u32;
            if libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size) != 0 {
                return None;
            }
            // Sees what is for others too.
            let request = libc::packet_mreq {
                mr_ifindex: address.sll_ifindex,
                mr_type: libc::PACKET_MR_PROMISC as u16,
                mr_alen: 0,
                mr_address: [0; 8],
            };
            let size = std::mem::size_of_val(&request) as u32;
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_ADD_MEMBERSHIP,
                (&raw const request).cast(),
                size,
            );
            let size: i32 = 16 << 20;
            let length = std::mem::size_of_val(&size) as u32;
            let option = (&raw const size).cast();
            libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, option, length);
            Some(Self { fd })
        }
    }

    /// On the calling thread's link of this name, if there is one at the moment.
    pub fn try_open(interface: &str) -> Option<Self> {
        let name = std::ffi::CString::new(interface).expect("a name");
        // SAFETY: the pointer is to a zero-terminated string that outlives the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        (index > 0)
            .then(|| Self::bound(index, libc::ETH_P_ALL as u16))
            .flatten()
    }

    /// Puts a whole frame on the wire.
    pub fn send(&self, frame: &[u8]) {
        // SAFETY: pointer and length describe the slice.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, frame.len() as isize, "{}", std::io::Error::last_os_error());
    }

    /// As [`Wire::send`], on a link that may be away for the moment; whether it was there.
    pub fn try_send(&self, frame: &[u8]) -> bool {
        // SAFETY: pointer and length describe the slice.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        sent == frame.len() as isize
    }

    /// Whether a matching frame comes in (not one sent by this host) within `limit`.
    pub fn receive(&self, limit: Duration, mut matching: impl FnMut(&[u8]) -> bool) -> bool {
        #[allow(clippy::disallowed_methods, reason = "a test's own deadline")]
        let end = std::time::Instant::now() + limit;
        loop {
            #[allow(clippy::disallowed_methods, reason = "a test's own deadline")]
            let left = end.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return false;
            }
            match self.next(left) {
                Some((frame, true)) if matching(&frame) => return true,
                _ => {}
            }
        }
    }

    /// The next frame within `limit`, and whether it came in.
    fn next(&self, limit: Duration) -> Option<(Vec<u8>, bool)> {
        let mut poll = [libc::pollfd {
            fd: self.fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        }];
        // SAFETY: one pollfd, and its count.
        let ready = unsafe { libc::poll(poll.as_mut_ptr(), 1, limit.as_millis().max(1) as i32) };
        if ready <= 0 {
            return None;
        }
        let mut frame = vec![0_u8; 65536];
        // SAFETY: buffer and address with their sizes; both live through the call.
        let (length, address) = unsafe {
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            let mut size = std::mem::size_of_val(&address) as u32;
            let length = libc::recvfrom(
                self.fd.as_raw_fd(),
                frame.as_mut_ptr().cast(),
                frame.len(),
                libc::MSG_DONTWAIT,
                (&raw mut address).cast(),
                &raw mut size,
            );
            (length, address)
        };
        frame.truncate(usize::try_from(length).ok()?);
        Some((frame, address.sll_pkttype != libc::PACKET_OUTGOING))
    }
}

/// A running count of matching frames that came in on a link.
#[derive(Debug)]
pub struct Capture {
    count: Arc<AtomicU64>,
    stop: mpsc::Sender<()>,
    thread: Option<JoinHandle<Vec<Vec<u8>>>>,
}

impl Capture {
    fn start(wire: Wire, matching: impl Fn(&[u8]) -> bool + Send + 'static) -> Self {
        let count = Arc::new(AtomicU64::new(0));
        let (stop, stopped) = mpsc::channel();
        let counting = Arc::clone(&count);
        let thread = std::thread::spawn(move || {
            let mut kept = Vec::new();
            // What had arrived when we were told to stop is still counted; a flood must not keep us here for ever.
            let mut left: Option<u32> = None;
            while left != Some(0) {
                if left.is_none() && stopped.try_recv().is_ok() {
                    left = Some(50_000);
                }
                match wire.next(Duration::from_millis(20)) {
                    Some((frame, true)) if matching(&frame) => {
                        counting.fetch_add(1, Ordering::SeqCst);
                        if kept.len() < 20 {
                            kept.push(frame);
                        }
                    }
                    Some(_) => {}
                    None if left.is_some() => break,
                    None => {}
                }
                left = left.map(|left| left - 1);
            }
            kept
        });
        Self {
            count,
            stop,
            thread: Some(thread),
        }
    }

    /// Matching frames so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// Ends the capture: how many frames matched, and the first of them in hexadecimal.
    pub fn finish(mut self) -> (u64, Vec<String>) {
        let _ = self.stop.send(());
        let kept = self.thread.take().expect("running").join().expect("the capture thread");
        let text = |frame: &Vec<u8>| frame.iter().take(80).map(|b| format!("{b:02x}")).collect();
        (self.count(), kept.iter().map(text).collect())
    }
}
