"""The table that tools/scale ends with: a row for each figure of catdb and of its peers, a column for each size."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from scale_collection import TARGET

Line = dict[str, Any]
DEFAULT, RECALL, ALL = "catdb, default", f"catdb, recall {TARGET}", "catdb, exact"
BLOCKS = "catdb, nearest blocks"
READING, READING_ALONE = "reading the same bytes", "reading, one thread"
RATIOS = (
    *((DEFAULT, READING), (DEFAULT, READING_ALONE), (DEFAULT, "faiss IVF, recall of the default")),
    *((RECALL, "faiss IVF"), (BLOCKS, "faiss IVF"), (ALL, "faiss Flat")),
)
GROWTH = ("search", DEFAULT), ("search", RECALL), ("search", BLOCKS), ("add", "catdb")
LABEL, CELL = 47, 22  # columns


def table(lines: list[Line]) -> None:
    """Print all figures in sections, then ratios of one and the same run."""
    known: dict[tuple[str, str], dict[int, list[Line]]] = {}  # by figure and kind, and by size
    for line in lines:
        known.setdefault((line["figure"], line["of"]), {}).setdefault(line["images"], []).append(line)
    sizes = sorted({line["images"] for line in lines})
    for wanted, title, cell in SECTIONS:
        rows = {of: by_size for (figure, of), by_size in known.items() if figure == wanted}
        if rows:
            print(f"\n{title:{LABEL}}" + "".join(f"{size:>{CELL},}" for size in sizes))
        for of, by_size in rows.items():
            cells = (cell(by_size[size]) if size in by_size else "-" for size in sizes)
            print(f"  {of:{LABEL - 2}}" + "".join(f"{text:>{CELL}}" for text in cells))
    print()
    for one, other in RATIOS:
        for size in sizes:
            pair = [known.get(("search", of), {}).get(size) for of in (one, other)]
            if pair[0] and pair[1]:
                late = pair[0][0]["p90"] / pair[1][0]["p90"]
                print(f"{size:,}: {one} / {other}: median {median(pair[0]) / median(pair[1]):.2f}, p90 {late:.2f}")
    for figure, of in GROWTH:
        for small, large in pairwise(sorted(known.get((figure, of), {}))):
            ratio = median(known[figure, of][large]) / median(known[figure, of][small])
            print(f"{small:,} to {large:,}: {figure}, {of}: {ratio:.2f} times")


# --- what stands in a cell: of the lines of one figure, of one kind, of one size --------------------------------------


def median(lines: list[Line]) -> float:
    return float(statistics.median(line["value"] for line in lines))


def milliseconds(lines: list[Line]) -> str:
    return number(1e3 * median(lines))


def rate(lines: list[Line]) -> str:
    return f"{number(lines[0]['per_s'])}{found(lines)}"


def late(lines: list[Line]) -> str:
    return f"{milliseconds(lines)} ({number(1e3 * lines[0]['p90'])})"


def together(lines: list[Line]) -> str:
    return f"{number(lines[0]['per_s'])} / {number(lines[0]['alone_per_s'])}{found(lines)}"


def found(lines: list[Line]) -> str:
    return f" ({lines[0]['recall']:.3f})" if "recall" in lines[0] else " " * len(" (1.000)")


def slowest(lines: list[Line]) -> str:
    greatest: float = max(line["most"] if "most" in line else line["value"] for line in lines)
    return f"{milliseconds(lines)} ({number(1e3 * greatest)})"


def count(lines: list[Line]) -> str:
    return number(median(lines))


def memory(lines: list[Line]) -> str:
    return f"{lines[0]['value']:,.0f} ({lines[0]['own']:,})"


def effort(lines: list[Line]) -> str:
    return f"{lines[0]['value']:,} of {lines[0]['most']:,}"


def reason(lines: list[Line]) -> str:
    return str(lines[0]["why"])


def share(lines: list[Line]) -> str:
    return f"{100 * lines[0]['value']:.2f} %"


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


SECTIONS: tuple[tuple[str, str, Callable[[list[Line]], str]], ...] = (
    ("search", "queries/s, one at a time (recall@10)", rate),
    ("search", "ms of a query, median (slowest tenth)", late),
    ("together", "queries/s, 32 at once / one at a time (recall)", together),
    ("effort", "lists probed, or efSearch", effort),
    ("share scanned", "images compared", share),
    ("bytes read", "bytes read by a search", count),
    ("build", "build, ms an image", milliseconds),
    ("bytes", "bytes of an image on disk", count),
    ("cold", "first query, cold, ms, median (greatest)", slowest),
    ("memory of building", "memory of building, MB, peak (its own)", memory),
    ("memory of searching", "memory of searching, MB, peak (its own)", memory),
    ("rows of a shard", "rows of a shard, median", count),
    ("add", "add one image, ms, median (greatest)", slowest),
    ("left out", "left out", reason),
)
