//! Profiles in words.

use super::profile::Profile;

/// One sentence per behavior, in the order of the profile.
#[must_use]
pub fn explain(profile: &Profile) -> Vec<String> {
    let _ = profile;
    Vec::new()
}
