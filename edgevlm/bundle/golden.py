"""What `golden/golden.json` holds: every stage's right result, from picture file to score.

    golden/golden.json            what follows, by stage
    golden/<picture>.png|.jpg     pictures that hurt: wide, turned by EXIF, grey, with transparency
    golden/<picture>.rgb          what preprocessing must make of it: uint8 [H, W, 3], row by row
    golden/samples.png            the pictures of the parity samples, 64 x 64 each, in rows of twenty
    golden/reference.safetensors  the float reference's answers to all samples, a tensor `<component>.<output>` each

A test on the device decodes a picture and compares with the `.rgb`, tokenizes a text and compares the ids, runs the
artefact on both and compares the embeddings: with the float reference's, and with those that the shipped file itself
gave on the machine that converted it. The first stage that is farther off than `tolerances` says is where to look.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

from edgevlm import schema
from edgevlm.bundle.recipe import Recipe
from edgevlm.bundle.spec import TokenId
from edgevlm.errors import BundleError
from edgevlm.schema import Quantity

FOLDER = "golden"
GOLDEN = f"{FOLDER}/golden.json"
SAMPLE_SHEET = f"{FOLDER}/samples.png"
REFERENCE = f"{FOLDER}/reference.safetensors"
SIDE = 64
"""Pixels of a sample picture's side."""
COLUMNS = 20
"""Sample pictures in a row of the sheet."""
SCHEMA_VERSION = 2
TENSORS_OF_1 = {"image": "encode_image.embedding", "text": "encode_text.embedding", "scores": "classify.scores"}
"""What bundles up to format 1.2 called the reference's answers."""


class Apart(NamedTuple):
    """How far the embeddings of two right runtimes of one file may be apart."""

    max_abs_error: float
    min_cosine: float


ARITHMETIC = {"fp32": Apart(1e-5, 0.999999), "fp16": Apart(5e-3, 0.9999), "integers": Apart(2e-2, 0.995)}
"""By what activations are computed in: sums come in another order, and of integers a value that lies between two steps
is rounded to the other one, which moved the built-in student's embeddings by 0.005 and their cosine by 0.0003."""
SCORE_ERROR = 1e-6
"""By how much a score may differ, for each unit of the factor before the cosine: golden's numbers are float32's."""

GoldenAnswers: TypeAlias = Mapping[str, Mapping[str, tuple[float, ...]]]
"""What every component that takes the sample answers: component -> output -> its numbers, row by row."""
Side = Literal["reference", "shipped"]
Measure = Literal["max_abs_error", "mean_abs_error", "min_cosine"]


def arithmetic(recipe: Recipe) -> Apart:
    """How far a device's answers may be from those of the same file on another machine; see `ARITHMETIC`."""
    return ARITHMETIC[recipe.precision if recipe.activations.ranges == "float" else "integers"]


@dataclass(frozen=True)
class GoldenPicture:
    """A picture file, the pixels that it becomes and the reference's answers to them.

    Attributes:
        file: Path of the picture.
        pixels: Path of what it becomes: `height` x `width` x 3 bytes, R G B, row by row from the top.
        what: What is awkward about it, in words.
        answers: Of each component that takes `pixels`, each output's numbers, row by row: component, output, numbers.
        shipped: What the shipped file itself answered to `pixels` on the machine that converted it, likewise, on one
            thread; `{}` in older bundles.
    """

    file: str
    pixels: str
    what: str
    answers: GoldenAnswers = field(metadata={"since": "1.3"})
    shipped: GoldenAnswers = field(default_factory=dict, metadata={"since": "1.4"})


@dataclass(frozen=True)
class GoldenText:
    """A text, its token ids and the reference's answers to them.

    Attributes:
        text: The text.
        token_ids: `context_length` ids, padding included.
        answers: Of each component that takes `token_ids`, likewise.
        shipped: What the shipped file itself answered to `token_ids`, likewise.
    """

    text: str
    token_ids: tuple[TokenId, ...]
    answers: GoldenAnswers = field(metadata={"since": "1.3"})
    shipped: GoldenAnswers = field(default_factory=dict, metadata={"since": "1.4"})


@dataclass(frozen=True)
class Tolerance:
    """How near one's own results of a stage must be to golden's.

    Attributes:
        stage: `png` or `jpeg`: the pixels of pictures of that kind; `token_ids`; `COMPONENT.OUTPUT`, such as
            `encode_image.embedding`; or `scores`.
        beside: What they are held against: `reference` is what golden has of that stage, of a component's output its
            `answers`; `shipped` is that output in `shipped`.
        measure: `max_abs_error`: the largest absolute difference of two numbers, at most; `mean_abs_error`: the mean of
            these for one picture, at most; `min_cosine`: the cosine of two embeddings, at least.
        limit: That number, in the stage's own unit: grey levels of pixels, else the output's numbers.
    """

    stage: str
    beside: Side
    measure: Measure
    limit: Annotated[float, Quantity(least=-1)]


@dataclass(frozen=True)
class Golden:
    """What `golden.json` holds.

    Attributes:
        schema_version: Of this file: 2.
        pictures: What each picture becomes, stage by stage.
        texts: What each text becomes, stage by stage; empty where there is no text tower.
        scores: softmax over the texts of `logit_scale * picture . text`, or with a `logit_bias` the sigmoid of
            each, moved by it: a row for each of `pictures`, a number for each of `texts`.
        sample_texts: The texts of the parity samples; their pictures are in `samples.png`.
        tolerances: How near each stage must be on a device, in the order of the stages.
    """

    schema_version: int
    pictures: tuple[GoldenPicture, ...]
    texts: tuple[GoldenText, ...]
    scores: tuple[tuple[float, ...], ...]
    sample_texts: tuple[str, ...]
    tolerances: tuple[Tolerance, ...] = field(default=(), metadata={"since": "1.4"})


def read_golden(data: Any, *, where: str, newer: bool) -> Golden:
    """What `golden.json` says; what bundles up to format 1.2 have is read as well.

    Args:
        data: What `json.load` gave.
        where: The file's path, for errors.
        newer: Whether the bundle is of a newer minor version of the format, whose keys are left out.

    Raises:
        BundleError: another version of this file, or not what a golden.json holds.
    """
    version = data.get("schema_version") if isinstance(data, dict) else None
    if isinstance(version, bool) or not isinstance(version, int) or version not in (1, SCHEMA_VERSION):
        is_later = isinstance(version, int) and version > SCHEMA_VERSION
        raise BundleError(
            f"{where}: expected schema_version {SCHEMA_VERSION}, got {version!r}",
            hint="update edgevlm, or convert the model again with this one" if is_later else "convert the model again",
        )
    data = _upgraded(data, where) if version == 1 else data
    return schema.read(Golden, data, where=where, error=BundleError, ignored=[] if newer else None)


_ANSWERS_OF_1 = {
    "pictures": {"embedding": "encode_image", "scores": "classify"},
    "texts": {"embedding": "encode_text"},
}
"""The keys of a picture and of a text up to format 1.2, each with the component whose output it is; null without it."""


def _upgraded(data: dict[str, Any], where: str) -> dict[str, Any]:
    """A `golden.json` of bundles up to format 1.2, whose pictures and texts had a key an output."""

    def upgrade(sample: Any, components: Mapping[str, str], path: str) -> Any:
        if not isinstance(sample, dict):
            return sample
        for output in components:
            if output not in sample:
                raise BundleError(f"{where}{path}: the key {output!r} is missing")
        kept = {key: value for key, value in sample.items() if key not in components}
        answered = {name: {key: sample[key]} for key, name in components.items() if sample[key] is not None}
        return kept | {"answers": answered}

    found = data | {"schema_version": SCHEMA_VERSION}
    for key, components in _ANSWERS_OF_1.items():
        if isinstance(data.get(key), list):
            found[key] = [upgrade(sample, components, f".{key}[{i}]") for i, sample in enumerate(data[key])]
    return found
