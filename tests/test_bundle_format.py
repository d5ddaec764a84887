"""The page of the bundle's format and its JSON Schemas say what EdgeVLM does."""

from __future__ import annotations

import copy
import json
import math
import re
import shutil
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import jsonschema
import numpy as np
import pictures
import pytest
import resampling
import tokenizers
from click.testing import CliRunner
from library import labelled_student, talker
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file

import edgevlm
from edgevlm import schema
from edgevlm.bundle import golden, golden_dialogues, json_schema
from edgevlm.bundle.bundle import Bundle, seal
from edgevlm.bundle.format_page import PAGE, SCHEMAS, page, schema_text
from edgevlm.bundle.golden_dialogues import GoldenDialogues
from edgevlm.bundle.manifest import FORMAT_VERSION, GRIDS_VERSION, PREFIX_VERSION, TALKERS_VERSION, VERSIONS, Manifest
from edgevlm.bundle.spec import (
    ImagePreprocessing,
    Resample,
    ResizeRule,
    TextCanonicalisation,
    TextPreprocessing,
)
from edgevlm.bundle.trust import trust
from edgevlm.cli import main
from edgevlm.errors import BundleError
from edgevlm.inference.embeddings import label_scores
from edgevlm.inputs.pictures import decode, preprocess, resize_and_crop
from edgevlm.inputs.texts import Tokenizer
from edgevlm.parity.samples import golden_pictures

TEXT = PAGE.read_text(encoding="utf-8")
LABELS = ("a red circle", "a blue star", "two green squares")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """One with every component."""
    return labelled_student(LABELS)


@pytest.fixture
def manifest(bundle: Bundle) -> dict[str, Any]:
    """Its manifest in plain values, with something in every list and object."""
    written: dict[str, Any] = json.loads((bundle.path / "manifest.json").read_text(encoding="utf-8"))
    written["calibration"] = {"data": "photos/", "texts": None, "samples": 128, "seed": 3, "fingerprint": "0" * 64}
    proof = {"component": "classify", "bits": {"8": 1}, "scale_types": {"8": "float32"}, "identical": 1}
    written["weights"] = [proof | {"lost": ["fc1"], "digests": ["a"]}]
    written["recipe"] |= {"float32_ops": ["auto"]}
    written["recipe"]["weights"] |= {"float_layers": ["encode_image/stem.*"]}
    written["labels"] = {"names": ["a"], "templates": ["{}"], "texts": [["b"]]}
    return written


@pytest.fixture(scope="module")
def dialogues() -> dict[str, Any]:
    """The `golden.json` of a model that talks, in plain values."""
    bundle = talker("blip", "tflite", "fp32")
    written: dict[str, Any] = json.loads((bundle.path / golden.GOLDEN).read_text(encoding="utf-8"))
    return written


# The page and the schemas are the dataclasses'.


def test_the_page_is_what_the_dataclasses_say_now() -> None:
    assert page(TEXT) == TEXT, "python -m edgevlm.bundle.format_page writes it again"


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.name)
def test_a_schema_is_what_the_dataclasses_say_now(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == schema_text(SCHEMAS[path]), (
        "python -m edgevlm.bundle.format_page writes it again"
    )


def test_every_object_of_each_file_has_its_table_and_every_key_its_line() -> None:
    for kind in SCHEMAS.values():
        for each in json_schema.objects(kind):
            assert TEXT.count(f"\n#### {each.__name__}\n") == 1
            for field in json_schema.fields(each):
                assert f"\n| `{field.name}` | " in TEXT


def test_a_key_that_no_docstring_names_is_found_out() -> None:
    class Silent(golden.GoldenText):
        """Nothing about its keys."""

    with pytest.raises(ValueError, match=r"Silent\.text: expected a line about it"):
        json_schema.fields(Silent)


def test_the_page_explains_this_version_and_every_rule_by_name() -> None:
    assert f"\nVersion {FORMAT_VERSION}. " in TEXT
    assert f" Of models that talk: {TALKERS_VERSION}; {GRIDS_VERSION} where " in TEXT
    assert f" a `grid`; {PREFIX_VERSION} where " in TEXT
    assert f"for a reader of {', '.join(VERSIONS[:-1])} and {VERSIONS[-1]} " in TEXT
    preprocessing = TEXT[TEXT.index("## Pictures") : TEXT.index("## The artefact")]
    for rule in (*get_args(ResizeRule), *get_args(Resample), *get_args(TextCanonicalisation)):
        assert f"`{rule}`" in preprocessing


def test_links_of_the_page_lead_somewhere() -> None:
    anchors = {heading.strip().lower().replace(" ", "-").replace(".", "") for heading in re.findall(r"\n#+ (.*)", TEXT)}
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert target[1:] in anchors if target.startswith("#") else (PAGE.parent / target).exists(), target


# Schema and reader agree.


def _validator(kind: Any = Manifest) -> jsonschema.Draft202012Validator:
    written = json.loads(schema_text(kind))
    jsonschema.Draft202012Validator.check_schema(written)
    return jsonschema.Draft202012Validator(written)


def _is_read(data: Any, kind: Any = Manifest) -> bool:
    try:
        schema.read(kind, data, where="manifest.json", error=BundleError)
    except BundleError:
        return False
    return True


def _places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in it, at any depth."""
    yield path
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from _places(value, (*path, key))


def _at(data: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        data = data[key]
    return data


def test_the_manifest_and_golden_of_a_bundle_are_valid(bundle: Bundle, manifest: dict[str, Any]) -> None:
    _validator().validate(json.loads((bundle.path / "manifest.json").read_text(encoding="utf-8")))
    _validator().validate(manifest)
    assert _is_read(manifest)
    fixtures = json.loads((bundle.path / golden.GOLDEN).read_text(encoding="utf-8"))
    _validator(golden.Golden).validate(fixtures)
    assert not _validator(GoldenDialogues).is_valid(fixtures)


def test_the_golden_of_a_model_that_talks_is_valid(dialogues: dict[str, Any]) -> None:
    _validator(GoldenDialogues).validate(dialogues)
    assert not _validator(GoldenDialogues).is_valid(dialogues | {"schema_version": 4})
    assert not _validator(golden.Golden).is_valid(dialogues)


@pytest.mark.parametrize("newer", [True, False])
def test_unknown_keys_of_dialogues_are_those_of_a_newer_bundle_or_refused(
    newer: bool, dialogues: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / golden.GOLDEN
    path.parent.mkdir()
    path.write_text(json.dumps(dialogues | {"seed": 1}), encoding="utf-8")
    if newer:
        assert len(golden_dialogues.read(tmp_path, newer=True).dialogues) == len(dialogues["dialogues"])
    else:
        with pytest.raises(BundleError, match="unknown key 'seed'"):
            golden_dialogues.read(tmp_path, newer=False)


def test_the_oldest_version_is_valid(manifest: dict[str, Any]) -> None:
    manifest["format_version"] = "1.0"
    for key in ("compressed_size_bytes", "calibration", "weights", "multiply_adds"):
        del manifest[key]
    for key in ("weights", "activations", "calibration", "float32_ops"):
        del manifest["recipe"][key]
    _validator().validate(manifest)
    assert _is_read(manifest)


def test_schema_and_reader_refuse_the_same_at_every_place(manifest: dict[str, Any]) -> None:
    """A value of another type, a key missing and a key too many, at each place in turn."""
    for several in (manifest["files"], manifest["tool_versions"], manifest["components"], manifest["multiply_adds"]):
        for key in list(several)[1:]:  # one of a kind will do
            del several[key]
    del manifest["parity"]["checks"][1:]
    assert _hold_against_the_reader(Manifest, manifest) > 600


def test_schema_and_reader_refuse_the_same_at_every_place_of_dialogues(dialogues: dict[str, Any]) -> None:
    one, step = dialogues["dialogues"][0], dialogues["dialogues"][0]["steps"][0]
    step = step | {"token_ids": step["token_ids"][:1], "logits": step["logits"][:1]}
    shorter = one | {"token_ids": one["token_ids"][:1], "answer_ids": one["answer_ids"][:1], "steps": [step]}
    assert _hold_against_the_reader(GoldenDialogues, dialogues | {"dialogues": [shorter]}) > 100


def _hold_against_the_reader(kind: Any, data: Any) -> int:
    """Changes each place of valid data in turn.

    Returns:
        How many values were tried, most of which both refuse.
    """
    valid = _validator(kind).is_valid
    tried = refused = 0
    for path in _places(data):
        for change in ({"wrong": 1}, "wrong", -1, 0.5, True, None):
            if path in ((), ("format_version",), ("schema_version",)):
                continue  # a reader looks at the version before all else: tests/test_bundle.py
            changed = copy.deepcopy(data)
            _at(changed, path[:-1])[path[-1]] = change
            assert valid(changed) == _is_read(changed, kind), (path, change)
            tried, refused = tried + 1, refused + (not _is_read(changed, kind))
        if isinstance(_at(data, path), dict):
            more = copy.deepcopy(data)
            _at(more, path)["extra"] = 1
            assert valid(more) == _is_read(more, kind), path
            for key in _at(data, path):
                fewer = copy.deepcopy(data)
                del _at(fewer, path)[key]
                assert valid(fewer) == _is_read(fewer, kind), (path, key)
    assert refused > tried / 2
    return tried


@pytest.mark.parametrize("version", ["1.6", "2.3", "3.1", "4.1", "5.0", "1", "1.02"])
def test_the_schema_knows_no_other_versions_than_those_until_its_own(version: str, manifest: dict[str, Any]) -> None:
    assert not _validator().is_valid(manifest | {"format_version": version})


# Newer minor versions, as the command line says it.


@pytest.fixture
def newer(bundle: Bundle, tmp_path: Path) -> Path:
    """The bundle with what a newer minor version could have added, in both of its JSON files."""
    path = tmp_path / "newer.edgevlm"
    shutil.copytree(bundle.path, path)
    fixtures = json.loads((path / golden.GOLDEN).read_text(encoding="utf-8"))
    fixtures["pictures"][0]["depth"] = 8
    (path / golden.GOLDEN).write_text(json.dumps(fixtures), encoding="utf-8")
    seal(path, bundle.manifest)
    written = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    written |= {"format_version": "1.9", "signature": "x"}
    (path / "manifest.json").write_text(json.dumps(written), encoding="utf-8")
    trust(Bundle.open(path))  # a process of its own takes seconds, and says the same
    return path


@pytest.mark.parametrize("command", ["inspect", pytest.param("verify", marks=pytest.mark.slow), "run"])
def test_commands_say_once_what_they_ignore_and_answer_as_ever(
    command: str, newer: Path, bundle: Bundle, tmp_path: Path
) -> None:
    pictures.scene(40, 60).save(tmp_path / "picture.png")
    more = [str(tmp_path / "picture.png")] if command == "run" else []
    done = CliRunner().invoke(main, [command, str(newer), *more, "--json"])
    assert done.exit_code == 0
    assert [line for line in done.stderr.splitlines() if line.startswith("note: ")] == [
        f"note: {newer} is in format 1.9, this edgevlm knows {FORMAT_VERSION}: what the newer format added is ignored "
        "(signature). To have it read, update edgevlm."
    ]
    plain = CliRunner().invoke(main, [command, str(bundle.path), *more, "--json"])
    assert "note: " not in plain.stderr
    of_newer, of_plain = json.loads(done.stdout), json.loads(plain.stdout)
    if command == "verify":
        assert of_newer.pop("digest") != of_plain.pop("digest")
    for answer in (of_newer, of_plain):
        answer.pop("bundle", None)
        if command == "inspect":
            assert answer["manifest"].pop("format_version") in ("1.9", FORMAT_VERSION)
            answer["manifest"].pop("files")  # golden.json has another size
    assert of_newer == of_plain


@pytest.mark.parametrize(
    ("version", "hint"),
    [
        (3, "update edgevlm, or convert the model again with this one"),
        (0, "convert the model again"),
        ("1", "convert the model again"),
        (1.0, "convert the model again"),
        (True, "convert the model again"),
        (None, "convert the model again"),
    ],
)
def test_another_version_of_golden_json_is_refused(version: object, hint: str) -> None:
    data = {"schema_version": version, "pictures": [], "texts": [], "scores": [], "sample_texts": []}
    with pytest.raises(BundleError, match=f"expected schema_version 2, got {re.escape(repr(version))}") as found:
        golden.read_golden(data, where="golden.json", newer=True)
    assert found.value.hint == hint


def test_unknown_keys_of_golden_json_are_those_of_a_newer_bundle_or_refused() -> None:
    data = {"schema_version": 2, "pictures": [], "texts": [], "scores": [], "sample_texts": [], "more": 1}
    assert golden.read_golden(data, where="golden.json", newer=True).pictures == ()
    with pytest.raises(BundleError, match="unknown key 'more'"):
        golden.read_golden(data, where="golden.json", newer=False)


def test_golden_json_of_an_older_bundle_is_read_as_the_page_says() -> None:
    picture = {"file": "a.png", "pixels": "a.rgb", "what": "small", "embedding": [1.0, 0.0], "scores": None}
    text = {"text": "a", "token_ids": [1, 0], "embedding": [0.0, 1.0]}
    data = {"schema_version": 1, "pictures": [picture], "texts": [text], "scores": [[1.0]], "sample_texts": []}
    found = golden.read_golden(data, where="golden.json", newer=False)
    assert found.pictures[0].answers == {"encode_image": {"embedding": (1.0, 0.0)}}
    assert found.texts[0].answers == {"encode_text": {"embedding": (0.0, 1.0)}}
    lacking = {key: value for key, value in picture.items() if key != "embedding"}
    for damaged in ({"pictures": [3]}, {"texts": None}, {"pictures": [lacking]}):
        with pytest.raises(BundleError, match=r"golden\.json"):
            golden.read_golden(data | damaged, where="golden.json", newer=False)


# Pictures.

SIZES = [(37, 53, 16, 16), (53, 37, 16, 16), (9, 14, 30, 41), (120, 31, 11, 64), (31, 120, 64, 11), (90, 40, 20, 30)]
SIZES += [(1, 1, 7, 5), (7, 5, 1, 1), (24, 24, 24, 10), (24, 24, 10, 24), (300, 2, 3, 2), (64, 99, 63, 98)]


def _hard(height: int, width: int) -> NDArray[np.uint8]:
    """Noise of 0 and 255 alone: nothing makes filters overshoot more."""
    noise = np.random.default_rng(height * 1_000 + width).integers(0, 2, (height, width, 3))
    return (noise * 255).astype(np.uint8)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("resample", get_args(Resample))
def test_the_pages_formulas_give_pillows_bytes(resample: Resample, size: tuple[int, int, int, int]) -> None:
    *source, height, width = size
    for image in (Image.fromarray(_hard(*source)), pictures.scene(*source)):
        expected = resampling.resize(np.asarray(image), height, width, resample)
        pillows = image.resize((width, height), Image.Resampling[resample.upper()])
        np.testing.assert_array_equal(expected, np.asarray(pillows))
        spec = ImagePreprocessing(
            height, width, "exact", height, width, resample, False, 1 / 255, (0.5,) * 3, (0.5,) * 3
        )
        np.testing.assert_array_equal(expected, resize_and_crop(image, spec))


def test_the_order_of_passes_is_seen_in_the_pixels() -> None:
    """Or no test would notice another one."""
    hard = _hard(90, 40)
    assert resampling.columns_first(90, 40, 20, 30)
    columns_first = resampling.resize(hard, 20, 30, "lanczos")
    rows_first = resampling.resize(resampling.resize(hard, 90, 30, "lanczos"), 20, 30, "lanczos")
    assert np.abs(columns_first.astype(int) - rows_first).max() > 10


def test_the_passes_are_in_the_formats_order_whatever_pillow_prefers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow until 12 has rows first in every picture."""
    asked = Image.Image.resize

    def rows_first(image: Image.Image, size: tuple[int, int], resample: Any) -> Image.Image:
        return asked(asked(image, (size[0], image.height), resample), size, resample)

    monkeypatch.setattr(Image.Image, "resize", rows_first)
    spec = ImagePreprocessing(20, 30, "exact", 20, 30, "lanczos", False, 1 / 255, (0.5,) * 3, (0.5,) * 3)
    got = resize_and_crop(Image.fromarray(_hard(90, 40)), spec)
    np.testing.assert_array_equal(got, resampling.resize(_hard(90, 40), 20, 30, "lanczos"))


def _by_the_page(image: Image.Image, spec: ImagePreprocessing) -> NDArray[np.uint8]:
    """Resize and crop, as the page says it."""
    pixels = np.asarray(image)
    h, w = pixels.shape[:2]
    height, width = {
        "none": (h, w),
        "exact": (spec.resize_height, spec.resize_width),
        "shortest_edge": (spec.resize_height * h // w, spec.resize_height)
        if w <= h
        else (spec.resize_height, spec.resize_height * w // h),
    }[spec.resize]
    pixels = resampling.resize(pixels, height, width, spec.resample)
    if not spec.centre_crop:
        return pixels
    out = np.zeros((spec.height, spec.width, 3), np.uint8)
    for y in range(spec.height):
        for x in range(spec.width):
            row, column = (_source(*side) for side in ((height, spec.height, y), (width, spec.width, x)))
            if row is not None and column is not None:
                out[y, x] = pixels[row, column]
    return out


def _source(n: int, m: int, position: int) -> int | None:
    """Which of `n` positions stands at one of `m` after cropping; None where black does."""
    found = position + (n - m) // 2 if n >= m else position - math.ceil((m - n) / 2)
    return found if 0 <= found < n else None


@pytest.mark.parametrize("size", [(5, 7), (7, 5), (31, 64), (64, 31), (20, 20)], ids=str)
@pytest.mark.parametrize("crop", [(16, 16), (15, 18), (33, 40)], ids=str)
@pytest.mark.parametrize("resize", ["shortest_edge", "exact", "none"])
def test_resize_and_crop_are_the_pages(resize: ResizeRule, crop: tuple[int, int], size: tuple[int, int]) -> None:
    side = 0 if resize == "none" else 18
    spec = ImagePreprocessing(*crop, resize, side, side, "bicubic", True, 1 / 255, (0.5,) * 3, (0.5,) * 3)
    np.testing.assert_array_equal(
        resize_and_crop(pictures.scene(*size), spec), _by_the_page(pictures.scene(*size), spec)
    )


def test_transparency_is_composed_by_the_pages_formula() -> None:
    """Every colour with every alpha."""
    alpha, colour = np.mgrid[0:256, 0:256]
    rgba = np.stack([colour, colour, colour, alpha], -1).astype(np.uint8)
    expected = (2 * (colour * alpha + 255 * (255 - alpha)) + 255) // (2 * 255)  # rounded to the nearest
    got = np.asarray(decode(Image.fromarray(rgba)))
    np.testing.assert_array_equal(got, np.repeat(expected[..., None], 3, -1))


def test_golden_pictures_are_what_the_page_makes_of_them(bundle: Bundle) -> None:
    spec = bundle.manifest.image
    fixtures = golden.read_golden(
        json.loads((bundle.path / golden.GOLDEN).read_text(encoding="utf-8")), where="golden.json", newer=False
    )
    for picture in fixtures.pictures:
        stored = np.frombuffer((bundle.path / picture.pixels).read_bytes(), np.uint8)
        expected = _by_the_page(decode(bundle.path / picture.file), spec)
        np.testing.assert_array_equal(stored.reshape(spec.height, spec.width, 3), expected)


def test_a_picture_turned_the_wrong_way_is_off_by_more_than_15_levels() -> None:
    image, _ = golden_pictures()["turned.jpg"]
    spec = ImagePreprocessing(64, 64, "exact", 64, 64, "bicubic", False, 1 / 255, (0.5,) * 3, (0.5,) * 3)
    right = preprocess(image, spec)
    for orientation in (1, 2, 3, 4, 5, 7, 8):
        wrong = image.copy()
        wrong.getexif()[0x0112] = orientation
        difference = float(np.abs(preprocess(wrong, spec) - right).mean())
        assert difference > 15, (orientation, difference)


# Texts.

_ONE_LETTER_A_TOKEN = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")


def _canonical(text: str, spec: TextPreprocessing) -> str:
    """What the tokenizer is given: every code point is one token here."""
    letters = {chr(code): code for code in range(0x3001)} | {"?": 0xFFFF}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(letters, "?"))
    tokenizer.pre_tokenizer = _ONE_LETTER_A_TOKEN
    ids = Tokenizer.from_bytes(spec, tokenizer.to_str().encode()).encode([text])[0]
    return "".join(chr(each) for each in ids if each != spec.pad_id)


CANONICAL = [
    ("none", False, "  A_b\t", "  A_b\t"),
    ("none", True, "ΟΔΟΣ İ", "οδοσ i\u0307"),
    ("siglip", True, "ΟΔΟΣ İ", "οδος i\u0307"),
    ("siglip", False, "▁A,  b▁c\u2003\u2028d! ", "A b c d"),
    ("siglip", True, "A-B\x1cC\u3000", "ab c"),
]


@pytest.mark.parametrize(("rule", "lower_case", "text", "expected"), CANONICAL)
def test_canonicalisation_is_the_pages(rule: TextCanonicalisation, lower_case: bool, text: str, expected: str) -> None:
    spec = TextPreprocessing(32, 0xFFFE, None, rule, lower_case, "tokenizer.json")
    assert _canonical(text, spec) == expected


def test_white_space_and_punctuation_are_the_pages() -> None:
    (listed,) = re.findall(r"White space is (.*?)\.\n", TEXT, re.DOTALL)
    spaces: set[str] = set()
    for first, last in re.findall(r"U\+([0-9A-F]{4})(?: to U\+([0-9A-F]{4}))?", listed.replace("\n", " ")):
        spaces |= {chr(code) for code in range(int(first, 16), int(last or first, 16) + 1)}
    assert spaces == {letter for code in range(0x110000) if re.fullmatch(r"\s", letter := chr(code))}
    assert f"``{string.punctuation}``" in TEXT
    spec = TextPreprocessing(64, 0xFFFE, None, "siglip", False, "tokenizer.json")
    assert _canonical(f"a{string.punctuation}b", spec) == "ab"
    assert _canonical(f"a{''.join(sorted(spaces))}b", spec) == "a b"


# The artefact, scores, golden values.


def test_components_take_and_return_what_the_page_says(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert manifest.text is not None
    pixels = ("pixels", "float32", (1, 3, manifest.image.height, manifest.image.width))
    embedding = ("embedding", "float32", (1, manifest.embedding.dim))
    expected = {
        "encode_image": (pixels, embedding),
        "encode_text": (("token_ids", "int32", (1, manifest.text.context_length)), embedding),
        "classify": (pixels, *((name, "float32", (1, len(LABELS))) for name in ("scores", "logits"))),
    }
    found = {
        name: tuple((tensor.name, tensor.dtype, tensor.shape) for tensor in (*each.spec.inputs, *each.spec.outputs))
        for name, each in bundle.components.items()
    }
    assert found == expected
    assert manifest.text.tokenizer_file in manifest.files


def test_golden_files_have_the_pages_shapes(bundle: Bundle) -> None:
    dim = bundle.manifest.embedding.dim
    tensors = load_file(bundle.path / golden.REFERENCE)
    assert {name: (str(each.dtype), each.shape) for name, each in tensors.items()} == {
        "encode_image.embedding": ("float32", (200, dim)),
        "encode_text.embedding": ("float32", (50, dim)),
        "classify.scores": ("float32", (200, len(LABELS))),
        "classify.logits": ("float32", (200, len(LABELS))),
    }
    with Image.open(bundle.path / golden.SAMPLE_SHEET) as sheet:
        assert (sheet.size, sheet.mode) == ((1280, 640), "RGB")
        first = np.asarray(sheet)[64:128, 3 * 64 : 4 * 64]
    with edgevlm.open(bundle.path) as model:
        error = np.abs(model.encode_image([first]) - tensors["encode_image.embedding"][20 + 3]).max()
    assert error <= bundle.manifest.recipe.parity.max_abs_error


def test_golden_values_are_within_the_pages_tolerances(bundle: Bundle) -> None:
    fixtures = golden.read_golden(
        json.loads((bundle.path / golden.GOLDEN).read_text(encoding="utf-8")), where="golden.json", newer=False
    )
    limit, scale = bundle.manifest.recipe.parity.max_abs_error, bundle.manifest.embedding.logit_scale
    images, texts = (
        np.array([each.answers[component]["embedding"] for each in several], np.float32)
        for component, several in (("encode_image", fixtures.pictures), ("encode_text", fixtures.texts))
    )
    with edgevlm.open(bundle.path) as model:
        files = [bundle.path / picture.file for picture in fixtures.pictures]
        assert np.abs(model.encode_image(files) - images).max() <= limit
        assert np.abs(model.encode_text([text.text for text in fixtures.texts]) - texts).max() <= limit
        scores = np.array([picture.answers["classify"]["scores"] for picture in fixtures.pictures])
        assert np.abs(model.classify(files) - scores).max() <= max(1, scale / 2) * limit
        assert model.tokenizer is not None
        ids = model.tokenizer.encode([text.text for text in fixtures.texts])
    np.testing.assert_array_equal(ids, np.array([text.token_ids for text in fixtures.texts]))
    own = np.array([[math.exp(scale * float(np.dot(a, b))) for b in texts.astype(float)] for a in images.astype(float)])
    own /= own.sum(1, keepdims=True)
    assert np.abs(own - np.array(fixtures.scores)).max() <= 1e-6 * max(1, scale)
    assert np.abs(label_scores(images, texts, scale) - own).max() <= 1e-6 * max(1, scale)


def test_a_manifest_written_again_is_the_same(bundle: Bundle) -> None:
    written = json.loads((bundle.path / "manifest.json").read_text(encoding="utf-8"))
    assert schema.write(bundle.manifest) == written
    assert list(written) == [field.name for field in json_schema.fields(Manifest) if field.since != "2.0"]
    assert Bundle.open(bundle.path).manifest == bundle.manifest
