#!/usr/bin/env bash
# make bench: strongroom beside stock restic and rustic, on the same data, in the same run, in turn.
#
#   tests/bench/bench.sh [--quick] [--only files,dump,million] [--stores local,s3] [--rounds N] [--corpus-gb N] [--json FILE]
#
# Needs about four times the corpus of free disk below $STRONGROOM_CACHE. STRONGROOM_BIN: use this binary instead of building.
# Nothing else should run on the machine; where something does, trust the ratios (medians over rounds), not the seconds.
set -euo pipefail
cd "$(dirname "$0")/../.."
export STRONGROOM_CACHE=${STRONGROOM_CACHE:-$HOME/.cache/strongroom}

if [ -z "${STRONGROOM_BIN:-}" ]; then
    cargo build --locked --release --bin strongroom --example primitives
    STRONGROOM_BIN=${CARGO_TARGET_DIR:-$PWD/target}/release/strongroom
fi
export STRONGROOM_BIN
tests/tools/restic.sh >/dev/null
tests/tools/rustic.sh >/dev/null
tests/tools/seaweedfs.sh >/dev/null
POSTGRES=$(tests/tools/postgres.sh 17)
export POSTGRES
exec python3 tests/bench/bench.py "$@"
