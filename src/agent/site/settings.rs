//! The keys of the configuration that concern the site.

use std::collections::BTreeSet;

use crate::config::{self, AutoOr, Config, InterfaceName, LeaseFile, UnknownDevices};
use crate::devices::ConfiguredDevice;
use crate::firewall::TableOwnership;

/// The keys, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) lan: AutoOr<Vec<InterfaceName>>,
    pub(super) devices: Vec<ConfiguredDevice>,
    pub(super) leases: Vec<LeaseFile>,
    pub(super) registration: bool,
    pub(super) unknown_devices: UnknownDevices,
    pub(super) broker_ports: BTreeSet<u16>,
    pub(super) ownership: TableOwnership,
}

impl Settings {
    pub(super) fn of(config: &Config) -> Self {
        let device = |device: &crate::config::Device| ConfiguredDevice {
            thing: device.thing_name.clone(),
            macs: device.macs.clone(),
            addresses: device.addresses.clone(),
            report: device.report,
        };
        Self {
            lan: config.lan.interfaces.clone(),
            devices: config.devices.iter().map(device).collect(),
            leases: config.discovery.leases.clone(),
            registration: config.discovery.registration,
            unknown_devices: config.discovery.unknown_devices,
            ownership: match config.quarantine.table_ownership {
                config::TableOwnership::Auto => TableOwnership::Auto,
                config::TableOwnership::Off => TableOwnership::Off,
            },
            broker_ports: config.quarantine.broker_ports.iter().map(|port| port.get()).collect(),
        }
    }

    /// Whether there can be anything to see on a LAN.
    pub(super) fn possible(&self) -> bool {
        let anyone = !self.devices.is_empty()
            || !self.leases.is_empty()
            || self.registration
            || self.unknown_devices != UnknownDevices::Ignore;
        anyone && self.lan != AutoOr::Is(Vec::new())
    }
}
