//! What comes to the site unasked: news of the watches, changes of our tables by others, registrations.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::Site;
use super::watches::{SiteNews, SiteWatches};
use crate::devices::{Observation, Registration};
use crate::firewall::Change;
use crate::greengrass::{Destination, topic};
use crate::model::{Monotonic, Now};

/// A lease file is read when it was quiet for this long: a server takes several writes.
const LEASES_SETTLE: Duration = Duration::from_millis(200);
/// Lease files that cannot be watched are tried again this often.
const LEASES_AGAIN: Duration = Duration::from_secs(60);
/// Refused registrations kept for `status`.
const KEPT_REFUSALS: usize = 16;

impl Site {
    /// Opens and closes watches as the LAN and the configuration want it.
    pub(in crate::agent) fn keep_watches(&mut self, watches: &mut SiteWatches, now: Monotonic) {
        let wanted = self.settings.possible() && (!self.looked || !self.lan.is_empty());
        match watches.keep_neighbours(wanted) {
            Ok(true) => {
                self.neighbours_due = Some(now);
                self.sample_wanted = true;
                self.say("neighbour changes", None);
            }
            Ok(false) => {}
            Err(missing) => self.say("neighbour changes", Some(missing)),
        }
        let files: Vec<PathBuf> = self.settings.leases.iter().map(|file| file.path.clone()).collect();
        let again = self.watch_leases_again.is_some_and(|at| at <= now);
        let unwatched = watches.keep_leases(&files, again);
        if again {
            self.watch_leases_again = None;
            self.leases_due = Some(now);
        }
        if let Some(missing) = unwatched.into_iter().next() {
            self.say("lease file changes", Some(missing));
            self.watch_leases_again = Some(now.after(LEASES_AGAIN));
        }
    }

    /// Takes news of the watches in.
    pub(in crate::agent) fn news(&mut self, news: SiteNews, now: Now) {
        match news {
            SiteNews::Neighbours { events, lost } => {
                for event in events {
                    self.registry.observe(Observation::Neighbour(event), now);
                    self.dirty = true;
                }
                if lost {
                    self.neighbours_due = Some(now.monotonic);
                    self.sample_wanted = true;
                }
            }
            SiteNews::Leases(files) => {
                if !files.is_empty() {
                    self.leases_due = Some(now.monotonic.after(LEASES_SETTLE));
                    // A directory that went away is watched no longer.
                    self.watch_leases_again
                        .get_or_insert_with(|| now.monotonic.after(LEASES_AGAIN));
                }
            }
            SiteNews::Failed(what, missing) => self.say(what, Some(missing)),
        }
    }

    /// Somebody else changed tables of ours.
    pub(in crate::agent) fn tables_changed(&mut self, changes: &[Change]) {
        let ours = |change: &Change| match change {
            Change::Table { table, .. } => table == "edge_warden_acct",
            Change::CompareAll => true,
            Change::LinkPresent(_) | Change::LinkGone(_) => false,
        };
        if changes.iter().any(ours) && self.meters.state().is_ok() {
            tracing::warn!("another program changed the accounting table; it is made anew");
            self.tables_touched = true;
            self.sample_wanted = true;
        }
    }

    /// The filter on which things register, if they may.
    pub(in crate::agent) fn filters(&self) -> BTreeSet<(Destination, String)> {
        let possible = self.settings.registration && self.settings.possible();
        possible
            .then(|| (Destination::Local, topic::register(None)))
            .into_iter()
            .collect()
    }

    /// A message arrived; true when it was for the site.
    pub(in crate::agent) fn message(&mut self, from: Destination, topic: &str, payload: &[u8], now: Now) -> bool {
        let name = topic
            .strip_prefix("edge-warden/things/")
            .and_then(|rest| rest.strip_suffix("/register"));
        let Some(name) = name.filter(|_| from == Destination::Local) else {
            return false;
        };
        if !self.settings.registration {
            return true;
        }
        match Registration::parse(name, payload) {
            Ok(registration) => {
                self.registered += 1;
                self.registry.observe(Observation::Registered(registration), now);
                self.dirty = true;
            }
            Err(error) => {
                let mut words = error.to_string();
                if let Some(cause) = std::error::Error::source(&error) {
                    words = format!("{words}: {cause}");
                }
                self.refused += 1;
                tracing::debug!(error = words, "registration refused");
                self.refusals.push_back(words);
                while self.refusals.len() > KEPT_REFUSALS {
                    self.refusals.pop_front();
                }
            }
        }
        true
    }
}
