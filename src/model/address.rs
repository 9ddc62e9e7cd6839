//! Hardware addresses.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An IEEE 802 MAC address, printed in lower case with colons (`02:aa:00:00:00:01`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

/// Text that is no MAC address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a MAC address (six hexadecimal bytes such as 02:aa:00:00:00:01)")]
pub struct MacAddressError(pub String);

impl MacAddress {
    /// True for an address made up by software (the locally administered bit of IEEE 802c), as phones do to hide.
    #[must_use]
    pub fn is_locally_administered(self) -> bool {
        self.0[0] & 0x02 != 0
    }

    /// True for a group address: no single device owns it, so it never names a thing.
    #[must_use]
    pub fn is_group(self) -> bool {
        self.0[0] & 0x01 != 0
    }

    /// True for the all-zero address kernels print for an incomplete neighbour.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.0 == [0; 6]
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddress {
    type Err = MacAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || MacAddressError(text.chars().take(64).collect());
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut bytes = [0_u8; 6];
        let mut parts = text.split(separator);
        for byte in &mut bytes {
            let part = parts.next().ok_or_else(wrong)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(wrong());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() {
            return Err(wrong());
        }
        Ok(Self(bytes))
    }
}

impl Serialize for MacAddress {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddress {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_common_spellings_and_prints_one() {
        let colons: MacAddress = "02:AA:00:00:00:01".parse().unwrap();
        let dashes: MacAddress = "02-aa-00-00-00-01".parse().unwrap();
        assert_eq!(colons, dashes);
        assert_eq!(colons.to_string(), "02:aa:00:00:00:01");
        assert!(colons.is_locally_administered());
        assert!(!colons.is_group());
    }

    #[test]
    fn refuses_what_is_no_mac() {
        for text in [
            "",
            "02:aa",
            "02:aa:00:00:00:01:02",
            "0x:aa:00:00:00:01",
            "+2:aa:00:00:00:01",
            "2:aa:0:0:0:1",
        ] {
            assert!(text.parse::<MacAddress>().is_err(), "{text}");
        }
    }
}
