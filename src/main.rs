//! The `edge-warden` program: arguments, logging, exit codes. Everything else is in the library.

mod cli;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use cli::args::{Arguments, Command};
use cli::{Exit, InvalidConfiguration};

fn main() -> ExitCode {
    let ended = match Arguments::parse().command {
        Command::Run(arguments) => cli::run::run(arguments),
        Command::Report(arguments) => cli::report::run(&arguments),
        Command::Devices(arguments) => cli::devices::run(&arguments),
        Command::Status(arguments) => cli::status::run(&arguments),
        Command::CheckConfig(arguments) => cli::check_config::run(&arguments),
        Command::Doctor(arguments) => cli::doctor::run(&arguments),
        Command::Shadow(arguments) => cli::shadow::run(&arguments),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "edge-warden", &mut std::io::stdout());
            Ok(Exit::Done)
        }
    };
    let exit = ended.unwrap_or_else(|error| {
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
