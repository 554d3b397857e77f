"""The painters of the example scenes: one for each group, who paints another picture from other random numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from catdb.images.brushes import (
    H,
    Random,
    W,
    balloon,
    between,
    bus,
    coral,
    dye,
    fish,
    flower,
    fractal,
    glow,
    gradient,
    grey,
    mix,
    noise,
    pine,
    ridge,
    ridges,
    shape,
    terrain,
    vary,
)


def _sunset(rng: Random) -> Image.Image:
    horizon, dusk = int(rng.uniform(0.52, 0.68) * H), rng.random()
    low, middle = mix((255, 214, 120), (255, 150, 70), dusk), mix((240, 140, 90), (200, 70, 105), dusk)
    top = mix((95, 85, 150), (60, 30, 95), dusk)
    canvas = gradient((0, top), (0.6 * horizon / H, middle), (horizon / H, low), (1, low))
    sun, size = (rng.uniform(0.15, 0.85) * W, horizon - rng.uniform(-15, 120)), rng.uniform(34, 58)
    glow(canvas, sun, 480, (255, 216, 130), 0.85)
    streaks = noise(rng, 2, 11)
    dye(canvas, mix(top, middle, 0.3), between(streaks, 0.52, 0.85, 0.8))
    lower = streaks.transform(streaks.size, Image.Transform.AFFINE, (1, 0, 0, 0, 1, 9))  # for clouds lit from below
    dye(canvas, (255, 190, 140), between(ImageChops.subtract(streaks, lower), 0.02, 0.2))
    ImageDraw.Draw(canvas).circle(sun, size, fill=(255, 246, 205))
    glow(canvas, sun, size * 2.6, (255, 240, 190), 0.7)
    sea = ImageOps.flip(canvas.crop((0, 0, W, horizon))).resize((W, H - horizon))
    canvas.paste(Image.blend(sea, Image.new("RGB", sea.size, (45, 30, 70)), 0.45), (0, horizon))
    water = shape([(0, horizon), (W, horizon), (W, H), (0, H)])
    dye(canvas, (40, 25, 60), ImageChops.multiply(between(noise(rng, 9, 70, 2), 0.45, 0.8, 0.75), water))
    draw = ImageDraw.Draw(canvas)
    for depth in rng.random(300) ** 1.4:
        y, reach = horizon + 3 + depth * (H - horizon), (6 + 34 * depth) * rng.uniform(0.4, 1.2)
        x = sun[0] + rng.standard_normal() * (22 + 62 * depth)
        draw.ellipse((x - reach, y, x + reach, y + 1 + 4 * depth), fill=vary(rng, (255, 214, 140), 25))
    if rng.random() < 0.6:
        x, y, s = rng.uniform(0.1, 0.9) * W, horizon + rng.uniform(20, 90), rng.uniform(0.7, 1.6)
        sails = [(-5, -12), (-5, -110), (-52, -14)], [(3, -12), (3, -95), (38, -14)]
        for part in (*sails, [(-58, -6), (50, -6), (34, 14), (-44, 14)]):
            draw.polygon([(x + a * s, y + b * s) for a, b in part], fill=(38, 20, 45))
    return canvas


def _forest(rng: Random) -> Image.Image:
    light = vary(rng, (205, 222, 150), 18)
    canvas = gradient((0, mix(light, (90, 140, 60), 0.5)), (0.55, light), (0.78, (110, 140, 60)), (1, (40, 62, 24)))
    sun = (rng.uniform(0.2, 0.8) * W, rng.uniform(0.1, 0.35) * H)
    dye(canvas, (70, 120, 45), between(noise(rng, 9, 7), 0.45, 0.7, 0.55))
    glow(canvas, sun, 380, (250, 250, 205), 0.9)
    crowns = grey(1.05 - np.linspace(0, 2.1, H // 2, dtype=np.float32)[:, None] + 0.8 * (fractal(rng, 5, 2, 3) - 0.5))
    for depth in (0.15, 0.4, 0.65, 1.0):
        ground = H * (0.66 + 0.3 * depth)
        bark, leaf = mix(light, (46, 34, 24), 0.25 + 0.7 * depth), mix(light, (30, 80, 20), 0.35 + 0.6 * depth)
        draw = ImageDraw.Draw(canvas)
        for x in rng.uniform(-20, W + 20, int(15 - 10 * depth)):
            foot, lean = ground + rng.uniform(-15, 30), rng.uniform(-40, 40)
            half = (5 + 30 * depth) * rng.uniform(0.6, 1.2)
            sunny = half if sun[0] > x else -half
            for share, colour in ((-1.0, bark), (0.35, mix(bark, light, 0.14)), (0.75, mix(bark, light, 0.32))):
                left, right = (
                    [(x + w * 1.5, foot), (x + w * 0.9, foot - 70), (x + lean + w * 0.6, -5)]
                    for w in (share * sunny, sunny)
                )
                draw.polygon([*left, *right[::-1]], fill=colour)
        leaves = ImageChops.multiply(noise(rng, 36, 32, 3), crowns.point([min(255, 2 * v) for v in range(256)]))
        for shade, low in ((leaf, 0.42), (mix(leaf, (190, 215, 70), 0.3), 0.6)):
            dye(canvas, shade, between(leaves, low, low + 0.05))
        for _ in range(220):
            x, y, size = rng.uniform(0, W), ground + rng.uniform(-8, 110), rng.uniform(18, 40) * (0.4 + depth)
            draw.line((x, y, x + rng.uniform(-12, 12), y - size), fill=vary(rng, leaf, 28), width=round(2 + 3 * depth))
        glow(canvas, sun, 420, (250, 250, 200), 0.35 * (1 - depth))
    shafts = [[sun, (foot, H * 0.95), (foot + 70, H * 0.9)] for foot in rng.uniform(sun[0] - 600, sun[0] + 600, 5)]
    dye(canvas, (255, 252, 200), shape(*shafts).filter(ImageFilter.BoxBlur(8)).point([v // 7 for v in range(256)]))
    return canvas


def _mountains(rng: Random) -> Image.Image:
    canvas = gradient((0, vary(rng, (44, 104, 192), 18)), (0.6, (190, 218, 240)), (1, (220, 232, 240)))
    dye(canvas, (255, 255, 255), between(noise(rng, 3, 5), 0.5, 0.8, rng.uniform(0.4, 0.9)))
    depth, side = 300, float(rng.choice([-1, 1]))
    rise = np.linspace(0, 1, depth, dtype=np.float32)[:, None]
    land = 0.72 * ridges(rng, depth, 3, 3, 3) + 0.2 * ridges(rng, depth, 9, 8, 2)
    land += 0.07 * ridges(rng, depth, 40, 28, 2)
    land *= 0.45 + 0.8 * np.exp(-3 * (np.linspace(-1, 1, W, dtype=np.float32) - rng.uniform(-0.6, 0.6)) ** 2)
    across, along = np.gradient(land, axis=1) * 960 / 9, np.gradient(land, axis=0) * 300 / 9
    lit = np.clip(0.52 + 0.7 * side * across - 0.2 * along, 0, 1)[..., None]
    snow = np.array((96, 122, 178)) + lit * (np.array(vary(rng, (255, 250, 242), 8)) - (96, 122, 178))
    rock = np.array((52, 54, 68)) + lit * np.array((84, 76, 70))
    bare = np.clip(3 * (np.hypot(across, along) - 0.9 * land - rng.uniform(-0.1, 0.2)), 0, 1)[..., None]
    haze = (0.42 * rise**2)[..., None]
    colours = (snow * (1 - bare) + rock * bare) * (1 - haze) + np.array((170, 198, 230)) * haze
    heights = land * 9**rise * np.minimum(1, 1.6 * rise) * rng.uniform(270, 330)
    terrain(canvas, heights, colours.astype(np.float32), horizon=0.48 * H, eye=400)
    forest = ridge(rng, 0.93 * H, 26)
    draw = ImageDraw.Draw(canvas)
    draw.polygon(forest, fill=(20, 40, 42))
    for x, y in forest[1:-1:2]:
        pine(rng, draw, (x, y + 30), rng.uniform(45, 125), vary(rng, (20, 42, 44), 8))
    return canvas


def _city(rng: Random) -> Image.Image:
    shore, haze = int(H * rng.uniform(0.7, 0.8)), vary(rng, (120, 66, 118), 20)
    canvas = gradient((0, (8, 10, 34)), (0.25, (24, 24, 70)), (shore / H / 2, haze), (shore / H, (225, 130, 105)))
    if rng.random() < 0.6:
        moon = (rng.uniform(0.1, 0.9) * W, rng.uniform(0.08, 0.2) * H)
        glow(canvas, moon, 130, (180, 190, 230), 0.6)
        ImageDraw.Draw(canvas).circle(moon, 26, fill=(244, 242, 224))
    draw, lights = ImageDraw.Draw(canvas), Image.new("RGB", (W, H))
    lamps = ImageDraw.Draw(lights)
    for depth in range(3):
        wall, x = mix(mix(haze, (40, 36, 80), 0.6), (10, 11, 24), depth / 2), -30.0
        while x < W:
            width, top = rng.uniform(60, 120), shore - rng.uniform(90, 440 - 90 * depth)
            draw.rectangle((x, top, x + width, shore), fill=wall)
            lamps.rectangle((x, top, x + width, shore), fill=(0, 0, 0))
            if rng.random() < 0.35:
                draw.line((x + width / 2, top, x + width / 2, top - rng.uniform(25, 70)), fill=wall, width=4)
            warm, lit = vary(rng, (255, 205, 120), 25), rng.uniform(0.25, 0.65)
            step = 11 + 3 * depth
            for a in np.arange(x + 8, x + width - 10, step):
                for b in np.arange(top + 12, shore - 14, step * 1.35):
                    if rng.random() < lit:
                        pane = warm if rng.random() < 0.85 else (170, 210, 255)
                        pane = mix(pane, (0, 0, 0), rng.random() * 0.5)
                        lamps.rectangle((a, b, a + step * 0.5, b + step * 0.7), fill=pane)
            x += width + rng.uniform(-2, 26)
    canvas = ImageChops.lighter(canvas, lights)
    canvas = ImageChops.screen(canvas, lights.reduce(4).filter(ImageFilter.GaussianBlur(3)).resize((W, H)))
    mirror = ImageOps.flip(canvas.crop((0, 2 * shore - H, W, shore))).reduce((2, 12)).resize((W, H - shore))
    canvas.paste(Image.blend(mirror, Image.new("RGB", mirror.size, (6, 10, 34)), 0.4), (0, shore))
    water = shape([(0, shore), (W, shore), (W, H), (0, H)])
    dye(canvas, (6, 8, 26), ImageChops.multiply(between(noise(rng, 8, 60, 2), 0.4, 0.8, 0.8), water))
    return canvas


def _sunflowers(rng: Random) -> Image.Image:
    horizon = rng.uniform(0.18, 0.38) * H
    canvas = gradient((0, vary(rng, (70, 140, 220), 20)), (horizon / H, (206, 228, 240)), (1, (200, 220, 235)))
    dye(canvas, (255, 255, 255), between(noise(rng, 3, 6), 0.5, 0.75, 0.8))
    draw = ImageDraw.Draw(canvas)
    draw.polygon(ridge(rng, horizon - 12, 14), fill=(62, 104, 66))
    draw.rectangle((0, horizon, W, H), fill=(58, 96, 28))
    y, near = horizon + 4, rng.uniform(0.75, 1.15)
    while y < H + 60:
        size = (5 + (y - horizon) * 0.16) * near
        for x in np.arange(-size * rng.random(), W + size, size * 2.3):
            for _ in range(3):
                a, b, leaf = np.array((x, y, 0)) + rng.uniform((-1.2, 0.3, 0.4), (1.2, 1.6, 0.7)) * size
                draw.ellipse((a - leaf, b - leaf * 0.5, a + leaf, b + leaf * 0.5), fill=vary(rng, (58, 112, 30), 24))
            a, b = np.array((x, y)) + rng.uniform(-0.35, 0.35, 2) * size
            flower(rng, draw, (a, b), size * rng.uniform(0.85, 1.1))
        y += size * 1.25
    return canvas


def _desert(rng: Random) -> Image.Image:
    sand, side = np.array(vary(rng, (232, 164, 92), 16)), float(rng.choice([-1, 1]))
    canvas = gradient((0, vary(rng, (84, 150, 214), 22)), (0.45, (236, 226, 206)), (1, (240, 220, 190)))
    glow(canvas, (W * (0.5 - 0.4 * side * rng.random()), H * rng.uniform(0.05, 0.2)), 300, (255, 250, 225), 0.8)
    depth = 480
    rise = np.linspace(0, 1, depth, dtype=np.float32)[:, None]
    dunes = ridges(rng, depth, 2, 4, 2)
    ripples = np.sin(np.linspace(0, 500, depth, dtype=np.float32)[:, None] * (1 - 0.5 * rise) + 70 * dunes)
    heights = dunes * (80 + 660 * rise)
    slope = side * np.gradient(heights, axis=1) - 0.2 * np.gradient(heights, axis=0)
    lit = np.clip(0.7 + 0.8 * slope, 0, 1) + 0.05 * ripples * (1 - rise)
    haze = (0.5 * rise**1.5)[..., None]
    colours = np.array((116, 62, 40)) + lit[..., None] * (sand * 1.1 - (116, 62, 40))
    colours = colours * (1 - haze) + np.array((240, 216, 182)) * haze
    terrain(canvas, heights, colours.astype(np.float32), horizon=rng.uniform(0.34, 0.46) * H, eye=600)
    return canvas


FISH = (((255, 140, 30), (250, 245, 235)), ((250, 220, 60), (30, 50, 110)), ((70, 110, 230), (250, 210, 60)))
"""The colours of body and bands."""


def _reef(rng: Random) -> Image.Image:
    water = vary(rng, (20, 130, 178), 16)
    canvas = gradient((0, mix(water, (160, 240, 240), 0.6)), (0.4, water), (1, mix(water, (4, 36, 80), 0.8)))
    beam = float(rng.uniform(0, W))
    rays = [[(beam + far / 4, -40), (beam + far, H), (beam + far + 70, H)] for far in rng.uniform(-900, 900, 8)]
    fade = Image.linear_gradient("L").resize((W, H)).point([(255 - v) // 4 for v in range(256)])
    dye(canvas, (225, 255, 250), ImageChops.multiply(shape(*rays).filter(ImageFilter.BoxBlur(10)), fade))
    draw = ImageDraw.Draw(canvas)
    bright = ((240, 96, 120), (250, 150, 60), (170, 90, 190), (236, 200, 90), (230, 80, 70), (120, 190, 110))
    for depth in (0.3, 0.65, 1.0):
        bed = ridge(rng, H * (0.74 + 0.17 * depth), 44)
        draw.polygon(bed, fill=mix(water, (36, 44, 66), 0.35 + 0.55 * depth))
        for spot in rng.choice(len(bed) - 2, 9, replace=False):
            colour = mix(water, vary(rng, bright[rng.integers(len(bright))], 14), 0.25 + 0.75 * depth)
            (x, y), size = bed[1 + int(spot)], rng.uniform(80, 170) * (0.4 + 0.6 * depth)
            if rng.random() < 0.7:
                coral(rng, draw, (x, y + 14), size, colour)
            else:
                for r in (1.0, 0.8, 0.6, 0.4):
                    tone = mix(colour, (255, 240, 230), (1 - r) * 0.4)
                    draw.ellipse((x - size * r * 0.6, y - size * r * 0.5, x + size * r * 0.6, y + 40), fill=tone)
        way = int(rng.choice([-1, 1]))
        for _ in range(int(rng.integers(3, 8) * (1.4 - depth)) + 1):
            at, size = (rng.uniform(60, W - 60), rng.uniform(0.12, 0.68) * H), rng.uniform(0.6, 1.1)
            colours = [mix(water, colour, 0.3 + 0.7 * depth) for colour in FISH[rng.integers(len(FISH))]]
            fish(draw, at, size * (12 + 42 * depth**2), way, colours)
    for x, y, r in rng.uniform((0, 0, 2), (W, H * 0.8, 8), (26, 3)):
        draw.circle((x, y), r, outline=(205, 240, 245), width=2)
    return canvas


def _balloons(rng: Random) -> Image.Image:
    dawn = rng.random()
    high, middle = mix((120, 188, 236), (150, 170, 226), dawn), mix((206, 232, 246), (246, 214, 214), dawn)
    canvas = gradient((0, high), (0.55, middle), (0.8, (253, 238, 214)))
    dye(canvas, (255, 255, 255), between(noise(rng, 3, 7), 0.5, 0.8, 0.75))
    draw = ImageDraw.Draw(canvas)
    for depth in range(3):
        tone = mix((186, 196, 206), (84, 116, 92), depth / 2)
        draw.polygon(ridge(rng, H * (0.82 + 0.055 * depth), 30, waves=4), fill=tone)
    bright = ((222, 48, 56), (250, 186, 40), (38, 96, 186), (250, 244, 232), (240, 120, 40), (118, 60, 150))
    taken: list[tuple[float, float, float]] = []
    for size in sorted(rng.uniform(30, 78, int(rng.integers(4, 8))) * rng.uniform(1.0, 1.6, 1)):
        for _ in range(30):
            x, y = rng.uniform(size, W - size), rng.uniform(size * 1.1 + 5, H * 0.82 - size * 1.6)
            if all((x - a) ** 2 + (y - b) ** 2 > (1.5 * (size + c)) ** 2 for a, b, c in taken):
                first, second, third = (bright[int(i)] for i in rng.choice(len(bright), 3, replace=False))
                gores = (first, second) if rng.random() < 0.5 else (first, second, third, second)
                haze = 0.45 * (1 - size / 125)
                balloon(draw, (x, y), size, [mix(colour, (240, 226, 222), haze) for colour in gores])
                taken.append((x, y, size))
                break
    return canvas


def _bricks(rng: Random) -> Image.Image:
    clay, mortar = vary(rng, (160, 74, 54), 20), vary(rng, (196, 186, 172), 14)
    canvas = Image.new("RGB", (W, H), mortar)
    draw, height = ImageDraw.Draw(canvas), rng.uniform(44, 76)
    gap, length = max(5, height * 0.12), height * rng.uniform(2.2, 2.8)
    for row in range(-4, int(H / height) + 4):
        for place in range(-2, int(W / length) + 3):
            x, y = (place + 0.5 * (row % 2)) * length + rng.uniform(-2, 2), row * height + rng.uniform(-1.5, 1.5)
            tone = vary(rng, clay if rng.random() < 0.85 else mix(clay, (70, 40, 44), 0.55), 22)
            a, b = x + length - gap, y + height - gap
            draw.rounded_rectangle((x + 2, y + 3, a + 3, b + 4), 5, fill=mix(mortar, (60, 50, 46), 0.6))
            draw.rounded_rectangle((x, y, a, b), 5, fill=mix(tone, (255, 220, 190), 0.22))
            draw.rounded_rectangle((x + 2, y + 3, a, b), 5, fill=tone)
    canvas = canvas.rotate(rng.uniform(-4, 4), Image.Resampling.BICUBIC).resize((W, H), box=(40, 40, W - 40, H - 40))
    dye(canvas, (58, 26, 20), between(noise(rng, 150, 110, 2), 0.45, 0.9, 0.45))
    dye(canvas, (24, 18, 30), between(noise(rng, 2, 2, 2), 0.45, 1.0, rng.uniform(0.3, 0.75)))
    return canvas


def _zebra(rng: Random) -> Image.Image:
    y, x = np.mgrid[-1 : 1 : H // 2 * 1j, -1.33 : 1.33 : W // 2 * 1j].astype(np.float32)
    turn, count = rng.uniform(-0.5, 0.5), rng.uniform(7, 12)
    bend = 0.75 * (fractal(rng, 3, 3, 2) - 0.5) + rng.uniform(-0.35, 0.35) * y * y
    phase = np.pi * count * (x * np.cos(turn) + y * np.sin(turn) * 0.6 + bend)
    stripes = np.sin(phase) + 0.35 * np.sin(phase * 0.5 + 3 * y) + 0.5 * (fractal(rng, 150, 40, 2) - 0.5)
    ink = np.clip(0.5 + 2.6 * stripes, 0, 1)
    flank = 1.05 - 0.5 * np.abs(y + 0.2 * np.sin(2 * x + turn)) ** 1.6 + 0.14 * (fractal(rng, 160, 50, 2) - 0.5)
    canvas = Image.new("RGB", (W, H), vary(rng, (238, 230, 216), 12))
    dye(canvas, vary(rng, (34, 28, 28), 10), grey(ink))
    return ImageChops.multiply(canvas, Image.merge("RGB", [grey(flank)] * 3))


def _stars(rng: Random) -> Image.Image:
    canvas = gradient((0, (4, 7, 24)), (0.6, vary(rng, (14, 30, 72), 10)), (1, vary(rng, (44, 92, 120), 22)))
    y, x = np.mgrid[-1 : 1 : H // 2 * 1j, -1.33 : 1.33 : W // 2 * 1j].astype(np.float32)
    turn = rng.uniform(0.5, 1.1) * rng.choice([-1, 1])
    band = np.exp(-(((x - rng.uniform(-0.4, 0.4)) * np.cos(turn) + y * np.sin(turn)) ** 2) / 0.09)
    dust = fractal(rng, 6, 5, 5)
    dye(canvas, vary(rng, (120, 108, 176), 24), grey(band * (0.25 + 0.75 * dust) * 0.75))
    dye(canvas, (236, 206, 214), grey(band**3 * np.clip(2.4 * dust - 1.0, 0, 1) * 0.7))
    dye(canvas, (8, 8, 24), grey(band**2 * np.clip(4 * (fractal(rng, 7, 6, 5) - 0.58), 0, 1) * 0.8))
    draw = ImageDraw.Draw(canvas)
    for a, b, light in zip(rng.uniform(0, W, 1300), rng.uniform(0, H, 1300), rng.random(1300) ** 7, strict=True):
        r, colour = 0.8 + 2.6 * light, mix((150, 170, 220), (255, 250, 240), 0.3 + 0.7 * light)
        draw.ellipse((a - r, b - r, a + r, b + r), fill=colour)
        if light > 0.8:
            glow(canvas, (a, b), 22, (200, 220, 255), 0.7)
    hill = ridge(rng, H * rng.uniform(0.84, 0.92), 40)
    draw.polygon(hill, fill=(4, 8, 14))
    for a, b in hill[1 :: int(rng.integers(4, 9))]:
        pine(rng, draw, (a + rng.uniform(-6, 6), b + 20), rng.uniform(50, 150), (4, 8, 14))
    return canvas


def _buses(rng: Random) -> Image.Image:
    road = rng.uniform(0.74, 0.84) * H
    canvas = gradient((0, vary(rng, (150, 180, 208), 18)), (0.6, (226, 230, 232)), (1, (226, 230, 232)))
    dye(canvas, (250, 250, 250), between(noise(rng, 3, 5), 0.45, 0.8, 0.7))
    draw, x = ImageDraw.Draw(canvas), -rng.uniform(0, 120)
    while x < W:
        width, top = rng.uniform(150, 260), rng.uniform(0.12, 0.4) * H
        stone = vary(rng, ((206, 192, 168), (184, 170, 158), (166, 130, 110))[rng.integers(3)], 12)
        draw.rectangle((x, top, x + width, road), fill=stone)
        draw.rectangle((x - 4, top - 8, x + width + 4, top + 8), fill=mix(stone, (255, 255, 255), 0.3))
        for a in np.arange(x + 18, x + width - 34, 46):
            for b in np.arange(top + 34, road - 60, 74):
                draw.rectangle((a - 3, b - 3, a + 29, b + 49), fill=mix(stone, (255, 255, 255), 0.4))
                draw.rectangle((a, b, a + 26, b + 44), fill=vary(rng, (96, 108, 120), 14))
        x += width
    canvas = canvas.filter(ImageFilter.BoxBlur(2))
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((0, road - 40, W, road - 26), fill=(178, 174, 168))
    draw.rectangle((0, road - 26, W, H), fill=vary(rng, (92, 94, 100), 10))
    for a in np.arange(-rng.uniform(0, 150), W, 150):
        draw.polygon([(a, road + 66), (a + 80, road + 66), (a + 74, road + 78), (a - 10, road + 78)], fill="#e2e0d6")
    s, way = rng.uniform(0.95, 1.4), int(rng.choice([-1, 1]))
    if rng.random() < 0.4:
        bus(draw, rng.uniform(-300, W - 200), road - 16, s * 0.72, -way, vary(rng, (180, 36, 40), 12))
    bus(draw, rng.uniform(-60, W + 60 - 560 * s), road + 30, s, way, vary(rng, (206, 30, 36), 14))
    return canvas


GROUPS: dict[str, Callable[[Random], Image.Image]] = {
    painter.__name__.removeprefix("_"): painter
    for painter in (
        _balloons,
        _bricks,
        _buses,
        _city,
        _desert,
        _forest,
        _mountains,
        _reef,
        _stars,
        _sunflowers,
        _sunset,
        _zebra,
    )
}
"""The groups by name, which is also the name of their folder, and the function that paints one picture of each."""
