"""ExecuTorch's own MultimodalRunner, which its Swift and Kotlin packages have as well.

Source: extension/llm/runner/multimodal_runner.h in ExecuTorch's repository. As it is, an app should know that

- it compares the first token of an answer with no end: an empty answer goes on behind its end;
- the last token of an answer is not in the state when the next question comes: an app gives it with that question;
- it puts a tokenizer's own beginning before every text: an app gives ids, which `edgevlm.inputs.texts` makes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgevlm.targets.app_runner import Part, spelled, spelling_vocabulary

NAME = "MultimodalRunner"


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
