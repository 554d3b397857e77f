"""What searches of each kind find of what an exact one finds, measured on a collection's own images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from catdb import search
from catdb.backbones import PER_IMAGE
from catdb.filters import require_some
from catdb.query import answer_images
from catdb.reach import Reach
from catdb.store import Store

PROBES = (1, 2, PER_IMAGE, 8, 16, 32)
TARGETS = (0.9, 0.95, 0.99)
_SEED = 1  # another sample than the one from which recall targets were learned


@dataclass(frozen=True, slots=True)
class Measured:
    """One kind of search: ``probes`` categories, or a ``target``. Shares are means over the queries, from 0 to 1."""

    name: str
    probes: int | None
    target: float | None
    recall: float  # of the k nearest by an exact search, those found
    nearest: float  # how often the very nearest is found
    scanned: float  # distinct images compared, of all
    rows: float  # rows looked at, of the number of images
    centroids: float  # means compared to route a query
    queries: int
    k: int


def measure(
    store: Store, sample: int, k: int, progress: Callable[[int, int], None] = lambda done, of: None
) -> tuple[Measured, ...]:
    """Measure the default (four probes), other numbers of them, and recall targets, each on the same images.

    Holds the sample's vectors and the rows of one shard in memory. Raises ValueError for a collection of at most k.
    """
    for name, number in (("sample", sample), ("k", k)):
        require_some(name, number)
    with store.snapshot() as snapshot:
        total = snapshot.catalog.count()
        if total <= k:
            raise ValueError(f"there are {total} images: to measure recall takes more than {k}")
        chosen = snapshot.catalog.sample(sample, _SEED)
        own = np.array([image for image, _ in chosen], np.int64)
        every = snapshot.populated
        lossless = snapshot.encoding.lossless
        queries = np.array([vector for _, vector in chosen], np.float16)
        nearest = search.neighbours(queries, own, snapshot.blocks(every), k).tolist() if lossless else []
    exact = dict(zip(own.tolist(), nearest, strict=True)) if lossless else _exact(store, own.tolist(), k)
    ways = list(_ways(k))
    measured = []
    for number, (name, reach) in enumerate(ways):
        measured.append(_measure(store, name, reach, exact, total))
        progress((number + 1) * len(exact), len(ways) * len(exact))
    return tuple(measured)


def _exact(store: Store, images: Sequence[int], k: int) -> dict[int, list[int]]:
    """Return by image the ids of the k nearest to it by an exact search, which ranks by whole vectors in the end."""
    answered = _answers(store, images, Reach(k + 1, exact=True))
    return {image: [other for other in hits.image_ids.tolist() if other != image][:k] for image, hits, _ in answered}


def _answers(store: Store, images: Sequence[int], reach: Reach) -> Iterator[tuple[int, search.Hits, int]]:
    """Yield each image with what a search with it finds, and how many means that compared; not those deleted since."""
    for start in range(0, len(images), search.MOST):
        several = images[start : start + search.MOST]
        for image, answered in zip(several, answer_images(store, several, reach), strict=True):
            if answered:
                yield image, *answered


def _ways(k: int) -> Iterator[tuple[str, Reach]]:
    """Yield each kind of search with its name; k + 1, for the query itself is among what is found."""
    for probes in PROBES:
        yield "default" if probes == PER_IMAGE else f"--probes {probes}", Reach(k + 1, probes)
    for target in TARGETS:
        yield f"--recall {target:g}", Reach(k + 1, recall=target)


def _measure(store: Store, name: str, reach: Reach, exact: dict[int, list[int]], total: int) -> Measured:
    found, first, scanned, rows, centroids, asked = 0.0, 0, 0, 0, 0, 0
    for image, hits, means in _answers(store, list(exact), reach):
        ids = set(hits.image_ids.tolist()) - {image}
        wanted = [other for other in exact[image] if other >= 0]
        if not wanted:
            continue
        found += len(ids.intersection(wanted)) / len(wanted)
        first += wanted[0] in ids
        scanned, rows, centroids, asked = scanned + hits.scanned, rows + hits.rows, centroids + means, asked + 1
    count = max(1, asked)
    return Measured(
        name,
        None if reach.recall else reach.probes,
        reach.recall,
        found / count,
        first / count,
        scanned / count / total,
        rows / count / total,
        centroids / count,
        asked,
        reach.k - 1,
    )
