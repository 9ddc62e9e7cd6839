//! `make demo`: a site in network namespaces, the shipped agent on its gateway, a device that goes rogue, its cut and its
//! release. Told on the terminal while it happens, and in one HTML page at the end.
//!
//! Nothing is scripted but what the devices do: every number is counted from real packets, every time is measured.
//! Needs root and `EDGE_WARDEN_BINARY`, the agent to show.
#![allow(
    clippy::disallowed_methods,
    reason = "a measurement reads clocks; the agent it measures is another process"
)]

mod chart;
mod page;
mod record;
#[path = "../../tests/support/site.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the tests' own site, shared and not copied"
)]
mod site;
mod stage;
mod story;
mod tell;
mod traffic;

use std::io::Read;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, bail};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use tell::Tell;

/// Set for the process that does the work; see [`supervise`].
const WORKER: &str = "EDGE_WARDEN_DEMO_WORKER";
/// What the site is made with: program, Debian package.
const TOOLS: [(&str, &str); 4] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("ping", "iputils-ping"),
    ("ethtool", "ethtool"),
];

/// A site on this machine, a device that goes rogue, and what Edge Warden does about it.
#[derive(Debug, Parser)]
#[command(name = "demo", version)]
struct Arguments {
    /// Where the page goes
    #[arg(long, value_name = "FILE", default_value = "target/demo/index.html")]
    page: PathBuf,
    /// Shorter pauses: the same story, sooner
    #[arg(long)]
    brief: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match std::env::var_os(WORKER) {
        None => supervise(),
        Some(_) => work(&arguments).map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("demo: {error:#}");
        ExitCode::FAILURE
    })
}

/// Does the work in a process of its own, which Ctrl-C on the terminal does not reach: neither it nor the programs it
/// uses to clean up. It stops when its standard input ends, so also when this process is killed.
fn supervise() -> anyhow::Result<ExitCode> {
    let binary = requirements()?;
    let mut worker = Command::new(std::env::current_exe().context("the demo's own path")?)
        .args(std::env::args_os().skip(1))
        .env(WORKER, "yes")
        .env("EDGE_WARDEN_BINARY", binary)
        .stdin(Stdio::piped())
        .process_group(0)
        .spawn()
        .context("the demo cannot start itself")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stopped = runtime.block_on(interrupted(&mut worker))?;
    if stopped {
        eprintln!("\ndemo: stopping; taking the site down ...");
    }
    drop(worker.stdin.take());
    let status = worker.wait()?;
    match (stopped, status.success()) {
        (true, _) => Ok(ExitCode::from(130)),
        (false, true) => Ok(ExitCode::SUCCESS),
        (false, false) => Ok(ExitCode::FAILURE),
    }
}

/// Whether a signal came before the worker ended.
async fn interrupted(worker: &mut Child) -> anyhow::Result<bool> {
    let mut signals = [
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
    ];
    let mut ended = signal(SignalKind::child())?;
    let [interrupt, terminate, hangup] = &mut signals;
    loop {
        if worker.try_wait()?.is_some() {
            return Ok(false);
        }
        tokio::select! {
            _ = interrupt.recv() => return Ok(true),
            _ = terminate.recv() => return Ok(true),
            _ = hangup.recv() => return Ok(true),
            _ = ended.recv() => {}
        }
    }
}

/// Everything that is missing, at once; else the agent's binary.
fn requirements() -> anyhow::Result<PathBuf> {
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push("root, because it makes network namespaces: `sudo make demo`".to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    for (tool, package) in TOOLS {
        if !folders.iter().any(|folder| folder.join(tool).is_file()) {
            missing.push(format!("the program {tool} (Debian package {package})"));
        }
    }
    let binary = std::env::var_os("EDGE_WARDEN_BINARY").map(PathBuf::from);
    let binary = binary.filter(|binary| binary.is_file());
    if binary.is_none() {
        missing.push("EDGE_WARDEN_BINARY, the agent's binary: `make demo` builds it and sets this".to_owned());
    }
    match binary {
        Some(binary) if missing.is_empty() => Ok(std::path::absolute(binary)?),
        _ => bail!("it needs\n  - {}", missing.join("\n  - ")),
    }
}

fn work(arguments: &Arguments) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopping = Arc::clone(&stop);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        stopping.store(true, Ordering::SeqCst);
    });
    let binary = std::env::var_os("EDGE_WARDEN_BINARY").map(PathBuf::from);
    let binary = binary.context("EDGE_WARDEN_BINARY is not set")?;
    let mut tell = Tell::start(stop, arguments.brief);
    let record = story::play(&mut tell, &binary)?;
    let page = page::render(&record)?;
    write(&arguments.page, &page)?;
    tell.end(&record, &arguments.page);
    Ok(())
}

fn write(path: &Path, page: &str) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    std::fs::write(path, page).with_context(|| format!("cannot write {}", path.display()))
}
