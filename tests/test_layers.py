"""Attention and unit norm as every tower writes them: right, and in ops that every backend computes rightly."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from edgevlm.models.layers import attend, causal_mask, unit_norm


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("batch", "queries"), [(1, 6), (3, 6), (3, 1)])
def test_attention_is_torchs_own(batch: int, queries: int, masked: bool) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(batch, rows, 12) for rows in (queries, 6, 6))
    mask = causal_mask(6)[:, :queries] if masked else None
    found = attend(query, key, value, 3, mask)
    split = (each.reshape(batch, -1, 3, 4).transpose(1, 2) for each in (query, key, value))
    expected = functional.scaled_dot_product_attention(*split, attn_mask=mask)
    torch.testing.assert_close(found, expected.transpose(1, 2).reshape(batch, queries, 12), atol=1e-6, rtol=1e-5)


def test_scores_and_mask_have_as_many_axes_as_each_other() -> None:
    """LiteRT's GPU delegate adds a mask of four axes to scores of three wrongly, in silence."""
    query = torch.randn(1, 6, 12)
    graph = torch.export.export(_Masked(), (query,)).graph_module.graph
    (added,) = (node for node in graph.nodes if node.target is torch.ops.aten.add.Tensor)
    assert [each.meta["val"].ndim for each in added.args] == [3, 3]
    softmax = next(node for node in graph.nodes if "softmax" in str(node.target))
    assert softmax.meta["val"].ndim == 3


class _Masked(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", causal_mask(6))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return attend(tokens, tokens, tokens, 3, self.mask)


def test_unit_norm_divides_by_no_square_root() -> None:
    """`x / sqrt(sum)` becomes an op of TFLite's that the GPU delegate leaves to the CPU."""
    vectors = torch.randn(3, 64) * 1e4
    found = unit_norm(vectors)
    torch.testing.assert_close(found, functional.normalize(vectors, dim=-1), atol=1e-6, rtol=1e-5)
    assert torch.isfinite(unit_norm(vectors.half().clamp(-6e4, 6e4))).all()


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_no_op_of_a_text_tower_has_four_axes_after_its_scores(family: str) -> None:
    import library

    program = library.layers()[f"{family}_text"]
    graph = torch.export.export(program.module, program.example).graph_module.graph
    softmaxes = [node for node in graph.nodes if "softmax" in str(node.target)]
    assert softmaxes
    assert {node.meta["val"].ndim for node in softmaxes} == {3}


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_products_of_a_text_tower_with_a_constant_are_of_two_axes(family: str) -> None:
    """LiteRT's GPU delegate leaves to the CPU what it multiplies by a constant of three."""
    import library

    program = library.layers()[f"{family}_text"]
    exported = torch.export.export(program.module, program.example)
    constants = {*exported.graph_signature.inputs_to_buffers, *exported.graph_signature.inputs_to_parameters}
    products = [node for node in exported.graph.nodes if "matmul" in str(node.target)]
    assert products
    assert [node for node in products if node.args[1].name in constants and node.args[1].meta["val"].ndim > 2] == []
