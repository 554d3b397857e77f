"""A process that decodes images for another: ``python -m catdb.images.worker MEGABYTES SECONDS PATIENCE``.

Reads requests from stdin and answers on stdout, as :mod:`catdb.images.decoders` says, until stdin ends. Nothing that it
does can reach the process that it works for but by these two pipes. It must stay small: it knows Pillow and numpy.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from typing import BinaryIO, NoReturn

from PIL import AvifImagePlugin

from catdb.errors import ImageUnreadable
from catdb.images.decode import Pixels, decode
from catdb.images.decoders import ANSWER, DECODE, FAULTS, OUT_OF_MEMORY, READY, REQUEST, THUMBNAIL
from catdb.images.thumbnail import thumbnail

Decode = Callable[..., tuple[Pixels, int, int]]  # of a path or a stream, and a size


def main(megabytes: str = "2048", seconds: str = "60", patience: str = "600", *, decode: Decode = decode) -> int:
    """Serve until stdin ends; return the exit code."""
    requests = sys.stdin.buffer
    answers = _own_stdout()
    _confine(int(megabytes) << 20)
    answers.write(READY)
    answers.flush()
    while head := requests.read(REQUEST.size):
        what, length, *size = REQUEST.unpack(head)
        content = requests.read(length)
        _limit_time(float(seconds), float(patience))
        try:
            if what == THUMBNAIL:
                jpeg = thumbnail(BytesIO(content), size[0])
                answer, body = ANSWER.pack(0, len(jpeg), 0), memoryview(jpeg)
            else:
                source = os.fsdecode(content) if what == DECODE else BytesIO(content)
                pixels, width, height = decode(source, (size[0], size[1]))
                answer, body = ANSWER.pack(0, width, height), pixels.data.cast("B")
        except ImageUnreadable as error:
            if isinstance(error.__cause__, MemoryError):
                _give_up()
            reason = str(error)[:1000].encode(errors="backslashreplace")
            answer, body = ANSWER.pack(1 + FAULTS.index(type(error)), len(reason), 0), memoryview(reason)
        except MemoryError:
            _give_up()
        del content
        answers.write(answer)
        answers.write(body)
        _limit_time(0, 0)
        answers.flush()
    return 0


def _give_up() -> NoReturn:
    """End at once, so that the exit code comes with the pipe's end: whoever waits for it does not wait long."""
    os._exit(OUT_OF_MEMORY)


def _own_stdout() -> BinaryIO:
    """Keep stdout for the answers, and let everyone else's go where stderr goes."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


def _confine(memory: int) -> None:
    """Bound what a hostile file can take, and be deaf to what is meant for the process that we work for."""
    warnings.simplefilter("ignore")  # Pillow's, of metadata; the images are fine
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # there is a worker for each core
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.options.DECODE_THREADS = 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        import resource

        for name in (signal.SIGALRM, signal.SIGPROF):  # that they end a process can have been inherited away
            signal.signal(name, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for limit, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CORE, 0)):
            with suppress(ValueError, OSError):  # a stricter one is in force, or the system has none
                resource.setrlimit(limit, (value, value))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("500")  # when the machine's memory is short, better an image than whoever else would be chosen


def _limit_time(computing: float, clock: float) -> None:
    """From now on have the system end this process after so many seconds of either; 0: no longer."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_PROF, computing)
        signal.setitimer(signal.ITIMER_REAL, clock)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
