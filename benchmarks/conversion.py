"""What a conversion costs beside the bare calls: wall time and peak memory, for a CLIP of ViT-B/32's size.

    python -m edgevlm.benchmarks.conversion [--targets coreml executorch tflite] [--recipe fp32] [--keep | --json FILE]

Each side runs in a fresh process with one thread and loads the checkpoint. The bare side is what one would write by
hand: transformers' model in two small modules, `torch.export`, the backend's own converter, the file. coremltools
cannot convert the text tower without our patch of `alias`, so the bare side has it too. Ours also writes the golden
fixtures, hashes and manifest, which count. What proves the bundle has no counterpart and is told apart: the float
reference's answers to the parity samples, and the shipped file's. The weights are random: time does not depend on them.
CPU seconds tell the cost where other processes stretch the wall time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgevlm.benchmarks.checkpoints import write_clip
from edgevlm.benchmarks.measuring import in_fresh_process, keep, make_parser, peak_rss_mb

MODULE = "edgevlm.benchmarks.conversion"
TARGETS = ("coreml", "executorch", "tflite")


Modules = dict[str, tuple[nn.Module, tuple[Tensor, ...]]]


class Image(nn.Module):
    """Normalised pixels float32 [1, 3, 224, 224] -> unit vector float32 [1, 512]."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.tower, self.projection = clip.vision_model, clip.visual_projection

    def forward(self, pixels: Tensor) -> Tensor:
        return nn.functional.normalize(self.projection(self.tower(pixel_values=pixels).pooler_output), dim=-1)


class Text(nn.Module):
    """Token ids int32 [1, 77] -> unit vector float32 [1, 512]."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.tower, self.projection = clip.text_model, clip.text_projection

    def forward(self, token_ids: Tensor) -> Tensor:
        return nn.functional.normalize(self.projection(self.tower(input_ids=token_ids).pooler_output), dim=-1)


def bare(model: Path, target: str, recipe: str, out: Path) -> dict[str, float]:
    """Converts with the backend's own calls."""
    began = now()
    from transformers import CLIPModel

    clip: Any = CLIPModel.from_pretrained(model)
    clip.eval().requires_grad_(False)
    modules: Modules = {
        "encode_image": (Image(clip).eval(), (torch.zeros(1, 3, 224, 224),)),
        "encode_text": (Text(clip).eval(), (torch.ones(1, 77, dtype=torch.int32),)),
    }
    _BARE[target](modules, recipe, out)
    seconds, cpu_seconds = now() - began
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_rss_mb": peak_rss_mb()}


def _bare_coreml(modules: Modules, recipe: str, out: Path) -> None:
    import coremltools as ct  # type: ignore[import-untyped]

    from edgevlm.converters.coreml import patches

    precision = ct.precision.FLOAT32 if recipe == "fp32" else ct.precision.FLOAT16
    for name, (module, example) in modules.items():
        program = torch.export.export(module, example, strict=False).run_decompositions({})
        with patches.applied():
            model = ct.convert(program, convert_to="mlprogram", compute_precision=precision, skip_model_load=True)
        model.save(str(out / f"{name}.mlpackage"))


def _bare_executorch(modules: Modules, recipe: str, out: Path) -> None:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import (  # type: ignore[import-untyped]
        XnnpackPartitioner,
    )
    from executorch.exir import (  # type: ignore[import-untyped]
        EdgeCompileConfig,
        to_edge_transform_and_lower,
    )

    programs = {name: torch.export.export(module, example, strict=False) for name, (module, example) in modules.items()}
    edge = to_edge_transform_and_lower(
        programs,
        partitioner={name: [XnnpackPartitioner()] for name in programs},
        compile_config=EdgeCompileConfig(_check_ir_validity=False),
    )
    with (out / "model.pte").open("wb") as file:
        edge.to_executorch().write_to_file(file)


def _bare_tflite(modules: Modules, recipe: str, out: Path) -> None:
    import litert_torch  # type: ignore[import-untyped]

    converter: Any = litert_torch
    for name, (module, example) in modules.items():
        converter = converter.signature(name, module, example)
    converter.convert().export(str(out / "model.tflite"))


_BARE: dict[str, Callable[[Modules, str, Path], None]] = {
    "coreml": _bare_coreml,
    "executorch": _bare_executorch,
    "tflite": _bare_tflite,
}


def ours(model: Path, target: str, recipe: str, out: Path) -> dict[str, float]:
    """Converts with the pipeline, without its cache; the peak of memory is taken before the proof begins, too."""
    from edgevlm.bundle.recipe import BUILTIN
    from edgevlm.conversion import pipeline
    from edgevlm.models.reference import Original

    peaks_mb: dict[str, float] = {}

    def watch(stage: str, share: float | None) -> None:
        if "reference" in stage:
            peaks_mb.setdefault("peak_rss_mb", peak_rss_mb())

    request = pipeline.Request(model, (target,), BUILTIN[recipe], out, use_cache=False)
    with timed(Original, "run") as reference, timed(pipeline, "_measure") as comparison:
        began = now()
        (outcome,) = pipeline.convert(request, watch)
        seconds, cpu_seconds = now() - began - reference - comparison
    if outcome.status != "passed":
        raise RuntimeError(f"{target}: {outcome.status}: {outcome.error}")
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "reference_seconds": reference[0],
        "comparison_seconds": comparison[0],
        **peaks_mb,
        "with_proof_peak_rss_mb": peak_rss_mb(),
    }


def now() -> NDArray[np.float64]:
    """Wall and CPU seconds."""
    return np.array([time.perf_counter(), time.process_time()])


@contextlib.contextmanager
def timed(owner: Any, name: str) -> Iterator[NDArray[np.float64]]:
    """Adds up the wall and CPU seconds that one function takes while the block runs."""
    original, spent = getattr(owner, name), np.zeros(2)

    def run(*arguments: Any) -> Any:
        began = now()
        try:
            return original(*arguments)
        finally:
            spent[:] += now() - began

    with mock.patch.object(owner, name, run):
        yield spent


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS)
    parser.add_argument("--recipe", choices=("fp32", "fp16"), default="fp32", help="tflite's bare side knows fp32 only")
    parser.add_argument("--side", nargs=3, metavar=("SIDE", "MODEL", "TARGET"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        side, model, target = options.side
        _one_side(side, model, target, options.recipe)
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model = str(write_clip(Path(folder) / "clip-vit-b32"))
        for target in options.targets:
            one_thread = {"OMP_NUM_THREADS": "1"}
            sides = {
                side: in_fresh_process(
                    MODULE, "--recipe", options.recipe, "--side", side, model, target, environment=one_thread
                )
                for side in ("bare", "ours")
            }
            row = {"target": target, "recipe": options.recipe, **sides}
            row["wall_ratio"] = sides["ours"]["seconds"] / sides["bare"]["seconds"]
            row["cpu_ratio"] = sides["ours"]["cpu_seconds"] / sides["bare"]["cpu_seconds"]
            row["rss_ratio"] = sides["ours"]["peak_rss_mb"] / sides["bare"]["peak_rss_mb"]
            rows.append(row)
            print(_told(row), flush=True)
    if options.keep or options.json:
        command = f"python -m {MODULE} --recipe {options.recipe} --targets {' '.join(options.targets)}"
        keep(f"conversion-{options.recipe}", {"rows": rows}, command, options.json)


def _told(row: dict[str, Any]) -> str:
    bare, ours = row["bare"], row["ours"]
    return (
        f"{row['target']:11} wall {bare['seconds']:.1f} -> {ours['seconds']:.1f} s "
        f"({row['wall_ratio']:.2f}x, CPU {row['cpu_ratio']:.2f}x; apart: "
        f"reference {ours['reference_seconds']:.1f} s, comparison {ours['comparison_seconds']:.1f} s)   "
        f"peak RSS {bare['peak_rss_mb']:.0f} -> {ours['peak_rss_mb']:.0f} MB ({row['rss_ratio']:.2f}x; "
        f"with the proof {ours['with_proof_peak_rss_mb']:.0f} MB)"
    )


def _one_side(side: str, model: str, target: str, recipe: str) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as out:
        print(json.dumps({"bare": bare, "ours": ours}[side](Path(model), target, recipe, Path(out))))


if __name__ == "__main__":
    main()
