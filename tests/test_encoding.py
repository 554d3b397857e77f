"""What a vector becomes: int8 rows point its way, are the same bytes whatever stands beside them, and need no scale."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from catdb.encoding import Encoding, directions, store_of
from catdb.projection import fit

INT8 = Encoding(store="int8")


def vectors(seed: int, count: int, wide: int = 48) -> NDArray[np.float16]:
    values = np.random.default_rng(seed).normal(size=(count, wide)) ** 3
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 60))
def test_a_row_is_the_vector_on_a_scale_to_127(seed: int, count: int, wide: int) -> None:
    whole = vectors(seed, count, wide)
    for vector, row in zip(whole, INT8.rows(whole), strict=True):
        exact = [Fraction(float(value)) for value in vector]
        scale = Fraction(127) / max(abs(value) for value in exact)
        assert max(abs(value) for value in row.tolist()) == 127
        error = [abs(value * scale - number) for value, number in zip(exact, row.tolist(), strict=True)]
        assert max(error) <= Fraction(1, 2) + Fraction(1, 10**4)  # a product in float32 is rounded before it is here


def test_rows_are_these_bytes_on_every_machine() -> None:
    whole = np.array([[0.5, -0.25, 0.125, 0.0], [-1, 0.004, 0.0039, 6e-8], [6e-8, 0, 0, 0]], np.float16)
    assert INT8.rows(whole).tolist() == [[127, -64, 32, 0], [-127, 1, 0, 0], [127, 0, 0, 0]]


def test_a_row_depends_on_no_other() -> None:
    whole = vectors(1, 5000)
    together = INT8.rows(whole)
    order = np.random.default_rng(0).permutation(len(whole))
    assert INT8.rows(whole[order]).tobytes() == together[order].tobytes()
    assert INT8.rows(np.asfortranarray(whole)).tobytes() == together.tobytes()
    for start, stop in ((0, 1), (2047, 2049), (3000, 4999)):
        assert INT8.rows(whole[start:stop]).tobytes() == together[start:stop].tobytes()


@pytest.mark.parametrize("wide", [1, 2, 48, 1536])
def test_what_a_row_stands_for_is_of_unit_length_and_points_the_way_of_its_vector(wide: int) -> None:
    whole = vectors(3, 200, wide)
    rows = INT8.rows(whole)
    back = directions(rows)
    assert back.dtype == np.float32
    assert np.abs(np.linalg.norm(back.astype(np.float64), axis=1) - 1).max() < 1e-6
    apart = np.linalg.norm(back - directions(whole), axis=1)
    most = np.sqrt(wide) / np.linalg.norm(rows.astype(np.float64), axis=1)  # half a step in every number, and float16
    assert (apart <= most + 1e-3).all()


def test_float16_rows_stand_for_themselves() -> None:
    whole = vectors(4, 10)
    assert Encoding().rows(whole) is whole
    assert (directions(whole) == whole.astype(np.float32)).all()


def test_nothing_at_all_stays_nothing() -> None:
    zero = np.zeros((2, 8), np.float16)
    assert INT8.rows(zero).tolist() == directions(INT8.rows(zero)).tolist() == zero.tolist()
    assert INT8.rows(np.empty((0, 8), np.float16)).shape == (0, 8)


def test_shortened_first_and_then_rounded() -> None:
    whole = vectors(5, 300)
    short = Encoding(fit([whole], 48, 6))
    both = Encoding(short.projection, "int8")
    assert both.rows(whole).tobytes() == INT8.rows(short.rows(whole)).tobytes()
    assert (both.short(whole) == short.rows(whole)).all(), "what is routed by is not rounded"
    assert [encoding.width(48) for encoding in (Encoding(), INT8, short, both)] == [48, 48, 6, 6]
    assert [encoding.lossless for encoding in (Encoding(), INT8, short, both)] == [True, False, False, False]
    assert [encoding.candidates(10) for encoding in (Encoding(), INT8, short, both)] == [10, 80, 80, 80]
    means = np.ones((2, 48), np.float32)
    assert INT8.back(means) is means and both.back(means[:, :6]).shape == (2, 48)


def test_a_database_from_before_there_was_a_choice_holds_float16() -> None:
    assert (store_of({}), store_of({"store": None}), store_of({"store": "int8"})) == ("float16", "float16", "int8")
