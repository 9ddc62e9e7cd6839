//! Shadow documents as the service keeps them.

use edge_warden::quarantine::ShadowReading;
use serde_json::{Value, json};

/// One shadow of one thing, as far as quarantine goes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Document {
    pub(crate) exists: bool,
    pub(crate) version: u64,
    /// When anybody last wrote it, seconds.
    pub(crate) time: u64,
    /// `desired.quarantine` and when it was written.
    pub(crate) desired: Option<(Value, u64)>,
}

impl Document {
    pub(crate) fn write(&mut self, desired: Option<Value>, time: u64) {
        self.touch(time);
        self.desired = desired.map(|value| (value, time));
    }

    /// A write that leaves the desired key alone: our own report.
    pub(crate) fn touch(&mut self, time: u64) {
        self.exists = true;
        self.version += 1;
        self.time = time;
    }

    /// Deleted: the version goes on counting for two days, then begins anew (AWS IoT, "Deleting a shadow").
    pub(crate) fn delete(&mut self, begin_anew: bool) {
        let version = if begin_anew { 0 } else { self.version + 1 };
        *self = Self {
            version,
            ..Self::default()
        };
    }

    pub(crate) fn reading(&self) -> ShadowReading {
        if !self.exists {
            return ShadowReading::NotFound;
        }
        let (mut desired, mut metadata) = (json!({"debug": "off"}), json!({}));
        if let Some((value, written)) = &self.desired {
            desired["quarantine"] = value.clone();
            metadata["quarantine"] = match value {
                Value::Object(leaves) => leaves
                    .keys()
                    .map(|key| (key.clone(), json!({"timestamp": written})))
                    .collect(),
                _ => json!({"timestamp": written}),
            };
        }
        let document = json!({"state": {"desired": desired}, "metadata": {"desired": metadata},
            "version": self.version, "timestamp": self.time});
        ShadowReading::parse(document.to_string().as_bytes()).expect("a document")
    }
}
