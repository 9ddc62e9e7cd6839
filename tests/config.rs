//! Configuration files from the outside: golden cases, the documentation, and random input.
//!
//! A folder of `golden/config` is a case: `input.yaml`, `input.json` (files) or `component.json` (a component
//! configuration), and `expected.txt`: the error as a person sees it, or `ok` and the keys that differ from the
//! defaults. A first line `# mode: standalone` chooses the mode. `UPDATE_GOLDEN=1 cargo test --test config` rewrites
//! the expectations; read the diff.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests stop at the first surprise; clippy.toml covers the #[test] functions but not what they share"
)]

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use edge_warden::config::{
    Config, ConfigError, MAX_FILE_BYTES, MAX_PROBLEMS, Mode, RawConfig, keys, load_component, load_file, metric_sources,
};
use proptest::prelude::*;
use serde_json::{Value, json};

const GOLDEN: &str = "tests/golden/config";

/// The error and its causes, one line each after the first.
fn chain(error: &ConfigError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        write!(text, "\ncaused by: {cause}").unwrap();
        source = cause.source();
    }
    text
}

fn value_at<'a>(value: &'a Value, key: &str) -> &'a Value {
    key.split('.').fold(value, |at, part| &at[part])
}

/// What the golden file says about a result.
fn described(result: Result<Config, ConfigError>) -> String {
    match result {
        Err(error) => chain(&error) + "\n",
        Ok(config) => {
            let mut text = "ok\n".to_owned();
            let effective = config.effective();
            let changes = Config::default().changes(&config);
            for key in changes.hot {
                writeln!(text, "{key} = {}", value_at(&effective, &key)).unwrap();
            }
            for key in changes.restart {
                writeln!(text, "{key} = {} (restart)", value_at(&effective, &key)).unwrap();
            }
            text
        }
    }
}

fn load_case(case: &Path) -> Result<Config, ConfigError> {
    let component = case.join("component.json");
    if component.exists() {
        let value = serde_json::from_slice(&std::fs::read(component).unwrap()).unwrap();
        return load_component(value, case, Mode::Greengrass);
    }
    let input = ["input.yaml", "input.json"]
        .map(|name| case.join(name))
        .into_iter()
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{} has no input", case.display()));
    let bytes = std::fs::read(&input).unwrap();
    let mode = if bytes.starts_with(b"# mode: standalone\n") {
        Mode::Standalone
    } else {
        Mode::Greengrass
    };
    load_file(&input, mode)
}

#[test]
fn golden_cases() {
    let mut cases: Vec<PathBuf> = std::fs::read_dir(GOLDEN)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    cases.sort();
    assert!(cases.len() >= 30, "only {} cases found", cases.len());
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut different = Vec::new();
    for case in cases {
        let got = described(load_case(&case));
        let name = case.file_name().unwrap().to_str().unwrap();
        assert_eq!(
            got.starts_with("ok\n"),
            name.starts_with("ok-"),
            "{name} is named for the other outcome:\n{got}"
        );
        let file = case.join("expected.txt");
        if update {
            std::fs::write(&file, &got).unwrap();
        }
        let expected = std::fs::read_to_string(&file).unwrap_or_default();
        if got != expected {
            different.push(format!("--- {name} expected\n{expected}--- got\n{got}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// Every leaf of a configuration as dotted keys, lists being leaves.
fn leaves(value: &Value, prefix: &str, into: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let key = if prefix.is_empty() {
                    key.clone()
                } else {
                    format!("{prefix}.{key}")
                };
                leaves(value, &key, into);
            }
        }
        _ => into.push(prefix.to_owned()),
    }
}

#[test]
fn what_is_used_has_every_key_that_can_be_written() {
    let mut used = Vec::new();
    leaves(&Config::default().effective(), "", &mut used);
    let all = keys();
    let is_section = |key: &String| all.iter().any(|other| other.starts_with(&format!("{key}.")));
    let mut written: Vec<String> = all
        .iter()
        .filter(|key| !key.contains('[') && !is_section(key))
        .cloned()
        .collect();
    used.sort();
    written.sort();
    assert_eq!(used, written);
    assert!(all.contains(&"devices[].macs".to_owned()) && all.contains(&"discovery.leases[].thingName".to_owned()));
}

#[test]
fn the_effective_configuration_reads_back_as_itself() {
    for case in [
        "ok-design",
        "ok-greengrass-types",
        "ok-named-shadow-off",
        "ok-empty",
        "ok-detect",
    ] {
        let config = load_case(&Path::new(GOLDEN).join(case)).unwrap();
        let again = RawConfig::from_value(config.effective())
            .check(Mode::Greengrass)
            .unwrap();
        assert_eq!(config, again, "{case}");
    }
}

#[test]
fn only_the_state_directory_needs_a_restart() {
    let old = Config::default();
    assert_eq!(old.changes(&old), Default::default());
    let new = load_case(&Path::new(GOLDEN).join("ok-design")).unwrap();
    let changes = old.changes(&new);
    assert_eq!(changes.restart, ["stateDir"]);
    assert!(changes.hot.contains(&"quarantine.shadow.named".to_owned()));
    assert!(changes.hot.contains(&"devices".to_owned()));
}

#[test]
fn an_invalid_default_cannot_be_built() {
    let checked = RawConfig::from_value(json!({})).check(Mode::Greengrass).unwrap();
    assert_eq!(checked, Config::default());
}

fn device(index: usize) -> Value {
    let [.., high, low] = index.to_be_bytes();
    json!({"thingName": format!("thing-{index}"), "macs": [format!("02:aa:00:00:{high:02x}:{low:02x}")]})
}

#[test]
fn ten_thousand_devices_fit_and_one_more_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let list: Vec<Value> = (0..10_000).map(device).collect();
    // The same bytes through both parsers: the limits against YAML bombs must not hit a real site.
    for name in ["many.json", "many.yaml"] {
        let path = dir.path().join(name);
        std::fs::write(&path, json!({"devices": list}).to_string()).unwrap();
        assert_eq!(load_file(&path, Mode::Greengrass).unwrap().devices.len(), 10_000);
    }
    let more = json!({"devices": (0..10_001).map(device).collect::<Vec<_>>()});
    let error = load_component(more, dir.path(), Mode::Greengrass).unwrap_err();
    assert_eq!(
        error.to_string(),
        "devices: has 10001 entries, more than 10000; split the site over several core devices"
    );
}

#[test]
fn a_file_that_is_too_large_is_refused_by_size() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("huge.yaml");
    // Sparse: 100 MB that are never read as a whole.
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(100_000_000).unwrap();
    let error = load_file(&path, Mode::Greengrass).unwrap_err();
    assert!(
        matches!(
            error,
            ConfigError::TooLarge {
                limit: MAX_FILE_BYTES,
                ..
            }
        ),
        "{error}"
    );
    let main = json!({"include": ["huge.yaml"]});
    let error = load_component(main, dir.path(), Mode::Greengrass).unwrap_err();
    assert!(error.to_string().contains("larger than 4194304 bytes"), "{error}");
}

#[test]
fn what_is_no_file_is_refused_without_waiting_for_it() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path(), Path::new("/dev/zero")] {
        let error = load_file(path, Mode::Greengrass).unwrap_err();
        assert!(chain(&error).ends_with("caused by: not a regular file"), "{error}");
    }
    let missing = load_file(&dir.path().join("missing.yaml"), Mode::Greengrass).unwrap_err();
    assert!(matches!(&missing, ConfigError::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound));
}

#[test]
fn a_flood_of_problems_is_cut_and_counted() {
    let unknown: serde_json::Map<String, Value> = (0..100_000).map(|n| (format!("key{n}"), json!(n))).collect();
    let error = load_component(Value::Object(unknown), Path::new(""), Mode::Greengrass).unwrap_err();
    let ConfigError::Invalid { problems, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(problems.as_slice().len(), MAX_PROBLEMS);
    assert_eq!(problems.further(), 100_000 - MAX_PROBLEMS);
}

const DOCUMENTATION: &str = include_str!("../docs/configuration.md");

#[test]
fn every_key_is_documented_and_every_documented_key_exists() {
    let all = keys();
    for key in &all {
        let heading = format!("| `{key}` |");
        let is_section = all.iter().any(|other| other.starts_with(&format!("{key}.")));
        assert!(
            is_section || DOCUMENTATION.contains(&heading),
            "{key} has no row in docs/configuration.md"
        );
    }
    for line in DOCUMENTATION.lines() {
        if let Some(key) = line.strip_prefix("| `").and_then(|rest| rest.split('`').next()) {
            assert!(
                all.iter().any(|known| known == key),
                "docs/configuration.md documents {key}, which does not exist"
            );
        }
    }
}

const CUSTOM_METRICS: &str = include_str!("../docs/custom-metrics.md");

#[test]
fn every_source_of_custom_metrics_is_documented_with_its_types() {
    for (source, types, keys) in metric_sources() {
        if ["file", "command", "topic"].contains(&source) {
            assert_eq!(types.len(), 4);
            assert!(
                CUSTOM_METRICS.contains(&format!("source: {source}")),
                "{source} has no example"
            );
            continue;
        }
        let words: Vec<&str> = types.iter().map(|kind| kind.as_str()).collect();
        let row = CUSTOM_METRICS
            .lines()
            .find(|line| line.starts_with(&format!("| `{source}` | {} |", words.join(", "))))
            .unwrap_or_else(|| panic!("no row for {source} with {words:?}"));
        for key in keys {
            assert!(row.contains(&format!("`{key}`")), "{key} is not in the row of {source}");
        }
    }
    for line in CUSTOM_METRICS.lines() {
        let (example, rest) = line.split_once("source: ").unwrap_or_default();
        let word = rest.split([',', '}']).next().unwrap();
        let known = metric_sources().iter().any(|(source, ..)| *source == word);
        assert!(known || !example.contains("- {"), "{line}");
    }
}

#[test]
fn every_yaml_example_loads() {
    let mut examples = 0;
    let pages = [DOCUMENTATION, CUSTOM_METRICS];
    for block in pages.iter().flat_map(|page| page.split("```yaml\n").skip(1)) {
        let text = block.split("```").next().unwrap();
        // Included files and profiles are examples of their own.
        let reader = |_: &Path| Ok(b"{}".to_vec());
        let result = RawConfig::from_bytes(Path::new("example.yaml"), text.as_bytes())
            .map(|raw| raw.resolve_includes(Path::new(""), &reader))
            .and_then(|raw| raw.check(Mode::Greengrass));
        if let Err(error) = result {
            panic!("{error}\n{text}");
        }
        examples += 1;
    }
    assert!(examples >= 8, "only {examples} examples found");
}

#[test]
fn the_documented_defaults_are_the_real_ones() {
    let effective = Config::default().effective();
    let mut used = Vec::new();
    leaves(&effective, "", &mut used);
    for key in used {
        let row = DOCUMENTATION
            .lines()
            .find(|line| line.starts_with(&format!("| `{key}` |")))
            .unwrap_or_else(|| panic!("{key} has no row"));
        let default = match value_at(&effective, &key) {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        // | `key` | type | default | allowed | meaning |
        let columns: Vec<&str> = row.split(" | ").map(str::trim).collect();
        assert_eq!(columns[2], format!("`{default}`"), "default of {key}");
    }
}

/// Any JSON value, with our own keys often enough to get past the first check.
fn any_value() -> impl Strategy<Value = Value> {
    let names: Vec<String> = keys()
        .iter()
        .map(|key| key.rsplit('.').next().unwrap().to_owned())
        .collect();
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".*".prop_map(Value::from),
        prop::sample::select(vec![
            "auto",
            "300",
            "{hostname}",
            "02:aa:00:00:00:01",
            "10.0.0.0/8",
            "/x"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 8, move |inner| {
        let key = prop_oneof![4 => prop::sample::select(names.clone()), 1 => ".*"];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..8).prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn any_json_is_a_configuration_or_an_error(value in any_value(), standalone in any::<bool>()) {
        let mode = if standalone { Mode::Standalone } else { Mode::Greengrass };
        let reader = |_: &Path| Ok(b"devices: []".to_vec());
        match RawConfig::from_value(value).resolve_includes(Path::new(""), &reader).check(mode) {
            // What is accepted stays accepted, as the same configuration.
            Ok(config) => {
                let again = RawConfig::from_value(config.effective()).check(mode);
                prop_assert_eq!(again.map_err(|error| error.to_string()), Ok(config));
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn any_bytes_are_a_configuration_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        for name in ["a.yaml", "a.json"] {
            let _ = RawConfig::from_bytes(Path::new(name), &bytes).map(|raw| raw.check(Mode::Greengrass));
        }
    }

    #[test]
    fn any_text_is_a_configuration_or_an_error(text in "[-a-z:{}\\[\\]&*!|>'\"#%@, \n\t0-9.~?]{0,200}") {
        for name in ["a.yaml", "a.json"] {
            let _ = RawConfig::from_bytes(Path::new(name), text.as_bytes()).map(|raw| raw.check(Mode::Greengrass));
        }
    }
}
