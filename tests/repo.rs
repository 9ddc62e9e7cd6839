//! The repository itself: recipe and build files under the rules of both nuclei and of GDK, licences, no foreign paths.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may stop at the first surprise")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const COMPONENT: &str = "dev.edgewarden.EdgeWarden";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn recipe() -> Value {
    serde_saphyr::from_str(&text("recipe.yaml")).unwrap()
}

fn object(value: &Value) -> &serde_json::Map<String, Value> {
    value.as_object().unwrap_or_else(|| panic!("an object, not {value}"))
}

fn strings(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item.as_str().unwrap())
        .collect()
}

mod recipe_rules {
    use super::*;

    #[test]
    fn has_the_fields_both_nuclei_want() {
        let recipe = recipe();
        assert_eq!(recipe["RecipeFormatVersion"], "2020-01-25");
        assert_eq!(recipe["ComponentName"], COMPONENT);
        assert_eq!(recipe["ComponentType"], "aws.greengrass.generic");
        assert_eq!(recipe["ComponentVersion"], env!("CARGO_PKG_VERSION"));
        assert!(
            COMPONENT.len() <= 128
                && COMPONENT
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        );
        // plugins of the Java nucleus cannot be depended on from lite, and one recipe cannot vary them by manifest
        assert!(recipe.get("ComponentDependencies").is_none());
        assert!(
            recipe.get("Lifecycle").is_none(),
            "lite needs an extra level in a global Lifecycle"
        );
    }

    #[test]
    fn every_manifest_is_for_both_runtimes() {
        let recipe = recipe();
        let manifests = recipe["Manifests"].as_array().unwrap();
        assert!(!manifests.is_empty());
        let mut basenames = Vec::new();
        for manifest in manifests {
            let platform = object(&manifest["Platform"]);
            assert_eq!(platform["os"], "linux");
            // without runtime '*' either lite refuses the recipe or the Java nucleus does
            assert_eq!(platform["runtime"], "*");
            let architecture = platform["architecture"].as_str().unwrap();
            assert!(["amd64", "aarch64", "arm"].contains(&architecture), "{architecture}");
            for (step, body) in object(&manifest["Lifecycle"]) {
                // lite is case-sensitive and ignores shutdown and recover
                assert!(
                    ["setenv", "bootstrap", "install", "run"].contains(&step.as_str()),
                    "{step}"
                );
                for key in object(body).keys() {
                    assert!(
                        ["Script", "RequiresPrivilege", "Timeout", "Setenv"].contains(&key.as_str()),
                        "{key}"
                    );
                }
                let script = body["Script"].as_str().unwrap();
                let rest = script.replace("{artifacts:path}", "");
                assert!(
                    !rest.contains(['{', '}', '$']),
                    "lite takes every brace for a variable: {script}"
                );
                assert!(
                    script.starts_with("exec "),
                    "sh must not stay between the nucleus and us: {script}"
                );
            }
            for artifact in manifest["Artifacts"].as_array().unwrap() {
                // lite wants `Uri` spelled so in local recipes
                let uri = artifact["Uri"].as_str().unwrap();
                assert!(
                    uri.starts_with("s3://BUCKET_NAME/COMPONENT_NAME/COMPONENT_VERSION/"),
                    "{uri}"
                );
                assert_eq!(artifact["Permission"]["Execute"], "ALL");
                basenames.push(uri.rsplit('/').next().unwrap().to_owned());
            }
        }
        let distinct: std::collections::BTreeSet<_> = basenames.iter().collect();
        assert_eq!(
            distinct.len(),
            basenames.len(),
            "publish matches artifacts by basename: {basenames:?}"
        );
    }

    #[test]
    fn access_control_is_well_formed_for_both_matchers() {
        let recipe = recipe();
        let services = object(&recipe["ComponentConfiguration"]["DefaultConfiguration"]["accessControl"]).clone();
        let known: BTreeMap<&str, &[&str]> = BTreeMap::from([
            (
                "aws.greengrass.ipc.mqttproxy",
                &["PublishToIoTCore", "SubscribeToIoTCore"][..],
            ),
            ("aws.greengrass.ipc.pubsub", &["PublishToTopic", "SubscribeToTopic"]),
            (
                "aws.greengrass.ShadowManager",
                &[
                    "GetThingShadow",
                    "UpdateThingShadow",
                    "DeleteThingShadow",
                    "ListNamedShadowsForThing",
                ],
            ),
        ]);
        for (service, policies) in &services {
            let operations = known
                .get(service.as_str())
                .unwrap_or_else(|| panic!("unknown service {service}"));
            for (id, policy) in object(policies) {
                assert!(id.starts_with(COMPONENT), "{id} must be unique among all components");
                assert!(!policy["policyDescription"].as_str().unwrap().is_empty());
                for operation in strings(&policy["operations"]) {
                    let name = operation.strip_prefix("aws.greengrass#").unwrap();
                    assert!(operations.contains(&name), "{operation} is not of {service}");
                }
                for resource in strings(&policy["resources"]) {
                    assert!(!resource.contains('?'), "the Java nucleus refuses a bare ?: {resource}");
                    let star = resource.contains('*');
                    let mqtt = resource.contains(['+', '#']);
                    assert!(!(star && mqtt), "lite refuses * beside + or #: {resource}");
                    assert_ne!(resource, "*", "least access: name what is used");
                }
            }
            let size = serde_json::to_vec(policies).unwrap().len();
            assert!(
                size <= 4096,
                "lite holds at most 4,096 bytes of policies per service; {service} has {size}"
            );
        }
    }

    #[test]
    fn stays_under_the_size_limits() {
        let size = text("recipe/recipe.yaml").len();
        assert!(
            size <= 8196,
            "lite loads at most 8,196 bytes of recipe, this one has {size}"
        );
        fn leaves(path: &str, value: &Value) {
            match value {
                Value::Object(map) => {
                    assert!(map.len() <= 64, "{path}: lite takes at most 64 children");
                    map.iter()
                        .for_each(|(key, value)| leaves(&format!("{path}/{key}"), value));
                }
                leaf => {
                    let size = leaf.to_string().len();
                    assert!(
                        size <= 1024,
                        "{path}: lite keeps at most 1,024 bytes per leaf, this one has {size}"
                    );
                }
            }
        }
        leaves("", &recipe()["ComponentConfiguration"]["DefaultConfiguration"]);
    }

    #[test]
    fn the_default_configuration_is_valid() {
        let recipe = recipe();
        let configuration = &recipe["ComponentConfiguration"]["DefaultConfiguration"];
        let config = edge_warden::config::load_component(
            configuration.clone(),
            Path::new(""),
            edge_warden::config::Mode::Greengrass,
        )
        .unwrap();
        assert_eq!(
            config,
            edge_warden::config::Config::default(),
            "the recipe repeats the defaults, no others"
        );
    }
}

mod gdk {
    use super::*;

    #[test]
    fn the_recipe_is_found_where_gdk_looks() {
        let link = std::fs::read_link(root().join("recipe.yaml")).unwrap();
        // publish looks for the link target's basename
        assert_eq!(link, Path::new("recipe/recipe.yaml"));
        assert!(!root().join("recipe.json").exists(), "gdk refuses two recipes");
    }

    /// The rules of gdk 1.6.2's configuration schema, as far as this file uses them.
    #[test]
    fn the_configuration_passes_the_schemas_rules() {
        let config: Value = serde_json::from_str(&text("gdk-config.json")).unwrap();
        let components = object(&config["component"]);
        assert_eq!(components.keys().collect::<Vec<_>>(), [COMPONENT]);
        let component = &components[COMPONENT];
        assert!(component["author"].is_string());
        let version = component["version"].as_str().unwrap();
        assert_eq!(version, env!("CARGO_PKG_VERSION"));
        assert_eq!(component["build"]["build_system"], "custom");
        // no shell: a string with arguments would be looked up as one program name
        assert_eq!(
            strings(&component["build"]["custom_build_command"]),
            ["bash", "build.sh", "all"]
        );
        assert!(component["publish"]["bucket"].is_string());
        assert!(component["publish"]["region"].is_string());
        assert_eq!(config["gdk_version"], "1.6.2");
    }

    #[test]
    fn the_build_leaves_what_publish_expects() {
        // `make test` has just run build.sh; alone, this test wants it run first
        let build = root().join("greengrass-build");
        assert!(build.join("recipes/recipe.yaml").is_file(), "run ./build.sh first");
        let artifacts = build.join("artifacts").join(COMPONENT).join(env!("CARGO_PKG_VERSION"));
        let mut built: Vec<String> = std::fs::read_dir(artifacts)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                assert!(entry.file_type().unwrap().is_file(), "publish breaks on sub-folders");
                entry.file_name().into_string().unwrap()
            })
            .collect();
        built.sort();
        let recipe = recipe();
        for name in &built {
            let named = recipe["Manifests"].as_array().unwrap().iter().any(|manifest| {
                manifest["Artifacts"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|artifact| artifact["Uri"].as_str().unwrap().ends_with(&format!("/{name}")))
            });
            assert!(named, "{name} is in no manifest");
        }
        assert!(!built.is_empty());
    }
}

/// README.md's table of binaries against those that were built: `make test` builds this machine's, `make package-all` all.
#[test]
fn the_sizes_in_the_readme_are_those_of_the_binaries() {
    let readme = text("README.md");
    let artifacts = root()
        .join("greengrass-build/artifacts")
        .join(COMPONENT)
        .join(env!("CARGO_PKG_VERSION"));
    let mut compared = 0;
    for architecture in ["amd64", "aarch64", "arm"] {
        let row = readme
            .lines()
            .find(|line| line.starts_with(&format!("| `{architecture}` |")))
            .unwrap_or_else(|| panic!("README.md has no row for {architecture}"));
        let size = row.trim_end_matches(" |").rsplit("| ").next().unwrap();
        let stated: f64 = size.strip_suffix(" MB").unwrap().parse().unwrap();
        let limit = 6.0 * 1024.0 * 1024.0 / 1e6;
        assert!(stated <= limit, "{row}");
        let Ok(file) = artifacts.join(format!("edge-warden-{architecture}")).metadata() else {
            continue;
        };
        let built = f64::from(u32::try_from(file.len()).unwrap()) / 1e6;
        assert!(built <= limit, "{architecture}: {built} MB, at most {limit}");
        // to the twentieth: compilers differ, and not every change is one of the README
        assert!(
            (built - stated).abs() <= stated / 20.0,
            "README.md says {stated} MB for {architecture}, what is in greengrass-build/ has {built}"
        );
        compared += 1;
    }
    assert!(compared > 0, "run ./build.sh first");
}

mod build_script {
    use super::*;

    /// build.sh in a copy of what it reads, with compilers that only write down how they were called.
    fn build(arguments: &[&str]) -> (std::process::Output, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path();
        for file in ["build.sh", "gdk-config.json", "recipe/recipe.yaml"] {
            std::fs::create_dir_all(place.join(file).parent().unwrap()).unwrap();
            std::fs::copy(root().join(file), place.join(file)).unwrap();
        }
        let stub = |name: &str, script: &str| {
            let path = place.join("bin").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, format!("#!/bin/bash\n{script}\n")).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        };
        stub("uname", "echo x86_64");
        for compiler in ["aarch64-linux-gnu-gcc", "arm-linux-gnueabihf-gcc"] {
            stub(compiler, "exit 1");
        }
        stub("rustup", "exit 0");
        stub("rustc", "echo /rust");
        // what cargo would leave: the target's name in place of a binary
        stub(
            "cargo",
            "echo \"$CARGO_ENCODED_RUSTFLAGS $CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER $*\" >> calls
            while [ $# -gt 0 ]; do
                if [ \"$1\" = --target ]; then mkdir -p target/$2/release; echo $2 > target/$2/release/edge-warden; fi
                shift
            done",
        );
        let path = format!("{}:/usr/bin:/bin", place.join("bin").display());
        let output = Command::new("bash")
            .arg("build.sh")
            .args(arguments)
            .current_dir(place)
            .env_clear()
            .env("PATH", path)
            .env("HOME", place)
            .output()
            .unwrap();
        (output, folder)
    }

    #[test]
    fn every_manifest_of_the_recipe_gets_its_own_binary() {
        let (output, folder) = build(&["all"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let build = folder.path().join("greengrass-build");
        let artifacts = build.join("artifacts").join(COMPONENT).join(env!("CARGO_PKG_VERSION"));
        let recipe: Value =
            serde_saphyr::from_str(&std::fs::read_to_string(build.join("recipes/recipe.yaml")).unwrap()).unwrap();
        let manifests = recipe["Manifests"].as_array().unwrap();
        let mut targets = Vec::new();
        for manifest in manifests {
            let uri = manifest["Artifacts"][0]["Uri"].as_str().unwrap();
            let name = uri.rsplit('/').next().unwrap();
            let architecture = manifest["Platform"]["architecture"].as_str().unwrap();
            assert_eq!(name, format!("edge-warden-{architecture}"));
            let script = manifest["Lifecycle"]["run"]["Script"].as_str().unwrap();
            assert!(script.contains(&format!("/{name} ")), "{script}");
            targets.push(std::fs::read_to_string(artifacts.join(name)).unwrap().trim().to_owned());
        }
        assert_eq!(
            targets,
            [
                "x86_64-unknown-linux-gnu",
                "aarch64-unknown-linux-gnu",
                "armv7-unknown-linux-gnueabihf"
            ]
        );
        assert_eq!(std::fs::read_dir(artifacts).unwrap().count(), targets.len());
        let calls = std::fs::read_to_string(folder.path().join("calls")).unwrap();
        for call in calls.lines() {
            assert!(call.contains("+crt-static") && call.contains("--locked"), "{call}");
        }
        assert!(
            calls.contains("aarch64-linux-gnu-gcc build --profile release"),
            "{calls}"
        );
    }

    #[test]
    fn without_arguments_it_is_for_this_machine_and_unknown_ones_are_named() {
        let (output, folder) = build(&[]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let calls = std::fs::read_to_string(folder.path().join("calls")).unwrap();
        assert!(
            calls.contains("--target x86_64-unknown-linux-gnu") && !calls.contains("aarch64-unknown"),
            "{calls}"
        );
        let (output, _folder) = build(&["mips"]);
        assert!(!output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains("no architecture mips"));
    }
}

mod licences {
    use super::*;

    /// Is the SPDX expression satisfied by the allowed licences? (`A OR B`, `A AND B`, `A/B`, parentheses.)
    fn satisfied(expression: &str, allowed: &[String]) -> bool {
        let expression = expression.replace('/', " OR ");
        spdx::Expression::parse_mode(&expression, spdx::ParseMode::LAX)
            .unwrap_or_else(|error| panic!("{expression}: {error}"))
            .evaluate(|requirement| allowed.contains(&requirement.to_string()))
    }

    #[test]
    fn nothing_in_the_binary_is_under_an_unlisted_licence() {
        let deny = text("deny.toml");
        let list = deny.split("allow = [").nth(1).unwrap().split(']').next().unwrap();
        let allowed: Vec<String> = list
            .lines()
            .filter_map(|line| Some(line.trim().strip_prefix('"')?.split('"').next()?.to_owned()))
            .collect();
        assert!(allowed.iter().any(|licence| licence == "MIT"));
        assert!(!allowed.iter().any(|licence| licence.contains("GPL")));
        // what is linked: normal dependencies for Linux, no build tools and no tests
        let tree = Command::new(env!("CARGO"))
            .args([
                "tree", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}\t{l}",
            ])
            .current_dir(root())
            .output()
            .unwrap();
        assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
        let listing = String::from_utf8(tree.stdout).unwrap();
        let mut checked = 0;
        for line in listing.lines() {
            let (package, licence) = line.split_once('\t').unwrap();
            let licence = licence.trim_end_matches(" (*)");
            assert!(!licence.is_empty(), "{package} names no licence");
            assert!(
                satisfied(licence, &allowed),
                "{package}: {licence} is not allowed by deny.toml"
            );
            checked += 1;
        }
        assert!(checked > 20, "{listing}");
        assert!(!satisfied("GPL-3.0-or-later", &allowed), "the check itself can fail");
    }
}

mod house {
    use super::*;

    fn tracked() -> Vec<String> {
        let files = Command::new("git")
            .args(["ls-files"])
            .current_dir(root())
            .output()
            .unwrap();
        assert!(files.status.success(), "{}", String::from_utf8_lossy(&files.stderr));
        String::from_utf8(files.stdout)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn unsafe_is_only_where_the_sdk_is_wrapped() {
        for file in tracked()
            .iter()
            .filter(|file| file.starts_with("src/") && file.ends_with(".rs"))
        {
            if file == "src/greengrass/sdk.rs" || file.starts_with("src/greengrass/sdk/") {
                continue;
            }
            let body = text(file);
            let found = body.lines().find(|line| {
                let code = line.split("//").next().unwrap();
                code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl")
            });
            assert_eq!(found, None, "{file}");
        }
    }

    /// Folders are the data flow: a module names only those above it.
    #[test]
    fn imports_follow_the_data_flow() {
        let order = [
            "model",
            "netlink",
            "config",
            "collect",
            "devices",
            "report",
            "detect",
            "quarantine",
            "firewall",
            "greengrass",
            "control",
            "agent",
        ];
        for file in tracked()
            .iter()
            .filter(|file| file.starts_with("src/") && file.ends_with(".rs"))
        {
            let Some(own) = order
                .iter()
                .position(|module| file.starts_with(&format!("src/{module}/")) || *file == format!("src/{module}.rs"))
            else {
                continue;
            };
            let body = text(file);
            for line in body.lines().map(|line| line.split("//").next().unwrap()) {
                for (place, module) in order.iter().enumerate().skip(own + 1) {
                    assert!(
                        !line.contains(&format!("crate::{module}::")),
                        "{file} ({}) uses {module}, which stands below it ({place}): {line}",
                        order[own]
                    );
                }
            }
        }
    }

    #[test]
    fn the_changelog_knows_this_version() {
        assert!(text("CHANGELOG.md").contains(&format!("[{}]", env!("CARGO_PKG_VERSION"))));
    }

    #[test]
    fn the_readme_names_the_commands_ci_runs() {
        assert!(text(".ci/run").lines().any(|line| line == "make test"));
        let readme = text("README.md");
        assert!(readme.contains("make run") && readme.contains("make test"));
    }
}
