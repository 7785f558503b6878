# Everything a newcomer or CI runs. `make help` lists it.
# What is needed beyond Rust, a C compiler, Python 3 and make is set up inside the tree; what some
# tests want beyond that, `make debian-packages` installs.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
RUST_VERSION := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
PYTHON := .venv/bin/python
# For lints and packages; `make tools` installs them here, and those that are there come first.
TOOLS := cargo-deny@0.20.2 cargo-deb@3.8.0 cargo-generate-rpm@0.21.1
export PATH := $(CURDIR)/target/tools/bin:$(PATH)

include .ci/toolchain.mk

BINARY := target/$(TARGET)/release/hanat

.PHONY: help
help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 24

.PHONY: demo
demo: $(BINARY) .venv/ready ## Build, then watch NATs come and go in an emulated VPC
	@HANAT_BIN=$(BINARY) $(PYTHON) -m tests.demo

.PHONY: lab
lab: $(BINARY) .venv/ready ## An emulated VPC to play with: kill NATs, cut them off, look around
	@HANAT_BIN=$(BINARY) $(PYTHON) -m tests.lab

.PHONY: image
image: .venv/ready ## Make the systems that machines in the tests boot, where that is possible
	@$(PYTHON) -m tests.world.vpc.image
	@$(PYTHON) -m tests.world.arm64_image

.PHONY: test
test: $(BINARY) .venv/ready image ## Build, then run all tests: Rust's units, and the binary from outside
	@echo "== all tests: about 25 minutes on two cores the first time, 15 afterwards"
	@echo "== unit tests (compiling them takes a few minutes the first time)"
	cargo test --locked --workspace
	@$(MAKE) --no-print-directory black-box-tests

TESTS := tests

.PHONY: black-box-tests
black-box-tests: $(BINARY) .venv/ready ## Those of them that run the binary from outside (TESTS=… for some)
	@echo "== the binary from outside"
	HANAT_BIN=$(BINARY) $(PYTHON) -m pytest -n 4 $(TESTS)

.PHONY: bare-test
bare-test: $(BINARY) .venv/ready ## The same on a bare Debian that has what README asks for (made by mmdebstrap, as root)
	@HANAT_BIN=$(BINARY) $(PYTHON) -m tests.bare

# What tests want beyond README's list: what they compare with, and spoil the kernel with; what
# reads the binary, the manual page, packages and units; what machines boot; and, for `make dist`, what links for
# the other architecture.
DEBIAN_PACKAGES := curl iptables nftables procps \
	binutils man-db rpm systemd \
	gpg mmdebstrap qemu-system-arm qemu-user-static \
	$(foreach target,$(filter-out $(shell uname -m)-%,$(RELEASED)),$(CROSS_PACKAGES_$(target)))

.PHONY: debian-packages
debian-packages: ## Install what some tests want beyond README's list, on Debian as root
	@if ! command -v apt-get >/dev/null; then \
		echo "there is no apt-get; install what has here what Debian has in: $(DEBIAN_PACKAGES)" >&2; \
		exit 1; \
	fi
	@missing=$$(comm -23 <(printf '%s\n' $(DEBIAN_PACKAGES) | sort) <(dpkg-query --show \
		--showformat='$${Package} $${db:Status-Status}\n' 2>/dev/null | sed -n 's/ installed$$//p' | sort)); \
	if [ -n "$$missing" ]; then \
		if [ "$$(id -u)" != 0 ]; then \
			echo "run this as root; it installs:" $$missing >&2; \
			exit 1; \
		fi; \
		echo "== installing" $$missing; \
		apt-get update -q; \
		DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$missing; \
	fi

.PHONY: lint
lint: check-rust .venv/ready ## Formatting and lints, warnings as errors
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	.venv/bin/ruff format --check tests
	.venv/bin/ruff check tests
	$(PYTHON) -m tests.layers
	@if command -v cargo-deny >/dev/null; then \
		cargo deny --locked check licenses bans sources; \
	else \
		echo "cargo-deny is not installed: licences were not checked (run: make tools)"; \
	fi

.PHONY: build
build: $(BINARY) ## Build the release binary

$(BINARY): Cargo.toml Cargo.lock Makefile .ci/toolchain.mk .cargo/config.toml core/Cargo.toml $(shell find src core/src -name "*.rs") | check-target
	@echo "== building hanat $(VERSION) for $(TARGET) (the first time: 5 to 10 minutes and 5 GB of memory)"
	@$(if $(CROSS_GCC),CARGO_TARGET_$(TARGET_VARIABLE)_LINKER=$(CROSS_GCC) CC_$(subst -,_,$(TARGET))=$(CROSS_GCC)) \
	RUSTFLAGS='$(RELEASE_FLAGS)' $(CARGO) rustc --locked --release --target $(TARGET) -- $(LINK_FLAGS)
	@touch $@

.PHONY: templates
templates: ## Put userdata/user-data.yaml into cloudformation/ha-nat.yaml, which holds it word for word
	@sed 's/^./              &/' userdata/user-data.yaml | sed -i \
		-e '/^ *- |$$/,/^ *- HanatUrl:/{//!d}' -e '/^ *- |$$/r /dev/stdin' cloudformation/ha-nat.yaml

# TARGET=… makes that one, beside what is in dist/ from before.
WHOLE := $(filter file,$(origin TARGET))
WANTED := $(if $(WHOLE),$(RELEASED),$(TARGET))
EACH_WANTED = @for target in $(WANTED); do $(MAKE) --no-print-directory $(1) TARGET="$$target"; done

.PHONY: dist
dist: templates check-packers ## Fill dist/: binary, archive, deb and rpm for x86-64 and arm64, templates (TARGET=… for one target, URL=… where dist/ will be published)
	$(call EACH_WANTED,check-target)
	$(if $(WHOLE),@rm -rf dist)
	$(call EACH_WANTED,packages)
	@rm -f dist/SHA256SUMS
	@cp cloudformation/*.yaml userdata/user-data.yaml userdata/image.pkr.hcl dist
	@cloudformation/fill.sh dist $(VERSION) $(URL)
	@cd dist && sha256sum * > SHA256SUMS
	@ls -l dist && cat dist/SHA256SUMS

PACKAGE := dist/hanat-$(VERSION)-$(TARGET)

.PHONY: packages
packages: $(BINARY)
	@mkdir -p dist
	@cp $(BINARY) $(PACKAGE)
	@userdata/pack.sh $(BINARY) $(PACKAGE).tar.gz
	@cargo deb --quiet --no-build --no-strip --no-dbgsym --target $(TARGET) --output $(PACKAGE).deb
	@cargo generate-rpm --target $(TARGET) --output $(PACKAGE).rpm

.PHONY: check-packers
check-packers:
	@for tool in cargo-deb cargo-generate-rpm; do \
		command -v $$tool >/dev/null || { echo "$$tool is missing; run: make tools" >&2; exit 1; }; \
	done

# From elsewhere, so that this project's flags for static binaries stay out of it.
.PHONY: tools
tools: check-rust ## Install what lints licences and makes packages into target/tools
	@tools=$(CURDIR)/target/tools; cd / && cargo install --quiet --locked --root "$$tools" $(TOOLS)

.PHONY: bench
bench: $(BINARY) .venv/ready ## Measure against a shell script, and against the limit
	@HANAT_BIN=$(BINARY) $(PYTHON) -m tests.bench

.PHONY: ci
ci: export CI := true
ci: ## All that CI runs, on Debian as root; what cannot be tested fails
	@for step in debian-packages tools lint dist test; do \
		echo "== make $$step ($$(date -u +%T))"; \
		$(MAKE) --no-print-directory $$step; \
	done

.PHONY: world
world: .venv/ready ## Start an emulated AWS and print what to export to talk to it
	@$(PYTHON) -m tests.world

.PHONY: lock
lock: ## Renew requirements.txt from requirements.in (needs uv)
	uv pip compile --upgrade --universal --generate-hashes --python-version 3.11 \
		--no-header --no-annotate requirements.in -o requirements.txt

.PHONY: clean
clean: ## Remove everything that was built or set up
	rm -rf target dist .venv .pytest_cache .ruff_cache

.venv/ready: requirements.txt
	@command -v python3 >/dev/null || { echo "python3 is missing; install: python3" >&2; exit 1; }
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed, python3 is $$(python3 -V)" >&2; exit 1; }
	@python3 -c 'import venv, ensurepip' 2>/dev/null \
		|| { echo "python3 lacks its venv module; install: python3-venv" >&2; exit 1; }
	@echo "== setting up Python packages in .venv"
	@python3 -m venv --clear .venv
	@.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@touch $@

.PHONY: check-rust
check-rust:
	@command -v cargo >/dev/null || { echo "cargo is missing; install Rust (rustup, or your distribution) $(RUST_VERSION) or later" >&2; exit 1; }
	@[ -n "$(HOST)" ] || { echo "rustc does not run: $$(rustc -vV 2>&1 | head -n 1)" >&2; exit 1; }
	@printf '%s\n' "$(RUST_VERSION)" "$$(rustc -V | cut -d ' ' -f 2)" | sort -CV \
		|| { echo "Rust $(RUST_VERSION) or later is needed, this is $$(rustc -V)" >&2; exit 1; }
	@command -v cc >/dev/null || { echo "a C compiler is missing; install: gcc and libc6-dev (Debian), gcc (Fedora)" >&2; exit 1; }

.PHONY: check-target
check-target: check-rust
	@if [ -z "$(CARGO)" ]; then \
		echo "this Rust toolchain has no standard library for $(TARGET); run: rustup target add $(TARGET) (without rustup on Debian, install: rustc-web cargo-web rust-web-src)" >&2; \
		exit 1; \
	fi
	@if [ -n "$(CROSS_GCC)" ] && ! command -v "$(CROSS_GCC)" >/dev/null; then \
		packages="$(CROSS_PACKAGES_$(TARGET))"; \
		echo "$(CROSS_GCC) is missing, which links for $(TARGET)$${packages:+; install: $$packages (Debian)}" >&2; \
		exit 1; \
	fi
