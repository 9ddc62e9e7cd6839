//! How busy and how full the host is. Sources: `/proc/{stat,meminfo,loadavg}` (proc(5)) and statvfs(3).

use std::fs;
use std::path::Path;

use crate::collect::CollectError;
use crate::model::{Measured, Missing};

/// What all processors have done since the boot, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuTimes {
    /// In all.
    pub total: u64,
    /// Of that, nothing, or nothing but wait for a disk.
    pub idle: u64,
}

impl CpuTimes {
    /// How much of the time since `earlier` was work, in percent; `None` when no time went by.
    #[must_use]
    pub fn busy_since(self, earlier: Self) -> Option<f64> {
        let total = self.total.checked_sub(earlier.total).filter(|total| *total > 0)?;
        // iowait may go back (proc(5)).
        let idle = self.idle.saturating_sub(earlier.idle).min(total);
        Some(percent(total - idle, total))
    }
}

/// `part` of `whole` in percent, to one place.
pub(in crate::collect) fn percent(part: u64, whole: u64) -> f64 {
    // Up to 2^53 exactly, and one place is all that is asked for beyond.
    #[allow(clippy::cast_precision_loss, reason = "a percentage to one place")]
    let percent = part as f64 / whole as f64 * 100.0;
    (percent * 10.0).round() / 10.0
}

fn read(path: &Path) -> Measured<String> {
    let text = fs::read_to_string(path).map_err(|error| CollectError::from_io(path.display().to_string(), error))?;
    Ok(text)
}

fn malformed(path: &Path, why: &str) -> Missing {
    CollectError::malformed(path.display().to_string(), why).into()
}

/// The first line of `stat` below `proc`.
///
/// # Errors
/// It cannot be read or understood.
pub fn cpu_times(proc: &Path) -> Measured<CpuTimes> {
    let path = proc.join("stat");
    let text = read(&path)?;
    parse_cpu(&text).ok_or_else(|| malformed(&path, "no line of all processors"))
}

/// `cpu user nice system idle iowait irq softirq steal guest guest_nice`; guest time is in user time already.
fn parse_cpu(text: &str) -> Option<CpuTimes> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Option<Vec<u64>> = line
        .split_whitespace()
        .take(8)
        .map(|field| field.parse().ok())
        .collect();
    let fields = fields.filter(|fields| fields.len() >= 4)?;
    let idle = fields
        .iter()
        .skip(3)
        .take(2)
        .fold(0_u64, |sum, ticks| sum.saturating_add(*ticks));
    let total = fields.iter().fold(0_u64, |sum, ticks| sum.saturating_add(*ticks));
    Some(CpuTimes { total, idle })
}

/// Memory that programs cannot have, in percent of all (`MemAvailable` of `meminfo` below `proc`).
///
/// # Errors
/// It cannot be read or understood.
pub fn memory_usage(proc: &Path) -> Measured<f64> {
    let path = proc.join("meminfo");
    let text = read(&path)?;
    parse_memory(&text).ok_or_else(|| malformed(&path, "no MemTotal or no MemAvailable"))
}

fn parse_memory(text: &str) -> Option<f64> {
    let field = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let total = field("MemTotal:").filter(|total| *total > 0)?;
    let available = field("MemAvailable:")?.min(total);
    Some(percent(total - available, total))
}

/// The load average over one minute (`loadavg` below `proc`).
///
/// # Errors
/// It cannot be read or understood.
pub fn load(proc: &Path) -> Measured<f64> {
    let path = proc.join("loadavg");
    let text = read(&path)?;
    let first = text.split_whitespace().next().and_then(|field| field.parse().ok());
    let number = first.filter(|load: &f64| load.is_finite() && *load >= 0.0);
    number.ok_or_else(|| malformed(&path, "does not begin with a number"))
}

/// Space in use on the file system of `path`, in percent of what ordinary users can have, as df(1) says it.
///
/// # Errors
/// The path cannot be asked. May block for as long as the file system does.
pub fn disk_usage(path: &Path) -> Measured<f64> {
    let origin = || path.display().to_string();
    let found = rustix::fs::statvfs(path).map_err(|error| CollectError::from_io(origin(), error.into()))?;
    let used = found.f_blocks.saturating_sub(found.f_bfree);
    match used.saturating_add(found.f_bavail) {
        // procfs and the like.
        0 => Err(malformed(path, "a file system without a size")),
        whole => Ok(percent(used, whole)),
    }
}

/// For `fuzz/`.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(text: &str) {
    if let Some(times) = parse_cpu(text) {
        let _ = times.busy_since(times);
    }
    let _ = parse_memory(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Reason;

    fn with(name: &str, content: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join(name), content).unwrap();
        root
    }

    #[test]
    fn processor_use_is_what_was_done_between_two_looks() {
        let times = |line: &str| cpu_times(with("stat", line).path());
        let earlier = times("cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 2 3 4\n").unwrap();
        assert_eq!(earlier, CpuTimes { total: 1000, idle: 800 });
        let later = times("cpu  150 0 150 750 150 0 0 0 99 0\n").unwrap();
        assert_eq!(later.busy_since(earlier), Some(50.0));
        assert_eq!(later.busy_since(later), None);
        assert_eq!(earlier.busy_since(later), None, "counters that went back");
        for line in ["", "cpu0 1 2 3 4\n", "cpu  1 2 3\n", "cpu  1 2 x 4\n"] {
            assert_eq!(times(line).unwrap_err().reason, Reason::Malformed, "{line:?}");
        }
        assert!(times("cpu  18446744073709551615 1 1 1\n").is_ok());
    }

    #[test]
    fn memory_and_load_are_read_or_missing() {
        let memory = |text: &str| memory_usage(with("meminfo", text).path());
        let full = "MemTotal:        1000 kB\nMemFree:          10 kB\nMemAvailable:     400 kB\n";
        assert_eq!(memory(full), Ok(60.0));
        assert_eq!(memory("MemTotal: 1000 kB\nMemAvailable: 2000 kB\n"), Ok(0.0));
        for text in ["", "MemTotal: 0 kB\nMemAvailable: 0 kB\n", "MemTotal: 5 kB\n"] {
            assert_eq!(memory(text).unwrap_err().reason, Reason::Malformed, "{text:?}");
        }
        let load = |text: &str| super::load(with("loadavg", text).path());
        assert_eq!(load("0.52 0.58 0.59 1/389 12345\n"), Ok(0.52));
        for text in ["", "nan 0 0", "-1 0 0", "x"] {
            assert_eq!(load(text).unwrap_err().reason, Reason::Malformed, "{text:?}");
        }
        assert_eq!(super::load(Path::new("/nowhere")).unwrap_err().reason, Reason::Absent);
    }

    #[test]
    fn disk_use_is_of_real_file_systems_only() {
        let here = tempfile::tempdir().unwrap();
        let used = disk_usage(here.path()).unwrap();
        assert!((0.0..=100.0).contains(&used), "{used}");
        assert_eq!(disk_usage(Path::new("/proc")).unwrap_err().reason, Reason::Malformed);
        assert_eq!(
            disk_usage(&here.path().join("gone")).unwrap_err().reason,
            Reason::Absent
        );
    }

    #[test]
    fn this_host_can_be_measured() {
        let proc = Path::new("/proc");
        assert!(cpu_times(proc).unwrap().total > 0);
        assert!(memory_usage(proc).unwrap() > 0.0);
        assert!(load(proc).is_ok());
    }
}
