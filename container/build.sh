#!/usr/bin/env bash
# Builds the image with whichever of docker, podman and buildah is installed.
#
#   container/build.sh [--tag NAME] [--binary FILE] [--tool docker|podman|buildah] [BUILD OPTIONS…]
#
#   --tag NAME      default strongroom:<version in Cargo.toml>
#   --binary FILE   take this binary instead of compiling one (it must run in the base image)
#   BUILD OPTIONS   handed to the tool, e.g. --build-arg BASE_IMAGE=debian:trixie-slim, --build-arg PG_CLIENTS=distribution,
#                   --build-arg PG_MAJORS="16 17", --build-arg BUILD_IMAGE=…, --platform …
set -euo pipefail
cd "$(dirname "$0")/.."

version=$(awk -F '"' '/^version/ { print $2; exit }' Cargo.toml)
tag=strongroom:$version
binary=
tool=
while [ $# -gt 0 ]; do
    case $1 in
        --tag) tag=$2; shift 2 ;;
        --binary) binary=$2; shift 2 ;;
        --tool) tool=$2; shift 2 ;;
        -h | --help) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) break ;;
    esac
done
if [ -z "$tool" ]; then
    for tool in docker podman buildah none; do command -v "$tool" >/dev/null && break; done
fi
[ "$tool" != none ] || { echo "error: none of docker, podman and buildah is installed" >&2; exit 1; }

# The binary travels inside the build context, and not a byte longer than the build.
trap 'rm -rf container/prebuilt' EXIT
rm -rf container/prebuilt
[ -z "$binary" ] || install -D "$binary" container/prebuilt/strongroom
# The client is small, and built here it needs no compiler in the image.
[ -z "$binary" ] || container/client.sh container/prebuilt/strongroom-client

# BUILDAH_OPTIONS: global options (storage driver and root), for machines without a set-up container store.
# shellcheck disable=SC2086
case $tool in
    buildah) buildah ${BUILDAH_OPTIONS:-} bud -f container/Dockerfile --build-arg "VERSION=$version" -t "$tag" "$@" . ;;
    *) "$tool" build -f container/Dockerfile --build-arg "VERSION=$version" -t "$tag" "$@" . ;;
esac
echo "built $tag"
