//! The words every other module speaks: names, addresses, counters, samples. No I/O and no wire names.

mod address;
mod counters;
mod measured;
mod reading;
mod thing;
mod time;

pub use address::{MacAddress, MacAddressError};
pub use counters::Counters;
pub use measured::{Measured, Missing, Reason};
pub use reading::{Connection, CustomType, CustomValue, ListeningPort, ThingReading};
pub use thing::{ThingName, ThingNameError};
pub use time::{Monotonic, Now, UnixTime};
