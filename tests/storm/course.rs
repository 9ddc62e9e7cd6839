//! One storm from beginning to end: who is cut off, what happens, and what must hold of it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use edge_warden::control::{Request, ask};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::clock::Clock;
use super::decisions::{Churn, EACH, Ledger, SHADOW, by_operator, by_shadow};
use super::faults::Active;
use super::room::{Agent, Room};
use super::schedule::{Chance, Fault, Step, schedule};
use super::traffic::{Arrival, Arrivals, Going, plant_leak};
use crate::support::binary::{access_control, is_packaged};
use crate::support::nucleus::defender::report_topic;
use crate::support::nucleus::{Kind, Settings, TestNucleus};
use crate::support::site::{Options, Site, until};
use crate::support::warden::now;
use crate::{FACTOR, SOON};

/// The devices that are cut off all the time: one on the bridge, one on the plain interface.
pub const CUT: [usize; 2] = [0, 3];
/// One that is not, and shows that the ways are open.
const WITNESS: usize = 2;
/// Least time between two reports of a thing, in seconds (AWS IoT developer guide, "Sending metrics").
const FLOOR: u64 = 300;
/// The agent must answer a question within this, once the storm is over.
const ANSWERS: Duration = Duration::from_secs(5);
/// Files that come and go: a client on the control socket, a source being read.
const FILES: usize = 3;
/// A gap with plain tables while the agent was there to mend them. Generous: the machine is busy; the figure is printed.
const LONGEST_GAP: Duration = Duration::from_secs(5);

/// What a storm was like.
#[derive(Debug, Default)]
pub struct Figures {
    pub seed: u64,
    pub ownership: &'static str,
    pub nucleus: &'static str,
    pub faults: BTreeMap<Fault, u64>,
    pub starts: u64,
    pub exits: BTreeMap<String, u64>,
    /// Packets of the cut devices after they were cut, and those of them that got through while the tables were to be there,
    /// and in a gap after somebody took them away.
    pub sent: u64,
    pub leaks: usize,
    pub in_gaps: usize,
    pub gaps: Vec<Duration>,
    pub witness: usize,
    pub acknowledged: u64,
    pub reports: usize,
    pub closest: Option<u64>,
    pub slowest: Duration,
    pub resident: [u64; 3],
    pub files: [usize; 3],
    pub macs: u64,
    pub connections: u64,
    pub seconds: u64,
}

/// A time in which tables may have been away.
#[derive(Debug, Clone, Copy)]
pub struct Gap {
    pub from: Instant,
    to: Option<Instant>,
    /// No agent was there to mend them at some time in it.
    alone: bool,
}

pub struct Storm {
    pub agent: Option<Agent>,
    pub stalled: bool,
    /// The next exit was brought about: by SIGKILL, by SIGTERM, by breaking the connection.
    expected: BTreeSet<&'static str>,
    pub active: Vec<Active>,
    pub nucleus: Arc<TestNucleus>,
    pub room: Room,
    pub clock: Arc<Clock>,
    pub site: Site,
    pub ownership: &'static str,
    pub chance: Chance,
    pub figures: Figures,
    pub ledger: Arc<Mutex<Ledger>>,
    pub gaps: Vec<Gap>,
    pub cut: Option<Instant>,
    answered: bool,
    checked: bool,
    /// The tables were taken by another process, and the agent has not said since that it has them.
    pub held_by_another: bool,
    looked: Instant,
    wrong: Vec<String>,
}

/// The things of the site, in a file of their own: a nucleus' answer has no room for them all.
const DEVICES: &str = "devices.json";

fn devices(site: &Site) -> Value {
    let cameras = (0..4).map(|n| {
        let device = site.device(n);
        json!({"thingName": format!("cam-{n}"), "macs": [device.mac.to_string()], "addresses": [device.v4, device.v6]})
    });
    let other = |kind: u8, n: usize, name: String| json!({"thingName": name, "macs": [format!("02:cc:00:00:{kind:02x}:{n:02x}")], "report": false});
    let others = (0..EACH).flat_map(|n| [other(1, n, by_operator(n)), other(2, n, by_shadow(n))]);
    json!({"devices": cameras.chain(others).collect::<Value>()})
}

/// The component configuration.
pub fn configuration(folder: &std::path::Path, ownership: &str) -> Value {
    json!({
        "sampleSeconds": 20,
        "include": [folder.join(DEVICES)],
        "discovery": {"leases": [{"path": folder.join("leases")}]},
        "quarantine": {"tableOwnership": ownership},
    })
}

impl Storm {
    /// A site, a nucleus, an agent that runs.
    pub fn prepare(seed: u64, ownership: &'static str) -> Self {
        let mut chance = Chance::new(seed);
        let site = Site::build(Options::default());
        site.gateway().shell(super::faults::ROUTES);
        let clock = Arc::new(Clock::new(FACTOR));
        let room = Room::new(site.gateway(), FACTOR);
        std::fs::write(room.folder().join("leases"), super::faults::LEASES).expect("a lease file");
        std::fs::write(room.folder().join(DEVICES), devices(&site).to_string()).expect("a list of devices");
        let truth = Arc::clone(&clock);
        let kind = if chance.below(2) == 0 {
            Kind::Classic
        } else {
            Kind::Lite
        };
        let nucleus = Arc::new(TestNucleus::start(Settings {
            configuration: configuration(room.folder(), ownership),
            access_control: Some(access_control()),
            enforce_rate: Some(Arc::new(move || truth.truth())),
            ..match kind {
                Kind::Classic => Settings::classic(),
                Kind::Lite => Settings::lite(),
            }
        }));
        let mut storm = Self {
            agent: None,
            stalled: false,
            expected: BTreeSet::new(),
            active: Vec::new(),
            nucleus,
            room,
            clock,
            site,
            ownership,
            chance,
            figures: Figures {
                seed,
                ownership,
                nucleus: if kind == Kind::Classic { "classic" } else { "lite" },
                ..Figures::default()
            },
            ledger: Arc::default(),
            gaps: Vec::new(),
            cut: None,
            answered: false,
            checked: false,
            held_by_another: false,
            looked: now(),
            wrong: Vec::new(),
        };
        storm.launch();
        storm.await_answer();
        assert!(storm.wrong.is_empty(), "{:?}\n{}", storm.wrong, storm.log());
        storm
    }

    pub fn socket(&self) -> PathBuf {
        self.room.state().join("control.sock")
    }

    pub fn launch(&mut self) {
        assert!(self.agent.is_none(), "one agent at a time");
        self.agent = Some(self.room.launch(&self.nucleus, &self.clock));
        self.figures.starts += 1;
        (self.stalled, self.answered, self.checked) = (false, false, false);
        // what a nucleus that refuses everything does to one, it does to the next
        if self.nucleus_is_well() {
            self.expected.clear();
        }
    }

    /// `kill -9`, also of one that stands still.
    pub fn kill(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.kill();
            *self.figures.exits.entry("killed".to_owned()).or_default() += 1;
        }
        self.nobody_mends();
    }

    /// The next exit may be this one.
    pub fn expect(&mut self, how: &'static str) {
        self.expected.insert(how);
    }

    /// Plain tables that are away stay so.
    pub fn nobody_mends(&mut self) {
        self.gaps
            .iter_mut()
            .filter(|gap| gap.to.is_none())
            .for_each(|gap| gap.alone = true);
    }

    /// From now on tables may be away: plain ones always, owned ones while it is not certain that a living agent owns them,
    /// because none answered yet, one is about to end, or another process had them.
    pub fn tables_away(&mut self) {
        let lives = self.agent.is_some() && self.answered && self.expected.is_empty();
        if self.ownership == "off" || !lives || self.held_by_another {
            let alone = !lives || self.stalled;
            self.gaps.push(Gap {
                from: now(),
                to: None,
                alone,
            });
        }
    }

    /// Whether the agent says that the cut devices are, in the kernel.
    fn enforces(list: &Value) -> bool {
        let rows = list.as_array().into_iter().flatten();
        let cut = CUT.map(|n| format!("cam-{n}"));
        let held = rows.filter(|row| cut.iter().any(|thing| row["thing"] == *thing) && row["enforced"] == true);
        held.count() == CUT.len()
    }

    /// Whether the kernel holds both cut devices, by what `nft` says.
    fn held(&self) -> bool {
        let rules = self.site.gateway().run(&["nft", "list", "ruleset"]);
        let rules = String::from_utf8_lossy(&rules.stdout).into_owned();
        let table = |family: &str| {
            let rest = rules
                .split_once(&format!("table {family} edge_warden {{"))
                .map(|(_, rest)| rest);
            rest.map_or("", |rest| rest.split_once("\n}").map_or(rest, |(table, _)| table))
        };
        let has = |family: &str, n: usize| table(family).contains(&self.site.device(n).mac.to_string());
        has("bridge", 0) && has("netdev", 3) && table("netdev").contains("hook ingress")
    }

    fn ended(&mut self) {
        let Some(status) = self.agent.as_mut().and_then(Agent::ended) else {
            return;
        };
        self.agent = None;
        self.nobody_mends();
        let how = match (status.code(), status.signal()) {
            (Some(0), _) => "stopped",
            (Some(1), _) => "link lost",
            // before it catches the signal
            (None, Some(15)) => "stopped",
            (Some(code), _) => return self.surprise(format!("ended with code {code}")),
            (None, signal) => return self.surprise(format!("ended by signal {signal:?}")),
        };
        *self.figures.exits.entry(how.to_owned()).or_default() += 1;
        if !self.expected.remove(how) {
            self.surprise(format!("ended, {how}, and nothing had been done to it"));
        }
    }

    /// Something that must not be; told at the end, with what else there is.
    pub fn surprise(&mut self, what: impl AsRef<str>) {
        let what = what.as_ref();
        let lines = self.room.output("stderr");
        let last: Vec<&str> = lines.lines().rev().take(3).collect();
        self.wrong
            .push(format!("{what} (stderr ends with {last:?}; active: {:?})", self.active));
    }

    /// What goes on all the time: as the nucleus, starts the agent again when it ended; ends what is over; looks.
    pub fn tick(&mut self) {
        self.ended();
        if self.agent.is_none() {
            self.launch();
        }
        while let Some(index) = self.active.iter().position(|active| active.until <= now()) {
            let active = self.active.swap_remove(index);
            self.end(active);
        }
        if self.gaps.iter().any(|gap| gap.to.is_none()) && self.held() {
            let after = now();
            self.gaps
                .iter_mut()
                .filter(|gap| gap.to.is_none())
                .for_each(|gap| gap.to = Some(after));
        }
        if let Some(agent) = &self.agent {
            let [_, most, _] = &mut self.figures.resident;
            *most = agent.kib("VmHWM").unwrap_or(0).max(*most);
            let [_, most, _] = &mut self.figures.files;
            *most = agent.files().len().max(*most);
        }
        if !self.stalled && (!self.checked || self.looked.elapsed() > Duration::from_millis(700)) {
            self.look();
        }
    }

    /// Asks the agent what it holds to.
    fn look(&mut self) {
        let asked = now();
        if self.answered {
            if ask(&self.socket(), &Request::Status).is_ok() {
                self.figures.slowest = asked.elapsed().max(self.figures.slowest);
            }
            self.looked = now();
        }
        let mut ledger = self.ledger.lock().expect("the ledger");
        if self.nucleus_is_well() {
            ledger.read_shadows(&self.nucleus);
        }
        // nothing is acknowledged between the question and the comparison: both are behind the lock
        let Ok(list) = ask(&self.socket(), &Request::QuarantineList) else {
            return;
        };
        let mut lost = ledger.lost(&list);
        drop(ledger);
        let holder = self.active.iter().any(|active| active.fault == Fault::ForeignHolder);
        self.held_by_another &= holder || !Self::enforces(&list);
        for n in CUT.iter().filter(|_| self.cut.is_some()) {
            let row = list
                .as_array()
                .into_iter()
                .flatten()
                .find(|row| row["thing"] == format!("cam-{n}"));
            let causes = row.map(|row| row["causes"].to_string()).unwrap_or_default();
            if !causes.contains("shadow:quarantine") || !causes.contains("operator") {
                lost.push(format!("cam-{n}: {causes}"));
            }
        }
        (self.answered, self.checked) = (true, true);
        if !lost.is_empty() {
            self.surprise(format!("lost: {}", lost.join("; ")));
        }
    }

    fn nucleus_is_well(&self) -> bool {
        !self
            .active
            .iter()
            .any(|active| active.fault == Fault::NucleusMisbehaves)
    }

    pub fn await_answer(&mut self) {
        let answers = until(SOON, || {
            self.tick();
            self.answered
        });
        assert!(answers, "the agent does not answer: {:?}\n{}", self.wrong, self.log());
    }

    fn log(&self) -> String {
        format!("{}\n{}", self.room.output("stdout"), self.room.output("stderr"))
    }

    /// Cuts off those that stay so, by the cloud and by the operator; until when nobody lives to see.
    pub fn cut_off(&mut self) {
        let until_then = self.clock.truth() + 40 * 86_400;
        for n in CUT {
            let thing = format!("cam-{n}");
            let quarantine = match n {
                0 => json!(true),
                _ => json!({"mode": "isolate", "until": until_then}),
            };
            let document = json!({"state": {"desired": {"quarantine": quarantine}}});
            self.nucleus
                .shadow_update(&thing, Some(SHADOW), &document)
                .expect("a shadow");
            self.nucleus.wait_shadow(&thing, Some(SHADOW), SOON, |document| {
                document["state"]["reported"]["quarantineStatus"]["enforced"] == true
            });
            let request = Request::QuarantineAdd {
                thing: thing.parse().expect("a thing name"),
                posture: None,
                until: None,
                reason: None,
            };
            ask(&self.socket(), &request).expect("an answer");
        }
        self.cut = Some(now());
    }

    /// What got through of what a cut device sent since, within the gaps and outside of them.
    fn leaks(&self, arrivals: &Arrivals) -> (Vec<Arrival>, Vec<Arrival>) {
        let cut = self.cut.expect("somebody is cut off");
        let all = CUT.into_iter().flat_map(|n| arrivals.of(n, cut));
        all.partition(|arrival| {
            let within = |gap: &Gap| gap.from <= arrival.sent && gap.to.is_none_or(|to| arrival.sent <= to);
            !self.gaps.iter().any(within)
        })
    }

    fn weather(&mut self, steps: &[Step]) {
        let start = now();
        for step in steps {
            while start.elapsed() < step.at {
                self.tick();
                // leaves the processor to those who are looked at
                std::thread::sleep(Duration::from_millis(10));
            }
            self.tick();
            if std::env::var_os("EDGE_WARDEN_STORM_TRACE").is_some() {
                println!("{:?} {:?} for {:?}", start.elapsed(), step.fault, step.lasts);
            }
            *self.figures.faults.entry(step.fault).or_default() += 1;
            self.begin(step);
        }
    }

    /// The storm is over: everything is as it was, and the agent comes to terms with it; whether it does.
    fn calm(&mut self) -> bool {
        for active in std::mem::take(&mut self.active) {
            self.end(active);
        }
        self.repair();
        self.await_answer();
        let mut why = String::new();
        let settled = until(SOON, || {
            self.tick();
            why = self.unsettled();
            why.is_empty()
        });
        if !settled {
            self.surprise(format!("after the storm: {why}"));
        }
        settled
    }

    /// What is not yet as it should be.
    fn unsettled(&mut self) -> String {
        let mut ledger = self.ledger.lock().expect("the ledger");
        ledger.read_shadows(&self.nucleus);
        let waiting = ledger.waiting();
        drop(ledger);
        if !waiting.is_empty() {
            return format!("the cloud waits for {waiting:?}");
        }
        if self.gaps.iter().any(|gap| gap.to.is_none()) {
            return "tables are away".to_owned();
        }
        let Ok(status) = ask(&self.socket(), &Request::Status) else {
            return "no status".to_owned();
        };
        if !status["quarantine"]["trouble"]
            .as_object()
            .is_some_and(serde_json::Map::is_empty)
        {
            return format!("trouble: {}", status["quarantine"]);
        }
        if !status["reports"]["saveError"].is_null() {
            return format!("{}", status["reports"]["saveError"]);
        }
        String::new()
    }

    /// One storm; what was wrong with it is told at the end.
    pub fn run(mut self, length: Duration) -> Result<Figures, String> {
        let arrivals = Arrivals::watch(&self.site);
        let senders: Vec<Going> = [CUT[0], CUT[1], WITNESS].map(|n| Going::device(&self.site, n)).into();
        // Positive control: every way is open to those who are to be cut off.
        let start = now();
        for n in CUT {
            assert!(until(SOON, || arrivals.open(n, ways(n), start)), "device {n} is open");
        }
        self.cut_off();
        let cut = self.cut.expect("just now");
        let before: u64 = senders[..2].iter().map(Going::sent).sum();
        // Positive control: a leak would be seen.
        plant_leak(&self.site, CUT[0]);
        assert!(
            until(SOON, || self.leaks(&arrivals).0.len() == 1),
            "the planted leak: {:?}",
            self.leaks(&arrivals)
        );
        let planted = now();
        let ledger = Arc::clone(&self.ledger);
        let churn = Churn::start(&ledger, &self.nucleus, self.socket(), self.chance.fork());
        let kinds: Vec<Fault> = Fault::ALL.into_iter().filter(|fault| self.possible(*fault)).collect();
        let steps = schedule(&mut self.chance, length, &kinds);
        self.weather(&steps);
        drop(churn);
        if !self.calm() {
            return self.verdict();
        }

        // One process through everything it can live through, and back to where it was.
        self.measure(0);
        let survivable: Vec<Fault> = kinds.into_iter().filter(|fault| fault.survivable()).collect();
        let (starts, steps) = (
            self.figures.starts,
            schedule(&mut self.chance, Duration::from_millis(1), &survivable),
        );
        self.weather(&steps);
        if !self.calm() {
            return self.verdict();
        }
        if self.figures.starts != starts {
            self.surprise("it did not live through what it should");
        }
        let margin = if is_packaged() { 16 * 1024 } else { 32 * 1024 };
        let settled = until(SOON, || {
            self.tick();
            self.measure(2);
            let ([before, _, after], [files, _, open]) = (self.figures.resident, self.figures.files);
            after <= before + margin && open <= files + FILES
        });
        if !settled {
            let files = self.agent.as_ref().map(Agent::files);
            let (memory, count) = (self.figures.resident, self.figures.files);
            self.surprise(format!(
                "memory {memory:?} KiB, files {count:?} do not come back: {files:?}"
            ));
        }
        let asked = now();
        if ask(&self.socket(), &Request::Status).is_err() || asked.elapsed() > ANSWERS {
            self.surprise(format!("status took {:?}", asked.elapsed()));
        }

        // Whoever is released is heard again: it was the quarantine that kept them silent, not a broken way.
        self.figures.sent = senders[..2].iter().map(Going::sent).sum::<u64>() - before;
        self.figures.witness = arrivals.of(WITNESS, cut).len();
        let (leaks, in_gaps) = self.leaks(&arrivals);
        let leaks: Vec<Arrival> = leaks.into_iter().filter(|leak| leak.sent > planted).collect();
        self.judge_leaks(&leaks, &in_gaps);
        self.cut = None;
        for n in CUT {
            let thing = format!("cam-{n}");
            let document = json!({"state": {"desired": {"quarantine": false}}});
            self.nucleus
                .shadow_update(&thing, Some(SHADOW), &document)
                .expect("a shadow");
            let released = Request::QuarantineRelease {
                thing: thing.parse().expect("a thing name"),
            };
            ask(&self.socket(), &released).expect("an answer");
            let after = now();
            if !until(SOON, || arrivals.open(n, ways(n), after)) {
                self.surprise(format!("device {n} is not heard again after its release"));
            }
        }
        if self.figures.witness == 0 {
            self.surprise("the device that is not cut off was not heard during the storm");
        }
        self.finish()
    }

    fn measure(&mut self, when: usize) {
        if let Some(agent) = &self.agent {
            self.figures.resident[when] = agent.kib("VmRSS").unwrap_or(0);
            self.figures.files[when] = agent.files().len();
        }
    }

    fn judge_leaks(&mut self, leaks: &[Arrival], in_gaps: &[Arrival]) {
        self.figures.leaks = leaks.len();
        self.figures.in_gaps = in_gaps.len();
        if let Some(first) = leaks.first() {
            let since = self.cut.map(|cut| first.sent - cut);
            self.surprise(format!(
                "{} leaks; the first, {since:?} after the cut: {first:?}",
                leaks.len()
            ));
        }
        for gap in self.gaps.iter().filter(|gap| !gap.alone) {
            let passed = in_gaps.iter().map(|arrival| arrival.sent);
            let passed: Vec<Instant> = passed
                .filter(|sent| gap.from <= *sent && gap.to.is_none_or(|to| *sent <= to))
                .collect();
            let ends = passed.iter().max().zip(passed.iter().min());
            self.figures
                .gaps
                .push(ends.map(|(last, first)| *last - *first).unwrap_or_default());
        }
        self.figures.gaps.sort();
        if self.figures.gaps.last().is_some_and(|longest| *longest > LONGEST_GAP) {
            self.surprise(format!("gaps {:?}", self.figures.gaps));
        }
    }

    /// Waits until AWS got so many reports more.
    pub fn await_reports(&self, more: usize) {
        let before = self.nucleus.reports().len();
        self.nucleus.wait_for("reports", SOON, |seen| {
            (seen.reports.len() >= before + more).then_some(())
        });
    }

    /// What can be judged only when it is all over.
    pub fn finish(mut self) -> Result<Figures, String> {
        self.expect("stopped");
        if let Some(agent) = &self.agent {
            agent.signal(Signal::TERM);
        }
        let stopped = until(SOON, || {
            self.ended();
            self.agent.is_none()
        });
        if !stopped {
            let threads = self.agent.as_ref().map(Agent::threads);
            self.surprise(format!("SIGTERM does not end it: {threads:#?}"));
        }
        let errors = self.room.output("stderr");
        for words in ["panicked at", "RUST_BACKTRACE", "overflow"] {
            if let Some(line) = errors.lines().find(|line| line.contains(words)) {
                self.surprise(format!("stderr: {line}"));
            }
        }
        self.judge_reports();
        let audit = std::fs::read(self.room.state().join("audit.jsonl")).unwrap_or_default();
        let lines = String::from_utf8_lossy(&audit).into_owned();
        let garbled: Vec<&str> = lines
            .lines()
            .filter(|line| serde_json::from_str::<Value>(line).is_err())
            .collect();
        let decided = self.ledger.lock().expect("the ledger").acknowledged > 0;
        if (lines.is_empty() && decided) || !garbled.is_empty() {
            self.surprise(format!(
                "audit log: {} lines, garbled: {garbled:?}",
                lines.lines().count()
            ));
        }
        // a client killed in the middle of a message is no violation
        let violations = self.nucleus.seen().violations;
        let violations: Vec<&String> = violations.iter().filter(|words| !words.contains("Truncated")).collect();
        if !violations.is_empty() {
            self.surprise(format!("against the protocol: {violations:?}"));
        }
        if is_packaged() && self.figures.resident[1] > 32 * 1024 {
            self.surprise(format!("{} KiB resident at the most", self.figures.resident[1]));
        }
        self.verdict()
    }

    fn verdict(mut self) -> Result<Figures, String> {
        self.figures.acknowledged = self.ledger.lock().expect("the ledger").acknowledged;
        let figures = std::mem::take(&mut self.figures);
        if self.wrong.is_empty() {
            return Ok(figures);
        }
        let seed = figures.seed;
        Err(format!(
            "seed {seed}, tables {}:\n{}\n{:#?}\n--- log\n{}",
            self.ownership,
            self.wrong.join("\n"),
            figures,
            self.log()
        ))
    }

    /// Every publish that reached AWS, by AWS's clock.
    fn judge_reports(&mut self) {
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        let mut wrong = Vec::new();
        for published in self.nucleus.published() {
            let Some((thing, _)) = report_topic(&published.topic) else {
                continue;
            };
            self.figures.reports += 1;
            if let Some(before) = last.insert(thing.to_owned(), published.at) {
                let apart = published.at - before;
                self.figures.closest = Some(self.figures.closest.map_or(apart, |least| least.min(apart)));
                if apart < FLOOR {
                    wrong.push(format!("two reports of {thing} {apart} s apart"));
                }
            }
        }
        let rejected = self
            .nucleus
            .reports()
            .into_iter()
            .filter_map(|report| Some((report.thing, report.verdict.err()?)));
        let rejected = rejected.filter(|(_, (_, why))| why != "the test said so");
        wrong.extend(rejected.map(|(thing, why)| format!("a report of {thing} rejected: {why:?}")));
        if self.figures.reports == 0 {
            wrong.push("no report".to_owned());
        }
        wrong.into_iter().for_each(|what| self.surprise(what));
    }
}

fn ways(n: usize) -> &'static [&'static str] {
    match n {
        3 => &["internet v4", "internet v6"],
        _ => &["internet v4", "internet v6", "neighbour"],
    }
}
