"""Which hash catdb uses, and from which library: nobody else knows that it is xxHash (XXH3).

Both functions tell accidents apart, not forgeries: XXH3 is fast (about 30 GB/s) and not cryptographic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO

import xxhash

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Buffer

__all__ = ["checksum", "digest"]

_PIECE = 1 << 20


def digest(stream: BinaryIO) -> bytes:
    """Digest the rest of a stream into 16 bytes (XXH3, 128 bits), holding one piece of 1 MiB at a time."""
    state = xxhash.xxh3_128()
    while piece := stream.read(_PIECE):
        state.update(piece)
    return state.digest()


def checksum(data: Buffer | NDArray[Any]) -> int:
    """Checksum contiguous bytes, or a C-contiguous array's, into a signed 64-bit integer (XXH3, 64 bits), which is what SQLite can hold."""
    return int.from_bytes(xxhash.xxh3_64_digest(data), "big", signed=True)
