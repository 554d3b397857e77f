"""Convert one network for OpenVINO: ``python -m catdb.backbones.convert NETWORK WEIGHTS FOLDER``.

Its own process, because TensorFlow never gives its memory back. Exits with 0, with 3 and the reason on stdout where the
weights do not fit, or with a traceback on stderr where the network does not convert. When stdin ends, so does whoever
wanted the conversion: then the folder is taken away.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading

from catdb.backbones.conversion import INVALID
from catdb.backbones.keras import export
from catdb.backbones.openvino import save
from catdb.backbones.table import NETWORKS
from catdb.backbones.weights import fingerprint
from catdb.errors import WeightsInvalid


def main(name: str, weights: str, folder: str) -> int:
    """Export the network from Keras and write it as OpenVINO IR into the folder; return the exit code."""
    threading.Thread(target=_end_with_stdin, args=(folder,), daemon=True).start()
    with tempfile.TemporaryDirectory(dir=folder) as place:
        saved = os.path.join(place, "saved_model")
        try:
            export(NETWORKS[name], fingerprint(weights), saved)
        except WeightsInvalid as error:
            print(error)
            return INVALID
        save(saved, folder)
    return 0


def _end_with_stdin(folder: str) -> None:
    os.read(0, 1)  # and not of sys.stdin, whose lock no interpreter may find held at its end
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
