# The index of what can be done here. Every target is safe to run twice; `make help` prints them.
# Checks outside the project rely on the names: add freely, never rename.

PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo
XTASK := $(CARGO) xtask

.DEFAULT_GOAL := help
.PHONY: help setup build demo check test test-quick test-k8s test-long k8s flanneld fuzz bench install clean

help: ## print this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' Makefile | expand -t 14

setup: ## install the Debian packages and cargo tools that are missing
	@scripts/setup

build: setup ## target/release/{ripstop,ripstop-cni}, static
	@$(XTASK) build

demo: setup ## three nodes on this machine, real traffic, killed agents, packets counted
	@$(XTASK) demo

check: setup ## format, lints, dependency table, licences: what has to hold without running anything
	@$(XTASK) check

test: setup ## checks and all tests, as root: ends with "N passed, N failed, N skipped"
	@$(XTASK) test

test-quick: setup ## unit tests and the pure crates: within minutes
	@$(XTASK) test --quick

test-long: setup ## everything, with the tests that run for hours
	@$(XTASK) test --long

test-k8s: setup ## tests on a real Kubernetes in namespaces, and its own conformance tests; builds its programs first
	@scripts/setup k8s
	@$(XTASK) test-k8s

k8s: ## build Kubernetes' programs and CoreDNS, with Go, for clusters in namespaces: a quarter of an hour once
	@scripts/setup k8s
	@scripts/programs kubernetes coredns

flanneld: ## build flanneld, with Go, for the tests that run beside it
	@scripts/programs flannel

fuzz: ## a minute of libFuzzer for each parser of outside input
	@scripts/setup fuzz
	@$(XTASK) fuzz

bench: setup ## the figures of BENCHMARKS.md
	@$(XTASK) bench

install: build ## binaries, manual, completions, units, into $(DESTDIR)$(PREFIX)
	@$(XTASK) install --prefix "$(PREFIX)" --root "$(DESTDIR)/"

clean: ## remove what building left
	$(CARGO) clean
