//! The loop: the one owner of state, and the only reader of clocks.
//!
//! Events come in (a sample, a nucleus event, a question, the clock), pure code decides, effects go out. Measuring runs
//! on a blocking thread and the nucleus on its own, so nothing here waits for either.

pub mod boot_unit;
pub mod clock;
mod custom;
pub mod detecting;
pub mod files;
pub mod host;
mod measuring;
mod nucleus;
mod parts;
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

use tokio::sync::oneshot;

use crate::collect::HostSample;
use crate::config::{Config, LogLevel, Mode};
use crate::control::Answer;
use crate::firewall::Change;
use crate::greengrass::link::{Command, NucleusLink, Stopped, Token};
use crate::greengrass::{ComponentState, NucleusKind};
use crate::model::{Monotonic, Now, ThingName};

pub use custom::{Helper, HelperError, serve as serve_custom_metrics};
pub use parts::{Ended, Parts};
pub use reload::{LAST_GOOD, NEWEST, keep as keep_configuration, remember as remember_configuration};

use clock::Clock;
use custom::CustomMetrics;
use detecting::Detecting;
use measuring::{Instruments, Measuring, finished};
use reload::Reload;
use reporting::{Place, Reporting};
use shadows::Shadows;
use site::Site;
use site::watches::SiteWatches;
use subscriptions::Subscriptions;
use warden::Warden;
use watching::RuleWatches;

/// The loop looks at the clock at least this often, so suspend and clock changes are noticed.
const LONGEST_NAP: Duration = Duration::from_secs(5);

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
    /// Messages the link had dropped when the shadows were last read for it, and when to look again.
    dropped: (u64, Monotonic),
    /// A sample was taken since the quarantine was last told who is behind which port.
    ports_may_differ: bool,
    site: Site,
    detecting: Detecting,
    /// The sample being taken brings the table of flows.
    flows_asked: bool,
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
    let both = Now {
        wall: clock.wall(),
        monotonic: now,
    };
    let site = Site::new(&parts.config, parts.core.clone(), site_source.tallies(), both);
    let accounting_port = site_source.own_port();
    let mut rules = RuleWatches::open();
    let mut watches = SiteWatches::none();
    let place = Place {
        mode: parts.mode,
        kind: parts.kind,
        core: &parts.core,
        state_dir: &parts.state_dir,
        boot_id: &parts.boot_id,
    };
    let reporting = Reporting::begin(&parts.config, &place, &site.reporting_things(), now, clock.wall());
    let (detecting, gone) = Detecting::begin(&parts.config, &parts.core, parts.kind, &parts.state_dir, both);
    let mut agent = Agent {
        link,
        kind: parts.kind,
        mode: parts.mode,
        started: now,
        subscriptions: Subscriptions::new(now),
        shadows: Shadows::new(&parts.config.quarantine.shadow, shadows::reads_at_once(parts.kind), now),
        warden: parts.warden,
        sample: parts.sample,
        reload: Reload::new(
            parts.last_good_config,
            parts.include_dir,
            parts.config_error,
            parts.privileges,
        ),
        site,
        detecting,
        flows_asked: false,
        dropped: (0, now),
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
    agent.violations(&gone);
    let mut measuring: Option<Measuring> = None;
    tokio::pin!(stop);
    let ended = loop {
        if agent.is_done() {
            break Ended::Stopped;
        }
        // whoever asks is answered in this turn, however much else there is to do
        while let Ok(asked) = questions.try_recv() {
            agent.answer(asked);
        }
        // While events keep coming this loop never waits, and whoever reads the control socket would not be heard.
        tokio::task::yield_now().await;
        agent.keep_quarantine();
        agent.keep_strangers();
        // a changed configuration may have changed the port
        rules.set_own_ports(accounting_port.into_iter().chain(agent.warden.port()));
        agent.keep_subscriptions();
        let both = agent.now();
        agent.site.turn(both);
        agent.site.keep_watches(&mut watches, both.monotonic);
        agent.follow_site();
        agent.keep_shadows();
        agent.keep_events();
        agent.report_if_due();
        if measuring.is_none() {
            measuring = agent.measure_if_due();
        }
        let nap = agent.nap(measuring.is_some());
        tokio::select! {
            () = &mut stop => break Ended::Stopped,
            event = events.recv() => match event {
                Some(event) => agent.nucleus_events(event, &mut events),
                None => break Ended::NucleusGone,
            },
            Some(asked) = questions.recv() => agent.answer(asked),
            changes = rules.changes() => agent.rules_changed(&changes),
            Some(()) = reloads.recv() => agent.send(Command::Configuration),
            sample = finished(&mut measuring) => {
                measuring = None;
                agent.measured(sample);
            }
            news = watches.news() => agent.site.news(news, agent.now()),
            () = tokio::time::sleep(nap) => {}
        }
    };
    agent.reporting.persist(&agent.state_dir);
    agent.save_alarms();
    ended_link(agent.link).await;
    ended
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

    /// Another program changed our tables, or links came or went.
    fn rules_changed(&mut self, changes: &[Change]) {
        let now = self.now();
        self.warden.changed(changes, now);
        self.site.tables_changed(changes);
        if changes
            .iter()
            .any(|change| matches!(change, Change::LinkPresent(_) | Change::LinkGone(_)))
        {
            self.next_sample = now.monotonic;
        }
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
        let subscribed = self.subscriptions.holds(self.shadows.filters());
        let others = [
            self.subscriptions.next_retry(),
            self.shadows.next_wake(subscribed),
            self.detecting.next_wake(),
        ];
        for other in others.into_iter().flatten() {
            wake = wake.min(other);
        }
        // never a busy loop, whatever the state above says
        self.clock.real(wake.since(now)).max(Duration::from_millis(1))
    }

    fn now(&self) -> Now {
        Now {
            monotonic: self.clock.monotonic(),
            wall: self.clock.wall(),
        }
    }

    /// For commands whose loss is made up for later: said, not fatal.
    fn send(&self, command: Command) {
        if let Err(error) = self.link.send(command) {
            tracing::warn!(%error, "a request to the nucleus was not made");
        }
    }
}
