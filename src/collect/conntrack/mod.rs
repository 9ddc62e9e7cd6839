//! Connection tracking: the gateway's view of who talks to whom.
//!
//! Sources: ctnetlink ([`table`], [`FlowEvents`]; `net/netfilter/nf_conntrack_netlink.c`) and, where that is closed,
//! `/proc/net/nf_conntrack` ([`proc_table`]; `nf_conntrack_standalone.c`), which cannot tell of flows that began and ended
//! between two readings. Both hand one row at a time to a visitor: a table of 500,000 flows is never held.
//! [`Connections`] makes of the rows what each thing did. Bytes never come from here.

mod connections;
mod ctnetlink;
mod flow;
mod ports;
mod procfs;
mod tracking;

pub use connections::{Connections, ThingConnections};
#[cfg(any(test, fuzzing))]
pub(crate) use ctnetlink::fuzz as fuzz_ctnetlink;
pub use ctnetlink::{FlowEvent, FlowEvents, table};
pub use flow::{Endpoints, Family, Flow, TcpState, Transport};
pub use ports::PortSet;
pub use procfs::{ParsedRows, parse as parse_table, table as proc_table};
pub use tracking::{FamilyTracking, RowCounts, Usage, families, usage};
