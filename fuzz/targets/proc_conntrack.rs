//! `/proc/net/nf_conntrack`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = edge_warden::collect::conntrack::parse_table(data, |_| {});
});
