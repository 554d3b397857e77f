"""How well it finds, on real photographs with labels: build and search through the command line (tools/evaluate)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def evaluate(data: Path, *options: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "evaluate", data / "photos" / "corel1k", "--json", *options],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout)
    return found


def test_mobilenet_v2_finds_the_same_label_and_most_of_the_nearest(data: Path) -> None:
    weights = data / "weights" / "mobilenet_v2_imagenet.h5"
    found = evaluate(data, "--backbone", "mobilenet_v2", "--weights", str(weights))
    assert (found["images"], found["queries"]) == (900, 100)
    assert found["precision"] >= 0.935
    assert found["recall"] >= 0.84
    assert found["scanned"] <= 0.10
    assert found["exact_precision"] >= 0.94
    assert found["pending"] == 0
    assert found["shards"] == found["categories"] > 400


def test_classic_finds_what_looks_alike(data: Path) -> None:
    found = evaluate(data, "--backbone", "classic")
    assert found["exact_precision"] >= 0.74
    assert found["recall"] >= 0.88
    assert found["scanned"] <= 0.25
    assert found["pending"] == 0
