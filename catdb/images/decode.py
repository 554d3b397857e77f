"""How a file becomes upright RGB pixels of one size, by Pillow, and what Pillow must be kept from doing.

Pillow's readers are constructed here, ``Image.open`` is not called. That keeps out its check for decompression bombs,
which warns or raises by the host program's ``MAX_IMAGE_PIXELS`` (the limit here is our own, applied before any pixel is
decoded, and no global state is touched), and its registry, through which any plugin could come to see a hostile file.
The readers get neither a file name nor a descriptor: given one, Pillow or libtiff maps the file into memory, and a file
that shrinks meanwhile then kills the process (SIGBUS).
"""

from __future__ import annotations

import io
import os
import re
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from catdb.errors import ImageUnreadable
from catdb.images.find import (
    DRAWING_SUFFIXES,
    HEAD,
    RAW_SUFFIXES,
    Content,
    Failure,
    Stamp,
    explain,
    fingerprint,
    identify,
    open_regular,
)

Pixels = NDArray[np.uint8]

_MEGAPIXELS, _MEGAPIXELS_JPEG = 50, 100
_MEGABYTES = 512
_SCANS = 200
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # a JPEG's, but for those that stand amid pixels
_BAND = 1 << 22
_TALL = 1 << 26  # pixels to which rows may be widened before they are squashed
_PAUSES = (0.2, 0.5, 1.0)
_FRESH = 5.0
_ORIENTATION = 0x0112
_TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SHORT = (EOFError, IndexError, struct.error)
_SHORT_WORDS = ("truncated", "incomplete", "end of file")
_NAMES = {"WEBP": "WebP", "HEIF": "HEIC"}


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A file, decoded: ``width`` and ``height`` are the upright image's own, ``pixels`` (h, w, 3) are squashed."""

    content: Content
    width: int
    height: int
    pixels: Pixels


class Unfinished(ImageUnreadable):
    """Looks like an image, but is not whole: perhaps it is still being written."""


class Outside(ImageUnreadable):
    """The fault lies outside the file: the same bytes may well be readable tomorrow."""


class _Nameless:
    """A stream that can be read, and nothing more: no descriptor by which a C library could map the file.

    Of what a damaged header asks for (a PNG's chunk of 2 GB) no more is set aside than there is.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._read, self.seek, self.tell = stream.read, stream.seek, stream.tell
        self._length = stream.seek(0, os.SEEK_END)
        stream.seek(0)

    def read(self, count: int = -1, /) -> bytes:
        return self._read(min(count, self._length) if count > 0 else count)


def read(
    content: Content,
    size: tuple[int, int],
    decoder: Callable[[str, tuple[int, int]], tuple[Pixels, int, int]] | None = None,
    *,
    wait: Callable[[float], None] = time.sleep,
) -> Picture | Failure:
    """Decode a file that was fingerprinted, to ``size`` (height, width). Never raises for what is in the file.

    ``decoder`` is what decodes a path, :func:`decode` in this process or :meth:`catdb.images.Decoders.decode` in
    another. A file that is not whole and less than 5 s old is fingerprinted and tried again after each of three
    pauses (``wait(seconds)``), so that the picture's own ``content`` may be newer than the one given.
    """
    pauses = iter(_PAUSES)
    while True:
        fault: ImageUnreadable | None = None
        try:
            pixels, width, height = (decoder or decode)(content.path, size)
        except ImageUnreadable as error:
            fault = error
        now = _stamp(content.path)
        if fault is None:
            if now != content.stamp:
                return Failure(content.path, "changed while it was being read")
            return Picture(content, width, height, pixels)
        pause = next(pauses, None)
        if pause is None or not isinstance(fault, Unfinished) or not _is_fresh(now):
            lasting = now == content.stamp and not isinstance(fault, Outside)
            return Failure(content.path, str(fault), content.stamp if lasting else None)
        wait(pause)
        again = fingerprint(content.path)
        if isinstance(again, Failure):
            return again
        content = again


def decode(source: str | Image.Image | BinaryIO, size: tuple[int, int] | int) -> tuple[Pixels, int, int]:
    """Decode an image to ``size`` (height, width): pixels (height, width, 3), and its own upright width and height.

    Instead of a size, so many pixels a side of a square into which it is to fit, in its own proportions, not enlarged.
    A path, a binary stream (read from its beginning, left open) or a Pillow image (see :func:`fit`). This is the one
    decode, for indexing and for queries. ImageUnreadable says in its message why not.
    """
    if isinstance(source, Image.Image):
        return fit(source, size)
    try:
        if not isinstance(source, str):
            return _decode(source if source.seekable() else io.BytesIO(source.read()), "", size)
        with open_regular(source) as stream:
            return _decode(stream, os.path.splitext(source)[1].lower(), size)
    except ImageUnreadable:
        raise
    except (OSError, ValueError) as error:
        raise Outside(explain(error)) from error


def fit(image: Image.Image | NDArray[np.uint8], size: tuple[int, int] | int) -> tuple[Pixels, int, int]:
    """Turn upright and squash what is in memory already: a Pillow image of any mode, or uint8 (h, w, 3) RGB.

    Returns what :func:`decode` does. ImageUnreadable where an array has another dtype or shape, or the image is too
    large or cannot be loaded. An image opened from a JPEG is not drafted here, so that its pixels can differ by a
    little from those of the file.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ImageUnreadable(f"an array must be uint8 (h, w, 3), not {image.dtype} {image.shape}")
        image = Image.fromarray(np.ascontiguousarray(image))
    _refuse_large(image.size, _MEGAPIXELS_JPEG)
    try:
        image.load()
        return _upright(image, image.size, size)
    except Exception as error:
        raise _fault(error, image.format or "image") from error


def _decode(stream: BinaryIO, suffix: str, size: tuple[int, int] | int) -> tuple[Pixels, int, int]:
    kind = _identify(stream, suffix)
    reader = _heif_reader() if kind == "HEIF" else _READERS[kind]
    try:
        source = _Nameless(stream)
        image = reader(source)
        _refuse_large(image.size, _MEGAPIXELS_JPEG if kind == "JPEG" else _MEGAPIXELS)
        full = image.size
        if kind == "JPEG":
            _refuse_scans(source)
            width, height = _wanted(image, full, size)
            image.draft("RGB", (2 * width, 2 * height))
            image.load()
        else:
            image.load()
            full = image.size  # a HEIC file can turn out to be of another size than its header says
        return _upright(image, full, size)
    except ImageUnreadable:
        raise
    except Exception as error:  # what Pillow's readers raise for damaged files is any exception at all
        raise _fault(error, kind) from error


def _identify(stream: BinaryIO, suffix: str) -> str:
    """Name the format of a stream and rewind it; ImageUnreadable where it is none of ours, or far too long."""
    length = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    head = stream.read(HEAD)
    stream.seek(0)
    kind = identify(head)
    if suffix in RAW_SUFFIXES and kind in (None, "TIFF"):  # most RAW formats are TIFF inside, with a thumbnail first
        raise ImageUnreadable(f"RAW photographs ({suffix}) are not supported: export as JPEG or TIFF")
    if length > _MEGABYTES << 20:  # several readers take the whole file into memory before they look at it
        raise ImageUnreadable(f"too large: a file of {length >> 20:,} MB, the limit is {_MEGABYTES}")
    if kind is not None:
        return kind
    if not head:
        raise Unfinished("an empty file")
    if suffix in DRAWING_SUFFIXES:
        raise ImageUnreadable(f"vector drawings ({suffix}) are not supported: export as PNG")
    if not head.strip(b"\0"):
        raise Unfinished("not an image: it begins with zeros only")
    raise ImageUnreadable("not an image")


def _heif_reader() -> Callable[[_Nameless], ImageFile.ImageFile]:
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise Outside("HEIC needs an extra: pip install 'catdb[heic]'") from error
    return cast("Callable[[_Nameless], ImageFile.ImageFile]", HeifImageFile)


_READERS = cast(
    "dict[str, Callable[[_Nameless], ImageFile.ImageFile]]",
    {
        "JPEG": JpegImagePlugin.JpegImageFile,  # also for MPO: its first frame comes first
        "PNG": PngImagePlugin.PngImageFile,
        "WEBP": WebPImagePlugin.WebPImageFile,
        "GIF": GifImagePlugin.GifImageFile,
        "BMP": BmpImagePlugin.BmpImageFile,
        "TIFF": TiffImagePlugin.TiffImageFile,
        "AVIF": AvifImagePlugin.AvifImageFile,
    },
)


def _refuse_large(size: tuple[int, int], limit: int) -> None:
    megapixels = size[0] * size[1] / 1e6
    if megapixels > limit:
        shown = f"{megapixels:,.2f}".rstrip("0").rstrip(".")
        raise ImageUnreadable(
            f"too large: {shown} megapixels, the limit is {_MEGAPIXELS} ({_MEGAPIXELS_JPEG} for JPEG)"
        )


def _refuse_scans(stream: _Nameless) -> None:
    """Refuse a JPEG of very many scans, given just behind the header of its first one; the stream is left there.

    A camera or a program writes one or about ten. But each costs libjpeg a pass over the image and the file
    hardly a byte, so that a small file could keep a core for very long.
    """
    start = stream.tell()
    data, at, scans = stream.read(), 0, 1
    stream.seek(start)
    while (marker := _MARKER.search(data, at)) and marker[0] != b"\xff\xd9":
        scans += marker[0] == b"\xff\xda"
        if scans > _SCANS:
            raise ImageUnreadable(f"damaged JPEG: more than {_SCANS} scans of one image")
        at = marker.end() + max(2, int.from_bytes(data[marker.end() : marker.end() + 2], "big"))


def _fault(error: Exception, kind: str) -> ImageUnreadable:
    """Say what is wrong with a file by the exception that its reader raised."""
    name = _NAMES.get(kind, kind)
    if isinstance(error, OSError) and error.errno is not None:
        return Outside(explain(error))
    if isinstance(error, Image.DecompressionBombError):  # a host program's own MAX_IMAGE_PIXELS, where it is lower
        return ImageUnreadable(f"too large: a {name} beyond the limit that this program has set for Pillow")
    if isinstance(error, MemoryError):
        return ImageUnreadable(f"damaged {name}, or too large: not enough memory to decode it")
    detail = " ".join(str(error).split())
    # Running out of bytes has as many faces as there are readers; Pillow wraps some of them in a SyntaxError.
    if isinstance(error.__cause__ or error, _SHORT) or any(word in detail.lower() for word in _SHORT_WORDS):
        return Unfinished(f"truncated {name}: the file ends before the image does")
    return Unfinished(f"damaged {name}: {detail or type(error).__name__}")


def _orientation(image: Image.Image) -> int:
    """Read EXIF's orientation, 1 to 8: 1 where there is none, or none that can be read."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a broken EXIF block costs the orientation, not the image
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _wanted(image: Image.Image, full: tuple[int, int], size: tuple[int, int] | int) -> tuple[int, int]:
    """Return the (width, height) to which an image of so many pixels is squashed before it is turned upright."""
    if isinstance(size, int):
        longest = max(*full, size)
        return max(1, round(full[0] * size / longest)), max(1, round(full[1] * size / longest))
    height, width = size if _orientation(image) < 5 else size[::-1]
    return width, height


def _upright(image: Image.Image, full: tuple[int, int], size: tuple[int, int] | int) -> tuple[Pixels, int, int]:
    """Squash a loaded image to ``size`` and turn it, in that order, for it is the cheaper one."""
    orientation = _orientation(image)
    small = _squash(image, *_wanted(image, full, size))
    if orientation > 1:
        small = small.transpose(_TRANSPOSED[orientation])
    return np.array(small), *(full if orientation < 5 else full[::-1])


def _squash(image: Image.Image, width: int, height: int) -> Image.Image:
    """Resize to RGB, bilinear with antialiasing. A large image is converted and narrowed a band of rows at a time.

    Pillow resizes along the rows first and the columns then, so that bands give bit for bit what the whole would,
    without a second and third copy of a large image. One that is narrower than it is to be, and extremely tall, is
    shortened first: widened, 50 megapixels of one column would be 60 GB.
    """
    extent = _extent(image)
    full_width, full_height = image.size
    rows = max(1, _BAND // full_width)
    if full_width < width and width * full_height > _TALL:
        step = max(1, full_height // (8 * height))
        short = Image.new("RGB", (full_width, -(-full_height // step)))
        for top, band in _bands(image, max(1, rows // step) * step):
            short.paste(_rgb(band, extent).reduce((1, step)), (0, top // step))
        box = (0, 0, full_width, full_height / step)
        return short.resize((width, height), Image.Resampling.BILINEAR, box)
    if rows >= full_height:
        return _rgb(image, extent).resize((width, height), Image.Resampling.BILINEAR)
    narrow = Image.new("RGB", (width, full_height))
    for top, band in _bands(image, rows):
        narrow.paste(_rgb(band, extent).resize((width, band.height), Image.Resampling.BILINEAR), (0, top))
    return narrow.resize((width, height), Image.Resampling.BILINEAR)


def _bands(image: Image.Image, rows: int) -> Iterator[tuple[int, Image.Image]]:
    """Yield an image's bands of so many rows, each with the row where it begins."""
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _rgb(image: Image.Image, extent: tuple[float, float]) -> Image.Image:
    """Convert to RGB: what is transparent onto white, what has more than 8 bits per sample by ``extent``."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        # Pillow's own conversion cuts off at 255 instead of scaling: almost everything becomes white.
        return Image.fromarray(_scaled(np.asarray(image), extent)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layered = image.convert("RGBA")
    ground = Image.new("RGB", image.size, "white")
    ground.paste(layered, mask=layered.getchannel("A"))
    return ground


def _extent(image: Image.Image) -> tuple[float, float]:
    """Find the sample values that stand for black and white: 0 and 65535, or a float image's least and greatest."""
    if image.mode not in ("F", "I"):
        return 0.0, 65535.0
    low, high = np.inf, -np.inf
    rows = max(1, _BAND // image.width)
    for _, band in _bands(image, rows):
        values = np.asarray(band)
        values = values[np.isfinite(values)]
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    if image.mode == "I" and low >= 0 and high <= 65535:  # 16 bits in the guise of 32
        return 0.0, 65535.0
    return (low, high) if low < high else (0.0, 0.0)


def _scaled(samples: NDArray[np.generic], extent: tuple[float, float]) -> Pixels:
    """Scale samples (h, w) so that ``extent`` becomes 0 to 255; NaN is black, so is all where nothing differs."""
    low, high = extent
    if low == high:
        return np.zeros(samples.shape, np.uint8)
    values = np.nan_to_num(samples.astype(np.float64), nan=low, posinf=high, neginf=low)
    return np.rint((np.clip(values, low, high) - low) * (255.0 / (high - low))).astype(np.uint8)


def _stamp(path: str) -> Stamp | None:
    try:
        return Stamp.of(os.stat(path))
    except (OSError, ValueError):
        return None


def _is_fresh(stamp: Stamp | None) -> bool:
    return stamp is not None and abs(time.time() - stamp.mtime_ns / 1e9) < _FRESH
