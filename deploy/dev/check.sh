#!/usr/bin/env bash
# `make check`: formatting, lint, licences, dependencies. Expects what `deploy/dev/setup.sh toolchain protoc deny` leaves.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

say() { printf 'check: %s\n' "$*"; }

say formatting
cargo fmt --all --check
cargo fmt --manifest-path deploy/dev/protoc/Cargo.toml --check

lint=$(.ci/run --lint-toolchain)
have=$(rustc --version | cut -d' ' -f2)
if [ "${have%.*}" = "$lint" ]; then
    say 'lint, warnings are errors'
    cargo clippy --workspace --all-targets --locked -- -D warnings
else
    say "lint; warnings are errors only on Rust $lint, this is $have"
    cargo clippy --workspace --all-targets --locked
fi

# Nobody else builds them, so that a change of what they call goes unseen until the next fuzzing.
say 'fuzz targets'
RUSTFLAGS='--cfg fuzzing' cargo check --quiet --manifest-path tests/fuzz/Cargo.toml --locked --bins

say 'bans, licences, sources'
.tools/bin/cargo-deny --log-level error --locked check bans licenses sources

# The database lies on GitHub. Where that is out of reach the rest still counts; that nothing was checked is said aloud.
say advisories
if GIT_TERMINAL_PROMPT=0 timeout 60 .tools/bin/cargo-deny --log-level error --locked fetch db; then
    .tools/bin/cargo-deny --log-level error --locked check --disable-fetch advisories
else
    say 'NOT CHECKED: the advisory database could not be fetched; whether a dependency has a known hole is unknown'
fi
