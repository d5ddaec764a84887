"""One session asked by several threads at once, here or in a process of its own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np

from edgevlm.benchmarks.attacks.outcomes import Outcome, tell
from edgevlm.bundle.bundle import Bundle
from edgevlm.errors import EdgeVLMError
from edgevlm.inference.embedder import BundleModel

_THREADS = 4
_QUESTIONS = 12
_CALLS = 200


def attack(bundle: Bundle, number: int) -> Outcome:
    """Asks from four threads, and closes the session in their midst; of odd numbers it is in a process of its own."""
    what = f"{bundle.manifest.target}, {'isolated' if number % 2 else 'in this process'}"
    rng = np.random.default_rng(number)
    pictures = [rng.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(_QUESTIONS)]
    texts = [f"a red circle and {count} stars" for count in range(_QUESTIONS)]
    try:
        with BundleModel(bundle, threads=1, trusted=not number % 2) as model:
            seen = [model.encode_image([picture]) for picture in pictures]
            read = [model.encode_text([text]) for text in texts]

            def is_wrong(call: int) -> bool:
                which = call % _QUESTIONS
                image, text = model.encode_image([pictures[which]]), model.encode_text([texts[which]])
                return not (np.array_equal(image, seen[which]) and np.array_equal(text, read[which]))

            with ThreadPoolExecutor(_THREADS) as threads:
                wrong = sum(threads.map(is_wrong, range(_CALLS)))
            if wrong:
                return Outcome("threads", what, number, "wrong", f"{wrong} of {_CALLS} answers")
            with ThreadPoolExecutor(_THREADS) as threads:
                asked = [threads.submit(is_wrong, call) for call in range(_CALLS)]
                with suppress(EdgeVLMError):  # another thread runs it
                    model.close()
                for each in asked:
                    error = each.exception()
                    if error is not None and not isinstance(error, EdgeVLMError):
                        raise error
                    if error is None and each.result():
                        return Outcome("threads", what, number, "wrong", "while it was closed")
    except EdgeVLMError as error:
        return Outcome("threads", what, number, "refused", error.message)
    except Exception as error:
        return Outcome("threads", what, number, "traceback", tell(error))
    return Outcome("threads", what, number, "same answers", f"{_CALLS} calls")
