"""A decode worker that does what a file's name says, for the tests of what that costs: ``python -m deadly``."""

from __future__ import annotations

import atexit
import ctypes
import os
import sys
import time

from catdb.images import decode, worker
from catdb.images.decode import Pixels


def deadly(path: str, size: tuple[int, int]) -> tuple[Pixels, int, int]:
    name = os.path.basename(path)
    if os.path.exists(path + ".fifo"):  # tell the test who is at it
        with open(path + ".fifo", "w") as fifo:
            fifo.write(str(os.getpid()))
    if "segfault" in name:
        ctypes.string_at(8)
    if "abort" in name:
        os.abort()
    if "exit" in name:
        os._exit(7)
    if "killed" in name:
        os.kill(os.getpid(), 9)
    while "spin" in name:
        pass
    if "sleep" in name:
        time.sleep(1000)
    if "eat" in name:
        atexit.register(time.sleep, 1000)  # an interpreter may take long to end: on a busy machine, more than a second
        held = []
        while True:
            held.append(bytes(1 << 24))  # taken and never touched: no computing, however slow the machine
    if "once" in name and not os.path.exists(path + ".done"):
        open(path + ".done", "x").close()
        os.abort()
    if "noise" in name:
        os.write(1, b"libnoise: warning\n" * 1000)
        os.write(2, b"libnoise: warning\n" * 1000)
        print("more of it")
    return decode(path, size)


if __name__ == "__main__":
    sys.exit(worker.main(*sys.argv[1:], decode=deadly))
