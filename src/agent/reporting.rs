//! Reports from samples to the nucleus and their replies back: wires the pure parts of `report` together.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::collect::{HostSample, InterfaceSelection};
use crate::config::{AutoOr, Config, Mode, ReportFormat, ReportNames};
use crate::greengrass::link::Token;
use crate::greengrass::topic::{self, MetricsFormat, MetricsStep, Topic};
use crate::greengrass::{Destination, NucleusError, NucleusKind, sdk};
use crate::model::{Counters, Missing, Monotonic, ThingName, ThingReading, UnixTime};
use crate::report::{
    Cut, Format, LedgerState, Names, Outcome, Reply, ReplyMatch, Report, Schedule, ScheduleSettings, ScheduleState,
    ThingReportStatus, ThingState, encode, next_report_id,
};

use super::custom::CustomMetrics;
use super::files;
use super::host::HostMeter;
use super::site::Site;
use super::subscriptions::Filter;

/// The most AWS IoT Core takes in one message; the nuclei take less.
const MQTT_BYTES: usize = 128 * 1024;
/// Up to this many things have reply subscriptions of their own; more share one pair of wildcards, which also brings
/// the replies to other gateways' things. (The SDK holds 64 streams, nucleus lite 100 subscriptions in all.)
const MOST_EXACT: usize = 12;
/// Where schedule and totals are kept, in the state folder.
const FILE: &str = "reports.json";

/// A report on its way out.
pub(super) struct Publish {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    thing: ThingName,
    report_id: u64,
    totals: Option<Counters>,
}

struct InFlight {
    token: Token,
    thing: ThingName,
    report_id: u64,
    totals: Option<Counters>,
}

/// What is saved across restarts.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Saved {
    schedule: ScheduleState,
    #[serde(default)]
    totals: Option<LedgerState>,
    /// Whose publish was under way.
    #[serde(default)]
    publishing: Option<ThingName>,
}

impl Saved {
    /// What would be saved had all of them reported just now.
    fn just_reported<'a>(things: impl Iterator<Item = &'a ThingName>, wall: UnixTime) -> Self {
        let state = ThingState {
            last_report_time: Some(wall),
            ..ThingState::default()
        };
        let things = things.map(|thing| (thing.clone(), state.clone())).collect();
        Self {
            schedule: ScheduleState {
                boot_id: String::new(),
                things,
            },
            totals: None,
            publishing: None,
        }
    }

    /// A publish that was under way may have arrived at any time up to now: wait as if it had just done so.
    fn settle(mut self, boot_id: &str, now: Monotonic, wall: UnixTime) -> Self {
        if let Some(thing) = self.publishing.take()
            && let Some(state) = self.schedule.things.get_mut(&thing)
        {
            tracing::info!(%thing, "the last run ended in the middle of a report; the next one waits a whole interval");
            state.last_report_time = Some(wall);
            let by_boot_clock = (self.schedule.boot_id == boot_id).then(|| i64::try_from(now.0.as_millis()).ok());
            state.last_report_boot_millis = by_boot_clock.flatten();
        }
        self
    }
}

/// Where and as whom reports are made; fixed for the life of the process.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) mode: Mode,
    pub(super) kind: NucleusKind,
    pub(super) core: &'a ThingName,
    pub(super) state_dir: &'a Path,
    pub(super) boot_id: &'a str,
}

pub(super) struct Reporting {
    core: ThingName,
    core_reports: bool,
    /// Local things that report, by name.
    local: Vec<ThingName>,
    schedule: Schedule,
    settings: ScheduleSettings,
    meter: HostMeter,
    reading: Option<ThingReading>,
    sources: BTreeMap<&'static str, Option<Missing>>,
    notes: BTreeSet<String>,
    format: Format,
    names: Names,
    max_bytes: usize,
    boot_id: String,
    in_flight: Option<InFlight>,
    last_cut: Option<(ThingName, Cut)>,
    unreadable_replies: u64,
    save_error: Option<String>,
}

impl Reporting {
    pub(super) fn begin(
        config: &Config,
        place: &Place<'_>,
        local: &[ThingName],
        now: Monotonic,
        wall: UnixTime,
    ) -> Self {
        let Place {
            mode,
            kind,
            core,
            state_dir,
            boot_id,
        } = *place;
        let (saved, trouble) = load(&state_dir.join(FILE));
        if let Some(trouble) = &trouble {
            tracing::warn!(error = %trouble, "the saved report times cannot be used; the first report waits a whole interval");
        }
        // Unreadable times could hide a report of a moment ago: act as if there had been one.
        let saved = saved.or_else(|| {
            trouble
                .is_some()
                .then(|| Saved::just_reported(local.iter().chain([core]), wall))
        });
        let saved = saved.map(|saved| saved.settle(boot_id, now, wall));
        let (schedule_state, totals) = saved.map_or((None, None), |saved| (Some(saved.schedule), saved.totals));
        let schedule = Schedule::new(
            settings(config, mode, false),
            schedule_state.as_ref(),
            boot_id,
            now,
            wall,
        );
        let mut reporting = Self {
            core: core.clone(),
            core_reports: config.report.core,
            local: local.to_vec(),
            schedule,
            settings: settings(config, mode, false),
            meter: HostMeter::resuming(selection(config), totals, boot_id),
            reading: None,
            sources: BTreeMap::new(),
            notes: BTreeSet::new(),
            format: format(config),
            names: names(config),
            max_bytes: max_bytes(config, kind),
            boot_id: boot_id.to_owned(),
            in_flight: None,
            last_cut: None,
            unreadable_replies: 0,
            save_error: None,
        };
        reporting.schedule.set_things(&reporting.things(), now);
        reporting
    }

    pub(super) fn reconfigure(&mut self, config: &Config, mode: Mode, kind: NucleusKind, now: Monotonic) {
        self.format = format(config);
        self.names = names(config);
        self.max_bytes = max_bytes(config, kind);
        self.meter.select(selection(config));
        self.settings = settings(config, mode, self.settings.replies_known);
        self.schedule.set_settings(self.settings, now);
        self.core_reports = config.report.core;
        self.schedule.set_things(&self.things(), now);
    }

    /// Which local things report from now on.
    pub(super) fn set_local_things(&mut self, local: Vec<ThingName>, now: Monotonic) {
        if self.local != local {
            self.local = local;
            self.schedule.set_things(&self.things(), now);
        }
    }

    /// Everyone who reports, the core first.
    fn things(&self) -> Vec<ThingName> {
        let core = self.core_reports.then(|| self.core.clone());
        core.into_iter().chain(self.local.iter().cloned()).collect()
    }

    /// Makes sure that each local thing's traffic counts from somewhere: from zero for those whose meter began, from now
    /// for those that were left out of the reports.
    pub(super) fn begin_traffic(&mut self, begun: &BTreeSet<ThingName>, site: &Site) {
        for thing in begun {
            self.schedule.forget_baseline(thing);
            self.schedule.begin_traffic(thing, Counters::default());
        }
        for thing in &self.local {
            if let Ok(totals) = site.traffic(thing) {
                self.schedule.begin_traffic(thing, totals);
            }
        }
    }

    /// Take in one sample of the host.
    pub(super) fn observe(&mut self, sample: &HostSample) {
        let reading = self.meter.read(sample);
        let sources = [
            ("interfaces", reading.traffic.as_ref().err()),
            ("established connections", reading.established.as_ref().err()),
            ("listening TCP ports", reading.listening_tcp.as_ref().err()),
            ("listening UDP ports", reading.listening_udp.as_ref().err()),
        ];
        for (name, missing) in sources {
            let before = self.sources.get(name).and_then(Option::as_ref);
            match (before.map(|m| m.reason), missing) {
                (None, Some(missing)) => tracing::warn!(source = name, "left out of the reports: {missing}"),
                (Some(before), Some(missing)) if before != missing.reason => {
                    tracing::warn!(source = name, "left out of the reports: {missing}");
                }
                (Some(_), None) => tracing::info!(source = name, "measured again"),
                _ => {}
            }
            self.sources.insert(name, missing.cloned());
        }
        let notes: BTreeSet<String> = sample.notes.iter().map(ToString::to_string).collect();
        for note in notes.difference(&self.notes) {
            tracing::info!("{note}");
        }
        self.notes = notes;
        self.reading = Some(reading);
    }

    /// The core as of the last sample.
    pub(super) fn core_reading(&self) -> Option<&ThingReading> {
        self.reading.as_ref()
    }

    /// How a thing's reports are doing.
    pub(super) fn of_thing(&self, now: Monotonic) -> BTreeMap<ThingName, Value> {
        let status = self.schedule.status(now);
        status
            .into_iter()
            .map(|status| (status.thing.clone(), json!(status)))
            .collect()
    }

    /// A thing's report as it would be now. Nothing of it is remembered.
    pub(super) fn preview(
        &self,
        thing: &ThingName,
        site: &Site,
        custom: &CustomMetrics,
        wall: UnixTime,
    ) -> Option<(Report, BTreeMap<String, String>)> {
        let local = (*thing != self.core).then_some(thing);
        let mut reading = match local {
            Some(thing) => site.reading(thing),
            None => self.reading.clone()?,
        };
        reading.custom = custom.of(local);
        let saved = self.schedule.state().things.remove(thing).unwrap_or_default();
        let id = next_report_id(saved.last_report_id, wall);
        let missing = [
            ("network_stats", reading.traffic.as_ref().err()),
            ("established_connections", reading.established.as_ref().err()),
            ("listening_tcp_ports", reading.listening_tcp.as_ref().err()),
            ("listening_udp_ports", reading.listening_udp.as_ref().err()),
        ];
        let missing = missing
            .into_iter()
            .filter_map(|(block, why)| Some((block.to_owned(), why?.to_string())));
        let missing = missing.chain(custom.missing(local)).collect();
        Some((Report::between(saved.baseline, &reading, id), missing))
    }

    pub(super) fn next_due(&self) -> Option<Monotonic> {
        self.schedule.next_wake()
    }

    /// The report whose turn it is, made from the newest reading.
    pub(super) fn next_report(
        &mut self,
        site: &Site,
        custom: &mut CustomMetrics,
        now: Monotonic,
        wall: UnixTime,
    ) -> Option<Publish> {
        let core = self.reading.as_ref()?;
        let due = self.schedule.due(now, wall)?;
        let local = (due.thing != self.core).then_some(&due.thing);
        let mut reading = local.map_or_else(|| core.clone(), |thing| site.reading(thing));
        reading.custom = custom.of(local);
        let report = Report::between(due.baseline, &reading, due.report_id);
        if report.is_empty() {
            let reason = "nothing could be measured";
            tracing::warn!(thing = %due.thing, "no report: {reason}");
            self.schedule
                .sent(&due.thing, due.report_id, None, Err(reason.to_owned()), now);
            return None;
        }
        match local {
            Some(thing) => site.reported(thing),
            None => custom.reported(),
        }
        match encode(&report, self.format, self.names, self.max_bytes) {
            Ok(encoded) => {
                if let Some(cut) = encoded.cut {
                    tracing::info!(thing = %due.thing, "the report leaves out: {cut} (at most {} bytes)", self.max_bytes);
                    self.last_cut = Some((due.thing.clone(), cut));
                }
                Some(Publish {
                    topic: topic::metrics(Some(&due.thing), metrics_format(self.format), MetricsStep::Report),
                    payload: encoded.bytes,
                    thing: due.thing,
                    report_id: due.report_id,
                    totals: reading.traffic.as_ref().ok().copied(),
                })
            }
            Err(error) => {
                tracing::error!(thing = %due.thing, %error, "the report cannot be made");
                self.schedule
                    .sent(&due.thing, due.report_id, None, Err(error.to_string()), now);
                None
            }
        }
    }

    pub(super) fn publishing(&mut self, token: Token, publish: &Publish) {
        self.in_flight = Some(InFlight {
            token,
            thing: publish.thing.clone(),
            report_id: publish.report_id,
            totals: publish.totals,
        });
    }

    /// The nucleus took the report or not.
    pub(super) fn published(&mut self, token: Token, result: Result<(), NucleusError>, now: Monotonic) {
        let Some(sent) = self.in_flight.take_if(|sent| sent.token == token) else {
            return;
        };
        match &result {
            Ok(()) => tracing::info!(thing = %sent.thing, report = sent.report_id, "report published"),
            Err(error) => {
                tracing::warn!(thing = %sent.thing, report = sent.report_id, %error, "report not sent; its traffic goes into the next one");
            }
        }
        self.schedule.sent(
            &sent.thing,
            sent.report_id,
            sent.totals,
            result.map_err(|error| error.to_string()),
            now,
        );
    }

    /// A message arrived on a subscribed topic; true when it changed what should be saved.
    pub(super) fn message(&mut self, topic: &str, payload: &[u8], now: Monotonic) -> bool {
        let Some(Topic::Metrics {
            thing,
            format,
            step: MetricsStep::Accepted | MetricsStep::Rejected,
        }) = topic::parse(topic)
        else {
            return false;
        };
        let format = match format {
            MetricsFormat::Json => Format::Json,
            MetricsFormat::Cbor => Format::Cbor,
        };
        match Reply::parse(payload, format) {
            Ok(reply) => {
                let matched = self.schedule.replied(&thing, &reply, now);
                match (&reply.outcome, matched) {
                    (_, ReplyMatch::Unsolicited | ReplyMatch::UnknownThing | ReplyMatch::OtherThing) => {
                        tracing::debug!(%thing, "a reply to no report of ours");
                        return false;
                    }
                    (Outcome::Accepted, _) => tracing::info!(%thing, report = reply.report_id, "report accepted"),
                    (Outcome::Rejected(rejection), _) => {
                        tracing::warn!(%thing, report = reply.report_id, code = rejection.code, message = rejection.message, "report rejected");
                    }
                }
                true
            }
            Err(error) => {
                self.unreadable_replies += 1;
                tracing::warn!(%thing, error = %error, "a reply that cannot be understood");
                false
            }
        }
    }

    /// How many of the core's reports were accepted since the start.
    pub(super) fn accepted_of_core(&self, now: Monotonic) -> u64 {
        let of_core = |status: &ThingReportStatus| status.thing == self.core;
        self.schedule
            .status(now)
            .iter()
            .find(|status| of_core(status))
            .map_or(0, |status| status.counts.accepted)
    }

    pub(super) fn replies_are_silent(&self) -> bool {
        self.schedule.needs_resubscribe()
    }

    pub(super) fn resubscribed(&mut self, now: Monotonic) {
        self.schedule.resubscribed(now);
    }

    /// Whether every reply would be heard; without that, a report sent counts as arrived.
    pub(super) fn set_replies_known(&mut self, known: bool, now: Monotonic) {
        if self.settings.replies_known != known {
            self.settings.replies_known = known;
            self.schedule.set_settings(self.settings, now);
        }
    }

    /// The topics on which replies to our reports come.
    pub(super) fn reply_filters(&self) -> BTreeSet<Filter> {
        let format = metrics_format(self.format);
        let both = |thing: Option<&ThingName>| {
            [MetricsStep::Accepted, MetricsStep::Rejected]
                .map(|step| (Destination::IotCore, topic::metrics(thing, format, step)))
        };
        let things = self.things();
        if things.len() > MOST_EXACT {
            both(None).into_iter().collect()
        } else {
            things.iter().flat_map(|thing| both(Some(thing))).collect()
        }
    }

    /// Save times and totals. A disk that is full is said once, and the reports go on.
    pub(super) fn persist(&mut self, state_dir: &Path) {
        let saved = Saved {
            schedule: self.schedule.state(),
            totals: self.meter.state(&self.boot_id),
            publishing: self.in_flight.as_ref().map(|sent| sent.thing.clone()),
        };
        let path = state_dir.join(FILE);
        let written = serde_json::to_vec(&saved)
            .map_err(|error| error.to_string())
            .and_then(|content| {
                files::replace(&path, &content).map_err(|error| {
                    // A report goes out all the same, and the next start must know of it. What a crash leaves of this is
                    // unreadable at the worst, and the first report waits a whole interval then.
                    let _ = files::overwrite(&path, &content);
                    files::chain(&error)
                })
            });
        match written {
            Ok(()) => {
                if self.save_error.take().is_some() {
                    tracing::info!("report times are saved again");
                }
            }
            Err(error) => {
                if self.save_error.as_ref() != Some(&error) {
                    tracing::warn!(
                        error,
                        "report times are not saved but written over where they are; a crash meanwhile makes the first report wait"
                    );
                }
                self.save_error = Some(error);
            }
        }
    }

    /// What could not be measured, by name.
    pub(super) fn failing(&self) -> impl Iterator<Item = &'static str> {
        let failing = self.sources.iter().filter(|(_, missing)| missing.is_some());
        failing.map(|(name, _)| *name)
    }

    /// For `status`.
    pub(super) fn status(&self, now: Monotonic) -> Value {
        let sources: serde_json::Map<String, Value> = self
            .sources
            .iter()
            .map(|(name, missing)| {
                let state = missing
                    .as_ref()
                    .map_or_else(|| json!("ok"), |missing| json!(missing.to_string()));
                ((*name).to_owned(), state)
            })
            .collect();
        json!({
            "things": self.schedule.status(now),
            "format": match self.format { Format::Json => "json", Format::Cbor => "cbor" },
            "maxBytes": self.max_bytes,
            "lastCut": self.last_cut.as_ref().map(|(thing, cut)| json!({"thing": thing, "cut": cut.to_string()})),
            "unreadableReplies": self.unreadable_replies,
            "saveError": self.save_error,
            "sources": sources,
            "notes": self.notes,
        })
    }
}

fn load(path: &Path) -> (Option<Saved>, Option<String>) {
    match files::read(path) {
        Ok(None) => (None, None),
        Ok(Some(content)) => match serde_json::from_slice(&content) {
            Ok(saved) => (Some(saved), None),
            Err(error) => (None, Some(format!("{}: {error}", path.display()))),
        },
        Err(error) => (None, Some(files::chain(&error))),
    }
}

fn settings(config: &Config, mode: Mode, replies_known: bool) -> ScheduleSettings {
    ScheduleSettings {
        interval: Duration::from_secs(config.report.interval_seconds.into()),
        floor: Duration::from_secs(mode.fastest_report_seconds().into()),
        replies_known,
    }
}

fn metrics_format(format: Format) -> MetricsFormat {
    match format {
        Format::Json => MetricsFormat::Json,
        Format::Cbor => MetricsFormat::Cbor,
    }
}

fn selection(config: &Config) -> InterfaceSelection {
    match &config.report.interfaces {
        AutoOr::Auto => InterfaceSelection::Auto,
        AutoOr::Is(names) => InterfaceSelection::Listed(names.iter().map(|name| name.as_str().to_owned()).collect()),
    }
}

fn format(config: &Config) -> Format {
    match config.report.format {
        ReportFormat::Json => Format::Json,
        ReportFormat::Cbor => Format::Cbor,
    }
}

fn names(config: &Config) -> Names {
    match config.report.names {
        ReportNames::Long => Names::Long,
        ReportNames::Short => Names::Short,
    }
}

fn max_bytes(config: &Config, kind: NucleusKind) -> usize {
    match (&config.report.max_bytes, kind) {
        (AutoOr::Is(bytes), _) => usize::try_from(*bytes).unwrap_or(MQTT_BYTES),
        (AutoOr::Auto, kind) => sdk::max_payload_bytes(kind).unwrap_or(MQTT_BYTES),
    }
}
