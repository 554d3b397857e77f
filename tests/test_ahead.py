"""Reading ahead: what a statement returns is the same with it and without, and nothing hangs on it."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stock import CATEGORIES, META, put

from catdb.catalog import Catalog, Centroid, Pointer, ahead, images, shards
from catdb.errors import DatabaseReadOnly

pytestmark = pytest.mark.damaged  # there are no shards here

BLOCKS = 300
LARGE = 4096  # numbers of a mean that takes three pages
Found = list[tuple[int, int, int, int, bytes]]


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    catalog = Catalog.writer(str(tmp_path / "catalog.sqlite"))
    catalog.create(META, CATEGORIES)
    with catalog.transaction():
        catalog.add_root(b"/photos", b"../photos", True)
    yield catalog
    catalog.close()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Catalog]:
    """The readers that are opened from here on."""
    found: list[Catalog] = []
    reader = Catalog.reader

    def counted(path: str) -> Catalog:
        found.append(reader(path))
        return found[-1]

    monkeypatch.setattr(Catalog, "reader", staticmethod(counted))
    return found


@pytest.fixture
def cold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the system say of whatever is read that it came from the disk."""
    monkeypatch.setattr(ahead, "_from_disk", itertools.count().__next__)


def point(catalog: Catalog, blocks: int = BLOCKS, numbers: int = 1536, *, generation: int = 1) -> Found:
    """Give the categories so many blocks in turns; return those as they are to be read."""
    made = [
        Centroid(n % 10, n // 10, n // 10, 1, np.random.default_rng([generation, n]).random(numbers).astype(np.float16))
        for n in range(blocks)
    ]
    with catalog.transaction():
        for category in range(10):
            own = [block for block in made if block.category == category]
            catalog.point(Pointer(category, generation, len(own), 1, 2), own, [], 0.0)
    return sorted(map(plain, made))


def plain(block: Centroid) -> tuple[int, int, int, int, bytes]:
    return block.category, block.block, block.first, block.rows, block.mean.tobytes()


def read(catalog: Catalog) -> Found:
    return list(map(plain, catalog.centroids()))


def of_it() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("catdb-ahead")]


@pytest.mark.parametrize("bounds", [(1, BLOCKS), (1, 2, 2, 7, 290, BLOCKS), (-(2**63), 2**63 - 1)])
def test_all_that_lies_between_the_bounds_is_read_while_the_statement_is(
    catalog: Catalog, bounds: tuple[int, ...]
) -> None:
    point(catalog)
    seen, all_seen = set[int](), threading.Event()

    def see(number: int) -> None:
        seen.add(number)
        if len(seen) == BLOCKS:
            all_seen.set()

    def reader() -> Catalog:
        found = Catalog.reader(catalog.path)
        found.sql.create_function("see", 1, see)
        return found

    statement = "SELECT count(see(rowid)) FROM centroid WHERE rowid BETWEEN ? AND ?"
    with ahead.reading_ahead(reader, statement, bounds):
        assert of_it()
        assert all_seen.wait(60), f"only {len(seen)} of {BLOCKS}"
    assert seen == set(range(1, BLOCKS + 1))
    assert not of_it()


def test_what_is_left_when_the_statement_has_ended_is_not_begun(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    point(catalog)
    ended, begun = threading.Event(), list[str]()

    class Pool(ThreadPoolExecutor):
        def __exit__(self, *error: Any) -> bool | None:
            ended.set()
            return super().__exit__(*error)

    def reader() -> Catalog:
        found = Catalog.reader(catalog.path)
        found.sql.create_function("wait", 0, lambda: ended.wait(60))
        found.sql.set_trace_callback(begun.append)
        return found

    monkeypatch.setattr(ahead, "ThreadPoolExecutor", Pool)
    with ahead.reading_ahead(reader, "SELECT wait(), ?, ?", (1, BLOCKS)):
        pass
    assert len(begun) <= ahead._READERS < ahead._PIECES


@pytest.mark.usefixtures("cold")
@pytest.mark.parametrize("numbers", [12, 1536, LARGE])
@pytest.mark.parametrize("frozen", [False, True])
def test_means_are_the_same_read_ahead_or_not(
    catalog: Catalog, opened: list[Catalog], monkeypatch: pytest.MonkeyPatch, numbers: int, frozen: bool
) -> None:
    expected = point(catalog, numbers=numbers)
    if frozen:
        catalog.close()
        monkeypatch.setattr(os, "access", lambda *_: False)  # as one sees it who may not write
    with closing(Catalog.reader(catalog.path)) as reader:
        assert read(reader) == expected
    assert len(opened) == 1 + ahead._READERS
    assert {one.frozen for one in opened} == {frozen}


@pytest.mark.usefixtures("cold")
@pytest.mark.parametrize("blocks", [0, 1, shards._FEW - 1])
def test_few_means_are_not_read_ahead(catalog: Catalog, opened: list[Catalog], blocks: int) -> None:
    expected = point(catalog, blocks)
    assert (read(catalog), opened) == (expected, [])


def test_means_in_memory_are_not_read_ahead(catalog: Catalog, opened: list[Catalog]) -> None:
    expected = point(catalog)
    assert (read(catalog), read(catalog), opened) == (expected, expected, [])


@pytest.mark.usefixtures("cold")
def test_a_snapshot_holds_what_it_held_though_the_readers_see_what_came_later(
    catalog: Catalog, opened: list[Catalog]
) -> None:
    expected = point(catalog)
    with closing(Catalog.reader(catalog.path)) as reader, reader.snapshot():
        later = point(catalog, BLOCKS + 50, generation=2)
        assert read(reader) == expected
    assert len(opened) == 1 + ahead._READERS
    assert later != expected == expected[:BLOCKS]


def refused(path: str) -> Catalog:
    raise DatabaseReadOnly(f"{path}: unable to open database file")


def already_closed(path: str, reader: Callable[[str], Catalog] = Catalog.reader) -> Catalog:
    found = reader(path)
    found.close()
    return found


@pytest.mark.usefixtures("cold")
@pytest.mark.parametrize("reader", [refused, already_closed])
def test_readers_that_fail_change_nothing(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, reader: Callable[[str], Catalog]
) -> None:
    expected = point(catalog)
    monkeypatch.setattr(Catalog, "reader", staticmethod(reader))
    assert read(catalog) == expected


@pytest.mark.usefixtures("cold")
def test_a_statement_that_fails_ends_the_reading(catalog: Catalog) -> None:
    point(catalog)
    with pytest.raises(ZeroDivisionError):  # noqa: SIM117
        with ahead.reading_ahead(partial(Catalog.reader, catalog.path), shards._BETWEEN, (1, BLOCKS)):
            _ = 1 / 0
    assert not of_it()


INODES = [0, 1, 2**63 - 1, 2**63, 2**64 - 1, *range(10**9, 10**9 + 60), *[77] * 35]


@pytest.mark.usefixtures("cold")
def test_images_are_counted_alike_read_ahead_or_not(
    catalog: Catalog, opened: list[Catalog], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_MANY", len(INODES))
    with catalog.transaction():
        for number, inode in enumerate(INODES):
            item = put(number)
            assert catalog.put(replace(item, stamp=replace(item.stamp, inode=inode))) == "added"
    assert catalog.count() == len(INODES)
    assert len(opened) == ahead._READERS
    gone = range(1, len(INODES), 7)
    with catalog.transaction():
        for image in gone:
            catalog.delete(image)
    assert catalog.count() == len(INODES) - len(gone)
    bounds = catalog._inodes()
    assert (bounds[0], bounds[-1], sorted(bounds)) == (-(2**63), 2**63 - 1, bounds)
    assert len(bounds) > 10, "some images stand between"
    with catalog.transaction():
        for image in range(1, len(INODES) + 1):
            catalog.delete(image)
    assert (catalog.count(), catalog._inodes()) == (0, [])


def test_what_is_read_ahead_is_what_the_count_goes_through(catalog: Catalog) -> None:
    """SQLite chooses the index by itself: should it choose another one day, the wrong pages would be read ahead."""
    plans = [("SELECT count(*) FROM image", ()), (images._BETWEEN, (1, 2))]
    for statement, values in plans:
        [(*_, plan)] = catalog.sql.execute(f"EXPLAIN QUERY PLAN {statement}", values)
        assert "USING COVERING INDEX image_inode" in plan


def put_on_the_disk(catalog: Catalog) -> None:
    """Take a catalog out of memory."""
    catalog.close()
    with open(catalog.path, "rb") as file:
        os.fdatasync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_what_lies_on_the_disk_is_read_ahead_once(catalog: Catalog, opened: list[Catalog]) -> None:
    expected = point(catalog)
    put_on_the_disk(catalog)
    with closing(Catalog.reader(catalog.path)) as first:
        found, cold = ahead.watched(lambda: read(first))
        assert found == expected
        if not cold:
            pytest.skip("here nothing says what comes from the disk")
    assert len(opened) == 1 + ahead._READERS
    with closing(Catalog.reader(catalog.path)) as second:
        assert ahead.watched(lambda: read(second) == expected) == (True, False)
    assert len(opened) == 2 + ahead._READERS


@pytest.mark.parametrize("numbers", [12, 1536, LARGE])
def test_a_piece_is_all_pages_of_its_means(catalog: Catalog, numbers: int) -> None:
    expected = point(catalog, numbers=numbers)
    put_on_the_disk(catalog)
    with closing(Catalog.reader(catalog.path)) as reader:
        if not ahead.watched(lambda: reader.sql.execute(shards._BETWEEN, (1, BLOCKS)).fetchone())[1]:
            pytest.skip("here nothing says what comes from the disk")
    with closing(Catalog.reader(catalog.path)) as reader:
        assert ahead.watched(lambda: read(reader) == expected) == (True, False)
