//! One thing's reading, put together from what different sources saw of it. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::collect::conntrack::{FamilyTracking, RowCounts, ThingConnections, families};
use crate::collect::{HostSample, Socket, SocketState};
use crate::devices::IdentityTable;
use crate::model::{Connection, Counters, ListeningPort, Measured, Missing, Reason, ThingName, ThingReading};

use super::source::FlowTable;

const SOURCE: &str = "connection tracking";

/// The flows of the last look at the table, judged.
#[derive(Debug)]
pub(super) struct Flows {
    table: Measured<FlowTable>,
    /// IPv4, IPv6.
    pub(super) tracking: Option<(FamilyTracking, FamilyTracking)>,
}

impl Flows {
    pub(super) fn none() -> Self {
        Self {
            table: Err(Missing::new(SOURCE, Reason::NotCollected, "not read yet")),
            tracking: None,
        }
    }

    /// `sockets` are the gateway's own TCP sockets at the same time. `held_on`: a rule of ours keeps tracking on, so that
    /// no rows means no flows.
    pub(super) fn judge(table: Measured<FlowTable>, sockets: &[Socket], held_on: bool) -> Self {
        let Ok(found) = &table else {
            return Self { table, tracking: None };
        };
        let mut own = RowCounts::default();
        for socket in sockets {
            if socket.state == SocketState::Established && !socket.remote.is_loopback() && socket.remote != socket.local
            {
                if socket.remote.is_ipv4() {
                    own.v4 += 1;
                } else {
                    own.v6 += 1;
                }
            }
        }
        let tracking = families(found.connections.rows(), own);
        let quiet = |family| family != FamilyTracking::Tracked;
        let table = if quiet(tracking.0) && quiet(tracking.1) && !held_on {
            Err(Missing::new(
                SOURCE,
                Reason::Absent,
                "no family is tracked: no rule asks the kernel to",
            ))
        } else {
            table
        };
        Self {
            table,
            tracking: Some(tracking),
        }
    }

    pub(super) fn state(&self) -> Measured<()> {
        self.table.as_ref().map(|_| ()).map_err(Missing::clone)
    }

    pub(super) fn fallback(&self) -> Option<&Missing> {
        self.table.as_ref().ok()?.fallback.as_ref()
    }

    /// What a thing did as far as the table showed.
    pub(super) fn of(&self, thing: &ThingName) -> Measured<Option<&ThingConnections>> {
        match &self.table {
            Ok(found) => Ok(found.connections.of(thing)),
            Err(missing) => Err(missing.clone()),
        }
    }
}

/// Connections between the core itself and each thing, from the thing's point of view.
pub(super) fn core_connections(
    host: &HostSample,
    identities: &IdentityTable,
) -> BTreeMap<ThingName, BTreeSet<Connection>> {
    let mut found: BTreeMap<ThingName, BTreeSet<Connection>> = BTreeMap::new();
    let sockets = host.sockets.tcp.as_deref().unwrap_or_default();
    for socket in sockets.iter().filter(|socket| socket.state == SocketState::Established) {
        if let Some(thing) = identities.thing_of_ip(socket.remote) {
            found.entry(thing.clone()).or_default().insert(Connection {
                remote: SocketAddr::new(socket.local, socket.local_port),
                local_port: socket.remote_port,
                local_interface: None,
            });
        }
    }
    found
}

/// The reading of one thing. `core`: its connections with the core itself; `events`: what flows did since its last report.
pub(super) fn reading(
    thing: &ThingName,
    traffic: Measured<Counters>,
    flows: &Flows,
    core: Option<&BTreeSet<Connection>>,
    events: Option<&ThingConnections>,
) -> ThingReading {
    let table = flows.of(thing);
    let established: Measured<Vec<Connection>> = table.clone().map(|seen| {
        let mut all: BTreeSet<Connection> = core.cloned().unwrap_or_default();
        all.extend(seen.into_iter().flat_map(|seen| seen.established.iter().cloned()));
        all.into_iter().collect()
    });
    let listed = established.as_ref().map_or(0, Vec::len) as u64;
    // Where the table's list was cut, connections with the core may be in the list and in its total: nearly always they
    // are tracked too, so they add nothing to that total.
    let cut = |seen: &&ThingConnections| seen.established_total > seen.established.len() as u64;
    let total = table
        .as_ref()
        .ok()
        .copied()
        .flatten()
        .filter(cut)
        .map(|seen| seen.established_total);
    let ports = |of: fn(&ThingConnections) -> Vec<ListeningPort>| -> Measured<Vec<ListeningPort>> {
        let seen = table.clone()?;
        let all: BTreeSet<ListeningPort> = seen.into_iter().chain(events).flat_map(of).collect();
        Ok(all.into_iter().collect())
    };
    ThingReading {
        traffic,
        established,
        established_unlisted: total.map_or(0, |total| total.saturating_sub(listed)),
        listening_tcp: ports(ThingConnections::listening_tcp),
        listening_udp: ports(ThingConnections::listening_udp),
        custom: BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::conntrack::{Connections, Endpoints, Flow, FlowEvent, TcpState, Transport};

    fn flow(from: &str, to: &str) -> Flow {
        let ends = |source: &str, destination: &str| Endpoints {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        };
        Flow {
            transport: Transport::Tcp,
            original: ends(from, to),
            reply: ends(to, from),
            tcp_state: Some(TcpState::Established),
            answered: true,
            assured: true,
        }
    }

    fn connection(remote: &str, local_port: u16) -> Connection {
        Connection {
            remote: remote.parse().unwrap(),
            local_port,
            local_interface: None,
        }
    }

    #[test]
    fn what_two_sources_saw_is_listed_once() {
        let cam: ThingName = "cam".parse().unwrap();
        let lookup = |ip: std::net::IpAddr| (ip.to_string() == "10.0.0.5").then_some(&cam);
        let mut table = FlowTable::default();
        table.connections.add(&flow("10.0.0.5:40000", "10.0.0.1:8883"), lookup);
        table.connections.add(&flow("10.0.0.5:40001", "192.0.2.7:443"), lookup);
        table.connections.add(&flow("192.0.2.8:50000", "10.0.0.5:80"), lookup);
        let mut events = Connections::default();
        events.add_event(&FlowEvent::Destroyed(flow("192.0.2.8:50001", "10.0.0.5:22")), lookup);
        let flows = Flows::judge(Ok(table), &[], false);
        let core = [connection("10.0.0.1:8883", 40_000)].into();
        let reading = reading(&cam, Ok(Counters::default()), &flows, Some(&core), events.of(&cam));
        let established = reading.established.unwrap();
        assert_eq!(established.len(), 3, "{established:?}");
        let ports: Vec<u16> = reading.listening_tcp.unwrap().iter().map(|port| port.port).collect();
        assert_eq!(ports, [22, 80], "the table's and the ended one's");
        assert!(reading.listening_udp.unwrap().is_empty());
    }

    #[test]
    fn more_connections_than_are_listed_are_in_the_total() {
        let cam: ThingName = "cam".parse().unwrap();
        let lookup = |ip: std::net::IpAddr| (ip.to_string() == "10.0.0.5").then_some(&cam);
        let mut table = FlowTable::default();
        for port in 10_000..20_000 {
            table
                .connections
                .add(&flow(&format!("10.0.0.5:{port}"), "192.0.2.7:443"), lookup);
        }
        table.connections.add(&flow("10.0.0.5:40000", "10.0.0.1:8883"), lookup);
        let flows = Flows::judge(Ok(table), &[], false);
        let core = [connection("10.0.0.1:8883", 40_000)].into();
        let reading = reading(&cam, Ok(Counters::default()), &flows, Some(&core), None);
        let listed = reading.established.as_ref().unwrap();
        assert_eq!(
            listed.len(),
            4_097,
            "as many of the table as are kept, and the core's own"
        );
        assert!(listed.contains(&connection("10.0.0.1:8883", 40_000)));
        assert_eq!(
            reading.established_total(),
            Ok(10_001),
            "the one with the core counts once"
        );
        let report = crate::report::Report::between(None, &reading, 1);
        assert_eq!(report.established_total(), 10_001);
    }

    #[test]
    fn an_empty_table_is_no_connections_only_when_tracking_is_held_on() {
        let thing: ThingName = "cam".parse().unwrap();
        let of = |held_on| {
            let flows = Flows::judge(Ok(FlowTable::default()), &[], held_on);
            reading(&thing, Ok(Counters::default()), &flows, None, None)
        };
        assert_eq!(of(true).established, Ok(Vec::new()));
        assert!(of(false).established.is_err() && of(false).listening_tcp.is_err());
        let unread = reading(&thing, Ok(Counters::default()), &Flows::none(), None, None);
        assert!(unread.established.is_err(), "what was not read is missing, not empty");
    }
}
