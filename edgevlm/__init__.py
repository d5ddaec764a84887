"""EdgeVLM: a vision-language model goes in; a small, verified bundle that a device can load comes out."""

from __future__ import annotations

from pathlib import Path

__version__ = "0.1.0"

# At the checkout's root Python finds this folder before the installed package, and with it only this third of
# the house; the siblings `converters/`, `runtimes/` and `benchmarks/` are found once the root is on the path.
_checkout = Path(__file__).parent.parent
if (_checkout / "pyproject.toml").is_file() and str(_checkout) not in __path__:
    __path__.append(str(_checkout))
