from __future__ import annotations

import gc
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import library
import numpy as np
import pytest
import torch

from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.spec import ComponentSpec, TensorSpec
from edgevlm.errors import BundleError, InputError, MissingDependency, TensorError, UnsupportedError
from edgevlm.models import catalogue
from edgevlm.models.reference import Head, Original
from edgevlm.targets import registry
from edgevlm.targets.boundary import find_component, validate_inputs
from edgevlm.targets.runtime import Session

TARGETS = ("executorch", "tflite")
FILES = {"executorch": "model.pte", "tflite": "model.tflite"}
PIXELS = library.tower_samples("pixels", 2)
IDS = library.tower_samples("token_ids", 2)


@pytest.fixture(params=["reference", *TARGETS])
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    if request.param == "reference":
        programs = library.towers()
        opened: Session = Original(
            torch.nn.ModuleList(program.module for program in programs.values()),
            {name: program.module for name, program in programs.items()},
            {name: program.spec for name, program in programs.items()},
        )
    else:
        opened = registry.runtime(request.param).open(library.tower_bundle(request.param, "fp32"))
    with opened:
        yield opened


@pytest.fixture(params=TARGETS)
def damaged(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Bundle, Path]:
    """A target, a copy of its bundle to damage, and the path of its model."""
    whole = library.tower_bundle(request.param, "fp32")
    shutil.copytree(whole.path, tmp_path / "bundle")
    return request.param, Bundle(tmp_path / "bundle", whole.manifest), tmp_path / "bundle" / FILES[request.param]


def with_spec(bundle: Bundle, name: str, spec: ComponentSpec) -> Bundle:
    components = {**bundle.components, name: replace(bundle.components["encode_image"], spec=spec)}
    return Bundle(bundle.path, replace(bundle.manifest, components=components))


# What every session owes its caller


def test_a_session_answers_in_the_specs_names_dtypes_and_shapes(session: Session) -> None:
    for name, program in library.towers().items():
        (taken,), (given,) = program.spec.inputs, program.spec.outputs
        answer = session.run(name, {taken.name: library.tower_samples(taken.name, 1)[0]})
        assert list(answer) == [given.name]
        assert (answer[given.name].dtype, answer[given.name].shape) == (np.float32, given.shape)


def test_an_answer_belongs_to_the_caller(session: Session) -> None:
    first = session.run("encode_image", {"pixels": PIXELS[0]})["embedding"]
    kept = first.copy()
    second = session.run("encode_image", {"pixels": PIXELS[1]})["embedding"]
    np.testing.assert_array_equal(first, kept)
    assert not np.array_equal(first, second)
    first[:] = 0
    np.testing.assert_array_equal(session.run("encode_image", {"pixels": PIXELS[0]})["embedding"], kept)


def test_an_answer_outlives_its_session(session: Session) -> None:
    answer = session.run("encode_image", {"pixels": PIXELS[0]})["embedding"]
    kept = answer.copy()
    session.close()
    gc.collect()
    np.testing.assert_array_equal(answer, kept)


def test_inputs_may_be_read_only_or_strided_and_are_left_alone(session: Session) -> None:
    expected = session.run("encode_image", {"pixels": PIXELS[0]})["embedding"]
    channels_last = np.ascontiguousarray(PIXELS[0].transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    channels_last.flags.writeable = False
    np.testing.assert_array_equal(session.run("encode_image", {"pixels": channels_last})["embedding"], expected)
    np.testing.assert_array_equal(channels_last, PIXELS[0])


def test_components_can_be_called_in_turn(session: Session) -> None:
    before = session.run("encode_image", {"pixels": PIXELS[0]})["embedding"]
    session.run("encode_text", {"token_ids": IDS[0]})
    np.testing.assert_array_equal(session.run("encode_image", {"pixels": PIXELS[0]})["embedding"], before)


def test_an_unknown_component_lists_those_that_exist(session: Session) -> None:
    with pytest.raises(TensorError, match=r"no component 'encode_audio'.*'encode_image', 'classify', 'encode_text'"):
        session.run("encode_audio", {})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"expected the inputs 'pixels', got none"),
        ({"image": PIXELS[0]}, r"expected the inputs 'pixels', got 'image'"),
        ({"pixels": PIXELS[0], "mask": PIXELS[0]}, r"got 'pixels', 'mask'"),
        ({"pixels": PIXELS[0].astype(np.float64)}, r"expected dtype float32, got float64"),
        ({"pixels": PIXELS[0].astype(np.uint8)}, r"expected dtype float32, got uint8"),
        ({"pixels": PIXELS[0].astype(">f4")}, r"expected dtype float32, got >f4"),
        ({"pixels": PIXELS[0][0]}, r"expected shape \[1, 3, 32, 32\], got \[3, 32, 32\]"),
        ({"pixels": PIXELS[0][:, :, :31]}, r"expected shape \[1, 3, 32, 32\], got \[1, 3, 31, 32\]"),
        ({"pixels": PIXELS[0].tolist()}, r"expected a numpy array, got list"),
        ({"pixels": np.full_like(PIXELS[0], np.nan)}, r"3072 of 3072 that are NaN or infinite"),
        ({"pixels": np.full_like(PIXELS[0], -np.inf)}, r"NaN or infinite"),
    ],
)
def test_a_wrong_input_is_refused_with_what_was_expected(
    session: Session, inputs: dict[str, Any], message: str
) -> None:
    with pytest.raises(TensorError, match=message):
        session.run("encode_image", inputs)


@pytest.mark.parametrize("target", TARGETS)
def test_a_device_takes_one_row_at_a_time(target: str) -> None:
    with (
        registry.runtime(target).open(library.tower_bundle(target, "fp32")) as session,
        pytest.raises(TensorError, match=r"expected shape \[1, 3, 32, 32\], got \[2, 3, 32, 32\]"),
    ):
        session.run("encode_image", {"pixels": np.concatenate(PIXELS)})


def test_the_original_takes_rows_of_any_number_and_answers_each_as_alone() -> None:
    program = library.towers()["encode_image"]
    original = Original(program.module, {"encode_image": program.module}, {"encode_image": program.spec})
    rows = np.concatenate(PIXELS * 20)  # more than a batch
    together = original.run("encode_image", {"pixels": rows})["embedding"]
    alone = np.concatenate([original.run("encode_image", {"pixels": row[None]})["embedding"] for row in rows])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert original.run("encode_image", {"pixels": rows[:0]})["embedding"].shape == (0, library.DIM)
    assert list(original.answer({"pixels": rows[:1], "token_ids": IDS[0]})) == ["encode_image"]
    with pytest.raises(TensorError, match="expected as many rows of each input, got \\[1, 2\\]"):
        two = ComponentSpec(
            "both", tuple(replace(each, name=name) for each in program.spec.inputs for name in "ab"), ()
        )
        Original(program.module, {"both": max}, {"both": two}).run("both", {"a": rows[:1], "b": rows[:2]})


def test_a_closed_original_answers_nothing() -> None:
    program = library.towers()["encode_image"]
    original = Original(program.module, {"encode_image": program.module}, {"encode_image": program.spec})
    original.close()
    with pytest.raises(TensorError, match="closed"):
        original.answer({"pixels": PIXELS[0]})
    with pytest.raises(TensorError, match="this session is closed"):
        original.run("encode_image", {"pixels": PIXELS[0]})


def test_a_head_goes_on_from_the_answer_that_is_there() -> None:
    program, seen = library.towers()["encode_image"], []

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels))
        return program.module(pixels)

    shares = replace(program.spec, name="classify")
    functions = {"encode_image": encode, "classify": Head("encode_image", lambda images: images.softmax(-1))}
    both = Original(program.module, functions, {"encode_image": program.spec, "classify": shares})
    rows = np.concatenate(PIXELS * 20)
    answers = both.answer({"pixels": rows})
    assert sum(seen) == len(rows)
    alone = Original(program.module, functions, {"classify": shares})  # as with --image-only
    for other in (both.run("classify", {"pixels": rows}), alone.answer({"pixels": rows})["classify"]):
        np.testing.assert_array_equal(answers["classify"]["embedding"], other["embedding"])
    with pytest.raises(TensorError, match="this bundle has 'classify'"):
        alone.run("encode_image", {"pixels": rows})


def test_an_original_answers_the_same_bits_on_any_number_of_threads() -> None:
    model = catalogue.load()
    assert model.tokenizer is not None
    rows = {
        "pixels": np.random.default_rng(0).integers(0, 256, (20, 3, 64, 64)).astype(np.float32),
        "token_ids": model.tokenizer.encode([f"a red circle {number}" for number in range(20)]),
    }
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            answers = model.original.answer(rows)
            assert torch.get_num_threads() == threads
            found.append(b"".join(each["embedding"].tobytes() for each in answers.values()))
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_wrong_token_ids_are_refused(session: Session) -> None:
    with pytest.raises(TensorError, match="expected dtype int32, got int64"):
        session.run("encode_text", {"token_ids": IDS[0].astype(np.int64)})


def test_a_closed_session_says_so(session: Session) -> None:
    session.close()
    session.close()
    with pytest.raises(TensorError, match="this session is closed"):
        session.run("encode_image", {"pixels": PIXELS[0]})


@pytest.mark.parametrize("target", TARGETS)
def test_a_token_id_beyond_the_vocabulary_is_refused(target: str) -> None:
    with registry.runtime(target).open(library.tower_bundle(target, "fp32")) as session:
        with pytest.raises(TensorError, match="refused"):
            session.run("encode_text", {"token_ids": np.full_like(IDS[0], library.VOCABULARY + 7)})
        session.run("encode_text", {"token_ids": IDS[0]})


@pytest.mark.parametrize("target", TARGETS)
def test_a_session_says_what_its_answers_prove(target: str) -> None:
    with registry.runtime(target).open(library.tower_bundle(target, "fp32")) as session:
        assert session.evidence == "host-runtime"
    assert Original(torch.nn.Module(), {}, {}).evidence == "reference"


def test_scalars_keep_their_shape_at_the_boundary() -> None:
    spec = ComponentSpec("prefill", (TensorSpec("position", "int32", (), "index"),), ())
    assert validate_inputs(spec, {"position": np.array(3, np.int32)})["position"].shape == ()


def test_inputs_come_back_in_the_specs_order() -> None:
    spec = ComponentSpec("join", tuple(TensorSpec(name, "float32", (1,), "any") for name in ("b", "a")), ())
    one = np.ones(1, np.float32)
    assert list(validate_inputs(spec, {"a": one, "b": one})) == ["b", "a"]
    assert find_component({"join": spec}, "join") is spec


# Damage


@pytest.mark.parametrize("damage", ["empty", "noise", "cut", "other", "missing"])
def test_a_damaged_file_is_refused_on_opening(damaged: tuple[str, Bundle, Path], damage: str) -> None:
    target, bundle, path = damaged
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        other = next(name for name in TARGETS if name != target)
        path.write_bytes(
            {
                "empty": b"",
                "noise": np.random.default_rng(0).bytes(4096),
                "cut": data[:200],
                "other": (library.tower_bundle(other, "fp32").path / FILES[other]).read_bytes(),
            }[damage]
        )
    with pytest.raises(BundleError, match=path.name):
        registry.runtime(target).open(bundle)


@pytest.mark.parametrize("target", TARGETS)
def test_a_manifest_that_contradicts_the_file_is_refused(target: str) -> None:
    bundle = library.tower_bundle(target, "fp32")
    spec = bundle.components["encode_image"].spec
    smaller = replace(spec, inputs=(replace(spec.inputs[0], shape=(1, 3, 16, 16)),))
    with pytest.raises(BundleError, match="encode_image: expected the inputs"):
        registry.runtime(target).open(with_spec(bundle, "encode_image", smaller))
    with pytest.raises(BundleError, match="'generate'"):
        registry.runtime(target).open(with_spec(bundle, "generate", replace(spec, name="generate")))


# Threads


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2", 1025, 2**31, 10**20])
def test_an_impossible_number_of_threads_is_refused(target: str, threads: Any) -> None:
    with pytest.raises(InputError, match="threads: expected a whole number from 1 to 1,024, got"):
        registry.runtime(target).open(library.tower_bundle(target, "fp32"), threads=threads)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("threads", [1, 2])
def test_threads_do_not_change_the_answer(target: str, threads: int) -> None:
    with registry.runtime(target).open(library.tower_bundle(target, "fp32"), threads=threads) as session:
        answer = session.run("encode_image", {"pixels": PIXELS[0]})["embedding"]
    np.testing.assert_allclose(answer, library.tower_answers("encode_image")[0], atol=1e-5)


def test_executorchs_thread_pool_is_not_changed_under_a_session_that_runs() -> None:
    runtime, bundle = registry.runtime("executorch"), library.tower_bundle("executorch", "fp32")
    with runtime.open(bundle, threads=1) as first:
        first.run("encode_image", {"pixels": PIXELS[0]})
        with pytest.raises(UnsupportedError, match="threads: expected 1"):
            runtime.open(bundle, threads=2)
        with runtime.open(bundle, threads=1) as second:
            second.run("encode_image", {"pixels": PIXELS[1]})
    with runtime.open(bundle, threads=2) as third:
        third.run("encode_image", {"pixels": PIXELS[0]})


def test_executorch_runs_without_its_compiler() -> None:
    code = (
        "import sys, edgevlm.runtimes.executorch.runtime as runtime; runtime._bindings();"
        "assert not {'executorch.exir', 'torchao', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1], stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("target", TARGETS)
def test_importing_a_runtime_imports_no_framework(target: str) -> None:
    code = f"import sys, edgevlm.runtimes.{target}; assert not {{'torch', 'ai_edge_litert'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


@pytest.mark.parametrize(
    ("target", "gone", "extra"),
    [("tflite", ("ai_edge_litert.interpreter", "tflite_runtime.interpreter"), "tflite-device"),
     ("executorch", ("executorch",), "executorch")],
)  # fmt: skip
def test_a_missing_runtime_is_named_with_its_extra(
    target: str, gone: tuple[str, ...], extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = library.tower_bundle(target, "fp32")
    for module in gone:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependency) as caught:
        registry.runtime(target).open(bundle)
    assert f"edgevlm[{extra}]" in str(caught.value.hint)


# What a shipped file consists of


@pytest.mark.slow
def test_inspecting_tflite_shows_each_signatures_own_ops_and_where_they_run() -> None:
    rows = registry.runtime("tflite").inspect(library.tower_bundle("tflite", "fp16"))
    image = {(row.kind, row.dtype): row for row in rows["encode_image"]}
    text = {(row.kind, row.runs_on): row for row in rows["encode_text"]}
    assert list(rows) == list(library.towers())
    assert image["FULLY_CONNECTED", "fp32"].count == linears("encode_image")
    assert image["CONV_2D", "fp32"].runs_on == "xnnpack"
    assert image["DEQUANTIZE", "fp16"].count == linears("encode_image") + 1
    assert {row.runs_on for row in rows["encode_image"]} == {"xnnpack"}
    assert text["FULLY_CONNECTED", "xnnpack"].count == linears("encode_text")
    assert text["EMBEDDING_LOOKUP", "builtin"].count == 1
    assert text["EQUAL", "builtin"].dtype == "int32"
    assert all(row.kind != "CONV_2D" for row in rows["encode_text"])


@pytest.mark.parametrize("precision", ["fp32", pytest.param("fp16", marks=pytest.mark.slow)])
def test_inspecting_executorch_looks_inside_the_delegates(precision: str) -> None:
    rows = registry.runtime("executorch").inspect(library.tower_bundle("executorch", precision))
    for component in ("encode_image", "encode_text"):
        counts = {(row.kind, row.dtype, row.runs_on): row.count for row in rows[component]}
        assert counts["FullyConnected", precision, "xnnpack"] == linears(component)
        assert counts["aten::native_layer_norm", "fp32", "portable"] == norms(component)
    text = {row.kind: row for row in rows["encode_text"]}
    assert text["aten::eq"].dtype == "int32"


def linears(component: str) -> int:
    module = library.towers()[component].module
    return sum(isinstance(each, torch.nn.Linear) for each in module.modules())


def norms(component: str) -> int:
    return sum(isinstance(each, torch.nn.LayerNorm) for each in library.towers()[component].module.modules())
