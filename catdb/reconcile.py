"""Bring the database in step with folders: find, compare, take in, drop, fold.

    find ─▶ survey: what is new, changed, gone ─▶ intake: read, embed, commit ─▶ drop what is gone ─▶ fold

Memory does not depend on the number of files: the survey is in temporary tables. What has been committed stays: an
interrupted build goes on where it stopped, because the next survey does not find it new.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from catdb import calibration
from catdb.backbones import Engine
from catdb.catalog import Catalog, Survey, Todo, is_forgotten, is_removed
from catdb.errors import PathNotFound
from catdb.images import Decoders, Failure, Found, Unlisted, excluded, find, ignored
from catdb.ingest import Event, Intake, is_gone
from catdb.roots import Roots, adopt
from catdb.store import Store

_GUARDED = 50  # images from which a root is believed to be away, not emptied, when more than half are missing


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a build is, or a backup. ``step`` is what it is doing; ``total`` is None while it is not known."""

    step: str
    done: int
    total: int | None
    failed: int


Tell = Callable[[Progress], None]


def told(progress: Tell) -> Callable[[str, int, int], None]:
    """Return what tells of a step, how much of it is done, and of how much."""
    return lambda step, done, of: progress(Progress(step, done, of, 0))


@dataclass(frozen=True, slots=True)
class Kept:
    """A root whose missing images were kept, because it seems to be away (unmounted) and not emptied."""

    path: str
    images: int

    @property
    def line(self) -> str:
        """What a person should know of it, in a few words."""
        kept, them = ("image is", "it") if self.images == 1 else ("images are", "them")
        return f"its {self.images:,} missing {kept} kept and can be searched still; catdb build --prune drops {them}"


@dataclass(frozen=True, slots=True)
class Report:
    """What a build did. ``failed`` lists all in the named folders that could not be read, new or not."""

    added: int
    changed: int
    moved: int
    removed: int
    unchanged: int
    failed: tuple[Failure, ...]
    total: int  # images in the database now
    kept: tuple[Kept, ...]
    seconds: float
    unsettled: tuple[str, ...] = ()  # paths that were left for later, because somebody may still be writing there


@dataclass(frozen=True, slots=True)
class Means:
    """What a reconciliation works with, and whom it tells.

    ``decoders``: workers that outlast it. ``announce`` is told of each file when the change can be found by a search.
    ``settle``: seconds for which a file must not have been written to before it is taken in.
    """

    store: Store
    engine: Engine
    decoders: Decoders
    jobs: int | None = None
    progress: Tell = lambda step: None
    announce: Callable[[Event], None] = lambda event: None
    settle: float = 0.0


@dataclass
class _Run:
    """One reconciliation in progress. ``partial``: not all of a root is looked at, only what may have changed.

    ``keeping``: what is not there may only have gone somewhere else, and is kept.
    """

    means: Means
    prune: bool = False
    adding: bool = False
    partial: bool = False
    keeping: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    failed: list[Failure] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    closed: set[int] = field(default_factory=set)  # roots that are there and cannot be listed
    unsettled: list[str] = field(default_factory=list)

    @property
    def store(self) -> Store:
        return self.means.store

    def progress(self, step: str, done: int, total: int | None = None) -> None:
        self.means.progress(Progress(step, done, total, len(self.failed)))


def reconcile(means: Means, targets: Sequence[str] | None, *, prune: bool = False, adding: bool = False) -> Report:
    """Bring the database in step with the targets, absolute paths of folders or files (None: all known roots).

    ``prune`` drops the missing images of roots that seem to be away. ``adding`` takes removed paths back and drops
    nothing. Raises PathNotFound for a target that neither exists nor is known; then nothing has been done.
    """
    run = _Run(means, prune=prune, adding=adding)
    return _carry_out(run, *_prepare(means.store, targets, adding=adding))


def refresh(means: Means, paths: Iterable[str], *, keeping: bool = False) -> Report:
    """Bring the database in step with what is, or was, at and below these absolute paths, so far as roots hold them.

    Unlike :func:`reconcile` it takes nothing in for being named: what is left out of a build is left out here.
    ``keeping``: keep what is not there, for it may only have gone somewhere else.
    """
    with means.store.snapshot() as snapshot:
        roots = Roots(snapshot.catalog.roots(), means.store.path)
        removed = {root.id: snapshot.catalog.removed(root.id) for root in roots.all}
        named = {place for place in map(roots.place, paths) if place}
        places = sorted({*named, *_other_names(snapshot.catalog, roots, named)})
        places = [
            (root, path)
            for root, path in places
            if not is_removed(path, removed[root]) and (roots.get(root).whole or snapshot.catalog.is_known(root, path))
        ]
    return _carry_out(_Run(means, partial=True, keeping=keeping), roots, places)


def _other_names(catalog: Catalog, roots: Roots, places: Iterable[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Return where else the files at these places are known, as other names of them or as links: no event tells."""
    known: set[int] = set()
    new: set[int] = set()
    for place in places:
        known.update(catalog.inodes_below(*place))
        with suppress(OSError):
            status = os.stat(roots.path(*place))
            (known if status.st_nlink > 1 else new).add(status.st_ino)
    # What is new can be known by a link alone, and was then looked at while it was being written.
    found = catalog.places_of(known | new, failures=True) if known or new else []
    return found + (catalog.places_of(known, failures=False) if known else [])


def _carry_out(run: _Run, roots: Roots, places: Sequence[tuple[int, bytes]]) -> Report:
    start = time.monotonic()
    if places or not run.partial:
        survey = run.store.survey()
        try:
            _survey(run, survey, roots, places)
            known = survey.known_failures()
            run.failed += [Failure(roots.path(root, path), reason) for root, path, reason in known]
            run.counts["unchanged"] += survey.count("found") - survey.count("todo") - len(known)
            _take_in(run, survey, roots)
            if not run.adding:
                _drop_gone(run, survey, roots)
            _tidy(run, survey, roots, places)
        finally:
            survey.close()
        # One new photograph does not make four shards anew, but a build leaves everything folded that is worth it.
        run.store.fold_due(at_rest=not run.partial, progress=lambda done, of: run.progress("folding", done, of))
        calibration.refresh(run.store)
    with run.store.snapshot() as snapshot:
        total = snapshot.catalog.count()
    return Report(
        **{name: run.counts[name] for name in ("added", "changed", "moved", "removed", "unchanged")},
        failed=tuple(run.failed),
        total=total,
        kept=tuple(run.kept),
        unsettled=tuple(run.unsettled),
        seconds=time.monotonic() - start,
    )


def require(store: Store, targets: Sequence[str]) -> None:
    """Raise PathNotFound for a target that neither exists nor is known: what is known and gone is to be dropped."""
    with store.snapshot() as snapshot:
        roots = Roots(snapshot.catalog.roots(), store.path)
        for target in targets:
            place = roots.place(target)
            if not os.path.lexists(target) and not (place and (not place[1] or snapshot.catalog.is_known(*place))):
                raise PathNotFound(f"{target}: no such file or folder; nothing was changed")


def _prepare(store: Store, targets: Sequence[str] | None, *, adding: bool) -> tuple[Roots, list[tuple[int, bytes]]]:
    """Have every target lie in a root; return the roots, and the targets as (root, path below it)."""
    require(store, targets or ())
    with store.writing() as catalog, catalog.transaction():
        for target in targets or ():
            if os.path.isdir(target):
                adopt(catalog, store.path, target, whole=True)
            elif os.path.lexists(target):
                adopt(catalog, store.path, os.path.dirname(target), whole=False)
        roots = Roots(catalog.roots(), store.path)
        if targets is None:
            return roots, [(root.id, b"") for root in roots.all if not is_forgotten(catalog.removed(root.id))]
        places = [place for place in map(roots.place, targets) if place]
        for place in places if adding else ():
            catalog.clear_removed(*place)
        return roots, places


def _survey(run: _Run, survey: Survey, roots: Roots, places: Sequence[tuple[int, bytes]]) -> None:
    """Tell the survey what is there."""
    with run.store.snapshot() as snapshot:
        excludes = snapshot.catalog.excludes()
        removed = {root.id: snapshot.catalog.removed(root.id) for root in roots.all}
    batch: list[Todo] = []
    number = 0
    for root, below in places:
        top = roots.path(root, below)
        if not run.prune and not os.path.isdir(roots.folder(root)):
            continue  # away: neither found nor gone; _tidy keeps it
        survey.scope(root, below)
        reason = _left_out(roots, root, below, excludes)
        if reason:
            run.failed += [Failure(top, reason)] if run.adding else []
            continue
        for found in _look(run, roots, root, top, excludes):
            path = os.fsencode(found.path)[len(os.fsencode(roots.folder(root)).rstrip(b"/")) + 1 :]
            if isinstance(found, Unlisted):
                survey.unlisted(root, path)
                if not path:
                    run.closed.add(root)
                away = is_gone(found.path) or os.path.islink(found.path)
                if away and not os.path.isdir(found.path) and not _is_known(run.store, root, path):
                    continue
            if not is_removed(path, removed[root]):
                reason = found.reason if isinstance(found, Failure) else None
                batch.append(Todo(root, path, found.stamp, reason))
            number += 1
            if len(batch) >= 1000:
                survey.found(batch)
                batch.clear()
                run.progress("finding", number)
    survey.found(batch)
    survey.settle()


def _is_known(store: Store, root: int, path: bytes) -> bool:
    with store.snapshot() as snapshot:
        return snapshot.catalog.is_known(root, path)


def _left_out(roots: Roots, root: int, below: bytes, excludes: Sequence[str]) -> str | None:
    """Say why something that was named is left out all the same, as it is when its root is looked through."""
    path = os.fsdecode(below)
    for glob in excludes if path else ():
        if excluded(path, [glob]):
            return f"left out by --exclude {glob}; catdb build --include {glob} takes that back"
    names = path.split("/") if path and roots.get(root).whole else []
    for depth, name in enumerate(names, 1):
        if ignored(name, depth < len(names) or os.path.isdir(roots.path(root, below))):
            return f"left out with everything that is called like {name}"
    return None


def _look(run: _Run, roots: Roots, root: int, top: str, excludes: Sequence[str]) -> Iterator[Found | Failure]:
    """Yield the candidates at and below a path of a root; of a root that is not whole only the files known of it."""
    whole = roots.get(root).whole
    if whole or top != roots.folder(root):
        if os.path.lexists(top):
            named = not (run.partial and whole)
            yield from find(top, excludes=excludes, skip=[run.store.path], base=roots.folder(root), named=named)
        return
    with run.store.snapshot() as snapshot:
        known = snapshot.catalog.paths_of(root)
    for path in known:
        if os.path.lexists(roots.path(root, path)) and not excluded(os.fsdecode(path), excludes):
            yield from find(roots.path(root, path))


def _take_in(run: _Run, survey: Survey, roots: Roots) -> None:
    """Read, embed and commit what is new or changed."""
    total = survey.count("todo")
    if not total:
        return
    intake = Intake(run.store, run.means.engine, roots, run.means.decoders, run.means.announce)
    before = len(run.failed)

    def progress(done: int, failed: int) -> None:
        run.means.progress(Progress("reading", done, total, before + failed))

    intake.take(_settled(run, survey.todo(), roots), jobs=run.means.jobs or os.cpu_count() or 1, progress=progress)
    run.counts.update(intake.counts)
    run.failed += intake.failed


def _settled(run: _Run, todos: Iterable[Todo], roots: Roots) -> Iterator[Todo]:
    """Yield what nobody is writing to any more, as far as a time can tell; put the rest off."""
    for todo in todos:
        age = time.time() - todo.stamp.mtime_ns / 1e9 if todo.stamp else run.means.settle
        if 0 <= age < run.means.settle:  # one from the future tells nothing
            run.unsettled.append(roots.path(todo.root, todo.path))
        else:
            yield todo


def _drop_gone(run: _Run, survey: Survey, roots: Roots) -> None:
    """Delete the images whose files are gone, unless their root seems to be away."""
    missing: Counter[int] = Counter()
    with run.store.snapshot() as snapshot:
        for image, root, path in survey.gone():
            known = snapshot.catalog.image_at(root, path)  # none where it was followed to another path
            there = run.keeping or os.path.lexists(roots.path(root, path))
            missing[root] += bool(known and known.id == image and not there)
        sizes = {root: snapshot.catalog.count_of(root) for root in missing}
    away = {
        root for root, count in missing.items() if not run.prune and _seems_away(run, roots, root, count, sizes[root])
    }
    page: list[tuple[int, int, bytes]] = []
    settled = not run.unsettled  # else one of those may be what a file that is gone has become
    for gone in survey.gone():
        if gone[1] in away or (run.keeping and not os.path.lexists(roots.path(gone[1], gone[2]))):
            continue
        if settled:
            page.append(gone)
        else:
            run.unsettled.append(roots.path(gone[1], gone[2]))
        if len(page) >= 1000:
            _drop(run, roots, page)
            page.clear()
    _drop(run, roots, page)
    if away:
        with run.store.writing() as catalog, catalog.transaction():
            for root in away:
                catalog.mark_root(root, offline=True)
                run.kept.append(Kept(roots.folder(root), missing[root]))


def _drop(run: _Run, roots: Roots, gone: Sequence[tuple[int, int, bytes]]) -> None:
    """Delete images, given as (image, root, path), where they still have that path."""
    if not gone:
        return
    dropped: list[str] = []
    with run.store.writing() as catalog, catalog.transaction():
        for image, root, path in gone:
            known = catalog.image_at(root, path)
            if known and known.id == image:
                catalog.delete(image)
                dropped.append(roots.path(root, path))
    run.counts["removed"] += len(dropped)
    for path_ in dropped:
        run.means.announce(Event("removed", path_))


def _seems_away(run: _Run, roots: Roots, root: int, missing: int, size: int) -> bool:
    """Say whether the missing files of a root are out of reach, rather than deleted."""
    if not missing:
        return False
    if run.partial and roots.get(root).offline:
        return True  # only a look at all of it can tell that it is back
    device = roots.get(root).device
    folder = roots.folder(root)
    moved = device is not None and os.path.isdir(folder) and os.stat(folder).st_dev != device
    return moved or (size >= _GUARDED and missing > size / 2)


def _tidy(run: _Run, survey: Survey, roots: Roots, places: Sequence[tuple[int, bytes]]) -> None:
    """Forget failures of files that are gone, and note which roots are there."""
    stale = survey.stale_failures()
    looked_at = {root for root, path in places if not (run.partial and path)}
    if not stale and not looked_at:
        return
    kept = {kept.path for kept in run.kept}
    with run.store.writing() as catalog, catalog.transaction():
        catalog.drop_failures(stale)
        for root in looked_at:
            folder = roots.folder(root)
            if os.path.isdir(folder) and root not in run.closed and folder not in kept:
                whole = (root, b"") in places
                catalog.mark_root(
                    root, offline=False, device=os.stat(folder).st_dev, when=time.time() if whole else None
                )
                catalog.move_root(
                    root, os.fsencode(folder), os.path.relpath(os.fsencode(folder), os.fsencode(run.store.path))
                )
            elif folder not in kept:
                catalog.mark_root(root, offline=True)
                if images := catalog.count_of(root):
                    run.kept.append(Kept(folder, images))
