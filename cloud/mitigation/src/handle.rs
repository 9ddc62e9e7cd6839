//! One invocation: every alarm in it, shadow first, then the group.

use serde_json::{Value, json};

use crate::alarm::{Alarm, AlarmError, read};
use crate::aws::{AwsIot, CallError};
use crate::decision::{Decision, Membership, decide};
use crate::settings::Settings;

/// How often a shadow that somebody else writes at the same time is read anew before the invocation gives up.
const ATTEMPTS: usize = 5;

/// Why an alarm was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It is no alarm.
    #[error(transparent)]
    Alarm(#[from] AlarmError),
    /// The thing is none of those this function may quarantine.
    #[error("{0}: the thing is among neither THINGS nor CORES")]
    NotOurs(String),
    /// A call failed.
    #[error("{alarm}: {source}")]
    Call {
        /// The alarm in words.
        alarm: String,
        /// What failed.
        source: CallError,
    },
}

/// Everything in one event that failed. The invocation fails with it: Lambda tries it twice more, then the event goes
/// to the dead-letter queue. What was done stays done, and doing it again changes nothing.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(spelled).collect::<Vec<_>>().join("; "))]
pub struct Failures(pub Vec<Failure>);

fn spelled(failure: &Failure) -> String {
    let mut text = failure.to_string();
    let mut cause = std::error::Error::source(failure);
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}

/// Carry out all alarms of an event; gives a line for the log per alarm. `now`: seconds since 1970.
///
/// # Errors
/// When one was not carried out; the others were.
pub async fn handle(event: Value, aws: &AwsIot, settings: &Settings, now: u64) -> Result<Vec<Value>, Failures> {
    let alarms = read(event).map_err(|error| Failures(vec![error.into()]))?;
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for alarm in alarms {
        let result = match alarm {
            Ok(alarm) => carry_out(&alarm, aws, settings, now).await,
            Err(error) => Err(error.into()),
        };
        match result {
            Ok(line) => done.push(line),
            Err(failure) => failed.push(failure),
        }
    }
    if failed.is_empty() {
        return Ok(done);
    }
    // The answer of a failed invocation is its error, so what succeeded is said here.
    done.iter().for_each(|line| println!("{line}"));
    Err(Failures(failed))
}

async fn carry_out(alarm: &Alarm, aws: &AwsIot, settings: &Settings, now: u64) -> Result<Value, Failure> {
    if !settings.is_ours(&alarm.thing) {
        return Err(Failure::NotOurs(alarm.to_string()));
    }
    let line = |outcome: &str, quarantined: Option<bool>, group: Option<bool>| {
        json!({
            "thing": alarm.thing, "event": alarm.kind.as_str(), "violation": alarm.violation, "profile": alarm.profile,
            "behavior": alarm.behavior, "outcome": outcome, "quarantined": quarantined, "inGroup": group,
        })
    };
    if !settings
        .alarms
        .matches(&format!("{}/{}", alarm.profile, alarm.behavior))
    {
        return Ok(line("not among ALARMS", None, None));
    }
    let call = |source| Failure::Call {
        alarm: alarm.to_string(),
        source,
    };
    let decision = write_shadow(alarm, aws, settings, now).await.map_err(call)?;
    let mut member = match decision.group {
        Membership::Add => Some(true),
        Membership::Remove => Some(false),
        Membership::Leave => None,
    };
    // A core in the group would lose the cloud for its whole site, and with it every later release.
    if settings.is_core(&alarm.thing) {
        member = None;
    }
    if let (Some(member), Some(group)) = (&mut member, &settings.group) {
        aws.set_membership(&alarm.thing, group, *member).await.map_err(call)?;
        // The document decides. If another invocation changed it meanwhile, the last of the two to look puts it right.
        let demanded = aws
            .shadow(&alarm.thing, settings.shadow.as_deref())
            .await
            .map_err(call)?
            .demands(now);
        if demanded != *member && (demanded || settings.release_when_cleared) {
            *member = demanded;
            aws.set_membership(&alarm.thing, group, *member).await.map_err(call)?;
        }
    }
    let member = member.filter(|_| settings.group.is_some());
    Ok(line(decision.outcome, Some(decision.quarantined), member))
}

/// Decide on the document as it stands and write it, anew if somebody wrote in between (the gateway reports there).
async fn write_shadow(alarm: &Alarm, aws: &AwsIot, settings: &Settings, now: u64) -> Result<Decision, CallError> {
    let name = settings.shadow.as_deref();
    let mut attempt = 1;
    loop {
        let shadow = aws.shadow(&alarm.thing, name).await?;
        let decision = decide(alarm, &shadow, settings, now);
        let Some(update) = &decision.update else {
            return Ok(decision);
        };
        match aws.update_shadow(&alarm.thing, name, update).await {
            Ok(()) => return Ok(decision),
            Err(CallError::Conflict(_)) if attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}
