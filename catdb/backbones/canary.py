"""A few synthetic images whose vectors a database remembers, to notice an engine that no longer gives the same."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SAME = 0.9999
"""Cosine that two float32 engines reach on every canary (held by tests/test_engine.py)."""
ROUNDED = 0.92
"""Cosine that float32 and bfloat16 reach on every canary, and an engine that exchanges red and blue, or halves the
brightness, does not (held by tests/test_engine.py with MobileNetV2 and its ImageNet weights)."""


BOARD = 1
"""Of the four, the one whose vector changes most with what an engine may do wrong."""


def images(size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the canaries, uint8 (4, h, w, 3): a gradient, a board, rings, and a coarse pattern. Integers only, so that
    they are the same everywhere."""
    height, width = size
    y, x = np.mgrid[:height, :width].astype(np.int64)
    across, down = 255 * x // (width - 1), 255 * y // (height - 1)
    board = 255 * ((x // 16 + y // 16) % 2)
    rings = ((2 * x - width) ** 2 + (2 * y - height) ** 2) // 64 % 256
    blocks = (x // 24 * 97 + y // 24 * 57) ** 2 % 251
    drawn = (
        (across, down, 255 - across),
        (board, board // 2 + 40, 255 - board),
        (rings, 255 - rings, across),
        (blocks, blocks * 7 % 256, blocks * 13 % 256),
    )
    return np.stack([np.stack(channels, axis=-1) for channels in drawn]).astype(np.uint8)


def cosine(remembered: NDArray[np.float16], now: NDArray[np.float32]) -> float:
    """Return the lowest cosine between the remembered vectors (4, d) of the canaries and those of today."""
    then = remembered.astype(np.float32)
    products = (then * now).sum(axis=1)
    return float((products / np.linalg.norm(then, axis=1) / np.linalg.norm(now, axis=1)).min())


def allowed(*precisions: str) -> float:
    """Return the cosine below which the difference is more than these two precisions explain."""
    return SAME if set(precisions) == {"f32"} else ROUNDED
