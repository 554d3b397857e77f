"""From files to the catalog: read ahead in threads, embed without a pause, commit a few hundred at a time.

    Todo ─ read, ahead ─▶ Picture ─ a batch ─▶ request to the engine, a few under way ─▶ Put ─▶ commit
                       ─▶ Content: the same bytes are known, so its vector is, too ─▶ Put
                       ─▶ Failure

The engine always has its next batch while a commit waits for the disk, and a file is being read for each core, by a
thread that has it decoded in a process of its own: a file that ends its decoder is a Failure like any other. What is
held at once is bounded: AHEAD decoded pictures, and the few batches that the engine takes at a time.
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from catdb.backbones import Embedding, Engine
from catdb.catalog import Image, Put, Todo
from catdb.images import Content, Decoders, Failure, Picture, fingerprint, read
from catdb.roots import Roots
from catdb.store import Store

AHEAD = 64  # pictures that are read ahead of the engine
_LOOKED = 10_000  # contents of which it is remembered how far their images were looked at
_PER_COMMIT = 256  # images in one commit...
_SECONDS = 5.0  # ...or as many as come in this time, so that an interruption costs little

_KINDS = {"moved over": ("removed", "moved")}  # what is told of an outcome that is two things

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Event:
    """What became of one file, told when it can be found by a search, or no longer."""

    kind: str  # "added", "changed", "moved", "removed" or "failed"
    path: str
    source: str | None = None  # where a moved one was before
    reason: str | None = None  # why a failed one could not be read


@dataclass
class _Request:
    """A batch that is being embedded: of each image what is stored beside its vector, its pixels given away."""

    images: list[tuple[Todo, Content, int, int]]
    future: Future[Embedding]


@dataclass
class Intake:
    """Takes files in. ``counts`` says what became of them, ``failed`` lists those that could not be read."""

    store: Store
    engine: Engine
    roots: Roots
    decoders: Decoders
    announce: Callable[[Event], None]
    counts: Counter[str] = field(default_factory=Counter)
    failed: list[Failure] = field(default_factory=list)
    _pictures: list[tuple[Todo, Picture]] = field(default_factory=list)
    _requests: deque[_Request] = field(default_factory=deque)
    _copies: dict[bytes, list[tuple[Todo, Content, int, int]]] = field(default_factory=dict)  # of what is under way
    _puts: list[Put] = field(default_factory=list)
    _embedded: dict[bytes, Put] = field(default_factory=dict)  # by content, of those that wait for the commit
    _looked: dict[bytes, int] = field(default_factory=dict)  # by content, the last image of it that was looked at
    _faults: list[tuple[int, bytes, Failure]] = field(default_factory=list)
    _since: float = field(default_factory=time.monotonic)

    def take(self, todos: Iterable[Todo], *, jobs: int, progress: Callable[[int, int], None]) -> None:
        """Read, embed and commit files. ``progress`` is told (files read, failures so far).

        When it is left early, by an interruption or an error, whatever had been embedded is committed all the same.
        """
        window = max(AHEAD, 2 * jobs)
        try:
            with (
                ThreadPoolExecutor(jobs, "catdb-read") as pool,
                self.decoders.lent(),
                closing(_ahead(pool, lambda todo: (todo, self._read(todo)), todos, window)) as work,
            ):  # left from below: when the build is interrupted, what is not begun and what is under way are given up
                for number, (todo, outcome) in enumerate(work, 1):
                    self._sort(todo, outcome)
                    self._commit_when_due()
                    progress(number, len(self.failed) + len(self._faults))
            self._embed()
            while self._requests:
                self._receive()
                self._commit_when_due()
        finally:
            while self._requests and self._requests[0].future.done() and not self._requests[0].future.exception():
                self._receive()
            self._commit()

    def _read(self, todo: Todo) -> Picture | Content | Failure | None:
        """Read one file, in a thread: a Content where the same bytes are known already, None where the file is gone."""
        path = self.roots.path(todo.root, todo.path)
        if todo.reason is not None:
            return Failure(path, todo.reason, todo.stamp)
        outcome: Picture | Content | Failure = fingerprint(path)
        if isinstance(outcome, Content):
            with self.store.snapshot() as snapshot:
                if any(snapshot.catalog.images_of(outcome.digest)):
                    return outcome
            outcome = read(outcome, self.engine.input_size, self.decoders.decode)
        return None if isinstance(outcome, Failure) and is_gone(path) else outcome

    def _sort(self, todo: Todo, outcome: Picture | Content | Failure | None) -> None:
        if isinstance(outcome, Picture):
            if self._is_copy(todo, outcome):
                return
            self._copies[outcome.content.digest] = []
            self._pictures.append((todo, outcome))
            if len(self._pictures) >= self.engine.batch:
                self._embed()
        elif isinstance(outcome, Content):
            self._reuse(todo, outcome)
        elif outcome is not None:
            self._faults.append((todo.root, todo.path, outcome))

    def _is_copy(self, todo: Todo, picture: Picture) -> bool:
        """Say whether the same bytes have just been embedded, or are about to be, and see to the picture then."""
        digest, size = picture.content.digest, (picture.width, picture.height)
        if digest in self._copies:
            self._copies[digest].append((todo, picture.content, *size))
        elif put := self._embedded.get(digest):
            self._put(todo, picture.content, size, put.vector, put.categories, put.probabilities)
        else:
            return False
        return True

    def _embed(self) -> None:
        """Hand the pictures to the engine, waiting for the oldest request where it has enough to do."""
        while self._requests and (self._requests[0].future.done() or len(self._requests) >= self.engine.requests):
            self._receive()
        self._commit_when_due()  # while the engine is at work on the others
        if self._pictures:
            future = self.engine.submit(np.stack([picture.pixels for _, picture in self._pictures]))
            images = [(todo, p.content, p.width, p.height) for todo, p in self._pictures]
            self._requests.append(_Request(images, future))
            self._pictures.clear()

    def _receive(self) -> None:
        """Take the oldest request's vectors; waits for them."""
        request = self._requests.popleft()
        embedding = request.future.result()
        vectors = embedding.features.astype(np.float16)
        for row, image in enumerate(request.images):
            ranked = embedding.categories[row].tolist(), embedding.probabilities[row].tolist()
            for todo, content, width, height in [image, *self._copies.pop(image[1].digest)]:
                self._put(todo, content, (width, height), vectors[row], *ranked)

    def _reuse(self, todo: Todo, content: Content) -> None:
        """Have a file whose bytes are known wait for the commit, with the vector that they have already."""
        with self.store.snapshot() as snapshot:
            known = ((image, snapshot.catalog.vector(image.id)) for image in snapshot.catalog.images_of(content.digest))
            source = next(((image, vector) for image, vector in known if vector is not None), None)
        if source:
            image, vector = source
            moved = self._moved(todo, content)
            size = (image.width, image.height)
            self._put(todo, content, size, vector, image.categories, image.probabilities, moved)
        else:  # deleted since it was looked up, or damaged
            self._sort(todo, read(content, self.engine.input_size, self.decoders.decode))

    def _put(
        self,
        todo: Todo,
        content: Content,
        size: tuple[int, int],
        vector: NDArray[np.float16],
        categories: Sequence[int],
        probabilities: Sequence[float],
        moved_from: Image | None = None,
    ) -> None:
        put = Put(
            root=todo.root,
            path=todo.path,
            stamp=content.stamp,
            digest=content.digest,
            width=size[0],
            height=size[1],
            vector=vector,
            categories=categories,
            probabilities=probabilities,
            moved_from=moved_from,
        )
        self._puts.append(put)
        self._embedded[put.digest] = put

    def _moved(self, todo: Todo, content: Content) -> Image | None:
        """Return the image that has become this file: the same bytes, its own file gone though its root is there.

        Of images with the same bytes each is looked at for one new file, and not again for the next: of thousands of
        copies that would be millions of looks.
        """
        with self.store.snapshot() as snapshot:
            here = snapshot.catalog.image_at(todo.root, todo.path)
            if here and here.digest == content.digest:
                return None  # only touched
            for image in snapshot.catalog.images_of(content.digest, self._looked.get(content.digest, 0)):
                self._looked[content.digest] = image.id
                there = os.path.isdir(self.roots.folder(image.root))
                if there and is_gone(self.roots.path(image.root, image.path)):
                    return image
        return None

    def _commit_when_due(self) -> None:
        waiting = len(self._puts) + len(self._faults)
        if waiting >= _PER_COMMIT or (waiting and time.monotonic() - self._since >= _SECONDS):
            self._commit()

    def _commit(self) -> None:
        if self._puts or self._faults:
            faults = [(root, path, failure.reason, failure.stamp) for root, path, failure in self._faults]
            puts, failed = self._puts, [failure for _, _, failure in self._faults]
            outcomes = self.store.commit(puts, faults, maker=self.engine.maker if puts else None)
            self._puts, self._faults, self._embedded = [], [], {}
            if len(self._looked) > _LOOKED:
                self._looked = {}
            self.failed += failed
            for put, outcome in zip(puts, outcomes, strict=True):
                for kind in _KINDS.get(outcome, (outcome,)) if outcome else ():
                    self.counts[kind] += 1
                    if kind != "unchanged":
                        source = put.moved_from if kind == "moved" else None
                        before = self.roots.path(source.root, source.path) if source else None
                        self.announce(Event(kind, self.roots.path(put.root, put.path), before))
            for failure in failed:
                self.announce(Event("failed", failure.path, reason=failure.reason))
        self._since = time.monotonic()


def is_gone(path: str) -> bool:
    """Say whether it is certain that nothing has this path: that a folder on the way is closed to us proves nothing."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _ahead(
    pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], window: int
) -> Generator[R, None, None]:
    """Map in a pool, in order, with at most ``window`` under way; the rest is given up when it is left early."""
    running: deque[Future[R]] = deque()
    try:
        for item in items:
            running.append(pool.submit(function, item))
            if len(running) >= window:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        for future in running:
            future.cancel()
