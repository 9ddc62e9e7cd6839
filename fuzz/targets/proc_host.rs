//! Processes, processor, memory, logins.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    edge_warden::fuzzing::proc_host(data);
});
