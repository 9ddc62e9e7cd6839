//! Device Defender's answer, in both encodings, and a topic.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    edge_warden::fuzzing::reply(data);
});
