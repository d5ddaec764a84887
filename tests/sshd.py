"""A real sshd on loopback with keys and a configuration of its own, and an ssh configuration that reaches it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from edgevlm.devices.address import Address

SERVER = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
HOST = "127.0.0.1"


class Sshd:
    """The server; started by `start`, on the same port again after `stop`.

    Attributes:
        address: Of the server.
        config: For `ssh -F`.
        there: The temporary folder over there.
    """

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder, self.there = folder, folder / "there"
        self.there.mkdir()
        self._port, self._settings = _free_port(), settings
        self._process: subprocess.Popen[bytes] | None = None
        self.address = Address("ssh", HOST, port=self._port)
        self.config = folder / "ssh_config"
        for name in ("host", "other", "client", "stranger"):
            make_key(folder / name)
        shutil.copy(folder / "client.pub", folder / "authorized_keys")
        self.know("host")
        self.identify("client")

    def know(self, key: str | None) -> None:
        """Makes the client know the server by that key; by none where None."""
        known = f"[{HOST}]:{self._port} {(self.folder / f'{key}.pub').read_text()}" if key else ""
        (self.folder / "known_hosts").write_text(known)

    def identify(self, key: str) -> None:
        """Makes the client log in with that key."""
        self.config.write_text(
            f"Host *\n UserKnownHostsFile {self.folder}/known_hosts\n GlobalKnownHostsFile /dev/null\n"
            f" IdentityFile {self.folder}/{key}\n IdentitiesOnly yes\n IdentityAgent none\n"
        )

    def start(self) -> None:
        """Listens, and waits until it does."""
        config, more = self.folder / "sshd_config", {"SetEnv": f"TMPDIR={self.there}", **self._settings}
        config.write_text(settings(self._port, self.folder / "host", self.folder / "authorized_keys", **more))
        with (self.folder / "sshd.log").open("ab") as log:
            self._process = subprocess.Popen([str(SERVER), "-D", "-e", "-f", str(config)], stderr=log)
        for _ in range(200):
            with suppress(OSError), socket.create_connection((HOST, self._port), timeout=1):
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError((self.folder / "sshd.log").read_text())

    def cut(self) -> None:
        """Ends every connection as a pulled plug does: the server's processes for it are killed."""
        if self._process is None:
            raise RuntimeError("not started")
        for session in descendants(self._process.pid):
            if (name := _status(session).get("Name", "")) and name.startswith("sshd"):
                with suppress(ProcessLookupError):
                    os.kill(session, signal.SIGKILL)

    def stop(self) -> None:
        """Stops listening, and ends every connection."""
        if self._process is not None:
            self.cut()
            self._process.terminate()
            self._process.wait(10)
            self._process = None


def settings(port: int, key: Path, authorized: Path, **more: str) -> str:
    """A server's configuration file, for a server that can be started."""
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's privilege separation directory
    lines = {
        "Port": port,
        "ListenAddress": HOST,
        "HostKey": key,
        "AuthorizedKeysFile": authorized,
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        **more,
    }
    return "".join(f"{name} {value}\n" for name, value in lines.items())


def make_key(path: Path) -> None:
    """A key pair, at `path` and `path`.pub."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path)], check=True)


def descendants(parent: int) -> list[int]:
    """The processes below one."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*"):
        if _status(int(path.name)).get("PPid") == str(parent):
            found += [int(path.name), *descendants(int(path.name))]
    return found


def running_in(folder: Path | str) -> list[int]:
    """The processes whose environment names a folder of ours over there."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"EDGEVLM_FOLDER={folder}".encode() in (path / "environ").read_bytes():
                found.append(int(path.name))
    return found


def named(word: str) -> list[int]:
    """The processes with that word in their command."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if word.encode() in (path / "cmdline").read_bytes() and int(path.name) != os.getpid():
                found.append(int(path.name))
    return found


def _status(process: int) -> dict[str, str]:
    with suppress(OSError):
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return {}


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as server:
        port: int = server.getsockname()[1]
    return port
