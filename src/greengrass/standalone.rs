//! The embedded stand-in: a nucleus in this process that plays AWS IoT's part with files, and needs no AWS at all.
//!
//! Publishes go to `DIR/published.jsonl`; shadows live in `DIR/shadows/`; Device Defender reports are answered.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::shadow_document::{Rejection, ShadowDocument, Update, client_token};
use super::topic::{self, MetricsStep, ShadowName, ShadowStep, Topic};
use super::{
    ComponentState, Destination, Incoming, IncomingSender, Nucleus, NucleusError, NucleusKind, SubscriptionId,
};
use crate::model::{ThingName, UnixTime};

mod defender;
mod files;

pub use files::StandaloneError;
use files::{DirLock, PublishedLog, ShadowFiles};

/// Says what time it is.
pub type Clock = Box<dyn Fn() -> UnixTime + Send>;
/// Reads the component configuration anew.
pub type ConfigurationSource = Box<dyn FnMut() -> Result<Value, NucleusError> + Send>;

/// A nucleus without Greengrass. One per directory.
pub struct StandaloneNucleus {
    thing_name: ThingName,
    configuration: ConfigurationSource,
    incoming: IncomingSender,
    clock: Clock,
    published: PublishedLog,
    shadows: ShadowFiles,
    subscriptions: BTreeMap<SubscriptionId, (Destination, String)>,
    next_id: u64,
    _lock: DirLock,
}

impl StandaloneNucleus {
    /// Open the directory, creating it (mode 0700) when it is not there, and keep others out of it.
    ///
    /// # Errors
    /// [`StandaloneError::InUse`] when another process has it, else what the file system says.
    pub fn open(
        dir: &Path,
        thing_name: ThingName,
        configuration: ConfigurationSource,
        incoming: IncomingSender,
        clock: Clock,
    ) -> Result<Self, StandaloneError> {
        let lock = DirLock::take(dir)?;
        Ok(Self {
            thing_name,
            configuration,
            incoming,
            clock,
            published: PublishedLog::open(dir)?,
            shadows: ShadowFiles::open(dir)?,
            subscriptions: BTreeMap::new(),
            next_id: 0,
            _lock: lock,
        })
    }

    /// Hand a message to the agent when it subscribed to it; once, however many filters match.
    fn deliver(&self, from: Destination, topic: &str, payload: &[u8]) {
        let wanted = |(source, filter): &(Destination, String)| *source == from && topic::matches(filter, topic);
        if self.subscriptions.values().any(wanted) {
            (self.incoming)(Incoming::Message {
                from,
                topic: topic.to_owned(),
                payload: payload.to_vec(),
            });
        }
    }

    /// Answer on the side the request came from.
    fn answer(&self, to: Destination, target: &ShadowTarget<'_>, step: ShadowStep, message: &Value) {
        let topic = topic::shadow(Some(target.thing), target.shadow, step);
        self.deliver(to, &topic, message.to_string().as_bytes());
    }

    /// Tell of a change: on IoT Core as AWS does, and on local publish/subscribe as ShadowManager does.
    fn announce(&self, target: &ShadowTarget<'_>, step: ShadowStep, message: &Value) {
        self.answer(Destination::IotCore, target, step, message);
        self.answer(Destination::Local, target, step, message);
    }

    fn update(&self, target: &ShadowTarget<'_>, request: &[u8]) -> Result<Update, Refusal> {
        let update = self
            .shadows
            .load(target.thing, target.shadow)?
            .update(request, (self.clock)().seconds())?;
        self.shadows.store(target.thing, target.shadow, &update.document)?;
        self.announce(target, ShadowStep::UpdateAccepted, &update.accepted);
        if let Some(delta) = &update.delta {
            self.announce(target, ShadowStep::UpdateDelta, delta);
        }
        self.announce(target, ShadowStep::UpdateDocuments, &update.documents);
        Ok(update)
    }

    fn delete(&self, target: &ShadowTarget<'_>, request: &[u8]) -> Result<(), Refusal> {
        let document = self.shadows.load(target.thing, target.shadow)?;
        let (left, accepted) = document.delete(request, (self.clock)().seconds())?;
        self.shadows.store(target.thing, target.shadow, &left)?;
        self.announce(target, ShadowStep::DeleteAccepted, &accepted);
        Ok(())
    }

    fn get(&self, target: &ShadowTarget<'_>, request: &[u8]) -> Result<Value, Refusal> {
        Ok(self.shadows.load(target.thing, target.shadow)?.get(request)?)
    }

    /// Play the services behind reserved topics.
    fn serve(&self, from: Destination, topic: &Topic, payload: &[u8]) {
        match topic {
            Topic::Shadow { thing, shadow, step } => {
                let target = ShadowTarget {
                    thing,
                    shadow: shadow.as_ref(),
                };
                let (outcome, rejected) = match step {
                    ShadowStep::Get => {
                        let outcome = self.get(&target, payload);
                        let outcome = outcome.map(|found| self.answer(from, &target, ShadowStep::GetAccepted, &found));
                        (outcome, ShadowStep::GetRejected)
                    }
                    ShadowStep::Update => (self.update(&target, payload).map(|_| ()), ShadowStep::UpdateRejected),
                    ShadowStep::Delete => (self.delete(&target, payload), ShadowStep::DeleteRejected),
                    _ => return,
                };
                if let Err(refusal) = outcome {
                    let message = refusal.into_rejection(payload).message((self.clock)().seconds());
                    self.answer(from, &target, rejected, &message);
                }
            }
            Topic::Metrics {
                thing,
                format,
                step: MetricsStep::Report,
            } if from == Destination::IotCore => {
                let (step, answer) = defender::answer(thing, *format, payload, (self.clock)());
                let topic = topic::metrics(Some(thing), *format, step);
                if let Some(bytes) = defender::encode(*format, &answer) {
                    self.deliver(from, &topic, &bytes);
                }
            }
            _ => {}
        }
    }
}

/// Which shadow.
#[derive(Clone, Copy)]
struct ShadowTarget<'a> {
    thing: &'a ThingName,
    shadow: Option<&'a ShadowName>,
}

impl ShadowTarget<'_> {
    fn what(&self, operation: &str) -> String {
        match self.shadow {
            None => format!("{operation} {} (classic shadow)", self.thing),
            Some(name) => format!("{operation} {} (shadow {name})", self.thing),
        }
    }
}

/// Why a shadow request was not carried out.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Rejected(#[from] Rejection),
    #[error(transparent)]
    Files(#[from] StandaloneError),
}

impl Refusal {
    /// In the service's terms. Who asked knows it by the token of the request.
    fn into_rejection(self, request: &[u8]) -> Rejection {
        match self {
            Self::Rejected(rejection) => rejection,
            Self::Files(error) => Rejection {
                client_token: client_token(request),
                ..Rejection::new(500, error.chain())
            },
        }
    }

    fn into_nucleus_error(self, what: String, bytes: usize) -> NucleusError {
        match self {
            Self::Rejected(Rejection { code: 404, .. }) => NucleusError::NotFound { what },
            Self::Rejected(Rejection { code: 409, .. }) => NucleusError::Conflict { what },
            Self::Rejected(Rejection { code: 413, .. }) => NucleusError::TooLarge { what, bytes },
            Self::Rejected(rejection) => NucleusError::Failed {
                what,
                detail: rejection.to_string(),
            },
            Self::Files(error) => NucleusError::Failed {
                what,
                detail: error.chain(),
            },
        }
    }
}

fn shadow_name(name: Option<&str>, what: &str) -> Result<Option<ShadowName>, NucleusError> {
    let wrong = |error: topic::ShadowNameError| NucleusError::Failed {
        what: what.to_owned(),
        detail: error.to_string(),
    };
    name.map(|name| name.parse().map_err(wrong)).transpose()
}

impl Nucleus for StandaloneNucleus {
    fn kind(&self) -> NucleusKind {
        NucleusKind::Standalone
    }

    fn thing_name(&self) -> Result<ThingName, NucleusError> {
        Ok(self.thing_name.clone())
    }

    fn configuration(&mut self) -> Result<Value, NucleusError> {
        (self.configuration)()
    }

    /// Always `Ok`: there is no deployment that could change the configuration.
    fn watch_configuration(&mut self) -> Result<(), NucleusError> {
        Ok(())
    }

    fn publish(&mut self, to: Destination, topic: &str, payload: &[u8]) -> Result<(), NucleusError> {
        self.published
            .append((self.clock)(), to, topic, payload)
            .map_err(|error| NucleusError::Failed {
                what: format!("publish {topic}"),
                detail: error.chain(),
            })?;
        self.deliver(to, topic, payload);
        if let Some(topic) = topic::parse(topic) {
            self.serve(to, &topic, payload);
        }
        Ok(())
    }

    fn subscribe(&mut self, from: Destination, filter: &str) -> Result<SubscriptionId, NucleusError> {
        self.next_id += 1;
        let id = SubscriptionId(self.next_id);
        self.subscriptions.insert(id, (from, filter.to_owned()));
        Ok(id)
    }

    fn unsubscribe(&mut self, id: SubscriptionId) {
        self.subscriptions.remove(&id);
    }

    fn update_state(&mut self, _state: ComponentState) -> Result<(), NucleusError> {
        Ok(())
    }

    fn thing_shadow(&mut self, thing: &ThingName, shadow: Option<&str>) -> Result<Vec<u8>, NucleusError> {
        let name = shadow_name(shadow, "GetThingShadow")?;
        let target = ShadowTarget {
            thing,
            shadow: name.as_ref(),
        };
        let document = self.get(&target, b"");
        let document = document.map_err(|refusal| refusal.into_nucleus_error(target.what("GetThingShadow"), 0))?;
        Ok(document.to_string().into_bytes())
    }

    fn update_thing_shadow(
        &mut self,
        thing: &ThingName,
        shadow: Option<&str>,
        document: &[u8],
    ) -> Result<(), NucleusError> {
        let name = shadow_name(shadow, "UpdateThingShadow")?;
        let target = ShadowTarget {
            thing,
            shadow: name.as_ref(),
        };
        let outcome = self.update(&target, document).map(|_| ());
        outcome.map_err(|refusal| refusal.into_nucleus_error(target.what("UpdateThingShadow"), document.len()))
    }

    fn write_desired(
        &mut self,
        thing: &ThingName,
        shadow: Option<&str>,
        desired: &Value,
    ) -> Result<Value, NucleusError> {
        let name = shadow_name(shadow, "write desired state")?;
        let target = ShadowTarget {
            thing,
            shadow: name.as_ref(),
        };
        let request = desired_request(desired);
        match self.update(&target, &request) {
            Ok(update) => Ok(update.document.document()),
            Err(refusal) => Err(refusal.into_nucleus_error(target.what("write desired state of"), request.len())),
        }
    }
}

fn desired_request(desired: &Value) -> Vec<u8> {
    json!({"state": {"desired": desired}}).to_string().into_bytes()
}

/// Write desired state into a directory no agent is running on; with one, send it a
/// [`WriteDesired`](super::link::Command::WriteDesired). Returns the whole document afterwards.
///
/// # Errors
/// [`StandaloneError::InUse`] when an agent has the directory, [`StandaloneError::Refused`] when AWS IoT would refuse the
/// update, else what the file system says.
pub fn edit_shadow(
    dir: &Path,
    thing: &ThingName,
    shadow: Option<&ShadowName>,
    desired: &Value,
    now: UnixTime,
) -> Result<Value, StandaloneError> {
    let _lock = DirLock::take(dir)?;
    let shadows = ShadowFiles::open(dir)?;
    let document: ShadowDocument = shadows.load(thing, shadow)?;
    let refused = |rejection| StandaloneError::Refused {
        shadow: shadows.path(thing, shadow),
        source: rejection,
    };
    let update = document
        .update(&desired_request(desired), now.seconds())
        .map_err(refused)?;
    shadows.store(thing, shadow, &update.document)?;
    Ok(update.document.document())
}

#[cfg(test)]
mod tests;
