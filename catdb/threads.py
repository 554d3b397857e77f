"""The cores: work of one thread that others take part in, those of a pool; and who has them to itself."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import islice
from threading import Lock
from typing import Generic, TypeVar

COUNT = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
_AHEAD = 4  # items taken at a time for each thread: what they hold in memory is bounded

_Item = TypeVar("_Item")
_Found = TypeVar("_Found")


def side_by_side(function: Callable[[_Item], _Found], items: Iterable[_Item]) -> Iterator[list[_Found]]:
    """Yield function(item) for each item, in their order, some at a time; computed by several threads.

    Items are taken by this thread only, some at a time before they are begun with: what takes them is Python, and the
    interpreter's lock would have to change hands for each of them. The others compute while the next ones are taken.
    """
    items = iter(items)
    begun: _Work[_Item, _Found] | None = None
    while some := list(islice(items, _AHEAD * COUNT)):
        before, begun = begun, _Work(function, some)
        if before:
            yield before.finish()
    if begun:
        yield begun.finish()


class _Work(Generic[_Item, _Found]):
    """Items for whichever thread comes first: those of the pool, and the one that asks for the results."""

    def __init__(self, function: Callable[[_Item], _Found], items: Sequence[_Item]) -> None:
        self._function = function
        self._left = deque(enumerate(items))
        self._found: dict[int, _Found] = {}
        self._others = [_pool().submit(self._take_part) for _ in range(min(COUNT, len(items)) - 1)]

    def _take_part(self) -> None:
        while self._left:
            try:
                place, item = self._left.popleft()
            except IndexError:  # another was faster
                return
            self._found[place] = self._function(item)

    def finish(self) -> list[_Found]:
        """Do what is left, and return what was found, in the order of the items."""
        try:
            self._take_part()
        finally:
            self._left.clear()
        for other in self._others:
            if not other.cancel():  # else it never began: all threads were busy
                other.result()
        return [self._found[place] for place in range(len(self._found))]


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(COUNT - 1, "catdb-search")


_turn = Lock()


def turn() -> Lock:
    """Return what a search holds: it uses all cores, and several at once take longer than one after another.

    They would hand the interpreter's lock to and fro.
    """
    return _turn


def _forget() -> None:
    """Begin anew in a process that was forked: it has no other threads, and none that would give its turn back."""
    global _turn
    _pool.cache_clear()
    _turn = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
