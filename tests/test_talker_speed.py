"""Other toolchains' files of a decoder, which benchmarks time beside ours: they compute what it computes."""

from __future__ import annotations

from pathlib import Path

import library
import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from edgevlm.benchmarks.talkers import decoders


@pytest.mark.slow
@pytest.mark.parametrize("toolchain", ["onnxruntime-genai", "openvino"])
def test_peers_answer_as_transformers_does(toolchain: str, tmp_path: Path) -> None:
    llama, folder = tmp_path / "llama", tmp_path / "peer"
    decoders.make_llama(library.talker_checkpoint("smolvlm"), llama)
    make = {"onnxruntime-genai": decoders.make_onnx, "openvino": decoders.make_openvino}[toolchain]
    make(llama, "fp32", folder)
    peer = decoders.OPENED[toolchain](folder, 1)
    times = decoders.clocked(peer, (4, 9), tokens=2, prompts=1)
    assert {name: len(each) for name, each in times.items()} == {"token_at_4": 2, "token_at_9": 2, "prompt_128": 1}
    answer = np.asarray(peer.prompt()).reshape(-1)
    with torch.inference_mode():
        ids = torch.from_numpy(decoders.IDS[: decoders.CHUNK]).long()[None]
        expected = LlamaForCausalLM.from_pretrained(llama, dtype=torch.float32)(ids).logits[0, -1]
    np.testing.assert_allclose(answer[-len(expected) :], expected.numpy(), rtol=2e-2, atol=2e-2 * expected.std().item())
