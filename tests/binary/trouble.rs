//! A nucleus that misbehaves, is not there, or goes away.

use std::time::Duration;

use serde_json::json;

use crate::support::binary::{Agent, SOON, command, run_command};
use crate::support::nucleus::{Kind, Malformed, Misbehave, TestNucleus};
use crate::{FAST, KINDS, as_shipped, core, reports, requests};

const ACCEPTED: &str = "$aws/things/gateway-1/defender/metrics/json/accepted";
const REJECTED: &str = "$aws/things/gateway-1/defender/metrics/json/rejected";

#[test]
fn without_a_nucleus_it_says_which_variable_is_missing() {
    let nucleus = TestNucleus::start(as_shipped(Kind::Classic));
    let dir = tempfile::tempdir().unwrap();
    for name in [
        "SVCUID",
        "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT",
        "AWS_IOT_THING_NAME",
    ] {
        let mut command = run_command(&nucleus, dir.path(), FAST);
        command.env_remove(name);
        let ended = command.output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(4), "{said}");
        assert!(
            said.contains(&format!("{name} is not set")) && said.contains("--standalone DIR"),
            "{said}"
        );
    }
    let ended = command(&["run"]).output().unwrap();
    assert_eq!(ended.status.code(), Some(4));
}

#[test]
fn a_nucleus_that_is_gone_or_does_not_know_us_ends_the_start_with_code_4() {
    for kind in KINDS {
        let nucleus = TestNucleus::start(as_shipped(kind));
        let dir = tempfile::tempdir().unwrap();
        let mut stranger = run_command(&nucleus, dir.path(), FAST);
        stranger.env("SVCUID", "SOMETHINGELSE");
        nucleus.wait_for("nothing yet", SOON, |seen| (seen.connections == 0).then_some(()));
        let refused = stranger.output().unwrap();
        let said = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(4), "{kind:?}: {said}");
        assert!(said.contains("no connection to the nucleus"), "{said}");
        nucleus.stop();
        let gone = run_command(&nucleus, dir.path(), FAST).output().unwrap();
        let said = String::from_utf8(gone.stderr).unwrap();
        assert_eq!(gone.status.code(), Some(4), "{said}");
        assert!(
            said.contains("no connection to the nucleus") && said.contains("ipc.socket"),
            "{said}"
        );
    }
}

/// The nucleus starts a component again whose process ended; a new process is what a new connection needs.
#[test]
fn a_lost_connection_ends_the_process_with_code_1() {
    for kind in KINDS {
        for stop in [TestNucleus::disconnect, TestNucleus::stop] {
            let nucleus = TestNucleus::start(as_shipped(kind));
            let dir = tempfile::tempdir().unwrap();
            let mut agent = Agent::start(&nucleus, dir.path(), FAST);
            nucleus.wait_for("a report", SOON, reports(1));
            stop(&nucleus);
            assert_eq!(agent.exit_code(), 1, "{kind:?}");
        }
    }
    let nucleus = TestNucleus::start(as_shipped(Kind::Classic));
    nucleus.misbehave(Misbehave::Disconnect {
        operation: "PublishToIoTCore".to_owned(),
    });
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(&nucleus, dir.path(), FAST);
    assert_eq!(agent.exit_code(), 1);
    // What was there before the publish is on disk: the next start keeps the 300 s.
    assert!(dir.path().join("reports.json").is_file());
}

/// A device in the field can publish anything; messages that are none of ours must not end us.
#[test]
fn senseless_messages_are_survived() {
    for kind in KINDS {
        let nucleus = TestNucleus::start(as_shipped(kind));
        let dir = tempfile::tempdir().unwrap();
        let agent = Agent::start(&nucleus, dir.path(), FAST);
        nucleus.wait_for("a report", SOON, reports(1));
        let other = json!({"thingName": "somebody", "reportId": 7, "status": "ACCEPTED", "timestamp": 1}).to_string();
        let unknown =
            json!({"thingName": "gateway-1", "reportId": 7, "status": "ACCEPTED", "timestamp": 1}).to_string();
        let hostile = json!({"thingName": "gateway-1", "reportId": 8, "status": "REJECTED",
            "statusDetails": {"ErrorCode": "\u{1b}[2J\u{7}evil", "ErrorMessage": "\u{1b}]0;evil\u{7}\n\r"}, "timestamp": 1});
        for payload in [
            b"".as_slice(),
            b"\xff\xfe\x00",
            b"{",
            b"null",
            b"[]",
            br#"{"reportId": -1}"#,
            other.as_bytes(),
            unknown.as_bytes(),
            hostile.to_string().as_bytes(),
            "[".repeat(2_000).as_bytes(),
        ] {
            for topic in [ACCEPTED, REJECTED] {
                assert_eq!(nucleus.deliver(topic, payload), 1, "{kind:?}");
            }
        }
        for malformed in [
            Malformed::UnknownStream,
            Malformed::NotBase64,
            Malformed::WrongShape,
            Malformed::NotJson,
        ] {
            nucleus.send_malformed(malformed);
        }
        nucleus.misbehave_times(2, Misbehave::GarbageReplies);
        let before = nucleus.reports().len();
        nucleus.wait_for("reports go on", SOON, reports(before + 4));
        agent.wait_status("garbage counted, answers heard", |status| {
            let accepted = core(status)["lastReport"]["fate"] == "accepted";
            (status["reports"]["unreadableReplies"].as_u64()? >= 2 && accepted).then_some(())
        });
        nucleus.wait_for("subscribed", SOON, |seen| {
            (seen.iot_core_filters.len() == 2).then_some(())
        });
        for line in agent.log().lines() {
            assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
        }
        let shown = crate::binary::command_line::stdout(&["status", "--state-dir", dir.path().to_str().unwrap()]);
        assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
    }
}

/// Bytes that are no message leave nothing to go on with: the SDK ends the process, and the nucleus starts it again. So
/// does a message above the limit of 256 KiB, which AWS IoT Core cannot deliver.
#[test]
fn a_broken_stream_ends_the_process_with_code_1() {
    for malformed in [
        Malformed::Garbage,
        Malformed::WrongCrc,
        Malformed::Truncated,
        Malformed::Oversized,
    ] {
        let nucleus = TestNucleus::start(as_shipped(Kind::Classic));
        let dir = tempfile::tempdir().unwrap();
        let mut agent = Agent::start(&nucleus, dir.path(), FAST);
        nucleus.wait_for("a report", SOON, reports(1));
        nucleus.send_malformed(malformed);
        assert_eq!(agent.exit_code(), 1, "{malformed:?}: {}", agent.log());
    }
}

/// An operation that is refused or comes late costs what it is for, and nothing else.
#[test]
fn refused_and_late_operations_cost_only_what_they_are_for() {
    for operation in ["SubscribeToIoTCore", "SubscribeToConfigurationUpdate", "UpdateState"] {
        for code in ["UnauthorizedError", "ServiceError"] {
            let nucleus = TestNucleus::start(as_shipped(Kind::Classic));
            nucleus.misbehave(Misbehave::Refuse {
                operation: operation.to_owned(),
                code: code.to_owned(),
            });
            let dir = tempfile::tempdir().unwrap();
            let agent = Agent::start(&nucleus, dir.path(), FAST);
            nucleus.wait_for("reports all the same", SOON, reports(2));
            agent.wait_log(&[operation]);
            if operation == "SubscribeToIoTCore" {
                agent.wait_status("replies are not heard", |status| {
                    status["subscriptions"]["error"].is_string().then_some(())
                });
                nucleus.behave();
                agent.wait_status("replies are heard", |status| {
                    let heard = status["subscriptions"]["error"].is_null() && status["subscriptions"]["held"] == 2;
                    (heard && core(status)["lastReport"]["fate"] == "accepted").then_some(())
                });
            }
            assert!(nucleus.reports().iter().all(|report| report.verdict.is_ok()));
        }
    }
    let nucleus = TestNucleus::start(as_shipped(Kind::Lite));
    nucleus.misbehave(Misbehave::Delay {
        operation: "*".to_owned(),
        by: Duration::from_millis(200),
    });
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(&nucleus, dir.path(), FAST);
    agent.wait_status("accepted, however late", |status| {
        (core(status)["counts"]["accepted"].as_u64()? >= 3).then_some(())
    });
    assert!(nucleus.reports().iter().all(|report| report.verdict.is_ok()));
    assert_eq!(agent.terminate().0, 0);
}

/// The SDK gives an unanswered request up after 10 s; meanwhile the agent answers questions, and afterwards goes on. One
/// agent per operation, all at the same time because of the 10 s.
#[test]
fn an_operation_that_is_never_answered_is_given_up() {
    let operations = [
        "PublishToIoTCore",
        "SubscribeToIoTCore",
        "SubscribeToConfigurationUpdate",
        "UpdateState",
    ];
    std::thread::scope(|scope| {
        for operation in operations {
            scope.spawn(move || {
                let nucleus = TestNucleus::start(as_shipped(Kind::Classic));
                nucleus.misbehave_times(
                    1,
                    Misbehave::NeverAnswer {
                        operation: operation.to_owned(),
                    },
                );
                let dir = tempfile::tempdir().unwrap();
                let agent = Agent::start(&nucleus, dir.path(), FAST);
                nucleus.wait_for("the request", SOON, |seen| {
                    (requests(seen, operation) == 1).then_some(())
                });
                assert!(agent.status()["upSeconds"].is_u64(), "it answers while it waits");
                agent.wait_log(&[operation, "no answer from the nucleus in time"]);
                agent.wait_status("accepted", |status| {
                    (core(status)["lastReport"]["fate"] == "accepted").then_some(())
                });
                assert!(nucleus.reports().iter().all(|report| report.verdict.is_ok()));
            });
        }
        // Before there is a configuration there is nothing to go on with.
        scope.spawn(|| {
            let nucleus = TestNucleus::start(as_shipped(Kind::Lite));
            nucleus.misbehave(Misbehave::NeverAnswer {
                operation: "GetConfiguration".to_owned(),
            });
            let dir = tempfile::tempdir().unwrap();
            let mut agent = Agent::start(&nucleus, dir.path(), FAST);
            assert_eq!(agent.exit_code(), 4);
            assert!(
                agent.log().contains("no answer from the nucleus in time"),
                "{}",
                agent.log()
            );
        });
    });
}

#[test]
fn sigterm_ends_it_within_two_seconds_also_when_the_nucleus_stalls() {
    for kind in KINDS {
        let nucleus = TestNucleus::start(as_shipped(kind));
        let dir = tempfile::tempdir().unwrap();
        let mut agent = Agent::start(&nucleus, dir.path(), FAST);
        nucleus.wait_for("a report", SOON, reports(1));
        let before = nucleus.seen().requests.len();
        nucleus.misbehave(Misbehave::NeverAnswer {
            operation: "*".to_owned(),
        });
        nucleus.wait_for("a request that hangs", SOON, |seen| {
            (seen.requests.len() > before).then_some(())
        });
        let (code, took) = agent.terminate();
        assert_eq!(code, 0);
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
}
