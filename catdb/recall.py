"""How far a search must go to find what an exact one would: learned from a collection's own images. Pure numbers.

A search for a recall target compares the blocks whose mean points the query's way, nearest first, until that share of
the nearest images has been met as a rule. The rule is a table of places: for images of the collection, each left out
of its own answer, the place in that order at which each of its ten nearest is first met. Their quantiles say how many
blocks any target needs.

Learning besides how many hits to expect of a block, from its place, the query's own categories and its size, and going
by that, was tried on photographs and on made-up clusters: it saved up to a tenth of what is searched and no more, so
the plain order stays.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catdb.search import Regions

K = 10  # the neighbours that recall is measured with
LEAST = 500  # images below which an exact search costs nothing
SAMPLE = 1000  # images whose neighbours are looked for
_STEPS = 1000


@dataclass(frozen=True, slots=True)
class Recall:
    """What was learned. ``places`` (1001,) are the quantiles of the place at which a neighbour is met, from 0."""

    images: int
    blocks: int
    queries: int
    places: NDArray[np.int64]

    def blocks_for(self, target: float, blocks: int) -> int:
        """Return how many of so many ``blocks`` to compare so that ``target`` of the ten nearest are met.

        Half a standard error of the sample is added to the target, and the collection's growth since is allowed for.
        """
        error = math.sqrt(target * (1 - target) / max(1, self.queries))
        step = min(_STEPS, math.ceil((target + error / 2) * _STEPS))
        return min(blocks, math.ceil((int(self.places[step]) + 1) * max(1.0, blocks / max(1, self.blocks))))

    def is_stale(self, images: int, blocks: int) -> bool:
        """Say whether the collection has changed by a quarter since."""
        return any(
            not 0.8 <= now / max(1, then) <= 1.25 for now, then in ((images, self.images), (blocks, self.blocks))
        )

    def to_text(self) -> str:
        return json.dumps([self.images, self.blocks, self.queries, self.places.tolist()])


def recorded(text: object) -> Recall | None:
    """Return what :meth:`Recall.to_text` gave; None for anything else."""
    try:
        images, blocks, queries, places = json.loads(str(text))
        found = Recall(int(images), int(blocks), int(queries), np.array(places, np.int64))
    except (ValueError, TypeError, OverflowError):
        return None
    return found if found.places.shape == (_STEPS + 1,) and (np.diff(found.places) >= 0).all() else None


def learn(
    queries: NDArray[np.float16],
    nearest: NDArray[np.int64],
    homes: dict[int, list[int]],
    regions: Regions,
    own: NDArray[np.int64],
    images: int,
) -> Recall | None:
    """Learn from queries (m, d), which are the images ``own`` (m,), and the ids (m, k) of their nearest, -1 for none.

    ``homes``: the blocks in which each of those images can be met. An image of the collection finds its own blocks
    first, a new one does not: of both the later place counts. None where nothing can be learned.
    """
    met: list[int] = []
    means = regions.means.astype(np.float32)
    lengths = np.linalg.norm(means, axis=1)
    for query, image, row in zip(queries.astype(np.float32), own.tolist(), nearest.tolist(), strict=True):
        closeness = means @ query / np.where(lengths > 0, lengths, 1)
        known = _ranks(closeness)
        for place in homes.get(image, []):
            closeness[place] = _without(query, means[place], int(regions.rows[place]))
        new = _ranks(closeness)
        met += [int(max(known[homes[other]].min(), new[homes[other]].min())) for other in row if other in homes]
    if not met:
        return None
    places = np.quantile(np.array(met), np.linspace(0, 1, _STEPS + 1), method="higher").astype(np.int64)
    return Recall(images, len(regions), len(own), places)


def _ranks(closeness: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the place (m,) of each block in the order of closeness."""
    ranks = np.empty(len(closeness), np.int64)
    ranks[np.argsort(-closeness, kind="stable")] = np.arange(len(closeness))
    return ranks


def _without(query: NDArray[np.float32], mean: NDArray[np.float32], rows: int) -> float:
    """Return the closeness of a query to a block's mean when it is none of its rows; -2 where it is the only one."""
    if rows < 2:
        return -2.0
    rest = rows * mean - query
    length = float(np.linalg.norm(rest))
    return float(rest @ query) / length if length > 0 else -2.0
