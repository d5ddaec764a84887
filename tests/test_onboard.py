"""The jobs of `edgevlm.onboard`, each with a real engine or, where that takes a device, what speaks as it does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import executorch
import library
import numpy as np
import onnx
import pytest

from edgevlm import schema
from edgevlm.emulation import runner, tools
from edgevlm.errors import DeviceError, OutOfMemory
from edgevlm.onboard import engines, native, tensorrt, timing
from edgevlm.onboard.figures import Memory, Times, spread
from edgevlm.onboard.memory import watch
from edgevlm.process.progress import silent
from edgevlm.targets import registry

ON_CPU = "CPUExecutionProvider"


def program(path: Path, script: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("g++") is None, reason="needs Linux and g++")
def test_a_board_without_torch_is_timed_by_its_runner(tmp_path: Path) -> None:
    """The runner, built for this computer from the wheel that is installed here."""
    (folder := tmp_path / "runner").mkdir()
    runner._make(tools.find("g++"), Path(executorch.__path__[0]), silent, folder)
    packed = library.tower_bundle("executorch", "fp32")
    job = {"bundle": str(packed.path), "component": "encode_image", "native": str(folder / runner.PROGRAM)}

    inputs, out = engines.sample_inputs(packed, "encode_image"), tmp_path / "out"
    inputs["pixels"].tofile(tmp_path / "pixels")
    out.mkdir()
    artefact = packed.path / packed.components["encode_image"].file
    subprocess.run([job["native"], artefact, "encode_image", "1", out, tmp_path / "pixels"], check=True)
    with registry.runtime("executorch").open(packed, threads=1) as session:
        (answer,) = session.run("encode_image", inputs).values()
    np.testing.assert_allclose(np.fromfile(out / "0", np.float32), answer.ravel(), atol=1e-6)

    found = timing.clock({**job, "threads": 1, "seconds": 0.05, "stages": True}, silent)
    times = schema.read(Times, found, where="times", error=DeviceError)
    assert min(times.cold_load_ms, times.first_ms, times.engine_ms.min) > 0
    assert times.engine_ms.runs >= native.LEAST_RUNS
    assert times.yardstick_ms
    assert list(times.stages) == ["decode", "resize", "model", "compare"]
    memory = schema.read(Memory, watch({**job, "runs": 3}, silent), where="memory", error=DeviceError)
    assert 0 < memory.anonymous_bytes < memory.resident_bytes
    assert memory.file_mapped_bytes > 0
    assert memory.before_bytes == 0  # of the runner's process all is the artefact's

    with pytest.raises(DeviceError, match="encode_text takes token ids, and the bundle has no tokenizer"):
        watch({**job, "component": "encode_text", "runs": 3}, silent)
    broken = program(tmp_path / "broken", "echo error: no such method >&2; exit 1")
    with pytest.raises(DeviceError, match="exit code 1 and without a result: error: no such method"):
        watch({**job, "native": str(broken), "runs": 3}, silent)
    killed = program(tmp_path / "killed", "kill -9 $$")
    with pytest.raises(OutOfMemory, match="needed more memory than there is"):
        timing.clock({**job, "native": str(killed), "seconds": 0.05}, silent)


def test_onnx_runtime_runs_a_peers_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")  # as the engine sets it, but for this test alone
    weights = np.arange(8, dtype=np.float32).reshape(4, 2)
    shapes = {
        name: onnx.helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", [1, 4]), ("y", [1, 2]))
    }
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph(
        [node], "small", [shapes["x"]], [shapes["y"]], [onnx.numpy_helper.from_array(weights, "w")]
    )
    path = tmp_path / "model.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    tensor = {"name": "x", "dtype": "float32", "shape": [1, 4], "meaning": "any"}
    job = {"onnx": str(path), "provider": ON_CPU, "threads": 1, "input": tensor}
    engine = engines.make(job)
    assert isinstance(engine, engines.OnnxEngine)
    assert engine.files == (path,)
    with pytest.raises(ValueError, match="not loaded"):
        engine.run()
    engine.load()
    np.testing.assert_array_equal(engine.answer(np.eye(4, dtype=np.float32)[2:3]), weights[2:3])
    times = schema.read(
        Times, timing.clock({**job, "seconds": 0.01, "stages": True}, silent), where="t", error=DeviceError
    )
    assert times.engine_ms.runs >= timing.LEAST_RUNS
    assert list(times.stages) == ["model"]
    assert set(engines.providers({}, silent)["onnxruntime"]) >= {ON_CPU}
    with pytest.raises(
        DeviceError, match=r"ONNX Runtime has no CUDAExecutionProvider here: .*CPUExecutionProvider"
    ) as no:
        engines.make({**job, "provider": "CUDAExecutionProvider"})
    assert "JetPack" in str(no.value.hint)


TRTEXEC = """
echo "$@" >> {folder}/asked
for word; do case "$word" in
    --onnx=*) cp "${{word#*=}}" {folder}/onnx || {{ echo "[E] no such file"; exit 1; }} ;;
    --saveEngine=*) echo engine > "${{word#*=}}" ;;
    --loadEngine=*) [ -s "${{word#*=}}" ] || exit 2 ;;
    --exportTimes=*) echo '[{{"latencyMs": 0.75}}, {{"latencyMs": 0.5}}, {{"latencyMs": 0.25}}]' > "${{word#*=}}" ;;
esac; done
"""
"""As its documentation has it, without a GPU."""


def test_a_jetsons_gpu_is_timed_by_trtexec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "bin" / "trtexec", TRTEXEC.format(folder=tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "model.onnx").write_bytes(b"graph")
    assert engines.providers({}, silent)["trtexec"] is True
    job = {"job": "tensorrt", "onnx": str(tmp_path / "model.onnx"), "seconds": 2.4}
    times = schema.read(Times, tensorrt.clock(job, silent), where="times", error=DeviceError)
    assert (times.first_ms, times.engine_ms) == (0.75, spread([0.75, 0.5, 0.25]))
    assert times.cold_load_ms >= 0
    built, loaded, timed = (tmp_path / "asked").read_text().splitlines()
    assert "--fp16" in built
    assert "--iterations=1 " in loaded
    assert "--duration=2 --iterations=10" in timed
    with pytest.raises(DeviceError, match=r"trtexec ended with 1: \[E\] no such file"):
        tensorrt.clock({**job, "onnx": "/nowhere/model.onnx"}, silent)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="no trtexec: expected it on the PATH or at"):
        tensorrt.clock(job, silent)


def test_trtexecs_times(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    path.write_text('[{"startComputeMs": 1.5, "latencyMs": 0.5}, {"latencyMs": 0.75}]')
    assert tensorrt.read_latencies(path) == [0.5, 0.75]
    path.write_text('[{"latency": 0.5}]')
    with pytest.raises(DeviceError, match="not as documented"):
        tensorrt.read_latencies(path)
    path.write_text("[]")
    with pytest.raises(DeviceError, match="are empty"):
        tensorrt.read_latencies(path)
