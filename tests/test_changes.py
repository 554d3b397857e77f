"""Tests of catdb.watch.changes alone: what the system tells of real folders, as sets of changes that have settled."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from catdb.watch import changes as room
from catdb.watch.changes import Changes, Events

QUIET, CAP = 0.1, 1.0
LONG = 120.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "watched"
    path.mkdir()
    return path


@pytest.fixture
def events(folder: Path) -> Iterator[Events]:
    with closing(Events(quiet=QUIET, cap=CAP)) as events:
        events.watch(str(folder))
        yield events


def until(events: Events, folder: Path, enough: Callable[[set[str], set[str]], bool]) -> tuple[set[str], set[str]]:
    """Collect changes until they are enough; return (whole, open), as seen from the folder."""
    whole: set[str] = set()
    open_: set[str] = set()
    end = time.monotonic() + LONG
    while not enough(whole, open_):
        assert time.monotonic() < end, (whole, open_)
        found = events.changes(1.0)
        whole |= {os.path.relpath(path, folder) for path in found.whole | found.gone}
        open_ |= {os.path.relpath(path, folder) for path in found.open}
    return whole, open_


def heard(events: Events, folder: Path, *names: str) -> tuple[set[str], set[str]]:
    """Collect changes until a file that is written now was heard of, and so was everything before; without it."""
    (folder / "last").write_text("")
    whole, open_ = until(events, folder, lambda whole, _: "last" in whole)
    assert not names or set(names) <= whole | open_
    return whole - {"last"}, open_


def test_a_file_is_whole_when_it_was_closed_and_not_before(folder: Path, events: Events) -> None:
    with open(folder / "slow.png", "wb", buffering=0) as file:
        for _ in range(3):
            file.write(b"a part of it")
            assert heard(events, folder) == (set(), set())
    assert heard(events, folder) == ({"slow.png"}, set())


def test_every_way_in_which_a_file_can_change(folder: Path, tmp_path: Path, events: Events) -> None:
    (folder / "a").write_text("new")
    assert heard(events, folder) == ({"a"}, set())
    (folder / "a").write_text("in place")
    assert heard(events, folder) == ({"a"}, set())
    (folder / "a.part").write_text("download")
    os.replace(folder / "a.part", folder / "a")
    assert heard(events, folder) == ({"a", "a.part"}, set())
    until(events, folder, lambda whole, _: "a.part" in whole)
    os.rename(folder / "a", folder / "b")
    assert heard(events, folder) == ({"b"}, set())
    until(events, folder, lambda whole, _: "a" in whole)
    os.rename(folder / "b", tmp_path / "out")
    assert until(events, folder, lambda whole, _: "b" in whole) == ({"b"}, set())
    os.rename(tmp_path / "out", folder / "c")
    assert heard(events, folder) == ({"c"}, set())  # nobody writes to a file that was moved in
    os.link(folder / "c", folder / "hard")
    os.symlink("c", folder / "soft")
    assert heard(events, folder) == (set(), {"hard", "soft"})  # nor is one of these ever closed
    os.unlink(folder / "c")
    assert until(events, folder, lambda whole, _: "c" in whole) == ({"c"}, set())


def test_a_touch_and_a_look_are_no_changes(folder: Path, events: Events) -> None:
    (folder / "a").write_text("a")
    heard(events, folder)
    os.utime(folder / "a", (1, 1))
    (folder / "a").read_text()
    os.listdir(folder)
    assert heard(events, folder) == (set(), set())


@pytest.mark.parametrize("emptied", [False, True])
def test_a_folder_that_took_the_place_of_one_moved_away_may_move_too(
    folder: Path, tmp_path: Path, events: Events, emptied: bool
) -> None:
    """watchdog then knew two watches by one path: to forget the second was a KeyError, which ended the whole watch."""
    for change in (
        (folder / "a").mkdir,
        lambda: os.rename(folder / "a", tmp_path / "away"),
        (folder / "a").mkdir,
        lambda: os.rename(folder / "a", folder / "b"),
        lambda: os.rmdir(tmp_path / "away") if emptied else None,
    ):
        change()
        heard(events, folder)
    (folder / "b" / "c.png").write_text("")
    until(events, folder, lambda whole, _: "b/c.png" in whole)
    events.close()
    assert events.watched() == set()


def test_folders_that_come_move_and_go(folder: Path, tmp_path: Path, events: Events) -> None:
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep" / "a").write_text("a")
    os.rename(tree, folder / "in")
    assert "in" in heard(events, folder)[1]
    (folder / "in" / "deep" / "b").write_text("b")  # below what was moved in
    assert heard(events, folder) == ({"in/deep/b"}, set())
    os.rename(folder / "in", folder / "on")
    whole, open_ = heard(events, folder)
    assert "on/deep/a" in whole and "on" in open_
    until(events, folder, lambda whole, _: {"in", "in/deep/a"} <= whole)
    shutil.copytree(folder / "on", folder / "copy")
    until(events, folder, lambda whole, open_: "copy" in open_)
    shutil.rmtree(folder / "on")
    until(events, folder, lambda whole, _: {"on", "on/deep/a"} <= whole)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What time it is for the changes, ``now``: it passes only when a test says so, however slow the machine is."""
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(room, "time", clock)
    return clock


def until_sorted(events: Events, bucket: str, *paths: Path) -> None:
    """Wait until these were heard of, while no time passes, so that nothing settles."""

    def known() -> bool:
        assert not events.changes(0.01)
        return {str(path) for path in paths} <= getattr(events, bucket).paths

    wait_for(known)


def test_changes_wait_for_quiet(folder: Path, clock: SimpleNamespace) -> None:
    with closing(Events(quiet=2.0, cap=LONG)) as events:
        events.watch(str(folder))
        (folder / "a").write_text("a")
        until_sorted(events, "_whole", folder / "a")
        clock.now = 1.5
        (folder / "b").write_text("b")
        until_sorted(events, "_whole", folder / "a", folder / "b")
        clock.now = 3.25
        assert not events.changes(0.01), "there were not yet two seconds of quiet after the last of them"
        clock.now = 3.5
        assert events.changes(LONG) == Changes(frozenset(map(str, (folder / "a", folder / "b")))), "one set, not two"


def test_a_steady_stream_is_not_put_off_for_ever(folder: Path, clock: SimpleNamespace) -> None:
    with closing(Events(quiet=LONG, cap=4.0)) as events, Stream(folder):
        events.watch(str(folder))
        wait_for(lambda: not events.changes(0.01) and len(events._whole.paths) > 1)
        clock.now = 3.75
        assert not events.changes(0.01)
        clock.now = 4.0
        assert len(events.changes(LONG).whole) > 1


class Stream:
    """A thread that writes a file every few milliseconds, until it is left."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._stop = folder, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(0.01):
            (self._folder / f"{number}.png").write_text("a")
            number += 1

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()


def test_what_is_gone_waits_longer_so_that_a_folder_being_emptied_shows(folder: Path, clock: SimpleNamespace) -> None:
    (folder / "old").write_text("old")
    with closing(Events(quiet=1.0, cap=LONG)) as events:
        events.watch(str(folder))
        (folder / "old").unlink()
        (folder / "new").write_text("new")
        until_sorted(events, "_gone", folder / "old")
        until_sorted(events, "_whole", folder / "new")
        clock.now = 1.0
        assert events.changes(LONG) == Changes(whole=frozenset([str(folder / "new")]))
        clock.now = 2.75
        assert not events.changes(0.01)
        assert events.pending()
        clock.now = 3.0
        assert events.changes(LONG) == Changes(gone=frozenset([str(folder / "old")]))
        assert not events.pending()


def test_nothing_is_told_of_the_database_itself(folder: Path, tmp_path: Path) -> None:
    (folder / "db" / "shards").mkdir(parents=True)
    (tmp_path / "link").symlink_to(folder)
    with closing(Events(quiet=QUIET, cap=CAP, skip=str(tmp_path / "link" / "db"))) as events:
        events.watch(str(folder))
        (folder / "db" / "catalog.sqlite-wal").write_text("")
        (folder / "db" / "shards" / "1.h5.tmp").write_text("")
        os.replace(folder / "db" / "shards" / "1.h5.tmp", folder / "db" / "shards" / "1.h5")
        (folder / "db" / "catalog.sqlite-wal").unlink()
        (folder / "dbase").write_text("its name only begins like that")
        assert heard(events, folder) == ({"dbase"}, set())
        assert not events.pending()


def test_paths_are_as_they_are_seen_from_the_folder_that_was_named(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(folder)
    name = os.fsdecode(b"no \xff text\n.png")
    with closing(Events(quiet=QUIET, cap=CAP)) as events:
        events.watch(str(link))
        (folder / name).write_text("")
        assert events.changes(LONG).whole == {str(link / name)}


def test_wake_ends_the_wait(events: Events) -> None:
    threading.Timer(0.05, events.wake).start()
    begun = time.monotonic()
    assert not events.changes(LONG)
    assert time.monotonic() - begun < LONG / 2


def test_a_queue_that_overflows_says_that_something_was_lost(folder: Path, events: Events) -> None:
    logging.getLogger("watchdog.observers.inotify_c").warning("Inotify queue overflowed; filesystem events were lost")
    assert events.changes(0.01).lost
    assert not events.changes(0.01).lost


def test_a_real_overflow_is_noticed(tmp_path: Path) -> None:
    """The system's queue holds a few events only, in a user namespace of our own, and the reader is held up."""
    script = """
import os, sys, threading
from catdb.watch.changes import Events
from watchdog.observers.inotify_c import InotifyFD
held, real = threading.Event(), InotifyFD.read_events
def slow(self, **options):
    held.wait()
    return real(self, **options)
InotifyFD.read_events = slow
events = Events(quiet=0.1, cap=1)
events.watch(sys.argv[1])
limit = int(open("/proc/sys/fs/inotify/max_queued_events").read())
name = os.path.join(sys.argv[1], "a")
for _ in range(limit // 2 + 10):
    open(name, "w").close()
    os.unlink(name)
held.set()
while not events.changes(5).lost:
    pass
print("lost")
events.close()
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("lost\n", 0), done.stderr


def test_the_heart_beats_while_events_come_in(events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_PATIENCE", 0.0)
    for beat in range(1, 4):
        end = time.monotonic() + LONG
        while events._beat < beat:  # the one before it has not been heard yet
            assert time.monotonic() < end
            events.heartbeat()
    assert events.watched()


@pytest.mark.parametrize("victim", ["reader", "emitter of the beats", "dispatcher"])
def test_a_heart_that_stopped_is_noticed(victim: str, events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    assert events.heartbeat()
    wait_for(lambda: events._heard == 1)
    observer = events._observer
    assert observer is not None
    if victim == "reader":
        observer._inotify_fd.stop()  # type: ignore[attr-defined]
        observer._inotify_fd.join()  # type: ignore[attr-defined]
    elif victim == "dispatcher":
        observer.stop()
        observer.join()
    else:
        next(e for e in observer.emitters if e.watch not in events._watches.values()).stop()
    monkeypatch.setattr(room, "_PATIENCE", 0.2)
    wait_for(lambda: not events.heartbeat())


def test_an_emitter_that_died_no_longer_counts(folder: Path, events: Events) -> None:
    assert events.watched() == {str(folder)}
    assert events._observer is not None
    emitter = next(e for e in events._observer.emitters if e.watch in events._watches.values())
    emitter.stop()
    emitter.join()
    assert events.watched() == set()
    events.unwatch(str(folder))
    events.watch(str(folder))  # as the follower does then
    (folder / "a").write_text("")
    assert heard(events, folder) == ({"a"}, set())


def test_a_full_disk_is_no_stopped_heart(events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*words: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(room, "open", full, raising=False)
    assert events.heartbeat()
    assert events.heartbeat()


def test_a_pulse_that_was_swept_away_is_a_stopped_heart(events: Events) -> None:
    assert events._pulse is not None
    shutil.rmtree(events._pulse.name)
    assert not events.heartbeat()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_handler_only_enqueues(events: Events, folder: Path) -> None:
    """An exception in a handler would end watchdog's thread in silence; so it must not even look at what it gets."""
    handlers = [handler for known in events._observer._handlers.values() for handler in known]  # type: ignore[union-attr]
    enqueue = next(handler for handler in handlers if isinstance(handler, room._Enqueue))
    enqueue.on_any_event(object())  # type: ignore[arg-type]
    assert events._queue.qsize() == 1
    events._queue.get()


@pytest.mark.parametrize("limit", ["max_inotify_watches=3", "max_inotify_instances=0", "max_inotify_watches=0"])
def test_a_system_that_is_out_of_watches_says_so(limit: str, tmp_path: Path) -> None:
    """watchdog passes over a folder for which there is no watch left in silence."""
    for number in range(5):
        (tmp_path / "watched" / str(number)).mkdir(parents=True)
    script = """
import errno, sys, threading
from catdb.watch.changes import Events
events = Events()
try:
    events.watch(sys.argv[1])
except OSError as error:
    print(errno.errorcode[error.errno], sorted(events.watched()), events.heartbeat(), events.heartbeat())
events.close()
print(threading.active_count())
"""
    command = in_a_namespace(limit, script, tmp_path / "watched")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    expected = "EMFILE" if "instances" in limit else "ENOSPC"
    assert (done.stdout, done.stderr) == (f"{expected} [] True True\n1\n", "")


def in_a_namespace(limit: str, script: str, *words: str | Path) -> list[str]:
    """Return the command that runs a script where the system has few watches; skip where there is no such place."""
    name, _, value = limit.partition("=")
    command = f'echo {value} > /proc/sys/user/{name} && exec "$0" -c "$@"'
    try:
        trial = subprocess.run(["unshare", "-Ur", "sh", "-c", f"echo 9 > /proc/sys/user/{name}"], capture_output=True)
    except FileNotFoundError:
        trial = None
    if trial is None or trial.returncode:
        reason = "a user namespace with limits of its own cannot be made here"
        if os.environ.get("CATDB_NO_SKIP"):
            pytest.fail(f"{reason}, and this test must not be skipped here")
        pytest.skip(reason)
    return ["unshare", "-Ur", "sh", "-c", command, sys.executable, script, *map(str, words)]


def test_nothing_is_left_running(folder: Path) -> None:
    threads, descriptors = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        events = Events()
        events.watch(str(folder))
        pulse = events._pulse
        events.close()
        assert pulse is not None and not os.path.exists(pulse.name)
    assert set(threading.enumerate()) <= threads
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert not any(isinstance(handler, room._Lost) for handler in logging.getLogger("watchdog").handlers)
