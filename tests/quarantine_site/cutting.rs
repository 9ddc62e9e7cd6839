//! A shadow cuts a device off and lets it go.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::site::PATIENCE;
use crate::support::warden::{Arrivals, Flood, Guarded, leaked, now, status};
use crate::{RATE, no_delta, our_tables};

#[test]
fn the_workshops_shadow_cuts_a_device_off_and_lets_it_go() {
    let guarded = Guarded::start(&json!({}));
    let (site, neighbours) = (&guarded.site, [1, 2, 3]);
    guarded.assert_open(0);
    // The others' connections are not even disturbed.
    let _echo = (site.internet().echo(7000), site.gateway().echo(7000));
    let mut streams: Vec<_> = neighbours
        .iter()
        .map(|n| {
            site.device(*n)
                .connect(site.internet().v4.into(), 7000, PATIENCE)
                .unwrap()
        })
        .collect();

    for (way, name) in [("the Lambda's", None), ("the named shadow", Some("quarantine"))] {
        let write = |desired: &str| {
            let mut arguments = vec!["shadow", "cam-0", desired];
            arguments.extend(name.into_iter().flat_map(|name| ["--name", name]));
            guarded.cli(&arguments)
        };
        write(r#"{"quarantine":true}"#);
        let document = guarded.await_enforced("cam-0", name, &json!(true));
        assert!(no_delta(&document), "{way}: {document:#}");
        assert_eq!(document.pointer("/state/reported/quarantine"), Some(&json!(true)));
        assert_eq!(status(&document)["mode"], "isolate", "{document:#}");
        guarded.assert_cut(0);
        for n in neighbours {
            let others: BTreeSet<String> = guarded.reach(n);
            assert_eq!(others.len(), 10, "all but device 0 is open for device {n}: {others:?}");
        }
        for stream in &mut streams {
            use std::io::{Read as _, Write as _};
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(b"still there?").unwrap();
            stream.read_exact(&mut [0; 12]).unwrap();
        }
        write(r#"{"quarantine":false}"#);
        let document = guarded.await_enforced("cam-0", name, &json!(false));
        assert!(no_delta(&document), "{way}: {document:#}");
        assert_eq!(status(&document)["failure"], Value::Null);
        guarded.assert_open(0);
    }
    // The device behind the plain interface, by the object form; the demand comes back in its own words.
    guarded.assert_open(3);
    let demand = json!({"quarantine": {"mode": "remediate", "reason": "scan"}});
    guarded.desire("cam-3", Some("quarantine"), &demand);
    let document = guarded.await_enforced("cam-3", Some("quarantine"), &json!(true));
    assert!(no_delta(&document), "{document:#}");
    guarded.assert_cut(3);
    // A removed key is a release, and nothing is left in the document.
    guarded.desire("cam-3", Some("quarantine"), &json!({"quarantine": null}));
    guarded.assert_open(3);
    guarded.await_document("cam-3", Some("quarantine"), |document| {
        document.pointer("/state/reported/quarantine").is_none() && status(document).is_null()
    });
}

#[test]
fn no_packet_passes_after_the_shadow_says_enforced() {
    let guarded = Guarded::start(&json!({}));
    let site = &guarded.site;
    let flood = Flood::start(site, 0, RATE);
    let (lan, internet) = (
        Arrivals::on_lan(site.device(1), site.device(0)),
        Arrivals::on_internet(site),
    );
    for round in 0..20 {
        lan.await_more(20);
        internet.await_more(20);
        guarded.desire("cam-0", None, &json!({"quarantine": true}));
        guarded.await_enforced("cam-0", None, &json!(true));
        let reported = now();
        flood.await_sent(50);
        lan.await_silence();
        internet.await_silence();
        assert_eq!(leaked(&[&lan, &internet], reported), 0, "round {round}");
        guarded.desire("cam-0", None, &json!({"quarantine": false}));
        guarded.await_enforced("cam-0", None, &json!(false));
    }
}

#[test]
fn observing_drops_nothing_and_says_so() {
    let guarded = Guarded::start(&json!({"enforcement": "observe"}));
    guarded.assert_open(0);
    guarded.desire("cam-0", None, &json!({"quarantine": true}));
    let document = guarded.await_enforced("cam-0", None, &json!("observed"));
    assert_eq!(document.pointer("/state/reported/quarantine"), Some(&json!(false)));
    let said = guarded.cli(&["quarantine", "add", "cam-3"]);
    assert!(
        said.contains("would be cut off (isolate); enforcement is observe"),
        "{said}"
    );
    guarded.assert_open(0);
    guarded.assert_open(3);
    assert_eq!(our_tables(&guarded), "");
}
