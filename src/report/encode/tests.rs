use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::*;
use crate::model::{Counters, Missing, Reason, ThingReading};

const ALL: [(Format, Names); 4] = [
    (Format::Json, Names::Long),
    (Format::Json, Names::Short),
    (Format::Cbor, Names::Long),
    (Format::Cbor, Names::Short),
];

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
        local_interface: Some("eth0".into()),
    }
}

fn listening(port: u16, interface: Option<&str>) -> ListeningPort {
    ListeningPort {
        port,
        interface: interface.map(str::to_owned),
    }
}

fn decoded(encoded: &Encoded, format: Format) -> Value {
    match format {
        Format::Json => serde_json::from_slice(&encoded.bytes).unwrap(),
        Format::Cbor => ciborium::from_reader(&encoded.bytes[..]).unwrap(),
    }
}

fn document(reading: &ThingReading, names: Names) -> Value {
    let report = Report::between(Some(Counters::default()), reading, 7);
    decoded(&encode(&report, Format::Json, names, 1_000_000).unwrap(), Format::Json)
}

/// All keys anywhere in the document outside the custom metrics.
fn keys(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                into.insert(key.clone());
                if !matches!(key.as_str(), "cmet" | "custom_metrics") {
                    keys(value, into);
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| keys(value, into)),
        _ => {}
    }
}

fn full() -> ThingReading {
    let mut reading = reading();
    reading.established = Ok(vec![to("8.8.8.8:443")]);
    reading.listening_tcp = Ok(vec![listening(22, Some("eth0"))]);
    reading.listening_udp = Ok(vec![listening(53, Some("eth0"))]);
    reading.custom.insert("cpu".into(), CustomValue::Number(1.5));
    reading
}

#[test]
fn d2_01_short_names_survive_a_second_sample() {
    let mut second = full();
    let baseline = Counters {
        bytes_in: 10,
        ..Counters::default()
    };
    second.traffic = Ok(Counters {
        bytes_in: 25,
        ..Counters::default()
    });
    let report = Report::between(Some(baseline), &second, 8);
    let encoded = encode(&report, Format::Json, Names::Short, 10_000).unwrap();
    assert_eq!(decoded(&encoded, Format::Json)["met"]["ns"]["bi"], 15);
}

#[test]
fn d2_02_no_long_name_is_left_among_short_ones() {
    let mut found = BTreeSet::new();
    keys(&document(&full(), Names::Short), &mut found);
    let all_short = "hed rid v met cmet tc ec cs rad lp li t tp up pts pt if ns bi bo pi po";
    assert_eq!(found, all_short.split(' ').map(str::to_owned).collect());

    let mut found = BTreeSet::new();
    keys(&document(&full(), Names::Long), &mut found);
    assert_eq!(found.len(), 22);
    assert!(found.iter().all(|key| key.len() > 3), "{found:?}");
}

#[test]
fn d2_05_an_unknown_interface_is_left_out_never_null_or_an_address() {
    let mut reading = reading();
    reading.listening_tcp = Ok(vec![listening(22, None)]);
    reading.established = Ok(vec![Connection {
        local_interface: None,
        ..to("8.8.8.8:443")
    }]);
    let document = document(&reading, Names::Long);
    assert_eq!(
        document["metrics"]["listening_tcp_ports"]["ports"],
        serde_json::json!([{"port": 22}])
    );
    assert_eq!(
        document["metrics"]["tcp_connections"]["established_connections"]["connections"],
        serde_json::json!([{"local_port": 40_000, "remote_addr": "8.8.8.8:443"}])
    );
}

#[test]
fn d2_06_ipv6_is_bracketed_without_zone_and_mapped_ipv4_is_ipv4() {
    assert_eq!(remote_addr("[2001:db8::1]:443".parse().unwrap()), "[2001:db8::1]:443");
    assert_eq!(remote_addr("[fe80::1%3]:443".parse().unwrap()), "[fe80::1]:443");
    let mut reading = reading();
    reading.established = Ok(vec![to("[::ffff:192.0.2.1]:80")]);
    let text = document(&reading, Names::Short).to_string();
    assert!(text.contains(r#""rad":"192.0.2.1:80""#), "{text}");
}

#[test]
fn d2_11_empty_lists_are_sent_with_total_zero() {
    let document = document(&reading(), Names::Long);
    let nothing = serde_json::json!({"ports": [], "total": 0});
    assert_eq!(document["metrics"]["listening_tcp_ports"], nothing);
    assert_eq!(document["metrics"]["listening_udp_ports"], nothing);
    assert_eq!(
        document["metrics"]["tcp_connections"],
        serde_json::json!({"established_connections": {"connections": [], "total": 0}})
    );
}

#[test]
fn d2_13_and_14_udp_ports_and_ipv6_connections_are_reported_in_their_own_lists() {
    let mut reading = reading();
    reading.listening_udp = Ok(vec![listening(5_353, None)]);
    reading.established = Ok(vec![to("[2001:db8::1]:443")]);
    let document = document(&reading, Names::Long);
    assert_eq!(document["metrics"]["listening_tcp_ports"]["total"], 0);
    assert_eq!(
        document["metrics"]["listening_udp_ports"]["ports"],
        serde_json::json!([{"port": 5_353}])
    );
    assert_eq!(
        document["metrics"]["tcp_connections"]["established_connections"]["total"],
        1
    );
}

#[test]
fn what_was_not_measured_is_absent() {
    let missing = Missing::new("/proc/net/udp", Reason::Denied, "EACCES");
    let mut reading = reading();
    reading.listening_udp = Err(missing.clone());
    reading.established = Err(missing);
    let document = document(&reading, Names::Long);
    let metrics = document["metrics"].as_object().unwrap();
    assert_eq!(
        metrics.keys().collect::<Vec<_>>(),
        ["listening_tcp_ports", "network_stats"]
    );
}

#[test]
fn one_of_the_two_blocks_always_exists() {
    let missing = || Missing::new("x", Reason::Absent, "");
    let mut nothing = ThingReading {
        traffic: Err(missing()),
        established: Err(missing()),
        established_unlisted: 0,
        listening_tcp: Err(missing()),
        listening_udp: Err(missing()),
        custom: BTreeMap::new(),
    };
    assert_eq!(
        document(&nothing, Names::Short),
        serde_json::json!({"hed": {"rid": 7, "v": "1.0"}, "met": {}})
    );
    nothing.custom.insert("n".into(), CustomValue::Number(3.0));
    assert_eq!(
        document(&nothing, Names::Short),
        serde_json::json!({"hed": {"rid": 7, "v": "1.0"}, "cmet": {"n": [{"number": 3}]}})
    );
}

#[test]
fn custom_values_are_one_element_arrays_with_long_keys_and_whole_numbers_stay_whole() {
    let mut reading = reading();
    reading.custom = BTreeMap::from([
        ("a".into(), CustomValue::Number(-4.0)),
        ("b".into(), CustomValue::NumberList(vec![1.0, 2.5, -0.0])),
        ("c".into(), CustomValue::StringList(vec!["x".into()])),
        (
            "d".into(),
            CustomValue::IpList(vec!["::ffff:10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()]),
        ),
    ]);
    for (names, key) in [(Names::Long, "custom_metrics"), (Names::Short, "cmet")] {
        assert_eq!(
            document(&reading, names)[key].to_string(),
            r#"{"a":[{"number":-4}],"b":[{"number_list":[1,2.5,0]}],"c":[{"string_list":["x"]}],"d":[{"ip_list":["10.0.0.1","fd00::1"]}]}"#
        );
    }
}

#[test]
fn d2_17_counters_beyond_53_bits_are_exact() {
    let mut reading = reading();
    reading.traffic = Ok(Counters {
        bytes_in: u64::MAX,
        bytes_out: (1 << 53) + 1,
        packets_in: 0,
        packets_out: 1,
    });
    let report = Report::between(Some(Counters::default()), &reading, 1);
    for (format, names) in ALL {
        let encoded = encode(&report, format, names, 10_000).unwrap();
        let document = decoded(&encoded, format);
        let stats = &document
            .pointer("/metrics/network_stats")
            .or_else(|| document.pointer("/met/ns"))
            .unwrap();
        let values: Vec<_> = stats
            .as_object()
            .unwrap()
            .values()
            .map(|value| value.as_u64().unwrap())
            .collect();
        assert_eq!(values, [u64::MAX, (1 << 53) + 1, 0, 1]);
    }
}

#[test]
fn cbor_has_definite_lengths_and_shortest_integers() {
    let report = Report::between(None, &reading(), 7);
    let encoded = encode(&report, Format::Cbor, Names::Short, 1_000).unwrap();
    // map(2) "hed": map(2) "rid": 7, "v": "1.0"
    assert!(
        encoded.bytes.starts_with(b"\xa2\x63hed\xa2\x63rid\x07\x61v\x631.0"),
        "{:02x?}",
        encoded.bytes
    );
    for indefinite in [0x9f_u8, 0xbf, 0xff] {
        assert!(!encoded.bytes.contains(&indefinite));
    }
}

fn many(connections: u16) -> ThingReading {
    let mut reading = reading();
    reading.listening_tcp = Ok((1..=20).map(|port| listening(port, Some("eth0"))).collect());
    reading.listening_udp = Ok((1..=10).map(|port| listening(port, None)).collect());
    reading.established = Ok((0..connections)
        .map(|n| {
            let [high, low] = n.to_be_bytes();
            let net = if n % 2 == 0 { 10 } else { 93 };
            to(&format!("{net}.0.{high}.{low}:443"))
        })
        .collect());
    reading.custom.insert("load".into(), CustomValue::Number(0.5));
    reading
        .custom
        .insert("programs".into(), CustomValue::StringList(vec!["sshd".into(); 20]));
    reading
}

fn list<'a>(document: &'a Value, long: &str, short: &str) -> &'a Vec<Value> {
    document
        .pointer(long)
        .or_else(|| document.pointer(short))
        .unwrap()
        .as_array()
        .unwrap()
}

const CONNECTIONS: (&str, &str) = (
    "/metrics/tcp_connections/established_connections/connections",
    "/met/tc/ec/cs",
);
const CONNECTION_TOTAL: (&str, &str) = ("/metrics/tcp_connections/established_connections/total", "/met/tc/ec/t");
const TCP: (&str, &str) = ("/metrics/listening_tcp_ports/ports", "/met/tp/pts");
const UDP: (&str, &str) = ("/metrics/listening_udp_ports/ports", "/met/up/pts");

#[test]
fn d2_16_a_hundred_thousand_connections_fit_the_broker_and_the_total_is_true() {
    let mut reading = many(0);
    reading.established = Ok((0..100_000_u32)
        .map(|n| to(&format!("{}:443", std::net::Ipv4Addr::from(0x0900_0000 + n))))
        .collect());
    let report = Report::between(None, &reading, 1);
    for (format, names) in ALL {
        let encoded = encode(&report, format, names, 131_072).unwrap();
        assert!(
            encoded.bytes.len() <= 131_072 && encoded.bytes.len() > 130_900,
            "{}",
            encoded.bytes.len()
        );
        let document = decoded(&encoded, format);
        let total = document
            .pointer(CONNECTION_TOTAL.0)
            .or_else(|| document.pointer(CONNECTION_TOTAL.1));
        assert_eq!(total.unwrap(), 100_000);
        let listed = list(&document, CONNECTIONS.0, CONNECTIONS.1).len();
        assert_eq!(listed as u64 + encoded.cut.unwrap().connections, 100_000);
    }
}

#[test]
fn cutting_takes_private_peers_first_then_all_connections_and_ports_last() {
    let report = Report::between(None, &many(40), 1);
    let at = |limit| {
        let encoded = encode(&report, Format::Json, Names::Long, limit).unwrap();
        (decoded(&encoded, Format::Json), encoded.cut)
    };
    let whole = encode(&report, Format::Json, Names::Long, usize::MAX)
        .unwrap()
        .bytes
        .len();
    assert_eq!(at(whole).1, None, "an exact fit is no cut");
    assert_eq!(at(whole - 1).1.unwrap().connections, 1);

    let (document, cut) = at(3_000);
    let listed = list(&document, CONNECTIONS.0, CONNECTIONS.1);
    assert!(listed.len() > 20 && listed.len() < 40, "{}", listed.len());
    assert_eq!(listed.len() as u64 + cut.unwrap().connections, 40);
    let external = listed
        .iter()
        .filter(|one| one["remote_addr"].as_str().unwrap().starts_with("93."));
    assert_eq!(
        external.count(),
        20,
        "all external peers are kept before any private one"
    );

    let (document, cut) = at(700);
    assert!(list(&document, CONNECTIONS.0, CONNECTIONS.1).is_empty());
    assert!(list(&document, TCP.0, TCP.1).len() < 20);
    assert!(document.get("custom_metrics").unwrap().get("load").is_some());
    assert_eq!(document["metrics"]["listening_tcp_ports"]["total"], 20);
    assert_eq!(cut.unwrap().custom, ["programs"]);
}

#[test]
fn an_oversized_custom_list_takes_no_connection_with_it() {
    let mut reading = many(10);
    reading
        .custom
        .insert("programs".into(), CustomValue::StringList(vec!["x".repeat(100); 100]));
    let report = Report::between(None, &reading, 1);
    let encoded = encode(&report, Format::Json, Names::Long, 7_000).unwrap();
    assert_eq!(
        encoded.cut,
        Some(Cut {
            custom: vec!["programs".into()],
            ..Cut::default()
        })
    );
}

#[test]
fn only_a_limit_below_the_bare_report_is_an_error() {
    let report = Report::between(None, &many(40), 1);
    let error = encode(&report, Format::Json, Names::Long, 100).unwrap_err();
    let EncodeError::TooLarge { needed, .. } = error else {
        panic!("{error}");
    };
    let encoded = encode(&report, Format::Json, Names::Long, needed).unwrap();
    assert_eq!(encoded.bytes.len(), needed);
    assert_eq!(encoded.cut.unwrap().tcp_ports, 20);
    assert!(matches!(
        encode(&report, Format::Json, Names::Long, needed - 1),
        Err(EncodeError::TooLarge { .. })
    ));
}

fn any_reading() -> impl Strategy<Value = ThingReading> {
    let address = prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(IpAddr::from),
        any::<u8>().prop_map(|n| IpAddr::from([10, 0, 0, n])),
    ];
    let interface = || proptest::option::of("[a-z]{1,15}");
    let connection =
        (address, any::<u16>(), any::<u16>(), interface()).prop_map(|(ip, port, local_port, interface)| Connection {
            remote: SocketAddr::new(ip, port),
            local_port,
            local_interface: interface,
        });
    let ports = || {
        prop::collection::vec(
            (1..=u16::MAX, interface()).prop_map(|(port, interface)| ListeningPort { port, interface }),
            0..40,
        )
    };
    let custom = prop_oneof![
        any::<f64>().prop_map(CustomValue::Number),
        prop::collection::vec(any::<f64>(), 0..5).prop_map(CustomValue::NumberList),
        prop::collection::vec("\\PC{0,20}", 0..5).prop_map(CustomValue::StringList),
        prop::collection::vec(any::<[u8; 4]>().prop_map(IpAddr::from), 0..5).prop_map(CustomValue::IpList),
    ];
    let customs = prop::collection::btree_map("[a-z]{1,8}", custom, 0..30);
    (prop::collection::vec(connection, 0..60), ports(), ports(), customs).prop_map(|(established, tcp, udp, custom)| {
        ThingReading {
            traffic: Ok(Counters::default()),
            established: Ok(established),
            established_unlisted: 0,
            listening_tcp: Ok(tcp),
            listening_udp: Ok(udp),
            custom,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn never_more_than_the_limit_totals_true_lists_cut_at_the_end_and_ports_last(
        reading in any_reading(), limit in 0..6_000_usize, which in 0..4_usize)
    {
        let (format, names) = ALL[which];
        let report = Report::between(Some(Counters::default()), &reading, 1);
        let whole = encode(&report, format, names, usize::MAX).unwrap();
        prop_assert_eq!(&whole.cut, &None);
        let all = decoded(&whole, format);
        match encode(&report, format, names, limit) {
            Ok(encoded) => {
                prop_assert!(encoded.bytes.len() <= limit);
                prop_assert_eq!(encoded.cut.is_none(), encoded.bytes == whole.bytes);
                prop_assert_eq!(encode(&report, format, names, limit).unwrap(), encoded.clone());
                let document = decoded(&encoded, format);
                for total in [CONNECTION_TOTAL, ("/metrics/listening_tcp_ports/total", "/met/tp/t"),
                              ("/metrics/listening_udp_ports/total", "/met/up/t")] {
                    let read = |from: &Value| from.pointer(total.0).or_else(|| from.pointer(total.1)).cloned();
                    prop_assert_eq!(read(&document), read(&all));
                    prop_assert!(read(&document).is_some());
                }
                for (long, short) in [CONNECTIONS, TCP, UDP] {
                    prop_assert!(list(&all, long, short).starts_with(list(&document, long, short)));
                }
                let cut = encoded.cut.unwrap_or_default();
                if cut.tcp_ports + cut.udp_ports > 0 {
                    prop_assert!(list(&document, CONNECTIONS.0, CONNECTIONS.1).is_empty());
                }
                if cut.tcp_ports > 0 {
                    prop_assert!(list(&document, UDP.0, UDP.1).is_empty());
                }
            }
            Err(EncodeError::TooLarge { needed, .. }) => prop_assert!(needed > limit),
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    #[test]
    fn a_larger_limit_never_keeps_less(reading in any_reading(), limits in (300..6_000_usize, 0..2_000_usize), which in 0..4_usize) {
        let (format, names) = ALL[which];
        let mut reading = reading;
        let cut = |reading: &ThingReading, limit| {
            let report = Report::between(None, reading, 1);
            encode(&report, format, names, limit).map(|encoded| encoded.cut.unwrap_or_default())
        };
        let (low, high) = (limits.0, limits.0 + limits.1);
        if let Ok(at_low) = cut(&reading, low) {
            let at_high = cut(&reading, high).unwrap();
            prop_assert!(at_high.custom.len() <= at_low.custom.len());
            if at_high.custom == at_low.custom {
                prop_assert!(at_high.connections <= at_low.connections);
                prop_assert!(at_high.tcp_ports <= at_low.tcp_ports);
                prop_assert!(at_high.udp_ports <= at_low.udp_ports);
            }
        }
        reading.custom.clear();
        if let Ok(at_low) = cut(&reading, low) {
            let at_high = cut(&reading, high).unwrap();
            prop_assert!(at_high.connections <= at_low.connections);
            prop_assert!(at_high.tcp_ports <= at_low.tcp_ports);
            prop_assert!(at_high.udp_ports <= at_low.udp_ports);
        }
    }
}
