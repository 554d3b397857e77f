"""``python -m catdb`` is the command ``catdb``."""

from catdb.cli import main

main()
