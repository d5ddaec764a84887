"""The built-in student: its weights, tokenizer, figures and model card lie in this folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevlm.spec import Source, TextPreprocessing

if TYPE_CHECKING:
    from edgevlm.models.model import Model

NAME = "edgevlm-student"
FOLDER = Path(__file__).parent
WEIGHTS = FOLDER / "student.safetensors"
TOKENIZER = FOLDER / "tokenizer.json"


def figures() -> dict[str, Any]:
    """What training measured: seed, steps, and accuracy by split and attribute."""
    figures: dict[str, Any] = json.loads((FOLDER / "accuracy.json").read_text(encoding="utf-8"))
    return figures


def load(weights: Path = WEIGHTS, tokenizer: Path = TOKENIZER) -> Model:
    """The student as a model, in float32."""
    from safetensors.torch import load_file

    from edgevlm.bundle import hash_file
    from edgevlm.models.model import Model, assemble_programs
    from edgevlm.models.student import Student, StudentConfig
    from edgevlm.models.students.config import square_pictures
    from edgevlm.models.students.reparameterised import fuse

    config = StudentConfig()
    student = Student(config)
    tensors = {name: value.float() for name, value in load_file(weights).items()}
    # BatchNorm's step counters are integers, of no use after training, and not in the file.
    student.load_state_dict(tensors | {n: v for n, v in student.state_dict().items() if not v.is_floating_point()})
    student.eval().requires_grad_(False)
    image = square_pictures(config.image_size)
    text = TextPreprocessing(
        context_length=config.context_length,
        pad_id=config.eot_id,
        eot_id=config.eot_id,
        canonicalisation="none",
        lower_case=True,
        tokenizer_file="tokenizer.json",
    )
    return Model(
        source=Source(NAME, "student", f"sha256:{hash_file(weights)}", "Apache-2.0"),
        image=image,
        text=text,
        tokenizer_json=tokenizer.read_bytes(),
        embedding_dim=config.embedding_dim,
        logit_scale=float(student.log_scale.exp()),
        programs=assemble_programs(
            fuse(student.image), student.text, image=image, text=text, embedding_dim=config.embedding_dim
        ),
        reference={"encode_image": student.image, "encode_text": student.text},
        network=student,
    )
