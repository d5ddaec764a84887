"""Calibration data: which pictures and texts are taken, and what is refused before the long work."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import library
import numpy as np
import pytest
from click.testing import CliRunner
from pictures import scene

from edgevlm.bundle.recipe import BUILTIN, Calibration
from edgevlm.cli import main
from edgevlm.compression.calibration import CalibrationData, CalibrationSource, calibration_inputs
from edgevlm.conversion.pipeline import Request, convert
from edgevlm.conversion.prepared import Prepared
from edgevlm.errors import DataError, RecipeError
from edgevlm.models import catalogue
from edgevlm.process.progress import silent

SIXTEEN = Calibration(samples=16)


def loose(folder: Path, count: int) -> Path:
    """A folder of pictures that have neither classes nor captions."""
    folder.mkdir(parents=True)
    for index in range(count):
        scene(20, 24, seed=index).save(folder / f"{index:02}.png")
    return folder


def classes(folder: Path, **counts: int) -> Path:
    """A folder a class."""
    for name, count in counts.items():
        loose(folder / name, count)
    return folder


def captions(folder: Path, count: int) -> Path:
    """COCO captions, the pictures beside them."""
    loose(folder, count)
    path = folder / "captions.json"
    images = [{"id": index, "file_name": f"{index:02}.png"} for index in range(count)]
    notes = [{"image_id": index, "id": index, "caption": f"scene number {index:02}"} for index in range(count)]
    path.write_text(json.dumps({"images": images, "annotations": notes}))
    return path


def write_texts(path: Path, count: int) -> Path:
    path.write_text("\n\n".join(f" text {index} " for index in range(count)) + "\ntext 0\n")
    return path


def test_loose_pictures_are_taken_without_texts(tmp_path: Path) -> None:
    data = CalibrationData(CalibrationSource(str(loose(tmp_path / "p", 20))), SIXTEEN)
    assert (len(data.pictures), data.texts) == (16, ())
    data.check({"encode_image": library.layers()["clip_image"]})
    with pytest.raises(DataError, match="neither captions nor labels") as caught:
        data.check({"encode_text": library.layers()["clip_text"]})
    assert "--calibration-texts" in str(caught.value.hint)


def test_what_is_passed_over_is_named_and_a_mark_at_the_start_of_texts_is_none_of_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = loose(tmp_path / "p", 16)
    (folder / "00.png").rename(folder / "00.JFIF")
    (folder / "._00.png").write_bytes(b"what macOS leaves")
    texts = tmp_path / "t.txt"
    texts.write_text("\ufeff" + "\n".join(f"text {index}" for index in range(16)), encoding="utf-8")
    data = CalibrationData(CalibrationSource(str(folder), texts), SIXTEEN)
    assert data.pictures.example(0).key == "00.JFIF"
    assert set(data.texts) == {f"text {index}" for index in range(16)}
    assert "passed over 1 left by the system (._00.png)" in caplog.text


def test_classes_give_their_labels_as_texts_in_several_sentences(tmp_path: Path) -> None:
    data = CalibrationData(CalibrationSource(str(classes(tmp_path / "c", cat=12, dog=12))), SIXTEEN)
    assert len(data.pictures) == 16
    assert len(set(data.texts)) == 16
    assert {"cat", "dog", "a photo of a cat"} <= set(data.texts)


def test_captions_are_the_texts(tmp_path: Path) -> None:
    data = CalibrationData(CalibrationSource(str(captions(tmp_path / "coco", 24))), SIXTEEN)
    keys = [Path(data.pictures.example(index).key).stem for index in range(16)]
    assert data.texts == tuple(f"scene number {key}" for key in keys)


def test_a_file_of_texts_goes_before_the_datas_own(tmp_path: Path) -> None:
    texts = write_texts(tmp_path / "t.txt", 30)
    data = CalibrationData(CalibrationSource(str(classes(tmp_path / "c", cat=12, dog=12)), texts), SIXTEEN)
    assert len(set(data.texts)) == 16
    assert set(data.texts) <= {f"text {index}" for index in range(30)}
    assert data.record.texts == str(texts)


def test_the_seed_decides_and_is_recorded(tmp_path: Path) -> None:
    source = CalibrationSource(str(classes(tmp_path / "c", cat=20, dog=20)), write_texts(tmp_path / "t.txt", 40))
    first, again, other = (CalibrationData(source, Calibration(16, seed)) for seed in (5, 5, 6))
    assert first.record == again.record
    assert first.texts == again.texts
    assert first.record.seed == 5
    assert (first.record.samples, first.record.data) == (16, source.data)
    assert first.fingerprint != other.fingerprint
    assert first.texts != other.texts


BAD: dict[str, tuple[Callable[[Path], CalibrationSource], str]] = {
    "too few to ask for": (lambda p: CalibrationSource(str(loose(p / "p", 9))), r"expected 16 pictures .* got 9"),
    "one class": (
        lambda p: CalibrationSource(str(classes(p / "c", cat=20))),
        "expected pictures of several classes to calibrate with, all are of 'cat'",
    ),
    "too few texts": (
        lambda p: CalibrationSource(str(loose(p / "p", 20)), write_texts(p / "t.txt", 3)),
        r"t\.txt: expected 16 texts to calibrate with, got 3",
    ),
    "no such texts": (lambda p: CalibrationSource(str(loose(p / "p", 20)), p / "gone.txt"), r"gone\.txt: cannot be"),
    "no such data": (lambda p: CalibrationSource(str(p / "gone")), "gone"),
}


@pytest.mark.parametrize("kind", BAD)
def test_data_that_says_nothing_is_refused(kind: str, tmp_path: Path) -> None:
    make, message = BAD[kind]
    with pytest.raises(DataError, match=message):
        CalibrationData(make(tmp_path), SIXTEEN)


def test_too_few_for_the_recipe_says_how_to_ask_for_fewer(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected 128 pictures to calibrate with, got 20") as caught:
        CalibrationData(CalibrationSource(str(loose(tmp_path / "p", 20))), Calibration())
    assert "calibration: {samples: 20}" in str(caught.value.hint)


def test_inputs_are_prepared_as_the_model_prepares_them(tmp_path: Path) -> None:
    model = catalogue.load(library.checkpoint("clip"))
    data = CalibrationData(CalibrationSource(str(classes(tmp_path / "c", cat=12, dog=12))), SIXTEEN)
    inputs = calibration_inputs(model.programs, data.rows(model.programs, model, silent))
    for name, program in model.programs.items():
        assert len(inputs[name]) == 16
        for each in inputs[name]:
            assert (each.shape, each.dtype) == (program.example[0].shape, program.example[0].dtype)
    assert 0 <= inputs["encode_image"][0].min() < inputs["encode_image"][0].max() <= 255


def test_a_recipe_that_measures_ranges_wants_data_before_the_model_is_looked_for(tmp_path: Path) -> None:
    arguments = ["convert", str(tmp_path / "no-model"), "--target", "tflite", "--recipe", "int8-static"]
    result = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "dist")])
    assert result.exit_code == 2
    assert "int8-static measures ranges, and there is no calibration data" in result.stderr
    assert "--calibration DATA" in result.stderr
    assert not (tmp_path / "dist").exists()


def test_bad_data_is_refused_before_the_model_is_looked_for(tmp_path: Path) -> None:
    request = Request(tmp_path / "no-model", ("tflite",), BUILTIN["int8-static"], tmp_path / "dist")
    few = replace(request, calibration=CalibrationSource(str(loose(tmp_path / "p", 5))))
    with pytest.raises(DataError, match="got 5"):
        convert(few)
    with pytest.raises(RecipeError, match="no calibration data"):
        convert(request)


@pytest.mark.parametrize("option", ["--calibration-texts", "--images"])
def test_options_that_go_with_calibration_are_refused_alone(option: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["convert", "--target", "tflite", option, str(tmp_path)])
    assert result.exit_code == 2
    assert f"{option} needs --calibration" in result.stderr


def test_help_imports_no_nncf() -> None:
    code = (
        "import sys; from edgevlm.commands import convert; assert not {'nncf', 'torch', 'torchao'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_what_float16_is_audited_on_is_calibration_data_where_there_is_any(tmp_path: Path) -> None:
    model = catalogue.load(library.checkpoint("clip"))
    data = CalibrationData(CalibrationSource(str(loose(tmp_path / "p", 16))), SIXTEEN)
    without, given = (Prepared(model, each, wanted=None, image_only=False) for each in (None, data))
    rows = given.audit_rows(silent)
    np.testing.assert_array_equal(rows["pixels"], data.rows(model.programs, model, silent)["pixels"])
    assert not np.array_equal(rows["pixels"][0], without.audit_rows(silent)["pixels"][0])
    np.testing.assert_array_equal(rows["token_ids"], without.samples["token_ids"])  # the data has no texts


@pytest.mark.slow
def test_data_for_the_audit_alone_leaves_the_embeddings_as_they_are(tmp_path: Path) -> None:
    request = Request(library.checkpoint("clip"), ("coreml",), BUILTIN["fp16"], tmp_path, image_only=True)
    recipe = replace(BUILTIN["fp16"], calibration=SIXTEEN)
    audited = replace(
        request, recipe=recipe, calibration=CalibrationSource(str(loose(tmp_path / "p", 16))), name="audited"
    )
    manifests = [outcome.bundle.manifest for each in (request, audited) for outcome in convert(each) if outcome.bundle]
    assert len({manifest.embedding.space_id for manifest in manifests}) == 1
    assert [manifest.calibration for manifest in manifests] == [None, None]
