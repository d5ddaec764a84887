"""Which targets there are, and where their converter and runtime live; nothing is imported until asked for.

A package adds a target of its own through the entry-point group `edgevlm.targets`: the entry's name is the
target, its value the module of the converter, a colon, and an object with `converter` and `runtime` attributes.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, cast

from edgevlm.bundle.trust import is_trusted
from edgevlm.errors import UnsupportedError
from edgevlm.targets.converter import Converter
from edgevlm.targets.inspection import PackageReader
from edgevlm.targets.isolation import IsolatedRuntime
from edgevlm.targets.runtime import Runtime

if TYPE_CHECKING:
    from edgevlm.bundle.bundle import Bundle

CONVERTERS = {
    "coreml": "edgevlm.converters.coreml.converter:CoreMLConverter",
    "executorch": "edgevlm.converters.executorch.converter:ExecuTorchConverter",
    "tflite": "edgevlm.converters.tflite.converter:TFLiteConverter",
}
RUNTIMES = {
    "coreml": "edgevlm.runtimes.coreml:CoreMLRuntime",
    "executorch": "edgevlm.runtimes.executorch.runtime:ExecuTorchRuntime",
    "tflite": "edgevlm.runtimes.tflite.runtime:TFLiteRuntime",
}
PACKAGES = {".mlpackage": "coreml"}
"""The targets whose own packages can be looked into without a bundle around them, by suffix."""
SUMMARIES = {
    "coreml": "ML Program packages for iOS and macOS (Neural Engine, GPU, CPU)",
    "executorch": "one .pte for PyTorch's runtime on iOS, Android and Linux (XNNPACK)",
    "tflite": "one .tflite for LiteRT on Android, Raspberry Pi and Linux (XNNPACK)",
}


def targets() -> tuple[str, ...]:
    """Names of all targets, the built-in ones first."""
    return (*CONVERTERS, *sorted(set(_plugins()) - set(CONVERTERS)))


def converter(target: str) -> Converter:
    """The converter of a target.

    Raises:
        UnsupportedError: there is no such target.
        MissingDependency: the target's packages are not installed (raised when it is used).
    """
    if target in CONVERTERS:
        return cast(Converter, _load(CONVERTERS[target])())
    return cast(Converter, _plugin(target).converter())  # type: ignore[attr-defined]


def runtime(target: str) -> Runtime:
    """The runtime of a target; see `converter`."""
    if target in RUNTIMES:
        return cast(Runtime, _load(RUNTIMES[target])())
    return cast(Runtime, _plugin(target).runtime())  # type: ignore[attr-defined]


def runtime_of(bundle: Bundle, *, trusted: bool = False) -> Runtime:
    """What opens a bundle: its target's runtime in this process, if the bundle was made on this machine.

    Any other is opened in a process of its own, so that what a damaged file does to native code is an error: see
    `edgevlm.targets.isolation`.

    Args:
        bundle: Which.
        trusted: Whether it is taken as made here, such as an app's own.

    Raises:
        UnsupportedError: there is no such target.
    """
    found = runtime(bundle.manifest.target)
    return found if trusted or is_trusted(bundle) else IsolatedRuntime(bundle.manifest.target)


def package_reader(path: Path) -> PackageReader | None:
    """What looks into a target's own package; None for anything else, such as a bundle."""
    found = runtime(PACKAGES[path.suffix]) if path.suffix in PACKAGES else None
    return found if isinstance(found, PackageReader) else None


def _load(path: str) -> type:
    module, _, name = path.partition(":")
    return cast(type, getattr(import_module(module), name))


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group="edgevlm.targets")}


def _plugin(target: str) -> object:
    points = _plugins()
    if target not in points:
        raise UnsupportedError(f"no target {target!r}: expected one of {', '.join(targets())}")
    return points[target].load()
