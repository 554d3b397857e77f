"""What a disk may hold after a power loss: a model that is fed the calls of a program and asked for states.

It is as strict as the standard, and stricter than most file systems:

* what was written to a file since its last fsync may be kept, dropped or torn at the sectors of 512 bytes, every
  write for itself, so that a later one may be kept where an earlier one is lost; likewise every change of size;
* where a file grew without its data, zeros or anything else may stand;
* a name (made, renamed, linked, taken away) is durable once its *directory* was forced, and not before; until then
  each change of names may have happened or not, whatever became of the others. A file's own fsync makes no name
  durable, and what lies in a directory that is lost is lost with it;
* a rename is atomic: it happened for both names or for neither.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from faults.library import Call, Record

SECTOR = 512
_CHANCES = (0.0, 0.1, 0.5, 0.9, 1.0)  # of a change to be kept; one of them for a whole state, so that extremes occur
_TORN = (0.0, 0.5)  # likewise, of a write that is not kept to be torn

State = dict[str, bytes | None]  # what a directory holds below it, by path; None for a directory


@dataclass(slots=True, eq=False)
class _File:
    durable: bytes = b""
    waiting: list[Record] = field(default_factory=list)  # writes and truncations since the last fsync


@dataclass(slots=True, eq=False)
class _Folder:
    durable: _Names = field(default_factory=dict)
    live: _Names = field(default_factory=dict)


_Names = dict[str, _File | _Folder]
_Naming = list[tuple[_Folder, str, _File | _Folder | None]]  # what one call does to names, wholly or not at all


class Disk:
    """A directory as a program sees it, and as a power loss may leave it. It begins with ``base``, all durable."""

    def __init__(self, base: State | None = None) -> None:
        self._top = _Folder()
        self._waiting: list[_Naming] = []
        self.marks: list[str] = []
        for path, data in sorted((base or {}).items()):
            parent, name = self._place(path)
            parent.live[name] = parent.durable[name] = _Folder() if data is None else _File(data)

    def apply(self, record: Record) -> None:
        """Take in the next call."""
        call = record.call
        if call == Call.MARK:
            self.marks.append(record.data.decode())
        elif call == Call.FSYNC_DIRECTORY:
            self._force_names(self._find(record.path))
        elif call in (Call.WRITE, Call.TRUNCATE):
            self._find(record.path).waiting.append(record)
        elif call == Call.FSYNC:
            file = self._find(record.path)
            file.durable = bytes(_written(file))
            file.waiting = []
        elif call in (Call.CREATE, Call.MKDIR):
            self._name((*self._place(record.path), _File() if call == Call.CREATE else _Folder()))
        elif call in (Call.UNLINK, Call.RMDIR):
            self._name((*self._place(record.path), None))
        elif call == Call.LINK:
            self._name((*self._place(record.path2), self._find(record.path)))
        elif call == Call.RENAME:
            self._name((*self._place(record.path), None), (*self._place(record.path2), self._find(record.path)))
        else:
            raise ValueError(f"a record of the call {call}")

    def now(self) -> State:
        """Return what a program sees, and what a killed one leaves."""
        return dict(_tree(self._top, lambda folder: folder.live, lambda file: bytes(_written(file))))

    def after_power_loss(self, chance: random.Random) -> State:
        """Return one of the states that a power loss may leave here."""
        names: dict[int, _Names] = {}  # of the folders of which a name has changed since it was forced
        keep = chance.choice(_CHANCES)
        for naming in self._waiting:
            if chance.random() < keep:
                for folder, name, node in naming:
                    _set(names.setdefault(id(folder), dict(folder.durable)), name, node)
        keep, torn = chance.choice(_CHANCES), chance.choice(_TORN)
        return dict(
            _tree(
                self._top,
                lambda folder: names.get(id(folder), folder.durable),
                lambda file: _survived(file, keep, torn, chance),
            )
        )

    def _find(self, path: str) -> _File | _Folder:
        node: _File | _Folder = self._top
        for name in path.split("/") if path else ():
            node = node.live[name]
        return node

    def _place(self, path: str) -> tuple[_Folder, str]:
        parent, _, name = path.rpartition("/")
        return self._find(parent), name

    def _name(self, *naming: tuple[_Folder, str, _File | _Folder | None]) -> None:
        for folder, name, node in naming:
            _set(folder.live, name, node)
        self._waiting.append(list(naming))

    def _force_names(self, folder: _Folder) -> None:
        """Make the names of a folder durable, and those that they depend on: the other name of a rename, and before."""
        forced, forced_names = [], set()
        for naming in reversed(self._waiting):
            places = {(id(place), name) for place, name, _ in naming}
            if any(place is folder for place, _, _ in naming) or places & forced_names:
                forced.append(naming)
                forced_names |= places
        for naming in reversed(forced):
            self._waiting.remove(naming)
            for place, name, node in naming:
                _set(place.durable, name, node)


def _set(names: _Names, name: str, node: _File | _Folder | None) -> None:
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node


def _tree(
    folder: _Folder, names: Callable[[_Folder], _Names], content: Callable[[_File], bytes], prefix: str = ""
) -> Iterator[tuple[str, bytes | None]]:
    """Yield (path, content or None) of everything below a folder, a folder before what is in it."""
    for name, node in sorted(names(folder).items()):
        if isinstance(node, _Folder):
            yield prefix + name, None
            yield from _tree(node, names, content, f"{prefix}{name}/")
        else:
            yield prefix + name, content(node)


def _written(file: _File) -> bytearray:
    """Return a file's content when nothing is lost."""
    content = bytearray(file.durable)
    for record in file.waiting:
        if record.call == Call.TRUNCATE:
            _resize(content, record.offset)
        else:
            _grow(content, record.offset + len(record.data))
            content[record.offset : record.offset + len(record.data)] = record.data
    return content


def _survived(file: _File, keep: float, torn: float, chance: random.Random) -> bytes:
    """Return what a file may hold after a power loss: each change kept, dropped or torn for itself."""
    content = bytearray(file.durable)
    for record in file.waiting:
        whole = chance.random() < keep
        if record.call == Call.TRUNCATE:
            if whole:
                _resize(content, record.offset)
        elif whole or chance.random() < torn:
            if whole or chance.random() < 0.5:  # the size may be written, and the data not
                _grow(content, record.offset + len(record.data), chance.choice((bytes, chance.randbytes)))
            for start, sector in _sectors(record):
                if whole or chance.random() < 0.5:
                    _grow(content, start + len(sector))
                    content[start : start + len(sector)] = sector
    return bytes(content)


def _sectors(record: Record) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, data) of a write, cut at the sectors of the file."""
    start = record.offset
    end = start + len(record.data)
    while start < end:
        stop = min(end, (start // SECTOR + 1) * SECTOR)
        yield start, record.data[start - record.offset : stop - record.offset]
        start = stop


def _grow(content: bytearray, size: int, fill: Callable[[int], bytes] = bytes) -> None:
    if len(content) < size:
        content += fill(size - len(content))


def _resize(content: bytearray, size: int) -> None:
    _grow(content, size)
    del content[size:]


# --- many states of one log -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Loss:
    """One power loss: its number, after how many records, what it left, and the marks that came before it."""

    number: int
    cut: int
    state: State
    marks: tuple[str, ...]


def losses(
    log: Sequence[Record], count: int, seed: int, *, start: int = 0, base: State | None = None
) -> Iterator[Loss]:
    """Yield the power losses start <= number < count at random places of a log, in the order of the log.

    They follow from log, count and seed.
    """
    places = [place for place, record in enumerate(log, 1) if record.call != Call.MARK]
    disk, done = Disk(base), 0
    for number, cut in enumerate(sorted(random.Random(seed).choices(places, k=count))):
        for record in log[done:cut]:
            disk.apply(record)
        done = cut
        if number >= start:
            state = disk.after_power_loss(random.Random(f"{seed} {number}"))
            yield Loss(number, cut, state, tuple(disk.marks))


def lay_out(state: State, place: Path) -> None:
    """Make a state's files and folders in a new directory."""
    place.mkdir()
    for path, data in state.items():
        if data is None:
            place.joinpath(path).mkdir()
        else:
            place.joinpath(path).write_bytes(data)
