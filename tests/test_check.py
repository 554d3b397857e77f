"""Check and repair: every kind of damage is found under its name, and what can be healed is healed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from stock import DIMENSION, answers, delete, fill, make, put, shards, unit

from catdb import shard
from catdb.catalog import Catalog
from catdb.check import Repair, check, repair
from catdb.checksum import checksum
from catdb.errors import DatabaseDamaged
from catdb.shard import Rows
from catdb.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Thirty images in ten shards, three that wait, two that are dead."""
    store = make(tmp_path / "db")
    fill(store, range(30))
    store.fold_all()
    fill(store, range(30, 33))
    delete(store, 1, 2)
    yield store
    store.close()


def kinds(store: Store) -> set[str]:
    return {problem.kind for problem in check(store).problems}


def spoil(store: Store, statement: str, *values: object) -> None:
    with store.writing() as catalog:
        catalog.sql.execute(statement, values)


def replace_shard(store: Store, category: int, change: Callable[[Rows], Rows]) -> None:
    """Put other rows into a category's file, under a pointer with the right size and checksums."""
    with store.writing() as catalog:
        pointer = catalog.pointer(category)
        assert pointer is not None
        path = store.file(category, pointer.generation)
        with shard.opened(path) as file:
            rows = change(shard.load(file, f"c{category}", DIMENSION))
        data = shard.encode(f"c{category}", rows)
        os.unlink(path)
        shard.write(path, data)
        catalog.sql.execute(
            "UPDATE shard SET bytes = ?, checksum = ?, features = ?, stride = ?, rest = ? WHERE category = ?",
            (len(data), checksum(data), *shard.apart(data), category),
        )
        parts = ((b.block, rows.features[b.first : b.first + b.rows].tobytes()) for b in catalog.blocks_of(category))
        sums = [(checksum(part), category, block) for block, part in parts]
        catalog.sql.executemany("UPDATE centroid SET checksum = ? WHERE category = ? AND block = ?", sums)


def test_a_sound_database_is_ok(store: Store, tmp_path: Path) -> None:
    assert check(store).ok
    assert repair(store) == Repair()
    store.fold_all()
    assert check(store).ok
    empty = make(tmp_path / "empty")
    assert (check(empty).ok, repair(empty)) == (True, Repair())
    empty.close()


def test_a_file_that_nobody_knows_is_a_leftover_and_no_problem(store: Store) -> None:
    files = [Path(store.path, "shards", name) for name in ("stray", "c1/99.h5", "c1/99.h5.part")]
    for file in files:
        file.touch()
    found = check(store)
    assert (found.ok, found.leftovers) == (True, tuple(sorted(map(str, files))))


def test_a_replaced_shard_is_no_leftover_until_it_is_collected(store: Store) -> None:
    store.fold_all()
    assert check(store).leftovers == ()


SHARD: dict[str, Callable[[Path], object]] = {
    "bytes": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\1"),
    "size": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "missing": Path.unlink,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", SHARD.values(), ids=SHARD.keys())
def test_damage_to_a_file_is_found_and_healed_byte_for_byte(store: Store, damage: Callable[[Path], object]) -> None:
    before, whole = answers(store), shards(store)
    with store.snapshot() as snapshot:
        pointer = snapshot.catalog.pointer(3)
        assert pointer is not None
        place = Path(store.file(3, pointer.generation))
        with shard.opened(str(place)) as file:
            rows = shard.load(file, "c3", DIMENSION)
    damage(place)
    [problem] = check(store).problems
    assert (problem.kind, problem.where) == ("shard", str(place))
    assert repair(store).rebuilt == 1
    assert check(store).ok
    assert answers(store) == before
    [(name, healed)] = [(name, data) for name, data in shards(store).items() if name not in whole]
    assert name.startswith("c3/")
    with store.snapshot() as snapshot:
        living = [image for image in rows.image_ids.tolist() if snapshot.catalog.image(image)]
        living = sorted({*living, *snapshot.catalog.members(3)})
        assert healed == shard.encode("c3", store.rows(snapshot.catalog, living))


ROWS: dict[str, Callable[[Rows], Rows]] = {
    "another vector": lambda rows: Rows(np.roll(rows.features, 1, axis=0), rows.image_ids, rows.categories),
    "another image": lambda rows: Rows(rows.features, rows.image_ids + 1000, rows.categories),
    "a row less": lambda rows: Rows(rows.features[1:], rows.image_ids[1:], rows.categories[1:]),
    "another order": lambda rows: Rows(rows.features[::-1], rows.image_ids[::-1], rows.categories[::-1]),
}


@pytest.mark.parametrize("change", ROWS.values(), ids=ROWS.keys())
def test_rows_that_are_not_those_of_the_catalog_are_found_under_any_checksum(
    store: Store, change: Callable[[Rows], Rows]
) -> None:
    before = answers(store)
    replace_shard(store, 3, change)
    assert kinds(store) == {"shard"}
    assert repair(store).rebuilt == 1
    assert check(store).ok
    assert answers(store) == before


RECORD: dict[str, tuple[str, str]] = {
    "bytes": ("UPDATE vector SET data = zeroblob(24) WHERE image = ?", "its checksum is not"),
    "checksum": ("UPDATE vector SET checksum = checksum + 1 WHERE image = ?", "its checksum is not"),
    "length": ("UPDATE vector SET data = substr(data, 1, 22) WHERE image = ?", "it has 22 bytes, not 24"),
}


@pytest.mark.parametrize(("statement", "detail"), RECORD.values(), ids=RECORD.keys())
def test_a_damaged_vector_is_found_and_taken_back_from_a_shard(store: Store, statement: str, detail: str) -> None:
    before = answers(store)
    spoil(store, statement, 7)
    [problem] = [problem for problem in check(store).problems if problem.kind == "vector"]
    assert problem.where == "image 7" and problem.detail.startswith(detail)
    repair(store)
    assert check(store).ok
    assert answers(store) == before
    with store.snapshot() as snapshot:
        vector = snapshot.catalog.vector(7)
        assert vector is not None and vector.tolist() == unit(6).tolist()


def test_a_damaged_vector_that_no_shard_holds_makes_its_image_new_to_the_next_build(store: Store) -> None:
    before = answers(store)[0]
    spoil(store, "UPDATE vector SET data = zeroblob(24) WHERE image = 32")
    assert kinds(store) == {"vector"}
    repair(store)
    assert check(store).ok
    assert sorted(answers(store)[0]) == sorted(set(before) - {32})
    assert store.commit([put(31)]) == ["added"]


def test_a_damaged_vector_beside_a_damaged_shard_is_taken_from_another_shard(store: Store) -> None:
    before = answers(store)
    spoil(store, "UPDATE vector SET data = zeroblob(24) WHERE image = 7")
    with store.snapshot() as snapshot:
        [first, *_] = [p for p in snapshot.catalog.pointers() if p.category == 6]
    os.unlink(store.file(first.category, first.generation))
    assert kinds(store) == {"vector", "shard"}
    assert repair(store).rebuilt == 1
    assert check(store).ok
    assert answers(store) == before


@pytest.mark.damaged
@pytest.mark.parametrize("length", [0.0, 0.9, 1.1, float("nan"), float("inf")])
def test_a_vector_that_is_no_unit_vector_is_found(store: Store, length: float) -> None:
    data = np.full(12, length / 12**0.5, np.float16).tobytes()
    spoil(store, "UPDATE vector SET data = ?, checksum = ? WHERE image = 32", data, checksum(data))
    [problem] = check(store).problems
    assert (problem.kind, problem.where) == ("vector", "image 32")
    assert problem.detail.endswith("not 1")


@pytest.mark.damaged
def test_a_member_that_was_deleted_is_found(store: Store) -> None:
    spoil(store, "DELETE FROM member WHERE image = 7 AND category = 6")
    assert kinds(store) == {"catalog", "count", "shard"}


def test_a_row_that_ought_to_wait_is_found_and_healed(store: Store) -> None:
    before = answers(store)
    spoil(store, "DELETE FROM pending WHERE image = 32")
    assert kinds(store) == {"count", "shard"}
    assert repair(store).rebuilt == 4
    assert check(store).ok
    assert answers(store) == before


def test_a_row_that_ought_to_wait_beside_no_shard_is_found_and_healed(store: Store) -> None:
    with store.writing() as catalog:
        store.unpoint(catalog, [3])
    before = answers(store)
    spoil(store, "DELETE FROM pending WHERE category = 3 AND image > 20")
    assert kinds(store) == {"count"}
    assert repair(store).rebuilt == 1
    assert check(store).ok
    assert answers(store) == before


def test_a_stray_tombstone_is_found_and_healed(store: Store) -> None:
    before = answers(store)
    spoil(store, "INSERT INTO tombstone VALUES(6, 7)")
    assert kinds(store) == {"count", "catalog", "shard"}
    repair(store)
    assert check(store).ok
    assert answers(store) == before


def test_a_tombstone_of_a_category_that_holds_nothing_is_found_and_healed(tmp_path: Path) -> None:
    store = make(tmp_path / "other")
    spoil(store, "INSERT INTO tombstone VALUES(6, 7)")
    assert kinds(store) == {"catalog", "count"}
    repair(store)
    assert check(store).ok
    store.close()


@pytest.mark.damaged
def test_rows_that_refer_to_nothing_are_found(store: Store) -> None:
    spoil(store, "INSERT INTO vector SELECT 1000, data, checksum FROM vector WHERE image = 7")
    spoil(store, "INSERT INTO pending VALUES(1, 1000)")
    details = {problem.detail for problem in check(store).problems if problem.kind == "catalog"}
    assert details == {"vectors without an image (1)", "waiting rows without a membership (1)"}


def test_a_shard_that_is_replaced_while_the_check_runs_is_no_problem(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = make(Path(store.path))
    vectors = Catalog.vectors

    def meanwhile(catalog: Catalog) -> Iterator[tuple[int, bytes, int]]:
        monkeypatch.setattr(Catalog, "vectors", vectors)
        writer.fold_all()
        with writer.writing() as other:
            writer.collect(other, grace=0)
        yield from vectors(catalog)

    monkeypatch.setattr(Catalog, "vectors", meanwhile)
    assert check(store).problems == ()
    writer.close()


# --- the catalog's own rows -------------------------------------------------------------------------------------

# What is spoiled, what check says of it, and how many images have to leave for it.
RULES = {
    "a vector gone": ("DELETE FROM vector WHERE image = 7", "images without a vector (1)", 1),
    "categories gone": ("DELETE FROM member WHERE image = 7", "images without a category (1)", 1),
    "a root gone": ("UPDATE image SET root = 99 WHERE id = 7", "images without a root (1)", 1),
    "an unknown category": (
        "UPDATE member SET category = 10 WHERE image = 7 AND rank = 3",
        "of an unknown category",
        1,
    ),
    "a rank gone": ("DELETE FROM member WHERE image = 7 AND rank = 1", "distinct and at most four (1)", 1),
    "a category twice": ("UPDATE member SET category = 6 WHERE image = 7 AND rank = 3", "not ranked from 0", 1),
    "a rank too many": ("INSERT INTO member VALUES(7, 4, 2, 0.01)", "at most four", 1),
    "rising": ("UPDATE member SET probability = 0.9 WHERE image = 7 AND rank = 1", "probabilities are not falling", 1),
    "beyond 1": ("UPDATE member SET probability = 2.0 WHERE image = 7 AND rank = 0", "between 0 and 1", 1),
    "an image gone": ("DELETE FROM image WHERE id = 7", "vectors without an image (1)", 0),
    "a text for a size": ("UPDATE image SET size = 'large' WHERE id = 7", "images of no known form (1)", 1),
    "a text for a path": ("UPDATE image SET path = 'a.png' WHERE id = 7", "images of no known form (1)", 1),
    "a text for a vector": ("UPDATE vector SET data = 'text' WHERE image = 7", "vectors of no known form (1)", 0),
    "a text for a category": ("UPDATE member SET category = 'x' WHERE image = 7 AND rank = 3", "memberships of no", 1),
    "a text for a waiting row": ("INSERT INTO pending VALUES(1, 'x')", "waiting rows of no known form (1)", 0),
    "a text for a dead row": ("INSERT INTO tombstone VALUES(1, 'x')", "dead rows of no known form (1)", 0),
    "a text for a checksum": ("UPDATE shard SET checksum = 'x' WHERE category = 3", "shards of no known form (1)", 0),
    "a text for a centroid": ("UPDATE centroid SET data = 'x' WHERE category = 3", "centroids of no known form (1)", 0),
    "a text for the place of features": ("UPDATE shard SET features = 'x' WHERE category = 3", "shards with checks", 0),
    "a text for a block's checksum": ("UPDATE centroid SET checksum = 'x' WHERE category = 3", "centroids with che", 0),
    "garbage in use": ("INSERT INTO garbage SELECT category, generation, 0 FROM shard", "that are still in use", 0),
    "unknown garbage": ("INSERT INTO garbage VALUES(99, 1, 0)", "replaced shards of an unknown category (1)", 0),
    "an unknown shard": ("INSERT INTO shard VALUES(99, 999, 1, 1, 1, 1, 1, 1)", "shards of an unknown category (1)", 0),
    "a stray centroid": ("INSERT INTO centroid VALUES(99, 0, 0, 1, x'', 1)", "centroids without a shard (1)", 0),
    "an old generation": ("UPDATE meta SET value = 2 WHERE key = 'generation'", "generation that was used before", 0),
    "a stray failure": ("INSERT INTO failure VALUES(99, x'61', 1, 1, 1, 'why')", "failures without a root (1)", 0),
    "a text for a content": ("INSERT INTO distinct_pair VALUES('x', x'01')", "distinct pairs of no known form (1)", 0),
    "a pair in disorder": ("INSERT INTO distinct_pair VALUES(x'02', x'01')", "pairs that are not in order", 0),
    "a stray removal": ("INSERT INTO removed VALUES(99, x'61', 0)", "removed paths without a root (1)", 0),
}


@pytest.mark.parametrize(("statement", "detail", "gone"), RULES.values(), ids=RULES.keys())
def test_rows_of_the_catalog_in_disorder_are_found_and_mended(
    store: Store, statement: str, detail: str, gone: int
) -> None:
    before = dict(zip(*answers(store)[:2], strict=True))
    spoil(store, statement)
    found = check(store)
    assert any(detail in problem.detail for problem in found.problems if problem.kind == "catalog"), found.problems
    assert repair(store).gone == gone
    assert check(store).problems == ()
    expected = (
        before
        if "image gone" not in detail and not gone and "without an image" not in detail
        else {image: similarity for image, similarity in before.items() if image != 7}
    )
    assert dict(zip(*answers(store)[:2], strict=True)) == expected


@pytest.mark.damaged
@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM meta WHERE key = 'dimension'",
        "UPDATE meta SET value = 'x' WHERE key = 'dimension'",
        "DELETE FROM category WHERE number = 5",
        "DROP TABLE vector",
        "DROP INDEX image_digest",
    ],
)
def test_what_only_a_backup_can_mend_is_said(store: Store, statement: str) -> None:
    spoil(store, statement)
    for look in (check, repair, check):
        try:
            found = look(store)
        except DatabaseDamaged as error:
            assert "backup" in str(error)
        else:
            assert found.lost if isinstance(found, Repair) else not found.ok


def test_the_last_category_of_an_image_that_was_lost_is_told_by_its_shards(store: Store) -> None:
    """The catalog's rows are in order then, but the rows of the shards name one category more."""
    spoil(store, "DELETE FROM member WHERE image = 7 AND rank = 3")
    details = " ".join(problem.detail for problem in check(store).problems)
    assert "1 of its images with other categories than in the catalog" in details
    assert repair(store).gone == 1
    assert check(store).ok
    assert 7 not in answers(store)[0]


@pytest.mark.parametrize("data", [bytes(24), b"", bytes(22), np.full(12, np.nan, "<f2").tobytes()])
def test_a_centroid_that_is_not_the_mean_is_found_and_made_anew(store: Store, data: bytes) -> None:
    spoil(store, "UPDATE centroid SET data = ? WHERE category = 3", data)
    assert [problem.detail for problem in check(store).problems] == ["its centroid is not the mean of its rows"]
    assert repair(store) == Repair(1, 0)
    assert check(store).ok


def test_a_damaged_index_is_made_anew(store: Store) -> None:
    before = answers(store)
    with store.snapshot() as snapshot:
        sql = snapshot.catalog.sql
        [page] = sql.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'image_digest'").fetchone()
        [size] = sql.execute("PRAGMA page_size").fetchone()
        digest = snapshot.catalog.image(7).digest  # type: ignore[union-attr]
    store.close()
    path = Path(store.path, "catalog.sqlite")
    data = bytearray(path.read_bytes())
    data[data.index(digest, size * (page - 1))] ^= 1
    path.write_bytes(data)
    assert any("image_digest" in problem.detail for problem in check(store).problems)
    assert repair(store) == Repair()
    assert check(store).ok
    assert answers(store) == before


def test_flipped_bytes_of_the_catalog_are_found_or_harmless_and_never_crash(store: Store, tmp_path: Path) -> None:
    """Where a check says that all is well, all answers are those of before; else it says what is wrong."""
    before = answers(store)[:2]
    store.close()
    good = Path(store.path, "catalog.sqlite").read_bytes()
    random = np.random.default_rng(20)
    written = np.flatnonzero(np.frombuffer(good, np.uint8))  # most of a small catalog is room for more rows
    found = 0
    for place in random.choice(written, int(os.environ.get("CATDB_FLIPS", "120")), replace=False).tolist():
        data = bytearray(good)
        data[place] ^= int(random.integers(1, 256))
        Path(store.path, "catalog.sqlite").write_bytes(data)
        other = Store(store.path, wait=0.0)
        try:
            if check(other).ok:
                assert answers(other)[:2] == before, place
            else:
                found += 1
                repair(other)
        except DatabaseDamaged:
            found += 1
        finally:
            other.close()
    Path(store.path, "catalog.sqlite").write_bytes(good)
    repair(store)  # that of a spoilt catalog may have taken a shard away to which the good one points
    assert answers(store)[:2] == before
    assert found >= 30
