#!/usr/bin/env bash
# `make fuzz`: builds the fuzz targets and runs each for SECONDS. Expects what `deploy/dev/setup.sh protoc fuzz` leaves.
#
#   tests/fuzz/run.sh SECONDS [TARGET...]
#
# A run begins with tests/fuzz/seeds and with what earlier runs found (tests/fuzz/corpus, not in git). The first input that
# fails ends it: libFuzzer leaves it in tests/fuzz/artifacts and says how to run it again. Its cure comes with a unit test.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PATH=$PWD/.tools/bin:$PATH

readonly LIMITS=(-timeout=10 -rss_limit_mb=1024 -max_len=4096 -len_control=0 -print_final_stats=1)
# No address sanitizer: what is fuzzed is safe Rust, where overflow checks and debug assertions see more, at twice the speed.
readonly HOW=(--fuzz-dir tests/fuzz --sanitizer none)

seconds=${1:?seconds for each target}
shift
[ $# -gt 0 ] || set -- $(cargo +nightly fuzz list --fuzz-dir tests/fuzz)

nice cargo +nightly fuzz build "${HOW[@]}"
mkdir -p tests/fuzz/corpus/config
cp deploy/agent.yaml tests/fuzz/corpus/config/shipped
for target in "$@"; do
    corpora=("tests/fuzz/corpus/$target")
    [ ! -d "tests/fuzz/seeds/$target" ] || corpora+=("tests/fuzz/seeds/$target")
    mkdir -p "${corpora[0]}"
    printf 'fuzz: %s for %s s\n' "$target" "$seconds"
    nice cargo +nightly fuzz run "${HOW[@]}" "$target" "${corpora[@]}" -- -max_total_time="$seconds" "${LIMITS[@]}" \
        2> >(grep -E --line-buffered 'panicked|ERROR|SUMMARY|artifact|^stat::(number_of_executed_units|peak_rss)|^[[:space:]]+at \./' >&2)
done
