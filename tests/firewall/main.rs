//! The firewall against this kernel, with real packets between network namespaces. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may stop at the first surprise"
)]

mod accounting;
mod allowances;
mod lacking;
mod links;
mod matrix;
mod probes;
mod scale;
mod staying;
#[path = "../support/mod.rs"]
mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use edge_warden::firewall::{Change, Isolated, NftablesFirewall, Noticed, Policy, Posture, TableOwnership, Watch};
use edge_warden::model::UnixTime;
use rustix::event::{PollFd, PollFlags, poll};

use support::site::{Host, Site, until};

const NOW: UnixTime = UnixTime(1_800_000_000_000);

/// How long what must happen may take: the machine may be very busy.
const SOON: Duration = Duration::from_secs(60);

fn isolated(host: &Host, posture: Posture) -> Isolated {
    Isolated {
        label: host.ns.clone(),
        macs: [host.mac].into(),
        v4: [host.v4].into(),
        v6: [host.v6, host.link_local].into(),
        posture,
        until: None,
    }
}

fn policy(site: &Site, devices: &[&Host], posture: Posture) -> Policy {
    Policy {
        lan: site.lan(),
        isolated: devices.iter().map(|host| isolated(host, posture)).collect(),
        quiet_ports: None,
    }
}

fn open(site: &Site, ownership: TableOwnership) -> NftablesFirewall {
    site.gateway().enter(|| NftablesFirewall::open(ownership).unwrap())
}

/// Whether an echo still comes back on an established connection.
fn alive(stream: &mut TcpStream, limit: Duration) -> bool {
    stream.set_read_timeout(Some(limit)).unwrap();
    let mut answer = [0; 4];
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut answer).is_ok()
}

/// Waits until a ping is answered.
fn reaches(from: &Host, to: impl Into<IpAddr>) -> bool {
    let to = to.into();
    until(SOON, || from.ping(to))
}

/// What was under way in the gateway's receive path when this was called is over when it returns: taking an interface
/// away waits until every core has left that path (`synchronize_net` in net/core/dev.c).
fn settle(site: &Site) {
    site.gateway()
        .shell("ip link add settle type veth peer name settled && ip link del settle");
}

/// Waits for the next notifications that mean something.
fn wait<T: std::os::fd::AsFd>(watch: &mut T, read: impl Fn(&mut T) -> std::io::Result<Noticed>) -> Vec<Change> {
    loop {
        let limit = rustix::event::Timespec { tv_sec: 60, tv_nsec: 0 };
        let ready = poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&limit)).unwrap();
        assert_eq!(ready, 1, "nothing is notified");
        let noticed = read(watch).unwrap();
        if !noticed.changes.is_empty() {
            return noticed.changes;
        }
    }
}

/// Waits for the next changes of our tables by others.
fn wait_tables(watch: &mut Watch) -> Vec<Change> {
    wait(watch, Watch::read)
}
