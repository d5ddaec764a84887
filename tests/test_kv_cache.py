"""New keys and values in a cache: the same in each form that a backend gets, and in place in each target's files."""

from __future__ import annotations

import library
import pytest
import torch
from torch import Tensor, nn

from edgevlm.graphs import kv_cache
from edgevlm.graphs.capture import capture
from edgevlm.targets import registry

SLOTS = 6


def _given(positions: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(1, 3, SLOTS, 4, generator=generator)
    rows = torch.randn(3, len(positions), 4, generator=generator)
    places = torch.tensor([positions], dtype=torch.int32)
    hot = (torch.arange(SLOTS) == places[..., None]).float()
    return state, rows, places, hot, 1 - hot.sum(1)[..., None]


@pytest.mark.parametrize("positions", [[0], [5], [2, 3, 4], [4, 5, -1, -1], [-1, -1]])
def test_rows_stand_in_their_slots_and_padding_nowhere(positions: list[int]) -> None:
    state, rows, *places = _given(positions)
    expected = state.clone()
    for number, position in enumerate(positions):
        if position >= 0:
            expected[0, :, position] = rows[:, number]
    torch.testing.assert_close(kv_cache.update(state, rows, *places), expected, rtol=0, atol=0)
    torch.testing.assert_close(kv_cache.written_out(state, rows, *places), expected, rtol=0, atol=0)
    assert state.data_ptr() != kv_cache.update(state, rows, *places).data_ptr()


class _Write(nn.Module):
    def forward(self, *given: Tensor) -> Tensor:
        return kv_cache.update(*given)


@pytest.mark.parametrize(("count", "op"), [(1, "index_put"), (3, "matmul"), (-1, "index_put")])
def test_only_rows_that_may_be_padding_are_multiplied(count: int, op: str) -> None:
    given = _given([1, 2, 3] if count == -1 else [*range(count)])
    rows = torch.export.Dim("rows", min=1, max=SLOTS)
    shapes = ((None, {1: rows}, {1: rows}, {1: rows}, None),) if count == -1 else None
    exported = torch.export.export(_Write(), given, dynamic_shapes=shapes, strict=False)
    assert kv_cache.UPDATE in {node.target for node in exported.graph.nodes}
    lowered = exported.run_decompositions({kv_cache.UPDATE: kv_cache.written_out})
    names = {getattr(node.target, "__name__", "").partition(".")[0] for node in lowered.graph.nodes}
    assert {"index_put", "matmul"} & names == {op}
    torch.testing.assert_close(lowered.module()(*given), kv_cache.update(*given), rtol=0, atol=0)


def test_a_decoder_is_captured_with_the_op() -> None:
    program = library.talker_model("smolvlm").programs["decode"]
    exported = capture(program.explicit(1))
    found = [node for node in exported.graph.nodes if node.target == kv_cache.UPDATE]
    assert len(found) == len(program.spec.state)


@pytest.mark.parametrize(
    ("target", "recipe", "kind"),
    [
        ("tflite", "fp32", "DYNAMIC_UPDATE_SLICE"),
        pytest.param("coreml", "fp32", "slice_update", marks=pytest.mark.slow),
    ],
)
def test_a_files_token_is_written_where_it_stands(target: str, recipe: str, kind: str) -> None:
    bundle = library.talker("blip", target, recipe)
    counts = registry.runtime(target).inspect(bundle)["decode"]
    state = bundle.components["decode"].spec.state
    assert sum(each.count for each in counts if each.kind == kind) == len(state)


@pytest.mark.slow
def test_executorch_writes_in_place() -> None:
    bundle = library.talker("llava-next", "executorch", "fp32")
    counts = registry.runtime("executorch").inspect(bundle)["text_decoder"]
    kinds = {each.kind: each.count for each in counts}
    assert kinds["aten::index_put_"] == len(bundle.components["decode"].spec.state)
    assert "aten::copy_" not in kinds
