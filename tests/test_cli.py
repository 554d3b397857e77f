"""What a person types, reads and gets back. Most commands run in this process, those that could differ in their own."""

from __future__ import annotations

import csv
import errno
import fcntl
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import CATDB, Instant, child, run, save, unprivileged, without_progress
from PIL import Image

import catdb
from catdb import Database
from catdb.backbones import imagenet
from catdb.cli import cli
from catdb.reconcile import Kept

Done = subprocess.CompletedProcess[str]
ID_NAME_PROBABILITY = {"id": str, "name": str, "probability": float}
MATCH = {
    "rank": int,
    "path": str,
    "similarity": float,
    "categories": [ID_NAME_PROBABILITY],
    "percentile": type(None),  # beyond the contract, and a number from 50 images
    "id": int,  # beyond the contract
}
BUILD = {
    **dict.fromkeys(("added", "changed", "moved", "removed", "unchanged", "total"), int),
    "failed": [{"path": str, "reason": str}],
    "seconds": float,
    "kept": [{"path": str, "images": int}],  # beyond the contract
}
SEARCH = {
    "query": str,
    "categories": [ID_NAME_PROBABILITY],
    "scanned": int,
    "total": int,
    "matches": [MATCH],
    "probed": int,
    "populated": int,
    "widened": bool,
    "notes": [str],  # beyond the contract, like what follows
    "rows": int,
    "centroids": int,
    "admitted": int,
    "ceiling": type(None),
    "together": [str],
    "without": [str],
    "text": type(None),
    "added": bool,
}


def call(*words: str | Path, env: dict[str, str] | None = None) -> Done:
    """Run the command in this process, which saves the half second that a new one takes."""
    done = CliRunner().invoke(cli, [*map(str, words)], env=env, prog_name="catdb")
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(words, done.exit_code, done.stdout, without_progress(done.stderr))


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photographs in ``photos`` and their database in ``.catdb``, to be copied."""
    place = tmp_path_factory.mktemp("built") / "before"
    for seed in range(8):
        save(place / "photos" / f"{seed}.png", seed)
    save(place / "photos" / "below" / "8.png", 8)
    (place / "photos" / "text.jpg").write_text("no image")
    os.utime(place / "photos" / "text.jpg", (1e9, 1e9))
    with Database(place / ".catdb", backbone="classic") as database:
        database.build(place / "photos")
    return place.rename(place.with_name("after"))


@pytest.fixture
def here(built: Path) -> Path:
    """The current folder, with such photographs and their database: both have moved together."""
    shutil.copytree(built, ".", dirs_exist_ok=True)
    return Path.cwd()


def clean(done: Done, code: int = 0) -> Done:
    """Require the exit code, and that no traceback or control character reached the screen."""
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr + done.stdout
    assert all(c.isprintable() or c == "\n" for c in done.stdout + done.stderr)
    return done


def one_line(done: Done, code: int = 1) -> str:
    """Require a failure that says in one line on stderr what is wrong, and nothing on stdout."""
    clean(done, code)
    assert (done.stdout, done.stderr.count("\n")) == ("", 1), done
    assert done.stderr.startswith("catdb: ")
    return done.stderr[len("catdb: ") :].strip()


def parsed(done: Done, shape: Any, code: int = 0) -> list[Any]:
    """Require JSON of this shape, ASCII, an object on a line."""
    clean(done, code)
    assert done.stdout.isascii()
    objects = [json.loads(line) for line in done.stdout.splitlines()]
    for found in objects:
        fits(found, shape)
    return objects


def fits(found: Any, shape: Any) -> None:
    if isinstance(shape, dict):
        assert isinstance(found, dict) and set(found) == set(shape), (found, shape)
        for key, inner in shape.items():
            fits(found[key], inner)
            if key in ("path", "query"):
                assert os.path.isabs(found[key])
    elif isinstance(shape, list):
        assert isinstance(found, list)
        for item in found:
            fits(item, shape[0])
    else:
        assert type(found) is shape, (found, shape)


# --- build ----------------------------------------------------------------------------------------------------------


def test_build_and_build_again(photos: Path) -> None:
    first = clean(run("build", photos, "--backbone", "classic"))
    assert first.stdout.startswith("12 added, 0 changed, 0 moved, 0 removed, 0 unchanged, 0 failed; 12 images (")
    assert Path(".catdb/catalog.sqlite").exists()
    again = clean(run("build"))
    assert again.stdout.startswith("0 added, 0 changed, 0 moved, 0 removed, 12 unchanged, 0 failed; 12 images (")
    assert again.stderr == ""


def test_build_json_is_as_agreed(photos: Path) -> None:
    (photos / "text.jpg").write_text("no image")
    os.utime(photos / "text.jpg", (1e9, 1e9))
    done = run("build", photos, "--backbone", "classic", "--json", "-j", "2")
    [report] = parsed(done, BUILD, 3)
    assert (report["added"], report["total"]) == (12, 12)
    assert report["failed"] == [{"path": str(photos / "text.jpg"), "reason": "not an image"}]
    assert done.stderr == f"failed: {photos}/text.jpg: not an image\n"
    [report] = parsed(run("build", photos, "--json"), BUILD, 3)
    assert (report["added"], report["unchanged"], len(report["failed"])) == (0, 12, 1)


def test_a_folder_that_is_away_is_kept_and_said(here: Path) -> None:
    clean(call("build"), 3)  # which takes note of where the folder lies now
    (here / "photos").rename(here / "away")
    done = call("build", "--json")
    [report] = parsed(done, BUILD)
    assert report["kept"] == [{"path": str(here / "photos"), "images": 9}]
    assert done.stderr == (
        f"away: {here}/photos: its 9 missing images are kept and can be searched still; "
        "catdb build --prune drops them\n"
    )
    assert " offline " in f" {clean(call('info')).stdout}".replace("\n", " \n ")
    assert clean(call("build", "--prune")).stdout.startswith("0 added, 0 changed, 0 moved, 9 removed")
    assert clean(call("build")).stderr == ""
    assert Kept("/x", 1).line == "its 1 missing image is kept and can be searched still; catdb build --prune drops it"


def test_the_current_folder_with_its_database_in_it(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    assert clean(call("build", ".", "--backbone", "classic")).stdout.startswith("12 added")
    assert clean(call("build", ".")).stdout.startswith("0 added, 0 changed, 0 moved, 0 removed, 12 unchanged")
    assert f"12 images  {photos}\n" in clean(call("info")).stdout


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(photos: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    (photos / "text.jpg").write_text("no image")
    os.utime(photos / "text.jpg", (1e9, 1e9))
    done = subprocess.run(
        [CATDB, "build", photos, "--backbone", "classic"], stdout=subprocess.PIPE, stderr=theirs, timeout=60
    )
    os.close(theirs)
    seen = os.read(ours, 65536).decode()
    os.close(ours)
    assert done.stdout.startswith(b"12 added")
    assert "\rreading:   0%" in seen and "| 0/13 [" in seen and "\rfolding" in seen
    assert seen.endswith(f"\rfailed: {photos}/text.jpg: not an image\r\n")


def test_excludes_are_remembered_and_shown(here: Path) -> None:
    assert "1 removed" in clean(call("build", "--exclude", "below", "--exclude", "*.gif"), 3).stdout
    assert "excluded: *.gif\nexcluded: below\n" in clean(call("info")).stdout
    assert "0 added" in clean(call("build"), 3).stdout
    assert "1 added" in clean(call("build", "--include", "below"), 3).stdout
    assert "*.png was not excluded" in clean(call("build", "--include", "*.png"), 3).stderr


def test_build_without_anything_to_build_is_a_usage_error() -> None:
    done = clean(call("build"), 2)
    assert "name the folders to build it from" in done.stderr
    assert not Path(".catdb").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere: no such file or folder; nothing was changed"),
        (["photos", "--backbone", "mobilnet_v2"], "no backbone is called 'mobilnet_v2'; near: mobilenet_v2, "),
        (["photos", "--backbone", "classic", "--weights", "w.h5"], "classic has no weights"),
        (["photos", "--backbone", "mobilenet_v2", "--weights", "nowhere.h5"], "nowhere.h5: No such file"),
        (["photos", "--db", "photos"], "a folder with other files in it, and no database"),
        (["photos", "--db", "photos/1.png"], "1.png: Not a directory; a database is a folder of its own"),
    ],
)
def test_a_build_that_cannot_be_done_writes_nothing(words: list[str], said: str, photos: Path) -> None:
    photos.rename("photos")
    Path("w.h5").write_bytes(b"weights")
    before = sorted(Path().rglob("*"))
    assert said in one_line(call("build", *words))
    assert sorted(Path().rglob("*")) == before


def test_weights_that_cannot_be_had_write_nothing(photos: Path) -> None:
    unreachable = {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    done = clean(run("build", photos, "--backbone", "mobilenet_v2", env=unreachable), 1)
    trying, said = done.stderr.splitlines()
    assert (trying, done.stdout) == ("catdb: downloading the weights of mobilenet_v2", "")
    assert "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5" in said
    assert "--weights FILE" in said and "classic needs no weights" in said
    assert list(Path().iterdir()) == []


def test_another_backbone_than_the_databases_is_refused(here: Path) -> None:
    assert "was built with classic, not vgg16" in one_line(call("build", "photos", "--backbone", "vgg16"))
    assert "classic has no weights" in one_line(call("build", "--weights", "w.h5"))
    clean(call("build", "--backbone", "classic"), 3)


# --- interrupted ----------------------------------------------------------------------------------------------------

STUCK = """
import os, signal, sys
import {module}
real = {module}.{name}
def stuck(*arguments, **options):
    os.write(1, b"x")
    signal.pause()
{module}.{name} = stuck
from catdb.cli import main
main()
"""


@pytest.mark.parametrize(
    ("where", "module", "name"),
    [
        ("loading", "catdb.backbones", "load"),
        ("finding", "catdb.reconcile", "_look"),
        ("embedding", "catdb.backbones", "Engine.submit"),
        ("committing", "catdb.store", "Store.commit"),
        ("folding", "catdb.store", "Store._fold_group"),
    ],
)
def test_an_interruption_at_any_moment_is_one_line_and_130(where: str, module: str, name: str, photos: Path) -> None:
    script = STUCK.format(module=module, name=name)
    with child(script, "build", photos, "--backbone", "classic") as stuck:
        assert stuck.stdout and stuck.stdout.read(1) == "x"
        stuck.send_signal(signal.SIGINT)
        out, err = stuck.communicate(timeout=120)
    assert (stuck.returncode, out) == (130, ""), err
    assert err == "catdb: interrupted; what was committed is safe, the same command goes on from there\n"
    assert Path(".catdb").exists() == (where != "loading")
    done = clean(run("build", photos, "--backbone", "classic"))
    assert done.stdout.startswith("12 added" if where != "folding" else "0 added")
    assert clean(run("check")).stdout == "all is well\n"
    assert "0 memberships wait" in clean(run("info")).stdout


def test_an_interruption_while_the_command_line_is_loaded_is_silence_and_130(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was a traceback through the imports."""
    stuck = tmp_path / "stuck"
    stuck.mkdir()
    (stuck / "click.py").write_text("import os, signal\nos.write(1, b'x')\nsignal.pause()\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(stuck), str(Path(catdb.__file__).parents[1])]))
    with child("import runpy\nrunpy.run_module('catdb', run_name='__main__')") as process:
        assert process.stdout and process.stdout.read(1) == "x"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (130, "", "")


LATE = """
import os, runpy, signal, sys
class Late:
    def __del__(self, kill=os.kill, own=os.getpid(), number=signal.SIGINT):
        kill(own, number)
late = Late()
runpy.run_module("catdb", run_name="__main__", alter_sys=True)
"""


def test_an_interruption_when_all_is_done_changes_no_exit_code(here: Path) -> None:
    """While Python took itself down it was the signal that ended an export, of which the table was there."""
    with child(LATE, "export", "--csv", "table.csv") as process:
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (0, "", "table.csv: 9 images\n")


def test_an_interrupted_build_resumes(photos: Path) -> None:
    script = f"import catdb.backbones\ncatdb.backbones.BATCH = 4\ncalls = 0\n{STUCK}".format(
        module="catdb.backbones.classic", name="Classic.embed"
    ).replace(
        '    os.write(1, b"x")',
        '    global calls\n    calls += 1\n    if calls < 4: return real(*arguments)\n    os.write(1, b"x")',
    )
    with child(script, "build", photos, "--backbone", "classic") as stuck:
        assert stuck.stdout and stuck.stdout.read(1) == "x"
        stuck.send_signal(signal.SIGINT)
        stuck.communicate(timeout=120)
    assert stuck.returncode == 130
    assert clean(run("build")).stdout.startswith("4 added, 0 changed, 0 moved, 0 removed, 8 unchanged")


# --- search ---------------------------------------------------------------------------------------------------------


def test_search_says_what_it_found_and_what_it_searched(here: Path) -> None:
    done = clean(call("search", "photos/3.png", "-k", "2"))
    lines = done.stdout.splitlines()
    assert (lines[0], done.stderr) == (f"{here}/photos/3.png", "")
    assert lines[1].count("%") == 4 and " · " in lines[1]
    assert lines[2].startswith(f"   1  1.0000  {here}/photos/3.png  ")
    assert lines[-1].startswith("  searched ") and " of 9 images in 4 of " in lines[-1]
    assert len(lines) == 5


def test_search_json_is_as_agreed(here: Path) -> None:
    save(here / "naïve\n.png", 3)
    answers = parsed(run("search", "photos/3.png", "naïve\n.png", "--json", "-k", "4", "--exact"), SEARCH)
    assert [answer["query"] for answer in answers] == [f"{here}/photos/3.png", f"{here}/naïve\n.png"]
    for answer in answers:
        assert [match["rank"] for match in answer["matches"]] == [1, 2, 3, 4]
        assert answer["matches"][0]["path"] == f"{here}/photos/3.png"
        assert (answer["scanned"], answer["total"]) == (9, 9)
        assert len(answer["categories"]) == 4 == len(answer["matches"][0]["categories"])


def test_a_bad_query_among_good_ones_is_told_and_costs_nothing_else(here: Path) -> None:
    words = ["search", "photos/3.png", "photos/text.jpg", "nowhere.png", "photos/4.png", "-k", "1"]
    done = clean(run(*words, "--json"), 3)
    objects = [json.loads(line) for line in done.stdout.splitlines()]
    assert [set(found) == {"query", "error"} for found in objects] == [False, True, True, False]
    assert objects[1] == {"query": f"{here}/photos/text.jpg", "error": "not an image"}
    assert objects[2] == {"query": f"{here}/nowhere.png", "error": "no such file or directory"}
    assert done.stderr.splitlines() == [
        f"catdb: {here}/photos/text.jpg: not an image",
        f"catdb: {here}/nowhere.png: no such file or directory",
    ]
    text = clean(run(*words), 3)
    assert "nowhere" not in text.stdout and text.stderr == done.stderr


def test_a_folder_is_searched_with_every_image_in_it(here: Path) -> None:
    answers = [json.loads(line) for line in clean(call("search", "photos", "--json"), 3).stdout.splitlines()]
    assert [os.path.relpath(answer["query"], here / "photos") for answer in answers] == [
        *(f"{n}.png" for n in range(8)),
        "text.jpg",
        "below/8.png",
    ]
    (here / "empty").mkdir()
    assert one_line(call("search", "empty")) == "no image to search with in empty"


def test_a_folder_that_cannot_be_listed_is_told(here: Path) -> None:
    (here / "queries").mkdir()
    save(here / "queries" / "a.png", 3)
    (here / "queries" / "closed").mkdir(mode=0)
    done = subprocess.run(
        [CATDB, "search", "queries", "--json"], preexec_fn=unprivileged, capture_output=True, text=True, timeout=60
    )
    clean(done, 3)
    good, told = [json.loads(line) for line in done.stdout.splitlines()]
    assert good["query"] == f"{here}/queries/a.png"
    assert told == {"query": f"{here}/queries/closed", "error": "permission denied"}


def test_csv_has_a_line_for_each_match(here: Path) -> None:
    odd = os.fsdecode(b'comma, "quote"\n\xff.png')
    save(here / "photos" / odd, 20)
    clean(call("add", f"photos/{odd}"))
    clean(call("search", "photos/3.png", f"photos/{odd}", "photos/text.jpg", "-k", "2", "--csv", "out.csv"), 3)
    with open("out.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["query", "rank", "similarity", "path", "shared"]
    assert [(row["query"], row["rank"]) for row in rows] == [
        (f"{here}/photos/{name}", rank) for name in ("3.png", odd) for rank in ("1", "2")
    ]
    assert (rows[2]["path"], rows[2]["similarity"][:5]) == (f"{here}/photos/{odd}", "1.000")
    assert rows[2]["shared"].count(",") == 3


def test_a_sheet_is_a_picture_of_sensible_size(here: Path) -> None:
    done = clean(call("search", "photos/3.png", "photos/4.png", "--sheet", "sheet.png"))
    assert done.stderr == f"contact sheet: {here}/sheet.png\n"
    with Image.open("sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert 800 < sheet.width < 2500 and 400 < sheet.height < 3000


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--sheet", "missing/s.png"], 1, "/missing: No such file or directory"),
        (["--csv", "missing/s.csv"], 1, "/missing: No such file or directory"),
        (["--sheet", "photos"], 1, "photos: Is a directory"),
        (["--csv", "photos"], 1, "photos: Is a directory"),
        (["--csv", "-"], 2, "- is no file to write to"),  # it made a file of that name
        (["--html", "photos/5.png"], 1, "/photos/5.png: an image of the database; name another file to write"),
        (["--sheet", "photos/5.png"], 1, "/photos/5.png: an image of the database"),  # it was overwritten
        (["--csv", "photos/5.png"], 1, "/photos/5.png: an image of the database"),
        (["--sheet", "s.gif"], 2, "written as .png or .jpg"),
        (["-k", "0"], 2, "Invalid value for '-k'"),
        (["--probes", "x"], 2, "Invalid value for '--probes'"),
        (["--nearest"], 2, "--nearest"),
    ],
)
def test_what_cannot_be_written_is_known_before_the_work(words: list[str], code: int, said: str, here: Path) -> None:
    done = clean(call("search", "photos/3.png", *words), code)
    assert done.stdout == ""
    assert said in done.stderr
    assert code == 2 or done.stderr.count("\n") == 1


def test_no_command_writes_over_a_photograph(here: Path) -> None:
    before = Path("photos/5.png").read_bytes()
    for words in (
        ["duplicates", "--csv"],
        ["duplicates", "--html"],
        ["recall", "-k", "3", "--plot"],
        ["export", "--npz"],
    ):
        assert one_line(call(*words, "photos/5.png")).endswith(": an image of the database; name another file to write")
    Path("link").symlink_to("photos/5.png")  # a link is kept, and what it leads to was overwritten
    for words in (["search", "photos/3.png", "--csv"], ["export", "--csv"]):
        assert one_line(call(*words, "link")).endswith("/link: an image of the database; name another file to write")
    assert Path("photos/5.png").read_bytes() == before


def test_a_pipe_is_written_to_as_it_is_whatever_its_folder(here: Path) -> None:
    """A shell names a pipe /dev/fd/63; there no file can be made, and where it really lies there is none to be seen."""
    search = [CATDB, "search", "photos/3.png", "-k", "2", "--csv"]
    for script in ('"$@" >(cat >&2) >/dev/null', '"$@" /dev/stderr >/dev/null 2> >(cat >&2)'):
        words = ["bash", "-c", f"{script}; wait", "bash", *search]
        done = subprocess.run(words, preexec_fn=unprivileged, stderr=subprocess.PIPE, text=True, timeout=60)
        assert done.stderr.splitlines()[0] == "query,rank,similarity,path,shared"
        assert len(done.stderr.splitlines()) == 3
    Path("closed").mkdir()
    os.mkfifo("closed/pipe")
    Path("closed").chmod(0o555)
    with open(os.open("closed/pipe", os.O_RDONLY | os.O_NONBLOCK)) as pipe:
        clean(subprocess.run([*search, "closed/pipe"], preexec_fn=unprivileged, capture_output=True, text=True))
        assert pipe.readline() == "query,rank,similarity,path,shared\n"


@pytest.mark.parametrize("words", ["search photos/3.png --csv", "duplicates --csv", "recall -k 3 --plot"])
def test_a_table_or_curve_that_cannot_be_written_is_named_and_leaves_the_old_one(
    words: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a full disk no file was named, and half of one lay in place of the old one."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    Path("out").write_text("the old one")
    monkeypatch.setattr(os, "fsync", full)
    done = clean(call(*words.split(), "out"), 1)
    assert done.stderr == "catdb: out: No space left on device; nothing was written\n"
    assert Path("out").read_text() == "the old one" and list(Path().glob("out.*")) == []


def test_a_device_that_takes_no_more_is_named(here: Path) -> None:
    """Of a file that is replaced it was, of a device there was the reason alone."""
    for words in ("search photos/3.png --csv", "duplicates --csv", "export --npz", "recall -k 3 --plot"):
        done = clean(call(*words.split(), "/dev/full"), 1)
        assert done.stderr == "catdb: /dev/full: No space left on device\n", words


@pytest.mark.parametrize("name", ["curve.txt", "curve.pdf", "c.png.jpg"])
def test_a_curve_is_written_as_png_alone(name: str, here: Path) -> None:
    """It was written as PNG under whatever name."""
    done = clean(call("recall", "-k", "3", "--plot", name), 2)
    assert f"--plot {name}: a curve is written as .png" in done.stderr and not Path(name).exists()


@pytest.mark.parametrize(
    "words",
    [
        *(["search", "x.png", option, "nan"] for option in ("--recall", "--min-similarity")),
        *(["watch", option, "nan"] for option in ("--rescan", "--alert", "--wait")),
        ["duplicates", "--similarity", "nan"],
    ],
)
def test_what_is_no_number_is_wrong_usage(words: list[str]) -> None:
    """It is in every range for whoever compares with the ends, and was a traceback or taken."""
    assert "'nan' is not a number" in clean(call(*words), 2).stderr


def test_no_database_is_one_line_and_what_to_do(photos: Path) -> None:
    for words in (
        ["search", str(photos / "1.png")],
        ["info"],
        ["categories"],
        ["failures"],
        ["check"],
        ["check", "--repair"],
        ["compact"],
        ["remove", str(photos)],
    ):
        said = one_line(call(*words))
        assert said == "there is no .catdb here or above: name one with --db, or make one with catdb build", words
    assert one_line(call("info", "--db", "x")) == "x: there is no database here; catdb build makes one"
    assert list(Path().iterdir()) == []


def test_a_closed_pipe_ends_it_without_a_word(here: Path) -> None:
    names = " ".join(f"photos/{n % 8}.png" for n in range(400))
    done = subprocess.run(
        ["bash", "-c", f"{CATDB} search {names} -k 1 --json | head -1"], capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    assert json.loads(done.stdout)["query"] == f"{here}/photos/0.png"


def test_no_file_takes_the_place_of_a_stream_that_is_closed() -> None:
    """What a library writes to stderr went into whichever file was opened first: the database's lock, for instance."""
    script = """
import contextlib, os
from catdb.__main__ import main
with contextlib.suppress(SystemExit):
    main()
os._exit(sum(not os.path.samestat(os.fstat(number), os.stat(os.devnull)) for number in range(3)))
"""
    command = ["bash", "-c", '"$@" <&- >&- 2>&-', "bash", sys.executable, "-c", script, "--version"]
    assert subprocess.run(command, timeout=60).returncode == 0


def test_closed_streams_do_no_harm(photos: Path) -> None:
    command = f"{CATDB} build '{photos}' --backbone classic >&- 2>&-"
    assert subprocess.run(["bash", "-c", command], timeout=60).returncode == 0
    assert "12 images" in clean(run("info")).stdout
    for words, code, said in (("categories", 0, ""), ("export", 2, "stdout is closed; name a file")):  # tracebacks
        done = subprocess.run(["bash", "-c", f"{CATDB} {words} >&-"], stderr=subprocess.PIPE, text=True, timeout=60)
        assert done.returncode == code and said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="takes a device that is always full")
@pytest.mark.parametrize("words", ["--help", "--version", "search --help"])
def test_help_that_cannot_be_written_is_one_line(words: str) -> None:
    done = subprocess.run(["bash", "-c", f"{CATDB} {words} >/dev/full"], stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "catdb: No space left on device\n")


# --- which database -------------------------------------------------------------------------------------------------


def test_the_nearest_database_upwards_is_used(here: Path) -> None:
    (here / "photos" / "below" / "deep").mkdir()
    for folder in (here, here / "photos", here / "photos" / "below" / "deep"):
        assert clean(run("info", cwd=folder)).stdout.startswith(f"{here}/.catdb: 9 images in ")


def test_db_and_the_environment_name_another(here: Path) -> None:
    (here / ".catdb").rename(here / "named.catdb")
    (here / "sub").mkdir()
    inside = {"CATDB_DB": str(here / "named.catdb")}
    assert clean(run("info", env=inside, cwd=here / "sub")).stdout.startswith(f"{here}/named.catdb: 9 images")
    assert clean(run("info", "--db", "named.catdb")).stdout.startswith(f"{here}/named.catdb: 9 images")
    assert clean(run("search", "--db", "named.catdb", "photos/1.png")).stdout
    assert clean(run("search", "photos/1.png", "--db=named.catdb")).stdout
    assert "x: there is no database" in one_line(run("info", "--db", "x", env=inside))
    assert "--db" in clean(run("--db", "named.catdb", "info"), 2).stderr


def test_an_empty_name_is_no_database(here: Path) -> None:
    """Of a shell variable that is not set: the nearest database was taken for it, and lost what was to be removed."""
    said = clean(call("remove", "photos", "--db", ""), 2).stderr
    assert "--db is empty: name the database directory, or leave --db out" in said
    with Database(".catdb", mode="r") as database:
        assert len(database) == 9


def test_build_takes_the_database_from_the_environment(photos: Path, tmp_path: Path) -> None:
    clean(run("build", photos, "--backbone", "classic", env={"CATDB_DB": str(tmp_path / "mine")}))
    assert (tmp_path / "mine" / "catalog.sqlite").exists()
    assert list(Path().iterdir()) == []


# --- the other commands ---------------------------------------------------------------------------------------------


def test_info_in_words_and_as_json(here: Path) -> None:
    lines = clean(call("info")).stdout.splitlines()
    assert lines[1] == "backbone classic, 502 dimensions (classic, f32)" or lines[1].startswith("backbone classic, ")
    assert lines[2] == "0 memberships wait to be folded, 1 file could not be read"
    assert lines[3] == "not watched"
    assert re.fullmatch(r"online +reconciled \d{4}-\d\d-\d\d \d\d:\d\d:\d\d +9 images  (.+)", lines[4])
    assert lines[4].endswith(f"  {here}/photos")
    [info] = [json.loads(line) for line in clean(call("info", "--json")).stdout.splitlines()]
    contract = {
        **dict.fromkeys(("images", "failed", "categories", "bytes"), int),
        **dict.fromkeys(("backbone", "engine", "precision"), str),
        "weights_sha256": type(None),
        "roots": list,
    }
    for key, kind in contract.items():
        assert type(info[key]) is kind, key
    assert (info["images"], info["failed"], info["backbone"]) == (9, 1, "classic")
    assert info["roots"][0]["path"] == f"{here}/photos" and info["roots"][0]["online"] is True


def test_failures_in_words_and_as_json(here: Path) -> None:
    assert clean(call("failures")).stdout == f"{here}/photos/text.jpg: not an image\n"
    [found] = parsed(call("failures", "--json"), {"failures": [{"path": str, "reason": str}]})
    assert found == {"failures": [{"path": f"{here}/photos/text.jpg", "reason": "not an image"}]}


def test_categories_in_words_and_as_json(here: Path) -> None:
    [listed] = parsed(call("categories", "--json"), {"categories": [{"id": str, "name": str, "images": int}]})
    fullest = listed["categories"][0]
    assert sum(category["images"] for category in listed["categories"]) == 36
    lines = clean(call("categories")).stdout.splitlines()
    assert lines[0].split(None, 2) == [str(fullest["images"]), fullest["id"], fullest["name"]]
    [inside] = parsed(call("categories", fullest["id"], "--json"), {"images": [{"path": str, "probability": float}]})
    assert len(inside["images"]) == fullest["images"]
    assert clean(call("categories", fullest["name"])).stdout.count("\n") == fullest["images"]


def test_categories_that_share_a_name(photos: Path) -> None:
    class Network(Instant):
        backbone = "mobilenet_v2"
        categories = imagenet()
        weights_sha256 = "00" * 32

    with Database(".catdb", backbone=Network()) as database:
        database.build(photos)
    assert one_line(call("categories", "crane")) == (
        "2 categories are called 'crane': n02012849, n03126707; give the id"
    )
    assert "n03710637, n03710721" in one_line(call("categories", "maillot"))
    assert clean(call("categories", "n02012849")).stdout == ""
    by_name = clean(call("categories", "great_white_shark")).stdout
    assert (
        by_name
        == clean(call("categories", "Great White Shark")).stdout
        == clean(call("categories", "n01484850")).stdout
    )
    assert by_name.count("\n") > 0
    assert "near: n01614925 bald eagle" in one_line(call("categories", "eagle"))


def test_a_removed_path_stays_out_until_it_is_added(here: Path) -> None:
    assert clean(call("remove", "photos/3.png", "photos/below")).stdout == "2 removed; 7 images\n"
    assert clean(call("build", "photos"), 3).stdout.startswith("0 added")
    done = clean(call("build", "photos/3.png"))
    assert done.stderr == f"catdb: {here}/photos/3.png was removed by hand and stays out; catdb add takes it back\n"
    assert clean(call("add", "photos/3.png", "photos/below")).stdout.startswith("2 added")
    assert "no such file or folder; nothing was removed" in one_line(call("remove", "photos/typo.png"))
    assert "in no folder of the database" in one_line(call("remove", "/etc"))
    assert "no such file or folder; nothing was changed" in one_line(call("add", "photos/typo.png"))


def test_a_name_that_looks_like_an_option(here: Path) -> None:
    save(here / "photos" / "-k.png", 30)
    assert "1 added" in clean(run("add", "--", "-k.png", cwd=here / "photos")).stdout
    assert clean(run("search", "-k", "1", "--", "-k.png", cwd=here / "photos")).stdout.count("-k.png") == 2


def test_check_repair_and_compact(here: Path) -> None:
    assert clean(call("check")).stdout == "all is well\n"
    assert (
        parsed(call("check", "--json"), {"ok": bool, "problems": [str], "leftovers": [str], "repaired": [str]})[0]["ok"]
        is True
    )
    shard = next(Path(".catdb/shards").rglob("*.h5"))
    shard.write_bytes(shard.read_bytes()[:-9])
    told = clean(call("check"), 1).stdout
    assert told.startswith("shard: ") and str(shard) in told and "catdb check --repair" in told
    problem = {"kind": str, "where": str, "detail": str}
    lists = {"leftovers": [str], "repaired": [str]}
    [found] = parsed(call("check", "--json"), {"ok": bool, "problems": [problem], **lists}, 1)
    assert found["ok"] is False and len(found["problems"]) >= 1
    done = clean(call("search", "photos/3.png", "--exact", "--json"))
    assert "is damaged: read from the catalog; run catdb check --repair" in done.stderr
    repaired = clean(call("check", "--repair"))
    assert repaired.stdout == "all is well\n"
    assert repaired.stderr == "catdb: shards made anew from the catalog: 1\n"
    save(here / "photos" / "new.png", 40)
    clean(call("build"), 3)
    assert clean(call("compact")).stdout in (
        "1 shard written\n",
        "2 shards written\n",
        "3 shards written\n",
        "4 shards written\n",
    )
    assert "0 memberships wait" in clean(call("info")).stdout


BACKUP = {
    "path": str,
    "images": int,
    "shards": int,
    "bytes": int,
    "linked": int,
    "seconds": float,
    "damaged": [str],  # beyond the contract
}


def test_backup(here: Path) -> None:
    words = clean(call("backup", "copies/monday")).stdout
    count = len(list(Path(".catdb/shards").rglob("*.h5")))
    assert words.startswith(f"{here}/copies/monday: 9 images, {count} shards, ") and words.endswith(" s)\n")
    [found] = parsed(call("backup", "copies/tuesday", "--link", "--json"), BACKUP)
    assert (found["path"], found["images"]) == (f"{here}/copies/tuesday", 9)
    assert (found["shards"], found["linked"], found["damaged"]) == (count, count, [])
    asked = ("search", "photos/3.png", "--exact", "--json")
    expected = clean(call(*asked)).stdout
    for copy in ("copies/monday", "copies/tuesday"):
        assert clean(call("check", "--db", copy)).stdout == "all is well\n"
        assert clean(call(*asked, "--db", copy)).stdout == expected
        assert clean(call("build", "--db", copy), 3).stdout.startswith("0 added, 0 changed, 0 moved, 0 removed, 9 unch")
    assert one_line(call("backup", "copies/monday")).endswith(
        "/copies/monday: there is a database already; name a new folder for the backup"
    )
    assert one_line(call("backup", "photos")).endswith("other files in it; name a new folder for the backup")
    assert "inside the database" in one_line(call("backup", ".catdb/copy"))
    assert "there is no database here" in one_line(call("backup", "copies/x", "--db", "photos"))
    assert sorted(os.listdir("copies")) == ["monday", "tuesday"]


@pytest.mark.damaged
def test_backup_of_a_damaged_shard_says_so(here: Path) -> None:
    shard = next(Path(".catdb/shards").rglob("*.h5"))
    shard.write_bytes(shard.read_bytes()[:-9])
    done = clean(call("backup", "copy", "--json"))
    name = shard.parent.name
    assert done.stderr == (
        f"catdb: the shard of {name} is damaged: made anew in the backup; run catdb check --repair here\n"
    )
    assert json.loads(done.stdout)["damaged"] == [name]
    assert clean(call("check", "--db", "copy")).stdout == "all is well\n"
    clean(call("check", "--repair"))


def test_a_database_in_use_names_who_uses_it(here: Path) -> None:
    with Database(".catdb")._store.writing():
        script = "import catdb.database, sys\nfrom catdb.cli import main\nreal = catdb.database.Store\n"
        script += "catdb.database.Store = lambda path, **o: real(path, **{**o, 'wait': 0.1})\nmain()\n"
        done = subprocess.run(
            [sys.executable, "-c", script, "remove", "photos/1.png"], capture_output=True, text=True, timeout=60
        )
        assert f"process {os.getpid()}" in one_line(done)
        assert clean(call("search", "photos/1.png")).stdout  # readers do not wait


@pytest.mark.damaged
def test_what_is_no_database_is_one_line(here: Path) -> None:
    Path(".catdb/catalog.sqlite").write_bytes(b"rubbish" * 1000)
    for words in (["info"], ["search", "photos/1.png"], ["build", "photos"], ["check"]):
        assert ".catdb/catalog.sqlite: " in one_line(call(*words)), words


# --- names and terminals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env", [{"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONUTF8": "0", "LC_ALL": "C"}])
def test_odd_names_are_printed_on_any_terminal(env: dict[str, str], photos: Path) -> None:
    names = ["naïve 写真.png", "esc\x1b[31m.png", "line\nbreak.png", os.fsdecode(b"\xff\xfe.png"), " .png"]
    for seed, name in enumerate(names):
        save(photos / name, 60 + seed)
    os.utime(save(photos / "bad\x1b]0;x\x07.jpg", 1), (1e9, 1e9))
    (photos / "bad\x1b]0;x\x07.jpg").write_text("text")
    done = clean(run("build", photos, "--backbone", "classic", env=env), 3)
    assert "bad\\x1b]0;x\\x07.jpg" in done.stderr
    found = clean(run("search", *(f"{photos}/{name}" for name in names), "-k", "1", env=env)).stdout
    assert found.count("   1  ") == 5
    assert "esc\\x1b[31m.png" in found and "line\\nbreak.png" in found
    answers = parsed(run("search", *(f"{photos}/{name}" for name in names), "-k", "1", "--json", env=env), SEARCH)
    found_paths = [os.fsencode(answer["matches"][0]["path"]) for answer in answers]
    assert found_paths == [os.fsencode(photos / name) for name in names]


def test_version_help_and_unknown_words() -> None:
    assert clean(call("--version")).stdout.startswith("catdb 0.")
    listed = clean(call("--help")).stdout
    assert "..." not in listed.split("Commands:")[1]  # each in a line, whole
    for command in ("build", "search", "add", "remove", "info", "categories", "failures", "check", "compact", "demo"):
        assert f"\n  {command} " in listed
        assert "Usage: catdb " + command in clean(call(command, "--help")).stdout
    for words in (["buidl"], ["info", "--jsn"], ["search"], ["add"], ["remove"]):
        assert clean(call(*words), 2).stdout == ""


def test_nothing_but_data_is_on_stdout(photos: Path) -> None:
    done = clean(run("build", photos, "--backbone", "classic", "--json"))
    assert done.stdout.count("\n") == 1 and json.loads(done.stdout)
    for words in (["info", "--json"], ["categories", "--json"], ["failures", "--json"], ["check", "--json"]):
        assert isinstance(json.loads(clean(run(*words)).stdout), dict)


def test_the_waiting_time_for_another_writer_is_an_option(tmp_path: Path, photos: Path, instant: Instant) -> None:
    with Database(tmp_path / "db", backbone=instant) as database:
        database.build(photos)
        with database._store.writing():
            for words in (["remove", photos / "1.png"], ["compact"], ["check", "--repair"], ["add", photos], ["build"]):
                done = run(*words, "--db", tmp_path / "db", "--wait", "0")
                assert done.returncode == 1 and f"(process {os.getpid()} on " in done.stderr, words
                assert len(done.stderr.splitlines()) == 1
