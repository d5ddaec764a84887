"""What an emulated board boots: Debian's kernel, a first file system that loads its drivers, and a disk image.

The disk holds Debian's Python, the packages that bundles need, and dropbear, a small sshd. Nothing else runs there.
"""

from __future__ import annotations

import compileall
import gzip
import lzma
import os
import re
import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgevlm.devices import site
from edgevlm.emulation import cpio, root, tools
from edgevlm.emulation.parts import Part
from edgevlm.errors import DeviceError
from edgevlm.process.progress import Progress, silent
from edgevlm.process.store import keep

ADDRESS = "10.0.2.15"
"""Of the board in the network that QEMU makes for it."""
KEYS = "keys"
"""Where the first file system expects `host`, the host's key as OpenSSH writes it, and `authorized_keys`."""
READY = "Not backgrounding"
"""What dropbear says on the console when it listens."""

_PACKAGES = (*root.PACKAGES, "linux-image-cloud-arm64", "dropbear-bin", "busybox-static")
_DRIVERS = ("virtio_pci", "virtio_blk", "virtio_net", "ext4")
_DISK = "3G"
_LEFT_OUT = ("boot", "lib/modules", "usr/lib/modules", "usr/share/doc", "usr/share/man", "usr/share/locale")
_FOLDERS = ("dev", "etc", "proc", "root", "run", "sbin", "sys", "tmp")

_FIRST = f"""#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
for each in $($b cat /drivers/order); do $b insmod /drivers/$each.ko; done
$b mkdir /disk && $b mount -t ext4 -o noatime /dev/vda /disk || exec $b poweroff -f
$b chown -R 0:0 /disk/root && $b mkdir -m 700 -p /disk/root/.ssh
$b cp /{KEYS}/authorized_keys /disk/root/.ssh/ && $b chmod 600 /disk/root/.ssh/authorized_keys
$b cp /{KEYS}/host /disk/root/host && $b chmod 600 /disk/root/host
$b mount --move /dev /disk/dev
exec $b switch_root /disk /sbin/init
"""
# Memory is never refused: a backend that is told so fails in words of its own, and one that is killed for it is known.
_FILES = {
    "etc/inittab": "::sysinit:/bin/busybox sh /etc/start\n::respawn:/bin/busybox sh /etc/serve\n",
    "etc/start": f"""export PATH=/usr/sbin:/usr/bin:/sbin:/bin
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox --install -s /bin
echo 1 > /proc/sys/vm/overcommit_memory
chmod 1777 /tmp
hostname board
ifconfig lo 127.0.0.1 up
ifconfig eth0 {ADDRESS} netmask 255.255.255.0 up
dropbearconvert openssh dropbear /root/host /root/host_key
""",
    # Where memory runs out, it is not the sshd that is to be killed.
    "etc/serve": """echo -1000 > /proc/self/oom_score_adj
exec /usr/sbin/dropbear -F -E -s -j -k -W 1048576 -r /root/host_key
""",
    "etc/session": '#!/bin/busybox sh\necho 0 > /proc/self/oom_score_adj\nexec /bin/busybox sh "$@"\n',
    "etc/shells": "/etc/session\n",
    "etc/passwd": "root:x:0:0:root:/root:/etc/session\n",
    "etc/group": "root:x:0:\n",
}


@dataclass(frozen=True)
class Image:
    """What QEMU is given.

    Attributes:
        kernel, first, disk: The files.
    """

    kernel: Path
    first: Path
    disk: Path


def prepare(progress: Progress = silent) -> Image:
    """Makes the image, once.

    Raises:
        DeviceError: a program is missing, this is no Debian, or there is no network the first time.
    """
    tools.find("mke2fs")
    system = root.prepare(progress, _PACKAGES)
    python = root.python(system)
    requirements = [site.pinned(name) for name in (*site.PACKAGES, *site.BACKENDS.values(), site.OF_TALKERS)]
    wheels = site.site_packages(requirements, python=python, architecture="aarch64", progress=progress)
    inputs = (str(system.path), str(wheels), _FIRST, _DISK, *_LEFT_OUT, *_DRIVERS, *(f"{_FILES}",))
    made = keep("devices/board", inputs, partial(_fill, system, python, wheels, progress))
    return Image(made / "vmlinuz", made / "first", made / "disk")


def part(progress: Progress = silent) -> Part:
    """The same as a part of what emulation takes."""
    image = prepare(progress)
    return Part("emulated board", image.kernel.parent, f"Debian's kernel and Python, {_DISK} disk")


def _fill(system: Part, python: str, wheels: Path, progress: Progress, folder: Path) -> None:
    progress("making a disk for the board", None)
    kernel = _only(system.path / "boot", "vmlinuz-*")
    shutil.copyfile(kernel, folder / "vmlinuz")
    (folder / "first").write_bytes(gzip.compress(_first(system.path), 6, mtime=0))
    stage = folder.parent / "disk"
    left_out = {system.path / name for name in _LEFT_OUT}
    shutil.copytree(
        system.path,
        stage,
        symlinks=True,
        copy_function=os.link,
        ignore=lambda where, names: [name for name in names if Path(where) / name in left_out],
    )
    for name in _FOLDERS:
        (stage / name).mkdir(exist_ok=True)
    for name in ("bin", "sbin", "lib"):  # where a release has them in /usr alone
        if not (stage / name).exists():
            (stage / name).symlink_to(f"usr/{name}")
    for name, text in _FILES.items():
        (stage / name).write_text(text, encoding="utf-8")
        (stage / name).chmod(0o755)
    if not (stage / "bin" / "busybox").exists():
        raise DeviceError(f"{system.path}: expected busybox, found none", hint="remove the folder and try again")
    (stage / "sbin" / "init").unlink(missing_ok=True)
    (stage / "sbin" / "init").symlink_to("/bin/busybox")
    packages = stage / "usr" / "lib" / "python3" / "dist-packages"
    shutil.copytree(wheels, packages, copy_function=os.link, dirs_exist_ok=True)
    if python == f"{sys.version_info.major}.{sys.version_info.minor}":  # or the board compiles them, slowly
        progress("compiling the board's Python modules", None)
        compileall.compile_dir(stage / "usr" / "lib", maxlevels=20, quiet=2, stripdir=str(stage), workers=1)
    command: list[str | Path] = [
        tools.find("mke2fs"),
        "-q",
        "-F",
        "-t",
        "ext4",
        "-d",
        stage,
        "-E",
        "root_owner=0:0",
        "-m",
        "0",
    ]
    hint = "is there space on the disk?"
    tools.run([*command, folder / "disk", _DISK], "make the board's disk", hint=hint)


def _first(system: Path) -> bytes:
    """The first file system: busybox, the drivers, and what loads them."""
    modules = {}
    for path in system.glob("**/lib/modules/**/*.ko*"):
        modules[path.name.partition(".")[0].replace("-", "_")] = path
    order: list[str] = []
    files = {"init": _FIRST.encode(), "bin/busybox": _only(system, "**/bin/busybox").read_bytes()}
    for name in _DRIVERS:
        _load(name, modules, order, files)
    return cpio.archive({**files, "drivers/order": "\n".join(order).encode(), "dev/.keep": b""})


def _load(name: str, modules: dict[str, Path], order: list[str], files: dict[str, bytes]) -> None:
    """Puts a driver after those that it needs. One without a file is part of the kernel."""
    if name in order or name not in modules:
        return
    content = modules[name].read_bytes()
    if modules[name].suffix == ".xz":
        content = lzma.decompress(content)
    needs = re.findall(rb"\0(?:depends=|softdep=pre: )([^\0]+)", content)
    for need in (each for line in needs for each in re.split(r"[, ]+", line.decode("ascii"))):
        _load(need.replace("-", "_"), modules, order, files)
    order.append(name)
    files[f"drivers/{name}.ko"] = content


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if not found:
        raise DeviceError(f"{folder}: expected {pattern}, found none", hint="remove the folder and try again")
    return found[-1]
