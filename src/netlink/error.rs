//! What can go wrong between us and the kernel.

use std::io;

/// What can go wrong between us and the kernel.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket could not be opened or set up.
    #[error("netlink protocol {protocol}: the socket cannot be opened")]
    Open {
        /// Netlink protocol.
        protocol: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The request did not reach the kernel, or its answer not us.
    #[error("{request}: no answer from the kernel")]
    Transport {
        /// What was asked.
        request: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel refused.
    #[error("{request}: refused by the kernel at {message}")]
    Refused {
        /// What was asked.
        request: &'static str,
        /// Which of the messages in it.
        message: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The table kept changing while it was read.
    #[error("{request}: changed while it was read, {tries} times")]
    Unstable {
        /// What was asked.
        request: &'static str,
        /// How often.
        tries: u32,
    },
}

impl NetlinkError {
    /// The kernel's error number, if it refused.
    #[must_use]
    pub fn refusal(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}
