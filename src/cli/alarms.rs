//! `edge-warden alarms`: what the security profiles say about the things, as the running agent has it.

use std::io::Write;

use edge_warden::agent::clock::{Clock, SystemClock};
use edge_warden::control::{Request, ask, socket_path};
use serde_json::Value;

use super::{Exit, args, grouped, plain_table, printable};

/// Ask and print.
pub fn run(arguments: &args::Alarms) -> anyhow::Result<Exit> {
    let dir = arguments.standalone.as_deref().or(arguments.state_dir.as_deref());
    let alarms = ask(&socket_path(dir), &Request::Alarms)?;
    let mut out = std::io::stdout().lock();
    if arguments.json {
        serde_json::to_writer_pretty(&mut out, &alarms)?;
        writeln!(out)?;
        return Ok(Exit::Done);
    }
    let now = SystemClock::accelerated(1).wall().0;
    let list = |name: &str| alarms.get(name).and_then(Value::as_array).into_iter().flatten();
    writeln!(out, "ACTIVE  {}", list("active").count())?;
    if list("active").next().is_some() {
        let mut rows = plain_table();
        rows.set_header(vec![
            "THING", "PROFILE", "BEHAVIOR", "METRIC", "VALUE", "NORMAL", "WINDOW", "SINCE", "DONE",
        ]);
        for alarm in list("active") {
            rows.add_row(vec![
                words(alarm, "/thingName"),
                words(alarm, "/securityProfileName"),
                words(alarm, "/behavior"),
                words(alarm, "/metric"),
                value(alarm),
                words(alarm, "/normal"),
                seconds(alarm, "/windowSeconds"),
                ago(alarm, "/since", now),
                done(alarm),
            ]);
        }
        writeln!(out, "{rows}")?;
    }
    writeln!(out)?;
    writeln!(out, "RECENT  {}", list("recent").count())?;
    if list("recent").next().is_some() {
        let mut rows = plain_table();
        rows.set_header(vec![
            "THING",
            "PROFILE",
            "BEHAVIOR",
            "LAST VALUE",
            "NORMAL",
            "BEGAN",
            "ENDED",
            "HOW",
            "DONE",
        ]);
        for alarm in list("recent") {
            rows.add_row(vec![
                words(alarm, "/thingName"),
                words(alarm, "/securityProfileName"),
                words(alarm, "/behavior"),
                value(alarm),
                words(alarm, "/normal"),
                ago(alarm, "/since", now),
                ago(alarm, "/until", now),
                words(alarm, "/state"),
                words(alarm, "/done"),
            ]);
        }
        writeln!(out, "{rows}")?;
    }
    Ok(Exit::Done)
}

fn words(row: &Value, path: &str) -> String {
    match row.pointer(path) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => printable(text),
        Some(other) => printable(&other.to_string()),
    }
}

/// The last violating value: `54` of `{"count": 54}`, lists by their elements.
fn value(alarm: &Value) -> String {
    let of = alarm.get("lastValue").and_then(Value::as_object);
    match of.and_then(|map| map.values().next()) {
        Some(Value::Number(number)) => number.as_u64().map_or_else(|| number.to_string(), grouped),
        Some(Value::Array(items)) if items.is_empty() => "none".to_owned(),
        Some(Value::Array(items)) => {
            let shown: Vec<String> = items
                .iter()
                .take(5)
                .map(|item| item.as_str().map_or_else(|| printable(&item.to_string()), printable))
                .collect();
            let more = if items.len() > shown.len() { " ..." } else { "" };
            format!("{}{more}", shown.join(" "))
        }
        _ => "-".to_owned(),
    }
}

fn done(alarm: &Value) -> String {
    let held = alarm.get("held").and_then(Value::as_bool).unwrap_or_default();
    let words = words(alarm, "/done");
    if held {
        format!("{words}; not judged meanwhile")
    } else {
        words
    }
}

fn seconds(row: &Value, path: &str) -> String {
    row.pointer(path)
        .and_then(Value::as_u64)
        .map_or_else(|| "-".to_owned(), |seconds| format!("{seconds} s"))
}

fn ago(row: &Value, path: &str, now: u64) -> String {
    let Some(then) = row.pointer(path).and_then(Value::as_u64) else {
        return "-".to_owned();
    };
    match now.saturating_sub(then) / 1000 {
        seconds @ 0..120 => format!("{seconds} s ago"),
        seconds @ 120..7200 => format!("{} min ago", seconds / 60),
        seconds => format!("{} h ago", seconds / 3600),
    }
}
