"""Pictures that tests post."""

import io
import os
import time

import numpy as np
from PIL import Image, ImageDraw

SEVEN_POINTS = ((0.25, 0.2), (0.75, 0.2), (0.45, 0.8))  # in units of the canvas' edge


def seven(edge: int = 280, pen: float = 0.07) -> Image.Image:
    """Return a 7, ink 255 on 0, mode L."""
    fine = Image.new("L", (4 * edge, 4 * edge))
    points = [(4 * edge * x, 4 * edge * y) for x, y in SEVEN_POINTS]
    ImageDraw.Draw(fine).line(points, fill=255, width=round(4 * edge * pen), joint="curve")
    return fine.reduce(4)


def encoded(picture: Image.Image, format_: str = "PNG") -> bytes:
    """Return the picture as a file's bytes."""
    body = io.BytesIO()
    picture.save(body, format_)
    return body.getvalue()


def draw_slowly(rng: np.random.Generator, canvas_px: int) -> Image.Image:
    """Name the process that draws, and return a black canvas."""
    with open(os.environ["DRAWING_PROCESSES"], "a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(0.1)
    return Image.new("L", (canvas_px, canvas_px))
