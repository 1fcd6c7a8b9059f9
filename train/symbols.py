"""Templates of symbols and letters that are not digits, drawn with random variations."""

import numpy as np

from train.shapes import curve, line
from train.sources import Points

# Strokes, separated by commas. A stroke is a list of points "xy" on a grid of 10 × 10, y down,
# joined by straight lines, or, after a ~, by a smooth curve.
TRAIN = {
    "triangle": "50 09 99 50",
    "square": "00 90 99 09 00",
    "diamond": "40 85 49 05 40",
    "heart": "~43 20 01 04 49 84 81 60 43",
    "face": "~40 81 94 88 49 18 04 11 40, 33 34, 63 64, ~26 47 66",
    "envelope": "00 90 97 07 00 44 90",
    "tree": "40 05 85 40, 45 49",
    "flag": "00 09, 00 82 04",
    "fish": "~92 53 04 55 97, 92 84 97",
    "stick figure": "~40 62 44 22 40, 44 47, 25 65, 47 29, 47 69",
    "arrow": "05 95, 62 95 68",
    "plus": "50 59, 05 95",
    "times": "00 99, 90 09",
    "equals": "03 93, 06 96",
    "less than": "90 05 99",
    "question mark": "~02 30 80 93 55 56, 58 59",
    "check mark": "05 39 90",
    "euro": "~81 50 13 16 49 88, 04 64, 06 66",
    "A": "09 40 89, 25 65",
    "E": "80 00 09 89, 04 64",
    "F": "70 00 09, 04 54",
    "H": "00 09, 70 79, 04 74",
    "K": "00 09, 70 05 79",
    "L": "00 09 69",
    "M": "09 00 45 80 89",
    "N": "09 00 79 70",
    "P": "00 09, ~00 60 83 64 05",
    "R": "00 09, ~00 60 72 54 04, 34 89",
    "T": "00 90, 40 49",
    "Π": "00 90, 20 29, 70 79",
    "Σ": "90 00 44 09 99",
    "λ": "~10 30 64 89, 43 09",
    "五": "00 90, 40 29, 14 74 79, 09 99",
    "六": "40 42, 03 93, 34 09, 64 99",
}
TEST = {
    "house": "09 04 40 84 89 09",
    "moon": "~50 22 15 38 79, ~79 55 54 51 50",
    "clover": "~34 20 50 43 83 84 55 88 58 47 29 16 34, 47 49",
    "up arrow": "40 49, 13 40 73",
    "hash": "20 19, 60 59, 03 83, 06 86",
    "percent": "80 19, ~20 31 22 11 20, ~67 78 69 58 67",
    "ladder": "20 29, 60 69, 22 62, 24 64, 26 66",
    "minus": "05 95",
    "W": "00 29 43 69 80",
    "Ψ": "~00 04 46 84 80, 40 49",
    "Ж": "00 99, 90 09, 40 49",
    "大": "03 93, ~40 34 09, ~44 66 99",
}


def vary(symbol: str, rng: np.random.Generator) -> list[Points]:
    """Return the strokes of a symbol, with points and proportions that vary a little."""
    width = rng.uniform(0.5, 1.1)
    strokes = []
    for stroke in symbol.split(","):
        path = curve if "~" in stroke else line
        points = [(int(p[0]) / 9 * width, int(p[1]) / 9) for p in stroke.strip(" ~").split()]
        strokes.append(path(rng, *points))
    return strokes
