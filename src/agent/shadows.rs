//! The shadow protocol: what to subscribe to, which document to read next, which update to send. Decides nothing about
//! quarantine, keeps no clock, sends nothing itself.
//!
//! A message on a shadow topic only says that it is worth reading the document; nothing in it is acted on. One read and
//! one update are under way at a time: nucleus lite fails at the eleventh publish not yet acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use crate::config::{QuarantineShadow, ShadowSource};
use crate::greengrass::link::{Command, Token};
use crate::greengrass::topic::{self, ShadowName, ShadowStep, Topic};
use crate::greengrass::{Destination, NucleusError};
use crate::model::{Monotonic, ThingName};
use crate::quarantine::{ShadowReading, ShadowRef};

use super::Tokens;
use super::subscriptions::Filter;

/// A read or an update not answered by then is tried again.
const PATIENCE: Duration = Duration::from_secs(10);
/// The first wait after a failure; doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(2);
/// The longest wait after failures.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// One document is read this often even when nothing is heard, to notice subscriptions that died silently
/// (reference: nucleus lite loses all of them when its MQTT daemon restarts).
const HEARTBEAT: Duration = Duration::from_secs(300);
/// Up to this many documents have subscriptions of their own; more share wildcards, which bring the messages of every
/// thing the core's policy lets through. (The SDK holds 64 streams.)
const MOST_EXACT: usize = 16;
/// Begins the client token of our own updates.
const TOKEN_PREFIX: &str = "edge-warden-";

/// One shadow document of one thing.
pub(super) type Place = (ThingName, ShadowRef);

/// What a message or answer means.
#[derive(Debug, PartialEq)]
pub(super) enum Heard {
    /// The document as it stands.
    Document(Place, Box<ShadowReading>),
    /// An update of ours was refused or lost: it must be made anew from the document as it stands.
    NotSent(Place),
    /// Every subscription should be made anew.
    Silent,
}

#[derive(Debug)]
struct UnderWay {
    place: Place,
    token: Token,
    until: Monotonic,
    /// Our own mark on an update.
    client_token: String,
}

#[derive(Debug)]
pub(super) struct Shadows {
    classic: bool,
    named: Option<ShadowName>,
    by_manager: bool,
    places: BTreeSet<Place>,
    to_read: BTreeSet<Place>,
    to_send: BTreeMap<Place, Value>,
    reading: Option<UnderWay>,
    sending: Option<UnderWay>,
    wait: Duration,
    not_before: Monotonic,
    next_heartbeat: Monotonic,
    serial: u64,
    error: Option<String>,
    malformed: u64,
}

impl Shadows {
    pub(super) fn new(settings: &QuarantineShadow, now: Monotonic) -> Self {
        Self {
            classic: settings.classic,
            named: named(settings),
            by_manager: settings.source == ShadowSource::ShadowManager,
            places: BTreeSet::new(),
            to_read: BTreeSet::new(),
            to_send: BTreeMap::new(),
            reading: None,
            sending: None,
            wait: FIRST_WAIT,
            not_before: now,
            next_heartbeat: now.after(HEARTBEAT),
            serial: 0,
            error: None,
            malformed: 0,
        }
    }

    pub(super) fn reconfigure(&mut self, settings: &QuarantineShadow) {
        self.classic = settings.classic;
        self.named = named(settings);
        self.by_manager = settings.source == ShadowSource::ShadowManager;
        let things: BTreeSet<ThingName> = self.places.iter().map(|(thing, _)| thing.clone()).collect();
        self.set_things(&things);
    }

    /// Watch the shadows of exactly these things; those of new ones are read.
    pub(super) fn set_things(&mut self, things: &BTreeSet<ThingName>) {
        let places: BTreeSet<Place> = things
            .iter()
            .flat_map(|thing| self.shadows().map(|shadow| (thing.clone(), shadow)))
            .collect();
        self.to_read.extend(places.difference(&self.places).cloned());
        self.to_read.retain(|place| places.contains(place));
        self.to_send.retain(|place, _| places.contains(place));
        self.places = places;
    }

    fn shadows(&self) -> impl Iterator<Item = ShadowRef> {
        let named = self
            .named
            .as_ref()
            .map(|name| ShadowRef::Named(name.as_str().to_owned()));
        self.classic.then_some(ShadowRef::Classic).into_iter().chain(named)
    }

    /// The documents watched of one thing.
    pub(super) fn places_of(&self, thing: &ThingName) -> Vec<Place> {
        self.shadows()
            .map(|shadow| (thing.clone(), shadow))
            .filter(|place| self.places.contains(place))
            .collect()
    }

    /// The subscriptions that bring wake-ups and answers.
    pub(super) fn filters(&self) -> BTreeSet<Filter> {
        let from = if self.by_manager {
            Destination::Local
        } else {
            Destination::IotCore
        };
        let exact = self.places.len() <= MOST_EXACT;
        let mut filters = BTreeSet::new();
        for (thing, shadow) in &self.places {
            let thing = if exact { thing.as_str() } else { "+" };
            let base = match shadow {
                ShadowRef::Classic => format!("$aws/things/{thing}/shadow"),
                ShadowRef::Named(name) => format!("$aws/things/{thing}/shadow/name/{name}"),
            };
            // update/accepted, delete/accepted and get/accepted in one
            filters.insert((from, format!("{base}/+/accepted")));
            filters.insert((from, format!("{base}/+/rejected")));
        }
        filters
    }

    /// Read every document again: messages may have been missed.
    pub(super) fn read_all(&mut self) {
        self.to_read.clone_from(&self.places);
    }

    /// Send this update to a document; a newer one replaces it.
    pub(super) fn send(&mut self, place: Place, update: Value) {
        self.to_send.insert(place, update);
    }

    /// When [`Shadows::commands`] is worth asking again.
    pub(super) fn next_wake(&self) -> Option<Monotonic> {
        if self.places.is_empty() {
            return None;
        }
        let under_way = [&self.reading, &self.sending]
            .into_iter()
            .flatten()
            .map(|way| way.until)
            .min();
        let waiting = (self.reading.is_none() && !self.to_read.is_empty())
            || (self.sending.is_none() && !self.to_send.is_empty());
        let waiting = waiting.then_some(self.not_before);
        [under_way, waiting, Some(self.next_heartbeat)]
            .into_iter()
            .flatten()
            .min()
    }

    /// What the nucleus is to be asked now; only while the subscriptions that bring the answers are held.
    pub(super) fn commands(
        &mut self,
        subscribed: bool,
        now: Monotonic,
        tokens: &mut Tokens,
    ) -> (Vec<Command>, Vec<Heard>) {
        let mut heard = Vec::new();
        if self.reading.as_ref().is_some_and(|way| way.until <= now)
            && let Some(way) = self.reading.take()
        {
            self.to_read.insert(way.place);
            self.failed("a shadow was not answered in time", now);
            heard.push(Heard::Silent);
        }
        if self.sending.as_ref().is_some_and(|way| way.until <= now)
            && let Some(way) = self.sending.take()
        {
            self.failed("a shadow update was not answered in time", now);
            heard.push(Heard::NotSent(way.place));
        }
        if self.next_heartbeat <= now {
            self.next_heartbeat = now.after(HEARTBEAT);
            self.to_read.extend(self.places.first().cloned());
        }
        if !subscribed || now < self.not_before {
            return (Vec::new(), heard);
        }
        let mut commands = Vec::new();
        if self.reading.is_none()
            && let Some(place) = self.to_read.pop_first()
        {
            let token = tokens.next();
            commands.push(self.get(&place, token));
            self.reading = Some(UnderWay {
                place,
                token,
                until: now.after(PATIENCE),
                client_token: String::new(),
            });
        }
        if self.sending.is_none()
            && let Some((place, mut update)) = self.to_send.pop_first()
        {
            let token = tokens.next();
            self.serial += 1;
            let client_token = format!("{TOKEN_PREFIX}{}", self.serial);
            if let Some(object) = update.as_object_mut() {
                object.insert("clientToken".to_owned(), json!(client_token));
            }
            commands.push(self.update(&place, &update, token));
            self.sending = Some(UnderWay {
                place,
                token,
                until: now.after(PATIENCE),
                client_token,
            });
        }
        (commands, heard)
    }

    fn get(&self, (thing, shadow): &Place, token: Token) -> Command {
        let shadow = name_of(shadow);
        if self.by_manager {
            return Command::ThingShadow {
                token,
                thing: thing.clone(),
                shadow,
            };
        }
        let topic = topic::shadow(Some(thing), shadow.as_ref(), ShadowStep::Get);
        Command::Publish {
            token,
            to: Destination::IotCore,
            topic,
            payload: b"{}".to_vec(),
        }
    }

    fn update(&self, (thing, shadow): &Place, update: &Value, token: Token) -> Command {
        let shadow = name_of(shadow);
        let document = update.to_string().into_bytes();
        if self.by_manager {
            return Command::UpdateThingShadow {
                token,
                thing: thing.clone(),
                shadow,
                document,
            };
        }
        let topic = topic::shadow(Some(thing), shadow.as_ref(), ShadowStep::Update);
        Command::Publish {
            token,
            to: Destination::IotCore,
            topic,
            payload: document,
        }
    }

    /// A message came in on a subscribed topic; `None` when it is no shadow's business or nothing follows.
    pub(super) fn message(&mut self, from: Destination, topic: &str, payload: &[u8], now: Monotonic) -> Option<Heard> {
        let Topic::Shadow { thing, shadow, step } = topic::parse(topic)? else {
            return None;
        };
        let shadow = shadow.map_or(ShadowRef::Classic, |name| ShadowRef::Named(name.as_str().to_owned()));
        let place = (thing, shadow);
        if !self.places.contains(&place) {
            return None; // a wildcard brings other gateways' things too
        }
        // What ShadowManager announces locally, anybody on the local bus may forge: a hint to read, no more.
        let trusted = from == Destination::IotCore && !self.by_manager;
        match step {
            ShadowStep::GetAccepted if trusted => match ShadowReading::parse(payload) {
                Ok(reading) => {
                    self.read_done(&place, now);
                    Some(Heard::Document(place, Box::new(reading)))
                }
                Err(error) => {
                    self.malformed += 1;
                    tracing::warn!(thing = %place.0, shadow = %place.1, %error, "a shadow that cannot be understood changes nothing");
                    self.read_done(&place, now);
                    None
                }
            },
            ShadowStep::GetRejected if trusted => {
                if refusal(payload).0 == Some(404) {
                    self.read_done(&place, now);
                    return Some(Heard::Document(place, Box::new(ShadowReading::NotFound)));
                }
                self.reading.take_if(|way| way.place == place)?;
                self.to_read.insert(place);
                self.failed(&format!("a shadow cannot be read: {}", refusal(payload).1), now);
                None
            }
            ShadowStep::UpdateAccepted
            | ShadowStep::DeleteAccepted
            | ShadowStep::UpdateDelta
            | ShadowStep::UpdateDocuments => {
                if self.is_ours(&place, payload) {
                    self.sending = None;
                    self.succeeded();
                }
                // ours too: what it says now is what the next answer is held against
                self.to_read.insert(place);
                None
            }
            ShadowStep::UpdateRejected if self.is_ours(&place, payload) => {
                self.sending = None;
                self.failed(&format!("a shadow update was refused: {}", refusal(payload).1), now);
                self.to_read.insert(place.clone());
                Some(Heard::NotSent(place))
            }
            _ => None,
        }
    }

    fn is_ours(&self, place: &Place, payload: &[u8]) -> bool {
        let token = serde_json::from_slice::<Value>(payload)
            .ok()
            .and_then(|message| message.get("clientToken")?.as_str().map(str::to_owned));
        self.sending
            .as_ref()
            .is_some_and(|way| way.place == *place && Some(way.client_token.as_str()) == token.as_deref())
    }

    /// A publish of ours returned; true when the token was ours.
    pub(super) fn published(
        &mut self,
        token: Token,
        result: &Result<(), NucleusError>,
        now: Monotonic,
    ) -> Option<Vec<Heard>> {
        if let Some(way) = self.reading.take_if(|way| way.token == token) {
            match result {
                Ok(()) => self.reading = Some(way),
                Err(error) => {
                    self.to_read.insert(way.place);
                    self.failed(&error.to_string(), now);
                }
            }
            return Some(Vec::new());
        }
        let way = self.sending.take_if(|way| way.token == token)?;
        match result {
            Ok(()) => {
                self.sending = Some(way);
                Some(Vec::new())
            }
            Err(error) => {
                self.failed(&error.to_string(), now);
                self.to_read.insert(way.place.clone());
                Some(vec![Heard::NotSent(way.place)])
            }
        }
    }

    /// ShadowManager answered a read.
    pub(super) fn shadow(
        &mut self,
        token: Token,
        result: Result<Vec<u8>, NucleusError>,
        now: Monotonic,
    ) -> Option<Heard> {
        let way = self.reading.take_if(|way| way.token == token)?;
        let reading = match result {
            Ok(document) => match ShadowReading::parse(&document) {
                Ok(reading) => reading,
                Err(error) => {
                    self.malformed += 1;
                    tracing::warn!(thing = %way.place.0, %error, "a shadow that cannot be understood changes nothing");
                    return None;
                }
            },
            Err(NucleusError::NotFound { .. }) => ShadowReading::NotFound,
            Err(error) => {
                self.to_read.insert(way.place);
                self.failed(&error.to_string(), now);
                return None;
            }
        };
        self.succeeded();
        Some(Heard::Document(way.place, Box::new(reading)))
    }

    /// ShadowManager answered an update.
    pub(super) fn shadow_updated(
        &mut self,
        token: Token,
        result: Result<(), NucleusError>,
        now: Monotonic,
    ) -> Option<Heard> {
        let way = self.sending.take_if(|way| way.token == token)?;
        match result {
            Ok(()) => {
                self.succeeded();
                self.to_read.insert(way.place);
                None
            }
            Err(error) => {
                self.failed(&error.to_string(), now);
                self.to_read.insert(way.place.clone());
                Some(Heard::NotSent(way.place))
            }
        }
    }

    fn read_done(&mut self, place: &Place, now: Monotonic) {
        if self.reading.take_if(|way| way.place == *place).is_some() {
            self.succeeded();
            self.next_heartbeat = now.after(HEARTBEAT);
        }
    }

    fn succeeded(&mut self) {
        self.wait = FIRST_WAIT;
        if self.error.take().is_some() {
            tracing::info!("shadows can be reached again");
        }
    }

    fn failed(&mut self, words: &str, now: Monotonic) {
        if self.error.as_deref() != Some(words) {
            tracing::warn!(error = words, "shadows are tried again; decisions in force stay");
        }
        self.error = Some(words.to_owned());
        self.not_before = now.after(self.wait);
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
    }

    /// For `status`.
    pub(super) fn status(&self) -> Value {
        json!({
            "documents": self.places.len(),
            "toRead": self.to_read.len(),
            "toSend": self.to_send.len(),
            "malformed": self.malformed,
            "error": self.error,
        })
    }
}

fn named(settings: &QuarantineShadow) -> Option<ShadowName> {
    settings.named.as_ref().and_then(|name| name.as_str().parse().ok())
}

fn name_of(shadow: &ShadowRef) -> Option<ShadowName> {
    match shadow {
        ShadowRef::Classic => None,
        ShadowRef::Named(name) => name.parse().ok(),
    }
}

/// Code and message of a `rejected` answer.
fn refusal(payload: &[u8]) -> (Option<u64>, String) {
    let message: Value = serde_json::from_slice(payload).unwrap_or_default();
    let code = message.get("code").and_then(Value::as_u64);
    let words = message
        .get("message")
        .and_then(Value::as_str)
        .unwrap_or("no reason given");
    let words: String = words.chars().filter(|c| !c.is_control()).take(200).collect();
    (
        code,
        code.map_or_else(|| words.clone(), |code| format!("{code} {words}")),
    )
}
