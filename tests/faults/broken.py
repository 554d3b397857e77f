"""Products that are broken on purpose, each in one way: the harness is worth something only if it finds them out.

usage: python -m faults.broken WAY OPERATION KIND... (in a process with the library): prints how many of some states of
the operation are bad, and then what was said of them. Only the process that is struck is broken, not the look at it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import catdb.catalog.connection
import catdb.connections
import catdb.store
from catdb import shard
from catdb.catalog import Catalog
from catdb.store import Store
from faults.driver import Bench, State, attempts, sample, scratch, states_of
from faults.library import Kind

STATES = 12


def not_at_all() -> None:
    """Leave the product as it is."""


def acknowledges_before_it_commits() -> None:
    @contextmanager
    def transaction(self: Catalog) -> Iterator[None]:
        if self.sql.in_transaction:
            self.sql.execute("COMMIT")
        self.sql.execute("BEGIN IMMEDIATE")
        yield

    Catalog.transaction = transaction  # type: ignore[method-assign]


def commits_a_batch_bit_by_bit() -> None:
    commit = Store.commit

    def bit_by_bit(self: Store, puts: Any) -> list[str]:
        return [outcome for put in puts for outcome in commit(self, [put])]

    Store.commit = bit_by_bit  # type: ignore[assignment,method-assign]


def points_to_a_file_before_it_is_there() -> None:
    later: list[tuple[str, bytes]] = []
    write, transaction = shard.write, Catalog.transaction

    @contextmanager
    def and_then_writes(self: Catalog) -> Iterator[None]:
        with transaction(self):
            yield
        while later:
            write(*later.pop())

    shard.write = lambda path, data: later.append((path, data))
    Catalog.transaction = and_then_writes  # type: ignore[method-assign]


def lets_errors_through() -> None:
    @contextmanager
    def as_they_are(path: str) -> Iterator[None]:
        yield

    for module in (catdb.catalog.connection, catdb.connections, catdb.store):
        module.clear_errors = as_they_are  # type: ignore[attr-defined]


class Broken(Bench):
    """A bench whose product is broken in one way."""

    way = "not_at_all"

    def _run(self, place: Path, state: State) -> dict[str, Any]:
        globals()[self.way]()
        return super()._run(place, state)


if __name__ == "__main__":
    Broken.way, operation, kinds = sys.argv[1], sys.argv[2], [Kind[name] for name in sys.argv[3:]]
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        bench = Broken(Path(folder))
        states = sample(states_of({operation: bench.trace(operation)}, kinds), STATES, 1)
        bad = [attempt.problems for attempt in attempts(bench, states, 1) if attempt.problems]
    print(len(bad), *(line for problems in bad for line in problems))
