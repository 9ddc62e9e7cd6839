//! `edge-warden report`: one report of this host, measured now, sent nowhere.

use std::io::Write;
use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use comfy_table::CellAlignment;
use edge_warden::agent::clock::{Clock, SystemClock};
use edge_warden::agent::host::{HostMeter, HostSource};
use edge_warden::collect::{HostCollector, HostPaths, InterfaceSelection};
use edge_warden::control::{ReportEncoding, ReportTags, Request, ask};
use edge_warden::model::{Missing, ThingName, ThingReading};
use edge_warden::report::{Format, Names, Report, encode, next_report_id};
use serde_json::Value;

use super::args::{self, ReportFormat, TagNames};
use super::{Exit, grouped, plain_table, printable};

/// The most a report may weigh here: nothing limits a terminal, so the classic nucleus's 128 KB.
const MAX_BYTES: usize = 128 * 1024;
/// Connections shown in the table before "and N more".
const SHOWN: usize = 40;

/// Measure and print.
pub fn run(arguments: &args::Report) -> anyhow::Result<Exit> {
    if let Some(thing) = &arguments.thing {
        return of_thing(thing, arguments);
    }
    let clock = SystemClock::accelerated(1);
    let mut collector = HostCollector::new(HostPaths::default());
    let mut meter = HostMeter::new(InterfaceSelection::Auto);
    let mut baseline = None;
    if arguments.interval > 0 {
        baseline = meter.read(&HostSource::collect(&mut collector)).traffic.ok();
        std::thread::sleep(Duration::from_secs(arguments.interval));
    }
    let reading = meter.read(&HostSource::collect(&mut collector));
    let report = Report::between(baseline, &reading, next_report_id(None, clock.wall()));
    let format = match arguments.format {
        ReportFormat::Table => return print_table(&report, &reading, arguments.interval),
        ReportFormat::Json => Format::Json,
        ReportFormat::Cbor => Format::Cbor,
    };
    let names = match arguments.names {
        TagNames::Long => Names::Long,
        TagNames::Short => Names::Short,
    };
    let encoded = encode(&report, format, names, MAX_BYTES).context("the report cannot be encoded")?;
    let mut out = std::io::stdout().lock();
    out.write_all(&encoded.bytes).and_then(|()| {
        if format == Format::Json {
            out.write_all(b"\n")
        } else {
            Ok(())
        }
    })?;
    warn_missing(&reading);
    Ok(Exit::Done)
}

/// The report of a thing from the running agent.
fn of_thing(thing: &ThingName, arguments: &args::Report) -> anyhow::Result<Exit> {
    let request = Request::Report {
        thing: thing.clone(),
        format: match arguments.format {
            ReportFormat::Cbor => ReportEncoding::Cbor,
            ReportFormat::Table | ReportFormat::Json => ReportEncoding::Json,
        },
        names: match (arguments.format, arguments.names) {
            (ReportFormat::Table, _) | (_, TagNames::Long) => ReportTags::Long,
            (_, TagNames::Short) => ReportTags::Short,
        },
    };
    let answer = ask(&arguments.place.socket(), &request)?;
    let payload = answer.get("payload").and_then(Value::as_str).unwrap_or_default();
    let payload = STANDARD.decode(payload).context("the agent's answer is not a report")?;
    let mut out = std::io::stdout().lock();
    match arguments.format {
        ReportFormat::Cbor => out.write_all(&payload)?,
        ReportFormat::Json => {
            out.write_all(&payload)?;
            writeln!(out)?;
        }
        ReportFormat::Table => {
            let document: Value = serde_json::from_slice(&payload).context("the agent's answer is not a report")?;
            print_document(&mut out, thing, &document)?;
        }
    }
    for (block, why) in answer.get("missing").and_then(Value::as_object).into_iter().flatten() {
        let why = printable(why.as_str().unwrap_or_default());
        let _ = writeln!(std::io::stderr(), "edge-warden: {block} is left out: {why}");
    }
    Ok(Exit::Done)
}

fn print_document(out: &mut impl Write, thing: &ThingName, document: &Value) -> std::io::Result<()> {
    let at = |path: &str| document.pointer(path);
    let number = |value: Option<&Value>| value.and_then(Value::as_u64).map_or_else(|| "-".to_owned(), grouped);
    let id = at("/header/report_id").map_or_else(|| "-".to_owned(), Value::to_string);
    writeln!(out, "Device Defender report {id} of {thing}")?;
    if let Some(traffic) = at("/metrics/network_stats") {
        let mut rows = plain_table();
        rows.set_header(vec!["TRAFFIC", "bytes", "packets"]);
        for way in ["in", "out"] {
            let field = |unit: &str| number(traffic.get(format!("{unit}_{way}")));
            rows.add_row(vec![way.to_owned(), field("bytes"), field("packets")]);
        }
        writeln!(out, "\n{rows}\n  since its last report")?;
    }
    for (title, block) in [("ANSWERED TCP", "tcp"), ("ANSWERED UDP", "udp")] {
        let Some(ports) = at(&format!("/metrics/listening_{block}_ports/ports")).and_then(Value::as_array) else {
            continue;
        };
        let listed: Vec<String> = ports
            .iter()
            .map(|port| number(port.get("port")).replace(' ', ""))
            .collect();
        let total = number(at(&format!("/metrics/listening_{block}_ports/total")));
        writeln!(out, "\n{title}  {total}  {}", listed.join(" "))?;
    }
    let established = "/metrics/tcp_connections/established_connections";
    if let Some(connections) = at(&format!("{established}/connections")).and_then(Value::as_array) {
        writeln!(
            out,
            "\nESTABLISHED TCP  {}",
            number(at(&format!("{established}/total")))
        )?;
        for connection in connections.iter().take(SHOWN) {
            let port = connection
                .get("local_port")
                .map_or_else(|| "-".to_owned(), Value::to_string);
            let remote = connection.get("remote_addr").and_then(Value::as_str).unwrap_or("-");
            writeln!(out, "  :{port} <-> {}", printable(remote))?;
        }
        let total = at(&format!("{established}/total")).and_then(Value::as_u64);
        let more = total
            .unwrap_or_default()
            .saturating_sub(connections.len().min(SHOWN) as u64);
        if more > 0 {
            writeln!(out, "  and {more} more (--format json lists {})", connections.len())?;
        }
    }
    Ok(())
}

fn missing(reading: &ThingReading) -> Vec<(&'static str, &Missing)> {
    [
        ("network_stats", reading.traffic.as_ref().err()),
        ("established_connections", reading.established.as_ref().err()),
        ("listening_tcp_ports", reading.listening_tcp.as_ref().err()),
        ("listening_udp_ports", reading.listening_udp.as_ref().err()),
    ]
    .into_iter()
    .filter_map(|(block, missing)| Some((block, missing?)))
    .collect()
}

fn warn_missing(reading: &ThingReading) {
    for (block, why) in missing(reading) {
        let _ = writeln!(std::io::stderr(), "edge-warden: {block} is left out: {why}");
    }
}

fn print_table(report: &Report, reading: &ThingReading, seconds: u64) -> anyhow::Result<Exit> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "Device Defender report {} of this host", report.id())?;
    writeln!(out)?;
    match report.traffic() {
        Some(traffic) => {
            let mut rows = plain_table();
            rows.set_header(vec!["TRAFFIC", "bytes", "packets"]);
            rows.add_row(vec![
                "in".to_owned(),
                grouped(traffic.bytes_in),
                grouped(traffic.packets_in),
            ]);
            rows.add_row(vec![
                "out".to_owned(),
                grouped(traffic.bytes_out),
                grouped(traffic.packets_out),
            ]);
            for column in 1..3 {
                if let Some(column) = rows.column_mut(column) {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
            writeln!(out, "{rows}")?;
            writeln!(out, "  in {seconds} s, over every counted interface")?;
        }
        None if reading.traffic.is_ok() => {
            writeln!(
                out,
                "TRAFFIC  not measured: a delta needs two samples, ask with --interval SECONDS"
            )?;
        }
        None => {}
    }
    for (title, ports, measured) in [
        ("LISTENING TCP", report.listening_tcp(), reading.listening_tcp.is_ok()),
        ("LISTENING UDP", report.listening_udp(), reading.listening_udp.is_ok()),
    ] {
        let Some(ports) = ports.filter(|_| measured) else {
            continue;
        };
        writeln!(out)?;
        writeln!(out, "{title}  {}", ports.len())?;
        let mut rows = plain_table();
        for port in ports {
            let interface = port
                .interface
                .as_deref()
                .map_or_else(|| "any interface".to_owned(), printable);
            rows.add_row(vec![port.port.to_string(), interface]);
        }
        if !ports.is_empty() {
            writeln!(out, "{rows}")?;
        }
    }
    if let Some(connections) = report.established() {
        writeln!(out)?;
        writeln!(out, "ESTABLISHED TCP  {}", report.established_total())?;
        let mut rows = plain_table();
        for connection in connections.iter().take(SHOWN) {
            let interface = connection
                .local_interface
                .as_deref()
                .map_or_else(|| "-".to_owned(), printable);
            rows.add_row(vec![
                format!(":{}", connection.local_port),
                "<->".to_owned(),
                connection.remote.to_string(),
                interface,
            ]);
        }
        if !connections.is_empty() {
            writeln!(out, "{rows}")?;
        }
        let more = report
            .established_total()
            .saturating_sub(connections.len().min(SHOWN) as u64);
        if more > 0 {
            writeln!(out, "  and {more} more (--format json lists {})", connections.len())?;
        }
    }
    for (block, why) in missing(reading) {
        writeln!(out)?;
        writeln!(out, "NOT MEASURED  {block}: {}", printable(&why.to_string()))?;
    }
    Ok(Exit::Done)
}
