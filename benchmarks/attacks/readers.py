"""Every reader of a file that a user or a bundle can feed, each with a small document that it reads as it should."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import signal
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import save

from edgevlm import schema
from edgevlm.bench import results
from edgevlm.benchmarks.attacks.documents import Form
from edgevlm.benchmarks.attacks.outcomes import tell
from edgevlm.bundle import golden as golden_format
from edgevlm.bundle import golden_dialogues
from edgevlm.bundle import recipe as recipes
from edgevlm.bundle.bundle import Bundle, seal
from edgevlm.bundle.golden import Golden, GoldenPicture, GoldenText
from edgevlm.bundle.golden_dialogues import GoldenDialogue, GoldenDialogues, GoldenStep
from edgevlm.errors import EdgeVLMError
from edgevlm.inference.embeddings import score
from edgevlm.inputs import labels, pictures, texts
from edgevlm.parity import golden, samples
from edgevlm.testing import FakeModel


@dataclass(frozen=True)
class Reader:
    """A reader of one file.

    Attributes:
        name: What it reads.
        file: The file's name.
        form: What its content is.
        prepare: Fills an empty folder with the file, and with what has to lie beside it.
        read: Reads it; what it gives does not matter here.
    """

    name: str
    file: str
    form: Form
    prepare: Callable[[Path], object]
    read: Callable[[Path], object]


class TookTooLong(BaseException):
    """A reader was stopped; no reader catches this."""


def trial(reader: Reader, path: Path, *, seconds: float = 60) -> tuple[str, str]:
    """What became of a file, as `edgevlm.benchmarks.attacks.outcomes` calls it, and what was said of it."""
    try:
        with _at_most(seconds):
            reader.read(path)
    except EdgeVLMError as error:
        if not error.message or not isinstance(error.hint, str | None):
            return "traceback", "refused without a word"
        return "refused", error.message[:200]
    except TookTooLong:
        return "hung", f"took longer than {seconds:g} s"
    except BaseException as error:
        return "traceback", tell(error)
    return "read", ""


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TookTooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# Bundles


def write_bundle(folder: Path) -> Bundle:
    """A bundle whose artefact nothing could run: answers are made up, the rest of its fixtures is true to them."""
    folder.mkdir(exist_ok=True)
    with FakeModel(embedding_dim=4) as model:
        manifest = model.bundle.manifest
        (folder / "fake").write_bytes(b"no network")
        (folder / "tokenizer.json").write_bytes(_byte_tokenizer())
        pixels = golden.write_pictures(folder, manifest.image)
        seen = {name: _embedding(number) for number, name in enumerate(pixels)}
        said = {text: _embedding(number) for number, text in enumerate(("a cat", "Ünï"))}
        ids = model.tokenizer.encode(list(said)) if model.tokenizer else np.zeros((0, 0))
        cosines = np.array([[np.dot(one, other) for other in said.values()] for one in seen.values()], np.float32)
        golden.write_samples(folder, {"encode_image": {"embedding": np.array([*seen.values()], np.float32)}})
        stored = Golden(
            golden_format.SCHEMA_VERSION,
            tuple(
                GoldenPicture(f"golden/{name}", f"golden/{Path(name).stem}.rgb", "", _answers("encode_image", numbers))
                for name, numbers in seen.items()
            ),
            tuple(
                GoldenText(text, tuple(row.tolist()), _answers("encode_text", numbers))
                for (text, numbers), row in zip(said.items(), ids, strict=True)
            ),
            tuple(map(tuple, score(cosines, manifest.embedding.logit_scale, manifest.embedding.logit_bias).tolist())),
            samples.sample_texts(),
        )
        shipped = {
            name: {"embedding": np.array([*rows.values()], np.float32)}
            for name, rows in (("encode_image", seen), ("encode_text", said))
        }
        golden.write(folder, golden.with_shipped(stored, model.bundle, shipped))
    return seal(folder, manifest)


def _embedding(number: int) -> tuple[float, ...]:
    return tuple(float(place == number % 4) for place in range(4))


def _answers(component: str, numbers: tuple[float, ...]) -> dict[str, dict[str, tuple[float, ...]]]:
    return {component: {"embedding": numbers}}


def _byte_tokenizer() -> bytes:
    import tokenizers

    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)}
    return tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [], byte_fallback=True)).to_str().encode()


def _read_golden(path: Path) -> object:
    """All of the fixtures, as `edgevlm verify` takes them; the manifest that lists them is as it was."""
    folder = path.parent.parent
    bundle = Bundle(folder, _manifest(folder / "manifest.json"))
    found, sheet, answers = golden.read(folder)
    return golden.check(bundle, found, texts.Tokenizer.of_bundle(bundle)), sheet, answers


@cache
def _manifest(path: Path) -> Any:
    from edgevlm.bundle.manifest import Manifest
    from edgevlm.errors import BundleError

    return schema.read(Manifest, json.loads(path.read_text()), where="", error=BundleError)


def _write_dialogues(folder: Path) -> None:
    step = GoldenStep((5, 3), (2.0, 1.5), 2.6)
    asked = [("a.png", "What?"), ("b.png", "What?"), ("a.png", "Where?"), (None, "Who?"), (None, "When?")]
    dialogues = tuple(
        GoldenDialogue(picture, question, f"USER: {question}", (1, 2, 3), (5,), "a cat", (step,))
        for picture, question in asked
    )
    pixels = {"a.png": "0" * 64, "b.png": "1" * 64}
    golden_dialogues.write(folder, GoldenDialogues(golden_dialogues.SCHEMA_VERSION, dialogues, pixels))


def _read_dialogues(path: Path) -> object:
    return golden_dialogues.read(path.parent.parent, newer=False)


# Files of a user's own


def _write(content: bytes | str, name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def _json(value: object, name: str) -> Callable[[Path], object]:
    return _write(json.dumps(value), name)


_RECIPE = {
    **{"name": "mine", "summary": "s", "precision": "fp16"},
    "weights": {"dtype": "int8", "group_size": 32},
    "activations": {"ranges": "float"},
    "parity": {"min_cosine": 0.9},
    "calibration": {"samples": 16, "seed": 1},
}
_DISTILL = {
    **{"name": "mine", "summary": "s", "losses": [{"loss": "feature_mse", "weight": 1.0}], "templates": ["a {}"]},
    "schedule": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3},
    "augmentation": {"crop_scale": [0.5, 1.0]},
}
_DEVICES = {
    "mine": {"like": "raspberry-pi-5", "memory_mb": 4096, "address": "ssh://pi@mine.local:22"},
    "other": {
        **{"title": "t", "reach": "none", "chip": "c", "targets": ["tflite"], "memory_mb": 100},
        "cpu": [{"core": "A", "cores": 4, "clock_mhz": 1500}],
    },
}
_DESCRIPTIONS = {
    "schema_version": 1,
    "authors": {"f": {"source": "file", "name": "f"}},
    "labels": {"a cat": {"descriptions": ["it purrs"], "attributes": {"legs": "four"}, "authors": ["f"]}},
}
_PLAIN_DESCRIPTIONS = {"a cat": "it purrs", "a dog": ["it barks"], "a cow": {"descriptions": ["it moos"]}}
_COCO = {
    "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "gone.png"}],
    "annotations": [{"image_id": 1, "caption": "a cat"}, {"image_id": 2, "caption": "a dog"}],
}


def _write_results(folder: Path) -> None:
    what = results.Artefact("a-tflite-int8", "a", "tflite", "int8", "0" * 64, 1000, 0.99)
    estimated = results.Estimated(
        "pi", what, "encode_image", 1, 1.0, 2.0, 3.0, "instructions", ("a page",), 0.2, "edgevlm bench a"
    )
    for each in (results.Failed("pi", what, "not reached"), estimated):
        results.append(folder / "results.jsonl", each)


def _write_coco(folder: Path) -> None:
    _json(_COCO, "captions.json")(folder)
    Image.new("RGB", (4, 4)).save(folder / "a.png")


def _open_data(path: Path) -> object:
    from edgevlm.data.sources import open_data

    data = open_data(path)
    return [data.picture(index) for index in range(len(data)) if data.example(index).key.endswith("a.png")]


_VQA = {
    "data_subtype": "val2014",
    "questions": [{"question_id": 1, "image_id": 42, "question": "Is this a cat?"}],
}
_PEOPLE = {"annotations": [{"question_id": 1, "answer_type": "yes/no", "answers": [{"answer": "yes"}] * 10}]}
_POPE = '{"question_id": 1, "image": "a.png", "text": "?", "label": "yes"}'
_CHOICE = "index\tquestion\thint\tA\tB\tanswer\tcategory\timage\n5\tWhich?\t\tred\tgreen\tA\tcolour\t"


def _write_questions(name: str, content: str) -> Callable[[Path], object]:
    def prepare(folder: Path) -> None:
        for picture in ("a.png", "42.png"):
            Image.new("RGB", (4, 4)).save(folder / picture)
        (folder / "a_annotations.json").write_text(json.dumps(_PEOPLE))
        (folder / "a_questions.json").write_text(json.dumps(_VQA))
        (folder / name).write_text(content)

    return prepare


def _table() -> str:
    picture = io.BytesIO()
    Image.new("RGB", (4, 4)).save(picture, "PNG")
    return f"{_CHOICE}{base64.b64encode(picture.getvalue()).decode()}\n6\tWhere?\t\there\tthere\tB\t\t5\n"


def _read_questions(path: Path) -> object:
    from edgevlm.data.questions import is_questions, open_questions

    file = path.with_name("a_questions.json") if "annotations" in path.name else path
    if not is_questions(file):
        return None
    data = open_questions(file)
    return [data.picture(index) for index in range(len(data))]


def _read_kept_answers(path: Path) -> object:
    from edgevlm.evaluation.asking import kept_answers

    return kept_answers(path, {"edgevlm_answers": 1, "model": "m"})


def _write_shard(folder: Path) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (4, 4)).save(picture, "JPEG")
    with tarfile.open(folder / "a.tar", "w") as tar:
        for name, content in {
            "1.jpg": picture.getvalue(),
            "1.txt": b"a cat",
            "1.json": b'{"captions": ["a dog"], "label": 3}',
        }.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))


def _write_shard_words(folder: Path) -> None:
    (folder / "words.json").write_text('{"caption": "a cat", "captions": ["a dog"], "label": "x"}')


def _read_shard_words(path: Path) -> object:
    from edgevlm.data.shards import Shards

    picture = io.BytesIO()
    Image.new("RGB", (4, 4)).save(picture, "JPEG")
    whole = path.with_name("a.tar")
    with tarfile.open(whole, "w") as tar:
        for name, content in {"1.jpg": picture.getvalue(), "1.json": path.read_bytes()}.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return len(Shards("a", [whole]))


def _read_calibration_texts(path: Path) -> object:
    from edgevlm.compression.calibration import read_texts

    return read_texts(path)


def _write_index(folder: Path) -> None:
    tensors: dict[str, np.ndarray[Any, Any]] = {
        "codes": np.full((2, 4), 127, np.int8),
        "names": np.frombuffer(b"a.png\0b.png\0", np.uint8),
        "stamps": np.zeros((2, 2), np.int64),
    }
    about = {"edgevlm_index": _index().VERSION, "embedding_space_id": "s", "folder": ".", "bundle": "b.edgevlm"}
    (folder / "index.safetensors").write_bytes(save(tensors, about))


def _index() -> Any:
    from edgevlm.inference import index

    return index


def _read_index(path: Path) -> object:
    index = _index().load(path)
    return index.form, [str(index.folder / name) for name in index.names]


def _picture(form: str) -> Callable[[Path], object]:
    def prepare(folder: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"a.{form}", exif=Image.Exif().tobytes())

    return prepare


def _read_text(read: Callable[[str], object]) -> Callable[[Path], object]:
    """A reader of what somebody writes on the command line, which has no NUL and is of any bytes."""
    return lambda path: read(os.fsdecode(path.read_bytes().replace(b"\0", b"")))


def _open_data_named(spec: str) -> object:
    from edgevlm.data.sources import open_data

    return open_data(spec)


def _parse_address(text: str) -> object:
    from edgevlm.devices import address

    return address.parse(text)


def _read_devices(path: Path) -> object:
    from edgevlm.devices import profile

    return profile.read(path)


def _read_distill_recipe(path: Path) -> object:
    from edgevlm.distillation import recipe

    return recipe.resolve(path)


def _read_descriptions(path: Path) -> object:
    from edgevlm.enrichment import from_file

    return from_file.read(path)


# Checkpoints

_CONFIG = {
    "model_type": "clip",
    "projection_dim": 8,
    "text_config": {
        **{"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2},
        **{"vocab_size": 110, "max_position_embeddings": 8, "bos_token_id": 108, "eos_token_id": 109},
    },
    "vision_config": {
        **{"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2},
        **{"image_size": 8, "patch_size": 4},
    },
}


def write_checkpoint(folder: Path) -> None:
    """A CLIP of a few hundred numbers."""
    from edgevlm.benchmarks.checkpoints import write_clip

    write_clip(folder, {key: value for key, value in _CONFIG.items() if key != "model_type"})
    (folder / "README.md").write_text("---\nlicense: mit\ntags: [a, b]\n---\n# A model\n")


@cache
def _made_checkpoint() -> Path:
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="attacks-"))
    write_checkpoint(folder)
    return folder


def _copy_checkpoint(folder: Path) -> None:
    shutil.copytree(_made_checkpoint(), folder, dirs_exist_ok=True)


def _read_config(path: Path) -> object:
    from edgevlm.models.checkpoints.files import read_json
    from edgevlm.models.network import build_network

    return build_network(read_json(path), where=str(path))


def _read_picture_rules(path: Path) -> object:
    from edgevlm.models.checkpoints import picture_rules

    return picture_rules.from_checkpoint(path.parent, image_size=(8, 8))


def _read_tokenizer(path: Path) -> object:
    return texts.parse(path.read_bytes(), str(path))


def _read_text_rules(path: Path) -> object:
    from edgevlm.models.checkpoints import text_rules

    return text_rules.from_checkpoint(path.parent, family="clip", context_length=8, vocabulary_size=110)


def _write_vocabulary(folder: Path) -> None:
    _copy_checkpoint(folder)
    (folder / "vocab.json").write_text(json.dumps({"a": 1, "<|endoftext|>": 109}))


def _read_vocabulary(path: Path) -> object:
    from edgevlm.models.checkpoints import text_rules

    return text_rules.notes(path.parent)


def _read_template(path: Path) -> object:
    from edgevlm.models.checkpoints import chat_rules

    return chat_rules.find_template(path.parent), chat_rules.notes(path.parent)


def _read_weights(path: Path) -> object:
    from edgevlm.models.checkpoints import weights
    from edgevlm.models.network import build_network

    network = build_network(_CONFIG, where="")
    weights.fill_network(network, weights.find_files(path.parent))
    return network


def _write_shards(folder: Path) -> None:
    _copy_checkpoint(folder)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": {"logit_scale": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _read_licence(path: Path) -> object:
    from edgevlm.models.checkpoints.files import read_licence

    return read_licence(path)


def _copy_student(folder: Path) -> None:
    from edgevlm.models import builtin

    shutil.copytree(builtin.FOLDERS["edgevlm-student"], folder, dirs_exist_ok=True)


def _read_student(path: Path) -> object:
    from edgevlm.models.students import folder

    return folder.read(path.parent)


# What a run that was stopped left


def _write_tune(folder: Path) -> None:
    recipe = schema.write(recipes.BUILTIN["int8"])
    state = {"schema_version": 1, "identity": {"model": "a"}, "costs": {}, "chosen": {"int8": recipe}, "trials": []}
    (folder / "tune.json").write_text(json.dumps(state))


def _read_tune(path: Path) -> object:
    from edgevlm.tuning.notes import Notes

    return Notes.open(path.parent, {"model": "a"})


def _write_run(folder: Path) -> None:
    (folder / "run.json").write_text('{"recipe": {"name": "mine", "epochs": 1}, "seed": 0}')
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25}\n')


def _read_run(path: Path) -> object:
    from edgevlm.distillation.run_folder import RunFolder

    run = RunFolder(path.parent)
    run.claim({"recipe": {"name": "mine", "epochs": 1}, "seed": 0}, force=False)
    run.rewind(1)
    return run.lines()


def _trained() -> Any:
    import torch
    from torch import nn

    network = nn.Linear(2, 2)
    optimiser = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    return network, optimiser


def _write_training(folder: Path) -> None:
    from edgevlm.distillation import checkpoints

    checkpoints.write(folder, 1, *_trained())


def _read_training(path: Path) -> object:
    from edgevlm.distillation import checkpoints

    return checkpoints.resume(path.parent, *_trained())


def _write_teacher_cache(folder: Path) -> None:
    from edgevlm.distillation.teacher_cache import Store

    Store(folder, 2).fill(lambda rows: (np.ones((len(rows), 1, 4), np.float32), {1: "cut short"}), lambda done: None)


def _read_teacher_cache(path: Path) -> object:
    from edgevlm.distillation.teacher_cache import Store

    store = Store(path.parent, 2)
    store.fill(lambda rows: (np.ones((len(rows), 1, 4), np.float32), {}), lambda done: None)
    return store.open().take([0, 1])


# What comes from another machine

_ANSWER = {"choices": [{"message": {"role": "assistant", "content": "It purrs."}, "index": 0}], "usage": {"total": 3}}


@cache
def _server() -> ThreadingHTTPServer:
    """Answers every question with `said`, in a thread of this process."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            return None

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            content: bytes = self.server.said  # type: ignore[attr-defined]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with suppress(ConnectionError):  # of an answer that is too long no more is read than needed
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def _ask_endpoint(path: Path) -> object:
    from edgevlm.enrichment.endpoint import Endpoint

    server = _server()
    server.said = path.read_bytes()  # type: ignore[attr-defined]
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    endpoint = Endpoint(url, model="m", key=None, key_env="NONE", timeout_s=5, sleep=lambda seconds: None)
    answer = endpoint.ask("?", temperature=0, seed=0, most_tokens=5, tell=lambda line: None)
    return answer.encode()


def _read_device_answer(path: Path) -> object:
    from edgevlm.devices.answers import parsed
    from edgevlm.onboard.failures import from_json

    said = parsed(path.read_bytes())
    if said is not None and "error" in said:
        raise from_json(said["error"])
    return said


def _readers() -> Iterator[Reader]:
    yield Reader("manifest", "manifest.json", "json", write_bundle, lambda path: Bundle.open(path.parent).is_newer)
    yield Reader("golden", "golden/golden.json", "json", write_bundle, _read_golden)
    yield Reader("golden's reference", golden_format.REFERENCE, "tensors", write_bundle, _read_golden)
    yield Reader("golden's picture", "golden/grey.png", "bytes", write_bundle, _read_golden)
    yield Reader("golden's sheet", golden_format.SAMPLE_SHEET, "bytes", write_bundle, _read_golden)
    yield Reader("golden dialogues", golden_format.GOLDEN, "json", _write_dialogues, _read_dialogues)
    yield Reader("recipe", "a.yaml", "yaml", _json(_RECIPE, "a.yaml"), recipes.resolve)
    yield Reader("distillation recipe", "a.yaml", "yaml", _json(_DISTILL, "a.yaml"), _read_distill_recipe)
    yield Reader("devices", "a.yaml", "yaml", _json(_DEVICES, "a.yaml"), _read_devices)
    yield Reader("descriptions", "a.json", "json", _json(_DESCRIPTIONS, "a.json"), _read_descriptions)
    yield Reader("plain descriptions", "a.json", "json", _json(_PLAIN_DESCRIPTIONS, "a.json"), _read_descriptions)
    table = 'label,description\na cat,"it purrs, and so on"\na dog,it barks\n'
    yield Reader("table of descriptions", "a.csv", "text", _write(table, "a.csv"), _read_descriptions)
    yield Reader("results", "results.jsonl", "lines", _write_results, results.read)
    yield Reader("captions", "captions.json", "json", _write_coco, _open_data)
    for name, content in {
        "questions": ("a_questions.json", json.dumps(_VQA)),
        "people's answers": ("a_annotations.json", json.dumps(_PEOPLE)),
        "yes or no questions": ("a.json", _POPE),
        "questions by id": ("a.json", '{"7": {"question": "?", "imageId": "42", "answer": "no"}}'),
        "questions of documents": (
            "a.json",
            '{"data": [{"questionId": 1, "image": "a.png", "question": "?", "answers": ["x"]}]}',
        ),
    }.items():
        yield Reader(name, content[0], "json", _write_questions(*content), _read_questions)
    yield Reader("table of questions", "a.tsv", "text", _write_questions("a.tsv", _table()), _read_questions)
    kept = '{"edgevlm_answers": 1, "model": "m"}\n{"key": "1", "answer": "a cat"}\n{"key": "2", "error": "gone"}\n'
    yield Reader("kept answers", "a.jsonl", "lines", _write(kept, "a.jsonl"), _read_kept_answers)
    yield Reader("shard", "a.tar", "bytes", _write_shard, _open_data)
    yield Reader("words in a shard", "words.json", "json", _write_shard_words, _read_shard_words)
    yield Reader("labels", "a.txt", "text", _write("# pets\na cat\r\na dog\n", "a.txt"), labels.read)
    yield Reader("calibration texts", "a.txt", "text", _write("a cat\na dog\n", "a.txt"), _read_calibration_texts)
    yield Reader("index", "index.safetensors", "tensors", _write_index, _read_index)
    for form in ("png", "jpg", "webp", "tiff", "gif"):
        yield Reader(f"{form} picture", f"a.{form}", "bytes", _picture(form), pictures.decode)
    yield Reader("labels as written", "a", "text", _write("a cat, a dog", "a"), _read_text(labels.read_or_split))
    yield Reader("recipe's name", "a", "text", _write("int8", "a"), _read_text(recipes.resolve))
    yield Reader("data's name", "a", "text", _write("scenes:train:20:3:held-out", "a"), _read_text(_open_data_named))
    yield Reader("shards' names", "a", "text", _write("a-{000..004}-{a,b}.tar", "a"), _read_text(_open_data_named))
    yield Reader("device's address", "a", "text", _write("ssh://me@host:22", "a"), _read_text(_parse_address))
    yield Reader("bundle's name", "a", "text", _write("dist/a.edgevlm", "a"), _read_text(Bundle.open))
    yield Reader("config", "config.json", "json", _copy_checkpoint, _read_config)
    yield Reader("picture rules", "preprocessor_config.json", "json", _copy_checkpoint, _read_picture_rules)
    yield Reader("tokenizer", "tokenizer.json", "json", _copy_checkpoint, _read_tokenizer)
    yield Reader("text rules", "tokenizer_config.json", "json", _copy_checkpoint, _read_text_rules)
    yield Reader("vocabulary", "vocab.json", "json", _write_vocabulary, _read_vocabulary)
    template = [{"name": "default", "template": "{{ messages }}"}, {"name": "tools", "template": ""}]
    processor = _json({"chat_template": template}, "processor_config.json")
    yield Reader("chat template", "processor_config.json", "json", processor, _read_template)
    yield Reader("weights", "model.safetensors", "tensors", _copy_checkpoint, _read_weights)
    yield Reader("list of weights", "model.safetensors.index.json", "json", _write_shards, _read_weights)
    yield Reader("model card", "README.md", "text", _copy_checkpoint, _read_licence)
    yield Reader("student", "config.json", "json", _copy_student, _read_student)
    yield Reader("search", "tune.json", "json", _write_tune, _read_tune)
    yield Reader("run", "run.json", "json", _write_run, _read_run)
    yield Reader("metrics", "metrics.jsonl", "lines", _write_run, _read_run)
    yield Reader("training", "step-00000001.safetensors", "tensors", _write_training, _read_training)
    yield Reader("teacher's note", "00000.json", "json", _write_teacher_cache, _read_teacher_cache)
    yield Reader("teacher's answers", "00000.npy", "bytes", _write_teacher_cache, _read_teacher_cache)
    yield Reader("endpoint's answer", "a", "json", _json(_ANSWER, "a"), _ask_endpoint)
    error = {"error": {"kind": "DeviceError", "message": "m", "hint": None}}
    yield Reader("device's answer", "a", "json", _json(error, "a"), _read_device_answer)


READERS: dict[str, Reader] = {reader.name: reader for reader in _readers()}
