"""The C library that is preloaded: how it is built, how it is called from Python, how its log is read.

What it does, its kinds of fault and the form of its log stand at the top of ``faultlib.c``.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_name("faultlib.c")
_HEADER = struct.Struct("<IIIQQ")


class Kind(IntEnum):
    """What happens at the n-th call."""

    KILL_BEFORE = 1
    KILL_AFTER = 2
    TEAR_HALF = 3
    TEAR_SECTOR = 4
    ENOSPC = 5
    EIO = 6
    FULL = 7
    BROKEN = 8
    SHORT = 9
    SHORT_FULL = 10

    @property
    def kills(self) -> bool:
        return self <= Kind.TEAR_SECTOR

    def strikes(self, letter: str) -> bool:
        """Say whether it does anything at a call of this letter."""
        if self in (Kind.TEAR_HALF, Kind.TEAR_SECTOR, Kind.SHORT, Kind.SHORT_FULL):
            return letter == "w"
        return letter not in "ud" if self in (Kind.ENOSPC, Kind.FULL) else True


class Call(IntEnum):
    """What a record of the log stands for."""

    CREATE = 1
    WRITE = 2
    TRUNCATE = 3
    FSYNC = 4
    FSYNC_DIRECTORY = 5
    RENAME = 6
    UNLINK = 7
    MKDIR = 8
    RMDIR = 9
    MARK = 10
    LINK = 11


class Record(NamedTuple):
    """One record of the log; paths are relative to the directory."""

    call: Call
    path: str
    path2: str
    offset: int
    data: bytes


class NoCompiler(Exception):
    """There is no C compiler here."""


def build(folder: Path) -> Path:
    """Compile the library into a folder and return its path. Raises NoCompiler where there is none."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        raise NoCompiler("there is no C compiler (cc, gcc, clang) for the library that makes faults")
    target = folder / "faultlib.so"
    words = [compiler, "-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC", "-o", str(target), str(SOURCE)]
    subprocess.run([*words, "-ldl", "-lpthread"], check=True)
    return target


def environment(library: Path, **settings: object) -> dict[str, str]:
    """Return the environment of a process with the library in it; settings: dir, at, kind, log."""
    return {
        **os.environ,
        "LD_PRELOAD": str(library),
        **{f"FAULT_{name.upper()}": str(value) for name, value in settings.items()},
    }


class Faults:
    """The library in this process, which must have been started with it (see environment)."""

    def __init__(self) -> None:
        self._calls = ctypes.CDLL(None)
        self._calls.fault_arm.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_int]
        self._calls.fault_record.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
        self._calls.fault_mark.argtypes = [ctypes.c_char_p]
        self._calls.fault_count.restype = self._calls.fault_fired.restype = ctypes.c_long
        self._calls.fault_trace.restype = ctypes.c_char_p

    def arm(self, directory: str | Path, at: int = 0, kind: Kind = Kind.KILL_BEFORE) -> None:
        """Fault at the call of this number, from 1, from now on; 0 only counts."""
        if self._calls.fault_arm(os.fsencode(directory), at, int(kind)):
            raise FileNotFoundError(directory)

    def disarm(self) -> None:
        self._calls.fault_disarm()

    @property
    def trace(self) -> str:
        """A letter for each call since it was armed."""
        return str(self._calls.fault_trace().decode())

    @property
    def fired(self) -> int:
        """How many calls got the fault since it was armed."""
        return int(self._calls.fault_fired())

    def record(self, directory: str | Path, log: str | Path) -> None:
        """Append to a log, which lies elsewhere, all that is done to the directory from now on."""
        if self._calls.fault_record(os.fsencode(directory), os.fsencode(log)):
            raise FileNotFoundError(f"{directory} or {log}")

    def stop(self) -> None:
        """Record no more."""
        self._calls.fault_record(None, None)

    def mark(self, text: str) -> None:
        """Put a mark between the records."""
        self._calls.fault_mark(text.encode())


def read_log(path: Path) -> Iterator[Record]:
    """Yield the records of a log in their order."""
    with path.open("rb") as log:
        while header := log.read(_HEADER.size):
            call, length, length2, offset, size = _HEADER.unpack(header)
            name, name2 = os.fsdecode(log.read(length)), os.fsdecode(log.read(length2))
            yield Record(Call(call), name, name2, offset, log.read(size))
