"""Codes of embeddings: the formulas by slow references, search in them, and what they keep of a real model's."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import library
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

import edgevlm
from edgevlm.cli import main
from edgevlm.data.sources import open_data
from edgevlm.errors import BundleError, DataError, InputError, TensorError
from edgevlm.evaluation import encoders, index
from edgevlm.evaluation.encoders import open_encoder
from edgevlm.inference import codes
from edgevlm.inference.embedder import BundleModel

F32 = NDArray[np.float32]
PICTURES = 400


def units(count: int, dim: int, *, seed: int = 0, shift: float = 0.0) -> F32:
    """Random directions; with a shift, around a common one, as a contrastive model's are."""
    draws = np.random.default_rng(seed)
    vectors = draws.standard_normal((count, dim)) + shift * np.random.default_rng(99).standard_normal(dim)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def mean_of(vectors: F32) -> F32:
    return np.asarray(vectors.mean(0, dtype=np.float64), np.float32)


# The formulas


def test_int8_is_what_a_slow_reference_rounds_with_halves_to_the_even_number() -> None:
    halves = np.array([[127, 62.5, -60.5, 1.5, -0.5, 2.5, 0, -63.5]])
    rows = np.concatenate([units(50, 8), np.asarray(halves / np.linalg.norm(halves), np.float32)])
    expected, exact_halves = [], 0
    for row in rows:
        largest = max(abs(value) for value in row)
        scaled = [float(np.float32(np.float32(value / largest) * np.float32(127))) for value in row]
        exact_halves += sum(value % 1 == 0.5 for value in scaled)
        expected.append([round(value) for value in scaled])  # Python's round is half to even
    got = codes.to_int8(rows)
    assert exact_halves >= 3
    assert got.dtype == np.int8
    assert got.tolist() == expected
    assert (np.abs(got.astype(int)).max(1) == 127).all()


def test_bits_start_at_the_highest_of_each_byte_and_end_in_zeros() -> None:
    signs = np.array([[1, -1, 1, -1, -1, -1, -1, 1, 1, -1]], np.float32)
    vectors = np.asarray(signs / np.sqrt(10), np.float32)
    got = codes.to_binary(vectors, np.zeros(10, np.float32))
    assert got.dtype == np.uint8
    assert got.tolist() == [[0b10100001, 0b10000000]]
    mean = np.full(10, vectors[0, 0], np.float32)  # what equals the mean is not above it
    assert codes.to_binary(vectors, mean).tolist() == [[0, 0]]


@pytest.mark.parametrize("dim", [5, 8, 19])
def test_codes_stand_for_what_the_formulas_say(dim: int) -> None:
    vectors = units(40, dim, shift=0.5)
    mean = mean_of(vectors)
    radius = math.sqrt((1 - sum(float(value) ** 2 for value in mean)) / dim)
    for row, bits, eights in zip(vectors, codes.to_binary(vectors, mean), codes.to_int8(vectors), strict=True):
        binary = [m + radius * (1 if bits[d // 8] & (128 >> d % 8) else -1) for d, m in enumerate(mean.astype(float))]
        for code, about in ((bits, binary), (eights, eights.astype(float))):
            got = codes.decode(code[None], mean)[0]
            assert got == pytest.approx(np.array(about) / math.hypot(*about), abs=1e-6)
        assert codes.decode(eights[None])[0] @ row > 0.9999


def test_integer_products_are_exact_where_float32_would_round() -> None:
    dim = 4001
    signs = np.where(np.arange(dim) % 2, 1, -1)[None] / math.sqrt(dim)
    ones = np.ones((1, dim)) / math.sqrt(dim)
    both = codes.to_int8(np.asarray(np.concatenate([signs, ones]), np.float32))
    scores = codes.search(both, both, 2).scores
    assert scores[:, 0] == pytest.approx(1.0)
    assert scores[:, 1] == pytest.approx(-1 / dim, rel=1e-5)  # one product of 4,001 is left over


# Search


def test_search_finds_what_a_slow_reference_finds() -> None:
    vectors, queries = units(4500, 12, shift=0.5), units(70, 12, seed=1)  # several blocks of either
    mean = mean_of(vectors)
    eights, bits = codes.to_int8(vectors), codes.to_binary(vectors, mean)
    query_eights, query_bits = codes.to_int8(queries), codes.to_binary(queries, mean)
    eight, bit = codes.decode(eights), codes.decode(bits, mean)
    for given, stored, similarity in (
        (queries, vectors, lambda q: vectors @ queries[q]),
        (queries, eights, lambda q: eight @ queries[q]),
        (queries, bits, lambda q: bit @ queries[q]),
        (query_eights, eights, lambda q: eight @ codes.decode(query_eights)[q]),
        (query_bits, bits, lambda q: [-sum((a ^ b).bit_count() for a, b in _pairs(query_bits[q], c)) for c in bits]),
    ):
        found = codes.search(given, stored, 5, mean=mean)
        assert found.places.shape == found.scores.shape == (70, 5)
        for query in (0, 69):
            scores = np.asarray(similarity(query), np.float64)
            assert found.scores[query] == pytest.approx(np.sort(scores)[::-1][:5], abs=1e-6)
            assert scores[found.places[query]] == pytest.approx(found.scores[query], abs=1e-6)


def _pairs(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> list[tuple[int, int]]:
    return list(zip(one.tolist(), other.tolist(), strict=True))


def test_equals_keep_their_order_and_fewer_are_found_where_fewer_are() -> None:
    one = units(1, 16)
    bits = codes.to_binary(np.repeat(one, 3, 0), np.zeros(16, np.float32))
    found = codes.search(bits[:1], bits, 10)
    assert found.places.tolist() == [[0, 1, 2]]
    assert found.scores.tolist() == [[0, 0, 0]]
    assert codes.search(one, codes.to_int8(one[:0]), 10).places.shape == (1, 0)
    assert codes.search(one[:0], one, 10).places.shape == (0, 1)


def test_a_shortlist_is_put_in_order_by_other_codes() -> None:
    vectors, queries = units(300, 32), units(9, 32, seed=1)
    among = np.stack([np.random.default_rng(row).permutation(300)[:20] for row in range(9)])
    found = codes.search(queries, codes.to_int8(vectors), 4, among=among)
    cosines = queries @ codes.decode(codes.to_int8(vectors)).T
    for row, places in enumerate(found.places):
        assert places.tolist() == sorted(among[row], key=lambda place: -cosines[row, place])[:4]
        assert found.scores[row] == pytest.approx(cosines[row, places], abs=1e-6)


# What is kept


@pytest.fixture(scope="module")
def scenes() -> tuple[F32, F32, list[tuple[int, ...]]]:
    """The built-in student's embeddings of pictures and of their different captions, and whose these are."""
    data = open_data(f"scenes:combinations:{PICTURES}:3:held-out")
    places: dict[str, int] = {}
    own = [
        tuple(places.setdefault(text, len(places)) for text in data.example(row).captions[:1])
        for row in range(len(data))
    ]
    with open_encoder("edgevlm-student") as student:
        return (
            student.encode_pictures([data.picture(row) for row in range(len(data))]),
            student.encode_texts([*places]),
            own,
        )


@pytest.fixture(scope="module")
def bundle() -> Path:
    return library.student("coreml", "fp16").path


def test_little_is_lost_of_a_real_models_neighbours(
    scenes: tuple[F32, F32, list[tuple[int, ...]]], bundle: Path
) -> None:
    images, texts, own = scenes
    with edgevlm.open(bundle) as model:
        mean = model.mean_embedding
    for found in (index.measure(images, None, texts, own), index.measure(images, mean, texts, own)):
        full, int8, both, binary, distance = found.forms
        assert [form.embedding_bytes for form in found.forms] == [768, 192, 216, 24, 24]
        assert (full.kept_nearest, full.kept_neighbours) == (1, 1)
        assert min(int8.kept_nearest, int8.kept_neighbours) >= 0.985
        assert min(both.kept_nearest, both.kept_neighbours) >= 0.98
        assert min(binary.kept_nearest, binary.kept_neighbours) >= 0.6  # two thirds, by themselves
        assert min(distance.kept_nearest, distance.kept_neighbours) >= 0.55
        assert binary.kept_neighbours > distance.kept_neighbours
        assert full.text_to_image[0] > 0.7
        for form, lost in ((int8, 0.01), (both, 0.01), (binary, 0.06), (distance, 0.15)):
            assert form.text_to_image == pytest.approx(full.text_to_image, abs=lost)


def test_the_mean_is_needed_where_embeddings_share_a_large_one() -> None:
    images = units(1500, 64, shift=2.0)
    assert np.linalg.norm(mean_of(images)) > 0.8
    with_mean = index.measure(images, None, None, [])
    without = index.measure(images, np.zeros(64, np.float32), None, [])
    assert (with_mean.mean_of, without.mean_of) == ("pictures", "bundle")
    for form in (2, 3):  # then int8, and alone
        assert with_mean.forms[form].kept_neighbours > without.forms[form].kept_neighbours + 0.1


def test_few_pictures_and_equal_pictures_are_measured_and_one_is_refused() -> None:
    found = index.measure(np.repeat(units(1, 8), 4, 0), None, None, [])
    assert found.neighbours_k == 3
    assert all(form.kept_nearest == form.kept_neighbours == 1 for form in found.forms)
    with pytest.raises(DataError, match="at least two pictures, got 1"):
        index.measure(units(1, 8), None, None, [])


def test_recall_counts_captions_with_a_picture_of_theirs_among_the_first() -> None:
    # Picture i is axis i; text 0 is nearest to its own, the others to picture 0.
    images = np.eye(12, dtype=np.float32)
    texts = np.asarray(images[:3] + 2 * images[0], np.float32)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    found = index.measure(images, None, texts, [(0,), (1,), (), (2,)] + [()] * 8)
    assert found.forms[0].text_to_image == pytest.approx((1 / 3, 1, 1))


def test_a_bundles_mean_is_that_of_its_golden_pictures(bundle: Path) -> None:
    with edgevlm.open(bundle) as model:
        expected = (
            load_file(bundle / "golden" / "reference.safetensors")["encode_image.embedding"].astype(np.float64).mean(0)
        )
        assert model.mean_embedding.dtype == np.float32
        assert model.mean_embedding == pytest.approx(expected, abs=1e-7)


def test_a_bundle_for_an_app_has_no_mean_and_says_where_it_is(bundle: Path, tmp_path: Path) -> None:
    exported = edgevlm.export_for_app(edgevlm.Bundle.open(bundle), tmp_path / "app")
    with edgevlm.open(exported.path, trusted=True) as model, pytest.raises(BundleError, match="no such file") as raised:
        _ = model.mean_embedding
    assert raised.value.hint == "index with the whole bundle that it was exported from"


def test_a_bundle_for_an_app_is_evaluated_without_a_mean(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = edgevlm.export_for_app(edgevlm.Bundle.open(bundle), tmp_path / "app")
    monkeypatch.setattr(encoders, "BundleModel", partial(BundleModel, trusted=True))  # a process less
    with open_encoder(exported.path) as encoder:
        assert encoder.mean_embedding is None


@pytest.mark.parametrize("damage", ["cut short", "of another length"])
def test_a_damaged_reference_is_a_bundle_error(damage: str, bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / bundle.name)
    file = copy / "golden" / "reference.safetensors"
    if damage == "cut short":
        file.write_bytes(file.read_bytes()[:40])
    else:
        save_file({"encode_image.embedding": np.ones((2, 3), np.float32)}, file)
    with edgevlm.open(bundle) as model:
        model.bundle = replace(model.bundle, path=copy)
        with pytest.raises(BundleError, match=r"readable safetensors|numbers, got one of the shape"):
            _ = model.mean_embedding


def test_the_command_measures_what_a_bundle_ships(bundle: Path) -> None:
    arguments = ["evaluate", str(bundle), "--data", "scenes:combinations:24:1:held-out", "--index"]
    shown = CliRunner().invoke(main, arguments)
    assert shown.exit_code == 0, shown.output
    rows = {line.strip().split("  ")[0]: line.split() for line in shown.stdout.splitlines() if line.strip()}
    assert rows["int8"][1] == "192"
    assert rows["binary, then int8"][3] == "216"
    as_json = CliRunner().invoke(main, [*arguments, "--json"])
    (found,) = json.loads(as_json.stdout)["sets"]
    assert (found["index"]["pictures"], found["index"]["neighbours_k"], found["index"]["mean_of"]) == (24, 10, "bundle")
    full, int8 = found["index"]["forms"][:2]
    assert full["text_to_image"] == [found["retrieval"]["text_to_image"][f"at_{cut}"] for cut in (1, 5, 10)]
    assert int8["kept_neighbours"] > 0.95
    assert f"{int8['kept_neighbours']:.1%}" in rows["int8"]


@pytest.mark.slow
def test_without_embeddings_there_is_no_index(tmp_path: Path) -> None:
    names = open_data("objects:combinations:8").labels
    path = edgevlm.convert(target="coreml", labels=names, image_only=True, out=tmp_path).path
    (found,) = edgevlm.evaluate(path, "objects:combinations:8", index=True).sets
    assert found.index is None
    assert any(note.startswith("no index") for note in found.notes)
    with edgevlm.open(path) as model, pytest.raises(TensorError, match="no encode_image"):
        _ = model.mean_embedding


# Errors

X, MEAN = units(4, 16), np.zeros(16, np.float32)
EIGHTS, BITS = codes.to_int8(X), codes.to_binary(X, MEAN)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: codes.to_int8(X.astype(np.float64)), r"expected float32 \[N, D\], got float64 \[4, 16\]"),
        (lambda: codes.to_int8(X[0]), r"expected float32 \[N, D\], got float32 \[16\]"),
        (lambda: codes.to_int8(2 * X), "expected unit vectors, but number 0 has the length 2"),
        (lambda: codes.to_binary(np.where(np.eye(4, 16) > 0, np.nan, X).astype(np.float32), MEAN), "the length nan"),
        (lambda: codes.to_binary(np.zeros_like(X), MEAN), "the length 0"),
        (lambda: codes.to_binary(X, MEAN[:8]), r"mean: expected float32 \[16\], got float32 \[8\]"),
        (lambda: codes.to_binary(X, MEAN.astype(np.float64)), r"mean: expected float32 \[16\], got float64"),
        (lambda: codes.to_binary(X, MEAN + 1), "no longer than 1, got 4"),
        (lambda: codes.decode(BITS), "need the mean"),
        (lambda: codes.decode(BITS, MEAN[:8]), r"codes: expected uint8 \[N, 1\]"),
        (lambda: codes.decode(X.astype(np.int32)), r"got int32 \[4, 16\]"),
        (lambda: codes.search(X, BITS, 1), "need the mean"),
        (lambda: codes.search(X, BITS, 1, mean=MEAN[:8]), r"mean: expected float32 \[16\]"),
        (lambda: codes.search(X[:, :8] / np.linalg.norm(X[:, :8], axis=1)[:, None], EIGHTS, 1), r"int8 \[N, 8\]"),
        (lambda: codes.search(X[:, 0], EIGHTS, 1), r"queries: expected .* got float32 \[4\]"),
        (lambda: codes.search(3 * X, EIGHTS, 1), "queries: expected unit vectors"),
        (lambda: codes.search(EIGHTS, BITS, 1), "int8 codes as queries cannot be compared with an index of binary"),
        (lambda: codes.search(EIGHTS, X, 1), "cannot be compared with an index of float32 embeddings"),
        (lambda: codes.search(X, EIGHTS, 1, among=np.zeros((3, 2), np.int64)), r"\[4, S\], got \[3, 2\]"),
    ],
)  # fmt: skip
def test_what_does_not_belong_together_is_refused(ask, message: str) -> None:
    with pytest.raises(TensorError, match=message):
        ask()


def test_nothing_cannot_be_searched_for() -> None:
    with pytest.raises(InputError, match="k of at least 1, got 0"):
        codes.search(X, EIGHTS, 0)
