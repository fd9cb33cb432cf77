#!/usr/bin/env bash
# make bench: strongroom beside stock restic and rustic, and beside pgBackRest and pg_basebackup, on the same data, in the same
# run, in turn.
#
#   tests/bench/bench.sh [--quick] [--only files,dump,million,physical] [--stores local,s3] [--rounds N] [--corpus-gb N] [--json FILE]
#     [--scale N] [--level N] [--segments N] [--segment-mib N] [--peer-cipher] [--skip base,wal,within,day,tebibyte]      (of `physical`)
#
# Needs about four times the corpus of free disk below $STRONGROOM_CACHE, and for `physical` about 20 GB below $TMPDIR. STRONGROOM_BIN: use
# this binary, and strongroom-client beside it, instead of building.
# Nothing else should run on the machine; where something does, trust the ratios (medians over rounds), not the seconds.
set -euo pipefail
cd "$(dirname "$0")/../.."
export STRONGROOM_CACHE=${STRONGROOM_CACHE:-$HOME/.cache/strongroom}

if [ -z "${STRONGROOM_BIN:-}" ]; then
    cargo build --locked --release --bin strongroom --example primitives --example tebibyte --example stream
    cargo build --locked --release -p strongroom-client
    STRONGROOM_BIN=${CARGO_TARGET_DIR:-$PWD/target}/release/strongroom
fi
export STRONGROOM_BIN
tests/tools/restic.sh >/dev/null
tests/tools/rustic.sh >/dev/null
tests/tools/seaweedfs.sh >/dev/null
tests/tools/pgbackrest.sh >/dev/null
POSTGRES=$(tests/tools/postgres.sh 17)
export POSTGRES
exec python3 tests/bench/bench.py "$@"
