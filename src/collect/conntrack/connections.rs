//! What each thing did, from tracked flows: pure, bounded, in the thing's own point of view.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::ctnetlink::FlowEvent;
use super::flow::{Flow, TcpState, Transport};
use super::ports::PortSet;
use super::tracking::RowCounts;
use crate::collect::Distinct;
use crate::model::{Connection, ListeningPort, ThingName};

/// Listed connections per thing; the total goes on counting.
const LISTED: usize = 4_096;
/// Listed connections over all things, so that a full table costs a bounded amount.
const LISTED_IN_ALL: usize = 65_536;

/// One thing's connections as far as the gateway saw them.
#[derive(Debug, Clone, Default)]
pub struct ThingConnections {
    /// Established TCP connections, at most 4,096 of them. The interface is not known from here.
    pub established: Vec<Connection>,
    /// How many there were in truth.
    pub established_total: u64,
    /// TCP ports of the thing on which a connection to it was answered.
    pub answered_tcp: PortSet,
    /// UDP ports of the thing from which it answered a datagram.
    pub answered_udp: PortSet,
    /// Flows the thing began. From a table: those still in it; from events: every one.
    pub begun: u64,
    /// Of TCP and UDP flows the thing began, those nobody answered (refused ones too). From a table: not answered so far;
    /// from events: ended unanswered.
    pub unanswered: u64,
    /// Different addresses to which the thing began flows.
    pub destinations: Distinct,
}

impl ThingConnections {
    /// The answered TCP ports in the form of a reading; the interface cannot be told.
    #[must_use]
    pub fn listening_tcp(&self) -> Vec<ListeningPort> {
        listening(&self.answered_tcp)
    }

    /// The answered UDP ports in the form of a reading.
    #[must_use]
    pub fn listening_udp(&self) -> Vec<ListeningPort> {
        listening(&self.answered_udp)
    }

    fn answer(&mut self, transport: Transport, port: u16) {
        let ports = match transport {
            Transport::Tcp => &mut self.answered_tcp,
            Transport::Udp => &mut self.answered_udp,
            Transport::Other(_) => return,
        };
        if port != 0 {
            ports.insert(port);
        }
    }
}

fn listening(ports: &PortSet) -> Vec<ListeningPort> {
    let port = |port: u16| ListeningPort { port, interface: None };
    ports.iter().map(port).collect()
}

/// Sums flows up per thing. Keep one for a table (made anew for each reading) and one for events (taken with each report):
/// a flow in both would count twice.
#[derive(Debug, Clone, Default)]
pub struct Connections {
    things: BTreeMap<ThingName, ThingConnections>,
    rows: RowCounts,
    listed: usize,
}

impl Connections {
    /// Adds one row of the table. `thing_of` tells whose an address is.
    pub fn add<'t>(&mut self, flow: &Flow, thing_of: impl Fn(IpAddr) -> Option<&'t ThingName>) {
        self.rows.note(flow);
        if let Some(initiator) = thing_of(flow.original.source.ip()) {
            let room = LISTED_IN_ALL.saturating_sub(self.listed);
            let thing = self.thing(initiator);
            thing.begun += 1;
            thing.unanswered += u64::from(is_unanswered(flow));
            thing.destinations.note(&flow.original.destination.ip());
            // The thing knows the other end by the address it dialled.
            let listed = establish(
                thing,
                flow,
                flow.original.destination,
                flow.original.source.port(),
                room,
            );
            self.listed += listed;
        }
        if let Some(responder) = thing_of(flow.reply.source.ip()) {
            let room = LISTED_IN_ALL.saturating_sub(self.listed);
            let thing = self.thing(responder);
            if is_answer(flow) {
                thing.answer(flow.transport, flow.reply.source.port());
            }
            // The thing knows the other end by the address its replies go to.
            let listed = establish(thing, flow, flow.reply.destination, flow.reply.source.port(), room);
            self.listed += listed;
        }
    }

    /// Adds a beginning or an end. Established connections are not listed from these: the table is the truth there.
    pub fn add_event<'t>(&mut self, event: &FlowEvent, thing_of: impl Fn(IpAddr) -> Option<&'t ThingName>) {
        match event {
            FlowEvent::New(flow) => {
                self.rows.note(flow);
                if let Some(initiator) = thing_of(flow.original.source.ip()) {
                    let thing = self.thing(initiator);
                    thing.begun += 1;
                    thing.destinations.note(&flow.original.destination.ip());
                }
            }
            FlowEvent::Destroyed(flow) => {
                if let Some(initiator) = thing_of(flow.original.source.ip()).filter(|_| is_unanswered(flow)) {
                    self.thing(initiator).unanswered += 1;
                }
                if let Some(responder) = thing_of(flow.reply.source.ip()).filter(|_| is_answer(flow)) {
                    self.thing(responder).answer(flow.transport, flow.reply.source.port());
                }
            }
        }
    }

    fn thing(&mut self, thing: &ThingName) -> &mut ThingConnections {
        self.things.entry(thing.clone()).or_default()
    }

    /// What one thing did; `None` when no flow was its.
    #[must_use]
    pub fn of(&self, thing: &ThingName) -> Option<&ThingConnections> {
        self.things.get(thing)
    }

    /// Takes out what one thing did, so that its counts start over.
    pub fn take(&mut self, thing: &ThingName) -> Option<ThingConnections> {
        let taken = self.things.remove(thing)?;
        self.listed = self.listed.saturating_sub(taken.established.len());
        Some(taken)
    }

    /// Forgets things for which `keep` says no.
    pub fn retain(&mut self, keep: impl Fn(&ThingName) -> bool) {
        let dropped: Vec<ThingName> = self.things.keys().filter(|thing| !keep(thing)).cloned().collect();
        for thing in dropped {
            self.take(&thing);
        }
    }

    /// Every thing that had a flow.
    pub fn iter(&self) -> impl Iterator<Item = (&ThingName, &ThingConnections)> {
        self.things.iter()
    }

    /// Rows seen per family, whoever's they were.
    #[must_use]
    pub fn rows(&self) -> RowCounts {
        self.rows
    }
}

/// Lists the connection if it is established; gives how many were listed.
fn establish(thing: &mut ThingConnections, flow: &Flow, remote: SocketAddr, local_port: u16, room: usize) -> usize {
    if flow.transport != Transport::Tcp || flow.tcp_state != Some(TcpState::Established) {
        return 0;
    }
    thing.established_total += 1;
    if thing.established.len() >= LISTED || room == 0 {
        return 0;
    }
    thing.established.push(Connection {
        remote,
        local_port,
        local_interface: None,
    });
    1
}

/// TCP and UDP only: other protocols (multicast listeners, broadcasts of routing) need no answer.
fn is_unanswered(flow: &Flow) -> bool {
    !flow.answered && matches!(flow.transport, Transport::Tcp | Transport::Udp)
}

/// The responder took the connection or datagram on that port.
fn is_answer(flow: &Flow) -> bool {
    flow.answered && !flow.looks_reversed()
}

#[cfg(test)]
mod tests {
    use super::super::flow::Endpoints;
    use super::*;

    fn name(text: &str) -> ThingName {
        text.parse().unwrap()
    }

    fn flow(transport: Transport, original: (&str, &str), reply: (&str, &str)) -> Flow {
        let ends = |(source, destination): (&str, &str)| Endpoints {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        };
        Flow {
            transport,
            original: ends(original),
            reply: ends(reply),
            tcp_state: (transport == Transport::Tcp).then_some(TcpState::Established),
            answered: true,
            assured: true,
        }
    }

    #[test]
    fn each_end_sees_the_other_as_nat_shows_it() {
        let cam = name("cam");
        let lookup = |ip: IpAddr| (ip.to_string() == "10.0.0.5").then_some(&cam);
        let mut connections = Connections::default();
        let out = flow(
            Transport::Tcp,
            ("10.0.0.5:40000", "93.184.216.34:443"),
            ("93.184.216.34:443", "192.0.2.1:61000"),
        );
        let forwarded = flow(
            Transport::Tcp,
            ("203.0.113.7:50000", "192.0.2.1:8080"),
            ("10.0.0.5:80", "203.0.113.7:50000"),
        );
        connections.add(&out, lookup);
        connections.add(&forwarded, lookup);
        let cam = connections.of(&cam).unwrap();
        let seen: Vec<_> = cam
            .established
            .iter()
            .map(|c| (c.remote.to_string(), c.local_port))
            .collect();
        assert_eq!(
            seen,
            [("93.184.216.34:443".into(), 40_000), ("203.0.113.7:50000".into(), 80)]
        );
        assert!(cam.answered_tcp.iter().eq([80]));
        assert_eq!((cam.begun, cam.unanswered, cam.destinations.count()), (1, 0, 1));
    }

    #[test]
    fn a_flow_found_midway_makes_no_listening_port() {
        let cam = name("cam");
        let lookup = |ip: IpAddr| (ip.to_string() == "10.0.0.5").then_some(&cam);
        // The broker's packet came first, so the tracker took the broker for the initiator.
        let midway = flow(
            Transport::Tcp,
            ("10.0.0.1:8883", "10.0.0.5:40000"),
            ("10.0.0.5:40000", "10.0.0.1:8883"),
        );
        let mut connections = Connections::default();
        connections.add(&midway, lookup);
        let seen = connections.of(&cam).unwrap();
        assert_eq!(seen.answered_tcp, PortSet::default());
        assert_eq!(
            (seen.established[0].remote.to_string(), seen.established[0].local_port),
            ("10.0.0.1:8883".into(), 40_000)
        );
    }

    #[test]
    fn events_count_attempts_once_and_the_unanswered_when_they_end() {
        let cam = name("cam");
        let lookup = |ip: IpAddr| (ip.to_string() == "10.0.0.5").then_some(&cam);
        let mut scan = flow(
            Transport::Tcp,
            ("10.0.0.5:40000", "10.0.0.9:23"),
            ("10.0.0.9:23", "10.0.0.5:40000"),
        );
        scan.answered = false;
        scan.tcp_state = Some(TcpState::Opening);
        let mut connections = Connections::default();
        connections.add_event(&FlowEvent::New(scan), lookup);
        assert_eq!(connections.of(&cam).unwrap().unanswered, 0);
        connections.add_event(&FlowEvent::Destroyed(scan), lookup);
        let seen = connections.of(&cam).unwrap();
        assert_eq!((seen.begun, seen.unanswered, seen.established_total), (1, 1, 0));
    }

    #[test]
    fn lists_are_bounded_and_totals_true() {
        let cam = name("cam");
        let mut connections = Connections::default();
        for number in 0..10_000_u32 {
            let remote = format!("198.51.{}.{}:443", number / 256, number % 256);
            let one = flow(Transport::Tcp, ("10.0.0.5:40000", &remote), (&remote, "10.0.0.5:40000"));
            connections.add(&one, |ip| (ip.to_string() == "10.0.0.5").then_some(&cam));
        }
        let cam = connections.of(&cam).unwrap();
        assert_eq!((cam.established.len(), cam.established_total), (LISTED, 10_000));
        assert!((9_800..=10_200).contains(&cam.destinations.count()));
        assert_eq!(connections.rows(), RowCounts { v4: 10_000, v6: 0 });
    }
}
