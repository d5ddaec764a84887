"""Checkpoints load, and their programs equal transformers' own answers and export cleanly."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import write_clip_checkpoint, write_siglip_checkpoint
from torch import Tensor
from transformers import AutoModel, AutoProcessor

from edgevlm.errors import CheckpointError
from edgevlm.models import catalogue, layers
from edgevlm.models.checkpoints import hub
from edgevlm.models.model import Model

torch.set_num_threads(1)

Writer = Callable[..., Path]


def both_towers(**values: Any) -> dict[str, Any]:
    return {"text": values, "vision": values}


CASES: dict[str, tuple[Writer, Mapping[str, Any]]] = {
    "clip": (write_clip_checkpoint, {}),
    "clip-gelu": (write_clip_checkpoint, both_towers(hidden_act="gelu")),
    "clip-gelu-tanh": (write_clip_checkpoint, both_towers(hidden_act="gelu_pytorch_tanh")),
    "clip-gelu-new": (write_clip_checkpoint, both_towers(hidden_act="gelu_new")),
    "clip-silu": (write_clip_checkpoint, both_towers(hidden_act="silu")),
    "clip-one-layer": (write_clip_checkpoint, both_towers(num_hidden_layers=1)),
    "clip-legacy-pooling": (write_clip_checkpoint, {"text": {"eos_token_id": 2}}),
    "clip-64-ids": (write_clip_checkpoint, {"text": {"max_position_embeddings": 64}}),
    "clip-patch-not-dividing": (write_clip_checkpoint, {"vision": {"image_size": 30}}),
    "clip-non-square": (write_clip_checkpoint, {"preprocessor": {"crop_size": {"height": 24, "width": 45}}}),
    "clip-same-count-other-shape": (
        write_clip_checkpoint,
        {"preprocessor": {"crop_size": {"height": 16, "width": 64}}},
    ),
    "clip-larger": (write_clip_checkpoint, {"preprocessor": {"crop_size": 48, "size": 48}}),
    "clip-not-normalised": (write_clip_checkpoint, {"preprocessor": {"do_normalize": False}}),
    "clip-fp16": (write_clip_checkpoint, {"dtype": torch.float16}),
    "clip-bf16": (write_clip_checkpoint, {"dtype": torch.bfloat16}),
    "siglip": (write_siglip_checkpoint, {}),
    "siglip-quick-gelu": (write_siglip_checkpoint, both_towers(hidden_act="quick_gelu")),
    "siglip-projection": (write_siglip_checkpoint, {"text": {"hidden_size": 36, "projection_size": 48}}),
    "siglip-16-ids": (write_siglip_checkpoint, {"text": {"max_position_embeddings": 16}}),
    "siglip-patch-not-dividing": (write_siglip_checkpoint, {"vision": {"patch_size": 7}}),
    "siglip-non-square": (write_siglip_checkpoint, {"preprocessor": {"size": {"height": 24, "width": 45}}}),
    "siglip-bf16": (write_siglip_checkpoint, {"dtype": torch.bfloat16}),
}


@pytest.fixture(params=CASES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    write, options = CASES[request.param]
    return write(tmp_path / "checkpoint", **options)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pristine")
    return {
        "clip": write_clip_checkpoint(root / "clip"),
        "clip-legacy-pooling": write_clip_checkpoint(root / "legacy", text={"eos_token_id": 2}),
        "siglip": write_siglip_checkpoint(root / "siglip"),
    }


def make_pixels(model: Model) -> Tensor:
    noise = torch.rand(model.programs["encode_image"].example[0].shape, generator=torch.Generator().manual_seed(1))
    return (noise * 255).round()


def make_ids(model: Model) -> dict[str, Tensor]:
    """Rows with the end of text nowhere, once, twice, and at either edge; int32 [1, L]."""
    length, eot = model.text.context_length, model.text.eot_id
    words = torch.randint(3, 150, (1, length), generator=torch.Generator().manual_seed(2), dtype=torch.int32)
    rows = {name: words.clone() for name in ("none", "padded", "twice", "first", "last")}
    rows["padded"][0, 7:] = eot
    rows["twice"][0, [4, 9]] = eot
    rows["first"][0, 0] = eot
    rows["last"][0, -1] = eot
    return rows


def unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True)


def test_programs_and_reference_equal_transformers(folder: Path) -> None:
    model = catalogue.load(folder)
    original = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    pixels, image = make_pixels(model), model.image
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (image.mean, image.std))
    with torch.no_grad():
        normalised = (pixels * image.rescale - mean) / std
        expected = unit(original.get_image_features(normalised, interpolate_pos_encoding=True).pooler_output)
        cases = [("encode_image", "pixels", pixels, expected)]
        for name, ids in make_ids(model).items():
            cases.append(("encode_text", name, ids, unit(original.get_text_features(ids.long()).pooler_output)))
    for component, name, given, expected in cases:
        program = model.programs[component]
        got = program.module(given)
        assert got.shape == expected.shape == program.spec.outputs[0].shape, name
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}")
        torch.testing.assert_close(model.original.forward(component, given), expected, rtol=0, atol=1e-6)


def test_a_model_says_what_it_is(pristine: Mapping[str, Path]) -> None:
    model = catalogue.load(str(pristine["clip"]))
    assert (model.source.name, model.source.family, model.source.licence) == ("clip", "clip", "mit")
    assert model.source.revision.startswith("sha256:")
    assert model.source == catalogue.load(pristine["clip"]).source
    assert (model.embedding_dim, round(model.logit_scale, 3)) == (24, 100.0)
    assert model.text.context_length == 77
    assert (model.image.height, model.image.width) == (32, 32)
    assert model.tokenizer_json == (pristine["clip"] / "tokenizer.json").read_bytes()
    for program in model.programs.values():
        assert not program.module.training
        assert not any(parameter.requires_grad for parameter in program.module.parameters())
        for spec, example in zip(program.spec.inputs, program.example, strict=True):
            assert (tuple(example.shape), str(example.dtype)) == (spec.shape, f"torch.{spec.dtype}")


def test_other_weights_are_another_revision(tmp_path: Path, pristine: Mapping[str, Path]) -> None:
    other = write_clip_checkpoint(tmp_path / "clip", seed=1)
    assert catalogue.load(other).source.revision != catalogue.load(pristine["clip"]).source.revision


@pytest.mark.parametrize(
    ("readme", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n# Title\n", "apache-2.0"),
        ("---\r\nlicense: cc-by-4.0\r\n---\r\n", "cc-by-4.0"),
        ("---\ntags: [a]\n---\n", "unknown"),
        ("---\nlicense: [mit\n---\n", "unknown"),
        ("# license: mit\n", "unknown"),
        (None, "unknown"),
    ],
)
def test_licence_comes_from_the_model_card(
    readme: str | None, licence: str, tmp_path: Path, pristine: Mapping[str, Path]
) -> None:
    folder = shutil.copytree(pristine["clip"], tmp_path / "clip")
    (folder / "README.md").unlink()
    if readme is not None:
        (folder / "README.md").write_bytes(readme.encode())
    assert catalogue.load(folder).source.licence == licence


@pytest.mark.parametrize("name", ["clip", "clip-legacy-pooling", "siglip"])
@pytest.mark.parametrize("component", ["encode_image", "encode_text"])
def test_programs_export_without_what_backends_carry_badly(
    name: str, component: str, pristine: Mapping[str, Path]
) -> None:
    model = catalogue.load(pristine[name])
    program = model.programs[component]
    exported = torch.export.export(program.module, program.example, strict=False)
    ops = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    forbidden = ("argmax", "scaled_dot_product", "multi_head", "dropout", "index", "where", "masked", "full")
    assert not [op for op in ops if any(word in op for word in forbidden)]
    assert "aten.softmax.int" in ops
    constants = {**exported.state_dict, **exported.constants}
    # 65,504 is float16's largest number.
    assert not [key for key, value in constants.items() if not (value.abs().max() < 65504)]
    given = make_pixels(model) if component == "encode_image" else make_ids(model)["padded"]
    torch.testing.assert_close(exported.module()(given), model.original.forward(component, given), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ["clip", "siglip"])
@pytest.mark.parametrize("component", ["encode_image", "encode_text"])
def test_programs_survive_float16(name: str, component: str, pristine: Mapping[str, Path]) -> None:
    model = catalogue.load(pristine[name])
    given = make_pixels(model) if component == "encode_image" else make_ids(model)["padded"]
    half = copy.deepcopy(model.programs[component].module).half()
    got = half(given.half() if component == "encode_image" else given).float()
    cosine = torch.nn.functional.cosine_similarity(got, model.original.forward(component, given)).item()
    assert cosine > 0.999


@pytest.mark.parametrize("name", ["clip", "siglip"])
@pytest.mark.parametrize("component", ["encode_image", "encode_text"])
def test_random_weights_show_a_softmax_over_the_wrong_axis(
    name: str, component: str, pristine: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = catalogue.load(pristine[name])
    given = make_pixels(model) if component == "encode_image" else make_ids(model)["none"]
    softmax = Tensor.softmax
    monkeypatch.setattr(Tensor, "softmax", lambda scores, axis: softmax(scores, axis - 1))
    got = model.programs[component].module(given)
    monkeypatch.undo()
    assert torch.nn.functional.cosine_similarity(got, model.original.forward(component, given)).item() < 0.95


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("eot_id", "ids", "place"),
    [
        (49407, [49406, 320, 49407, 49407, 49407], 2),
        (49407, [49406, 49406, 320, 321, 49407], 4),
        (49407, [49407, 320, 49407, 5, 5], 0),
        (49407, [49406, 320, 321, 322, 49406], 0),
        (None, [49406, 320, 49407, 49407, 0], 2),
        (None, [5, 49405, 49406, 7, 49406], 2),
        (None, [0, 0, 0, 0, 0], 0),
    ],
)
def test_end_of_text_is_the_first_match_in_any_precision(
    eot_id: int | None, ids: list[int], place: int, dtype: torch.dtype
) -> None:
    row = layers.EndOfText(eot_id, 5).to(dtype)(torch.tensor([ids], dtype=torch.int32))
    assert row.tolist() == [[[float(index == place) for index in range(5)]]]


@pytest.mark.parametrize("length", [1e-3, 1.0, 30.0, 600.0])
def test_unit_norm_neither_overflows_in_float16_nor_loses_in_float32(length: float) -> None:
    vectors = torch.randn(16, 512, generator=torch.Generator().manual_seed(0))
    vectors *= length / vectors.norm(dim=-1, keepdim=True)
    exact = unit(vectors.double())
    assert (layers.unit_norm(vectors) - exact).abs().max() < 1e-7
    assert (layers.unit_norm(vectors.half()) - exact).abs().max() < 5e-4


def test_what_transformers_saves_today_loads(tmp_path: Path, pristine: Mapping[str, Path]) -> None:
    folder = tmp_path / "saved"
    AutoModel.from_pretrained(pristine["clip"], dtype=torch.bfloat16).save_pretrained(folder, max_shard_size="50KB")
    AutoProcessor.from_pretrained(pristine["clip"]).save_pretrained(folder)
    assert not (folder / "preprocessor_config.json").exists()  # it is nested in processor_config.json now
    saved, original = catalogue.load(folder), catalogue.load(pristine["clip"])
    assert (saved.image, saved.text) == (original.image, original.text)


def test_hub_id_is_read_from_the_cache_when_offline(
    tmp_path: Path, pristine: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "models--owner--tiny-clip"
    shutil.copytree(pristine["clip"], cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    source = catalogue.load("owner/tiny-clip").source
    assert (source.name, source.revision) == ("owner/tiny-clip", commit)
    with pytest.raises(CheckpointError, match="does not hold owner/other at v2") as caught:
        catalogue.load("owner/other", revision="v2")
    assert "hf download owner/other" in str(caught.value.hint)


def test_hub_that_cannot_be_reached_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match="cannot be reached") as caught:
        catalogue.load("owner/tiny-clip")
    assert "give FOLDER here" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("name", "is_id"), [("openai/clip", True), ("clip", False), ("./a/b", False), ("a/b/c", False), ("../b", False)]
)
def test_hub_ids_have_an_owner_and_a_name(name: str, is_id: bool) -> None:
    assert hub.is_hub_id(name) is is_id


def test_listing_models_imports_no_torch() -> None:
    code = "import sys, edgevlm.models.catalogue; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
