"""The HTML files of ``catdb search --html`` and ``catdb duplicates --html``: what is in them, and what never is."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from conftest import Instant, picture, run, save
from PIL import Image

from catdb import Database, Duplicate, Duplicates, Failure, Group, Match, Prediction, Result
from catdb.errors import StorageError
from catdb.report import SIDE, Picture, Report, report

NOON = 1_800_000_000.0
VOID = {"meta", "img"}
HOSTILE = [
    "<script>alert(1)</script>.png".replace("/", "\u2215"),
    "\"><img src=x onerror=alert(1)>'&amp;.png",
    os.fsdecode(b"caf\xe9 \xff.png"),
    "line\nbreak\x1b[31m\x07.png",
    "\u202egnp.exe",
    "100 % #1? ünïcode.png",
]


class Page(HTMLParser):
    """A page, taken apart: every element must be closed, and only ever in its turn."""

    def __init__(self, content: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.data = ""
        self.feed(content)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.end_text()
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self.end_text()
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.data += data

    def end_text(self) -> None:
        if self.data.strip():
            self.texts.append((self.open[-1] if self.open else "", self.data.strip()))
        self.data = ""

    def text(self, tag: str) -> list[str]:
        return [text for open_, text in self.texts if open_ == tag]

    def values(self, tag: str, name: str) -> list[str]:
        return [attributes[name] or "" for found, attributes in self.elements if found == tag and name in attributes]

    def pictures(self) -> list[Image.Image]:
        found = []
        for source in self.values("img", "src"):
            kind, data = source.split(",")
            assert kind == "data:image/jpeg;base64"
            image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
            assert (image.format, image.mode, dict(image.getexif())) == ("JPEG", "RGB", {})
            image.load()
            found.append(image)
        return found


def read(path: str | Path) -> Page:
    return Page(Path(path).read_text(encoding="utf-8"))


def result(query: str | None, *paths: str, **fields: object) -> Result:
    kinds = (Prediction("n1", "sports car", 0.875), Prediction("n2", "pick & mix", 0.001))
    matches = tuple(
        Match(rank, path, 1 - rank / 100, (kinds[1],), 1 - rank / 1000) for rank, path in enumerate(paths, 1)
    )
    known = {"scanned": 5, "total": 9, "probed": 2, "populated": 3, "widened": False, "admitted": 9, "ceiling": 0.999}
    return Result(query, kinds, matches, **{**known, **fields})  # type: ignore[arg-type]


def written(path: Path, *answers: Result | Failure) -> Page:
    with report(str(path), "Nearest images", "/db", now=NOON) as page:
        for answer in answers:
            (page.add_unanswered if isinstance(answer, Failure) else page.add_answer)(answer)  # type: ignore[operator]
    return read(path)


# --- what is in it --------------------------------------------------------------------------------------------------


def test_an_answer_is_told_with_its_pictures(tmp_path: Path) -> None:
    query = tmp_path / "the query.png"
    picture(1, (1000, 500)).save(query)
    tall, small = tmp_path / "tall.png", tmp_path / "small.png"
    picture(2, (300, 1200)).save(tall)
    picture(3, (40, 30)).save(small)
    page = written(tmp_path / "x.html", result(str(query), str(tall), str(small), notes=("a note",)))
    assert [image.size for image in page.pictures()] == [(SIDE, SIDE // 2), (SIDE // 4, SIDE), (40, 30)]
    assert page.values("img", "alt") == ["query: the query.png", "match 1: tall.png", "match 2: small.png"]
    mean = np.asarray(page.pictures()[2].convert("RGB")).mean(axis=(0, 1))
    assert np.abs(mean - np.asarray(picture(3)).mean(axis=(0, 1))).max() < 3
    assert (page.text("h1"), page.text("h2")) == (["Nearest images"], ["the query.png"])
    assert page.text("li") == ["sports car", "pick & mix"]
    assert page.text("strong") == ["0.9900", "0.9800"]
    for told in (
        "searched 5 of 9 images in 2 of 3 categories",
        "closer than >99.9 % of random pairs",
        "closer than 99.8 % of random pairs",
        "a note",
        str(tall),
    ):
        assert told in page.text("p"), told
    assert page.text("p").count("pick & mix") == 2  # what each match shares with the query
    assert {"88 %", "<1 %"} <= set(page.text("small"))


def test_a_picture_stands_upright(tmp_path: Path) -> None:
    turned = Image.new("RGB", (400, 200))
    exif = turned.getexif()
    exif[0x0112] = 6
    exif[0x010F] = "a camera"
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert written(tmp_path / "x.html", result(str(tmp_path / "turned.jpg"))).pictures()[0].size == (160, 320)


def test_it_loads_and_runs_nothing(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 1)
    page = written(tmp_path / "x.html", result(str(tmp_path / "a.png"), str(tmp_path / "a.png")))
    [policy] = [tag["content"] for name, tag in page.elements if name == "meta" and "http-equiv" in tag]
    [style] = page.text("style")
    content = (tmp_path / "x.html").read_text()
    exact = re.findall(r"<style>(.*?)</style>", content, re.DOTALL)[0]
    digest = base64.b64encode(hashlib.sha256(exact.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    assert not {"script", "link", "iframe", "object", "base", "form"} & {name for name, _ in page.elements}
    assert not [name for _, tag in page.elements for name in tag if name.startswith("on") or name == "style"]
    assert all(link.startswith("file:///") for link in page.values("a", "href"))
    assert not re.search(r"url\(|@import|</", style)
    assert [tag for name, tag in page.elements if name == "html"] == [{"lang": "en"}]


def test_its_style_is_that_of_the_page_in_the_browser(tmp_path: Path) -> None:
    import catdb

    style = Path(catdb.__file__).parent / "web" / "page" / "style.css"
    assert style.read_text(encoding="utf-8") in (written(tmp_path / "x.html") and (tmp_path / "x.html").read_text())


def test_what_is_hostile_is_text(tmp_path: Path) -> None:
    paths = []
    for seed, name in enumerate(HOSTILE):
        save(tmp_path / name, seed)
        paths.append(str(tmp_path / name))
    usual = written(tmp_path / "usual.html", *(result(str(tmp_path / "a"), str(tmp_path / "b")) for _ in paths))
    bad = "<b onclick=x>&\"'"
    page = written(
        tmp_path / "x.html",
        *(result(path, path, notes=(bad,)) for path in paths),
        Failure(bad, bad),
        result(None, text=bad),
    )
    assert len(page.pictures()) == 2 * len(paths)
    known = {(name, *sorted(tag)) for name, tag in usual.elements}
    fresh = {(name, *sorted(tag)) for name, tag in page.elements} - known
    assert fresh <= {("a", "href"), ("img", "alt", "src"), ("p", "class")}  # no element or attribute but our own
    assert page.text("h2")[:5] == [
        HOSTILE[0],
        HOSTILE[1],
        "caf\\xe9 \\xff.png",
        "line\\nbreak\\x1b[31m\\x07.png",
        "\\u202egnp.exe",
    ]
    assert page.text("p").count(bad) == len(paths) + 2 and f'"{bad}"' in page.text("h2")
    leads = [unquote_to_bytes(link.removeprefix("file://")) for link in page.values("a", "href")]
    assert leads == [os.fsencode(path) for path in paths for _ in range(2)]


def test_what_cannot_be_shown_says_why(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    os.mkfifo(tmp_path / "pipe.jpg")
    whole = io.BytesIO()
    picture(1, (400, 300)).save(whole, "JPEG")
    (tmp_path / "half.jpg").write_bytes(whole.getvalue()[:900])
    names = ["gone.jpg", "text.jpg", "pipe.jpg", "half.jpg"]
    page = written(tmp_path / "x.html", result(None, *(str(tmp_path / name) for name in names)))
    assert page.pictures() == []
    assert page.values("p", "aria-label") == [
        "match 1: gone.jpg: no such file or directory",
        "match 2: text.jpg: not an image",
        "match 3: pipe.jpg: a FIFO, not a regular file",
        "match 4: half.jpg: truncated JPEG: the file ends before the image does",
    ]


def test_queries_of_several_images_and_of_words(tmp_path: Path) -> None:
    for seed, name in enumerate("abc"):
        save(tmp_path / f"{name}.png", seed)
    a, b, c = (str(tmp_path / f"{name}.png") for name in "abc")
    page = written(tmp_path / "x.html", result(None, a, together=(a, b), without=(c,)), result(None, text="red car"))
    assert page.values("img", "alt")[:3] == ["query: a.png", "query: b.png", "turned away from c.png"]
    assert page.text("h2") == ["2 images together: a.png, b.png; turned away from c.png", '"red car"']
    assert "no matches" in page.text("p")


def test_an_image_to_turn_away_from_is_labelled(tmp_path: Path) -> None:
    """Also where it is the query's own: the label goes by the question, not by the path."""
    save(tmp_path / "a.png", 1)
    save(tmp_path / "b.png", 2)
    a, b = str(tmp_path / "a.png"), str(tmp_path / "b.png")
    page = written(tmp_path / "x.html", result(a, without=(a, b)))
    assert page.values("img", "alt") == ["query: a.png", "turned away from a.png", "turned away from b.png"]
    assert page.text("strong") == ["turned away from"] * 2
    assert page.text("h2") == ["a.png; turned away from a.png, b.png"]


def test_many_images_together_have_a_short_heading_and_all_their_paths(tmp_path: Path) -> None:
    paths = tuple(str(tmp_path / f"{number}.png") for number in range(200))
    page = written(
        tmp_path / "x.html", result(None, together=paths, without=paths[:4]), result(None, together=paths[:1])
    )
    away = "turned away from 0.png, 1.png, 2.png, ..."
    assert page.text("h2") == [f"200 images together: 0.png, 1.png, 2.png, ...; {away}", "0.png"]
    assert [text for text in page.text("p") if text in paths] == [*paths, *paths[:4], paths[0]]


def test_a_path_that_is_cut_short_can_be_read_whole(tmp_path: Path) -> None:
    long = str(tmp_path / ("very long " * 20) / f'{"a name " * 20}".png')
    copy = Duplicate(long, 4, 3, 999, 0.0, 1, 0)
    with report(str(tmp_path / "x.html"), "Copies", "/db", now=NOON) as made:
        made.add_copies(Duplicates((Group("bytes", (copy, copy)),), (), 2))
    copies, page = read(tmp_path / "x.html"), written(tmp_path / "y.html", result(long, long))
    assert page.values("p", "title") == copies.values("p", "title") == [long] * 4  # of its name and its path


def test_the_same_answers_make_the_same_file(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 1)
    for name in ("1.html", "2.html"):
        written(tmp_path / name, result(str(tmp_path / "a.png"), str(tmp_path / "a.png")))
    assert (tmp_path / "1.html").read_bytes() == (tmp_path / "2.html").read_bytes()


def test_groups_of_copies_are_told_by_tier(tmp_path: Path) -> None:
    for seed, name in enumerate("abcd"):
        save(tmp_path / f"{name}.png", seed)
    a, b, c, d = (Duplicate(str(tmp_path / f"{name}.png"), 4000, 30, 1_500_000, 0.0, 1, 0) for name in "abcd")
    near = Duplicate(b.path, 400, 300, 999, 0.0, 0.951, 2)
    groups = (Group("bytes", (a, b, c)), Group("near", (d, near)))
    found = Duplicates(groups, (Failure("/x/<gone>.jpg", "No such file"),), 9, ("noted",))
    seen: list[tuple[int, int]] = []
    with report(str(tmp_path / "x.html"), "Copies", "/db", now=NOON) as made:
        made.add_copies(found, lambda done, of: seen.append((done, of)))
    page = read(tmp_path / "x.html")
    assert page.text("h2") == ["The same bytes", "Nearly the same", "Not compared"]
    assert {"3 images, 3.0 MB could be freed", "2 images, 999 bytes could be freed"} <= set(page.text("small"))
    assert page.text("strong") == ["keep", "keep"]
    assert [alt.split(":")[0] for alt in page.values("img", "alt")] == ["keep", "copy", "copy", "keep", "copy"]
    assert page.text("p").count("4,000 × 30, 1.5 MB") == 4
    assert {"alike 0.951", "and 2 of a group above", "noted"} <= set(page.text("p"))
    assert "/x/<gone>.jpg: No such file" in page.text("li")
    assert seen == [(number, 5) for number in range(1, 6)]


# --- how it is written ----------------------------------------------------------------------------------------------


def test_it_is_whole_or_not_there(tmp_path: Path) -> None:
    target = tmp_path / "x.html"
    target.write_text("before")
    with pytest.raises(KeyboardInterrupt), report(str(target), "t", "/db", now=NOON) as page:
        page.add_answer(result(None, str(tmp_path / "gone.png")))
        [part] = tmp_path.glob("x.html.*.part")
        raise KeyboardInterrupt
    assert not part.exists() and target.read_text() == "before"
    with pytest.raises(BrokenPipeError), report(str(target), "t", "/db", now=NOON):
        raise BrokenPipeError  # of stdout, which is not this file's fault
    with pytest.raises(StorageError, match="missing/x.html: No such file or directory; nothing was written"):
        written(tmp_path / "missing" / "x.html")
    assert os.listdir(tmp_path / "work") == [] and target.read_text() == "before"
    written(target)
    assert target.read_text().endswith("</html>\n") and list(tmp_path.glob("*.part")) == []


def test_few_pictures_are_held_at_a_time() -> None:
    made = held = most = 0

    class Stream(io.BytesIO):
        def write(self, data: bytes) -> int:  # type: ignore[override]
            nonlocal held
            held -= data.count(b"data:image")
            return len(data)

    def pictures(paths: Sequence[str]) -> Iterator[Picture]:
        nonlocal made, held, most
        for _ in paths:
            made, held = made + 1, held + 1
            most = max(most, held)
            yield b"a picture"

    Report(Stream(), pictures, "t", "/db", NOON).add_answer(result("/q", *map(str, range(1000))))
    assert (made, held) == (1001, 0) and most <= 64


def test_a_picture_of_mere_noise_is_bounded(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 2, (640, 640, 3), dtype=np.uint8) * 255
    Image.fromarray(noise).save(tmp_path / "noise.png")
    [source] = written(tmp_path / "x.html", result(str(tmp_path / "noise.png"))).values("img", "src")
    assert 10_000 < len(source) < 110_000


# --- by the command line --------------------------------------------------------------------------------------------


@pytest.fixture
def here(photos: Path, tmp_path: Path, instant: Instant) -> Path:
    """The current folder, with fourteen pictures, two of them copies, and their database."""
    photos.rename(tmp_path / "work" / "photos")
    shutil.copy("photos/1.png", "photos/copy.png")
    save(Path("photos") / HOSTILE[0], 40)
    with Database(".catdb", backbone="classic") as database:
        database.build("photos")
    return tmp_path / "work"


def test_search_writes_a_page_beside_all_else(here: Path) -> None:
    Path("text.jpg").write_text("no picture")
    words = ["photos/1.png", "text.jpg", "photos/below", "-k", "3", "--exact", "--json"]
    files = ["--csv", "x.csv", "--sheet", "x.png", "--html", "x.html"]
    done = run("search", *words, *files)
    assert done.returncode == 3 and f"page: {here}/x.html\n" in done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    page = read("x.html")
    assert page.text("h2") == ["1.png", "text.jpg", "10.png", "11.png"]
    assert len(page.pictures()) == 3 * (1 + 3)
    found = [match["path"] for answer in answers for match in answer.get("matches", [])]
    assert len(found) == 9 and all(path in page.text("p") for path in found)
    with open("x.csv", newline="") as lines:
        assert [row["path"] for row in csv.DictReader(lines)] == found
    assert Path("x.png").read_bytes().startswith(b"\x89PNG")
    assert "not an image" in page.text("p") and str(here / ".catdb") in page.text("p")[0]
    assert re.search(r"Nearest images · \d{4}-\d\d-\d\d \d\d:\d\d", page.text("title")[0])


def test_duplicates_writes_a_page_as_well(here: Path) -> None:
    Path("photos/2.png").unlink()
    save(Path("photos/2.png"), 50)
    done = run("duplicates", "--html", "x.html", "--csv", "x.csv", "--json")
    found = json.loads(done.stdout)
    page = read("x.html")
    assert page.values("img", "alt")[:2] == ["keep: 1.png", "copy: copy.png"]
    assert page.text("h1") == ["Copies"] and page.text("h2")[0] == "The same bytes"
    images = [image["path"] for group in found["groups"] for image in group["images"]]
    assert len(page.pictures()) == len(images) >= 2
    assert done.returncode == (3 if found["unread"] else 0)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("missing/x.html", "catdb: {here}/missing: No such file or directory\n"),
        ("photos", "catdb: photos: Is a directory\n"),
    ],
)
def test_a_bad_target_is_refused_before_the_work(target: str, said: str, here: Path) -> None:
    for words in (["search", "photos/1.png"], ["duplicates"]):
        done = run(*words, "--html", target)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", said.format(here=here))


def test_no_page_where_there_is_no_answer(here: Path) -> None:
    Path("empty").mkdir()
    done = run("search", "empty", "--html", "x.html")
    assert (done.returncode, done.stderr) == (1, "catdb: no image to search with in empty\n")
    done = run("search", "--text", "giraffe", "--html", "x.html")
    assert done.returncode == 1 and "giraffe" in done.stderr
    assert not list(Path.cwd().glob("x.html*"))
    done = run("duplicates", "photos/1.png", "photos/2.png", "--mark-distinct", "--html", "x.html")
    assert done.returncode == 2 and "no --csv or --html" in done.stderr


def test_a_page_needs_no_web_framework(here: Path) -> None:
    code = """
import sys
from catdb.cli import main
sys.argv[1:] = ["search", "photos/1.png", "--html", "x.html"]
try: main()
except SystemExit as end: assert not end.code
print([name for name in ("fastapi", "starlette", "uvicorn", "catdb.web") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
    assert len(read("x.html").pictures()) > 1


def test_photographs_of_every_kind_are_shown(data: Path, tmp_path: Path) -> None:
    """Photographs of eight orientations stand upright, and HEIC is shown."""
    folder = data / "photos" / "exif"
    names = [f"{kind}_{number}.jpg" for kind in ("Landscape", "Portrait") for number in range(9)] + ["IMG_5195.HEIC"]
    page = written(tmp_path / "x.html", result(None, *(str(folder / name) for name in names)))
    sizes = [image.size for image in page.pictures()]
    assert len(sizes) == 19
    assert all(width == SIDE > height for width, height in sizes[:9])
    assert all(height == SIDE > width for width, height in sizes[9:18])
