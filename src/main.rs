//! The `edge-warden` program: arguments, logging, exit codes. Everything else is in the library.

#![allow(
    unreachable_pub,
    reason = "nobody outside sees a binary's modules; `pub` marks what a module offers its siblings"
)]

mod cli;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use cli::args::{Arguments, Command};
use cli::{Exit, InvalidConfiguration};

fn main() -> ExitCode {
    let ended = match Arguments::parse().command {
        Command::Run(arguments) => cli::run::run(&arguments),
        Command::Report(arguments) => cli::report::run(&arguments),
        Command::Devices(arguments) => cli::devices::run(&arguments),
        Command::Alarms(arguments) => cli::alarms::run(&arguments),
        Command::Detect(arguments) => cli::detect::run(&arguments),
        Command::Status(arguments) => cli::status::run(&arguments),
        Command::CheckConfig(arguments) => cli::check_config::run(&arguments),
        Command::Doctor(arguments) => cli::doctor::run(&arguments),
        Command::Shadow(arguments) => cli::shadow::run(&arguments),
        Command::Quarantine(arguments) => cli::quarantine::run(&arguments),
        Command::Boot(arguments) => cli::boot::run(&arguments),
        Command::Purge(arguments) => cli::purge::purge(&arguments),
        Command::MeasureCustom { state_dir } => cli::measure::run(&state_dir),
        Command::Completions { shell } => completions(shell),
        Command::Man { verb } => manual(&verb),
    };
    let exit = ended.unwrap_or_else(|error| {
        if is_closed_stdout(&error) {
            return Exit::Done;
        }
        let exit = if error.is::<InvalidConfiguration>() {
            Exit::InvalidConfiguration
        } else {
            Exit::Failed
        };
        // a closed stderr is no reason to fail differently
        let _ = writeln!(std::io::stderr(), "edge-warden: {error:#}");
        exit
    });
    exit.into()
}

/// Made in memory first: the generator panics when it cannot write.
fn completions(shell: clap_complete::Shell) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "edge-warden", &mut script);
    std::io::stdout().lock().write_all(&script)?;
    Ok(Exit::Done)
}

/// The page in roff, as man(1) reads it.
fn manual(verb: &[String]) -> anyhow::Result<Exit> {
    let program = Arguments::command();
    let mut page = &program;
    for word in verb {
        page = page
            .find_subcommand(word)
            .ok_or_else(|| anyhow::anyhow!("there is no verb {}; `edge-warden help` lists them", verb.join(" ")))?;
    }
    let words = [&["edge-warden".to_owned()], verb].concat();
    // the page's own name has hyphens, as pages name each other; what is typed has spaces
    let page = page
        .clone()
        .display_name(words.join("-"))
        .bin_name(words.join(" "))
        .version(env!("CARGO_PKG_VERSION"));
    let mut roff = Vec::new();
    clap_mangen::Man::new(page).render(&mut roff)?;
    std::io::stdout().lock().write_all(&roff)?;
    Ok(Exit::Done)
}

/// Whoever reads stdout has had enough (`| head`), which is no failure. Errors of other pipes have types of their own.
fn is_closed_stdout(error: &anyhow::Error) -> bool {
    let direct = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    let within_json = || error.downcast_ref::<serde_json::Error>()?.io_error_kind();
    direct.or_else(within_json) == Some(std::io::ErrorKind::BrokenPipe)
}
