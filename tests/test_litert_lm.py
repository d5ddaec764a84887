"""LiteRT-LM's container: what is written is read again, the same bytes each time, and damage is told."""

from __future__ import annotations

import random
import time
from pathlib import Path

import jinja2
import pytest

from edgevlm.bundle.dialogue import Chat, Dialogue, Sampling, Spelling, Turn
from edgevlm.bundle.spec import ComponentSpec, TensorSpec
from edgevlm.converters.tflite.template import template
from edgevlm.errors import BundleError
from edgevlm.inputs.chat import Cut, Message, write
from edgevlm.targets import litert_lm

MODELS = {litert_lm.VISION_ENCODER: b"one" * 999, litert_lm.EMBEDDER: b"two", litert_lm.DECODER: b"three" * 5000}
PLAIN = Chat(
    begin="",
    system=None,
    user=Turn("USER: ", " "),
    user_with_picture=Turn("USER: <image>\n", " "),
    assistant=Turn("ASSISTANT: ", "</s>"),
    ask="ASSISTANT:",
)
AWKWARD = Chat(
    begin='<|start|>{{ "no" }}',
    system=Turn("System:\n  ", "<end>\n"),
    user=Turn("User: ", "<end>\n\n"),
    user_with_picture=Turn("User:<image> 'quoted' \\ ", "<end>\n"),
    assistant=Turn("{% Assistant %} ", "<end>\n"),
    ask="Assistant:",
)
"""What Jinja might take for its own."""


def packed(path: Path) -> bytes:
    metadata = litert_lm.about(
        "{{ messages }}", begin_ids=[1], end_ids=[2, 3], context_length=8, placeholder="<image>", size=(4, 4)
    )
    tokenizer = path.with_name("tokenizer.json")
    tokenizer.write_text("{}")
    litert_lm.pack(MODELS, path, metadata=metadata, tokenizer=tokenizer)
    assert sorted(each.name for each in path.parent.iterdir()) == [path.name, "tokenizer.json"]
    return path.read_bytes()


def test_models_are_where_they_were_put_and_bytes_are_the_same_each_time(tmp_path: Path) -> None:
    content = packed(tmp_path / "a.litertlm")
    found = [content[start:stop] for start, stop in litert_lm.models(tmp_path / "a.litertlm")]
    assert found == list(MODELS.values())
    assert litert_lm.unpack(tmp_path / "a.litertlm") == MODELS
    time.sleep(0.01)
    assert packed(tmp_path / "a.litertlm") == content


def test_a_container_of_other_models_is_refused(tmp_path: Path) -> None:
    litert_lm.pack({litert_lm.EMBEDDER: b"two"}, tmp_path / "a.litertlm")
    with pytest.raises(BundleError, match="expected 3 models, got 1"):
        litert_lm.unpack(tmp_path / "a.litertlm")


def test_stamping_without_the_time_is_still_needed(tmp_path: Path) -> None:
    import litert_lm_builder as builder

    def build() -> bytes:
        container = builder.LitertLmFileBuilder()
        with (tmp_path / "b").open("w+b") as file:
            container.build(file)
        return (tmp_path / "b").read_bytes()

    assert build() != build()


def test_damage_is_told(tmp_path: Path) -> None:
    content, path = packed(tmp_path / "a.litertlm"), tmp_path / "b.litertlm"
    whole = litert_lm.models(tmp_path / "a.litertlm")
    for damaged in (b"", content[:8], content[:40], b"TFL3" * 20, content[: whole[-1][1] - 1]):
        path.write_bytes(damaged)
        with pytest.raises(BundleError, match="litertlm: "):
            litert_lm.models(path)
    rng, refused = random.Random(0), 0
    header = int.from_bytes(content[24:32], "little")
    for _ in range(400):
        mutant = bytearray(content[: whole[-1][1]])
        for _ in range(rng.choice((1, 2, 8))):
            mutant[rng.randrange(header)] = rng.randrange(256)
        path.write_bytes(mutant)
        try:
            assert all(0 < start < stop <= len(mutant) for start, stop in litert_lm.models(path))
        except BundleError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("chat", [PLAIN, AWKWARD])
def test_the_template_writes_a_dialogue_as_we_do(chat: Chat) -> None:
    spelling = Spelling("<image>", 7, 3, "", "", "", Turn("<begin>", "<end>"))
    dialogue = Dialogue(64, (), chat, spelling, None, (2,), "", Sampling(), "tokenizer.json")
    rendered = jinja2.Environment().from_string(template(chat))

    class Letters:
        def pieces(self, text: str) -> list[int]:
            return list(map(ord, text))

    for said in (
        [Message("user", "What is {{ this }}?", 1)],
        [Message("user", "  a\nb ")],
        [Message("user", "a", 1), Message("assistant", "b"), Message("user", "c")],
        *([[Message("system", "be brief"), Message("user", "a", 1)]] if chat.system else []),
    ):
        pictures = sum(message.pictures for message in said)
        expected = write(dialogue, said, [Cut()] * pictures, Letters()).text
        for as_list in (True, False):
            if pictures and not as_list:
                continue
            messages = [
                {
                    "role": message.role,
                    "content": [{"type": "image"}] * message.pictures + [{"type": "text", "text": message.text}]
                    if as_list
                    else message.text,
                }
                for message in said
            ]
            text = rendered.render(messages=messages, add_generation_prompt=True)
            assert text.replace("<image>", "<begin><image><image><image><end>") == expected


def test_functions_are_named_as_the_runtime_looks_for_them() -> None:
    state = tuple(TensorSpec(f"{kind}_0", "float32", (1, 2, 9, 4), "") for kind in ("keys", "values"))
    spec = ComponentSpec(
        "decode",
        (TensorSpec("embeddings", "float32", (1, -1, 8), ""), TensorSpec("positions", "int32", (1, -1), "")),
        (TensorSpec("logits", "float32", (1, 20), ""),),
        (1, 4),
        state,
    )
    called = litert_lm.called("prefill_4", spec.explicit(4, "prefill_4"))
    assert [(each.name, each.shape) for each in called.inputs] == [
        ("embeddings", (1, 4, 8)),
        ("input_pos", (4,)),
        ("kv_cache_k_0", (1, 2, 9, 4)),
        ("kv_cache_v_0", (1, 2, 9, 4)),
    ]
    assert [(each.name, each.shape) for each in called.outputs] == [
        ("logits", (1, 1, 20)),
        ("kv_cache_k_0", (1, 2, 9, 4)),
        ("kv_cache_v_0", (1, 2, 9, 4)),
    ]
