#!/usr/bin/env bash
# What stands behind a release: the licences and sources of everything inside, a bill of materials, and a binary that
# comes out the same twice. Builds the last commit, not the working tree. Ends with target/release-artifacts/.
# Usage: release.sh [ARCHITECTURE...]          as build.sh; without arguments for this machine only
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
out=target/release-artifacts
say() { printf 'release: %s\n' "$*"; }

[ -z "$(git status --porcelain)" ] || say "there are changes that are not committed; they are not in this release" >&2
# times in what is written are the commit's
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH

say "licences, banned crates, sources"
cargo deny --locked check --hide-inclusion-graph licenses bans sources
if cargo deny --locked fetch db 2>target/advisories.log; then
    say "known vulnerabilities"
    cargo deny --locked check --disable-fetch advisories
    advisories=checked
else
    advisories="NOT checked: the database of advisories cannot be fetched here (target/advisories.log)"
    say "$advisories" >&2
fi

# In two folders whose names differ in length, with caches of their own: nothing of the place may be in the binary.
built=()
for place in target/release-build/first target/release-build/and-the-second; do
    say "building in $place"
    rm -rf "$place"
    mkdir -p "$place"
    git archive HEAD | tar -x -C "$place"
    (cd "$place" && env -u CARGO_TARGET_DIR ./build.sh "$@")
    built+=("$place/greengrass-build/artifacts")
done
if ! diff --brief --recursive "${built[@]}"; then
    say "the two builds differ" >&2
    exit 1
fi
say "the two builds are the same, byte for byte"

rm -rf "$out"
mkdir -p "$out"
find "${built[0]}" -type f -name 'edge-warden-*' -exec install -m 0755 -t "$out" {} +
cp target/release-build/first/greengrass-build/recipes/recipe.yaml "$out"

say "bill of materials (CycloneDX)"
(cd target/release-build/first && cargo cyclonedx --quiet --format json --spec-version 1.5 --all \
    --override-filename "edge-warden-$version.cdx")
mv "target/release-build/first/edge-warden-$version.cdx.json" "$out"

for binary in "$out"/edge-warden-*; do
    case $binary in *.json) continue ;; esac
    scripts/hardening.sh "$binary"
done
(cd "$out" && sha256sum -- * >SHA256SUMS)
say "$out:"
cat "$out/SHA256SUMS"
say "known vulnerabilities: $advisories"
