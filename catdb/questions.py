"""What is asked, in the form that a search needs: one vector, made of an image, of several, of what to be without, or
of words. Pure numbers and names.

There is no model of text here. Words are matched with the *names* of the categories, and the vector is that of the
images which stand in them: "tabby cat" asks for what is typical of the category "tabby".
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from catdb.backbones import PER_IMAGE
from catdb.errors import CategoryUnknown

AWAY = 0.5
"""How much of the mean of the images to be without is taken from a query, Rocchio's gamma (see :func:`without`)."""
Names = Sequence[tuple[str, str]]  # (id, name) of the categories by number


@dataclass(frozen=True, slots=True)
class Point:
    """A query as the search needs it: a unit vector (d,) and its own categories, most probable first."""

    vector: NDArray[np.float16]
    categories: tuple[tuple[int, float], ...]
    notes: tuple[str, ...] = ()  # what a person should know of where it comes from, a line each


def together(points: Sequence[Point]) -> Point:
    """Return several points as one: the mean of their unit vectors, and the categories with the highest mean
    probability (0 where one is not among an image's four). Raises ValueError where the vectors cancel out.
    """
    if len(points) == 1:
        return points[0]
    shares: dict[int, float] = {}
    for point in points:
        for category, probability in point.categories:
            shares[category] = shares.get(category, 0.0) + probability / len(points)
    ranked = sorted(shares.items(), key=lambda share: -share[1])  # stable: ties in the order of the images
    mean = np.mean([_unit(point.vector) for point in points], axis=0)
    return Point(_unit(mean).astype(np.float16), tuple(ranked[:PER_IMAGE]), _notes(points))


def without(point: Point, others: Sequence[Point]) -> Point:
    """Return a point turned away from others: unit(q - AWAY * mean(others)), all of unit length; its categories stay.

    J. Rocchio, "Relevance feedback in information retrieval", 1971, with alpha = 1 and gamma = 0.5. (The 0.15 that is
    common for text is too little here: of queries by two Corel-1k photographs together, without a third of the second
    one's class, that class made up 0.43 of the first ten, 0.30 with gamma 0.15, 0.12 with 0.5, 0.08 with 1.) With a
    gamma below 1 it never vanishes, not even without the query's own image.
    """
    if not others:
        return point
    away = np.mean([_unit(other.vector) for other in others], axis=0)
    vector = _unit(_unit(point.vector) - AWAY * away).astype(np.float16)
    return replace(point, vector=vector, notes=_notes([point, *others]))


def of_categories(centroids: Mapping[int, NDArray[np.float32]]) -> Point:
    """Return the point of what is typical of some categories, each given with its centroid (d,); all count alike."""
    share = ((category, 1 / len(centroids)) for category in centroids)
    mean = np.mean([_unit(centroid) for centroid in centroids.values()], axis=0)
    return Point(_unit(mean).astype(np.float16), tuple(share))


def _notes(points: Iterable[Point]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(chain.from_iterable(point.notes for point in points)))


def _unit(vector: NDArray[np.floating]) -> NDArray[np.float64]:
    values = np.asarray(vector, np.float64)
    length = float(np.linalg.norm(values))
    if not length > 1e-6:
        raise ValueError("these images cancel each other out: together they have no direction")
    return values / length


# --- names --------------------------------------------------------------------------------------------------------


def category_named(name: str, names: Names) -> int:
    """Return the number of the category with this id or name. CategoryUnknown, with the choices, where not just one."""
    if not isinstance(name, str):
        raise TypeError(f"category is {name!r}: it must be the id or the name of one, as text")
    if not name.strip():
        raise CategoryUnknown("the name of the category is empty; see catdb categories")
    asked, plain = name.casefold(), _plain(name)
    found = [n for n, (key, word) in enumerate(names) if asked == key.casefold() or plain == _plain(word)]
    if len(found) > 1:
        choices = ", ".join(names[n][0] for n in found)
        raise CategoryUnknown(f"{len(found)} categories are called {name!r}: {choices}; give the id")
    if not found:
        near = [f"{key} {word}" for key, word in names if plain in _plain(word)][:5]
        raise CategoryUnknown(
            f"no category is called {name!r}; " + (f"near: {', '.join(near)}" if near else "see catdb categories")
        )
    return found[0]


@dataclass(frozen=True, slots=True)
class Meaning:
    """The categories, by number, that a text is taken to mean, and a line that says so."""

    categories: tuple[int, ...]
    note: str


def meaning(text: str, names: Names, held: Collection[int]) -> Meaning:
    """Return what a text means: of the categories that hold images those whose names share the most words with it.

    How much is shared is Dice's coefficient of the two sets of words; an id means its category. CategoryUnknown, with
    near names, where no name shares a word, or only such as hold no image.
    """
    if not isinstance(text, str):
        raise TypeError(f"text is {text!r}: it must be words")
    words = _words(text)
    scores = {number: _shared(text, words, *names[number]) for number in range(len(names))}
    best = max(scores.values(), default=0.0)
    if not words or not best:
        near = _near(words, names)
        raise CategoryUnknown(
            f"no category's name has a word of {text!r}, and there is no text model; "
            + (f"near: {', '.join(near)}" if near else "see catdb categories")
        )
    meant = [number for number, score in scores.items() if score == best]
    found = max((scores[number] for number in held), default=0.0)
    if not found:
        said = ", ".join(names[number][1] for number in meant[:5])
        raise CategoryUnknown(f"no image stands in the categories that {text!r} names ({said}); see catdb categories")
    chosen = tuple(number for number in sorted(held) if scores[number] == found)
    note = "text is matched with the names of categories alone: " + ", ".join(names[n][1] for n in chosen)
    if best > found:
        note += f"; no image stands in {', '.join(names[n][1] for n in meant[:5])}"
    said_words = set().union(*(_words(" ".join(names[n])) for n in chosen))
    lost = [word for word in dict.fromkeys(_split(text)) if _stem(word) not in said_words]
    return Meaning(chosen, note + (f"; not in their names: {', '.join(lost)}" if lost else ""))


def _shared(text: str, words: set[str], key: str, name: str) -> float:
    own = _words(name)
    if text.strip().casefold() == key.casefold():
        return 1.0
    return 2 * len(words & own) / (len(words) + len(own)) if own else 0.0


def _near(words: set[str], names: Names) -> list[str]:
    """Return up to five categories, as "id name", with a word much like one of these."""
    every = {word for _, name in names for word in _words(name)}
    close = {like for word in words for like in difflib.get_close_matches(word, every, n=3, cutoff=0.7)}
    return [f"{key} {name}" for key, name in names if _words(name) & close][:5]


def _words(text: str) -> set[str]:
    return {_stem(word) for word in _split(text)}


def _split(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


def _stem(word: str) -> str:
    """Return a word without a plural's s."""
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ")
