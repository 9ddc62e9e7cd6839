//! The grammar of a Defender report, every field and type.
//!
//! Source: AWS IoT developer guide, "Device metrics document specification". Stricter than AWS is known to be where a
//! sloppy report would be dropped without a word: unknown fields, mixed long and short names, empty objects, custom
//! values outside the characters and digits that are kept.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::{Map, Value};

/// The long or the short tag set; a document uses one of them throughout.
#[derive(Clone, Copy)]
struct Names {
    short: bool,
}

impl Names {
    fn tag(self, long: &'static str, short: &'static str) -> &'static str {
        if self.short { short } else { long }
    }
}

/// An object being read; what is not taken out of it by the end is unknown.
struct Fields<'a> {
    path: String,
    object: &'a Map<String, Value>,
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    fn of(value: &'a Value, path: &str) -> Result<Self, String> {
        let object = value.as_object().ok_or_else(|| format!("{path} is not an object"))?;
        if object.is_empty() {
            return Err(format!("{path} is empty"));
        }
        Ok(Self {
            path: path.to_owned(),
            object,
            known: Vec::new(),
        })
    }

    fn get(&mut self, name: &'static str) -> Option<&'a Value> {
        self.known.push(name);
        self.object.get(name)
    }

    fn required(&mut self, name: &'static str) -> Result<&'a Value, String> {
        let path = format!("{}.{name}", self.path);
        self.get(name).ok_or_else(|| format!("{path} is missing"))
    }

    fn number(&mut self, name: &'static str) -> Result<Option<u64>, String> {
        let path = format!("{}.{name}", self.path);
        self.get(name)
            .map(|value| {
                value
                    .as_u64()
                    .ok_or_else(|| format!("{path} is not an integer of at least 0: {value}"))
            })
            .transpose()
    }

    fn text(&mut self, name: &'static str) -> Result<Option<&'a str>, String> {
        let path = format!("{}.{name}", self.path);
        self.get(name)
            .map(|value| {
                let text = value.as_str().filter(|text| !text.is_empty());
                text.ok_or_else(|| format!("{path} is not a text: {value}"))
            })
            .transpose()
    }

    fn end(self) -> Result<(), String> {
        match self.object.keys().find(|key| !self.known.contains(&key.as_str())) {
            Some(unknown) => Err(format!("{}.{unknown} is not a field of a report", self.path)),
            None => Ok(()),
        }
    }
}

/// Checks a whole document and returns its report_id.
pub fn check_document(document: &Value) -> Result<u64, String> {
    let names = Names {
        short: document.get("hed").is_some(),
    };
    let mut top = Fields::of(document, "report")?;
    let mut header = Fields::of(top.required(names.tag("header", "hed"))?, "header")?;
    let report_id = header
        .number(names.tag("report_id", "rid"))?
        .ok_or("header.report_id is missing")?;
    if report_id == 0 {
        return Err("header.report_id is 0".to_owned());
    }
    let version = header
        .text(names.tag("version", "v"))?
        .ok_or("header.version is missing")?;
    let parts: Vec<&str> = version.split('.').collect();
    if parts.len() != 2
        || parts
            .iter()
            .any(|part| part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()))
    {
        return Err(format!("header.version {version} is not Major.Minor"));
    }
    header.end()?;
    let metrics = top.get(names.tag("metrics", "met"));
    let custom = top.get(names.tag("custom_metrics", "cmet"));
    top.end()?;
    if metrics.is_none() && custom.is_none() {
        return Err("neither metrics nor custom_metrics".to_owned());
    }
    metrics.map_or(Ok(()), |value| check_metrics(value, names))?;
    custom.map_or(Ok(()), check_custom)?;
    Ok(report_id)
}

fn check_metrics(value: &Value, names: Names) -> Result<(), String> {
    let mut metrics = Fields::of(value, "metrics")?;
    if let Some(value) = metrics.get(names.tag("tcp_connections", "tc")) {
        let mut tcp = Fields::of(value, "tcp_connections")?;
        if let Some(value) = tcp.get(names.tag("established_connections", "ec")) {
            let mut established = Fields::of(value, "established_connections")?;
            let list = established.get(names.tag("connections", "cs"));
            check_list(list, &mut established, names, |item| check_connection(item, names))?;
        }
        tcp.end()?;
    }
    for tag in [
        names.tag("listening_tcp_ports", "tp"),
        names.tag("listening_udp_ports", "up"),
    ] {
        if let Some(value) = metrics.get(tag) {
            let mut listening = Fields::of(value, tag)?;
            let list = listening.get(names.tag("ports", "pts"));
            check_list(list, &mut listening, names, |item| check_port(item, names))?;
        }
    }
    if let Some(value) = metrics.get(names.tag("network_stats", "ns")) {
        let mut stats = Fields::of(value, "network_stats")?;
        for (long, short) in [
            ("bytes_in", "bi"),
            ("bytes_out", "bo"),
            ("packets_in", "pi"),
            ("packets_out", "po"),
        ] {
            stats.number(names.tag(long, short))?;
        }
        stats.end()?;
    }
    metrics.end()
}

/// A list beside its `total`, which counts what exists and so is never below what is listed.
fn check_list(
    list: Option<&Value>,
    fields: &mut Fields<'_>,
    names: Names,
    check: impl Fn(&Value) -> Result<(), String>,
) -> Result<(), String> {
    let total = fields.number(names.tag("total", "t"))?;
    if let Some(list) = list {
        let items = list
            .as_array()
            .ok_or_else(|| format!("{}: the list is not a list", fields.path))?;
        items.iter().try_for_each(check)?;
        if let Some(total) = total.filter(|total| u64::try_from(items.len()).unwrap() > *total) {
            return Err(format!("{}: {} listed, total {total}", fields.path, items.len()));
        }
    }
    let known = std::mem::take(&mut fields.known);
    Fields {
        path: fields.path.clone(),
        object: fields.object,
        known,
    }
    .end()
}

fn check_connection(value: &Value, names: Names) -> Result<(), String> {
    let mut connection = Fields::of(value, "connection")?;
    let remote = connection
        .text(names.tag("remote_addr", "rad"))?
        .ok_or("connection.remote_addr is missing")?;
    let (address, port) = remote
        .rsplit_once(':')
        .ok_or_else(|| format!("remote_addr {remote} has no port"))?;
    let known = match address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(v6) => v6.parse::<Ipv6Addr>().is_ok_and(|v6| v6.to_ipv4_mapped().is_none()),
        None => address.parse::<Ipv4Addr>().is_ok(),
    };
    if !known || port.parse::<u16>().map_or(true, |port| port == 0) {
        return Err(format!("remote_addr {remote} is neither v4:port nor [v6]:port"));
    }
    if let Some(port) = connection
        .number(names.tag("local_port", "lp"))?
        .filter(|port| *port > 65_535)
    {
        return Err(format!("connection.local_port {port}"));
    }
    check_interface(connection.text(names.tag("local_interface", "li"))?)?;
    connection.end()
}

fn check_port(value: &Value, names: Names) -> Result<(), String> {
    let mut entry = Fields::of(value, "port")?;
    let port = entry
        .number(names.tag("port", "pt"))?
        .ok_or("ports[].port is missing")?;
    if !(1..=65_535).contains(&port) {
        return Err(format!("ports[].port {port}"));
    }
    check_interface(entry.text(names.tag("interface", "if"))?)?;
    entry.end()
}

/// An interface name, not an address (AWS's own agents send `0.0.0.0` and `::` here).
fn check_interface(name: Option<&str>) -> Result<(), String> {
    match name {
        Some(name) if name.parse::<std::net::IpAddr>().is_ok() => Err(format!("interface {name} is an address")),
        Some(name) if name.len() > 15 => Err(format!("interface {name} is longer than the kernel allows")),
        _ => Ok(()),
    }
}

fn check_custom(value: &Value) -> Result<(), String> {
    let object = value.as_object().filter(|object| !object.is_empty());
    for (name, value) in object.ok_or("custom_metrics is no object or empty")? {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b":_-".contains(&byte);
        if !(1..=128).contains(&name.len()) || !name.bytes().all(legal) || name.starts_with("aws:") {
            return Err(format!("custom metric name {name}"));
        }
        let [only] = value.as_array().map_or(&[][..], Vec::as_slice) else {
            return Err(format!("custom metric {name} is not a list of one object"));
        };
        let entry = only
            .as_object()
            .ok_or_else(|| format!("custom metric {name}: no object in the list"))?;
        let mut entries = entry.iter();
        let (Some((kind, value)), None) = (entries.next(), entries.next()) else {
            return Err(format!("custom metric {name}: not exactly one value"));
        };
        check_custom_value(kind, value).map_err(|problem| format!("custom metric {name}: {problem}"))?;
    }
    Ok(())
}

fn check_custom_value(kind: &str, value: &Value) -> Result<(), String> {
    let list = |check: fn(&Value) -> bool| {
        let items = value.as_array().ok_or_else(|| format!("{kind} is not a list"))?;
        items
            .iter()
            .find(|item| !check(item))
            .map_or(Ok(()), |bad| Err(format!("{kind} holds {bad}")))
    };
    match kind {
        "number" if is_kept_number(value) => Ok(()),
        "number" => Err(format!("number {value}")),
        "number_list" => list(is_kept_number),
        "string_list" => list(|item| {
            let kept = |byte: u8| byte.is_ascii_alphanumeric() || b":_-/.".contains(&byte);
            item.as_str()
                .is_some_and(|text| !text.is_empty() && text.bytes().all(kept))
        }),
        "ip_list" => list(|item| {
            item.as_str()
                .is_some_and(|text| text.parse::<std::net::IpAddr>().is_ok())
        }),
        other => Err(format!("value kind {other}")),
    }
}

/// AWS keeps at most 15 significant digits.
fn is_kept_number(value: &Value) -> bool {
    let digits = |text: &str| text.bytes().filter(u8::is_ascii_digit).count();
    value.as_number().is_some_and(|number| {
        let text = number.to_string();
        let mantissa = text
            .split(['e', 'E'])
            .next()
            .unwrap_or_default()
            .trim_start_matches(['-', '0', '.']);
        digits(mantissa) <= 15
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::check_document;

    fn long() -> Value {
        json!({
            "header": {"report_id": 1_530_304_554, "version": "1.0"},
            "metrics": {
                "listening_tcp_ports": {"ports": [{"interface": "eth0", "port": 24800}, {"port": 22}], "total": 2},
                "listening_udp_ports": {"ports": [], "total": 0},
                "network_stats": {"bytes_in": 1, "bytes_out": 2, "packets_in": 3, "packets_out": 4},
                "tcp_connections": {"established_connections": {"connections": [
                    {"local_interface": "eth0", "local_port": 80, "remote_addr": "192.0.2.1:8000"},
                    {"remote_addr": "[2001:db8::1]:8000"}], "total": 5}}
            },
            "custom_metrics": {
                "a": [{"number": -1.5}], "b": [{"number_list": [1, 2]}],
                "c": [{"string_list": ["x_y"]}], "d": [{"ip_list": ["192.0.2.1", "2001:db8::1"]}]
            }
        })
    }

    fn short() -> Value {
        json!({"hed": {"rid": 1, "v": "1.0"}, "met": {
            "tp": {"pts": [{"if": "eth0", "pt": 1}], "t": 1}, "up": {"pts": [], "t": 0},
            "ns": {"bi": 1, "bo": 2, "pi": 3, "po": 4},
            "tc": {"ec": {"cs": [{"rad": "192.0.2.1:1", "lp": 1, "li": "eth0"}], "t": 1}}},
            "cmet": {"a": [{"number": 1}]}})
    }

    #[test]
    fn complete_documents_pass() {
        assert_eq!(check_document(&long()), Ok(1_530_304_554));
        assert_eq!(check_document(&short()), Ok(1));
    }

    /// Each case is the complete document with one thing changed, so nothing else can be why it is refused.
    #[test]
    fn one_mistake_each_is_refused() {
        let tcp = "/metrics/tcp_connections/established_connections";
        let listed = "/metrics/listening_tcp_ports";
        for (pointer, value, problem) in [
            ("/header/report_id", json!(0), "report_id"),
            ("/header/report_id", json!(-1), "report_id"),
            ("/header/report_id", json!("1"), "report_id"),
            ("/header/report_id", json!(1.5), "report_id"),
            ("/header/version", json!("1"), "version"),
            ("/header/version", json!(1.0), "version"),
            ("/header", json!({"report_id": 1}), "version is missing"),
            (
                "/header",
                json!({"report_id": 1, "version": "1.0", "more": 1}),
                "more is not a field",
            ),
            ("/metrics", json!({}), "empty"),
            ("/metrics", Value::Null, "not an object"),
            ("/metrics", json!({"ns": {"bytes_in": 1}}), "ns is not a field"),
            ("/metrics/network_stats", json!({"bi": 1}), "bi is not a field"),
            ("/metrics/network_stats/bytes_in", json!(-1), "bytes_in"),
            ("/metrics/network_stats/bytes_in", Value::Null, "bytes_in"),
            (&format!("{listed}/total"), json!(1), "2 listed, total 1"),
            (&format!("{listed}/ports/0/port"), json!(0), "port 0"),
            (&format!("{listed}/ports/0/port"), json!(65_536), "65536"),
            (&format!("{listed}/ports/0/port"), json!("22"), "port"),
            (
                &format!("{listed}/ports/0/interface"),
                json!("0.0.0.0"),
                "is an address",
            ),
            (&format!("{listed}/ports/0/interface"), Value::Null, "interface"),
            (
                &format!("{listed}/ports/0"),
                json!({"interface": "eth0"}),
                "port is missing",
            ),
            (
                &format!("{tcp}/connections/0/remote_addr"),
                json!("2001:db8::1:8000"),
                "remote_addr",
            ),
            (
                &format!("{tcp}/connections/0/remote_addr"),
                json!("[::ffff:192.0.2.1]:1"),
                "remote_addr",
            ),
            (
                &format!("{tcp}/connections/0/remote_addr"),
                json!("192.0.2.1"),
                "remote_addr",
            ),
            (&format!("{tcp}/connections/0/local_port"), json!("80"), "local_port"),
            (
                &format!("{tcp}/connections/0"),
                json!({"local_port": 1}),
                "remote_addr is missing",
            ),
            (&format!("{tcp}/connections"), json!({}), "not a list"),
            ("/custom_metrics", json!({}), "empty"),
            ("/custom_metrics/a", json!({"number": 1}), "list of one object"),
            (
                "/custom_metrics/a",
                json!([{"number": 1}, {"number": 2}]),
                "list of one object",
            ),
            (
                "/custom_metrics/a",
                json!([{"number": 1, "ip_list": []}]),
                "exactly one",
            ),
            ("/custom_metrics/a", json!([{"numbers": [1]}]), "value kind"),
            ("/custom_metrics/a", json!([{"number": "1"}]), "number"),
            (
                "/custom_metrics/a",
                json!([{"number": 1_234_567_890_123_456_u64}]),
                "number",
            ),
            (
                "/custom_metrics/a",
                json!([{"string_list": ["two words"]}]),
                "string_list",
            ),
            ("/custom_metrics/a", json!([{"ip_list": ["10.0.0.0/8"]}]), "ip_list"),
            ("/custom_metrics", json!({"aws:a": [{"number": 1}]}), "name"),
            ("/custom_metrics", json!({"a b": [{"number": 1}]}), "name"),
        ] {
            let mut document = long();
            *document.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
            let refused = check_document(&document).expect_err(pointer);
            assert!(refused.contains(problem), "{pointer}: {refused}");
        }
        assert!(check_document(&json!({"header": {"report_id": 1, "version": "1.0"}})).is_err());
        assert!(check_document(&json!([])).is_err());
    }
}
