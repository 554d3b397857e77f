"""The networks that turn pixels into a feature vector and categories, and how to get one by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

PER_IMAGE = 4
"""Categories of one image: the most probable four, and hence the number of shards that it stands in."""


@dataclass(frozen=True, slots=True)
class Category:
    """One category: its id (a wnid such as ``n02012849``, unique) and its name (``crane``, which may not be)."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Embedding:
    """What one pass says of n images. ``categories`` are indices into the embedder's table, most probable first."""

    features: NDArray[np.float32]  # (n, d), rows of unit length
    categories: NDArray[np.int32]  # (n, 4), distinct within a row
    probabilities: NDArray[np.float32]  # (n, 4), falling within a row


class Embedder(Protocol):
    """A loaded network: the one seam at which a test may put another."""

    backbone: str
    categories: tuple[Category, ...]
    dimension: int
    input_size: tuple[int, int]  # (height, width) of the pixels that embed() takes
    weights_sha256: str | None  # None where there are no weights
    engine: str
    precision: str

    def embed(self, pixels: NDArray[np.uint8]) -> Embedding:
        """Embed uint8 RGB pixels (n, height, width, 3) in one pass; n >= 1."""
        ...
