"""Bundles of models that talk: that the shipped file says what the original says, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import library
import numpy as np
import pytest
from click.testing import CliRunner
from pictures import scene
from PIL import Image

import edgevlm
from edgevlm import Labels
from edgevlm.bundle import claims, golden_dialogues
from edgevlm.bundle.bundle import Bundle, seal, write_manifest
from edgevlm.bundle.dialogue import Chat, Dialogue, Grid, Sampling, Spelling, Tiling, Turn
from edgevlm.bundle.golden import GOLDEN
from edgevlm.bundle.manifest import FORMAT_VERSION, TALKERS_VERSION, Manifest, ParityCheck
from edgevlm.bundle.recipe import BUILTIN
from edgevlm.cli import main
from edgevlm.conversion import pipeline
from edgevlm.conversion.prepared_talker import PreparedTalker
from edgevlm.errors import BundleError, CheckpointError, InputError, LabelError, TensorError, UnsupportedError
from edgevlm.inference.generator import Seen, generator_of
from edgevlm.inputs.chat import Cut, Message, Written
from edgevlm.models import catalogue
from edgevlm.models.checkpoints import talking
from edgevlm.parity import generation, witness
from edgevlm.runtimes.coreml import CoreMLRuntime
from edgevlm.runtimes.mlprogram.evaluator import MLProgram
from edgevlm.targets import registry
from edgevlm.targets.app_runner import Part
from edgevlm.targets.isolation import IsolatedRunner

SLOW = library.TALKERS
BYTES = {"fp32": 4.0, "fp16": 2.0, "int8": 1.0, "int4-weights": 0.6}
"""A weight's."""
RUN = (
    *(("llava", "executorch", "fp32"), ("qwen2.5-vl", "executorch", "int8"), ("llava", "tflite", "fp32")),
    ("blip", "tflite", "fp32"),
)
"""By runners that apps have."""
TALKS = "generate, chat, score and classify; edgevlm run --ask, run --labels and describe"
ENCODES = "classify, encode_image and encode_text; edgevlm run --labels, run --text, index and search"
"""What refusals list."""
MATRIX = [("blip", "tflite", "fp32"), *(pytest.param(*each, marks=pytest.mark.slow) for each in SLOW)]


def made(kind: str = "blip", target: str = "tflite", recipe: str = "fp32") -> Bundle:
    return library.talker(kind, target, recipe)


def question(bundle: Bundle) -> str | None:
    assert bundle.manifest.dialogue is not None
    return "What is in this picture?" if bundle.manifest.dialogue.chat else None


@pytest.mark.parametrize(("kind", "target", "recipe"), MATRIX)
def test_a_bundle_answers_as_the_original_does(kind: str, target: str, recipe: str) -> None:
    bundle = made(kind, target, recipe)
    report = pipeline.verify(bundle)
    assert report.passed
    measured = {check.measure: check.value for check in report.checks}
    assert measured["picture_matters"] > 0.1
    assert measured["top1_agreement"] >= {"fp32": 1, "int4-weights": 0.75}.get(recipe, 0.9)
    assert measured["same_tokens"] >= {"fp32": 1, "fp16": 0.5}.get(recipe, 0)
    assert ("perplexity" in measured) == recipe.startswith("int")
    dialogue = bundle.manifest.dialogue
    assert dialogue is not None
    model = talking.load(library.talker_checkpoint(kind), name=kind, **library.talker_options(kind))
    original = model.generator
    assert dialogue == model.dialogue
    with edgevlm.open(bundle.path) as opened:
        for picture in (scene(40, 60, seed=1), Image.new("RGB", (20, 20), (9, 200, 30))):
            expected, answer = (each.generate(picture, question(bundle), max_tokens=8) for each in (original, opened))
            assert expected.text
            if recipe == "fp32":
                assert answer.text == expected.text
                assert answer.token_ids == expected.token_ids
            scores = opened.score(picture, question(bundle), ["a cat", "a dog"])
            wanted = original.score(picture, question(bundle), ["a cat", "a dog"])
            np.testing.assert_allclose(scores, wanted, atol={"fp32": 1e-3, "fp16": 0.5}.get(recipe, 3))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "target", "recipe"), SLOW)
def test_weights_are_stored_once_over_all_lengths(kind: str, target: str, recipe: str) -> None:
    bundle = made(kind, target, recipe)
    network = catalogue.load_any(library.talker_checkpoint(kind)).original.network
    stored = BYTES[recipe] * sum(parameter.numel() for parameter in network.parameters())
    files = bundle.manifest.files.items()
    weights = [record.size_bytes for name, record in files if name.endswith((".bin", ".tflite", ".pte"))]
    contained = [record.size_bytes for name, record in files if name.endswith(".litertlm")]
    if contained:  # models that share nothing, so that a tied table is in two; the tokenizer; sections on whole blocks
        talks = network.text_decoder if kind.startswith("blip") else network
        table = talks.get_input_embeddings().weight
        stored += BYTES[recipe] * table.numel() * (table is talks.get_output_embeddings().weight)
        stored += bundle.manifest.files["tokenizer.json"].size_bytes + 5 * 16_384
    graphs = {"paligemma-2": 300_000, "idefics": 400_000, "blip": 260_000, "blip-vqa": 460_000}.get(kind, 230_000)
    places = {"qwen3-vl": 60_000}.get(kind, 48_000)  # angles, and what is learned, of positions
    beside = places if target == "coreml" else graphs  # of which Core ML's .bin files have none
    assert sum(weights + contained) < stored + beside  # a decoder twice would be more, and on Core ML a table twice


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "target", "recipe"), [each for each in SLOW if "int" in each[2]])
def test_every_length_has_the_integers_that_were_decided(kind: str, target: str, recipe: str) -> None:
    bundle = made(kind, target, recipe)
    proofs = {proof.component: proof for proof in pipeline.verify_weights(bundle)}
    assert proofs.keys() == bundle.functions.keys()
    assert all(proof.identical == proof.decided for proof in proofs.values())
    named = {each: component for component, found in bundle.components.items() for each in found.functions.values()}
    decoders = [proof for each, proof in proofs.items() if named.get(each) == "decode"]
    assert len(decoders) == (1 if target == "executorch" else 2)
    assert all(proof.digests == decoders[0].digests for proof in decoders)
    layers, head = {"blip": (8, 2), "blip-2": (6, 1)}.get(kind, (7, 1))  # keys and values of a picture: its encoder's
    assert sum(decoders[0].bits.values()) == 2 * layers + head
    assert {str(proof.bits) for each, proof in proofs.items() if named.get(each) == "embed_tokens"} == {"{'8': 1}"}


@pytest.mark.slow
def test_a_component_is_compressed_once_for_all_targets_and_lengths() -> None:
    source, told = PreparedTalker(library.talker_model("blip")), list[str]()
    found = {
        target: source.compress(BUILTIN["int8"], registry.converter(target), lambda stage, _: told.append(stage))
        for target in registry.CONVERTERS
    }
    assert len(told) == len(source.programs) == 3
    decoders = [
        program.module for each in found.values() for program in each.programs.values() if program.spec.name == "decode"
    ]
    assert len(decoders) == 5  # two lengths in two files, any length in the third
    assert len({*decoders}) == 1
    assert found["coreml"].programs["decode"].spec == source.arranged(registry.converter("coreml"))["decode"].spec


@pytest.mark.slow
def test_core_ml_keeps_what_was_said_in_the_package() -> None:
    bundle = made("smolvlm", "coreml", "fp16")
    decode = bundle.components["decode"]
    assert decode.file == bundle.components["embed_tokens"].file == "language.mlpackage"
    assert MLProgram.functions(bundle.path / decode.file)[0] == "decode"
    advised = CoreMLRuntime().advice(bundle)
    assert any("keys_0" in each.where for each in advised["decode"])
    assert advised["embed_tokens"]
    assert all(each.where.startswith("embed_tokens") for each in advised["embed_tokens"])
    for function in decode.functions.values():
        program = MLProgram.open(bundle.path / decode.file, function=function)
        assert {each.name for each in program.states} == {each.name for each in decode.spec.state}
        assert {each.name for each in program.inputs} == {"embeddings", "positions"}
        assert [each.name for each in program.outputs] == ["logits"]


@pytest.mark.parametrize(
    ("kind", "target", "recipe"),
    [
        ("blip", "tflite", "fp32"),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in SLOW if each[1] != "coreml"),
    ],
)
def test_threads_change_no_bit_of_an_answer(kind: str, target: str, recipe: str) -> None:
    bundle, logits = made(kind, target, recipe), []
    for threads in (1, 2, 3):
        with registry.runtime_of(bundle).open(bundle, threads=threads) as session:
            model = generator_of(bundle, session)
            seen = model.see(scene(40, 60, seed=1))
            written = model.write([Message("user", question(bundle) or "", 1)], seen)
            place = model.place()
            logits.append([model.begin(place, written, seen), *(place.put([number]) for number in (5, 9))])
    np.testing.assert_array_equal(logits[0], logits[1])
    np.testing.assert_array_equal(logits[0], logits[2])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "target", "recipe"), RUN)
def test_the_runner_that_apps_have_says_the_same(kind: str, target: str, recipe: str) -> None:
    bundle, called = made(kind, target, recipe), {"executorch": "MultimodalRunner", "tflite": "LiteRT-LM"}[target]
    assert bundle.manifest.parity is not None
    assert bundle.manifest.parity.checks[-1] == ParityCheck(called, "same_answers", 1.0, 1.0, passed=True)
    done = run("verify", bundle.path, "--runner", "--json")
    assert json.loads(done.stdout)["parity"]["checks"][-1]["component"] == called

    class Blind:
        """A runner that drops pictures without a word."""

        def __init__(self) -> None:
            self.runner = IsolatedRunner(bundle)

        def ids(self, parts: Sequence[Part], most: int) -> list[int]:
            return self.runner.ids([part * 0 if isinstance(part, np.ndarray) else part for part in parts], most)

    stored = golden_dialogues.read(bundle.path, newer=False)
    with edgevlm.open(bundle.path) as opened:
        model = generation.Asked(opened.talker, lambda name: bundle.path / name)
        assert witness.measure(model, Blind(), "Blind", stored, bundle.manifest.recipe)[-1].value < 1


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "target", "recipe"), [RUN[0], *RUN[2:]])
def test_a_runner_that_is_given_nonsense_is_an_error(kind: str, target: str, recipe: str) -> None:
    runner = IsolatedRunner(made(kind, target, recipe))
    for nonsense in ([[1] * 300], [[1], np.zeros((3, 0, 8), np.float32)]):
        with pytest.raises(BundleError):
            runner.ids(nonsense, 2)


def test_a_dialogue_is_cut_for_a_runner_where_pictures_stand() -> None:
    pixels = np.arange(3, dtype=np.float32).reshape(3, 1, 1, 1)
    rows = tuple({"features": np.zeros((1, 2, 4), np.float32)} for _ in range(3))
    seen = Seen(pixels, rows, Cut(1, 2), 0.0)
    written = Written("", (1, 9, 9, 9, 9, 2, 3, 9, 9, 4), (1, 2, 3, 4, 7, 8))
    found = [part if isinstance(part, list) else float(part.item()) for part in witness.parts(written, seen)]
    assert found == [[1], 0.0, 1.0, [2, 3], 2.0, [4]]
    assert witness.parts(Written("", (1, 2)), None) == [[1, 2]]
    beside = replace(seen, pixels=pixels[:1], answers=({"picture_keys_0": rows[0]["features"]},), cut=Cut())
    shown, words = witness.parts(Written("", (1, 2)), beside)  # comes before the words
    assert (np.array_equal(shown, pixels[0]), words) == (True, [1, 2])


def test_no_runner_holds_what_none_was_written_for(tmp_path: Path) -> None:
    shutil.copytree(made().path, tmp_path / "b.edgevlm")
    write_manifest(tmp_path / "b.edgevlm", replace(made().manifest, target="executorch"))
    refused = run("verify", tmp_path / "b.edgevlm", "--runner")
    assert (refused.exit_code, "no runner of executorch's own holds this bundle" in refused.stderr) == (2, True)


def test_a_bundle_of_another_machine_answers_the_same_in_a_process_of_its_own(tmp_path: Path) -> None:
    shutil.copytree(made().path, tmp_path / "b.edgevlm")
    write_manifest(tmp_path / "b.edgevlm", replace(made().manifest, name="of-another-machine"))
    picture = scene(40, 60, seed=2)
    with edgevlm.open(tmp_path / "b.edgevlm") as there, edgevlm.open(made().path, trusted=True) as here:
        assert type(there.session).__name__ == "IsolatedSession"
        for _ in range(3):  # states are forgotten, and others made
            assert there.generate(picture, max_tokens=6).text == here.generate(picture, max_tokens=6).text
        state = here.session.make_state("decode")
        rows = {
            each.name: np.zeros(each.at(1), np.float32 if each.dtype == "float32" else np.int32)
            for each in here.bundle.components["decode"].spec.inputs
        }
        for wrong in (None, state):
            with pytest.raises(TensorError, match="decode: expected a state of this session, got"):
                there.session.run("decode", rows, wrong)
        with pytest.raises(TensorError, match="encode_image: keeps no state"):
            there.session.make_state("encode_image")


def test_a_kind_of_bundle_names_its_verbs() -> None:
    with edgevlm.open(made().path) as talker:
        for verb in (
            lambda: talker.encode_image([scene(20, 20)]),
            lambda: talker.encode_text(["a"]),
            lambda: talker.mean_embedding,
        ):
            with pytest.raises(InputError, match=f"talks, and gives no embeddings: what it has is {re.escape(TALKS)}"):
                verb()
        with pytest.raises(LabelError, match=f"has none of baked in: what it has is {re.escape(TALKS)}"):
            talker.classify([scene(20, 20)])
        chat = talker.chat(scene(20, 20))
        assert chat.ask(max_tokens=1).text
        with pytest.raises(InputError, match="expected one question: this model has no chat template"):
            chat.ask("and?")
    encoder = edgevlm.open(library.student("tflite", "int8").path)
    with encoder:
        for refused in (
            lambda: encoder.generate(scene(20, 20)),
            lambda: encoder.chat(scene(20, 20)),
            lambda: encoder.score(scene(20, 20), "Which?", ["a", "b"]),
            lambda: encoder.classify([scene(20, 20)], ["a", "b"], text="Which?"),
        ):
            with pytest.raises(InputError, match=f"gives embeddings, and does not talk: what it has is {ENCODES}"):
                refused()
    with pytest.raises(CheckpointError, match="expected a dual encoder, of the kinds clip, siglip, got blip"):
        catalogue.load(library.talker_checkpoint("blip"))


def test_labels_share_one_by_how_probable_they_are_as_answers() -> None:
    pictures, labels = [scene(40, 60, seed=1), Image.new("RGB", (20, 20), (9, 200, 30))], ["a cat", "a", "dogs"]
    with edgevlm.open(made().path) as model:
        shares = model.classify(pictures, labels, text="a picture of")
        assert shares.shape == (2, 3)
        np.testing.assert_allclose(shares.sum(1), 1, atol=1e-6)
        for picture, row in zip(pictures, shares, strict=True):
            alone = [model.score(picture, "a picture of", [label])[0] for label in labels]
            np.testing.assert_allclose(row, np.exp(alone) / np.exp(alone).sum(), rtol=1e-4)
        assert not np.allclose(shares, model.classify(pictures, labels))  # the model's own question
        assert model.classify([], labels).shape == (0, 3)
        for wrong, error, message in (
            ({"labels": None}, LabelError, "expected labels"),
            ({"labels": ["a", ["b", "c"]]}, LabelError, "a text each"),
            ({"labels": ["a", "a"]}, LabelError, "one and the same to the model"),
            ({"labels": ["a", ""]}, InputError, "expected answers of 1 to"),
            ({"labels": "Yes"}, InputError, "expected a sequence of labels"),
            ({"labels": ["a", "b"], "scores": "cosine"}, InputError, "the share of each answer, and no cosine"),
        ):
            with pytest.raises(error, match=message):
                model.classify(pictures, **wrong)  # type: ignore[arg-type]


def test_one_of_two_towers_has_fewer_verbs() -> None:
    manifest = library.student("tflite", "int8").manifest
    image = {"encode_image": manifest.components["encode_image"]}
    assert manifest.verbs == ENCODES
    assert replace(manifest, components=image).verbs == "encode_image; edgevlm index and search"
    baked, labels = {"classify": image["encode_image"]}, Labels(("a", "b"), ("{}",))
    assert replace(manifest, components=baked, labels=labels).verbs == "classify; edgevlm run"
    text = {"encode_text": manifest.components["encode_text"]}
    assert replace(manifest, components=text).verbs == "encode_text"


def test_the_command_line_refuses_the_other_kinds_verbs(tmp_path: Path) -> None:
    talker, encoder, photo = made().path, library.student("tflite", "int8").path, tmp_path / "1.png"
    scene(30, 40, seed=1).save(photo)
    index = tmp_path / "x.index"
    assert run("index", tmp_path, "--bundle", encoder, "--out", index).exit_code == 0
    for command, verbs in (
        (("run", talker, photo), TALKS),
        (("run", talker, photo, "--text", "a cat"), TALKS),
        (("index", tmp_path, "--bundle", talker, "--out", tmp_path / "y.index"), TALKS),
        (("search", index, "a cat", "--bundle", talker), TALKS),
        (("describe", encoder, photo), ENCODES),
        (("run", encoder, photo, "--ask", "What?"), ENCODES),
        (("run", encoder, photo, "--ask", "What?", "--labels", "a, b"), ENCODES),
    ):
        refused = run(*command)
        assert (refused.exit_code, refused.stdout) == (2, ""), refused.output
        assert f"what it has is {verbs}" in " ".join(refused.stderr.split()), refused.stderr
    assert not (tmp_path / "y.index").exists()


def test_one_picture_is_what_a_dialogue_shows() -> None:
    two = [scene(20, 20), scene(20, 20)]
    with edgevlm.open(made().path) as model:
        for asked in (
            lambda: model.generate(two, "a"),  # type: ignore[arg-type]
            lambda: model.chat(tuple(two)),  # type: ignore[arg-type]
            lambda: model.score(two, "a", ["b"]),  # type: ignore[arg-type]
            lambda: model.classify([two], ["a", "b"]),  # type: ignore[list-item]
        ):
            with pytest.raises(InputError, match=r"expected one picture at most, .* got (list|tuple) of 2"):
                asked()


@pytest.mark.parametrize(
    ("kind", "target", "recipe"),
    [
        MATRIX[0],
        *(pytest.param(*each, marks=pytest.mark.slow) for each in SLOW if each[2] in ("fp32", "fp16")),
        pytest.param("llava", "tflite", "int8", marks=pytest.mark.slow),
    ],
)
def test_no_session_takes_what_there_is_no_row_for(kind: str, target: str, recipe: str) -> None:
    bundle = made(kind, target, recipe)
    specs = {name: each.spec for name, each in bundle.components.items()}
    vocabulary, context = specs["decode"].outputs[0].shape[-1], specs["decode"].state[0].shape[2]
    shapes = {each.name: each.at(1) for each in specs["decode"].inputs}
    rows = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    with edgevlm.open(bundle.path) as model:
        for wrong in (-1, vocabulary):
            message = f"embed_tokens: input 'token_ids': .* ids of the vocabulary, 0 to {vocabulary - 1}, got {wrong}"
            with pytest.raises(TensorError, match=message):
                model.session.run("embed_tokens", {"token_ids": np.full((1, 1), wrong, np.int32)})
        model.session.run("embed_tokens", {"token_ids": np.full((1, 1), vocabulary - 1, np.int32)})
        state = model.session.make_state("decode")
        for wrong in (-2, context):
            message = f"decode: input 'positions': expected places of the context, .* -1 to {context - 1}, got {wrong}"
            with pytest.raises(TensorError, match=message):
                model.session.run("decode", {**rows, "positions": np.full((1, 1), wrong, np.int32)}, state)
        model.session.run("decode", {**rows, "positions": np.zeros((1, 1), np.int32)}, state)


@pytest.mark.parametrize(
    ("kind", "target", "recipe"),
    [MATRIX[0], *(pytest.param(*each, marks=pytest.mark.slow) for each in SLOW if each[2] == "fp32")],
)
def test_a_state_keeps_while_another_one_and_other_components_run(kind: str, target: str, recipe: str) -> None:
    bundle, rng = made(kind, target, recipe), np.random.default_rng(4)
    specs = {name: each.spec for name, each in bundle.components.items()}
    rows = [
        {each.name: rng.normal(size=each.at(1)).astype(np.float32) for each in specs["decode"].inputs} for _ in range(4)
    ]
    for position, each in enumerate(rows):
        each["positions"] = np.full((1, 1), position, np.int32)
    pixels = rng.uniform(0, 255, specs["encode_image"].inputs[0].shape).astype(np.float32)
    with edgevlm.open(bundle.path) as model:
        session = model.session
        state, expected = session.make_state("decode"), []
        for each in rows:
            expected.append(session.run("decode", each, state)["logits"])
        del state
        states = [session.make_state("decode") for _ in range(2)]
        for position, each in enumerate(rows):
            for state in states:
                session.run("encode_image", {"pixels": pixels})
                session.run("embed_tokens", {"token_ids": np.full((1, 1), position, np.int32)})
                np.testing.assert_array_equal(session.run("decode", each, state)["logits"], expected[position])
        assert np.abs(expected[1] - expected[2]).max() > 1e-3


def run(*arguments: object) -> Any:
    return CliRunner().invoke(main, [str(each) for each in arguments])


def test_the_command_line_asks_and_describes(tmp_path: Path) -> None:
    bundle = made()
    for seed in (1, 2):
        scene(30, 40, seed=seed).save(tmp_path / f"{seed}.png")
    with edgevlm.open(bundle.path) as model:
        expected = [model.generate(tmp_path / f"{seed}.png", "a picture of", max_tokens=5).text for seed in (1, 2)]
        described = model.generate(tmp_path / "1.png", max_tokens=5).text
    asked = run("run", bundle.path, tmp_path / "1.png", "--ask", "a picture of", "--max-tokens", 5)
    assert (asked.exit_code, asked.stdout) == (0, f"{expected[0]}\n")
    several = run("run", bundle.path, tmp_path, "--ask", "a picture of", "--max-tokens", 5, "--json")
    told = json.loads(several.stdout)
    assert [each["text"] for each in told["answers"]] == expected
    assert {each["finish"] for each in told["answers"]} == {"length"}
    assert all(each["times"]["first_token_ms"] > 0 for each in told["answers"])
    nothing = run("run", bundle.path, tmp_path / "1.png", "--ask", "", "--max-tokens", 5, "--json")
    assert {each["question"] for each in json.loads(nothing.stdout)["answers"]} == {""}
    assert run("describe", bundle.path, tmp_path / "1.png", "--max-tokens", 5).stdout == f"{described}\n"
    drawn = [
        run("describe", bundle.path, tmp_path / "1.png", "--temperature", 2, "--seed", seed, "--max-tokens", 8).stdout
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    (tmp_path / "3.png").write_bytes(b"no picture")
    some = run("describe", bundle.path, tmp_path, "--max-tokens", 2)
    assert some.exit_code == 2
    assert some.stdout.count("\n") == 2
    assert "3.png: not a picture" in some.stderr
    for wrong, message in (
        (("--text", "a"), "talks, and gives no embeddings"),
        (("--ask", "a", "--text", "b"), "expected --ask, alone or with --labels, or --text, got both"),
        (("--labels", "a,b", "--scores", "cosine"), "the share of each answer, and no cosine"),
        (("--ask", "a cat " * 40), "expected at most 32 more positions, of a context of 32"),
    ):
        refused = run("run", bundle.path, tmp_path / "1.png", *wrong)
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert message in refused.stderr
    told = json.loads(
        run("run", bundle.path, tmp_path / "1.png", "--ask", "a", "--labels", "cat, dog", "--json").stdout
    )
    shares = told["answers"][0]["scores"]
    assert shares.keys() == {"cat", "dog"}
    assert sum(shares.values()) == pytest.approx(1)
    shown = run("inspect", bundle.path)
    assert re.search(r"talks +a context of 32 positions", shown.stdout)
    assert re.search(r"prefill_16 +FULLY_CONNECTED", shown.stdout)


def test_ctrl_c_keeps_what_came(tmp_path: Path) -> None:
    scene(30, 40, seed=1).save(tmp_path / "1.png")
    program = (
        "import signal, edgevlm.inference.generator as g\n"
        "step = g.Answer._step\n"
        "def stepping(self):\n"
        "    if len(self.token_ids) == 3: signal.raise_signal(signal.SIGINT)\n"
        "    return step(self)\n"
        "g.Answer._step = stepping\n"
        "from edgevlm.cli import program\n"
        "program()\n"
    )
    command = [sys.executable, "-c", program, "describe", str(made().path), str(tmp_path / "1.png"), "--json"]
    environment = os.environ | {"PYTHONPATH": str(Path(edgevlm.__file__).parent.parent)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.returncode == 128 + signal.SIGINT, done.stderr
    (answer,) = json.loads(done.stdout)["answers"]
    assert answer["finish"] == "stopped"
    assert 4 <= answer["tokens"] < 32


def _steps(golden: dict[str, Any], change: Callable[[dict[str, Any]], object]) -> None:
    for dialogue in golden["dialogues"]:
        for step in dialogue["steps"]:
            change(step)


LIES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "other ids": (lambda g: g["dialogues"][1]["token_ids"].append(7), "write another text, or other ids"),
    "another text": (lambda g: g["dialogues"][1].update(text="a dog"), "write another text, or other ids"),
    "ids that there are none of": (
        lambda g: _steps(g, lambda s: s["token_ids"].__setitem__(0, 99999)),
        "golden: expected ids below",
    ),
    "no id": (lambda g: g["dialogues"][0]["answer_ids"].__setitem__(0, 1 << 40), "expected a step for each token"),
    "empty steps": (lambda g: _steps(g, lambda s: s.update(token_ids=[], logits=[])), "expected a step for each token"),
    "no dialogue": (lambda g: g.update(dialogues=[]), "expected 5 dialogues or more"),
    "one picture a question": (
        lambda g: [each.update(question=f"{number}") for number, each in enumerate(g["dialogues"])],
        "two pictures of one question",
    ),
    "another answer": (lambda g: g["dialogues"][0].update(answer="lies"), "make another text of its ids"),
    "another picture": (
        lambda g: g["pixels"].update(dict.fromkeys(g["pixels"], "00")),
        "make other pixels of it than golden",
    ),
    "a picture without pixels": (lambda g: g["pixels"].popitem(), "expected those of each picture"),
    "a picture outside": (
        lambda g: (
            g["dialogues"][0].update(picture="../../etc/passwd"),
            g["pixels"].update({"../../etc/passwd": "00", g["dialogues"][3]["picture"]: "00"}),
        ),
        "expected pictures among the bundle's files|expected those of each picture",
    ),
    "a sum of nothing": (lambda g: _steps(g, lambda s: s.update(logsumexp=1e300)), "expected a step for each token"),
    "no steps": (lambda g: g["dialogues"][0].update(steps=[]), "expected a step for each token"),
    "another version": (lambda g: g.update(schema_version=9), "expected schema_version 3, got 9"),
}


@pytest.mark.parametrize("case", LIES)
def test_golden_that_contradicts_the_bundle_is_refused(case: str, tmp_path: Path) -> None:
    change, message = LIES[case]
    with pytest.raises(BundleError, match=message):
        pipeline.verify(_changed(tmp_path, change))


def test_other_logits_fail(tmp_path: Path) -> None:
    louder = _changed(tmp_path, lambda g: _steps(g, lambda s: s.update(logits=[each + 0.1 for each in s["logits"]])))
    assert "max_abs_error" in {check.measure for check in pipeline.verify(louder).checks if not check.passed}
    swapped = _changed(tmp_path / "2", lambda g: _steps(g, lambda s: s.update(token_ids=s["token_ids"][::-1])))
    failed = {check.measure for check in pipeline.verify(swapped).checks if not check.passed}
    assert {"mean_kl", "top1_agreement"} <= failed


def _changed(folder: Path, change: Callable[[dict[str, Any]], object]) -> Bundle:
    path = folder / "b.edgevlm"
    shutil.copytree(made().path, path)
    golden = json.loads((path / GOLDEN).read_text(encoding="utf-8"))
    change(golden)
    (path / GOLDEN).write_text(json.dumps(golden), encoding="utf-8")
    return seal(path, made().manifest)


def _decode(manifest: Manifest, **changes: Any) -> Manifest:
    decode = manifest.components["decode"]
    functions = changes.pop("functions", decode.functions)
    other = replace(decode, spec=replace(decode.spec, **changes), functions=functions)
    return replace(manifest, components={**manifest.components, "decode": other})


def _dialogue(manifest: Manifest, **changes: Any) -> Manifest:
    assert manifest.dialogue is not None
    return replace(manifest, dialogue=replace(manifest.dialogue, **changes))


SPELLING = Spelling("<image>", 3, 16, "", "", "", Turn("", ""))
CONTRADICTIONS: dict[str, tuple[Callable[[Manifest], Manifest], str]] = {
    "a function too few": (lambda m: _decode(m, functions={"1": "decode"}), "expected ascending lengths, a function"),
    "lengths that descend": (lambda m: _decode(m, lengths=(16, 1)), "expected ascending lengths, a function"),
    "a size of 0": (
        lambda m: _decode(m, outputs=(replace(m.components["decode"].spec.outputs[0], shape=(1, 0)),)),
        "and sizes of at least 1",
    ),
    "no tokenizer": (lambda m: _dialogue(m, tokenizer_file="gone.json"), "which is not in the bundle"),
    "another context": (lambda m: _dialogue(m, context_length=1 << 40), "expected the places of decode's state"),
    "ids beyond 31 bits": (lambda m: _dialogue(m, begin_ids=(1 << 40,)), "expected ids of 31 bits"),
    "nothing that ends": (lambda m: _dialogue(m, end_ids=()), "one of which ends an answer"),
    "tiles of another size": (
        lambda m: _dialogue(m, tiling=Tiling(64, 64, "bicubic")),
        "expected the size of encode_image's pixels",
    ),
    "a grid in an older format": (
        lambda m: _dialogue(m, tiling=Tiling(32, 32, "bicubic", grid=Grid(1, 1))),
        r"tiling\.grid: expected format version 3\.0 or later, .* got 2\.2, and 1 to 1",
    ),
    "a grid of nothing": (
        lambda m: _dialogue(replace(m, format_version="3.0"), tiling=Tiling(32, 32, "bicubic", grid=Grid(2, 1))),
        r"at most 256 tiles, got 3\.0, and 2 to 1",
    ),
    "a prefix in an older format": (
        lambda m: _decode(m, prefix=True),
        r"dialogue: expected format version 4\.0 or later for one question, or a prefix, got 2\.2",
    ),
    "one question in an older format": (
        lambda m: _dialogue(m, chat=Chat("", None, Turn("", ""), Turn("<image>", ""), None, "")),
        r"expected format version 4\.0 or later for one question, or a prefix, got 2\.2",
    ),
    "a share above all": (
        lambda m: _dialogue(m, sampling=Sampling(1.0, 0, 1.5)),
        "a top_p of at most 1",
    ),
    "a picture in the text": (
        lambda m: _dialogue(m, spelling=SPELLING),
        r"spelling: expected one where encode_image answers features, and none elsewhere before format version 4\.0",
    ),
    "embeddings as well": (
        lambda m: replace(m, embedding_dim=3, logit_scale=1.0, embedding_space_id="x"),
        "or dialogue of a model that talks, got both",
    ),
    "neither": (lambda m: replace(m, dialogue=None), "got neither"),
    "no logits": (lambda m: _decode(m, outputs=()), "and logits from them"),
    "a component too few": (
        lambda m: replace(m, components={"decode": m.components["decode"]}),
        "components: expected encode_image, embed_tokens and decode",
    ),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_manifest_that_contradicts_itself_is_refused(case: str, tmp_path: Path) -> None:
    change, message = CONTRADICTIONS[case]
    shutil.copytree(made().path, tmp_path / "b.edgevlm")
    write_manifest(tmp_path / "b.edgevlm", change(made().manifest))
    with pytest.raises(BundleError, match=message):
        Bundle.open(tmp_path / "b.edgevlm")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spelling": SPELLING}, "dialogue.spelling.positions: expected the rows of encode_image's features"),
        ({"tiling": Tiling(8192, 1, "lanczos")}, "expected a context that holds a picture of 16,777,217 tiles"),
    ],
    ids=["rows", "tiles"],
)
def test_pictures_that_do_not_fit_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    bundle = made("smolvlm")
    shutil.copytree(bundle.path, tmp_path / "b.edgevlm")
    write_manifest(tmp_path / "b.edgevlm", _dialogue(bundle.manifest, **changes))
    with pytest.raises(BundleError, match=message):
        Bundle.open(tmp_path / "b.edgevlm")


def test_a_picture_of_other_shapes_is_refused_when_the_file_is_opened(tmp_path: Path) -> None:
    shutil.copytree(made().path, tmp_path / "b.edgevlm")
    encode, decode = (made().components[name] for name in ("encode_image", "decode"))
    flat = {each.name: replace(each, shape=(1, 5)) for each in encode.spec.outputs}
    other = {
        "encode_image": replace(encode, spec=replace(encode.spec, outputs=tuple(flat.values()))),
        "decode": replace(
            decode, spec=replace(decode.spec, inputs=tuple(flat.get(each.name, each) for each in decode.spec.inputs))
        ),
    }
    write_manifest(tmp_path / "b.edgevlm", replace(made().manifest, components={**made().components, **other}))
    with pytest.raises(BundleError, match="encode_image: expected features, or keys and values"):
        edgevlm.open(tmp_path / "b.edgevlm")


def test_words_that_contradict_each_other_are_refused() -> None:
    chat = Chat("", None, Turn("U: ", ""), Turn("U: <image>", ""), Turn("A: ", ""), "A:")
    sound = Dialogue(64, (), chat, SPELLING, None, (2,), "What is it?", Sampling(), "tokenizer.json")
    claims._check_words(Path("m"), sound)
    for wrong, message in (
        (replace(sound, describe="<image>?"), "is not in describe"),
        (replace(sound, spelling=replace(SPELLING, token="")), "expected a token that stands for a picture"),
        (replace(sound, chat=replace(chat, user_with_picture=Turn("U: ", "<image>"))), "expected <image> once"),
        (replace(sound, spelling=None), "expected a token that stands for a picture"),
        (replace(sound, begin_ids=(1,) * 64), "expected begin_ids that the context holds"),
    ):
        with pytest.raises(BundleError, match=message):
            claims._check_words(Path("m"), wrong)


def test_the_format_of_a_talker_is_its_own_and_an_encoders_stays(tmp_path: Path) -> None:
    manifest = json.loads((made().path / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["format_version"] == TALKERS_VERSION
    assert manifest["embedding_dim"] is None
    assert manifest["components"]["decode"]["functions"] == {"1": "decode", "16": "prefill_16"}
    encoder = json.loads((library.student("tflite", "int8").path / "manifest.json").read_text(encoding="utf-8"))
    assert encoder["format_version"] == FORMAT_VERSION
    assert "dialogue" not in encoder
    assert "functions" not in encoder["components"]["encode_image"]
    small = edgevlm.export_for_app(made(), tmp_path)
    with edgevlm.open(small.path) as model:
        assert model.generate(scene(20, 20), max_tokens=2).text
    with pytest.raises(BundleError, match=r"expected golden/golden\.json, which the artefact is held against"):
        pipeline.verify(small)


def test_what_is_not_carried_yet_is_said(tmp_path: Path) -> None:
    folder = library.talker_checkpoint("blip")
    with pytest.raises(UnsupportedError, match="models that talk have no measured ranges, palettes or pruning as yet"):
        edgevlm.convert(folder, target="coreml", recipe="palette-4", out=tmp_path)
    with pytest.raises(InputError, match="labels and image_only are a dual encoder's"):
        edgevlm.convert(folder, target="tflite", labels=["a", "b"], out=tmp_path)
    with pytest.raises(InputError, match="a context, lengths and a size of pictures are of models"):
        edgevlm.convert(target="tflite", context_length=64, out=tmp_path)
    assert list(tmp_path.iterdir()) == []
    for command in (
        ("index", Path("examples", "pictures").absolute(), "--bundle", made().path, "--out", tmp_path / "x.index"),
        ("evaluate", made().path, "--data", "objects:train:5:1", "--shots", "1"),
    ):
        refused = run(*command)
        assert (refused.exit_code, "talks" in refused.stderr) == (2, True), refused.output
    refused = run("convert", folder, "--target", "tflite", "--lengths", "1,x", "--out", tmp_path)
    assert (refused.exit_code, "--lengths: expected whole numbers" in refused.stderr) == (2, True)
