//! Traffic counters.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// Bytes and packets in both directions, from the counted thing's own point of view (`in` is what it received).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Packets received.
    pub packets_in: u64,
    /// Packets sent.
    pub packets_out: u64,
}

impl Counters {
    /// What was added since `earlier`, or `None` when any counter is smaller than it was (a reset or a wrap).
    #[must_use]
    pub fn since(self, earlier: Self) -> Option<Self> {
        Some(Self {
            bytes_in: self.bytes_in.checked_sub(earlier.bytes_in)?,
            bytes_out: self.bytes_out.checked_sub(earlier.bytes_out)?,
            packets_in: self.packets_in.checked_sub(earlier.packets_in)?,
            packets_out: self.packets_out.checked_sub(earlier.packets_out)?,
        })
    }
}

impl AddAssign for Counters {
    /// Saturates: a sum that cannot be represented stays at the largest number rather than starting over.
    fn add_assign(&mut self, other: Self) {
        self.bytes_in = self.bytes_in.saturating_add(other.bytes_in);
        self.bytes_out = self.bytes_out.saturating_add(other.bytes_out);
        self.packets_in = self.packets_in.saturating_add(other.packets_in);
        self.packets_out = self.packets_out.saturating_add(other.packets_out);
    }
}
