//! Devices that send all the time, and what of it arrives where. Every packet carries who sent it and when, so that a
//! leak is judged by when it was sent.

use std::net::Ipv6Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::schedule::Chance;
use crate::support::site::{Host, Site, Wire};
use crate::support::warden::now;

/// Destination port of the datagrams.
const PORT: u16 = 7778;
/// Ethertype of the frames within the LAN: one for local experiments (IEEE 802).
const EXPERIMENT: [u8; 2] = [0x88, 0xb6];
/// Rounds a second of each sender.
const RATE: u32 = 250;
/// Random MAC addresses a second.
const MACS: u32 = 20_000;

static BEGINNING: OnceLock<Instant> = OnceLock::new();

fn stamp() -> u64 {
    let passed = now().saturating_duration_since(*BEGINNING.get_or_init(now));
    u64::try_from(passed.as_nanos()).expect("a test is short")
}

fn ones_complement_sum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// An IPv4 datagram with two ports and a payload; without UDP checksum, as RFC 768 allows.
pub fn datagram_v4(from: &Host, gateway: &Host, to: [u8; 4], ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
    let mut packet = [gateway.mac.0, from.mac.0].concat();
    let length = 28 + payload.len() as u16;
    packet.extend([8, 0, 0x45, 0]);
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(from.v4.octets());
    packet.extend(to);
    let sum = !ones_complement_sum(&packet[14..34]);
    packet[24..26].copy_from_slice(&sum.to_be_bytes());
    packet.extend(ports.into_iter().flat_map(u16::to_be_bytes));
    packet.extend((length - 20).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

fn datagram_v6(from: &Host, gateway: &Host, to: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let length = 8 + payload.len() as u16;
    let mut udp = Vec::new();
    udp.extend(PORT.to_be_bytes());
    udp.extend(PORT.to_be_bytes());
    udp.extend(length.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(payload);
    let mut pseudo = [from.v6.octets(), to.octets()].concat();
    pseudo.extend(u32::from(length).to_be_bytes());
    pseudo.extend([0, 0, 0, 17]);
    pseudo.extend(&udp);
    let sum = match !ones_complement_sum(&pseudo) {
        0 => 0xffff,
        sum => sum,
    };
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    let mut packet = [gateway.mac.0, from.mac.0].concat();
    packet.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    packet.extend(length.to_be_bytes());
    packet.extend([17, 64]);
    packet.extend(from.v6.octets());
    packet.extend(to.octets());
    packet.extend(udp);
    packet
}

/// A payload that says who sends and when.
fn payload(who: u8) -> [u8; 9] {
    let mut payload = [who; 9];
    payload[..8].copy_from_slice(&stamp().to_be_bytes());
    payload
}

/// Something that goes on until it is dropped.
pub struct Going {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Going {
    /// Runs `round` with a wire of the device's link, again and again; it says how many packets went out.
    fn start(device: &Host, pause: Duration, mut round: impl FnMut(&Wire) -> u64 + Send + 'static) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count, interface) = (Arc::clone(&stop), Arc::clone(&sent), device.interface.clone());
        let thread = device.spawn(move || {
            let mut wire = None;
            while !stopped.load(Ordering::Relaxed) {
                wire = wire.or_else(|| Wire::try_open(&interface));
                let out = wire.as_ref().map_or(0, &mut round);
                if out == 0 {
                    wire = None; // the link may be away for the moment, and another when it is back
                }
                count.fetch_add(out, Ordering::Relaxed);
                // paces the load, nothing waits for it
                std::thread::sleep(pause);
            }
        });
        Self {
            stop,
            sent,
            thread: Some(thread),
        }
    }

    /// Packets put on the wire so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// A device that sends to the internet by both families and, when on the bridge, to a neighbour.
    pub fn device(site: &Site, n: usize) -> Self {
        let (device, internet) = (site.device(n).clone(), site.internet().clone());
        let gateway = if n == 3 { site.routed_port() } else { site.gateway() }.clone();
        let neighbour = (n != 3).then(|| site.device(1).mac);
        let who = u8::try_from(n).expect("four devices");
        let from = device.clone();
        Self::start(&device, Duration::from_secs(1) / RATE, move |wire| {
            let said = payload(who);
            let mut packets = vec![
                datagram_v4(&from, &gateway, internet.v4.octets(), [PORT, PORT], &said),
                datagram_v6(&from, &gateway, internet.v6, &said),
            ];
            if let Some(neighbour) = neighbour {
                let mut frame = [neighbour.0, from.mac.0].concat();
                frame.extend(EXPERIMENT);
                frame.extend(said);
                frame.resize(60, 0);
                packets.push(frame);
            }
            packets.iter().filter(|packet| wire.try_send(packet)).count() as u64
        })
    }

    /// [`MACS`] stations a second that were never seen before: they ask for the gateway, and send to the internet.
    pub fn random_macs(site: &Site, mut chance: Chance) -> Self {
        let (gateway, internet) = (site.gateway().clone(), site.internet().v4);
        let mut station = site.device(2).clone();
        let (start, mut made) = (now(), 0_u32);
        let device = station.clone();
        Self::start(&device, Duration::from_millis(1), move |wire| {
            let due = (start.elapsed().as_secs_f64() * f64::from(MACS)) as u32;
            let mut out = 0;
            // what a busy machine could not send in time is not made up for in one go
            for _ in 0..due.saturating_sub(made).min(MACS / 50) {
                let word = chance.word().to_be_bytes();
                station.mac.0 = [2, word[0], word[1], word[2], word[3], word[4]];
                station.v4 = [10, 20, word[5], word[6]].into();
                let packet = if word[7] & 1 == 0 {
                    let mut request = [gateway.mac.0, station.mac.0].concat();
                    request.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
                    request.extend(station.mac.0);
                    request.extend(station.v4.octets());
                    request.extend([0; 6]);
                    request.extend(gateway.v4.octets());
                    request
                } else {
                    datagram_v4(&station, &gateway, internet.octets(), [9, 9], &[0; 9])
                };
                out += u64::from(wire.try_send(&packet));
            }
            made = due;
            out
        })
    }

    /// New connections, as fast as the machine makes them.
    pub fn connections(site: &Site, mut chance: Chance) -> Self {
        let (device, gateway, internet) = (site.device(2).clone(), site.gateway().clone(), site.internet().v4);
        let from = device.clone();
        Self::start(&device, Duration::from_micros(100), move |wire| {
            let packets = (0..500).map(|_| {
                let word = chance.word();
                let ports = [word as u16, (word >> 16) as u16];
                datagram_v4(&from, &gateway, internet.octets(), ports, &[0; 9])
            });
            packets.filter(|packet| wire.try_send(packet)).count() as u64
        })
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A packet that arrived: who sent it, by which way it came, when it was sent.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    pub who: usize,
    pub way: &'static str,
    pub sent: Instant,
}

/// What arrives at the neighbour and in the internet.
pub struct Arrivals {
    seen: Arc<Mutex<Vec<Arrival>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// Who sent a frame that arrived, when, and how it came, if it is one of ours.
fn ours(frame: &[u8]) -> Option<(u8, u64, &'static str)> {
    let (start, way) = match frame.get(12..14)? {
        kind if kind == EXPERIMENT => (14, "neighbour"),
        [8, 0] if frame.get(23) == Some(&17) && frame.get(36..38)? == PORT.to_be_bytes() => (42, "internet v4"),
        [0x86, 0xdd] if frame.get(20) == Some(&17) && frame.get(56..58)? == PORT.to_be_bytes() => (62, "internet v6"),
        _ => return None,
    };
    let sent = u64::from_be_bytes(frame.get(start..start + 8)?.try_into().ok()?);
    Some((*frame.get(start + 8)?, sent, way))
}

impl Arrivals {
    pub fn watch(site: &Site) -> Self {
        let (seen, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let places = [site.device(1), site.internet()];
        let threads = places.map(|place| {
            let (wire, seen, stopped) = (place.wire(), Arc::clone(&seen), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    let mut found = None;
                    wire.receive(Duration::from_millis(50), |frame| {
                        found = ours(frame);
                        found.is_some()
                    });
                    if let Some((who, sent, way)) = found {
                        let sent = *BEGINNING.get_or_init(now) + Duration::from_nanos(sent);
                        let who = usize::from(who);
                        seen.lock().expect("arrivals").push(Arrival { who, way, sent });
                    }
                }
            })
        });
        Self {
            seen,
            stop,
            threads: threads.into(),
        }
    }

    /// Everything of a device that was sent after `since`.
    pub fn of(&self, who: usize, since: Instant) -> Vec<Arrival> {
        let seen = self.seen.lock().expect("arrivals");
        seen.iter()
            .filter(|arrival| arrival.who == who && arrival.sent > since)
            .copied()
            .collect()
    }

    /// Whether something sent after `since` came by each of these ways.
    pub fn open(&self, who: usize, ways: &[&str], since: Instant) -> bool {
        let arrived = self.of(who, since);
        ways.iter()
            .all(|way| arrived.iter().filter(|arrival| arrival.way == *way).count() >= 10)
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A leak made on purpose: what a cut device would have sent, put on the uplink by the gateway.
pub fn plant_leak(site: &Site, n: usize) {
    let mut gateway = site.gateway().clone();
    gateway.v4 = [203, 0, 113, 2].into();
    let who = u8::try_from(n).expect("four devices");
    let internet = site.internet();
    let packet = datagram_v4(&gateway, internet, internet.v4.octets(), [PORT, PORT], &payload(who));
    gateway.wire_on("wan0").send(&packet);
}
