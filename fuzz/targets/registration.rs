//! What a client device registers: the first line is the topic's thing, the rest the message.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    edge_warden::fuzzing::registration(data);
});
