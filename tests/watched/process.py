"""A watcher in a process of its own, which can be stopped, frozen and killed; and what a process uses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import numpy as np
import psutil
from conftest import Instant
from numpy.typing import NDArray

from catdb import Database
from catdb.backbones import Embedding
from catdb.errors import DatabaseNotFound
from catdb.watch import Notice


class Counting(Instant):
    """An instant embedder that counts its passes in a file, so that they are known though it be killed."""

    def __init__(self, count: Path) -> None:
        super().__init__()
        self.count = count

    def embed(self, pixels: NDArray[np.uint8]) -> Embedding:
        with self.count.open("ab") as file:
            file.write(b"." * len(pixels))
        return super().embed(pixels)


def open_reader(place: Path) -> Database:
    return Database(place / "db", mode="r")


def passes(place: Path) -> int:
    """Return how many images were embedded by the watchers of a place."""
    count = place / "passes"
    return count.stat().st_size if count.exists() else 0


class Watcher:
    """A process that watches folders, with the database and the files of its own in ``place``."""

    def __init__(self, place: Path, folders: Sequence[Path], backbone: str = "", weights: str = "") -> None:
        self.place = place
        self.words = [json.dumps([str(place), [str(folder) for folder in folders], backbone, weights])]
        self.start()

    def start(self) -> None:
        """Begin; return at once."""
        log = (self.place / "log").open("ab")
        command = [sys.executable, "-m", "watched.process", *self.words]
        path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
        with log:
            self.process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=log, stderr=log)

    def __enter__(self) -> Watcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.send_signal(signal.SIGCONT)
        if error is None:
            self.stop()
        self.process.kill()
        self.process.wait()

    def until_watching(self, images: int, timeout: float = 120.0) -> None:
        """Wait until it watches, has looked through its folders, and so many images are known."""
        end = time.monotonic() + timeout
        while time.monotonic() < end and self.process.poll() is None:
            with suppress(DatabaseNotFound), open_reader(self.place) as db:
                info = db.info()
                if info.watcher and len(db) == images and info.roots and all(r.reconciled for r in info.roots):
                    return
            time.sleep(0.1)
        raise TimeoutError(f"the watcher has not begun: {self.log()}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Have it end as a service manager would. AssertionError where it does not end well."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.log()

    def log(self) -> str:
        return (self.place / "log").read_text(errors="replace")

    def used(self) -> tuple[float, float, int, int]:
        """Return seconds of CPU, MB of memory, descriptors, and threads and children, of it with its children."""
        family = [psutil.Process(self.process.pid)]
        family += family[0].children(recursive=True)
        times = [member.cpu_times() for member in family]
        seconds = sum(t.user + t.system for t in times) + times[0].children_user + times[0].children_system
        memory = sum(member.memory_info().rss for member in family) / 2**20
        threads = family[0].num_threads() + len(family) - 1
        return seconds, memory, sum(member.num_fds() for member in family), threads


def main(words: str) -> None:
    """Watch until SIGTERM; note each change in the file ``announced`` at the moment when a search finds it."""
    place, folders, backbone, weights = json.loads(words)
    embedder = backbone or Counting(Path(place, "passes"))
    with (
        Path(place, "announced").open("a", buffering=1) as announced,
        Database(Path(place, "db"), backbone=embedder, weights=weights or None, notice=say) as db,
    ):

        def announce(notice: Notice) -> None:
            announced.write(f"{time.monotonic()} {notice.event.kind} {notice.event.path}\n")

        watch = db.watch(folders, announce=announce)
        signal.signal(signal.SIGTERM, lambda *_: watch.stop())
        watch.run()


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
