"""``catdb watch``: what it says of each change, and how signals end it, in good order and without a traceback."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

import click

from catdb.cli.options import open_database
from catdb.cli.output import Bar, say
from catdb.errors import CatdbError
from catdb.words import count, show

if TYPE_CHECKING:
    from catdb.database import Database
    from catdb.reconcile import Progress
    from catdb.watch import Notice, Watch

_INTERRUPTED = 130
_FINISHING = "finishing the batch under way; again to stop at once"


class Signals:
    """SIGINT and SIGTERM: the first ends what is under way in good order, the next at once, a third without a care.

    They are heard also where a shell has a background job ignore SIGINT: whoever sends one to it means it.
    """

    def __init__(self, finishing: str = _FINISHING) -> None:
        """``finishing`` says what the first of them waits for."""
        self._finishing = finishing
        self._stop: Callable[[], None] | None = None
        self._before: dict[int, Any] = {}
        self._count = 0
        self.code: int | None = None  # to end with, once there has been a signal

    def __enter__(self) -> Signals:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._count:
            self._count = 2  # the process is about to end: one more signal must not make a mess of that
        else:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def first_calls(self, stop: Callable[[], None]) -> None:
        """Have the first signal call this from now on, at any point of the code, rather than end at once."""
        self._stop = stop

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        self.code = _INTERRUPTED if number == signal.SIGINT else 0
        if self._count == 1 and self._stop:
            _write(f"catdb: {self._finishing}\n")
            self._stop()
        elif self._count <= 2:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(0)
        else:
            os._exit(self.code)


def _write(line: str) -> None:
    """Write to stderr from within a signal handler, where the stream itself may be in the middle of something."""
    try:
        if sys.stderr is not None:
            os.write(sys.stderr.fileno(), (("\n" if sys.stderr.isatty() else "") + line).encode())
    except (OSError, ValueError):
        pass  # nobody reads it


class _Mouth:
    """Tells of changes: a line for people on stderr, JSON on stdout; and draws progress until it is in step once."""

    def __init__(self, bar: Bar, *, as_json: bool, alert: bool) -> None:
        self._bar: Bar | None = bar
        self._as_json, self._alert = as_json, alert
        self._turn = threading.Lock()
        self.stop: Callable[[], None] = lambda: None
        self.error: OSError | None = None  # of an output that takes no more, which ends the watch

    def announce(self, notice: Notice) -> None:
        """Say what has changed. An output that takes no more is no trouble of the database: it is told at the end."""
        try:
            with self._turn:
                say(_line(notice))
                if self._as_json:
                    click.echo(json.dumps(_object(notice, alert=self._alert)))  # which flushes
        except OSError as error:
            self.error = self.error or error
            self.stop()

    def progress(self, progress: Progress) -> None:
        with self._turn:
            if self._bar:
                self._bar(progress)

    def in_step(self, line: str) -> None:
        """Say that it is in step; from now on a line for each change is progress enough."""
        with self._turn:
            if self._bar:
                self._bar.close()
            self._bar = None
            say(line)

    def mind_the_reader(self) -> None:
        """End the watch when whoever reads stdout has gone, which would otherwise show with the next change only."""
        try:
            poll = select.poll()
            poll.register(sys.stdout.fileno(), 0)
        except (AttributeError, OSError, ValueError):
            return  # no such thing here, or no stdout

        def wait() -> None:
            if any(what & select.POLLERR for _, what in poll.poll()):
                self.error = self.error or BrokenPipeError()
                self.stop()

        threading.Thread(target=wait, name="catdb-reader", daemon=True).start()


def keep_in_step(
    signals: Signals,
    folders: tuple[str, ...],
    db: str | None,
    *,
    as_json: bool,
    nice: bool,
    rescan: float,
    alert: float | None,
    **options: Any,
) -> int:
    """Do what ``catdb watch`` does and return its exit code. Raises as Database.watch does."""
    if nice:
        os.nice(19)
    creation = ("backbone", "weights", "engine", "precision", "dimensions", "store", "wait")
    network = {name: options.pop(name) for name in creation}
    with open_database(db, create=True, **network) as store, Bar() as bar:
        if not folders and not os.path.exists(os.path.join(store.path, "catalog.sqlite")):
            raise click.UsageError("there is no database yet: name the folders to watch")
        mouth = _Mouth(bar, as_json=as_json, alert=alert is not None)
        watch = store.watch(
            *folders,
            rescan=60 * rescan,
            alert=alert,
            announce=mouth.announce,
            progress=mouth.progress,
            **options,
        )
        mouth.stop = watch.stop
        signals.first_calls(watch.stop)
        if as_json:
            mouth.mind_the_reader()
        threading.Thread(target=_say_when_in_step, args=(store, watch, mouth, folders), daemon=True).start()
        watch.run()
    if mouth.error:
        raise mouth.error
    say("catdb: stopped; what was committed is safe")
    return signals.code or 0


def _say_when_in_step(store: Database, watch: Watch, mouth: _Mouth, folders: tuple[str, ...]) -> None:
    """Wait, in a thread, until the database is in step for the first time, and say so."""
    try:
        watch.wait_idle()
        paths = [os.path.abspath(f) for f in folders] or [root.path for root in store.info().roots]
        images = len(store)
    except (RuntimeError, CatdbError):
        return  # it has ended before; it tells itself why
    away = sum(not os.path.isdir(path) for path in set(paths))
    watched = count(len(set(paths)), "folder")
    mouth.in_step(f"in step: {count(images, 'image')}; watching {watched}{f', {away:,} of them away' if away else ''}")


def _line(notice: Notice) -> str:
    event = notice.event
    line = f"{event.kind} {show(event.source)} -> " if event.source else f"{event.kind} "
    line += show(event.path)
    if event.reason:
        line += f": {show(event.reason)}"
    if notice.resembles:
        line += ": resembles " + ", ".join(f"{show(path)} ({part:.3f})" for path, part in notice.resembles)
    return line


def _object(notice: Notice, *, alert: bool) -> dict[str, object]:
    event = notice.event
    found: dict[str, object] = {"event": event.kind, "path": event.path}
    if event.source is not None:
        found["source"] = event.source
    if event.reason is not None:
        found["reason"] = event.reason
    if alert and event.kind in ("added", "changed"):
        found["resembles"] = [{"path": path, "similarity": part} for path, part in notice.resembles]
    return found
