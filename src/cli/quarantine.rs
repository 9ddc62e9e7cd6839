//! `edge-warden quarantine`: the operator's word.

use std::io::Write;

use edge_warden::agent::clock::{Clock, SystemClock};
use edge_warden::control::{Request, ask};
use edge_warden::model::UnixTime;
use edge_warden::quarantine::{Posture, Refusal, rfc3339};
use serde_json::Value;

use super::args::{self, Mode, QuarantineVerb};
use super::{Exit, plain_table, printable};

/// Ask the running agent and print its answer.
pub fn run(arguments: &args::Quarantine) -> anyhow::Result<Exit> {
    let request = match &arguments.verb {
        QuarantineVerb::Add {
            thing,
            mode,
            seconds,
            reason,
        } => Request::QuarantineAdd {
            thing: thing.clone(),
            posture: mode.map(|mode| match mode {
                Mode::Isolate => Posture::Isolate,
                Mode::Remediate => Posture::Remediate,
            }),
            until: seconds.map(|seconds| {
                let now = SystemClock::accelerated(1).wall();
                UnixTime(now.0.saturating_add(seconds.saturating_mul(1000)))
            }),
            reason: reason.clone(),
        },
        QuarantineVerb::Release { thing } => Request::QuarantineRelease { thing: thing.clone() },
        QuarantineVerb::List => Request::QuarantineList,
        QuarantineVerb::Plan => Request::QuarantinePlan,
        QuarantineVerb::Why { thing } => Request::QuarantineWhy { thing: thing.clone() },
    };
    let answer = ask(&arguments.place.socket(), &request)?;
    let exit = match &arguments.verb {
        QuarantineVerb::Add { thing, .. } if !in_force(&answer) => {
            let unknown = Refusal::UnknownDevice.to_string();
            if answer.pointer("/decision/refused").and_then(Value::as_str) == Some(&unknown) {
                eprintln!(
                    "warning: no device is known for {thing}: nobody is cut off. The demand is kept, and takes effect as \
                     soon as one is; `edge-warden devices` lists the things, `quarantine release` takes it back"
                );
            } else {
                eprintln!("warning: {thing} is not cut off; the demand is kept");
            }
            Exit::NotInForce
        }
        _ => Exit::Done,
    };
    let mut out = std::io::stdout().lock();
    if arguments.json {
        serde_json::to_writer_pretty(&mut out, &answer)?;
        writeln!(out)?;
        return Ok(exit);
    }
    match arguments.verb {
        QuarantineVerb::List => list(&mut out, answer.as_array().map_or(&[], Vec::as_slice))?,
        QuarantineVerb::Plan => {
            list(
                &mut out,
                answer
                    .get("decisions")
                    .and_then(Value::as_array)
                    .map_or(&[], Vec::as_slice),
            )?;
            writeln!(out)?;
            let rules = answer.get("rules").and_then(Value::as_str).unwrap_or_default();
            for line in rules.lines() {
                writeln!(out, "{}", printable(line))?;
            }
        }
        QuarantineVerb::Add { .. } | QuarantineVerb::Release { .. } | QuarantineVerb::Why { .. } => {
            one(&mut out, &answer)?
        }
    }
    Ok(exit)
}

/// Whether a demand does what it is to do: also where only watching is configured, and where part of the way is covered.
fn in_force(thing: &Value) -> bool {
    let cut = thing.pointer("/decision/cut").is_some();
    let held = thing.get("enforced");
    let failed = held.is_none_or(|held| held.is_null() || held.get("failure").is_some());
    cut && (!failed || thing.get("observeOnly") == Some(&Value::Bool(true)))
}

fn list(out: &mut impl Write, things: &[Value]) -> std::io::Result<()> {
    if things.is_empty() {
        return writeln!(out, "nobody is quarantined");
    }
    let mut rows = plain_table();
    rows.set_header(vec!["thing", "stands", "causes", "until", "dropped packets", "reasons"]);
    for thing in things {
        let names: Vec<String> = causes(thing).map(|(name, _)| name).collect();
        let reasons: Vec<String> = causes(thing).filter_map(|(_, detail)| reason(detail)).collect();
        rows.add_row(vec![
            text(thing.get("thing")),
            stands(thing),
            names.join(", "),
            time(thing.pointer("/decision/cut/until")).unwrap_or_else(|| "-".to_owned()),
            text(thing.get("droppedPackets")),
            if reasons.is_empty() {
                "-".to_owned()
            } else {
                reasons.join("; ")
            },
        ]);
    }
    writeln!(out, "{rows}")
}

fn one(out: &mut impl Write, thing: &Value) -> std::io::Result<()> {
    writeln!(out, "{}: {}", text(thing.get("thing")), stands(thing))?;
    for (name, detail) in causes(thing) {
        writeln!(out, "  cause {name}: {}", cause(detail))?;
    }
    for waiting in thing
        .get("alarmsWaiting")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let (name, why) = (text(waiting.get("cause")), text(waiting.get("why")));
        writeln!(out, "  {name} waits until there is room: {why}")?;
    }
    for (what, key) in [
        ("MAC addresses", "knownMacs"),
        ("addresses", "knownAddresses"),
        ("dropped packets", "droppedPackets"),
    ] {
        match thing.get(key) {
            None | Some(Value::Null) => {}
            Some(Value::Array(items)) => {
                let items: Vec<String> = items.iter().map(|item| text(Some(item))).collect();
                writeln!(out, "  {what}: {}", items.join(", "))?;
            }
            Some(value) => writeln!(out, "  {what}: {}", text(Some(value)))?,
        }
    }
    if thing.get("identityInConflict") == Some(&Value::Bool(true)) {
        writeln!(
            out,
            "  its sources disagree about which device it is: see edge-warden devices"
        )?;
    }
    Ok(())
}

/// A cause in force, in words: `isolate since TIME, until TIME, by WHO: REASON`.
fn cause(detail: &Value) -> String {
    let mut words = text(detail.get("posture"));
    if let Some(since) = time(detail.get("since")) {
        words.push_str(&format!(" since {since}"));
    }
    match time(detail.get("until")) {
        Some(until) => words.push_str(&format!(", until {until}")),
        None if detail.get("releaseWhenCleared") == Some(&Value::Bool(true)) => {
            words.push_str(", until its alarm clears");
        }
        None => words.push_str(", until released"),
    }
    for (before, key) in [(", by ", "who"), (", violation ", "violationId")] {
        if let Some(value) = detail.get(key) {
            words.push_str(&format!("{before}{}", text(Some(value))));
        }
    }
    if let Some(reason) = reason(detail) {
        words.push_str(&format!(": {reason}"));
    }
    words
}

fn reason(detail: &Value) -> Option<String> {
    detail.get("reason").map(|reason| text(Some(reason)))
}

/// Milliseconds since 1970 as RFC 3339, whole seconds.
fn time(value: Option<&Value>) -> Option<String> {
    let time = value.and_then(Value::as_u64)?;
    Some(rfc3339(UnixTime(time)))
}

fn causes(thing: &Value) -> impl Iterator<Item = (String, &Value)> {
    thing
        .get("causes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|cause| (text(cause.get("cause")), cause.get("detail").unwrap_or(&Value::Null)))
}

/// How it stands, in a few words.
fn stands(thing: &Value) -> String {
    if let Some(refused) = thing.pointer("/decision/refused") {
        return format!("not cut off: {}", text(Some(refused)));
    }
    let Some(mode) = thing.pointer("/decision/cut/mode") else {
        return "not quarantined".to_owned();
    };
    let mode = text(Some(mode));
    if thing.get("observeOnly") == Some(&Value::Bool(true)) {
        return format!("would be cut off ({mode}); enforcement is observe");
    }
    match thing.get("enforced") {
        Some(Value::Bool(true)) => format!("cut off ({mode})"),
        Some(Value::Object(why)) => {
            let words: Vec<String> = why
                .iter()
                .map(|(kind, why)| format!("{kind}: {}", text(Some(why))))
                .collect();
            format!("NOT fully cut off ({mode}); {}", words.join("; "))
        }
        _ => format!("NOT cut off ({mode})"),
    }
}

fn text(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => printable(text),
        None | Some(Value::Null) => "-".to_owned(),
        Some(other) => printable(&other.to_string()),
    }
}
