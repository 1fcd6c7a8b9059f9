"""Which pictures are read, and which are refused."""

import io
import struct
import zlib
from collections import Counter
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.corpus import (
    ASCII,
    EXIF_PREFIX,
    IMAGE_WIDTH,
    JPEG,
    RESOLUTION_UNIT,
    SIGNED_LONG,
    animated,
    exif,
    hostile_file,
    lossless_webp,
    png_chunk,
    riff_webp,
    turned,
    unusual_file,
    with_jpeg_segment,
    with_png_chunks,
)
from tests.pictures import encoded, seven
from tests.test_preprocess import same
from webapp.containers import JPEG_END, PNG_SIGNATURE, read_container
from webapp.decode import TRANSPOSITIONS, decode
from webapp.errors import BlankImage, Busy, NotAnImage, Problem, TooManyPixels, UnsupportedMedia
from webapp.preprocess import prepare
from webapp.requests import is_small_image

COMPRESSED = zlib.compress(bytes(2_000_000))
ICC = b"profile\0\0" + COMPRESSED
FRAMES = [Image.new("RGB", (280, 280)), seven().convert("RGB"), Image.new("RGB", (280, 280), "red")]
QUARTER_TURN = seven().rotate(90)
JPEG_SIZE = struct.pack(">HH", 280, 280)


def png_header(width: int, height: int, depth: int, color_type: int) -> bytes:
    """Return the beginning of a PNG."""
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    return PNG_SIGNATURE + png_chunk(b"IHDR", header)


def png(samples: NDArray[Any], depth: int, *chunks: bytes) -> bytes:
    """Return a PNG of samples, [height, width, channels], with chunks before the pixels."""
    height, width, channels = samples.shape
    bits = samples.reshape(height, -1)[:, :, np.newaxis] >> np.arange(depth)[::-1] & 1
    lines = np.packbits(bits.reshape(height, -1).astype(bool), axis=1)
    packed = zlib.compress(b"".join(b"\0" + line.tobytes() for line in lines))
    head = png_header(width, height, depth, {1: 0, 3: 2, 4: 6}[channels])
    return b"".join((head, *chunks, png_chunk(b"IDAT", packed), png_chunk(b"IEND")))


def webp_header(width: int, height: int) -> bytes:
    """Return the beginning of a WebP."""
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + size


# ---- What pixels do not need -----------------------------------------------------------------


@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"iTXt", b"comment\0\1\0\0\0" + COMPRESSED),
        png_chunk(b"zTXt", b"comment\0\0" + COMPRESSED),
        png_chunk(b"iCCP", ICC),
        png_chunk(b"iCCP", b"broken"),
        png_chunk(b"eXIf", b"II*\0"),
        png_chunk(b"eXIf", exif([turned(6)])[:14]),
        png_chunk(b"tEXt", b"comment\0wrong checksum", checksum=7),
        png_chunk(b"tRNS", b"\0\0", checksum=7),
        png_chunk(b"tRNS", bytes(300)),
        png_chunk(b"acTL", b"broken"),
    ],
    ids=["iTXt", "zTXt", "iCCP", "no ICC", "eXIf", "cut", "tEXt", "tRNS", "long", "acTL"],
)
def test_png_is_read_whatever_its_metadata(chunk: bytes) -> None:
    for picture in (seven(), seven().convert("P")):  # two decoders read them
        assert same(prepare(decode(with_png_chunks([chunk], encoded(picture)))))


@pytest.mark.parametrize("name", [b"iCCP", b"zTXt", b"juNK"])
def test_thousands_of_chunks_do_not_reach_a_decoder(name: bytes) -> None:
    body = with_png_chunks([png_chunk(name, ICC)] * 1900)
    assert len(body) > 3_000_000
    assert read_container(body).data == read_container(with_png_chunks([])).data
    assert same(prepare(decode(body)))


@pytest.mark.parametrize(
    "body",
    [
        with_png_chunks([png_chunk(b"juNK")] * 10_000),
        JPEG[:2] + b"\xff\xfe\0\2" * 10_000 + JPEG[2:],
        b"RIFF\0\0\0\0WEBP" + b"junk\0\0\0\0" * 10_000 + encoded(seven(), "WEBP")[12:],
    ],
    ids=["png", "jpeg", "webp"],
)
def test_file_of_too_many_parts_is_rejected(body: bytes) -> None:
    with pytest.raises(NotAnImage, match="too many parts"):
        decode(body)


@pytest.mark.parametrize(("scans", "end"), [(501, JPEG_END), (30, JPEG_END), (15, b"")])
def test_jpeg_with_too_many_scans_is_rejected(scans: int, end: bytes) -> None:
    large = encoded(Image.new("L", (4000, 4000)), "JPEG") if scans < 500 else JPEG
    with pytest.raises(NotAnImage, match="too many scans"):
        decode(large[:-2] + b"\xff\xda\0\x08\1\1\0\1\x3f\0" * scans + end)


@pytest.mark.parametrize("marker", [0xC3, 0xC9, 0xCC])
def test_jpeg_of_unusual_coding_is_rejected(marker: int) -> None:
    with pytest.raises(NotAnImage, match="unusual coding"):
        decode(JPEG.replace(b"\xff\xc0", bytes((0xFF, marker))))


# ---- Orientation -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entries",
    [
        [turned(6), (RESOLUTION_UNIT, ASCII, b"cm\0\0")],
        [(IMAGE_WIDTH, SIGNED_LONG, b"\xff\xff\xff\xff"), turned(6)],
        [(IMAGE_WIDTH, 99, b"\xff\xff\xff\xff"), turned(6)],
    ],
    ids=["text as a unit", "negative width", "unknown type"],
)
def test_picture_is_turned_upright_whatever_else_its_exif_has(
    entries: list[tuple[int, int, bytes]],
) -> None:
    content = exif(entries)
    jpeg = with_jpeg_segment(0xE1, EXIF_PREFIX + content, encoded(QUARTER_TURN, "JPEG"))
    png = with_png_chunks([png_chunk(b"eXIf", content)], encoded(QUARTER_TURN))
    for body, upright in ((jpeg, JPEG), (png, encoded(seven()))):
        difference = prepare(decode(body)).astype(int) - prepare(decode(upright))
        assert np.abs(difference).mean() < 1


@pytest.mark.parametrize("format_", ["PNG", "JPEG"])
def test_first_orientation_in_several_exif_blocks_applies(format_: str) -> None:
    body = encoded(QUARTER_TURN, format_)
    for entries in ([turned(3)], [turned(6)], [turned(0)], [(IMAGE_WIDTH, SIGNED_LONG, bytes(4))]):
        content = exif(entries)  # each is written before the others
        if format_ == "PNG":
            body = with_png_chunks([png_chunk(b"eXIf", content)], body)
        else:
            body = with_jpeg_segment(0xE1, EXIF_PREFIX + content, body)
    assert same(prepare(decode(body)), prepare(decode(encoded(seven(), format_))), levels=60)


@pytest.mark.parametrize("orientation", [0, 9])
def test_unknown_orientation_means_upright(orientation: int) -> None:
    body = with_png_chunks([png_chunk(b"eXIf", exif([turned(orientation)]))])
    assert same(prepare(decode(body)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP"])
def test_orientation_is_applied_as_pillow_applies_it(format_: str, orientation: int) -> None:
    from PIL import ImageOps

    content = Image.Exif()
    content[0x0112] = orientation
    body = io.BytesIO()
    seven().crop((0, 0, 280, 250)).convert("RGB").save(body, format_, exif=content)
    expected = ImageOps.exif_transpose(Image.open(body)).convert("RGB")
    assert decode(body.getvalue()).convert("RGB").tobytes() == expected.tobytes()


# ---- Pixels ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_levels_of_a_16_bit_picture_may_use_fewer_bits(bits: int) -> None:
    levels = np.asarray(seven()).astype(int) * (2**bits - 1) // 255
    body = encoded(Image.fromarray(levels.astype(np.uint16)))
    assert same(prepare(decode(body)), levels=3)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_colors_of_16_bits_may_use_fewer_bits(bits: int, channels: int) -> None:
    gray = np.asarray(seven()).astype(int) * (2**bits - 1) // 255
    opaque = np.full_like(gray, 2**16 - 1)
    samples = np.stack([gray, gray, gray, opaque][:channels], 2)
    assert same(prepare(decode(png(samples, 16))), levels=3)


@pytest.mark.parametrize(
    ("depth", "channels"), [(1, 1), (2, 1), (4, 1), (8, 1), (16, 1), (8, 3), (16, 3)]
)
def test_transparent_color_of_a_png_is_applied(depth: int, channels: int) -> None:
    ink = np.asarray(seven()) > 127
    samples = np.where(ink, 0, 1)[:, :, np.newaxis].repeat(channels, 2)
    transparent = png_chunk(b"tRNS", b"\0\1" * channels)
    image = decode(png(samples, depth, transparent)).convert("RGBA")
    assert np.array_equal(np.asarray(image)[:, :, 3] > 0, ink)


def test_transparent_color_does_not_blur_into_the_ink_of_a_large_picture() -> None:
    levels = np.full((3000, 3000), 65_535, np.uint16)
    levels[500:2500, 1500] = 0
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "PNG", transparency=65_535)
    gray, opacity = np.moveaxis(np.asarray(decode(file.getvalue())), 2, 0)
    assert opacity.any()
    assert not gray[opacity > 0].any()


def test_lossless_webp_is_decoded_with_limited_memory() -> None:
    large = decode(riff_webp(lossless_webp(1024, 8_192)))  # groups of prefix codes
    assert large.getextrema() == ((0, 0), (0, 0), (0, 0))
    with pytest.raises(NotAnImage):
        decode(riff_webp(lossless_webp(1024, 65_536)))


@pytest.mark.parametrize("program", ["/absent", "/bin/false"])
def test_file_is_not_blamed_if_no_process_can_decode_it(
    program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", program)
    with pytest.raises(Busy):
        decode(riff_webp(lossless_webp(1024, 1)))


def test_large_lossless_webp_has_the_same_pixels() -> None:
    rng = np.random.default_rng(0)
    expected = Image.fromarray(rng.integers(0, 256, (300, 300, 4), np.uint8))
    file = io.BytesIO()
    expected.save(file, "WEBP", lossless=True, exact=True)
    assert read_container(file.getvalue()).needs_subprocess
    assert decode(file.getvalue()).tobytes() == expected.tobytes()


def test_webp_may_be_followed_by_other_data() -> None:
    body = encoded(seven().convert("RGB"), "WEBP")
    assert decode(body + bytes(100_000)).tobytes() == decode(body).tobytes()


def test_png_with_a_damaged_pixel_is_rejected() -> None:
    body = bytearray(encoded(seven().convert("RGBA")))
    body[body.index(b"IDAT") + 66] ^= 4
    with pytest.raises(NotAnImage):
        decode(bytes(body))


@pytest.mark.parametrize("lossless", [False, True])
def test_webp_that_ends_early_is_rejected(lossless: bool) -> None:
    file = io.BytesIO()
    seven().convert("RGB").save(file, "WEBP", lossless=lossless)
    for missing in range(2, 9):  # the last byte may be padding
        with pytest.raises(NotAnImage):
            decode(file.getvalue()[:-missing])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_damaged_png_of_16_bits_is_rejected(channels: int) -> None:
    gray = np.asarray(seven()).astype(int)[:, :, np.newaxis]
    body = png(gray.repeat(channels, 2), 16)
    with pytest.raises(NotAnImage):
        decode(body[:-20] + bytes(8) + body[-12:])


@pytest.mark.parametrize(("depth", "color_type"), [(16, 3), (0, 0), (4, 2), (2, 4), (3, 0)])
def test_png_of_an_invalid_type_is_rejected(depth: int, color_type: int) -> None:
    chunks = (b"PLTE", bytes(9)), (b"tRNS", b"\0"), (b"IDAT", zlib.compress(bytes(99)))
    body = b"".join(png_chunk(*each) for each in (*chunks, (b"IEND", b"")))
    with pytest.raises(NotAnImage):
        decode(png_header(3, 3, depth, color_type) + body)


@pytest.mark.parametrize("format_", ["PNG", "WEBP"])
def test_first_frame_with_ink_is_read(format_: str) -> None:
    assert same(prepare(decode(animated(format_, FRAMES))))


def test_animation_is_not_queued_with_small_pictures() -> None:
    assert is_small_image(encoded(seven()))
    assert not is_small_image(animated("PNG", FRAMES))


@pytest.mark.parametrize("format_", ["PNG", "WEBP"])
def test_large_animation_is_not_searched_for_ink(
    format_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.decode.MAX_ANIMATED_PIXELS", 2 * 280 * 280 - 1)
    with pytest.raises(BlankImage):
        prepare(decode(animated(format_, FRAMES)))


@pytest.mark.parametrize("format_", ["PNG", "WEBP"])
def test_animation_is_searched_for_ink_for_a_limited_time(
    format_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.decode.MAX_ANIMATION_S", 0)
    with pytest.raises(BlankImage):
        prepare(decode(animated(format_, FRAMES)))


@pytest.mark.parametrize("format_", ["PNG", "WEBP"])
def test_animation_without_ink_is_blank(format_: str) -> None:
    with pytest.raises(BlankImage):
        prepare(decode(animated(format_, [FRAMES[0], FRAMES[2]])))


def test_later_frames_do_not_matter() -> None:
    body = animated("PNG", [FRAMES[1], FRAMES[0]])
    assert same(prepare(decode(body.replace(b"fdAT", b"fdAX"))))


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("restart", [0, 1])
def test_jpeg_may_lack_its_end_marker_but_no_pixels(progressive: bool, restart: int) -> None:
    file = io.BytesIO()
    seven().save(file, "JPEG", progressive=progressive, restart_marker_rows=restart)
    body = file.getvalue()
    expected = decode(body).tobytes()
    for missing in (1, 2):
        assert decode(body[:-missing]).tobytes() == expected
    assert decode(body[:-2] + b"\xff\xfe\0\x09cut").tobytes() == expected
    for length in range(0, len(body) - 12, 7):
        with pytest.raises(NotAnImage):
            decode(body[:length])


@pytest.mark.parametrize(
    ("format_", "size"),
    [("JPEG", (4800, 3300)), ("PNG", (4800, 3300)), ("WEBP", (3600, 2500))],
)
def test_photograph_of_many_megapixels_is_reduced(format_: str, size: tuple[int, int]) -> None:
    photo = Image.new("RGB", size, (250, 250, 250))
    photo.paste((20, 20, 20), (1000, 400), seven(2000))
    image = decode(encoded(photo, format_))
    assert 1000 <= image.width < 2000
    assert np.abs(prepare(image).astype(int) - prepare(seven())).mean() < 3


def test_common_png_is_decoded_by_kornia() -> None:
    assert decode(encoded(seven().convert("RGBA"))).mode == "RGBX"  # Pillow returns RGBA


def test_picture_of_the_largest_size_is_read() -> None:
    picture = seven(4000).convert("1", dither=Image.Dither.NONE)
    assert np.abs(prepare(decode(encoded(picture))).astype(int) - prepare(seven())).mean() < 3


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (png_header(4001, 4000, 1, 0), "more than 16 million pixels"),
        (png_header(2**31 - 1, 2**31 - 1, 1, 0), "more than 16 million pixels"),
        (png_header(1, 65_536, 1, 0), "longer than 65,535 pixels"),
        (png_header(3000, 3000, 16, 6), "too much memory"),
        (JPEG.replace(JPEG_SIZE, struct.pack(">HH", 4001, 4000)), "more than 16 million pixels"),
        (webp_header(3001, 3000), "more than 9 million pixels"),
    ],
)
def test_huge_picture_is_rejected(body: bytes, message: str) -> None:
    with pytest.raises(TooManyPixels, match=message):
        read_container(body)


# ---- Other formats ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
        ("HEIC", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic"),
        ("AVIF", b"\0\0\0\x1cftypavif\0\0\0\0avifmif1"),
        ("AVIF", b"\0\0\0\x20ftypmif1\0\0\0\0mif1miafavif"),
        ("SVG", b'<svg xmlns="http://www.w3.org/2000/svg"/>'),
        ("SVG", b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- 7 -->\n<svg/>'),
        ("PDF", b"%PDF-1.7\n"),
        ("GIF", encoded(seven(), "GIF")),
        ("BMP", encoded(seven(), "BMP")),
        ("TIFF", encoded(seven(), "TIFF")),
        ("JPEG XL", b"\xff\x0a\0\0"),
    ],
)
def test_other_format_is_named_with_advice(name: str, body: bytes) -> None:
    with pytest.raises(UnsupportedMedia, match=f"^{name} files are not supported. Save the"):
        decode(body)


@pytest.mark.parametrize(
    "body",
    [b"", b"seven", encoded(seven())[:-200], encoded(seven())[:20], JPEG[:2], b"RIFF\0\0\0\0WEBP"],
    ids=["empty", "text", "truncated", "png", "jpeg", "webp"],
)
def test_body_that_is_not_an_image_is_rejected(body: bytes) -> None:
    with pytest.raises(NotAnImage):
        decode(body)


# ---- Generated files -------------------------------------------------------------------------


def read_with_opencv(body: bytes) -> NDArray[np.uint8]:
    """Return what OpenCV reads, [height, width, 4]: red, green, blue, opacity."""
    pixels: Any = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)
    pixels = pixels >> 8 if pixels.dtype == np.uint16 else pixels
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    order = {1: cv2.COLOR_GRAY2RGBA, 3: cv2.COLOR_BGR2RGBA, 4: cv2.COLOR_BGRA2RGBA}[channels]
    return np.asarray(cv2.cvtColor(pixels.astype(np.uint8), order), np.uint8)


def test_unusual_files_are_read_as_opencv_reads_them(pytestconfig: pytest.Config) -> None:
    for seed in range(pytestconfig.getoption("--files")):
        rng = np.random.default_rng(seed)
        body, orientation = unusual_file(rng)
        expected = Image.fromarray(read_with_opencv(body))
        if orientation > 1:
            expected = expected.transpose(TRANSPOSITIONS[orientation])
        difference = np.abs(np.asarray(decode(body).convert("RGBA")).astype(int) - expected)
        difference[np.asarray(expected)[:, :, 3] == 0] = 0
        # OpenCV ignores the transparent level of a gray PNG, and rounds CMYK in another way.
        color = difference[:, :, :3] if is_gray_png(body) else difference
        assert color.max() <= 3 * (body[:2] == JPEG[:2]), seed


def is_gray_png(body: bytes) -> bool:
    """Say whether the body is a gray PNG without a channel for opacity."""
    return body[:4] == b"\x89PNG" and body[25] == 0


def test_hostile_files_are_read_or_rejected(pytestconfig: pytest.Config) -> None:
    outcomes = Counter[int]()
    for seed in range(pytestconfig.getoption("--files")):
        try:
            prepare(decode(hostile_file(np.random.default_rng(seed))))
            outcomes[201] += 1
        except Problem as problem:
            outcomes[problem.status] += 1
    assert outcomes.keys() == {201, 400, 422}


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("size", [(1, 1), (2, 3000), (16_000, 3)])
def test_thin_picture_is_decoded(size: tuple[int, int], file_format: str) -> None:
    assert min(decode(encoded(Image.new("L", size, 9), file_format)).size) >= 1


@pytest.mark.parametrize("name", [b"IHDR", b"PLTE"])
def test_png_chunk_that_decides_pixels_has_to_be_intact(name: bytes) -> None:
    picture = seven().convert("P") if name == b"PLTE" else seven()
    body = bytearray(encoded(picture))
    body[body.index(name) + 5] ^= 1
    with pytest.raises(NotAnImage):
        read_container(bytes(body))


def test_png_header_after_the_pixels_is_dropped() -> None:
    body = encoded(seven())
    end = body.rindex(b"IEND") - 4
    other = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 0, 0, 0, 0))
    palette = png_chunk(b"PLTE", bytes(3))
    container = read_container(body[:end] + other + palette + body[end:])
    assert container == read_container(body)


def test_only_the_first_frames_of_a_webp_animation_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frames = [Image.new("RGB", (9, 9), (20 * i, 0, 0)) for i in range(9)]
    monkeypatch.setattr("webapp.containers.MAX_FRAMES", 4)
    animation = read_container(animated("WEBP", frames)).animation
    assert animation
    assert animation.count(b"ANMF") == 4
