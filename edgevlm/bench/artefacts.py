"""What is to be benchmarked: the components of bundles, and other toolchains' files of the same model."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgevlm.bench.results import Artefact
from edgevlm.bundle.bundle import Bundle, hash_file
from edgevlm.bundle.dialogue import DECODE, ENCODE_IMAGE
from edgevlm.bundle.manifest import MANIFEST, SUFFIX
from edgevlm.devices.machine import Machine
from edgevlm.emulation import runner
from edgevlm.emulation.runner import PROGRAM
from edgevlm.errors import DeviceError, InputError
from edgevlm.onboard.answers import parts
from edgevlm.process.progress import Progress
from edgevlm.targets import litert_lm

_RUNNERS_ARCHITECTURE = "aarch64"
_PATIENCE = 10.0  # times as long as for an embedding
_ANY_PYTHON = "3.11"  # the runner is made from a wheel, and holds nothing of its Python


class Subject(Protocol):
    """One component of one artefact; of one that talks, a part of an answer."""

    @property
    def artefact(self) -> Artefact: ...

    @property
    def component(self) -> str: ...

    @property
    def on_cpu(self) -> bool:
        """Whether the number of CPU threads and the process's memory say anything of it."""

    def job(self, machine: Machine, progress: Progress) -> Mapping[str, Any]:
        """Sends the artefact to a machine, and gives what a job there calls it."""

    def command(self, device: str) -> str:
        """What a user types to repeat it."""


@dataclass(frozen=True)
class BundledSubject:
    """A component, or a part of an answer, of one of our bundles; see `Subject`."""

    bundle: Bundle
    artefact: Artefact
    component: str
    on_cpu: bool = True
    options: tuple[str, ...] = ()

    @property
    def talks(self) -> bool:
        """Whether it is of a model that talks."""
        return self.bundle.manifest.dialogue is not None

    @property
    def reads_bytes(self) -> int:
        """What an inference is taken to read from memory: the whole artefact, other towers included.

        Of one that talks, the model of what is run, once; and of a prompt or a token the state, all of it, since keys
        and values of every place are looked at, whether it is taken or not.
        """
        if not self.talks:
            return self.artefact.size_bytes
        if self.component == ENCODE_IMAGE:
            return _model_bytes(self.bundle, ENCODE_IMAGE)
        return _model_bytes(self.bundle, DECODE) + self.bundle.components[DECODE].spec.state_bytes

    def job(self, machine: Machine, progress: Progress) -> Mapping[str, Any]:
        """Sends the bundle, and a runner where it needs torch and the machine has none."""
        job: dict[str, Any] = {"bundle": machine.put(self.bundle.path, progress), "component": self.component}
        if self.talks:
            job["patience"] = _PATIENCE
        if self.artefact.target == "executorch" and "torch" not in machine.packages:
            if self.talks:
                raise DeviceError(
                    "an ExecuTorch bundle that talks needs torch and executorch over there",
                    hint="pip install executorch, over there",
                )
            job["native"] = f"{machine.put(_runner(machine, progress), progress)}/{PROGRAM}"
        return job

    def command(self, device: str) -> str:
        """`edgevlm bench ...`."""
        return command(self.bundle.path, device, self.component, *self.options)


def _model_bytes(bundle: Bundle, component: str) -> int:
    """Of the file that has a component; of a container of several models, of the one that has it."""
    path = bundle.path / bundle.components[component].file
    if path.suffix != litert_lm.SUFFIX:
        return bundle.file_bytes(component)
    name = {ENCODE_IMAGE: litert_lm.VISION_ENCODER, DECODE: litert_lm.DECODER}[component]
    start, stop = litert_lm.models(path)[litert_lm.MODELS.index(name)]
    return stop - start


def command(bundle: Path, device: str, component: str, *options: str) -> str:
    """What a user types to repeat a figure."""
    return shlex.join(["edgevlm", "bench", str(bundle), "--device", device, "--component", component, *options])


def subjects(
    bundles: Sequence[Bundle], components: Sequence[str], options: tuple[str, ...] = ()
) -> tuple[BundledSubject, ...]:
    """Every component of the bundles, or those of these names.

    Args:
        bundles: Of which.
        components: Their names; all where empty.
        options: For the command that repeats a figure.

    Raises:
        InputError: no bundle has a component of that name.
    """
    found = tuple(_subjects(bundles, components, options))
    known = {name for bundle in bundles for name in _names(bundle)}
    for name in components:
        if name not in known:
            raise InputError(f"no bundle has a component {name!r}: expected one of {', '.join(sorted(known))}")
    return found


def describe(bundle: Bundle) -> Artefact:
    """What results call a bundle."""
    manifest = bundle.manifest
    checks = manifest.parity.checks if manifest.parity else ()
    cosines = [check.value for check in checks if check.measure == "centred_cosine"]
    return Artefact(
        name=bundle.path.name.removesuffix(SUFFIX),
        model=manifest.source.name,
        target=manifest.target,
        recipe=manifest.recipe.name,
        sha256=hash_file(bundle.path / MANIFEST),
        size_bytes=bundle.artefact_bytes,
        accuracy=min(cosines, default=None),
    )


def open_all(paths: Sequence[Path]) -> tuple[Bundle, ...]:
    """Opens and checks bundles, each once.

    Raises:
        BundleError: one is damaged or none.
        InputError: two have the same name, so that a report could not tell them apart.
    """
    bundles = [Bundle.open(path) for path in {path.resolve(): path for path in paths}.values()]
    names = [bundle.path.name for bundle in bundles]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two bundles are called {name}", hint="convert one of them again with --name")
    return tuple(bundles)


def _runner(machine: Machine, progress: Progress) -> Path:
    """The folder of the program that runs `.pte` files without torch.

    Raises:
        DeviceError: there is none for such a machine, or it cannot be built here.
    """
    if machine.architecture != _RUNNERS_ARCHITECTURE:
        raise DeviceError(
            f"an ExecuTorch bundle needs torch and executorch over there, or a processor of {_RUNNERS_ARCHITECTURE}, "
            f"for which there is a runner; it has {machine.architecture}",
            hint="pip install executorch, over there",
        )
    return runner.build(_ANY_PYTHON, progress).path


def _names(bundle: Bundle) -> Collection[str]:
    dialogue = bundle.manifest.dialogue
    return bundle.components if dialogue is None else parts(dialogue)


def _subjects(
    bundles: Sequence[Bundle], components: Sequence[str], options: tuple[str, ...]
) -> Iterator[BundledSubject]:
    for bundle in bundles:
        artefact = describe(bundle)
        for name in _names(bundle):
            if not components or name in components:
                yield BundledSubject(bundle, artefact, name, options=options)
