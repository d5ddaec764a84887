"""What a conversion costs beside the bare calls: wall time and peak memory, for a CLIP of ViT-B/32's size.

    python -m edgevlm.benchmarks.conversion [--targets coreml executorch tflite] [--recipe fp32] [--keep]

Each side runs in a fresh process with one thread and loads the checkpoint. The bare side then makes the bare calls on
the same modules: `torch.export`, the backend's own converter, the file. (coremltools cannot convert transformers' own
text tower, so both sides lower our export-ready one, and the bare side has our patch of `alias`.) Our proof, which the
bare side lacks (the float reference's answers, golden fixtures, hashes, comparison), is told apart. The weights are
random: time and memory do not depend on them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgevlm.benchmarks.measuring import in_fresh_process, keep, peak_rss_mb

MODULE = "edgevlm.benchmarks.conversion"
TARGETS = ("coreml", "executorch", "tflite")


Modules = dict[str, tuple[nn.Module, tuple[Tensor, ...]]]


def bare(model: Path, target: str, recipe: str, out: Path) -> float:
    """Converts with the backend's own calls; seconds."""
    from edgevlm.models import checkpoint

    began = time.perf_counter()
    programs = checkpoint.load(model).programs
    _BARE[target]({name: (program.module, program.example) for name, program in programs.items()}, recipe, out)
    return time.perf_counter() - began


def _bare_coreml(modules: Modules, recipe: str, out: Path) -> None:
    import coremltools as ct  # type: ignore[import-untyped]

    from edgevlm.converters import coreml_patches

    precision = ct.precision.FLOAT32 if recipe == "fp32" else ct.precision.FLOAT16
    for name, (module, example) in modules.items():
        program = torch.export.export(module, example, strict=False).run_decompositions({})
        with coreml_patches.applied():
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
    from edgevlm import pipeline
    from edgevlm.recipe import BUILTIN

    peaks_mb: dict[str, float] = {}

    def watch(stage: str, share: float | None) -> None:
        if "reference" in stage:
            peaks_mb.setdefault("peak_rss_mb", peak_rss_mb())

    began = time.perf_counter()
    request = pipeline.Request(model, (target,), BUILTIN[recipe], out, use_cache=False)
    (outcome,) = pipeline.convert(request, watch)
    if outcome.status != "passed":
        raise RuntimeError(f"{target}: {outcome.status}: {outcome.error}")
    seconds = time.perf_counter() - began - outcome.parity_seconds
    with_proof = {"parity_seconds": outcome.parity_seconds, "with_parity_peak_rss_mb": peak_rss_mb()}
    return {"seconds": seconds, **peaks_mb, **with_proof}


def write_checkpoint(folder: Path) -> Path:
    """A CLIP of ViT-B/32's size with random weights, in Hugging Face format."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    CLIPModel(CLIPConfig()).save_pretrained(folder)
    words = {f"{chr(97 + i // 26 % 26)}{chr(97 + i % 26)}{i}</w>": i for i in range(49406)}
    words |= {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    _finish_tokenizer(tokenizer, folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": "CLIPImageProcessor",
                "size": {"shortest_edge": 224},
                "crop_size": {"height": 224, "width": 224},
                "resample": 3,
                "image_mean": [0.48145466, 0.4578275, 0.40821073],
                "image_std": [0.26862954, 0.26130258, 0.27577711],
            }
        ),
        encoding="utf-8",
    )
    return folder


def _finish_tokenizer(tokenizer: Any, folder: Path) -> None:
    from tokenizers import processors

    tokenizer.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>",
        special_tokens=[("<|startoftext|>", 49406), ("<|endoftext|>", 49407)],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {"tokenizer_class": "CLIPTokenizer", "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    about |= {"unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS)
    parser.add_argument("--recipe", choices=("fp32", "fp16"), default="fp32", help="tflite's bare side knows fp32 only")
    parser.add_argument("--keep", action="store_true", help="keep the result in benchmarks/results/")
    parser.add_argument("--side", nargs=3, metavar=("SIDE", "MODEL", "TARGET"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        side, model, target = options.side
        _one_side(side, model, target, options.recipe)
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model = str(write_checkpoint(Path(folder) / "clip-vit-b32"))
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
            row["rss_ratio"] = sides["ours"]["peak_rss_mb"] / sides["bare"]["peak_rss_mb"]
            rows.append(row)
            print(
                f"{target:11} wall {sides['bare']['seconds']:6.1f} s -> {sides['ours']['seconds']:6.1f} s "
                f"({row['wall_ratio']:.2f}x, parity {sides['ours']['parity_seconds']:.0f} s apart)   "
                f"peak RSS {sides['bare']['peak_rss_mb']:.0f} -> {sides['ours']['peak_rss_mb']:.0f} MB "
                f"({row['rss_ratio']:.2f}x)",
                flush=True,
            )
    if options.keep:
        command = f"python -m {MODULE} --recipe {options.recipe} --targets {' '.join(options.targets)}"
        keep(f"conversion-{options.recipe}", {"rows": rows}, command)


def _one_side(side: str, model: str, target: str, recipe: str) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as out:
        if side == "bare":
            figures = {"seconds": bare(Path(model), target, recipe, Path(out)), "peak_rss_mb": peak_rss_mb()}
        else:
            figures = ours(Path(model), target, recipe, Path(out))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
