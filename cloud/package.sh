#!/usr/bin/env bash
# Builds the mitigation function for AWS Lambda (provided.al2023): target/cloud/edge-warden-mitigation.zip
# Static, so the C library of the build machine does not matter; for the processor of this machine.
# Usage: package.sh [PROFILE]: release, or dev as the tests do
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
profile=${1:-release}
target=$(uname -m)-unknown-linux-gnu
folder=target/cloud/$target/${profile/#dev/debug}
zip=target/cloud/edge-warden-mitigation.zip
[ "$profile" = dev ] && zip=target/cloud/edge-warden-mitigation-dev.zip

(
    cd cloud/mitigation
    export CARGO_TARGET_DIR=$root/target/cloud RUSTFLAGS="-C target-feature=+crt-static"
    cargo build --quiet --locked --profile "$profile" --target "$target"
)
python3 - "$folder/bootstrap" "$zip" <<'END'
import sys, zipfile
binary, path = sys.argv[1:]
entry = zipfile.ZipInfo("bootstrap", (1980, 1, 1, 0, 0, 0))  # the same content makes the same archive
entry.external_attr = 0o755 << 16
entry.compress_type = zipfile.ZIP_DEFLATED
with zipfile.ZipFile(path, "w") as archive, open(binary, "rb") as code:
    archive.writestr(entry, code.read())
END
echo "package.sh: $zip ($(stat -c %s "$zip") bytes), Architecture $(uname -m | sed s/aarch64/arm64/)"
