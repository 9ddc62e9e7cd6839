//! Logging: info and below to stdout, warnings and errors to stderr, because the Java nucleus files the two streams
//! under INFO and WARN (reference: ShellRunner of the nucleus).

use std::io;

use tracing::Level;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::fmt::writer::MakeWriterExt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

/// Changes the level of a running log.
pub type LevelHandle = reload::Handle<LevelFilter, tracing_subscriber::Registry>;

/// Start logging. A line that cannot be written is lost without a word: saying so on a stderr that is closed too, as it
/// is when the nucleus dies, would panic.
pub fn start(level: LevelFilter, json: bool) -> LevelHandle {
    let (filter, handle) = reload::Layer::new(level);
    let writer = io::stderr.with_max_level(Level::WARN).or_else(io::stdout);
    let registry = tracing_subscriber::registry().with(filter);
    if json {
        registry
            .with(
                fmt::layer()
                    .json()
                    .with_target(false)
                    .log_internal_errors(false)
                    .with_writer(writer),
            )
            .init();
    } else {
        let layer = fmt::layer()
            .with_target(false)
            .with_ansi(false)
            .log_internal_errors(false)
            .with_writer(writer);
        registry.with(layer).init();
    }
    handle
}
