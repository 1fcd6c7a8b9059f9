"""Files that tests decode: PNG, JPEG and WebP, put together from their parts."""

import io
import struct
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from tests.pictures import encoded, seven
from webapp.containers import PNG_SIGNATURE

ImageFile.MAXBLOCK = 1024**2  # progressive files of noise need a large buffer
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


# ---- Valid but unusual files, at random ------------------------------------------------------


def unusual_file(rng: np.random.Generator) -> tuple[bytes, int]:
    """Return a PNG, JPEG or WebP, and the orientation that its Exif data has."""
    match rng.integers(3):
        case 0:
            return unusual_png(rng), 1
        case 1:
            return unusual_jpeg(rng)
        case _:
            return unusual_webp(rng), 1


def unusual_png(rng: np.random.Generator) -> bytes:
    """Return a PNG of random pixels, of any color type, depth and order of chunks."""
    color_type = int(rng.choice([0, 2, 3, 4, 6]))
    depth = int(rng.choice({0: [1, 2, 4, 8, 16], 3: [1, 2, 4, 8]}.get(color_type, [8, 16])))
    width, height = (int(edge) for edge in rng.integers(1, 40, 2))
    interlaced = bool(rng.integers(2))
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color_type]
    data = b""
    for x, y, across, down in ADAM7 if interlaced else [(0, 0, 1, 1)]:
        columns, rows = len(range(x, width, across)), len(range(y, height, down))
        length = (columns * channels * depth + 7) // 8
        lines = range(rows if columns else 0)
        data += b"".join(bytes((rng.integers(5),)) + rng.bytes(length) for _ in lines)
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, interlaced)
    head = [png_chunk(b"IHDR", header), *_metadata(rng)]
    if color_type == 3:
        head += [png_chunk(b"PLTE", rng.bytes(3 * 2**depth)), *_metadata(rng)]
    if color_type in (0, 2, 3) and rng.integers(2):
        transparent = rng.bytes(rng.integers(1, 2**depth + 1))
        if color_type != 3:
            transparent = rng.integers(0, 2**depth, channels).astype(">u2").tobytes()
        head += [png_chunk(b"tRNS", transparent)]
    packed = zlib.compress(data, int(rng.integers(10)))
    size = int(rng.integers(1, len(packed) + 1))
    parts = [png_chunk(b"IDAT", packed[i : i + size]) for i in range(0, len(packed), size)]
    return PNG_SIGNATURE + b"".join((*head, *parts, *_metadata(rng), png_chunk(b"IEND")))


def _metadata(rng: np.random.Generator) -> list[bytes]:
    chunks = [
        png_chunk(b"tEXt", b"comment\0text"),
        png_chunk(b"zTXt", b"comment\0\0" + zlib.compress(b"text")),
        png_chunk(b"tIME", bytes((7, 208, 1, 1, 0, 0, 0))),
        png_chunk(b"pHYs", bytes(9)),
        png_chunk(b"prVt", rng.bytes(9)),
    ]
    return [chunks[i] for i in rng.permutation(len(chunks))[: rng.integers(3)]]


ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)


def unusual_jpeg(rng: np.random.Generator) -> tuple[bytes, int]:
    """Return a JPEG of random pixels, and the orientation that its Exif data has."""
    mode = str(rng.choice(["L", "RGB", "CMYK"]))
    options: dict[str, Any] = {
        "quality": int(rng.integers(5, 101)),
        "progressive": bool(rng.integers(2)),
        "optimize": bool(rng.integers(2)),
        "restart_marker_blocks": int(rng.choice([0, 0, 1, 3])),
        "icc_profile": rng.bytes(rng.choice([0, 100, 70_000])),
    }
    if mode == "RGB":
        options["subsampling"] = int(rng.integers(3))
    file = io.BytesIO()
    _smooth_picture(rng, mode).save(file, "JPEG", **options)
    orientation = int(rng.integers(1, 9))
    order = str(rng.choice(["<", ">"]))
    type_ = int(rng.choice([1, SHORT, LONG, SIGNED_LONG]))
    others = [(IMAGE_WIDTH, SIGNED_LONG, b"\xff" * 4), (RESOLUTION_UNIT, ASCII, b"cm\0\0")]
    entries = [*others[: rng.integers(3)], turned(orientation, type_, order)]
    content = EXIF_PREFIX + exif(entries, order)
    return with_jpeg_segment(0xE1, content, file.getvalue()), orientation


def unusual_webp(rng: np.random.Generator) -> bytes:
    """Return a WebP of random pixels: lossy or lossless, with or without transparency."""
    options: dict[str, Any] = {
        "lossless": bool(rng.integers(2)),
        "quality": int(rng.integers(101)),
        "exact": True,
    }
    options |= {"icc_profile": rng.bytes(rng.choice([0, 100])), "method": int(rng.integers(5))}
    file = io.BytesIO()
    first = _smooth_picture(rng, str(rng.choice(["RGB", "RGBA"])))
    more = [Image.new("RGB", first.size)] * int(rng.integers(2))
    first.save(file, "WEBP", save_all=bool(more), append_images=more, **options)
    return file.getvalue()


def _smooth_picture(rng: np.random.Generator, mode: str) -> Image.Image:
    width, height = (int(edge) for edge in rng.integers(1, 60, 2))
    channels = len(Image.new(mode, (1, 1)).getbands())
    small = rng.integers(0, 256, (3, 3, channels), np.uint8)
    bands = [Image.fromarray(small[:, :, i]).resize((width, height)) for i in range(channels)]
    return Image.merge(mode, bands)


# ---- Hostile files, at random ----------------------------------------------------------------

HOSTILE_SIZES = (0, 1, 2, 3, 28, 255, 4000, 16_383, 65_535, 2**24 - 1, 2**31 - 1, 2**32 - 1)


def hostile_file(rng: np.random.Generator) -> bytes:
    """Return a file with false or excessive counts and sizes of its parts."""
    makers = (_hostile_png, _hostile_jpeg, _hostile_webp, _lossless_webp_with_groups)
    return makers[rng.integers(len(makers))](rng)[: 4 * 1024**2]


def _hostile_png(rng: np.random.Generator) -> bytes:
    names = b"IHDR PLTE tRNS IDAT iCCP zTXt acTL fcTL fdAT eXIf".split()
    width, height = (int(rng.choice(HOSTILE_SIZES)) for _ in range(2))
    kind = bytes((rng.choice([1, 8, 16]), rng.choice([0, 2, 3, 4, 6]), 0, 0, rng.integers(2)))
    header = struct.pack(">II", width, height) + kind
    parts = [PNG_SIGNATURE, png_chunk(b"IHDR", header)]
    for _ in range(rng.integers(1, 8)):
        name = names[rng.integers(len(names))]
        content = zlib.compress(bytes(int(rng.choice([10, 10_000, 3_000_000]))))
        chunk = png_chunk(name, content if rng.integers(2) else rng.bytes(int(rng.integers(40))))
        if not rng.integers(4):
            chunk = int(rng.choice(HOSTILE_SIZES)).to_bytes(4) + chunk[4:]
        parts += [chunk] * int(rng.choice([1, 1, 1, 100, 9000, 300_000 // len(chunk)]))
    return b"".join((*parts, png_chunk(b"IEND")))


def _hostile_jpeg(rng: np.random.Generator) -> bytes:
    body = unusual_jpeg(rng)[0]
    frame = max(body.find(b"\xff\xc0"), body.find(b"\xff\xc2"))
    if rng.integers(2) and frame > 0:
        size = struct.pack(">HH", *(min(int(rng.choice(HOSTILE_SIZES)), 65_535) for _ in range(2)))
        body = body[: frame + 5] + size + body[frame + 9 :]
    if not rng.integers(4) and frame > 0:  # lossless, hierarchical or arithmetic codes
        body = body[: frame + 1] + bytes((rng.integers(0xC0, 0xD0),)) + body[frame + 2 :]
    at = int(rng.integers(2, len(body)))
    head = bytes((0xFF, rng.integers(0xC0, 0xFF), 0, rng.integers(2, 30)))
    segment = head + rng.bytes(int(rng.integers(28)))
    return body[:at] + segment * int(rng.choice([0, 1, 10, 400, 9000])) + body[at:]


def _hostile_webp(rng: np.random.Generator) -> bytes:
    body = bytearray(unusual_webp(rng))
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(12, max(13, min(len(body), 60))))
        body[at : at + 4] = struct.pack("<I", rng.choice(HOSTILE_SIZES))[: rng.integers(1, 5)]
    name = rng.choice([b"ANMF", b"VP8X", b"EXIF", b"junk"])
    chunk = struct.pack("<4sI", name, rng.integers(60)) + rng.bytes(int(rng.integers(60)))
    return bytes(body) + chunk * int(rng.choice([0, 1, 100, 9000]))


def _lossless_webp_with_groups(rng: np.random.Generator) -> bytes:
    edge = int(rng.choice([28, 280, 1024]))
    frame = lossless_webp(edge, int(rng.choice([1, 100, 3000, 65_536])))
    frames = int(rng.choice([0, 0, 2, 9, 99]))
    if not frames:
        return riff_webp(frame)
    size = 2 * (edge - 1).to_bytes(3, "little")
    content = bytes(6) + size + bytes(4) + frame
    head = webp_chunk(b"VP8X", b"\2\0\0\0" + size) + webp_chunk(b"ANIM", bytes(6))
    return riff_webp(head + webp_chunk(b"ANMF", content) * frames)


def webp_chunk(name: bytes, content: bytes) -> bytes:
    """Return a chunk of a WebP."""
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def riff_webp(chunks: bytes) -> bytes:
    """Return a WebP with chunks."""
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def lossless_webp(edge: int, groups: int) -> bytes:
    """Return a VP8L chunk of a black square with a number of groups of prefix codes.

    Each 4 x 4 pixels use the next group; each code has one symbol. See RFC 9649, section 3.
    """

    def bits(value: int, count: int) -> list[int]:
        return [value >> i & 1 for i in range(count)]

    one_symbol = [1, 0, 0, 0]
    all_symbols = [0, *bits(8, 4)]  # a code of 256 symbols with 8 bits each
    for length in (17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8):
        all_symbols += bits(int(length == 8), 3)
    all_symbols += [1, *bits(3, 3), *bits(254, 8)]
    group = np.arange((-(-edge // 4)) ** 2) % groups
    byte = np.arange(7, -1, -1)  # codes begin with their highest bit
    indices = np.concatenate([group[:, None] >> byte, group[:, None] >> 8 + byte], 1) & 1
    start = [*bits(0x2F, 8), *bits(edge - 1, 14), *bits(edge - 1, 14), *bits(0, 1 + 3 + 2)]
    codes = [*all_symbols, *all_symbols, *one_symbol * 3]
    used = int(group.max()) + 1
    parts = (start, [1, 0, 0, 0, 0], codes, indices.ravel(), one_symbol * 5 * used, [0] * 64)
    stream = np.concatenate([np.asarray(part, np.uint8) for part in parts])
    return webp_chunk(b"VP8L", np.packbits(stream, bitorder="little").tobytes())
