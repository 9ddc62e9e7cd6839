#!/usr/bin/env bash
# Every test of the AWS side: lints and unit tests of the function, the template's rules, the function against moto, and
# from an alarm to a cut device (root, for network namespaces).
# Usage: test.sh build: build the function and test it by itself; what takes long and needs no gateway
#        test.sh [PYTEST ARGUMENT...]: that, and everything else
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
target=$(uname -m)-unknown-linux-gnu
python=.venv/bin/python

# clippy-driver in the compiler's place lints this crate in the same pass: `cargo clippy` would compile the AWS SDK a
# second time. Packaged first, so what is tested is what would be deployed, but for the optimisation.
(
    export RUSTC_WORKSPACE_WRAPPER=clippy-driver
    export CLIPPY_ARGS="-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__"
    export CARGO_TARGET_DIR=$root/target/cloud RUSTFLAGS="-C target-feature=+crt-static"
    make cloud-package CLOUD_PROFILE=dev
    cd cloud/mitigation
    cargo fmt --check
    cargo test --locked --quiet --target "$target"
)
[ "${1:-}" != build ] || exit 0
export MITIGATION_BINARY=$root/target/cloud/$target/debug/bootstrap

if [ ! -x "$python" ]; then
    echo "cloud/test.sh: no .venv; make cloud-test makes it" >&2
    exit 1
fi

# The gateway's program: the packaged one where it was built, as by `make test`, else a debug build.
if [ -z "${EDGE_WARDEN_BINARY:-}" ]; then
    EDGE_WARDEN_BINARY=$root/target/$target/release/edge-warden
    if [ ! -x "$EDGE_WARDEN_BINARY" ]; then
        cargo build --locked --quiet
        EDGE_WARDEN_BINARY=$root/target/debug/edge-warden
    fi
fi
export EDGE_WARDEN_BINARY

exec scripts/as-root.sh env MITIGATION_BINARY="$MITIGATION_BINARY" EDGE_WARDEN_BINARY="$EDGE_WARDEN_BINARY" \
    PYTHONDONTWRITEBYTECODE=1 "$python" -m pytest -q -p no:cacheprovider --durations=5 --show-capture=no \
    cloud/tests "$@"
