"""A stand-in for a phone, for tests of what talks to one: no phone can run here.

It speaks adbd's side of adb's protocol over TCP (no encryption, no keys), so that the system's real adb server and
client talk to it. What it is asked to run, a real shell runs on this computer: mksh with toybox's tools where they are
installed, as on Android, else /bin/sh; the phone's paths are names for folders below a root of its own. What Android
alone has (`getprop`, `dumpsys`, `logcat`) are scripts with answers that a phone might give.
"""

from __future__ import annotations

import os
import shutil
import socket
import socketserver
import stat
import struct
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

_HEADER = struct.Struct("<6I")
_CNXN, _OPEN, _OKAY, _WRTE, _CLSE, _AUTH = (
    int.from_bytes(name, "little") for name in (b"CNXN", b"OPEN", b"OKAY", b"WRTE", b"CLSE", b"AUTH")
)
_VERSION, _MOST_BYTES = 0x01000001, 256 * 1024
_TOKEN, _STDOUT, _EXIT = 1, 1, 3
_TOYBOX = ("cat", "chmod", "echo", "mkdir", "mktemp", "nproc", "rm", "sleep", "uname", "uptime", "wc")


PROPERTIES: Mapping[str, str] = {
    "ro.product.manufacturer": "Stand-in",
    "ro.product.model": "Phone",
    "ro.soc.manufacturer": "QTI",
    "ro.soc.model": "SM8550",
    "ro.build.version.release": "14",
    "ro.product.cpu.abilist": "arm64-v8a,armeabi-v7a,armeabi",
    "ro.product.cpu.abi": "arm64-v8a",
}
THERMAL = """Thermal Status: 1
Cached temperatures:
\tTemperature{mValue=30.1, mType=3, mName=skin, mStatus=0}
Current temperatures from HAL:
\tTemperature{mValue=41.5, mType=0, mName=CPU0, mStatus=0}
\tTemperature{mValue=38.25, mType=3, mName=skin, mStatus=1}
\tTemperature{mValue=4180.0, mType=6, mName=vbat, mStatus=0}
Current cooling devices from HAL:
"""
DF = """Filesystem      1K-blocks     Used Available Use% Mounted on
/dev/block/dm-9 114909124 {used} {available}  44% /data/user/0
"""


@dataclass
class Phone:
    """What a test has the stand-in do.

    Attributes:
        root: Where its files lie.
        unauthorized: Whether it never accepts the computer's key.
        silent: Whether it never answers at all.
        push_error: What it says to a file that is sent.
        cut_at: It hangs up in the middle of a command that holds this text;
        cuts: so many times.
        properties: Of `getprop`.
        commands: What it was asked to run.
    """

    root: Path
    unauthorized: bool = False
    silent: bool = False
    push_error: str = ""
    cut_at: str = ""
    cuts: int = 0
    properties: dict[str, str] = field(default_factory=lambda: dict(PROPERTIES))
    commands: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        shell = shutil.which("mksh") and shutil.which("toybox")
        self.shell = "mksh" if shell else "/bin/sh"
        tools = self.root / "bin"
        for folder in (tools, self.temporary):
            folder.mkdir(parents=True)
        if shell:
            for name in _TOYBOX:
                (tools / name).symlink_to(shutil.which("toybox") or "")
        self.script("getprop", f'cat "{self.root}/properties/$1" 2> /dev/null || echo')
        self.script("dumpsys", f"cat <<'END'\n{THERMAL}END")
        self.script("logcat", f'test -f "{self.root}/log" && cat "{self.root}/log"; rm -f "{self.root}/log"')
        self.free(60_000_000)
        self.file("/proc/meminfo", "MemTotal:        7654321 kB\nMemFree:          123456 kB\n")
        self.file("/proc/cpuinfo", "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd46\n")
        for policy, clock in (("policy0", 2016000), ("policy7", 3187200)):
            folder = f"/sys/devices/system/cpu/cpufreq/{policy}"
            self.file(f"{folder}/scaling_governor", "walt\n")
            self.file(f"{folder}/scaling_cur_freq", f"{clock // 2}\n")
            self.file(f"{folder}/cpuinfo_max_freq", f"{clock}\n")

    @property
    def temporary(self) -> Path:
        """Its /data/local/tmp."""
        return self.root / "data/local/tmp"

    def script(self, name: str, text: str) -> None:
        """A command of the phone's."""
        path = self.root / "bin" / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def file(self, path: str, text: str) -> None:
        """A file of the phone's."""
        where = self.root / path[1:]
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_text(text)

    def free(self, kilobytes: int) -> None:
        """How much space `df` says there is."""
        self.script("df", f"cat <<'END'\n{DF.format(used=50_000_000, available=kilobytes)}END")

    def here(self, text: str) -> str:
        """A command with the phone's paths as they are called on this computer."""
        for path in ("/data/", "/sys/", "/proc/meminfo", "/proc/cpuinfo"):
            text = text.replace(path, f"{self.root}{path}")
        return text

    def there(self, data: bytes) -> bytes:
        """What a command wrote, with paths as the phone calls them."""
        return data.replace(str(self.root).encode(), b"")


class Adbd:
    """The stand-in, listening on a port of its own; a context manager."""

    def __init__(self, phone: Phone) -> None:
        self.phone = phone
        self._links: list[socket.socket] = []

    @property
    def serial(self) -> str:
        """What adb calls it."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Adbd:
        phone, links = self.phone, self._links
        properties = phone.root / "properties"
        properties.mkdir(exist_ok=True)
        for name, value in phone.properties.items():
            (properties / name).write_text(f"{value}\n")

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                links.append(self.request)
                with suppress(OSError, EOFError):
                    _Link(self.request, phone).serve()

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.hang_up()
        self._server.shutdown()
        self._server.server_close()

    def hang_up(self) -> None:
        """Pulls the cable."""
        for link in self._links:
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)


@contextmanager
def listing(states: Mapping[str, str]) -> Iterator[int]:
    """An adb server, other than the system's, that lists these phones by their serial numbers; gives its port."""
    answers = {
        "host:version": "0029",
        "host:devices": "".join(f"{serial}\t{state}\n" for serial, state in states.items()),
    }

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            answer = answers[self.rfile.read(int(self.rfile.read(4), 16)).decode()]
            self.wfile.write(f"OKAY{len(answer):04x}{answer}".encode())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


class _Link:
    """One TCP connection, over which any number of streams run."""

    def __init__(self, connection: socket.socket, phone: Phone) -> None:
        self.phone = phone
        self._socket = connection
        self._lock = threading.Lock()
        self._streams: dict[int, _Stream] = {}

    def serve(self) -> None:
        while True:
            command, first, second, size, _, _ = _HEADER.unpack(self._take(_HEADER.size))
            data = self._take(size)
            if self.phone.silent:
                continue
            if command in (_CNXN, _AUTH):
                self._greet()
            elif command == _OPEN:
                stream = _Stream(self, len(self._streams) + 1, first)
                self._streams[stream.own] = stream
                threading.Thread(target=stream.serve, args=(data.rstrip(b"\0").decode(),), daemon=True).start()
            elif second in self._streams:
                self._streams[second].take(command, data)

    def send(self, command: int, first: int, second: int, data: bytes = b"") -> None:
        header = _HEADER.pack(command, first, second, len(data), sum(data) & 0xFFFFFFFF, command ^ 0xFFFFFFFF)
        with self._lock:
            self._socket.sendall(header + data)

    def hang_up(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)

    def _greet(self) -> None:
        if self.phone.unauthorized:
            self.send(_AUTH, _TOKEN, 0, os.urandom(20))
        else:
            banner = b"device::ro.product.name=standin;ro.product.model=Phone;features=shell_v2,cmd"
            self.send(_CNXN, _VERSION, _MOST_BYTES, banner)

    def _take(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._socket.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data


class _Stream:
    """One service that the computer opened."""

    def __init__(self, link: _Link, own: int, other: int) -> None:
        self.own = own
        self._link, self._other = link, other
        self._ready: SimpleQueue[bool] = SimpleQueue()
        self._given: SimpleQueue[bytes] = SimpleQueue()
        self._buffer = b""

    def take(self, command: int, data: bytes) -> None:
        if command == _OKAY:
            self._ready.put(True)
        elif command == _WRTE:
            self._given.put(data)
            self._link.send(_OKAY, self.own, self._other)
        elif command == _CLSE:
            self._ready.put(False)
            self._given.put(b"")

    def serve(self, service: str) -> None:
        with suppress(OSError, EOFError):
            if service.startswith("shell,"):
                self._link.send(_OKAY, self.own, self._other)
                self._run(service.partition(":")[2])
            elif service == "sync:":
                self._link.send(_OKAY, self.own, self._other)
                self._exchange_files()
            self._link.send(_CLSE, self.own, self._other)

    def _write(self, data: bytes) -> None:
        self._link.send(_WRTE, self.own, self._other, data)
        if not self._ready.get():
            raise EOFError

    def _read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            part = self._given.get()
            if not part:
                raise EOFError
            self._buffer += part
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def _run(self, line: str) -> None:
        phone = self._link.phone
        phone.commands.append(line)
        cut = bool(phone.cut_at) and phone.cut_at in line and phone.cuts > 0
        environment = {"PATH": f"{phone.root}/bin:{os.environ['PATH']}", "TMPDIR": str(phone.temporary)}
        process = subprocess.Popen(
            [phone.shell, "-c", phone.here(line)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=phone.root,
        )
        if cut:
            phone.cuts -= 1
            threading.Event().wait(0.1)
            self._link.hang_up()
            return
        assert process.stdout is not None
        try:
            while part := os.read(process.stdout.fileno(), 4096):
                self._packet(_STDOUT, phone.there(part))
        finally:
            process.stdout.close()
        self._packet(_EXIT, bytes([process.wait() & 0xFF]))

    def _packet(self, kind: int, data: bytes) -> None:
        self._write(struct.pack("<BI", kind, len(data)) + data)

    def _exchange_files(self) -> None:
        while True:
            name, size = struct.unpack("<4sI", self._read(8))
            if name == b"QUIT":
                return
            text = self._read(size).decode()
            if name == b"STAT":
                self._tell_of(Path(self._link.phone.here(text)))
            elif name == b"SEND":
                self._receive(text)

    def _tell_of(self, path: Path) -> None:
        mode = size = changed = 0
        with suppress(OSError):
            found = path.lstat()
            mode, size, changed = found.st_mode, found.st_size, int(found.st_mtime)
        self._write(struct.pack("<4s3I", b"STAT", mode, size, changed))

    def _receive(self, text: str) -> None:
        path, _, mode = text.rpartition(",")
        where = Path(self._link.phone.here(path))
        error = self._link.phone.push_error
        with tempfile.TemporaryFile() as file:
            while True:
                name, size = struct.unpack("<4sI", self._read(8))
                if name == b"DONE":
                    break
                file.write(self._read(size))
            if not error:
                file.seek(0)
                try:
                    with where.open("wb") as out:
                        shutil.copyfileobj(file, out)
                    where.chmod(stat.S_IMODE(int(mode)))
                except OSError as problem:
                    error = f"couldn't create file: {problem.strerror}"
        self._write(struct.pack("<4sI", b"FAIL" if error else b"OKAY", len(error)) + error.encode())
