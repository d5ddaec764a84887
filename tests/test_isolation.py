"""Bundles that this machine did not make: what ends the process that opens them is an error; what is whole works."""

from __future__ import annotations

import gc
import io
import json
import multiprocessing
import os
import re
import shutil
import struct
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import library
import numpy as np
import psutil
import pytest
from checkpoints import write_clip_checkpoint
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import edgevlm
from edgevlm import errors
from edgevlm.bundle import trust
from edgevlm.bundle.bundle import Bundle, seal
from edgevlm.bundle.spec import TextPreprocessing
from edgevlm.cli import main
from edgevlm.errors import (
    BundleError,
    CheckpointError,
    EdgeVLMError,
    InputError,
    MissingDependency,
    TensorError,
    UnsupportedError,
)
from edgevlm.models.checkpoints import text_rules
from edgevlm.process import frames, store
from edgevlm.targets import registry
from edgevlm.targets.inspection import Adviser
from edgevlm.targets.isolation import IsolatedRuntime, IsolatedSession, IsolatedTokenizer, rehearse, tokenizer_of

TARGETS = ("tflite", "executorch", "coreml")
NATIVE = ("tflite", "executorch")
PIXELS = library.tower_samples("pixels", 1)[0]
PICTURE = Path(__file__).parent.parent / "examples/pictures/two-triangles.png"


def subgraph_beyond_the_file(content: bytearray) -> None:
    """The last signature of a .tflite names a subgraph that the file does not have; LiteRT does not look."""
    from ai_edge_litert.schema_py_generated import Model

    model = Model.GetRootAs(content, 0)
    table = model.SignatureDefs(model.SignatureDefsLength() - 1)._tab
    struct.pack_into("<I", content, table.Pos + table.Offset(12), 1 << 30)


def name_of_no_weight(content: bytearray) -> None:
    """The last of a .pte's weights, which are named by hashes, gets a name that is no text; the runtime aborts."""
    *_, last = re.finditer(rb"[0-9a-f]{64}", content)
    content[last.start()] = 0xFF


DAMAGE: dict[str, Callable[[bytearray], None]] = {
    "tflite": subgraph_beyond_the_file,
    "executorch": name_of_no_weight,
}


def damaged(whole: Bundle, folder: Path) -> Bundle:
    """A copy whose artefact ends the process that loads it, with hashes that are right."""
    shutil.copytree(whole.path, folder)
    (file,) = {component.file for component in whole.components.values()}
    content = bytearray((folder / file).read_bytes())
    DAMAGE[whole.manifest.target](content)
    (folder / file).write_bytes(content)
    return Bundle.open(seal(folder, whole.manifest).path)


def tokenizer_json(**parts: Any) -> str:
    """A `tokenizer.json` of two words with parts that are otherwise."""
    whole: dict[str, Any] = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor"))
    model = {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "?": 2}, "unk_token": "?"}
    return json.dumps({"version": "1.0", **whole, "decoder": None, "added_tokens": [], "model": model, **parts})


def replace_by(content: str, times: int) -> dict[str, Any]:
    """Normalisers, each of which puts the content in place of every `a`."""
    one = {"type": "Replace", "pattern": {"String": "a"}, "content": content}
    return {"normalizer": {"type": "Sequence", "normalizers": [one] * times}}


def split_at(regex: str) -> dict[str, Any]:
    pattern = {"Regex": regex}
    return {"pre_tokenizer": {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}}


PADDED = {"direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "a"}
TOKENIZERS: dict[str, tuple[dict[str, Any], str | None]] = {
    "padding": ({"padding": {"strategy": {"Fixed": 2**31}, **PADDED}}, None),
    "padding-to-a-multiple": (
        {"padding": {"strategy": "BatchLongest", **PADDED, "pad_to_multiple_of": 2**40}},
        None,
    ),
    "texts-multiplied": (replace_by("a" * 100, 5), "ended with SIG"),
    "normaliser-of-any-size": (
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}},
        "ended with SIG|damaged or unknown file",
    ),
    "regex-without-end": (split_at("(a+)+$"), "retry-limit-in-match over"),
    "id-beyond-32-bits": (
        {"model": {"type": "WordLevel", "vocab": {"a": 2**32 - 1, "?": 2}, "unk_token": "?"}},
        "expected token ids of 32 bits",
    ),
}


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [*map(str, arguments)])
    return result.exit_code, result.output


@pytest.mark.parametrize("target", ["tflite", "executorch", pytest.param("coreml", marks=pytest.mark.slow)])
def test_answers_are_those_of_the_runtime_in_this_process(target: str) -> None:
    bundle = library.tower_bundle(target, "fp32")
    here, isolated = registry.runtime(target), IsolatedRuntime(target)
    with here.open(bundle, threads=1) as ours, isolated.open(bundle, threads=1) as theirs:
        assert theirs.evidence == ours.evidence
        for name, component in bundle.components.items():
            (taken,) = component.spec.inputs
            inputs = {taken.name: library.tower_samples(taken.name, 1)[0]}
            expected, got = ours.run(name, inputs), theirs.run(name, inputs)
            assert list(got) == list(expected)
            for output, rows in expected.items():
                np.testing.assert_array_equal(got[output], rows)
                got[output][:] = 0  # it is the caller's


@pytest.mark.parametrize("target", ["tflite", pytest.param("coreml", marks=pytest.mark.slow)])
def test_what_is_read_from_a_file_is_what_is_read_in_this_process(target: str) -> None:
    bundle = library.tower_bundle(target, "fp32")
    here, isolated = registry.runtime(target), IsolatedRuntime(target)
    assert isolated.inspect(bundle) == here.inspect(bundle)
    assert isolated.advice(bundle) == (here.advice(bundle) if isinstance(here, Adviser) else {})
    inputs = {"token_ids": library.tower_samples("token_ids", 1)[0]}
    ours, theirs = (each.trace(bundle, "encode_text", inputs) for each in (here, isolated))
    assert [replace(op, value=None) for op in theirs] == [replace(op, value=None) for op in ours]
    for expected, got in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(got.value, expected.value)
    weights = library.layer_bundle("tflite", "int8")
    stored = IsolatedRuntime("tflite").stored_weights(weights)
    for name, those in registry.runtime("tflite").stored_weights(weights).items():
        assert [weight.digest() for weight in stored[name]] == [weight.digest() for weight in those]


@pytest.mark.parametrize("target", NATIVE)
def test_a_file_that_ends_the_process_is_an_error(target: str, tmp_path: Path) -> None:
    bundle = damaged(library.tower_bundle(target, "fp32"), tmp_path / "bad.edgevlm")
    inputs = {"token_ids": library.tower_samples("token_ids", 1)[0]}
    says = r"bad\.edgevlm: the process .* ended with SIG(SEGV|ABRT)"
    with pytest.raises(BundleError, match=says), edgevlm.open(bundle.path) as model:
        for name in bundle.components:
            model.session.run(name, inputs if name == "encode_text" else {"pixels": PIXELS})


COMMANDS = {"run": [PICTURE, "--labels", "a, b"], "verify": [], "inspect": []}
STUDENTS = [
    *(("tflite", command) for command in COMMANDS),
    *(pytest.param("executorch", command, marks=pytest.mark.slow) for command in ("run", "verify")),
]


@pytest.mark.parametrize(("target", "command"), STUDENTS)
def test_a_command_that_is_given_one_says_so_and_ends_with_2(target: str, command: str, tmp_path: Path) -> None:
    bundle = damaged(library.student(target, "int8"), tmp_path / "bad.edgevlm")
    code, said = run(command, bundle.path, *COMMANDS[command])
    assert code == 2
    assert re.search(r"ended with SIG(SEGV|ABRT)", said)
    assert "compare its digest" in said


def test_a_file_that_is_cut_while_it_is_open_is_an_error(tmp_path: Path) -> None:
    whole = library.tower_bundle("tflite", "fp32")
    shutil.copytree(whole.path, tmp_path / "cut.edgevlm")
    with IsolatedRuntime("tflite").open(Bundle(tmp_path / "cut.edgevlm", whole.manifest)) as session:
        os.truncate(tmp_path / "cut.edgevlm" / "model.tflite", 1000)
        for _ in range(2):  # and again
            with pytest.raises(BundleError, match="ended with SIGBUS"):
                session.run("encode_image", {"pixels": PIXELS})


@pytest.mark.parametrize("case", TOKENIZERS)
def test_a_tokenizer_that_ends_a_process_is_an_error(case: str, tmp_path: Path) -> None:
    parts, message = TOKENIZERS[case]
    bundle = with_tokenizer(tmp_path / "small.edgevlm", tokenizer_json(**parts))

    def encode(*texts: str) -> Any:
        tokenizer = tokenizer_of(bundle, IsolatedRuntime("tflite").open(bundle))
        assert tokenizer is not None
        return tokenizer.encode(texts).tolist()

    if message is None:
        assert encode("a", "b") == [[0] * library.CONTEXT, [1] + [0] * (library.CONTEXT - 1)]
    else:
        with pytest.raises(EdgeVLMError, match=message):
            encode("a", "a" * 28 + "b")


@pytest.mark.parametrize("case", TOKENIZERS)
def test_a_checkpoints_tokenizer_is_tried_in_another_process_first(case: str, tmp_path: Path) -> None:
    parts, _ = TOKENIZERS[case]
    folder = write_clip_checkpoint(tmp_path / "clip")
    whole = json.loads((folder / "tokenizer.json").read_text())
    model = parts.get("model", whole["model"])
    (folder / "tokenizer.json").write_text(json.dumps({**whole, **parts, "model": model}))

    def encode(*texts: str) -> Any:
        read = text_rules.from_checkpoint(folder, family="clip", context_length=8)
        return IsolatedTokenizer.from_bytes(read.spec, read.tokenizer_json).encode(texts)

    if case in ("texts-multiplied", "normaliser-of-any-size", "id-beyond-32-bits"):
        with pytest.raises((CheckpointError, InputError)):
            encode("a" * 28 + "b")
    else:
        assert encode("a", "b").shape == (2, 8)


def test_a_tokenizer_is_asked_again_once_another_has_ended_the_process() -> None:
    rules = TextPreprocessing(3, 0, None, "none", False, "sound.json")
    sound = IsolatedTokenizer.from_bytes(rules, tokenizer_json().encode())
    bomb = tokenizer_json(**replace_by("a" * 100, 5)).encode()
    with pytest.raises(
        CheckpointError, match=r"^bomb\.json: the process that this tokenizer was read in ended with SIG"
    ):
        rehearse(bomb, "bomb.json", ["a"])
    assert sound.encode(["b a"]).tolist() == [[2, 0, 0]]
    assert sound.encode(["b"]).tolist() == [[1, 0, 0]]


def with_tokenizer(folder: Path, content: str) -> Bundle:
    """A bundle of the towers' .tflite and a tokenizer."""
    whole = library.tower_bundle("tflite", "fp32")
    shutil.copytree(whole.path, folder)
    (folder / "tokenizer.json").write_text(content)
    text = TextPreprocessing(library.CONTEXT, 0, None, "none", False, "tokenizer.json")
    return seal(folder, replace(whole.manifest, text=text))


def test_a_tokenizer_outlives_its_session_and_the_process_neither(tmp_path: Path) -> None:
    others = {*psutil.Process().children()}
    model = edgevlm.open(with_tokenizer(tmp_path / "small.edgevlm", tokenizer_json()).path)
    assert isinstance(model.session, IsolatedSession)
    (process,) = {*psutil.Process().children()} - others
    model.close()
    with pytest.raises(TensorError):
        model.session.run("encode_image", {"pixels": PIXELS})
    assert model.tokenizer is not None
    assert model.tokenizer.token_count("b") == 1
    assert model.tokenizer.highest_id == 2
    del model
    gc.collect()
    assert not process.is_running()


def test_what_was_made_here_or_is_trusted_runs_in_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "folder", lambda: tmp_path / "cache")
    bundle = library.tower_bundle("tflite", "fp32")
    with edgevlm.open(bundle.path) as model, edgevlm.open(bundle.path, trusted=True) as ours:
        assert isinstance(model.session, IsolatedSession)
        assert not isinstance(ours.session, IsolatedSession)
    trust.trust(bundle)
    assert not isinstance(registry.runtime_of(bundle), IsolatedRuntime)
    other = shutil.copytree(bundle.path, tmp_path / "other.edgevlm")
    (other / "more.txt").write_text("one byte differs, and it is another bundle")
    assert isinstance(registry.runtime_of(seal(other, bundle.manifest)), IsolatedRuntime)


def test_what_is_converted_is_trusted() -> None:
    assert trust.is_trusted(library.student("tflite", "int8"))


def test_errors_cross_as_what_they_are() -> None:
    bundle = library.tower_bundle("tflite", "fp32")
    with IsolatedRuntime("tflite").open(bundle) as session:
        with pytest.raises(TensorError, match="refused to run"):
            session.run("encode_text", {"token_ids": np.full((1, library.CONTEXT), 1 << 30, np.int32)})
        session.run("encode_image", {"pixels": PIXELS})
    missing = errors.from_json(errors.to_json(MissingDependency("torch", extra="all")), otherwise=BundleError)
    assert (type(missing), missing.hint) == (MissingDependency, "pip install 'edgevlm[all]'")


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 8, b"\2" + bytes(7) + b"{]", b"\x21" + bytes(7) + b'{"\\u0000array": ["O8", [100]]}  ']
)
def test_what_is_no_frame_is_refused(content: bytes) -> None:
    with pytest.raises((EOFError, ValueError)):
        frames.receive(io.BytesIO(content))


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(1 << 53), 1 << 53)
        | st.text()
        | arrays("<f4", (2, 3))
        | arrays("|i1", (0,)),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1), inner, max_size=3),
        max_leaves=8,
    )
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_frames_give_back_what_was_sent(value: Any) -> None:
    stream = io.BytesIO()
    frames.send(stream, [value, value])
    stream.seek(0)
    np.testing.assert_equal(frames.receive(stream), [value, value])
    assert not stream.read()


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_fork_is_refused_and_takes_no_answer_of_its_parents() -> None:
    bundle = library.student("tflite", "int8")
    with IsolatedRuntime("tflite").open(bundle, threads=1) as session:
        tokenizer = tokenizer_of(bundle, session)
        assert tokenizer is not None
        expected = tokenizer.encode(["two red circles"])

        def ask() -> None:
            for _ in range(50):
                try:
                    tokenizer.encode(["a star"])
                except UnsupportedError as error:
                    assert "this one is a fork" in error.message  # noqa: PT017 (another process)
                else:
                    os._exit(1)

        children = [multiprocessing.get_context("fork").Process(target=ask) for _ in range(2)]
        for child in children:
            child.start()
        for _ in range(50):
            np.testing.assert_array_equal(tokenizer.encode(["two red circles"]), expected)
        for child in children:
            child.join(30)
            assert child.exitcode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_fork_reads_checkpoints_in_a_process_of_its_own() -> None:
    content = tokenizer_json().encode()
    rehearse(content, "here", ["a"])
    child = multiprocessing.get_context("fork").Process(target=rehearse, args=(content, "there", ["b"]))
    child.start()
    rehearse(content, "here", ["b"])
    child.join(30)
    assert child.exitcode == 0
