# `make help` lists what there is. Everything a target needs beyond Rust, Python 3, Node and a C compiler it installs by
# itself, once, into $STRONGROOM_CACHE (default ~/.cache/strongroom); nothing is left running.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export STRONGROOM_CACHE ?= $(HOME)/.cache/strongroom
# All that tests need; pgBackRest is the benchmark's alone.
TOOLS := $(filter-out tests/tools/common.sh tests/tools/pgbackrest.sh,$(wildcard tests/tools/*.sh))
SCRIPTS := .ci/run $(wildcard tests/tools/*.sh tests/demo/*.sh tests/bench/*.sh container/*.sh)

.PHONY: help demo tour test judges tools bench image lint lint-k8s fmt clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: ## back up a database, a directory and a command by schedule, restore and compare
	tests/demo/demo.sh

tour: ## run the README's five minutes and put the output there
	tests/demo/tour.sh

test: tools ## every test, against real servers and stock restic and rustic
	cargo test --locked

judges: ## install stock restic and rustic, which judge every repository we write
	tests/tools/restic.sh
	tests/tools/rustic.sh

tools: ## install all that the tests need (PostgreSQL, SeaweedFS, Azurite, restic, rustic)
	@for tool in $(TOOLS); do $$tool >/dev/null; done

bench: judges ## measure beside stock restic and rustic, pgBackRest and pg_basebackup (about two hours; ARGS=--quick for minutes)
	tests/bench/bench.sh $(ARGS)

image: ## the container image, with docker, podman or buildah (ARGS="--tag NAME …", see container/build.sh)
	container/build.sh $(ARGS)

lint: lint-k8s ## formatting, clippy, documentation, licences and bans, scripts, manifests
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --locked --no-deps --document-private-items
	"$$(tests/tools/cargo-deny.sh)/bin/cargo-deny" --log-level error --locked check bans licenses sources
	for script in $(SCRIPTS); do bash -n $$script; done
	python3 -m compileall -q tests

lint-k8s: ## the manifests in k8s/, strictly against the schemas of the oldest and newest supported Kubernetes
	lib="$$(tests/tools/kubernetes-validate.sh)/lib"; for version in 1.30 1.37; do \
	  PYTHONPATH="$$lib" python3 -m kubernetes_validate --strict --quiet -k $$version k8s/*.yaml; done

fmt: ## format the code
	cargo fmt

clean: ## remove what was built (not the tool cache)
	cargo clean
