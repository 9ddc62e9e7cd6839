//! What comes back: messages on shadow topics, results of publishes, ShadowManager's answers.

use serde_json::Value;

use super::{Half, Heard, Place, Shadows, UnderWay};
use crate::greengrass::link::Token;
use crate::greengrass::topic::{self, ShadowStep, Topic};
use crate::greengrass::{Destination, NucleusError};
use crate::model::Monotonic;
use crate::quarantine::{ShadowReading, ShadowRef};

impl Shadows {
    /// A message came in on a subscribed topic; `None` when it is no shadow's business or nothing follows.
    pub(in crate::agent) fn message(
        &mut self,
        from: Destination,
        topic: &str,
        payload: &[u8],
        now: Monotonic,
    ) -> Option<Heard> {
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
            ShadowStep::GetAccepted if trusted => {
                self.reading.remove(&place);
                self.read(place, payload, now)
            }
            // Another client's request may be refused for reasons of its own; only that there is no document is the
            // same for all.
            ShadowStep::GetRejected if trusted => {
                let (code, words) = refusal(payload);
                if code == Some(404) {
                    self.reading.remove(&place);
                    self.read_works(&place, now);
                    return Some(Heard::Document(place, Box::new(ShadowReading::NotFound)));
                }
                self.reading.get(&place).filter(|way| is_ours(way, &place, payload))?;
                self.reading.remove(&place);
                self.not_read(place, &format!("it cannot be read: {words}"), now);
                None
            }
            ShadowStep::UpdateAccepted
            | ShadowStep::DeleteAccepted
            | ShadowStep::UpdateDelta
            | ShadowStep::UpdateDocuments => {
                if trusted && self.sending.take_if(|way| is_ours(way, &place, payload)).is_some() {
                    self.succeeded(&place, Half::Updating, now);
                }
                // ours too: what it says now is what the next answer is held against
                self.to_read.add(place, ());
                None
            }
            ShadowStep::UpdateRejected if trusted => {
                self.sending.take_if(|way| is_ours(way, &place, payload))?;
                Some(self.not_sent(place, &format!("an update was refused: {}", refusal(payload).1), now))
            }
            _ => None,
        }
    }

    /// A publish of ours returned; `None` when the token was not ours.
    pub(in crate::agent) fn published(
        &mut self,
        token: Token,
        result: &Result<(), NucleusError>,
        now: Monotonic,
    ) -> Option<Vec<Heard>> {
        let read = self.reading_with(token);
        let is_update = self.sending.as_ref().is_some_and(|way| way.token == token);
        if read.is_none() && !is_update {
            return None;
        }
        let Err(error) = result else {
            return Some(Vec::new()); // the answer comes by itself
        };
        self.failed(&error.to_string(), now);
        if let Some(place) = read {
            self.reading.remove(&place);
            self.to_read.add(place, ());
            return Some(Vec::new());
        }
        let place = self.sending.take()?.place;
        self.to_read.add(place.clone(), ());
        Some(vec![Heard::NotSent(place)])
    }

    /// The document that is read under this token.
    fn reading_with(&self, token: Token) -> Option<Place> {
        let way = self.reading.values().find(|way| way.token == token)?;
        Some(way.place.clone())
    }

    /// ShadowManager answered a read.
    pub(in crate::agent) fn shadow(
        &mut self,
        token: Token,
        result: Result<Vec<u8>, NucleusError>,
        now: Monotonic,
    ) -> Option<Heard> {
        let place = self.reading_with(token)?;
        self.reading.remove(&place);
        match result {
            Ok(document) => self.read(place, &document, now),
            Err(NucleusError::NotFound { .. }) => {
                self.read_works(&place, now);
                Some(Heard::Document(place, Box::new(ShadowReading::NotFound)))
            }
            Err(error) => {
                self.to_read.add(place, ());
                self.failed(&error.to_string(), now);
                None
            }
        }
    }

    /// ShadowManager answered an update.
    pub(in crate::agent) fn shadow_updated(
        &mut self,
        token: Token,
        result: Result<(), NucleusError>,
        now: Monotonic,
    ) -> Option<Heard> {
        let place = self.sending.take_if(|way| way.token == token)?.place;
        match result {
            Ok(()) => {
                self.succeeded(&place, Half::Updating, now);
                self.to_read.add(place, ());
                None
            }
            Err(error) => Some(self.not_sent(place, &format!("an update was refused: {error}"), now)),
        }
    }

    /// A document came, or something in its place.
    fn read(&mut self, place: Place, document: &[u8], now: Monotonic) -> Option<Heard> {
        self.read_works(&place, now);
        match ShadowReading::parse(document) {
            Ok(reading) => Some(Heard::Document(place, Box::new(reading))),
            Err(error) => {
                self.malformed += 1;
                self.failed_at(
                    &place,
                    Half::Reading,
                    &format!("it cannot be understood and changes nothing: {error}"),
                );
                None
            }
        }
    }

    fn read_works(&mut self, place: &Place, now: Monotonic) {
        self.answered = true;
        self.succeeded(place, Half::Reading, now);
    }

    /// A read was refused for reasons of this document.
    fn not_read(&mut self, place: Place, words: &str, now: Monotonic) {
        self.failed_at(&place, Half::Reading, words);
        self.to_read.pause(&place, now);
        self.to_read.add(place, ());
    }

    /// Reads were not answered. Either nothing is heard any more, or these documents do not get through (nucleus lite
    /// does not deliver more than about 4,900 bytes), as others do.
    pub(super) fn reads_unanswered(&mut self, places: Vec<Place>, now: Monotonic) -> Option<Heard> {
        let mut silent = false;
        for place in places {
            let only_this_one = self.answered && self.to_read.is_failing(&place);
            silent |= !only_this_one;
            let words = if only_this_one {
                "reading it is not answered, others are (nucleus lite does not deliver documents above about 4,900 bytes)"
            } else {
                "reading it was not answered"
            };
            self.not_read(place, words, now);
        }
        if !silent {
            return None;
        }
        self.answered = false;
        self.failed("a shadow was not answered in time", now);
        Some(Heard::Silent)
    }

    /// An update was refused or lost: this document's own affair. It is made anew from the document as it stands.
    pub(super) fn not_sent(&mut self, place: Place, words: &str, now: Monotonic) -> Heard {
        self.failed_at(&place, Half::Updating, words);
        self.to_send.pause(&place, now);
        self.to_read.add(place.clone(), ());
        Heard::NotSent(place)
    }
}

fn is_ours(way: &UnderWay, place: &Place, payload: &[u8]) -> bool {
    let token = || {
        let message: Value = serde_json::from_slice(payload).ok()?;
        Some(message.get("clientToken")?.as_str()? == way.client_token)
    };
    way.place == *place && token() == Some(true)
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
