//! The shipped program in the gateway of a site in network namespaces, with real devices, services and traffic. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may stop at the first surprise"
)]

mod support;

/// One file per subject.
mod site {
    mod agent;
    mod connections;
    mod counting;
    mod many;
    mod names;
    mod registration;
    mod reports;
    mod strangers;
}
