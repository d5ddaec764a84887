"""Trains the built-in teacher on rendered scenes, from nothing.

    python -m edgevlm.distillation.builtin.teacher --out OUT

Every step sees fresh scenes of the `train` split. The loss is CLIP's symmetric cross-entropy (Radford et al.,
2021) over the batch, with three hard negatives a picture: descriptions changed in one attribute (as NegCLIP,
Yuksekgonul et al., 2023). Pairs whose description happens to be true of another picture are left out. Beside it,
linear heads that both towers share read the attributes off the embeddings: the scene graph is known, so it may as
well teach. The heads are not shipped. Stopped and started again with the same OUT, it goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from edgevlm.bundle.spec import TextPreprocessing
from edgevlm.distillation import checkpoints
from edgevlm.distillation.builtin.batches import FACTS, NEGATIVES, Batch, Steps
from edgevlm.distillation.builtin.caption_tokenizer import build_tokenizer
from edgevlm.models.students import folder as folders
from edgevlm.models.students.config import ImageTowerConfig, TextTowerConfig, square_pictures
from edgevlm.models.students.dual_encoder import DualEncoder
from edgevlm.models.students.parts import SmallText, StudentParts
from edgevlm.models.students.presets import PRESETS, preset, text_preset
from edgevlm.models.students.towers import build_image_tower, build_text_tower
from edgevlm.process.quiet import quiet

TOWER = "grid-m"
EMBEDDING_DIM = 192
VOCABULARY_SIZE = 1024
TEXT = TextPreprocessing(
    context_length=48,
    pad_id=1,
    eot_id=1,
    canonicalisation="none",
    lower_case=True,
    tokenizer_file="tokenizer.json",
)
_PEAK_RATE, _WARMUP = 1.5e-3, 0.08
_EVERY = 50


def train(
    image: ImageTowerConfig,
    text: TextTowerConfig,
    tokenizer: Tokenizer,
    seed: int,
    steps: int,
    batch_size: int,
    out: Path,
) -> DualEncoder:
    """Trains both towers; prints the loss now and then, logs it in `out`, and keeps checkpoints there.

    Args:
        image, text: Sizes of the towers.
        tokenizer: Of the captions.
        seed: Of the weights and the scenes.
        steps: In all.
        batch_size: Scenes a step.
        out: Folder of `training.jsonl` and `checkpoints/`.
    """
    torch.manual_seed(seed)
    dual = DualEncoder(
        build_image_tower(image, EMBEDDING_DIM), build_text_tower(text, TEXT, EMBEDDING_DIM), logit_scale=1 / 0.07
    )
    heads = FactHeads(EMBEDDING_DIM)
    both = nn.ModuleDict({"dual": dual, "heads": heads})
    parameters = list(both.parameters())
    decayed = [parameter for parameter in parameters if parameter.ndim >= 2]
    plain = [parameter for parameter in parameters if parameter.ndim < 2]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
        lr=_PEAK_RATE,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _PEAK_RATE, total_steps=steps, pct_start=_WARMUP)
    first = checkpoints.resume(out / "checkpoints", both, optimiser)
    with quiet():  # torch warns of a schedule ahead of its optimiser
        for _ in range(first):
            schedule.step()
    batches = DataLoader(
        Steps(seed, batch_size, steps, tokenizer),
        batch_size=None,
        sampler=range(first, steps),
        num_workers=1,
        prefetch_factor=4,
    )
    began = time.monotonic()
    both.train()
    for step, batch in enumerate(batches, first):
        images, texts = embed(dual, batch)
        loss = contrastive_loss(images, texts, dual.log_scale.exp(), batch.also_true)
        taught = heads.loss(images, batch.picture_facts) + heads.loss(texts, batch.text_facts)
        optimiser.zero_grad()
        (loss + taught).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(dual.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            dual.log_scale.clamp_(max=4.6052)  # log(100), CLIP's ceiling
        if step % _EVERY == 0 or step == steps - 1:
            checkpoints.write(out / "checkpoints", step + 1, both, optimiser)
            _log(
                out / "training.jsonl",
                step=step,
                loss=round(loss.item(), 4),
                facts=round(taught.item(), 4),
                seconds=round(time.monotonic() - began),
            )
    return dual.eval()


def _log(path: Path, **entry: float) -> None:
    print(json.dumps(entry), flush=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


class FactHeads(nn.Module):
    """Reads each of `FACTS` off an embedding, [N, D] -> a [N, values] for each."""

    def __init__(self, embedding_dim: int) -> None:
        super().__init__()
        self.norm = embedding_dim**0.5
        self.heads = nn.ModuleList(nn.Linear(embedding_dim, values) for values in FACTS)

    def loss(self, embeddings: Tensor, known: Tensor) -> Tensor:
        """Mean cross-entropy over the facts that are known."""
        losses = [
            functional.cross_entropy(head(embeddings * self.norm), column, ignore_index=-1, reduction="sum")
            for head, column in zip(self.heads, known.T, strict=True)
        ]
        return torch.stack(losses).sum() / (known >= 0).sum()


def embed(dual: DualEncoder, batch: Batch) -> tuple[Tensor, Tensor]:
    """The embeddings of the pictures and of all texts, float32, computed in bfloat16 where that is safe."""
    if dual.text is None:
        raise ValueError("expected a dual encoder, got no text tower")
    with torch.autocast("cpu", torch.bfloat16):
        images = dual.image(batch.pixels.float()).float()
        order = torch.cat([rows for rows, _ in batch.token_ids]).argsort()
        texts = torch.cat([dual.text(ids) for _, ids in batch.token_ids])[order].float()
    return images, texts


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, also_true: Tensor) -> Tensor:
    """The mean of picture-to-text cross-entropy (hard negatives among the texts) and text-to-picture's."""
    count = len(images)
    scores = (scale * images @ texts[:count].T).masked_fill(also_true, -1e4)
    hard = scale * torch.einsum("bd,bnd->bn", images, texts[count:].reshape(count, NEGATIVES, -1))
    target = torch.arange(count)
    to_text = functional.cross_entropy(torch.cat([scores, hard], 1), target)
    return 0.5 * (to_text + functional.cross_entropy(scores.T, target))


def save(out: Path, dual: DualEncoder, image: ImageTowerConfig, text: TextTowerConfig, made: dict[str, Any]) -> None:
    """Writes the trained towers as a student's folder, in float16; `made` says how they came about."""
    tower = build_text_tower(text, TEXT, EMBEDDING_DIM)
    tower.load_state_dict(dual.text.state_dict() if dual.text is not None else {})
    tokenizer_json = (out / TEXT.tokenizer_file).read_bytes()
    parts = StudentParts(
        image_tower=dual.image,
        image_config=image,
        embedding_dim=EMBEDDING_DIM,
        logit_scale=dual.log_scale.exp().item(),
        text=SmallText(text, tower, TEXT, tokenizer_json),
        image=square_pictures(image.image_size),
        provenance=made,
        licence="Apache-2.0",
    )
    folders.save(out, parts, dtype=torch.float16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the model, its log and its checkpoints")
    parser.add_argument("--tower", choices=PRESETS, default=TOWER, help="image tower")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=3200)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1, help="of the training process; one more draws scenes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(VOCABULARY_SIZE)
    tokenizer.save(str(options.out / TEXT.tokenizer_file))
    image, text = preset(options.tower), text_preset("text-s", vocabulary_size=VOCABULARY_SIZE)
    how = {"seed": options.seed, "steps": options.steps, "batch_size": options.batch_size}
    dual = train(image, text, tokenizer, **how, out=options.out)
    made = {
        "command": f"python -m edgevlm.distillation.builtin.teacher --out OUT --tower {options.tower} "
        f"--seed {options.seed} --steps {options.steps} --batch-size {options.batch_size}",
        "data": "rendered scenes, split train, each seen once",
        "scenes": options.steps * options.batch_size,
        "threads": options.threads,
        "torch": torch.__version__,
    }
    save(options.out, dual, image, text, made)


if __name__ == "__main__":
    main()
