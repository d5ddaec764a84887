"""LiteRT-LM, which runs `.litertlm` files in apps on Android, iOS and desktops.

Source: https://github.com/google-ai-edge/LiteRT-LM. What an app should know of it, as it is in 0.18, `advice` says;
`tests/test_app_runners.py` holds that it is so.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgevlm.bundle.dialogue import DECODE, EMBEDDINGS, ENCODE_IMAGE, LOGITS, Dialogue
from edgevlm.targets import litert_lm
from edgevlm.targets.app_runner import Part, spell, spelled, spelling_vocabulary
from edgevlm.targets.inspection import Advice, AdviceKind
from edgevlm.targets.litert_lm import AMONG_WORDS, IMAGES, PLACEHOLDER, Beside

NAME = "LiteRT-LM"
SEEN = f"{NAME} {litert_lm.LEAST_RUNTIME}"
"""Of what `advice` was seen."""
_SOURCE = "https://github.com/google-ai-edge/LiteRT-LM"
_AS_THEY_COME = (
    "{%- for message in messages -%}{%- for part in message.content -%}"
    f"{{%- if part.type == 'image' -%}}{PLACEHOLDER}{{%- else -%}}{{{{ part.text }}}}{{%- endif -%}}"
    "{%- endfor -%}{%- endfor -%}"
)


def is_installed() -> bool:
    """Whether it runs here."""
    return all(find_spec(name) is not None for name in ("litert_lm", "litert_lm_builder"))


def advice(dialogue: Dialogue, size: tuple[int, int], beside: Beside = AMONG_WORDS) -> dict[str, tuple[Advice, ...]]:
    """What an app should know that asks LiteRT-LM, by component.

    Args:
        dialogue: The model's.
        size: Height and width of what the encoder takes.
        beside: What the decoder takes beside its rows.
    """
    pictures = [
        f"{SEEN} scales a picture in a way of its own, and answers may differ by that: scale it to {size[0]} x "
        f"{size[1]} (height x width) by the manifest's rule, and give it as a PNG"
    ]
    if dialogue.tiling is not None and dialogue.tiling.cuts:
        pictures.append(
            f"{SEEN} shows the whole of a picture alone, and the original sees it in tiles as well, so that answers "
            "differ by what is small: where that matters, run the models of the file by LiteRT, as `edgevlm run` does"
        )
    if dialogue.chat is None:
        turns = _to_app(
            EMBEDDINGS,
            f"{SEEN} is asked with one message, of one picture and the beginning of a caption, in a conversation of "
            "its own: it refuses none, two and a further message, and says why in its log alone",
            "refused",
        )
    else:
        turns = _to_app(
            "kv_cache_k_0, kv_cache_v_0, ...",
            f"in the second turn of a conversation {SEEN} takes the last token of the answer before for a row of "
            "zeros: begin a new conversation for each turn, with what was said as its `messages`",
        )
    return {
        ENCODE_IMAGE: tuple(_to_app(IMAGES, each) for each in pictures),
        DECODE: (
            turns,
            *_memory(beside),
            _to_app(
                LOGITS,
                f"{SEEN} writes special ids of an answer out, such as <image>: remove them from its text, as "
                "tokenizers do that skip special ids",
            ),
        ),
    }


def advice_refused(why: str) -> dict[str, tuple[Advice, ...]]:
    """The same of a file that the runtime cannot ask.

    Args:
        why: What it does, and this file needs otherwise.
    """
    message = f"{SEEN} cannot ask this file: {why}. Run the models of the file by LiteRT, as `edgevlm run` does"
    return {DECODE: (_to_app(EMBEDDINGS, message, "refused"),)}


def _memory(beside: Beside) -> tuple[Advice, ...]:
    if not beside.tensors:
        return ()
    rows, width = beside.positions, beside.width(0)
    message = (
        f"a picture is {rows:,} rows of {width:,} numbers to {SEEN}, {4 * rows * width / 1e6:,.1f} MB, beside caches "
        "that are as large and a chunk of them that is read at once, since it has no other place for what a decoder "
        "looks at beside its words: run the models of the file by LiteRT, as `edgevlm run` does, where that is too much"
    )
    return (_to_app(EMBEDDINGS, message, "speed"),)


def _to_app(where: str, message: str, kind: AdviceKind = "accuracy") -> Advice:
    return Advice("app", kind, where, message, _SOURCE)


class LiteRTLM:
    """The runtime on a bundle's models, with a tokenizer under which a text tells its ids.

    Args:
        path: Of the container.
        dialogue: The model's.
        vocabulary: Number of logits.
        context: Positions of pictures, words and answer together.
        size: Height and width of what the encoder takes.
    """

    def __init__(self, path: Path, dialogue: Dialogue, vocabulary: int, context: int, size: tuple[int, int]) -> None:
        self._module: Any = importlib.import_module("litert_lm")
        self._folder = tempfile.TemporaryDirectory(prefix="edgevlm-")
        tokenizer, witness = (Path(self._folder.name, name) for name in ("tokenizer.json", "witness.litertlm"))
        tokenizer.write_text(_spelling_ids(vocabulary))
        metadata = litert_lm.about(
            _AS_THEY_COME,
            begin_ids=(),
            end_ids=dialogue.end_ids,
            context_length=context,
            placeholder=PLACEHOLDER,
            size=size,
        )
        litert_lm.pack(litert_lm.unpack(path), witness, metadata=metadata, tokenizer=tokenizer)
        cpu = self._module.Backend.CPU(thread_count=1)
        self._engine = self._module.Engine(str(witness), backend=cpu, vision_backend=cpu, cache_dir=":nocache")

    def ids(self, parts: Sequence[Part], most: int) -> list[int]:
        """See `edgevlm.targets.app_runner.Runner`."""
        content = []
        for number, part in enumerate(parts):
            if isinstance(part, np.ndarray):
                path = Path(self._folder.name, f"{number}.png")
                Image.fromarray(part.transpose(1, 2, 0).round().astype(np.uint8)).save(path)
                content.append({"type": "image", "path": str(path)})
            else:
                content.append({"type": "text", "text": spell(part)})
        greedy = self._module.SamplerConfig(top_k=1, top_p=1.0, temperature=1.0)
        with self._engine.create_conversation(sampler_config=greedy, max_output_tokens=most) as conversation:
            answer = str(conversation.send_message({"role": "user", "content": content}))
        return spelled(answer)


def _spelling_ids(vocabulary: int) -> str:
    """A tokenizer.json in which token 7 is the text `<7>`."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel(spelling_vocabulary(vocabulary), unk_token="<0>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"<\d+>"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return str(tokenizer.to_str())
