from __future__ import annotations

import functools
import gc
import os
import signal
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path

import bytecode_cache
import pytest

# Two cores serve everyone: a thread a process is faster than threads that wait for one another. Backends read this
# when they are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
bytecode_cache.keep()

pytest_plugins = ["patience", "pytester"]


def pytest_configure(config: pytest.Config) -> None:
    """What is converted is shared by a run's workers, kept for later runs of the same sources, and not the user's.

    What devices are emulated with, some 450 MB, is kept for all later runs.
    """
    from made import home

    from edgevlm.process.garbage import collect_seldom

    collect_seldom()
    if not hasattr(config, "workerinput") and config.getoption("numprocesses", None):
        bytecode_cache.compile_once()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a shell's background, where Ctrl-C would end nothing
        signal.signal(signal.SIGINT, signal.default_int_handler)

    if hasattr(config, "cache"):
        folder, devices = (config.cache.mkdir(name) for name in ("made", "devices"))
    else:  # with `-p no:cacheprovider`
        scratch = tempfile.TemporaryDirectory(prefix="edgevlm-tests-")
        config.add_cleanup(scratch.cleanup)
        folder, devices = Path(scratch.name, "made"), Path(scratch.name, "devices")
    os.environ["EDGEVLM_CACHE_DIR"] = str(home(folder, devices))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """coremltools collects all garbage after each conversion: half a second beside what frameworks and tests keep."""
    gc.collect()
    gc.freeze()
    entry = sys.modules.get("coremltools.converters._converters_entry")
    if entry is not None:
        entry.gc = types.SimpleNamespace(collect=functools.partial(gc.collect, 0))  # type: ignore[attr-defined]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes minutes begins first, `slow(first=True)`: begun last, the other workers would wait for it."""
    items.sort(key=lambda item: not any(each.kwargs.get("first") for each in item.iter_markers("slow")))
    from edgevlm.runtimes.coreml import apple_runtime_works

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


@pytest.fixture(scope="session")
def labels_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labels") / "labels.txt"
    path.write_text("red circle\nblue star\n\ntwo green squares\n")
    return path
