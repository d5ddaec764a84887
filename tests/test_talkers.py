"""Models that talk: what is read of a checkpoint, and that words come as transformers' own classes give them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import talkers
import torch
from library import asking, talker_checkpoint
from library import talker_model as load
from numpy.typing import NDArray
from pictures import scene
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from edgevlm.bundle.dialogue import Grid, Sampling, Tiling
from edgevlm.bundle.spec import Array
from edgevlm.errors import CheckpointError, InputError, TensorError
from edgevlm.graphs.session import ProgramSession
from edgevlm.inference.decoding import Chooser, log_likelihood
from edgevlm.inference.generator import Answer
from edgevlm.inputs import tiles
from edgevlm.inputs.chat import Cut, Message, go_on, render, write
from edgevlm.models.checkpoints import chat_rules, talking
from edgevlm.models.generators.decoder import Places, RMSNorm, Rotation
from edgevlm.models.talker import Talker

QUESTION = "Is there a red sofa in the photo?"
TOKENS = 16


def ids(answer: Answer) -> list[int]:
    """Of the whole answer."""
    assert answer.text
    return answer.token_ids


def question(model: Talker) -> str | None:
    return None if model.dialogue.chat is None else QUESTION


def by_transformers(model: Talker, folder: Path, picture: Image.Image, text: str | None) -> list[int]:
    """Ids of a greedy answer, asked as transformers' users do: by the processor, and by `generate`."""
    network: Any = model.original.network
    picture = talkers.scaled(picture, model)
    if text is None:
        pixels = torch.tensor(np.asarray(talkers.picture_processor_of(folder)(picture)["pixel_values"]))
        found = network.generate(pixel_values=pixels, max_new_tokens=TOKENS, do_sample=False)[0].tolist()[1:]
    else:
        inputs = talkers.asked(folder, picture, text)
        begun = {"BlipForQuestionAnswering": 1, "Florence2ForConditionalGeneration": 2}.get(type(network).__name__)
        whole = network.generate(**inputs, max_new_tokens=TOKENS + (begun == 2), do_sample=False)
        asked = begun or inputs["input_ids"].shape[1]
        found = whole[0, asked:].tolist()
    return [each for each in found if each not in model.dialogue.end_ids]


@pytest.mark.parametrize("kind", talkers.KINDS)
def test_an_answer_is_what_transformers_generates(kind: str) -> None:
    model, answers = load(kind), []
    original, lowered = asking(model), asking(model, ProgramSession(model.programs))
    for picture in (scene(90, 70, seed=1), Image.new("RGB", (33, 64), (128, 128, 128))):
        expected = by_transformers(model, talker_checkpoint(kind), picture, question(model))
        for asked in (original, lowered):
            answer = asked.generate(picture, question(model), max_tokens=TOKENS)
            pieces = list(answer)
            assert answer.token_ids == expected
            assert answer.text == model.tokenizer.text(expected)
            assert answer.text == "".join(pieces) or "\ufffd" in answer.text  # bytes that are no characters
            assert answer.finish in ("length", "end")
        answers.append(expected)
    assert answers[0] != answers[1]  # it looks at the picture
    assert len({*answers[0]}) > 3


ROPES: Mapping[str, dict[str, Any]] = {
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 256},
    "llama3": {
        **{"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        "original_max_position_embeddings": 128,
    },
}


@pytest.mark.parametrize("kind", ROPES)
def test_a_rope_of_each_kind_turns_as_transformers_does(kind: str, tmp_path: Path) -> None:
    rope = {"rope_type": kind, "rope_theta": 10000.0, **ROPES[kind]}
    folder = talkers.write_llava(tmp_path / "llava", text={"rope_parameters": rope})
    model, picture = talking.load(folder, name="l", context_length=1024), scene(90, 70, seed=1)
    long = f"{QUESTION} {'There is a dog, and a cat. ' * 60}"  # to where angles differ most
    for question in (QUESTION, long):
        expected = by_transformers(model, folder, picture, question)
        for asked in (asking(model), asking(model, ProgramSession(model.programs))):
            assert ids(asked.generate(picture, question, max_tokens=TOKENS)) == expected
    assert len(model.tokenizer.pieces(long)) > 512
    cosines, plain = (each.programs["decode"].module.rotation.cos[:512] for each in (model, load("llava")))
    assert torch.equal(cosines, plain) == (kind == "dynamic")


def test_weights_in_bfloat16_are_the_numbers_that_they_stand_for(tmp_path: Path) -> None:
    import transformers

    folder = Path(shutil.copytree(talker_checkpoint("llava"), tmp_path / "llava"))
    _weights(folder, lambda t: t.update({name: tensor.bfloat16() for name, tensor in t.items()}))
    _config(folder, lambda c: c.update(dtype="bfloat16"))
    model, picture = talking.load(folder, name="l"), scene(90, 70, seed=1)
    theirs = transformers.LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    for (name, ours), rounded in zip(model.original.network.named_parameters(), theirs.parameters(), strict=True):
        assert ours.dtype == torch.float32, name
        torch.testing.assert_close(ours, rounded, rtol=0, atol=0)
        torch.testing.assert_close(ours, ours.bfloat16().float(), rtol=0, atol=0)
    expected = by_transformers(model, folder, picture, QUESTION)
    assert ids(asking(model, ProgramSession(model.programs)).generate(picture, QUESTION, max_tokens=TOKENS)) == expected
    tables = [each.original.network.get_input_embeddings().weight for each in (model, load("llava"))]
    assert not torch.equal(*tables)


@pytest.mark.parametrize("lengths", [(1, 8), (1, 3, 64), (1,)])
def test_a_prompt_is_decoded_in_parts_of_any_length(lengths: tuple[int, ...]) -> None:
    model = talking.load(talker_checkpoint("llava"), name="l", context_length=128, lengths=lengths)
    picture = scene(40, 40, seed=2)
    expected = ids(asking(model).generate(picture, QUESTION, max_tokens=8))
    assert ids(asking(model, ProgramSession(model.programs)).generate(picture, QUESTION, max_tokens=8)) == expected


def test_a_second_question_costs_its_own_words() -> None:
    model = load("smolvlm")
    chat = asking(model, ProgramSession(model.programs)).chat(scene(30, 30, seed=3), system="Be brief.")
    first = ids(chat.ask(QUESTION, max_tokens=5))
    used = chat._place.used
    second = ids(chat.ask("And a dog?", max_tokens=5))
    assert model.dialogue.chat is not None
    turn = model.dialogue.chat
    behind = turn.assistant.after + turn.user.before + "And a dog?" + turn.user.after + turn.ask
    # The last word of the first answer, the words between, and all but the last word of the second.
    assert chat._place.used == used + 1 + len(model.tokenizer.pieces(behind)) + 4
    whole = asking(model).chat(scene(30, 30, seed=3), system="Be brief.")
    assert ids(whole.ask(QUESTION, max_tokens=5)) == first
    assert ids(whole.ask("And a dog?", max_tokens=5)) == second


@pytest.mark.parametrize("kind", ["llava", "smolvlm"])
def test_a_question_that_came_to_nothing_leaves_the_conversation_as_it_was(kind: str) -> None:
    model = load(kind)
    plain, troubled = (asking(model).chat(scene(30, 30, seed=3)) for _ in range(2))
    for chat in (plain, troubled):
        assert len(ids(chat.ask(QUESTION, max_tokens=4))) == 4
    troubled.ask("this one is never read, and stopped").stop()
    long = troubled.ask("too long " * 400)
    for _ in range(2):  # and says so again
        with pytest.raises(InputError, match="more positions"):
            _ = long.text
    for wrong in ("and <image>?", "\ud800", b"bytes"):
        with pytest.raises(InputError, match=r"expected texts without|lone surrogate|expected a text, got bytes"):
            troubled.ask(wrong)  # type: ignore[arg-type]
    assert ids(troubled.ask("And a dog?", max_tokens=4)) == ids(plain.ask("And a dog?", max_tokens=4))


@pytest.mark.parametrize("kind", ["llava", "smolvlm"])
def test_a_further_question_has_the_ids_that_it_has_in_the_whole_dialogue(kind: str) -> None:
    model = load(kind)
    said = [Message("user", "What is it?"), Message("assistant", "a red circle."), Message("user", "And where?")]
    whole = write(model.dialogue, said, [], model.tokenizer).ids
    behind = go_on(model.dialogue, "And where?", model.tokenizer)
    assert list(whole[-len(behind) :]) == behind
    assert model.tokenizer.text(whole[: -len(behind)]).rstrip().endswith("a red circle.")


def test_many_questions_may_wait() -> None:
    chat = asking(load("llava")).chat()
    many = [chat.ask(str(number), max_tokens=1) for number in range(1500)]
    with pytest.raises(InputError, match="more positions"):  # the context is full long before
        _ = many[-1].text
    assert many[0].finish == "length"


@pytest.mark.parametrize(
    "wrong",
    [
        *({"sampling": Sampling(temperature)} for temperature in (-1.0, float("nan"), float("inf"), 10**400, 10**5000)),
        *({"sampling": Sampling("a")}, {"sampling": Sampling(1.0, top_p=None)}, {"sampling": Sampling(None)}),  # type: ignore[arg-type]
        *({"sampling": Sampling(1.0, top_k=-1)}, {"sampling": Sampling(1.0, top_p=0.0)}, {"sampling": {}}),
        *({"sampling": Sampling(1.0, top_p=float("nan"))}, {"seed": -1}, {"max_tokens": 1.5}, {"max_tokens": True}),
    ],
)
def test_numbers_out_of_their_ranges_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected"):
        asking(load("llava")).generate(None, "a", **wrong)


def test_an_answer_ends_where_the_context_does_and_can_be_stopped() -> None:
    model = talking.load(talker_checkpoint("blip"), name="b", context_length=8, lengths=(1, 8))
    answer = asking(model).generate(scene(30, 30, seed=4), max_tokens=100)
    assert answer.text
    assert answer.finish == "context"
    assert len(answer.token_ids) == 8  # one position is the beginning, and the last word needs none
    answer = asking(model).generate(scene(30, 30, seed=4), max_tokens=100)
    for _ in answer:
        answer.stop()
    assert answer.finish == "stopped"
    assert 1 <= len(answer.token_ids) < 8
    with pytest.raises(InputError, match="expected at most 8 more positions, of a context of 8"):
        _ = asking(model).generate(scene(30, 30), "a photo of a cat sleeping on a red sofa in the park").text


def test_several_threads_may_read_one_answer() -> None:
    model, picture = load("blip"), scene(30, 30, seed=4)
    expected = asking(model).generate(picture, max_tokens=12)
    answer, pieces = asking(model).generate(picture, max_tokens=12), list[str]()
    with ThreadPoolExecutor(4) as threads:
        texts = list(threads.map(lambda _: [pieces.extend(answer), answer.text][1], range(4)))
    assert texts == [expected.text] * 4
    assert answer.token_ids == expected.token_ids
    assert sorted(pieces) == sorted(asking(model).generate(picture, max_tokens=12))


def test_several_threads_may_read_a_conversations_answers_in_any_order() -> None:
    model, picture, questions = load("llava"), scene(40, 40, seed=5), ("What?", "How many?", "Where?")
    asked = asking(model)
    chat = asked.chat(picture)
    expected = [chat.ask(each, max_tokens=4).text for each in questions]
    for _ in range(5):
        chat = asked.chat(picture)
        answers = [chat.ask(each, max_tokens=4) for each in questions]
        with ThreadPoolExecutor(3) as threads:
            found = list(threads.map(lambda answer: answer.text, reversed(answers), timeout=30))
        assert found == expected[::-1]


def test_scores_are_log_likelihoods() -> None:
    model, picture = load("llava"), scene(40, 40, seed=5)
    asked = asking(model)
    greedy = asked.generate(picture, QUESTION, max_tokens=1)
    said = greedy.text
    found = asked.score(picture, QUESTION, [said, "No"])
    assert found.shape == (2,)
    assert found[0] > found[1]
    lowered = asking(model, ProgramSession(model.programs)).score(picture, QUESTION, [said, "No"])
    np.testing.assert_allclose(found, lowered, atol=1e-4)
    for answers, message in (
        ([""], "expected answers of 1 to"),
        (["a " * 999], "expected answers of 1 to"),
        ("Yes", "expected a sequence of answers, got one text: 'Yes'"),
        (["<image>"], "expected texts without <image>"),
        ([3], "expected a text, got int"),
    ):
        with pytest.raises(InputError, match=message):
            asked.score(picture, QUESTION, answers)  # type: ignore[arg-type]


def test_tokens_are_drawn_by_a_seed() -> None:
    logits = np.random.default_rng(0).normal(0, 3, 50).astype(np.float32)
    drawn = [[Chooser(Sampling(1.0, top_k=5), seed).next(logits) for _ in range(1)] for seed in range(200)]
    allowed = {*np.argsort(-logits)[:5].tolist()}
    assert {each for (each,) in drawn} <= allowed
    assert len({each for (each,) in drawn}) > 2
    assert Chooser(Sampling(0.7, 10, 0.9), 3).next(logits) == Chooser(Sampling(0.7, 10, 0.9), 3).next(logits)
    assert Chooser(Sampling(1e-3), 1).next(logits) == Chooser(Sampling()).next(logits) == int(logits.argmax())
    assert Chooser(Sampling(1.0, top_p=1e-9), 1).next(logits) == int(logits.argmax())
    expected = torch.from_numpy(logits).double().log_softmax(0)[7].item()
    assert log_likelihood(logits, 7) == pytest.approx(expected)
    with pytest.raises(TensorError, match="logits: expected finite values, got 1 of 50"):
        Chooser(Sampling()).next(np.where(np.arange(50) == 3, np.nan, logits).astype(np.float32))


@pytest.mark.parametrize("splits", [True, False], ids=["cut", "whole"])
@pytest.mark.parametrize("size", [(64, 48), (48, 64), (33, 70), (1, 50), (50, 1), (32, 32), (10, 10), (97, 95)])
def test_tiles_are_those_of_transformers(size: tuple[int, int], splits: bool) -> None:
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    theirs = Idefics3ImageProcessorPil(
        size={"longest_edge": 96}, max_image_size={"longest_edge": 32}, do_normalize=False, do_rescale=False,
        do_image_splitting=splits,
    )  # fmt: skip
    picture = scene(*size, seed=6)
    expected, found = theirs(picture, return_row_col_info=True), tiles.cut(picture, Tiling(96, 32, "lanczos", splits))
    assert [[found.rows]] == expected["rows"]
    assert [[found.columns]] == expected["cols"]
    np.testing.assert_array_equal(np.asarray(expected["pixel_values"][0]), found.pixels)


@pytest.mark.parametrize("grid", [Grid(1, 6), Grid(2, 12), Grid(1, 1), Grid(4, 4)], ids=str)
@pytest.mark.parametrize("size", [(64, 48), (33, 70), (1, 50), (50, 1), (32, 32), (64, 64), (97, 95), (40, 100)])
def test_grids_are_those_of_transformers(size: tuple[int, int], grid: Grid) -> None:
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    theirs = GotOcr2ImageProcessorPil(
        size={"height": 32, "width": 32}, min_patches=grid.least, max_patches=grid.most, do_normalize=False,
        do_rescale=False, crop_to_patches=True,
    )  # fmt: skip
    picture = scene(*size, seed=6)
    expected = np.asarray(theirs(picture)["pixel_values"])
    found = tiles.cut(picture, Tiling(32 * grid.most, 32, "bicubic", grid=grid))
    np.testing.assert_array_equal(expected, found.pixels)
    assert len(expected) == (found.rows * found.columns + 1 if found.rows else 1)


TEMPLATES = {
    "trims": ("[{{ m['role'] }}]{{ c['text'] | trim }}", "can be said in literal texts, got one that writes"),
    "counts": ("{{ messages.index(m) }}{{ c['text'] }}", "can be said in literal texts, got one that writes"),
    "says it twice": ("{{ m['role'] }}{{ c['text'] }}{{ c['text'] }}", "is missing, or is there twice"),
    "is code": ("{{ m['role'].__class__.__mro__ }}", "the chat template fails: SecurityError"),
    "fails": ("{{ nothing.at.all }}", "the chat template fails: UndefinedError"),
    "leaves words out": ("{{ m['role'] }}", "is missing, or is there twice"),
}


@pytest.mark.parametrize("case", TEMPLATES)
def test_a_template_that_is_no_literal_text_is_refused(case: str) -> None:
    body, message = TEMPLATES[case]
    template = (
        "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% else %}"
        + body
        + "{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
    )
    with pytest.raises(CheckpointError, match=message):
        chat_rules.read_chat(template, "<image>", {}, "here")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}",
            "took longer than 5 s of a processor",
        ),
        ("{% set all.text = all.text ~ all.text %}", "took longer than 5 s|fails: MemoryError"),
    ],
    ids=["loops", "grows"],
)
def test_a_template_that_does_not_end_is_ended(body: str, message: str) -> None:
    template = "{% set all = namespace(text='a') %}{% for a in range(99) %}" + body + "{% endfor %}"
    with pytest.raises(CheckpointError, match=message):
        chat_rules.read_chat(template, "<image>", {}, "here")
    chat_rules.read_chat(talkers.LLAVA_TEMPLATE, "<image>", {}, "here")


def test_tiles_that_several_threads_look_at_have_the_bits_of_one() -> None:
    model, before = load("smolvlm"), torch.get_num_threads()
    asked = asking(model)
    pixels, _ = asked.cut(scene(90, 70, seed=3))
    assert len(pixels) > 2
    alone = [model.original.run("encode_image", {"pixels": tile[None]}) for tile in pixels]
    torch.set_num_threads(2)
    try:
        together = asked.encode(pixels)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one["features"], other["features"])


def test_equal_tiles_are_looked_at_once() -> None:
    model, looked = load("smolvlm"), list[float]()

    class Counting(ProgramSession):
        def run(self, component: str, inputs: Mapping[str, Array], state: Any = None) -> dict[str, NDArray[np.float32]]:
            looked.append(float(inputs["pixels"].mean()))
            return super().run(component, inputs, state)

    asked, plain = asking(model, Counting(model.programs)), ProgramSession(model.programs)
    pixels, _ = asked.cut(scene(90, 70, seed=3))
    again = asked.encode(np.concatenate([pixels, pixels[::-1]]))
    assert len(looked) == len(pixels) == len({*looked})
    for tile, found in zip([*pixels, *pixels[::-1]], again, strict=True):
        expected = plain.run("encode_image", {"pixels": tile[None]})
        np.testing.assert_array_equal(found["features"], expected["features"])


def test_of_several_templates_the_one_counts_that_transformers_reads(tmp_path: Path) -> None:
    folder = shutil.copytree(talker_checkpoint("llava"), tmp_path / "llava")
    names = ("processor_config.json", "chat_template.json", "chat_template.jinja", "tokenizer_config.json")
    before = {name: json.loads((folder / name).read_text()) for name in (names[0], names[3])}
    for name in names:
        content = name if name.endswith(".jinja") else json.dumps({**before.get(name, {}), "chat_template": name})
        (folder / name).write_text(content)
    for place, name in enumerate(names):
        reader = AutoTokenizer.from_pretrained(folder) if name == names[3] else talkers.processor_of(folder)
        assert chat_rules.find_template(folder) == reader.chat_template == name
        if behind := ", ".join(names[place + 1 :]):
            (note,) = chat_rules.notes(folder)
            assert (
                note == f"dialogue: the chat template of {name} was taken, as transformers does; another is in {behind}"
            )
        if name in before:
            (folder / name).write_text(json.dumps({**before[name], "chat_template": None}))
        else:
            (folder / name).unlink()
    assert chat_rules.find_template(folder) is None
    assert chat_rules.notes(folder) == ()


def test_a_template_without_pictures_or_without_a_system_text() -> None:
    plain = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{% for c in m['content'] %}{{ '<image>' if c['type'] == 'image' else m['role'] + c['text'] }}{% endfor %}\n"
        "{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
    )
    chat = chat_rules.read_chat(plain, "<image>", {}, "here")
    assert chat.system is None
    with pytest.raises(InputError, match="has no place for one"):
        render(chat, [Message("system", "x"), Message("user", "y")])
    with pytest.raises(CheckpointError, match="expected a chat template that writes <picture> for a picture"):
        chat_rules.read_chat(plain, "<picture>", {}, "here")


WRONG: Mapping[str, Sequence[Message]] = {
    "expected a message of assistant, got one of user": [Message("user", "a"), Message("user", "b")],
    "expected a message of system or user, got one of assistant": [Message("assistant", "a")],
    "expected at most one picture": [Message("user", "a", 2)],
    "ends with a question": [Message("user", "a"), Message("assistant", "b")],
}


@pytest.mark.parametrize("message", WRONG)
def test_a_dialogue_out_of_order_is_refused(message: str) -> None:
    chat = chat_rules.read_chat(talkers.LLAVA_TEMPLATE, "<image>", {}, "here")
    with pytest.raises(InputError, match=message):
        render(chat, WRONG[message])


def test_a_question_that_spells_a_picture_is_refused() -> None:
    with pytest.raises(InputError, match="expected texts without <image>, which stands for a picture"):
        _ = asking(load("llava")).generate(scene(20, 20), "what is <image>?").text
    with pytest.raises(InputError, match="expected a picture, which this model describes, got none"):
        _ = asking(load("blip")).generate(None, "a photo").text
    with pytest.raises(InputError, match="max_tokens: expected a whole number of at least 1"):
        asking(load("llava")).generate(None, "a", max_tokens=0)


def test_pictures_are_as_many_as_the_dialogue_shows() -> None:
    model = load("smolvlm")
    plain, shown = [Message("user", "What is it?")], [Message("user", "What is it?", 1)]
    for messages, cuts, message in (
        (plain, [Cut()], "expected no picture, as the dialogue shows, got 1"),
        (shown, [], "expected one picture, as the dialogue shows, got none"),
        (shown, [Cut(), Cut()], "expected one picture, as the dialogue shows, got 2"),
    ):
        with pytest.raises(InputError, match=message):
            write(model.dialogue, messages, cuts, model.tokenizer)
    with pytest.raises(InputError, match="expected at most one picture, in a message of the user, got 1 in one of sys"):
        write(model.dialogue, [Message("system", "a", 1), *plain], [Cut()], model.tokenizer)


def _config(folder: Path, change: Callable[[dict[str, Any]], object], file: str = "config.json") -> None:
    content = json.loads((folder / file).read_text(encoding="utf-8"))
    change(content)
    (folder / file).write_text(json.dumps(content), encoding="utf-8")


def _weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _rope(folder: Path, **rope: Any) -> None:
    _config(folder, lambda c: c["text_config"].update(rope_parameters={"rope_theta": 10000.0, **rope}))


_LONG = {"rope_type": "longrope", "factor": 2.0, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
BAD: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "a rope that depends on the length": (
        lambda f: _rope(f, **_LONG, original_max_position_embeddings=512),
        "rope_type: expected one of default, linear, dynamic, llama3, yarn, got 'longrope'",
    ),
    "a rope of a part of each head": (
        lambda f: _rope(f, rope_type="linear", factor=2.0, partial_rotary_factor=0.5),
        r"text_config\.rope_parameters\.partial_rotary_factor: expected 1 or nothing, .* got 0\.5",
    ),
    "a rope of three axes": (
        lambda f: _rope(f, rope_type="default", mrope_section=[2, 3, 3]),
        r"text_config\.rope_parameters: expected none but .*, got mrope_section",
    ),
    "another decoder": (
        lambda f: _config(f, lambda c: c["text_config"].update(model_type="gemma")),
        "model_type: expected a decoder of the kinds|contradict each other|no network can be built",
    ),
    "a picture's token that there is none of": (
        lambda f: _config(f, lambda c: c.update(image_token_index=5000)),
        "expected a token that stands for a picture",
    ),
    "no template": (lambda f: (f / "chat_template.jinja").unlink(), "expected a chat template, got none"),
    "weights that are missing": (
        lambda f: _weights(f, lambda t: t.pop("model.multi_modal_projector.linear_1.bias", None) or t.popitem()),
        "config.json and the weights contradict each other",
    ),
    "weights of another shape": (
        lambda f: _weights(f, lambda t: t.update({name: t[name][:-1].clone() for name in list(t)[-1:]})),
        "of another shape",
    ),
    "a network that is much larger": (
        lambda f: _config(f, lambda c: c.update(text_config=None)),
        r"it describes 6,\d+,\d+,\d+ numbers, the files hold",
    ),
    "weights that are no numbers": (
        lambda f: _weights(f, lambda t: next(iter(t.values())).fill_(float("nan"))),
        "expected finite weights",
    ),
    "a tokenizer of another model": (
        lambda f: _config(f, lambda c: c["model"]["vocab"].update({"zzz": 5000}), "tokenizer.json"),
        "ids below the|whose ids are the same|damaged",
    ),
    "a tokenizer with code of its own": (
        lambda f: _config(f, lambda c: c.update(auto_map={"AutoTokenizer": ["a.B", None]}), "tokenizer_config.json"),
        "auto_map: expected one of transformers' own tokenizers, got the checkpoint's own code",
    ),
    "a tokenizer of no class": (
        lambda f: (f / "tokenizer.json").write_text("{}"),
        "expected the files of a tokenizer that transformers reads",
    ),
    "a tokenizer's class that is a number": (
        lambda f: _config(f, lambda c: c.update(tokenizer_class=-0.5), "tokenizer_config.json"),
        r"tokenizer_class: expected the name of one of transformers' tokenizers, got -0\.5",
    ),
    "layers without end": (
        lambda f: _config(f, lambda c: c["text_config"].update(num_hidden_layers=2**31)),
        r"config\.json: text_config\.num_hidden_layers: expected at most 1,000, got 2,147,483,648",
    ),
    "texts of no length": (
        lambda f: _config(f, lambda c: c.update(model_max_length=[0]), "tokenizer_config.json"),
        r"model_max_length: expected a whole number of at least 1, got \[0\]",
    ),
    "pictures narrower than a patch": (
        lambda f: _config(f, lambda c: c.update(crop_size={"height": 32, "width": 3}), "preprocessor_config.json"),
        "expected pictures of at least one patch, 8 pixels a side, got 32 x 3",
    ),
    "a processor that pads": (
        lambda f: _config(
            f, lambda c: c.update(do_pad=True, pad_size={"height": 99, "width": 99}), "preprocessor_config.json"
        ),
        "do_pad: expected false",
    ),
    "an end that is a text": (
        lambda f: _config(f, lambda c: c.update(eos_token_id="</s>"), "generation_config.json"),
        "expected ids below .* got '</s>'",
    ),
    "an end that is no whole number": (
        lambda f: _config(f, lambda c: c.update(eos_token_id=2.0), "generation_config.json"),
        "expected ids below",
    ),
    "an end below all": (
        lambda f: _config(f, lambda c: c.update(eos_token_id=[2, -1]), "generation_config.json"),
        r"end_ids\[1\]: expected",
    ),
    "a picture's token below all": (
        lambda f: _config(f, lambda c: c.update(image_token_index=-1)),
        "expected a token that stands for a picture",
    ),
    "a temperature in words": (
        lambda f: _config(f, lambda c: c.update(do_sample=True, temperature="hot"), "generation_config.json"),
        "temperature: expected a number, got 'hot'",
    ),
    "a share above all": (
        lambda f: _config(f, lambda c: c.update(do_sample=True, top_k=-5), "generation_config.json"),
        "top_k: expected",
    ),
    "nothing that ends": (
        lambda f: (
            _config(f, lambda c: c.pop("eos_token_id", None), "generation_config.json"),
            _config(f, lambda c: c["text_config"].update(eos_token_id=None)),
        ),
        "expected an id that ends an answer",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_a_bundle_cannot_carry_is_refused_by_name(case: str, tmp_path: Path) -> None:
    folder = talkers.write_llava(tmp_path / "llava")
    change, message = BAD[case]
    change(folder)
    with pytest.raises(CheckpointError, match=message):
        talking.load(folder, name="l")


BAD_GRIDS: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "grids without end": (
        lambda f: _config(f, lambda c: c.update(max_patches=10_000), "preprocessor_config.json"),
        "min_patches and max_patches from 1 to 256, got 32 x 32 pixels, 1 and 10000",
    ),
    "no grid": (
        lambda f: _config(f, lambda c: c.update(min_patches=7), "preprocessor_config.json"),
        "min_patches and max_patches from 1 to 256, got 32 x 32 pixels, 7 and 6",
    ),
    "tiles that are no squares": (
        lambda f: _config(f, lambda c: c.update(size={"height": 32, "width": 64}), "preprocessor_config.json"),
        "expected square tiles",
    ),
    "tiles of another size": (
        lambda f: _config(f, lambda c: c.update(size={"height": 64, "width": 64}), "preprocessor_config.json"),
        r"tiles of vision_config\.image_size, \[32, 32\], in patches of \[8, 8\], got \[64, 64\]",
    ),
    "rows of several layers": (
        lambda f: _config(f, lambda c: c.update(vision_feature_layer=[-1, -2])),
        r"expected vision_feature_layer from -2 to -1 .*, got \[-1, -2\] and 'default'",
    ),
    "a class token among the rows": (
        lambda f: _config(f, lambda c: c.update(vision_feature_select_strategy="full")),
        "vision_feature_select_strategy default, got -1 and 'full'",
    ),
    "squares that do not divide": (
        lambda f: _config(f, lambda c: c.update(downsample_ratio=1 / 3)),
        "downsample_ratio|contradict each other",
    ),
    "a tokenizer that names another beginning": (
        lambda f: _config(
            f,
            lambda c: c.update(extra_special_tokens={**c["extra_special_tokens"], "start_image_token": "<video>"}),
            "tokenizer_config.json",
        ),
        "that writes a picture of 0 x 0 tiles as '<img><IMG_CONTEXT>.* got '<video>",
    ),
}


@pytest.mark.parametrize("case", BAD_GRIDS)
def test_an_internvl_that_a_bundle_cannot_carry_is_refused_by_name(case: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(talker_checkpoint("internvl"), tmp_path / "internvl"))
    change, message = BAD_GRIDS[case]
    change(folder)
    with pytest.raises(CheckpointError, match=message):
        talking.load(folder, name="i")


def test_a_tokenizer_that_fails_at_a_text_is_refused(tmp_path: Path) -> None:
    folder = talkers.write_blip(tmp_path / "blip")
    _config(folder, lambda c: c.update(unk_token="[X]"), "tokenizer_config.json")
    with pytest.raises(CheckpointError, match=r"the files of a tokenizer that transformers reads, got: .*WordPiece"):
        talking.load(folder, name="b")


def test_settings_that_are_not_carried_are_said(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(talker_checkpoint("blip"), tmp_path / "blip"))
    assert not any("not carried" in note for note in talking.load(folder, name="b").notes)
    _config(folder, lambda c: c.update(repetition_penalty=1.3, num_beams=1, min_p=None), "generation_config.json")
    (note,) = [each for each in talking.load(folder, name="b").notes if "not carried" in each]
    assert note.endswith("generation_config.json: repetition_penalty 1.3: not carried; answers are chosen without it")


def test_contexts_and_lengths_are_checked() -> None:
    with pytest.raises(CheckpointError, match=r"expected a context that holds a picture, which takes up to 16 pos"):
        talking.load(talker_checkpoint("llava"), name="l", context_length=16)
    with pytest.raises(CheckpointError, match="of at most max_position_embeddings, 1,024, got 9,999"):
        talking.load(talker_checkpoint("llava"), name="l", context_length=9999)
    for lengths in ((2, 8), (1, 1), (1, 9, 3), (1, 4096)):
        with pytest.raises(InputError, match="lengths: expected whole numbers that ascend from 1"):
            talking.load(talker_checkpoint("llava"), name="l", context_length=256, lengths=lengths)


def test_inputs_are_checked_and_a_closed_original_answers_no_more() -> None:
    model = talking.load(talker_checkpoint("blip"), name="b")
    original = model.original
    with pytest.raises(TensorError, match="expected 1 or 64 rows at once, the same of each input, got 7"):
        original.run("embed_tokens", {"token_ids": np.zeros((1, 7), np.int32)})
    with pytest.raises(TensorError, match="encode_image: keeps no state"):
        original.make_state("encode_image")
    rows = {
        each.name: np.zeros(each.at(1), np.float32 if each.dtype == "float32" else np.int32)
        for each in original.specs["decode"].inputs
    }
    other = talking.load(talker_checkpoint("blip"), name="b").original
    for state, got in ((None, "none"), (other.make_state("decode"), "one of another session or component")):
        with pytest.raises(TensorError, match=f"decode: expected a state of this session, got {got}"):
            original.run("decode", rows, state)
    mine = original.make_state("decode")
    rows["embeddings"] = original.run("embed_tokens", {"token_ids": np.zeros((1, 1), np.int32)})["embeddings"]
    for place, message in (
        (-2, r"'positions': expected places of the context, or -1 for padding, -1 to 63, got -2"),
        (64, r"'positions': expected places of the context, or -1 for padding, -1 to 63, got 64"),
        (1, "expected positions that go on from one of 0 to 0, got 1"),
        (-1, "expected positions that go on from one of 0 to 0, got -1"),
    ):
        with pytest.raises(TensorError, match=message):
            original.run("decode", {**rows, "positions": np.full((1, 1), place, np.int32)}, mine)
    vocabulary = original.specs["decode"].outputs[0].shape[-1]
    with pytest.raises(TensorError, match=f"'token_ids': expected ids of the vocabulary, 0 to .*, got {vocabulary}"):
        original.run("embed_tokens", {"token_ids": np.full((1, 1), vocabulary, np.int32)})
    original.close()
    with pytest.raises(TensorError, match="this session is closed"):
        original.run("embed_tokens", {"token_ids": np.zeros((1, 1), np.int32)})


def test_a_checkpoint_in_float16_and_in_shards_is_the_same_model(tmp_path: Path) -> None:

    folder = talker_checkpoint("smolvlm")
    shutil.copytree(folder, tmp_path / "half")
    _weights(tmp_path / "half", lambda t: t.update({name: tensor.half() for name, tensor in t.items()}))
    shutil.copytree(tmp_path / "half", tmp_path / "shards")
    tensors = load_file(tmp_path / "half" / "model.safetensors")
    names = sorted(tensors)
    (tmp_path / "shards" / "model.safetensors").unlink()
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name].contiguous() for name in part}, tmp_path / "shards" / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (tmp_path / "shards" / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    picture = scene(40, 30, seed=8)
    first, second = (
        ids(asking(talking.load(tmp_path / each, name="s")).generate(picture, QUESTION, max_tokens=6))
        for each in ("half", "shards")
    )
    assert first == second


@pytest.mark.parametrize("largest", [3.0, 300.0, 30_000.0])
def test_a_norm_survives_float16(largest: float) -> None:
    """The square of a value beyond 256 is infinite in float16, and transformers' own row would be zeros."""
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    theirs = LlamaRMSNorm(64, eps=1e-5)
    rows = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    rows[1, 5] = largest
    expected, ours = theirs(rows), RMSNorm(theirs)
    torch.testing.assert_close(ours(rows), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.half()(rows.half()).float(), expected, rtol=2e-3, atol=2e-3)


def test_angles_of_far_positions_survive_float16() -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = LlamaConfig(hidden_size=64, num_attention_heads=1, max_position_embeddings=8192)
    rotary = LlamaRotaryEmbedding(config)
    positions = torch.tensor([[0, 100, 1000, 8000]], dtype=torch.int32)
    cos, sin = Rotation(rotary, 8192).half()(Places(positions, torch.arange(8192, dtype=torch.int32), 1))
    for found, expected in zip((cos, sin), rotary(torch.zeros(1), positions), strict=True):
        torch.testing.assert_close(found.float(), expected, rtol=0, atol=5e-4)


def test_an_original_gives_the_same_bits_on_any_number_of_threads() -> None:
    model, picture, threads = load("smolvlm"), scene(60, 40, seed=9), torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            asked = asking(model)
            seen = asked.see(picture)
            written = asked.write([Message("user", QUESTION, 1)], seen)
            found.append(asked.begin(asked.place(), written, seen))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(*found)
