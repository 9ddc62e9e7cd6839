//! Landlock: which files may be read and written, and that no TCP is spoken (landlock(7)). Everything this agent says
//! goes through unix sockets and netlink.

use std::collections::BTreeMap;
use std::path::PathBuf;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
};

use super::{Access, Files};

/// The newest rules this code was written for; an older kernel takes those it knows.
const WRITTEN_FOR: ABI = ABI::V5;

/// How far this kernel would restrict; found out on a thread that ends with it.
#[must_use]
pub fn possible() -> Files {
    std::thread::spawn(|| restrict(&BTreeMap::new()))
        .join()
        .ok()
        .and_then(Result::ok)
        .unwrap_or(Files::Unavailable)
}

pub(super) fn restrict(paths: &BTreeMap<PathBuf, Access>) -> Result<Files, RulesetError> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(WRITTEN_FOR))?
        .handle_access(AccessNet::from_all(WRITTEN_FOR))?
        .create()?;
    for (path, access) in paths {
        // what is not there now cannot be allowed; those who read it say that it is absent
        let Ok(opened) = PathFd::new(path) else { continue };
        rules = rules.add_rule(PathBeneath::new(opened, rights(*access, path.is_dir())))?;
    }
    Ok(match rules.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => Files::Restricted,
        RulesetStatus::PartiallyEnforced => Files::Partly,
        RulesetStatus::NotEnforced => Files::Unavailable,
    })
}

fn rights(access: Access, folder: bool) -> BitFlags<AccessFs> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let all = match access {
        Access::Read => read,
        Access::Write => {
            read | AccessFs::WriteFile
                | AccessFs::Truncate
                | AccessFs::MakeReg
                | AccessFs::MakeDir
                | AccessFs::MakeSock
                | AccessFs::MakeSym
                | AccessFs::RemoveFile
                | AccessFs::RemoveDir
                | AccessFs::Refer
        }
    };
    if folder {
        all
    } else {
        all & AccessFs::from_file(WRITTEN_FOR)
    }
}
