"""What a checkpoint's folder may look like, and how each bad one is told apart."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import write_clip_checkpoint, write_siglip_checkpoint
from safetensors.torch import load_file, save_file
from torch import Tensor

import edgevlm
from edgevlm.errors import CheckpointError
from edgevlm.models import catalogue

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pristine")
    return {"clip": write_clip_checkpoint(root / "clip"), "siglip": write_siglip_checkpoint(root / "siglip")}


def edit(folder: Path, file: str, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads((folder / file).read_text())
    change(data)
    (folder / file).write_text(json.dumps(data))


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    state = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    change(state)
    save_file(state, folder / "model.safetensors")


def cut(path: Path, *, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])


def shard(folder: Path) -> Path:
    state = load_file(folder / "model.safetensors")
    files = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    weight_map = {name: files[index % 3] for index, name in enumerate(state)}
    for file in files:
        save_file({name: state[name] for name, owner in weight_map.items() if owner == file}, folder / file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def set_text(**values: Any) -> Callable[[Path], object]:
    return lambda folder: edit(folder, "config.json", lambda config: config["text_config"].update(values))


def set_vision(**values: Any) -> Callable[[Path], object]:
    return lambda folder: edit(folder, "config.json", lambda config: config["vision_config"].update(values))


def set_config(**values: Any) -> Callable[[Path], object]:
    return lambda folder: edit(folder, "config.json", lambda config: config.update(values))


def write_large_header(path: Path) -> None:
    """One tensor without a value, whose name is 20 MB long."""
    header = json.dumps({"a" * 20_000_000: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


PROJECTION = "text_projection.weight"
DAMAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "no-config": ("clip", lambda f: (f / "config.json").unlink(), "expected config.json, got no such file"),
    "config-not-json": ("clip", lambda f: cut(f / "config.json", keep=20), "config.json: not readable as JSON"),
    "config-a-list": ("clip", lambda f: (f / "config.json").write_text("[]"), "expected an object, got list"),
    "unknown-family": ("clip", set_config(model_type="fuyu"), "expected one of clip, siglip, llava, .*, got 'fuyu'"),
    "no-family": ("clip", set_config(model_type=None), "expected one of clip, siglip, llava, .*, got None"),
    "family-a-list": ("clip", set_config(model_type=[]), r"expected one of clip, siglip, llava, .*, got \[\]"),
    "one-tower": ("clip", set_config(model_type="clip_text_model"), "got 'clip_text_model'"),
    "wrong-type": ("clip", set_text(hidden_size="wide"), "hidden_size: expected a whole number .*, got 'wide'"),
    "no-layers": ("clip", set_text(num_hidden_layers=0), "num_hidden_layers: expected .* at least 1, got 0"),
    "unknown-activation": ("clip", set_text(hidden_act="gelx"), "text_config.hidden_act: expected .* got 'gelx'"),
    "image-size-a-pair": ("clip", set_vision(image_size=[32, 32]), r"image_size: expected .* got \[32, 32\]"),
    "four-channels": ("clip", set_vision(num_channels=4), "num_channels: expected 3, got 4"),
    "patch-too-large": ("clip", set_vision(patch_size=33), "patch_size: expected at most image_size, 32, got 33"),
    "heads-not-dividing": ("siglip", set_vision(num_attention_heads=5), "num_attention_heads divides, got 48 and 5"),
    "no-pooling-head": (
        "siglip",
        lambda f: [
            set_vision(vision_use_head=False)(f),
            rewrite(f, lambda state: [state.pop(key) for key in list(state) if "vision_model.head" in key]),
        ],
        "vision_use_head: expected true, got false",
    ),
    "two-lengths": (
        "siglip",
        lambda f: [
            set_text(projection_size=40)(f),
            rewrite(
                f,
                lambda state: state.update(
                    {"text_model.head.weight": torch.ones(40, 48), "text_model.head.bias": torch.ones(40)}
                ),
            ),
        ],
        "one length, got 48 for pictures .* and 40 for texts",
    ),
    "other-end-of-text": ("clip", set_text(eos_token_id=7), "eos_token_id: expected .* end of text, 703, got 7"),
    "two-ends-of-text": ("clip", set_text(eos_token_id=[7, 703]), r"got \[7, 703\]"),
    "small-vocabulary": (
        "clip",
        set_text(vocab_size=600, eos_token_id=2),
        "below text_config.vocab_size, 600, got 703",
    ),
    "wrong-shapes": (
        "clip",
        set_vision(hidden_size=24),
        r"vision_model.embeddings.class_embedding: expected \[24\], got \[48\]",
    ),
    "missing-tensor": (
        "clip",
        lambda f: rewrite(f, lambda state: state.pop(PROJECTION)),
        rf"{PROJECTION}: expected \[24, 32\], got nothing",
    ),
    "unexpected-tensor": (
        "clip",
        lambda f: rewrite(f, lambda state: state.update(adapter=torch.ones(2, 3))),
        r"adapter: expected no such tensor, got \[2, 3\]",
    ),
    "integers": (
        "clip",
        lambda f: rewrite(f, lambda state: state.update({PROJECTION: state[PROJECTION].to(torch.int8)})),
        f"{PROJECTION}: expected a floating-point tensor, got I8",
    ),
    "cut-short": ("clip", lambda f: cut(f / "model.safetensors", keep=40_000), "model.safetensors is damaged or cut"),
    "empty-weights": ("clip", lambda f: cut(f / "model.safetensors", keep=0), "model.safetensors is damaged or cut"),
    "lfs-pointer": (
        "clip",
        lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n"),
        "model.safetensors is damaged or cut",
    ),
    "pickle-only": (
        "clip",
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "expected model.safetensors .* got pytorch_model.bin",
    ),
    "no-weights": ("clip", lambda f: (f / "model.safetensors").unlink(), "expected model.safetensors .* got neither"),
    "missing-shard": (
        "clip",
        lambda f: (shard(f) / "model-00002-of-00003.safetensors").unlink(),
        "the shard model-00002-of-00003.safetensors is missing",
    ),
    "shard-cut-short": (
        "clip",
        lambda f: cut(shard(f) / "model-00003-of-00003.safetensors", keep=9000),
        "model-00003-of-00003.safetensors is damaged",
    ),
    "index-without-map": (
        "clip",
        lambda f: edit(shard(f), "model.safetensors.index.json", lambda index: index.pop("weight_map")),
        "not a readable index of shards",
    ),
    "shard-elsewhere": (
        "clip",
        lambda f: edit(
            shard(f), "model.safetensors.index.json", lambda index: index["weight_map"].update(a="../b.safetensors")
        ),
        r"files in the same folder, got \['../b.safetensors'\]",
    ),
    "no-preprocessor": (
        "clip",
        lambda f: (f / "preprocessor_config.json").unlink(),
        "expected preprocessor_config.json",
    ),
    "picture-smaller-than-a-patch": (
        "clip",
        lambda f: edit(f, "preprocessor_config.json", lambda config: config.update(crop_size=7)),
        "at least one patch, 8 pixels a side, got 7 x 7",
    ),
    **{
        f"{value}-in-a-weight": (
            "clip",
            lambda f, value=value: rewrite(f, lambda state: state["text_projection.weight"][3, 3].fill_(float(value))),
            r"model\.safetensors: expected finite numbers, got NaN or infinity in text_projection\.weight$",
        )
        for value in ("nan", "inf", "-inf")
    },
    **{
        f"logit-scale-{value}": (
            name,
            lambda f, value=value: rewrite(f, lambda state: state["logit_scale"].fill_(value)),
            "logit_scale: expected the logarithm of a factor of cosines",
        )
        for name, value in (("clip", 1000), ("siglip", -1000))
    },
    "layers-without-end": (
        "clip",
        set_text(num_hidden_layers=100_000),
        "text_config.num_hidden_layers: expected at most 1,000, got 100,000",
    ),
    "large-header": ("clip", lambda f: write_large_header(f / "model.safetensors"), "a header of at most 16,000,000"),
    "config-a-pipe": (
        "clip",
        lambda f: [(f / "config.json").unlink(), os.mkfifo(f / "config.json")],
        "config.json: expected a file, got a pipe",
    ),
    "card-a-pipe": (
        "clip",
        lambda f: [(f / "README.md").unlink(missing_ok=True), os.mkfifo(f / "README.md")],
        "README.md: expected a file, got a pipe",
    ),
    "no-tokenizer": ("siglip", lambda f: (f / "tokenizer.json").unlink(), "expected tokenizer.json"),
}


def test_what_the_small_files_tell_is_told_without_torch(tmp_path: Path, pristine: Mapping[str, Path]) -> None:
    other, unfinished, no_pictures, coarse = (
        tmp_path / name for name in ("other", "unfinished", "no-pictures", "coarse")
    )
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "fuyu"}')
    for folder, lacking in ((unfinished, "model.safetensors"), (no_pictures, "preprocessor_config.json")):
        shutil.copytree(pristine["clip"], folder)
        (folder / lacking).unlink()
    set_vision(patch_size=99)(shutil.copytree(pristine["clip"], coarse))
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom edgevlm.cli import main\n"
        "for folder in sys.argv[1:]:\n"
        "    done = CliRunner().invoke(main, ['convert', folder, '--target', 'coreml'])\n"
        "    print(done.exit_code, 'torch' in sys.modules, done.output.splitlines()[0])"
    )
    command = [sys.executable, "-c", code, *map(str, (other, unfinished, no_pictures, coarse))]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()
    told = ("got 'fuyu'", "got neither", "expected preprocessor_config.json", "patch_size: expected at most image_size")
    for line, expected in zip(said, told, strict=True):
        assert line.startswith("2 False error: ")
        assert expected in line


def test_a_model_that_answers_no_numbers_is_refused_before_it_is_lowered(
    tmp_path: Path, pristine: Mapping[str, Path]
) -> None:
    folder = shutil.copytree(pristine["clip"], tmp_path / "zero")
    rewrite(folder, lambda state: state["visual_projection.weight"].zero_())
    with pytest.raises(
        CheckpointError, match=r"encode_image: expected numbers, .* all zero: visual_projection\.weight$"
    ):
        edgevlm.convert(folder, target="coreml", recipe="fp16", out=tmp_path / "dist")
    assert not (tmp_path / "dist").exists()


def test_a_single_file_beside_shards_is_the_one_that_counts(tmp_path: Path, pristine: Mapping[str, Path]) -> None:
    folder = shard(shutil.copytree(pristine["clip"], tmp_path / "both"))
    shutil.copy(pristine["clip"] / "model.safetensors", folder)
    (note,) = catalogue.load(folder).notes
    assert note.startswith("weights: model.safetensors was taken, as transformers does")


def test_labels_that_a_network_does_not_have_are_not_counted_out(tmp_path: Path, pristine: Mapping[str, Path]) -> None:
    """transformers makes a table of them, of 10 GB for these."""
    folder = shutil.copytree(pristine["clip"], tmp_path / "clip")
    for each in (set_config, set_text, set_vision):
        each(num_labels=10**8)(folder)
    catalogue.load(folder)


def test_shards_equal_the_single_file(tmp_path: Path, pristine: Mapping[str, Path]) -> None:
    folder = shard(shutil.copytree(pristine["clip"], tmp_path / "clip"))
    whole, parts = catalogue.load(pristine["clip"]), catalogue.load(folder)
    for name, program in whole.programs.items():
        shards = parts.programs[name].module.state_dict()
        assert all(torch.equal(tensor, shards[key]) for key, tensor in program.module.state_dict().items())


def test_stored_position_ids_are_not_looked_at(tmp_path: Path, pristine: Mapping[str, Path]) -> None:
    folder = shutil.copytree(pristine["clip"], tmp_path / "clip")
    rewrite(folder, lambda state: state.update({"text_model.embeddings.position_ids": torch.arange(77)[None]}))
    catalogue.load(folder)


@pytest.mark.parametrize("damage", DAMAGES)
def test_bad_checkpoints_are_told_apart(damage: str, tmp_path: Path, pristine: Mapping[str, Path]) -> None:
    name, apply, message = DAMAGES[damage]
    folder = shutil.copytree(pristine[name], tmp_path / name)
    apply(folder)
    with pytest.raises(CheckpointError, match=message):
        catalogue.load(folder)


@pytest.mark.parametrize(
    ("damage", "hint"),
    [("pickle-only", "save_file"), ("lfs-pointer", "git lfs pull"), ("one-tower", "one tower of a dual encoder")],
)
def test_hints_show_the_way_out(damage: str, hint: str, tmp_path: Path, pristine: Mapping[str, Path]) -> None:
    name, apply, _ = DAMAGES[damage]
    folder = shutil.copytree(pristine[name], tmp_path / name)
    apply(folder)
    with pytest.raises(CheckpointError) as caught:
        catalogue.load(folder)
    assert hint in str(caught.value.hint)


def test_the_hinted_conversion_of_pickled_weights_works(
    tmp_path: Path, pristine: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(pristine["clip"], tmp_path / "clip")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError) as caught:
        catalogue.load(folder)
    monkeypatch.chdir(folder)
    exec("\n".join(line.strip() for line in str(caught.value.hint).splitlines()[1:]), {})
    catalogue.load(folder)


def test_a_folder_has_no_revision(pristine: Mapping[str, Path]) -> None:
    with pytest.raises(CheckpointError, match="has no revision 'main'"):
        catalogue.load(pristine["clip"], revision="main")


@pytest.mark.parametrize("name", ["nothing-here", "./missing/folder", "/missing", Path("missing/folder"), ""])
def test_what_is_neither_a_folder_nor_a_hub_id_is_refused(
    name: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError):
        catalogue.load(name)
