"""What the runners that apps have do otherwise than one thinks: that it is still so, and what a bundle says of it.

When a test called "still" fails, upstream has changed what it holds: take it out of the advice (`runtimes/*/runner.py`)
and of `edgevlm/bundle/README.md`, or say there what is so now.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import library
import numpy as np
import pytest
import talkers
import torch
from app_runners import Content, Piece, answer, ask_litert_lm, picture, text
from click.testing import CliRunner
from numpy.typing import NDArray
from pictures import scene
from PIL import Image
from torch import Tensor, nn

import edgevlm
from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.dialogue import ENCODE_IMAGE, Tiling
from edgevlm.cli import main
from edgevlm.converters.executorch import converter as executorch_converter
from edgevlm.converters.tflite.converter import TFLiteConverter
from edgevlm.inference.generator import Answer, Generator
from edgevlm.inputs import tiles
from edgevlm.inputs.pictures import preprocess
from edgevlm.inputs.texts import Tokenizer, without_rules
from edgevlm.runtimes.executorch import runner as executorch_runner
from edgevlm.runtimes.executorch.runtime import _bindings
from edgevlm.runtimes.tflite import runner as litert_lm_runner
from edgevlm.targets import litert_lm, registry
from edgevlm.targets.app_runner import RunnerTarget, spell, spelled, spelling_vocabulary
from edgevlm.targets.inspection import Advice, Adviser
from edgevlm.targets.isolation import IsolatedRuntime

QUESTIONS = ("What is in this picture?", "Is there a circle?")
BEGINNINGS = ("", "a picture of")
"""Of captions."""
FIRST, SECOND = [5, 300, 17], [44, 301]
"""Ids of any words."""


def made(target: str, kind: str = "llava") -> Bundle:
    return library.talker(kind, target, "fp32")


@contextmanager
def opened(bundle: Bundle) -> Iterator[Generator]:
    with edgevlm.open(bundle.path) as model:
        yield model.talker


def pixels(bundle: Bundle, seed: int) -> NDArray[np.uint8]:
    """A picture as the encoder takes it, uint8 [H, W, 3]."""
    image = bundle.manifest.image
    return np.asarray(scene(image.height, image.width, seed=seed))


def some_ids(rng: np.random.Generator, bundle: Bundle, count: int) -> list[int]:
    return [int(each) for each in rng.integers(5, vocabulary(bundle), count)]


def vocabulary(bundle: Bundle) -> int:
    return bundle.components["decode"].spec.outputs[0].shape[-1]


# LiteRT-LM, with the container as it ships


def generated(folder: Path, shown: Image.Image, asked: str, most: int, **rules: Any) -> tuple[list[int], str]:
    """Ids and text of transformers' own greedy answer; the text with special ids, and without the one that ends it."""
    import transformers

    pictures = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil", **rules)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    network = transformers.AutoModelForImageTextToText.from_pretrained(folder)
    if network.config.model_type == "blip":
        inputs = transformers.BlipProcessor(pictures, tokenizer)(shown, asked, return_tensors="pt")
        whole = network.generate(**inputs, max_new_tokens=most, do_sample=False)
        ids = whole[0, inputs["input_ids"].shape[1] - 1 :].tolist()  # what ends the text is left out
        ids = [each for each in ids if each != network.config.text_config.sep_token_id]
        return ids, tokenizer.decode(ids, clean_up_tokenization_spaces=True)
    if network.config.model_type == "llava":
        processor: Any = transformers.LlavaProcessor(
            pictures, tokenizer, patch_size=talkers.PATCH, vision_feature_select_strategy="default",
            num_additional_image_tokens=1, chat_template=talkers.LLAVA_TEMPLATE,
        )  # fmt: skip
    elif network.config.model_type == "internvl":
        processor = talkers.processor_of(folder)
        processor.image_processor = pictures
    else:
        processor = transformers.Idefics3Processor(
            pictures, tokenizer, image_seq_len=4, chat_template=talkers.SMOLVLM_TEMPLATE
        )
    said = [{"role": "user", "content": [{"type": "image", "image": shown}, {"type": "text", "text": asked}]}]
    inputs = processor.apply_chat_template(
        said, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    whole = network.generate(**inputs, max_new_tokens=most, do_sample=False)
    ids = [each for each in whole[0, inputs["input_ids"].shape[1] :].tolist() if each != tokenizer.eos_token_id]
    return ids, tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def as_apps_show(bundle: Bundle, shown: Image.Image) -> NDArray[np.uint8]:
    """A picture by the manifest's rule, without its tiles."""
    dialogue = bundle.manifest.dialogue
    assert dialogue is not None
    if dialogue.tiling is None:
        whole = preprocess(shown, bundle.manifest.image)
    else:
        whole = tiles.cut(shown, replace(dialogue.tiling, cuts=False)).pixels
    return whole[0].transpose(1, 2, 0).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "rules"),
    [("llava", {}), ("smolvlm", {"do_image_splitting": False}), ("internvl", {"max_patches": 1}), ("blip", {})],
)
def test_a_container_as_it_ships_says_what_transformers_generates(
    kind: str, rules: dict[str, Any], tmp_path: Path
) -> None:
    bundle, expected, dialogues = made("tflite", kind), [], []
    for seed in range(3):
        shown = scene(40 + 9 * seed, 60, seed=seed)
        app_picture = picture(as_apps_show(bundle, shown), tmp_path / f"{seed}.png")
        for asked in BEGINNINGS if kind == "blip" else QUESTIONS:
            _, words = generated(library.talker_checkpoint(kind), shown, asked, 8, **rules)
            expected.append([words])
            dialogues.append(((), [[app_picture, text(asked)]]))
    assert ask_litert_lm(bundle.path / "model.litertlm", dialogues, 8) == expected
    # The tokenizer of word pieces, and so the captions, are others each time it is trained.
    assert len({words for [words] in expected}) > (1 if kind == "blip" else 3)
    if bundle.manifest.dialogue is not None and bundle.manifest.dialogue.tiling is not None:
        cut = [generated(library.talker_checkpoint(kind), scene(40, 60, seed=0), asked, 8)[1] for asked in QUESTIONS]
        assert cut != [words for [words] in expected[: len(QUESTIONS)]]  # still: tiles are not shown


def with_special_ids(bundle: Bundle, answer: Answer) -> str:
    """An answer as LiteRT-LM writes it, which leaves the last place of a context free."""
    import tokenizers

    answer.settle()
    ids = answer.token_ids[: -1 if answer.finish == "context" else None]
    return str(tokenizers.Tokenizer.from_file(str(bundle.path / "tokenizer.json")).decode(ids, False))


@pytest.mark.slow
def test_a_captioners_container_is_asked_with_one_picture_and_one_text_or_says_why_not(tmp_path: Path) -> None:
    bundle, most = made("tflite", "blip"), 40
    file, shown = bundle.path / "model.litertlm", picture(pixels(bundle, 0), tmp_path / "0.png")
    grey = picture(np.full_like(pixels(bundle, 0), 128), tmp_path / "grey.png")
    words = text("a picture of")
    one = {"role": "user", "content": [shown, words]}
    wrong: dict[str, tuple[list[dict[str, Any]], list[Content]]] = {
        "Provided less images than expected": ([], [[words]]),
        "Provided more images than expected": ([], [[shown, grey, words]]),
        "expected one message: this model has no chat template": ([], [[shown, words], [words]]),
        "this model has no chat template, and goes on from a text": ([one, one], [[words]]),
        "Input token ids are too long": ([], [[shown, text("a picture of " * 20)]]),
    }
    for reason, dialogue in wrong.items():
        with pytest.raises(subprocess.CalledProcessError) as refused:
            ask_litert_lm(file, [dialogue], 2)
        assert reason in refused.value.stderr
    asked = ((pixels(bundle, 0), "a picture of"), (pixels(bundle, 0), ""), (np.full_like(pixels(bundle, 0), 128), "a"))
    with opened(bundle) as talker:
        whole = [with_special_ids(bundle, talker.generate(*each, max_tokens=most)) for each in asked]
    right = [[shown, words], [words, shown], [shown], [grey, text("a")]]
    said = [answer for (answer,) in ask_litert_lm(file, [((), [each]) for each in right], most)]
    assert said == [whole[0], *whole]


@pytest.mark.slow
def test_a_captioner_whose_tokenizer_lacks_the_beginning_says_the_same(tmp_path: Path) -> None:
    bundle = made("tflite", "blip")
    assert bundle.manifest.dialogue is not None
    (begin,) = bundle.manifest.dialogue.begin_ids
    shown = [[picture(pixels(bundle, seed), tmp_path / f"{seed}.png"), text("a picture of")] for seed in range(4)]
    lacking = Path(shutil.copytree(bundle.path, tmp_path / "b.edgevlm"))
    content = json.loads((lacking / "tokenizer.json").read_text(encoding="utf-8"))
    content["added_tokens"] = [each for each in content["added_tokens"] if each["id"] != begin]
    (lacking / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    TFLiteConverter().describe(bundle.manifest, lacking)
    asked = [((), [each]) for each in shown]
    said, plain = (ask_litert_lm(each / "model.litertlm", asked, 6) for each in (lacking, bundle.path))
    assert [[each.replace(f"<|{begin}|>", "[dec]") for each in answer] for answer in said] == plain


@pytest.mark.slow
def test_a_container_is_the_same_bytes_when_it_is_converted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, checkpoint = made("tflite"), library.talker_checkpoint("llava")
    monkeypatch.setenv("EDGEVLM_CACHE_DIR", str(tmp_path / "cache"))
    dialogue = before.manifest.dialogue
    assert dialogue is not None
    again = edgevlm.convert(
        checkpoint, target="tflite", recipe="fp32", context_length=dialogue.context_length,
        lengths=before.components["decode"].spec.lengths, out=tmp_path,
    )  # fmt: skip
    assert (again.path / "model.litertlm").read_bytes() == (before.path / "model.litertlm").read_bytes()
    assert again.digest == before.digest


# LiteRT-LM, asked with ids


def container(folder: Path, bundle: Bundle, *, tokenizer: dict[str, Any] | None = None, sees: bool = True) -> Path:
    """A bundle's models with a tokenizer under which a text tells its ids, and a template that takes any.

    Args:
        folder: Where it is written.
        bundle: Of which models.
        tokenizer: Another one, a tokenizer.json's content.
        sees: Whether the runtime is told that there are pictures.
    """
    dialogue, image = bundle.manifest.dialogue, bundle.manifest.image
    assert dialogue is not None
    metadata = litert_lm.about(
        litert_lm_runner._AS_THEY_COME,
        begin_ids=(),
        end_ids=dialogue.end_ids,
        context_length=dialogue.context_length,
        placeholder=litert_lm.PLACEHOLDER,
        size=(image.height, image.width),
    )
    metadata.llm_model_type.generic_model.image_enabled = sees
    words, path = folder / "tokenizer.json", folder / "a.litertlm"
    words.write_text(json.dumps(tokenizer or spelling(bundle)), encoding="utf-8")
    litert_lm.pack(litert_lm.unpack(bundle.path / "model.litertlm"), path, metadata=metadata, tokenizer=words)
    return path


def spelling(bundle: Bundle) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(litert_lm_runner._spelling_ids(vocabulary(bundle)))
    return found


@pytest.mark.slow
def test_litert_lm_still_takes_the_last_token_of_an_answer_for_zeros_in_a_second_turn(tmp_path: Path) -> None:
    bundle, rng, most = made("tflite"), np.random.default_rng(3), 4
    dialogues: list[tuple[list[dict[str, Any]], list[Content]]] = []
    zeros, whole = [], []
    with opened(bundle) as talker:
        for number in range(8):
            first, second, seen = some_ids(rng, bundle, 3), some_ids(rng, bundle, 2), pixels(bundle, number)
            said = answer(talker, [seen, first], most)
            if len(said) < most:
                continue
            zeros.append(answer(talker, [seen, first + said[:-1], None, second], most))
            whole.append(answer(talker, [seen, first + said + second], most))
            shown = picture(seen, tmp_path / f"{number}.png")
            before = [{"role": "user", "content": [shown, text(first)]}, {"role": "assistant", "content": [text(said)]}]
            dialogues += [([], [[shown, text(first)], [text(second)]]), (before, [[text(second)]])]
    answers = [spelled(said[-1]) for said in ask_litert_lm(container(tmp_path, bundle), dialogues, most)]
    assert answers[::2] == zeros
    assert zeros != whole  # else it does not show
    assert answers[1::2] == whole  # in a new conversation, as the advice says


@pytest.mark.slow
def test_litert_lm_still_scales_pictures_in_a_way_of_its_own(tmp_path: Path) -> None:
    bundle, asked = made("tflite"), []
    large = [scene(190, 190, seed=seed) for seed in range(4)]
    for number, shown in enumerate(large):
        ours = picture(as_apps_show(bundle, shown), tmp_path / f"{number}-ours.png")
        theirs = picture(np.asarray(shown), tmp_path / f"{number}-theirs.png")
        asked += [((), [[each, text(FIRST)]]) for each in (ours, theirs)]
    answers = ask_litert_lm(container(tmp_path, bundle), asked, 6)
    assert answers[::2] != answers[1::2]


@pytest.mark.slow
def test_litert_lm_still_drops_pictures_without_a_word_where_it_is_not_told_of_them(tmp_path: Path) -> None:
    bundle = made("tflite")
    shown = [picture(pixels(bundle, seed), tmp_path / f"{seed}.png") for seed in range(2)]
    asked = [((), [[each, text(FIRST)]]) for each in shown]
    blind = ask_litert_lm(container(tmp_path, bundle, sees=False), asked, 6)
    assert blind[0] == blind[1]
    seeing = ask_litert_lm(container(tmp_path, bundle), asked, 6)
    assert seeing[0] != seeing[1]


@pytest.mark.slow
def test_litert_lm_still_writes_special_ids_out(tmp_path: Path) -> None:
    bundle, tokenizer = made("tflite"), spelling(made("tflite"))
    with opened(bundle) as talker:
        said = answer(talker, [pixels(bundle, 0), FIRST], 3)
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer["added_tokens"] = [{"id": said[0], "content": spell(said[:1]), **plain}]
    shown = picture(pixels(bundle, 0), tmp_path / "0.png")
    asked = [((), [[shown, text(FIRST)]])]
    assert ask_litert_lm(container(tmp_path, bundle, tokenizer=tokenizer), asked, 3) == [[spell(said)]]
    skipped = Tokenizer.from_bytes(without_rules(""), json.dumps(tokenizer).encode()).text(said)
    assert spell(said[:1]) not in skipped


@pytest.mark.slow
def test_litert_lm_writes_odd_ids_as_we_do(tmp_path: Path) -> None:
    """Ids that the tokenizer lacks, as padded vocabularies have them, and bytes that are no whole characters."""
    bundle, rng = made("tflite"), np.random.default_rng(0)
    with opened(bundle) as talker:
        prompts = (some_ids(rng, bundle, 3) for _ in range(100))
        answers = ((asked, answer(talker, [pixels(bundle, 0), asked], 6)) for asked in prompts)
        asked, said = next((asked, said) for asked, said in answers if len(set(said)) == 6 and max(said) > max(asked))
    small, euro, cut = (spelling(bundle) for _ in range(3))
    small["model"]["vocab"] = spelling_vocabulary(max(said))
    for tokenizer, content in ((euro, (0xE2, 0x82, 0xAC)), (cut, (0xE2, 0x82))):
        for token_id, byte in zip(said[1:], content, strict=False):
            del tokenizer["model"]["vocab"][spell([token_id])]
            tokenizer["model"]["vocab"][f"<0x{byte:02X}>"] = token_id
        tokenizer["decoder"] = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}
    shown = picture(pixels(bundle, 0), tmp_path / "0.png")
    for tokenizer, sign in ((small, spell(said[:1])), (euro, "\u20ac"), (cut, "\ufffd\ufffd")):
        expected = Tokenizer.from_bytes(without_rules(""), json.dumps(tokenizer).encode()).text(said)
        assert sign in expected
        written = ask_litert_lm(container(tmp_path, bundle, tokenizer=tokenizer), [((), [[shown, text(asked)]])], 6)
        assert written == [[expected]]


# ExecuTorch's MultimodalRunner


class Runner:
    """The runner in this process, with a tokenizer under which a text tells its ids and begins with the id 1.

    Args:
        bundle: Whose file.
        folder: Where its tokenizer is written.
        but: Other texts of some ids, such as bytes.
    """

    def __init__(self, bundle: Bundle, folder: Path, but: dict[int, str] | None = None) -> None:
        from executorch.extension.llm import runner
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

        texts = spelling_vocabulary(vocabulary(bundle))
        for token_id, other in (but or {}).items():
            del texts[spell([token_id])]
            texts[other] = token_id
        tokenizer = Tokenizer(models.BPE(vocab=texts, merges=[]))
        tokenizer.add_special_tokens([AddedToken(each, normalized=False) for each in texts if each not in (but or {})])
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        begin = spell([1])
        tokenizer.post_processor = processors.TemplateProcessing(f"{begin} $A", special_tokens=[(begin, 1)])
        tokenizer.save(str(folder / "tokenizer.json"))
        self._module: Any = runner
        self._runner = runner.MultimodalRunner(str(bundle.path / "model.pte"), str(folder / "tokenizer.json"))

    def ask(self, parts: Sequence[Piece | str], most: int, *, goes_on: bool = False, **how: int) -> list[int]:
        """A greedy answer: of a new dialogue, or behind the one before."""
        if not goes_on:
            self._runner.reset()
        greedy = self._module.GenerationConfig(max_new_tokens=most, temperature=0.0, echo=False, **how)
        said: list[str] = []
        self._runner.generate([self._input(part) for part in parts], greedy, said.append)
        return spelled("".join(said))

    def _input(self, part: Piece | str) -> Any:
        if isinstance(part, str):
            return self._module.make_text_input(part)
        if isinstance(part, list):
            return self._module.make_token_input(part)
        assert part is not None
        return self._module.make_image_input(torch.tensor(part.transpose(2, 0, 1).astype(np.float32, order="C")))


@pytest.mark.slow
def test_multimodal_runner_still_goes_on_behind_an_end_that_comes_first(tmp_path: Path) -> None:
    bundle, rng = made("executorch"), np.random.default_rng(1)
    with opened(bundle) as talker:
        prompts = (some_ids(rng, bundle, 3) for _ in range(8000))
        silent = next(each for each in prompts if not answer(talker, [each], 1))
        ends = talker.dialogue.end_ids
    said = Runner(bundle, tmp_path).ask([silent], 5)
    assert said[0] in ends
    assert len(said) > 1


@pytest.mark.slow
def test_multimodal_runner_still_leaves_the_last_token_out_of_its_state(tmp_path: Path) -> None:
    bundle, most = made("executorch"), 5
    with opened(bundle) as talker:
        said = answer(talker, [pixels(bundle, 0), FIRST], most)
        without = answer(talker, [pixels(bundle, 0), FIRST + said[:-1] + SECOND], most)
        whole = answer(talker, [pixels(bundle, 0), FIRST + said + SECOND], most)
    assert len(said) == most
    assert without != whole  # else it does not show
    runner = Runner(bundle, tmp_path)
    for further, expected in ((SECOND, without), (said[-1:] + SECOND, whole)):  # the latter as the advice says
        assert runner.ask([pixels(bundle, 0), FIRST], most) == said
        assert runner.ask([further], most, goes_on=True)[: len(expected)] == expected


@pytest.mark.slow
def test_multimodal_runner_still_puts_a_beginning_before_the_first_text_where_it_is_told_to(tmp_path: Path) -> None:
    bundle = made("executorch")
    seen = pixels(bundle, 0)
    with opened(bundle) as talker:
        plain = answer(talker, [FIRST, seen, SECOND], 6)
        begun = answer(talker, [[1, *FIRST], seen, SECOND], 6)
    assert plain != begun
    runner, words = Runner(bundle, tmp_path), [spell(FIRST), seen, spell(SECOND)]
    assert runner.ask(words, 6)[: len(plain)] == plain
    assert runner.ask(words, 6, num_bos=1)[: len(begun)] == begun
    assert runner.ask([FIRST, seen, SECOND], 6, num_bos=1)[: len(plain)] == plain  # ids are what they are


@pytest.mark.slow
def test_multimodal_runner_still_refuses_pictures_of_another_size(tmp_path: Path) -> None:
    bundle = made("executorch")
    image, runner = bundle.manifest.image, Runner(bundle, tmp_path)
    for size in (image.height // 2, image.height * 2):
        with pytest.raises(RuntimeError, match="Generation failed"):
            runner.ask([np.zeros((size, size, 3), np.uint8), FIRST], 2)
    assert len(runner.ask([pixels(bundle, 0), FIRST], 2)) == 2


@pytest.mark.slow
def test_multimodal_runner_still_has_no_tokenizer_of_word_pieces(tmp_path: Path) -> None:
    from executorch.extension.llm import runner

    file, words = (str(each) for each in (made("executorch").path / "model.pte", library.talker_checkpoint("blip")))
    with pytest.raises(RuntimeError):
        runner.MultimodalRunner(file, f"{words}/tokenizer.json")
    Runner(made("executorch"), tmp_path)


@pytest.mark.slow
def test_multimodal_runner_still_fails_in_python_on_a_part_of_a_character(tmp_path: Path) -> None:
    bundle = made("executorch")
    with opened(bundle) as talker:
        said = answer(talker, [pixels(bundle, 0), FIRST], 2)
    with pytest.raises(ValueError, match=r"codec|invalid"):
        Runner(bundle, tmp_path, but={said[1]: "\u00e2"}).ask([pixels(bundle, 0), FIRST], 3)


# ExecuTorch: in Python the methods of one program share the memory that they compute in, states included


class Adds(nn.Module):
    """What it was given so far, float32 [1, 4]."""

    kept: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(1, 4))

    def forward(self, x: Tensor) -> Tensor:
        self.kept.add_(x)
        return self.kept * 1


class Larger(nn.Module):
    """Anything of more memory, float32 [1, 64]."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + 1) * 3 - x


def exported() -> dict[str, torch.export.ExportedProgram]:
    return {
        "adds": torch.export.export(Adds(), (torch.ones(1, 4),)),
        "larger": torch.export.export(Larger(), (torch.ones(1, 64),)),
    }


def sums(content: bytes) -> list[float]:
    """What `adds` says when it is given ones three times, with `larger` in between."""
    program, found = _bindings()._load_program_from_buffer(content), []
    adds, larger = program.load_method("adds"), program.load_method("larger")
    for _ in range(3):
        found.append(float(adds([torch.ones(1, 4)])[0][0, 0]))
        larger([torch.ones(1, 64)])
    return found


@pytest.mark.slow
def test_a_state_is_kept_where_one_program_serves_all_methods() -> None:
    lowered = executorch_converter._lower(exported(), {"get_max_seq_len": 1})
    assert sums(bytes(lowered.buffer)) == [1, 2, 3]


@pytest.mark.slow
def test_keeping_states_apart_is_still_needed() -> None:
    from executorch.exir import to_edge

    assert sums(bytes(to_edge(exported()).to_executorch().buffer)) != [1, 2, 3]


# What a bundle says of them


def inspected(bundle: Bundle) -> tuple[dict[str, Any], str]:
    """Its advice, and the page that shows it."""
    told, shown = (
        CliRunner().invoke(main, ["inspect", str(bundle.path), *more], catch_exceptions=False).stdout
        for more in (["--json"], [])
    )
    advice: dict[str, Any] = json.loads(told)["advice"]
    return advice, shown


def messages(advice: Mapping[str, Sequence[Advice]]) -> str:
    return " ".join(each.message for found in advice.values() for each in found)


def test_a_captioners_container_has_advice_of_its_own() -> None:
    advice, shown = inspected(made("tflite", "blip"))
    assert advice.keys() == {"encode_image", "decode"}
    said = " ".join(each["message"] for each in advice["decode"])
    assert "it refuses none, two and a further message" in said
    assert "17 rows of 256 numbers to LiteRT-LM 0.18, 0.0 MB" in said
    assert "second turn" not in said
    assert "Advice on decode, for the app's developer" in shown


def test_a_captioner_for_executorch_is_said_to_have_no_runner() -> None:
    bundle = made("tflite", "blip")
    other = replace(bundle, manifest=replace(bundle.manifest, target="executorch"))
    runtime = registry.runtime("executorch")
    assert isinstance(runtime, RunnerTarget)
    assert isinstance(runtime, Adviser)
    assert runtime.runner_name(other) is None
    ((advice,),) = runtime.advice(other).values()
    assert (advice.to, advice.kind) == ("app", "refused")
    for said in (executorch_runner.SEEN, "a place for rows and positions alone", "no word pieces", "Module"):
        assert said in advice.message
    encoder = library.student("tflite", "int8")
    assert runtime.advice(replace(encoder, manifest=replace(encoder.manifest, target="executorch"))) == {}


def test_advice_is_about_the_model_and_the_versions_that_are_installed() -> None:
    dialogue = made("tflite", "blip").manifest.dialogue
    assert dialogue is not None
    whole = replace(dialogue, begin_ids=(7,), end_ids=(8, 9))
    for cuts in (True, False):
        cut = replace(whole, tiling=Tiling(64, 32, "lanczos", cuts=cuts))
        assert ("in tiles" in messages(litert_lm_runner.advice(cut, (32, 40)))) is cuts
    for runner in (litert_lm_runner, executorch_runner):
        advice = runner.advice(whole, (32, 40))
        assert all(
            {"32 x 40" in each.message} == {name == ENCODE_IMAGE} for name in advice for each in advice[name][:1]
        )
        assert all(runner.SEEN in each.message for found in advice.values() for each in found)
        assert {each.to for found in advice.values() for each in found} == {"app"}
    assert "[7]" in messages(executorch_runner.advice(whole, (32, 40)))
    assert "[8, 9]" in messages(executorch_runner.advice(whole, (32, 40)))
    assert "which have no beginning" in messages(executorch_runner.advice(replace(whole, begin_ids=()), (32, 40)))
    for package, seen in (("litert-lm-api", litert_lm_runner.SEEN), ("executorch", executorch_runner.SEEN)):
        assert version(package).startswith(f"{seen.split()[-1]}.")  # else hold all that is said here anew


@pytest.mark.slow
@pytest.mark.parametrize("target", ["tflite", "executorch"])
def test_inspect_says_what_an_app_should_know_of_its_runner(target: str) -> None:
    bundle = made(target)
    advice, shown = inspected(bundle)
    assert {"encode_image", "decode"} <= advice.keys() <= bundle.components.keys()
    for component, found in advice.items():
        assert f"Advice on {component}, for the app's developer" in shown
        for each in found:
            assert each["message"] in " ".join(shown.split())
            assert each["source"] in shown
    assert IsolatedRuntime(target).advice(bundle) == registry.runtime(target).advice(bundle)
