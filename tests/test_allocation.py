from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys
import numpy as np
from contextlib import nullcontext
from edgevlm.compression.allocation import mapped_activations

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

for megabytes in (1, 8, 31):
    np.ones(megabytes << 17)  # freed at once: glibc now keeps what is smaller in its heap
with mapped_activations() if sys.argv[1] == "mapped" else nullcontext():
    activations, kept = [], []
    for _ in range(32):  # of 1 MiB: less than the heap's end has to hold before glibc gives some of that back
        activations.append(np.ones(1 << 17))
        kept.append(np.ones(1 << 11))
    before = resident()
    del activations
    print(before - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_activations_go_back_to_the_system_when_they_are_freed() -> None:
    freed = {
        how: int(subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True).stdout)
        for how in ("mapped", "plain")
    }
    assert freed["mapped"] > 30 << 20
    assert freed["plain"] < 15 << 20  # else there is no need for it any more
