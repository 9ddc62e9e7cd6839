//! The verbs a person types.

use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::Value;

use crate::support::binary::{Agent, command};
use crate::support::nucleus::defender::{Defender, Format};
use crate::support::nucleus::{Kind, TestNucleus};
use crate::{FAST, as_shipped, core};

fn run(arguments: &[&str]) -> Output {
    let ended = command(arguments).output().unwrap();
    for text in [&ended.stdout, &ended.stderr] {
        // CBOR is no text.
        if let Ok(text) = std::str::from_utf8(text) {
            assert!(
                !text.contains(|c: char| c.is_control() && c != '\n'),
                "{arguments:?}: {text:?}"
            );
        }
    }
    ended
}

/// What is printed, by a verb that succeeds.
pub(super) fn stdout(arguments: &[&str]) -> String {
    let ended = run(arguments);
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(0), "{arguments:?}: {said}");
    String::from_utf8(ended.stdout).unwrap()
}

fn code_and_stderr(arguments: &[&str]) -> (Option<i32>, String) {
    let ended = run(arguments);
    (ended.status.code(), String::from_utf8(ended.stderr).unwrap())
}

#[test]
fn status_shows_the_running_agent() {
    let nucleus = TestNucleus::start(as_shipped(Kind::Lite));
    let dir = tempfile::tempdir().unwrap();
    let dir_name = dir.path().to_str().unwrap();
    let agent = Agent::start(&nucleus, dir.path(), FAST);
    agent.wait_status("accepted", |status| {
        (core(status)["lastReport"]["fate"] == "accepted").then_some(())
    });
    let text = stdout(&["status", "--state-dir", dir_name]);
    for word in [
        "lite nucleus",
        "gateway-1",
        "accepted",
        "REPORTS (json, at most 7008 bytes)",
        "listening TCP ports",
        "ok",
    ] {
        assert!(text.contains(word), "{word} not in:\n{text}");
    }
    let status: Value = serde_json::from_str(&stdout(&["status", "--json", "--state-dir", dir_name])).unwrap();
    assert_eq!(
        (&status["thing"], &status["nucleus"]),
        (&"gateway-1".into(), &"lite".into())
    );
    assert_eq!(status["configuration"]["effective"]["report"]["intervalSeconds"], 300);
    assert_eq!(status["stateDir"], dir_name);
}

#[test]
fn status_without_an_agent_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (code, said) = code_and_stderr(&["status", "--state-dir", dir.path().to_str().unwrap()]);
    assert_eq!(code, Some(4));
    assert!(
        said.contains("no agent is running") && said.contains("control.sock"),
        "{said}"
    );
}

/// Two agents that save to the same files would break each other's 300 s.
#[test]
fn a_second_agent_on_the_same_folder_is_refused() {
    let nucleus = TestNucleus::start(as_shipped(Kind::Classic));
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(&nucleus, dir.path(), FAST);
    agent.wait_status("running", |status| status.is_object().then_some(()));
    let mut second = Agent::start(&nucleus, dir.path(), FAST);
    assert_eq!(second.exit_code(), 4);
    assert!(second.log().contains("another edge-warden uses"), "{}", second.log());
    assert!(agent.status().is_object(), "the first one is still reachable");
}

#[test]
fn a_report_of_this_host_is_valid_in_every_format() {
    for (format, as_sent) in [("json", Format::Json), ("cbor", Format::Cbor)] {
        for (names, header) in [("long", "header"), ("short", "hed")] {
            let ended = run(&["report", "--format", format, "--names", names]);
            assert_eq!(
                ended.status.code(),
                Some(0),
                "{}",
                String::from_utf8_lossy(&ended.stderr)
            );
            let judged = Defender::default().judge(("here", as_sent), &ended.stdout, 1, false, None);
            assert_eq!(judged.verdict, Ok(()), "{format} {names}");
            assert!(judged.document.get(header).is_some(), "{}", judged.document);
        }
    }
    let measured = run(&["report", "--format", "json", "--interval", "1"]);
    let judged = Defender::default().judge(("here", Format::Json), &measured.stdout, 1, false, None);
    assert_eq!(judged.verdict, Ok(()));
    assert!(
        judged.document["metrics"]["network_stats"]["bytes_in"].is_u64(),
        "{}",
        judged.document
    );
    let table = stdout(&["report"]);
    for word in [
        "Device Defender report",
        "TRAFFIC  not measured",
        "LISTENING TCP",
        "LISTENING UDP",
        "ESTABLISHED TCP",
    ] {
        assert!(table.contains(word), "{word} not in:\n{table}");
    }
}

#[test]
fn check_config_names_every_mistake() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let good = file("good.yaml", "report:\n  intervalSeconds: 600\n  format: cbor\n");
    assert_eq!(stdout(&["check-config", &good]), format!("{good}: valid\n"));
    assert_eq!(
        run(&["check-config", &file("good.json", r#"{"sampleSeconds": 5}"#)])
            .status
            .code(),
        Some(0)
    );
    let bad = file(
        "bad.yaml",
        "report:\n  intervalSeconds: 10\n  fromat: cbor\nsampleSeconds: 0\n",
    );
    let (code, said) = code_and_stderr(&["check-config", &bad]);
    assert_eq!(code, Some(3), "{said}");
    for word in [
        "bad.yaml",
        "report.intervalSeconds",
        "10",
        "300",
        "report.fromat",
        "format",
        "sampleSeconds",
    ] {
        assert!(said.contains(word), "{word} not in: {said}");
    }
    let quick = file("quick.yaml", "report: {intervalSeconds: 1}\n");
    assert_eq!(run(&["check-config", &quick]).status.code(), Some(3));
    assert_eq!(run(&["check-config", "--standalone", &quick]).status.code(), Some(0));
    let hostile = file(
        "hostile.yaml",
        "\"\\e[2Jevil\": 1\nreport: {format: \"\\e]0;evil\\a\"}\n",
    );
    let (code, said) = code_and_stderr(&["check-config", &hostile]);
    assert_eq!(code, Some(3));
    assert!(said.contains("evil"), "{said}");
    let (code, said) = code_and_stderr(&["check-config", &file("broken.yaml", "report: [")]);
    assert_eq!(code, Some(3), "{said}");
    let (code, said) = code_and_stderr(&["check-config", dir.path().join("absent.yaml").to_str().unwrap()]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("absent.yaml"), "{said}");
}

#[test]
fn doctor_finds_this_host_and_this_binary_fit() {
    let text = stdout(&["doctor"]);
    assert!(
        text.contains("IPC limits of this binary: messages up to 262144 bytes, 64 streams"),
        "{text}"
    );
    assert!(text.contains("TCP sockets"), "{text}");
    let findings: Value = serde_json::from_str(&stdout(&["doctor", "--json"])).unwrap();
    assert!(
        findings
            .as_array()
            .unwrap()
            .iter()
            .all(|finding| finding["state"] != "fails"),
        "{findings}"
    );
}

#[test]
fn help_explains_exit_codes_and_completions_are_a_script() {
    let help = stdout(&["--help"]);
    for word in [
        "Exit codes:",
        "3  the configuration or a security profile is not valid",
        "check-config",
        "AWS_IOT_THING_NAME",
    ] {
        assert!(help.contains(word), "{word} not in:\n{help}");
    }
    assert!(
        !stdout(&["run", "--help"]).contains("accelerate"),
        "a switch for tests is no switch for people"
    );
    assert_eq!(
        stdout(&["--version"]),
        format!("edge-warden {}\n", env!("CARGO_PKG_VERSION"))
    );
    let script = stdout(&["completions", "bash"]);
    assert!(script.contains("complete -F") && script.contains("check-config"));
    let page = stdout(&["man"]);
    assert!(
        page.contains(".TH edge-warden 1") && page.contains("Exit codes"),
        "{page}"
    );
    let page = stdout(&["man", "quarantine"]);
    assert!(
        page.contains(".TH edge-warden-quarantine 1") && page.contains("\\fBedge\\-warden quarantine\\fR"),
        "{page}"
    );
    // every page that another one names can be had
    let mut pages = vec![vec!["man"]];
    let verbs: Vec<String> = stdout(&["--help"])
        .split("Commands:")
        .nth(1)
        .and_then(|rest| rest.split("Options:").next())
        .unwrap()
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .collect();
    assert!(verbs.len() > 10, "{verbs:?}");
    pages.extend(
        verbs
            .iter()
            .filter(|verb| *verb != "help")
            .map(|verb| vec!["man", verb]),
    );
    pages.push(vec!["man", "quarantine", "add"]);
    pages.push(vec!["man", "detect", "replay"]);
    for page in pages {
        let title = format!(".TH {} 1", [&["edge-warden"], &page[1..]].concat().join("-"));
        assert!(stdout(&page).contains(&title), "{page:?}");
    }
    let (code, said) = code_and_stderr(&["man", "quarentine"]);
    assert!(code == Some(4) && said.contains("no verb quarentine"), "{said}");
    assert_eq!(run(&["reprot"]).status.code(), Some(2));
    assert_eq!(run(&[]).status.code(), Some(2));
}

/// `edge-warden report | head -1`: whoever reads has had enough.
#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let nucleus = TestNucleus::start(as_shipped(Kind::Classic));
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(&nucleus, dir.path(), FAST);
    agent.wait_status("running", |status| status.is_object().then_some(()));
    let dir = dir.path().to_str().unwrap();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipe/../artifacts/try-out.yaml");
    for arguments in [
        &["report"][..],
        &["report", "--format", "json"],
        &["report", "--format", "cbor"],
        &["status", "--state-dir", dir],
        &["status", "--json", "--state-dir", dir],
        &["check-config", "--standalone", example.to_str().unwrap()],
        &["doctor"],
        &["doctor", "--json"],
        &["completions", "bash"],
        &["--help"],
        &["--version"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ended = command(arguments)
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
            .wait_with_output()
            .unwrap();
        assert_eq!(
            ended.status.code(),
            Some(0),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&ended.stderr)
        );
        assert_eq!(ended.stderr, b"", "{arguments:?}");
    }
}

/// Somebody who controls the folder of the agent decides over quarantines.
#[test]
fn folders_of_others_and_folders_that_are_not_there_are_refused_with_the_reason() {
    use std::os::unix::fs::{PermissionsExt, chown};
    let top = tempfile::tempdir().unwrap();
    let name = |folder: &str| top.path().join(folder).to_str().unwrap().to_owned();
    for folder in ["writable", "theirs", "state-theirs/state"] {
        std::fs::create_dir_all(name(folder)).unwrap();
        std::fs::set_permissions(name(folder), PermissionsExt::from_mode(0o755)).unwrap();
    }
    std::fs::set_permissions(name("writable"), PermissionsExt::from_mode(0o777)).unwrap();
    for folder in ["theirs", "state-theirs/state"] {
        chown(name(folder), Some(65534), None).expect("root");
    }
    for (verb, folder, words) in [
        ("run", "writable", "writable is writable for others"),
        ("run", "theirs", "theirs is another user's"),
        ("run", "state-theirs", "state-theirs/state is another user's"),
        ("boot", "state-theirs", "state-theirs/state is another user's"),
        ("boot", "nowhere", "nowhere/state does not exist"),
    ] {
        let (code, said) = code_and_stderr(&[verb, "--standalone", &name(folder)]);
        assert_eq!(code, Some(4), "{verb} {folder}: {said}");
        assert!(said.contains(words), "{verb} {folder}: {said}");
    }
    assert!(!top.path().join("nowhere").exists());
    assert!(!top.path().join("writable/state").exists());
}

#[test]
fn lengths_of_time_are_written_as_people_write_them() {
    let nowhere = tempfile::tempdir().unwrap();
    let add = |time: &str| {
        let place = nowhere.path().to_str().unwrap();
        code_and_stderr(&["quarantine", "add", "cam-1", "--for", time, "--standalone", place])
    };
    // understood: only the agent is missing
    for time in [
        "1", "90", "30s", "30m", "2h", "7d", "1d 12h", "2 weeks", "PT90S", "36500d",
    ] {
        let (code, said) = add(time);
        assert!(code == Some(4) && said.contains("no agent"), "{time}: {said}");
    }
    for time in [
        "0",
        "0s",
        "2 months",
        "1y",
        "soon",
        "",
        "36501d",
        "99999999999999999999",
    ] {
        let (code, said) = add(time);
        assert_eq!(code, Some(2), "{time}: {said}");
        assert!(said.contains("--for"), "{time}: {said}");
    }
}
