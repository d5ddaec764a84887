"""Language models that write descriptions: what all of them do, and one that runs here, through transformers."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgevlm.enrichment.descriptions import Author
from edgevlm.errors import EnrichmentError, MissingDependency
from edgevlm.process.paths import user_path

if TYPE_CHECKING:
    import torch

Tell = Callable[[str], None]
"""Told in words what a question is waiting for."""


class LanguageModel(Protocol):
    """Answers questions, one at a time."""

    def author(self, *, prompt: str, temperature: float, seed: int) -> Author:
        """Who it is, when it is asked like this."""

    def ask(self, question: str, *, temperature: float, seed: int, most_tokens: int, tell: Tell) -> str:
        """Its answer, which may be empty.

        Args:
            question: Without the model's own format around it.
            temperature: Of sampling; 0 takes the likeliest token each time.
            seed: Of sampling.
            most_tokens: The answer is cut there.
            tell: Told what the answer waits for.

        Raises:
            EnrichmentError: the model does not answer.
        """


class LocalModel:
    """A causal language model in Hugging Face format, run on this machine: on its GPU if there is one.

    Args:
        name: A folder with `config.json`, tokenizer files and safetensors, or a hub id.

    Raises:
        CheckpointError: no such folder or hub model, pickled weights only, or damaged files.
        EnrichmentError: the checkpoint is no causal language model.
        MissingDependency: torch or transformers is not installed.
    """

    def __init__(self, name: str) -> None:
        for package in ("torch", "transformers"):
            if importlib.util.find_spec(package) is None:
                raise MissingDependency(package, extra="convert")
        import torch

        from edgevlm.models.checkpoints import hub

        here = user_path(name)
        folder = here if here.is_dir() else hub.download(name)
        self._name = here.resolve().name if here.is_dir() else name
        self._revision = None if here.is_dir() else folder.name
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._tokenizer, self._model = _load(folder)
        self._model.to(self._device).eval()

    def author(self, *, prompt: str, temperature: float, seed: int) -> Author:
        """See `LanguageModel`."""
        return Author("model", self._name, None, self._revision, prompt, temperature, seed)

    def ask(self, question: str, *, temperature: float, seed: int, most_tokens: int, tell: Tell) -> str:
        """See `LanguageModel`. The same seed gives the same answer on the same machine."""
        import torch

        inputs = self._encode(question)
        length = inputs["input_ids"].shape[1]
        room = getattr(self._model.config, "max_position_embeddings", length + most_tokens) - length
        if room < 1:
            raise EnrichmentError(
                f"{self._name}: the question has {length} tokens, the model's context is {length + room}",
                hint="shorten --prompt",
            )
        settings: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if temperature > 0:
            settings = {"do_sample": True, "temperature": temperature}
        if self._model.generation_config.pad_token_id is None:
            settings["pad_token_id"] = self._tokenizer.pad_token_id or self._tokenizer.eos_token_id
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(seed)
            tokens = self._model.generate(**inputs, **settings, max_new_tokens=min(most_tokens, room))
        answer: str = self._tokenizer.decode(tokens[0, length:], skip_special_tokens=True)
        return answer

    def _encode(self, question: str) -> dict[str, torch.Tensor]:
        if self._tokenizer.chat_template is None:
            found = self._tokenizer(f"Question: {question}\nAnswer:", return_tensors="pt")
        else:
            found = self._tokenizer.apply_chat_template(
                [{"role": "user", "content": question}],
                add_generation_prompt=True,
                enable_thinking=False,  # templates without such a switch ignore it
                return_dict=True,
                return_tensors="pt",
            )
        return {name: found[name].to(self._device) for name in ("input_ids", "attention_mask")}


def _load(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM

    from edgevlm.errors import CheckpointError
    from edgevlm.models.checkpoints import weights
    from edgevlm.models.checkpoints.files import read_json
    from edgevlm.models.checkpoints.text_rules import open_tokenizer

    config = read_json(folder / "config.json")
    weights.find_files(folder)
    tokenizer = open_tokenizer(folder)
    model: Any
    loaded: dict[str, Any]
    try:
        model, loaded = AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype="auto",
            output_loading_info=True,
        )
    # transformers raises whatever a config or the weights lead to.
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:300]
        raise EnrichmentError(
            f"{folder}: no causal language model that transformers loads (model_type {config.get('model_type')!r}): "
            f"{reason}",
            hint="give a text-generation model, e.g. Qwen/Qwen2.5-0.5B-Instruct",
        ) from error
    absent = sorted(loaded["missing_keys"]) or sorted(map(str, loaded["mismatched_keys"]))
    if absent:
        raise CheckpointError(
            f"{folder}: the weights lack {len(absent)} of the tensors that config.json asks for, such as {absent[0]}",
            hint="finish the download, or take config.json and the weights from the same checkpoint",
        )
    return tokenizer, model
