//! What the integration tests share.
#![allow(unreachable_pub, reason = "every test binary includes this as a module of its own")]

pub mod binary;
pub mod nucleus;
