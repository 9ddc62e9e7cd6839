//! A tracked flow.

use std::net::{IpAddr, SocketAddr};

/// The protocol of a flow, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// Anything else, by its protocol number; it has no ports.
    Other(u8),
}

impl Transport {
    /// The protocol of an IP protocol number (RFC 5237).
    #[must_use]
    pub fn from_number(number: u8) -> Self {
        match number {
            6 => Self::Tcp,
            17 => Self::Udp,
            other => Self::Other(other),
        }
    }
}

/// State of a TCP flow as the tracker sees it (`enum tcp_conntrack` of `linux/netfilter/nf_conntrack_tcp.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TcpState {
    /// A SYN went out, nothing came back (`SYN_SENT`, `SYN_SENT2`, or no state yet).
    Opening,
    /// A SYN-ACK came back.
    Answered,
    /// Both sides are connected. A flow moved to a flow table (offload) counts as this.
    Established,
    /// One side has closed (`FIN_WAIT`, `CLOSE_WAIT`, `LAST_ACK`, `TIME_WAIT`).
    Closing,
    /// It was reset (`CLOSE`).
    Closed,
}

impl TcpState {
    /// The state of a kernel number; `None` for numbers this program does not know.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 | 1 | 9 => Self::Opening,
            2 => Self::Answered,
            3 => Self::Established,
            4..=7 => Self::Closing,
            8 => Self::Closed,
            _ => return None,
        })
    }

    /// The state of a word in `/proc/net/nf_conntrack`.
    pub(super) fn from_word(word: &str) -> Option<Self> {
        Some(match word {
            "NONE" | "SYN_SENT" | "SYN_SENT2" => Self::Opening,
            "SYN_RECV" => Self::Answered,
            "ESTABLISHED" => Self::Established,
            "FIN_WAIT" | "CLOSE_WAIT" | "LAST_ACK" | "TIME_WAIT" => Self::Closing,
            "CLOSE" => Self::Closed,
            _ => return None,
        })
    }
}

/// Where packets of one direction come from and go to. Ports are 0 for protocols without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoints {
    /// The sender.
    pub source: SocketAddr,
    /// The receiver.
    pub destination: SocketAddr,
}

/// The two families that are tracked apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// One tracked flow. Without address translation `reply` is `original` turned round; where the two differ, the
/// initiator knows the responder as `original.destination`, and the responder knows the initiator as
/// `reply.destination`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// The protocol.
    pub transport: Transport,
    /// Packets of the one who began.
    pub original: Endpoints,
    /// Packets of the one who answers.
    pub reply: Endpoints,
    /// State, for TCP and where the source tells it.
    pub tcp_state: Option<TcpState>,
    /// A packet was seen in the reply direction. For TCP a lone reset does not count (`nf_conntrack_proto_tcp.c`).
    pub answered: bool,
    /// The flow is past its beginning (`IPS_ASSURED`).
    pub assured: bool,
}

impl Flow {
    /// The address family of the initiator.
    #[must_use]
    pub fn family(&self) -> Family {
        match self.original.source.ip() {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    /// True when the tracker probably saw the answerer first, so that its directions are swapped: it came upon the flow
    /// midway (`nf_conntrack_tcp_loose`, on by default), as it does with every flow that is older than the tracking.
    /// Clients take ports of the ephemeral range (32768 and up on Linux), services hardly ever do.
    #[must_use]
    pub fn looks_reversed(&self) -> bool {
        const EPHEMERAL: u16 = 32_768;
        self.original.source.port() < EPHEMERAL && self.reply.source.port() >= EPHEMERAL
    }
}
