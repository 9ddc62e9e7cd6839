//! Events on their way to AWS IoT Core: kept on disk until the nucleus took them, in order, bounded.
//!
//! `violations-outbox.jsonl` in the state folder is a journal, one JSON object a line: an event with its number, the
//! number of one that was sent, how many were dropped. It is written anew when most of it is history. A crash between
//! the nucleus taking an event and the journal saying so sends that event twice, never not at all.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::kept::Told;
use crate::agent::files::{self, chain};
use crate::greengrass::NucleusError;
use crate::greengrass::link::Token;
use crate::model::Monotonic;

/// The journal's name in the state folder.
const FILE: &str = "violations-outbox.jsonl";
/// The most events that wait; further ones push out the oldest.
pub(super) const MOST_EVENTS: usize = 4_096;
/// The most bytes of events that wait.
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// A journal larger than this is written anew.
const MOST_JOURNAL: u64 = 12 * 1024 * 1024;
/// A journal of which nothing waits is written anew when it is larger than this.
const IDLE_JOURNAL: u64 = 256 * 1024;
/// The first wait after the nucleus did not take an event; doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(5);
/// The longest wait between tries.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A line of the journal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Event {
        event: u64,
        payload: String,
    },
    Sent {
        sent: u64,
    },
    /// Of those up to a number, how many were ever dropped.
    Dropped {
        dropped: u64,
        #[serde(rename = "upTo")]
        up_to: u64,
    },
}

/// The events that wait.
#[derive(Debug)]
pub(super) struct Outbox {
    path: PathBuf,
    /// Open for appending; `None` when that failed.
    file: Option<File>,
    size: u64,
    waiting: VecDeque<(u64, String)>,
    bytes: usize,
    /// The number of the next event.
    next: u64,
    dropped: u64,
    sent: u64,
    in_flight: Option<(Token, u64)>,
    retry_at: Monotonic,
    wait: Duration,
    /// Why the last try failed, if it did.
    error: Option<String>,
    /// Why the journal cannot be written, if so.
    trouble: Option<String>,
}

impl Outbox {
    /// Opens the journal; what is wrong with it is returned in words, and the events that can be read are kept.
    pub(super) fn open(state_dir: &Path, now: Monotonic) -> (Self, Option<String>) {
        let mut outbox = Self {
            path: state_dir.join(FILE),
            file: None,
            size: 0,
            waiting: VecDeque::new(),
            bytes: 0,
            next: 1,
            dropped: 0,
            sent: 0,
            in_flight: None,
            retry_at: now,
            wait: FIRST_WAIT,
            error: None,
            trouble: None,
        };
        let damage = match files::read(&outbox.path) {
            Ok(None) => return (outbox, None),
            Ok(Some(content)) => outbox.replay(&content),
            Err(error) => Some(chain(&error)),
        };
        outbox.shorten();
        outbox.rewrite();
        (outbox, damage)
    }

    fn replay(&mut self, content: &[u8]) -> Option<String> {
        let mut unreadable = 0_usize;
        for line in content.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line) {
                Ok(Line::Event { event, payload }) if event >= self.next => {
                    self.next = event.saturating_add(1);
                    self.bytes = self.bytes.saturating_add(payload.len());
                    self.waiting.push_back((event, payload));
                }
                Ok(Line::Sent { sent }) => self.forget_up_to(sent),
                Ok(Line::Dropped { dropped, up_to }) => {
                    self.forget_up_to(up_to);
                    self.dropped = dropped;
                    self.next = self.next.max(up_to.saturating_add(1));
                }
                // a line that was written twice, or is none
                Ok(Line::Event { .. }) | Err(_) => unreadable += 1,
            }
        }
        let path = self.path.display();
        (unreadable > 0).then(|| format!("{path}: {unreadable} lines cannot be read and are left out"))
    }

    fn forget_up_to(&mut self, number: u64) {
        while self.waiting.front().is_some_and(|(event, _)| *event <= number) {
            if let Some((_, payload)) = self.waiting.pop_front() {
                self.bytes = self.bytes.saturating_sub(payload.len());
            }
        }
    }

    /// Drops the oldest until the rest is within bounds; true when any was dropped.
    fn shorten(&mut self) -> bool {
        let before = self.dropped;
        while self.waiting.len() > MOST_EVENTS || self.bytes > MOST_BYTES {
            let Some((event, _)) = self.waiting.front() else { break };
            self.forget_up_to(*event);
            self.dropped = self.dropped.saturating_add(1);
        }
        before != self.dropped
    }

    /// Takes events in, oldest first. They are on disk when this returns, unless the disk refuses.
    pub(super) fn push(&mut self, payloads: Vec<String>) {
        if payloads.is_empty() {
            return;
        }
        let mut lines = Vec::new();
        for payload in payloads {
            let event = self.next;
            self.next = self.next.saturating_add(1);
            self.bytes = self.bytes.saturating_add(payload.len());
            let line = Line::Event { event, payload };
            append(&mut lines, &line);
            let Line::Event { payload, .. } = line else { continue };
            self.waiting.push_back((event, payload));
        }
        if self.shorten() {
            tracing::warn!(
                dropped = self.dropped,
                "events wait too long for the cloud; the oldest are dropped"
            );
            append(&mut lines, &self.dropped_line());
        }
        self.write(&lines, true);
    }

    /// The number the next event gets.
    pub(super) fn next_number(&self) -> u64 {
        self.next
    }

    /// Takes in what was told as the alarms were saved and is not in the journal: the process died between the two.
    pub(super) fn recover(&mut self, told: Told) {
        let known = usize::try_from(self.next.saturating_sub(told.first)).unwrap_or(usize::MAX);
        let lost: Vec<String> = told.payloads.into_iter().skip(known).collect();
        if !lost.is_empty() {
            self.next = self.next.max(told.first);
            tracing::info!(events = lost.len(), "events of before a crash are told now");
            self.push(lost);
        }
    }

    fn dropped_line(&self) -> Line {
        let first = self.waiting.front().map_or(self.next, |(event, _)| *event);
        Line::Dropped {
            dropped: self.dropped,
            up_to: first.saturating_sub(1),
        }
    }

    /// The event to publish now, if there is one and it is time.
    pub(super) fn next_to_send(&self, now: Monotonic) -> Option<&str> {
        let (_, payload) = self.waiting.front()?;
        (self.in_flight.is_none() && self.retry_at <= now).then_some(payload)
    }

    /// When [`Outbox::next_to_send`] gives something; `None` while it does not depend on time.
    pub(super) fn next_wake(&self) -> Option<Monotonic> {
        (self.in_flight.is_none() && !self.waiting.is_empty()).then_some(self.retry_at)
    }

    /// The event of [`Outbox::next_to_send`] was handed to the nucleus.
    pub(super) fn sending(&mut self, token: Token) {
        self.in_flight = self.waiting.front().map(|(event, _)| (token, *event));
    }

    /// The nucleus answered; true when the answer was for an event.
    pub(super) fn published(&mut self, token: Token, result: &Result<(), NucleusError>, now: Monotonic) -> bool {
        let Some((_, event)) = self.in_flight.take_if(|(sent, _)| *sent == token) else {
            return false;
        };
        match result {
            Ok(()) => {
                if self.error.take().is_some() {
                    tracing::info!(waiting = self.waiting.len(), "events are sent again");
                }
                self.wait = FIRST_WAIT;
                self.sent = self.sent.saturating_add(1);
                self.done(event);
            }
            // trying again would only keep those behind it waiting
            Err(error @ (NucleusError::TooLarge { .. } | NucleusError::Unsupported { .. })) => {
                tracing::error!(%error, "an event cannot be sent and is dropped");
                self.dropped = self.dropped.saturating_add(1);
                self.error = Some(error.to_string());
                self.forget_up_to(event);
                let mut line = Vec::new();
                append(&mut line, &self.dropped_line());
                self.write(&line, false);
            }
            Err(error) => {
                let words = error.to_string();
                if self.error.as_ref() != Some(&words) {
                    tracing::warn!(
                        error = words,
                        waiting = self.waiting.len(),
                        "an event was not sent; it is kept"
                    );
                }
                self.error = Some(words);
                self.retry_at = now.after(self.wait);
                self.wait = (self.wait * 2).min(LONGEST_WAIT);
            }
        }
        true
    }

    /// An event arrived.
    fn done(&mut self, event: u64) {
        self.forget_up_to(event);
        let idle = self.waiting.is_empty() && self.size > IDLE_JOURNAL;
        if idle || self.size > MOST_JOURNAL {
            return self.rewrite();
        }
        let mut line = Vec::new();
        append(&mut line, &Line::Sent { sent: event });
        self.write(&line, false);
    }

    fn write(&mut self, lines: &[u8], durable: bool) {
        let written = (|| {
            if self.file.is_none() {
                self.file = Some(open_for_appending(&self.path)?);
            }
            let Some(file) = &mut self.file else { return Ok(()) };
            file.write_all(lines)?;
            if durable {
                file.sync_data()?;
            }
            Ok(())
        })();
        self.size = self.size.saturating_add(u64::try_from(lines.len()).unwrap_or(u64::MAX));
        if written.is_err() {
            // a line may be there in part: the next write starts over with all that waits
            self.file = None;
        }
        let torn = written.is_err() || self.trouble.is_some();
        self.say(
            written
                .err()
                .map(|error: io::Error| format!("{}: {error}", self.path.display())),
        );
        if torn {
            self.rewrite();
        }
    }

    /// Writes the journal anew, with what waits and nothing else.
    fn rewrite(&mut self) {
        let mut content = Vec::new();
        append(&mut content, &self.dropped_line());
        for (event, payload) in &self.waiting {
            let line = Line::Event {
                event: *event,
                payload: payload.clone(),
            };
            append(&mut content, &line);
        }
        self.file = None;
        self.size = u64::try_from(content.len()).unwrap_or(u64::MAX);
        let written = files::replace(&self.path, &content);
        self.say(written.err().map(|error| chain(&error)));
    }

    fn say(&mut self, trouble: Option<String>) {
        match (&self.trouble, &trouble) {
            (before, Some(words)) if before.as_ref() != Some(words) => {
                tracing::error!(error = words, "events that wait would be lost by a restart");
            }
            (Some(_), None) => tracing::info!("events that wait are on disk again"),
            _ => {}
        }
        self.trouble = trouble;
    }

    /// For `status`.
    pub(super) fn status(&self) -> serde_json::Value {
        serde_json::json!({
            "waiting": self.waiting.len(),
            "sent": self.sent,
            "dropped": self.dropped,
            "error": self.error,
            "trouble": self.trouble,
        })
    }
}

fn append(content: &mut Vec<u8>, line: &Line) {
    // numbers and text: cannot fail, and half a line would be left out when it is read
    if serde_json::to_writer(&mut *content, line).is_ok() {
        content.push(b'\n');
    }
}

fn open_for_appending(path: &Path) -> io::Result<File> {
    let nofollow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
    File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(nofollow)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Monotonic {
        Monotonic(Duration::from_secs(seconds))
    }

    fn offline() -> Result<(), NucleusError> {
        Err(NucleusError::Failed {
            what: "publish".to_owned(),
            detail: "offline".to_owned(),
        })
    }

    fn open(dir: &Path) -> Outbox {
        let (outbox, damage) = Outbox::open(dir, at(0));
        assert_eq!(damage, None);
        outbox
    }

    /// Sends everything that waits.
    fn drain(outbox: &mut Outbox, now: Monotonic) -> Vec<String> {
        let mut sent = Vec::new();
        while let Some(payload) = outbox.next_to_send(now) {
            sent.push(payload.to_owned());
            outbox.sending(Token(7));
            assert!(outbox.next_to_send(now).is_none(), "one at a time keeps them in order");
            assert!(outbox.published(Token(7), &Ok(()), now));
        }
        sent
    }

    fn named(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_was_not_sent_survives_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut outbox = open(dir.path());
        outbox.push(named(&["a", "b", "c"]));
        assert_eq!(outbox.next_to_send(at(1)), Some("a"));
        outbox.sending(Token(1));
        assert!(!outbox.published(Token(2), &Ok(()), at(1)), "another's answer");
        assert!(outbox.published(Token(1), &Ok(()), at(1)));
        outbox.sending(Token(3));
        assert!(outbox.published(Token(3), &offline(), at(1)));
        assert_eq!(outbox.next_to_send(at(2)), None, "it waits before it tries again");
        assert_eq!(outbox.next_wake(), Some(at(6)));
        drop(outbox); // as kill -9 does: nothing is written at the end
        let mut outbox = open(dir.path());
        outbox.push(named(&["d"]));
        assert_eq!(drain(&mut outbox, at(10)), ["b", "c", "d"]);
        assert_eq!(outbox.next_wake(), None);
        assert_eq!(drain(&mut open(dir.path()), at(10)), [""; 0]);
    }

    #[test]
    fn waits_grow_and_start_over() {
        let dir = tempfile::tempdir().unwrap();
        let mut outbox = open(dir.path());
        outbox.push(named(&["a", "b"]));
        let (mut now, mut waits) = (at(0), Vec::new());
        for _ in 0..6 {
            outbox.sending(Token(1));
            outbox.published(Token(1), &offline(), now);
            let next = outbox.next_wake().unwrap();
            waits.push(next.since(now).as_secs());
            now = next;
        }
        assert_eq!(waits, [5, 10, 20, 40, 60, 60]);
        outbox.sending(Token(1));
        outbox.published(Token(1), &Ok(()), now);
        outbox.sending(Token(2));
        outbox.published(Token(2), &offline(), now);
        assert_eq!(outbox.next_wake(), Some(now.after(FIRST_WAIT)));
    }

    #[test]
    fn the_oldest_are_dropped_and_counted_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut outbox = open(dir.path());
        for half in 0..2 {
            outbox.push((0..MOST_EVENTS / 2 + 5).map(|n| format!("{half}-{n}")).collect());
        }
        assert_eq!(outbox.status()["dropped"], 10);
        drop(outbox);
        let mut outbox = open(dir.path());
        assert_eq!(outbox.status()["dropped"], 10);
        let sent = drain(&mut outbox, at(1));
        assert_eq!(sent.len(), MOST_EVENTS);
        assert_eq!(sent.first().unwrap(), "0-10");
        assert_eq!(sent.last().unwrap(), &format!("1-{}", MOST_EVENTS / 2 + 4));
        // Large ones by their bytes.
        outbox.push(vec!["x".repeat(MOST_BYTES / 3); 4]);
        assert_eq!(outbox.waiting.len(), 3);
        assert_eq!(outbox.status()["dropped"], 11);
    }

    #[test]
    fn an_event_that_never_fits_does_not_hold_up_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let mut outbox = open(dir.path());
        outbox.push(named(&["huge", "b"]));
        outbox.sending(Token(1));
        let too_large = NucleusError::TooLarge {
            what: "publish".to_owned(),
            bytes: 9,
        };
        outbox.published(Token(1), &Err(too_large), at(0));
        assert_eq!(drain(&mut outbox, at(0)), ["b"]);
        assert_eq!(open(dir.path()).status()["dropped"], 1);
    }

    #[test]
    fn a_damaged_journal_gives_what_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut outbox = open(dir.path());
        outbox.push(named(&["a", "b", "c"]));
        drop(outbox);
        let path = dir.path().join(FILE);
        let mut content = std::fs::read(&path).unwrap();
        content.truncate(content.len() - 4); // a crash in the middle of the last line
        content.extend(b"\n\xff\xff{\n{\"sent\": \"x\"}\n");
        std::fs::write(&path, content).unwrap();
        let (mut outbox, damage) = Outbox::open(dir.path(), at(0));
        assert!(damage.unwrap().contains("3 lines"));
        outbox.push(named(&["d"]));
        assert_eq!(drain(&mut outbox, at(1)), ["a", "b", "d"]);
        // Something else in its place: said, and the events wait in memory.
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let (mut outbox, damage) = Outbox::open(dir.path(), at(0));
        assert!(damage.is_some());
        outbox.push(named(&["e"]));
        assert!(outbox.status()["trouble"].is_string());
        assert_eq!(drain(&mut outbox, at(1)), ["e"]);
    }

    #[test]
    fn events_told_in_a_crash_are_recovered_once() {
        let told = || Told {
            first: 3,
            payloads: named(&["c", "d"]),
        };
        let dir = tempfile::tempdir().unwrap();
        let mut outbox = open(dir.path());
        outbox.push(named(&["a", "b"]));
        assert_eq!(outbox.next_number(), 3);
        outbox.recover(told());
        outbox.recover(told());
        assert_eq!(drain(&mut outbox, at(1)), ["a", "b", "c", "d"]);
        // after they were sent, too, and when only one of them reached the journal
        let mut outbox = open(dir.path());
        outbox.recover(told());
        assert_eq!(drain(&mut outbox, at(1)), [""; 0]);
        outbox.push(named(&["e"]));
        let half = Told {
            first: 5,
            payloads: named(&["e", "f"]),
        };
        outbox.recover(half);
        assert_eq!(drain(&mut outbox, at(1)), ["e", "f"]);
        // a journal that was lost counts on from where it was
        std::fs::remove_file(dir.path().join(FILE)).unwrap();
        let mut outbox = open(dir.path());
        outbox.recover(told());
        assert_eq!(outbox.next_number(), 5);
        assert_eq!(drain(&mut outbox, at(1)), ["c", "d"]);
    }

    #[test]
    fn the_journal_stays_small() {
        let dir = tempfile::tempdir().unwrap();
        let mut outbox = open(dir.path());
        for _ in 0..40 {
            outbox.push(vec!["x".repeat(10_000); 5]);
            drain(&mut outbox, at(1));
        }
        let size = std::fs::metadata(dir.path().join(FILE)).unwrap().len();
        assert!(size <= IDLE_JOURNAL + 60_000, "{size}");
    }
}
