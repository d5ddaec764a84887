"""A package that is being changed, and what can be done to one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

from coremltools.proto import Model_pb2  # type: ignore[import-untyped]

from edgevlm.benchmarks.fuzzing.corpus import MODEL, Specimen

Expectation = Literal["any", "same", "refused"]
"""What must become of the mutant: either, the sound package's very answer, or a refusal."""

NUMBERS = (0, 1, -1, 2, 3, 5, 8, 64, 255, 1 << 16, (1 << 31) - 1, -(1 << 31), 1 << 31, 1 << 32, 1 << 40, 1 << 62,
           (1 << 63) - 1, -(1 << 63), (1 << 64) - 1)  # fmt: skip
"""Whole numbers at which code breaks."""


class Mutant:
    """A package as its files, its links, and its specification.

    Attributes:
        specimen: What it was.
        files: Path within the package -> content; the specification's is overridden by `spec` once that was read.
        links: Path within the package -> where it points to. `{outside}` stands for a sound copy of the package
            beside it.
        fifos: Paths of named pipes.
        appended: What follows the specification in its file, which merges it into the specification.
    """

    def __init__(self, specimen: Specimen) -> None:
        self.specimen = specimen
        self.files = dict(specimen.files)
        self.links: dict[str, str] = {}
        self.fifos: list[str] = []
        self.appended = b""
        self._spec: Any = None

    @property
    def spec(self) -> Any:
        """The specification's message, to be read and changed."""
        if self._spec is None:
            self._spec = Model_pb2.Model.FromString(self.files[MODEL])
        return self._spec

    @property
    def function(self) -> Any:
        """The function that is run."""
        return self.spec.mlProgram.functions[
            self.specimen.function or self.spec.description.defaultFunctionName or "main"
        ]

    @property
    def bodies(self) -> list[Any]:
        """The bodies of the function that is run, one for each opset in which it is written."""
        function = self.function
        return [function.block_specializations[opset] for opset in sorted(function.block_specializations)]

    def blocks(self) -> Iterator[Any]:
        """Every block, those of nested blocks after the one that has them."""
        waiting = self.bodies
        while waiting:
            block = waiting.pop(0)
            yield block
            waiting[:0] = [nested for operation in block.operations for nested in operation.blocks]

    def seal(self) -> None:
        """Turns the specification into its file."""
        if (self._spec is not None or self.appended) and MODEL in self.files:
            self.files[MODEL] = self.spec.SerializeToString(deterministic=True) + self.appended

    def write(self, folder: Path, outside: Path) -> None:
        """Writes the package.

        Args:
            folder: Must not exist yet.
            outside: The sound copy.
        """
        folder.mkdir()
        for path, content in self.files.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        for path, target in self.links.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).symlink_to(target.format(outside=outside))
        for path in self.fifos:
            os.mkfifo(folder / path)


@dataclass(frozen=True)
class Mutator:
    """One way to change a package.

    Attributes:
        change: Returns False if there is nothing in the mutant that it could change.
        weight: How often it is drawn.
    """

    name: str
    change: Callable[[Mutant, Random], bool]
    expects: Expectation
    weight: float


MUTATORS: list[Mutator] = []


def mutator(
    expects: Expectation = "any", weight: float = 1
) -> Callable[[Callable[[Mutant, Random], bool]], Callable[[Mutant, Random], bool]]:
    """Registers a function as a mutator of its own name."""

    def register(change: Callable[[Mutant, Random], bool]) -> Callable[[Mutant, Random], bool]:
        MUTATORS.append(Mutator(change.__name__.replace("_", " "), change, expects, weight))
        return change

    return register
