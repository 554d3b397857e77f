"""What tools/watch does, in short, and what it has found. Run that by hand, with numbers as large as time allows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from conftest import Instant, save
from watched.tree import in_step

from catdb import Database

TOOL = Path(__file__).parents[1] / "tools" / "watch"
SEED = int(os.environ.get("CATDB_SEED") or date.today().toordinal())


def tool(*words: object) -> dict[str, str]:
    """Run tools/watch; return what it measured, by its name."""
    command = [sys.executable, str(TOOL), *map(str, words), "--seed", str(SEED)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    assert done.stdout.endswith(f"0 wrong, seed {SEED}\n")
    return dict(re.findall(r"^.{12}(.*\S) {2,}(\S.*)$", done.stdout, re.M))


def test_whatever_happens_the_index_becomes_what_the_folders_hold() -> None:
    found = tool("--operations", 300, "--kills", 1)
    assert found["differences"] == "0"
    assert int(found["images then"]) > 20


@pytest.mark.skipif(sys.platform != "linux", reason="the queue that overflows is that of inotify")
def test_a_burst_that_overflows_the_queue_of_events_is_known_whole() -> None:
    found = tool("--burst", 3000, "--frozen")
    assert (found["duplicates"], found["embedded more than once"]) == ("0", "0")


def test_what_is_removed_and_searched_beside_a_watcher_is_never_wrong() -> None:
    found = tool("--beside", 6)
    assert (found["their errors"], found["removed images that came back"]) == ("0", "0")
    assert int(found["searches in another process"].replace(",", "")) > 10


# --- what it has found ----------------------------------------------------------------------------------------------


def test_a_file_that_is_written_to_is_looked_at_under_all_its_names(
    photos: Path, open_db: Callable[..., Database], instant: Instant, tmp_path: Path
) -> None:
    """The system tells only of the name under which a file was opened, and the next rescan is minutes away."""
    os.link(photos / "0.png", photos / "below" / "other name.png")
    (photos / "link.png").symlink_to(photos / "0.png")
    db = open_db(backbone=instant)
    with db.watch(photos) as watch:
        watch.wait_idle(120)
        save(photos / "0.png", 77)
        until_in_step(db, photos)
        data = save(tmp_path / "new.png", 78).read_bytes()
        with (photos / "new.png").open("wb", buffering=0) as file:
            file.write(data[:40])
            (photos / "link to new.png").symlink_to(photos / "new.png")
            until(lambda: "link to new.png" in [Path(failure.path).name for failure in db.failures()])
            file.write(data[40:])
        until_in_step(db, photos)


def test_a_file_that_is_given_its_name_by_a_link_is_found_though_the_other_name_goes_at_once(
    photos: Path, open_db: Callable[..., Database], instant: Instant, tmp_path: Path
) -> None:
    """As programs do that must not replace a file; no close follows, and soon there is but one name."""
    parts = [save(tmp_path / f"part{number}.png", 77 + number) for number in range(30)]
    db = open_db(backbone=instant)
    with db.watch(photos) as watch:
        watch.wait_idle(120)
        for part in parts:
            os.link(part, photos / part.name)
            part.unlink()
        until_in_step(db, photos)


def test_a_folder_that_was_emptied_is_noticed_when_its_images_come_back(
    open_db: Callable[..., Database], instant: Instant, tmp_path: Path
) -> None:
    photos, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    for number in range(50):
        save(photos / "below" / f"{number}.png", number)
    db = open_db(backbone=instant)
    with db.watch(photos) as watch:
        watch.wait_idle(120)
        (photos / "below").rename(elsewhere)
        until(lambda: not db.info().roots[0].online)
        elsewhere.rename(photos / "below")
        until(lambda: db.info().roots[0].online)
        assert (len(db), instant.passes) == (50, 50)


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def until_in_step(db: Database, photos: Path) -> None:
    assert in_step(db, [photos], 120)[1] == []
