"""Whatever is asked, within what the OpenAPI document describes or beyond, the answer is never that the server failed.

$CATDB_WILD asks for more requests; ``tools/web --fuzz N`` does it with N and says what was answered.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from conftest import Instant, picture, save
from web import raw, ready, served
from wild import Wild, wild

from catdb import Database

OpenDb = Callable[..., Database]


def test_requests_of_the_document_with_wild_values_never_make_it_fail(
    open_db: OpenDb, instant: Instant, photos: Path
) -> None:
    (photos / "broken.png").write_text("no image")
    db = open_db(backbone=instant)
    db.build(photos)
    (photos / "4.png").unlink()
    save(photos / "5.png", 500)
    written = io.BytesIO()
    picture(900, (64, 48)).save(written, "JPEG")
    images = [written.getvalue(), (photos / "1.png").read_bytes()]
    with served(db) as client, ThreadPoolExecutor(4) as pool:
        ready(client.base_url)
        document = client.get("/api/openapi.json").json()
        requests = list(wild(document, int(os.environ.get("CATDB_WILD", "400")), 7, images))

        def ask(request: Wild) -> int:
            answer = raw(str(client.base_url), request.target, request.method, request.headers, request.body)
            assert answer.status < 500, (request, answer)
            assert "content-security-policy" in answer.headers, request
            if answer.headers["content-type"] == "application/json" and request.method != "HEAD":
                assert answer.status < 400 or list(json.loads(answer.body)) == ["error"], request
            return answer.status

        statuses = list(pool.map(ask, requests))
        assert client.told == []
    assert {200, 403, 404, 422} <= set(statuses)
    assert statuses.count(200) > len(statuses) / 10


def test_the_document_describes_every_route_and_what_goes_wrong(
    open_db: OpenDb, instant: Instant, photos: Path
) -> None:
    db = open_db(backbone=instant)
    db.build(photos)
    with served(db) as client:
        document = client.get("/api/openapi.json").json()
    assert {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods} == {
        "GET /api/status",
        "GET /api/info",
        "GET /api/categories",
        "GET /api/images",
        "GET /api/images/{id}",
        "GET /api/images/{id}/thumbnail",
        "GET /api/search",
        "POST /api/search",
        "GET /api/duplicates",
        "GET /api/failures",
    }
    for methods in document["paths"].values():
        for operation in methods.values():
            assert operation["description"]
            assert {"403", "404", "422", "503"} <= set(operation["responses"])
            for status, response in operation["responses"].items():
                if status >= "400":
                    assert response["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Error"}
            for parameter in operation.get("parameters", ()):
                assert parameter["description"] if parameter["in"] != "header" else True
                schema = parameter["schema"]
                [bounded, *_] = [option for option in schema.get("anyOf", [schema]) if option.get("type") != "null"]
                if bounded.get("type") in ("integer", "number") and "enum" not in bounded:
                    assert "maximum" in bounded, parameter
                if bounded.get("type") == "string" and "const" not in bounded:
                    assert "maxLength" in bounded, parameter
    body = document["paths"]["/api/search"]["post"]["requestBody"]
    assert list(body["content"]) == ["image/*"]
