"""How a contact sheet is laid out, set in type and written: queries at the left, what was found for them at the right.

Everything on a sheet comes from elsewhere and may be missing, broken or hostile: a file that has gone or is no image
becomes a grey tile, a name with control characters or undecodable bytes is shown escaped, a sheet that would become
too large ends with a line that says so. Only a wrong argument or a target that cannot be written is an exception.
"""

from __future__ import annotations

import contextlib
import errno
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

from catdb.errors import ImageUnreadable
from catdb.images.decode import decode
from catdb.whole import replacing

Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

MARGIN, PADDING, GAP = 32, 24, 20  # pixels: around the page, within a card, between tiles
TILE, QUERY = (200, 150), (248, 180)  # the boxes that thumbnails are fitted into: (width, height)
FRAME = 4
LINE = 20  # the height of a line of text
CAPTION_LINES = 4

PAGE, CARD, MAT, GREY = "#f4f5f7", "#ffffff", "#eef0f3", "#d5d9e0"
RULE, ACCENT, INK, FAINT = "#dfe2e8", "#2f6bff", "#1d2433", "#6b7485"

MAX_PIXELS = 60_000_000
MAX_HEIGHT = 60_000  # a JPEG ends at 65,535
MAX_COLUMNS = 100
_FORMATS = {"": "PNG", ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
_FALLBACKS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "segoeui.ttf", "Arial Unicode.ttf", "NotoSansCJK-Regular.ttc")


@dataclass(frozen=True, slots=True)
class Row:
    """One query: its path or picture, a caption (its predicted categories), and its matches as (path, caption).

    ``title`` is shown instead of the query's name, and stands alone where there is no picture of it.
    """

    query: str | Image.Image | None
    caption: str
    matches: Sequence[tuple[str, str]]
    title: str = ""


def write_sheet(target: str | Path, rows: Sequence[Row], *, columns: int = 5) -> None:
    """Write a contact sheet to ``target``, with ``columns`` matches in a line; PNG, or JPEG by the suffix.

    The file appears whole or not at all. A sheet has at most 60 million pixels (180 MB while it is drawn; with five
    columns about 80 queries of ten matches) and is at most 60,000 pixels high: the queries that find no place are not
    drawn, and a last line counts them, "... and N more queries". The first query is always drawn; matches of it that
    find no place are counted in the same way. Thumbnails are read one at a time.

    Raises ValueError where ``columns`` is not in 1..100 or the suffix is another, before anything is read, and OSError
    where ``target`` is a directory, its folder is missing or the write fails; then no temporary file is left.
    """
    target = Path(target)
    if not 1 <= columns <= MAX_COLUMNS:
        raise ValueError(f"a sheet has 1 to {MAX_COLUMNS} columns, not {columns}")
    kind = _FORMATS.get(target.suffix.lower())
    if kind is None:
        raise ValueError(f"a sheet is written as .png or .jpg, not as {printable(target.suffix)}")
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(target.parent))
    with replacing(str(target)) as stream:
        _draw(rows, columns).save(stream, kind, quality=90)


# The layout.


def _draw(rows: Sequence[Row], columns: int) -> Image.Image:
    grid = columns * (TILE[0] + GAP) - GAP
    width = 2 * (MARGIN + PADDING) + QUERY[0] + 2 * GAP + grid
    room = min(MAX_HEIGHT, MAX_PIXELS // width) - 2 * MARGIN - 2 * LINE
    shown = [row.matches for row in rows]
    if rows and _height(len(shown[0]), columns) > room:
        lines = (room - 2 * PADDING - LINE) // (_tile_height() + GAP)
        shown[0] = shown[0][: max(1, lines) * columns]
    tops, y = [], MARGIN
    for index, matches in enumerate(shown):
        hidden = len(rows[index].matches) - len(matches)
        height = _height(len(matches), columns) + LINE * (hidden > 0)
        if index and y + height - MARGIN > room:
            break
        tops.append((y, height))
        y += height + GAP
    left_over = len(rows) - len(tops)
    end = f"... and {left_over:,} more queries" if left_over > 1 else "... and 1 more query" if left_over else ""
    if not rows:
        end = "no queries"
    sheet = Image.new("RGB", (width, y + (2 * LINE if end else 0) + MARGIN - GAP), PAGE)
    for (top, height), row, matches in zip(tops, rows, shown, strict=False):
        _draw_row(sheet, top, height, row, matches, columns)
    if end:
        _write(ImageDraw.Draw(sheet), (MARGIN + PADDING, y), end, FAINT, 16, width - 2 * MARGIN)
    return sheet


def _tile_height() -> int:
    return TILE[1] + 2 * LINE + 8


def _height(matches: int, columns: int) -> int:
    """The height of a query's card with so many matches."""
    lines = -(-matches // columns)
    column = QUERY[1] + 2 * FRAME + 38 + LINE + CAPTION_LINES * LINE
    return 2 * PADDING + max(column, lines * (_tile_height() + GAP) - GAP)


def _draw_row(
    sheet: Image.Image, top: int, height: int, row: Row, matches: Sequence[tuple[str, str]], columns: int
) -> None:
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((MARGIN, top, sheet.width - MARGIN - 1, top + height - 1), fill=CARD, outline=RULE)
    x, y = MARGIN + PADDING, top + PADDING
    _draw_query(sheet, (x, y), row)
    x += QUERY[0] + 2 * GAP
    draw.line((x - GAP, y, x - GAP, top + height - PADDING), fill=RULE)
    if not row.matches:
        _write(draw, (x + 4, y + QUERY[1] // 2 - 8), "no matches", FAINT, 18, sheet.width - x)
    for place, (path, caption) in enumerate(matches):
        down, across = divmod(place, columns)
        a, b = x + across * (TILE[0] + GAP), y + down * (_tile_height() + GAP)
        _place(sheet, (a, b), TILE, path)
        draw.rectangle((a, b, a + TILE[0] - 1, b + TILE[1] - 1), outline=RULE)
        _write(draw, (a + 1, b + TILE[1] + 7), caption, INK, 15, TILE[0])
        _write(draw, (a + 1, b + TILE[1] + 7 + LINE), _name(path), FAINT, 13, TILE[0])
    hidden = len(row.matches) - len(matches)
    if hidden:
        line = f"... and {hidden:,} more {'match' if hidden == 1 else 'matches'}"
        _write(draw, (x, top + height - PADDING - LINE + 4), line, FAINT, 15, sheet.width - x - MARGIN - PADDING)


def _draw_query(sheet: Image.Image, corner: tuple[int, int], row: Row) -> None:
    (x, y), draw = corner, ImageDraw.Draw(sheet)
    width, height = QUERY
    draw.rectangle((x, y, x + width - 1, y + height + 2 * FRAME - 1), fill=ACCENT)
    _place(sheet, (x + FRAME, y + FRAME), (width - 2 * FRAME, height), row.query, "no picture")
    y += height + 2 * FRAME
    draw.rectangle((x, y, x + 57, y + 21), fill=ACCENT)
    _write(draw, (x + 8, y + 2), "query", "#ffffff", 15, 50)
    y += 32
    _write(draw, (x, y), row.title or _name(row.query or ""), INK, 15, width)
    for number, line in enumerate(_wrap(row.caption, 13, width)):
        _write(draw, (x, y + LINE + 3 + number * (LINE - 2)), line, FAINT, 13, width)


def _place(
    sheet: Image.Image,
    corner: tuple[int, int],
    box: tuple[int, int],
    source: str | Image.Image | None,
    absent: str = "",
) -> None:
    """Put the thumbnail of ``source`` in the middle of the box, or the grey tile (``absent``: of a source of None)."""
    (x, y), (width, height) = corner, box
    thumbnail = None if source is None else _thumbnail(source, box)
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=GREY if thumbnail is None else MAT)
    if thumbnail is not None:
        sheet.paste(thumbnail, (x + (width - thumbnail.width) // 2, y + (height - thumbnail.height) // 2))
        return
    words = "cannot be read" if source is not None else absent
    length = round(_set(words, 15)[1].getlength(words))
    _write(draw, (x + (width - length) // 2, y + height // 2 - 9), words, FAINT, 15, width)


# The pictures.


def _thumbnail(source: str | Image.Image, box: tuple[int, int]) -> Image.Image | None:
    """The picture upright, in RGB and no larger than the box (width, height); None where it cannot be read."""
    try:
        pixels, _, _ = decode(source, 2 * max(box))
    except ImageUnreadable:
        return None
    thumbnail = Image.fromarray(pixels)
    thumbnail.thumbnail(box, Image.Resampling.LANCZOS)
    return thumbnail


# The type.


def printable(text: str) -> str:
    """The text with all that cannot be printed (controls, lone surrogates, invisible marks) escaped as in Python."""
    return "".join(c if c.isprintable() else _escape(c) for c in unicodedata.normalize("NFC", text))


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _name(source: str | Image.Image) -> str:
    path = source if isinstance(source, str) else getattr(source, "filename", "") or "(image)"
    path = os.fsdecode(path)
    return os.path.basename(path) or path


def _write(
    draw: ImageDraw.ImageDraw, corner: tuple[float, float], text: str, colour: str, size: int, width: float
) -> None:
    """Write one line of at most ``width`` pixels, its middle left out where it is longer."""
    text, font = _set(text, size)
    draw.text(corner, _elide(text, font, width), fill=colour, font=font)


def _elide(text: str, font: Font, width: float) -> str:
    """The text, or as many characters of its two ends as fit with ``...`` between them."""
    if font.getlength(text) <= width:
        return text
    low, high = 0, len(text) - 1
    while low < high:
        kept = (low + high + 1) // 2
        low, high = (kept, high) if font.getlength(_ends(text, kept)) <= width else (low, kept - 1)
    return _ends(text, low)


def _ends(text: str, kept: int) -> str:
    return f"{text[: kept - kept // 2]}...{text[len(text) - kept // 2 :]}"


def _wrap(text: str, size: int, width: float) -> list[str]:
    """The text in at most ``CAPTION_LINES`` lines, broken where it is; what is too long is for the last to elide."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        fresh = True
        for word in paragraph.split():
            longer = f"{lines[-1]} {word}" if lines else word
            full = len(lines) == CAPTION_LINES
            if full or (not fresh and _length(longer, size) <= width):
                lines[-1] = longer
            else:
                lines.append(word)
            fresh = False
    return lines


def _length(text: str, size: int) -> float:
    text, font = _set(text, size)
    return font.getlength(text)


def _set(text: str, size: int) -> tuple[str, Font]:
    """The text as it can be shown, and the font that shows the most of it; what that lacks is escaped too."""
    text = printable(text if len(text) <= 2000 else f"{text[:1000]}...{text[-1000:]}")
    foreign = frozenset(c for c in text if not c.isascii())
    font, lacking = min(((font, _lacks(font, foreign)) for font in _fonts(size)), key=lambda pair: len(pair[1]))
    return "".join(_escape(c) if c in lacking else c for c in text), font


@lru_cache(maxsize=8)
def _fonts(size: int) -> tuple[Font, ...]:
    """The font that comes with Pillow, which knows little but English, and those that the system may have."""
    fonts: list[Font] = [ImageFont.load_default(size=size)]
    for name in _FALLBACKS:
        with contextlib.suppress(OSError):
            fonts.append(ImageFont.truetype(name, size))
    return tuple(fonts)


@lru_cache(maxsize=1024)
def _lacks(font: Font, characters: frozenset[str]) -> frozenset[str]:
    """Those of the characters that have no glyph, and would be shown as an empty box."""
    if isinstance(font, ImageFont.ImageFont):  # a Pillow without FreeType: its only font is ASCII
        return characters
    box = bytes(font.getmask("\uffff"))
    return frozenset(c for c in characters if bytes(font.getmask(c)) == box)
