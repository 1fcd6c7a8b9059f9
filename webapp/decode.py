"""Decode a PNG, JPEG or WebP file.

kornia-rs decodes a common PNG in a sixth of Pillow's time. It also decodes 16-bit PNG, because
Pillow reduces colors of 16 bits to 8. Pillow decodes everything else. `python -m webapp.decode`
decodes its standard input with limited memory.
"""

import io
import logging
import math
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from kornia_rs.io import decode_image_png_u8, decode_image_png_u16
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from webapp.containers import MAX_FRAMES, UNREADABLE, Container, read_container
from webapp.errors import Busy, NotAnImage, Problem

log = logging.getLogger("webapp")

FORMATS = ("PNG", "JPEG", "WEBP")
Image.MAX_IMAGE_PIXELS = None  # the limit of read_container replaces Pillow's own

REDUCED_EDGE_PX = 1_000  # images of at least twice this edge are reduced by a whole number
MIN_CONTRAST = 20  # gray levels between ink and background; the texture of paper has less
MAX_ANIMATED_PIXELS = 8_000_000  # in the frames of an animation with a blank first frame
MAX_ANIMATION_S = 0.2  # seconds of CPU time; one small frame can take a second
KORNIA_MODES = {1: "mono", 3: "rgb", 4: "rgba"}  # by the number of channels
KORNIA_MAX_PIXELS = 1_000_000  # with 8 bits; it holds the interpreter lock while it decodes
MAX_SUBPROCESS_BYTES = 240_000_000  # of data; 50 MB are reserved before it decodes
MAX_SUBPROCESS_CPU_S = 2
MAX_SUBPROCESS_S = 20  # of wall-clock time, on a busy machine
UNREADABLE_STATUS = 3  # of a subprocess that cannot decode the file
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

    Raises NotAnImage, UnsupportedMedia or Busy, or TooManyPixels before anything is decoded.
    """
    try:
        container = read_container(body)
        if container.needs_subprocess:
            image = _decode_in_subprocess(container.data)
        else:
            image = _decode_container(container)
    except Problem:
        raise
    except Exception as exc:  # decoders raise many kinds of errors for a broken file
        raise NotAnImage(UNREADABLE) from exc
    if container.orientation == 1:
        return image
    return image.transpose(TRANSPOSITIONS[container.orientation])


def reduce_large(image: Image.Image) -> Image.Image:
    """Reduce an image whose longer edge is at least twice REDUCED_EDGE_PX by a whole number."""
    factor = max(image.size) // REDUCED_EDGE_PX
    return image.reduce(factor) if factor > 1 else image


def _decode_in_subprocess(data: bytes) -> Image.Image:
    """Decode a WebP with limited memory. Raises Busy if the process cannot run."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "webapp.decode"],
            input=data,
            capture_output=True,
            env={"PYTHONPATH": str(Path(__file__).parents[1])},
            timeout=MAX_SUBPROCESS_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.error("cannot run a process to decode an image: %s", error)
        raise Busy from error
    if done.returncode in (UNREADABLE_STATUS, -signal.SIGXCPU):
        raise NotAnImage(UNREADABLE)
    if done.returncode:
        log.error("the process that decodes an image ended with status %d", done.returncode)
        raise Busy
    head, _, pixels = done.stdout.partition(b"\n")
    mode, width, height = head.decode().split()
    return Image.frombytes(mode, (int(width), int(height)), pixels)


def _decode_input() -> None:
    """Decode a WebP from standard input; print mode, width and height, and then the pixels."""
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_SUBPROCESS_BYTES, MAX_SUBPROCESS_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_SUBPROCESS_CPU_S, MAX_SUBPROCESS_CPU_S))
    try:
        image = _decode_container(read_container(sys.stdin.buffer.read()))
    except Exception:
        sys.exit(UNREADABLE_STATUS)
    sys.stdout.buffer.write(f"{image.mode} {image.width} {image.height}\n".encode())
    sys.stdout.buffer.write(image.tobytes())


def _decode_container(container: Container) -> Image.Image:
    image = _decode_with_kornia(container) or _decode_with_pillow(container.data)
    if container.with_filler and image != _decode_with_pillow(container.with_filler):
        raise NotAnImage(UNREADABLE)  # pixels are missing
    if container.animation and _is_blank(image):
        return _first_frame_with_ink(container.animation) or image
    return image


def _decode_with_kornia(container: Container) -> Image.Image | None:
    """Return the image of a common or a 16-bit PNG, or None if Pillow should decode it."""
    mode = KORNIA_MODES.get(container.channels or 0)
    size = container.width, container.height
    if mode is None:
        return None
    if container.depth == 16:
        levels = decode_image_png_u16(container.data, size[::-1], mode)
        return _image_from_16_bits(levels, container.transparent)
    if math.prod(size) > KORNIA_MAX_PIXELS:
        return None
    try:
        pixels = decode_image_png_u8(container.data, size[::-1], mode)
    except Exception:  # Pillow also reads some damaged files
        return None
    if mode == "rgba" and pixels.view("<u4").min() >= 0xFF000000:  # all pixels are opaque
        return Image.frombuffer("RGBX", size, pixels, "raw", "RGBX", 0, 1)
    return Image.fromarray(pixels[:, :, 0] if mode == "mono" else pixels)


def _decode_with_pillow(data: bytes) -> Image.Image:
    file = Image.open(io.BytesIO(data), formats=FORMATS)
    factor = max(1, max(file.size) // REDUCED_EDGE_PX)
    width, height = (max(1, side // factor) for side in file.size)
    file.draft(None, (width, height))  # reduces a JPEG
    file.load()
    return reduce_large(_with_8_bits(file))


def _with_8_bits(image: Image.Image) -> Image.Image:
    """Return the image with 8 bits per channel and without a palette."""
    if image.mode.startswith("I"):
        return _image_from_16_bits(np.array(image, np.uint16)[:, :, np.newaxis])
    if image.mode == "1":
        return image.convert("L")
    return image.convert("RGBA") if image.mode == "P" else image


def _image_from_16_bits(
    levels: NDArray[np.uint16], transparent: tuple[int, ...] = ()
) -> Image.Image:
    """Return the 8 highest bits of those that are used: some cameras use 8, 10 or 12 of 16.

    `levels` is [height, width, channels], and is overwritten. Large images are reduced.
    """
    colors, opacity = levels[:, :, :3], levels[:, :, 3:]
    opaque = (colors != np.array(transparent, np.uint16)).any(2) if transparent else None
    for part in (colors, opacity):
        part >>= max(int(part.max(initial=0)).bit_length() - 8, 0)
    if opacity.size:
        return reduce_large(Image.fromarray(levels.astype(np.uint8)))
    bands = list(np.moveaxis(levels, 2, 0))
    if opaque is not None:
        colors *= opaque[:, :, np.newaxis]
        bands.append(opaque * np.uint16(255))
    mode = {1: "L", 2: "La", 3: "RGB", 4: "RGBa"}[len(bands)]  # a: colors multiplied by opacity
    reduced = [reduce_large(Image.fromarray(band.astype(np.uint8))) for band in bands]
    return Image.merge(mode, reduced).convert(mode.upper())


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


if __name__ == "__main__":
    _decode_input()
