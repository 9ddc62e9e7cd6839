//! The operator at the command line, and what makes no sense.

use std::path::Path;
use std::process::{Command, Stdio};

use edge_warden::control::Request;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::site::until;
use crate::support::warden::{Guarded, SOON, devices, epoch, status};
use crate::{causes, no_delta, our_tables};

#[test]
fn the_operators_word_is_carried_out_explained_and_kept() {
    let mut guarded = Guarded::start(&json!({}));
    guarded.assert_open(0);
    assert!(guarded.cli(&["quarantine", "list"]).contains("nobody is quarantined"));

    let said = guarded.cli(&["quarantine", "add", "cam-0", "--reason", "smells of smoke"]);
    assert!(
        said.contains("cam-0: cut off (isolate)") && said.contains("smells of smoke"),
        "{said}"
    );
    guarded.assert_cut(0);
    let list = guarded.cli(&["quarantine", "list"]);
    assert!(
        list.contains("cam-0") && list.contains("operator") && list.contains("cut off (isolate)"),
        "{list}"
    );
    assert!(list.contains("smells of smoke"), "{list}");
    let told = guarded.cli(&["quarantine", "why", "cam-0"]);
    let (mac, v4) = (
        guarded.site.device(0).mac.to_string(),
        guarded.site.device(0).v4.to_string(),
    );
    assert!(
        told.contains("cause operator: isolate since 20") && told.contains(&mac) && told.contains(&v4),
        "{told}"
    );
    assert!(
        told.contains("Z, until released, by uid 0: smells of smoke") && !told.contains('{'),
        "{told}"
    );
    let plan = guarded.cli(&["quarantine", "plan"]);
    assert!(
        plan.contains("table bridge edge_warden") && plan.contains(&mac),
        "{plan}"
    );
    let other = guarded.cli(&["quarantine", "why", "cam-1"]);
    assert!(other.contains("cam-1: not quarantined"), "{other}");
    let told: Value = serde_json::from_str(&guarded.cli(&["quarantine", "why", "cam-0", "--json"])).unwrap();
    assert!(told["droppedPackets"].as_u64().unwrap() > 0, "{told:#}");
    // A shadow's release is not the operator's; the operator's ends everything.
    guarded.desire("cam-0", None, &json!({"quarantine": true}));
    guarded.await_enforced("cam-0", None, &json!(true));
    guarded.desire("cam-0", None, &json!({"quarantine": false}));
    guarded.await_document("cam-0", None, |document| {
        status(document)["causes"] == json!(["operator"]) && status(document)["enforced"] == true
    });
    guarded.desire("cam-0", None, &json!({"quarantine": true}));
    assert!(until(SOON, || causes(&guarded, "cam-0") == ["operator", "shadow"]));
    let said = guarded.cli(&["quarantine", "release", "cam-0"]);
    assert!(said.contains("cam-0: not quarantined"), "{said}");
    guarded.assert_open(0);
    // The demand in the shadow stands, and the shadow says that it is not in force.
    guarded.await_document("cam-0", None, |document| {
        status(document)["enforced"] == false
            && status(document)["failure"]
                .as_str()
                .is_some_and(|why| why.contains("ended by the operator"))
    });

    // Who, what, why, before and after.
    let audit = guarded.audit();
    let line = |what: &str, who: &str, before: Value, after: Value| {
        let wanted = |line: &&Value| {
            line["thing"] == "cam-0"
                && line["what"].as_str().is_some_and(|text| text.contains(what))
                && line["who"] == who
                && line["before"] == before
                && line["after"] == after
                && line["time"].as_str().is_some_and(|time| time.starts_with("20"))
        };
        assert!(audit.iter().any(|line| wanted(&line)), "{what} by {who}: {audit:#?}");
    };
    line("quarantined (isolate)", "uid 0", json!([]), json!(["operator"]));
    line(
        "quarantined (isolate)",
        "shadow",
        json!(["operator"]),
        json!(["shadow", "operator"]),
    );
    line(
        "released by the shadow",
        "shadow",
        json!(["shadow", "operator"]),
        json!(["operator"]),
    );
    line(
        "released by the operator",
        "uid 0",
        json!(["shadow", "operator"]),
        json!([]),
    );

    // An end in time, kept by the agent.
    let said = guarded.cli(&["quarantine", "add", "cam-1", "--for", "3s", "--mode", "remediate"]);
    assert!(
        said.contains("cut off (remediate)") && said.contains("Z, until 20"),
        "{said}"
    );
    let device = guarded.site.device(1);
    let gateway = guarded.site.gateway().v4.into();
    assert!(!device.ping(gateway));
    assert!(until(SOON, || device.ping(gateway)), "{}", guarded.log());
    assert!(until(SOON, || causes(&guarded, "cam-1").is_empty()));
    // And by the kernel, when there is no agent.
    guarded.cli(&["quarantine", "add", "cam-1", "--for", "4"]);
    let end = epoch() + 4;
    guarded.kill();
    let device = guarded.site.device(1);
    assert!(!device.ping(gateway), "cut off by the rules alone");
    assert!(until(SOON, || device.ping(gateway)), "the kernel lets go");
    assert!(epoch() + 1 >= end, "but not early");
    // The next agent does not begin anew what is over.
    guarded.run();
    assert!(until(SOON, || causes(&guarded, "cam-1").is_empty()));
    assert!(guarded.site.device(1).ping(gateway));
}

#[test]
fn what_makes_no_sense_changes_nothing_and_is_said() {
    let guarded = Guarded::start(&json!({}));
    guarded.assert_open(0);
    // Wrong types, depth, size: refused with the reason, or by the shadow service itself.
    let deep = (0..20).fold(json!(true), |value, _| json!({ "a": value }));
    for (desired, reason) in [
        (json!("yes"), "is text"),
        (json!(1), "is a number"),
        (json!([true]), "is a list"),
        (json!({"mode": "freeze"}), "mode is \"freeze\""),
        (json!({"mode": "isolate", "until": 1_000_000_000}), "in the past"),
        (json!({"until": 1_800_000_000_000_u64}), "until is 18000"),
        (
            json!({"until": null, "mode": null, "moed": "isolate"}),
            "unknown key \"moed\"",
        ),
    ] {
        guarded.desire("cam-0", None, &json!({"quarantine": null}));
        guarded.desire("cam-0", None, &json!({"quarantine": desired}));
        guarded.await_document("cam-0", None, |document| {
            status(document)["failure"]
                .as_str()
                .is_some_and(|why| why.contains(reason))
                && status(document)["enforced"] == false
        });
    }
    for refused in [
        json!({"quarantine": deep}),
        json!({"quarantine": {"reason": "x".repeat(9000)}}),
    ] {
        let request = Request::WriteDesired {
            thing: "cam-0".parse().unwrap(),
            name: None,
            desired: refused,
        };
        assert!(
            guarded.ask(&request).is_err(),
            "the shadow service takes no such document"
        );
    }
    assert_eq!(causes(&guarded, "cam-0"), Vec::<String>::new());
    guarded.assert_open(0);
    // A thing nobody knows is no thing of ours: its shadow is not even read. The operator's word is kept.
    guarded.desire("nobody", None, &json!({"quarantine": true}));
    let [said, warning] = guarded.cli_exit(&["quarantine", "add", "nobody"], 6);
    assert!(said.contains("no device is known for this thing yet"), "{said}");
    assert!(
        warning.contains("no device is known for nobody: nobody is cut off. The demand is kept"),
        "{warning}"
    );
    guarded.cli(&["quarantine", "release", "nobody"]);
    // For ever, as people write it.
    guarded.desire("cam-0", None, &json!({"quarantine": null}));
    guarded.desire("cam-0", None, &json!({"quarantine": {"until": "9999-12-31T23:59:59Z"}}));
    let document = guarded.await_enforced("cam-0", None, &json!(true));
    assert!(no_delta(&document), "{document:#}");
    guarded.assert_cut(0);
    // Names are names.
    for name in [
        "\"}; flush ruleset",
        "$(reboot)",
        "a b",
        "../../etc/passwd",
        "x\ny",
        "",
        &"n".repeat(129),
    ] {
        for arguments in [
            vec!["quarantine", "add", name],
            vec!["shadow", name, "{}"],
            vec!["quarantine", "why", name],
        ] {
            let output = guarded.command(&arguments);
            assert_eq!(output.status.code(), Some(2), "{arguments:?}");
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!words.contains('\u{1b}'), "{words:?}");
        }
    }
    // So is what is no desired state.
    for desired in ["{", "true", "[]", ""] {
        let output = guarded.command(&["shadow", "cam-0", desired]);
        assert_eq!(output.status.code(), Some(2), "{desired:?}");
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(words.contains("DESIRED_JSON"), "{words}");
    }
    assert_eq!(our_tables(&guarded).lines().count(), 2, "{}", our_tables(&guarded));
}

#[test]
fn a_changed_file_counts_with_the_hangup_signal_and_a_wrong_one_never() {
    let guarded = Guarded::start(&json!({"enforcement": "observe"}));
    guarded.cli(&["quarantine", "add", "cam-0"]);
    guarded.assert_open(0);
    let reload = |configuration: &Value| {
        let seen = || guarded.answer(&Request::Status)["configuration"]["reload"].clone();
        let before = seen();
        // as editors do: another file under the same name
        let fresh = guarded.config().with_extension("new");
        std::fs::write(&fresh, configuration.to_string()).unwrap();
        std::fs::rename(&fresh, guarded.config()).unwrap();
        guarded.signal(Signal::HUP);
        assert!(until(SOON, || seen() != before), "{before}\n{}", guarded.log());
        seen()
    };
    let with = |quarantine: Value| json!({"devices": devices(&guarded.site), "quarantine": quarantine});
    let said = reload(&with(json!({"enforcement": "enforce"})));
    assert_eq!((&said["taken"], &said["error"]), (&json!(1), &Value::Null), "{said}");
    guarded.assert_cut(0);
    let said = reload(&with(json!({"enforcement": "perhaps"})));
    assert!(
        said["error"].as_str().unwrap().contains("quarantine.enforcement"),
        "{said}"
    );
    guarded.assert_cut(0);
    let said = reload(&with(json!({"enforcement": "enforce", "protected": ["cam-0"]})));
    assert_eq!(said["error"], Value::Null, "{said}");
    guarded.assert_open(0);
}

/// The first quarantine of whoever tries this out, as README.md has it.
#[test]
fn the_quarantine_of_the_readme_works_as_written() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let example = readme
        .split("```sh\n")
        .map(|block| block.split("```").next().unwrap())
        .find(|block| block.contains("edge-warden run --standalone"))
        .expect("an example that runs the agent");
    let guarded = Guarded::prepare();
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(&guarded.binary, folder.path().join("edge-warden")).unwrap();
    let dir = folder.path().join("warden");
    // where the binary is and where state goes are the reader's own
    let mut commands = format!("PATH={}:$PATH\n", folder.path().display());
    for line in example.lines().filter(|line| !line.starts_with("PATH=")) {
        commands.push_str(&line.replace("/var/tmp/warden", &dir.display().to_string()));
        commands.push('\n');
    }
    let (first, last) = commands.split_at(
        commands
            .find("edge-warden shadow cam-1 '{\"quarantine\": false}'")
            .unwrap(),
    );
    // each part is a shell of its own
    let shell = |script: &str| {
        let output = std::fs::File::create(folder.path().join("output")).unwrap();
        let mut bash = Command::new("ip");
        bash.args(["netns", "exec", &guarded.site.gateway().ns, "bash", "-e", "-c", script]);
        bash.current_dir(folder.path()).stdin(Stdio::null());
        // a file: the agent in the background goes on writing there
        bash.stdout(output.try_clone().unwrap()).stderr(output);
        let done = bash.status().unwrap();
        let said = std::fs::read_to_string(folder.path().join("output")).unwrap();
        assert!(done.success(), "{script}\n{said}");
        said
    };
    let agent = folder.path().join("agent");
    let _ended = EndedAtLast(&agent);
    shell(&format!("{first}\necho $! > agent\n"));
    let list = format!("PATH={}:$PATH\n", folder.path().display())
        + commands.lines().find(|line| line.contains("quarantine list")).unwrap();
    assert!(
        until(SOON, || shell(&list).contains("cut off (isolate)")),
        "{}",
        shell(&list)
    );
    let (release, cleaning) = last.split_at(last.find("kill $!").unwrap());
    shell(&format!("PATH={}:$PATH\n{release}", folder.path().display()));
    assert!(
        until(SOON, || shell(&list).contains("nobody is quarantined")),
        "{}",
        shell(&list)
    );
    // here it is another shell that ends it
    let cleaning = cleaning.replace("$!", std::fs::read_to_string(&agent).unwrap().trim());
    shell(&format!("PATH={}:$PATH\n{cleaning}", folder.path().display()));
    assert!(!dir.exists());
    let left = guarded.site.gateway().shell("nft list tables");
    assert!(!left.contains("edge_warden"), "{left}");
}

/// Ends the process whose number is in a file.
struct EndedAtLast<'a>(&'a Path);

impl Drop for EndedAtLast<'_> {
    fn drop(&mut self) {
        let number = std::fs::read_to_string(self.0).unwrap_or_default();
        let number = number.trim().parse().ok().and_then(rustix::process::Pid::from_raw);
        if let Some(number) = number {
            let _ = rustix::process::kill_process(number, Signal::KILL);
        }
    }
}
