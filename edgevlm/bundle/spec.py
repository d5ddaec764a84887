"""What crosses a seam, in numbers: tensors, components, and how pictures and words become tensors.

Every class here is a frozen dataclass of plain values, so that it can be hashed, compared, written into
a bundle's manifest and read back without loading a model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray

from edgevlm.schema import Quantity

F32 = NDArray[np.float32]
Array = F32 | NDArray[np.int32]


DType = Literal["float32", "int32"]
Resample = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
TextCanonicalisation = Literal["none", "siglip"]
ResizeRule = Literal["shortest_edge", "exact", "none"]
OF_TALKERS = {"since": "2.0", "omitted": True}
"""Metadata of keys that only the bundle of a model that talks has."""
Positive = Annotated[float, Quantity(above=0)]
Pixels = Annotated[int, Quantity("pixels", least=1)]
TokenId = Annotated[int, Quantity(least=0)]


@dataclass(frozen=True)
class TensorSpec:
    """One tensor at a component's boundary.

    >>> rows = TensorSpec("embeddings", "float32", (1, -1, 96), "rows of words and pictures")
    >>> rows.at(16)
    (1, 16, 96)

    Attributes:
        name: The name under which every backend takes or returns it.
        dtype: Element type at the boundary, whatever the precision inside.
        shape: Batch first. One axis may be -1: as many as the component is run with at once, one of its `lengths`.
        meaning: Value range, layout and units, in words.
    """

    name: str
    dtype: DType
    shape: tuple[Annotated[int, Quantity(least=-1)], ...]
    meaning: str

    @property
    def written(self) -> str:
        """What a part of a state is called after a run, in files that take it and give it back."""
        return f"{self.name}_written"

    def at(self, length: int) -> tuple[int, ...]:
        """The shape where -1 is `length`."""
        return tuple(length if size == -1 else size for size in self.shape)


@dataclass(frozen=True)
class ComponentSpec:
    """One exported function of a model.

    >>> pixels = TensorSpec("pixels", "float32", (1, 3, 64, 64), "RGB in 0..255")
    >>> embedding = TensorSpec("embedding", "float32", (1, 192), "unit vector")
    >>> spec = ComponentSpec("encode_image", inputs=(pixels,), outputs=(embedding,))
    >>> [tensor.name for tensor in spec.outputs]
    ['embedding']

    Attributes:
        name: `encode_image`, `encode_text`, `classify`, `embed_tokens` or `decode`; the key under which it stands.
        inputs: What it takes.
        outputs: What it returns.
        lengths: What -1 in a shape may be, ascending; empty where nothing has that axis.
        state: What it keeps from one run to the next, zeros at first.
        prefix: Of `decode`, whether a picture and a question are put in one run, whose rows all see each other: what
            begins a dialogue is no longer than the last of `lengths`. What follows sees what is before it, as always.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    lengths: tuple[Annotated[int, Quantity(least=1)], ...] = field(default=(), metadata=OF_TALKERS)
    state: tuple[TensorSpec, ...] = field(default=(), metadata=OF_TALKERS)
    prefix: bool = field(default=False, metadata={"since": "4.0", "omitted": True})

    def explicit(self, length: int, name: str | None = None) -> ComponentSpec:
        """The same for so many rows at once, its state among its inputs, and among its outputs as it is afterwards.

        Args:
            length: What -1 is; -1 where it stays what it is.
            name: What a file calls the component at this length.
        """
        inputs, outputs, state = (
            tuple(replace(tensor, shape=tensor.at(length)) for tensor in group)
            for group in (self.inputs, self.outputs, self.state)
        )
        written = (replace(tensor, name=tensor.written) for tensor in state)
        return ComponentSpec(name or self.name, (*inputs, *state), (*outputs, *written), prefix=self.prefix)

    def implicit(self) -> ComponentSpec:
        """The contrary of `explicit`: what it takes, and gives back as written, is a state that it keeps."""
        answers = {tensor.name for tensor in self.outputs}
        state = tuple(tensor for tensor in self.inputs if tensor.written in answers)
        written = {tensor.written for tensor in state}
        return replace(
            self,
            inputs=tuple(tensor for tensor in self.inputs if tensor not in state),
            outputs=tuple(tensor for tensor in self.outputs if tensor.name not in written),
            state=state,
        )

    @property
    def state_bytes(self) -> int:
        """What it keeps from one run to the next, in float32."""
        return sum(4 * math.prod(tensor.shape) for tensor in self.implicit().state or self.state)


@dataclass(frozen=True)
class ImagePreprocessing:
    """How a picture becomes the pixels that an artefact takes: resize, then centre crop.

    The artefact takes RGB pixels as float32 in 0..255, shape [1, 3, height, width]; rescaling and
    normalisation, `(pixel * rescale - mean) / std`, are inside its graph.

    >>> bundle = edgevlm.Bundle.open("dist/edgevlm-student-coreml-fp16.edgevlm")
    >>> image = bundle.manifest.image
    >>> image.resize, image.height, image.width
    ('shortest_edge', 64, 64)

    Attributes:
        height, width: Size of what the artefact takes.
        resize: `shortest_edge` scales so that the shorter side has `resize_height` pixels (then equal to
            `resize_width`); `exact` scales to `resize_height` x `resize_width`; `none` leaves the size.
        resize_height, resize_width: See `resize`; 0 where it is `none`.
        resample: Pillow's filter of that name, antialiased.
        centre_crop: Whether `height` x `width` is cut from the middle, zero-padded where the picture is
            smaller. Without it the resized picture has that size already.
        rescale: Factor from 0..255 to the range that `mean` and `std` expect, mostly 1/255.
        mean, std: Per channel, R G B.
    """

    height: Pixels
    width: Pixels
    resize: ResizeRule
    resize_height: Annotated[int, Quantity("pixels", least=0)]
    resize_width: Annotated[int, Quantity("pixels", least=0)]
    resample: Resample
    centre_crop: bool
    rescale: Positive
    mean: tuple[float, float, float]
    std: tuple[Positive, Positive, Positive]


@dataclass(frozen=True)
class TextPreprocessing:
    """How a text becomes the token ids that an artefact takes.

    >>> bundle = edgevlm.Bundle.open("dist/edgevlm-student-coreml-fp16.edgevlm")
    >>> bundle.manifest.text.context_length, bundle.manifest.text.lower_case
    (48, True)

    Attributes:
        context_length: Length of a row of ids, padding included.
        pad_id: Id that fills the rest, on the right.
        eot_id: Id that ends every text; kept when a text is cut to fit. None where the family has none.
        canonicalisation: Rule applied before the tokenizer: `siglip` removes ASCII punctuation and collapses white
            space (the family's own `canonicalize_text`), `none` does nothing.
        lower_case: Whether the text is lower-cased before the tokenizer sees it: as a whole with `siglip` (a final
            Greek sigma keeps its form), letter by letter with `none`.
        tokenizer_file: Path of the `tokenizer.json` in the bundle or checkpoint.
    """

    context_length: Annotated[int, Quantity("ids", least=1)]
    pad_id: TokenId
    eot_id: TokenId | None
    canonicalisation: TextCanonicalisation
    lower_case: bool
    tokenizer_file: str


@dataclass(frozen=True)
class Source:
    """Where a model came from.

    >>> bundle = edgevlm.Bundle.open("dist/edgevlm-student-coreml-fp16.edgevlm")
    >>> bundle.manifest.source.name, bundle.manifest.source.family
    ('edgevlm-student', 'student')

    Attributes:
        name: Folder name, hub id, or built-in name.
        family: `clip`, `siglip` or `student`; of a model that talks `llava`, `smolvlm`, `idefics3` or `blip`.
        revision: Hub commit, or `sha256:` of the weights for a folder or a built-in model.
        licence: SPDX id or the checkpoint's own word for it; `unknown` where it says nothing.
        fingerprint: sha256 of the float model that embeddings come from, in hexadecimal: of its tensors, its tokenizer
            and how it reads texts. None before a conversion, and for a model that talks.
    """

    name: str
    family: str
    revision: str
    licence: str
    fingerprint: str | None = field(default=None, metadata={"since": "1.5", "omitted": True})
