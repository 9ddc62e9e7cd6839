//! The disk's side: decisions and the audit log.

use std::collections::BTreeMap;
use std::path::Path;

use crate::model::Now;
use crate::quarantine::{AuditEntry, Enforcement, Saved, Store, StoreError, Stored, Verdict};

use super::{Warden, WardenError, chain};

impl Warden {
    /// Write the decisions to disk.
    pub(super) fn persist(&mut self) {
        self.unsaved = false;
        let Some(store) = &mut self.store else { return };
        let stored = self.quarantine.stored();
        let trouble = match store.save(&stored) {
            Ok(Saved::Both) => None,
            Ok(Saved::One(error)) => Some(format!("one of two copies: {}", chain(&error))),
            Err(error) => Some(chain(&error)),
        };
        self.say("quarantine store", trouble);
    }

    /// Append to the audit log what was asked for, and what became of it.
    pub(super) fn note(&mut self, mut entry: AuditEntry, now: Now) {
        // a demand is one thing, what became of it another
        if entry.before != entry.after && !entry.after.is_empty() {
            match self.decision.get(&entry.thing) {
                Some(Verdict::Refused(refusal)) => {
                    entry.what.push_str(&format!("; not cut off: {refusal}"));
                }
                Some(Verdict::Cut(_)) if self.enforcement == Enforcement::Observe => {
                    entry.what.push_str("; not cut off: enforcement is observe");
                }
                _ => {}
            }
        }
        tracing::info!(thing = %entry.thing, who = entry.who, before = ?entry.before, after = ?entry.after, "quarantine: {}", entry.what);
        let written = self.audit.append(&entry, now.monotonic);
        self.say("audit log", written.err().map(|error| chain(&error)));
    }
}

/// What opening the store gave, and what is wrong with it.
type OpenedStore = (Option<Store>, Option<Stored>, BTreeMap<&'static str, String>);

/// Open the store; only what a newer version wrote stops the start.
pub(super) fn open_store(state_dir: &Path) -> Result<OpenedStore, WardenError> {
    let mut trouble = BTreeMap::new();
    match Store::open(state_dir) {
        Ok((store, loaded)) => {
            if let Some(damage) = loaded.damage {
                tracing::warn!(
                    damage,
                    "one copy of the quarantine decisions is damaged; the other is used"
                );
            }
            Ok((Some(store), loaded.stored, trouble))
        }
        Err(error @ StoreError::NewerSchema { .. }) => Err(error.into()),
        Err(error @ StoreError::Lost { .. }) => {
            tracing::error!(
                error = chain(&error),
                "the stored quarantine decisions are lost; what the kernel holds stays"
            );
            let store = Store::start_over(state_dir);
            if let Err(error) = &store {
                trouble.insert("quarantine store", chain(error));
            }
            Ok((store.ok(), None, trouble))
        }
        Err(error) => {
            tracing::error!(
                error = chain(&error),
                "quarantine decisions cannot be stored; they hold until a reboot"
            );
            trouble.insert("quarantine store", chain(&error));
            Ok((None, None, trouble))
        }
    }
}
