"""Processes that search beside a watcher: one waits for a photograph, one holds every answer against a journal.

The journal has a line for each picture that was put in place or taken away, written when that was done: the time (of
the clock that all processes share), "+", "-" or "removed", the path, and the picture's number.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from conftest import picture

from catdb import Database

STALE = 2.0  # seconds after which an answer must know of a change
SURELY = 0.9999  # the similarity of a picture to itself, and of no two that differ


@dataclass
class Latest:
    """What became last of a path. ``before``: the picture that was there until then."""

    time: float
    sign: str
    number: int
    before: int | None


def arrivals(place: str) -> None:
    """For each path on stdin wait until a search answers with it; print when that was."""
    with Database(Path(place, "db"), mode="r") as db:
        print("ready", flush=True)
        for line in sys.stdin:
            path = line.rstrip("\n")
            while path not in db:
                time.sleep(0.005)
            matches = db.search(path, k=1)
            when = time.monotonic()
            assert matches[0].path == path, matches[0].path
            print(when, flush=True)


def soak(place: str, seconds: str, seed: str) -> None:
    """Search for pictures of the journal, by their pixels; print what was found of stale and wrong answers."""
    chance, end = random.Random(int(seed)), time.monotonic() + float(seconds)
    latest: dict[str, Latest] = {}
    counted, worst, wrong, errors = Counter[str](), Counter[str](), [], []
    with Path(place, "journal").open() as journal, Database(Path(place, "db"), mode="r") as db:
        print("ready", flush=True)
        while time.monotonic() < end:
            for line in journal:
                when, sign, path, number = line.split()
                before = latest.get(path)
                latest[path] = Latest(float(when), sign, int(number), before.number if before else None)
            # Mostly what changed last, for only there can an answer be stale.
            paths = list(latest)
            path = chance.choice(paths[-12:] if chance.random() < 0.7 else paths)
            begin = time.monotonic()
            try:
                late = look(db, path, latest[path], begin)
            except Exception as error:
                errors.append(f"{type(error).__name__}: {error}")
                continue
            counted["searches"] += 1
            if late:
                kind, age = late
                worst[kind] = max(worst[kind], age)  # type: ignore[assignment]
                counted["stale"] += age > STALE
                if kind == "removed":
                    wrong.append(f"{path} was found {age:.2f} s after it was removed")
            latest[path] = latest.pop(path) if chance.random() < 0.05 else latest[path]
    print(json.dumps({**counted, "worst": worst, "wrong": wrong[:5], "errors": errors[:5], "failures": len(errors)}))


def look(db: Database, path: str, last: Latest, begin: float) -> tuple[str, float] | None:
    """Search for what is at a path, or was; return what the answer does not know: its kind, and seconds since then."""
    if last.sign == "leaving":
        return None
    found = {match.path: match.similarity for match in db.search(picture(last.number), k=5, exact=True)}
    shown = found.get(path, 0.0) > SURELY
    if shown != (last.sign == "+"):
        return {"+": "added", "-": "deleted"}.get(last.sign, last.sign), begin - last.time
    return None


if __name__ == "__main__":
    {"arrivals": arrivals, "soak": soak}[sys.argv[1]](*sys.argv[2:])
