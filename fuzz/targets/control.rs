//! A question on the control socket, and an answer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    edge_warden::fuzzing::control(data);
});
