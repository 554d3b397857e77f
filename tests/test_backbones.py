"""The table of networks, their weights files, and what TensorFlow makes of them."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import unprivileged
from PIL import Image

from catdb import BackboneMismatch, BackboneUnknown, Database, WeightsInvalid, WeightsNotFound, backbones
from catdb.backbones import Engine, Recipe, keras, load
from catdb.backbones.table import NETWORKS
from catdb.backbones.weights import find, fingerprint

MOBILENET = NETWORKS["mobilenet_v2"]


@pytest.fixture
def mobilenet(data: Path) -> Path:
    return data / "weights" / "mobilenet_v2_imagenet.h5"


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network on which nothing listens."""
    monkeypatch.setattr(keras, "_HOST", "http://127.0.0.1:9/")


def photographs(data: Path, number: int, side: int) -> Any:
    paths = sorted((data / "photos" / "corel1k" / "images").glob("*.jpg"))
    chosen = paths[:: len(paths) // number][:number]
    return np.stack([np.asarray(Image.open(path).convert("RGB").resize((side, side))) for path in chosen])


# --- the table ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("ResNet50V2", "resnet50_v2"),
        ("inception-resnet-v2", "inception_resnet_v2"),
        ("EfficientNetB0", "efficientnet_b0"),
    ],
)
def test_a_network_is_known_by_any_spelling(given: str, name: str) -> None:
    assert backbones.canonical(given) == name


def test_an_unknown_network_is_answered_with_near_names() -> None:
    with pytest.raises(BackboneUnknown, match="mobilenet_v3_small"):
        backbones.canonical("mobilenet_v4_small")


def test_every_network_of_keras_applications_is_in_the_table() -> None:
    applications = keras._keras().applications
    constructors = {name for name in dir(applications) if name[0].isupper()}
    assert {network.constructor for network in NETWORKS.values()} == constructors
    assert len(backbones.names()) == len(constructors) + 1


def test_class_names_are_not_unique_but_ids_are() -> None:
    table = backbones.imagenet()
    assert len({category.id for category in table}) == 1000
    assert [c.id for c in table if c.name == "crane"] == ["n02012849", "n03126707"]
    assert [c.id for c in table if c.name == "maillot"] == ["n03710637", "n03710721"]


def test_the_class_table_is_in_the_order_of_the_networks(data: Path) -> None:
    index = json.loads((data / "imagenet_class_index.json").read_text())
    expected = [(index[str(n)][0], index[str(n)][1].replace("_", " ")) for n in range(1000)]
    assert [(c.id, c.name) for c in backbones.imagenet()] == expected


@pytest.mark.parametrize(
    ("scale", "module"),
    [("symmetric", "inception_resnet_v2"), ("caffe", "resnet50"), ("torch", "densenet"), ("raw", "mobilenet_v3")],
)
def test_pixels_are_scaled_as_keras_preprocess_input_does(scale: str, module: str) -> None:
    k = keras._keras()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    given = k.Input((8, 8, 3), dtype="uint8")
    ours = np.asarray(k.Model(given, keras._scaled(given, scale))(pixels))
    theirs = getattr(k.applications, module).preprocess_input(pixels.astype(np.float32))
    np.testing.assert_allclose(ours, theirs, atol=2e-4)


# --- finding weights ------------------------------------------------------------------------------------------------


def test_weights_are_found_by_their_bytes_wherever_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, cache = tmp_path / "weights", tmp_path / "home" / "keras" / "models"
    folder.mkdir()
    cache.mkdir(parents=True)
    (cache / MOBILENET.file).write_bytes(b"published")
    (folder / "mine.h5").write_bytes(b"mine")
    mine = hashlib.sha256(b"mine").hexdigest()

    assert find(MOBILENET, sha256=mine) is None
    monkeypatch.setenv("CATDB_WEIGHTS", str(folder))
    assert find(MOBILENET, sha256=mine).path == str(folder / "mine.h5")  # type: ignore[union-attr]
    assert find(MOBILENET).path == str(cache / MOBILENET.file)  # type: ignore[union-attr]
    monkeypatch.setenv("CATDB_WEIGHTS", str(folder / "mine.h5"))
    assert find(MOBILENET).sha256 == mine  # type: ignore[union-attr]
    monkeypatch.delenv("CATDB_WEIGHTS")
    assert find(MOBILENET, sha256=mine, hint=str(folder / "mine.h5")).sha256 == mine  # type: ignore[union-attr]


def test_weights_that_are_named_and_not_there_are_not_replaced_by_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "home" / "keras" / "models"
    cache.mkdir(parents=True)
    (cache / MOBILENET.file).write_bytes(b"published")
    monkeypatch.setenv("CATDB_WEIGHTS", str(tmp_path / "slip.h5"))
    with pytest.raises(WeightsNotFound, match=r"slip\.h5: neither a file nor a folder"):
        find(MOBILENET)
    assert find(MOBILENET, sha256=hashlib.sha256(b"published").hexdigest())  # the very file of a database will do


def test_weights_that_are_closed_to_us_do_not_hide_others(tmp_path: Path) -> None:
    """As where another user has made the database, and keeps the file to himself."""
    theirs, cache = tmp_path / "theirs.h5", tmp_path / "home" / "keras" / "models"
    cache.mkdir(parents=True)
    (cache / MOBILENET.file).write_bytes(b"published")
    shutil.copy(cache / MOBILENET.file, theirs)
    theirs.chmod(0)
    sha256 = hashlib.sha256(b"published").hexdigest()
    script = f"""
from catdb.backbones.table import NETWORKS
from catdb.backbones.weights import find
print(find(NETWORKS["mobilenet_v2"], sha256={sha256!r}, hint={str(theirs)!r}).path)
"""
    found = subprocess.run([sys.executable, "-c", script], preexec_fn=unprivileged, stdout=subprocess.PIPE, text=True)
    assert found.stdout == f"{cache / MOBILENET.file}\n"


def test_missing_weights_say_what_is_wanted_and_write_nothing(unreachable: None, tmp_path: Path, photos: Path) -> None:
    with pytest.raises(WeightsNotFound) as caught:
        Database(tmp_path / "new").build(photos)
    text = str(caught.value)
    assert NETWORKS["inception_resnet_v2"].file in text
    assert str(tmp_path / "home" / "keras" / "models") in text
    assert "classic" in text and "\n" not in text
    assert not (tmp_path / "new").exists()


def test_a_network_that_swallows_packets_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        monkeypatch.setattr(keras, "_HOST", f"http://127.0.0.1:{silent.getsockname()[1]}/")
        monkeypatch.setattr(keras, "_CONNECT", 0.2)
        with pytest.raises(WeightsNotFound, match="no connection"):
            load(Recipe("mobilenet_v2"))


@pytest.fixture
def server(mobilenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A host on this machine that publishes the weights as Keras' own does, at the address where Keras looks."""
    site = tmp_path / "site"
    site.mkdir()
    shutil.copy(mobilenet, site / MOBILENET.file)
    handler = functools.partial(_Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as host:
        threading.Thread(target=host.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{host.server_address[1]}/"
        keras._keras()
        import keras.src.applications.mobilenet_v2 as module

        monkeypatch.setattr(keras, "_HOST", address)
        monkeypatch.setattr(module, "BASE_WEIGHT_PATH", address)
        monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path / "home" / "keras"))
        yield address
        host.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        pass


def test_weights_are_downloaded_by_keras_and_then_found_in_its_cache(
    server: str, mobilenet: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    embedder, path = load(Recipe("mobilenet_v2"))
    assert path == str(tmp_path / "home" / "keras" / "models" / MOBILENET.file)
    assert embedder.weights_sha256 == fingerprint(str(mobilenet)).sha256
    assert find(MOBILENET, sha256=embedder.weights_sha256).path == path  # type: ignore[union-attr]
    assert capfd.readouterr().out == ""


def test_tensorflow_is_loaded_also_where_stderr_is_closed(mobilenet: Path) -> None:
    script = f"""
import os
os.open(os.devnull, os.O_RDWR)  # as the command does
from catdb.backbones import Recipe, load
load(Recipe("mobilenet_v2", {str(mobilenet)!r}, engine="tensorflow"))
"""
    command = ["bash", "-c", '"$@" 2>&-', "bash", sys.executable, "-c", script]
    assert subprocess.run(command, timeout=120).returncode == 0


# --- wrong weights --------------------------------------------------------------------------------------------------


def test_weights_of_another_network_are_refused_in_a_line_and_nothing_is_written(
    mobilenet: Path, tmp_path: Path, photos: Path
) -> None:
    with pytest.raises(WeightsInvalid) as caught:
        Database(tmp_path / "new", backbone="mobilenet", weights=mobilenet).build(photos)
    assert "not a weights file of mobilenet with its ImageNet head" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_a_file_that_is_no_weights_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("no weights")
    with pytest.raises(WeightsInvalid, match=r"text\.h5"):
        load(Recipe("mobilenet_v2", str(tmp_path / "text.h5"), engine="tensorflow"))


def test_classic_takes_no_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsInvalid, match="no weights"):
        load(Recipe("classic", str(tmp_path / "x.h5")))


def test_an_existing_database_refuses_other_weights_and_another_network(
    mobilenet: Path, tmp_path: Path, photos: Path
) -> None:
    with Database(tmp_path / "db", backbone="mobilenet_v2", weights=mobilenet) as db:
        db.build(photos)
    other = tmp_path / "other.h5"
    other.write_bytes(b"another file")
    with pytest.raises(BackboneMismatch, match="not the mobilenet_v2 weights"):
        Database(tmp_path / "db", weights=other)
    with pytest.raises(BackboneMismatch, match="was built with mobilenet_v2, not vgg16"):
        Database(tmp_path / "db", backbone="vgg16")
    assert len(Database(tmp_path / "db", backbone="MobileNetV2", weights=mobilenet)) == 12


# --- numbers --------------------------------------------------------------------------------------------------------


def test_mobilenet_names_what_is_on_photographs(mobilenet: Path, data: Path) -> None:
    embedder, _ = load(Recipe("mobilenet_v2", str(mobilenet)))
    words = {  # of ImageNet's classes, what a person would accept for five photographs of each label
        "bus": {"passenger car", "trolleybus", "minibus", "streetcar", "tram", "school bus", "fire engine"},
        "elephant": {"African elephant", "Indian elephant", "tusker"},
        "horse": {"sorrel", "ox", "horse cart", "Arabian camel", "llama", "gazelle", "hartebeest", "zebra"},
        "dinosaur": {"triceratops", "African chameleon", "banded gecko", "whiptail", "American chameleon"},
    }
    images = data / "photos" / "corel1k" / "queries"
    labels = [line.split(",") for line in (data / "photos" / "corel1k" / "labels.csv").read_text().split()[1:]]
    for label, accepted in words.items():
        names = [Path(file).name for file, found in labels if found == label and file.startswith("queries/")][:5]
        pixels = np.stack([np.asarray(Image.open(images / n).convert("RGB").resize((224, 224))) for n in names])
        found = embedder.embed(pixels)
        hits = [accepted & {embedder.categories[c].name for c in row} for row in found.categories]
        assert all(hits), (label, hits)


def test_the_answer_for_an_image_does_not_depend_on_its_batch(mobilenet: Path, data: Path) -> None:
    embedder, _ = load(Recipe("mobilenet_v2", str(mobilenet), engine="tensorflow"))
    pixels = photographs(data, 8, 224)
    together = embedder.embed(pixels)
    alone = [embedder.embed(pixels[n : n + 1]) for n in range(8)]
    np.testing.assert_allclose(together.features, np.concatenate([a.features for a in alone]), atol=1e-5)
    assert (together.categories == np.concatenate([a.categories for a in alone])).all()


def test_inception_resnet_v2_gives_keras_own_pooled_features_and_classes(data: Path, tmp_path: Path) -> None:
    """Random weights map all photographs onto nearly one vector (cosine 0.96-0.998). So the batch normalisation is
    calibrated on photographs first, and what is compared is what is left once the mean feature is taken away."""
    import tensorflow as tf

    k = keras._keras()
    network = NETWORKS["inception_resnet_v2"]
    pixels = photographs(data, 8, 299)
    scaled = k.applications.inception_resnet_v2.preprocess_input(pixels.astype(np.float32))
    k.utils.set_random_seed(7)
    reference = k.applications.InceptionResNetV2(weights=None)
    for layer in reference.layers:
        if isinstance(layer, k.layers.BatchNormalization):
            layer.momentum = 0.0
    # As graphs, which drop what they have used: 5 GB less than layer by layer.
    tf.function(lambda images: reference(images, training=True), autograph=False)(tf.constant(scaled))
    file = tmp_path / "calibrated.weights.h5"
    reference.save_weights(file)
    pooled = k.Model(reference.input, [reference.get_layer("avg_pool").output, reference.output])
    run = tf.function(lambda images: pooled(images, training=False), autograph=False)
    features, probabilities = (output.numpy() for output in run(tf.constant(scaled)))

    engine = Engine(Recipe("inception_resnet_v2", str(file), precision="f32"))
    assert engine.input_size == (network.size, network.size)
    found = engine.get().embed(pixels)

    expected = features / np.linalg.norm(features, axis=1, keepdims=True)
    centred, theirs = found.features - expected.mean(axis=0), expected - expected.mean(axis=0)
    cosines = (centred * theirs).sum(axis=1) / np.linalg.norm(centred, axis=1) / np.linalg.norm(theirs, axis=1)
    spread = np.linalg.norm(theirs, axis=1)
    assert spread.min() > 0.05, "the photographs are all one vector: this test could not fail"
    assert cosines.min() >= 0.9999
    top = np.argsort(-probabilities, axis=1, kind="stable")[:, :4]
    assert (found.categories == top).all()
    np.testing.assert_allclose(found.probabilities, np.take_along_axis(probabilities, top, 1), rtol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(found.features, axis=1), 1, atol=1e-5)


def test_efficientnet_is_the_graph_that_keras_publishes_weights_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keras adds a layer to an EfficientNet when, and only when, it loads its own published weights into it."""
    k = keras._keras()
    from keras.src.utils import file_utils

    k.utils.set_random_seed(3)
    net = k.applications.EfficientNetB0(weights=None)
    for layer in net.layers:
        if isinstance(layer, k.layers.Normalization):
            layer.set_weights([np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]), np.array(1)])
    file = tmp_path / "efficientnetb0.weights.h5"
    net.save_weights(file)
    monkeypatch.setattr(file_utils, "get_file", lambda *_, **__: str(file))
    published = k.applications.EfficientNetB0(weights="imagenet")
    pixels = np.random.default_rng(1).integers(0, 256, (2, 224, 224, 3), np.uint8)
    pooled = k.Model(published.input, published.get_layer("avg_pool").output)
    features = np.asarray(pooled(pixels.astype(np.float32), training=False))
    expected = features / np.linalg.norm(features, axis=1, keepdims=True)

    embedder, _ = load(Recipe("efficientnet_b0", str(file), engine="tensorflow"))
    np.testing.assert_allclose(embedder.embed(pixels).features, expected, atol=1e-4)
