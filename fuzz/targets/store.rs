//! A slot of stored decisions, with the frame around it as the file has it, and as if the checksum were right.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    edge_warden::fuzzing::store(data);
});
