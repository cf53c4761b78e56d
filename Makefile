# Every target does its own set-up; a second run of any of them does none.
# `make help` lists the targets; deploy/dev/setup.sh says what goes into .tools/ and from where.

SETUP := deploy/dev/setup.sh
TARGET := $(or $(CARGO_TARGET_DIR),target)

# How long `make fuzz` stays with each target.
SECONDS ?= 60

.PHONY: help tools check test demo measure diffset cluster fuzz clean-tools

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

tools: ## put protoc, five versions of etcd, the OpenTelemetry Collector and cargo-deny into .tools/
	@$(SETUP) all

check: ## formatting, lint, licences, dependencies
	@$(SETUP) toolchain protoc deny
	@deploy/dev/check.sh

test: tools check ## everything: tools, check, and every test, real etcd clusters included
	cargo build --workspace --bins --locked
	# All suites, and of what fails its reason instead of its stack.
	RUST_BACKTRACE=0 cargo test --workspace --locked --no-fail-fast

demo: ## watch a real etcd get slow and be rolled back; ETCD_VERSION=3.4, 3.5, 3.5.16, 3.6 or 3.7
	@$(SETUP) toolchain protoc etcd-demo
	cargo build --release --locked -p agent -p demo
	@ETCD_VERSION="$$(cat .tools/etcd/demo)" $(TARGET)/release/demo

measure: ## cost of the agent, etcd's fsync with and without it, a half hour that must stay quiet; MEASURE="cost fsync quiet" MINUTES=30; "profilers" beside others
	@$(SETUP) toolchain protoc etcd-demo $(findstring profilers,$(MEASURE))
	cargo build --release --locked -p agent -p measure
	@ETCD_VERSION="$$(cat .tools/etcd/demo)" $(TARGET)/release/measure

diffset: ## how well the profile diff tells regressions from noise, load, collections and moved code, on recorded etcd
	@$(SETUP) toolchain protoc
	cargo build --release --locked -p diffset
	@$(TARGET)/release/diffset score

cluster: ## a Kubernetes node of its own on this host, and the DaemonSet on it; as root; WATCH=180 seconds of quiet; a quarter of an hour and 6 GB the first time
	@$(SETUP) toolchain protoc etcd 3.6 kubernetes
	cargo build --release --locked -p agent
	@deploy/dev/kubernetes/cluster.sh run

fuzz: ## feed every parser with what a fuzzer makes up, SECONDS=60 each; TARGETS="engine pprof" chooses
	@$(SETUP) toolchain protoc fuzz
	@tests/fuzz/run.sh $(SECONDS) $(TARGETS)

clean-tools: ## remove .tools/
	@# Go writes its module cache read-only.
	[ ! -d .tools/build ] || chmod -R u+w .tools/build
	rm -rf .tools
