"""Which root a path belongs to, and where a root lies now. Paths are text here and bytes in the catalog.

A *whole* root is a folder with everything below it; whole roots never lie inside one another. Any other root is a
folder of which only files directly in it are known, one by one, because they were named as files.

A root is remembered both as an absolute path and as seen from the database. The absolute one counts where it exists,
the other where it does not: so the database may move alone, and the two may move together.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from catdb.catalog import Catalog, Root

AnyPath = str | os.PathLike[str]
Paths = AnyPath | Iterable[AnyPath]


class Roots:
    """The roots of a catalog as they were when it was made."""

    def __init__(self, roots: Sequence[Root], database: str) -> None:
        self.all = list(roots)
        self._where = {root.id: _resolve(root, os.fsencode(database)) for root in roots}

    def folder(self, root: int) -> str:
        """Return where a root lies now."""
        return os.fsdecode(self._where[root])

    def path(self, root: int, below: bytes) -> str:
        """Return the absolute path of something in a root (the root itself for an empty path)."""
        return os.fsdecode(os.path.join(self._where[root], below) if below else self._where[root])

    def place(self, path: str) -> tuple[int, bytes] | None:
        """Return (root, path below it) of an absolute path, or None where no root holds it."""
        name = os.fsencode(path)
        for root in self.all:
            where = self._where[root.id]
            if name == where:
                return root.id, b""
            if root.whole and name.startswith(_slashed(where)):
                return root.id, name[len(_slashed(where)) :]
        folder = os.path.dirname(name)
        for root in self.all:
            if not root.whole and folder == self._where[root.id]:
                return root.id, os.path.basename(name)
        return None

    def inside(self, path: str) -> list[Root]:
        """Return the roots that lie strictly below an absolute path."""
        prefix = _slashed(os.fsencode(path))
        return [root for root in self.all if self._where[root.id].startswith(prefix)]

    def get(self, root: int) -> Root:
        return next(known for known in self.all if known.id == root)


def adopt(catalog: Catalog, database: str, path: str, *, whole: bool) -> None:
    """Have the catalog know the root that a path needs, in the running transaction.

    ``path`` is a folder to be kept in step (whole), or the folder of a single file.
    """
    roots = Roots(catalog.roots(), database)
    known = roots.place(path)
    if known and (roots.get(known[0]).whole or (known[1] == b"" and not whole)):
        return
    name = os.fsencode(path)
    relative = os.path.relpath(name, os.fsencode(database))
    if known and known[1] == b"":
        catalog.move_root(known[0], name, relative)  # it may be known by the place where it lay before
    root = catalog.add_root(name, relative, whole)
    if whole:
        for inner in roots.inside(path):
            catalog.drop_failures([(inner.id, b"")])  # that it could not be listed: it gets another name now
            prefix = os.fsencode(roots.folder(inner.id))[len(_slashed(name)) :] + b"/"
            catalog.absorb_root(inner.id, root, prefix)


def rebase(catalog: Catalog, database: str, moved: str) -> None:
    """Have a copied catalog know its roots, where they lie now, from its own place, in the running transaction.

    ``database`` is where the catalog came from: what was remembered as seen from there means nothing any more.
    """
    roots = Roots(catalog.roots(), database)
    places = [roots.folder(root.id) for root in roots.all]
    for root, place in zip(roots.all, places, strict=True):
        # Two roots that have come to lie in one place keep their names apart.
        name = os.fsencode(place) if places.count(place) == 1 else root.path
        catalog.move_root(root.id, name, os.path.relpath(name, os.fsencode(moved)))


def absolute(path: str | os.PathLike[str]) -> str:
    """Return an absolute path, links and all; "~" is the home folder."""
    return os.path.abspath(os.path.expanduser(os.fsdecode(path)))


def _resolve(root: Root, database: bytes) -> bytes:
    together = os.path.normpath(os.path.join(database, root.relative))
    return root.path if os.path.isdir(root.path) or not os.path.isdir(together) else together


def _slashed(folder: bytes) -> bytes:
    return folder if folder.endswith(b"/") else folder + b"/"
