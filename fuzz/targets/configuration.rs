//! A configuration as YAML, as JSON and as a nucleus gives it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    edge_warden::fuzzing::configuration(data);
});
