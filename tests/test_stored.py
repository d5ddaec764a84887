"""The proof that a file holds the weights that were decided."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from edgevlm.bundle.integer_weights import StoredWeight, prove, prove_again


def stored(layer: str, seed: int, **changes: Any) -> StoredWeight:
    rng = np.random.default_rng(seed)
    values = rng.integers(-127, 128, (4, 6)).astype(np.int8)
    scale = rng.uniform(0.001, 0.1, (4, 1)).astype(np.float32)
    return replace(StoredWeight(layer, 8, values, scale, np.zeros((4, 1), np.int32)), **changes)


def test_a_proof_counts_what_is_there_and_names_what_is_not() -> None:
    decided = [stored("a", 0), stored("b", 1), stored("c", 1), stored("d", 3)]
    found = [stored("y", 1), stored("x", 0)]  # b and c are equal, and the file has one of them
    proof = prove("encode_image", decided, found)
    assert (proof.decided, proof.identical, proof.lost) == (4, 2, ("c", "d"))
    assert (proof.bits, proof.scale_types) == ({"8": 4}, {"8": "float32"})


@pytest.mark.parametrize("part", ["values", "scale", "zero_point"])
def test_a_proof_sees_the_least_difference(part: str) -> None:
    decided = stored("a", 0)
    value = getattr(decided, part).copy()
    value[2, 0] = np.nextafter(value[2, 0], np.float32(1)) if part == "scale" else value[2, 0] + 1
    assert prove("encode_image", [decided], [replace(decided, **{part: value})]).lost == ("a",)


@pytest.mark.parametrize(("kind", "dtype"), [("float16", torch.float16), ("bfloat16", torch.bfloat16)])
def test_scales_are_rounded_as_the_files_format_does(kind: Any, dtype: torch.dtype) -> None:
    scale = np.random.default_rng(0).uniform(1e-4, 1, (5000, 1)).astype(np.float32)
    scale[0] = 1 + 2.0**-9  # ties go to even: the first down, the second up
    scale[1] = 1 + 3 * 2.0**-9
    weight = stored("a", 0, scale=scale)
    np.testing.assert_array_equal(weight.rounded(kind).scale, torch.from_numpy(scale).to(dtype).float().numpy())
    assert prove("encode_image", [weight], [weight.rounded(kind)]).lost == ()


def test_a_proof_is_repeated_from_the_file_alone() -> None:
    decided = [stored("a", 0), stored("b", 1), stored("c", 1)]
    proof = prove("encode_image", decided, decided)
    renamed = [replace(each, layer="tensor") for each in decided]
    assert prove_again(proof, renamed) == proof
    again = prove_again(proof, renamed[:2])
    assert (again.identical, again.lost) == (2, (decided[2].digest(),))
