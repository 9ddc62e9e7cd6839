//! What the agent says about itself.

use serde_json::{Value, json};

use super::Agent;
use super::clock::Clock;
use crate::greengrass::{NucleusKind, sdk};

impl<C: Clock> Agent<C> {
    pub(super) fn status(&self) -> Value {
        let now = self.clock.monotonic();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "thing": self.core,
            "nucleus": match self.kind {
                NucleusKind::Classic => "classic",
                NucleusKind::Lite => "lite",
                NucleusKind::Standalone => "standalone",
            },
            "upSeconds": now.since(self.started).as_secs(),
            "time": self.clock.wall(),
            "samples": self.samples,
            "stateDir": self.state_dir,
            "reports": self.reporting.status(now),
            "site": self.site.status(),
            "customMetrics": self.custom.status(),
            "subscriptions": self.subscriptions.status(),
            "quarantine": self.warden.status(),
            "detect": self.detecting.status(),
            "shadows": self.shadows.status(),
            "droppedMessages": self.link.dropped(),
            "unreadableMessages": sdk::unreadable_messages(),
            "privileges": self.reload.privileges(&self.config),
            "configuration": {"effective": self.config.effective(), "reload": self.reload.status()},
        })
    }
}
