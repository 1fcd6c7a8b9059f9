"""The work itself, without HTTP and without a record: python -m bench.work FOLDER SECONDS [WAY].

Decodes and prepares the pictures of FOLDER in turn, runs the network on each, and prints as JSON
what that took. WAY is `own`, or `usual`: what is usually written for the same network.
"""

import io
import json
import sys
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import numpy as np
import onnxruntime as ort
import psutil
from PIL import Image

from webapp.classifier import INPUT, Classifier
from webapp.preprocess import decode, prepare

GRAPH = Path(__file__).parent.parent / "artifacts" / "digits.onnx"


def main() -> None:
    """Work for some seconds."""
    folder, seconds, way = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
    bodies = [path.read_bytes() for path in sorted(folder.iterdir())]
    answer = {"own": _own, "usual": _usual}[way]()
    answer(bodies[0])
    first_at = time.time()
    process, took = psutil.Process(), list[float]()
    cpu = sum(process.cpu_times()[:2])
    for body in cycle(bodies):
        began = time.perf_counter()
        answer(body)
        took.append(time.perf_counter() - began)
        if time.time() > first_at + seconds:
            break
    p50, p99 = 1000 * np.quantile(took, (0.5, 0.99))
    figures = {
        "first_at": first_at,
        "requests": len(took),
        "cpu_s": sum(process.cpu_times()[:2]) - cpu,
        "p50_ms": p50,
        "p99_ms": p99,
        "pss_mb": process.memory_full_info().pss / 1e6,
    }
    print(json.dumps(figures))


def _own() -> Callable[[bytes], object]:
    classifier = Classifier(GRAPH)
    return lambda body: classifier.classify(prepare(decode(body)))


def _usual() -> Callable[[bytes], object]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(GRAPH, options)

    def answer(body: bytes) -> object:
        grey = np.asarray(Image.open(io.BytesIO(body)).convert("RGBA").convert("L"))
        rows, columns = np.flatnonzero(grey.any(axis=1)), np.flatnonzero(grey.any(axis=0))
        box = grey[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        scale = 20 / max(box.shape)
        size = max(1, round(box.shape[1] * scale)), max(1, round(box.shape[0] * scale))
        small = np.asarray(Image.fromarray(box).resize(size, Image.Resampling.BILINEAR))
        y, x = np.indices(small.shape)
        top = round(14 - (y * small).sum() / small.sum())
        left = round(14 - (x * small).sum() / small.sum())
        top, left = min(max(top, 0), 28 - size[1]), min(max(left, 0), 28 - size[0])
        field = np.zeros((1, 28, 28), np.uint8)
        field[0, top : top + size[1], left : left + size[0]] = small
        return session.run(None, {INPUT[0]: field})

    return answer


if __name__ == "__main__":
    main()
