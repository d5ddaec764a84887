"""Questions about pictures whose answers are known, in the forms in which benchmarks are published.

    form       what the file is                                                     how an answer is judged
    vqa        {"questions": [{"question_id", "image_id", "question"}]}, and        by people who agree (VQAv2, OK-VQA)
               {"annotations": [{"question_id", "answers": [{"answer"}]}]}
    gqa        {ID: {"question", "imageId", "answer"}}                              exactly
    pope       a JSON text a line: {"question_id", "image", "text", "label"}        yes or no
    chartqa    [{"imgname", "query", "label"}]                                      a number within 5 %, or exactly
    docvqa     {"data": [{"questionId", "image", "question", "answers"}]}           by likeness (ANLS)
    choice     a table with tabs: index, image (base64), question, A, B, ... and    the letter (MMBench, SEED)
               answer
    captions   any data of pictures with captions: COCO's, a folder of shards       by people's captions (CIDEr-D)

The pages of the formats: https://visualqa.org/vqa_v2_dataformat.html, https://cs.stanford.edu/people/dorarad/gqa/,
https://github.com/AoiDragon/POPE, https://github.com/vis-nlp/ChartQA, https://rrc.cvc.uab.es/?ch=17,
https://github.com/open-compass/MMBench.
"""

from __future__ import annotations

import base64
import csv
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal

from PIL import Image

from edgevlm import schema
from edgevlm.data.dataset import Dataset
from edgevlm.data.fingerprints import fingerprint, stamp
from edgevlm.data.pictures import read_picture
from edgevlm.errors import DataError, ImageError

Form = Literal["vqa", "gqa", "pope", "chartqa", "docvqa", "choice", "captions"]
LETTERS = "ABCDEFGH"
"""Of options, as many as a question may have."""
_PICTURES = (".jpg", ".jpeg", ".png", ".webp")
_LARGEST_CELL = 1 << 28
"""Letters of a picture in base64."""
_SAME_AS = 64
"""A picture in base64 is longer: what is shorter is the index of the row that has it."""


@dataclass(frozen=True)
class PictureQuestion:
    """A question about a picture.

    Attributes:
        key: Names the question, the same in every run.
        picture: Names the picture: a path below the folder of pictures, or the row of a table.
        text: What is asked; empty where the picture is to be described.
        answers: Those that are right: of `vqa` each of the people's, of `choice` the letter alone, else texts.
        options: Of `choice`, their texts, in the order of their letters.
        category: What kind of question the benchmark says that it is; None where it says nothing.
    """

    key: str
    picture: str
    text: str
    answers: tuple[str, ...]
    options: tuple[str, ...] = ()
    category: str | None = None


class Questions:
    """Questions by index, and their pictures, read when their turn comes.

    Args:
        name: What a user called them.
        form: Of the file.
        questions: In the order of the file.
        read: Gives the picture of a question, by its index.
        stamps: Plain values that change when a file does.

    Attributes:
        fingerprint: Hash of all that is asked and expected.
    """

    def __init__(
        self,
        name: str,
        form: Form,
        questions: Sequence[PictureQuestion],
        read: Callable[[int], Image.Image],
        stamps: Sequence[object] = (),
    ) -> None:
        self.name, self.form, self._questions, self._read = name, form, tuple(questions), read
        rows = ([each.key, each.picture, each.text, *each.answers, each.options, each.category] for each in questions)
        self.fingerprint = fingerprint(name, form, [*rows, list(stamps)])

    def __len__(self) -> int:
        return len(self._questions)

    def __getitem__(self, index: int) -> PictureQuestion:
        return self._questions[index]

    def picture(self, index: int) -> Image.Image:
        """The picture of a question, upright and in RGB.

        Raises:
            ImageError: it cannot be read.
        """
        return self._read(index)


def open_questions(
    file: str | Path, *, images: str | Path | None = None, answers: str | Path | None = None
) -> Questions:
    """Reads a benchmark's file; which form it has its content says.

    Args:
        file: Of the questions.
        images: Folder of the pictures; the file's own where None. A table has its pictures in it.
        answers: The people's, of VQAv2's form; where None, the file that VQAv2 calls so, beside the questions.

    Raises:
        DataError: no form has such content, or something of it is missing, or twice; none of the pictures is in the
            folder.
    """
    path = Path(file)
    root = path.parent if images is None else Path(images)
    if path.suffix.lower() == ".tsv":
        return _open_table(path)
    content = _parse(_read(path), path)
    form = _form_of(content, path)
    if answers is not None and form != "vqa":
        raise DataError(f"{path}: has its answers in it, being in the form {form}: expected no file of answers")
    given = _READERS[form](content, path, None if answers is None else Path(answers))
    questions = _found(list(given), path, root, form)
    return Questions(
        str(file),
        form,
        questions,
        lambda index: read_picture(root / questions[index].picture),
        _stamps(root, questions),
    )


def to_describe(data: Dataset) -> Questions:
    """Pictures with captions, each to be described.

    Raises:
        DataError: it has no captions.
    """
    examples = {index: data.example(index) for index in range(len(data))}
    captioned = {index: each for index, each in examples.items() if each.captions}
    if not captioned:
        raise DataError(
            f"{data.name}: expected questions about pictures, or captions of them, got pictures without words",
            hint="edgevlm run BUNDLE --labels compares labels",
        )
    questions = [PictureQuestion(each.key, each.key, "", each.captions) for each in captioned.values()]
    places = tuple(captioned)
    return Questions(data.name, "captions", questions, lambda index: data.picture(places[index]), [data.fingerprint])


def is_questions(path: Path) -> bool:
    """Whether a file is one of questions, and not of COCO's captions, as far as its name and first key tell."""
    if path.suffix.lower() == ".tsv":
        return path.is_file()
    if path.suffix.lower() not in (".json", ".jsonl") or not path.is_file():
        return False
    content = _parse(_read(path), path)
    return not (isinstance(content, Mapping) and "images" in content)


def _read(path: Path) -> str:
    return schema.read_text(path, "JSON", error=DataError, most_bytes=schema.LARGEST_JSON_BYTES)


def _parse(text: str, path: Path) -> Any:
    """A JSON text, or one a line."""
    lines = {number: line for number, line in enumerate(text.split("\n"), 1) if line.strip()}
    first = list(lines.values())[:2]
    if len(first) > 1 and all(line.lstrip().startswith("{") and line.rstrip().endswith("}") for line in first):
        return [
            schema.parse_json(line, where=f"{path}: line {number}", error=DataError) for number, line in lines.items()
        ]
    return schema.parse_json(text, where=str(path), error=DataError)


def _form_of(content: Any, path: Path) -> Form:
    if isinstance(content, Mapping):
        if "questions" in content:
            return "vqa"
        if "data" in content:
            return "docvqa"
        if {"text", "label", "image"} <= content.keys():  # a single line
            return "pope"
        if content and all(isinstance(each, Mapping) and "imageId" in each for each in content.values()):
            return "gqa"
    if isinstance(content, list) and content and isinstance(content[0], Mapping):
        if {"text", "label", "image"} <= content[0].keys():
            return "pope"
        if {"imgname", "query", "label"} <= content[0].keys():
            return "chartqa"
    keys = sorted(content)[:5] if isinstance(content, Mapping) else type(content).__name__
    raise DataError(
        f"{path}: expected questions in the form of VQAv2, GQA, POPE, ChartQA, DocVQA, or a table .tsv, got {keys}",
        hint="edgevlm evaluate --help has what each form looks like",
    )


# Forms


def _vqa(content: Mapping[str, Any], path: Path, answers: Path | None) -> Iterator[PictureQuestion]:
    answers = answers or _beside(path)
    people = {}
    for place, entry in _entries(schema.read_json(answers, error=DataError), "annotations", answers):
        given = entry.get("answers")
        if not isinstance(given, list) or not given or not all(isinstance(each, Mapping) for each in given):
            raise DataError(f"{place}: expected answers, a list of objects, got {given!r:.60}")
        people[str(_text(entry, "question_id", place))] = tuple(_text(each, "answer", place) for each in given), entry
    split = content.get("data_subtype")
    for place, entry in _entries(content, "questions", path):
        key = _text(entry, "question_id", place)
        if key not in people:
            raise DataError(
                f"{place}: expected an answer to {key} in {answers}, got none", hint="take both of one split"
            )
        said, about = people[key]
        kind = about.get("answer_type")
        yield PictureQuestion(
            key,
            _number(_text(entry, "image_id", place), split),
            _text(entry, "question", place),
            said,
            category=kind if isinstance(kind, str) else None,
        )


def _beside(path: Path) -> Path:
    """The file of answers: of VQAv2's names `v2_OpenEnded_..._questions.json` and `v2_..._annotations.json`."""
    name = path.name.replace("questions", "annotations")
    names = [name, name.replace("OpenEnded_", "")]
    for name in names:
        if name != path.name and (path.parent / name).is_file():
            return path.parent / name
    raise DataError(
        f"{path}: expected its answers in {' or '.join(dict.fromkeys(names))} beside it, got no such file",
        hint="--answers FILE says where they are",
    )


def _gqa(content: Mapping[str, Any], path: Path, _: Path | None) -> Iterator[PictureQuestion]:
    for key, entry in content.items():
        place = f"{path}: {key}"
        types = entry.get("types")
        kind = types.get("structural") if isinstance(types, Mapping) else None
        yield PictureQuestion(
            key,
            _number(_text(entry, "imageId", place), None),
            _text(entry, "question", place),
            (_text(entry, "answer", place),),
            category=kind if isinstance(kind, str) else None,
        )


def _pope(content: Any, path: Path, _: Path | None) -> Iterator[PictureQuestion]:
    for number, entry in enumerate(content if isinstance(content, list) else [content], 1):
        place = f"{path}: line {number}"
        if not isinstance(entry, Mapping):
            raise DataError(f"{place}: expected an object, got a {type(entry).__name__}")
        answer = _text(entry, "label", place)
        if answer not in ("yes", "no"):
            raise DataError(f"{place}: label: expected yes or no, got {answer!r:.60}")
        key = str(entry.get("question_id", number))
        yield PictureQuestion(key, _text(entry, "image", place), _text(entry, "text", place), (answer,))


def _chartqa(content: Sequence[Any], path: Path, _: Path | None) -> Iterator[PictureQuestion]:
    for number, (place, entry) in enumerate(_entries({"": content}, "", path)):
        name, asked, answer = (_text(entry, key, place) for key in ("imgname", "query", "label"))
        yield PictureQuestion(str(number), name, asked, (answer,))


def _docvqa(content: Mapping[str, Any], path: Path, _: Path | None) -> Iterator[PictureQuestion]:
    for place, entry in _entries(content, "data", path):
        given = entry.get("answers")
        if not isinstance(given, list) or not given or not all(isinstance(each, str) for each in given):
            raise DataError(f"{place}: expected answers, a list of texts, got {given!r:.60}")
        key, name, asked = (_text(entry, each, place) for each in ("questionId", "image", "question"))
        yield PictureQuestion(key, name, asked, tuple(given))


_READERS: Mapping[Form, Callable[[Any, Path, Path | None], Iterator[PictureQuestion]]] = {
    "vqa": _vqa,
    "gqa": _gqa,
    "pope": _pope,
    "chartqa": _chartqa,
    "docvqa": _docvqa,
}


def _number(number: str, split: object) -> str:
    """A picture that is told by its number alone; `_found` looks for its file."""
    return f"{number}/{split if isinstance(split, str) else ''}"


def _entries(content: Mapping[str, Any], key: str, path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    found = content.get(key) if isinstance(content, Mapping) else None
    if not isinstance(found, list) or not found:
        raise DataError(f"{path}: expected a list of objects under {key!r}, got {type(found).__name__}")
    for number, entry in enumerate(found):
        place = f"{path}: {key}[{number}]"
        if not isinstance(entry, Mapping):
            raise DataError(f"{place}: expected an object, got a {type(entry).__name__}")
        yield place, entry


def _text(entry: Mapping[str, Any], key: str, place: str) -> str:
    """A text, or a whole number, which some files have in its place."""
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(f"{place}: {key}: expected a text, got {value!r:.60}")
    return str(value)


# Pictures


def _found(questions: list[PictureQuestion], path: Path, root: Path, form: Form) -> list[PictureQuestion]:
    """The questions, with the paths of their pictures below the folder in place of numbers."""
    if form in ("vqa", "gqa"):
        there = {each.stem: each.name for each in _listed(root) if each.suffix.lower() in _PICTURES}
        questions = [replace(each, picture=_file_of(each.picture, there)) for each in questions]
    keys = Counter(each.key for each in questions)
    twice = [key for key, count in keys.items() if count > 1]
    if twice:
        raise DataError(f"{path}: {len(twice):,} questions have an id that another has, such as {twice[0]}")
    if not any(_is_there(root / each.picture) for each in questions):
        raise DataError(
            f"{path}: none of the pictures of its {len(questions):,} questions is in {root}, such as "
            f"{questions[0].picture}",
            hint="--images FOLDER says where they are",
        )
    return questions


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _listed(root: Path) -> list[Path]:
    try:
        return sorted(root.iterdir())
    except OSError as error:
        raise DataError(f"{root}: cannot be read: {error.strerror}", hint="--images FOLDER has the pictures") from error


def _file_of(told: str, there: Mapping[str, str]) -> str:
    """The file of a picture's number: `262148.jpg`, COCO's `000000262148.jpg`, or `COCO_val2014_000000262148.jpg`."""
    number, split = told.split("/", 1)
    names = (number, number.zfill(12), f"COCO_{split}_{number.zfill(12)}")
    return next((there[name] for name in names if name in there), f"{names[-1 if split else 0]}.jpg")


def _stamps(root: Path, questions: Sequence[PictureQuestion]) -> list[object]:
    return [[name, *stamp(root / name)] for name in sorted({each.picture for each in questions})]


# Tables


def _open_table(path: Path) -> Questions:
    """MMBench's and SEED's form: a picture in base64 in the row, or the index of the row that has it."""
    places: dict[str, int] = {}
    given: list[PictureQuestion] = []
    for start, row in _rows(path):
        place = f"{path}: index {row.get('index')}"
        key, asked, image = (_cell(row, name, place) for name in ("index", "question", "image"))
        if key in places:
            raise DataError(f"{place}: another row has the same index")
        places[key] = start
        same = len(image) <= _SAME_AS and image in places
        options = tuple(row[letter].strip() for letter in LETTERS if row.get(letter, "").strip())
        answer = _cell(row, "answer", place).strip()
        if answer not in LETTERS[: len(options)]:
            raise DataError(
                f"{place}: answer: expected one of {', '.join(LETTERS[: len(options)])}, got {answer!r:.60}"
            )
        hint = row.get("hint", "").strip()
        text = f"{hint}\n{asked}" if hint and hint.lower() != "nan" else asked
        given.append(
            PictureQuestion(key, image if same else key, text, (answer,), options, row.get("category") or None)
        )
    if not given:
        raise DataError(f"{path}: expected a row a question, got none")

    def read(index: int) -> Image.Image:
        name = given[index].picture
        row = next(row for _, row in _rows(path, places[name]))
        try:
            return read_picture(base64.b64decode(row["image"], validate=True))
        except ValueError as error:
            raise ImageError(f"{path}: index {name}: image: expected base64, got: {error}") from error

    return Questions(str(path), "choice", given, read, stamp(path))


def _rows(path: Path, start: int = 0) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows by the names of their columns, each with the byte at which it begins; all from a byte on."""
    csv.field_size_limit(_LARGEST_CELL)
    try:
        with path.open("rb") as file:
            names = next(csv.reader(io.StringIO(file.readline().decode("utf-8-sig")), delimiter="\t"), [])
            place = file.tell() if not start else file.seek(start)
            lines = _Counted(file, place)
            for cells in csv.reader(lines, delimiter="\t"):
                yield place, dict(zip(names, cells, strict=False))
                place = lines.place
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: expected a table with tabs in UTF-8, got: {error}") from error


class _Counted:
    """A file's lines as text, and how far it was read."""

    def __init__(self, file: IO[bytes], place: int) -> None:
        self._file, self.place = file, place

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            self.place += len(line)
            yield line.decode("utf-8")


def _cell(row: Mapping[str, str], name: str, place: str) -> str:
    if not row.get(name):
        raise DataError(f"{place}: expected a column {name}, got {', '.join(row)}"[:200])
    return row[name]
