"""Tells NNCF which tensors of a graph become int8, and on which grid.

NNCF takes a torchao `Quantizer` for that (https://docs.pytorch.org/ao/stable/pt2e_quantization): it reads the scheme
from the annotations and decides the ranges itself. The grid is one that all three targets can hold: symmetric weights
of -127..127 with positive scales, a scale per output channel; asymmetric activations of -128..127.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import HistogramObserver, PerChannelMinMaxObserver  # type: ignore[import-untyped]
from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer  # type: ignore[import-untyped]

_WEIGHT = QuantizationSpec(
    dtype=torch.int8,
    quant_min=-127,
    quant_max=127,
    qscheme=torch.per_channel_symmetric,
    ch_axis=0,
    observer_or_fake_quant_ctr=PerChannelMinMaxObserver,
)
_ACTIVATION = QuantizationSpec(
    dtype=torch.int8,
    quant_min=-128,
    quant_max=127,
    qscheme=torch.per_tensor_affine,
    observer_or_fake_quant_ctr=HistogramObserver,
)


class Annotator(Quantizer):  # type: ignore[misc]
    """Annotates the products and convolutions that it is given the names of.

    Args:
        nodes: Names of the `aten.linear` and `aten.conv2d` nodes whose weights become int8.
        static: Whether their inputs and outputs do too, in ranges that NNCF measures. XNNPACK and TFLite compute a
            layer in integers only where both are.
    """

    def __init__(self, nodes: Collection[str], *, static: bool) -> None:
        super().__init__()
        self._nodes = frozenset(nodes)
        self._static = static

    def transform_for_annotation(self, model: GraphModule) -> GraphModule:
        return model

    def annotate(self, model: GraphModule) -> GraphModule:
        for node in model.graph.nodes:
            if node.name in self._nodes:
                node.meta["quantization_annotation"] = self._annotation(*node.args[:2])
        return model

    def validate(self, model: GraphModule) -> None:
        """Nothing to check: the nodes are chosen by what they are."""

    def _annotation(self, activation: Node, weight: Node) -> QuantizationAnnotation:
        if not self._static:
            return QuantizationAnnotation(input_qspec_map={weight: _WEIGHT}, _annotated=True)
        return QuantizationAnnotation(
            input_qspec_map={activation: _ACTIVATION, weight: _WEIGHT}, output_qspec=_ACTIVATION, _annotated=True
        )
