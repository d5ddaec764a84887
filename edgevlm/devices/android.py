"""What a phone says of itself to adb's shell, which is not root: figures that it keeps to itself are left out."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from pathlib import Path

from edgevlm.devices.adb import Adb
from edgevlm.errors import DeviceError
from edgevlm.onboard.figures import System

_MARK = "edgevlm-fact"
_CLOCKS = "/sys/devices/system/cpu/cpufreq/policy*"
_PROPERTIES = {
    "maker": "ro.product.manufacturer",
    "model": "ro.product.model",
    "chip maker": "ro.soc.manufacturer",
    "chip": "ro.soc.model",
    "platform": "ro.board.platform",
    "release": "ro.build.version.release",
    "ABIs": "ro.product.cpu.abilist",
    "ABI": "ro.product.cpu.abi",
    "emulated": "ro.kernel.qemu",
    "emulated since Android 12": "ro.boot.qemu",
}
CLOCKS = f"echo $(cat {_CLOCKS}/scaling_cur_freq)"
"""Shell: every cluster's clock now, in kHz, in a line."""
HEAT = "dumpsys thermalservice; cat /sys/class/thermal/thermal_zone*/temp"
"""Shell: what `temperature_c` and `throttled` read."""
_COMMANDS = {
    **{name: f"getprop {key}" for name, key in _PROPERTIES.items()},
    "architecture": "uname -m",
    "cores": "nproc",
    "memory": "cat /proc/meminfo",
    "load": "uptime",
    "governor": f"cat {_CLOCKS}/scaling_governor",
    "clock": CLOCKS,
    "most clock": f"echo $(cat {_CLOCKS}/cpuinfo_max_freq)",
    "heat": HEAT,
}
# Of Android's `TemperatureType`: the others are volts, amperes and shares of a battery's charge.
_TEMPERATURE = re.compile(r"mValue=(-?[0-9.]+), mType=([0-9]+)")
_NO_TEMPERATURES = {"6", "7", "8"}
_STATUS = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
_MACHINES = {183: "arm64-v8a", 40: "armeabi-v7a", 62: "x86_64", 3: "x86"}


def describe(phone: Adb, versions: Mapping[str, str]) -> System:
    """The phone, now.

    Raises:
        DeviceError: it is Android's emulator, or does not tell what every phone tells.
        ConnectionLost: it is no longer reached.
    """
    facts = _facts(phone)
    if "1" in (facts["emulated"], facts["emulated since Android 12"]):
        raise DeviceError(f"{phone.serial} is Android's emulator: its times are no phone's", hint="plug in a phone")
    chip = f"{facts['chip maker']} {facts['chip']}".strip() or facts["platform"]
    return System(
        model=f"{facts['maker']} {facts['model']}".strip(),
        processor=chip,
        architecture=facts["architecture"],
        cores=int(_number(r"([0-9]+)", facts["cores"], "the number of cores")),
        memory_bytes=1024 * int(_number(r"MemTotal:\s*([0-9]+) kB", facts["memory"], "its memory")),
        system=f"Android {facts['release']}",
        python="",
        governor=next(iter(facts["governor"].split()), None),
        clock_mhz=clock_mhz(facts["clock"]),
        most_clock_mhz=clock_mhz(facts["most clock"]),
        temperature_c=temperature_c(facts["heat"]),
        load=_number(r"load averages?: *([0-9.]+)", facts["load"], "its load"),
        emulator=None,
        versions=versions,
    )


def check_fits(phone: Adb, executable: Path) -> None:
    """Sees that an executable is for the phone's processor and for Android; scripts are let through.

    Raises:
        DeviceError: it is not.
        ConnectionLost: the phone is no longer reached.
    """
    with executable.open("rb") as file:
        head = file.read(4096)
    if head[:2] == b"#!":
        return
    if head[:4] != b"\x7fELF" or len(head) < 20:
        raise DeviceError(
            f"{executable}: not an executable of Android's", hint="was the download cut short, or is it an archive?"
        )
    (machine,) = struct.unpack("<H", head[18:20])
    made_for = _MACHINES.get(machine, f"machine {machine}")
    facts = _facts(phone)
    expected = (facts["ABIs"] or facts["ABI"]).split(",")
    if made_for not in expected:
        raise DeviceError(
            f"{executable} is made for {made_for}; expected {expected[0]}, which {phone.serial} runs",
            hint=f"build or download the one for Android, {expected[0]}",
        )
    if b"/lib/ld-linux" in head or b"/lib64/ld-linux" in head:
        raise DeviceError(
            f"{executable} is made for Linux with glibc, which Android lacks",
            hint="build it with Android's NDK, or download the one for Android",
        )


def clock_mhz(said: str) -> float | None:
    """The fastest of the clocks in a line, which are in kHz."""
    clocks = [int(word) / 1e3 for word in said.split() if word.isdigit()]
    return max(clocks, default=None)


def temperature_c(said: str) -> float | None:
    """The hottest sensor that `HEAT` tells of; None where it tells of none."""
    current = said.partition("Current temperatures")[2].partition("Current cooling")[0]
    found = [float(value) for value, kind in _TEMPERATURE.findall(current) if kind not in _NO_TEMPERATURES]
    if not found:
        found = [int(line) / 1e3 for line in said.splitlines() if line.strip().isdigit()]
    return max(found, default=None)


def throttled(said: str) -> str | None:
    """Android's own word for how much heat holds the phone back; None where it has none."""
    status = re.search(r"Thermal Status: ([0-9]+)", said)
    if status is None:
        return None
    number = int(status[1])
    return f"thermal status {number}" + (f" ({_STATUS[number]})" if number < len(_STATUS) else "")


def _facts(phone: Adb) -> Mapping[str, str]:
    line = "\n".join(f"echo '{_MARK} {name}'; {{ {command}; }} 2> /dev/null" for name, command in _COMMANDS.items())
    code, text = phone.shell(line)
    parts = (part.partition("\n") for part in text.split(f"{_MARK} ")[1:])
    facts = {name: said.strip() for name, _, said in parts}
    if set(facts) != set(_COMMANDS):
        raise DeviceError(f"{phone.serial}: its shell ended with code {code}: {text.strip()[-200:]}")
    return facts


def _number(pattern: str, said: str, what: str) -> float:
    found = re.search(pattern, said)
    if found is None:
        raise DeviceError(f"the phone does not tell {what}: got {said[:200]!r}")
    return float(found[1])
