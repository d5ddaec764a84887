"""Structured pruning: what goes is what matters least, what is left computes what the whole would without it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import write_clip_checkpoint, write_siglip_checkpoint
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPModel, SiglipModel

import edgevlm
from edgevlm.bundle.manifest import Labels
from edgevlm.cli import main
from edgevlm.compression import structured
from edgevlm.compression.importance import choose, score
from edgevlm.compression.structured import Change, Ratios, Request, prune
from edgevlm.compression.structures import Group, find_hub_mlps, find_structures, keep, resize
from edgevlm.data.scenes import Scenes
from edgevlm.errors import CheckpointError, DataError, EdgeVLMError, InputError, OutputError, UnsupportedError
from edgevlm.models import builtin, catalogue
from edgevlm.models.model import Model
from edgevlm.models.students import folder as folders
from edgevlm.models.students.config import (
    GridConfig,
    HybridConfig,
    ImageTowerConfig,
    TextTowerConfig,
    VitConfig,
    square_pictures,
)
from edgevlm.models.students.parts import FixedLabels, SmallText, StudentParts, TextSide, teacher_text
from edgevlm.models.students.towers import build_image_tower, build_text_tower

torch.set_num_threads(1)

DATA = "scenes:train:24:5"
DIM = 24
# Halves of all that can be removed are multiples of 8, or heads.
TINY: dict[str, ImageTowerConfig] = {
    "vit": VitConfig(image_size=32, patch_size=8, width=32, blocks=2, heads=4),
    "hybrid": HybridConfig(image_size=32, widths=(16, 32, 64), depths=(1, 2, 1), heads=4, copies=2),
    "grid": GridConfig(image_size=32, stem_channels=(16, 32), width=32, blocks=2, heads=4, token_features=8),
}
HALVES = Ratios(heads=0.5, mlp=0.5)


def pixels(count: int = 16) -> Tensor:
    rows = torch.from_numpy(Scenes(5).batch(0, count).pixels).permute(0, 3, 1, 2).float()
    return nn.functional.adaptive_avg_pool2d(rows, 32)


def trained(tower: nn.Module) -> nn.Module:
    """As training leaves it: norms with gains, offsets and statistics of their own, attention that looks."""
    with torch.no_grad():
        for name, tensor in tower.named_parameters():
            if name.endswith(("query.weight", "key.weight")):
                tensor.mul_(4)
        for module in tower.modules():
            if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
                module.weight.copy_(0.5 + torch.rand(module.weight.shape))
                # Above zero, so that no ReLU is dead and looks as if it had been zeroed.
                module.bias.copy_(0.8 + 0.2 * torch.randn(module.bias.shape))
        tower.train()
        for _ in range(5):
            tower(pixels())
    return tower.eval()


def zero_halves(state: dict[str, Tensor], groups: Sequence[Group], seed: int = 0) -> dict[str, Tensor]:
    """The tensors with half of every group's structures at zero, wherever they lie."""
    generator = torch.Generator().manual_seed(seed)
    state = {name: tensor.clone() for name, tensor in state.items()}
    for group in groups:
        gone = torch.randperm(group.count, generator=generator)[: group.count // 2]
        rows = (gone[:, None] * group.size + torch.arange(group.size)).flatten()
        for name, dimension in group.tensors:
            state[name].index_fill_(dimension, rows, 0.0)
    return state


def student(config: ImageTowerConfig, side: TextSide, *, halved: bool = True) -> StudentParts:
    """One whose image tower has half of its structures at zero."""
    torch.manual_seed(1)
    tower = trained(build_image_tower(config, DIM))
    if halved:
        tower.load_state_dict(zero_halves(tower.state_dict(), find_structures(tower, config)))
    return StudentParts(tower, config, DIM, 14.0, side, square_pictures(32), provenance={"by": "a test"}, licence="mit")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return catalogue.load(write_clip_checkpoint(tmp_path_factory.mktemp("teacher") / "clip", projection_dim=DIM))


def small_text(teacher: Model) -> SmallText:
    assert teacher.text is not None
    assert teacher.tokenizer_json is not None
    torch.manual_seed(2)
    config = TextTowerConfig(width=32, blocks=2, heads=4, vocabulary_size=704)
    tower = build_text_tower(config, teacher.text, DIM).eval()
    tower.load_state_dict(zero_halves(tower.state_dict(), find_structures(tower, config)))
    return SmallText(config, tower, teacher.text, teacher.tokenizer_json)


def fixed_labels() -> FixedLabels:
    return FixedLabels(Labels(("a", "b"), ("{}",)), nn.functional.normalize(torch.randn(2, DIM)))


def token_ids(model: Model) -> Tensor:
    assert model.text is not None
    ids = torch.randint(3, 150, (8, model.text.context_length), dtype=torch.int32)
    ends = torch.randint(3, model.text.context_length, (8, 1))
    last = model.text.eot_id if model.text.eot_id is not None else model.text.pad_id
    return torch.where(torch.arange(ids.shape[1]) >= ends, last, ids).int()


def assert_alike(before: Model, after: Model, *, components: Sequence[str]) -> None:
    """The same answers, of the original form and of the form that is converted."""
    with torch.no_grad():
        for component in components:
            given = pixels(8) if component == "encode_image" else token_ids(before)
            wanted = before.original.forward(component, given)
            assert (wanted[0] - wanted[1]).abs().max() > 1e-3
            torch.testing.assert_close(after.original.forward(component, given), wanted, rtol=0, atol=3e-6)
            torch.testing.assert_close(after.programs[component].module(given[:1]), wanted[:1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["vit", "grid", pytest.param("hybrid", marks=pytest.mark.slow)])
def test_what_does_nothing_goes_first_and_the_rest_answers_as_before(
    family: str, tmp_path: Path, teacher: Model
) -> None:
    whole = tmp_path / "whole"
    folders.save(whole, student(TINY[family], teacher_text(teacher)))
    ratios = Ratios(0.5, 0.5, 0.0 if family == "vit" else 0.5)
    pruned = prune(Request(str(whole), ratios, DATA, tmp_path / "smaller"))
    (tower,) = pruned.towers
    assert set(tower.structures) == ({"heads", "mlp"} if family == "vit" else {"heads", "mlp", "channels"})
    assert all(change.after * 2 == change.before for change in tower.structures.values())
    assert tower.min_cosine == pytest.approx(1, abs=1e-5)
    assert tower.parameters.after < 0.8 * tower.parameters.before
    assert tower.multiply_adds.after < 0.8 * tower.multiply_adds.before
    before, after = catalogue.load(whole), catalogue.load(tmp_path / "smaller")
    assert_alike(before, after, components=("encode_image", "encode_text"))
    assert after.source.licence == "mit"
    read = folders.read(tmp_path / "smaller")
    assert read.image_config.block_heads == (2,) * len(read.image_tower.blocks)  # type: ignore[arg-type]
    assert read.provenance["by"] == "a test"
    assert read.provenance["pruned"][0]["ratios"] == {"heads": 0.5, "mlp": 0.5, "channels": ratios.channels}


@pytest.mark.parametrize("side", ["small", "teacher"])
def test_a_students_text_tower_shrinks_too_and_can_teach(side: str, tmp_path: Path, teacher: Model) -> None:
    text: TextSide = small_text(teacher)
    if side == "teacher":
        borrowed = teacher_text(teacher)
        groups = find_hub_mlps(borrowed.network, "text_model")  # type: ignore[union-attr]
        halved = zero_halves(borrowed.network.state_dict(), groups)  # type: ignore[union-attr]
        network = catalogue.load(write_clip_checkpoint(tmp_path / "clip", projection_dim=DIM)).network
        network.load_state_dict(halved)
        text = replace(borrowed, network=network)  # type: ignore[arg-type]
    whole = tmp_path / "whole"
    folders.save(whole, student(TINY["vit"], text))
    pruned = prune(Request(str(whole), HALVES, DATA, tmp_path / "smaller", ("encode_image", "encode_text")))
    texts = pruned.towers[1]
    assert texts.component == "encode_text"
    assert texts.structures["mlp"].after * 2 == texts.structures["mlp"].before
    assert texts.min_cosine == pytest.approx(1, abs=1e-5)
    assert ("heads" in texts.structures) == (side == "small")
    assert pruned.recovery == ("clip-kd" if side == "small" else "recovery")
    before, after = catalogue.load(whole), catalogue.load(tmp_path / "smaller")
    assert_alike(before, after, components=("encode_image", "encode_text"))
    folders.save(tmp_path / "next", student(TINY["vit"], teacher_text(after)))
    assert_alike(after, catalogue.load(tmp_path / "next"), components=("encode_text",))


@pytest.mark.parametrize(
    ("write", "network_class"), [(write_clip_checkpoint, CLIPModel), (write_siglip_checkpoint, SiglipModel)]
)
def test_a_hub_checkpoints_mlps_shrink_alike_and_transformers_reads_it(
    write: Any, network_class: Any, tmp_path: Path
) -> None:
    whole = write(tmp_path / "whole")
    network = catalogue.load(whole).network
    groups = (*find_hub_mlps(network, "vision_model"), *find_hub_mlps(network, "text_model"))
    stored = {name: t.half() for name, t in zero_halves(load_file(whole / "model.safetensors"), groups).items()}
    save_file(stored, whole / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((whole / "config.json").read_text())
    config["vision_config_dict"] = dict(config["vision_config"])  # as openai's, laid over the other
    (whole / "config.json").write_text(json.dumps(config))
    out = tmp_path / "smaller"
    pruned = prune(Request(str(whole), Ratios(mlp=0.5), DATA, out, ("encode_image", "encode_text")))
    assert [tower.min_cosine for tower in pruned.towers] == pytest.approx([1, 1], abs=1e-5)
    assert pruned.recovery is None
    assert_alike(catalogue.load(whole), catalogue.load(out), components=("encode_image", "encode_text"))
    theirs = network_class.from_pretrained(out)
    for half in ("vision_config", "text_config"):
        assert getattr(theirs.config, half).intermediate_size * 2 == config[half]["intermediate_size"]
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {torch.float16}
    assert (out / "README.md").read_text() == (whole / "README.md").read_text()


def test_stages_that_come_to_be_equally_wide_stay_what_they_were(tmp_path: Path) -> None:
    config = HybridConfig(image_size=32, widths=(16, 32, 64), depths=(1, 1, 1), heads=4)
    parts = student(config, fixed_labels(), halved=False)
    groups = find_structures(parts.image_tower, config)
    # Both stages, and the second one's MLP, end at 16 channels: as wide as what each reads.
    left = {("widths", 0): 16, ("widths", 1): 16, ("convolution_mlps", 1): 16}
    kept = [torch.arange(left.get((group.field, group.index), group.count)) for group in groups]
    smaller = resize(config, groups, kept)
    tower = build_image_tower(smaller, DIM)
    tower.load_state_dict(keep(parts.image_tower.state_dict(), groups, kept))
    folders.save(tmp_path, replace(parts, image_config=smaller, image_tower=tower))
    with torch.no_grad():
        state = {name: tensor.clone() for name, tensor in parts.image_tower.state_dict().items()}
        for group, some in zip(groups, kept, strict=True):
            for name, dimension in group.tensors:
                state[name].index_fill_(dimension, torch.arange(len(some), group.count), 0.0)
        parts.image_tower.load_state_dict(state)
        read = folders.read(tmp_path).image_tower
        torch.testing.assert_close(read(pixels()), parts.image_tower(pixels()), rtol=0, atol=3e-6)


@pytest.mark.parametrize("away", [(), pytest.param((1,), marks=pytest.mark.slow)])
def test_importance_is_by_how_much_the_distance_grows(away: tuple[int, ...]) -> None:
    config = TINY["vit"]
    tower = student(config, fixed_labels(), halved=False).image_tower.requires_grad_(False)
    groups = find_structures(tower, config)
    heads = groups[0]
    state = tower.state_dict()

    def embed(gates: Tensor) -> Tensor:
        weight = state["blocks.0.attention.out.weight"] * gates.repeat_interleave(heads.size)
        whole = {**state, "blocks.0.attention.out.weight": weight}
        result: Tensor = torch.func.functional_call(tower, whole, pixels(1))
        return result

    gone = [torch.zeros(group.count, dtype=torch.bool) for group in groups]
    gone[0][list(away)] = True
    slope = torch.autograd.functional.jacobian(embed, (~gone[0]).float()).reshape(DIM, -1)
    moved = (embed((~gone[0]).float()) - embed(torch.ones(heads.count))).flatten()
    scores = score(tower, groups, gone, tower, pixels(1).repeat(1500, 1, 1, 1), 0, lambda share: None)
    torch.testing.assert_close(scores[0], slope.square().sum(0) - 2 * moved @ slope, rtol=0.15, atol=0)


def test_rivals_compete_and_channels_stay_a_multiple_of_eight() -> None:
    heads = [Group("heads", 4, "block_heads", i, (), (), rivals="all") for i in range(2)]
    mlp = [Group("mlp", 40, "block_mlps", i, (), (), rivals=f"alone {i}") for i in range(2)]
    scores = [torch.arange(4.0), torch.arange(4.0) + 10, *2 * [torch.arange(40.0)]]
    kept = choose([*heads, *mlp], scores, {"heads": 0.5, "mlp": 0.45, "channels": 0.0})
    assert [some.tolist() for some in kept[:2]] == [[3], [0, 1, 2, 3]]  # one head stays, whatever it is worth
    assert [some.tolist() for some in kept[2:]] == 2 * [list(range(16, 40))]
    untouched = choose([*heads, *mlp], scores, {"heads": 0.0, "mlp": 0.0, "channels": 0.0})
    assert [len(some) for some in untouched] == [4, 4, 40, 40]


@pytest.mark.slow
def test_the_built_in_student_loses_least_by_what_is_judged_least(tmp_path: Path) -> None:
    pruned = prune(Request(builtin.STUDENT, Ratios(mlp=0.5), "scenes:train:48:5", tmp_path / "s"))
    (tower,) = pruned.towers
    assert tower.structures["mlp"] == Change(528, 264)
    assert tower.mean_cosine > 0.96  # any half: 0.92
    again = prune(Request(str(tmp_path / "s"), Ratios(heads=0.25), "scenes:train:48:5", tmp_path / "t"))
    assert again.towers[0].structures == {"heads": Change(8, 6), "mlp": Change(264, 264), "channels": Change(112, 112)}
    read = folders.read(tmp_path / "t")
    assert [each["ratios"]["mlp"] for each in read.provenance["pruned"]] == [0.5, 0.0]


@pytest.mark.slow
def test_channels_that_carry_much_are_judged_again_as_others_go(tmp_path: Path) -> None:
    pruned = prune(Request(builtin.STUDENT, Ratios(channels=0.25), "scenes:train:48:5", tmp_path / "s"))
    (tower,) = pruned.towers
    assert tower.structures["channels"] == Change(112, 88)
    assert tower.mean_cosine > 0.75  # judged once 0.5 to 0.7, as any quarter


def run(*arguments: object) -> Any:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_shows_what_is_left_and_what_to_do_next(tmp_path: Path) -> None:
    whole, smaller = tmp_path / "the whole", tmp_path / "a smaller"
    folders.save(whole, student(TINY["vit"], fixed_labels(), halved=False))
    command = ("prune", whole, "--mlp", "50%", "--heads", "25%", "--data", DATA)
    done = run(*command, "--out", smaller)
    assert done.exit_code == 0, done.output
    told = json.loads(run(*command, "--out", tmp_path / "other", "--json").stdout)
    (tower,) = told["towers"]
    assert (told["folder"], tower["component"]) == (str(tmp_path / "other"), "encode_image")
    assert folders.read(tmp_path / "other").image_config == folders.read(smaller).image_config
    assert tower["structures"]["heads"] == {"before": 8, "after": 6}
    assert tower["structures"]["mlp"]["before"] == 2 * tower["structures"]["mlp"]["after"]
    for kind, change in tower["structures"].items():
        assert f"{kind} {change['before']} → {change['after']}" in done.stdout
    assert f"{smaller}, judged by 24 pictures" in done.stdout
    recovered = f"--recipe recovery --data {DATA} --out '{smaller}'-recovered"
    assert f"next: edgevlm distill --student '{smaller}' --teacher TEACHER {recovered}\n" in done.stderr
    checkpoint = write_clip_checkpoint(tmp_path / "clip")
    done = run("prune", checkpoint, "--mlp", "50%", "--data", DATA, "--out", tmp_path / "c", "--tower", "both")
    assert f"next: edgevlm convert {tmp_path / 'c'} --target all\n" in done.stderr
    assert {line.split()[0] for line in done.stdout.splitlines() if "mlp" in line} == {"encode_image", "encode_text"}


@pytest.mark.slow
def test_the_command_prunes_and_distilling_recovers(tmp_path: Path) -> None:
    data, smaller = "scenes:train:192:5", tmp_path / "smaller"
    done = run("prune", builtin.STUDENT, "--mlp", 0.8, "--heads", 0.5, "--data", data, "--out", smaller)
    assert done.exit_code == 0, done.output
    assert "mlp 528 → " in done.stdout
    assert f"next: edgevlm distill --student {smaller} --teacher {builtin.STUDENT} --recipe recovery" in done.stderr
    (advised,) = [line.removeprefix("next: edgevlm ") for line in done.stderr.splitlines() if line.startswith("next: ")]
    recovered = run(*advised.split(), "--epochs", 4, "--batch-size", 32, "--workers", 0, "--cache", tmp_path / "cache")
    assert recovered.exit_code == 0, recovered.output
    whole = catalogue.load(builtin.STUDENT)
    given = torch.from_numpy(Scenes(99).batch(0, 64).pixels).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        wanted = whole.original.forward("encode_image", given)
        before, after = (
            (catalogue.load(path).original.forward("encode_image", given) * wanted).sum(-1).mean().item()
            for path in (smaller, f"{smaller}-recovered")
        )
    assert folders.read(Path(f"{smaller}-recovered")).image_config == folders.read(smaller).image_config
    assert before < 0.9 < after


@pytest.mark.slow
def test_a_pruned_student_converts_and_says_so_in_json(tmp_path: Path) -> None:
    folders.save(tmp_path / "whole", student(TINY["grid"], fixed_labels(), halved=False))
    command = ("prune", tmp_path / "whole", "--channels", 0.5, "--mlp", 0.5, "--data", DATA, "--out", tmp_path / "s")
    done = run(*command, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["towers"][0]["structures"]["channels"] == {"before": 48, "after": 24}
    assert told["folder"] == str(tmp_path / "s")
    with edgevlm.open(
        edgevlm.convert(tmp_path / "s", target="tflite", recipe="fp32", out=tmp_path / "dist").path
    ) as made:
        picture = Scenes(5).batch(0, 1).pixels[0]
        assert made.encode_image([picture]).shape == (1, DIM)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"ratios": Ratios(mlp=1.0)}, InputError, "mlp: expected the share of MLP channels to remove"),
        ({"ratios": Ratios(heads=-0.1)}, InputError, "got -0.1"),
        ({"ratios": Ratios(mlp=float("nan"))}, InputError, "got nan"),
        ({"ratios": Ratios()}, InputError, "every ratio is 0"),
        ({"seed": 2**63}, InputError, "seed: expected a whole number from 0 to"),
        ({"pictures": 0}, InputError, "pictures: expected a whole number from 1 to"),
        ({"ratios": Ratios(mlp=0.01)}, InputError, "remove nothing"),
        ({"ratios": Ratios(channels=0.5)}, UnsupportedError, "no convolution channels"),
        ({"data": "scenes:train:3:5"}, DataError, "at least 16 pictures"),
        ({"data": "nowhere/"}, DataError, "no such file or folder"),
        ({"pictures": 8}, DataError, "got 8"),
        ({"model": "nothing"}, CheckpointError, "got 'nothing'"),
        ({"components": ("encode_text",)}, UnsupportedError, "no text tower"),
        ({"out": Path("/proc/nowhere/s")}, OutputError, "cannot write"),
    ],
    ids=lambda value: "",
)
def test_what_cannot_be_done_is_said_and_leaves_nothing(
    changes: dict[str, Any], error: type[EdgeVLMError], message: str, tmp_path: Path
) -> None:
    folders.save(tmp_path / "vit", student(TINY["vit"], fixed_labels(), halved=False))
    request = Request(str(tmp_path / "vit"), HALVES, DATA, tmp_path / "out")
    with pytest.raises(error, match=message):
        prune(replace(request, **changes))
    assert [path.name for path in tmp_path.iterdir()] == ["vit"]


def test_heads_of_a_hub_checkpoint_stay(tmp_path: Path) -> None:
    whole = write_clip_checkpoint(tmp_path / "clip")
    done = run("prune", whole, "--heads", 0.5, "--data", DATA, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "no attention heads that can be removed" in done.stderr
    assert "the hub's format" in done.stderr


def test_a_folder_that_is_there_is_not_touched(tmp_path: Path) -> None:
    done = run("prune", builtin.STUDENT, "--mlp", 0.5, "--data", DATA, "--out", tmp_path)
    assert done.exit_code == 2
    assert "exists already" in done.stderr


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(structured, "write_student", fail)
    with pytest.raises(OutputError, match="no disk space"):
        prune(Request(builtin.STUDENT, HALVES, DATA, tmp_path / "out"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_heads": [2]}, r"block_heads: expected a number for each of 2 blocks, got 1"),
        ({"block_heads": [2, 0]}, r"block_heads: expected whole numbers of at least 1"),
        ({"block_mlps": []}, r"block_mlps: expected whole numbers of at least 1"),
        ({"block_mlps": [8, 8, 8]}, r"block_mlps: expected a number for each of 2 blocks, got 3"),
        ({"block_mlps": [8, "8"]}, r"block_mlps\[1\]: expected int"),
        ({"convolution_mlps": [8, 8]}, r"unknown key 'convolution_mlps'"),
    ],
)
def test_a_config_with_impossible_widths_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folders.save(tmp_path, student(TINY["vit"], fixed_labels(), halved=False))
    config = json.loads((tmp_path / "config.json").read_text())
    config["image_tower"] |= changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        folders.read(tmp_path)


def test_a_folder_from_before_pruning_is_read() -> None:
    stored = json.loads((builtin.FOLDERS[builtin.STUDENT] / "config.json").read_text())["image_tower"]
    assert "block_heads" not in stored
    assert folders.read(builtin.FOLDERS[builtin.STUDENT]).image_config.block_heads is None
