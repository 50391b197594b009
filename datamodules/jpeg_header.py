"""Parsing of JPEG headers without decoding."""

import struct
from typing import NamedTuple

__all__ = ["PROGRESSIVE", "JpegFrame", "jpeg_frame", "jpeg_size"]

PROGRESSIVE = (0xC2, 0xCA)
"""Markers of progressive frames, whose pixels are stored in several scans."""


class JpegFrame(NamedTuple):
    """Content of a frame header; 1 component is gray, 3 are color, 4 are CMYK."""

    marker: int
    height: int
    width: int
    components: int


def jpeg_size(data: bytearray) -> tuple[int, int] | None:
    """Return height and width of a JPEG, or `None` without a frame header."""
    frame = jpeg_frame(data)
    return None if frame is None else (frame.height, frame.width)


def jpeg_frame(data: bytearray) -> JpegFrame | None:
    """Return the frame header of a JPEG, or `None`.

    Markers are searched as in libjpeg, which skips stray bytes before them.
    """
    at = 2
    while (at := data.find(0xFF, at)) >= 0:
        while at < len(data) and data[at] == 0xFF:  # fill bytes
            at += 1
        if at + 9 > len(data):
            return None
        marker = data[at]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 4 : at + 8])
            return JpegFrame(marker, height, width, data[at + 8])
        if marker in (0xD9, 0xDA):  # end of the image, or start of its pixels
            return None
        if marker == 0x00 or marker == 0x01 or 0xD0 <= marker <= 0xD7:  # without a length
            at += 1
        else:
            at += 1 + struct.unpack(">H", data[at + 1 : at + 3])[0]
    return None
