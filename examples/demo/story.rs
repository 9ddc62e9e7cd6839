//! The story: what happens in which order, and what is measured of it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edge_warden::control::Request;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::record::{Cut, Document, Neighbours, Pretty, Record, Reports, Who};
use crate::stage::Stage;
use crate::tell::Tell;
use crate::traffic::{Counts, LISTED, Rogue, Traffic};

/// Who goes rogue first, on the bridge.
const CAMERA: usize = 0;
/// Who goes rogue later, behind a routed port.
const READER: usize = 3;
/// More bytes than this in five minutes are a mass upload: its everyday traffic would take ten minutes for them.
const MOST_BYTES: u64 = 3_000_000;
/// Who does nothing wrong all the time.
const NEIGHBOURS: [usize; 2] = [1, 2];

/// Plays it.
pub(crate) fn play(tell: &mut Tell, binary: &Path) -> anyhow::Result<Record> {
    tell.part("1  A site");
    let began = Instant::now();
    let mut stage = Stage::build(binary)?;
    let site_seconds = began.elapsed().as_secs_f64();
    tell.event(
        Who::Site,
        "network namespaces: a gateway with a bridge and a routed port, four devices, an internet behind NAT",
    );
    tell.line(&format!(
        "          gateway: ip netns exec {} sh",
        stage.site.gateway().ns
    ));
    for device in &stage.devices {
        tell.line(&format!(
            "          {:<13} {:<19} {}  {:<11} {}",
            device.thing, device.role, device.mac, device.address, device.place
        ));
    }

    tell.part("2  The agent, as it ships");
    let version = stage.version()?;
    let configuration = json!({
        "sampleSeconds": 1,
        "report": {"intervalSeconds": 5},
        "devices": stage.known_devices(),
        "detect": {"profiles": profiles()},
    });
    let start_seconds = stage.start_agent(&configuration)?.as_secs_f64();
    let binary_bytes = std::fs::metadata(binary)?.len();
    tell.command(
        Who::Warden,
        format!(
            "{version} runs on the gateway, {:.1} MB, answers after {:.0} ms",
            mega(binary_bytes),
            start_seconds * 1000.0
        ),
        "edge-warden run --standalone DIR --config config.json",
    );

    tell.part("3  Normal traffic");
    let traffic = Traffic::start(&stage.site, stage.devices.len(), tell.began());
    let counts = Arc::clone(&traffic.counts);
    tell.event(
        Who::Device,
        "every device sends telemetry and keeps a TCP connection to its service on the internet",
    );
    tell.pass(Duration::from_secs(6))?;
    let quiet_until = Instant::now();

    let mut play = Play {
        tell,
        stage: &stage,
        counts: &counts,
        cuts: Vec::new(),
        documents: Vec::new(),
    };
    play.the_camera()?;
    play.the_reader()?;
    let Play { cuts, documents, .. } = play;

    tell.part("6  What is left");
    let published = stage.published();
    let counts = traffic.finish();
    tell.event(Who::Site, "the devices stop; the agent and the namespaces go");
    let record = Record {
        date: Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
        version,
        binary_bytes,
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        site_seconds,
        start_seconds,
        seconds: tell.began().elapsed().as_secs_f64(),
        devices: stage.devices.clone(),
        events: std::mem::take(&mut tell.events),
        samples: counts.samples(),
        cuts,
        documents,
        neighbours: neighbours(&counts, quiet_until),
        reports: reports(&published, &stage),
        configuration: Pretty(configuration),
    };
    Ok(record)
}

/// AWS's own format. The camera is cut off at once by the gateway; about the reader only an event is sent.
fn profiles() -> Value {
    let address = json!({
        "comparisonOperator": "not-in-cidr-set",
        "value": {"cidrs": ["198.51.100.0/24"]},
        "consecutiveDatapointsToAlarm": 1,
        "consecutiveDatapointsToClear": 1,
    });
    let upload = json!({
        "comparisonOperator": "less-than",
        "value": {"count": MOST_BYTES},
        "durationSeconds": 300,
        "consecutiveDatapointsToAlarm": 1,
        "consecutiveDatapointsToClear": 1,
    });
    json!([
        {
            "profile": {
                "securityProfileName": "ThreatList",
                "behaviors": [{
                    "name": "NoListedAddress",
                    "metric": "aws:destination-ip-addresses",
                    "criteria": address,
                }],
            },
            "targets": ["camera-*", "plc-*", "thermostat-*"],
            "onAlarm": "quarantine",
        },
        {
            "profile": {
                "securityProfileName": "Volume",
                "behaviors": [{"name": "NoMassUpload", "metric": "aws:all-bytes-out", "criteria": upload}],
            },
            "targets": ["badge-*"],
            "onAlarm": "report",
        },
    ])
}

fn mega(bytes: u64) -> f64 {
    // exact far beyond any size of a binary
    f64::from(u32::try_from(bytes / 1000).unwrap_or(u32::MAX)) / 1000.0
}

/// The rogues' parts, and what is collected on the way.
struct Play<'a> {
    tell: &'a mut Tell,
    stage: &'a Stage,
    counts: &'a Arc<Counts>,
    cuts: Vec<Cut>,
    documents: Vec<Document>,
}

impl Play<'_> {
    /// A device on the bridge is taken over: the gateway itself notices, and acts.
    fn the_camera(&mut self) -> anyhow::Result<()> {
        self.tell
            .part("4  camera-1 is taken over: the gateway notices and acts by itself");
        let thing = self.thing(CAMERA);
        let began = Instant::now();
        let mut rogue = Rogue::take_over(&self.stage.site, self.counts, CAMERA, &NEIGHBOURS);
        self.tell.event(
            Who::Rogue,
            format!("{thing} floods the internet and plc-7, and scans its neighbours for open ports"),
        );
        self.tell.pass(Duration::from_secs(3))?;
        let rogue_at = Instant::now();
        rogue.call_home(&self.stage.site, CAMERA);
        self.tell.event(
            Who::Rogue,
            format!("{thing} opens a connection to {LISTED}, which is on a threat list"),
        );
        let violation = self.await_alarm(thing)?;
        let enforced_at = self.tell.wait(&format!("{thing} to be cut off"), || {
            let why = self.why(thing).ok()?;
            (why.get("enforced") == Some(&json!(true))).then(Instant::now)
        })?;
        self.tell.event_at(
            enforced_at,
            Who::Warden,
            format!("{thing} is cut off by the alarm, no cloud was asked"),
            None,
        );
        let demand = Demand {
            title: "alarm at the edge",
            demand: "it contacted the listed address",
            rogue_at: began,
            demanded_at: rogue_at,
            enforced_at,
            violation,
        };
        let cut = self.while_cut(CAMERA, &demand)?;
        drop(rogue);
        self.tell.event(
            Who::Device,
            format!("{thing} is repaired and does nothing wrong any more"),
        );
        let release_at = Instant::now();
        self.tell.command(
            Who::Operator,
            "the operator lets it go",
            &format!("edge-warden quarantine release {thing}"),
        );
        self.stage.cli(&["quarantine", "release", thing])?;
        self.released(CAMERA, &demand, cut, release_at)?;
        self.tell.pass(Duration::from_secs(4))
    }

    /// A device behind the routed port, by way of the cloud: the event, and the shadow update that the workshop's Lambda
    /// writes for it. No Lambda runs here; `cloud/tests/test_site.py` runs it.
    fn the_reader(&mut self) -> anyhow::Result<()> {
        self.tell
            .part("5  badge-reader leaks data: the gateway notices, a shadow decides");
        let thing = self.thing(READER);
        let rogue_at = Instant::now();
        let rogue = Rogue::exfiltrate(&self.stage.site, self.counts, READER);
        self.tell
            .event(Who::Rogue, format!("{thing} uploads to the internet as fast as it can"));
        let violation = self.await_alarm(thing)?;
        self.tell.pass(Duration::from_secs(2))?;
        let demanded_at = Instant::now();
        let mitigation = "no AWS here: a command writes into the shadow what the mitigation Lambda writes for that event \
                          (cloud/tests/test_site.py runs the Lambda itself)";
        self.write_shadow(thing, r#"{"quarantine": true}"#, mitigation)?;
        let enforced_at = self.await_enforced(thing, &json!(true))?;
        let took = enforced_at.saturating_duration_since(demanded_at);
        self.tell.event_at(
            enforced_at,
            Who::Warden,
            format!(
                "{thing} is cut off; its shadow reports what the kernel holds, {:.0} ms later",
                ms(took)
            ),
            None,
        );
        self.document(thing, "while it is cut off");
        let demand = Demand {
            title: "demand in the shadow",
            demand: "the shadow was written",
            rogue_at,
            demanded_at,
            enforced_at,
            violation,
        };
        let cut = self.while_cut(READER, &demand)?;
        drop(rogue);
        self.tell.event(Who::Device, format!("{thing} stops uploading"));
        let release_at = Instant::now();
        self.write_shadow(
            thing,
            r#"{"quarantine": false}"#,
            "a command takes the demand back, as a person in the cloud would",
        )?;
        self.await_enforced(thing, &json!(false))?;
        self.released(READER, &demand, cut, release_at)?;
        self.document(thing, "after the release");
        self.tell.pass(Duration::from_secs(4))
    }

    /// The alarm about a thing, as published.
    fn await_alarm(&mut self, thing: &str) -> anyhow::Result<Value> {
        let (seen_at, event) = self.tell.wait(&format!("an alarm about {thing}"), || {
            let published = self.stage.published();
            let found = published.into_iter().find(|message| {
                let field = |path: &str| message.pointer(path).and_then(Value::as_str).unwrap_or_default();
                field("/topic").ends_with("/violations")
                    && field("/payload/thingName") == thing
                    && field("/payload/violationEventType") == "in-alarm"
            });
            found.map(|message| (Instant::now(), message))
        })?;
        let event = event.get("payload").cloned().unwrap_or_default();
        let name = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or("?").to_owned();
        self.tell.event_at(
            seen_at,
            Who::Alarm,
            format!(
                "in alarm: {thing} violates {}/{}",
                name("/securityProfileName"),
                name("/behavior/name")
            ),
            None,
        );
        Ok(event)
    }

    /// Lets the device try for a while: how many stamped packets it sent, and how many the kernel says it dropped.
    fn while_cut(&mut self, n: usize, demand: &Demand) -> anyhow::Result<(u64, Option<u64>)> {
        let before = self.counts.stamped(n);
        self.tell.pass(Duration::from_secs(6))?;
        let attempts = self.counts.stamped(n).saturating_sub(before);
        let thing = self.thing(n);
        let dropped = self.why(thing)?.get("droppedPackets").and_then(Value::as_u64);
        let leaked = self.leaked(n, demand.enforced_at, Instant::now());
        self.tell.event(
            Who::Warden,
            format!("{thing} has tried {attempts} more stamped packets; {leaked} of them arrived anywhere"),
        );
        Ok((attempts, dropped))
    }

    /// Waits until the device is back, and keeps what was measured of the whole.
    fn released(
        &mut self,
        n: usize,
        demand: &Demand,
        (attempts, dropped): (u64, Option<u64>),
        release_at: Instant,
    ) -> anyhow::Result<()> {
        let first_passed_at = self.back(n, release_at)?;
        self.cuts.push(Cut {
            title: demand.title,
            device: n,
            demand: demand.demand,
            rogue_at: self.tell.at(demand.rogue_at),
            demanded_at: self.tell.at(demand.demanded_at),
            last_passed_at: self.last_passed(n, demand.rogue_at, release_at),
            enforced_at: self.tell.at(demand.enforced_at),
            release_at: self.tell.at(release_at),
            first_passed_at,
            attempts,
            leaked: self.leaked(n, demand.enforced_at, release_at),
            dropped,
            violation: Pretty(demand.violation.clone()),
        });
        Ok(())
    }

    fn thing(&self, n: usize) -> &'static str {
        self.stage.devices.get(n).map_or("?", |device| device.thing)
    }

    fn write_shadow(&mut self, thing: &str, desired: &str, what: &str) -> anyhow::Result<()> {
        let command = format!("edge-warden shadow {thing} '{desired}'");
        self.tell.command(Who::Cloud, what, &command);
        self.stage.cli(&["shadow", thing, desired]).map(|_| ())
    }

    /// When the shadow came to report this.
    fn await_enforced(&self, thing: &str, enforced: &Value) -> anyhow::Result<Instant> {
        self.tell
            .wait(&format!("{thing} to be reported enforced: {enforced}"), || {
                let document = self.stage.document(thing);
                let reported = document.pointer("/state/reported/quarantineStatus/enforced");
                (reported == Some(enforced)).then(Instant::now)
            })
    }

    fn leaked(&self, n: usize, from: Instant, to: Instant) -> u64 {
        u64::try_from(self.counts.passed(n, from, to).len()).unwrap_or(u64::MAX)
    }

    /// When the last packet was sent that arrived although it was sent before the release.
    fn last_passed(&self, n: usize, from: Instant, to: Instant) -> f64 {
        let last = self.counts.passed(n, from, to).last().copied();
        self.tell.at(last.unwrap_or(from))
    }

    /// Waits until the device's telemetry arrives again; when the first of it was sent.
    fn back(&mut self, n: usize, release_at: Instant) -> anyhow::Result<f64> {
        let far = release_at + Duration::from_secs(3600);
        let first = self.tell.wait("its telemetry to arrive again", || {
            self.counts.passed(n, release_at, far).first().copied()
        })?;
        let took = first.saturating_duration_since(release_at);
        let thing = self.thing(n);
        self.tell.event_at(
            Instant::now(),
            Who::Warden,
            format!(
                "{thing} is back: what it sent {:.0} ms after the release arrived",
                ms(took)
            ),
            None,
        );
        Ok(self.tell.at(first))
    }

    /// How it stands, as the agent reads it back from the kernel.
    fn why(&self, thing: &str) -> anyhow::Result<Value> {
        self.stage.ask(&Request::QuarantineWhy { thing: thing.parse()? })
    }

    fn document(&mut self, thing: &str, when: &str) {
        self.documents.push(Document {
            at: self.tell.at(Instant::now()),
            title: format!("{thing}, {when}"),
            document: Pretty(self.stage.document(thing)),
        });
    }
}

/// Why a device is cut off, and since when.
struct Demand {
    title: &'static str,
    demand: &'static str,
    rogue_at: Instant,
    demanded_at: Instant,
    enforced_at: Instant,
    violation: Value,
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn neighbours(counts: &Counts, quiet_until: Instant) -> Neighbours {
    let mut all = Neighbours {
        sent: 0,
        arrived: 0,
        requests: 0,
        answered: 0,
        slowest_ms: 0.0,
        slowest_before_ms: 0.0,
    };
    for n in NEIGHBOURS {
        let (sent, arrived) = counts.telemetry(n);
        let (requests, answers) = counts.session(n);
        all.sent += sent;
        all.arrived += arrived;
        all.requests += requests;
        all.answered += u64::try_from(answers.len()).unwrap_or(u64::MAX);
        for (when, took) in answers {
            all.slowest_ms = all.slowest_ms.max(ms(took));
            if when < quiet_until {
                all.slowest_before_ms = all.slowest_before_ms.max(ms(took));
            }
        }
    }
    all
}

fn reports(published: &[Value], stage: &Stage) -> Reports {
    let of = |thing: &str| format!("$aws/things/{thing}/defender/metrics/");
    let topic = |message: &Value| {
        message
            .get("topic")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let rogue = stage.devices.get(CAMERA).map_or("?", |device| device.thing);
    // the one with the most packets is the flood's
    let packets = |message: &&Value| {
        let path = "/payload/metrics/network_stats/packets_out";
        message.pointer(path).and_then(Value::as_u64).unwrap_or_default()
    };
    let example = published
        .iter()
        .filter(|message| topic(message).starts_with(&of(rogue)))
        .max_by_key(packets);
    Reports {
        count: published
            .iter()
            .filter(|message| topic(message).contains("/defender/metrics/"))
            .count(),
        example: example.and_then(|message| message.get("payload").cloned().map(Pretty)),
    }
}
