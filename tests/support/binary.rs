//! The `edge-warden` binary as it is shipped: where it is, how a nucleus starts it, and what it says and does.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "test support: the first surprise ends the test, and tests may look at the clock"
)]

use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use edge_warden::agent::clock::{Clock, SystemClock};
use edge_warden::control::{Request, ask};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::{Value, json};

use super::nucleus::TestNucleus;

/// Names the binary to test; `make test` sets it to the packaged one.
const VARIABLE: &str = "EDGE_WARDEN_BINARY";

/// What a healthy test needs a fraction of.
pub const SOON: Duration = Duration::from_secs(60);

/// The binary named by `EDGE_WARDEN_BINARY`, else the one cargo built for these tests.
pub fn path() -> PathBuf {
    match std::env::var_os(VARIABLE) {
        Some(path) => {
            let path = PathBuf::from(path);
            assert!(
                path.is_file(),
                "{VARIABLE} names {}, which is no file: run ./build.sh",
                path.display()
            );
            path
        }
        None => PathBuf::from(env!("CARGO_BIN_EXE_edge-warden")),
    }
}

/// Whether [`path`] is the packaged binary.
pub fn is_packaged() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// The shipped recipe's DefaultConfiguration, accessControl apart, with `changes` laid over it; without local things,
/// shadows and
/// without enforcement, because the agent's network namespace may be this machine's and its patience with a shadow's
/// answer is as accelerated as its clock.
pub fn configuration(changes: Value) -> Value {
    let mut configuration = with_shadows(json!({
        "quarantine": {"shadow": {"classic": false, "named": ""}},
        "discovery": {"registration": false},
    }));
    overlay(&mut configuration, changes);
    configuration
}

/// As [`configuration`], with shadows.
pub fn with_shadows(changes: Value) -> Value {
    let mut configuration = default_configuration();
    configuration["quarantine"]["enforcement"] = "observe".into();
    configuration.as_object_mut().unwrap().remove("accessControl");
    overlay(&mut configuration, changes);
    configuration
}

/// The shipped recipe's accessControl.
pub fn access_control() -> Value {
    default_configuration()["accessControl"].take()
}

fn default_configuration() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipe/recipe.yaml");
    let mut recipe: Value = serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    recipe["ComponentConfiguration"]["DefaultConfiguration"].take()
}

fn overlay(below: &mut Value, above: Value) {
    match (below, above) {
        (Value::Object(below), Value::Object(above)) => {
            for (key, value) in above {
                overlay(below.entry(key).or_insert(json!({})), value);
            }
        }
        (below, above) => *below = above,
    }
}

/// Epoch seconds on the clock of an agent run with `--accelerate factor`.
pub fn agent_seconds(factor: u32) -> u64 {
    SystemClock::accelerated(factor).wall().seconds()
}

/// `edge-warden` with these arguments and an empty environment.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(path());
    command.args(arguments).env_clear().stdin(Stdio::null());
    command
}

/// Wait until no process of this number is there.
pub fn wait_until_gone(pid: u32) {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return;
    };
    // gone already when it cannot be opened
    if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) {
        let limit = Timespec::try_from(SOON).unwrap();
        let ready = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit)).unwrap();
        assert_eq!(ready, 1, "process {pid:?} is still there");
    }
}

/// `edge-warden run` as the nucleus would start it, with everything it keeps in `dir`.
pub fn run_command(nucleus: &TestNucleus, dir: &Path, factor: u32) -> Command {
    let mut command = command(&run_arguments(dir, &factor.to_string()));
    command.envs(nucleus.env());
    command
}

/// The arguments of [`run_command`].
pub fn run_arguments<'a>(dir: &'a Path, factor: &'a str) -> [&'a str; 5] {
    ["run", "--state-dir", dir.to_str().unwrap(), "--accelerate", factor]
}

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    changed: Condvar,
}

/// A running agent. Dropping it kills it; when the test failed its log is shown.
pub struct Agent {
    child: Child,
    pidfd: OwnedFd,
    log: Arc<Log>,
    readers: Vec<JoinHandle<()>>,
    socket: PathBuf,
}

impl Agent {
    /// Start the agent against `nucleus`, its clocks `factor` times as fast as time.
    pub fn start(nucleus: &TestNucleus, dir: &Path, factor: u32) -> Self {
        Self::spawn(run_command(nucleus, dir, factor), &dir.join("control.sock"))
    }

    /// Start `command`, an agent with its control socket at `socket`.
    pub fn spawn(mut command: Command, socket: &Path) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        let log = Arc::new(Log::default());
        let read = |stream: Box<dyn Read + Send>| {
            let log = Arc::clone(&log);
            std::thread::spawn(move || {
                for line in BufReader::new(stream).split(b'\n') {
                    let line = String::from_utf8(line.unwrap()).unwrap();
                    log.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                    log.changed.notify_all();
                }
            })
        };
        let readers = vec![
            read(Box::new(child.stdout.take().unwrap())),
            read(Box::new(child.stderr.take().unwrap())),
        ];
        Self {
            child,
            pidfd,
            log,
            readers,
            socket: socket.to_owned(),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it answers questions; for an agent in a mount namespace of its own.
    pub fn set_socket(&mut self, socket: PathBuf) {
        self.socket = socket;
    }

    /// Everything it has logged so far, stdout and stderr.
    pub fn log(&self) -> String {
        self.log.lines.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }

    /// Waits until a line that contains all of `parts` is logged, and returns it.
    pub fn wait_log(&self, parts: &[&str]) -> String {
        let deadline = Instant::now() + SOON;
        let mut lines = self.log.lines.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(line) = lines.iter().find(|line| parts.iter().all(|part| line.contains(part))) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "not logged: {parts:?}");
            lines = self
                .log
                .changed
                .wait_timeout(lines, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// What it says about itself.
    pub fn status(&self) -> Value {
        ask(&self.socket, &Request::Status).unwrap_or_else(|error| panic!("no status: {error}"))
    }

    /// Asks for the status until it says what is `wanted`. (Asked again and again: the agent tells nobody by itself.)
    pub fn wait_status<T>(&self, what: &str, mut wanted: impl FnMut(&Value) -> Option<T>) -> T {
        let deadline = Instant::now() + SOON;
        loop {
            let status = ask(&self.socket, &Request::Status);
            if let Some(found) = status.as_ref().ok().and_then(&mut wanted) {
                return found;
            }
            assert!(self.is_running(), "the agent ended before its status said: {what}");
            assert!(
                Instant::now() < deadline,
                "the status never said: {what}; it says {status:#?}"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Send a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Whether the process is still there.
    pub fn is_running(&self) -> bool {
        !self.ended_within(Duration::ZERO)
    }

    fn ended_within(&self, wait: Duration) -> bool {
        let timeout = Timespec::try_from(wait).unwrap();
        poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&timeout)).unwrap() == 1
    }

    /// Waits for its end at most `within`.
    pub fn wait_exit(&mut self, within: Duration) -> ExitStatus {
        assert!(self.ended_within(within), "the agent is still running after {within:?}");
        let status = self.child.wait().unwrap();
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        status
    }

    /// Waits for its end and returns the exit code; a signal is a failure.
    pub fn exit_code(&mut self) -> i32 {
        let status = self.wait_exit(SOON);
        status
            .code()
            .unwrap_or_else(|| panic!("ended by signal {:?}", status.signal()))
    }

    /// SIGTERM; the design allows 2 s. Returns the exit code and the time it took.
    pub fn terminate(&mut self) -> (i32, Duration) {
        let asked = Instant::now();
        self.signal(Signal::TERM);
        let status = self.wait_exit(SOON);
        let code = status
            .code()
            .unwrap_or_else(|| panic!("ended by signal {:?}", status.signal()));
        (code, asked.elapsed())
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        assert_eq!(self.wait_exit(SOON).signal(), Some(9));
    }

    /// Number of open files.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// Resident memory in KiB (proc_pid_status(5), `VmRSS`).
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if !self.readers.is_empty() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
        if std::thread::panicking() {
            eprintln!("--- log of agent {}:\n{}\n---", self.pid(), self.log());
        }
    }
}
