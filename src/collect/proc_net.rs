//! The portable fallback: text tables below `/proc/net` (proc_net(5), proc_tid_net(5)).
//!
//! Every row is handed to the `procfs` crate alone, because the crate gives up a whole table for one odd row.
//! What these files do not tell stays unknown: an interface's index, layers and addresses, a socket's bound interface.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use procfs::net::{InterfaceDeviceStatus, RouteEntries, TcpNetEntries, UdpNetEntries};
use procfs::{ExplicitSystemInfo, FromBufRead, FromBufReadSI};

use super::error::{CollectError, Note, Skipped};
use super::interfaces::Interface;
use super::sockets::{Socket, Transport};
use crate::model::{Counters, Missing};

/// Where the calling thread's network tables are: below `thread-self`, because `/proc/net` shows the namespace of the
/// thread group's leader; a tree without it (a fixture, an old kernel) has `net` alone.
pub(super) fn directory(proc_root: &Path) -> PathBuf {
    let of_thread = proc_root.join("thread-self/net");
    if of_thread.is_dir() {
        of_thread
    } else {
        proc_root.join("net")
    }
}

/// All sockets of `transport` a report needs, from `<net>/tcp` and `<net>/tcp6` (or `udp`, `udp6`).
///
/// Without IPv6 the second file is not there, which leaves a note; any other failure is an error, because half a
/// table would pass for a whole one.
pub(super) fn sockets(net: &Path, transport: Transport, notes: &mut Vec<Note>) -> Result<Vec<Socket>, CollectError> {
    let (v4, v6) = match transport {
        Transport::Tcp => ("tcp", "tcp6"),
        Transport::Udp => ("udp", "udp6"),
    };
    let mut sockets = Vec::new();
    socket_table(&net.join(v4), transport, &mut sockets, notes)?;
    match socket_table(&net.join(v6), transport, &mut sockets, notes) {
        Ok(()) => Ok(sockets),
        Err(error) if error.is_absent() => {
            notes.push(Note::FamilyAbsent(Missing::from(error)));
            Ok(sockets)
        }
        Err(error) => Err(error),
    }
}

fn socket_table(
    path: &Path,
    transport: Transport,
    sockets: &mut Vec<Socket>,
    notes: &mut Vec<Note>,
) -> Result<(), CollectError> {
    rows(path, &["local_address"], notes, |row| {
        let (state, local, remote) = match transport {
            Transport::Tcp => tcp_row(row),
            Transport::Udp => udp_row(row),
        }?;
        sockets.extend(transport.admit(state, local, remote, 0));
        Some(())
    })
}

type Row = (u8, SocketAddr, SocketAddr);

fn tcp_row(row: &[u8]) -> Option<Row> {
    let entry = TcpNetEntries::from_buf_read(row, &system()).ok()?.0.pop()?;
    Some((entry.state.to_u8(), entry.local_address, entry.remote_address))
}

fn udp_row(row: &[u8]) -> Option<Row> {
    let entry = UdpNetEntries::from_buf_read(row, &system()).ok()?.0.pop()?;
    Some((entry.state.to_u8(), entry.local_address, entry.remote_address))
}

/// The crate asks for the whole system; of these tables' parsers only the byte order of addresses matters.
fn system() -> ExplicitSystemInfo {
    ExplicitSystemInfo {
        boot_time_secs: 0,
        ticks_per_second: 100,
        page_size: 4096,
        is_little_endian: cfg!(target_endian = "little"),
    }
}

/// Interfaces from `<net>/dev`, with default routes from `<net>/route` and `<net>/ipv6_route`.
pub(super) fn interfaces(net: &Path, notes: &mut Vec<Note>) -> Result<Vec<Interface>, CollectError> {
    let mut interfaces = Vec::new();
    rows(&net.join("dev"), &["Receive", "bytes"], notes, |row| {
        interfaces.push(interface(row)?);
        Some(())
    })?;
    match default_routes(net, notes) {
        Ok(names) => {
            for interface in &mut interfaces {
                interface.default_route = Some(names.contains(&interface.name));
            }
        }
        Err(error) => notes.push(Note::Unknown(Missing::from(error))),
    }
    Ok(interfaces)
}

fn interface(row: &[u8]) -> Option<Interface> {
    let (name, status) = InterfaceDeviceStatus::from_buf_read(row).ok()?.0.into_iter().next()?;
    Some(Interface {
        index: 0,
        loopback: name == "lo",
        name,
        up: None,
        master: None,
        parent: None,
        kind: None,
        mac: None,
        addresses: None,
        default_route: None,
        counters: Counters {
            bytes_in: status.recv_bytes,
            bytes_out: status.sent_bytes,
            packets_in: status.recv_packets,
            packets_out: status.sent_packets,
        },
    })
}

// linux/route.h and linux/ipv6_route.h.
const RTF_UP: u32 = 0x0001;
const RTF_REJECT: u32 = 0x0200;

fn default_routes(net: &Path, notes: &mut Vec<Note>) -> Result<Vec<String>, CollectError> {
    let mut names = Vec::new();
    rows(&net.join("route"), &["Iface"], notes, |row| {
        let routes = RouteEntries::from_buf_read(row).ok()?.0;
        let leads_out = |flags: u16| u32::from(flags) & (RTF_UP | RTF_REJECT) == RTF_UP;
        names.extend(
            routes
                .into_iter()
                .filter(|route| route.destination.is_unspecified() && route.mask.is_unspecified())
                .filter(|route| leads_out(route.flags))
                .map(|route| route.iface),
        );
        Some(())
    })?;
    let v6 = rows(&net.join("ipv6_route"), &[], notes, |row| {
        names.extend(default_route_v6(row)?);
        Some(())
    });
    match v6 {
        Err(error) if error.is_absent() => notes.push(Note::FamilyAbsent(Missing::from(error))),
        other => other?,
    }
    Ok(names)
}

/// The interface of a row of `ipv6_route` when it is a default route; `None` when it is no such row at all.
///
/// Columns: destination, prefix length, source, its prefix length, next hop, metric, references, uses, flags (all
/// hexadecimal) and the interface (net/ipv6/route.c, `rt6_info_route`).
fn default_route_v6(row: &[u8]) -> Option<Option<String>> {
    let fields: Vec<&str> = str::from_utf8(row).ok()?.split_ascii_whitespace().collect();
    let [destination, length, _, _, _, _, _, _, flags, name] = fields.as_slice() else {
        return None;
    };
    let destination = u128::from_str_radix(destination, 16).ok()?;
    let length = u8::from_str_radix(length, 16).ok()?;
    let leads_out = u32::from_str_radix(flags, 16).ok()? & (RTF_UP | RTF_REJECT) == RTF_UP;
    Some((destination == 0 && length == 0 && leads_out).then(|| (*name).to_owned()))
}

/// Reads a table row by row into one buffer.
///
/// `headers` names a word of each header line: a file without them is not the table. A row that `each` refuses is
/// counted and skipped; but when there is more than one row and none is understood, the table is malformed: empty would
/// be a lie.
fn rows(
    path: &Path,
    headers: &[&str],
    notes: &mut Vec<Note>,
    each: impl FnMut(&[u8]) -> Option<()>,
) -> Result<(), CollectError> {
    let origin = path.display().to_string();
    let file = File::open(path).map_err(|e| CollectError::from_io(&origin, e))?;
    rows_of(BufReader::with_capacity(64 * 1024, file), &origin, headers, notes, each)
}

fn rows_of(
    mut table: impl BufRead,
    origin: &str,
    headers: &[&str],
    notes: &mut Vec<Note>,
    mut each: impl FnMut(&[u8]) -> Option<()>,
) -> Result<(), CollectError> {
    let mut line = Vec::new();
    for word in headers {
        line.clear();
        read_line(&mut table, &mut line).map_err(|e| CollectError::from_io(origin, e))?;
        if !line.windows(word.len()).any(|window| window == word.as_bytes()) {
            return Err(CollectError::malformed(origin, format!("no header line with {word:?}")));
        }
    }
    let mut skipped = Skipped::default();
    let mut understood = false;
    loop {
        line.clear();
        // The crate's parsers drop as many lines as the table has headers.
        line.extend(headers.iter().map(|_| b'\n'));
        if read_line(&mut table, &mut line).map_err(|e| CollectError::from_io(origin, e))? == 0 {
            break;
        }
        match each(&line) {
            Some(()) => understood = true,
            // The crate's own words name its source files and ask for a bug report; the row says more.
            None => skipped.add(format_args!("{:?}", String::from_utf8_lossy(line.trim_ascii()))),
        }
    }
    match skipped.so_far() {
        (2.., first) if !understood => Err(CollectError::malformed(
            origin,
            format!("no row is understood: {first}"),
        )),
        _ => {
            skipped.note(origin, notes);
            Ok(())
        }
    }
}

/// No row of these tables is longer than about 200 bytes; a file that is no table must not fill the memory.
const LONGEST_LINE: u64 = 64 * 1024;

fn read_line(table: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<usize> {
    io::Read::take(table, LONGEST_LINE).read_until(b'\n', line)
}

/// For `fuzz/`: every row reader, and the tables around them.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(data: &[u8]) {
    let _ = (tcp_row(data), udp_row(data), interface(data), default_route_v6(data));
    for read in [
        |row: &[u8]| tcp_row(row).map(drop),
        |row: &[u8]| udp_row(row).map(drop),
        |row: &[u8]| interface(row).map(drop),
        |row: &[u8]| default_route_v6(row).map(drop),
    ] {
        let _ = rows_of(data, "fuzz", &[], &mut Vec::new(), read);
    }
}
