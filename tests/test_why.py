"""``db.why`` says what searches do: how alike, where they meet, and at which rank one finds the other."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Instant, save
from numpy.typing import NDArray

from catdb import Database, PathNotFound, Why
from catdb.backbones import Category, Embedding

Open = Callable[..., Database]


class Wide(Instant):
    """Images in four of twenty categories, so that many pairs have none in common."""

    categories = tuple(Category(f"c{number}", f"category {number}") for number in range(20))

    def embed(self, pixels: NDArray[np.uint8]) -> Embedding:
        found = super().embed(pixels)
        order = (2 * found.categories[:, :1] + np.arange(4)) % 20
        return Embedding(found.features, order.astype(np.int32), found.probabilities)


@pytest.fixture
def instant() -> Instant:
    return Wide()


@pytest.fixture
def crowd(tmp_path: Path, open_db: Open, instant: Instant) -> Database:
    for seed in range(90):
        save(tmp_path / "crowd" / f"{seed:02}.png", 3000 + seed)
    database = open_db("crowd-db", backbone=instant)
    database.build(tmp_path / "crowd")
    return database


def checked(found: Why, database: Database, a: str, b: str) -> None:
    """Require that what is said of finding is what searches find."""
    for one, other, finding in ((a, b, found.a_finds_b), (b, a, found.b_finds_a)):
        ranks = {match.path: match.rank for match in database.search(one, k=90)}
        assert finding.by_default == (other in ranks)
        assert finding.probes is not None and finding.probes >= 4
        result = database.search(one, k=90, probes=finding.probes)
        assert finding.rank == {match.path: match.rank for match in result}[other]
        assert finding.scanned == result.scanned
        if finding.by_default:
            assert (finding.probes, finding.rank) == (4, ranks[other])
        else:
            fewer = database.search(one, k=90, probes=finding.probes - 1)
            assert other not in {match.path for match in fewer}


def test_two_indexed_images_are_told_apart_as_searches_do_it(crowd: Database, instant: Instant) -> None:
    paths = list(crowd)
    instant.passes = 0
    met = 0
    for a, b in ((paths[i], paths[-1 - i]) for i in range(12)):
        found = crowd.why(a, b)
        checked(found, crowd, a, b)
        [similarity] = [match.similarity for match in crowd.search(a, k=90, exact=True) if match.path == b]
        assert found.similarity == pytest.approx(similarity, abs=1e-6)
        own = {category.id for category in found.a.categories}
        assert [category.id for category in found.shared] == [
            category.id for category in found.a.categories if category.id in {other.id for other in found.b.categories}
        ]
        assert len(own) == 4 and (found.a.state, found.a.detail, found.a.stands) == ("indexed", "", True)
        assert found.a_finds_b.by_default == bool(found.shared) == found.b_finds_a.by_default
        met += bool(found.shared)
        assert found.percentile is not None and 0 <= found.percentile <= 0.99
    assert 0 < met < 12
    assert instant.passes == 0


def test_an_image_is_like_itself(crowd: Database) -> None:
    path = next(iter(crowd))
    found = crowd.why(path, path)
    assert found.similarity == pytest.approx(1, abs=1e-3)
    assert (found.a_finds_b.rank, found.a_finds_b.by_default, len(found.shared)) == (1, True, 4)


@pytest.mark.parametrize("harm", ["outside", "unknown", "removed", "excluded", "failed", "changed", "away", "copy"])
def test_what_keeps_an_image_out_is_said(harm: str, tmp_path: Path, crowd: Database, instant: Instant) -> None:
    one, folder = next(iter(crowd)), tmp_path / "crowd"
    other = folder / "new.png"
    instant.passes = 0
    said, finds, passes = "", False, 1
    if harm == "outside":
        other, said = save(tmp_path / "elsewhere" / "x.png", 50), "in no folder of the database"
    elif harm == "unknown":
        save(other, 50)
        said = "no build has taken it in yet"
    elif harm == "removed":
        other, said, passes = folder / "33.png", "removed by hand; catdb add takes it back", 1
        crowd.remove(other)
    elif harm == "excluded":
        save(other, 50)
        crowd.build(exclude="new*")
        said = "left out by --exclude new*; catdb build --include new* takes that back"
    elif harm == "failed":
        other.write_text("no image")
        os.utime(other, (1e9, 1e9))
        crowd.build()
        said, passes = "not an image", 0
    elif harm == "changed":
        other, said, finds = save(folder / "33.png", 50), "has changed since it was indexed", True
    elif harm == "away":
        other, said, finds, passes = folder / "33.png", "its file is not there now", True, 0
        other.unlink()
    elif harm == "copy":
        other.write_bytes((folder / "33.png").read_bytes())
        said, passes = f"a copy of {folder / '33.png'}, which is", 0
    found = crowd.why(one, other)
    assert found.b.state == ("unknown" if harm == "copy" else harm)
    assert said in found.b.detail
    assert (found.b.stands, found.a_finds_b.probes is not None) == (finds, finds)
    assert (found.similarity is None) == (harm == "failed")
    assert (found.b_finds_a.probes is None) == (harm == "failed")  # a query need not be indexed to find
    assert instant.passes == passes
    swapped = crowd.why(other, one)
    assert (swapped.a, swapped.b) == (found.b, found.a)
    assert swapped.similarity == (None if harm == "failed" else pytest.approx(found.similarity, abs=1e-6))
    assert swapped.a_finds_b == found.b_finds_a


def test_a_file_that_was_only_touched_has_not_changed(crowd: Database, tmp_path: Path) -> None:
    os.utime(tmp_path / "crowd" / "33.png", (1e9, 1e9))
    assert crowd.why(next(iter(crowd)), tmp_path / "crowd" / "33.png").b.state == "indexed"


def test_what_is_nowhere_is_an_error_and_what_is_no_image_is_told(crowd: Database, tmp_path: Path) -> None:
    one = next(iter(crowd))
    with pytest.raises(PathNotFound, match=r"nowhere.png: no such file"):
        crowd.why(one, "nowhere.png")
    Path("text.jpg").write_text("no image")
    found = crowd.why(one, "text.jpg")
    assert (found.b.state, found.b.detail, found.b.categories, found.similarity) == (
        "outside",
        "not an image",
        (),
        None,
    )
    assert (crowd.why("text.jpg", "text.jpg").a.stands, np.isfinite(found.a_finds_b.scanned)) == (False, True)
