"""Benchmarks' files, each in the exact form in which it is published."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edgevlm.data.questions import Form, Questions, open_questions
from edgevlm.errors import DataError, ImageError


def picture(colour: tuple[int, int, int]) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(content, "PNG")
    return content.getvalue()


def write(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def vqa(folder: Path) -> Path:
    about = {"info": {}, "license": {}, "data_type": "mscoco", "data_subtype": "val2014"}
    write(folder, "v2_mscoco_val2014_annotations.json", {**about, "annotations": [
        {"question_type": "is this", "multiple_choice_answer": "yes", "image_id": 42, "answer_type": "yes/no",
         "question_id": 42000, "answers": [
             {"answer": "yes" if number < 9 else "no", "answer_confidence": "yes", "answer_id": number + 1}
             for number in range(10)
         ]},
    ]})  # fmt: skip
    return write(folder, "v2_OpenEnded_mscoco_val2014_questions.json", {
        **about, "task_type": "Open-Ended",
        "questions": [{"image_id": 42, "question": "Is this a cat?", "question_id": 42000}],
    })  # fmt: skip


def gqa(folder: Path) -> Path:
    return write(folder, "testdev_balanced_questions.json", {
        "201307251": {"question": "Is it overcast?", "imageId": "n161313", "answer": "no", "isBalanced": True,
                      "types": {"structural": "verify", "semantic": "attr"}},
    })  # fmt: skip


def pope(folder: Path) -> Path:
    lines = [
        {"question_id": 1, "image": "a.jpg", "text": "Is there a dog in the image?", "label": "yes"},
        {"question_id": 2, "image": "a.jpg", "text": "Is there a cat in the image?", "label": "no"},
    ]
    return write(folder, "coco_pope_random.json", "".join(json.dumps(line) + "\n" for line in lines))


def chartqa(folder: Path) -> Path:
    return write(folder, "test_human.json", [{"imgname": "a.png", "query": "How many?", "label": "14"}])


def docvqa(folder: Path) -> Path:
    return write(folder, "val_v1.0.json", {"dataset_name": "docvqa", "data": [
        {"questionId": 7, "question": "Which date?", "image": "documents/x.png", "docId": 1,
         "answers": ["1/8/93", "8 Jan"]},
    ]})  # fmt: skip


def choice(folder: Path) -> Path:
    red, green = (base64.b64encode(picture(colour)).decode() for colour in ((255, 0, 0), (0, 255, 0)))
    rows = [
        ("index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "l2-category", "split"),
        ("5", "Which colour?", "nan", "red", "green", "", "", "A", "colour", red, "fine", "dev"),
        ("6", '"Which ""one""?"', "Look well.", "one", "two", "three", "four", "D", "count", green, "fine", "dev"),
        ("1000005", "Which colour?", "nan", "green", "red", "", "", "B", "colour", "5", "fine", "dev"),
    ]
    return write(folder, "mmbench_dev_en.tsv", "".join("\t".join(row) + "\n" for row in rows))


FORMS: dict[Form, tuple[Callable[[Path], Path], str]] = {
    "vqa": (vqa, "COCO_val2014_000000000042.jpg"),
    "gqa": (gqa, "n161313.jpg"),
    "pope": (pope, "a.jpg"),
    "chartqa": (chartqa, "a.png"),
    "docvqa": (docvqa, "documents/x.png"),
    "choice": (choice, ""),
}
EXPECTED = {
    "vqa": [("42000", "Is this a cat?", ("yes",) * 9 + ("no",), (), "yes/no")],
    "gqa": [("201307251", "Is it overcast?", ("no",), (), "verify")],
    "pope": [
        ("1", "Is there a dog in the image?", ("yes",), (), None),
        ("2", "Is there a cat in the image?", ("no",), (), None),
    ],
    "chartqa": [("0", "How many?", ("14",), (), None)],
    "docvqa": [("7", "Which date?", ("1/8/93", "8 Jan"), (), None)],
    "choice": [
        ("5", "Which colour?", ("A",), ("red", "green"), "colour"),
        ("6", 'Look well.\nWhich "one"?', ("D",), ("one", "two", "three", "four"), "count"),
        ("1000005", "Which colour?", ("B",), ("green", "red"), "colour"),
    ],
}


def opened(form: Form, folder: Path, images: Path | None = None) -> Questions:
    make, name = FORMS[form]
    file = make(folder)
    if name:
        shown = (images or folder) / name
        shown.parent.mkdir(parents=True, exist_ok=True)
        shown.write_bytes(picture((255, 0, 0)))
    return open_questions(file, images=images)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("apart", [False, True])
def test_each_form_is_read(form: Form, apart: bool, tmp_path: Path) -> None:
    data = opened(form, tmp_path, tmp_path / "pictures" if apart else None)
    assert data.form == form
    found = [data[number] for number in range(len(data))]
    assert [(each.key, each.text, each.answers, each.options, each.category) for each in found] == EXPECTED[form]
    assert data.picture(0).getpixel((0, 0)) == (255, 0, 0)


def test_a_changed_question_or_picture_is_another_set(tmp_path: Path) -> None:
    file = pope(tmp_path)
    (tmp_path / "a.jpg").write_bytes(picture((255, 0, 0)))
    before = open_questions(file).fingerprint
    assert open_questions(file).fingerprint == before
    file.write_text(file.read_text().replace("a cat", "an ox"))
    changed = open_questions(file).fingerprint
    (tmp_path / "a.jpg").write_bytes(picture((255, 0, 0)) + b"more")
    assert len({before, changed, open_questions(file).fingerprint}) == 3


def test_a_row_of_a_table_may_have_the_picture_of_another(tmp_path: Path) -> None:
    data = opened("choice", tmp_path)
    assert [data.picture(number).getpixel((0, 0)) for number in range(3)] == [(255, 0, 0), (0, 255, 0), (255, 0, 0)]


@pytest.mark.parametrize("name", ["42.png", "000000000042.jpg"])
def test_a_picture_of_a_number_is_found_under_each_of_its_names(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(picture((1, 2, 3)))
    assert open_questions(vqa(tmp_path))[0].picture == name


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", {"annotations": []}, r"expected questions in the form of VQAv2.*, got \['annotations'\]"),
        ("a.json", [1], "expected questions in the form of VQAv2.*, got list"),
        ("a_questions.json", {"questions": [{}]}, r"expected its answers in a_annotations\.json beside it"),
        (
            "a.json",
            {"data": [{"questionId": 1, "answers": []}]},
            r"data\[0\]: expected answers, a list of texts, got \[\]",
        ),
        ("a.json", [{"imgname": "a.png", "query": 0.5, "label": "1"}], "query: expected a text, got 0.5"),
        ("a.json", {"image": "a.png", "text": "?", "label": "maybe"}, "line 1: label: expected yes or no, got 'maybe'"),
        ("a.json", {"image": "gone.png", "text": "?", "label": "yes"}, r"none of the pictures .* such as gone\.png"),
        ("a.tsv", "index\tquestion\n1\t?\n", "expected a column image, got index, question"),
        ("a.tsv", "", "expected a row a question, got none"),
        ("a.tsv", "index\tquestion\timage\tA\tB\tanswer\n1\t?\tx\tone\ttwo\tC\n", "expected one of A, B, got 'C'"),
        (
            "a.tsv",
            "index\tquestion\timage\tA\tanswer\n1\t?\tx\tone\tA\n1\t?\tx\tone\tA\n",
            "index 1: another row has the same index",
        ),
    ],
)
def test_bad_files_are_refused(name: str, content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        open_questions(write(tmp_path, name, content))


@pytest.mark.parametrize("form", [form for form in FORMS if form != "choice"])
def test_a_byte_order_mark_changes_nothing(form: Form, tmp_path: Path) -> None:
    plain = opened(form, tmp_path)
    for file in tmp_path.glob("*.json"):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert [*open_questions(plain.name)] == [*plain]


def test_lines_end_with_a_newline_alone(tmp_path: Path) -> None:
    asked = "Is\u2028there\u2029a\x85dog?"  # line breaks to some, which JSON may have as they are
    lines = [
        json.dumps({"image": "a.jpg", "text": text, "label": "yes"}, ensure_ascii=False) for text in (asked, "A cat?")
    ]
    (tmp_path / "a.jpg").write_bytes(picture((255, 0, 0)))
    for end in ("\n", "\r\n", "\n\n"):
        data = open_questions(write(tmp_path, "a.jsonl", end.join(lines)))
        assert [each.text for each in data] == [asked, "A cat?"]
    with pytest.raises(DataError, match=r"a\.jsonl: line 5: not readable as JSON"):
        open_questions(write(tmp_path, "a.jsonl", "\n\n".join([*lines, "{"])))


def test_a_question_without_people_and_an_id_twice_are_refused(tmp_path: Path) -> None:
    file = vqa(tmp_path)
    answers = write(tmp_path, "a.json", {"annotations": [{"question_id": 1, "answers": [{"answer": "yes"}]}]})
    with pytest.raises(DataError, match="expected an answer to 42000"):
        open_questions(file, answers=answers)
    lines = pope(tmp_path).read_text().replace('"question_id": 2', '"question_id": 1')
    with pytest.raises(DataError, match="1 questions have an id that another has, such as 1"):
        open_questions(write(tmp_path, "twice.json", lines))
    with pytest.raises(DataError, match="has its answers in it, being in the form pope"):
        open_questions(pope(tmp_path), answers=answers)


def test_a_picture_that_is_no_base64_is_an_error_of_that_picture(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tsv", "index\tquestion\timage\tA\tanswer\n1\t?\t!!!\tone\tA\n")
    with pytest.raises(ImageError, match="index 1: image: expected base64"):
        open_questions(path).picture(0)
