"""How far off `edgevlm convert --dry-run` is: size, memory and the least system, beside real conversions.

    python -m edgevlm.benchmarks.forecast --work WORK [--keep | --json FILE]

It converts the built-in student and a small CLIP with random weights in every recipe to every target (half an hour;
what is in WORK already is not converted again), and opens and runs what the CPU can run in processes that are watched:
the engine's own share is what they come to beyond what they had before. Core ML's memory is not measured: off Apple
there is no engine of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from edgevlm.benchmarks.checkpoints import write_clip
from edgevlm.benchmarks.compression.conversions import convert
from edgevlm.benchmarks.measuring import keep, make_parser
from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.recipe import BUILTIN
from edgevlm.conversion import forecast
from edgevlm.devices.local import Local
from edgevlm.models import catalogue
from edgevlm.targets import registry

STUDENT, SMALL_CLIP = "edgevlm-student", "clip-small"
_TOWER = {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4}
_SMALL = {
    "vision_config": {**_TOWER, "num_hidden_layers": 6, "image_size": 128, "patch_size": 16},
    "text_config": {
        **_TOWER,
        "num_hidden_layers": 4,
        "vocab_size": 4096,
        "bos_token_id": 4094,
        "eos_token_id": 4095,
        "pad_token_id": 4095,
    },
    "projection_dim": 256,
}
_MEASURED = ("executorch", "tflite")
_SIZE_SHARE, _SIZE_BYTES, _MEMORY_SHARE = 0.05, 100_000, 0.3


@dataclass(frozen=True)
class Row:
    """A forecast beside what came of it.

    Attributes:
        foreseen_memory_bytes, measured_memory_bytes: Of the component that needs most; None where it is not measured.
    """

    model: str
    target: str
    recipe: str
    foreseen_bytes: int
    size_bytes: int
    foreseen_memory_bytes: int
    measured_memory_bytes: int | None
    foreseen_requires: Mapping[str, str]
    requires: Mapping[str, str]

    @property
    def misses(self) -> tuple[str, ...]:
        """Which of the goals it misses."""
        found = []
        off = abs(self.foreseen_bytes - self.size_bytes)
        if off > max(_SIZE_SHARE * self.size_bytes, _SIZE_BYTES):
            found.append("size")
        measured = self.measured_memory_bytes
        if measured is not None and abs(self.foreseen_memory_bytes - measured) > _MEMORY_SHARE * measured:
            found.append("memory")
        if dict(self.foreseen_requires) != dict(self.requires):
            found.append("system")
        return tuple(found)


def compare(name: str, work: Path) -> Iterator[Row]:
    """A model's forecasts beside its conversions.

    Raises:
        RuntimeError: a target refuses what it was foreseen to take, or the other way round.
    """
    model = name if name == STUDENT else str(_locate_small_clip(work))
    found = forecast.forecast(
        forecast.components(catalogue.load(model)), tuple(registry.CONVERTERS), tuple(BUILTIN.values())
    )
    for recipe in BUILTIN:
        converted = convert(model, recipe, tuple(registry.CONVERTERS), work)
        for each in (each for each in found if each.recipe == recipe):
            bundle = converted[each.target].bundle
            if (bundle is None) != (each.footprint is None):
                raise RuntimeError(f"{name}, {each.target}, {recipe}: foreseen {each}, got {converted[each.target]}")
            if bundle is None or each.footprint is None:
                continue
            yield Row(
                model=name,
                target=each.target,
                recipe=recipe,
                foreseen_bytes=each.footprint.size_bytes,
                size_bytes=bundle.artefact_bytes,
                foreseen_memory_bytes=each.footprint.peak_memory_bytes,
                measured_memory_bytes=measure_memory(bundle) if each.target in _MEASURED else None,
                foreseen_requires=each.footprint.requires,
                requires=bundle.manifest.requires,
            )


def measure_memory(bundle: Bundle) -> int:
    """What an engine adds at most to a fresh process that opens the bundle and runs the component that needs most."""
    peaks: list[int] = []
    with Local() as machine:
        for component in bundle.components:
            job = {"job": "memory", "bundle": str(bundle.path), "component": component, "threads": 1, "runs": 3}
            *_, said = machine.ask(job, timeout_seconds=600)
            peaks.append(said["result"]["resident_bytes"] - said["result"]["before_bytes"])
    return max(peaks)


def _locate_small_clip(work: Path) -> Path:
    folder = work / "checkpoints" / SMALL_CLIP
    if not (folder / "preprocessor_config.json").is_file():  # the last file to be written
        write_clip(folder, _SMALL)
    return folder


def _off(foreseen: int, measured: int | None) -> str:
    return f"{foreseen / measured - 1:+.1%}" if measured else ""


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and bundles")
    options = parser.parse_args()
    rows = []
    for name in (STUDENT, SMALL_CLIP):
        for row in compare(name, options.work):
            rows.append(row)
            print(
                f"{name:16}{row.target:11}{row.recipe:14} size {_off(row.foreseen_bytes, row.size_bytes):>6}"
                f"  memory {_off(row.foreseen_memory_bytes, row.measured_memory_bytes):>6}  {', '.join(row.misses)}",
                flush=True,
            )
    sizes = [abs(row.foreseen_bytes / row.size_bytes - 1) for row in rows]
    memories = [
        abs(row.foreseen_memory_bytes / row.measured_memory_bytes - 1) for row in rows if row.measured_memory_bytes
    ]
    missed = [row for row in rows if row.misses]
    print(
        f"{len(rows)} conversions: size within {max(sizes):.1%}, memory within {max(memories):.1%}; {len(missed)} miss"
    )
    if options.keep or options.json:
        figures = {
            "rows": [{**asdict(row), "misses": list(row.misses)} for row in rows],
            "largest_size_error": max(sizes),
            "largest_memory_error": max(memories),
            "missed": len(missed),
        }
        keep("forecast", figures, "python -m edgevlm.benchmarks.forecast --work WORK --keep", options.json)


if __name__ == "__main__":
    main()
