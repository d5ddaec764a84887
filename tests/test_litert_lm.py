"""LiteRT-LM's container: what is written is read again, the same bytes each time, and damage is told."""

from __future__ import annotations

import json
import random
import time
from dataclasses import replace
from pathlib import Path

import jinja2
import library
import pytest
import torch
from pictures import scene
from torch import Tensor

from edgevlm.bundle.dialogue import Chat, Dialogue, Sampling, Spelling, Turn
from edgevlm.bundle.spec import ComponentSpec, TensorSpec
from edgevlm.converters.tflite.called import as_called
from edgevlm.converters.tflite.converter import TFLiteConverter
from edgevlm.converters.tflite.template import continuation, template
from edgevlm.converters.tflite.tokenizer import spelled
from edgevlm.errors import BundleError, UnsupportedError
from edgevlm.graphs.program import Program
from edgevlm.inputs.chat import Cut, Message, write
from edgevlm.inputs.texts import Tokenizer, without_rules
from edgevlm.models.checkpoints import talking
from edgevlm.targets import litert_lm
from edgevlm.targets.litert_lm import Beside

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


def test_a_captioners_template_shows_one_picture_and_says_one_text() -> None:
    def refuse(message: str) -> None:
        raise ValueError(message)

    environment = jinja2.Environment()
    environment.globals["raise_exception"] = refuse
    written = environment.from_string(continuation("[DEC]"))
    picture, text = {"type": "image"}, {"type": "text", "text": "a picture {{ of }}"}
    for content in ([picture, text], [text, picture], [text], "a picture {{ of }}", [picture, picture, text]):
        said = written.render(messages=[{"role": "user", "content": content}], add_generation_prompt=True)
        assert said == f"{litert_lm.PLACEHOLDER}[DEC]a picture {{{{ of }}}}"
    assert written.render(messages=[{"role": "user", "content": [picture]}]) == f"{litert_lm.PLACEHOLDER}[DEC]"
    with pytest.raises(ValueError, match="expected one message: this model has no chat template"):
        written.render(messages=[{"role": role, "content": "a"} for role in ("user", "assistant", "user")])


def test_ids_are_written_as_added_tokens() -> None:
    whole = (library.talker_checkpoint("blip") / "tokenizer.json").read_bytes()
    config = json.loads((library.talker_checkpoint("blip") / "config.json").read_text(encoding="utf-8"))
    begin = (config["text_config"]["bos_token_id"],)
    assert spelled(whole, begin, where="t") == (whole, "[DEC]")
    content = json.loads(whole)
    content["added_tokens"] = [each for each in content["added_tokens"] if each["id"] not in begin]
    lacking = json.dumps(content).encode()  # as BLIP's own is
    (word,) = (token_id for word, token_id in content["model"]["vocab"].items() if word == "cat")
    for ids in (begin, (*begin, word), (word, word)):
        found, text = spelled(lacking, ids, where="t")
        tokenizer, before = (Tokenizer.from_bytes(without_rules("t"), each) for each in (found, lacking))
        for words in ("", "A cat on a sofa", " sofas!", "[dec]"):
            assert tokenizer.pieces(text + words) == [*ids, *before.pieces(words)]
        assert tokenizer.text(before.pieces("a dog on sofas!")) == before.text(before.pieces("a dog on sofas!"))
    content["model"]["vocab"] = [["a", 0.0]]
    with pytest.raises(UnsupportedError, match="t: expected a token that is the id 7, which every text begins with"):
        spelled(json.dumps(content).encode(), [7], where="t")


def ran(program: Program, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a function of a container answers in torch, by the names of its spec."""
    with torch.no_grad():
        answers = program.module(*(given[each.name] for each in program.spec.inputs))
    answers = answers if isinstance(answers, tuple) else (answers,)
    for each, answer in zip(program.spec.outputs, answers, strict=True):
        assert tuple(answer.shape) == each.shape
    return {each.name: answer for each, answer in zip(program.spec.outputs, answers, strict=True)}


@pytest.mark.parametrize("patches", [1, 2, 3])
@pytest.mark.parametrize("asked", ["", "a picture of", "there are two dogs and a cat on the red sofa of the house"])
def test_a_picture_beside_the_words_is_rows_and_caches_to_litert_lm(asked: str, patches: int) -> None:
    """In chunks as the runtime makes them: one has the picture's end and the words, the last has padding."""
    model = talking.load(library.talker_checkpoint("blip"), name="b", context_length=32, lengths=(1, 16))
    expected = library.asking(model).generate(scene(40, 60, seed=3), asked, max_tokens=6)
    arranged = TFLiteConverter().arrange(model.programs, model.dialogue)
    beside = Beside.of(arranged["vision_encoder"].spec, {1: 16, 2: 5, 3: 3}[patches])
    functions = {name: as_called(name, program, beside) for name, program in arranged.items()}
    assert (beside.patches, beside.positions, beside.width(64)) == (patches, -(-17 // patches), patches * 2 * 2 * 64)

    def row(token_id: int) -> Tensor:
        return ran(functions["embedder"], {"token_ids": torch.tensor([[token_id]], dtype=torch.int32)})["embeddings"]

    pixels = library.asking(model).cut(scene(40, 60, seed=3))[0]
    images = torch.from_numpy(pixels.transpose(0, 2, 3, 1)) / 255
    ids = write(model.dialogue, [Message("user", asked)], [], model.tokenizer).ids
    rows = torch.cat([ran(functions["vision_encoder"], {"images": images})["features"], *map(row, ids)], 1)
    junk = torch.Generator().manual_seed(0)
    caches = {
        each.name: torch.randn(each.shape, generator=junk)  # of an earlier conversation
        for each in functions["decode"].spec.inputs
        if each.name.startswith("kv_cache_")
    }
    assert len(caches) == 8
    for start in range(0, rows.shape[1] - 1, 16):
        chunk = rows[:, start : min(start + 16, rows.shape[1] - 1)]
        chunk = torch.cat([chunk, torch.randn(1, 16 - chunk.shape[1], rows.shape[2], generator=junk)], 1)
        places = start + torch.arange(16, dtype=torch.int32)
        caches |= ran(functions["prefill_16"], {"embeddings": chunk, "input_pos": places, **caches})
    said: list[int] = []
    newest, place = rows[:, -1:], rows.shape[1] - 1
    while len(said) < len(expected.token_ids) or not said:
        assert expected.text
        given = {"embeddings": newest, "input_pos": torch.tensor([place], dtype=torch.int32), **caches}
        answers = ran(functions["decode"], given)
        assert answers.keys() == {"logits", *(f"kv_cache_{kind}_{layer}" for kind in "kv" for layer in range(2))}
        caches |= answers
        said.append(int(answers["logits"].argmax()))
        newest, place = row(said[-1]), place + 1
    assert said == expected.token_ids


def test_a_picture_beside_the_words_is_two_chunks_of_a_prompt_where_that_is_not_too_wide() -> None:
    """Of BLIP-base's size: 577 patches, keys and values of 12 layers of 12 heads of 64."""
    seen = tuple(
        TensorSpec(f"picture_{kind}_{layer}", "float32", (1, 12, 577, 64), "")
        for layer in range(12)
        for kind in ("keys", "values")
    )
    encode_image = ComponentSpec("encode_image", (TensorSpec("pixels", "float32", (1, 3, 384, 384), ""),), seen)
    for longest, patches, rows in ((64, 5, 116), (288, 2, 289), (289, 1, 577), (16, 16, 37), (1, 16, 37)):
        beside = Beside.of(encode_image, longest)
        assert (beside.patches, beside.positions, beside.width(768)) == (patches, rows, patches * 18_432)
    assert [beside.cache_name(each) for each in ("keys_11", "picture_keys_0", "picture_values_11_written")] == [
        *("kv_cache_k_11", "kv_cache_k_picture_0", "kv_cache_v_picture_11"),
    ]
    among = replace(encode_image, outputs=(TensorSpec("features", "float32", (1, 577, 768), ""),))
    assert (Beside.of(among, 64).positions, Beside.of(among, 64).width(768)) == (0, 768)
    with pytest.raises(BundleError, match=r"expected a state of keys_0, values_0, \.\.\., got 'logits'"):
        beside.cache_name("logits")
    for shape in ((1, 577), (1, 12, 9, 64), (1, 12, 577, 64, 1)):
        wrong = replace(encode_image, outputs=(*seen[:2], replace(seen[2], shape=shape)))
        with pytest.raises(BundleError, match=r"or keys and values \[1, heads, P, D\] of P patches, got picture"):
            Beside.of(wrong, 64)
    assert litert_lm.beside_of({}) == litert_lm.AMONG_WORDS


def test_a_prompt_is_read_by_another_length_than_1() -> None:
    model = talking.load(library.talker_checkpoint("blip"), name="b", context_length=32, lengths=(1,))
    with pytest.raises(UnsupportedError, match="expected another one beside 1, by which LiteRT-LM reads") as refused:
        TFLiteConverter().arrange(model.programs, model.dialogue)
    assert refused.value.hint == "--lengths 1,32"


def test_a_context_is_full_after_whole_runs() -> None:
    given = {"context_length": 96, "name": "l"}
    checkpoint = library.talker_checkpoint("llava")
    assert talking.load(checkpoint, **given).programs["decode"].lengths == (1, 48)  # type: ignore[arg-type]
    assert talking.load(checkpoint, name="l", context_length=97).programs["decode"].lengths == (1, 64)
    model = talking.load(checkpoint, **given, lengths=(1, 64))  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match=r"of which the context of 96 is a multiple, .* got 64") as refused:
        TFLiteConverter().arrange(model.programs, model.dialogue)
    assert refused.value.hint == "--context 128, or leave --lengths out"
