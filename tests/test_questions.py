"""Filters and composed queries give what brute force over the catalog's vectors gives; words mean categories."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import Instant, picture, save
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from catdb import CategoryUnknown, Database, Failure, ImageUnreadable, PathNotFound, Result
from catdb.images import fit
from catdb.questions import AWAY, Point, category_named, meaning, of_categories, together, without

Open = Callable[..., Database]
EXACT = 2e-3  # of float16 vectors compared with float64


@dataclass
class Crowd:
    """A database of 120 pictures in three folders, some removed and some waiting, and what its catalog holds."""

    database: Database
    folder: Path
    paths: list[str]
    vectors: NDArray[np.float64]
    members: list[set[str]]

    def ranked(self, vector: NDArray[np.floating], rows: list[int]) -> list[float]:
        """The cosines of some rows, the highest first."""
        return sorted((self.vectors[rows] @ unit(vector)).tolist(), reverse=True)

    def below(self, folder: str | None) -> list[int]:
        top = str(self.folder / folder) + "/" if folder else ""
        return [row for row, path in enumerate(self.paths) if path.startswith(top)]

    def within(self, categories: set[str], rows: list[int]) -> list[int]:
        return [row for row in rows if self.members[row] & categories]


def unit(vector: NDArray[np.floating]) -> NDArray[np.float64]:
    values = np.asarray(vector, np.float64)
    return values / np.linalg.norm(values)


def embedded(seed: int) -> NDArray[np.float64]:
    pixels = fit(picture(seed), (16, 16))[0]
    return Instant().embed(pixels[None]).features[0].astype(np.float16).astype(np.float64)


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    place = tmp_path_factory.mktemp("crowd")
    folder = place / "photos"
    for seed in range(120):
        save(folder / ("few" if seed < 4 else "ab"[seed % 2]) / f"{seed:03}.png", 3000 + seed)
    with Database(place / "db", backbone=Instant()) as database:
        database.build(folder / "few", folder / "a", folder / "b")
        database.remove([folder / "b" / "011.png", folder / "a" / "012.png"])
        save(folder / "a" / "late.png", 9000)
        database.build()
        names = [id for id, _ in database._store.categories()]
        with database._store.snapshot() as snapshot:
            images = list(snapshot.catalog.images())
            vectors = np.array([unit(snapshot.catalog.vector(image.id)) for image in images])  # type: ignore[arg-type]
        assert database.info().pending > 0 and len(images) == 119
        paths = list(database)
        yield Crowd(database, folder, paths, vectors, [{names[c] for c in image.categories} for image in images])
        assert database.check().ok


def cosines(result: Result) -> list[float]:
    return [match.similarity for match in result]


# --- filters --------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 400),
    k=st.integers(1, 130),
    under=st.sampled_from([None, "a", "b", "few"]),
    category=st.sampled_from([None, "c0", "c3", "Category 7"]),
    least=st.sampled_from([None, 0.5, 0.93, 0.97]),
    exact=st.booleans(),
)
def test_a_filtered_search_is_brute_force_over_what_the_filter_admits(
    crowd: Crowd, seed: int, k: int, under: str | None, category: str | None, least: float | None, exact: bool
) -> None:
    result = crowd.database.search(
        picture(seed),
        k=k,
        exact=exact,
        category=category,
        under=crowd.folder / under if under else None,
        min_similarity=least,
    )
    rows = crowd.below(under)
    if category:
        rows = crowd.within({"c" + category[-1]}, rows)
    elif not exact and not result.widened:
        rows = crowd.within({own.id for own in result.categories}, rows)
    if category or exact or not result.widened:
        expected = crowd.ranked(embedded(seed), rows)[:k]
        assert result.scanned == len(rows)
        sure = [cosine for cosine in expected if least is None or cosine >= least + EXACT]
        maybe = [cosine for cosine in expected if least is None or cosine >= least - EXACT]
        assert len(sure) <= len(result) <= len(maybe)
        assert cosines(result) == pytest.approx(maybe[: len(result)], abs=EXACT)
    assert result.total == 119
    assert result.admitted == (len(rows) if category else len(crowd.below(under)))
    for match in result:
        assert match.path.startswith(str(crowd.folder / (under or "")))
        assert not category or "c" + category[-1] in {own.id for own in match.categories}
        assert least is None or match.similarity >= least


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 400), k=st.integers(1, 60), under=st.sampled_from(["a", "b", "few"]))
def test_k_images_of_a_folder_come_back_where_there_are_so_many(crowd: Crowd, seed: int, k: int, under: str) -> None:
    result = crowd.database.search(picture(seed), k=k, probes=1, under=crowd.folder / under)
    there = len(crowd.below(under))
    assert (len(result), result.admitted) == (min(k, there), there)
    assert len(result) <= result.scanned <= there
    assert result.probed <= result.populated


def test_a_category_is_searched_whole_and_it_alone(crowd: Crowd) -> None:
    result = crowd.database.search(picture(1), category="c5", probes=1, k=3)
    inside = crowd.within({"c5"}, crowd.below(None))
    assert (result.scanned, result.admitted, result.probed, result.widened) == (len(inside), len(inside), 1, False)
    assert len(result.categories) == 4  # the query's own, whatever was searched


def test_filters_that_cannot_be_are_refused(crowd: Crowd) -> None:
    for wrong in (crowd.folder / "nowhere", crowd.folder / "a" / "nowhere", "elsewhere"):
        with pytest.raises(PathNotFound, match="knows no image there"):
            crowd.database.search(picture(1), under=wrong)
    with pytest.raises(CategoryUnknown, match="no category is called 'c77'"):
        crowd.database.search_many([], category="c77")  # at once, not at the first answer
    for least in (1.5, float("nan")):
        with pytest.raises(ValueError, match="must be from -1 to 1"):
            crowd.database.search(picture(1), min_similarity=least)


def test_a_folder_above_the_roots_holds_all_that_they_hold(crowd: Crowd) -> None:
    assert crowd.database.search(picture(1), under=crowd.folder, exact=True).scanned == 119
    one = crowd.database.search(picture(1), under=crowd.folder / "few" / "000.png", exact=True)
    assert [match.path for match in one] == [str(crowd.folder / "few" / "000.png")]


def test_an_answer_without_a_match_says_how_near_the_nearest_was(crowd: Crowd) -> None:
    nearest = crowd.database.search(picture(5), k=1)[0].similarity
    assert nearest < 0.9999
    result = crowd.database.search(picture(5), min_similarity=0.9999)
    assert (len(result), result.notes) == (
        0,
        (f"no image is so similar: the nearest of those compared has {nearest:.4f}",),
    )


# --- several images as one query ------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seeds=st.lists(st.integers(0, 400), min_size=1, max_size=4), away=st.lists(st.integers(0, 400), max_size=2))
def test_a_composed_query_is_brute_force_with_the_composed_vector(
    crowd: Crowd, seeds: list[int], away: list[int]
) -> None:
    result = crowd.database.search_together(
        [picture(seed) for seed in seeds], without=[picture(seed) for seed in away], k=20, exact=True
    )
    vector = unit(np.mean([unit(embedded(seed)) for seed in seeds], axis=0))
    if away:
        vector = vector - 0.5 * np.mean([unit(embedded(seed)) for seed in away], axis=0)
    assert cosines(result) == pytest.approx(crowd.ranked(vector, crowd.below(None))[:20], abs=EXACT)
    assert (result.query, result.together, len(result.without)) == (None, (None,) * len(seeds), len(away))


def test_the_categories_of_several_are_those_of_the_highest_mean_probability() -> None:
    one = Point(np.array([1, 0], np.float16), ((3, 0.6), (5, 0.2), (7, 0.1), (8, 0.05)))
    two = Point(np.array([0, 1], np.float16), ((5, 0.5), (1, 0.3), (2, 0.05), (3, 0.02)))
    both = together([one, two])
    assert [category for category, _ in both.categories] == [5, 3, 1, 7]
    assert [share for _, share in both.categories] == pytest.approx([0.35, 0.31, 0.15, 0.05])
    assert both.vector == pytest.approx([2**-0.5, 2**-0.5], abs=1e-3)
    assert together([one]) is one
    with pytest.raises(ValueError, match="cancel each other out"):
        together([one, Point(-one.vector, ())])


def test_without_turns_away_and_never_vanishes() -> None:
    one, other = Point(np.array([1, 0], np.float16), ((3, 1.0),)), Point(np.array([0.6, 0.8], np.float16), ())
    turned = without(one, [other])
    expected = unit(np.array([1 - AWAY * 0.6, -AWAY * 0.8]))
    assert turned.vector == pytest.approx(expected, abs=1e-3)
    assert turned.categories == one.categories
    assert without(one, [one]).vector == pytest.approx(one.vector)
    assert without(one, []) is one


def test_without_is_the_same_for_one_image_and_for_many(crowd: Crowd) -> None:
    alone = crowd.database.search(picture(1), without=picture(2))
    assert alone.matches == crowd.database.search_together([picture(1)], without=[picture(2)]).matches
    many = list(crowd.database.search_many((picture(seed) for seed in range(40)), without=picture(2)))
    assert [type(answer) for answer in many] == [Result] * 40
    assert many[1].matches == alone.matches  # type: ignore[union-attr]
    assert alone.matches != crowd.database.search(picture(1)).matches


def test_what_cannot_be_read_among_several_is_an_error(crowd: Crowd) -> None:
    Path("text.jpg").write_text("no image")
    for ask in (
        lambda: crowd.database.search_together([picture(1), "text.jpg"]),
        lambda: crowd.database.search(picture(1), without="text.jpg"),
        lambda: crowd.database.search_text("3", without="text.jpg"),
        lambda: list(crowd.database.search_many([picture(1)], without=[picture(1), "text.jpg"])),
    ):
        with pytest.raises(ImageUnreadable, match=r"text.jpg: not an image"):
            ask()
    with pytest.raises(ValueError, match="no image to search with"):
        crowd.database.search_together([])
    [bad, good] = crowd.database.search_many(["text.jpg", picture(1)], without=picture(2))
    assert isinstance(bad, Failure) and isinstance(good, Result)


def test_one_pass_serves_all_images_of_a_question(photos: Path, open_db: Open) -> None:
    class Counting(Instant):
        batches: tuple[int, ...] = ()

        def embed(self, pixels: NDArray[np.uint8]):  # type: ignore[no-untyped-def]
            self.batches += (len(pixels),)
            return super().embed(pixels)

    counting = Counting()
    database = open_db(backbone=counting)
    database.build(photos)
    counting.batches = ()
    database.search_together([picture(90), picture(91)], without=[picture(92)])
    database.search(picture(90), without=picture(92))
    assert counting.batches == (3, 2)


# --- words ----------------------------------------------------------------------------------------------------------

NAMES = [
    ("n1", "tabby"),
    ("n2", "tiger_cat"),
    ("n3", "Egyptian cat"),
    ("n4", "sports car"),
    ("n5", "crane"),
    ("n6", "crane"),
    ("n7", "school bus"),
]


@pytest.mark.parametrize(
    ("text", "categories", "said"),
    [
        ("tabby cat", (0,), "tabby; not in their names: cat"),
        ("Tiger CAT", (1,), "tiger_cat"),
        ("cats", (1, 2), "tiger_cat, Egyptian cat"),
        ("crane", (4, 5), "crane, crane"),
        ("n6", (5,), "crane"),
        ("red sports-car", (3,), "sports car; not in their names: red"),
    ],
)
def test_words_mean_the_categories_that_share_the_most_of_them(
    text: str, categories: tuple[int, ...], said: str
) -> None:
    found = meaning(text, NAMES, range(7))
    assert found.categories == categories
    assert found.note == f"text is matched with the names of categories alone: {said}"


def test_words_mean_categories_that_hold_images() -> None:
    found = meaning("tabby cat", NAMES, {2, 4})
    assert found.categories == (2,)
    assert found.note.endswith("alone: Egyptian cat; no image stands in tabby; not in their names: tabby")
    with pytest.raises(CategoryUnknown, match=r"no image stands in the categories that 'bus' names \(school bus\)"):
        meaning("bus", NAMES, {2, 4})


@pytest.mark.parametrize(
    ("text", "said"), [("scool", "near: n7 school bus"), ("zzzz", "see"), ("", "see"), ("?!", "see")]
)
def test_words_without_a_meaning_are_an_error_with_near_names(text: str, said: str) -> None:
    with pytest.raises(CategoryUnknown, match=said):
        meaning(text, NAMES, range(7))


def test_an_ambiguous_name_lists_the_choices() -> None:
    assert category_named("TIGER cat", NAMES) == 1
    with pytest.raises(CategoryUnknown, match="2 categories are called 'crane': n5, n6; give the id"):
        category_named("crane", NAMES)


def test_the_point_of_categories_is_the_mean_of_their_directions() -> None:
    point = of_categories({4: np.array([2, 0], np.float32), 9: np.array([0, 0.1], np.float32)})
    assert point.vector == pytest.approx([2**-0.5, 2**-0.5], abs=1e-3)
    assert point.categories == ((4, 0.5), (9, 0.5))


@pytest.mark.parametrize(("text", "ids"), [("3", {"c3"}), ("c7", {"c7"}), ("category", {f"c{n}" for n in range(10)})])
def test_a_search_by_words_is_brute_force_with_the_centroids(crowd: Crowd, text: str, ids: set[str]) -> None:
    result = crowd.database.search_text(text, k=15, probes=1)
    assert {own.id for own in result.categories} == ids
    assert (result.text, result.query, result.probed) == (text, None, len(ids))
    rows = crowd.within(ids, crowd.below(None))
    assert result.scanned == len(rows)
    with crowd.database._store.snapshot() as snapshot:  # what waits beside a shard is not in its centroid
        numbers, centroids = snapshot.regions().shards
    found = dict(zip([f"c{number}" for number in numbers.tolist()], centroids, strict=True))
    vector = np.mean([unit(found[id]) for id in ids], axis=0)
    assert cosines(result) == pytest.approx(crowd.ranked(vector, rows)[:15], abs=EXACT)
    assert result.notes[0].startswith("text is matched with the names of categories alone: ")


# --- joining the database -------------------------------------------------------------------------------------------


def test_a_query_joins_in_the_pass_that_it_is_searched_with(
    photos: Path, tmp_path: Path, open_db: Open, instant: Instant
) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    instant.passes = 0
    inside, outside = save(photos / "new.png", 70), save(tmp_path / "elsewhere" / "other.png", 71)
    save(tmp_path / "elsewhere" / "third.png", 72)
    for path in (inside, outside):
        result = database.search(path, add=True, k=1)
        assert (result.added, result.query, result[0].path) == (True, str(path), str(path))
    assert (instant.passes, len(database)) == (2, 14)
    again = database.search(inside, add=True)
    assert (again.added, instant.passes, len(database)) == (False, 2, 14)
    assert str(tmp_path / "elsewhere" / "third.png") not in database
    assert not database.search(inside).added


def test_a_query_that_changed_or_was_removed_joins_again(photos: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    database.remove(photos / "3.png")
    save(photos / "4.png", 500)
    answers = list(database.search_many([photos / "3.png", photos / "4.png", photos / "5.png"], add=True))
    assert [answer.added for answer in answers] == [True, True, False]  # type: ignore[union-attr]
    assert len(database) == 12


def test_several_join_as_one_query(photos: Path, tmp_path: Path, open_db: Open, instant: Instant) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    instant.passes = 0
    result = database.search_together([save(tmp_path / "new" / f"{n}.png", 80 + n) for n in range(2)], add=True)
    assert (result.added, instant.passes, len(database)) == (True, 2, 14)


def test_what_cannot_join_says_why_and_is_searched_with_if_it_can_be(
    photos: Path, open_db: Open, instant: Instant
) -> None:
    database = open_db(backbone=instant)
    database.build(photos, exclude=["*.tif"])
    save(photos / "left.tif", 70)
    (photos / "text.jpg").write_text("no image")
    os.utime(photos / "text.jpg", (1e9, 1e9))
    left, text, none, folder = database.search_many(
        [photos / "left.tif", photos / "text.jpg", photos / "none.png", photos / "below"], add=True
    )
    assert isinstance(left, Result) and not left.added and len(database) == 12
    assert "left.tif was not added: left out by --exclude *.tif" in left.notes[0]
    assert [type(answer) for answer in (text, none, folder)] == [Failure] * 3
    with pytest.raises(TypeError, match="only a file can be added"):
        database.search(picture(1), add=True)


def test_a_copy_of_an_indexed_image_joins_without_a_pass(
    photos: Path, tmp_path: Path, open_db: Open, instant: Instant
) -> None:
    database = open_db(backbone=instant)
    database.build(photos)
    instant.passes = 0
    result = database.search(shutil.copy(photos / "3.png", tmp_path / "copy.png"), add=True, k=2)
    assert {match.path for match in result} == {str(photos / "3.png"), str(tmp_path / "copy.png")}
    assert (result.added, instant.passes) == (True, 0)
