//! Messages of the nucleus, behind the SDK's own reader.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    edge_warden::fuzzing::ipc(data);
});
