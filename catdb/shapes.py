"""The JSON shapes: what programs are given of a database, the same from every side that gives it.

A shape is a dictionary of what JSON can hold, and never lacks a key. To be written as ASCII, as ``json.dumps`` does by
itself: in a path, bytes that are no UTF-8 are lone surrogates, as :func:`os.fsdecode` has them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from catdb.browse import ImageInfo, Page
    from catdb.duplicates import Duplicates
    from catdb.images import Failure
    from catdb.inventory import CategoryInfo, Info
    from catdb.query import Result

Shape = dict[str, Any]

_FURTHER = ("rows", "centroids", "admitted", "ceiling", "together", "without", "text", "added")


def of_result(result: Result) -> Shape:
    """Return the answer to a query."""
    return {
        "query": result.query,
        "categories": [dataclasses.asdict(category) for category in result.categories],
        "scanned": result.scanned,
        "total": result.total,
        "probed": result.probed,
        "populated": result.populated,
        "widened": result.widened,
        **{name: getattr(result, name) for name in _FURTHER},
        "notes": list(result.notes),
        "matches": [dataclasses.asdict(match) for match in result],
    }


def of_unanswered(query: Failure) -> Shape:
    """Return, in the place of an answer, why a query has none."""
    return {"query": query.path, "error": query.reason}


def of_info(info: Info) -> Shape:
    """Return what a database is and holds."""
    return dataclasses.asdict(info)


def of_categories(categories: Iterable[CategoryInfo]) -> Shape:
    """Return the categories that hold images."""
    return {"categories": [dataclasses.asdict(category) for category in categories]}


def of_category(images: Iterable[tuple[str, float]]) -> Shape:
    """Return the images of one category: (path, probability) of each."""
    return {"images": [{"path": path, "probability": probability} for path, probability in images]}


def of_image(image: ImageInfo) -> Shape:
    """Return one image."""
    return {**_of_image(image), "categories": [dataclasses.asdict(category) for category in image.categories]}


def of_page(page: Page, category: str | None = None) -> Shape:
    """Return a page of images; of a category (its id) with the probability of each."""
    images = [_of_image(image) for image in page.images]
    if category is not None:
        for shape, image in zip(images, page.images, strict=True):
            shape["probability"] = next(own.probability for own in image.categories if own.id == category)
    return {"images": images, "next": page.next, "total": page.total}


def of_failures(failures: Iterable[Failure]) -> Shape:
    """Return the files that could not be read."""
    return {"failures": _reasons(failures)}


def of_duplicates(found: Duplicates) -> Shape:
    """Return the groups of copies."""
    return {
        "groups": [
            {"tier": group.tier, "freed": group.freed, "images": [dataclasses.asdict(image) for image in group.images]}
            for group in found.groups
        ],
        "unread": _reasons(found.unread),
        "images": found.images,
        "freed": found.freed,
        "notes": list(found.notes),
    }


def _of_image(image: ImageInfo) -> Shape:
    return {"id": image.id, "path": image.path, "width": image.width, "height": image.height}


def _reasons(failures: Iterable[Failure]) -> list[Shape]:
    return [{"path": failure.path, "reason": failure.reason} for failure in failures]
