//! The kernel's notifications about our tables and the links they hang on: one watch, and every part of the agent that
//! keeps a table hears of what it tells.

use std::io;
use std::os::fd::AsFd;

use super::site::watches::Watched;
use crate::firewall::{Change, LinkWatch, NetlinkError, Noticed, Watch};
use crate::model::{Measured, Missing, Reason};

/// Watches our nftables tables and the host's links. One that cannot be had leaves what its owners do regularly.
pub(super) struct RuleWatches {
    tables: Watched<Watch>,
    links: Watched<LinkWatch>,
}

impl RuleWatches {
    /// Watches in the network namespace of the calling thread, inside the runtime.
    pub(super) fn open() -> Self {
        let tables = watched("netlink group NFNLGRP_NFTABLES", Watch::open([]));
        let links = watched("netlink group RTNLGRP_LINK", LinkWatch::open());
        Self {
            tables: or_none(tables),
            links: or_none(links),
        }
    }

    /// The port ids of everything of ours that changes our tables, so that only foreign changes are told.
    pub(super) fn set_own_ports(&mut self, ports: impl IntoIterator<Item = u32>) {
        if let Some(watch) = self.tables.inner() {
            watch.set_own_ports(ports);
        }
    }

    /// The next changes; never empty. Cancel safe.
    pub(super) async fn changes(&mut self) -> Vec<Change> {
        loop {
            let (read, source) = tokio::select! {
                read = self.tables.next(|watch| settled(watch.read())) => (read, "our tables"),
                read = self.links.next(|watch| settled(watch.read())) => (read, "links"),
            };
            match read {
                Ok(changes) if changes.is_empty() => {}
                Ok(changes) => return changes,
                Err(error) => {
                    tracing::warn!(%error, "the watch over {source} failed; changes are noticed late");
                    if source == "links" {
                        self.links = Watched::none();
                    } else {
                        self.tables = Watched::none();
                    }
                    return vec![Change::CompareAll];
                }
            }
        }
    }
}

fn watched<T: AsFd>(source: &str, opened: Result<T, NetlinkError>) -> Measured<Watched<T>> {
    let failed = |error: NetlinkError| Missing::new(source, Reason::Denied, super::files::chain(&error));
    Watched::new(source, opened.map_err(failed)?)
}

fn or_none<T: AsFd>(watched: Measured<Watched<T>>) -> Watched<T> {
    watched.unwrap_or_else(|missing| {
        tracing::warn!("changes by others are noticed late: {missing}");
        Watched::none()
    })
}

/// The changes, and whether everything was read.
fn settled(read: io::Result<Noticed>) -> (io::Result<Vec<Change>>, bool) {
    match read {
        Ok(noticed) => (Ok(noticed.changes), !noticed.more),
        Err(error) => (Err(error), true),
    }
}
