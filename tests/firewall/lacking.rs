//! Kernels that lack what enforcement is built on: refused with the reason, never pretended.

use edge_warden::firewall::{
    Enforced, Feature, Firewall, FirewallError, Holding, Lack, NftablesFirewall, Ownership, Posture, TableOwnership,
    probe,
};
use serde_json::json;

use crate::support::site::{Host, Options, Site};
use crate::support::warden::{Guarded, status};
use crate::{NOW, isolated, policy, reaches};

#[test]
fn this_kernel_lacks_nothing_we_need() {
    let site = Site::build(Options::default());
    let mut lacks = site.gateway().enter(|| probe().unwrap());
    // Only with it are interfaces that are made anew covered at once; `links.rs` tests both ways.
    lacks.retain(|lack| lack.feature != Feature::HooksByName);
    assert_eq!(lacks, []);
    let tables = site.gateway().shell("nft list tables | grep -c edge_warden || true");
    assert_eq!(tables.trim(), "0");
}

fn on_a_kernel_without(site: &Site, feature: Feature) -> NftablesFirewall {
    let lack = Lack {
        feature,
        consequence: feature.consequence(),
        answer: "Operation not supported (os error 95)".to_owned(),
    };
    let open = || NftablesFirewall::open_on(TableOwnership::Auto, vec![lack]).unwrap();
    site.gateway().enter(open)
}

fn holds(held: Option<&Enforced>, device: &Host) -> Holding {
    held.map_or(Holding::Absent, |held| held.holds(&isolated(device, Posture::Isolate)))
}

#[test]
fn what_the_kernel_cannot_do_is_refused_with_the_reason() {
    let site = Site::build(Options::default());
    let (bridged, plain) = (site.device(0), site.device(3));
    let cut = policy(&site, &[bridged, plain], Posture::Isolate);
    // With the names of the links, and which of the two devices can be cut off all the same.
    let cases = [
        (Feature::Nftables, "br0", [false, false]),
        (Feature::ElementLimits, "br0", [false, false]),
        (Feature::ElementCounters, "br0", [false, false]),
        (Feature::Timeouts, "br0", [false, false]),
        (Feature::Bridge, "br0", [false, true]),
        (Feature::Ingress, "lan3", [true, false]),
        (Feature::Egress, "lan3", [true, false]),
    ];
    for (feature, links, can) in cases {
        let mut firewall = on_a_kernel_without(&site, feature);
        let refused = firewall.enforce(&cut, NOW).unwrap_err();
        let words = refused.to_string();
        assert!(
            matches!(refused, FirewallError::Lacking { feature: of, .. } if of == feature),
            "{words}"
        );
        for part in [links, feature.to_string().as_str(), "os error 95"] {
            assert!(words.contains(part), "{part}: {words}");
        }
        let held = firewall.enforced().unwrap();
        for device in [bridged, plain] {
            // Nobody can tell which of them the rules that are there would be enough for.
            assert_ne!(holds(held.as_ref(), device), Holding::Whole, "{feature}");
        }
        assert_eq!(held.is_some(), can.contains(&true), "{feature}");
        if let Some(held) = held {
            assert!(held.differences.contains(&words), "{feature}: {:?}", held.differences);
        }
        for (device, gateway, can) in [(bridged, site.gateway(), can[0]), (plain, site.routed_port(), can[1])] {
            if can {
                assert!(!device.ping(gateway.v4.into()), "{feature}");
            } else {
                assert!(reaches(device, gateway.v4), "{feature}");
            }
        }
        // Said every time, and where nobody is to be cut off nothing is missing.
        assert!(firewall.enforce(&cut, NOW).is_err(), "{feature}");
        firewall.enforce(&policy(&site, &[], Posture::Isolate), NOW).unwrap();
        assert!(reaches(bridged, site.gateway().v4) && reaches(plain, site.routed_port().v4));
        firewall.purge().unwrap();
    }
}

#[test]
fn without_owned_tables_plain_ones_do() {
    let site = Site::build(Options::default());
    let device = site.device(0);
    assert!(reaches(device, site.gateway().v4));
    let mut firewall = on_a_kernel_without(&site, Feature::OwnedTables);
    firewall
        .enforce(&policy(&site, &[device], Posture::Isolate), NOW)
        .unwrap();
    let held = firewall.enforced().unwrap();
    assert_eq!(holds(held.as_ref(), device), Holding::Whole);
    assert_eq!(held.unwrap().ownership, Some(Ownership::Plain));
    assert!(!device.ping(site.gateway().v4.into()));
}

/// The same through the whole agent, with a kernel that really refuses: another process owns tables of our name.
#[test]
fn what_the_kernel_refuses_the_shadow_says() {
    let mut guarded = Guarded::prepare();
    let devices = crate::support::warden::devices(&guarded.site);
    guarded.configure(&json!({"devices": devices}));
    let mut other = crate::open(&guarded.site, TableOwnership::Auto);
    other
        .enforce(&policy(&guarded.site, &[], Posture::Isolate), NOW)
        .unwrap();
    guarded.run();
    guarded.desire("cam-0", None, &json!({"quarantine": true}));
    let document = guarded.await_document("cam-0", None, |document| {
        let failure = status(document)["failure"].as_str().unwrap_or_default();
        failure.contains("Operation not permitted")
    });
    assert_eq!(status(&document)["enforced"], false, "{document:#}");
    assert_eq!(document["state"]["reported"]["quarantine"], false, "{document:#}");
    assert!(reaches(guarded.site.device(0), guarded.site.gateway().v4));
    // The other one ends: its tables are taken over, without anybody asking again.
    drop(other);
    guarded.await_enforced("cam-0", None, &json!(true));
    guarded.assert_cut(0);
}
