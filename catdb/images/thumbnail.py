"""How a picture for a page is written: as a JPEG of its own, with nothing of the file that it was made from."""

from __future__ import annotations

import io
from typing import BinaryIO

from PIL import Image

from catdb.images.decode import decode

QUALITY = 85  # of 100: what is left out is not seen


def thumbnail(source: BinaryIO, box: int) -> bytes:
    """Return a JPEG of a stream's image: upright, whole, of at most ``box`` pixels a side, never enlarged.

    What is transparent is white. Raises as :func:`catdb.images.decode` does.
    """
    pixels, _, _ = decode(source, box)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "JPEG", quality=QUALITY)
    return written.getvalue()
