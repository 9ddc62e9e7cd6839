//! From what the host's collector saw to the core's reading.

use std::collections::BTreeMap;

use crate::collect::{HostCollector, HostSample, InterfaceSelection};
use crate::model::{Counters, Measured, ThingReading};
use crate::report::{Ledger, LedgerState};

/// Where samples of the host come from; tests put a host of their own here.
pub trait HostSource: Send {
    /// Measure everything once. What cannot be measured says so in the sample.
    fn collect(&mut self) -> HostSample;
}

impl HostSource for HostCollector {
    fn collect(&mut self) -> HostSample {
        HostCollector::collect(self)
    }
}

/// Keeps the running totals of the host's counted interfaces.
#[derive(Debug)]
pub struct HostMeter {
    selection: InterfaceSelection,
    ledger: Ledger,
}

impl HostMeter {
    /// Count from the first sample on.
    #[must_use]
    pub fn new(selection: InterfaceSelection) -> Self {
        Self {
            selection,
            ledger: Ledger::new(),
        }
    }

    /// Go on from totals saved earlier, if that was in this boot; kernel counters start over with the next.
    #[must_use]
    pub fn resuming(selection: InterfaceSelection, saved: Option<LedgerState>, boot_id: &str) -> Self {
        let ledger = saved
            .and_then(|state| Ledger::resume(state, boot_id))
            .unwrap_or_default();
        Self { selection, ledger }
    }

    /// Count other interfaces from now on; what was counted stays.
    pub fn select(&mut self, selection: InterfaceSelection) {
        if self.selection != selection {
            self.selection = selection;
            self.ledger.rebase();
        }
    }

    /// The core's reading of this sample.
    pub fn read(&mut self, sample: &HostSample) -> ThingReading {
        let traffic: Measured<Counters> = sample.counters(&self.selection).map(|raw| self.ledger.observe(&raw));
        ThingReading {
            traffic,
            established: sample.established(),
            established_unlisted: 0,
            listening_tcp: sample.listening_tcp(),
            listening_udp: sample.listening_udp(),
            custom: BTreeMap::new(),
        }
    }

    /// What to save so that a restart within this boot loses no traffic; `None` before the first sample.
    #[must_use]
    pub fn state(&self, boot_id: &str) -> Option<LedgerState> {
        self.ledger.state(boot_id)
    }
}
