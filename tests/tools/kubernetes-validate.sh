#!/usr/bin/env bash
# kubernetes-validate: checks manifests against the API's own schemas, without a cluster.
# Prints the folder; run it as `PYTHONPATH=<folder>/lib python3 -m kubernetes_validate`.
source "$(dirname "$0")/common.sh"
version=1.37.0

install() { python_packages "$1/lib" "kubernetes-validate==$version"; }

install_tool "kubernetes-validate-$version" install
