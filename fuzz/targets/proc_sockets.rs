//! Rows of `/proc/net/{tcp,udp,dev,ipv6_route}`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    edge_warden::fuzzing::proc_sockets(data);
});
