"""Writes a student's model card."""

from __future__ import annotations

import json
from typing import Any

from edgevlm import schema
from edgevlm.models.students.parts import BorrowedText, SmallText, StudentParts
from edgevlm.models.students.towers import cost, parameters


def model_card(student: StudentParts) -> str:
    """The card in Markdown, with the front matter of https://huggingface.co/docs/hub/model-cards."""
    config = student.image_config
    image = cost(config, student.embedding_dim)
    lines = [
        "---",
        f"license: {json.dumps(student.licence)}",
        "library_name: edgevlm",
        "pipeline_tag: zero-shot-image-classification",
        "---",
        "",
        f"# A {config.family} student",
        "",
        f"- **Pictures:** {config.image_size} x {config.image_size} pixels, {image.parameters / 1e6:.2f} M parameters, "
        f"{image.multiply_adds / 1e6:,.0f} M multiply-adds.",
        f"- **Texts:** {_describe_text(student)}.",
        f"- **Embeddings:** {student.embedding_dim} numbers, logit scale {student.logit_scale:.4g}.",
        "",
        "    edgevlm convert FOLDER --target all",
        "",
        "## Where it comes from",
        "",
        "```json",
        json.dumps(_plain(student), indent=2, ensure_ascii=False),
        "```",
    ]
    return "\n".join(lines) + "\n"


def _describe_text(student: StudentParts) -> str:
    text = student.text
    if isinstance(text, SmallText):
        return f"a small tower of {parameters(text.tower) / 1e6:.2f} M parameters, {text.text.context_length} tokens"
    if isinstance(text, BorrowedText):
        return f"the teacher's own {text.family} tower, {text.text.context_length} tokens"
    return f"none; it tells {len(text.labels.names)} labels apart: {', '.join(text.labels.names[:10])}" + (
        ", ..." if len(text.labels.names) > 10 else ""
    )


def _plain(student: StudentParts) -> Any:
    return {"image_tower": schema.write(student.image_config), **schema.write(student.provenance)}
