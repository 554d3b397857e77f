"""Requests made from an OpenAPI document, with values as wild as they come; a seed repeats them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, quote_from_bytes

NUMBERS = (
    *("0", "1", "2", "3", "10", "160", "320", "1000", "-1", "1001", "501", "161", "2147483648", "9223372036854775807"),
    *(
        "9223372036854775808",
        "-9223372036854775809",
        "9" * 30,
        "1e3",
        "1e999",
        "1.5",
        "0x10",
        "0b1",
        "1_000",
        "+1",
        " 1",
    ),
    *(
        "01",
        "nan",
        "inf",
        "-inf",
        "1e-320",
        "0.95",
        "1",
        "true",
        "null",
        "None",
        "\u0661",
        "\u00b2",
        "1,2",
        "[1]",
        "1;2",
    ),
)
WORDS = (
    *("", " ", "x", "n01440764", "tabby cat", "'", '"', "';DROP TABLE image;--", "%", "%s%n", "\\", "../../etc/passwd"),
    *(
        "\0",
        "\r\nX-Evil: 1",
        "\u202e",
        "\U0001f431",
        "é",
        "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
        "a" * 199,
    ),
    *(
        "a" * 5000,
        "<script>",
        "{{7*7}}",
        "${jndi:ldap://x}",
        "*",
        "?",
        "1-Lw==",
        "0x1p-1_5",
        "inf_1",
        "nan_1",
        "-1_-1",
        "1-",
        "_",
    ),
)
BODIES = (
    b"",
    b"\0",
    b"{}",
    b"[1]",
    b"GIF89a",
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"RIFF\0\0\0\0WEBP",
    b"BM" + bytes(50),
    b"II*\0",
)
HEADERS = (
    *(("If-None-Match", value) for value in ("*", '""', 'W/"x"', '"' * 50, "x" * 3000)),
    *(
        ("Content-Type", value)
        for value in ("application/json", "multipart/form-data", "text/plain; charset=\xff", "x")
    ),
    *(
        ("Accept", "text/html"),
        ("Range", "bytes=0-0"),
        ("Cookie", "catdb-1=;;;=" + "x" * 100),
        ("Authorization", "Bearer x"),
    ),
    *(
        ("X-Forwarded-For", "10.0.0.1"),
        ("X-Forwarded-Host", "evil"),
        ("Expect", "x"),
        ("TE", "trailers"),
        ("Origin", "null"),
    ),
    *(
        ("X-Catdb", "2"),
        ("Host", "evil"),
        ("Connection", "close"),
        ("Accept-Encoding", "gzip"),
        ("Sec-Fetch-Site", "same-origin"),
    ),
)


@dataclass(frozen=True)
class Wild:
    """One request."""

    method: str
    target: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


def wild(document: dict[str, Any], count: int, seed: int, images: Sequence[bytes] = ()) -> Iterator[Wild]:
    """Yield so many requests; ``images`` are files of which some are sent, whole or damaged."""
    draw = random.Random(seed)
    operations = [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    for _ in range(count):
        method, path, operation = draw.choice(operations)
        query = []
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "path":
                path = path.replace(f"{{{parameter['name']}}}", _value(draw, parameter["schema"]))
            elif parameter["in"] == "query":
                times = (
                    draw.choice((0, 1, 1, 1, 2)) if not parameter.get("required") else draw.choice((0, 1, 1, 1, 1, 1))
                )
                query += [f"{parameter['name']}={_value(draw, parameter['schema'])}" for _ in range(times)]
        if draw.random() < 0.1:
            query.append(f"{_escaped(draw, draw.choice(WORDS))}={_escaped(draw, draw.choice(WORDS))}")
        draw.shuffle(query)
        method = (
            method
            if draw.random() < 0.95
            else draw.choice(("HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "FOO"))
        )
        headers = {"X-Catdb": "1"} if draw.random() < 0.95 else {}
        headers |= dict(draw.sample(HEADERS, draw.choice((0, 0, 0, 1, 2))))
        body = _body(draw, images) if method == "POST" or draw.random() < 0.03 else b""
        yield Wild(method, f"{path}?{'&'.join(query)}" if query else path, headers, body)


def _value(draw: random.Random, schema: dict[str, Any]) -> str:
    """Return a value for a parameter, escaped: as often as not one that its schema allows."""
    if draw.random() < 0.5:
        return _allowed(draw, schema)
    return _escaped(draw, draw.choice(NUMBERS if draw.random() < 0.6 else WORDS))


def _allowed(draw: random.Random, schema: dict[str, Any]) -> str:
    options = [option for option in schema.get("anyOf", [schema]) if option.get("type") != "null"]
    chosen = draw.choice(options)
    if "enum" in chosen:
        return str(draw.choice(chosen["enum"]))
    least, most = chosen.get("minimum", chosen.get("exclusiveMinimum", 0)), chosen.get("maximum", 1)
    if chosen.get("type") == "integer":
        return str(draw.choice((least, most, min(most, least + draw.randrange(40)))))
    if chosen.get("type") == "number":
        return str(draw.choice((most, draw.uniform(least, most))))
    if chosen.get("type") == "boolean":
        return draw.choice(("true", "false", "1", "0"))
    return _escaped(draw, draw.choice(WORDS))


def _escaped(draw: random.Random, text: str) -> str:
    if draw.random() < 0.1:
        return quote_from_bytes(draw.randbytes(draw.randrange(1, 20)))
    return quote(text, safe="" if draw.random() < 0.8 else "/:;,'()*!")


def _body(draw: random.Random, images: Sequence[bytes]) -> bytes:
    kind = draw.random()
    if kind < 0.3 or not images:
        return draw.choice(BODIES) + draw.randbytes(draw.choice((0, 1, 100, 5000)))
    image = bytearray(draw.choice(images))
    if kind < 0.6:
        return bytes(image)
    if kind < 0.8:
        return bytes(image[: draw.randrange(len(image))])
    for _ in range(draw.choice((1, 3, 30))):
        image[draw.randrange(len(image))] = draw.randrange(256)
    return bytes(image)
