"""A damaged shard gives no wrong and no missing answer, and is never passed over in silence."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import Instant, run
from stock import answers, delete, fill, found_in, make, put

from catdb import Database, shard
from catdb.check import check, repair
from catdb.store import Store

FLIPS = 1000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Forty images in ten shards, three that wait, two that are dead; what it holds at the end must check clean."""
    store = make(tmp_path / "db")
    fill(store, range(40))
    store.fold_all()
    fill(store, range(40, 43))
    delete(store, 1, 2)
    yield store
    assert check(store).problems == ()
    store.close()


def files(store: Store) -> list[Path]:
    """Return the shards, without what they replaced."""
    with store.snapshot() as snapshot:
        return [Path(store.file(p.category, p.generation)) for p in snapshot.catalog.pointers()]


def flip(path: Path, bit: int) -> None:
    """Turn one bit over, in place."""
    with path.open("r+b", buffering=0) as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


def named(paths: list[Path]) -> list[str]:
    """Return the notes that a search of every category must bring when these shards are damaged."""
    ids = sorted({path.parent.name for path in paths}, key=lambda name: int(name[1:]))
    return [f"the shard of {name} is damaged: read from the catalog; run catdb check --repair" for name in ids]


def test_a_thousand_flipped_bits_are_each_noticed_by_new_and_by_old_readers(store: Store) -> None:
    expected = answers(store)
    places = files(store)
    long_lived, chance, size = Store(store.path, writable=False), np.random.default_rng(4), places[0].stat().st_size
    assert answers(long_lived) == expected and expected[2] == []
    for number in range(FLIPS):
        place, bit = places[number % len(places)], int(chance.integers(8 * size))
        if number % 10 == 0:  # ten bits in ten shards at a time
            hit: list[Path] = []
        flip(place, bit)
        hit.append(place)
        with long_lived.snapshot() as snapshot:  # the flip of this moment, by one that knew the file when it was whole
            assert len(list(snapshot.blocks([int(place.parent.name[1:])]))) and snapshot.notes == named([place]), bit
        if number % 10 == 9:
            fresh = Store(store.path, writable=False)
            for reader in (fresh, long_lived):
                assert answers(reader) == (*expected[:2], named(hit))
            fresh.close()
            assert repair(store).rebuilt == len(hit)
            places = files(store)
            assert answers(long_lived) == expected
            with store.writing() as catalog:
                store.collect(catalog, grace=0)
    long_lived.close()


def test_a_bit_that_is_flipped_and_flipped_back_leaves_a_sound_shard(store: Store) -> None:
    expected, place = answers(store), files(store)[3]
    for bit in (0, 4000, 8 * place.stat().st_size - 1):
        flip(place, bit)
        assert answers(store) == (*expected[:2], named([place]))
        flip(place, bit)
        assert answers(store) == expected


def test_a_change_in_the_same_tick_of_the_clock_is_noticed(store: Store) -> None:
    place = files(store)[0]
    category = int(place.parent.name[1:])
    for bit in range(40_000, 40_030):
        for expected in ([], named([place])):  # verified while it is milliseconds old, and changed at once
            with store.snapshot() as snapshot:
                assert len(list(snapshot.blocks([category]))) and snapshot.notes == expected, bit
            flip(place, bit)


def test_what_was_written_just_now_is_not_known_by_its_times(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    place = files(store)[0]
    written = place.stat().st_ctime
    monkeypatch.setattr(time, "time", lambda: written + 1)
    with shard.opened(str(place)) as file:
        assert file.stamp is None
    monkeypatch.setattr(time, "time", lambda: written + 10)
    with shard.opened(str(place)) as file:
        assert file.stamp is not None


def test_a_file_is_checked_once_and_again_when_the_file_system_knows_of_a_change(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard, "_TICK", -1.0)  # as if its last change were long ago
    checked: list[str] = []
    verify = shard.verify
    monkeypatch.setattr(shard, "verify", lambda file, *words: (checked.append(file.path), verify(file, *words))[1])
    place, whole = files(store)[7], answers(store)
    assert len(checked) == 10
    assert answers(store) == whole and len(checked) == 10
    flip(place, 44_444)
    os.utime(place, ns=(1, 1))  # whatever the clock of the file system, and whoever sets the times back
    assert answers(store) == (*whole[:2], named([place]))
    assert answers(store) == (*whole[:2], named([place]))
    assert checked[10:] == [str(place)] * 2
    assert repair(store).rebuilt == 1


@pytest.mark.parametrize("seed", range(10))
def test_a_tenth_of_the_shards_may_be_deleted_at_any_time(store: Store, seed: int) -> None:
    chance, long_lived = np.random.default_rng(seed), Store(store.path, writable=False)
    for share in (0.1, 0.1, 0.3, 1.0):
        expected, places = answers(long_lived), files(store)
        assert expected[2] == []
        lost = [places[n] for n in chance.choice(len(places), round(share * len(places)), replace=False)]
        for place in lost:
            place.unlink()
        fresh = Store(store.path, writable=False)
        for reader in (fresh, long_lived):
            assert answers(reader) == (*expected[:2], named(lost))
        fresh.close()
        assert {problem.where for problem in check(store).problems} == set(map(str, lost))
        assert repair(store).rebuilt == len(lost)
        assert answers(long_lived) == expected
        assert check(store).problems == ()
    long_lived.close()


def test_damage_that_comes_while_a_snapshot_is_read_is_noticed_in_it(store: Store) -> None:
    expected = answers(store)
    with store.snapshot() as snapshot:
        assert found_in(snapshot) == expected
        flip(files(store)[5], 50_000)
        assert found_in(snapshot) == (*expected[:2], named([files(store)[5]]))
    assert repair(store).rebuilt == 1


def test_many_damaged_shards_are_one_note(tmp_path: Path) -> None:
    wide = Store(str(tmp_path / "wide"))
    wide.create({"dimension": 12, "backbone": "made up"}, [(f"c{n}", "word") for n in range(20)])
    with wide.writing() as catalog, catalog.transaction():
        catalog.add_root(b"/photos", b"../photos", True)
    wide.commit([put(n, [n]) for n in range(20)])
    wide.fold_all()
    shutil.rmtree(tmp_path / "wide" / "shards")
    with wide.snapshot() as snapshot:
        assert sum(len(block.rows) for block in snapshot.blocks(range(20))) == 20
        [note] = snapshot.notes
    assert note == "the shards of 20 categories are damaged: read from the catalog; run catdb check --repair"
    assert repair(wide).rebuilt == 20
    wide.close()


def test_the_command_says_so_and_answers_all_the_same(photos: Path, tmp_path: Path, instant: Instant) -> None:
    with Database(tmp_path / "db", backbone="classic") as database:
        database.build(photos)
    ask = ("search", photos / "3.png", photos / "4.png", "--exact", "--db", tmp_path / "db")
    sound, sound_json = run(*ask), run(*ask, "--json")
    assert (sound.returncode, sound.stderr, sound_json.stderr) == (0, "", "")
    assert [json.loads(line)["notes"] for line in sound_json.stdout.splitlines()] == [[], []]
    place = sorted((tmp_path / "db" / "shards").rglob("*.h5"))[0]
    flip(place, 8 * place.stat().st_size // 2)
    note = f"the shard of {place.parent.name} is damaged: read from the catalog; run catdb check --repair"
    found, found_json = run(*ask), run(*ask, "--json")
    assert (found.returncode, found.stdout) == (0, sound.stdout)
    assert found.stderr == f"catdb: {note}\n" * 2  # for each query
    assert found_json.returncode == 0
    answers_ = [json.loads(line) for line in found_json.stdout.splitlines()]
    assert [answer.pop("notes") for answer in answers_] == [[note], [note]]
    assert [{**answer, "notes": []} for answer in answers_] == [
        {**json.loads(line), "notes": []} for line in sound_json.stdout.splitlines()
    ]
    healed = run("check", "--repair", "--db", tmp_path / "db")
    assert (healed.returncode, healed.stdout) == (0, "all is well\n")
    assert run(*ask).stderr == ""
    assert os.path.exists(place)  # for the grace, as any shard that was replaced
