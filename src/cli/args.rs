//! The command line as typed.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use edge_warden::control::socket_path;
use edge_warden::model::ThingName;
use serde_json::Value;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the connection to the Greengrass nucleus was lost (the SDK ends the process; the nucleus starts it again)
  2  the command line was not understood
  3  the configuration or a security profile is not valid; the message names each key
  4  it could not be done; the message says why
  5  doctor: something this host needs does not work

Files:
  /var/lib/edge-warden           state of the agent a nucleus started (configuration key stateDir)
  /run/edge-warden/control.sock  where status asks that agent; root only
  DIR/                           with --standalone DIR everything, the socket too, is under DIR

Environment:
  SVCUID, AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT, AWS_IOT_THING_NAME
                                 set by the nucleus for `run`; without them use --standalone DIR";

/// Device Defender reports, detection and quarantine for a gateway and the devices behind it, as a Greengrass component.
///
/// Edge Warden measures the gateway and every device behind it and publishes AWS IoT Device Defender reports through the
/// Greengrass nucleus; it judges them by security profiles, and cuts devices off by nftables when a shadow, an alarm or
/// the operator says so. `edge-warden report` shows what would be reported, now and without AWS; `edge-warden run
/// --standalone DIR` runs the whole agent without a nucleus.
#[derive(Debug, Parser)]
#[command(name = "edge-warden", version, after_help = EXIT_CODES, max_term_width = 110)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent: under a Greengrass nucleus, or alone with --standalone.
    ///
    /// Under a nucleus the configuration comes from the deployment and is reloaded when it changes. The agent logs
    /// info to stdout, warnings and errors to stderr, and stops within two seconds of SIGTERM.
    Run(Run),
    /// Print one Device Defender report of this host, or of THING, measured now.
    ///
    /// Nothing is sent. With --interval the traffic of that many seconds is measured too; without it the report
    /// carries no network_stats, as an agent's first report after a start does. With THING the running agent is asked:
    /// only it knows the devices.
    Report(Report),
    /// The local things and the unknown devices, as the running agent sees them.
    Devices(Devices),
    /// The alarms of the security profiles: active ones, and those that ended lately.
    Alarms(Alarms),
    /// Try security profiles out before they are deployed.
    ///
    /// Nothing is sent and no agent is asked.
    Detect(Detect),
    /// What the running agent is doing: reports, replies, sources, configuration.
    Status(Status),
    /// Check a configuration file (YAML or JSON) and say everything that is wrong with it.
    CheckConfig(CheckConfig),
    /// What works on this host, and what each lack costs.
    Doctor(Doctor),
    /// Write the desired state of a shadow in the embedded stand-in.
    ///
    /// DESIRED_JSON is merged into state.desired; null deletes a key. With AWS, use AWS: this is for trying things out.
    Shadow(Shadow),
    /// Cut devices off, let them go, and see why they are cut off.
    ///
    /// A thing is quarantined while any cause holds: a shadow, an alarm, the operator. `release` ends every cause of a
    /// thing. Every decision is a line in the audit log.
    Quarantine(Quarantine),
    /// Enforce the stored decisions and exit: for a boot unit that runs before the network is up.
    Boot(Place),
    /// Remove everything Edge Warden put on this host: rules, stored decisions, state. The agent must be stopped.
    Purge(Purge),
    /// Measure custom metrics for the agent, which starts this by itself.
    #[command(name = "measure-custom", hide = true)]
    MeasureCustom {
        /// Where what must survive a restart is kept
        #[arg(long, value_name = "DIR")]
        state_dir: PathBuf,
    },
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, of the program or of one verb.
    Man {
        /// The verb, such as `doctor` or `quarantine add`
        verb: Vec<String>,
    },
}

/// `run`
#[derive(Debug, Args)]
pub struct Run {
    /// Run on the embedded stand-in instead of a nucleus; publishes, shadows, state and the control socket are in DIR
    #[arg(long, value_name = "DIR")]
    pub standalone: Option<PathBuf>,
    /// Configuration file; only with --standalone (a nucleus brings its own)
    #[arg(long, value_name = "FILE", requires = "standalone")]
    pub config: Option<PathBuf>,
    /// The core device's thing name in standalone
    #[arg(
        long,
        value_name = "THING",
        requires = "standalone",
        default_value = "edge-warden-core"
    )]
    pub thing: ThingName,
    /// Stop after this many of the core's reports were accepted
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub stop_after_reports: Option<u64>,
    /// Keep state and the control socket in DIR instead of the configuration's stateDir
    #[arg(long, value_name = "DIR", conflicts_with = "standalone")]
    pub state_dir: Option<PathBuf>,
    /// For tests: the agent's clocks run this many times faster than time does
    #[arg(long, value_name = "FACTOR", hide = true, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub accelerate: u32,
}

/// `report`
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("whose").args(["standalone", "state_dir"]).requires("thing"))]
pub struct Report {
    /// A local thing (or the core's) as the running agent would report it now
    pub thing: Option<ThingName>,
    /// Which agent is asked.
    #[command(flatten)]
    pub place: Place,
    /// How to print it
    #[arg(long, value_enum, default_value_t = ReportFormat::Table)]
    pub format: ReportFormat,
    /// Long or short tag names (json and cbor)
    #[arg(long, value_enum, default_value_t = TagNames::Long)]
    pub names: TagNames,
    /// Measure traffic over this many seconds first
    #[arg(long, value_name = "SECONDS", default_value_t = 0, conflicts_with = "thing", value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub interval: u64,
}

/// How `report` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// For people
    Table,
    /// The document as sent to `.../defender/metrics/json`
    Json,
    /// The document as sent to `.../defender/metrics/cbor`, as bytes
    Cbor,
}

/// Which tag names a report uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TagNames {
    /// `header`, `metrics`, ...
    Long,
    /// `hed`, `met`, ...
    Short,
}

/// `status`
#[derive(Debug, Args)]
pub struct Status {
    /// Print everything as JSON
    #[arg(long)]
    pub json: bool,
    /// Which agent is asked.
    #[command(flatten)]
    pub place: Place,
}

/// `devices`
#[derive(Debug, Args)]
pub struct Devices {
    /// Print everything as JSON
    #[arg(long)]
    pub json: bool,
    /// Which agent is asked.
    #[command(flatten)]
    pub place: Place,
}

/// `alarms`
#[derive(Debug, Args)]
pub struct Alarms {
    /// Print everything as JSON
    #[arg(long)]
    pub json: bool,
    /// Ask the standalone agent of DIR
    #[arg(long, value_name = "DIR")]
    pub standalone: Option<PathBuf>,
    /// Ask the agent that was started with --state-dir DIR
    #[arg(long, value_name = "DIR", conflicts_with = "standalone")]
    pub state_dir: Option<PathBuf>,
}

/// `detect`
#[derive(Debug, Args)]
pub struct Detect {
    /// What to do.
    #[command(subcommand)]
    pub verb: DetectVerb,
}

/// The verbs of `detect`.
#[derive(Debug, Subcommand)]
pub enum DetectVerb {
    /// What a profile would have done over a recorded history
    ///
    /// The agent records its samples with `detect.record: true`, in samples.jsonl in its state folder.
    Replay {
        /// A security profile as AWS has it, or an entry of detect.profiles (JSON or YAML); may be given several times
        #[arg(long = "profile", value_name = "FILE", required = true)]
        profiles: Vec<PathBuf>,
        /// Recorded samples; several parts in the order they were recorded
        #[arg(long, value_name = "FILE", required = true)]
        samples: Vec<PathBuf>,
        /// Print the events and what is left as JSON
        #[arg(long)]
        json: bool,
    },
    /// Each behavior of a profile in a sentence, and what is wrong with those that cannot be used
    Explain {
        /// A security profile as AWS has it, or an entry of detect.profiles (JSON or YAML)
        profile: PathBuf,
    },
}

/// `check-config`
#[derive(Debug, Args)]
pub struct CheckConfig {
    /// The file
    pub file: PathBuf,
    /// Judge it as `run --standalone` would: intervals below 300 s are fine there
    #[arg(long)]
    pub standalone: bool,
}

/// `doctor`
#[derive(Debug, Args)]
pub struct Doctor {
    /// Print the findings as JSON
    #[arg(long)]
    pub json: bool,
}

/// `shadow`
#[derive(Debug, Args)]
pub struct Shadow {
    /// Whose shadow
    pub thing: ThingName,
    /// What to merge into state.desired, for example '{"quarantine": true}'
    #[arg(value_name = "DESIRED_JSON", value_parser = desired_json)]
    pub desired: Value,
    /// The stand-in's folder
    #[arg(long, value_name = "DIR")]
    pub standalone: PathBuf,
    /// A named shadow instead of the classic one
    #[arg(long)]
    pub name: Option<String>,
}

/// Desired state is a JSON object.
fn desired_json(text: &str) -> Result<Value, String> {
    match serde_json::from_str(text) {
        Ok(desired @ Value::Object(_)) => Ok(desired),
        Ok(_) => Err("it must be an object such as {\"quarantine\": true}".to_owned()),
        Err(error) => Err(format!("it is not JSON: {error}")),
    }
}

/// Which agent is meant: of a nucleus, unless one of these says otherwise.
#[derive(Debug, Args)]
pub struct Place {
    /// The standalone agent of DIR
    #[arg(long, value_name = "DIR", global = true, conflicts_with = "state_dir")]
    pub standalone: Option<PathBuf>,
    /// The agent that was started with --state-dir DIR
    #[arg(long, value_name = "DIR", global = true)]
    pub state_dir: Option<PathBuf>,
}

impl Place {
    /// Where that agent answers questions.
    pub fn socket(&self) -> PathBuf {
        socket_path(self.standalone.as_deref().or(self.state_dir.as_deref()))
    }
}

/// `quarantine`
#[derive(Debug, Args)]
pub struct Quarantine {
    /// What to do.
    #[command(subcommand)]
    pub verb: QuarantineVerb,
    /// Which agent is asked.
    #[command(flatten)]
    pub place: Place,
    /// Print everything as JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// The verbs of `quarantine`.
#[derive(Debug, Subcommand)]
pub enum QuarantineVerb {
    /// Cut a thing off until it is released
    Add {
        /// Whom
        thing: ThingName,
        /// What it may still do; as configured when not given
        #[arg(long, value_enum)]
        mode: Option<Mode>,
        /// End by itself after this time: 90 (seconds), 30m, 2h, 7d, "1d 12h"
        #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
        seconds: Option<u64>,
        /// Why, for the audit log and `why`
        #[arg(long)]
        reason: Option<String>,
    },
    /// End every cause of a thing's quarantine
    Release {
        /// Whom
        thing: ThingName,
    },
    /// Who is quarantined, why and how it stands
    List,
    /// The decisions and the rules they make
    Plan,
    /// One thing's causes, decision and enforcement
    Why {
        /// Whom
        thing: ThingName,
    },
}

/// A length of time in seconds, at most a century.
fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || "write seconds, or a time such as 30m, 2h or 7d (no months or years)".to_owned();
    let seconds = match text.parse::<u64>() {
        Ok(seconds) => seconds,
        Err(_) => {
            let span: jiff::Span = text.parse().map_err(|_| wrong())?;
            let days = jiff::SpanRelativeTo::days_are_24_hours();
            let duration = span.to_duration(days).map_err(|_| wrong())?;
            u64::try_from(duration.as_secs()).map_err(|_| wrong())?
        }
    };
    match seconds {
        1..=3_153_600_000 => Ok(seconds),
        _ => Err("write a time from 1 second to a century".to_owned()),
    }
}

/// Postures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Nothing but ARP/ND with the gateway and DHCP
    Isolate,
    /// As isolate, and the core's own broker
    Remediate,
}

/// `purge`
#[derive(Debug, Args)]
pub struct Purge {
    /// Yes, remove it: devices that are cut off get their network back
    #[arg(long, required = true)]
    pub yes: bool,
    /// Where the state is.
    #[command(flatten)]
    pub place: Place,
}
