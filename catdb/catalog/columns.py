"""How values lie in columns: stamps with inodes of 64 bits, lists of numbers, and the paths below a folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from catdb.images import Stamp

PAGE = 1000  # rows fetched at a time, so that no statement holds a snapshot (and the WAL) for long
LISTED = "(SELECT value FROM json_each(?))"  # the numbers of a list, which is bound as :func:`as_list` gives it


def below(root: int, path: bytes) -> tuple[str, tuple[Any, ...]]:
    """Return the condition, and its values, for a path and everything below it (all of the root for an empty path)."""
    if not path:
        return "root = ?", (root,)
    # "0" follows "/" in ASCII: from "path/" to before "path0" are exactly the paths that begin with "path/". It is one
    # range, less a gap, because for an alternative of two SQLite would go through all of the root.
    where = "root = ? AND path >= ? AND path < ? AND (path = ? OR path >= ?)"
    return where, (root, path, path + b"0", path, path + b"/")


def as_list(numbers: Iterable[int]) -> str:
    return json.dumps(list(numbers))


def as_inode(inode: int) -> int:
    """Return an inode's column. Some file systems number inodes beyond the 63 bits that SQLite can hold."""
    return (inode + 2**63) % 2**64 - 2**63


def as_row(stamp: Stamp) -> tuple[int, int, int]:
    """Return a stamp's three columns."""
    return stamp.size, stamp.mtime_ns, as_inode(stamp.inode)


def as_stamp(size: int, mtime_ns: int, inode: int) -> Stamp:
    """Return the stamp that :func:`as_row` stored."""
    return Stamp(size, mtime_ns, inode % 2**64)
