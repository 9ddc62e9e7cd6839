//! Samples and reports: taken off the loop, taken in here.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::Agent;
use super::clock::Clock;
use super::custom::{self, CustomSample};
use super::host::HostSource;
use super::site::source::{SiteSample, SiteSource};
use crate::collect::HostSample;
use crate::greengrass::link::Command;
use crate::greengrass::{Destination, NucleusError};
use crate::model::Monotonic;

/// What measures; away on a blocking thread while a sample is being taken.
pub(super) struct Instruments {
    pub(super) host: Box<dyn HostSource>,
    pub(super) site: Box<dyn SiteSource>,
    pub(super) custom: custom::Source,
}

/// What a sample brought.
pub(super) struct Measurement {
    host: HostSample,
    site: SiteSample,
    custom: CustomSample,
}

pub(super) type Measuring = JoinHandle<(Instruments, Measurement)>;

/// The sample being taken; never ready when none is.
pub(super) async fn finished(measuring: &mut Option<Measuring>) -> Option<(Instruments, Measurement)> {
    match measuring {
        Some(handle) => handle.await.ok(),
        None => std::future::pending().await,
    }
}

impl<C: Clock> Agent<C> {
    pub(super) fn measure_if_due(&mut self) -> Option<Measuring> {
        let now = self.clock.monotonic();
        let is_due = |due: Option<Monotonic>| due.is_some_and(|due| due <= now);
        let report_due = is_due(self.reporting.next_due()) && !self.is_fresh(now);
        let flows = report_due || !self.report_questions.is_empty();
        if now < self.next_sample && !flows && !is_due(self.site.sample_due()) {
            return None;
        }
        let mut instruments = self.instruments.take()?;
        self.next_sample = now.after(self.sample_interval());
        self.sampled_at = Some(now);
        self.flows_asked = flows || self.detecting.needs_flows(&self.site);
        let ask = self.site.ask(self.flows_asked, self.now());
        let custom = self.custom.ask(self.clock.real(Duration::from_secs(1)));
        for question in &mut self.report_questions {
            question.measuring = true;
        }
        Some(tokio::task::spawn_blocking(move || {
            let host = instruments.host.collect();
            let site = instruments.site.collect(&host, &ask);
            let custom = instruments.custom.collect(&custom);
            (instruments, Measurement { host, site, custom })
        }))
    }

    fn sample_interval(&self) -> Duration {
        Duration::from_secs(self.config.sample_seconds.into())
    }

    /// Whether the last sample is good enough for a report: with hundreds of things one falls due every second.
    fn is_fresh(&self, now: Monotonic) -> bool {
        let interval = self.sample_interval();
        let sampled = self.instruments.is_some() && self.sampled_at.is_some_and(|at| now.since(at) < interval);
        sampled && self.site.flows_fresh(interval, now)
    }

    /// Lets the reports know which things there are.
    pub(super) fn follow_site(&mut self) {
        let now = self.clock.monotonic();
        self.reporting.set_local_things(self.site.reporting_things(), now);
    }

    pub(super) fn measured(&mut self, finished: Option<(Instruments, Measurement)>) {
        // a collector that panicked is gone; there is nothing left to measure with, so say it and let the nucleus restart us
        let Some((instruments, measurement)) = finished else {
            tracing::error!("measuring this host failed in an unforeseen way; reports stop until a restart");
            return;
        };
        self.instruments = Some(instruments);
        self.samples += 1;
        let Measurement {
            host: sample,
            site: site_sample,
            custom,
        } = measurement;
        self.reporting.observe(&sample);
        let now = self.now();
        self.warden.look_around(&sample, now);
        let both = self.now();
        self.site.observe(&sample, site_sample, both);
        let failing = self.reporting.failing().chain(self.site.failing());
        let failing = failing.map(str::to_owned).collect();
        self.custom
            .observe(custom, &sample, &self.site, failing, both.monotonic);
        self.ports_may_differ = true;
        self.sample = sample;
        self.follow_site();
        let begun = self.site.take_begun();
        self.reporting.begin_traffic(&begun, &self.site);
        self.judge_sample(self.flows_asked);
        // However long it took: a report must come out of every sample that was taken for one.
        self.sampled_at = Some(self.clock.monotonic());
        self.report_if_due();
        self.answer_reports();
    }

    /// Publishes the report whose turn it is, if the last sample is fresh enough.
    pub(super) fn report_if_due(&mut self) {
        let (now, wall) = (self.clock.monotonic(), self.clock.wall());
        if self.reporting.next_due().is_none_or(|due| due > now) || !self.is_fresh(now) {
            return;
        }
        if let Some(publish) = self.reporting.next_report(&self.site, &mut self.custom, now, wall) {
            let token = self.tokens.next();
            self.reporting.publishing(token, &publish);
            // before the publish: not even a crash right after it may bring the next report too early
            self.reporting.persist(&self.state_dir);
            let command = Command::Publish {
                token,
                to: Destination::IotCore,
                topic: publish.topic,
                payload: publish.payload,
            };
            if let Err(error) = self.link.send(command) {
                let error = NucleusError::Failed {
                    what: "publish".to_owned(),
                    detail: error.to_string(),
                };
                self.reporting.published(token, Err(error), now);
            }
        }
    }
}
