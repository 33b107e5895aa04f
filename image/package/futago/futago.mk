################################################################################
#
# futago
#
################################################################################

FUTAGO_VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' $(BR2_EXTERNAL_FUTAGO_PATH)/../Cargo.toml)
FUTAGO_SITE = $(realpath $(BR2_EXTERNAL_FUTAGO_PATH)/..)
FUTAGO_SITE_METHOD = local
FUTAGO_LICENSE = Apache-2.0
FUTAGO_LICENSE_FILES = LICENSE
# Its source is the tree that this stands in; legal-info would pack that folder with all that was ever built in it.
FUTAGO_REDISTRIBUTE = NO
FUTAGO_OVERRIDE_SRCDIR_RSYNC_EXCLUSIONS = \
	--exclude /target --exclude /image/out --exclude /.git

FUTAGO_TRIPLE = x86_64-unknown-linux-gnu
FUTAGO_TARGET_DIR = $(or $(call qstrip,$(BR2_PACKAGE_FUTAGO_CARGO_TARGET_DIR)),$(@D)/target)

FUTAGO_BINARY = $(call qstrip,$(BR2_PACKAGE_FUTAGO_BINARY))
ifneq ($(FUTAGO_BINARY),)

define FUTAGO_INSTALL_TARGET_CMDS
	$(INSTALL) -D -m 0755 $(FUTAGO_BINARY) $(TARGET_DIR)/init
endef

else

# Not cargo-package: that brings a Rust toolchain of its own, where rust-toolchain.toml pins one. PATH is the user's.
# Paths of the build machine stay out of the binary: two machines are to make the same one.
FUTAGO_CARGO_HOME = $(or $(CARGO_HOME),$(HOME)/.cargo)
FUTAGO_RUSTFLAGS = -C target-feature=+crt-static \
	--remap-path-prefix=$(@D)=/futago \
	--remap-path-prefix=$(FUTAGO_TARGET_DIR)=/target \
	--remap-path-prefix=$(FUTAGO_CARGO_HOME)=/cargo
define FUTAGO_BUILD_CMDS
	cd $(@D) && env -u MAKEFLAGS -u MAKELEVEL \
		PATH="$(BR_PATH)" \
		CARGO_TARGET_DIR="$(FUTAGO_TARGET_DIR)" \
		CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER="$(notdir $(TARGET_CC))" \
		CC_x86_64_unknown_linux_gnu="$(notdir $(TARGET_CC))" \
		AR_x86_64_unknown_linux_gnu="$(notdir $(TARGET_AR))" \
		RUSTFLAGS="$(FUTAGO_RUSTFLAGS)" \
		cargo build --release --locked $(FUTAGO_CARGO_FLAGS) -j $(PARALLEL_JOBS) \
			-p futago --target $(FUTAGO_TRIPLE)
endef

define FUTAGO_INSTALL_TARGET_CMDS
	$(INSTALL) -D -m 0755 $(FUTAGO_TARGET_DIR)/$(FUTAGO_TRIPLE)/release/futago $(TARGET_DIR)/init
endef

endif

$(eval $(generic-package))
