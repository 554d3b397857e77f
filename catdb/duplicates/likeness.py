"""Whether two pictures are of one photograph, though it was compressed, resized or cropped: pure numbers.

    pixels (128, 128, 3) ─ glance ─▶ block means (3, 64)  ─ may_be_one ─▶ which pairs deserve a look
                         ─ sketch ─▶ grey (128, 128)      ─ likeness ──▶ how alike the least alike part is

Pictures of one place, or two shots of a series, resemble each other almost everywhere; a copy does so *everywhere*. So
the likeness is not the correlation of the two pictures but of the part in which they differ most, measured after one of
them has been laid over the other: a crop's shift and scale are found from coarse to fine, by least squares.

A perceptual hash of 64 bits was no way to this. It compares what stands in the same place, so that a crop of 5 %
changes as many bits as another shot of the same scene does; the package that computes it brings scipy along.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDE = 128
"""Height and width of the pixels that are compared."""

_PARTS = 8  # blocks on a side, of a glance and of a comparison
_GREY = np.array([0.299, 0.587, 0.114], np.float32)
_DETAIL = 4.0  # standard deviation, in grey levels, of a picture that shows nothing which could be recognised
_SAME_GLANCE = 0.65  # correlation of grey block means: of 2,000 copies the least was 0.79, before they are aligned
_TINT = 24.0  # root mean square difference in colour, in levels: of 2,000 copies the greatest was 17
_STRETCH = 1.15  # the most by which a crop may change the ratio of the sides, as the square root of the quotient
_LEVELS = ((16, 8), (32, 8), (64, 4))  # side, and at most so many steps of Gauss and Newton
_HOPE = 0.75  # correlation at a level below which the next one is not tried
_OVERLAP = 0.75  # of each side that both pictures must show
_FAR = 0.2  # of a side: a shift beyond it
_STRIDE, _STILL = 0.1, 0.02  # the longest step, in sides, and one in pixels that changes nothing any more
_HAIR = 0.015  # of a side, by which alignment and whole pixels may err
_FAINT = 0.3  # contrast of the other by which the one is lowered
_SMOOTH = {16: 1, 32: 1, 64: 1, 128: 4}  # times it is blurred, without which resampling would look like a difference

Sketch = NDArray[np.uint8]  # (128, 128)
Glance = NDArray[np.float16]  # (3, 64): grey, red minus grey, blue minus grey
_Grey = NDArray[np.floating[Any]]
_Place = NDArray[np.float64]  # (3,): logarithm of the scale; shift down and to the right, in sides


def sketch(pixels: NDArray[np.uint8]) -> Sketch:
    """Return the grey picture (128, 128) of pixels (128, 128, 3)."""
    return np.asarray(np.rint(pixels @ _GREY), np.uint8)


def glance(pixels: NDArray[np.uint8]) -> Glance:
    """Return the means of 8 x 8 blocks of pixels (128, 128, 3), as grey and two differences of colour."""
    step = SIDE // _PARTS
    means = pixels.reshape(_PARTS, step, _PARTS, step, 3).mean(axis=(1, 3), dtype=np.float32).reshape(-1, 3)
    grey = means @ _GREY
    return np.stack([grey, means[:, 0] - grey, means[:, 2] - grey]).astype(np.float16)


def may_be_one(one: NDArray[np.float16], other: NDArray[np.float16]) -> NDArray[np.bool_]:
    """Say of pairs of glances (m, 3, 64) which may be of one photograph."""
    difference = one[:, 1:].astype(np.float32) - other[:, 1:].astype(np.float32)
    tint = np.sqrt((difference**2).mean(axis=(1, 2)))
    first, second = _centred(one[:, 0]), _centred(other[:, 0])
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    alike = (first * second).sum(axis=1) > _SAME_GLANCE * lengths
    return np.asarray(alike & (tint < _TINT))


def may_be_equal(one: NDArray[np.float16], other: NDArray[np.float16]) -> NDArray[np.bool_]:
    """Say of pairs of glances (m, 3, 64) which may have the same pixels.

    It leaves room for two files of which a decoder gave one at a reduced size and the other as a whole.
    """
    difference = np.abs(one.astype(np.float32) - other.astype(np.float32))
    return np.asarray(difference.max(axis=(1, 2)) <= 2.0)


def likeness(one: Sketch, other: Sketch, stretch: float = 1.0) -> float:
    """Return how alike the least alike of 8 x 8 parts is, after alignment: 1 for equal, 0 for little in common.

    1 - d/2, where d is the mean square difference of the part in units of the picture's variance; were all parts alike,
    it would be the correlation. ``stretch``: the square root of (the other's width / height) / (the one's), for both
    were squashed to a square. 0 also where a picture has no detail by which to recognise it, and where each shows
    something beyond the other's edge: that is how two shots of one scene differ, and no crop.
    """
    if not 1 / _STRETCH < stretch < _STRETCH:
        return 0.0
    ones, others = _pyramid(one), _pyramid(other)
    if min(ones[64].std(), others[64].std()) < _DETAIL:
        return 0.0
    place = _align(ones, others, stretch)
    if place is None or not _is_crop(place, stretch):
        return 0.0
    return _least_alike(_Laid(ones[SIDE], others[SIDE], place, stretch))


def _centred(values: NDArray[np.float16]) -> _Grey:
    wide = values.astype(np.float32)
    return np.asarray(wide - wide.mean(axis=1, keepdims=True))


def _pyramid(picture: Sketch) -> dict[int, _Grey]:
    """Return the picture at each level's side, and at its own, slightly blurred."""
    found: dict[int, _Grey] = {}
    grey, side = picture.astype(np.float32), SIDE
    while side >= _LEVELS[0][0]:
        found[side] = _blurred(grey, _SMOOTH[side])
        side //= 2
        grey = grey.reshape(side, 2, side, 2).mean(axis=(1, 3))
    return found


def _blurred(picture: _Grey, times: int) -> _Grey:
    """Blur by weights of 1, 2, 1, so many times.

    Not by a product of matrices, nor is a picture warped by one: so small a product gains nothing from the threads of
    the library that computes it, and waits for them all the longer where others use the cores.
    """
    for _ in range(2 * times):
        wider = np.concatenate([picture[:1], picture, picture[-1:]])
        picture = ((wider[:-2] + wider[2:] + 2 * picture) / 4).T
    return picture


def _align(ones: dict[int, _Grey], others: dict[int, _Grey], stretch: float) -> _Place | None:
    """Return where the one lies over the other, or None where they have too little in common."""
    place: _Place = np.zeros(3)
    for side, steps in _LEVELS:
        for _ in range(steps):
            laid = _Laid(ones[side], others[side], place, stretch)
            step = laid.improvement() if laid.is_enough else None
            if step is None:
                return None
            place = place + step
            if np.abs(place[1:]).max() > _FAR:
                return None
            if np.abs(step).max() < _STILL / side:
                break
        if laid.correlation() < _HOPE:
            return None
    return place


def _is_crop(place: _Place, stretch: float) -> bool:
    """Say whether the frame of one lies within the other's, but for a hair."""
    scale = math.exp(float(place[0]))
    halves = np.array([scale / stretch, scale * stretch]) / 2
    edges = np.concatenate([halves - place[1:], halves + place[1:]]) - 0.5  # how far the other reaches beyond the one
    return bool((edges <= _HAIR).all() or (edges >= -_HAIR).all())


class _Laid:
    """One picture, scaled and shifted, over another of the same side."""

    def __init__(self, one: _Grey, other: _Grey, place: _Place, stretch: float) -> None:
        self._one = one
        scale = math.exp(float(place[0]))
        self._down, self._right = (
            _Axis(len(one), scale / stretch, float(place[1])),
            _Axis(len(one), scale * stretch, float(place[2])),
        )
        self.is_enough = min(len(self._down), len(self._right)) >= _OVERLAP * len(one)
        self.ours = _less_mean(self._warped(one))
        self.theirs = _less_mean(other[np.ix_(self._down.inside, self._right.inside)])

    def _warped(self, picture: _Grey) -> _Grey:
        return self._right.sampled(self._down.sampled(picture).T).T

    def correlation(self) -> float:
        lengths = float(np.linalg.norm(self.ours) * np.linalg.norm(self.theirs))
        return float((self.ours * self.theirs).sum()) / lengths if lengths else 0.0

    def improvement(self) -> _Place | None:
        """Return by how much the place should change: least squares, with brightness and contrast left free."""
        side = len(self._one)
        down, right = (self._warped(np.gradient(self._one, axis=axis) * side) for axis in (0, 1))
        apart = down * self._down.at[:, None] + right * self._right.at
        columns = np.stack([_less_mean(part).ravel() for part in (apart, down, right, self.ours)], 1).astype(np.float64)
        try:
            found = np.linalg.solve(columns.T @ columns, columns.T @ self.theirs.ravel())
        except np.linalg.LinAlgError:  # stripes: to shift them along changes nothing
            return None
        contrast = found[3]
        return np.clip(found[:3] / contrast, -_STRIDE, _STRIDE) if contrast > _FAINT else None


class _Axis:
    """The places of one axis, scaled and shifted: which of them lie inside the picture, and how far from the middle."""

    def __init__(self, side: int, scale: float, shift: float) -> None:
        at = ((np.arange(side) + 0.5) / side - 0.5) * scale
        where = (at + shift + 0.5) * side - 0.5
        self.inside = (where >= -0.5) & (where <= side - 0.5)
        where = np.clip(where[self.inside], 0, side - 1)
        self.at = at[self.inside].astype(np.float32)
        self._low = np.minimum(where.astype(np.intp), side - 2)
        self._part = (where - self._low).astype(np.float32)[:, None]

    def __len__(self) -> int:
        return len(self.at)

    def sampled(self, picture: _Grey) -> _Grey:
        """Return the picture's rows at these places, interpolated."""
        low = picture[self._low]
        return np.asarray(low + self._part * (picture[self._low + 1] - low))


def _less_mean(values: _Grey) -> _Grey:
    return np.asarray(values - values.mean())


def _least_alike(laid: _Laid) -> float:
    """Return the likeness of the part that differs most, both pictures brought to the same contrast."""
    if not laid.is_enough:
        return 0.0
    ours, theirs = laid.ours.std(), laid.theirs.std()
    if not min(ours, theirs) > 0:
        return 0.0
    squares = (laid.ours / ours - laid.theirs / theirs) ** 2
    rows, columns = (np.linspace(0, length, _PARTS, endpoint=False).astype(np.intp) for length in squares.shape)
    sums = np.add.reduceat(np.add.reduceat(squares, rows, axis=0), columns, axis=1)
    counts = np.outer(*(np.diff(np.append(at, n)) for at, n in zip((rows, columns), squares.shape, strict=True)))
    return max(0.0, 1.0 - float((sums / counts).max()) / 2)
