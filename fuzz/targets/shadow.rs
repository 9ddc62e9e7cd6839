//! Shadow documents: what is desired, as the quarantine hears it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = edge_warden::quarantine::ShadowReading::parse(data);
});
