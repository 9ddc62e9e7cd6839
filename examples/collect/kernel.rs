//! Tables as the kernel sends them, received and thrown away: the floor under every reader of them.

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with};

/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `IPCTNL_MSG_CT_GET` of `NFNL_SUBSYS_CTNETLINK`.
const CONNTRACK_GET: u16 = 0x101;

/// IPv4 and IPv6 TCP sockets that are established or listen (`struct inet_diag_req_v2`); how many messages there were.
pub(crate) fn sockets() -> usize {
    let request = |family: u8| {
        let mut body = vec![family, 6, 0, 0];
        body.extend((1_u32 << 1 | 1 << 10).to_ne_bytes());
        body.resize(8 + 48, 0);
        body
    };
    let dump = |family| dump(netlink::SOCK_DIAG, BY_FAMILY, &request(family));
    dump(2) + dump(10)
}

/// The connection table; how many messages there were.
pub(crate) fn flows() -> usize {
    dump(netlink::NETFILTER, CONNTRACK_GET, &[0; 4])
}

fn dump(protocol: rustix::net::Protocol, kind: u16, body: &[u8]) -> usize {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(protocol),
    )
    .expect("netlink");
    let kernel = SocketAddrNetlink::new(0, 0);
    bind(&socket, &kernel).expect("bind");
    let mut request = u32::try_from(16 + body.len()).unwrap().to_ne_bytes().to_vec();
    request.extend(kind.to_ne_bytes());
    request.extend(DUMP.to_ne_bytes());
    request.extend([0; 8]);
    request.extend(body);
    sendto(&socket, &request, SendFlags::empty(), &kernel).expect("the request");
    let mut buffer = vec![0; 64 * 1024];
    let mut messages = 0;
    loop {
        let (length, _) = recv(&socket, &mut *buffer, RecvFlags::empty()).expect("an answer");
        let mut rest = buffer.get(..length).unwrap();
        while let Some(header) = rest.first_chunk::<6>() {
            let (length, kind) = header.split_at(4);
            match u16::from_ne_bytes(kind.try_into().unwrap()) {
                NLMSG_DONE => return messages,
                NLMSG_ERROR => panic!("the kernel refuses"),
                _ => messages += 1,
            }
            let length = usize::try_from(u32::from_ne_bytes(length.try_into().unwrap())).unwrap();
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}
