# Packages whose source is the distribution's, and tools that are the host's (image/debian/downloads fills in the folder).
E2FSPROGS_OVERRIDE_SRCDIR = @DIR@/src/e2fsprogs
UTIL_LINUX_OVERRIDE_SRCDIR = @DIR@/src/util-linux
PKGCONF_OVERRIDE_SRCDIR = @DIR@/src/pkgconf
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
