"""Counts a network on the core that somebody measured it on, with the library that they used.

That is XNNPACK, by itself or in ExecuTorch, which this counts for both: its runner adds next to nothing of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from edgevlm.bench.estimates.published import CpuPoint
from edgevlm.benchmarks.bundles import bundle_for_tests
from edgevlm.benchmarks.calibration.networks import CLASSES, NETWORKS, SIDE, build, multiply_adds
from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.manifest import BundledComponent
from edgevlm.bundle.recipe import BUILTIN, LEAST_SAMPLES
from edgevlm.bundle.spec import ComponentSpec, Source, TensorSpec
from edgevlm.compression.compression import compress
from edgevlm.devices.profile import Cluster
from edgevlm.emulation import counting
from edgevlm.errors import InputError
from edgevlm.graphs.program import Program, Programs
from edgevlm.onboard.figures import Counts
from edgevlm.process.progress import Progress, silent
from edgevlm.targets import registry

COMPONENT = "classify"
_RECIPES = {"fp32": "fp32", "int8": "int8-static"}
_LIBRARIES = ("XNNPACK", "ExecuTorch")
_TARGET = "executorch"


@dataclass(frozen=True)
class Counted:
    """A network on an emulated core.

    Attributes:
        multiply_adds: By the network's layers.
        counts: Of one steady inference on one thread.
    """

    multiply_adds: int
    counts: Counts


def count(made: Bundle, point: CpuPoint, progress: Progress = silent) -> Counted:
    """What one thread executes on a point's core.

    Args:
        made: The point's network, by `bundle`.
        point: Its library must be one that uses XNNPACK.
        progress: Told how far it is.

    Raises:
        InputError: it is another one.
        DeviceError: the core cannot be emulated.
    """
    if point.library not in _LIBRARIES:
        raise InputError(f"{point.called}: expected a library of {', '.join(_LIBRARIES)}, got {point.library}")
    counted = counting.count(made, COMPONENT, cluster(point), progress=progress)
    return Counted(multiply_adds(build(split(point.network)[0])), counted.steady)


def cluster(point: CpuPoint) -> Cluster:
    """The core of a point, for the emulator."""
    own = point.core.lower().replace(" ", "-") == point.qemu_cpu
    return Cluster(
        core=point.core,
        cores=1,
        clock_mhz=point.clock_mhz,
        qemu_cpu=point.qemu_cpu,
        stands_in=not own,
        dot_product=own and point.qemu_cpu == "cortex-a76",
        fma_lanes=point.fma_lanes,
    )


def bundle(named: str, folder: Path) -> Bundle:
    """A network in a bundle.

    Args:
        named: One of `NETWORKS` and its precision, such as `MobileNetV2 int8`.
        folder: Is made.

    Raises:
        InputError: there is none of that name.
    """
    network, precision = split(named)
    folder.mkdir(parents=True)
    recipe = BUILTIN[_RECIPES[precision]]
    pictures = [torch.randn(1, 3, SIDE, SIDE) for _ in range(LEAST_SAMPLES if recipe.needs_calibration else 0)]
    compressed = compress(_programs(network), recipe, {COMPONENT: pictures}, silent)
    files = registry.converter(_TARGET).lower(compressed.programs, recipe, folder)
    component = BundledComponent(_spec(), files[0].path)
    components, source = {COMPONENT: component}, Source(network, "clip", "none", "Apache-2.0")
    return bundle_for_tests(folder, components, name="network", target=_TARGET, recipe=recipe, source=source)


def split(named: str) -> tuple[str, str]:
    """A network's name and its precision."""
    network, _, precision = named.rpartition(" ")
    if network not in NETWORKS or precision not in _RECIPES:
        raise InputError(
            f"{named}: expected one of {', '.join(NETWORKS)}, and {' or '.join(_RECIPES)}",
            hint="a new network is a function in benchmarks/calibration/networks.py",
        )
    return network, precision


def _programs(network: str) -> Programs:
    return {COMPONENT: Program(_spec(), build(network), (torch.zeros(1, 3, SIDE, SIDE),))}


def _spec() -> ComponentSpec:
    pixels = TensorSpec("pixels", "float32", (1, 3, SIDE, SIDE), "RGB, centred and scaled")
    return ComponentSpec(COMPONENT, (pixels,), (TensorSpec("scores", "float32", (1, CLASSES), "of each class"),))
