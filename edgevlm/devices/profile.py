"""What is known of a device: its processor, its memory, how it is reached, and who measured what on it.

The built-in profiles are in `profiles.yaml`, which says what each key means; a user's own file looks the same.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from edgevlm import schema
from edgevlm.bundle.recipe import refuse_bad_name
from edgevlm.devices.address import parse
from edgevlm.errors import DeviceError
from edgevlm.schema import Quantity
from edgevlm.targets import registry

Reach = Literal["local", "ssh", "adb", "qemu-user", "none"]


@dataclass(frozen=True)
class Cluster:
    """Cores of one kind.

    Attributes:
        core: What its maker calls it, such as `Cortex-A76`.
        cores: How many there are.
        clock_mhz: At most.
        qemu_cpu: QEMU's name of a CPU that has the same instructions.
        stands_in: Whether that one is another core than `core`.
        dot_product: Whether it has Armv8.2's dot products of int8, which XNNPACK's int8 kernels use.
        fma_lanes: float32 multiply-adds a cycle that it can begin; see `edgevlm.bench.estimates.published`. 0
            where unknown.
    """

    core: str
    cores: Annotated[int, Quantity("cores", least=1)]
    clock_mhz: Annotated[int, Quantity("MHz", least=1)]
    qemu_cpu: str = ""
    stands_in: bool = False
    dot_product: bool = False
    fma_lanes: Annotated[int, Quantity("multiply-adds", least=0)] = 0


@dataclass(frozen=True)
class Profile:
    """A device.

    Attributes:
        title: What people call it.
        reach: How it is asked where no address is given: `qemu-user` emulates it; `none` cannot.
        chip: The system on a chip.
        cpu: Its clusters, the fastest first. Empty for this host, which tells by itself.
        memory_mb: RAM in MiB; 0 where it is not known.
        bandwidth_gb_s: Of the memory, in 10^9 bytes a second; 0 where it is not known.
        system: The oldest operating system that it was sold with, or `linux`; says which targets it can run.
        targets: Those that it can run.
        address: `ssh://user@host[:port]` or `adb://serial`, in a user's own profile.
        python: The interpreter over there; found by itself where empty.
        runner: What takes the place of Python on a phone: an executable here, or a folder of them. See
            `edgevlm.bench.phones.runners`.
        sources: Where the figures above are from.
    """

    title: str
    reach: Reach
    chip: str
    targets: tuple[str, ...]
    cpu: tuple[Cluster, ...] = ()
    memory_mb: Annotated[int, Quantity("MiB", least=0)] = 0
    bandwidth_gb_s: Annotated[float, Quantity("GB a second", least=0)] = 0.0
    address: str = ""
    python: str = ""
    runner: str = ""
    sources: tuple[str, ...] = field(default=())

    @property
    def fastest(self) -> Cluster | None:
        """The cores that one thread runs on."""
        return self.cpu[0] if self.cpu else None


@cache
def builtin() -> Mapping[str, Profile]:
    """The built-in profiles by name."""
    text = (files("edgevlm.devices") / "profiles.yaml").read_text(encoding="utf-8")
    return _profiles(schema.parse_yaml(text, where="profiles.yaml", error=DeviceError), "profiles.yaml")


def read(path: Path) -> Mapping[str, Profile]:
    """The profiles in a user's file.

    Raises:
        DeviceError: it is missing, or holds something else.
    """
    hint = "edgevlm devices --show NAME prints one to copy"
    return _profiles(schema.read_yaml(path, error=DeviceError, hint=hint), str(path))


def find(name: str, known: Mapping[str, Profile]) -> Profile:
    """The profile of that name.

    Raises:
        DeviceError: there is none; near names are suggested.
    """
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        raise DeviceError(
            f"no device {name!r}",
            hint=f"{' or '.join(near)}?"
            if near
            else "edgevlm devices lists them; ssh://USER@HOST and adb://SERIAL work too",
        )
    return known[name]


def _profiles(data: Mapping[str, object], where: str) -> Mapping[str, Profile]:
    for name in data:
        refuse_bad_name(name, f"{where}: a device's name", DeviceError)
    targets = registry.targets()
    return {name: _read(value, targets, f"{where}: {name}") for name, value in data.items()}


def _read(value: object, targets: tuple[str, ...], where: str) -> Profile:
    """One profile; with `like: NAME` it is that built-in one but for what it says itself."""
    if isinstance(value, Mapping) and "like" in value:
        name = str(value["like"])
        if name not in builtin():
            raise DeviceError(f"{where}: like: no built-in device {name!r}", hint="edgevlm devices lists them")
        own = {key: item for key, item in value.items() if key != "like"}
        value = {**schema.write(builtin()[name]), **own}
    profile = schema.read(Profile, value, where=where, error=DeviceError)
    for target in profile.targets:
        if target not in targets:
            raise DeviceError(f"{where}: targets: expected some of {', '.join(targets)}, got {target!r}")
    try:
        return replace(profile, reach=parse(profile.address).scheme) if profile.address else profile
    except DeviceError as error:
        raise DeviceError(f"{where}: address: {error.message}", hint=error.hint) from error
