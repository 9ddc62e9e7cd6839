//! The seam between the agent and whatever nucleus is there.

use serde_json::Value;

use crate::model::ThingName;

/// Which nucleus answers; they differ in limits and in what they implement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NucleusKind {
    /// The Java nucleus: 128 KB messages, spooler, ShadowManager possible.
    Classic,
    /// Nucleus lite (socket file `gg-ipc.socket`): 10,000-byte IPC packets, no spooler, no shadow IPC.
    Lite,
    /// The embedded stand-in: no AWS at all.
    Standalone,
}

/// Where a message goes or comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Destination {
    /// AWS IoT Core over MQTT, always QoS 1.
    IotCore,
    /// Greengrass local publish/subscribe between components.
    Local,
}

/// The component states a component may report itself (IPC `UpdateState`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ComponentState {
    /// Working.
    Running,
    /// Needs help.
    Errored,
}

/// What the nucleus sends by itself. Made inside the SDK's callbacks, which do nothing but forward these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// A message on a subscribed topic.
    Message {
        /// Where it came from.
        from: Destination,
        /// The exact topic.
        topic: String,
        /// The bytes as sent.
        payload: Vec<u8>,
    },
    /// The component configuration changed; read it with [`Nucleus::configuration`].
    ConfigurationChanged,
}

/// Names one subscription of this nucleus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionId(pub u64);

/// Why a request to the nucleus failed. `what` names the operation and its object (`PublishToIoTCore <topic>`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NucleusError {
    /// The environment of a component is missing (`SVCUID`, socket path, thing name).
    #[error("not started by a Greengrass nucleus: {what}; start it with a deployment, or use --standalone DIR")]
    NotAComponent {
        /// What is missing.
        what: String,
    },
    /// The nucleus cannot be reached.
    #[error("{what}: no connection to the nucleus ({detail})")]
    NoConnection {
        /// Operation and object.
        what: String,
        /// The SDK's word for it.
        detail: String,
    },
    /// Refused by the component's accessControl policy.
    #[error("{what}: refused by the nucleus; the component's accessControl must allow it")]
    Denied {
        /// Operation and object.
        what: String,
    },
    /// The message does not fit through the IPC connection.
    #[error("{what}: {bytes} bytes are more than the nucleus takes")]
    TooLarge {
        /// Operation and object.
        what: String,
        /// Size of the payload.
        bytes: usize,
    },
    /// The nucleus has no such operation (shadow IPC on nucleus lite).
    #[error("{what}: this nucleus does not offer it")]
    Unsupported {
        /// Operation and object.
        what: String,
    },
    /// The object asked for does not exist.
    #[error("{what}: not found")]
    NotFound {
        /// Operation and object.
        what: String,
    },
    /// A version conflict: somebody else wrote the shadow meanwhile (HTTP 409).
    #[error("{what}: version conflict")]
    Conflict {
        /// Operation and object.
        what: String,
    },
    /// No answer in time.
    #[error("{what}: no answer from the nucleus in time")]
    TimedOut {
        /// Operation and object.
        what: String,
    },
    /// Anything else; usually passing (offline, spooler full).
    #[error("{what}: failed ({detail})")]
    Failed {
        /// Operation and object.
        what: String,
        /// The SDK's or system's word for it.
        detail: String,
    },
}

/// The sending half on which a nucleus hands over [`Incoming`]. Sending never blocks; when the agent does not keep up,
/// messages are dropped and counted by the link.
pub type IncomingSender = std::sync::Arc<dyn Fn(Incoming) + Send + Sync>;

/// What the agent needs of a nucleus. Calls block up to the SDK's time-out (10 s) and never run in a callback.
pub trait Nucleus: Send {
    /// Which nucleus this is.
    fn kind(&self) -> NucleusKind;

    /// The core device's thing name.
    ///
    /// # Errors
    /// [`NucleusError::NotAComponent`] when the environment does not say it.
    fn thing_name(&self) -> Result<ThingName, NucleusError>;

    /// The component's whole configuration, as a JSON object.
    ///
    /// # Errors
    /// Any [`NucleusError`]; an absent configuration is an empty object, not an error.
    fn configuration(&mut self) -> Result<Value, NucleusError>;

    /// Ask for [`Incoming::ConfigurationChanged`] from now on.
    ///
    /// # Errors
    /// Any [`NucleusError`].
    fn watch_configuration(&mut self) -> Result<(), NucleusError>;

    /// Publish one message (QoS 1 to IoT Core; binary on local pub/sub). `Ok` means the nucleus took it, no more.
    ///
    /// # Errors
    /// Any [`NucleusError`]; nothing was sent then.
    fn publish(&mut self, to: Destination, topic: &str, payload: &[u8]) -> Result<(), NucleusError>;

    /// Subscribe to a topic filter (MQTT wildcards where the destination knows them).
    ///
    /// # Errors
    /// Any [`NucleusError`]; there is no subscription then.
    fn subscribe(&mut self, from: Destination, filter: &str) -> Result<SubscriptionId, NucleusError>;

    /// End a subscription. Unknown ids are ignored.
    fn unsubscribe(&mut self, id: SubscriptionId);

    /// Report the component's state.
    ///
    /// # Errors
    /// Any [`NucleusError`].
    fn update_state(&mut self, state: ComponentState) -> Result<(), NucleusError>;

    /// Read a shadow through ShadowManager: the full document with version and metadata.
    ///
    /// # Errors
    /// [`NucleusError::NotFound`] when there is none, [`NucleusError::Unsupported`] without a ShadowManager.
    fn thing_shadow(&mut self, thing: &ThingName, shadow: Option<&str>) -> Result<Vec<u8>, NucleusError>;

    /// Update a shadow through ShadowManager with a document such as `{"state":{"reported":{..}}}`.
    ///
    /// # Errors
    /// [`NucleusError::Conflict`] on a version conflict, else any [`NucleusError`].
    fn update_thing_shadow(
        &mut self,
        thing: &ThingName,
        shadow: Option<&str>,
        document: &[u8],
    ) -> Result<(), NucleusError>;

    /// Write desired state as the cloud side would: merged into the shadow, null deletes. Only the embedded stand-in
    /// can; with a real nucleus that is the cloud's part. Returns the whole document afterwards.
    ///
    /// # Errors
    /// [`NucleusError::Unsupported`] on a real nucleus, else any [`NucleusError`].
    fn write_desired(
        &mut self,
        thing: &ThingName,
        shadow: Option<&str>,
        desired: &Value,
    ) -> Result<Value, NucleusError> {
        let _ = (shadow, desired);
        Err(NucleusError::Unsupported {
            what: format!("write desired state of {thing}"),
        })
    }
}
