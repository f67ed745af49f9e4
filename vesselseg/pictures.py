"""Image files that Pillow opens, with the decoders of our table only, and their complaints."""

from __future__ import annotations

import logging
import struct
import threading
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

import numpy as np
import PIL
from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from .formats import MAX_PIXELS, READABLE, describe_unknown
from .pixels import check_size

_LONG_RUN = 512  # bytes


def open_picture(
    stream: IO[bytes],
    formats: Collection[str] = (),
    max_pixels: float = MAX_PIXELS,
    label: str = "The image",
) -> ImageFile.ImageFile:
    """Open an image file with Pillow, which sees no decoder but those of `READABLE`.

    `formats` restricts it further, to some of the table's. `max_pixels` is the limit, whatever
    PIL.Image.MAX_IMAGE_PIXELS is: ImageError above it. Raises PIL.UnidentifiedImageError, whose
    message says what is read, for every other file, and whatever a decoder raises.
    """
    Image.preinit()
    stream.seek(0)
    head = stream.read(16)
    for name in formats or READABLE:
        if name not in Image.OPEN:
            Image.init()
        if name not in Image.OPEN:  # Pillow before 11.3 has no AVIF
            continue
        opener, accepts = Image.OPEN[name]
        # What follows is PIL.Image.open without the limit that all users of Pillow share.
        if accepts is not None and accepts(head) is not True:
            continue
        stream.seek(0)
        try:
            opened = opener(stream, "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue
        check_size(opened.width, opened.height, label, max_pixels)
        limit = Image.MAX_IMAGE_PIXELS
        is_large = limit is not None and opened.width * opened.height > limit
        if is_large and isinstance(opened, TiffImageFile):
            # The pixels of a large file, for which Pillow would apply its own limit.
            opened.im = Image.new(opened.mode, (opened.tag_v2[256], opened.tag_v2[257])).im
        return opened
    stream.seek(0)
    missing = [name for name in READABLE if name not in Image.OPEN]
    note = f" (this Pillow, {PIL.__version__}, lacks {', '.join(missing)})" if missing else ""
    raise UnidentifiedImageError(describe_unknown(stream.read(512), note))


def load_whole(opened: ImageFile.ImageFile, stream: IO[bytes]) -> None:
    """Decode a file; EOFError if it is truncated, whatever ImageFile.LOAD_TRUNCATED_IMAGES is."""
    if ImageFile.LOAD_TRUNCATED_IMAGES and opened.fp is not None:
        opened.fp = cast("IO[bytes]", _Strict(stream))
    opened.load()


class _Strict:
    """A stream that raises EOFError where others return nothing."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def read(self, size: int = -1) -> bytes:
        content = self._stream.read(size)
        if not content and size:
            raise EOFError("the file is truncated")
        return content


class _Complaints(logging.Filter):
    """What Pillow and tifffile warn of and log, in the threads that are decoding.

    Python's warning filters belong to the whole process, so they are changed when the first
    thread begins to decode and restored when the last one is done. Warnings of other modules and
    in other threads go where they went before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.said: dict[int, list[str]] = {}  # of each thread that is decoding
        self.caught = warnings.catch_warnings()

    def filter(self, record: logging.LogRecord) -> bool:
        said = self.said.get(threading.get_ident())
        if said is not None and record.levelno >= logging.WARNING:
            said.append(record.getMessage())
        return said is None

    @contextmanager
    def collect(self) -> Iterator[list[str]]:
        """Collect what decoders warn of in this thread, instead of letting it through."""
        thread = threading.get_ident()
        with self.lock:
            if not self.said:
                self.caught = warnings.catch_warnings()
                self.caught.__enter__()
                show = warnings.showwarning
                warnings.filterwarnings("always", module=r"PIL\.")

                def show_others(message: Any, category: Any, *place: Any, **options: Any) -> None:
                    said = self.said.get(threading.get_ident())
                    if said is None:
                        show(message, category, *place, **options)
                    elif "Bomb" not in category.__name__:  # `max_pixels` has decided
                        said.append(str(message))

                warnings.showwarning = show_others
                for name in _LOGGERS:
                    logging.getLogger(name).addFilter(self)
            said = self.said.setdefault(thread, [])
        try:
            yield said
        finally:
            with self.lock:
                del self.said[thread]
                if not self.said:
                    self.caught.__exit__(None, None, None)
                    for name in _LOGGERS:
                        logging.getLogger(name).removeFilter(self)


_LOGGERS = ("PIL.TiffImagePlugin", "tifffile")
collect_complaints = _Complaints().collect


def without_metadata(stream: IO[bytes], most: float) -> bytes | None:
    """A PNG or JPEG file of at most so many bytes without its metadata; None for other files.

    Pixels, palette and transparency stay, and comments, which cannot make a decoder fail.
    """
    stream.seek(0)
    content = stream.read(int(min(most, 2**40)))
    kept, position = [], 0
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        kept, position = [content[:8]], 8
        while position + 8 <= len(content):
            length = int.from_bytes(content[position : position + 4], "big")
            name = content[position + 4 : position + 8]
            if name in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
                kept.append(content[position : position + length + 12])
            position += length + 12
        return b"".join(kept)
    if not content.startswith(b"\xff\xd8"):
        return None
    return b"".join(
        content[start:end]
        for start, end in _jpeg_segments(content)
        if not 0xE1 <= content[start + 1] <= 0xED
    )


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, int]]:
    """Start and end of each part of a JPEG file; the last is its pixels with all that follows."""
    yield 0, 2
    start = 2
    while content[start : start + 1] == b"\xff" and content[start + 1 : start + 2] not in (
        b"",
        b"\xda",
    ):
        end = start + 2 + int.from_bytes(content[start + 2 : start + 4], "big")
        yield start, end
        start = end
    if start + 1 < len(content):
        yield start, len(content)


def is_overwritten(stream: IO[bytes]) -> bool:
    """Whether a JPEG file repeats one byte in a tenth of its pixels, as damaged files do.

    libjpeg decodes such a file to something, and Pillow does not pass on its warnings.
    """
    stream.seek(0)
    content = stream.read()
    *_, (start, _) = _jpeg_segments(content)
    end = content.rfind(b"\xff\xd9")  # what follows is padding
    values = np.frombuffer(content, np.uint8)[start:end]
    changes = np.flatnonzero(values[1:] != values[:-1])
    longest = np.diff(changes, prepend=0, append=len(values)).max()
    return bool(longest > max(_LONG_RUN, len(values) / 10))
