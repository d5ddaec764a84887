"""Stands for `qemu-system-aarch64` in tests of what is around a board: it takes the same words, and boots nothing.

Where QEMU would forward a port to the board's sshd, there this computer's sshd listens, with the keys that the board is
sent at the head of its first file system; on the console it says what the board does.
"""

from __future__ import annotations

import itertools
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

from sshd import HOST, SERVER, settings

from edgevlm.emulation.board_image import KEYS, READY


def main(words: list[str]) -> None:
    if words == ["--version"]:
        print("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)")
        return
    given = dict(itertools.pairwise(words))
    folder = Path(os.environ["TMPDIR"])
    disk = re.search(r"file=(.*)", given["-drive"])
    for path in (given["-kernel"], given["-initrd"], disk[1] if disk else ""):
        if not Path(path).is_file():
            sys.exit(f"qemu-system-aarch64: could not open '{path}'")
    if given["-m"] == "24M":
        Path(given["-serial"].removeprefix("file:")).write_text("[    0.0] Linux\nKernel panic - not syncing: memory\n")
        return
    with Path(given["-initrd"]).open("rb") as first:  # cpio stops at the end of the first archive
        subprocess.run(["cpio", "-i", "-d", "--quiet"], stdin=first, cwd=folder, check=True)
    forwarded = re.search(rf"hostfwd=tcp:{HOST}:(\d+)-", given["-netdev"])
    port = int(forwarded[1]) if forwarded else 0
    (folder / KEYS / "host").chmod(0o600)
    config = folder / "sshd_config"
    config.write_text(settings(port, folder / KEYS / "host", folder / KEYS / "authorized_keys", **_session()))
    if os.fork() == 0:
        _say_when_it_listens(port, Path(given["-serial"].removeprefix("file:")))
        return
    os.execv(str(SERVER), [str(SERVER), "-D", "-e", "-f", str(config)])


def _session() -> dict[str, str]:
    """What a login over there finds: this Python, and a folder for what is temporary."""
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"  # and not what the user's own profile makes of it
    return {
        "SetEnv": f"TMPDIR={os.environ['TMPDIR']}",
        "ForceCommand": f'PATH={path} exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"',
    }


def _say_when_it_listens(port: int, console: Path) -> None:
    for _ in range(200):
        try:
            socket.create_connection((HOST, port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            break
    console.write_text(f"[    1.0] {READY}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
