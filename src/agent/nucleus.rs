//! What the nucleus says, handed to whom it concerns.

use super::clock::Clock;
use super::{Agent, reload};
use crate::config::Mode;
use crate::control::Answer;
use crate::greengrass::link::{Command, NucleusEvent, NucleusEvents};

/// Events taken in before anything is done about them: what 250 documents ask for is one transaction.
const MOST_AT_ONCE: usize = 256;

impl<C: Clock> Agent<C> {
    /// Takes in this event and those that wait behind it, asks for the next documents, and carries out what is decided.
    pub(super) fn nucleus_events(&mut self, first: NucleusEvent, events: &mut NucleusEvents) {
        self.nucleus_event(first);
        for _ in 1..MOST_AT_ONCE {
            let Some(next) = events.try_recv() else { break };
            self.nucleus_event(next);
        }
        // asked for before the disk is waited for: they come meanwhile
        self.read_shadows();
        self.warden.carry_out(self.now());
    }

    /// Takes in one event of the nucleus.
    fn nucleus_event(&mut self, event: NucleusEvent) {
        let both = self.now();
        let now = both.monotonic;
        let Some(event) = self.event_published(event) else {
            return;
        };
        match event {
            NucleusEvent::Published { token, result } => match self.shadows.published(token, &result, now) {
                Some(heard) => heard.into_iter().for_each(|heard| self.heard(heard, both)),
                None => {
                    self.reporting.published(token, result, now);
                    self.reporting.persist(&self.state_dir);
                }
            },
            NucleusEvent::Shadow { token, result } => {
                if let Some(heard) = self.shadows.shadow(token, result, now) {
                    self.heard(heard, both);
                }
            }
            NucleusEvent::ShadowUpdated { token, result } => {
                if let Some(heard) = self.shadows.shadow_updated(token, result, now) {
                    self.heard(heard, both);
                }
            }
            NucleusEvent::Subscribed { token, result } => self.subscriptions.subscribed(token, result, now),
            NucleusEvent::Message { from, topic, payload } => {
                if self.site.message(from, &topic, &payload, both) {
                    return;
                }
                if self.custom.message(from, &topic, &payload, now) {
                    return;
                }
                if let Some(heard) = self.shadows.message(from, &topic, &payload, now) {
                    self.heard(heard, both);
                } else if self.reporting.message(&topic, &payload, now) {
                    self.reporting.persist(&self.state_dir);
                }
            }
            // a change between the last reading and the watch is told to nobody
            NucleusEvent::ConfigurationChanged | NucleusEvent::ConfigurationWatched(Ok(())) => {
                self.send(Command::Configuration);
            }
            NucleusEvent::Configuration(result) => {
                let level = self.config.log.level;
                if let Some(config) = self.reload.received(result, self.mode, &self.config) {
                    self.reporting.reconfigure(&config, self.mode, self.kind, now);
                    self.shadows.reconfigure(&config.quarantine.shadow);
                    self.warden.reconfigure(&config, Some(&self.sample), both);
                    if self.mode == Mode::Greengrass {
                        self.warden.keep_boot_unit(&config);
                    }
                    self.site.reconfigure(&config, both);
                    self.custom.reconfigure(&config);
                    self.next_sample = now;
                    self.config = config;
                    self.reconfigure_detection();
                    reload::keep(&self.state_dir, &self.config);
                    if self.config.log.level != level {
                        (self.set_log_level)(self.config.log.level);
                    }
                }
            }
            NucleusEvent::StateUpdated(Err(error)) => tracing::info!(%error, "the component state was not reported"),
            NucleusEvent::ConfigurationWatched(Err(error)) => {
                tracing::warn!(%error, "configuration changes will be seen only after a restart");
            }
            NucleusEvent::DesiredWritten { token, result } => {
                if let Some(reply) = self.asked.remove(&token) {
                    let _ = reply.send(match result {
                        Ok(document) => Answer::Ok(document),
                        Err(error) => Answer::Error(error.to_string()),
                    });
                }
            }
            NucleusEvent::StateUpdated(Ok(())) | NucleusEvent::Ready { .. } | NucleusEvent::Unavailable(_) => {}
        }
    }
}
