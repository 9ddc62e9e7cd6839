//! The nucleus on a thread of its own, so that the agent's loop never waits for it: commands go in without blocking,
//! events come out.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::topic::ShadowName;
use super::{Incoming, IncomingSender, Nucleus, NucleusError, SubscriptionId};

mod exchange;

pub use exchange::{Command, NucleusEvent, Token};

/// Commands that may wait for the nucleus; a stalled one makes [`NucleusLink::send`] say [`LinkError::Busy`].
pub const MAX_COMMANDS: usize = 1_024;
/// Incoming messages that may wait for the agent; further ones are dropped and counted.
pub const MAX_MESSAGES: usize = 4_096;
/// Bytes of topics and payloads that may wait for the agent; further messages are dropped and counted.
pub const MAX_MESSAGE_BYTES: usize = 2 * 1024 * 1024;

/// Why a command was not taken. It will not be answered then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// [`MAX_COMMANDS`] commands are waiting for the nucleus.
    #[error("the nucleus does not keep up: {MAX_COMMANDS} requests are waiting for it")]
    Busy,
    /// The nucleus' thread has ended.
    #[error("the link to the nucleus has ended")]
    Ended,
}

/// How a stop went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Every subscription was ended.
    Cleanly,
    /// The nucleus did not answer in time; its thread is left behind.
    TimedOut,
}

enum Work {
    Command(Command),
    Stop,
}

/// What is on its way to the agent, and what did not fit.
#[derive(Default)]
struct Backlog {
    messages: AtomicUsize,
    bytes: AtomicUsize,
    dropped: AtomicU64,
    configuration_changed: AtomicBool,
}

impl Backlog {
    /// Take room for a message, if there is any.
    fn admit(&self, size: usize) -> bool {
        let messages = self.messages.fetch_add(1, Ordering::AcqRel);
        let bytes = self.bytes.fetch_add(size, Ordering::AcqRel);
        let fits = messages < MAX_MESSAGES && bytes.saturating_add(size) <= MAX_MESSAGE_BYTES;
        if !fits {
            self.release(size);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        fits
    }

    fn release(&self, size: usize) {
        self.messages.fetch_sub(1, Ordering::AcqRel);
        self.bytes.fetch_sub(size, Ordering::AcqRel);
    }
}

/// The agent's hold on the nucleus' thread. Dropping it stops the thread without waiting for it.
pub struct NucleusLink {
    work: SyncSender<Work>,
    stopping: Arc<AtomicBool>,
    ended: Receiver<()>,
    backlog: Arc<Backlog>,
}

/// The events of one link. Answers are as many as commands; only messages can be dropped.
pub struct NucleusEvents {
    events: UnboundedReceiver<NucleusEvent>,
    backlog: Arc<Backlog>,
}

impl NucleusEvents {
    /// The next event; `None` once the nucleus' thread has ended and everything was read. Cancel safe.
    pub async fn recv(&mut self) -> Option<NucleusEvent> {
        let event = self.events.recv().await?;
        self.account(&event);
        Some(event)
    }

    /// The next event, waiting with the thread; for callers outside a runtime.
    pub fn blocking_recv(&mut self) -> Option<NucleusEvent> {
        let event = self.events.blocking_recv()?;
        self.account(&event);
        Some(event)
    }

    /// The next event if there is one already.
    pub fn try_recv(&mut self) -> Option<NucleusEvent> {
        let event = self.events.try_recv().ok()?;
        self.account(&event);
        Some(event)
    }

    fn account(&self, event: &NucleusEvent) {
        match event {
            NucleusEvent::Message { topic, payload, .. } => self.backlog.release(topic.len() + payload.len()),
            // From here on a change is news again: the reader has yet to read the configuration.
            NucleusEvent::ConfigurationChanged => {
                self.backlog.configuration_changed.store(false, Ordering::Release);
            }
            _ => {}
        }
    }
}

impl NucleusLink {
    /// Start a thread that builds the nucleus and then serves commands. Building it may block: that is why it happens
    /// there. The first event is [`NucleusEvent::Ready`] or [`NucleusEvent::Unavailable`].
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn spawn<B>(build: B) -> io::Result<(Self, NucleusEvents)>
    where
        B: FnOnce(IncomingSender) -> Result<Box<dyn Nucleus>, NucleusError> + Send + 'static,
    {
        let (work, todo) = sync_channel(MAX_COMMANDS);
        let (done, ended) = sync_channel(1);
        let (events, received) = unbounded_channel();
        let backlog = Arc::new(Backlog::default());
        let stopping = Arc::new(AtomicBool::new(false));
        let incoming = incoming_sender(events.clone(), backlog.clone());
        let stop = stopping.clone();
        std::thread::Builder::new().name("nucleus".to_owned()).spawn(move || {
            match build(incoming) {
                Ok(nucleus) => Worker {
                    nucleus,
                    events,
                    subscriptions: Vec::new(),
                }
                .serve(todo, &stop),
                Err(error) => {
                    drop(todo);
                    let _ = events.send(NucleusEvent::Unavailable(error));
                }
            }
            let _ = done.try_send(());
        })?;
        let link = Self {
            work,
            stopping,
            ended,
            backlog: backlog.clone(),
        };
        Ok((
            link,
            NucleusEvents {
                events: received,
                backlog,
            },
        ))
    }

    /// Hand over a command. Never blocks.
    ///
    /// # Errors
    /// [`LinkError`]; the command was not taken then.
    pub fn send(&self, command: Command) -> Result<(), LinkError> {
        self.work.try_send(Work::Command(command)).map_err(|error| match error {
            TrySendError::Full(_) => LinkError::Busy,
            TrySendError::Disconnected(_) => LinkError::Ended,
        })
    }

    /// Messages dropped because the agent did not keep up.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.backlog.dropped.load(Ordering::Relaxed)
    }

    /// End every subscription and the thread, waiting for it at most `timeout`. Commands still waiting are not carried
    /// out: a stalled nucleus would keep each for 10 s.
    #[must_use]
    pub fn stop(self, timeout: Duration) -> Stopped {
        self.stopping.store(true, Ordering::Release);
        // When the queue is full the thread sees the flag instead.
        let _ = self.work.try_send(Work::Stop);
        match self.ended.recv_timeout(timeout) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => Stopped::Cleanly,
            Err(RecvTimeoutError::Timeout) => Stopped::TimedOut,
        }
    }
}

fn incoming_sender(events: UnboundedSender<NucleusEvent>, backlog: Arc<Backlog>) -> IncomingSender {
    Arc::new(move |incoming| match incoming {
        Incoming::Message { from, topic, payload } => {
            if backlog.admit(topic.len() + payload.len()) {
                let _ = events.send(NucleusEvent::Message { from, topic, payload });
            }
        }
        Incoming::ConfigurationChanged => {
            if !backlog.configuration_changed.swap(true, Ordering::AcqRel) {
                let _ = events.send(NucleusEvent::ConfigurationChanged);
            }
        }
    })
}

struct Worker {
    nucleus: Box<dyn Nucleus>,
    events: UnboundedSender<NucleusEvent>,
    subscriptions: Vec<SubscriptionId>,
}

impl Worker {
    fn serve(mut self, todo: Receiver<Work>, stop: &AtomicBool) {
        let first = match self.nucleus.thing_name() {
            Ok(core) => NucleusEvent::Ready {
                kind: self.nucleus.kind(),
                core,
            },
            Err(error) => {
                let _ = self.events.send(NucleusEvent::Unavailable(error));
                return;
            }
        };
        // Nobody listening is the same as being told to stop.
        let mut listening = self.events.send(first).is_ok();
        while listening && !stop.load(Ordering::Acquire) {
            let Ok(Work::Command(command)) = todo.recv() else { break };
            if stop.load(Ordering::Acquire) {
                break;
            }
            if let Some(answer) = self.carry_out(command) {
                listening = self.events.send(answer).is_ok();
            }
        }
        // From here on `send` says that the link has ended.
        drop(todo);
        for id in std::mem::take(&mut self.subscriptions) {
            self.nucleus.unsubscribe(id);
        }
    }

    fn carry_out(&mut self, command: Command) -> Option<NucleusEvent> {
        let name = |shadow: &Option<ShadowName>| shadow.as_ref().map(|name| name.as_str().to_owned());
        Some(match command {
            Command::Publish {
                token,
                to,
                topic,
                payload,
            } => NucleusEvent::Published {
                token,
                result: self.nucleus.publish(to, &topic, &payload),
            },
            Command::Subscribe { token, from, filter } => {
                let result = self.nucleus.subscribe(from, &filter);
                self.subscriptions.extend(result.as_ref().ok());
                NucleusEvent::Subscribed { token, result }
            }
            Command::Unsubscribe(id) => {
                self.subscriptions.retain(|known| *known != id);
                self.nucleus.unsubscribe(id);
                return None;
            }
            Command::Configuration => NucleusEvent::Configuration(self.nucleus.configuration()),
            Command::WatchConfiguration => NucleusEvent::ConfigurationWatched(self.nucleus.watch_configuration()),
            Command::UpdateState(state) => NucleusEvent::StateUpdated(self.nucleus.update_state(state)),
            Command::ThingShadow { token, thing, shadow } => {
                let result = self.nucleus.thing_shadow(&thing, name(&shadow).as_deref());
                NucleusEvent::Shadow { token, result }
            }
            Command::UpdateThingShadow {
                token,
                thing,
                shadow,
                document,
            } => {
                let result = self
                    .nucleus
                    .update_thing_shadow(&thing, name(&shadow).as_deref(), &document);
                NucleusEvent::ShadowUpdated { token, result }
            }
            Command::WriteDesired {
                token,
                thing,
                shadow,
                desired,
            } => {
                let result = self.nucleus.write_desired(&thing, name(&shadow).as_deref(), &desired);
                NucleusEvent::DesiredWritten { token, result }
            }
        })
    }
}

#[cfg(test)]
mod tests;
