#!/usr/bin/env bash
# Builds the static release binary and lays recipe and artifacts out where `gdk component publish` expects them.
# `gdk component build` runs this in the project root and does nothing else (custom build).
set -euo pipefail
cd "$(dirname "$0")"

component=dev.edgewarden.EdgeWarden
# gdk makes the folder under the version gdk-config.json names, which may be the word NEXT_PATCH
version=$(sed -n 's/^ *"version": *"\(.*\)".*/\1/p' gdk-config.json | head -n 1)
machine=$(uname -m)
case $machine in
    x86_64) architecture=amd64 ;;
    aarch64) architecture=aarch64 ;;
    armv7l) architecture=arm ;;
    *) echo "build.sh: no packaged build for $machine yet" >&2; exit 1 ;;
esac
target=$machine-unknown-linux-gnu
[ "$machine" = armv7l ] && target=armv7-unknown-linux-gnueabihf

# Static needs an explicit --target: otherwise build scripts and proc-macros, which load shared libraries, would be
# linked statically too and fail.
RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" cargo build --release --locked --target "$target"

recipes=greengrass-build/recipes
artifacts=greengrass-build/artifacts/$component/$version
mkdir -p "$recipes" "$artifacts"
install -m 0755 "target/$target/release/edge-warden" "$artifacts/edge-warden-$architecture"
cp recipe/recipe.yaml "$recipes/recipe.yaml"
echo "build.sh: $artifacts/edge-warden-$architecture ($(stat -c %s "$artifacts/edge-warden-$architecture") bytes)"
