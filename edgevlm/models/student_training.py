"""Trains the built-in student on rendered scenes, and measures what came out.

    python -m edgevlm.models.student_training --out OUT

Every step sees fresh scenes of the `train` split. The loss is CLIP's symmetric cross-entropy (Radford et al.,
2021) over the batch, with three hard negatives a picture: descriptions changed in one attribute (as NegCLIP,
Yuksekgonul et al., 2023). Pairs whose description happens to be true of another picture are left out. Beside it,
linear heads that both towers share read the attributes off the embeddings: the scene graph is known, so it may as
well teach. The heads are not shipped.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from edgevlm.data.captions import caption, leave_open, vocabulary
from edgevlm.data.rendered import HELD_OUT_START
from edgevlm.data.scenes import ATTRIBUTES, AXES, CELLS, COUNTS, Scene, Scenes, Split, variants
from edgevlm.evaluation.scene_zero_shot import VARIED, SceneAccuracy, measure
from edgevlm.models.model_card import model_card
from edgevlm.models.student import Student, StudentConfig

NEGATIVES = 3
MEASURED_SCENES = 1000
# What a scene states: its number of groups, cell and axis, then each group's attributes and count, in order.
FACTS = (3, len(CELLS), len(AXES), *(*(len(values) for values in ATTRIBUTES.values()), len(COUNTS)) * 3)


@dataclass(frozen=True)
class Batch:
    """One training step: B pictures, B descriptions, and `NEGATIVES` false ones for each picture.

    Attributes:
        pixels: uint8 [B, 3, 64, 64].
        token_ids: int32 [B * (1 + NEGATIVES), T] in all, the true ones first: parts of equal length, with the
            rows they stand for, so that short texts are not computed at the longest's length.
        also_true: bool [B, B], whether description j is true of another picture i.
        picture_facts, text_facts: int64 [B, F] and [B * (1 + NEGATIVES), F], see `FACTS`; -1 where unknown.
    """

    pixels: Tensor
    token_ids: tuple[tuple[Tensor, Tensor], ...]
    also_true: Tensor
    picture_facts: Tensor
    text_facts: Tensor


class Steps(Dataset[Batch]):
    """The batches of a run; step `i` depends on the seed and `i` alone, so that workers change nothing."""

    def __init__(self, seed: int, batch_size: int, steps: int, tokenizer: Tokenizer) -> None:
        self.scenes = Scenes(seed)
        self.batch_size = batch_size
        self.steps = steps
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        batch = self.scenes.batch(step * self.batch_size, self.batch_size)
        draws = random.Random(f"{self.scenes.seed}/{step}")
        told = [leave_open(scene, draws, draws.choice((0.0, 0.0, 0.3, 0.6))) for scene in batch.scenes]
        false = [description for scene in told for description in _false(scene, draws)]
        texts = [caption(description, draws) for description in (*told, *false)]
        pixels = torch.from_numpy(np.ascontiguousarray(batch.pixels.transpose(0, 3, 1, 2)))
        ids = token_ids(self.tokenizer, texts)
        lengths = (ids != ids[0, -1]).sum(1) + 1
        parts = tuple((rows, ids[rows, : _rounded(lengths[rows].max())]) for rows in lengths.argsort().chunk(8))
        return Batch(
            pixels,
            parts,
            torch.from_numpy(_also_true(told, batch.scenes)),
            torch.tensor([facts(scene) for scene in batch.scenes]),
            torch.tensor([facts(description) for description in (*told, *false)]),
        )


def token_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    """int32 [N, T], T the longest text's length, padded with its end-of-text id."""
    rows = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    longest = _rounded(max(map(len, rows)))
    return torch.tensor([row + [row[-1]] * (longest - len(row)) for row in rows], dtype=torch.int32)


def _rounded(length: int | Tensor) -> int:
    # A few lengths, many times: each new shape costs the CPU kernels a compilation of its own.
    return -(-int(length) // 8) * 8


def build_tokenizer(vocabulary_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer of CLIP's kind, in which every caption word is one token and no text is unknown."""
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

    start, end = "<|startoftext|>", "<|endoftext|>"
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=end))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[start, end, *alphabet, *(f"{letter}</w>" for letter in alphabet)],
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator([word for word in vocabulary() for _ in range(4)], trainer)
    tokenizer = _without_byte_specials(tokenizer, (start, end))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, 0), (end, 1)]
    )
    return tokenizer


def train(config: StudentConfig, tokenizer: Tokenizer, seed: int, steps: int, batch_size: int, log: Path) -> Student:
    """Trains a student; prints the loss and, now and then, its accuracy on held-out scenes."""
    torch.manual_seed(seed)
    student, heads = Student(config), FactHeads(config.embedding_dim)
    parameters = [*student.parameters(), *heads.parameters()]
    decayed = [parameter for parameter in parameters if parameter.ndim >= 2]
    plain = [parameter for parameter in parameters if parameter.ndim < 2]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
        lr=1.5e-3,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1.5e-3, total_steps=steps, pct_start=0.08)
    batches = DataLoader(Steps(seed, batch_size, steps, tokenizer), batch_size=None, num_workers=1, prefetch_factor=4)
    began = time.monotonic()
    student.train()
    for step, batch in enumerate(batches):
        images, texts = embed(student, batch)
        loss = contrastive_loss(images, texts, student.log_scale.exp(), batch.also_true)
        taught = heads.loss(images, batch.picture_facts) + heads.loss(texts, batch.text_facts)
        optimiser.zero_grad()
        (loss + taught).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            student.log_scale.clamp_(max=4.6052)  # log(100), CLIP's ceiling
        if step % 50 == 0 or step == steps - 1:
            entry = {
                "step": step,
                "loss": round(loss.item(), 4),
                "facts": round(taught.item(), 4),
                "seconds": round(time.monotonic() - began),
            }
            if step % 500 == 0 and step:
                entry |= {"top1": round(accuracy(student, tokenizer, "combinations", 200).top1, 4)}
                save_file(student.state_dict(), log.with_suffix(".safetensors"))
            print(json.dumps(entry), flush=True)
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
    return student.eval()


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


def embed(student: Student, batch: Batch) -> tuple[Tensor, Tensor]:
    """The embeddings of the pictures and of all texts, float32, computed in bfloat16 where that is safe."""
    with torch.autocast("cpu", torch.bfloat16):
        images = student.image(batch.pixels.float()).float()
        order = torch.cat([rows for rows, _ in batch.token_ids]).argsort()
        texts = torch.cat([student.text(ids) for _, ids in batch.token_ids])[order].float()
    return images, texts


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, also_true: Tensor) -> Tensor:
    """The mean of picture-to-text cross-entropy (hard negatives among the texts) and text-to-picture's."""
    count = len(images)
    scores = (scale * images @ texts[:count].T).masked_fill(also_true, -1e4)
    hard = scale * torch.einsum("bd,bnd->bn", images, texts[count:].reshape(count, NEGATIVES, -1))
    target = torch.arange(count)
    to_text = functional.cross_entropy(torch.cat([scores, hard], 1), target)
    return 0.5 * (to_text + functional.cross_entropy(scores.T, target))


@torch.no_grad()
def accuracy(student: Student, tokenizer: Tokenizer, split: Split, count: int, seed: int = 1) -> SceneAccuracy:
    """Zero-shot accuracy by full description on scenes that no training run draws."""
    was_training = student.training
    student.eval()

    def encode_texts(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.asarray(student.text(token_ids(tokenizer, texts)).numpy())

    batch = Scenes(seed, split).batch(HELD_OUT_START, count)
    planes = torch.from_numpy(batch.pixels.transpose(0, 3, 1, 2).astype(np.float32))
    images = np.concatenate([student.image(part).numpy() for part in torch.split(planes, 100)])
    result = measure(images, list(enumerate(batch.scenes, HELD_OUT_START)), encode_texts)
    student.train(was_training)
    return result


def facts(scene: Scene) -> list[int]:
    """`FACTS` of a scene or description; -1 where it leaves them open. Groups in no order have no slots."""
    found = [len(scene.groups) - 1, _index(CELLS, scene.cell), _index(AXES, scene.axis)]
    ordered = scene.groups if scene.axis is not None or len(scene.groups) == 1 else ()
    for group in ordered:
        found += [_index(values, getattr(group, name)) for name, values in ATTRIBUTES.items()]
        found.append(COUNTS.index(group.count))
    return found + [-1] * (len(FACTS) - len(found))


def _index(values: Sequence[str], value: str | None) -> int:
    return -1 if value is None else values.index(value)


def _false(description: Scene, draws: random.Random) -> list[Scene]:
    """`NEGATIVES` descriptions with one attribute changed; an attribute that is open cannot be changed."""
    names = list(VARIED)
    draws.shuffle(names)
    options = [found for found in (variants(description, name) for name in names) if found]
    return [draws.choice(options[index % len(options)]) for index in range(NEGATIVES)]


def _also_true(descriptions: Sequence[Scene], scenes: Sequence[Scene]) -> NDArray[np.bool_]:
    """bool [scenes, descriptions] off the diagonal: true, or so nearly true that it should not count as false."""
    said, is_so = _table(descriptions), _table(scenes)
    same = (said[None, :, :, None] == is_so[:, None, None, :]) | (said[None, :, :, None] == -1)
    matches: NDArray[np.bool_] = same.all(-1).any(3).all(2)
    cells = [np.array([CELLS.index(s.cell) if s.cell else -1 for s in some]) for some in (descriptions, scenes)]
    matches &= (cells[0][None] == -1) | (cells[0][None] == cells[1][:, None])
    np.fill_diagonal(matches, False)
    return matches


def _table(scenes: Sequence[Scene]) -> NDArray[np.int8]:
    """int8 [N, 3, 6]: each group's attributes and count; -1 where open, the first group again where absent."""
    names = list(ATTRIBUTES)
    rows = []
    for scene in scenes:
        groups = [
            [ATTRIBUTES[name].index(value) if (value := getattr(group, name)) else -1 for name in names]
            + [10 * len(scene.groups) + group.count]
            for group in scene.groups
        ]
        rows.append(groups + [groups[0]] * (3 - len(groups)))
    return np.array(rows, np.int8)


def _without_byte_specials(tokenizer: Tokenizer, specials: tuple[str, ...]) -> Tokenizer:
    # The trainer keeps a token it never meets only as a special one; in use only the two markers are special.
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in specials]
    return Tokenizer.from_str(json.dumps(state))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, tokenizer, figures and model card")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=3200)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1, help="of the training process; one more draws scenes")
    parser.add_argument("--measure-only", action="store_true", help="measure the weights that OUT holds already")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.measure_only:
        training = json.loads((options.out / "accuracy.json").read_text(encoding="utf-8"))["training"]
    else:
        training = _train(options.out, options.seed, options.steps, options.batch_size, options.threads)
    student, tokenizer = load(options.out)
    splits: tuple[Split, ...] = ("train", "combinations", "styles")
    figures = {
        "training": training,
        "parameters": sum(parameter.numel() for parameter in student.parameters()),
        "accuracy": {split: asdict(accuracy(student, tokenizer, split, MEASURED_SCENES)) for split in splits},
    }
    text = json.dumps(figures, indent=2)
    (options.out / "accuracy.json").write_text(text + "\n", encoding="utf-8")
    (options.out / "MODEL_CARD.md").write_text(model_card(figures), encoding="utf-8")
    print(text)


def load(folder: Path) -> tuple[Student, Tokenizer]:
    """The student that a folder holds, in float32, and its tokenizer."""
    student = Student(StudentConfig())
    tensors = {name: value.float() for name, value in load_file(folder / "student.safetensors").items()}
    student.load_state_dict(student.state_dict() | tensors)
    return student.eval(), Tokenizer.from_file(str(folder / "tokenizer.json"))


def _train(out: Path, seed: int, steps: int, batch_size: int, threads: int) -> dict[str, object]:
    """Trains and writes weights (float16) and tokenizer; gives what a reader needs to repeat it."""
    config = StudentConfig()
    tokenizer = build_tokenizer(config.vocabulary_size)
    tokenizer.save(str(out / "tokenizer.json"))
    began = time.monotonic()
    student = train(config, tokenizer, seed, steps, batch_size, out / "training.jsonl")
    floats = {name: value for name, value in student.state_dict().items() if value.is_floating_point()}
    save_file({name: value.half().contiguous() for name, value in floats.items()}, out / "student.safetensors")
    return {
        "seed": seed,
        "steps": steps,
        "batch_size": batch_size,
        "threads": threads,
        "seconds": round(time.monotonic() - began),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    main()
