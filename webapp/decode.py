"""Decode a PNG, JPEG or WebP file.

kornia-rs decodes a common PNG in a sixth of Pillow's time. Pillow decodes everything else.
"""

import io
import time
from contextlib import suppress
from itertools import islice
from typing import Any

import numpy as np
from kornia_rs.io import decode_image_png_u8
from PIL import Image, ImageSequence

from webapp.containers import MAX_FRAMES, UNREADABLE, Container, read_container
from webapp.errors import NotAnImage

FORMATS = ("PNG", "JPEG", "WEBP")
Image.MAX_IMAGE_PIXELS = None  # the limit of read_container replaces Pillow's own

MAX_EDGE_PX = 1_000  # images of at least twice this edge are reduced by a whole number
MIN_CONTRAST = 20  # grey levels between ink and background; the texture of paper has less
MAX_ANIMATED_PIXELS = 8_000_000  # in the frames of an animation with a blank first frame
MAX_ANIMATION_S = 0.3  # seconds of CPU time; one small frame can take a second
KORNIA_MODES = {1: "mono", 3: "rgb", 4: "rgba"}  # by the number of channels
KORNIA_MAX_PIXELS = 1_000_000  # it holds the interpreter lock while it decodes
TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF orientation


def decode(body: bytes) -> Image.Image:
    """Decode a PNG, JPEG or WebP image and rotate it as its EXIF orientation says.

    Large images are reduced. Of an animation, the first frame with ink is decoded.

    Raises NotAnImage or UnsupportedMedia, or TooManyPixels before anything is decoded.
    """
    container = read_container(body)
    try:
        image = _decode_container(container)
    except Exception as exc:  # decoders raise many kinds of errors for a broken file
        raise NotAnImage(UNREADABLE) from exc
    if container.orientation == 1:
        return image
    return image.transpose(TRANSPOSITIONS[container.orientation])


def reduce_large(image: Image.Image) -> Image.Image:
    """Reduce an image whose longer edge is at least twice MAX_EDGE_PX by a whole number."""
    factor = max(image.size) // MAX_EDGE_PX
    return image.reduce(factor) if factor > 1 else image


def _decode_container(container: Container) -> Image.Image:
    image = _decode_plain_png(container) or _decode_with_pillow(container.data)
    if container.with_filler and image != _decode_with_pillow(container.with_filler):
        raise NotAnImage(UNREADABLE)  # pixels are missing
    if container.animation and _is_blank(image):
        return _first_frame_with_ink(container.animation) or image
    return image


def _decode_plain_png(container: Container) -> Image.Image | None:
    """Return the image, or None if Pillow should decode it."""
    mode = KORNIA_MODES.get(container.channels or 0)
    if mode is None or container.width * container.height > KORNIA_MAX_PIXELS:
        return None
    try:
        pixels = decode_image_png_u8(container.data, (container.height, container.width), mode)
    except Exception:  # Pillow also reads some damaged files
        return None
    if mode == "rgba" and pixels.view("<u4").min() >= 0xFF000000:  # all pixels are opaque
        size = container.width, container.height
        return Image.frombuffer("RGBX", size, pixels, "raw", "RGBX", 0, 1)
    return Image.fromarray(pixels[:, :, 0] if mode == "mono" else pixels)


def _decode_with_pillow(data: bytes) -> Image.Image:
    file = Image.open(io.BytesIO(data), formats=FORMATS)
    factor = max(1, max(file.size) // MAX_EDGE_PX)
    width, height = (max(1, side // factor) for side in file.size)
    file.draft(None, (width, height))  # reduces a JPEG
    file.load()
    return reduce_large(_with_8_bits(file))


def _with_8_bits(image: Image.Image) -> Image.Image:
    """Return the image with 8 bits per channel and without a palette."""
    if image.mode.startswith("I"):
        return _grey_from_16_bits(image)
    if image.mode == "1":
        return image.convert("L")
    return image.convert("RGBA") if image.mode == "P" else image


def _grey_from_16_bits(image: Image.Image) -> Image.Image:
    """Return the 8 highest bits of those that are used: some scanners use 8, 10 or 12 of 16.

    Large images are reduced.
    """
    levels = np.asarray(image, np.uint16)
    unused_bits = max(int(levels.max()).bit_length() - 8, 0)
    grey = (levels >> unused_bits).astype(np.uint8)
    if "transparency" not in image.info:
        return reduce_large(Image.fromarray(grey))
    opaque = levels != image.info["transparency"]
    bands = (grey * opaque, opaque * np.uint8(255))
    reduced = [reduce_large(Image.fromarray(band)) for band in bands]
    return Image.merge("La", reduced).convert("LA")  # from grey multiplied by the opacity


def _first_frame_with_ink(data: bytes) -> Image.Image | None:
    """Return the first frame after the first one that is not blank, or None."""
    with suppress(Exception):  # a frame may be broken
        file = Image.open(io.BytesIO(data), formats=FORMATS)
        count = min(MAX_FRAMES, MAX_ANIMATED_PIXELS // (file.width * file.height))
        end = time.thread_time() + MAX_ANIMATION_S
        for frame in islice(ImageSequence.Iterator(file), 1, count):
            if time.thread_time() > end:
                break
            image = reduce_large(_with_8_bits(frame))
            if not _is_blank(image):
                return image
    return None


def _is_blank(image: Image.Image) -> bool:
    """Return whether all pixels have about the same color and opacity."""
    if image.has_transparency_data:
        image = image.convert("RGBA").convert("RGBa")  # multiplied by the opacity
    extrema: Any = [band.getextrema() for band in image.split()]
    return all(high - low < MIN_CONTRAST for low, high in extrema)
