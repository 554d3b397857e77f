"""The converted engine: the same numbers as Keras, a cache that is never half a network, and drift that is noticed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import save
from PIL import Image

from catdb import Database, EngineDrifted, EngineFailed, WeightsInvalid, backbones
from catdb.backbones import Embedder, Embedding, Engine, Recipe, canary, conversion, load, openvino
from catdb.backbones.table import NETWORKS, Network
from catdb.backbones.weights import Weights, fingerprint
from catdb.child import command, environment

MOBILENET = NETWORKS["mobilenet_v2"]
OUTWARD = ("socket.connect", "socket.getaddrinfo", "os.fork", "subprocess.Popen")  # what an audit hook is told of


@pytest.fixture(scope="session")
def mobilenet(data: Path) -> str:
    return str(data / "weights" / "mobilenet_v2_imagenet.h5")


@pytest.fixture(scope="session")
def made(mobilenet: str, conversions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds one conversion; copy it, do not change it."""
    cache = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CATDB_CACHE", str(conversions))
        load(Recipe("mobilenet_v2", mobilenet))
        place = conversion.place(MOBILENET, fingerprint(mobilenet).sha256)
    shutil.copytree(place, cache / Path(place).name)
    return cache


@pytest.fixture
def cache(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own, with the conversion in it."""
    mine = tmp_path / "cache"
    shutil.copytree(made, mine)
    monkeypatch.setenv("CATDB_CACHE", str(mine))
    return mine


@pytest.fixture
def quick(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversion takes a copy of one that was made before."""

    def copy(network: Network, weights: Weights, folder: str) -> None:
        [source] = made.iterdir()
        shutil.copytree(source, folder, dirs_exist_ok=True)

    monkeypatch.setattr(conversion, "_convert", copy)


@pytest.fixture
def no_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("converted again")

    monkeypatch.setattr(conversion, "_convert", refuse)


def photographs(data: Path, number: int) -> np.ndarray:
    paths = sorted((data / "photos" / "corel1k" / "images").glob("*.jpg"))
    chosen = paths[:: len(paths) // number][:number]
    return np.stack([np.asarray(Image.open(path).convert("RGB").resize((224, 224))) for path in chosen])


# --- numbers --------------------------------------------------------------------------------------------------------


def test_float32_gives_keras_own_vectors_on_photographs(cache: Path, mobilenet: str, data: Path) -> None:
    pixels = photographs(data, 100)
    keras = load(Recipe("mobilenet_v2", mobilenet, engine="tensorflow"))[0].embed(pixels)
    found = load(Recipe("mobilenet_v2", mobilenet, precision="f32"))[0].embed(pixels)
    assert (found.features * keras.features).sum(axis=1).min() >= 0.9999
    differing = found.categories[:, 0] != keras.categories[:, 0]
    gap = keras.probabilities[:, 0] - keras.probabilities[:, 1]
    assert (gap[differing] < 1e-4).all()
    np.testing.assert_allclose(found.probabilities, keras.probabilities, atol=2e-4)


def test_one_image_and_many_give_the_same(cache: Path, mobilenet: str, data: Path) -> None:
    embedder = load(Recipe("mobilenet_v2", mobilenet, precision="f32"))[0]
    pixels = photographs(data, 19)  # two full requests and a rest, through the queue
    many = embedder.embed(pixels)
    one = [embedder.embed(pixels[n : n + 1]) for n in range(19)]
    np.testing.assert_allclose(many.features, np.concatenate([e.features for e in one]), atol=1e-5)
    assert (many.categories == np.concatenate([e.categories for e in one])).all()


def test_threads_that_embed_at_once_get_the_vectors_of_their_own_images(
    cache: Path, mobilenet: str, data: Path
) -> None:
    engine = Engine(Recipe("mobilenet_v2", mobilenet, precision="f32"))
    pixels = photographs(data, 8)
    expected = [engine.embed(pixels[n : n + 1]).features for n in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: engine.embed(pixels[n : n + 1]).features, [*range(8)] * 4))
        submitted = list(pool.map(lambda n: engine.submit(pixels[n : n + 1]).result(60).features, [*range(8)] * 4))
    for features in (found, submitted):
        np.testing.assert_allclose(np.concatenate(features), np.concatenate(expected * 4), atol=1e-4)


def test_submitted_batches_come_back_as_their_own(cache: Path, mobilenet: str, data: Path) -> None:
    engine = Engine(Recipe("mobilenet_v2", mobilenet, precision="f32"))
    pixels = photographs(data, 48)
    futures = [engine.submit(pixels[start : start + 4]) for start in range(0, 48, 4)]
    expected = engine.get().embed(pixels)
    for number, future in enumerate(futures):
        np.testing.assert_allclose(
            future.result(60).features, expected.features[4 * number : 4 * number + 4], atol=1e-5
        )


def test_neither_keras_nor_tensorflow_is_imported_once_converted(cache: Path, mobilenet: str) -> None:
    script = (
        "import sys, numpy as np; from catdb.backbones import Recipe, load;"
        f"e, _ = load(Recipe('mobilenet_v2', {mobilenet!r}));"
        "e.embed(np.zeros((1, 224, 224, 3), np.uint8));"
        "print([name for name in ('tensorflow', 'keras', 'h5py') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


# --- the cache ------------------------------------------------------------------------------------------------------


def test_nothing_is_reported_to_anybody(tmp_path: Path) -> None:
    """Importing OpenVINO sent an event to Google Analytics, and left an identifier in the home folder."""
    code = """
import sys
from catdb.backbones.openvino import native_precision
assert native_precision() in ("bf16", "f32")
print([name for name in sys.modules if name.startswith("openvino_telemetry")])
import openvino
print(openvino.convert_model.__name__)  # all else is there, for whoever wants it beside catdb
"""
    home = tmp_path / "of somebody"
    home.mkdir()
    watched = f"import sys; sys.addaudithook(lambda event, _: print(event) if event in {OUTWARD} else None)"
    env = {**{name: value for name, value in os.environ.items() if name != "CI"}, "HOME": str(home)}
    run = subprocess.run([sys.executable, "-c", watched + code], env=env, capture_output=True, text=True)
    assert (run.stdout, run.returncode) == ("[]\nconvert_model\n", 0), run.stderr
    assert list(home.iterdir()) == []


def test_a_conversion_serves_when_the_weights_file_is_gone(cache: Path, mobilenet: str, no_conversion: None) -> None:
    sha256 = fingerprint(mobilenet).sha256
    embedder, path = load(Recipe("mobilenet_v2", sha256=sha256))
    assert (embedder.weights_sha256, path) == (sha256, None)


def test_a_conversion_by_an_older_library_serves(cache: Path, mobilenet: str, no_conversion: None) -> None:
    [manifest] = cache.glob("*/converted.json")
    found = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**found, "openvino": "2025.0.0"}))
    load(Recipe("mobilenet_v2", mobilenet))


def test_a_conversion_is_as_open_to_others_as_any_folder(
    quick: None, mobilenet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a cache that is shared nobody but its first user could read it, and all others converted each time."""
    monkeypatch.setenv("CATDB_CACHE", str(tmp_path / "shared"))
    load(Recipe("mobilenet_v2", mobilenet))
    (tmp_path / "any").mkdir()
    [place] = (tmp_path / "shared").iterdir()
    assert place.stat().st_mode == (tmp_path / "any").stat().st_mode


@pytest.mark.parametrize("name", ["model.bin", "model.xml", "converted.json"])
def test_a_truncated_cache_file_is_made_anew(cache: Path, quick: None, mobilenet: str, name: str) -> None:
    [file] = cache.glob(f"*/{name}")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    lines: list[str] = []
    embedder, _ = load(Recipe("mobilenet_v2", mobilenet, precision="f32"), lines.append)
    assert len([line for line in lines if line.startswith("converting")]) == 1
    assert embedder.embed(canary.images((224, 224))).features.shape == (4, 1280)
    assert conversion.find(MOBILENET, fingerprint(mobilenet).sha256)
    assert [path.name for path in cache.iterdir() if path.name.startswith("converting-")] == []


def test_a_cache_that_cannot_be_written_to_costs_a_conversion_and_nothing_else(
    mobilenet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CATDB_CACHE", str(tmp_path / "file" / "cache"))
    lines: list[str] = []
    embedder, _ = load(Recipe("mobilenet_v2", mobilenet, precision="f32"), lines.append)
    assert any("cannot be kept" in line for line in lines)
    assert embedder.embed(canary.images((224, 224))).features.shape == (4, 1280)


def test_two_processes_that_convert_at_once_both_end_with_right_answers(
    made: Path, mobilenet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its conversion complete, here a copy of one, before either may move it to its place."""
    monkeypatch.setenv("CATDB_CACHE", str(tmp_path / "cache"))
    script = """
import shutil, sys
from catdb.backbones import Recipe, canary, conversion, load
def copy(network, weights, folder):
    shutil.copytree(sys.argv[1], folder, dirs_exist_ok=True)
    print("converted", flush=True)
    sys.stdin.readline()
conversion._convert = copy
embedder, _ = load(Recipe("mobilenet_v2", sys.argv[2], precision="f32"))
print(embedder.embed(canary.images(embedder.input_size)).features.sum().round(2))
"""
    [source] = made.iterdir()
    pipe = subprocess.PIPE
    words = [sys.executable, "-c", script, str(source), mobilenet]
    with ExitStack() as stack:
        both = [stack.enter_context(subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True)) for _ in range(2)]
        assert [process.stdout.readline() for process in both if process.stdout] == ["converted\n"] * 2
        assert len(list((tmp_path / "cache").iterdir())) == 2
        answers = [process.communicate("go on\n", timeout=180)[0] for process in both]
    right = load(Recipe("mobilenet_v2", mobilenet, precision="f32"))[0].embed(canary.images((224, 224)))
    assert answers == [str(right.features.sum().round(2)) + "\n"] * 2
    assert [process.returncode for process in both] == [0, 0]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [source.name]


def test_a_conversion_does_not_hear_what_is_typed_and_is_held_by_who_wanted_it(
    mobilenet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in a watch that finishes its batch once ended the conversion: it went on with TensorFlow, at length."""
    script = "import os, select, sys; print(os.getpgrp(), select.select([0], [], [], 0)[0]); sys.exit(3)"
    monkeypatch.setattr(conversion, "command", lambda *words: [sys.executable, "-c", script])
    with pytest.raises(WeightsInvalid) as told:
        conversion._convert(MOBILENET, fingerprint(mobilenet), str(tmp_path))
    group, _, readable = str(told.value).partition(" ")
    assert int(group) != os.getpgrp()
    assert readable == "[]"  # it waits for our end


def test_a_conversion_that_nobody_waits_for_any_more_ends_and_leaves_nothing(mobilenet: str, tmp_path: Path) -> None:
    place = tmp_path / "converting-abc"
    place.mkdir()
    words = command("catdb.backbones.convert", "mobilenet_v2", mobilenet, str(place))
    with subprocess.Popen(words, env=environment(), stdin=subprocess.PIPE) as process:
        while not list(place.iterdir()):  # until it has begun
            assert process.poll() is None
            time.sleep(0.02)
    assert process.returncode == 1
    assert not place.exists()


def test_a_killed_conversion_leaves_nothing_that_is_taken_for_one(
    mobilenet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CATDB_CACHE", str(tmp_path / "cache"))
    half = tmp_path / "cache" / "converting-abc"
    half.mkdir(parents=True)
    (half / "model.xml").write_text("<net")
    assert conversion.find(MOBILENET, fingerprint(mobilenet).sha256) is None
    place = Path(conversion.place(MOBILENET, fingerprint(mobilenet).sha256))
    place.mkdir()
    (place / "model.xml").write_text("<net")
    assert conversion.find(MOBILENET, fingerprint(mobilenet).sha256) is None


# --- what cannot be had ---------------------------------------------------------------------------------------------


def test_a_network_that_does_not_convert_goes_on_with_tensorflow_and_says_so(
    mobilenet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(network: object, *_: object) -> None:
        raise EngineFailed("mobilenet_v2 does not convert for OpenVINO (unsupported)")

    monkeypatch.setattr(conversion, "_convert", refuse)
    monkeypatch.setenv("CATDB_CACHE", str(tmp_path / "cache"))
    lines: list[str] = []
    embedder, _ = load(Recipe("mobilenet_v2", mobilenet), lines.append)
    assert (embedder.engine, embedder.precision) == ("tensorflow", "f32")
    assert len([line for line in lines if "TensorFlow, which is slower" in line]) == 1
    with pytest.raises(EngineFailed, match="does not convert"):
        load(Recipe("mobilenet_v2", mobilenet, engine="openvino"))


def test_wrong_weights_are_refused_by_the_converting_process(
    mobilenet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CATDB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(WeightsInvalid, match="not a weights file of mobilenet with") as caught:
        load(Recipe("mobilenet", mobilenet))
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_bfloat16_is_refused_where_it_is_not_native(
    cache: Path, mobilenet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "native_precision", lambda: "f32")
    assert load(Recipe("mobilenet_v2", mobilenet))[0].precision == "f32"
    assert load(Recipe("mobilenet_v2", mobilenet, remembered="bf16"))[0].precision == "f32"
    with pytest.raises(EngineFailed, match="bfloat16"):
        load(Recipe("mobilenet_v2", mobilenet, engine="openvino", precision="bf16"))


def test_a_database_keeps_to_the_precision_of_its_vectors(
    cache: Path, mobilenet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "native_precision", lambda: "bf16")
    assert load(Recipe("mobilenet_v2", mobilenet))[0].precision == "bf16"
    assert load(Recipe("mobilenet_v2", mobilenet, remembered="f32"))[0].precision == "f32"
    assert load(Recipe("mobilenet_v2", mobilenet, remembered="f32", precision="bf16"))[0].precision == "bf16"


@pytest.mark.parametrize(("name", "value"), [("engine", "cuda"), ("precision", "fp8")])
def test_an_engine_or_precision_that_does_not_exist_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="must be one of auto"):
        Recipe("mobilenet_v2", **{name: value})  # type: ignore[arg-type]


# --- the canary -----------------------------------------------------------------------------------------------------


def test_the_canaries_are_the_same_everywhere() -> None:
    images = canary.images((224, 224))
    assert images.shape == (4, 224, 224, 3)
    assert [int(image.astype(np.int64).sum()) for image in images] == [19167456, 17988096, 19167456, 18494016]


def test_rounding_is_no_drift_but_exchanged_channels_are(cache: Path, mobilenet: str) -> None:
    exact = load(Recipe("mobilenet_v2", mobilenet, precision="f32"))[0]
    images = canary.images(exact.input_size)
    then = exact.embed(images).features.astype(np.float16)
    keras = load(Recipe("mobilenet_v2", mobilenet, engine="tensorflow"))[0]
    assert canary.cosine(then, keras.embed(images).features) >= canary.allowed("f32", "f32")
    if openvino.native_precision() == "bf16":
        rounded = load(Recipe("mobilenet_v2", mobilenet, precision="bf16"))[0]
        assert canary.cosine(then, rounded.embed(images).features) >= canary.allowed("f32", "bf16")
    exchanged = np.ascontiguousarray(images[..., ::-1])
    assert canary.cosine(then, exact.embed(exchanged).features) < canary.allowed("bf16", "bf16")
    darker = images // 2
    assert canary.cosine(then, exact.embed(darker).features) < canary.allowed("bf16", "bf16")


class _Turned:
    """A loaded embedder whose engine has come to exchange red and blue."""

    def __init__(self, real: Embedder) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        if name == "submit":
            raise AttributeError(name)
        return getattr(self._real, name)

    def embed(self, pixels: np.ndarray) -> Embedding:
        return self._real.embed(np.ascontiguousarray(pixels[..., ::-1]))


def test_a_drifted_engine_is_refused_before_vectors_are_mixed_and_said_in_a_search(
    cache: Path, mobilenet: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Database(tmp_path / "db", backbone="mobilenet_v2", weights=mobilenet) as db:
        assert db.build(photos).added == 12
    real = backbones.load
    monkeypatch.setattr(backbones, "load", lambda recipe, notice: (_Turned(real(recipe, notice)[0]), None))
    save(photos / "another.png", 99)
    lines: list[str] = []
    with Database(tmp_path / "db", notice=lines.append) as db:
        assert db.search(photos / "3.png")[0].path == str(photos / "3.png")  # stored: no engine is asked
        assert lines == []
        assert len(db.search(photos / "another.png", exact=True)) == 10
        assert len(lines) == 1 and "no longer gives the vectors" in lines[0]
        with pytest.raises(EngineDrifted, match="nothing was stored"):
            db.build(photos)
        assert len(db) == 12
    monkeypatch.setattr(backbones, "load", real)
    with Database(tmp_path / "db") as db:
        assert db.build(photos).added == 1
        assert db.check().ok


def test_a_database_remembers_engine_and_precision_and_says_where_the_conversion_is(
    cache: Path, mobilenet: str, photos: Path, tmp_path: Path
) -> None:
    with Database(tmp_path / "db", backbone="mobilenet_v2", weights=mobilenet, precision="f32") as db:
        db.build(photos)
    with Database(tmp_path / "db", mode="r") as db:
        info = db.info()
        assert (info.engine, info.precision) == ("openvino", "f32")
        assert info.cache and Path(info.cache).parent == cache
        save(tmp_path / "new.png", 77)
        db.search(tmp_path / "new.png")
        assert db._engine.get().precision == "f32"
