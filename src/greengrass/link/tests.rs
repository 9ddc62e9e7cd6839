use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

use serde_json::Value;

use super::*;
use crate::greengrass::{ComponentState, Destination, NucleusKind};
use crate::model::ThingName;

const LONG: Duration = Duration::from_secs(30);

/// A nucleus that records what it is asked; `gate` tells of every publish and holds it back until it is told.
struct Fake {
    calls: Arc<Mutex<Vec<String>>>,
    gate: Option<(Sender<()>, Receiver<()>)>,
    next: u64,
}

impl Fake {
    fn note(&self, call: &str) {
        self.calls.lock().unwrap().push(call.to_owned());
    }
}

impl Nucleus for Fake {
    fn kind(&self) -> NucleusKind {
        NucleusKind::Classic
    }
    fn thing_name(&self) -> Result<ThingName, NucleusError> {
        Ok("gw".parse().unwrap())
    }
    fn configuration(&mut self) -> Result<Value, NucleusError> {
        Ok(serde_json::json!({"a": 1}))
    }
    fn watch_configuration(&mut self) -> Result<(), NucleusError> {
        Ok(())
    }
    fn publish(&mut self, _to: Destination, topic: &str, _payload: &[u8]) -> Result<(), NucleusError> {
        self.note(&format!("publish {topic}"));
        if let Some((entered, leave)) = &self.gate {
            entered.send(()).unwrap();
            let _ = leave.recv();
        }
        match topic {
            "denied" => Err(NucleusError::Denied { what: topic.to_owned() }),
            _ => Ok(()),
        }
    }
    fn subscribe(&mut self, _from: Destination, filter: &str) -> Result<SubscriptionId, NucleusError> {
        self.note(&format!("subscribe {filter}"));
        self.next += 1;
        Ok(SubscriptionId(self.next))
    }
    fn unsubscribe(&mut self, id: SubscriptionId) {
        self.note(&format!("unsubscribe {}", id.0));
    }
    fn update_state(&mut self, _state: ComponentState) -> Result<(), NucleusError> {
        Ok(())
    }
    fn thing_shadow(&mut self, thing: &ThingName, _shadow: Option<&str>) -> Result<Vec<u8>, NucleusError> {
        Err(NucleusError::NotFound {
            what: thing.to_string(),
        })
    }
    fn update_thing_shadow(&mut self, _: &ThingName, _: Option<&str>, _: &[u8]) -> Result<(), NucleusError> {
        Ok(())
    }
}

struct Rig {
    link: NucleusLink,
    events: NucleusEvents,
    calls: Arc<Mutex<Vec<String>>>,
    incoming: IncomingSender,
}

fn rig(gate: Option<(Sender<()>, Receiver<()>)>) -> Rig {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let noted = calls.clone();
    let (give, take) = channel();
    let (link, mut events) = NucleusLink::spawn(move |incoming| {
        give.send(incoming).unwrap();
        Ok(Box::new(Fake {
            calls: noted,
            gate,
            next: 0,
        }))
    })
    .unwrap();
    let ready = events.blocking_recv();
    assert_eq!(
        ready,
        Some(NucleusEvent::Ready {
            kind: NucleusKind::Classic,
            core: "gw".parse().unwrap()
        })
    );
    Rig {
        link,
        events,
        calls,
        incoming: take.recv().unwrap(),
    }
}

fn publish(token: u64, topic: &str) -> Command {
    Command::Publish {
        token: Token(token),
        to: Destination::IotCore,
        topic: topic.to_owned(),
        payload: vec![],
    }
}

fn message(size: usize) -> Incoming {
    Incoming::Message {
        from: Destination::IotCore,
        topic: String::new(),
        payload: vec![0; size],
    }
}

#[test]
fn answers_come_in_order_with_their_tokens() {
    let mut rig = rig(None);
    rig.link.send(publish(7, "a")).unwrap();
    rig.link.send(publish(8, "denied")).unwrap();
    rig.link.send(Command::Configuration).unwrap();
    let desired = serde_json::json!({});
    let thing: ThingName = "cam".parse().unwrap();
    rig.link
        .send(Command::WriteDesired {
            token: Token(9),
            thing,
            shadow: None,
            desired,
        })
        .unwrap();
    assert_eq!(
        rig.events.blocking_recv(),
        Some(NucleusEvent::Published {
            token: Token(7),
            result: Ok(())
        })
    );
    let denied = Err(NucleusError::Denied {
        what: "denied".to_owned(),
    });
    assert_eq!(
        rig.events.blocking_recv(),
        Some(NucleusEvent::Published {
            token: Token(8),
            result: denied
        })
    );
    let configuration = Ok(serde_json::json!({"a": 1}));
    assert_eq!(
        rig.events.blocking_recv(),
        Some(NucleusEvent::Configuration(configuration))
    );
    let Some(NucleusEvent::DesiredWritten {
        token: Token(9),
        result,
    }) = rig.events.blocking_recv()
    else {
        panic!("no answer")
    };
    assert!(matches!(result, Err(NucleusError::Unsupported { .. })));
}

#[test]
fn stop_ends_what_is_still_subscribed() {
    let mut rig = rig(None);
    for (token, filter) in ["a", "b", "c"].into_iter().enumerate() {
        let token = Token(token as u64);
        rig.link
            .send(Command::Subscribe {
                token,
                from: Destination::Local,
                filter: filter.to_owned(),
            })
            .unwrap();
        assert!(matches!(
            rig.events.blocking_recv(),
            Some(NucleusEvent::Subscribed { result: Ok(_), .. })
        ));
    }
    rig.link.send(Command::Unsubscribe(SubscriptionId(2))).unwrap();
    rig.link.send(Command::Configuration).unwrap();
    assert!(matches!(
        rig.events.blocking_recv(),
        Some(NucleusEvent::Configuration(_))
    ));
    assert_eq!(rig.link.stop(LONG), Stopped::Cleanly);
    let calls = rig.calls.lock().unwrap();
    assert_eq!(calls[3..], ["unsubscribe 2", "unsubscribe 1", "unsubscribe 3"]);
}

#[test]
fn a_stalled_nucleus_holds_neither_send_nor_stop() {
    let (entered, has_entered) = channel();
    let (open, leave) = channel();
    let rig = rig(Some((entered, leave)));
    rig.link.send(publish(0, "a")).unwrap();
    has_entered.recv().unwrap();
    for token in 1..=MAX_COMMANDS as u64 {
        rig.link.send(publish(token, "a")).unwrap();
    }
    assert_eq!(rig.link.send(publish(0, "a")), Err(LinkError::Busy));
    assert_eq!(rig.link.stop(Duration::from_millis(50)), Stopped::TimedOut);
    // Once it answers again its thread ends, without carrying out what was waiting.
    open.send(()).unwrap();
    let mut events = rig.events;
    assert!(matches!(
        events.blocking_recv(),
        Some(NucleusEvent::Published { token: Token(0), .. })
    ));
    drop(rig.incoming);
    assert_eq!(events.blocking_recv(), None);
    assert_eq!(rig.calls.lock().unwrap().len(), 1);
}

#[test]
fn a_nucleus_that_cannot_be_built_says_why() {
    let error = NucleusError::NotAComponent {
        what: "SVCUID is not set".to_owned(),
    };
    let told = error.clone();
    let (link, mut events) = NucleusLink::spawn(move |_| Err(told)).unwrap();
    assert_eq!(events.blocking_recv(), Some(NucleusEvent::Unavailable(error)));
    assert_eq!(events.blocking_recv(), None);
    assert_eq!(link.send(publish(1, "a")), Err(LinkError::Ended));
    assert_eq!(link.stop(LONG), Stopped::Cleanly);
}

#[test]
fn messages_beyond_the_bounds_are_dropped_and_counted() {
    let mut rig = rig(None);
    for _ in 0..MAX_MESSAGES + 3 {
        (rig.incoming)(message(1));
    }
    assert_eq!(rig.link.dropped(), 3);
    // Reading one makes room for one.
    assert!(matches!(rig.events.try_recv(), Some(NucleusEvent::Message { .. })));
    (rig.incoming)(message(1));
    assert_eq!(rig.link.dropped(), 3);
    while rig.events.try_recv().is_some() {}

    (rig.incoming)(message(MAX_MESSAGE_BYTES + 1));
    assert_eq!(rig.link.dropped(), 4);
    (rig.incoming)(message(MAX_MESSAGE_BYTES));
    (rig.incoming)(message(1));
    assert_eq!(rig.link.dropped(), 5);
}

#[test]
fn configuration_changes_are_never_lost_and_never_pile_up() {
    let mut rig = rig(None);
    for _ in 0..MAX_MESSAGES {
        (rig.incoming)(message(0));
    }
    (rig.incoming)(Incoming::ConfigurationChanged);
    (rig.incoming)(Incoming::ConfigurationChanged);
    let mut changes = 0;
    while let Some(event) = rig.events.try_recv() {
        changes += usize::from(event == NucleusEvent::ConfigurationChanged);
    }
    assert_eq!(changes, 1);
    (rig.incoming)(Incoming::ConfigurationChanged);
    assert_eq!(rig.events.try_recv(), Some(NucleusEvent::ConfigurationChanged));
}
