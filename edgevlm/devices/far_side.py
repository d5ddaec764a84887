"""What is done on a machine reached by ssh besides jobs: its source is sent as text to a bare Python there and run.

The first line of stdin is the request, `{"do": "settle" | "unpack" | "leave", ...}`; stdout gets JSON lines. It uses
the standard library alone. Every process of ours there but this one has the folder in its environment, in `MARK`.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import platform
import shutil
import signal
import struct
import sys
import tarfile
import tempfile
from contextlib import suppress
from typing import Any

MARK = "EDGEVLM_FOLDER"
WHOLE = b"edgevlm-whole"
"""Follows a tar stream: to `tarfile` one that was cut off between two files is whole."""
PACKAGES = ("numpy", "PIL", "tokenizers", "ai_edge_litert", "flatbuffers", "torch", "executorch")


def settle(request: dict[str, Any]) -> dict[str, Any]:
    """Makes the folder, or finds it again, ends what a lost connection left running and removes what that left."""
    folder, sent = request["folder"], request["sent"]
    if folder and os.path.isdir(folder):
        end_processes(folder)
        for path in (os.path.join(folder, name) for name in os.listdir(folder)):
            if path not in sent:
                remove(path)
    elif folder:  # the machine has been started anew
        os.mkdir(folder, 0o700)
    else:
        folder = os.path.realpath(tempfile.mkdtemp(prefix="edgevlm-"))
    machine = platform.machine()
    if struct.calcsize("P") == 4:  # a 64-bit kernel may carry a 32-bit system
        machine = {"aarch64": "armv7l", "x86_64": "i686"}.get(machine, machine)
    return {
        "folder": folder,
        "missing": [path for path in sent if not os.path.isdir(path)],
        "architecture": machine,
        "system": platform.system(),
        "libc": list(platform.libc_ver()),
        "packages": [name for name in PACKAGES if importlib.util.find_spec(name)],
    }


def unpack(request: dict[str, Any]) -> dict[str, Any]:
    """Unpacks a tar stream from stdin, in full or not at all, once its size is known to fit; `WHOLE` follows it."""
    folder, to = request["folder"], request["to"]
    free = shutil.disk_usage(folder).free
    if request["size_bytes"] > free:
        raise OSError(errno.ENOSPC, f"{free / 1e6:.1f} MB free, {request['size_bytes'] / 1e6:.1f} MB needed", folder)
    say({"ready": True})
    stage = tempfile.mkdtemp(dir=folder, prefix=".part-")
    try:
        with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as tar:
            # The stream is ours, and checking each path takes a small board longer than writing the files.
            tar.extraction_filter = lambda entry, path: entry
            tar.extractall(stage)
        if not sys.stdin.buffer.read().endswith(WHOLE):
            raise tarfile.ReadError("the stream was cut off")
        remove(to)  # it is there where a connection was lost once all had arrived
        os.rename(stage, to)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise
    return {}


def leave(request: dict[str, Any]) -> dict[str, Any]:
    """Ends our processes and, where it is asked to, removes the folder."""
    end_processes(request["folder"])
    if request["remove"] and os.path.isdir(request["folder"]):
        shutil.rmtree(request["folder"])
    return {}


def remove(path: str) -> None:
    """Removes a file or a folder, as far as that goes."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            os.unlink(path)


def end_processes(folder: str) -> None:
    """Kills what of ours still runs, even where it is stuck. Where there is no /proc, the end of stdin has to do."""
    mark = f"{MARK}={folder}".encode()
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                ours = mark in file.read().split(b"\0")
            if ours:
                os.kill(int(name), signal.SIGKILL)
        except OSError:  # another user's, or it has ended
            continue


def say(data: dict[str, Any]) -> None:
    """One line to the other side."""
    sys.stdout.write(json.dumps(data) + "\n")
    sys.stdout.flush()


def main() -> None:
    """One request."""
    request = json.loads(sys.stdin.buffer.readline())
    try:
        say({"done": {"settle": settle, "unpack": unpack, "leave": leave}[request["do"]](request)})
    except (OSError, tarfile.TarError) as error:
        code = errno.errorcode.get(getattr(error, "errno", None) or 0, type(error).__name__)
        say({"failed": {"code": code, "message": str(error)}})


if __name__ == "__main__":
    main()
