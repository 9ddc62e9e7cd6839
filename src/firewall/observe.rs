//! Enforcement that only watches: everything is computed and shown, nothing is dropped.

use std::collections::BTreeMap;

use super::{Dropped, Enforced, Firewall, FirewallError, Policy};
use crate::model::UnixTime;

/// Checks the policy it is given. Reads back as nothing enforced, because nothing is.
#[derive(Debug, Default)]
pub struct ObserveOnly;

impl Firewall for ObserveOnly {
    fn enforce(&mut self, policy: &Policy, _now: UnixTime) -> Result<(), FirewallError> {
        policy.check()?;
        Ok(())
    }

    fn enforced(&mut self) -> Result<Option<Enforced>, FirewallError> {
        Ok(None)
    }

    fn dropped(&mut self) -> Result<BTreeMap<String, Dropped>, FirewallError> {
        Ok(BTreeMap::new())
    }

    fn purge(&mut self) -> Result<(), FirewallError> {
        Ok(())
    }
}
