"""An open bundle that takes pictures and texts as they come, and gives arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.dialogue import Sampling
from edgevlm.bundle.golden import REFERENCE
from edgevlm.bundle.spec import F32
from edgevlm.bundle.tensors import refuse_large_header
from edgevlm.errors import BundleError, InputError, LabelError, TensorError
from edgevlm.inference.embeddings import Scores, average, label_scores, score
from edgevlm.inference.generator import Answer, Conversation, Generator, generator_of
from edgevlm.inputs.labels import check, quoted
from edgevlm.inputs.pictures import Picture, preprocess
from edgevlm.inputs.sequences import listed_pictures, listed_texts
from edgevlm.inputs.texts import Tokenizer
from edgevlm.targets import registry
from edgevlm.targets.isolation import tokenizer_of
from edgevlm.targets.runtime import Closing, Session

_ASK_BAKED = "edgevlm run BUNDLE PICTURE, or classify(pictures) in Python, asks about the baked labels"


class BundleModel(Closing):
    """An open bundle: pictures and texts in, embeddings and scores out. A context manager.

    >>> with edgevlm.open("dist/edgevlm-student-coreml-fp16.edgevlm") as model:
    ...     scores = model.classify(["examples/pictures/yellow-star.png"], ["a yellow star", "a red circle"])
    >>> scores.shape
    (1, 2)

    Args:
        bundle: What to run.
        threads: CPU threads of the backend; its own default where None.
        session: What runs its components; where None, its target's runtime opens one, in a process of its own unless
            the bundle was made on this machine or is `trusted` (`edgevlm.open` says more).
        tokenizer: What makes token ids of texts; the bundle's own where None.
        trusted: Whether the bundle may run in this process wherever it was made.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int | None = None,
        session: Session | None = None,
        tokenizer: Tokenizer | None = None,
        trusted: bool = False,
    ) -> None:
        self.bundle = bundle
        if session is None:
            session = registry.runtime_of(bundle, trusted=trusted).open(bundle, threads=threads)
        self._generator: Generator | None = None
        if tokenizer is None:
            try:
                if bundle.manifest.dialogue is not None:
                    self._generator = generator_of(bundle, session)
                tokenizer = tokenizer_of(bundle, session)
            except BaseException:
                session.close()
                raise
        self.tokenizer, self.session = tokenizer, session

    @property
    def labels(self) -> tuple[str, ...]:
        """The baked labels, in the order of their scores; empty where none are baked."""
        return self.bundle.manifest.labels.names if self.bundle.manifest.labels else ()

    @cached_property
    def mean_embedding(self) -> F32:
        """The mean embedding of the bundle's 200 sample pictures, float32 [D]: what binary codes may be made with.

        >>> with edgevlm.open("dist/edgevlm-student-coreml-fp16.edgevlm") as model:
        ...     pictures = model.encode_image(["examples/pictures/yellow-star.png"])
        >>> from edgevlm.inference import codes
        >>> binary = codes.to_binary(pictures, model.mean_embedding)

        The rows of the tensor `encode_image.embedding` in golden/reference.safetensors, averaged in float64. They are
        rendered scenes: where the pictures of an index are others, such as photographs, the mean of some of these is
        the better one.

        Raises:
            InputError: the bundle is of a model that talks.
            TensorError: the bundle has no `encode_image`.
            BundleError: the file is damaged, or is left out, as in a bundle that was exported for an app.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        _ = self.bundle.manifest.embedding  # which refuses a model that talks
        if "encode_image" not in self.bundle.components:
            raise self._lacking("encode_image, so it has no embeddings")
        path = self.bundle.path / REFERENCE
        if not path.exists():
            raise BundleError(
                f"{self.bundle.path}: expected {REFERENCE}, of which the mean embedding of the sample pictures is, got "
                "no such file, as in a bundle that was exported for an app",
                hint="index with the whole bundle that it was exported from",
            )
        refuse_large_header(path, error=BundleError)
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise BundleError(
                f"{path}: expected a readable safetensors file, got one that is not: {error}",
                hint="convert the model again",
            ) from error
        rows = tensors.get("encode_image.embedding", tensors.get("image"))  # its name up to format 1.2
        dim = self.bundle.manifest.embedding.dim
        if rows is None or rows.ndim != 2 or rows.shape[1] != dim or not len(rows):
            found = "no such tensor" if rows is None else f"one of the shape {list(rows.shape)}"
            raise BundleError(
                f"{path}: expected a tensor encode_image.embedding of rows of {dim} numbers, got {found}",
                hint="convert the model again",
            )
        return np.asarray(rows.mean(0, dtype=np.float64), np.float32)

    def encode_image(self, images: Sequence[Picture]) -> F32:
        """Embeddings of pictures.

        >>> with edgevlm.open("dist/edgevlm-student-coreml-fp16.edgevlm") as model:
        ...     embeddings = model.encode_image(["examples/pictures/yellow-star.png", PIL.Image.new("RGB", (640, 480))])
        >>> embeddings.shape == (2, model.bundle.manifest.embedding.dim)
        True

        Args:
            images: Paths, PIL images, encoded bytes or uint8 [H, W, 3] arrays; N of them, in a sequence.

        Returns:
            float32 [N, D], unit norm.

        Raises:
            InputError: one picture in place of a sequence; or the bundle is of a model that talks.
            ImageError: a picture cannot be decoded.
            TensorError: the bundle has no `encode_image`.
        """
        dim = self.bundle.manifest.embedding.dim  # which refuses a model that talks
        if "encode_image" not in self.bundle.components:
            raise self._lacking("encode_image, so it has no embeddings of pictures")
        rows = [self._ask("encode_image", picture) for picture in listed_pictures(images)]
        return np.stack(rows) if rows else np.zeros((0, dim), np.float32)

    def encode_text(self, texts: Sequence[str]) -> F32:
        """Embeddings of texts, float32 [N, D], unit norm.

        >>> with edgevlm.open("dist/edgevlm-student-coreml-fp16.edgevlm") as model:
        ...     pictures = model.encode_image(["examples/pictures/yellow-star.png"])
        ...     cosines = pictures @ model.encode_text(["a yellow star", "a red circle"]).T
        >>> cosines.shape
        (1, 2)

        Raises:
            InputError: one text in place of a sequence; or the bundle is of a model that talks.
            TensorError: the bundle has no text tower.
        """
        dim = self.bundle.manifest.embedding.dim
        if self.tokenizer is None:
            raise self._lacking("text tower, so it cannot encode texts")
        ids = self.tokenizer.encode(texts)
        rows = [self._run("encode_text", "token_ids", row[None]) for row in ids]
        return np.stack(rows) if rows else np.zeros((0, dim), np.float32)

    def classify(
        self,
        images: Sequence[Picture],
        labels: Sequence[str | Sequence[str]] | None = None,
        *,
        scores: Scores | None = None,
        text: str | None = None,
    ) -> F32:
        """How well each label describes each picture; of a model that talks, how probable each is as its answer.

        >>> with edgevlm.open("dist/edgevlm-student-coreml-fp16.edgevlm") as model:
        ...     scores = model.classify(["examples/pictures/yellow-star.png"], ["a yellow star", "a red circle"])
        >>> bool(abs(scores.sum(1) - 1).max() < 1e-5)
        True

        Args:
            images: N pictures, see `encode_image`.
            labels: L texts, or several texts in place of one, whose embeddings are averaged; None for the baked labels.
                Some of these by name, where there is no text tower.
            scores: `softmax`, a label's share among those given; `sigmoid`, the probability that a label fits, so that
                none may (SigLIP); `cosine`. What the model was trained to say where None.
            text: The question, to a model that talks; its own where None.

        Returns:
            float32 [N, L]; of `softmax` each row sums to 1.

        Raises:
            LabelError: no labels given and none baked in, or others than the baked ones where there is no text tower;
                a label without a text, or with one that the model would cut; or two that become the same token ids.
            InputError: one picture or one label in place of a sequence; scores that the model cannot give; or a
                question to one that does not talk.
        """
        pictures, ask = listed_pictures(images), self.classifier(labels, scores=scores, text=text)
        rows = [ask(picture) for picture in pictures]
        return np.stack(rows) if rows else np.zeros((0, len(self.labels if labels is None else labels)), np.float32)

    def classifier(
        self,
        labels: Sequence[str | Sequence[str]] | None = None,
        *,
        scores: Scores | None = None,
        text: str | None = None,
    ) -> Callable[[Picture], F32]:
        """A function that scores the labels for a picture at a time, as `classify` does; their texts are encoded here.

        >>> with edgevlm.open("dist/edgevlm-student-coreml-fp16.edgevlm") as model:
        ...     ask = model.classifier(["a yellow star", "a red circle"])
        ...     scores = ask("examples/pictures/yellow-star.png")
        >>> scores.shape
        (2,)

        Raises:
            LabelError, InputError: as `classify`; what it returns raises ImageError, and can be asked on.
        """
        if self._generator is not None:
            if scores not in (None, "softmax"):
                raise InputError(f"a model that talks gives the share of each answer, and no {scores}")
            if labels is None:
                raise LabelError(
                    "expected labels, which a model that talks has none of baked in: what it has is "
                    f"{self.bundle.manifest.verbs}",
                    hint='--labels "Yes, No" are answers that share one; --ask alone asks for words',
                )
            return self._generator.classifier(labels, text)  # type: ignore[arg-type]
        if text is not None:
            raise InputError(
                "expected no question: this model gives embeddings, and does not talk: what it has is "
                f"{self.bundle.manifest.verbs}"
            )
        if labels is None:
            if not self.labels:
                raise LabelError("expected labels: this bundle has none baked in", hint='--labels "a cat, a dog"')
            return self._baked_classifier(self.labels, scores)
        labels = listed_texts(labels, "labels")
        if not labels:
            raise LabelError("expected at least one label, got none")
        if self.tokenizer is None and self.labels:
            self._refuse_others(labels)
            return self._baked_classifier([str(label) for label in labels], scores)
        embeddings, manifest = self._embed_labels(labels), self.bundle.manifest

        def ask(picture: Picture) -> F32:
            image = self._ask("encode_image", picture)[None]
            (row,) = label_scores(
                image, embeddings, manifest.embedding.logit_scale, manifest.embedding.logit_bias, scores
            )
            return np.asarray(row, np.float32)

        return ask

    def _baked_classifier(self, labels: Sequence[str], kind: Scores | None) -> Callable[[Picture], F32]:
        """What `classify` of the artefact says of some of its labels."""
        manifest, places = self.bundle.manifest, [self.labels.index(label) for label in labels]

        def of_logits(picture: Picture) -> F32:
            logits = self._ask("classify", picture, "logits")[places]
            cosines = np.asarray(
                (logits - (manifest.embedding.logit_bias or 0)) / manifest.embedding.logit_scale, np.float32
            )
            return score(cosines, manifest.embedding.logit_scale, manifest.embedding.logit_bias, kind)

        def of_scores(picture: Picture) -> F32:
            shares = self._ask("classify", picture, "scores")[places]
            return np.asarray(shares / shares.sum(), np.float32)  # a softmax over these alone

        if any(output.name == "logits" for output in self.bundle.components["classify"].spec.outputs):
            return of_logits
        if kind not in (None, "softmax"):
            raise InputError(
                f"this bundle's classify gives its softmax alone, and no {kind}", hint="convert the model again"
            )
        return of_scores

    def _refuse_others(self, labels: Sequence[str | Sequence[str]]) -> None:
        """Raises LabelError unless all of these are baked in, each under its name."""
        unknown = (label for label in labels if label not in self.labels)
        others = [label if isinstance(label, str) else " | ".join(label) for label in unknown]
        if others:
            raise LabelError(
                f"{self.bundle.path}: expected labels that are baked in, since it has no text tower: "
                f"{quoted(self.labels)}; got {quoted(others)}",
                hint=f"{_ASK_BAKED}; for other labels convert the model again",
            )

    def _lacking(self, what: str) -> TensorError:
        """What to raise where a component is asked for that the bundle does not have."""
        if not self.labels:
            return TensorError(f"{self.bundle.path} has no {what}", hint="convert the model without --image-only")
        return TensorError(
            f"{self.bundle.path} has no {what}: it tells its baked labels apart, {quoted(self.labels)}",
            hint=f"{_ASK_BAKED}; for anything else convert the model without --image-only",
        )

    def _embed_labels(self, labels: Sequence[str | Sequence[str]]) -> F32:
        several = [(label,) if isinstance(label, str) else tuple(listed_texts(label)) for label in labels]
        if not all(several):
            raise LabelError(f"label {several.index(())}: expected at least one text, got none")
        if self.tokenizer is not None:
            check([texts[0] for texts in several], several, self.tokenizer)
        embeddings = self.encode_text([text for texts in several for text in texts])
        return average(embeddings, [len(texts) for texts in several])

    @property
    def talker(self) -> Generator:
        """What talks: `generate`, `chat` and `score` with all that they take.

        >>> with edgevlm.open("dist/talker-tflite-int8.edgevlm") as model:
        ...     positions = model.talker.dialogue.context_length
        >>> positions
        512

        Raises:
            InputError: this model gives embeddings, and does not talk.
        """
        return self._generator or generator_of(self.bundle, self.session)  # which refuses

    def generate(
        self,
        picture: Picture | None = None,
        text: str | None = None,
        *,
        system: str | None = None,
        max_tokens: int = 256,
        sampling: Sampling | None = None,
        seed: int = 0,
    ) -> Answer:
        """The answer of a model that talks to a question about a picture; see `Generator.generate`.

        >>> with edgevlm.open("dist/talker-tflite-int8.edgevlm") as model:
        ...     answer = model.generate("examples/pictures/yellow-star.png", "What is this?", max_tokens=8)
        ...     text = answer.text  # or piece after piece: for piece in answer
        >>> len(answer.token_ids) <= 8
        True
        """
        return self.talker.generate(picture, text, system=system, max_tokens=max_tokens, sampling=sampling, seed=seed)

    def chat(self, picture: Picture | None = None, *, system: str | None = None) -> Conversation:
        """A conversation with a model that talks; see `Generator.chat`.

        >>> with edgevlm.open("dist/talker-tflite-int8.edgevlm") as model:
        ...     chat = model.chat("examples/pictures/yellow-star.png")
        ...     texts = [chat.ask(each, max_tokens=8).text for each in ("What is this?", "And its colour?")]
        >>> len(texts)
        2
        """
        return self.talker.chat(picture, system=system)

    def score(self, picture: Picture | None, text: str | None, answers: Sequence[str]) -> F32:
        """How probable a model that talks holds each answer, float32 [A]; see `Generator.score`.

        >>> with edgevlm.open("dist/talker-tflite-int8.edgevlm") as model:
        ...     found = model.score("examples/pictures/yellow-star.png", "Is this a star?", ["Yes", "No"])
        >>> found.shape
        (2,)
        """
        return self.talker.score(picture, text, answers)

    def close(self) -> None:
        """Frees the backend's memory."""
        self.session.close()

    def _ask(self, component: str, picture: Picture, output: str = "embedding") -> F32:
        return self._run(component, "pixels", preprocess(picture, self.bundle.manifest.image), output)

    def _run(
        self, component: str, name: str, value: NDArray[np.float32] | NDArray[np.int32], output: str = "embedding"
    ) -> F32:
        row: F32 = self.session.run(component, {name: value})[output][0]
        if not np.isfinite(row).all():
            raise TensorError(
                f"{component}: expected numbers, and what {self.bundle.path} answers is NaN or infinite",
                hint=f"edgevlm verify {self.bundle.path} says whether it is what was converted",
            )
        return row
