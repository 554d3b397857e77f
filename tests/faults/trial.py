"""Power losses, many of them, each verified: ``python -m faults.trial LOG COUNT SEED START`` prints a line for each.

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
from collections.abc import Iterator, Sequence
from pathlib import Path

from faults.library import environment, read_log
from faults.powerloss import Loss, lay_out, losses
from faults.verify import Content, verify
from faults.workload import DATABASE

from catdb import shard

_TESTS = str(Path(__file__).parents[1])
_PATIENCE = 60.0  # seconds for one state


def record(folder: Path, library: Path, *mutants: str) -> Path:
    """Have the workload recorded, by catdb or a mutant of it; return the log."""
    top, log = folder / "top", folder / "log"
    top.mkdir()
    with _begin("faults.workload", top, *mutants, env=environment(library, dir=top, log=log)) as process:
        process.communicate()
    if process.returncode:
        raise RuntimeError(f"the workload ended with {process.returncode}")
    return log


def verdicts(log: Path, count: int, seed: int) -> Iterator[str]:
    """Yield what is wrong after each of ``count`` power losses, "" where nothing is."""
    start = 0
    while start < count:
        with _begin("faults.trial", log, count, seed, start) as process:
            assert process.stdout
            try:
                for line in process.stdout:
                    start += 1
                    yield json.loads(line)
            finally:
                process.kill()
        if process.returncode > 0:
            raise RuntimeError(f"the trial of power loss {start} failed, or took more than {_PATIENCE:.0f} s")
        if start < count:
            yield f"power loss {start}: the process that opened it ended with {process.returncode}"
            start += 1


def _begin(module: str, *words: object, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    paths = os.pathsep.join([_TESTS, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", module, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**(env or os.environ), "PYTHONPATH": paths})


def verdict(loss: Loss, place: Path) -> str:
    """Lay the state of a power loss out in a new folder, and say what is wrong with the database in it."""
    lay_out(loss.state, place)
    try:
        verify(place / DATABASE, _allowed(loss.marks))
    except Exception as error:
        under_way = next((mark for mark in reversed(loss.marks)), "nothing yet")
        return f"power loss {loss.number}, after {loss.cut} calls ({under_way}): {type(error).__name__}: {error}"
    return ""


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
    load, known = shard.load, dict[tuple[bytes, str, int], shard.Rows]()

    def once(file: shard.File, category: str, dimension: int) -> shard.Rows:
        file.raw.seek(0)
        key = (file.raw.read(), category, dimension)
        if key not in known:
            known[key] = load(file, category, dimension)
        return known[key]

    shard.load = once


def main(words: Sequence[str]) -> None:
    _parse_once()
    log, count, seed, start = list(read_log(Path(words[0]))), *map(int, words[1:])
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        for loss in losses(log, count, seed, start=start):
            faulthandler.dump_traceback_later(_PATIENCE, exit=True)
            place = Path(folder, str(loss.number))
            print(json.dumps(verdict(loss, place)), flush=True)
            shutil.rmtree(place)


if __name__ == "__main__":
    main(sys.argv[1:])
