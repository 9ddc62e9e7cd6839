//! Keeps the wanted subscriptions alive: asks for those missing, drops those unwanted, retries those refused.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::greengrass::link::{Command, Token};
use crate::greengrass::{Destination, NucleusError, SubscriptionId};
use crate::model::Monotonic;

use super::Tokens;

/// The first wait after a failed subscription; doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(5);
/// The longest wait between tries.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// A topic filter and where it holds.
pub(super) type Filter = (Destination, String);

/// Which filters are wanted, held, asked for and refused.
#[derive(Debug)]
pub(super) struct Subscriptions {
    wanted: BTreeSet<Filter>,
    held: BTreeMap<Filter, SubscriptionId>,
    asked: BTreeMap<Token, Filter>,
    unwanted: Vec<SubscriptionId>,
    retry_at: Monotonic,
    wait: Duration,
    error: Option<String>,
}

impl Subscriptions {
    pub(super) fn new(now: Monotonic) -> Self {
        Self {
            wanted: BTreeSet::new(),
            held: BTreeMap::new(),
            asked: BTreeMap::new(),
            unwanted: Vec::new(),
            retry_at: now,
            wait: FIRST_WAIT,
            error: None,
        }
    }

    /// Hold exactly these filters.
    pub(super) fn want(&mut self, filters: BTreeSet<Filter>) {
        if self.wanted == filters {
            return;
        }
        self.wanted = filters;
        let (held, dropped) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|(filter, _)| self.wanted.contains(filter));
        self.held = held;
        self.unwanted
            .extend(BTreeMap::<Filter, SubscriptionId>::into_values(dropped));
    }

    /// Give every subscription up and ask anew: one that died silently looks like one that is held.
    pub(super) fn renew(&mut self) {
        self.unwanted.extend(std::mem::take(&mut self.held).into_values());
    }

    /// True when every wanted filter is held.
    pub(super) fn all_held(&self) -> bool {
        self.wanted.iter().all(|filter| self.held.contains_key(filter))
    }

    /// True when each of these is held.
    pub(super) fn holds(&self, filters: &BTreeSet<Filter>) -> bool {
        filters.iter().all(|filter| self.held.contains_key(filter))
    }

    /// When a refused subscription is tried again.
    pub(super) fn next_retry(&self) -> Option<Monotonic> {
        (self.asked.is_empty() && !self.all_held()).then_some(self.retry_at)
    }

    /// What the nucleus is to be asked now.
    pub(super) fn commands(&mut self, now: Monotonic, tokens: &mut Tokens) -> Vec<Command> {
        let mut commands: Vec<Command> = self.unwanted.drain(..).map(Command::Unsubscribe).collect();
        if now < self.retry_at {
            return commands;
        }
        let missing: Vec<Filter> = self
            .wanted
            .iter()
            .filter(|filter| !self.held.contains_key(*filter) && !self.asked.values().any(|asked| asked == *filter))
            .cloned()
            .collect();
        for filter in missing {
            let token = tokens.next();
            self.asked.insert(token, filter.clone());
            let (from, filter) = filter;
            commands.push(Command::Subscribe { token, from, filter });
        }
        commands
    }

    /// The nucleus answered.
    pub(super) fn subscribed(&mut self, token: Token, result: Result<SubscriptionId, NucleusError>, now: Monotonic) {
        let Some(filter) = self.asked.remove(&token) else {
            return;
        };
        match result {
            Ok(id) if self.wanted.contains(&filter) => {
                self.held.insert(filter, id);
                if self.all_held() {
                    self.wait = FIRST_WAIT;
                    if self.error.take().is_some() {
                        tracing::info!("all subscriptions are held again");
                    }
                }
            }
            Ok(id) => self.unwanted.push(id),
            Err(error) => {
                let words = error.to_string();
                if self.error.as_ref() != Some(&words) {
                    tracing::warn!(error = %words, "a subscription was refused; trying again");
                }
                self.error = Some(words);
                // one failure paces all: filters refused together are retried together
                if self.retry_at <= now {
                    self.retry_at = now.after(self.wait);
                    self.wait = (self.wait * 2).min(LONGEST_WAIT);
                }
            }
        }
    }

    /// For `status`.
    pub(super) fn status(&self) -> serde_json::Value {
        serde_json::json!({
            "wanted": self.wanted.len(),
            "held": self.held.len(),
            "error": self.error,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Monotonic {
        Monotonic(Duration::from_secs(seconds))
    }

    fn filters(names: &[&str]) -> BTreeSet<Filter> {
        names
            .iter()
            .map(|name| (Destination::IotCore, (*name).to_owned()))
            .collect()
    }

    fn tokens_of(commands: &[Command]) -> Vec<(Token, String)> {
        commands
            .iter()
            .filter_map(|command| match command {
                Command::Subscribe { token, filter, .. } => Some((*token, filter.clone())),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn asks_once_and_then_holds() {
        let (mut replies, mut tokens) = (Subscriptions::new(at(0)), Tokens::default());
        replies.want(filters(&["a", "b"]));
        let asked = tokens_of(&replies.commands(at(0), &mut tokens));
        assert_eq!(asked.len(), 2);
        assert!(replies.commands(at(0), &mut tokens).is_empty(), "not asked twice");
        for (place, (token, _)) in asked.iter().enumerate() {
            replies.subscribed(*token, Ok(SubscriptionId(place as u64)), at(1));
        }
        assert!(replies.all_held());
        assert_eq!(replies.next_retry(), None);
    }

    #[test]
    fn a_refusal_is_retried_with_growing_waits() {
        let (mut replies, mut tokens) = (Subscriptions::new(at(0)), Tokens::default());
        replies.want(filters(&["a"]));
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..9 {
            let asked = tokens_of(&replies.commands(at(now), &mut tokens));
            assert_eq!(asked.len(), 1, "at {now}");
            replies.subscribed(asked[0].0, Err(NucleusError::Denied { what: "a".to_owned() }), at(now));
            assert!(replies.commands(at(now), &mut tokens).is_empty());
            let retry = replies.next_retry().unwrap().0.as_secs();
            waits.push(retry - now);
            now = retry;
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn renewing_drops_the_old_before_asking_anew() {
        let (mut replies, mut tokens) = (Subscriptions::new(at(0)), Tokens::default());
        replies.want(filters(&["a"]));
        let asked = tokens_of(&replies.commands(at(0), &mut tokens));
        replies.subscribed(asked[0].0, Ok(SubscriptionId(7)), at(0));
        replies.renew();
        assert!(!replies.all_held());
        let commands = replies.commands(at(1), &mut tokens);
        assert!(matches!(commands[0], Command::Unsubscribe(SubscriptionId(7))));
        assert_eq!(tokens_of(&commands).len(), 1);
    }

    #[test]
    fn a_filter_no_longer_wanted_is_dropped_even_when_its_answer_comes_late() {
        let (mut replies, mut tokens) = (Subscriptions::new(at(0)), Tokens::default());
        replies.want(filters(&["a"]));
        let asked = tokens_of(&replies.commands(at(0), &mut tokens));
        replies.want(filters(&[]));
        replies.subscribed(asked[0].0, Ok(SubscriptionId(7)), at(0));
        assert!(matches!(
            replies.commands(at(0), &mut tokens)[..],
            [Command::Unsubscribe(SubscriptionId(7))]
        ));
    }
}
