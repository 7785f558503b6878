# What compiles and links for a target (TARGET), as far as this machine has it.

COMMA := ,
HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
TARGET ?= $(HOST)

# What .cargo/config.toml says (RUSTFLAGS replaces it), without the paths of the machine that
# builds.
REGISTRY := $(or $(CARGO_HOME),$(HOME)/.cargo)/registry/src
RELEASE_FLAGS := -C target-feature=+crt-static --cfg getrandom_backend="linux_getrandom" \
	--remap-path-prefix=$(REGISTRY)=/crates --remap-path-prefix=$(CURDIR)=/hanat

# More than half a megabyte less where Rust brings the linker that can: identical functions and constants folded into
# one, relocations packed, which glibc reads since 2.36, and nothing of the host's name services,
# which a static binary must not load. The HTTP client resolves names by DNS of its own, and refers
# to getaddrinfo only for where it has none.
SYSROOT := $(shell rustc --print sysroot 2>/dev/null)
NATIVE := $(and $(filter x86_64-unknown-linux-gnu,$(TARGET)),$(filter $(HOST),$(TARGET)))
LLD := $(and $(NATIVE),$(wildcard $(SYSROOT)/lib/rustlib/$(HOST)/bin/gcc-ld/ld.lld))
RELR := $(shell getconf GNU_LIBC_VERSION 2>/dev/null | \
	awk '{ split($$2, v, "."); if (v[1] * 100 + v[2] >= 236) print "yes" }')
LINK_FLAGS := $(if $(LLD),-C link-arg=-Wl$(COMMA)--icf=all \
	-C link-arg=-Wl$(COMMA)--ignore-data-address-equality \
	-C link-arg=-Wl$(COMMA)--defsym=getaddrinfo=abort$(COMMA)--defsym=freeaddrinfo=abort \
	$(if $(RELR),-C link-arg=-Wl$(COMMA)--pack-dyn-relocs=relr))

# A target's standard library comes with the toolchain, from rustup, or, where that is not to be
# had, from Debian's source of it.
CARGO := cargo
ifeq ($(wildcard $(SYSROOT)/lib/rustlib/$(TARGET)),)
DEBIAN_SOURCE := $(and $(filter %-linux-gnu,$(TARGET)),$(wildcard /usr/lib/rustlib/src/rust/library/std))
CARGO := $(if $(DEBIAN_SOURCE),.ci/cargo-debian)
endif

# What a release is made of.
RELEASED := x86_64-unknown-linux-gnu aarch64-unknown-linux-gnu
# For targets other than the host's; the packages are Debian's.
CROSS_GCC_aarch64-unknown-linux-gnu := aarch64-linux-gnu-gcc
CROSS_PACKAGES_aarch64-unknown-linux-gnu := gcc-aarch64-linux-gnu libc6-dev-arm64-cross
CROSS_GCC_aarch64-unknown-linux-musl := aarch64-linux-musl-gcc
CROSS_GCC_x86_64-unknown-linux-musl := musl-gcc
CROSS_PACKAGES_x86_64-unknown-linux-musl := musl-tools
CROSS_GCC_x86_64-unknown-linux-gnu := x86_64-linux-gnu-gcc
CROSS_PACKAGES_x86_64-unknown-linux-gnu := gcc-x86-64-linux-gnu libc6-dev-amd64-cross
CROSS_GCC := $(if $(filter-out $(HOST),$(TARGET)),$(CROSS_GCC_$(TARGET)))
TARGET_VARIABLE := $(shell echo $(TARGET) | tr a-z- A-Z_)
