//! What several integration tests share; each test binary uses its own part of it.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of this")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test may stop at the first surprise"
)]

pub mod binary;
pub mod netns;
pub mod nucleus;
pub mod services;
pub mod site;
pub mod warden;
