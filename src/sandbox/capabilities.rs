//! Capabilities: keep those named, of those there are (capabilities(7)).

use std::collections::{BTreeMap, HashSet};

use caps::errors::CapsError;
use caps::{CapSet, Capability};

use super::Privilege;

impl Privilege {
    /// The kernel's words for it.
    fn capabilities(self) -> &'static [Capability] {
        match self {
            Self::NetworkAdministration => &[Capability::CAP_NET_ADMIN],
            Self::OtherUsersProcesses => &[Capability::CAP_SYS_PTRACE],
            Self::OtherUsersFiles => &[Capability::CAP_DAC_OVERRIDE],
            Self::ReadOtherUsersFiles => &[Capability::CAP_DAC_READ_SEARCH],
            Self::OtherUsersNames => &[Capability::CAP_SETUID, Capability::CAP_SETGID],
            Self::EndOtherUsersProcesses => &[Capability::CAP_KILL],
        }
    }
}

/// Drop all others from every set, the bounding set too, so that no program started later can have them. Returns what
/// is left, which is less than asked for when the process had less.
pub(super) fn keep(wanted: &BTreeMap<Privilege, &'static str>) -> Result<Vec<(String, &'static str)>, CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let kept: Vec<(Capability, &'static str)> = wanted
        .iter()
        .flat_map(|(privilege, reason)| privilege.capabilities().iter().map(|capability| (*capability, *reason)))
        .filter(|(capability, _)| permitted.contains(capability))
        .collect();
    let set: HashSet<Capability> = kept.iter().map(|(capability, _)| *capability).collect();
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
        .map(|(capability, reason)| (capability.to_string(), reason))
        .collect())
}
