//! What each fault does, and how it ends.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use edge_warden::firewall::{Firewall, Isolated, NftablesFirewall, Policy, Posture, TableOwnership};
use edge_warden::model::UnixTime;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::course::{CUT, Storm, configuration};
use super::decisions::{by_operator, by_shadow};
use super::schedule::{Chance, Fault, Step};
use super::traffic::Going;
use crate::support::nucleus::{Malformed, Misbehave};
use crate::support::warden::now;

/// What makes an uplink of the gateway's link to the internet.
pub const ROUTES: &str =
    "ip route replace default via 203.0.113.1; ip -6 route replace default via 2001:db8::1 dev wan0";
/// The site's NAT, which a foreign flush takes away too.
const NAT: &str = "nft 'add table ip site_nat; flush table ip site_nat; \
                   add chain ip site_nat post { type nat hook postrouting priority 100; }; \
                   add rule ip site_nat post oifname wan0 masquerade'";
/// A lease file as dnsmasq writes it.
pub const LEASES: &str = "4102444800 02:cc:00:00:03:01 10.20.0.61 printer-1 *\n";

/// A fault that is not over yet.
pub struct Active {
    pub fault: Fault,
    pub until: Instant,
    going: Option<Going>,
    holder: Option<NftablesFirewall>,
    streams: Vec<UnixStream>,
}

impl std::fmt::Debug for Active {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.fault)
    }
}

impl Storm {
    /// Whether this storm can have the fault at all.
    pub fn possible(&self, fault: Fault) -> bool {
        match fault {
            // nobody can own plain tables
            Fault::ForeignHolder => self.ownership == "auto",
            _ => true,
        }
    }

    pub fn begin(&mut self, step: &Step) {
        let mut chance = Chance::new(step.word);
        let mut active = Active {
            fault: step.fault,
            until: now() + step.lasts,
            going: None,
            holder: None,
            streams: Vec::new(),
        };
        let gateway = self.site.gateway().clone();
        match step.fault {
            Fault::Kill => self.kill(),
            Fault::KillStarting => {
                self.kill();
                self.launch();
                // that long a start takes
                std::thread::sleep(chance.between(Duration::ZERO, Duration::from_millis(80)));
                self.kill();
            }
            Fault::Terminate => self.terminate(),
            Fault::Stall => {
                if let Some(agent) = &self.agent {
                    agent.signal(Signal::STOP);
                    self.stalled = true;
                    self.nobody_mends();
                }
            }
            Fault::DiskFull => self.fill_disk(),
            Fault::WallJump => {
                let days = i64::try_from(chance.below(6_000)).expect("small") - 3_000;
                let ahead = if chance.below(4) == 0 { 0 } else { days * 86_400 };
                self.turn(|clock| clock.set_wall(ahead));
            }
            Fault::Suspend => {
                let passed = chance.between(Duration::from_secs(1), Duration::from_secs(60));
                self.turn(|clock| clock.sleep(passed));
            }
            Fault::PortFlap => drop(gateway.shell("ip link set lan0 down")),
            Fault::PlainFlap => drop(gateway.shell("ip link set lan3 down")),
            Fault::BridgeFlap => drop(gateway.shell("ip link set br0 down")),
            Fault::UplinkFlap => drop(gateway.shell("ip link set wan0 down")),
            Fault::PortOut => drop(gateway.shell("ip link set lan0 nomaster")),
            Fault::PortAnew => self.site.connect_port(0),
            Fault::PlainAnew => self.site.connect_port(3),
            Fault::Flush => {
                self.tables_away();
                gateway.shell(&format!("nft flush ruleset; {NAT}"));
            }
            Fault::DeleteTables => {
                self.tables_away();
                // who does not own them is refused; one may be away for the moment
                for table in ["bridge edge_warden", "netdev edge_warden", "inet edge_warden_acct"] {
                    gateway.run(&["sh", "-c", &format!("nft delete table {table}")]);
                }
            }
            Fault::ForeignHolder => active.holder = Some(self.hold_tables()),
            Fault::RandomMacs => active.going = Some(Going::random_macs(&self.site, chance)),
            Fault::ConntrackFull => {
                // takes a while: once is enough, later ones add to what is there
                if self.figures.connections == 0 {
                    self.fill_connections();
                }
                active.going = Some(Going::connections(&self.site, chance));
            }
            Fault::GarbageFromNucleus => {
                self.expect("link lost");
                let all = [
                    Malformed::Garbage,
                    Malformed::WrongCrc,
                    Malformed::Truncated,
                    Malformed::UnknownStream,
                    Malformed::NotJson,
                    Malformed::WrongShape,
                    Malformed::NotBase64,
                    Malformed::Oversized,
                ];
                self.nucleus.send_malformed(all[chance.below(8) as usize]);
            }
            Fault::Disconnect => {
                self.expect("link lost");
                self.nucleus.disconnect();
            }
            Fault::DeadSubscriptions => drop(self.nucleus.kill_subscriptions()),
            Fault::NucleusMisbehaves => self.misbehave(&mut chance),
            Fault::ShadowGarbage => self.shadow_garbage(&mut chance),
            Fault::TopicGarbage => self.topic_garbage(&mut chance),
            Fault::ControlGarbage => active.streams = self.control_garbage(&mut chance),
            Fault::LeaseGarbage => self.lease_garbage(&mut chance),
            Fault::ConfigurationGarbage => self.nucleus.set_configuration(invalid_configuration(&mut chance)),
        }
        if !step.lasts.is_zero() {
            self.active.push(active);
        }
    }

    pub fn end(&mut self, active: Active) {
        let (gateway, going) = (
            self.site.gateway().clone(),
            active.going.as_ref().map_or(0, Going::sent),
        );
        match active.fault {
            Fault::Stall => self.go_on(),
            Fault::DiskFull => drop(std::fs::remove_file(self.room.state().join("filler"))),
            Fault::PortFlap => drop(gateway.shell("ip link set lan0 up")),
            Fault::PortOut => drop(gateway.shell("ip link set lan0 master br0")),
            Fault::PlainFlap | Fault::BridgeFlap | Fault::UplinkFlap => self.repair(),
            Fault::RandomMacs => self.figures.macs += going,
            Fault::ConntrackFull => {
                drop(active);
                gateway.shell("conntrack -F 2>/dev/null");
            }
            Fault::NucleusMisbehaves => {
                let same = |other: &Active| other.fault == Fault::NucleusMisbehaves;
                if !self.active.iter().any(same) {
                    self.nucleus.behave();
                }
            }
            Fault::LeaseGarbage => self.good_leases(),
            Fault::ConfigurationGarbage => {
                self.nucleus
                    .set_configuration(configuration(self.room.folder(), self.ownership));
            }
            _ => {}
        }
    }

    /// Everything of the site as it was built.
    pub fn repair(&mut self) {
        let (gateway, port) = (self.site.gateway(), self.site.routed_port());
        let mut script =
            "ip link set lan0 master br0; for link in lan0 lan1 lan2 lan3 br0 wan0; do ip link set $link up; done; "
                .to_owned();
        let addresses = [
            ("br0", gateway.v6.to_string()),
            ("lan3", port.v6.to_string()),
            ("wan0", "2001:db8::2".to_owned()),
        ];
        for (link, address) in addresses {
            script += &format!("ip -6 addr replace {address}/64 dev {link} nodad; ");
        }
        gateway.shell(&format!("{script} {NAT}; {ROUTES}"));
        for n in 0..4 {
            let device = self.site.device(n);
            let via = if n == 3 { port } else { gateway };
            device.shell(&format!(
                "ip link set eth0 up; ip -6 addr replace {}/64 dev eth0 nodad; \
                 ip route replace default via {}; ip -6 route replace default via {} dev eth0",
                device.v6, via.v4, via.v6
            ));
        }
        let internet = self.site.internet();
        internet.shell(&format!(
            "ip -6 addr replace {}/64 dev eth0 nodad; ip -6 route replace fd20::/64 via 2001:db8::2; \
             ip -6 route replace fd30::/64 via 2001:db8::2",
            internet.v6
        ));
    }

    fn go_on(&mut self) {
        if let Some(agent) = self.agent.as_ref().filter(|_| self.stalled) {
            agent.signal(Signal::CONT);
        }
        self.stalled = false;
    }

    fn terminate(&mut self) {
        self.go_on();
        if let Some(agent) = &self.agent {
            agent.signal(Signal::TERM);
            self.expect("stopped");
        }
    }

    /// Sets clocks of the process there is and of all to come.
    fn turn(&mut self, set: impl FnOnce(&super::clock::Clock)) {
        let clock = &self.clock;
        match &self.agent {
            Some(agent) => agent.turn(|| set(clock), clock, self.stalled),
            None => set(clock),
        }
    }

    /// Takes every block there is.
    pub fn fill_disk(&self) {
        let Ok(mut file) = std::fs::File::create(self.room.state().join("filler")) else {
            return; // full already
        };
        for size in [1 << 20, 4096, 1] {
            let zeros = vec![0; size];
            while file.write_all(&zeros).is_ok() {}
        }
    }

    /// As many connections as the kernel keeps in one network namespace. The limit is the machine's, which other programs
    /// need: it is reached, not lowered.
    fn fill_connections(&mut self) {
        let most = self
            .site
            .gateway()
            .shell("cat /proc/sys/net/netfilter/nf_conntrack_max");
        let most: u32 = most.trim().parse().expect("a number");
        let path = self.room.folder().join("connections");
        let entry = |n: u32| {
            let (port, other) = (n % 60_000 + 1, n / 60_000 + 1);
            format!("-A -s 10.20.0.12 -d 203.0.113.1 -p udp --sport {port} --dport {other} --timeout 30\n")
        };
        std::fs::write(&path, (0..most).map(entry).collect::<String>()).expect("a list of connections");
        // refuses the last ones when the table is full
        self.site
            .gateway()
            .run(&["sh", "-c", &format!("conntrack -R {} 2>/dev/null", path.display())]);
        let count = self
            .site
            .gateway()
            .shell("cat /proc/sys/net/netfilter/nf_conntrack_count");
        let count = count.trim().parse().expect("a number");
        self.figures.connections = self.figures.connections.max(count);
    }

    /// The tables in the hands of another process, which keeps the same devices cut off.
    fn hold_tables(&mut self) -> NftablesFirewall {
        self.kill();
        self.held_by_another = true;
        let isolated = CUT.map(|n| {
            let device = self.site.device(n);
            Isolated {
                label: format!("cam-{n}"),
                macs: [device.mac].into(),
                v4: [device.v4].into(),
                v6: [device.v6].into(),
                posture: Posture::Isolate,
                until: None,
            }
        });
        let policy = Policy {
            lan: self.site.lan(),
            isolated: isolated.into(),
            quiet_ports: None,
        };
        let mut firewall = self
            .site
            .gateway()
            .enter(|| NftablesFirewall::open(TableOwnership::Auto).expect("nftables"));
        let held = firewall.enforce(&policy, UnixTime::from_seconds(1_800_000_000));
        // a link that is away for the moment: then nobody holds them
        drop(held);
        firewall
    }

    fn misbehave(&mut self, chance: &mut Chance) {
        let publish = || "PublishToIoTCore".to_owned();
        let rule = match chance.below(10) {
            0 => Misbehave::Refuse {
                operation: publish(),
                code: "ServiceError".to_owned(),
            },
            1 => Misbehave::Refuse {
                operation: "*".to_owned(),
                code: "UnauthorizedError".to_owned(),
            },
            2 => Misbehave::Delay {
                operation: publish(),
                by: Duration::from_millis(chance.below(1_500)),
            },
            3 => Misbehave::NeverAnswer { operation: publish() },
            4 => Misbehave::NeverAnswer {
                operation: "*".to_owned(),
            },
            5 => Misbehave::LosePublish,
            6 => Misbehave::SwallowReplies,
            7 => Misbehave::GarbageReplies,
            8 => Misbehave::RejectReports {
                code: "Throttled".to_owned(),
            },
            _ => Misbehave::RejectReports {
                code: "InvalidPayload".to_owned(),
            },
        };
        if matches!(&rule, Misbehave::Refuse { operation, .. } | Misbehave::NeverAnswer { operation } if operation == "*")
        {
            self.expect("link lost");
        }
        self.nucleus.misbehave(rule);
    }

    /// What the cloud, and devices in their own classic shadows, may write.
    fn shadow_garbage(&self, chance: &mut Chance) {
        let odd = [
            json!("yes"),
            json!(7),
            json!([]),
            json!({}),
            json!({"mode": "explode"}),
            json!({"until": -1}),
            json!({"until": "never", "reason": "x".repeat(3_000)}),
            json!({"until": 1, "mode": "isolate"}),
            json!({"a": {"b": {"c": {"d": 1}}}}),
            json!("\u{0}\u{202e}\n"),
        ];
        for _ in 0..20 {
            let n = chance.below(12) as usize;
            let value = &odd[chance.below(odd.len() as u64) as usize];
            let document = json!({"state": {"desired": {"quarantine": value, "other": chance.word()}}});
            // the operator's things have no say in how the others' shadows stand
            drop(self.nucleus.shadow_update(&by_operator(n), Some("settings"), &document));
            drop(self.nucleus.shadow_update(&by_operator(n), None, &document));
        }
        for n in CUT {
            // a device writes what it likes into its own
            let lies = json!({"state": {
                "desired": {"quarantine": false},
                "reported": {"quarantine": false, "quarantineStatus": {"enforced": chance.word().to_string()}},
            }});
            drop(self.nucleus.shadow_update(&format!("cam-{n}"), None, &lies));
            if chance.below(2) == 0 {
                drop(self.nucleus.shadow_delete(&format!("cam-{n}"), None));
            }
        }
    }

    fn topic_garbage(&self, chance: &mut Chance) {
        for _ in 0..50 {
            let payload = match chance.below(4) {
                0 => chance.bytes(100),
                1 => vec![b'['; 60_000],
                2 => br#"{"macs":["02:00:00:00:00:01","02:00:00:00:00:fe","zz"],"version":-1,"state":7}"#.to_vec(),
                _ => Vec::new(),
            };
            let thing = match chance.below(3) {
                0 => "cam-0".to_owned(),
                1 => by_shadow(chance.below(12) as usize),
                _ => "gateway-1".to_owned(),
            };
            self.nucleus
                .deliver_local(&format!("edge-warden/things/{thing}/register"), &payload);
            for rest in ["get/accepted", "get/rejected", "update/accepted", "update/rejected"] {
                self.nucleus
                    .deliver(&format!("$aws/things/{thing}/shadow/name/quarantine/{rest}"), &payload);
            }
            for rest in ["accepted", "rejected"] {
                self.nucleus
                    .deliver(&format!("$aws/things/{thing}/defender/metrics/json/{rest}"), &payload);
            }
        }
    }

    /// Clients nobody wants. Those that are kept say nothing more.
    fn control_garbage(&self, chance: &mut Chance) -> Vec<UnixStream> {
        let mut kept = Vec::new();
        for _ in 0..40 {
            let Ok(mut stream) = UnixStream::connect(self.socket()) else {
                continue;
            };
            drop(stream.set_write_timeout(Some(Duration::from_millis(50))));
            let bytes = match chance.below(5) {
                0 => chance.bytes(200),
                1 => vec![b'{'; 100_000],
                2 => br#"{"verb":"quarantineRelease","thing":"cam-0","extra":1}"#.to_vec(),
                3 => b"{\"verb\":\"sta".to_vec(),
                _ => Vec::new(),
            };
            drop(stream.write_all(&bytes));
            if chance.below(3) == 0 && kept.len() < 8 {
                kept.push(stream);
            }
        }
        kept
    }

    fn lease_garbage(&self, chance: &mut Chance) {
        let path = self.room.folder().join("leases");
        remove(&path);
        match chance.below(5) {
            0 => std::fs::write(&path, chance.bytes(64 * 1024)).expect("a file"),
            1 => std::fs::write(&path, LEASES.repeat(40_000)).expect("a file"),
            2 => std::fs::create_dir(&path).expect("a folder"),
            3 => {
                let made = std::process::Command::new("mkfifo").arg(&path).status();
                assert!(made.expect("mkfifo").success());
            }
            _ => {}
        }
    }

    fn good_leases(&self) {
        let path = self.room.folder().join("leases");
        remove(&path);
        std::fs::write(&path, LEASES).expect("a lease file");
    }
}

fn remove(path: &std::path::Path) {
    if path.is_dir() {
        std::fs::remove_dir(path).expect("an empty folder");
    } else {
        drop(std::fs::remove_file(path));
    }
}

/// What no deployment should say.
fn invalid_configuration(chance: &mut Chance) -> Value {
    let deep = (0..60).fold(json!(1), |inner, _| json!([inner]));
    let all = [
        json!({"devices": "all of them"}),
        json!({"devices": [{"thingName": "no name!", "macs": ["zz"]}]}),
        json!({"quarantine": {"posture": 5, "tableOwnership": []}}),
        json!({"report": {"intervalSeconds": -1}}),
        json!({"sampleSeconds": 1e300}),
        json!({"nonsense": deep}),
        json!({"discovery": {"leases": [{"path": "../relative", "thingName": "{}"}]}}),
        json!({"detect": {"profiles": [{"securityProfileName": 7}]}}),
    ];
    all[chance.below(all.len() as u64) as usize].clone()
}
