"""From a folder to pixels: which files are images, whether they changed, and what they show.

    find ─▶ Found ─ fingerprint ─▶ Content ─ read ─▶ Picture          each of them, or a Failure

A bad image is a value in the stream, never an exception; only a query's (:func:`decode`, :func:`fit`) raises
:class:`catdb.errors.ImageUnreadable`. A build decodes in processes of their own (:class:`Decoders`). What draws is in
``sheet`` and ``scenes``. This package alone knows Pillow and pillow-heif.
"""

from __future__ import annotations

from catdb.images.confined import open_below
from catdb.images.decode import Picture, decode, fit, read
from catdb.images.decoders import Decoders
from catdb.images.find import (
    HEAD,
    Content,
    Failure,
    Found,
    Stamp,
    Unlisted,
    excluded,
    find,
    fingerprint,
    identify,
    ignored,
)

__all__ = [
    "HEAD",
    "Content",
    "Decoders",
    "Failure",
    "Found",
    "Picture",
    "Stamp",
    "Unlisted",
    "decode",
    "excluded",
    "find",
    "fingerprint",
    "fit",
    "identify",
    "ignored",
    "open_below",
    "read",
]
