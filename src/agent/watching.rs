//! Threads that wait for the kernel's notifications about tables and links.

use tokio::sync::mpsc;

use crate::firewall::{Change, LinkWatch, Watch};

/// Notifications that may wait for the loop; each leads to one comparison of everything.
const CHANGES: usize = 64;

/// Notifications about our tables and the LAN's links, from threads that wait for them. When a watch cannot be opened
/// the regular comparison is what remains.
pub(super) fn watch_tables_and_links(own_port: Option<u32>) -> mpsc::Receiver<Vec<Change>> {
    let (sender, receiver) = mpsc::channel(CHANGES);
    let tables = Watch::open(own_port).map(|mut watch| Box::new(move || watch.read()) as Box<dyn ReadChanges>);
    let links = LinkWatch::open().map(|mut watch| Box::new(move || watch.read()) as Box<dyn ReadChanges>);
    for (name, watch) in [("nftables-watch", tables), ("link-watch", links)] {
        let mut read = match watch {
            Ok(read) => read,
            Err(error) => {
                tracing::warn!(%error, "{name}: not to be had; rules are compared every 10 s only");
                continue;
            }
        };
        let sender = sender.clone();
        let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            while let Ok(changes) = read() {
                // a full channel means that a comparison is coming anyway
                if !changes.is_empty() && matches!(sender.try_send(changes), Err(mpsc::error::TrySendError::Closed(_)))
                {
                    return;
                }
            }
            tracing::warn!("{name} ended; rules are compared every 10 s only");
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "{name}: no thread; rules are compared every 10 s only");
        }
    }
    receiver
}

trait ReadChanges: FnMut() -> std::io::Result<Vec<Change>> + Send {}
impl<F: FnMut() -> std::io::Result<Vec<Change>> + Send> ReadChanges for F {}
