"""Any sequence of what can be done gives what a plain dict would: the store of vectors, and the database of images.

$CATDB_EXAMPLES says how many sequences each machine runs, for a longer look by hand.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Instant, picture
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from stock import CATEGORIES, DIMENSION, make, put, shards, unit

from catdb import Database
from catdb.backup import UNFINISHED, backup
from catdb.catalog import Catalog, Image, Put
from catdb.check import check, repair
from catdb.images import fit
from catdb.lock import Lock
from catdb.search import nearest
from catdb.store import CATALOG, Store

CLOSE = 2e-6  # what a search promises
EXAMPLES = int(os.environ.get("CATDB_EXAMPLES", "0"))


def some(examples: int, steps: int) -> settings:
    return settings(
        max_examples=EXAMPLES or examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
    )


# --- the process that dies ----------------------------------------------------------------------------------------


class Died(BaseException):
    """The process is dead: nothing that it would still have done is done."""


class Traced:
    """A connection whose commits are steps."""

    def __init__(self, sql: Any, tick: Callable[[], None], life: list[int]) -> None:
        self.sql, self._tick, self._life = sql, tick, life

    def execute(self, statement: str, *values: Any) -> Any:
        ends = statement == "COMMIT"
        if ends or statement.startswith("BEGIN IMMEDIATE") or self._life[0] < 0:
            self._tick()
        done = self.sql.execute(statement, *values)
        if ends:
            self._tick()  # committed, and never acknowledged
        return done

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sql, name)


@contextmanager
def dying(life: int, store: Store) -> Iterator[list[Catalog]]:
    """Raise Died at the n-th step to the disk, half of it done, and at every one after it."""
    left = [life]
    patch = pytest.MonkeyPatch()
    catalogs: list[Catalog] = []

    def tick() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Died

    def before(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *words, **options: (tick(), function(*words, **options))[1]

    def torn(handle: int, data: Any) -> int:
        if left[0] == 0:
            write(handle, memoryview(data)[: len(data) // 2])
        tick()
        return write(handle, data)

    def trace(catalog: Catalog) -> Catalog:
        catalog.sql = Traced(catalog.sql, tick, left)  # type: ignore[assignment]
        catalogs.append(catalog)
        return catalog

    write, opened = os.write, Catalog.writer
    for name in ("fsync", "unlink", "rmdir", "makedirs", "mkdir", "rename", "link"):
        patch.setattr(os, name, before(getattr(os, name)))
    patch.setattr(os, "write", torn)
    patch.setattr(Lock, "_sign", before(Lock._sign))
    patch.setattr(Catalog, "writer", lambda path: trace(opened(path)))
    if store._connections._writer:
        trace(store._connections._writer)
    try:
        yield catalogs
    finally:
        patch.undo()
        for catalog in catalogs:
            catalog.sql = catalog.sql.sql  # type: ignore[attr-defined]
            with suppress(Exception):  # one that is closed
                if catalog.sql.in_transaction:
                    catalog.sql.rollback()


# --- the store ----------------------------------------------------------------------------------------------------

PATHS = [b"%d.png" % number for number in range(12)] + [b"below/%d.png" % number for number in range(3)]
paths = st.sampled_from(PATHS)
contents = st.integers(1, 40)
categories = st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True)
lives = st.none() | st.integers(0, 60)

Known = dict[bytes, int]  # path -> the number of its content


def of(content: int) -> list[int]:
    """Return the categories of a content: up to four, of which some are named twice."""
    return [int(category) for category in np.random.default_rng(content).integers(0, 10, 1 + content % 4)]


def item(path: bytes, content: int, moved_from: Image | None = None) -> Put:
    plain = put(content, of(content), path=path)
    return Put(**{**{name: getattr(plain, name) for name in Put.__slots__}, "moved_from": moved_from})


class Stored(RuleBasedStateMachine):
    """Vectors, categories and paths: commits, folds, collections, deaths, copies."""

    @initialize()
    def begin(self) -> None:
        self.place = Path(tempfile.mkdtemp())
        self.path = self.place / "db"
        self.store = make(self.path)
        self.reader = Store(str(self.path), writable=False)
        self.model: Known = {}
        self.ids: dict[bytes, tuple[int, int]] = {}  # path -> (content, id)
        self.highest = 0
        self.dead: list[Store] = []
        self.copies = 0

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        try:
            self.same()
            self.whole()
        finally:
            for store in (self.store, self.reader, *self.dead):
                store.close()
            shutil.rmtree(self.place)

    def do(self, action: Callable[[], Any], after: Known, life: int | None) -> Any:
        """Do something that leads to a state; or, with a life, die over it, and see that it is done or it is not."""
        if life is None:
            done = action()
            self.model = after
            return done
        finished = False
        with suppress(Died), dying(life, self.store):
            action()
            finished = True
        if not finished:
            self.dead.append(self.store)  # never closed, as it would not be
            self.store = Store(str(self.path), wait=0.0)
        found = {path: content for path, (content, _) in self.read(self.reader).items()}
        assert found == after or (not finished and found == self.model)
        self.model = found
        return None

    @staticmethod
    def read(store: Store) -> dict[bytes, tuple[int, int]]:
        with store.snapshot() as snapshot:
            found = {}
            for image in snapshot.catalog.images():
                content = int.from_bytes(image.digest, "big")
                assert image.categories == tuple(dict.fromkeys(of(content)))
                vector = snapshot.catalog.vector(image.id)
                assert vector is not None and (vector == unit(content)).all()
                found[image.path] = content, image.id
            return found

    # --- what changes it

    @rule(path=paths, content=contents, life=lives)
    def add(self, path: bytes, content: int, life: int | None) -> None:
        outcome = "added"
        if path in self.model:
            outcome = "unchanged" if self.model[path] == content else "changed"
        done = self.do(lambda: self.store.commit([item(path, content)]), {**self.model, path: content}, life)
        assert done in (None, [outcome])

    @rule(batch=st.dictionaries(paths, contents, min_size=2), life=lives)
    def add_batch(self, batch: Known, life: int | None) -> None:
        puts = [item(*pair) for pair in batch.items()]
        self.do(lambda: self.store.commit(puts), {**self.model, **batch}, life)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), life=lives)
    def delete(self, data: st.DataObject, life: int | None) -> None:
        chosen = data.draw(st.sets(st.sampled_from(sorted(self.model)), min_size=1))

        def action() -> None:
            with self.store.writing() as catalog, catalog.transaction():
                for path in sorted(chosen):
                    known = catalog.image_at(1, path)
                    assert known
                    catalog.delete(known.id)

        self.do(action, {path: content for path, content in self.model.items() if path not in chosen}, life)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), to=paths, content=contents)
    def move_too_late(self, data: st.DataObject, to: bytes, content: int) -> None:
        """Move an image of which another writer has made another one meanwhile: the new one stays where it is."""
        path = data.draw(st.sampled_from(sorted(self.model)))
        old = self.model[path]
        if to == path or content == old:
            return
        with self.reader.snapshot() as snapshot:
            image = snapshot.catalog.image_at(1, path)
        self.store.commit([item(path, content)])
        assert self.store.commit([item(to, old, image)]) not in (["moved"], ["moved over"])
        self.model = {**self.model, path: content, to: old}

    @precondition(lambda self: self.model)
    @rule(data=st.data(), to=paths, life=lives)
    def move(self, data: st.DataObject, to: bytes, life: int | None) -> None:
        path = data.draw(st.sampled_from(sorted(self.model)))
        content = self.model[path]
        with self.reader.snapshot() as snapshot:
            image = snapshot.catalog.image_at(1, path)
        after = dict(self.model)
        if after.get(to) != content:  # else only touched
            del after[path]
            after[to] = content
        self.do(lambda: self.store.commit([item(to, content, image)]), after, life)

    @rule(chosen=categories, life=lives)
    def fold(self, chosen: Sequence[int], life: int | None) -> None:
        self.do(lambda: self.store.fold(chosen), self.model, life)

    @rule(at_rest=st.booleans(), life=lives)
    def fold_due(self, at_rest: bool, life: int | None) -> None:
        self.do(lambda: self.store.fold_due(at_rest=at_rest), self.model, life)

    @rule(life=lives)
    def compact(self, life: int | None) -> None:
        self.do(lambda: self.store.fold_all(), self.model, life)
        if life is None:
            with self.reader.snapshot() as snapshot:
                assert not any(load.pending or load.dead for load in snapshot.catalog.loads())

    @rule(life=lives)
    def collect(self, life: int | None) -> None:
        def action() -> None:
            with self.store.writing() as catalog:
                self.store.collect(catalog, grace=0)

        self.do(action, self.model, life)
        if life is None:
            with self.store.writing() as catalog:
                assert len(shards(self.store)) == len(catalog.pointers())

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = Store(str(self.path), wait=0.0)

    @rule()
    def reopen_reader(self) -> None:
        self.reader.close()
        self.reader = Store(str(self.path), writable=False)

    @precondition(lambda self: shards(self.store))
    @rule(data=st.data(), place=st.integers(0, 10**6), life=lives)
    def damage_and_repair(self, data: st.DataObject, place: int, life: int | None) -> None:
        with self.reader.snapshot() as snapshot:
            pointers = snapshot.catalog.pointers()
        if not pointers:
            return
        pointer = data.draw(st.sampled_from(pointers))
        file = Path(self.store.file(pointer.category, pointer.generation))
        held = bytearray(file.read_bytes())
        held[place % len(held)] ^= 1 << place % 8
        file.write_bytes(held)
        assert not check(self.reader).ok
        self.search(place, list(range(10)), 100)
        self.do(lambda: repair(self.store), self.model, life)
        repair(self.store)
        self.whole()

    @rule(link=st.booleans(), life=lives)
    def back_up(self, link: bool, life: int | None) -> None:
        self.copies += 1
        target = self.place / f"copy{self.copies}"
        self.do(lambda: backup(self.store, str(target), link=link), self.model, life)
        whole = (target / CATALOG).exists()
        assert whole or life is not None
        if not whole:
            assert not Store(str(target)).exists()
            backup(self.store, str(target), link=link)
        assert not (target / UNFINISHED).exists()
        copy = Store(str(target), writable=False)
        assert (check(copy).problems, check(copy).leftovers) == ((), ())
        assert self.read(copy) == self.read(self.reader)
        self.compare(copy, 7, list(range(10)), 100)
        copy.close()
        shutil.rmtree(target)

    # --- what must hold

    @rule(query=contents, own=categories, k=st.integers(1, 20))
    def search(self, query: int, own: list[int], k: int) -> None:
        for store in (self.reader, self.store):
            self.compare(store, query, own, k)

    def compare(self, store: Store, query: int, own: list[int], k: int) -> None:
        """Compare a search of some categories with brute force in float64 over the model."""
        vector = unit(query)
        ids = {path: image for path, (_, image) in self.read(store).items()}
        with store.snapshot() as snapshot:
            hits = nearest(vector, snapshot.blocks(own), k)
            assert snapshot.catalog.count() == len(self.model)
        expected = brute({ids[path]: (unit(c), of(c)) for path, c in self.model.items()}, vector, own)
        assert hits.scanned == len(expected)
        assert hits.image_ids.tolist() == [image for _, image in expected[:k]]
        np.testing.assert_allclose(hits.similarities, [close for close, _ in expected[:k]], rtol=0, atol=CLOSE)

    @rule()
    def whole(self) -> None:
        assert check(self.reader).problems == ()

    @invariant()
    def same(self) -> None:
        """The catalog holds the model; what stayed kept its id, and what is new has one that was never used."""
        found = self.read(self.reader)
        assert {path: content for path, (content, _) in found.items()} == self.model
        before = set(self.ids.values())
        new = [image for content, image in found.values() if (content, image) not in before]
        assert all(image > self.highest for image in new)
        self.ids = found
        self.highest = max([self.highest, *new])


def brute(
    images: Mapping[Any, tuple[Any, Sequence[int]]], query: Any, own: Sequence[int] | None
) -> list[tuple[float, Any]]:
    """Return (similarity, image) of the images in some categories (None: all), best first, equal ones by image."""
    wide = query.astype(np.float64)
    found = []
    for image, (vector, its) in images.items():
        if own is None or set(its) & set(own):
            row = vector.astype(np.float64)
            close = float((row * wide).sum() / np.sqrt((row * row).sum() * (wide * wide).sum()))
            found.append((round(close, 9), image))
    return sorted(found, key=lambda pair: (-pair[0], pair[1]))


TestStored = Stored.TestCase
TestStored.settings = some(30, 30)


def test_the_stock_has_all_that_the_machine_relies_on() -> None:
    assert (len(CATEGORIES), DIMENSION) == (10, 12)
    assert {len(dict.fromkeys(of(content))) for content in range(1, 41)} == {1, 2, 3, 4}
    assert any(len(set(of(content))) < len(of(content)) for content in range(1, 41))


# --- the database -------------------------------------------------------------------------------------------------

NAMES = [*(f"{number}.png" for number in range(6)), *(f"below/{number}.png" for number in range(3))]
names = st.sampled_from(NAMES)
seeds = st.integers(0, 12)
_pictures = {seed: picture(seed) for seed in range(13)}


class Kept(RuleBasedStateMachine):
    """Picture files that come, change, move and go; after each build the index is what the folder holds."""

    @initialize()
    def begin(self) -> None:
        self.place = Path(tempfile.mkdtemp())
        self.photos = self.place / "photos"
        (self.photos / "below").mkdir(parents=True)
        self.files: dict[str, int | None] = {}  # name -> seed, None: a text
        self.index: dict[str, int] = {}
        self.removed: set[str] = set()
        self.clock = 10**18
        self.instant = Instant()
        self.db = Database(self.place / "db", backbone=self.instant)
        self.build()

    def teardown(self) -> None:
        if not hasattr(self, "db"):
            return
        try:
            self.build()
            assert self.db.check().ok
        finally:
            self.db.close()
            shutil.rmtree(self.place)

    def touch(self, name: str) -> None:
        """Give a file a time of its own, whatever the resolution of the file system's clock."""
        self.clock += 10**9
        os.utime(self.photos / name, ns=(self.clock, self.clock))

    @rule(name=names, seed=seeds)
    def write(self, name: str, seed: int) -> None:
        _pictures[seed].save(self.photos / name, "PNG")
        self.files[name] = seed
        self.touch(name)

    @rule(name=names)
    def write_text(self, name: str) -> None:
        (self.photos / name).write_text(f"no image {name}")
        self.files[name] = None
        self.touch(name)

    @precondition(lambda self: self.files)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.files)))
        (self.photos / name).unlink()
        del self.files[name]

    @precondition(lambda self: self.files)
    @rule(data=st.data(), to=names)
    def rename(self, data: st.DataObject, to: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.files)))
        (self.photos / name).rename(self.photos / to)
        self.files[to] = self.files.pop(name)

    @precondition(lambda self: self.files)
    @rule(data=st.data())
    def only_touch(self, data: st.DataObject) -> None:
        self.touch(data.draw(st.sampled_from(sorted(self.files))))

    @rule()
    def build(self) -> None:
        wanted = {name: seed for name, seed in self.files.items() if seed is not None and name not in self.removed}
        before, passes = dict(self.index), self.instant.passes
        report = self.db.build(self.photos)
        self.index = wanted
        failed = {os.path.relpath(failure.path, self.photos) for failure in report.failed}
        assert failed == {name for name, seed in self.files.items() if seed is None and name not in self.removed}
        assert report.total == len(wanted) == len(self.db)
        assert len(wanted) == len(before) + report.added - report.removed - len(failed & set(before))
        new = [seed for seed in wanted.values() if seed not in before.values()]
        # What was there costs no pass; what is new one, but copies that come together may cost one each.
        assert len(set(new)) <= self.instant.passes - passes <= len(new)

    @precondition(lambda self: self.files or self.index)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted({*self.files, *self.index})))
        assert self.db.remove(self.photos / name) == (name in self.index)
        self.index.pop(name, None)
        self.removed.add(name)

    @precondition(lambda self: self.files)
    @rule(data=st.data())
    def add(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.files)))
        self.db.add(self.photos / name)
        self.removed.discard(name)
        assert (self.photos / name in self.db) == (self.files[name] is not None)
        self.index = {os.path.relpath(path, self.photos): 0 for path in self.db}
        self.index = {name: self._content(name) for name in self.index}
        self.build()

    def _content(self, name: str) -> int:
        """Return the seed of what the database holds for a name."""
        with self.db._store.snapshot() as snapshot:
            for image in snapshot.catalog.images():
                if os.fsdecode(image.path) == name:
                    vector = snapshot.catalog.vector(image.id)
                    return next(seed for seed in _pictures if (embedded(seed)[0] == vector).all())
        raise AssertionError(name)

    @rule()
    def compact(self) -> None:
        self.db.compact()

    @rule()
    def reopen(self) -> None:
        self.db.close()
        self.db = Database(self.place / "db", backbone=self.instant)

    @rule(link=st.booleans())
    def back_up(self, link: bool) -> None:
        target = self.place / "copies" / "copy"
        self.db.backup(target, link=link)
        with Database(target, mode="r") as copy:
            assert copy.check().ok
            assert list(copy) == list(self.db)
        shutil.rmtree(target.parent)

    @rule(seed=seeds, k=st.integers(1, 10), exact=st.booleans())
    def search(self, seed: int, k: int, exact: bool) -> None:
        """Search for a picture (known or not) and compare with brute force in float64 over the model."""
        result = self.db.search(_pictures[seed], k=k, exact=exact)
        vector, own = embedded(seed)
        known = {str(self.photos / name): embedded(its) for name, its in self.index.items()}
        expected = brute(known, vector, None if exact or result.widened else own)
        if result.widened:
            assert not brute(known, vector, own)
        else:
            assert result.scanned == len(expected)
            assert {match.path for match in result} <= {path for _, path in expected}
            assert [match.similarity for match in result] == pytest.approx(
                [close for close, _ in expected[:k]], abs=CLOSE
            )
        truth = {path: close for close, path in expected}
        for match in result:
            assert match.similarity == pytest.approx(truth[match.path], abs=CLOSE)
        few = len(result) < k and result.scanned < result.total
        assert (result.total, len(result.notes)) == (len(self.index), few)

    @rule()
    def whole(self) -> None:
        assert self.db.check().ok

    @invariant()
    def same(self) -> None:
        if hasattr(self, "db"):
            assert sorted(self.db) == sorted(str(self.photos / name) for name in self.index)


_embedded: dict[int, tuple[Any, list[int]]] = {}


def embedded(seed: int) -> tuple[Any, list[int]]:
    """Return the vector (12,) and the categories of the picture of a seed, as the stand-in gives them."""
    if seed not in _embedded:
        found = Instant().embed(fit(_pictures[seed], (16, 16))[0][None])
        _embedded[seed] = found.features[0].astype(np.float16), found.categories[0].tolist()
    return _embedded[seed]


TestKept = Kept.TestCase
TestKept.settings = some(18, 25)
