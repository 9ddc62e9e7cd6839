//! Registration over local publish/subscribe, as a nucleus brings it, with the recipe's own access control.

use std::path::PathBuf;

use edge_warden::control::{Request, ask};
use serde_json::{Value, json};

use super::agent::{DEADLINE, has, site};
use crate::support::binary::{Agent, access_control, configuration, run_command};
use crate::support::nucleus::{Settings, TestNucleus};
use crate::support::site::{Site, until};

/// The program at a site's gateway, started by a nucleus that brings it what client devices publish.
struct Registered {
    nucleus: TestNucleus,
    agent: Agent,
    socket: PathBuf,
    _dir: tempfile::TempDir,
}

impl Registered {
    fn start(site: &Site, devices: &Value) -> Self {
        let nucleus = TestNucleus::start(Settings {
            configuration: configuration(json!({
                "sampleSeconds": 1,
                "devices": devices,
                "discovery": {"registration": true},
            })),
            access_control: Some(access_control()),
            ..Settings::classic()
        });
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control.sock");
        let command = run_command(&nucleus, dir.path(), 1);
        let agent = site.gateway().enter(|| Agent::spawn(command, &socket));
        Self {
            nucleus,
            agent,
            socket,
            _dir: dir,
        }
    }

    /// What a client device publishes to `edge-warden/things/<thing>/register` through the MQTT bridge.
    fn publish(&self, thing: &str, payload: &[u8]) {
        let topic = format!("edge-warden/things/{thing}/register");
        // Until the agent has subscribed nobody hears it.
        let heard = until(DEADLINE, || self.nucleus.deliver_local(&topic, payload) > 0);
        assert!(heard, "{}", self.agent.log());
    }

    fn register(&self, thing: &str, macs: &[String]) {
        self.publish(thing, json!({"macs": macs}).to_string().as_bytes());
    }

    fn devices(&self) -> Value {
        ask(&self.socket, &Request::Devices).unwrap_or_default()
    }

    fn thing(&self, name: &str) -> Value {
        let devices = self.devices();
        let rows = devices["things"].as_array();
        let row = rows.into_iter().flatten().find(|row| row["thing"] == name);
        row.cloned().unwrap_or_default()
    }

    fn await_thing(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) {
        let came = until(DEADLINE, || holds(&self.thing(name)));
        assert!(came, "{name} {what}: {:#}\n{}", self.devices(), self.agent.log());
    }

    /// Why nothing was taken of a registration, in the words of `devices`.
    fn await_skipped(&self, parts: &[&str]) {
        let said = || {
            let devices = self.devices();
            let skipped = devices["skipped"].as_array();
            let mut skipped = skipped.into_iter().flatten().map(Value::to_string);
            skipped.any(|words| parts.iter().all(|part| words.contains(part)))
        };
        assert!(until(DEADLINE, said), "{parts:?}: {:#}", self.devices());
    }
}

#[test]
fn a_registration_counts_when_its_mac_is_a_neighbour_on_the_lan() {
    let site = site();
    let (d0, d1, d2, internet, gateway) = (
        site.device(0),
        site.device(1),
        site.device(2),
        site.internet(),
        site.gateway(),
    );
    // Device 2 comes later: nobody has seen it yet.
    d2.shell("ip link set eth0 down");
    gateway.shell(
        "ip neigh flush dev br0; ip -6 neigh flush dev br0; ip neigh flush dev lan3; ip -6 neigh flush dev lan3",
    );
    let registered = Registered::start(&site, &json!([{"thingName": "plug", "macs": [d1.mac.to_string()]}]));
    assert!(d0.ping(gateway.v4.into()) && d1.ping(gateway.v4.into()) && gateway.ping(internet.v4.into()));

    registered.register("cam-0", &[d0.mac.to_string()]);
    registered.await_thing("cam-0", "is registered and counted", |row| {
        row["source"] == "registration" && has(row, "macs", &d0.mac.to_string()) && !row["traffic"].is_null()
    });
    // Nobody's on the LAN: one not seen yet, one that nobody has, one behind the uplink, the gateway's own.
    let made_up = "02:77:00:00:00:01".to_owned();
    registered.register("cam-2", &[d2.mac.to_string()]);
    registered.register("ghost", std::slice::from_ref(&made_up));
    registered.register("router", &[internet.mac.to_string()]);
    registered.register("core", &[gateway.mac.to_string()]);
    for (thing, mac) in [
        ("cam-2", &d2.mac.to_string()),
        ("ghost", &made_up),
        ("router", &internet.mac.to_string()),
        ("core", &gateway.mac.to_string()),
    ] {
        registered.await_skipped(&[thing, mac]);
        assert_eq!(registered.thing(thing), Value::Null);
    }
    // From the moment it is a neighbour it counts.
    d2.shell(&format!(
        "ip link set eth0 up; ip route replace default via {}",
        gateway.v4
    ));
    assert!(until(DEADLINE, || d2.ping(gateway.v4.into())));
    registered.await_thing("cam-2", "is there", |row| {
        row["source"] == "registration" && has(row, "macs", &d2.mac.to_string())
    });
    // What the configuration gives to another stays the other's, in a conflict that is said.
    registered.register("thief", &[d1.mac.to_string()]);
    registered.await_thing("plug", "keeps its MAC address", |row| {
        has(row, "macs", &d1.mac.to_string()) && has(row, "marks", "conflict") && row["source"] == "configuration"
    });
    // The last word of a thing replaces the one before.
    registered.register("cam-0", &[]);
    registered.await_thing("cam-0", "is no thing any more", Value::is_null);
    let status = registered.agent.status();
    assert_eq!(status["site"]["registrations"]["taken"], 7, "{:#}", status["site"]);
    assert_eq!(status["site"]["registrations"]["refused"], 0);
}

#[test]
fn wrong_and_hostile_registrations_are_refused_and_said() {
    let site = site();
    let device = site.device(0);
    let registered = Registered::start(&site, &json!([]));
    let mac = device.mac.to_string();
    let one = json!({"macs": [mac]}).to_string();
    let macs = |macs: Value| json!({"macs": macs}).to_string().into_bytes();
    let nine: Vec<String> = (0..9).map(|n| format!("02:aa:00:00:00:{n:02x}")).collect();
    let endless = "x".repeat(129);
    let refused: Vec<(&str, Vec<u8>, &str)> = vec![
        ("cam-0", b"not json".to_vec(), "malformed"),
        ("cam-0", vec![0xff, 0xfe, 0], "malformed"),
        ("cam-0", b"{}".to_vec(), "malformed"),
        ("cam-0", b"{\"macs\":\"all\"}".to_vec(), "malformed"),
        ("cam-0", macs(json!(["02:00:00:00:00"])), "malformed"),
        ("cam-0", macs(json!(["\"}; flush ruleset"])), "malformed"),
        ("cam-0", macs(json!(["33:33:00:00:00:01"])), "no device"),
        ("cam-0", macs(json!(["00:00:00:00:00:00"])), "no device"),
        ("cam-0", macs(json!(nine)), "at most 8"),
        ("cam-0", format!("{one}{}", " ".repeat(5_000)).into_bytes(), "too many"),
        ("cam 0", one.clone().into_bytes(), "refused"),
        ("\"}; flush ruleset", one.clone().into_bytes(), "refused"),
        (&endless, one.clone().into_bytes(), "refused"),
    ];
    for (n, (thing, payload, words)) in refused.iter().enumerate() {
        registered.publish(thing, payload);
        let site = registered.agent.wait_status("it to be refused", |status| {
            let site = status["site"].clone();
            (site["registrations"]["refused"] == n + 1).then_some(site)
        });
        let said = site["registrations"]["lastRefused"].as_array().unwrap().last().unwrap();
        assert!(said.as_str().unwrap().contains(words), "{thing}: {said}");
        assert_eq!(site["registrations"]["taken"], 0);
    }
    assert_eq!(registered.devices()["things"], json!([]), "nothing of it was taken");
    // The list is bounded, and a good one after all that is taken.
    for _ in 0..20 {
        registered.publish("cam-0", b"{");
    }
    registered.register("cam-0", std::slice::from_ref(&mac));
    assert!(device.ping(site.gateway().v4.into()));
    registered.await_thing("cam-0", "is registered", |row| has(row, "macs", &mac));
    let status = registered.agent.status();
    assert_eq!(
        status["site"]["registrations"]["lastRefused"].as_array().unwrap().len(),
        16
    );
    assert_eq!(status["site"]["registrations"]["refused"], refused.len() + 20);
}
