"""The shapes of :mod:`catdb.shapes` as the OpenAPI document has them, and the limits of what may be asked."""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Literal

from fastapi import Header, Path, Query
from pydantic import BaseModel

from catdb.web.thumbnails import SIZES

Number = Annotated[int, Path(ge=1, le=2**53, description="The number of an image, as matches and pages give it.")]
Wanted = Annotated[int, Query(ge=1, le=2**53, description="The number of the image to search with.")]
Own = Annotated[
    Literal["1"], Header(description="Shows that the request comes from a page of this server, or from no page at all.")
]
K = Annotated[int, Query(ge=1, le=1000, description="The most matches to return.")]
Recall = Annotated[
    float | None,
    Query(
        gt=0, le=1, allow_inf_nan=False, description="Search as far as it takes to find this share of the 10 nearest."
    ),
]
Exact = Annotated[bool, Query(description="Compare with every image.")]
Probes = Annotated[int, Query(ge=1, le=1000, description="How many categories to search.")]
Category = Annotated[
    str | None, Query(max_length=200, description="Return only images of this category (an id or a name).")
]
After = Annotated[str | None, Query(max_length=20_000, description="The `next` of the previous page.")]
Limit = Annotated[int, Query(ge=1, le=500, description="The most entries on a page.")]


class Side(IntEnum):
    """How large a thumbnail is."""

    SMALL, USUAL, LARGE, WHOLE = SIZES


USUAL = Side.USUAL
Size = Annotated[Side, Query(description="The longest side in pixels, at most.")]


class Error(BaseModel):
    error: str


class Engine(BaseModel):
    state: Literal["starting", "ready", "failed"]
    reason: str


class Status(BaseModel):
    images: int
    failed: int
    categories: int
    version: str
    engine: Engine
    watcher: str | None


class Root(BaseModel):
    path: str
    online: bool
    images: int
    whole: bool
    reconciled: float | None


class Info(BaseModel):
    path: str
    images: int
    failed: int
    categories: int
    pending: int
    bytes: int
    backbone: str
    weights_sha256: str | None
    engine: str
    precision: str
    cache: str | None
    dimension: int
    dimensions: int | None
    shortened: bool
    store: str
    format: int
    created: float
    roots: list[Root]
    excludes: list[str]
    watcher: str | None


class Prediction(BaseModel):
    id: str
    name: str
    probability: float


class Thumb(BaseModel):
    id: int
    path: str
    width: int
    height: int


class Member(Thumb):
    probability: float | None = None


class Images(BaseModel):
    images: list[Member]
    next: str | None
    total: int


class Image(Thumb):
    categories: list[Prediction]


class Match(BaseModel):
    rank: int
    path: str
    similarity: float
    categories: list[Prediction]
    percentile: float | None
    id: int


class Answer(BaseModel):
    query: str | None
    categories: list[Prediction]
    scanned: int
    total: int
    probed: int
    populated: int
    widened: bool
    rows: int
    centroids: int
    admitted: int
    ceiling: float | None
    together: list[str | None]
    without: list[str | None]
    text: str | None
    added: bool
    notes: list[str]
    matches: list[Match]
    seconds: float


class CategoryImages(BaseModel):
    id: str
    name: str
    images: int


class Categories(BaseModel):
    categories: list[CategoryImages]


class Duplicate(Thumb):
    bytes: int
    modified: float
    similarity: float
    copies: int


class Group(BaseModel):
    tier: Literal["bytes", "pixels", "near"]
    freed: int
    images: list[Duplicate]


class Failure(BaseModel):
    path: str
    reason: str


class Duplicates(BaseModel):
    groups: list[Group]
    unread: list[Failure]
    images: int
    freed: int
    notes: list[str]


class Running(BaseModel):
    state: Literal["running"]
    step: str
    done: int
    of: int | None


class Failures(BaseModel):
    failures: list[Failure]
    next: str | None
    total: int
