"""Which hash catdb uses, and from which library: nobody else knows that it is xxHash (XXH3).

They tell accidents apart, not forgeries: XXH3 is fast and not cryptographic.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import xxhash

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray
    from typing_extensions import Buffer

__all__ = ["checksum", "checksum_of", "digest"]

_PIECE = 1 << 18  # stays in a core's cache; fresh megabytes from the allocator cost more than the digest


def digest(stream: BinaryIO) -> bytes:
    """Digest the rest of a stream into 16 bytes (XXH3, 128 bits), holding one piece of 256 KiB at a time."""
    state = xxhash.xxh3_128()
    for piece in _pieces(stream):
        state.update(piece)
    return state.digest()


def checksum_of(stream: BinaryIO, ranges: Iterable[tuple[int, int]] = ((0, sys.maxsize),)) -> int:
    """Checksum a stream, in pieces; the same number as :func:`checksum` of its bytes.

    ``ranges``: those of its bytes (from, to) that count, one behind the other as if nothing lay between them.
    """
    state = xxhash.xxh3_64()
    for start, stop in ranges:
        stream.seek(start)
        for piece in _pieces(stream, stop - start):
            state.update(piece)
    return int.from_bytes(state.digest(), "big", signed=True)


def checksum(data: Buffer | NDArray[Any]) -> int:
    """Checksum contiguous bytes, or an array's, into the signed 64-bit integer that SQLite can hold (XXH3, 64 bits)."""
    # numpy says in its types only from Python 3.12 on that an array is a buffer.
    return int.from_bytes(xxhash.xxh3_64_digest(cast("Buffer", data)), "big", signed=True)


def _pieces(stream: BinaryIO, most: int = sys.maxsize) -> Iterator[memoryview]:
    """Yield the rest of a stream, or so many bytes of it, each piece in the place of the one before."""
    buffer = memoryview(bytearray(_PIECE))
    while count := stream.readinto(buffer[:most]):  # type: ignore[attr-defined]
        yield buffer[:count]
        most -= count
