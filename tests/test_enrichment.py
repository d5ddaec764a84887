"""Descriptions of labels: files, a real causal language model run here, a real HTTP server that misbehaves."""

from __future__ import annotations

import contextlib
import email.utils
import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from checkpoints import CAPTIONS, write_clip_checkpoint
from click.testing import CliRunner, Result
from PIL import Image

import edgevlm
from edgevlm import schema
from edgevlm.bundle.bundle import Bundle
from edgevlm.cli import main
from edgevlm.enrichment import from_file, questions
from edgevlm.enrichment.descriptions import Author, Descriptions, Entry, label_texts
from edgevlm.enrichment.endpoint import Endpoint
from edgevlm.enrichment.enrichment import Question, enrich
from edgevlm.enrichment.language_model import LocalModel
from edgevlm.errors import CheckpointError, EnrichmentError, LabelError, OutputError
from edgevlm.process.locking import locked

LABELS = ("hoopoe", "dog [brown]", "ein Häuschen")
SENTENCES = {
    "hoopoe": "A bird with a crown of feathers.",
    "dog [brown]": "A brown animal with four legs.",
    "ein Häuschen": "A small house with a red roof.",
}


def run(*arguments: str | Path, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(LABELS) + "\n", encoding="utf-8")
    return path


# The file and the texts made of it


def test_a_file_of_descriptions_comes_back_and_is_readable(tmp_path: Path) -> None:
    author = Author("endpoint", "llama", "http://localhost/v1", prompt=questions.DESCRIBE, temperature=0.0, seed=0)
    entry = Entry(("It has wings.", "It sings."), {"colour": "orange"}, ("llama",), ("attributes: none",))
    written = Descriptions({"llama": author}, {"hoopoe": entry, "Häuschen": Entry(("A house.",))})
    written.write(tmp_path / "deep" / "d.json")
    text = (tmp_path / "deep" / "d.json").read_text(encoding="utf-8")
    assert Descriptions.read(tmp_path / "deep" / "d.json") == written
    assert '"Häuschen": {\n      "descriptions": [\n        "A house."\n      ]\n    }' in text
    assert os.listdir(tmp_path / "deep") == ["d.json"]
    assert schema.write(written)["labels"]["hoopoe"]["descriptions"] == ["It has wings.", "It sings."]


BAD_FILES = {
    "not JSON": ("{", "not readable as JSON"),
    "not an object": ("[]", "schema_version 1, got None"),
    "another version": ('{"schema_version": 2, "labels": {}}', "schema_version 1, got 2"),
    "unknown key": ('{"schema_version": 1, "labels": {}, "label": {}}', "d.json: unknown key 'label'"),
    "no labels": ('{"schema_version": 1}', "'labels' is missing"),
    "a text for a list": (
        '{"schema_version": 1, "labels": {"dog": {"descriptions": "x"}}}',
        "d.json.labels.dog.descriptions: expected a list",
    ),
    "an empty sentence": (
        '{"schema_version": 1, "labels": {"dog": {"descriptions": ["x", " "]}}}',
        "d.json.labels.dog.descriptions[1]: expected a sentence",
    ),
    "an author nobody knows": (
        '{"schema_version": 1, "labels": {"dog": {"descriptions": ["x"], "authors": ["me"]}}}',
        "d.json.labels.dog.authors[0]",
    ),
    "a label twice": ('{"schema_version": 1, "labels": {"dog": {}, "dog": {}}}', "'dog' occurs twice"),
    "an empty label": ('{"schema_version": 1, "labels": {" ": {}}}', "d.json.labels: expected labels"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_damaged_file_is_refused_with_the_place(case: str, tmp_path: Path) -> None:
    content, message = BAD_FILES[case]
    (tmp_path / "d.json").write_text(content)
    with pytest.raises(EnrichmentError) as caught:
        Descriptions.read(tmp_path / "d.json")
    assert message in caught.value.message


def test_one_run_at_a_time_adds_to_a_file(tmp_path: Path) -> None:
    (tmp_path / "told.json").write_text(json.dumps({"hoopoe": "A bird."}))
    out = tmp_path / "d.json"
    with (
        locked(tmp_path / ".d.json.lock", "busy"),
        pytest.raises(OutputError, match="another run is adding to this file"),
    ):
        enrich(["hoopoe"], tmp_path / "told.json", out)
    assert enrich(["hoopoe"], tmp_path / "told.json", out).missing == ()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.json", "told.json"]


def test_a_file_system_without_locks_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(OutputError, match="lock: cannot be locked: No locks available"),
        locked(tmp_path / "lock", "busy"),
    ):
        pass


def test_a_file_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        Descriptions({}, {}).write(tmp_path / "file" / "d.json")


def test_texts_are_every_template_with_every_description() -> None:
    known = Descriptions({}, {"cat": Entry(("It purrs.", "It is small.")), "dog": Entry(("It barks.",))})
    assert label_texts(("dog", "cat"), ("a photo of a {}", "{}"), known) == (
        ("a photo of a dog . It barks.", "dog . It barks."),
        (
            "a photo of a cat . It purrs.",
            "a photo of a cat . It is small.",
            "cat . It purrs.",
            "cat . It is small.",
        ),
    )
    assert label_texts(("dog", "{x}"), ("a {}",), None) == (("a dog",), ("a {x}",))


def test_labels_without_a_description_are_listed() -> None:
    known = Descriptions({}, {"cat": Entry(("It purrs.",)), "emu": Entry()})
    with pytest.raises(LabelError, match=r"'emu', 'dog', 2 of 3 labels") as caught:
        label_texts(("cat", "emu", "dog"), ("{}",), known)
    assert "edgevlm enrich" in (caught.value.hint or "")
    with pytest.raises(LabelError, match=r"exactly one \{\}"):
        label_texts(("cat",), ("a photo",), known)


# Descriptions from a file

GOOD_FILES = {
    "texts.json": '{"hoopoe": "It  has\\nwings.", "dog [brown]": "It barks.", "ein Häuschen": "Klein."}',
    "lists.json": '{"hoopoe": ["It has wings.", "It has wings."], "dog [brown]": ["It barks."], '
    '"ein Häuschen": ["Klein."]}',
    "objects.json": '{"hoopoe": {"descriptions": ["It has wings."]}, "dog [brown]": {"descriptions": "It barks."}, '
    '"ein Häuschen": {"descriptions": ["Klein."]}}',
    "table.csv": '\ufefflabel,description\nhoopoe,"It has\n wings."\n\ndog [brown],It barks.\nein Häuschen,Klein.\n',
    "table.tsv": "Description\tLabel\nIt has wings.\thoopoe\nIt barks.\tdog [brown]\nKlein.\tein Häuschen\n",
}


@pytest.mark.parametrize("name", GOOD_FILES)
def test_json_csv_and_tsv_become_the_same_descriptions(name: str, labels: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_text(GOOD_FILES[name], encoding="utf-8")
    result = run("enrich", labels, "--with", tmp_path / name, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["schema_version"], told["asked"], told["missing"]) == (1, 0, [])
    found = Descriptions.read(tmp_path / "labels.descriptions.json")
    sentences = [found.labels[label].descriptions for label in LABELS]
    assert sentences == [("It has wings.",), ("It barks.",), ("Klein.",)]
    assert found.authors == {name: Author("file", name)}


def test_attributes_and_authors_of_a_file_are_kept(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"dog": {"descriptions": ["x"], "attributes": {"colour": " light  brown"}}}')
    first = enrich(["dog"], tmp_path / "a.json", tmp_path / "d.json").descriptions
    assert first.labels["dog"].attributes == {"colour": "light brown"}
    again = enrich(["dog"], tmp_path / "d.json", tmp_path / "e.json").descriptions
    assert again == first


BAD_TABLES = {
    "a.csv": ("label,description\ndog,It barks, loudly.\n", "line 2"),
    "b.csv": ("label,description\ndog,\n", "line 2"),
    "c.csv": ("name,text\ndog,x\n", "expected the first line label,description, got name,text"),
    "d.csv": ("", "an empty file"),
    "e.csv": ('label,description\ndog,"open\n', "not a readable table"),
    "f.csv": ("label,description\n", "expected labels with descriptions, got none"),
    "g.json": ("[1]", "expected an object with a key for each label, got list"),
    "h.json": ('{"dog": 3}', "h.json.dog: got 3"),
    "i.json": ('{"dog": {"text": "x"}}', "i.json.dog: unknown key 'text'"),
    "j.json": ('{"dog": {"descriptions": ["x"], "attributes": {"a": 1}}}', "j.json.dog.attributes.a"),
    "k.json": ('{"dog": "x", " dog": "y"}', "' dog' again"),
    "l.json": ('{"dog": []}', "l.json.dog: got []"),
    "m.json": ("{}", "got none"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_files_in_another_form_are_refused_with_the_place(name: str, tmp_path: Path) -> None:
    content, message = BAD_TABLES[name]
    (tmp_path / name).write_text(content)
    with pytest.raises(EnrichmentError) as caught:
        from_file.read(tmp_path / name)
    assert message in caught.value.message


def test_labels_that_a_file_lacks_are_an_error_unless_allowed(labels: Path, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"hoopoe": "It has wings.", "Dog": "It barks."}')
    refused = run("enrich", labels, "--with", tmp_path / "a.json")
    assert refused.exit_code == 2
    assert "'dog [brown]', 'ein Häuschen', 2 of 3 labels; it describes 'Dog'" in refused.stderr
    assert not (tmp_path / "labels.descriptions.json").exists()
    allowed = run("enrich", labels, "--with", tmp_path / "a.json", "--allow-missing")
    assert allowed.exit_code == 0, allowed.output
    assert "1 of 3 labels described" in allowed.stdout
    assert "without a description: dog [brown], ein Häuschen" in allowed.stderr


def test_what_was_reviewed_stays_until_it_is_forced(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"cat": "It purrs.", "dog": "It barks."}')
    Descriptions({}, {"cat": Entry(("Reviewed.",)), "emu": Entry(("Tall.",))}).write(tmp_path / "d.json")
    done = enrich(["cat", "dog"], tmp_path / "a.json", tmp_path / "d.json")
    assert done.kept == ("cat",)
    assert [done.descriptions.labels[name].descriptions for name in ("cat", "dog", "emu")] == [
        ("Reviewed.",),
        ("It barks.",),
        ("Tall.",),
    ]
    forced = enrich(["cat", "dog"], tmp_path / "a.json", tmp_path / "d.json", force=True)
    assert Descriptions.read(tmp_path / "d.json") == forced.descriptions
    assert forced.descriptions.labels["cat"].descriptions == ("It purrs.",)
    assert forced.descriptions.labels["emu"].descriptions == ("Tall.",)


# What a language model's answer comes to

ANSWERS = {
    "plain": ("A bird with a crown.", "A bird with a crown."),
    "quotes": ('  "A bird with a crown."\n', "A bird with a crown."),
    "quotes inside": ('"A" and "B" stand on it.', '"A" and "B" stand on it.'),
    "bold": ("**A bird with a crown.**", "A bird with a crown."),
    "list": ("- A bird with a crown.", "A bird with a crown."),
    "lines": ("A bird\nwith   a\n\ncrown.", "A bird with a crown."),
    "name first": ("Hoopoe: a bird with a crown.", "Hoopoe: a bird with a crown."),
    "thoughts": ("<think>Hm. A bird?</think>\n\nA bird with a crown.", "A bird with a crown."),
    "two sentences": ("It is small. It sings.", "It is small. It sings."),
    "over-long": ("It is small. " + "It sings and sings. " * 20, "It is small." + " It sings and sings." * 11),
    "one long sentence": ("It sings " + "and sings " * 60 + "today.", "It sings " + "and sings " * 60 + "today."),
    "abbreviation": (
        f"Beside St. Mary's, e.g. A. b. Berg, it stands {'tall ' * 38}there. Not this one, which is more.",
        f"Beside St. Mary's, e.g. A. b. Berg, it stands {'tall ' * 38}there.",
    ),
    "Chinese": ("戴胜是一种鸟。" + "它有冠。", "戴胜是一种鸟。 它有冠。"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_a_sentence_is_cleaned(case: str) -> None:
    answer, sentence = ANSWERS[case]
    assert questions.read_sentence(answer) == sentence


@pytest.mark.parametrize("answer", ["", " \n", '""', "...", "<think>I wonder about this bird"])
def test_an_answer_without_a_sentence_is_none(answer: str) -> None:
    with pytest.raises(ValueError, match="expected a sentence, got"):
        questions.read_sentence(answer)


@pytest.mark.parametrize(
    ("answer", "attributes"),
    [
        ('{"colour": "orange", "size": 3}', {"colour": "orange", "size": "3"}),
        ('Sure! ```json\n{"parts": ["crest", "bill"]}\n``` Anything else?', {"parts": "crest, bill"}),
        ('Use {braces} so: {"a": {"b": "c"}, "d": "e", "f": null, "g": true}', {"d": "e", "g": "yes"}),
        ('<think>{"no": "no"}</think>{"colour":\n "a  b"}', {"colour": "a b"}),
    ],
)
def test_attributes_are_read_leniently(answer: str, attributes: dict[str, str]) -> None:
    assert questions.read_attributes(answer) == attributes


@pytest.mark.parametrize("answer", ["", "It is orange.", "{colour: orange}", '["orange"]', '{"a": {}}', "{"])
def test_attributes_are_not_invented(answer: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        questions.read_attributes(answer)


# A causal language model run here

ATTRIBUTES = '{"colour": "orange"}'


@pytest.fixture(scope="session")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers that has learnt what to say of each label, in the hub's files."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("lm") / "tiny-llama"
    asked = {questions.ask(questions.DESCRIBE, label): SENTENCES[label] for label in LABELS}
    asked |= {questions.ask(questions.LIST_ATTRIBUTES, label): ATTRIBUTES for label in LABELS}
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    learner.train_from_iterator([*CAPTIONS, *asked, *asked.values()] * 20, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=learner, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = "{% for m in messages %}<s>{{ m['content'] }}{% endfor %}<s>"
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=160,
            bos_token_id=0,
            eos_token_id=1,
            tie_word_embeddings=True,
        )
    )
    texts = [f"<s>{question}<s>{answer}</s>" for question, answer in asked.items()]
    rows = [torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
    mask = (ids >= 0).long()
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(80):
        loss = model(input_ids=ids.clamp(min=0), attention_mask=mask, labels=ids).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.save_pretrained(folder)
    return folder


def test_a_local_model_describes_and_the_second_run_asks_nothing(
    language_model: Path, labels: Path, tmp_path: Path
) -> None:
    result = run("enrich", labels, "--with", language_model, "--attributes", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["asked"] == 6
    assert {label: entry["descriptions"] for label, entry in told["descriptions"].items()} == {
        label: [sentence] for label, sentence in SENTENCES.items()
    }
    assert all(entry["attributes"] == {"colour": "orange"} for entry in told["descriptions"].values())
    (author,) = Descriptions.read(tmp_path / "labels.descriptions.json").authors.values()
    assert author == Author("model", "tiny-llama", None, None, questions.DESCRIBE, 0.0, 0)
    again = run("enrich", labels, "--with", language_model, "--attributes")
    assert again.exit_code == 0, again.output
    assert "3 of 3 labels described, of which 3 before: " in again.stdout


def test_samples_of_a_local_model_differ_by_seed_and_repeat_with_it(language_model: Path, tmp_path: Path) -> None:
    hot = Question(count=3, temperature=2.0, most_tokens=12)
    several = [enrich(LABELS[:1], language_model, tmp_path / f"{n}.json", question=hot) for n in range(2)]
    first, second = (done.descriptions.labels["hoopoe"] for done in several)
    assert first == second
    assert len(set(first.descriptions)) + len(first.failures) == 3
    assert len(first.descriptions) >= 2
    other = enrich(LABELS[:1], language_model, tmp_path / "o.json", question=replace(hot, seed=50))
    assert other.descriptions.labels["hoopoe"] != first


def test_a_hub_id_is_read_from_the_cache_and_its_commit_named(
    language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, cached = "b" * 40, tmp_path / "models--me--tiny-llama"
    shutil.copytree(language_model, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    done = enrich(LABELS[:1], "me/tiny-llama", tmp_path / "d.json")
    assert done.descriptions.labels["hoopoe"].descriptions == (SENTENCES["hoopoe"],)
    assert done.descriptions.authors["me/tiny-llama"].revision == commit
    with pytest.raises(CheckpointError, match="me/gone"):
        enrich(LABELS[:1], "me/gone", tmp_path / "e.json")
    assert not (tmp_path / "e.json").exists()


def test_a_model_without_a_chat_template_is_asked_in_plain_words(language_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(language_model, tmp_path / "base")
    (folder / "chat_template.jinja").unlink()
    model = LocalModel(str(folder))
    answer = model.ask("What is a dog?", temperature=0.0, seed=0, most_tokens=8, tell=lambda _: None)
    assert isinstance(answer, str)
    with pytest.raises(EnrichmentError, match=r"the question has \d+ tokens, the model's context is 160"):
        model.ask("dog " * 200, temperature=0.0, seed=0, most_tokens=8, tell=lambda _: None)


def test_folders_that_are_no_language_model_are_refused(language_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    with pytest.raises(EnrichmentError, match="no causal language model"):
        LocalModel(str(write_clip_checkpoint(tmp_path / "clip")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"expected config\.json"):
        LocalModel(str(tmp_path / "empty"))
    pickled = shutil.copytree(language_model, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"got pytorch_model\.bin"):
        LocalModel(str(pickled))
    partial = shutil.copytree(language_model, tmp_path / "partial")
    tensors = load_file(partial / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lack 1 of the tensors .*layers\.1\.mlp\.up_proj"):
        LocalModel(str(partial))


# An endpoint


@dataclass
class Reply:
    """What the server answers: a status, a body, and headers; `content` makes the body of a chat completion.

    It `closes` the connection behind the body, whatever length was announced; what `drips` comes by a byte in 0.1 s.
    """

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    before: Callable[[], None] = lambda: None
    closes: bool = False
    drips: str = ""

    @classmethod
    def says(cls, content: str | None) -> Reply:
        return cls(body={"choices": [{"message": {"role": "assistant", "content": content}}]})

    @classmethod
    def fails(cls, status: int, message: str, **fault: str) -> Reply:
        return cls(status, {"error": {"message": message, **fault}})


class Server(ThreadingHTTPServer):
    """Speaks the chat completions interface: what is planned first, then a sentence about each label."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.plan: list[Reply] = []
        self.models = ["llama"]
        self.requests: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def asked(self) -> list[str]:
        """The questions, in order."""
        return [request["messages"][0]["content"] for request in self.requests]

    def answer(self, question: str) -> Reply:
        if self.plan:
            return self.plan.pop(0)
        (label,) = (label for label in LABELS if label in question)
        return Reply.says(ATTRIBUTES if "JSON" in question else f"“{SENTENCES[label]}”\n")

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self._send(Reply(body={"data": [{"id": name} for name in self.server.models]}))

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/chat/completions"
        self.server.requests.append(request)
        self.server.headers.append(dict(self.headers))
        self._send(self.server.answer(request["messages"][0]["content"]))

    def _send(self, reply: Reply) -> None:
        with contextlib.suppress(ConnectionError):  # whoever asked may have given up
            self._write(reply)

    def _write(self, reply: Reply) -> None:
        reply.before()
        if reply.status == 0:
            self.close_connection = True
            return
        content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(content)), **reply.headers}.items():
            self.send_header(name, value)
        if reply.drips == "headers":
            self.flush_headers()
            self._drip(b"X-Slow: " + b"y" * 1000)
        self.end_headers()
        if reply.drips:
            self._drip(content)
        self.wfile.write(content)
        self.close_connection = self.close_connection or reply.closes

    def _drip(self, content: bytes) -> None:
        for byte in content:
            self.wfile.write(bytes([byte]))
            time.sleep(0.1)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with closing(Server()) as server:
        yield server


def endpoint(server: Server, waits: list[float], **options: Any) -> Endpoint:
    settings: dict[str, Any] = {"model": "llama", "key": None, "key_env": "OPENAI_API_KEY"} | options
    return Endpoint(server.url, **settings, sleep=waits.append)


def ask(model: Endpoint, told: list[str] | None = None) -> str:
    tell = (lambda _: None) if told is None else told.append
    return model.ask("Describe a hoopoe", temperature=0.5, seed=7, most_tokens=99, tell=tell)


def test_an_endpoint_is_asked_once_about_each_label(
    server: Server, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "secret-1\n")
    result = run("enrich", labels, "--with", server.url + "/", "--key-env", "MY_KEY", "--attributes", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert [told["descriptions"][label]["descriptions"] for label in LABELS] == [[SENTENCES[label]] for label in LABELS]
    prompts = (questions.DESCRIBE, questions.LIST_ATTRIBUTES)
    assert server.asked == [questions.ask(prompt, label) for label in LABELS for prompt in prompts]
    first = {key: value for key, value in server.requests[0].items() if key != "messages"}
    assert first == {"model": "llama", "temperature": 0.0, "seed": 0, "max_tokens": 512}
    assert all(headers["Authorization"] == "Bearer secret-1" for headers in server.headers)
    written = (tmp_path / "labels.descriptions.json").read_text(encoding="utf-8")
    assert "secret" not in written + result.output
    (author,) = Descriptions.read(tmp_path / "labels.descriptions.json").authors.values()
    assert author == Author("endpoint", "llama", server.url, None, questions.DESCRIBE, 0.0, 0)


def test_nothing_is_asked_twice_when_a_run_breaks_off(server: Server, labels: Path, tmp_path: Path) -> None:
    server.plan = [Reply.says("A bird."), Reply.fails(403, "no more")]
    broken = run("enrich", labels, "--with", server.url)
    assert broken.exit_code == 2
    assert "answers 403: no more (no key was sent)" in broken.stderr
    assert Descriptions.read(tmp_path / "labels.descriptions.json").labels["hoopoe"].descriptions == ("A bird.",)
    server.requests.clear()
    resumed = run("enrich", labels, "--with", server.url)
    assert resumed.exit_code == 0, resumed.output
    assert server.asked == [questions.ask(questions.DESCRIBE, label) for label in LABELS[1:]]
    server.requests.clear()
    assert run("enrich", labels, "--with", server.url).exit_code == 0
    assert server.requests == []
    assert run("enrich", labels, "--with", server.url, "--force").exit_code == 0
    assert len(server.requests) == 3


def test_further_descriptions_are_added_to_those_there_are(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "d.json"
    Descriptions({}, {"hoopoe": Entry(("By hand.",))}).write(out)
    server.plan = [Reply.says("One."), Reply.says("One."), Reply.says("Two.")]
    done = enrich(["hoopoe"], server.url, out, question=Question(count=4))
    assert done.asked == 3
    entry = Descriptions.read(out).labels["hoopoe"]
    assert entry.descriptions == ("By hand.", "One.", "Two.")
    assert entry.authors == ("llama",)
    assert [request["seed"] for request in server.requests] == [1, 2, 3]
    assert {request["temperature"] for request in server.requests} == {0.8}
    assert done.failures == (("hoopoe", "description: expected another sentence, got the same again: 'One.'"),)
    again = enrich(["hoopoe"], server.url, out, question=Question(count=3, prompt="What of {}?"))
    assert again.asked == 0
    other = enrich(["hoopoe"], server.url, out, question=Question(count=4, prompt="What of {}?"))
    assert server.asked[-1] == "What of hoopoe?"
    assert other.descriptions.labels["hoopoe"].authors == ("llama", "llama (2)")
    assert other.descriptions.authors["llama (2)"].prompt == "What of {}?"


def test_answers_that_say_nothing_are_recorded_and_not_invented(server: Server, labels: Path, tmp_path: Path) -> None:
    server.plan = [Reply.says("A bird."), Reply.says("It is orange."), Reply.says(None), Reply.says(ATTRIBUTES)]
    result = run("enrich", labels, "--with", server.url, "--attributes")
    assert result.exit_code == 1
    assert "hoopoe: attributes: expected a JSON object, got 'It is orange.'" in result.stderr
    assert "without a description: dog [brown]" in result.stderr
    found = Descriptions.read(tmp_path / "labels.descriptions.json").labels
    assert found["hoopoe"] == Entry(
        ("A bird.",), {}, ("llama",), ("attributes: expected a JSON object, got 'It is orange.'",)
    )
    assert found["dog [brown]"].descriptions == ()
    assert found["dog [brown]"].failures == ("description: expected a sentence, got an empty answer",)
    server.requests.clear()
    assert run("enrich", labels, "--with", server.url, "--attributes").exit_code == 0
    assert len(server.asked) == 2
    assert [request["seed"] for request in server.requests] == [2, 1]


def test_a_busy_server_is_asked_again_when_it_says(server: Server) -> None:
    date = email.utils.formatdate(time.time() + 100, usegmt=True)
    server.plan = [
        Reply(429, {"error": {"message": "slow down"}}, {"Retry-After": "7"}),
        Reply(503, b"<html>busy</html>", {"Retry-After": date}),
        Reply(500, {"detail": "oops"}),
        Reply(status=0),
        Reply.says("A bird."),
    ]
    waits: list[float] = []
    told: list[str] = []
    assert ask(endpoint(server, waits), told) == "A bird."
    assert waits == [7.0, pytest.approx(100, abs=5), 4.0, 8.0]
    assert told[0] == "waiting 7 s: 429 slow down"
    assert "the connection broke" in told[3]


@pytest.mark.parametrize(
    "after",
    ["-5", "nan", "inf", "0", "-inf", "0.001", "soon", "", "Thu, 01 Jan 1970 00:00:00 GMT", "Mon, 99 Foo 0 0:0:0"],
)
def test_a_time_that_is_none_to_wait_for_is_not_obeyed(after: str, server: Server) -> None:
    server.plan = [Reply(429, {"error": {"message": "slow down"}}, {"Retry-After": after})] * 6
    waits: list[float] = []
    with pytest.raises(EnrichmentError, match="in 6 tries: 429 slow down"):
        ask(endpoint(server, waits))
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0]


CUT = b'{"choices": [{"message": {"role": "assistant", "content": "A bi'


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, CUT, {"Content-Length": "500"}),
        Reply(200, b"", {"Content-Length": "500"}),
        Reply(200, CUT),
        Reply(200, b"20\r\n" + CUT[:9], {"Transfer-Encoding": "chunked"}),
        Reply(503, b'{"error": ', {"Content-Length": "500"}),
    ],
    ids=["of-its-length", "at-once", "in-its-json", "in-a-chunk", "of-an-error"],
)
def test_an_answer_that_is_cut_short_is_asked_for_again(reply: Reply, server: Server) -> None:
    server.plan = [replace(reply, closes=True), Reply.says("A bird.")]
    waits: list[float] = []
    assert ask(endpoint(server, waits)) == "A bird."
    assert waits == [1.0]


@pytest.mark.parametrize("part", ["headers", "body", "error"])
def test_the_time_is_for_the_whole_answer_however_it_drips(part: str, server: Server) -> None:
    status = 503 if part == "error" else 200
    server.plan = [Reply(status, b" " * 1000, drips=part)] * 6
    begun = time.monotonic()
    with pytest.raises(EnrichmentError, match="did not answer in 6 tries: no answer in 0 s"):
        ask(endpoint(server, [], timeout_s=0.3))
    assert time.monotonic() - begun < 6


@pytest.mark.parametrize(
    ("reply", "message", "tries"),
    [
        (Reply.fails(503, "overloaded"), "did not answer in 6 tries: 503 overloaded", 6),
        (
            Reply(429, {"error": {"message": "daily limit"}}, {"Retry-After": "9000"}),
            "in 1 try, and asks to wait 9000 s: 429 daily limit",
            1,
        ),
        (Reply.fails(429, "pay", code="insufficient_quota"), "answers 429: pay", 1),
        (Reply.fails(401, "bad key"), "answers 401: bad key", 1),
        (Reply.fails(404, "no such model"), "answers 404: no such model", 1),
        (Reply.fails(400, "too long", param="messages"), "refuses the question: too long", 1),
        (Reply(400, b""), "answers 400: Bad Request", 1),
        (Reply(200, b"<html>hello</html>"), "expected JSON, got '<html>hello</html>'", 1),
        (Reply(200, [1]), "expected a JSON object", 1),
        (Reply(200, {"choices": []}), "expected choices[0].message.content", 1),
        (Reply(200, b'{"choices": [{"message": {"content": "bird \\ud800"}}]}'), "got a lone surrogate in 'bird", 1),
        (Reply(307, b"", {"Location": "http://elsewhere/v1"}), "moved to http://elsewhere/v1", 1),
    ],
)
def test_what_a_server_refuses_is_said_and_not_asked_again(
    reply: Reply, message: str, tries: int, server: Server
) -> None:
    server.plan = [reply] * 9
    server.models = ["llama-8b", "qwen"]
    with pytest.raises(EnrichmentError) as caught:
        ask(endpoint(server, [], key="k"))
    assert message in caught.value.message
    assert len(server.requests) == tries
    if "404" in message:
        assert "llama-8b, qwen" in (caught.value.hint or "")


def test_a_silent_server_is_given_up(server: Server) -> None:
    done = threading.Event()
    server.plan = [Reply(before=done.wait)] * 6  # type: ignore[arg-type]
    waits: list[float] = []
    with pytest.raises(EnrichmentError, match="did not answer in 6 tries: no answer in 0 s"):
        ask(endpoint(server, waits, timeout_s=0.1))
    done.set()
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0]


def test_models_that_name_the_limit_otherwise_or_take_no_temperature_are_asked_as_they_want(server: Server) -> None:
    server.plan = [
        Reply.fails(400, "Unsupported: use 'max_completion_tokens' instead", param="max_tokens"),
        Reply.fails(400, "Only the default temperature", param="temperature"),
    ]
    model = endpoint(server, [])
    assert ask(model) == f"“{SENTENCES['hoopoe']}”\n"
    assert ask(model) == f"“{SENTENCES['hoopoe']}”\n"
    assert len(server.requests) == 4
    for request in server.requests[2:]:
        assert request.keys() == {"model", "messages", "max_completion_tokens", "seed"}
        assert request["max_completion_tokens"] == 99


def test_the_only_model_needs_no_name(server: Server) -> None:
    assert ask(endpoint(server, [], model=None))
    assert server.requests[0]["model"] == "llama"
    server.models = ["a", "b"]
    with pytest.raises(EnrichmentError, match="names 2 models") as caught:
        endpoint(server, [], model=None)
    assert "it has a, b" in (caught.value.hint or "")


def test_ctrl_c_loses_no_answer(server: Server, labels: Path, tmp_path: Path) -> None:
    reached, release = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        release.wait(60)

    server.plan = [Reply.says("A bird."), Reply.says("A dog."), Reply(before=hold)]
    command = [sys.executable, "-m", "edgevlm", "enrich", str(labels), "--with", server.url]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert reached.wait(60)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    release.set()
    assert process.returncode == 130
    assert "the same command goes on from there" in stderr
    assert "Traceback" not in stderr
    assert sorted(os.listdir(tmp_path)) == ["labels.descriptions.json", "labels.txt"]
    found = Descriptions.read(tmp_path / "labels.descriptions.json").labels
    assert {label: entry.descriptions for label, entry in found.items()} == {
        "hoopoe": ("A bird.",),
        "dog [brown]": ("A dog.",),
    }


# The command's own errors

BAD: dict[str, tuple[list[str], str]] = {
    "no file of labels": (["gone.txt", "--with", "a.json"], "gone.txt"),
    "empty labels": (["empty.txt", "--with", "a.json"], "expected a label per line, got none"),
    "a label twice": (["twice.txt", "--with", "a.json"], "line 2 repeats the label 'dog'"),
    "no such file": (["dog.txt", "--with", "gone.json"], "gone.json: cannot be read"),
    "a file of another kind": (["dog.txt", "--with", "dog.txt"], "expected a file that ends with .json"),
    "nothing that answers": (["dog.txt", "--with", "llama"], "expected a .json, .csv, .tsv file, a URL"),
    "a question to a file": (["dog.txt", "--with", "a.json", "--count", "2"], "a.json is a file, which is asked"),
    "allow-missing for a model": (["dog.txt", "--with", "http://localhost:1/v1", "--allow-missing"], "is for a FILE"),
    "nobody listens": (["dog.txt", "--with", "http://127.0.0.1:1/v1", "--model", "x"], "connection refused"),
    "half a URL": (["dog.txt", "--with", "http://", "--model", "x"], "expected a URL such as"),
    "a password in the URL": (
        ["dog.txt", "--with", "http://a:secret@b/v1", "--model", "x"],
        "without a name, password",
    ),
    "a key that is not set": (["dog.txt", "--with", "http://b/v1", "--key-env", "NO_KEY"], "NO_KEY is not set"),
    "a model's name for a folder": (["dog.txt", "--with", ".", "--model", "x"], "--model names a model at an endpoint"),
    "a prompt without label": (["dog.txt", "--with", ".", "--prompt", "What?"], "expected exactly one {}"),
    "greedy samples": (["dog.txt", "--with", ".", "--count", "2", "--temperature", "0"], "a temperature above 0"),
    "out is the labels": (["dog.txt", "--with", "a.json", "--out", "dog.txt"], "is the file of the labels"),
    "out is a folder": (["dog.txt", "--with", "a.json", "--out", "."], "expected a file to write, found a folder"),
    "out is another file": (["dog.txt", "--with", "a.json", "--out", "a.json", "--force"], "got None"),
    "stdin without out": (["-", "--with", "a.json"], "need --out"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_use_is_an_error_with_exit_code_2(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in {"dog.txt": "dog\n", "twice.txt": "dog\ndog\n", "empty.txt": "\n"}.items():
        Path(name).write_text(text)
    Path("a.json").write_text('{"dog": "It barks."}')
    arguments, message = BAD[case]
    result = run("enrich", *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "secret" not in result.stderr
    assert isinstance(result.exception, SystemExit)
    assert not Path("dog.descriptions.json").exists()
    assert Path("a.json").read_text() == '{"dog": "It barks."}'


def test_labels_come_from_stdin(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"Häuschen": "Klein."}', encoding="utf-8")
    result = run("enrich", "-", "--with", tmp_path / "a.json", "--out", tmp_path / "d.json", stdin="Häuschen\n")
    assert result.exit_code == 0, result.output
    assert Descriptions.read(tmp_path / "d.json").labels.keys() == {"Häuschen"}


@pytest.mark.parametrize("labels", [[], ["dog", "dog"], [""], [" dog"]])
def test_the_function_refuses_labels_that_make_no_sense(labels: list[str], tmp_path: Path) -> None:
    with pytest.raises(LabelError):
        edgevlm.enrich(labels, tmp_path / "a.json", tmp_path / "d.json")


# Bundles


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A bundle with labels baked in by their descriptions, the files that it was made of, and a picture."""
    folder = tmp_path_factory.mktemp("described")
    (folder / "labels.txt").write_text("cat\ndog\n")
    Descriptions({}, {"cat": Entry(("It purrs.", "A small animal.")), "dog": Entry(("It barks.",))}).write(
        folder / "d.json"
    )
    write_clip_checkpoint(folder / "clip", amplified=False)
    arguments = ["--labels", folder / "labels.txt", "--descriptions", folder / "d.json", "--out", folder / "dist"]
    result = run("convert", folder / "clip", "--target", "coreml", "--recipe", "fp32", *arguments)
    assert result.exit_code == 0, result.output
    Image.linear_gradient("L").convert("RGB").resize((40, 50)).save(folder / "picture.png")
    return {
        "bundle": folder / "dist" / "clip-labels-coreml-fp32.edgevlm",
        "labels": folder / "labels.txt",
        "descriptions": folder / "d.json",
        "picture": folder / "picture.png",
    }


@pytest.mark.slow
def test_a_bundle_says_with_what_texts_its_labels_were_baked(described: dict[str, Path]) -> None:
    baked = Bundle.open(described["bundle"]).manifest.labels
    assert baked is not None
    assert baked.texts == (("cat . It purrs.", "cat . A small animal."), ("dog . It barks.",))


@pytest.mark.slow
def test_run_with_descriptions_answers_as_labels_baked_with_them(described: dict[str, Path]) -> None:
    def scores(*options: str | Path) -> dict[str, float]:
        result = run("run", described["bundle"], described["picture"], "--json", *options)
        assert result.exit_code == 0, result.output
        found: dict[str, float] = json.loads(result.stdout)["answers"][0]["scores"]
        return found

    baked = scores()
    assert scores("--labels", "cat, dog", "--descriptions", described["descriptions"]) == pytest.approx(baked, abs=1e-4)
    assert abs(scores("--labels", "cat, dog")["cat"] - baked["cat"]) > 1e-3


@pytest.mark.slow
def test_labels_and_descriptions_that_do_not_fit_are_refused(described: dict[str, Path], tmp_path: Path) -> None:
    long = Descriptions({}, {"cat": Entry(("very " * 100 + "long.",))})
    long.write(tmp_path / "long.json")
    (tmp_path / "cat.txt").write_text("cat\n")
    question = ["run", described["bundle"], described["picture"]]
    convert = ["convert", "--target", "coreml", "--out", tmp_path / "dist"]
    for arguments, message in (
        ([*question, "--labels", "cat, emu", "--descriptions", described["descriptions"]], "no description of 'emu'"),
        ([*question, "--labels", "cat", "--descriptions", tmp_path / "long.json"], "tokens, the model's context 77"),
        ([*question, "--descriptions", described["descriptions"]], "--descriptions needs --labels"),
        ([*convert, "--descriptions", described["descriptions"]], "--descriptions needs --labels"),
        (
            [*convert, "--labels", tmp_path / "cat.txt", "--descriptions", tmp_path / "long.json"],
            "tokens, the model's context",
        ),
    ):
        result = run(*arguments)
        assert result.exit_code == 2, result.output
        assert message in result.stderr
