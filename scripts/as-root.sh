#!/usr/bin/env bash
# Runs a command as root: the kernel tests make network namespaces.
set -euo pipefail
if [ "$(id -u)" = 0 ]; then exec "$@"; fi
exec sudo --preserve-env=PATH,HOME,CARGO_HOME,RUSTUP_HOME,RUSTUP_TOOLCHAIN -- "$@"
