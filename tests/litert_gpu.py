"""LiteRT's GPU delegate without a GPU: on SwiftShader, a Vulkan in software, which Debian's chromium brings.

Run as a program it is a process of its own, since the loader and the driver are found when a process starts.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

CHROMIUM = Path("/usr/lib/chromium")
LOADER, DRIVER = CHROMIUM / "libvulkan.so.1", CHROMIUM / "vk_swiftshader_icd.json"
SECONDS = 300
"""At most; the tests' files take two or three."""

needs_vulkan = pytest.mark.skipif(
    not (LOADER.exists() and DRIVER.exists()),
    reason="needs a Vulkan in software, SwiftShader of Debian's package chromium: apt install chromium",
)


class RefusedError(Exception):
    """The delegate did not take a file; with all that it said."""


def answers(model: Path, inputs: Mapping[str, NDArray[np.generic]], *, whole: bool) -> dict[str, NDArray[np.float32]]:
    """What a .tflite answers on the GPU, which computes in float32.

    Args:
        model: The file, whose signatures take one tensor and give one.
        inputs: By signature, [N, ...]: N tensors of [1, ...].
        whole: A file with an op that the GPU cannot compute is refused; else the CPU computes such ops.

    Returns:
        By signature, [N, ...].

    Raises:
        RefusedError: the delegate did not take the file.
    """
    with tempfile.TemporaryDirectory() as scratch:
        asked, answered = Path(scratch, "asked.npz"), Path(scratch, "answered.npz")
        np.savez(asked, **inputs)
        process = subprocess.run(
            [sys.executable, __file__, str(model), str(asked), str(answered), "GPU" if whole else "GPU|CPU"],
            env={**os.environ, "VK_ICD_FILENAMES": str(DRIVER), "LD_LIBRARY_PATH": str(CHROMIUM)},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        if process.returncode:
            raise RefusedError(process.stderr)
        assert "Selected adapter: SwiftShader" in process.stderr, process.stderr  # else the CPU would answer for it
        with np.load(answered) as found:
            return dict(found)


def _main(model: str, asked: str, answered: str, places: str) -> None:
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.gpu_options import GpuOptions
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator
    from ai_edge_litert.options import Options

    accelerators = HardwareAccelerator(0)
    for place in places.split("|"):
        accelerators |= HardwareAccelerator[place]
    options = Options(hardware_accelerators=accelerators, gpu_options=GpuOptions(enforce_f32=True))
    compiled = CompiledModel.from_file(model, options=options)
    found = {}
    with np.load(asked) as inputs:
        for name, rows in inputs.items():
            index = compiled.get_signature_index(name)
            (output,) = compiled.get_output_tensor_details(name).values()
            (taken,), (given,) = compiled.create_input_buffers(index), compiled.create_output_buffers(index)
            results = []
            for row in rows:
                taken.write(row[None])
                compiled.run_by_index(index, [taken], [given])
                results.append(given.read(int(np.prod(output["shape"])), np.float32).reshape(output["shape"]))
            found[name] = np.concatenate(results)
    np.savez(answered, **found)


if __name__ == "__main__":
    _main(*sys.argv[1:])
