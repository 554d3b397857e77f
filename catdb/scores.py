"""What a cosine is worth: how alike two random images of the collection are. Pure numbers, no files, no tables.

A cosine of 0.7 is much between photographs of one network and nothing between those of another. So a similarity is
also given as the share of random pairs of the same collection that are less alike. The pairs are all those among a
sample of images: two million from 2,000 vectors, which one matrix product compares.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

LEAST = 50
"""Images below which nothing is said: 1,225 pairs are the fewest that can tell 99 % from more."""
SAMPLE = 2000
"""Images of which all pairs are compared, at most."""
_BEYOND = 10  # pairs that must lie beyond the last percentile that is told: fewer would be chance
_NINES = 4  # of the last percentile that is told, at most: 99.99 %
_BLOCK = 256  # images compared with all others at a time
_TAIL = np.logspace(-5, -2, 121)
# Shares at which the cosines are kept: evenly through the bulk, ever more finely towards both ends.
_SHARES = np.concatenate([[0.0], _TAIL, np.linspace(0.01, 0.99, 981)[1:-1], 1 - _TAIL[::-1], [1.0]])


@dataclass(frozen=True, slots=True)
class Chance:
    """How alike random pairs of a collection are: the cosine that each of a fixed list of shares does not exceed."""

    images: int  # in the collection when it was measured
    pairs: int  # that were compared
    cosines: NDArray[np.float64]  # rising, one for each share

    @classmethod
    def of(cls, vectors: NDArray[np.float16], images: int) -> Chance | None:
        """Measure all pairs of a sample (m, d) out of so many images; None for fewer than LEAST of them."""
        if len(vectors) < LEAST:
            return None
        found = np.concatenate(list(_pairs(vectors)))
        found.sort()
        return cls(images, len(found), np.interp(_SHARES, np.linspace(0, 1, len(found)), found))

    @property
    def ceiling(self) -> float:
        """The greatest share that is told, 0.99, 0.999 or 0.9999: beyond it the sample has too few pairs to count."""
        return 1 - 0.1 ** min(_NINES, math.floor(math.log10(self.pairs / _BEYOND)))

    def percentile(self, similarity: float) -> float:
        """Return the share of random pairs that are less alike than this, at most the ceiling: 0.9997."""
        return self.percentiles([similarity])[0]

    def percentiles(self, similarities: Sequence[float]) -> list[float]:
        """Return that of several."""
        ceiling, found = self.ceiling, np.interp(similarities, self.cosines, _SHARES).tolist()
        return [round(min(ceiling, share), 5) for share in found]

    def is_stale(self, images: int) -> bool:
        """Say whether the collection has grown or shrunk by a quarter since it was measured."""
        return 4 * abs(images - self.images) >= self.images

    def to_text(self) -> str:
        """Return it as a line of JSON."""
        cosines = [round(float(cosine), 6) for cosine in self.cosines]
        return json.dumps({"images": self.images, "pairs": self.pairs, "cosines": cosines})


@lru_cache(maxsize=8)
def recorded(text: object) -> Chance | None:
    """Return what :meth:`Chance.to_text` gave; None for anything else: it can be measured again at any time."""
    try:
        found = json.loads(text) if isinstance(text, str) else {}
        chance = Chance(int(found["images"]), int(found["pairs"]), np.array(found["cosines"], np.float64))
    except (ValueError, TypeError, LookupError, OverflowError):
        return None
    sound = chance.cosines.shape == _SHARES.shape and bool((np.diff(chance.cosines) >= 0).all())
    return chance if sound and min(chance.images, chance.pairs) >= LEAST else None


def _pairs(vectors: NDArray[np.float16]) -> Iterator[NDArray[np.float32]]:
    """Yield the cosines of all pairs of different rows (m, d), m (m - 1) / 2 in all, each once."""
    rows = vectors.astype(np.float32)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-30))
    for start in range(0, len(rows), _BLOCK):
        cosines = rows[start : start + _BLOCK] @ rows[start:].T
        yield cosines[np.triu_indices(len(cosines), 1, cosines.shape[1])]
