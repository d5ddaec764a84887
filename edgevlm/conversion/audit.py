"""Whether a model fits into float16: asked before every fp16 conversion, and by `edgevlm audit`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgevlm.bundle.recipe import AUTO, BUILTIN, Recipe
from edgevlm.data.subsets import limit
from edgevlm.errors import UnsupportedError
from edgevlm.graphs.program import Programs
from edgevlm.inputs.pictures import Picture
from edgevlm.inputs.rows import Rows, make_rows
from edgevlm.parity.samples import sample_pictures, sample_texts
from edgevlm.process.progress import Progress
from edgevlm.targets import registry
from edgevlm.targets.converter import Converter, OpRange

if TYPE_CHECKING:
    from edgevlm.data.dataset import Dataset
    from edgevlm.models.model import Model

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


def audit(model: Model, targets: Sequence[str], samples: Rows, progress: Progress) -> tuple[Audit, ...]:
    """What float16 would make of a model on each target.

    Args:
        model: Its components are run in float32.
        targets: Names of targets.
        samples: Rows by the name of the input tensor, from `draw_samples`.
        progress: Told of each sample.
    """
    return tuple(
        Audit(target, registry.converter(target).audit(model.programs, BUILTIN["fp16"], samples, progress))
        for target in targets
    )


def draw_samples(model: Model, dataset: Dataset | None, count: int) -> Rows:
    """Pictures and texts as the model takes them: `pixels` float32 [N, 3, H, W] and `token_ids` int32 [M, L].

    Args:
        model: Whose preprocessing they go through.
        dataset: Its captions are the texts, or its labels where it has none; None takes the samples that parity is
            measured on.
        count: Of either, at most.

    Raises:
        ImageError: a picture cannot be read.
    """
    pictures: Sequence[Picture]
    if dataset is None:
        pictures, texts = list(sample_pictures()[:count]), sample_texts()
    else:
        dataset = limit(dataset, count)
        pictures = [dataset.picture(index) for index in range(len(dataset))]
        captions = [dataset.example(index).captions for index in range(len(dataset))]
        texts = tuple(each[0] for each in captions if each) or dataset.labels
    return make_rows(pictures, texts[:count], model.image, model.tokenizer)


def settle(
    converter: Converter, programs: Programs, recipe: Recipe, samples: Rows, progress: Progress
) -> tuple[Recipe, tuple[OpRange, ...]]:
    """The recipe with places in the stead of `auto`, and the ops that come close to float16's limits or below them.

    Raises:
        RecipeError: `float32_ops` names something that is not there.
        UnsupportedError: an op overflows, and the recipe neither keeps it in float32 nor says `auto`.
    """
    if recipe.precision != "fp16":
        return recipe, ()
    ops = converter.audit(programs, recipe, {name: rows[:SAMPLES] for name, rows in samples.items()}, progress)
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
