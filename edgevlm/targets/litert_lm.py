"""LiteRT-LM's container, a `.litertlm`: what the functions of its models take and give, writing one and reading it.

The runtime knows pictures as rows among those of words, and caches that it hands from run to run. `Beside` is how a
decoder that looks at a picture beside its words is told in these terms.

Source: https://github.com/google-ai-edge/LiteRT-LM, schema, runtime/proto and runtime/executor.
"""

from __future__ import annotations

import re
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil, prod
from pathlib import Path
from typing import Any

from edgevlm.bundle.dialogue import ASKED, DECODE, EMBEDDINGS, ENCODE_IMAGE, ENDED, FEATURES, LOGITS, POSITIONS, SHOWN
from edgevlm.bundle.manifest import BundledComponent
from edgevlm.bundle.spec import ComponentSpec, TensorSpec
from edgevlm.errors import BundleError, MissingDependency

SUFFIX = ".litertlm"
VISION_ENCODER, EMBEDDER, DECODER = "vision_encoder", "embedder", "decoder"
"""The models of a container. The first two have one function each, of the same name; the third's are `prefill_N` and
`decode`."""
MODELS = (VISION_ENCODER, EMBEDDER, DECODER)
"""In their order in the file."""
LEAST_RUNTIME = "0.18"
"""The LiteRT-LM that these containers were run with."""
IMAGES, INPUT_POS = "images", "input_pos"
PLACEHOLDER = "<picture>"
"""What stands for a picture in a dialogue that is written out, where the model has no token for it."""
_MAGIC, _HEADER_BEGIN, _HEADER_END = b"LITERTLM", 32, 24
_HEADER_MOST, _SECTIONS_MOST = 1 << 20, 64
_SECTIONS, _OBJECTS, _BEGIN, _END, _KIND = 6, 4, 6, 8, 10
"""Fields of the header's tables, by their places in a vtable."""
_MODEL = 3
"""The kind of a section that is a TFLite model."""
_PATCHES_MOST = 16
"""In one row: what a row of a word is padded to is written with every word."""
_STAMP = {"uuid": "00000000-0000-0000-0000-000000000000", "creation_timestamp": "1970-01-01T00:00:00+00:00"}


@dataclass(frozen=True)
class Beside:
    """What a picture is to a decoder that takes it beside its rows; nothing where pictures stand among words.

    A container's picture is rows, which come first and take positions of their own, with the keys and values of all
    layers side by side. From there `prefill_N` writes them into caches of the runtime's, beside those of the words.
    Rows of words are padded to the same width, and stand from position 0 on as far as the decoder itself is concerned.
    It computes all that it does for a row of words for one of the picture too, to no purpose: so a row holds several
    patches, as many as make the picture two chunks of a prompt.

    All caches are flat: the runtime takes the third size of one for the number of all positions, and neither those of
    words nor those of the picture have so many.

    Attributes:
        tensors: `picture_keys_0`, `picture_values_0`, ..., float32 [1, heads, P, D] each.
        patches: How many of the P are in a row.
    """

    tensors: tuple[TensorSpec, ...] = ()
    patches: int = 1

    @classmethod
    def of(cls, encode_image: ComponentSpec, longest: int, *, prefix: bool = False) -> Beside:
        """By what `encode_image` answers.

        Args:
            encode_image: Of the component, or of its function in a file.
            longest: Of a prompt's chunks, the last of the lengths of `decode`.
            prefix: Whether picture and question are put at once, so that LiteRT-LM cannot ask: nothing is beside then.

        Raises:
            BundleError: tensors of other shapes.
        """
        tensors = () if prefix else tuple(each for each in encode_image.outputs if each.name != FEATURES)
        if any(len(each.shape) != 4 or each.shape[2] != tensors[0].shape[2] for each in tensors):
            raise BundleError(
                f"{encode_image.name}: expected features, or keys and values [1, heads, P, D] of P patches, got "
                f"{', '.join(f'{each.name} {list(each.shape)}' for each in tensors[:4])}"
            )
        return cls(tensors, min(_PATCHES_MOST, ceil(tensors[0].shape[2] / (2 * longest))) if tensors else 1)

    @property
    def positions(self) -> int:
        """How many the picture takes; those of the words are counted from there."""
        return ceil(self.tensors[0].shape[2] / self.patches) if self.tensors else 0

    @property
    def widths(self) -> tuple[int, ...]:
        """Of each tensor's part of a patch."""
        return tuple(prod(each.shape) // each.shape[2] for each in self.tensors)

    def width(self, of_words: int) -> int:
        """Of a row, by that of words alone, which is smaller than that of their keys and values."""
        return self.patches * sum(self.widths) or of_words

    def cache(self, part: TensorSpec) -> TensorSpec:
        """What LiteRT-LM keeps a part of a state as, such as `keys_3`, or of a picture.

        Raises:
            BundleError: no part is called so.
        """
        shape = (1, 1, prod(part.shape)) if self.tensors else part.shape
        return replace(part, name=self.cache_name(part.name), shape=shape)

    def cache_name(self, part: str) -> str:
        """The name of that: the runtime hands on what is called like keys and values, whatever stands behind.

        >>> keys, values = (TensorSpec(f"picture_{each}_0", "float32", (1, 2, 9, 4), "") for each in ("keys", "values"))
        >>> [Beside((keys, values)).cache_name(each) for each in ("keys_0", "values_0_written", "picture_values_0")]
        ['kv_cache_k_0', 'kv_cache_v_0', 'kv_cache_v_picture_0']
        >>> AMONG_WORDS.cache_name("ended_written")  # which is neither
        'kv_cache_k_ended'

        Raises:
            BundleError: no part is called so.
        """
        found = re.fullmatch(r"(picture_)?([kv])(?:eys|alues)_(\d+)(?:_written)?", part)
        own = part.removesuffix("_written")
        if own in (ASKED, ENDED, SHOWN):
            return f"kv_cache_k_{own}"
        if found is None:
            raise BundleError(f"decode: expected a state of keys_0, values_0, ..., got {part!r}")
        return f"kv_cache_{found[2]}_{found[1] or ''}{found[3]}"


AMONG_WORDS = Beside()


def beside_of(components: Mapping[str, BundledComponent]) -> Beside:
    """What the decoder of a bundle takes beside its rows; nothing where there is none, or LiteRT-LM cannot ask it.

    Raises:
        BundleError: see `Beside.of`.
    """
    if not {ENCODE_IMAGE, DECODE} <= components.keys():
        return AMONG_WORDS
    decode = components[DECODE].spec
    return Beside.of(components[ENCODE_IMAGE].spec, max(decode.lengths, default=1), prefix=decode.prefix)


def called(function: str, spec: ComponentSpec, beside: Beside = AMONG_WORDS) -> ComponentSpec:
    """A function as LiteRT-LM calls it.

    Pictures come as float32 [1, H, W, 3] in 0..1, ids one at a time, and positions as int32 [T], of which the first is
    where the rows begin: what is behind the last row is padding, whose slots of the state are written again before
    anything reads them. The state goes in and out under one name; logits are those of the last row, padding or not.
    What is beside the rows is state as well, which `decode` reads alone: words follow the picture.

    Args:
        function: What the file calls it.
        spec: With its state among its inputs and outputs; `edgevlm.bundle.spec.ComponentSpec.explicit` gives it.
        beside: What the decoder takes beside its rows.
    """
    if function == VISION_ENCODER:
        pixels, outputs = spec.inputs[0], spec.outputs
        batch, channels, height, width = pixels.shape
        if beside.tensors:
            shape = (1, beside.positions, beside.width(0))
            outputs = (TensorSpec(FEATURES, "float32", shape, "keys and values of the picture, of all layers"),)
        inputs = (replace(pixels, name=IMAGES, shape=(batch, height, width, channels)),)
        return replace(spec, inputs=inputs, outputs=outputs)
    if function == EMBEDDER:
        ids, rows = spec.inputs[0], spec.outputs[0]
        return replace(
            spec,
            inputs=(replace(ids, shape=(1, 1)),),
            outputs=(replace(rows, shape=(1, 1, beside.width(rows.shape[-1]))),),
        )
    written = () if function == DECODE else beside.tensors
    return replace(
        spec,
        inputs=tuple(_given(each, beside) for each in spec.inputs),
        outputs=tuple(_answered(each, beside) for each in (*spec.outputs, *written)),
    )


def about(
    template: str,
    *,
    begin_ids: Sequence[int],
    end_ids: Sequence[int],
    context_length: int,
    placeholder: str,
    around: tuple[str, str] = ("", ""),
    size: tuple[int, int],
) -> Any:
    """What the runtime is told of a model, an `LlmMetadata`.

    Args:
        template: Jinja's, which writes a dialogue out.
        begin_ids: Ids before those of the text.
        end_ids: Ids that end an answer.
        context_length: Positions of the state.
        placeholder: What stands for a picture in a dialogue that is written out.
        around: Texts that take its place, before and behind the picture.
        size: Height and width of what the encoder takes.
    """
    from litert_lm_builder.runtime.proto import llm_metadata_pb2  # type: ignore[import-untyped]

    found = llm_metadata_pb2.LlmMetadata()
    if begin_ids:
        found.start_token.token_ids.ids.extend(begin_ids)
    for end in end_ids:
        found.stop_tokens.add().token_ids.ids.append(end)
    found.max_num_tokens = context_length
    found.jinja_prompt_template = template
    generic = found.llm_model_type.generic_model
    generic.image_enabled = True
    generic.image_token_regex = re.escape(placeholder)
    generic.delimiter_regex = f"({generic.image_token_regex})"  # without the group pictures are not found
    generic.image_prefix, generic.image_suffix = around
    generic.image_tensor_height, generic.image_tensor_width = size
    return found


def pack(models: Mapping[str, bytes], out: Path, *, metadata: Any = None, tokenizer: Path | None = None) -> None:
    """Writes a container.

    Args:
        models: A TFLite model each for `VISION_ENCODER`, `EMBEDDER` and `DECODER`.
        out: The file.
        metadata: What `about` gives.
        tokenizer: A tokenizer.json.
    """
    import litert_lm_builder as builder  # type: ignore[import-untyped]

    kinds = {
        VISION_ENCODER: builder.TfLiteModelType.VISION_ENCODER,
        EMBEDDER: builder.TfLiteModelType.EMBEDDER,
        DECODER: builder.TfLiteModelType.PREFILL_DECODE,
    }
    container = builder.LitertLmFileBuilder()
    container.add_system_metadata(builder.Metadata(key="Authors", value="EdgeVLM", dtype=builder.DType.STRING))
    with tempfile.TemporaryDirectory(prefix="edgevlm-", dir=out.parent) as folder, _without_time():
        if metadata is not None:
            Path(folder, "metadata").write_bytes(metadata.SerializeToString(deterministic=True))
            container.add_llm_metadata(str(Path(folder, "metadata")))
        if tokenizer is not None:
            container.add_hf_tokenizer(str(tokenizer))
        for name, content in models.items():
            path = Path(folder, name)
            path.write_bytes(content)
            container.add_tflite_model(str(path), kinds[name])
        with out.open("wb") as file:
            container.build(file)


def unpack(path: Path) -> dict[str, bytes]:
    """The models of a container, by their names.

    Raises:
        BundleError: see `models`; or there are more or fewer.
    """
    places = models(path)
    if len(places) != len(MODELS):
        raise BundleError(f"{path}: expected {len(MODELS)} models, got {len(places)}", hint="convert the model again")
    found = {}
    with path.open("rb") as file:
        for name, (start, stop) in zip(MODELS, places, strict=True):
            file.seek(start)
            found[name] = file.read(stop - start)
    return found


def models(path: Path) -> tuple[tuple[int, int], ...]:
    """Where the TFLite models of a container lie: the first byte of each, and the first behind it.

    Raises:
        BundleError: it is no container, or a damaged one.
        MissingDependency: flatbuffers is not installed.
    """
    try:
        with path.open("rb") as file:
            begin = file.read(_HEADER_BEGIN)
            size = int.from_bytes(begin[_HEADER_END:], "little")
            if begin[: len(_MAGIC)] != _MAGIC or not _HEADER_BEGIN < size <= _HEADER_MOST:
                raise BundleError(
                    f"{path}: expected a LiteRT-LM container, got {begin[: len(_MAGIC)]!r}", hint="convert it again"
                )
            header = begin + file.read(size - _HEADER_BEGIN)
        found = tuple(_sections(header))
    except (OSError, struct.error, ValueError, TypeError, IndexError) as error:
        raise BundleError(f"{path}: not a readable LiteRT-LM container: {error}", hint="convert it again") from error
    edges = [len(header), *(edge for each in found for edge in each), path.stat().st_size]
    if not found or edges != sorted(edges):
        raise BundleError(
            f"{path}: expected models inside the file, one behind the other, got {found}", hint="convert it again"
        )
    return found


def _sections(header: bytes) -> Iterator[tuple[int, int]]:
    try:
        from flatbuffers import number_types  # type: ignore[import-untyped]
        from flatbuffers.table import Table  # type: ignore[import-untyped]
    except ImportError:
        raise MissingDependency("flatbuffers", extra="tflite-device") from None
    root = Table(header, _HEADER_BEGIN + int.from_bytes(header[_HEADER_BEGIN : _HEADER_BEGIN + 4], "little"))
    listed = Table(header, root.Indirect(root.Pos + root.Offset(_SECTIONS)))
    vector = listed.Offset(_OBJECTS)
    first = listed.Vector(vector)
    for index in range(min(listed.VectorLen(vector), _SECTIONS_MOST)):
        section = Table(header, listed.Indirect(first + 4 * index))
        if section.GetSlot(_KIND, 0, number_types.Uint8Flags) == _MODEL:
            start, stop = (section.GetSlot(field, 0, number_types.Uint64Flags) for field in (_BEGIN, _END))
            yield start, stop


def _given(tensor: TensorSpec, beside: Beside) -> TensorSpec:
    if tensor.name == EMBEDDINGS:
        return replace(tensor, shape=(*tensor.shape[:-1], beside.width(tensor.shape[-1])))
    if tensor.name == POSITIONS:
        return replace(tensor, name=INPUT_POS, shape=tensor.shape[1:])
    return beside.cache(tensor)


def _answered(tensor: TensorSpec, beside: Beside) -> TensorSpec:
    if tensor.name == LOGITS:
        return replace(tensor, shape=(1, *tensor.shape))
    return beside.cache(tensor)


@contextmanager
def _without_time() -> Iterator[None]:
    """The builder stamps each file with a new identifier and the time, and has no way to be told them."""
    from litert_lm_builder import litertlm_builder

    stamped = litertlm_builder.populate_system_metadata

    def stamp(given: list[Any]) -> list[Any]:
        kept = [each for each in given if each.key not in _STAMP]
        made = litertlm_builder.Metadata
        return kept + [made(key=key, value=value, dtype=litertlm_builder.DType.STRING) for key, value in _STAMP.items()]

    litertlm_builder.populate_system_metadata = stamp
    try:
        yield
    finally:
        litertlm_builder.populate_system_metadata = stamped
