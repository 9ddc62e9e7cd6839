//! Which privileges a configuration needs, and why. Pure: the paths are names here, not files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::{Config, Seccomp};

/// What is kept, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    /// The privileges kept, with the reason.
    pub privileges: BTreeMap<Privilege, &'static str>,
    /// The only files and folders that stay open; `None` while nobody knows which are needed.
    pub paths: Option<BTreeMap<PathBuf, Access>>,
    /// A process beside this one, started before anything is given up, measures custom metrics.
    pub helper: bool,
    /// System calls stay unrestricted, because the configuration says so.
    pub every_call: bool,
}

/// A privilege beyond those of an ordinary process of the same user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Privilege {
    /// nftables, conntrack, closing sockets (`CAP_NET_ADMIN`).
    NetworkAdministration,
    /// `/proc/PID/exe` of other users' processes (`CAP_SYS_PTRACE`).
    OtherUsersProcesses,
    /// Files that belong to others (`CAP_DAC_OVERRIDE`).
    OtherUsersFiles,
    /// Reading files that belong to others (`CAP_DAC_READ_SEARCH`).
    ReadOtherUsersFiles,
    /// Running a program as another user (`CAP_SETUID` and `CAP_SETGID`).
    OtherUsersNames,
    /// Ending other users' processes (`CAP_KILL`).
    EndOtherUsersProcesses,
}

/// What may be done with a path and everything below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Read.
    Read,
    /// Read, write, make and remove.
    Write,
}

/// What is not in the configuration.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Folders written to: state, control socket, the stand-in's, systemd's units.
    pub written: Vec<PathBuf>,
    /// Folders and files read: the program's own folder, the configuration's, the name servers' list.
    pub read: Vec<PathBuf>,
    /// A folder written to, or the nucleus' socket, belongs to another user.
    pub others_files: bool,
}

const RULES: &str = "nftables, conntrack and the sockets of devices that are cut off";
const LEASES: &str = "lease files of the DHCP server's user";
const NOT_OURS: &str = "a folder or socket in use belongs to another user";
const CUSTOM: &str = "custom metrics of this host, which a process of their own measures";
const PROGRAMS: &str = "the metrics about programs";
const READ: &str = "the files of metrics, which belong to others";
const COMMANDS: &str = "commands of metrics, run as nobody or another user";
const UNKNOWN: &str = "the configuration is not known yet";

/// Folders that hold too much to be opened for the sake of one file in them.
const BROAD: [&str; 6] = ["/", "/etc", "/root", "/home", "/var", "/usr"];

impl Needs {
    /// For this configuration.
    #[must_use]
    pub fn of(config: &Config, surroundings: &Surroundings) -> Self {
        let mut privileges = BTreeMap::new();
        // accounting has a table of its own, so also while quarantine only observes
        privileges.insert(Privilege::NetworkAdministration, RULES);
        if !config.discovery.leases.is_empty() {
            privileges.insert(Privilege::ReadOtherUsersFiles, LEASES);
        }
        if surroundings.others_files {
            privileges.insert(Privilege::OtherUsersFiles, NOT_OURS);
        }
        let mut paths = BTreeMap::new();
        let mut allow = |path: &Path, access: Access| {
            let held = paths.entry(path.to_owned()).or_insert(access);
            *held = access.max(*held);
        };
        allow(Path::new("/proc"), Access::Read);
        allow(Path::new("/sys"), Access::Read);
        surroundings.read.iter().for_each(|path| allow(path, Access::Read));
        for lease in &config.discovery.leases {
            allow(around(&lease.path), Access::Read);
        }
        surroundings.written.iter().for_each(|path| allow(path, Access::Write));
        Self {
            privileges,
            paths: Some(paths),
            helper: config.custom_metrics.iter().any(|metric| metric.source.is_of_host()),
            every_call: config.sandbox.seccomp == Seccomp::Off,
        }
    }

    /// What the process that measures custom metrics keeps, whatever is configured: it is asked for more only at its next
    /// start. `others_folder`: the state folder, into which it writes what it knows of watched files, is another user's.
    #[must_use]
    pub fn of_measuring(others_folder: bool) -> BTreeMap<Privilege, &'static str> {
        let mut privileges = BTreeMap::from([
            (Privilege::OtherUsersProcesses, PROGRAMS),
            (Privilege::ReadOtherUsersFiles, READ),
            (Privilege::OtherUsersNames, COMMANDS),
            (Privilege::EndOtherUsersProcesses, COMMANDS),
        ]);
        if others_folder {
            privileges.insert(Privilege::OtherUsersFiles, NOT_OURS);
        }
        privileges
    }

    /// While no configuration is known, which is the first start on a nucleus: everything any configuration needs.
    #[must_use]
    pub fn of_any_configuration() -> Self {
        let privileges = [
            (Privilege::NetworkAdministration, RULES),
            (Privilege::OtherUsersProcesses, UNKNOWN),
            (Privilege::OtherUsersFiles, UNKNOWN),
            (Privilege::ReadOtherUsersFiles, UNKNOWN),
        ];
        Self {
            privileges: privileges.into(),
            paths: None,
            helper: true,
            every_call: false,
        }
    }

    /// What `self` needs and `held` does not have, in words; it takes a restart.
    #[must_use]
    pub fn beyond(&self, held: &Self) -> Vec<String> {
        let mut lacking: Vec<String> = self
            .privileges
            .iter()
            .filter(|(privilege, _)| !held.privileges.contains_key(privilege))
            .map(|(_, reason)| (*reason).to_owned())
            .collect();
        if self.helper && !held.helper {
            lacking.push(CUSTOM.to_owned());
        }
        let Some(open) = &held.paths else { return lacking };
        for (path, access) in self.paths.iter().flatten() {
            let covered = open
                .iter()
                .any(|(folder, granted)| path.starts_with(folder) && granted >= access);
            if !covered {
                lacking.push(path.display().to_string());
            }
        }
        lacking
    }
}

/// The folder of a file that others replace by renaming, so that the new one can be read too; the file alone where
/// the folder holds more than that.
#[must_use]
pub fn around(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !BROAD.iter().any(|broad| folder == Path::new(broad)) => folder,
        _ => file,
    }
}
