"""Files that a command is asked to write: that they can be, and cost no photograph, is known before the work."""

from __future__ import annotations

import csv
import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from catdb.errors import StorageError
from catdb.whole import replacing

if TYPE_CHECKING:
    from catdb.database import Database


def require_target(path: str) -> None:
    """Raise, before the work, the OSError with which a file could not be written after it."""
    if path == "-":
        raise click.UsageError("- is no file to write to: name one; on stdout is what is printed anyway")
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if os.path.exists(path) and not os.path.isfile(path):
        return  # a pipe or a device, which is written to as it is, whatever its folder
    folder = os.path.dirname(os.path.realpath(path))
    for wrong, code in ((not os.path.isdir(folder), errno.ENOENT), (not os.access(folder, os.W_OK), errno.EACCES)):
        if wrong:
            raise OSError(code, os.strerror(code), folder)


def require_no_image(store: Database, *targets: str | None) -> None:
    """Raise StorageError for a file to be written that is an image of the database: a slip would cost a photograph."""
    for target in filter(None, targets):
        if target in store or os.path.realpath(target) in store:
            raise StorageError(f"{os.path.abspath(target)}: an image of the database; name another file to write")


@contextmanager
def csv_file_of(path: str) -> Iterator[Any]:
    """Give a csv.writer of a file, which is there when the block is left without an error. Raises StorageError."""
    with replacing(path) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
        try:
            yield csv.writer(text)
        finally:
            text.detach()  # which flushes; the stream is not its to close
