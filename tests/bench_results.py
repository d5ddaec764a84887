"""Invented benchmark results, for tests of pages only: no machine ever gave these figures."""

from __future__ import annotations

from edgevlm.bench.results import Artefact, Emulated, Estimated, Failed, Measured, Process, Result
from edgevlm.onboard.figures import Counts, Memory, Spread, Sustained, System, Times, Window

COMPONENTS = ("encode_image", "encode_text")
RECIPES = {"fp32": (1.0, 1.0), "fp16": (0.5, 0.999998), "int8": (0.26, 0.9962), "int8-static": (0.255, 0.9884)}
RECIPES |= {"int4-weights": (0.15, 0.9521)}
SPEED = {"fp32": 1.0, "fp16": 0.94, "int8": 0.41, "int8-static": 0.38, "int4-weights": 0.63}
TARGETS = {"tflite": 1.0, "executorch": 1.21, "onnxruntime": 0.97, "openvino": 1.05}


def artefact(recipe: str, target: str, *, model: str = "clip-vit-small", megabytes: float = 88.4) -> Artefact:
    share, accuracy = RECIPES[recipe]
    known = None if target == "openvino" else accuracy
    sha256 = f"{abs(hash_of(model + recipe + target)):016x}" * 4
    return Artefact(f"{model}-{target}-{recipe}", model, target, recipe, sha256, int(megabytes * 1e6 * share), known)


def hash_of(text: str) -> int:
    """A number that is the same in every process."""
    return int.from_bytes(text.encode()[-7:], "big")


def spread(median: float) -> Spread:
    return Spread(median, median * 1.12, median * 1.31, median * 0.97, median * 1.9, 60)


def system(model: str, *, emulator: str | None = None, load: float = 0.12) -> System:
    versions = {"edgevlm": "0.1.0", "numpy": "2.4.6", "ai-edge-litert": "2.3.0"}
    processor = "Cortex-A76" if emulator or "Pi" in model else "AMD EPYC"
    architecture = "aarch64" if "Pi" in model or emulator else "x86_64"
    clock = None if emulator else 2400.0
    heat = None if emulator else 48.5
    return System(
        model, processor, architecture, 4, 8_000_000_000, "Debian 12", "3.11.7", "performance", clock, clock, heat,
        load, emulator, versions,
    )  # fmt: skip


def memory(size_bytes: int) -> Memory:
    anonymous, mapped = 21_000_000 + size_bytes // 2, 9_000_000 + size_bytes
    return Memory(anonymous, mapped, anonymous + mapped, 18_500_000)


def measured(device: str, what: Artefact, component: str, threads: int, median: float, **more: object) -> Measured:
    image = component == "encode_image"
    times = Times(
        41.3 + what.size_bytes / 1e6,
        0.42,
        median * 2.3,
        spread(median),
        spread(3.21) if image else None,
        None if image else spread(0.187),
        spread(0.021),
        1.3,
        spread(8.7) if image else None,
    )
    processes = tuple(Process(median * share, 20, 1.3) for share in (0.99, 1.0, 1.01))
    return Measured(
        device, what, component, threads, times, memory(what.size_bytes), system(f"Test board {device}"),
        f"edgevlm bench {what.name}.edgevlm --device {device} --threads {threads}", processes=processes, **more,
    )  # type: ignore[arg-type]  # fmt: skip


def emulated(device: str, what: Artefact, component: str, *, fits: bool | None = True) -> Emulated:
    work = int(what.size_bytes * 5.17) + (0 if component == "encode_image" else 12_345)
    integer = work // 2 if "int8" in what.recipe else 0
    counts = Counts(work, work // 3 - integer // 4, integer, integer // 16, 0, work * 2, work // 7)
    return Emulated(
        device, what, component, "cortex-a76", "cortex-a78ae", counts,
        Counts(work * 4, work // 3, integer, integer // 16, 0, work * 5, work), memory(what.size_bytes), fits,
        512_000_000, system("virt", emulator="QEMU 7.2"), f"edgevlm bench {what.name}.edgevlm --device {device}",
        ("no dot products, though the CPU has them",) if what.recipe == "int8-static" else (),
    )  # fmt: skip


def estimated(device: str, what: Artefact, component: str, threads: int, middle: float) -> Estimated:
    return Estimated(
        device, what, component, threads, middle * 0.72, middle, middle * 1.43, "instructions",
        ("MobileNetV2 fp32, 46 ms: a published page", "ViT, 1,900 ms: another published page"), 0.234,
        f"edgevlm bench {what.name}.edgevlm --device {device}",
    )  # fmt: skip


def sustained() -> Sustained:
    windows = tuple(
        Window(float(second), 18.0 + max(0, second - 30) * 0.12, 46.0 + 38 * (1 - 0.96**second), 2400.0 - 8 * second)
        for second in range(1, 91)
    )
    return Sustained(windows, "soft temperature limit reached")


def realistic() -> tuple[Result, ...]:
    """A real board and the host measured, an emulated board with estimates, a phone with estimates only, failures."""
    ours = [artefact(recipe, target) for target in ("tflite", "executorch") for recipe in RECIPES]
    peers = [artefact("int8", "onnxruntime"), artefact("fp32", "openvino")]
    results: list[Result] = []
    for device, speed in (("raspberry-pi-5", 9.0), ("host", 1.0)):
        for index, what in enumerate(ours + peers):
            for component in COMPONENTS:
                for threads in (1, 2, 4):
                    base = 31.7 * SPEED[what.recipe] * TARGETS[what.target] * speed
                    median = base / threads**0.8 / (1 if component == "encode_image" else 3.7)
                    long = (
                        sustained()
                        if (index, component, threads, device) == (2, "encode_image", 4, "raspberry-pi-5")
                        else None
                    )
                    results.append(measured(device, what, component, threads, median, sustained=long))
    for what in ours:
        for component in COMPONENTS:
            results.append(emulated("jetson-orin-nano", what, component, fits=what.recipe != "fp32"))
            middle = 64.9 * SPEED[what.recipe] * TARGETS[what.target]
            results.append(estimated("jetson-orin-nano", what, component, 1, middle))
    results += [
        estimated("galaxy-s23", ours[0], "encode_image", 4, 0.87),
        emulated("pixel-3a", ours[2], "encode_image"),
    ]
    results.append(
        Failed("iphone-15-pro", None, "nothing can be estimated: no calibration point", "give it an address")
    )
    results.append(Failed("raspberry-pi-5", ours[1], "killed: out of memory\nanon-rss 301 MB", None, "encode_text"))
    return tuple(results)


def many() -> tuple[Result, ...]:
    """8 devices, 12 artefacts, 2 components."""
    what = [artefact(recipe, target, model=model) for model in ("clip-vit-small", "siglip-base") for target in
            ("tflite", "executorch") for recipe in ("fp32", "int8", "int4-weights")]  # fmt: skip
    results: list[Result] = []
    for device in range(8):
        for index, each in enumerate(what):
            for component in COMPONENTS:
                middle = (3 + index / 7) * SPEED[each.recipe] * TARGETS[each.target] * 1.9**device
                if device % 2:
                    results.append(emulated(f"device-{device}", each, component))
                    results.append(estimated(f"device-{device}", each, component, 1, middle))
                else:
                    results += [measured(f"device-{device}", each, component, n, middle / n**0.7) for n in (1, 4)]
    return tuple(results)


HOSTILE = (
    "<script>alert(1)</script>", "\"quoted\" 'single' & &amp; </style></title></svg>", "| a | b |\n---\n# head",
    "`tick` **bold** _it_ [link](http://example.invalid/x) <img src=http://example.invalid/y>",
    "Ωmega-模型-نموذج-🤖" * 3, "x" * 400, "\u202eright to left\x00\x07\ud800",
)  # fmt: skip


def hostile() -> tuple[Result, ...]:
    """Names and texts that break a page that trusts them."""
    results: list[Result] = []
    for text in HOSTILE:
        what = Artefact(text, text, text, text, text, 1_234_567, 0.98765)
        board = System(text, text, text, 1, 1, text, text, text, None, None, None, 0.0, text, {text: text})
        times = Times(1.0, None, 2.0, spread(3.0))
        results.append(
            Measured(text, what, text, 1, times, None, board, text, Sustained((Window(1.0, 2.0, None, None),), text))
        )
        results.append(Emulated(text, what, text, text, text, None, None, None, False, None, board, text, (text,)))
        results.append(Estimated(text, what, text, 1, 1.0, 2.0, 3.0, "bandwidth", (text,), 0.1, text))
        results.append(Failed(text, what, text, text, text))
    return tuple(results)


CASES: dict[str, tuple[Result, ...]] = {
    "realistic": realistic(),
    "many": many(),
    "hostile": hostile(),
    "none": (),
    "failures": tuple(each for each in realistic() if isinstance(each, Failed)),
    "one": realistic()[:1],
}
