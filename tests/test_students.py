"""Students: towers that fuse exactly, folders that come back whole, and bundles that answer as the folder does."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import write_clip_checkpoint, write_siglip_checkpoint
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, SiglipTextModel

import edgevlm
from edgevlm.bundle.manifest import Labels
from edgevlm.bundle.recipe import BUILTIN
from edgevlm.cli import main
from edgevlm.conversion import pipeline
from edgevlm.data.scenes import Scenes
from edgevlm.errors import CheckpointError, InputError, TensorError, UnsupportedError
from edgevlm.inference.embeddings import softmax
from edgevlm.inputs import labels
from edgevlm.models import builtin, catalogue
from edgevlm.models.model import Model
from edgevlm.models.students import folder as student_folder
from edgevlm.models.students.card import model_card
from edgevlm.models.students.config import (
    GridConfig,
    HybridConfig,
    ImageTowerConfig,
    VitConfig,
    square_pictures,
)
from edgevlm.models.students.parts import FixedLabels, SmallText, StudentParts, TextSide, teacher_text
from edgevlm.models.students.presets import COST_DIM, COSTS, PRESETS, TEXT_PRESETS, preset, text_preset
from edgevlm.models.students.reparameterised import RepConv, fuse
from edgevlm.models.students.towers import build_image_tower, build_text_tower, cost, multiply_adds, parameters

torch.set_num_threads(1)

TINY: dict[str, ImageTowerConfig] = {
    "vit": VitConfig(image_size=32, patch_size=8, width=32, blocks=2, heads=2),
    "hybrid": HybridConfig(image_size=32, widths=(16, 24, 32), depths=(1, 1, 1), heads=2, copies=2),
    "grid": GridConfig(image_size=32, stem_channels=(8, 12, 16), width=32, blocks=1, heads=2, token_features=8),
}
SIDES = ("small", "teacher", "none")
TARGETS = ("coreml", "executorch", "tflite")
DIM = 24
LABELS = Labels(("red circle", "blue star", "two green squares"), ("a {}", "a picture of a {}"))


@functools.cache
def scenes(size: int, count: int = 16) -> Tensor:
    """Rendered pictures as a tower takes them, float32 [N, 3, S, S]."""
    pixels = torch.from_numpy(Scenes(5).batch(0, count).pixels).permute(0, 3, 1, 2).float()
    return nn.functional.adaptive_avg_pool2d(pixels, size)


def trained(tower: nn.Module, image_size: int, seed: int = 0) -> nn.Module:
    """As training leaves it: every norm with gains, offsets and statistics of its own."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in tower.modules():
            if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
                module.weight.copy_(0.5 + torch.rand(module.weight.shape, generator=generator))
                module.bias.copy_(0.3 * torch.randn(module.bias.shape, generator=generator))
        tower.train()
        for _ in range(10):
            tower(scenes(image_size))
    return tower


@functools.cache
def image_tower(family: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return trained(build_image_tower(TINY[family], DIM), TINY[family].image_size)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    root = tmp_path_factory.mktemp("teachers")
    # Amplified weights magnify float16's honest rounding. SigLIP's embeddings are as long as its network is wide.
    sizes = {"hidden_size": DIM, "num_attention_heads": 2}
    return {
        "clip": catalogue.load(write_clip_checkpoint(root / "clip", projection_dim=DIM, amplified=False)),
        "siglip": catalogue.load(write_siglip_checkpoint(root / "siglip", text=sizes, vision=sizes)),
    }


def text_side(kind: str, teacher: Model) -> TextSide:
    assert teacher.text is not None
    assert teacher.tokenizer_json is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        if kind == "small":
            config = replace(text_preset("text-xs", vocabulary_size=704), width=32, blocks=2, heads=2)
            tower = build_text_tower(config, teacher.text, DIM)
            with torch.no_grad():  # As initialised, all texts end at nearly the same place.
                for name, weights in tower.named_parameters():
                    if name.endswith(("value.weight", "out.weight")):
                        weights.mul_(4)
            return SmallText(config, tower, teacher.text, teacher.tokenizer_json)
        if kind == "teacher":
            return teacher_text(teacher)
        return FixedLabels(LABELS, nn.functional.normalize(torch.randn(len(LABELS.names), DIM)))


def student(family: str, side: TextSide) -> StudentParts:
    config = TINY[family]
    return StudentParts(
        image_tower=image_tower(family),
        image_config=config,
        embedding_dim=DIM,
        logit_scale=14.0,
        text=side,
        image=square_pictures(config.image_size),
        provenance={"teacher": "a tiny one", "data": {"pictures": 3}},
        licence="mit",
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, teachers: dict[str, Model]) -> Callable[[str, str], Path]:
    root = tmp_path_factory.mktemp("students")

    @functools.cache
    def folder(family: str, side: str) -> Path:
        path = root / f"{family}-{side}"
        student_folder.save(path, student(family, text_side(side, teachers["clip"])))
        return path

    return folder


@pytest.mark.parametrize("name", PRESETS)
def test_fused_presets_answer_alike_and_hold_one_convolution_for_many(name: str) -> None:
    # At the smallest size that every preset of a kind takes.
    config = preset(name, image_size=64)
    tower = trained(build_image_tower(config, 64), 64).eval()
    fused = fuse(tower)
    pixels = scenes(64, 8)
    with torch.no_grad():
        assert (fused(pixels) - tower(pixels)).abs().max() < 1e-5
        assert tower(pixels).norm(dim=-1) == pytest.approx(1, abs=1e-5)
        assert (tower(pixels)[0] - tower(pixels)[1]).abs().max() > 1e-3
    assert not any(isinstance(module, RepConv | nn.BatchNorm2d) for module in fused.modules())
    convolutions = [module for module in fused.modules() if isinstance(module, nn.Conv2d)]
    wholes = [module for module in tower.modules() if isinstance(module, RepConv)]
    if wholes:
        assert len(convolutions) == len(wholes)
    assert parameters(fused) <= parameters(tower)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel": 3},
        {"kernel": 5, "copies": 3, "skip": True},
        {"kernel": 3, "stride": 2, "groups": 12},
        {"kernel": 5, "groups": 12, "copies": 2, "skip": True},
        {"kernel": 3, "groups": 4, "skip": True},
        {"kernel": 1},
        {"kernel": 1, "width": 20},
        {"kernel": 3, "width": 24, "groups": 12, "stride": 2},
    ],
    ids=str,
)
def test_a_convolution_of_many_branches_fuses_to_one(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    kernel = options.pop("kernel")
    conv = RepConv(12, options.pop("width", 12), kernel, **options)
    with torch.no_grad():
        for norm in (module for module in conv.modules() if isinstance(module, nn.BatchNorm2d)):
            for tensor in (norm.weight, norm.bias, norm.running_mean):
                nn.init.normal_(tensor)  # type: ignore[arg-type]
            nn.init.uniform_(norm.running_var, 0.2, 3)  # type: ignore[arg-type]
        conv.eval()
        maps = torch.randn(2, 12, 9, 9)
        assert (conv.fuse()(maps) - conv(maps)).abs().max() < 2e-5


@pytest.mark.parametrize("name", PRESETS)
def test_the_listed_costs_are_what_counting_gives(name: str) -> None:
    assert cost(PRESETS[name], COST_DIM) == COSTS[name]


@pytest.mark.parametrize("name", TEXT_PRESETS)
def test_text_presets_read_at_the_end_whatever_pads(name: str, teachers: dict[str, Model]) -> None:
    text = teachers["clip"].text
    assert text is not None
    tower = build_text_tower(text_preset(name, vocabulary_size=704), text, 16).eval()
    ids = some_ids(teachers["clip"])
    others = torch.where(ids == text.pad_id, 0, ids)
    others[range(4), [3, 5, 9, 76]] = text.eot_id
    with torch.no_grad():
        assert (tower(ids) - tower(others)).abs().max() < 1e-6
        assert (tower(ids[:2, :10]) - tower(ids[:2])).abs().max() < 1e-6


def test_unknown_text_towers_are_told() -> None:
    with pytest.raises(InputError, match="expected one of text-xs, text-s, text-m"):
        text_preset("text-xxl", vocabulary_size=704)


def test_presets_range_from_a_tenth_to_twelve_million_weights() -> None:
    for family in ("vit", "hybrid"):
        counts = [cost.parameters for name, cost in COSTS.items() if name.startswith(family)]
        assert counts == sorted(counts)
        assert counts[0] < 2e5
        assert 1.1e7 < counts[-1] < 1.3e7


@pytest.mark.parametrize(("name", "tower"), [(builtin.STUDENT, "grid-xxs"), (builtin.TEACHER, "grid-m")])
def test_the_built_in_models_are_presets(name: str, tower: str) -> None:
    assert student_folder.read(builtin.FOLDERS[name]).image_config == preset(tower)


def test_a_card_shows_names_as_they_are_and_its_origin_as_code() -> None:
    side = FixedLabels(Labels(("a *cat*", "<b>"), ("{}",)), torch.zeros(2, DIM))
    parts = replace(student("grid", side), provenance={"note": "*as it is* <b>"}, licence='mine: "x"')
    card = model_card(parts)
    assert card.startswith('---\nlicense: "mine: \\"x\\""\nlibrary_name: edgevlm\n')
    assert "- **Texts:** none; it tells 2 labels apart: a \\*cat\\*, &lt;b&gt;.\n" in card
    assert '  "note": "*as it is* <b>"\n}\n```\n' in card


def test_a_multiply_add_is_one_product_of_a_convolution_or_a_matrix() -> None:
    tower = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.Flatten(), nn.Linear(8 * 16, 10))
    assert multiply_adds(tower, 16) == 8 * 16 * 3 * 16 + 8 * 16 * 10


@pytest.mark.parametrize(
    ("name", "size", "message", "hint"),
    [
        ("vit-xxl", None, "expected one of vit-xxs, .*grid-s", "edgevlm models"),
        ("vit-s", 100, "vit-s.image_size: expected a multiple of 16, the patch size, got 100", "take 96 or 112"),
        ("hybrid-s", 48, "a multiple of 32, the network's stride, got 48", "take 32 or 64"),
        ("grid-s", 60, "a multiple of 8, the stem's stride, got 60", "take 56 or 64"),
        ("grid-s", 0, "image_size: expected whole numbers of at least 1, got 0", None),
        ("vit-s", 3, "a multiple of 16", "take 16"),
    ],
)
def test_bad_presets_are_told(name: str, size: int | None, message: str, hint: str | None) -> None:
    with pytest.raises(InputError, match=message) as caught:
        preset(name, image_size=size)
    assert hint is None or hint in str(caught.value.hint)


def test_models_lists_the_presets() -> None:
    table = CliRunner().invoke(main, ["models"])
    listed = json.loads(CliRunner().invoke(main, ["models", "--json"]).stdout)["students"]
    assert all(name in table.stdout for name in PRESETS)
    assert listed["hybrid-l"]["family"] == "hybrid"
    assert listed["hybrid-l"]["multiply_adds"] == COSTS["hybrid-l"].multiply_adds


@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize("side", SIDES)
def test_a_folder_gives_back_what_was_saved(
    family: str, side: str, folders: Callable[[str, str], Path], teachers: dict[str, Model]
) -> None:
    folder = folders(family, side)
    model = catalogue.load(folder)
    pixels = scenes(32)
    with torch.no_grad():
        before = image_tower(family).eval()(pixels)
        assert torch.equal(model.original.forward("encode_image", pixels), before)
        program = model.programs["encode_image"].module
        assert (torch.cat([program(each[None]) for each in pixels]) - before).abs().max() < 1e-5
    assert (model.source.family, model.source.licence) == ("student", "mit")
    assert (model.embedding_dim, model.logit_scale) == (DIM, 14.0)
    expected = text_side(side, teachers["clip"])
    if isinstance(expected, FixedLabels):
        assert (model.text, model.tokenizer_json, set(model.programs)) == (None, None, {"encode_image"})
        assert model.labels == LABELS
        assert model.label_embeddings is not None
        assert torch.equal(model.label_embeddings, expected.embeddings)
        return
    assert model.text == teachers["clip"].text
    assert model.tokenizer_json == teachers["clip"].tokenizer_json
    ids = some_ids(model)
    if isinstance(expected, SmallText):
        wanted = expected.tower(ids).detach()
    else:
        wanted = teachers["clip"].original.forward("encode_text", ids)
    assert torch.equal(model.original.forward("encode_text", ids), wanted)
    program = model.programs["encode_text"].module
    assert (torch.cat([program(row[None]) for row in ids]) - wanted).abs().max() < 1e-5


def some_ids(model: Model) -> Tensor:
    """Texts of several lengths, int32 [N, T]."""
    assert model.text is not None
    assert model.text.eot_id is not None
    ids = torch.full((4, model.text.context_length), model.text.pad_id, dtype=torch.int32)
    for row, length in enumerate((3, 5, 9, model.text.context_length - 1)):
        ids[row, :length] = torch.randint(3, 150, (length,), generator=torch.Generator().manual_seed(row)).int()
        ids[row, length] = model.text.eot_id
    return ids


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_a_borrowed_text_half_is_transformers_own(family: str, teachers: dict[str, Model], tmp_path: Path) -> None:
    teacher = teachers[family]
    student_folder.save(tmp_path / "first", student("vit", teacher_text(teacher)))
    first = catalogue.load(tmp_path / "first")
    # A student may teach in turn, and hands its own teacher's words on.
    student_folder.save(tmp_path / "second", student("grid", teacher_text(first)))
    second = catalogue.load(tmp_path / "second")
    ids = some_ids(teacher)
    expected = teacher.original.forward("encode_text", ids)
    assert torch.equal(first.original.forward("encode_text", ids), expected)
    assert torch.equal(second.original.forward("encode_text", ids), expected)
    classes = {"clip": CLIPTextModelWithProjection, "siglip": SiglipTextModel}
    network = classes[family].from_pretrained(tmp_path / "second" / "text_tower").eval()
    with torch.no_grad():
        output = network(ids.long())
    found = output.text_embeds if family == "clip" else output.pooler_output
    assert (nn.functional.normalize(found) - expected).abs().max() < 1e-6


def test_the_built_in_students_text_tower_can_be_kept(tmp_path: Path) -> None:
    teacher = catalogue.load()
    side = teacher_text(teacher)
    assert isinstance(side, SmallText)
    config = replace(TINY["vit"], width=48)
    parts = replace(
        student("vit", side),
        image_tower=build_image_tower(config, teacher.embedding_dim),
        image_config=config,
        embedding_dim=teacher.embedding_dim,
    )
    student_folder.save(tmp_path, parts)
    kept = catalogue.load(tmp_path)
    ids = some_ids(teacher)
    assert torch.equal(kept.original.forward("encode_text", ids), teacher.original.forward("encode_text", ids))
    assert kept.tokenizer_json == (builtin.FOLDERS[builtin.STUDENT] / "tokenizer.json").read_bytes()


def test_half_the_bytes_hold_nearly_the_same_student(
    folders: Callable[[str, str], Path], teachers: dict[str, Model], tmp_path: Path
) -> None:
    student_folder.save(tmp_path, student("hybrid", teacher_text(teachers["clip"])), dtype=torch.float16)
    for name in ("model.safetensors", "text_tower/model.safetensors"):
        whole = (folders("hybrid", "teacher") / name).stat().st_size
        assert (tmp_path / name).stat().st_size < 0.65 * whole
    pixels = scenes(32)
    half, full = (catalogue.load(path) for path in (tmp_path, folders("hybrid", "teacher")))
    found = half.original.forward("encode_image", pixels)
    assert found.dtype == torch.float32
    assert (found - full.original.forward("encode_image", pixels)).abs().max() < 5e-3


def test_saving_leaves_other_files_alone_and_counts_only_its_own(teachers: dict[str, Model], tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    student_folder.save(tmp_path, student("vit", text_side("none", teachers["clip"])))
    fingerprint = catalogue.fingerprint(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("{}\n{}\n")
    assert catalogue.fingerprint(tmp_path) == fingerprint
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    student_folder.save(tmp_path, student("vit", text_side("teacher", teachers["clip"])))
    changed = catalogue.fingerprint(tmp_path)
    assert changed != fingerprint
    weights = tmp_path / "text_tower" / "model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights)
    assert catalogue.fingerprint(tmp_path) != changed


def test_an_interrupted_save_leaves_no_student(
    folders: Callable[[str, str], Path], teachers: dict[str, Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(folders("vit", "small"), tmp_path / "student")

    def fail(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(student_folder, "save_weights", fail)
    with pytest.raises(OSError, match="No space"):
        student_folder.save(folder, student("vit", text_side("none", teachers["clip"])))
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]
    with pytest.raises(CheckpointError, match=r"expected config\.json, got no such file"):
        catalogue.load(folder)


def edit(folder: Path, change: Callable[[dict[str, Any]], object], name: str = "config.json") -> None:
    config = json.loads((folder / name).read_text())
    change(config)
    (folder / name).write_text(json.dumps(config))


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], object], name: str = "model.safetensors") -> None:
    tensors = load_file(folder / name)
    change(tensors)
    save_file(tensors, folder / name)


DAMAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "newer": ("small", lambda f: edit(f, lambda c: c.update(format_version=2)), "format_version: expected 1, got 2"),
    "unknown-key": ("small", lambda f: edit(f, lambda c: c.update(colour=1)), "unknown key 'colour'"),
    "missing-key": ("small", lambda f: edit(f, lambda c: c.pop("image")), "the key 'image' is missing"),
    "unknown-family": (
        "small",
        lambda f: edit(f, lambda c: c["image_tower"].update(family="resnet")),
        "image_tower.family: expected one of vit, hybrid, grid, got 'resnet'",
    ),
    "family-a-list": ("small", lambda f: edit(f, lambda c: c["image_tower"].update(family=[])), r"got \[\]"),
    "width-a-text": ("small", lambda f: edit(f, lambda c: c["image_tower"].update(heads="2")), "heads: expected int"),
    "no-stages": (
        "small",
        lambda f: edit(f, lambda c: c["image_tower"].update(widths=[], depths=[])),
        r"widths: expected whole numbers of at least 1, got \[\]",
    ),
    "copies-without-end": (
        "small",
        lambda f: edit(f, lambda c: c["image_tower"].update(copies=10**6)),
        "image_tower: expected at most 1,000 blocks, got",
    ),
    "uneven-stages": ("small", lambda f: edit(f, lambda c: c["image_tower"].update(depths=[1])), "as many depths"),
    "heads-not-dividing": (
        "small",
        lambda f: edit(f, lambda c: c["image_tower"].update(heads=5)),
        "heads: expected a number that divides the width, 32, got 5",
    ),
    "another-picture-size": (
        "small",
        lambda f: edit(f, lambda c: c["image"].update(height=64)),
        "expected the image tower's 32 x 32 pixels, got 64 x 32",
    ),
    "another-normalisation": ("small", lambda f: edit(f, lambda c: c["image"].update(mean=[0, 0, 0])), "to -1..1"),
    "no-temperature": ("small", lambda f: edit(f, lambda c: c.update(logit_scale=0)), "logit_scale: expected"),
    "temperature-not-a-number": (
        "small",
        lambda f: edit(f, lambda c: c.update(logit_scale=float("nan"))),
        "logit_scale: expected",
    ),
    "no-embedding": ("small", lambda f: edit(f, lambda c: c.update(embedding_dim=0)), "embedding_dim: expected"),
    "another-embedding": (
        "small",
        lambda f: edit(f, lambda c: c.update(embedding_dim=DIM + 1)),
        rf"image.projection.weight: expected \[{DIM + 1}, 32\], got \[{DIM}, 32\]",
    ),
    "missing-tensor": (
        "small",
        lambda f: rewrite(f, lambda t: t.pop("image.norm.weight")),
        r"image.norm.weight: expected \[32\], got nothing",
    ),
    "missing-statistics": (
        "small",
        lambda f: rewrite(f, lambda t: t.pop("image.convolutions.0.branches.0.1.running_var")),
        "running_var: expected .*, got nothing",
    ),
    "cut-short": (
        "small",
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:9000]),
        "damaged or cut short",
    ),
    "no-weights": ("small", lambda f: (f / "model.safetensors").unlink(), "expected model.safetensors"),
    "unknown-text": (
        "small",
        lambda f: edit(f, lambda c: c["text"].update(kind="large")),
        "text.kind: expected one of small, teacher, none, got 'large'",
    ),
    "text-without-tower": ("small", lambda f: edit(f, lambda c: c["text"].pop("tower")), "the key 'tower' is missing"),
    "tokenizer-elsewhere": (
        "small",
        lambda f: edit(f, lambda c: c["text"]["preprocessing"].update(tokenizer_file="../tokenizer.json")),
        "tokenizer_file: expected tokenizer.json",
    ),
    "no-tokenizer": ("small", lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json"),
    "tokenizer-cut": ("small", lambda f: (f / "tokenizer.json").write_text('{"version'), "tokenizer.json"),
    "small-vocabulary": (
        "small",
        lambda f: edit(f, lambda c: c["text"]["tower"].update(vocabulary_size=600)),
        "ids below the text tower's 600, got 703",
    ),
    "end-of-text-unknown": (
        "small",
        lambda f: edit(f, lambda c: c["text"]["preprocessing"].update(eot_id=9999)),
        "eot_id: expected an id of the tokenizer, got 9999",
    ),
    "no-end-of-text": (
        "small",
        lambda f: edit(f, lambda c: c["text"]["preprocessing"].update(eot_id=None)),
        "a tokenizer that ends its texts",
    ),
    "longer-context": (
        "small",
        lambda f: edit(f, lambda c: c["text"]["preprocessing"].update(context_length=80)),
        r"text.positions: expected \[1, 80, 32\], got \[1, 77, 32\]",
    ),
    "no-text-half": (
        "teacher",
        lambda f: shutil.rmtree(f / "text_tower"),
        "text_tower: expected config.json, got no such file",
    ),
    "another-teacher": (
        "teacher",
        lambda f: edit(f, lambda c: c["text"].update(family="siglip")),
        "model_type: expected siglip_text_model, got 'clip_text_model'",
    ),
    "teachers-context": (
        "teacher",
        lambda f: edit(f, lambda c: c["text"]["preprocessing"].update(context_length=80)),
        "a context of 80 ids or more, got 77",
    ),
    "teachers-projection": (
        "teacher",
        lambda f: (
            edit(f, lambda c: c.update(projection_dim=8), "text_tower/config.json"),
            rewrite(
                f, lambda t: t.update({"text_projection.weight": torch.ones(8, 32)}), "text_tower/model.safetensors"
            ),
        ),
        f"as long as the image tower's, {DIM}, got 8",
    ),
    "teachers-end-of-text": (
        "teacher",
        lambda f: edit(f, lambda c: c.update(eos_token_id=7), "text_tower/config.json"),
        "eos_token_id: expected the tokenizer's end of text, 703, got 7",
    ),
    "teachers-weights": (
        "teacher",
        lambda f: rewrite(f, lambda t: t.pop("text_projection.weight"), "text_tower/model.safetensors"),
        "text_projection.weight: expected .* got nothing",
    ),
    "no-labels": (
        "none",
        lambda f: edit(f, lambda c: c["text"]["labels"].update(names=[])),
        "expected labels, got none",
    ),
    "more-labels": (
        "none",
        lambda f: edit(f, lambda c: c["text"]["labels"]["names"].append("a fourth")),
        rf"label_embeddings: expected \[4, {DIM}\], got \[3, {DIM}\]",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_bad_folders_are_told_apart(damage: str, folders: Callable[[str, str], Path], tmp_path: Path) -> None:
    side, apply, message = DAMAGES[damage]
    folder = shutil.copytree(folders("hybrid", side), tmp_path / "student")
    catalogue.load(folder)
    apply(folder)
    with pytest.raises(CheckpointError, match=message):
        catalogue.load(folder)


def test_a_model_without_words_refuses_to_lend_them(
    folders: Callable[[str, str], Path], labels_file: Path, tmp_path: Path
) -> None:
    folder = folders("vit", "none")
    with pytest.raises(UnsupportedError, match="has no text tower that its student could keep"):
        teacher_text(catalogue.load(folder))
    request = pipeline.Request(folder, ("tflite",), BUILTIN["fp32"], tmp_path, labels=labels.read(labels_file))
    with pytest.raises(UnsupportedError, match="no other labels can be baked than its own: red circle") as caught:
        pipeline.convert(request)
    assert "leave --labels out" in str(caught.value.hint)


@dataclass(frozen=True)
class Conversion:
    family: str
    side: str
    target: str
    recipe: str


# Every family and every text side meets every target, and each of them both precisions, but for what others have: the
# built-in student is a hybrid with small texts, and CLIP's and SigLIP's image towers are ViTs.
OTHERS = {("hybrid", "small"), ("vit", "none")}
CONVERSIONS = [
    Conversion(family, side, TARGETS[(row + column) % 3], "fp16" if row == column else "fp32")
    for row, family in enumerate(TINY)
    for column, side in enumerate(SIDES)
    if (family, side) not in OTHERS
]


@pytest.mark.slow
@pytest.mark.parametrize("case", CONVERSIONS, ids=lambda case: f"{case.family}-{case.side}-{case.target}-{case.recipe}")
def test_students_convert_and_pass(case: Conversion, folders: Callable[[str, str], Path], tmp_path: Path) -> None:
    folder = folders(case.family, case.side)
    (outcome,) = pipeline.convert(pipeline.Request(folder, (case.target,), BUILTIN[case.recipe], tmp_path))
    assert outcome.bundle is not None
    assert outcome.bundle.manifest.parity is not None
    assert [check for check in outcome.bundle.manifest.parity.checks if not check.passed] == []
    has_text = case.side != "none"
    manifest = outcome.bundle.manifest
    assert set(manifest.components) == {"encode_image", "encode_text" if has_text else "classify"}
    assert (manifest.text is not None, manifest.labels) == ((True, None) if has_text else (False, LABELS))
    assert (outcome.bundle.path / "tokenizer.json").exists() == has_text
    pictures = [Image.fromarray(pixels) for pixels in Scenes(7).batch(0, 2).pixels]
    with edgevlm.open(outcome.bundle.path) as model:
        assert model.encode_image(pictures).shape == (2, DIM)
        if has_text:
            assert model.classify(pictures, ["a star", "a circle"]).shape == (2, 2)
        else:
            assert model.labels == LABELS.names
            scores = model.classify(pictures)
            known = catalogue.load(folder).label_embeddings
            assert known is not None
            logits = 14.0 * model.encode_image(pictures) @ known.numpy().T
            assert np.abs(scores - softmax(logits)).max() < 5e-3
            with pytest.raises(TensorError, match="no text tower"):
                model.encode_text(["a star"])
