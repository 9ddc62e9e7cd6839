#!/usr/bin/env bash
# Installs what a fresh Debian or Ubuntu lacks, and nothing when everything is there.
# Usage: setup.sh [build] [cross] [fuzz] [site] [cloud] [test] [venv] [release]
set -euo pipefail
cd "$(dirname "$0")/.."

minimum_rust=1.95

say() { printf 'setup: %s\n' "$*"; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
has() { command -v "$1" >/dev/null 2>&1; }

updated=
install_packages() {
    [ $# -gt 0 ] || return 0
    if ! has apt-get; then
        say "this is no Debian or Ubuntu; please install by hand: $*" >&2
        exit 1
    fi
    say "installing $*"
    if [ -z "$updated" ]; then as_root apt-get update -qq; updated=yes; fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

newer_than_minimum() { # is the version $1 at least $minimum_rust?
    [ "$(printf '%s\n%s\n' "$minimum_rust" "$1" | sort -V | head -n 1)" = "$minimum_rust" ]
}

install_rust() {
    if has cargo && newer_than_minimum "$(rustc --version | cut -d' ' -f2)"; then return; fi
    say "Rust $minimum_rust or newer is missing"
    as_root apt-get update -qq; updated=yes
    local candidate
    candidate=$(apt-cache policy rustc-web 2>/dev/null | sed -n 's/ *Candidate: \([0-9.]*\).*/\1/p')
    if [ -n "$candidate" ] && newer_than_minimum "$candidate"; then
        install_packages rustc-web cargo-web rustfmt-web rust-web-clippy
    elif apt-cache show rustup >/dev/null 2>&1; then
        install_packages rustup
        rustup toolchain install stable --profile minimal --component rustfmt --component clippy
    else
        say "neither the packages rustc-web/cargo-web nor rustup offer Rust $minimum_rust here; install it by hand" >&2
        exit 1
    fi
}

setup_build() {
    local missing=()
    has cc || missing+=(gcc libc6-dev)
    # bindgen loads libclang and reads the compiler's own headers (stdbool.h).
    if ! ls /usr/lib/llvm-*/lib/libclang*.so* >/dev/null 2>&1; then
        # the default LLVM of this release: Debian 12 calls it libclang1-14, others differ
        if [ "$(. /etc/os-release && echo "${VERSION_CODENAME:-}")" = bookworm ]; then
            missing+=(libclang1-14 libclang-common-14-dev)
        else
            missing+=(libclang-dev)
        fi
    fi
    [ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
    has file || missing+=(file)
    install_packages "${missing[@]}"
    install_rust
}

setup_cross() { # binaries for the architectures this machine is not
    local missing=() architectures=()
    while read -r machine compiler libc target; do
        [ "$machine" != "$(uname -m)" ] || continue
        has "$compiler" || missing+=("$(echo "gcc-${compiler%-gcc}" | tr _ -)")
        dpkg-query -W "$libc" >/dev/null 2>&1 || missing+=("$libc")
        architectures+=("$target")
    done <<'END'
x86_64 x86_64-linux-gnu-gcc libc6-dev-amd64-cross x86_64-unknown-linux-gnu
aarch64 aarch64-linux-gnu-gcc libc6-dev-arm64-cross aarch64-unknown-linux-gnu
armv7l arm-linux-gnueabihf-gcc libc6-dev-armhf-cross armv7-unknown-linux-gnueabihf
END
    # Debian's Rust has the standard library of its own architecture only; build.sh makes the others from the source
    rustup_is_used || [ -e "$(rustc --print sysroot)/lib/rustlib/src/rust/library/Cargo.toml" ] || missing+=(rust-web-src)
    install_packages "${missing[@]}"
    mkdir -p target
    rm -f target/cross-unavailable
    if rustup_is_used && ! rustup --quiet target add "${architectures[@]}"; then
        # no network to where rustup gets them: the rest of the tests is worth running all the same
        say "the standard libraries of ${architectures[*]} cannot be fetched" | tee target/cross-unavailable >&2
    fi
}

rustup_is_used() { has rustup && rustup which rustc >/dev/null 2>&1; }

setup_site() { # what a site of network namespaces is made with
    local missing=()
    has nft || [ -x /usr/sbin/nft ] || missing+=(nftables)
    has ip || [ -x /sbin/ip ] || missing+=(iproute2)
    has ethtool || [ -x /sbin/ethtool ] || missing+=(ethtool)
    has ping || missing+=(iputils-ping)
    install_packages "${missing[@]}"
}

setup_cloud() { # what cloud/package.sh makes the archive with
    has python3 || install_packages python3-minimal
}

setup_fuzz() { # libFuzzer is C++
    has c++ || install_packages g++
}

setup_test() {
    setup_site
    local missing=()
    has conntrack || [ -x /usr/sbin/conntrack ] || missing+=(conntrack)
    has tcpdump || [ -x /usr/bin/tcpdump ] || missing+=(tcpdump)
    has dnsmasq || [ -x /usr/sbin/dnsmasq ] || missing+=(dnsmasq-base)
    # binaries for other architectures run in an emulator
    has qemu-aarch64-static && has qemu-arm-static || missing+=(qemu-user-static)
    # compose.yaml is read by the program it is for
    docker compose version >/dev/null 2>&1 || has docker-compose || missing+=(docker-compose)
    # the demo's page is opened in a browser
    has chromium || missing+=(chromium)
    has udhcpc || [ -x /sbin/udhcpc ] || missing+=(udhcpc)
    has systemd-analyze || missing+=(systemd)
    has openssl || missing+=(openssl)
    # the agent's system calls are compared with the list of those it may make
    has strace || missing+=(strace)
    if has mosquitto || [ -x /usr/sbin/mosquitto ]; then
        install_packages "${missing[@]}"
    else
        install_packages "${missing[@]}" mosquitto
        # the tests start brokers of their own; the package's one must not stay behind on a person's machine
        if has systemctl; then as_root systemctl disable --now mosquitto >/dev/null 2>&1 || true; fi
    fi
}

setup_venv() {
    local wanted=(tests/cross/requirements.txt cloud/requirements.txt) stamp=.venv/.installed
    if cmp -s <(cat "${wanted[@]}") "$stamp"; then return; fi
    if ! python3 -m venv --help >/dev/null 2>&1 || ! python3 -c 'import ensurepip' >/dev/null 2>&1; then
        install_packages python3-venv
    fi
    say "creating .venv with the Python packages the tests use"
    rm -rf .venv
    python3 -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check "${wanted[@]/#/--requirement=}"
    cat "${wanted[@]}" > "$stamp"
}

setup_release() { # what `make release` needs beside the compiler
    for tool in cargo-deny cargo-cyclonedx; do
        if has "$tool"; then continue; fi
        say "installing $tool (compiles for some minutes)"
        cargo install --quiet --locked "$tool"
    done
}

for part in "${@:-build}"; do
    case $part in
        build | cross | fuzz | site | cloud | test | venv | release) "setup_$part" ;;
        *) say "unknown part $part (build, cross, fuzz, site, cloud, test, venv, release)" >&2; exit 2 ;;
    esac
done
