use super::*;
use crate::quarantine::{Posture, Subject};

fn cause(until: Option<u64>) -> Cause {
    Cause {
        posture: Posture::Isolate,
        since: UnixTime::from_seconds(1_795_370_400),
        until: until.map(UnixTime::from_seconds),
        reason: None,
        who: None,
        violation_id: None,
        release_when_cleared: false,
    }
}

fn cut() -> Verdict {
    Verdict::Cut(Subject {
        macs: ["02:00:00:00:00:01".parse().unwrap()].into(),
        addresses: [].into(),
        learnt: [].into(),
        posture: Posture::Isolate,
        until: None,
    })
}

fn held(held: Held) -> Enforced {
    Enforced {
        held,
        dropped_packets: Some(7),
        group_traffic_passes: None,
    }
}

/// A shadow as the service keeps it: updates are merged, null deletes.
struct Shadow {
    state: Value,
    version: u64,
}

impl Shadow {
    fn new(desired: &Value) -> Self {
        Self {
            state: json!({"desired": desired}),
            version: 1,
        }
    }

    fn update(&mut self, update: &Value) {
        apply(&mut self.state, &update["state"]);
        self.version += 1;
    }

    fn reading(&self) -> ShadowReading {
        let document = json!({"state": self.state, "version": self.version, "timestamp": 5});
        ShadowReading::parse(document.to_string().as_bytes()).unwrap()
    }

    fn reported(&self, key: &str) -> &Value {
        &self.state["reported"][key]
    }
}

fn apply(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let target = target.as_object_mut().unwrap();
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            apply(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

struct Site {
    causes: BTreeMap<CauseKey, Cause>,
    verdict: Option<Verdict>,
    enforced: Option<Enforced>,
    enforcement: Enforcement,
    is_core: bool,
    failure: Option<String>,
    reporter: StatusReporter,
    seconds: u64,
}

impl Site {
    fn new(causes: &[CauseKey], verdict: Option<Verdict>, enforced: Option<Enforced>) -> Self {
        Self {
            causes: causes.iter().map(|key| (key.clone(), cause(None))).collect(),
            verdict,
            enforced,
            enforcement: Enforcement::Enforce,
            is_core: false,
            failure: None,
            reporter: StatusReporter::default(),
            seconds: 0,
        }
    }

    fn answer(&mut self, shadow: &Shadow) -> Option<Value> {
        let standing = Standing {
            causes: &self.causes,
            verdict: self.verdict.as_ref(),
            enforced: self.enforced.as_ref(),
            enforcement: self.enforcement,
            is_core: self.is_core,
            has_spoken: true,
            shadow_failure: self.failure.as_deref(),
        };
        let now = Monotonic(Duration::from_secs(self.seconds));
        let thing = "cam-1".parse().unwrap();
        self.reporter
            .answer(&thing, &ShadowRef::Classic, &shadow.reading(), &standing, now)
    }

    /// Answer until the document says it, which must take one update.
    fn settle(&mut self, shadow: &mut Shadow) {
        let update = self.answer(shadow).expect("an update");
        shadow.update(&update);
        assert_eq!(self.answer(shadow), None, "one update says all: {:?}", shadow.state);
    }
}

const SHADOW: CauseKey = CauseKey::Shadow(ShadowRef::Classic);

#[test]
fn the_workshops_flow_leaves_no_delta() {
    let mut shadow = Shadow::new(&json!({"quarantine": true}));
    let mut site = Site::new(&[SHADOW], Some(cut()), Some(held(Held::Full)));
    site.settle(&mut shadow);
    assert_eq!(shadow.reported("quarantine"), &json!(true));
    assert_eq!(
        shadow.reported("quarantineStatus"),
        &json!({"enforced": true, "mode": "isolate", "causes": ["shadow"], "since": "2026-11-22T18:00:00Z",
            "droppedPackets": 7})
    );
    // released
    shadow.update(&json!({"state": {"desired": {"quarantine": false}}}));
    (site.causes, site.verdict, site.enforced) = (BTreeMap::new(), None, None);
    site.settle(&mut shadow);
    assert_eq!(shadow.reported("quarantine"), &json!(false));
    assert_eq!(
        shadow.reported("quarantineStatus"),
        &json!({"enforced": false, "causes": []})
    );
    // the key is taken out of the document
    shadow.update(&json!({"state": {"desired": {"quarantine": null}}}));
    site.settle(&mut shadow);
    assert_eq!(shadow.state["reported"], json!({}));
}

#[test]
fn an_object_is_answered_with_the_equal_object() {
    let mut shadow = Shadow::new(&json!({"quarantine": {"mode": "isolate", "until": 1_900_000_000, "reason": "x"}}));
    let mut site = Site::new(&[], Some(cut()), Some(held(Held::Full)));
    site.causes.insert(SHADOW, cause(Some(1_900_000_000)));
    site.settle(&mut shadow);
    assert_eq!(shadow.reported("quarantine"), &shadow.state["desired"]["quarantine"]);
    assert_eq!(shadow.reported("quarantineStatus")["until"], "2030-03-17T17:46:40Z");
    // a key less on one side is a key less on the other
    shadow.update(&json!({"state": {"desired": {"quarantine": {"until": null}}}}));
    site.causes.insert(SHADOW, cause(None));
    site.settle(&mut shadow);
    assert_eq!(
        shadow.reported("quarantine"),
        &json!({"mode": "isolate", "reason": "x"})
    );
    assert_eq!(shadow.reported("quarantineStatus").get("until"), None);
    shadow.update(&json!({"state": {"desired": {"quarantine": true}}}));
    site.settle(&mut shadow);
    assert_eq!(shadow.reported("quarantine"), &json!(true));
}

#[test]
fn what_is_not_so_is_never_reported() {
    let no = || Some(held(Held::No("nftables: operation not supported".to_owned())));
    let conflict = Some(Verdict::Refused(Refusal::IdentityConflict));
    for (verdict, enforced, enforcement, words, quarantine) in [
        (
            Some(cut()),
            no(),
            Enforcement::Enforce,
            "nftables: operation not supported",
            json!(false),
        ),
        (
            Some(cut()),
            None,
            Enforcement::Enforce,
            "the kernel does not hold it",
            json!(false),
        ),
        (
            conflict,
            None,
            Enforcement::Enforce,
            "refused: sources disagree",
            json!(false),
        ),
        (
            None,
            None,
            Enforcement::Enforce,
            "not in force: ended by the operator",
            json!(false),
        ),
        (Some(cut()), None, Enforcement::Observe, "", json!("observed")),
    ] {
        let mut shadow = Shadow::new(&json!({"quarantine": true}));
        let causes: &[CauseKey] = if verdict.is_some() { &[SHADOW] } else { &[] };
        let mut site = Site::new(causes, verdict, enforced);
        site.enforcement = enforcement;
        site.settle(&mut shadow);
        assert_eq!(shadow.reported("quarantine"), &json!(false));
        let status = shadow.reported("quarantineStatus");
        assert_eq!(status["enforced"], quarantine);
        let failure = status.get("failure").map_or("", |failure| failure.as_str().unwrap());
        assert!(
            failure.starts_with(words) && failure.is_empty() == words.is_empty(),
            "{failure}"
        );
    }
}

#[test]
fn partly_cut_is_said() {
    let mut shadow = Shadow::new(&json!({"quarantine": true}));
    let partial = Held::Partial("frames between stations of wlan0 pass beside the kernel".to_owned());
    let mut site = Site::new(&[SHADOW], Some(cut()), Some(held(partial)));
    site.enforced.as_mut().unwrap().group_traffic_passes = Some(true);
    site.settle(&mut shadow);
    let status = shadow.reported("quarantineStatus");
    assert_eq!(
        (&status["enforced"], &status["groupTrafficIn"]),
        (&json!("partial"), &json!("passes"))
    );
    assert_eq!(shadow.reported("quarantine"), &json!(true));
}

#[test]
fn a_release_that_others_causes_outlive_shows_as_a_delta() {
    let mut shadow = Shadow::new(&json!({"quarantine": false}));
    let edge = CauseKey::Edge {
        profile: "p".to_owned(),
        behavior: "b".to_owned(),
    };
    let mut site = Site::new(&[edge], Some(cut()), Some(held(Held::Full)));
    site.settle(&mut shadow);
    assert_eq!(shadow.reported("quarantine"), &json!(true));
    assert_eq!(shadow.reported("quarantineStatus")["causes"], json!(["edge:p/b"]));
}

#[test]
fn the_core_is_answered_honestly() {
    let mut shadow = Shadow::new(&json!({"quarantine": true}));
    let mut site = Site::new(&[SHADOW], Some(Verdict::Refused(Refusal::Core)), None);
    site.is_core = true;
    site.settle(&mut shadow);
    assert_eq!(shadow.reported("quarantine"), &json!(false));
    let status = shadow.reported("quarantineStatus");
    assert_eq!(
        (&status["enforced"], &status["failure"]),
        (&json!(false), &json!("not supported"))
    );
}

#[test]
fn a_wrong_demand_is_answered_with_what_is_wrong() {
    let mut shadow = Shadow::new(&json!({"quarantine": "yes"}));
    let mut site = Site::new(&[], None, None);
    site.failure = Some("desired.quarantine is text".to_owned());
    site.settle(&mut shadow);
    assert_eq!(
        shadow.reported("quarantineStatus")["failure"],
        "desired.quarantine is text"
    );
}

#[test]
fn counters_alone_ride_along_at_most_every_300_seconds() {
    let mut shadow = Shadow::new(&json!({"quarantine": true}));
    let mut site = Site::new(&[SHADOW], Some(cut()), Some(held(Held::Full)));
    site.settle(&mut shadow);
    let mut sent = Vec::new();
    for seconds in 1..=900 {
        site.seconds = seconds;
        site.enforced.as_mut().unwrap().dropped_packets = Some(seconds * 10);
        if let Some(update) = site.answer(&shadow) {
            shadow.update(&update);
            sent.push(seconds);
        }
    }
    assert_eq!(sent, [300, 600, 900]);
    // a transition is told at once, with the counter of that moment
    site.enforced.as_mut().unwrap().held = Held::No("gone".to_owned());
    site.settle(&mut shadow);
}

#[test]
fn an_answer_on_its_way_is_not_sent_twice_and_a_lost_one_is() {
    let shadow = Shadow::new(&json!({"quarantine": true}));
    let mut site = Site::new(&[SHADOW], Some(cut()), Some(held(Held::Full)));
    assert!(site.answer(&shadow).is_some());
    site.seconds = 9;
    assert_eq!(site.answer(&shadow), None);
    site.seconds = 10;
    assert!(site.answer(&shadow).is_some());
    site.reporter.not_sent(&"cam-1".parse().unwrap(), &ShadowRef::Classic);
    assert!(site.answer(&shadow).is_some());
}

#[test]
fn a_document_that_never_spoke_of_quarantine_is_left_alone() {
    let mut reporter = StatusReporter::default();
    let causes = [(CauseKey::Operator, cause(None))].into();
    let (verdict, enforced) = (cut(), held(Held::Full));
    let standing = Standing {
        causes: &causes,
        verdict: Some(&verdict),
        enforced: Some(&enforced),
        enforcement: Enforcement::Enforce,
        is_core: false,
        has_spoken: false,
        shadow_failure: None,
    };
    let thing = "cam-1".parse().unwrap();
    let now = Monotonic(Duration::ZERO);
    let silent = Shadow::new(&json!({"debug": "off"})).reading();
    assert_eq!(
        reporter.answer(&thing, &ShadowRef::Classic, &silent, &standing, now),
        None
    );
    let spoken = Standing {
        has_spoken: true,
        ..standing
    };
    assert_eq!(
        reporter.answer(&thing, &ShadowRef::Classic, &ShadowReading::NotFound, &spoken, now),
        None,
        "an answer would bring the deleted document back"
    );
    assert!(
        reporter
            .answer(&thing, &ShadowRef::Classic, &silent, &spoken, now)
            .is_some()
    );
}
