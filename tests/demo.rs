//! `make demo` as it is used: what it tells, the page it leaves, and that it leaves nothing else. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may stop at the first surprise"
)]

#[path = "support/netns.rs"]
mod netns;

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use netns::Namespace;
use rustix::process::{Pid, Signal, kill_process_group};

/// Inherited by everything the demo starts.
const MARK: &str = "EDGE_WARDEN_DEMO_TEST";

/// The demo's program: cargo puts examples beside the tests.
fn program() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let program = own.parent().unwrap().with_file_name("examples").join("demo");
    assert!(
        program.is_file(),
        "{}: `cargo test` builds it; with --test demo run `cargo build --example demo` first",
        program.display()
    );
    program
}

/// The agent to show.
fn agent() -> PathBuf {
    std::env::var_os("EDGE_WARDEN_BINARY")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_edge-warden")), PathBuf::from)
}

/// A demo that plays in a network namespace of its own, so that what it leaves there is seen.
struct Play<'a> {
    host: &'a Namespace,
    child: Child,
    told: BufReader<ChildStdout>,
    lines: Vec<String>,
    folder: tempfile::TempDir,
}

/// How a demo is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// Its program, as cargo built it for this test.
    Program,
    /// `make demo`, as a person does. It builds what is not built.
    Make,
}

impl<'a> Play<'a> {
    fn start(host: &'a Namespace, by: By) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let temporary = folder.path().join("tmp");
        std::fs::create_dir(&temporary).unwrap();
        let page = folder.path().join("page.html");
        let mut command = match by {
            By::Program => {
                let mut command = Command::new(program());
                command.args(["--brief", "--page"]).arg(page);
                command.env("EDGE_WARDEN_BINARY", agent());
                command
            }
            By::Make => {
                let mut command = Command::new("make");
                command.current_dir(env!("CARGO_MANIFEST_DIR")).arg("demo");
                command.arg(format!("DEMO=--brief --page {}", page.display()));
                // nothing of cargo's and make's own
                command.env_clear();
                for name in ["PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME"] {
                    command.envs(std::env::var_os(name).map(|value| (name, value)));
                }
                command
            }
        };
        command
            .env(MARK, folder.path())
            .env("TMPDIR", temporary)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // what a terminal does: Ctrl-C goes to the whole group
            .process_group(0);
        let mut child = host.run(move || command.spawn()).unwrap();
        let told = BufReader::new(child.stdout.take().unwrap());
        Self {
            host,
            child,
            told,
            lines: Vec::new(),
            folder,
        }
    }

    /// Reads on until it tells this.
    fn await_told(&mut self, words: &str) {
        let mut line = String::new();
        while self.told.read_line(&mut line).unwrap() > 0 {
            self.lines.push(std::mem::take(&mut line));
            if self.lines.last().unwrap().contains(words) {
                return;
            }
        }
        panic!("it never told {words:?}:\n{}", self.lines.concat());
    }

    /// Waits for its end; everything it told.
    fn end(&mut self) -> (ExitStatus, String) {
        let mut line = String::new();
        while self.told.read_line(&mut line).unwrap() > 0 {
            self.lines.push(std::mem::take(&mut line));
        }
        (self.child.wait().unwrap(), self.lines.concat())
    }

    /// What the names of its namespaces begin with: `ew123-0-`.
    fn site(&self) -> String {
        let line = self
            .lines
            .iter()
            .find_map(|line| line.trim().strip_prefix("gateway: ip netns exec "));
        let gateway = line.expect("it names its gateway").split(' ').next().unwrap();
        gateway.strip_suffix("gw").expect("a gateway").to_owned()
    }

    /// Everything of it that is there now.
    fn traces(&self) -> Vec<String> {
        let site = self.site();
        let mut traces = Vec::new();
        for folder in ["/run/netns", "/etc/netns"] {
            let entries = std::fs::read_dir(folder).into_iter().flatten();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            traces.extend(
                names
                    .filter(|name| name.starts_with(&site))
                    .map(|name| format!("{folder}/{name}")),
            );
        }
        let files = std::fs::read_dir(self.folder.path().join("tmp")).unwrap();
        traces.extend(files.map(|entry| entry.unwrap().path().display().to_string()));
        let mark = format!("{MARK}={}", self.folder.path().display());
        for entry in std::fs::read_dir("/proc").unwrap() {
            let process = entry.unwrap().path();
            // a process that ends while we look has no environment any more
            let environment = std::fs::read(process.join("environ")).unwrap_or_default();
            if environment
                .split(|byte| *byte == 0)
                .any(|variable| variable == mark.as_bytes())
            {
                let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
                traces.push(format!("{}: {}", process.display(), name.trim()));
            }
        }
        traces.extend(self.host.run(|| {
            let tables = Command::new("nft").args(["list", "tables"]).output().expect("nftables");
            assert!(tables.status.success());
            String::from_utf8(tables.stdout)
                .unwrap()
                .lines()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        }));
        traces
    }
}

impl Drop for Play<'_> {
    fn drop(&mut self) {
        // Nothing is left to end unless the test failed. Its worker ends by itself then.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Interrupted in the middle, then twice in a row to the end: all leave nothing but the page.
#[test]
fn it_plays_and_leaves_nothing_but_its_page() {
    let host = Namespace::new();
    {
        let mut play = Play::start(&host, By::Program);
        play.await_told("is cut off");
        // positive control: this is where its traces are
        let traces = play.traces();
        for part in ["/run/netns/", "/etc/netns/", "ew-site-", ": demo", ": edge-warden"] {
            assert!(traces.iter().any(|trace| trace.contains(part)), "{part}: {traces:#?}");
        }
        kill_process_group(Pid::from_child(&play.child), Signal::INT).unwrap();
        let (status, told) = play.end();
        assert_eq!(status.code(), Some(130), "{told}");
        assert_eq!(play.traces(), [""; 0], "{told}");
        assert!(!play.folder.path().join("page.html").exists());
    }
    let whole = |by| {
        let mut play = Play::start(&host, by);
        let (status, told) = play.end();
        assert!(status.success(), "{told}");
        assert_eq!(play.traces(), [""; 0], "{told}");
        assert_eq!(told.matches("is back").count(), 2, "{told}");
        // nobody is to take a command for the Lambda
        assert!(told.contains("no AWS here"), "{told}");
        play
    };
    let first = whole(By::Program);
    assert!(first.folder.path().join("page.html").is_file());
    drop(first);
    // Under `make test` everything is built by now; without it `make demo` would build for minutes.
    let second = if std::env::var_os("EDGE_WARDEN_BINARY").is_some() {
        whole(By::Make)
    } else {
        let loud = "demo.rs: `make demo` is NOT run, only its program; run `make test`\n";
        std::io::stderr().write_all(loud.as_bytes()).unwrap();
        whole(By::Program)
    };
    check_page(&second.folder.path().join("page.html"), second.folder.path());
}

/// Opens the page in a browser, and looks at what its scripts made of it.
fn check_page(page: &Path, folder: &Path) {
    let source = std::fs::read_to_string(page).unwrap();
    for remote in [
        "http://",
        "https://",
        "<link rel=\"stylesheet\"",
        "<script src",
        "<img",
        "@import",
    ] {
        assert!(
            !source.contains(remote),
            "it must have everything in it, but has {remote}"
        );
    }
    let output = Command::new("timeout")
        .args([
            "300",
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
        ])
        .args([
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
        ])
        .args([
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--enable-logging=stderr",
            "--dump-dom",
        ])
        .arg(format!("--user-data-dir={}", folder.join("browser").display()))
        .arg(format!("file://{}", page.display()))
        .env("HOME", folder)
        .output()
        .expect("chromium (scripts/setup.sh test installs it)");
    let (dom, log) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{log}");
    // an error of a script, and what its content security policy refuses, is said on the console
    let said: Vec<&str> = log.lines().filter(|line| line.contains(":CONSOLE")).collect();
    assert_eq!(said, [""; 0]);
    let root = dom.split_once("<html").unwrap().1.split_once('>').unwrap().0;
    assert!(root.contains("data-errors=\"0\""), "{root}");
    assert!(
        root.contains("data-ready=\"yes\""),
        "its script has not come to its end: {root}"
    );
    for thing in ["camera-1", "plc-7", "thermostat-3", "badge-reader"] {
        assert!(dom.contains(&format!(">{thing}</text>")), "{thing} has a row");
    }
    assert_eq!(dom.matches("<path class=\"arrived\" d=\"M").count(), 4, "four curves");
    assert_eq!(
        dom.matches("<rect class=\"cutoff\"").count(),
        2,
        "two cuts in the picture"
    );
    assert_eq!(dom.matches("<details class=\"shadow\"").count(), 2, "two shadows");
    assert_eq!(dom.matches("<details class=\"violation\"").count(), 2, "two alarms");
    assert!(dom.contains("NoListedAddress") && dom.contains("NoMassUpload"));
    assert!(dom.contains("\"enforced\": true") && dom.contains("\"enforced\": false"));
    // what was measured
    let number = |id: &str| {
        let card = dom.split_once(&format!("id=\"{id}\"><b>")).expect(id).1;
        let (count, of) = card.split_once("</b>").unwrap().0.split_once(" of ").unwrap();
        let plain = |text: &str| text.replace(',', "").parse::<u64>().unwrap();
        (plain(count), plain(of))
    };
    let (leaked, tried) = number("leaked");
    assert!(tried > 10, "the rogues kept trying: {tried}");
    assert_eq!(leaked, 0, "of {tried}");
    let (arrived, sent) = number("neighbours");
    // a machine too busy may drop a datagram; a cut that hit a neighbour would cost it half of them
    assert!(sent > 50 && arrived * 20 > sent * 19, "{arrived} of {sent}");
}

/// Whoever starts it without what it needs is told everything at once.
#[test]
fn it_says_what_it_needs() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("demo");
    std::fs::copy(program(), &copy).unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let output = Command::new(copy)
        .env_remove("EDGE_WARDEN_BINARY")
        .env("PATH", "/nowhere")
        .uid(65534)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for need in ["root", "sudo make demo", "EDGE_WARDEN_BINARY"] {
        assert!(said.contains(need), "{need}: {said}");
    }
    assert_eq!(output.stdout, b"", "nothing begins");
}
