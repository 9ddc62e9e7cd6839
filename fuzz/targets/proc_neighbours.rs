//! `/proc/net/arp`, routes and resolv.conf.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    edge_warden::fuzzing::neighbours(data);
});
