//! `/proc/net/arp`, routes, name servers.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    edge_warden::fuzzing::proc_neighbours(data);
});
