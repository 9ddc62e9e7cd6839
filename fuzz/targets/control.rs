//! A question on the control socket.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = serde_json::from_slice::<edge_warden::control::Request>(data);
});
