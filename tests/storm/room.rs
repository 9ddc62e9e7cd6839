//! Where the agent runs: the gateway's network, a small disk of its own for the state, clocks that can be set. All of it
//! belongs to a thread of this process and ends with it.

use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, unshare};
use rustix::process::{Pid, Signal, kill_process};

use super::clock::{Clock, Planted};
use crate::support::binary;
use crate::support::nucleus::TestNucleus;
use crate::support::site::Host;

/// Size of the disk. More than everything the agent keeps.
const DISK: &str = "16m";

type Job = Box<dyn FnOnce() + Send>;

/// A thread in the gateway's network namespace and in a mount namespace of its own.
pub struct Room {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    thread_id: i32,
    folder: tempfile::TempDir,
    factor: u32,
}

impl Room {
    pub fn new(gateway: &Host, factor: u32) -> Self {
        let folder = tempfile::Builder::new().prefix("storm").tempdir().expect("a folder");
        let state = folder.path().join("state");
        std::fs::create_dir(&state).expect("a folder");
        let resolver = folder.path().join("resolv.conf");
        std::fs::write(&resolver, "nameserver 203.0.113.1\n").expect("resolv.conf");
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, wait) = mpsc::channel();
        let thread = gateway.spawn(move || {
            unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
            let script = "mount --make-rprivate / && mount -t tmpfs -o size=$1,mode=700 tmpfs \"$2\" && \
                          mount --bind \"$3\" /etc/resolv.conf";
            let mounted = Command::new("sh")
                .args(["-c", script, "sh", DISK])
                .arg(&state)
                .arg(&resolver)
                .status();
            assert!(mounted.expect("a shell").success(), "a disk");
            ready
                .send(rustix::thread::gettid().as_raw_nonzero().get())
                .expect("the test waits");
            queue.into_iter().for_each(|job| job());
        });
        Self {
            jobs: Some(jobs),
            thread: Some(thread),
            thread_id: wait.recv().expect("a room: see the panic above"),
            folder,
            factor,
        }
    }

    /// The agent's state folder, as this process sees it.
    pub fn state(&self) -> PathBuf {
        let folder = self.folder.path().join("state");
        PathBuf::from(format!("/proc/{}/root{}", self.thread_id, folder.display()))
    }

    /// A folder that agent and test share, on another disk.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What the agents so far wrote to stdout or stderr.
    pub fn output(&self, stream: &str) -> String {
        let bytes = std::fs::read(self.folder.path().join(stream)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, wait) = mpsc::channel();
        let job = Box::new(move || drop(answer.send(job())));
        self.jobs
            .as_ref()
            .expect("open")
            .send(job)
            .expect("the room's thread lives");
        wait.recv().expect("the room's thread lives")
    }

    /// Starts an agent as the nucleus would.
    pub fn launch(&self, nucleus: &TestNucleus, clock: &Arc<Clock>) -> Agent {
        let file = |name: &str| {
            let file = File::options()
                .create(true)
                .append(true)
                .open(self.folder.path().join(name));
            file.expect("a log file")
        };
        let state = self.folder.path().join("state");
        let mut command = Command::new(binary::path());
        command
            .args(binary::run_arguments(&state, &self.factor.to_string()))
            .env_clear()
            .envs(nucleus.env())
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"));
        let clock = Arc::clone(clock);
        self.run(move || start(command, &clock))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Starts a program with its clocks set. The calling thread becomes its tracer until then, and its end is the program's.
#[allow(
    unsafe_code,
    reason = "ptrace(2) and prctl(2) have no safe binding in the crates we have; test code only"
)]
fn start(mut command: Command, clock: &Clock) -> Agent {
    // SAFETY: only system calls without pointers between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    let child = command.spawn().expect("the agent");
    let pid = i32::try_from(child.id()).expect("a process id");
    let mut status = 0;
    // SAFETY: the pointer is to a living integer.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
    assert!(
        waited == pid && libc::WIFSTOPPED(status),
        "it stands still after exec: {status:#x}"
    );
    let clocks = Planted::plant(child.id(), clock);
    // SAFETY: no pointers; the calling thread is the tracer.
    let detached = unsafe { libc::ptrace(libc::PTRACE_DETACH, pid, 0, 0) };
    assert_eq!(detached, 0, "{}", std::io::Error::last_os_error());
    Agent { child, clocks }
}

/// A running agent; dropping it kills it.
pub struct Agent {
    child: Child,
    clocks: Planted,
}

impl Agent {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a signal");
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child")
    }

    /// `kill -9`; a SIGTERM of just before may have been faster, also before it was caught.
    pub fn kill(mut self) {
        self.child.kill().expect("a signal");
        let status = self.child.wait().expect("a child");
        assert!(
            matches!(status.signal(), Some(9 | 15)) || status.code().is_some(),
            "{status}"
        );
    }

    /// Sets its clocks while it stands still; goes on then unless it was `stalled` before.
    pub fn turn(&self, set: impl FnOnce(), clock: &Clock, stalled: bool) {
        self.signal(Signal::STOP);
        let stopped = crate::support::site::until(crate::SOON, || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
            stat.rsplit_once(") ")
                .is_none_or(|(_, rest)| rest.starts_with(['T', 'Z', 'X']))
        });
        assert!(stopped, "it stops");
        set();
        self.clocks.turn(clock);
        if !stalled {
            self.signal(Signal::CONT);
        }
    }

    /// A number of its `/proc/PID/status` in KiB; `None` when it has ended.
    pub fn kib(&self, key: &str) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().ok()
    }

    /// What each of its threads waits for, for a person.
    pub fn threads(&self) -> Vec<String> {
        let folder = std::fs::read_dir(format!("/proc/{}/task", self.pid()));
        let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default();
        let threads = folder.into_iter().flatten().flatten().map(|entry| {
            let [name, state, stack] = ["comm", "stat", "stack"].map(|file| read(entry.path().join(file)));
            let state: String = state.rsplit(") ").next().unwrap_or_default().chars().take(1).collect();
            let stack: Vec<&str> = stack.lines().filter_map(|line| line.split("] ").nth(1)).collect();
            format!("{} {state}: {}", name.trim(), stack.join(" < "))
        });
        threads.collect()
    }

    /// What its file descriptors are, the kinds of them sorted; empty when it has ended.
    pub fn files(&self) -> Vec<String> {
        let folder = std::fs::read_dir(format!("/proc/{}/fd", self.pid()));
        let links = folder
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| std::fs::read_link(entry.path()).ok());
        let mut files: Vec<String> = links.map(|link| link.display().to_string()).collect();
        files.sort();
        files
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
