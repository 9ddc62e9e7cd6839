//! What the warden says about itself: `quarantine list`, `why`, `plan`, `status`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Warden;
use super::backend::Backend;
use super::rules::Counters;
use crate::model::ThingName;
use crate::quarantine::{Enforcement, Held, Verdict};

impl Warden {
    /// For `status`.
    pub(in crate::agent) fn status(&self) -> Value {
        json!({
            "enforcement": self.enforcement,
            "firewall": match &self.backend {
                Backend::Nftables(_) => json!("nftables"),
                Backend::Observe(_) => json!("observe"),
                Backend::None(why) => json!({"none": why}),
            },
            "quarantined": self.decision.len(),
            "alarmsWaiting": self.quarantine.waiting().count(),
            "mended": self.mended,
            "auditLinesLost": self.audit.lost(),
            "lan": {
                "bridges": self.lan.bridges,
                "interfaces": self.lan.interfaces,
            },
            "trouble": self.trouble,
        })
    }

    /// How many things have a cause.
    #[must_use]
    pub fn quarantined(&self) -> usize {
        self.decision.len()
    }

    /// What is wrong at the moment, in words: what failed, and who should be cut off and is not.
    #[must_use]
    pub fn trouble(&self) -> Vec<String> {
        let failed = self.trouble.iter().map(|(what, words)| format!("{what}: {words}"));
        let open = self.decision.iter().filter_map(|(thing, verdict)| {
            let held = self.enforced.get(thing).map(|enforced| &enforced.held);
            match (verdict, held) {
                _ if self.enforcement == Enforcement::Observe => None,
                (Verdict::Refused(_), _) | (Verdict::Cut(_), Some(Held::Full | Held::Partial(_))) => None,
                (Verdict::Cut(_), Some(Held::No(why))) => Some(format!("{thing} is not cut off: {why}")),
                (Verdict::Cut(_), None) => Some(format!("{thing} is not cut off")),
            }
        });
        failed.chain(open).collect()
    }

    /// Every thing with a cause, and how it stands.
    pub(in crate::agent) fn list(&mut self) -> Value {
        self.read_back(Counters::Fresh);
        let causes = self.quarantine.causes();
        let things: BTreeSet<&ThingName> = causes.keys().chain(self.quarantine.waiting()).collect();
        things.into_iter().map(|thing| self.describe(thing)).collect()
    }

    /// One thing: its causes, what was decided, what the kernel holds.
    pub(in crate::agent) fn why(&mut self, thing: &ThingName) -> Value {
        self.read_back(Counters::Fresh);
        self.describe(thing)
    }

    fn describe(&self, thing: &ThingName) -> Value {
        let causes: Vec<Value> = self
            .quarantine
            .causes_of(thing)
            .into_iter()
            .flatten()
            .map(|(key, cause)| json!({"cause": key.to_string(), "detail": cause}))
            .collect();
        let waiting: Vec<Value> = self
            .quarantine
            .waiting_of(thing)
            .map(|(key, why)| json!({"cause": key.to_string(), "why": why}))
            .collect();
        let identity = self.identities.get(thing);
        let enforced = self.enforced.get(thing);
        json!({
            "thing": thing,
            "causes": causes,
            "alarmsWaiting": waiting,
            "decision": match self.decision.get(thing) {
                None => json!("not quarantined"),
                Some(Verdict::Cut(subject)) => json!({
                    "cut": {
                        "mode": subject.posture.to_string(),
                        "macs": subject.macs,
                        "addresses": subject.addresses,
                        "until": subject.until,
                    }
                }),
                Some(Verdict::Refused(refusal)) => json!({"refused": refusal.to_string()}),
            },
            "enforced": enforced.map(|enforced| match &enforced.held {
                Held::Full => json!(true),
                Held::Partial(why) => json!({"partial": why}),
                Held::No(why) => json!({"failure": why}),
            }),
            "observeOnly": matches!(self.backend, Backend::Observe(_)),
            "droppedPackets": enforced.and_then(|enforced| enforced.dropped_packets),
            "knownMacs": identity.map(|identity| &identity.macs),
            "knownAddresses": identity.map(|identity| &identity.addresses),
            "identityInConflict": identity.map(|identity| identity.in_conflict),
        })
    }

    /// What would be in the kernel for the decisions as they are now, as text.
    pub(in crate::agent) fn plan(&mut self, wall: crate::model::UnixTime) -> Value {
        json!({
            "enforcement": self.enforcement,
            "decisions": self.list(),
            "rules": crate::firewall::render(&self.policy, wall),
        })
    }
}
