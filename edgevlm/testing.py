"""For an app's unit tests: what `edgevlm.open` gives, without a backend, a file or a conversion.

    def test_the_best_label_is_shown():
        model = FakeModel(labels=("a cat", "a dog"), answers={"classify": [[0.9, 0.1]]})
        picture = np.zeros((80, 70, 3), np.uint8)  # or a file: it is opened as ever
        assert caption(model, picture) == "a cat"  # `caption` is the app's; it takes what `edgevlm.open` gives

        (call,) = model.session.calls
        assert call.component == "classify"

Where the app opens the bundle itself, `monkeypatch.setattr(edgevlm, "open", lambda path, **options: FakeModel())`.

Pictures are decoded, resized and checked, texts tokenized, and wrong inputs refused as with any bundle; what is made up
are the components' answers. Nothing here says how well a model does, or how fast.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
import tokenizers
from numpy.typing import ArrayLike

from edgevlm.bundle import (
    F32,
    FORMAT_VERSION,
    Array,
    Bundle,
    BundledComponent,
    ComponentSpec,
    ImagePreprocessing,
    Labels,
    Manifest,
    Recipe,
    Source,
    TensorSpec,
    TextPreprocessing,
)
from edgevlm.errors import TensorError
from edgevlm.inference.embedder import BundleModel
from edgevlm.inputs.texts import Tokenizer
from edgevlm.targets import Closing, State, find_component, validate_inputs

Outputs: TypeAlias = ArrayLike | Mapping[str, ArrayLike]
"""The only output of a component, or several by name; of the shapes in its spec."""
Answer: TypeAlias = Outputs | Callable[[Mapping[str, Array]], Outputs]
"""What a component answers: always the same, or a function of its inputs, which may raise what a backend raises."""

_BYTES = 256
_LEAST_SCORE = 1e-9
_CONTEXT_LENGTH = 256
_IMAGE = ImagePreprocessing(
    height=32,
    width=32,
    resize="exact",
    resize_height=32,
    resize_width=32,
    resample="bilinear",
    centre_crop=False,
    rescale=1 / 255,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)
_TEXT = TextPreprocessing(
    context_length=_CONTEXT_LENGTH,
    pad_id=_BYTES,
    eot_id=None,
    canonicalisation="none",
    lower_case=False,
    tokenizer_file="tokenizer.json",
)


@dataclass(frozen=True)
class Call:
    """One component that ran, and a copy of what it was given."""

    component: str
    inputs: Mapping[str, Array]


class FakeSession(Closing):
    """A session whose components answer what a test says, or else numbers made of the input's bytes.

    The latter are unit vectors, or scores that add up to 1: the same input gives the same ones on every machine,
    another input others.

    >>> import edgevlm, numpy as np
    >>> bundle = edgevlm.testing.FakeModel(image_only=True).bundle  # or edgevlm.Bundle.open(...), without its backend
    >>> specs = [component.spec for component in bundle.components.values()]
    >>> session = edgevlm.testing.FakeSession(specs, {"encode_image": lambda inputs: np.full((1, 64), 1 / 8)})
    >>> with edgevlm.BundleModel(bundle, session=session) as model:
    ...     model.encode_image([np.zeros((80, 70, 3), np.uint8)])[0, :3]
    array([0.125, 0.125, 0.125], dtype=float32)
    >>> [call.component for call in session.calls]
    ['encode_image']

    Args:
        components: What can be run.
        answers: By component; those left out make theirs up.

    Attributes:
        calls: What ran, in order. Inputs that were refused did not run.

    Raises:
        TensorError: an answer is for no component, or is not of the shape that the spec says.
    """

    evidence = "fake"

    def __init__(self, components: Iterable[ComponentSpec], answers: Mapping[str, Answer] | None = None) -> None:
        self._specs = {spec.name: spec for spec in components}
        self._answers = dict(answers or {})
        self.calls: list[Call] = []
        for name, answer in self._answers.items():
            spec = find_component(self._specs, name)
            if not callable(answer):
                _as_outputs(spec, answer)

    def make_state(self, component: str) -> State:
        """Raises TensorError: no component of a dual encoder keeps a state."""
        raise TensorError(f"{component}: keeps no state from one run to the next", hint="run it without one")

    def run(self, component: str, inputs: Mapping[str, Array], state: State | None = None) -> dict[str, F32]:
        """Answers, once the inputs are known to be what the component's spec says.

        Raises:
            TensorError: as in any session, after `close` too; or what a function of `answers` gave has another shape.
        """
        spec = find_component(self._specs, component)
        given = {name: array.copy() for name, array in validate_inputs(spec, inputs).items()}
        self.calls.append(Call(component, given))
        if component not in self._answers:
            return _make_up(spec, given)
        answer = self._answers[component]
        return _as_outputs(spec, answer(given) if callable(answer) else answer)

    def close(self) -> None:
        """A closed session has no components; what was called can still be read."""
        self._specs.clear()


class FakeModel(BundleModel):
    """What `edgevlm.open` gives, of a bundle that is nowhere: pictures of 32x32 pixels, texts of up to 256 bytes.

    >>> import edgevlm, numpy as np
    >>> model = edgevlm.testing.FakeModel(labels=("a cat", "a dog"), answers={"classify": [[0.75, 0.25]]})
    >>> picture = np.zeros((80, 70, 3), np.uint8)
    >>> model.classify([picture])
    array([[0.75, 0.25]], dtype=float32)
    >>> bool((model.encode_text(["a cat"]) == model.encode_text(["a cat"])).all())  # made up, and the same again
    True

    A text's token ids are its bytes, so that an answer can depend on the text:

    >>> def encode_text(inputs):
    ...     return np.eye(1, 64, 0 if "cat" in edgevlm.testing.text_of(inputs["token_ids"]) else 1)
    >>> model = edgevlm.testing.FakeModel(answers={"encode_text": encode_text})
    >>> model.encode_text(["a black cat", "a dog"]).argmax(1)
    array([0, 1])

    Args:
        labels: Baked into a component `classify`.
        embedding_dim: Numbers of an embedding.
        image_only: Whether there is no text tower; with labels, `classify` is all there is.
        answers: See `FakeSession`.

    Attributes:
        session: The fake, with its `calls`.
    """

    session: FakeSession

    def __init__(
        self,
        labels: Sequence[str] = (),
        *,
        embedding_dim: int = 64,
        image_only: bool = False,
        answers: Mapping[str, Answer] | None = None,
    ) -> None:
        specs = _components(tuple(labels), embedding_dim, image_only)
        super().__init__(
            Bundle(Path("fake.edgevlm"), _manifest(specs, tuple(labels), embedding_dim)),
            session=FakeSession(specs, answers),
            tokenizer=None if image_only else Tokenizer.from_bytes(_TEXT, _tokenizer_json()),
        )

    @cached_property
    def mean_embedding(self) -> F32:
        """Zeros: made-up embeddings share no mean. See `BundleModel.mean_embedding`."""
        if "encode_image" not in self.bundle.components:
            return super().mean_embedding  # which refuses
        return np.zeros(self.bundle.manifest.embedding.dim, np.float32)


def text_of(token_ids: Array) -> str:
    """The text that a `FakeModel` was asked about, of the ids that `encode_text` was given.

    >>> import edgevlm
    >>> model = edgevlm.testing.FakeModel()
    >>> model.encode_text(["a red café"]).shape
    (1, 64)
    >>> edgevlm.testing.text_of(model.session.calls[0].inputs["token_ids"])
    'a red café'
    """
    return bytes(int(token_id) for token_id in token_ids.flat if token_id < _BYTES).decode(errors="ignore")


def _components(labels: Sequence[str], embedding_dim: int, image_only: bool) -> tuple[ComponentSpec, ...]:
    pixels = TensorSpec("pixels", "float32", (1, 3, _IMAGE.height, _IMAGE.width), "RGB, 0..255, channels first")
    token_ids = TensorSpec("token_ids", "int32", (1, _CONTEXT_LENGTH), "token ids, padded on the right")
    embedding = TensorSpec("embedding", "float32", (1, embedding_dim), "unit vector")
    outputs = tuple(TensorSpec(name, "float32", (1, len(labels)), "of each label") for name in ("scores", "logits"))
    specs = []
    if not (labels and image_only):
        specs.append(ComponentSpec("encode_image", (pixels,), (embedding,)))
    if not image_only:
        specs.append(ComponentSpec("encode_text", (token_ids,), (embedding,)))
    if labels:
        specs.append(ComponentSpec("classify", (pixels,), outputs))
    return tuple(specs)


def _manifest(specs: Sequence[ComponentSpec], labels: tuple[str, ...], embedding_dim: int) -> Manifest:
    return Manifest(
        format_version=FORMAT_VERSION,
        name="fake",
        target="fake",
        components={spec.name: BundledComponent(spec, "fake") for spec in specs},
        image=_IMAGE,
        text=_TEXT if any(spec.name == "encode_text" for spec in specs) else None,
        labels=Labels(labels, ("{}",)) if labels else None,
        embedding_dim=embedding_dim,
        logit_scale=100.0,
        embedding_space_id="fake",
        recipe=Recipe.load("fp32"),
        source=Source("fake", "fake", "fake", "unknown"),
        requires={},
        estimated_peak_memory_bytes=0,
        parity=None,
        tool_versions={},
    )


def _tokenizer_json() -> bytes:
    """A tokenizer whose ids are a text's bytes in UTF-8."""
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(_BYTES)}
    return tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [], byte_fallback=True)).to_str().encode()


def _as_outputs(spec: ComponentSpec, answer: Outputs) -> dict[str, F32]:
    """An answer as sessions give it: float32, by name, owned by the caller."""
    names = [tensor.name for tensor in spec.outputs]
    by_name = dict(answer) if isinstance(answer, Mapping) else {names[0]: answer}
    if names == ["scores", "logits"] and list(by_name) == ["scores"]:  # those of which a softmax makes these
        by_name["logits"] = np.log(np.maximum(np.asarray(by_name["scores"], np.float32), _LEAST_SCORE))
    if set(by_name) != set(names):
        raise TensorError(f"{spec.name}: expected an answer with the outputs {names}, got {list(by_name)}")
    arrays = {tensor.name: np.array(by_name[tensor.name], np.float32) for tensor in spec.outputs}
    for tensor in spec.outputs:
        if arrays[tensor.name].shape != tensor.shape:
            raise TensorError(
                f"{spec.name}: expected an answer of the shape {list(tensor.shape)} for {tensor.name!r}, "
                f"got {list(arrays[tensor.name].shape)}",
                hint=f"it holds {tensor.meaning}; the first axis is the batch, of one",
            )
    return arrays


def _make_up(spec: ComponentSpec, inputs: Mapping[str, Array]) -> dict[str, F32]:
    """Unit vectors of the inputs' bytes, by a hash; their squares, which add up to 1, where an output is `scores`."""
    content = b"".join(np.ascontiguousarray(array).tobytes() for array in inputs.values())
    answers = {}
    for tensor in spec.outputs:
        digest = hashlib.shake_256(f"{spec.name}/{tensor.name}/".encode() + content)
        drawn = np.frombuffer(digest.digest(math.prod(tensor.shape)), np.uint8).reshape(tensor.shape) - 127.5
        units = drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)
        answers[tensor.name] = np.asarray(np.square(units) if tensor.name == "scores" else units, np.float32)
    if "logits" in answers:
        answers["logits"] = np.log(np.maximum(answers["scores"], _LEAST_SCORE))
    return answers
