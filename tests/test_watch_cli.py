"""``catdb watch`` as a person and a service run it: real processes, real signals, other commands beside it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any

import pytest
from conftest import CATDB, child, run, save, unprivileged, without_progress

from catdb import Database
from catdb.lock import Lock

PATIENCE = 120.0  # seconds for a line that must come; a busy machine may take many of them


class Lines:
    """The lines of a stream as they come; :meth:`until` waits for one and returns those up to it."""

    def __init__(self, stream: IO[str]) -> None:
        self._queue: SimpleQueue[str | None] = SimpleQueue()
        self._stream = stream
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._stream:
            if without_progress(line):
                self._queue.put(line.rstrip("\n"))
        self._queue.put(None)

    def until(self, wanted: str) -> list[str]:
        found: list[str] = []
        end = time.monotonic() + PATIENCE
        while True:
            try:
                line = self._queue.get(timeout=max(0.0, end - time.monotonic()))
            except Empty:
                raise AssertionError(f"no {wanted!r} in time, but {found}") from None
            assert line is not None, f"it ended without {wanted!r}, after {found}"
            found.append(line)
            if wanted in line:
                return found

    def rest(self) -> list[str]:
        found = []
        while (line := self._queue.get(timeout=PATIENCE)) is not None:
            found.append(line)
        return found


class Watching:
    """A running ``catdb watch``."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout and process.stderr
        self.process = process
        self.out, self.err = Lines(process.stdout), Lines(process.stderr)

    def event(self, name: str) -> dict[str, Any]:
        """Wait for the change of a file, and return what was said of it on stdout."""
        found: dict[str, Any] = json.loads(self.out.until(name)[-1])
        return found

    def end(self, number: int = signal.SIGTERM) -> tuple[int, list[str]]:
        """Send a signal; return the exit code and what it said still."""
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        return code, self.err.rest()


@contextmanager
def watching(*words: str | Path, **options: Any) -> Iterator[Watching]:
    pipe = subprocess.PIPE
    command = [CATDB, "watch", *map(str, words)]
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, **options) as process:
        try:
            yield Watching(process)
        finally:
            process.kill()


ENDED = ["catdb: finishing the batch under way; again to stop at once", "catdb: stopped; what was committed is safe"]


@pytest.fixture
def photos(photos: Path) -> Path:
    """The folder of twelve pictures, which nobody has just been writing to."""
    for path in photos.rglob("*.png"):
        os.utime(path, (1e9, 1e9))
    return photos


@pytest.fixture
def built(photos: Path) -> Path:
    """The folder of twelve pictures, with its database in ./.catdb."""
    with Database(".catdb", backbone="classic") as database:
        database.build(photos)
    return photos


def best(path: Path) -> str:
    """Return what another process finds most like an image."""
    done = run("search", path, "--json", "-k", "1")
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["matches"][0]["path"])


def test_each_change_is_a_line_and_an_object_and_can_be_found_then(photos: Path, tmp_path: Path) -> None:
    with watching(photos, "--backbone", "classic", "--json", "--alert", "0.9") as watch:
        said = watch.err.until("in step")
        assert sorted(said[:-1]) == sorted(f"added {path}" for path in photos.rglob("*.png"))
        assert said[-1] == "in step: 12 images; watching 1 folder"
        first = [json.loads(line) for line in watch.out.until("11.png")]
        assert {(line["event"], *line) for line in first} == {("added", "event", "path", "resembles")}

        query = save(tmp_path / "query.png", 77)
        save(tmp_path / "naïve\n.png", 77).rename(photos / "naïve\n.png")
        assert watch.event("na\\u00efve\\n.png") == {"event": "added", "path": f"{photos}/naïve\n.png", "resembles": []}
        assert best(query) == f"{photos}/naïve\n.png"
        assert watch.err.until("added")[-1] == f"added {photos}/naïve\\n.png"

        save(photos / "like.png", 3)
        found = watch.event("like.png")
        assert [like["path"] for like in found["resembles"]] == [f"{photos}/3.png"]
        assert found["resembles"][0]["similarity"] == pytest.approx(1.0, abs=1e-3)
        assert watch.err.until("like.png")[-1] == f"added {photos}/like.png: resembles {photos}/3.png (1.000)"

        (photos / "0.png").rename(photos / "zero.png")
        assert watch.event("zero.png") == {
            "event": "moved",
            "path": f"{photos}/zero.png",
            "source": f"{photos}/0.png",
        }
        assert watch.err.until("zero.png")[-1] == f"moved {photos}/0.png -> {photos}/zero.png"

        save(photos / "1.png", 99)
        assert watch.event("/1.png")["event"] == "changed"
        (photos / "2.png").unlink()
        assert watch.event("/2.png") == {"event": "removed", "path": f"{photos}/2.png"}
        (photos / "text.jpg").write_text("no image")
        assert watch.event("text.jpg") == {"event": "failed", "path": f"{photos}/text.jpg", "reason": "not an image"}
        assert watch.err.until("text.jpg")[-1] == f"failed {photos}/text.jpg: not an image"
        assert watch.end() == (0, ENDED)
        assert watch.out.rest() == []
    assert run("build").stdout.startswith("0 added, 0 changed, 0 moved, 0 removed, 13 unchanged, 1 failed")


def test_other_commands_work_beside_it_and_what_was_removed_stays_out(built: Path) -> None:
    with watching("--json") as watch:
        assert watch.err.until("in step") == ["in step: 12 images; watching 1 folder"]
        name = f"catdb watch (process {watch.process.pid} on {os.uname().nodename})"
        assert f"watched by {name}\n" in run("info").stdout
        assert json.loads(run("info", "--json").stdout)["watcher"] == name

        second = run("watch", "--json", "--exclude", "*.png")
        assert (second.returncode, second.stdout) == (1, "")
        assert second.stderr == f"catdb: {Path.cwd()}/.catdb: {name} is watching; try again when it has finished\n"
        assert json.loads(run("info", "--json").stdout)["excludes"] == []  # it remembered them, refused as it was

        assert run("remove", built / "5.png").stdout == "1 removed; 11 images\n"
        os.utime(built / "5.png")
        save(built / "later.png", 50)  # whose event comes after that of the touched file
        assert watch.event(".png")["path"] == f"{built}/later.png"
        assert best(built / "5.png") != f"{built}/5.png"
        assert run("add", built / "5.png").stdout.startswith("1 added")
        assert best(built / "5.png") == f"{built}/5.png"
        assert run("build").stdout.startswith("0 added, 0 changed, 0 moved, 0 removed, 13 unchanged")
        (built / "5.png").unlink()
        assert watch.event("5.png") == {"event": "removed", "path": f"{built}/5.png"}
        assert watch.end()[0] == 0
    assert "not watched\n" in run("info").stdout
    assert json.loads(run("info", "--json").stdout)["watcher"] is None


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_ends_it_in_good_order_also_in_the_background_of_a_shell(number: int, code: int, built: Path) -> None:
    ignored = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)}
    with watching(**ignored) as watch:
        watch.err.until("in step")
        assert watch.end(number) == (code, ENDED)
        assert watch.out.rest() == []
    assert Path(".catdb/WATCH").read_text() == Path(".catdb/LOCK").read_text() == ""


STUCK = """
import os, signal, sys, threading
import {module}
real = {module}.{name}
def stuck(*arguments, **options):
    os.write(1, b"x\\n")
    {wait}
    return real(*arguments, **options)
{module}.{name} = stuck
from catdb.cli import main
main()
"""


def stuck_in(module: str, name: str, wait: str = "threading.Event().wait()") -> str:
    return STUCK.format(module=module, name=name, wait=wait)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_while_it_starts_ends_it_at_once(number: int, code: int, photos: Path) -> None:
    words = ["watch", photos, "--backbone", "classic", "--nice"]
    with child(stuck_in("catdb.backbones", "load"), *words) as stuck:
        assert stuck.stdout and stuck.stdout.readline() == "x\n"
        assert os.getpriority(os.PRIO_PROCESS, stuck.pid) == 19
        stuck.send_signal(number)
        out, err = stuck.communicate(timeout=PATIENCE)
    said = "catdb: interrupted; what was committed is safe, the same command goes on from there\n"
    assert (stuck.returncode, out, err) == (code, "", said if code else "")
    assert not Path(".catdb").exists()


def test_the_first_signal_waits_for_the_batch(photos: Path) -> None:
    script = stuck_in("catdb.store", "Store.commit", "sys.stdin.read()")
    with child(script, "watch", photos, "--backbone", "classic") as stuck:
        assert stuck.stdout and stuck.stderr and stuck.stdout.readline() == "x\n"
        stuck.send_signal(signal.SIGINT)
        assert stuck.stderr.readline() == f"{ENDED[0]}\n"
        _, err = stuck.communicate(timeout=PATIENCE)  # which closes its stdin: the batch goes on
    assert stuck.returncode == 130
    assert err.splitlines()[-1] == ENDED[1]
    assert sorted(err.splitlines()[:-1]) == sorted(f"added {path}" for path in photos.rglob("*.png"))


def test_the_second_signal_ends_it_at_once(photos: Path) -> None:
    with child(stuck_in("catdb.store", "Store.commit"), "watch", photos, "--backbone", "classic") as stuck:
        assert stuck.stdout and stuck.stderr and stuck.stdout.readline() == "x\n"
        stuck.send_signal(signal.SIGINT)
        assert stuck.stderr.readline() == f"{ENDED[0]}\n"
        stuck.send_signal(signal.SIGINT)
        _, err = stuck.communicate(timeout=PATIENCE)
    assert stuck.returncode == 130
    assert err == "catdb: interrupted; what was committed is safe, the same command goes on from there\n"
    assert run("build", photos).stdout.startswith("12 added")


@pytest.mark.parametrize("name", ["Store.commit", "Store._fold_group"])
def test_a_killed_one_goes_on_from_there(name: str, photos: Path) -> None:
    with child(stuck_in("catdb.store", name), "watch", photos, "--backbone", "classic") as stuck:
        assert stuck.stdout and stuck.stdout.readline() == "x\n"
        stuck.kill()
        stuck.communicate(timeout=PATIENCE)
    assert Path(".catdb/WATCH").read_text() != ""  # it had no time to take its name out
    assert "not watched\n" in run("info").stdout
    assert run("check").stdout == "all is well\n"
    with watching() as watch:
        said = watch.err.until("in step")
        assert (len(said), said[-1]) == (13 if name == "Store.commit" else 1, "in step: 12 images; watching 1 folder")
        assert watch.end() == (0, ENDED)


def test_a_reader_that_goes_away_ends_it_without_a_word(built: Path) -> None:
    os.utime(save(built / "new.png", 60), (1e9, 1e9))
    done = subprocess.run(
        ["bash", "-c", f"{CATDB} watch --json 2>err | head -1"], capture_output=True, text=True, timeout=60
    )
    assert json.loads(done.stdout) == {"event": "added", "path": f"{built}/new.png"}
    assert Path("err").read_text().splitlines()[0] == f"added {built}/new.png"
    assert [line for line in Path("err").read_text().splitlines() if line.startswith("catdb")] == []


def test_an_output_that_takes_no_more_ends_it_with_one_line(built: Path) -> None:
    os.utime(save(built / "new.png", 60), (1e9, 1e9))  # settled long ago: taken in by the first look
    with open("/dev/full", "w") as full:
        done = subprocess.run([CATDB, "watch", "--json"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"added {built}/new.png", "catdb: No space left on device"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "there is no database yet: name the folders to watch"),
        (["nowhere", "--backbone", "classic"], 1, "nowhere: no such file or folder; nothing was changed"),
        (["{photos}", "nowhere", "--backbone", "classic"], 1, "nowhere: no such file or folder"),
        (["{photos}/1.png", "--backbone", "classic"], 1, "1.png: not a folder; name the folder it is in"),
        (["{photos}", "--alert", "1.5"], 2, "'--alert': 1.5 is not in the range 0<=x<=1"),
        (["{photos}", "--rescan", "0"], 2, "'--rescan': 0.0 is not in the range x>0"),
        (["{photos}", "--rescan", "soon"], 2, "'--rescan'"),
    ],
)
def test_what_cannot_be_watched_is_said_and_nothing_is_made(
    words: list[str], code: int, said: str, photos: Path
) -> None:
    done = run("watch", *(word.format(photos=photos) for word in words))
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr and "Traceback" not in done.stderr
    assert code == 2 or done.stderr.count("\n") == 1
    assert not Path(".catdb").exists()


def test_a_folder_that_is_away_is_said_and_pruned_when_asked(built: Path, tmp_path: Path) -> None:
    save(tmp_path / "second" / "a.png", 70)
    assert run("build", tmp_path / "second").returncode == 0
    built.rename(tmp_path / "away")
    with watching() as watch:
        said = watch.err.until("in step")
        assert said == [
            f"catdb: {built} is away: its 12 missing images are kept and can be searched still; "
            "catdb build --prune drops them",
            "in step: 13 images; watching 2 folders, 1 of them away",
        ]
        assert watch.end() == (0, ENDED)
    assert f"offline  reconciled {time.strftime('%Y-')}" in run("info").stdout
    with watching("--prune") as watch:
        said = watch.err.until("in step")
        assert (len(said), said[-1]) == (13, "in step: 1 image; watching 2 folders, 1 of them away")
        assert said[0].startswith(f"removed {built}/")


def test_excludes_and_polling(built: Path) -> None:
    with watching("--exclude", "below", "--poll", "--json") as watch:
        assert len(watch.err.until("in step: 10 images")) == 3
        save(built / "polled.png", 80)
        old = time.time() - 60
        os.utime(built / "polled.png", (old, old))
        assert watch.event("polled.png")["event"] == "added"
    assert "excluded: below\n" in run("info").stdout


def test_asking_who_watches_needs_no_right_to_write_and_disturbs_nobody(built: Path) -> None:
    watcher = Lock.of_watcher(str(Path(".catdb").resolve()))
    asking = "from catdb.lock import Lock; import sys; print([Lock.of_watcher(sys.argv[1]).holder() for _ in range(9)])"
    command = [sys.executable, "-c", asking, str(Path(".catdb").resolve())]

    def ask() -> str:
        return subprocess.run(command, preexec_fn=unprivileged, capture_output=True, text=True, check=True).stdout

    with watcher.held():
        name = Path(".catdb/WATCH").read_text()
        Path(".catdb/WATCH").chmod(0o444)
        assert ask() == f"{[name] * 9}\n"
        assert Lock.of_watcher(str(Path(".catdb").resolve())).holder() == name  # in the same process as well
        Path(".catdb/WATCH").chmod(0o644)
    assert ask() == f"{[None] * 9}\n"
    Path(".catdb/WATCH").write_text("of one that was killed")
    assert ask() == f"{[None] * 9}\n"
