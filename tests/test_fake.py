"""`edgevlm.testing`: an app's tests see what the app would see."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgevlm
from edgevlm.bundle import Array, ComponentSpec, TensorSpec
from edgevlm.inference import codes
from edgevlm.inference.embedder import BundleModel
from edgevlm.targets import Session
from edgevlm.testing import FakeModel, FakeSession, text_of

PICTURE = np.arange(80 * 70 * 3, dtype=np.uint32).astype(np.uint8).reshape(80, 70, 3)


def caption(model: BundleModel, picture: Path) -> str:
    """An app's own code, which takes what `edgevlm.open` gives."""
    (scores,) = model.classify([picture])
    return model.labels[int(scores.argmax())]


def test_an_app_is_told_what_its_test_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "any.png"
    Image.fromarray(PICTURE).save(path)
    model = FakeModel(labels=("a cat", "a dog"), answers={"classify": [[0.1, 0.9]]})
    assert caption(model, path) == "a dog"
    (call,) = model.session.calls
    assert call.component == "classify"
    assert call.inputs["pixels"].shape == (1, 3, 32, 32)
    monkeypatch.setattr(edgevlm, "open", lambda path, **options: model, raising=False)
    with edgevlm.open("the-apps-own.edgevlm") as opened:
        assert caption(opened, path) == "a dog"


def test_made_up_answers_are_of_the_input_and_the_same_everywhere() -> None:
    model = FakeModel(labels=("a", "b", "c"), embedding_dim=8)
    image, text, scores = model.encode_image([PICTURE]), model.encode_text(["a cat"]), model.classify([PICTURE])
    assert (image.dtype, image.shape, scores.shape) == (np.float32, (1, 8), (1, 3))
    for units in (image, text):
        np.testing.assert_allclose(np.linalg.norm(units, axis=1), 1, atol=1e-6)
    assert scores.min() >= 0
    assert scores.sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(FakeModel(embedding_dim=8).encode_image([PICTURE]), image)
    assert not np.array_equal(model.encode_image([PICTURE[:, ::-1]]), image)
    assert not np.array_equal(model.encode_text(["a dog"]), text)
    expected = [-0.412456, -0.198252, -0.170907, 0.344093, 0.549182, -0.289403, -0.275730, -0.426128]
    np.testing.assert_allclose(text[0], expected, atol=1e-6)


def test_a_picture_is_found_again() -> None:
    model = FakeModel()
    pictures = [np.full((8, 8, 3), value, np.uint8) for value in range(0, 250, 10)]
    embeddings = model.encode_image(pictures)
    found = codes.search(model.encode_image([pictures[7]]), codes.to_int8(embeddings), 1)
    assert found.places.tolist() == [[7]]
    binary = codes.to_binary(embeddings, model.mean_embedding)
    assert codes.search(model.encode_image([pictures[3]]), binary, 1, mean=model.mean_embedding).places == [[3]]


def test_an_answer_depends_on_the_text() -> None:
    axes = {"a cat": 0, "ein Käfer": 1}
    seen: list[str] = []

    def encode_text(inputs: Mapping[str, Array]) -> Array:
        seen.append(text_of(inputs["token_ids"]))
        return np.eye(1, 4, axes[seen[-1]], dtype=np.float32)

    model = FakeModel(embedding_dim=4, answers={"encode_image": [[0, 1, 0, 0]], "encode_text": encode_text})
    (scores,) = model.classify([PICTURE], list(axes))
    assert scores.argmax() == 1
    assert seen == list(axes)
    assert text_of(model.tokenizer.encode(["x" * 300])) == "x" * 256  # type: ignore[union-attr]


def test_a_failure_of_the_backend_can_be_played() -> None:
    def fail(inputs: Mapping[str, Array]) -> Array:
        raise edgevlm.TensorError("the interpreter refused to run")

    with pytest.raises(edgevlm.TensorError, match="refused to run"):
        FakeModel(answers={"encode_image": fail}).encode_image([PICTURE])


def test_an_image_only_bundle_refuses_what_it_cannot_do() -> None:
    model = FakeModel(labels=("a", "b"), image_only=True)
    assert list(model.bundle.components) == ["classify"]
    with pytest.raises(edgevlm.TensorError, match="no text tower"):
        model.encode_text(["a"])
    with pytest.raises(edgevlm.TensorError, match=r"no encode_image, .*: it tells its baked labels apart, 'a', 'b'$"):
        model.encode_image([PICTURE])
    with pytest.raises(edgevlm.TensorError, match="no embeddings"):
        _ = model.mean_embedding
    with pytest.raises(edgevlm.ImageError):
        model.classify([b"no picture"])
    assert not model.session.calls


@pytest.mark.parametrize("asked", [["b", "c"], [("c", "d")], ["B"]])
def test_labels_that_are_not_baked_need_a_text_tower(asked: list[str | tuple[str, ...]]) -> None:
    with FakeModel(labels=("a", "b"), image_only=True) as model:
        with pytest.raises(
            edgevlm.LabelError, match=r"expected labels that are baked in, .*: 'a', 'b'; got '"
        ) as caught:
            model.classify([PICTURE], asked)
        assert "asks about the baked labels" in str(caught.value.hint)
        assert model.classify([PICTURE], ["b", "a"]).shape == (1, 2)
    with FakeModel(labels=("a", "b")) as model:
        assert model.classify([PICTURE], asked).shape == (1, len(asked))


def two() -> ComponentSpec:
    given = (TensorSpec("x", "float32", (1, 2), "two numbers"), TensorSpec("ids", "int32", (1, 1), "an id"))
    return ComponentSpec("both", given, tuple(TensorSpec(name, "float32", (1, 3), "a direction") for name in "ab"))


INPUTS: dict[str, Array] = {"x": np.ones((1, 2), np.float32), "ids": np.ones((1, 1), np.int32)}


def test_inputs_are_refused_as_by_any_session() -> None:
    session = FakeSession([two()])
    for wrong, message in (
        ({"x": INPUTS["x"]}, "expected the inputs 'x', 'ids'"),
        (INPUTS | {"x": np.ones((1, 2))}, "expected dtype float32"),
        (INPUTS | {"x": np.ones((1, 3), np.float32)}, r"expected shape \[1, 2\]"),
        (INPUTS | {"x": np.full((1, 2), np.nan, np.float32)}, "NaN or infinite"),
    ):
        with pytest.raises(edgevlm.TensorError, match=message):
            session.run("both", wrong)
    assert not session.calls


def test_answers_and_calls_belong_to_the_caller() -> None:
    session = FakeSession([two()], {"both": {"a": [[1, 2, 3]], "b": np.zeros((1, 3))}})
    given = {name: array.copy() for name, array in INPUTS.items()}
    first = session.run("both", given)
    first["a"][:] = 9
    given["x"][:] = 9
    assert session.run("both", given)["a"].tolist() == [[1, 2, 3]]
    assert session.calls[0].inputs["x"].tolist() == [[1, 1]]


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"neither": [[1, 2, 3]]}, "no component 'neither'"),
        ({"both": [[1, 2, 3]]}, r"expected an answer with the outputs \['a', 'b'\], got \['a'\]"),
        ({"both": {"a": [1, 2, 3], "b": [[1, 2, 3]]}}, r"of the shape \[1, 3\] for 'a', got \[3\]"),
    ],
)
def test_a_wrong_answer_is_refused_at_once(answers: dict[str, object], message: str) -> None:
    with pytest.raises(edgevlm.TensorError, match=message):
        FakeSession([two()], answers)  # type: ignore[arg-type]


def test_a_closed_session_has_no_components() -> None:
    session: Session = FakeSession([two()])
    with session:
        session.run("both", INPUTS)
    with pytest.raises(edgevlm.TensorError, match="no component 'both'"):
        session.run("both", INPUTS)
