#!/usr/bin/env bash
# Builds the fuzz targets with the toolchain at hand (no nightly, no cargo-fuzz) and runs each for a while, from the inputs
# in fuzz/corpus on. What it learns stays in target/fuzz/corpus; a finding is written to target/fuzz/findings.
# Usage: fuzz.sh SECONDS [TARGET...]   or   fuzz.sh --runs N [TARGET...]
# See docs/fuzzing.md.
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
[ -n "${FUZZ_BUILT:-}" ] ||
    cargo build --quiet --release --locked --manifest-path fuzz/Cargo.toml --target-dir target/fuzz --target "$host"

longest() { # the most bytes of one input: as large as its parts have to be to say everything
    case $1 in
        netlink_nftables) echo 4096 ;;
        configuration | netlink_* | profile) echo 2048 ;;
        *) echo 1024 ;;
    esac
}

mkdir -p target/fuzz/findings
for target in "${targets[@]}"; do
    found=target/fuzz/corpus/$target
    mkdir -p "$found"
    log=target/fuzz/$target.log
    if ! "target/fuzz/$host/release/$target" "$limit" -max_len="$(longest "$target")" -timeout=10 -rss_limit_mb=1024 \
        -print_final_stats=1 -artifact_prefix="target/fuzz/findings/$target-" "$found" "fuzz/corpus/$target" \
        >"$log" 2>&1; then
        tail -n 40 "$log"
        echo "fuzz: $target: a finding in target/fuzz/findings" >&2
        exit 1
    fi
    printf 'fuzz: %-17s %9s executions, %5s s, coverage %s with the stored inputs, %s at the end\n' "$target" \
        "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")" \
        "$(sed -n 's/^Done .* in \([0-9]*\) second.*/\1/p' "$log")" \
        "$(sed -n 's/.*INITED cov: \([0-9]*\).*/\1/p' "$log")" \
        "$(sed -n 's/.* cov: \([0-9]*\).*/\1/p' "$log" | tail -n 1)"
done
