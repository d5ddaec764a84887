"""`edgevlm bench` and `edgevlm devices`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgevlm.commands.options import PATH, Number, Share, Whole, as_json
from edgevlm.errors import CannotTell, CheckFailed, InputError
from edgevlm.process import terminal

if TYPE_CHECKING:
    from edgevlm.bench.results import Result
    from edgevlm.devices.profile import Profile
    from edgevlm.emulation.parts import Part

_SECONDS, _PROCESSES = 1.0, 3


@click.command()
@click.argument("bundles", nargs=-1, type=PATH)
@click.option("--device", "devices", multiple=True, help="See edgevlm devices; ssh://USER@HOST; may repeat.")
@click.option(
    "--devices", "profiles", type=PATH, help="YAML file of devices of your own; without --device, all of them."
)
@click.option("--out", type=PATH, default="bench", show_default=True, help="Folder for the report.")
@click.option("--component", "components", multiple=True, help="Only this one: encode_image, prompt ...; may repeat.")
@click.option("--threads", type=Whole(1, 256), multiple=True, help="CPU threads; may repeat; 1, 2, 4 ... if left out.")
@click.option(
    "--seconds", type=Number(0.05, 600), default=_SECONDS, show_default=True, help="Of warm inference, each time."
)
@click.option("--processes", type=Whole(1, 30), default=_PROCESSES, show_default=True, help="That share these seconds.")
@click.option(
    "--sustained", type=Number(0, 3600), default=0.0, metavar="SECONDS", help="Run without a pause, for the heat."
)
@click.option(
    "--peers",
    is_flag=True,
    help="Other toolchains' files of the same model as well: ONNX Runtime, OpenVINO; on a Jetson, CUDA and TensorRT.",
)
@click.option("--compare", type=PATH, nargs=2, metavar="OLD NEW", help="Compare two results.jsonl instead.")
@click.option(
    "--limit", type=Share(10), default="1%", show_default=True, help="With --compare: growth that is no regression."
)
@click.option("--time-limit", type=Share(10), default="5%", show_default=True, help="The same for times.")
@as_json
def bench(
    bundles: tuple[Path, ...],
    devices: tuple[str, ...],
    profiles: Path | None,
    out: Path,
    components: tuple[str, ...],
    threads: tuple[int, ...],
    seconds: float,
    processes: int,
    sustained: float,
    peers: bool,
    compare: tuple[Path, Path] | None,
    limit: float,
    time_limit: float,
    as_json: bool,
) -> None:
    """How fast, how much memory, does it fit: BUNDLES on devices, with how each figure came about.

    A device that is there is measured: this computer (host), or one reached by ssh or adb. One that is not is emulated:
    what it would execute is counted, instruction by instruction, and its latency estimated from that, with a band.
    DEVICE is a name that edgevlm devices lists, an address, or NAME=ADDRESS. Without --device it is host. What earlier
    runs into the same folder found out stays in the report; without BUNDLES it is written again.

    \b
    Examples:
      edgevlm bench dist/*.edgevlm
      edgevlm bench dist/*.edgevlm --device host --device raspberry-pi-5 --device galaxy-s23
      edgevlm bench dist/app-tflite-int8.edgevlm --device raspberry-pi-5=ssh://pi@192.168.1.20 --sustained 300
      edgevlm bench dist/*.edgevlm --devices my-devices.yaml --out nightly
      edgevlm bench --compare yesterday/results.jsonl bench/results.jsonl --limit 1%

    --compare fails (exit code 1) for instructions or sizes that have grown by more than the limit, memory by 5 % and
    1 MB, accuracy that has dropped by 0.001, results that are gone, failures that are new, and median times that have
    surely grown by more than --time-limit. Where a time may have or may not, the exit code is 4: cannot tell. A quiet
    machine helps, and so do more --processes and --seconds in both runs.
    """
    if compare is not None:
        if bundles or devices or profiles:
            raise InputError("--compare takes two results.jsonl and their limits, no bundles and no devices")
        _compare(*compare, limit, time_limit, as_json)
        return
    from edgevlm.bench import bench as run
    from edgevlm.bench.measure import Effort

    known, own = _profiles(profiles)
    request = run.Request(
        bundles=bundles,
        devices=devices or own or ("host",),
        profiles=known,
        out=out,
        components=components,
        effort=Effort(seconds, tuple(dict.fromkeys(threads)) or None, sustained, processes),
        peers=peers,
        options=_options(seconds, processes, sustained, profiles),
    )
    if peers and not any(_measured(name, known) for name in request.devices):
        raise InputError("--peers are measured, and none of the devices is", hint="add --device host, or one's address")
    if (out / run.RESULTS).is_file():
        _note_torn_line(out / run.RESULTS)
    with terminal.progress_bar() as progress:
        found = run.bench(request, progress)
    if as_json:
        _print_json(found)
    else:
        from edgevlm.bench.report.terminal import print_table

        print_table(found)
        terminal.say(f"report: {out / run.PAGE}")
    _exit(found)


def _options(seconds: float, processes: int, sustained: float, profiles: Path | None) -> tuple[str, ...]:
    """What figures depend on, but for what each of them names itself."""
    given = [] if seconds == _SECONDS else ["--seconds", f"{seconds:g}"]
    given += [] if processes == _PROCESSES else ["--processes", str(processes)]
    given += ["--sustained", f"{sustained:g}"] if sustained else []
    return (*given, *(("--devices", str(profiles)) if profiles else ()))


def _measured(name: str, known: dict[str, Profile]) -> bool:
    """Whether a device is one that is there; an unknown one may be meant to be."""
    return "://" in name or name not in known or known[name].reach in ("local", "ssh")


def _profiles(path: Path | None) -> tuple[dict[str, Profile], tuple[str, ...]]:
    """All profiles by name, and the names of a user's own."""
    from edgevlm.devices import profile

    own = profile.read(path) if path else {}
    return {**profile.builtin(), **own}, tuple(own)


def _print_json(found: tuple[Result, ...]) -> None:
    from edgevlm.bench.results import to_json

    terminal.print_json({"results": [to_json(each) for each in found]})


def _note_torn_line(path: Path) -> None:
    from edgevlm.bench import results

    if said := results.torn_line(path):
        terminal.say(f"note: {said}", err=True)


def _exit(found: tuple[Result, ...]) -> None:
    from edgevlm.bench.results import Emulated, Failed

    if any(isinstance(each, Failed) for each in found):
        sys.exit(InputError.exit_code)
    if any(isinstance(each, Emulated) and each.warnings for each in found):
        sys.exit(CheckFailed.exit_code)


def _compare(old: Path, new: Path, limit: float, time_limit: float, as_json: bool) -> None:
    from edgevlm.bench import compare

    for path in (old, new):
        _note_torn_line(path)
    found = compare.compare(old, new, limit, time_limit)
    if as_json:
        terminal.print_json(compare.to_json(found))
    else:
        from edgevlm.bench.report.terminal import print_comparison

        print_comparison(found)
    if found.answer == "regression":
        sys.exit(CheckFailed.exit_code)
    if found.answer == "cannot tell":
        raise CannotTell(
            f"cannot tell whether {len(found.unknown)} of the times have grown by more than {100 * time_limit:g} %",
            hint="measure both again with --processes 10 --seconds 5, on a quieter machine; --time-limit allows more",
        )


@click.group(invoke_without_command=True)
@click.option("--devices", "profiles", type=PATH, help="YAML file of devices of your own, to list as well.")
@click.option("--show", metavar="NAME", help="Print this device's profile, to copy and change.")
@as_json
@click.pass_context
def devices(context: click.Context, profiles: Path | None, show: str | None, as_json: bool) -> None:
    """List the devices that edgevlm bench knows, and how each is asked.

    \b
    Examples:
      edgevlm devices
      edgevlm devices --show raspberry-pi-5
      edgevlm devices setup raspberry-pi-5
    """
    if context.invoked_subcommand:
        return
    from edgevlm import schema
    from edgevlm.devices.profile import find

    known, _ = _profiles(profiles)
    if show is not None:
        import yaml

        profile = schema.write(find(show, known))
        shown = {show: {key: value for key, value in profile.items() if value not in ("", 0, 0.0, [])}}
        print(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=120), end="")
    elif as_json:
        terminal.print_json({"devices": schema.write(known)})
    else:
        rows = [_row(name, profile) for name, profile in known.items()]
        terminal.table(None, ("device", "", "chip", "processor", ">memory", "asked by"), rows)


def _row(name: str, profile: Profile) -> tuple[str, ...]:
    from edgevlm.bench.estimates.published import points

    processor = " + ".join(f"{each.cores} x {each.core} {each.clock_mhz / 1e3:.1f} GHz" for each in profile.cpu)
    asked = {
        "local": "running it here",
        "qemu-user": "counting what it would execute",
        "none": "estimating from published latencies"
        if any(point.device == name for point in points().accelerators)
        else "nobody has published a latency",
    }
    memory = f"{profile.memory_mb / 1024:.0f} GB" if profile.memory_mb else ""
    how = profile.address or asked.get(profile.reach, f"{profile.reach}: needs an address")
    return name, profile.title, profile.chip, processor, memory, how


@devices.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--devices", "profiles", type=PATH, help="YAML file of devices of your own.")
@as_json
def setup(names: tuple[str, ...], profiles: Path | None, as_json: bool) -> None:
    """Fetch and build what emulating the devices NAMES takes, once: from Debian's packages and the Python registry.

    \b
    Examples:
      edgevlm devices setup raspberry-pi-5
    """
    from edgevlm.devices.profile import find
    from edgevlm.emulation import board_image
    from edgevlm.emulation import setup as emulation

    known, _ = _profiles(profiles)
    parts: dict[str, Part] = {}
    with terminal.progress_bar() as progress:
        for name in names:
            ready = emulation.setup(find(name, known), progress)
            parts |= {part.name: part for part in (*ready.parts, board_image.part(progress))}
    if as_json:
        found = [{"part": part.name, "version": part.version, "size_bytes": part.size_bytes} for part in parts.values()]
        terminal.print_json({"parts": found})
        return
    rows = [(part.name, part.version, f"{part.size_bytes / 1e6:.1f}") for part in parts.values()]
    terminal.table(None, ("part", "version", ">MB"), rows)
