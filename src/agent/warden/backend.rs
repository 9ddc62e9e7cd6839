//! What carries the rules out: nftables, nothing on purpose, or nothing for lack of a kernel that would.

use crate::config::{Config, Enforcement as ConfiguredEnforcement, TableOwnership as ConfiguredOwnership};
use crate::firewall::{Firewall, NftablesFirewall, ObserveOnly, TableOwnership};
use crate::quarantine::Enforcement;

use super::{Warden, chain, policy};

pub(super) enum Backend {
    Nftables(Box<NftablesFirewall>),
    Observe(ObserveOnly),
    /// The kernel would not even open a socket; why.
    None(String),
}

/// As configured.
pub(super) fn open(config: &Config) -> (Backend, Enforcement) {
    if config.quarantine.enforcement == ConfiguredEnforcement::Observe {
        return (Backend::Observe(ObserveOnly), Enforcement::Observe);
    }
    let ownership = match config.quarantine.table_ownership {
        ConfiguredOwnership::Auto => TableOwnership::Auto,
        ConfiguredOwnership::Off => TableOwnership::Off,
    };
    let backend = match NftablesFirewall::open(ownership) {
        Ok(firewall) => Backend::Nftables(Box::new(firewall)),
        Err(error) => Backend::None(chain(&error)),
    };
    (backend, Enforcement::Enforce)
}

impl Warden {
    /// Change over to another backend, if the configuration asks for another.
    pub(super) fn use_backend(&mut self, config: &Config) {
        let wanted = policy::enforcement(config);
        if wanted == self.enforcement && !matches!(self.backend, Backend::None(_)) {
            return;
        }
        if let Backend::Nftables(firewall) = &mut self.backend
            && let Err(error) = firewall.purge()
        {
            tracing::error!(error = chain(&error), "the rules cannot be removed");
        }
        (self.backend, self.enforcement) = open(config);
    }

    /// The netlink port of our own changes, for the watch.
    pub(in crate::agent) fn port(&self) -> Option<u32> {
        match &self.backend {
            Backend::Nftables(firewall) => Some(firewall.port()),
            Backend::Observe(_) | Backend::None(_) => None,
        }
    }
}
