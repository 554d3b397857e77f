"""Networks of ``keras.applications``, run by TensorFlow. The secret kept here is Keras.

A network is always built in code and only its weights are read from a file: a Keras model file can run code. One
forward pass gives both the pooled feature and the class probabilities, because the classifier is a dense layer on
that very feature.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catdb.backbones import Category, Embedding, embedding, imagenet
from catdb.backbones.table import Network
from catdb.backbones.weights import Weights, fingerprint, keras_cache, missing
from catdb.errors import WeightsInvalid

if "keras" not in sys.modules:
    os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever a keras.json says: weights and figures here are TensorFlow's

_HOST = "https://storage.googleapis.com/"  # from which Keras downloads
_CONNECT = 10.0  # seconds until a network that swallows packets is taken for none
_STALL = 60.0  # seconds without a byte until a download is given up


def download(network: Network, sha256: str | None = None) -> Weights:
    """Have Keras download and cache the network's ImageNet weights; WeightsNotFound where they cannot be had."""
    if not _reachable():
        raise missing(network, sha256, f"no connection to {_HOST} within {_CONNECT:.0f} s")
    try:
        os.makedirs(keras_cache(), exist_ok=True)  # where it is missing, Keras would quietly take /tmp instead
    except OSError as error:
        raise missing(network, sha256, f"{keras_cache()}: {error.strerror}") from error
    keras = _keras()
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_STALL)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # where Keras draws its progress bar
            getattr(keras.applications, network.constructor)(weights="imagenet")
    except Exception as error:  # Keras raises bare Exception for a failed download
        raise missing(network, sha256, (str(error).splitlines() or [type(error).__name__])[0]) from error
    finally:
        socket.setdefaulttimeout(before)
    return fingerprint(os.path.join(keras_cache(), network.file))


def _reachable() -> bool:
    """Say whether the host answers at all. A thread, because no timeout bounds the look-up of a name."""
    answered = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(_HOST, method="HEAD"), timeout=_CONNECT).close()
        except urllib.error.HTTPError:
            pass  # an answer all the same
        except (OSError, ValueError):
            return
        answered.set()

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_CONNECT)
    return answered.is_set()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the lines off the screen that TensorFlow's C++ prints while it is imported, whatever its log level."""
    if sys.stderr is not None:
        sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def _keras() -> Any:
    """Import Keras, on TensorFlow and with the channels last, as all weights here have them."""
    with _quiet():
        import keras
    keras.config.set_image_data_format("channels_last")
    return keras


def build(network: Network) -> Any:
    """Build the network with random weights: uint8 pixels in, (feature (n, d), probabilities (n, 1000)) out."""
    keras = _keras()
    side = network.size
    net = getattr(keras.applications, network.constructor)(weights=None, input_shape=(side, side, 3))
    if network.feature:
        feature = net.get_layer(network.feature).output
    else:
        pools = [layer for layer in net.layers if isinstance(layer, keras.layers.GlobalAveragePooling2D)]
        feature = pools[-1].output
    if len(feature.shape) > 2:  # MobileNet pools to (n, 1, 1, d)
        feature = keras.layers.Flatten(name="feature")(feature)
    body = keras.Model(net.input, [feature, net.output])
    pixels = keras.Input((side, side, 3), dtype="uint8", name="pixels")
    outputs = body(_scaled(pixels, network.scale))
    model = keras.Model(pixels, outputs, name=network.name)
    model.net = net  # the network proper, to which a weights file belongs
    return model


def _scaled(pixels: Any, scale: str) -> Any:
    """Bring uint8 RGB into a network's input range (see :data:`catdb.backbones.table.Scale`)."""
    keras = _keras()
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    values = keras.ops.cast(pixels, "float32")
    if scale == "caffe":
        values = keras.ops.flip(values, axis=-1)
        return keras.layers.Rescaling(1.0, [-103.939, -116.779, -123.68])(values)
    factor, offset = {
        "symmetric": (1 / 127.5, -1.0),
        "torch": (list(1 / (255 * deviation)), list(-mean / deviation)),
        "efficientnet": (list(deviation**-0.5), list(255 * mean * (1 - deviation**-0.5))),
        "raw": (1.0, 0.0),
    }[scale]
    return keras.layers.Rescaling(factor, offset)(values)


def load_weights(model: Any, network: Network, weights: Weights) -> None:
    """Read a weights file into a built network; WeightsInvalid where it is not one of this network."""
    try:
        model.net.load_weights(weights.path)
    except Exception as error:  # h5py and Keras raise half a dozen types for a file that does not fit
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise WeightsInvalid(
            f"{weights.path}: not a weights file of {network.name} with its ImageNet head ({reason}); "
            f"Keras publishes it as {network.file}"
        ) from error


def loaded(network: Network, weights: Weights) -> Any:
    """Build a network with its weights; WeightsInvalid where they do not fit, or give no numbers."""
    model = build(network)
    load_weights(model, network, weights)
    black = np.zeros((1, network.size, network.size, 3), np.uint8)
    if not np.isfinite(np.asarray(model(black, training=False)[1])).all():
        raise WeightsInvalid(
            f"{weights.path}: {network.name} gives no numbers with these weights; is the file damaged?"
        )
    return model


def export(network: Network, weights: Weights, folder: str) -> None:
    """Write a network with its weights as TensorFlow's saved model, for an engine that converts it.

    It holds one graph and its variables. Keras' own export describes every layer too: nobody reads that, and it takes
    longer than all the rest.
    """
    model = loaded(network, weights)
    import tensorflow as tf  # after Keras, which has brought it along without its lines on the screen

    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    module.run = _graph(model, network)
    tf.saved_model.save(module, folder, signatures=module.run.get_concrete_function())


def _graph(model: Any, network: Network) -> Any:
    """Return a loaded network as one graph: uint8 pixels in, (feature (n, d), probabilities (n, 1000)) out."""
    import tensorflow as tf

    signature = tf.TensorSpec((None, network.size, network.size, 3), tf.uint8, name="pixels")
    return tf.function(lambda pixels: model(pixels, training=False), input_signature=[signature], autograph=False)


class KerasEmbedder:
    """A network of ``keras.applications`` in float32, on whatever device TensorFlow chooses."""

    engine = "tensorflow"
    precision = "f32"

    def __init__(self, network: Network, weights: Weights) -> None:
        """Build the network and load its weights, which takes seconds."""
        with _quiet():
            import tensorflow as tf

            tf.config.list_logical_devices()  # looks for a GPU, and complains at length where there is none
        model = loaded(network, weights)
        self.backbone = network.name
        self.weights_sha256: str | None = weights.sha256
        self.dimension = network.dimension
        self.input_size = (network.size, network.size)
        self.categories: tuple[Category, ...] = imagenet()
        self._run = _graph(model, network)

    def embed(self, pixels: NDArray[np.uint8]) -> Embedding:
        """See :class:`catdb.backbones.Embedder`."""
        feature, probabilities = (output.numpy() for output in self._run(pixels))
        return embedding(feature, probabilities)
