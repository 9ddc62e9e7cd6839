#!/usr/bin/env bash
# Every test of the AWS side: lints and unit tests of the function, the template's rules, the function against moto, and
# from an alarm to a cut device (root, for network namespaces). Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
target=$(uname -m)-unknown-linux-gnu
venv=target/cloud-venv

"$root"/scripts/setup.sh build test

# The Python packages come from the network while the processor builds.
install_packages() {
    if cmp -s cloud/requirements.txt "$venv/.installed"; then return; fi
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        "$root"/scripts/as-root.sh apt-get install -y -qq --no-install-recommends python3-venv >/dev/null
    fi
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r cloud/requirements.txt
    cp cloud/requirements.txt "$venv/.installed"
}
mkdir -p target
install_packages & packages=$!

# clippy-driver in the compiler's place lints this crate in the same pass: `cargo clippy` would compile the AWS SDK a
# second time. Packaged first, so what is tested is what would be deployed, but for the optimisation.
(
    export RUSTC_WORKSPACE_WRAPPER=clippy-driver
    export CLIPPY_ARGS="-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__"
    export CARGO_TARGET_DIR=$root/target/cloud RUSTFLAGS="-C target-feature=+crt-static"
    cloud/package.sh dev
    cd cloud/mitigation
    cargo fmt --check
    cargo test --locked --quiet --target "$target"
)
export MITIGATION_BINARY=$root/target/cloud/$target/debug/bootstrap

# The gateway's program: the packaged one where it was built, as by `make test`, else a debug build.
if [ -z "${EDGE_WARDEN_BINARY:-}" ]; then
    EDGE_WARDEN_BINARY=$root/target/$target/release/edge-warden
    if [ ! -x "$EDGE_WARDEN_BINARY" ]; then
        cargo build --locked --quiet
        EDGE_WARDEN_BINARY=$root/target/debug/edge-warden
    fi
fi
export EDGE_WARDEN_BINARY

wait "$packages"
exec scripts/as-root.sh env MITIGATION_BINARY="$MITIGATION_BINARY" EDGE_WARDEN_BINARY="$EDGE_WARDEN_BINARY" \
    PYTHONDONTWRITEBYTECODE=1 "$venv/bin/python" -m pytest -q -p no:cacheprovider --durations=5 --show-capture=no \
    cloud/tests "$@"
