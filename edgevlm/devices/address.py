"""Where a device is: `ssh://[user@]host[:port]` or `adb://SERIAL`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from edgevlm.errors import DeviceError

_FORMS = "ssh://[USER@]HOST[:PORT] or adb://SERIAL"
# No name may begin with a dash: ssh and adb would take it for an option.
_SSH = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]*)@)?"
    r"(?:\[(?P<numbers>[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?)\]|(?P<host>[A-Za-z0-9_][A-Za-z0-9_.-]*))"
    r"(?::(?P<port>[0-9]{1,9}))?/?"
)
_SERIAL = re.compile(r"[A-Za-z0-9_\[][A-Za-z0-9_.:\[\]%-]*")


@dataclass(frozen=True)
class Address:
    """Where a device is.

    Attributes:
        scheme: How it is reached.
        name: The host, which may be an alias of the user's ssh configuration; or the serial number that
            `adb devices` lists.
        user: Who logs in; ssh's own choice where empty.
        port: None for ssh's own choice.
    """

    scheme: Literal["ssh", "adb"]
    name: str
    user: str = ""
    port: int | None = None

    def __str__(self) -> str:
        host = f"[{self.name}]" if self.scheme == "ssh" and ":" in self.name else self.name
        return f"{self.scheme}://{self.user + '@' if self.user else ''}{host}{f':{self.port}' if self.port else ''}"


def parse(text: str) -> Address:
    """The address that a user wrote.

    Raises:
        DeviceError: it is of no form that is known.
    """
    scheme, separator, rest = text.partition("://")
    if separator and scheme == "ssh" and (found := _SSH.fullmatch(rest)):
        port = int(found["port"]) if found["port"] else None
        if port is not None and not 1 <= port <= 65535:
            raise DeviceError(f"{text}: expected a port of 1 to 65535, got {port}")
        return Address("ssh", found["numbers"] or found["host"], found["user"] or "", port)
    if separator and scheme == "adb" and _SERIAL.fullmatch(rest):
        return Address("adb", rest)
    raise DeviceError(f"expected a device's address, {_FORMS}, got {text!r}", hint=_hint(scheme, rest))


def _hint(scheme: str, rest: str) -> str | None:
    if scheme == "adb" and not rest:
        return "adb devices lists serial numbers"
    if scheme == "ssh" and ":" in rest.partition("@")[0] and "@" in rest:
        return "no password in an address: log in with a key, which ssh-copy-id USER@HOST puts there"
    if scheme == "ssh" and rest.count(":") > 1 and "[" not in rest:
        return "an IPv6 address goes in brackets: ssh://[fe80::1]:22"
    return None
