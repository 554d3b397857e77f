"""Of a shard is read what is scanned, and what is scanned was checked before: block by block, and what lies around."""

from __future__ import annotations

import errno
import io
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stock import delete
from test_recall import COUNT, by_direction, collection, vectors  # noqa: F401
from test_shortened import NARROW, fill, made

from catdb import shard
from catdb.check import check, repair
from catdb.query import answer_vector
from catdb.reach import Reach
from catdb.search import Block
from catdb.store import Store

IMAGES = 300
CATEGORY = 4
NOTE = f"the shard of c{CATEGORY} is damaged: read from the catalog; run catdb check --repair"


@pytest.fixture(scope="module", params=[("float16", None), ("int8", NARROW)])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The path of a database of whole rows, or of short ones in int8, in shards of six blocks. Not to be changed."""
    numbers, dimensions = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("catdb.folding.FIT_LEAST", 100)
        store = made(tmp_path_factory.mktemp("parts") / "db", dimensions, numbers)
        fill(store, range(IMAGES))
        store.fold_due(at_rest=True)
        assert check(store).problems == ()
        store.close()
        yield store.path


@pytest.fixture
def path(whole: str, tmp_path: Path) -> str:
    """The path of a copy, which may be damaged."""
    return shutil.copytree(whole, tmp_path / "copy")


@pytest.fixture(params=[-1.0, 1e9], ids=["old", "young"])
def tick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards as if they were written long ago, or just now: of the latter nothing is remembered."""
    monkeypatch.setattr(shard, "_TICK", request.param)


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard, "_TICK", -1.0)


class Reads:
    """Which bytes were read of each shard since it was last asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._read: dict[str, set[int]] = {}
        self.bad: dict[str, int] = {}  # bytes that cannot be read
        note, bad = self._read, self.bad

        class Noted(io.FileIO):
            def readinto(self, buffer: Any) -> int:
                start = self.tell()
                count = super().readinto(buffer) or 0
                if bad.get(str(self.name), -1) in range(start, start + count):
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                note.setdefault(str(self.name), set()).update(range(start, start + count))
                return count

            def read(self, size: int | None = -1) -> bytes:
                raise AssertionError("a shard is read by readinto")

            readall = read  # type: ignore[assignment]

        monkeypatch.setattr(shard.io, "FileIO", Noted)  # type: ignore[attr-defined]

    def take(self) -> dict[str, set[int]]:
        read = dict(self._read)
        self._read.clear()
        return read


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


class Layout:
    """Where the parts of a category's shard lie, as HDF5 and the catalog say."""

    def __init__(self, store: Store, category: int = CATEGORY) -> None:
        with store.snapshot() as snapshot:
            pointer, self.regions = snapshot.catalog.pointer(category), snapshot.regions()
        assert pointer is not None
        self.category, self.path = category, Path(store.file(category, pointer.generation))
        self.places = np.flatnonzero(self.regions.categories == category)  # the blocks' places among all
        with h5py.File(self.path) as file:
            begin, size = file["features"].id.get_offset(), file["features"].id.get_storage_size()
            row = size // len(file["features"])
        self.size = self.path.stat().st_size
        self.before, self.behind = set(range(begin)), set(range(begin + size, self.size))
        self.around = self.before | self.behind
        bounds = [begin + row * int(first) for first in self.regions.first[self.places]]
        self.blocks = [set(range(a, b)) for a, b in zip(bounds, [*bounds[1:], begin + size], strict=True)]

    def of(self, numbers: Sequence[int]) -> set[int]:
        return set().union(*(self.blocks[number] for number in numbers))


def scan(store: Store, layout: Layout, numbers: Sequence[int]) -> tuple[dict[int, bytes], list[str]]:
    """Read some blocks of a category; return the rows by image, and the notes."""
    with store.snapshot() as snapshot:
        found = snapshot.parts(layout.regions, layout.places[list(numbers)])
        return rows_of(found), snapshot.notes


def scan_all(store: Store, category: int = CATEGORY) -> tuple[dict[int, bytes], list[str]]:
    with store.snapshot() as snapshot:
        return rows_of(snapshot.blocks([category])), snapshot.notes


def rows_of(blocks: Iterable[Block]) -> dict[int, bytes]:
    return {
        image: row.tobytes()
        for block in blocks
        for image, row in zip(block.rows.image_ids.tolist(), block.rows.features, strict=True)
    }


def flip(path: Path, byte: int) -> None:
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << byte % 8
    path.write_bytes(data)


def some(places: set[int]) -> list[int]:
    """Return the first, the last and another one of them."""
    chosen = sorted(places)
    return [chosen[0], chosen[-1], chosen[len(chosen) // 3]]


# --- what is read -----------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(searches=st.lists(st.lists(st.integers(0, 5), unique=True, max_size=5), min_size=1, max_size=5))
def test_blocks_are_read_when_they_are_first_scanned_and_nothing_else_is(whole: str, searches: list[list[int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard, "_TICK", -1.0)
        store = Store(whole, writable=False)
        layout, (expected, _) = Layout(store), scan_all(Store(whole, writable=False))
        reads = Reads(patch)
        known: set[int] = set()
        for numbers in searches:
            rows, notes = scan(store, layout, numbers)
            assert notes == [] and len(rows) == sum(int(layout.regions.rows[layout.places[n]]) for n in numbers)
            assert rows.items() <= expected.items()
            wanted = layout.around | layout.of(numbers) if numbers else set()
            assert reads.take().get(str(layout.path), set()) == wanted - known
            known |= wanted
        assert scan_all(store) == (expected, [])
        every = layout.around | layout.of(range(len(layout.blocks)))
        assert reads.take().get(str(layout.path), set()) == every - known
        assert every == set(range(layout.size))
        assert scan_all(store) == (expected, []) and scan(store, layout, [0, 3])[1] == []
        assert reads.take() == {}
        store.close()


def test_a_search_by_recall_target_reads_the_blocks_that_it_scans(
    collection: Store,  # noqa: F811
    reads: Reads,
    old: None,
) -> None:
    query = vectors(COUNT + 1)[-1]
    fresh = Store(collection.path, writable=False)
    first = answer_vector(fresh, query, Reach(10, recall=0.95))
    read = reads.take()
    with fresh.snapshot() as snapshot:
        regions = snapshot.regions()
    layouts = {str(one.path): one for one in (Layout(fresh, category) for category in range(10))}
    assert read.keys() <= layouts.keys() and first.rows < 0.5 * regions.rows.sum()
    scanned = 0
    for path, layout in layouts.items():
        blocks = [n for n, block in enumerate(layout.blocks) if block & read.get(path, set())]
        scanned += sum(int(regions.rows[layout.places[n]]) for n in blocks)
        assert read.get(path, set()) == (layout.around | layout.of(blocks) if path in read else set())
    assert scanned == first.rows
    assert answer_vector(fresh, query, Reach(10, recall=0.95)) == first
    assert reads.take() == {}
    fresh.close()


def test_who_stands_in_which_block_is_told_without_the_features(path: str, reads: Reads, old: None) -> None:
    store = Store(path, writable=False)
    layout = Layout(store)
    with store.snapshot() as snapshot:
        homes = snapshot.homes(layout.regions, np.arange(1, IMAGES + 1))
    assert reads.take()[str(layout.path)] == layout.around
    for number in (0, 5):
        place = int(layout.places[number])
        assert scan(store, layout, [number])[0].keys() == {image for image, places in homes.items() if place in places}
    store.close()


def test_the_disk_is_told_of_what_will_be_read(path: str, monkeypatch: pytest.MonkeyPatch, old: None) -> None:
    store = Store(path, writable=False)
    layout = Layout(store)
    told: list[set[int]] = []
    monkeypatch.setattr(
        os, "posix_fadvise", lambda file, start, count, advice: told.append(set(range(start, start + count)))
    )
    scan(store, layout, [2, 5])
    assert set().union(*told) == layout.around | layout.of([2, 5])
    told.clear()
    scan(Store(path, writable=False), layout, range(len(layout.blocks)))
    assert set().union(*told) == set(range(layout.size))
    store.close()


# --- damage -----------------------------------------------------------------------------------------------------

SCANNED, OTHERS = [1, 2, 4], [0, 3, 5]
PLACES: dict[str, tuple[Callable[[Layout], set[int]], bool]] = {
    "before the features": (lambda layout: layout.before, True),
    "behind the features": (lambda layout: layout.behind, True),
    "in a block that is scanned": (lambda layout: layout.of(SCANNED), True),
    "in another block": (lambda layout: layout.of(OTHERS), False),
}


@pytest.mark.parametrize(("where", "noticed"), PLACES.values(), ids=PLACES)
def test_a_flipped_bit_is_noticed_where_it_matters(
    path: str, where: Callable[[Layout], set[int]], noticed: bool, tick: None
) -> None:
    sound = Store(path)
    layout, (all_rows, _) = Layout(sound), scan_all(sound)
    parts = scan(sound, layout, SCANNED)[0]
    for byte in some(where(layout)):
        flip(layout.path, byte)
        for store in (Store(path, writable=False), sound):
            for _ in range(2):
                rows, notes = scan(store, layout, SCANNED)
                assert notes == ([NOTE] if noticed else []), byte
                assert rows == (all_rows if noticed else parts), byte
            assert scan_all(store) == (all_rows, [NOTE]), "all of it is scanned"
        flip(layout.path, byte)
        assert scan(sound, layout, SCANNED) == (parts, [])
        assert scan_all(sound) == (all_rows, [])
    flip(layout.path, byte)
    [problem] = check(sound).problems
    assert (problem.kind, problem.where) == ("shard", str(layout.path))
    assert repair(sound).rebuilt == 1
    sound.close()


@pytest.mark.parametrize(("where", "noticed"), PLACES.values(), ids=PLACES)
def test_a_bad_sector_is_damage_where_it_is_read(
    path: str, where: Callable[[Layout], set[int]], noticed: bool, reads: Reads, tick: None
) -> None:
    store = Store(path, writable=False)
    layout = Layout(store)
    sound, (all_rows, _) = scan(store, layout, SCANNED)[0], scan_all(store)
    for byte in some(where(layout)):
        reads.bad[str(layout.path)] = byte
        fresh = Store(path, writable=False)
        assert scan(fresh, layout, SCANNED) == ((all_rows, [NOTE]) if noticed else (sound, []))
        assert scan_all(fresh) == (all_rows, [NOTE])
        reads.bad.clear()
        assert scan_all(fresh) == (all_rows, [])
    store.close()


FILES: dict[str, Callable[[Path], object]] = {
    "cut by a byte": lambda path: os.truncate(path, path.stat().st_size - 1),
    "cut to half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "a byte longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "missing": Path.unlink,
    "of zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "another file": lambda path: shutil.copy(next(path.parents[1].glob("c5/*.h5")), path),
    "a link": lambda path: (path.rename(path.with_name("there")), path.symlink_to("there")),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("change", FILES.values(), ids=FILES)
def test_a_file_that_is_replaced_is_noticed_whatever_was_known_of_it(
    path: str, change: Callable[[Path], object], tick: None
) -> None:
    knowing, known = Store(path, writable=False), Store(path, writable=False)
    layout, (expected, _) = Layout(knowing), scan_all(knowing)
    assert scan(known, layout, [3])[1] == []  # of the others it knows nothing yet
    change(layout.path)
    for store in (Store(path, writable=False), known, knowing):
        assert scan(store, layout, SCANNED) == (expected, [NOTE])
        store.close()
    store = Store(path)
    assert repair(store).rebuilt == 1 and scan_all(store) == (expected, [])
    store.close()


def test_the_same_file_under_another_inode_is_checked_again_and_sound(path: str, reads: Reads, old: None) -> None:
    store = Store(path, writable=False)
    layout = Layout(store)
    expected = scan(store, layout, SCANNED)
    shutil.copy2(layout.path, layout.path.with_suffix(".new"))
    os.rename(layout.path.with_suffix(".new"), layout.path)
    reads.take()
    assert scan(store, layout, SCANNED) == expected
    assert reads.take()[str(layout.path)] == layout.around | layout.of(SCANNED)
    store.close()


def test_a_file_that_is_replaced_just_before_it_is_opened_is_checked_from_the_start(
    path: str, reads: Reads, old: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(path, writable=False)
    layout, opened = Layout(store), shard.opened
    scan(store, layout, [0])
    reads.take()

    def late(name: str) -> Any:
        shutil.copy2(name, name + ".new")
        os.rename(name + ".new", name)
        return opened(name)

    monkeypatch.setattr(shard, "opened", late)
    assert scan(store, layout, [1])[1] == []
    assert reads.take()[str(layout.path)] == layout.around | layout.of([1])
    store.close()


def test_a_block_that_is_checked_later_is_of_the_file_that_was_opened_first(path: str, old: None) -> None:
    """The rows of the map that is kept are not those of the file that now bears the name, though it is as sound."""
    store = Store(path)
    layout, (expected, _) = Layout(store), scan_all(store)
    reader = Store(path, writable=False)
    with reader.snapshot() as snapshot:
        rows = rows_of(snapshot.parts(layout.regions, layout.places[[0]]))
        delete(store, *list(rows)[:3])
        store.fold_all()
        assert rows_of(snapshot.parts(layout.regions, layout.places[[1]])).items() <= expected.items()
        layout.path.unlink()  # collected under a snapshot of that age
        rest = rows_of(snapshot.parts(layout.regions, layout.places[[2]]))
        assert rest.items() <= expected.items() and snapshot.notes == []
    reader.close()
    store.close()


# --- what the catalog says --------------------------------------------------------------------------------------

WRONG = {
    "checksum of a block": "UPDATE centroid SET checksum = checksum + 1 WHERE category = 4 AND block = 2",
    "no checksum of a block": "UPDATE centroid SET checksum = 0 WHERE category = 4 AND block = 2",
    "checksum of the rest": "UPDATE shard SET rest = rest + 1 WHERE category = 4",
    "where features begin": "UPDATE shard SET features = features + 2 WHERE category = 4",
    "bytes of a row": "UPDATE shard SET stride = stride - 1 WHERE category = 4",
}


@pytest.mark.parametrize("statement", WRONG.values(), ids=WRONG)
def test_wrong_numbers_in_the_catalog_are_damage_that_is_found_and_mended(path: str, statement: str) -> None:
    store = Store(path)
    layout, (expected, _) = Layout(store), scan_all(store)
    with store.writing() as catalog:
        catalog.sql.execute(statement)
    assert scan(Store(path, writable=False), layout, SCANNED) == (expected, [NOTE])
    assert scan_all(Store(path, writable=False)) == (expected, [])  # the file as a whole is sound
    [problem] = check(store).problems
    assert (problem.kind, problem.where) == ("shard", str(layout.path))
    assert repair(store).rebuilt == 1
    assert scan(Store(path, writable=False), Layout(store), SCANNED)[1] == []
    store.close()


IMPOSSIBLE = {
    "no place": "UPDATE shard SET features = 0 WHERE category = 4",
    "a place before the file": "UPDATE shard SET features = -1 WHERE category = 4",
    "a place behind the file": "UPDATE shard SET features = 9223372036854775807 WHERE category = 4",
    "a text": "UPDATE shard SET features = 'x', stride = 'y' WHERE category = 4",
    "endless rows": "UPDATE shard SET stride = 9223372036854775807 WHERE category = 4",
    "rows that go backwards": "UPDATE shard SET stride = -2 WHERE category = 4",
}


@pytest.mark.parametrize("statement", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_where_parts_cannot_be_a_file_is_checked_as_a_whole(path: str, statement: str, reads: Reads, old: None) -> None:
    store = Store(path)
    layout = Layout(store)
    expected = scan(store, layout, SCANNED)
    with store.writing() as catalog:
        catalog.sql.execute(statement)
    reads.take()
    fresh = Store(path, writable=False)
    assert scan(fresh, layout, SCANNED) == expected
    assert reads.take()[str(layout.path)] == set(range(layout.size))
    assert scan(fresh, layout, OTHERS)[1] == [] and reads.take() == {}
    assert len(check(store).problems) == 1
    repair(store)
    with store.snapshot() as snapshot:
        assert all(pointer.has_parts for pointer in snapshot.catalog.pointers())
    fresh.close()
    store.close()


# --- several at once --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damaged", [False, True])
def test_threads_that_scan_at_once_find_what_one_finds(path: str, damaged: bool, tick: None) -> None:
    store = Store(path, writable=False)
    layout, (expected, _) = Layout(store), scan_all(Store(path, writable=False))
    count, blocks = 6, len(layout.blocks)
    if damaged:
        flip(layout.path, some(layout.blocks[5])[1])
    start, found = threading.Barrier(count), dict[int, list[Any]]()

    def work(number: int) -> None:
        random = np.random.default_rng(number)
        start.wait()
        wanted = [random.choice(blocks, 3, replace=False).tolist() for _ in range(30)]
        found[number] = [(numbers, *scan(store, layout, numbers)) for numbers in wanted]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results = [result for results in found.values() for result in results]
    assert len(results) == 30 * count
    for numbers, rows, notes in results:
        if damaged and 5 in numbers:
            assert (rows, notes) == (expected, [NOTE])
        else:
            assert rows.items() <= expected.items() and notes == []
            assert len(rows) == sum(int(layout.regions.rows[layout.places[n]]) for n in numbers)
    repair(Store(path))
    store.close()
