//! Golden reports: `tests/golden/report/<case>/reading.json` encoded in both formats and both spellings must give the
//! files beside it, byte for byte. `UPDATE_GOLDEN=1` writes them anew; read the difference before committing it.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test may stop at the first surprise, in its helpers too"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use edge_warden::model::{Connection, Counters, CustomValue, ListeningPort, Measured, Missing, Reason, ThingReading};
use edge_warden::report::{Format, Names, Report, encode};
use serde::Deserialize;
use serde_json::Value;

/// A reading as a test writes it down. A block that is not there was not measured.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Case {
    /// What the case is about, for the reader.
    #[serde(rename = "_")]
    _about: String,
    report_id: u64,
    #[serde(default)]
    max_bytes: Option<usize>,
    baseline: Option<Counters>,
    traffic: Option<Counters>,
    established: Option<Vec<CaseConnection>>,
    listening_tcp: Option<Vec<CasePort>>,
    listening_udp: Option<Vec<CasePort>>,
    #[serde(default)]
    custom: BTreeMap<String, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CaseConnection {
    remote: String,
    local_port: u16,
    local_interface: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CasePort {
    port: u16,
    interface: Option<String>,
}

fn measured<A, B>(block: Option<A>, convert: impl FnOnce(A) -> B) -> Measured<B> {
    block
        .map(convert)
        .ok_or_else(|| Missing::new("golden case", Reason::Denied, "left out on purpose"))
}

fn ports(block: Option<Vec<CasePort>>) -> Measured<Vec<ListeningPort>> {
    let convert = |CasePort { port, interface }| ListeningPort { port, interface };
    measured(block, |ports| ports.into_iter().map(convert).collect())
}

fn custom(value: &Value) -> CustomValue {
    let (kind, value) = value
        .as_object()
        .and_then(|object| object.iter().next())
        .expect("one key: the kind");
    let list = || value.as_array().expect("a list").iter();
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    match kind.as_str() {
        "number" => CustomValue::Number(value.as_f64().expect("a number")),
        "number_list" => CustomValue::NumberList(list().map(|one| one.as_f64().expect("a number")).collect()),
        "string_list" => CustomValue::StringList(list().map(text).collect()),
        "ip_list" => CustomValue::IpList(list().map(|one| text(one).parse().expect("an address")).collect()),
        other => panic!("custom metric of kind {other}"),
    }
}

impl Case {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    fn report(self) -> Report {
        let connection = |one: CaseConnection| Connection {
            remote: one.remote.parse().expect("ip:port"),
            local_port: one.local_port,
            local_interface: one.local_interface,
        };
        let reading = ThingReading {
            traffic: measured(self.traffic, |traffic| traffic),
            established: measured(self.established, |all| all.into_iter().map(connection).collect()),
            established_unlisted: 0,
            listening_tcp: ports(self.listening_tcp),
            listening_udp: ports(self.listening_udp),
            custom: self
                .custom
                .iter()
                .map(|(name, value)| (name.clone(), custom(value)))
                .collect(),
        };
        Report::between(self.baseline, &reading, self.report_id)
    }
}

/// Hexadecimal, 32 bytes a line, so that a difference can be read.
fn hexadecimal(bytes: &[u8]) -> String {
    bytes.chunks(32).fold(String::new(), |mut text, line| {
        for byte in line {
            write!(text, "{byte:02x}").expect("a String takes everything");
        }
        text.push('\n');
        text
    })
}

fn cases(kind: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(kind);
    let entries = fs::read_dir(&root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
    let mut cases: Vec<_> = entries
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.is_dir())
        .collect();
    cases.sort();
    cases
}

#[test]
fn reports() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let cases = cases("report");
    assert!(cases.len() >= 8, "only {} cases found", cases.len());
    let mut wrong = Vec::new();
    for case in cases {
        let read = Case::read(&case.join("reading.json"));
        let limit = read.max_bytes.unwrap_or(131_072);
        let report = read.report();
        for (file, format, names) in [
            ("long.json", Format::Json, Names::Long),
            ("short.json", Format::Json, Names::Short),
            ("long.cbor.hex", Format::Cbor, Names::Long),
            ("short.cbor.hex", Format::Cbor, Names::Short),
        ] {
            let path = case.join(file);
            let encoded = encode(&report, format, names, limit).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            assert!(encoded.bytes.len() <= limit, "{}", path.display());
            let text = match format {
                Format::Json => String::from_utf8(encoded.bytes).expect("JSON is UTF-8") + "\n",
                Format::Cbor => hexadecimal(&encoded.bytes),
            };
            if update {
                fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            } else if fs::read_to_string(&path).unwrap_or_default() != text {
                wrong.push(format!("{} should now be:\n{text}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The page of the AWS developer guide that shows a report shows this one.
#[test]
fn the_aws_example_is_what_we_write() {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/report/aws-example");
    let ours: Value = serde_json::from_str(&fs::read_to_string(case.join("long.json")).unwrap()).unwrap();
    let aws = serde_json::json!({
        "header": {"report_id": 1_530_304_554, "version": "1.0"},
        "metrics": {
            "listening_tcp_ports": {"ports": [{"interface": "eth0", "port": 22}], "total": 1},
            "listening_udp_ports": {"ports": [{"interface": "eth0", "port": 5353}], "total": 1},
            "network_stats": {"bytes_in": 29_358_693_495_u64, "bytes_out": 26_485_035,
                              "packets_in": 10_013_573_555_u64, "packets_out": 11_382_615},
            "tcp_connections": {"established_connections": {
                "connections": [{"local_interface": "eth0", "local_port": 80, "remote_addr": "192.168.0.1:8000"}],
                "total": 1}}
        }
    });
    assert_eq!(ours, aws);
}
