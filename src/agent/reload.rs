//! Taking over a changed configuration, or refusing it and saying why.

use std::path::PathBuf;

use serde_json::Value;

use crate::config::{Config, Mode, load_component};
use crate::greengrass::NucleusError;
use crate::sandbox::Held;

use super::{detecting, files};

/// What became of the configurations the nucleus gave.
#[derive(Debug)]
pub(super) struct Reload {
    last_good: Option<PathBuf>,
    error: Option<String>,
    restart_needed: Vec<String>,
    /// Where relative `include` paths start.
    base_dir: PathBuf,
    /// What the process gave up; what a configuration needs of it takes a restart.
    privileges: Option<Held>,
    taken: u64,
    refused: u64,
}

impl Reload {
    pub(super) fn new(
        last_good: Option<PathBuf>,
        base_dir: PathBuf,
        error: Option<String>,
        privileges: Option<Held>,
    ) -> Self {
        Self {
            last_good,
            error,
            restart_needed: Vec::new(),
            base_dir,
            privileges,
            taken: 0,
            refused: 0,
        }
    }

    /// The nucleus answered with a configuration: the new one, if it is valid and different.
    pub(super) fn received(
        &mut self,
        result: Result<Value, NucleusError>,
        mode: Mode,
        current: &Config,
    ) -> Option<Config> {
        let value = match result {
            Ok(value) => value,
            Err(error) => {
                tracing::warn!(%error, "the changed configuration cannot be read; the one in force stays");
                self.error = Some(error.to_string());
                return None;
            }
        };
        if let Some(path) = &self.last_good {
            remember(&path.with_file_name(NEWEST), &value);
        }
        let new = match load_component(value.clone(), &self.base_dir, mode) {
            Ok(new) => new,
            Err(error) => {
                self.refused += 1;
                let mut words = error.to_string();
                // as std words EACCES; which files this process may read was settled when it started
                if self.privileges.is_some() && words.contains("Permission denied") {
                    words.push_str(
                        "; files named for the first time can be read from the next start on: restart the component",
                    );
                }
                tracing::error!(
                    error = words,
                    "the new configuration is refused; the one in force stays"
                );
                self.error = Some(words);
                return None;
            }
        };
        if let Err(error) = detecting::load(&new) {
            self.refused += 1;
            tracing::error!(%error, "a security profile of the new configuration is refused; the one in force stays");
            self.error = Some(error.to_string());
            return None;
        }
        self.error = None;
        let changes = current.changes(&new);
        if changes.hot.is_empty() && changes.restart.is_empty() {
            return None;
        }
        self.taken += 1;
        tracing::info!(keys = ?changes.hot, "configuration changed");
        self.restart_needed = changes.restart;
        if !self.restart_needed.is_empty() {
            tracing::warn!(keys = ?self.restart_needed, "these changes take effect at the next start of the component");
        }
        let lacking = self
            .privileges
            .as_ref()
            .map(|held| held.lacking(&new))
            .unwrap_or_default();
        if !lacking.is_empty() {
            tracing::warn!(
                ?lacking,
                "the new configuration needs what this process gave up when it started: restart the component"
            );
        }
        if let Some(path) = &self.last_good {
            remember(path, &value);
        }
        Some(new)
    }

    /// For `status`: what the process may still do.
    pub(super) fn privileges(&self, config: &Config) -> Value {
        self.privileges.as_ref().map_or(Value::Null, |held| held.status(config))
    }

    /// For `status`.
    pub(super) fn status(&self) -> Value {
        serde_json::json!({
            "error": self.error,
            "taken": self.taken,
            "refused": self.refused,
            "restartNeededFor": self.restart_needed,
        })
    }
}

/// The file in the state folder that holds the last valid configuration.
pub const LAST_GOOD: &str = "last-good-configuration.json";
/// The file beside it that holds what the nucleus gave last, valid or not: the next start may read the files it names.
pub const NEWEST: &str = "newest-configuration.json";

/// Keep the configuration in force beside the decisions made under it.
pub fn keep(state_dir: &std::path::Path, config: &Config) {
    let mut value = config.effective();
    // what the included files hold is in the lists already
    if let Some(object) = value.as_object_mut() {
        object.remove("include");
    }
    remember(&state_dir.join(LAST_GOOD), &value);
}

/// Keep a valid configuration for starts at which the nucleus gives an invalid one or none.
pub fn remember(path: &std::path::Path, configuration: &Value) {
    let written = serde_json::to_vec_pretty(configuration)
        .map_err(|error| error.to_string())
        .and_then(|content| files::replace(path, &content).map_err(|error| error.to_string()));
    if let Err(error) = written {
        tracing::warn!(error, "the last valid configuration is not saved");
    }
}
