"""Roots: which one holds a path, what becomes of those inside another, and where they lie after a move."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from stock import CATEGORIES, META, put

from catdb.catalog import Catalog, Root, is_removed
from catdb.images import Stamp
from catdb.roots import Roots, absolute, adopt

BYTES = os.fsdecode(b"/p\xff/\xe4")


def root(number: int, path: str, *, whole: bool = True) -> Root:
    return Root(number, os.fsencode(path), b"nowhere/at/all", whole, None, False, None)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    catalog = Catalog.writer(str(tmp_path / "catalog.sqlite"))
    catalog.create(META, CATEGORIES)
    yield catalog
    assert catalog.integrity() == []
    assert catalog.faults() == []
    catalog.close()


def take(catalog: Catalog, path: str, *, whole: bool = True, database: str = "/db") -> None:
    with catalog.transaction():
        adopt(catalog, database, path, whole=whole)


def listed(catalog: Catalog) -> list[tuple[str, bool]]:
    return [(os.fsdecode(root.path), root.whole) for root in catalog.roots()]


def hold(catalog: Catalog, path: str) -> int:
    """Store an image at an absolute path; return its id."""
    place = Roots(catalog.roots(), "/db").place(path)
    assert place is not None
    with catalog.transaction():
        catalog.put(put(catalog.count(), root=place[0], path=place[1]))
    image = catalog.image_at(*place)
    assert image is not None
    return image.id


def held(catalog: Catalog) -> list[tuple[int, str]]:
    roots = Roots(catalog.roots(), "/db")
    return sorted((image.id, roots.path(image.root, image.path)) for image in catalog.images())


# --- where a path belongs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/b", (1, b"")),
        ("/a/b/c", (1, b"c")),
        ("/a/b/c/d.png", (1, b"c/d.png")),
        ("/a/bc", (2, b"")),
        ("/a/bc/x", (2, b"x")),
        ("/a/b-c/x", None),
        ("/a", None),
        ("/", None),
        ("/single", (3, b"")),
        ("/single/x.png", (3, b"x.png")),
        ("/single/below/x.png", None),
        ("/single-not/x.png", None),
        (BYTES + "/x", (4, b"x")),
    ],
)
def test_place(path: str, expected: tuple[int, bytes] | None) -> None:
    roots = Roots([root(1, "/a/b"), root(2, "/a/bc"), root(3, "/single", whole=False), root(4, BYTES)], "/db")
    assert roots.place(path) == expected
    if expected:
        assert roots.path(*expected) == path


@pytest.mark.parametrize("path", ["/", "/x", "/x/y.png", os.fsdecode(b"/\xff")])
def test_the_root_of_all_holds_everything(path: str) -> None:
    roots = Roots([root(1, "/")], "/db")
    place = roots.place(path)
    assert place == (1, os.fsencode(path)[1:])
    assert roots.path(*place) == path
    assert roots.folder(1) == "/"


def test_a_whole_root_inside_the_folder_of_single_files_holds_its_own() -> None:
    roots = Roots([root(1, "/a", whole=False), root(2, "/a/b")], "/db")
    assert [roots.place(path) for path in ("/a/b", "/a/b/x", "/a/x", "/a/c/x")] == [
        (2, b""),
        (2, b"x"),
        (1, b"x"),
        None,
    ]


def test_inside_is_strictly_below_and_no_neighbour() -> None:
    roots = Roots([root(n, path) for n, path in enumerate(["/a", "/a/b", "/a/bc", "/a/b/c", "/ab", BYTES])], "/db")
    assert [known.id for known in roots.inside("/a/b")] == [3]
    assert [known.id for known in roots.inside("/a")] == [1, 2, 3]
    assert [known.id for known in roots.inside("/")] == [0, 1, 2, 3, 4, 5]
    assert roots.inside("/a/b/c") == []


def test_the_same_place_is_known_by_its_number() -> None:
    first = root(7, "/a")
    assert Roots([first], "/db").get(7) is first


# --- taking in --------------------------------------------------------------------------------------------------


def test_what_is_held_already_needs_no_root(catalog: Catalog) -> None:
    take(catalog, "/a")
    for path, whole in (("/a", True), ("/a/b", True), ("/a/b", False), ("/a", False)):
        take(catalog, path, whole=whole)
    assert listed(catalog) == [("/a", True)]


def test_neighbours_stay_apart(catalog: Catalog) -> None:
    for path in ("/a/bc", "/a/b", "/a/b-c", "/a/b.c"):
        take(catalog, path)
    assert listed(catalog) == [(path, True) for path in sorted(("/a/bc", "/a/b", "/a/b-c", "/a/b.c"))]


@pytest.mark.parametrize("outer", ["/a", "/"])
def test_roots_inside_are_absorbed_with_all_that_is_known_of_them(catalog: Catalog, outer: str) -> None:
    paths = ["/a/b/x.png", "/a/b/c/y.png", "/a/bc/x.png", os.fsdecode(b"/a/\xff/z.png")]
    take(catalog, "/a/b")
    take(catalog, "/a/bc", whole=False)
    take(catalog, os.fsdecode(b"/a/\xff"))
    before = [(hold(catalog, path), path) for path in paths]
    inner = Roots(catalog.roots(), "/db").place("/a/b")
    assert inner is not None
    with catalog.transaction():
        catalog.set_removed(inner[0], b"gone/\xe4")
        catalog.fail(inner[0], b"bad.png", "cut short", Stamp(1, 2, 3))
    take(catalog, outer)
    assert listed(catalog) == [(outer, True)]
    assert held(catalog) == sorted(before)
    [whole] = catalog.roots()
    below = b"a/b/" if outer == "/" else b"b/"
    assert catalog.removed(whole.id) == {below + b"gone/\xe4": True}
    assert catalog.failures() == [(whole.id, below + b"bad.png", "cut short")]


def test_the_folder_of_single_files_becomes_whole_under_its_number(catalog: Catalog) -> None:
    take(catalog, "/a", whole=False)
    take(catalog, "/a/b", whole=False)
    before = [(hold(catalog, path), path) for path in ("/a/x.png", "/a/b/x.png")]
    take(catalog, "/a")
    assert listed(catalog) == [("/a", True)]
    assert held(catalog) == before


def test_a_file_whose_name_was_a_folder_of_single_files(catalog: Catalog) -> None:
    take(catalog, "/a", whole=False)
    take(catalog, "/a/b", whole=False)  # which could be a file in /a by its name alone
    assert listed(catalog) == [("/a", False), ("/a/b", False)]


# --- moves ------------------------------------------------------------------------------------------------------


def resolved(roots: Sequence[Root], database: Path) -> list[str]:
    known = Roots(roots, str(database))
    return [known.folder(root.id) for root in known.all]


def test_when_the_database_moves_alone_the_photos_are_where_they_were(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    take(catalog, str(tmp_path / "photos"), database=str(tmp_path / "db"))
    assert catalog.roots()[0].relative == b"../photos"
    assert resolved(catalog.roots(), tmp_path / "far" / "away" / "db") == [str(tmp_path / "photos")]


@pytest.mark.parametrize("name", ["photos", os.fsdecode(b"ph\xff\xe4")])
def test_when_both_move_together_the_photos_are_found_from_the_database(
    catalog: Catalog, tmp_path: Path, name: str
) -> None:
    before, after = tmp_path / "disk", tmp_path / "elsewhere"
    (before / name).mkdir(parents=True)
    (before / "db").mkdir()
    take(catalog, str(before / name), database=str(before / "db"))
    before.rename(after)
    assert resolved(catalog.roots(), after / "db") == [str(after / name)]
    assert Roots(catalog.roots(), str(after / "db")).place(str(after / name / "x.png")) == (1, b"x.png")


def test_where_both_places_exist_the_absolute_one_counts(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    take(catalog, str(tmp_path / "photos"), database=str(tmp_path / "db"))
    shutil.copytree(tmp_path / "photos", tmp_path / "copy" / "photos")
    assert resolved(catalog.roots(), tmp_path / "copy" / "db") == [str(tmp_path / "photos")]


def test_where_neither_exists_it_is_called_by_its_old_name(catalog: Catalog, tmp_path: Path) -> None:
    take(catalog, str(tmp_path / "photos"), database=str(tmp_path / "db"))
    assert resolved(catalog.roots(), tmp_path / "db") == [str(tmp_path / "photos")]


@pytest.mark.parametrize("first", [True, False])
def test_a_root_that_moved_is_taken_in_again_under_its_number(catalog: Catalog, tmp_path: Path, first: bool) -> None:
    before, after = tmp_path / "disk", tmp_path / "elsewhere"
    (before / "photos").mkdir(parents=True)
    take(catalog, str(before / "photos"), whole=first, database=str(before / "db"))
    before.rename(after)
    take(catalog, str(after / "photos"), database=str(after / "db"))
    [only] = catalog.roots()
    assert (only.id, only.whole) == (1, True)
    assert resolved([only], after / "db") == [str(after / "photos")]


def test_a_root_that_moved_is_absorbed_from_where_it_lies_now(catalog: Catalog, tmp_path: Path) -> None:
    before, after = tmp_path / "disk", tmp_path / "elsewhere"
    (before / "photos").mkdir(parents=True)
    take(catalog, str(before / "photos"), database=str(before / "db"))
    with catalog.transaction():
        catalog.put(put(1, path=b"x.png"))
    before.rename(after)
    take(catalog, str(after), database=str(after / "db"))
    assert listed(catalog) == [(str(after), True)]
    assert [image.path for image in catalog.images()] == [b"photos/x.png"]


# --- names ------------------------------------------------------------------------------------------------------


def test_absolute_knows_the_home_folder_and_follows_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "home")
    monkeypatch.chdir(tmp_path)
    assert absolute("link/../x/./y/") == str(tmp_path / "x" / "y")
    assert absolute(Path("link")) == str(tmp_path / "link")
    assert absolute("~/x") == str(tmp_path / "home" / "x")
    assert absolute(os.fsdecode(b"\xff")) == str(tmp_path) + "/" + os.fsdecode(b"\xff")


@pytest.mark.parametrize(
    ("path", "expected"),
    [(b"a", True), (b"a/b/c", True), (b"a0", False), (b"a-b", False), (b"b/a", False), (b"\xff/x", True), (b"", False)],
)
def test_a_path_is_removed_with_the_folder_that_it_lies_in(path: bytes, expected: bool) -> None:
    assert is_removed(path, {b"a": True, b"\xff": True}) is expected
    assert not is_removed(path, {})
