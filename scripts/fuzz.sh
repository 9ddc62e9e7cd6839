#!/usr/bin/env bash
# Builds the fuzz targets with the toolchain at hand (no nightly, no cargo-fuzz) and runs each for a while.
# Usage: fuzz.sh SECONDS [TARGET...]   or   fuzz.sh --runs N [TARGET...]
# Findings are written to target/fuzz/findings; a finding becomes a test, its input goes into fuzz/corpus/TARGET.
set -euo pipefail
cd "$(dirname "$0")/.."

limit=-max_total_time=${1:?seconds, or --runs N}
shift
if [ "$limit" = -max_total_time=--runs ]; then limit=-runs=$1; shift; fi
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(cd fuzz/targets && ls -- *.rs | sed 's/\.rs$//')

# what cargo-fuzz passes for coverage, without a sanitizer: there is no unsafe code in the parsers
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=16"
host=$(rustc -vV | sed -n 's/^host: //p')
# with --target, build scripts and macros stay without instrumentation
cargo build --quiet --release --manifest-path fuzz/Cargo.toml --target-dir target/fuzz --target "$host"

mkdir -p target/fuzz/findings
for target in "${targets[@]}"; do
    found=target/fuzz/corpus/$target
    mkdir -p "$found" "fuzz/corpus/$target"
    log=target/fuzz/$target.log
    if ! "target/fuzz/$host/release/$target" "$limit" -max_len=4096 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 \
        -artifact_prefix="target/fuzz/findings/$target-" "$found" "fuzz/corpus/$target" >"$log" 2>&1; then
        tail -n 40 "$log"
        echo "fuzz: $target: a finding in target/fuzz/findings" >&2
        exit 1
    fi
    printf 'fuzz: %-16s %s executions, %s coverage points\n' "$target" \
        "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")" \
        "$(sed -n 's/.* cov: \([0-9]*\).*/\1/p' "$log" | tail -n 1)"
done
