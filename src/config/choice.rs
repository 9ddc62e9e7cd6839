//! The keys that take one of a few fixed words.

use serde::{Serialize, Serializer};

/// An enum written as one of a few fixed words.
pub(super) trait Choice: Copy + 'static {
    /// Every word and what it means.
    const ALL: &'static [(&'static str, Self)];
}

macro_rules! choice {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_meta])* $variant),+ }

        impl Choice for $name {
            const ALL: &'static [(&'static str, Self)] = &[$(($word, Self::$variant)),+];
        }

        impl $name {
            /// The word it is written as.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    };
}

choice! {
    /// The encoding of a report.
    ReportFormat {
        /// JSON text.
        #[default]
        Json = "json",
        /// CBOR with definite lengths.
        Cbor = "cbor",
    }
}
choice! {
    /// The tag set of a report (Device Defender developer guide, "Device metrics document specification").
    ReportNames {
        /// `bytes_in`.
        #[default]
        Long = "long",
        /// `bi`.
        Short = "short",
    }
}
choice! {
    /// The layout of a DHCP lease file.
    LeaseFormat {
        /// dnsmasq's `dnsmasq.leases`: expiry, MAC, address, hostname, client id.
        #[default]
        Dnsmasq = "dnsmasq",
    }
}
choice! {
    /// What to do about a device no source names.
    UnknownDevices {
        /// Count it, nothing else.
        Ignore = "ignore",
        /// List and report it.
        #[default]
        Report = "report",
        /// Cut it off until a source names it.
        Quarantine = "quarantine",
    }
}
choice! {
    /// Whether decisions reach the kernel.
    Enforcement {
        /// Drop frames.
        #[default]
        Enforce = "enforce",
        /// Decide and report, drop nothing.
        Observe = "observe",
    }
}
choice! {
    /// What a quarantined thing may still do.
    Posture {
        /// ARP/ND and DHCP to keep its lease, nothing else.
        #[default]
        Isolate = "isolate",
        /// In addition MQTT to the core's own broker ports.
        Remediate = "remediate",
    }
}
choice! {
    /// Where shadow documents are read and written.
    ShadowSource {
        /// ShadowManager where it is configured for the thing, else the cloud.
        #[default]
        Auto = "auto",
        /// AWS IoT Core, over the shadow topics.
        Cloud = "cloud",
        /// The local shadow service of the nucleus.
        ShadowManager = "shadowManager",
    }
}
choice! {
    /// What an alarm of a security profile does.
    OnAlarm {
        /// An event, nothing else.
        #[default]
        Report = "report",
        /// An event, and the thing is cut off.
        Quarantine = "quarantine",
    }
}
choice! {
    /// Whether the kernel keeps our tables from being flushed by others (nftables owner flag, Linux 6.9 and later).
    TableOwnership {
        /// Own the tables where the kernel can.
        #[default]
        Auto = "auto",
        /// Never.
        Off = "off",
    }
}
choice! {
    /// Whether system calls that are not on the agent's list end it (seccomp(2)).
    Seccomp {
        /// Where the kernel and the processor allow.
        #[default]
        Auto = "auto",
        /// Never; for an emergency.
        Off = "off",
    }
}
choice! {
    /// The least important line that is logged.
    LogLevel {
        /// Something does not work.
        Error = "error",
        /// Something is wrong, work goes on.
        Warn = "warn",
        /// What the agent does.
        #[default]
        Info = "info",
        /// Why it does it.
        Debug = "debug",
        /// Every message and sample.
        Trace = "trace",
    }
}
choice! {
    /// The layout of a log line.
    LogFormat {
        /// For people.
        #[default]
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}
