//! Capabilities: keep those named, of those there are (capabilities(7)).

use std::collections::{BTreeMap, HashSet};

use caps::errors::CapsError;
use caps::{CapSet, Capability};

use super::Privilege;

impl Privilege {
    /// The kernel's word for it.
    fn capability(self) -> Capability {
        match self {
            Self::NetworkAdministration => Capability::CAP_NET_ADMIN,
            Self::OtherUsersProcesses => Capability::CAP_SYS_PTRACE,
            Self::OtherUsersFiles => Capability::CAP_DAC_OVERRIDE,
            Self::ReadOtherUsersFiles => Capability::CAP_DAC_READ_SEARCH,
        }
    }
}

/// Drop all others from every set, the bounding set too, so that no program started later can have them. Returns what
/// is left, which is less than asked for when the process had less.
pub(super) fn keep(wanted: &BTreeMap<Privilege, &'static str>) -> Result<Vec<(String, &'static str)>, CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let kept: BTreeMap<Privilege, &'static str> = wanted
        .iter()
        .filter(|(privilege, _)| permitted.contains(&privilege.capability()))
        .map(|(privilege, reason)| (*privilege, *reason))
        .collect();
    let set: HashSet<Capability> = kept.keys().map(|privilege| privilege.capability()).collect();
    // needs CAP_SETPCAP, which goes with the next step
    if permitted.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::runtime::procfs_all_supported(None)? {
            if !set.contains(&capability) {
                caps::drop(None, CapSet::Bounding, capability)?;
            }
        }
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::set(None, CapSet::Effective, &set)?;
    caps::set(None, CapSet::Permitted, &set)?;
    caps::set(None, CapSet::Inheritable, &HashSet::new())?;
    Ok(kept
        .into_iter()
        .map(|(privilege, reason)| (privilege.capability().to_string(), reason))
        .collect())
}
