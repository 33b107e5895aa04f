# Packages whose source is the distribution's, and tools that are the host's (image/debian/downloads fills in the folder).
E2FSPROGS_OVERRIDE_SRCDIR = @DIR@/src/e2fsprogs
UTIL_LINUX_OVERRIDE_SRCDIR = @DIR@/src/util-linux
PKGCONF_OVERRIDE_SRCDIR = @DIR@/src/pkgconf
LZ4_OVERRIDE_SRCDIR = @DIR@/src/lz4
ZSTD_OVERRIDE_SRCDIR = @DIR@/src/zstd
# Release archives bring their configure along.
override UTIL_LINUX_AUTORECONF = NO

BISON_OVERRIDE_SRCDIR = @DIR@/shim/bison
FLEX_OVERRIDE_SRCDIR = @DIR@/shim/flex
GAWK_OVERRIDE_SRCDIR = @DIR@/shim/gawk
KMOD_OVERRIDE_SRCDIR = @DIR@/shim/kmod
PATCHELF_OVERRIDE_SRCDIR = @DIR@/shim/patchelf
FAKEROOT_OVERRIDE_SRCDIR = @DIR@/shim/fakeroot
CPIO_OVERRIDE_SRCDIR = @DIR@/shim/cpio
override FLEX_AUTORECONF = NO
override HOST_FLEX_AUTORECONF = NO
override HOST_FAKEROOT_AUTORECONF = NO
override HOST_BISON_DEPENDENCIES =
override HOST_FLEX_DEPENDENCIES =
override HOST_GAWK_DEPENDENCIES =
override HOST_KMOD_DEPENDENCIES =
override HOST_PATCHELF_DEPENDENCIES =
override HOST_FAKEROOT_DEPENDENCIES =
override HOST_CPIO_DEPENDENCIES =
# Nothing here is translated.
override HOST_GETTEXT_DEPENDENCIES =
# Buildroot has checksums of the texts in its own version; what a shim stands for is the distribution's.
override UTIL_LINUX_LICENSE_FILES = Documentation/licenses/COPYING.BSD-3-Clause \
	Documentation/licenses/COPYING.BSD-4-Clause-UC Documentation/licenses/COPYING.GPL-2.0-or-later \
	Documentation/licenses/COPYING.ISC Documentation/licenses/COPYING.LGPL-2.1-or-later Documentation/licenses/COPYING.MIT
override BISON_LICENSE_FILES =
override FLEX_LICENSE_FILES =
override GAWK_LICENSE_FILES =
override KMOD_LICENSE_FILES =
override PATCHELF_LICENSE_FILES =
override FAKEROOT_LICENSE_FILES =
override CPIO_LICENSE_FILES =
