# Thin entry points; the work is in the scripts and programs that they name. Run `setup`, `demo` and `test` as root.
#
#   make setup             install what building and running need (quick when it is there)
#   make demo [KEEP=1]     the whole system in network namespaces, on real packets; KEEP=1 leaves it running
#   make test              formatting, lints, unit tests, vectors, lab, demo
#   make check             formatting, lints and unit tests only: no root, no namespaces
#   make bench [B=name]    the figures of perf/, or one of them
#   make build             release build of the product

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: setup demo test check bench build clean help

setup:
	@appliance/setup/setup

build: setup
	cargo build --release --locked --workspace --bins

demo: setup
	cargo build --release --locked -p marchd -p marchdp -p marchctl -p march-lab
	@"$${CARGO_TARGET_DIR:-target}/release/demo" $(if $(KEEP),--keep)

test:
	@tests/run

check:
	@tests/run check

bench: setup
	cargo build --release --locked -p march-perf
	@"$${CARGO_TARGET_DIR:-target}/release/march-perf" $(B)

clean:
	cargo clean
	rm -rf .build/setup

help:
	@sed -n 's/^#   //p' Makefile
