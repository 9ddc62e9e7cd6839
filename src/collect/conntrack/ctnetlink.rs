//! ctnetlink: the table by dump, and flows as they begin and end.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use netlink_bindings::conntrack::{
    self, ConntrackAttrs, IterableConntrackAttrs, IterableTupleAttrs, Nfgenmsg, OpGetDump, TupleAttrs, TupleIpAttrs,
    TupleProtoAttrs,
};
use netlink_bindings::traits::NetlinkRequest;

use super::flow::{Endpoints, Flow, TcpState, Transport};
use super::procfs::ParsedRows;
use crate::model::{Measured, Missing};
use crate::netlink::{Drained, Notifications, Protocol, dump_once};

/// `IPCTNL_MSG_CT_NEW` and `IPCTNL_MSG_CT_DELETE` of subsystem `NFNL_SUBSYS_CTNETLINK` (1).
const TYPE_NEW: u16 = 0x0100;
const TYPE_DELETE: u16 = 0x0102;
/// `NFNLGRP_CONNTRACK_NEW` (1) and `NFNLGRP_CONNTRACK_DESTROY` (3).
const GROUPS: u32 = 1 | (1 << 2);
/// Bits of `enum ip_conntrack_status`.
const IPS_SEEN_REPLY: u32 = 1 << 1;
const IPS_ASSURED: u32 = 1 << 2;
const IPS_OFFLOAD: u32 = 1 << 14;

/// Dumps the table of the calling thread's network namespace, handing every flow to `each`.
///
/// # Errors
/// `NETLINK_NETFILTER` cannot be opened, needs `CAP_NET_ADMIN`, or answers with an error (no ctnetlink).
pub fn table(mut each: impl FnMut(&Flow)) -> Measured<ParsedRows> {
    const SOURCE: &str = "ctnetlink table";
    let request = conntrack::Request::new().op_get_dump(&Nfgenmsg::new());
    let mut rows = ParsedRows::default();
    let read = dump_once(&request, |(_, attributes)| match decode(&attributes) {
        Some(flow) => {
            rows.flows += 1;
            each(&flow);
        }
        None => rows.skipped += 1,
    });
    read.map(|_| rows).map_err(|error| Missing::from_io(SOURCE, &error))
}

/// A flow began or ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowEvent {
    /// The first packet of a flow passed.
    New(Flow),
    /// The flow left the table: it ended, timed out or was deleted.
    Destroyed(Flow),
}

/// A subscription to beginnings and ends of flows.
#[derive(Debug)]
pub struct FlowEvents {
    notifications: Notifications,
}

impl FlowEvents {
    /// Subscribes in the calling thread's network namespace, with a receive buffer of `receive_buffer` bytes (a flow
    /// takes about 1 KiB of it; 8 MiB is a good value). Needs `CAP_NET_ADMIN`, and the sysctl
    /// `net.netfilter.nf_conntrack_events` not 0.
    ///
    /// # Errors
    /// The socket cannot be opened or bound.
    pub fn open(receive_buffer: usize) -> Measured<Self> {
        let notifications = Notifications::open(Protocol::Netfilter, GROUPS, receive_buffer)
            .map_err(|error| Missing::from_io("ctnetlink events", &error))?;
        Ok(Self { notifications })
    }

    /// Reads what is there, at most `limit` datagrams, without waiting. After [`Drained::lost`] flows went by unseen: the
    /// table must be dumped, and counts since the last report are lower bounds.
    ///
    /// # Errors
    /// The socket failed.
    pub fn drain(&mut self, limit: usize, mut each: impl FnMut(&FlowEvent)) -> io::Result<Drained> {
        self.notifications.drain(limit, |message| {
            let (_, attributes) = OpGetDump::decode_reply(message.body);
            match (message.kind, decode(&attributes)) {
                (TYPE_NEW, Some(flow)) => each(&FlowEvent::New(flow)),
                (TYPE_DELETE, Some(flow)) => each(&FlowEvent::Destroyed(flow)),
                _ => {}
            }
        })
    }
}

impl AsFd for FlowEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.notifications.as_fd()
    }
}

fn decode(attributes: &IterableConntrackAttrs<'_>) -> Option<Flow> {
    let (mut original, mut reply, mut status, mut tcp_state) = (None, None, 0, None);
    for attribute in attributes.flatten() {
        match attribute {
            ConntrackAttrs::TupleOrig(tuple) => original = decode_tuple(tuple),
            ConntrackAttrs::TupleReply(tuple) => reply = decode_tuple(tuple),
            ConntrackAttrs::Status(bits) => status = bits,
            ConntrackAttrs::Protoinfo(info) => {
                let number = info.get_protoinfo_tcp().and_then(|tcp| tcp.get_tcp_state());
                tcp_state = number.ok().and_then(TcpState::from_number);
            }
            _ => {}
        }
    }
    let (transport, original) = original?;
    let (_, reply) = reply?;
    if status & IPS_OFFLOAD != 0 && transport == Transport::Tcp {
        tcp_state = Some(TcpState::Established);
    }
    Some(Flow {
        transport,
        original,
        reply,
        tcp_state,
        answered: status & IPS_SEEN_REPLY != 0,
        assured: status & IPS_ASSURED != 0,
    })
}

/// For `fuzz/`: one message of a dump or a notification.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(body: &[u8]) {
    if let Some(flow) = decode(&OpGetDump::decode_reply(body).1) {
        let _ = flow.family();
    }
}

fn decode_tuple(tuple: IterableTupleAttrs<'_>) -> Option<(Transport, Endpoints)> {
    let (mut source, mut destination): (Option<IpAddr>, Option<IpAddr>) = (None, None);
    let (mut transport, mut source_port, mut destination_port) = (None, 0, 0);
    for attribute in tuple.flatten() {
        match attribute {
            TupleAttrs::TupleIp(addresses) => {
                for address in addresses.flatten() {
                    match address {
                        TupleIpAttrs::IpV4Src(ip) => source = Some(ip.into()),
                        TupleIpAttrs::IpV4Dst(ip) => destination = Some(ip.into()),
                        TupleIpAttrs::IpV6Src(ip) => source = Some(ip.into()),
                        TupleIpAttrs::IpV6Dst(ip) => destination = Some(ip.into()),
                    }
                }
            }
            TupleAttrs::TupleProto(protocol) => {
                for part in protocol.flatten() {
                    match part {
                        TupleProtoAttrs::ProtoNum(number) => transport = Some(Transport::from_number(number)),
                        TupleProtoAttrs::ProtoSrcPort(port) => source_port = port,
                        TupleProtoAttrs::ProtoDstPort(port) => destination_port = port,
                        _ => {}
                    }
                }
            }
            TupleAttrs::TupleZone(_) => {}
        }
    }
    let endpoints = Endpoints {
        source: SocketAddr::new(source?, source_port),
        destination: SocketAddr::new(destination?, destination_port),
    };
    Some((transport?, endpoints))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tcp(status: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        OpGetDump::encode_request(&mut bytes, &Nfgenmsg::new())
            .nested_tuple_orig()
            .nested_tuple_ip()
            .push_ip_v4_src("10.0.0.5".parse().unwrap())
            .push_ip_v4_dst("192.0.2.9".parse().unwrap())
            .end_nested()
            .nested_tuple_proto()
            .push_proto_num(6)
            .push_proto_src_port(40_000)
            .push_proto_dst_port(443)
            .end_nested()
            .end_nested()
            .nested_tuple_reply()
            .nested_tuple_ip()
            .push_ip_v4_src("192.0.2.9".parse().unwrap())
            .push_ip_v4_dst("198.51.100.1".parse().unwrap())
            .end_nested()
            .nested_tuple_proto()
            .push_proto_num(6)
            .push_proto_src_port(443)
            .push_proto_dst_port(40_000)
            .end_nested()
            .end_nested()
            .push_status(status)
            .nested_protoinfo()
            .nested_protoinfo_tcp()
            .push_tcp_state(3);
        bytes
    }

    #[test]
    fn decodes_tuples_status_and_state() {
        let bytes = tcp(IPS_SEEN_REPLY | IPS_ASSURED);
        let flow = decode(&OpGetDump::decode_reply(&bytes).1).unwrap();
        assert_eq!(flow.original.destination.to_string(), "192.0.2.9:443");
        assert_eq!(flow.reply.destination.to_string(), "198.51.100.1:40000");
        assert_eq!(flow.tcp_state, Some(TcpState::Established));
        assert!(flow.answered && flow.assured);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0_usize..100, value: u8) {
            let _ = decode(&OpGetDump::decode_reply(&bytes).1);
            let mut changed = tcp(0);
            let at = at % changed.len();
            changed[at] = value;
            let _ = decode(&OpGetDump::decode_reply(&changed).1);
        }
    }
}
