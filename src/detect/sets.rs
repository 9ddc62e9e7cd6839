//! The sets list metrics are compared with. Looking up takes logarithmic time: a gateway with 50,000 connections against
//! 1,000 blocks must not cost 50 million comparisons per sample.

use std::cmp::Ordering;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// CIDR blocks. IPv4 and IPv6 are apart: `::/0` holds no IPv4 address. Addresses and blocks within `::ffff:0:0/96` are
/// the IPv4 ones they stand for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CidrSet {
    v4: Ranges,
    v6: Ranges,
}

/// Sorted ranges, both ends included, no two of which touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Ranges(Vec<(u128, u128)>);

impl Ranges {
    fn new(mut all: Vec<(u128, u128)>) -> Self {
        all.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::new();
        for (first, last) in all {
            match merged.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    fn covers(&self, first: u128, last: u128) -> bool {
        let after = self.0.partition_point(|(start, _)| *start <= first);
        let before = after.checked_sub(1).and_then(|index| self.0.get(index));
        before.is_some_and(|(_, end)| last <= *end)
    }

    fn is_subset(&self, other: &Self) -> bool {
        self.0.iter().all(|(first, last)| other.covers(*first, *last))
    }

    fn is_disjoint(&self, other: &Self) -> bool {
        let apart = |a: &(u128, u128), b: &(u128, u128)| a.1 < b.0 || b.1 < a.0;
        self.0.iter().all(|a| other.0.iter().all(|b| apart(a, b)))
    }
}

impl CidrSet {
    /// The set of `blocks`, or the first text that is no address and no block. Host bits of a block are ignored.
    pub(super) fn new<'a>(blocks: impl IntoIterator<Item = &'a str>) -> Result<Self, &'a str> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for text in blocks {
            let (address, length) = block(text).ok_or(text)?;
            match (address, mapped(address)) {
                (IpAddr::V4(address), _) => v4.push(range(address.to_bits().into(), length, 32)),
                (IpAddr::V6(_), Some(address)) if length >= 96 => {
                    v4.push(range(address.to_bits().into(), length - 96, 32));
                }
                (IpAddr::V6(address), _) => v6.push(range(address.to_bits(), length, 128)),
            }
        }
        Ok(Self {
            v4: Ranges::new(v4),
            v6: Ranges::new(v6),
        })
    }

    /// True when a block holds `address`.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(v4) => self.v4.covers(v4.to_bits().into(), v4.to_bits().into()),
            IpAddr::V6(v6) => self.v6.covers(v6.to_bits(), v6.to_bits()),
        }
    }

    pub(super) fn is_subset(&self, other: &Self) -> bool {
        self.v4.is_subset(&other.v4) && self.v6.is_subset(&other.v6)
    }

    pub(super) fn is_disjoint(&self, other: &Self) -> bool {
        self.v4.is_disjoint(&other.v4) && self.v6.is_disjoint(&other.v6)
    }
}

fn mapped(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => v6.to_ipv4_mapped(),
    }
}

/// Address and prefix length.
fn block(text: &str) -> Option<(IpAddr, u32)> {
    let (address, length) = match text.split_once('/') {
        None => (text.parse().ok()?, None),
        Some((address, length)) => (address.parse().ok()?, Some(length)),
    };
    let longest = match address {
        IpAddr::V4(_) => Ipv4Addr::BITS,
        IpAddr::V6(_) => Ipv6Addr::BITS,
    };
    let length = match length {
        None => longest,
        // parse() would take "+8" and "008" too
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) && digits.len() <= 3 => digits.parse().ok()?,
        Some(_) => return None,
    };
    (length <= longest).then_some((address, length))
}

/// First and last address of a block of a family with `bits` bits.
fn range(address: u128, length: u32, bits: u32) -> (u128, u128) {
    let host = bits.saturating_sub(length);
    let mask = 1_u128.checked_shl(host).map_or(u128::MAX, |size| size - 1);
    (address & !mask, address | mask)
}

/// A set of finite numbers. `-0` is `0`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NumberSet(Vec<f64>);

impl NumberSet {
    pub(super) fn new(numbers: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = numbers.into_iter().map(|number| number + 0.0).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        sorted.dedup_by(|a, b| a.total_cmp(b) == Ordering::Equal);
        Self(sorted)
    }

    /// True when `number` is in it.
    #[must_use]
    pub fn contains(&self, number: f64) -> bool {
        let number = number + 0.0; // -0.0 + 0.0 is 0.0
        self.0.binary_search_by(|known| known.total_cmp(&number)).is_ok()
    }

    pub(super) fn is_subset(&self, other: &Self) -> bool {
        self.0.iter().all(|number| other.contains(*number))
    }

    pub(super) fn is_disjoint(&self, other: &Self) -> bool {
        !self.0.iter().any(|number| other.contains(*number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(blocks: &[&str]) -> CidrSet {
        CidrSet::new(blocks.iter().copied()).unwrap()
    }

    fn holds(set: &CidrSet, address: &str) -> bool {
        set.contains(address.parse().unwrap())
    }

    #[test]
    fn blocks_hold_their_first_and_last_address_and_no_other() {
        let blocks = set(&["12.8.0.0/16", "192.0.2.7", "2001:db8::/33"]);
        for inside in [
            "12.8.0.0",
            "12.8.255.255",
            "192.0.2.7",
            "2001:db8::",
            "2001:db8:7fff:ffff::1",
        ] {
            assert!(holds(&blocks, inside), "{inside}");
        }
        for outside in [
            "12.7.255.255",
            "12.9.0.0",
            "192.0.2.6",
            "192.0.2.8",
            "2001:db8:8000::",
            "::",
        ] {
            assert!(!holds(&blocks, outside), "{outside}");
        }
    }

    #[test]
    fn everything_of_one_family_is_nothing_of_the_other() {
        assert!(holds(&set(&["0.0.0.0/0"]), "255.255.255.255"));
        assert!(!holds(&set(&["0.0.0.0/0"]), "2001:db8::1"));
        assert!(holds(&set(&["::/0"]), "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"));
        assert!(!holds(&set(&["::/0"]), "192.0.2.1"));
    }

    #[test]
    fn ipv4_in_ipv6_form_is_ipv4_in_blocks_and_in_addresses() {
        assert!(holds(&set(&["::ffff:10.0.0.0/104"]), "10.255.0.1"));
        assert!(holds(&set(&["10.0.0.0/8"]), "::ffff:10.1.2.3"));
        assert!(!holds(&set(&["::/0"]), "::ffff:10.1.2.3"));
    }

    #[test]
    fn host_bits_of_a_block_are_ignored_and_adjacent_blocks_are_one() {
        assert_eq!(set(&["10.1.2.3/8"]), set(&["10.0.0.0/8"]));
        assert_eq!(set(&["10.0.0.0/9", "10.128.0.0/9"]), set(&["10.0.0.0/8"]));
        assert!(set(&["10.0.0.0/8"]).is_subset(&set(&["10.128.0.0/9", "10.0.0.0/9"])));
        assert!(set(&["10.0.0.0/9"]).is_disjoint(&set(&["10.128.0.0/9"])));
    }

    #[test]
    fn refuses_what_is_no_block() {
        for text in [
            "",
            "/",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10.0.0.0/0008",
            "10.0.0/8",
            "::/129",
            "10.0.0.0/8/8",
            "10.0.0.0/ 8",
            "a",
            "fe80::1%eth0",
            "010.0.0.1",
            "4294967296",
            "::/99999999999999999999",
        ] {
            assert_eq!(CidrSet::new([text]), Err(text), "{text:?}");
        }
    }

    #[test]
    fn zero_has_no_sign() {
        assert!(NumberSet::new([0.0]).contains(-0.0));
        assert!(NumberSet::new([-0.0]).contains(0.0));
        assert!(!NumberSet::new([1.0, 3.0]).contains(2.0));
    }
}
