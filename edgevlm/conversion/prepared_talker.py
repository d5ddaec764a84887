"""A model that talks, made ready to be lowered."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgevlm.bundle.golden_dialogues import GoldenDialogues
from edgevlm.bundle.recipe import Recipe
from edgevlm.bundle.spec import Array
from edgevlm.conversion import dialogue_rows
from edgevlm.errors import CheckpointError, UnsupportedError, named_failures
from edgevlm.graphs.outline import Outline, outline
from edgevlm.graphs.program import Programs, unrolled
from edgevlm.inference.generator import Generator
from edgevlm.inputs.chat import Message
from edgevlm.inputs.rows import Rows
from edgevlm.parity import generation
from edgevlm.process.progress import Progress
from edgevlm.targets.converter import Arranger, Converter, Unsupported

if TYPE_CHECKING:
    from edgevlm.compression.compression import Compressed, Made
    from edgevlm.models.speaking import SpeakingOriginal
    from edgevlm.models.talker import Talker


class PreparedTalker:
    """A loaded model that talks, for all targets; `edgevlm.conversion.prepared.Prepared` is the same of dual encoders.

    Args:
        model: What was loaded.
    """

    calibration = None

    def __init__(self, model: Talker) -> None:
        self.model = model
        self.programs = model.programs
        self._compressed: Made = {}
        self._golden: GoldenDialogues | None = None
        self._audit_rows: Rows | None = None

    @cached_property
    def original(self) -> Generator:
        """The float original, to be asked."""
        return self.model.through(_Seen(self.model.original))

    def compress(self, recipe: Recipe, converter: Converter, progress: Progress) -> Compressed:
        """The functions of a target's file, as the recipe wants them: a component's is made once, for any length.

        Raises:
            UnsupportedError: what `unsupported` lists.
        """
        from edgevlm.compression.compression import compress

        for problem in self.unsupported(recipe):
            raise UnsupportedError(f"recipe {recipe.name}: {problem.what}", hint=problem.instead)
        longest, arranged = self.model.dialogue.context_length, self.arranged(converter)
        whole = {name: self.programs[program.spec.name].ranged(longest) for name, program in arranged.items()}
        with named_failures(f"recipe {recipe.name}: compression"):
            found = compress(whole, recipe, {}, progress, self._compressed)
        modules = {name: program.module for name, program in found.programs.items()}
        return replace(found, programs={name: replace(each, module=modules[name]) for name, each in arranged.items()})

    def unsupported(self, recipe: Recipe) -> tuple[Unsupported, ...]:
        """Ranges that are measured, and palettes and pruning, which decide on a graph and not on its weights."""
        if recipe.needs_calibration or recipe.weights.dtype.startswith("palette") or recipe.weights.sparsity:
            what = "models that talk have no measured ranges, palettes or pruning as yet"
            return (Unsupported(what, instead="--recipe int8, int8-weights or int4-weights"),)
        return ()

    def arranged(self, converter: Converter) -> Programs:
        """The functions of a target's file, in float32.

        Raises:
            UnsupportedError: the target cannot hold the lengths.
        """
        if isinstance(converter, Arranger):
            return converter.arrange(self.programs, self.model.dialogue)
        return unrolled(self.programs)

    def outlined(self, converter: Converter) -> dict[str, Outline]:
        """The same, seen without running them; a component that stands there as it is has been seen already."""
        found = {}
        for name, program in self.arranged(converter).items():
            component = program.spec.name
            as_it_is = program.spec == self.programs[component].spec
            found[name] = self.outlines[component] if as_it_is else outline(program)
        return found

    def golden(self, progress: Progress) -> GoldenDialogues:
        """What the original says, asked once for all targets."""
        if self._golden is None:
            self._golden = generation.make(self.original, progress)
        return self._golden

    @cached_property
    def audited(self) -> Programs:
        """What ranges in float16 are measured of; see `dialogue_rows.audited`."""
        return dialogue_rows.audited(self.programs)

    def audit_rows(self, progress: Progress) -> Rows:
        """What they are measured on: golden's dialogues, put to the components once for all targets."""
        if self._audit_rows is None:
            self._audit_rows = dialogue_rows.dialogue_rows(
                self.model, generation.golden_questions(self.original), progress, self.original.see
            )
        return self._audit_rows

    def check_original(self) -> None:
        """Asks the original for one step, which takes seconds at most: before the long work.

        Raises:
            CheckpointError: it answers NaN or infinity.
        """
        with named_failures(f"{self.model.source.name}: asking the original"):
            self._check_original()

    def _check_original(self) -> None:
        original = self.original
        seen = original.see(Image.new("RGB", (96, 8), (128, 128, 128)))  # few tiles, where it is cut
        written = original.write([Message("user", self.model.dialogue.describe, 1)], seen)
        if not np.isfinite(original.begin(original.place(), written, seen)).all():
            raise CheckpointError(
                f"{self.model.source.name}: decode: expected numbers, and the original's own answer is none",
                hint="the training has diverged, or these weights were never trained: take another state",
            )

    @property
    def peak_bytes(self) -> int:
        """Estimate for the largest component: its weights in float32 and its activations."""
        return max(seen.activation_bytes + seen.weight_bytes for seen in self.outlines.values())

    @cached_property
    def outlines(self) -> dict[str, Outline]:
        """Every component, seen without running it, at its longest."""
        return {name: outline(program) for name, program in self.programs.items()}


class _Seen:
    """The original, which is shown each of golden's pictures several times, and computes what it sees once."""

    def __init__(self, session: SpeakingOriginal) -> None:
        self._session = session
        self._known: dict[bytes, dict[str, NDArray[np.float32]]] = {}

    def make_state(self, component: str) -> Any:
        return self._session.make_state(component)

    def run(
        self, component: str, inputs: Mapping[str, Array], state: Any | None = None
    ) -> dict[str, NDArray[np.float32]]:
        return self._session.run(component, inputs, state)

    def run_each(self, component: str, inputs: Sequence[Mapping[str, Array]]) -> list[dict[str, NDArray[np.float32]]]:
        contents = [hashlib.sha256(b"".join(array.tobytes() for array in each.values())).digest() for each in inputs]
        new = {content: each for content, each in zip(contents, inputs, strict=True) if content not in self._known}
        self._known.update(zip(new, self._session.run_each(component, [*new.values()]), strict=True))
        return [self._known[content] for content in contents]

    def close(self) -> None:
        self._session.close()
