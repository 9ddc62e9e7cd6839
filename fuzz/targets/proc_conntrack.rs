//! Rows of `/proc/net/nf_conntrack`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    edge_warden::fuzzing::proc_conntrack(data);
});
