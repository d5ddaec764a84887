"""Language models behind an OpenAI-compatible endpoint: a local llama.cpp, vLLM or Ollama, or a hosted one.

The interface: https://platform.openai.com/docs/api-reference/chat. It is what every such server carries, and needs
nothing but the standard library.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import math
import queue
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from edgevlm.enrichment.descriptions import Author
from edgevlm.enrichment.language_model import Tell
from edgevlm.errors import EnrichmentError

_TRIES = 6
_LONGEST_WAIT_S = 300.0
_LARGEST_ANSWER_BYTES = 16_000_000
_COMPLETIONS = "/chat/completions"
_BLOCK_BYTES = 1 << 16

T = TypeVar("T")


class _StayHere(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: urllib would turn the question into a GET and take the key to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


class _Refusal(Exception):
    """A request that failed in a way that may pass.

    Args:
        reason: In words.
        wait_s: How long the server says to wait.
    """

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.wait_s = reason, wait_s


class _NotTaken(Exception):
    """The model does not take a parameter."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter, self.message = parameter, message


@dataclass(frozen=True)
class _Answer:
    """What a server said, whatever its status."""

    status: int
    reason: str
    headers: Mapping[str, str]
    content: bytes


class Endpoint:
    """A model at an OpenAI-compatible endpoint.

    Args:
        url: The base, such as http://localhost:8080/v1.
        model: Its name there; where None, the one model that the endpoint has.
        key: Sent as a bearer token; not sent where it is None.
        key_env: Where the key is from, for messages.
        timeout_s: For one answer, from the question to its last byte.
        sleep: Waits that many seconds.

    Raises:
        EnrichmentError: the URL or key is malformed; or no model was named, and the endpoint has not exactly one.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None,
        key: str | None,
        key_env: str,
        timeout_s: float = 120.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url = _base(url)
        self._key = (key or "").strip()
        self._key_env = key_env
        self._timeout_s = timeout_s
        self._sleep = sleep
        if not self._key.isascii() or not self._key.isprintable() or " " in self._key:
            raise EnrichmentError(f"{key_env}: expected a key of printable ASCII letters without blanks")
        self._opener = urllib.request.build_opener(_StayHere())
        self._unknown: dict[str, str | None] = {}  # what this model calls parameters that it does not take as usual
        self._model = model or self._only_model()

    def author(self, *, prompt: str, temperature: float, seed: int) -> Author:
        """See `edgevlm.enrichment.language_model.LanguageModel`."""
        return Author("endpoint", self._model, self._url, None, prompt, temperature, seed)

    def ask(self, question: str, *, temperature: float, seed: int, most_tokens: int, tell: Tell) -> str:
        """See `edgevlm.enrichment.language_model.LanguageModel`.

        Asks up to six times where the server is busy, failing or silent, or cuts its answer short, waiting as long as
        it says, or longer each time.
        """
        settings = {"temperature": temperature, "seed": seed, "max_tokens": most_tokens}
        while True:
            named = {self._unknown.get(name, name): value for name, value in settings.items()}
            body: dict[str, Any] = {"model": self._model, "messages": [{"role": "user", "content": question}]}
            body |= {name: value for name, value in named.items() if name is not None}
            try:
                return _content(self._insist(_COMPLETIONS, body, tell), self._url)
            except _NotTaken as error:
                if error.parameter not in settings or error.parameter in self._unknown:
                    raise EnrichmentError(f"{self._url} refuses the question: {error.message}") from error
                # OpenAI's reasoning models have another name for the limit, and take no temperature.
                renamed = "max_completion_tokens" if "max_completion_tokens" in error.message else None
                self._unknown[error.parameter] = renamed

    def _only_model(self) -> str:
        names = self._models()
        if len(names) != 1:
            raise EnrichmentError(
                f"{self._url}: expected --model, got none, and the endpoint names {len(names)} models",
                hint=f"--model NAME{_among(names)}",
            )
        return names[0]

    def _models(self) -> list[str]:
        listed = self._insist("/models", None, lambda _: None).get("data")
        entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
        return [entry["id"] for entry in entries if isinstance(entry.get("id"), str)]

    def _insist(self, path: str, body: Mapping[str, Any] | None, tell: Tell) -> Mapping[str, Any]:
        tries = 0
        while True:
            try:
                return self._request(path, body)
            except _Refusal as refusal:
                wait_s = max(2.0**tries, refusal.wait_s or 0.0)
                tries += 1
                if tries == _TRIES or wait_s > _LONGEST_WAIT_S:
                    asks = f", and asks to wait {wait_s:.0f} s" if wait_s > _LONGEST_WAIT_S else ""
                    raise EnrichmentError(
                        f"{self._url} did not answer in {tries} {'try' if tries == 1 else 'tries'}{asks}: "
                        f"{refusal.reason}",
                        hint="run the same command again later: it asks only for what is missing",
                    ) from refusal
                tell(f"waiting {wait_s:.0f} s: {refusal.reason}")
                self._sleep(wait_s)

    def _request(self, path: str, body: Mapping[str, Any] | None) -> Mapping[str, Any]:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "edgevlm"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, headers)
        try:
            answer = _within(self._timeout_s, lambda: self._exchange(request))
        except urllib.error.URLError as error:
            raise self._unreachable(error.reason) from error
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        if not 200 <= answer.status < 300:
            raise self._explain(answer, path)
        return _object(answer.content, self._url)

    def _exchange(self, request: urllib.request.Request) -> _Answer:
        """Sends a request and reads all of the answer, and no longer than it may take."""
        end = time.monotonic() + self._timeout_s
        try:
            response = self._opener.open(request, timeout=self._timeout_s)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            content = b""
            while block := response.read1(_BLOCK_BYTES):
                content += block
                if time.monotonic() > end:
                    raise TimeoutError
                if len(content) > _LARGEST_ANSWER_BYTES:
                    raise EnrichmentError(
                        f"{self._url}: expected an answer of at most {_LARGEST_ANSWER_BYTES:,} bytes, got more"
                    )
            if response.length:  # of what was announced
                raise http.client.IncompleteRead(content, response.length)
            return _Answer(response.status, response.reason, response.headers, content)

    def _unreachable(self, reason: str | BaseException) -> Exception:
        if isinstance(reason, TimeoutError):
            return _Refusal(f"no answer in {self._timeout_s:.0f} s")
        if isinstance(reason, ConnectionRefusedError):
            return EnrichmentError(f"{self._url}: nothing listens there (connection refused)", hint="start the server")
        if isinstance(reason, socket.gaierror):
            return EnrichmentError(f"{self._url}: no such host: {reason}", hint="check the URL, or the network")
        if isinstance(reason, ConnectionError | http.client.HTTPException):
            return _Refusal(f"the connection broke: {reason or type(reason).__name__}")
        return EnrichmentError(f"{self._url} cannot be reached: {reason}", hint="check the URL, or the network")

    def _explain(self, answer: _Answer, path: str) -> Exception:
        message, code, parameter = _fault(answer)
        said = f"{self._url} answers {answer.status}: {message}"
        if answer.status in (401, 403):
            hint = f"set {self._key_env} to a key of that service, or name another variable with --key-env"
            return EnrichmentError(f"{said} ({'a key was sent' if self._key else 'no key was sent'})", hint=hint)
        if answer.status in (408, 409, 425, 429) or answer.status >= 500:
            if code == "insufficient_quota":
                return EnrichmentError(said, hint="top the account up, then run the same command again")
            return _Refusal(f"{answer.status} {message}", _retry_after(answer.headers.get("Retry-After")))
        if answer.status == 404 and path == _COMPLETIONS:
            return EnrichmentError(said, hint=f"check --model {self._model}, and the URL{self._known_models()}")
        if answer.status == 400 and parameter and path == _COMPLETIONS:
            return _NotTaken(parameter, message)
        if 300 <= answer.status < 400:
            return EnrichmentError(f"{said}: moved to {answer.headers.get('Location')}", hint="give that URL")
        return EnrichmentError(said, hint="check the URL, which should end in /v1, and --model")

    def _known_models(self) -> str:
        try:
            return _among(self._models())
        except EnrichmentError:
            return ""


def _base(url: str) -> str:
    """The URL without what is appended to it.

    Raises:
        EnrichmentError: it is not one.
    """
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid or not url.isascii() or not url.isprintable() or " " in url:
        raise EnrichmentError(f"expected a URL such as http://localhost:8080/v1, got {url!r}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise EnrichmentError(
            f"expected a URL without a name, password or query, got one for {parts.hostname}",
            hint="the key goes into an environment variable: see --key-env",
        )
    return url.rstrip("/").removesuffix(_COMPLETIONS)


def _within(seconds: float, work: Callable[[], T]) -> T:
    """What `work` gives or raises, if it does so in time: a socket's timeout begins again with every byte.

    Raises:
        TimeoutError: it did not. It is left to itself.
    """
    done: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            done.put((work(), None))
        except BaseException as error:
            done.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        found, error = done.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return found  # type: ignore[return-value]


def _object(content: bytes, where: str) -> Mapping[str, Any]:
    """The JSON object of an answer.

    Raises:
        EnrichmentError: it is another text.
        _Refusal: it ends before it is one.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        text = content.strip()
        if not text or (text.startswith(b"{") and not text.endswith(b"}")):
            raise _Refusal(f"the answer was cut short, after {len(content):,} bytes") from error
        start = content[:100].decode(errors="replace")
        raise EnrichmentError(
            f"{where}: expected JSON, got {start!r}", hint="check the URL, which usually ends in /v1"
        ) from error
    if not isinstance(value, dict):
        raise EnrichmentError(f"{where}: expected a JSON object, got {str(value)[:100]!r}")
    return value


def _content(answer: Mapping[str, Any], where: str) -> str:
    try:
        content = answer["choices"][0]["message"]["content"]
    except (LookupError, TypeError) as error:
        raise EnrichmentError(
            f"{where}: expected choices[0].message.content in the answer, got {json.dumps(answer)[:200]}",
            hint="the endpoint has to be OpenAI-compatible: chat completions, not streamed",
        ) from error
    if not isinstance(content, str):
        return ""
    try:
        content.encode()
    except UnicodeEncodeError as error:
        raise EnrichmentError(
            f"{where}: expected valid Unicode in the answer, got a lone surrogate in {content[:100]!r}",
            hint="the server cuts answers within a character; run the same command again, or take another server",
        ) from error
    return content


def _fault(answer: _Answer) -> tuple[str, str | None, str | None]:
    """Message, code and parameter of a server's error, as far as it tells."""
    try:
        told = json.loads(answer.content)
    except (ValueError, RecursionError):
        told = None
    fault = told.get("error", told) if isinstance(told, dict) else told
    if not isinstance(fault, dict):
        text = " ".join((fault if isinstance(fault, str) else answer.content.decode(errors="replace")).split())
        return text[:200] or answer.reason, None, None
    message, code, parameter = (fault.get(key) for key in ("message", "code", "param"))
    return (
        " ".join(str(message or answer.reason).split())[:300],
        code if isinstance(code, str) else None,
        parameter if isinstance(parameter, str) else None,
    )


def _retry_after(value: str | None) -> float | None:
    """Seconds of a `Retry-After` header, which has seconds or a date (RFC 9110, 10.2.3).

    None where it says nothing of a time to come: to ask again at once would be to ask a busy server all the faster.
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return seconds if 0 < seconds < math.inf else None


def _among(names: list[str]) -> str:
    return f"; it has {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else ""
