"""`edgevlm tune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgevlm.commands import options
from edgevlm.commands.options import PATH, Share, Whole, as_json

if TYPE_CHECKING:
    from edgevlm.tuning.tuning import Tuned


@click.command()
@click.argument("model", required=False, default="edgevlm-student")
@click.option("--target", required=True, help="coreml, executorch or tflite.")
@click.option(
    "--data", required=True, metavar="DATA", help="Pictures with labels, captions or questions; see edgevlm evaluate."
)
@click.option("--max-drop", type=Share(signed=True), default="0.5%", show_default=True, help="Accuracy to lose.")
@click.option("--calibration", metavar="DATA", help="Pictures to measure ranges on; left out, others of --data.")
@click.option("--calibration-texts", type=PATH, help="Texts to measure ranges on, one a line.")
@click.option("--pictures", type=Whole(20), show_default="500; 100 where MODEL talks", help="Of --data to ask about.")
@click.option("--smallest", "objective", flag_value="size", default="size", help="Search for the smallest. [default]")
@click.option("--fastest", "objective", flag_value="latency", help="Search for the fastest.")
@click.option("--images", type=PATH, help="Folder of the pictures that a file of captions or questions names.")
@options.context
@options.picture_size
@click.option("--out", type=PATH, default="tuned", show_default=True, help="Folder for what is found.")
@as_json
def tune(
    model: str,
    target: str,
    data: str,
    max_drop: float,
    calibration: str | None,
    calibration_texts: Path | None,
    pictures: int | None,
    objective: str,
    images: Path | None,
    context_length: int | None,
    picture_size: tuple[int, int] | None,
    out: Path,
    as_json: bool,
) -> None:
    """Find the smallest or fastest recipe for MODEL that still does its task.

    The task is zero-shot: to name each picture by its own label or caption among all of the data's. Each layer is
    quantised alone to see what it costs; then recipes are converted, asked about your pictures and timed, with the most
    sensitive layers left in float where too much is lost. The recipe is written to a file that edgevlm convert --recipe
    takes. Stopped, the same command goes on where it was.

    Of a MODEL that talks, --data is a file of questions, as edgevlm evaluate takes them, whose benchmark judges the
    answers; or any pictures, which it describes: what may be lost then is of the tokens that the float model says.
    Blocks of layers are quantised alone, and compared by the divergence of what comes next.

    \b
    Examples:
      edgevlm tune --target tflite --data scenes:combinations:500:1
      edgevlm tune ./my-clip --target coreml --data photos/ --max-drop 1% --out tuned-coreml
      edgevlm tune my-student --target executorch --data coco_val.json --images val2017 --fastest
      edgevlm tune ./my-smolvlm --target tflite --data coco_pope_random.json --images val2014 --context 2048
    """
    from edgevlm import schema
    from edgevlm.errors import InputError
    from edgevlm.process import interrupts, terminal
    from edgevlm.targets import registry

    if target not in registry.targets():
        raise InputError(f"no target {target!r}: expected one of {', '.join(registry.targets())}")
    with terminal.progress_bar() as progress, interrupts.advice("the same command goes on from here"):
        from edgevlm.compression.calibration import CalibrationSource
        from edgevlm.tuning.request import TuneRequest

        if calibration is None and calibration_texts is not None:
            raise InputError("--calibration-texts needs --calibration: it goes with its pictures")
        source = None if calibration is None else CalibrationSource(calibration, calibration_texts)
        request = TuneRequest(
            model, target, data, out, round(100 * max_drop, 9), source, pictures,
            "latency" if objective == "latency" else "size", images, context_length, picture_size,
        )  # fmt: skip
        _ = request.opened  # what there is to say of the data is said before torch is imported, which takes seconds

        from edgevlm.tuning.tuning import tune as run

        tuned = run(request, progress)
    if as_json:
        terminal.print_json(schema.write(tuned) | {"recipe_file": str(tuned.recipe_file)})
    else:
        _show(tuned, out)


def _show(tuned: Tuned, out: Path) -> None:
    from edgevlm.process import terminal

    rows = [
        (
            terminal.Cell(trial.recipe.name, "green" if trial is tuned.best else ""),
            f"{trial.size_bytes / 1e6:.2f} MB",
            f"{trial.compressed_size_bytes / 1e6:.2f} MB",
            f"{100 * trial.score.accuracy:.1f}",
            f"{trial.drop:+.1f}",
            f"{100 * trial.score.agreement:.1f}",
            f"{trial.latency_ratio:.2f}x" if trial.latency_ratio is not None else "–",
        )
        for trial in tuned.trials
        if trial.error is None
    ]
    headings = ("recipe", ">size", ">compressed", f">{tuned.counts}, %", ">drop", ">as float %", ">time")
    if tuned.words:
        asked, one = f"{tuned.pictures} pictures, {tuned.words} texts to choose from", "picture"
    else:
        asked, one = f"{tuned.pictures} questions", "question"
    terminal.say(
        f"{asked}: in float32 {100 * tuned.accuracy:.1f} % {tuned.counts}, and one {one} is "
        f"{100 / tuned.pictures:.2g} points"
    )
    terminal.table(None, headings, rows)
    for trial in tuned.trials:
        if trial.error is not None:
            terminal.say(f"{trial.recipe.name}: {trial.error}", err=True)
    terminal.say(f"recipe: {tuned.recipe_file}")
    terminal.say(f"pictures: {out / 'trade-off.svg'}, {out / 'sensitivity.svg'}")
    terminal.say(f"next: {tuned.next_command}", err=True)
