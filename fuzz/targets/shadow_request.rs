//! Shadow requests and documents of the stand-in.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    edge_warden::fuzzing::shadow_document(data);
});
