"""Files that tests decode: PNG, JPEG and WebP, put together from their parts."""

import io
import struct
import zlib
from collections.abc import Iterable

from PIL import Image

from tests.pictures import encoded, seven
from webapp.containers import PNG_SIGNATURE

JPEG = encoded(seven(), "JPEG")
EXIF_PREFIX = b"Exif\0\0"
ORIENTATION, RESOLUTION_UNIT, IMAGE_WIDTH = 0x0112, 0x0128, 0x0100
ASCII, SHORT, LONG, SIGNED_LONG = 2, 3, 4, 9  # types of Exif


def png_chunk(name: bytes, content: bytes = b"", checksum: int | None = None) -> bytes:
    """Return a chunk of a PNG, with the right checksum unless another one is given."""
    checksum = zlib.crc32(name + content) if checksum is None else checksum
    return struct.pack(">I4s", len(content), name) + content + checksum.to_bytes(4)


def with_png_chunks(chunks: Iterable[bytes], body: bytes | None = None) -> bytes:
    """Return a PNG, of a 7 unless another one is given, with chunks after its header."""
    body = body or encoded(seven())
    start = len(PNG_SIGNATURE) + 25
    return b"".join((body[:start], *chunks, body[start:]))


def with_jpeg_segment(marker: int, content: bytes, body: bytes = JPEG) -> bytes:
    """Return a JPEG with a segment before its others."""
    segment = bytes((0xFF, marker)) + (len(content) + 2).to_bytes(2) + content
    return body[:2] + segment + body[2:]


def exif(entries: Iterable[tuple[int, int, bytes]], order: str = ">") -> bytes:
    """Return Exif data with entries: tag, type, and value of four bytes."""
    entries = list(entries)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    rows = [struct.pack(f"{order}HHI", tag, type_, 1) + value for tag, type_, value in entries]
    return head + b"".join(rows) + bytes(4)


def turned(orientation: int, type_: int = SHORT, order: str = ">") -> tuple[int, int, bytes]:
    """Return an entry of Exif data that says how a picture is to be turned."""
    format_ = {1: "B", SHORT: "H", LONG: "I", SIGNED_LONG: "i"}[type_]
    return ORIENTATION, type_, struct.pack(order + format_, orientation).ljust(4, b"\0")


def animated(format_: str, frames: list[Image.Image]) -> bytes:
    """Return an animation."""
    body = io.BytesIO()
    frames[0].save(body, format_, save_all=True, append_images=frames[1:], lossless=True)
    return body.getvalue()
