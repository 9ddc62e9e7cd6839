//! Reports on their way out and the answers to them.

use serde_json::{Value, json};

use crate::support::binary::{Agent, SOON, with_shadows};
use crate::support::nucleus::defender::Format;
use crate::support::nucleus::{Kind, Misbehave, TestNucleus};
use crate::{FAST, KINDS, as_shipped, core, deployed, reports, requests};

/// The time between reports, by their ids.
fn gaps(nucleus: &TestNucleus) -> Vec<u64> {
    let ids: Vec<u64> = nucleus
        .reports()
        .iter()
        .map(|report| report.report_id.unwrap())
        .collect();
    ids.windows(2)
        .map(|pair| pair[1].checked_sub(pair[0]).unwrap())
        .collect()
}

#[test]
fn every_format_is_accepted_by_both_nuclei() {
    for kind in KINDS {
        for (format, expected) in [("json", Format::Json), ("cbor", Format::Cbor)] {
            for (names, header, metrics, traffic) in [
                ("long", "header", "metrics", "network_stats"),
                ("short", "hed", "met", "ns"),
            ] {
                let what = format!("{kind:?} {format} {names}");
                let nucleus = TestNucleus::start(deployed(kind, json!({"report": {"format": format, "names": names}})));
                let dir = tempfile::tempdir().unwrap();
                let mut agent = Agent::start(&nucleus, dir.path(), FAST);
                nucleus.wait_for(&what, SOON, reports(2));
                agent.wait_status("two reports accepted", |status| {
                    (core(status)["counts"]["accepted"].as_u64()? >= 2).then_some(())
                });
                let seen = nucleus.seen();
                for report in &seen.reports {
                    assert_eq!(report.verdict, Ok(()), "{what}");
                    assert_eq!(report.format, expected, "{what}");
                    assert_eq!(report.thing, "gateway-1");
                    assert!(report.document.get(header).is_some(), "{what}: {}", report.document);
                }
                // A delta needs two samples, the second report has it.
                assert!(seen.reports[0].document[metrics].get(traffic).is_none(), "{what}");
                assert!(seen.reports[1].document[metrics].get(traffic).is_some(), "{what}");
                assert_eq!(seen.states, ["RUNNING"], "{what}");
                assert!(
                    seen.published.iter().all(|published| published.qos == Some(1)),
                    "{what}"
                );
                assert_eq!(seen.violations, [""; 0], "{what}");
                assert_eq!(agent.terminate().0, 0, "{what}");
            }
        }
    }
}

/// A profile that no gateway meets, so that there is an event.
fn alarming() -> Value {
    let criteria = json!({"comparisonOperator": "greater-than", "value": {"count": 60_000}});
    let behavior = json!({"name": "Many", "metric": "aws:num-listening-tcp-ports", "criteria": criteria});
    json!({"detect": {"profiles": [{"securityProfileName": "Impossible", "behaviors": [behavior]}]}})
}

/// Every permission the recipe asks for is used, so none is asked for too much; that none is missing the other tests
/// show, which run under the same accessControl.
#[test]
fn a_json_and_a_cbor_run_use_every_grant() {
    for kind in KINDS {
        let nucleus = TestNucleus::start(crate::support::nucleus::Settings {
            configuration: with_shadows(alarming()),
            ..as_shipped(kind)
        });
        // A wish the core cannot grant, to be answered in both shadows.
        for shadow in [None, Some("quarantine")] {
            let wish = json!({"state": {"desired": {"quarantine": true}}});
            nucleus.shadow_update("gateway-1", shadow, &wish).unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        // Not accelerated at first: an answer about a shadow is waited for 10 s of the agent's clock.
        let mut agent = Agent::start(&nucleus, dir.path(), 1);
        nucleus.wait_for("a JSON report", SOON, reports(1));
        nucleus.wait_for("answers in both shadows", SOON, |seen| {
            let answered = |topic: &str| seen.published.iter().any(|published| published.topic == topic);
            let both = ["shadow/update", "shadow/name/quarantine/update"];
            both.iter()
                .all(|end| answered(&format!("$aws/things/gateway-1/{end}")))
                .then_some(())
        });
        nucleus.wait_for("an event for the cloud and one for other components", SOON, |seen| {
            let events = seen.published.iter();
            let events = events.filter(|published| published.topic == "edge-warden/gateway-1/violations");
            (events.count() >= 2).then_some(())
        });
        assert_eq!(agent.terminate().0, 0);
        let agent = Agent::start(&nucleus, dir.path(), FAST);
        assert_ne!(nucleus.unused_grants(), [], "CBOR was not used yet");
        let mut cbor = alarming();
        cbor["report"] = json!({"format": "cbor"});
        nucleus.set_configuration(with_shadows(cbor));
        nucleus.wait_for("a CBOR report, accepted", SOON, |seen| {
            seen.reports
                .iter()
                .find(|report| report.format == Format::Cbor && report.verdict.is_ok())
                .map(drop)
        });
        nucleus.wait_for("only the CBOR filters", SOON, |seen| {
            let mut filters = seen.iot_core_filters.clone();
            filters.retain(|filter| filter.contains("/defender/"));
            filters.sort();
            let wanted =
                ["accepted", "rejected"].map(|end| format!("$aws/things/gateway-1/defender/metrics/cbor/{end}"));
            (filters == wanted).then_some(())
        });
        // what only ShadowManager needs, the run with it in tests/shadow.rs uses; pushed metrics are in tests/custom.rs
        let mut unused = nucleus.unused_grants();
        let elsewhere = ["pubsub:2", "pubsub:3"];
        unused.retain(|grant| {
            !grant.service.ends_with("ShadowManager") && !elsewhere.iter().any(|policy| grant.policy.ends_with(policy))
        });
        assert_eq!(unused, [], "{kind:?}");
        assert!(nucleus.seen().violations.is_empty());
        drop(agent);
    }
}

/// Device Defender throttles what comes faster than every 300 s; the test nucleus counts the seconds itself.
#[test]
fn reports_are_never_closer_than_300_seconds() {
    let nucleus = TestNucleus::start(as_shipped(Kind::Classic));
    let dir = tempfile::tempdir().unwrap();
    let _agent = Agent::start(&nucleus, dir.path(), FAST);
    nucleus.wait_for("40 reports", SOON, reports(40));
    for report in nucleus.reports() {
        assert_eq!(report.verdict, Ok(()));
    }
    let gaps = gaps(&nucleus);
    assert!(gaps.iter().all(|gap| *gap >= 300), "{gaps:?}");
    // The floor holds because of the schedule, not because the machine is slow.
    assert!(gaps.iter().any(|gap| *gap < 330), "{gaps:?}");
}

#[test]
fn a_rejection_is_shown_with_its_code_and_the_next_report_carries_on() {
    let nucleus = TestNucleus::start(as_shipped(Kind::Classic));
    nucleus.misbehave(Misbehave::RejectReports {
        code: "InvalidPayload".to_owned(),
    });
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(&nucleus, dir.path(), FAST);
    agent.wait_status("rejected", |status| {
        let last = &core(status)["lastReport"];
        (last["fate"] == "rejected" && last["code"] == "InvalidPayload").then_some(())
    });
    let shown = crate::binary::command_line::stdout(&["status", "--state-dir", dir.path().to_str().unwrap()]);
    assert!(
        shown.contains("rejected: InvalidPayload, Malformed metrics report"),
        "{shown}"
    );
    agent.wait_log(&["WARN", "report rejected", "InvalidPayload"]);
    nucleus.behave();
    agent.wait_status("accepted", |status| {
        (core(status)["lastReport"]["fate"] == "accepted").then_some(())
    });
}

#[test]
fn throttled_waits_longer_each_time() {
    let nucleus = TestNucleus::start(as_shipped(Kind::Lite));
    nucleus.misbehave_times(
        3,
        Misbehave::RejectReports {
            code: "Throttled".to_owned(),
        },
    );
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(&nucleus, dir.path(), FAST);
    nucleus.wait_for("five reports", SOON, reports(5));
    agent.wait_status("the throttling", |status| {
        (core(status)["counts"]["throttled"] == 3).then_some(())
    });
    let gaps = gaps(&nucleus);
    for (gap, at_least) in gaps.iter().zip([300, 600, 1200, 300]) {
        assert!(*gap >= at_least, "{gaps:?}");
    }
    assert!(gaps[3] < 1200, "once accepted, the old rhythm: {gaps:?}");
}

/// What nucleus lite does when its MQTT daemon restarts.
#[test]
fn subscriptions_that_died_silently_are_renewed() {
    for kind in KINDS {
        let nucleus = TestNucleus::start(as_shipped(kind));
        let dir = tempfile::tempdir().unwrap();
        let agent = Agent::start(&nucleus, dir.path(), FAST);
        nucleus.wait_for("a report", SOON, reports(1));
        assert_eq!(
            nucleus.kill_subscriptions(),
            3,
            "two for replies, one for the configuration"
        );
        nucleus.wait_for("all subscribed again", SOON, |seen| {
            (seen.iot_core_filters.len() == 2 && seen.configuration_watchers == 1).then_some(())
        });
        let before = nucleus.reports().len();
        nucleus.wait_for("reports go on", SOON, reports(before + 2));
        agent.wait_status("answers are heard", |status| {
            (core(status)["lastReport"]["fate"] == "accepted").then_some(())
        });
        agent.wait_log(&["WARN", "not answered"]);
        assert_eq!(nucleus.seen().violations, [""; 0]);
    }
}

#[test]
fn swallowed_replies_are_counted_and_lead_to_new_subscriptions() {
    let nucleus = TestNucleus::start(as_shipped(Kind::Lite));
    nucleus.misbehave(Misbehave::SwallowReplies);
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(&nucleus, dir.path(), FAST);
    nucleus.wait_for("subscribed anew", SOON, |seen| {
        (requests(seen, "SubscribeToIoTCore") >= 4).then_some(())
    });
    nucleus.wait_for("reports go on", SOON, reports(6));
    let silent = agent.wait_status("the silence", |status| {
        let line = core(status);
        (line["repliesSilent"] == true).then(|| line.clone())
    });
    assert!(silent["counts"]["unacknowledged"].as_u64().unwrap() >= 3, "{silent}");
    nucleus.behave();
    agent.wait_status("answers again", |status| {
        let line = core(status);
        (line["lastReport"]["fate"] == "accepted" && line["repliesSilent"] == false).then_some(())
    });
    assert!(nucleus.reports().iter().all(|report| report.verdict.is_ok()));
}

/// Nothing is sent twice; the traffic of a lost report is in the next one.
#[test]
fn a_publish_the_nucleus_refuses_is_shown_and_made_up_for() {
    let nucleus = TestNucleus::start(as_shipped(Kind::Classic));
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(&nucleus, dir.path(), FAST);
    nucleus.wait_for("a report", SOON, reports(1));
    nucleus.misbehave(Misbehave::Refuse {
        operation: "PublishToIoTCore".to_owned(),
        code: "ServiceError".to_owned(),
    });
    agent.wait_status("not sent", |status| {
        let last = &core(status)["lastReport"];
        (last["fate"] == "notSent" && last["reason"].as_str()?.contains("ServiceError")).then_some(())
    });
    agent.wait_log(&["WARN", "report not sent", "ServiceError: refused by the test"]);
    nucleus.behave();
    let before = nucleus.reports().len();
    nucleus.wait_for("reports again", SOON, reports(before + 1));
    let next = nucleus.reports().swap_remove(before);
    assert_eq!(next.verdict, Ok(()));
    assert!(next.document["metrics"].get("network_stats").is_some());
}

#[test]
fn sigterm_ends_it_within_two_seconds_with_its_subscriptions_dropped() {
    for kind in KINDS {
        let nucleus = TestNucleus::start(as_shipped(kind));
        let dir = tempfile::tempdir().unwrap();
        let mut agent = Agent::start(&nucleus, dir.path(), FAST);
        nucleus.wait_for("a report", SOON, reports(1));
        let (code, took) = agent.terminate();
        assert_eq!(code, 0);
        assert!(took < std::time::Duration::from_secs(2), "{took:?}");
        nucleus.wait_for("the connection's end", SOON, |seen| (seen.connected == 0).then_some(()));
        // Ended one by one over the open connection, not by its end.
        assert_eq!(nucleus.seen().ended_subscriptions, 3, "{kind:?}");
        assert!(!dir.path().join("control.sock").exists());
        assert!(agent.log().contains("stopped"));
    }
}

/// A leak of one descriptor or of a few bytes a report shows after a thousand of them.
#[test]
fn a_thousand_reports_leave_files_and_memory_flat() {
    const FASTER: u32 = 20_000;
    let nucleus = TestNucleus::start(crate::support::nucleus::Settings {
        enforce_rate: Some(std::sync::Arc::new(|| crate::support::binary::agent_seconds(FASTER))),
        ..deployed(Kind::Classic, json!({"sampleSeconds": 300, "log": {"level": "warn"}}))
    });
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(&nucleus, dir.path(), FASTER);
    let within = std::time::Duration::from_secs(120);
    nucleus.wait_for("100 reports", within, reports(100));
    let before = (agent.open_files(), agent.resident_kib());
    nucleus.wait_for("1,000 reports", within, reports(1000));
    let after = (agent.open_files(), agent.resident_kib());
    assert!(nucleus.reports().iter().all(|report| report.verdict.is_ok()));
    // A file of the state being written, or a question being answered, may be open at the moment of looking.
    assert!(after.0 <= before.0 + 2, "open files {before:?} -> {after:?}");
    assert!(after.1 <= before.1 + 256, "resident KiB {before:?} -> {after:?}");
}
