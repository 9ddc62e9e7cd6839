//! Connection tracking and `sock_diag`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    edge_warden::fuzzing::netlink_conntrack(data);
});
