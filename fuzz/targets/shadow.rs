//! A shadow document, as the quarantine hears it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    edge_warden::fuzzing::shadow(data);
});
