"""A device as a user names it: a profile, an address, or both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgevlm.devices.address import parse
from edgevlm.devices.profile import Profile, find
from edgevlm.errors import DeviceError

_UNKNOWN = Profile(title="", reach="ssh", chip="", targets=("tflite", "executorch", "coreml"))


@dataclass(frozen=True)
class Device:
    """What is asked.

    Attributes:
        name: As the user has it; results are called after it.
        profile: What is known of it; its `address` is where it is reached.
    """

    name: str
    profile: Profile


def resolve(text: str, profiles: Mapping[str, Profile]) -> Device:
    """The device that a user means.

    Args:
        text: `host`, a profile's name, `ssh://user@host[:port]`, `adb://serial`, or `NAME=ADDRESS`, which reaches the
            profile's device there.
        profiles: By name.

    Raises:
        DeviceError: no such profile, or no such kind of address.
    """
    name, separator, address = text.partition("=")
    if "://" in name:
        name, separator, address = "", "=", text
    profile = find(name, profiles) if name else _UNKNOWN
    if separator:
        profile = replace(profile, address=address)
    if profile.address:
        profile = replace(profile, reach=parse(profile.address).scheme)
    elif profile.reach in ("ssh", "adb"):
        raise DeviceError(
            f"{name} is reached by {profile.reach}, and its profile has no address",
            hint=f"--device {name}={profile.reach}://...",
        )
    return Device(text, replace(profile, title=profile.title or text))
