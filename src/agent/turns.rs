//! What the loop does at every turn: keeps subscriptions, quarantine and shadows in step with each other.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Agent;
use super::clock::Clock;
use super::shadows::Heard;
use crate::greengrass::link::Command;
use crate::model::{Now, ThingName};

/// Between two readings of all shadows for dropped messages.
const DROPPED_PACE: Duration = Duration::from_secs(5);

impl<C: Clock> Agent<C> {
    pub(super) fn keep_subscriptions(&mut self) {
        let now = self.clock.monotonic();
        if self.reporting.replies_are_silent() {
            tracing::warn!("a report was not answered; subscribing anew");
            self.subscriptions.renew();
            self.shadows.read_all();
            self.reporting.resubscribed(now);
            // what ended those silently may have ended this one too
            self.send(Command::WatchConfiguration);
        }
        let replies = self.reporting.reply_filters();
        let mut wanted = self.site.filters();
        wanted.extend(replies.iter().cloned());
        wanted.extend(self.shadows.filters().iter().cloned());
        wanted.extend(self.custom.filters(now));
        self.subscriptions.want(wanted);
        for command in self.subscriptions.commands(now, &mut self.tokens) {
            self.send(command);
        }
        self.reporting
            .set_replies_known(self.subscriptions.holds(&replies), now);
    }

    pub(super) fn keep_quarantine(&mut self) {
        let now = self.now();
        self.warden.tick(now);
        let changed = self.site.take_changed() || std::mem::take(&mut self.ports_may_differ);
        if !changed || !self.site.looked() {
            return;
        }
        let identities = self.site.identities();
        let mut things: BTreeSet<ThingName> = identities.keys().cloned().collect();
        things.insert(self.core.clone());
        self.shadows.set_things(&things);
        self.warden
            .set_site(self.site.lan().clone(), identities.clone(), self.site.ports(), now);
    }

    /// Cuts off who no source names, where that is wanted.
    pub(super) fn keep_strangers(&mut self) {
        if self.site.looked() {
            let (wanted, known, now) = (self.site.cuts_strangers(), self.site.known_devices(), self.now());
            self.warden.keep_strangers(wanted, self.site.who_is_who(), known, now);
        }
    }

    pub(super) fn keep_shadows(&mut self) {
        let now = self.now();
        self.read_what_was_dropped(now);
        // what was decided since is answered from the document as it is now, not as it was when last read
        self.warden.tell(&mut self.shadows, now);
        self.read_shadows();
        self.warden.carry_out(now);
    }

    /// Asks for the documents whose turn it is, and sends the answers that wait.
    pub(super) fn read_shadows(&mut self) {
        let now = self.now();
        let subscribed = self.subscriptions.holds(self.shadows.filters());
        let (commands, heard) = self.shadows.commands(subscribed, now.monotonic, &mut self.tokens);
        for command in commands {
            self.send(command);
        }
        for heard in heard {
            self.heard(heard, now);
        }
    }

    /// Under a flood messages are dropped, and nobody knows which: what they would have been about is read.
    fn read_what_was_dropped(&mut self, now: Now) {
        let (seen, next) = self.dropped;
        let dropped = self.link.dropped();
        if dropped > seen && next <= now.monotonic {
            tracing::warn!(
                messages = dropped - seen,
                "messages were dropped; every shadow is read again"
            );
            self.dropped = (dropped, now.monotonic.after(DROPPED_PACE));
            self.shadows.read_all();
        }
    }

    pub(super) fn heard(&mut self, heard: Heard, now: Now) {
        match heard {
            Heard::Document(place, reading) => self.warden.document(place, *reading, now),
            Heard::NotSent(place) => self.warden.not_told(&place),
            Heard::Silent => {
                tracing::warn!("a shadow was not answered; subscribing anew and reading all of them");
                self.subscriptions.renew();
                self.shadows.read_all();
            }
        }
    }
}
