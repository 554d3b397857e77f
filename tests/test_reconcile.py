"""A build brings the database in step with folders, and does no more work than there is."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Instant, child, picture, save, unprivileged
from numpy.typing import NDArray

from catdb import Database, PathNotFound, Progress, Report, backbones, ingest
from catdb.backbones import Embedding
from catdb.images import Decoders
from catdb.ingest import Event
from catdb.reconcile import Means, reconcile

Open = Callable[..., Database]
TESTS = str(Path(__file__).parent)


def counts(report: Report) -> tuple[int, ...]:
    """(added, changed, moved, removed, unchanged, failed), after a look at the sum."""
    assert report.total >= report.added
    return (*(getattr(report, n) for n in ("added", "changed", "moved", "removed", "unchanged")), len(report.failed))


def images(database: Database, folder: Path) -> set[str]:
    return {os.path.relpath(path, folder) for path in database}


def aged(path: Path) -> Path:
    """Make a file old enough not to be taken for one that is still being written."""
    os.utime(path, (1e9, 1e9))
    return path


def bad(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("this is no image")
    return aged(path)


def many(folder: Path, number: int) -> Path:
    for seed in range(number):
        save(folder / f"{seed:03}.png", 1000 + seed)
    return folder


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths whose content was looked at, by digest or by decoding, in order."""
    seen: list[str] = []

    def spy(name: str) -> None:
        function = getattr(reconcile_module, name)

        def counted(what: Any, *rest: Any) -> Any:
            seen.append(f"{name} {os.path.basename(getattr(what, 'path', what))}")
            return function(what, *rest)

        monkeypatch.setattr(reconcile_module, name, counted)

    import catdb.ingest as reconcile_module

    spy("fingerprint")
    spy("read")
    return seen


# --- what a build makes of each file --------------------------------------------------------------------------------


def test_a_first_build_adds_everything_in_one_pass_each(photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    report = database.build(photos)
    assert counts(report) == (12, 0, 0, 0, 0, 0)
    assert (report.total, report.kept, instant.passes, len(database)) == (12, (), 12, 12)
    assert images(database, photos) == {*(f"{n}.png" for n in range(10)), "below/10.png", "below/11.png"}


def test_an_unchanged_folder_is_known_by_stat_alone(
    photos: Path, open_db: Open, instant: Instant, opened: list[str]
) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    assert len(opened) == 24
    opened.clear()
    assert counts(database.build(photos)) == (0, 0, 0, 0, 12, 0)
    assert counts(database.build()) == (0, 0, 0, 0, 12, 0)
    assert (opened, instant.passes) == ([], 12)


def test_a_file_changed_in_place_is_embedded_again(photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    before = database.search(photos / "3.png", k=1)[0].path
    save(photos / "3.png", 99)
    assert counts(database.build(photos)) == (0, 1, 0, 0, 11, 0)
    assert instant.passes == 13
    found = database.search(picture(99), k=1)[0]
    assert (found.path, before) == (str(photos / "3.png"), str(photos / "3.png"))
    assert found.similarity == pytest.approx(1, abs=1e-3)


def test_a_touch_costs_a_hash_and_counts_as_unchanged(
    photos: Path, open_db: Open, instant: Instant, opened: list[str]
) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    opened.clear()
    aged(photos / "3.png")
    assert counts(database.build(photos)) == (0, 0, 0, 0, 12, 0)
    assert (opened, instant.passes) == (["fingerprint 3.png"], 12)
    opened.clear()
    database.build(photos)
    assert opened == []


@pytest.mark.parametrize("new", ["renamed.png", "below/3.png", "new/deep/3.png"])
def test_a_moved_file_is_followed_without_a_pass(new: str, photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    (photos / new).parent.mkdir(parents=True, exist_ok=True)
    (photos / "3.png").rename(photos / new)
    assert counts(database.build(photos)) == (0, 0, 1, 0, 11, 0)
    assert (instant.passes, len(database)) == (12, 12)
    assert photos / new in database and photos / "3.png" not in database
    assert database.search(photos / new, k=1)[0].path == str(photos / new)


def test_a_move_onto_another_file_removes_what_that_was(photos: Path, open_db: Open, instant: Instant) -> None:
    """The report said that one was moved and none removed, while there was one less."""
    database = open_db(backbone=instant)
    database.build(photos)
    (photos / "3.png").rename(photos / "5.png")
    told: list[Event] = []
    with Decoders() as decoders:
        report = reconcile(Means(database._store, database._engine, decoders, announce=told.append), [str(photos)])
    assert counts(report) == (0, 0, 1, 1, 10, 0)
    assert (report.total, len(database), instant.passes) == (11, 11, 12)
    path = str(photos / "5.png")
    assert told == [Event("removed", path), Event("moved", path, str(photos / "3.png"))]
    assert database.search(path, k=1)[0].similarity == pytest.approx(1, abs=1e-6)


def test_of_many_copies_each_is_looked_for_once(
    tmp_path: Path, open_db: Open, instant: Instant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each new copy had all known ones looked for: 2,000 beside 2,000 others took minutes."""
    folder, database = tmp_path / "photos", open_db(backbone=instant)
    for number in range(30):
        save(folder / "old" / f"{number}.png", 1)
    database.build(folder)
    for number in range(5):
        (folder / "old" / f"{number}.png").rename(folder / f"moved {number}.png")
    for number in range(30):
        save(folder / "new" / f"{number}.png", 1)
    looked: list[str] = []

    def gone(path: str) -> bool:
        looked.append(path)
        return not os.path.lexists(path)

    monkeypatch.setattr(ingest, "is_gone", gone)
    assert counts(database.build(folder)) == (30, 0, 5, 0, 25, 0)
    assert (len(database), instant.passes) == (60, 1)
    assert 30 <= len(looked) <= 60  # those of a commit meanwhile as well


def test_a_move_between_two_roots_is_followed(tmp_path: Path, open_db: Open, instant: Instant) -> None:
    one, two = save(tmp_path / "one" / "a.png", 1).parent, save(tmp_path / "two" / "b.png", 2).parent
    database = open_db(backbone=instant)
    database.build(one, two)
    (one / "a.png").rename(two / "a.png")
    assert counts(database.build()) == (0, 0, 1, 0, 1, 0)
    assert (instant.passes, sorted(database)) == (2, [str(two / "a.png"), str(two / "b.png")])


def test_a_move_is_followed_though_the_root_it_came_from_is_not_named(
    tmp_path: Path, open_db: Open, instant: Instant
) -> None:
    one, two = save(tmp_path / "one" / "a.png", 1).parent, save(tmp_path / "two" / "b.png", 2).parent
    database = open_db(backbone=instant)
    database.build(one, two)
    (one / "a.png").rename(two / "a.png")
    assert counts(database.build(two)) == (0, 0, 1, 0, 1, 0)
    assert (instant.passes, len(database)) == (2, 2)


def test_swapped_names_are_told_apart(photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    os.rename(photos / "1.png", photos / "x")
    os.rename(photos / "2.png", photos / "1.png")
    os.rename(photos / "x", photos / "2.png")
    database.build(photos)
    assert instant.passes == 12
    assert database.search(picture(1), k=1)[0].path == str(photos / "2.png")
    assert database.search(picture(2), k=1)[0].path == str(photos / "1.png")


def test_the_same_content_under_two_paths_costs_one_pass_once_committed(
    photos: Path, open_db: Open, instant: Instant
) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    shutil.copy(photos / "3.png", photos / "copy.png")
    assert counts(database.build(photos)) == (1, 0, 0, 0, 12, 0)
    assert instant.passes == 12
    found = database.search(photos / "copy.png", k=2)
    assert {match.path for match in found} == {str(photos / "copy.png"), str(photos / "3.png")}
    (photos / "3.png").unlink()
    assert counts(database.build(photos)) == (0, 0, 0, 1, 12, 0)
    assert photos / "copy.png" in database


def test_the_same_content_twice_in_a_first_build(tmp_path: Path, open_db: Open, instant: Instant) -> None:
    folder = save(tmp_path / "p" / "a.png", 1).parent
    save(folder / "b.png", 1)
    assert counts(open_db(backbone=instant).build(folder)) == (2, 0, 0, 0, 0, 0)


def test_a_part_that_is_built_alone_brings_no_second_path_through_a_link(
    photos: Path, open_db: Open, instant: Instant
) -> None:
    part = photos / "part"
    save(part / "a.png", 100)
    (part / "up").symlink_to(photos)
    db = open_db(backbone=instant)
    assert counts(db.build(photos)) == (13, 0, 0, 0, 0, 0)
    assert counts(db.build(part)) == (0, 0, 0, 0, 1, 0)
    assert counts(db.build(photos)) == (0, 0, 0, 0, 13, 0)


def test_of_a_folder_that_is_known_by_another_name_too_it_is_said(
    photos: Path, tmp_path: Path, open_db: Open, instant: Instant
) -> None:
    """Everything came back twice from every search, and nothing said why."""
    link, part, lines = tmp_path / "a link", photos / "sub", list[str]()
    link.symlink_to(photos)
    part.mkdir()
    db = open_db(backbone=instant, notice=lines.append)
    db.build(link)
    assert not [line for line in lines if "link" in line]

    def said(path: Path, folder: Path) -> None:
        [line] = [line for line in lines if " share files by way of a link" in line]
        assert line.startswith(f"{path} and {folder} share ") and "catdb remove" in line
        lines.clear()

    db.add(photos / "3.png")
    said(photos / "3.png", link)
    db.watch(part)
    said(part, link)
    db.build(photos)
    said(photos, link)
    db.build(photos, tmp_path / "a link" / "sub")
    assert [line.split(" share ")[0] for line in lines] == [f"{photos} and {link}", f"{link}/sub and {photos}"]
    lines.clear()
    db.remove(link)
    db.build(photos)
    assert lines == []


def test_hard_links_are_images_of_their_own(photos: Path, open_db: Open, instant: Instant) -> None:
    os.link(photos / "3.png", photos / "linked.png")
    database = open_db(backbone=instant)
    assert database.build(photos).added == 13
    (photos / "3.png").unlink()
    assert counts(database.build(photos)) == (0, 0, 0, 1, 12, 0)
    assert photos / "linked.png" in database


def test_a_deleted_file_is_dropped(photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    (photos / "3.png").unlink()
    shutil.rmtree(photos / "below")
    assert counts(database.build(photos)) == (0, 0, 0, 3, 9, 0)
    assert photos / "3.png" not in database
    assert all(Path(match.path).exists() for match in database.search(picture(3), k=20, exact=True))


def test_a_deleted_folder_can_be_named_to_drop_it(photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    shutil.rmtree(photos / "below")
    assert counts(database.build(photos / "below")) == (0, 0, 0, 2, 0, 0)


# --- files that cannot be read --------------------------------------------------------------------------------------


def test_a_bad_file_is_listed_each_time_but_read_once(
    photos: Path, open_db: Open, instant: Instant, opened: list[str]
) -> None:
    bad(photos / "bad.jpg")
    database = open_db(backbone=instant)
    first = database.build(photos)
    assert counts(first) == (12, 0, 0, 0, 0, 1)
    assert (first.failed[0].path, first.failed[0].reason) == (str(photos / "bad.jpg"), "not an image")
    opened.clear()
    again = database.build(photos)
    assert counts(again) == (0, 0, 0, 0, 12, 1)
    assert (again.failed[0].reason, opened) == ("not an image", [])
    bad(photos / "bad.jpg").write_text("still no image")
    assert len(database.build(photos).failed) == 1
    assert opened == ["fingerprint bad.jpg", "read bad.jpg"]
    assert [failure.path for failure in database.failures()] == [str(photos / "bad.jpg")]


def test_a_repaired_file_is_added_and_no_failure_any_more(photos: Path, open_db: Open, instant: Instant) -> None:
    bad(photos / "bad.png")
    database = open_db(backbone=instant)
    database.build(photos)
    save(photos / "bad.png", 77)
    assert counts(database.build(photos)) == (1, 0, 0, 0, 12, 0)
    assert database.failures() == []


def test_a_file_replaced_by_a_bad_one_goes_and_is_listed(photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    bad(photos / "3.png")
    report = database.build(photos)
    assert (len(report.failed), report.unchanged, report.total) == (1, 11, 11)
    assert photos / "3.png" not in database


def test_a_bad_file_that_is_deleted_is_forgotten(photos: Path, open_db: Open, instant: Instant) -> None:
    bad(photos / "bad.png").parent.mkdir(exist_ok=True)
    database = open_db(backbone=instant)
    database.build(photos)
    (photos / "bad.png").unlink()
    assert counts(database.build(photos)) == (0, 0, 0, 0, 12, 0)
    assert database.failures() == []


def test_a_file_that_vanishes_between_find_and_read_is_nothing(
    photos: Path, open_db: Open, instant: Instant, monkeypatch: pytest.MonkeyPatch
) -> None:
    import catdb.ingest as module

    real = module.fingerprint

    def late(path: str) -> Any:
        if path.endswith("/3.png"):
            os.unlink(path)
        return real(path)

    monkeypatch.setattr(module, "fingerprint", late)
    assert counts(open_db(backbone=instant).build(photos)) == (11, 0, 0, 0, 0, 0)


def build_unprivileged(database: Path, folder: Path) -> str:
    """Build in a process that may not read everything; return (added, moved, removed, unchanged, total), failures."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD.format(tests=TESTS), str(database), str(folder)],
        preexec_fn=unprivileged,
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


BUILD = """
import os, sys
sys.path.insert(0, {tests!r})
from conftest import Instant
from catdb import Database

db = Database(sys.argv[1], backbone=Instant())
report = db.build(sys.argv[2])
print(report.added, report.moved, report.removed, report.unchanged, report.total)
for failure in sorted(report.failed, key=lambda failure: failure.path):
    print(os.path.relpath(failure.path, sys.argv[2]), failure.reason)
kept = {{(failure.path, failure.reason) for failure in db.failures()}}
assert kept == {{(failure.path, failure.reason) for failure in report.failed}}, kept
assert db.info().failed == len(kept)
"""


def test_what_lies_behind_a_closed_door_is_kept_and_listed(photos: Path, tmp_path: Path) -> None:
    database, folder = tmp_path / "db", tmp_path / "doors"
    for seed, name in enumerate(["a.png", "open/b.png", "closed/c.png", "closed/deep/d.png"]):
        save(folder / name, seed)
    assert build_unprivileged(database, folder) == "4 0 0 0 4\n"
    (folder / "closed").chmod(0)
    save(folder / "copy of c.png", 2)  # which must not be taken for the one behind the door
    save(folder / "new.png", 9).chmod(0)
    closed = "closed permission denied\nnew.png permission denied\n"
    assert build_unprivileged(database, folder) == "1 0 0 2 5\n" + closed
    assert build_unprivileged(database, folder) == "0 0 0 3 5\n" + closed
    (folder / "closed").chmod(0o755)
    (folder / "new.png").chmod(0o644)
    assert build_unprivileged(database, folder) == "1 0 0 5 6\n"


def test_folders_whose_names_alone_can_be_read_are_listed(tmp_path: Path) -> None:
    """What lies in them was left out, and nothing said so."""
    database, folder = tmp_path / "db", tmp_path / "doors"
    save(folder / "a.png", 1)
    save(folder / "names" / "one" / "b.png", 2)
    (folder / "to nowhere").symlink_to("nowhere")  # which may be on a disk that is away, and is no failure
    (folder / "names").chmod(0o444)
    said = "names/one permission denied\n"
    assert build_unprivileged(database, folder) == "1 0 0 0 1\n" + said
    assert build_unprivileged(database, folder) == "0 0 0 1 1\n" + said
    (folder / "names").chmod(0o755)
    assert build_unprivileged(database, folder) == "1 0 0 1 2\n"


def test_a_folder_that_cannot_be_listed_is_a_failure_until_it_can_be_or_is_removed(tmp_path: Path) -> None:
    """A build listed it among the failures, and those that it left did not hold it."""
    database, folder = tmp_path / "db", tmp_path / "doors"
    for seed, name in enumerate(["a.png", "closed/c.png", "inner/closed/d.png"]):
        save(folder / name, seed)
    for closed in ("closed", "inner/closed"):
        (folder / closed).chmod(0)
    said = "closed permission denied\ninner/closed permission denied\n"  # the very same as Database.failures
    assert build_unprivileged(database, folder) == "1 0 0 0 1\n" + said
    with Database(database, mode="r") as reader:
        assert [failure.path for failure in reader.failures()] == [f"{folder}/closed", f"{folder}/inner/closed"]
    with Database(database) as writer:
        writer.remove(folder / "closed")
    assert build_unprivileged(database, folder) == "0 0 0 1 1\n" + said.split("\n", 1)[1]
    (folder / "inner" / "closed").chmod(0o755)
    assert build_unprivileged(database, folder) == "1 0 0 1 2\n"
    (folder / "closed").chmod(0o755)


def test_a_closed_root_that_comes_to_lie_in_another_fails_under_its_new_name(tmp_path: Path) -> None:
    database, folder = tmp_path / "db", tmp_path / "outer"
    save(folder / "inner" / "a.png", 1)
    (folder / "inner").chmod(0)
    assert build_unprivileged(database, folder / "inner") == "0 0 0 0 0\n. permission denied\n"
    assert build_unprivileged(database, folder) == "0 0 0 0 0\ninner permission denied\n"
    (folder / "inner").chmod(0o755)


def test_a_root_that_is_closed_keeps_its_images(photos: Path, tmp_path: Path) -> None:
    assert build_unprivileged(tmp_path / "db", photos) == "12 0 0 0 12\n"
    photos.chmod(0)
    assert build_unprivileged(tmp_path / "db", photos) == "0 0 0 0 12\n. permission denied\n"
    photos.chmod(0o755)


# --- roots ----------------------------------------------------------------------------------------------------------


def test_only_the_named_roots_are_reconciled_and_none_means_all(
    tmp_path: Path, open_db: Open, instant: Instant
) -> None:
    one, two = save(tmp_path / "one" / "a.png", 1).parent, save(tmp_path / "two" / "b.png", 2).parent
    database = open_db(backbone=instant)
    database.build([one, two])
    (one / "a.png").unlink()
    (two / "b.png").unlink()
    save(one / "c.png", 3)
    assert counts(database.build(two)) == (0, 0, 0, 1, 0, 0)
    assert sorted(database) == [str(one / "a.png")]
    assert counts(database.build()) == (1, 0, 0, 1, 0, 0)
    assert sorted(database) == [str(one / "c.png")]


def test_only_the_named_folder_of_a_root_is_reconciled(photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    (photos / "3.png").unlink()
    (photos / "below" / "10.png").unlink()
    assert counts(database.build(photos / "below")) == (0, 0, 0, 1, 1, 0)
    assert photos / "3.png" in database
    assert [root.path for root in database.info().roots] == [str(photos)]


@pytest.mark.parametrize("first", ["photos", "photos/below"])
def test_overlapping_roots_become_one_in_either_order(
    first: str, photos: Path, open_db: Open, instant: Instant
) -> None:
    second = {"photos": "photos/below", "photos/below": "photos"}[first]
    database = open_db(backbone=instant)
    database.build(photos.parent / first)
    database.build(photos.parent / second)
    assert (len(database), instant.passes) == (12, 12)
    assert [(root.path, root.images) for root in database.info().roots] == [(str(photos), 12)]
    assert counts(database.build()) == (0, 0, 0, 0, 12, 0)


def test_overlapping_roots_in_one_build_count_once(photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    assert counts(database.build(photos / "below", photos, photos / "1.png", photos)) == (12, 0, 0, 0, 0, 0)
    assert [root.path for root in database.info().roots] == [str(photos)]


def test_single_files_are_known_one_by_one(photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    assert counts(database.build(photos / "1.png", photos / "2.png")) == (2, 0, 0, 0, 0, 0)
    assert counts(database.build()) == (0, 0, 0, 0, 2, 0)  # and not the ten others of their folder
    (photos / "2.png").unlink()
    assert counts(database.build()) == (0, 0, 0, 1, 1, 0)
    assert sorted(database) == [str(photos / "1.png")]


def test_a_file_and_then_its_folder(photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    database.build(photos / "below" / "10.png")
    assert counts(database.build(photos)) == (11, 0, 0, 0, 1, 0)
    assert [(root.path, root.whole) for root in database.info().roots] == [(str(photos), True)]


def test_a_path_that_is_nowhere_changes_nothing(photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    with pytest.raises(PathNotFound, match="nowhere: no such file or folder"):
        database.build(photos, photos.parent / "nowhere")
    assert not Path(database.path).exists()
    database.build(photos / "1.png")
    with pytest.raises(PathNotFound):
        database.build(photos, photos.parent / "nowhere", exclude=["*.gif"])
    assert (len(database), database.info().excludes) == (1, ())


def test_no_path_in_a_list_is_not_all_paths(photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    save(photos / "new.png", 50)
    assert counts(database.build([])) == counts(database.add([])) == (0, 0, 0, 0, 0, 0)
    assert database.build().added == 1


def test_the_database_in_the_folder_is_no_part_of_it(photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db("photos/index", backbone=instant)
    database.build(photos)
    save(photos / "index" / "sheet.png", 80)
    assert counts(database.build(photos)) == (0, 0, 0, 0, 12, 0)
    another = open_db("other", backbone=Instant())
    assert another.build(photos).added == 12


# --- excluded and removed -------------------------------------------------------------------------------------------


def test_an_exclude_is_remembered_and_drops_until_it_is_taken_back(
    photos: Path, open_db: Open, instant: Instant
) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    assert counts(database.build(photos, exclude=["below"])) == (0, 0, 0, 2, 10, 0)
    assert database.info().excludes == ("below",)
    assert counts(database.build()) == (0, 0, 0, 0, 10, 0)
    assert counts(database.build(include=["below"])) == (2, 0, 0, 0, 10, 0)
    assert database.info().excludes == ()


def test_one_glob_is_no_list_of_letters(photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    assert database.build(photos, exclude="1*.png").added == 9
    assert database.info().excludes == ("1*.png",)
    assert database.build(include="1*.png").added == 3


@pytest.mark.parametrize("name", ["below", "below/10.png", ".hidden", ".hidden/a.png"])
def test_what_is_left_out_stays_out_though_it_is_named(
    name: str, photos: Path, open_db: Open, instant: Instant
) -> None:
    save(photos / ".hidden" / "a.png", 40)
    database = open_db(backbone=instant)
    assert database.build(photos, exclude=["below"]).total == 10
    assert database.build(photos / name).total == 10
    report = database.add(photos / name)
    assert report.total == 10
    [failure] = report.failed
    assert failure.path == str(photos / name)
    assert failure.reason.startswith("left out")
    assert counts(database.build(photos)) == (0, 0, 0, 0, 10, 0)


def test_a_hidden_folder_can_be_a_root(tmp_path: Path, open_db: Open, instant: Instant) -> None:
    folder = save(tmp_path / ".hidden" / "a.png", 1).parent
    assert open_db(backbone=instant).build(folder).added == 1


def test_an_exclude_holds_for_single_files(photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    database.build(photos / "1.png", photos / "2.png")
    assert counts(database.build(exclude=["1.png"])) == (0, 0, 0, 1, 1, 0)


def test_an_include_of_what_was_never_excluded_is_said(photos: Path, open_db: Open, instant: Instant) -> None:
    told: list[str] = []
    open_db(backbone=instant, notice=told.append).build(photos, include=["*.gif"])
    assert told == ["*.gif was not excluded; catdb info lists what is"]


@pytest.mark.parametrize(("name", "images"), [("3.png", 1), ("below", 2), ("below/10.png", 1), ("", 12)])
def test_what_was_removed_stays_out_until_it_is_added(
    name: str, images: int, photos: Path, open_db: Open, instant: Instant
) -> None:
    told: list[str] = []
    database = open_db(backbone=instant, notice=told.append)
    database.build(photos)
    assert database.remove(photos / name) == images
    assert len(database) == 12 - images
    for targets in ([], [photos], [photos / name], [photos.parent]):
        report = database.build(*targets, exclude=["home", "work"])
        assert (report.added, report.removed, len(database)) == (0, 0, 12 - images)
    assert f"{photos / name} was removed by hand and stays out; catdb add takes it back" in told
    report = database.add(photos / name)
    assert (report.added, report.total, instant.passes) == (images, 12, 12 + images)
    assert counts(database.build()) == (0, 0, 0, 0, 12, 0)


def test_a_removed_root_is_no_longer_listed(photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    database.remove(photos.parent)  # the folder above it
    assert (len(database), database.info().roots) == (0, ())
    shutil.rmtree(photos)
    assert database.build().kept == ()


def test_removing_what_is_nowhere_removes_nothing(photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    for wrong in (photos / "typo.png", photos.parent / "elsewhere", photos / "3.png" / "x"):
        with pytest.raises(PathNotFound, match="nothing was removed"):
            database.remove([photos / "3.png", wrong])
    assert len(database) == 12
    (photos / "3.png").unlink()
    assert database.remove(photos / "3.png") == 1  # gone from the disk, but still known


def test_adding_drops_nothing(photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    (photos / "3.png").unlink()
    save(photos / "new.png", 60)
    assert counts(database.add(photos)) == (1, 0, 0, 0, 11, 0)
    assert photos / "3.png" in database


# --- roots that go away ---------------------------------------------------------------------------------------------


def test_a_root_that_is_away_keeps_its_images_and_is_searched(
    photos: Path, tmp_path: Path, open_db: Open, instant: Instant
) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    photos.rename(tmp_path / "unmounted")
    for report in (database.build(), database.build(photos)):
        assert counts(report) == (0, 0, 0, 0, 0, 0)
        assert [(kept.path, kept.images) for kept in report.kept] == [(str(photos), 12)]
    assert [root.online for root in database.info().roots] == [False]
    assert database.search(picture(3), k=1)[0].path == str(photos / "3.png")
    (tmp_path / "unmounted").rename(photos)
    back = database.build()
    assert (counts(back), back.kept, instant.passes) == ((0, 0, 0, 0, 12, 0), (), 13)
    assert [root.online for root in database.info().roots] == [True]


def test_a_copy_of_what_is_away_is_an_image_of_its_own(
    photos: Path, tmp_path: Path, open_db: Open, instant: Instant
) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(photos / "3.png", other / "copy.png")
    photos.rename(tmp_path / "unmounted")
    assert counts(database.build(other)) == (1, 0, 0, 0, 0, 0)
    assert (len(database), instant.passes) == (13, 12)
    assert photos / "3.png" in database and other / "copy.png" in database


def test_pruning_drops_what_is_away_and_then_is_silent(photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    shutil.rmtree(photos)
    assert database.build(prune=True).removed == 12
    assert database.build().kept == ()


@pytest.mark.parametrize(
    ("images", "missing", "kept"), [(50, 50, True), (50, 26, True), (50, 25, False), (49, 49, False)]
)
def test_more_than_half_of_fifty_missing_is_believed_to_be_away(
    images: int, missing: int, kept: bool, tmp_path: Path, open_db: Open, instant: Instant
) -> None:
    folder = many(tmp_path / "many", images)
    database = open_db(backbone=instant)
    database.build(folder)
    for path in sorted(folder.iterdir())[:missing]:
        path.unlink()
    report = database.build()
    assert report.removed == (0 if kept else missing)
    assert [(root.path, root.images) for root in report.kept] == ([(str(folder), missing)] if kept else [])
    assert [root.online for root in database.info().roots] == [not kept]
    assert database.build(prune=True).removed == (missing if kept else 0)
    assert [root.online for root in database.info().roots] == [True]


def test_a_renamed_folder_of_many_is_no_emptied_root(tmp_path: Path, open_db: Open, instant: Instant) -> None:
    folder = many(tmp_path / "root" / "2019", 60).parent
    database = open_db(backbone=instant)
    database.build(folder)
    (folder / "2019").rename(folder / "2019 summer")
    report = database.build(folder)
    assert (counts(report), report.kept) == ((0, 0, 60, 0, 0, 0), ())
    assert [root.online for root in database.info().roots] == [True]


# --- little work, little memory -------------------------------------------------------------------------------------


def test_one_new_image_is_work_for_one_image(
    tmp_path: Path, open_db: Open, instant: Instant, opened: list[str]
) -> None:
    folder = many(tmp_path / "many", 60)
    database = open_db(backbone=instant)
    database.build(folder)
    shards = {path: path.stat().st_ino for path in Path(database.path, "shards").rglob("*.h5")}
    opened.clear()
    save(folder / "new.png", 5)
    assert counts(database.build(folder)) == (1, 0, 0, 0, 60, 0)
    assert opened == ["fingerprint new.png", "read new.png"]
    assert instant.passes == 61
    assert {path: path.stat().st_ino for path in Path(database.path, "shards").rglob("*.h5")} == shards
    assert database.search(folder / "new.png", k=1)[0].path == str(folder / "new.png")


def test_few_pictures_are_in_memory_at_any_time(tmp_path: Path, open_db: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    import catdb.ingest as module

    held, most, turn, real = 0, 0, threading.Lock(), module.read

    def counted(*arguments: Any) -> Any:
        nonlocal held, most
        with turn:
            held += 1
            most = max(most, held)
        return real(*arguments)

    class Counting(Instant):
        def embed(self, pixels: NDArray[np.uint8]) -> Embedding:
            nonlocal held
            assert len(pixels) <= backbones.BATCH
            with turn:
                held -= len(pixels)
            return super().embed(pixels)

    monkeypatch.setattr(module, "read", counted)
    folder = many(tmp_path / "many", 400)
    assert open_db(backbone=Counting()).build(folder, jobs=4).added == 400
    assert backbones.BATCH < most <= 3 * backbones.BATCH


def test_progress_counts_up_to_the_total(photos: Path, open_db: Open, instant: Instant) -> None:
    bad(photos / "bad.jpg")
    seen: list[Progress] = []
    open_db(backbone=instant).build(photos, progress=seen.append)
    reading = [(step.done, step.total) for step in seen if step.step == "reading"]
    assert reading == [(number, 13) for number in range(1, 14)]
    assert [step.failed for step in seen][-1] == 1
    assert seen[-1].step == "folding" and seen[-1].done == seen[-1].total


# --- interrupted ----------------------------------------------------------------------------------------------------


def test_what_was_embedded_before_an_error_is_kept(tmp_path: Path, open_db: Open) -> None:
    class Breaking(Instant):
        broken = True

        def embed(self, pixels: NDArray[np.uint8]) -> Embedding:
            if self.broken and self.passes >= 64:
                raise RuntimeError("out of memory on the device")
            return super().embed(pixels)

    folder, breaking = many(tmp_path / "many", 100), Breaking()
    database = open_db(backbone=breaking)
    with pytest.raises(RuntimeError, match="on the device"):
        database.build(folder)
    assert len(database) == 64
    breaking.broken = False
    assert counts(database.build(folder)) == (36, 0, 0, 0, 64, 0)
    assert breaking.passes == 100


STUCK = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import catdb.ingest
from conftest import Instant
from catdb import Database

class Stuck(Instant):
    def embed(self, pixels):
        if self.passes >= 64:
            os.write(1, b"in the middle of a pass")
            signal.pause()
        return super().embed(pixels)

catdb.ingest._PER_COMMIT = 32
Database(sys.argv[1], backbone=Stuck()).build(sys.argv[2])
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_build_that_is_stopped_goes_on_where_it_was(
    how: signal.Signals, tmp_path: Path, open_db: Open, instant: Instant
) -> None:
    folder = many(tmp_path / "many", 100)
    with child(STUCK.format(tests=TESTS), tmp_path / "db", folder) as stuck:
        assert stuck.stdout and stuck.stdout.read(23) == "in the middle of a pass"
        stuck.send_signal(how)
        stuck.communicate(timeout=120)
    assert stuck.returncode == -how
    database = open_db(backbone=instant)
    assert len(database) == 64
    assert len({match.path for match in database.search(picture(1001), k=100, exact=True)}) == 64
    assert counts(database.build(folder)) == (36, 0, 0, 0, 64, 0)
    assert instant.passes == 36 + 1


PAIR = """
import sys
sys.path.insert(0, {tests!r})
import catdb.ingest
from conftest import Instant
from catdb import Database

catdb.ingest._PER_COMMIT = 8
database = Database(sys.argv[1], backbone=Instant(), wait=30)
print("ready", flush=True)
sys.stdin.readline()
print(database.build(sys.argv[2]).total, flush=True)
"""


def test_two_builds_at_once_make_one_right_database(tmp_path: Path, open_db: Open, instant: Instant) -> None:
    folder = many(tmp_path / "many", 80)
    script, outs = PAIR.format(tests=TESTS), []
    with child(script, tmp_path / "db", folder) as one, child(script, tmp_path / "db", folder) as two:
        for builder in (one, two):
            assert builder.stdout and builder.stdout.readline() == "ready\n"
        for builder in (one, two):
            assert builder.stdin
            builder.stdin.write("\n")
            builder.stdin.flush()
        for builder in (one, two):
            assert builder.stdout
            outs.append(builder.stdout.readline())
    assert outs == ["80\n", "80\n"]
    database = open_db(backbone=instant)
    assert counts(database.build()) == (0, 0, 0, 0, 80, 0)
    assert len(set(database)) == 80


def test_a_reader_sees_whole_commits_while_a_build_runs(tmp_path: Path, open_db: Open) -> None:
    class Looking(Instant):
        seen: tuple[int, ...] = ()

        def embed(self, pixels: NDArray[np.uint8]) -> Embedding:
            if self.passes:
                with Database(tmp_path / "db", mode="r", backbone=Instant()) as reader:
                    found = reader.search(picture(1000), k=100, exact=True)
                    assert len(found) == found.scanned == found.total == len(reader)
                    self.seen += (len(found),)
            return super().embed(pixels)

    import catdb.ingest as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PER_COMMIT", 32)
        looking = Looking()
        open_db(backbone=looking).build(many(tmp_path / "many", 100))
    assert looking.seen == (32, 64, 96)


def test_reading_ahead_stops_when_a_build_is_interrupted(
    tmp_path: Path, open_db: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits in the queue is given up: else a slow disk would hold the process back after Ctrl-C."""
    import catdb.ingest as module

    real, begun, interrupted, never = module.fingerprint, 0, threading.Event(), threading.Event()

    def slow(path: str) -> Any:
        nonlocal begun
        begun += 1
        if begun > backbones.BATCH + 8:
            assert interrupted.wait(120)
            never.wait(0.05)
        return real(path)

    class Interrupted(Instant):
        def embed(self, pixels: NDArray[np.uint8]) -> Embedding:
            interrupted.set()
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "fingerprint", slow)
    with pytest.raises(KeyboardInterrupt):
        open_db(backbone=Interrupted()).build(many(tmp_path / "many", 200), jobs=1)
    assert begun < backbones.BATCH + 8 + 8
