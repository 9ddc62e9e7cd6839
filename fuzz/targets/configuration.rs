//! The configuration, as file and as component configuration.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    edge_warden::fuzzing::configuration(data);
});
