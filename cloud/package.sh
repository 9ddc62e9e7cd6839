#!/usr/bin/env bash
# Builds the mitigation function for AWS Lambda (provided.al2023): target/cloud/edge-warden-mitigation.zip
# Static, so the C library of the build machine does not matter; for the processor of this machine.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
target=$(uname -m)-unknown-linux-gnu
(
    cd cloud/mitigation
    export CARGO_TARGET_DIR=$root/target/cloud RUSTFLAGS="-C target-feature=+crt-static"
    cargo build --release --locked --target "$target"
)
zip=target/cloud/edge-warden-mitigation.zip
python3 - "target/cloud/$target/release/bootstrap" "$zip" <<'END'
import sys, zipfile
binary, path = sys.argv[1:]
entry = zipfile.ZipInfo("bootstrap", (1980, 1, 1, 0, 0, 0))  # the same content makes the same archive
entry.external_attr = 0o755 << 16
entry.compress_type = zipfile.ZIP_DEFLATED
with zipfile.ZipFile(path, "w") as archive, open(binary, "rb") as code:
    archive.writestr(entry, code.read())
END
echo "package.sh: $zip ($(stat -c %s "$zip") bytes), Architecture $(uname -m | sed s/aarch64/arm64/)"
