"""Whether the catalog is sound, by the rules of SQLite and by its own, and how it is mended."""

from __future__ import annotations

import sqlite3
from contextlib import suppress

from catdb.catalog import schema
from catdb.catalog.images import Images
from catdb.catalog.rules import FORGET, MISTYPED, RESTORE, RULES, Rule


class Integrity(Images):
    """A connection that finds what is wrong with the catalog's tables and mends it."""

    def integrity(self) -> list[str]:
        """Return what is wrong with the file by SQLite's own rules, or with its tables; empty when nothing is."""
        try:
            differing = schema.not_as_made(self.sql)
            if self.format() == schema.FORMAT and differing:
                return [f"not as it was made: {' '.join(differing[0].split())[:40]}..."]
            texts = [line for (text,) in self.sql.execute("PRAGMA integrity_check") for line in text.splitlines()]
            return [text for text in texts if text != "ok" and not text.startswith("***")]
        except sqlite3.DatabaseError as error:  # it does not get through the file
            return [str(error)]

    def reindex(self) -> None:
        """Make the indexes anew, where it is only they that are damaged."""
        with suppress(sqlite3.DatabaseError):
            self.sql.execute("REINDEX")

    def faults(self) -> list[tuple[Rule, int]]:
        """Return the rules that are broken, and by how many rows. Where values are of no known form, only those."""
        self._require_current()
        number = self.format()
        for rules in (MISTYPED, RULES):
            found = [(rule, int(self._one(rule.count))) for rule in rules if rule.since <= number]
            if any(count for _, count in found):
                return [(rule, count) for rule, count in found if count]
        return []

    def cure(self) -> int:
        """Mend in the running transaction what faults() finds, as far as it can be; return how many images had to go.

        The shards are not looked at: what they hold too much or too little afterwards is for a fold to mend.
        """
        before = self.count()
        for rule in RULES:
            if rule.cure == FORGET:
                for (image,) in self.sql.execute(rule.images).fetchall():
                    self.delete(image)
            elif rule.cure != RESTORE:
                self.sql.execute(rule.statement)
        return before - self.count()
