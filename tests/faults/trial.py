"""Power losses, many of them, each verified.

``python -m faults.trial LOG COUNT SEED FIRST LAST`` prints a line for each of these losses, as JSON.
The states are laid out in memory where the system has a place for that, for what is forced to a disk here is of no
interest. One process verifies many; where a state is the end of it, another goes on behind it.
"""

from __future__ import annotations

import faulthandler
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from catdb import shard
from faults.driver import PATIENCE, scratch
from faults.journal import Content
from faults.library import environment, read_log
from faults.powerloss import Loss, lay_out, losses
from faults.verify import verify
from faults.workload import DATABASE

_TESTS = str(Path(__file__).parents[1])
_FOLDED = 5  # every so many states, everything is folded as well: HDF5 takes as long for that as all the rest does


def record(folder: Path, library: Path, *mutants: str) -> Path:
    """Have the workload recorded, by catdb or a mutant of it; return the log. What was left of it is ``folder/top``."""
    log = folder / "log"
    with tempfile.TemporaryDirectory(dir=scratch()) as top:
        with _begin("faults.workload", top, *mutants, env=environment(library, dir=top, log=log)) as process:
            process.communicate()
        if process.returncode:
            raise RuntimeError(f"the workload ended with {process.returncode}")
        shutil.copytree(top, folder / "top")
    return log


def verdicts(log: Path, count: int, seed: int, part: range | None = None) -> Iterator[str]:
    """Yield what is wrong after each of ``count`` power losses, or a part of them; "" where nothing is."""
    place, last = (part.start, part.stop) if part else (0, count)
    while place < last:
        with _begin("faults.trial", log, count, seed, place, last) as process:
            assert process.stdout
            try:
                for line in process.stdout:
                    place += 1
                    yield json.loads(line)
            finally:
                process.kill()
        if process.returncode > 0:
            raise RuntimeError(f"the trial of power loss {place} failed, or took more than {PATIENCE:.0f} s")
        if place < last:
            yield f"power loss {place}: the process that opened it was killed by signal {-process.returncode}"
            place += 1


def all_verdicts(log: Path, count: int, seed: int, jobs: int) -> list[str]:
    """Return the verdicts of all power losses, from so many processes."""
    parts = [range(count * job // jobs, count * (job + 1) // jobs) for job in range(jobs)]
    with ThreadPoolExecutor(jobs) as pool:
        return [text for part in pool.map(lambda part: list(verdicts(log, count, seed, part)), parts) for text in part]


def _begin(module: str, *words: object, env: Mapping[str, str] = os.environ) -> subprocess.Popen[str]:
    paths = os.pathsep.join([_TESTS, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", module, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**env, "PYTHONPATH": paths})


def verdict(loss: Loss, place: Path) -> str:
    """Lay the state of a power loss out in a new folder, and say what is wrong with the database in it."""
    lay_out(loss.state, place)
    try:
        _, problems = verify(place / DATABASE, _allowed(loss.marks), fold=loss.number % _FOLDED == 0)
    except Exception as error:
        problems = [f"{type(error).__name__}: {error}"]
    return f"power loss {loss.number}, after {loss.cut} calls: {'; '.join(problems[:3])}" if problems else ""


def _allowed(marks: Sequence[str]) -> list[Content | None]:
    """Return what the database may hold: what was promised last, and what was under way."""
    allowed: list[Content | None] = [None]
    for mark in marks:
        word, _, content = mark.partition(" ")
        allowed = [json.loads(content)] if word == "did" else [*allowed[:1], json.loads(content)]
    return allowed


def _parse_once() -> None:
    """Have the rows of a shard remembered by its bytes: most states hold the same ones, and HDF5 is what takes time.

    That the bytes are those which were written is looked at every time, and so is whether they can be opened at all.
    """
    load, known = shard.load, dict[tuple[bytes, str, int, str], shard.Rows]()

    def once(file: shard.File, category: str, width: int, store: str) -> shard.Rows:
        file.raw.seek(0)
        key = (file.raw.read(), category, width, store)
        if key not in known:
            known[key] = load(file, category, width, store)
        return known[key]

    shard.load = once


def main(words: Sequence[str]) -> None:
    _parse_once()
    log, (count, seed, first, last) = list(read_log(Path(words[0]))), map(int, words[1:])
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        for loss in islice(losses(log, count, seed, start=first), last - first):
            faulthandler.dump_traceback_later(PATIENCE, exit=True)
            place = Path(folder, str(loss.number))
            print(json.dumps(verdict(loss, place)), flush=True)
            shutil.rmtree(place)


if __name__ == "__main__":
    main(sys.argv[1:])
