//! Enforcement that only watches: everything is computed and shown, nothing is dropped.

use std::collections::BTreeMap;

use super::{Dropped, Enforced, Firewall, FirewallError, Policy};
use crate::model::UnixTime;

/// Keeps the policy it was given. Reads back as nothing enforced, because nothing is.
#[derive(Debug, Default)]
pub struct ObserveOnly {
    policy: Option<Policy>,
}

impl ObserveOnly {
    /// What would be enforced.
    #[must_use]
    pub fn would_enforce(&self) -> Option<&Policy> {
        self.policy.as_ref()
    }
}

impl Firewall for ObserveOnly {
    fn enforce(&mut self, policy: &Policy, _now: UnixTime) -> Result<(), FirewallError> {
        policy.check()?;
        self.policy = Some(policy.clone());
        Ok(())
    }

    fn enforced(&mut self) -> Result<Option<Enforced>, FirewallError> {
        Ok(None)
    }

    fn dropped(&mut self) -> Result<BTreeMap<String, Dropped>, FirewallError> {
        Ok(BTreeMap::new())
    }

    fn purge(&mut self) -> Result<(), FirewallError> {
        self.policy = None;
        Ok(())
    }
}
