"""An example collection that needs no download: which scenes it holds, and from which random numbers each is drawn.

Each picture has its own random numbers, from the seed, its group and its place in the group, so it does not depend on
how many others are asked for.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from catdb.images.brushes import Random, develop
from catdb.images.painters import GROUPS

COLLECTION, QUERIES = 0, 1  # which of the two streams of random numbers: a query is never one of the collection


def render(folder: Path, *, count: int = 120, seed: int = 0) -> list[Path]:
    """Draw ``count`` pictures (JPEG, 480 x 360) into ``folder``, evenly divided among the groups; return their paths.

    Each is ``<folder>/<group>/<group>-01.jpg`` and so on; missing folders are made, files of the same name replaced.
    The same seed gives the same bytes, as long as Pillow and numpy stay the same. Where the groups do not divide
    ``count``, the first ones get one more. Raises ValueError for a negative ``count`` or ``seed``, and OSError.
    """
    if count < 0 or seed < 0:
        raise ValueError(f"count and seed must not be negative: {count}, {seed}")
    paths = []
    for number in range(count):
        place, group = divmod(number, len(GROUPS))
        name = list(GROUPS)[group]
        rng = np.random.default_rng([seed, COLLECTION, group, place])
        paths.append(_save(folder / name / f"{name}-{place + 1:02d}.jpg", name, rng))
    return sorted(paths)


def queries(folder: Path, *, seed: int = 1) -> list[Path]:
    """Draw three pictures from three different groups into ``folder``; return their paths, ``query-<group>.jpg``.

    None of them is in any collection that :func:`render` draws, whatever the two seeds. Errors as in ``render``.
    """
    if seed < 0:
        raise ValueError(f"seed must not be negative: {seed}")
    chosen = np.random.default_rng([seed, QUERIES]).choice(len(GROUPS), size=3, replace=False)
    paths = []
    for group in sorted(int(index) for index in chosen):
        name = list(GROUPS)[group]
        paths.append(_save(folder / f"query-{name}.jpg", name, np.random.default_rng([seed, QUERIES, group])))
    return paths


def _save(path: Path, group: str, rng: Random) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    develop(rng, GROUPS[group](rng)).save(path, "JPEG", quality=88)
    return path
