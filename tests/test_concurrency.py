"""One writer at a time, any number of readers, in processes of their own: nobody is wrong, nobody is in the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CATDB, Instant, child, run, save, unprivileged
from stock import META, answers, delete, fill, found_in, make, put, shards, unit

from catdb import BackboneMismatch, Database, DatabaseBusy, DatabaseReadOnly, calibration, search, threads
from catdb.catalog import Catalog
from catdb.check import check, repair
from catdb.query import answer_vector
from catdb.reach import Reach
from catdb.scores import Chance
from catdb.store import _TURN, GRACE, Store

Open = Callable[..., Database]
HERE = f"import os, sys\nsys.path[:0] = [{str(Path(__file__).parent)!r}]\nfrom conftest import *\nfrom stock import *\n"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Twenty images in ten shards; what it holds at the end must check clean."""
    store = make(tmp_path / "db")
    fill(store, range(20))
    store.fold_all()
    yield store
    if store.exists():
        assert check(store).problems == ()
    store.close()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().rstrip("\n")


def say(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdin
    process.stdin.write(text + "\n")
    process.stdin.flush()


def ended(process: subprocess.Popen[str]) -> str:
    """Wait for the end of a process that must end well; return what it had still to say."""
    told, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return told.rstrip("\n")


def state(place: Path) -> dict[str, tuple[bytes | None, int, int, int]]:
    """Return all that can be seen of a folder: names, bytes, times, modes and inodes."""
    found = {}
    for path in [place, *sorted(place.rglob("*"))]:
        status = path.lstat()
        data = path.read_bytes() if path.is_file() else None
        found[str(path)] = (data, status.st_mtime_ns, status.st_mode, status.st_ino)
    return found


# --- the lock, beside a build that goes on --------------------------------------------------------------------------

BUILD = """
class Slow(Instant):
    def embed(self, pixels):
        print("embedding", flush=True)
        sys.stdin.readline()
        return super().embed(pixels)

with Database(sys.argv[1], backbone=Slow()) as database:
    report = database.build(sys.argv[2])
    print(report.added, report.total, flush=True)
"""


def test_remove_and_add_work_beside_a_build_and_what_was_removed_meanwhile_stays_out(
    photos: Path, tmp_path: Path, open_db: Open
) -> None:
    db = tmp_path / "db"
    open_db(backbone=Instant()).build(photos)
    save(photos / "new.png", 50)
    save(photos / "later.png", 51)
    with child(HERE + BUILD, db, photos) as process:
        assert line(process) == "embedding"  # of both; nothing of them is committed yet
        removed = run("remove", photos / "new.png", photos / "3.png", "--db", db, "--wait", "60")
        assert (removed.returncode, removed.stdout) == (0, "1 removed; 11 images\n"), removed.stderr
        copy = shutil.copy(photos / "4.png", photos / "copy.png")
        added = run("add", copy, "--db", db, "--wait", "60")
        assert added.returncode == 0 and added.stdout.startswith("1 added,"), added.stderr
        say(process, "go on")
        assert ended(process) == "1 13"
    database = open_db()
    assert photos / "later.png" in database and copy in database
    assert photos / "new.png" not in database and photos / "3.png" not in database
    assert database.build(photos).added == 0


def test_whoever_waits_in_vain_names_the_holder_and_ends_with_1(photos: Path, tmp_path: Path, open_db: Open) -> None:
    open_db(backbone="classic").build(photos)
    hold = "with Database(sys.argv[1])._store.writing():\n    print('held', flush=True)\n    sys.stdin.readline()\n"
    with child(HERE + hold, tmp_path / "db") as process:
        assert line(process) == "held"
        start = time.monotonic()
        done = run("remove", photos / "1.png", "--db", tmp_path / "db", "--wait", "0.5")
        assert time.monotonic() - start >= 0.5
        assert (done.returncode, done.stdout) == (1, "")
        assert f"(process {process.pid} on " in done.stderr and done.stderr.count("\n") == 1
        assert run("search", photos / "1.png", "--db", tmp_path / "db").returncode == 0  # readers do not wait
        words = [CATDB, "remove", str(photos / "1.png"), "--db", str(tmp_path / "db"), "--wait", "60"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as waiting:
            say(process, "let go")
            ended(process)
            assert waiting.communicate(timeout=120)[0] == "1 removed; 11 images\n"


def test_a_writer_that_is_killed_is_in_nobodys_way(photos: Path, tmp_path: Path, open_db: Open) -> None:
    open_db(backbone="classic").build(photos)
    hold = "with Database(sys.argv[1])._store.writing() as catalog, catalog.transaction():\n"
    hold += "    catalog.delete(1)\n    print('held', flush=True)\n    sys.stdin.readline()\n"
    with child(HERE + hold, tmp_path / "db") as process:
        assert line(process) == "held"
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    done = run("remove", photos / "1.png", "--db", tmp_path / "db", "--wait", "0")
    assert (done.returncode, done.stdout) == (0, "1 removed; 11 images\n")


def test_two_first_builds_at_once_make_one_database(photos: Path, tmp_path: Path, open_db: Open) -> None:
    words = [
        CATDB,
        "build",
        str(photos),
        "--db",
        str(tmp_path / "db"),
        "--backbone",
        "classic",
        "--wait",
        "60",
        "--json",
    ]
    pipe = subprocess.PIPE
    both = [subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True) for _ in range(2)]
    done = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], done
    reports = [json.loads(told) for told, _ in done]
    assert sum(report["added"] for report in reports) == 12
    assert len(open_db()) == 12


def test_a_long_fold_lets_others_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path / "db"))
    store.create({"dimension": 12, "backbone": "made up"}, [(f"c{n}", "word") for n in range(130)])
    with store.writing() as catalog, catalog.transaction():
        catalog.add_root(b"/photos", b"../photos", True)
    store.commit([put(n, [n]) for n in range(130)])
    code = "store = Store(sys.argv[1], wait=120)\nsys.stdin.readline()\nfill(store, [1000])\nprint('in', flush=True)\n"
    done: list[int] = []
    found: list[int] = []
    told: list[str] = []
    sleep = time.sleep

    def rest(seconds: float) -> None:
        """As long as it takes for the other process to have had its turn, however slow the machine is."""
        if seconds == _TURN and not told:
            say(process, "go")
            told.append(line(process))
        else:
            sleep(seconds)

    def progress(folded: int, of: int) -> None:
        done.append(folded)
        found.append(len(answers_of(store)))

    monkeypatch.setattr(time, "sleep", rest)
    with child(HERE + code, store.path) as process:
        store.fold_all(progress=progress)
        ended(process)
    assert told == ["in"]
    assert done == [64, 128, 130]
    assert found == [130, 131, 131]  # before the fold was at its end
    assert check(store).problems == ()
    store.close()


def answers_of(store: Store) -> list[int]:
    with store.snapshot() as snapshot:
        return [image.id for image in snapshot.catalog.images()]


@pytest.mark.parametrize("anew", [False, True])
def test_a_lock_that_is_taken_away_stops_its_holder_before_it_commits(store: Store, anew: bool) -> None:
    before = answers(store)
    lock = Path(store.path, "LOCK")
    other = Store(store.path, wait=0.0)
    with pytest.raises(DatabaseBusy, match="LOCK was taken away while it was held; nothing is lost"):  # noqa: SIM117
        with store.writing() as catalog:
            lock.unlink()
            if anew:
                fill(other, [100])
            with catalog.transaction():
                catalog.put(put(101))
    assert len(answers(store)[0]) == len(before[0]) + anew
    assert not anew or lock.read_text() == ""
    fill(store, [101])
    assert len(answers(other)[0]) == 21 + anew
    other.close()


def test_a_commit_into_a_database_that_was_deleted_is_not_acknowledged(tmp_path: Path) -> None:
    store = make(tmp_path / "db")
    with pytest.raises(DatabaseBusy), store.writing() as catalog, catalog.transaction():
        catalog.put(put(1))
        shutil.rmtree(tmp_path / "db")
    assert not store.exists()
    store.close()
    assert not (tmp_path / "db").exists()


# --- readers beside a writer ----------------------------------------------------------------------------------------


def test_a_long_lived_reader_sees_what_another_process_added(photos: Path, tmp_path: Path, open_db: Open) -> None:
    open_db(backbone="classic").build(photos)
    reader = open_db(mode="r")
    assert len(reader.search(photos / "1.png", k=100, exact=True)) == 12
    for number in range(3):
        new = save(photos / f"new{number}.png", 60 + number)
        assert run("build", "--db", tmp_path / "db").returncode == 0
        result = reader.search(new, k=100, exact=True)
        assert (len(result), result[0].path, result.notes) == (13 + number, str(new), ())
    assert run("remove", photos, "--db", tmp_path / "db").returncode == 0
    assert len(reader.search(photos / "1.png", exact=True)) == 0


def test_readers_that_come_while_the_last_writer_goes_see_every_commit(store: Store) -> None:
    code = """
wrong, last = 0, 20
for number in range(int(sys.argv[2])):
    reader = Store(sys.argv[1], writable=False)
    found, _, notes = answers(reader, k=10**6)
    wrong += notes != [] or len(found) < last
    last = len(found)
    reader.close()
print(wrong)
"""
    store.close()
    with child(HERE + code, store.path, "40") as one, child(HERE + code, store.path, "40") as two:
        number = 100
        while one.poll() is None or two.poll() is None:
            writer = Store(store.path)
            fill(writer, [number])
            writer.close()  # writes the log back and unlinks it, where no reader is there
            number += 1
        assert (ended(one), ended(two)) == ("0", "0")
    assert number > 101
    assert len(answers(store, k=10**6)[0]) == number - 100 + 20


def test_files_that_are_collected_under_a_snapshot_are_no_damage(store: Store) -> None:
    expected = answers(store)
    reader = Store(store.path, writable=False)
    with reader.snapshot() as snapshot:
        blocks = snapshot.blocks(range(10))
        rows = len(next(blocks).rows)
        delete(store, *range(1, 10))
        fill(store, range(20, 30))
        store.fold_all()
        with store.writing() as catalog:
            store.collect(catalog, grace=0)  # long before any grace has passed
        assert rows + sum(len(block.rows) for block in blocks) == 80
        assert found_in(snapshot) == expected
        assert snapshot.notes == []
        for name in shards(store):
            os.unlink(Path(store.path, "shards", name))
        assert found_in(snapshot) == expected
        assert snapshot.notes == []  # of this snapshot's shards not one was damaged
    assert len(answers(reader)[2]) == 10
    reader.close()
    assert repair(store).rebuilt == 10


@pytest.mark.parametrize("frozen", [False, True])
def test_a_database_made_anew_under_a_long_lived_reader_is_another(tmp_path: Path, frozen: bool) -> None:
    code = """
store = Store(sys.argv[1], writable=False)
for word in sys.stdin:
    found, _, notes = answers(store)
    print(store.categories()[0][1], sorted(found), notes, flush=True)
    store.close() if word == "close\\n" else None
"""
    path = tmp_path / "db"
    with child(HERE + code, path) as process:
        for number, word in enumerate(("search", "search", "close", "search")):
            store = Store(str(path))
            store.create({"dimension": 12, "backbone": "made up"}, [(f"c{n}", f"word {number}") for n in range(10)])
            with store.writing() as catalog, catalog.transaction():
                catalog.add_root(b"/photos", b"../photos", True)
            fill(store, range(number + 1))
            store.fold_all()
            store.close()
            if frozen:
                path.chmod(0o555)
            say(process, word)
            assert line(process) == f"word {number} {list(range(1, number + 2))} []"
            path.chmod(0o755)
            shutil.rmtree(path)


def test_the_blocks_of_a_database_made_anew_are_its_own(tmp_path: Path) -> None:
    """Where as many shards had the same numbers as before, a reader chose by the means of the old database."""
    path = tmp_path / "db"
    reader = Store(str(path), writable=False)
    for number in range(2):
        store = make(path)
        fill(store, [number])
        store.fold_all()
        with store.snapshot() as snapshot, reader.snapshot() as read:
            np.testing.assert_array_equal(read.regions().means, snapshot.regions().means)
            assert np.abs(read.regions().means - unit(number)).max() < 1e-3
        store.close()
        shutil.rmtree(path)
    reader.close()


def test_the_first_write_to_a_database_made_anew_drops_none_of_its_shards(tmp_path: Path) -> None:
    """A process that had only read the old one looked for shards under the old categories' names, and unlinked all."""
    path = tmp_path / "db"
    old = make(path)
    fill(old, range(3))
    old.close()
    mine = Store(str(path))
    assert mine.categories()[0][0] == "c0"
    shutil.rmtree(path)
    new = Store(str(path))
    new.create(META, [(f"other{number}", "other") for number in range(10)])
    with new.writing() as catalog, catalog.transaction():
        catalog.add_root(b"/photos", b"../photos", True)
    fill(new, range(3))
    new.fold_all()
    new.close()
    before = shards(new)
    assert len(before) > 3
    fill(mine, [3])
    assert shards(mine) == before
    assert mine.categories()[0][0] == "other0"
    mine.close()


class Other(Instant):
    backbone = "other"
    categories = tuple(reversed(Instant.categories))


def test_a_database_made_anew_with_another_network_is_not_taken_for_the_old_one(photos: Path, tmp_path: Path) -> None:
    """A program that had the old one open put the old network's vectors into the new one, and searched it with them."""
    path = tmp_path / "db"
    with Database(path, backbone=Instant()) as mine:
        mine.build(photos)
        mine.close()
        shutil.rmtree(path)
        with Database(path, backbone=Other()) as anew:
            anew.build(photos)
        new = save(photos / "new.png", 77)
        for attempt in (lambda: mine.build(photos), lambda: mine.add(new), lambda: mine.search(new)):
            with pytest.raises(BackboneMismatch, match="was made anew with other: open it again"):
                attempt()
        assert (len(mine), len(mine.search(photos / "1.png", k=100, exact=True))) == (12, 12)


def test_a_category_is_named_as_in_the_database_that_is_there(photos: Path, tmp_path: Path) -> None:
    """The first search after it was made anew took a name for the number that it had had in the old one."""
    path = tmp_path / "db"
    with Database(path, backbone=Instant()) as mine:
        mine.build(photos)
        id = mine.categories()[0].id
        mine.close()
        shutil.rmtree(path)
        with Database(path, backbone=Other()) as anew:
            anew.build(photos)
            expected = anew.search(photos / "1.png", category=id).matches
            assert expected and all(id in {own.id for own in match.categories} for match in expected)
        assert mine.search(photos / "1.png", category=id).matches == expected


def test_a_watcher_puts_nothing_into_a_database_made_anew_with_another_network(photos: Path, tmp_path: Path) -> None:
    path, place = tmp_path / "db", tmp_path / "anew"
    with Database(place, backbone=Other()) as anew:
        anew.build(photos)
    with Database(path, backbone=Instant()) as mine:
        with pytest.raises(BackboneMismatch, match="made anew with other"), mine.watch(photos) as watch:
            watch.wait_idle(60)
            path.rename(tmp_path / "old")
            place.rename(path)
            save(photos / "new.png", 77)
            watch.wait_idle(60)
        assert len(mine) == 12


def test_what_a_reader_measured_is_of_the_database_that_is_there(tmp_path: Path) -> None:
    """Of one that was made anew with as many images, a reader told the percentiles of the old one."""
    path = tmp_path / "db"
    reader = Store(str(path), writable=False)
    told: list[str] = []
    for first in (0, 1000):
        store = make(path)
        fill(store, range(first, first + 60))
        with reader.snapshot() as read, store.snapshot() as snapshot:
            measured, expected = calibration.chance(read, 60), Chance.of(snapshot.catalog.vectors_of(range(1, 61)), 60)
            assert measured and expected
            assert measured.to_text() == expected.to_text()
            told.append(measured.to_text())
        store.close()
        shutil.rmtree(path)
    reader.close()
    assert told[0] != told[1]


# --- places that cannot be written to -------------------------------------------------------------------------------

READ = """
store = Store(sys.argv[1], writable=False)
for word in sys.stdin:
    try:
        print(answers(store), flush=True)
    except Exception as error:
        print(type(error).__name__, error, flush=True)
"""


def closed(place: Path, mode: int = 0o555) -> None:
    """Take away, or give back, the right to write in a folder and all below it."""
    for folder, _, names in os.walk(place):
        for name in names:
            os.chmod(os.path.join(folder, name), mode & 0o666)
        os.chmod(folder, mode)


def without_rights(code: str, *words: str | Path) -> subprocess.Popen[str]:
    """Run code as one who has no right beyond what the modes of files say."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", HERE + code, *map(str, words)]
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, preexec_fn=unprivileged)


@pytest.mark.parametrize("log", [False, True])
def test_a_reader_changes_no_byte_of_a_directory_that_it_may_not_write_to(store: Store, log: bool) -> None:
    fill(store, range(20, 25))
    expected = answers(store)
    if log:  # as a writer leaves it that is killed
        lost = Path(store.path).with_name("copy")
        shutil.copytree(store.path, lost)
        store.close()
        shutil.rmtree(store.path)
        lost.rename(store.path)
    else:
        store.close()
    assert sorted(os.listdir(store.path)) == sorted(
        ["LOCK", "catalog.sqlite", "shards"] + (["catalog.sqlite-shm", "catalog.sqlite-wal"] if log else [])
    )
    closed(Path(store.path))
    before = state(Path(store.path))
    try:
        with without_rights(READ, store.path) as process:
            for _ in range(2):
                say(process, "search")
                assert line(process) == str(expected)
            ended(process)
        assert state(Path(store.path)) == before
    finally:
        closed(Path(store.path), 0o755)


def test_every_command_that_reads_works_there_and_every_other_is_one_line(photos: Path, tmp_path: Path) -> None:
    with Database(tmp_path / "db", backbone="classic") as database:
        database.build(photos)
    place = tmp_path / "db"
    assert sorted(os.listdir(place)) == ["LOCK", "catalog.sqlite", "shards"]
    closed(place)
    before = state(place)
    try:
        image = str(photos / "1.png")
        reading = (["search", image, "--exact"], ["info"], ["categories"], ["failures"], ["check"])
        writing = (["remove", image], ["build"], ["add", image], ["compact"], ["check", "--repair"])
        for words, code in [*((words, 0) for words in reading), *((words, 1) for words in writing)]:
            done = subprocess.run(
                [CATDB, *words, "--db", str(place)], capture_output=True, text=True, preexec_fn=unprivileged, timeout=60
            )
            assert done.returncode == code, (words, done)
            assert "Traceback" not in done.stderr and done.stderr.count("\n") == code, (words, done.stderr)
            assert state(place) == before, words
    finally:
        closed(place, 0o755)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount")
def test_a_place_that_is_mounted_for_reading_only_is_read_as_it_lies(store: Store, tmp_path: Path) -> None:
    expected = answers(store)
    store.close()
    view = tmp_path / "view"
    view.mkdir()
    code = f'exec mount --bind -o ro {store.path} {view} && exec {sys.executable} -c "$CODE" {view}'
    code = code.replace("exec mount", "mount", 1)
    before = state(Path(store.path))
    process = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "CODE": HERE + READ},
    )  # fmt: skip
    with process:
        if process.poll() is None:
            say(process, "search")
        told = line(process)
        if not told and "mount" in (errors := process.stderr.read() if process.stderr else ""):
            pytest.skip(f"nothing can be mounted here: {errors.strip()}")
        assert told == str(expected)
        ended(process)
    assert state(Path(store.path)) == before


def test_a_catalog_that_is_written_to_while_it_is_read_as_it_lies_is_no_answer(store: Store, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    fill(store, [100])
    store.close()
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)  # as one sees it who may not write
        reader = Store(store.path, writable=False)
        before = answers(reader)
        with pytest.raises(DatabaseBusy, match="another program has written to it meanwhile; try again"):  # noqa: SIM117
            with reader.snapshot() as snapshot:
                assert snapshot.catalog.frozen
                other = Store(store.path)
                fill(other, [101])
                other.close()
                found_in(snapshot)
        assert len(answers(reader)[0]) == len(before[0]) + 1
        with reader.snapshot() as snapshot:  # a log that is begun meanwhile changes nothing
            other = Store(store.path)
            fill(other, [102])
            assert len(found_in(snapshot)[0]) == len(before[0]) + 1
        assert len(answers(reader)[0]) == len(before[0]) + 2
        reader.close()
        other.close()


# --- forks, threads and clocks --------------------------------------------------------------------------------------


def test_a_fork_with_an_open_database_begins_anew(photos: Path, tmp_path: Path) -> None:
    code = """
database = Database(sys.argv[1], backbone=Instant())
photos = sys.argv[2]
assert len(database) == 12 and database.add(save(Path(photos, "a.png"), 70)).added == 1
with database._store.snapshot() as snapshot, database._store.writing() as catalog:
    child = os.fork()
    if not child:
        for begun in (snapshot.catalog.snapshot, catalog.transaction):
            try:
                with begun():
                    os._exit(2)
            except RuntimeError as error:
                assert "before a fork" in str(error)
        sys.exit(0)  # through all that is open, and the end of the interpreter
    assert os.waitpid(child, 0)[1] == 0
    assert os.path.getsize(os.path.join(database.path, "LOCK")) > 0
    assert catalog.count() == snapshot.catalog.count() == 13
child = os.fork()
if not child:
    assert len(database.search(os.path.join(photos, "1.png"), k=100, exact=True)) == 13
    assert database.add(save(Path(photos, "b.png"), 71)).added == 1
    database.close()
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
assert database.add(save(Path(photos, "c.png"), 72)).added == 1
assert len(database) == 15
child = os.fork()
if not child:
    del database
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
assert os.path.exists(os.path.join(database.path, "catalog.sqlite-wal"))
assert database.remove(os.path.join(photos, "c.png")) == 1
assert database.check().ok
database.close()
print(sorted(os.listdir(database.path)))
"""
    with Database(tmp_path / "db", backbone=Instant()) as database:
        database.build(photos)
    with child(HERE + code, tmp_path / "db", photos) as process:
        assert line(process) == "['LOCK', 'catalog.sqlite', 'shards']", process.communicate()[1]
        ended(process)
    with Database(tmp_path / "db", mode="r") as database:
        assert len(database) == 14


def test_searches_take_turns_and_a_fork_in_the_midst_of_one_does_not_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several at once handed the interpreter's lock to and fro, and took longer than one after another."""
    store = make(tmp_path / "db")
    fill(store, range(20))
    held, compare = [], search.nearest_to_each

    def nearest(*words: Any, **more: Any) -> list[search.Hits]:
        held.append(threads.turn().locked())
        if len(held) == 1:
            child = os.fork()
            if child == 0:
                os._exit(threads.turn().locked())
            held.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0)
        return compare(*words, **more)

    monkeypatch.setattr(search, "nearest_to_each", nearest)
    found = [answer_vector(store, unit(3), Reach(1, exact=True)).matches[0].path for _ in range(2)]
    assert held == [True, True, True]
    with pytest.raises(ValueError, match="no direction"):
        answer_vector(store, np.zeros(12), Reach(1))
    assert not threads.turn().locked()
    assert found[0] == found[1]


def test_one_thread_may_close_a_database_while_another_writes_to_it(store: Store) -> None:
    """The connection was closed under a thread that had just begun to write by it, which ended the process."""
    code = """
store, done = Store(sys.argv[1]), threading.Event()
def close():
    while not done.is_set():
        store.close()
closing = threading.Thread(target=close)
closing.start()
try:
    for number in range(100, 300):
        fill(store, [number])
finally:
    done.set()
    closing.join()
store.close()
print("written")
"""
    with child("import threading\n" + HERE + code, store.path) as process:
        assert line(process) == "written", process.communicate()[1]
        ended(process)
    assert len(answers(store)[0]) == 220


def test_a_fork_while_another_thread_measures_does_not_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child waited for ever for its turn to measure, which no thread of its own would give back."""
    store = make(tmp_path / "db")
    fill(store, range(60))
    measure, ended = calibration._measure, []

    def measured(*words: Any) -> Any:
        if not ended:
            ended.append(0)
            child = os.fork()
            if child == 0:
                signal.alarm(60)
                answer_vector(store, unit(3), Reach(1))
                os._exit(0)
            ended[0] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return measure(*words)

    monkeypatch.setattr(calibration, "_measure", measured)
    with ThreadPoolExecutor(1) as pool:
        match = pool.submit(lambda: answer_vector(store, unit(3), Reach(1)).matches[0]).result()
    assert (ended, match.percentile is not None) == ([0], True)
    store.close()


def test_forked_workers_may_search_a_database_that_their_parent_writes_to(store: Store) -> None:
    code = """
import multiprocessing
store = Store(sys.argv[1])
fill(store, [100])
def work(number):
    return len(answers(store)[0]) >= 21 and answers(store)[2] == []
with multiprocessing.get_context("fork").Pool(3) as pool:
    found = pool.map_async(work, range(60))
    for number in range(101, 120):
        fill(store, [number])
    store.fold_all()
    print(all(found.get(60)), flush=True)
print(len(answers(store)[0]), len(check(store).problems))
store.close()
"""
    with child(HERE + "from catdb.check import check\n" + code, store.path) as process:
        assert line(process) == "True"
        assert ended(process) == "40 0"


def test_a_clock_that_is_set_back_keeps_garbage_for_one_grace_and_not_for_ever(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: now + 3e8)
        fill(store, range(30, 40))
        store.fold_all()
    assert len(shards(store)) == 20
    for moment, count in ((now + 1, 20), (now + GRACE, 20), (now + GRACE + 2, 10)):
        with monkeypatch.context() as patch, store.writing() as catalog:
            patch.setattr(time, "time", lambda moment=moment: moment)
            store.collect(catalog)
        assert len(shards(store)) == count, moment


def test_a_reader_remembers_no_more_files_than_there_are(store: Store) -> None:
    reader = Store(store.path, writable=False)
    for number in range(100, 105):
        fill(store, [number])
        store.fold_all()
        assert answers(reader)[2] == []
        assert len(reader.cache.maps) <= 10
    reader.close()


def test_a_closed_place_without_its_log_index_says_what_to_do(store: Store) -> None:
    fill(store, [100])
    lost = Path(store.path).with_name("copy")
    shutil.copytree(store.path, lost)
    (lost / "catalog.sqlite-shm").unlink()
    closed(lost)
    try:
        with without_rights(READ, lost) as process:
            say(process, "search")
            assert line(process).startswith(DatabaseReadOnly.__name__)
            ended(process)
    finally:
        closed(lost, 0o755)
    assert answers(store)[2] == [] and np.isfinite(answers(store)[1]).all()
    assert Catalog.reader(str(lost / "catalog.sqlite")).count() == 21
