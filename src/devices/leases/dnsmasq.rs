//! dnsmasq's lease database: `expiry mac ip hostname client-id` lines, a line `duid <server's DUID>`, and then DHCPv6
//! lines `expiry iaid ip hostname duid`.

use std::net::IpAddr;

use super::{Lease, LeaseFile, LeaseRule, MAX_LINES};
use crate::model::{MacAddress, UnixTime};

/// Longer lines are none of dnsmasq's: the longest field is a client id of 255 bytes in hexadecimal.
const LONGEST_LINE: usize = 2048;

pub(super) fn parse(bytes: &[u8], rule: &LeaseRule, file: &mut LeaseFile) {
    let mut rest = bytes;
    let mut number = 0;
    while !rest.is_empty() {
        number += 1;
        if number > MAX_LINES {
            file.truncated = true;
            return;
        }
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            // dnsmasq ends every line, so this one is still being written (or was cut by our own limit).
            if !file.truncated {
                file.skipped += 1;
                file.reason(number, || "the line has no end yet".to_owned());
            }
            return;
        };
        let line = rest.get(..end).unwrap_or_default();
        rest = rest.get(end + 1..).unwrap_or_default();
        match parse_line(line) {
            Ok(None) => {}
            Ok(Some((mut lease, hostname))) => {
                if let Some(hostname) = hostname {
                    match rule.thing(hostname) {
                        Ok(thing) => lease.thing = Some(thing),
                        Err(error) => {
                            file.refused_names += 1;
                            file.reason(number, || error.to_string());
                        }
                    }
                }
                file.leases.push(lease);
            }
            Err(reason) => {
                file.skipped += 1;
                file.reason(number, || reason);
            }
        }
    }
}

/// One line as a lease without its thing, and its hostname; `Ok(None)` for a line that is none (empty, `duid`).
fn parse_line(line: &[u8]) -> Result<Option<(Lease, Option<&str>)>, String> {
    if line.len() > LONGEST_LINE {
        return Err(format!("the line has {} bytes", line.len()));
    }
    let line = std::str::from_utf8(line).map_err(|_| "the line is not UTF-8".to_owned())?;
    let mut fields = line.split(' ').filter(|field| !field.is_empty());
    let mut field = |what: &str| fields.next().ok_or_else(|| format!("no {what}"));
    let first = match field("expiry") {
        Ok("duid") | Err(_) => return Ok(None),
        Ok(first) => first,
    };
    let expiry: u64 = first.parse().map_err(|_| format!("{first:?} is no expiry time"))?;
    let hardware = field("hardware address")?;
    let address_text = field("address")?;
    let address: IpAddr = address_text
        .parse()
        .map_err(|_| format!("{address_text:?} is no address"))?;
    let hostname = field("hostname")?;
    let mac = match address {
        IpAddr::V4(_) => Some(parse_hardware(hardware)?),
        // The field is an association number (IAID), with a T before it for temporary addresses.
        IpAddr::V6(_) => None,
    };
    let lease = Lease {
        expires: (expiry != 0).then_some(UnixTime::from_seconds(expiry)),
        mac,
        address,
        thing: None,
    };
    Ok(Some((lease, (hostname != "*").then_some(hostname))))
}

/// A MAC address, or one with the hardware type before it (`06-02:aa:..`), as dnsmasq writes for anything but Ethernet.
fn parse_hardware(text: &str) -> Result<MacAddress, String> {
    let bare = match text.split_once('-') {
        Some((_, rest)) if rest.contains(':') => rest,
        _ => text,
    };
    let mac: MacAddress = bare.parse().map_err(|_| format!("{text:?} is no MAC address"))?;
    if mac.is_group() || mac.is_zero() {
        return Err(format!("{mac} is no device's MAC address"));
    }
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::super::{LeaseFormat, parse as parse_file};
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> LeaseFile {
        parse_file(LeaseFormat::Dnsmasq, bytes, &LeaseRule::default())
    }

    #[test]
    fn huge_files_are_read_up_to_the_limit_and_say_so() {
        let line = "1900000000 02:aa:00:00:00:01 10.0.0.5 cam-1 *\n";
        let many = line.repeat(MAX_LINES + 5);
        let file = read(many.as_bytes());
        assert!(file.truncated);
        assert!(file.leases.len() <= MAX_LINES);
        assert_eq!(file.skipped, 0);
        let one_line = vec![b'x'; 5 << 20];
        let file = read(&one_line);
        assert!(file.truncated && file.leases.is_empty());
    }

    #[test]
    fn reasons_are_bounded_and_counts_are_not() {
        let file = read("bad\n".repeat(1000).as_bytes());
        assert_eq!((file.skipped, file.reasons.len()), (1000, 16));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_every_name_is_a_thing_name(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
            let mut line = b"1 02:aa:00:00:00:01 10.0.0.5 ".to_vec();
            line.extend(&bytes);
            line.extend(b" *\n");
            for reason in read(&line).reasons {
                prop_assert!(!reason.reason.contains(|c: char| c.is_control()), "{:?}", reason);
            }
        }
    }
}
