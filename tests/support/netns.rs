//! Private network namespaces, each held by a thread of its own: no names, nothing left behind when a test panics.
#![allow(
    dead_code,
    reason = "each test file that includes this module uses its own part of it"
)]

use std::fs;
use std::net::Ipv4Addr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace with `lo` up and nothing else in it. It ends with the last of: this value, sockets made in it.
pub(crate) struct Namespace {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<thread::JoinHandle<()>>,
    thread_id: i32,
}

impl Namespace {
    /// Makes one. Panics without root: a test that cannot run has not passed.
    pub(crate) fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "network namespaces need root: run the kernel tests as root"
        );
        let (jobs, queue) = mpsc::channel::<Job>();
        let thread = thread::spawn(move || queue.into_iter().for_each(|job| job()));
        let mut namespace = Self {
            jobs: Some(jobs),
            thread: Some(thread),
            thread_id: 0,
        };
        namespace.thread_id = namespace.run(|| {
            let link = || fs::read_link("/proc/thread-self/ns/net").expect("the thread's namespace");
            let before = link();
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare(CLONE_NEWNET)");
            assert_ne!(
                link(),
                before,
                "positive control: the thread is in a namespace of its own"
            );
            ip("link set lo up");
            rustix::thread::gettid().as_raw_nonzero().get()
        });
        namespace
    }

    /// Runs `job` inside and hands back what it returns, or its panic. Programs it starts are inside too; sockets it
    /// makes stay inside wherever they are used.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, wait) = mpsc::channel();
        let job = move || {
            let outcome = catch_unwind(AssertUnwindSafe(job));
            answer.send(outcome).expect("the test waits for its job");
        };
        self.jobs
            .as_ref()
            .expect("open")
            .send(Box::new(job))
            .expect("the namespace's thread lives");
        match wait.recv().expect("the namespace's thread lives") {
            Ok(value) => value,
            Err(panic) => resume_unwind(panic),
        }
    }

    /// What `ip link ... netns` takes for this namespace.
    pub(crate) fn id(&self) -> i32 {
        self.thread_id
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A panic of a job has been handed to the test already.
            let _ = thread.join();
        }
    }
}

/// Runs `ip` in the calling thread's namespace; panics with its words when it fails.
pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .expect("iproute2 is installed");
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Waits until `port` of the calling thread's namespace can send: its carrier is there and the kernel has acted on it.
///
/// A veth gets its carrier from its peer, and the kernel acts on that in a work queue (net/core/link_watch.c): until
/// then frames are dropped without a word and IPv6 has no route. Operational state UP is set together with the rest,
/// under the lock this request takes; since Linux 6.8 the request itself does the work.
pub(crate) fn await_carrier(port: &str) {
    await_output(&format!("-oneline link show dev {port}"), " state UP ");
}

/// Waits until the host takes packets to its own IPv6 `address` on `port`: the kernel enters the route for that in a
/// work queue too, even for an address it need not check for duplicates (`addrconf_dad_work` in net/ipv6/addrconf.c).
pub(crate) fn await_own_address(address: &str, port: &str) {
    await_output("-6 route show table local", &format!("local {address} dev {port} "));
}

/// Asks `ip` until it shows `wanted`. Waiting for a state the kernel reaches in its own time, not for time to pass.
fn await_output(arguments: &str, wanted: &str) {
    let mut shown = String::new();
    for _ in 0..1_000 {
        let output = Command::new("ip")
            .args(arguments.split_whitespace())
            .output()
            .expect("iproute2 is installed");
        shown = String::from_utf8_lossy(&output.stdout).into_owned();
        if shown.contains(wanted) {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("ip {arguments} does not come to show {wanted:?}: {shown}");
}

/// Sets a value below `/proc/sys` of the calling thread's namespace.
pub(crate) fn sysctl(path: &str, value: &str) {
    let file = Path::new("/proc/sys").join(path);
    fs::write(&file, value).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
}

/// One end of a [`cable`].
#[derive(Clone, Copy)]
pub(crate) struct End {
    pub(crate) address: Ipv4Addr,
    pub(crate) mac: &'static str,
}

pub(crate) const LEFT: End = End {
    address: Ipv4Addr::new(192, 0, 2, 1),
    mac: "02:00:00:00:00:01",
};
pub(crate) const RIGHT: End = End {
    address: Ipv4Addr::new(192, 0, 2, 2),
    mac: "02:00:00:00:00:02",
};

/// Joins two namespaces by a veth pair, called `port` at both ends, that carries only what a test sends.
///
/// Everything the kernel would send by itself is off, so that byte counts can be exact: IPv6 (router and neighbour
/// solicitations, multicast listener reports) and ARP (neighbours are entered for good).
pub(crate) fn cable(left: &Namespace, right: &Namespace) {
    let (right_id, silent) = (right.id(), || {
        sysctl("net/ipv6/conf/all/disable_ipv6", "1");
        sysctl("net/ipv6/conf/default/disable_ipv6", "1");
    });
    right.run(silent);
    left.run(move || {
        silent();
        let (here, there) = (LEFT.mac, RIGHT.mac);
        ip(&format!(
            "link add port address {here} type veth peer name port address {there} netns {right_id}"
        ));
    });
    for namespace in [left, right] {
        namespace.run(|| {
            ip("link set port addrgenmode none");
            ip("link set port up");
        });
    }
    for (namespace, own, other) in [(left, LEFT, RIGHT), (right, RIGHT, LEFT)] {
        namespace.run(move || {
            await_carrier("port");
            ip(&format!("address add {}/24 dev port", own.address));
            ip(&format!(
                "neighbour add {} lladdr {} dev port nud permanent",
                other.address, other.mac
            ));
        });
    }
}
