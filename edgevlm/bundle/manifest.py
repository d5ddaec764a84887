"""What `manifest.json` holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from edgevlm.bundle.dialogue import Dialogue
from edgevlm.bundle.integer_weights import WeightProof
from edgevlm.bundle.recipe import Recipe
from edgevlm.bundle.spec import (
    OF_TALKERS,
    ComponentSpec,
    ImagePreprocessing,
    Pixels,
    Positive,
    Source,
    TextPreprocessing,
)
from edgevlm.errors import InputError
from edgevlm.schema import Quantity

FORMAT_VERSION = "1.5"
TALKERS_VERSION = "2.2"
"""Of the format of models that talk, without which a reader cannot do: a dual encoder's stays in the older one."""
GRIDS_VERSION = "3.0"
"""Of models that talk whose pictures are scaled to grids of tiles, likewise."""
PREFIX_VERSION = "4.0"
"""Of those that answer one question, whose picture and question are put at once, or whose picture is beside the words
and has a token among them, likewise."""
VERSIONS = (FORMAT_VERSION, TALKERS_VERSION, GRIDS_VERSION, PREFIX_VERSION)
"""That are written."""
MANIFEST = "manifest.json"
SUFFIX = ".edgevlm"
AT_LEAST = frozenset(
    ("finite", "min_cosine", "centred_cosine", "top1_agreement", "same_answers", "same_tokens", "picture_matters")
)
"""Measures whose limit is the least that they may be; that of the others is the most."""
AT_MOST = frozenset(("max_abs_error", "mean_kl", "perplexity", "rounding"))
Bytes = Annotated[int, Quantity("bytes", least=0)]
MultiplyAdds = Annotated[int, Quantity("multiply-adds", least=0)]


@dataclass(frozen=True)
class PictureInput:
    """An input that the file takes as a picture: on Apple's systems a CVPixelBuffer, or whatever Vision makes one of.

    >>> bundle = edgevlm.Bundle.open("dist/edgevlm-student-coreml-fp16.edgevlm")
    >>> taken = bundle.components["encode_image"].pictures["pixels"]
    >>> taken.layout, taken.height, taken.width
    ('RGB', 64, 64)

    Attributes:
        layout: Order of the channels that its graph sees, whatever the picture's own.
        height, width: Of the picture, in pixels.
        scaling: What becomes of its values inside, in words: the numbers are those of `image`.
    """

    layout: Literal["RGB"]
    height: Pixels
    width: Pixels
    scaling: str


@dataclass(frozen=True)
class BundledComponent:
    """A component and the file, or package folder, that answers it.

    >>> bundle = edgevlm.Bundle.open("dist/edgevlm-student-coreml-fp16.edgevlm")
    >>> component = bundle.components["encode_image"]
    >>> component.file, [tensor.name for tensor in component.spec.inputs]
    ('encode_image.mlpackage', ['pixels'])

    Attributes:
        spec: What it takes and returns.
        file: Path of the file, or of the package's folder. Several components may share a file.
        pictures: Inputs that the file takes as pictures rather than as the arrays of `spec`, by name.
        functions: What the file calls it, where that is not its name, at each of its `lengths`: the number in decimal
            -> name; "1" of a component without lengths. Where lengths share a function, it takes any number of rows.
    """

    spec: ComponentSpec
    file: str
    pictures: Mapping[str, PictureInput] = field(default_factory=dict, metadata={"since": "1.4"})
    functions: Mapping[str, str] = field(default_factory=dict, metadata=OF_TALKERS)

    def function(self, length: int) -> str:
        """What the file calls the component when it is run with so many rows at once."""
        return self.functions.get(str(length), self.spec.name)


@dataclass(frozen=True)
class FileRecord:
    """What a file of the bundle must be.

    >>> bundle = edgevlm.Bundle.open("dist/edgevlm-student-coreml-fp16.edgevlm")
    >>> path, record = next(iter(bundle.manifest.files.items()))
    >>> record.size_bytes == (bundle.path / path).stat().st_size
    True

    Attributes:
        sha256: Of its content, 64 lower-case hexadecimal digits.
        size_bytes: Its size.
    """

    sha256: str
    size_bytes: Bytes


@dataclass(frozen=True)
class ParityCheck:
    """One comparison of the shipped file with the float reference.

    >>> bundle = edgevlm.Bundle.open("dist/edgevlm-student-coreml-fp16.edgevlm")
    >>> [check.value for check in bundle.manifest.parity.checks if check.measure == "finite"]
    [1.0, 1.0]

    Attributes:
        component: Which component, or `zero-shot` for answers that need both towers, or the runner of an app, such as
            `MultimodalRunner`, that was asked the same as the file. With ` (golden)` behind it, what failed by far on
            the samples of `golden.json`.
        measure: `max_abs_error`, `min_cosine`, `centred_cosine` (the mean cosine, once the float reference's mean
            embedding is taken from both), `top1_agreement` or `finite`; of a model that talks also `mean_kl`,
            `same_answers`, `same_tokens` (the share of the original's tokens that its own answers begin with),
            `perplexity` (of the original's answers, where weights are compressed), `picture_matters` (how much a grey
            picture in another's place changes logits), and `rounding`, how far logits move with pixels' last bits.
        value: What was measured.
        limit: What the recipe allows; None where the recipe sets no limit.
        passed: Whether the value is within the limit.
    """

    component: str
    measure: str
    value: Annotated[float, Quantity(finite=False)]
    limit: float | None
    passed: bool

    @classmethod
    def of(cls, component: str, measure: str, value: float, limit: float | None) -> ParityCheck:
        """One whose value is held against its limit: the least that it may be of cosines, shares and the like, else
        the most."""
        within = limit is None or (value >= limit if measure in AT_LEAST else value <= limit)
        return cls(component, measure, value, limit, within)


@dataclass(frozen=True)
class ParityReport:
    """All comparisons of one artefact.

    >>> bundle = edgevlm.Bundle.open("dist/edgevlm-student-coreml-fp16.edgevlm")
    >>> bundle.manifest.parity.evidence, bundle.manifest.parity.passed
    ('program-semantics', True)

    Attributes:
        evidence: `host-runtime` (the target's own runtime on the converting machine), `program-semantics` (the
            ML Program evaluator) or `device` (Apple's runtime).
        samples: Number of pictures compared.
        checks: The comparisons.
    """

    evidence: str
    samples: Annotated[int, Quantity("pictures", least=0)]
    checks: tuple[ParityCheck, ...]

    @property
    def passed(self) -> bool:
        """Whether something was compared, and all that was is within its limit."""
        return bool(self.checks) and all(check.passed for check in self.checks)


@dataclass(frozen=True)
class Labels:
    """A baked label set: `classify` answers in this order.

    >>> labels = edgevlm.Labels(names=("a cat", "a dog"), templates=("a photo of {}", "a drawing of {}"))
    >>> labels.names.index("a dog")  # the column of its scores
    1

    Attributes:
        names: What the answers are called.
        templates: Texts in which `{}` stands for the name.
        texts: For each label the texts whose embeddings were averaged, where descriptions are part of them; None
            where they are the filled templates.
    """

    names: tuple[str, ...]
    templates: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...] | None = None


@dataclass(frozen=True)
class CalibrationRecord:
    """The data that ranges were measured on.

    Attributes:
        data: What a user called it.
        texts: The file that texts came from; None where they are the data's own.
        samples: Number of pictures.
        seed: Of their choice.
        fingerprint: sha256 of what was chosen, in hexadecimal.
    """

    data: str
    texts: str | None
    samples: Annotated[int, Quantity("pictures", least=0)]
    seed: int
    fingerprint: str


@dataclass(frozen=True)
class Embedding:
    """What embeddings of a dual encoder are; see the manifest's keys of these names."""

    dim: int
    logit_scale: float
    logit_bias: float | None
    space_id: str


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` holds. Field order is the file's; `since` is the version of the format that brought a key.

    >>> bundle = edgevlm.Bundle.open("dist/edgevlm-student-coreml-fp16.edgevlm")
    >>> bundle.manifest.recipe.name, sorted(bundle.manifest.components)
    ('fp16', ['encode_image', 'encode_text'])

    Attributes:
        format_version: Of the bundle's format, `MAJOR.MINOR`.
        name: What the bundle is called; its folder is `NAME-TARGET-RECIPE.edgevlm`.
        target: `coreml`, `executorch`, `tflite`, or that of a package of somebody's own.
        components: What can be asked of the artefact, by name.
        image: How a picture becomes `pixels`.
        text: How a text becomes `token_ids`; None where there is no text tower.
        labels: What `classify` answers about; None where no labels are baked.
        embedding_dim: Length of an embedding; None for a model that gives none.
        logit_scale: Factor of a cosine before softmax or sigmoid; None for a model that gives no embeddings.
        embedding_space_id: A hash of all that moves embeddings. Embeddings may be compared where it is the same. None
            for a model that gives none.
        recipe: How the model was compressed.
        source: Where the model came from.
        requires: Least version of each platform or runtime that can load the artefact, such as `{"iOS": "16"}`.
        estimated_peak_memory_bytes: What the target's engine adds to a process at most while it opens the artefact and
            runs the component that needs most, or all of them and a dialogue's state, of a model that talks: weights as
            it keeps them, activations, the mapped file and its own library. A target that does not say: weights in
            float32 and activations.
        parity: How the shipped file compared with the float reference; None where that was not measured.
        tool_versions: Of every package that shaped the bundle.
        files: Every other file of the bundle, by its path.
        compressed_size_bytes: What the artefact's files come to in a compressed download (deflate).
        calibration: What ranges were measured on; None where none were.
        weights: Proof for each component whose weights are integers, that they arrived.
        multiply_adds: Of each component's convolutions, matrix products and attention.
        logit_bias: What is added to the scaled cosine of a model that was trained to tell of each picture and text by
            itself whether they fit, by sigmoid; None for a model whose scores are softmax.
        dialogue: How pictures and words become positions, of a model that talks; None for a dual encoder.
    """

    format_version: str
    name: str
    target: str
    components: Mapping[str, BundledComponent]
    image: ImagePreprocessing
    text: TextPreprocessing | None
    labels: Labels | None
    embedding_dim: Annotated[int, Quantity(least=1)] | None
    logit_scale: Positive | None
    embedding_space_id: str | None
    recipe: Recipe
    source: Source
    requires: Mapping[str, str]
    estimated_peak_memory_bytes: Bytes
    parity: ParityReport | None
    tool_versions: Mapping[str, str]
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    compressed_size_bytes: Bytes | None = field(default=None, metadata={"since": "1.1"})
    calibration: CalibrationRecord | None = field(default=None, metadata={"since": "1.1"})
    weights: tuple[WeightProof, ...] = field(default=(), metadata={"since": "1.1"})
    multiply_adds: Mapping[str, MultiplyAdds] = field(default_factory=dict, metadata={"since": "1.2"})
    logit_bias: float | None = field(default=None, metadata={"since": "1.4"})
    dialogue: Dialogue | None = field(default=None, metadata=OF_TALKERS)

    @property
    def verbs(self) -> str:
        """What can be asked of the bundle, in Python and on the command line: what a refusal of anything else lists."""
        if self.dialogue is not None:
            return "generate, chat, score and classify; edgevlm run --ask, run --labels and describe"
        both, encodes = {"encode_image", "encode_text"} <= self.components.keys(), "encode_image" in self.components
        classifies = both or self.labels is not None
        found = [*(self.components.keys() & {"encode_image", "encode_text"}), *(["classify"] if classifies else [])]
        lines = [
            *(["run --labels", "run --text"] if both else ["run"] if classifies else []),
            *(["index", "search"] if encodes else []),
        ]
        return f"{_and(sorted(found))}; edgevlm {_and(lines)}" if lines else _and(sorted(found))

    @property
    def embedding(self) -> Embedding:
        """What its embeddings are, of a dual encoder.

        Raises:
            InputError: the model gives none.
        """
        if self.embedding_dim is None or self.logit_scale is None or self.embedding_space_id is None:
            raise InputError(
                f"{self.name} talks, and gives no embeddings: what it has is {self.verbs}",
                hint="embeddings, and what is found by them, are a dual encoder's, such as CLIP's",
            )
        return Embedding(self.embedding_dim, self.logit_scale, self.logit_bias, self.embedding_space_id)


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def is_bundle(path: Path) -> bool:
    """Whether a path is that of a bundle, sound or not: by its ending, or a manifest in it.

    >>> is_bundle(Path("dist/edgevlm-student-coreml-fp16.edgevlm"))
    True
    """
    return path.suffix == SUFFIX or (path / MANIFEST).is_file()
