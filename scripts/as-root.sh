#!/usr/bin/env bash
# Runs a command as root: the kernel tests make network namespaces.
set -euo pipefail
if [ "$(id -u)" = 0 ]; then exec "$@"; fi
if ! command -v sudo >/dev/null; then
    echo "this needs root (it makes network namespaces), and there is no sudo here: run it as root" >&2
    exit 1
fi
exec sudo --preserve-env=PATH,HOME,CARGO_HOME,RUSTUP_HOME,RUSTUP_TOOLCHAIN -- "$@"
