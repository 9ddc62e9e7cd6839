//! (being written) The LAN and the local things behind it.

pub mod lan;
