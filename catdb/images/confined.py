"""How a file is opened that must lie below one of some folders, whatever links say, and whoever moves them meanwhile.

The path is resolved first, and must then lie below a resolved folder. It is opened from that folder on, name by name,
and no name on the way may be a link: one that was put there after the path was resolved leads nowhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import BinaryIO

from catdb.errors import ImageUnreadable
from catdb.images.find import open_regular

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_below(folders: Iterable[str], path: str) -> BinaryIO:
    """Open a regular file for reading, without ever waiting for one.

    Raises OSError, and ImageUnreadable where it is not a regular file, or lies below none of the folders.
    """
    real = os.path.realpath(path, strict=True)
    for folder in map(os.path.realpath, folders):
        if real != folder and os.path.commonpath([folder, real]) == folder:
            return _open(folder, os.path.relpath(real, folder).split(os.sep))
    raise ImageUnreadable("lies outside of the folders of the database")


def _open(folder: str, names: list[str]) -> BinaryIO:
    here = os.open(folder, _FOLDER)
    try:
        for name in names[:-1]:
            below = os.open(name, _FOLDER, dir_fd=here)
            os.close(here)
            here = below
        return open_regular(names[-1], folder=here)
    finally:
        os.close(here)
