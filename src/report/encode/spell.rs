//! How single values are spelled, and their sizes.

use std::io;
use std::net::{IpAddr, SocketAddr};

use serde_json::{Map, Value};

use crate::model::CustomValue;

/// 2^53: up to here every integer is a double of its own.
const EXACT_INTEGERS: f64 = 9_007_199_254_740_992.0;

/// `ip:port`, or `[ip]:port` for IPv6, where `ip:port` could be read two ways. A zone (`%eth0`) is left out: no AWS page
/// knows one, the CIDR behaviors the address is judged by have none, and `local_interface` already says it.
pub(super) fn remote_addr(remote: SocketAddr) -> String {
    match remote.ip() {
        IpAddr::V4(ip) => format!("{ip}:{}", remote.port()),
        IpAddr::V6(ip) => format!("[{ip}]:{}", remote.port()),
    }
}

/// A custom metric's value: always an array of one object, whose key is never shortened (a bare object is rejected as a
/// malformed report: developer guide, "Device Defender troubleshooting").
pub(super) fn custom_value(value: &CustomValue) -> Value {
    let (key, value) = match value {
        CustomValue::Number(value) => ("number", number(*value)),
        CustomValue::NumberList(list) => ("number_list", list.iter().map(|value| number(*value)).collect()),
        CustomValue::StringList(list) => ("string_list", list.iter().map(String::as_str).collect()),
        CustomValue::IpList(list) => ("ip_list", list.iter().map(|ip| ip.to_canonical().to_string()).collect()),
    };
    Value::Array(vec![Object::default().with(key, value).into()])
}

/// A whole number without a fraction is written without one: `3`, not `3.0`.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() <= EXACT_INTEGERS {
        #[allow(clippy::cast_possible_truncation, reason = "whole and within 2^53, as just checked")]
        let whole = value as i64;
        return whole.into();
    }
    value.into()
}

/// Bytes of a CBOR array's or map's head (RFC 8949, section 3).
pub(super) fn cbor_head(entries: usize) -> usize {
    match entries {
        0..=0x17 => 1,
        0x18..=0xff => 2,
        0x100..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    }
}

/// A JSON object under construction; keys stay in the order in which they were put.
#[derive(Debug, Default)]
pub(super) struct Object(pub(super) Map<String, Value>);

impl Object {
    pub(super) fn put(&mut self, key: &str, value: impl Into<Value>) {
        self.0.insert(key.to_owned(), value.into());
    }

    pub(super) fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.put(key, value);
        self
    }
}

impl From<Object> for Value {
    fn from(object: Object) -> Self {
        Self::Object(object.0)
    }
}

/// Where a value is written to when only its size is asked for.
#[derive(Debug)]
pub(super) struct CountedBytes(pub(super) usize);

impl io::Write for CountedBytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
