"""Faults at every call: a sample each time, the proof that they are noticed, and the library that makes them."""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pytest
from conftest import CATDB, run, save, unprivileged
from faults.library import Call, Kind, environment, read_log

HERE = Path(__file__).parent
PATHS = f"{HERE}{os.pathsep}{HERE.parent}"
TOOL = HERE.parent / "tools" / "faults"
SEED = int(os.environ.get("CATDB_SEED") or date.today().toordinal())

Python = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the library that makes faults is for Linux")


@pytest.fixture
def python(library: Path, tmp_path: Path) -> Python:
    """Run code under the library; it knows ``faults``, the folder that is struck (``here``) and another (``there``)."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    lines = "import os, sys\nfrom pathlib import Path\nfrom faults.library import *\nfaults = Faults()\n"
    lines += "here, there = (Path(word) for word in sys.argv[1:3])\nos.chdir(here)\n"

    def run_(code: str, **settings: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", lines + code, str(tmp_path / "here"), str(tmp_path / "there")],
            env={**environment(library, **settings), "PYTHONPATH": PATHS},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run_


# --- the sample -------------------------------------------------------------------------------------------------


def test_nothing_is_lost_at_a_sample_of_all_calls(library: Path) -> None:
    command = [sys.executable, str(TOOL), "--sample", "180", "--seed", str(SEED), "--jobs", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"to repeat it: tools/faults --sample 180 --seed {SEED}\n{done.stdout}{done.stderr}"
    rows = dict(re.findall(r"^(\w+) +[\d,]+ +([\d,]+) +0 ", done.stdout, re.M))
    assert rows.pop("total") == "180"
    assert len(rows) == 12
    assert min(map(int, rows.values())) >= 15  # every operation has its share


def test_nothing_is_lost_when_a_writer_is_killed_at_random(library: Path) -> None:
    command = [sys.executable, str(TOOL), "--kills", "25", "--seed", str(SEED), "--jobs", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"to repeat it: tools/faults --kills 25 --seed {SEED}\n{done.stdout}{done.stderr}"
    found = re.fullmatch(r"25 kills, (\d+) acknowledged changes: 0 lost, 0 resurrected, 0 partial, .*\n", done.stdout)
    assert found
    assert int(found[1]) >= 25


# --- the harness can fail ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "operation", "kinds", "said"),
    [
        ("not_at_all", "batch", ["KILL_BEFORE", "FULL"], ""),
        ("acknowledges_before_it_commits", "checkpoint", ["KILL_BEFORE", "KILL_AFTER"], "lost: 0040.png"),
        ("commits_a_batch_bit_by_bit", "batch", ["KILL_BEFORE", "TEAR_HALF"], "/ or lost: 00"),
        ("points_to_a_file_before_it_is_there", "compact", ["KILL_AFTER"], "check: shard"),
        ("lets_errors_through", "add", ["ENOSPC", "FULL"], "sqlite3.OperationalError"),
    ],
)
def test_a_broken_product_is_found_out(library: Path, way: str, operation: str, kinds: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "faults.broken", way, operation, *kinds],
        env={**environment(library), "PYTHONPATH": PATHS, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    bad, _, text = done.stdout.strip().partition(" ")
    assert said in text
    assert int(bad) >= 2 if said else int(bad) == 0


# --- the library ------------------------------------------------------------------------------------------------


def test_a_full_disk_strikes_once_or_until_it_is_disarmed_and_nothing_elsewhere(python: Python) -> None:
    done = python("""
def tried(function, *words):
    try:
        function(*words)
        return 0
    except OSError as error:
        return error.errno
def several():
    file = os.open("file", os.O_WRONLY | os.O_CREAT)
    results = [tried(os.write, file, b"abcd") for _ in range(4)]
    results += [tried((there / "other").write_text, "x"), tried(os.fsync, file)]
    os.close(file)
    results += [tried(os.unlink, "file"), tried(os.mkdir, "folder"), tried(os.rmdir, "folder")]
    return results
for kind in (Kind.ENOSPC, Kind.EIO, Kind.FULL, Kind.BROKEN):
    faults.arm(here, 3, kind)
    results = several()
    fired, trace = faults.fired, faults.trace
    faults.disarm()
    print(*results, trace, fired, tried(Path("after").write_text, "y"))
""")
    full, broken = errno.ENOSPC, errno.EIO
    assert done.stdout.splitlines() == [
        f"0 {full} 0 0 0 0 0 0 0 cwwwwsumd 1 0",
        f"0 {broken} 0 0 0 0 0 0 0 cwwwwsumd 1 0",
        f"0 {full} {full} {full} 0 {full} 0 {full} {errno.ENOENT} cwwwwsumd 5 0",
        f"0 {broken} {broken} {broken} 0 {broken} {broken} {broken} {broken} cwwwwsumd 7 0",
    ], done.stderr


@pytest.mark.parametrize(
    ("kind", "left"),
    [(Kind.KILL_BEFORE, 0), (Kind.KILL_AFTER, 1500), (Kind.TEAR_HALF, 750), (Kind.TEAR_SECTOR, 1024)],
)
def test_a_kill_leaves_of_a_write_what_it_says(python: Python, tmp_path: Path, kind: Kind, left: int) -> None:
    code = 'file = open("file", "wb", buffering=0)\nfile.write(bytes(range(250)) * 6)\nprint("alive")'
    done = python(code, dir=tmp_path / "here", at=2, kind=int(kind))
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "")
    assert (tmp_path / "here" / "file").read_bytes() == (bytes(range(250)) * 6)[:left]


def test_a_short_write_says_what_it_wrote(python: Python, tmp_path: Path) -> None:
    code = """
file = os.open("file", os.O_WRONLY | os.O_CREAT)
faults.arm(here, 1, Kind.SHORT_FULL)
print(os.pwrite(file, b"12345", 0))
try:
    os.pwrite(file, b"45", 3)
except OSError as error:
    print(error.errno)
"""
    done = python(code)
    assert done.stdout.split() == ["3", str(errno.ENOSPC)], done.stderr
    assert (tmp_path / "here" / "file").read_bytes() == b"123"


def test_what_is_recorded_makes_the_same_files_again(python: Python, tmp_path: Path) -> None:
    done = python("""
faults.record(here, there / "log")
os.makedirs("a/b")
with open("a/one", "wb", buffering=0) as file:
    file.write(b"0123456789")
    copy = os.dup(file.fileno())
    os.pwrite(copy, b"xy", 4)
    os.writev(copy, [b"ab", b"cd"])
    os.close(copy)
    os.ftruncate(file.fileno(), 13)
    os.fsync(file.fileno())
with open("a/one", "ab", buffering=0) as file:
    file.write(b"end")
faults.mark("half-way")
os.rename("a/one", here / "a" / "b" / "two")
os.link("a/b/two", "three")
folder = os.open("a", os.O_RDONLY)
os.open("four", os.O_WRONLY | os.O_CREAT, dir_fd=folder)
os.fsync(folder)
Path("gone").write_bytes(b"gone")
os.unlink("gone")
os.mkdir("empty")
os.rmdir("empty")
Path("catalog.sqlite-shm").write_bytes(b"index")
(there / "elsewhere").write_bytes(b"elsewhere")
try:
    os.unlink("not there")
except FileNotFoundError:
    faults.stop()
Path("late").write_bytes(b"late")
""")
    assert done.returncode == 0, done.stderr
    here, again = tmp_path / "here", tmp_path / "again"
    again.mkdir()
    records = list(read_log(tmp_path / "there" / "log"))
    for call, path, path2, offset, data in records:
        target = again / path
        if call in (Call.CREATE, Call.WRITE, Call.TRUNCATE):
            with target.open("xb" if call == Call.CREATE else "r+b") as file:
                if call == Call.TRUNCATE:
                    file.truncate(offset)
                file.seek(offset)
                file.write(data)
        elif call in (Call.RENAME, Call.LINK):
            (os.rename if call == Call.RENAME else os.link)(target, again / path2)
        elif call in (Call.UNLINK, Call.MKDIR, Call.RMDIR):
            {Call.UNLINK: os.unlink, Call.MKDIR: os.mkdir, Call.RMDIR: os.rmdir}[call](target)
    for late in ("late", "catalog.sqlite-shm"):
        (here / late).unlink()
    assert tree(again) == tree(here)
    assert tree(here)["three"] == b"0123xy6789abcend"[:13] + b"end"
    forced = [(record.call, record.path) for record in records if record.call in (Call.FSYNC, Call.FSYNC_DIRECTORY)]
    assert forced == [(Call.FSYNC, "a/one"), (Call.FSYNC_DIRECTORY, "a")]
    assert [record.data for record in records if record.call == Call.MARK] == [b"half-way"]


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return every file below a folder with its content, and every folder with None."""
    paths = folder.rglob("*")
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


# --- whole processes ------------------------------------------------------------------------------------------------


def failed(*words: str | Path, **options: object) -> str:
    """Run the command, which must fail as an expected error does; return its line."""
    done = run(*words, **options)  # type: ignore[arg-type]
    lines = [line for line in done.stderr.splitlines() if line.startswith("catdb: ")]
    assert (done.returncode, len(lines)) == (1, 1), done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def works(*words: str | Path) -> str:
    done = run(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("kind", [Kind.FULL, Kind.BROKEN])
def test_a_full_or_broken_disk_costs_a_build_one_line_and_nothing_else(
    library: Path, tmp_path: Path, kind: Kind
) -> None:
    top, picture = tmp_path / "top", save(tmp_path / "photos" / "one.png", 1)
    words = ("build", picture.parent, "--db", top / "db", "--backbone", "classic")
    chance = random.Random(f"{SEED} {kind}")
    for at in (9, chance.randrange(10, 100)):  # 9: SQLite's first journal stays, and must not be in the way
        shutil.rmtree(top, ignore_errors=True)
        top.mkdir()
        line = failed(*words, env=environment(library, dir=top, at=at, kind=int(kind)))
        assert re.search("No space left|is full|Input/output error|disk I/O error", line), f"call {at}: {line}"
        assert "1 added" in works(*words), f"after call {at}"
    other = save(tmp_path / "other.png", 2)
    failed("add", other, "--db", top / "db", env=environment(library, dir=top, at=5, kind=int(kind)))
    works("check", "--db", top / "db")
    assert "1 added" in works("add", other, "--db", top / "db")


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """Mount a file system of this size, or skip where that is not allowed."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "catdb-test", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount here for a small disk")
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_for_real_loses_nothing(tmp_path: Path) -> None:
    for seed in range(3):
        save(tmp_path / "photos" / f"{seed}.png", seed)
    with small_disk(tmp_path / "disk", 2048) as disk:
        words = ("build", tmp_path / "photos", "--db", disk / "db", "--backbone", "classic")
        works(*words)
        for seed in range(3, 43):
            save(tmp_path / "photos" / f"{seed}.png", seed)
        ballast = disk / "ballast"
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(bytes(4096))
        for room in (0, 64, 320):  # kilobytes: too little for a log, for a commit, for the shards
            os.truncate(ballast, ballast.stat().st_size - room * 1024)
            line = failed(*words)
            assert re.search("No space left|is full|disk I/O error", line), f"{room}: {line}"
        ballast.unlink()
        works("check", "--db", disk / "db")
        works(*words)
        assert "43 unchanged" in works(*words)


def test_a_backup_onto_a_disk_that_is_full_names_that_disk_and_leaves_nothing(tmp_path: Path) -> None:
    """Where there was no room for the catalog, it was the catalog of the source that was said to be full."""
    for seed in range(12):
        save(tmp_path / "photos" / f"{seed}.png", seed)
    works("build", tmp_path / "photos", "--db", tmp_path / "db", "--backbone", "classic")
    size = (tmp_path / "db" / "catalog.sqlite").stat().st_size // 1024
    with small_disk(tmp_path / "disk", 2 * size) as disk:
        copy = f"{disk}/copy"
        full = f"{copy}: No space left on device; there is no backup"
        for room, said in ((size // 2, full), (size + 32, copy)):  # kilobytes: for no catalog, for no log beside it
            ballast = disk / "ballast"
            ballast.write_bytes(bytes(1024 * (2 * size - room)))
            assert failed("backup", copy, "--db", tmp_path / "db").startswith(f"catdb: {said}")
            assert os.listdir(disk) == ["ballast"]
            ballast.unlink()


def test_a_folder_that_is_closed_for_writing_costs_one_line(tmp_path: Path) -> None:
    db = tmp_path / "db"
    picture = save(tmp_path / "photos" / "one.png", 1)
    works("build", picture.parent, "--db", db, "--backbone", "classic")
    other = save(tmp_path / "other.png", 2)
    command = [CATDB, "add", str(other), "--db", str(db)]
    for closed in (db, db / "catalog.sqlite", db / "LOCK"):
        mode = closed.stat().st_mode
        closed.chmod(0o555 if closed.is_dir() else 0o444)
        try:
            done = subprocess.run(command, preexec_fn=unprivileged, capture_output=True, text=True, timeout=120)
        finally:
            closed.chmod(mode)
        assert (done.returncode, done.stderr.count("catdb: ")) == (1, 1), f"{closed}: {done.stderr}"
        assert "Traceback" not in done.stderr
    works("check", "--db", db)
    assert "1 added" in works("add", other, "--db", db)
