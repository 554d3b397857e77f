"""How images that resemble one another become groups: pure logic, the same for the same images.

Images stand in one order. In that order each that no group has taken yet becomes the keeper of a group, and takes from
those behind it whatever is *itself* confirmed to be a copy of the keeper. The neighbours of a member are looked at too,
but against the keeper: neighbours propose and never confirm, so that no chain of look-alikes can form.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def form_groups(
    order: Sequence[int],
    neighbours: Mapping[int, Collection[int]],
    alike: Callable[[int, int], float | None],
    apart: Callable[[int, int], bool],
) -> list[list[tuple[int, float]]]:
    """Return groups of (image, likeness to the first), the keeper first.

    ``alike(keeper, image)`` is their likeness, None where they are no copies; ``apart`` says of two that they must not
    be in one group.
    """
    place = {image: number for number, image in enumerate(order)}
    taken: set[int] = set()
    groups = []
    for keeper in order:
        if keeper in taken:
            continue
        group = [(keeper, 1.0)]
        met = {keeper}
        waiting: list[int] = []

        def meet(image: int, met: set[int] = met, waiting: list[int] = waiting, after: int = place[keeper]) -> None:
            for other in neighbours.get(image, ()):
                if other not in met and other not in taken and place.get(other, -1) > after:
                    met.add(other)
                    heapq.heappush(waiting, place[other])

        meet(keeper)
        while waiting:
            image = order[heapq.heappop(waiting)]
            found = None if any(apart(image, member) for member, _ in group) else alike(keeper, image)
            if found is not None:
                group.append((image, found))
                taken.add(image)
                meet(image)
        if len(group) > 1:
            groups.append(group)
    return groups


def components(pairs: NDArray[np.int64]) -> list[list[int]]:
    """Return the images of pairs (p, 2), those together that pairs connect, in rising order."""
    parent: dict[int, int] = {}

    def root(image: int) -> int:
        while (above := parent.setdefault(image, image)) != image:
            parent[image] = image = parent[above]
        return image

    for one, other in pairs.tolist():
        one, other = root(one), root(other)
        parent[max(one, other)] = min(one, other)
    found: dict[int, list[int]] = {}
    for image in sorted(parent):
        found.setdefault(root(image), []).append(image)
    return list(found.values())


def linked(pairs: NDArray[np.int64]) -> dict[int, set[int]]:
    """Return each image's partners in pairs (p, 2)."""
    found: dict[int, set[int]] = {}
    for one, other in pairs.tolist():
        found.setdefault(one, set()).add(other)
        found.setdefault(other, set()).add(one)
    return found
