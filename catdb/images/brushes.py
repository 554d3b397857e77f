"""The brushes of the example scenes: gradients, soft noise, terrain, and the figures that stand in the pictures.

Every picture is drawn at twice its size with Pillow, halved (which smooths the edges), and given a little colour cast,
vignette and film grain. A brush paints on such a canvas, or makes a mask of its size (mode L, 255 where paint is to
stay); none of them knows which scenes there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Colour: TypeAlias = tuple[int, int, int]
Point: TypeAlias = tuple[float, float]
Random: TypeAlias = np.random.Generator
Floats: TypeAlias = NDArray[np.float32]

W, H = 960, 720
"""The canvas, in pixels. All drawing below is in its coordinates; the files are half as wide and half as high."""


def develop(rng: Random, canvas: Image.Image) -> Image.Image:
    """Halve the canvas and give it what a camera would: a colour cast, an exposure, a vignette, and grain."""
    pixels = np.asarray(canvas.reduce(2), dtype=np.float32)
    height, width = pixels.shape[:2]
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    cast = rng.uniform(0.96, 1.04, 3) * rng.uniform(0.9, 1.06)
    light = (1 - 0.13 * (x * x + y * y)).astype(np.float32)[..., None]
    grain = rng.standard_normal((height, width, 1), dtype=np.float32) * np.float32(rng.uniform(1.5, 3.5))
    return Image.fromarray(np.clip(pixels * light * cast.astype(np.float32) + grain, 0, 255).astype(np.uint8))


def mix(first: Colour, second: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def vary(rng: Random, colour: Colour, spread: float) -> Colour:
    """The colour with each channel, and all together, off by up to ``spread`` levels."""
    shift = rng.uniform(-spread, spread)
    red, green, blue = (round(min(255, max(0, c + shift + rng.uniform(-spread, spread) / 2))) for c in colour)
    return red, green, blue


def gradient(*stops: tuple[float, Colour]) -> Image.Image:
    """A canvas whose colour runs through the stops: (share of the height, colour), from the top."""
    at, colours = zip(*stops, strict=True)
    rows = np.linspace(0, 1, H)
    column = np.stack([np.interp(rows, at, channel) for channel in zip(*colours, strict=True)], axis=-1)
    return Image.fromarray(np.round(column[:, None]).astype(np.uint8)).resize((W, H))


def fractal(rng: Random, across: int, down: int, octaves: int = 4) -> Floats:
    """Soft noise in 0..1 (360, 480): ``across`` x ``down`` random spots, and ever finer and fainter ones on top."""
    total = np.zeros((H // 2, W // 2), dtype=np.float32)
    for octave in range(octaves):
        spots = rng.random((min(H // 2, down << octave) + 1, min(W // 2, across << octave) + 1), dtype=np.float32)
        total += np.asarray(Image.fromarray(spots).resize((W // 2, H // 2), Image.Resampling.BICUBIC)) / 2**octave
    low, high = float(total.min()), float(total.max())
    return (total - low) / (high - low)


def noise(rng: Random, across: int, down: int, octaves: int = 4) -> Image.Image:
    return grey(fractal(rng, across, down, octaves))


def grey(values: Floats) -> Image.Image:
    """The values, 0..1 at half size, as a mask."""
    return Image.fromarray((np.clip(values, 0, 1) * 255).astype(np.uint8)).resize((W, H), Image.Resampling.BICUBIC)


def between(mask: Image.Image, low: float, high: float, strength: float = 1.0) -> Image.Image:
    """The mask with its values from ``low`` to ``high`` (of 0..1) stretched over 0..``strength``."""
    ramp = np.clip((np.arange(256) / 255 - low) / (high - low), 0, 1) * strength * 255
    return mask.point([round(float(level)) for level in ramp])


def dye(canvas: Image.Image, colour: Colour, mask: Image.Image) -> None:
    canvas.paste(colour, (0, 0, W, H), mask)


def glow(canvas: Image.Image, centre: Point, radius: float, colour: Colour, strength: float = 1.0) -> None:
    size, corner = round(2 * radius), (round(centre[0] - radius), round(centre[1] - radius))
    fall = np.clip(1 - np.arange(256) / 180, 0, 1) ** 2 * strength * 255  # 180: the gradient at the middle of a side
    disc = Image.radial_gradient("L").point(fall.round().astype(int).tolist())
    canvas.paste(colour, (*corner, corner[0] + size, corner[1] + size), disc.resize((size, size)))


def ridge(rng: Random, top: float, swing: float, *, waves: int = 3, rough: float = 0.5) -> list[Point]:
    """The outline of a hill: a line that wanders ``swing`` pixels about ``top``, closed below the canvas."""
    x = np.linspace(-8, W + 8, 241)
    y = np.full(241, top)
    for octave in range(7):
        knots = max(3, waves << octave)
        swell = np.interp(x, np.linspace(-9, W + 9, knots), rng.uniform(-1, 1, knots))
        y += swing * rough**octave * (np.convolve(np.pad(swell, 6, "edge"), np.hanning(13) / 6, "valid"))
    return [(-8, H + 2), *zip(x.tolist(), y.tolist(), strict=True), (W + 8, H + 2)]


def terrain(canvas: Image.Image, heights: Floats, colours: Floats, *, horizon: float, eye: float) -> None:
    """Paint a landscape, seen in perspective: heights (depth, W), near rows first, and their colours (depth, W, 3).

    A height of ``eye`` lies at the horizon, which is ``horizon`` pixels down; the farthest row is 9 times as far
    away as the nearest one.
    """
    depth = len(heights)
    distance = np.geomspace(1, 9, depth, dtype=np.float32)[:, None]
    seen = np.maximum.accumulate((heights - eye) / distance - horizon, axis=0)  # rising, as searchsorted wants it
    rows = -np.arange(H, dtype=np.float32)
    first = np.stack([np.searchsorted(seen[:, x], rows) for x in range(W)], axis=1)  # the row of the land, or depth
    land = colours[np.minimum(first, depth - 1), np.arange(W)]
    mask = Image.fromarray(np.where(first < depth, 255, 0).astype(np.uint8))
    canvas.paste(Image.fromarray(np.clip(land, 0, 255).astype(np.uint8)), mask=mask)


def ridges(rng: Random, depth: int, across: int, down: int, octaves: int) -> Floats:
    """Heights (depth, W) in 0..1 that fold into sharp crests."""
    noise = Image.fromarray(fractal(rng, across, down, octaves)).resize((W, depth), Image.Resampling.BICUBIC)
    crests: Floats = np.clip(1 - np.abs(2 * np.asarray(noise) - 1), 0, 1)
    return crests


def shape(*polygons: Sequence[Point]) -> Image.Image:
    """A mask of the polygons."""
    mask = Image.new("L", (W, H))
    for polygon in polygons:
        ImageDraw.Draw(mask).polygon(polygon, fill=255)
    return mask


def pine(rng: Random, draw: ImageDraw.ImageDraw, foot: Point, height: float, colour: Colour) -> None:
    x, y = foot
    half = height * rng.uniform(0.17, 0.24)
    for tier in range(7):
        peak, brim = y - height * (1 - tier / 8), y - height * (0.72 - tier / 9.5)
        reach = half * (0.28 + 0.12 * tier) * rng.uniform(0.85, 1.1)
        draw.polygon([(x, peak), (x + reach, brim), (x, brim - height * 0.04), (x - reach, brim)], fill=colour)
    draw.rectangle((x - height * 0.02, y - height * 0.2, x + height * 0.02, y), fill=colour)


def flower(rng: Random, draw: ImageDraw.ImageDraw, centre: Point, size: float) -> None:
    (x, y), turn, tilt = centre, rng.uniform(0, 6.28), rng.uniform(0.75, 1.0)
    petals = 7 if size < 9 else 11 if size < 22 else 17
    for ring, colour in ((1.0, (236, 160, 16)), (0.88, (255, 205, 40)))[size < 9 :]:
        shade = vary(rng, colour, 14)
        arc = np.array([0.3 - 0.13j, 0.68 - 0.16j, 1, 0.68 + 0.16j, 0.3 + 0.13j]) * size * ring
        tips = arc * np.exp(1j * (turn + (np.arange(petals)[:, None] + 0.5 * (ring < 1)) * 2 * np.pi / petals))
        for petal in np.stack([x + tips.real, y + tips.imag * tilt], axis=-1).reshape(petals, -1).tolist():
            draw.polygon(petal, fill=shade)
    for share, colour in ((0.46, (70, 42, 18)), (0.34, (100, 62, 24)), (0.18, (66, 50, 18))):
        r = size * share
        draw.ellipse((x - r, y - r * tilt, x + r, y + r * tilt), fill=colour)


def fish(draw: ImageDraw.ImageDraw, centre: Point, size: float, way: int, colours: Sequence[Colour]) -> None:
    (x, y), (body, band) = centre, colours
    tail = [(-0.8, 0), (-1.5, -0.55), (-1.35, 0), (-1.5, 0.55)]
    fins = [(-0.5, -0.4), (0.1, -0.95), (0.4, -0.4), (0.4, 0.4), (-0.1, 0.85), (-0.5, 0.4)]
    for outline, colour in ((tail, band), (fins, band)):
        draw.polygon([(x + way * a * size, y + b * size) for a, b in outline], fill=colour)
    angles = np.linspace(0, 2 * np.pi, 40)
    flank = np.stack([way * np.cos(angles), 0.58 * np.sin(angles)], axis=-1) * size + (x, y)
    draw.polygon(flank.ravel().tolist(), fill=body)
    for at in (-0.45, 0.1, 0.5):
        half, reach = 0.1 * size, 0.56 * size * np.sqrt(1 - at * at)
        draw.rectangle((x + way * at * size - half, y - reach, x + way * at * size + half, y + reach), fill=band)
    draw.circle((x + way * 0.74 * size, y - 0.1 * size), 0.1 * size, fill=(12, 18, 26), outline=(240, 240, 240))


def coral(rng: Random, draw: ImageDraw.ImageDraw, foot: Point, height: float, colour: Colour) -> None:
    """A bush of branches, each of which forks into two shorter and thinner ones."""
    twigs = [(foot, -np.pi / 2 + rng.uniform(-0.5, 0.5), height * 0.3) for _ in range(3)]
    for level in range(5):
        tone, width, grown = mix(colour, (255, 235, 225), level * 0.12), height * 0.09 * 0.72**level, []
        for (x, y), angle, length in twigs:
            tip = (x + np.cos(angle) * length, y + np.sin(angle) * length)
            draw.line((x, y, *tip), fill=tone, width=max(2, round(width)))
            draw.circle(tip, width / 2, fill=tone)
            forks = rng.uniform((-0.6, 0.1), (-0.1, 0.6))
            grown += [(tip, angle + turn, length * rng.uniform(0.68, 0.86)) for turn in forks]
        twigs = grown


def balloon(draw: ImageDraw.ImageDraw, centre: Point, size: float, colours: Sequence[Colour]) -> None:
    """One hot-air balloon, ``size`` wide to either side: the gores of its envelope, then the basket."""
    x, y = centre
    along = np.linspace(0, 1, 40)
    crown, skirt = np.minimum(along / 0.45, 1) * np.pi / 2, np.maximum((along - 0.45) / 0.55, 0) * np.pi / 2
    girth = np.sin(crown) ** 0.6 * (0.18 + 0.82 * np.abs(np.cos(skirt)) ** 0.9)
    height = y - size * 1.05 + along * size * 2.5
    edges = np.sin(np.linspace(-np.pi / 2, np.pi / 2, 10))
    for gore, (left, right) in enumerate(pairwise(edges)):
        light = 0.42 * abs((left + right) / 2 + 0.35)
        rims = [np.stack([x + girth * size * edge, height], axis=1) for edge in (left, right)]
        outline = np.concatenate([rims[0], rims[1][::-1]])
        draw.polygon(outline.ravel().tolist(), fill=mix(colours[gore % len(colours)], (40, 22, 50), light))
    low, half = float(height[-1]), size * 0.16
    for side in (-1, 1):
        draw.line((x + side * half, low, x + side * half * 0.8, low + size * 0.3), fill=(60, 46, 40), width=2)
    draw.rectangle((x - half * 0.9, low + size * 0.28, x + half * 0.9, low + size * 0.52), fill=(112, 70, 38))
    draw.rectangle((x - half, low + size * 0.26, x + half, low + size * 0.31), fill=(76, 46, 26))


def bus(draw: ImageDraw.ImageDraw, left: float, road: float, s: float, way: int, paint: Colour) -> None:
    """A double-decker of 560 x 330 units of ``s`` pixels, standing on ``road``; ``way`` is 1 to the right, -1 left."""

    def box(a: float, b: float, c: float, d: float, colour: Colour, round_: float = 0) -> None:
        a, c = (a, c) if way > 0 else (560 - c, 560 - a)
        draw.rounded_rectangle((left + a * s, road - d * s, left + c * s, road - b * s), round_ * s, fill=colour)

    shade, glass = mix(paint, (30, 0, 10), 0.35), (52, 70, 88)
    box(-6, -8, 566, 14, (38, 38, 42), 10)
    box(0, 24, 560, 330, paint, 22)
    box(0, 24, 560, 70, shade, 10)
    box(0, 176, 560, 186, (246, 226, 190))
    box(0, 316, 560, 330, mix(paint, (255, 255, 255), 0.25), 7)
    for deck, tall in ((92, 66), (206, 78)):
        for pane in range(6):
            box(24 + pane * 86, deck, 24 + pane * 86 + 74, deck + tall, glass, 6)
            box(32 + pane * 86, deck + tall * 0.5, 90 + pane * 86, deck + tall - 6, (121, 142, 162), 5)
    box(452, 30, 512, 160, mix(glass, (150, 180, 200), 0.4), 5)
    box(540, 92, 560, 160, glass, 4)
    box(546, 50, 562, 66, (255, 244, 190), 4)
    box(516, 292, 558, 312, (250, 214, 70), 3)
    for hub in (112, 410):
        at = left + (hub if way > 0 else 560 - hub) * s
        for r, colour in ((38, (24, 24, 28)), (20, (150, 152, 158)), (8, (70, 70, 76))):
            draw.circle((at, road - 32 * s), r * s, fill=colour)
