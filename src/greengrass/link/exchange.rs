//! What goes over the link: commands in, events out.

use serde_json::Value;

use crate::greengrass::topic::ShadowName;
use crate::greengrass::{ComponentState, Destination, NucleusError, NucleusKind, SubscriptionId};
use crate::model::ThingName;

/// The agent's own mark on a command, given back with its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// What the agent asks of the nucleus. Each is answered by the event of the same name, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Publish one message; answered by [`NucleusEvent::Published`].
    Publish {
        /// Given back.
        token: Token,
        /// Where to.
        to: Destination,
        /// The topic.
        topic: String,
        /// The bytes.
        payload: Vec<u8>,
    },
    /// Subscribe; answered by [`NucleusEvent::Subscribed`].
    Subscribe {
        /// Given back.
        token: Token,
        /// Where from.
        from: Destination,
        /// The topic filter.
        filter: String,
    },
    /// End a subscription; not answered.
    Unsubscribe(SubscriptionId),
    /// Read the configuration; answered by [`NucleusEvent::Configuration`].
    Configuration,
    /// Ask for [`NucleusEvent::ConfigurationChanged`]; answered by [`NucleusEvent::ConfigurationWatched`].
    WatchConfiguration,
    /// Report the component's state; answered by [`NucleusEvent::StateUpdated`].
    UpdateState(ComponentState),
    /// Read a shadow through ShadowManager; answered by [`NucleusEvent::Shadow`].
    ThingShadow {
        /// Given back.
        token: Token,
        /// Whose.
        thing: ThingName,
        /// `None`: the classic shadow.
        shadow: Option<ShadowName>,
    },
    /// Update a shadow through ShadowManager; answered by [`NucleusEvent::ShadowUpdated`].
    UpdateThingShadow {
        /// Given back.
        token: Token,
        /// Whose.
        thing: ThingName,
        /// `None`: the classic shadow.
        shadow: Option<ShadowName>,
        /// `{"state":{"reported":{..}}}`
        document: Vec<u8>,
    },
    /// Write desired state as the cloud side would; the embedded stand-in only. Answered by
    /// [`NucleusEvent::DesiredWritten`].
    WriteDesired {
        /// Given back.
        token: Token,
        /// Whose.
        thing: ThingName,
        /// `None`: the classic shadow.
        shadow: Option<ShadowName>,
        /// Merged into the desired state; null deletes.
        desired: Value,
    },
}

/// What comes from the nucleus: answers, and what it sends by itself.
#[derive(Debug, Clone, PartialEq)]
pub enum NucleusEvent {
    /// The nucleus is there. The first event, unless it is [`Self::Unavailable`].
    Ready {
        /// Which nucleus.
        kind: NucleusKind,
        /// The core device's thing name.
        core: ThingName,
    },
    /// The nucleus could not be reached or built; no other event follows and the thread has ended.
    Unavailable(NucleusError),
    /// A publish is done; `Ok` means that the nucleus took it.
    Published {
        /// From the command.
        token: Token,
        /// The outcome.
        result: Result<(), NucleusError>,
    },
    /// A subscribe is done.
    Subscribed {
        /// From the command.
        token: Token,
        /// The outcome.
        result: Result<SubscriptionId, NucleusError>,
    },
    /// The configuration.
    Configuration(Result<Value, NucleusError>),
    /// Whether changes of the configuration will be told.
    ConfigurationWatched(Result<(), NucleusError>),
    /// The configuration changed. Several changes may arrive as one event; none is lost.
    ConfigurationChanged,
    /// A message on a subscribed topic.
    Message {
        /// Where it came from.
        from: Destination,
        /// The exact topic.
        topic: String,
        /// The bytes as sent.
        payload: Vec<u8>,
    },
    /// A shadow document.
    Shadow {
        /// From the command.
        token: Token,
        /// The full document.
        result: Result<Vec<u8>, NucleusError>,
    },
    /// A shadow update is done.
    ShadowUpdated {
        /// From the command.
        token: Token,
        /// The outcome.
        result: Result<(), NucleusError>,
    },
    /// Desired state was written.
    DesiredWritten {
        /// From the command.
        token: Token,
        /// The full document afterwards.
        result: Result<Value, NucleusError>,
    },
    /// The component's state was reported.
    StateUpdated(Result<(), NucleusError>),
}
