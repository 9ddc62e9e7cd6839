//! The shadow protocol: what to subscribe to, which document to read next, which update to send. Decides nothing about
//! quarantine, keeps no clock, sends nothing itself.
//!
//! A message on a shadow topic only says that it is worth reading the document; nothing in it is acted on. One update
//! and as many reads are under way at a time as the nucleus takes ([`reads_at_once`]).

mod hear;
mod turns;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use crate::config::{QuarantineShadow, ShadowSource};
use crate::greengrass::link::{Command, Token};
use crate::greengrass::topic::{self, ShadowName, ShadowStep};
use crate::greengrass::{Destination, NucleusKind};
use crate::model::{Monotonic, ThingName};
use crate::quarantine::{ShadowReading, ShadowRef};

use super::Tokens;
use super::subscriptions::Filter;
use turns::{NOBODY, Turns};

/// A read or an update not answered by then is tried again.
const PATIENCE: Duration = Duration::from_secs(10);
/// The first wait after a failure; doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(2);
/// The longest wait after failures.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// One document, another each time, is read this often even when nothing is heard, to notice subscriptions that died
/// silently (nucleus lite loses all of them when its MQTT daemon restarts).
const HEARTBEAT: Duration = Duration::from_secs(300);
/// Up to this many documents have subscriptions of their own; more share wildcards, which bring the messages of every
/// thing the core's policy lets through. (The SDK holds 64 streams.)
const MOST_EXACT: usize = 16;
/// Begins the client token of our own requests.
const TOKEN_PREFIX: &str = "edge-warden-";
/// Documents in trouble that `status` names.
const MOST_NAMED: usize = 8;

/// How many documents may be asked for before the first has come. Nucleus lite fails at the eleventh publish that is not
/// acknowledged, and all of the device's components share it: one. AWS IoT Core takes 100 publishes a second of one
/// connection (AWS IoT Core quotas, "Publish requests per second per connection"); an answer takes some 50 ms there.
pub(super) fn reads_at_once(kind: NucleusKind) -> usize {
    match kind {
        NucleusKind::Lite => 1,
        NucleusKind::Classic => 4,
        NucleusKind::Standalone => 64,
    }
}

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

/// The two things done with a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Half {
    Reading,
    Updating,
}

#[derive(Debug)]
struct UnderWay {
    place: Place,
    token: Token,
    until: Monotonic,
    /// Our own mark, which the answer repeats.
    client_token: String,
}

#[derive(Debug)]
pub(super) struct Shadows {
    classic: bool,
    named: Option<ShadowName>,
    by_manager: bool,
    places: BTreeSet<Place>,
    /// The subscriptions that bring wake-ups and answers of `places`.
    filters: BTreeSet<Filter>,
    to_read: Turns<()>,
    to_send: Turns<Value>,
    most_reads: usize,
    reading: BTreeMap<Place, UnderWay>,
    sending: Option<UnderWay>,
    /// After a failure that concerns all documents: the next wait, and its end.
    wait: Duration,
    not_before: Monotonic,
    next_heartbeat: Monotonic,
    last_heartbeat: Option<Place>,
    /// A read was answered since the subscriptions were last given up.
    answered: bool,
    serial: u64,
    error: Option<String>,
    /// What is wrong with single documents, in words.
    trouble: BTreeMap<(Place, Half), String>,
    malformed: u64,
}

impl Shadows {
    pub(super) fn new(settings: &QuarantineShadow, most_reads: usize, now: Monotonic) -> Self {
        Self {
            classic: settings.classic,
            named: named(settings),
            by_manager: settings.source == ShadowSource::ShadowManager,
            places: BTreeSet::new(),
            filters: BTreeSet::new(),
            to_read: Turns::new(),
            to_send: Turns::new(),
            most_reads,
            reading: BTreeMap::new(),
            sending: None,
            wait: FIRST_WAIT,
            not_before: now,
            next_heartbeat: now.after(HEARTBEAT),
            last_heartbeat: None,
            answered: false,
            serial: 0,
            error: None,
            trouble: BTreeMap::new(),
            malformed: 0,
        }
    }

    pub(super) fn reconfigure(&mut self, settings: &QuarantineShadow) {
        let things: BTreeSet<ThingName> = self.places.iter().map(|(thing, _)| thing.clone()).collect();
        let by_manager = settings.source == ShadowSource::ShadowManager;
        self.classic = settings.classic;
        self.named = named(settings);
        if by_manager != self.by_manager {
            // another source answers now, and may say something else
            (self.sending, self.error) = (None, None);
            self.reading.clear();
            self.by_manager = by_manager;
            self.filters = self.filters_wanted();
            self.read_all();
        }
        self.set_things(&things);
    }

    /// Watch the shadows of exactly these things; those of new ones are read.
    pub(super) fn set_things(&mut self, things: &BTreeSet<ThingName>) {
        let places: BTreeSet<Place> = things
            .iter()
            .flat_map(|thing| self.shadows().map(|shadow| (thing.clone(), shadow)))
            .collect();
        if places == self.places {
            return;
        }
        let was_exact = self.is_exact();
        let before = std::mem::replace(&mut self.places, places);
        self.filters = self.filters_wanted();
        if was_exact != self.is_exact() {
            // between the old subscriptions and the new ones changes go unheard
            self.read_all();
        }
        for place in self.places.difference(&before) {
            self.to_read.add(place.clone(), ());
        }
        self.to_read.retain(&self.places);
        self.to_send.retain(&self.places);
        self.trouble.retain(|(place, _), _| self.places.contains(place));
        self.reading.retain(|place, _| self.places.contains(place));
        self.sending.take_if(|way| !self.places.contains(&way.place));
    }

    fn is_exact(&self) -> bool {
        self.places.len() <= MOST_EXACT
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
    pub(super) fn filters(&self) -> &BTreeSet<Filter> {
        &self.filters
    }

    fn filters_wanted(&self) -> BTreeSet<Filter> {
        let from = if self.by_manager {
            Destination::Local
        } else {
            Destination::IotCore
        };
        let exact = self.is_exact();
        let mut filters = BTreeSet::new();
        for (thing, shadow) in &self.places {
            let thing = if exact { thing.as_str() } else { "+" };
            let base = match shadow {
                ShadowRef::Classic => format!("$aws/things/{thing}/shadow"),
                ShadowRef::Named(name) => format!("$aws/things/{thing}/shadow/name/{name}"),
            };
            // update/accepted, delete/accepted and get/accepted in one
            filters.insert((from, format!("{base}/+/accepted")));
            if !self.by_manager {
                filters.insert((from, format!("{base}/+/rejected"))); // ShadowManager answers by itself
            }
        }
        filters
    }

    /// Read every document again: messages may have been missed.
    pub(super) fn read_all(&mut self) {
        for place in &self.places {
            self.to_read.add(place.clone(), ());
        }
    }

    /// Send this update to a document; a newer one replaces it.
    pub(super) fn send(&mut self, place: Place, update: Value) {
        self.to_send.add(place, update);
    }

    /// When [`Shadows::commands`] is worth asking again; `subscribed` as there.
    pub(super) fn next_wake(&self, subscribed: bool) -> Option<Monotonic> {
        if self.places.is_empty() {
            return None;
        }
        let under_way = self.reading.values().chain(&self.sending).map(|way| way.until).min();
        let to_read = self
            .to_read
            .next_due_but(&self.reading)
            .filter(|_| self.reading.len() < self.most_reads);
        let to_send = self.to_send.next_due_but(&NOBODY).filter(|_| self.sending.is_none());
        let waiting = [to_read, to_send]
            .into_iter()
            .flatten()
            .min()
            .map(|due| due.max(self.not_before))
            .filter(|_| subscribed);
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
        let unanswered = self.reading.extract_if(.., |_, way| way.until <= now);
        let unanswered: Vec<Place> = unanswered.map(|(place, _)| place).collect();
        heard.extend(self.reads_unanswered(unanswered, now));
        if self.sending.as_ref().is_some_and(|way| way.until <= now)
            && let Some(way) = self.sending.take()
        {
            // reading it shows whether it arrived, or whether nothing is heard any more
            heard.push(self.not_sent(way.place, "an update was not answered", now));
        }
        if self.next_heartbeat <= now {
            self.next_heartbeat = now.after(HEARTBEAT);
            self.heartbeat();
        }
        if !subscribed || now < self.not_before {
            return (Vec::new(), heard);
        }
        let mut commands = Vec::new();
        while self.reading.len() < self.most_reads
            && let Some((place, ())) = self.to_read.next_but(now, &self.reading)
        {
            let way = self.under_way(place.clone(), now, tokens);
            commands.push(self.get(&way));
            self.reading.insert(place, way);
        }
        if self.sending.is_none()
            && let Some((place, mut update)) = self.to_send.next(now)
        {
            let way = self.under_way(place, now, tokens);
            if let Some(object) = update.as_object_mut() {
                object.insert("clientToken".to_owned(), json!(way.client_token));
            }
            commands.push(self.update(&way, &update));
            self.sending = Some(way);
        }
        (commands, heard)
    }

    fn under_way(&mut self, place: Place, now: Monotonic, tokens: &mut Tokens) -> UnderWay {
        self.serial += 1;
        UnderWay {
            place,
            token: tokens.next(),
            until: now.after(PATIENCE),
            client_token: format!("{TOKEN_PREFIX}{}", self.serial),
        }
    }

    /// Read another document each time, and none that is known not to be answered.
    fn heartbeat(&mut self) {
        let works = |place: &&Place| !self.to_read.is_failing(place);
        let behind = |place: &&Place| self.last_heartbeat.as_ref().is_some_and(|last| *place > last);
        let next = self.places.iter().filter(behind).find(works);
        let next = next.or_else(|| self.places.iter().find(works)).cloned();
        if let Some(place) = &next {
            self.to_read.add(place.clone(), ());
        }
        self.last_heartbeat = next;
    }

    fn get(&self, way: &UnderWay) -> Command {
        let (token, (thing, shadow)) = (way.token, &way.place);
        let shadow = name_of(shadow);
        if self.by_manager {
            return Command::ThingShadow {
                token,
                thing: thing.clone(),
                shadow,
            };
        }
        Command::Publish {
            token,
            to: Destination::IotCore,
            topic: topic::shadow(Some(thing), shadow.as_ref(), ShadowStep::Get),
            payload: json!({"clientToken": way.client_token}).to_string().into_bytes(),
        }
    }

    fn update(&self, way: &UnderWay, update: &Value) -> Command {
        let (token, (thing, shadow)) = (way.token, &way.place);
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
        Command::Publish {
            token,
            to: Destination::IotCore,
            topic: topic::shadow(Some(thing), shadow.as_ref(), ShadowStep::Update),
            payload: document,
        }
    }

    /// A document answered as it should.
    fn succeeded(&mut self, place: &Place, half: Half, now: Monotonic) {
        self.wait = FIRST_WAIT;
        self.trouble.remove(&(place.clone(), half));
        match half {
            Half::Reading => self.to_read.works(place),
            Half::Updating => self.to_send.works(place),
        }
        if self.error.take().is_some() {
            tracing::info!("shadows can be reached again");
            self.to_read.end_pauses(now);
            self.to_send.end_pauses(now);
        }
    }

    /// Something failed that concerns every document.
    fn failed(&mut self, words: &str, now: Monotonic) {
        if self.error.as_deref() != Some(words) {
            tracing::warn!(error = words, "shadows are tried again; decisions in force stay");
        }
        self.error = Some(words.to_owned());
        self.not_before = now.after(self.wait);
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
    }

    /// Something failed that concerns one document.
    fn failed_at(&mut self, place: &Place, half: Half, words: &str) {
        let former = self.trouble.insert((place.clone(), half), words.to_owned());
        if former.as_deref() != Some(words) {
            tracing::warn!(thing = %place.0, shadow = %place.1, error = words, "a shadow document gives trouble");
        }
    }

    /// For `status`.
    pub(super) fn status(&self) -> Value {
        let trouble: Vec<Value> = self
            .trouble
            .iter()
            .take(MOST_NAMED)
            .map(|(((thing, shadow), _), words)| json!({"thing": thing, "shadow": shadow.to_string(), "error": words}))
            .collect();
        json!({
            "documents": self.places.len(),
            "toRead": self.to_read.len(),
            "toSend": self.to_send.len(),
            "underWay": self.reading.len() + usize::from(self.sending.is_some()),
            "malformed": self.malformed,
            "error": self.error,
            "inTrouble": self.trouble.len(),
            "trouble": trouble,
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

#[cfg(test)]
mod tests;
