"""What the catalog takes and gives: small frozen values, without a trace of SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catdb.images import Stamp

Maker = tuple[str, str | None]  # of vectors: a network's name, and the SHA-256 of its weights


@dataclass(frozen=True, slots=True)
class Root:
    """A folder of images. ``relative`` is its path as seen from the database, for when both move together."""

    id: int
    path: bytes
    relative: bytes
    whole: bool
    device: int | None
    offline: bool
    reconciled: float | None  # seconds since the epoch


@dataclass(frozen=True, slots=True)
class Image:
    """One image as the catalog knows it, without its vector."""

    id: int
    root: int
    path: bytes
    stamp: Stamp
    digest: bytes
    width: int
    height: int
    categories: tuple[int, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Put:
    """One image to be stored. ``moved_from`` is the image of the same content whose file is gone, if there is one."""

    root: int
    path: bytes
    stamp: Stamp
    digest: bytes
    width: int
    height: int
    vector: NDArray[np.float16]  # (d,)
    categories: Sequence[int]
    probabilities: Sequence[float]
    moved_from: Image | None = None


@dataclass(frozen=True, slots=True)
class Pointer:
    """The file that is a category's shard.

    ``features`` says where its features begin, which take ``stride`` bytes a row, and ``rest`` is the checksum of all
    bytes before and behind them. They are 0 where that is not known: of a shard that was made in format 2.
    """

    category: int
    generation: int
    rows: int
    bytes: int
    checksum: int
    features: int = 0
    stride: int = 0
    rest: int = 0

    @property
    def has_parts(self) -> bool:
        """Whether the parts of its file are known, and can be those of such a file."""
        if not all(isinstance(number, int) for number in (self.rows, self.bytes, self.features, self.stride)):
            return False
        return 0 < self.features < self.bytes_of(0, self.rows)[1] <= self.bytes

    def bytes_of(self, first: int, last: int) -> tuple[int, int]:
        """Return where in its file the features of the rows from ``first`` to before ``last`` lie: from, to."""
        return self.features + first * self.stride, self.features + last * self.stride


@dataclass(frozen=True, slots=True, eq=False)
class Centroid:
    """A block of a shard: the contiguous ``rows`` from ``first`` on, which are alike, and their mean (d,).

    ``checksum`` is that of the bytes of their features, where the parts of the shard are known.
    """

    category: int
    block: int
    first: int
    rows: int
    mean: NDArray[np.float16]
    checksum: int = 0


@dataclass(frozen=True, slots=True)
class Load:
    """What stands in one category: rows in its shard, of them dead, and rows that wait beside it."""

    category: int
    rows: int
    dead: int
    pending: int

    @property
    def images(self) -> int:
        return self.rows - self.dead + self.pending


def is_removed(path: bytes, removed: Mapping[bytes, bool]) -> bool:
    """Say whether a path of a root stays out: the nearest mark decides, its own or that of a folder it lies in.

    ``removed``: what was removed by hand (True) and what of that was taken back (False); empty is the root itself.
    """
    while removed:
        if path in removed:
            return removed[path]
        if not path:
            break
        path = path.rpartition(b"/")[0]
    return False


def is_forgotten(removed: Mapping[bytes, bool]) -> bool:
    """Say whether a whole root was removed by hand and nothing of it was taken back."""
    return b"" in removed and all(removed.values())
