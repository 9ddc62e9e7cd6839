//! `edge-warden check-config FILE`

use std::io::Write;

use edge_warden::agent::detecting;
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
        Ok(config) => {
            let shown = printable(&arguments.file.to_string_lossy());
            let profiles = detecting::load(&config)
                .map_err(|error| InvalidConfiguration(format!("{shown} is not a valid configuration:\n{error}")))?;
            let mut out = std::io::stdout();
            writeln!(out, "{shown}: valid")?;
            for words in profiles.warnings {
                writeln!(out, "warning: {}", printable(&words))?;
            }
            Ok(Exit::Done)
        }
        Err(error) => Err(InvalidConfiguration(format!("{:#}", anyhow::Error::new(error))).into()),
    }
}
