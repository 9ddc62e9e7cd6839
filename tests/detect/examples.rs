//! Golden profiles: each folder of `tests/golden/detect` has a `profile.json`, where it is from (`about.txt`), and what
//! becomes of it (`expected.txt`): loaded, with warnings and each behavior in a sentence, or refused, with every reason.
//! `UPDATE_GOLDEN=1` writes them anew; read the difference before committing it.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use edge_warden::detect::{CustomTypes, MetricType, Profile, explain};

fn custom() -> CustomTypes {
    let numbers = ["batteryPercentage", "cpu_usage", "num_child_procs_myap"];
    numbers
        .into_iter()
        .map(|name| (name.to_owned(), MetricType::Number))
        .collect()
}

fn outcome(json: &str) -> String {
    let mut text = String::new();
    match Profile::parse(&serde_json::from_str(json).unwrap(), &custom()) {
        Ok(parsed) => {
            text.push_str("loads\n");
            for warning in &parsed.warnings {
                writeln!(text, "warning: {warning}").unwrap();
            }
            for sentence in explain(&parsed.profile) {
                writeln!(text, "{sentence}").unwrap();
            }
        }
        Err(error) => {
            text.push_str("refused\n");
            writeln!(text, "{error}").unwrap();
        }
    }
    text
}

fn cases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/detect");
    let mut cases: Vec<PathBuf> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() > 30, "{cases:?}");
    cases
}

fn name(case: &Path) -> &str {
    case.file_name().unwrap().to_str().unwrap()
}

#[test]
fn every_example_becomes_what_is_written_beside_it() {
    let mut wrong = String::new();
    for case in cases() {
        let found = outcome(&fs::read_to_string(case.join("profile.json")).unwrap());
        let path = case.join("expected.txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &found).unwrap();
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        if found != expected {
            writeln!(wrong, "{}:\n{found}instead of\n{expected}", name(&case)).unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn the_table_in_the_docs_has_every_example_of_aws_with_its_outcome() {
    let docs = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/detect.md")).unwrap();
    let mut rows = 0;
    for case in cases() {
        if ["aws-", "workshop-", "tutorial-", "blog-"]
            .iter()
            .all(|from| !name(&case).starts_with(from))
        {
            continue;
        }
        let row = docs
            .lines()
            .find(|line| line.starts_with(&format!("| `{}` |", name(&case))));
        let row = row.unwrap_or_else(|| panic!("docs/detect.md has no row for {}", name(&case)));
        let expected = fs::read_to_string(case.join("expected.txt")).unwrap();
        let mut lines = expected.lines();
        let outcome = lines.next().unwrap();
        assert!(row.contains(outcome), "{row}\nis to say {outcome}");
        if outcome == "refused" {
            let reason = lines.next().unwrap().split_once(": ").map_or("", |(_, reason)| reason);
            assert!(row.contains(reason), "{row}\nis to give the reason {reason}");
        }
        rows += 1;
    }
    let listed = docs.lines().filter(|line| {
        ["| `aws-", "| `workshop-", "| `tutorial-", "| `blog-"]
            .iter()
            .any(|row| line.starts_with(row))
    });
    assert_eq!(listed.count(), rows, "no row without an example");
}
