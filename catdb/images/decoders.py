"""Decoding in processes of their own, so that a file which ends its decoder costs that file and nothing else.

    thread ─ a path, or a file's own bytes; size ─▶ worker's stdin;   its stdout ─▶ pixels, a JPEG, or why there is none

A worker is a small Python with Pillow and without any engine (:mod:`catdb.images.worker`). It confines itself: beyond
MEGABYTES of memory, or SECONDS of computing or PATIENCE by the clock for one image, it ends, by the system's hand and
not by its own good will, and also when nobody listens any more. So that nothing here waits with a deadline or watches
over orphans: an answer comes, or the pipe ends, and the exit code says why.

A worker that ends is replaced, and the file tried once more, for it need not have been the file's fault. Workers are
neither forked (this process has threads and an engine) nor spawned by multiprocessing (which would run a script of the
user's again).
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from threading import Lock
from types import TracebackType
from typing import BinaryIO, TypeVar, cast

import numpy as np

from catdb.child import command, environment
from catdb.errors import DecoderFailed, ImageUnreadable
from catdb.images.decode import Outside, Pixels, Unfinished
from catdb.images.find import explain

MEGABYTES = 2048
"""Address space of one worker. Most of all takes a WebP of 50 megapixels in a file of 512 MB, 1,550; most take 500."""

SECONDS = 60.0
"""Processor time for one image: as it is the processor's, a busy machine changes nothing. Large photographs take 5."""

PATIENCE = 600.0
"""Seconds for one image by the clock, which ends a wait for a disk that does not answer."""

REQUEST = struct.Struct("<IQII")  # which of the following; bytes of what follows; height and width of what is wanted
DECODE, DECODE_CONTENT, THUMBNAIL = range(3)  # a path follows; or a file's content; for a thumbnail height is width
ANSWER = struct.Struct("<III")  # 0, the image's width and height; the pixels follow. Of a thumbnail 0, bytes of the
# JPEG that follows, 0. Or 1 + kind, bytes of the reason, 0
FAULTS = (ImageUnreadable, Unfinished, Outside)
READY = b"catdb decodes\n"
OUT_OF_MEMORY = 12  # a worker's exit code, because what it holds from earlier images may have been too much

_T = TypeVar("_T")
_MODULE = "catdb.images.worker"
_LATE = ("SIGPROF", "SIGALRM")  # of SECONDS, and of PATIENCE
_LONGEST = 1 << 16  # a reason
_LARGEST = 1 << 26  # a thumbnail
_PIPE = 1 << 20  # the most that Linux gives to anyone: the pixels of one image are then written at one go
_PIECE = 1 << 18  # of a file's content that is handed on
_ALONE = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Decoders:
    """Workers for the threads of a build or a watch: started when a thread finds none idle, ended with the block."""

    def __init__(self) -> None:
        self._turn = Lock()
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._closed = False

    def __enter__(self) -> Decoders:
        self._closed = False
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all workers. A thread that waits for one is told that its image was given up."""
        with self._turn:
            self._closed = True
            idle, self._idle = self._idle, []
            for worker in self._all:
                worker.kill()
        for worker in idle:  # of the others, the thread that waits for it
            self._bury(worker)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """End all workers, too, where what is done with them is given up; the next such block starts others."""
        self._closed = False
        try:
            yield
        except BaseException:
            self.close()
            raise

    def decode(self, path: str, size: tuple[int, int]) -> tuple[Pixels, int, int]:
        """Decode a file as :func:`catdb.images.decode` does, in a worker. Threads may call it at once.

        ImageUnreadable says why not, also where the file ends its decoder. DecoderFailed: no worker can be started.
        """
        return self._have(lambda worker: worker.ask(DECODE, BytesIO(os.fsencode(path)), size).pixels())

    def decode_content(self, content: BinaryIO, size: tuple[int, int]) -> tuple[Pixels, int, int]:
        """Decode a stream, from its beginning to its end; the worker opens no file. Else as :meth:`decode`."""
        return self._have(lambda worker: worker.ask(DECODE_CONTENT, content, size).pixels())

    def thumbnail(self, content: BinaryIO, box: int) -> bytes:
        """Return a stream's image as a JPEG, upright, whole, and of at most ``box`` pixels a side, never enlarged.

        What is transparent is white. Raises as :meth:`decode` does.
        """
        return self._have(lambda worker: worker.ask(THUMBNAIL, content, (box, box)).jpeg())

    def _have(self, ask: Callable[[_Worker], _T]) -> _T:
        """Have a worker do something, and another one where that ends it."""
        for again in (True, False):
            worker = self._borrow()
            try:
                answer = ask(worker)
            except ImageUnreadable:
                self._give_back(worker)
                raise
            except (OSError, EOFError):
                end = self._bury(worker)
                if self._closed or not again or end in _LATE:
                    raise _obituary(end) from None
            except BaseException:  # an interruption: what it would say next is the answer to another question
                self._bury(worker)
                raise
            else:
                self._give_back(worker)
                return answer
        raise AssertionError("unreachable")

    def _borrow(self) -> _Worker:
        with self._turn:
            if self._closed:
                raise Outside("given up")
            if self._idle:
                return self._idle.pop()
            worker = _Worker()
            self._all.add(worker)
        try:
            worker.greet()
        except (OSError, EOFError):
            end = self._bury(worker)
            if self._closed:
                raise Outside("given up") from None
            raise DecoderFailed(
                f"a process to decode images in ended at once, with {end}; to see why, run"
                f" {sys.executable or 'python'} -m {_MODULE}"
            ) from None
        except BaseException:
            self._bury(worker)
            raise
        return worker

    def _give_back(self, worker: _Worker) -> None:
        with self._turn:
            if not self._closed:
                self._idle.append(worker)
                return
        self._bury(worker)

    def _bury(self, worker: _Worker) -> str:
        with self._turn:
            self._all.discard(worker)
        return worker.end()


class _Worker:
    """The process and its two pipes. OSError or EOFError where it has ended, or says what it never would."""

    def __init__(self) -> None:
        """Start it, without waiting until it is ready."""
        if getattr(sys, "frozen", False) or not sys.executable:
            raise DecoderFailed("images are decoded by a Python of their own: set sys.executable to one")
        try:
            self._process = subprocess.Popen(
                command(_MODULE, str(MEGABYTES), str(SECONDS), str(PATIENCE)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # C libraries write there what they think of a file
                bufsize=0,
                env=environment(**_ALONE),
                process_group=0,  # what is typed at a terminal is for this process alone
            )
        except OSError as error:
            raise DecoderFailed(
                f"no process can be started to decode images in: {explain(error)}; fewer --jobs may help"
            ) from error
        self._requests, self._answers = cast(BinaryIO, self._process.stdin), cast(BinaryIO, self._process.stdout)
        _widen(self._answers)

    def greet(self) -> None:
        """Wait until it is ready."""
        if self.take(len(READY)) != READY:
            raise EOFError

    def ask(self, what: int, content: BinaryIO, size: tuple[int, int]) -> _Answer:
        """Have something done. ImageUnreadable as :func:`catdb.images.decode` raises it."""
        length = content.seek(0, os.SEEK_END)
        content.seek(0)
        self._send(REQUEST.pack(what, length, *size))
        while length:
            piece = content.read(min(length, _PIECE))
            self._send(piece + bytes(0 if piece else min(length, _PIECE)))  # a file that was cut short meanwhile
            length -= len(piece) or min(length, _PIECE)
        kind, one, two = ANSWER.unpack(self.take(ANSWER.size))
        if kind == 0:
            return _Answer(self, size, one, two)
        if kind > len(FAULTS) or one > _LONGEST:
            raise EOFError
        raise FAULTS[kind - 1](self.take(one).decode(errors="backslashreplace"))

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._requests.write(view) :]

    def kill(self) -> None:
        """Kill it; a thread that waits for its answer sees the pipe's end."""
        self._process.kill()

    def end(self) -> str:
        """Have it end, and say how it did: the name of a signal, or "exit code N"."""
        with suppress(OSError):
            self._requests.close()
        self._answers.close()
        try:
            code = self._process.wait(1)  # a pipe ends a little before its process
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        with suppress(ValueError):
            return signal.Signals(-code).name
        return f"exit code {code}"

    def take(self, count: int) -> bytes:
        taken = bytearray(count)
        self.fill(memoryview(taken))
        return bytes(taken)

    def fill(self, view: memoryview) -> None:
        while view:
            count = self._answers.readinto(view)  # type: ignore[attr-defined]
            if not count:
                raise EOFError
            view = view[count:]


@dataclass(frozen=True, slots=True)
class _Answer:
    """The beginning of an answer, of which the rest is still in the pipe."""

    worker: _Worker
    size: tuple[int, int]
    one: int
    two: int

    def pixels(self) -> tuple[Pixels, int, int]:
        pixels = np.empty((*self.size, 3), np.uint8)
        self.worker.fill(pixels.data.cast("B"))
        return pixels, self.one, self.two

    def jpeg(self) -> bytes:
        if self.one > _LARGEST:
            raise EOFError
        return self.worker.take(self.one)


def _widen(pipe: BinaryIO) -> None:
    if sys.platform == "linux":
        import fcntl

        with suppress(OSError):  # a user may not have many as wide as this
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)


def _obituary(end: str) -> ImageUnreadable:
    """Say of a file why its decoder ended; Outside where that was hardly the file's doing."""
    if end == "SIGPROF":
        return ImageUnreadable(f"damaged: takes more than {SECONDS:g} s to decode")
    if end == "SIGALRM":
        return Outside(f"not decoded in {PATIENCE:g} s: the disk, or the machine, is too slow")
    if end == f"exit code {OUT_OF_MEMORY}":
        return ImageUnreadable(f"damaged, or too large: takes more than {MEGABYTES:,} MB to decode")
    if end in ("SIGKILL", "SIGTERM"):  # by the system, when memory is short, or by someone
        return Outside(f"its decoder was ended ({end}): not enough memory?")
    return ImageUnreadable(f"damaged: crashes its decoder ({end})")
