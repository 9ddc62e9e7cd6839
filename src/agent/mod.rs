//! The loop: the one owner of state, and the only reader of clocks.
//!
//! Events come in (a sample, a nucleus event, a question, the clock), pure code decides, effects go out. Measuring runs
//! on a blocking thread and the nucleus on its own, so nothing here waits for either.

pub mod boot_unit;
pub mod clock;
mod custom;
pub mod files;
pub mod host;
mod questions;
mod reload;
mod reporting;
mod shadows;
pub mod site;
mod status;
mod subscriptions;
mod turns;
pub mod warden;
mod watching;

use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::collect::HostSample;
use crate::config::{Config, LogLevel, Mode};
use crate::control::{Answer, Asked};
use crate::devices;
use crate::firewall::Change;
use crate::greengrass::link::{Command, NucleusEvent, NucleusEvents, NucleusLink, Stopped, Token};
use crate::greengrass::{ComponentState, Destination, NucleusError, NucleusKind};
use crate::model::{Monotonic, ThingName};
use crate::quarantine::Now;
use crate::sandbox::Held;

pub use custom::{CustomReadings, Helper, HelperError, serve as serve_custom_metrics};
pub use reload::{LAST_GOOD, keep as keep_configuration, remember as remember_configuration};

use clock::Clock;
use custom::{CustomMetrics, CustomSample};
use host::HostSource;
use reload::Reload;
use reporting::{Place, Reporting};
use shadows::Shadows;
use site::Site;
use site::source::{SiteSample, SiteSource};
use site::watches::{SiteWatches, TableWatch};
use subscriptions::Subscriptions;
use warden::Warden;
use watching::watch_tables_and_links;

/// The loop looks at the clock at least this often, so suspend and clock changes are noticed.
const LONGEST_NAP: Duration = Duration::from_secs(5);

/// Everything the agent is made of.
pub struct Parts<C> {
    /// The time.
    pub clock: C,
    /// The nucleus.
    pub link: NucleusLink,
    /// What the nucleus sends.
    pub events: NucleusEvents,
    /// The host.
    pub host: Box<dyn HostSource>,
    /// The LAN and what is on it.
    pub site: Box<dyn SiteSource>,
    /// Questions from the control socket.
    pub questions: mpsc::Receiver<Asked>,
    /// Asks to read the configuration anew (SIGHUP).
    pub reloads: mpsc::Receiver<()>,
    /// The core device's thing.
    pub core: ThingName,
    /// Which nucleus it is.
    pub kind: NucleusKind,
    /// Which rules the configuration is held to.
    pub mode: Mode,
    /// The configuration to begin with.
    pub config: Config,
    /// What was wrong with the configuration the nucleus gave at the start, when an older one is in use instead.
    pub config_error: Option<String>,
    /// This boot, as `/proc/sys/kernel/random/boot_id` names it.
    pub boot_id: String,
    /// Where state is kept.
    pub state_dir: PathBuf,
    /// Quarantine, already enforcing what was decided before.
    pub warden: Warden,
    /// The sample that was made for.
    pub sample: HostSample,
    /// Where relative `include` paths of the component configuration start.
    pub include_dir: PathBuf,
    /// Where the last valid configuration is kept; `None` when a file is the configuration.
    pub last_good_config: Option<PathBuf>,
    /// What this process gave up when it started; `None`: nothing was given up (tests).
    pub privileges: Option<Held>,
    /// The process that measures custom metrics; `None`: they are measured here, as far as that may.
    pub helper: Option<Helper>,
    /// Stop after this many accepted reports of the core.
    pub stop_after_reports: Option<u64>,
    /// Told when the log level changes.
    pub set_log_level: Box<dyn Fn(LogLevel)>,
}

/// Why the agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to, or has done what it was to do.
    Stopped,
    /// The nucleus's thread is gone.
    NucleusGone,
}

/// What measures; away on a blocking thread while a sample is being taken.
struct Instruments {
    host: Box<dyn HostSource>,
    site: Box<dyn SiteSource>,
    custom: custom::Source,
}

/// What a sample brought.
struct Measurement {
    host: HostSample,
    site: SiteSample,
    custom: CustomSample,
}

type Measuring = JoinHandle<(Instruments, Measurement)>;

struct Agent<C> {
    clock: C,
    link: NucleusLink,
    core: ThingName,
    kind: NucleusKind,
    mode: Mode,
    started: Monotonic,
    config: Config,
    state_dir: PathBuf,
    stop_after_reports: Option<u64>,
    reporting: Reporting,
    subscriptions: Subscriptions,
    warden: Warden,
    shadows: Shadows,
    /// The newest sample, for rails and LAN when the configuration changes.
    sample: HostSample,
    reload: Reload,
    /// A sample was taken since the quarantine was last told who is behind which port.
    ports_may_differ: bool,
    site: Site,
    custom: CustomMetrics,
    /// Idle between samples; `None` while a sample is being taken.
    instruments: Option<Instruments>,
    next_sample: Monotonic,
    /// When the last sample was begun, or once it is there, when it came.
    sampled_at: Option<Monotonic>,
    samples: u64,
    set_log_level: Box<dyn Fn(LogLevel)>,
    tokens: Tokens,
    /// Questions that wait for the nucleus.
    asked: HashMap<Token, oneshot::Sender<Answer>>,
    /// Questions that wait for a sample.
    report_questions: Vec<questions::ReportQuestion>,
}

/// Numbers the commands given to the nucleus, so that each result finds what it belongs to.
#[derive(Debug, Default)]
struct Tokens(u64);

impl Tokens {
    fn next(&mut self) -> Token {
        self.0 += 1;
        Token(self.0)
    }
}

/// Run until `stop` completes. The nucleus link is stopped before this returns.
pub async fn run<C: Clock>(parts: Parts<C>, stop: impl Future<Output = ()>) -> Ended {
    let Parts {
        clock,
        link,
        mut events,
        host,
        site: site_source,
        mut questions,
        mut reloads,
        ..
    } = parts;
    let now = clock.monotonic();
    let both = devices::Now {
        unix: clock.wall(),
        monotonic: now,
    };
    let site = Site::new(&parts.config, parts.core.clone(), site_source.tallies(), both);
    // one watch over all our tables: every own port must be here
    let mut tables = TableWatch::open(site_source.own_port()).unwrap_or_else(|missing| {
        tracing::warn!("changes of our tables by others are noticed late: {missing}");
        TableWatch::none()
    });
    let mut watches = SiteWatches::none();
    let place = Place {
        mode: parts.mode,
        kind: parts.kind,
        core: &parts.core,
        state_dir: &parts.state_dir,
        boot_id: &parts.boot_id,
    };
    let reporting = Reporting::begin(&parts.config, &place, &site.reporting_things(), now, clock.wall());
    let mut agent = Agent {
        link,
        kind: parts.kind,
        mode: parts.mode,
        started: now,
        subscriptions: Subscriptions::new(now),
        shadows: Shadows::new(&parts.config.quarantine.shadow, now),
        warden: parts.warden,
        sample: parts.sample,
        reload: Reload::new(
            parts.last_good_config,
            parts.include_dir,
            parts.config_error,
            parts.privileges,
        ),
        site,
        custom: CustomMetrics::new(&parts.config),
        ports_may_differ: false,
        instruments: Some(Instruments {
            host,
            site: site_source,
            custom: custom::Source::new(parts.helper, &parts.state_dir),
        }),
        next_sample: now,
        sampled_at: None,
        samples: 0,
        set_log_level: parts.set_log_level,
        tokens: Tokens::default(),
        asked: HashMap::new(),
        report_questions: Vec::new(),
        core: parts.core,
        config: parts.config,
        state_dir: parts.state_dir,
        stop_after_reports: parts.stop_after_reports,
        reporting,
        clock,
    };
    agent.send(Command::UpdateState(ComponentState::Running));
    agent.send(Command::WatchConfiguration);
    let mut measuring: Option<Measuring> = None;
    let mut changes = watch_tables_and_links(agent.warden.port());
    tokio::pin!(stop);
    let ended = loop {
        if agent.is_done() {
            break Ended::Stopped;
        }
        // While events keep coming this loop never waits, and whoever reads the control socket would not be heard.
        tokio::task::yield_now().await;
        agent.keep_quarantine();
        agent.keep_subscriptions();
        let both = agent.site_now();
        agent.site.turn(both);
        agent.site.keep_watches(&mut watches, both.monotonic);
        agent.follow_site();
        agent.keep_shadows();
        agent.report_if_due();
        if measuring.is_none() {
            measuring = agent.measure_if_due();
        }
        let nap = agent.nap(measuring.is_some());
        tokio::select! {
            () = &mut stop => break Ended::Stopped,
            event = events.recv() => match event {
                Some(event) => agent.nucleus_event(event),
                None => break Ended::NucleusGone,
            },
            Some(asked) = questions.recv() => agent.answer(asked),
            Some(change) = changes.recv() => {
                let now = agent.now();
                agent.warden.changed(&change, now);
                if change.iter().any(|change| matches!(change, Change::LinkPresent(_) | Change::LinkGone(_))) {
                    agent.next_sample = now.monotonic;
                }
            }
            Some(()) = reloads.recv() => agent.send(Command::Configuration),
            sample = finished(&mut measuring) => {
                measuring = None;
                agent.measured(sample);
            }
            news = watches.news() => agent.site.news(news, agent.site_now()),
            changes = tables.changes() => agent.site.tables_changed(&changes),
            () = tokio::time::sleep(nap) => {}
        }
    };
    agent.reporting.persist(&agent.state_dir);
    ended_link(agent.link).await;
    ended
}

/// The sample being taken; never ready when none is.
async fn finished(measuring: &mut Option<Measuring>) -> Option<(Instruments, Measurement)> {
    match measuring {
        Some(handle) => handle.await.ok(),
        None => std::future::pending().await,
    }
}

/// Unsubscribe everything before the process ends: killing a subscriber in the middle of a flood has been seen to hang
/// nucleus lite. Bounded, because the nucleus itself may hang.
async fn ended_link(link: NucleusLink) {
    if let Ok(Stopped::TimedOut) = tokio::task::spawn_blocking(move || link.stop(Duration::from_millis(1200))).await {
        tracing::warn!("the nucleus did not answer in time; its subscriptions end with this process");
    }
}

impl<C: Clock> Agent<C> {
    fn is_done(&self) -> bool {
        self.stop_after_reports
            .is_some_and(|wanted| self.reporting.accepted_of_core(self.clock.monotonic()) >= wanted)
    }

    fn nap(&self, measuring: bool) -> Duration {
        let now = self.clock.monotonic();
        let mut wake = now.after(self.clock.real(LONGEST_NAP).max(LONGEST_NAP));
        if !measuring && self.instruments.is_some() {
            wake = wake.min(self.next_sample);
            for due in [self.reporting.next_due(), self.site.sample_due()]
                .into_iter()
                .flatten()
            {
                wake = wake.min(due);
            }
        }
        if let Some(due) = self.site.resolve_due() {
            wake = wake.min(due);
        }
        wake = wake.min(self.warden.next_wake());
        let subscribed = self.subscriptions.holds(&self.shadows.filters());
        for other in [self.subscriptions.next_retry(), self.shadows.next_wake(subscribed)]
            .into_iter()
            .flatten()
        {
            wake = wake.min(other);
        }
        // never a busy loop, whatever the state above says
        self.clock.real(wake.since(now)).max(Duration::from_millis(1))
    }

    fn measure_if_due(&mut self) -> Option<Measuring> {
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
        let ask = self.site.ask(flows, self.site_now());
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

    fn site_now(&self) -> devices::Now {
        devices::Now {
            unix: self.clock.wall(),
            monotonic: self.clock.monotonic(),
        }
    }

    /// Lets the reports know which things there are.
    fn follow_site(&mut self) {
        let now = self.clock.monotonic();
        self.reporting.set_local_things(self.site.reporting_things(), now);
    }

    fn measured(&mut self, finished: Option<(Instruments, Measurement)>) {
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
        self.warden.look_around(&sample, &self.config);
        let both = self.site_now();
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
        // However long it took: a report must come out of every sample that was taken for one.
        self.sampled_at = Some(self.clock.monotonic());
        self.report_if_due();
        self.answer_reports();
    }

    /// Publishes the report whose turn it is, if the last sample is fresh enough.
    fn report_if_due(&mut self) {
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

    fn now(&self) -> Now {
        Now {
            monotonic: self.clock.monotonic(),
            wall: self.clock.wall(),
        }
    }

    fn nucleus_event(&mut self, event: NucleusEvent) {
        let both = self.now();
        let now = both.monotonic;
        match event {
            NucleusEvent::Published { token, result } => match self.shadows.published(token, &result, now) {
                Some(heard) => heard.into_iter().for_each(|heard| self.heard(heard, both)),
                None => {
                    self.reporting.published(token, result, now);
                    self.reporting.persist(&self.state_dir);
                }
            },
            NucleusEvent::Shadow { token, result } => {
                if let Some(heard) = self.shadows.shadow(token, result, now) {
                    self.heard(heard, both);
                }
            }
            NucleusEvent::ShadowUpdated { token, result } => {
                if let Some(heard) = self.shadows.shadow_updated(token, result, now) {
                    self.heard(heard, both);
                }
            }
            NucleusEvent::Subscribed { token, result } => self.subscriptions.subscribed(token, result, now),
            NucleusEvent::Message { from, topic, payload } => {
                if self.site.message(from, &topic, &payload, self.site_now()) {
                    return;
                }
                if self.custom.message(from, &topic, &payload, now) {
                    return;
                }
                if let Some(heard) = self.shadows.message(from, &topic, &payload, now) {
                    self.heard(heard, both);
                } else if self.reporting.message(&topic, &payload, now) {
                    self.reporting.persist(&self.state_dir);
                }
            }
            // a change between the last reading and the watch is told to nobody
            NucleusEvent::ConfigurationChanged | NucleusEvent::ConfigurationWatched(Ok(())) => {
                self.send(Command::Configuration);
            }
            NucleusEvent::Configuration(result) => {
                let level = self.config.log.level;
                if let Some(config) = self.reload.received(result, self.mode, &self.config) {
                    self.reporting.reconfigure(&config, self.mode, self.kind, now);
                    self.shadows.reconfigure(&config.quarantine.shadow);
                    self.warden.reconfigure(&config, Some(&self.sample), both);
                    if self.mode == Mode::Greengrass {
                        self.warden.keep_boot_unit(&config);
                    }
                    self.site.reconfigure(&config, self.site_now());
                    self.custom.reconfigure(&config);
                    self.next_sample = now;
                    self.config = config;
                    reload::keep(&self.state_dir, &self.config);
                    if self.config.log.level != level {
                        (self.set_log_level)(self.config.log.level);
                    }
                }
            }
            NucleusEvent::StateUpdated(Err(error)) => tracing::info!(%error, "the component state was not reported"),
            NucleusEvent::ConfigurationWatched(Err(error)) => {
                tracing::warn!(%error, "configuration changes will be seen only after a restart");
            }
            NucleusEvent::DesiredWritten { token, result } => {
                if let Some(reply) = self.asked.remove(&token) {
                    let _ = reply.send(match result {
                        Ok(document) => Answer::Ok(document),
                        Err(error) => Answer::Error(error.to_string()),
                    });
                }
            }
            NucleusEvent::StateUpdated(Ok(())) | NucleusEvent::Ready { .. } | NucleusEvent::Unavailable(_) => {}
        }
    }

    /// For commands whose loss is made up for later: said, not fatal.
    fn send(&self, command: Command) {
        if let Err(error) = self.link.send(command) {
            tracing::warn!(%error, "a request to the nucleus was not made");
        }
    }
}
