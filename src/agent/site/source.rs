//! Measuring the site: blocking, so it runs off the loop. The loop says what is wanted, pure code makes sense of it.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::lan::{self, LanView};
use super::tallies::{FlowCounter, FlowTallies};
use crate::collect::HostSample;
use crate::collect::conntrack::{self, Connections, Usage};
use crate::collect::neighbours::{self, BridgeEntry, Neighbour};
use crate::config::{self, AutoOr, InterfaceName};
use crate::devices::IdentityTable;
use crate::devices::leases::{self, LeaseFile, LeaseFormat, LeaseRule};
use crate::firewall::{Accounting, AccountingLan, FirewallError, NftablesAccounting, TableOwnership, Traffic};
use crate::model::{MacAddress, Measured, Missing, Reason, ThingName};

/// Bridge entries taken at a time: a flooded forwarding table must not cost memory without end.
const MOST_BRIDGE_ENTRIES: usize = 16_384;

/// What one look at the site is to bring.
#[derive(Debug, Clone)]
pub struct SiteAsk {
    /// Which interfaces are the LAN.
    pub lan: AutoOr<Vec<InterfaceName>>,
    /// MAC addresses to count from now on; none: do not count, and watch no flows.
    pub macs: BTreeSet<MacAddress>,
    /// Whether the kernel is to guard our tables from other programs.
    pub ownership: TableOwnership,
    /// Somebody touched the accounting table: make it anew.
    pub distrust: bool,
    /// Read the neighbour tables.
    pub neighbours: bool,
    /// Read the table of flows, for these identities.
    pub flows: Option<Arc<IdentityTable>>,
    /// Lease files to read.
    pub leases: Vec<config::LeaseFile>,
}

/// What it brought. What was not asked for is `None` or not collected.
#[derive(Debug)]
pub struct SiteSample {
    /// The LAN.
    pub lan: Measured<LanView>,
    /// Neighbours and bridge ports.
    pub neighbours: Option<NeighbourTables>,
    /// Lease files by path.
    pub leases: Vec<(PathBuf, Measured<LeaseFile>)>,
    /// Raw counters.
    pub traffic: Measured<Traffic>,
    /// Whether connection tracking is held on by a rule of ours.
    pub tracking: Measured<()>,
    /// The flows in the table, by thing.
    pub flows: Option<Measured<FlowTable>>,
    /// How full the table of flows is.
    pub usage: Measured<Usage>,
    /// Whether beginnings and ends of flows are counted.
    pub events: Measured<()>,
}

/// The neighbour tables.
#[derive(Debug, Default)]
pub struct NeighbourTables {
    /// IP addresses.
    pub neighbours: Option<Vec<Neighbour>>,
    /// MAC addresses on bridge ports.
    pub ports: Vec<BridgeEntry>,
    /// What could not be read, or not in full.
    pub missing: Vec<Missing>,
}

/// The table of flows.
#[derive(Debug, Default)]
pub struct FlowTable {
    /// What each thing does.
    pub connections: Connections,
    /// Why the second-best source was read, if so.
    pub fallback: Option<Missing>,
}

/// Where looks at the site come from; tests put a site of their own here.
pub trait SiteSource: Send {
    /// Looks once. What cannot be measured says so in the sample.
    fn collect(&mut self, host: &HostSample, ask: &SiteAsk) -> SiteSample;

    /// The port id under which the kernel reports our own changes of the accounting table.
    fn own_port(&self) -> Option<u32>;

    /// What flows did; filled while macs are asked for.
    fn tallies(&self) -> Arc<FlowTallies>;
}

/// The site as this kernel shows it.
#[derive(Debug)]
pub struct KernelSite {
    proc_root: PathBuf,
    accounting: Result<NftablesAccounting, Missing>,
    /// Links the accounting table was made for, with their indexes.
    links: BTreeSet<String>,
    counting: bool,
    counter: Option<FlowCounter>,
    tallies: Arc<FlowTallies>,
}

impl KernelSite {
    /// Changes nothing yet. Flows fall back to procfs below `proc_root`.
    #[must_use]
    pub fn new(proc_root: impl Into<PathBuf>) -> Self {
        Self {
            proc_root: proc_root.into(),
            accounting: NftablesAccounting::open(AccountingLan::default()).map_err(|error| missing(&error)),
            links: BTreeSet::new(),
            counting: false,
            counter: None,
            tallies: Arc::default(),
        }
    }

    fn count(&mut self, lan: &LanView, ask: &SiteAsk) -> (Measured<Traffic>, Measured<()>) {
        let not_counted = || Missing::new("nftables accounting", Reason::NotCollected, "no local thing is known");
        let accounting = match &mut self.accounting {
            Ok(accounting) => accounting,
            Err(missing) => return (Err(missing.clone()), Err(missing.clone())),
        };
        if ask.macs.is_empty() || lan.is_empty() {
            if self.counting {
                self.counting = false;
                if let Err(error) = accounting.purge() {
                    return (Err(missing(&error)), Err(missing(&error)));
                }
            }
            return (Err(not_counted()), Err(not_counted()));
        }
        self.counting = true;
        accounting.guard(ask.ownership);
        accounting.move_to(AccountingLan {
            bridges: lan.bridges.clone(),
            interfaces: lan.interfaces.clone(),
        });
        if ask.distrust || self.links != lan.keys {
            accounting.distrust();
            self.links.clone_from(&lan.keys);
        }
        let tracking = accounting.track_connections().map_err(|error| missing(&error));
        let mut read = || {
            accounting.track(&ask.macs)?;
            accounting.read()
        };
        let traffic = read().map_err(|error| missing(&error));
        if traffic.is_err() {
            // The next sample makes the table anew.
            accounting.distrust();
        }
        (traffic, tracking)
    }

    fn watch_flows(&mut self, wanted: bool) -> Measured<()> {
        if !wanted {
            self.counter = None;
            return Err(Missing::new(
                "ctnetlink events",
                Reason::NotCollected,
                "no local thing is known",
            ));
        }
        match &self.counter {
            Some(counter) => counter.state().inspect_err(|_| self.counter = None),
            None => {
                self.counter = Some(FlowCounter::start(Arc::clone(&self.tallies))?);
                Ok(())
            }
        }
    }

    fn flows(&self, identities: &IdentityTable) -> Measured<FlowTable> {
        let mut found = FlowTable::default();
        let by_netlink = conntrack::table(|flow| found.connections.add(flow, |ip| identities.thing_of_ip(ip)));
        let Err(instead_of) = by_netlink else {
            return Ok(found);
        };
        let mut found = FlowTable::default();
        let by_proc = conntrack::proc_table(&self.proc_root, |flow| {
            found.connections.add(flow, |ip| identities.thing_of_ip(ip));
        });
        match by_proc {
            Ok(_) => {
                found.fallback = Some(instead_of);
                Ok(found)
            }
            Err(_) => Err(instead_of),
        }
    }
}

impl SiteSource for KernelSite {
    fn collect(&mut self, host: &HostSample, ask: &SiteAsk) -> SiteSample {
        let lan = lan::find(host, &ask.lan);
        let none = LanView::default();
        let here = lan.as_ref().unwrap_or(&none);
        let local = !here.is_empty() && !ask.macs.is_empty();
        let (traffic, tracking) = self.count(here, ask);
        let events = self.watch_flows(local);
        let flows = ask.flows.as_deref().filter(|_| local).map(|table| self.flows(table));
        SiteSample {
            neighbours: (ask.neighbours && !here.is_empty()).then(|| neighbour_tables(&self.proc_root)),
            leases: ask
                .leases
                .iter()
                .map(|file| (file.path.clone(), lease_file(file)))
                .collect(),
            traffic,
            tracking,
            flows,
            usage: conntrack::usage(&self.proc_root),
            events,
            lan,
        }
    }

    fn own_port(&self) -> Option<u32> {
        self.accounting.as_ref().ok().map(NftablesAccounting::port)
    }

    fn tallies(&self) -> Arc<FlowTallies> {
        Arc::clone(&self.tallies)
    }
}

fn neighbour_tables(proc_root: &Path) -> NeighbourTables {
    let mut tables = NeighbourTables::default();
    match neighbours::dump() {
        Ok(found) => tables.neighbours = Some(found),
        Err(missing) => {
            tables.missing.push(missing);
            // IPv4 alone, and not how fresh, is better than nobody.
            tables.neighbours = neighbours::read_arp(proc_root).ok().map(|table| table.neighbours);
        }
    }
    let mut more = 0_u64;
    let visited = neighbours::visit_bridge_entries(|entry| {
        if tables.ports.len() < MOST_BRIDGE_ENTRIES {
            tables.ports.push(entry);
        } else {
            more += 1;
        }
    });
    tables.missing.extend(visited.err());
    if more > 0 {
        let detail = format!("{more} entries past the first {MOST_BRIDGE_ENTRIES} were passed over");
        tables
            .missing
            .push(Missing::new("bridge forwarding table", Reason::NotCollected, detail));
    }
    tables
}

/// Reads one lease file; an absent one has no leases and says that it is absent.
fn lease_file(file: &config::LeaseFile) -> Measured<LeaseFile> {
    let bytes = leases::read(&file.path)?;
    let format = match file.format {
        config::LeaseFormat::Dnsmasq => LeaseFormat::Dnsmasq,
    };
    // A template without a hostname names one thing, whatever the device calls itself.
    let fixed: Option<ThingName> = file.thing_name.fixed();
    let rule: LeaseRule = file.thing_name.to_string().parse().unwrap_or_default();
    let mut found = leases::parse(format, &bytes, &rule);
    if fixed.is_some() {
        found.leases.iter_mut().for_each(|lease| lease.thing.clone_from(&fixed));
    }
    Ok(found)
}

fn missing(error: &FirewallError) -> Missing {
    let mut words = error.to_string();
    let mut reason = Reason::Malformed;
    let mut cause: Option<&dyn Error> = error.source();
    while let Some(step) = cause {
        words = format!("{words}: {step}");
        if let Some(io) = step.downcast_ref::<std::io::Error>() {
            reason = Missing::from_io("", io).reason;
        }
        cause = step.source();
    }
    if let FirewallError::Kernel { source, .. } = error {
        match source.refusal() {
            Some(libc::EPERM | libc::EACCES) => reason = Reason::Denied,
            Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT) => {
                reason = Reason::Absent;
            }
            _ => {}
        }
    }
    Missing::new("nftables accounting", reason, words)
}
