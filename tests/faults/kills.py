"""``kill -9`` at random moments: a writer that adds, replaces, deletes and folds until it is killed, again and again.

A database outlives LIFETIME kills, so that what one leaves behind is what the next writer meets. The writer is a fork
of a process that has loaded everything; what it was told is acknowledged stands in a journal beside the database.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from stock import make

from catdb.store import Store
from faults.driver import in_child
from faults.journal import Change, Content, Journal, changed, name, possible
from faults.operations import add, delete, replace
from faults.verify import content_of, verify

LIFETIME = 20  # kills
_CHANGES = 12  # operations before the kill, at most; however slow the machine is just now
_LONGEST = 0.03  # seconds that the kill comes after them, at most
_MANY = 60  # images from which on it deletes more than it adds


BAD = ("lost", "resurrected", "partial", "otherwise bad")


@dataclass(frozen=True)
class Killed:
    """What was found after a kill: how many changes had been acknowledged, "good" or one of BAD, and what is wrong."""

    number: int
    acknowledged: int
    verdict: str
    problems: list[str]


def kills(folder: Path, count: int, seed: int, jobs: int) -> Iterator[Killed]:
    """Kill ``count`` writers, in ``jobs`` processes; yield what is found after each, in their order."""
    lives = [range(first, min(first + LIFETIME, count)) for first in range(0, count, LIFETIME)]
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        for life in pool.imap(partial(_life, folder, seed), lives):
            yield from life


def _life(folder: Path, seed: int, numbers: range) -> list[Killed]:
    """Kill these writers one after the other on the same database."""
    place, content, life = folder / f"kills-{numbers[0]}", Content(), []
    place.mkdir()
    status, error = in_child(lambda: make(place / "db").close())
    if status:
        raise RuntimeError(error)
    for number in numbers:
        journal = place / f"journal-{number}"
        ended = _killed(number, place / "db", journal, content, random.Random(f"{seed} {number}"))
        contents = possible(content, journal)
        status, answer = in_child(partial(_look, place / "db", contents))
        if status:
            raise RuntimeError(f"kill {number} of seed {seed}: {answer}")
        found, content, problems = answer
        problems += [f"the writer ended by itself: {ended}"] if ended else []
        acknowledged = journal.read_bytes().count(b"done\n")
        life.append(Killed(number, acknowledged, verdict(contents, found, problems), problems))
    shutil.rmtree(place)
    return life


def verdict(contents: Sequence[Content | None], found: Content, problems: Sequence[str]) -> str:
    """Return the worst name for what was found where something else was possible."""
    if found in contents:
        return "otherwise bad" if problems else "good"
    if any(all(found.get(path) != (x or {}).get(path) for x in contents) for path in (contents[0] or {})):
        return "lost"
    if any(all(number != (x or {}).get(path) for x in contents) for path, number in found.items()):
        return "resurrected"
    return "partial"


def _look(directory: Path, contents: Sequence[Content | None]) -> tuple[Content, Content, list[str]]:
    """Return what a database holds, what it holds after it took one image more, and what is wrong."""
    reader = Store(str(directory), writable=False)
    found = content_of(reader)
    reader.close()
    return found, *verify(directory, contents, fold=False)


def _killed(number: int, directory: Path, journal: Path, content: Content, chance: random.Random) -> str | None:
    """Run a writer and kill it at a moment by chance; return what it says where it ends before that."""
    before, delay, seed = chance.randint(0, _CHANGES), chance.uniform(0.0, _LONGEST), chance.random()
    receiving, sending = os.pipe()
    writer = os.fork()
    if not writer:
        try:
            os.close(receiving)
            _write(number, directory, Journal(journal), content, random.Random(seed), sending)
        except BaseException as error:
            os.write(sending, repr(error).encode())
        finally:
            os._exit(1)
    os.close(sending)
    with os.fdopen(receiving, "rb") as stream:
        said = stream.read(1 + before)  # it is ready, and then a dot for each operation
        time.sleep(delay)
        os.kill(writer, signal.SIGKILL)
        said = (said + stream.read()).strip(b".")
    status = os.waitstatus_to_exitcode(os.waitpid(writer, 0)[1])
    return None if status == -signal.SIGKILL and not said else f"{status} {said.decode(errors='replace')}"


def _write(number: int, directory: Path, journal: Journal, content: Content, chance: random.Random, ready: int) -> None:
    """Change a database without an end. Every image has a number that was never used before."""
    free = itertools.count(10_000 * (number + 1))
    store = Store(str(directory), wait=5)
    os.write(ready, b".")
    while True:
        step, change, full = chance.random(), Change(), len(content) > _MANY
        paths = chance.sample(sorted(content), len(content) // 2 if full else min(len(content), chance.randint(1, 5)))
        if step < 0.35:
            numbers = list(itertools.islice(free, chance.choice([1, 1, 1, 5, 30])))
            change = {name(number): number for number in numbers}
            add(store, journal, numbers)
        elif step < 0.5:
            change = dict(zip(paths, free, strict=False))
            replace(store, journal, change)
        elif step < (0.9 if full else 0.65):
            change = dict.fromkeys(paths)
            delete(store, journal, paths)
        elif step < 0.95:
            store.fold_all()
        elif step < 0.97:
            with store.writing() as catalog:
                store.collect(catalog, grace=0)
        else:
            store.close()
        content = changed(content, change)
        os.write(ready, b".")
