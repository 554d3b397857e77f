"""The catalog: what each statement leaves in the tables, and the survey that sets folders against them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stock import CATEGORIES, META, put, unit

from catdb.catalog import Catalog, Centroid, Load, Pointer, Survey, Todo, is_removed
from catdb.catalog.columns import PAGE, below
from catdb.checksum import checksum
from catdb.errors import DatabaseBusy, DatabaseDamaged, DatabaseReadOnly
from catdb.images import Stamp

pytestmark = pytest.mark.damaged  # there are no shards here; the fixture looks at what there is

NEIGHBOURS = [b"a", b"a-b", b"a.b", b"a/b", b"a/b/c", b"a0", b"a/", b"ab", b"a\xff", b"a/\xff\xfe", b"A/b", b"\xe4/a/b"]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "catalog.sqlite")


@pytest.fixture
def catalog(path: str) -> Iterator[Catalog]:
    catalog = Catalog.writer(path)
    catalog.create(META, CATEGORIES)
    with catalog.transaction():
        catalog.add_root(b"/photos", b"../photos", True)
    yield catalog
    assert catalog.integrity() == []
    assert catalog.faults() == []
    catalog.close()


@pytest.fixture
def open_reader(path: str, catalog: Catalog) -> Iterator[Callable[[], Catalog]]:
    opened: list[Catalog] = []

    def open_() -> Catalog:
        opened.append(Catalog.reader(path))
        return opened[-1]

    yield open_
    for reader in opened:
        reader.close()


def rows(catalog: Catalog, table: str) -> list[tuple[Any, ...]]:
    return catalog.sql.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()


def fold(catalog: Catalog, category: int, generation: int = 5) -> None:
    """Have the catalog believe that all that waits for a category stands in its shard."""
    waiting = catalog.pending(category)
    catalog.reserve_generations(generation + 2)
    with catalog.transaction():
        pointer = Pointer(category, generation, len(waiting), 1, 2)
        catalog.point(pointer, [Centroid(category, 0, 0, len(waiting), np.zeros(12, np.float16))], waiting, 0.0)


def do(catalog: Catalog, *items: Any) -> list[str]:
    with catalog.transaction():
        return [catalog.put(item) for item in items]


# --- opening ----------------------------------------------------------------------------------------------------


def test_an_empty_file_has_no_format_yet(path: str) -> None:
    Path(path).touch()
    for catalog in (Catalog.reader(path), Catalog.writer(path)):
        assert catalog.format() == 0
        catalog.close()


def test_a_new_catalog_knows_what_it_is(catalog: Catalog) -> None:
    assert catalog.format() == 3
    assert catalog.meta() == {**META, "generation": 1}
    assert catalog.categories() == CATEGORIES
    settings = [catalog.sql.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    assert settings == ["wal", 2]


@pytest.mark.parametrize("opener", [Catalog.reader, Catalog.writer])
def test_garbage_is_damage(path: str, opener: Callable[[str], Catalog]) -> None:
    Path(path).write_bytes(b"these are no tables" * 100)
    with pytest.raises(DatabaseDamaged, match="not a database"):
        opener(path)


@pytest.mark.parametrize("opener", [Catalog.reader, Catalog.writer])
@pytest.mark.parametrize("version", [0, 1, 2])
def test_the_tables_of_another_program_are_refused_and_not_touched(
    path: str, opener: Callable[[str], Catalog], version: int
) -> None:
    other = sqlite3.connect(path)
    other.executescript(f"CREATE TABLE theirs(a); PRAGMA user_version={version}")
    other.close()
    before = Path(path).read_bytes()
    with pytest.raises(DatabaseDamaged, match="not a catdb catalog"):
        opener(path)
    assert Path(path).read_bytes() == before


def test_a_newer_format_is_refused(path: str, catalog: Catalog) -> None:
    catalog.sql.execute("PRAGMA user_version=4")
    with pytest.raises(DatabaseDamaged, match=r"format 4, this catdb reads 3; install a newer"):
        Catalog.reader(path)
    catalog.sql.execute("PRAGMA user_version=3")


def test_a_damaged_page_is_damage_and_not_a_traceback(path: str, catalog: Catalog) -> None:
    do(catalog, *(put(n) for n in range(200)))
    catalog.sql.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    other = Path(path).with_name("other")
    data = bytearray(Path(path).read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    other.write_bytes(data)
    reader = Catalog.reader(str(other))
    with pytest.raises(DatabaseDamaged), reader.snapshot():
        reader.count()
    reader.close()


def test_a_reader_cannot_write(open_reader: Callable[[], Catalog]) -> None:
    reader = open_reader()
    with pytest.raises(DatabaseReadOnly), reader.transaction():
        reader.set_meta("a", 1)


def test_a_lock_of_another_program_is_busy(catalog: Catalog, path: str) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    catalog.sql.execute("PRAGMA busy_timeout=0")
    with pytest.raises(DatabaseBusy), catalog.transaction():
        pass
    other.close()


def test_a_path_with_every_strange_character_is_opened(tmp_path: Path) -> None:
    folder = os.path.join(os.fsencode(tmp_path), b"a?b#c%20d \xff'\"")
    os.mkdir(folder)
    path = os.fsdecode(os.path.join(folder, b"catalog.sqlite"))
    writer = Catalog.writer(path)
    writer.create(META, CATEGORIES)
    reader = Catalog.reader(path)
    assert reader.format() == 3
    reader.close()
    writer.close()
    assert os.listdir(folder) == [b"catalog.sqlite"]


def test_a_file_put_in_its_place_is_noticed(catalog: Catalog, path: str) -> None:
    assert catalog.is_current()
    os.rename(path, path + ".old")
    assert not catalog.is_current()
    Path(path).touch()
    assert not catalog.is_current()
    os.replace(path + ".old", path)
    assert catalog.is_current()


def test_a_transaction_that_fails_leaves_nothing(catalog: Catalog) -> None:
    with pytest.raises(KeyboardInterrupt), catalog.transaction():
        catalog.put(put(1))
        raise KeyboardInterrupt
    tables = ("image", "vector", "member", "pending")
    assert [rows(catalog, table) for table in tables] == [[]] * 4
    assert do(catalog, put(2)) == ["added"]


def test_snapshots_stay_what_they_were_while_the_writer_commits(
    catalog: Catalog, open_reader: Callable[[], Catalog]
) -> None:
    first, second = open_reader(), open_reader()
    with first.snapshot():
        do(catalog, put(1))
        with second.snapshot():
            do(catalog, put(2))
            assert (first.count(), second.count(), catalog.count()) == (0, 1, 2)
            assert [first.pending(1), second.pending(1)] == [[], [1]]
    with first.snapshot():
        assert first.count() == 2


# --- images -----------------------------------------------------------------------------------------------------


def test_added(catalog: Catalog) -> None:
    assert do(catalog, put(3)) == ["added"]
    assert rows(catalog, "image") == [(1, 1, b"0003.png", 103, 10**18 + 3, 503, (3).to_bytes(16, "big"), 40, 30)]
    data = unit(3).tobytes()
    assert rows(catalog, "vector") == [(1, data, checksum(data))]
    assert rows(catalog, "member") == [(1, 0, 3, 0.5), (1, 1, 4, 0.25), (1, 2, 6, 0.125), (1, 3, 9, 0.0625)]
    assert rows(catalog, "pending") == [(3, 1), (4, 1), (6, 1), (9, 1)]
    [image] = catalog.images()
    assert (image.stamp, image.categories, image.probabilities) == (
        put(3).stamp,
        (3, 4, 6, 9),
        (0.5, 0.25, 0.125, 0.0625),
    )
    assert catalog.image_at(1, b"0003.png") == catalog.image(1) == image
    assert list(catalog.images_of(put(3).digest)) == [image]
    vector = catalog.vector(1)
    assert vector is not None
    np.testing.assert_array_equal(vector, unit(3))


def test_unchanged_takes_only_the_new_stamp(catalog: Catalog) -> None:
    do(catalog, put(3))
    fold(catalog, 3)
    before = [rows(catalog, table) for table in ("vector", "member", "pending", "tombstone")]
    assert do(catalog, replace(put(3), stamp=Stamp(1, 2, 3))) == ["unchanged"]
    assert [rows(catalog, table) for table in ("vector", "member", "pending", "tombstone")] == before
    image = catalog.image(1)
    assert image is not None and image.stamp == Stamp(1, 2, 3)


def test_changed_gets_a_new_id_and_leaves_tombstones_where_it_was_folded(catalog: Catalog) -> None:
    do(catalog, put(3))
    fold(catalog, 4)
    assert do(catalog, replace(put(5), path=put(3).path)) == ["changed"]
    assert [image.id for image in catalog.images()] == [2]
    assert rows(catalog, "tombstone") == [(4, 1)]
    assert rows(catalog, "pending") == [(1, 2), (5, 2), (6, 2), (8, 2)]
    assert catalog.vector(1) is None


def test_ids_are_never_used_twice(catalog: Catalog) -> None:
    do(catalog, put(1), put(2))
    with catalog.transaction():
        catalog.delete(2)
    do(catalog, put(3))
    assert [image.id for image in catalog.images()] == [1, 3]


def test_moved_keeps_id_vector_and_shard_rows(catalog: Catalog) -> None:
    do(catalog, put(3))
    fold(catalog, 3)
    old = catalog.image(1)
    assert do(catalog, replace(put(3), path=b"new.png", stamp=Stamp(7, 8, 9), moved_from=old)) == ["moved"]
    assert [(i.id, i.path, i.stamp) for i in catalog.images()] == [(1, b"new.png", Stamp(7, 8, 9))]
    assert rows(catalog, "tombstone") == []
    assert rows(catalog, "pending") == [(4, 1), (6, 1), (9, 1)]


def test_moved_onto_another_image_takes_its_place(catalog: Catalog) -> None:
    do(catalog, put(3), put(4))
    old = catalog.image(1)
    assert do(catalog, replace(put(3), path=put(4).path, moved_from=old)) == ["moved over"]
    assert [(i.id, i.path, i.digest) for i in catalog.images()] == [(1, put(4).path, put(3).digest)]


def test_a_move_from_what_another_process_deleted_is_an_addition(catalog: Catalog) -> None:
    do(catalog, put(3))
    old = catalog.image(1)
    with catalog.transaction():
        catalog.delete(1)
    assert do(catalog, replace(put(3), path=b"new.png", moved_from=old)) == ["added"]
    assert [(i.id, i.path) for i in catalog.images()] == [(2, b"new.png")]


def test_the_same_source_moves_only_once(catalog: Catalog) -> None:
    do(catalog, put(3))
    old = catalog.image(1)
    copies = [replace(put(3), path=name, moved_from=old) for name in (b"x.png", b"y.png")]
    assert do(catalog, *copies) == ["moved", "added"]
    assert [(i.id, i.path) for i in catalog.images()] == [(1, b"x.png"), (2, b"y.png")]


def test_categories_that_repeat_count_once_with_their_first_probability(catalog: Catalog) -> None:
    do(catalog, replace(put(1), categories=[7, 2, 7, 2], probabilities=[0.5, 0.25, 0.125, 0.0625]))
    assert rows(catalog, "member") == [(1, 0, 7, 0.5), (1, 1, 2, 0.25)]
    assert rows(catalog, "pending") == [(2, 1), (7, 1)]
    assert catalog.categories_of([1], 4).tolist() == [[7, 2, -1, -1]]


def test_delete_makes_tombstones_of_folded_rows_only(catalog: Catalog) -> None:
    do(catalog, put(1), put(2))
    fold(catalog, 1)
    fold(catalog, 4)
    with catalog.transaction():
        catalog.delete(1)
    assert rows(catalog, "tombstone") == [(1, 1), (4, 1)]
    assert rows(catalog, "pending") == [(2, 2), (3, 2), (5, 2), (8, 2)]
    assert [len(rows(catalog, table)) for table in ("image", "vector", "member")] == [1, 1, 4]
    assert catalog.loads()[:3] == [Load(1, 1, 1, 0), Load(2, 0, 0, 1), Load(3, 0, 0, 1)]


def test_an_inode_beyond_63_bits_survives(catalog: Catalog) -> None:
    stamps = [Stamp(1, -5, inode) for inode in (0, 2**63 - 1, 2**63, 2**64 - 1)]
    do(catalog, *(replace(put(n), stamp=stamp) for n, stamp in enumerate(stamps)))
    assert [image.stamp for image in catalog.images()] == stamps


def test_more_images_than_a_page_come_in_order_each_once(catalog: Catalog) -> None:
    with catalog.transaction():
        catalog.add_root(b"/more", b"../more", True)
    paths = [(1 + n % 2, b"%d\xff" % n) for n in range(2 * PAGE + 1)]
    do(catalog, *(replace(put(1), root=r, path=p, categories=[1], probabilities=[1.0]) for r, p in paths))
    assert [(image.root, image.path) for image in catalog.images()] == sorted(paths)
    assert [image for image, _, _ in catalog.vectors()] == list(range(1, 2 * PAGE + 2))


def test_a_damaged_vector_is_not_given_out(catalog: Catalog) -> None:
    do(catalog, put(1))
    catalog.sql.execute("UPDATE vector SET data = zeroblob(24)")
    assert catalog.vector(1) is None


# --- failures and removed paths ---------------------------------------------------------------------------------


def test_a_failure_with_a_stamp_drops_the_image(catalog: Catalog) -> None:
    do(catalog, put(1))
    with catalog.transaction():
        catalog.fail(1, put(1).path, "cut short", Stamp(1, 2, 3))
    assert (catalog.count(), catalog.failures()) == (0, [(1, put(1).path, "cut short")])
    assert rows(catalog, "failure") == [(1, put(1).path, 1, 2, 3, "cut short")]


def test_a_failure_without_a_stamp_keeps_the_image(catalog: Catalog) -> None:
    do(catalog, put(1))
    with catalog.transaction():
        catalog.fail(1, put(1).path, "permission denied", None)
        catalog.fail(1, put(1).path, "permission denied again", None)
    assert (catalog.count(), catalog.failed()) == (1, 1)
    assert rows(catalog, "failure") == [(1, put(1).path, None, None, None, "permission denied again")]


def test_an_image_that_is_stored_takes_the_failure_away(catalog: Catalog) -> None:
    with catalog.transaction():
        catalog.fail(1, put(1).path, "cut short", Stamp(1, 2, 3))
    do(catalog, put(1))
    assert catalog.failures() == []


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_below_is_a_path_and_what_lies_in_it_and_no_neighbour(catalog: Catalog, name: bytes) -> None:
    do(catalog, *(replace(put(n), path=path) for n, path in enumerate(NEIGHBOURS)))
    expected = {path for path in NEIGHBOURS if path == name or path.startswith(name + b"/")}
    found = {image.path for image in catalog.images() if image.id in catalog.ids_below(1, name)}
    assert found == expected
    assert catalog.is_known(1, name) and not catalog.is_known(2, name)


@pytest.mark.parametrize("statement", ["SELECT id FROM image", "SELECT inode FROM failure", "DELETE FROM removed"])
def test_what_lies_below_a_path_is_found_without_going_through_all_of_its_root(
    catalog: Catalog, statement: str
) -> None:
    where, values = below(1, b"a")
    plan = [row[3] for row in catalog.sql.execute(f"EXPLAIN QUERY PLAN {statement} WHERE {where}", values)]
    assert len(plan) == 1 and plan[0].endswith("(root=? AND path>? AND path<?)"), plan


def test_below_nothing_is_the_whole_root(catalog: Catalog) -> None:
    do(catalog, *(replace(put(n), path=name) for n, name in enumerate(NEIGHBOURS)))
    assert len(catalog.ids_below(1, b"")) == len(NEIGHBOURS)
    assert below(2, b"") == ("root = ?", (2,))


def test_removing_a_folder_forgets_the_failures_in_it(catalog: Catalog) -> None:
    with catalog.transaction():
        for name in NEIGHBOURS:
            catalog.fail(1, name, "cut short", None)
        catalog.set_removed(1, b"a")
        catalog.set_removed(1, b"a")
    assert catalog.removed(1) == {b"a": True}
    gone = {b"a", b"a/", b"a/b", b"a/b/c", b"a/\xff\xfe"}
    assert {name for _, name, _ in catalog.failures()} == set(NEIGHBOURS) - gone


def test_taking_a_removal_back_reaches_down_but_neither_up_nor_aside(catalog: Catalog) -> None:
    with catalog.transaction():
        catalog.set_removed(1, b"a")
        catalog.set_removed(1, b"a0")
        catalog.clear_removed(1, b"a/b")
    removed = catalog.removed(1)
    assert removed == {b"a": True, b"a0": True, b"a/b": False}
    names = [b"a", b"a/c", b"a0/x", b"a/b", b"a/b/c", b"a-b", b"b"]
    assert [name for name in names if is_removed(name, removed)] == [b"a", b"a/c", b"a0/x"]


def test_a_file_taken_back_from_a_removed_folder_goes_again_with_the_folder(catalog: Catalog) -> None:
    with catalog.transaction():
        catalog.set_removed(1, b"a")
        catalog.clear_removed(1, b"a/b")
        catalog.set_removed(1, b"a")
    assert catalog.removed(1) == {b"a": True}


def test_excludes_keep_bytes_that_are_no_text(catalog: Catalog) -> None:
    globs = ["*.tmp", os.fsdecode(b"\xff*")]
    with catalog.transaction():
        catalog.set_excludes(globs + globs)
    assert catalog.excludes() == sorted(globs)


# --- shards -----------------------------------------------------------------------------------------------------


def test_a_new_pointer_makes_garbage_of_the_old_and_clears_tombstones(catalog: Catalog) -> None:
    do(catalog, put(1, [0]), put(2, [0]))
    fold(catalog, 0, generation=5)
    with catalog.transaction():
        catalog.delete(1)
    do(catalog, put(3, [0]))
    with catalog.transaction():
        halves = [Centroid(0, n, n, 1, np.full(12, n + 1, np.float16)) for n in range(2)]
        catalog.point(Pointer(0, 6, 2, 10, 20), halves, [3], 100.0)
    assert catalog.pointers() == [catalog.pointer(0)] == [Pointer(0, 6, 2, 10, 20)]
    assert (rows(catalog, "pending"), rows(catalog, "tombstone")) == ([], [])
    assert rows(catalog, "garbage") == [(0, 5, 100.0)]
    assert (catalog.garbage(99.0), catalog.garbage(100.0)) == ([], [(0, 5)])
    found = [(c.category, c.block, c.first, c.rows, c.mean.tolist()) for c in catalog.centroids()]
    assert found == [(0, 0, 0, 1, [1.0] * 12), (0, 1, 1, 1, [2.0] * 12)]
    assert catalog.folded() == (1, 6, 6)


def test_generations_rise_even_when_what_follows_fails(catalog: Catalog) -> None:
    assert catalog.reserve_generations(3) == 1
    assert catalog.reserve_generations(1) == 4
    with pytest.raises(ZeroDivisionError), catalog.transaction():
        _ = 1 / 0
    assert catalog.reserve_generations(1) == 5


# --- the survey -------------------------------------------------------------------------------------------------


@pytest.fixture
def survey(open_reader: Callable[[], Catalog]) -> Survey:
    return Survey(open_reader())


def found(number: int, **changes: Any) -> Todo:
    return replace(Todo(1, put(number).path, put(number).stamp, None), **changes)


def test_the_survey_tells_new_changed_touched_and_gone(catalog: Catalog, survey: Survey) -> None:
    do(catalog, *(put(n) for n in range(6)))
    new = found(7, path=b"new.png")
    touched = [
        found(n, stamp=replace(put(n).stamp, **{key: 1})) for n, key in ((1, "size"), (2, "mtime_ns"), (3, "inode"))
    ]
    survey.scope(1, b"")
    survey.found([new, found(0), *touched, found(0, stamp=Stamp(9, 9, 9))])
    survey.settle()
    assert list(survey.todo()) == [new, *touched]
    assert list(survey.gone()) == [(5, 1, put(4).path), (6, 1, put(5).path)]
    assert [survey.count(table) for table in ("found", "todo", "gone")] == [5, 4, 2]


def test_only_what_is_in_scope_is_gone_and_once_where_scopes_overlap(catalog: Catalog, survey: Survey) -> None:
    do(catalog, *(replace(put(n), path=name) for n, name in enumerate(NEIGHBOURS)))
    for scope in (b"a", b"a/b", b"a"):
        survey.scope(1, scope)
    survey.scope(2, b"")
    survey.found([])
    survey.settle()
    expected = {b"a", b"a/", b"a/b", b"a/b/c", b"a/\xff\xfe"}
    gone = [path for _, _, path in survey.gone()]
    assert sorted(gone) == sorted(expected)


def test_what_lies_below_an_unlisted_folder_is_not_gone(catalog: Catalog, survey: Survey) -> None:
    do(catalog, *(replace(put(n), path=name) for n, name in enumerate(NEIGHBOURS)))
    survey.scope(1, b"")
    survey.unlisted(1, b"a")
    survey.found([])
    survey.settle()
    kept = {b"a", b"a/", b"a/b", b"a/b/c", b"a/\xff\xfe"}
    assert {path for _, _, path in survey.gone()} == set(NEIGHBOURS) - kept


def test_an_unlisted_root_is_gone_nowhere(catalog: Catalog, survey: Survey) -> None:
    do(catalog, put(1))
    with catalog.transaction():
        catalog.fail(1, b"bad.png", "cut short", Stamp(1, 2, 3))
    survey.scope(1, b"")
    survey.unlisted(1, b"")
    survey.settle()
    assert (list(survey.gone()), survey.stale_failures()) == ([], [])


def test_a_known_failure_is_not_looked_at_again_until_its_stamp_differs(catalog: Catalog, survey: Survey) -> None:
    with catalog.transaction():
        for number in (1, 2, 3, 4):
            stamp = None if number == 3 else put(number).stamp
            catalog.fail(1, put(number).path, f"fault {number}", stamp)
    changed = found(2, stamp=Stamp(1, 2, 3))
    again = found(3)
    known = found(4, reason="a FIFO")
    survey.scope(1, b"")
    survey.found([found(1), changed, again, known])
    survey.settle()
    assert list(survey.todo()) == [changed, again]
    assert survey.known_failures() == [(1, put(1).path, "fault 1"), (1, put(4).path, "fault 4")]


def test_what_could_not_be_looked_at_is_looked_at_every_time(catalog: Catalog, survey: Survey) -> None:
    with catalog.transaction():
        catalog.fail(1, put(1).path, "permission denied", None)
    unreadable = found(1, stamp=None, reason="permission denied")
    survey.scope(1, b"")
    survey.found([unreadable])
    survey.settle()
    assert list(survey.todo()) == [unreadable]
    assert survey.known_failures() == []


def test_an_image_that_is_readable_again_is_looked_at_so_that_its_failure_goes(
    catalog: Catalog, survey: Survey
) -> None:
    do(catalog, put(1), put(2))
    with catalog.transaction():
        catalog.fail(1, put(1).path, "permission denied", None)
    survey.scope(1, b"")
    survey.found([found(1), found(2)])
    survey.settle()
    assert list(survey.todo()) == [found(1)]
    assert do(catalog, put(1)) == ["unchanged"]
    assert catalog.failures() == []


def test_failures_of_files_that_are_gone_are_stale_once_and_only_in_scope(catalog: Catalog, survey: Survey) -> None:
    with catalog.transaction():
        assert catalog.add_root(b"/other", b"../other", True) == 2
        for name in [*NEIGHBOURS, b"here.png"]:
            catalog.fail(1, name, "cut short", Stamp(1, 2, 3))
        catalog.fail(2, b"a", "in another root", None)
    survey.scope(1, b"")
    survey.scope(1, b"a")
    survey.unlisted(1, b"a/b")
    survey.found([Todo(1, b"here.png", Stamp(4, 5, 6), None)])
    survey.settle()
    assert survey.stale_failures() == sorted((1, name) for name in NEIGHBOURS if name not in (b"a/b", b"a/b/c"))


def test_a_survey_longer_than_a_page_keeps_its_order(catalog: Catalog, survey: Survey) -> None:
    paths = [b"%d" % (n * 7919 % 5003) for n in range(2 * PAGE + 1)]
    do(catalog, *(put(1, [1], path=b"old" + path) for path in paths))
    survey.scope(1, b"")
    survey.found([found(1, path=path) for path in paths])
    survey.settle()
    assert [todo.path for todo in survey.todo()] == paths
    assert [path for _, _, path in survey.gone()] == [b"old" + path for path in paths]


def test_a_survey_keeps_inodes_beyond_63_bits(catalog: Catalog, survey: Survey) -> None:
    known, new = (found(n, stamp=Stamp(1, 2, 2**64 - n)) for n in (1, 2))
    do(catalog, replace(put(1), stamp=Stamp(1, 2, 2**64 - 1)))
    survey.scope(1, b"")
    survey.found([known, new])
    survey.settle()
    assert list(survey.todo()) == [new]


def test_a_survey_that_is_interrupted_can_be_closed(survey: Survey) -> None:
    def broken() -> Iterator[Todo]:
        yield found(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        survey.found(broken())
    assert survey.count("found") == 0
