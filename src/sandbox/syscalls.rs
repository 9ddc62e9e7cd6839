//! Which system calls the agent may still make, each with the reason it is here; any other ends the process
//! (seccomp(2), `SECCOMP_RET_KILL_PROCESS`). The list is of the agent after [`super::enter`]: what only the start needs,
//! such as execve(2), capset(2) or the Landlock calls, is not on it.
//!
//! Nobody takes a call off this list or puts one on it unnoticed: `tests/syscalls.rs` traces the running agent, and
//! fails when a call marked [`Seen::Always`] was not made.

use serde::Serialize;

/// Whether a plain day brings the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Every run that samples, decides, answers and ends makes it.
    Always,
    /// Made on a path that a test cannot be sure to take, by another C library, or on another processor.
    Rarely,
}

/// An allowed system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed {
    /// Its name in the kernel's table.
    pub name: &'static str,
    /// Its number here.
    pub number: libc::c_long,
    /// Whether a plain day brings it.
    pub seen: Seen,
    /// What it is for.
    pub reason: &'static str,
}

/// What became of the restriction, as `status` and `doctor` say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum Calls {
    /// To those on the list.
    Restricted {
        /// How many are on it.
        allowed: usize,
    },
    /// Not: the configuration says so (`sandbox.seccomp: off`).
    Off,
    /// Not: this kernel has no seccomp filters, or there is no list for this processor.
    Unavailable,
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
const fn always(name: &'static str, number: libc::c_long, reason: &'static str) -> Allowed {
    Allowed {
        name,
        number,
        seen: Seen::Always,
        reason,
    }
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
const fn rarely(name: &'static str, number: libc::c_long, reason: &'static str) -> Allowed {
    Allowed {
        name,
        number,
        seen: Seen::Rarely,
        reason,
    }
}

/// No list: `seccompiler` has no filters for this processor, which names some of its calls otherwise too.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
pub const ALLOWED: &[Allowed] = &[];

/// The list. Processors other than x86 have no calls that take a bare path or wait without a mask; their C library uses
/// the newer ones, which are here as well.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
pub const ALLOWED: &[Allowed] = &[
    // memory
    always("brk", libc::SYS_brk, "memory: malloc's first arena"),
    always("mmap", libc::SYS_mmap, "memory: buffers, stacks of threads"),
    always("munmap", libc::SYS_munmap, "memory: given back"),
    always(
        "mprotect",
        libc::SYS_mprotect,
        "memory: arenas and stacks grow into what they reserved",
    ),
    always("madvise", libc::SYS_madvise, "memory: the stack of a thread that ends"),
    rarely("mremap", libc::SYS_mremap, "memory: a large buffer grows"),
    // threads and their end
    rarely(
        "clone",
        libc::SYS_clone,
        "threads: where the C library does not use clone3",
    ),
    always("clone3", libc::SYS_clone3, "threads: samples, rules, the nucleus' link"),
    always("set_robust_list", libc::SYS_set_robust_list, "threads: begin"),
    always("rseq", libc::SYS_rseq, "threads: begin"),
    rarely(
        "set_tid_address",
        libc::SYS_set_tid_address,
        "threads: begin, in other C libraries",
    ),
    always(
        "sigaltstack",
        libc::SYS_sigaltstack,
        "threads: the stack on which an overflow is noticed",
    ),
    always(
        "gettid",
        libc::SYS_gettid,
        "threads: names, and the guard of their stacks",
    ),
    always("prctl", libc::SYS_prctl, "threads: names"),
    always(
        "sched_getaffinity",
        libc::SYS_sched_getaffinity,
        "threads: where the stack lies, how many processors",
    ),
    rarely(
        "sched_yield",
        libc::SYS_sched_yield,
        "threads: a lock is held for a moment",
    ),
    always("futex", libc::SYS_futex, "threads: locks and waits"),
    always("exit", libc::SYS_exit, "threads: end"),
    always("exit_group", libc::SYS_exit_group, "the process ends"),
    rarely(
        "restart_syscall",
        libc::SYS_restart_syscall,
        "the kernel's own, after a stop (SIGSTOP)",
    ),
    // signals
    always(
        "rt_sigaction",
        libc::SYS_rt_sigaction,
        "signals: SIGTERM, SIGINT, SIGHUP",
    ),
    always(
        "rt_sigprocmask",
        libc::SYS_rt_sigprocmask,
        "signals: blocked while a thread begins or ends",
    ),
    always("rt_sigreturn", libc::SYS_rt_sigreturn, "signals: back from one"),
    rarely(
        "tgkill",
        libc::SYS_tgkill,
        "abort(3), after a panic or a fatal error of the SDK",
    ),
    rarely("tkill", libc::SYS_tkill, "abort(3), in other C libraries"),
    rarely("getpid", libc::SYS_getpid, "abort(3)"),
    rarely(
        "wait4",
        libc::SYS_wait4,
        "the process that measures custom metrics has ended",
    ),
    rarely("waitid", libc::SYS_waitid, "the same, by way of a pidfd"),
    // waiting
    always("epoll_create1", libc::SYS_epoll_create1, "the loop"),
    always("epoll_ctl", libc::SYS_epoll_ctl, "the loop: sockets come and go"),
    #[cfg(target_arch = "x86_64")]
    always("epoll_wait", libc::SYS_epoll_wait, "the loop waits"),
    rarely(
        "epoll_pwait",
        libc::SYS_epoll_pwait,
        "the loop waits, on other processors and C libraries",
    ),
    rarely(
        "epoll_pwait2",
        libc::SYS_epoll_pwait2,
        "the loop waits, in newer libraries",
    ),
    always("eventfd2", libc::SYS_eventfd2, "the loop is woken by a thread"),
    #[cfg(target_arch = "x86_64")]
    rarely("poll", libc::SYS_poll, "one descriptor is waited for"),
    rarely("ppoll", libc::SYS_ppoll, "one descriptor is waited for"),
    rarely(
        "clock_nanosleep",
        libc::SYS_clock_nanosleep,
        "a thread pauses between two looks",
    ),
    rarely("nanosleep", libc::SYS_nanosleep, "the same, in other C libraries"),
    rarely(
        "clock_gettime",
        libc::SYS_clock_gettime,
        "the time, where the vDSO does not tell it",
    ),
    rarely("gettimeofday", libc::SYS_gettimeofday, "the same"),
    rarely(
        "pidfd_open",
        libc::SYS_pidfd_open,
        "the end of the process that measures is waited for",
    ),
    // files: /proc, the state folder, leases, resolv.conf
    #[cfg(target_arch = "x86_64")]
    rarely("open", libc::SYS_open, "files: by the C library itself"),
    always("openat", libc::SYS_openat, "files: /proc, state, leases, configuration"),
    always("close", libc::SYS_close, "files and sockets"),
    always("read", libc::SYS_read, "files, the nucleus' socket, wake-ups"),
    always(
        "write",
        libc::SYS_write,
        "files, the log, the nucleus' socket, wake-ups",
    ),
    rarely("readv", libc::SYS_readv, "several buffers at once, in other libraries"),
    rarely("writev", libc::SYS_writev, "several buffers at once: the SDK's log"),
    rarely("pread64", libc::SYS_pread64, "state: at a place of the file"),
    always("pwrite64", libc::SYS_pwrite64, "state: a slot of the decisions"),
    rarely("lseek", libc::SYS_lseek, "files: how much there is to read"),
    always("statx", libc::SYS_statx, "files: what kind, how large, changed since"),
    rarely("fstat", libc::SYS_fstat, "the same, in the C library"),
    rarely("newfstatat", libc::SYS_newfstatat, "the same, in the C library"),
    #[cfg(target_arch = "x86_64")]
    rarely("stat", libc::SYS_stat, "the same, in older C libraries"),
    #[cfg(target_arch = "x86_64")]
    rarely("lstat", libc::SYS_lstat, "the same, in older C libraries"),
    rarely(
        "statfs",
        libc::SYS_statfs,
        "the metric `disk`, without a process that measures",
    ),
    rarely("fstatfs", libc::SYS_fstatfs, "the same"),
    rarely(
        "getdents64",
        libc::SYS_getdents64,
        "folders: processes, sessions, sensors, shadows of the stand-in",
    ),
    rarely("getcwd", libc::SYS_getcwd, "relative paths"),
    #[cfg(target_arch = "x86_64")]
    rarely("access", libc::SYS_access, "whether a file is there"),
    rarely("faccessat", libc::SYS_faccessat, "whether a file is there"),
    #[cfg(target_arch = "x86_64")]
    rarely(
        "readlink",
        libc::SYS_readlink,
        "where this program is, and other processes' programs",
    ),
    rarely("readlinkat", libc::SYS_readlinkat, "the same, on other processors"),
    always("fcntl", libc::SYS_fcntl, "descriptors: not inherited, without waiting"),
    rarely("dup", libc::SYS_dup, "descriptors: one more for the same socket"),
    rarely("dup3", libc::SYS_dup3, "the same"),
    always("flock", libc::SYS_flock, "state: one agent per folder"),
    always(
        "fallocate",
        libc::SYS_fallocate,
        "state: a full disk cannot stop a release",
    ),
    rarely(
        "ftruncate",
        libc::SYS_ftruncate,
        "state: a journal is cut where it was half written",
    ),
    always("fsync", libc::SYS_fsync, "state: on the disk before it counts"),
    rarely(
        "fdatasync",
        libc::SYS_fdatasync,
        "the same, for slots that keep their size",
    ),
    rarely("fchmod", libc::SYS_fchmod, "state: for root alone"),
    rarely(
        "fchmodat",
        libc::SYS_fchmodat,
        "the control socket: for root alone, on other processors",
    ),
    #[cfg(target_arch = "x86_64")]
    rarely("chmod", libc::SYS_chmod, "the control socket: for root alone"),
    #[cfg(target_arch = "x86_64")]
    rarely("mkdir", libc::SYS_mkdir, "state: its folders"),
    rarely("mkdirat", libc::SYS_mkdirat, "the same, on other processors"),
    #[cfg(target_arch = "x86_64")]
    rarely("rename", libc::SYS_rename, "state: a file is replaced whole"),
    #[cfg(not(target_arch = "riscv64"))]
    rarely("renameat", libc::SYS_renameat, "the same, on other processors"),
    rarely("renameat2", libc::SYS_renameat2, "the same, in other C libraries"),
    #[cfg(target_arch = "x86_64")]
    rarely(
        "unlink",
        libc::SYS_unlink,
        "state: what is left of an interrupted write; the control socket",
    ),
    rarely("unlinkat", libc::SYS_unlinkat, "the same, on other processors"),
    #[cfg(target_arch = "x86_64")]
    rarely("symlink", libc::SYS_symlink, "systemd: the boot unit is enabled"),
    rarely("symlinkat", libc::SYS_symlinkat, "the same, on other processors"),
    #[cfg(target_arch = "x86_64")]
    rarely("rmdir", libc::SYS_rmdir, "state: an empty folder goes"),
    always(
        "inotify_init1",
        libc::SYS_inotify_init1,
        "lease files: changes are noticed at once",
    ),
    always(
        "inotify_add_watch",
        libc::SYS_inotify_add_watch,
        "lease files: which ones",
    ),
    rarely(
        "inotify_rm_watch",
        libc::SYS_inotify_rm_watch,
        "lease files: one is configured no more",
    ),
    // sockets: netlink, the nucleus, the control socket
    always(
        "socket",
        libc::SYS_socket,
        "netlink; the nucleus; the names of interfaces",
    ),
    always("socketpair", libc::SYS_socketpair, "signals reach the loop"),
    always("bind", libc::SYS_bind, "netlink; the control socket"),
    always("listen", libc::SYS_listen, "the control socket"),
    always("accept4", libc::SYS_accept4, "the control socket"),
    rarely("accept", libc::SYS_accept, "the same, in other libraries"),
    always(
        "connect",
        libc::SYS_connect,
        "the nucleus; an older control socket, to see whether somebody answers",
    ),
    always(
        "getsockname",
        libc::SYS_getsockname,
        "netlink: the number the kernel gave",
    ),
    rarely("getpeername", libc::SYS_getpeername, "who asks"),
    always(
        "getsockopt",
        libc::SYS_getsockopt,
        "who asks, by the kernel's word (SO_PEERCRED)",
    ),
    always(
        "setsockopt",
        libc::SYS_setsockopt,
        "netlink: room for answers, how long to wait for them",
    ),
    always(
        "sendto",
        libc::SYS_sendto,
        "netlink: requests; the control socket's answers",
    ),
    always(
        "recvfrom",
        libc::SYS_recvfrom,
        "netlink: answers; the control socket's questions",
    ),
    rarely("sendmsg", libc::SYS_sendmsg, "the same, in other libraries"),
    rarely("recvmsg", libc::SYS_recvmsg, "the same, in other libraries"),
    rarely("shutdown", libc::SYS_shutdown, "the nucleus' socket at the end"),
    always(
        "ioctl",
        libc::SYS_ioctl,
        "the name of an interface; reads that do not wait",
    ),
    // the rest
    always(
        "getrandom",
        libc::SYS_getrandom,
        "ids of violations and requests; hash tables",
    ),
    rarely("geteuid", libc::SYS_geteuid, "whether the state folder is ours"),
    rarely("getuid", libc::SYS_getuid, "the same, in the C library"),
    rarely("uname", libc::SYS_uname, "which kernel this is"),
    rarely(
        "sysinfo",
        libc::SYS_sysinfo,
        "how much memory there is, in the C library",
    ),
    rarely("prlimit64", libc::SYS_prlimit64, "how large a stack may be"),
];

/// Let only [`ALLOWED`] pass, for the calling thread and those it starts from now on.
///
/// # Errors
/// The kernel refused the filter although it knows filters.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
pub fn restrict() -> std::io::Result<Calls> {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(std::io::Error::other)?;
    // an empty list of conditions: whatever the arguments
    let rules = ALLOWED.iter().map(|call| (call.number, Vec::new())).collect();
    let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch);
    let program: BpfProgram = filter.and_then(TryInto::try_into).map_err(std::io::Error::other)?;
    match seccompiler::apply_filter(&program) {
        Ok(()) => Ok(Calls::Restricted { allowed: ALLOWED.len() }),
        // CONFIG_SECCOMP_FILTER is not set (EINVAL of the call itself, ENOSYS of none), or an emulator has none
        Err(seccompiler::Error::Seccomp(error))
            if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) =>
        {
            Ok(Calls::Unavailable)
        }
        Err(seccompiler::Error::Seccomp(error) | seccompiler::Error::Prctl(error)) => Err(error),
        Err(error) => Err(std::io::Error::other(error)),
    }
}

/// No filter: `seccompiler` knows no such processor.
///
/// # Errors
/// None.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
pub fn restrict() -> std::io::Result<Calls> {
    Ok(Calls::Unavailable)
}

/// How far this kernel would restrict; found out on a thread that ends with it.
#[must_use]
pub fn possible() -> Calls {
    std::thread::spawn(restrict)
        .join()
        .ok()
        .and_then(Result::ok)
        .unwrap_or(Calls::Unavailable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_call_is_there_once_with_its_reason_and_none_starts_a_program_or_changes_who_we_are() {
        let names: BTreeSet<&str> = ALLOWED.iter().map(|call| call.name).collect();
        let numbers: BTreeSet<libc::c_long> = ALLOWED.iter().map(|call| call.number).collect();
        assert_eq!((names.len(), numbers.len()), (ALLOWED.len(), ALLOWED.len()));
        assert!(ALLOWED.iter().all(|call| call.reason.len() > 5));
        for never in [
            "execve",
            "execveat",
            "fork",
            "vfork",
            "ptrace",
            "process_vm_readv",
            "process_vm_writev",
            "kill",
            "setuid",
            "setgid",
            "setgroups",
            "capset",
            "mount",
            "umount2",
            "pivot_root",
            "chroot",
            "unshare",
            "setns",
            "bpf",
            "perf_event_open",
            "init_module",
            "finit_module",
            "keyctl",
            "userfaultfd",
            "io_uring_setup",
            "reboot",
            "link",
            "linkat",
            "mknod",
            "mknodat",
            "chown",
            "fchown",
            "settimeofday",
            "clock_settime",
            "sethostname",
        ] {
            assert!(!names.contains(never), "{never}");
        }
    }
}
