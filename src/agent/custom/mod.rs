//! Custom metrics as the agent knows them.

use std::collections::BTreeMap;

use crate::model::{CustomValue, ThingName};

/// The custom metrics of one sample. A metric that could not be measured is in none of the maps.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CustomReadings {
    /// The core's, by name.
    pub core: BTreeMap<String, CustomValue>,
    /// Those each local thing has of its own, by thing and name.
    pub things: BTreeMap<ThingName, BTreeMap<String, CustomValue>>,
}
