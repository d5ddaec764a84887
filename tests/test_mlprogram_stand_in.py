"""coremltools predicting, calibrating and running its own tests through the evaluator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import apple
import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types
from coremltools.optimize import coreml as optimize
from coremltools.optimize.coreml.experimental._model_debugger import ModelDebugger

from edgevlm.runtimes.mlprogram.calibration import activation_ranges
from edgevlm.runtimes.mlprogram.evaluator import MLProgram
from edgevlm.runtimes.mlprogram.stand_in import stand_in


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3), torch.nn.Flatten()
    ).eval()


def converted(path: Path, precision: ct.precision = ct.precision.FLOAT32) -> Path:
    model = ct.convert(
        torch.jit.trace(network(), torch.rand(1, 3, 8, 8)),
        convert_to="mlprogram",
        inputs=[ct.TensorType("x", shape=(1, 3, 8, 8))],
        outputs=[ct.TensorType("y")],
        compute_precision=precision,
        minimum_deployment_target=ct.target.iOS17,
        skip_model_load=True,
    )
    model.save(str(path))
    return path


def pictures(count: int) -> list[dict[str, Any]]:
    """Each twice as bright as the one after it: the first has the widest range."""
    rng = np.random.default_rng(0)
    return [{"x": (rng.standard_normal((1, 3, 8, 8)) / 2**index).astype(np.float32)} for index in range(count)]


def test_coremltools_predicts(tmp_path: Path) -> None:
    path, (picture,) = converted(tmp_path / "p.mlpackage"), pictures(1)
    with stand_in():
        model = ct.models.MLModel(str(path))
        answer = model.predict(dict(picture))
        batch = model.predict([dict(picture), dict(picture)])
    expected = network()(torch.from_numpy(picture["x"])).detach().numpy()
    np.testing.assert_allclose(answer["y"], expected, atol=1e-5)
    assert len(batch) == 2
    with pytest.raises(Exception, match="only supported on macOS"):  # as without it
        ct.models.MLModel(str(path)).predict(dict(picture))


def test_coremltools_keeps_states(tmp_path: Path) -> None:
    @mb.program(
        input_specs=[mb.TensorSpec((2,), dtype=types.fp16), mb.StateTensorSpec((2,), dtype=types.fp16)],
        opset_version=ct.target.iOS18,
    )
    def program(x: Any, memory: Any) -> Any:
        return mb.coreml_update_state(state=memory, value=mb.add(x=mb.read_state(input=memory), y=x), name="sum")

    x = np.array([1, 2], np.float16)
    with stand_in():
        model = ct.convert(program, minimum_deployment_target=ct.target.iOS18)
        state = model.make_state()
        for count in (1, 2, 3):
            np.testing.assert_array_equal(model.predict({"x": x}, state=state)["sum"], count * x)
        np.testing.assert_array_equal(state.read_state("memory"), 3 * x)


def test_a_wrong_input_is_an_error_of_the_framework(tmp_path: Path) -> None:
    path = converted(tmp_path / "p.mlpackage")
    with stand_in():
        model = ct.models.MLModel(str(path))
        with pytest.raises(RuntimeError, match=r"Unable to compute the prediction.*expected \[1, 3, 8, 8\]"):
            model.predict({"x": np.zeros((1, 3, 8, 9), np.float32)})


def test_ranges_are_those_of_all_samples(tmp_path: Path) -> None:
    program = MLProgram.open(converted(tmp_path / "p.mlpackage"))
    samples = pictures(3)
    ranges = activation_ranges(program, samples)
    assert ranges["x"] == pytest.approx((min(s["x"].min() for s in samples), max(s["x"].max() for s in samples)))
    hidden = [network()[:2](torch.from_numpy(sample["x"])).detach().numpy() for sample in samples]
    (relu,) = (name for name in ranges if "relu" in name or ranges[name][0] == 0)
    assert ranges[relu] == pytest.approx((0, max(each.max() for each in hidden)), rel=1e-5)


def test_activations_are_quantised_without_a_mac(tmp_path: Path) -> None:
    path, samples = converted(tmp_path / "p.mlpackage", ct.precision.FLOAT16), pictures(3)
    config = optimize.OptimizationConfig(global_config=optimize.OpLinearQuantizerConfig(mode="linear_symmetric"))
    with stand_in():
        quantised = optimize.linear_quantize_activations(ct.models.MLModel(str(path)), config, samples)
        answers = [quantised.predict(dict(sample))["y"] for sample in samples]
    quantised.save(str(tmp_path / "q.mlpackage"))
    kinds = {each.kind for each in MLProgram.open(tmp_path / "q.mlpackage").op_counts()}
    assert {"quantize", "dequantize"} <= kinds
    for sample, answer in zip(samples[:1], answers[:1], strict=True):  # the widest: lost if only the last one counted
        expected = network()(torch.from_numpy(sample["x"])).detach().numpy()
        assert np.linalg.norm(answer - expected) < 0.02 * np.linalg.norm(expected)


def test_upstream_still_forgets_all_samples_but_the_last() -> None:
    ranges: dict[str, dict[str, float]] = {"a": {}}
    for value in (np.array([-5.0, 5.0]), np.array([-1.0, 1.0])):
        ModelDebugger.record_intermediate_output(value, "a", ranges)
    assert ranges["a"] == {"rmin": -1.0, "rmax": 1.0}, "mended upstream: take `_ranges` out of stand_in"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "count"),
    [
        ("coremltools.converters.mil.mil.ops.tests", 24),
        ("coremltools.converters.mil.frontend.torch.test.test_torch_ops", 15),
    ],
    ids=["ops", "torch front end"],
)
def test_coremltools_own_tests(package: str, count: int, tmp_path: Path) -> None:
    outcomes = tmp_path / "outcomes.jsonl"
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "-W", "ignore", "--tb=no"]
    command += ["-p", "edgevlm.benchmarks.coremltools_tests.plugin", "--sample", str(count), "--sample-seed", "11"]
    ended = subprocess.run(
        [*command, "--outcomes", str(outcomes), "--pyargs", package], capture_output=True, text=True, cwd=tmp_path
    )
    lines = [json.loads(line) for line in outcomes.read_text().splitlines()]
    judged = [line for line in lines if line["opsets"] and line["outcome"] in ("passed", "failed")]
    failed = [line["case"] for line in judged if line["outcome"] == "failed"]
    assert len(judged) > count / 3, ended.stdout[-2000:]
    assert len(failed) <= 0.01 * len(judged) + 1, failed


class Counter(torch.nn.Module):
    """Adds up what it was given so far."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total.add_(x)
        return self.total + 0


def counting(path: Path) -> Path:
    model = ct.convert(
        torch.jit.trace(Counter().eval(), torch.zeros(3)),
        inputs=[ct.TensorType("x", shape=(3,), dtype=np.float16)],
        states=[ct.StateType(ct.TensorType(shape=(3,), dtype=np.float16), "total")],
        outputs=[ct.TensorType("y", dtype=np.float16)],
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
    )
    model.save(str(path))
    return path


def test_predictions_are_held_against_core_mls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, (picture,) = converted(tmp_path / "p.mlpackage"), pictures(1)
    predict = ct.models.MLModel.predict
    with stand_in(), apple.agreeing(monkeypatch) as compared:
        MLProgram.open(path).predict(picture)
        assert compared == ["y"]
        monkeypatch.setattr(ct.models.MLModel, "predict", lambda *given: {"y": predict(*given)["y"] + np.float32(1e-3)})
        with pytest.raises(AssertionError, match="y: Core ML answers otherwise"):
            MLProgram.open(path).predict(picture)


def test_states_are_held_against_core_mls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, x = counting(tmp_path / "p.mlpackage"), {"x": np.ones(3, np.float16)}
    with stand_in(), apple.agreeing(monkeypatch) as compared:
        program = MLProgram.open(path)
        state = program.make_state()
        program.predict(x, state)
        state.write_state("total", np.full(3, 40, np.float16))
        assert np.all(program.predict(x, state)["y"] == 41)
        assert compared == ["y", "total", "y", "total"]
        monkeypatch.setattr(ct.models.model.MLState, "read_state", lambda *given: np.zeros(3, np.float16))
        with pytest.raises(AssertionError, match="total: Core ML answers otherwise"):
            program.predict(x, state)


def test_what_an_older_system_lacks_is_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, x = counting(tmp_path / "p.mlpackage"), {"x": np.ones(3, np.float16)}
    monkeypatch.setattr("platform.mac_ver", lambda: ("14.6", ("", "", ""), "arm64"))
    with apple.agreeing(monkeypatch), pytest.raises(pytest.skip.Exception, match=r"needs macOS 15, this is 14\.6"):
        MLProgram.open(path).predict(x)


@pytest.mark.skipif(sys.platform == "darwin", reason="there it compares")
def test_off_apple_nothing_claims_to_be_compared(tmp_path: Path) -> None:
    compared = tmp_path / "test_compared.py"
    compared.write_text("import pytest\n@pytest.mark.apple\ndef test_compared(): pass\n")
    here = Path(__file__).parent
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "-p", "conftest", "-m", "apple"]
    environment = {**os.environ, "CI": "", "PYTHONPATH": f"{here.parent}{os.pathsep}{here}"}
    where = ["-c", here.parent / "pyproject.toml", compared]
    said = subprocess.run([*command, *where], capture_output=True, text=True, check=True, env=environment).stdout
    assert "macOS alone: nothing was compared" in said
    assert "passed" not in said
