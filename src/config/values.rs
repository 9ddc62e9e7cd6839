//! The kinds of values a configuration holds; each type admits only what is allowed.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::model::{MacAddress, ThingName};

/// Where the agent runs, which decides how fast it may report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Under a Greengrass nucleus: AWS throttles a thing that reports more often than every 5 minutes
    /// (IoT Device Defender developer guide, "Sending metrics from devices").
    Greengrass,
    /// On the embedded stand-in, with no AWS to throttle.
    Standalone,
}

impl Mode {
    /// The smallest `report.intervalSeconds`.
    #[must_use]
    pub fn fastest_report_seconds(self) -> u32 {
        match self {
            Self::Greengrass => 300,
            Self::Standalone => 1,
        }
    }
}

/// Which keys differ between two configurations, and what it takes to use the new values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Dotted keys that take effect at once.
    pub hot: Vec<String>,
    /// Dotted keys that take effect at the next start of the process.
    pub restart: Vec<String>,
}

/// A value the agent chooses by itself unless it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AutoOr<T> {
    /// Written `auto`.
    Auto,
    /// As written.
    Is(T),
}

impl<T: Serialize> Serialize for AutoOr<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Is(value) => value.serialize(serializer),
        }
    }
}

/// The name of a network interface as the kernel takes it: 1 to 15 bytes, no `/`, `:` or white space, not `.` or `..`
/// (`dev_valid_name`, net/core/dev.c). Here printable ASCII only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct InterfaceName(String);

impl InterfaceName {
    /// What is allowed, for messages.
    pub(super) const EXPECTED: &'static str =
        "write an interface name of 1 to 15 characters without spaces, '/' and ':', as `ip link` shows it";

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |b: u8| b.is_ascii_graphic() && b != b'/' && b != b':';
        if text.is_empty() || text.len() > 15 || text == "." || text == ".." || !text.bytes().all(allowed) {
            return Err("is not an interface name".to_owned());
        }
        Ok(Self(text.to_owned()))
    }
}

/// The name of a named shadow: `[a-zA-Z0-9:_-]{1,64}` (API GetThingShadow, `shadowName`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct ShadowName(pub(super) String);

impl ShadowName {
    /// What is allowed, for messages.
    pub(super) const EXPECTED: &'static str =
        "write a shadow name of 1 to 64 of a-z A-Z 0-9 : _ -, or \"\" to watch no named shadow";

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ShadowName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b':' | b'_' | b'-');
        if text.is_empty() || text.len() > 64 || !text.bytes().all(allowed) {
            return Err("is not a shadow name".to_owned());
        }
        Ok(Self(text.to_owned()))
    }
}

/// What a [`ThingNameTemplate`] replaces by the hostname of a lease.
pub const HOSTNAME_PLACEHOLDER: &str = "{hostname}";

/// How a lease becomes a thing name: text with `{hostname}` once, or a fixed thing name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThingNameTemplate {
    prefix: String,
    /// `None`: fixed, the hostname is not used.
    suffix: Option<String>,
}

impl ThingNameTemplate {
    /// What is allowed, for messages.
    pub(super) const EXPECTED: &'static str = "write {hostname} once, with only a-z A-Z 0-9 : _ - around it (such as site1-{hostname}), or a fixed thing name";

    /// The thing, when it does not depend on a hostname.
    #[must_use]
    pub fn fixed(&self) -> Option<ThingName> {
        self.suffix.is_none().then(|| self.prefix.parse().ok()).flatten()
    }

    /// The thing a lease with this hostname belongs to; `None` when the result is no thing name.
    #[must_use]
    pub fn thing_name(&self, hostname: &str) -> Option<ThingName> {
        match &self.suffix {
            None => self.prefix.parse().ok(),
            // An absent hostname would turn every nameless device into the same thing.
            Some(_) if hostname.is_empty() => None,
            Some(suffix) => format!("{}{hostname}{suffix}", self.prefix).parse().ok(),
        }
    }
}

impl Default for ThingNameTemplate {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            suffix: Some(String::new()),
        }
    }
}

impl FromStr for ThingNameTemplate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let template = match text.split_once(HOSTNAME_PLACEHOLDER) {
            Some((prefix, suffix)) => Self {
                prefix: prefix.to_owned(),
                suffix: Some(suffix.to_owned()),
            },
            None => Self {
                prefix: text.to_owned(),
                suffix: None,
            },
        };
        // A second placeholder or any other brace fails here too: braces are no thing name characters.
        match template.thing_name("h") {
            Some(_) => Ok(template),
            None => Err("cannot make thing names".to_owned()),
        }
    }
}

impl fmt::Display for ThingNameTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.suffix {
            Some(suffix) => write!(f, "{}{HOSTNAME_PLACEHOLDER}{suffix}", self.prefix),
            None => f.write_str(&self.prefix),
        }
    }
}

impl Serialize for ThingNameTemplate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A block of addresses, `10.0.0.0/24`, with no bits set below the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// The first address.
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// The length of the fixed part in bits.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// True when `address` is in the block. An IPv4 address written as IPv6 (`::ffff:a.b.c.d`) counts as IPv4.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        masked(address.to_canonical(), self.prefix) == Some(self.address)
    }
}

/// `address` with all bits below `prefix` cleared; `None` when the family has fewer bits.
fn masked(address: IpAddr, prefix: u8) -> Option<IpAddr> {
    let prefix = u32::from(prefix);
    match address {
        IpAddr::V4(v4) => {
            let host_bits = 32_u32.checked_sub(prefix)?;
            let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
            Some(IpAddr::V4((v4.to_bits() & mask).into()))
        }
        IpAddr::V6(v6) => {
            let host_bits = 128_u32.checked_sub(prefix)?;
            let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
            Some(IpAddr::V6((v6.to_bits() & mask).into()))
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || "is not an address block".to_owned();
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        if prefix.len() > 3 || !prefix.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong());
        }
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        let first = masked(address, prefix).ok_or_else(wrong)?;
        if first != address {
            // Widening what was meant as one address would protect the wrong devices: ask.
            return Err(format!(
                "has bits set behind the prefix (the block is {first}/{prefix})"
            ));
        }
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// What no quarantine may touch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Protected {
    /// A device.
    Mac(MacAddress),
    /// One address.
    Address(IpAddr),
    /// A block of addresses.
    Network(Network),
    /// All devices of a thing.
    Thing(ThingName),
}

impl Protected {
    /// What is allowed, for messages.
    pub(super) const EXPECTED: &'static str =
        "write a MAC address, an IP address, an address block such as 10.0.0.0/24, or a thing name";
}

impl FromStr for Protected {
    type Err = String;

    /// Text that could be a mistyped address is refused rather than taken as a thing name: `02:aa:00:00:00` is a valid
    /// thing name, and a protection that silently matches nothing is worse than none.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(mac) = text.parse() {
            return Ok(Self::Mac(mac));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Address(address.to_canonical()));
        }
        if text.contains('/') {
            return text.parse().map(Self::Network);
        }
        let hex = |part: &str| part.bytes().all(|b| b.is_ascii_hexdigit());
        let like_colons = text.contains(':') && text.split(':').all(hex);
        let like_dashes =
            text.split('-').count() >= 4 && text.split('-').all(|part| matches!(part.len(), 1 | 2) && hex(part));
        if like_colons || like_dashes {
            return Err("looks like an address but is none".to_owned());
        }
        text.parse()
            .map(Self::Thing)
            .map_err(|_| "is neither an address nor a thing name".to_owned())
    }
}

impl fmt::Display for Protected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(mac) => mac.fmt(f),
            Self::Address(address) => address.fmt(f),
            Self::Network(network) => network.fmt(f),
            Self::Thing(thing) => thing.fmt(f),
        }
    }
}

impl Serialize for Protected {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_its_own_addresses_only() {
        let network: Network = "10.1.0.0/16".parse().unwrap();
        assert!(network.contains("10.1.255.255".parse().unwrap()));
        assert!(network.contains("::ffff:10.1.2.3".parse().unwrap()));
        assert!(!network.contains("10.2.0.0".parse().unwrap()));
        assert!(!network.contains("fd00::1".parse().unwrap()));
        let all: Network = "::/0".parse().unwrap();
        assert!(all.contains("fd00::1".parse().unwrap()));
        assert!(!all.contains("10.0.0.1".parse().unwrap()));
        for text in ["10.0.0.1/24", "10.0.0.0/33", "10.0.0.0/+8", "10.0.0.0/", "/8", "::/129"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }

    #[test]
    fn protected_text_is_read_as_what_it_looks_like() {
        let thing = |name: &str| Ok(Protected::Thing(name.parse().unwrap()));
        assert_eq!(
            "02-AA-00-00-00-01".parse(),
            Ok(Protected::Mac(MacAddress([2, 0xaa, 0, 0, 0, 1])))
        );
        assert_eq!(
            "::ffff:10.0.0.1".parse(),
            Ok(Protected::Address("10.0.0.1".parse().unwrap()))
        );
        assert_eq!("plc-1".parse(), thing("plc-1"));
        assert_eq!("line:plc".parse(), thing("line:plc"));
        for text in [
            "02:aa:00:00:00",
            "02-aa-00-00-00",
            "10.0.0",
            "fe80::1%eth0",
            "fd00::1::2",
            "",
        ] {
            assert!(text.parse::<Protected>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_template_makes_thing_names_or_none() {
        let template: ThingNameTemplate = "site1-{hostname}".parse().unwrap();
        assert_eq!(template.thing_name("cam").unwrap().as_str(), "site1-cam");
        assert_eq!(template.thing_name(""), None);
        assert_eq!(template.thing_name("a b"), None);
        let fixed: ThingNameTemplate = "printer".parse().unwrap();
        assert_eq!(fixed.thing_name("").unwrap().as_str(), "printer");
        for text in ["", "{host}", "{hostname}{hostname}", "a b", "{hostname"] {
            assert!(text.parse::<ThingNameTemplate>().is_err(), "{text}");
        }
    }

    #[test]
    fn interface_names_follow_the_kernel() {
        for text in ["br-lan", "eth0.100", "wlan0"] {
            assert!(text.parse::<InterfaceName>().is_ok(), "{text}");
        }
        for text in ["", ".", "..", "a/b", "a b", "a:1", "sixteen-letters-"] {
            assert!(text.parse::<InterfaceName>().is_err(), "{text}");
        }
    }
}
