//! Least privilege: what this process may still do once it runs. Nothing taken away here ever comes back, so it is
//! entered once, before any thread starts, and only by `run`.
//!
//! [`Needs`] is pure: from the configuration, which privileges are kept and why. [`enter`] gives up everything else.

mod capabilities;
mod files;
mod needs;
pub mod syscalls;

pub use files::possible;
pub use needs::{Access, Needs, Privilege, Surroundings, around};
pub use syscalls::Calls;

use std::fmt;

/// What is in force, as `status` and the log say it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sandbox {
    /// The capabilities kept (capabilities(7)), with the reason for each.
    pub capabilities: Vec<(String, &'static str)>,
    /// Files and TCP, by Landlock (landlock(7)).
    pub files: Files,
    /// System calls, by seccomp(2).
    pub calls: Calls,
}

/// How far access to files is restricted.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum Files {
    /// To the paths that are needed; no TCP.
    Restricted,
    /// As far as this kernel's Landlock goes, which is not all of it.
    Partly,
    /// This kernel has no Landlock, or it is off.
    Unavailable,
    /// Not yet: the configuration, which names the paths, was not known when the process started. It is with the next
    /// start.
    NextStart,
}

impl fmt::Display for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.capabilities.iter().map(|(name, _)| name.as_str()).collect();
        write!(
            f,
            "capabilities {}; files {}; system calls {}",
            if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            },
            match self.files {
                Files::Restricted => "restricted to what is needed",
                Files::Partly => "restricted as far as this kernel can",
                Files::Unavailable => "not restricted: this kernel has no Landlock",
                Files::NextStart => "restricted from the next start on, when the configuration is known",
            },
            match self.calls {
                Calls::Restricted { .. } => "restricted to those it makes",
                Calls::Off => "not restricted: sandbox.seccomp is off",
                Calls::Unavailable => "not restricted: no seccomp filter for this kernel or processor",
            }
        )
    }
}

/// What was given up when the process started, and whether that leaves enough for a configuration that comes later.
#[derive(Debug)]
pub struct Held {
    needs: Needs,
    surroundings: Surroundings,
    sandbox: Result<Sandbox, String>,
}

impl Held {
    /// Give up what `needs` does not name. A failure is kept and said: the agent does its work all the same.
    #[must_use]
    pub fn enter(needs: Needs, surroundings: Surroundings) -> Self {
        let sandbox = enter(&needs).map_err(|error| match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        });
        Self {
            needs,
            surroundings,
            sandbox,
        }
    }

    /// What is in force, or why less is than was wanted.
    ///
    /// # Errors
    /// In words.
    pub fn sandbox(&self) -> Result<&Sandbox, &str> {
        self.sandbox.as_ref().map_err(String::as_str)
    }

    /// What `config` needs and this process gave up, in words: it takes a restart.
    #[must_use]
    pub fn lacking(&self, config: &crate::config::Config) -> Vec<String> {
        if self.sandbox.is_err() {
            return Vec::new();
        }
        Needs::of(config, &self.surroundings).beyond(&self.needs)
    }

    /// For `status`.
    #[must_use]
    pub fn status(&self, config: &crate::config::Config) -> serde_json::Value {
        match &self.sandbox {
            Ok(sandbox) => serde_json::json!({
                "capabilities": sandbox.capabilities.iter().map(|(name, why)| (name.clone(), (*why).into()))
                    .collect::<serde_json::Map<_, serde_json::Value>>(),
                "files": sandbox.files,
                "systemCalls": sandbox.calls,
                "lackingUntilRestart": self.lacking(config),
            }),
            Err(error) => serde_json::json!({"failure": error}),
        }
    }
}

/// Why privileges could not be given up.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The capability sets cannot be changed.
    #[error("cannot give up capabilities")]
    Capabilities(#[source] caps::errors::CapsError),
    /// `no_new_privs` cannot be set.
    #[error("cannot set no_new_privs")]
    NoNewPrivileges(#[source] std::io::Error),
    /// Landlock refused the rules.
    #[error("cannot restrict access to files")]
    Files(#[source] landlock::RulesetError),
    /// The kernel refused the filter of system calls.
    #[error("cannot restrict system calls")]
    Calls(#[source] std::io::Error),
}

/// Keep these privileges alone; files and system calls stay open. For a process that runs programs. For the calling
/// thread and those it starts from now on.
///
/// # Errors
/// [`SandboxError`]; then less was given up than asked for.
pub fn keep(privileges: &std::collections::BTreeMap<Privilege, &'static str>) -> Result<(), SandboxError> {
    rustix::thread::set_no_new_privs(true).map_err(|error| SandboxError::NoNewPrivileges(error.into()))?;
    capabilities::keep(privileges).map_err(SandboxError::Capabilities)?;
    Ok(())
}

/// Give up everything that `needs` does not name. For the calling thread and those it starts from now on.
///
/// # Errors
/// [`SandboxError`]; then less was given up than asked for, and the process should say so.
pub fn enter(needs: &Needs) -> Result<Sandbox, SandboxError> {
    rustix::thread::set_no_new_privs(true).map_err(|error| SandboxError::NoNewPrivileges(error.into()))?;
    let files = match &needs.paths {
        Some(paths) => files::restrict(paths).map_err(SandboxError::Files)?,
        None => Files::NextStart,
    };
    let kept = capabilities::keep(&needs.privileges).map_err(SandboxError::Capabilities)?;
    // last: what gives the rest up is not on the list
    let calls = if needs.every_call {
        Calls::Off
    } else {
        syscalls::restrict().map_err(SandboxError::Calls)?
    };
    Ok(Sandbox {
        capabilities: kept,
        files,
        calls,
    })
}
