"""What a caller asks for, made what a search needs: options by their names, and queries that join the database first.

The options of every search are said once: their names and types by :class:`~catdb.query.How`, their defaults by
:class:`~catdb.query.Reach` and :class:`~catdb.filters.Filter`. :func:`spelt_out` has a signature show them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from functools import wraps
from inspect import Parameter, signature
from typing import Any, ParamSpec, TypeVar

import numpy as np

from catdb.errors import ImageUnreadable
from catdb.filters import Filter
from catdb.images import Failure
from catdb.ingest import Event
from catdb.query import How, Query, Reach, Result
from catdb.questions import category_named
from catdb.reconcile import Report
from catdb.roots import absolute
from catdb.store import Store

P = ParamSpec("P")
R = TypeVar("R")

_SAID = {one.name: one.default for one in (*fields(Reach), *fields(Filter))}
DEFAULTS: dict[str, Any] = {name: _SAID[name] for name in How.__annotations__}


def spelt_out(search: Callable[P, R]) -> Callable[P, R]:
    """Have a search that takes ``k`` and ``**how: Unpack[How]`` show these options one by one, after ``k``.

    So help() and an editor list them; and one that is misspelt is refused before anything is done.
    """
    own = list(signature(search).parameters.values())[:-1]
    options = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=DEFAULTS[name], annotation=kind.__forward_arg__)
        for name, kind in How.__annotations__.items()
    ]
    here = [one.name for one in own].index("k") + 1
    shown = signature(search).replace(parameters=[*own[:here], *options, *own[here:]])

    @wraps(search)
    def spelt(*args: P.args, **how: P.kwargs) -> R:
        for name in how:
            if name not in shown.parameters:
                raise TypeError(f"{search.__qualname__}() got an unexpected keyword argument {name!r}")
        return search(*args, **how)

    spelt.__signature__ = shown  # type: ignore[attr-defined]
    return spelt


def reach(store: Store, k: int, how: How) -> Reach:
    """Return how far a search with these options goes. Raises CategoryUnknown, and ValueError for what cannot be."""
    asked = {**DEFAULTS, **how}
    category, under = asked.pop("category"), asked.pop("under")
    only = Filter(
        None if category is None else category_named(category, store.categories()),
        None if under is None else absolute(under),
        asked.pop("min_similarity"),
    )
    return Reach(k, **asked, only=only)


def several(queries: Query | Iterable[Query]) -> list[Query]:
    """Return one query, or several, as a list."""
    one = isinstance(queries, str | os.PathLike | np.ndarray) or not isinstance(queries, Iterable)
    return [queries] if one else list(queries)  # type: ignore[list-item, arg-type]


def readable(result: Result | Failure) -> Result:
    """Return the answer to a query that could be read. Raises ImageUnreadable for another one."""
    if isinstance(result, Failure):
        raise ImageUnreadable(f"{result.path}: {result.reason}" if result.path else result.reason)
    return result


@dataclass(frozen=True, slots=True)
class Joined:
    """Which queries have joined the database, and why others could not."""

    paths: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)

    def announce(self, event: Event) -> None:
        if event.kind in ("added", "changed", "moved"):
            self.paths.add(event.path)

    def mark(self, result: Result | Failure) -> Result | Failure:
        """Return an answer that says whether its query has joined."""
        if isinstance(result, Failure) or not (self.paths or self.refused):
            return result
        asked = [path for path in (result.query, *result.together) if path]
        refused = [f"{path} was not added: {self.refused[path]}" for path in asked if path in self.refused]
        return replace(result, added=any(path in self.paths for path in asked), notes=(*result.notes, *refused))


def join(queries: Iterable[Query], add: Callable[..., Report]) -> Joined:
    """Have queries join the database, so far as they are files.

    ``add(paths, announce=...)`` takes absolute paths in. Raises TypeError for a query that is no path.
    """
    paths = []
    for query in queries:
        if not isinstance(query, str | os.PathLike):
            raise TypeError(f"only a file can be added, not a query of type {type(query).__name__}")
        if os.path.lexists(absolute(query)) and not os.path.isdir(absolute(query)):
            paths.append(absolute(query))
    joined = Joined()
    if paths:
        report = add(list(dict.fromkeys(paths)), announce=joined.announce)
        joined.refused.update({failure.path: failure.reason for failure in report.failed})
    return joined
