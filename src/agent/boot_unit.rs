//! The systemd unit that enforces stored decisions before the network is up. Artifact paths change with every version,
//! so the unit starts a copy of the binary in the state folder, which every start of the agent renews.

use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::files::{self, FileError};

/// The unit's name.
pub const UNIT: &str = "edge-warden-boot.service";
/// Where administrators' units are (systemd.unit(5)).
pub const UNIT_DIR: &str = "/etc/systemd/system";

/// Permissions of the copy of the binary.
const EXECUTABLE: u32 = 0o700;

/// Why the unit is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum BootUnitError {
    /// This host has no systemd, or not where it usually is.
    #[error("there is no {path}: quarantine.bootUnit needs systemd; without it, call `edge-warden boot` yourself")]
    NoSystemd {
        /// The folder looked for.
        path: PathBuf,
    },
    /// A file cannot be written.
    #[error("the boot unit is not installed")]
    File(#[from] FileError),
    /// A file cannot be read, linked or removed.
    #[error("{path}: the boot unit is not as configured")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The unit's text. Hardened as far as writing rules and reading the state folder allow (systemd.exec(5)).
#[must_use]
pub fn unit(state_dir: &Path) -> String {
    let dir = state_dir.display();
    format!(
        "\
# Written by edge-warden (quarantine.bootUnit: true); it is written anew at every start of the component.
[Unit]
Description=Edge Warden: enforce stored quarantines before the network is up
DefaultDependencies=no
RequiresMountsFor={dir}
After=local-fs.target systemd-modules-load.service
Before=network-pre.target
Wants=network-pre.target
ConditionPathExists={dir}/bin/edge-warden

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={dir}/bin/edge-warden boot --state-dir {dir}
TimeoutStartSec=20
CapabilityBoundingSet=CAP_NET_ADMIN
AmbientCapabilities=
NoNewPrivileges=yes
ProtectSystem=strict
ReadWritePaths={dir}
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_NETLINK
IPAddressDeny=any
DevicePolicy=closed
PrivateMounts=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
UMask=0077

[Install]
WantedBy=sysinit.target
"
    )
}

/// Install or renew the unit and its copy of `binary`; what is right already is left alone.
///
/// # Errors
/// [`BootUnitError`], naming the file.
pub fn install(unit_dir: &Path, state_dir: &Path, binary: &Path) -> Result<(), BootUnitError> {
    if !unit_dir.is_dir() {
        return Err(BootUnitError::NoSystemd {
            path: unit_dir.to_owned(),
        });
    }
    let folder = state_dir.join("bin");
    files::make_folder(&folder)?;
    let copy = folder.join("edge-warden");
    let content = std::fs::read(binary).map_err(|source| BootUnitError::Io {
        path: binary.to_owned(),
        source,
    })?;
    // never without its permissions: a boot may come at any moment
    let good = |path: &Path| {
        let mode = std::fs::symlink_metadata(path).map(|found| found.permissions().mode() & 0o7777);
        matches!(mode, Ok(EXECUTABLE)) && std::fs::read(path).ok().as_deref() == Some(&content)
    };
    if !good(&copy) {
        files::replace_with_mode(&copy, &content, EXECUTABLE)?;
    }
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| BootUnitError::Io { path, source }
    };
    let path = unit_dir.join(UNIT);
    let text = unit(state_dir);
    if std::fs::read_to_string(&path).ok().as_deref() != Some(text.as_str()) {
        files::replace_with_mode(&path, text.as_bytes(), 0o644)?;
    }
    // what `systemctl enable` does, which may not be callable from a component
    let wants = unit_dir.join("sysinit.target.wants");
    std::fs::create_dir_all(&wants).map_err(failed(&wants))?;
    let link = wants.join(UNIT);
    match symlink(Path::new("..").join(UNIT), &link) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed(&link)(error)),
        _ => Ok(()),
    }
}

/// Remove the unit of this state folder, if it is there, and its copy of the binary. Another agent's unit stays.
///
/// # Errors
/// [`BootUnitError`], naming the file that stays.
pub fn remove(unit_dir: &Path, state_dir: &Path) -> Result<(), BootUnitError> {
    match std::fs::read_to_string(unit_dir.join(UNIT)) {
        Ok(text) if !text.contains(&format!("--state-dir {}\n", state_dir.display())) => {
            return Ok(());
        }
        _ => {}
    }
    let files = [
        unit_dir.join("sysinit.target.wants").join(UNIT),
        unit_dir.join(UNIT),
        state_dir.join("bin/edge-warden"),
    ];
    for path in files {
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(BootUnitError::Io { path, source }),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_version_renews_the_copy_and_nothing_is_written_twice() {
        let dir = tempfile::tempdir().unwrap();
        let (units, state) = (dir.path().join("units"), dir.path().join("state"));
        std::fs::create_dir_all(&units).unwrap();
        std::fs::create_dir_all(&state).unwrap();
        let binary = dir.path().join("artifact");
        std::fs::write(&binary, "version 1").unwrap();
        install(&units, &state, &binary).unwrap();
        install(&units, &state, &binary).unwrap();
        assert_eq!(
            std::fs::read_to_string(state.join("bin/edge-warden")).unwrap(),
            "version 1"
        );
        std::fs::write(&binary, "version 2").unwrap();
        install(&units, &state, &binary).unwrap();
        assert_eq!(
            std::fs::read_to_string(state.join("bin/edge-warden")).unwrap(),
            "version 2"
        );
        let link = units.join("sysinit.target.wants").join(UNIT);
        assert_eq!(std::fs::read_to_string(&link).unwrap(), unit(&state));
        remove(&units, &dir.path().join("another")).unwrap();
        assert!(link.exists(), "another agent's unit stays");
        remove(&units, &state).unwrap();
        remove(&units, &state).unwrap();
        assert!(!link.exists() && !units.join(UNIT).exists() && !state.join("bin/edge-warden").exists());
    }

    #[test]
    fn without_systemd_it_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let error = install(&dir.path().join("none"), dir.path(), Path::new("/proc/self/exe")).unwrap_err();
        assert!(error.to_string().contains("edge-warden boot"), "{error}");
    }
}
