//! Entrances for the fuzz targets in `fuzz/`, compiled only there. Each takes the bytes somebody else controls and lets
//! them through everything that reads them; what must hold of the result is asserted.
#![allow(clippy::panic, clippy::unwrap_used, clippy::missing_panics_doc, reason = "a fuzz target stops at a finding")]

use std::path::Path;

use serde_json::Value;

use crate::config::{Mode, RawConfig, load_component};
use crate::devices::leases::{LeaseFormat, LeaseRule};
use crate::greengrass::shadow_document::ShadowDocument;
use crate::greengrass::topic;
use crate::report::{Format, Reply};

/// Rows of `/proc/net`.
pub fn proc_net(data: &[u8]) {
    crate::collect::fuzz_proc_net(data);
}

/// Neighbours, routes, name servers.
pub fn neighbours(data: &[u8]) {
    let _ = crate::collect::neighbours::parse_arp(data);
    crate::collect::uplink::fuzz(&String::from_utf8_lossy(data));
}

/// A lease file: every name that comes out is a thing name, whatever the file says.
pub fn leases(data: &[u8]) {
    let rule: LeaseRule = "site-{hostname}".parse().unwrap();
    let _ = crate::devices::leases::parse(LeaseFormat::Dnsmasq, data, &rule);
}

/// A registration, thing and message.
pub fn registration(data: &[u8]) {
    let (thing, message) = split(data);
    let _ = crate::devices::Registration::parse(&String::from_utf8_lossy(thing), message);
}

/// A stored shadow document, and a request to it. An update that is taken gives a document that can be read again.
pub fn shadow_document(data: &[u8]) {
    let (document, request) = split(data);
    let document = ShadowDocument::parse(document).unwrap_or_default();
    let _ = document.get(request);
    let _ = document.delete(request, 1);
    if let Ok(update) = document.update(request, 1) {
        let _ = update.document.delta();
        let text = serde_json::to_vec(&update.document.document()).unwrap();
        let _ = crate::quarantine::ShadowReading::parse(&text);
    }
}

/// A configuration as YAML, as JSON and as a nucleus gives it. What is taken is taken again, and means the same.
pub fn configuration(data: &[u8]) {
    let absent = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
    for name in ["c.yaml", "c.json"] {
        let Ok(raw) = RawConfig::from_bytes(Path::new(name), data) else { continue };
        if let Ok(config) = raw.resolve_includes(Path::new("/"), &absent).check(Mode::Standalone) {
            if config.include.is_empty() {
                let again = load_component(config.effective(), Path::new("/"), Mode::Standalone).unwrap();
                assert_eq!(again.effective(), config.effective());
            }
        }
    }
    if let Ok(value) = serde_json::from_slice::<Value>(data) {
        let _ = RawConfig::from_value(value).resolve_includes(Path::new("/"), &absent).check(Mode::Greengrass);
    }
}

/// Device Defender's answer, in both encodings, and the topic it came on.
pub fn reply(data: &[u8]) {
    for format in [Format::Json, Format::Cbor] {
        let _ = Reply::parse(data, format);
    }
    let _ = topic::parse(&String::from_utf8_lossy(data));
}

/// A slot of stored decisions, with the frame around it as the file has it, and as if the checksum were right.
pub fn store(data: &[u8]) {
    crate::quarantine::fuzz_store(data);
}

/// The first line and the rest.
fn split(data: &[u8]) -> (&[u8], &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}
