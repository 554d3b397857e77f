"""How a vector becomes a row of a shard: whole or shortened, and then as float16 or as int8.

A cosine depends on no length, so an int8 row needs no scale beside it: the largest of its numbers becomes 127 or -127,
and the others follow. Each is rounded once, and nothing is added up before that, so that a row is the same on every
machine; it depends on no other row. Queries become rows the same way to be compared with them. What is routed by, the
centroids and the queries that are compared with those, is shortened and not rounded so.

Rows that are not the vectors themselves find candidates: the best of them are compared again by whole vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catdb.projection import Projection

Stored = NDArray[np.float16 | np.int8]
STORES = ("float16", "int8")  # what the numbers of a row can be, by numpy's names; the first is the default
_MOST = 127
_CANDIDATES = 8  # times as many images as are asked for
_PIECE = 512  # rows held in float32 at a time: 3 MB at d = 1536


def store_of(meta: Mapping[str, Any]) -> str:
    """Return what the rows of a database hold; those that were made before there was a choice do not say."""
    return str(meta.get("store") or STORES[0])


@dataclass(frozen=True, slots=True)
class Encoding:
    """What vectors (d,) go through: a projection to (D,), if any, then a change to the numbers of ``store``."""

    projection: Projection | None = None
    store: str = STORES[0]

    @property
    def lossless(self) -> bool:
        """Whether a row is the vector itself, number for number."""
        return self.projection is None and self.store == STORES[0]

    def width(self, dimension: int) -> int:
        """Return how many numbers a row has where vectors have ``dimension``."""
        return dimension if self.projection is None else len(self.projection.axes)

    def candidates(self, k: int) -> int:
        """Return how many of the best rows to take so that the k nearest by whole vectors are among them."""
        return k if self.lossless else _CANDIDATES * k

    def short(self, vectors: NDArray[np.float16]) -> NDArray[np.float16]:
        """Return vectors (n, d) as they are compared with centroids (n, D)."""
        return vectors if self.projection is None else self.projection.apply(vectors)

    def rows(self, vectors: NDArray[np.float16]) -> Stored:
        """Return the rows (n, D) of vectors (n, d), as a shard holds them and as they are compared with its rows."""
        return self.rows_of_short(self.short(vectors))

    def rows_of_short(self, short: NDArray[np.float16]) -> Stored:
        """Return the rows (n, D) of vectors that have been shortened already (n, D)."""
        return short if self.store == STORES[0] else _rounded(short)

    def back(self, means: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what is left (n, d) of the means of vectors, given those of their rows (n, D)."""
        return means if self.projection is None else self.projection.back(means)


def _rounded(rows: NDArray[np.float16]) -> NDArray[np.int8]:
    out = np.empty(rows.shape, np.int8)
    for start in range(0, len(rows), _PIECE):
        wide = rows[start : start + _PIECE].astype(np.float32)
        largest = np.abs(wide).max(axis=1, keepdims=True, initial=0)
        wide *= _MOST / np.where(largest > 0, largest, 1)
        out[start : start + _PIECE] = np.rint(wide, out=wide)
    return out


def directions(rows: Stored) -> NDArray[np.float32]:
    """Return in float32 the vectors (n, D) that rows stand for: int8 rows at unit length, float16 ones as they are."""
    wide = rows.astype(np.float32)
    if rows.dtype == np.int8:
        lengths = np.sqrt(np.square(wide).sum(axis=1, keepdims=True, dtype=np.float64))  # of whole numbers: exact
        wide /= np.where(lengths > 0, lengths, 1).astype(np.float32)
    return wide


def unit(rows: Stored) -> NDArray[np.float32]:
    """Return rows (n, D) in float32 at unit length, from which rounding took them; one of zeros as it is."""
    wide = rows.astype(np.float32)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    wide /= np.where(lengths > 0, lengths, np.float32(1))
    return wide
