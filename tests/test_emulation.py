"""What is counted on emulated Arm processors: single instructions, exactly; then real bundles, with real libraries."""

from __future__ import annotations

import shutil
import stat
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import arm_instructions as arm
import library
import numpy as np
import pytest
from debian import repository
from fetching import skipped_offline

from edgevlm.bench.artefacts import describe
from edgevlm.bench.measure import Effort
from edgevlm.bench.results import Emulated, Estimated, Failed
from edgevlm.bench.worker import Assignment, examine
from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.recipe import BUILTIN
from edgevlm.conversion import pipeline
from edgevlm.devices.device import resolve
from edgevlm.devices.profile import Cluster, builtin
from edgevlm.emulation import counting, plugin, processor, root, runner, tools
from edgevlm.emulation.counting import Emulation, dispatch_warnings, emulate, steady
from edgevlm.emulation.parts import Part
from edgevlm.emulation.setup import Setup, prepare, setup
from edgevlm.errors import BundleError, DeviceError, EdgeVLMError, OutOfMemory
from edgevlm.inference.generator import generator_of
from edgevlm.onboard.answers import Part as AnswerPart
from edgevlm.onboard.engines import sample_inputs, sample_jpeg
from edgevlm.onboard.figures import Counts
from edgevlm.process import interrupts, store
from edgevlm.targets import registry

PI_4, PI_5 = (builtin()[name].cpu[0] for name in ("raspberry-pi-4", "raspberry-pi-5"))
NEEDED = ("qemu-aarch64", "setarch", "gcc", "aarch64-linux-gnu-gcc", "aarch64-linux-gnu-g++", "apt-get", "dpkg")
missing = [program for program in NEEDED if shutil.which(program) is None]
emulates = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@pytest.fixture
def ready() -> Setup:
    with skipped_offline():
        return prepare(["tflite", "executorch"])


@pytest.fixture(scope="module", params=["tflite", "executorch"])
def student(request: pytest.FixtureRequest) -> Bundle:
    """The built-in student in int8."""
    return library.student(request.param, "int8")


# The plugin


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Counts]:
    """Counts at each mark of a program that holds every case of the table."""
    folder = tmp_path_factory.mktemp("a, folder")
    (folder / "cases.s").write_text(arm.program())
    build = ["aarch64-linux-gnu-gcc", "-nostdlib", "-static", "-o", folder / "cases", folder / "cases.s"]
    subprocess.run(build, check=True)
    command = [tools.qemu().path, "-cpu", "max", *plugin.arguments(plugin.build(), folder / "counts")]
    subprocess.run([*command, folder / "cases"], check=True)
    return plugin.read(folder / "counts")


@emulates
@pytest.mark.parametrize(("index", "case"), enumerate(arm.cases()), ids=[each.instruction for each in arm.cases()])
def test_an_instruction_counts_as_the_manual_says(counted: dict[int, Counts], index: int, case: arm.Case) -> None:
    found = asdict(plugin.between(counted[2 * index], counted[2 * index + 1]))
    expected = dict.fromkeys(found, 0) | {kind: number * arm.LOOPS for kind, number in case.counts.items()}
    assert found == expected | {"instructions": arm.OVERHEAD + arm.IN_LOOP * arm.LOOPS}


@emulates
def test_the_plugin_refuses_what_it_cannot_count(tmp_path: Path) -> None:
    library = plugin.build().path / "counts.so"
    for argument, message in (("", "expected one argument"), (f",out={tmp_path}/none/counts", "No such file")):
        command = [tools.qemu().path, "-plugin", f"{library}{argument}", "/bin/true"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert message in done.stderr
    with pytest.raises(DeviceError, match="wrote no counts"):
        plugin.read(tmp_path / "none")


# What is missing


def fake(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_a_missing_program_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for program, package in (
        ("qemu-aarch64", "qemu-user"),
        ("gcc", "gcc"),
        ("aarch64-linux-gnu-g++", "g++-aarch64-linux-gnu"),
        ("dpkg", "Debian"),
    ):
        with pytest.raises(DeviceError, match="not installed") as raised:
            tools.find(program)
        assert program in raised.value.message
        assert package in (raised.value.hint or "")
    for work in (
        lambda: setup(builtin()["raspberry-pi-5"]),
        root.prepare,
        plugin.build,
        lambda: runner.build("3.11"),
    ):
        with pytest.raises(DeviceError, match=r"needs .*, which is not installed here"):
            work()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo qemu-aarch64 version 9.2.1", r"expected QEMU 7\.2 to 8\.2.*got 9\.2\.1"),
        ("echo qemu-aarch64 version 5.2.0", r"expected QEMU 7\.2 to 8\.2.*got 5\.2\.0"),
        ("echo qemu-aarch64 version 8.1.0", "built without plugins"),
        ("echo something else", "expected a version of QEMU"),
        ("echo error: broken >&2; exit 1", "error: broken"),
    ],
)
def test_an_unsuitable_qemu_is_refused(
    script: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(tmp_path, "qemu-aarch64", script)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match=message):
        tools.qemu()


@emulates
def test_sources_without_arm64_packages_are_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(root, "_APT", tmp_path / "apt")
    (tmp_path / "apt").mkdir()
    with pytest.raises(DeviceError, match="no apt source of"):
        root.prepare()
    codename = root._codename()
    (tmp_path / "apt" / "sources.list").write_text(f"deb [trusted=yes] file:{tmp_path}/none {codename} main\n")
    with pytest.raises(DeviceError, match=r"cannot (read|find|fetch)") as raised:
        root.prepare()
    assert "sources that have arm64 packages" in (raised.value.hint or "")
    assert list((tmp_path / "cache").rglob("*")) == []


@emulates
def test_a_root_file_system_is_unpacked_from_the_releases_own_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "folder", lambda: tmp_path / "cache")
    packages = {
        "python3": {"usr/bin/python3.11-config": b"", "usr/bin/python3.11": b"python", "usr/bin/python3": b"python"},
        "libstdc++6": {},
        "libgomp1": {},
        "libc6": {"lib/aarch64-linux-gnu/libc.so.6": b"libc"},
    }
    codename = root._codename()
    etc = repository(tmp_path / "debian", codename, packages, {"python3": "libc6"})
    (etc / "sources.list.d").mkdir()
    other = etc / "sources.list.d" / "other.list"  # of another suite, which is not asked
    other.write_text(f"deb file:{tmp_path}/nowhere other main\n")
    monkeypatch.setattr(root, "_APT", etc)
    told: list[tuple[str, float | None]] = []
    made = root.prepare(lambda *words: told.append(words))
    assert (made.name, made.version, root.python(made)) == ("arm64 system", codename, "3.11")
    files = {str(path.relative_to(made.path)): path.read_bytes() for path in made.path.rglob("*") if path.is_file()}
    assert files == {name: content for each in packages.values() for name, content in each.items()}
    assert told[0] == ("reading arm64 package lists", None)
    assert [each for each in told if "unpacking" in each[0]] == [
        ("unpacking arm64 packages", index / 4) for index in range(4)
    ]
    assert root.prepare(lambda stage, _: pytest.fail(stage)) == made
    (made.path / "usr" / "bin" / "python3.11").unlink()
    with pytest.raises(DeviceError, match=r"expected usr/bin/python3\.x, found none"):
        root.python(made)
    (tmp_path / "debian" / "libc6.deb").unlink()
    with pytest.raises(DeviceError, match="cannot fetch arm64 packages: E: ") as raised:
        root.prepare(packages=["libc6"])
    assert "a network, once" in (raised.value.hint or "")
    with pytest.raises(DeviceError, match="cannot find arm64 packages of nonsense: E: Unable to locate package"):
        root.prepare(packages=["nonsense"])
    monkeypatch.setattr(root, "_OS_RELEASE", other)
    with pytest.raises(DeviceError, match="expected VERSION_CODENAME, such as bookworm"):
        root.prepare()


def test_an_interrupted_part_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "folder", lambda: tmp_path)

    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise DeviceError("no space")

    with pytest.raises(DeviceError):
        store.keep("part", ["a"], fail)
    assert list(tmp_path.iterdir()) == []
    made = store.keep("part", ["a"], lambda folder: (folder / "whole").write_bytes(bytes(3)) and None)
    assert store.keep("part", ["a"], fail) == made
    assert store.keep("part", ["b"], lambda folder: None) != made
    assert Part("part", made, "").size_bytes == (made / "whole").stat().st_blocks * 512 > 0


def test_what_cannot_be_emulated_says_so() -> None:
    with pytest.raises(DeviceError, match="iPhone 15 Pro: expected a cluster with qemu_cpu"):
        setup(builtin()["iphone-15-pro"])
    with pytest.raises(DeviceError, match="expected a bundle for tflite or executorch"):
        prepare(["coreml"])


# Real bundles


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def assert_same_answer(found: Emulation, bundle: Bundle, component: str, inputs: dict[str, np.ndarray]) -> None:
    with registry.runtime(bundle.manifest.target).open(bundle, threads=1) as session:
        expected = session.run(component, inputs)
    assert list(found.outputs) == list(expected)
    for name, answer in expected.items():
        assert cosine(found.outputs[name], answer) > 0.9999


@pytest.mark.slow
@emulates
def test_a_bundle_runs_the_kernels_that_each_core_has(ready: Setup, student: Bundle) -> None:
    inputs = sample_inputs(student, "encode_image")
    said: list[tuple[str, float | None]] = []
    a72 = emulate(student, "encode_image", inputs, PI_4, progress=lambda *words: said.append(words))
    a76 = emulate(student, "encode_image", inputs, PI_5)
    for found in (a72, a76):
        assert_same_answer(found, student, "encode_image", inputs)
        assert len(found.runs) == 3
        assert found.load.instructions > 1.2 * steady(found.runs).instructions  # weights are packed
    old, new = steady(a72.runs), steady(a76.runs)
    assert (old.dot_products, old.matrix_products, new.matrix_products) == (0, 0, 0)
    assert 4 * 4 * new.dot_products <= new.integer_multiply_adds < 4 * 4 * new.dot_products * 1.05
    assert new.instructions < 0.8 * old.instructions
    for each in ("float_multiply_adds", "integer_multiply_adds"):  # the same work, up to rows that are filled up
        assert getattr(new, each) == pytest.approx(getattr(old, each), rel=0.1)
    assert said[-1][0] == "counting encode_image on cortex-a72"
    assert any(share for _, share in said)
    assert (dispatch_warnings(student, old, PI_4), dispatch_warnings(student, new, PI_5)) == ((), ())
    (warning,) = dispatch_warnings(student, old, PI_5)
    assert "Cortex-A76 multiplies int8 with dot products, and none was executed" in warning
    (warning,) = dispatch_warnings(student, new, replace(PI_5, core="Kryo", dot_product=False))
    assert "stands in for Kryo" in warning


@pytest.mark.slow
@emulates
def test_counting_again_gives_the_same(ready: Setup, student: Bundle) -> None:
    one, other = (counting.count(student, "encode_image", PI_5, runs=2) for _ in range(2))
    first, load, second, again = one.steady, one.load, other.steady, other.load
    tolerance = 1e-6 if student.manifest.target == "executorch" else 1e-3
    assert first.instructions == pytest.approx(second.instructions, rel=tolerance)
    assert load.instructions == pytest.approx(again.instructions, rel=10 * tolerance)
    for each in ("float_multiply_adds", "integer_multiply_adds", "dot_products"):
        assert getattr(first, each) == getattr(second, each)


@pytest.mark.slow
@emulates
def test_a_token_costs_the_same_wherever_it_stands_in_a_context(ready: Setup) -> None:
    bundle = library.talker("blip", "tflite", "fp32")
    early, late = (counting.count(bundle, name, PI_5, runs=2) for name in ("token_at_8", "token_at_32"))
    assert (early.positions, late.positions) == (1, 1)
    assert early.steady.float_multiply_adds == late.steady.float_multiply_adds > 10_000
    assert early.steady.instructions == pytest.approx(late.steady.instructions, rel=0.02)
    assert late.load.instructions < 2 * early.load.instructions  # what fills the context is no part of opening it
    with generator_of(bundle, registry.runtime("tflite").open(bundle, threads=1)) as model:
        expected = AnswerPart(model, "token_at_32", sample_jpeg()).run()
    assert cosine(late.outputs["token_at_32"], expected) > 0.9999


@pytest.mark.slow
@emulates
@pytest.mark.parametrize("recipe", ["int8", "int4-weights"])
def test_texts_are_embedded_by_the_kernels_that_a_core_has(recipe: str, ready: Setup, tmp_path: Path) -> None:
    request = pipeline.Request(library.checkpoint("clip"), ("executorch",), BUILTIN[recipe], tmp_path)
    (outcome,) = pipeline.convert(request)
    assert outcome.bundle is not None
    inputs = sample_inputs(outcome.bundle, "encode_text")
    found = emulate(outcome.bundle, "encode_text", inputs, PI_5, runs=1)
    assert_same_answer(found, outcome.bundle, "encode_text", inputs)
    assert found.runs[0].dot_products > 0


@pytest.mark.slow
@emulates
def test_float16_bundles_also_run_on_a_core_without_float16_arithmetic(ready: Setup, tmp_path: Path) -> None:
    request = pipeline.Request(library.checkpoint("clip"), ("executorch",), BUILTIN["fp16"], tmp_path, image_only=True)
    (outcome,) = pipeline.convert(request)
    assert outcome.bundle is not None
    inputs = sample_inputs(outcome.bundle, "encode_image")
    without, having = (emulate(outcome.bundle, "encode_image", inputs, core) for core in (PI_4, PI_5))
    for found in (without, having):
        assert_same_answer(found, outcome.bundle, "encode_image", inputs)
        assert steady(found.runs).float_multiply_adds > 100_000
    assert steady(without.runs).bytes_loaded > 1.4 * steady(having.runs).bytes_loaded  # of float32


@pytest.mark.slow
@emulates
def test_a_stand_ins_dot_products_are_not_used_where_the_core_has_none(ready: Setup, student: Bundle) -> None:
    pixel = builtin()["pixel-3a"].cpu[0]
    assert (pixel.qemu_cpu, pixel.dot_product) == ("cortex-a76", False)
    found = counting.count(student, "encode_image", pixel, runs=1).steady
    assert found.dot_products == 0
    assert dispatch_warnings(student, found, pixel) == ()


@pytest.mark.slow
@emulates
def test_a_component_that_fails_there_says_why(ready: Setup, student: Bundle, tmp_path: Path) -> None:
    (artefact,) = {each.file for each in student.components.values()}
    shutil.copytree(student.path, tmp_path / "damaged")
    content = (student.path / artefact).read_bytes()
    (tmp_path / "damaged" / artefact).write_bytes(content[: len(content) // 2])
    inputs = sample_inputs(student, "encode_image")
    with pytest.raises(EdgeVLMError) as raised:
        emulate(Bundle(tmp_path / "damaged", student.manifest), "encode_image", inputs, PI_5)
    assert artefact in raised.value.message or "ExecuTorch's error" in raised.value.message
    with pytest.raises(DeviceError, match="QEMU has no processor like it"):
        emulate(student, "encode_image", inputs, Cluster("A14", 2, 3000))


# What is around the guest, with a stand-in for it


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    """What counting needs, without what is fetched for it: the guest is tests/guest_stand_in.c."""
    counter = plugin.build()  # before the cache is another
    monkeypatch.setattr(store, "folder", lambda: tmp_path / "cache")
    programs = (tmp_path / "root" / "usr" / "bin" / "python3.11", tmp_path / "runner" / runner.PROGRAM)
    for each in programs:
        each.parent.mkdir(parents=True)
    source = Path(__file__).with_name("guest_stand_in.c")
    subprocess.run(["aarch64-linux-gnu-gcc", "-O1", "-static", "-o", programs[0], source], check=True)
    shutil.copy(programs[0], programs[1])
    system, packages, built = (Part(each, tmp_path / each, "") for each in ("root", "packages", "runner"))
    made = Setup(tools.qemu(), system, counter, (packages,), built)
    monkeypatch.setattr(counting, "prepare", lambda targets, progress: made)
    return made


@emulates
@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("target", ["tflite", "executorch"])
def test_a_guests_runs_are_told_apart_and_its_answer_comes_back(target: str) -> None:
    bundle = library.tower_bundle(target, "fp32")
    inputs = sample_inputs(bundle, "encode_image")
    told: list[tuple[str, float | None]] = []
    found = emulate(bundle, "encode_image", inputs, PI_5, runs=2, progress=lambda *words: told.append(words))
    np.testing.assert_array_equal(found.outputs["embedding"], inputs["pixels"].ravel()[:32])
    assert [each.float_multiply_adds for each in found.runs] == [4 * 1000] * 2
    assert found.load.float_multiply_adds == 4 * (10 + 1) * 1000  # and the first run
    assert found.load.instructions > found.runs[0].instructions > 3 * 1000
    assert told[0][0] == "counting encode_image on cortex-a76"
    assert all(0 <= (share or 0) <= 1 for _, share in told)
    found = counting.count(bundle, "encode_image", PI_4)
    assert (found.steady.float_multiply_adds, found.load.float_multiply_adds) == (4000, 44000)
    failure, said = (BundleError, "no such tower") if target == "tflite" else (DeviceError, r"\.pte: no such tower")
    with pytest.raises(failure, match=said):
        emulate(bundle, "encode_text", {"token_ids": library.tower_samples("token_ids", 1)[0]}, PI_5)
    with pytest.raises(OutOfMemory, match="needed more memory"):
        counting.count(bundle, "classify", PI_5)
    with pytest.raises(DeviceError, match="expected 1 or more, got 0"):
        counting.count(bundle, "encode_image", PI_5, runs=0)
    with pytest.raises(DeviceError, match="A14: QEMU has no processor like it"):
        counting.count(bundle, "encode_image", Cluster("A14", 2, 3000))


def test_a_guest_that_ends_before_it_reads_its_job_says_why(tmp_path: Path) -> None:
    fake(tmp_path, "guest", "echo error: no such processor >&2; exit 1")
    job = "x" * 1_000_000  # more than a pipe holds
    code = counting._run([tmp_path / "guest"], job, tmp_path, "counting", 1, lambda stage, share: None)
    with pytest.raises(DeviceError, match="exit code 1 and without a result: error: no such processor"):
        counting._answers(tmp_path, code)


def test_kernels_that_do_not_suit_the_core_are_warned_of() -> None:
    counts = Counts(10**6, 0, 10**5, 0, 0, 0, 0)
    whole = library.tower_bundle("tflite", "fp32")
    bundle = replace(whole, manifest=replace(whole.manifest, recipe=BUILTIN["int8"]))
    (said,) = dispatch_warnings(bundle, counts, PI_5)
    assert "Cortex-A76 multiplies int8 with dot products, and none was executed" in said
    assert "(recipe int8)" in said
    for quiet in (
        (bundle, counts, PI_4),
        (bundle, replace(counts, dot_products=7), PI_5),
        (bundle, replace(counts, matrix_products=7), PI_5),
        (whole, counts, PI_5),
    ):
        assert dispatch_warnings(*quiet) == ()
    kryo = replace(PI_5, core="Kryo", dot_product=False)
    (said,) = dispatch_warnings(bundle, replace(counts, dot_products=1_234), kryo)
    assert "1,234 dot products were executed on cortex-a76, which stands in for Kryo, which has none" in said


@emulates
def test_a_device_is_counted_and_estimated_where_no_board_can_be_booted(
    stand_in: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for program in ("qemu-aarch64", "setarch"):
        (tmp_path / program).symlink_to(tools.find(program))
    monkeypatch.setenv("PATH", str(tmp_path))
    bundle = library.tower_bundle("executorch", "fp32")
    asked = Assignment(
        resolve("raspberry-pi-5", builtin()), (str(bundle.path),), ("encode_image", "classify"), Effort(), False
    )
    told: list[tuple[str, float | None]] = []
    found = list(examine(asked, lambda *words: told.append(words)))
    counts, alone, together, failed, no_board = found
    assert isinstance(counts, Emulated)
    assert (counts.cpu_model, counts.stands_for, counts.memory, counts.fits) == ("cortex-a76", None, None, None)
    assert counts.counts is not None
    assert counts.counts.float_multiply_adds == 4000
    assert counts.system.emulator == f"QEMU {stand_in.qemu.version} (qemu-aarch64)"
    assert (counts.artefact, counts.component) == (describe(bundle), "encode_image")
    assert counts.reproduce.endswith("--device raspberry-pi-5 --component encode_image")
    for each, threads in ((alone, 1), (together, 4)):
        assert isinstance(each, Estimated)
        assert each.threads == threads
        assert 0 < each.low_ms <= each.middle_ms <= each.high_ms
        # So little is computed that its weights take longer to be read: the whole artefact at 17 GB/s.
        assert each.bound_by == "bandwidth"
        assert each.middle_ms == pytest.approx(counts.artefact.size_bytes / asked.device.profile.bandwidth_gb_s / 1e6)
        assert each.reproduce.endswith(f"--threads {threads}")
    assert isinstance(failed, Failed)
    assert (failed.artefact, failed.component) == (counts.artefact, "classify")
    assert "needed more memory than there is" in failed.message
    assert isinstance(no_board, Failed)
    assert no_board.message.startswith("memory on an emulated board: emulating a device needs qemu-system-aarch64")
    assert no_board.hint == "sudo apt-get install qemu-system-arm"
    shares = [share for _, share in told if share is not None]
    assert shares == sorted(shares)


def test_runs_that_differ_are_refused() -> None:
    even = Counts(10**7, 0, 0, 0, 0, 0, 0)
    assert steady([replace(even, instructions=10**7 + each) for each in (2, 0, 1)]).instructions == 10**7 + 1
    with pytest.raises(DeviceError, match="expected later runs to execute about as many instructions"):
        steady([even, replace(even, instructions=10**7 + 150_000)])
    small = [replace(even, instructions=each) for each in (1_600_000, 1_622_000, 1_610_000)]  # Python's own
    assert steady(small).instructions == 1_610_000


@pytest.mark.slow
@emulates
def test_the_core_is_the_devices_own(ready: Setup) -> None:
    for name, part in (("raspberry-pi-4", "0xd08"), ("jetson-orin-nano", "0xd42"), ("galaxy-s23", "0xd4e")):
        prefix = processor.prefix(ready.system, builtin()[name].cpu[0])
        text = (prefix / "proc" / "cpuinfo").read_text()
        assert f"CPU part\t: {part}\n" in text
        assert (" asimddp" in text) == builtin()[name].cpu[0].dot_product
        with interrupts.temporary_folder() as folder:
            (folder / "main.c").write_text('int puts(const char *); int main(void) { return puts("ran") < 0; }\n')
            subprocess.run(["aarch64-linux-gnu-gcc", "-o", folder / "main", folder / "main.c"], check=True)
            command = [ready.qemu.path, "-L", prefix, folder / "main"]
            assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "ran\n"


@pytest.mark.slow
@emulates
def test_each_part_is_made_once_and_has_a_size(ready: Setup) -> None:
    again = prepare(["tflite", "executorch"], progress=lambda stage, share: pytest.fail(stage))
    assert [part.path for part in again.parts] == [part.path for part in ready.parts]
    sizes = {part.name: part.size_bytes for part in again.parts}
    assert list(sizes) == ["arm64 system", "counting plugin", "packages", "EdgeVLM", "ExecuTorch runner"]
    assert sizes["arm64 system"] > 30e6
    assert sizes["ExecuTorch runner"] > 5e6
