//! `edge-warden status`: what the running agent says about itself.

use std::io::Write;

use edge_warden::control::{Request, ask};
use serde_json::Value;

use super::{Exit, args, printable};

/// Ask and print.
pub fn run(arguments: &args::Status) -> anyhow::Result<Exit> {
    let status = ask(&arguments.place.socket(), &Request::Status)?;
    let mut out = std::io::stdout().lock();
    if arguments.json {
        serde_json::to_writer_pretty(&mut out, &status)?;
        writeln!(out)?;
        return Ok(Exit::Done);
    }
    let text = |value: &Value| match value {
        Value::String(text) => printable(text),
        Value::Null => "-".to_owned(),
        other => printable(&other.to_string()),
    };
    let at = |path: &str| status.pointer(path).map_or_else(|| "-".to_owned(), text);
    writeln!(
        out,
        "edge-warden {} on the {} nucleus, thing {}, up {} s",
        at("/version"),
        at("/nucleus"),
        at("/thing"),
        at("/upSeconds")
    )?;
    writeln!(out)?;
    writeln!(
        out,
        "REPORTS ({}, at most {} bytes)",
        at("/reports/format"),
        at("/reports/maxBytes")
    )?;
    let mut rows = super::plain_table();
    rows.set_header(vec![
        "thing",
        "last report",
        "fate",
        "next in",
        "accepted",
        "rejected",
        "unanswered",
        "not sent",
    ]);
    for thing in status
        .pointer("/reports/things")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let field = |path: &str| thing.pointer(path).map_or_else(|| "-".to_owned(), text);
        rows.add_row(vec![
            field("/thing"),
            field("/lastReportId"),
            fate(thing.get("lastReport")),
            format!("{} s", field("/nextInSeconds")),
            field("/counts/accepted"),
            field("/counts/rejected"),
            field("/counts/unacknowledged"),
            field("/counts/notSent"),
        ]);
    }
    writeln!(out, "{rows}")?;
    for (what, path) in [
        ("cut", "/reports/lastCut/cut"),
        ("not saved", "/reports/saveError"),
        ("replies not heard", "/subscriptions/error"),
        ("configuration refused", "/configuration/reload/error"),
    ] {
        if status.pointer(path).is_some_and(|value| !value.is_null()) {
            writeln!(out, "  {what}: {}", at(path))?;
        }
    }
    writeln!(out)?;
    let size = |path: &str| status.pointer(path).and_then(Value::as_array).map_or(0, Vec::len);
    writeln!(
        out,
        "LAN  {} bridges, {} plain interfaces; {} things, {} unknown devices",
        size("/site/lan/bridges"),
        size("/site/lan/interfaces"),
        at("/site/things"),
        at("/site/unknownDevices")
    )?;
    writeln!(out)?;
    writeln!(
        out,
        "QUARANTINE ({}, firewall {})  {} things with a cause; `quarantine list` names them",
        at("/quarantine/enforcement"),
        at("/quarantine/firewall"),
        at("/quarantine/quarantined"),
    )?;
    if status
        .pointer("/quarantine/mended")
        .and_then(Value::as_u64)
        .unwrap_or(0)
        > 0
    {
        writeln!(
            out,
            "  rules were damaged by others and written again {} times",
            at("/quarantine/mended")
        )?;
    }
    for (what, words) in status
        .pointer("/quarantine/trouble")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        writeln!(out, "  {}: {}", printable(what), text(words))?;
    }
    if status.pointer("/shadows/error").is_some_and(|error| !error.is_null()) {
        writeln!(out, "  shadows: {}", at("/shadows/error"))?;
    }
    for trouble in status
        .pointer("/shadows/trouble")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        writeln!(out, "  shadow: {}", text(trouble))?;
    }
    let custom = status.pointer("/customMetrics").and_then(Value::as_object);
    let custom = custom.filter(|metrics| !metrics.is_empty());
    if let Some(metrics) = custom {
        writeln!(out)?;
        writeln!(out, "CUSTOM METRICS")?;
        let mut rows = super::plain_table();
        for (name, row) in metrics {
            let value = match row.get("missing") {
                Some(missing) => format!("missing: {}", text(missing)),
                None => row
                    .as_object()
                    .into_iter()
                    .flatten()
                    .next()
                    .map_or_else(String::new, |(kind, value)| {
                        // A list of a thousand programs is for --json.
                        match value {
                            Value::Array(items) => format!("{} items", items.len()),
                            other => format!("{} {}", text(other), if kind == "things" { "things" } else { "" }),
                        }
                    }),
            };
            rows.add_row(vec![printable(name), value.trim_end().to_owned()]);
        }
        writeln!(out, "{rows}")?;
    }
    writeln!(out)?;
    writeln!(
        out,
        "DETECT  {} profiles, {} active alarms; `alarms` lists them",
        size("/detect/profiles"),
        at("/detect/activeAlarms")
    )?;
    let number = |path: &str| status.pointer(path).and_then(Value::as_u64).unwrap_or_default();
    for (what, path) in [
        ("events that wait for the cloud", "/detect/events/waiting"),
        ("events dropped", "/detect/events/dropped"),
        ("events not published locally", "/detect/localEventsLost"),
        ("things that are not judged, too many", "/detect/thingsNotJudged"),
    ] {
        if number(path) > 0 {
            writeln!(out, "  {what}: {}", at(path))?;
        }
    }
    for path in [
        "/detect/events/error",
        "/detect/events/trouble",
        "/detect/recording/trouble",
    ] {
        if status.pointer(path).is_some_and(Value::is_string) {
            writeln!(out, "  {}", at(path))?;
        }
    }
    for (what, words) in status
        .pointer("/detect/trouble")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        writeln!(out, "  {}: {}", printable(what), text(words))?;
    }
    for words in status
        .pointer("/detect/warnings")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        writeln!(out, "  warning: {}", text(words))?;
    }
    writeln!(out)?;
    writeln!(out, "SOURCES")?;
    let mut rows = super::plain_table();
    for (name, state) in ["/reports/sources", "/site/sources"]
        .into_iter()
        .filter_map(|path| status.pointer(path)?.as_object())
        .flatten()
    {
        rows.add_row(vec![printable(name), text(state)]);
    }
    writeln!(out, "{rows}")?;
    for note in ["/reports/notes", "/site/notes"]
        .into_iter()
        .filter_map(|path| status.pointer(path)?.as_array())
        .flatten()
    {
        writeln!(out, "  note: {}", text(note))?;
    }
    Ok(Exit::Done)
}

/// What became of a report, with the service's or the nucleus' words: `rejected: InvalidPayload, Malformed report`.
fn fate(fate: Option<&Value>) -> String {
    let part = |name: &str| {
        fate.and_then(|fate| fate.get(name))
            .and_then(Value::as_str)
            .map(printable)
    };
    let why: Vec<String> = ["code", "message", "reason"].into_iter().filter_map(part).collect();
    match part("fate") {
        Some(word) if why.is_empty() => word,
        Some(word) => format!("{word}: {}", why.join(", ")),
        None => "-".to_owned(),
    }
}
