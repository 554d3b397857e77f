"""A moved disk costs one command and no network pass; and a folder that is not the one that moved changes nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Instant, save

from catdb import Database, DatabaseBusy, DatabaseReadOnly, PathNotFound, RelocationRefused
from catdb.catalog import Root
from catdb.relocate import Moved, relocate

Open = Callable[..., Database]


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A disk with two folders of pictures, and a third of which one file will be known."""
    for seed in range(30):
        save(tmp_path / "disk" / "one" / ("below" if seed % 3 else "") / f"{seed}.png", seed)
    for seed in range(30, 35):
        save(tmp_path / "disk" / "two" / f"{seed}.png", seed)
    save(tmp_path / "disk" / "single" / os.fsdecode(b"\xff.png"), 40)
    return tmp_path / "disk"


def copied(disk: Path, new: Path) -> Path:
    """Copy the disk as another disk would hold it, with inodes and times of its own, and take the old one away."""
    shutil.copytree(disk, new, copy_function=shutil.copyfile)
    disk.rename(disk.with_name("out of reach"))
    return new


def known(database: Database) -> list[Root]:
    with database._store.snapshot() as snapshot:
        return snapshot.catalog.roots()


def everything(database: Database) -> object:
    """Return what must not change where a relocation is refused."""
    return known(database), list(database), database.failures(), database.info().excludes


def test_a_moved_disk_costs_only_hashes(disk: Path, tmp_path: Path, instant: Instant, open_db: Open) -> None:
    (disk / "one" / "text.jpg").write_text("no image")
    os.utime(disk / "one" / "text.jpg", (1e9, 1e9))
    database = open_db(backbone=instant)
    database.build(disk / "one", disk / "two", disk / "single" / os.fsdecode(b"\xff.png"), exclude="*.gif")
    database.remove([disk / "one" / "0.png", disk / "two" / "31.png"])
    before = [os.path.relpath(path, disk) for path in database]
    asked = [(match.rank, match.similarity) for match in database.search(disk / "two" / "30.png", exact=True)]
    [failure] = database.failures()
    new = copied(disk, tmp_path / "mnt" / "new")
    instant.passes = 0
    told: list[tuple[str, int, int | None]] = []
    moved = database.relocate(disk, new, progress=lambda p: told.append((p.step, p.done, p.total)))
    assert sorted(moved, key=lambda folder: folder.path) == [
        Moved(str(disk / "one"), str(new / "one"), 29, 20, 20),
        Moved(str(disk / "single"), str(new / "single"), 1, 1, 1),
        Moved(str(disk / "two"), str(new / "two"), 4, 4, 4),
    ]
    assert told == [("comparing", done, 25) for done in range(1, 26)]
    assert [os.path.relpath(path, new) for path in database] == before
    assert [(f.path, f.reason) for f in database.failures()] == [(str(new / "one" / "text.jpg"), failure.reason)]
    assert database.info().excludes == ("*.gif",)
    assert all(root.online for root in database.info().roots)
    again = [(m.rank, m.similarity) for m in database.search(new / "two" / "30.png", exact=True)]
    assert again == asked
    report = database.build()
    assert (report.unchanged, report.added, report.changed, report.removed) == (34, 0, 0, 0)
    assert (report.kept, report.total, instant.passes) == ((), 34, 0)
    assert str(new / "one" / "0.png") not in database  # the removal has moved along
    assert [(f.path, f.reason) for f in report.failed] == [(str(new / "one" / "text.jpg"), failure.reason)]


def test_only_what_lies_there_or_below_moves(disk: Path, tmp_path: Path, instant: Instant, open_db: Open) -> None:
    save(tmp_path / "disk-2" / "x.png", 50)
    database = open_db(backbone=instant)
    database.build(disk / "one", disk / "two", tmp_path / "disk-2")
    shutil.copytree(disk / "two", tmp_path / "elsewhere")
    [moved] = database.relocate(disk / "two", tmp_path / "elsewhere")  # the old one is still there: the new one counts
    assert (moved.source, moved.path) == (str(disk / "two"), str(tmp_path / "elsewhere"))
    places = [str(disk / "one"), str(tmp_path / "disk-2"), str(tmp_path / "elsewhere")]
    assert sorted(root.path for root in database.info().roots) == sorted(places)


def test_it_knows_the_new_place_from_the_database_and_the_new_device(
    disk: Path, tmp_path: Path, instant: Instant, open_db: Open
) -> None:
    database = open_db(backbone=instant)
    database.build(disk / "two")
    with database._store.writing() as catalog, catalog.transaction():
        catalog.mark_root(known(database)[0].id, offline=True, device=12345)
    new = copied(disk, tmp_path / "new")
    database.relocate(f"{disk}/", f"{new}/")
    [root] = known(database)
    assert (root.path, root.relative) == (os.fsencode(new / "two"), b"../new/two")
    assert (root.offline, root.device) == (False, os.stat(new).st_dev)
    os.unlink(new / "two" / "30.png")
    assert database.build().removed == 1  # not taken to be away for lying on another device


@pytest.mark.parametrize(("old", "new"), [("", "deeper"), ("", "deeper/still"), ("deeper", "")])
def test_folders_move_into_and_out_of_their_own_places(
    old: str, new: str, tmp_path: Path, instant: Instant, open_db: Open
) -> None:
    """Roots of single files may lie in one another, so that one can move to where another has been."""
    top = tmp_path / "top"
    for seed, folder in enumerate(("", "deeper", "deeper/still", "deeper/still/deeper", "still", "still/deeper")):
        save(top / folder / f"{seed}.png", seed)
    database = open_db(backbone=instant)
    chosen = [top / old / f for f in ("", "deeper", "still")]
    files = [path for folder in chosen for path in folder.glob("*.png")]
    database.build(*files)
    (tmp_path / "aside").mkdir()
    for path in files:
        there = tmp_path / "aside" / path.relative_to(top / old)
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, there)
    shutil.rmtree(top)
    shutil.copytree(tmp_path / "aside", top / new)
    assert len(database.relocate(top / old, top / new)) == len({path.parent for path in files})
    assert sorted(database) == sorted(str(top / new / path.relative_to(top / old)) for path in files)


# --- refused --------------------------------------------------------------------------------------------------------


def refused(database: Database, old: Path, new: Path, error: type[Exception], said: str) -> None:
    before = everything(database)
    with pytest.raises(error) as found:
        database.relocate(old, new)
    assert said in str(found.value)
    assert everything(database) == before


def test_a_folder_with_other_images_is_refused_with_the_count(
    disk: Path, tmp_path: Path, instant: Instant, open_db: Open
) -> None:
    database = open_db(backbone=instant)
    database.build(disk / "one", disk / "two")
    new = copied(disk, tmp_path / "new")
    for seed, path in enumerate(sorted((new / "one").rglob("*.png"))):
        save(path, 1000 + seed)
    said = f"{new}/one: 20 of 20 sampled images of {disk}/one are not there as they were ({new}/one/"
    refused(database, disk, new, RelocationRefused, said)
    refused(database, disk, new, RelocationRefused, ".png: another content); nothing was changed")
    shutil.rmtree(new / "one")
    refused(database, disk, new, RelocationRefused, "20 of 20 sampled images")
    refused(database, disk, new, RelocationRefused, "no such file")


@pytest.mark.parametrize(("gone", "same"), [(0, 20), (2, 18), (3, None)])
def test_one_in_ten_may_be_gone(gone: int, same: int | None, tmp_path: Path, instant: Instant, open_db: Open) -> None:
    for seed in range(20):
        save(tmp_path / "old" / f"{seed}.png", seed)
    database = open_db(backbone=instant)
    database.build(tmp_path / "old")
    new = copied(tmp_path / "old", tmp_path / "new")
    for seed in range(gone):
        os.unlink(new / f"{seed}.png")
    if same is None:
        refused(database, tmp_path / "old", new, RelocationRefused, "3 of 20 sampled images")
        return
    [moved] = database.relocate(tmp_path / "old", new)
    assert (moved.sampled, moved.same) == (20, same)
    report = database.build()
    assert (report.removed, report.unchanged) == (gone, 20 - gone)


def test_of_a_few_images_all_must_be_there(disk: Path, tmp_path: Path, instant: Instant, open_db: Open) -> None:
    database = open_db(backbone=instant)
    database.build(disk / "two")
    new = copied(disk, tmp_path / "new")
    os.unlink(new / "two" / "33.png")
    refused(database, disk, new, RelocationRefused, f"1 of 5 sampled images of {disk}/two is not there")


@pytest.mark.parametrize("place", ["other", "other/inside", "."])
def test_roots_never_come_to_lie_inside_one_another(
    place: str, disk: Path, tmp_path: Path, instant: Instant, open_db: Open
) -> None:
    save(tmp_path / "new" / "other" / "x.png", 60)
    save(tmp_path / "new" / "other" / "inside" / "x.png", 61)
    database = open_db(backbone=instant)
    database.build(disk / "two", tmp_path / "new" / "other")
    shutil.copytree(disk / "two", tmp_path / "new" / place, dirs_exist_ok=True)
    new = tmp_path / "new" / place
    refused(database, disk / "two", new, RelocationRefused, f"where the database has its folder {tmp_path}/new/other")


def test_what_is_no_move_says_what_to_do(disk: Path, tmp_path: Path, instant: Instant, open_db: Open) -> None:
    database = open_db(backbone=instant)
    database.build(disk / "one")
    refused(database, disk, disk, RelocationRefused, "known there already")
    refused(database, disk, tmp_path / "missing", PathNotFound, "missing: no such folder; nothing was changed")
    refused(
        database, disk / "one" / "below", tmp_path, PathNotFound, f"only a part of the folder {disk}/one; name that"
    )
    refused(database, tmp_path / "typo", tmp_path, PathNotFound, "no folder of the database lies there or below")
    with Database(database.path, mode="r") as reader:
        shutil.copytree(disk, tmp_path / "new")
        refused(reader, disk, tmp_path / "new", DatabaseReadOnly, "opened for reading")


def test_folders_that_change_meanwhile_are_looked_at_again(
    disk: Path, tmp_path: Path, instant: Instant, open_db: Open
) -> None:
    database = open_db(backbone=instant)
    database.build(disk / "one")
    new = tmp_path / "new"
    shutil.copytree(disk, new)

    def meanwhile(done: int, of: int) -> None:
        if done == 1:
            database.build(disk / "two")

    with pytest.raises(DatabaseBusy, match="changed meanwhile; run it again"):
        relocate(database._store, str(disk), str(new), tell=meanwhile)
    assert [root.path for root in database.info().roots] == [str(disk / "one"), str(disk / "two")]
    assert len(database.relocate(disk, new)) == 2
