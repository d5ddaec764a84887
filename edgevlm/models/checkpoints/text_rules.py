"""How a checkpoint's texts become token ids: read by transformers, said in the manifest's numbers, and held against it.

transformers' tokenizer of the folder is the reference. A device has the `tokenizers` library alone, so what ships is a
`tokenizer.json`, with a handful of rules in the manifest. A folder whose ids would differ on a device is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers

from edgevlm import schema
from edgevlm.bundle.spec import TextCanonicalisation, TextPreprocessing
from edgevlm.errors import CheckpointError, EdgeVLMError
from edgevlm.inputs.texts import TOKENIZER_FILE, parse, read_file
from edgevlm.models.checkpoints.files import read_json, refuse_own_code
from edgevlm.models.families import Family
from edgevlm.process.quiet import quiet
from edgevlm.targets.isolation import IsolatedTokenizer, rehearse

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


# What a checkpoint that names no class is read as.
_FAMILY_CLASSES: dict[Family, str] = {"clip": "CLIPTokenizer", "siglip": "SiglipTokenizer"}

# What transformers and a device must agree on. Long ones are of words: over a run of one letter, a Unigram model has
# cuts of equal score, among which sentencepiece and `tokenizers` may choose differently.
AWKWARD_TEXTS = (
    "",
    " ",
    "a",
    "a photo of a cat",
    "A PHOTO of a Cat!",
    "  two   spaces,\ttabs\nand\r\nnew lines \u00a0\u2003 ",
    "it's they're we've I'm you'll he'd don't IT'S",
    "caf\u00e9 cafe\u0301 \u212bngstr\u00f6m A\u030angstro\u0308m \ufb01ne",
    "\U0001f600 a cat \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea",
    "\u732b\u306e\u5199\u771f \uace0\uc591\uc774 \u0635\u0648\u0631\u0629 \u0642\u0637\u0629",
    "\u0e09\u0e31\u0e19\u0e23\u0e31\u0e01\u0e41\u0e21\u0e27 \u05d7\u05ea\u05d5\u05dc \u092c\u093f\u0932\u094d",
    "Stra\u00dfe \u0130stanbul \u03a3\u038a\u03a3\u03a5\u03a6\u039f\u03a3 \u01c4",
    "1234567890 3.14 10,000 \u00b2 \u00bd \u2167 \u0663",
    "!?.,:;-_'\"()[]{}<>@#$%^&*+=|\\/~`",
    "\u00abquotes\u00bb \u201ccurly\u201d \u2026 \u2014 \u00bfqu\u00e9? \u2030 \u20ac",
    "snake_case kebab-case CamelCase a.b.c http://example.org/?q=1&r=2",
    "\u0000 null \u200b zero width \ufeff mark \u00ad hyphen \u0007 bell",
    "\u2581 the piece mark \u2581\u2581 twice",
    "two cats and a dog looking out of the window at the city by night, " * 20,
)


@dataclass(frozen=True)
class CheckpointTokenizer:
    """A checkpoint's tokenizer, ready to be shipped.

    Attributes:
        spec: Its rules; `tokenizer_file` is where `write` puts it.
        tokenizer_json: Content of the `tokenizer.json`: the checkpoint's own bytes where it has that file.
    """

    spec: TextPreprocessing
    tokenizer_json: bytes

    def write(self, folder: Path) -> Path:
        """Puts the `tokenizer.json` into a folder, which `Tokenizer(spec, folder)` then opens; gives its path."""
        path = folder / self.spec.tokenizer_file
        path.write_bytes(self.tokenizer_json)
        return path


def from_checkpoint(
    folder: Path, *, family: Family, context_length: int, vocabulary_size: int | None = None
) -> CheckpointTokenizer:
    """Reads the tokenizer of a checkpoint in Hugging Face format: any class that has a `tokenizers` backend.

    `tokenizer.json` is taken as it is. Where there is none, or where transformers makes other ids of the same
    vocabulary, as with a special token that only `tokenizer_config.json` names, the form is taken that transformers
    made of the files. Padding is the tokenizer's own, not that of `config.json`, whose `pad_token_id` of 1 is wrong for
    CLIP.

    Args:
        folder: The checkpoint.
        family: What the checkpoint's `config.json` says that it is.
        context_length: Of `text_config.max_position_embeddings`. Rows have so many ids, or as many as the tokenizer's
            `model_max_length` where that is less: what transformers cuts and pads to, and SigLIP pools the last id.
        vocabulary_size: Token embeddings that there are, from `text_config.vocab_size`; None where that is not known.
            Tokens beyond are not looked for.

    Raises:
        CheckpointError: a file is missing or damaged; the tokenizer needs the checkpoint's own code or Python's, pads
            on the left, has no pad token, or is its family's own and does not end its texts; or a text has other ids
            on a device than with transformers.
    """
    folder = Path(folder)
    file = _read_tokenizer_json(folder)
    original = _open(folder, family, has_tokenizer_json=file is not None)
    context_length = min(context_length, longest_text(folder, original.tokenizer))
    if context_length < 3:
        raise CheckpointError(f"{folder}: expected a context of at least 3 ids, got {context_length}")
    built = original.to_tokenizer_json()
    form = file or (None if built is None else _form(built, str(folder / TOKENIZER_FILE)))
    if form is None:
        raise CheckpointError(
            f"{folder}: expected a tokenizer that the `tokenizers` library runs, got {original.name}, which runs in "
            "Python alone",
            hint="copy tokenizer.json from the checkpoint that this one was tuned from, if that has one",
        )
    spec = _read_rules(folder, form, original, context_length)
    tokens = _added_tokens(original, vocabulary_size)
    difference = _find_difference(folder, spec, form, original, tokens)
    if difference is None:
        return CheckpointTokenizer(spec, form.tokenizer_json)
    if built is not None and file is not None:
        form = _form(built, original.name)
        if form.tokenizer.get_vocab() == file.tokenizer.get_vocab():
            spec = _read_rules(folder, form, original, context_length)
            if _find_difference(folder, spec, form, original, tokens) is None:
                return CheckpointTokenizer(spec, form.tokenizer_json)
    raise CheckpointError(
        f"{folder}: expected the ids of transformers' {original.name} on a device too, for the text "
        f"{difference.text[:60]!r} {difference.expected}, got {difference.got}",
        hint="a device has tokenizer.json alone. If transformers' ids are the ones that the text tower was trained "
        "with, save the tokenizer again: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)",
    )


def notes(folder: Path) -> tuple[str, ...]:
    """Which file was taken, where two say different things of texts: the one that transformers takes."""
    return (*_differing_vocabularies(folder), *_differing_tokens(folder))


def _differing_vocabularies(folder: Path) -> Iterator[str]:
    """Of a tokenizer that was saved again, and files of its vocabulary that were left behind."""
    if not (folder / TOKENIZER_FILE).is_file():
        return
    content = read_json(folder / TOKENIZER_FILE)
    taken = content["model"].get("vocab")
    if not isinstance(taken, Mapping):  # Unigram's has scores, and no second file in text
        return
    taken = {**taken, **{each["content"]: each["id"] for each in content.get("added_tokens", ())}}
    for name, ids in _vocabularies(folder):
        token = next((token for token, index in ids.items() if taken.get(token, index) != index), None)
        if token is not None:
            yield (
                f"texts: {TOKENIZER_FILE} was taken, as transformers does; {name} gives {token!r} the id {ids[token]}, "
                f"not {taken[token]}"
            )


def _vocabularies(folder: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name in ("vocab.json", "added_tokens.json"):
        if (folder / name).is_file():
            yield name, read_json(folder / name)
    if (folder / "vocab.txt").is_file():
        text = schema.read_text(
            folder / "vocab.txt", "text", error=CheckpointError, hint="download it again", encoding="utf-8"
        )
        yield "vocab.txt", {token: index for index, token in enumerate(text.split("\n"))}


def _differing_tokens(folder: Path) -> Iterator[str]:
    names = ("special_tokens_map.json", "tokenizer_config.json")
    if not all((folder / name).is_file() for name in names):
        return
    taken, other = (
        {
            key: each.get("content") if isinstance(each, Mapping) else each
            for key, each in read_json(folder / name).items()
        }
        for name in names
    )
    differing = ", ".join(key for key, token in taken.items() if key in other and other[key] != token)
    if differing:
        yield f"texts: {names[0]} was taken, as transformers does; {names[1]} differs in {differing}"


@dataclass(frozen=True)
class _Form:
    """What could be shipped: a `tokenizer.json`'s content, and the library's tokenizer of it."""

    tokenizer_json: bytes
    tokenizer: tokenizers.Tokenizer


@dataclass(frozen=True)
class _Original:
    """transformers' tokenizer, and what its class stands for.

    Attributes:
        tokenizer: Opened from the folder.
        name: Its class, as `tokenizer_config.json` names it, without `Fast`.
        config: Content of `tokenizer_config.json`.
        canonicalisation, lower_case: What the class does before its `tokenizers` backend would.
        is_familys_own: Whether the family's models were trained with it, on texts that end with its end-of-text token.
        canonicalises_itself: Whether `tokenizer` does what `canonicalisation` says, or is to be given its result.
    """

    tokenizer: PreTrainedTokenizerBase
    name: str
    config: Mapping[str, Any]
    canonicalisation: TextCanonicalisation = "none"
    lower_case: bool = False
    is_familys_own: bool = False
    canonicalises_itself: bool = True

    def to_tokenizer_json(self) -> bytes | None:
        """What transformers made of the folder's files; None where that is not what `name` stands for.

        Asked for ids, `tokenizer` bakes cutting and padding in: call it first.
        """
        backend: tokenizers.Tokenizer | None = getattr(self.tokenizer, "backend_tokenizer", None)
        return backend.to_str(pretty=True).encode() if backend is not None and self.canonicalises_itself else None


def open_tokenizer(
    folder: Path, name: str = "tokenizer", config: PretrainedConfig | None = None
) -> PreTrainedTokenizerBase:
    """transformers' own tokenizer of a folder, whatever its class; no code of the folder's is run.

    Args:
        folder: The checkpoint.
        name: What it is called in errors.
        config: Of the model, where the folder's own does not say whose tokenizer it is.

    Raises:
        CheckpointError: a file is missing or damaged, or of no class of transformers.
    """
    from transformers import AutoTokenizer

    with reading(folder, name):
        opened: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, config=config, local_files_only=True, trust_remote_code=False
        )
    return opened


def longest_text(folder: Path, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many ids the tokenizer cuts a text to; a very large number where its files do not say.

    Raises:
        CheckpointError: they say no whole number of at least 1; transformers takes it, and fails at the first text.
    """
    longest = tokenizer.model_max_length
    is_whole = isinstance(longest, int) or (isinstance(longest, float) and longest.is_integer())
    if isinstance(longest, bool) or not is_whole or longest < 1:
        raise CheckpointError(
            f"{folder / 'tokenizer_config.json'}: model_max_length: expected a whole number of at least 1, got "
            f"{longest!r}"[:300],
            hint="name the number of ids that the model was trained with, or leave the key out",
        )
    return int(longest)


def refuse_own_tokenizer(path: Path, config: Mapping[str, Any]) -> None:
    """Raises CheckpointError where a `tokenizer_config.json` asks for the checkpoint's own code."""
    hint = "if one of transformers' classes gives the same ids, name it as tokenizer_class instead"
    refuse_own_code(path, config, kind="tokenizers", hint=hint)


def _open(folder: Path, family: Family, *, has_tokenizer_json: bool) -> _Original:
    config = _read_json(folder / "tokenizer_config.json")
    name = _class_name(folder, config, family)
    lower_case = config.get("do_lower_case") is not False
    if name == "SiglipTokenizer":
        return _open_siglip(folder, config, lower_case=lower_case, has_tokenizer_json=has_tokenizer_json)
    if not has_tokenizer_json:
        _check_older_files(folder, name)
    # SigLIP 2 was trained on lower-cased text (Tschannen et al., 2025). Its checkpoints name Gemma's tokenizer, which
    # does not do that by itself; transformers' processor of SigLIP 2 takes this one.
    is_siglip2 = name == "Siglip2Tokenizer" or (family == "siglip" and name == "GemmaTokenizer" and lower_case)
    from transformers import AutoConfig, Siglip2Tokenizer

    if is_siglip2:
        # Its class pads on the left where the file says nothing, which no SigLIP was trained with.
        given: dict[str, Any] = {} if "padding_side" in config else {"padding_side": "right"}
        with reading(folder, name):
            tokenizer = Siglip2Tokenizer.from_pretrained(folder, local_files_only=True, **given)
    else:
        tokenizer = open_tokenizer(folder, name, AutoConfig.for_model(family))
    _check_sides(folder, tokenizer)
    own = is_siglip2 or (family == "clip" and name == "CLIPTokenizer")
    return _Original(tokenizer, name, config, lower_case=is_siglip2, is_familys_own=own)


def _open_siglip(folder: Path, config: Mapping[str, Any], *, lower_case: bool, has_tokenizer_json: bool) -> _Original:
    """SigLIP's own tokenizer, the one class whose `tokenizers` form is known beside sentencepiece's.

    Without `spiece.model`, or without the packages that read it, transformers cannot open it. The reference is then its
    plain class over the `tokenizer.json`, given canonical texts.
    """
    from transformers import SiglipTokenizer, TokenizersBackend
    from transformers.utils.import_utils import is_protobuf_available, is_sentencepiece_available

    model = folder / "spiece.model"
    if not has_tokenizer_json:
        found = "only spiece.model, which the device's tokenizer cannot read" if model.is_file() else "no tokenizer"
        raise CheckpointError(
            f"{folder}: expected tokenizer.json, got {found}",
            hint="copy tokenizer.json from the checkpoint that this one was tuned from, such as "
            "google/siglip-base-patch16-224: tuning leaves the vocabulary as it is",
        )
    whole = model.is_file() and is_sentencepiece_available() and is_protobuf_available()
    with reading(folder, "SiglipTokenizer"):
        opened = (SiglipTokenizer if whole else TokenizersBackend).from_pretrained(folder, local_files_only=True)
        tokenizer: PreTrainedTokenizerBase = opened
    for token in ("eos_token", "pad_token"):
        if getattr(tokenizer, token) is None:
            setattr(tokenizer, token, "</s>")  # SiglipTokenizer's defaults
    _check_sides(folder, tokenizer)
    return _Original(
        tokenizer,
        "SiglipTokenizer",
        config,
        canonicalisation="siglip",
        lower_case=lower_case,
        is_familys_own=True,
        canonicalises_itself=whole,
    )


def _class_name(folder: Path, config: Mapping[str, Any], family: Family) -> str:
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    where = folder / "tokenizer_config.json"
    refuse_own_tokenizer(where, config)
    name = config.get("tokenizer_class") or _FAMILY_CLASSES[family]
    if not isinstance(name, str) or tokenizer_class_from_name(name) is None:
        raise CheckpointError(
            f"{where}: tokenizer_class: expected one of transformers' tokenizers, such as {_FAMILY_CLASSES[family]} "
            f"for a {family} checkpoint, got {name!r}",
            hint="if its texts are prepared like one of these, name that one in the file",
        )
    return name.removesuffix("Fast")


def _check_sides(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    for key in ("padding_side", "truncation_side"):
        if getattr(tokenizer, key) != "right":
            raise CheckpointError(
                f"{folder / 'tokenizer_config.json'}: {key}: expected right, got {getattr(tokenizer, key)!r}",
                hint=f"if the text tower was trained on texts padded and cut on the right, say {key} right in the file",
            )


def _read_tokenizer_json(folder: Path) -> _Form | None:
    """The folder's own, None where there is none."""
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        return None
    return _form(read_file(path), str(path))


def _form(content: bytes, where: str) -> _Form:
    """A form that has been asked about texts in another process first: here it is given to transformers."""
    rehearse(content, where, AWKWARD_TEXTS)
    return _Form(content, parse(content, where))


def _check_older_files(folder: Path, name: str) -> None:
    """Refuses a folder without `tokenizer.json` where transformers would go on with an empty or guessed vocabulary."""
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    files = getattr(tokenizer_class_from_name(name), "vocab_files_names", {})
    older = [file for key, file in files.items() if key != "tokenizer_file"]
    missing = [file for file in older if not (folder / file).is_file()]
    if missing or not older:
        raise CheckpointError(
            f"{folder}: expected tokenizer.json"
            + (f", or {' with '.join(older)}, got no {' and no '.join(missing)}" if older else ", got no such file"),
            hint="copy the tokenizer's files from where the checkpoint came from",
        )


def _read_rules(folder: Path, form: _Form, original: _Original, context_length: int) -> TextPreprocessing:
    tokenizer = original.tokenizer
    pad = tokenizer.pad_token
    if pad is None:
        raise CheckpointError(
            f"{folder}: expected a tokenizer with a pad token, got {original.name} without one",
            hint="name the pad_token that the text tower was trained with in tokenizer_config.json",
        )
    pad_id = form.tokenizer.token_to_id(pad)
    if pad_id is None:
        raise CheckpointError(f"{folder}: expected the pad_token {pad!r} in the vocabulary, got none")
    encoding = form.tokenizer.encode("a")
    ends = bool(encoding.special_tokens_mask) and encoding.special_tokens_mask[-1] == 1
    if original.is_familys_own:
        _check_ends(folder, original, encoding.tokens)
    return TextPreprocessing(
        context_length=context_length,
        pad_id=pad_id,
        eot_id=encoding.ids[-1] if ends else None,
        canonicalisation=original.canonicalisation,
        lower_case=original.lower_case,
        tokenizer_file=TOKENIZER_FILE,
    )


def _check_ends(folder: Path, original: _Original, tokens: Sequence[str]) -> None:
    """Refuses a `tokenizer.json` whose beginnings and endings are not what the other files say: transformers goes on.

    Args:
        tokens: Of the text "a".
    """
    bos, eos, config = original.tokenizer.bos_token, original.tokenizer.eos_token, original.config
    if not tokens or tokens[-1] != eos or config.get("add_eos_token") is False:
        raise CheckpointError(
            f"{folder}: expected a tokenizer that ends every text with {eos!r}, got {list(tokens)} for 'a'",
            hint="the text tower reads its answer there: save the tokenizer again with the end token on",
        )
    adds_bos = config.get("add_bos_token")
    if bos is not None and adds_bos is not None and adds_bos != (tokens[0] == bos):
        raise CheckpointError(
            f"{folder}: tokenizer_config.json says add_bos_token {adds_bos}, and tokenizer.json does the opposite",
            hint="save the tokenizer again, so that its files agree",
        )


@dataclass(frozen=True)
class _Difference:
    """A text, and its ids up to the first that differs: transformers' and a device's."""

    text: str
    expected: list[int]
    got: list[int]


def _added_tokens(original: _Original, vocabulary_size: int | None) -> list[str]:
    """Special and other tokens that are found in a text as they stand, before it is taken apart, and have an embedding.

    One that transformers put behind the vocabulary has none.
    """
    vocabulary = original.tokenizer.get_vocab()
    least = len(vocabulary) if vocabulary_size is None else vocabulary_size
    found = {str(token): number for number, token in original.tokenizer.added_tokens_decoder.items()}
    found |= {token: vocabulary[token] for token in original.tokenizer.all_special_tokens if token in vocabulary}
    return [token for token, number in found.items() if number < least]


def _find_difference(
    folder: Path, spec: TextPreprocessing, form: _Form, original: _Original, tokens: Sequence[str]
) -> _Difference | None:
    """The first text whose ids on a device are not transformers' own.

    Args:
        tokens: What `_added_tokens` found.
    """
    device, length = IsolatedTokenizer.from_bytes(spec, form.tokenizer_json), spec.context_length
    texts = [*AWKWARD_TEXTS, "word " * length]
    if spec.canonicalisation == "none" and not spec.lower_case:
        # Elsewhere a special token's own text is canonicalised first on a device, as in the original training, where
        # transformers looks for the token first.
        texts += [text for token in tokens for text in (f"a {token} b", f"x{token}y")]
    given = texts if original.canonicalises_itself else [device.canonical(text) for text in texts]
    here = device.encode(texts).tolist()
    with reading(folder, original.name):
        rows = original.tokenizer(given, padding="max_length", truncation=True, max_length=length)["input_ids"]
    for text, expected, got in zip(texts, map(list, rows), here, strict=True):
        if expected != got:
            place = next((place for place in range(length) if expected[place] != got[place]), length - 1)
            return _Difference(text, expected[: place + 1], got[: place + 1])
    return None


@contextmanager
def reading(folder: Path, name: str) -> Iterator[None]:
    """Around whatever transformers' tokenizer of a folder is asked, which may raise anything.

    Args:
        folder: The checkpoint.
        name: What the tokenizer is called in errors.

    Raises:
        CheckpointError: it raised.
    """
    try:
        with quiet():
            yield
    except (KeyboardInterrupt, SystemExit, EdgeVLMError):
        raise
    except BaseException as error:  # of many kinds, all about the files; the library's panics are no Exception
        for path in sorted(folder.glob("*.json")):
            _read_json(path)  # names the file that is damaged, where one is
        raise CheckpointError(
            f"{folder}: expected the files of a {name} that transformers reads, got: "
            + " ".join(f"{type(error).__name__}: {error}".split())[:300],
            hint="copy the tokenizer's files from where the checkpoint came from; a .model file needs the package "
            "sentencepiece, and may be left out where there is a tokenizer.json",
        ) from error


def _read_json(path: Path) -> Mapping[str, Any]:
    """The object in the file, empty where there is no file."""
    return read_json(path) if path.exists() else {}
