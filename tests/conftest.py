from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Two cores serve everyone: a thread a process is faster than threads that wait for one another. Backends read this
# when they are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A worker takes a file at a time. Those of minutes come first: none is left for the end, when others are done.
_SLOWEST = (
    *("pipeline", "compression_targets", "readme", "emulation", "blame", "tuning", "students", "forecast"),
    *("mlprogram_foreign", "package", "converters", "distillation", "bench", "fuzzing", "builtin"),
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    from edgevlm.runtimes.coreml import apple_runtime_works

    order = {f"test_{name}": place for place, name in enumerate(_SLOWEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))
    if config.option.markexpr == "apple" and not apple_runtime_works():
        for item in items:
            item.add_marker(pytest.mark.skip(reason="Apple's predict() runs on macOS alone: nothing was compared"))


@pytest.fixture(autouse=True)
def _apples_answers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With `-m apple` on a Mac, what the evaluator answers Core ML has to answer as well."""
    if request.config.option.markexpr != "apple":
        yield
        return
    from apple import agreeing

    with agreeing(monkeypatch):
        yield


@pytest.fixture(scope="session", autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[None]:
    """Conversions of one test run are shared by its workers and leave nothing in the user's cache."""
    base = tmp_path_factory.getbasetemp()
    patch = pytest.MonkeyPatch()
    patch.setenv("EDGEVLM_CACHE_DIR", str((base if worker_id == "master" else base.parent) / "edgevlm-cache"))
    yield
    patch.undo()


@pytest.fixture
def kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where what devices are emulated with, some 450 MB, is kept from one test run to the next."""
    from edgevlm.process import store

    folder = request.config.cache.mkdir("devices").parent
    monkeypatch.setattr(store, "folder", lambda: folder)
    return folder


@pytest.fixture(scope="session")
def labels_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labels") / "labels.txt"
    path.write_text("red circle\nblue star\n\ntwo green squares\n")
    return path
