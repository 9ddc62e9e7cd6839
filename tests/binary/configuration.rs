//! The deployed configuration: taken at the start, taken over while running, refused when invalid.

use serde_json::json;

use crate::support::binary::{Agent, SOON, configuration};
use crate::support::nucleus::defender::Format;
use crate::support::nucleus::{Kind, Misbehave, TestNucleus};
use crate::{FAST, KINDS, as_shipped, core, deployed, reports};

#[test]
fn a_changed_interval_format_and_log_level_take_effect_without_a_restart() {
    for kind in KINDS {
        let nucleus = TestNucleus::start(as_shipped(kind));
        let dir = tempfile::tempdir().unwrap();
        let agent = Agent::start(&nucleus, dir.path(), FAST);
        nucleus.wait_for("a report", SOON, reports(1));
        let new =
            json!({"report": {"intervalSeconds": "900", "format": "cbor", "names": "short"}, "log": {"level": "warn"}});
        nucleus.set_configuration(configuration(new));
        let taken = agent.wait_status("taken", |status| {
            let configuration = &status["configuration"];
            (configuration["effective"]["report"]["intervalSeconds"] == 900).then(|| configuration.clone())
        });
        assert_eq!(taken["effective"]["report"]["format"], "cbor");
        assert!(taken["reload"]["error"].is_null(), "{taken}");
        let before = nucleus.reports().len();
        nucleus.wait_for("three reports", SOON, reports(before + 3));
        let after = nucleus.reports().split_off(before);
        let ids: Vec<u64> = after.iter().map(|report| report.report_id.unwrap()).collect();
        assert!(ids[2] - ids[1] >= 900, "{ids:?}");
        for report in &after {
            assert_eq!((report.format, &report.verdict), (Format::Cbor, &Ok(())));
            assert!(report.document.get("hed").is_some());
        }
        // Reports are logged at info.
        let published = || agent.log().matches("report published").count();
        let logged = published();
        nucleus.wait_for("another", SOON, reports(before + 4));
        assert!(logged <= before, "{logged} of {before} reports before the change");
        assert_eq!(published(), logged, "nothing below warn is logged any more");
    }
}

#[test]
fn an_invalid_change_is_refused_by_name_and_the_old_one_stays() {
    for (change, words) in [
        (
            json!({"report": {"intervalSeconds": 299}}),
            ["report.intervalSeconds", "299", "300"],
        ),
        (json!({"report": {"format": "xml"}}), ["report.format", "xml", "cbor"]),
        (
            json!({"report": {"intervalSecond": 300}}),
            ["report.intervalSecond", "not a key", "intervalSeconds"],
        ),
        (json!({"sampleSeconds": "often"}), ["sampleSeconds", "often", "300"]),
    ] {
        let nucleus = TestNucleus::start(as_shipped(Kind::Classic));
        let dir = tempfile::tempdir().unwrap();
        let agent = Agent::start(&nucleus, dir.path(), FAST);
        let before = agent.wait_status("running", |status| Some(status["configuration"]["effective"].clone()));
        nucleus.wait_for("the watch", SOON, |seen| {
            (seen.configuration_watchers == 1).then_some(())
        });
        nucleus.set_configuration(configuration(change));
        let refused = agent.wait_status("refused", |status| {
            let error = status["configuration"]["reload"]["error"].as_str()?.to_owned();
            assert_eq!(status["configuration"]["effective"], before);
            Some(error)
        });
        for word in words {
            assert!(refused.contains(word), "{word} not in: {refused}");
        }
        agent.wait_log(&["ERROR", "refused", words[0]]);
        let shown = crate::binary::command_line::stdout(&["status", "--state-dir", dir.path().to_str().unwrap()]);
        assert!(
            shown.contains("configuration refused") && shown.contains(words[0]),
            "{shown}"
        );
        let sent = nucleus.reports().len();
        nucleus.wait_for("reports go on", SOON, reports(sent + 1));
        nucleus.set_configuration(configuration(json!({})));
        agent.wait_status("no complaint any more", |status| {
            status["configuration"]["reload"]["error"].is_null().then_some(())
        });
    }
}

/// Failing lets Greengrass roll the deployment back.
#[test]
fn a_first_start_with_an_invalid_configuration_fails_with_code_3() {
    for kind in KINDS {
        let nucleus = TestNucleus::start(deployed(
            kind,
            json!({"report": {"intervalSeconds": 60}, "smapleSeconds": 5}),
        ));
        let dir = tempfile::tempdir().unwrap();
        let mut agent = Agent::start(&nucleus, dir.path(), FAST);
        assert_eq!(agent.exit_code(), 3);
        let log = agent.log();
        for word in ["report.intervalSeconds", "60", "300", "smapleSeconds", "sampleSeconds"] {
            assert!(log.contains(word), "{word} not in: {log}");
        }
        assert_eq!(nucleus.reports().len(), 0);
        assert_eq!(nucleus.states(), [""; 0], "it never said RUNNING");
    }
}

/// A gateway that reboots with a broken configuration goes on reporting.
#[test]
fn a_later_start_with_an_invalid_configuration_uses_the_last_good_one() {
    let nucleus = TestNucleus::start(deployed(Kind::Classic, json!({"report": {"format": "cbor"}})));
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(&nucleus, dir.path(), FAST);
    nucleus.wait_for("a report", SOON, reports(1));
    // A change taken while running is the last good one too.
    nucleus.set_configuration(configuration(json!({"report": {"format": "cbor", "names": "short"}})));
    agent.wait_status("taken", |status| {
        (status["configuration"]["reload"]["taken"] == 1).then_some(())
    });
    assert_eq!(agent.terminate().0, 0);
    nucleus.set_configuration(configuration(
        json!({"report": {"format": "cbor", "intervalSeconds": 1}}),
    ));
    let agent = Agent::start(&nucleus, dir.path(), FAST);
    agent.wait_log(&["ERROR", "report.intervalSeconds", "last valid one"]);
    let error = agent.wait_status("why", |status| {
        status["configuration"]["reload"]["error"].as_str().map(str::to_owned)
    });
    assert!(error.contains("report.intervalSeconds"), "{error}");
    let before = nucleus.reports().len();
    nucleus.wait_for("reports", SOON, reports(before + 1));
    let report = nucleus.reports().swap_remove(before);
    assert_eq!((report.format, &report.verdict), (Format::Cbor, &Ok(())));
    assert!(report.document.get("hed").is_some(), "{}", report.document);
}

#[test]
fn a_nucleus_that_does_not_give_the_configuration_leaves_the_last_good_one_in_force() {
    let nucleus = TestNucleus::start(as_shipped(Kind::Lite));
    let dir = tempfile::tempdir().unwrap();
    let refuse = || {
        nucleus.misbehave(Misbehave::Refuse {
            operation: "GetConfiguration".to_owned(),
            code: "ServiceError".to_owned(),
        })
    };
    refuse();
    let mut first = Agent::start(&nucleus, dir.path(), FAST);
    assert_eq!(first.exit_code(), 4);
    assert!(first.log().contains("configuration cannot be read"), "{}", first.log());
    assert!(first.log().contains("refused by the test"), "{}", first.log());
    nucleus.behave();
    let mut second = Agent::start(&nucleus, dir.path(), FAST);
    nucleus.wait_for("a report", SOON, reports(1));
    assert_eq!(second.terminate().0, 0);
    refuse();
    let third = Agent::start(&nucleus, dir.path(), FAST);
    nucleus.wait_for("reports", SOON, reports(2));
    assert!(core(&third.status())["lastReportId"].is_u64());
}

#[test]
fn the_interval_of_the_recipe_is_the_fastest_there_is() {
    let nucleus = TestNucleus::start(deployed(Kind::Classic, json!({"report": {"intervalSeconds": "300"}})));
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(&nucleus, dir.path(), FAST);
    agent.wait_status("the interval", |status| {
        (status["configuration"]["effective"]["report"]["intervalSeconds"] == 300).then_some(())
    });
}

/// Which files may be read is settled at a start: one that is named for the first time takes another, and no more.
#[test]
fn a_file_included_from_anywhere_is_read_at_every_start() {
    for kind in KINDS {
        let nucleus = TestNucleus::start(deployed(kind, json!({"log": {"level": "info"}})));
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = elsewhere.path().join("devices.json");
        std::fs::write(
            &file,
            r#"{"devices": [{"thingName": "cam-1", "macs": ["02:aa:00:00:00:01"]}]}"#,
        )
        .unwrap();
        for _ in 0..2 {
            let mut agent = Agent::start(&nucleus, dir.path(), FAST);
            agent.wait_log(&["edge-warden is running"]);
            assert_eq!(agent.terminate().0, 0);
        }
        let mut agent = Agent::start(&nucleus, dir.path(), FAST);
        agent.wait_status("running", |status| status.is_object().then_some(()));
        nucleus.set_configuration(configuration(json!({"include": [file]})));
        agent.wait_log(&["ERROR", "devices.json", "Permission denied", "restart the component"]);
        assert_eq!(agent.terminate().0, 0);
        for start in 1..=3 {
            let mut agent = Agent::start(&nucleus, dir.path(), FAST);
            let known = agent.wait_status("its configuration", |status| {
                let effective = &status["configuration"]["effective"];
                effective
                    .is_object()
                    .then(|| (effective["devices"].clone(), status["configuration"]["reload"].clone()))
            });
            assert_eq!(known.0[0]["thingName"], "cam-1", "start {start}");
            assert!(known.1["error"].is_null(), "start {start}: {}", known.1);
            assert_eq!(agent.terminate().0, 0);
        }
    }
}
