//! What custom metrics are made of: parsers over what the kernel, the login records and other programs say, each with a
//! thin reader whose root is a parameter. Which of it is wanted, and when, is the agent's business.

mod content;
mod files;
mod host;
mod logins;
mod processes;
mod sensors;

/// For `fuzz/`: what describes processes, the processor, memory and logins.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(data: &[u8]) {
    processes::fuzz(data);
    host::fuzz(&String::from_utf8_lossy(data));
    logins::fuzz(data);
}

pub use content::{MAX_CONTENT, MAX_ITEMS, listed, parse, text};
pub use files::{FileState, MAX_WATCHED, Print, read_file, watched};
pub(super) use host::percent;
pub use host::{CpuTimes, cpu_times, disk_usage, load, memory_usage};
pub use logins::{Login, logins};
pub use processes::{Executable, Process, Processes};
pub use sensors::{battery, temperature};
