"""How a Python of our own is started beside this one: it finds this very catdb, and nothing that lies about."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_HOME = str(Path(__file__).resolve().parents[1])  # where this catdb lies


def command(module: str, *words: str) -> list[str]:
    """Return the command that runs a module of catdb.

    ``-P``: what lies in the current folder is never imported, a ``numpy.py`` among somebody's images for instance.
    """
    return [sys.executable, "-P", "-m", module, *words]


def environment(**more: str) -> dict[str, str]:
    """Return the environment for it: this process's own, with the places that it imports from."""
    return {**os.environ, **more, "PYTHONPATH": os.pathsep.join([_HOME, *filter(None, sys.path)])}
