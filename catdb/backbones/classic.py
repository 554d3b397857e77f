"""The backbone without weights: what is looked at in a picture, and how that becomes a vector and four categories.

Everything is a *share of the area*: of fine colours in the whole picture, of named tones and of textures in each cell
of a grid. The shares of a block sum to one, so their square roots are a unit vector, and the dot product of two such
vectors is the Bhattacharyya coefficient of the histograms (the Hellinger kernel of Arandjelovic and Zisserman, "Three
things everyone should know to improve object retrieval", CVPR 2012). The feature is three such blocks side by side,
with weights that sum to one: it has unit length by construction, and no picture, not even an empty one, yields zeros.

A category is a tone with a texture, ``green-fine``, and its probability is the product of their shares. It is read
off the same shares as the feature, which is why a picture's neighbours are mostly found in its own categories. The
tones are closer together where photographs are, among the dull ones, so that the categories are of similar size.

This module owns OpenCV, chosen over scikit-image because it is imported sooner and its Gabor filters and Lab
conversion take less time than the other's HOG, LBP and Lab.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from catdb.backbones import PER_IMAGE, Category, Embedding

SIDE: Final = 128
"""Pixels of a side: a power of two, for the octaves."""
COLOUR_SIDE: Final = 64
"""Colours are read at half the size: their shares hardly change, and the work is a quarter."""
GRID: Final = 4
"""Cells of a side of the layout, as in GIST (Oliva and Torralba, "Modeling the shape of the scene", IJCV 2001)."""
WEIGHTS: Final = (0.4, 0.2, 0.4)
"""Of colour, layout and texture. Place counts least, because things move. They sum to 1."""

STEPS: Final = np.array([20, 15, 15], np.float32)
"""Steps of the lattice of fine colours in L, a, b: several just noticeable differences, lest exposure decide."""
CHROMA_LIMIT: Final = 45
"""Of a and b, either way: stronger chroma is rare in photographs and counts as this much."""
LATTICE: Final = (6, 7, 7)
"""Points of that lattice: L from 0 to 100, a and b from -45 to 45."""

TONES: Final = {
    "black": (12, 12, 12), "charcoal": (35, 35, 38), "darkgrey": (60, 60, 60), "grey": (120, 120, 120),
    "lightgrey": (180, 180, 180), "white": (245, 245, 245), "beige": (225, 215, 190), "peach": (235, 195, 165),
    "tan": (190, 150, 110), "taupe": (140, 125, 105), "brown": (110, 65, 30), "rust": (150, 70, 40),
    "red": (200, 30, 30), "orange": (235, 130, 30), "yellow": (230, 210, 50), "olive": (110, 110, 50),
    "darkgreen": (30, 65, 25), "green": (60, 150, 60), "teal": (30, 110, 110), "steel": (110, 130, 150),
    "sky": (140, 180, 230), "blue": (40, 80, 190), "navy": (20, 30, 80), "purple": (130, 50, 150),
    "pink": (235, 150, 180),
}  # fmt: skip
"""Name and RGB."""
TONE_SOFTNESS: Final = 10.0
"""Standard deviation, in Lab, of the Gaussian by which a pixel belongs to a tone: half the way to the next, about."""
VIVID: Final = 30.0
"""Chroma that doubles what a tone counts for as a category: a spot of red says more than as much grey."""

ORIENTATIONS: Final = 4
OCTAVES: Final = 3
GABOR_SIZE: Final = 7
WAVELENGTH: Final = 3.0
"""Of the finest wave, in pixels; each octave doubles it."""
SIGMA_PER_WAVELENGTH: Final = 0.56
"""Makes the pass band one octave wide, so that the octaves adjoin."""
NOISE: Final = 8.0
"""Amplitude, in grey levels, below which an area counts as smooth."""
TEXTURES: Final = {"fine": 2.0, "coarse": 1.0, "smooth": 1.0}
"""The finest octave, the others together, and neither; and what each counts for: there is little fine texture."""
DOUBT: Final = 0.01
"""Share that every tone and texture has for a category at the least: a few pixels of a rare one prove nothing."""


class Classic:
    """Colours, layout and textures of a picture, and the four tones with textures that mark it most."""

    backbone = "classic"
    engine = "classic"
    precision = "f32"
    weights_sha256: str | None = None
    input_size = (SIDE, SIDE)
    dimension = int(np.prod(LATTICE)) + GRID**2 * (len(TONES) + ORIENTATIONS * OCTAVES + 1)
    categories = tuple(Category(f"{tone}-{texture}", f"{texture} {tone}") for tone in TONES for texture in TEXTURES)

    def __init__(self) -> None:
        """Prepare the filters and the palette: some milliseconds, and nothing is read."""
        cv2.setNumThreads(1)  # a picture is too small to share out, and callers have threads of their own
        self._bank = _gabor_bank()
        self._palette = _lab(np.array([list(TONES.values())], np.uint8))[0]
        self._tone_weights = 1 + np.hypot(self._palette[:, 1], self._palette[:, 2]) / VIVID
        self._texture_weights = np.array(list(TEXTURES.values()))

    def embed(self, pixels: NDArray[np.uint8]) -> Embedding:
        """Embed uint8 RGB pixels (n, 128, 128, 3); n >= 1.

        Each image is computed by itself: its row is the same, to the bit, whatever else is in the batch.
        ValueError: the pixels have another shape or type.
        """
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (SIDE, SIDE, 3) or not len(pixels):
            raise ValueError(f"expected uint8 pixels (n, {SIDE}, {SIDE}, 3), got {pixels.dtype} {pixels.shape}")
        features, categories, probabilities = zip(*map(self._embed_one, pixels), strict=True)
        return Embedding(np.stack(features), np.stack(categories), np.stack(probabilities))

    def _embed_one(
        self, image: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]:
        small = cv2.resize(image, (COLOUR_SIDE, COLOUR_SIDE), interpolation=cv2.INTER_AREA)
        lab = _lab(np.asarray(small, np.uint8))
        tones = _cells(_tone_shares(lab, self._palette))
        textures = _cells(_texture_shares(image, self._bank))
        blocks = [_lattice_shares(lab), tones.ravel(), textures.ravel()]
        feature = np.concatenate([np.sqrt(w * b / b.sum()) for w, b in zip(WEIGHTS, blocks, strict=True)])
        categories, probabilities = self._categorise(tones.mean(0), textures.mean(0))
        return feature.astype(np.float32), categories, probabilities

    def _categorise(
        self, tones: NDArray[np.float64], textures: NDArray[np.float64]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the four categories, and their probabilities, of shares of tones (25,) and textures (13,)."""
        named = np.array([textures[:ORIENTATIONS].sum(), textures[ORIENTATIONS:-1].sum(), textures[-1]])
        scores = np.outer((tones + DOUBT) * self._tone_weights, (named + DOUBT) * self._texture_weights).ravel()
        best = np.argsort(-scores, kind="stable")[:PER_IMAGE]  # stable: a tie goes to the first in the table
        return best.astype(np.int32), (scores[best] / scores.sum()).astype(np.float32)


def _lab(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return CIE L*a*b* (h, w, 3), L in 0..100, of RGB (h, w, 3)."""
    return np.asarray(cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2Lab), np.float32)


def _lattice_shares(lab: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the share (294,) of each point of the lattice; a pixel is shared, trilinearly, by the 8 around it."""
    limit = np.array([0, CHROMA_LIMIT, CHROMA_LIMIT], np.float32)
    top = np.array(LATTICE) - 1
    place = np.clip((lab.reshape(-1, 3) + limit) / STEPS, 0, top)
    corner = np.minimum(place.astype(np.intp), top - 1)
    part = place - corner
    shares = np.zeros(np.prod(LATTICE))
    for step in np.ndindex(2, 2, 2):
        points = np.ravel_multi_index(tuple((corner + step).T), LATTICE)
        shares += np.bincount(points, np.where(step, part, 1 - part).prod(1), len(shares))
    return shares


def _tone_shares(lab: NDArray[np.float32], palette: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how much each pixel of (h, w, 3) belongs to each of k tones (k, 3): (h, w, k), summing to 1."""
    # A Gaussian of the distance, without |pixel|^2, which cancels: 2 pixel.tone - |tone|^2.
    closeness = (lab @ palette.T - (palette**2).sum(1) / 2) / np.float32(TONE_SOFTNESS**2)
    belonging = np.exp(closeness - closeness.max(-1, keepdims=True))
    return np.asarray(belonging / belonging.sum(-1, keepdims=True))


def _gabor_bank() -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Return the even and odd filter of each orientation, to answer a wave of theirs with about its amplitude."""
    sigma = SIGMA_PER_WAVELENGTH * WAVELENGTH
    bank = []
    for turn in range(ORIENTATIONS):
        even, odd = (
            cv2.getGaborKernel((GABOR_SIZE,) * 2, sigma, np.pi * turn / ORIENTATIONS, WAVELENGTH, 1, phase, cv2.CV_32F)
            for phase in (0, np.pi / 2)
        )
        scale = np.abs(odd).sum()
        bank.append(((even - even.mean()) / scale, odd / scale))  # without a mean: brightness is no texture
    return bank


def _texture_shares(
    image: NDArray[np.uint8], bank: list[tuple[NDArray[np.float32], NDArray[np.float32]]]
) -> NDArray[np.float32]:
    """Return which part of the energy at each place is of each wave, or below the noise: (32, 32, 13), summing to 1.

    The waves go by octave, then orientation; the last is smooth. Dividing by all the energy at a place makes it a
    matter of structure rather than of contrast, as the block normalisation of HOG does.
    """
    level = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.float32)
    side = SIDE >> (OCTAVES - 1)
    amplitudes = []
    for _ in range(OCTAVES):
        for pair in bank:
            even, odd = (cv2.filter2D(level, -1, kernel) for kernel in pair)
            amplitude = np.sqrt(even**2 + odd**2)  # cv2.magnitude rounds by where its array happens to lie in memory
            amplitudes.append(cv2.resize(amplitude, (side, side), interpolation=cv2.INTER_AREA))
        level = np.asarray(cv2.pyrDown(level), np.float32)
    energy = np.stack([*amplitudes, np.full((side, side), NOISE, np.float32)], -1) ** 2
    return np.asarray(energy / energy.sum(-1, keepdims=True), np.float32)


def _cells(field: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the mean (16, k) over each cell of the grid of a field (s, s, k)."""
    size = len(field) // GRID
    blocks = field.reshape(GRID, size, GRID, size, -1).astype(np.float64)
    return np.asarray(blocks.mean((1, 3)).reshape(GRID**2, -1))
