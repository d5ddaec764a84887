"""ExecuTorch's own MultimodalRunner, which its Swift and Kotlin packages have as well.

Source: extension/llm/runner/multimodal_runner.h in ExecuTorch's repository. What an app should know of it, as it is in
1.5, `advice` says; `tests/test_app_runners.py` holds that it is so.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgevlm.bundle.dialogue import DECODE, EMBED_TOKENS, EMBEDDINGS, ENCODE_IMAGE, LOGITS, Dialogue
from edgevlm.targets.app_runner import Part, spelled, spelling_vocabulary
from edgevlm.targets.inspection import Advice, AdviceKind

NAME = "MultimodalRunner"
SEEN = f"{NAME} of ExecuTorch 1.5"
"""Of what `advice` was seen."""
_SOURCE = "https://github.com/pytorch/executorch/blob/main/extension/llm/runner/multimodal_runner.h"


def advice(dialogue: Dialogue, size: tuple[int, int]) -> dict[str, tuple[Advice, ...]]:
    """What an app should know that asks the runner, by component.

    Args:
        dialogue: The model's.
        size: Height and width of what the encoder takes.
    """
    begun = f"the beginning, {list(dialogue.begin_ids)}, included" if dialogue.begin_ids else "which have no beginning"
    return {
        ENCODE_IMAGE: (
            _to_app(
                "refused",
                "pixels",
                f"{SEEN} scales no picture, and fails on another size than {size[0]} x {size[1]} (height x width): "
                "give pixels by the manifest's rule, float32 in 0..255",
            ),
        ),
        EMBED_TOKENS: (
            _to_app(
                "accuracy",
                "token_ids",
                f"{SEEN} puts its tokenizer's beginning before the first text where `num_bos` is 1, and none where it "
                f"is 0, which is the default: give ids by the manifest's `dialogue`, {begun}",
            ),
        ),
        DECODE: (
            _to_app(
                "accuracy",
                LOGITS,
                f"{SEEN} goes on behind an end that is the first token of an answer: take an answer that begins with "
                f"one of {list(dialogue.end_ids)} as empty",
            ),
            _to_app(
                "accuracy",
                "keys_0, values_0, ...",
                f"{SEEN} leaves the last token of an answer out of the state when the next question comes: give it "
                "with that question, unless it is an end",
            ),
            _to_app(
                "refused",
                LOGITS,
                f"in Python {SEEN} fails on a token that is a part of a character, such as one of several bytes: "
                "choose the tokens yourself there, as `edgevlm run` does; not tried in Swift and Kotlin",
            ),
        ),
    }


def advice_beside(dialogue: Dialogue) -> dict[str, tuple[Advice, ...]]:
    """The same where a decoder looks at a picture beside its words."""
    message = (
        f"{SEEN} cannot hold this file: it has a place for rows and positions alone, and this decoder takes keys and "
        "values of the picture as well"
    )
    if dialogue.chat is None:
        message += "; and no word pieces, which are the captioner's, are known to its tokenizers"
    message += ". Call the methods by ExecuTorch's Module, as `edgevlm run` does"
    if dialogue.chat is None:
        message += ", or convert the model to TFLite, for LiteRT-LM"
    return {DECODE: (_to_app("refused", "picture_keys_0, picture_values_0, ...", message),)}


def advice_prefix() -> dict[str, tuple[Advice, ...]]:
    """The same where a picture and a question are put at once, and see each other."""
    message = (
        f"{SEEN} cannot hold this file: it gives the picture and each text in a run of its own, and this decoder takes "
        "them in one. Call the methods by ExecuTorch's Module, as `edgevlm run` does"
    )
    return {DECODE: (_to_app("refused", EMBEDDINGS, message),)}


def _to_app(kind: AdviceKind, where: str, message: str) -> Advice:
    return Advice("app", kind, where, message, _SOURCE)


class MultimodalRunner:
    """The runner, with a tokenizer under which an answer's text tells its ids.

    Args:
        path: Of the .pte.
        vocabulary: Number of logits.
        longest: Rows that the file's decoder surely takes at once; the runner itself cuts nothing.
    """

    def __init__(self, path: Path, vocabulary: int, longest: int) -> None:
        from executorch.extension.llm import runner  # type: ignore[import-untyped]

        self._module: Any = runner
        self._longest = longest
        with tempfile.TemporaryDirectory(prefix="edgevlm-") as folder:
            tokenizer = Path(folder, "tokenizer.json")
            tokenizer.write_text(_spelling_ids(vocabulary))
            self._runner = runner.MultimodalRunner(str(path), str(tokenizer))

    def ids(self, parts: Sequence[Part], most: int) -> list[int]:
        """See `edgevlm.targets.app_runner.Runner`."""
        import torch

        given = []
        for part in parts:
            if isinstance(part, np.ndarray):
                given.append(self._module.make_image_input(torch.tensor(part)))
            else:
                pieces = (part[start : start + self._longest] for start in range(0, len(part), self._longest))
                given += [self._module.make_token_input(piece) for piece in pieces]
        said: list[str] = []
        self._runner.reset()
        greedy = self._module.GenerationConfig(max_new_tokens=most, temperature=0.0, echo=False)
        self._runner.generate(given, greedy, said.append)
        return spelled("".join(said))


def _spelling_ids(vocabulary: int) -> str:
    """A tokenizer.json in which token 7 is the text `<7>`, of the one kind that the runner reads; it only decodes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(vocab=spelling_vocabulary(vocabulary), merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return str(tokenizer.to_str())
