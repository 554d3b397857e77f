"""The contact sheet: what stands where, what a broken or hostile input becomes, and how the file is written."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from catdb.images import sheet
from catdb.images.sheet import Row, write_sheet

RED, GREEN, BLUE = (200, 20, 30), (20, 160, 60), (30, 40, 210)
LEFT = sheet.MARGIN + sheet.PADDING
MATCHES = LEFT + sheet.QUERY[0] + 2 * sheet.GAP
STEP = sheet.TILE[0] + sheet.GAP


def picture(path: Path, colour: tuple[int, int, int] = RED, size: tuple[int, int] = (400, 300)) -> str:
    Image.new("RGB", size, colour).save(path)
    return str(path)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def tile(page: np.ndarray, place: int, columns: int = 5) -> np.ndarray:
    """The thumbnail of one match of the first query, without its frame."""
    down, across = divmod(place, columns)
    x, y = MATCHES + across * STEP, LEFT + down * (sheet._tile_height() + sheet.GAP)
    return page[y + 1 : y + sheet.TILE[1] - 1, x + 1 : x + sheet.TILE[0] - 1]


def show(tmp_path: Path, *matches: str, query: str | Image.Image | None = None, **options: int) -> np.ndarray:
    row = Row(query or Image.new("RGB", (80, 60), BLUE), "sea 0.9", [(path, "1  0.87") for path in matches])
    write_sheet(tmp_path / "sheet.png", [row], **options)
    return pixels(tmp_path / "sheet.png")


def is_grey_tile(area: np.ndarray) -> bool:
    """Whether it is the grey tile, with words in its middle and nowhere else."""
    grey = (area == ImageColor.getrgb(sheet.GREY)).all(axis=2)
    middle = grey[60:90, 20:-20]
    return bool(grey[:55].all() and grey[95:].all() and 0.5 < middle.mean() < 0.97)


def test_query_is_framed_and_matches_stand_in_order(tmp_path: Path) -> None:
    red, green = picture(tmp_path / "red.png"), picture(tmp_path / "green.png", GREEN)
    page = show(tmp_path, red, green, red, green, red, green, query=picture(tmp_path / "blue.png", BLUE))
    accent = ImageColor.getrgb(sheet.ACCENT)
    frame = page[LEFT : LEFT + sheet.QUERY[1] + 2 * sheet.FRAME, LEFT : LEFT + sheet.QUERY[0]]
    for edge in (frame[: sheet.FRAME], frame[-sheet.FRAME :], frame[:, : sheet.FRAME], frame[:, -sheet.FRAME :]):
        assert (edge == accent).all()
    assert (frame[sheet.FRAME : -sheet.FRAME, sheet.FRAME : -sheet.FRAME] == BLUE).all()
    for place, colour in enumerate((RED, GREEN, RED, GREEN, RED, GREEN)):  # the sixth begins the second line
        assert (tile(page, place) == colour).all(), place
    assert not (page[:, : sheet.MARGIN] != ImageColor.getrgb(sheet.PAGE)).any()


def test_captions_and_names_are_written_beneath(tmp_path: Path) -> None:
    page = show(tmp_path, picture(tmp_path / "red.png"))
    beneath = page[LEFT + sheet.TILE[1] + 4 :, MATCHES : MATCHES + sheet.TILE[0]]
    assert (beneath[:16].min(axis=2) < 90).any()  # "1  0.87", dark
    assert (beneath[20:40].min(axis=2) < 170).any()  # "red.png", fainter
    assert (page[LEFT + sheet.TILE[1] + 4 :, MATCHES + STEP : MATCHES + 2 * STEP][:40] == 255).all()


@pytest.mark.parametrize("columns", [1, 3])
def test_columns(tmp_path: Path, columns: int) -> None:
    red, green = picture(tmp_path / "red.png"), picture(tmp_path / "green.png", GREEN)
    page = show(tmp_path, red, green, red, green, columns=columns)
    assert page.shape[1] == MATCHES + columns * STEP - sheet.GAP + sheet.PADDING + sheet.MARGIN
    for place in range(4):
        assert (tile(page, place, columns) == (RED, GREEN)[place % 2]).all()


def test_thumbnails_keep_their_shape_and_are_never_enlarged(tmp_path: Path) -> None:
    page = show(tmp_path, picture(tmp_path / "tall.png", size=(100, 600)), picture(tmp_path / "tiny.png", size=(10, 6)))
    tall, tiny = ((tile(page, place) == RED).all(axis=2) for place in (0, 1))
    assert tall.any(axis=0).sum() == 25 and tall.any(axis=1).all()
    assert (tiny.any(axis=0).sum(), tiny.any(axis=1).sum()) == (10, 6)


def test_a_picture_turned_by_its_exif_is_shown_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (400, 200), RED)
    image.paste(GREEN, (0, 0, 200, 200))  # its left half: the upper one when it is turned to the right
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    page = show(tmp_path, str(tmp_path / "turned.jpg"), query=str(tmp_path / "turned.jpg"))
    upright = tile(page, 0)[:, 70:-70].astype(int)
    assert np.abs(upright[5:65] - GREEN).max() < 25 and np.abs(upright[85:-5] - RED).max() < 25
    assert (tile(page, 0)[:, :50] == ImageColor.getrgb(sheet.MAT)).all()  # it is narrow now


def test_transparency_is_white_and_16_bits_are_scaled(tmp_path: Path) -> None:
    Image.new("RGBA", (200, 150), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.fromarray(np.full((150, 200), 32768, dtype=np.uint16)).save(tmp_path / "deep.png")
    Image.new("P", (200, 150), 0).save(tmp_path / "clear.gif", transparency=0)
    page = show(tmp_path, str(tmp_path / "clear.png"), str(tmp_path / "deep.png"), str(tmp_path / "clear.gif"))
    assert (tile(page, 0) == 255).all()
    assert np.abs(tile(page, 1).astype(int) - 128).max() <= 1
    assert (tile(page, 2) == 255).all()


def test_a_heic_file_is_shown(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.new("RGB", (400, 300), RED)).save(tmp_path / "red.heic")
    assert np.abs(tile(show(tmp_path, str(tmp_path / "red.heic")), 0).astype(int) - RED).max() < 12


def test_what_cannot_be_read_is_a_grey_tile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken.jpg"
    picture(broken)
    broken.write_bytes(broken.read_bytes()[:300])
    (tmp_path / "text.jpg").write_text("no picture")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.jpg")
    names = [str(tmp_path / name) for name in ("broken.jpg", "text.jpg", "gone.jpg", "pipe.jpg", "")] + ["a\0b"]
    page = show(tmp_path, *names, query=str(tmp_path / "gone.png"))
    assert [is_grey_tile(tile(page, place)) for place in range(6)] == [True] * 6
    monkeypatch.setattr(sys.modules["catdb.images.decode"], "_MEGAPIXELS", 0.1)
    page = show(tmp_path, picture(tmp_path / "large.png"), picture(tmp_path / "small.png", size=(100, 100)))
    assert is_grey_tile(tile(page, 0)) and not is_grey_tile(tile(page, 1))


@pytest.mark.parametrize("kind", ["PPM", "EPS", "PCX", "ICNS", "TGA"])
def test_no_file_is_read_that_could_not_be_indexed_either(tmp_path: Path, kind: str) -> None:
    """Pillow reads some fifty formats, one by way of another program; what an image has become since is one of ours."""
    Image.new("RGB", (64, 64), RED).save(tmp_path / "red.jpg", kind)
    assert is_grey_tile(tile(show(tmp_path, str(tmp_path / "red.jpg")), 0))


HOSTILE = ["a\x1b[31m\n\t\r.jpg", "lone-\udcff-\ud800.jpg", "\u202egpj.exe", "日本語 Ж é.jpg", "e\u0301\U0010ffff"]


@pytest.mark.parametrize("name", [*HOSTILE, "x" * 100_000, ""])
def test_hostile_names_and_captions_never_raise_and_stay_in_place(tmp_path: Path, name: str) -> None:
    write_sheet(tmp_path / "sheet.png", [Row(name, f"{name} {name}", [(name, name)])])
    page = pixels(tmp_path / "sheet.png")
    assert is_grey_tile(tile(page, 0))
    assert (page[LEFT : LEFT + sheet._tile_height(), MATCHES + STEP - sheet.GAP + 4 : -LEFT] == 255).all()
    assert (page[sheet.MARGIN + 8 : -LEFT, MATCHES - sheet.GAP + 2 : MATCHES - 2] == 255).all()


def test_printable() -> None:
    assert sheet.printable("a\x1b[31m\n") == "a\\x1b[31m\\n"
    assert sheet.printable("\udcff\u202e") == "\\udcff\\u202e"
    assert sheet.printable("Straße, e\u0301") == "Straße, é"


def test_long_names_lose_their_middle() -> None:
    text, font = sheet._set("holiday-" + "x" * 300 + "-0042.jpg", 13)
    short = sheet._elide(text, font, 200)
    assert short.startswith("holiday-") and short.endswith("-0042.jpg") and "..." in short
    assert 180 < font.getlength(short) <= 200
    assert sheet._elide("short.jpg", font, 200) == "short.jpg"


def test_a_caption_is_wrapped_into_a_few_lines() -> None:
    lines = sheet._wrap("sunset 0.61 · sea 0.12 · lakeside 0.08 · sandbar 0.03", 13, 180)
    assert " ".join(lines) == "sunset 0.61 · sea 0.12 · lakeside 0.08 · sandbar 0.03"
    assert len(lines) == 2 and all(sheet._length(line, 13) <= 180 for line in lines)
    assert len(sheet._wrap("word " * 500, 13, 180)) == sheet.CAPTION_LINES
    assert sheet._wrap("", 13, 180) == []


def test_a_query_without_matches_says_so(tmp_path: Path) -> None:
    page = show(tmp_path)
    words = page[LEFT : LEFT + sheet.QUERY[1], MATCHES : MATCHES + 130]
    assert (words.min(axis=2) < 150).any()
    assert (page[LEFT : LEFT + sheet.QUERY[1], MATCHES + 140 : -LEFT] == 255).all()


def test_a_picture_in_memory_is_left_as_it_was(tmp_path: Path) -> None:
    image = Image.new("RGB", (640, 480), GREEN)
    page = show(tmp_path, query=image)
    assert image.size == (640, 480)
    assert (page[LEFT + sheet.FRAME + 60, LEFT + sheet.FRAME + 60] == GREEN).all()


def test_many_queries_end_with_a_line_that_counts_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheet, "MAX_PIXELS", 2_000_000)
    written: list[str] = []
    write = sheet._write
    monkeypatch.setattr(sheet, "_write", lambda *a: (written.append(a[2]), write(*a))[1])  # type: ignore[func-returns-value]
    red = picture(tmp_path / "red.png")
    write_sheet(tmp_path / "sheet.png", [Row(red, "", [(red, "1")])] * 100)
    with Image.open(tmp_path / "sheet.png") as image:
        assert 1_000_000 < image.width * image.height <= 2_000_000
    drawn = written.count("query")
    assert 2 <= drawn < 10
    assert written[-1] == f"... and {100 - drawn} more queries"


def test_one_query_with_very_many_matches_is_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheet, "MAX_PIXELS", 2_000_000)
    red = picture(tmp_path / "red.png", size=(8, 6))
    write_sheet(tmp_path / "sheet.png", [Row(red, "", [(red, "1")] * 5000)])
    with Image.open(tmp_path / "sheet.png") as image:
        assert 1_000_000 < image.width * image.height <= 2_000_000


def test_no_query_at_all(tmp_path: Path) -> None:
    write_sheet(tmp_path / "sheet.png", [])
    assert (pixels(tmp_path / "sheet.png").min(axis=2) < 150).any()  # it says "no queries"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder: others may put things into ``tmp_path``."""
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


@pytest.mark.parametrize(("name", "kind"), [("a.png", "PNG"), ("a.JPG", "JPEG"), ("a.jpeg", "JPEG"), ("a", "PNG")])
def test_the_format_is_that_of_the_suffix_and_nothing_else_is_left(folder: Path, name: str, kind: str) -> None:
    (folder / name).write_text("an older sheet")
    write_sheet(str(folder / name), [])
    with Image.open(folder / name) as image:
        assert image.format == kind
    assert os.listdir(folder) == [name]


def test_wrong_arguments(folder: Path) -> None:
    for columns in (0, 101):
        with pytest.raises(ValueError, match="1 to 100 columns"):
            write_sheet(folder / "a.png", [], columns=columns)
    with pytest.raises(ValueError, match=r"not as \.webp"):
        write_sheet(folder / "a.webp", [])
    assert os.listdir(folder) == []


def test_targets_that_cannot_be_written(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        write_sheet(folder / "missing" / "a.png", [])
    (folder / "folder.png").mkdir()
    with pytest.raises(IsADirectoryError, match="folder.png"):
        write_sheet(folder / "folder.png", [])
    assert os.listdir(folder) == ["folder.png"]


def test_a_failed_write_leaves_the_old_sheet_and_nothing_else(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "a.png").write_text("an older sheet")

    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="no space"):
        write_sheet(folder / "a.png", [])
    assert os.listdir(folder) == ["a.png"]
    assert (folder / "a.png").read_text() == "an older sheet"
