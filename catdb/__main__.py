"""The command ``catdb``, and ``python -m catdb``: an interruption ends it in silence also before there is a command."""

import atexit
import os
import signal

_INTERRUPTED = 130


def main() -> None:
    """Load the command line, which takes a moment, and run it.

    Until it is loaded SIGINT ends the process at once: nothing has been begun, and a KeyboardInterrupt amid an import
    would be a traceback, or be swallowed. Where a shell has a background job ignore SIGINT, it stays ignored. And so it
    is by all once Python takes itself down, when what there was to do is done and has an exit code.
    """
    _take_up_closed_streams()
    heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heard:
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(_INTERRUPTED))
    from catdb.cli import main as run

    if heard:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


def _take_up_closed_streams() -> None:
    """Open what is closed of stdin, stdout and stderr: else the next file gets its number, and what libraries print."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


if __name__ == "__main__":
    main()
