"""A machine reached by ssh. It needs sshd and Python 3.11 or newer; all else is sent to a temporary folder there."""

from __future__ import annotations

import io
import shlex
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

from edgevlm.devices import far_side, site
from edgevlm.devices.address import Address
from edgevlm.devices.answers import answers
from edgevlm.devices.connection import Connection, NotReached
from edgevlm.devices.far_python import FarPython, ended
from edgevlm.devices.machine import try_again
from edgevlm.errors import ConnectionLost, DeviceError
from edgevlm.process import interrupts
from edgevlm.process.progress import Progress, silent

PAUSES_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Between tries to reach a machine again: together, about what a board takes to boot."""

_IMPORTED_AS = {name: name for name in ("numpy", "tokenizers", "flatbuffers")}
_IMPORTED_AS |= {"pillow": "PIL", "ai-edge-litert": "ai_edge_litert"}
_WHEELS_GLIBC = (2, 28)  # the newest that `site.site_packages` may fetch for
_BLOCK_BYTES = 4096
_PARTING_SECONDS = 10.0


class Ssh:
    """A machine reached by ssh.

    Args:
        address: Of the scheme `ssh`.
        python: The interpreter over there; where empty, the newest that is found.
        targets: Of the bundles that it is to run: it is sent what they need and it lacks.
        talks: Whether one of them talks.
        config: ssh's configuration file; the user's own where None.
        emulator: What plays the machine; None for a real one.
        progress: Told what is sent.

    Attributes:
        packages: Those of `numpy`, `PIL`, `tokenizers`, `ai_edge_litert`, `flatbuffers`, `torch` and `executorch` that
            its Python can import. ExecuTorch's bindings need torch, which is never sent.
        folder: Ours over there.
    """

    def __init__(
        self,
        address: Address,
        *,
        python: str = "",
        targets: Sequence[str] = (),
        talks: bool = False,
        config: Path | None = None,
        emulator: str | None = None,
        progress: Progress = silent,
    ) -> None:
        self.emulator = emulator
        self.architecture = ""
        self.packages: frozenset[str] = frozenset()
        self.folder = ""
        self._connection = Connection(address, config)
        self._python = FarPython(self._connection, python, "")
        self._targets, self._talks, self._progress = tuple(targets), talks, progress
        self._sent: dict[tuple[Path, int, int], str] = {}
        self._missing: set[str] = set()  # of what was sent: what is no longer there
        self._paths: list[str] = []
        self._held = ExitStack()

    def __enter__(self) -> Ssh:
        with ExitStack() as held:
            held.callback(self._connection.close)
            self._progress(f"connecting to {self._connection.host}", None)
            self._connection.open()
            self._python = FarPython.find(self._connection, self._python.path)
            with interrupts.put_off():
                facts = self._settle()
                held.callback(self._leave)
                held.enter_context(interrupts.at_stop(self._remove))
            self.architecture, self.packages = facts["architecture"], frozenset(facts["packages"])
            self._set_up(facts)
            self._held = held.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._held.close()

    def put(self, local: Path, progress: Progress = silent) -> str:
        """Copies a file or a folder there, once, and from its beginning where the connection is lost; see `Machine`.

        Raises:
            DeviceError: there is no space, or no permission.
            ConnectionLost: the machine is no longer reached.
        """
        local = local.resolve()
        stats = [path.stat() for path in _files(local)]
        # A file that has been changed since is another file.
        key = (local, sum(each.st_size for each in stats), max((each.st_mtime_ns for each in stats), default=0))

        def put() -> str:
            self._reach()
            if key not in self._sent:
                there = f"{self.folder}/{len(self._sent)}"
                self._send(local, there, progress)
                self._sent[key] = there
            return f"{self._sent[key]}/{local.name}"

        return try_again(put)

    def ask(self, job: Mapping[str, Any], *, timeout_seconds: float) -> Iterator[Mapping[str, Any]]:
        """Runs one job in a fresh process; see `Machine`.

        Raises:
            DeviceError: it failed, took too long, or crashed.
            OutOfMemory: it was killed for want of memory.
            ConnectionLost: the machine is no longer reached; the same job can be asked again.
        """
        self._reach()
        # What a job that is killed leaves among its temporary files goes with the folder.
        variables = {"PYTHONPATH": ":".join(self._paths), "TMPDIR": self.folder, far_side.MARK: self.folder}
        line = f"cd {shlex.quote(self.folder)} && {self._python.line('-P -m edgevlm.onboard', **variables)}"
        try:
            yield from answers(
                self._connection.command(line),
                job,
                timeout_seconds=timeout_seconds,
                ended=lambda code, said: ended(self._connection, code, said),
            )
        except ConnectionLost:
            raise
        except BaseException:
            with suppress(DeviceError):  # a process that is stuck does not notice that its stdin ends
                self._python.do({"do": "leave", "folder": self.folder, "remove": False}, seconds=_PARTING_SECONDS)
            raise

    def _reach(self) -> None:
        """Connects again where the connection was lost, and sends what is no longer there."""
        if not self._connection.alive:
            self._connect_again()
        for (local, _, _), there in self._sent.items():
            if there in self._missing:
                self._send(local, there, self._progress)
                self._missing.remove(there)

    def _connect_again(self) -> None:
        """Tries to, for as long as a board may take to boot, and finds the folder again."""
        host = self._connection.host
        for pause in (*PAUSES_SECONDS, None):
            self._progress(f"connecting to {host} again", None)
            try:
                self._connection.open()
                self._settle()
                return
            except (NotReached, ConnectionLost) as error:
                if pause is None:
                    raise DeviceError(
                        f"the connection to {host} was lost, and {len(PAUSES_SECONDS) + 1} tries to connect again "
                        f"failed: {error.message}",
                        hint=error.hint,
                    ) from error
                time.sleep(pause)

    def _settle(self) -> dict[str, Any]:
        sent = list(self._sent.values())
        facts: dict[str, Any] = self._python.do({"do": "settle", "folder": self.folder, "sent": sent})
        self.folder = facts["folder"]
        self._missing = set(facts["missing"])
        return facts

    def _set_up(self, facts: Mapping[str, Any]) -> None:
        """Sends our sources, and the packages that are missing."""
        wanted = [*site.PACKAGES, *(site.BACKENDS[target] for target in self._targets if target in site.BACKENDS)]
        wanted += [site.OF_TALKERS] if self._talks else []
        missing = [name for name in wanted if _IMPORTED_AS[name] not in self.packages]
        folders = [site.own_sources()]
        if missing:
            self._check_wheels_fit(missing, facts)
            wheels = site.site_packages(
                [site.pinned(name) for name in missing],
                python=self._python.version,
                architecture=self.architecture,
                progress=self._progress,
            )
            folders.append(wheels)
        self._paths = [self.put(folder, self._progress) for folder in folders]
        self.packages |= {_IMPORTED_AS[name] for name in missing}

    def _check_wheels_fit(self, missing: Sequence[str], facts: Mapping[str, Any]) -> None:
        library, version = facts["libc"]
        numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
        if facts["system"] == "Linux" and library == "glibc" and numbers >= _WHEELS_GLIBC:
            return
        oldest = ".".join(map(str, _WHEELS_GLIBC))
        raise DeviceError(
            f"{self._connection.host} lacks {', '.join(missing)}; they can be sent to Linux with glibc {oldest} or "
            f"newer, and it has {facts['system']} with {f'{library} {version}' if library else 'another C library'}",
            hint=f"install them over there, for {self._python.path}",
        )

    def _send(self, local: Path, there: str, progress: Progress) -> None:
        sizes = [path.stat().st_size for path in _files(local)]
        blocks = sum(-(-size // _BLOCK_BYTES) + 1 for size in sizes)  # one for each file's own entry
        said = f"sending {local.name} to {self._connection.host}, {sum(sizes) / 1e6:.1f} MB"
        progress(said, 0.0)

        def feed(pipe: IO[bytes]) -> None:
            counted = _Counted(pipe, said, max(1, sum(sizes)), progress)
            with tarfile.open(fileobj=counted, mode="w|", dereference=True) as tar:
                tar.add(local, arcname=local.name, filter=_without_owner)
            pipe.write(far_side.WHOLE)

        request = {"do": "unpack", "folder": self.folder, "to": there, "size_bytes": blocks * _BLOCK_BYTES}
        self._python.do(request, feed)
        progress(said, 1.0)

    def _leave(self) -> None:
        """Removes the folder, if need be over a new connection; says so where that does not work."""
        for again in (True, False):
            try:
                if not self._connection.alive:
                    self._connection.open()
                self._remove()
                break
            except DeviceError as error:
                if not (again and isinstance(error, ConnectionLost)):
                    self._progress(f"{self.folder} stays on {self._connection.host}: {error.message}", None)
                    break

    def _remove(self) -> None:
        if self._connection.alive:
            self._python.do({"do": "leave", "folder": self.folder, "remove": True}, seconds=_PARTING_SECONDS)


class _Counted(io.RawIOBase):
    """A pipe that tells how much has gone through it."""

    def __init__(self, pipe: IO[bytes], said: str, total_bytes: int, progress: Progress) -> None:
        self._pipe, self._said, self._total_bytes, self._progress = pipe, said, total_bytes, progress
        self._done_bytes, self._told, self._broken = 0, 0.0, False

    def write(self, data: Any) -> int:
        if self._broken:  # tarfile, which writes its last block even so
            return len(data)
        try:
            self._pipe.write(data)
        except BrokenPipeError:
            self._broken = True
            raise
        self._done_bytes += len(data)
        share = self._done_bytes / self._total_bytes
        if self._told + 0.01 <= share < 1:
            self._told = share
            self._progress(self._said, share)
        return len(data)


def _files(local: Path) -> list[Path]:
    return [path for path in sorted(local.rglob("*")) if path.is_file()] if local.is_dir() else [local]


def _without_owner(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry
