//! Closes the gateway's own sockets with devices just cut off, beside the loop: it walks kernel tables.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// One worker at the most: what comes while it is busy waits as one set of addresses, however many are cut off.
pub(super) struct Severing {
    work: fn(&BTreeSet<IpAddr>),
    queue: Arc<Mutex<Queue>>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: BTreeSet<IpAddr>,
    working: bool,
}

impl Default for Severing {
    fn default() -> Self {
        Self::doing(sever)
    }
}

impl Severing {
    fn doing(work: fn(&BTreeSet<IpAddr>)) -> Self {
        Self {
            work,
            queue: Arc::default(),
        }
    }

    /// Close what the gateway has open with these addresses, soon.
    pub(super) fn begin(&self, addresses: BTreeSet<IpAddr>) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.waiting.extend(addresses);
        if queue.working || queue.waiting.is_empty() {
            return;
        }
        let (shared, work) = (Arc::clone(&self.queue), self.work);
        let worker = std::thread::Builder::new().name("sever".to_owned());
        match worker.spawn(move || Self::run(&shared, work)) {
            Ok(_) => queue.working = true,
            // they wait for the next call
            Err(error) => tracing::warn!(%error, "no thread to close the gateway's connections with"),
        }
    }

    fn run(queue: &Mutex<Queue>, work: fn(&BTreeSet<IpAddr>)) {
        loop {
            let addresses = {
                let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
                queue.working = !queue.waiting.is_empty();
                std::mem::take(&mut queue.waiting)
            };
            if addresses.is_empty() {
                return;
            }
            work(&addresses);
        }
    }
}

fn sever(addresses: &BTreeSet<IpAddr>) {
    match crate::firewall::sever(addresses) {
        Ok(severed) => tracing::info!(
            sockets = severed.sockets,
            flows = severed.flows,
            unsupported = ?severed.unsupported,
            "the gateway's own connections with the device are closed"
        ),
        Err(error) => {
            tracing::warn!(%error, "the gateway's own connections with the device stay open until they time out");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Condvar;

    use super::*;

    /// Whether the work may go on, the batches done, and how many were worked on at once at the most.
    #[derive(Default)]
    struct Watched {
        open: bool,
        at_once: usize,
        most_at_once: usize,
        batches: Vec<BTreeSet<IpAddr>>,
    }

    static WATCHED: (Mutex<Option<Watched>>, Condvar) = (Mutex::new(None), Condvar::new());

    fn watch<T>(change: impl FnOnce(&mut Watched) -> T) -> T {
        let (watched, changed) = &WATCHED;
        let result = change(watched.lock().unwrap().get_or_insert_default());
        changed.notify_all();
        result
    }

    fn until(holds: impl Fn(&Watched) -> bool) {
        let (watched, changed) = &WATCHED;
        let watched = watched.lock().unwrap();
        let waited = changed.wait_while(watched, |watched| !watched.as_ref().is_some_and(&holds));
        drop(waited.unwrap());
    }

    fn slow(addresses: &BTreeSet<IpAddr>) {
        watch(|watched| {
            watched.at_once += 1;
            watched.most_at_once = watched.most_at_once.max(watched.at_once);
        });
        until(|watched| watched.open);
        watch(|watched| {
            watched.at_once -= 1;
            watched.batches.push(addresses.clone());
        });
    }

    #[test]
    fn however_many_batches_there_is_one_worker_and_nothing_is_forgotten() {
        let severing = Severing::doing(slow);
        let address = |n: u16| {
            let [high, low] = n.to_be_bytes();
            IpAddr::from([10, 0, high, low])
        };
        severing.begin([address(0)].into());
        until(|watched| watched.at_once == 1);
        for n in 1..1000 {
            severing.begin([address(n), address(n % 7)].into());
        }
        watch(|watched| watched.open = true);
        until(|watched| watched.batches.len() == 2);
        // the worker is gone or about to: either way the next one is done
        severing.begin([address(1000)].into());
        until(|watched| watched.batches.len() == 3);
        watch(|watched| {
            assert_eq!(watched.most_at_once, 1);
            let all: BTreeSet<IpAddr> = watched.batches.iter().flatten().copied().collect();
            assert_eq!(all, (0..=1000).map(address).collect());
        });
    }
}
