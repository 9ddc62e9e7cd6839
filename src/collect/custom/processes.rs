//! Processes: who is whose child, and what each runs. Source: `/proc/PID/{stat,exe,cmdline}` (proc_pid(5)).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::collect::CollectError;
use crate::config::{ProcessMatch, ProcessPattern};
use crate::model::{Measured, Missing, Reason};

/// The kernel's `comm` holds this many bytes (`TASK_COMM_LEN` of linux/sched.h, without the final NUL).
const COMM_BYTES: usize = 15;
/// `PF_KTHREAD` of linux/sched.h, in field `flags`.
const KERNEL_THREAD: u32 = 0x0020_0000;
/// What the kernel appends to the path of an executable that was deleted (`d_path` of fs/d_path.c).
const DELETED: &str = " (deleted)";
/// As much of the first argument as is looked at.
const ARGUMENT_BYTES: usize = 4096;

/// One process that runs a program: no kernel thread, and no zombie, which runs nothing any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its parent.
    pub parent: i32,
    /// The kernel's name of it.
    pub comm: String,
    /// Its executable.
    pub exe: Executable,
    /// The file name in its first argument.
    pub called: Option<String>,
}

/// What a process runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Executable {
    /// A file, which may have been deleted or replaced since.
    File(PathBuf),
    /// Nothing any more: the process is on its way out.
    None,
    /// It may not be asked.
    Denied,
}

/// The processes at one instant, by id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Processes(BTreeMap<i32, Process>);

impl Processes {
    /// Reads every process below `proc`. One that ends meanwhile is left out.
    ///
    /// # Errors
    /// The folder cannot be listed, or holds no process at all.
    pub fn read(proc: &Path) -> Measured<Self> {
        let origin = proc.display().to_string();
        let entries = fs::read_dir(proc).map_err(|error| CollectError::from_io(&origin, error))?;
        let mut found = BTreeMap::new();
        let mut seen = false;
        for entry in entries {
            let entry = entry.map_err(|error| CollectError::from_io(&origin, error))?;
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let Some(stat) = fs::read(entry.path().join("stat")).ok().and_then(|bytes| stat(&bytes)) else {
                continue;
            };
            seen = true;
            if stat.flags & KERNEL_THREAD == 0 && !matches!(stat.state, 'Z' | 'X') {
                found.insert(pid, process(&entry.path(), stat));
            }
        }
        if !seen {
            return Err(Missing::new(origin, Reason::Absent, "no process is listed"));
        }
        Ok(Self(found))
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Those that match.
    pub fn matching<'a>(&'a self, pattern: &'a ProcessPattern) -> impl Iterator<Item = i32> + 'a {
        let matching = self.0.iter().filter(|(_, process)| matches(process, pattern));
        matching.map(|(pid, _)| *pid)
    }

    /// The children, and their children, of all processes that match; each once.
    #[must_use]
    pub fn descendants(&self, pattern: &ProcessPattern) -> Vec<&Process> {
        let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for (pid, process) in &self.0 {
            children.entry(process.parent).or_default().push(*pid);
        }
        let mut found = BTreeSet::new();
        let mut waiting: Vec<i32> = self.matching(pattern).collect();
        while let Some(parent) = waiting.pop() {
            for child in children.get(&parent).into_iter().flatten() {
                if found.insert(*child) {
                    waiting.push(*child);
                }
            }
        }
        found.iter().filter_map(|pid| self.0.get(pid)).collect()
    }

    /// The paths of the executables, each once, without what says that one was deleted.
    ///
    /// # Errors
    /// Some may not be read: a set that lacks those would look complete.
    pub fn programs(&self) -> Measured<BTreeSet<String>> {
        let mut programs = BTreeSet::new();
        let mut denied = 0_usize;
        for process in self.0.values() {
            match &process.exe {
                Executable::File(exe) => {
                    programs.insert(program(exe).into_owned());
                }
                Executable::None => {}
                Executable::Denied => denied += 1,
            }
        }
        if denied > 0 {
            let detail = format!("the executables of {denied} processes may not be read (CAP_SYS_PTRACE)");
            return Err(Missing::new("/proc/PID/exe", Reason::Denied, detail));
        }
        Ok(programs)
    }

    /// Of [`Processes::programs`], those in none of `folders`.
    ///
    /// # Errors
    /// As [`Processes::programs`].
    pub fn unexpected(&self, folders: &[PathBuf]) -> Measured<BTreeSet<String>> {
        let mut programs = self.programs()?;
        programs.retain(|program| !folders.iter().any(|folder| Path::new(program).starts_with(folder)));
        Ok(programs)
    }
}

/// The fields that matter here. (The procfs crate reads all 52, and panics on a line with its brackets the wrong way round.)
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    comm: String,
    state: char,
    parent: i32,
    flags: u32,
}

/// `PID (comm) state ppid pgrp session tty tpgid flags ...`; `comm` may hold anything, brackets and spaces too.
fn stat(bytes: &[u8]) -> Option<Stat> {
    let line = String::from_utf8_lossy(bytes);
    let (start, rest) = line.rsplit_once(')')?;
    let (_, comm) = start.split_once('(')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let flags = fields.nth(4)?.parse().ok()?;
    Some(Stat {
        comm: comm.to_owned(),
        state,
        parent,
        flags,
    })
}

/// For `fuzz/`.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(bytes: &[u8]) {
    let _ = stat(bytes);
}

fn process(folder: &Path, stat: Stat) -> Process {
    let exe = match fs::read_link(folder.join("exe")) {
        Ok(exe) => Executable::File(exe),
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) => {
            Executable::None
        }
        Err(_) => Executable::Denied,
    };
    Process {
        parent: stat.parent,
        exe,
        called: called(&folder.join("cmdline")),
        comm: stat.comm,
    }
}

fn called(path: &Path) -> Option<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let limit = u64::try_from(ARGUMENT_BYTES).unwrap_or(u64::MAX);
    fs::File::open(path).ok()?.take(limit).read_to_end(&mut bytes).ok()?;
    let first = bytes
        .split(|byte| *byte == 0)
        .next()
        .filter(|first| !first.is_empty())?;
    let name = Path::new(OsStr::from_bytes(first)).file_name()?;
    Some(name.to_string_lossy().into_owned())
}

/// The path of an executable without [`DELETED`].
fn program(exe: &Path) -> std::borrow::Cow<'_, str> {
    match exe.to_string_lossy() {
        std::borrow::Cow::Borrowed(text) => text.strip_suffix(DELETED).unwrap_or(text).into(),
        std::borrow::Cow::Owned(text) => text.strip_suffix(DELETED).unwrap_or(&text).to_owned().into(),
    }
}

fn matches(process: &Process, pattern: &ProcessPattern) -> bool {
    let wanted = pattern.process.as_str();
    let exe = match &process.exe {
        Executable::File(exe) => Some(program(exe)),
        Executable::None | Executable::Denied => None,
    };
    let file = exe.as_deref().and_then(|exe| Path::new(exe).file_name()?.to_str());
    let names = [Some(process.comm.as_str()), file, process.called.as_deref()];
    let mut names = names.into_iter().flatten();
    match pattern.by {
        ProcessMatch::Exact => names.any(|name| name == wanted),
        ProcessMatch::Name => names.any(|name| name.contains(wanted)),
        ProcessMatch::Comm => {
            let cut = wanted.as_bytes().get(..COMM_BYTES).unwrap_or(wanted.as_bytes());
            process.comm.as_bytes() == cut
        }
        ProcessMatch::Exe => exe.as_deref() == Some(wanted),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Writes `/proc/PID` as far as it is read here. An empty `exe`: a kernel thread.
    pub(crate) fn fake(proc: &Path, pid: i32, parent: i32, comm: &str, exe: &str, arguments: &str) {
        let folder = proc.join(pid.to_string());
        fs::create_dir_all(&folder).unwrap();
        let flags = if exe.is_empty() { KERNEL_THREAD } else { 0x40_0000 };
        let rest = "0 0 0 0 0 0 0 0 20 0 1 0 100 1000 10 18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0";
        let line = format!("{pid} ({comm}) S {parent} {pid} {pid} 0 -1 {flags} 0 0 0 0 {rest} 0 0 0 0 0 0 0\n");
        fs::write(folder.join("stat"), line).unwrap();
        fs::write(folder.join("cmdline"), arguments.replace(' ', "\0") + "\0").unwrap();
        if !exe.is_empty() {
            std::os::unix::fs::symlink(exe, folder.join("exe")).unwrap();
        }
    }

    fn site() -> tempfile::TempDir {
        let proc = tempfile::tempdir().unwrap();
        let root = proc.path();
        fs::create_dir(root.join("sys")).unwrap();
        fake(root, 1, 0, "systemd", "/usr/lib/systemd/systemd", "/sbin/init");
        fake(root, 2, 0, "kthreadd", "", "");
        fake(root, 10, 1, "myapp", "/opt/app/myapp", "/opt/app/myapp --serve");
        fake(root, 11, 10, "sh", "/usr/bin/dash", "/bin/sh -c id");
        fake(root, 12, 11, "odd) S 1 (name", "/tmp/x y", "./x");
        fake(root, 13, 10, "myapp", "/opt/app/myapp", "/opt/app/myapp --worker");
        fake(root, 20, 1, "python3", "/usr/bin/python3.13", "python3 /opt/myapp.py");
        fake(
            root,
            21,
            20,
            "a-very-long-nam",
            "/usr/bin/a-very-long-name-indeed (deleted)",
            "x",
        );
        fake(root, 22, 1, "payload", "/memfd:payload (deleted)", "[kworker/0:1]");
        proc
    }

    fn pattern(process: &str, by: ProcessMatch) -> ProcessPattern {
        ProcessPattern {
            process: process.to_owned(),
            by,
        }
    }

    #[test]
    fn all_matches_count_and_each_descendant_once() {
        let proc = site();
        let processes = Processes::read(proc.path()).unwrap();
        assert_eq!(processes.count(), 8, "kernel threads are not programs");
        let of = |process: &str, by| {
            let pattern = pattern(process, by);
            (
                processes.matching(&pattern).count(),
                processes.descendants(&pattern).len(),
            )
        };
        // 10 and its worker 13; below them 11, 12 and 13.
        assert_eq!(of("myapp", ProcessMatch::Exact), (2, 3));
        assert_eq!(of("app", ProcessMatch::Exact), (0, 0));
        assert_eq!(of("app", ProcessMatch::Name), (2, 3));
        assert_eq!(of("python3", ProcessMatch::Exact), (1, 1));
        assert_eq!(of("python3.13", ProcessMatch::Exact), (1, 1));
        assert_eq!(of("/opt/app/myapp", ProcessMatch::Exe), (2, 3));
        assert_eq!(of("/opt/app/myap", ProcessMatch::Exe), (0, 0));
        assert_eq!(of("a-very-long-name-indeed", ProcessMatch::Comm), (1, 0));
        assert_eq!(
            of("a-very-long-name-indeed", ProcessMatch::Exact),
            (1, 0),
            "though it was deleted"
        );
        assert_eq!(
            of("odd) S 1 (name", ProcessMatch::Comm),
            (1, 0),
            "a name that looks like the next field"
        );
        assert_eq!(of("systemd", ProcessMatch::Exact), (1, 7));
    }

    #[test]
    fn programs_are_paths_and_those_from_elsewhere_stand_out() {
        let proc = site();
        let processes = Processes::read(proc.path()).unwrap();
        assert_eq!(processes.programs().unwrap().len(), 7);
        let expected = ["/usr", "/opt/app"].map(PathBuf::from);
        let unexpected: Vec<String> = processes.unexpected(&expected).unwrap().into_iter().collect();
        assert_eq!(unexpected, ["/memfd:payload", "/tmp/x y"]);
        // A folder is no prefix of a name.
        let unexpected = processes.unexpected(&["/usr", "/opt/ap", "/memfd:payload", "/tmp"].map(PathBuf::from));
        assert_eq!(unexpected.unwrap().into_iter().collect::<Vec<_>>(), ["/opt/app/myapp"]);
    }

    #[test]
    fn zombies_run_nothing_and_half_written_rows_are_left_out() {
        let proc = site();
        let stat = proc.path().join("11/stat");
        let line = fs::read_to_string(&stat).unwrap().replace(") S ", ") Z ");
        fs::write(stat, line).unwrap();
        fs::write(proc.path().join("13/stat"), "13 (my").unwrap();
        fs::remove_file(proc.path().join("12/cmdline")).unwrap();
        let processes = Processes::read(proc.path()).unwrap();
        assert_eq!(processes.count(), 6);
        assert_eq!(processes.descendants(&pattern("myapp", ProcessMatch::Exact)).len(), 0);
    }

    #[test]
    fn lines_that_are_none_are_not_understood_and_do_no_harm() {
        for line in [
            "",
            ")(",
            "(",
            ")",
            "1 (a)",
            "1 (a) S",
            "1 (a) S x 1 1 1 1 1",
            "1 (a) S 1 1 1 1",
            "1 (a) S 1 1 1 1 1 -1",
        ] {
            assert_eq!(stat(line.as_bytes()), None, "{line:?}");
        }
        let odd = stat(b"1 (\xff) R) S 7 1 1 0 -1 64 0").unwrap();
        assert_eq!((odd.comm.as_str(), odd.parent, odd.flags), ("\u{fffd}) R", 7, 64));
    }

    #[test]
    fn no_procfs_is_missing_and_not_zero() {
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(Processes::read(empty.path()).unwrap_err().reason, Reason::Absent);
        let gone = empty.path().join("gone");
        assert_eq!(Processes::read(&gone).unwrap_err().reason, Reason::Absent);
    }

    #[test]
    fn this_process_is_among_those_of_this_host() {
        let processes = Processes::read(Path::new("/proc")).unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let exe = std::env::current_exe().unwrap();
        assert_eq!(processes.0.get(&own).unwrap().exe, Executable::File(exe));
    }
}
