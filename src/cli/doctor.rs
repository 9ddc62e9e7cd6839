//! `edge-warden doctor`: what works on this host, and what each lack costs.

use std::io::Write;
use std::path::Path;

use edge_warden::collect::conntrack;
use edge_warden::collect::{HostCollector, HostPaths, HostSample, InterfaceSelection};
use edge_warden::config::STATE_DIR_DEFAULT;
use edge_warden::firewall;
use edge_warden::greengrass::sdk;
use edge_warden::sandbox::{self, Calls, Files};
use serde::Serialize;

use super::{Exit, args, printable};

/// One thing looked at.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Finding {
    /// What was looked at.
    what: &'static str,
    /// How it is.
    state: State,
    /// What was seen.
    seen: String,
    /// What a lack costs, and what to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Works,
    /// It works, with less.
    Limited,
    /// It does not work, and something that was asked for needs it.
    Fails,
    /// It does not apply here.
    Absent,
}

/// Look at everything and print it.
pub fn run(arguments: &args::Doctor) -> anyhow::Result<Exit> {
    let sample = HostCollector::new(HostPaths::default()).collect();
    let mut findings = vec![kernel(), interfaces(&sample)];
    findings.extend(sockets(&sample));
    findings.extend(kernel_features());
    findings.push(tracking());
    findings.extend([
        notes(&sample),
        nucleus(),
        limits(),
        least_privilege(),
        system_calls(),
        state_dir(Path::new(STATE_DIR_DEFAULT)),
        socket_dir(),
    ]);
    let exit = if findings.iter().any(|finding| finding.state == State::Fails) {
        Exit::Unfit
    } else {
        Exit::Done
    };
    let mut out = std::io::stdout().lock();
    if arguments.json {
        serde_json::to_writer_pretty(&mut out, &findings)?;
        writeln!(out)?;
        return Ok(exit);
    }
    for finding in &findings {
        let mark = match finding.state {
            State::Works => "ok     ",
            State::Limited => "limited",
            State::Fails => "FAILS  ",
            State::Absent => "absent ",
        };
        writeln!(out, "{mark}  {}: {}", finding.what, printable(&finding.seen))?;
        if let Some(cost) = &finding.cost {
            writeln!(out, "         {}", printable(cost))?;
        }
    }
    Ok(exit)
}

fn works(what: &'static str, seen: impl Into<String>) -> Finding {
    Finding {
        what,
        state: State::Works,
        seen: seen.into(),
        cost: None,
    }
}

fn lacks(what: &'static str, state: State, seen: impl Into<String>, cost: impl Into<String>) -> Finding {
    Finding {
        what,
        state,
        seen: seen.into(),
        cost: Some(cost.into()),
    }
}

fn kernel() -> Finding {
    let name = rustix::system::uname();
    let text = format!(
        "{} {} {}",
        name.sysname().to_string_lossy(),
        name.release().to_string_lossy(),
        name.machine().to_string_lossy()
    );
    works("kernel", text)
}

fn interfaces(sample: &HostSample) -> Finding {
    match sample.counters(&InterfaceSelection::Auto) {
        Ok(counted) if counted.is_empty() => lacks(
            "interfaces",
            State::Limited,
            "none is counted",
            "network_stats stay at 0; name interfaces with report.interfaces if that is wrong",
        ),
        Ok(counted) => works(
            "interfaces",
            format!(
                "counting {}",
                counted
                    .into_keys()
                    .map(|key| key.split('#').next().unwrap_or_default().to_owned())
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        ),
        Err(missing) => lacks(
            "interfaces",
            State::Fails,
            missing.to_string(),
            "reports carry no network_stats",
        ),
    }
}

fn sockets(sample: &HostSample) -> Vec<Finding> {
    let tcp = match (sample.established(), sample.listening_tcp()) {
        (Ok(established), Ok(listening)) => works(
            "TCP sockets",
            format!("{} established, {} listening", established.len(), listening.len()),
        ),
        (Err(missing), _) | (_, Err(missing)) => lacks(
            "TCP sockets",
            State::Fails,
            missing.to_string(),
            "reports carry neither connections nor listening TCP ports",
        ),
    };
    let udp = match sample.listening_udp() {
        Ok(listening) => works("UDP sockets", format!("{} listening", listening.len())),
        Err(missing) => lacks(
            "UDP sockets",
            State::Fails,
            missing.to_string(),
            "reports carry no listening UDP ports",
        ),
    };
    vec![tcp, udp]
}

fn notes(sample: &HostSample) -> Finding {
    if sample.notes.is_empty() {
        return works("netlink", "sock_diag and rtnetlink answer");
    }
    let seen: Vec<String> = sample.notes.iter().map(ToString::to_string).collect();
    lacks(
        "netlink",
        State::Limited,
        seen.join("; "),
        "what is read from /proc instead costs more time with many sockets",
    )
}

/// What nf_tables here can do, tried by transactions that are never committed.
fn kernel_features() -> Vec<Finding> {
    let what = "quarantine and traffic per device";
    match firewall::probe() {
        Ok(lacks) if lacks.is_empty() => vec![works(what, "this kernel's nf_tables has everything")],
        Ok(missing) => missing
            .into_iter()
            .map(|lack| {
                let seen = format!("no {:?} ({})", lack.feature, lack.answer);
                lacks(what, State::Limited, seen, lack.consequence)
            })
            .collect(),
        Err(error) => vec![lacks(
            what,
            State::Limited,
            error.to_string(),
            "nothing can be cut off or counted by this user; run as root (RequiresPrivilege in the recipe does)",
        )],
    }
}

fn tracking() -> Finding {
    match conntrack::usage(Path::new("/proc")) {
        Ok(usage) if usage.is_full() => lacks(
            "connection tracking",
            State::Limited,
            format!("full: {} of {} flows", usage.count, usage.max),
            "new connections of local things are turned away and not seen; raise net.netfilter.nf_conntrack_max",
        ),
        Ok(usage) => works("connection tracking", format!("{} of {} flows", usage.count, usage.max)),
        Err(missing) => lacks(
            "connection tracking",
            State::Limited,
            missing.to_string(),
            "reports of local things carry no connections and no answered ports",
        ),
    }
}

fn nucleus() -> Finding {
    let names = [
        "SVCUID",
        "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT",
        "AWS_IOT_THING_NAME",
    ];
    let missing: Vec<&str> = names
        .into_iter()
        .filter(|name| std::env::var_os(name).is_none())
        .collect();
    if missing.is_empty() {
        return works("Greengrass IPC", "started by a nucleus");
    }
    lacks(
        "Greengrass IPC",
        State::Absent,
        format!("not started by a nucleus ({} not set)", missing.join(", ")),
        "nothing is published from here; deploy the component, or use run --standalone DIR",
    )
}

/// Whether `run` can have the kernel end it on a system call it never makes.
fn system_calls() -> Finding {
    match sandbox::syscalls::possible() {
        Calls::Restricted { allowed } => works("system calls", format!("{allowed} are allowed, by seccomp")),
        Calls::Unavailable | Calls::Off => lacks(
            "system calls",
            State::Limited,
            "not restricted: this kernel has no seccomp filters, or there is no list for this processor",
            "an agent somebody broke into could ask the kernel for anything its other limits leave open",
        ),
    }
}

/// What `run` gives up on this kernel; nothing is given up here.
fn least_privilege() -> Finding {
    match sandbox::possible() {
        Files::Restricted => works("least privilege", "capabilities; files and TCP by Landlock"),
        Files::Partly => lacks(
            "least privilege",
            State::Limited,
            "capabilities; files as far as this kernel's Landlock knows them",
            "an agent somebody broke into could do a little more with files than it needs",
        ),
        Files::Unavailable | Files::NextStart => lacks(
            "least privilege",
            State::Limited,
            "capabilities only: this kernel has no Landlock, or it is off (lsm=)",
            "an agent somebody broke into could read and write every file root can",
        ),
    }
}

fn limits() -> Finding {
    let limits = sdk::ipc_limits();
    let seen = format!(
        "messages up to {} bytes, {} streams",
        limits.max_message_bytes, limits.max_streams
    );
    if limits.max_message_bytes >= 262_144 && limits.max_streams >= 64 {
        works("IPC limits of this binary", seen)
    } else {
        lacks(
            "IPC limits of this binary",
            State::Fails,
            seen,
            "a larger message ends the process; build inside the repository so that .cargo/config.toml is used",
        )
    }
}

fn state_dir(path: &Path) -> Finding {
    let what = "state folder";
    let shown = path.display();
    match std::fs::metadata(path) {
        Ok(folder) if folder.is_dir() => match rustix::fs::access(path, rustix::fs::Access::WRITE_OK) {
            Ok(()) => works(what, format!("{shown} can be written")),
            Err(error) => lacks(
                what,
                State::Limited,
                format!("{shown}: {error}"),
                "this user's agent could not keep report times; after a restart its first report would wait longer",
            ),
        },
        Ok(_) => lacks(
            what,
            State::Fails,
            format!("{shown} is no folder"),
            "nothing can be saved; move it away",
        ),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            works(what, format!("{shown} is made at the first run"))
        }
        Err(error) => lacks(
            what,
            State::Limited,
            format!("{shown}: {error}"),
            "this user cannot look; try with sudo",
        ),
    }
}

fn socket_dir() -> Finding {
    let uid = rustix::process::geteuid();
    if uid.is_root() {
        works("control socket", "root may ask the agent")
    } else {
        lacks(
            "control socket",
            State::Limited,
            format!("user {}", uid.as_raw()),
            "only root and the agent's own user may ask a running agent; use sudo for status",
        )
    }
}
