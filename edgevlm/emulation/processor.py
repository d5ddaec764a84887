"""What an emulated core calls itself: backends choose kernels by it, beside the instructions that it has.

QEMU shows a program the host's own `/proc/cpuinfo` unless there is one below the prefix of its libraries.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from edgevlm.devices.profile import Cluster
from edgevlm.emulation.parts import Part
from edgevlm.process.store import keep

_ARM = 0x41
# Arm's part numbers, from the technical reference manual of each core (register MIDR_EL1).
_PARTS = {
    "cortex-a35": 0xD04,
    "cortex-a53": 0xD03,
    "cortex-a55": 0xD05,
    "cortex-a57": 0xD07,
    "cortex-a72": 0xD08,
    "cortex-a73": 0xD09,
    "cortex-a75": 0xD0A,
    "cortex-a76": 0xD0B,
    "cortex-a77": 0xD0D,
    "cortex-a78": 0xD41,
    "cortex-a78ae": 0xD42,
    "cortex-a510": 0xD46,
    "cortex-a710": 0xD47,
    "cortex-a715": 0xD4D,
    "cortex-a720": 0xD81,
    "cortex-x1": 0xD44,
    "cortex-x2": 0xD48,
    "cortex-x3": 0xD4E,
    "cortex-x4": 0xD82,
    "neoverse-n1": 0xD0C,
    "neoverse-n2": 0xD49,
    "neoverse-v1": 0xD40,
}
_UNKNOWN = 0xFFF  # no core of Arm's: backends then take the kernels that suit any
_FEATURES = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
_DOT_PRODUCT_FEATURES = "atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"


def part_number(cluster: Cluster) -> int:
    """Arm's number of the core; of the one that is emulated where that is all that is known."""
    named = re.search(r"(cortex|neoverse)-\w+", cluster.core.lower())
    return _PARTS.get(named[0] if named else "", _PARTS.get(cluster.qemu_cpu, _UNKNOWN))


def prefix(root: Part, cluster: Cluster) -> Path:
    """A folder of links into a root file system, with what the kernel would say of one core of a cluster."""
    files = {
        "proc/cpuinfo": _cpuinfo(part_number(cluster), cluster.dot_product),
        "sys/devices/system/cpu/possible": "0\n",
        "sys/devices/system/cpu/present": "0\n",
    }
    inputs = (str(root.path), *(word for each in files.items() for word in each))
    return keep("devices/core", inputs, partial(_fill, root.path, files))


def _cpuinfo(part: int, dot_product: bool) -> str:
    features = f"{_FEATURES} {_DOT_PRODUCT_FEATURES}" if dot_product else _FEATURES
    variant = 2 if dot_product else 0  # earlier ones of Cortex-A55 and A75 have no dot products, which backends know
    return (
        f"processor\t: 0\nBogoMIPS\t: 100.00\nFeatures\t: {features}\nCPU implementer\t: {_ARM:#x}\n"
        f"CPU architecture: 8\nCPU variant\t: {variant:#x}\nCPU part\t: {part:#x}\nCPU revision\t: 0\n\n"
    )


def _fill(root: Path, files: dict[str, str], folder: Path) -> None:
    for path in root.iterdir():
        (folder / path.name).symlink_to(path)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
