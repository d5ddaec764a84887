"""Loads a checkpoint of a model that talks, in Hugging Face format."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevlm import schema
from edgevlm.bundle.dialogue import Chat, Dialogue, Sampling, Spelling, Tiling, Turn
from edgevlm.bundle.spec import ImagePreprocessing, Source
from edgevlm.errors import CheckpointError, InputError, MissingDependency, shown
from edgevlm.inputs.chat import Cut, render, spell, write
from edgevlm.inputs.texts import TOKENIZER_FILE, Tokenizer, read_file, without_rules
from edgevlm.models.checkpoints import chat_rules, picture_rules, text_rules, weights
from edgevlm.models.checkpoints.files import read_json, read_licence
from edgevlm.models.families import TalkingFamily, talking_family
from edgevlm.models.sizes import check_layers
from edgevlm.process.quiet import quiet
from edgevlm.targets.isolation import IsolatedTokenizer, rehearse

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from edgevlm.models.generators.parts import Parts
    from edgevlm.models.talker import Talker

_NOT_CARRIED: Mapping[str, Any] = {
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "min_new_tokens": 0,
    "bad_words_ids": [],
    "suppress_tokens": [],
    "begin_suppress_tokens": [],
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "sequence_bias": {},
}
"""Settings of `generate` that change an answer, and their values that change none."""
_FLORENCE_SIDE = 768
"""Of Florence-2's pictures, in pixels: its tower's configuration has none."""
_BESIDE_WEIGHTS = 10_000_000
"""Numbers that a network may have beside those that are stored, such as a head that is tied."""
_PROMPT_LENGTH = 64
_CUTS = (Cut(), Cut(1, 2), Cut(3, 2))
"""Whose spelling is held against the processor's."""
_LEAST_CONTEXT, _BESIDE_A_PICTURE = 512, 256


def load(
    folder: Path,
    *,
    name: str,
    commit: str | None = None,
    context_length: int | None = None,
    lengths: tuple[int, ...] | None = None,
    picture_size: tuple[int, int] | None = None,
) -> Talker:
    """Reads a checkpoint and makes export-ready components of it.

    Args:
        folder: With `config.json`, a processor's configuration, tokenizer files and safetensors.
        name: What the model is called.
        commit: Of a hub id; a folder's revision is the hash of its weights.
        context_length: Positions that a dialogue may have; where None, enough for a picture and some words.
        lengths: How many rows are decoded at once, ascending from 1; 1 and 64 where None, and the context of
            one that takes picture and question at once.
        picture_size: Height and width in pixels that pictures are scaled to, of a family that takes any size.

    Returns:
        The model in float32, whatever dtype its weights are stored in.

    Raises:
        CheckpointError: another family; files that are missing, damaged or cut short; or something that a bundle
            cannot carry, such as a chat template that trims what is said.
        InputError: lengths that do not ascend from 1, or beyond the context; a size of pictures that the model does not
            take.
        MissingDependency: torch or transformers is not installed.
    """
    config_file = folder / "config.json"
    config = read_json(config_file)
    family = talking_family(config, str(config_file))
    check_layers(config, str(config_file))
    files = weights.find_files(folder)
    weights.check_headers(files)
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependency(package, extra="convert")
    from edgevlm.models.speaking import SpeakingOriginal
    from edgevlm.models.talker import Talker, assemble_programs

    network = _load_network(folder, family.network, weights.count_elements(files))
    image, tiling = _picture_rules(folder, network, family, picture_size)
    ours, theirs, tokenizer_json = _read_tokenizer(folder, network, family.spoken)
    if family.image_token is not None:
        network.config.image_token_id = theirs.convert_tokens_to_ids(family.image_token)
    module = importlib.import_module(family.module)
    parts: Parts = module.take_apart(network, image, 1, where=str(config_file))
    longest = int(parts.longest or _text_config(network).max_position_embeddings)
    dialogue = _read_dialogue(folder, network, parts, tiling, ours, theirs)
    most = _most_positions(dialogue, ours)
    if context_length is None:
        context_length = min(longest, 1 << (max(_LEAST_CONTEXT, most + _BESIDE_A_PICTURE) - 1).bit_length())
    if most >= context_length:
        raise CheckpointError(
            f"{folder}: expected a context that holds a picture, which takes up to {most:,} positions, got one of "
            f"{context_length:,}",
            hint="--context sets it, up to what the checkpoint was trained with",
        )
    parts = module.take_apart(network, image, context_length, where=str(config_file))
    dialogue = replace(dialogue, context_length=context_length)
    programs = assemble_programs(
        parts.encode_image,
        parts.embed_tokens,
        parts.decode,
        image=image,
        seen=parts.seen,
        beside=parts.beside,
        state=parts.decode.state,
        lengths=_lengths(lengths, context_length, most if parts.prefix else None),
        prefix=parts.prefix,
        behind_words=parts.behind_words,
        marked_token_id=parts.marked_token_id,
    )
    return Talker(
        source=Source(
            name=name,
            family=str(config["model_type"]),
            revision=commit or f"sha256:{weights.hash_files([config_file, *files])}",
            licence=read_licence(folder / "README.md"),
        ),
        image=image,
        dialogue=dialogue,
        tokenizer_json=tokenizer_json,
        programs=programs,
        original=SpeakingOriginal(
            network,
            parts.original,
            parts.original_decode,
            {name: program.spec for name, program in programs.items()},
        ),
        notes=tuple(
            note
            for each in (picture_rules.notes, text_rules.notes, chat_rules.notes, weights.notes, _notes)
            for note in each(folder)
        )
        + _size_note(family, image)
        + ((family.note,) if family.note else ()),
    )


def _load_network(folder: Path, class_name: str, stored: int) -> Any:
    """transformers' own network, with all of the checkpoint's weights and no others, in float32.

    Args:
        folder: The checkpoint.
        class_name: Of the network, in transformers.
        stored: Numbers in the files: a configuration of many more is refused before memory is taken for them.
    """
    import torch
    import transformers

    family = getattr(transformers, class_name)
    try:
        with quiet():
            with torch.device("meta"):
                skeleton = family(family.config_class.from_pretrained(folder))
            described = sum(each.numel() for each in skeleton.parameters())
            if described > 2 * stored + _BESIDE_WEIGHTS:
                raise CheckpointError(
                    f"{folder}: config.json and the weights contradict each other: it describes {described:,} numbers, "
                    f"the files hold {stored:,}",
                    hint="take config.json and the weights from the same checkpoint",
                )
            network, found = family.from_pretrained(
                folder,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                attn_implementation="eager",
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
    except CheckpointError:
        raise
    except Exception as error:  # of many kinds, all about the files
        raise CheckpointError(
            f"{folder}: no network can be built from it: {' '.join(str(error).split())[:300]}"
        ) from error
    faults = [
        *(f"{each}: expected, got nothing" for each in sorted(found["missing_keys"])),
        *(f"{each}: expected no such tensor" for each in sorted(found["unexpected_keys"])),
        *(f"{each}: of another shape" for each in sorted(map(str, found["mismatched_keys"]))),
    ]
    if faults:
        raise CheckpointError(
            "\n  ".join([f"{folder}: config.json and the weights contradict each other:", *faults[:5]]),
            hint="take config.json and the weights from the same checkpoint; adapters are not read",
        )
    bad = [name for name, tensor in network.named_parameters() if not bool(tensor.isfinite().all())]
    if bad:
        raise CheckpointError(f"{folder}: expected finite weights, got NaN or infinity in {', '.join(bad[:5])}")
    return network.eval().requires_grad_(False)


def _text_config(network: Any) -> Any:
    """Of the part that talks, wherever a family's configuration has it."""
    return network.config.get_text_config(decoder=True)


def _picture_rules(
    folder: Path, network: Any, family: TalkingFamily, picture_size: tuple[int, int] | None
) -> tuple[ImagePreprocessing, Tiling | None]:
    if family.pictures == "any_size":
        vision = network.config.vision_config
        patch = vision.patch_size if isinstance(vision.patch_size, int) else vision.patch_size[0]
        rules = picture_rules.sized_from_checkpoint(
            folder,
            picture_size,
            patch_size=patch,
            merge_size=vision.spatial_merge_size,
            window_size=getattr(vision, "window_size", 0),
        )
        return rules, None
    if family.pictures == "one_of":
        sizes, side = network.config.image_grid_pinpoints, network.config.vision_config.image_size
        return picture_rules.one_size_from_checkpoint(folder, picture_size, sizes=sizes, tile=side), None
    if picture_size is not None:
        raise InputError(
            f"{folder}: expected no size of pictures, which {network.config.model_type} has from the checkpoint, got "
            f"{picture_size[0]} x {picture_size[1]} pixels"
        )
    if family.pictures == "grid":
        return picture_rules.grids_from_checkpoint(folder)
    if family.pictures == "longest_edge":
        return picture_rules.tiles_from_checkpoint(folder)
    vision = network.config.vision_config
    side = getattr(vision, "image_size", _FLORENCE_SIDE)
    patch = vision.patch_size if isinstance(vision.patch_size, int) else vision.patch_size[0]
    return picture_rules.from_checkpoint(folder, image_size=(side, side), patch_size=patch), None


def _read_tokenizer(folder: Path, network: Any, spoken: str | None) -> tuple[Tokenizer, PreTrainedTokenizerBase, bytes]:
    """Ours, transformers', and the file that a bundle ships, which give the same ids.

    Args:
        folder: The checkpoint.
        network: Whose table of words has a row for each id.
        spoken: A pattern of special tokens that an answer keeps.
    """
    config_file = folder / "tokenizer_config.json"
    if config_file.is_file():
        config = read_json(config_file)
        text_rules.refuse_own_tokenizer(config_file, config)
        name = config.get("tokenizer_class")
        if name is not None and not isinstance(name, str):  # which transformers looks for in all of its modules
            raise CheckpointError(
                f"{config_file}: tokenizer_class: expected the name of one of transformers' tokenizers, got "
                f"{shown(name)}",
                hint="copy the file from the original checkpoint, or leave the key out",
            )
    theirs = text_rules.open_tokenizer(folder)
    text_rules.longest_text(folder, theirs)  # which is refused here by its name
    where = str(folder / TOKENIZER_FILE)
    backend = getattr(theirs, "backend_tokenizer", None)
    contents = [read_file(folder / TOKENIZER_FILE)] if (folder / TOKENIZER_FILE).is_file() else []
    if backend is not None:
        contents.append(backend.to_str(pretty=True).encode())
    if spoken is not None:
        contents = [_with_spoken(content, re.compile(spoken), where) for content in contents]
    expected = [_ids_of(folder, theirs, text) for text in text_rules.AWKWARD_TEXTS]
    difference = ""
    for content in contents:
        rehearse(content, where, text_rules.AWKWARD_TEXTS)
        ours = IsolatedTokenizer.from_bytes(without_rules(where), content)
        difference = next(
            (text for text, ids in zip(text_rules.AWKWARD_TEXTS, expected, strict=True) if ours.pieces(text) != ids),
            "",
        )
        if not difference:
            table = network.get_input_embeddings()
            vocabulary = table.num_embeddings + getattr(table, "num_additional_embeddings", 0)  # Idefics' two tables
            if ours.highest_id >= vocabulary:
                raise CheckpointError(
                    f"{folder}: expected a tokenizer with ids below the {vocabulary:,} of the token embeddings, got "
                    f"{ours.highest_id:,}",
                    hint="take the tokenizer's files and the weights from the same checkpoint",
                )
            return ours, theirs, content
    raise CheckpointError(
        f"{folder}: expected a tokenizer whose ids are the same on a device, got others for {difference[:60]!r}"
        if contents
        else f"{folder}: expected a tokenizer that the `tokenizers` library runs, got one that runs in Python alone",
        hint="save it again: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)",
    )


def _with_spoken(content: bytes, spoken: re.Pattern[str], where: str) -> bytes:
    """A `tokenizer.json` whose tokens of a pattern are not special, so that a text of ids keeps them."""
    found = schema.parse_json(content.decode(errors="replace"), where=where, error=CheckpointError)
    added = found.get("added_tokens") if isinstance(found, dict) else None
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict) and spoken.fullmatch(str(token.get("content"))):
            token["special"] = False
    return json.dumps(found, ensure_ascii=False, indent=2).encode()


def _ids_of(folder: Path, theirs: PreTrainedTokenizerBase, text: str, *, special: bool = False) -> list[int]:
    """transformers' ids of a text, with those that it adds to every text where `special`."""
    with text_rules.reading(folder, "tokenizer"):
        return list(theirs(text, add_special_tokens=special)["input_ids"])


def _dividing(context_length: int) -> int:
    """The most rows by which a context is full after whole runs: LiteRT-LM pads the last one of a prompt."""
    most = min(_PROMPT_LENGTH, context_length)
    return next((each for each in range(most, _PROMPT_LENGTH // 4, -1) if context_length % each == 0), most)


def _lengths(lengths: tuple[int, ...] | None, context_length: int, at_once: int | None) -> tuple[int, ...]:
    """How many rows are decoded at once.

    Args:
        lengths: As the user wants them.
        context_length: Of a dialogue.
        at_once: How many have to be put in one run, and some for a question; None where prompts are put in parts.
    """
    usual = [_dividing(context_length)] if at_once is None else [at_once + _PROMPT_LENGTH, context_length]
    found = lengths or tuple(sorted({1, *(min(each, context_length) for each in usual)}))
    if found[0] != 1 or list(found) != sorted({*found}) or found[-1] > context_length:
        raise InputError(
            f"lengths: expected whole numbers that ascend from 1, up to the context of {context_length:,}, got "
            f"{', '.join(map(str, found))}",
            hint="--lengths 1,64 decodes a prompt 64 rows at a time, and an answer row by row",
        )
    if at_once is not None and found[-1] <= max(at_once, 1):
        raise InputError(
            (
                f"lengths: expected a last one that holds a picture, which takes {at_once:,} positions, and a question "
                "behind it, since this model takes both at once, got "
                if at_once
                else "lengths: expected a last one that holds a question, which this model takes at once, got "
            )
            + f"{found[-1]:,}",
            hint=f"--lengths 1,{context_length}, or none",
        )
    return found


def _read_dialogue(
    folder: Path,
    network: Any,
    parts: Parts,
    tiling: Tiling | None,
    ours: Tokenizer,
    theirs: PreTrainedTokenizerBase,
) -> Dialogue:
    """All but its context."""
    spelling = _spelling(folder, parts, ours, theirs)
    template = chat_rules.find_template(folder) if parts.talks else None
    chat: Chat | None = None
    begin_ids = parts.begin_ids
    if parts.talks and spelling is not None:
        if template is None:
            raise CheckpointError(
                f"{folder}: expected a chat template, got none",
                hint="copy chat_template.jinja, or chat_template.json, from where the checkpoint came from",
            )
        chat = chat_rules.read_chat(template, spelling.token, theirs.special_tokens_map, str(folder))
        chat = _with_around(chat, spelling.token, parts.pieces.around)
        bos = theirs.bos_token
        if bos is not None and chat.begin.startswith(bos):
            begin_ids = ()
    elif parts.asked is not None:
        chat = parts.asked("" if spelling is None else spelling.token, theirs)
    if begin_ids is None:
        begin_ids = _begin_ids(folder, theirs)
    settings = _generation_config(folder)
    named = settings.get("eos_token_id")
    ends = parts.end_ids or _ids(_text_config(network).eos_token_id if named is None else named)
    if not ends:
        raise CheckpointError(
            f"{folder}: expected an id that ends an answer, got none",
            hint="name eos_token_id in generation_config.json",
        )
    dialogue = Dialogue(
        context_length=1,
        begin_ids=begin_ids,
        chat=chat,
        spelling=spelling,
        tiling=tiling,
        end_ids=ends,
        describe=parts.describe,
        sampling=_sampling(folder, settings),
        tokenizer_file=TOKENIZER_FILE,
    )
    size = parts.embed_tokens.num_embeddings
    wrong = [each for each in (*begin_ids, *ends) if type(each) is not int or each >= size]
    if wrong:
        raise CheckpointError(
            f"{folder}: expected ids below {size:,} that begin a dialogue and end an answer, got {wrong[0]!r}",
            hint="bos_token_id and eos_token_id in config.json and generation_config.json name them",
        )
    dialogue = schema.read(Dialogue, schema.write(dialogue), where=str(folder), error=CheckpointError)
    if chat is not None:
        _compare(folder, dialogue, ours, theirs)
    return dialogue


def _spelling(folder: Path, parts: Parts, ours: Tokenizer, theirs: PreTrainedTokenizerBase) -> Spelling | None:
    if parts.image_token_id is None:
        return None
    known = 0 <= parts.image_token_id < parts.embed_tokens.num_embeddings
    with text_rules.reading(folder, "tokenizer"):
        token = theirs.convert_ids_to_tokens(parts.image_token_id) if known else None
    if not isinstance(token, str) or ours.pieces(token) != [parts.image_token_id]:
        raise CheckpointError(
            f"{folder}: expected a token that stands for a picture, of the id {parts.image_token_id}, got {token!r}",
            hint="take config.json and the tokenizer's files from the same checkpoint",
        )
    pieces = parts.pieces
    spelling = Spelling(
        token=token,
        token_id=parts.image_token_id,
        positions=1 if parts.beside else parts.seen[0].shape[1],
        tile=pieces.tile,
        end_of_row=pieces.end_of_row,
        end_of_tiles=pieces.end_of_tiles,
        whole=pieces.whole,
    )
    if parts.written is not None:
        for cut in _CUTS:
            ours_of_it = pieces.around.before + spell(token, spelling, [cut]) + pieces.around.after
            theirs_of_it = parts.written(theirs, cut.rows, cut.columns, spelling.positions)
            if ours_of_it != theirs_of_it:
                raise CheckpointError(
                    f"{folder}: expected a processor that writes a picture of {cut.rows} x {cut.columns} tiles as "
                    f"{ours_of_it[:90]!r}, got {theirs_of_it[:90]!r} by the tokenizer's own names",
                    hint="take the tokenizer's files of the checkpoint that this one was tuned from",
                )
    return spelling


def _with_around(chat: Chat, token: str, around: Turn) -> Chat:
    """A chat template with what a processor writes around a picture, beside the picture's token."""
    shown = chat.user_with_picture
    written = shown.before.replace(token, around.before + token + around.after)
    return replace(chat, user_with_picture=replace(shown, before=written))


def _begin_ids(folder: Path, theirs: PreTrainedTokenizerBase) -> tuple[int, ...]:
    with_special, without = _ids_of(folder, theirs, "a", special=True), _ids_of(folder, theirs, "a")
    count = len(with_special) - len(without)
    if with_special[count:] != without:
        raise CheckpointError(
            f"{folder}: expected a tokenizer that adds ids before a text alone, got {with_special} for {without}"
        )
    return tuple(with_special[:count])


def _compare(folder: Path, dialogue: Dialogue, ours: Tokenizer, theirs: PreTrainedTokenizerBase) -> None:
    """Refuses a tokenizer that gives other ids than ours of a whole dialogue, as the processor would ask it."""
    chat, spelling = dialogue.chat, dialogue.spelling
    if chat is None:
        return
    cuts = [Cut(), Cut(1, 2)] if dialogue.tiling is not None and dialogue.tiling.cuts else [Cut(), Cut()]
    for messages in chat_rules.dialogues(with_system=chat.system is not None):
        if chat.assistant is None and len(messages) > 1:
            continue
        shown = cuts[: sum(message.pictures for message in messages)]
        written = write(dialogue, messages, shown, ours)
        text = render(chat, messages)
        text = text if spelling is None else spell(text, spelling, shown)
        special = bool(dialogue.begin_ids)
        if written.ids != tuple(_ids_of(folder, theirs, text, special=special)):
            raise CheckpointError(
                f"{folder}: expected the ids of transformers on a device too, got others for {text[:80]!r}"
            )


def _most_positions(dialogue: Dialogue, ours: Tokenizer) -> int:
    """What the largest picture takes."""
    spelling, tiling = dialogue.spelling, dialogue.tiling
    if spelling is None:
        return 0
    count = 0 if tiling is None else tiling.most
    rows = max((each for each in range(1, math.isqrt(count) + 1) if count % each == 0), default=0)
    most = Cut(rows, count // rows if rows else 0)
    return len(ours.pieces(spell(spelling.token, spelling, [most])))


def _generation_config(folder: Path) -> Mapping[str, Any]:
    file = folder / "generation_config.json"
    return read_json(file) if file.is_file() else {}


def _notes(folder: Path) -> tuple[str, ...]:
    """What `generate` would make of logits, and a bundle's sampling does not."""
    settings = _generation_config(folder)
    left = [f"{key} {settings[key]}" for key, off in _NOT_CARRIED.items() if settings.get(key) not in (None, off)]
    if not left:
        return ()
    return (f"{folder / 'generation_config.json'}: {', '.join(left)}: not carried; answers are chosen without it",)


def _size_note(family: TalkingFamily, image: ImagePreprocessing) -> tuple[str, ...]:
    """What becomes of pictures of other proportions, which the checkpoint's own processor would keep."""
    if not family.sized:
        return ()
    return (
        f"pictures: all are scaled to {image.height} x {image.width} pixels, whatever their proportions; "
        "--picture-size takes another size",
    )


def _ids(value: Any) -> tuple[Any, ...]:
    return () if value is None else tuple(value) if isinstance(value, list | tuple) else (value,)


def _sampling(folder: Path, settings: Mapping[str, Any]) -> Sampling:
    if not settings.get("do_sample"):
        return Sampling()
    found = {}
    for key, usual in (("temperature", 1.0), ("top_k", 50), ("top_p", 1.0)):
        value = usual if settings.get(key) is None else settings[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise CheckpointError(f"{folder / 'generation_config.json'}: {key}: expected a number, got {value!r}")
        found[key] = value
    return Sampling(float(found["temperature"]), int(found["top_k"]), float(found["top_p"]))
