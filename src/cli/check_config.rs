//! `edge-warden check-config FILE`

use std::io::Write;

use edge_warden::config::{Mode, load_file};

use super::{Exit, InvalidConfiguration, args, printable};

/// Check a file and say everything that is wrong with it.
pub fn run(arguments: &args::CheckConfig) -> anyhow::Result<Exit> {
    let mode = if arguments.standalone {
        Mode::Standalone
    } else {
        Mode::Greengrass
    };
    match load_file(&arguments.file, mode) {
        Ok(_) => {
            writeln!(
                std::io::stdout(),
                "{}: valid",
                printable(&arguments.file.to_string_lossy())
            )?;
            Ok(Exit::Done)
        }
        Err(error) => Err(InvalidConfiguration(format!("{:#}", anyhow::Error::new(error))).into()),
    }
}
