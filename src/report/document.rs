//! What a report says, before it is spelled.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::model::{Connection, Counters, CustomValue, ListeningPort, Measured, ThingReading};

/// The Device Defender report of one thing: the content of the document, with every list complete and in the order in
/// which [`encode`](super::encode) keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    id: u64,
    traffic: Option<Counters>,
    established: Option<Vec<Connection>>,
    established_total: u64,
    listening_tcp: Option<Vec<ListeningPort>>,
    listening_udp: Option<Vec<ListeningPort>>,
    custom: BTreeMap<String, CustomValue>,
}

impl Report {
    /// The report of what happened from `baseline` (traffic totals at the end of the last accepted report) to `later`.
    ///
    /// A block whose source gave nothing is left out, never sent as zero. Traffic is left out too without a baseline,
    /// or when the totals are smaller than it: they then belong to another ledger.
    #[must_use]
    pub fn between(baseline: Option<Counters>, later: &ThingReading, id: u64) -> Self {
        let traffic = later.traffic.as_ref().ok().zip(baseline);
        Self {
            id,
            traffic: traffic.and_then(|(totals, baseline)| totals.since(baseline)),
            established: later.established.as_ref().ok().map(|all| most_relevant_first(all)),
            established_total: later.established_total().unwrap_or_default(),
            listening_tcp: ports(&later.listening_tcp),
            listening_udp: ports(&later.listening_udp),
            custom: later
                .custom
                .iter()
                .filter_map(|(name, value)| Some((name.clone(), sendable(value)?)))
                .collect(),
        }
    }

    /// The report id.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Traffic since the baseline; `None` when not known.
    #[must_use]
    pub fn traffic(&self) -> Option<Counters> {
        self.traffic
    }

    /// The listed established connections, most security-relevant first; `None` when not measured.
    #[must_use]
    pub fn established(&self) -> Option<&[Connection]> {
        self.established.as_deref()
    }

    /// How many connections are established, listed or not; zero when not measured.
    #[must_use]
    pub fn established_total(&self) -> u64 {
        self.established_total
    }

    /// All TCP ports listened on, each (port, interface) once, by number; `None` when not measured.
    #[must_use]
    pub fn listening_tcp(&self) -> Option<&[ListeningPort]> {
        self.listening_tcp.as_deref()
    }

    /// All UDP ports listened on, each (port, interface) once, by number; `None` when not measured.
    #[must_use]
    pub fn listening_udp(&self) -> Option<&[ListeningPort]> {
        self.listening_udp.as_deref()
    }

    /// The custom metrics, with numbers as they are sent (finite, 15 significant digits).
    #[must_use]
    pub fn custom(&self) -> &BTreeMap<String, CustomValue> {
        &self.custom
    }

    /// True when nothing at all was measured: such a report would be two empty braces.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.traffic.is_none()
            && self.established.is_none()
            && self.listening_tcp.is_none()
            && self.listening_udp.is_none()
            && self.custom.is_empty()
    }
}

/// By port number, and each (port, interface) once even if a source lists every `SO_REUSEPORT` socket.
fn ports(measured: &Measured<Vec<ListeningPort>>) -> Option<Vec<ListeningPort>> {
    let mut ports = measured.as_ref().ok()?.clone();
    ports.sort_unstable();
    ports.dedup();
    Some(ports)
}

/// How far away a peer is; nearer peers say less about an intruder and are cut first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Peer {
    External,
    Private,
    Host,
}

fn peer(address: IpAddr) -> Peer {
    let private = |v6: Ipv6Addr| v6.is_unique_local() || v6.is_unicast_link_local();
    match address {
        _ if address.is_loopback() || address.is_unspecified() => Peer::Host,
        IpAddr::V4(v4) if v4.is_private() || v4.is_link_local() => Peer::Private,
        // Carrier-grade NAT space, RFC 6598: 100.64.0.0/10.
        IpAddr::V4(v4) if matches!(v4.octets(), [100, 64..=127, _, _]) => Peer::Private,
        IpAddr::V6(v6) if private(v6) => Peer::Private,
        _ => Peer::External,
    }
}

/// The order in which connections are kept when not all fit: peers in the Internet, then private ones, then this host;
/// within each, every peer address once before any address a second time. One busy peer must not push the others off
/// the list that `aws:destination-ip-addresses` is judged by. The same connections give the same order.
fn most_relevant_first(connections: &[Connection]) -> Vec<Connection> {
    struct Ranked<'a> {
        peer: Peer,
        repeat: usize,
        remote: SocketAddr,
        of: &'a Connection,
    }
    let mut ordered: Vec<Ranked<'_>> = connections
        .iter()
        .map(|of| {
            let address = of.remote.ip().to_canonical();
            Ranked {
                peer: peer(address),
                repeat: 0,
                remote: SocketAddr::new(address, of.remote.port()),
                of,
            }
        })
        .collect();
    // The collector's lists are sorted by address already, which a stable sort makes use of.
    ordered.sort_by(|a, b| {
        (a.peer.cmp(&b.peer))
            .then_with(|| a.remote.cmp(&b.remote))
            .then_with(|| (a.of.local_port, &a.of.local_interface).cmp(&(b.of.local_port, &b.of.local_interface)))
    });
    let mut previous: Option<(IpAddr, usize)> = None;
    for Ranked { repeat, remote, .. } in &mut ordered {
        *repeat = match previous {
            Some((same, seen)) if same == remote.ip() => seen + 1,
            _ => 0,
        };
        previous = Some((remote.ip(), *repeat));
    }
    ordered.sort_by_key(|ranked| (ranked.peer, ranked.repeat));
    let listed = |ranked: Ranked<'_>| Connection {
        remote: ranked.remote,
        ..ranked.of.clone()
    };
    ordered.into_iter().map(listed).collect()
}

/// The value as the service keeps it, or `None` when it cannot be sent at all (a number that is no number).
fn sendable(value: &CustomValue) -> Option<CustomValue> {
    Some(match value {
        CustomValue::Number(number) => CustomValue::Number(fifteen_digits(*number)?),
        CustomValue::NumberList(list) => {
            CustomValue::NumberList(list.iter().filter_map(|number| fifteen_digits(*number)).collect())
        }
        CustomValue::StringList(_) | CustomValue::IpList(_) => value.clone(),
    })
}

/// Rounded to 15 significant digits: numbers with more are accepted and then silently not kept (README of the
/// `mqtt5_basic_report` sample in aws-iot-device-sdk-cpp-v2). `None` for infinities and NaN.
fn fifteen_digits(number: f64) -> Option<f64> {
    if !number.is_finite() {
        return None;
    }
    // The way through text is the exact one: multiplying by powers of ten would round twice.
    let rounded: f64 = format!("{number:.14e}").parse().ok()?;
    // Rounding up the very largest double leaves the range.
    rounded.is_finite().then_some(rounded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Missing, Reason};

    fn reading() -> ThingReading {
        ThingReading {
            traffic: Ok(Counters::default()),
            established: Ok(Vec::new()),
            established_unlisted: 0,
            listening_tcp: Ok(Vec::new()),
            listening_udp: Ok(Vec::new()),
            custom: BTreeMap::new(),
        }
    }

    fn to(remote: &str) -> Connection {
        Connection {
            remote: remote.parse().unwrap(),
            local_port: 40_000,
            local_interface: None,
        }
    }

    fn order(remotes: &[&str]) -> Vec<String> {
        let all: Vec<_> = remotes.iter().map(|remote| to(remote)).collect();
        most_relevant_first(&all)
            .iter()
            .map(|connection| connection.remote.to_string())
            .collect()
    }

    #[test]
    fn external_peers_come_before_private_ones_and_those_before_this_host() {
        assert_eq!(
            order(&[
                "127.0.0.1:1",
                "[fe80::1]:1",
                "100.64.0.1:1",
                "169.254.1.1:1",
                "[fd00::1]:1",
                "10.0.0.1:1",
                "192.168.1.1:1",
                "[2001:db8::1]:1",
                "8.8.8.8:1",
                "[::1]:1",
            ]),
            [
                "8.8.8.8:1",
                "[2001:db8::1]:1",
                "10.0.0.1:1",
                "100.64.0.1:1",
                "169.254.1.1:1",
                "192.168.1.1:1",
                "[fd00::1]:1",
                "[fe80::1]:1",
                "127.0.0.1:1",
                "[::1]:1",
            ]
        );
    }

    #[test]
    fn every_peer_address_comes_once_before_any_comes_twice() {
        assert_eq!(
            order(&[
                "8.8.8.8:1",
                "8.8.8.8:2",
                "8.8.8.8:3",
                "9.9.9.9:1",
                "9.9.9.9:2",
                "10.0.0.1:1"
            ]),
            [
                "8.8.8.8:1",
                "9.9.9.9:1",
                "8.8.8.8:2",
                "9.9.9.9:2",
                "8.8.8.8:3",
                "10.0.0.1:1"
            ]
        );
    }

    #[test]
    fn d2_09_the_order_does_not_depend_on_the_order_of_the_sample() {
        let remotes = ["8.8.8.8:1", "10.0.0.1:1", "9.9.9.9:2", "8.8.8.8:3", "[2001:db8::1]:5"];
        let mut backwards = remotes;
        backwards.reverse();
        assert_eq!(order(&remotes), order(&backwards));
    }

    #[test]
    fn d2_03_a_reuse_port_listener_is_listed_and_counted_once() {
        let port = |interface: Option<&str>| ListeningPort {
            port: 8_080,
            interface: interface.map(str::to_owned),
        };
        let mut reading = reading();
        reading.listening_tcp = Ok(vec![port(None), port(Some("eth0")), port(None), port(None)]);
        let report = Report::between(None, &reading, 1);
        assert_eq!(report.listening_tcp(), Some(&[port(None), port(Some("eth0"))][..]));
    }

    #[test]
    fn d2_07_no_baseline_no_network_stats() {
        let mut reading = reading();
        let totals = Counters {
            bytes_in: 464_000_000,
            ..Counters::default()
        };
        reading.traffic = Ok(totals);
        assert_eq!(Report::between(None, &reading, 1).traffic(), None);
        assert_eq!(
            Report::between(Some(totals), &reading, 2).traffic(),
            Some(Counters::default())
        );
    }

    #[test]
    fn d2_17_totals_below_the_baseline_are_no_traffic_and_never_a_huge_number() {
        let baseline = Counters {
            packets_out: 1,
            ..Counters::default()
        };
        assert_eq!(Report::between(Some(baseline), &reading(), 1).traffic(), None);
    }

    #[test]
    fn what_was_not_measured_is_absent_and_what_is_empty_is_there() {
        let missing = || Missing::new("/proc/net/tcp", Reason::Denied, "EACCES");
        let nothing = ThingReading {
            traffic: Err(missing()),
            established: Err(missing()),
            established_unlisted: 0,
            listening_tcp: Err(missing()),
            listening_udp: Err(missing()),
            custom: BTreeMap::new(),
        };
        assert!(Report::between(Some(Counters::default()), &nothing, 1).is_empty());
        let empty = Report::between(None, &reading(), 1);
        assert!(!empty.is_empty());
        assert_eq!(empty.established(), Some(&[][..]));
    }

    #[test]
    fn the_total_counts_connections_that_are_not_listed() {
        let mut reading = reading();
        reading.established = Ok(vec![to("8.8.8.8:443")]);
        reading.established_unlisted = 5_904;
        let report = Report::between(None, &reading, 1);
        assert_eq!(
            (report.established().unwrap().len(), report.established_total()),
            (1, 5_905)
        );
    }

    #[test]
    fn custom_numbers_keep_fifteen_digits_and_what_is_no_number_is_left_out() {
        assert_eq!(fifteen_digits(0.1 + 0.2), Some(0.3));
        assert_eq!(fifteen_digits(-12.5), Some(-12.5));
        assert_eq!(fifteen_digits(1_234_567_890_123_456.0), Some(1_234_567_890_123_460.0));
        assert_eq!(fifteen_digits(f64::NAN), None);
        assert_eq!(fifteen_digits(f64::MAX), None);
        let mut reading = reading();
        reading.custom.insert("load".into(), CustomValue::Number(f64::INFINITY));
        reading
            .custom
            .insert("loads".into(), CustomValue::NumberList(vec![1.0, f64::NAN, 2.0]));
        let report = Report::between(None, &reading, 1);
        assert_eq!(
            report.custom(),
            &BTreeMap::from([("loads".to_owned(), CustomValue::NumberList(vec![1.0, 2.0]))])
        );
    }
}
