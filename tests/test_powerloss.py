"""Power loss: the model of what a disk keeps, and catdb and its mutants under it."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from datetime import date
from functools import cache
from itertools import islice
from pathlib import Path

import psutil
import pytest
from faults.library import Call, Record, read_log
from faults.mutants import MUTANTS
from faults.powerloss import SECTOR, Disk, State, lay_out, losses
from faults.trial import record, verdicts
from faults.workload import DATABASE

from catdb.store import Store

SEED = int(os.environ.get("CATDB_SEED") or date.today().toordinal())
STATES = 500
MUTANT_STATES = 600  # at most: it is enough to have caught a mutant ten times
CAUGHT = 10

# --- the model --------------------------------------------------------------------------------------------------


def create(path: str) -> Record:
    return Record(Call.CREATE, path, "", 0, b"")


def write(path: str, offset: int, data: bytes) -> Record:
    return Record(Call.WRITE, path, "", offset, data)


def truncate(path: str, size: int) -> Record:
    return Record(Call.TRUNCATE, path, "", size, b"")


def force(path: str) -> Record:
    return Record(Call.FSYNC, path, "", 0, b"")


def force_names(path: str = "") -> Record:
    return Record(Call.FSYNC_DIRECTORY, path, "", 0, b"")


def name(call: Call, path: str, path2: str = "") -> Record:
    return Record(call, path, path2, 0, b"")


def states(*log: Record, base: State | None = None, count: int = 400) -> list[State]:
    """Return many of the states that a power loss after these calls may leave, each once."""
    disk = Disk(base)
    for call in log:
        disk.apply(call)
    chance = random.Random(0)
    found: list[State] = []
    for _ in range(count):
        state = disk.after_power_loss(chance)
        if state not in found:
            found.append(state)
    return found


def same(found: list[State], *expected: State) -> bool:
    return len(found) == len(expected) and all(state in found for state in expected)


def test_a_new_file_may_vanish_whatever_was_forced_of_it() -> None:
    log = (create("a"), write("a", 0, b"1"), force("a"))
    assert same(states(*log), {}, {"a": b"1"})
    assert same(states(*log, force_names()), {"a": b"1"})


def test_a_name_that_is_forced_says_nothing_of_the_content() -> None:
    found = states(create("a"), force_names(), write("a", 0, b"12"))
    assert {state["a"] for state in found} >= {b"", b"12", bytes(2)}
    assert all(len(state["a"] or b"") <= 2 for state in found)


def test_what_was_forced_stays_and_what_came_after_may_not() -> None:
    base: State = {"a": b"0000"}
    log = (write("a", 0, b"1111"), force("a"), write("a", 0, b"2222"))
    assert same(states(*log, base=base), {"a": b"1111"}, {"a": b"2222"})


def test_writes_are_kept_or_lost_each_for_itself() -> None:
    base: State = {"a": b"000"}
    found = states(*(write("a", place, b"1") for place in range(3)), base=base)
    assert {state["a"] for state in found} == {bytes(c + 48 for c in (n & 1, n >> 1 & 1, n >> 2)) for n in range(8)}


def test_a_write_is_torn_at_the_sectors_of_the_file() -> None:
    old, new, start = b"0" * 3 * SECTOR, b"1" * 2 * SECTOR, SECTOR // 2
    found = {state["a"] for state in states(write("a", start, new), base={"a": old})}
    pieces = ((start, SECTOR), (SECTOR, 2 * SECTOR), (2 * SECTOR, 2 * SECTOR + start))
    expected = set()
    for kept in range(8):
        content = bytearray(old)
        for number, (first, last) in enumerate(pieces):
            if kept >> number & 1:
                content[first:last] = b"1" * (last - first)
        expected.add(bytes(content))
    assert found == expected


def test_a_file_may_have_grown_without_its_data() -> None:
    found = {state["a"] for state in states(write("a", 0, b"1" * 2 * SECTOR), base={"a": b""}, count=1000)}
    assert {b"", b"1" * 2 * SECTOR, bytes(2 * SECTOR), bytes(SECTOR) + b"1" * SECTOR, b"1" * SECTOR} <= found
    assert any(content and not set(content) <= set(b"\x001") for content in found), "never anything but zeros"


def test_a_change_of_size_is_kept_or_not() -> None:
    assert same(states(truncate("a", 1), base={"a": b"123"}), {"a": b"1"}, {"a": b"123"})
    assert same(states(truncate("a", 1), force("a"), base={"a": b"123"}), {"a": b"1"})
    shortened_and_written = states(truncate("a", 0), write("a", 0, b"9"), base={"a": b"123"})
    assert {state["a"] for state in shortened_and_written} >= {b"123", b"", b"9", b"923"}


def test_what_is_unlinked_may_come_back_until_the_folder_is_forced() -> None:
    base: State = {"d": None, "d/a": b"1"}
    log = (name(Call.UNLINK, "d/a"),)
    assert same(states(*log, base=base), base, {"d": None})
    assert same(states(*log, force_names(), base=base), base, {"d": None})  # it is another folder that is forced
    assert same(states(*log, force_names("d"), base=base), {"d": None})


def test_what_lies_in_a_folder_that_is_lost_is_lost_with_it() -> None:
    log = (name(Call.MKDIR, "d"), create("d/a"), write("d/a", 0, b"1"), force("d/a"), force_names("d"))
    assert same(states(*log), {}, {"d": None, "d/a": b"1"})
    assert same(states(*log, force_names()), {"d": None, "d/a": b"1"})


def test_a_folder_that_is_made_again_is_another_one() -> None:
    base: State = {"d": None, "d/a": b"1"}
    log = (name(Call.UNLINK, "d/a"), name(Call.RMDIR, "d"), name(Call.MKDIR, "d"), create("d/b"), force_names("d"))
    assert same(states(*log, base=base), base, {"d": None}, {}, {"d": None, "d/b": b""})
    assert same(states(*log, force_names(), base=base), {"d": None, "d/b": b""})


@pytest.mark.parametrize("forced", [(), ("d",), ("",)])
def test_a_rename_happens_for_both_names_or_for_neither(forced: tuple[str, ...]) -> None:
    base: State = {"a": b"1", "d": None, "d/b": b"0"}
    moved: State = {"d": None, "d/b": b"1"}
    found = states(name(Call.RENAME, "a", "d/b"), *map(force_names, forced), base=base)
    assert same(found, moved) if forced else same(found, base, moved)


def test_a_rename_that_is_forced_brings_with_it_what_made_the_name() -> None:
    log = (create("a"), write("a", 0, b"1"), force("a"), name(Call.RENAME, "a", "d/a"), force_names("d"))
    assert same(states(*log, base={"d": None}), {"d": None, "d/a": b"1"})


def test_a_link_is_the_same_file_by_two_names() -> None:
    log = (name(Call.LINK, "a", "b"), write("a", 0, b"2"), force("b"))
    assert same(states(*log, base={"a": b"1"}), {"a": b"2"}, {"a": b"2", "b": b"2"})


def test_the_same_seed_gives_the_same_losses_wherever_one_begins() -> None:
    log = [create("a"), *(write("a", place, b"1" * 1000) for place in range(0, 9000, 1000))]
    every = list(losses(log, 50, SEED))
    assert list(losses(log, 50, SEED, start=20)) == every[20:]
    assert len({loss.cut for loss in every}) > 3
    assert list(losses(log, 50, SEED + 1)) != every


# --- catdb ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Record the workload, of catdb or of a mutant, once; return the folder with its log and what it left, "top"."""
    if sys.platform != "linux":
        pytest.skip("the library that records is for Linux")

    @cache
    def record_(*mutants: str) -> Path:
        folder = tmp_path_factory.mktemp("recorded")
        record(folder, library, *mutants)
        return folder

    return record_


def test_the_record_is_all_that_was_done(recorded: Callable[..., Path], tmp_path: Path) -> None:
    folder = recorded()
    disk = Disk()
    calls = set()
    for entry in read_log(folder / "log"):
        disk.apply(entry)
        calls.add(entry.call)
    left = {
        str(path.relative_to(folder / "top")): None if path.is_dir() else path.read_bytes()
        for path in (folder / "top").rglob("*")
        if not path.name.endswith("-shm")
    }
    assert disk.now() == left
    assert calls == set(Call) - {Call.RENAME, Call.LINK}
    lay_out(disk.now(), tmp_path / "again")
    store = Store(str(tmp_path / "again" / DATABASE), writable=False)
    assert store.exists()
    store.close()


def test_no_power_loss_takes_what_was_acknowledged(recorded: Callable[..., Path]) -> None:
    log = recorded() / "log"
    found = list(verdicts(log, STATES, SEED))
    bad = [text for text in found if text]
    assert len(found) == STATES
    assert not bad, f"CATDB_SEED={SEED}: {len(bad)} of {STATES} power losses of {log}:\n" + "\n".join(bad[:5])


def test_a_state_that_ends_the_process_is_a_bad_one(recorded: Callable[..., Path]) -> None:
    found = []
    for text in verdicts(recorded() / "log", 40, SEED):
        found.append(text)
        if len(found) == 3:
            for process in psutil.Process().children():
                if "faults.trial" in process.cmdline():
                    process.kill()
    assert len(found) == 40
    assert [text.partition(": ")[2] for text in found if text] == ["the process that opened it was killed by signal 9"]


@pytest.fixture(scope="module")
def caught(recorded: Callable[..., Path]) -> Callable[[str], list[str]]:
    """Return what is wrong in states that a mutant leaves, until it has been caught often enough."""

    @cache
    def caught_(mutant: str) -> list[str]:
        log = recorded(mutant) / "log"
        return list(islice((text for text in verdicts(log, MUTANT_STATES, SEED) if text), CAUGHT))

    return caught_


@pytest.mark.parametrize("mutant", MUTANTS)
@pytest.mark.xfail(raises=AssertionError, strict=True, reason="this is what the safeguard is for")
def test_without_a_safeguard(mutant: str, caught: Callable[[str], list[str]]) -> None:
    assert caught(mutant) == []


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_is_caught_many_times(mutant: str, caught: Callable[[str], list[str]]) -> None:
    assert len(caught(mutant)) == CAUGHT, f"CATDB_SEED={SEED}: {mutant}"
