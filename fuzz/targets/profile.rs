//! A security profile, and what it then does with values at the edge of their range.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    edge_warden::fuzzing::profile(data);
});
