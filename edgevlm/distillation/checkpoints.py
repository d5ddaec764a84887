"""Checkpoints of a run: one safetensors file each, written whole, from which training goes on to the same bits."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from edgevlm.process.writing import write_atomically

KEPT = 2


def write(folder: Path, step: int, network: nn.Module, optimiser: torch.optim.Optimizer) -> Path:
    """Keeps the weights and AdamW's moments after `step` steps, and drops all but the last two checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        for kind, value in optimiser.state.get(parameter, {}).items():
            tensors[f"optimiser.{kind}.{name}"] = value
    path = folder / f"step-{step:08d}.safetensors"
    write_atomically(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))
    for old in find(folder)[:-KEPT]:
        old.unlink()
    return path


def find(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the oldest first."""
    return sorted(folder.glob("step-*.safetensors"))


def step_of(path: Path) -> int:
    """The number of steps after which a checkpoint was written."""
    return int(path.stem.removeprefix("step-"))


def resume(folder: Path, network: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """Loads the newest checkpoint that can be read; gives its step, 0 where there is none."""
    for path in reversed(find(folder)):
        try:
            _read(path, network, optimiser)
        except (OSError, SafetensorError, ValueError):
            continue
        return step_of(path)
    return 0


def _read(path: Path, network: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    with safe_open(path, framework="pt") as file:
        tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    prefix = "network."
    given = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    if {n: t.shape for n, t in given.items()} != {n: t.shape for n, t in network.state_dict().items()}:
        raise ValueError(f"{path}: expected the tensors of the network, got others")  # before any of them is loaded
    network.load_state_dict(given)
    for name, parameter in network.named_parameters():
        ending = f".{name}"
        state = {
            full.removeprefix("optimiser.").removesuffix(ending): tensor
            for full, tensor in tensors.items()
            if full.startswith("optimiser.") and full.removeprefix("optimiser.").partition(".")[2] == name
        }
        if state:
            optimiser.state[parameter] = {
                kind: value if kind == "step" else value.to(parameter.device) for kind, value in state.items()
            }
