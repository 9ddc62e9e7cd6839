//! What this start has to keep when it gives its privileges up.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use edge_warden::agent::{boot_unit, files};
use edge_warden::config::Config;
use edge_warden::sandbox::{Held, Needs, Surroundings};

/// resolv.conf(5): whom the rails spare. Often a link into a folder of the resolver's.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Give up what `config` does not need; with none known, what no configuration needs. Before any thread starts.
/// `written` are the folders this start writes to, made if absent; `read` what it reads beside what is configured.
pub fn give_up(
    config: Option<&Config>,
    written: &[&Path],
    read: &[&Path],
    nucleus_socket: Option<&Path>,
) -> anyhow::Result<Held> {
    for folder in written {
        files::make_folder(folder)?;
    }
    let mut surroundings = Surroundings {
        written: written.iter().map(|path| absolute(path)).collect(),
        read: read.iter().map(|path| absolute(path)).collect(),
        others_files: written.iter().copied().chain(nucleus_socket).any(of_another_user),
    };
    surroundings.read.push(PathBuf::from(RESOLV_CONF));
    if let Ok(target) = Path::new(RESOLV_CONF).canonicalize() {
        surroundings.read.extend(
            target
                .parent()
                .filter(|folder| *folder != Path::new("/etc"))
                .map(Path::to_owned),
        );
    }
    if config.is_some_and(|config| config.quarantine.boot_unit) {
        surroundings.written.push(PathBuf::from(boot_unit::UNIT_DIR));
    }
    let needs = config.map_or_else(Needs::of_any_configuration, |config| Needs::of(config, &surroundings));
    let held = Held::enter(needs, surroundings);
    match held.sandbox() {
        Ok(sandbox) => tracing::info!(kept = %sandbox, "privileges given up"),
        Err(error) => tracing::warn!(
            error,
            "not all privileges could be given up; the agent runs with what it has"
        ),
    }
    Ok(held)
}

/// Rules hold for the file behind a path, wherever the process stands.
fn absolute(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// Whether what is at this path belongs to somebody else.
pub fn of_another_user(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|found| found.uid() != rustix::process::geteuid().as_raw())
}
