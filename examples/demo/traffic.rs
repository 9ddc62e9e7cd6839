//! What the devices send, and what of it arrives where.
//!
//! Datagrams carry when they were sent, so that a packet is judged by that and not by when a busy reader came to it.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::record::Sample;
use crate::site::{Echo, Host, PATIENCE, Site};

/// An address on the site's internet that a threat list names (a documentation address, RFC 5737).
pub(crate) const LISTED: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 66);
/// Its port.
const LISTED_PORT: u16 = 443;
/// Telemetry goes to this port of the internet, as CoAP does.
const TELEMETRY_PORT: u16 = 5683;
/// Each device has a TCP connection to a port of its own from here on: behind NAT that is what tells them apart.
const SESSION_PORT: u16 = 8883;
const FLOOD_PORT: u16 = 7777;
/// Begins the content of every stamped datagram.
const MAGIC: [u8; 4] = *b"EWdm";

const TELEMETRY_PER_SECOND: u32 = 25;
const FLOOD_PER_SECOND: u32 = 1000;
const LATERAL_PER_SECOND: u32 = 200;
const SCANNED_PORTS: u16 = 1024;
/// Looks for an answer a turn where answers are counted, 100 ms each.
const LOOKS: u32 = 20;
const PICTURE: Duration = Duration::from_millis(250);

/// Everything that was counted, shared by all threads.
pub(crate) struct Counts {
    began: Instant,
    devices: Vec<DeviceCounts>,
    samples: Mutex<Vec<Sample>>,
}

#[derive(Default)]
struct DeviceCounts {
    /// Packets seen elsewhere.
    arrived: AtomicU64,
    /// Stamped datagrams sent.
    stamped: AtomicU64,
    /// Stamped telemetry sent, and seen at the internet.
    telemetry: AtomicU64,
    telemetry_arrived: AtomicU64,
    /// When those were sent that arrived, nanoseconds since the beginning.
    passed: Mutex<Vec<u64>>,
    /// How long each answer on the telemetry connection took, and when it was asked for.
    answers: Mutex<Vec<(Instant, Duration)>>,
    requests: AtomicU64,
}

impl Counts {
    fn device(&self, n: usize) -> Option<&DeviceCounts> {
        self.devices.get(n)
    }

    /// Stamped datagrams a device has sent so far.
    pub(crate) fn stamped(&self, n: usize) -> u64 {
        self.device(n)
            .map_or(0, |device| device.stamped.load(Ordering::Relaxed))
    }

    /// Telemetry packets a device has sent, and how many arrived.
    pub(crate) fn telemetry(&self, n: usize) -> (u64, u64) {
        self.device(n).map_or((0, 0), |device| {
            (
                device.telemetry.load(Ordering::Relaxed),
                device.telemetry_arrived.load(Ordering::Relaxed),
            )
        })
    }

    /// When the packets were sent that arrived and were sent within this time, earliest first.
    pub(crate) fn passed(&self, n: usize, from: Instant, to: Instant) -> Vec<Instant> {
        let Some(device) = self.device(n) else {
            return Vec::new();
        };
        let mut times: Vec<Instant> = lock(&device.passed)
            .iter()
            .map(|sent| self.began + Duration::from_nanos(*sent))
            .filter(|sent| *sent > from && *sent < to)
            .collect();
        times.sort();
        times
    }

    /// Requests on a device's connection, how many were answered, and each answer's time.
    pub(crate) fn session(&self, n: usize) -> (u64, Vec<(Instant, Duration)>) {
        self.device(n).map_or((0, Vec::new()), |device| {
            (device.requests.load(Ordering::Relaxed), lock(&device.answers).clone())
        })
    }

    pub(crate) fn samples(&self) -> Vec<Sample> {
        lock(&self.samples).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Threads that end together.
struct Threads {
    stop: Arc<AtomicBool>,
    running: Vec<JoinHandle<()>>,
}

impl Threads {
    fn new() -> Self {
        Self {
            stop: Arc::new(AtomicBool::new(false)),
            running: Vec::new(),
        }
    }

    fn add(&mut self, on: Option<&Host>, mut turn: impl FnMut() + Send + 'static) {
        let stop = Arc::clone(&self.stop);
        let run = move || {
            while !stop.load(Ordering::Relaxed) {
                turn();
            }
        };
        self.running.push(match on {
            Some(host) => host.spawn(run),
            None => std::thread::spawn(run),
        });
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.running.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The everyday traffic of the site, and those who count it.
pub(crate) struct Traffic {
    pub(crate) counts: Arc<Counts>,
    // in this order: who sends ends before who counts
    senders: Option<Threads>,
    observers: Threads,
    _echoes: Vec<Echo>,
}

impl Traffic {
    pub(crate) fn start(site: &Site, devices: usize, began: Instant) -> Self {
        let counts = Arc::new(Counts {
            began,
            devices: (0..devices).map(|_| DeviceCounts::default()).collect(),
            samples: Mutex::new(Vec::new()),
        });
        let mut observers = Threads::new();
        let known: Vec<(usize, Ipv4Addr)> = (0..devices).map(|n| (n, site.device(n).v4)).collect();
        for observer in (0..devices).map(|n| site.device(n)).chain([site.internet()]) {
            let (wire, own, counts, known) = (observer.wire(), observer.v4, Arc::clone(&counts), known.clone());
            let is_internet = own == site.internet().v4;
            observers.add(None, move || {
                wire.receive(Duration::from_millis(50), |frame| {
                    count(&counts, &known, own, is_internet, frame);
                    false
                });
            });
        }
        observers.add(None, take_pictures(site, &counts));
        let mut senders = Threads::new();
        let mut echoes = vec![site.internet().echo(LISTED_PORT)];
        for n in 0..devices {
            let device = site.device(n);
            let port = session_port(n);
            echoes.push(site.internet().echo(port));
            let target = SocketAddr::from((site.internet().v4, TELEMETRY_PORT));
            senders.add(
                Some(device),
                stream(&counts, n, Kind::Telemetry, target, TELEMETRY_PER_SECOND),
            );
            let target = SocketAddr::from((site.internet().v4, port));
            senders.add(
                Some(device),
                session(target, Duration::from_millis(200), LOOKS, asked(&counts, n)),
            );
        }
        Self {
            counts,
            senders: Some(senders),
            observers,
            _echoes: echoes,
        }
    }

    /// Ends the everyday traffic and waits for what is under way.
    pub(crate) fn finish(mut self) -> Arc<Counts> {
        self.senders = None;
        // what was sent last is in a queue of an observer at most; each looks every 50 ms
        std::thread::sleep(Duration::from_millis(300));
        drop(self.observers);
        self.counts
    }
}

/// What a device does that was taken over. Ends when dropped.
pub(crate) struct Rogue {
    threads: Threads,
}

impl Rogue {
    /// Floods the internet and a neighbour, scans neighbours for open ports.
    pub(crate) fn take_over(site: &Site, counts: &Arc<Counts>, n: usize, neighbours: &[usize]) -> Self {
        let mut threads = Threads::new();
        let device = site.device(n);
        let internet = SocketAddr::from((site.internet().v4, FLOOD_PORT));
        threads.add(Some(device), stream(counts, n, Kind::Flood, internet, FLOOD_PER_SECOND));
        if let Some(first) = neighbours.first() {
            let neighbour = SocketAddr::from((site.device(*first).v4, FLOOD_PORT));
            threads.add(
                Some(device),
                stream(counts, n, Kind::Flood, neighbour, LATERAL_PER_SECOND),
            );
        }
        let targets: Vec<Ipv4Addr> = neighbours.iter().map(|neighbour| site.device(*neighbour).v4).collect();
        if !targets.is_empty() {
            threads.add(Some(device), scan(targets));
        }
        Self { threads }
    }

    /// Talks to a listed address from now on.
    pub(crate) fn call_home(&mut self, site: &Site, n: usize) {
        let target = SocketAddr::from((LISTED, LISTED_PORT));
        let talk = session(target, Duration::from_millis(200), 1, |_| ());
        self.threads.add(Some(site.device(n)), talk);
    }

    /// Uploads as fast as it can and no more.
    pub(crate) fn exfiltrate(site: &Site, counts: &Arc<Counts>, n: usize) -> Self {
        let mut threads = Threads::new();
        let target = SocketAddr::from((site.internet().v4, FLOOD_PORT));
        threads.add(
            Some(site.device(n)),
            stream(counts, n, Kind::Flood, target, FLOOD_PER_SECOND),
        );
        Self { threads }
    }
}

/// How much of the time it was kept from sending a flood makes up for: at most a hundred datagrams at once.
const MADE_UP_FOR: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Telemetry,
    Flood,
}

fn session_port(n: usize) -> u16 {
    SESSION_PORT.saturating_add(u16::try_from(n).unwrap_or(u16::MAX))
}

/// Sends one stamped datagram a turn.
fn stream(
    counts: &Arc<Counts>,
    n: usize,
    kind: Kind,
    target: SocketAddr,
    per_second: u32,
) -> impl FnMut() + Send + use<> {
    let counts = Arc::clone(counts);
    let pause = Duration::from_secs(1) / per_second.max(1);
    let mut socket: Option<UdpSocket> = None;
    let mut next = Instant::now();
    move || {
        let Some(own) = socket.as_ref() else {
            // here and not outside: the turn runs in the device's namespace
            socket = UdpSocket::bind("0.0.0.0:0").ok();
            return;
        };
        let mut content = MAGIC.to_vec();
        content.extend([u8::try_from(n).unwrap_or(u8::MAX), u8::from(kind == Kind::Telemetry)]);
        let sent = Instant::now().saturating_duration_since(counts.began);
        content.extend(u64::try_from(sent.as_nanos()).unwrap_or(u64::MAX).to_be_bytes());
        content.resize(if kind == Kind::Telemetry { 120 } else { 1200 }, 0);
        if own.send_to(&content, target).is_ok()
            && let Some(device) = counts.device(n)
        {
            device.stamped.fetch_add(1, Ordering::Relaxed);
            if kind == Kind::Telemetry {
                device.telemetry.fetch_add(1, Ordering::Relaxed);
            }
        }
        next += pause;
        let now = Instant::now();
        match next.checked_duration_since(now) {
            Some(left) => std::thread::sleep(left),
            // On a busy machine a flood that lost its turns would be none: it makes up for a little. Telemetry does not.
            None if kind == Kind::Flood => next = next.max(now.checked_sub(MADE_UP_FOR).unwrap_or(now)),
            None => next = now,
        }
    }
}

/// What a session tells: that it asked, and that it was answered.
enum Asked {
    Request,
    Answer(Instant, Duration),
}

fn asked(counts: &Arc<Counts>, n: usize) -> impl FnMut(Asked) + Send + use<> {
    let counts = Arc::clone(counts);
    move |what| {
        let Some(device) = counts.device(n) else { return };
        match what {
            Asked::Request => _ = device.requests.fetch_add(1, Ordering::Relaxed),
            Asked::Answer(when, took) => lock(&device.answers).push((when, took)),
        }
    }
}

/// One TCP connection that asks and is answered; a turn is one question, or one more look for its answer.
fn session(
    target: SocketAddr,
    every: Duration,
    looks: u32,
    mut tell: impl FnMut(Asked) + Send + 'static,
) -> impl FnMut() + Send + 'static {
    let mut stream: Option<TcpStream> = None;
    let mut waiting: Option<(Instant, usize)> = None;
    move || {
        let Some(open) = stream.as_mut() else {
            stream = TcpStream::connect_timeout(&target, PATIENCE).ok();
            if let Some(open) = &stream {
                let _ = open.set_nodelay(true);
                let _ = open.set_read_timeout(Some(Duration::from_millis(100)));
            } else {
                std::thread::sleep(every);
            }
            waiting = None;
            return;
        };
        let (when, left) = match waiting {
            Some(waiting) => waiting,
            None => {
                std::thread::sleep(every);
                tell(Asked::Request);
                if open.write_all(&[0x5a; 48]).is_err() {
                    stream = None;
                    return;
                }
                (Instant::now(), 48)
            }
        };
        waiting = Some((when, left));
        // a question that was asked gets its time to be answered, also when the thread is to stop
        for _ in 0..looks {
            match open.read(&mut [0; 48]) {
                Ok(0) => stream = None,
                Ok(length) if length >= left => {
                    tell(Asked::Answer(when, when.elapsed()));
                    waiting = None;
                }
                Ok(length) => waiting = Some((when, left - length)),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
                Err(_) => stream = None,
            }
            return;
        }
    }
}

/// Knocks at one port a turn, and does not wait for an answer.
fn scan(targets: Vec<Ipv4Addr>) -> impl FnMut() + Send + 'static {
    let mut knocks = (1..=SCANNED_PORTS)
        .flat_map(move |port| targets.clone().into_iter().map(move |target| (target, port)))
        .cycle();
    let mut open = std::collections::VecDeque::new();
    move || {
        if let Some((target, port)) = knocks.next()
            && let Ok(socket) = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))
        {
            let _ = socket.set_nonblocking(true);
            let _ = socket.connect(&SocketAddr::from((IpAddr::from(target), port)).into());
            // kept a while, so that the question is on its way before the socket goes
            open.push_back(socket);
            if open.len() > 32 {
                open.pop_front();
            }
        }
        std::thread::sleep(Duration::from_millis(4));
    }
}

/// Counts one frame that came in at a host.
fn count(counts: &Counts, known: &[(usize, Ipv4Addr)], own: Ipv4Addr, is_internet: bool, frame: &[u8]) {
    let Some(packet) = Packet::parse(frame) else { return };
    let stamp = packet.stamp();
    let device = if is_internet {
        // NAT hid who it was
        stamp.map(|(n, ..)| n).or_else(|| packet.session())
    } else {
        let from = known
            .iter()
            .find(|(_, address)| *address == packet.source && packet.source != own);
        from.map(|(n, _)| *n)
    };
    let Some(device) = device.and_then(|n| counts.device(n)) else {
        return;
    };
    device.arrived.fetch_add(1, Ordering::Relaxed);
    if let Some((_, telemetry, sent)) = stamp {
        lock(&device.passed).push(sent);
        if telemetry {
            device.telemetry_arrived.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// An IPv4 packet with a transport header.
struct Packet<'a> {
    source: Ipv4Addr,
    protocol: u8,
    target: Ipv4Addr,
    port: u16,
    udp: &'a [u8],
}

impl<'a> Packet<'a> {
    fn parse(frame: &'a [u8]) -> Option<Self> {
        if frame.get(12..14)? != [8, 0] {
            return None;
        }
        let header = usize::from(frame.get(14)? & 0xf) * 4;
        let transport = frame.get(14 + header..)?;
        let address = |at: usize| {
            let octets: [u8; 4] = frame.get(at..at + 4)?.try_into().ok()?;
            Some(Ipv4Addr::from(octets))
        };
        Some(Self {
            source: address(26)?,
            protocol: *frame.get(23)?,
            target: address(30)?,
            port: u16::from_be_bytes(transport.get(2..4)?.try_into().ok()?),
            udp: transport.get(8..).unwrap_or_default(),
        })
    }

    /// Device, whether telemetry, and when it was sent.
    fn stamp(&self) -> Option<(usize, bool, u64)> {
        if self.protocol != 17 || self.udp.get(..4)? != MAGIC {
            return None;
        }
        let sent = u64::from_be_bytes(self.udp.get(6..14)?.try_into().ok()?);
        Some((usize::from(*self.udp.get(4)?), *self.udp.get(5)? == 1, sent))
    }

    /// Whose TCP connection it belongs to. Only device 0 ever talks to the listed address.
    fn session(&self) -> Option<usize> {
        match (self.protocol, self.target == LISTED) {
            (6, true) => Some(0),
            (6, false) => self.port.checked_sub(SESSION_PORT).map(usize::from),
            _ => None,
        }
    }
}

/// Keeps the totals of this moment, four times a second.
fn take_pictures(site: &Site, counts: &Arc<Counts>) -> impl FnMut() + Send + use<> {
    let counts = Arc::clone(counts);
    // a file opened in a namespace shows that namespace wherever it is read
    let open = |n: usize| site.device(n).enter(|| File::open("/proc/thread-self/net/dev").ok());
    let mut links: Vec<Option<File>> = (0..counts.devices.len()).map(open).collect();
    move || {
        let sent = links
            .iter_mut()
            .map(|link| link.as_mut().and_then(packets_out).unwrap_or_default())
            .collect();
        let arrived = counts.devices.iter();
        let sample = Sample {
            at: counts.began.elapsed().as_secs_f64(),
            sent,
            arrived: arrived.map(|device| device.arrived.load(Ordering::Relaxed)).collect(),
        };
        lock(&counts.samples).push(sample);
        std::thread::sleep(PICTURE);
    }
}

/// Packets sent on eth0 (proc_pid_net(5): the tenth number).
fn packets_out(link: &mut File) -> Option<u64> {
    link.rewind().ok()?;
    let mut text = String::new();
    link.read_to_string(&mut text).ok()?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("eth0:"))?;
    line.split_whitespace().nth(9)?.parse().ok()
}
