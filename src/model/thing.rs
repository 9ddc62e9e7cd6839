//! AWS IoT thing names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The name of an AWS IoT thing: `[a-zA-Z0-9:_-]{1,128}` (API CreateThing), so it is safe in topics and file names
/// once `:` is allowed there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ThingName(String);

/// Text that no AWS IoT thing can be called.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a thing name (1 to 128 of a-z A-Z 0-9 : _ -)")]
pub struct ThingNameError(pub String);

impl ThingName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ThingName {
    type Err = ThingNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b':' | b'_' | b'-');
        if text.is_empty() || text.len() > 128 || !text.bytes().all(allowed) {
            return Err(ThingNameError(text.chars().take(140).collect()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ThingName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for ThingName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for ThingName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_aws_accepts_and_nothing_else() {
        assert!("cam-1:front_door".parse::<ThingName>().is_ok());
        assert!("a".repeat(128).parse::<ThingName>().is_ok());
        for name in [
            "",
            "a b",
            "a/b",
            "..",
            "ü",
            "x\n",
            &"a".repeat(129),
            "\"}; flush ruleset",
        ] {
            assert!(name.parse::<ThingName>().is_err(), "{name:?}");
        }
    }
}
