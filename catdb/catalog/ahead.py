"""Reading ahead of a statement that goes through a whole table or index, where that has to come from the disk.

Its pages lie scattered over the file, and SQLite asks for one after another, where a disk could look for many at once.
So other connections read ranges of the same meanwhile. Nothing of what they read is used, and it may be of another
moment: the statement finds in memory what it would have waited for, and that is all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

try:
    from resource import RUSAGE_THREAD, getrusage
except ImportError:  # not every system says what a thread has read

    def _from_disk() -> int:
        return 0
else:

    def _from_disk() -> int:
        return getrusage(RUSAGE_THREAD).ru_inblock


if TYPE_CHECKING:
    from catdb.catalog.connection import Connection

_READERS = 16  # of which each has the disk look for one page at a time
_PIECES = 128  # so that none has much left to do when the others have finished

_Found = TypeVar("_Found")


def watched(read: Callable[[], _Found]) -> tuple[_Found, bool]:
    """Return what ``read`` returns, and whether some of that had to come from the disk (False where nobody can say)."""
    before = _from_disk()
    return read(), _from_disk() > before


@contextmanager
def reading_ahead(reader: Callable[[], Connection], statement: str, bounds: Sequence[int]) -> Iterator[None]:
    """While something inside reads a table, have further connections read it in pieces; without ``bounds`` none.

    ``statement`` reads what lies between two numbers. ``bounds``: rising ones between which there is about as much.
    """
    left = deque(_pieces(bounds))

    def read() -> None:
        with closing(reader()) as catalog:
            while left:
                catalog.sql.execute(statement, left.popleft()).fetchone()

    if not left:
        yield
        return
    with ThreadPoolExecutor(_READERS, "catdb-ahead") as pool:
        for _ in range(_READERS):
            pool.submit(read)  # what it raises nobody asks for: what is wrong, the statement inside will say
        try:
            yield
        finally:
            left.clear()


def _pieces(bounds: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield from where to where each piece goes: as many of one length between each two bounds."""
    count = _PIECES // max(1, len(bounds) - 1)
    for first, last in pairwise(bounds):
        steps = [first + (last - first) * step // count for step in range(count + 1)]
        yield from pairwise(steps)
