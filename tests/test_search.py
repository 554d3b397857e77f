"""Routing and top-k: whatever way the rows are cut into shards, the answer is that of one slow sentence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import catdb.threads
from catdb import search, shard
from catdb.encoding import STORES, Encoding, directions
from catdb.encoding import Stored as Features
from catdb.search import _CHUNK, MOST, Block, Regions, nearest, nearest_to_each, neighbours, route, similarities, top
from catdb.shard import Rows

DIMENSION = 8
NUMBER = 6  # categories


class Stored(NamedTuple):
    """A small collection: every image's vector and its categories, -1 where it has fewer than four."""

    features: Features
    categories: NDArray[np.int32]


def unit(values: NDArray[np.floating]) -> NDArray[np.float16]:
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float16)


@st.composite
def collections(draw: st.DrawFn) -> Stored:
    count = draw(st.integers(0, 40))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    features = unit(random.normal(size=(count, DIMENSION)))
    features[random.random(count) < 0.3] = features[:1]  # copies of one image tie with it
    rows = [random.permutation(NUMBER)[:4] for _ in range(count)]
    categories = np.array(rows, np.int32).reshape(count, 4)
    widths = random.integers(1, 5, count)
    categories[np.arange(4) >= widths[:, None]] = -1
    features = Encoding(store=draw(st.sampled_from(STORES))).rows(features)
    return Stored(features, categories)


def as_row(vector: NDArray[np.float16], features: Features) -> Features:
    """Return a query as it is compared with such rows."""
    return Encoding(store=features.dtype.name).rows(vector[None])[0]


def blocks(stored: Stored, probed: list[int], cuts: np.random.Generator, dead: set[int]) -> list[Block]:
    """Cut the probed categories into blocks: a shard with dead rows, then two runs of waiting rows, perhaps empty."""
    found = []
    for category in probed:
        held = np.flatnonzero((stored.categories == category).any(axis=1))
        first, second = sorted(cuts.integers(0, len(held) + 1, 2).tolist())
        for piece in (held[:first], held[first:second], held[second:]):
            rows = Rows(stored.features[piece], piece.astype(np.int64) + 1, stored.categories[piece])
            found.append(Block(category, rows, np.isin(piece, list(dead)) if dead else None))
    return found


def slow(stored: Stored, query: Features, images: list[int]) -> dict[int, float]:
    """The sentence that every search must agree with: the cosine of each distinct image with the query."""
    return dict(zip([n + 1 for n in images], cosines(stored.features[images], query).tolist(), strict=True))


def cosines(features: Features, query: Features) -> NDArray[np.float64]:
    rows, one = features.astype(np.float64), query.astype(np.float64)
    return rows @ one / np.linalg.norm(rows, axis=1) / np.linalg.norm(one)


@settings(max_examples=150, deadline=None)
@given(stored=collections(), seed=st.integers(0, 2**32), k=st.integers(1, 50), data=st.data())
def test_nearest_is_brute_force_over_the_distinct_images(
    stored: Stored, seed: int, k: int, data: st.DataObject
) -> None:
    random = np.random.default_rng(seed)
    probed = data.draw(st.permutations(range(NUMBER)))[: data.draw(st.integers(0, NUMBER))]
    query = as_row(unit(random.normal(size=DIMENSION)), stored.features)
    dead = set(np.flatnonzero(random.random(len(stored.features)) < 0.2).tolist())
    images = [n for n, own in enumerate(stored.categories) if n not in dead and set(own.tolist()) & set(probed)]
    expected = slow(stored, query, images)

    hits = nearest(query, blocks(stored, probed, random, dead), k)

    assert hits.scanned == len(images)
    assert len(hits.image_ids) == min(k, len(images)) == len(set(hits.image_ids.tolist()))
    for image, similarity in zip(hits.image_ids.tolist(), hits.similarities.tolist(), strict=True):
        assert similarity == pytest.approx(np.clip(expected[image], -1, 1), abs=1e-5)
    ranked = sorted(expected.values(), reverse=True)[:k]
    np.testing.assert_allclose(hits.similarities, np.clip(ranked, -1, 1), atol=1e-5)
    order = list(zip((-hits.similarities).tolist(), hits.image_ids.tolist(), strict=True))
    assert order == sorted(order)
    copies = [n + 1 for n in images if (stored.features[n] == stored.features[0]).all()]
    shown = [n for n in hits.image_ids.tolist() if n in copies]
    assert shown == copies[: len(shown)]  # of equals, those with the lowest ids, wherever the cut falls


@pytest.mark.parametrize("threads", [1, 4])
@settings(max_examples=60, deadline=None)
@given(stored=collections(), seed=st.integers(0, 2**32), k=st.integers(1, 50), few=st.sampled_from([0.0, 0.3, 2.0]))
def test_pieces_threads_and_copies_change_nothing(threads: int, stored: Stored, seed: int, k: int, few: float) -> None:
    query = as_row(unit(np.random.default_rng(seed).normal(size=DIMENSION)), stored.features)
    dead = set(np.flatnonzero(np.random.default_rng(seed).random(len(stored.features)) < 0.4).tolist())

    def found() -> tuple[list[int], list[float], int, int]:
        every = blocks(stored, list(range(NUMBER)), np.random.default_rng(seed), dead)
        hits = nearest(query, every, k)
        return hits.image_ids.tolist(), hits.similarities.tolist(), hits.scanned, hits.rows

    whole = found()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("_CHUNK", 3), ("_COPIED", 2), ("_FEW", few)):
            patch.setattr(search, name, value)
        for name, value in (("COUNT", threads), ("_AHEAD", 1)):
            patch.setattr(catdb.threads, name, value)
        assert found() == whole
        assert (
            similarities(stored.features, query).tolist()
            == search._cosines(stored.features, query[None])[:, 0].tolist()
        )


@pytest.mark.parametrize("threads", [1, 4])
@settings(max_examples=100, deadline=None)
@given(
    stored=collections(),
    seed=st.integers(0, 2**32),
    k=st.integers(1, 50),
    count=st.sampled_from([0, 1, 2, 3, 7, MOST]),
    chunk=st.sampled_from([3, _CHUNK]),
    several=st.sampled_from([1, 3, 99]),
    few=st.sampled_from([0.0, 0.6, 2.0]),
)
def test_several_queries_at_once_find_what_each_finds_alone(
    threads: int, stored: Stored, seed: int, k: int, count: int, chunk: int, several: int, few: float
) -> None:
    random = np.random.default_rng(seed)
    dead = set(np.flatnonzero(random.random(len(stored.features)) < 0.2).tolist())
    queries = Encoding(store=stored.features.dtype.name).rows(unit(random.normal(size=(count, DIMENSION))))
    if count > 2 and len(stored.features):
        queries[2] = stored.features[0]  # with its copies it finds some that tie
    every = blocks(stored, list(range(NUMBER)), random, dead)
    asked = random.integers(0, 1 << count, len(every)).tolist()
    every = [replace(block, asked=bits) for block, bits in zip(every, asked, strict=True)]

    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("_CHUNK", chunk), ("_SEVERAL", several), ("_FEW_OF_SEVERAL", few)):
            patch.setattr(search, name, value)
        patch.setattr(catdb.threads, "COUNT", threads)
        together = nearest_to_each(queries, every, k)

    assert len(together) == count
    for number, (query, hits) in enumerate(zip(queries, together, strict=True)):
        own = [replace(block, asked=1) for block, bits in zip(every, asked, strict=True) if bits >> number & 1]
        alone = nearest(query, own, k)
        assert (hits.scanned, hits.rows) == (alone.scanned, alone.rows)
        assert hits.image_ids.tolist() == alone.image_ids.tolist()
        assert hits.similarities.tolist() == alone.similarities.tolist()
        met = {int(image): block.rows.features[n] for block in own for n, image in enumerate(block.rows.image_ids)}
        for image, similarity in zip(hits.image_ids.tolist(), hits.similarities.tolist(), strict=True):
            assert similarity == pytest.approx(float(cosines(met[image][None], query)[0]), abs=1e-5)
        living = {
            int(image)
            for block in own
            for n, image in enumerate(block.rows.image_ids)
            if block.dead is None or not block.dead[n]
        }
        assert len(living) == hits.scanned and living >= set(hits.image_ids.tolist())


@pytest.mark.parametrize("store", STORES)
def test_what_is_nearly_the_same_is_found_whatever_else_is_asked(store: str) -> None:
    """Of frames of one scene, whose cosines differ in the last digit, a product of several queries chose others."""
    random = np.random.default_rng(3)
    scene, encoding = random.normal(size=64), Encoding(store=store)
    for _ in range(20):
        frames = encoding.rows(unit(scene + random.normal(size=(300, 64)) * 1e-4))
        rows = Rows(frames, random.permutation(300).astype(np.int64) + 1, np.zeros((300, 4), np.int32))
        queries = encoding.rows(unit(scene + random.normal(size=(4, 64)) * 1e-3))
        several = nearest_to_each(queries, [Block(0, rows)], 10)
        for query, hits in zip(queries, several, strict=True):
            alone = nearest(query, [Block(0, rows)], 10)
            assert hits.image_ids.tolist() == alone.image_ids.tolist()
            assert hits.similarities.tolist() == alone.similarities.tolist()


def test_a_product_of_several_queries_is_as_close_as_one_at_a_time() -> None:
    random = np.random.default_rng(1)
    vectors = unit(random.normal(size=(300, 1536)))
    for store in STORES:
        rows = Encoding(store=store).rows(vectors)
        found = search.cosines(rows, rows[:MOST])
        for number in range(MOST):
            np.testing.assert_allclose(found[:, number], cosines(rows, rows[number]), atol=2e-6)
            np.testing.assert_allclose(found[:, number], similarities(rows, rows[number]), atol=5e-7)


@settings(max_examples=150, deadline=None)
@given(
    values=st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0]), max_size=30),
    k=st.integers(1, 35),
    seed=st.integers(0, 99),
)
def test_top_is_a_sort(values: list[float], k: int, seed: int) -> None:
    image_ids = np.random.default_rng(seed).permutation(len(values)).astype(np.int64)
    found, best = top(image_ids, np.array(values, np.float32), k)
    expected = sorted(zip([-v for v in values], image_ids.tolist(), strict=True))[:k]
    assert [(-b, i) for b, i in zip(best.tolist(), found.tolist(), strict=True)] == expected


def test_nothing_probed_finds_nothing() -> None:
    hits = nearest(unit(np.ones(DIMENSION)), [], 5)
    assert (hits.image_ids.tolist(), hits.similarities.tolist(), hits.scanned) == ([], [], 0)


def test_all_rows_dead_finds_nothing() -> None:
    rows = Rows(unit(np.ones((3, DIMENSION))), np.arange(3), np.zeros((3, 4), np.int32))
    hits = nearest(rows.features[0], [Block(0, rows, np.ones(3, bool))], 5)
    assert (hits.image_ids.tolist(), hits.scanned) == ([], 0)


def test_a_similarity_never_leaves_minus_one_to_one() -> None:
    features = np.full((2, DIMENSION), 0.354, np.float16)  # a little longer than 1
    features[1] = -features[1]
    rows = Rows(features, np.arange(2), np.zeros((2, 4), np.int32))
    assert nearest(features[0], [Block(0, rows)], 2).similarities.tolist() == [1.0, -1.0]


def test_a_category_beyond_all_that_are_probed_is_not_mistaken_for_one() -> None:
    rows = Rows(unit(np.ones((1, DIMENSION))), np.array([7]), np.array([[999, 2, -1, -1]], np.int32))
    assert nearest(rows.features[0], [Block(2, rows)], 1).image_ids.tolist() == [7]


def test_rows_that_are_chosen_from_several_chunks_keep_their_order() -> None:
    count = 2 * _CHUNK + 5
    random = np.random.default_rng(3)
    stored = Stored(
        unit(random.normal(size=(count, DIMENSION))), np.tile(np.array([0, 1, -1, -1], np.int32), (count, 1))
    )
    dead = random.random(count) < 0.1
    rows = Rows(stored.features, np.arange(count) + 1, stored.categories)
    hits = nearest(stored.features[0], [Block(0, rows, dead)], 20)
    expected = slow(stored, stored.features[0], np.flatnonzero(~dead).tolist())
    assert hits.scanned == len(expected) == (~dead).sum()
    for image, similarity in zip(hits.image_ids.tolist(), hits.similarities.tolist(), strict=True):
        assert similarity == pytest.approx(expected[image], abs=1e-5)
    np.testing.assert_allclose(hits.similarities, sorted(expected.values(), reverse=True)[:20], atol=1e-5)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("count", [0, 1, 100])
@pytest.mark.parametrize("dimension", [1, 12, 1280, 1536])
def test_similarities_are_those_of_float64(count: int, dimension: int, store: str) -> None:
    random = np.random.default_rng(count + dimension)
    features = Encoding(store=store).rows(unit(random.normal(size=(count, dimension))))
    query = as_row(unit(random.normal(size=dimension)), features)
    found = similarities(features, query)
    assert (found.dtype, found.shape) == (np.float32, (count,))
    np.testing.assert_allclose(found, cosines(features, query), atol=2e-6)


def test_int8_sums_do_not_overflow() -> None:
    features = np.full((3, 4096), 127, np.int8)
    features[1], features[2, ::2] = -127, -127
    assert similarities(features, features[0]).tolist() == [1.0, -1.0, 0.0]


def test_rows_of_a_read_only_memory_map_are_compared_as_they_lie(tmp_path: Path) -> None:
    features = unit(np.random.default_rng(5).normal(size=(50, DIMENSION)))
    rows = Rows(features, np.arange(50), np.zeros((50, 4), np.int32))
    shard.write(str(tmp_path / "1.h5"), shard.encode("c", rows))
    with shard.opened(str(tmp_path / "1.h5")) as file:
        loaded = shard.load(file, "c", DIMENSION)
    assert not loaded.features.flags.writeable
    assert similarities(loaded.features, features[3]).tolist() == similarities(features, features[3]).tolist()
    mapped = np.memmap(tmp_path / "raw", np.float16, "w+", shape=features.shape)
    mapped[:] = features
    mapped.flush()
    read = np.memmap(tmp_path / "raw", np.float16, "r", shape=features.shape)
    assert similarities(read, features[3]).tolist() == similarities(features, features[3]).tolist()


# --- routing ----------------------------------------------------------------------------------------------------

AXES = np.eye(4, DIMENSION, dtype=np.float16)


def regions(means: NDArray[np.floating], first: int = 10) -> Regions:
    """Every category one block of one row."""
    ones = np.ones(len(means), np.int64)
    return Regions(np.arange(first, first + len(means)), 0 * ones, ones, means.astype(np.float16))


QUERY = unit(np.array([1, 3, 2, 0.5, 0, 0, 0, 0]))


@pytest.mark.parametrize(
    ("own", "probes", "expected"),
    [
        ([9, 7], 1, [9]),
        ([9, 7], 2, [9, 7]),
        ([9, 7], 4, [9, 7, 11, 12]),  # then by centroid: 11 (3), 12 (2), 10 (1), 13 (0.5)
        ([12, 9], 4, [12, 9, 11, 10]),
        ([], 3, [11, 12, 10]),
        ([9, 9, 7], 2, [9, 7]),
        ([9], 100, [9, 11, 12, 10, 13]),
    ],
)
def test_route_takes_the_own_first_then_the_nearest_centroids(own: list[int], probes: int, expected: list[int]) -> None:
    assert route(own, regions(AXES), QUERY, probes) == expected


def test_route_goes_by_direction_and_not_by_length_of_a_centroid() -> None:
    lengths = np.array([[100], [0.1], [1], [0]], np.float32)
    assert route([], regions(AXES * lengths), QUERY, 4) == [11, 12, 10, 13]


def test_route_breaks_ties_by_category() -> None:
    assert route([], regions(np.ones((4, DIMENSION))), QUERY, 3) == [10, 11, 12]


def test_a_shard_is_routed_to_by_the_mean_of_all_its_rows() -> None:
    means = np.array([[1, 0], [0, 1], [1, 0]], np.float16)
    found = Regions(np.array([3, 3, 5]), np.array([0, 3, 0]), np.array([3, 1, 2]), means)
    categories, centroids = found.shards
    assert (categories.tolist(), centroids.tolist()) == ([3, 5], [[0.75, 0.25], [1.0, 0.0]])
    assert found.nearest(np.array([0.6, 0.8], np.float16))(3).tolist() == [1, 0, 2]


@pytest.mark.parametrize("count", [1, 7, 100, 999, 1000, 2000])
def test_blocks_are_routed_to_in_the_order_of_their_means_rounded_to_int8(count: int) -> None:
    random = np.random.default_rng(count)
    bundles = random.normal(size=(20, 96))
    means = (bundles[random.integers(0, 20, 1000)] + random.normal(size=(1000, 96))).astype(np.float16) / 7
    nothing = np.zeros(1000, np.int64)
    found = Regions(nothing, nothing, nothing, means)
    queries = unit(bundles[:5] + random.normal(size=(5, 96)))
    rounded = Encoding(store="int8").rows(means)
    for query, first in zip(queries, found.nearest_to_each(queries), strict=True):
        places = first(count)
        closeness = similarities(rounded, Encoding(store="int8").rows(query[None])[0])
        assert len(set(places.tolist())) == min(count, 1000)
        assert places.tolist() == found.nearest(query)(count).tolist()
        np.testing.assert_allclose(closeness[places], np.sort(closeness)[::-1][:count], atol=1e-6)
        exact, _ = top(np.arange(1000), similarities(means, query), count)
        assert len(set(exact.tolist()) & set(places.tolist())) >= 0.95 * min(count, 1000)


@settings(max_examples=50, deadline=None)
@given(stored=collections(), seed=st.integers(0, 2**32), k=st.integers(1, 12))
def test_neighbours_are_those_of_one_query_at_a_time(stored: Stored, seed: int, k: int) -> None:
    random = np.random.default_rng(seed)
    every = blocks(stored, list(range(NUMBER)), random, set())
    queries, own = unit(directions(stored.features[:7])), np.arange(1, len(stored.features[:7]) + 1)
    found = neighbours(queries, own, every, k)
    for query, itself, row in zip(queries, own.tolist(), found.tolist(), strict=True):
        expected = slow(stored, query, [n for n in range(len(stored.features)) if n + 1 != itself])
        best = sorted(expected.values(), reverse=True)[:k]
        assert [image for image in row if image >= 0] == row[: len(best)]
        np.testing.assert_allclose([expected[image] for image in row[: len(best)]], best, atol=1e-5)


def test_route_without_centroids_is_the_own() -> None:
    assert route([3, 1], regions(np.empty((0, DIMENSION))), QUERY, 8) == [3, 1]
