"""How long the ML Program evaluator takes, against torch eager, for CLIP ViT-B/32's vision tower.

    python -m edgevlm.benchmarks.evaluator [--rounds 15] [--precision fp16]

Both run on one thread and take turns, so that whatever else the machine does meets both; medians are compared.
The weights are random: time does not depend on them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from edgevlm.benchmarks.measuring import keep, take_turns
from edgevlm.runtimes.mlprogram.evaluator import MLProgram


class VisionTower(torch.nn.Module):
    """CLIP ViT-B/32's vision tower: [1, 3, 224, 224] to a unit-norm embedding [1, 512]."""

    def __init__(self) -> None:
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        super().__init__()
        self.model = CLIPVisionModelWithProjection(CLIPVisionConfig(projection_dim=512))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        embedding: torch.Tensor = self.model(image).image_embeds
        return torch.nn.functional.normalize(embedding, dim=-1)


def write_package(module: torch.nn.Module, image: torch.Tensor, folder: Path, *, precision: str) -> Path:
    """Converts a module to an ML Program."""
    import coremltools as ct  # type: ignore[import-untyped]

    program = torch.export.export(module, (image,), strict=False).run_decompositions({})
    model: Any = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS16,
        compute_precision=ct.precision.FLOAT32 if precision == "fp32" else ct.precision.FLOAT16,
        skip_model_load=True,
    )
    path = folder / "tower.mlpackage"
    model.save(str(path))
    return path


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp32")
    parser.add_argument("--keep", action="store_true", help="keep the result in benchmarks/results/")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tower, image = VisionTower().eval(), torch.randn(1, 3, 224, 224)
    with tempfile.TemporaryDirectory() as folder:
        path = write_package(tower, image, Path(folder), precision=arguments.precision)
        start = time.perf_counter()
        program = MLProgram.open(path, threads=1)
        open_s = time.perf_counter() - start
        inputs = {program.inputs[0].name: image.numpy()}
        with torch.inference_mode():
            medians = take_turns(
                {"torch eager": lambda: tower(image), "evaluator": lambda: program.predict(inputs)}, arguments.rounds
            )
            (answer,) = program.predict(inputs).values()
            error = float((torch.from_numpy(answer) - tower(image)).abs().max())
    for name, median in medians.items():
        print(f"{name:14}{median:8.1f} ms")
    print(f"ratio         {medians['evaluator'] / medians['torch eager']:8.2f}")
    print(f"open          {open_s:8.2f} s, one run included")
    print(f"max abs error  {error:.1e}")
    if arguments.keep:
        figures = {"median_ms": medians, "ratio": medians["evaluator"] / medians["torch eager"], "max_abs_error": error}
        command = f"python -m edgevlm.benchmarks.evaluator --precision {arguments.precision}"
        keep(f"evaluator-{arguments.precision}", figures, command)


if __name__ == "__main__":
    main()
