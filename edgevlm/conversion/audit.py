"""Whether a model fits into float16: asked before every fp16 conversion, and by `edgevlm audit`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from edgevlm.bundle.recipe import AUTO, BUILTIN, Recipe
from edgevlm.conversion.dialogue_rows import audited, dialogue_rows
from edgevlm.data.subsets import limit
from edgevlm.errors import UnsupportedError
from edgevlm.graphs.program import Programs
from edgevlm.inputs.pictures import Picture
from edgevlm.inputs.rows import Rows, make_rows
from edgevlm.parity.generation import golden_questions
from edgevlm.parity.samples import sample_pictures, sample_texts
from edgevlm.process.progress import Progress
from edgevlm.targets import registry
from edgevlm.targets.converter import Converter, OpRange

if TYPE_CHECKING:
    from edgevlm.data.dataset import Dataset
    from edgevlm.models.model import Model
    from edgevlm.models.talker import Talker

SAMPLES = 16
"""Of pictures, and of texts, that are run before each conversion."""


@dataclass(frozen=True)
class Audit:
    """What float16 would make of a model on one target.

    Attributes:
        target: Which.
        ops: Every op that computes; none where the target's arithmetic is float32.
    """

    target: str
    ops: tuple[OpRange, ...]

    @property
    def float32_ops(self) -> tuple[str, ...]:
        """What a recipe has to keep in float32."""
        return _places(self.ops)

    @property
    def overflows(self) -> bool:
        """Whether an fp16 conversion would be refused."""
        return any(op.verdict == "overflow" for op in self.ops)


def audit(model: Model | Talker, targets: Sequence[str], samples: Rows, progress: Progress) -> tuple[Audit, ...]:
    """What float16 would make of a model on each target.

    Args:
        model: Its components are run in float32.
        targets: Names of targets.
        samples: Rows by the name of the input tensor, from `draw_samples`.
        progress: Told of each sample.
    """
    programs = audited(model.programs)  # a dual encoder's have no lengths, and stay as they are
    return tuple(
        Audit(target, registry.converter(target).audit(programs, BUILTIN["fp16"], samples, progress))
        for target in targets
    )


def draw_samples(model: Model | Talker, dataset: Dataset | None, count: int, progress: Progress) -> Rows:
    """Pictures and texts as the model takes them: `pixels` float32 [N, 3, H, W] and `token_ids` int32 [M, L].

    Of a model that talks, what its components take while it is asked about the pictures; see `dialogue_rows`.

    Args:
        model: Whose preprocessing they go through.
        dataset: Its captions are the texts, or its labels where it has none; a model that talks is asked its own
            question about each picture. None takes the samples that parity is measured on.
        count: Of either, at most.
        progress: Told of each dialogue.

    Raises:
        ImageError: a picture cannot be read.
    """
    from edgevlm.models.talker import Talker

    if isinstance(model, Talker):
        return dialogue_rows(model, _questions(model, dataset, count), progress)
    pictures: Sequence[Picture]
    if dataset is None:
        pictures, texts = list(sample_pictures()[:count]), sample_texts()
    else:
        dataset = limit(dataset, count)
        pictures = [dataset.picture(index) for index in range(len(dataset))]
        captions = [dataset.example(index).captions for index in range(len(dataset))]
        texts = tuple(each[0] for each in captions if each) or dataset.labels
    return make_rows(pictures, texts[:count], model.image, model.tokenizer)


def _questions(model: Talker, dataset: Dataset | None, count: int) -> list[tuple[Picture | None, str]]:
    if dataset is None:
        return golden_questions(model.generator)
    dataset = limit(dataset, count)
    return [(dataset.picture(index), model.dialogue.describe) for index in range(len(dataset))]


class Audited(Protocol):
    """A loaded model, made ready: what ranges are measured of, and on."""

    @property
    def audited(self) -> Programs: ...

    def audit_rows(self, progress: Progress) -> Rows: ...


def settle(
    converter: Converter, source: Audited, recipe: Recipe, progress: Progress
) -> tuple[Recipe, tuple[OpRange, ...]]:
    """The recipe with places in the stead of `auto`, and the ops that come close to float16's limits or below them.

    Args:
        converter: The target's.
        source: Asked for rows only where the recipe computes in float16.
        recipe: Which.
        progress: Told of each sample.

    Raises:
        RecipeError: `float32_ops` names something that is not there.
        UnsupportedError: an op overflows, and the recipe neither keeps it in float32 nor says `auto`.
    """
    if recipe.precision != "fp16":
        return recipe, ()
    rows = {name: those[:SAMPLES] for name, those in source.audit_rows(progress).items()}
    ops = converter.audit(source.audited, recipe, rows, progress)
    beyond = [op for op in ops if op.verdict == "overflow"]
    if AUTO in recipe.float32_ops:
        places = _places(ops)
        ops = tuple(op for op in ops if not op.float32_ops)
        named = tuple(place for place in recipe.float32_ops if place != AUTO)
        recipe = replace(recipe, float32_ops=(*named, *places))
    elif beyond:
        worst = max(beyond, key=lambda op: op.peak)
        raise UnsupportedError(
            f"{converter.target} cannot hold this in float16, which ends at 65,504: {worst.place}: "
            f"{worst.kind} reaches {worst.peak:.3g}{f', and {len(beyond) - 1} more' if len(beyond) > 1 else ''}",
            hint=f"--recipe FILE, a YAML file that says\n{recipe_lines(_places(beyond))}\n"
            f"  or with float32_ops: [{AUTO}], which finds them; or --recipe fp32",
        )
    return recipe, tuple(op for op in ops if op.verdict in ("near", "underflow"))


def recipe_lines(float32_ops: Sequence[str]) -> str:
    """A recipe that keeps these in float32."""
    return "\n".join(["precision: fp16", "float32_ops:", *(f"  - {place}" for place in float32_ops)])


def _places(ops: Sequence[OpRange]) -> tuple[str, ...]:
    return tuple(sorted({place for op in ops for place in op.float32_ops}))
