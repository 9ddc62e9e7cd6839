//! From a policy to the tables that enforce it. Pure: the same policy gives the same tables.
//!
//! Identity is looked up in sets, never in a rule per device, so cost per packet does not grow with the number of
//! isolated devices. There is no connection tracking anywhere: an old flow dies with its next packet.
//!
//! ```text
//!  Policy ──sets──▶ who ─┐
//!  allowances ──▶ hooks ─┴─▶ tables ──changes──▶ what to tell the kernel
//! ```

mod allowances;
mod changes;
mod hooks;
mod names;
mod rules;
mod sets;

pub(crate) use changes::{ElementChange, element_changes};
pub(crate) use names::{DROPS, IP4, IP6, MAC, QUIET_PORTS, REMEDIATE_MAC};

use super::policy::Policy;
use super::table::{Family, Table};
use crate::model::UnixTime;

/// Name of our tables, one per family.
pub(crate) const TABLE: &str = "edge_warden";

/// The tables that enforce `policy` from `now` on: none when it names no LAN.
pub(crate) fn tables(policy: &Policy, now: UnixTime) -> Vec<Table> {
    let mut tables = Vec::new();
    if !policy.lan.bridges.is_empty() {
        tables.push(Table {
            family: Family::Bridge,
            name: TABLE,
            sets: sets::sets(policy, now),
            chains: [hooks::bridge_chains(), hooks::common_chains()].concat(),
        });
    }
    if !policy.lan.interfaces.is_empty() {
        let devices: Vec<String> = policy.lan.interfaces.iter().cloned().collect();
        tables.push(Table {
            family: Family::Netdev,
            name: TABLE,
            sets: sets::sets(policy, now),
            chains: [hooks::common_chains(), hooks::netdev_chains(&devices)].concat(),
        });
    }
    // A chain must exist before a rule can go to it: base chains last.
    for table in &mut tables {
        table.chains.sort_by_key(|chain| chain.hook.is_some());
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::policy::{Isolated, Lan, Posture};
    use crate::firewall::table::{Test, Then};

    const NOW: UnixTime = UnixTime(1_800_000_000_000);

    fn isolated(label: &str, n: u8, posture: Posture, until: Option<UnixTime>) -> Isolated {
        Isolated {
            label: label.to_owned(),
            macs: [crate::model::MacAddress([2, 0, 0, 0, 0, n])].into(),
            v4: [[10, 20, 0, n].into()].into(),
            v6: [format!("fe80::{n}").parse().unwrap()].into(),
            posture,
            until,
        }
    }

    fn site(bridges: &[&str], interfaces: &[&str], isolated: Vec<Isolated>) -> Policy {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Policy {
            lan: Lan {
                bridges: owned(bridges),
                interfaces: owned(interfaces),
                gateway_macs: ["02:00:00:00:00:fe".parse().unwrap()].into(),
                gateway_addresses: ["10.20.0.1".parse().unwrap(), "fd20::1".parse().unwrap()].into(),
                broker_ports: [8883].into(),
            },
            isolated,
            quiet_ports: None,
        }
    }

    fn text(policy: &Policy) -> String {
        crate::firewall::render(policy, NOW)
    }

    /// Set `UPDATE_GOLDEN` to write the files anew, then read the difference.
    fn compare(case: &str, policy: &Policy) {
        let path = format!("{}/src/firewall/golden/{case}.nft", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, text(policy)).unwrap();
        }
        assert_eq!(text(policy), std::fs::read_to_string(&path).unwrap(), "{path}");
    }

    #[test]
    fn a_policy_becomes_these_tables() {
        let until = Some(UnixTime(NOW.0 + 60_000));
        let two = vec![
            isolated("cam", 1, Posture::Isolate, None),
            isolated("plc", 2, Posture::Remediate, until),
            isolated("over", 3, Posture::Isolate, Some(NOW)),
        ];
        compare("no-lan", &site(&[], &[], two.clone()));
        compare("plain-interfaces", &site(&[], &["eth1", "wlan0"], vec![]));
        let mut bridged = site(&["br0"], &[], two);
        bridged.quiet_ports = Some(["lan1".to_owned()].into());
        compare("bridge", &bridged);
    }

    #[test]
    fn a_shared_identity_gets_the_stricter_posture_and_the_later_end() {
        let (soon, late) = (Some(UnixTime(NOW.0 + 1000)), Some(UnixTime(NOW.0 + 9000)));
        let table = |isolated| tables(&site(&["br0"], &[], isolated), NOW).remove(0);
        let both = table(vec![
            isolated("a", 1, Posture::Remediate, late),
            isolated("b", 1, Posture::Isolate, soon),
        ]);
        let macs = both.set(MAC).unwrap().listed().unwrap();
        assert_eq!(macs.values().map(|element| element.until).collect::<Vec<_>>(), [late]);
        assert!(both.set(REMEDIATE_MAC).unwrap().listed().unwrap().is_empty());
        let unbounded = table(vec![
            isolated("a", 1, Posture::Isolate, None),
            isolated("b", 1, Posture::Isolate, soon),
        ]);
        let macs = unbounded.set(MAC).unwrap().listed().unwrap();
        assert_eq!(macs.values().map(|element| element.until).collect::<Vec<_>>(), [None]);
    }

    #[test]
    fn who_comes_and_goes_is_a_change_of_elements_only() {
        let one = vec![isolated("a", 1, Posture::Isolate, None)];
        let mut policy = site(&["br0"], &["eth1"], one);
        let before = tables(&policy, NOW);
        policy.isolated.push(isolated("b", 2, Posture::Remediate, None));
        policy.lan.gateway_addresses.insert("10.20.0.2".parse().unwrap());
        let after = tables(&policy, NOW);
        for (old, new) in before.iter().zip(&after) {
            let changes = element_changes(old, new).unwrap();
            assert!(
                changes
                    .iter()
                    .all(|change| change.remove.is_empty() && !change.add.is_empty())
            );
            let back = element_changes(new, old).unwrap();
            assert!(
                back.iter()
                    .all(|change| !change.remove.is_empty() && change.add.is_empty())
            );
            assert_eq!(element_changes(new, new), Some(vec![]));
        }
        policy.lan.interfaces.insert("eth2".to_owned());
        let moved = tables(&policy, NOW);
        let netdev = |tables: &[Table]| tables.iter().find(|t| t.family == Family::Netdev).cloned().unwrap();
        assert_eq!(element_changes(&netdev(&after), &netdev(&moved)), None);
    }

    #[test]
    fn every_goto_leads_to_a_chain_and_every_lookup_to_a_set_that_exists() {
        for table in tables(&site(&["br0"], &["eth1"], vec![]), NOW) {
            for (position, chain) in table.chains.iter().enumerate() {
                for rule in &chain.rules {
                    for test in &rule.when {
                        if let Test::In(field, set) = test {
                            let set = table.set(set).unwrap();
                            let length = match field.load().0 {
                                crate::firewall::table::Load::Payload { length, .. }
                                | crate::firewall::table::Load::Meta { length, .. } => length,
                                crate::firewall::table::Load::Connection { .. } => 4,
                            };
                            assert_eq!(length, set.key.length(), "{rule}");
                        }
                    }
                    if let Then::Goto(target) = &rule.then {
                        assert!(
                            table.chains.iter().any(|c| c.name == *target && c.hook.is_none()),
                            "{rule}"
                        );
                    }
                }
                assert_eq!(
                    table.chains.iter().rposition(|c| c.name == chain.name),
                    Some(position),
                    "unique names"
                );
            }
        }
    }
}
