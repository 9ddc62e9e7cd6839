//! What becomes of samples: values, what counts since the last report, and what is said to be missing.

use super::*;
use crate::collect::{HostSample, SocketTable};
use crate::config::{Mode, RawConfig};
use crate::model::{Now, UnixTime};

const NOW: Monotonic = Monotonic(Duration::from_secs(1));

fn config(metrics: &Value) -> Config {
    RawConfig::from_value(json!({"customMetrics": metrics}))
        .check(Mode::Greengrass)
        .unwrap()
}

fn site(config: &Config) -> Site {
    let now = Now {
        wall: UnixTime::from_seconds(1_000),
        monotonic: NOW,
    };
    Site::new(config, "core".parse().unwrap(), Arc::default(), now)
}

fn host() -> HostSample {
    let missing = || Missing::new("test", Reason::Denied, "");
    HostSample {
        interfaces: Err(missing()),
        sockets: SocketTable {
            tcp: Ok(Vec::new()),
            udp: Ok(Vec::new()),
        },
        boot_id: Err(missing()),
        notes: Vec::new(),
    }
}

struct Case {
    metrics: CustomMetrics,
    site: Site,
}

impl Case {
    fn new(metrics: &Value) -> Self {
        let config = config(metrics);
        Self {
            metrics: CustomMetrics::new(&config),
            site: site(&config),
        }
    }

    fn observe(&mut self, sample: CustomSample) {
        self.metrics.observe(sample, &host(), &self.site, BTreeSet::new(), NOW);
    }

    fn value(&self, name: &str) -> Option<CustomValue> {
        self.metrics.of(None).remove(name)
    }
}

fn number(value: f64) -> Option<CustomValue> {
    Some(CustomValue::Number(value))
}

fn strings(items: &[&str]) -> Option<CustomValue> {
    Some(CustomValue::StringList(
        items.iter().map(|item| (*item).to_owned()).collect(),
    ))
}

fn logins(sessions: &[(&str, &str)]) -> CustomSample {
    let login = |(session, from): &(&str, &str)| Login {
        session: (*session).to_owned(),
        from: from.parse().ok(),
    };
    CustomSample {
        logins: Some(Ok(sessions.iter().map(login).collect())),
        ..CustomSample::default()
    }
}

#[test]
fn logins_are_new_once_per_report_and_those_at_the_start_are_not() {
    let mut case = Case::new(&json!([
        {"name": "now", "source": "remoteLogins"},
        {"name": "new", "source": "newRemoteLogins"},
        {"name": "from", "source": "newRemoteLogins", "type": "ip-address-list"},
    ]));
    case.observe(logins(&[("1", "10.0.0.1")]));
    assert_eq!((case.value("now"), case.value("new")), (number(1.0), number(0.0)));
    // Gone again before the report is made: it counts all the same.
    case.observe(logins(&[("1", "10.0.0.1"), ("2", "192.0.2.7")]));
    case.observe(logins(&[("1", "10.0.0.1")]));
    assert_eq!((case.value("now"), case.value("new")), (number(1.0), number(1.0)));
    let from = CustomValue::IpList(vec!["192.0.2.7".parse().unwrap()]);
    assert_eq!(case.value("from"), Some(from));
    case.metrics.reported();
    assert_eq!(
        case.value("new"),
        number(0.0),
        "at once: the next report may be made from the same sample"
    );
    case.observe(logins(&[("1", "10.0.0.1")]));
    assert_eq!((case.value("now"), case.value("new")), (number(1.0), number(0.0)));
    let denied = Missing::new("/run/utmp", Reason::Denied, "");
    case.observe(CustomSample {
        logins: Some(Err(denied)),
        ..CustomSample::default()
    });
    assert_eq!((case.value("now"), case.value("new")), (None, None));
    case.observe(logins(&[("1", "10.0.0.1")]));
    assert_eq!(case.value("new"), number(0.0), "what was there before is not new");
}

fn changes(counts: &[(&str, u64)]) -> CustomSample {
    let counts: BTreeMap<PathBuf, u64> = counts.iter().map(|(path, count)| (path.into(), *count)).collect();
    let of = |name: &str| (name.to_owned(), Ok(counts.clone()));
    CustomSample {
        changes: [of("count"), of("which")].into(),
        ..CustomSample::default()
    }
}

#[test]
fn file_changes_count_from_report_to_report() {
    let mut case = Case::new(&json!([
        {"name": "count", "source": "fileChanges", "paths": ["/etc/passwd", "/etc/my conf"]},
        {"name": "which", "source": "fileChanges", "type": "string-list", "paths": ["/etc/passwd", "/etc/my conf"]},
    ]));
    // Changed while the agent was away.
    case.observe(changes(&[("/etc/my conf", 1), ("/etc/passwd", 0)]));
    assert_eq!(
        (case.value("count"), case.value("which")),
        (number(1.0), strings(&["/etc/my_conf"]))
    );
    case.observe(changes(&[("/etc/my conf", 3), ("/etc/passwd", 1)]));
    assert_eq!(case.value("count"), number(4.0));
    case.metrics.reported();
    assert_eq!((case.value("count"), case.value("which")), (number(0.0), strings(&[])));
    case.observe(changes(&[("/etc/my conf", 3), ("/etc/passwd", 2)]));
    assert_eq!(
        (case.value("count"), case.value("which")),
        (number(1.0), strings(&["/etc/passwd"]))
    );
    let mut failed = changes(&[]);
    let denied = Missing::new("/etc/passwd", Reason::Denied, "");
    failed.changes.insert("count".to_owned(), Err(denied));
    case.observe(failed);
    assert_eq!(case.value("count"), None);
    case.metrics.reported();
    assert_eq!(case.value("count"), None, "a report makes no value of what is missing");
}

#[test]
fn what_fails_is_named_in_status_and_in_agent_health_and_waiting_is_no_failure() {
    let mut case = Case::new(&json!([
        {"name": "good", "source": "load"},
        {"name": "bad", "source": "battery"},
        {"name": "cpu", "source": "cpu"},
        {"name": "pushed", "source": "topic"},
        {"name": "agent_health", "source": "agentHealth"},
        {"name": "trouble", "source": "agentHealth", "type": "number"},
    ]));
    let missing = |reason| Err(Missing::new("source", reason, "why"));
    let values = [
        ("good".to_owned(), Ok(CustomValue::Number(0.5))),
        ("bad".to_owned(), missing(Reason::Absent)),
        ("cpu".to_owned(), missing(Reason::NotCollected)),
    ];
    let sample = CustomSample {
        values: values.into(),
        ..CustomSample::default()
    };
    let failing = ["listening TCP ports".to_owned()].into();
    case.metrics.observe(sample, &host(), &case.site, failing, NOW);
    assert_eq!(case.value("agent_health"), strings(&["bad", "listening_TCP_ports"]));
    assert_eq!(case.value("trouble"), number(2.0));
    let status = case.metrics.status();
    assert_eq!(status["good"], json!({"number": 0.5}));
    assert_eq!(status["bad"], json!({"missing": "source absent: why"}));
    assert_eq!(
        status["pushed"]["missing"],
        "edge-warden/metrics/pushed not collected: no message yet"
    );
    assert_eq!(status["pushed"]["messages"], json!({"taken": 0, "refused": 0}));
    assert_eq!(case.metrics.said.keys().collect::<Vec<_>>(), ["bad"], "and in the log");
    assert!(
        case.metrics
            .message(Destination::Local, "edge-warden/metrics/pushed", b"7", NOW)
    );
    assert!(
        !case
            .metrics
            .message(Destination::IotCore, "edge-warden/metrics/pushed", b"8", NOW)
    );
    case.observe(CustomSample::default());
    assert_eq!(case.value("pushed"), number(7.0));
    assert!(case.metrics.said.is_empty());
}

#[test]
fn metrics_of_the_site_are_missing_until_it_was_looked_at() {
    let mut case = Case::new(&json!([
        {"name": "clients", "source": "connectedDevices"},
        {"name": "strangers", "source": "unknownDevices", "type": "string-list"},
        {"name": "flows", "source": "conntrackUsage"},
        {"name": "unanswered", "source": "unansweredConnections"},
    ]));
    case.observe(CustomSample::default());
    assert_eq!(
        (case.value("clients"), case.value("strangers")),
        (number(0.0), strings(&[]))
    );
    assert_eq!(case.value("flows"), None);
    assert_eq!(case.metrics.of(None).len(), 2);
    assert_eq!(case.metrics.of(Some(&"cam".parse().unwrap())), BTreeMap::new());
    assert_eq!(case.metrics.status()["unanswered"], json!({"things": 0}));
}

#[test]
fn a_changed_configuration_drops_what_changed_and_keeps_the_rest() {
    let mut case = Case::new(&json!([{"name": "a", "source": "load"}, {"name": "b", "source": "load"}]));
    let value = || Ok(CustomValue::Number(1.0));
    case.observe(CustomSample {
        values: [("a".to_owned(), value()), ("b".to_owned(), value())].into(),
        ..CustomSample::default()
    });
    let new = config(&json!([{"name": "a", "source": "load"}, {"name": "b", "source": "memory"}]));
    case.metrics.reconfigure(&new);
    assert_eq!((case.value("a"), case.value("b")), (number(1.0), None));
    assert_eq!(
        case.metrics.ask(Duration::from_secs(1)).metrics[1].source,
        MetricSource::Memory
    );
    assert_eq!(
        new.custom_types(),
        [("a", CustomType::Number), ("b", CustomType::Number)].into()
    );
}
