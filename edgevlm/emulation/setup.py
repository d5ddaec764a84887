"""All that counting on an emulated device needs: fetched and built once, and kept in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgevlm.devices import site
from edgevlm.devices.profile import Profile
from edgevlm.emulation import plugin, root, runner, tools
from edgevlm.emulation.parts import Part
from edgevlm.emulation.tools import Qemu
from edgevlm.errors import DeviceError
from edgevlm.process.progress import Progress, silent

TARGETS = ("tflite", "executorch")


@dataclass(frozen=True)
class Setup:
    """What is there.

    Attributes:
        qemu: The emulator, which is the system's own.
        system: The root file system.
        plugin: What counts.
        packages: Wheels for Python, and EdgeVLM's own modules; empty where no target asks for them.
        runner: What runs `.pte` files; None where no target asks for it.
    """

    qemu: Qemu
    system: Part
    plugin: Part
    packages: tuple[Part, ...]
    runner: Part | None

    @property
    def parts(self) -> tuple[Part, ...]:
        """All that the cache holds of it."""
        return (self.system, self.plugin, *self.packages, *([self.runner] if self.runner else []))


def setup(profile: Profile, progress: Progress = silent) -> Setup:
    """Prepares for a device all that its targets need.

    Raises:
        DeviceError: QEMU has no such processor, a program is missing, or there is no network the first time.
    """
    if not any(cluster.qemu_cpu for cluster in profile.cpu):
        raise DeviceError(
            f"{profile.title}: expected a cluster with qemu_cpu, got none, so that it cannot be emulated",
            hint="edgevlm devices lists what each device can be asked",
        )
    return prepare([target for target in TARGETS if target in profile.targets], progress)


def prepare(targets: Sequence[str], progress: Progress = silent) -> Setup:
    """Prepares what bundles of these targets need.

    Raises:
        DeviceError: a target has no runtime on emulated devices, a program is missing, or there is no network.
    """
    for target in targets:
        if target not in TARGETS:
            raise DeviceError(
                f"expected a bundle for {' or '.join(TARGETS)} to count on a device, got one for {target}"
            )
    qemu = tools.qemu()
    counting = plugin.build(progress)
    system = root.prepare(progress)
    python = root.python(system)
    packages = _packages(python, progress) if "tflite" in targets else ()
    built = runner.build(python, progress) if "executorch" in targets else None
    return Setup(qemu, system, counting, packages, built)


def _packages(python: str, progress: Progress) -> tuple[Part, ...]:
    requirements = [site.pinned(name) for name in (*site.PACKAGES, site.BACKENDS["tflite"], site.OF_TALKERS)]
    wheels = site.site_packages(requirements, python=python, architecture="aarch64", progress=progress)
    version = ", ".join(each.replace("==", " ") for each in requirements)
    return (Part("packages", wheels, version), Part("EdgeVLM", site.own_sources(), ""))
