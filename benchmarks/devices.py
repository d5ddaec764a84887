"""The kept report: the student and a CLIP of ViT-B/32's size in two recipes, here and on devices that are not here.

    python -m edgevlm.benchmarks.devices --work WORK [--keep]

Writes the checkpoint, converts both, and calls `edgevlm bench` once: this computer is measured, with other toolchains'
files beside ours; the boards and the phone are emulated, which takes QEMU and, for the CLIP, most of an hour. With
`--keep` the report, its results and a picture of its head (by Chromium) go to benchmarks/results/devices.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import edgevlm
from edgevlm.benchmarks.checkpoints import write_clip
from edgevlm.benchmarks.measuring import RESULTS

DEVICES = ("host", "raspberry-pi-4", "raspberry-pi-5", "jetson-orin-nano", "galaxy-s23")
CLIP = "clip-vit-b32"
ARTEFACTS = (
    *(("edgevlm-student", target, recipe) for target in ("tflite", "executorch") for recipe in ("fp32", "int8")),
    *((CLIP, "tflite", recipe) for recipe in ("fp32", "int8")),
)
KEPT = RESULTS / "devices"
_FILES = ("report.html", "report.md", "results.jsonl")


def make() -> list[str]:
    """Converts in the working directory what is not there yet; the bundles' paths, as rows repeat them."""
    if not Path(CLIP, "preprocessor_config.json").is_file():  # the last file to be written
        write_clip(Path(CLIP))
    paths = []
    for model, target, recipe in ARTEFACTS:
        path = f"dist/{model}-{target}-{recipe}.edgevlm"
        if not Path(path).is_dir():
            edgevlm.convert(model, target=target, recipe=recipe, out="dist")
        paths.append(path)
    return paths


def draw_head(page: Path, picture: Path) -> None:
    """What a reader sees first, 1280 x 1400 pixels, as Chromium draws it."""
    browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    drawn = ["--window-size=1280,1400", f"--screenshot={picture}", page.resolve().as_uri()]
    subprocess.run([*browser, *drawn], check=True, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints, bundles and the report")
    parser.add_argument("--keep", action="store_true", help="keep the report in benchmarks/results/devices")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    os.chdir(options.work)
    devices = [word for device in DEVICES for word in ("--device", device)]
    words = ["bench", *make(), *devices, "--peers", "--out", "devices"]
    print(f"edgevlm {shlex.join(words)}", flush=True)
    subprocess.run([sys.executable, "-m", "edgevlm", *words], check=True)
    if options.keep:
        KEPT.mkdir(exist_ok=True)
        for name in _FILES:
            shutil.copy(Path("devices", name), KEPT / name)
        draw_head(KEPT / "report.html", KEPT / "report.png")
        print(f"kept in {KEPT}")


if __name__ == "__main__":
    main()
