//! What the core itself depends on: its gateways and its DNS servers. No quarantine may touch them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::neighbours;
use crate::model::{MacAddress, Measured, Missing, Reason};

/// Gateways and DNS servers in use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Uplink {
    /// Next hops of the default routes.
    pub gateways: BTreeSet<IpAddr>,
    /// Their MAC addresses, as far as the neighbour table knows them.
    pub gateway_macs: BTreeSet<MacAddress>,
    /// Name servers of resolv.conf(5).
    pub dns_servers: BTreeSet<IpAddr>,
}

/// Bytes read of each file: a core has a handful of routes and name servers.
const MOST: u64 = 1 << 20;

/// Read the default routes below `proc` (calling thread's network namespace) and the name servers of `resolv_conf`.
/// An absent file lists nothing; one that cannot be read is an error, because then nobody knows what to spare.
///
/// # Errors
/// A file is denied or malformed.
pub fn read(proc: &Path, resolv_conf: &Path) -> Measured<Uplink> {
    let thread = proc.join("thread-self/net");
    let net = if thread.is_dir() { thread } else { proc.join("net") };
    let mut gateways = BTreeSet::new();
    for (file, parse) in [
        ("route", routes_v4 as fn(&str) -> Option<BTreeSet<IpAddr>>),
        ("ipv6_route", routes_v6),
    ] {
        let path = net.join(file);
        if let Some(text) = text(&path)? {
            let found = parse(&text).ok_or_else(|| {
                Missing::new(
                    path.display().to_string(),
                    Reason::Malformed,
                    "a default route cannot be understood",
                )
            })?;
            gateways.extend(found);
        }
    }
    let dns_servers = text(resolv_conf)?.map(|text| name_servers(&text)).unwrap_or_default();
    let gateway_macs = if gateways.is_empty() {
        BTreeSet::new()
    } else {
        neighbours::dump()?
            .into_iter()
            .filter(|neighbour| gateways.contains(&neighbour.ip))
            .map(|n| n.mac)
            .collect()
    };
    Ok(Uplink {
        gateways,
        gateway_macs,
        dns_servers,
    })
}

fn text(path: &Path) -> Measured<Option<String>> {
    use std::io::Read;
    let failed = |error: std::io::Error| Missing::from_io(path.display().to_string(), &error);
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// `/proc/net/route` (net/ipv4/fib_trie.c): Iface, Destination, Gateway, Flags, ..., Mask; addresses are 32-bit numbers
/// in host order of network-order bytes. `None` when a default route cannot be read.
fn routes_v4(text: &str) -> Option<BTreeSet<IpAddr>> {
    let mut found = BTreeSet::new();
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, destination, gateway, _, _, _, _, mask, ..] = fields[..] else {
            continue;
        };
        if destination == "00000000" && mask == "00000000" {
            let gateway = Ipv4Addr::from(u32::from_str_radix(gateway, 16).ok()?.to_ne_bytes());
            if !gateway.is_unspecified() {
                found.insert(gateway.into());
            }
        }
    }
    Some(found)
}

/// `/proc/net/ipv6_route` (net/ipv6/route.c): destination, its prefix length, source, its prefix length, next hop, ...
fn routes_v6(text: &str) -> Option<BTreeSet<IpAddr>> {
    let mut found = BTreeSet::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [destination, "00", _, _, next_hop, ..] = fields[..] else {
            continue;
        };
        if destination.bytes().all(|digit| digit == b'0') {
            let next_hop = Ipv6Addr::from(u128::from_str_radix(next_hop, 16).ok()?);
            if !next_hop.is_unspecified() {
                found.insert(next_hop.into());
            }
        }
    }
    Some(found)
}

/// resolv.conf(5): `nameserver ADDRESS`, an IPv6 one possibly with a zone. Other lines mean nothing here.
fn name_servers(text: &str) -> BTreeSet<IpAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver"))
                .then(|| words.next()?.split('%').next()?.parse().ok())
                .flatten()
        })
        .collect()
}

/// For `fuzz/`.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(text: &str) {
    let _ = (routes_v4(text), routes_v6(text), name_servers(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn reads_default_routes_of_both_families() {
        let v4 = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                  eth0\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                  eth0\t0002A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                  ppp0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n";
        assert_eq!(routes_v4(v4).unwrap(), addresses(&["192.168.2.1"]));
        let zero = "0".repeat(32);
        let v6 = format!(
            "{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 1 0 3 eth0\n\
             {zero} 00 {zero} 00 {zero} ffffffff 1 0 200200 lo\n\
             20010db8000000000000000000000000 40 {zero} 00 {zero} 100 1 0 1 eth0\n"
        );
        assert_eq!(routes_v6(&v6).unwrap(), addresses(&["fe80::1"]));
    }

    #[test]
    fn a_default_route_that_cannot_be_read_is_no_absent_one() {
        let v4 = "header\neth0\t00000000\tXX02A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        assert_eq!(routes_v4(v4), None);
    }

    #[test]
    fn reads_name_servers_and_nothing_else() {
        let text = "# nameserver 9.9.9.9\nsearch home\nnameserver 192.168.2.1\nnameserver fe80::1%eth0\nnameserver x\n";
        assert_eq!(name_servers(text), addresses(&["192.168.2.1", "fe80::1"]));
    }

    #[test]
    fn absent_files_list_nothing() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(
            read(root.path(), &root.path().join("resolv.conf")),
            Ok(Uplink::default())
        );
    }
}
