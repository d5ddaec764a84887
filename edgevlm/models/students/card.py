"""Writes a student's model card."""

from __future__ import annotations

import json
from pathlib import Path

from markupsafe import Markup

from edgevlm import schema
from edgevlm.models.students.parts import BorrowedText, SmallText, StudentParts
from edgevlm.models.students.towers import cost, parameters
from edgevlm.process.pages import fill


def model_card(student: StudentParts) -> str:
    """The card in Markdown, with the front matter of https://huggingface.co/docs/hub/model-cards."""
    config = student.image_config
    image = cost(config, student.embedding_dim)
    origin = {"image_tower": schema.write(config), **schema.write(student.provenance)}
    return fill(
        Path(__file__).parent,
        "card.md.jinja",
        licence=Markup(json.dumps(student.licence)),
        family=config.family,
        size=config.image_size,
        parameters=f"{image.parameters / 1e6:.2f}",
        multiply_adds=f"{image.multiply_adds / 1e6:,.0f}",
        texts=_describe_text(student),
        embedding_dim=student.embedding_dim,
        logit_scale=f"{student.logit_scale:.4g}",
        origin=Markup(json.dumps(origin, indent=2, ensure_ascii=False)),
    )


def _describe_text(student: StudentParts) -> str:
    text = student.text
    if isinstance(text, SmallText):
        return f"a small tower of {parameters(text.tower) / 1e6:.2f} M parameters, {text.text.context_length} tokens"
    if isinstance(text, BorrowedText):
        return f"the teacher's own {text.family} tower, {text.text.context_length} tokens"
    return f"none; it tells {len(text.labels.names)} labels apart: {', '.join(text.labels.names[:10])}" + (
        ", ..." if len(text.labels.names) > 10 else ""
    )
