"""What is projected keeps its angles as far as so few dimensions can, and is the same bytes whatever computes it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from catdb.checksum import checksum
from catdb.projection import Projection, fit, unpack

WIDE, NARROW = 96, 16


def rows(seed: int, count: int, wide: int = WIDE, rank: int = 12) -> NDArray[np.float16]:
    """Return unit rows that lie near a plane of a few dimensions, away from the origin as those of networks do."""
    random = np.random.default_rng(seed)
    plane = np.random.default_rng(1).normal(size=(rank, wide))
    values = random.normal(size=(count, rank)) @ plane + 0.05 * random.normal(size=(count, wide)) + 2
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)


def fitted(seed: int = 2, count: int = 400) -> Projection:
    return fit([rows(seed, count)], WIDE, NARROW)


def reference(projection: Projection, whole: NDArray[np.float16]) -> NDArray[np.float64]:
    """Project with the whole numbers of Python, which are exact."""
    out = []
    for row in whole:
        ints = [int(value * 2**24) for value in row.astype(np.float64)]
        sums = [sum(a * b for a, b in zip(ints, axis, strict=True)) for axis in projection.axes.tolist()]
        values = [float(np.rint(value / 2**28)) for value in sums]
        out.append(np.array(values) / np.sqrt(sum(int(value) ** 2 for value in values)))
    return np.array(out)


def test_the_axes_are_orthonormal_and_span_what_matters() -> None:
    projection = fitted()
    axes = projection.axes / 2**27
    assert np.abs(axes @ axes.T - np.eye(NARROW)).max() < 1e-6
    whole = rows(3, 50).astype(np.float64)
    kept = np.linalg.norm(whole @ axes.T, axis=1)
    assert kept.min() > 0.99  # of vectors that it has not seen
    values = np.linalg.eigvalsh(sum(np.outer(x, x) for x in rows(2, 400).astype(np.float64)))[::-1]
    held = np.square(rows(2, 400).astype(np.float64) @ axes.T).sum(axis=0)
    assert np.allclose(held, values[:NARROW], rtol=1e-4)  # the principal ones, the most important first


def test_cosines_are_kept_and_rows_are_of_unit_length() -> None:
    whole = rows(4, 60)
    short = fitted().apply(whole)
    assert short.shape == (60, NARROW) and short.dtype == np.float16
    assert np.abs(np.linalg.norm(short.astype(np.float64), axis=1) - 1).max() < 1e-3
    exact = whole.astype(np.float64) @ whole.astype(np.float64).T
    assert np.abs(short.astype(np.float64) @ short.astype(np.float64).T - exact).max() < 0.01


def test_what_comes_back_lies_where_it_was_as_far_as_the_axes_reach() -> None:
    projection, whole = fitted(), rows(8, 40)
    returned = projection.back(projection.apply(whole).astype(np.float32))
    assert returned.shape == whole.shape
    assert (np.einsum("nd,nd->n", returned, whole.astype(np.float32)) > 0.99).all()
    mean = projection.apply(whole).mean(axis=0, dtype=np.float32)
    assert np.abs(projection.back(mean[None])[0] - whole.mean(axis=0, dtype=np.float32)).max() < 0.01


def test_all_dimensions_keep_all() -> None:
    whole = rows(5, 30)
    short = fit([rows(2, 400)], WIDE, WIDE).apply(whole).astype(np.float64)
    assert np.abs(short @ short.T - whole.astype(np.float64) @ whole.astype(np.float64).T).max() < 2e-3


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_the_arithmetic_is_exact(seed: int, count: int) -> None:
    projection, whole = fitted(), rows(seed, count, rank=40)
    assert projection.apply(whole).tobytes() == reference(projection, whole).astype(np.float16).tobytes()


def test_a_row_depends_on_no_other() -> None:
    projection = fit([rows(2, 400, 640)], 640, 64)
    whole = rows(6, 1200, 640, rank=200)
    together = projection.apply(whole)
    order = np.random.default_rng(0).permutation(len(whole))
    assert projection.apply(whole[order]).tobytes() == together[order].tobytes()
    for start, stop in ((0, 1), (511, 513), (700, 1199)):
        assert projection.apply(whole[start:stop]).tobytes() == together[start:stop].tobytes()
    strided = np.asfortranarray(whole)
    assert projection.apply(strided).tobytes() == together.tobytes()


@pytest.mark.parametrize("kernel", ["Prescott", "Haswell", "SkylakeX"])
def test_it_is_the_same_on_other_processors(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenBLAS can be told to compute as on another one: floating point would differ in its last digits."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_projection import rows\nfrom catdb.projection import Projection\nimport numpy as np\n"
        "axes = np.random.default_rng(0).normal(size=(64, 640)); axes = np.linalg.qr(axes.T)[0].T\n"
        "projection = Projection(np.rint(axes.round(6) * 2**27).astype(np.int32))\n"
        "from catdb.checksum import checksum\nprint(checksum(projection.apply(rows(6, 700, 640, rank=200)).copy()))"
    )
    found = set()
    for name, threads in ((kernel, "1"), ("", "2")):
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", threads)
        monkeypatch.setenv("OPENBLAS_CORETYPE", name) if name else monkeypatch.delenv("OPENBLAS_CORETYPE")
        done = subprocess.run(
            [sys.executable, "-c", script, Path(__file__).parent], capture_output=True, text=True, timeout=60
        )
        if done.returncode < 0:
            pytest.skip(f"this processor is no {kernel}")
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1


def test_what_is_at_a_right_angle_to_all_axes_is_a_unit_row_still() -> None:
    axes = np.zeros((3, 8), np.int32)
    axes[[0, 1, 2], [0, 1, 2]] = 2**27
    short = Projection(axes).apply(np.eye(8, dtype=np.float16))
    assert np.linalg.norm(short.astype(np.float64), axis=1).tolist() == [1.0] * 8
    assert short[:3].tolist() == np.eye(3).tolist()


def test_pieces_do_not_matter_beyond_rounding() -> None:
    whole = rows(2, 400)
    apart = fit([whole[i : i + 37] for i in range(0, 400, 37)], WIDE, NARROW).apply(rows(7, 40)).astype(np.float64)
    once = fit([whole], WIDE, NARROW).apply(rows(7, 40)).astype(np.float64)
    assert np.abs(apart @ apart.T - once @ once.T).max() < 2e-3


def test_it_is_packed_and_unpacked() -> None:
    projection = fitted()
    again = unpack(projection.pack(), WIDE)
    assert again.axes.tobytes() == projection.axes.tobytes()
    assert len(projection.pack()) == 4 * WIDE * NARROW
    with pytest.raises(ValueError, match="reshape"):
        unpack(projection.pack()[:-4], WIDE)


def test_no_projection_of_nothing() -> None:
    assert fitted().apply(np.empty((0, WIDE), np.float16)).shape == (0, NARROW)
    assert checksum(fitted().pack()) == checksum(fitted().pack())
