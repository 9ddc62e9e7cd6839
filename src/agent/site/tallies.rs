//! Beginnings and ends of flows, tallied per thing on a thread of their own: they come faster than a loop should turn.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::collect::conntrack::{Connections, FlowEvent, FlowEvents, ThingConnections};
use crate::devices::IdentityTable;
use crate::model::{Measured, Missing, Reason, ThingName};

/// Bytes the kernel may hold back for us: some 8,000 flows.
const BUFFER: usize = 8 << 20;
/// Datagrams read between two looks at who waits for the tallies.
const AT_A_TIME: usize = 64;
/// How long the thread sleeps before it looks whether it is still wanted.
const NAP: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// What flows did since each thing's last report. Shared with the thread that counts.
#[derive(Debug, Default)]
pub struct FlowTallies {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    events: Connections,
    identities: Arc<IdentityTable>,
    /// How often events were lost so far.
    lost: u64,
    /// Losses that had happened when the counts of a thing began.
    lost_before: BTreeMap<ThingName, u64>,
}

impl FlowTallies {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Counts stay good whatever panicked while they were held.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who is who from now on; things that are gone are forgotten.
    pub(super) fn set_identities(&self, identities: Arc<IdentityTable>) {
        let mut inner = self.inner();
        inner.events.retain(|thing| identities.get(thing).is_some());
        inner.lost_before.retain(|thing, _| identities.get(thing).is_some());
        inner.identities = identities;
    }

    /// What a thing did since its last report, and whether that is a lower bound because events were lost.
    pub(super) fn of(&self, thing: &ThingName) -> (Option<ThingConnections>, bool) {
        let inner = self.inner();
        let before = inner.lost_before.get(thing).copied().unwrap_or_default();
        (inner.events.of(thing).cloned(), inner.lost > before)
    }

    /// A report of the thing was made: its counts start over.
    pub(super) fn reported(&self, thing: &ThingName) {
        let mut inner = self.inner();
        inner.events.take(thing);
        let lost = inner.lost;
        inner.lost_before.insert(thing.clone(), lost);
    }

    /// How often events were lost since the start.
    pub(super) fn lost(&self) -> u64 {
        self.inner().lost
    }

    /// Counts one event.
    #[cfg(test)]
    pub(super) fn note(&self, event: &FlowEvent) {
        self.inner().note(event);
    }
}

impl Inner {
    fn note(&mut self, event: &FlowEvent) {
        let identities = Arc::clone(&self.identities);
        self.events.add_event(event, |address| identities.thing_of_ip(address));
    }
}

/// The thread that counts; it ends within a second after this is dropped.
#[derive(Debug)]
pub(super) struct FlowCounter {
    stop: Arc<AtomicBool>,
    failed: Arc<Mutex<Option<Missing>>>,
}

impl FlowCounter {
    /// Subscribes in the calling thread's network namespace and starts counting.
    pub(super) fn start(tallies: Arc<FlowTallies>) -> Measured<Self> {
        let mut events = FlowEvents::open(BUFFER)?;
        let stop = Arc::new(AtomicBool::new(false));
        let failed = Arc::new(Mutex::new(None));
        let (stopped, failure) = (Arc::clone(&stop), Arc::clone(&failed));
        let run = move || {
            while !stopped.load(Ordering::Acquire) {
                if let Err(error) = count(&mut events, &tallies) {
                    let missing = Missing::from_io("ctnetlink events", &error);
                    *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(missing);
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("flow-events".to_owned())
            .spawn(run)
            .map_err(|error| Missing::new("ctnetlink events", Reason::Denied, error.to_string()))?;
        Ok(Self { stop, failed })
    }

    /// Whether it still counts.
    pub(super) fn state(&self) -> Measured<()> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.clone().map_or(Ok(()), Err)
    }
}

impl Drop for FlowCounter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

fn count(events: &mut FlowEvents, tallies: &FlowTallies) -> std::io::Result<()> {
    let mut ready = [PollFd::from_borrowed_fd(events.as_fd(), PollFlags::IN)];
    match poll(&mut ready, Some(&NAP)) {
        Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(()),
        Ok(_) => {}
        Err(error) => return Err(error.into()),
    }
    let mut inner = tallies.inner();
    let drained = events.drain(AT_A_TIME, |event| inner.note(event))?;
    if drained.lost {
        inner.lost += 1;
    }
    drop(inner);
    if drained.more {
        // A flood must not keep the one who reports from the lock.
        std::thread::sleep(Duration::from_micros(50));
    }
    Ok(())
}
