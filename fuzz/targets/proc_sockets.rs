//! `/proc/net/{tcp,udp,dev,ipv6_route}`: rows of the kernel, and of kernels that write them differently.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    edge_warden::fuzzing::proc_net(data);
});
