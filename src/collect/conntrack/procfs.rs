//! `/proc/net/nf_conntrack`, row by row.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::flow::{Endpoints, Flow, TcpState, Transport};
use crate::model::{Measured, Missing};

/// No row of the kernel's comes near this; what is longer is thrown away without being held.
const LONGEST_ROW: usize = 2048;

/// What became of the rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ParsedRows {
    /// Rows handed on.
    pub flows: u64,
    /// Rows that could not be read.
    pub skipped: u64,
}

/// Reads the table of the calling thread's network namespace below `proc`, handing every flow to `each`.
///
/// # Errors
/// The file is absent (no such kernel option, or the module is not loaded), denied, or cannot be read.
pub fn table(proc: &Path, each: impl FnMut(&Flow)) -> Measured<ParsedRows> {
    let path = proc.join("thread-self/net/nf_conntrack");
    let missing = |error: io::Error| Missing::from_io(path.display().to_string(), &error);
    let file = File::open(&path).map_err(missing)?;
    parse(BufReader::with_capacity(16 * 1024, file), each).map_err(missing)
}

/// Parses the table's text, holding one row at a time.
///
/// # Errors
/// Only those of `input`; a row that cannot be read is counted and skipped.
pub fn parse(mut input: impl BufRead, mut each: impl FnMut(&Flow)) -> io::Result<ParsedRows> {
    let mut rows = ParsedRows::default();
    let mut row = Vec::with_capacity(256);
    while next_row(&mut input, &mut row)? {
        if row.is_empty() {
            continue;
        }
        let flow = (row.len() <= LONGEST_ROW).then(|| std::str::from_utf8(&row).ok().and_then(parse_row));
        match flow.flatten() {
            Some(flow) => {
                rows.flows += 1;
                each(&flow);
            }
            None => rows.skipped += 1,
        }
    }
    Ok(rows)
}

/// Puts the next row into `row`, at most one byte more than [`LONGEST_ROW`] of it; false at the end.
fn next_row(input: &mut impl BufRead, row: &mut Vec<u8>) -> io::Result<bool> {
    row.clear();
    let mut any = false;
    loop {
        let available = match input.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if available.is_empty() {
            return Ok(any);
        }
        any = true;
        let end = available.iter().position(|byte| *byte == b'\n');
        let part = available.get(..end.unwrap_or(available.len())).unwrap_or_default();
        let room = (LONGEST_ROW + 1).saturating_sub(row.len());
        row.extend_from_slice(part.get(..room.min(part.len())).unwrap_or_default());
        let used = part.len() + usize::from(end.is_some());
        input.consume(used);
        if end.is_some() {
            return Ok(true);
        }
    }
}

#[derive(Default)]
struct Direction {
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
    source_port: u16,
    destination_port: u16,
}

impl Direction {
    fn endpoints(&self) -> Option<Endpoints> {
        Some(Endpoints {
            source: SocketAddr::new(self.source?, self.source_port),
            destination: SocketAddr::new(self.destination?, self.destination_port),
        })
    }
}

/// One row, as `ct_seq_show` writes it: family, number, protocol, number, timeout, state, the two directions, flags.
fn parse_row(row: &str) -> Option<Flow> {
    let mut words = row.split_ascii_whitespace();
    if !matches!(words.next()?, "ipv4" | "ipv6") {
        return None;
    }
    let _family_number = words.next()?;
    let _protocol = words.next()?;
    let transport = Transport::from_number(words.next()?.parse().ok()?);
    let (mut original, mut reply) = (Direction::default(), Direction::default());
    let (mut answered, mut assured, mut offloaded) = (true, false, false);
    let mut tcp_state = None;
    let mut in_reply = false;
    for word in words {
        match word {
            "[UNREPLIED]" => answered = false,
            "[ASSURED]" => assured = true,
            "[OFFLOAD]" | "[HW_OFFLOAD]" => offloaded = true,
            _ => {
                let Some((key, value)) = word.split_once('=') else {
                    if original.source.is_none() && transport == Transport::Tcp {
                        tcp_state = TcpState::from_word(word).or(tcp_state);
                    }
                    continue;
                };
                if key == "src" && original.source.is_some() {
                    in_reply = true;
                }
                let direction = if in_reply { &mut reply } else { &mut original };
                match key {
                    "src" => direction.source = Some(value.parse().ok()?),
                    "dst" => direction.destination = Some(value.parse().ok()?),
                    "sport" => direction.source_port = value.parse().ok()?,
                    "dport" => direction.destination_port = value.parse().ok()?,
                    _ => {}
                }
            }
        }
    }
    if offloaded && transport == Transport::Tcp {
        tcp_state = Some(TcpState::Established);
    }
    Some(Flow {
        transport,
        original: original.endpoints()?,
        reply: reply.endpoints()?,
        tcp_state,
        answered,
        assured,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROWS: &str = "\
ipv4     2 tcp      6 431999 ESTABLISHED src=10.0.0.5 dst=93.184.216.34 sport=40000 dport=443 \
src=93.184.216.34 dst=192.0.2.1 sport=443 dport=40000 [ASSURED] mark=0 zone=0 use=2
ipv4     2 udp      17 29 src=10.0.0.5 dst=192.0.2.9 sport=5353 dport=53 [UNREPLIED] src=192.0.2.9 dst=10.0.0.5 \
sport=53 dport=5353 mark=0 use=1
ipv6     10 tcp      6 src=fd00:0000:0000:0000:0000:0000:0000:0005 dst=2001:0db8:0000:0000:0000:0000:0000:0001 \
sport=40001 dport=8883 packets=1 bytes=60 src=2001:0db8:0000:0000:0000:0000:0000:0001 \
dst=fd00:0000:0000:0000:0000:0000:0000:0005 sport=8883 dport=40001 packets=1 bytes=60 [OFFLOAD] mark=0 use=3
ipv4     2 icmp     1 29 src=10.0.0.5 dst=192.0.2.9 type=8 code=0 id=7 src=192.0.2.9 dst=10.0.0.5 type=0 code=0 id=7 use=1
";

    fn flows(text: &[u8]) -> (Vec<Flow>, ParsedRows) {
        let mut flows = Vec::new();
        let rows = parse(text, |flow| flows.push(*flow)).unwrap();
        (flows, rows)
    }

    #[test]
    fn reads_nat_state_flags_and_families() {
        let (flows, rows) = flows(ROWS.as_bytes());
        assert_eq!((rows.flows, rows.skipped), (4, 0));
        assert_eq!(flows[0].tcp_state, Some(TcpState::Established));
        assert!(flows[0].assured && flows[0].answered);
        assert_eq!(flows[0].reply.destination.to_string(), "192.0.2.1:40000");
        assert!(!flows[1].answered);
        assert_eq!(flows[2].tcp_state, Some(TcpState::Established));
        assert_eq!(flows[2].original.source.to_string(), "[fd00::5]:40001");
        assert_eq!(flows[3].transport, Transport::Other(1));
    }

    #[test]
    fn a_bad_row_is_counted_and_the_next_one_read() {
        let mut text = b"ipv4 2 tcp 6 1 ESTABLISHED src=1.2.3.4 dst=".to_vec();
        text.extend(vec![b'x'; 100_000]);
        text.extend(b"\n\xff\xfe\nunknown 7 x\n");
        text.extend(ROWS.as_bytes());
        let (_, rows) = flows(&text);
        assert_eq!((rows.flows, rows.skipped), (4, 3));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), cut in 0..ROWS.len()) {
            let _ = flows(&bytes);
            let mut mixed = ROWS.as_bytes()[..cut].to_vec();
            mixed.extend(&bytes);
            let (kept, rows) = flows(&mixed);
            prop_assert_eq!(kept.len() as u64, rows.flows);
        }
    }
}
