# Edge Warden: everything a person or CI types. `make run` and `make test` are the two that matter.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

COMPONENT := dev.edgewarden.EdgeWarden
VERSION   := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
TARGET    := $(shell uname -m)-unknown-linux-gnu
PACKAGED  := target/$(TARGET)/release/edge-warden
PYTHON    := .venv/bin/python
# the tests set these: arguments of the demo's program, and how the Lambda function is built
DEMO          ?=
CLOUD_PROFILE ?=

.PHONY: help setup venv build run demo test storm cloud-test cloud-package check bench compare fuzz release package package-all deploy-local clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

setup: ## install what a fresh Debian or Ubuntu lacks (uses apt-get, as root or through sudo)
	@scripts/setup.sh build

build: setup ## debug build
	cargo build

package: setup ## the static release binary, laid out for a Greengrass deployment in greengrass-build/
	./build.sh

package-all: setup ## the same for every architecture: amd64, aarch64, arm
	@scripts/setup.sh cross
	./build.sh all

run: package ## show this host's Device Defender report, then run the agent on the embedded stand-in (no AWS account)
	$(PACKAGED) report --interval 2
	rm -rf target/standalone
	$(PACKAGED) run --standalone target/standalone --config artifacts/try-out.yaml --stop-after-reports 2
	@echo
	@echo "Two reports were published and accepted; from target/standalone/published.jsonl:"
	@grep /defender/ target/standalone/published.jsonl | cut -c 1-400

demo: setup ## a site in network namespaces, a device that goes rogue, its cut and release; ends with a page (root)
	@scripts/setup.sh site
	@# at the same time: most of the release build is one linker's work
	cargo build --example demo & stage=$$!; ./build.sh && wait $$stage
	scripts/as-root.sh env EDGE_WARDEN_BINARY=$(CURDIR)/$(PACKAGED) target/debug/examples/demo $(DEMO)

venv: setup ## the Python tools the tests check us against
	@scripts/setup.sh venv

check: setup ## format, lints, docs
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --quiet

test: ## every test: lints, unit, golden, scenario, network namespaces (root), the packaged binary, the AWS side
	@scripts/setup.sh build cross test venv
	$(MAKE) check
	@# at the same time: most of the release build is one linker's work
	cloud/test.sh build & cloud=$$!; ./build.sh && wait $$cloud
	@# built first: what root builds in target/ nobody else could replace
	cargo test --no-run
	scripts/as-root.sh env EDGE_WARDEN_BINARY=$(CURDIR)/$(PACKAGED) cargo test
	@if [ -e target/cross-unavailable ]; then echo "NOT TESTED, other architectures: $$(cat target/cross-unavailable)" >&2; \
	else PROFILE=cross-test ./build.sh aarch64 arm && cargo test --test cross --no-run && \
	scripts/as-root.sh cargo test --test cross; fi
	$(PYTHON) tests/cross/cbor_check.py tests/golden/report
	EDGE_WARDEN_BINARY=$(CURDIR)/$(PACKAGED) cloud/test.sh

storm: package ## fault storms against the packaged binary; RUNS=20 SECONDS_EACH=30 SEED=... (root)
	scripts/as-root.sh env EDGE_WARDEN_BINARY=$(CURDIR)/$(PACKAGED) EDGE_WARDEN_STORM_RUNS=$(or $(RUNS),3) \
	  EDGE_WARDEN_STORM_SECONDS=$(or $(SECONDS_EACH),30) EDGE_WARDEN_STORM_SEED=$(or $(SEED),$(shell date +%s)) \
	  cargo test --test storm nothing_leaks -- --ignored --nocapture

cloud-test: setup ## of these, the AWS side alone: template, Lambda function against moto, from an alarm to a cut device (root)
	@scripts/setup.sh test venv
	cloud/test.sh

cloud-package: setup ## the Lambda function's code, target/cloud/edge-warden-mitigation.zip
	@scripts/setup.sh cloud
	cloud/package.sh $(CLOUD_PROFILE)

fuzz: ## every parser of outside data on 20,000 inputs a fuzzer makes up (docs/fuzzing.md)
	@scripts/setup.sh build fuzz
	scripts/fuzz.sh --runs 20000

bench: package ## benchmarks: criterion for the pure parts, whole-process ones for quarantine (root)
	cargo bench --bench report --bench parts --bench detect
	scripts/as-root.sh env EDGE_WARDEN_BINARY=$(CURDIR)/$(PACKAGED) cargo bench --bench quarantine_latency

compare: package ## our report against AWS's agent, ss, cat and conntrack: CPU, time, memory (root; 20 quiet minutes)
	@scripts/setup.sh test
	cargo build --profile bench --example collect
	scripts/as-root.sh env EDGE_WARDEN_BINARY=$(CURDIR)/$(PACKAGED) scripts/compare.py run

release: setup ## licences, bill of materials and a binary that comes out the same twice, in target/release-artifacts/
	@scripts/setup.sh release
	scripts/release.sh

deploy-local: package ## deploy to a nucleus on this machine (greengrass-cli or ggl-cli, whichever is there)
	scripts/deploy-local.sh $(COMPONENT) $(VERSION)

clean: ## remove what was built
	rm -rf target greengrass-build .venv
