"""Several pictures, texts and labels, and what is taken for them by mistake."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edgevlm
from edgevlm.errors import InputError, LabelError
from edgevlm.inputs import labels
from edgevlm.testing import FakeModel

PICTURE = np.zeros((40, 48, 3), np.uint8)
Ask = Callable[[FakeModel], Any]


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda model: model.classify([PICTURE], "cat"), "expected a sequence of labels, got one text: 'cat'"),
        (lambda model: model.classify([PICTURE], {"cat", "dog"}), "expected labels in an order, got a set"),
        (lambda model: model.classify([PICTURE], {"cat": 1}), "expected labels in an order, got a dict"),
        (lambda model: model.classify([PICTURE], 7), "expected a sequence of labels, got int"),
        (lambda model: model.classify([PICTURE], [1, 2]), "expected a sequence of texts, got int"),
        (lambda model: model.encode_text("cat"), "expected a sequence of texts, got one text: 'cat'"),
        (lambda model: model.encode_text([None]), "expected texts, got NoneType among them"),
        (lambda model: model.encode_image("p.png"), "expected a sequence of pictures, got one str"),
        (lambda model: model.encode_image(Path("p.png")), "expected a sequence of pictures, got one PosixPath"),
        (lambda model: model.encode_image(b"GIF"), "expected a sequence of pictures, got one bytes"),
        (lambda model: model.encode_image(Image.new("RGB", (4, 4))), "expected a sequence of pictures, got one Image"),
        (lambda model: model.encode_image(PICTURE), r"got one ndarray of shape \[40, 48, 3\]"),
        (lambda model: model.classify(PICTURE), r"got one ndarray of shape \[40, 48, 3\]"),
        (lambda model: model.encode_image(None), "expected a sequence of pictures, got NoneType"),
    ],
)
def test_one_where_several_are_expected_is_refused(ask: Ask, message: str) -> None:
    with FakeModel(labels=("cat", "dog")) as model, pytest.raises(InputError, match=message):
        ask(model)


def test_whatever_goes_through_several_in_order_is_taken() -> None:
    with FakeModel() as model:
        one = model.encode_image([PICTURE, PICTURE + 1])
        for several in (np.stack([PICTURE, PICTURE + 1]), iter((PICTURE, PICTURE + 1)), (PICTURE, PICTURE + 1)):
            np.testing.assert_array_equal(model.encode_image(several), one)
        assert model.encode_text([]).shape == (0, 64)
        np.testing.assert_array_equal(model.encode_text(np.array(["cat"])), model.encode_text(["cat"]))
        assert model.classify([PICTURE], [("a cat", "the cat"), "a dog"]).shape == (1, 2)
        assert model.classify([PICTURE], (each for each in ("a cat", "a dog"))).shape == (1, 2)


@pytest.mark.parametrize("words", ["labels", "templates"])
def test_one_label_or_template_is_not_baked_letter_by_letter(words: str) -> None:
    with pytest.raises(InputError, match=f"expected a sequence of {words}, got one text"):
        edgevlm.convert(target="coreml", **{"labels": ["a cat"], words: "a {}"})


@pytest.mark.parametrize(
    "given",
    [
        "birds.txt",
        "./lists/birds",
        "lists/birds.v2",
        "../birds",
        "/tmp/birds",
        "~/birds",
        "Birds.CSV",
        "birds.dat",
        r"lists\birds",
    ],
)
def test_what_looks_like_a_path_is_no_label(given: str) -> None:
    with pytest.raises(LabelError, match="expected a file with a label per line, got no such file") as caught:
        labels.read_or_split(given)
    assert caught.value.hint == f'for a label of that name put a comma behind it: "{given},"'
    assert labels.read_or_split(f"{given},") == (given,)


def test_a_pipe_is_no_file_of_labels(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LabelError, match="expected a file with a label per line, got what is no file"):
        labels.read_or_split(str(tmp_path / "pipe"))


def test_an_error_shows_the_beginning_of_a_long_label() -> None:
    assert labels.quoted(["a" * 10_000, "b"]) == f"'{'a' * 60}…', 'b'"


def test_labels_are_those_of_a_file_or_written_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("birds.txt").write_text("\ufeff# of the garden\nrobin\n\n  # not yet seen\nwren\n", encoding="utf-8")
    Path("robin").mkdir()
    assert labels.read_or_split("birds.txt") == ("robin", "wren")
    assert labels.read_or_split("St. Bernard, TV / monitor, a.m., robin") == (
        "St. Bernard",
        "TV / monitor",
        "a.m.",
        "robin",
    )
    assert labels.read_or_split("a yellow star") == ("a yellow star",)
    many = [f"a red circle number {number}" for number in range(40)]  # longer than a file's name can be
    assert labels.read_or_split(", ".join(many)) == tuple(many)
    with pytest.raises(LabelError, match="got a folder"):
        labels.read_or_split("robin")
    with pytest.raises(LabelError, match="expected labels with commas between them, or a file"):
        labels.read_or_split(" , ")


def test_labels_that_are_the_same_to_the_model_or_are_cut_are_refused() -> None:
    with FakeModel() as model:
        with pytest.raises(LabelError, match="the labels 'a cat', 'a cat' are one and the same to the model"):
            model.classify([PICTURE], ["a cat", "a dog", "a cat"])
        with pytest.raises(LabelError, match="has 300 tokens, the model's context 256"):
            model.classify([PICTURE], ["a cat", "x" * 300])
        model.classify([PICTURE], [("a cat", "a dog"), "a cat"])


def test_a_list_has_a_line_for_each_line_of_an_editor() -> None:
    text = "two\u2028lines\r\na\x85b\rc\n\n# d\n e"
    assert [*labels.numbered_lines(text)] == [(1, "two\u2028lines"), (2, "a\x85b"), (3, "c"), (6, "e")]
