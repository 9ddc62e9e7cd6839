//! The documentation under the rule that what it shows works: every command in README.md and docs/ is run here, or its
//! block says where it needs what a test does not have. Needs root: commands run in namespaces of their own.
//!
//! The first line of a block of commands is one of
//!
//! | line | meaning |
//! |---|---|
//! | ```` ```sh ```` | run here as it stands, as root on a machine of its own without an agent |
//! | ```` ```sh agent ```` | the same, with an agent running that knows the thing `cam-1` |
//! | ```` ```sh by=FILE ```` | run by this test or script, which names the command |
//! | ```` ```sh aws ```` , `nucleus`, `docker`, `bench` | needs that, or quiet minutes; only its `make` targets and verbs are checked |
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may stop at the first surprise"
)]

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// What a block may need that a test does not have.
const NEEDS: [&str; 4] = ["aws", "nucleus", "docker", "bench"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// README.md and everything in docs/.
fn pages() -> Vec<PathBuf> {
    let docs = std::fs::read_dir(root().join("docs")).unwrap();
    let docs = docs.map(|entry| entry.unwrap().path());
    let mut pages: Vec<PathBuf> = docs
        .filter(|path| path.extension().is_some_and(|end| end == "md"))
        .collect();
    pages.push(root().join("README.md"));
    pages.sort();
    assert!(pages.len() > 5, "{pages:?}");
    pages
}

/// A fenced block.
struct Block {
    place: String,
    /// `sh agent` is `["sh", "agent"]`.
    words: Vec<String>,
    body: String,
}

fn blocks() -> Vec<Block> {
    let mut blocks = Vec::new();
    for page in pages() {
        let name = page.strip_prefix(root()).unwrap().display().to_string();
        let mut open: Option<Block> = None;
        for (number, line) in text(&page).lines().enumerate() {
            match (&mut open, line.trim_start().strip_prefix("```")) {
                (None, Some(words)) => {
                    open = Some(Block {
                        place: format!("{name}:{}", number + 1),
                        words: words.split_whitespace().map(str::to_owned).collect(),
                        body: String::new(),
                    });
                }
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (Some(block), None) => block.body += &format!("{line}\n"),
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{name}: a block without an end");
    }
    blocks
}

/// Pages whose commands have a test of their own, which names the page: those of the AWS side.
const ELSEWHERE: [(&str, &str); 2] = [
    ("docs/cloud.md", "cloud/tests/test_docs.py"),
    ("docs/migration.md", "cloud/tests/test_docs.py"),
];

/// The blocks of commands.
fn commands() -> Vec<Block> {
    let mut commands = blocks();
    for (page, test) in ELSEWHERE {
        let before = commands.len();
        commands.retain(|block| !block.place.starts_with(&format!("{page}:")));
        if commands.len() < before {
            let name = page.trim_start_matches("docs/");
            assert!(
                text(&root().join(test)).contains(&format!("\"{name}\"")),
                "{test} knows {page}"
            );
        }
    }
    for block in &commands {
        let language = block.words.first().map(String::as_str);
        assert!(
            !matches!(language, Some("bash" | "shell" | "console" | "zsh") | None),
            "{}: commands are in blocks that begin with ```sh, everything else names its language",
            block.place
        );
    }
    commands.retain(|block| block.words[0] == "sh");
    assert!(commands.len() > 5);
    commands
}

fn binary() -> PathBuf {
    let binary = std::env::var_os("EDGE_WARDEN_BINARY")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_edge-warden")), PathBuf::from);
    std::path::absolute(binary).unwrap()
}

/// Runs a script as root on what looks like a machine of its own: network, processes and the folders an agent uses. What
/// it starts ends with it.
fn on_a_machine(script: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let binary = binary();
    std::fs::create_dir(folder.path().join("bin")).unwrap();
    std::os::unix::fs::symlink(&binary, folder.path().join("bin/edge-warden")).unwrap();
    let prepare = "set -euo pipefail
        for place in /run /var/lib /var/tmp; do mount -t tmpfs tmpfs $place; done
        ip link set lo up
        ip link add lan0 type bridge && ip link set lan0 up\n";
    let mut child = Command::new("timeout")
        .args([
            "--kill-after=10",
            "120",
            "unshare",
            "--net",
            "--mount",
            "--pid",
            "--fork",
        ])
        .args(["--kill-child", "--mount-proc", "bash", "-s"])
        .current_dir(folder.path())
        .env_clear()
        .env("HOME", folder.path())
        .env("TMPDIR", folder.path())
        .env(
            "PATH",
            format!("{}/bin:/usr/sbin:/usr/bin:/sbin:/bin", folder.path().display()),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // commands of the script must not read the rest of it
    let whole = format!("{prepare}{{\n{script}\n}} < /dev/null\n");
    child.stdin.take().unwrap().write_all(whole.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn succeeds(place: &str, script: &str) -> String {
    let output = on_a_machine(script);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{place}: {:?}\n{script}\n{said}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

/// An agent on the machine, asked where a component's is.
const AGENT: &str = r#"
mkdir /run/edge-warden
echo '{"devices": [{"thingName": "cam-1", "macs": ["02:aa:00:00:00:01"]}]}' > /run/agent.json
edge-warden run --standalone /run/agent --config /run/agent.json > /run/agent.log 2>&1 &
until [ -S /run/agent/control.sock ]; do sleep 0.1; done
ln -s /run/agent/control.sock /run/edge-warden/control.sock
edge-warden quarantine add cam-1
"#;

#[test]
fn commands_without_a_mark_work() {
    assert!(
        rustix::process::geteuid().is_root(),
        "commands of the documentation are run as root: run `make test`"
    );
    assert!(
        !on_a_machine("false").status.success(),
        "positive control: a failure is noticed"
    );
    let mut run = 0;
    for block in commands() {
        let marks: Vec<&str> = block.words[1..].iter().map(String::as_str).collect();
        match marks[..] {
            [] => _ = succeeds(&block.place, &block.body),
            ["agent"] => _ = succeeds(&block.place, &format!("{AGENT}{}", block.body)),
            _ => continue,
        }
        run += 1;
    }
    assert!(run >= 3, "only {run} blocks were run");
}

#[test]
fn marked_commands_say_why_and_exist() {
    for block in commands() {
        for mark in &block.words[1..] {
            if let Some(file) = mark.strip_prefix("by=") {
                // the file that runs them names each: `make demo` or the words of a script
                let runner = text(&root().join(file));
                for command in lines(&block.body) {
                    assert!(
                        runner.contains(command),
                        "{}: {file} does not run `{command}`",
                        block.place
                    );
                }
            } else {
                assert!(
                    mark == "agent" || NEEDS.contains(&mark.as_str()),
                    "{}: nobody knows the mark {mark}",
                    block.place
                );
            }
        }
        for line in lines(&block.body) {
            check_words(&block.place, line);
        }
    }
    // what the text names between backticks
    for page in pages() {
        for span in text(&page).split('`').skip(1).step_by(2) {
            if ["edge-warden ", "make ", "sudo "]
                .iter()
                .any(|program| span.starts_with(program))
            {
                check_words(&page.display().to_string(), span);
            }
        }
    }
}

/// Commands of a block, without comments and continuations.
fn lines(body: &str) -> impl Iterator<Item = &str> {
    let commands = body.lines().map(|line| line.split(" #").next().unwrap().trim());
    commands.filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// `make TARGET` is a target, `edge-warden VERB` a verb.
fn check_words(place: &str, line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    for pair in words.windows(2) {
        let (program, word) = (
            pair[0].rsplit('/').next().unwrap(),
            pair[1].trim_end_matches(['`', ',', ';', ')']),
        );
        if pair[0].contains('=') || !word.starts_with(|c: char| c.is_ascii_lowercase()) {
            continue;
        }
        match program {
            "make" if words[0] == "make" || words[0] == "sudo" => {
                assert!(targets().contains(word), "{place}: there is no `make {word}`");
            }
            "edge-warden" | "edge-warden-amd64" => {
                assert!(
                    verbs().contains(word),
                    "{place}: there is no `edge-warden {word}`: {line}"
                );
            }
            _ => {}
        }
    }
}

fn targets() -> BTreeSet<String> {
    let makefile = text(&root().join("Makefile"));
    let heads = makefile.lines().filter_map(|line| line.split_once(':'));
    let names = heads
        .map(|(name, _)| name)
        .filter(|name| !name.contains([' ', '\t', '.', '=']));
    names.map(str::to_owned).collect()
}

fn verbs() -> &'static BTreeSet<String> {
    static VERBS: std::sync::OnceLock<BTreeSet<String>> = std::sync::OnceLock::new();
    VERBS.get_or_init(|| {
        let help = Command::new(binary()).arg("--help").output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        let list = help
            .split("Commands:")
            .nth(1)
            .unwrap()
            .split("Options:")
            .next()
            .unwrap();
        let names = list
            .lines()
            .filter(|line| line.starts_with("  ") && !line.starts_with("   "));
        let mut verbs: BTreeSet<String> = names
            .map(|line| line.split_whitespace().next().unwrap().to_owned())
            .collect();
        assert!(verbs.contains("doctor") && verbs.contains("run"), "{help}");
        // hidden: the agent's own, not for people
        verbs.insert("measure-custom".to_owned());
        verbs
    })
}

/// `make run`, which begins with `make package`, with the binary that `make test` has just packaged; alone this would build for minutes.
#[test]
fn make_run_shows_two_reports() {
    if std::env::var_os("EDGE_WARDEN_BINARY").is_none() {
        let loud = "docs.rs: make run is NOT tried without a packaged binary; run `make test`\n";
        std::io::stderr().write_all(loud.as_bytes()).unwrap();
        return;
    }
    let mut command = Command::new("make");
    command.arg("run").current_dir(root()).stdin(Stdio::null()).env_clear();
    // nothing of cargo's and make's own: it is to be what a person types
    for name in ["PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME"] {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    assert_eq!(said.matches("/defender/metrics/json\"").count(), 2, "{said}");
    // root's, and in the way of whoever runs it next without being root
    std::fs::remove_dir_all(root().join("target/standalone")).unwrap();
}

/// Whatever `doctor` looks at is in the table of troubleshooting.md.
#[test]
fn every_finding_of_doctor_is_explained() {
    let page = text(&root().join("docs/troubleshooting.md"));
    let rows: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("| ")).collect();
    for script in [
        "edge-warden doctor --json || [ $? = 5 ]",
        "setpriv --reuid=65534 --clear-groups --bounding-set=-all edge-warden doctor --json || [ $? = 5 ]",
    ] {
        // nobody must reach the binary
        let script =
            format!("cp --dereference \"$(command -v edge-warden)\" /run/edge-warden && PATH=/run:$PATH && {script}");
        let findings: Value = serde_json::from_str(&succeeds("doctor", &script)).unwrap();
        for finding in findings.as_array().unwrap() {
            let what = finding["what"].as_str().unwrap();
            let explained = rows
                .iter()
                .any(|row| row.split(" | ").next().unwrap().split(", ").any(|name| name == what));
            assert!(explained, "docs/troubleshooting.md has no row for {what:?}: {finding}");
        }
    }
}

/// Who looks for something finds every page in the index.
#[test]
fn the_index_has_every_page() {
    let index = text(&root().join("docs/README.md"));
    for page in pages() {
        let name = page.file_name().unwrap().to_str().unwrap();
        assert!(name == "README.md" || index.contains(&format!("]({name})")), "{name}");
    }
}

/// Links between the pages lead somewhere.
#[test]
fn links_lead_somewhere() {
    let heading = |line: &str| {
        let words = line.trim_start_matches('#').trim().to_lowercase();
        let kept = words
            .chars()
            .filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-' || *c == '_');
        kept.collect::<String>().replace(' ', "-")
    };
    let mut followed = 0;
    for page in pages() {
        let body = text(&page);
        for link in body.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                page.clone()
            } else {
                page.parent().unwrap().join(file)
            };
            assert!(target.exists(), "{}: {link}", page.display());
            if !anchor.is_empty() {
                let headings: Vec<String> = text(&target)
                    .lines()
                    .filter(|line| line.starts_with('#'))
                    .map(heading)
                    .collect();
                assert!(
                    headings.iter().any(|heading| heading == anchor),
                    "{}: {link}: {headings:?}",
                    page.display()
                );
            }
            followed += 1;
        }
    }
    assert!(followed > 10, "{followed}");
}

/// Tests that the pages name as what shows something are there.
#[test]
fn named_tests_exist() {
    fn sources(folder: &Path, into: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, into);
            } else if path.extension().is_some_and(|end| end == "rs" || end == "py") {
                *into += &text(&path);
            }
        }
    }
    let mut all = String::new();
    for folder in ["src", "tests", "benches", "cloud/tests"] {
        sources(&root().join(folder), &mut all);
    }
    let mut named = 0;
    for page in pages() {
        for span in text(&page).split('`').skip(1).step_by(2) {
            // a sentence in one word: shorter ones are names of metrics, those in capitals variables
            let word = |c: char| c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit();
            if span.matches('_').count() < 4 || !span.chars().all(word) {
                continue;
            }
            let there = all.contains(&format!("fn {span}(")) || all.contains(&format!("def {span}("));
            assert!(there, "{}: there is no test {span}", page.display());
            named += 1;
        }
    }
    assert!(named > 30, "{named}");
}

/// By Docker's own reader: the plugin, or the program that Debian has.
#[test]
fn compose_file_is_valid() {
    let plugin = Command::new("docker").args(["compose", "version"]).output();
    let compose = match plugin {
        Ok(output) if output.status.success() => vec!["docker", "compose"],
        _ => vec!["docker-compose"],
    };
    let config = |file: &Path| {
        let mut command = Command::new(compose[0]);
        command
            .args(&compose[1..])
            .arg("--file")
            .arg(file)
            .args(["config"])
            .env("HOME", "/nowhere");
        command
            .output()
            .unwrap_or_else(|error| panic!("docker-compose (scripts/setup.sh test installs it): {error}"))
    };
    let output = config(&root().join("compose.yaml"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read: Value = serde_saphyr::from_str(&String::from_utf8(output.stdout).unwrap()).unwrap();
    let service = &read["services"]["greengrass"];
    assert_eq!(service["network_mode"], "host");
    assert_eq!(service["cap_add"][0], "NET_ADMIN");
    assert_eq!(service["init"], true);
    // positive control: it does not take everything
    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("compose.yaml");
    std::fs::write(
        &wrong,
        text(&root().join("compose.yaml")).replace("network_mode", "network_mood"),
    )
    .unwrap();
    assert!(!config(&wrong).status.success());
}
