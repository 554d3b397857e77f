"""Eight processes search while one writes: the soak of tools/soak, in short. Run that for ten minutes by hand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[1] / "tools" / "soak"


def test_eight_readers_beside_a_writer_are_never_wrong() -> None:
    done = subprocess.run([sys.executable, TOOL, "--commits", "12"], capture_output=True, text=True, timeout=600)
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    counted = re.search(r"(\d+) searches, (\d+) commits, 0 wrong answers, 0 errors", told)
    assert counted and int(counted[1]) >= 960 and int(counted[2]) >= 12, told
    assert done.stdout.endswith("check: all is well\n")
