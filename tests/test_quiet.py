"""What third parties say: out of sight, or all of it with EDGEVLM_DEBUG=1."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings

import pytest
from rich.progress import Progress
from tqdm import tqdm

from edgevlm.process.quiet import quiet

CHATTER = """
import logging, os, sys, warnings
from tqdm import tqdm
from edgevlm.process.quiet import quiet, silent_stderr
with quiet():
    print("printed")
    logging.getLogger("library").warning("logged")
    warnings.warn("warned")
    list(tqdm(range(3), desc="bar"))
    logging.getLogger("library").error("failed")
with silent_stderr() as real:
    os.write(2, b"from C++\\n")
    print("ours", file=real)
os.write(2, b"after\\n")
"""


@pytest.mark.parametrize("debug", ["", "1"])
def test_chatter_is_hidden_unless_one_asks_for_it(debug: str) -> None:
    environment = {**os.environ, "EDGEVLM_DEBUG": debug}
    done = subprocess.run([sys.executable, "-c", CHATTER], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == ""  # which is for answers
    for said in ("printed", "failed", "ours", "after"):
        assert said in done.stderr
    for said in ("logged", "warned", "bar", "from C++"):
        assert (said in done.stderr) == bool(debug), said


def test_afterwards_everything_is_as_it_was() -> None:
    stdout, disabled = sys.stdout, logging.root.manager.disable
    filters = list(warnings.filters)
    with pytest.raises(ValueError, match="own"), quiet():
        with quiet():
            assert not logging.getLogger("library").isEnabledFor(logging.WARNING)
        assert not logging.getLogger("library").isEnabledFor(logging.WARNING)
        assert tqdm(range(3)).disable
        assert Progress().disable
        raise ValueError("the library's own")
    assert (sys.stdout, logging.root.manager.disable) == (stdout, disabled)
    assert list(warnings.filters) == filters
    assert not tqdm(range(3)).disable
    assert not Progress().disable
