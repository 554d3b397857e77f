"""Tests of ``Database.watch``: real folders and real events, an embedder without a network, and no fixed waits."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np
import pytest
from conftest import Instant, child, save, unprivileged
from numpy.typing import NDArray
from test_changes import in_a_namespace

import catdb.watch
from catdb import Database, DatabaseBusy, DatabaseNotFound, PathNotFound, StorageError
from catdb.backbones import Embedding
from catdb.watch import Event, Manner, Notice, Watch, changes, follow

Open = Callable[..., Database]
TESTS = str(Path(__file__).parent)
LONG = 120.0  # seconds until what must come is given up


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds, so that it costs nothing, takes a part of one here."""
    monkeypatch.setattr(follow, "_LOOK", 0.3)
    monkeypatch.setattr(follow, "_SETTLE", 0.5)
    monkeypatch.setattr(follow, "_AGAIN", 0.3)
    monkeypatch.setattr(follow, "_SHARE", 1)
    monkeypatch.setattr(catdb.watch, "Manner", partial(Manner, every=0.3, quiet=0.1, cap=1.0))
    monkeypatch.setattr(changes, "_PATIENCE", LONG)  # a beat that is late, on a busy machine, is no end of events


@pytest.fixture
def photos(photos: Path) -> Path:
    """The twelve pictures, of which nobody can think that they are still being written."""
    for path in photos.rglob("*.png"):
        aged(path)
    return photos


@pytest.fixture(params=[False, True], ids=["events", "poll"])
def poll(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


class Told:
    """What is announced. Each change must be found by a search at the moment at which it is told."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.notices: SimpleQueue[Notice] = SimpleQueue()

    def __call__(self, notice: Notice) -> None:
        event = notice.event
        if event.kind in ("added", "changed", "moved"):
            assert event.path in self.database
            if os.path.exists(event.path) and not event.path.endswith("camera.png"):  # which is another one already
                assert event.path in [match.path for match in self.database.search(event.path, k=20)], event
        elif event.kind == "removed":
            assert event.path not in self.database
        else:
            assert (event.path, event.reason) in [(f.path, f.reason) for f in self.database.failures()]
        self.notices.put(notice)

    def next(self) -> Event:
        try:
            return self.notices.get(timeout=LONG).event
        except Empty:
            raise AssertionError("nothing more was announced") from None

    def all(self) -> list[Event]:
        """Return what was announced since the last call, in the order of kinds and paths."""
        found = []
        while self.notices.qsize():
            found.append(self.notices.get().event)
        return sorted(found, key=lambda event: (event.kind, event.path))


class Scene:
    """A database that watches folders."""

    def __init__(self, database: Database, told: Told, lines: list[str]) -> None:
        self.database, self.told, self.lines = database, told, lines
        self.watch: Watch | None = None

    def settled(self) -> list[Event]:
        """Wait until the database is in step; return what was announced since the last time."""
        assert self.watch is not None
        self.watch.wait_idle(LONG)
        return self.told.all()

    def images(self) -> list[str]:
        return sorted(self.database)

    def until_said(self, words: str) -> str:
        return wait_for(lambda: next((line for line in self.lines if words in line), ""))

    def said(self, words: str) -> int:
        return sum(words in line for line in self.lines)


@pytest.fixture
def scene(open_db: Open, instant: Instant) -> Callable[..., Scene]:
    def make(name: str = "db", embedder: Instant | None = None) -> Scene:
        lines: list[str] = []
        database = open_db(name, backbone=embedder or instant, notice=lines.append)
        return Scene(database, Told(database), lines)

    return make


@contextmanager
def watching(scene: Scene, *folders: Path, idle: bool = True, **options: object) -> Iterator[Scene]:
    """Watch folders, and begin when the database is in step with them."""
    threads = set(threading.enumerate())
    with scene.database.watch(*folders, announce=scene.told, **options) as scene.watch:  # type: ignore[arg-type]
        if idle:
            scene.settled()
        yield scene
    left = {thread for thread in threading.enumerate() if thread not in threads and not thread.daemon}
    assert not left


def wait_for(condition: Callable[[], object]) -> object:
    """Wait for what nothing tells of."""
    end = time.monotonic() + LONG
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)
    return found


def aged(path: Path) -> Path:
    """Make a file old enough not to be taken for one that is still being written."""
    os.utime(path, (1e9 + path.stat().st_size, 1e9))
    return path


def events(*found: tuple[str, Path] | tuple[str, Path, Path]) -> list[Event]:
    return [Event(kind, str(path), str(rest[0]) if rest else None) for kind, path, *rest in sorted(found)]


def many(folder: Path, number: int) -> Path:
    for seed in range(number):
        aged(save(folder / f"{seed:03}.png", 1000 + seed))
    return folder


# --- what can happen to a file --------------------------------------------------------------------------------------


def test_everything_that_happens_to_files_is_followed(
    poll: bool, photos: Path, scene: Callable[..., Scene], instant: Instant
) -> None:
    with watching(scene(), photos, poll=poll, idle=False) as s:
        assert len(s.settled()) == 12 == instant.passes
        new = save(photos / "new.png", 100)
        assert s.settled() == events(("added", new))
        save(photos / "3.png", 101)
        assert s.settled() == events(("changed", photos / "3.png"))
        save(photos / "4.png.part", 102).replace(photos / "4.png")  # as editors save, and browsers download
        assert s.settled() == events(("changed", photos / "4.png"))
        assert instant.passes == 15
        new.rename(photos / "below" / "renamed.png")
        assert s.settled() == events(("moved", photos / "below" / "renamed.png", new))
        aged(photos / "5.png")
        os.utime(photos / "5.png")
        assert s.settled() == []
        shutil.copyfile(photos / "6.png", photos / "copy.png")
        assert s.settled() == events(("added", photos / "copy.png"))
        os.link(photos / "7.png", photos / "hard.png")
        os.symlink(photos / "8.png", photos / "soft.png")
        assert s.settled() == events(("added", photos / "hard.png"), ("added", photos / "soft.png"))
        (photos / "9.png").unlink()
        assert s.settled() == events(("removed", photos / "9.png"))
        assert instant.passes == 15, "whatever was moved, touched or copied cost a hash and no pass"
        assert s.images() == sorted(map(str, photos.rglob("*.png")))


def test_a_link_back_into_the_folder_brings_no_second_path(photos: Path, scene: Callable[..., Scene]) -> None:
    with watching(scene(), photos) as s:
        (photos / "up").symlink_to(photos)
        for seed in (100, 101, 102):  # by the last one the link has been looked at
            new = save(photos / f"{seed}.png", seed)
            assert s.told.next() == Event("added", str(new))
        assert s.settled() == []
        assert len(s.images()) == 15


def test_it_is_events_that_tell_and_nobody_has_to_ask(photos: Path, scene: Callable[..., Scene]) -> None:
    with watching(scene(), photos) as s:
        path = save(photos / "new.png", 100)
        assert s.told.next() == Event("added", str(path))
        save(path, 101)
        assert s.told.next() == Event("changed", str(path))
        path.rename(photos / "on.png")
        assert s.told.next() == Event("moved", str(photos / "on.png"), str(path))
        (photos / "on.png").unlink()
        assert s.told.next() == Event("removed", str(photos / "on.png"))
        os.link(photos / "1.png", photos / "hard.png")
        os.symlink(photos / "2.png", photos / "soft.png")
        assert {s.told.next().path, s.told.next().path} == {str(photos / "hard.png"), str(photos / "soft.png")}


def test_polling_tells_without_being_asked(photos: Path, scene: Callable[..., Scene]) -> None:
    with watching(scene(), photos, poll=True) as s:
        path = save(photos / "new.png", 100)
        assert s.told.next() == Event("added", str(path))
        path.unlink()
        assert s.told.next() == Event("removed", str(path))


def test_a_move_between_two_watched_folders(
    poll: bool, tmp_path: Path, scene: Callable[..., Scene], instant: Instant
) -> None:
    one, two = save(tmp_path / "one" / "a.png", 1).parent, save(tmp_path / "two" / "b.png", 2).parent
    with watching(scene(), one, two, poll=poll) as s:
        (one / "a.png").rename(two / "a.png")
        assert s.told.next() == Event("moved", str(two / "a.png"), str(one / "a.png"))
        assert s.settled() == []
        (two / "b.png").rename(one / "b.png")
        assert s.settled() == events(("moved", one / "b.png", two / "b.png"))
        assert instant.passes == 2


def test_whole_trees_are_moved_copied_and_deleted(
    poll: bool, tmp_path: Path, scene: Callable[..., Scene], instant: Instant
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for number in range(4):
        aged(save(one / "tree" / str(number % 2) / f"{number}.png", number))
    aged(save(two / "other.png", 9))
    inside = [f"{number % 2}/{number}.png" for number in range(4)]
    with watching(scene(), one, two, poll=poll) as s:
        (one / "tree").rename(one / "on")
        assert s.settled() == events(*(("moved", one / "on" / name, one / "tree" / name) for name in inside))
        (one / "on").rename(two / "over")
        assert s.settled() == events(*(("moved", two / "over" / name, one / "on" / name) for name in inside))
        shutil.copytree(two / "over", one / "copy")
        assert s.settled() == events(*(("added", one / "copy" / name) for name in inside))
        shutil.rmtree(one / "copy")
        assert s.settled() == events(*(("removed", one / "copy" / name) for name in inside))
        (two / "over").rename(tmp_path / "out")
        assert s.settled() == events(*(("removed", two / "over" / name) for name in inside))
        assert instant.passes == 5
        (tmp_path / "out").rename(one / "back")
        assert s.settled() == events(*(("added", one / "back" / name) for name in inside))
        assert instant.passes == 9  # for they had been forgotten


def test_events_alone_follow_a_tree(tmp_path: Path, scene: Callable[..., Scene], instant: Instant) -> None:
    one, two = save(tmp_path / "one" / "tree" / "deep" / "a.png", 1).parents[2], tmp_path / "two"
    two.mkdir()
    with watching(scene(), one, two) as s:
        (one / "tree").rename(one / "on")
        assert s.told.next() == Event("moved", str(one / "on/deep/a.png"), str(one / "tree/deep/a.png"))
        (one / "on").rename(two / "over")
        assert s.told.next() == Event("moved", str(two / "over/deep/a.png"), str(one / "on/deep/a.png"))
        shutil.copytree(two / "over", two / "copy")
        assert s.told.next() == Event("added", str(two / "copy/deep/a.png"))
        shutil.rmtree(two / "over")
        assert s.told.next() == Event("removed", str(two / "over/deep/a.png"))
        assert instant.passes == 1


def test_what_was_in_a_folder_is_gone_though_another_takes_its_place(
    photos: Path, tmp_path: Path, scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other holds a file that has not settled, so that what is gone waits for it; until the rescan it stayed."""
    monkeypatch.setattr(follow, "_SETTLE", 3.0)
    with watching(scene(), photos) as s:
        new = save(tmp_path / "other" / "new.png", 77).parent
        (photos / "below").rename(tmp_path / "away")
        new.rename(photos / "below")
        kept = [str(photos / f"{seed}.png") for seed in range(10)]
        wait_for(lambda: s.images() == sorted([*kept, str(photos / "below" / "new.png")]))


def test_a_file_that_is_written_slowly_is_added_once(
    poll: bool, photos: Path, scene: Callable[..., Scene], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = save(tmp_path / "whole.png", 100).read_bytes()
    size, pace, real = len(content) // 30 + 1, threading.Event(), time.time
    with watching(scene(), photos, poll=poll) as s:
        begun, slow = time.monotonic(), photos / "slow.png"
        with open(slow, "wb", buffering=0) as file, monkeypatch.context() as patch:
            # However slow the machine is: between two writes it never becomes so late that the file has settled.
            patch.setattr(time, "time", lambda: min(real(), slow.stat().st_mtime + 0.8 * follow._SETTLE))
            for start in range(0, len(content), size):
                file.write(content[start : start + size])
                pace.wait(0.1)
            assert time.monotonic() - begun > 4 * follow._SETTLE
        assert s.told.next() == Event("added", str(slow))
        assert s.settled() == []


def test_events_know_a_file_that_is_written_with_long_pauses(
    photos: Path, scene: Callable[..., Scene], tmp_path: Path
) -> None:
    content = save(tmp_path / "whole.png", 100).read_bytes()
    with watching(scene(), photos) as s:
        with open(photos / "slow.png", "wb", buffering=0) as file:
            file.write(content[:100])
            os.utime(photos / "slow.png", (1e9, 1e9))  # nothing was written for ages
            for number in range(3):
                other = save(photos / f"other{number}.png", 200 + number)
                assert s.told.next() == Event("added", str(other))
            file.write(content[100:])
        assert s.told.next() == Event("added", str(photos / "slow.png"))
        assert s.settled() == []


def test_the_same_content_under_two_paths(
    poll: bool, photos: Path, scene: Callable[..., Scene], instant: Instant
) -> None:
    with watching(scene(), photos, poll=poll) as s:
        one, two = save(photos / "one.png", 100), save(photos / "two.png", 100)
        assert s.settled() == events(("added", one), ("added", two))
        assert instant.passes == 13
        one.unlink()
        assert s.settled() == events(("removed", one))
        assert s.database.search(two, k=1)[0].path == str(two)
        two.rename(one)
        assert s.settled() == events(("moved", one, two))
        assert instant.passes == 13


def test_a_bad_file_is_told_of_once_and_again_when_it_changes(
    poll: bool, photos: Path, scene: Callable[..., Scene]
) -> None:
    with watching(scene(), photos, poll=poll) as s:
        (photos / "bad.png").write_text("no image")
        assert s.settled() == [Event("failed", str(photos / "bad.png"), reason="not an image")]
        os.symlink("nowhere", photos / "broken.png")  # it may come back, so each look tries it
        [event] = s.settled()
        assert (event.kind, event.path) == ("failed", str(photos / "broken.png"))
        assert s.settled() == s.settled() == []
        save(photos / "bad.png", 100)
        assert s.settled() == events(("added", photos / "bad.png"))
        (photos / "broken.png").unlink()
        (photos / "bad.png").write_text("once more")
        assert [(event.kind, event.reason) for event in s.settled()] == [("failed", "not an image")]


def test_a_new_image_is_told_with_what_it_resembles(photos: Path, scene: Callable[..., Scene]) -> None:
    with watching(scene(), photos, alert=0.999) as s:
        save(photos / "again.png", 3)
        notice = s.told.notices.get(timeout=LONG)
        assert notice.event == Event("added", str(photos / "again.png"))
        [(path, similarity)] = notice.resembles
        assert path == str(photos / "3.png") and similarity == pytest.approx(1, abs=1e-3)
        save(photos / "new.png", 100)
        assert s.told.notices.get(timeout=LONG).resembles == ()


# --- what is left out -----------------------------------------------------------------------------------------------


def test_what_a_build_leaves_out_is_left_out(poll: bool, photos: Path, scene: Callable[..., Scene]) -> None:
    with watching(scene(), photos, poll=poll, exclude=["screenshots", "*-draft.png"]) as s:
        for name in (
            *("a.png.part", "b.png.tmp", "c.png.crdownload", "d.png~", "._e.png", ".DS_Store", "Thumbs.db"),
            *("@eaDir/f.png", ".git/g.png", "screenshots/h.png", "below/screenshots/i.png", "j-draft.png"),
        ):
            save(photos / name, 100)
        (photos / "notes.txt").write_text("no image, and not called one")
        assert s.settled() == []
        save(photos / "unnamed", 100)  # content decides
        assert s.settled() == events(("added", photos / "unnamed"))
        (photos / "a.png.part").rename(photos / "a.png")
        assert s.settled() == events(("added", photos / "a.png"))
        s.database.build(photos, include=["screenshots"])  # remembered, and heeded beside the watcher
        save(photos / "screenshots" / "k.png", 101)
        assert s.settled() == events(("added", photos / "screenshots" / "k.png"))


def test_a_database_in_the_folder_that_it_watches(photos: Path, scene: Callable[..., Scene]) -> None:
    with watching(scene("photos/db"), photos) as s:
        save(photos / "new.png", 100)
        assert s.settled() == events(("added", photos / "new.png"))
        for number in range(5):
            s.database.compact()
            save(photos / "new.png", 200 + number)
            assert s.told.next() == Event("changed", str(photos / "new.png"))
        assert s.settled() == []
        assert len(s.images()) == 13 and s.database.failures() == []


# --- while others are at it -----------------------------------------------------------------------------------------


class Held(Instant):
    """An embedder that says when it begins, and waits until it may go on."""

    batch = 4
    requests = 1

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.holding = True

    def embed(self, pixels: NDArray[np.uint8]) -> Embedding:
        if self.holding:
            self.begun.release()
            assert self.go.acquire(timeout=LONG)
        return super().embed(pixels)


def test_a_file_that_is_deleted_while_it_is_embedded(photos: Path, scene: Callable[..., Scene]) -> None:
    held = Held()
    held.holding = False
    with watching(scene(embedder=held), photos) as s:
        held.holding = True
        path = save(photos / "brief.png", 100)
        assert held.begun.acquire(timeout=LONG)
        path.unlink()
        held.holding = False
        held.go.release()
        kinds = [event.kind for event in s.settled() if event.path == str(path)]
        assert kinds in ([], ["added", "removed"])
        assert path not in s.database and s.database.failures() == []


def test_leaving_while_the_first_build_runs_commits_what_was_embedded(
    photos: Path, scene: Callable[..., Scene]
) -> None:
    held = Held()
    s = scene(embedder=held)
    many(photos, 200)
    with watching(s, photos, idle=False):
        assert held.begun.acquire(timeout=LONG)
        assert s.watch is not None
        s.watch.stop()
        held.holding = False
        held.go.release(100)
    assert 0 < held.passes < 150
    assert len(s.database) == held.passes == len(s.told.all())
    before = held.passes
    with watching(s, photos):
        assert held.passes == 212 and before + len(s.database) > 212


def test_an_interrupt_in_the_block_ends_it(photos: Path, scene: Callable[..., Scene]) -> None:
    with pytest.raises(KeyboardInterrupt), watching(scene(), photos) as s:
        save(photos / "new.png", 100)
        raise KeyboardInterrupt
    with s.database.watch(photos) as watch:  # and the lock is free
        watch.wait_idle(LONG)
    assert len(s.database) == 13


def test_a_removed_path_stays_out(poll: bool, photos: Path, scene: Callable[..., Scene]) -> None:
    with watching(scene(), photos, poll=poll) as s:
        assert s.database.remove([photos / "below", photos / "3.png"]) == 3
        save(photos / "below" / "new.png", 100)
        save(photos / "3.png", 101)
        save(photos / "seen.png", 102)
        assert s.settled() == events(("added", photos / "seen.png"))
        assert len(s.images()) == 10
        s.database.add(photos / "below")
        assert len(s.images()) == 13
        save(photos / "below" / "more.png", 103)
        assert Event("added", str(photos / "below" / "more.png")) in s.settled()


def test_a_folder_that_is_built_beside_it_is_followed_too(
    poll: bool, photos: Path, tmp_path: Path, scene: Callable[..., Scene]
) -> None:
    s = scene()
    s.database.build(photos)
    other = save(tmp_path / "other" / "a.png", 50).parent
    with watching(s, poll=poll):
        s.database.build(other)
        new = save(other / "new.png", 51)
        assert s.told.next() == Event("added", str(new))
        s.database.remove(other)
        save(other / "more.png", 52)
        save(photos / "seen.png", 53)
        assert s.told.next() == Event("added", str(photos / "seen.png"))
        assert s.settled() == []


def test_single_files_that_were_named_are_kept_in_step(photos: Path, scene: Callable[..., Scene]) -> None:
    s = scene()
    s.database.add(photos / "3.png")
    with watching(s):
        save(photos / "3.png", 100)
        save(photos / "4.png", 101)
        assert s.told.next() == Event("changed", str(photos / "3.png"))
        (photos / "3.png").unlink()
        assert s.told.next() == Event("removed", str(photos / "3.png"))
        assert s.images() == []


def test_one_process_watches_at_a_time(photos: Path, scene: Callable[..., Scene], open_db: Open) -> None:
    with watching(scene(), photos) as s:
        other = open_db(backbone=Instant())
        refused = other.watch(photos, exclude=["*.png"], include=["*.jpg"])
        with pytest.raises(DatabaseBusy, match=rf"\(process {os.getpid()} on .*is watching"), refused:
            pass
        with pytest.raises(DatabaseBusy):
            refused.run()
        assert other.info().excludes == ()
        assert str(os.getpid()) in (other.info().watcher or "")
    assert other.info().watcher is None
    with other.watch(photos, exclude=["9.png"]) as watch:
        watch.wait_idle(LONG)
        assert (len(other), other.info().excludes) == (11, ("9.png",))
    assert s.lines == []


# --- folders that go away -------------------------------------------------------------------------------------------


def online(database: Database, folder: Path) -> bool:
    return next(root.online for root in database.info().roots if root.path == str(folder))


@pytest.mark.parametrize("how", ["renamed", "deleted"])
def test_a_folder_that_goes_away_keeps_its_images(
    how: str, poll: bool, photos: Path, tmp_path: Path, scene: Callable[..., Scene], instant: Instant
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(photos, copy)
    with watching(scene(), photos, poll=poll) as s:
        photos.rename(tmp_path / "gone") if how == "renamed" else shutil.rmtree(photos)
        if how == "deleted":
            # Twelve images may well have been deleted by hand, if the folder itself is seen a moment longer than they.
            s.settled()
        s.until_said("is away") if len(s.database) else None
        assert len(s.database) in ((12,) if how == "renamed" else (0, 12))
        assert not online(s.database, photos)
        if how == "renamed":
            assert s.database.search(tmp_path / "gone" / "3.png", k=1)[0].path == str(photos / "3.png")
            assert s.settled() == s.settled() == []
            assert s.said("is away: its 12 missing images are kept") == 1
            (tmp_path / "gone").rename(photos)
            s.until_said("is back")
            assert s.settled() == [] and instant.passes == 12 and online(s.database, photos)
        else:
            copy.rename(photos)
            s.settled()
            assert len(s.database) == 12
        new = save(photos / "new.png", 100)
        assert s.told.next() == Event("added", str(new))


def test_a_folder_that_is_emptied_keeps_its_images(
    poll: bool, tmp_path: Path, scene: Callable[..., Scene], instant: Instant
) -> None:
    photos = many(tmp_path / "photos", 60)
    shutil.copytree(photos, tmp_path / "copy")
    with watching(scene(), photos, poll=poll) as s:
        for path in photos.iterdir():
            path.unlink()
        s.until_said("is away: its 60 missing images are kept and can be searched still; catdb build --prune drops")
        assert s.settled() == [] and len(s.database) == 60 and not online(s.database, photos)
        new = save(photos / "new.png", 1)
        assert s.settled() == events(("added", new))
        assert s.settled() == [] and len(s.database) == 61
        assert s.said("is away") == 1
        for path in (tmp_path / "copy").iterdir():
            path.rename(photos / path.name)
        s.until_said("is back")
        assert s.settled() == [] and instant.passes == 61 and online(s.database, photos)
        for number in range(40):
            (photos / f"{number:03}.png").unlink()
        wait_for(lambda: s.said("is away: its 40 missing images are kept") == 1)
        assert s.database.build(prune=True).removed == 40
        assert len(s.database) == 21
        s.settled()
        assert s.said("is back") == 2
        (photos / "050.png").unlink()
        assert s.settled() == events(("removed", photos / "050.png"))


def test_a_folder_inside_a_root_may_go_and_come(poll: bool, photos: Path, scene: Callable[..., Scene]) -> None:
    s = scene()
    s.database.build(photos)
    with watching(s, photos / "below", poll=poll):
        shutil.rmtree(photos / "below")
        assert s.settled() == events(*(("removed", photos / "below" / f"{n}.png") for n in (10, 11)))
        assert s.settled() == []
        new = save(photos / "below" / "new.png", 100)
        assert s.told.next() == Event("added", str(new))
        assert s.settled() == []
        save(photos / "unseen.png", 101)
        assert s.settled() == []


def test_a_folder_inside_a_root_that_is_emptied_is_told_of(tmp_path: Path, scene: Callable[..., Scene]) -> None:
    photos = many(tmp_path / "photos" / "most", 60).parent
    s = scene()
    s.database.build(photos)
    with watching(s, photos / "most"):
        shutil.rmtree(photos / "most")
        s.until_said(f"{photos} is away: its 60 missing images are kept")
        assert s.settled() == [] and len(s.database) == 60


def test_a_folder_of_another_name_in_its_place(photos: Path, tmp_path: Path, scene: Callable[..., Scene]) -> None:
    with watching(scene(), photos) as s:
        photos.rename(tmp_path / "gone")
        save(photos / "new.png", 100)
        assert s.told.next().path == str(photos / "new.png")
        new = save(photos / "heard.png", 101)
        assert str(new) in [s.told.next().path for _ in range(13)]


ALONE = f"""
import sys, os
sys.path.insert(0, {TESTS!r})
from conftest import Instant
from catdb import Database
from catdb.watch import follow
follow._LOOK = 0.2
embedder = Instant()
lines = []
def say(*words):
    print(*words, flush=True)
"""


@pytest.mark.skipif(os.getuid() == 0 and sys.platform != "linux", reason="root can read everything here")
def test_a_folder_that_is_closed_keeps_its_images(poll: bool, photos: Path, tmp_path: Path) -> None:
    script = f"""{ALONE}
with Database(sys.argv[1], backbone=embedder, notice=say) as db:
    with db.watch(sys.argv[2], poll={poll}) as watch:
        watch.wait_idle(120)
        say("ready")
        for line in sys.stdin:
            watch.wait_idle(120)
            say(len(db), embedder.passes, [root.online for root in db.info().roots])
"""
    command = [sys.executable, "-c", script, str(tmp_path / "db"), str(photos)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, preexec_fn=unprivileged) as process:
        assert process.stdin and process.stdout
        try:
            read = process.stdout.readline
            assert read() == "ready\n"
            photos.chmod(0)
            assert "is away: its 12 missing images are kept" in read()
            print("say", file=process.stdin, flush=True)
            assert read() == "12 12 [False]\n"
            photos.chmod(0o755)
            assert read() == f"{photos} is back\n"
            print("say", file=process.stdin, flush=True)
            assert read() == "12 12 [True]\n"
            process.stdin.close()
            assert process.wait(LONG) == 0
        finally:
            photos.chmod(0o755)
            process.kill()


def mounted(kind: str, source: Path, folder: Path) -> None:
    options = ["--bind", str(source)] if kind == "bind" else ["-t", "tmpfs", "catdb-test"]
    try:
        done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True)
        trouble = done.stderr.strip() if done.returncode else ""
    except FileNotFoundError:
        trouble = "there is no mount here"
    if trouble:
        if os.environ.get("CATDB_NO_SKIP"):
            pytest.fail(f"nothing can be mounted: {trouble}, and this test must not be skipped here")
        pytest.skip(f"nothing can be mounted: {trouble}")


def unmount(folder: Path) -> bool:
    return subprocess.run(["umount", str(folder)], capture_output=True).returncode == 0


@pytest.mark.parametrize("number", [12, 60])
def test_a_disk_that_is_unmounted_and_mounted_again(
    number: int, poll: bool, tmp_path: Path, scene: Callable[..., Scene], instant: Instant
) -> None:
    """A tmpfs that stays mounted in a second place, so that its files outlive the first."""
    disk, folder = tmp_path / "disk", tmp_path / "photos"
    disk.mkdir()
    folder.mkdir()
    mounted("tmpfs", disk, disk)
    try:
        many(disk, number)
        mounted("bind", disk, folder)
        with watching(scene(), folder, poll=poll) as s:
            wait_for(lambda: unmount(folder))  # it may be busy for a moment
            s.until_said(f"{folder} is away: its {number} missing images are kept")
            assert s.settled() == [] and len(s.database) == number and not online(s.database, folder)
            assert s.database.search(disk / "003.png", k=1)[0].path == str(folder / "003.png")
            mounted("bind", disk, folder)
            s.until_said(f"{folder} is back")
            assert s.settled() == [] and instant.passes == number and online(s.database, folder)
            new = save(folder / "new.png", 1)
            assert s.told.next() == Event("added", str(new))
    finally:
        unmount(folder)
        wait_for(lambda: unmount(disk))


def test_a_root_on_another_device_than_before(
    photos: Path, tmp_path: Path, scene: Callable[..., Scene], instant: Instant
) -> None:
    """As when another disk is mounted in its place, with some of the files."""
    s = scene()
    s.database.build(photos)
    with s.database._store.writing() as catalog, catalog.transaction():
        [root] = catalog.roots()
        catalog.mark_root(root.id, offline=False, device=root.device + 1 if root.device else 1)
    (photos / "3.png").unlink()
    with watching(s, photos):
        assert s.said("is away: its 1 missing image is kept and can be searched still") == 1
        assert len(s.database) == 12 == instant.passes


# --- without events -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            errno.ENOSPC,
            "the system's watches are used up: it is looked through every 0.3 s instead; for more of them: ",
        ),
        (errno.EMFILE, "the system's or this process's event queues are used up: it is looked through every 0.3 s"),
    ],
)
def test_a_system_without_watches_is_polled(
    error: int, words: str, photos: Path, scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: object, *words: object) -> None:
        raise OSError(error, "used up")

    monkeypatch.setattr("watchdog.observers.inotify_c.InotifyFD._get_or_create_watch", refuse)
    with watching(scene(), photos) as s:
        new = save(photos / "new.png", 100)
        assert s.told.next() == Event("added", str(new))
        s.settled()
        assert [line for line in s.lines if words in line] == s.lines and len(s.lines) == 1
        assert "sysctl fs.inotify.max_user_" in s.lines[0]


def test_a_system_that_runs_out_of_watches_later_is_polled(
    photos: Path, scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    """watchdog passes over a new folder for which there is no watch left, and says nothing."""
    monkeypatch.setattr(changes, "_PATIENCE", 0.5)
    with watching(scene(), photos) as s:

        def refuse(self: object, *words: object) -> None:
            raise OSError(errno.ENOSPC, "used up")

        monkeypatch.setattr("watchdog.observers.inotify_c.InotifyFD._get_or_create_watch", refuse)
        first = save(photos / "folder" / "first.png", 100)
        assert s.told.next() == Event("added", str(first))
        second = save(photos / "folder" / "second.png", 101)
        assert s.told.next() == Event("added", str(second))
        s.until_said("the system's watches are used up")


def test_a_system_with_few_watches_is_polled(photos: Path, tmp_path: Path) -> None:
    script = f"""{ALONE}
from catdb.watch import Manner
import catdb.watch, functools
catdb.watch.Manner = functools.partial(Manner, every=0.2)
with Database(sys.argv[1], backbone=embedder, notice=say) as db:
    with db.watch(sys.argv[2], announce=lambda notice: say(notice.event.path)) as watch:
        watch.wait_idle(120)
        sys.stdin.readline()
"""
    command = in_a_namespace("max_inotify_watches=1", script, tmp_path / "db", photos)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin and process.stdout
        try:
            line = process.stdout.readline()
            assert line.startswith(f"{photos}: the system's watches are used up: it is looked through every 0.2 s")
            assert line.endswith("for more of them: sysctl fs.inotify.max_user_watches=1048576\n")
            assert len({process.stdout.readline() for _ in range(12)}) == 12
            new = save(photos / "new.png", 100)
            assert process.stdout.readline() == f"{new}\n"
            process.stdin.close()
            assert process.wait(LONG) == 0
        finally:
            process.kill()


def test_a_network_file_system_is_polled(
    photos: Path, scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "filesystem", lambda path: "nfs4")
    with watching(scene(), photos) as s:
        new = save(photos / "new.png", 100)
        assert s.told.next() == Event("added", str(new))
        assert s.lines == [f"{photos}: there are no file events on nfs4: it is looked through every 0.3 s instead"]


# --- events that are lost -------------------------------------------------------------------------------------------


def test_lost_events_lead_to_a_rescan(
    photos: Path, scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    with watching(scene(), photos) as s:
        monkeypatch.setattr(changes._Enqueue, "on_any_event", lambda self, event: None)
        new = save(photos / "new.png", 100)
        changes.logging.getLogger("watchdog.observers").warning("Inotify queue overflowed")  # type: ignore[attr-defined]
        assert s.told.next() == Event("added", str(new))


def test_without_any_event_there_is_the_rescan(
    photos: Path, scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes._Enqueue, "on_any_event", lambda self, event: None)
    with watching(scene(), photos, rescan=0.5) as s:
        new = save(photos / "new.png", 100)
        assert s.told.next() == Event("added", str(new))


def test_events_that_stop_are_begun_anew(
    photos: Path, scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    with watching(scene(), photos) as s:
        assert s.watch is not None
        observer = s.watch._follower._events._observer
        observer._inotify_fd.stop()  # type: ignore[union-attr]
        close = changes.Events.close

        def patiently(self: changes.Events) -> None:
            """Close what came to its end, and wait long for whatever is begun then."""
            monkeypatch.setattr(changes, "_PATIENCE", LONG)
            close(self)

        monkeypatch.setattr(changes.Events, "close", patiently)
        monkeypatch.setattr(changes, "_PATIENCE", 1.0)
        new = save(photos / "new.png", 100)
        s.until_said("beginning to listen anew")
        assert s.told.next() == Event("added", str(new))  # by the rescan that a new beginning is
        assert s.said("beginning to listen anew") == 1
        assert s.watch._follower._events._observer is not observer
        new = save(photos / "heard.png", 101)
        assert s.told.next() == Event("added", str(new))


def test_a_burst_is_looked_through_rather_than_followed(
    photos: Path, scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "_MANY", 20)
    with watching(scene(), photos) as s:
        for number in range(100):
            save(photos / f"burst{number}.png", 100 + number)
        found = [s.told.next() for _ in range(100)]
        assert sorted(event.path for event in found) == sorted(map(str, photos.glob("burst*.png")))
        assert s.settled() == []


def test_what_is_deleted_is_not_put_off_for_ever(poll: bool, photos: Path, scene: Callable[..., Scene]) -> None:
    """A camera that writes its picture again and again, so that there is always something that has not settled."""
    stop, begun = threading.Event(), threading.Event()

    def camera() -> None:
        number = 0
        while not stop.wait(0.05):
            save(photos / "camera.png.part", number).replace(photos / "camera.png")
            begun.set()
            number += 1

    with watching(scene(), photos, poll=poll) as s:
        thread = threading.Thread(target=camera)
        thread.start()
        try:
            assert begun.wait(LONG)
            (photos / "3.png").unlink()
            end = time.monotonic() + LONG
            while s.told.next() != Event("removed", str(photos / "3.png")):
                assert time.monotonic() < end
        finally:
            stop.set()
            thread.join()


def test_wait_idle_ends_though_somebody_goes_on_writing(photos: Path, scene: Callable[..., Scene]) -> None:
    stop = threading.Event()

    def stream() -> None:
        number = 0
        while not stop.wait(0.02):
            save(photos / f"stream{number % 20}.png", number)
            number += 1

    s = scene()
    with s.database.watch(photos) as watch:
        thread = threading.Thread(target=stream)
        thread.start()
        try:
            for number in range(3):
                path = save(photos / f"mine{number}.png", 5000 + number)
                watch.wait_idle(LONG)
                assert path in s.database
        finally:
            stop.set()
            thread.join()
        watch.wait_idle(LONG)
        assert s.images() == sorted(map(str, photos.rglob("*.png")))


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_a_database_that_is_deleted_ends_it(photos: Path, scene: Callable[..., Scene]) -> None:
    s = scene()
    with pytest.raises(DatabaseNotFound, match="the database is there no more"), watching(s, photos):
        s.database.close()
        shutil.rmtree(s.database.path)
        assert s.watch is not None
        s.watch.wait_idle(LONG)
    with pytest.raises(RuntimeError, match="ended"):
        s.watch.wait_idle(LONG)


def test_a_database_that_is_deleted_is_told_at_the_end(photos: Path, scene: Callable[..., Scene]) -> None:
    s = scene()
    with pytest.raises(DatabaseNotFound), watching(s, photos):
        shutil.rmtree(s.database.path)
        wait_for(lambda: s.watch is not None and s.watch._follower.ended)


@pytest.mark.parametrize("error", [ValueError("mine"), BrokenPipeError("mine"), StorageError("mine")])
def test_an_error_in_announce_surfaces(error: Exception, photos: Path, scene: Callable[..., Scene]) -> None:
    def announce(notice: Notice) -> None:
        if notice.event.path.endswith("new.png"):
            raise error

    s = scene()
    with pytest.raises(type(error), match="mine"), s.database.watch(photos, announce=announce) as watch:
        watch.wait_idle(LONG)
        save(photos / "new.png", 100)
        watch.wait_idle(LONG)
    assert len(s.database) == 13  # it was committed before it was told
    assert not s.said("trying again")


def test_a_busy_writer_is_waited_for_and_told_of_once(
    photos: Path, tmp_path: Path, scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    s = scene()
    monkeypatch.setattr(s.database._store._connections.lock, "_wait", 0.1)
    writer = """
import sys
from catdb.store import Store
with Store(sys.argv[1]).writing():
    print("held", flush=True)
    sys.stdin.readline()
"""
    with watching(s, photos), child(writer, s.database.path) as other:
        assert other.stdin and other.stdout and other.stdout.readline() == "held\n"
        new = save(photos / "new.png", 100)
        s.until_said("trying again every 1 s")
        assert s.watch is not None
        with pytest.raises(TimeoutError, match=r"not in step with its folders after 1\.5 s"):
            s.watch.wait_idle(1.5)
        other.stdin.close()
        assert other.wait(LONG) == 0
        assert s.told.next() == Event("added", str(new))
        assert s.said("trying again") == 1 and f"process {other.pid}" in s.lines[0]


def test_a_full_disk_is_told_once_and_tried_again(
    photos: Path, tmp_path: Path, scene: Callable[..., Scene], instant: Instant
) -> None:
    disk = tmp_path / "db"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=2048k", "catdb-test"]
    done = subprocess.run(["mount", *options, str(disk)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    try:
        with watching(scene("db/db"), photos) as s:
            with (disk / "ballast").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
                while True:
                    file.write(bytes(4096))
            for number in range(40):
                save(photos / f"new{number}.png", 100 + number)
            s.until_said("trying again every 0.3 s")
            wait_for(lambda: s.watch is not None and s.watch._follower._not_before > time.monotonic())
            (disk / "ballast").unlink()
            s.settled()
            assert s.said("trying again") == 1
            assert len(s.database) == 52
        s.database.check()
        copy = tmp_path / "copy"
        s.database.backup(copy)
        s.database.close()
    finally:
        wait_for(lambda: unmount(disk))


def test_what_cannot_be_watched_is_refused_at_once(photos: Path, tmp_path: Path, scene: Callable[..., Scene]) -> None:
    s = scene()
    with pytest.raises(PathNotFound, match="no such file or folder"):
        s.database.watch(tmp_path / "nowhere")
    with pytest.raises(PathNotFound, match="not a folder; name the folder it is in"):
        s.database.watch(photos / "3.png")
    assert not os.path.exists(s.database.path)


def test_a_killed_watcher_leaves_nothing_that_stands_in_the_way(
    photos: Path, tmp_path: Path, scene: Callable[..., Scene]
) -> None:
    script = f"""{ALONE}
with Database(sys.argv[1], backbone=embedder) as db, db.watch(sys.argv[2]) as watch:
    watch.wait_idle(120)
    say("ready")
    sys.stdin.readline()
"""
    with child(script, tmp_path / "db", photos) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
        process.wait(LONG)
    save(photos / "new.png", 100)
    (photos / "3.png").unlink()
    with watching(scene(), photos, idle=False) as s:
        assert s.settled() == events(("added", photos / "new.png"), ("removed", photos / "3.png"))


def test_nothing_is_left_running(photos: Path, scene: Callable[..., Scene]) -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    s = scene()
    with watching(s, photos):
        pass
    threads, files = set(threading.enumerate()), open_files()
    for number in range(3):
        with watching(s, photos):
            save(photos / "new.png", 100 + number)
            s.settled()
    assert set(threading.enumerate()) <= threads
    assert open_files() <= files
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    assert children.read_text().split() == [] if children.exists() else True
