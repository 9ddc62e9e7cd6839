//! The story on the terminal, and the clock it is told by.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;

use crate::record::{Event, Record, Who};

/// Tells, and remembers what it told.
pub(crate) struct Tell {
    stop: Arc<AtomicBool>,
    brief: bool,
    began: Instant,
    colour: bool,
    pub(crate) events: Vec<Event>,
}

impl Tell {
    pub(crate) fn start(stop: Arc<AtomicBool>, brief: bool) -> Self {
        Self {
            stop,
            brief,
            began: Instant::now(),
            colour: std::io::stdout().is_terminal(),
            events: Vec::new(),
        }
    }

    /// What the times count from.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// Seconds since the beginning.
    pub(crate) fn at(&self, instant: Instant) -> f64 {
        instant.saturating_duration_since(self.began).as_secs_f64()
    }

    /// A new part of the story.
    pub(crate) fn part(&self, title: &str) {
        let (bold, off) = self.codes("1");
        self.line(&format!("\n{bold}{title}{off}"));
    }

    /// Something happened now.
    pub(crate) fn event(&mut self, who: Who, text: impl Into<String>) {
        self.event_at(Instant::now(), who, text, None);
    }

    /// Somebody typed a command now.
    pub(crate) fn command(&mut self, who: Who, text: impl Into<String>, command: &str) {
        self.event_at(Instant::now(), who, text, Some(command.to_owned()));
    }

    /// Something happened at a moment that was measured.
    pub(crate) fn event_at(&mut self, moment: Instant, who: Who, text: impl Into<String>, command: Option<String>) {
        let at = self.at(moment);
        let text = text.into();
        let (colour, off) = self.codes(match who {
            Who::Rogue | Who::Alarm => "31",
            Who::Warden => "32",
            Who::Cloud | Who::Operator => "36",
            Who::Site | Who::Device => "0",
        });
        self.line(&format!("{at:6.1} s  {colour}{text}{off}"));
        if let Some(command) = &command {
            self.line(&format!("          $ {command}"));
        }
        self.events.push(Event { at, who, text, command });
    }

    /// Lets time pass for the devices' traffic; a sixth of it when the story is to be short.
    ///
    /// # Errors
    /// When the story is to end.
    pub(crate) fn pass(&self, time: Duration) -> anyhow::Result<()> {
        let time = if self.brief { time / 6 } else { time };
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.check()?;
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Waits until something is so, at most a minute.
    ///
    /// # Errors
    /// When it does not come to be so, or the story is to end.
    pub(crate) fn wait<T>(&self, what: &str, mut found: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(found) = found() {
                return Ok(found);
            }
            self.check()?;
            if Instant::now() > end {
                bail!("waited a minute in vain for {what}");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn check(&self) -> anyhow::Result<()> {
        if self.stop.load(Ordering::SeqCst) {
            bail!("stopped");
        }
        Ok(())
    }

    /// The last words.
    pub(crate) fn end(&self, record: &Record, page: &Path) {
        self.part("What was measured");
        for cut in &record.cuts {
            let name = record.devices.get(cut.device).map_or("?", |device| device.thing);
            let (cut_ms, back_ms) = (
                (cut.last_passed_at - cut.demanded_at) * 1000.0,
                (cut.first_passed_at - cut.release_at) * 1000.0,
            );
            self.line(&format!(
                "  {}: {name}'s last packet that got through was sent {cut_ms:.1} ms after {};",
                cut.title, cut.demand
            ));
            self.line(&format!(
                "    {} packets tried while it was cut off, {} got through; open again {back_ms:.1} ms after the release",
                cut.attempts, cut.leaked
            ));
        }
        let neighbours = &record.neighbours;
        self.line(&format!(
            "  neighbours: {} of {} packets arrived, {} of {} requests answered, the slowest in {:.1} ms",
            neighbours.arrived, neighbours.sent, neighbours.answered, neighbours.requests, neighbours.slowest_ms
        ));
        self.line(&format!(
            "  {} Device Defender reports published; the whole story took {:.1} s",
            record.reports.count, record.seconds
        ));
        let page = std::path::absolute(page).unwrap_or_else(|_| page.to_owned());
        self.line(&format!("\nThe page: file://{}", page.display()));
    }

    fn codes(&self, code: &str) -> (String, &'static str) {
        if self.colour {
            (format!("\u{1b}[{code}m"), "\u{1b}[0m")
        } else {
            (String::new(), "")
        }
    }

    /// Who reads may have gone; that ends nothing.
    pub(crate) fn line(&self, line: &str) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{line}");
        let _ = out.flush();
    }
}
