"""An example collection that needs no download: how each group of scenes is drawn, and from which random numbers.

Every picture is drawn at twice its size with Pillow, halved (which smooths the edges), and given a little colour cast,
vignette and film grain. Each has its own random numbers, from the seed, its group and its place in the group, so it
does not depend on how many others are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

Colour: TypeAlias = tuple[int, int, int]
Point: TypeAlias = tuple[float, float]
Random: TypeAlias = np.random.Generator
Floats: TypeAlias = NDArray[np.float32]

W, H = 960, 720
"""The canvas, in pixels. All drawing below is in its coordinates; the files are half as wide and half as high."""

COLLECTION, QUERIES = 0, 1  # which of the two streams of random numbers: a query is never one of the collection


def render(folder: Path, *, count: int = 120, seed: int = 0) -> list[Path]:
    """Draw ``count`` pictures (JPEG, 480 x 360) into ``folder``, evenly divided among the groups; return their paths.

    Each is ``<folder>/<group>/<group>-01.jpg`` and so on; missing folders are made, files of the same name replaced.
    The same seed gives the same bytes, as long as Pillow and numpy stay the same. Where the groups do not divide
    ``count``, the first ones get one more. Raises ValueError for a negative ``count`` or ``seed``, and OSError.
    """
    if count < 0 or seed < 0:
        raise ValueError(f"count and seed must not be negative: {count}, {seed}")
    paths = []
    for number in range(count):
        place, group = divmod(number, len(GROUPS))
        name = list(GROUPS)[group]
        rng = np.random.default_rng([seed, COLLECTION, group, place])
        paths.append(_save(folder / name / f"{name}-{place + 1:02d}.jpg", name, rng))
    return sorted(paths)


def queries(folder: Path, *, seed: int = 1) -> list[Path]:
    """Draw three pictures from three different groups into ``folder``; return their paths, ``query-<group>.jpg``.

    None of them is in any collection that :func:`render` draws, whatever the two seeds. Errors as in ``render``.
    """
    if seed < 0:
        raise ValueError(f"seed must not be negative: {seed}")
    chosen = np.random.default_rng([seed, QUERIES]).choice(len(GROUPS), size=3, replace=False)
    paths = []
    for group in sorted(int(index) for index in chosen):
        name = list(GROUPS)[group]
        paths.append(_save(folder / f"query-{name}.jpg", name, np.random.default_rng([seed, QUERIES, group])))
    return paths


def _save(path: Path, group: str, rng: Random) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    _develop(rng, GROUPS[group](rng)).save(path, "JPEG", quality=88)
    return path


# The brushes: each paints on a canvas of W x H, or makes a mask of that size (mode L, 255 where paint is to stay).


def _develop(rng: Random, canvas: Image.Image) -> Image.Image:
    """Halve the canvas and give it what a camera would: a colour cast, an exposure, a vignette, and grain."""
    pixels = np.asarray(canvas.reduce(2), dtype=np.float32)
    height, width = pixels.shape[:2]
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    cast = rng.uniform(0.96, 1.04, 3) * rng.uniform(0.9, 1.06)
    light = (1 - 0.13 * (x * x + y * y)).astype(np.float32)[..., None]
    grain = rng.standard_normal((height, width, 1), dtype=np.float32) * np.float32(rng.uniform(1.5, 3.5))
    return Image.fromarray(np.clip(pixels * light * cast.astype(np.float32) + grain, 0, 255).astype(np.uint8))


def _mix(first: Colour, second: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def _vary(rng: Random, colour: Colour, spread: float) -> Colour:
    """The colour with each channel, and all together, off by up to ``spread`` levels."""
    shift = rng.uniform(-spread, spread)
    red, green, blue = (round(min(255, max(0, c + shift + rng.uniform(-spread, spread) / 2))) for c in colour)
    return red, green, blue


def _gradient(*stops: tuple[float, Colour]) -> Image.Image:
    """A canvas whose colour runs through the stops: (share of the height, colour), from the top."""
    at, colours = zip(*stops, strict=True)
    rows = np.linspace(0, 1, H)
    column = np.stack([np.interp(rows, at, channel) for channel in zip(*colours, strict=True)], axis=-1)
    return Image.fromarray(np.round(column[:, None]).astype(np.uint8)).resize((W, H))


def _fractal(rng: Random, across: int, down: int, octaves: int = 4) -> Floats:
    """Soft noise in 0..1 (360, 480): ``across`` x ``down`` random spots, and ever finer and fainter ones on top."""
    total = np.zeros((H // 2, W // 2), dtype=np.float32)
    for octave in range(octaves):
        spots = rng.random((min(H // 2, down << octave) + 1, min(W // 2, across << octave) + 1), dtype=np.float32)
        total += np.asarray(Image.fromarray(spots).resize((W // 2, H // 2), Image.Resampling.BICUBIC)) / 2**octave
    low, high = float(total.min()), float(total.max())
    return (total - low) / (high - low)


def _noise(rng: Random, across: int, down: int, octaves: int = 4) -> Image.Image:
    return _grey(_fractal(rng, across, down, octaves))


def _grey(values: Floats) -> Image.Image:
    """The values, 0..1 at half size, as a mask."""
    return Image.fromarray((np.clip(values, 0, 1) * 255).astype(np.uint8)).resize((W, H), Image.Resampling.BICUBIC)


def _between(mask: Image.Image, low: float, high: float, strength: float = 1.0) -> Image.Image:
    """The mask with its values from ``low`` to ``high`` (of 0..1) stretched over 0..``strength``."""
    ramp = np.clip((np.arange(256) / 255 - low) / (high - low), 0, 1) * strength * 255
    return mask.point([round(float(level)) for level in ramp])


def _dye(canvas: Image.Image, colour: Colour, mask: Image.Image) -> None:
    canvas.paste(colour, (0, 0, W, H), mask)


def _glow(canvas: Image.Image, centre: Point, radius: float, colour: Colour, strength: float = 1.0) -> None:
    size, corner = round(2 * radius), (round(centre[0] - radius), round(centre[1] - radius))
    fall = np.clip(1 - np.arange(256) / 180, 0, 1) ** 2 * strength * 255  # 180: the gradient at the middle of a side
    disc = Image.radial_gradient("L").point(fall.round().astype(int).tolist())
    canvas.paste(colour, (*corner, corner[0] + size, corner[1] + size), disc.resize((size, size)))


def _ridge(rng: Random, top: float, swing: float, *, waves: int = 3, rough: float = 0.5) -> list[Point]:
    """The outline of a hill: a line that wanders ``swing`` pixels about ``top``, closed below the canvas."""
    x = np.linspace(-8, W + 8, 241)
    y = np.full(241, top)
    for octave in range(7):
        knots = max(3, waves << octave)
        swell = np.interp(x, np.linspace(-9, W + 9, knots), rng.uniform(-1, 1, knots))
        y += swing * rough**octave * (np.convolve(np.pad(swell, 6, "edge"), np.hanning(13) / 6, "valid"))
    return [(-8, H + 2), *zip(x.tolist(), y.tolist(), strict=True), (W + 8, H + 2)]


def _terrain(canvas: Image.Image, heights: Floats, colours: Floats, *, horizon: float, eye: float) -> None:
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


def _ridges(rng: Random, depth: int, across: int, down: int, octaves: int) -> Floats:
    """Heights (depth, W) in 0..1 that fold into sharp crests."""
    noise = Image.fromarray(_fractal(rng, across, down, octaves)).resize((W, depth), Image.Resampling.BICUBIC)
    crests: Floats = np.clip(1 - np.abs(2 * np.asarray(noise) - 1), 0, 1)
    return crests


def _shape(*polygons: Sequence[Point]) -> Image.Image:
    """A mask of the polygons."""
    mask = Image.new("L", (W, H))
    for polygon in polygons:
        ImageDraw.Draw(mask).polygon(polygon, fill=255)
    return mask


def _pine(rng: Random, draw: ImageDraw.ImageDraw, foot: Point, height: float, colour: Colour) -> None:
    x, y = foot
    half = height * rng.uniform(0.17, 0.24)
    for tier in range(7):
        peak, brim = y - height * (1 - tier / 8), y - height * (0.72 - tier / 9.5)
        reach = half * (0.28 + 0.12 * tier) * rng.uniform(0.85, 1.1)
        draw.polygon([(x, peak), (x + reach, brim), (x, brim - height * 0.04), (x - reach, brim)], fill=colour)
    draw.rectangle((x - height * 0.02, y - height * 0.2, x + height * 0.02, y), fill=colour)


def _sunset(rng: Random) -> Image.Image:
    horizon, dusk = int(rng.uniform(0.52, 0.68) * H), rng.random()
    low, middle = _mix((255, 214, 120), (255, 150, 70), dusk), _mix((240, 140, 90), (200, 70, 105), dusk)
    top = _mix((95, 85, 150), (60, 30, 95), dusk)
    canvas = _gradient((0, top), (0.6 * horizon / H, middle), (horizon / H, low), (1, low))
    sun, size = (rng.uniform(0.15, 0.85) * W, horizon - rng.uniform(-15, 120)), rng.uniform(34, 58)
    _glow(canvas, sun, 480, (255, 216, 130), 0.85)
    streaks = _noise(rng, 2, 11)
    _dye(canvas, _mix(top, middle, 0.3), _between(streaks, 0.52, 0.85, 0.8))
    lower = streaks.transform(streaks.size, Image.Transform.AFFINE, (1, 0, 0, 0, 1, 9))  # for clouds lit from below
    _dye(canvas, (255, 190, 140), _between(ImageChops.subtract(streaks, lower), 0.02, 0.2))
    ImageDraw.Draw(canvas).circle(sun, size, fill=(255, 246, 205))
    _glow(canvas, sun, size * 2.6, (255, 240, 190), 0.7)
    sea = ImageOps.flip(canvas.crop((0, 0, W, horizon))).resize((W, H - horizon))
    canvas.paste(Image.blend(sea, Image.new("RGB", sea.size, (45, 30, 70)), 0.45), (0, horizon))
    water = _shape([(0, horizon), (W, horizon), (W, H), (0, H)])
    _dye(canvas, (40, 25, 60), ImageChops.multiply(_between(_noise(rng, 9, 70, 2), 0.45, 0.8, 0.75), water))
    draw = ImageDraw.Draw(canvas)
    for depth in rng.random(300) ** 1.4:
        y, reach = horizon + 3 + depth * (H - horizon), (6 + 34 * depth) * rng.uniform(0.4, 1.2)
        x = sun[0] + rng.standard_normal() * (22 + 62 * depth)
        draw.ellipse((x - reach, y, x + reach, y + 1 + 4 * depth), fill=_vary(rng, (255, 214, 140), 25))
    if rng.random() < 0.6:
        x, y, s = rng.uniform(0.1, 0.9) * W, horizon + rng.uniform(20, 90), rng.uniform(0.7, 1.6)
        sails = [(-5, -12), (-5, -110), (-52, -14)], [(3, -12), (3, -95), (38, -14)]
        for part in (*sails, [(-58, -6), (50, -6), (34, 14), (-44, 14)]):
            draw.polygon([(x + a * s, y + b * s) for a, b in part], fill=(38, 20, 45))
    return canvas


def _forest(rng: Random) -> Image.Image:
    light = _vary(rng, (205, 222, 150), 18)
    canvas = _gradient((0, _mix(light, (90, 140, 60), 0.5)), (0.55, light), (0.78, (110, 140, 60)), (1, (40, 62, 24)))
    sun = (rng.uniform(0.2, 0.8) * W, rng.uniform(0.1, 0.35) * H)
    _dye(canvas, (70, 120, 45), _between(_noise(rng, 9, 7), 0.45, 0.7, 0.55))
    _glow(canvas, sun, 380, (250, 250, 205), 0.9)
    crowns = _grey(1.05 - np.linspace(0, 2.1, H // 2, dtype=np.float32)[:, None] + 0.8 * (_fractal(rng, 5, 2, 3) - 0.5))
    for depth in (0.15, 0.4, 0.65, 1.0):
        ground = H * (0.66 + 0.3 * depth)
        bark, leaf = _mix(light, (46, 34, 24), 0.25 + 0.7 * depth), _mix(light, (30, 80, 20), 0.35 + 0.6 * depth)
        draw = ImageDraw.Draw(canvas)
        for x in rng.uniform(-20, W + 20, int(15 - 10 * depth)):
            foot, lean = ground + rng.uniform(-15, 30), rng.uniform(-40, 40)
            half = (5 + 30 * depth) * rng.uniform(0.6, 1.2)
            sunny = half if sun[0] > x else -half
            for share, colour in ((-1.0, bark), (0.35, _mix(bark, light, 0.14)), (0.75, _mix(bark, light, 0.32))):
                left, right = ([(x + w * 1.5, foot), (x + w * 0.9, foot - 70), (x + lean + w * 0.6, -5)]
                               for w in (share * sunny, sunny))
                draw.polygon([*left, *right[::-1]], fill=colour)
        leaves = ImageChops.multiply(_noise(rng, 36, 32, 3), crowns.point([min(255, 2 * v) for v in range(256)]))
        for shade, low in ((leaf, 0.42), (_mix(leaf, (190, 215, 70), 0.3), 0.6)):
            _dye(canvas, shade, _between(leaves, low, low + 0.05))
        for _ in range(220):
            x, y, size = rng.uniform(0, W), ground + rng.uniform(-8, 110), rng.uniform(18, 40) * (0.4 + depth)
            draw.line((x, y, x + rng.uniform(-12, 12), y - size), fill=_vary(rng, leaf, 28), width=round(2 + 3 * depth))
        _glow(canvas, sun, 420, (250, 250, 200), 0.35 * (1 - depth))
    shafts = [[sun, (foot, H * 0.95), (foot + 70, H * 0.9)] for foot in rng.uniform(sun[0] - 600, sun[0] + 600, 5)]
    _dye(canvas, (255, 252, 200), _shape(*shafts).filter(ImageFilter.BoxBlur(8)).point([v // 7 for v in range(256)]))
    return canvas


def _mountains(rng: Random) -> Image.Image:
    canvas = _gradient((0, _vary(rng, (44, 104, 192), 18)), (0.6, (190, 218, 240)), (1, (220, 232, 240)))
    _dye(canvas, (255, 255, 255), _between(_noise(rng, 3, 5), 0.5, 0.8, rng.uniform(0.4, 0.9)))
    depth, side = 300, float(rng.choice([-1, 1]))
    rise = np.linspace(0, 1, depth, dtype=np.float32)[:, None]
    land = 0.72 * _ridges(rng, depth, 3, 3, 3) + 0.2 * _ridges(rng, depth, 9, 8, 2)
    land += 0.07 * _ridges(rng, depth, 40, 28, 2)
    land *= 0.45 + 0.8 * np.exp(-3 * (np.linspace(-1, 1, W, dtype=np.float32) - rng.uniform(-0.6, 0.6)) ** 2)
    across, along = np.gradient(land, axis=1) * 960 / 9, np.gradient(land, axis=0) * 300 / 9
    lit = np.clip(0.52 + 0.7 * side * across - 0.2 * along, 0, 1)[..., None]
    snow = np.array((96, 122, 178)) + lit * (np.array(_vary(rng, (255, 250, 242), 8)) - (96, 122, 178))
    rock = np.array((52, 54, 68)) + lit * np.array((84, 76, 70))
    bare = np.clip(3 * (np.hypot(across, along) - 0.9 * land - rng.uniform(-0.1, 0.2)), 0, 1)[..., None]
    haze = (0.42 * rise**2)[..., None]
    colours = (snow * (1 - bare) + rock * bare) * (1 - haze) + np.array((170, 198, 230)) * haze
    heights = land * 9**rise * np.minimum(1, 1.6 * rise) * rng.uniform(270, 330)
    _terrain(canvas, heights, colours.astype(np.float32), horizon=0.48 * H, eye=400)
    forest = _ridge(rng, 0.93 * H, 26)
    draw = ImageDraw.Draw(canvas)
    draw.polygon(forest, fill=(20, 40, 42))
    for x, y in forest[1:-1:2]:
        _pine(rng, draw, (x, y + 30), rng.uniform(45, 125), _vary(rng, (20, 42, 44), 8))
    return canvas


def _city(rng: Random) -> Image.Image:
    shore, glow = int(H * rng.uniform(0.7, 0.8)), _vary(rng, (120, 66, 118), 20)
    canvas = _gradient((0, (8, 10, 34)), (0.25, (24, 24, 70)), (shore / H / 2, glow), (shore / H, (225, 130, 105)))
    if rng.random() < 0.6:
        moon = (rng.uniform(0.1, 0.9) * W, rng.uniform(0.08, 0.2) * H)
        _glow(canvas, moon, 130, (180, 190, 230), 0.6)
        ImageDraw.Draw(canvas).circle(moon, 26, fill=(244, 242, 224))
    draw, lights = ImageDraw.Draw(canvas), Image.new("RGB", (W, H))
    lamps = ImageDraw.Draw(lights)
    for depth in range(3):
        wall, x = _mix(_mix(glow, (40, 36, 80), 0.6), (10, 11, 24), depth / 2), -30.0
        while x < W:
            width, top = rng.uniform(60, 120), shore - rng.uniform(90, 440 - 90 * depth)
            draw.rectangle((x, top, x + width, shore), fill=wall)
            lamps.rectangle((x, top, x + width, shore), fill=(0, 0, 0))
            if rng.random() < 0.35:
                draw.line((x + width / 2, top, x + width / 2, top - rng.uniform(25, 70)), fill=wall, width=4)
            warm, lit = _vary(rng, (255, 205, 120), 25), rng.uniform(0.25, 0.65)
            step = 11 + 3 * depth
            for a in np.arange(x + 8, x + width - 10, step):
                for b in np.arange(top + 12, shore - 14, step * 1.35):
                    if rng.random() < lit:
                        pane = warm if rng.random() < 0.85 else (170, 210, 255)
                        pane = _mix(pane, (0, 0, 0), rng.random() * 0.5)
                        lamps.rectangle((a, b, a + step * 0.5, b + step * 0.7), fill=pane)
            x += width + rng.uniform(-2, 26)
    canvas = ImageChops.lighter(canvas, lights)
    canvas = ImageChops.screen(canvas, lights.reduce(4).filter(ImageFilter.GaussianBlur(3)).resize((W, H)))
    mirror = ImageOps.flip(canvas.crop((0, 2 * shore - H, W, shore))).reduce((2, 12)).resize((W, H - shore))
    canvas.paste(Image.blend(mirror, Image.new("RGB", mirror.size, (6, 10, 34)), 0.4), (0, shore))
    water = _shape([(0, shore), (W, shore), (W, H), (0, H)])
    _dye(canvas, (6, 8, 26), ImageChops.multiply(_between(_noise(rng, 8, 60, 2), 0.4, 0.8, 0.8), water))
    return canvas


def _flower(rng: Random, draw: ImageDraw.ImageDraw, centre: Point, size: float) -> None:
    (x, y), turn, tilt = centre, rng.uniform(0, 6.28), rng.uniform(0.75, 1.0)
    petals = 7 if size < 9 else 11 if size < 22 else 17
    for ring, colour in ((1.0, (236, 160, 16)), (0.88, (255, 205, 40)))[size < 9 :]:
        shade = _vary(rng, colour, 14)
        arc = np.array([0.3 - 0.13j, 0.68 - 0.16j, 1, 0.68 + 0.16j, 0.3 + 0.13j]) * size * ring
        tips = arc * np.exp(1j * (turn + (np.arange(petals)[:, None] + 0.5 * (ring < 1)) * 2 * np.pi / petals))
        for petal in np.stack([x + tips.real, y + tips.imag * tilt], axis=-1).reshape(petals, -1).tolist():
            draw.polygon(petal, fill=shade)
    for share, colour in ((0.46, (70, 42, 18)), (0.34, (100, 62, 24)), (0.18, (66, 50, 18))):
        r = size * share
        draw.ellipse((x - r, y - r * tilt, x + r, y + r * tilt), fill=colour)


def _sunflowers(rng: Random) -> Image.Image:
    horizon = rng.uniform(0.18, 0.38) * H
    canvas = _gradient((0, _vary(rng, (70, 140, 220), 20)), (horizon / H, (206, 228, 240)), (1, (200, 220, 235)))
    _dye(canvas, (255, 255, 255), _between(_noise(rng, 3, 6), 0.5, 0.75, 0.8))
    draw = ImageDraw.Draw(canvas)
    draw.polygon(_ridge(rng, horizon - 12, 14), fill=(62, 104, 66))
    draw.rectangle((0, horizon, W, H), fill=(58, 96, 28))
    y, near = horizon + 4, rng.uniform(0.75, 1.15)
    while y < H + 60:
        size = (5 + (y - horizon) * 0.16) * near
        for x in np.arange(-size * rng.random(), W + size, size * 2.3):
            for _ in range(3):
                a, b, leaf = np.array((x, y, 0)) + rng.uniform((-1.2, 0.3, 0.4), (1.2, 1.6, 0.7)) * size
                draw.ellipse((a - leaf, b - leaf * 0.5, a + leaf, b + leaf * 0.5), fill=_vary(rng, (58, 112, 30), 24))
            a, b = np.array((x, y)) + rng.uniform(-0.35, 0.35, 2) * size
            _flower(rng, draw, (a, b), size * rng.uniform(0.85, 1.1))
        y += size * 1.25
    return canvas


def _desert(rng: Random) -> Image.Image:
    sand, side = np.array(_vary(rng, (232, 164, 92), 16)), float(rng.choice([-1, 1]))
    canvas = _gradient((0, _vary(rng, (84, 150, 214), 22)), (0.45, (236, 226, 206)), (1, (240, 220, 190)))
    _glow(canvas, (W * (0.5 - 0.4 * side * rng.random()), H * rng.uniform(0.05, 0.2)), 300, (255, 250, 225), 0.8)
    depth = 480
    rise = np.linspace(0, 1, depth, dtype=np.float32)[:, None]
    dunes = _ridges(rng, depth, 2, 4, 2)
    ripples = np.sin(np.linspace(0, 500, depth, dtype=np.float32)[:, None] * (1 - 0.5 * rise) + 70 * dunes)
    heights = dunes * (80 + 660 * rise)
    slope = side * np.gradient(heights, axis=1) - 0.2 * np.gradient(heights, axis=0)
    lit = np.clip(0.7 + 0.8 * slope, 0, 1) + 0.05 * ripples * (1 - rise)
    haze = (0.5 * rise**1.5)[..., None]
    colours = np.array((116, 62, 40)) + lit[..., None] * (sand * 1.1 - (116, 62, 40))
    colours = colours * (1 - haze) + np.array((240, 216, 182)) * haze
    _terrain(canvas, heights, colours.astype(np.float32), horizon=rng.uniform(0.34, 0.46) * H, eye=600)
    return canvas


def _bricks(rng: Random) -> Image.Image:
    clay, mortar = _vary(rng, (160, 74, 54), 20), _vary(rng, (196, 186, 172), 14)
    canvas = Image.new("RGB", (W, H), mortar)
    draw, height = ImageDraw.Draw(canvas), rng.uniform(44, 76)
    gap, length = max(5, height * 0.12), height * rng.uniform(2.2, 2.8)
    for row in range(-4, int(H / height) + 4):
        for place in range(-2, int(W / length) + 3):
            x, y = (place + 0.5 * (row % 2)) * length + rng.uniform(-2, 2), row * height + rng.uniform(-1.5, 1.5)
            tone = _vary(rng, clay if rng.random() < 0.85 else _mix(clay, (70, 40, 44), 0.55), 22)
            a, b = x + length - gap, y + height - gap
            draw.rounded_rectangle((x + 2, y + 3, a + 3, b + 4), 5, fill=_mix(mortar, (60, 50, 46), 0.6))
            draw.rounded_rectangle((x, y, a, b), 5, fill=_mix(tone, (255, 220, 190), 0.22))
            draw.rounded_rectangle((x + 2, y + 3, a, b), 5, fill=tone)
    canvas = canvas.rotate(rng.uniform(-4, 4), Image.Resampling.BICUBIC).resize((W, H), box=(40, 40, W - 40, H - 40))
    _dye(canvas, (58, 26, 20), _between(_noise(rng, 150, 110, 2), 0.45, 0.9, 0.45))
    _dye(canvas, (24, 18, 30), _between(_noise(rng, 2, 2, 2), 0.45, 1.0, rng.uniform(0.3, 0.75)))
    return canvas


def _zebra(rng: Random) -> Image.Image:
    y, x = np.mgrid[-1 : 1 : H // 2 * 1j, -1.33 : 1.33 : W // 2 * 1j].astype(np.float32)
    turn, count = rng.uniform(-0.5, 0.5), rng.uniform(7, 12)
    bend = 0.75 * (_fractal(rng, 3, 3, 2) - 0.5) + rng.uniform(-0.35, 0.35) * y * y
    phase = np.pi * count * (x * np.cos(turn) + y * np.sin(turn) * 0.6 + bend)
    stripes = np.sin(phase) + 0.35 * np.sin(phase * 0.5 + 3 * y) + 0.5 * (_fractal(rng, 150, 40, 2) - 0.5)
    ink = np.clip(0.5 + 2.6 * stripes, 0, 1)
    flank = 1.05 - 0.5 * np.abs(y + 0.2 * np.sin(2 * x + turn)) ** 1.6 + 0.14 * (_fractal(rng, 160, 50, 2) - 0.5)
    canvas = Image.new("RGB", (W, H), _vary(rng, (238, 230, 216), 12))
    _dye(canvas, _vary(rng, (34, 28, 28), 10), _grey(ink))
    return ImageChops.multiply(canvas, Image.merge("RGB", [_grey(flank)] * 3))


GROUPS: dict[str, Callable[[Random], Image.Image]] = {
    painter.__name__.removeprefix("_"): painter
    for painter in (_bricks, _city, _desert, _forest, _mountains, _sunflowers, _sunset, _zebra)
}
"""The groups by name, which is also the name of their folder, and the function that paints one picture of each."""
