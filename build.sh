#!/usr/bin/env bash
# Builds static release binaries and lays recipe and artifacts out where `gdk component publish` expects them.
# `gdk component build` runs this in the project root and does nothing else (custom build).
#
# Usage: build.sh [all | ARCHITECTURE...]      architectures as Greengrass calls them: amd64 aarch64 arm
# Without arguments for this machine only. PROFILE=name builds another cargo profile into target/ and lays nothing out.
set -euo pipefail
cd "$(dirname "$0")"

component=dev.edgewarden.EdgeWarden
profile=${PROFILE:-release}
# gdk makes the folder under the version gdk-config.json names, which may be the word NEXT_PATCH
version=$(sed -n 's/^ *"version": *"\(.*\)".*/\1/p' gdk-config.json | head -n 1)

architecture_of() { # what `uname -m` says, in Greengrass's words
    case $1 in
        x86_64) echo amd64 ;;
        aarch64) echo aarch64 ;;
        armv7l) echo arm ;;
        *) echo "build.sh: no packaged build for $1" >&2; return 1 ;;
    esac
}
target_of() {
    case $1 in
        amd64) echo x86_64-unknown-linux-gnu ;;
        aarch64) echo aarch64-unknown-linux-gnu ;;
        arm) echo armv7-unknown-linux-gnueabihf ;;
        *) echo "build.sh: no architecture $1 (amd64, aarch64, arm)" >&2; return 1 ;;
    esac
}
compiler_of() { # Debian's cross compiler
    case $1 in
        amd64) echo x86_64-linux-gnu-gcc ;;
        aarch64) echo aarch64-linux-gnu-gcc ;;
        arm) echo arm-linux-gnueabihf-gcc ;;
    esac
}

host=$(architecture_of "$(uname -m)")
wanted=("$@")
[ $# -gt 0 ] || wanted=("$host")
[ "${wanted[*]}" != all ] || wanted=(amd64 aarch64 arm)

native=() foreign=()
for architecture in "${wanted[@]}"; do
    target=$(target_of "$architecture")
    if [ "$architecture" = "$host" ]; then native+=(--target "$target"); continue; fi
    compiler=$(compiler_of "$architecture")
    if ! command -v "$compiler" >/dev/null; then
        echo "build.sh: $compiler is missing; scripts/setup.sh cross installs what other architectures need" >&2
        exit 1
    fi
    variable=${target//-/_}
    export "CARGO_TARGET_${variable^^}_LINKER=$compiler"
    foreign+=(--target "$target")
done

# Static needs an explicit --target: otherwise build scripts and proc-macros, which load shared libraries, would be
# linked statically too and fail.
# Unwind tables serve nobody where a panic aborts and symbols are stripped.
# Built anywhere, the bytes are the same: the names of places on this machine stay out (`make release` builds twice).
read -ra flags <<<"${RUSTFLAGS:-}"
flags+=(-C target-feature=+crt-static -C force-unwind-tables=no)
for place in "$PWD=edge-warden" "${CARGO_HOME:-${HOME:-}/.cargo}=cargo" "$(rustc --print sysroot)=rust"; do
    flags+=("--remap-path-prefix=$place")
done
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; printf '%s' "${flags[*]}")
export CARGO_ENCODED_RUSTFLAGS
if [ ${#native[@]} -gt 0 ]; then
    cargo build --profile "$profile" --locked "${native[@]}"
fi
if [ ${#foreign[@]} -gt 0 ]; then
    std=()
    if ! command -v rustup >/dev/null || ! rustup which rustc >/dev/null 2>&1; then
        # Debian's compiler comes with the standard library of its own architecture only, and with the source of all.
        export RUSTC_BOOTSTRAP=1
        std=(-Z "build-std=std,panic_abort")
    fi
    cargo build --profile "$profile" --locked "${std[@]}" "${foreign[@]}"
fi
[ "$profile" = release ] || exit 0

recipes=greengrass-build/recipes
artifacts=greengrass-build/artifacts/$component/$version
mkdir -p "$recipes" "$artifacts"
cp recipe/recipe.yaml "$recipes/recipe.yaml"
for architecture in "${wanted[@]}"; do
    artifact=$artifacts/edge-warden-$architecture
    install -m 0755 "target/$(target_of "$architecture")/release/edge-warden" "$artifact"
    echo "build.sh: $artifact ($(stat -c %s "$artifact") bytes)"
done
