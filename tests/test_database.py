"""Database is what contract.md says it is, word for word, and refuses what it must."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Instant, picture, save

import catdb
from catdb import (
    BackboneMismatch,
    BackboneUnknown,
    CatdbError,
    CategoryUnknown,
    Database,
    DatabaseDamaged,
    DatabaseNotFound,
    DatabaseReadOnly,
    PathNotFound,
    StorageError,
    WeightsInvalid,
    WeightsNotFound,
)
from catdb.asking import How
from catdb.backbones import Category, Engine, imagenet
from catdb.filters import Filter
from catdb.reach import Reach

Open = Callable[..., Database]


class Named(Instant):
    """The stand-in under the name of a network, with ImageNet's classes: what it makes can be opened without it."""

    backbone = "mobilenet_v2"
    categories = imagenet()
    weights_sha256 = "00" * 32


# --- the contract ---------------------------------------------------------------------------------------------------


def test_the_example_of_the_contract(photos: Path) -> None:
    photos.rename("Pictures")
    save(Path("query.jpg"), 3)
    with Database("photos.catdb", backbone="classic") as db:
        report = db.build("Pictures")
        numbers = (report.added, report.changed, report.moved, report.removed, report.unchanged, report.total)
        assert numbers == (12, 0, 0, 0, 0, 12)
        assert report.failed == ()
        result = db.search("query.jpg", k=10)
        assert [category.id for category in result.categories] == [c.id for c in result[0].categories]
        assert 0 < result.scanned <= result.total == 12
        for match in result:
            assert os.path.isabs(match.path)
            assert -1 <= match.similarity <= 1
            assert len(match.categories) == 4
        assert len(db) == 12
        assert "Pictures/1.png" in db
        assert set(db) == {str(path.absolute()) for path in Path("Pictures").rglob("*.png")}
        assert db.remove(["Pictures/1.png"]) == 1
        assert db.add(["Pictures/1.png"]).added == 1
        assert db.check(repair=False).ok
        assert db.compact() >= 0
        assert db.info().images == 12
    with Database("photos.catdb", mode="r") as db:
        assert len(db) == 12


def test_a_database_says_in_a_notebook_which_one_it_is(tmp_path: Path, photos: Path) -> None:
    with Database(tmp_path / "a.catdb", backbone="classic") as db:
        assert repr(db) == f"Database({str(tmp_path / 'a.catdb')!r}, mode='a')"
        db.build(photos)
    with Database(tmp_path / "a.catdb", mode="r") as db:
        assert repr(db) == f"Database({str(tmp_path / 'a.catdb')!r}, mode='r')"


def test_signatures_are_those_of_the_contract() -> None:
    for method, names in {
        Database.search: ["query", "k"],
        Database.search_vector: ["vector", "k"],
        Database.check: ["repair"],
        Database.add: ["paths"],
        Database.remove: ["paths"],
    }.items():
        assert [name for name in inspect.signature(method).parameters if name in names] == names
    assert inspect.signature(Database.search).parameters["k"].default == 10
    assert inspect.signature(Database.check).parameters["repair"].default is False
    assert catdb.backbones.DEFAULT == "inception_resnet_v2"


def test_search_spells_out_the_options_that_every_search_has() -> None:
    shown = inspect.signature(Database.search).parameters
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in shown.values()]
    assert str(inspect.Signature(bare)) == (
        "(self, query, *, k=10, probes=4, exact=False, recall=None, category=None, under=None, min_similarity=None,"
        " without=(), add=False)"
    )
    assert [name for name in shown if name in How.__annotations__] == list(How.__annotations__)
    assert (Reach().k, Reach().probes, Reach().exact, Reach().recall, Reach().only) == (10, 4, False, None, Filter())
    searches = [name for name in dir(Database) if name.startswith("search_")]
    assert len(searches) == 6
    for name in searches:
        [how] = [p for p in inspect.signature(getattr(Database, name)).parameters.values() if p.kind == p.VAR_KEYWORD]
        assert how.annotation == "Unpack[How]"


def test_an_option_that_is_misspelt_is_refused_before_anything_is_done(
    photos: Path, open_db: Open, instant: Instant
) -> None:
    database = open_db(backbone=instant)
    query = photos / "1.png"
    for name, asked in (("search", query), ("search_many", [query]), ("search_together", [query])):
        with pytest.raises(TypeError, match="got an unexpected keyword argument 'prbes'"):
            getattr(database, name)(asked, prbes=8, add=True)
    assert not os.path.exists(database.path)  # nothing has joined
    with pytest.raises(TypeError, match="unexpected keyword argument 'add'"):
        database.search_text("tabby", add=True)  # type: ignore[call-arg]


def test_info_says_what_the_database_is(photos: Path, open_db: Open, instant: Instant) -> None:
    (photos / "bad.jpg").write_text("no image")
    os.utime(photos / "bad.jpg", (1e9, 1e9))
    database = open_db(backbone=instant)
    database.build(photos, exclude=["*.gif"])
    info = database.info()
    assert (info.images, info.failed, info.pending, info.dimension) == (12, 1, 0, 12)
    assert (info.backbone, info.weights_sha256, info.engine, info.precision) == ("instant", None, "instant", "f32")
    assert info.categories == len(database.categories())
    assert info.path == database.path
    assert info.bytes == sum(f.lstat().st_size for f in Path(database.path).rglob("*") if f.is_file())
    assert info.excludes == ("*.gif",)
    [root] = info.roots
    assert (root.path, root.online, root.images, root.whole) == (str(photos), True, 12, True)
    assert root.reconciled and root.reconciled >= info.created


def test_membership_takes_any_form_of_a_path(photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    os.chdir(photos / "below")
    for form in (
        photos / "1.png",
        str(photos / "1.png"),
        "../1.png",
        Path("10.png"),
        photos / "below" / ".." / "1.png",
    ):
        assert form in database, form
    for other in (photos, photos / "99.png", "1.png", None, 3, ""):
        assert other not in database, other


def test_home_is_written_with_a_tilde(tmp_path: Path, instant: Instant) -> None:
    save(tmp_path / "home" / "Pictures" / "a.png", 1)
    with Database("~/photos.catdb", backbone=instant) as database:
        assert database.path == str(tmp_path / "home" / "photos.catdb")
        assert database.build("~/Pictures").added == 1
        assert "~/Pictures/a.png" in database
        assert database.search("~/Pictures/a.png")[0].path == str(tmp_path / "home" / "Pictures" / "a.png")


def test_paths_are_absolute_whatever_becomes_of_the_current_folder(photos: Path, instant: Instant) -> None:
    os.chdir(photos.parent)
    database = Database("relative", backbone=instant)
    os.chdir("/")
    database.build(photos)
    assert (photos.parent / "relative" / "catalog.sqlite").exists()
    assert all(os.path.isabs(path) for path in database)


def test_folders_on_the_way_are_made(photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db("missing/parent/db", backbone=instant)
    assert database.build(photos).added == 12


def test_build_takes_paths_one_by_one_and_in_lists(photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    assert database.build(str(photos / "1.png"), [photos / "2.png"], (photos / f"{n}.png" for n in (3, 4))).added == 4
    with pytest.raises(TypeError):
        database.build(3)  # type: ignore[arg-type]


# --- opening --------------------------------------------------------------------------------------------------------


def test_a_new_database_is_empty_and_nothing_is_written(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")
    assert (len(database), list(database), "a.png" in database) == (0, [], False)
    for ask in (database.info, database.failures, database.categories, database.check, database.compact):
        with pytest.raises(DatabaseNotFound, match="there is no database here"):
            ask()
    for query in ("a.png", np.zeros((8, 8, 3), np.uint8)):
        with pytest.raises(DatabaseNotFound):  # and no network is loaded or downloaded for it
            database.search(query)
    assert not (tmp_path / "db").exists()


def test_a_reader_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatabaseNotFound, match="catdb build makes one") as caught:
        Database(tmp_path / "db", mode="r")
    assert isinstance(caught.value, FileNotFoundError)
    assert not (tmp_path / "db").exists()


def test_a_mode_is_a_or_r(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mode is 'w'"):
        Database(tmp_path / "db", mode="w")


def test_a_reader_never_writes(photos: Path, open_db: Open, instant: Instant) -> None:
    open_db(backbone=instant).build(photos)
    (photos / "1.png").unlink()
    reader = open_db(backbone=instant, mode="r")
    before = {path: path.stat().st_mtime_ns for path in Path(reader.path).rglob("*")}
    for write in (
        lambda: reader.build(photos),
        lambda: reader.build(exclude=["*.gif"]),
        lambda: reader.add(photos / "2.png"),
        lambda: reader.remove(photos / "2.png"),
        lambda: reader.compact(),
        lambda: reader.check(repair=True),
        lambda: reader.watch(photos),  # it was tried again every ten seconds, for ever
    ):
        with pytest.raises(DatabaseReadOnly, match="opened for reading"):
            write()
    assert len(reader) == len(list(reader)) == 12
    assert reader.search(picture(1), k=1)[0].path == str(photos / "1.png")
    assert {path: path.stat().st_mtime_ns for path in Path(reader.path).rglob("*")} == before


@pytest.mark.parametrize("there", ["a file", "a folder with a photograph", "a folder inside a file"])
def test_no_files_are_scattered_among_those_of_others(there: str, tmp_path: Path, photos: Path) -> None:
    place = {
        "a file": save(tmp_path / "x.png", 1),
        "a folder with a photograph": save(tmp_path / "mine" / "a.png", 1).parent,
        "a folder inside a file": save(tmp_path / "y.png", 1) / "db",
    }[there]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StorageError, match=str(place)):
        Database(place, backbone="classic")
    with pytest.raises(DatabaseNotFound):
        Database(place, mode="r")
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_and_a_half_made_database_will_do(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "half" / "shards").mkdir(parents=True)
    (tmp_path / "half" / "LOCK").touch()
    (tmp_path / "half" / "catalog.sqlite").touch()
    for name in ("empty", "half"):
        with Database(tmp_path / name, backbone=Instant()) as database:
            assert database.build(photos).added == 12


@pytest.mark.damaged
def test_what_is_no_catalog_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "catalog.sqlite").write_bytes(b"not SQLite at all" * 100)
    with pytest.raises(DatabaseDamaged):
        Database(tmp_path / "db")
    assert (tmp_path / "db" / "catalog.sqlite").stat().st_size == 1700


def test_a_closed_database_can_be_used_again(photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    database.close()
    database.close()
    assert len(database) == 12
    assert database.build().unchanged == 12


def test_threads_may_share_a_database(photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    found: list[str] = []

    def ask(seed: int) -> None:
        for _ in range(5):
            found.append(database.search(photos / f"{seed}.png", k=1)[0].path)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    save(photos / "new.png", 70)
    assert database.build().added == 1
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(str(photos / f"{seed}.png") for seed in range(8) for _ in range(5))


# --- backbones ------------------------------------------------------------------------------------------------------


def test_another_backbone_is_refused(photos: Path, open_db: Open) -> None:
    open_db(backbone="classic").build(photos)
    assert len(open_db()) == len(open_db(backbone="classic")) == len(open_db(backbone="Classic")) == 12
    for other in ("mobilenet_v2", Instant()):
        with pytest.raises(BackboneMismatch, match="built with classic") as caught:
            open_db(backbone=other)
        assert isinstance(caught.value, ValueError)
    with pytest.raises(BackboneUnknown, match=r"near: .*mobilenet_v2"):
        open_db(backbone="mobilenet_v9")


def test_other_weights_are_refused(photos: Path, open_db: Open, tmp_path: Path) -> None:
    class Other(Named):
        weights_sha256 = "11" * 32

    open_db(backbone=Named()).build(photos)
    with pytest.raises(BackboneMismatch, match="other weights"):
        open_db(backbone=Other())
    (tmp_path / "w.h5").write_bytes(b"weights")
    with pytest.raises(BackboneMismatch, match="not the mobilenet_v2 weights that this database was made with"):
        open_db(weights=tmp_path / "w.h5")
    with pytest.raises(WeightsNotFound, match=r"none\.h5"):
        open_db(weights=tmp_path / "none.h5")


def test_opening_needs_neither_network_nor_weights(photos: Path, open_db: Open) -> None:
    open_db(backbone=Named()).build(photos)
    database = open_db()
    assert len(database) == 12
    assert database.build().unchanged == 12
    assert database.search(photos / "3.png", k=1)[0].path == str(photos / "3.png")
    (photos / "3.png").rename(photos / "moved.png")
    assert database.build().moved == 1
    assert database.search_vector(np.ones(12)).total == 12


def test_missing_weights_write_nothing(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import catdb.backbones.keras as keras

    monkeypatch.setattr(keras, "_reachable", lambda: False)
    database = Database(tmp_path / "db", backbone="mobilenet_v2")
    for act in (lambda: database.build(photos), lambda: database.add(photos)):
        with pytest.raises(WeightsNotFound, match=r"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1\.0_224\.h5"):
            act()
    assert not (tmp_path / "db").exists()


def test_classic_takes_no_weights(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "w.h5").write_bytes(b"weights")
    with pytest.raises(WeightsInvalid, match="classic has no weights"):
        Database(tmp_path / "db", backbone="classic", weights=tmp_path / "w.h5").build(photos)
    assert not (tmp_path / "db").exists()


def test_a_network_is_loaded_once_and_only_when_needed(
    photos: Path, open_db: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    import catdb.backbones as module

    open_db(backbone="classic").build(photos)
    loaded: list[str] = []
    real = module.load
    monkeypatch.setattr(
        module, "load", lambda recipe, notice: (loaded.append(recipe.backbone), real(recipe, notice))[1]
    )
    database = open_db()
    database.build()
    assert loaded == []
    save(photos / "new.png", 30)
    database.build()
    database.search(picture(31))
    assert loaded == ["classic"]
    assert isinstance(database._engine, Engine)


# --- categories -----------------------------------------------------------------------------------------------------


def test_categories_are_listed_with_the_fullest_first(photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    found = database.categories()
    assert [c.images for c in found] == sorted((c.images for c in found), reverse=True)
    assert sum(c.images for c in found) == 4 * 12
    assert {(c.id, c.name) for c in found} <= {(c.id, c.name) for c in Instant.categories}
    images = database.category(found[0].id)
    assert len(images) == found[0].images
    assert [share for _, share in images] == sorted((share for _, share in images), reverse=True)
    assert {path for path, _ in images} <= set(database)


def test_a_category_is_asked_for_by_id_or_name(photos: Path, open_db: Open) -> None:
    class Odd(Named):
        categories = (Category("my_id", "a_name"), *imagenet()[1:])

    database = open_db(backbone=Odd())
    database.build(photos)
    for form in ("n01614925", "N01614925", "bald eagle", "bald_eagle", "Bald Eagle"):
        assert database.category(form) == [], form
    for form in ("my_id", "a_name", "A Name"):
        assert database.category(form) == database.category("my_id")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("crane", "2 categories are called 'crane': n02012849, n03126707; give the id"),
        ("maillot", "2 categories are called 'maillot': n03710637, n03710721; give the id"),
        ("eagle", "no category is called 'eagle'; near: n01614925 bald eagle, n02088364 beagle"),
        ("qqqq", "no category is called 'qqqq'; see catdb categories"),
        ("", "the name of the category is empty; see catdb categories"),  # the first five of all were near
        (" ", "the name of the category is empty; see catdb categories"),
    ],
)
def test_a_name_that_is_none_or_two_is_explained(name: str, said: str, photos: Path, open_db: Open) -> None:
    database = open_db(backbone=Named())
    database.build(photos)
    with pytest.raises(CategoryUnknown) as caught:
        database.category(name)
    assert str(caught.value) == said
    assert isinstance(caught.value, LookupError)
    assert database.category("n02012849") == []


def test_every_message_is_one_line(photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    wrong = [
        lambda: database.build("nowhere"),
        lambda: database.add("nowhere"),
        lambda: database.remove("nowhere"),
        lambda: database.category("nothing"),
        lambda: database.search("nowhere"),
        lambda: open_db(backbone="x"),
        lambda: open_db("none", mode="r"),
    ]
    for act in wrong:
        with pytest.raises(CatdbError) as caught:
            act()
        assert "\n" not in str(caught.value) and len(str(caught.value)) > 20
    with pytest.raises(PathNotFound, match="nothing was changed"):
        database.add([photos / "1.png", "nowhere"])


def test_a_database_of_an_embedder_of_its_own_is_opened_without_it_and_asks_for_it_when_needed(
    tmp_path: Path, photos: Path, instant: Instant
) -> None:
    with Database(tmp_path / "db", backbone=instant) as database:
        database.build(photos)
    with Database(tmp_path / "db") as database:
        assert database.info().backbone == "instant"
        assert database.search(photos / "1.png")[0].path == str(photos / "1.png")
        assert database.remove(photos / "1.png") == 1
        with pytest.raises(BackboneUnknown, match=r"built with an embedder of its own, instant: give it in Python"):
            database.add(photos / "1.png")
    with Database(tmp_path / "db", backbone=instant) as database:
        assert database.add(photos / "1.png").added == 1
