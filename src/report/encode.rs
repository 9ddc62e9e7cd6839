//! The document as bytes: its spelling, its format, and the cut to a byte limit.

mod spell;

use std::collections::BTreeSet;
use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::spell::{CountedBytes, Object, cbor_head, custom_value, remote_addr};
use super::Report;
use super::keys::{Keys, LONG, SHORT};
use crate::model::{Connection, CustomValue, ListeningPort};

/// `Major.Minor` of the document format; every known agent sends this one.
const VERSION: &str = "1.0";

/// How a report (and the service's reply to it) is written; also the level of the MQTT topic that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// JSON, RFC 8259.
    #[default]
    Json,
    /// CBOR, RFC 8949: definite lengths, shortest integers, text keys.
    Cbor,
}

impl Format {
    /// `json` or `cbor`, as in the topic.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Cbor => "cbor",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which of the two spellings of the keys is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Names {
    /// `header`, `report_id`, ...
    #[default]
    Long,
    /// `hed`, `rid`, ...: about 40 % fewer bytes.
    Short,
}

/// An encoded report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The payload to publish.
    pub bytes: Vec<u8>,
    /// What had to be left out to keep to the limit; `None` when everything is in.
    pub cut: Option<Cut>,
}

/// What was left out of a report. The totals in it still count everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cut {
    /// Established connections not listed.
    pub connections: u64,
    /// Listening TCP ports not listed.
    pub tcp_ports: usize,
    /// Listening UDP ports not listed.
    pub udp_ports: usize,
    /// Custom metrics not sent: half a list would be a wrong value, and unlike the others it has no total.
    pub custom: Vec<String>,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} connections, {} TCP ports and {} UDP ports not listed",
            self.connections, self.tcp_ports, self.udp_ports
        )?;
        if !self.custom.is_empty() {
            write!(f, "; custom metrics not sent: {}", self.custom.join(", "))?;
        }
        Ok(())
    }
}

/// Why a report cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// Not even the header, the totals and the traffic fit.
    #[error("report {id}: {needed} bytes without any list, but at most {limit} are allowed (report.maxBytes)")]
    TooLarge {
        /// The report's id.
        id: u64,
        /// Size of the bare report in bytes.
        needed: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The JSON library failed.
    #[error("report {id}: cannot be written as JSON")]
    Json {
        /// The report's id.
        id: u64,
        /// The library's error.
        #[source]
        source: serde_json::Error,
    },
    /// The CBOR library failed.
    #[error("report {id}: cannot be written as CBOR")]
    Cbor {
        /// The report's id.
        id: u64,
        /// The library's error.
        #[source]
        source: ciborium::ser::Error<io::Error>,
    },
}

/// Writes `report` in at most `max_bytes` bytes. The same input gives the same bytes.
///
/// Room is given away in this order: header, totals and traffic; custom numbers; listening TCP ports; listening UDP
/// ports; custom lists, smallest first; established connections in the report's order. A list is cut at its end only,
/// totals always count everything, and no connection is listed while a port is not. A custom metric is sent whole or not
/// at all; one that does not fit leaves its room to the connections.
///
/// Every entry is measured once and nothing is encoded twice, so the cost is one pass over what is kept.
///
/// # Errors
/// [`EncodeError::TooLarge`] when even the bare report does not fit; else only what the libraries report.
pub fn encode(report: &Report, format: Format, names: Names, max_bytes: usize) -> Result<Encoded, EncodeError> {
    let keys = match names {
        Names::Long => &LONG,
        Names::Short => &SHORT,
    };
    let writer = Writer { report, format, keys };
    let kept = writer.fit(max_bytes)?;
    let mut bytes = Vec::new();
    writer.write(&writer.document(&kept), &mut bytes)?;
    if bytes.len() > max_bytes {
        // The sizes were added up wrongly; refusing is better than sending what the broker drops.
        return Err(writer.too_large(bytes.len(), max_bytes));
    }
    Ok(Encoded {
        bytes,
        cut: writer.cut(&kept),
    })
}

/// How much of each list goes in.
#[derive(Debug, Default)]
struct Kept<'a> {
    custom: BTreeSet<&'a str>,
    tcp: usize,
    udp: usize,
    connections: usize,
}

#[derive(Debug, Clone, Copy)]
struct Writer<'a> {
    report: &'a Report,
    format: Format,
    keys: &'static Keys,
}

impl<'a> Writer<'a> {
    fn fit(self, limit: usize) -> Result<Kept<'a>, EncodeError> {
        let mut kept = Kept::default();
        let bare = self.size(&self.document(&kept))?;
        if bare > limit {
            return Err(self.too_large(bare, limit));
        }
        // With all lists empty a document is cheap to measure whole; the lists are then added by arithmetic.
        let mut fixed = bare;
        let (lists, numbers): (Vec<_>, Vec<_>) = self
            .report
            .custom()
            .iter()
            .partition(|(_, value)| !matches!(value, CustomValue::Number(_)));
        for (name, _) in numbers {
            self.keep_custom(&mut kept, name, &mut fixed, limit)?;
        }

        let tcp = self.report.listening_tcp().unwrap_or_default();
        let udp = self.report.listening_udp().unwrap_or_default();
        let mut listed = 0;
        kept.tcp = self.prefix(tcp.iter().map(|port| self.port(port)), limit - fixed, &mut listed)?;
        if kept.tcp < tcp.len() {
            return Ok(kept);
        }
        kept.udp = self.prefix(udp.iter().map(|port| self.port(port)), limit - fixed, &mut listed)?;
        if kept.udp < udp.len() {
            return Ok(kept);
        }

        let mut by_size = Vec::with_capacity(lists.len());
        for (name, value) in lists {
            by_size.push((self.size(&custom_value(value))?, name));
        }
        by_size.sort_unstable();
        for (_, name) in by_size {
            self.keep_custom(&mut kept, name, &mut fixed, limit - listed)?;
        }

        let connections = self.report.established().unwrap_or_default();
        let room = limit - fixed - listed;
        kept.connections = self.prefix(connections.iter().map(|one| self.connection(one)), room, &mut 0)?;
        Ok(kept)
    }

    /// Keeps the custom metric if the document without port and connection lists then stays within `limit`, and notes
    /// its new size in `fixed`.
    fn keep_custom(
        self,
        kept: &mut Kept<'a>,
        name: &'a str,
        fixed: &mut usize,
        limit: usize,
    ) -> Result<(), EncodeError> {
        kept.custom.insert(name);
        let lists_empty = Kept {
            custom: std::mem::take(&mut kept.custom),
            ..Kept::default()
        };
        let size = self.size(&self.document(&lists_empty))?;
        kept.custom = lists_empty.custom;
        if size > limit {
            kept.custom.remove(name);
        } else {
            *fixed = size;
        }
        Ok(())
    }

    /// How many of `entries`, from the first, fit into `room` bytes beside what `used` already takes of it. `used`
    /// grows by what they add to a document in which their list is empty.
    fn prefix(self, entries: impl Iterator<Item = Value>, room: usize, used: &mut usize) -> Result<usize, EncodeError> {
        let (mut kept, mut sizes, mut cost) = (0, 0, 0);
        for entry in entries {
            sizes += self.size(&entry)?;
            let with_it = sizes
                + match self.format {
                    Format::Json => kept, // one comma between two entries
                    Format::Cbor => cbor_head(kept + 1) - cbor_head(0),
                };
            if *used + with_it > room {
                break;
            }
            kept += 1;
            cost = with_it;
        }
        *used += cost;
        Ok(kept)
    }

    fn cut(self, kept: &Kept<'_>) -> Option<Cut> {
        let left = |all: Option<usize>, kept: usize| all.unwrap_or(0).saturating_sub(kept);
        let cut = Cut {
            connections: self.report.established_total().saturating_sub(kept.connections as u64),
            tcp_ports: left(self.report.listening_tcp().map(<[_]>::len), kept.tcp),
            udp_ports: left(self.report.listening_udp().map(<[_]>::len), kept.udp),
            custom: self
                .report
                .custom()
                .keys()
                .filter(|name| !kept.custom.contains(name.as_str()))
                .cloned()
                .collect(),
        };
        (cut != Cut::default()).then_some(cut)
    }

    fn document(self, kept: &Kept<'_>) -> Value {
        let keys = self.keys;
        let mut document = Object::default();
        document.put(
            keys.header,
            Object::default()
                .with(keys.report_id, self.report.id())
                .with(keys.version, VERSION),
        );
        let mut metrics = Object::default();
        let lists = [
            (keys.listening_tcp_ports, self.report.listening_tcp(), kept.tcp),
            (keys.listening_udp_ports, self.report.listening_udp(), kept.udp),
        ];
        for (key, ports, kept) in lists {
            if let Some(ports) = ports {
                let listed: Vec<_> = ports.iter().take(kept).map(|port| self.port(port)).collect();
                metrics.put(
                    key,
                    Object::default().with(keys.ports, listed).with(keys.total, ports.len()),
                );
            }
        }
        if let Some(traffic) = self.report.traffic() {
            let stats = Object::default()
                .with(keys.bytes_in, traffic.bytes_in)
                .with(keys.bytes_out, traffic.bytes_out)
                .with(keys.packets_in, traffic.packets_in)
                .with(keys.packets_out, traffic.packets_out);
            metrics.put(keys.network_stats, stats);
        }
        if let Some(all) = self.report.established() {
            let listed: Vec<_> = all
                .iter()
                .take(kept.connections)
                .map(|one| self.connection(one))
                .collect();
            let established = Object::default()
                .with(keys.connections, listed)
                .with(keys.total, self.report.established_total());
            metrics.put(
                keys.tcp_connections,
                Object::default().with(keys.established_connections, established),
            );
        }
        let custom = self
            .report
            .custom()
            .iter()
            .filter(|(name, _)| kept.custom.contains(name.as_str()));
        let custom = custom.fold(Object::default(), |object, (name, value)| {
            object.with(name, custom_value(value))
        });
        // One of the two blocks must exist; an empty one is sent only where the document would else have none.
        if !metrics.0.is_empty() || custom.0.is_empty() {
            document.put(keys.metrics, metrics);
        }
        if !custom.0.is_empty() {
            document.put(keys.custom_metrics, custom);
        }
        document.into()
    }

    fn port(self, listening: &ListeningPort) -> Value {
        let mut entry = Object::default();
        if let Some(interface) = &listening.interface {
            entry.put(self.keys.interface, interface.as_str());
        }
        entry.with(self.keys.port, listening.port).into()
    }

    fn connection(self, connection: &Connection) -> Value {
        let mut entry = Object::default();
        if let Some(interface) = &connection.local_interface {
            entry.put(self.keys.local_interface, interface.as_str());
        }
        entry
            .with(self.keys.local_port, connection.local_port)
            .with(self.keys.remote_addr, remote_addr(connection.remote))
            .into()
    }

    fn size(self, value: &Value) -> Result<usize, EncodeError> {
        let mut counted = CountedBytes(0);
        self.write(value, &mut counted)?;
        Ok(counted.0)
    }

    fn write(self, value: &Value, to: impl io::Write) -> Result<(), EncodeError> {
        let id = self.report.id();
        match self.format {
            Format::Json => serde_json::to_writer(to, value).map_err(|source| EncodeError::Json { id, source }),
            Format::Cbor => ciborium::into_writer(value, to).map_err(|source| EncodeError::Cbor { id, source }),
        }
    }

    fn too_large(self, needed: usize, limit: usize) -> EncodeError {
        EncodeError::TooLarge {
            id: self.report.id(),
            needed,
            limit,
        }
    }
}

#[cfg(test)]
mod tests;
