"""``catdb export``, ``relocate``, ``categories`` and ``compact`` as a person types and reads them."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import pty
import shutil
import struct
import subprocess
import termios
from pathlib import Path

import numpy as np
import pytest
from conftest import CATDB, Instant, run, save

from catdb import Database
from catdb.cli.histogram import bar

Done = subprocess.CompletedProcess[str]


@pytest.fixture
def here(photos: Path, tmp_path: Path, instant: Instant, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with twelve pictures and their database."""
    photos.rename(tmp_path / "work" / "photos")
    with Database(".catdb", backbone=instant) as database:
        database.build("photos")
    return tmp_path / "work"


def one_line(done: Done, code: int = 1) -> str:
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1), done
    return done.stderr.removeprefix("catdb: ").strip()


def on_terminal(columns: int, *words: str, env: dict[str, str] | None = None) -> list[str]:
    """Return the lines that a command shows on a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    without = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    done = subprocess.run([CATDB, *words], stdout=theirs, stderr=theirs, env={**without, **(env or {})}, timeout=60)
    os.close(theirs)
    seen = os.read(ours, 65536).decode()
    os.close(ours)
    assert done.returncode == 0, seen
    return seen.splitlines()


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


# --- export ---------------------------------------------------------------------------------------------------------


def test_export_is_csv_on_stdout(here: Path) -> None:
    done = run("export")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == run("export", "--csv", "-").stdout
    found = rows(done.stdout)
    assert [row["path"] for row in found][:2] == [f"{here}/photos/0.png", f"{here}/photos/1.png"]
    assert len(found) == 12
    size = (here / "photos" / "0.png").stat().st_size
    assert (found[0]["width"], found[0]["height"], found[0]["bytes"]) == ("40", "30", str(size))
    first = json.loads(run("categories", found[0]["category_1"], "--json").stdout)["images"]
    assert {"path": found[0]["path"], "probability": 0.5} in first
    assert (found[0]["name_1"], found[0]["probability_4"]) == (f"category {found[0]['category_1'][1:]}", "0.0625")
    assert len(rows(run("export", "--vectors").stdout)[0]) == len(found[0]) + 12


def test_export_to_files_says_what_it_wrote(here: Path) -> None:
    save(here / "photos" / os.fsdecode(b"new,\n\xff.png"), 50)
    with Database(".catdb", backbone=Instant()) as database:
        database.build()
    for words in (["--csv", "table.csv"], ["--npz", "table.npz", "--vectors"]):
        done = run("export", *words)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", f"{words[1]}: 13 images\n")
    with open("table.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        named = [os.fsencode(row["path"]) for row in csv.DictReader(file)]
    with np.load("table.npz") as found:
        assert found["paths"].tolist() == named
        assert found["vectors"].shape == (13, 12)
    assert os.fsencode(here) + b"/photos/new,\n\xff.png" in named
    assert sorted(os.listdir()) == [".catdb", "photos", "table.csv", "table.npz"]


def test_npz_goes_through_a_pipe_but_not_to_a_terminal(here: Path) -> None:
    done = subprocess.run([CATDB, "export", "--npz", "-"], stdout=subprocess.PIPE, check=True, timeout=60)
    with np.load(io.BytesIO(done.stdout)) as found:
        assert len(found["paths"]) == 12
    ours, theirs = pty.openpty()
    refused = subprocess.run([CATDB, "export", "--npz", "-"], stdout=theirs, stderr=subprocess.PIPE, timeout=60)
    os.close(theirs)
    os.close(ours)
    assert refused.returncode == 2 and b"not to a terminal; name a file" in refused.stderr


def test_export_tells_what_is_wrong(here: Path) -> None:
    assert "one at a time" in run("export", "--csv", "a", "--npz", "b").stderr
    said = one_line(run("export", "--csv", "missing/a.csv"))
    assert said == f"{here}/missing/a.csv: No such file or directory; nothing was written"
    assert one_line(run("export", "--npz", "photos")) == f"{here}/photos: Is a directory"
    assert "there is no database here" in one_line(run("export", "--db", "photos"))
    done = subprocess.run(["bash", "-c", f"{CATDB} export --vectors | head -1"], capture_output=True, timeout=60)
    assert (done.stdout[:5], done.stderr) == (b"path,", b"")
    assert one_line(run("export", "--csv", "/dev/full")) == "/dev/full: No space left on device"


# --- relocate -------------------------------------------------------------------------------------------------------


def test_relocate_in_words_and_as_json(here: Path) -> None:
    shutil.copytree("photos", "disk/pictures", copy_function=shutil.copyfile)
    shutil.rmtree("photos")
    said = one_line(run("relocate", "photos", "disk"))
    assert said.startswith(f"{here}/disk: 12 of 12 sampled images of {here}/photos are not there as they were (")
    assert said.endswith("no such file or directory); nothing was changed")
    done = run("relocate", "photos", "disk/pictures")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{here}/photos -> {here}/disk/pictures: 12 images (12 of 12 sampled are the same)\n"
    assert f"{here}/disk/pictures" in run("info").stdout
    os.rename("disk", "mnt")
    done = run("relocate", "disk", "mnt", "--json")
    [folder] = json.loads(done.stdout)["moved"]
    assert folder == {
        "source": f"{here}/disk/pictures",
        "path": f"{here}/mnt/pictures",
        "images": 12,
        "sampled": 12,
        "same": 12,
    }
    assert "no folder of the database lies there or below" in one_line(run("relocate", "disk", "mnt"))


# --- categories -----------------------------------------------------------------------------------------------------


def test_categories_have_bars_on_a_terminal_and_the_same_lines_elsewhere(here: Path) -> None:
    plain = run("categories").stdout.splitlines()
    counts = [int(line.split()[0]) for line in plain]
    assert counts == sorted(counts, reverse=True) and sum(counts) == 48
    shown = on_terminal(80, "categories", env={"PYTHONIOENCODING": "utf-8"})
    assert [line[: len(told)] for line, told in zip(shown, plain, strict=True)] == plain
    bars = [line[len(told) :].strip() for line, told in zip(shown, plain, strict=True)]
    assert len(shown[0]) == 79 and set(bars[0]) == {"█"}
    for count, drawn in zip(counts, bars, strict=True):
        assert abs(len(drawn) - len(bars[0]) * count / counts[0]) <= 1
    assert on_terminal(30, "categories") == plain  # no room for one
    ascii_bars = on_terminal(80, "categories", env={"PYTHONIOENCODING": "ascii"})
    assert ascii_bars[0].endswith("####") and len(ascii_bars[0]) == 79


def test_a_bar_grows_by_eighths_and_never_is_nothing() -> None:
    blocks = [bar(count, 16, 2, in_blocks=True) for count in (16, 8, 1, 4, 9, 15)]
    assert blocks == ["██", "█", "▏", "▌", "█▏", "█▉"]
    assert bar(1, 1_000_000, 40, in_blocks=True) == "▏"
    assert [bar(count, 16, 8, in_blocks=False) for count in (16, 8, 1)] == ["########", "####", "#"]


# --- compact --------------------------------------------------------------------------------------------------------


def test_compact_says_how_much_it_wrote(here: Path) -> None:
    def unfolded() -> int:
        with Database(".catdb", mode="r") as database, database._store.snapshot() as snapshot:
            return sum(bool(load.pending or load.dead) for load in snapshot.catalog.loads())

    run("compact")
    done = run("compact")
    assert (done.returncode, done.stdout) == (0, "0 shards written: all images are in their shards already\n")
    run("remove", "photos/3.png")
    count = unfolded()
    assert count > 0
    done = run("compact")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{count} shards written\n", "")
    assert unfolded() == 0
    assert json.loads(run("compact", "--json").stdout) == {"shards": 0}
