"""What a manifest says of itself: what one part says and another contradicts is refused before a file is opened."""

from __future__ import annotations

from pathlib import Path

from edgevlm.bundle.dialogue import (
    DECODE,
    EMBED_TOKENS,
    EMBEDDINGS,
    ENCODE_IMAGE,
    FEATURES,
    LOGITS,
    MOST_TILES,
    POSITIONS,
    Dialogue,
)
from edgevlm.bundle.manifest import (
    AT_LEAST,
    AT_MOST,
    GRIDS_VERSION,
    PREFIX_VERSION,
    BundledComponent,
    Manifest,
    ParityCheck,
)
from edgevlm.bundle.spec import ImagePreprocessing
from edgevlm.bundle.versions import is_at_least
from edgevlm.errors import BundleError

_HIGHEST_ID = (1 << 31) - 1
_LARGEST_FILE = 1 << 36
"""More than any device holds. A file without content may be as large as a disk, and is hashed for hours."""
_LONGEST_EDGE = 8192
"""Of a picture that is scaled: 200 MB where it is square."""


def check_claims(where: Path, manifest: Manifest) -> None:
    """Refuses a manifest whose parts contradict each other.

    Args:
        where: The manifest's path, for errors.
        manifest: What it says.

    Raises:
        BundleError: a file that no device holds; two sizes for one edge, or sizes that nothing can be scaled to;
            lengths without functions; a comparison that passed beyond its limit, or within another than the recipe's;
            pixels, ids, labels or an embedding_dim that the components contradict; neither embeddings nor dialogues;
            or dialogues that do not fit the components.
    """
    for path, record in manifest.files.items():
        if record.size_bytes > _LARGEST_FILE:
            raise BundleError(
                f"{where}: files: {path}: expected at most {_LARGEST_FILE:,} bytes, got {record.size_bytes:,}"
            )
    _check_image(where, manifest.image)
    for name, component in manifest.components.items():
        _check_lengths(where, name, component)
    of_embeddings = (manifest.embedding_dim, manifest.logit_scale, manifest.embedding_space_id)
    if (manifest.dialogue is None) == (None in of_embeddings):
        raise BundleError(
            f"{where}: expected embedding_dim, logit_scale and embedding_space_id of a dual encoder, or dialogue of a "
            f"model that talks, got {'neither' if manifest.dialogue is None else 'both'}"
        )
    for check in manifest.parity.checks if manifest.parity else ():
        _check_comparison(where, manifest, check)
    if manifest.dialogue is None:
        _check_embeddings(where, manifest)
    else:
        _check_dialogue(where, manifest, manifest.dialogue)


def _check_image(where: Path, image: ImagePreprocessing) -> None:
    edges = (image.resize_height, image.resize_width)
    if image.resize == "shortest_edge" and edges[0] != edges[1]:
        raise BundleError(
            f"{where}: image: expected one length for shortest_edge, got resize_height {edges[0]} and resize_width "
            f"{edges[1]}"
        )
    if image.resize != "none" and not all(1 <= edge <= _LONGEST_EDGE for edge in edges):
        raise BundleError(
            f"{where}: image: expected resize_height and resize_width of 1 to {_LONGEST_EDGE:,} pixels, got "
            f"{edges[0]:,} and {edges[1]:,}"
        )


def _check_lengths(where: Path, name: str, component: BundledComponent) -> None:
    spec = component.spec
    of_one = not spec.lengths and {*component.functions} <= {"1"}
    known = of_one or {*component.functions} == {*map(str, spec.lengths)}
    known = known and [*spec.lengths] == sorted({*spec.lengths})
    shapes = [tensor.shape for tensor in (*spec.inputs, *spec.outputs, *spec.state)]
    if not known or any(size == 0 or (size == -1 and not spec.lengths) for shape in shapes for size in shape):
        raise BundleError(f"{where}: {name}: expected ascending lengths, a function for each, and sizes of at least 1")


def _check_comparison(where: Path, manifest: Manifest, check: ParityCheck) -> None:
    """Refuses a comparison that passed, or failed, against its own value and limit, or passed one that the recipe does
    not set."""
    found = f"{where}: parity: {check.component}: {check.measure} of {check.value:g}"
    known = check.measure in AT_LEAST | AT_MOST  # the package of another target may have more
    held = ParityCheck.of(check.component, check.measure, check.value, check.limit).passed
    if known and check.passed != held:
        raise BundleError(f"{found}, limit {check.limit}: expected passed: {held}, got {check.passed}")
    if manifest.dialogue is None and check.passed:  # the limits of talkers follow from their precision
        limits = _limits(manifest).get(check.measure, {check.limit})
        if check.limit not in limits:
            set_by = " or ".join(map(str, sorted(limits, key=str)))
            raise BundleError(
                f"{found} passed: expected the limit of recipe {manifest.recipe.name}, {set_by}, got {check.limit}"
            )


def _limits(manifest: Manifest) -> dict[str, set[float | None]]:
    """What a recipe allows of each measure: of the largest error one for embeddings, logits and scores each."""
    promised, logit = manifest.recipe.parity, manifest.logit_scale or 1.0
    error = promised.max_abs_error
    return {
        "finite": {1.0},
        "max_abs_error": {None if error is None else max(1.0, scale) * error for scale in (1.0, logit, 0.5 * logit)},
        "min_cosine": {promised.min_cosine},
        "top1_agreement": {promised.min_top1_agreement},
    }


def _check_embeddings(where: Path, manifest: Manifest) -> None:
    known: dict[str, tuple[int, ...]] = {"pixels": (1, 3, manifest.image.height, manifest.image.width)}
    if manifest.text is not None:
        known["token_ids"] = (1, manifest.text.context_length)
    for name, component in manifest.components.items():
        for taken in component.spec.inputs:
            expected = known.get(taken.name, taken.shape)
            if taken.shape != expected:
                said = "image.height and image.width" if taken.name == "pixels" else "text.context_length"
                raise BundleError(
                    f"{where}: {said}: expected what {name} takes, {taken.name} {list(taken.shape)}, got "
                    f"{list(expected)}"
                )
    for name in manifest.components.keys() & {"encode_image", "encode_text"}:
        for output in manifest.components[name].spec.outputs:
            if output.name == "embedding" and output.shape[-1] != manifest.embedding_dim:
                raise BundleError(
                    f"{where}: embedding_dim: expected {output.shape[-1]}, the length of {name}'s embedding, got "
                    f"{manifest.embedding_dim}"
                )
    if manifest.labels is None:
        return
    names = manifest.labels.names
    classify = manifest.components.get("classify")
    answered = {output.shape[-1] for output in classify.spec.outputs} if classify else set()
    if answered != {len(names)} or len(set(names)) < len(names) or not all(map(str.strip, names)):
        raise BundleError(
            f"{where}: labels: expected a name of its own for each of classify's answers, {max(answered, default=0)}, "
            f"got {len(names)} names, {len(set(names))} of them different"
        )


def _check_dialogue(where: Path, manifest: Manifest, dialogue: Dialogue) -> None:
    specs = {name: component.spec for name, component in manifest.components.items()}
    if specs.keys() != {ENCODE_IMAGE, EMBED_TOKENS, DECODE}:
        raise BundleError(
            f"{where}: components: expected {ENCODE_IMAGE}, {EMBED_TOKENS} and {DECODE} of a model that talks, got "
            f"{', '.join(specs) or 'none'}"
        )
    seen, spelling, decode = specs[ENCODE_IMAGE].outputs, dialogue.spelling, specs[DECODE]
    taken = [tensor.name for tensor in decode.inputs]
    among = [tensor.name for tensor in seen] == [FEATURES]
    beside = [] if among else [tensor.name for tensor in seen]
    answered = [tensor.name for tensor in (*specs[EMBED_TOKENS].outputs, *decode.outputs)]
    if taken != [EMBEDDINGS, POSITIONS, *beside] or answered != [EMBEDDINGS, LOGITS]:
        raise BundleError(
            f"{where}: {DECODE}: expected embeddings, positions{', and what encode_image answers' if beside else ''}, "
            f"and logits from them, got {', '.join(taken)}, and {', '.join(answered)}"
        )
    if decode.lengths != specs[EMBED_TOKENS].lengths or decode.lengths[:1] != (1,):
        raise BundleError(f"{where}: {DECODE}: expected lengths from 1 on, the same of {EMBED_TOKENS} and {DECODE}")
    if any(len(each.shape) != 4 or each.shape[2] != dialogue.context_length for each in decode.state):
        raise BundleError(
            f"{where}: dialogue.context_length: expected the places of {DECODE}'s state, got "
            f"{dialogue.context_length:,}"
        )
    rows = [tensor.shape[1] for tensor in seen if len(tensor.shape) == 3] if among else [1]  # one token stands for it
    if among != (spelling is not None) and not (spelling and is_at_least(manifest.format_version, PREFIX_VERSION)):
        raise BundleError(
            f"{where}: dialogue.spelling: expected one where {ENCODE_IMAGE} answers {FEATURES}, and none elsewhere "
            f"before format version {PREFIX_VERSION}"
        )
    if spelling is not None and rows != [spelling.positions]:
        raise BundleError(
            f"{where}: dialogue.spelling.positions: expected the rows of {ENCODE_IMAGE}'s features, {rows}, got "
            f"{spelling.positions:,}"
        )
    tiling = dialogue.tiling
    most = 1 if tiling is None else tiling.most + 1
    if spelling is not None and most * spelling.positions >= dialogue.context_length:
        raise BundleError(
            f"{where}: dialogue: expected a context that holds a picture of {most:,} tiles, got one of "
            f"{dialogue.context_length:,} positions"
        )
    grid = None if tiling is None else tiling.grid
    if grid is not None and not (
        is_at_least(manifest.format_version, GRIDS_VERSION) and grid.least <= grid.most <= MOST_TILES
    ):
        raise BundleError(
            f"{where}: dialogue.tiling.grid: expected format version {GRIDS_VERSION} or later, and at most "
            f"{MOST_TILES} tiles, got {manifest.format_version}, and {grid.least} to {grid.most}"
        )
    size = (manifest.image.height, manifest.image.width)
    pixels = [tensor.shape[2:] for tensor in specs[ENCODE_IMAGE].inputs]
    if pixels != [size] or (tiling is not None and (tiling.tile, tiling.tile) != size):
        raise BundleError(
            f"{where}: dialogue.tiling.tile: expected the size of {ENCODE_IMAGE}'s pixels, {pixels}, and of image, "
            f"{list(size)}, got {'no tiles' if tiling is None else tiling.tile}"
        )
    chat = dialogue.chat
    new = decode.prefix or (chat is not None and chat.assistant is None)
    if new and not is_at_least(manifest.format_version, PREFIX_VERSION):
        raise BundleError(
            f"{where}: dialogue: expected format version {PREFIX_VERSION} or later for one question, or a prefix, got "
            f"{manifest.format_version}"
        )
    if decode.prefix and spelling is not None and spelling.positions >= decode.lengths[-1]:
        raise BundleError(
            f"{where}: {DECODE}: prefix: expected a length that holds a picture of {spelling.positions:,} "
            f"positions and a question, got {decode.lengths[-1]:,} at most"
        )
    _check_words(where, dialogue)
    ids = (*dialogue.begin_ids, *dialogue.end_ids, *([] if spelling is None else [spelling.token_id]))
    if not dialogue.end_ids or max(ids) > _HIGHEST_ID:
        raise BundleError(f"{where}: dialogue: expected ids of 31 bits, one of which ends an answer, got {ids[:8]}")


def _check_words(where: Path, dialogue: Dialogue) -> None:
    spelling, chat = dialogue.spelling, dialogue.chat
    token = "" if spelling is None else spelling.token
    if spelling is not None and (not token or token in dialogue.describe):
        raise BundleError(
            f"{where}: dialogue: expected a token that stands for a picture, and is not in describe, got {token!r}"
        )
    if chat is not None and spelling is not None and chat.user_with_picture.before.count(token) != 1:
        raise BundleError(
            f"{where}: dialogue.chat.user_with_picture: expected {token} once in the text before, got "
            f"{chat.user_with_picture.before[:80]!r}"
        )
    if chat is not None and spelling is None and (chat.assistant is not None or chat.user_with_picture != chat.user):
        raise BundleError(
            f"{where}: dialogue.chat: expected a token that stands for a picture, or one question, written out alike "
            "with a picture and without"
        )
    if len(dialogue.begin_ids) >= dialogue.context_length or dialogue.sampling.top_p > 1:
        raise BundleError(f"{where}: dialogue: expected begin_ids that the context holds, and a top_p of at most 1")
