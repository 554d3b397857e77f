"""What tools/scale searches: images that are made up, queries, and their exact answers; and what it measures by.

A process that measures another index imports this, and nothing of catdb, so that its memory is that index's own.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

D, CATEGORIES, WIDTH, K = 1536, 1000, 4, 10
SHARED, GROUP, OWN, WITHIN, NOISE = 0.4, 0.4, 0.25, 0.65, 0.25  # lengths: of all, a group, a kind; of an image in them
GROUPS, RANK = 30, 24  # of kinds; directions in which the images of a group differ
LEARNED = (4, 5, 6), (5.6, 4.6, 4.0)  # log10 of the images, and how well the dense layer knows the kinds
BLOCK = 4096
TARGET = 0.95
TOGETHER = 32  # queries of one call, where they are not taken one at a time


def say(images: int, figure: str, of: str, value: float, **more: object) -> None:
    """Print one measurement as a JSON line: of what, and in which size of collection."""
    print(json.dumps({"images": images, "figure": figure, "of": of, "value": round(value, 7), **more}), flush=True)


# --- what is searched -----------------------------------------------------------------------------------------------


def made(images: int, count: int) -> Iterator[tuple[NDArray[np.float16], NDArray[np.int64], NDArray[np.float32]]]:
    """Yield the first ``count`` of a collection of so many images in blocks: unit rows, categories, probabilities."""
    draw = np.random.default_rng(1)
    shared, groups, own = direction(draw, 1), direction(draw, GROUPS), direction(draw, CATEGORIES)
    group = draw.integers(0, GROUPS, CATEGORIES)
    kinds = GROUP * groups[group] + OWN * own
    axes = direction(draw, GROUPS * RANK).reshape(GROUPS, RANK, D)
    decay = (np.arange(RANK, dtype=np.float32) + 1) ** np.float32(-0.3)
    decay *= WITHIN / np.linalg.norm(decay)
    weights = 1 / (np.arange(CATEGORIES) + 30)
    layer = np.random.default_rng(7).normal(size=(D, CATEGORIES)).astype(np.float32)
    layer += np.float32(np.interp(math.log10(images), *LEARNED)) * (kinds / np.linalg.norm(kinds, axis=1)[:, None]).T
    for start in range(0, count, BLOCK):
        kind = draw.choice(CATEGORIES, BLOCK, p=weights / weights.sum())
        place = draw.standard_normal((BLOCK, RANK), np.float32) * decay
        rows = SHARED * shared + kinds[kind]
        for one in range(GROUPS):
            rows[group[kind] == one] += place[group[kind] == one] @ axes[one]
        rows += NOISE * np.exp(0.3 * draw.standard_normal((BLOCK, 1), np.float32)) * direction(draw, BLOCK)
        rows = rows[: count - start] / np.linalg.norm(rows[: count - start], axis=1, keepdims=True)
        logits = 4.5 * rows @ layer  # a scale at which the first of four has about the probability that networks give
        best = np.argsort(-logits, axis=1)[:, :WIDTH]
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        odds /= odds.sum(axis=1, keepdims=True)
        yield rows.astype(np.float16), best, np.take_along_axis(odds, best, 1)


def direction(draw: np.random.Generator, count: int) -> NDArray[np.float32]:
    """Return vectors (count, D) of about unit length, in all directions."""
    return draw.standard_normal((count, D), np.float32) / np.float32(math.sqrt(D))


def step_make(place: str, images: str, queries: str) -> None:
    """Write the vectors of all images, and of the queries, which are the images after those."""
    number, total = int(images), int(images) + int(queries)
    vectors = np.lib.format.open_memmap(f"{place}/vectors.npy", "w+", np.float16, (total, D))
    categories = np.zeros((total, WIDTH), np.int64)
    odds = np.zeros((total, WIDTH), np.float32)
    start = 0
    for rows, best, chance in made(number, total):
        end = start + len(rows)
        vectors[start:end], categories[start:end], odds[start:end] = rows, best, chance
        start = end
    vectors.flush()
    np.savez(f"{place}/categories.npz", categories=categories, odds=odds)


def step_truth(place: str, images: str, queries: str) -> None:
    """Write the exact answers to the queries."""
    np.save(f"{place}/truth-{queries}.npy", Collection(place, images, queries).exact())


class Collection:
    """Made-up images, counted from 0, with queries of the same kind and their exact answers."""

    def __init__(self, place: str, images: str, queries: str) -> None:
        self.place, self.images, self._saved = Path(place), int(images), f"{place}/truth-{queries}.npy"
        self.queries = self._rows(self.images, self.images + int(queries))

    def _rows(self, start: int, end: int) -> NDArray[np.float16]:
        """Return a copy of rows; the map of the file is given up, so that it does not count as memory of a process."""
        return np.array(np.load(self.place / "vectors.npy", mmap_mode="r")[start:end])

    def blocks(self) -> Iterator[tuple[int, NDArray[np.float16]]]:
        """Yield all images by blocks, each with the number of its first."""
        for start in range(0, self.images, BLOCK):
            yield start, self._rows(start, min(start + BLOCK, self.images))

    def exact(self) -> NDArray[np.int64]:
        """Return the K nearest images of each query by float32 products."""
        wanted = self.queries.astype(np.float32).T
        ids, best = np.empty((len(self.queries), 0), np.int64), np.empty((len(self.queries), 0), np.float32)
        for start, block in self.blocks():
            rows = block.astype(np.float32)
            found = ((rows / np.linalg.norm(rows, axis=1, keepdims=True)) @ wanted).T
            ids = np.hstack([ids, np.broadcast_to(np.arange(start, start + len(rows)), found.shape)])
            best = np.hstack([best, found])
            order = np.argsort(-best, axis=1, kind="stable")[:, :K]
            ids, best = np.take_along_axis(ids, order, 1), np.take_along_axis(best, order, 1)
        return ids

    @cached_property
    def truth(self) -> NDArray[np.int64]:
        """The exact answers (queries, K), the nearest first."""
        known: NDArray[np.int64] = np.load(self._saved)
        return known

    def recall(self, answers: dict[int, NDArray[np.int64]]) -> float:
        """Return the share of the exact answers that was found, of the queries that were answered."""
        return statistics.mean(len(set(a.tolist()) & set(self.truth[n].tolist())) / K for n, a in answers.items())

    def fewest(self, search: Callable[[int, int], NDArray[np.int64]], efforts: list[int], target: float) -> int:
        """Return the least of rising efforts with which half of the queries have the recall aimed at, else the last."""
        half = range(0, len(self.queries), 2)
        for effort in efforts:
            if self.recall({n: search(n, effort) for n in half}) >= target:
                return effort
        return efforts[-1]


def steps(most: int, least: int = 1) -> list[int]:
    """Return rising counts, each about an eighth more."""
    found = [least]
    while found[-1] < most:
        found.append(min(most, max(found[-1] + 1, found[-1] * 9 // 8)))
    return found


# --- what is measured by --------------------------------------------------------------------------------------------


class Memory:
    """What this process occupies, in MB, while something is done in it.

    ``peak`` is the most of its whole life, as the system keeps it (VmHWM); what of that was its own (RssAnon) and what
    pages of mapped files (RssFile), which the system can take back, is looked at 50 times a second.
    """

    def __enter__(self) -> Memory:
        self.before, self._own, self._maps, self._done = size("VmRSS"), 0.0, 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self._own, self._maps = max(self._own, size("RssAnon")), max(self._maps, size("RssFile"))
            if self._done.wait(0.02):
                return

    def say(self, images: int, figure: str, of: str) -> None:
        more = {"own": round(self._own), "maps": round(self._maps), "before": round(self.before)}
        say(images, figure, of, round(size("VmHWM")), **more)


def size(name: str) -> float:
    """Return one of the sizes of the process, in MB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name + ":"))


def say_times(collection: Collection, of: str, times: list[float], answers: dict[int, NDArray[np.int64]]) -> None:
    """Say how long queries took one at a time, how many that is in a second, and what they found."""
    more: dict[str, float] = {
        "p90": round(float(np.quantile(times, 0.9)), 6),
        "per_s": round(len(times) / sum(times), 2),
    }
    if answers:
        more["recall"] = round(collection.recall(answers), 4)
    say(collection.images, "search", of, statistics.median(times), **more)


def in_groups(
    collection: Collection,
    of: str,
    many: Callable[[Sequence[int]], list[NDArray[np.int64]]],
    one: Callable[[int], NDArray[np.int64]],
    *,
    slow: bool,
) -> None:
    """Time queries in groups, and after each the queries of another group one at a time; of what is slow only a few."""
    total = len(collection.queries)
    groups = [range(start, start + TOGETHER) for start in range(0, total - TOGETHER + 1, TOGETHER)] or [range(total)]
    groups = groups[:1] if slow else groups
    single = 8 if slow and collection.images > 200_000 else TOGETHER
    for group in groups:
        many(group)  # all is in memory then
    together, alone = 0.0, list[float]()
    found: dict[int, NDArray[np.int64]] = {}
    for group, other in zip(groups, [*groups[1:], groups[0]], strict=True):
        start = time.perf_counter()
        found |= dict(zip(group, many(group), strict=True))
        together += time.perf_counter() - start
        for n in other[:single]:
            start = time.perf_counter()
            one(n)
            alone.append(time.perf_counter() - start)
    more = {"per_s": round(len(found) / together, 2), "alone_per_s": round(len(alone) / sum(alone), 2)}
    say(collection.images, "together", of, together / len(found), **more, recall=round(collection.recall(found), 4))


def evict(top: str | Path) -> None:
    """Take a file, or all files of a folder, out of the page cache, forced to the disk before: else they would stay."""
    for path in [Path(top), *Path(top).rglob("*")]:
        if path.is_file():
            with open(path, "rb") as file:
                os.fdatasync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def on_disk(top: str | Path) -> int:
    """Return the bytes of a file, or of all files of a folder."""
    return sum(path.stat().st_size for path in [Path(top), *Path(top).rglob("*")] if path.is_file())
