"""How what was found is said to a person, in the same words wherever it is shown: on a terminal, a sheet or a page."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from catdb.duplicates import Duplicates
    from catdb.query import Match, Prediction, Result

TIERS = {"bytes": "the same bytes", "pixels": "the same pixels", "near": "nearly the same"}
"""What the images of a group have in common, by its tier."""


def show(path: str) -> str:
    """Return a path fit to be printed: bytes that are no UTF-8 and control characters are escaped."""
    text = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def count(number: int, noun: str) -> str:
    """Return "1 image", "2,000 images", "2 copies"."""
    several = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else several}"


def percent(part: float) -> str:
    """Return a probability in whole percent."""
    return f"{100 * part:.0f} %" if part >= 0.005 else "<1 %"


def short(percentile: float | None, ceiling: float | None) -> str:
    """Return a percentile in no more digits than it has, "99.97 %" or ">99.99 %"; nothing where there is none."""
    if percentile is None or ceiling is None:
        return ""
    digits = max(0, round(-math.log10(1 - ceiling)) - 2)
    share = math.floor(percentile * 10 ** (digits + 2) + 1e-6) / 10**digits  # never rounded up to what was not found
    return f"{'>' if percentile >= ceiling else ''}{share:.{digits}f} %"


def closer(percentile: float | None, ceiling: float | None) -> str:
    """Say what a percentile means; nothing where there is none."""
    share = short(percentile, ceiling)
    return f"closer than {share} of random pairs" if share else ""


def asked(result: Result, *, most: int | None = None) -> str:
    """Say what a result answers: the query's path, the words, or all paths of several, of many the first ``most``."""
    one = [f'"{result.text}"'] if result.text is not None else [result.query or "an image"]
    plus = [path or "an image" for path in result.together] or one
    if most is not None and len(plus) > most + 1:
        plus = [*plus[:most], count(len(plus) - most, "further image")]
    return " - ".join([" + ".join(plus), *(path or "an image" for path in result.without)])


def named(categories: Iterable[Prediction]) -> str:
    """Name categories, each with its probability."""
    return " · ".join(f"{category.name} {percent(category.probability)}" for category in categories)


def shared(result: Result, match: Match) -> str:
    """Name the categories that a query and a match have in common."""
    own = {category.id for category in result.categories}
    return ", ".join(category.name for category in match.categories if category.id in own)


def searched(result: Result) -> str:
    """Say how much of the database an answer rests on."""
    total = count(result.total, "image")
    if result.admitted < result.total:
        total = f"{count(result.admitted, 'image')} that the filters admit (of {result.total:,} in all)"
    text = f"searched {result.scanned:,} of {total} in {result.probed} of {count(result.populated, 'category')}"
    if result.widened and result.admitted < result.total:
        text += " (its own categories hold too few of them, so further ones were searched)"
    elif result.widened:
        text += " (the first of its categories hold no image, so further ones were searched)"
    return text


def copied(found: Duplicates) -> str:
    """Say how many groups of copies there are, and what they take."""
    copies = sum(len(group.images) - 1 for group in found.groups)
    tiers = [(tier, sum(group.tier == tier for group in found.groups)) for tier in TIERS]
    each = ", ".join(f"{groups:,} {tier}" for tier, groups in tiers if groups)
    return (
        f"{count(len(found.groups), 'group')}{f' ({each})' if each else ''} in {count(found.images, 'image')}:"
        f" {count(copies, 'copy')}, {count(found.freed, 'byte')} could be freed; nothing was deleted"
    )
