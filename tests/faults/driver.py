"""Every state that a fault can leave: one call of one operation struck by one kind, and what is found afterwards.

All happens in one warm process, which was started with the library (see ``library.environment``) and opens no database
itself: each operation, and each look at what it left, is done in a child forked for it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import select
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from catdb.errors import CatdbError
from catdb.shard import Rows, encode
from catdb.store import Store
from faults.journal import Content, Journal, possible
from faults.library import Faults, Kind
from faults.operations import OPERATIONS, add, make_stages
from faults.verify import content_of, verify

PATIENCE = 60.0  # seconds after which a child counts as one that hangs
_NO_ROWS = Rows(np.zeros((0, 12), np.float16), np.zeros(0, np.int64), np.zeros((0, 4), np.int32))
AGAIN = 700  # the image that the same process adds after its fault


@dataclass(frozen=True)
class State:
    """The fault of this kind at the n-th call of an operation."""

    operation: str
    kind: Kind
    at: int

    def __str__(self) -> str:
        return f"--operation {self.operation} --kind {self.kind.name} --at {self.at}"


@dataclass(frozen=True)
class Attempt:
    """What came of a state: what is wrong, in a line each, and how many seconds it took."""

    state: State
    problems: list[str]
    seconds: float


def in_child(function: Callable[[], Any]) -> tuple[int, Any]:
    """Call a function in a fork; return how that ended (as subprocess does), and what it returned, by way of JSON.

    A traceback is returned where it raises, or a line where it hangs; None where it was killed.
    """
    receiving, sending = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.close(receiving)
            answer = json.dumps(function())
            status = 0
        except BaseException:
            answer = json.dumps(traceback.format_exc())
        finally:
            with os.fdopen(sending, "w") as stream:
                stream.write(answer)
            os._exit(status)
    os.close(sending)
    with os.fdopen(receiving, "rb", buffering=0) as stream:
        data, until, hangs = b"", time.monotonic() + PATIENCE, False
        while True:
            hangs = not select.select([stream], [], [], max(0.0, until - time.monotonic()))[0]
            part = b"" if hangs else stream.read(65536)
            if not part:
                break
            data += part
    if hangs:
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if hangs:
        return 1, f"hangs for more than {PATIENCE:.0f} s"
    return status, json.loads(data) if data else None


class Bench:
    """The databases to begin with, made once below a folder, and a place for each process that works with them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        stages = folder / "stages"
        stages.mkdir()
        np.unique([len(encode("c0", _NO_ROWS))])  # numpy and h5py load more of themselves with their first call
        status, contents = in_child(lambda: make_stages(stages))
        if status:
            raise RuntimeError(contents)
        self._contents: dict[str, Content | None] = contents

    def trace(self, operation: str) -> str:
        """Return the letters of the calls that an operation makes."""
        status, found = in_child(lambda: self._run(self._copied(operation), State(operation, Kind.KILL_BEFORE, 0)))
        if status or found["problems"]:
            raise RuntimeError(f"{operation} does not even work without a fault: {found}")
        return str(found["trace"])

    def attempt(self, state: State) -> Attempt:
        """Bring about one state and look at it."""
        start = time.perf_counter()
        problems = self._problems(state)
        return Attempt(state, problems, time.perf_counter() - start)

    def _problems(self, state: State) -> list[str]:
        place = self._copied(state.operation)
        status, ran = in_child(lambda: self._run(place, state))
        if state.kind.kills and status == -signal.SIGKILL:
            problems = []
        elif status:
            problems = [f"it ended with {status}: {ran}"]
        else:
            problems = list(ran["problems"])
            if not ran["fired"]:
                problems.append("the call was not reached")
        contents = possible(self._contents[OPERATIONS[state.operation].stage], place / "journal")
        status, found = in_child(lambda: verify(place / "of" / "db", contents)[1])
        return problems + (found if not status else [f"the look at it ended with {status}: {found}"])

    def _copied(self, operation: str) -> Path:
        """Return a folder of this process with a fresh copy of the operation's database in it, if it has one."""
        place = self.folder / f"at-{os.getpid()}"
        shutil.rmtree(place, ignore_errors=True)
        (place / "of").mkdir(parents=True)
        stage = self.folder / "stages" / OPERATIONS[operation].stage
        if stage.exists():
            shutil.copytree(stage, place / "of" / "db")
        return place

    def _run(self, place: Path, state: State) -> dict[str, Any]:
        """Do an operation under its fault, and where the process lives, go on with it; for a child."""
        operation, journal, faults = OPERATIONS[state.operation], Journal(place / "journal"), Faults()
        store = Store(str(place / "of" / "db"), wait=5)
        operation.prepare(store)
        problems: list[str] = []
        faults.arm(place / "of", state.at, state.kind)
        try:
            operation.run(store, journal)
        except CatdbError as error:
            if not state.at or state.kind == Kind.SHORT:
                problems.append(f"it failed: {error}")
            if "\n" in str(error) or not str(error):
                problems.append(f"its error is not one line: {error!r}")
        finally:
            faults.disarm()
        result = {"trace": faults.trace, "fired": faults.fired, "problems": problems}
        if not state.kind.kills:
            problems += self._goes_on(store, journal, place, state)
        if state.at % 2:  # as often as not the process ends without a word
            store.close()
        return result

    def _goes_on(self, store: Store, journal: Journal, place: Path, state: State) -> list[str]:
        """Add an image in the process that had the fault, and search in it."""
        try:
            if state.operation == "create":
                OPERATIONS["create"].run(store, journal)
            add(store, journal, [AGAIN])
        except CatdbError as error:
            return [f"the next add in the same process failed: {error}"]
        contents = possible(self._contents[OPERATIONS[state.operation].stage], place / "journal")
        return [] if content_of(store) in contents else ["the same process holds something else"]


def states_of(traces: Mapping[str, str], kinds: Sequence[Kind] = tuple(Kind)) -> list[State]:
    """Return every state of these operations, whose calls are known by their letters."""
    return [
        State(operation, kind, at)
        for operation, trace in traces.items()
        for kind in kinds
        for at, letter in enumerate(trace, 1)
        if kind.strikes(letter)
    ]


def scratch() -> Path:
    """Return where the databases are best put: in memory, for a kill leaves what the system has, on a disk or not."""
    return Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path(os.environ.get("TMPDIR", "/tmp"))


def attempts(bench: Bench, states: Sequence[State], jobs: int) -> Iterator[Attempt]:
    """Bring about every state, in their order, in ``jobs`` processes."""
    if jobs == 1:
        yield from map(bench.attempt, states)
        return
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap(bench.attempt, states, chunksize=8)


def sample(states: Sequence[State], count: int, seed: int) -> list[State]:
    """Return ``count`` of the states, the same ones for the same seed, as evenly from the operations as can be."""
    chance = random.Random(seed)
    queues: dict[str, list[State]] = {}
    for state in states:
        queues.setdefault(state.operation, []).append(state)
    for queue in queues.values():
        chance.shuffle(queue)
    chosen: list[State] = []
    while len(chosen) < count and any(queues.values()):
        chosen += [queue.pop() for queue in queues.values() if queue]
    return chosen[:count]
