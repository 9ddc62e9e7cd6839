//! Many devices.

use std::collections::BTreeSet;

use edge_warden::firewall::{Firewall, Holding, Isolated, Posture, TableOwnership};
use edge_warden::model::MacAddress;

use crate::support::site::{Options, Site};
use crate::{NOW, open, policy};

#[test]
fn ten_thousand_devices_are_one_transaction() {
    let site = Site::build(Options::default());
    let mut firewall = open(&site, TableOwnership::Auto);
    let mut cut = policy(&site, &[site.device(0)], Posture::Isolate);
    for n in 0..10_000_u32 {
        let [_, a, b, c] = n.to_be_bytes();
        cut.isolated.push(Isolated {
            label: format!("thing-{n}"),
            macs: [MacAddress([2, 0xbb, 0, a, b, c])].into(),
            v4: [std::net::Ipv4Addr::new(172, 20 + a, b, c)].into(),
            v6: BTreeSet::new(),
            posture: Posture::Remediate,
            until: None,
        });
    }
    cut.isolated
        .retain(|isolated| !isolated.v4.iter().any(|a| a.is_broadcast() || a.is_unspecified()));
    firewall.enforce(&cut, NOW).unwrap();
    let enforced = firewall.enforced().unwrap().unwrap();
    assert_eq!(enforced.differences, Vec::<String>::new());
    assert_eq!(enforced.macs.len(), 10_001);
    assert!(
        cut.isolated
            .iter()
            .all(|isolated| enforced.holds(isolated) == Holding::Whole)
    );
    assert!(!site.device(0).ping(site.gateway().v4.into()));
}
