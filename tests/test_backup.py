"""A backup is the database of one moment, whole and verified, whatever happens to the source or to it meanwhile."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Instant, save, unprivileged
from stock import answers, delete, fill, make, shards

from catdb import Database, DatabaseBusy, DatabaseDamaged, DatabaseNotFound, StorageError, shard
from catdb.backup import UNFINISHED, backup
from catdb.check import check
from catdb.store import CATALOG, Store

WHOLE = ["LOCK", CATALOG, "shards"]
Open = Callable[..., Database]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A database of 30 images: folded, waiting and dead ones. It must check clean at the end, or be deleted."""
    store = make(tmp_path / "db")
    fill(store, range(25))
    store.fold_all()
    fill(store, range(25, 30))
    delete(store, 3, 4)
    yield store
    store.close()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "backups" / "monday"


@contextmanager
def opened(path: Path, *, writable: bool = True) -> Iterator[Store]:
    """Open a copy. It must check clean, before and after what is done with it."""
    store = Store(str(path), writable=writable)
    for _ in range(2):
        found = check(store)
        assert (found.problems, found.leftovers) == ((), ())
        if _ == 0:
            yield store
    store.close()


@contextmanager
def another(code: str, *words: object) -> Iterator[subprocess.Popen[str]]:
    """Run code in a process of its own, which has the database's path in its first word."""
    lines = ["import os, signal, sys, time", "from stock import *", "from catdb import shard, store as protocol"]
    lines += ["from catdb.backup import *", "path = sys.argv[1]", code]
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", "\n".join(lines), *map(str, words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def folder(path: Path) -> list[str]:
    return sorted(os.listdir(path))


# --- what it is ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", [False, True])
def test_it_is_the_database(store: Store, place: Path, link: bool) -> None:
    expected, files = answers(store), shards(store)
    done = backup(store, str(place), link=link)
    assert (folder(place), Path(place, "LOCK").read_text()) == (WHOLE, "")
    assert (done.path, done.images, done.shards, done.damaged) == (str(place), 28, 10, ())
    assert done.linked == (10 if link else 0)
    assert done.bytes == sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    with opened(place) as copy:
        assert answers(copy) == expected
        assert shards(copy) == files  # byte for byte
        for name in files:
            source, target = Path(store.path, "shards", name), Path(place, "shards", name)
            assert os.path.samefile(source, target) is link
        fill(copy, [100])
        copy.fold_all()
        with copy.writing() as catalog:
            copy.collect(catalog, grace=0)
    assert (answers(store), shards(store)) == (expected, files)  # and nothing reaches back, links or not
    assert check(store).problems == ()


def test_what_is_collected_in_the_source_stays_in_a_linked_copy(store: Store, place: Path) -> None:
    expected = answers(store)
    backup(store, str(place), link=True)
    store.fold_all()
    with store.writing() as catalog:
        store.collect(catalog, grace=0)
    shutil.rmtree(store.path)
    with opened(place, writable=False) as copy:
        assert answers(copy) == expected


def test_a_copy_can_be_copied_and_an_empty_folder_taken(store: Store, place: Path) -> None:
    place.mkdir(parents=True)
    backup(store, str(place))
    with opened(place) as copy:
        backup(copy, str(place.with_name("tuesday")))
    with opened(place.with_name("tuesday")) as second:
        assert answers(second) == answers(store)


def test_garbage_of_the_source_is_unknown_to_the_copy(store: Store, place: Path) -> None:
    store.fold_all()
    with store.writing() as catalog:
        assert len(catalog.garbage(float("inf"))) == 10
    backup(store, str(place))
    with opened(place) as copy, copy.snapshot() as snapshot:
        assert snapshot.catalog.garbage(float("inf")) == []
        assert len(shards(copy)) == 10 < len(shards(store))


@pytest.fixture
def page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catdb.catalog.connection._STEP", 1)


@pytest.mark.usefixtures("page_by_page")
def test_what_is_committed_while_it_copies_is_not_in_it(store: Store, place: Path) -> None:
    steps: list[str] = []
    pages: list[int] = []
    expected = answers(store)

    def write(step: str, done: int, of: int) -> None:
        if step == "copying the catalog":
            pages.append(done)
        if step not in steps:
            fill(store, [2000 + len(steps)])
        steps.append(step)

    backup(store, str(place), tell=write)
    assert list(dict.fromkeys(steps)) == ["copying the catalog", "copying shards"]
    assert steps.count("copying the catalog") >= 10
    assert pages == sorted(set(pages))  # it never began anew
    with opened(place) as copy:
        assert answers(copy) == expected
    assert len(answers(store)[0]) == len(expected[0]) + 2


def test_shards_that_are_replaced_and_collected_meanwhile_are_made_anew(store: Store, place: Path) -> None:
    expected = answers(store)

    def collect(step: str, done: int, of: int) -> None:
        if (step, done) == ("copying shards", 4):
            fill(store, [100])
            store.fold_all()
            with store.writing() as catalog:
                store.collect(catalog, grace=0)

    done = backup(store, str(place), tell=collect)
    assert (done.images, done.shards, done.damaged) == (28, 10, ())
    with opened(place) as copy:
        assert answers(copy) == expected


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit": lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 4])),
    "cut": lambda path: os.truncate(path, 700),
    "unlinked": Path.unlink,
    "a link": lambda path: path.rename(path.with_suffix(".x")) and path.symlink_to(path.with_suffix(".x")),
    "a FIFO": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.damaged
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.parametrize("link", [False, True])
def test_a_damaged_shard_is_made_anew_and_said_so(
    store: Store, place: Path, damage: Callable[[Path], object], link: bool
) -> None:
    expected = answers(store)
    name = next(name for name in shards(store) if name.startswith("c3/"))
    damage(Path(store.path, "shards", name))
    done = backup(store, str(place), link=link)
    assert (done.shards, done.damaged, done.linked) == (10, ("c3",), 9 if link else 0)
    with opened(place) as copy:
        assert answers(copy) == expected


@pytest.mark.damaged
def test_a_damaged_catalog_is_not_copied(store: Store, place: Path) -> None:
    store.close()
    with open(os.path.join(store.path, CATALOG), "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        for page in range(4096 * 4, size, 4096):
            file.seek(page)
            file.write(b"\xee" * 100)
    with pytest.raises(DatabaseDamaged):
        backup(store, str(place))
    assert not place.parent.exists()


@pytest.mark.damaged
def test_a_damaged_vector_that_a_lost_shard_needs(store: Store, place: Path) -> None:
    with store.writing() as catalog:
        catalog.sql.execute("UPDATE vector SET data = zeroblob(24) WHERE image = 1")
    shutil.rmtree(Path(store.path, "shards"))
    with pytest.raises(DatabaseDamaged, match=f"{store.path} is damaged and was not copied; see catdb check"):
        backup(store, str(place))
    assert not place.parent.exists()


# --- where it may be ----------------------------------------------------------------------------------------------


def test_places_that_will_not_do_are_named_and_left_alone(store: Store, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    (tmp_path / "shardless").mkdir()
    (tmp_path / "shardless" / "shards").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "around").symlink_to(store.path)
    before = shards(store)
    for place, reason in (
        (store.path, "the database itself"),
        (tmp_path / "around", "the database itself"),
        (Path(store.path, "copy"), "inside the database"),
        (tmp_path / "around" / "a" / "b", "inside the database"),
        (tmp_path, "other files"),
        (tmp_path / "full", "other files"),
        (tmp_path / "shardless", "other files"),
        (tmp_path / "file", "Not a directory"),
        (tmp_path / "file" / "copy", "Not a directory"),
    ):
        with pytest.raises(StorageError, match=reason) as raised:
            backup(store, str(place))
        assert str(raised.value).startswith(f"{place}: ") and "\n" not in str(raised.value)
    assert (tmp_path / "full" / "letter.txt").read_text() == "mine"
    assert (folder(tmp_path / "full"), folder(tmp_path / "shardless")) == (["letter.txt"], ["shards"])
    assert shards(store) == before
    assert sorted(name for name in folder(Path(store.path)) if "-" not in name) == WHOLE


def test_an_earlier_backup_is_not_replaced(store: Store, place: Path) -> None:
    backup(store, str(place))
    fill(store, [100])
    with pytest.raises(StorageError, match="there is a database already"):
        backup(store, str(place))
    with opened(place) as copy:
        assert len(answers(copy)[0]) == 28


def test_there_is_nothing_to_copy(tmp_path: Path, place: Path) -> None:
    with pytest.raises(DatabaseNotFound):
        backup(Store(str(tmp_path / "none")), str(place))
    assert not place.parent.exists()


def test_links_that_the_file_system_cannot_make(store: Store, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StorageError, match=r"no hard link can be made \(.*\); leave out --link"):
        backup(store, str(place), link=True)
    assert not place.parent.exists()


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="there is no second file system here")
def test_links_across_file_systems(store: Store) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        if os.stat(other).st_dev == os.stat(store.path).st_dev:
            pytest.skip("there is no second file system here")
        with pytest.raises(StorageError, match="leave out --link"):
            backup(store, other, link=True)
        assert folder(Path(other)) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("good", [0, 4])
def test_a_full_disk_leaves_nothing(
    store: Store, place: Path, monkeypatch: pytest.MonkeyPatch, number: int, good: int
) -> None:
    expected = answers(store)
    left = [good]
    write = os.write

    def refuse(handle: int, data: memoryview) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(number, os.strerror(number))
        return write(handle, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", refuse)
        with pytest.raises(StorageError, match=f"{os.strerror(number)}; there is no backup"):
            backup(store, str(place))
    assert not place.parent.exists()
    backup(store, str(place))
    with opened(place) as copy:
        assert answers(copy) == expected


def test_a_disk_that_is_full_of_the_catalog(store: Store, tmp_path: Path, place: Path) -> None:
    code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    backup(Store(path), sys.argv[2])
except CatdbError as error:
    print(type(error).__name__, error, flush=True)
"""
    with another(code, store.path, place) as process:
        said = line(process)
        assert process.wait(60) == 0
    assert said == f"StorageError {place}: Input/output error; there is no backup"  # it named the source's catalog
    assert not place.parent.exists()


# --- interrupted --------------------------------------------------------------------------------------------------


def killed_at(step: int, source: str, target: Path) -> bool:
    """Back up in a process that kills itself before its n-th step; say whether it did."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork where there are threads
        child = os.fork()
    if not child:
        left = [step]

        def before(function: Callable[..., object]) -> Callable[..., object]:
            def ticking(*words: object, **options: object) -> object:
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*words, **options)

            return ticking

        for name in ("open", "write", "fsync", "unlink", "mkdir", "rename"):
            setattr(os, name, before(getattr(os, name)))
        backup(Store(source, writable=False), str(target))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_a_backup_killed_at_any_step_is_no_database_until_it_is_whole(tmp_path: Path, place: Path) -> None:
    source = make(tmp_path / "small")
    fill(source, [1])
    source.fold_all()
    expected, seen = answers(source), set()
    source.close()
    for step in itertools.count():
        killed = killed_at(step, source.path, place)
        names = folder(place) if place.exists() else []
        seen.add(tuple(names))
        if CATALOG in names:
            assert names == WHOLE
            with opened(place) as copy:
                assert answers(copy) == expected
            shutil.rmtree(place)
        else:
            assert not Store(str(place)).exists()
            if UNFINISHED in names:
                with pytest.raises(StorageError, match="a folder with other files"):
                    Database(place)
        if not killed:
            break
    assert step > 40 and len(seen) >= 4
    assert check(source).problems == ()
    source.close()


def test_a_killed_one_is_run_again(store: Store, place: Path) -> None:
    expected = answers(store)
    store.close()
    assert killed_at(30, store.path, place)
    assert UNFINISHED in folder(place) and shards(Store(str(place)))
    with pytest.raises(DatabaseNotFound):
        Database(place, mode="r")
    backup(store, str(place))
    assert folder(place) == WHOLE
    with opened(place) as copy:
        assert answers(copy) == expected


def test_an_interrupt_leaves_nothing(store: Store, place: Path) -> None:
    def interrupt(step: str, done: int, of: int) -> None:
        if step == "copying shards":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backup(store, str(place), tell=interrupt)
    assert not place.parent.exists()


def test_two_backups_to_one_place(store: Store, place: Path) -> None:
    def second(step: str, done: int, of: int) -> None:
        if (step, done) == ("copying shards", 1):
            with pytest.raises(DatabaseBusy, match="is writing"):
                backup(Store(store.path), str(place))

    backup(store, str(place), tell=second)
    with opened(place) as copy:
        assert answers(copy) == answers(store)


# --- beside a writer ----------------------------------------------------------------------------------------------

WRITER = """
store = Store(path, wait=60)
number = 10_000
while True:
    store.commit([put(number + step) for step in range(3)])
    if number > 10_000:
        delete(store, 30 + number - 10_000 - 2)  # the first of the last three
    store.fold([number % 10, (number + 1) % 10, (number + 3) % 10, (number + 6) % 10])
    with store.writing() as catalog:
        store.collect(catalog, grace=0)
    number += 3
    print(number, flush=True)
"""


def test_copies_taken_while_a_writer_adds_folds_and_collects(store: Store, tmp_path: Path) -> None:
    with another(WRITER, store.path) as process:
        line(process)
        for turn in range(12):
            acknowledged = int(line(process))
            place = tmp_path / "copies" / str(turn)
            done = backup(store, str(place), link=turn % 2 == 1)
            assert done.damaged == ()
            with opened(place, writable=False) as copy, copy.snapshot() as snapshot:
                held = {int.from_bytes(image.digest, "big") for image in snapshot.catalog.images()}
                assert done.images == len(held) == len(answers(copy)[0])
                assert answers(copy)[2] == []
            added = range(10_000, acknowledged)
            gone = {number for number in added if number % 3 == 10_000 % 3 and number < acknowledged - 3}
            assert held & gone == set()
            assert {number for number in added if number % 3 != 10_000 % 3} <= held
            shutil.rmtree(place)
        assert process.poll() is None
    with store.writing():
        pass
    assert check(store).problems == ()


@pytest.mark.usefixtures("page_by_page")
def test_a_writer_is_not_held_up(store: Store, place: Path) -> None:
    code = """
store = Store(path, wait=0)
print(flush=True)
for word in sys.stdin:
    fill(store, [int(word)])
    store.fold_all()
    print("written", flush=True)
"""
    with another(code, store.path) as process:
        line(process)

        numbers = itertools.count(5000)

        def write(step: str, done: int, of: int) -> None:
            if done in (1, of):
                assert process.stdin is not None
                process.stdin.write(f"{next(numbers)}\n")
                process.stdin.flush()
                assert line(process) == "written"

        backup(store, str(place), tell=write)
        assert next(numbers) == 5004
    with opened(place) as copy:
        assert len(answers(copy)[0]) == 28


@pytest.mark.parametrize("open_elsewhere", [False, True])
def test_a_source_that_cannot_be_written_to(store: Store, tmp_path: Path, open_elsewhere: bool) -> None:
    expected = answers(store)
    if not open_elsewhere:
        store.close()
    before = {file: file.read_bytes() for file in Path(store.path).rglob("*") if file.is_file()}
    for name in ("", "shards"):
        os.chmod(Path(store.path, name), 0o555)
    code = """
reader = Store(path, writable=False)
assert not os.access(path, os.W_OK)
print(backup(reader, sys.argv[2]).images)
"""
    place = tmp_path / "copy"
    try:
        words = ["import os, sys", "from catdb.backup import *", "path = sys.argv[1]", code]
        done = subprocess.run(
            [sys.executable, "-c", "\n".join(words), store.path, place],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            preexec_fn=unprivileged,
            timeout=60,
        )
        assert (done.stdout, done.stderr) == ("28\n", "")
        after = {file: file.read_bytes() for file in Path(store.path).rglob("*") if file.is_file()}
        assert {file for file in before if "-shm" not in file.name and after[file] != before[file]} == set()
        assert after.keys() == before.keys()
    finally:
        for name in ("", "shards"):
            os.chmod(Path(store.path, name), 0o755)
    with opened(place) as copy:
        assert answers(copy) == expected


# --- as a database of images --------------------------------------------------------------------------------------


def test_a_copy_elsewhere_finds_the_images_where_they_are(tmp_path: Path, open_db: Open, instant: Instant) -> None:
    photos = tmp_path / "home" / "photos"
    for seed in range(6):
        save(photos / f"{seed}.png", seed)
    source = open_db("home/photos.catdb", backbone=instant)
    source.build(photos)
    # As seen from the database, the images are in "../photos": what lies there, seen from the copy, is another folder.
    save(tmp_path / "disk" / "photos" / "0.png", 99)
    steps: list[str] = []
    source.backup(tmp_path / "disk" / "copy", progress=lambda step: steps.append(step.step))
    assert set(steps) == {"copying the catalog", "copying shards"}

    def paths(mode: str) -> list[str]:
        with Database(tmp_path / "disk" / "copy", mode=mode) as copy:
            return sorted(match.path for match in copy.search(photos / "0.png", exact=True))

    expected = [str(photos / f"{seed}.png") for seed in range(6)]
    assert paths("r") == expected
    photos.rename(tmp_path / "away")  # and not even while they are away
    with Database(tmp_path / "disk" / "copy", mode="r") as copy:
        assert list(copy) == expected
        assert [(root.path, root.online) for root in copy.info().roots] == [(str(photos), False)]
    (tmp_path / "away").rename(photos)
    copy = open_db("disk/copy", backbone=instant)
    before = instant.passes
    report = copy.build()
    assert (report.unchanged, report.total, instant.passes) == (6, 6, before)
    # From then on, database and images may move together as ever.
    (tmp_path / "disk").rename(tmp_path / "disk2")
    (tmp_path / "disk2" / "home").mkdir()
    copy.close()
    (tmp_path / "disk2").rename(tmp_path / "disk")


def test_images_that_moved_with_the_source_are_remembered_where_they_are_now(
    tmp_path: Path, open_db: Open, instant: Instant
) -> None:
    save(tmp_path / "one" / "photos" / "0.png", 0)
    with Database(tmp_path / "one" / "db", backbone=instant) as source:
        source.build(tmp_path / "one" / "photos")
    (tmp_path / "one").rename(tmp_path / "two")
    open_db("two/db").backup(tmp_path / "copy" / "deep" / "db")
    assert list(open_db("copy/deep/db", mode="r")) == [str(tmp_path / "two" / "photos" / "0.png")]


def test_a_shard_whose_copy_is_not_what_was_read_is_noticed(
    store: Store, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shard.copy

    def bad(file: shard.File, path: str) -> None:
        copy(file, path)
        if "c7" in path:
            os.truncate(path, file.size - 1)

    monkeypatch.setattr(shard, "copy", bad)
    assert backup(store, str(place)).damaged == ("c7",)
    with opened(place) as whole:
        assert answers(whole) == answers(store)
