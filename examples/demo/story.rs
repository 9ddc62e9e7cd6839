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
    /// A device on the bridge is taken over.
    fn the_camera(&mut self) -> anyhow::Result<()> {
        self.tell.part("4  camera-1 is taken over");
        let thing = self.thing(CAMERA);
        let rogue_at = Instant::now();
        let rogue = Rogue::take_over(&self.stage.site, self.counts, CAMERA, &NEIGHBOURS);
        self.tell.event(
            Who::Rogue,
            format!("{thing} floods the internet and plc-7, scans its neighbours' ports, talks to {LISTED}"),
        );
        self.tell.pass(Duration::from_secs(3))?;
        let desired = r#"{"quarantine": {"mode": "isolate", "reason": "flood and port scan"}}"#;
        let demanded_at = Instant::now();
        self.write_shadow(
            thing,
            Some("quarantine"),
            desired,
            "an operator asks for quarantine in the named shadow",
        )?;
        let enforced_at = self.await_enforced(thing, Some("quarantine"), &json!(true))?;
        self.cut_told(thing, demanded_at, enforced_at);
        let before = self.counts.stamped(CAMERA);
        self.document(thing, Some("quarantine"), "while it is cut off");
        self.tell.pass(Duration::from_secs(6))?;
        let attempts = self.counts.stamped(CAMERA).saturating_sub(before);
        let dropped = self.dropped(thing)?;
        self.still_cut(thing, CAMERA, attempts, enforced_at);
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
        let first_passed_at = self.back(CAMERA, release_at)?;
        self.document(thing, Some("quarantine"), "after the release");
        let cut = Cut {
            title: "named shadow",
            demand: "the shadow was written",
            violation: None,
            device: CAMERA,
            rogue_at: self.tell.at(rogue_at),
            demanded_at: self.tell.at(demanded_at),
            last_passed_at: self.last_passed(CAMERA, rogue_at, release_at),
            enforced_at: self.tell.at(enforced_at),
            release_at: self.tell.at(release_at),
            first_passed_at,
            attempts,
            leaked: self.leaked(CAMERA, enforced_at, release_at),
            dropped,
        };
        self.cuts.push(cut);
        self.tell.pass(Duration::from_secs(4))
    }

    /// A device behind the routed port, by way of the cloud: Detect, SNS and the workshop's Lambda end in a shadow.
    fn the_reader(&mut self) -> anyhow::Result<()> {
        self.tell.part("5  badge-reader leaks data, and the cloud says so");
        let thing = self.thing(READER);
        let rogue_at = Instant::now();
        let rogue = Rogue::exfiltrate(&self.stage.site, self.counts, READER);
        self.tell
            .event(Who::Rogue, format!("{thing} uploads to the internet as fast as it can"));
        self.tell.pass(Duration::from_secs(3))?;
        let demanded_at = Instant::now();
        self.write_shadow(
            thing,
            None,
            r#"{"quarantine": true}"#,
            "the mitigation Lambda writes the thing's shadow",
        )?;
        let enforced_at = self.await_enforced(thing, None, &json!(true))?;
        self.cut_told(thing, demanded_at, enforced_at);
        let before = self.counts.stamped(READER);
        self.document(thing, None, "while it is cut off");
        self.tell.pass(Duration::from_secs(6))?;
        let attempts = self.counts.stamped(READER).saturating_sub(before);
        let dropped = self.dropped(thing)?;
        self.still_cut(thing, READER, attempts, enforced_at);
        drop(rogue);
        self.tell.event(Who::Device, format!("{thing} stops uploading"));

        let release_at = Instant::now();
        self.write_shadow(
            thing,
            None,
            r#"{"quarantine": false}"#,
            "the cloud takes the demand back",
        )?;
        self.await_enforced(thing, None, &json!(false))?;
        let first_passed_at = self.back(READER, release_at)?;
        self.document(thing, None, "after the release");
        let cut = Cut {
            title: "the workshop's Lambda",
            demand: "the shadow was written",
            violation: None,
            device: READER,
            rogue_at: self.tell.at(rogue_at),
            demanded_at: self.tell.at(demanded_at),
            last_passed_at: self.last_passed(READER, rogue_at, release_at),
            enforced_at: self.tell.at(enforced_at),
            release_at: self.tell.at(release_at),
            first_passed_at,
            attempts,
            leaked: self.leaked(READER, enforced_at, release_at),
            dropped,
        };
        self.cuts.push(cut);
        self.tell.pass(Duration::from_secs(4))
    }

    fn thing(&self, n: usize) -> &'static str {
        self.stage.devices.get(n).map_or("?", |device| device.thing)
    }

    fn write_shadow(&mut self, thing: &str, name: Option<&str>, desired: &str, what: &str) -> anyhow::Result<()> {
        let mut arguments = vec!["shadow", thing, desired];
        arguments.extend(name.into_iter().flat_map(|name| ["--name", name]));
        let named = name.map_or_else(String::new, |name| format!(" --name {name}"));
        let command = format!("edge-warden shadow {thing} '{desired}'{named}");
        self.tell.command(Who::Cloud, what, &command);
        self.stage.cli(&arguments).map(|_| ())
    }

    /// When the shadow came to report this.
    fn await_enforced(&self, thing: &str, name: Option<&str>, enforced: &Value) -> anyhow::Result<Instant> {
        self.tell
            .wait(&format!("{thing} to be reported enforced: {enforced}"), || {
                let document = self.stage.document(thing, name);
                let reported = document.pointer("/state/reported/quarantineStatus/enforced");
                (reported == Some(enforced)).then(Instant::now)
            })
    }

    fn cut_told(&mut self, thing: &str, demanded_at: Instant, enforced_at: Instant) {
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
    }

    fn still_cut(&mut self, thing: &str, n: usize, attempts: u64, since: Instant) {
        let leaked = self.leaked(n, since, Instant::now());
        self.tell.event(
            Who::Warden,
            format!("{thing} has tried {attempts} more stamped packets; {leaked} of them arrived anywhere"),
        );
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

    /// How many packets of it the kernel has dropped, as the agent reads them.
    fn dropped(&self, thing: &str) -> anyhow::Result<Option<u64>> {
        let why = self.stage.ask(&Request::QuarantineWhy { thing: thing.parse()? })?;
        Ok(why.get("droppedPackets").and_then(Value::as_u64))
    }

    fn document(&mut self, thing: &str, name: Option<&str>, when: &str) {
        let kind = name.map_or_else(|| "classic shadow".to_owned(), |name| format!("shadow {name}"));
        self.documents.push(Document {
            at: self.tell.at(Instant::now()),
            title: format!("{thing}, {kind}, {when}"),
            document: Pretty(self.stage.document(thing, name)),
        });
    }
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
