"""C for what ExecuTorch's library expects from torch and Python: loops over a grid, and refusals of all else.

The loops are pthreadpool's, whose names say all of their form: `pthreadpool_parallelize_3d_tile_2d_with_uarch` walks
three dimensions, the last two in tiles, and tells its task which kind of core it runs on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_LOOP = re.compile(
    r"pthreadpool_parallelize_(?P<dims>\d)d(_tile_(?P<tiles>\d)d)?(_dynamic)?(?P<uarch>_with_uarch)?"
    r"(?P<thread>_with_thread)?"
)


def source(missing: Iterable[str]) -> str:
    """Definitions of symbols.

    Args:
        missing: Names, as the linker has them.
    """
    parts = [
        "#include <stddef.h>\n#include <stdint.h>\n",
        "void refuse(const char *name);",
        "static size_t least(size_t a, size_t b) { return a < b ? a : b; }",
        *(_loop(name) or f'void {name}(void) {{ refuse("{name}"); }}' for name in sorted(missing)),
    ]
    return "\n".join(parts) + "\n"


def _loop(name: str) -> str | None:
    """A function that calls its task for each place of a grid, in order; None if the name is not of one."""
    found = _LOOP.fullmatch(name)
    if found is None:
        return None
    dims, tiles = int(found["dims"]), int(found["tiles"] or 0)
    tiled = range(dims - tiles, dims)
    ids = [*(["uarch"] if found["uarch"] else []), *(["0"] if found["thread"] else [])]
    steps = [f"tile{each}" if each in tiled else "1" for each in range(dims)]
    counts = [f"least(range{each} - i{each}, tile{each})" for each in tiled]
    takes = ["void *pool", "void (*task)()", "void *context"]
    takes += ["uint32_t uarch", "uint32_t most_uarch"] if found["uarch"] else []
    takes += [f"size_t range{each}" for each in range(dims)] + [f"size_t tile{each}" for each in tiled]
    types = ["void *", *["uint32_t"] * bool(found["uarch"]), *["size_t"] * (bool(found["thread"]) + dims + tiles)]
    nest = "".join(
        f"    for (size_t i{each} = 0; i{each} < range{each}; i{each} += {step})\n" for each, step in enumerate(steps)
    )
    called = ", ".join(["context", *ids, *(f"i{each}" for each in range(dims)), *counts])
    call = f"((void (*)({', '.join(types)}))task)({called});"
    return f"void {name}({', '.join([*takes, 'uint32_t flags'])}) {{\n{nest}        {call}\n}}"
