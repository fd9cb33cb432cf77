#!/usr/bin/env bash
# Builds the client statically, so that it runs in any container of this architecture:  container/client.sh FILE
#
# With the musl target where it is installed (rustup target add …), else with the static form of the GNU C library.
set -euo pipefail
cd "$(dirname "$0")/.."

machine=$(uname -m)
target=$machine-unknown-linux-musl
if [ ! -d "$(rustc --print target-libdir --target "$target")" ]; then target=$machine-unknown-linux-gnu; fi
# A folder of its own: these flags must not make everything else be built anew.
RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --release -p strongroom-client --target "$target" --target-dir target/static
install -D "target/static/$target/release/strongroom-client" "$1"
