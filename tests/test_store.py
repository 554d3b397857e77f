"""The protocol between catalog and shards: one writer, snapshots for everyone else, and no crash that loses a row."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stock import CATEGORIES, DIMENSION, META, answers, delete, fill, found_in, make, put, shards

import catdb.store
from catdb import Database, shard
from catdb.catalog import Catalog, Load
from catdb.check import check, repair
from catdb.errors import DatabaseBusy, DatabaseDamaged, DatabaseNotFound, DatabaseReadOnly, StorageError
from catdb.folding import due, in_blocks
from catdb.images import Stamp
from catdb.lock import Lock
from catdb.snapshot import _slices
from catdb.store import GRACE, PER_COMMIT, Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty database. Whatever it holds at the end must check clean."""
    store = make(tmp_path / "db")
    yield store
    if store.exists():
        assert check(store).problems == ()
    store.close()


@contextmanager
def another(code: str, *words: object) -> Iterator[subprocess.Popen[str]]:
    """Run code in a process of its own, which has ``path`` in its first word and what the tests' stock holds."""
    lines = ["import os, signal, sys", "from stock import *", "from catdb.store import *", "path = sys.argv[1]", code]
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", "\n".join(lines), *map(str, words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    stream: IO[str] | None = process.stdout
    assert stream is not None
    return stream.readline().strip()


def say(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdin is not None
    process.stdin.write(text + "\n")
    process.stdin.flush()


# --- when to fold -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("load", "has_shard", "at_rest", "expected"),
    [
        (Load(0, 0, 0, 0), False, True, False),
        (Load(0, 0, 0, 1), False, True, True),  # at rest, whatever has no shard gets one
        (Load(0, 0, 0, 1), False, False, False),
        (Load(0, 0, 0, 63), False, False, False),
        (Load(0, 0, 0, 64), False, False, True),
        (Load(0, 100, 0, 63), True, False, False),
        (Load(0, 100, 0, 64), True, False, True),
        (Load(0, 256, 0, 64), True, False, True),  # a quarter of the shard...
        (Load(0, 257, 0, 64), True, False, False),  # ...and a little less than a quarter
        (Load(0, 1000, 0, 249), True, True, False),
        (Load(0, 1000, 0, 250), True, True, True),
        (Load(0, 4, 0, 1), True, True, True),
        (Load(0, 5, 0, 1), True, True, False),
        (Load(0, 3, 0, 0), True, True, False),
        (Load(0, 5, 1, 0), True, False, True),  # a fifth is dead...
        (Load(0, 6, 1, 0), True, True, False),
        (Load(0, 35, 7, 0), True, False, True),  # ...also where 0.2 * 35 is a little more than 7
        (Load(0, 36, 7, 0), True, True, False),
        (Load(0, 1, 1, 0), True, False, True),
    ],
)
def test_due_at_its_edges(load: Load, has_shard: bool, at_rest: bool, expected: bool) -> None:
    assert due(load, has_shard, at_rest=at_rest) is expected


def test_fold_due_folds_what_is_due_and_says_how_far_it_is(store: Store) -> None:
    store.commit([put(n, [0]) for n in range(64)] + [put(n, [1]) for n in range(100, 163)])
    steps: list[tuple[int, int]] = []
    assert store.fold_due(at_rest=False, progress=lambda done, of: steps.append((done, of))) == 1
    assert steps == [(1, 1)]
    assert [name.split("/")[0] for name in shards(store)] == ["c0"]
    assert store.fold_due(at_rest=True) == 1
    assert sorted(name.split("/")[0] for name in shards(store)) == ["c0", "c1"]
    assert store.fold_due(at_rest=True) == store.fold_all() == 0


def test_more_categories_than_one_commit_takes(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "db"))
    store.create(META, [(f"c{n}", "word") for n in range(PER_COMMIT + 3)])
    with store.writing() as catalog, catalog.transaction():
        catalog.add_root(b"/photos", b"../photos", True)
    store.commit([put(n, [n]) for n in range(PER_COMMIT + 3)])
    steps: list[tuple[int, int]] = []
    assert store.fold_all(progress=lambda done, of: steps.append((done, of))) == PER_COMMIT + 3
    assert steps == [(PER_COMMIT, PER_COMMIT + 3), (PER_COMMIT + 3, PER_COMMIT + 3)]
    assert (check(store).problems, len(shards(store))) == ((), PER_COMMIT + 3)
    store.close()


# --- making one -------------------------------------------------------------------------------------------------


def test_there_is_none_before_it_is_made(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "db"))
    assert not store.exists()
    for use in (store.snapshot, store.writing):
        with pytest.raises(DatabaseNotFound), use():
            pass
    assert sorted(os.listdir(tmp_path)) == ["home", "work"]


def test_the_beginning_of_one_is_none_yet(tmp_path: Path) -> None:
    (tmp_path / "db" / "shards").mkdir(parents=True)
    (tmp_path / "db" / "catalog.sqlite").touch()
    store = Store(str(tmp_path / "db"))
    assert not store.exists()
    for use in (store.snapshot, store.writing):
        with pytest.raises(DatabaseNotFound, match="the beginning"), use():
            pass
    store.create(META, CATEGORIES)
    assert store.exists()
    store.close()


@pytest.mark.parametrize("begun", [False, True])
def test_the_names_of_a_new_database_are_on_the_disk_before_its_first_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    path = tmp_path / "new" / "newer" / "db"
    if begun:  # by a process that died
        path.mkdir(parents=True)
    done: list[str] = []
    force, commit = catdb.store.force_directory, Catalog.create
    monkeypatch.setattr(catdb.store, "force_directory", lambda folder: (done.append(folder), force(folder)))
    monkeypatch.setattr(Catalog, "create", lambda *words: (done.append("commit"), commit(*words)))
    store = Store(str(path))
    store.create(META, CATEGORIES)
    above = [str(folder) for folder in (path.parent, path.parent.parent, tmp_path)]
    assert done[: len(above)] == above
    assert set(above) <= set(done[: done.index("commit")])
    store.close()


def test_a_second_creation_changes_nothing(store: Store) -> None:
    fill(store, [1])
    other = Store(store.path)
    other.create({"dimension": 99}, [("x", "y")])
    assert answers(other)[0] == [1]
    assert other.categories() == CATEGORIES
    other.close()


def test_a_place_where_nothing_can_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="choose another place"):
        Store(str(tmp_path / "file" / "db")).create(META, CATEGORIES)


def test_processes_that_race_to_make_it_make_one(tmp_path: Path) -> None:
    code = """
print(flush=True)
sys.stdin.readline()
store = Store(path, wait=60)
number = int(sys.argv[2])
store.create({**META, "maker": number}, CATEGORIES)
with store.writing() as catalog, catalog.transaction():
    catalog.add_root(b"/photos", b"../photos", True)
print(store.commit([put(number)]), flush=True)
store.close()
"""
    path = tmp_path / "db"
    with another(code, path, 1) as one, another(code, path, 2) as two:
        for process in (one, two):
            line(process)
        for process in (one, two):
            say(process, "go")
        assert [line(process) for process in (one, two)] == ["['added']"] * 2
        assert [process.wait(60) for process in (one, two)] == [0, 0]
    assert sorted(os.listdir(path)) == ["LOCK", "catalog.sqlite", "shards"]
    store = Store(str(path))
    with store.snapshot() as snapshot:
        assert snapshot.catalog.meta()["maker"] in (1, 2)
        assert snapshot.catalog.count() == 2
    assert check(store).problems == ()
    store.close()


def test_a_directory_whose_name_is_no_text(tmp_path: Path) -> None:
    path = os.fsdecode(os.path.join(os.fsencode(tmp_path), b"\xff db?#%41"))
    store = make(Path(path))
    fill(store, range(5))
    before = answers(store)
    store.fold_all()
    assert answers(store) == before
    assert check(store).problems == ()
    store.close()


def test_a_database_whose_making_was_cut_off_counts_as_none_and_is_made_again(tmp_path: Path) -> None:
    """The first page of a catalog is written under another journal than the log, which a reader may not roll back."""
    (tmp_path / "db" / "shards").mkdir(parents=True)
    sql = sqlite3.connect(tmp_path / "other", isolation_level=None)
    sql.execute("PRAGMA cache_size=1")
    sql.execute("BEGIN IMMEDIATE")
    sql.execute("CREATE TABLE t(x)")
    sql.executemany("INSERT INTO t VALUES(zeroblob(?))", [(3000,)] * 50)  # more than the cache holds: it is written
    for end in ("", "-journal"):
        shutil.copy(tmp_path / f"other{end}", tmp_path / "db" / f"catalog.sqlite{end}")
    sql.execute("ROLLBACK")
    sql.close()
    with pytest.raises(DatabaseNotFound, match="only the beginning of one"), Store(str(tmp_path / "db")).snapshot():
        pass
    Database(tmp_path / "db", backbone="classic").close()  # its files are in nobody's way
    store = make(tmp_path / "db")
    fill(store, range(3))
    assert check(store).problems == ()
    store.close()


def test_a_new_database_whose_entry_cannot_be_forced_is_made_by_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:

        def fails(file: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        patch.setattr(os, "fsync", fails)
        store = Store(str(tmp_path / "db"))
        with pytest.raises(StorageError, match="db: Input/output error; nothing is lost, run it again$"):
            store.create(META, CATEGORIES)
        assert not store.exists()
    store.create(META, CATEGORIES)
    assert store.exists()
    store.close()


# --- the lock ---------------------------------------------------------------------------------------------------

HOLD = """
store = Store(path)
with store.writing() as catalog:
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_second_writer_is_told_who_writes(store: Store) -> None:
    with another(HOLD, store.path) as process:
        assert line(process) == "held"
        with pytest.raises(DatabaseBusy, match=rf"\(process {process.pid} on {socket.gethostname()}\) is writing"):
            fill(store, [1])
        assert answers(store) == ([], [], [])  # readers are not held up
        say(process, "let go")
        assert process.wait(60) == 0
    fill(store, [1])


def test_another_store_of_the_same_process_is_another_writer(store: Store) -> None:
    other = Store(store.path, wait=0.0)
    with store.writing(), pytest.raises(DatabaseBusy, match=f"process {os.getpid()} "):
        fill(other, [1])
    fill(other, [1])
    other.close()


def test_a_writer_signs_the_lock_and_takes_its_name_out(store: Store) -> None:
    lock = Path(store.path, "LOCK")
    with store.writing():
        assert f"(process {os.getpid()} on " in lock.read_text()
        with store.writing():
            pass
        assert f"(process {os.getpid()} on " in lock.read_text()
    assert lock.read_text() == ""
    with pytest.raises(ZeroDivisionError), store.writing():
        _ = 1 / 0
    assert lock.read_text() == ""


def test_an_interrupt_at_the_end_keeps_no_lock(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    sign = store._connections.lock._sign

    def interrupted(text: str) -> None:
        if not text:
            raise KeyboardInterrupt
        sign(text)

    with monkeypatch.context() as patch:
        patch.setattr(store._connections.lock, "_sign", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fill(store, [1])
    other = Store(store.path, wait=0.0)
    fill(other, [2])
    other.close()
    fill(store, [3])


def test_what_a_killed_writer_left_is_dropped_by_one_that_has_written_before(store: Store) -> None:
    fill(store, range(5))
    store.fold_all()
    before = shards(store)
    with another(HOLD, store.path) as process:
        assert line(process) == "held"
        leftover = Path(store.path, "shards", "c9", "999.h5")
        leftover.parent.mkdir(exist_ok=True)
        leftover.write_bytes(b"half a shard")
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    assert f"process {process.pid} " in Path(store.path, "LOCK").read_text()
    assert check(store).leftovers == (str(leftover),)
    fill(store, [7])
    assert shards(store) == before
    assert Path(store.path, "LOCK").read_text() == ""


def test_a_close_does_not_hide_that_a_writer_was_killed(store: Store) -> None:
    fill(store, [1])
    long_lived = Store(store.path)
    fill(long_lived, [2])
    Path(store.path, "LOCK").write_text("a writer that is dead")
    Path(store.path, "shards", "leftover").touch()
    store.close()
    assert Path(store.path, "LOCK").read_text() != ""
    fill(long_lived, [3])
    assert shards(long_lived) == {}
    long_lived.close()


def test_a_recovery_that_fails_is_made_up_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store, [1])
    Path(store.path, "LOCK").write_text("a writer that is dead")
    Path(store.path, "shards", "leftover").touch()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails(errno.EIO))
        with pytest.raises(StorageError):
            fill(store, [2])
    assert list(shards(store)) == ["leftover"]
    fill(store, [2])
    assert shards(store) == {}


def test_a_reader_neither_locks_nor_writes(store: Store) -> None:
    fill(store, [1])
    reader = Store(store.path, writable=False)
    with store.writing():
        assert answers(reader)[0] == [1]
    with pytest.raises(DatabaseReadOnly, match="mode 'r'"):
        fill(reader, [2])
    reader.close()


def fails(number: int) -> Callable[..., None]:
    def function(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return function


# --- commit -----------------------------------------------------------------------------------------------------


def test_a_commit_is_found_by_the_next_search_of_every_process(store: Store) -> None:
    code = """
store = Store(path, writable=False)
for word in sys.stdin:
    if word == "close\\n":
        break
    print(answers(store)[0], flush=True)
store.close()
"""
    with another(code, store.path) as process:
        for image, prepare in (
            (1, lambda: None),
            (2, store.fold_all),
            (3, lambda: delete(store, 1)),
            (4, store.fold_all),
        ):
            fill(store, [image])
            prepare()
            say(process, "search")
            assert line(process) == str(answers(store)[0])
        with store.writing() as catalog:
            store.collect(catalog, grace=0)
        say(process, "search")
        found = line(process)
        assert found == str(answers(store)[0]) and found.count(",") == 2
        say(process, "close")
        assert process.wait(60) == 0


def test_what_was_removed_or_whose_root_is_gone_is_left_out(store: Store) -> None:
    with store.writing() as catalog, catalog.transaction():
        catalog.set_removed(1, b"a")
    puts = [put(1, path=b"a/b"), put(2, path=b"a0"), put(3, root=9), put(4, path=b"a")]
    failures = [(1, b"a/c", "bad", None), (1, b"b", "bad", Stamp(1, 2, 3)), (9, b"c", "bad", None)]
    assert store.commit(puts, failures) == [None, "added", None, None]
    with store.snapshot() as snapshot:
        assert [image.path for image in snapshot.catalog.images()] == [b"a0"]
        assert snapshot.catalog.failures() == [(1, b"b", "bad")]


def test_a_commit_that_fails_stores_nothing(store: Store) -> None:
    bad = put(2)
    object.__setattr__(bad, "probabilities", [0.5])
    with pytest.raises(ValueError, match="zip"):
        store.commit([put(1), bad])
    assert answers(store) == ([], [], [])
    fill(store, [1])


def test_threads_may_share_it(store: Store) -> None:
    store.commit([put(n) for n in range(100, 110)])

    def work(thread: int) -> None:
        for number in range(5):
            assert store.commit([put(10 * thread + number)]) == ["added"]
            found, _, notes = answers(store)
            assert (len(found) == len(set(found)), notes) == (True, [])
            if number == 2:
                store.fold_all()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len(answers(store)[0]) == 50


def test_threads_take_turns_at_writing(store: Store) -> None:
    inside = threading.Lock()

    def work(number: int) -> None:
        with store.writing() as catalog, catalog.transaction():
            assert inside.acquire(blocking=False)
            catalog.put(put(number))
            inside.release()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))
    assert len(answers(store)[0]) == 40


# --- fold and collect -------------------------------------------------------------------------------------------


def test_folding_changes_no_answer(store: Store) -> None:
    fill(store, range(40))
    before = answers(store)
    assert len(before[0]) == 40
    assert store.fold_all() == 10
    assert answers(store) == before
    delete(store, *range(1, 10))
    fill(store, range(40, 50))
    before = answers(store)
    assert len(before[0]) == 41
    store.fold_all()
    assert answers(store) == before


def test_a_shard_is_the_same_whether_folded_at_once_or_bit_by_bit(store: Store, tmp_path: Path) -> None:
    fill(store, range(20))
    store.fold_all()
    delete(store, 3, 4, 19)
    fill(store, range(20, 30))
    store.fold_all()
    with store.writing() as catalog:
        store.collect(catalog, grace=0)
        store.unpoint(catalog, range(10))
    bit_by_bit = shards(store)
    store.fold_all()
    at_once = {name: data for name, data in shards(store).items() if name not in bit_by_bit}
    assert sorted(at_once.values()) == sorted(bit_by_bit.values())


def test_a_replaced_file_stays_for_its_grace(store: Store) -> None:
    store.commit([put(1, [0])])
    store.fold_all()
    [old] = shards(store)
    store.commit([put(2, [0])])
    store.fold_all()
    assert len(shards(store)) == 2
    with store.writing() as catalog:
        [(category, generation)] = catalog.garbage(float("inf"))
        assert store.file(category, generation).endswith(old)
        store.collect(catalog, grace=GRACE)
        assert len(shards(store)) == 2
        store.collect(catalog, grace=0)
        assert catalog.garbage(float("inf")) == []
    assert len(shards(store)) == 1 and old not in shards(store)


def test_garbage_that_cannot_be_unlinked_stays_garbage(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.commit([put(1, [0])])
    for number in (2, 3):
        store.fold_all()
        store.commit([put(number, [0])])
    store.fold_all()
    with store.writing() as catalog:
        with monkeypatch.context() as patch:
            patch.setattr(os, "unlink", fails(errno.EPERM))
            store.collect(catalog, grace=0)
        assert len(catalog.garbage(float("inf"))) == 2
        os.unlink(store.file(*catalog.garbage(float("inf"))[0]))  # by hand
        store.collect(catalog, grace=0)
        assert catalog.garbage(float("inf")) == []
    assert len(shards(store)) == 1


def test_a_category_whose_images_are_gone_loses_file_and_folder(store: Store) -> None:
    store.commit([put(1, [0]), put(2, [1])])
    store.fold_all()
    delete(store, 1)
    store.fold_all()
    with store.writing() as catalog:
        assert [pointer.category for pointer in catalog.pointers()] == [1]
        store.collect(catalog, grace=0)
    assert os.listdir(Path(store.path, "shards")) == ["c1"]
    fill(store, [10])
    store.fold_all()
    assert sorted(answers(store)[0]) == [2, 3]


def test_a_snapshot_answers_the_same_after_deletes_and_folds(store: Store) -> None:
    fill(store, range(20))
    store.fold_all()
    fill(store, range(20, 25))
    before = answers(store)
    reader = Store(store.path, writable=False)
    with reader.snapshot() as snapshot:
        delete(store, *range(1, 15))
        store.fold_all()
        assert found_in(snapshot) == before
        with store.writing() as catalog:
            store.collect(catalog, grace=0)  # even where the files are gone
        assert found_in(snapshot)[:2] == before[:2]
    assert len(answers(reader)[0]) == 11
    reader.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("good", [0, 1, 3])
def test_a_fold_that_fails_loses_nothing_and_the_next_one_works(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int, good: int
) -> None:
    fill(store, range(20))
    store.fold_all()
    fill(store, range(20, 30))
    before, files = answers(store), shards(store)
    calls = itertools.count()
    write = shard.write

    def torn(path: str, data: bytes) -> None:
        if next(calls) < good:
            write(path, data)
        else:
            Path(path).write_bytes(data[:100])
            raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(shard, "write", torn)
        with pytest.raises(StorageError, match=f"{os.strerror(number)}; nothing is lost"):
            store.fold_all()
    assert answers(store) == before
    assert check(store).problems == ()
    assert len(shards(store)) == len(files) + good + 1
    other = Store(store.path)  # which drops what is left, because the name still stands in the lock
    with other.writing():
        assert shards(other) == files
    other.close()
    assert store.fold_all() == 10
    assert answers(store) == before


def test_no_generation_is_used_twice_even_by_a_fold_that_failed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    write = shard.write

    def spy(path: str, data: bytes) -> None:
        used.append(path)
        write(path, data)
        if len(used) == 2:
            raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(shard, "write", spy)
    store.commit([put(n, [0, 1]) for n in range(3)])
    with pytest.raises(StorageError):
        store.fold_all()
    store.fold_all()
    delete(store, 1)
    Store(store.path).fold_all()
    assert [Path(path).stem for path in used] == ["1", "2", "3", "4", "5", "6"]


def test_an_interrupted_fold_leaves_what_the_next_writer_drops(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store, [1])

    def interrupted(path: str, data: bytes) -> None:
        Path(path).write_bytes(data)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shard, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.fold_all()
    assert len(shards(store)) == 1
    fill(store, [2])
    assert shards(store) == {}


def test_a_fold_never_copies_damage_that_came_after_the_last_look(store: Store) -> None:
    store.commit([put(n, [0]) for n in range(20)])
    store.fold_all()
    before = answers(store)  # looks at the shard, and remembers that it was whole
    [name] = shards(store)
    flip(Path(store.path, "shards", name), 6200)
    fill(store, [100])
    with store.writing() as catalog:
        assert catalog.pending(0) == [21]
    store.fold_all()
    found, similarities, notes = answers(store)
    assert ([s for i, s in zip(found, similarities, strict=True) if i != 21], notes) == (before[1], [])


def flip(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 4]))


# --- damage -----------------------------------------------------------------------------------------------------


DAMAGE: dict[str, tuple[Callable[[Path], object], int]] = {
    "a row": (lambda path: flip(path, 6150), 1),
    "the head": (lambda path: flip(path, 3), 1),
    "unlinked": (Path.unlink, 1),
    "emptied": (lambda path: path.write_bytes(b""), 1),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:7000]), 1),
    "without its folder": (lambda path: shutil.rmtree(path.parent), 1),
    "without any folder": (lambda path: shutil.rmtree(path.parent.parent), 10),
}


@pytest.mark.parametrize(("damage", "count"), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_shard_is_answered_for_by_the_catalog_and_repaired(
    store: Store, damage: Callable[[Path], object], count: int
) -> None:
    fill(store, range(30))
    store.fold_all()
    fill(store, range(30, 33))
    delete(store, 1, 2)
    expected, files = answers(store), shards(store)
    assert expected[2] == []
    place = next(Path(store.path, "shards", name) for name in files if name.startswith("c3/"))
    damage(place)

    reader = Store(store.path, writable=False)  # as another process sees it
    found, similarities, notes = answers(reader)
    assert (found, similarities) == expected[:2]
    assert "the shard of c3 is damaged: read from the catalog; run catdb check --repair" in notes
    reader.close()

    assert {problem.kind for problem in check(store).problems} == {"shard"}
    assert repair(store).rebuilt == count
    assert check(store).problems == ()
    assert answers(store) == expected
    whole = make(Path(store.path).with_name("whole"))  # the same history, without the damage
    fill(whole, range(30))
    fill(whole, range(30, 33))
    delete(whole, 1, 2)
    whole.fold_all()
    healed = {name.split("/")[0]: data for name, data in shards(store).items() if name not in files}
    intact = {name.split("/")[0]: data for name, data in shards(whole).items()}
    assert len(healed) == count and "c3" in healed
    assert healed == {name: intact[name] for name in healed}
    whole.close()


def test_a_damaged_vector_is_never_answered_with(store: Store) -> None:
    fill(store, [1])
    with store.writing() as catalog:
        catalog.sql.execute("UPDATE vector SET data = zeroblob(24)")
    with pytest.raises(DatabaseDamaged, match=r"image 1 is damaged; run catdb check --repair"):
        answers(store)
    with pytest.raises(DatabaseDamaged):
        store.fold_all()
    repair(store)
    assert answers(store) == ([], [], [])


def test_a_deleted_database_is_noticed_by_one_that_has_it_open(store: Store) -> None:
    fill(store, range(5))
    store.fold_all()
    answers(store)
    shutil.rmtree(store.path)
    assert not store.exists()
    with pytest.raises(DatabaseNotFound):
        fill(store, [6])
    other = make(Path(store.path))
    fill(other, [7])
    other.fold_all()
    files = shards(other)
    assert answers(store)[0] == [1]
    store.commit([put(8)])
    assert shards(store) == files
    assert sorted(answers(other)[0]) == [1, 2]
    other.close()


def test_closing_does_not_bring_a_deleted_database_back(store: Store) -> None:
    fill(store, [1])
    shutil.rmtree(store.path)
    store.close()
    assert not os.path.exists(store.path)


# --- read-only places -------------------------------------------------------------------------------------------

AS_NOBODY = """
from catdb.database import Database
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
store = Store(path, writable=False)
assert not os.access(path, os.W_OK)
for word in sys.stdin:
    try:
        print(answers(store)[:2], flush=True)
    except Exception as error:
        print(type(error).__name__, error, flush=True)
"""


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that other users may enter, unlike pytest's own."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    yield place
    for folder, _, _ in os.walk(place):
        os.chmod(folder, 0o755)
    shutil.rmtree(place)


def test_a_directory_that_cannot_be_written_to_is_read_as_it_lies(open_place: Path) -> None:
    store = make(open_place / "db")
    fill(store, range(20))
    store.fold_all()
    fill(store, range(20, 25))
    expected = answers(store)
    store.close()
    for folder, _, names in os.walk(store.path):
        for name in names:
            os.chmod(os.path.join(folder, name), 0o444)
        os.chmod(folder, 0o555)
    listed = sorted(os.listdir(store.path))
    assert listed == ["LOCK", "catalog.sqlite", "shards"]
    with another(AS_NOBODY, store.path) as process:
        say(process, "search")
        assert line(process) == str(expected[:2])
        if os.getuid() == 0:  # whoever may write goes on, and the reader sees it
            fill(store, [100])
            say(process, "search")
            after = answers(store)[:2]
            assert after != expected[:2] and line(process) == str(after)
            store.close()
            say(process, "search")
            assert line(process) == str(after)
        else:
            assert sorted(os.listdir(store.path)) == listed


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_catalog_that_may_not_be_read_is_not_one_that_is_missing(open_place: Path) -> None:
    store = make(open_place / "db")
    store.close()
    os.chmod(Path(store.path, "catalog.sqlite"), 0o600)
    os.chmod(store.path, 0o755)
    code = AS_NOBODY.replace("answers(store)[:2]", "store.exists()")
    with another(code, store.path) as process:
        say(process, "exists")
        assert line(process).startswith("DatabaseReadOnly ")


# --- descriptors and logs ---------------------------------------------------------------------------------------


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_snapshots_and_searches_leak_no_descriptor(store: Store) -> None:
    fill(store, range(20))
    store.fold_all()
    answers(store)
    before = descriptors()
    for _ in range(2000):
        with store.snapshot() as snapshot:
            next(snapshot.blocks([3]))
    for number in range(20):
        answers(store)
        fill(store, [1000 + number])
    assert descriptors() <= before
    store.close()
    assert not [name for name in map(link, os.listdir("/proc/self/fd")) if store.path in name]


def link(number: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except FileNotFoundError:
        return ""


def test_a_search_of_every_category_holds_no_file_open(store: Store) -> None:
    fill(store, range(40))
    store.fold_all()
    with store.snapshot() as snapshot:
        before = descriptors()
        most = 0
        for block in snapshot.blocks(range(10)):
            most = max(most, descriptors() - before)
            assert len(block.rows)
        assert most == 0  # maps hold no descriptor


def test_a_reader_keeps_the_maps_of_sound_files_and_lets_go_of_those_that_were_replaced(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, range(40))
    store.fold_all()
    monkeypatch.setattr(shard, "_TICK", -1.0)  # as if the files were old
    reader = Store(store.path, writable=False)
    first, before = answers(reader), descriptors()
    opened, opening = [], shard.opened
    monkeypatch.setattr(shard, "opened", lambda path: opened.append(path) or opening(path))
    assert answers(reader) == first
    assert (opened, descriptors()) == ([], before)
    delete(store, *range(1, 30))
    store.fold_all()
    with reader.snapshot():
        pass
    assert mapped(store) == set()
    assert len(answers(reader)[0]) == 11
    assert (len(opened), len(mapped(store))) == (10 + 10, 10)  # by the fold, and by the reader
    os.truncate(mapped(store).pop(), 10)
    assert len(answers(reader)[0]) == 11  # from the catalog, and no SIGBUS
    assert repair(store).rebuilt == 1
    reader.close()
    store.close()
    assert mapped(store) == set()


def mapped(store: Store) -> set[str]:
    """Return the shards of which this process holds a map."""
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    return {line[line.index("/") :] for line in lines if f"{store.path}/shards" in line}


def test_what_a_snapshot_reads_once_is_read_again_after_a_commit(store: Store) -> None:
    fill(store, range(8))
    reader = Store(store.path, writable=False)
    for count in (8, 7, 6):
        for _ in range(2):
            with reader.snapshot() as snapshot:
                assert snapshot.catalog.count() == count
                assert sum(load.pending for load in snapshot.catalog.loads()) == 4 * count
        with reader.snapshot() as snapshot:
            delete(store, count)
            assert snapshot.catalog.count() == count  # of one moment
    store.fold_all()
    with reader.snapshot() as snapshot:
        assert {load.pending for load in snapshot.catalog.loads()} == {0}
        assert snapshot.catalog.pointer(0) == next(p for p in snapshot.catalog.pointers() if p.category == 0)
    reader.close()


@given(
    lengths=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(1, 2)), max_size=12),
    seed=st.integers(0, 99),
)
def test_slices_cover_what_was_asked_for_once_and_in_order(lengths: list[tuple[int, int, int]], seed: int) -> None:
    parts, place = [], 0
    for gap, length, asked in lengths:
        parts.append((place + gap, place + gap + length, asked))
        place += gap + length
    mixed = [parts[n] for n in np.random.default_rng(seed).permutation(len(parts))]
    found = [[(row, asked) for row in range(place)[piece]] for piece, asked in _slices(mixed)]
    assert list(itertools.chain(*found)) == [(row, asked) for a, b, asked in parts for row in range(a, b)]
    for (*_, (last, one)), ((first, other), *_) in itertools.pairwise(found):  # as few as there can be
        assert (last + 1, one) != (first, other)


def test_a_log_that_a_snapshot_held_back_is_written_back_at_the_end(store: Store) -> None:
    generator = iter_in_snapshot(store)
    next(generator)
    fill(store, range(50))
    store.fold_all()
    generator.close()
    store.close()
    assert sorted(os.listdir(store.path)) == ["LOCK", "catalog.sqlite", "shards"]
    assert len(answers(store)[0]) == 50


def iter_in_snapshot(store: Store) -> Iterator[int]:
    with store.snapshot() as snapshot:
        yield snapshot.catalog.count()


def test_regions_are_the_means_whether_folded_or_waiting(store: Store) -> None:
    store.commit([put(n, [n % 3]) for n in range(9)])
    with store.snapshot() as snapshot:
        waiting = snapshot.regions()
        for category in range(3):
            features = np.concatenate([block.rows.features for block in snapshot.blocks([category])])
            np.testing.assert_allclose(waiting.means[category], features.astype(np.float64).mean(axis=0), atol=5e-4)
    assert (waiting.categories.tolist(), waiting.rows.tolist()) == ([0, 1, 2], [0, 0, 0])
    store.fold([1])
    with store.snapshot() as snapshot:
        found = snapshot.regions()
    order = np.argsort(found.categories)
    assert (found.categories[order].tolist(), found.rows[order].tolist()) == ([0, 1, 2], [0, 3, 0])
    np.testing.assert_array_equal(found.means[order], waiting.means)


def test_the_means_of_what_waits_are_read_without_going_through_all_members(store: Store) -> None:
    """Each category that only waits cost every search by means, and every batch of a watcher, a look at all of them."""
    store.commit([put(n, [n % 3]) for n in range(9)])
    asked: list[str] = []
    with store.snapshot() as snapshot:
        snapshot.catalog.sql.set_trace_callback(asked.append)
        assert len(snapshot.regions()) == 3
        snapshot.catalog.sql.set_trace_callback(None)
    assert len(asked) > 3
    assert [text for text in asked if "FROM member WHERE category" in text] == []


def test_a_large_shard_is_folded_into_blocks_of_what_is_alike(store: Store) -> None:
    """Eight bundles of vectors in one category; a search of any one block finds what a slow one finds in its rows."""
    random = np.random.default_rng(5)
    middles = random.normal(size=(8, DIMENSION))
    for n in range(400):
        values = middles[n % 8] + 0.05 * random.normal(size=DIMENSION)
        vector = (values / np.linalg.norm(values)).astype(np.float16)
        assert store.commit([replace(put(n, [4]), vector=vector)]) == ["added"]
    store.fold_all()
    with store.snapshot() as snapshot:
        regions = snapshot.regions()
        [whole] = snapshot.blocks([4])
        assert len(regions) == 20 and regions.rows.sum() == 400
        assert sorted(whole.rows.image_ids.tolist()) == list(range(1, 401))
        for place in range(len(regions)):
            [part] = snapshot.parts(regions, np.array([place]))
            first = int(regions.first[place])
            expected = whole.rows.image_ids[first : first + int(regions.rows[place])].tolist()
            assert part.rows.image_ids.tolist() == expected == sorted(expected)
            assert len({(image - 1) % 8 for image in expected}) == 1, "a block mixes bundles"
    before = shards(store)
    delete(store, 1)
    store.commit([put(400, [4])])
    store.fold_all()
    assert shards(store) != before
    with store.snapshot() as snapshot:
        [whole] = snapshot.blocks([4])
        healed, _ = in_blocks(4, store.rows(snapshot.catalog, snapshot.catalog.members(4)), 400)
        np.testing.assert_array_equal(whole.rows.image_ids, healed.image_ids)
        np.testing.assert_array_equal(whole.rows.features, healed.features)


def test_chosen_blocks_of_a_damaged_shard_are_answered_for_by_the_catalog(store: Store) -> None:
    fill(store, range(60))
    store.fold_all()
    with store.snapshot() as snapshot:
        pointer = snapshot.catalog.pointer(3)
        assert pointer is not None
    os.unlink(store.file(3, pointer.generation))
    with store.snapshot() as snapshot:
        regions = snapshot.regions()
        found = list(snapshot.parts(regions, np.flatnonzero(regions.categories == 3)))
        assert sorted(i for b in found for i in b.rows.image_ids.tolist()) == snapshot.catalog.members(3)
        assert len(snapshot.notes) == 1
    repair(store)


def test_blocks_say_who_asks_for_them(store: Store) -> None:
    store.commit([put(n, [4]) for n in range(400)])
    store.fold_all()
    store.commit([put(n, [4]) for n in range(400, 403)])
    with store.snapshot() as snapshot:
        regions = snapshot.regions()
        rows = regions.rows.tolist()
        assert len(rows) >= 6
        asking = [1, 2, 2, 0, 4, 5, *[0] * (len(rows) - 6)]
        chosen = np.flatnonzero(asking)
        parts = list(snapshot.parts(regions, chosen, np.array(asking, np.uint32)[chosen]))
        whole = list(snapshot.blocks([4], {4: 6}))
    neighbours = (1, rows[0]), (2, rows[1] + rows[2]), (4, rows[4]), (5, rows[5])  # those that the same ask for are one
    assert [(block.asked, len(block.rows)) for block in parts] == [*neighbours, (7, 3)]  # what waits is for all of them
    assert [(block.asked, len(block.rows)) for block in whole] == [(6, 400), (6, 3)]


FORMAT_2 = """
ALTER TABLE centroid DROP COLUMN checksum;
ALTER TABLE shard DROP COLUMN features;
ALTER TABLE shard DROP COLUMN stride;
ALTER TABLE shard DROP COLUMN rest;
PRAGMA user_version=2;
"""
FORMAT_1 = f"""
{FORMAT_2}
DROP TABLE centroid;
CREATE TABLE centroid(category INTEGER PRIMARY KEY, data BLOB NOT NULL);
DROP INDEX image_inode;
DROP TABLE distinct_pair;
PRAGMA user_version=1;
"""


def test_a_database_of_format_1_is_read_and_brought_up_to_date_by_the_next_writer(store: Store) -> None:
    fill(store, range(30))
    store.fold_all()
    before = answers(store)
    with store.snapshot() as snapshot:
        means = {block.category: block.mean.astype("<f4").tobytes() for block in snapshot.catalog.centroids()}
    store.close()
    sql = sqlite3.connect(os.path.join(store.path, "catalog.sqlite"), isolation_level=None)
    sql.executescript(FORMAT_1)
    sql.executemany("INSERT INTO centroid VALUES(?, ?)", means.items())
    sql.close()
    old = Store(store.path, wait=0.0)
    assert answers(old) == before
    with pytest.raises(DatabaseDamaged, match="format 1"), old.snapshot() as snapshot:
        snapshot.regions()
    with old.snapshot() as snapshot:
        assert snapshot.catalog.distinct_pairs() == set()
    with pytest.raises(DatabaseDamaged, match=r"format 1 .* catdb build, or compact, brings it up to date"):
        check(old)
    fill(old, [30])
    with old.snapshot() as snapshot:
        assert snapshot.catalog.format() == 3
        assert len(snapshot.regions()) == 10
    assert check(old).problems == ()
    old.close()


def test_a_database_of_format_2_is_read_as_it_is_and_gets_checksums_of_parts_as_it_is_folded(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard, "_TICK", -1.0)
    store.commit([put(n, [4, 5]) for n in range(100)])
    store.fold_all()
    before = answers(store)
    store.close()
    sql = sqlite3.connect(os.path.join(store.path, "catalog.sqlite"), isolation_level=None)
    sql.executescript(FORMAT_2)
    sql.close()
    verified: list[tuple[str, int]] = []
    verify = shard.verify

    def spy(file: shard.File, size: int, expected: int, *parts: tuple[int, int]) -> None:
        verified.append((file.path.split("/")[-2], sum(b - a for a, b in parts) if parts else size))
        verify(file, size, expected, *parts)

    monkeypatch.setattr(shard, "verify", spy)

    def first_block(reader: Store) -> list[int]:
        with reader.snapshot() as snapshot:
            regions = snapshot.regions()
            [block] = snapshot.parts(regions, np.flatnonzero(regions.categories == 4)[:1])
            assert snapshot.notes == []
            return block.rows.image_ids.tolist()

    sizes = {path.split("/")[0]: len(data) for path, data in shards(store).items()}
    old = Store(store.path, writable=False)
    assert old.exists() and check(old).problems == ()
    verified.clear()
    expected = first_block(Store(store.path, writable=False))
    assert verified == [("c4", sizes["c4"])], "as a whole"
    assert answers(old) == before
    verified.clear()
    fill(store, [100])  # the first writer
    assert verified == [], "brought up to date, and no shard was read for it"
    with store.snapshot() as snapshot:
        assert snapshot.catalog.format() == 3
        assert not any(pointer.has_parts for pointer in snapshot.catalog.pointers())
    assert check(store).problems == ()
    verified.clear()
    assert first_block(Store(store.path, writable=False)) == expected
    assert verified == [("c4", sizes["c4"])]
    store.fold([4])
    with store.snapshot() as snapshot:
        assert [p.category for p in snapshot.catalog.pointers() if p.has_parts] == [4]
    verified.clear()
    assert first_block(Store(store.path, writable=False)) == expected
    assert len(verified) == 2 and sum(read for _, read in verified) < sizes["c4"] - 60 * 24, "one block of several"
    assert check(store).problems == ()
    old.close()


# --- crashes ----------------------------------------------------------------------------------------------------


def history(path: Path, acknowledge: Callable[[str], None]) -> None:
    """Everything that a writer does in its life, in small."""
    store = Store(str(path))
    store.create(META, CATEGORIES)
    acknowledge("made")
    with store.writing() as catalog, catalog.transaction():
        catalog.add_root(b"/photos", b"../photos", True)
    acknowledge("root")
    store.commit([put(1, [0, 1]), put(2, [0])])
    acknowledge("+1 +2")
    store.fold_all()
    store.commit([put(3, [0, 2])])
    acknowledge("+3")
    delete(store, 1)
    acknowledge("-1")
    store.fold_all()
    with store.writing() as catalog:
        store.collect(catalog, grace=0)
    store.close()
    acknowledge("closed")


def dies_at(step: int, path: Path) -> tuple[bool, str]:
    """Run the history in a process that kills itself before its n-th step; say whether it did, and what it had said."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork where there are threads
        child = os.fork()
    if not child:
        left = [step]

        def tick(*_: object) -> None:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        def before(function: Callable[..., object]) -> Callable[..., object]:
            return lambda *words, **options: (tick(), function(*words, **options))[1]

        write = os.write
        for name in ("open", "write", "fsync", "unlink", "rmdir", "makedirs", "ftruncate"):
            setattr(os, name, before(getattr(os, name)))
        Lock._sign = before(Lock._sign)  # type: ignore[method-assign]
        opened = Catalog.writer

        def traced(place: str) -> Catalog:
            catalog = opened(place)
            catalog.sql.set_trace_callback(lambda text: tick() if text.startswith(("BEGIN", "COMMIT")) else None)
            return catalog

        Catalog.writer = traced  # type: ignore[method-assign, assignment]
        history(path, lambda word: write(writing, word.encode() + b" ") and None)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, said


def test_a_writer_killed_between_any_two_steps_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    for step in itertools.count():
        path = tmp_path / str(step)
        killed, said = dies_at(step, path)
        if not killed:
            break
        store = Store(str(path))
        assert store.exists() or "made" not in said
        store.create(META, CATEGORIES)
        with store.writing() as catalog:
            assert store.leftovers(catalog) == [], step
            found = {int.from_bytes(image.digest, "big") for image in catalog.images()}
        assert check(store).problems == (), step
        words = said.split()
        assert found <= {1, 2, 3}
        assert {1, 2} <= found or "+1" not in words or found in ({2}, {2, 3})
        assert 1 in found or "-1" in words or "+3" in words or "+1" not in words
        assert 1 not in found or "-1" not in words
        assert 3 in found or "+3" not in words
        store.fold_all()
        assert len(answers(store)[0]) == len(found) and answers(store)[2] == []
        assert check(store).problems == ()
        store.close()
        shutil.rmtree(path)
    assert "closed" in said
    assert step > 60
