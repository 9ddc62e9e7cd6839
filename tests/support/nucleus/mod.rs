//! A test nucleus: a Greengrass nucleus' IPC on a unix socket, with as much of AWS IoT Core behind it as the agent
//! can notice (Defender's answers, shadows, topics). `docs/testing-nucleus.md` says how to use it.
//!
//! Threads, one lock and no waiting inside it: every connection has a reader and a writer thread, and whatever is to
//! be sent is queued for the writer, so a test can deliver messages and a stalled client harms nobody.
#![allow(
    dead_code,
    unused_imports,
    reason = "each test binary uses its own part of the test nucleus"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "test support: the first surprise ends the test, and tests may look at the clock"
)]

pub mod access;
pub mod client;
mod cloud;
mod connection;
pub mod defender;
pub mod frame;
mod misbehave;
mod operations;
pub mod report;
pub mod shadow;
mod state;
pub mod topic;

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

pub use self::access::Grant;
pub use self::misbehave::{Malformed, Misbehave};
use self::state::State;
pub use self::state::{Destination, Outcome, Published, Request, Seen};

/// Which nucleus is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The Java nucleus (`ipc.socket`).
    Classic,
    /// Nucleus lite (`gg-ipc.socket`).
    Lite,
}

/// Epoch seconds; a test may turn it.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What nucleus lite cannot carry. Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// IPC message without prelude: a larger one from the client closes the connection, a larger one to it is not sent.
    pub message_bytes: Option<usize>,
    /// MQTT packet from the cloud: a larger one never arrives.
    pub inbound_bytes: Option<usize>,
}

/// What the test nucleus is like.
#[derive(Clone)]
pub struct Settings {
    /// Matching rules, answers, socket name.
    pub kind: Kind,
    /// The component that connects.
    pub component: String,
    /// The core device's thing.
    pub thing_name: String,
    /// `AWS_REGION`.
    pub region: String,
    /// The component's configuration, without accessControl.
    pub configuration: Value,
    /// The recipe's `accessControl` object; `None` allows everything.
    pub access_control: Option<Value>,
    /// Whether ShadowManager is deployed (classic only).
    pub shadow_manager: bool,
    /// Whether Defender answers.
    pub answer_reports: bool,
    /// Reject a thing's report less than 300 s, on this clock, after its last one.
    pub enforce_rate: Option<Clock>,
    /// Message sizes.
    pub limits: Limits,
}

impl Default for Settings {
    fn default() -> Self {
        Self::classic()
    }
}

impl Settings {
    /// The Java nucleus without ShadowManager.
    pub fn classic() -> Self {
        Self {
            kind: Kind::Classic,
            component: "dev.edgewarden.EdgeWarden".to_owned(),
            thing_name: "gateway-1".to_owned(),
            region: "eu-central-1".to_owned(),
            configuration: json!({}),
            access_control: None,
            shadow_manager: false,
            answer_reports: true,
            enforce_rate: None,
            limits: Limits {
                message_bytes: None,
                inbound_bytes: None,
            },
        }
    }

    /// Nucleus lite with its limits.
    pub fn lite() -> Self {
        Self {
            kind: Kind::Lite,
            limits: Limits {
                message_bytes: Some(10_000),
                inbound_bytes: Some(5_000),
            },
            ..Self::classic()
        }
    }
}

/// What the threads share.
pub(crate) struct Shared {
    settings: Settings,
    /// `SVCUID` of the component.
    token: String,
    state: Mutex<State>,
    changed: Condvar,
    stopping: AtomicBool,
}

impl Shared {
    /// The state; a panicking test does not take the nucleus with it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        match &self.settings.enforce_rate {
            Some(clock) => clock(),
            None => SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs(),
        }
    }

    /// Changes the state and wakes whoever waits for it.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }
}

/// A running test nucleus; dropping it ends it as [`TestNucleus::stop`] does.
pub struct TestNucleus {
    shared: Arc<Shared>,
    directory: tempfile::TempDir,
    acceptor: Mutex<Option<JoinHandle<()>>>,
}

impl TestNucleus {
    /// Listens in a new temporary directory.
    ///
    /// # Panics
    /// If the accessControl would not survive a deployment, with the reason.
    pub fn start(settings: Settings) -> Self {
        let access = access::AccessControl::load(settings.kind, &settings.thing_name, settings.access_control.as_ref())
            .unwrap_or_else(|problem| panic!("deployment refused: {problem}"));
        let directory = tempfile::Builder::new().prefix("nucleus").tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join(socket_name(settings.kind))).unwrap();
        let mut configuration = settings.configuration.clone();
        if let Some(access_control) = &settings.access_control {
            configuration["accessControl"] = access_control.clone();
        }
        let shared = Arc::new(Shared {
            token: "TESTSVCUID000001".to_owned(),
            state: Mutex::new(State::new(access, configuration)),
            changed: Condvar::new(),
            stopping: AtomicBool::new(false),
            settings,
        });
        let acceptor = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    if shared.stopping.load(Ordering::SeqCst) {
                        return;
                    }
                    connection::serve(&shared, stream.unwrap());
                }
            })
        };
        Self {
            shared,
            directory,
            acceptor: Mutex::new(Some(acceptor)),
        }
    }

    /// The socket the component connects to.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join(socket_name(self.shared.settings.kind))
    }

    /// The environment of the component's process.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        let settings = &self.shared.settings;
        let socket = self.socket().to_str().unwrap().to_owned();
        vec![
            ("SVCUID", self.shared.token.clone()),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN", self.shared.token.clone()),
            ("AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT", socket),
            ("AWS_IOT_THING_NAME", settings.thing_name.clone()),
            ("AWS_REGION", settings.region.clone()),
            ("AWS_DEFAULT_REGION", settings.region.clone()),
        ]
    }

    /// Replaces the component's configuration, accessControl apart, and tells the subscribers.
    pub fn set_configuration(&self, configuration: Value) {
        self.shared
            .change(|state| state.set_configuration(&self.shared.settings, configuration));
    }

    /// Waits until `wanted` gives something for what has been seen.
    ///
    /// # Panics
    /// When `within` is over, saying what was awaited and what was seen instead.
    pub fn wait_for<T>(&self, what: &str, within: Duration, mut wanted: impl FnMut(&Seen) -> Option<T>) -> T {
        self.wait(within, |state| wanted(&state.seen)).unwrap_or_else(|| {
            panic!("not within {within:?}: {what}; seen: {:#?}", self.seen());
        })
    }

    /// Looks at the state whenever it changed, until it gives something; `None` when `within` is over.
    fn wait<T>(&self, within: Duration, mut wanted: impl FnMut(&mut State) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + within;
        let mut state = self.shared.lock();
        loop {
            let found = wanted(&mut state);
            let left = deadline.saturating_duration_since(Instant::now());
            if found.is_some() || left.is_zero() {
                return found;
            }
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .0;
        }
    }

    /// Everything seen so far.
    pub fn seen(&self) -> Seen {
        self.shared.lock().seen.clone()
    }

    /// Every message the component published, oldest first.
    pub fn published(&self) -> Vec<Published> {
        self.seen().published
    }

    /// Every Defender report with its verdict, oldest first.
    pub fn reports(&self) -> Vec<defender::Report> {
        self.seen().reports
    }

    /// Every state the component reported, oldest first.
    pub fn states(&self) -> Vec<String> {
        self.seen().states
    }

    /// Grants of the accessControl that nothing has needed so far.
    pub fn unused_grants(&self) -> Vec<Grant> {
        self.shared.lock().access.unused()
    }

    /// A message from AWS IoT Core, to all matching subscriptions. Returns how many there were.
    pub fn deliver(&self, topic: &str, payload: &[u8]) -> usize {
        self.shared
            .change(|state| state.cloud_message(&self.shared.settings, topic, payload))
    }

    /// A binary message another component publishes locally. Returns how many subscriptions matched.
    pub fn deliver_local(&self, topic: &str, payload: &[u8]) -> usize {
        self.shared
            .change(|state| state.local_message(&self.shared.settings, topic, &state::Body::binary(payload), None))
    }

    /// Somebody in the cloud updates a shadow: `{"state":{"desired":{..}}}`.
    ///
    /// # Errors
    /// What the shadow service answers.
    pub fn shadow_update(&self, thing: &str, name: Option<&str>, document: &Value) -> Result<(), shadow::ShadowError> {
        let key = (thing.to_owned(), name.map(str::to_owned));
        let now = self.shared.now();
        let payload = document.to_string();
        self.shared.change(|state| {
            state
                .shadow_update(&self.shared.settings, &key, payload.as_bytes(), now)
                .map(drop)
        })
    }

    /// The whole shadow document, if there is one.
    pub fn shadow(&self, thing: &str, name: Option<&str>) -> Option<Value> {
        let key = (thing.to_owned(), name.map(str::to_owned));
        self.shared.lock().shadows.get(&key, self.shared.now()).ok()
    }

    /// Waits until the shadow document (`Null` while there is none) is as `wanted`, and returns it.
    ///
    /// # Panics
    /// When `within` is over, saying what was awaited and the document.
    pub fn wait_shadow(
        &self,
        thing: &str,
        name: Option<&str>,
        within: Duration,
        mut wanted: impl FnMut(&Value) -> bool,
    ) -> Value {
        let key = (thing.to_owned(), name.map(str::to_owned));
        let mut last = Value::Null;
        let found = self.wait(within, |state| {
            last = state.shadows.get(&key, self.shared.now()).unwrap_or(Value::Null);
            wanted(&last).then(|| last.clone())
        });
        found.unwrap_or_else(|| {
            panic!("not within {within:?}: what was awaited of the shadow of {thing}; it is {last:#}")
        })
    }

    /// Somebody in the cloud deletes a shadow.
    ///
    /// # Errors
    /// What the shadow service answers.
    pub fn shadow_delete(&self, thing: &str, name: Option<&str>) -> Result<(), shadow::ShadowError> {
        let key = (thing.to_owned(), name.map(str::to_owned));
        let now = self.shared.now();
        self.shared
            .change(|state| state.shadow_delete(&self.shared.settings, &key, now).map(drop))
    }

    /// From now on, until [`TestNucleus::behave`].
    pub fn misbehave(&self, rule: Misbehave) {
        self.shared.change(|state| state.rules.push((rule, None)));
    }

    /// For the next `times` requests or reports the rule applies to.
    pub fn misbehave_times(&self, times: usize, rule: Misbehave) {
        self.shared.change(|state| state.rules.push((rule, Some(times))));
    }

    /// Ends all misbehaviour. Requests that were never answered stay unanswered.
    pub fn behave(&self) {
        self.shared.change(|state| state.rules.clear());
    }

    /// Forgets every subscription without a word, as nucleus lite does when its MQTT daemon restarts. Returns how many.
    pub fn kill_subscriptions(&self) -> usize {
        self.shared.change(State::kill_subscriptions)
    }

    /// Sends something no client should get, on every connection (and its first subscription, where one is needed).
    pub fn send_malformed(&self, what: Malformed) {
        self.shared.change(|state| state.send_malformed(what));
    }

    /// Closes every connection; new ones are accepted.
    pub fn disconnect(&self) {
        self.shared.change(State::disconnect_all);
    }

    /// The nucleus is gone: connections closed, nobody listens.
    pub fn stop(&self) {
        let Some(acceptor) = self
            .acceptor
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take()
        else {
            return;
        };
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the acceptor, which drops the listener.
        drop(UnixStream::connect(self.socket()));
        acceptor.join().unwrap();
        drop(std::fs::remove_file(self.socket()));
        self.disconnect();
    }
}

impl Drop for TestNucleus {
    fn drop(&mut self) {
        self.stop();
    }
}

fn socket_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Classic => "ipc.socket",
        Kind::Lite => "gg-ipc.socket",
    }
}
