//! `edge-warden devices`: who is on the LAN, as the running agent sees it.

use std::io::Write;

use edge_warden::agent::clock::{Clock, SystemClock};
use edge_warden::control::{Request, ask};
use serde_json::Value;

use super::{Exit, args, grouped, plain_table, printable};

/// Ask and print.
pub fn run(arguments: &args::Devices) -> anyhow::Result<Exit> {
    let devices = ask(&arguments.place.socket(), &Request::Devices)?;
    let mut out = std::io::stdout().lock();
    if arguments.json {
        serde_json::to_writer_pretty(&mut out, &devices)?;
        writeln!(out)?;
        return Ok(Exit::Done);
    }
    let now = SystemClock::accelerated(1).wall().0;
    let list = |name: &str| devices.get(name).and_then(Value::as_array).into_iter().flatten();
    let things: Vec<&Value> = list("things").collect();
    if things.is_empty() {
        writeln!(
            out,
            "NO LOCAL THINGS  no source names a device yet (configuration `devices`, registration, DHCP leases)"
        )?;
    } else {
        print_things(&mut out, &things, now)?;
    }
    let more = devices.get("moreUnknown").and_then(Value::as_u64).unwrap_or_default();
    let unknown = list("unknown").count();
    writeln!(out)?;
    writeln!(out, "UNKNOWN DEVICES  {unknown}")?;
    if unknown > 0 {
        let mut rows = plain_table();
        let mut header = vec!["MAC", "ADDRESSES", "INTERFACE", "SEEN", "MARKS"];
        let demanded = list("unknown").any(|device| device.get("quarantine").is_some());
        header.extend(demanded.then_some("QUARANTINE"));
        rows.set_header(header);
        for device in list("unknown") {
            let mut cells = vec![
                words(device.get("mac")),
                words(device.get("addresses")),
                place(device),
                seen(device, now),
                words(device.get("marks")),
            ];
            cells.extend(demanded.then(|| words(device.get("quarantine"))));
            rows.add_row(cells);
        }
        writeln!(out, "{rows}")?;
    }
    if more > 0 {
        writeln!(out, "  and {} more", grouped(more))?;
    }
    for skipped in list("skipped") {
        writeln!(
            out,
            "  not taken: {}: {}",
            words(skipped.get("what")),
            words(skipped.get("reason"))
        )?;
    }
    Ok(Exit::Done)
}

fn print_things(out: &mut impl Write, things: &[&Value], now: u64) -> std::io::Result<()> {
    let mut rows = plain_table();
    rows.set_header(vec![
        "THING",
        "SOURCE",
        "MAC",
        "ADDRESSES",
        "INTERFACE",
        "SEEN",
        "IN B/s",
        "OUT B/s",
        "CONNECTIONS",
        "LAST REPORT",
        "MARKS",
    ]);
    for thing in things {
        rows.add_row(vec![
            words(thing.get("thing")),
            words(thing.get("source")),
            words(thing.get("macs")),
            words(thing.get("addresses")),
            place(thing),
            seen(thing, now),
            rate(thing, "/rates/bytesInPerSecond"),
            rate(thing, "/rates/bytesOutPerSecond"),
            connections(thing),
            fate(thing),
            words(thing.get("marks")),
        ]);
    }
    writeln!(out, "{rows}")?;
    for thing in things {
        for conflict in thing.get("conflicts").and_then(Value::as_array).into_iter().flatten() {
            writeln!(out, "  {}: {}", words(thing.get("thing")), words(Some(conflict)))?;
        }
    }
    Ok(())
}

fn words(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => printable(text),
        Some(Value::Array(items)) if items.is_empty() => "-".to_owned(),
        Some(Value::Array(items)) => items.iter().map(|item| words(Some(item))).collect::<Vec<_>>().join(" "),
        Some(other) => printable(&other.to_string()),
    }
}

fn place(row: &Value) -> String {
    let parts = ["interface", "port"]
        .into_iter()
        .filter_map(|key| row.get(key)?.as_str());
    let parts: Vec<String> = parts.map(printable).collect();
    if parts.is_empty() {
        "-".to_owned()
    } else {
        parts.join("/")
    }
}

fn seen(row: &Value, now: u64) -> String {
    let Some(last) = row.get("lastSeen").and_then(Value::as_u64) else {
        return "never".to_owned();
    };
    match now.saturating_sub(last) / 1000 {
        seconds @ 0..120 => format!("{seconds} s ago"),
        seconds @ 120..7200 => format!("{} min ago", seconds / 60),
        seconds => format!("{} h ago", seconds / 3600),
    }
}

fn rate(row: &Value, path: &str) -> String {
    let rate = row.pointer(path).and_then(Value::as_u64);
    rate.map_or_else(|| "-".to_owned(), grouped)
}

fn connections(row: &Value) -> String {
    let count = row.pointer("/connections/established").and_then(Value::as_u64);
    count.map_or_else(|| "-".to_owned(), grouped)
}

fn fate(row: &Value) -> String {
    words(row.pointer("/reporting/lastReport/fate"))
}
