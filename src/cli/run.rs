//! `edge-warden run`: put the agent together and let it run.

use std::fs::{File, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use edge_warden::agent::clock::{Clock, SystemClock};
use edge_warden::agent::site::source::KernelSite;
use edge_warden::agent::warden::Warden;
use edge_warden::agent::{self, Ended, Helper, Parts, detecting, files};
use edge_warden::collect::{HostCollector, HostPaths, HostSample};
use edge_warden::config::{
    Config, LogFormat, LogLevel, Mode, STATE_DIR_DEFAULT, load_component, load_file, named_files,
};
use edge_warden::control::{self, SYSTEM_SOCKET};
use edge_warden::greengrass::link::{Command, NucleusEvent, NucleusEvents, NucleusLink};
use edge_warden::greengrass::sdk::{self, SdkNucleus};
use edge_warden::greengrass::standalone::StandaloneNucleus;
use edge_warden::greengrass::{Nucleus, NucleusError, NucleusKind};
use edge_warden::model::{Now, ThingName};
use edge_warden::sandbox::{Held, around};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing_subscriber::filter::LevelFilter;

use super::logging::{self, LevelHandle};
use super::{Exit, InvalidConfiguration, args, measure, privileges};

/// The last valid configuration a nucleus gave, in the state folder.
pub const LAST_GOOD: &str = agent::LAST_GOOD;
/// What a nucleus gave last, valid or not, beside it.
pub const NEWEST: &str = agent::NEWEST;
/// Questions from the control socket that may wait for the loop.
const QUESTIONS: usize = 16;

/// What differs between a nucleus and the stand-in.
struct Start {
    link: NucleusLink,
    events: NucleusEvents,
    kind: NucleusKind,
    core: ThingName,
    mode: Mode,
    config: Config,
    config_error: Option<String>,
    last_good_config: Option<PathBuf>,
    state_dir: PathBuf,
    socket: PathBuf,
    log: LevelHandle,
    warden: Warden,
    sample: HostSample,
    privileges: Held,
    helper: Option<Helper>,
    /// Held until the process ends.
    alone: File,
}

/// Run the agent until it is told to stop.
pub fn run(arguments: &args::Run) -> anyhow::Result<Exit> {
    let clock = SystemClock::accelerated(arguments.accelerate);
    let start = match &arguments.standalone {
        Some(dir) => begin_standalone(dir, arguments, clock)?,
        None => begin_greengrass(arguments, &clock)?,
    };
    if arguments.accelerate != 1 {
        tracing::warn!(
            factor = arguments.accelerate,
            "the clocks run faster than time does: for tests only"
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // A turn of the loop may take long when hundreds are cut off at once, and without this sockets are looked at
        // only after 61 of them.
        .event_interval(1)
        .build()
        .context("no event loop")?;
    let ended = runtime.block_on(serve(start, clock, arguments.stop_after_reports));
    // a source that does not answer (a file on a dead network file system) must not keep the process from ending
    runtime.shutdown_background();
    ended
}

async fn serve(start: Start, clock: SystemClock, stop_after_reports: Option<u64>) -> anyhow::Result<Exit> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be caught")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be caught")?;
    files::make_folder(&start.state_dir)?;
    // beside the decisions, so that `boot` enforces them as they were made
    agent::keep_configuration(&start.state_dir, &start.config);
    let listener = control::listen(&start.socket)?;
    let (sender, questions) = mpsc::channel(QUESTIONS);
    tokio::spawn(control::serve(listener, sender));
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        thing = %start.core,
        state = %start.state_dir.display(),
        control = %start.socket.display(),
        "edge-warden is running"
    );
    let (reload, reloads) = mpsc::channel(1);
    let mut hangup = signal(SignalKind::hangup()).context("SIGHUP cannot be caught")?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            // one that waits already does for both
            let _ = reload.try_send(());
        }
    });
    let log = start.log;
    let parts = Parts {
        clock,
        link: start.link,
        events: start.events,
        host: Box::new(HostCollector::new(HostPaths::default())),
        site: Box::new(KernelSite::new("/proc")),
        questions,
        reloads,
        core: start.core,
        kind: start.kind,
        mode: start.mode,
        config: start.config,
        config_error: start.config_error,
        include_dir: include_dir(),
        boot_id: boot_id(),
        state_dir: start.state_dir,
        warden: start.warden,
        sample: start.sample,
        privileges: Some(start.privileges),
        helper: start.helper,
        last_good_config: start.last_good_config,
        stop_after_reports,
        set_log_level: Box::new(move |level| {
            let _ = log.modify(|filter| *filter = filter_of(level));
        }),
    };
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
            _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        }
    };
    let ended = agent::run(parts, stop).await;
    drop(start.alone);
    let _ = std::fs::remove_file(&start.socket);
    match ended {
        Ended::Stopped => {
            tracing::info!("stopped");
            Ok(Exit::Done)
        }
        Ended::NucleusGone => Err(anyhow!("the link to the nucleus ended unexpectedly")),
    }
}

fn begin_standalone(dir: &Path, arguments: &args::Run, clock: SystemClock) -> anyhow::Result<Start> {
    let config = match &arguments.config {
        Some(file) => load_file(file, Mode::Standalone).map_err(invalid)?,
        None => Config::default(),
    };
    detecting::load(&config).map_err(|error| invalid_profiles(&error))?;
    files::make_own_folder(dir)?;
    let log = logging::start(filter_of(config.log.level), config.log.format == LogFormat::Json);
    let state_dir = dir.join("state");
    if config.quarantine.boot_unit {
        tracing::warn!("quarantine.bootUnit is for components; in standalone no boot unit is installed");
    }
    let included = include_dir();
    let beside = arguments.config.as_deref().and_then(Path::parent).map(|folder| {
        // a bare file name has the empty path for a parent
        if folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            folder
        }
    });
    let read: Vec<&Path> = beside.into_iter().chain([included.as_path()]).collect();
    let helper = measure::start(Some(&config), &state_dir);
    let held = privileges::give_up(Some(&config), &[dir, &state_dir], &read, None)?;
    let (warden, sample, alone) = enforce_stored(&config, &arguments.thing, &state_dir, &clock)?;
    let (folder, thing, file) = (dir.to_owned(), arguments.thing.clone(), arguments.config.clone());
    let (link, mut events) = NucleusLink::spawn(move |incoming| {
        let configuration = Box::new(move || file_configuration(file.as_deref()));
        let clock = Box::new(move || clock.wall());
        match StandaloneNucleus::open(&folder, thing, configuration, incoming, clock) {
            Ok(nucleus) => Ok(Box::new(nucleus) as Box<dyn Nucleus>),
            Err(error) => Err(NucleusError::Failed {
                what: "the stand-in's folder".to_owned(),
                detail: error.chain(),
            }),
        }
    })?;
    let (kind, core) = ready(&mut events)?;
    Ok(Start {
        link,
        events,
        kind,
        core,
        mode: Mode::Standalone,
        config,
        config_error: None,
        last_good_config: None,
        state_dir,
        socket: control::socket_path(Some(dir)),
        log,
        warden,
        sample,
        privileges: held,
        helper,
        alone,
    })
}

fn begin_greengrass(arguments: &args::Run, clock: &SystemClock) -> anyhow::Result<Start> {
    let log = logging::start(LevelFilter::INFO, false);
    // somebody who tries `run` by hand learns what to do, and leaves nothing behind
    let named = sdk::started_as_component()?;
    let fixed_dir = arguments.state_dir.clone();
    let last_good = fixed_dir
        .clone()
        .unwrap_or_else(|| PathBuf::from(STATE_DIR_DEFAULT))
        .join(LAST_GOOD);
    // What was decided before is enforced before anything is connected to, by the last configuration known.
    let known = last_good_config(&last_good, Mode::Greengrass);
    let before = known.clone().unwrap_or_default();
    let state_dir = fixed_dir.clone().unwrap_or_else(|| before.state_dir.clone());
    let socket = fixed_dir
        .as_ref()
        .map_or_else(|| PathBuf::from(SYSTEM_SOCKET), |dir| dir.join("control.sock"));
    let folders = [Some(state_dir.as_path()), last_good.parent(), socket.parent()];
    let folders: Vec<&Path> = folders.into_iter().flatten().collect();
    let helper = measure::start(known.as_ref(), &state_dir);
    // Which files may be read is settled here for the whole process: also those of a configuration that was refused
    // because its files could not be read yet.
    let included = include_dir();
    let newest = files::read(&last_good.with_file_name(NEWEST)).ok().flatten();
    let newest = newest.and_then(|content| serde_json::from_slice(&content).ok());
    let wanted = newest.map_or_else(Vec::new, |value| named_files(value, &included));
    let read: Vec<&Path> = wanted
        .iter()
        .map(|file| around(file))
        .chain([included.as_path()])
        .collect();
    let held = privileges::give_up(known.as_ref(), &folders, &read, sdk::socket_path().as_deref())?;
    let (mut warden, sample, alone) = enforce_stored(&before, &named, &state_dir, clock)?;
    let (link, mut events) = NucleusLink::spawn(|incoming| {
        SdkNucleus::connect(incoming).map(|nucleus| Box::new(nucleus) as Box<dyn Nucleus>)
    })?;
    let (kind, core) = ready(&mut events)?;
    let fixed_dir = arguments.state_dir.clone();
    let last_good = fixed_dir
        .clone()
        .unwrap_or_else(|| PathBuf::from(STATE_DIR_DEFAULT))
        .join(LAST_GOOD);
    link.send(Command::Configuration)?;
    let answer = loop {
        match events.blocking_recv() {
            Some(NucleusEvent::Configuration(answer)) => break answer,
            Some(_) => {}
            None => return Err(anyhow!("the link to the nucleus ended unexpectedly")),
        }
    };
    let (config, config_error) = choose(answer, &last_good)?;
    let _ = log.modify(|filter| *filter = filter_of(config.log.level));
    if config.log.format == LogFormat::Json {
        tracing::warn!("log.format json takes effect in standalone only; the nucleus adds its own format");
    }
    warden.set_core(&core);
    warden.reconfigure(&config, Some(&sample), now(clock));
    if config.quarantine.boot_unit {
        warden.keep_boot_unit(&config);
    }
    Ok(Start {
        warden,
        sample,
        privileges: held,
        helper,
        alone,
        link,
        events,
        kind,
        core,
        mode: Mode::Greengrass,
        config_error,
        last_good_config: Some(last_good),
        socket,
        // a changed stateDir takes effect with the next start: this one's decisions are in the old place
        state_dir,
        config,
        log,
    })
}

/// The configuration file as it is now, in the form a nucleus gives; for SIGHUP.
fn file_configuration(file: Option<&Path>) -> Result<Value, NucleusError> {
    let Some(file) = file else {
        return Ok(Value::Object(serde_json::Map::new()));
    };
    let config = load_file(file, Mode::Standalone).map_err(|error| NucleusError::Failed {
        what: "reading the configuration".to_owned(),
        detail: error.to_string(),
    })?;
    let mut value = config.effective();
    // what the included files hold is in the lists already
    if let Some(object) = value.as_object_mut() {
        object.remove("include");
    }
    Ok(value)
}

/// The configuration to begin with: the nucleus's if it is valid, else the last valid one.
fn choose(answer: Result<Value, NucleusError>, last_good: &Path) -> anyhow::Result<(Config, Option<String>)> {
    if let Some(folder) = last_good.parent() {
        files::make_folder(folder)?;
    }
    if let Ok(value) = &answer {
        agent::remember_configuration(&last_good.with_file_name(NEWEST), value);
    }
    let error = match answer {
        Ok(value) => match checked(value.clone()) {
            Ok(config) => {
                agent::remember_configuration(last_good, &value);
                return Ok((config, None));
            }
            Err(error) => error,
        },
        Err(error) => anyhow!(error).context("the configuration cannot be read from the nucleus"),
    };
    match last_good_config(last_good, Mode::Greengrass) {
        Some(config) => {
            tracing::error!(
                error = format!("{error:#}"),
                "the configuration is refused; the last valid one is in force"
            );
            Ok((config, Some(format!("{error:#}"))))
        }
        // a first deployment with an invalid configuration: failing lets Greengrass roll it back
        None => Err(error),
    }
}

/// A component configuration all of which can be used.
fn checked(value: Value) -> anyhow::Result<Config> {
    let config = load_component(value, &include_dir(), Mode::Greengrass).map_err(invalid)?;
    detecting::load(&config).map_err(|error| invalid_profiles(&error))?;
    Ok(config)
}

/// The last configuration that was valid, if one is kept and still is.
pub fn last_good_config(path: &Path, mode: Mode) -> Option<Config> {
    let content = files::read(path).ok().flatten()?;
    load_component(serde_json::from_slice(&content).ok()?, &include_dir(), mode).ok()
}

/// Keeps others from enforcing at the same time: two processes would take each other's tables for damage.
///
/// # Errors
/// When another process holds the lock, or the folder cannot be used.
pub fn lock(state_dir: &Path) -> anyhow::Result<File> {
    let path = state_dir.join("agent.lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0))
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(anyhow!(
            "another edge-warden uses {}; stop it first",
            state_dir.display()
        )),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// Load what was decided before and enforce it. The lock must be kept for as long as anything is enforced.
pub fn enforce_stored(
    config: &Config,
    core: &ThingName,
    state_dir: &Path,
    clock: &SystemClock,
) -> anyhow::Result<(Warden, HostSample, File)> {
    files::make_own_folder(state_dir)?;
    let alone = lock(state_dir)?;
    let sample = HostCollector::new(HostPaths::default()).collect();
    let warden = Warden::begin(config, core, state_dir, &boot_id(), &sample, now(clock))?;
    Ok((warden, sample, alone))
}

fn now(clock: &SystemClock) -> Now {
    Now {
        monotonic: clock.monotonic(),
        wall: clock.wall(),
    }
}

fn invalid(error: edge_warden::config::ConfigError) -> anyhow::Error {
    InvalidConfiguration(format!("{:#}", anyhow::Error::new(error))).into()
}

/// A configuration one of whose profiles cannot be evaluated.
pub fn invalid_profiles(error: &detecting::ProfilesError) -> anyhow::Error {
    InvalidConfiguration(error.0.join("\n")).into()
}

fn ready(events: &mut NucleusEvents) -> anyhow::Result<(NucleusKind, ThingName)> {
    match events.blocking_recv() {
        Some(NucleusEvent::Ready { kind, core }) => Ok((kind, core)),
        Some(NucleusEvent::Unavailable(error)) => Err(error.into()),
        other => Err(anyhow!("the link to the nucleus began with {other:?}")),
    }
}

/// Relative includes of a deployed configuration are artifacts beside the binary.
fn include_dir() -> PathBuf {
    std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.to_owned()))
        .unwrap_or_default()
}

/// Times saved in another boot mean nothing in this one; when the kernel does not name it, no saved one matches.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| format!("unknown-{}", std::process::id()), |id| id.trim().to_owned())
}

fn filter_of(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}
