"""Read synthetic photographs of drawings of the test writers: python -m bench.pictures --help.

Prints how many are read, and draws each photograph, its digit in MNIST's format, and the answer.
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from train.__main__ import add_data_options, loading
from train.data import readable_test_drawings
from train.pictures import READABLE, TEST_KINDS, TRAIN_KINDS, make_picture
from train.sources import Drawing, read_drawings
from webapp.errors import BlankImage
from webapp.model import Model
from webapp.preprocess import prepare_with_doubt

KINDS = {"kinds used in training": TRAIN_KINDS, "other kinds": TEST_KINDS}
SPOILED = 0.25  # share of pictures that show several digits, or none that can be read
COLUMNS = 20
RESULTS = {"correct": "green", "uncertain": "darkorange", "blank": "darkorange", "wrong": "red"}


class Answer(NamedTuple):
    """A picture, the digit that the model saw in it, uint8 [28, 28], and how it was answered."""

    image: Image.Image
    pixels: np.ndarray
    result: str  # a key of RESULTS
    caption: str


def main() -> None:
    """Print a table, and save the pictures."""
    parser = argparse.ArgumentParser(prog="python -m bench.pictures", description=__doc__)
    add_data_options(parser)
    parser.add_argument("--count", type=int, default=100, help="of each group (default: 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("artifacts/report/pictures.png"))
    options = parser.parse_args()
    with loading():
        drawings = readable_test_drawings(read_drawings(options.drawings, options.without))
    model = Model(Path("artifacts/digits.onnx"))
    print("| pictures | show | number | " + " | ".join(RESULTS) + " |")
    print("|---|---|" + "--:|" * (1 + len(RESULTS)))
    answers = []
    for group in KINDS:
        by_outcome: dict[str, Counter[str]] = {}
        for number in range(options.count):
            rng = np.random.default_rng((options.seed, number))
            outcome, answer = read_picture(model, drawings, group, rng)
            by_outcome.setdefault(outcome, Counter())[answer.result] += 1
            answers.append(answer)
        for outcome, results in sorted(by_outcome.items()):
            cells = " | ".join(str(results[result]) for result in RESULTS)
            print(f"| {group} | {outcome} | {results.total()} | {cells} |", flush=True)
    plot(answers).savefig(options.output, dpi=60)


def read_picture(
    model: Model, drawings: list[Drawing], group: str, rng: np.random.Generator
) -> tuple[str, Answer]:
    """Return what a picture shows, and the answer. If it is not one digit, any digit is wrong."""
    drawing, *others = (drawings[i] for i in rng.integers(len(drawings), size=3))
    strokes = [other.strokes for other in others]
    image, outcome = make_picture(drawing.strokes, strokes, KINDS[group], SPOILED, rng)
    label = drawing.digit if outcome == READABLE else None
    try:
        pixels, doubt = prepare_with_doubt(image)
    except BlankImage:
        return outcome, Answer(image, np.zeros((28, 28), np.uint8), "blank", "blank")
    prediction = model.classify(pixels)
    doubt = doubt or prediction.doubt
    correct = "correct" if prediction.predicted_digit == label else "wrong"
    caption = doubt or f"{prediction.predicted_digit} ({prediction.confidence:.0%})"
    return outcome, Answer(image, pixels, "uncertain" if doubt else correct, caption)


def plot(answers: list[Answer]) -> Figure:
    """Draw all pictures, each above the digit that the model saw."""
    rows = -(-len(answers) // COLUMNS)
    figure = Figure(figsize=(COLUMNS, 2.1 * rows), layout="constrained")
    plots = figure.subplots(2 * rows, COLUMNS, squeeze=False)
    for axes in plots.flat:
        axes.axis("off")
    for number, (image, pixels, result, caption) in enumerate(answers):
        row, column = divmod(number, COLUMNS)
        plots[2 * row, column].imshow(image)
        plots[2 * row + 1, column].imshow(pixels, cmap="gray_r")
        plots[2 * row + 1, column].set_title(
            caption.replace("_", "\n"), color=RESULTS[result], fontsize="x-small"
        )
    return figure


if __name__ == "__main__":
    main()
