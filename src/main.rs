//! The `edge-warden` program.

fn main() {}
