"""Reduce a PNG, JPEG or WebP file to what its pixels and its orientation need.

A decoder never sees metadata, so broken metadata does no harm and large metadata costs no time.
Nothing is decompressed here. The number of parts (chunks, segments, scans) is limited.

Sources: PNG 3rd edition (W3C, 2025), JPEG (ITU-T T.81), WebP container (RFC 9649), Exif 3.0.
"""

import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from webapp.errors import NotAnImage, TooManyPixels, UnsupportedMedia

MAX_PIXELS = 16_000_000
MAX_WEBP_PIXELS = 9_000_000  # Pillow's decoder takes 16 bytes of memory for each
MAX_SIDE = 65_535  # pixels; Pillow has a pointer for each row
MAX_BYTES = 4 * MAX_PIXELS  # of the unpacked pixels of a PNG
MAX_PARTS = 10_000
MAX_FRAMES = 100  # of a WebP animation; later ones are dropped

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by color type
PNG_PALETTE = 3  # a color type
PNG_HEAD = frozenset({b"IHDR", b"PLTE", b"tRNS"})  # once, before the pixels
PNG_ANIMATION = frozenset({b"acTL", b"fcTL", b"fdAT"})
PNG_KEPT = PNG_HEAD | PNG_ANIMATION | {b"IDAT", b"eXIf"}
PNG_TRANSPARENT_BYTES = {0: 2, 2: 6}  # in tRNS, by color type

JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
JPEG_MARKER = re.compile(rb"\xff[^\x00\xff]")
JPEG_SCAN_END = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]|\Z")  # restart markers are part of a scan
JPEG_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
JPEG_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length
JPEG_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # with Huffman codes
JPEG_TABLES = frozenset({0xC4, 0xDB, 0xDD})
# Lossless, hierarchical or arithmetic codes: browsers do not read them, and 340 bytes of the
# latter can take a second.
JPEG_OTHER_CODES = frozenset(range(0xC3, 0xD0)) - {0xC4, 0xC8}
JPEG_JFIF, JPEG_EXIF, JPEG_ADOBE, JPEG_SCAN, JPEG_EOI = 0xE0, 0xE1, 0xEE, 0xDA, 0xD9
MAX_SCANS = 500
MAX_SCANNED_SAMPLES = 30 * MAX_PIXELS  # in all scans and components: empty scans take time too
JPEG_FILLER = 4 * bytes.fromhex("5ac3965a3c69a5")  # noise to append to a scan that may be cut off

WEBP_SIZED = frozenset({b"VP8X", b"VP8 ", b"VP8L"})
WEBP_KEPT = WEBP_SIZED | {b"ALPH", b"ANIM", b"ANMF", b"EXIF"}
WEBP_ANIMATED, WEBP_ALPHA = 0x02, 0x10  # flags of VP8X
# Lossless data may have a group of prefix codes for every 16 pixels. A group takes 20 bits or more
# in the file, and about 6 KB in the decoder.
WEBP_GROUP_BYTES, WEBP_GROUP_PIXELS, MAX_WEBP_GROUPS = 2.5, 16, 3000

EXIF_PREFIX = b"Exif\0\0"
EXIF_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
EXIF_ORIENTATION = 0x0112
EXIF_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}  # by type

OTHER_FORMATS = {
    name: re.compile(pattern, re.DOTALL | re.IGNORECASE)
    for name, pattern in {
        "AVIF": rb".{4}ftyp(avi[fos]|mi[af][12f].{4}(....){,9}?avif)",
        "HEIC": rb".{4}ftyp(hei|hev|mi[af][12f]|msf1)",
        "SVG": rb"(\xef\xbb\xbf)?\s*(<svg|<(\?xml|!doctype|!--).{,4000}?<svg)",
        "PDF": rb".{,1024}?%PDF-",
        "GIF": rb"GIF8[79]a",
        "BMP": rb"BM.{4}\0\0\0\0",
        "TIFF": rb"II[*+]\0|MM\0[*+]",
        "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    }.items()
}

UNREADABLE = "The body can't be read as a PNG, JPEG or WebP image."
TOO_MANY_PARTS = "The file has too many parts. Save it again in another format."


class Chunk(NamedTuple):
    """A part of a PNG."""

    name: bytes
    content: bytes
    checksum: bytes

    @classmethod
    def of(cls, name: bytes, content: bytes) -> "Chunk":
        """Return a chunk with its checksum."""
        return cls(name, content, zlib.crc32(content, zlib.crc32(name)).to_bytes(4))

    def is_intact(self) -> bool:
        """Return whether the checksum is correct."""
        return self == Chunk.of(self.name, self.content)


@dataclass(frozen=True)
class Container:
    """A file without metadata."""

    data: bytes
    width: int
    height: int
    orientation: int  # as in Exif: 1 to 8
    # Of a PNG that kornia-rs may decode: samples per pixel, bits per sample, and the transparent
    # color if these are 16.
    channels: int | None = None
    depth: int = 8
    transparent: tuple[int, ...] = ()
    animation: bytes | None = None  # the file with its frames, of a WebP the first MAX_FRAMES
    # A JPEG without an end marker, with noise appended. It decodes to other pixels if some are
    # missing.
    with_filler: bytes | None = None
    needs_subprocess: bool = False  # a WebP that may need hundreds of megabytes to decode


def read_container(body: bytes) -> Container:
    """Return a file without metadata. Raises NotAnImage, TooManyPixels, UnsupportedMedia."""
    if body.startswith(PNG_SIGNATURE):
        return _read_png(body)
    if body.startswith(JPEG_START):
        return _read_jpeg(body)
    if body[:4] == b"RIFF" and body[8:12] == b"WEBP":
        return _read_webp(body)
    reject_other_formats(body)
    raise NotAnImage(UNREADABLE)


def reject_other_formats(body: bytes) -> None:
    """Raise UnsupportedMedia, with advice, if the body is in another well-known format."""
    for name, pattern in OTHER_FORMATS.items():
        if pattern.match(body):
            raise UnsupportedMedia(
                f"{name} files are not supported. Save the image as PNG or JPEG and send that."
            )


def _check_size(
    width: int, height: int, max_pixels: int = MAX_PIXELS, bytes_per_pixel: float = 1
) -> None:
    if not width * height:
        raise NotAnImage(UNREADABLE)
    if width * height > max_pixels:
        raise TooManyPixels(
            f"The image has more than {max_pixels // 1_000_000} million pixels. Send a smaller one."
        )
    if max(width, height) > MAX_SIDE:
        raise TooManyPixels(f"The image is longer than {MAX_SIDE:,} pixels. Send a smaller one.")
    if width * height * bytes_per_pixel > MAX_BYTES:
        raise TooManyPixels(
            "The image takes too much memory. Save it with 8 bits per channel, or send a smaller "
            "one."
        )


# ---- PNG -------------------------------------------------------------------------------------


def _read_png(body: bytes) -> Container:
    chunks = list(_png_chunks(body))
    contents = {chunk.name: chunk.content for chunk in chunks}
    header = contents.get(b"IHDR", b"")
    if len(header) != 13 or chunks[0].name != b"IHDR":
        raise NotAnImage(UNREADABLE)
    width, height, depth, color_type, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    channels = PNG_CHANNELS.get(color_type, 0)
    _check_size(width, height, bytes_per_pixel=channels * depth / 8)
    is_palette = color_type == PNG_PALETTE
    palette = contents.get(b"PLTE", b"") if is_palette else b""  # only a suggestion in others
    if is_palette and not palette:
        raise NotAnImage(UNREADABLE)
    transparency = _png_transparency(contents.get(b"tRNS", b""), color_type, depth, palette)
    head = [
        Chunk.of(name, content)
        for name, content in ((b"IHDR", header), (b"PLTE", palette), (b"tRNS", transparency))
        if content
    ]
    pixels = [chunk for chunk in chunks if chunk.name not in PNG_HEAD | {b"eXIf"}]
    exif = [chunk.content for chunk in chunks if chunk.name == b"eXIf"]
    has_16_bits = depth == 16 and not is_palette
    for_kornia = depth == 8 and not (is_palette or interlaced or transparency)
    return Container(
        _png_file(head + [chunk for chunk in pixels if chunk.name == b"IDAT"]),
        width,
        height,
        _orientation(exif),
        channels if for_kornia or (has_16_bits and channels != 2) else None,
        depth,
        struct.unpack(f">{len(transparency) // 2}H", transparency) if has_16_bits else (),
        _png_file(head + pixels) if b"acTL" in contents else None,
    )


def _png_transparency(content: bytes, color_type: int, depth: int, palette: bytes) -> bytes:
    """Return the content of tRNS for Pillow: nothing if its length is wrong, as in libpng."""
    if color_type == PNG_PALETTE:
        return content if len(content) <= min(len(palette) // 3, 2**depth) else b""
    if len(content) != PNG_TRANSPARENT_BYTES.get(color_type):
        return b""
    if depth in (2, 4):  # Pillow compares the level with samples that have 8 bits
        return bytes((0, content[1] % 2**depth * 255 // (2**depth - 1)))
    return content


def _png_chunks(body: bytes) -> Iterator[Chunk]:
    """Yield the chunks that matter."""
    seen = set[bytes]()
    start = len(PNG_SIGNATURE)
    for _ in range(MAX_PARTS):
        if start + 8 > len(body):
            return
        length, name = struct.unpack_from(">I4s", body, start)
        end = start + 8 + length
        if name == b"IEND":
            return
        is_late = name in PNG_HEAD and (name in seen or b"IDAT" in seen)
        if name in PNG_KEPT and not is_late:
            seen.add(name)
            chunk = Chunk(name, body[start + 8 : end], body[end : end + 4])
            if chunk.is_intact() or (name == b"IDAT" and end + 4 > len(body)):
                yield chunk  # the decoder knows whether the last pixels are missing
            elif name == b"IDAT":
                raise NotAnImage(UNREADABLE)
        start = end + 4
    raise NotAnImage(TOO_MANY_PARTS)


def _png_file(chunks: Iterable[Chunk]) -> bytes:
    file = [PNG_SIGNATURE]
    for name, content, checksum in chunks:
        file += len(content).to_bytes(4), name, content, checksum.ljust(4, b"\0")
    return b"".join((*file, PNG_END))


# ---- JPEG ------------------------------------------------------------------------------------


def _read_jpeg(body: bytes) -> Container:
    kept = [JPEG_START]
    exif, frame, scans, has_end = list[bytes](), b"", list[bytes](), False
    for marker, content, data in _jpeg_segments(body):
        has_end = marker == JPEG_EOI
        if marker == JPEG_EXIF and content.startswith(EXIF_PREFIX):
            exif.append(content)
        if marker in JPEG_FRAMES:
            if frame or len(content) < 6:
                raise NotAnImage(UNREADABLE)
            frame = content
        if marker == JPEG_SCAN:
            scans.append(content)
        if _jpeg_matters(marker, content):
            kept += bytes((0xFF, marker)), (len(content) + 2).to_bytes(2), content, data
    height, width = struct.unpack_from(">HH", frame.ljust(5, b"\0"), 1)
    _check_size(width, height)
    scanned = width * height * sum(scan[0] for scan in scans if scan)
    if not has_end:  # it is decoded twice
        scanned *= 2
    if len(scans) > MAX_SCANS or scanned > MAX_SCANNED_SAMPLES:
        raise NotAnImage("The JPEG has too many scans. Save it again in another format.")
    if not has_end and not _jpeg_has_all_scans(frame, scans):
        raise NotAnImage(UNREADABLE)
    file = b"".join(kept)
    with_filler = None if has_end else _with_filler(file, kept[-1])
    return Container(file + JPEG_END, width, height, _orientation(exif), with_filler=with_filler)


def _with_filler(file: bytes, scan: bytes) -> bytes:
    """Return a file with more data in its last scan, which are visible if the scan ends early.

    If it ends between two restart markers, the next one is needed before the data.
    """
    restarts = JPEG_RESTART.findall(scan)
    marker = bytes((0xD0 + (restarts[-1][1] + 1) % 8,)) if restarts else b"\xd0"
    return file.rstrip(b"\xff") + JPEG_FILLER + b"\xff" + marker + JPEG_FILLER + JPEG_END


def _jpeg_segments(body: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield the marker, the content and the scan data of each segment, and the end marker."""
    start = len(JPEG_START)
    for _ in range(MAX_PARTS):
        found = JPEG_MARKER.search(body, start)
        if not found:
            return
        marker, start = body[found.end() - 1], found.end()
        if marker == JPEG_EOI:
            yield marker, b"", b""
            return
        if marker in JPEG_WITHOUT_LENGTH:
            continue
        if marker in JPEG_OTHER_CODES:
            raise NotAnImage("The JPEG has an unusual coding. Save it again in another format.")
        length = int.from_bytes(body[start : start + 2])
        end = start + length
        if length < 2 or end > len(body):
            return
        content, start = body[start + 2 : end], end
        if marker == JPEG_SCAN:
            scan_end = JPEG_SCAN_END.search(body, end)
            start = scan_end.start() if scan_end else len(body)
        yield marker, content, body[end:start]
    raise NotAnImage(TOO_MANY_PARTS)


def _jpeg_matters(marker: int, content: bytes) -> bool:
    """Return whether a segment describes pixels or, as JFIF and Adobe segments do, their colors."""
    if marker == JPEG_JFIF:
        return content.startswith(b"JFIF\0") and len(content) >= 14
    if marker == JPEG_ADOBE:
        return content.startswith(b"Adobe") and len(content) >= 12
    return marker in JPEG_FRAMES or marker in JPEG_TABLES or marker == JPEG_SCAN


def _jpeg_has_all_scans(frame: bytes, scans: Iterable[bytes]) -> bool:
    """Return whether the scans contain all bits of all coefficients of all components."""
    coefficients = dict.fromkeys(frame[6::3], 0)  # by component; one bit for each
    for scan in scans:
        *components, first, last, precision = scan[1:].rjust(3, b"\0")
        if precision & 0xF == 0:  # the scan has the lowest bits
            for component in components[::2]:
                coefficients[component] = coefficients.get(component, 0) | (2 << last) - (
                    1 << first
                )
    return all(bits == 2**64 - 1 for bits in coefficients.values())


# ---- WebP ------------------------------------------------------------------------------------


def _read_webp(body: bytes) -> Container:
    exif, sizes, is_animated, lossless_bytes = list[bytes](), list[tuple[int, int]](), False, 0
    kept: list[bytes] = []
    for name, content in _webp_chunks(body):
        if name == b"EXIF":
            exif.append(content)
            continue
        if name == b"VP8X":  # without the flags of metadata
            flags = content[0] & (WEBP_ANIMATED | WEBP_ALPHA) if content else 0
            is_animated = bool(flags & WEBP_ANIMATED)
            content = bytes((flags,)) + content[1:]
        if name in WEBP_SIZED:
            sizes.append(_webp_size(name, content))
            _check_size(*sizes[-1], MAX_WEBP_PIXELS)
        if name != b"VP8 ":  # the others may contain lossless data
            lossless_bytes += len(content)
        kept += name, struct.pack("<I", len(content)), content, bytes(len(content) % 2)
    if not sizes:
        raise NotAnImage(UNREADABLE)
    data = b"".join((b"WEBP", *kept))
    data = b"RIFF" + struct.pack("<I", len(data)) + data
    pixels = max(width * height for width, height in sizes)
    groups = min(lossless_bytes / WEBP_GROUP_BYTES, pixels / WEBP_GROUP_PIXELS)
    return Container(
        data,
        *sizes[0],
        _orientation(exif),
        animation=data if is_animated else None,
        needs_subprocess=groups > MAX_WEBP_GROUPS,
    )


def _webp_chunks(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the name and the content of each chunk that matters."""
    start, frames, has_image = 12, 0, False
    end = 8 + int.from_bytes(body[4:8], "little")  # other data may follow
    for _ in range(MAX_PARTS):
        if start + 8 > len(body) or (has_image and start >= end):
            return
        name, length = struct.unpack_from("<4sI", body, start)
        start += 8
        frames += name == b"ANMF"
        if name in WEBP_KEPT and frames <= MAX_FRAMES:
            if start + length > len(body) and name != b"EXIF":
                raise NotAnImage(UNREADABLE)
            yield name, body[start : start + length]
            has_image = True
        start += length + length % 2
    raise NotAnImage(TOO_MANY_PARTS)


def _webp_size(name: bytes, content: bytes) -> tuple[int, int]:
    def number(begin: int, end: int) -> int:
        return int.from_bytes(content[begin:end], "little")

    if name == b"VP8X":
        return number(4, 7) + 1, number(7, 10) + 1
    if name == b"VP8L":
        return (number(1, 5) & 0x3FFF) + 1, (number(1, 5) >> 14 & 0x3FFF) + 1
    return number(6, 8) & 0x3FFF, number(8, 10) & 0x3FFF


# ---- Exif ------------------------------------------------------------------------------------


def _orientation(blocks: Iterable[bytes]) -> int:
    """Return the first orientation in blocks of Exif data, or 1 (upright) if there is none."""
    return next(filter(None, map(_orientation_of_block, blocks)), 1)


def _orientation_of_block(exif: bytes) -> int | None:
    exif = exif.removeprefix(EXIF_PREFIX)
    order = EXIF_ORDERS.get(exif[:4])
    if order is None:
        return None
    try:
        (directory,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, directory)
        for entry in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, type_ = struct.unpack_from(f"{order}HH", exif, entry)
            if tag == EXIF_ORIENTATION and type_ in EXIF_INTEGERS:
                (value,) = struct.unpack_from(order + EXIF_INTEGERS[type_], exif, entry + 8)
                return int(value) if 1 <= value <= 8 else None
    except struct.error:  # the directory ends early
        pass
    return None
