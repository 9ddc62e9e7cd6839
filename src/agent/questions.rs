//! Questions that need more than a look at what is known: a report as it would be now.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::Agent;
use super::clock::Clock;
use crate::control::{Answer, Asked, ReportEncoding, ReportTags, Request};
use crate::greengrass::link::Command;
use crate::greengrass::topic::ShadowNameError;
use crate::model::ThingName;
use crate::quarantine::Event;
use crate::report::{Format, Names, encode};

/// Questions that may wait for one sample.
const MOST: usize = 64;
/// The most an asked report may weigh: the most a broker takes.
const MAX_BYTES: usize = 128 * 1024;

/// Somebody waits for a report.
pub(super) struct ReportQuestion {
    thing: ThingName,
    format: Format,
    names: Names,
    reply: oneshot::Sender<Answer>,
    /// The sample being taken is the one it waits for.
    pub(super) measuring: bool,
}

impl ReportQuestion {
    pub(super) fn new(
        thing: ThingName,
        format: ReportEncoding,
        names: ReportTags,
        reply: oneshot::Sender<Answer>,
    ) -> Self {
        Self {
            thing,
            format: match format {
                ReportEncoding::Json => Format::Json,
                ReportEncoding::Cbor => Format::Cbor,
            },
            names: match names {
                ReportTags::Long => Names::Long,
                ReportTags::Short => Names::Short,
            },
            reply,
            measuring: false,
        }
    }
}

impl<C: Clock> Agent<C> {
    pub(super) fn answer(&mut self, asked: Asked) {
        let now = self.now();
        match asked.request {
            Request::Status => {
                let _ = asked.reply.send(Answer::Ok(self.status()));
            }
            Request::QuarantineAdd {
                thing,
                posture,
                until,
                reason,
            } => {
                let event = Event::OperatorAdd {
                    thing: thing.clone(),
                    posture,
                    until,
                    reason,
                    who: asked.who,
                };
                self.warden.event(event, now);
                self.warden.carry_out(now);
                let _ = asked.reply.send(Answer::Ok(self.warden.why(&thing)));
            }
            Request::QuarantineRelease { thing } => {
                self.warden.event(
                    Event::OperatorRelease {
                        thing: thing.clone(),
                        who: asked.who,
                    },
                    now,
                );
                self.warden.carry_out(now);
                let _ = asked.reply.send(Answer::Ok(self.warden.why(&thing)));
            }
            Request::QuarantineList => {
                let _ = asked.reply.send(Answer::Ok(self.warden.list()));
            }
            Request::QuarantinePlan => {
                let _ = asked.reply.send(Answer::Ok(self.warden.plan(now.wall)));
            }
            Request::QuarantineWhy { thing } => {
                let _ = asked.reply.send(Answer::Ok(self.warden.why(&thing)));
            }
            Request::Alarms => {
                let _ = asked.reply.send(Answer::Ok(self.detecting.alarms(&self.warden)));
            }
            Request::Devices => {
                let _ = asked.reply.send(Answer::Ok(self.devices()));
            }
            Request::Report { thing, format, names } => {
                self.ask_report(ReportQuestion::new(thing, format, names, asked.reply));
            }
            Request::WriteDesired { thing, name, desired } => {
                let shadow = match name.map(|name| name.parse()).transpose() {
                    Ok(shadow) => shadow,
                    Err(error) => {
                        let error: ShadowNameError = error;
                        let _ = asked.reply.send(Answer::Error(error.to_string()));
                        return;
                    }
                };
                let token = self.tokens.next();
                match self.link.send(Command::WriteDesired {
                    token,
                    thing,
                    shadow,
                    desired,
                }) {
                    Ok(()) => {
                        self.asked.insert(token, asked.reply);
                    }
                    Err(error) => {
                        let _ = asked.reply.send(Answer::Error(error.to_string()));
                    }
                }
            }
        }
    }

    pub(super) fn ask_report(&mut self, question: ReportQuestion) {
        if question.thing != self.core && !self.site.knows(&question.thing) {
            let words = format!(
                "{} is no thing known here; `edge-warden devices` lists them",
                question.thing
            );
            let _ = question.reply.send(Answer::Error(words));
        } else if self.report_questions.len() >= MOST {
            let _ = question
                .reply
                .send(Answer::Error("too many questions at once".to_owned()));
        } else {
            self.report_questions.push(question);
        }
    }

    /// Answers those whose sample has come.
    pub(super) fn answer_reports(&mut self) {
        let wall = self.clock.wall();
        let (ready, waiting) = std::mem::take(&mut self.report_questions)
            .into_iter()
            .partition(|question| question.measuring);
        self.report_questions = waiting;
        let ready: Vec<ReportQuestion> = ready;
        for question in ready {
            let made = self.reporting.preview(&question.thing, &self.site, &self.custom, wall);
            let answer = match made {
                None => Answer::Error("nothing was measured yet".to_owned()),
                Some((report, missing)) => match encode(&report, question.format, question.names, MAX_BYTES) {
                    Ok(encoded) => Answer::Ok(json!({
                        "payload": STANDARD.encode(encoded.bytes),
                        "missing": missing,
                    })),
                    Err(error) => Answer::Error(error.to_string()),
                },
            };
            let _ = question.reply.send(answer);
        }
    }

    pub(super) fn devices(&self) -> Value {
        let reports = self.reporting.of_thing(self.clock.monotonic());
        self.site
            .devices(|thing| reports.get(thing).cloned(), |mac| self.warden.stranger(mac))
    }
}
