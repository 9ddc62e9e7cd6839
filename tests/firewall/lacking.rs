//! Kernels that lack what enforcement is built on.

use edge_warden::firewall::probe;

use crate::support::site::{Options, Site};

#[test]
fn this_kernel_lacks_nothing_we_build_on() {
    let site = Site::build(Options::default());
    let lacks = site.gateway().enter(|| probe().unwrap());
    assert_eq!(lacks, []);
    assert_eq!(
        site.gateway()
            .shell("nft list tables | grep -c edge_warden || true")
            .trim(),
        "0"
    );
}
