"""What `edgevlm bench` says of models that talk: the parts of an answer, each by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import library
import numpy as np
import pytest
from bench_results import artefact, emulated, measured
from click.testing import CliRunner

from edgevlm import schema
from edgevlm.bench.artefacts import subjects
from edgevlm.bench.report.answers import Band, answers, estimated_answers, token_work
from edgevlm.bench.report.tables import device_tables
from edgevlm.bench.report.terminal import answers_in_words, estimates_in_words
from edgevlm.bench.report.wording import Names
from edgevlm.bench.results import Estimated
from edgevlm.bench.worker import _refusal
from edgevlm.cli import main
from edgevlm.devices.device import Device, resolve
from edgevlm.devices.profile import builtin
from edgevlm.errors import DeviceError
from edgevlm.inference.generator import Generator, generator_of
from edgevlm.onboard.answers import QUESTION, Part, parts
from edgevlm.onboard.engines import make, sample_jpeg
from edgevlm.onboard.figures import Counts, Times
from edgevlm.onboard.timing import LEAST_RUNS, clock
from edgevlm.process.progress import silent
from edgevlm.targets import litert_lm, registry

PARTS = ("encode_image", "prompt", "token_at_8", "token_at_16", "token_at_32")
"""Of a context of 32 positions."""


@pytest.fixture(scope="module")
def captioner() -> Iterator[Generator]:
    bundle = library.talker("blip", "tflite", "fp32")
    with generator_of(bundle, registry.runtime("tflite").open(bundle, threads=1)) as model:
        yield model


def test_an_answer_has_parts_at_fills_of_its_context(captioner: Generator) -> None:
    assert parts(captioner.dialogue) == PARTS
    assert parts(replace(captioner.dialogue, context_length=3)) == (
        "encode_image",
        "prompt",
        "token_at_2",
        "token_at_3",
    )
    with pytest.raises(DeviceError, match="expected one of encode_image, prompt, token_at_8"):
        Part(captioner, "decode", sample_jpeg())


@pytest.mark.parametrize("name", PARTS)
def test_a_part_gives_the_same_each_time(name: str, captioner: Generator) -> None:
    part = Part(captioner, name, sample_jpeg())
    first = part.run()
    np.testing.assert_array_equal(part.run(), first)
    assert part.positions == {"encode_image": None, "prompt": 1}.get(name, 1)
    assert [*part.stages] == {"encode_image": ["decode", "preprocess"], "prompt": ["tokenise"]}.get(name, [])
    for stage in part.stages.values():
        stage()


def test_parts_are_what_an_answer_computes(captioner: Generator) -> None:
    seen = captioner.see(sample_jpeg())
    features = next(iter(seen.answers[-1].values()))
    np.testing.assert_array_equal(Part(captioner, "encode_image", sample_jpeg()).run(), features)
    place, ids = captioner.place(), captioner.tokenizer.pieces(QUESTION)
    place.see(seen.answers[0])
    wanted = [place.put([ids[number % len(ids)] if number != 7 else ids[0]]) for number in range(8)][-1]
    np.testing.assert_allclose(Part(captioner, "token_at_8", sample_jpeg()).run(), wanted, atol=1e-4)


def test_a_job_times_a_part_of_an_answer(captioner: Generator) -> None:
    bundle = library.talker("blip", "tflite", "fp32")
    job = {"bundle": str(bundle.path), "component": "token_at_8", "threads": 1}
    engine = make(job)
    with pytest.raises(ValueError, match="not loaded"):
        engine.prepare()
    engine.load()
    with pytest.raises(ValueError, match="not prepared"):
        engine.run()
    engine.prepare()
    np.testing.assert_array_equal(engine.run(), Part(captioner, "token_at_8", sample_jpeg()).run())
    assert engine.positions == 1
    assert {path.name for path in engine.files} == {each.file for each in bundle.components.values()}
    found = clock({**job, "component": "prompt", "seconds": 0.05, "stages": True}, silent)
    times = schema.read(Times, found, where="times", error=DeviceError)
    assert times.positions == 1
    assert times.engine_ms.runs >= LEAST_RUNS
    assert times.tokenise_ms is not None
    assert times.decode_ms is None
    with pytest.raises(DeviceError, match="no part 'encode_text': expected one of encode_image, prompt"):
        clock({**job, "component": "encode_text", "seconds": 0.05}, silent)


def test_times_add_up_to_a_first_token() -> None:
    what = artefact("int8", "tflite")
    times = {"encode_image": 40.0, "prompt": 60.0, "token_at_512": 25.0, "token_at_128": 20.0}
    found = [measured("host", what, name, 2, median) for name, median in times.items()]
    found = [
        replace(each, times=replace(each.times, positions=90 if each.component == "prompt" else 1)) for each in found
    ]
    (answer,) = answers([*found, measured("host", artefact("fp32", "tflite"), "encode_text", 2, 1.0)])
    assert answer.first_token_ms == 100
    assert [*answer.tokens] == [128, 512]
    (said,) = answers_in_words(found)
    assert said.endswith(
        "CPU, 2 threads: the first token comes after 100 ms; a prompt of 90 positions takes 60.0 ms; "
        "tokens a second by how many there are: 50.0 at 128 and 40.0 at 512"
    )


def _estimated(name: str, middle_ms: float) -> Estimated:
    band = (middle_ms / 2, middle_ms, middle_ms * 4)
    return Estimated("pi", artefact("int8", "tflite"), name, 4, *band, "bandwidth", (), 0.2, "edgevlm bench")


def test_estimates_of_parts_come_to_an_answers() -> None:
    times = {"encode_image": 40.0, "prompt": 60.0, "token_at_512": 25.0, "token_at_128": 20.0}
    found = [_estimated(*each) for each in times.items()]
    (answer,) = estimated_answers([*found, replace(found[0], artefact=artefact("fp32", "tflite"))])
    assert answer.first_token_ms == Band(50, 100, 400)
    assert answer.tokens_per_second == {128: Band(12.5, 50, 100), 512: Band(10, 40, 80)}
    (said,) = estimates_in_words(found)
    assert said.endswith(
        "CPU, 4 threads, estimated: the first token after 100 ms (50.0 to 400); tokens a second by how many there are: "
        "50.0 (12.5 to 100) at 128 and 40.0 (10.0 to 80.0) at 512"
    )
    (alone,) = estimated_answers(found[2:])  # of `--component token_at_512`, `token_at_128`
    assert (alone.first_token_ms, [*alone.tokens_per_second]) == (None, [128, 512])


def test_a_tokens_work_is_a_line_in_its_position() -> None:
    what = artefact("int8", "tflite")
    found = []
    for fill in (1024, 256, 512):
        counts = Counts(5_000_000 + 300 * fill, 0, 0, 0, 0, 0, 0)
        each = emulated("pi", what, f"token_at_{fill}")
        found.append(replace(each, counts=counts, positions=1, reads_bytes=7_000_000))
    (work,) = token_work([*found, emulated("pi", what, "prompt")])
    assert [*work.instructions] == [256, 512, 1024]
    assert work.instructions_a_position == pytest.approx(300)
    assert work.reads_bytes == 7_000_000
    assert token_work(found[:1])[0].instructions_a_position is None
    tables = {each.title: each for each in device_tables([*found, _estimated("prompt", 1.0)], Names((what,)))}
    assert [cell.text for cell in tables["A token"].rows[0].cells] == [
        "5.077 at 256",
        "5.154 at 512",
        "5.307 at 1,024",
        "0.300",
        "7.00",
    ]
    assert tables["Estimated answers"].rows[0].cells[0].text == "4"


def test_what_a_part_reads_is_its_model_and_the_state() -> None:
    bundle = library.talker("blip", "tflite", "fp32")
    reads = {each.component: each.reads_bytes for each in subjects([bundle], ())}
    models = litert_lm.unpack(bundle.path / bundle.components["decode"].file)
    state = sum(4 * np.prod(each.shape) for each in bundle.components["decode"].spec.state)
    assert reads["encode_image"] == len(models["vision_encoder"])
    assert {reads[name] for name in PARTS[1:]} == {len(models["decoder"]) + state}
    assert reads["encode_image"] + reads["prompt"] - state < bundle.artefact_bytes


def test_devices_that_cannot_say_are_told_of_at_once() -> None:
    subject = subjects([library.talker("blip", "tflite", "fp32")], ())[0]

    def refused(device: Device, target: str) -> str:
        found = _refusal(device, replace(subject, artefact=replace(subject.artefact, target=target)))
        return "" if found is None else found.message

    board, apples = resolve("raspberry-pi-5", builtin()), resolve("iphone-15-pro", builtin())
    phone = replace(board, profile=replace(board.profile, reach="adb"))
    assert "needs torch and executorch, which no emulated device has" in refused(board, "executorch")
    assert "never runs a token" in refused(phone, "executorch")
    assert "measures no models that talk" in refused(apples, "coreml")
    assert refused(board, "tflite") == refused(phone, "tflite") == ""


def test_a_phone_that_cannot_say_is_told_of_at_once(tmp_path: Path) -> None:
    (tmp_path / "benchmark_model").touch()
    fleet, runner = tmp_path / "fleet.yaml", tmp_path / "benchmark_model"
    fleet.write_text(f"my-phone: {{like: galaxy-s23, address: 'adb://0123', runner: {runner}}}\n")
    bundle = library.talker("blip", "tflite", "fp32")
    asked = ["bench", bundle.path, "--device", "my-phone", "--devices", fleet, "--component", "prompt"]
    result = CliRunner().invoke(main, [*map(str, [*asked, "--out", tmp_path / "out"]), "--json"])
    assert result.exit_code == 2
    (found,) = json.loads(result.stdout)["results"]
    assert found["message"].startswith("benchmark_model draws positions up to 99, and prompt takes")
    assert found["hint"].startswith("edgevlm convert --context")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "target", "recipe"), [("blip", "tflite", "fp32"), ("qwen2.5-vl", "executorch", "int8")]
)
def test_an_answer_is_timed_part_by_part(kind: str, target: str, recipe: str, tmp_path: Path) -> None:
    bundle = library.talker(kind, target, recipe)
    asked = ["bench", bundle.path, "--threads", "1", "--seconds", "0.1", "--processes", "1", "--out", tmp_path]
    result = CliRunner().invoke(main, [*map(str, asked)])
    assert result.exit_code == 0, result.output
    assert "the first token comes after" in " ".join(result.stdout.split())
    found = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert bundle.manifest.dialogue is not None
    assert {each["component"] for each in found} == set(parts(bundle.manifest.dialogue))
    assert all(each["memory"]["anonymous_bytes"] > 0 for each in found)
    page = (tmp_path / "report.md").read_text()
    assert "tokens a second, the most taken" in page


@pytest.mark.slow
def test_core_mls_times_are_not_the_evaluators(tmp_path: Path) -> None:
    bundle = library.talker("blip", "coreml", "fp32")
    asked = ["bench", bundle.path, "--component", "prompt", "--threads", "1", "--out", tmp_path]
    result = CliRunner().invoke(main, [*map(str, asked)])
    assert result.exit_code == 2
    assert "says nothing about a device's time" in " ".join(result.stderr.split())
