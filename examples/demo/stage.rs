//! The site with the agent on its gateway, as an operator would use it: by its command line and its files.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use edge_warden::control::{Request, ask};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::record::Device;
use crate::site::{Options, Site, until};
use crate::traffic::LISTED;

/// How long the agent may take to stop before it is killed.
const STOP: Duration = Duration::from_secs(10);

/// What the devices of the site are: 0 to 2 are on the bridge, 3 is behind a port of its own.
const DEVICES: [(&str, &str, &str, bool); 4] = [
    ("camera-1", "IP camera", "bridge br0", true),
    ("plc-7", "machine controller", "bridge br0", false),
    ("thermostat-3", "thermostat", "bridge br0", false),
    ("badge-reader", "door reader", "routed port lan3", true),
];

/// Everything on stage. Dropping it stops the agent and takes the site down.
pub(crate) struct Stage {
    pub(crate) devices: Vec<Device>,
    binary: PathBuf,
    agent: Option<Child>,
    resolver: PathBuf,
    folder: tempfile::TempDir,
    pub(crate) site: Site,
}

impl Stage {
    /// Builds the site; every device reaches the gateway and the internet when this returns.
    pub(crate) fn build(binary: &Path) -> anyhow::Result<Self> {
        let site = Site::build(Options::default());
        let describe = |(n, (thing, role, place, rogue)): (usize, (&'static str, &'static str, &'static str, bool))| {
            let host = site.device(n);
            Device {
                thing,
                role,
                place,
                mac: host.mac.to_string(),
                address: host.v4.to_string(),
                rogue,
            }
        };
        let devices = DEVICES.into_iter().enumerate().map(describe).collect();
        // the gateway's way out is what makes an uplink of that link; the resolver's address is out there too
        site.gateway()
            .shell("ip route add default via 203.0.113.1; ip -6 route add default via 2001:db8::1 dev wan0");
        site.internet().shell(&format!("ip address add {LISTED}/32 dev lo"));
        let resolver = Path::new("/etc/netns").join(&site.gateway().ns);
        let stage = Self {
            devices,
            binary: binary.to_owned(),
            agent: None,
            folder: tempfile::tempdir().context("no temporary folder")?,
            resolver,
            site,
        };
        std::fs::create_dir_all(&stage.resolver).context("no folder for the gateway's resolv.conf")?;
        std::fs::write(stage.resolver.join("resolv.conf"), "nameserver 203.0.113.1\n")
            .context("the gateway's resolv.conf cannot be written")?;
        Ok(stage)
    }

    /// Where the agent keeps everything.
    pub(crate) fn dir(&self) -> PathBuf {
        self.folder.path().join("standalone")
    }

    /// The `devices` section of the configuration.
    pub(crate) fn known_devices(&self) -> Value {
        let known = self.devices.iter().enumerate();
        let entry = |(n, device): (usize, &Device)| {
            let host = self.site.device(n);
            json!({"thingName": device.thing, "macs": [device.mac], "addresses": [host.v4, host.v6]})
        };
        known.map(entry).collect()
    }

    /// Starts the agent; how long it took to its first answer.
    pub(crate) fn start_agent(&mut self, configuration: &Value) -> anyhow::Result<Duration> {
        let file = self.folder.path().join("config.json");
        std::fs::write(&file, serde_json::to_vec_pretty(configuration)?).context("no configuration file")?;
        let log = std::fs::File::create(self.log_path()).context("no log file")?;
        let began = Instant::now();
        let child = self
            .on_gateway()
            .args(["run", "--standalone"])
            .arg(self.dir())
            .arg("--config")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("the agent does not start")?;
        self.agent = Some(child);
        let answers = until(Duration::from_secs(60), || {
            self.ended() || ask(&self.dir().join("control.sock"), &Request::Status).is_ok()
        });
        if !answers || self.ended() {
            bail!("the agent does not answer; it said:\n{}", self.log());
        }
        Ok(began.elapsed())
    }

    fn ended(&mut self) -> bool {
        let agent = self.agent.as_mut();
        agent.is_none_or(|agent| !matches!(agent.try_wait(), Ok(None)))
    }

    fn on_gateway(&self) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.site.gateway().ns])
            .arg(&self.binary);
        command
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// What the agent has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Asks the agent over its control socket.
    pub(crate) fn ask(&self, request: &Request) -> anyhow::Result<Value> {
        ask(&self.dir().join("control.sock"), request).with_context(|| format!("the agent's log:\n{}", self.log()))
    }

    /// Runs `edge-warden` with these arguments on the gateway.
    pub(crate) fn cli(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self
            .on_gateway()
            .args(arguments)
            .arg("--standalone")
            .arg(self.dir())
            .output()?;
        if !output.status.success() {
            bail!(
                "edge-warden {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What the agent's `--version` says.
    pub(crate) fn version(&self) -> anyhow::Result<String> {
        let output = Command::new(&self.binary).arg("--version").output()?;
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// The classic shadow as stored; null while there is none.
    pub(crate) fn document(&self, thing: &str) -> Value {
        std::fs::read(self.dir().join("shadows").join(format!("{thing}.json")))
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or(Value::Null)
    }

    /// Everything published so far, oldest first.
    pub(crate) fn published(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.dir().join("published.jsonl")).unwrap_or_default();
        // the last line may still be being written
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            // `ip netns exec` becomes the agent: the same process
            let id = i32::try_from(agent.id()).ok().and_then(Pid::from_raw);
            let asked = id.is_some_and(|id| kill_process(id, Signal::TERM).is_ok());
            let mut stopped = || matches!(agent.try_wait(), Ok(Some(_)) | Err(_));
            if !asked || !until(STOP, &mut stopped) {
                let _ = agent.kill();
                let _ = agent.wait();
            }
        }
        let _ = std::fs::remove_dir_all(&self.resolver);
        // not ours alone: removed only when nobody else has a folder there
        if let Some(parent) = self.resolver.parent() {
            let _ = std::fs::remove_dir(parent);
        }
    }
}
