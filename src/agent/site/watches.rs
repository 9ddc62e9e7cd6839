//! What the kernel tells the loop unasked, read in bounded bites so that a flood cannot keep the loop.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::PathBuf;

use tokio::io::unix::AsyncFd;

use crate::collect::neighbours::{NeighbourEvent, NeighbourWatch};
use crate::devices::leases::LeaseWatch;
use crate::model::{Measured, Missing};

/// Datagrams read at a time.
const BITE: usize = 256;

struct Raw<T>(T);

impl<T: AsFd> AsFd for Raw<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl<T: AsFd> AsRawFd for Raw<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Something readable that may not be there; then nothing is ever ready.
pub(in crate::agent) struct Watched<T: AsFd>(Option<AsyncFd<Raw<T>>>);

impl<T: AsFd> Watched<T> {
    pub(in crate::agent) fn none() -> Self {
        Self(None)
    }

    pub(in crate::agent) fn new(source: &str, inner: T) -> Measured<Self> {
        #[allow(
            deprecated,
            reason = "its successor is unsafe; what that asks for holds here: the descriptor is owned and never exchanged"
        )]
        let watched = AsyncFd::new(Raw(inner)).map_err(|error| Missing::from_io(source, &error))?;
        Ok(Self(Some(watched)))
    }

    pub(in crate::agent) fn is_open(&self) -> bool {
        self.0.is_some()
    }

    /// What is watched, to change how it is read.
    pub(in crate::agent) fn inner(&mut self) -> Option<&mut T> {
        self.0.as_mut().map(|watched| &mut watched.get_mut().0)
    }

    /// Waits until there is something, then reads with `read`, which says whether it read everything. Cancel safe.
    pub(in crate::agent) async fn next<R>(&mut self, read: impl FnOnce(&mut T) -> (R, bool)) -> R {
        let Some(watched) = &mut self.0 else {
            return std::future::pending().await;
        };
        let mut ready = match watched.readable_mut().await {
            Ok(ready) => ready,
            // The runtime is going down.
            Err(_) => return std::future::pending().await,
        };
        let (result, everything) = read(&mut ready.get_inner_mut().0);
        if everything {
            ready.clear_ready();
        }
        result
    }
}

/// News for the site.
#[derive(Debug)]
pub(in crate::agent) enum SiteNews {
    /// Changes of the neighbour tables; `lost`: and others nobody knows.
    Neighbours { events: Vec<NeighbourEvent>, lost: bool },
    /// Lease files that changed.
    Leases(BTreeSet<PathBuf>),
    /// A watch failed and is closed.
    Failed(&'static str, Missing),
}

/// The watches of the site.
pub(in crate::agent) struct SiteWatches {
    neighbours: Watched<NeighbourWatch>,
    leases: Watched<LeaseWatch>,
    files: Vec<PathBuf>,
}

impl SiteWatches {
    pub(in crate::agent) fn none() -> Self {
        Self {
            neighbours: Watched::none(),
            leases: Watched::none(),
            files: Vec::new(),
        }
    }

    /// Opens or closes the watch over neighbours. True when it was opened just now: then the tables must be read.
    pub(in crate::agent) fn keep_neighbours(&mut self, wanted: bool) -> Measured<bool> {
        if !wanted {
            self.neighbours = Watched::none();
        } else if !self.neighbours.is_open() {
            self.neighbours = Watched::new("netlink group RTNLGRP_NEIGH", NeighbourWatch::open()?)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Watches exactly these lease files, anew when `again`; those that cannot be watched, with the reason.
    pub(in crate::agent) fn keep_leases(&mut self, files: &[PathBuf], again: bool) -> Vec<Missing> {
        if self.files == files && !again {
            return Vec::new();
        }
        self.files = files.to_vec();
        self.leases = Watched::none();
        if files.is_empty() {
            return Vec::new();
        }
        let opened =
            LeaseWatch::open(files).and_then(|(watch, unwatched)| Ok((Watched::new("inotify", watch)?, unwatched)));
        match opened {
            Ok((watch, unwatched)) => {
                self.leases = watch;
                unwatched
            }
            Err(missing) => vec![missing],
        }
    }

    /// The next news. Cancel safe.
    pub(in crate::agent) async fn news(&mut self) -> SiteNews {
        tokio::select! {
            news = self.neighbours.next(read_neighbours) => {
                if matches!(news, SiteNews::Failed(..)) {
                    self.neighbours = Watched::none();
                }
                news
            }
            news = self.leases.next(read_leases) => {
                if matches!(news, SiteNews::Failed(..)) {
                    self.leases = Watched::none();
                }
                news
            }
        }
    }
}

fn read_neighbours(watch: &mut NeighbourWatch) -> (SiteNews, bool) {
    let mut events = Vec::new();
    match watch.drain(BITE, |event| events.push(event)) {
        Ok(drained) => (
            SiteNews::Neighbours {
                events,
                lost: drained.lost,
            },
            !drained.more,
        ),
        Err(error) => {
            let missing = Missing::from_io("netlink group RTNLGRP_NEIGH", &error);
            (SiteNews::Failed("neighbour changes", missing), true)
        }
    }
}

fn read_leases(watch: &mut LeaseWatch) -> (SiteNews, bool) {
    match watch.changed() {
        Ok(files) => (SiteNews::Leases(files), true),
        Err(error) => (
            SiteNews::Failed("lease file changes", Missing::from_io("inotify", &error)),
            true,
        ),
    }
}
