"""Pictures of the images, small enough for a page: made anew by a decoder, and the last ones asked for are kept.

No byte of a file is handed out. What is kept is known by the content of the file and the size, so that it is right
whatever the file is called and whenever it was asked for; and is no more than LIMIT bytes.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from catdb.images import Decoders, Stamp

if TYPE_CHECKING:
    from catdb.browse import ImageInfo
    from catdb.database import Database

SIZES = (160, 320, 640, 1600)
LIMIT = 64 << 20
"""Bytes of JPEG that are kept: some thousand of the usual size."""

Key = tuple[bytes, int]


class Thumbnails:
    """Thumbnails of a database's images; threads may share them."""

    def __init__(self, db: Database, decoders: Decoders) -> None:
        self._db, self._decoders = db, decoders
        self._turn = threading.Lock()
        self._kept: OrderedDict[Key, bytes] = OrderedDict()  # the one used longest ago first
        self._bytes = 0

    def get(self, image: ImageInfo, size: int) -> tuple[bytes, bool]:
        """Return an image as JPEG, of at most ``size`` pixels a side, and whether its content is what is indexed.

        Raises ImageUnknown, PathNotFound, ImageUnreadable, and DecoderFailed.
        """
        key = (image.digest, size)
        with self._turn:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key], True
        with self._db.open_image(image.id) as file:
            jpeg = self._decoders.thumbnail(file, size)
            same = Stamp.of(os.fstat(file.fileno())) == image.stamp
        if same:
            self._keep(key, jpeg)
        return jpeg, same

    def _keep(self, key: Key, jpeg: bytes) -> None:
        with self._turn:
            self._bytes += len(jpeg) - len(self._kept.get(key, b""))
            self._kept[key] = jpeg
            while self._bytes > LIMIT:
                self._bytes -= len(self._kept.popitem(last=False)[1])
