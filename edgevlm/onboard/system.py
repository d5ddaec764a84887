"""What the machine says of itself."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgevlm import schema
from edgevlm.onboard.figures import System
from edgevlm.process.processors import usable_processors
from edgevlm.process.progress import Progress

_PACKAGES = ("numpy", "pillow", "tokenizers", "ai-edge-litert", "tflite-runtime", "executorch", "torch", "coremltools")
_PEERS = ("onnxruntime", "onnxruntime-gpu", "openvino")
_CLOCKS = Path("/sys/devices/system/cpu/cpufreq")
_SENSORS = Path("/sys/class/thermal")
_BOARD = Path("/proc/device-tree")
_NAMES = (_BOARD / "model", Path("/sys/class/dmi/id/product_name"))
_VIRTUAL_BOARD = "linux,dummy-virt"


def describe(job: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
    """The job `system`: a `System` in plain values."""
    plain: Mapping[str, Any] = schema.write(read())
    return plain


def read() -> System:
    """This machine, now."""
    return System(
        model=_first_line(_NAMES),
        processor=_processor(),
        architecture=platform.machine(),
        cores=usable_processors(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=platform.platform(terse=True),
        python=platform.python_version(),
        governor=_first_line(sorted(_CLOCKS.glob("policy*/scaling_governor"))) or None,
        clock_mhz=clock_mhz(),
        most_clock_mhz=_most(_CLOCKS.glob("policy*/scaling_max_freq"), 1e3),
        temperature_c=temperature_c(),
        load=round(os.getloadavg()[0], 2),
        emulator=_emulator(),
        versions=_versions(),
    )


def clock_mhz() -> float | None:
    """The fastest core's clock now, where the kernel scales clocks."""
    return _most(_CLOCKS.glob("policy*/scaling_cur_freq"), 1e3)


def temperature_c() -> float | None:
    """The hottest sensor."""
    return _most(_SENSORS.glob("thermal_zone*/temp"), 1e3)


def _most(paths: Iterable[Path], unit: float) -> float | None:
    found = []
    for path in paths:
        try:
            found.append(int(path.read_text()) / unit)
        except (OSError, ValueError):  # a sensor that is asleep answers with an error
            continue
    return max(found, default=None)


def _first_line(paths: Iterable[Path]) -> str:
    for path in paths:
        try:
            text = path.read_text(errors="replace").strip("\0\n ")
        except OSError:
            continue
        if text:
            return text.splitlines()[0]
    return ""


def _emulator() -> str | None:
    """Boards that only virtual machines have; a virtual machine of a computer's own kind runs at its speed."""
    try:
        compatible = (_BOARD / "compatible").read_text(errors="replace")
    except OSError:
        return None
    return "a virtual board (QEMU virt)" if _VIRTUAL_BOARD in compatible else None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    if "model name" in facts:
        return facts["model name"]
    if "CPU part" in facts:  # Arm's kernels give numbers, which `lscpu` has names for
        return f"implementer {facts.get('CPU implementer', '?')}, part {facts['CPU part']}"
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for name in (*_PACKAGES, *_PEERS):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
