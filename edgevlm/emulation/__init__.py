"""ARM machines that are not there: QEMU, with the very libraries that a device would load, from Debian and PyPI."""
