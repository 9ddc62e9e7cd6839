//! Temperature and battery. Sources: `/sys/class/thermal`, `/sys/class/hwmon`, `/sys/class/power_supply` (kernel
//! documentation, ABI/testing/sysfs-class-thermal, sysfs-class-hwmon, sysfs-class-power).

use std::fs;
use std::path::{Path, PathBuf};

use super::host::percent;
use crate::model::{Measured, Missing, Reason};

/// What a sensor can tell at most; outside of it, one is broken or not connected.
const PLAUSIBLE: std::ops::RangeInclusive<f64> = -100.0..=250.0;

/// The highest temperature any sensor below `sys` tells, in degrees Celsius.
///
/// # Errors
/// No sensor tells any.
pub fn temperature(sys: &Path) -> Measured<f64> {
    let zones = folders(&sys.join("class/thermal"), "thermal_zone").into_iter();
    let mut files: Vec<PathBuf> = zones.map(|zone| zone.join("temp")).collect();
    for chip in folders(&sys.join("class/hwmon"), "hwmon") {
        let inputs = folders(&chip, "temp").into_iter();
        files.extend(inputs.filter(|path| path.to_string_lossy().ends_with("_input")));
    }
    // Thousandths of a degree. A sensor that is asleep answers with an error, the others still count.
    let degrees = files.iter().filter_map(|file| number(file)).map(|value| value / 1000.0);
    let highest = degrees.filter(|value| PLAUSIBLE.contains(value)).reduce(f64::max);
    let origin = || sys.join("class/thermal").display().to_string();
    highest.ok_or_else(|| Missing::new(origin(), Reason::Absent, "no sensor tells a temperature"))
}

/// The charge of the emptiest battery of the host below `sys`, in percent.
///
/// # Errors
/// There is none, or none that tells.
pub fn battery(sys: &Path) -> Measured<f64> {
    let supplies = folders(&sys.join("class/power_supply"), "");
    let own = supplies.iter().filter(|supply| {
        // The battery of a mouse has scope Device.
        word(&supply.join("type")).as_deref() == Some("Battery")
            && word(&supply.join("scope")).as_deref() != Some("Device")
            && word(&supply.join("present")).as_deref() != Some("0")
    });
    let lowest = own.filter_map(|supply| charge(supply)).reduce(f64::min);
    let origin = || sys.join("class/power_supply").display().to_string();
    lowest.ok_or_else(|| Missing::new(origin(), Reason::Absent, "no battery tells its charge"))
}

fn charge(supply: &Path) -> Option<f64> {
    if let Some(capacity) = number(&supply.join("capacity")) {
        return Some(capacity.clamp(0.0, 100.0));
    }
    let of = |now: &str, full: &str| {
        let whole = |name: &str| -> Option<u64> { word(&supply.join(name))?.parse().ok() };
        let full = whole(full).filter(|full| *full > 0)?;
        Some(percent(whole(now)?.min(full), full))
    };
    of("energy_now", "energy_full").or_else(|| of("charge_now", "charge_full"))
}

/// What is in `folder` and begins with `prefix`, in order of name.
fn folders(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

fn word(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn number(path: &Path) -> Option<f64> {
    word(path)?.parse().ok().filter(|value: &f64| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sys(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = root.path().join("class").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        root
    }

    #[test]
    fn the_hottest_sensor_counts_and_broken_ones_do_not() {
        let root = sys(&[
            ("thermal/thermal_zone0/temp", "48500\n"),
            ("thermal/thermal_zone1/temp", "-274000\n"),
            ("thermal/cooling_device0/temp", "99000\n"),
            ("hwmon/hwmon0/temp1_input", "61250\n"),
            ("hwmon/hwmon0/temp1_max", "90000\n"),
            ("hwmon/hwmon1/temp1_input", "many\n"),
        ]);
        assert_eq!(temperature(root.path()), Ok(61.25));
        let none = sys(&[("thermal/thermal_zone0/temp", "")]);
        assert_eq!(temperature(none.path()).unwrap_err().reason, Reason::Absent);
    }

    #[test]
    fn the_emptiest_own_battery_counts() {
        let root = sys(&[
            ("power_supply/AC/type", "Mains\n"),
            ("power_supply/AC/capacity", "1\n"),
            ("power_supply/BAT0/type", "Battery\n"),
            ("power_supply/BAT0/capacity", "87\n"),
            ("power_supply/BAT1/type", "Battery\n"),
            ("power_supply/BAT1/energy_now", "25000\n"),
            ("power_supply/BAT1/energy_full", "40000\n"),
            ("power_supply/mouse/type", "Battery\n"),
            ("power_supply/mouse/scope", "Device\n"),
            ("power_supply/mouse/capacity", "3\n"),
            ("power_supply/slot/type", "Battery\n"),
            ("power_supply/slot/present", "0\n"),
            ("power_supply/slot/capacity", "0\n"),
        ]);
        assert_eq!(battery(root.path()), Ok(62.5));
        let none = sys(&[("power_supply/AC/type", "Mains\n")]);
        assert_eq!(battery(none.path()).unwrap_err().reason, Reason::Absent);
        assert_eq!(battery(Path::new("/nowhere")).unwrap_err().reason, Reason::Absent);
    }
}
