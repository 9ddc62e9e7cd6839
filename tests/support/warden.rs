//! The agent, as the binary it ships as, on the gateway of a [`Site`], and what its devices notice of it.
//!
//! `EDGE_WARDEN_BINARY` names another binary than the one cargo just built (a packaged one).

use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use edge_warden::control::{AskError, Request, ask};
use serde_json::{Value, json};

use super::site::{Host, Options, Site, Wire, until};

/// How long the agent may take for what it does in its own time. Generous: the machine may be busy.
pub const SOON: Duration = Duration::from_secs(30);
/// Things of the site's devices 0 to 3.
pub const THINGS: [&str; 4] = ["cam-0", "cam-1", "cam-2", "cam-3"];
/// Destination port of [`Flood`]s.
const FLOOD_PORT: u16 = 7777;
/// Ethertype of [`Flood`]s within the LAN: one for local experiments (IEEE 802).
const FLOOD_TYPE: [u8; 2] = [0x88, 0xb5];

/// Whether the agent's folder is to be on a disk, which decides over the latency of some steps.
pub static ON_DISK: AtomicBool = AtomicBool::new(false);

/// The time, for deadlines and measurements of a test.
#[allow(clippy::disallowed_methods, reason = "a test's own clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// What the times in packets count from.
static BEGINNING: OnceLock<Instant> = OnceLock::new();

/// The time as packets carry it: nanoseconds since the first of them.
fn stamp() -> [u8; 8] {
    let passed = now().saturating_duration_since(*BEGINNING.get_or_init(now));
    u64::try_from(passed.as_nanos()).expect("a test is short").to_be_bytes()
}

/// The wall clock in seconds, for `until`.
#[allow(clippy::disallowed_methods, reason = "a test's own clock")]
pub fn epoch() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("after 1970").as_secs()
}

/// A site with the agent on its gateway.
pub struct Guarded {
    pub site: Site,
    pub dir: PathBuf,
    pub binary: PathBuf,
    /// How many times faster than time the agent's clocks run.
    pub factor: u32,
    folder: tempfile::TempDir,
    resolver: PathBuf,
    agent: Option<Child>,
}

/// The `devices` entries of the site's devices.
pub fn devices(site: &Site) -> Value {
    let entry = |(n, thing): (usize, &&str)| {
        let device = site.device(n);
        json!({
            "thingName": thing,
            "macs": [device.mac.to_string()],
            "addresses": [device.v4, device.v6, device.link_local],
        })
    };
    THINGS.iter().enumerate().map(entry).collect()
}

impl Guarded {
    /// A site, and on its gateway an agent that knows the four devices, with this `quarantine` section.
    pub fn start(quarantine: &Value) -> Self {
        let mut guarded = Self::prepare();
        let configuration = json!({"devices": devices(&guarded.site), "quarantine": quarantine});
        guarded.configure(&configuration);
        guarded.run();
        guarded
    }

    /// A site without an agent yet.
    pub fn prepare() -> Self {
        let site = Site::build(Options::default());
        // what makes an uplink of the link to the internet
        site.gateway()
            .shell("ip route add default via 203.0.113.1; ip -6 route add default via 2001:db8::1 dev wan0");
        let resolver = Path::new("/etc/netns").join(&site.gateway().ns);
        std::fs::create_dir_all(&resolver).expect("a folder for resolv.conf");
        std::fs::write(resolver.join("resolv.conf"), "nameserver 203.0.113.1\n").expect("resolv.conf");
        // in memory: what a test says must not depend on who else waits for the disk
        let memory = Path::new("/dev/shm");
        let folder = match memory.is_dir() && !ON_DISK.load(Ordering::Relaxed) {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        let folder = folder.expect("a folder");
        let binary = std::env::var_os("EDGE_WARDEN_BINARY").map_or_else(
            || PathBuf::from(env!("CARGO_BIN_EXE_edge-warden")),
            |path| std::path::absolute(path).expect("EDGE_WARDEN_BINARY"),
        );
        Self {
            dir: folder.path().join("agent"),
            site,
            binary,
            factor: 1,
            folder,
            resolver,
            agent: None,
        }
    }

    /// The gateway's resolver from the agent's next start on.
    pub fn set_resolver(&self, server: IpAddr) {
        std::fs::write(self.resolver.join("resolv.conf"), format!("nameserver {server}\n")).expect("resolv.conf");
    }

    /// Write the configuration file. The reports are none of this test's business.
    pub fn configure(&self, configuration: &Value) {
        std::fs::write(self.config(), configuration.to_string()).expect("the configuration");
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("config.json")
    }

    /// Where the agent's output is.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Start the agent and wait until it answers.
    pub fn run(&mut self) {
        self.launch();
        self.await_answer();
    }

    /// Start the agent.
    pub fn launch(&mut self) {
        assert!(self.agent.is_none(), "one agent at a time");
        let mut log = std::fs::OpenOptions::new();
        let log = log.create(true).append(true).open(self.folder.path().join("log"));
        let log = log.expect("a log file");
        let child = Command::new("ip")
            .args(["netns", "exec", &self.site.gateway().ns])
            .arg(&self.binary)
            .args(["run", "--standalone"])
            .arg(&self.dir)
            .arg("--config")
            .arg(self.config())
            .args(["--accelerate", &self.factor.to_string()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log file"))
            .stderr(log)
            .spawn()
            .expect("the agent");
        self.agent = Some(child);
    }

    /// Wait until the agent answers.
    pub fn await_answer(&mut self) {
        let answers = until(SOON, || {
            let ended = self.agent.as_mut().and_then(|agent| agent.try_wait().expect("a child"));
            assert!(ended.is_none(), "the agent ended ({ended:?}):\n{}", self.log());
            self.ask(&Request::Status).is_ok()
        });
        assert!(answers, "the agent does not answer:\n{}", self.log());
    }

    /// Start the agent, which is to end by itself; its exit code.
    pub fn launch_in_vain(&mut self) -> Option<i32> {
        self.launch();
        let mut ended = None;
        let agent = self.agent.as_mut().expect("just started");
        let over = until(SOON, || {
            ended = agent.try_wait().expect("a child");
            ended.is_some()
        });
        assert!(over, "it goes on:\n{}", self.log());
        self.agent = None;
        ended.and_then(|status| status.code())
    }

    /// Send the agent a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let id = self.agent.as_ref().and_then(|agent| i32::try_from(agent.id()).ok());
        let id = id.and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(id.expect("it runs"), signal).expect("a signal");
    }

    fn pid(&self) -> u32 {
        self.agent.as_ref().expect("it runs").id()
    }

    /// CPU time the agent has used, user and system (proc_pid_stat(5), fields 14 and 15).
    pub fn cpu_millis(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("it runs");
        let (_, fields) = stat.rsplit_once(") ").expect("a name in brackets");
        let ticks = fields
            .split(' ')
            .skip(11)
            .take(2)
            .map(|ticks| ticks.parse::<u64>().expect("ticks"));
        ticks.sum::<u64>() * 10 // USER_HZ is 100 wherever we run
    }

    /// Resident memory in KiB (proc_pid_status(5), `VmRSS`).
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let mut agent = self.agent.take().expect("it runs");
        agent.kill().expect("killed");
        agent.wait().expect("dead");
    }

    /// SIGTERM, and wait for the end.
    pub fn stop(&mut self) {
        let mut agent = self.agent.take().expect("it runs");
        let id = i32::try_from(agent.id()).ok().and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(id.expect("a process"), rustix::process::Signal::TERM).expect("a signal");
        assert!(agent.wait().expect("a child").success(), "{}", self.log());
    }

    /// Ask the agent over its control socket.
    pub fn ask(&self, request: &Request) -> Result<Value, AskError> {
        ask(&self.dir.join("control.sock"), request)
    }

    /// Ask the agent; it must answer. What changes nothing is asked again while the machine is too busy for an answer
    /// within the client's patience.
    pub fn answer(&self, request: &Request) -> Value {
        let changes = matches!(
            request,
            Request::QuarantineAdd { .. } | Request::QuarantineRelease { .. } | Request::WriteDesired { .. }
        );
        let mut answer = self.ask(request);
        let late = |answer: &Result<Value, AskError>| matches!(answer, Err(AskError::Silent { .. }));
        until(SOON, || {
            if !changes && late(&answer) {
                answer = self.ask(request);
            }
            changes || !late(&answer)
        });
        answer.unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    /// Resident memory of the agent: now, and at most so far.
    pub fn memory(&self) -> String {
        let agent = self.agent.as_ref().expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{}/status", agent.id())).expect("a process");
        let lines = status
            .lines()
            .filter(|line| line.starts_with("VmRSS") || line.starts_with("VmHWM"));
        lines
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// Run the binary on the gateway with these arguments and `--standalone DIR`.
    pub fn command(&self, arguments: &[&str]) -> Output {
        Command::new("ip")
            .args(["netns", "exec", &self.site.gateway().ns])
            .arg(&self.binary)
            .args(arguments)
            .arg("--standalone")
            .arg(&self.dir)
            .output()
            .expect("the binary")
    }

    /// As [`Guarded::command`]; it must succeed. Gives what it prints.
    pub fn cli(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}\n{}", self.log());
        String::from_utf8(output.stdout).expect("text")
    }

    /// As [`Guarded::command`]; it must end with this exit code. Gives both outputs.
    pub fn cli_exit(&self, arguments: &[&str], code: i32) -> [String; 2] {
        let output = self.command(arguments);
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).expect("text"));
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {said:?}\n{}",
            self.log()
        );
        said
    }

    /// Write `desired` into a shadow, as the command line does, without its process.
    pub fn desire(&self, thing: &str, name: Option<&str>, desired: &Value) -> Value {
        self.answer(&Request::WriteDesired {
            thing: thing.parse().expect("a thing name"),
            name: name.map(str::to_owned),
            desired: desired.clone(),
        })
    }

    /// Write `desired` into the classic shadows of many things while no agent runs.
    pub fn desire_offline(&self, things: &[String], desired: &str) {
        let script = "bin=$1 dir=$2 desired=$3; shift 3; \
                      for thing; do \"$bin\" shadow \"$thing\" \"$desired\" --standalone \"$dir\" >/dev/null || exit 1; done";
        let done = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(&self.binary)
            .arg(&self.dir)
            .arg(desired)
            .args(things)
            .status();
        assert!(done.expect("a shell").success());
    }

    /// Wait until the agent has looked at the host once more.
    pub fn await_sample(&self) {
        let samples = || self.answer(&Request::Status)["samples"].as_u64().expect("a number");
        let (before, mut seen) = (samples(), 0);
        let looked = until(SOON, || {
            seen = samples();
            seen > before
        });
        assert!(looked, "{before} samples stay {seen}");
    }

    /// The shadow document as stored; null when there is none.
    pub fn document(&self, thing: &str, name: Option<&str>) -> Value {
        let file = name.map_or_else(|| format!("{thing}.json"), |name| format!("{thing}.{name}.json"));
        let text = std::fs::read(self.dir.join("shadows").join(file));
        text.map_or(Value::Null, |text| serde_json::from_slice(&text).expect("a document"))
    }

    /// Wait until something holds of a shadow document.
    pub fn await_document(&self, thing: &str, name: Option<&str>, holds: impl Fn(&Value) -> bool) -> Value {
        let mut document = Value::Null;
        let held = until(SOON, || {
            document = self.document(thing, name);
            holds(&document)
        });
        assert!(held, "{thing} {name:?}: {document:#}\n{}", self.log());
        document
    }

    /// Wait until `quarantineStatus.enforced` of a shadow document is this.
    pub fn await_enforced(&self, thing: &str, name: Option<&str>, enforced: &Value) -> Value {
        self.await_document(thing, name, |document| status(document)["enforced"] == *enforced)
    }

    /// The audit log, a JSON object a line.
    pub fn audit(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.dir.join("state/audit.jsonl")).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    }

    /// Which of the device's ways out are open. All are tried at once, each for a second or so.
    pub fn reach(&self, n: usize) -> BTreeSet<String> {
        let (site, device) = (&self.site, self.site.device(n));
        let gateway = if n == 3 { site.routed_port() } else { site.gateway() };
        let mut ways: Vec<(String, &Host, IpAddr)> = Vec::new();
        let mut both = |what: &str, from, to: &Host| {
            ways.push((format!("{what} v4"), from, to.v4.into()));
            ways.push((format!("{what} v6"), from, to.v6.into()));
        };
        both("to gateway", device, gateway);
        both("from gateway", gateway, device);
        both("to internet", device, site.internet());
        for other in (0..4).filter(|other| *other != n) {
            both(&format!("to device {other}"), device, site.device(other));
        }
        std::thread::scope(|scope| {
            let running: Vec<_> = ways
                .iter()
                .map(|(name, from, to)| (name, scope.spawn(move || from.ping(*to))))
                .collect();
            running
                .into_iter()
                .filter_map(|(name, ping)| ping.join().expect("a ping").then(|| name.clone()))
                .collect()
        })
    }

    /// Every way out of the device is open; waits, as address resolution may have to begin anew.
    pub fn assert_open(&self, n: usize) {
        let mut open = BTreeSet::new();
        let all = until(SOON, || {
            open = self.reach(n);
            open.len() == 12
        });
        assert!(all, "only {open:?} of device {n} is open\n{}", self.log());
    }

    /// Every way of device `n` but those to `closed` ones is open.
    pub fn assert_open_but(&self, n: usize, closed: &[usize]) {
        let mut open = BTreeSet::new();
        let all = until(SOON, || {
            open = self.reach(n);
            open.len() == 12 - 2 * closed.len()
        });
        assert!(all, "only {open:?} of device {n} is open\n{}", self.log());
    }

    /// Nothing of the device gets through.
    pub fn assert_cut(&self, n: usize) {
        assert_eq!(
            self.reach(n),
            BTreeSet::new(),
            "device {n} is to be cut off\n{}",
            self.log()
        );
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        let _ = std::fs::remove_dir_all(&self.resolver);
    }
}

/// `quarantineStatus` as reported.
pub fn status(document: &Value) -> &Value {
    document
        .pointer("/state/reported/quarantineStatus")
        .unwrap_or(&Value::Null)
}

/// A device that keeps sending: datagrams to the internet and frames to a neighbour on the bridge (device 3: to the
/// gateway), `per_second` of each.
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    pub fn start(site: &Site, n: usize, per_second: u32) -> Self {
        let device = site.device(n);
        let to = if n == 3 { site.routed_port() } else { site.device(1) };
        let mut frame = to.mac.0.to_vec();
        frame.extend(device.mac.0);
        frame.extend(FLOOD_TYPE);
        frame.resize(60, 0);
        let (wire, internet) = (device.wire(), site.internet().v4);
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = device.spawn(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            let pause = Duration::from_secs(1) / per_second;
            while !stopped.load(Ordering::Relaxed) {
                // the link may be away for the moment
                frame[14..22].copy_from_slice(&stamp());
                if wire.try_send(&frame) {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                let _ = socket.send_to(&stamp(), (internet, FLOOD_PORT));
                // paces the load, nothing waits for it
                std::thread::sleep(pause);
            }
        });
        Self {
            stop,
            sent,
            thread: Some(thread),
        }
    }

    /// Frames put on the wire so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Wait until this many more were sent.
    pub fn await_sent(&self, more: u64) {
        let wanted = self.sent() + more;
        assert!(until(SOON, || self.sent() >= wanted), "the flood goes on");
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A device that cannot wait: it sends whenever its link is there, frames to a neighbour on the bridge (device 3: none)
/// and datagrams to the internet, whatever its own network settings are. [`Arrivals`] see them as they see a [`Flood`].
pub struct Restless {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Restless {
    pub fn start(site: &Site, n: usize, per_second: u32) -> Self {
        let (device, internet) = (site.device(n).clone(), site.internet().v4);
        let gateway = if n == 3 { site.routed_port() } else { site.gateway() };
        let mut datagram = gateway.mac.0.to_vec();
        datagram.extend(device.mac.0);
        datagram.extend([8, 0, 0x45, 0, 0, 36, 0, 0, 0, 0, 64, 17, 0, 0]);
        datagram.extend(device.v4.octets());
        datagram.extend(internet.octets());
        let words = datagram[14..34]
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
        let sum: u32 = words.sum();
        datagram[24..26].copy_from_slice(&(!(((sum & 0xffff) + (sum >> 16)) as u16)).to_be_bytes());
        datagram.extend(FLOOD_PORT.to_be_bytes());
        datagram.extend(FLOOD_PORT.to_be_bytes());
        datagram.extend([0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let neighbour = (n != 3).then(|| {
            let mut frame = [site.device(1).mac.0, device.mac.0].concat();
            frame.extend(FLOOD_TYPE);
            frame.resize(60, 0);
            frame
        });
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = site.device(n).spawn(move || {
            let (mut neighbour, mut wire) = (neighbour, None);
            let pause = Duration::from_secs(1) / per_second;
            while !stopped.load(Ordering::Relaxed) {
                wire = wire.or_else(|| Wire::try_open(&device.interface));
                if let Some(open) = &wire {
                    datagram[42..50].copy_from_slice(&stamp());
                    let mut out = open.try_send(&datagram);
                    if let Some(frame) = &mut neighbour {
                        frame[14..22].copy_from_slice(&stamp());
                        out &= open.try_send(frame);
                    }
                    if out {
                        count.fetch_add(1, Ordering::Relaxed);
                    } else {
                        wire = None;
                    }
                }
                // paces the load, nothing waits for it
                std::thread::sleep(pause);
            }
        });
        Self {
            stop,
            sent,
            thread: Some(thread),
        }
    }

    /// Wait until this many more rounds were sent.
    pub fn await_sent(&self, more: u64) {
        let wanted = self.sent.load(Ordering::Relaxed) + more;
        assert!(
            until(SOON, || self.sent.load(Ordering::Relaxed) >= wanted),
            "it goes on"
        );
    }
}

impl Drop for Restless {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What of a [`Flood`] arrived: when it was sent, and when it was read here.
///
/// Leaks are judged by the time of sending: a reader that had to wait for the processor reads late what was let through
/// in time.
pub struct Arrivals {
    times: Arc<Mutex<Vec<(Instant, Instant)>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Arrivals {
    /// At a host of the LAN: frames of `device`.
    pub fn on_lan(at: &Host, device: &Host) -> Self {
        let mac = device.mac.0;
        Self::watch(at, 14, move |frame| {
            frame.get(6..12) == Some(&mac) && frame.get(12..14) == Some(&FLOOD_TYPE)
        })
    }

    /// At the internet: datagrams of any flood.
    pub fn on_internet(site: &Site) -> Self {
        Self::watch(site.internet(), 42, |frame| {
            frame.get(12..14) == Some(&[8, 0])
                && frame.get(23) == Some(&17)
                && frame.get(36..38) == Some(&FLOOD_PORT.to_be_bytes())
        })
    }

    fn watch(at: &Host, stamped: usize, matching: impl Fn(&[u8]) -> bool + Send + 'static) -> Self {
        let (times, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (seen, stopped, wire) = (Arc::clone(&times), Arc::clone(&stop), at.wire());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let mut sent = None;
                wire.receive(Duration::from_millis(50), |frame| {
                    let stamp = frame.get(stamped..stamped + 8).filter(|_| matching(frame));
                    sent = stamp.map(|stamp| u64::from_be_bytes(stamp.try_into().expect("8 bytes")));
                    sent.is_some()
                });
                if let Some(sent) = sent {
                    let sent = *BEGINNING.get_or_init(now) + Duration::from_nanos(sent);
                    seen.lock().expect("times").push((sent, now()));
                }
            }
        });
        Self {
            times,
            stop,
            thread: Some(thread),
        }
    }

    pub fn count(&self) -> usize {
        self.times.lock().expect("times").len()
    }

    /// When those were sent that were sent after `since`.
    pub fn since(&self, since: Instant) -> Vec<Instant> {
        let times = self.times.lock().expect("times");
        times
            .iter()
            .map(|(sent, _)| *sent)
            .filter(|sent| *sent > since)
            .collect()
    }

    /// Wait until more of them come in: what is watched is open.
    pub fn await_more(&self, more: usize) {
        let wanted = self.count() + more;
        assert!(until(SOON, || self.count() >= wanted), "the flood arrives");
    }

    /// Wait until none has come in for a tenth of a second; when the last was sent and when it was read.
    pub fn await_silence(&self) -> Option<(Instant, Instant)> {
        let silent = |at: &Instant| now().saturating_duration_since(*at) > Duration::from_millis(100);
        let start = now();
        let last = || self.times.lock().expect("times").last().copied();
        assert!(
            until(SOON, || silent(&start) && last().is_none_or(|(_, read)| silent(&read))),
            "silence"
        );
        last()
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How many arrived at these places since an instant.
pub fn leaked(places: &[&Arrivals], since: Instant) -> usize {
    places.iter().map(|place| place.since(since).len()).sum()
}

/// The element at a per cent of a sorted list.
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted
        .get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}
