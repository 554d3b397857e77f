"""How a file is written whole or not at all: beside its place first, into it when nothing is lacking.

And how a name that was made or taken away in a folder outlasts a loss of power.
"""

from __future__ import annotations

import glob
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from catdb.errors import CatdbError, StorageError

if sys.platform != "win32":  # where a file that is open cannot be deleted anyhow
    import fcntl


@contextmanager
def replacing(path: str) -> Iterator[IO[bytes]]:
    """Give a new file to write to, which takes its name when it is whole, and leaves nothing behind where it is not.

    What a process that was killed has left behind goes when the same file is written again. A pipe or a device is
    written to as it is. Raises StorageError; what the block raises on purpose stays as it is.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe or a device cannot be replaced, a folder opened
        stream = open(path, "wb")  # noqa: SIM115 - what this raises names the file already
        with naming(path), stream:
            yield stream
        return
    target = os.path.realpath(path)  # a link stays one
    part = f"{target}.{secrets.token_hex(4)}.part"
    with naming(path, "; nothing was written"):
        _clear(target)
        try:
            with open(part, "xb") as stream:  # and not mkstemp, whose files nobody else may read
                with suppress(OSError):  # a file system that knows no locks: then nobody can take it for left behind
                    _hold(stream)
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(part, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(part)
            raise


def _clear(target: str) -> None:
    """Delete the beginnings of a file whose writers have died: the system gave back the lock on each of them."""
    for part in glob.glob(f"{glob.escape(target)}.{'[0-9a-f]' * 8}.part"):
        with suppress(OSError), open(part, "rb") as stream:
            _hold(stream)
            os.unlink(part)


def _hold(stream: IO[bytes]) -> None:
    """Lock a file for as long as it is open. OSError where another process does, or it cannot be locked."""
    if sys.platform != "win32":
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def naming(path: str, end: str = "") -> Iterator[None]:
    """Turn what the file system refuses inside into a StorageError that names the file, or the folder."""
    try:
        yield
    except (CatdbError, BrokenPipeError):  # a file breaks no pipe
        raise
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}{end}") from error


def force_directory(path: str) -> None:
    """Force a directory's entries to the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
