"""The HTTP API: its answers are those of the facade, whatever the state of the database, the engine and the files."""

from __future__ import annotations

import io
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Instant, picture, run, save
from numpy.typing import NDArray
from PIL import Image
from web import OWN, Client, Gated, ready, served

from catdb import Database, shapes
from catdb.backbones import Embedding
from catdb.errors import WeightsNotFound
from catdb.questions import Point
from catdb.web import document
from catdb.web.engine import WAITING, Place, SharedEngine

OpenDb = Callable[..., Database]


def png(image: Image.Image) -> bytes:
    written = io.BytesIO()
    image.save(written, "PNG")
    return written.getvalue()


@pytest.fixture
def built(open_db: OpenDb, instant: Instant, photos: Path) -> Database:
    """A database of the twelve pictures; one more file could not be read."""
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    os.utime(photos / "broken.jpg", (1e9, 1e9))
    db = open_db(backbone=instant)
    assert db.build(photos).added == 12
    return db


@pytest.fixture
def client(built: Database, instant: Instant) -> Iterator[Client]:
    with Database(built.path, mode="r", backbone=instant) as db, served(db) as client:
        ready(client.base_url)
        yield client
    assert client.told == []


def test_every_answer_is_that_of_the_facade_and_as_the_document_says(client: Client, built: Database) -> None:
    def get(url: str, model: Any, status: int = 200) -> Any:
        answer = client.get(url)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
        found = answer.json()
        # Nothing more and nothing less than the document says, but for what a field leaves out by default.
        assert model.model_validate(found, extra="forbid").model_dump(exclude_unset=True) == found
        return found

    assert get("/api/info", document.Info) == json.loads(json.dumps(shapes.of_info(built.info())))
    assert get("/api/categories", document.Categories) == shapes.of_categories(built.categories())
    status = get("/api/status", document.Status)
    assert [status[name] for name in ("images", "failed", "watcher")] == [12, 1, None]
    assert status["categories"] == len(built.categories())
    assert status["engine"] == {"state": "ready", "reason": ""}
    page = get("/api/images?limit=500", document.Images)
    assert ([image["path"] for image in page["images"]], page["next"], page["total"]) == (list(built), None, 12)
    first = page["images"][0]
    one = get(f"/api/images/{first['id']}", document.Image)
    assert one == {**first, "categories": one["categories"]}
    assert [first["width"], first["height"]] == [40, 30]
    found = get(f"/api/search?image={first['id']}&k=3", document.Answer)
    expected = shapes.of_result(built.search(first["path"], k=3))
    assert {**found, "seconds": 0} == {**json.loads(json.dumps(expected)), "seconds": 0}
    assert 0 < found["seconds"] < 60
    assert found["matches"][0]["id"] == first["id"]
    failed = get("/api/failures", document.Failures)
    assert failed == {**shapes.of_failures(built.failures()), "next": None, "total": 1}


def test_how_far_to_search_is_asked_as_on_the_command_line(client: Client, built: Database) -> None:
    image = built.images(limit=1).images[0]
    ways: list[tuple[str, dict[str, Any]]] = [
        ("exact=true", {"exact": True}),
        ("recall=1", {"recall": 1.0}),
        ("probes=8", {"probes": 8}),
        ("category=category%203", {"category": "c3"}),
        ("category=c3&exact=1", {"category": "c3", "exact": True}),
    ]
    for asked, options in ways:
        expected = built.search(image.path, k=12, **options)
        found = client.get(f"/api/search?image={image.id}&k=12&{asked}").json()
        assert [match["path"] for match in found["matches"]] == [match.path for match in expected]
        assert [found["scanned"], found["probed"]] == [expected.scanned, expected.probed]


def test_an_upload_finds_what_the_file_finds(client: Client, built: Database, instant: Instant, tmp_path: Path) -> None:
    query = save(tmp_path / "query.png", 99)
    passes = instant.passes
    answer = client.post("/api/search?k=4", content=query.read_bytes(), headers=OWN)
    assert instant.passes == passes + 1
    expected = built.search(str(query), k=4)
    assert answer.status_code == 200
    found = answer.json()
    document.Answer.model_validate(found, extra="forbid")
    assert found["query"] is None
    assert found["matches"] == json.loads(json.dumps(shapes.of_result(expected)["matches"]))
    assert found["categories"] == json.loads(json.dumps(shapes.of_result(expected)["categories"]))


def test_too_few_matches_are_explained_to_programs_and_the_page(client: Client, built: Database) -> None:
    """It is a note of the answer: to an image by its number, and to an upload."""
    image = built.images(limit=1).images[0]
    some = built.search(image.path, k=1, probes=1).scanned
    assert some < 12
    said = [f"only {some} of 12 images were compared, too few for k = 100: search with a recall target, or exact"]
    assert client.get(f"/api/search?image={image.id}&k=100&probes=1").json()["notes"] == said
    sent = client.post("/api/search?k=100&probes=1", content=Path(image.path).read_bytes(), headers=OWN)
    assert sent.json()["notes"] == said
    assert client.get(f"/api/search?image={image.id}&k=100&exact=true").json()["notes"] == []


def test_an_upload_of_known_bytes_needs_no_network(client: Client, photos: Path, instant: Instant) -> None:
    passes = instant.passes
    found = client.post("/api/search", content=(photos / "3.png").read_bytes(), headers=OWN).json()
    assert (found["matches"][0]["path"], instant.passes) == (str(photos / "3.png"), passes)
    assert found["query"] is None  # it is not the file, but one like it


NO_IMAGES = (
    (b"", 415, "not an image"),
    (b"nothing of the kind", 415, "not an image"),
    (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "not an image"),
    (png(picture(1))[:60], 422, "truncated PNG"),
    (b"\x89PNG\r\n\x1a\n" + bytes(100), 422, "damaged PNG"),
)


def test_what_is_no_image_is_refused_in_a_line(client: Client) -> None:
    for content, status, words in NO_IMAGES:
        answer = client.post("/api/search", content=content, headers=OWN)
        assert (answer.status_code, list(answer.json())) == (status, ["error"])
        assert words in answer.json()["error"]


WRONG = (
    ("/nothing", 404),
    ("/api", 404),
    ("/api/", 404),
    ("/api/images/", 404),
    ("/static/", 404),
    ("/static/nothing.js", 404),
    ("/docs", 404),
    ("/openapi.json", 404),
    ("/api/images/999", 404),
    ("/api/images/999/thumbnail", 404),
    ("/api/search?image=999", 404),
    ("/api/images?category=no%20such", 404),
    ("/api/search?image=1&category=%00", 404),
    ("/api/images/0", 422),
    ("/api/images/-1", 422),
    ("/api/images/1.5", 422),
    ("/api/images/99999999999999999999999", 422),
    ("/api/images/one", 422),
    ("/api/images/1/thumbnail?size=161", 422),
    ("/api/images/1/thumbnail?size=100000", 422),
    ("/api/images?limit=0", 422),
    ("/api/images?limit=501", 422),
    ("/api/images?after=x", 422),
    ("/api/images?after=1-%F0", 422),
    ("/api/images?category=c1&after=nan_", 422),
    ("/api/failures?after=-1", 422),
    ("/api/search", 422),
    ("/api/search?image=1&k=1001", 422),
    ("/api/search?image=1&k=0", 422),
    ("/api/search?image=1&k=1e3", 422),
    ("/api/search?image=1&recall=nan", 422),
    ("/api/search?image=1&recall=0", 422),
    ("/api/search?image=1&recall=1.01", 422),
    ("/api/search?image=1&probes=1001", 422),
    ("/api/search?image=1&exact=maybe", 422),
    ("/api/search?image=1&exact=1&recall=0.9", 422),  # one of them was left out of account
    ("/api/search?image=1&exact=1&probes=8", 422),
    ("/api/search?image=1&recall=0.9&probes=8", 422),
    ("/api/search?image=1&category=" + "x" * 201, 422),
)


def test_what_is_not_there_or_no_value_is_told_in_a_line(client: Client) -> None:
    for url, status in WRONG:
        answer = client.get(url)
        assert (answer.status_code, list(answer.json())) == (status, ["error"]), url
        assert "\n" not in answer.json()["error"]


def test_head_is_get_without_a_body_and_other_methods_are_refused(client: Client) -> None:
    for url in ("/", "/static/app.js", "/api/info", "/api/images/1/thumbnail", "/api/openapi.json"):
        get, head = client.get(url), client.head(url)
        assert (head.status_code, head.content) == (200, b"")
        assert {**head.headers, "date": ""} == {**get.headers, "date": ""}
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"):
        answer = client.request(method, "/api/search?image=1", headers=OWN)
        assert (answer.status_code, list(answer.json())) == (405, ["error"])
        assert answer.headers["allow"] in ("GET", "POST")


# --- pages ----------------------------------------------------------------------------------------------------------


def pages(client: Client, url: str) -> list[dict[str, Any]]:
    """Read all pages."""
    found: list[dict[str, Any]] = []
    after = ""
    while True:
        page = client.get(url + after).json()
        assert len(page["images"]) <= 5
        found += page["images"]
        if page["next"] is None:
            return found
        after = f"&after={page['next']}"


def test_pages_hold_every_image_once_in_its_order(client: Client, built: Database) -> None:
    assert [image["path"] for image in pages(client, "/api/images?limit=5")] == list(built)
    for category in built.categories():
        url = f"/api/images?category={category.id}&limit=5"
        assert [(image["path"], image["probability"]) for image in pages(client, url)] == built.category(category.id)
        assert client.get(url).json()["total"] == category.images


def test_a_page_goes_on_where_it_was_though_its_last_image_is_gone(
    client: Client, built: Database, photos: Path
) -> None:
    order = list(built)
    first = client.get("/api/images?limit=5").json()
    built.remove([order[4], order[6]])
    second = client.get(f"/api/images?limit=5&after={first['next']}").json()
    assert [image["path"] for image in second["images"]] == [order[5], *order[7:11]]


def test_failures_come_in_pages(client: Client, built: Database, photos: Path) -> None:
    for number in range(4):
        (photos / f"text {number}.png").write_text("no image")
    built.build()
    found, after = [], ""
    while True:
        page = client.get(f"/api/failures?limit=2{after}").json()
        found += page["failures"]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert (found, page["total"]) == (shapes.of_failures(built.failures())["failures"], 5)


def test_pages_of_failures_hide_none_when_one_before_is_mended(client: Client, built: Database, photos: Path) -> None:
    """The cursor was a count, so whatever went away moved the next page on."""
    for number in range(5):
        (photos / f"text {number}.png").write_text("no image")
    built.build()
    listed = [failure.path for failure in built.failures()]
    first = client.get("/api/failures?limit=2").json()
    os.unlink(listed[0])
    built.build()
    second = client.get(f"/api/failures?limit=4&after={first['next']}").json()
    assert [failure["path"] for failure in first["failures"] + second["failures"]] == listed
    assert (second["next"], second["total"]) == (None, 5)


def test_a_name_that_is_no_utf8_comes_through(client: Client, built: Database, photos: Path) -> None:
    name = os.fsencode(str(photos)) + b"/caf\xe9 \xff\n.png"
    Path(os.fsdecode(name)).write_bytes(png(picture(77)))
    built.build()
    [image] = [one for one in client.get("/api/images").json()["images"] if "caf" in one["path"]]
    assert os.fsencode(image["path"]) == name
    assert os.fsencode(client.get(f"/api/search?image={image['id']}").json()["query"]) == name
    assert client.get(f"/api/images/{image['id']}/thumbnail").status_code == 200
    os.unlink(name)
    answer = client.get(f"/api/images/{image['id']}/thumbnail?size=160")
    assert (answer.status_code, os.fsencode(answer.json()["error"])[: len(name)]) == (410, name)


# --- thumbnails -----------------------------------------------------------------------------------------------------


def test_a_thumbnail_is_made_anew_upright_and_whole(open_db: OpenDb, instant: Instant, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    wide = picture(1, (800, 400))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera that tells too much"
    wide.save(folder / "turned.jpg", exif=exif, quality=95)
    Image.new("RGBA", (300, 200), (255, 0, 0, 0)).save(folder / "clear.png")
    picture(2, (40, 30)).save(folder / "small.png")
    db = open_db(backbone=instant)
    db.build(folder)
    with served(db) as client:
        for image in db.images().images:
            for size in (160, 320, 640, 1600):
                answer = client.get(f"/api/images/{image.id}/thumbnail?size={size}")
                assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
                assert b"camera" not in answer.content
                shown = Image.open(io.BytesIO(answer.content))
                assert shown.format == "JPEG"
                assert max(shown.size) == min(size, max(image.width, image.height))
                assert shown.width / shown.height == pytest.approx(image.width / image.height, rel=0.02)
                if image.path.endswith("clear.png"):
                    assert np.asarray(shown).min() >= 250  # what is transparent is white
                if image.path.endswith("turned.jpg"):
                    upright = wide.transpose(Image.Transpose.ROTATE_270).resize(shown.size)
                    assert np.abs(np.asarray(shown, np.int16) - np.asarray(upright)).mean() < 10


def test_a_thumbnail_is_known_by_its_content(client: Client, built: Database, photos: Path) -> None:
    [image] = [one for one in built.images().images if one.path == str(photos / "3.png")]
    url = f"/api/images/{image.id}/thumbnail"
    answer = client.get(url)
    tag = answer.headers["etag"]
    assert (tag, answer.headers["cache-control"]) == (f'"{image.digest.hex()}-320"', "private, no-cache")
    again = client.get(url, headers={"If-None-Match": f'W/"other", {tag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert client.get(f"{url}?size=160", headers={"If-None-Match": tag}).status_code == 200
    save(photos / "3.png", 55)  # another picture, of which the database does not know yet
    os.unlink(photos / "4.png")
    assert client.get(url).content == answer.content  # it is kept
    other = client.get(f"{url}?size=160")
    assert (other.status_code, "etag" in other.headers) == (200, True)  # it was asked for already
    new = client.get(f"{url}?size=640")
    assert (new.status_code, "etag" in new.headers, new.headers["cache-control"]) == (200, False, "no-store")


def test_a_file_that_is_gone_or_no_image_any_more_is_410(client: Client, built: Database, photos: Path) -> None:
    images = {Path(image.path).name: image.id for image in built.images().images}
    os.unlink(photos / "0.png")
    (photos / "1.png").write_text("a text by now")
    os.unlink(photos / "2.png")
    os.mkfifo(photos / "2.png")
    shutil.rmtree(photos / "below")
    for name in ("0.png", "1.png", "2.png", "10.png"):
        answer = client.get(f"/api/images/{images[name]}/thumbnail")
        assert (answer.status_code, list(answer.json())) == (410, ["error"]), name
    assert client.get(f"/api/images/{images['3.png']}/thumbnail").status_code == 200


def test_what_is_kept_of_thumbnails_is_bounded(
    built: Database, instant: Instant, monkeypatch: pytest.MonkeyPatch
) -> None:
    from catdb.images import Decoders
    from catdb.web import thumbnails

    monkeypatch.setattr(thumbnails, "LIMIT", 3000)
    with Decoders() as decoders:
        kept = thumbnails.Thumbnails(built, decoders)
        images = built.images().images
        made = [kept.get(image, 160)[0] for image in images]
        assert sum(map(len, made)) > 6000
        assert kept._bytes == sum(map(len, kept._kept.values())) <= 3000
        assert list(kept._kept.values()) == made[-len(kept._kept) :]
        assert [kept.get(image, 160)[0] for image in images] == made


# --- the engine -----------------------------------------------------------------------------------------------------


def test_uploads_that_wait_share_a_pass_and_the_ninth_is_sent_away(
    built: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated, decoded, real = Gated(), threading.Semaphore(0), SharedEngine.embed

    async def embed(self: SharedEngine, place: Place, pixels: NDArray[np.uint8]) -> Point:
        decoded.release()
        return await real(self, place, pixels)

    monkeypatch.setattr(SharedEngine, "embed", embed)
    with Database(built.path, mode="r", backbone=gated) as db, served(db) as client, ThreadPoolExecutor(20) as pool:
        ready(client.base_url)
        gated.begun.acquire()

        def upload(seed: int) -> tuple[int, Any, str | None]:
            answer = client.post("/api/search?k=1", content=png(picture(seed)), headers=OWN)
            return answer.status_code, answer.json(), answer.headers.get("retry-after")

        first = pool.submit(upload, 100)
        assert gated.begun.acquire(timeout=60)  # it has a pass of its own
        others = [pool.submit(upload, seed) for seed in range(101, 105 + WAITING)]
        for done in islice(as_completed(others, timeout=60), 4):
            status, body, after = done.result()
            assert (status, list(body), after) == (429, ["error"], "2")
        for _ in range(1 + WAITING):
            assert decoded.acquire(timeout=60)  # all of them can go with the next pass
        gated.open.release(20)
        statuses = [future.result()[0] for future in [first, *others]]
        assert sorted(statuses) == [200] * (1 + WAITING) + [429] * 4
        assert gated.sizes[:2] == [1, 1]  # to start, and of the first upload
        assert sum(gated.sizes) == 2 + WAITING
        assert len(gated.sizes) < 2 + WAITING  # some have shared a pass
        assert upload(300)[0] == 200


def test_searching_by_number_waits_for_no_engine(built: Database) -> None:
    class Late(Instant):
        let = threading.Event()

        def embed(self, pixels: NDArray[np.uint8]) -> Embedding:
            assert self.let.wait(60)
            return super().embed(pixels)

    with Database(built.path, mode="r", backbone=Late()) as db, served(db) as client:
        assert client.get("/api/status").json()["engine"] == {"state": "starting", "reason": ""}
        assert client.get("/api/search?image=1").status_code == 200
        answer = client.post("/api/search", content=png(picture(99)), headers=OWN)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert "starting" in answer.json()["error"]
        Late.let.set()
        ready(client.base_url)
        assert client.post("/api/search", content=png(picture(99)), headers=OWN).status_code == 200


def test_an_engine_that_cannot_be_had_says_why_and_all_else_works(
    built: Database, monkeypatch: pytest.MonkeyPatch, photos: Path
) -> None:
    def no_weights(self: Database) -> tuple[int, int]:
        raise WeightsNotFound("no weights: put them there")

    monkeypatch.setattr(Database, "load", no_weights)
    with Database(built.path, mode="r", backbone=Instant()) as db, served(db) as client:
        ready(client.base_url)
        engine = client.get("/api/status").json()["engine"]
        assert engine == {"state": "failed", "reason": "no weights: put them there"}
        answer = client.post("/api/search", content=png(picture(99)), headers=OWN)
        assert (answer.status_code, "put them there" in answer.json()["error"]) == (503, True)
        known = client.post("/api/search", content=(photos / "1.png").read_bytes(), headers=OWN)
        assert (known.status_code, known.json()["matches"][0]["path"]) == (200, str(photos / "1.png"))
        assert client.get("/api/search?image=2").status_code == 200


def test_a_pass_that_fails_is_told_to_all_who_waited_for_it(built: Database) -> None:
    class Broken(Instant):
        def embed(self, pixels: NDArray[np.uint8]) -> Embedding:
            if self.passes:
                raise RuntimeError("out of order")
            return super().embed(pixels)

    with Database(built.path, mode="r", backbone=Broken()) as db, served(db) as client:
        ready(client.base_url)
        answer = client.post("/api/search", content=png(picture(99)), headers=OWN)
        assert (answer.status_code, list(answer.json())) == (500, ["error"])
        assert client.get("/api/status").status_code == 200
    assert client.told == ["POST /api/search: RuntimeError: out of order"]  # which is told after it was answered


# --- while others write ---------------------------------------------------------------------------------------------


def test_it_serves_while_a_build_writes_and_knows_of_what_came(client: Client, built: Database, photos: Path) -> None:
    before = client.get("/api/status").json()
    for seed in range(200, 320):
        save(photos / "new" / f"{seed}.png", seed)
    with ThreadPoolExecutor(1) as pool:
        building = pool.submit(built.build)
        while not building.done():
            for url in ("/api/status", "/api/search?image=1", "/api/images?limit=5", "/api/categories"):
                assert client.get(url).status_code == 200
        assert building.result().added == 120
    after = client.get("/api/status").json()
    assert (after["images"], after["version"] != before["version"]) == (132, True)
    assert client.get("/api/status").json()["version"] == after["version"]


def test_a_database_that_is_deleted_and_made_anew_is_served_as_it_is_then(
    client: Client, built: Database, photos: Path, instant: Instant
) -> None:
    place = built.path
    built.close()
    shutil.rmtree(place)
    for url in ("/api/status", "/api/info", "/api/images", "/api/images/1", "/api/search?image=1", "/api/duplicates"):
        answer = client.get(url)
        assert (answer.status_code, "no database here" in answer.json()["error"]) == (503, True)
    for _ in range(7):
        photos.joinpath(f"{_}.png").unlink()
    with Database(place, backbone=instant) as again:
        again.build(photos)
    assert client.get("/api/status").json()["images"] == 5
    assert client.get("/api/search?image=1").status_code == 200
    assert client.post("/api/search", content=png(picture(99)), headers=OWN).status_code == 200


def test_a_database_of_another_network_in_its_place_is_told_of(
    client: Client, built: Database, photos: Path, tmp_path: Path
) -> None:
    built.close()
    shutil.rmtree(built.path)
    with Database(built.path, backbone="classic") as again:
        again.build(photos)
    assert client.get("/api/search?image=1").status_code == 200
    answer = client.post("/api/search", content=png(picture(99)), headers=OWN)
    assert (answer.status_code, "made anew with classic" in answer.json()["error"]) == (503, True)


def test_an_empty_database_is_served(open_db: OpenDb, instant: Instant, tmp_path: Path) -> None:
    db = open_db(backbone=instant)
    (tmp_path / "empty").mkdir()
    db.build(tmp_path / "empty")
    with served(db) as client:
        ready(client.base_url)
        assert client.get("/api/images").json() == {"images": [], "next": None, "total": 0}
        assert client.get("/api/categories").json() == {"categories": []}
        found = client.post("/api/search", content=png(picture(99)), headers=OWN).json()
        assert (found["matches"], found["total"], len(found["categories"])) == ([], 0, 4)
        assert client.get("/api/search?image=1").status_code == 404
        assert duplicates(client)["groups"] == []


# --- duplicates -----------------------------------------------------------------------------------------------------


def duplicates(client: Client) -> Any:
    while (answer := client.get("/api/duplicates")).status_code == 202:
        document.Running.model_validate(answer.json(), extra="forbid")
    assert answer.status_code == 200
    return answer.json()


def test_duplicates_are_looked_for_once_and_again_when_something_has_changed(
    client: Client, built: Database, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    real = Database.duplicates
    monkeypatch.setattr(Database, "duplicates", lambda self, **how: asked.append(self.path) or real(self, **how))
    shutil.copy2(photos / "1.png", photos / "copy.png")
    built.build()
    found = duplicates(client)
    document.Duplicates.model_validate(found, extra="forbid")
    assert found == json.loads(json.dumps(shapes.of_duplicates(real(built))))
    [group] = found["groups"]
    ids = {image.path: image.id for image in built.images().images}
    assert [ids[image["path"]] for image in group["images"]] == [image["id"] for image in group["images"]]
    assert duplicates(client) == found
    assert len(asked) == 1
    os.unlink(photos / "copy.png")
    built.build()
    assert duplicates(client)["groups"] == []
    assert len(asked) == 2


def test_a_search_for_duplicates_that_fails_says_so_and_can_be_begun_again(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Database, **how: object) -> None:
        raise OSError(28, "No space left on device")

    real = Database.duplicates
    monkeypatch.setattr(Database, "duplicates", fail)
    while (answer := client.get("/api/duplicates")).status_code == 202:
        pass
    assert (answer.status_code, list(answer.json())) == (503, ["error"])
    monkeypatch.setattr(Database, "duplicates", real)
    assert duplicates(client)["images"] == 12


def test_search_json_tells_the_number_of_each_match(built: Database, photos: Path) -> None:
    built.close()
    with Database(built.path, mode="r") as db:
        ids = {image.path: image.id for image in db.images().images}
    done = run("duplicates", "--db", built.path, "--json")
    assert json.loads(done.stdout)["groups"] == []
    with Database(built.path, backbone=Instant()) as db:
        assert all(ids[match.path] == match.id for match in db.search(photos / "1.png"))
