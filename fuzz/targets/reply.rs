//! Device Defender's answers, and topics.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    edge_warden::fuzzing::reply(data);
});
