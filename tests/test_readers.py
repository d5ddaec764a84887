"""Whatever a file holds, its reader reads it or refuses it with an error of EdgeVLM's, and soon."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from edgevlm.benchmarks.attacks import documents, readers
from edgevlm.benchmarks.attacks.readers import READERS, Reader
from edgevlm.errors import EdgeVLMError

SLOW = (
    *("recipe", "distillation recipe", "devices", "student"),
    *("golden", "golden's picture", "golden's sheet", "weights", "list of weights", "config", "text rules"),
)
"""Of which a mutant takes longer than a few milliseconds; the slow tier has more of each."""
NAMES_NOTHING = ("bundle's name", "shards' names", "device's answer")
"""Whose document is sound, and names what is not there, or says what went wrong."""
ROUNDS = [
    *(pytest.param(name, 40 if name in SLOW else 200, id=name) for name in READERS),
    *(pytest.param(name, 500, id=f"{name}-long", marks=pytest.mark.slow) for name in READERS if name not in SLOW),
    *(pytest.param(name, 100, id=f"{name}-long", marks=pytest.mark.slow) for name in SLOW),
]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize(("name", "mutants"), ROUNDS)
def test_a_mutant_is_read_or_refused(name: str, mutants: int, tmp_path: Path) -> None:
    reader = READERS[name]
    reader.prepare(tmp_path)
    file = tmp_path / reader.file
    whole = file.read_bytes()
    if name not in NAMES_NOTHING:
        reader.read(file)
    for number, mutant in enumerate(islice(documents.mutants(whole, reader.form, f"{name}/{mutants}"), mutants)):
        file.write_bytes(mutant)
        result, said = readers.trial(reader, file)
        assert result in ("read", "refused"), f"{number}: {said}: {mutant[:2000]!r}"


def test_mutants_are_the_same_each_time_and_rarely_what_they_were_made_of() -> None:
    whole = b'{"a": [1, 2.5, "x"], "b": {"c": null}}'
    first, again = (list(islice(documents.mutants(whole, "json", 7), 300)) for _ in range(2))
    assert first == again
    assert len({*first}) > 200
    assert whole not in first[:20]


def test_a_fault_of_a_reader_is_found(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        raise KeyError(path.name)

    def wait(path: Path) -> None:
        while True:
            pass

    def refuse(path: Path) -> None:
        raise EdgeVLMError("")

    faults = {
        fail: ("traceback", "KeyError: 'a'"),
        wait: ("hung", "took longer than 0.1 s"),
        refuse: ("traceback", "refused without a word"),
    }
    for read, (expected, begins) in faults.items():
        result, said = readers.trial(Reader("a", "a", "json", lambda folder: None, read), tmp_path / "a", seconds=0.1)
        assert result == expected
        assert said.startswith(begins)
