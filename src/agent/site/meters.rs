//! Traffic per thing: whose counters are counted, and what they add up to. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::devices::IdentityTable;
use crate::firewall::Traffic;
use crate::model::{Counters, MacAddress, Measured, Missing, Monotonic, Reason, ThingName};
use crate::report::Ledger;

/// Where the numbers come from, for messages.
const SOURCE: &str = "nftables accounting";

/// Bytes per second over the last two samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rates {
    bytes_in_per_second: u64,
    bytes_out_per_second: u64,
}

#[derive(Debug)]
struct Meter {
    ledger: Ledger,
    totals: Counters,
    /// Taken in since the last sample, which may be longer ago than one interval.
    at: Option<Monotonic>,
    rates: Option<Rates>,
    /// One of its MAC addresses is being counted.
    counted: bool,
}

/// Whose a counter is, and which life of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Counted {
    thing: ThingName,
    /// Differs each time the kernel begins to count the address: counters of another life start at zero.
    life: u64,
}

/// The ledgers of all local things.
#[derive(Debug)]
pub(super) struct Meters {
    things: BTreeMap<ThingName, Meter>,
    counted: BTreeMap<MacAddress, Counted>,
    lives: u64,
    state: Measured<()>,
    generation: Option<u64>,
    begun: BTreeSet<ThingName>,
}

impl Meters {
    pub(super) fn new() -> Self {
        Self {
            things: BTreeMap::new(),
            counted: BTreeMap::new(),
            lives: 0,
            state: Err(Missing::new(SOURCE, Reason::NotCollected, "not counted yet")),
            generation: None,
            begun: BTreeSet::new(),
        }
    }

    /// Decides what the next sample counts: every MAC address that is one thing's. To be called once before each sample.
    pub(super) fn count(&mut self, identities: &IdentityTable) -> BTreeSet<MacAddress> {
        let mut counted = BTreeMap::new();
        self.things.values_mut().for_each(|meter| meter.counted = false);
        for identity in identities.things() {
            let own = identity.macs.iter().map(|bound| bound.mac);
            for mac in own.filter(|mac| identities.thing_of_mac(*mac) == Some(&identity.thing)) {
                let thing = identity.thing.clone();
                let before = self.counted.get(&mac);
                let life = before.map_or_else(
                    || {
                        self.lives += 1;
                        self.lives
                    },
                    |before| before.life,
                );
                let meter = self.things.entry(thing.clone()).or_insert_with(|| {
                    self.begun.insert(thing.clone());
                    let mut ledger = Ledger::new();
                    // The kernel begins to count at zero, so that everything counted is this thing's.
                    ledger.observe(&BTreeMap::new());
                    Meter {
                        ledger,
                        totals: Counters::default(),
                        at: None,
                        rates: None,
                        counted: false,
                    }
                });
                meter.counted = true;
                if before.is_some_and(|before| before.thing != thing) {
                    // What was counted so far was another thing's.
                    meter.ledger.rebase();
                }
                counted.insert(mac, Counted { thing, life });
            }
        }
        self.things.retain(|thing, _| identities.get(thing).is_some());
        self.counted = counted;
        self.counted.keys().copied().collect()
    }

    /// Takes in what was counted for the addresses of the last [`Meters::count`].
    pub(super) fn observe(&mut self, traffic: &Measured<Traffic>, now: Monotonic) {
        let traffic = match traffic {
            Ok(traffic) => traffic,
            Err(missing) => {
                self.state = Err(missing.clone());
                self.things.values_mut().for_each(|meter| meter.rates = None);
                return;
            }
        };
        self.state = Ok(());
        self.generation = Some(traffic.generation);
        let mut raw: BTreeMap<&ThingName, BTreeMap<String, Counters>> =
            self.things.keys().map(|thing| (thing, BTreeMap::new())).collect();
        for (mac, counted) in &self.counted {
            // Not in the answer means that the kernel lost the element: nothing is known, which is not zero.
            if let (Some(counters), Some(of)) = (traffic.devices.get(mac), raw.get_mut(&counted.thing)) {
                let key = format!("{mac}#{}.{}", traffic.generation, counted.life);
                of.insert(key, *counters);
            }
        }
        let raw: Vec<(ThingName, BTreeMap<String, Counters>)> =
            raw.into_iter().map(|(thing, raw)| (thing.clone(), raw)).collect();
        for (thing, raw) in raw {
            let Some(meter) = self.things.get_mut(&thing) else {
                continue;
            };
            let before = meter.totals;
            meter.totals = meter.ledger.observe(&raw);
            let passed = meter
                .at
                .map(|at| now.since(at).as_millis())
                .filter(|millis| *millis > 0);
            meter.rates = passed.and_then(|millis| {
                let added = meter.totals.since(before)?;
                let rate = |bytes: u64| u64::try_from(u128::from(bytes) * 1000 / millis).unwrap_or(u64::MAX);
                Some(Rates {
                    bytes_in_per_second: rate(added.bytes_in),
                    bytes_out_per_second: rate(added.bytes_out),
                })
            });
            meter.at = Some(now);
        }
    }

    /// A thing's totals since its meter began.
    pub(super) fn of(&self, thing: &ThingName) -> Measured<Counters> {
        self.state.clone()?;
        match self
            .things
            .get(thing)
            .filter(|meter| meter.counted && meter.at.is_some())
        {
            Some(meter) => Ok(meter.totals),
            None => Err(Missing::new(
                SOURCE,
                Reason::NotCollected,
                "no MAC address of it is known yet",
            )),
        }
    }

    pub(super) fn rates(&self, thing: &ThingName) -> Option<Rates> {
        self.things.get(thing)?.rates
    }

    /// Why nothing is counted, if so.
    pub(super) fn state(&self) -> Measured<()> {
        self.state.clone()
    }

    /// Which life of the kernel's counters was read last: one more each time they started over.
    pub(super) fn generation(&self) -> Option<u64> {
        self.generation
    }

    /// Things whose meter began since the last call.
    pub(super) fn take_begun(&mut self) -> BTreeSet<ThingName> {
        std::mem::take(&mut self.begun)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::devices::{ConfiguredDevice, Observation, Registry};
    use crate::model::{Now, UnixTime};

    const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
    const OTHER: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);

    fn at(seconds: u64) -> Monotonic {
        Monotonic(Duration::from_secs(seconds))
    }

    fn table(devices: &[(&str, &[MacAddress])]) -> Registry {
        let mut registry = Registry::new();
        let now = Now {
            wall: UnixTime(1),
            monotonic: at(1),
        };
        let devices = devices
            .iter()
            .map(|(thing, macs)| ConfiguredDevice {
                thing: thing.parse().unwrap(),
                macs: macs.to_vec(),
                addresses: Vec::new(),
                report: true,
            })
            .collect();
        registry.observe(Observation::Configured(devices), now);
        registry.resolve(now);
        registry
    }

    fn traffic(generation: u64, devices: &[(MacAddress, u64)]) -> Measured<Traffic> {
        let counters = |packets| Counters {
            bytes_in: packets * 100,
            packets_in: packets,
            ..Counters::default()
        };
        Ok(Traffic {
            devices: devices
                .iter()
                .map(|(mac, packets)| (*mac, counters(*packets)))
                .collect(),
            generation,
            ..Traffic::default()
        })
    }

    fn packets(meters: &Meters, thing: &str) -> Option<u64> {
        meters.of(&thing.parse().unwrap()).ok().map(|totals| totals.packets_in)
    }

    #[test]
    fn everything_since_the_kernel_began_to_count_is_the_things() {
        let registry = table(&[("cam", &[MAC])]);
        let mut meters = Meters::new();
        assert_eq!(meters.count(registry.table()), [MAC].into());
        assert_eq!(meters.take_begun().len(), 1);
        assert_eq!(
            packets(&meters, "cam"),
            None,
            "nothing is known before the first sample"
        );
        meters.observe(&traffic(1, &[(MAC, 3)]), at(10));
        assert_eq!(packets(&meters, "cam"), Some(3));
        meters.count(registry.table());
        meters.observe(&traffic(1, &[(MAC, 13)]), at(20));
        assert_eq!(packets(&meters, "cam"), Some(13));
        let rates = meters.rates(&"cam".parse().unwrap()).unwrap();
        assert_eq!((rates.bytes_in_per_second, rates.bytes_out_per_second), (100, 0));
        // The table was rebuilt: counters start over and nothing is lost or doubled.
        meters.count(registry.table());
        meters.observe(&traffic(2, &[(MAC, 20)]), at(30));
        assert_eq!(packets(&meters, "cam"), Some(33));
        assert!(meters.take_begun().is_empty());
    }

    #[test]
    fn without_accounting_traffic_is_missing_and_goes_on_afterwards() {
        let registry = table(&[("cam", &[MAC])]);
        let mut meters = Meters::new();
        meters.count(registry.table());
        meters.observe(&traffic(1, &[(MAC, 3)]), at(10));
        meters.observe(&Err(Missing::new("x", Reason::Denied, "no")), at(20));
        assert_eq!(packets(&meters, "cam"), None);
        assert_eq!(meters.state().unwrap_err().reason, Reason::Denied);
        meters.observe(&traffic(1, &[(MAC, 9)]), at(30));
        assert_eq!(packets(&meters, "cam"), Some(9));
    }

    #[test]
    fn an_address_that_changes_hands_takes_no_traffic_with_it() {
        let mut meters = Meters::new();
        meters.count(table(&[("cam", &[MAC]), ("plug", &[])]).table());
        meters.observe(&traffic(1, &[(MAC, 50)]), at(10));
        assert_eq!(
            packets(&meters, "plug"),
            None,
            "a thing without a device has no traffic, not zero"
        );
        meters.count(table(&[("cam", &[]), ("plug", &[MAC])]).table());
        meters.observe(&traffic(1, &[(MAC, 60)]), at(20));
        assert_eq!(packets(&meters, "plug"), Some(0));
        assert_eq!(packets(&meters, "cam"), None);
        meters.count(table(&[("plug", &[MAC, OTHER])]).table());
        meters.observe(&traffic(1, &[(MAC, 61), (OTHER, 5)]), at(30));
        assert_eq!(
            packets(&meters, "plug"),
            Some(6),
            "a second MAC address counts from its beginning"
        );
    }

    #[test]
    fn an_address_counted_anew_starts_at_zero() {
        let (with, without) = (table(&[("cam", &[MAC, OTHER])]), table(&[("cam", &[OTHER])]));
        let mut meters = Meters::new();
        meters.count(with.table());
        meters.observe(&traffic(1, &[(MAC, 50), (OTHER, 0)]), at(10));
        meters.count(without.table());
        meters.observe(&traffic(1, &[(OTHER, 0)]), at(20));
        meters.count(with.table());
        meters.observe(&traffic(1, &[(MAC, 60), (OTHER, 0)]), at(30));
        assert_eq!(packets(&meters, "cam"), Some(110));
    }
}
