"""What ``catdb search`` is asked beyond one image, and ``catdb why``: options, lines, JSON, exit codes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import run, save, without_progress
from PIL import Image

from catdb import Database
from catdb.cli import cli

Done = subprocess.CompletedProcess[str]


def call(*words: str | Path) -> Done:
    """Run the command in this process."""
    done = CliRunner().invoke(cli, [*map(str, words)], prog_name="catdb")
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(words, done.exit_code, done.stdout, without_progress(done.stderr))


def clean(done: Done, code: int = 0) -> Done:
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr + done.stdout
    return done


def answer(*words: str | Path) -> dict[str, object]:
    """Return the one answer of a search, as JSON."""
    [line] = clean(call("search", *words, "--json")).stdout.splitlines()
    found: dict[str, object] = json.loads(line)
    return found


def one_line(done: Done, code: int = 1) -> str:
    """Require a failure that says in one line what is wrong."""
    clean(done, code)
    assert (done.stdout, done.stderr.count("\n")) == ("", 1), done
    return done.stderr.strip()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("asked") / "before"
    for seed in range(60):
        save(place / "photos" / ("few" if seed < 5 else "many") / f"{seed:02}.png", seed)
    with Database(place / ".catdb", backbone="classic") as database:
        database.build(place / "photos")
    return place.rename(place.with_name("after"))


@pytest.fixture
def here(built: Path) -> Path:
    """The current folder, with sixty photographs and their database."""
    shutil.copytree(built, ".", dirs_exist_ok=True)
    return Path.cwd()


def test_each_match_says_what_its_similarity_is_worth(here: Path) -> None:
    lines = clean(run("search", "photos/many/10.png", "-k", "3", "--exact")).stdout.splitlines()
    assert lines[2].startswith(f"   1  1.0000  {here}/photos/many/10.png  ")
    assert lines[2].endswith("  closer than >99 % of random pairs")
    assert all(" % of random pairs" in line for line in lines[2:5])
    found = json.loads(clean(call("search", "photos/many/10.png", "-k", "60", "--exact", "--json")).stdout)
    shares = [match["percentile"] for match in found["matches"]]
    assert shares == sorted(shares, reverse=True) and shares[0] == found["ceiling"] == 0.99
    assert 0 <= shares[-1] < 0.5


def test_filters_are_options(here: Path) -> None:
    few = answer("photos/many/10.png", "--under", "photos/few", "-k", "5")
    assert {os.path.dirname(match["path"]) for match in few["matches"]} == {f"{here}/photos/few"}  # type: ignore
    assert (few["scanned"], few["admitted"], few["total"], len(few["matches"])) == (5, 5, 60, 5)  # type: ignore
    name = few["categories"][0]["name"]  # type: ignore[index]
    inside = json.loads(clean(call("categories", name, "--json")).stdout)["images"]
    own = answer("photos/many/10.png", "--category", name.upper(), "-k", "60")
    assert {match["path"] for match in own["matches"]} == {image["path"] for image in inside}  # type: ignore
    assert own["scanned"] == own["admitted"] == len(inside) and own["probed"] == 1
    text = clean(call("search", "photos/many/10.png", "--under", "photos/few")).stdout.splitlines()[-1]
    assert text.startswith("  searched 5 of 5 images that the filters admit (of 60 in all) in ")
    alike = answer("photos/many/10.png", "--min-similarity", "0.999", "--exact")
    assert [match["path"] for match in alike["matches"]] == [f"{here}/photos/many/10.png"]  # type: ignore
    both = answer("photos/many/10.png", "--category", name, "--under", "photos/few")
    assert {match["path"] for match in both["matches"]} <= {image["path"] for image in inside}  # type: ignore


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["photos/few/00.png", "--under", "nowhere"], 1, "the database knows no image there"),
        (["photos/few/00.png", "--category", "giraffe"], 1, "no category is called 'giraffe'"),
        (["--text", "giraffe"], 1, "no category's name has a word of 'giraffe', and there is no text model"),
        (["--together", "photos/few/00.png", "text.jpg"], 3, "text.jpg: not an image"),  # as any query that is unread
        (["--together", "photos/few/00.png", "--without", "text.jpg"], 1, "text.jpg: not an image"),
        (["photos/few/00.png", "--without", "text.jpg"], 1, "text.jpg: not an image"),
        (["photos/few/00.png", "--min-similarity", "2"], 2, "2.0 is not in the range"),
        (["photos/few/00.png", "--text", "red"], 2, "name the images to search with, or else give a --text"),
        ([], 2, "name the images to search with, or else give a --text"),
        (["--text", "red", "--add"], 2, "--together and --add are for images"),
        (["--together", "empty"], 1, "no image to search with in empty"),
        (["photos/few/00.png", "--exact", "--probes", "4"], 2, "--probes and --exact: each says how far to search"),
        (["photos/few/00.png", "--exact", "--recall", "0.9"], 2, "--recall and --exact: each says how far"),
        (["--text", "red", "--probes", "1", "--recall", "0.9"], 2, "--probes and --recall: each says how far"),
        (["photos/few/00.png", "--category", ""], 1, "the name of the category is empty"),
    ],
)
def test_what_cannot_be_asked_is_one_line(words: list[str], code: int, said: str, here: Path) -> None:
    Path("text.jpg").write_text("no image")
    Path("empty").mkdir()
    done = clean(call("search", *words), code)
    assert said in done.stderr and done.stdout == ""
    assert code == 2 or done.stderr.count("\n") == 1


def test_several_images_are_one_query(here: Path) -> None:
    words = ["photos/few", "photos/many/10.png", "--together", "--without", "photos/many/11.png", "-k", "3"]
    found = answer(*words)
    assert found["query"] is None
    assert found["together"] == [*(f"{here}/photos/few/{n:02}.png" for n in range(5)), f"{here}/photos/many/10.png"]
    assert found["without"] == [f"{here}/photos/many/11.png"]
    done = clean(call("search", *words, "--sheet", "sheet.png", "--csv", "out.csv"))
    head = " + ".join(found["together"]) + f" - {here}/photos/many/11.png"  # type: ignore[arg-type]
    assert done.stdout.splitlines()[0] == head
    assert Path("out.csv").read_text().splitlines()[1].startswith(head)
    with Image.open("sheet.png") as sheet:
        assert sheet.width > 800


def test_of_many_images_that_are_one_query_the_first_are_named(here: Path) -> None:
    """The line named every image of a folder."""
    first = clean(call("search", "photos/many", "--together", "-k", "1", "--csv", "x.csv")).stdout.splitlines()[0]
    names = [f"{here}/photos/many/{number:02}.png" for number in range(5, 60)]
    assert first == " + ".join([*names[:10], "45 further images"])
    assert Path("x.csv").read_text().splitlines()[1].startswith(" + ".join(names) + ",1,")
    eleven = clean(call("search", *names[:11], "--together", "-k", "1")).stdout.splitlines()[0]
    assert eleven == " + ".join(names[:11])


def test_a_query_of_several_of_which_one_cannot_be_read_is_told_like_any_other(here: Path) -> None:
    """It had no JSON and ended with 1, unlike a query of one image."""
    Path("a: b.jpg").write_text("no image")
    shutil.copy("photos/few/00.png", "a")
    for words in (["a", "a: b.jpg", "--together"], ["a: b.jpg"]):
        done = clean(call("search", *words, "--json"), 3)
        assert json.loads(done.stdout) == {"query": f"{here}/a: b.jpg", "error": "not an image"}
        assert done.stderr == f"catdb: {here}/a: b.jpg: not an image\n"
    words = ["photos/few/00.png", "gone.png", "--together", "--json", "--html", "x.html", "--csv", "x.csv"]
    done = clean(call("search", *words), 3)
    [line] = done.stdout.splitlines()
    assert json.loads(line)["query"] == f"{here}/gone.png"
    assert f"{here}/gone.png" in Path("x.html").read_text()
    assert Path("x.csv").read_text().splitlines() == ["query,rank,similarity,path,shared"]


def test_an_image_of_a_folder_that_is_away_is_a_query_as_any_other(here: Path) -> None:
    """``mv photos renamed; catdb search photos/few/00.png`` ended with 3, and the note had its path unescaped."""
    shutil.copy("photos/few/00.png", "photos/few/a\nb.png")
    clean(call("build", "photos"))
    first = answer("photos/few/00.png", "--exact")
    os.rename("photos", "renamed")
    note = " cannot be read (no such file or directory): searched by what the database knows of it"
    found = answer("photos/few/00.png", "--exact")
    assert found == {**first, "notes": [f"{here}/photos/few/00.png{note}"]}
    words = ["photos/few/a\nb.png", "-k", "1", "--html", "x.html", "--csv", "x.csv", "--sheet", "x.png"]
    done = clean(call("search", *words))
    assert done.stderr.splitlines()[0] == f"catdb: {here}/photos/few/a\\nb.png{note}"
    assert note in Path("x.html").read_text() and Path("x.png").stat().st_size > 1000
    assert len(Path("x.csv").read_text().splitlines()) > 1
    together = answer("photos/few/00.png", "renamed/few/01.png", "--together", "--without", "photos/few/02.png")
    assert together["notes"] == [f"{here}/photos/few/{name}.png{note}" for name in ("00", "02")]
    out = clean(call("why", "photos/few/00.png", "renamed/few/00.png")).stdout.splitlines()
    assert out[2] == "   away: its file is not there now; what is stored of it is compared"
    assert "nowhere.png: no such file or directory" in clean(call("search", "photos/nowhere.png"), 3).stderr


def test_too_few_matches_come_with_what_to_do(here: Path) -> None:
    done = clean(call("search", "photos/few/00.png", "-k", "100000"))
    few = done.stdout.count("of random pairs")
    said = f"only {few} of 60 images were compared, too few for k = 100,000: search with a recall target, or exact"
    assert done.stderr == f"catdb: {said}\n"
    assert clean(call("search", "photos/few/00.png", "-k", "100000", "--exact")).stderr == ""


def test_words_are_a_query(here: Path) -> None:
    name = answer("photos/few/00.png")["categories"][0]["name"]  # type: ignore[index]
    done = clean(call("search", "--text", name, "-k", "2", "--sheet", "sheet.png"))
    assert done.stdout.splitlines()[0] == f'"{name}"'
    assert f"catdb: text is matched with the names of categories alone: {name}" in done.stderr
    found = answer("--text", name)
    assert (found["text"], found["query"]) == (name, None)


def test_queries_join_the_database(here: Path) -> None:
    (here / "new").mkdir()
    for seed in (70, 71):
        save(here / "new" / f"{seed}.png", seed)
    (here / "new" / "text.jpg").write_text("no image")
    os.utime(here / "new" / "text.jpg", (1e9, 1e9))
    done = clean(run("search", "new", "photos/few/00.png", "--add", "--json"), 3)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [found.get("added") for found in answers] == [True, True, None, False]
    assert answers[2] == {"query": f"{here}/new/text.jpg", "error": "not an image"}
    assert answers[0]["matches"][0]["path"] == f"{here}/new/70.png" and answers[0]["total"] == 62
    assert clean(call("search", "new/70.png", "--add")).stdout.splitlines()[-1].endswith("categories")
    save(here / "new" / "72.png", 72)
    assert clean(call("search", "new/72.png", "--add")).stdout.splitlines()[-1].endswith("; added")
    assert json.loads(clean(call("info", "--json")).stdout)["images"] == 63


def test_why_says_it_in_lines_and_in_json(here: Path) -> None:
    save(here / "other.png", 90)
    words = ("why", "photos/few/00.png", "photos/many/10.png")
    found = json.loads(clean(run(*words, "--json")).stdout)
    assert (found["a"]["path"], found["b"]["state"]) == (f"{here}/photos/few/00.png", "indexed")
    lines = clean(call(*words)).stdout.splitlines()
    assert lines[0] == f"A  {here}/photos/few/00.png" and lines[2] == f"B  {here}/photos/many/10.png"
    assert lines[4].startswith(f"cosine {found['similarity']:.4f}, closer than ")
    assert lines[5].startswith("they meet in ")
    default = found["a_finds_b"]["by_default"]
    assert lines[6].startswith("A finds B by default" if default else "A does not find B by default: with --probes ")
    out = clean(call("why", "other.png", "photos/few/00.png")).stdout.splitlines()
    assert out[2] == "   outside: it is in no folder of the database"
    assert out[-1] == "B does not find A, which is not in the database (outside)"
    (here / "text.jpg").write_text("no image")
    bad = clean(call("why", "photos/few/00.png", "text.jpg")).stdout.splitlines()
    assert bad[-1] == "   cannot be compared: not an image"
    assert "nowhere.png: no such file" in one_line(call("why", "nowhere.png", "photos/few/00.png"))
