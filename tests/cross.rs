//! The binaries for other architectures, run by an emulator of the processor (qemu-user) on this machine's kernel.
//!
//! They are of cargo profile `cross-test`: the code that ships, not optimised, which would cost minutes, and with overflow
//! checked.
//! `PROFILE=cross-test ./build.sh aarch64 arm` builds them; EDGE_WARDEN_CROSS_PROFILE=release takes the shipped ones of
//! `make package-all` instead. Not part of a plain `cargo test`; `make test` runs it. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests: the first surprise ends them, in helpers too"
)]

mod support;

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use support::binary::{Agent, SOON, access_control, configuration, run_arguments};
use support::netns::Namespace;
use support::nucleus::{Settings, TestNucleus};

/// Another architecture than this machine's.
#[derive(Debug, Clone, Copy)]
struct Foreign {
    target: &'static str,
    emulator: &'static str,
    /// What `file` and `uname -m` call it.
    file: &'static str,
    machine: &'static str,
}

const ARCHITECTURES: [Foreign; 2] = [
    Foreign {
        target: "aarch64-unknown-linux-gnu",
        emulator: "qemu-aarch64-static",
        file: "ELF 64-bit LSB executable, ARM aarch64",
        machine: "aarch64",
    },
    Foreign {
        target: "armv7-unknown-linux-gnueabihf",
        emulator: "qemu-arm-static",
        file: "ELF 32-bit LSB executable, ARM, EABI5",
        machine: "armv7l",
    },
];

impl Foreign {
    fn binary(self) -> PathBuf {
        let profile = std::env::var("EDGE_WARDEN_CROSS_PROFILE").unwrap_or_else(|_| "cross-test".to_owned());
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("target")
            .join(self.target)
            .join(profile)
            .join("edge-warden");
        assert!(
            path.is_file(),
            "{}: build it by `PROFILE=cross-test ./build.sh aarch64 arm`",
            path.display()
        );
        path
    }

    fn command(self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.emulator);
        command
            .arg(self.binary())
            .args(arguments)
            .env_clear()
            .stdin(Stdio::null());
        command
    }

    fn run(self, arguments: &[&str]) -> Output {
        self.command(arguments)
            .output()
            .unwrap_or_else(|error| panic!("{} (package qemu-user-static): {error}", self.emulator))
    }

    /// What is printed, by a verb that succeeds.
    fn stdout(self, arguments: &[&str]) -> String {
        let ended = self.run(arguments);
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(ended.status.success(), "{self:?} {arguments:?}: {said}");
        String::from_utf8(ended.stdout).unwrap()
    }
}

/// This machine's own binary, which the others are compared with.
fn native(arguments: &[&str]) -> Output {
    support::binary::command(arguments).output().unwrap()
}

#[test]
fn they_need_nothing_but_a_kernel() {
    for foreign in ARCHITECTURES {
        let said = Command::new("file").arg(foreign.binary()).output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        assert!(said.contains(foreign.file), "{said}");
        assert!(said.contains("statically linked"), "{said}");
        assert_eq!(
            foreign.stdout(&["--version"]),
            format!("edge-warden {}\n", env!("CARGO_PKG_VERSION"))
        );
    }
}

/// The same host gives the same report, whatever measures it: here one with a known listener, connection and link.
#[test]
fn they_report_what_this_machines_own_binary_reports() {
    let host = Namespace::new();
    host.run(|| {
        let listener = TcpListener::bind("127.0.0.1:4242").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let measured = |output: Output| -> Value {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let mut report: Value = serde_json::from_slice(&output.stdout).unwrap();
            // the order of what a table lists is the kernel's
            let connections = "/metrics/tcp_connections/established_connections/connections";
            let list = report.pointer_mut(connections).unwrap().as_array_mut().unwrap();
            list.sort_by_key(Value::to_string);
            report["metrics"].take()
        };
        let arguments = ["report", "--format", "json"];
        let expected = measured(native(&arguments));
        assert_eq!(
            expected["listening_tcp_ports"]["ports"],
            json!([{"interface": "lo", "port": 4242}])
        );
        assert_eq!(expected["tcp_connections"]["established_connections"]["total"], 2);
        for foreign in ARCHITECTURES {
            assert_eq!(measured(foreign.run(&arguments)), expected, "{foreign:?}");
        }
        drop(client);
    });
}

#[test]
fn they_judge_configurations_alike() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("wrong.yaml");
    std::fs::write(
        &wrong,
        "report: {intervalSeconds: 4294967596, maxBytes: -1}\ndevices: [{thingName: a b, macs: [x]}]\nsampleSeconds: 1e9\n",
    )
    .unwrap();
    for (file, code) in [("artifacts/try-out.yaml", 0), (wrong.to_str().unwrap(), 3)] {
        let arguments = ["check-config", file, "--standalone"];
        let expected = native(&arguments);
        assert_eq!(expected.status.code(), Some(code));
        for foreign in ARCHITECTURES {
            let judged = foreign.run(&arguments);
            assert_eq!(judged.status.code(), Some(code), "{foreign:?}");
            assert_eq!(
                String::from_utf8_lossy(&judged.stdout),
                String::from_utf8_lossy(&expected.stdout)
            );
            assert_eq!(
                String::from_utf8_lossy(&judged.stderr),
                String::from_utf8_lossy(&expected.stderr)
            );
        }
    }
}

/// The emulator offers no netlink but rtnetlink: `doctor` is to say so, and what that costs, instead of failing.
#[test]
fn doctor_says_what_an_emulated_kernel_lacks() {
    for foreign in ARCHITECTURES {
        let findings: Value = serde_json::from_str(&foreign.stdout(&["doctor", "--json"])).unwrap();
        let finding = |what: &str| {
            let mut all = findings.as_array().unwrap().iter();
            all.find(|finding| finding["what"] == what)
                .unwrap_or_else(|| panic!("{what}: {findings:#}"))
        };
        assert!(finding("kernel")["seen"].as_str().unwrap().contains(foreign.machine));
        assert_eq!(finding("IPC limits of this binary")["state"], "works", "{findings:#}");
        assert_eq!(finding("TCP sockets")["state"], "works");
        assert_eq!(finding("netlink")["state"], "limited");
        assert!(finding("netlink")["cost"].is_string());
    }
}

/// AWS's SDK, C code and ours, over the socket of a nucleus, in 32 bits too: configured, reporting, accepted, stopped.
#[test]
fn they_report_to_a_nucleus() {
    for foreign in ARCHITECTURES {
        let host = Namespace::new();
        host.run(move || {
            let nucleus = TestNucleus::start(Settings {
                configuration: configuration(json!({})),
                access_control: Some(access_control()),
                ..Settings::classic()
            });
            let dir = tempfile::tempdir().unwrap();
            let mut command = foreign.command(&run_arguments(dir.path(), "100"));
            command.envs(nucleus.env());
            let mut agent = Agent::spawn(command, &dir.path().join("control.sock"));
            nucleus.wait_for("two reports", SOON, |seen| (seen.reports.len() >= 2).then_some(()));
            agent.wait_status("two reports accepted", |status| {
                (status["reports"]["things"][0]["counts"]["accepted"].as_u64()? >= 2).then_some(())
            });
            for report in nucleus.reports() {
                assert_eq!(report.verdict, Ok(()), "{foreign:?}");
            }
            assert_eq!(nucleus.seen().violations, [""; 0], "{foreign:?}");
            assert_eq!(agent.terminate().0, 0, "{foreign:?}");
        });
    }
}
