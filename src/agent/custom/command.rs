//! Commands: run regularly on a thread of their own, as an unprivileged user, with nothing of ours in their hands, and
//! killed with all they started when their time is over.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, geteuid, kill_process_group, waitid};

use super::super::clock::{Clock, SystemClock};
use crate::collect::custom::{MAX_CONTENT, parse};
use crate::model::{CustomType, CustomValue, Measured, Missing, Monotonic, Reason};

/// The whole environment of a command.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The user commands run as unless the configuration says otherwise.
const NOBODY: &str = "nobody";
/// Its number where no user has that name: `overflowuid` of the kernel.
const NOBODY_ID: u32 = 65_534;
/// Between two looks whether a command has ended.
const NAP: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};

/// What is run, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order {
    /// The program and its arguments.
    pub(super) command: Vec<String>,
    /// The user.
    pub(super) user: String,
    /// How long it may take.
    pub(super) timeout: Duration,
    /// What its output is read as.
    pub(super) kind: CustomType,
}

impl Order {
    fn name(&self) -> &str {
        self.command.first().map_or("", String::as_str)
    }

    fn missing(&self, reason: Reason, detail: impl Into<String>) -> Missing {
        Missing::new(self.name(), reason, detail)
    }
}

/// A command that is run again and again. Dropping it ends that, and kills what is running.
#[derive(Debug)]
pub(super) struct Repeated {
    source: String,
    /// Dropped to end the thread.
    _stop: SyncSender<()>,
    shared: Arc<Shared>,
    /// A result counts for so long.
    lasts: Duration,
}

#[derive(Debug, Default)]
struct Shared {
    last: Mutex<Option<(Measured<CustomValue>, Monotonic)>>,
    /// The process group at work; its number is not given to another as long as it is here.
    running: Mutex<Option<Pid>>,
    /// Nothing is started any more.
    over: AtomicBool,
}

impl Shared {
    fn running(&self) -> MutexGuard<'_, Option<Pid>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, result: Measured<CustomValue>) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((result, now()));
    }
}

/// Time as commands take it, which does not run faster in tests.
fn now() -> Monotonic {
    SystemClock::accelerated(1).monotonic()
}

impl Repeated {
    /// Runs the command at once, and then so that `every` lies between two beginnings, or no time at all when it takes
    /// longer than that.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub(super) fn start(order: Order, every: Duration) -> Measured<Self> {
        let shared = Arc::new(Shared::default());
        let (stop, stopped) = sync_channel::<()>(0);
        let source = order.name().to_owned();
        // The slowest good one: begun late by a whole turn, and in time all the same.
        let lasts = every.saturating_mul(2).saturating_add(order.timeout.saturating_mul(2));
        let theirs = Arc::clone(&shared);
        let repeat = move || loop {
            let begun = now();
            run(&order, &theirs);
            let wait = every.saturating_sub(now().since(begun));
            if stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        };
        std::thread::Builder::new()
            .name("custom-command".to_owned())
            .spawn(repeat)
            .map_err(|error| Missing::from_io(&source, &error))?;
        Ok(Self {
            source,
            _stop: stop,
            shared,
            lasts,
        })
    }

    /// What it printed last.
    ///
    /// # Errors
    /// It has not ended yet, failed, or is stuck.
    pub(super) fn answer(&self) -> Measured<CustomValue> {
        let last = self.shared.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            None => Err(Missing::new(&self.source, Reason::NotCollected, "has not ended yet")),
            Some((_, at)) if now().since(*at) > self.lasts => Err(Missing::new(
                &self.source,
                Reason::Absent,
                "is stuck, and cannot be killed",
            )),
            Some((result, _)) => result.clone(),
        }
    }
}

impl Drop for Repeated {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
        // One that is just being started may take its time (a program on a file system that hangs); its thread looks at
        // `over` when it has.
        if let Ok(running) = self.shared.running.try_lock()
            && let Some(group) = *running
        {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Runs it once and puts the result in.
fn run(order: &Order, shared: &Shared) {
    let mut child = {
        let mut running = shared.running();
        if shared.over.load(Ordering::Acquire) {
            return;
        }
        match spawn(order) {
            Ok(child) => {
                *running = Some(Pid::from_child(&child));
                child
            }
            Err(missing) => {
                drop(running);
                shared.put(Err(missing));
                return;
            }
        }
    };
    if shared.over.load(Ordering::Acquire) {
        let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
    }
    let group = Pid::from_child(&child);
    let (output, ended) = attend(order, &mut child);
    // All it started goes with it. Its own number is taken until `wait`, so this hits nobody else.
    let _ = kill_process_group(group, Signal::KILL);
    let result = match ended {
        Ok(()) => output.and_then(|output| {
            parse(&output, order.kind).map_err(|wrong| order.missing(Reason::Malformed, format!("its output: {wrong}")))
        }),
        Err(missing) => Err(missing),
    };
    // Put in before the wait: a process in an uninterruptible sleep dies when it wakes up.
    shared.put(result);
    *shared.running() = None;
    let _ = child.wait();
}

fn spawn(order: &Order) -> Measured<Child> {
    let (program, arguments) = order
        .command
        .split_first()
        .ok_or_else(|| order.missing(Reason::Absent, "no command"))?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0);
    if geteuid().is_root() {
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let (user, group) = ids(&order.user, &passwd)
            .ok_or_else(|| order.missing(Reason::Absent, format!("there is no user {}", order.user)))?;
        // A process that changes its user gives up all other groups too (std::os::unix::process::CommandExt::uid).
        command.uid(user).gid(group);
    } else if order.user != NOBODY {
        return Err(order.missing(Reason::Denied, "only root can run commands as another user"));
    }
    command.spawn().map_err(|error| Missing::from_io(order.name(), &error))
}

/// User and group of a name or number, from the content of `/etc/passwd` (passwd(5)).
fn ids(user: &str, passwd: &str) -> Option<(u32, u32)> {
    let number: Option<u32> = user.parse().ok();
    let entry = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid: u32 = fields.nth(1)?.parse().ok()?;
        let gid: u32 = fields.next()?.parse().ok()?;
        (name == user || number == Some(uid)).then_some((uid, gid))
    });
    entry.or_else(|| match number {
        Some(number) => Some((number, NOBODY_ID)),
        None => (user == NOBODY).then_some((NOBODY_ID, NOBODY_ID)),
    })
}

/// Reads what it prints until it ends or must end: the output, and how it ended.
fn attend(order: &Order, child: &mut Child) -> (Measured<Vec<u8>>, Measured<()>) {
    let deadline = now().after(order.timeout);
    let id = WaitId::Pid(Pid::from_child(child));
    let mut output = Vec::new();
    let mut pipe = child
        .stdout
        .take()
        .filter(|pipe| rustix::io::ioctl_fionbio(pipe, true).is_ok());
    loop {
        let mut ready: Vec<PollFd<'_>> = pipe.iter().map(|pipe| PollFd::new(pipe, PollFlags::IN)).collect();
        let _ = poll(&mut ready, Some(&NAP));
        // Looked at before the pipe: what it printed before it ended is then all there.
        let ended = waitid(
            id.clone(),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT,
        );
        if let Some(open) = &mut pipe {
            match drain(open, &mut output) {
                Ok(true) => {}
                Ok(false) => pipe = None,
                Err(error) => return (Err(Missing::from_io(order.name(), &error)), Ok(())),
            }
        }
        if output.len() > MAX_CONTENT {
            let words = format!("prints more than {MAX_CONTENT} bytes; it was killed");
            return (Err(order.missing(Reason::Malformed, words)), Ok(()));
        }
        match ended {
            Ok(None) => {}
            Ok(Some(status)) => {
                let failed = match (status.exit_status(), status.terminating_signal()) {
                    (Some(0), _) => return (Ok(output), Ok(())),
                    (Some(code), _) => format!("failed with exit status {code}"),
                    (_, Some(signal)) => format!("was ended by signal {signal}"),
                    _ => "failed".to_owned(),
                };
                return (Ok(output), Err(order.missing(Reason::Malformed, failed)));
            }
            Err(error) => return (Ok(output), Err(Missing::from_io(order.name(), &error.into()))),
        }
        if now() >= deadline {
            let words = format!("took longer than {} s; it was killed", order.timeout.as_secs());
            return (Ok(output), Err(order.missing(Reason::Absent, words)));
        }
    }
}

/// Takes what is there, and a little more than may be; false at the end.
fn drain(pipe: &mut ChildStdout, output: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0_u8; 4096];
    while output.len() <= MAX_CONTENT {
        match pipe.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(read) => output.extend_from_slice(buffer.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nbroken\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n\
                          probe:x:998:997::/:/bin/false\n";

    fn order(command: &[&str], kind: CustomType) -> Order {
        Order {
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            user: NOBODY.to_owned(),
            timeout: Duration::from_secs(60),
            kind,
        }
    }

    fn shell(script: &str, kind: CustomType) -> Order {
        order(&["/bin/sh", "-c", script], kind)
    }

    /// What one run leaves.
    fn once(order: &Order) -> Measured<CustomValue> {
        let shared = Shared::default();
        run(order, &shared);
        assert_eq!(*shared.running(), None);
        shared.last.into_inner().unwrap().unwrap().0
    }

    #[test]
    fn users_are_names_or_numbers() {
        assert_eq!(ids("probe", PASSWD), Some((998, 997)));
        assert_eq!(ids("998", PASSWD), Some((998, 997)));
        assert_eq!(ids("4711", PASSWD), Some((4711, NOBODY_ID)));
        assert_eq!(ids("nobody", ""), Some((NOBODY_ID, NOBODY_ID)));
        assert_eq!(ids("nobodi", PASSWD), None);
    }

    #[test]
    fn stdout_alone_is_the_value() {
        let found = once(&shell("echo 42; echo 43 >&2", CustomType::Number));
        assert_eq!(found, Ok(CustomValue::Number(42.0)));
    }

    #[test]
    fn nothing_of_ours_is_in_its_hands() {
        // The shell itself adds PWD and the like. (That no file is open beside the three is shown in tests/custom.rs.)
        let script = "pwd; cat; env | grep -v -e ^PWD= -e ^_= -e ^SHLVL= -e ^OLDPWD=";
        let found = once(&shell(script, CustomType::StringList)).unwrap();
        let expected = vec!["/".to_owned(), crate::collect::custom::text(&format!("PATH={PATH}"))];
        assert_eq!(found, CustomValue::StringList(expected));
    }

    #[test]
    fn root_hands_it_to_nobody_without_any_group() {
        assert!(geteuid().is_root(), "this test needs root");
        let script =
            "while read key rest; do case $key in Uid:|Gid:|Groups:) echo $key$rest;; esac; done < /proc/self/status";
        let found = once(&shell(script, CustomType::StringList)).unwrap();
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
        let (user, group) = ids(NOBODY, &passwd).unwrap();
        let all = |id: u32| format!("{id}_{id}_{id}_{id}");
        let expected = vec![
            format!("Uid:{}", all(user)),
            format!("Gid:{}", all(group)),
            "Groups:".to_owned(),
        ];
        assert_eq!(found, CustomValue::StringList(expected));
    }

    #[test]
    fn failures_are_named() {
        let missing = |order: &Order| once(order).unwrap_err();
        let gone = missing(&order(&["/nowhere/at/all"], CustomType::Number));
        assert_eq!((gone.source.as_str(), gone.reason), ("/nowhere/at/all", Reason::Absent));
        let denied = missing(&order(&["/etc/passwd"], CustomType::Number));
        assert_eq!(denied.reason, Reason::Denied);
        for (script, words) in [
            ("echo 1; exit 3", "exit status 3"),
            ("kill -TERM $$", "signal 15"),
            ("echo NaN", "no number"),
            ("true", "is empty"),
            ("head -c 4 /dev/zero", "no number"),
        ] {
            let missing = missing(&shell(script, CustomType::Number));
            assert!(missing.detail.contains(words), "{script}: {missing}");
        }
        let stranger = Order {
            user: "no-such-user".to_owned(),
            ..shell("echo 1", CustomType::Number)
        };
        assert!(missing(&stranger).detail.contains("no-such-user"));
    }

    #[test]
    fn megabytes_end_it_early() {
        // `yes` never ends by itself, and 60 s are not waited for.
        let missing = once(&shell("yes", CustomType::StringList)).unwrap_err();
        assert!(missing.detail.contains("more than 65536 bytes"), "{missing}");
    }

    #[test]
    fn one_that_hangs_is_killed_with_all_it_started() {
        let folder = tempfile::tempdir().unwrap();
        rustix::fs::chmod(folder.path(), rustix::fs::Mode::from_raw_mode(0o777)).unwrap();
        let file = folder.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
        let hanging = Order {
            timeout: Duration::from_secs(1),
            ..shell(&script, CustomType::Number)
        };
        let missing = once(&hanging).unwrap_err();
        assert!(missing.detail.contains("longer than 1 s"), "{missing}");
        let pid: i32 = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
        // Gone, or dead and not yet fetched by init.
        let alive = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
            stat.is_ok_and(|stat| !stat.contains(") Z "))
        };
        let deadline = now().after(Duration::from_secs(30));
        while alive() {
            assert!(now() < deadline, "its child is still there");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn what_it_leaves_behind_keeps_nobody_waiting() {
        // The pipe stays open in the background process.
        let found = once(&shell("sleep 1000 & echo 5", CustomType::Number));
        assert_eq!(found, Ok(CustomValue::Number(5.0)));
    }

    #[test]
    fn it_is_run_again_and_ends_with_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        rustix::fs::chmod(folder.path(), rustix::fs::Mode::from_raw_mode(0o777)).unwrap();
        let file = folder.path().join("runs");
        let script = format!("echo >> {0}; wc -l < {0}", file.display());
        let repeated = Repeated::start(shell(&script, CustomType::Number), Duration::from_millis(10)).unwrap();
        let deadline = now().after(Duration::from_secs(30));
        loop {
            match repeated.answer() {
                Ok(CustomValue::Number(runs)) if runs >= 3.0 => break,
                Ok(_) => {}
                Err(missing) => assert_eq!(missing.reason, Reason::NotCollected, "{missing}"),
            }
            assert!(now() < deadline, "it was not run three times");
            std::thread::sleep(Duration::from_millis(5));
        }
        let shared = Arc::clone(&repeated.shared);
        drop(repeated);
        // The thread's own hold goes away with it.
        while Arc::strong_count(&shared) > 1 {
            assert!(now() < deadline, "the thread did not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
