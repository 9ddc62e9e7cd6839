//! Whether the tracker sees anything: per family, and how full its table is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::flow::{Family, Flow};
use crate::model::{Measured, Missing, Reason};

/// Rows seen in a table, per family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RowCounts {
    /// IPv4 rows.
    pub v4: u64,
    /// IPv6 rows.
    pub v6: u64,
}

impl RowCounts {
    /// Counts one row.
    pub fn note(&mut self, flow: &Flow) {
        match flow.family() {
            Family::V4 => self.v4 += 1,
            Family::V6 => self.v6 += 1,
        }
    }
}

/// Whether a family is tracked. The kernel attaches the tracker to a family only where a rule needs it (a NAT or `ct`
/// rule; `nf_ct_netns_get`), so an empty table may mean "nobody talks" or "nobody looks".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FamilyTracking {
    /// Rows of the family are in the table.
    Tracked,
    /// The gateway itself has connections of the family, and none is in the table: untracked.
    Untracked,
    /// No rows, and nothing that would have to be there: cannot be told.
    Quiet,
}

/// Judges both families, (IPv4, IPv6): `rows` of the table against `own`, the gateway's own established TCP connections
/// at the same time, those within loopback left out.
#[must_use]
pub fn families(rows: RowCounts, own: RowCounts) -> (FamilyTracking, FamilyTracking) {
    let judge = |rows: u64, own: u64| match (rows, own) {
        (0, 0) => FamilyTracking::Quiet,
        (0, _) => FamilyTracking::Untracked,
        _ => FamilyTracking::Tracked,
    };
    (judge(rows.v4, own.v4), judge(rows.v6, own.v6))
}

/// How full the table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Flows in the table.
    pub count: u64,
    /// The most it takes.
    pub max: u64,
}

impl Usage {
    /// How full it is, in percent to one place.
    #[must_use]
    pub fn percent(self) -> f64 {
        crate::collect::custom::percent(self.count, self.max.max(1))
    }

    /// True when new flows are being turned away or are about to be.
    #[must_use]
    pub fn is_full(self) -> bool {
        self.count >= self.max
    }
}

/// Reads `nf_conntrack_count` and `nf_conntrack_max` of the calling thread's network namespace, below `proc`.
///
/// # Errors
/// A file is absent (no connection tracking), denied, or holds no number.
pub fn usage(proc: &Path) -> Measured<Usage> {
    let directory = proc.join("sys/net/netfilter");
    Ok(Usage {
        count: read_number(directory.join("nf_conntrack_count"))?,
        max: read_number(directory.join("nf_conntrack_max"))?,
    })
}

fn read_number(path: PathBuf) -> Measured<u64> {
    let source = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|error: io::Error| Missing::from_io(&source, &error))?;
    let number = text.trim().parse();
    number.map_err(|error| Missing::new(source, Reason::Malformed, format!("{error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_full_and_malformed_are_told_apart() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(usage(root.path()).unwrap_err().reason, Reason::Absent);
        let directory = root.path().join("sys/net/netfilter");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("nf_conntrack_count"), "262144\n").unwrap();
        fs::write(directory.join("nf_conntrack_max"), "262144\n").unwrap();
        assert!(usage(root.path()).unwrap().is_full());
        fs::write(directory.join("nf_conntrack_max"), "many\n").unwrap();
        assert_eq!(usage(root.path()).unwrap_err().reason, Reason::Malformed);
    }

    #[test]
    fn no_rows_is_untracked_only_when_rows_were_due() {
        let own = RowCounts { v4: 2, v6: 0 };
        let nothing = RowCounts::default();
        assert_eq!(
            families(nothing, own),
            (FamilyTracking::Untracked, FamilyTracking::Quiet)
        );
        assert_eq!(families(own, own).0, FamilyTracking::Tracked);
    }
}
