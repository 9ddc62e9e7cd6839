//! What no quarantine may touch.

use serde_json::{Value, json};

use crate::support::warden::{Guarded, status};

#[test]
fn what_must_never_be_cut_off_is_refused_with_the_reason() {
    let mut guarded = Guarded::prepare();
    let site = &guarded.site;
    let (gateway, internet) = (site.gateway(), site.internet());
    guarded.set_resolver(site.device(2).v4.into());
    let thing = |name: &str, macs: &[String], addresses: &[String]| json!({"thingName": name, "macs": macs, "addresses": addresses});
    let mac = |last: u8| format!("02:ee:00:00:00:{last:02x}");
    let device = |n: usize| site.device(n).mac.to_string();
    let refusals = [
        (
            thing("own-mac", &[gateway.mac.to_string()], &[]),
            "MAC address of the gateway itself",
        ),
        (
            thing("own-port", &[site.routed_port().mac.to_string()], &[]),
            "MAC address of the gateway itself",
        ),
        (
            thing("own-v4", &[mac(1)], &[gateway.v4.to_string()]),
            "address of the gateway itself",
        ),
        (
            thing("own-v6", &[mac(2)], &[gateway.v6.to_string()]),
            "address of the gateway itself",
        ),
        (
            thing("own-wan", &[mac(3)], &["203.0.113.2".to_owned()]),
            "address of the gateway itself",
        ),
        (
            thing("hop-mac", &[internet.mac.to_string()], &[]),
            "gateway's own uplink router",
        ),
        (
            thing("hop-v4", &[mac(4)], &[internet.v4.to_string()]),
            "gateway's own uplink router",
        ),
        (
            thing("hop-v6", &[mac(5)], &[internet.v6.to_string()]),
            "gateway's own uplink router",
        ),
        (
            thing("dns", &[device(2)], &[site.device(2).v4.to_string()]),
            "DNS server in use",
        ),
        (
            thing("by-mac", &[device(0)], &[site.device(0).v4.to_string()]),
            "quarantine.protected",
        ),
        (
            thing("by-block", &[device(1)], &[site.device(1).v4.to_string()]),
            "quarantine.protected",
        ),
        (
            thing("by-address", &[mac(6)], &["10.20.0.66".to_owned()]),
            "quarantine.protected",
        ),
        (
            thing("broker", &[mac(7)], &["10.20.0.70".to_owned()]),
            "quarantine.protected",
        ),
        (
            thing("own-link-local", &[mac(8)], &[gateway.link_local.to_string()]),
            "address of the gateway itself",
        ),
        (
            thing("by-name", &[device(3)], &[site.device(3).v4.to_string()]),
            "quarantine.protected",
        ),
        (json!({"thingName": "edge-warden-core"}), "not supported"),
    ];
    let configured: Vec<&Value> = refusals[..15].iter().map(|(device, _)| device).collect();
    guarded.configure(&json!({
        "devices": configured,
        "quarantine": {"protected": [device(0), "10.20.0.8/30", "10.20.0.66", "10.20.0.70", "by-name"]},
    }));
    guarded.run();
    (0..4).for_each(|n| guarded.assert_open(n));
    for (device, reason) in &refusals {
        let thing = device["thingName"].as_str().unwrap();
        for name in [None, Some("quarantine")] {
            guarded.desire(thing, name, &json!({"quarantine": true}));
            let document = guarded.await_enforced(thing, name, &json!(false));
            let failure = status(&document)["failure"].as_str().unwrap();
            assert!(failure.contains(reason), "{thing}: {failure}");
            assert_eq!(document.pointer("/state/reported/quarantine"), Some(&json!(false)));
        }
        let [said, warning] = guarded.cli_exit(&["quarantine", "add", thing], 6);
        assert!(warning.contains("is not cut off; the demand is kept"), "{warning}");
        assert!(said.contains("not cut off") && said.contains(reason), "{thing}: {said}");
    }
    (0..4).for_each(|n| guarded.assert_open(n));
    // The audit log says what was asked for, by whom, and why nobody was cut off.
    let audit = guarded.audit();
    for (device, reason) in &refusals {
        for who in ["shadow", "shadow:quarantine", "uid 0"] {
            let said = audit.iter().any(|line| {
                line["thing"] == device["thingName"]
                    && line["who"] == who
                    && line["what"]
                        .as_str()
                        .is_some_and(|what| what.contains("; not cut off: ") && what.contains(reason))
            });
            assert!(said, "{device} by {who}: {audit:#?}");
        }
    }
}
