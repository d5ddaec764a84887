"""The runners that apps have for models that talk, asked with files, tokenizers and words of a test's choice."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgevlm.inference.generator import Generator
from edgevlm.targets.app_runner import spell

LITERT_LM = """
import json, sys
import litert_lm
litert_lm.set_min_log_severity(litert_lm.LogSeverity.ERROR)
path, dialogues, most = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
cpu = litert_lm.Backend.CPU(thread_count=1)
engine = litert_lm.Engine(path, backend=cpu, vision_backend=cpu, cache_dir=":nocache")
greedy, said = litert_lm.SamplerConfig(top_k=1, top_p=1.0, temperature=1.0), []
for earlier, questions in dialogues:
    asked = {"messages": earlier or None, "sampler_config": greedy, "max_output_tokens": most}
    with engine.create_conversation(**asked) as conversation:
        said.append([str(conversation.send_message({"role": "user", "content": each})) for each in questions])
print("\\n" + json.dumps(said))
"""
Content = list[dict[str, str]]
"""What somebody says to LiteRT-LM: texts and pictures."""
Piece = list[int] | NDArray[np.uint8] | None
"""Of a dialogue: ids of words, a picture [H, W, 3], or a row of zeros."""


def ask_litert_lm(
    container: Path, dialogues: Sequence[tuple[Sequence[dict[str, Any]], Sequence[Content]]], most: int
) -> list[list[str]]:
    """LiteRT-LM's greedy answers, in a process of its own.

    Args:
        container: A `.litertlm`.
        dialogues: Of each what was said before, as messages, and what is asked, one behind the other.
        most: Tokens of an answer at most.

    Raises:
        subprocess.CalledProcessError: it refuses, or ends the process.
    """
    command = [sys.executable, "-c", LITERT_LM, str(container), json.dumps(dialogues), str(most)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answers: list[list[str]] = json.loads(done.stdout.splitlines()[-1])
    return answers


def text(words: str | Sequence[int]) -> dict[str, str]:
    """What LiteRT-LM is told: a text, or ids as one."""
    return {"type": "text", "text": words if isinstance(words, str) else spell(words)}


def picture(pixels: NDArray[np.uint8], path: Path) -> dict[str, str]:
    """What LiteRT-LM is shown: a picture [H, W, 3], written as a PNG."""
    Image.fromarray(pixels).save(path)
    return {"type": "image", "path": str(path)}


def answer(talker: Generator, pieces: Sequence[Piece], most: int) -> list[int]:
    """Our own greedy answer to a dialogue that is put in piece by piece, up to an end and without it."""
    place, logits = talker.place(), np.zeros(0, np.float32)
    for piece in pieces:
        if isinstance(piece, list):
            logits = place.put(piece)
        else:
            rows = _row_of_zeros(talker) if piece is None else _rows(talker, piece)
            logits = place.put([0] * len(rows), rows, range(len(rows)))
    said: list[int] = []
    while len(said) < most and int(logits.argmax()) not in talker.dialogue.end_ids:
        said.append(int(logits.argmax()))
        logits = place.put(said[-1:])
    return said


def _rows(talker: Generator, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    (found,) = talker.encode(pixels.transpose(2, 0, 1)[None].astype(np.float32))
    return found["features"][0]


def _row_of_zeros(talker: Generator) -> NDArray[np.float32]:
    return np.zeros((1, talker.specs["embed_tokens"].outputs[0].shape[-1]), np.float32)
