"""One connection to a machine through the system's own `ssh`, shared by all that is run there.

The user's configuration, keys and agent are ssh's business; nothing is ever asked for, and no host key is accepted
that is not known already. `EDGEVLM_SSH_CONFIG` names another configuration file than `~/.ssh/config`.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import subprocess
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

from edgevlm.devices.address import Address
from edgevlm.errors import DeviceError
from edgevlm.process.children import end_of, started

FAILED = 255
"""What ssh ends with when it is the connection that failed, and no command of ours there does."""

_READY = b"edgevlm-ready"
_CONNECT_SECONDS = 10
_LOGIN_SECONDS = 40.0
_OPTIONS = (
    "-T -a -x -o BatchMode=yes -o StrictHostKeyChecking=yes -o ClearAllForwardings=yes -o RemoteCommand=none "
    f"-o ConnectTimeout={_CONNECT_SECONDS} -o ServerAliveInterval=5 -o ServerAliveCountMax=6 -o ControlPersist=no"
).split()


class NotReached(DeviceError):
    """No connection came about, and a later try may fare better."""


class Connection:
    """A connection, closed until `open` has been called.

    Args:
        address: Where to.
        config: ssh's configuration file; the user's own where None.
    """

    def __init__(self, address: Address, config: Path | None = None) -> None:
        named = os.environ.get("EDGEVLM_SSH_CONFIG")
        self.address = address
        self._config = config or (Path(named) if named else None)
        self._master: subprocess.Popen[bytes] | None = None
        self._socket = Path()
        self._held = ExitStack()

    @property
    def host(self) -> str:
        """What messages call the machine."""
        return self.address.name

    @property
    def alive(self) -> bool:
        """Whether the connection stands, as far as is known."""
        return self._master is not None and self._master.poll() is None

    def open(self) -> None:
        """Connects and logs in.

        Raises:
            NotReached: the machine is not there, or not yet.
            DeviceError: it will not let us in, or is not the machine that it was.
        """
        self.close()
        stderr = self._held.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        # In a folder with a short name, as systems allow no more; ssh makes it for its user alone, and removes it.
        self._socket = Path("/tmp") / f"edgevlm-{secrets.token_hex(8)}"
        self._held.callback(self._socket.unlink, missing_ok=True)
        # The far `cat` ends with our end of the pipe, and the connection with it, however this process ends.
        command = [*self._words("yes"), f"echo {_READY.decode()}; exec cat > /dev/null"]
        try:
            master = self._held.enter_context(started(command, stderr))
        except FileNotFoundError as error:
            raise DeviceError("no ssh client here", hint="install OpenSSH's: apt install openssh-client") from error
        timer = threading.Timer(_LOGIN_SECONDS, master.kill)
        timer.daemon = True
        timer.start()
        try:
            if not any(line.strip() == _READY for line in master.stdout or ()):
                master.wait()
                raise _failure(self.address, self._config, end_of(stderr))
        finally:
            timer.cancel()
        self._master = master

    def command(self, words: str) -> list[str]:
        """The command here that runs a POSIX shell's line there, whatever the user's shell is."""
        # Without the connection ssh would make one of its own; with this it fails.
        return [*self._words("no", "-o", "ProxyCommand=false"), f"exec sh -c {shlex.quote(words)}"]

    def close(self) -> None:
        """Hangs up."""
        self._master = None
        self._held.close()

    def _words(self, master: str, *options: str) -> list[str]:
        words = ["ssh", *(("-F", str(self._config)) if self._config else ()), *_OPTIONS, *options]
        words += ["-o", f"ControlMaster={master}", "-o", f"ControlPath={self._socket}"]
        words += ["-l", self.address.user] if self.address.user else []
        words += ["-p", str(self.address.port)] if self.address.port else []
        return [*words, "--", self.address.name]


def _failure(address: Address, config: Path | None, said: str) -> DeviceError:
    """ssh's words, as an error that says what to do."""
    host, user = address.name, f"{address.user}@" if address.user else ""
    options = f"-F {config} " if config else ""
    options += f"-p {address.port} " if address.port else ""
    offending = re.search(r"Offending .*key in (\S+):(\d+)", said)
    entry = f"remove line {offending[2]} of {offending[1]}" if offending else f"ssh-keygen -R {host}"
    last = said.splitlines()[-1].strip() if said else "ssh said nothing"
    refusals = {
        "HOST IDENTIFICATION HAS CHANGED": (
            f"{host} has another host key than it had: it was set up anew, or is another machine",
            f"where that is expected, {entry}, then ssh {options}{user}{host} once, and compare the fingerprint",
        ),
        "Host key verification failed": (
            f"the host key of {host} is not known here",
            f"ssh {options}{user}{host} once, and compare the key's fingerprint with the machine's own",
        ),
        r"Permission denied \(": (
            f"{host} accepts none of your keys: {last}",
            f"ssh-copy-id {options}{user}{host} puts one there; ssh-add unlocks one with a passphrase",
        ),
        "Too many authentication failures": (
            f"{host} was offered too many keys",
            "name the right one in ~/.ssh/config: IdentityFile, and IdentitiesOnly yes",
        ),
    }
    absences = {
        "Could not resolve hostname": (f"no host {host} is known: {last}", "check the name, or give its IP address"),
        "Connection refused": (
            f"{host} refused the connection: {last}",
            "is sshd running there, and on this port? ssh://HOST:PORT names another",
        ),
        "timed out|No route to host|unreachable": (
            f"{host} is not reached: {last}",
            "is it switched on, and in the same network?",
        ),
    }
    for kind, table in ((DeviceError, refusals), (NotReached, absences)):
        for pattern, (message, hint) in table.items():
            if re.search(pattern, said):
                return kind(message, hint=hint)
    return NotReached(f"no connection to {host}: {last}", hint=f"ssh -v {options}{user}{host} says more")
