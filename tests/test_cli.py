from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import library
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image, ImageDraw
from safetensors.numpy import load_file, save_file

from edgevlm import schema
from edgevlm.bundle.bundle import Bundle, seal
from edgevlm.bundle.golden import GOLDEN, REFERENCE
from edgevlm.bundle.manifest import CalibrationRecord, Manifest, ParityCheck, ParityReport
from edgevlm.bundle.recipe import BUILTIN
from edgevlm.bundle.trust import trust
from edgevlm.cli import main
from edgevlm.commands import showing
from edgevlm.conversion.pipeline import Outcome
from edgevlm.errors import BundleError
from edgevlm.inference.embeddings import CENTRED_COSINE
from edgevlm.inputs.texts import Tokenizer
from edgevlm.parity import golden
from edgevlm.targets.converter import OpRange

LABELS = "a red circle, a blue square, a green triangle, a yellow star"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def bundle() -> Path:
    return library.student("coreml", "fp16").path


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of unknown origin is asked in a process of its own, which starts soonest where it needs no torch."""
    bundle = library.student("tflite", "int8").path
    return shutil.copytree(bundle, tmp_path_factory.mktemp("copied") / bundle.name)


def test_convert_says_where_the_bundle_is(bundle: Path, tmp_path: Path) -> None:
    result = run("convert", "--target", "coreml", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert f"coreml: {tmp_path / bundle.name}" in result.stdout.splitlines()
    assert (tmp_path / bundle.name / "manifest.json").read_bytes() == (bundle / "manifest.json").read_bytes()


def test_convert_tells_programs_of_every_check(bundle: Path, tmp_path: Path) -> None:
    result = run("convert", "--target", "coreml", "--out", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    (outcome,) = json.loads(result.stdout)["outcomes"]
    made = Bundle.open(bundle)
    assert (outcome["status"], outcome["cached"], outcome["error"], outcome["at_risk"]) == ("passed", True, None, None)
    assert outcome["bundle"] == str(tmp_path / bundle.name)
    assert (outcome["size_bytes"], outcome["artefact_bytes"]) == (made.size_bytes, made.artefact_bytes)
    assert outcome["parity"] == schema.write(made.manifest.parity)


def test_what_a_target_cannot_hold_is_said_with_what_to_do(tmp_path: Path) -> None:
    arguments = ("convert", "--target", "tflite", "--recipe", "palette-6", "--out", tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2
    assert "tflite: tflite cannot hold this: " in result.stderr
    assert "\n  try: " in result.stderr
    (outcome,) = json.loads(run(*arguments, "--json").stdout)["outcomes"]
    assert (outcome["status"], outcome["bundle"], outcome["parity"]) == ("failed", None, None)
    assert outcome["error"]["message"] in result.stderr
    assert not list(tmp_path.glob("*.edgevlm"))


@pytest.mark.parametrize(
    ("recipe", "calibrated", "way_out"),
    [
        ("fp16", False, "--recipe fp32, or edgevlm audit"),
        ("int8", False, "edgevlm tune, which finds the smallest recipe"),
        ("palette-6", False, "edgevlm tune, which finds the smallest recipe"),
        ("int8-static", True, "--calibration-texts FILE"),
        ("prune-50", False, "--recipe recovery --compress prune-50 --out OUT"),
    ],
)
def test_a_bundle_that_failed_parity_is_shown_with_the_way_out(
    recipe: str, calibrated: bool, way_out: str, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    passed = Bundle.open(bundle)
    checks = (
        ParityCheck("encode_image", "min_cosine", 0.5, 0.9, False),
        ParityCheck("encode_text", "min_cosine", 0.95, 0.9, True),
    )
    record = CalibrationRecord("photos/", None, 128, 0, "0" * 64) if calibrated else None
    report = ParityReport("host-runtime", 200, checks)
    manifest = replace(passed.manifest, recipe=BUILTIN[recipe], calibration=record, parity=report)
    ops = [
        OpRange(f"encode_image/{place}", "linear", "fp16", peak, 1e-4, 8.0, 0.0, None, "near", ())
        for place, peak in (("stem", 20_000.0), ("head", 40_000.0))
    ]
    outcome = Outcome("coreml", "failed parity", Bundle(bundle, manifest), None, 1.0, at_risk=tuple(ops), notes=("a",))
    showing.outcomes([outcome, replace(outcome, at_risk=None)])
    said = capsys.readouterr()
    assert "encode_image: min_cosine 0.5, allowed 0.9" in said.out
    assert "encode_text" not in said.out
    assert f"coreml: {bundle}\n" in said.out
    assert said.err.count("note: a\n") == 1
    near = "2 ops come close to float16's limits, such as encode_image/head (linear, up to 4e+04)"
    assert said.err.count(near) == 1
    assert said.err.count("  try: ") == said.err.count(f"  try: {way_out}" if calibrated else way_out) == 2
    told = showing.outcome_json(outcome)
    assert [(op["place"], round(op["headroom"], 2)) for op in told["at_risk"]] == [
        ("encode_image/stem", 3.28),
        ("encode_image/head", 1.64),
    ]
    assert [check["passed"] for check in told["parity"]["checks"]] == [False, True]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pictures as a newcomer would draw them, by the label that is right."""
    folder = tmp_path_factory.mktemp("pictures")
    drawn = {}
    for name, colour, outline in (
        ("a red circle", (220, 20, 20), [(60, 40), (180, 160)]),
        ("a blue square", (20, 40, 230), [(70, 50), (170, 150)]),
    ):
        picture = Image.new("RGB", (240, 200), "white")
        pen = ImageDraw.Draw(picture)
        (pen.ellipse if "circle" in name else pen.rectangle)(outline, fill=colour)
        drawn[name] = folder / f"{name}.png"
        picture.save(drawn[name])
    picture = Image.new("RGB", (200, 200), (240, 240, 240))
    ImageDraw.Draw(picture).polygon([(100, 40), (160, 150), (40, 150)], fill=(20, 160, 40))
    drawn["a green triangle"] = folder / "triangle.jpg"
    picture.save(drawn["a green triangle"])
    return drawn


def test_run_answers_rightly_about_pictures_a_user_draws(bundle: Path, pictures: dict[str, Path]) -> None:
    result = run("run", bundle, *pictures.values(), "--labels", LABELS, "--json")
    assert result.exit_code == 0, result.output
    answers = json.loads(result.stdout)["answers"]
    best = {Path(a["image"]): max(a["scores"], key=a["scores"].get) for a in answers}
    assert best == {path: name for name, path in pictures.items()}
    assert all(sum(a["scores"].values()) == pytest.approx(1, abs=1e-4) for a in answers)


def test_run_prints_a_bar_for_each_label(bundle: Path, pictures: dict[str, Path]) -> None:
    result = run("run", bundle, pictures["a red circle"], "--labels", LABELS, "--top", "2")
    lines = result.stdout.splitlines()
    assert lines[0].endswith("a red circle.png")
    assert len(lines) == 3
    assert lines[1].lstrip().startswith("█")
    assert lines[1].endswith("a red circle")


def test_run_ranks_pictures_by_a_text(bundle: Path, pictures: dict[str, Path]) -> None:
    result = run("run", bundle, *pictures.values(), "--text", "a blue square", "--json")
    ranked = json.loads(result.stdout)["images"]
    assert ranked[0]["image"] == str(pictures["a blue square"])
    assert [r["cosine"] for r in ranked] == sorted((r["cosine"] for r in ranked), reverse=True)


@pytest.fixture
def album(pictures: dict[str, Path], tmp_path: Path) -> Path:
    """A folder with two pictures, one of them further down, one that cannot be read, and what is none."""
    folder = tmp_path / "album"
    (folder / "more").mkdir(parents=True)
    (folder / "1.PNG").write_bytes(pictures["a red circle"].read_bytes())
    (folder / "more" / "[red]2.jfif").write_bytes(pictures["a green triangle"].read_bytes())
    (folder / "cut.png").write_bytes(pictures["a red circle"].read_bytes()[:200])
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_run_answers_past_a_bad_picture_and_names_it_at_the_end(bundle: Path, album: Path) -> None:
    result = run("run", bundle, album, "gone.png", "--labels", LABELS)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    lines = result.stdout.splitlines()
    assert (lines[0], lines[5]) == (str(album / "1.PNG"), str(album / "more" / "[red]2.jfif"))
    assert (lines[1].split("  ")[-1], lines[6].split("  ")[-1]) == ("a red circle", "a green triangle")
    assert "2 of 4 pictures cannot be read; the others are answered" in result.stderr
    assert f"{album / 'cut.png'}: damaged, truncated or closed" in result.stderr
    assert "gone.png: no such file" in result.stderr


@pytest.mark.parametrize("question", [("--labels", LABELS), ("--text", "a red circle")])
def test_runs_json_has_the_bad_pictures_and_what_was_passed_over(
    bundle: Path, album: Path, question: tuple[str, str]
) -> None:
    result = run("run", bundle, album, *question, "--json")
    assert result.exit_code == 2
    found = json.loads(result.stdout)
    images = found["answers" if question[0] == "--labels" else "images"]
    assert {Path(each["image"]).name for each in images} == {"1.PNG", "[red]2.jfif"}
    assert [Path(each["image"]).name for each in found["unreadable"]] == ["cut.png"]
    (passed,) = found["passed_over"]
    assert (passed["folder"], passed["count"], passed["such_as"]) == (str(album), 1, ["notes.txt"])


def test_runs_table_shows_names_as_they_are(bundle: Path, album: Path) -> None:
    assert "[red]2.jfif" in run("run", bundle, album, "--text", "a [red] circle").stdout


def test_run_takes_a_label_file(bundle: Path, pictures: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a red circle\na blue square\n")
    result = run("run", bundle, pictures["a blue square"], "--labels", tmp_path / "labels.txt")
    assert result.stdout.splitlines()[1].endswith("a blue square")


def test_run_says_where_no_label_fits_and_takes_sentences_about_labels(
    bundle: Path, pictures: dict[str, Path], tmp_path: Path
) -> None:
    picture = pictures["a red circle"]
    assert "none of the labels fits" in run("run", bundle, picture, "--labels", LABELS, "--threshold", 0.99).stdout
    written = {"first": {"descriptions": ["a blue square"]}, "second": {"descriptions": ["a red circle", "red"]}}
    (tmp_path / "d.json").write_text(json.dumps({"schema_version": 1, "labels": written}))
    asked = ("run", bundle, picture, "--labels", "first, second", "--descriptions", tmp_path / "d.json")
    assert run(*asked).stdout.splitlines()[1].endswith("second")


def test_export_says_what_it_leaves_out(bundle: Path, tmp_path: Path) -> None:
    result = run("export", bundle, "--for-app", tmp_path)
    made = Bundle.open(tmp_path / bundle.name)
    assert result.stdout.splitlines()[1:] == [f"digest {made.digest}"]
    assert f"{made.size_bytes / 1e6:.2f} MB in {len(made.manifest.files)} files" in result.stdout
    left_out = len(Bundle.open(bundle).manifest.files) - len(made.manifest.files)
    assert f"left out: {left_out} files of" in result.stderr


def test_verify_passes_and_says_how(bundle: Path, copied: Path) -> None:
    shown = run("verify", bundle).stdout
    assert "files are what the manifest says" in shown
    assert CENTRED_COSINE in " ".join(shown.split())
    assert "program-semantics" in shown or "device" in shown
    report = json.loads(run("verify", copied, "--json").stdout)
    assert report["passed"]
    assert report["parity"]["evidence"] == "host-runtime"


def test_verify_fails_where_one_answer_of_many_is_another(tmp_path: Path) -> None:
    made = library.student("tflite", "int8")
    copy = shutil.copytree(made.path, tmp_path / made.path.name)
    answers = load_file(copy / REFERENCE)
    answers["encode_image.embedding"][-1] *= -1
    save_file(answers, copy / REFERENCE)
    trust(seal(copy, made.manifest))
    result = run("verify", copy)
    assert result.exit_code == 1, result.output
    failed = [row for row in map(str.split, result.stdout.splitlines()) if row[-1:] == ["failed"]]
    (cosine,) = [float(row[2]) for row in failed if row[1] == "min_cosine"]
    assert -1 <= cosine < -0.9
    assert {row[0] for row in failed} == {"encode_image"}
    proofs = made.manifest.weights
    assert proofs
    for proof in proofs:
        count = f"{proof.decided} of {proof.decided}"
        assert f"{proof.component}: {count} integer weights are as NNCF decided" in result.stdout
        assert f"{count} weights as NNCF decided: {proof.decided} int8" in run("inspect", made.path).stdout
    assert "the same command with --blame" in result.stderr
    found = json.loads(run("verify", copy, "--json").stdout)
    assert not found["passed"]
    assert [each["identical"] for each in found["weights"]] == [proof.decided for proof in proofs]


@pytest.mark.parametrize("change", ["another name", "fewer rows", "other shape"])
def test_what_is_held_against_nothing_does_not_pass(change: str, copied: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(copied, tmp_path / copied.name)
    answers = load_file(copy / REFERENCE)
    name = "encode_image.embedding"
    rows = answers.pop(name)
    changed = {
        "another name": ("picture.vector", rows),
        "fewer rows": (name, rows[:0]),
        "other shape": (name, rows[:, :5]),
    }
    answers[changed[change][0]] = np.ascontiguousarray(changed[change][1])
    save_file(answers, copy / REFERENCE)
    seal(copy, Bundle.open(copied).manifest)
    result = run("verify", copy)
    assert result.exit_code == 2
    assert "encode_image.embedding: expected the float model's answers to 200 samples" in result.stderr


def _set(path: str, value: object) -> Callable[[Path], None]:
    """Edits a value of a JSON file: `manifest.json/image/height`, `golden/golden.json/scores/0/0`."""
    name, _, keys = path.partition(".json/")
    *parents, last = keys.split("/")

    def change(folder: Path) -> None:
        file = folder / f"{name}.json"
        data = json.loads(file.read_text(encoding="utf-8"))
        place = data
        for key in parents:
            place = place[int(key) if key.isdigit() else key]
        place[int(last) if last.isdigit() else last] = value
        file.write_text(json.dumps(data), encoding="utf-8")

    return change


def _overwrite(path: str, at: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = bytearray((folder / path).read_bytes())
        content[at] ^= 0x80
        (folder / path).write_bytes(content)

    return change


GOLDEN_JSON = "golden/golden.json/"
LIES = {
    "logit_scale": _set("manifest.json/logit_scale", 20.0),
    "resample": _set("manifest.json/image/resample", "nearest"),
    "resize": _set("manifest.json/image/resize", "exact"),
    "eot_id": _set("manifest.json/text/eot_id", 5),
    "pad_id": _set("manifest.json/text/pad_id", 5),
    "pixels": _overwrite("golden/grey.rgb", 100),
    "ids": _set(GOLDEN_JSON + "texts/0/token_ids/1", 7),
    "embedding of a picture": _set(GOLDEN_JSON + "pictures/0/answers/encode_image/embedding/0", 0.9),
    "embedding of a text": _set(GOLDEN_JSON + "texts/0/answers/encode_text/embedding/0", 0.9),
    "a shorter embedding": _set(GOLDEN_JSON + "texts/0/answers/encode_text/embedding", [1.0]),
    "no answers": _set(GOLDEN_JSON + "texts/0/answers", {}),
    "scores": _set(GOLDEN_JSON + "scores/0/0", 0.123),
    "no scores": _set(GOLDEN_JSON + "scores", []),
    "no answers of the file's own": _set(GOLDEN_JSON + "pictures/0/shipped", {}),
    "a shorter answer of the file's own": _set(GOLDEN_JSON + "texts/0/shipped/encode_text/embedding", [1.0]),
    "no tolerances": _set(GOLDEN_JSON + "tolerances", []),
    "a wider tolerance": _set(GOLDEN_JSON + "tolerances/1/limit", 200.0),
    "a tolerance beside the other answers": _set(GOLDEN_JSON + "tolerances/4/beside", "reference"),
    "answers of the file's own that a tolerance is not of": _set(
        GOLDEN_JSON + "texts/0/shipped/encode_text/embedding/0", 0.9
    ),
    "a picture elsewhere": _set(GOLDEN_JSON + "pictures/0/file", "../elsewhere.png"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_bundle_that_contradicts_itself_is_refused(lie: str, bundle: Path, tmp_path: Path) -> None:
    """Sealed again after the edit, so that every hash is right."""
    copy = shutil.copytree(bundle, tmp_path / bundle.name)
    LIES[lie](copy)
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    seal(copy, schema.read(Manifest, manifest, where="manifest.json", error=BundleError))
    opened = Bundle.open(copy)
    with pytest.raises(BundleError):
        stored, _, _ = golden.read(opened.path)
        golden.check(opened, stored, Tokenizer.of_bundle(opened))


def test_golden_answers_that_agree_with_each_other_but_not_with_the_artefact_are_refused(
    copied: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(copied, tmp_path / copied.name)
    data = json.loads((copy / GOLDEN).read_text(encoding="utf-8"))
    data["scores"].reverse()
    for side in ("answers", "shipped"):
        answers = [picture[side]["encode_image"] for picture in data["pictures"]]
        for answer, other in zip(answers, [dict(each) for each in reversed(answers)], strict=True):
            answer.update(other)
    (copy / GOLDEN).write_text(json.dumps(data), encoding="utf-8")
    seal(copy, Bundle.open(copied).manifest)
    result = run("verify", copy)
    assert result.exit_code == 2
    assert "golden.json: expected the artefact's answers, got others: encode_image: min_cosine is" in result.stderr


def test_a_digest_covers_every_byte(copied: Path, tmp_path: Path) -> None:
    published = json.loads(run("verify", copied, "--json").stdout)["digest"]
    assert published == f"sha256:{hashlib.sha256((copied / 'manifest.json').read_bytes()).hexdigest()}"
    assert published in run("inspect", copied).stdout
    assert run("verify", copied, "--digest", published.removeprefix("sha256:").upper()).exit_code == 0
    copy = shutil.copytree(copied, tmp_path / copied.name)
    _set("manifest.json/embedding_space_id", "sha256:0")(copy)
    result = run("verify", copy, "--digest", published)
    assert result.exit_code == 2
    assert f"expected the digest {published}, got sha256:" in result.stderr


def test_a_report_of_nothing_is_no_pass() -> None:
    assert not ParityReport("host-runtime", 0, ()).passed


@pytest.mark.parametrize("value", ["1" + "0" * 400, "NaN", "-Infinity", "1e999", "[" * 100_000])
def test_a_manifest_of_numbers_that_are_none_is_refused(value: str, bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / bundle.name)
    text = (copy / "manifest.json").read_text()
    scale = re.search(r'"logit_scale": ([\d.]+)', text)
    assert scale
    (copy / "manifest.json").write_text(text.replace(scale[1], value, 1))
    result = run("inspect", copy)
    assert result.exit_code == 2
    assert re.search("expected a finite number|expected integers of 64 bits|not readable as JSON", result.stderr)
    assert len(result.stderr.splitlines()) <= 2


def test_inspect_shows_ops_precision_and_sizes(bundle: Path) -> None:
    report = json.loads(run("inspect", bundle, "--json").stdout)
    rows = {(row["kind"], row["dtype"]) for row in report["ops"]["encode_image"]}
    assert {("linear", "fp16"), ("conv", "fp16"), ("softmax", "fp16")} <= rows
    text = run("inspect", bundle).stdout
    for word in ("encode_text", "weight.bin", "iOS 15", "evaluator", "parity"):
        assert word in text


def test_inspect_gives_advice_with_its_source(bundle: Path) -> None:
    advice = json.loads(run("inspect", bundle, "--json").stdout)["advice"]["encode_text"]
    assert {each["kind"] for each in advice} <= {"system", "refused", "accuracy", "neural engine", "speed"}
    assert all(each["source"].startswith("https://") for each in advice)
    lines = run("inspect", bundle).stdout.splitlines()
    alone = "nothing to do for who embeds the bundle"
    assert f"Advice on encode_text, for EdgeVLM's converter alone: {alone}" in lines
    for each in advice:
        assert f"  {each['kind']}: {each['where']}" in lines
        assert f"    {each['source']}" in lines  # on one line, whatever the width


def test_inspect_reads_a_package_that_is_no_part_of_a_bundle(bundle: Path) -> None:
    package = bundle / "encode_text.mlpackage"
    report = json.loads(run("inspect", package, "--json").stdout)
    (function,) = report["functions"]
    assert [(value["role"], value["name"]) for value in function["values"]] == [
        ("input", "token_ids"),
        ("output", "embedding"),
    ]
    assert ("linear", "fp16") in {(op["kind"], op["dtype"]) for op in function["ops"]}
    assert report["declares"] == report["needs"] == {"iOS": "15", "macOS": "12"}
    assert sum(report["files"].values()) == sum(file.stat().st_size for file in package.rglob("*") if file.is_file())
    text = run("inspect", package).stdout
    for word in (
        "token_ids",
        "int32",
        "[1, 48]",
        "embedding",
        "weight.bin",
        "iOS 15",
        "Advice on encode_text.mlpackage",
    ):
        assert word in text


def test_a_package_is_inspected_without_torch(bundle: Path) -> None:
    code = (
        f"import sys; from edgevlm.cli import main; main(['inspect', {str(bundle / 'encode_text.mlpackage')!r}], "
        "standalone_mode=False); heavy = {'torch', 'coremltools', 'transformers'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["targets", "models", "recipes"])
def test_lists_print_tables_and_json(command: str) -> None:
    assert len(run(command).stdout.splitlines()) > 3
    assert json.loads(run(command, "--json").stdout)["schema_version"] == 1


BAD: dict[str, tuple[list[str], str]] = {
    "unknown target": (["convert", "--target", "onnx"], "no target 'onnx'"),
    "audit of an unknown target": (["audit", "--target", "onnx"], "no target 'onnx'"),
    "audit on no data": (["audit", "--data", "gone/"], "gone/"),
    "unknown recipe": (["convert", "--target", "coreml", "--recipe", "int3"], "no recipe 'int3'"),
    "missing model": (["convert", "./no-such-folder", "--target", "coreml"], "no-such-folder"),
    "template without labels": (["convert", "--target", "coreml", "--template", "a {}"], "--template needs --labels"),
    "missing label file": (["convert", "--target", "coreml", "--labels", "gone.txt"], "gone.txt"),
    "empty label file": (["convert", "--target", "coreml", "--labels", "{empty}"], "expected a label per line"),
    "repeated label": (["convert", "--target", "coreml", "--labels", "{twice}"], "line 3 repeats the label 'cat'"),
    "no bundle": (["verify", "{empty}"], "expected a bundle folder"),
    "no package": (["inspect", "gone.mlpackage"], "there is no such package"),
    "a file for a package": (["inspect", "{file}"], "expected an .mlpackage folder"),
    "a package of another kind": (["inspect", "{other}"], "expected an ML Program, got neuralNetwork"),
    "no list of ops": (["targets", "--ops", "tflite"], "computes no ops itself"),
    "no picture": (["run", "{bundle}", "gone.png", "--labels", "a"], "gone.png"),
    "not a picture": (["run", "{bundle}", "{empty}", "--labels", "a"], "picture"),
    "a folder without pictures": (["run", "{bundle}", ".", "--labels", "a"], "expected pictures, found none"),
    "no labels": (["run", "{bundle}", "{picture}"], "none baked in"),
    "only commas": (["run", "{bundle}", "{picture}", "--labels", ", ,"], "expected labels"),
    "labels and text": (["run", "{bundle}", "{picture}", "--labels", "a", "--text", "b"], "got both"),
    "a question and a text": (["run", "{bundle}", "{picture}", "--ask", "a?", "--text", "b"], "--text, got both"),
    "sentences about nothing": (["run", "{bundle}", "{picture}", "--descriptions", "d.json"], "needs --labels"),
    "scores of a text": (["run", "{bundle}", "{picture}", "--text", "a", "--scores", "cosine"], "--scores: of labels"),
    "scores of words": (
        ["run", "{bundle}", "{picture}", "--ask", "a?", "--threshold", "0.1", "--top", "5"],
        "--threshold, --top: of labels",
    ),
    "labels drawn by chance": (
        ["run", "{bundle}", "{picture}", "--ask", "a?", "--labels", "a, b", "--system", "Be kind.", "--seed", "0"],
        "--system, --seed: of an answer in words",
    ),
    "words of a text": (
        ["run", "{bundle}", "{picture}", "--text", "a", "--max-tokens", "256"],
        "--max-tokens: of an answer in words",
    ),
}


def write_neural_network(package: Path, path: Path) -> None:
    """A package of the older kind of model."""
    from coremltools.proto import Model_pb2

    shutil.copytree(package, path)
    spec = Model_pb2.Model(specificationVersion=4)
    spec.neuralNetwork.SetInParent()
    (path / "Data" / "com.apple.CoreML" / "model.mlmodel").write_bytes(spec.SerializeToString())


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_exit_code_2_with_a_plain_message(
    case: str, bundle: Path, pictures: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "twice.txt").write_text("cat\ndog\ncat\n")
    (tmp_path / "file.mlpackage").write_text("no folder")
    write_neural_network(bundle / "encode_text.mlpackage", tmp_path / "other.mlpackage")
    files = {"bundle": bundle, "picture": pictures["a red circle"], "empty": "empty.txt", "twice": "twice.txt"}
    files |= {"file": "file.mlpackage", "other": "other.mlpackage"}
    arguments, message = BAD[case]
    result = run(*(argument.format(**files) if "{}" not in argument else argument for argument in arguments))
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stdout == ""
    assert isinstance(result.exception, SystemExit)
    assert not (tmp_path / "dist").exists()


def test_what_the_system_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        Path("/dev/null/file").read_bytes()

    monkeypatch.setattr("edgevlm.models.catalogue.load", refuse)
    result = run("audit", "edgevlm-student")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: /dev/null/file: Not a directory\n"


@pytest.mark.slow
def test_a_failed_check_is_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "impossible.yaml").write_text("precision: fp16\nparity:\n  max_abs_error: 0.0000001\n")
    recipe = tmp_path / "impossible.yaml"
    result = run("convert", "--target", "coreml", "--recipe", recipe, "--image-only", "--out", tmp_path / "d", "--json")
    assert result.exit_code == 1, result.output
    (outcome,) = json.loads(result.stdout)["outcomes"]
    assert outcome["status"] == "failed parity"
    assert any(not check["passed"] and check["value"] > 1e-7 for check in outcome["parity"]["checks"])


def test_help_imports_no_framework() -> None:
    code = (
        "import sys; from edgevlm.cli import main; main(['--help'], standalone_mode=False); "
        "frameworks = {'torch', 'numpy', 'PIL', 'rich', 'jinja2', 'tokenizers', 'coremltools', 'transformers'}; "
        "heavy = frameworks & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr


def test_every_command_has_help_with_an_example() -> None:
    for command in ("convert", "audit", "verify", "inspect", "run", "index", "search", "targets"):
        assert f"edgevlm {command}" in run(command, "--help").stdout


def test_what_the_data_and_the_names_tell_is_told_without_torch(tmp_path: Path) -> None:
    few = tmp_path / "few" / "cat"
    few.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(few / "1.png")
    asked = {
        ("tune", "--target", "tflite", "--data", "gone"): "gone: no such file or folder",
        ("tune", "--target", "tflite", "--data", str(few.parent)): "expected 128 pictures",
        ("convert", "--target", "tflite", "--recipe", "int8-static", "--calibration", str(few.parent)): "expected 128",
        ("distill", "--student", "vit-xxs", "--data", "gone", "--out", "x"): "gone: no such file or folder",
        (
            "distill",
            "--student",
            "vit-xxs",
            "--data",
            str(few.parent),
            "--recipe",
            "nope",
            "--out",
            "x",
        ): "no distillation",
        ("convert", "--target", "nope"): "no target 'nope'",
    }
    code = (
        "import json, sys\nfrom click.testing import CliRunner\nfrom edgevlm.cli import main\n"
        "for command in json.load(sys.stdin):\n"
        "    done = CliRunner().invoke(main, command)\n"
        "    print(json.dumps([done.exit_code, 'torch' in sys.modules, done.output]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(list(asked)), capture_output=True, text=True, check=True,
        cwd=tmp_path,
    )  # fmt: skip
    for line, said in zip(done.stdout.splitlines(), asked.values(), strict=True):
        exit_code, imported, output = json.loads(line)
        assert (exit_code, imported) == (2, False), output
        assert said in output
    assert not (tmp_path / "x").exists()


def test_a_conversion_asks_for_huge_pages_where_nobody_has_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    for before, after in ((None, "1"), ("0", "0")):
        monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", before or "")
        if before is None:
            monkeypatch.delenv("THP_MEM_ALLOC_ENABLE")
        assert CliRunner().invoke(main, ["convert", "nowhere", "--target", "tflite"]).exit_code == 2
        assert os.environ["THP_MEM_ALLOC_ENABLE"] == after
