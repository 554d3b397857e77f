"""How vectors are shortened: which axes are kept, and an arithmetic that gives the same bytes on every machine.

The axes are the principal ones of the vectors about the origin, not about their mean: what is to be kept is the cosine
of two vectors, and to subtract a mean would change every angle. Of all projections to so many dimensions it is the one
that changes the inner products least (Eckart and Young 1936). Rows are of unit length again afterwards.

A shard must come out the same byte for byte whenever it is made anew, but a product of floating point matrices depends
on their shapes, the processor and the library. So everything here that a row passes through is exact, or rounded once:
a float16 is a whole multiple of 2**-24, the axes are rounded to multiples of 2**-27, and no sum of their products
reaches 2**53 for vectors of unit length (Cauchy-Schwarz), so that float64 holds it exactly, in whatever order it is
added. Lengths are taken from values that were rounded to 2**-23, whose squares add up exactly as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ROW, _AXIS, _LENGTH = 2.0**24, 2.0**27, 2.0**23
_PIECE = 512  # rows held in float64 at a time: 6 MB at d = 1536


@dataclass(frozen=True, slots=True)
class Projection:
    """A projection of vectors (d,) to (D,), D <= d. ``axes`` are orthonormal rows in units of 2**-27."""

    axes: NDArray[np.int32]  # (D, d)

    def apply(self, rows: NDArray[np.float16]) -> NDArray[np.float16]:
        """Return unit rows (n, D) of unit rows (n, d). A row's result depends on no other row, and on no machine."""
        out = np.empty((len(rows), len(self.axes)), np.float16)
        axes = self.axes.astype(np.float64).T
        for start in range(0, len(rows), _PIECE):
            exact = (rows[start : start + _PIECE].astype(np.float64) * _ROW) @ axes
            values = np.rint(exact * (_LENGTH / (_ROW * _AXIS)))
            values[~values.any(axis=1), 0] = 1  # at a right angle to all axes: any direction will do
            out[start : start + _PIECE] = values / np.sqrt(np.square(values).sum(axis=1, keepdims=True))
        return out

    def back(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the rows (n, d) that lie on the axes at rows (n, D): what is left of a mean of vectors, say."""
        return rows @ (self.axes / _AXIS).astype(np.float32)

    def pack(self) -> bytes:
        """Return the axes as bytes, of which :func:`unpack` makes the same projection."""
        return self.axes.astype("<i4").tobytes()


def unpack(data: bytes, dimension: int) -> Projection:
    """Return the projection of vectors (dimension,) that was packed. Raises ValueError for bytes of another length."""
    return Projection(np.frombuffer(data, "<i4").reshape(-1, dimension).astype(np.int32, copy=False))


def fit(pieces: Iterable[NDArray[np.float16]], dimension: int, dimensions: int) -> Projection:
    """Return the projection of vectors (dimension,) to ``dimensions`` that keeps most of rows given in pieces (n, d).

    Holds one piece at a time and a few matrices (d, d).
    """
    moment = np.zeros((dimension, dimension))
    for piece in pieces:
        rows = piece.astype(np.float32)
        moment += rows.T @ rows
    _, vectors = np.linalg.eigh(moment)
    axes = vectors.T[::-1][:dimensions]  # the most important first
    return Projection(np.rint(axes * _AXIS).astype(np.int32))
