"""Models that talk are asked benchmarks' questions: what they say is what is judged, kept, and gone on from."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from library import asking, talker, talker_checkpoint, talker_model
from pictures import scene
from test_questions import choice, pope, vqa

import edgevlm
from edgevlm.cli import main
from edgevlm.data.questions import PictureQuestion, Questions, open_questions
from edgevlm.errors import DataError, EdgeVLMError, ImageError, InputError, OutputError
from edgevlm.evaluation.asking import Asked, ask_questions, said_letter
from edgevlm.evaluation.judging import judge, mean
from edgevlm.evaluation.speaking import evaluate_answers
from edgevlm.inference.generator import Generator
from edgevlm.process.progress import Progress, silent

TOKENS = 4


@pytest.fixture
def shown(tmp_path: Path) -> Path:
    """The pictures of the questions."""
    scene(40, 60, seed=1).save(tmp_path / "a.jpg")
    scene(60, 40, seed=2).save(tmp_path / "COCO_val2014_000000000042.jpg")
    return tmp_path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


def saying(answer: str) -> Any:
    """A model that says the same to all."""
    return SimpleNamespace(
        dialogue=SimpleNamespace(describe="Describe this."),
        generate=lambda *_, **__: SimpleNamespace(text=answer),
        refuse_unfit=lambda *_: None,
    )


def no_more(*_: object, **__: object) -> Any:
    raise AssertionError("was asked again")


# Asking


def test_what_is_kept_is_what_the_model_says(shown: Path) -> None:
    model, folder = talker_checkpoint("smolvlm"), shown / "kept"
    found = evaluate_answers(model, {"pope": pope(shown), "vqa": vqa(shown)}, max_tokens=TOKENS, keep=folder)
    assert (found.evidence, found.precision) == ("reference", "fp32")
    by_hand = asking(talker_model("smolvlm"))
    prompt = "{}\nAnswer the question using a single word or phrase."
    for each, names in zip(found.sets, (("a.jpg", "a.jpg"), ("COCO_val2014_000000000042.jpg",)), strict=True):
        head, *lines = (json.loads(line) for line in Path(str(each.answers)).read_text().splitlines())
        assert (head["prompt"], head["max_tokens"]) == (each.prompt, TOKENS) == (prompt, TOKENS)
        texts = {"pope": ["Is there a dog in the image?", "Is there a cat in the image?"], "vqa": ["Is this a cat?"]}
        expected = [
            by_hand.generate(shown / name, prompt.format(text), max_tokens=TOKENS).text.strip()
            for name, text in zip(names, texts[each.name], strict=True)
        ]
        assert [line["answer"] for line in lines] == expected
    assert (folder / ".gitignore").exists()


def test_a_stopped_run_goes_on(shown: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data, folder = talker_checkpoint("smolvlm"), pope(shown), shown / "kept"
    whole = evaluate_answers(model, data, max_tokens=TOKENS, keep=folder)
    (file,) = folder.glob("*.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)
    with monkeypatch.context() as patch:
        patch.setattr(Generator, "generate", no_more)
        again = evaluate_answers(model, data, max_tokens=TOKENS, keep=folder)
    assert again.sets[0].judged == whole.sets[0].judged
    for rest in (b"", lines[-1][:-1], lines[-1][:5]):  # a killed run leaves the last line out, or tears it
        file.write_bytes(b"".join(lines[:-1]) + rest)
        assert evaluate_answers(model, data, max_tokens=TOKENS, keep=folder).sets[0].judged == whole.sets[0].judged
        assert file.read_bytes() == b"".join(lines)


def test_questions_that_cannot_be_asked_are_named_before_the_first_is(shown: Path) -> None:
    model = asking(talker_model("smolvlm"))
    longest = "word " * model.dialogue.context_length

    def ask(how: Asked, *asked: PictureQuestion) -> EdgeVLMError:
        data = Questions("q.json", "choice" if asked[0].options else "gqa", asked, no_more)
        with pytest.raises(InputError) as caught:
            ask_questions(model, data, how, shown / "kept.jsonl", model="m", progress=silent)
        hint = "change each such question, or take it out of the file; for longer ones convert the model with a longer"
        assert str(caught.value.hint).startswith(hint)
        return caught.value

    texts = ("Is this a cat?", longest, "What is <image>?", longest)
    said = ask(Asked("{}"), *(PictureQuestion(f"k{row}", "a.jpg", text, ("yes",)) for row, text in enumerate(texts)))
    assert "q.json: 3 of 4 questions cannot be asked, the first is k1: expected at most" in said.message
    said = ask(Asked("{}"), PictureQuestion("k0", "a.jpg", "<image>?", ("yes",)))
    assert "1 of 1 questions cannot be asked, the first is k0: expected texts without <image>" in said.message
    for how in (Asked("{}"), Asked("{}", "likelihood")):
        said = ask(how, PictureQuestion("k0", "a.jpg", "Which?", ("A",), ("one", longest)))
        assert "the first is k0: expected a" in said.message
    assert not (shown / "kept.jsonl").exists()  # which would hold answers to other questions, once these are changed


def test_a_question_that_fits_no_cut_picture_is_named(shown: Path) -> None:
    def refuse(*_: object, **__: object) -> Any:
        raise InputError("expected at most 10 more positions", hint="shorten the text")

    model, data = saying("yes"), open_questions(pope(shown))
    model.generate = refuse
    with pytest.raises(InputError, match=r"random\.json: question 1: expected at most 10 more positions") as caught:
        ask_questions(model, data, Asked("{}"), None, model="m", progress=silent)
    assert "take it out of the file" in str(caught.value.hint)


def test_one_run_at_a_time_keeps_answers_in_a_file(shown: Path) -> None:
    data, file = open_questions(pope(shown)), shown / "kept" / "a.jsonl"
    refused: list[EdgeVLMError] = []

    def ask(progress: Progress) -> dict[str, str | ImageError]:
        return ask_questions(saying("yes"), data, Asked("{}"), file, model="m", progress=progress)

    def ask_as_well(_: str, share: float | None) -> None:
        if share is None:  # nothing is asked yet
            return
        with pytest.raises(OutputError, match=r"a\.jsonl: another edgevlm evaluate keeps its answers in") as caught:
            ask(silent)
        refused.append(caught.value)

    assert ask(ask_as_well) == {"1": "yes", "2": "yes"}
    assert {each.hint for each in refused} == {"wait, or name another folder with --keep"}
    assert [json.loads(line).get("key") for line in file.read_text().splitlines()] == [None, "1", "2"]
    assert [each.name for each in file.parent.iterdir()] == ["a.jsonl"]
    assert ask(silent) == {"1": "yes", "2": "yes"}


def test_files_of_the_same_name_keep_their_answers_apart(shown: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, folder = talker_checkpoint("smolvlm"), shown / "kept"
    monkeypatch.setattr(Generator, "generate", saying("yes").generate)
    files = [shown / each / "q.json" for each in ("a", "b")]
    for file, label in zip(files, ("yes", "no"), strict=True):
        file.parent.mkdir()
        file.write_text(json.dumps({"image": "a.jpg", "text": "Is there a dog?", "label": label}))
    given = {str(file): file for file in files}
    apart = {each.name: each for each in evaluate_answers(model, given, images=shown, keep=folder).sets}
    assert [each.judged.total.score for each in apart.values()] == [1.0, 0.0]
    assert all(re.search(r"/smolvlm-q\.json-[0-9a-f]{8}\.jsonl$", str(each.answers)) for each in apart.values())
    monkeypatch.setattr(Generator, "generate", no_more)
    again = evaluate_answers(model, dict(reversed(given.items())), images=shown, keep=folder)
    assert {each.name: each.answers for each in again.sets} == {name: each.answers for name, each in apart.items()}
    monkeypatch.setattr(Generator, "generate", saying("yes").generate)
    evaluate_answers(model, files[0], images=shown, keep=folder)  # alone it has the plain name
    with pytest.raises(OutputError, match=r"smolvlm-q\.json\.jsonl: holds answers with another data") as caught:
        evaluate_answers(model, files[1], images=shown, keep=folder)
    assert "--data NAME=DATA" in str(caught.value.hint)
    evaluate_answers(model, {"b": files[1]}, images=shown, keep=folder)


def test_a_folder_that_cannot_be_made_is_named_before_the_model_is_opened(
    shown: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pope(shown)
    with pytest.raises(OutputError, match=r"cannot write \S+/a\.jpg/kept: Not a directory"):
        evaluate_answers("gone", data, keep=shown / "a.jpg" / "kept")

    def fill(path: Path, *_: object, **__: object) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", fill)
    with pytest.raises(OutputError, match=r"no disk space left while writing \S+/kept \("):
        evaluate_answers("gone", data, keep=shown / "kept")
    assert not (shown / "kept").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [lines[0].replace("single word", "long text"), *lines[1:]], "holds answers with another prompt"),
        (lambda lines: [lines[0].replace('"max_tokens": 4', '"max_tokens": 5'), *lines[1:]], "another max_tokens"),
        (lambda lines: lines[1:], "the first line does not say what was asked"),
        (lambda lines: ["[]", *lines[1:]], "line 1 is no object"),
        (lambda lines: [*lines, "{}"], "line 4 is no answer"),
        (lambda lines: [*lines, "{"], "line 4: not readable as JSON"),
    ],
)
def test_answers_of_another_kind_are_not_gone_on_from(
    change: Callable[[list[str]], list[str]], message: str, shown: Path
) -> None:
    model, data, folder = talker_checkpoint("smolvlm"), pope(shown), shown / "kept"
    evaluate_answers(model, data, max_tokens=TOKENS, keep=folder)
    (file,) = folder.glob("*.jsonl")
    text = "\n".join(change(file.read_text().splitlines())) + "\n"
    file.write_text(text)
    with pytest.raises(OutputError, match=message) as caught:
        evaluate_answers(model, data, max_tokens=TOKENS, keep=folder)
    assert caught.value.hint == "name another folder with --keep, or remove this file"
    assert file.read_text() == text


def test_the_likeliest_option_is_by_the_tokens_of_its_text(shown: Path) -> None:
    data = edgevlm.evaluate_answers(
        talker_checkpoint("smolvlm"), choice(shown), choosing="likelihood", keep=shown / "kept"
    )
    (file,) = (shown / "kept").glob("*.jsonl")
    said = [json.loads(line)["answer"] for line in file.read_text().splitlines()[1:]]
    model, question = (
        asking(talker_model("smolvlm")),
        "Which colour?\nAnswer with the option's letter from the given choices directly.",
    )
    red = np.full((4, 6, 3), (255, 0, 0), np.uint8)
    for place, options in ((0, ["red", "green"]), (2, ["green", "red"])):
        likely = model.score(red, question, options) / [len(model.tokenizer.pieces(each)) for each in options]
        assert said[place] == "AB"[int(np.argmax(likely))]
    judged = data.sets[0].judged
    assert judged.circular is not None
    assert judged.circular.questions == 1  # 5 and 1000005 are one question
    assert sum(judged.letters.values()) == judged.total.questions == 3


def test_captions_of_a_bundle_are_scored(shown: Path) -> None:
    (shown / "captions.json").write_text(json.dumps({
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "COCO_val2014_000000000042.jpg"}],
        "annotations": [{"image_id": number, "caption": text} for number in (1, 2) for text in ("a cat", "one cat")],
    }))  # fmt: skip
    found = evaluate_answers(talker("blip", "tflite", "fp32").path, shown / "captions.json", max_tokens=TOKENS)
    assert (found.evidence, found.precision, found.sets[0].form) == ("host-runtime", "fp32", "captions")
    captions = found.sets[0].judged.captions
    assert captions is not None
    assert found.sets[0].judged.total.score == pytest.approx(captions.cider_d)
    assert captions.each_cider_d.keys() == {"a.jpg", "COCO_val2014_000000000042.jpg"}


# Judging


def questions(form: Any, *asked: PictureQuestion) -> Questions:
    return Questions("q", form, asked, no_more)


def test_each_form_is_judged_by_its_rule() -> None:
    people = ("yes",) * 2 + ("no",) * 8
    cases: list[tuple[Any, tuple[str, ...], str, float]] = [
        ("vqa", people, "Yes.", (8 * 2 / 3 + 2 * 1 / 3) / 10),
        ("gqa", ("a dog",), "dog", 1.0),
        ("pope", ("no",), "No, there is not", 1.0),
        ("chartqa", ("100",), "104", 1.0),
        ("docvqa", ("abcd",), "abce", 0.75),
    ]
    for form, right, said, expected in cases:
        judged = judge(questions(form, PictureQuestion("1", "a.jpg", "?", right)), {"1": said})
        assert judged.total.score == pytest.approx(expected), form


def test_categories_letters_and_pictures_that_cannot_be_read() -> None:
    asked = questions(
        "choice",
        PictureQuestion("1", "1", "?", ("A",), ("red", "green"), "colour"),
        PictureQuestion("1000001", "1", "?", ("B",), ("green", "red"), "colour"),
        PictureQuestion("2", "2", "?", ("A",), ("one", "two"), "count"),
        PictureQuestion("1000002", "2", "?", ("B",), ("two", "one"), "count"),
        PictureQuestion("3", "3", "?", ("B",), ("two", "one"), "count"),
    )
    said: dict[str, str | ImageError] = {
        "1": "A", "1000001": "red", "2": "one.", "1000002": "It is (A)", "3": ImageError("3: cannot be read"),
    }  # fmt: skip
    judged = judge(asked, said)
    assert (judged.total.questions, judged.total.score) == (4, 0.75)
    assert {kind: (each.questions, each.score) for kind, each in judged.by_category.items()} == {
        "colour": (2, 1.0),
        "count": (2, 0.5),
    }
    assert judged.circular is not None
    assert (judged.circular.questions, judged.circular.score) == (2, 0.5)
    assert (judged.letters, judged.unread, judged.skipped) == ({"A": 3, "B": 1}, 0, {"3": "3: cannot be read"})
    with pytest.raises(DataError, match="expected answers, got none"):
        judge(asked, {"3": ImageError("3: cannot be read")})


def test_an_index_may_have_any_number_of_digits() -> None:
    longest = "1" * 5_000
    keys = ("7", "4000007", "0", f"{longest}000007", longest)
    asked = questions("choice", *(PictureQuestion(key, "1", "?", ("A",), ("red", "green")) for key in keys))
    circular = judge(asked, {**dict.fromkeys(keys, "A"), "4000007": "B"}).circular
    assert circular is not None
    assert (circular.questions, circular.score) == (1, 0.0)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        (" B. green", "B"),
        ("(A)", "A"),
        ("Green.", "B"),
        ("A green one", None),  # an article
        ("Both (A) and (B)", None),
        ("C", None),
        ("", None),
    ],
)
def test_an_answer_names_an_option_or_none(answer: str, letter: str | None) -> None:
    assert said_letter(answer, PictureQuestion("1", "1", "?", ("A",), ("red", "green"))) == letter


def test_an_interval_is_that_of_a_mean_of_as_many() -> None:
    found = mean([1.0] * 60 + [0.0] * 40)
    assert found == mean([1.0] * 60 + [0.0] * 40)
    spread = 1.96 * (0.6 * 0.4 / 100) ** 0.5
    assert (found.low, found.high) == (pytest.approx(0.6 - spread, abs=0.015), pytest.approx(0.6 + spread, abs=0.015))


# The command


def test_the_command_shows_what_was_judged(shown: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shown)
    done = run("evaluate", talker_checkpoint("smolvlm"), "--data", f"dogs={pope(shown)}", "--max-tokens", TOKENS)
    assert done.exit_code == 0, done.output
    for row in ("judged by +yes or no", r"score +\d+\.\d% \(", "says yes", r"asked with '\{\}\\\\nAnswer the question"):
        assert re.search(row, done.output), (row, done.output)
    assert "answers: evaluated/smolvlm-dogs.jsonl" in done.output
    told = run(
        "evaluate", talker_checkpoint("smolvlm"), "--data", f"dogs={pope(shown)}", "--max-tokens", TOKENS, "--json"
    )
    assert json.loads(told.stdout)["sets"][0]["judged"]["total"]["questions"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--shots", "1", "--index"), "--shots, --index: of models that give embeddings"),
        (("--prompt", "Say it"), "expected a prompt in which {} stands once"),
        (("--data", "objects:styles:3"), ""),
    ],
)
def test_what_does_not_fit_a_model_that_talks_is_refused(options: tuple[str, ...], message: str, shown: Path) -> None:
    done = run("evaluate", talker_checkpoint("smolvlm"), "--data", pope(shown), "--keep", shown / "kept", *options)
    assert (done.exit_code, message in done.output) == (0 if not message else 2, True), done.output


def test_what_is_of_models_that_talk_is_refused_for_others(shown: Path) -> None:
    done = run("evaluate", "edgevlm-student", "--data", "objects:styles:3", "--prompt", "{}?")
    assert done.exit_code == 2
    assert "--prompt: of models that talk, and edgevlm-student gives embeddings" in done.output
    with pytest.raises(InputError, match="expected a model that talks"):
        evaluate_answers("edgevlm-student", pope(shown))
